//! The id of a node with places for values of labels: `service:{{namespace}}/{{service}}`.
//!
//! `{{name}}` stands for a label, `{{annotations.name}}` for an annotation; each value becomes a part of a name, whatever characters it
//! has. `{{instance|host}}` drops a port, `{{pod|workload}}` what Kubernetes adds to the name of a pod, `{{job|last}}` all up to the
//! last slash. A `*` instead of a namespace finds the only node of that name in whatever namespace. A template that is nothing but
//! one label takes its value as an id, or as a JSON array of ids.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::model::key::{check_kind, escape};
use crate::{Error, NodeKey, Result};

/// Longest template, in bytes.
pub const MAX_TEMPLATE_BYTES: usize = 4096;

/// Most nodes that the value of one label may name.
pub const MAX_NAMED: usize = 64;

/// A template that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Value { name: String, annotation: bool, filter: Option<Filter> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    Host,
    Workload,
    Last,
}

/// What a template names for one alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// These nodes.
    Nodes(Vec<NodeKey>),
    /// The only node of this kind whose last parts of the name are these, as they stand in an id.
    Anywhere { kind: String, name: String },
}

/// Labels and annotations of an alert.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Values<'a> {
    pub labels: &'a BTreeMap<String, String>,
    pub annotations: &'a BTreeMap<String, String>,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a brace is open, a filter is not known, or the kind cannot be one.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() || text.len() > MAX_TEMPLATE_BYTES {
            return Err(Error::invalid("", format!("a template has {} bytes; give 1 to {MAX_TEMPLATE_BYTES}", text.len())));
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((name, behind)) = after.split_once("}}") else {
                return Err(Error::invalid("", format!("template {text:?} has no closing braces")));
            };
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(value(name).ok_or_else(|| {
                Error::invalid("", format!("template {text:?}: {{{{{name}}}}} names no label; write {{{{label}}}} or {{{{label|host}}}}"))
            })?);
            rest = behind;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        let template = Self { text: text.to_owned(), pieces };
        template.check()?;
        Ok(template)
    }

    fn check(&self) -> Result<()> {
        match &self.pieces[0] {
            Piece::Text(first) => {
                let Some((kind, _)) = first.split_once(':') else {
                    return Err(Error::invalid("", format!("template {:?} has no kind; write kind:namespace/name", self.text)));
                };
                check_kind(kind)?;
                // Values cannot break an id, but text can.
                let shown: String = self.pieces.iter().map(|p| if let Piece::Text(t) = p { t.as_str() } else { "x" }).collect();
                NodeKey::parse(&shown).map(drop)
            }
            Piece::Value { .. } if self.pieces.len() == 1 => Ok(()),
            Piece::Value { .. } => Err(Error::invalid("", format!("template {:?} begins with a label; write the kind first", self.text))),
        }
    }

    /// Whether it may name a node in whatever namespace.
    pub(crate) fn is_anywhere(&self) -> bool {
        matches!(&self.pieces[0], Piece::Text(first) if first.contains(":*/"))
    }

    /// What it names for an alert, or which value is missing or no name.
    pub(crate) fn expand(&self, values: Values<'_>) -> std::result::Result<Wanted, String> {
        if let [Piece::Value { name, annotation, .. }] = self.pieces.as_slice() {
            return named(values.get(name, *annotation)?);
        }
        let mut id = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => id.push_str(text),
                Piece::Value { name, annotation, filter } => {
                    let value = values.get(name, *annotation)?;
                    let value = filter.map_or(value, |f| f.apply(value));
                    if value.is_empty() {
                        return Err(format!("label {name} holds nothing that could be a name"));
                    }
                    escape(value, &mut id);
                }
            }
        }
        let key = NodeKey::parse(&id).map_err(|e| e.to_string())?;
        let rest = &key.as_str()[key.kind().len() + 1..];
        match rest.strip_prefix("*/") {
            Some(name) => Ok(Wanted::Anywhere { kind: key.kind().to_owned(), name: name.to_owned() }),
            None => Ok(Wanted::Nodes(vec![key])),
        }
    }
}

fn value(inner: &str) -> Option<Piece> {
    let (name, filter) = match inner.split_once('|') {
        None => (inner.trim(), None),
        Some((name, filter)) => (name.trim(), Some(Filter::parse(filter.trim())?)),
    };
    let (name, annotation) = name.strip_prefix("annotations.").map_or((name, false), |n| (n, true));
    (!name.is_empty() && !name.contains(['{', '}'])).then(|| Piece::Value { name: name.to_owned(), annotation, filter })
}

fn named(value: &str) -> std::result::Result<Wanted, String> {
    let value = value.trim();
    let ids: Vec<String> = if value.starts_with('[') {
        serde_json::from_str(value).map_err(|e| format!("{value:?} is no JSON array of ids: {e}"))?
    } else {
        vec![value.to_owned()]
    };
    if ids.len() > MAX_NAMED {
        return Err(format!("names {} nodes, more than {MAX_NAMED}", ids.len()));
    }
    let keys: Result<Vec<NodeKey>> = ids.iter().map(|id| NodeKey::parse(id)).collect();
    keys.map(Wanted::Nodes).map_err(|e| e.to_string())
}

