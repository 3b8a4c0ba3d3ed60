//! Text of a file as documents: YAML with any number of them, or JSON with one or several.

use serde_json::Value;

use crate::{Error, Result};

/// Most parts of one YAML document: mappings, lists and scalars together.
pub const MAX_YAML_NODES: usize = 10_000_000;

/// Most documents of a file.
pub const MAX_DOCUMENTS: usize = 100_000;

/// One document.
#[derive(Debug)]
pub(crate) struct Document {
    /// Where it begins in the file, from 1.
    pub line: usize,
    pub value: Value,
}

/// The documents of a file. Empty ones are left out.
///
/// # Errors
/// [`Error::Invalid`] with the line, if a document is no YAML or JSON, or if there are too many.
pub(crate) fn parse(text: &str) -> Result<Vec<Document>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.trim_start().starts_with(['{', '[']) {
        return yaml(text);
    }
    match json(text) {
        Ok(documents) => Ok(documents),
        // What begins with a brace may also be YAML in flow style; the error of JSON is the better one for what is neither.
        Err(error) => yaml(text).map_err(|_| error),
    }
}

fn json(text: &str) -> Result<Vec<Document>> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let mut out = Vec::new();
    let (mut line, mut counted) = (1, 0);
    while let Some(value) = {
        let begin = values.byte_offset() + leading_blank(&text[values.byte_offset()..]);
        line += text[counted..begin].matches('\n').count();
        counted = begin;
        values.next()
    } {
        let value = value.map_err(|e| Error::invalid("", e.to_string()))?;
        push(&mut out, line, value)?;
    }
    Ok(out)
}

fn leading_blank(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

fn yaml(text: &str) -> Result<Vec<Document>> {
    let mut out = Vec::new();
    for (first_line, chunk) in chunks(text) {
        let says_nothing = |l: &str| {
            let l = l.trim();
            l.is_empty() || l.starts_with('#') || l.starts_with("%YAML") || l == "---"
        };
        let Some(above) = chunk.lines().position(|l| !says_nothing(l)) else { continue };
        let value = serde_saphyr::from_str_with_options::<Value>(chunk, options()).map_err(|_| located(text, first_line, chunk))?;
        push(&mut out, first_line + above, value)?;
    }
    Ok(out)
}

fn push(out: &mut Vec<Document>, line: usize, value: Value) -> Result<()> {
    if out.len() >= MAX_DOCUMENTS {
        return Err(Error::invalid("", format!("there are more than {MAX_DOCUMENTS} documents; split the file")));
    }
    if !value.is_null() {
        out.push(Document { line, value });
    }
    Ok(())
}

/// The error of a chunk that is wrong, with the line in the file. Blank lines in front of the chunk make the parser count them; this
/// is done only once per file, so that a file of many documents does not take quadratic time.
fn located(text: &str, first_line: usize, chunk: &str) -> Error {
    let padded = "\n".repeat(first_line - 1) + chunk;
    match serde_saphyr::from_str_with_options::<Value>(&padded, options()) {
        Err(error) => Error::invalid("", error.without_snippet().to_string()),
        Ok(_) => Error::invalid("", format!("the document at line {first_line} of {} is no YAML", text.lines().count())),
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        // A namespace may be called y, and a label may say on.
        strict_booleans: true,
        budget: serde_saphyr::budget! {
            max_events: MAX_YAML_NODES * 2,
            max_nodes: MAX_YAML_NODES,
            max_total_scalar_bytes: 256 << 20,
        },
    }
}

/// The parts between lines that begin with `---`, each with its first line. Such a line ends a document wherever it stands.
fn chunks(text: &str) -> Vec<(usize, &str)> {
    let mut out = Vec::new();
    let (mut begin, mut first_line, mut at) = (0, 1, 0);
    for (i, line) in text.split_inclusive('\n').enumerate() {
        let marks = |mark: &str| line.strip_prefix(mark).is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if marks("---") && at > begin {
            out.push((first_line, &text[begin..at]));
            (begin, first_line) = (at, i + 1);
        }
        at += line.len();
        if marks("...") {
            out.push((first_line, &text[begin..at - line.len()]));
            (begin, first_line) = (at, i + 2);
        }
    }
    out.push((first_line, &text[begin..]));
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(text: &str) -> Vec<(usize, Value)> {
        parse(text).expect("valid").into_iter().map(|d| (d.line, d.value)).collect()
    }

    #[test]
    fn documents_know_their_lines() {
        let text = "# shop\n---\na: 1\n---\n# nothing\n--- {b: [2]}\n---\nc: |\n  ---\n  x\n...\n---\n";
        assert_eq!(lines(text), [(3, json!({"a": 1})), (6, json!({"b": [2]})), (8, json!({"c": "---\nx\n"}))]);
        assert_eq!(lines("{\"a\": 1}\n\n{\"b\": 2}"), [(1, json!({"a": 1})), (3, json!({"b": 2}))]);
        assert_eq!(lines("{a: 1, b: [x]}"), [(1, json!({"a": 1, "b": ["x"]}))]);
        assert_eq!(lines("\u{feff}a: on\nb: [n, true]"), [(1, json!({"a": "on", "b": ["n", true]}))]);
        assert!(lines("").is_empty() && lines("---\n# only words\n").is_empty());
    }

    #[test]
    fn errors_say_the_line_in_the_file() {
        for (text, wanted) in [
            ("a: 1\n---\nb: [1\n---\nc: 2", "line "),
            ("{\"a\": 1,\n\"b\": [}", "line 2"),
            ("a: 1\n---\na: 1\n---\nx: {{ .Values }}\n", "line 5"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn aliases_cannot_explode() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            bomb += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(", "));
        }
        assert!(parse(&bomb).is_err());
    }
}
