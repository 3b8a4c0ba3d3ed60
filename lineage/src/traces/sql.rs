//! The tables that a statement names. Instrumentations seldom name them in an attribute, but nearly all send the statement.
//!
//! Not a parser: the words after FROM, JOIN, INTO, UPDATE and TABLE, without those that WITH has defined. Quoted text and comments
//! are passed over. Nothing of the statement is kept.

use smallvec::SmallVec;

/// Tables of a statement that are looked at.
pub(crate) const MAX_TABLES: usize = 8;

/// Tables that a statement names.
pub(crate) type Tables<'a> = SmallVec<[Table<'a>; 4]>;

/// A table in a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table<'a> {
    /// As it is written, with schema and quotes.
    pub name: &'a str,
    /// The statement changes it.
    pub written: bool,
}

/// The tables of a statement in the order of their first mention.
pub(crate) fn tables(statement: &str) -> Tables<'_> {
    let mut found = Tables::new();
    let mut defined: SmallVec<[&str; 4]> = SmallVec::new();
    let (mut words, mut before, mut second) = (Words(statement), "", "");
    let mut more = false;
    while let Some(word) = words.next() {
        let is = |other: &str| word.eq_ignore_ascii_case(other);
        let after = |other: &str| before.eq_ignore_ascii_case(other);
        if is("AS") && words.peek() == Some("(") {
            defined.push(before);
        }
        let reads = after("FROM") || after("JOIN") || more;
        let writes = after("INTO") || after("UPDATE") || after("TABLE") || (after("FROM") && second.eq_ignore_ascii_case("DELETE"));
        more = false;
        let qualifies = ["ONLY", "IF", "NOT", "EXISTS", "LATERAL", "OF", "SKIP", "NOWAIT", "SET"].iter().any(|q| is(q));
        if qualifies && (reads || writes) && (is("ONLY") || is("IF")) {
            // Stands between the word that leads to a table and the table.
            while words.peek().is_some_and(|w| w.eq_ignore_ascii_case("NOT") || w.eq_ignore_ascii_case("EXISTS")) {
                words.next();
            }
            continue;
        }
        if (reads || writes) && is_name(word) && !qualifies && words.peek() != Some("(") || writes && is_name(word) && !qualifies {
            let table = Table { name: word, written: writes };
            match found.iter().position(|t| t.name == word) {
                Some(known) => found[known].written |= writes,
                None if found.len() < MAX_TABLES => found.push(table),
                None => {}
            }
            more = reads && !writes && continues(&mut words);
        }
        (second, before) = (before, word);
    }
    found.retain(|t| !defined.iter().any(|d| d.eq_ignore_ascii_case(t.name)));
    found
}

/// Passes over an alias and the comma after it, as in `FROM a x, b`.
fn continues(words: &mut Words<'_>) -> bool {
    let mut ahead = Words(words.0);
    let mut next = ahead.next();
    if next.is_some_and(|w| w.eq_ignore_ascii_case("AS")) {
        next = ahead.next();
    }
    if next.is_some_and(is_name) {
        next = ahead.next();
    }
    if next == Some(",") {
        words.0 = ahead.0;
        return true;
    }
    false
}

/// Whether a word can be the name of a table.
fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || matches!(c, '_' | '"' | '`' | '['))
}

/// Words and single other characters, without spaces, comments and quoted text.
#[derive(Clone, Copy)]
struct Words<'a>(&'a str);

impl<'a> Words<'a> {
    fn peek(&self) -> Option<&'a str> {
        Words(self.0).next()
    }

    fn skip(&mut self) {
        loop {
            let text = self.0.trim_start();
            self.0 = if let Some(comment) = text.strip_prefix("--") {
                comment.split_once('\n').map_or("", |(_, rest)| rest)
            } else if let Some(comment) = text.strip_prefix("/*") {
                comment.split_once("*/").map_or("", |(_, rest)| rest)
            } else if let Some(quoted) = text.strip_prefix('\'') {
                quoted.split_once('\'').map_or("", |(_, rest)| rest)
            } else {
                self.0 = text;
                return;
            };
        }
    }
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.skip();
        let text = self.0;
        let first = text.chars().next()?;
        let inner = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '$' | '"' | '`' | '[' | ']' | '-');
        let begins = |c: char| c.is_alphanumeric() || matches!(c, '_' | '"' | '`' | '[');
        let len = if begins(first) { text.find(|c| !inner(c)).unwrap_or(text.len()) } else { first.len_utf8() };
        self.0 = &text[len..];
        Some(&text[..len])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tables_are_found_where_they_are_named() {
        for (statement, expected) in [
            ("SELECT * FROM orders", "orders"),
            ("select a from shop.orders o, items AS i where x = 'from lies' -- from comments", "shop.orders items"),
            ("SELECT * FROM a JOIN b ON a.x = b.x LEFT JOIN \"C\" c USING (x)", "a b \"C\""),
            ("INSERT INTO public.orders (a, b) VALUES ($1, $2)", "public.orders!"),
            ("UPDATE orders SET a = 1 WHERE b IN (SELECT c FROM items)", "orders! items"),
            ("DELETE FROM ONLY carts WHERE x", "carts!"),
            ("WITH recent AS (SELECT * FROM orders) SELECT * FROM recent JOIN users ON 1=1", "orders users"),
            ("INSERT INTO archive SELECT * FROM orders", "archive! orders"),
            ("CREATE TABLE IF NOT EXISTS t (x int)", "t!"),
            ("SELECT * FROM generate_series(1, 5)", ""),
            ("SELECT EXTRACT(year FROM $1)", ""),
            ("SELECT 1 FOR UPDATE", ""),
            ("SELECT * FROM a FOR UPDATE SKIP LOCKED", "a"),
            ("BEGIN", ""),
            ("SELECT * FROM (SELECT * FROM `db`.`t`) x", "`db`.`t`"),
            ("/* FROM x */ TRUNCATE TABLE y", "y!"),
            ("", ""),
        ] {
            let found: Vec<String> = tables(statement).iter().map(|t| format!("{}{}", t.name, if t.written { "!" } else { "" })).collect();
            assert_eq!(found.join(" "), expected, "{statement}");
        }
    }

    proptest! {
        #[test]
        fn no_statement_panics(statement in "[a-zA-Z'\"/*.,() -]{0,80}|(SELECT|FROM|,|AS|\\(|WITH|a|ONLY| ){0,30}|.{0,60}") {
            prop_assert!(tables(&statement).len() <= MAX_TABLES);
        }
    }
}
