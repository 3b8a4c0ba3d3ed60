//! From the labels of an alert to nodes: the rules in order, asked of the graph as it was when the alert began.

use std::collections::HashMap;

use super::model::{Alert, Match, Topology, Tried};
use super::settings::Settings;
use super::template::{Values, Wanted};
use crate::NodeKey;
use crate::snapshot::{NONE, NodeIdx, Snapshot};

/// Most nodes of one alert.
pub const MAX_NODES: usize = 64;

/// Rules that are shown with an alert which found no node.
pub const MAX_TRIED: usize = 60;

/// What the rules have found for one alert.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Found {
    pub matches: Vec<Match>,
    pub tried: Vec<Tried>,
    /// Nodes that a rule wants to have in the graph.
    pub create: Vec<(NodeKey, String)>,
}

/// Looks nodes up in one snapshot.
pub(crate) struct Finder<'a> {
    snapshot: &'a Snapshot,
    topology: Topology,
    /// By kind and name, the nodes that are called so in whatever namespace.
    anywhere: HashMap<String, HashMap<String, Vec<NodeIdx>>>,
}

impl<'a> Finder<'a> {
    /// A finder for these alerts in the graph as of when they began, or of later. Names without a namespace are all found in one
    /// walk over the nodes.
    pub fn new<'b>(snapshot: &'a Snapshot, topology: Topology, settings: &Settings, alerts: impl Iterator<Item = &'b Alert>) -> Self {
        let mut anywhere: HashMap<String, HashMap<String, Vec<NodeIdx>>> = HashMap::new();
        for alert in alerts {
            let values = Values { labels: &alert.labels, annotations: &alert.annotations };
            for rule in settings.rules().filter(|r| r.selector.matches(&alert.labels)) {
                for template in rule.node.templates().iter().filter(|t| t.is_anywhere()) {
                    if let Ok(Wanted::Anywhere { kind, name }) = template.expand(values) {
                        anywhere.entry(kind).or_default().entry(name).or_default();
                    }
                }
            }
        }
        let mut finder = Self { snapshot, topology, anywhere };
        finder.walk();
        finder
    }

    fn walk(&mut self) {
        if self.anywhere.is_empty() {
            return;
        }
        let graph = &self.snapshot.graph;
        for (record, node) in graph.node_of.iter().enumerate().filter(|(_, node)| **node != NONE) {
            let id = graph.frozen.nodes[record as u32].key.as_str();
            let Some((kind, rest)) = id.split_once(':') else { continue };
            let Some(names) = self.anywhere.get_mut(kind) else { continue };
            let starts = rest.match_indices('/').map(|(slash, _)| slash + 1);
            for start in std::iter::once(0).chain(starts) {
                // Several names of a node are one node.
                if let Some(hits) = names.get_mut(&rest[start..]).filter(|hits| !hits.contains(&NodeIdx(*node))) {
                    hits.push(NodeIdx(*node));
                }
            }
        }
    }

    /// Tries the rules in order.
    pub fn find(&self, settings: &Settings, alert: &Alert) -> Found {
        let mut found = Found::default();
        let values = Values { labels: &alert.labels, annotations: &alert.annotations };
        for rule in settings.rules() {
            let mut tried = |reason: String| {
                if found.tried.len() < MAX_TRIED {
                    found.tried.push(Tried { rule: rule.name.clone(), reason });
                }
            };
            if let Some(refusing) = rule.selector.refusing(&alert.labels) {
                tried(format!("is for alerts with {refusing}"));
                continue;
            }
            let (mut nodes, mut missing, mut wanted_keys) = (Vec::new(), Vec::new(), Vec::new());
            for template in rule.node.templates() {
                match template.expand(values) {
                    Err(reason) => missing.push(reason),
                    Ok(wanted) => {
                        if let Wanted::Nodes(keys) = &wanted {
                            wanted_keys.extend(keys.iter().cloned());
                        }
                        match self.look_up(&wanted) {
                            Ok(hits) => nodes.extend(hits),
                            Err(reason) => missing.push(reason),
                        }
                    }
                }
            }
            if nodes.is_empty() && rule.create && !wanted_keys.is_empty() {
                found.create.extend(wanted_keys.into_iter().take(MAX_NODES).map(|key| (key, rule.name.clone())));
                return found;
            }
            if nodes.is_empty() {
                missing.dedup();
                tried(missing.join("; "));
                continue;
            }
            for node in nodes {
                let node = self.snapshot.key(node).clone();
                if found.matches.len() < MAX_NODES && found.matches.iter().all(|m| m.node != node) {
                    found.matches.push(Match { node, rule: rule.name.clone(), topology: self.topology, created: false });
                }
            }
            if !rule.goes_on {
                break;
            }
        }
        if !found.matches.is_empty() {
            found.tried.clear();
        }
        found
    }

    fn look_up(&self, wanted: &Wanted) -> Result<Vec<NodeIdx>, String> {
        match wanted {
            Wanted::Nodes(keys) => {
                let hits: Vec<NodeIdx> = keys.iter().filter_map(|key| self.snapshot.find(key)).collect();
                let ids: Vec<&str> = keys.iter().map(NodeKey::as_str).collect();
                if hits.is_empty() { Err(format!("{} is not in the graph", ids.join(", "))) } else { Ok(hits) }
            }
            Wanted::Anywhere { kind, name } => {
                let snapshot = self.snapshot;
                let hits = self.anywhere.get(kind).and_then(|names| names.get(name)).map_or(&[][..], Vec::as_slice);
                match hits {
                    [] => Err(format!("{kind}:{name} is in no namespace of the graph")),
                    [one] => Ok(vec![*one]),
                    [first, second, ..] => {
                        let (first, second) = (snapshot.key(*first), snapshot.key(*second));
                        Err(format!("{} nodes are called {name}, as {first} and {second}; a label for the namespace is needed", hits.len()))
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::alerts::model::State;
    use crate::testing::{key, snapshot};

    fn alert(labels: serde_json::Value) -> Alert {
        Alert {
            fingerprint: String::new(),
            state: State::Firing,
            labels: serde_json::from_value(labels).expect("labels"),
            annotations: Default::default(),
            starts_ms: 0,
            ends_ms: None,
            updated_ms: 0,
            generator_url: String::new(),
            sender: String::new(),
            severity: 1.0,
            late: false,
            matches: Vec::new(),
            tried: Vec::new(),
        }
    }

    fn graph() -> Snapshot {
        snapshot(json!([
            {"edge": {"from": "service:shop/front", "to": "service:shop/payment"}},
            {"edge": {"from": "service:shop/front", "to": "service:other/cart"}},
            {"edge": {"from": "service:shop/front", "to": "service:shop/cart"}},
            {"edge": {"from": "dataset:postgres:%2F%2Fdb:5432/shop.public.orders", "to": "job:airflow/daily.load"}},
            {"node": {"node": "host:db-1"}},
            {"node": {"node": "workload:shop/payment-v2"}},
            {"alias": {"alias": "service:pay.shop.svc", "canonical": "service:shop/payment", "rule": "dns"}},
        ]))
    }

    fn find(settings: &Settings, snapshot: &Snapshot, labels: serde_json::Value) -> Found {
        let alert = alert(labels);
        Finder::new(snapshot, Topology::Start, settings, std::iter::once(&alert)).find(settings, &alert)
    }

    fn found(settings: &Settings, labels: serde_json::Value) -> Vec<(String, String)> {
        let snapshot = graph();
        let found = find(settings, &snapshot, labels);
        found.matches.into_iter().map(|m| (m.node.to_string(), m.rule)).collect()
    }

    #[test]
    fn the_built_in_rules_find_what_labels_name() {
        for (labels, node, rule) in [
            (json!({"namespace": "shop", "service": "payment"}), "service:shop/payment", "service"),
            (json!({"service": "payment"}), "service:shop/payment", "service in any namespace"),
            (json!({"service": "pay.shop.svc"}), "service:shop/payment", "service"),
            (json!({"isobar_node": "host:db-1", "service": "payment"}), "host:db-1", "isobar_node"),
            (
                json!({"namespace": "shop", "pod": "payment-v2-6d4b75cb6d-hqx5z", "job": "kube-state-metrics"}),
                "workload:shop/payment-v2",
                "pod",
            ),
            (json!({"job": "node-exporter", "instance": "db-1:9100", "service": "payment"}), "host:db-1", "node exporter"),
            (json!({"job": "shop/payment"}), "service:shop/payment", "job"),
            (json!({"instance": "db-1:5432", "job": "nothing"}), "host:db-1", "host"),
            (
                json!({"datname": "shop", "schemaname": "public", "relname": "orders"}),
                "dataset:postgres:%2F%2Fdb:5432/shop.public.orders",
                "table",
            ),
            (json!({"dag_id": "daily", "task_id": "load"}), "job:airflow/daily.load", "pipeline"),
        ] {
            assert_eq!(found(&Settings::default(), labels.clone()), [(node.to_owned(), rule.to_owned())], "{labels}");
        }
    }

    #[test]
    fn what_is_found_nowhere_says_what_was_tried() {
        let snapshot = graph();
        let found = find(&Settings::default(), &snapshot, json!({"service": "cart"}));
        assert!(found.matches.is_empty());
        let reason = |rule: &str| found.tried.iter().find(|t| t.rule == rule).map(|t| t.reason.as_str());
        assert!(reason("service in any namespace").expect("tried").contains("2 nodes are called cart"), "{:?}", found.tried);
        assert!(reason("service").expect("tried").contains("service:cart is not in the graph"), "{:?}", found.tried);
        assert_eq!(reason("isobar_node"), Some("has no label isobar_node"));
        assert!(reason("node exporter").expect("tried").contains("is for alerts with job=~"));
    }

    #[test]
    fn own_rules_come_first_and_may_go_on_or_create() {
        let settings: Settings = serde_json::from_value(json!({
            "matchers": [
                {"name": "one", "match": "{team=\"pay\"}", "node": "service:shop/{{svc}}", "continue": true},
                {"name": "two", "node": ["host:{{box}}", "host:{{other}}"]},
                {"name": "new", "match": "{new!=\"\"}", "node": "application:{{new}}", "create": true},
            ],
            "default_matchers": false,
        }))
        .expect("settings");
        let both = found(&settings, json!({"team": "pay", "svc": "payment", "box": "db-1"}));
        assert_eq!(both, [("service:shop/payment".to_owned(), "one".to_owned()), ("host:db-1".to_owned(), "two".to_owned())]);
        assert_eq!(found(&settings, json!({"service": "payment"})), []);
        let snapshot = graph();
        let created = find(&settings, &snapshot, json!({"new": "shop"}));
        assert_eq!(created.create, [(key("application:shop"), "new".to_owned())]);
    }
}
