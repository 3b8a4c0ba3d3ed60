//! YAML as a tree whose every node knows its line, so that an error can point at it.
//!
//! Scalars stay text: what `2h` or `off` means is decided by the setting that they are for, not by YAML's guesses.

use serde_saphyr::granit_parser::{Event, Parser};

/// Deepest nesting that is read. No section needs more than five.
const MAX_DEPTH: usize = 16;

/// Biggest file that is read, in bytes.
const MAX_SIZE_BYTES: usize = 4 << 20;

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A scalar as it is written, without quotes.
    Text(String),
    /// Nothing: `key:` without a value, or `null`.
    Empty,
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in file order; keys occur once.
    Map(Vec<(Key, Node)>),
}

/// A node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it begins, from 1.
    pub line: usize,
    /// What it holds.
    pub value: Value,
}

/// The key of a mapping.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Where it stands, from 1.
    pub line: usize,
    /// Its text.
    pub text: String,
}

/// Reads one document. An empty text is an empty mapping.
///
/// # Errors
/// `line N: reason`.
pub fn parse(text: &str) -> Result<Node, String> {
    if text.len() > MAX_SIZE_BYTES {
        return Err(format!("the file has {} bytes, more than the {MAX_SIZE_BYTES} that are read", text.len()));
    }
    let mut events = Vec::new();
    for next in Parser::new_from_str(text) {
        let (event, span) = next.map_err(|e| format!("line {}: {e}", e.marker().line()))?;
        let line = span.start.line();
        match event {
            Event::Scalar(text, style, ..) => {
                let plain = style == serde_saphyr::granit_parser::ScalarStyle::Plain;
                events.push((line, Step::Scalar { empty: plain && matches!(&*text, "" | "~" | "null"), text: text.into_owned() }));
            }
            Event::SequenceStart(..) => events.push((line, Step::ListStart)),
            Event::MappingStart(..) => events.push((line, Step::MapStart)),
            Event::SequenceEnd | Event::MappingEnd => events.push((line, Step::End)),
            Event::Alias(_) => return Err(format!("line {line}: aliases are not supported here")),
            Event::DocumentStart(..) if !events.is_empty() => return Err(format!("line {line}: only one document is allowed")),
            _ => {}
        }
    }
    let mut steps = events.into_iter();
    match steps.next() {
        None => Ok(Node { line: 1, value: Value::Map(Vec::new()) }),
        Some((line, step)) => node(line, step, &mut steps, 0),
    }
}

enum Step {
    Scalar { text: String, empty: bool },
    ListStart,
    MapStart,
    End,
}

fn node(line: usize, step: Step, steps: &mut impl Iterator<Item = (usize, Step)>, depth: usize) -> Result<Node, String> {
    if depth > MAX_DEPTH {
        return Err(format!("line {line}: nested deeper than {MAX_DEPTH} levels"));
    }
    let cut_off = || format!("line {line}: the value is cut off");
    let value = match step {
        Step::Scalar { empty: true, .. } => Value::Empty,
        Step::Scalar { text, .. } => Value::Text(text),
        Step::End => return Err(cut_off()),
        Step::ListStart => {
            let mut items = Vec::new();
            loop {
                match steps.next().ok_or_else(cut_off)? {
                    (_, Step::End) => break Value::List(items),
                    (line, step) => items.push(node(line, step, steps, depth + 1)?),
                }
            }
        }
        Step::MapStart => {
            let mut entries: Vec<(Key, Node)> = Vec::new();
            loop {
                let key = match steps.next().ok_or_else(cut_off)? {
                    (_, Step::End) => break Value::Map(entries),
                    (line, Step::Scalar { text, .. }) => Key { line, text },
                    (line, _) => return Err(format!("line {line}: a key must be a plain text")),
                };
                if let Some((first, _)) = entries.iter().find(|(k, _)| k.text == key.text) {
                    return Err(format!("line {}: key {:?} is given a second time, first in line {}", key.line, key.text, first.line));
                }
                let (line, step) = steps.next().ok_or_else(cut_off)?;
                let value = node(line, step, steps, depth + 1)?;
                entries.push((key, value));
            }
        }
    };
    Ok(Node { line, value })
}

/// Quotes a scalar where YAML would read it as something else.
pub fn quote(text: &str) -> String {
    let plain = !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._/-:+%".contains(c))
        && !text.ends_with(':')
        && !text.starts_with(['-', '%', ':'])
        && !matches!(text, "~" | "null");
    if plain { text.to_owned() } else { format!("{text:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar_at(line: usize, text: &str) -> Node {
        Node { line, value: Value::Text(text.into()) }
    }

    #[test]
    fn keeps_lines_and_texts() {
        let node = parse("# note\nquery:\n  timeout: 2m\nroles: [ingest, 'query']\nempty:\n").expect("parses");
        assert_eq!(
            node.value,
            Value::Map(vec![
                (
                    Key { line: 2, text: "query".into() },
                    Node { line: 3, value: Value::Map(vec![(Key { line: 3, text: "timeout".into() }, scalar_at(3, "2m"))]) }
                ),
                (
                    Key { line: 4, text: "roles".into() },
                    Node { line: 4, value: Value::List(vec![scalar_at(4, "ingest"), scalar_at(4, "query")]) }
                ),
                (Key { line: 5, text: "empty".into() }, Node { line: 5, value: Value::Empty }),
            ])
        );
        assert_eq!(parse("").map(|n| n.value), Ok(Value::Map(Vec::new())));
        assert_eq!(parse("# only a comment\n").map(|n| n.value), Ok(Value::Map(Vec::new())));
    }

    #[test]
    fn refuses_with_a_line() {
        for (yaml, line) in [
            ("a: 1\na: 2\n", "line 2"),
            ("a: 1\nb: [1\n", "line "),
            ("a: &x 1\nb: *x\n", "line 2"),
            ("a: 1\n---\nb: 2\n", "line 2"),
            ("a: {? [x] : 1}\n", "line 1"),
            ("a: \"open\n", "line "),
        ] {
            let error = parse(yaml).expect_err(yaml);
            assert!(error.contains(line), "{yaml:?}: {error}");
        }
        assert!(parse(&"[".repeat(200)).is_err());
    }

    #[test]
    fn quotes_only_where_needed() {
        for (text, expected) in
            [("2h", "2h"), ("127.0.0.1:9292", "127.0.0.1:9292"), ("", "\"\""), ("a b", "\"a b\""), ("null", "\"null\""), ("/", "/")]
        {
            assert_eq!(quote(text), expected);
            assert_eq!(
                parse(&format!("k: {}", quote(text))).map(|n| n.value),
                Ok(Value::Map(vec![(Key { line: 1, text: "k".into() }, scalar_at(1, text))]))
            );
        }
    }
}
