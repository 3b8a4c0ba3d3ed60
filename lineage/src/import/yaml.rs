//! Isobar's own YAML: types, nodes with what they need and consist of, edges, aliases.
//!
//! ```yaml
//! types:
//!   kafka-cluster: {inherits: cluster, composed_of: [host], attributes: {version: {type: text, required: true}}}
//! nodes:
//!   - id: service:shop/payment
//!     owners: [team-payments]
//!     criticality: critical
//!     depends_on:
//!       - service:shop/ledger
//!       - {to: service:shop/fraud, class: soft, share: 0.2}
//!   - id: kafka-cluster:main
//!     composed_of:
//!       - {to: "host:k1", group: {id: brokers, k: 2, n: 3}}
//! edges:
//!   - {from: "dataset:wh/revenue", to: "job:etl/daily", lag: 15m}
//! aliases:
//!   - {alias: "workload:k8s/payment", canonical: "service:shop/payment"}
//! separate:
//!   - {alias: "service:old/payment", canonical: "service:shop/payment", rule: "two different ones"}
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::event::{AliasFact, EdgeFact, Event, Fact, MAX_EVENT_BYTES, NodeFact, Pair, TypeFact, too_large};
use crate::model::{Attributes, Class, Criticality, EdgeBody, Flow, Group, NodeBody, NodeKey, Owner, Relation, TypeBody};
use crate::state::recent::RecentIds;
use crate::{Error, Result};

/// The source of facts from such files, unless a file names another one.
pub const SOURCE: &str = "yaml";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    source: Option<String>,
    scope: Option<String>,
    #[serde(default)]
    types: BTreeMap<String, TypeBody>,
    #[serde(default)]
    nodes: Vec<Node>,
    #[serde(default)]
    edges: Vec<Edge>,
    #[serde(default)]
    aliases: Vec<Alias>,
    #[serde(default)]
    separate: Vec<Alias>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    id: NodeKey,
    #[serde(default)]
    title: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    owners: Vec<TextOr<Owner>>,
    criticality: Option<Criticality>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    entry: bool,
    #[serde(default)]
    attributes: Attributes,
    ttl: Option<Duration>,
    #[serde(default)]
    depends_on: Vec<TextOr<Edge>>,
    #[serde(default)]
    composed_of: Vec<TextOr<Edge>>,
    #[serde(default)]
    aliases: Vec<NodeKey>,
}

/// An edge; below a node, only its other end.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Edge {
    from: Option<NodeKey>,
    relation: Option<Relation>,
    to: NodeKey,
    class: Option<Class>,
    flow: Option<Flow>,
    group: Option<Group>,
    share: Option<f32>,
    coupling: Option<f32>,
    lag: Option<Duration>,
    confidence: Option<f32>,
    ttl: Option<Duration>,
    attributes: Option<Attributes>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Alias {
    alias: NodeKey,
    canonical: NodeKey,
    #[serde(default = "by_hand")]
    rule: String,
}

fn by_hand() -> String {
    "yaml".into()
}

/// Text, or a mapping with more.
struct TextOr<T>(T);

/// Milliseconds, written with units as in `1h30m`.
#[derive(Clone, Copy)]
struct Duration(i64);

/// What can stand as one text.
trait FromText: Sized {
    const EXPECTED: &'static str;

    fn from_text(text: &str) -> Result<Self, String>;
}

impl FromText for Owner {
    const EXPECTED: &'static str = "an owner's name, or a mapping with name and role";

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(Self { name: text.into(), role: String::new() })
    }
}

impl FromText for Edge {
    const EXPECTED: &'static str = "a node id, or a mapping with to, class, share …";

    fn from_text(text: &str) -> Result<Self, String> {
        let to = NodeKey::parse(text).map_err(|e| e.to_string())?;
        let (from, relation, class, flow, group, share, coupling, lag, confidence, ttl, attributes) = Default::default();
        Ok(Self { from, relation, to, class, flow, group, share, coupling, lag, confidence, ttl, attributes })
    }
}

