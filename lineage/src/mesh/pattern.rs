//! From the labels of a series to the name of a node: texts with labels in braces, and the names that are no names.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use isobar_block::Labels;
use serde::{Deserialize, Serialize};

use crate::model::{NodeKey, kind};
use crate::{Error, Result};

/// Text with labels in braces, as in `{namespace}-{app}`. `{instance|host}` leaves the port out, `{pod|workload}` what a Deployment, a
/// StatefulSet or a DaemonSet has appended to its own name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Label(String, Option<Filter>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filter {
    Host,
    Workload,
}

/// One way to name a node. It applies if all its labels are there, and neither empty nor `unknown`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodePattern {
    /// The kind of the node.
    #[serde(default = "service")]
    pub kind: String,
    /// The namespace of its name; none if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Template>,
    /// The name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Template>,
    /// Instead of a name the address that was called: `name.namespace.svc…` and names without a dot are services, others are external.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Template>,
    /// Instead of a name a text such as `namespace/name`; one without a slash is an address, and `reserved:…` is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Template>,
    /// Labels that must have one of these values, separated by `|`; after a `!` none of them. Nothing stands for a label that is not there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub when: BTreeMap<String, String>,
}

/// What the labels of a series name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A node.
    Node(NodeKey),
    /// An IP address, which may be another one's tomorrow.
    Address,
    /// Nothing.
    Nothing,
}

fn service() -> String {
    kind::SERVICE.into()
}

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text.as_str();
        while let Some(open) = rest.find('{') {
            let close = rest[open..].find('}').ok_or_else(|| format!("{text:?} has a {{ without }}; write labels as in {{app}}"))? + open;
            if open > 0 {
                parts.push(Part::Text(rest[..open].into()));
            }
            let (label, filter) = match rest[open + 1..close].split_once('|') {
                None => (&rest[open + 1..close], None),
                Some((label, "host")) => (label, Some(Filter::Host)),
                Some((label, "workload")) => (label, Some(Filter::Workload)),
                Some((_, other)) => return Err(format!("{text:?} has an unknown filter {other:?}; use host or workload")),
            };
            let first = label.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
            if !first || !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(format!("{text:?} has {label:?} as a label name; use letters, digits and _"));
            }
            parts.push(Part::Label(label.into(), filter));
            rest = &rest[close + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        if parts.is_empty() {
            return Err("a text is empty; leave it out".into());
        }
        Ok(Self { text, parts })
    }
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        template.text
    }
}

impl Template {
    /// The text with the values of labels, if all are there.
    pub fn fill(&self, labels: &Labels) -> Option<String> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Label(name, filter) => {
                    let value = known(labels.get(name)?)?;
                    out.push_str(match filter {
                        None => value,
                        Some(Filter::Host) => without_port(value),
                        Some(Filter::Workload) => without_suffix(value),
                    });
                }
            }
        }
        (!out.is_empty()).then_some(out)
    }

    fn labels_into(&self, out: &mut BTreeSet<String>) {
        out.extend(self.parts.iter().filter_map(|p| if let Part::Label(name, _) = p { Some(name.clone()) } else { None }));
    }
}

impl NodePattern {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the field.
    pub fn check(&self) -> Result<()> {
        crate::model::key::check_kind(&self.kind).map_err(|e| e.within("kind"))?;
        match [&self.name, &self.host, &self.path].into_iter().flatten().count() {
            1 => Ok(()),
            0 => Err(Error::invalid("name", "is missing; give it, or host, or path")),
            _ => Err(Error::invalid("name", "stands beside host or path; give one of them")),
        }
    }

    /// Adds the labels that it looks at.
    pub fn labels_into(&self, out: &mut BTreeSet<String>) {
        [&self.namespace, &self.name, &self.host, &self.path].into_iter().flatten().for_each(|t| t.labels_into(out));
        out.extend(self.when.keys().cloned());
    }

