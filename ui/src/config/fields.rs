//! Reads files whose shape belongs to other projects, key by key, so that every complaint has a line and a remedy.

use super::suggest;
use super::yaml::{Node, Value, quote};

/// A mapping of which keys are taken one after the other; what remains at the end was not known.
pub struct Fields {
    place: String,
    line: usize,
    entries: Vec<(String, usize, Node)>,
    asked: Vec<&'static str>,
}

impl Fields {
    /// Takes a mapping apart. An empty node is an empty mapping.
    ///
    /// # Errors
    /// If the node is something else.
    pub fn of(node: Node, place: &str) -> Result<Self, String> {
        let entries = match node.value {
            Value::Map(entries) => entries.into_iter().map(|(key, node)| (key.text, key.line, node)).collect(),
            Value::Empty => Vec::new(),
            _ => return Err(format!("line {}: {} must be a mapping", node.line, if place.is_empty() { "the file" } else { place })),
        };
        Ok(Self { place: place.to_owned(), line: node.line, entries, asked: Vec::new() })
    }

    /// The node of a key.
    pub fn node(&mut self, key: &'static str) -> Option<Node> {
        self.asked.push(key);
        let at = self.entries.iter().position(|(name, ..)| name == key)?;
        Some(self.entries.remove(at).2)
    }

    /// The mapping of a key; empty if it is not there.
    ///
    /// # Errors
    /// If the value is something else.
    pub fn section(&mut self, key: &'static str) -> Result<Self, String> {
        let place = if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) };
        let node = self.node(key).unwrap_or(Node { line: self.line, value: Value::Empty });
        Self::of(node, &place)
    }

    /// The text of a key; `None` if it is not there or empty.
    ///
    /// # Errors
    /// If the value is a list or a mapping.
    pub fn text(&mut self, key: &'static str) -> Result<Option<String>, String> {
        match self.node(key) {
            None | Some(Node { value: Value::Empty, .. }) => Ok(None),
            Some(Node { value: Value::Text(text), .. }) => Ok(Some(text).filter(|t| !t.is_empty())),
            Some(node) => Err(format!("line {}: {key} must be a text", node.line)),
        }
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// If it is not.
    pub fn required(&mut self, key: &'static str) -> Result<String, String> {
        let (line, place) = (self.line, if self.place.is_empty() { String::new() } else { format!("{}.", self.place) });
        self.text(key)?.ok_or_else(|| format!("line {line}: {place}{key} is missing"))
    }

    /// A switch; `false` if it is not there.
    ///
    /// # Errors
    /// If the value is neither `true` nor `false`.
    pub fn switch(&mut self, key: &'static str) -> Result<bool, String> {
        match self.node(key) {
            None | Some(Node { value: Value::Empty, .. }) => Ok(false),
            Some(Node { line, value: Value::Text(text) }) => {
                text.parse().map_err(|_| format!("line {line}: {key}: {text:?} is neither true nor false"))
            }
            Some(node) => Err(format!("line {}: {key} must be true or false", node.line)),
        }
    }

    /// Ends the reading. Returns a warning for each key of `without_effect` that was set; these are known to the other
    /// project and mean nothing here.
    ///
    /// # Errors
    /// For a key that nobody asked for.
    pub fn finish(self, without_effect: &[&'static str]) -> Result<Vec<String>, String> {
        let mut warnings = Vec::new();
        for (name, line, node) in self.entries {
            if !without_effect.contains(&name.as_str()) {
                let known = self.asked.iter().chain(without_effect).copied();
                let place = if self.place.is_empty() { String::new() } else { format!(" in {:?}", self.place) };
                return Err(format!("line {line}: unknown key {name:?}{place}{}", suggest::hint(&name, known)));
            }
            let says_something =
                !matches!(&node.value, Value::Empty) && !matches!(&node.value, Value::Text(t) if t == "false" || t == "0" || t.is_empty());
            if says_something {
                warnings.push(format!("line {line}: {name} has no effect in Isobar"));
            }
        }
        Ok(warnings)
    }
}

/// Writes a tree as YAML, the values of keys that `is_secret` names replaced by `<secret>`.
pub fn to_redacted_yaml(node: &Node, indent: usize, is_secret: &dyn Fn(&str) -> bool) -> String {
    let pad = "  ".repeat(indent);
    match &node.value {
        Value::Text(text) => format!("{pad}{}\n", quote(text)),
        Value::Empty => format!("{pad}null\n"),
        Value::List(items) => items.iter().map(|i| format!("{pad}- {}", to_redacted_yaml(i, indent + 1, is_secret).trim_start())).collect(),
        Value::Map(entries) => entries
            .iter()
            .map(|(key, value)| match &value.value {
                _ if is_secret(&key.text) => format!("{pad}{}: <secret>\n", quote(&key.text)),
                Value::Text(text) => format!("{pad}{}: {}\n", quote(&key.text), quote(text)),
                Value::Empty => format!("{pad}{}:\n", quote(&key.text)),
                Value::Map(entries) if entries.is_empty() => format!("{pad}{}: {{}}\n", quote(&key.text)),
                Value::List(items) if items.is_empty() => format!("{pad}{}: []\n", quote(&key.text)),
                _ => format!("{pad}{}:\n{}", quote(&key.text), to_redacted_yaml(value, indent + 1, is_secret)),
            })
            .collect(),
    }
}