impl<'de, T: FromText + Deserialize<'de>> Deserialize<'de> for TextOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: FromText + Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
                T::from_text(text).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_any(Either(PhantomData)).map(TextOr)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        duration_ms(&text)
            .map(Duration)
            .ok_or_else(|| de::Error::custom(format!("{text:?} is no duration; write it as in 90s, 15m or 1h30m")))
    }
}

/// Milliseconds of a text such as `1h30m`.
fn duration_ms(text: &str) -> Option<i64> {
    let (mut total, mut rest) = (0_i64, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit_ms = match &rest[..end] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit_ms)?)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total)
}

/// The event that says everything which a file says as of `at_ms`. `scope` names the file, and stands in errors.
///
/// # Errors
/// [`Error::Invalid`] if it is no such file, with the line and column, or breaks a rule, with the path of the field.
pub fn event(text: &str, scope: &str, at_ms: i64) -> Result<Event> {
    if text.len() > MAX_EVENT_BYTES {
        return Err(too_large(text.len()).within(scope));
    }
    let file: File = serde_saphyr::from_str(text).map_err(|e| Error::invalid(scope, e.without_snippet().to_string()))?;
    let source = file.source.unwrap_or_else(|| SOURCE.into());
    let scope = file.scope.unwrap_or_else(|| scope.into());
    let id = format!("{source}-{at_ms}-{:032x}", RecentIds::hash(&format!("{scope}\n{text}")));
    let mut event = Event::new(id, source, scope, at_ms);
    event.complete_since_ms = Some(at_ms);
    event.facts.extend(file.types.into_iter().map(|(name, body)| Fact::Type(TypeFact { name, body })));
    for (i, node) in file.nodes.into_iter().enumerate() {
        add_node(node, &mut event.facts).map_err(|e| e.within(&format!("{}.nodes[{i}]", event.scope)))?;
    }
    for (i, mut e) in file.edges.into_iter().enumerate() {
        let missing = || Error::invalid(format!("{}.edges[{i}].from", event.scope), "is missing; name the dependent, or the whole");
        let from = e.from.take().ok_or_else(missing)?;
        let relation = e.relation.unwrap_or_default();
        event.facts.push(edge(from, e, relation));
    }
    event.facts.extend(file.aliases.into_iter().map(|a| Fact::alias(a.alias, a.canonical, a.rule)));
    let apart = |a: Alias| Fact::Separate(Pair { alias: a.alias, canonical: a.canonical, rule: a.rule });
    event.facts.extend(file.separate.into_iter().map(apart));
    event.check(at_ms).map_err(|e| e.within(&event.scope.clone()))?;
    Ok(event)
}

fn add_node(node: Node, facts: &mut Vec<Fact>) -> Result<()> {
    let body = NodeBody {
        title: node.title,
        description: node.description,
        owners: node.owners.into_iter().map(|o| o.0).collect(),
        criticality: node.criticality,
        tags: node.tags,
        entry: node.entry,
        attributes: node.attributes,
        ..NodeBody::default()
    };
    let id = node.id;
    facts.push(Fact::Node(NodeFact { node: id.clone(), ttl_ms: node.ttl.map_or(0, |d| d.0), body }));
    for (field, relation, edges) in
        [("depends_on", Relation::Dependency, node.depends_on), ("composed_of", Relation::Composition, node.composed_of)]
    {
        for TextOr(e) in edges {
            if e.from.is_some() || e.relation.is_some() {
                return Err(Error::invalid(field, "needs no from and no relation, since it stands below a node; leave them out"));
            }
            facts.push(edge(id.clone(), e, relation));
        }
    }
    let alias = |alias| Fact::Alias(AliasFact { alias, canonical: id.clone(), rule: by_hand(), ttl_ms: 0 });
    facts.extend(node.aliases.into_iter().map(alias));
    Ok(())
}