    fn named(&self, labels: &Labels) -> Option<Named> {
        let matches = |(name, values): (&String, &String)| {
            let value = labels.get(name).unwrap_or("");
            match values.strip_prefix('!') {
                Some(values) => values.split('|').all(|v| v != value),
                None => values.split('|').any(|v| v == value),
            }
        };
        if !self.when.iter().all(matches) {
            return None;
        }
        if let Some(host) = &self.host {
            return Some(host_named(&host.fill(labels)?));
        }
        if let Some(path) = &self.path {
            return Some(path_named(&self.kind, &path.fill(labels)?));
        }
        let name = self.name.as_ref()?.fill(labels)?;
        let namespace = match &self.namespace {
            Some(template) => template.fill(labels)?,
            None => String::new(),
        };
        if [kind::SERVICE, kind::EXTERNAL].contains(&self.kind.as_str()) && is_address(&name) {
            return Some(Named::Address);
        }
        NodeKey::new(&self.kind, &namespace, &name).ok().map(Named::Node)
    }
}

/// What the first pattern that applies makes of the labels.
pub fn named(patterns: &[NodePattern], labels: &Labels) -> Named {
    patterns.iter().find_map(|p| p.named(labels)).unwrap_or(Named::Nothing)
}

/// Everything that the patterns make of the labels, best first.
pub fn candidates<'a>(patterns: &'a [NodePattern], labels: &'a Labels) -> impl Iterator<Item = NodeKey> + 'a {
    patterns.iter().filter_map(|p| match p.named(labels) {
        Some(Named::Node(key)) => Some(key),
        _ => None,
    })
}

/// The value of a label, unless it says that nobody knows.
fn known(value: &str) -> Option<&str> {
    (!value.is_empty() && value != "unknown").then_some(value)
}

fn without_port(text: &str) -> &str {
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.split_once(']')) {
        return inner.0;
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => text,
    }
}

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || text.parse::<SocketAddr>().is_ok()
}

/// The name of the workload that has made a pod of this name: without `-<hash>-<5 characters>`, `-<number>` or `-<5 characters>`.
fn without_suffix(pod: &str) -> &str {
    // Kubernetes makes its random names of these, so that they are no words.
    let random = |s: &str| !s.is_empty() && s.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b));
    let Some((rest, last)) = pod.rsplit_once('-') else { return pod };
    if rest.is_empty() {
        return pod;
    }
    if last.len() == 5 && random(last) {
        return match rest.rsplit_once('-') {
            Some((name, hash)) if !name.is_empty() && (5..=10).contains(&hash.len()) && random(hash) => name,
            _ => rest,
        };
    }
    if !last.is_empty() && last.len() <= 5 && last.bytes().all(|b| b.is_ascii_digit()) { rest } else { pod }
}

/// What a namespace and a name in one text name.
fn path_named(kind: &str, path: &str) -> Named {
    match path.split_once('/') {
        _ if path.starts_with("reserved:") => Named::Nothing,
        Some((namespace, name)) => NodeKey::new(kind, namespace, name).map_or(Named::Nothing, Named::Node),
        None => host_named(path),
    }
}

