//! Series selectors between text and matchers, for the configuration and the admin API.

use isobar_block::{MatchOp, Matcher};
use isobar_query::promql::parse_selector;
use isobar_query::promql::quote::{is_plain_label, quote};

/// Reads a selector such as `{team="x"}` or `up{job="a"}`.
///
/// # Errors
/// What is wrong with the text; also that it would select everything, which nobody deletes by accident.
pub fn parse(text: &str) -> Result<Vec<Matcher>, String> {
    let selector = parse_selector(text).map_err(|e| e.to_string())?;
    if selector.matchers.iter().all(Matcher::matches_empty) {
        return Err(format!("{} must contain at least one non-empty matcher", quote(text)));
    }
    Ok(selector.matchers)
}

/// Writes matchers as [`parse`] reads them.
pub fn show(matchers: &[Matcher]) -> String {
    let conditions = matchers.iter().map(|matcher| {
        let op = match matcher.op() {
            MatchOp::Equal => "=",
            MatchOp::NotEqual => "!=",
            MatchOp::Regex => "=~",
            MatchOp::NotRegex => "!~",
        };
        condition(matcher.name(), op, matcher.value())
    });
    braces(conditions)
}

/// Writes name, operator and value of each condition as a selector.
pub fn braces(conditions: impl Iterator<Item = String>) -> String {
    format!("{{{}}}", conditions.collect::<Vec<_>>().join(","))
}

/// One condition of a selector.
pub fn condition(name: &str, op: &str, value: &str) -> String {
    let name = if is_plain_label(name) { name.to_owned() } else { quote(name) };
    format!("{name}{op}{}", quote(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_reads_the_same() {
        for (text, expected) in [
            ("{team=\"x\"}", "{team=\"x\"}"),
            ("up{job!=\"a\\\"b\"}", "{__name__=\"up\",job!=\"a\\\"b\"}"),
            ("{\"my.label\"=~\"a|b\", x!~\"c\"}", "{\"my.label\"=~\"a|b\",x!~\"c\"}"),
        ] {
            let matchers = parse(text).expect("is a selector");
            let shown = show(&matchers);
            let sorted = |text: &str| {
                let mut parts: Vec<String> = text.trim_matches(['{', '}']).split(',').map(str::to_owned).collect();
                parts.sort();
                parts
            };
            assert_eq!(sorted(&shown), sorted(expected));
            assert_eq!(parse(&shown).expect("is a selector").len(), matchers.len());
        }
    }

    #[test]
    fn refuses_what_selects_everything_or_nothing() {
        for (text, part) in
            [("{}", "non-empty matcher"), ("{a=~\".*\"}", "non-empty matcher"), ("up[5m]", "parse error"), ("", "parse error")]
        {
            let error = parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