fn edge(from: NodeKey, target: Edge, relation: Relation) -> Fact {
    let body = EdgeBody {
        class: target.class,
        flow: target.flow,
        group: target.group.map(Box::new),
        share: target.share,
        coupling: target.coupling,
        lag_ms: target.lag.map(|d| d.0),
        confidence: target.confidence,
        attributes: target.attributes.map(Box::new),
        ..EdgeBody::default()
    };
    Fact::Edge(EdgeFact { from, to: target.to, relation, ttl_ms: target.ttl.map_or(0, |d| d.0), body })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{fold, key};

    const SHOP: &str = r#"
types:
  kafka-cluster: {inherits: cluster, composed_of: [host], attributes: {version: {type: text, required: true}, tier: {type: {one_of: [a, b]}}}}
nodes:
  - id: service:shop/payment
    title: Payment
    owners: [team-payments, {name: alice, role: lead}]
    criticality: critical
    aliases: ["workload:k8s/payment"]
    depends_on:
      - service:shop/ledger
      - {to: service:shop/fraud, class: soft, share: 0.2}
  - id: kafka-cluster:main
    attributes: {version: "3.9", tier: a}
    composed_of:
      - {to: "host:k1", group: {id: brokers, k: 1}}
      - {to: "host:k2", group: {id: brokers, k: 1}}
edges:
  - {from: "dataset:wh/revenue", to: "job:etl/daily", lag: 1h30m}
separate:
  - {alias: "service:old/payment", canonical: "service:shop/payment", rule: two different ones}
"#;

    #[test]
    fn a_file_becomes_a_graph() {
        let graph = fold(vec![event(SHOP, "shop.yml", 100).expect("valid")], 200);
        let payment = graph.node(graph.get(&key("workload:k8s/payment")).expect("by its alias"));
        assert_eq!((payment.name.as_str(), payment.owners.len(), payment.criticality), ("Payment", 2, Criticality::Critical));
        let (lag, _) = graph.providers(graph.get(&key("dataset:wh/revenue")).expect("there")).next().expect("the job");
        assert_eq!((graph.edge(lag).lag_ms, graph.edge(lag).flow), (Some(5_400_000), Flow::Data));
        let cluster = graph.get(&key("kafka-cluster:main")).expect("there");
        assert!(graph.providers(cluster).all(|(e, _)| graph.edge(e).group.as_ref().is_some_and(|g| g.k == 1)));
        assert_eq!(graph.node(cluster).kinds, ["kafka-cluster", "cluster"]);
    }

    #[test]
    fn what_vanished_from_the_file_is_withdrawn() {
        let first = event(SHOP, "shop.yml", 100).expect("valid");
        let less = SHOP.replace("      - {to: service:shop/fraud, class: soft, share: 0.2}\n", "");
        let second = event(&less, "shop.yml", 300).expect("valid");
        let other = event("nodes: [{id: service:shop/fraud}]", "other.yml", 50).expect("valid");
        let events = vec![other, first, second];
        let fraud = key("service:shop/fraud");
        let (before, after) = (fold(events.clone(), 200), fold(events, 300));
        assert_eq!((before.edge_count(), after.edge_count()), (5, 4));
        assert!(after.find(&fraud).is_some(), "another file still has it");
    }

    #[test]
    fn errors_say_where() {
        for (text, wanted) in [
            ("nodes:\n  - id: payment\n", "no node id"),
            ("nodes:\n  - id: service:a\n    depends_on: [{to: 'service:b', clas: hard}]\n", "clas"),
            ("nodes:\n  - id: service:a\n    depends_on: [3]\n", "a node id, or a mapping"),
            ("edges: [{from: 'a:b', to: 'a:c', lag: 5}]", "no duration"),
            ("edges: [{from: 'a:b', to: 'a:c', share: 2}]", "facts[0].edge.body.share"),
            ("edges: [{to: 'a:c'}]", "edges[0].from: is missing"),
            ("nodes: [{id: 'a:b', depends_on: [{from: 'a:c', to: 'a:d'}]}]", "nodes[0].depends_on: needs no from"),
            ("nodes: [", "line"),
        ] {
            let error = event(text, "x.yml", 1).expect_err(text).to_string();
            assert!(error.contains(wanted) && error.starts_with("x.yml"), "{text}: {error}");
        }
        assert_eq!(
            ["1h30m", "90s", "5", "", "5x", "99999999999999999999d"].map(duration_ms),
            [Some(5_400_000), Some(90_000), None, None, None, None]
        );
    }
}