impl<'a> Values<'a> {
    fn get(self, name: &str, annotation: bool) -> std::result::Result<&'a str, String> {
        let (map, what) = if annotation { (self.annotations, "annotation") } else { (self.labels, "label") };
        map.get(name).map(String::as_str).filter(|v| !v.is_empty()).ok_or_else(|| format!("has no {what} {name}"))
    }
}

impl Filter {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "host" => Some(Self::Host),
            "workload" => Some(Self::Workload),
            "last" => Some(Self::Last),
            _ => None,
        }
    }

    fn apply(self, value: &str) -> &str {
        match self {
            Self::Host => host(value),
            Self::Workload => workload(value),
            Self::Last => value.rsplit_once('/').map_or(value, |(_, last)| last),
        }
    }
}

/// A host without its port: `10.0.0.1:9100`, `[::1]:9100`, `db-1`.
fn host(value: &str) -> &str {
    if let Some(inner) = value.strip_prefix('[') {
        return inner.split_once(']').map_or(inner, |(host, _)| host);
    }
    match value.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') && port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => value,
    }
}

/// What a pod belongs to, by its name: a Deployment adds two parts, a StatefulSet a number, a DaemonSet or a Job one part.
fn workload(pod: &str) -> &str {
    // Kubernetes draws names from these letters, so that they cannot make words.
    let drawn = |part: &str, len: std::ops::RangeInclusive<usize>| {
        len.contains(&part.len()) && part.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b))
    };
    let Some((rest, last)) = pod.rsplit_once('-') else { return pod };
    if !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()) && last.len() < 5 {
        return rest;
    }
    if !drawn(last, 5..=5) {
        return pod;
    }
    match rest.rsplit_once('-') {
        Some((name, hash)) if drawn(hash, 6..=10) => name,
        _ => rest,
    }
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|e| match e {
            Error::Invalid { reason, .. } => de::Error::custom(reason),
            other => de::Error::custom(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn labels_become_parts_of_names() {
        let labels = map(&[
            ("namespace", "shop"),
            ("service", "pay/ment"),
            ("pod", "cart-6d4b75cb6d-hqx5z"),
            ("instance", "db-1:9100"),
            ("one", "service:a/b"),
            ("many", r#"["service:a/b", "host:c"]"#),
            ("empty", ""),
        ]);
        let annotations = map(&[("isobar_node", "topic:t")]);
        let expand = |text: &str| Template::parse(text).expect(text).expand(Values { labels: &labels, annotations: &annotations });
        let node = |id: &str| Ok(Wanted::Nodes(vec![NodeKey::parse(id).expect("valid")]));
        assert_eq!(expand("service:{{namespace}}/{{service}}"), node("service:shop/pay%2Fment"));
        assert_eq!(expand("workload:{{namespace}}/{{pod|workload}}"), node("workload:shop/cart"));
        assert_eq!(expand("host:{{ instance | host }}"), node("host:db-1"));
        assert_eq!(expand("{{annotations.isobar_node}}"), node("topic:t"));
        assert_eq!(expand("{{one}}"), node("service:a/b"));
        assert!(matches!(expand("{{many}}"), Ok(Wanted::Nodes(n)) if n.len() == 2));
        assert_eq!(expand("service:*/{{service}}"), Ok(Wanted::Anywhere { kind: "service".into(), name: "pay%2Fment".into() }));
        assert_eq!(expand("service:{{empty}}/{{service}}"), Err("has no label empty".into()));
        assert_eq!(expand("{{service}}").map_err(|e| e.contains("no node id")), Err(true));
    }

    #[test]
    fn hosts_and_workloads_are_cut_out_of_names() {
        for (value, expected) in [("10.0.0.1:9100", "10.0.0.1"), ("[::1]:9100", "::1"), ("::1", "::1"), ("db-1", "db-1"), ("a:b", "a:b")] {
            assert_eq!(host(value), expected);
        }
        for (pod, expected) in [
            ("cart-6d4b75cb6d-hqx5z", "cart"),
            ("db-0", "db"),
            ("agent-x7k2p", "agent"),
            ("redis-cart-5b8f7d6c9c-abcde", "redis-cart-5b8f7d6c9c-abcde"),
            ("redis-cart-5b8f7d6c9c-z6w7x", "redis-cart"),
            ("plain", "plain"),
        ] {
            assert_eq!(workload(pod), expected, "{pod}");
        }
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for text in ["", "{{a", "payment", "{{}}", "service:{{a|upper}}", "Service:{{a}}", "{{kind}}:{{name}}", "service:", "a:%x{{b}}"] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }
}
