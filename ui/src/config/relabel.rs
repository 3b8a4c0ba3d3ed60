//! Reads a file of relabelling rules: a list as below `metric_relabel_configs` of Prometheus.

use std::path::Path;

use anyhow::Context as _;
use isobar_compactor::repair::relabel::{Action, Rule, RuleText};

use super::fields::Fields;
use super::yaml::{self, Node, Value};

/// Reads and checks a file.
pub fn load(file: &Path) -> anyhow::Result<Vec<Rule>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    parse(&text).map_err(|e| anyhow::anyhow!("{}: {e}", file.display()))
}

fn parse(text: &str) -> Result<Vec<Rule>, String> {
    match yaml::parse(text)? {
        Node { value: Value::List(items), .. } if !items.is_empty() => items.into_iter().map(rule).collect(),
        node => Err(format!("line {}: the file must be a list of rules", node.line)),
    }
}

fn rule(node: Node) -> Result<Rule, String> {
    let line = node.line;
    let mut fields = Fields::of(node, "rule")?;
    let word = fields.text("action")?.unwrap_or_else(|| "replace".into());
    let action = Action::from_word(&word).ok_or_else(|| format!("line {line}: action {word:?} is not known"))?;
    let text = RuleText {
        source_labels: names(fields.node("source_labels"))?,
        separator: optional(fields.node("separator"), "separator")?,
        regex: optional(fields.node("regex"), "regex")?,
        modulus: match fields.text("modulus")? {
            Some(text) => text.parse().map_err(|_| format!("line {line}: modulus {text:?} is not a whole number"))?,
            None => 0,
        },
        target_label: fields.text("target_label")?.unwrap_or_default(),
        replacement: optional(fields.node("replacement"), "replacement")?,
    };
    fields.finish(&[])?;
    Rule::new(action, text).map_err(|e| format!("line {line}: {e}"))
}

/// A text that may be empty on purpose: `replacement: ""` removes a label.
fn optional(node: Option<Node>, key: &str) -> Result<Option<String>, String> {
    match node {
        None | Some(Node { value: Value::Empty, .. }) => Ok(None),
        Some(Node { value: Value::Text(text), .. }) => Ok(Some(text)),
        Some(node) => Err(format!("line {}: {key} must be a text", node.line)),
    }
}

fn names(node: Option<Node>) -> Result<Vec<String>, String> {
    match node {
        None | Some(Node { value: Value::Empty, .. }) => Ok(Vec::new()),
        Some(Node { value: Value::List(items), .. }) => items
            .into_iter()
            .map(|item| match item.value {
                Value::Text(name) => Ok(name),
                _ => Err(format!("line {}: source_labels must be a list of names", item.line)),
            })
            .collect(),
        Some(node) => Err(format!("line {}: source_labels must be a list of names", node.line)),
    }
}

#[cfg(test)]
mod tests {
    use isobar_block::Labels;
    use isobar_compactor::repair::relabel::relabel;

    use super::*;

    #[test]
    fn reads_rules_of_prometheus() {
        let rules = parse(
            "- source_labels: [a, b]\n  regex: x;(.*)\n  target_label: c\n  replacement: ${1}!\n- {action: labeldrop, regex: a}\n- source_labels: [b]\n  target_label: b\n  replacement: \"\"\n",
        );
        let labels = Labels::from_pairs([("__name__", "m"), ("a", "x"), ("b", "y")]).expect("valid");
        let got = relabel(&rules.expect("reads"), labels.as_ref()).expect("relabels").expect("stays");
        assert_eq!(got.to_string(), "m{c=\"y!\"}");
        for (text, part) in [
            ("a: 1\n", "must be a list"),
            ("- action: dropp\n", "action \"dropp\""),
            ("- target: x\n", "unknown key \"target\""),
            ("- regex: (\n  action: drop\n", "line 1"),
            ("- source_labels: a\n", "list of names"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(part), "{error}");
        }
    }
}