/// What an address that was called names.
fn host_named(address: &str) -> Named {
    if is_address(address) {
        return Named::Address;
    }
    let host: Cow<str> = without_port(address).trim_end_matches('.').to_ascii_lowercase().into();
    if host.is_empty() || host == "localhost" || host == "unknown" {
        return Named::Nothing;
    }
    if is_address(&host) {
        return Named::Address;
    }
    let parts: Vec<&str> = host.split('.').collect();
    let service = match parts.iter().position(|p| *p == "svc") {
        // Of a headless service, the pod's own name stands first.
        Some(at) if at >= 2 => NodeKey::new(kind::SERVICE, parts[at - 1], parts[at - 2]),
        _ if parts.len() == 1 => NodeKey::new(kind::SERVICE, "", &host),
        _ => NodeKey::new(kind::EXTERNAL, "", &host),
    };
    service.map_or(Named::Nothing, Named::Node)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        Labels::from_pairs(pairs.iter().copied()).expect("labels")
    }

    fn node(id: &str) -> Named {
        Named::Node(NodeKey::parse(id).expect("an id"))
    }

    #[test]
    fn hosts_are_services_or_external_and_never_addresses() {
        for (host, expected) in [
            ("reviews.shop.svc.cluster.local:9080", node("service:shop/reviews")),
            ("db-0.db.shop.svc", node("service:shop/db")),
            ("API.Stripe.com:443", node("external:api.stripe.com")),
            ("redis", node("service:redis")),
            ("redis:6379", node("service:redis")),
            ("10.0.0.1:80", Named::Address),
            ("10.0.0.1", Named::Address),
            ("[fe80::1]:80", Named::Address),
            ("fe80::1", Named::Address),
            ("localhost:80", Named::Nothing),
            (".", Named::Nothing),
        ] {
            assert_eq!(host_named(host), expected, "{host}");
        }
    }

    #[test]
    fn pods_are_called_after_their_workload() {
        for (pod, workload) in [
            ("checkout-6c9f7b4d8x-x2k8z", "checkout"),
            ("my-app-754b6d85c-bv9qx", "my-app"),
            ("kafka-2", "kafka"),
            ("node-agent-x2k8z", "node-agent"),
            ("plain", "plain"),
            ("-0", "-0"),
            ("web-frontend", "web-frontend"),
            ("a-100000000", "a-100000000"),
        ] {
            assert_eq!(without_suffix(pod), workload, "{pod}");
        }
    }

    #[test]
    fn the_first_pattern_whose_labels_are_known_counts() {
        let patterns: Vec<NodePattern> = serde_json::from_value(serde_json::json!([
            {"kind": "external", "name": "{name}", "when": {"name": "PassthroughCluster|BlackHoleCluster"}},
            {"namespace": "{ns}", "name": "{canonical}"},
            {"host": "{host}"},
            {"kind": "host", "name": "{instance|host}-x"},
            {"path": "{destination|workload}"},
        ]))
        .expect("patterns");
        let is = |pairs: &[(&str, &str)]| named(&patterns, &labels(pairs));
        assert_eq!(is(&[("name", "BlackHoleCluster"), ("canonical", "a"), ("ns", "n")]), node("external:BlackHoleCluster"));
        assert_eq!(is(&[("canonical", "a"), ("ns", "n"), ("host", "b")]), node("service:n/a"));
        assert_eq!(is(&[("canonical", "unknown"), ("ns", "n"), ("host", "b.m.svc")]), node("service:m/b"));
        assert_eq!(is(&[("canonical", "1.2.3.4"), ("ns", "n")]), Named::Address);
        assert_eq!(is(&[("instance", "1.2.3.4:9100")]), node("host:1.2.3.4-x"));
        assert_eq!(is(&[("canonical", "a")]), Named::Nothing);
        assert_eq!(is(&[("destination", "shop/cart-6c9f7b4d8x-x2k8z")]), node("service:shop/cart"));
        assert_eq!(is(&[("destination", "api.github.com")]), node("external:api.github.com"));
        assert_eq!(is(&[("destination", "reserved:world")]), Named::Nothing);
        let names: Vec<_> = candidates(&patterns, &labels(&[("host", "x.y.svc"), ("instance", "h:1")])).map(|k| k.to_string()).collect();
        assert_eq!(names, ["service:y/x", "host:h-x"]);
    }

    #[test]
    fn a_wrong_text_says_what_is_wrong() {
        let error = |text: &str| Template::try_from(text.to_owned()).expect_err("is wrong");
        assert!(error("{a").contains("without }"));
        assert!(error("{a|b}").contains("use host or workload"));
        assert!(error("{a-b}").contains("letters, digits"));
        assert!(error("").contains("empty"));
        let both = serde_json::json!({"name": "a", "host": "b"});
        assert!(serde_json::from_value::<NodePattern>(both).expect("parses").check().is_err());
    }
}
