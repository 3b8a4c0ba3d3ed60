//! The facts of one file while they are collected: what is said twice becomes one statement, and what cannot be said becomes a warning.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde_json::Value;

use crate::Result;
use crate::event::{AliasFact, EdgeFact, Fact, NodeFact, TypeFact};
use crate::model::{EdgeBody, NodeBody, NodeKey, Relation, TypeBody};

/// Warnings of one file that are kept; further ones are only counted.
pub const MAX_WARNINGS: usize = 50;

/// Longest warning; names may be very long.
const MAX_WARNING_CHARS: usize = 500;

/// See the module. Facts come out in the order of names, so that the same file always makes the same ones.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    types: BTreeMap<String, TypeBody>,
    nodes: BTreeMap<NodeKey, NodeBody>,
    edges: BTreeMap<(NodeKey, NodeKey, Relation), EdgeBody>,
    aliases: BTreeMap<(NodeKey, NodeKey), String>,
    /// What was left out or looks wrong.
    pub warnings: Vec<String>,
    /// Warnings beyond [`MAX_WARNINGS`].
    pub more_warnings: usize,
}

impl Facts {
    /// A type of nodes.
    pub fn kind(&mut self, name: &str, inherits: &str) {
        let body = TypeBody { inherits: Some(inherits.into()), ..TypeBody::default() };
        self.types.entry(name.into()).or_insert(body);
    }

    /// A node. Statements about one node are joined; of two values of one field the first counts.
    pub fn node(&mut self, key: &NodeKey, body: NodeBody) {
        match self.nodes.entry(key.clone()) {
            Entry::Vacant(place) => {
                place.insert(body);
            }
            Entry::Occupied(mut place) => join_nodes(place.get_mut(), body),
        }
    }

    /// That `from` depends on `to`; nothing if they are one.
    pub fn depends(&mut self, from: &NodeKey, to: &NodeKey, body: EdgeBody) {
        self.edge(from, to, Relation::Dependency, body);
    }

    /// That `part` is a part of `whole`.
    pub fn composed(&mut self, whole: &NodeKey, part: &NodeKey, body: EdgeBody) {
        self.edge(whole, part, Relation::Composition, body);
    }

    fn edge(&mut self, from: &NodeKey, to: &NodeKey, relation: Relation, body: EdgeBody) {
        if from == to {
            return;
        }
        match self.edges.entry((from.clone(), to.clone(), relation)) {
            Entry::Vacant(place) => {
                place.insert(body);
            }
            Entry::Occupied(mut place) => join_edges(place.get_mut(), body),
        }
    }

    /// That two names mean one node.
    pub fn alias(&mut self, alias: &NodeKey, canonical: &NodeKey, rule: &str) {
        if alias != canonical {
            self.aliases.entry((alias.clone(), canonical.clone())).or_insert_with(|| rule.into());
        }
    }

    /// Something is left out.
    pub fn warn(&mut self, warning: impl Into<String>) {
        if self.warnings.len() < MAX_WARNINGS {
            let warning: String = warning.into();
            let end = warning.char_indices().nth(MAX_WARNING_CHARS).map_or(warning.len(), |(at, _)| at);
            self.warnings.push(warning[..end].into());
        } else {
            self.more_warnings += 1;
        }
    }

    /// The value, or nothing and a warning with the place.
    pub fn or_warn<T>(&mut self, place: &str, value: Result<T>) -> Option<T> {
        value.map_err(|e| self.warn(e.within(place).to_string())).ok()
    }

    /// Nodes that are named: stated, or ends of edges.
    pub fn node_count(&self) -> usize {
        let ends = self.edges.keys().flat_map(|(from, to, _)| [from, to]);
        self.nodes.keys().chain(ends).collect::<std::collections::BTreeSet<_>>().len()
    }

    /// Edges.
    pub fn edge_count(&self) -> usize {
        self.edges.len()
    }

    /// All of it.
    pub fn into_facts(self) -> Vec<Fact> {
        let types = self.types.into_iter().map(|(name, body)| Fact::Type(TypeFact { name, body }));
        let nodes = self.nodes.into_iter().map(|(node, body)| Fact::Node(NodeFact { node, ttl_ms: 0, body }));
        let edges = self.edges.into_iter().map(|((from, to, relation), body)| Fact::Edge(EdgeFact { from, to, relation, ttl_ms: 0, body }));
        let aliases =
            self.aliases.into_iter().map(|((alias, canonical), rule)| Fact::Alias(AliasFact { alias, canonical, rule, ttl_ms: 0 }));
        types.chain(nodes).chain(edges).chain(aliases).collect()
    }
}

fn join_nodes(old: &mut NodeBody, new: NodeBody) {
    if old.title.is_empty() {
        old.title = new.title;
    }
    if old.description.is_empty() {
        old.description = new.description;
    }
    for owner in new.owners {
        if !old.owners.contains(&owner) {
            old.owners.push(owner);
        }
    }
    for tag in new.tags {
        if !old.tags.contains(&tag) {
            old.tags.push(tag);
        }
    }
    old.criticality = old.criticality.max(new.criticality);
    old.entry |= new.entry;
    for (name, value) in new.attributes {
        old.attributes.entry(name).or_insert(value);
    }
}

/// The statement that has the stronger class counts, the other one adds what that leaves out.
fn join_edges(old: &mut EdgeBody, mut new: EdgeBody) {
    let strength = |b: &EdgeBody| b.class.unwrap_or_default();
    if strength(&new) < strength(old) {
        std::mem::swap(old, &mut new);
    }
    old.class = old.class.or(new.class);
    old.flow = old.flow.or(new.flow);
    old.share = old.share.or(new.share);
    old.coupling = old.coupling.or(new.coupling);
    old.lag_ms = old.lag_ms.or(new.lag_ms);
    // Nobody doubts a statement that has no confidence.
    old.confidence = match (old.confidence, new.confidence) {
        (Some(a), Some(b)) => Some(a.max(b)),
        _ => None,
    };
    if old.group.is_none() && strength(old) == strength(&new) {
        old.group = new.group;
    }
    let Some(said) = new.attributes else { return };
    let attributes = old.attributes.get_or_insert_default();
    for (name, value) in *said {
        match (attributes.get_mut(&name), value) {
            (Some(Value::Array(list)), Value::Array(more)) => {
                for item in more {
                    if !list.contains(&item) {
                        list.push(item);
                    }
                }
            }
            (Some(_), _) => {}
            (None, value) => {
                attributes.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{Attributes, Class};
    use crate::testing::key;

    #[test]
    fn what_is_said_twice_is_said_once() {
        let mut facts = Facts::default();
        let said = |class, confidence, directive: &str| EdgeBody {
            class: Some(class),
            confidence,
            attributes: Some(Box::new(Attributes::from([("directives".to_owned(), json!([directive]))]))),
            ..EdgeBody::default()
        };
        facts.depends(&key("a"), &key("b"), said(Class::Ordering, None, "After"));
        facts.depends(&key("a"), &key("b"), said(Class::Hard, Some(0.5), "Requires"));
        facts.depends(&key("a"), &key("a"), EdgeBody::default());
        facts.node(&key("a"), NodeBody { tags: vec!["x".into()], ..NodeBody::default() });
        facts.node(&key("a"), NodeBody { title: "A".into(), tags: vec!["x".into(), "y".into()], ..NodeBody::default() });
        assert_eq!((facts.node_count(), facts.edge_count()), (2, 1));
        let said = facts.into_facts();
        let [Fact::Node(node), Fact::Edge(edge)] = said.as_slice() else { panic!("{said:?}") };
        assert_eq!((node.body.title.as_str(), node.body.tags.len()), ("A", 2));
        assert_eq!((edge.body.class, edge.body.confidence), (Some(Class::Hard), None));
        assert_eq!(edge.body.attributes.as_ref().expect("there")["directives"], json!(["Requires", "After"]));
    }
}
