//! What an event must not do to the graph that is there: close a cycle of compositions or of inheritance, give an attribute a value
//! of the wrong type, or bring in more kinds of nodes than there may be.
//!
//! Who commits an entry of the log knows all entries before it, so that a checked event is valid wherever it is folded.

use hashbrown::{HashMap, HashSet};

use super::{MAX_KINDS, State};
use crate::event::{Event, Fact};
use crate::model::{NodeKey, Relation, TypeBody, TypeTable};
use crate::{Error, Result};

/// A search for a cycle gives up after so many nodes. No real composition is as large.
pub const MAX_SEARCHED: usize = 1 << 20;

/// What accepted events of the same entry will add.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    parts: HashMap<NodeKey, Vec<NodeKey>>,
    is_part: HashSet<NodeKey>,
    aliases: HashMap<NodeKey, Vec<NodeKey>>,
    types: HashMap<String, Vec<TypeBody>>,
    kinds: HashSet<String>,
    table: Option<TypeTable>,
}

impl State {
    /// Checks an event against the graph and what is pending, and adds it to what is pending.
    ///
    /// # Errors
    /// [`Error::Cycle`] with the names along it; [`Error::Invalid`] with the path of the field. Then nothing of the event is pending
    /// but, at worst, some of its first facts, which can only make later events of the same entry be refused.
    pub fn check(&self, event: &Event, pending: &mut Pending) -> Result<()> {
        for (i, fact) in event.facts.iter().enumerate() {
            self.check_fact(event.at_ms, fact, pending).map_err(|e| e.within(&format!("facts[{i}]")))?;
        }
        Ok(())
    }

    fn check_fact(&self, at_ms: i64, fact: &Fact, pending: &mut Pending) -> Result<()> {
        match fact {
            Fact::Node(fact) => {
                self.check_kind(fact.node.kind(), pending)?;
                if fact.body.attributes.is_empty() {
                    return Ok(());
                }
                let types = &pending.types;
                let table = pending.table.get_or_insert_with(|| {
                    let said = types.iter().filter_map(|(name, bodies)| Some((name, bodies.last()?)));
                    said.fold(self.type_table(), |table, (name, body)| table.with(name, body))
                });
                table.check_attributes(fact.node.kind(), &fact.body.attributes).map_err(|e| e.within("node.body"))
            }
            Fact::Edge(fact) => {
                self.check_kind(fact.from.kind(), pending)?;
                self.check_kind(fact.to.kind(), pending)?;
                if fact.relation == Relation::Dependency {
                    return Ok(());
                }
                if self.may_be_part(&fact.from, at_ms, pending)
                    && let Some(mut path) = self.composition_path(&fact.to, &fact.from, at_ms, pending)?
                {
                    path.insert(0, fact.from.to_string());
                    return Err(Error::Cycle { relation: "composition", path });
                }
                pending.parts.entry(fact.from.clone()).or_default().push(fact.to.clone());
                pending.is_part.insert(fact.to.clone());
                Ok(())
            }
            Fact::Alias(fact) => {
                self.check_kind(fact.alias.kind(), pending)?;
                self.check_kind(fact.canonical.kind(), pending)?;
                for (from, to) in [(&fact.alias, &fact.canonical), (&fact.canonical, &fact.alias)] {
                    if let Some(mut path) = self.composition_path(from, to, at_ms, pending)?.filter(|p| p.len() > 1) {
                        path.push(from.to_string());
                        return Err(Error::Cycle { relation: "composition", path });
                    }
                }
                pending.aliases.entry(fact.alias.clone()).or_default().push(fact.canonical.clone());
                pending.aliases.entry(fact.canonical.clone()).or_default().push(fact.alias.clone());
                Ok(())
            }
            Fact::Type(fact) => {
                self.check_kind(&fact.name, pending)?;
                self.check_type(at_ms, &fact.name, &fact.body, pending)?;
                pending.types.entry(fact.name.clone()).or_default().push(fact.body.clone());
                if let Some(table) = &mut pending.table {
                    *table = table.with(&fact.name, &fact.body);
                }
                Ok(())
            }
            Fact::Separate(pair) => {
                self.check_kind(pair.alias.kind(), pending)?;
                self.check_kind(pair.canonical.kind(), pending)
            }
            Fact::Document(fact) => self.check_kind(fact.node.kind(), pending),
            // What nobody has ever said is not there to be withdrawn.
            Fact::NodeGone(_) | Fact::EdgeGone(_) | Fact::AliasGone(_) | Fact::SeparateGone(_) | Fact::TypeGone(_) => Ok(()),
        }
    }

    fn check_kind(&self, kind: &str, pending: &mut Pending) -> Result<()> {
        if self.kind_ids.contains_key(kind) || pending.kinds.contains(kind) {
            return Ok(());
        }
        if self.frozen.kinds.len() + pending.kinds.len() >= MAX_KINDS {
            let reason =
                format!("{kind} would be one kind of nodes more than {MAX_KINDS}; use kinds for what nodes are, not for their names");
            return Err(Error::invalid("kind", reason));
        }
        pending.kinds.insert(kind.into());
        Ok(())
    }

    /// The types that are in force now. Of several statements about one type the latest counts.
    pub fn type_table(&self) -> TypeTable {
        let declared = self.frozen.types.iter().filter_map(|(name, claims)| {
            let (_, version) = claims.open().max_by_key(|(_, v)| v.from_ms)?;
            Some((name.to_string(), version.body.clone()))
        });
        TypeTable::new(declared)
    }

    fn check_type(&self, at_ms: i64, name: &str, body: &TypeBody, pending: &Pending) -> Result<()> {
        let parents = |t: &TypeBody| t.inherits.iter().cloned().collect::<Vec<_>>();
        if let Some(path) = self.type_path(at_ms, name, &parents(body), pending, parents) {
            return Err(Error::Cycle { relation: "inheritance", path });
        }
        let components = |t: &TypeBody| t.composed_of.clone();
        if let Some(path) = self.type_path(at_ms, name, &body.composed_of, pending, components) {
            return Err(Error::Cycle { relation: "composition of types", path });
        }
        Ok(())
    }

    /// A way from one of `starts` back to the type `goal`, with `goal` at both ends.
    fn type_path(
        &self,
        at_ms: i64,
        goal: &str,
        starts: &[String],
        pending: &Pending,
        next: impl Fn(&TypeBody) -> Vec<String>,
    ) -> Option<Vec<String>> {
        let mut came: HashMap<String, String> = HashMap::new();
        let mut todo: Vec<String> = Vec::new();
        for start in starts {
            if came.insert(start.clone(), goal.into()).is_none() {
                todo.push(start.clone());
            }
        }
        while let Some(name) = todo.pop() {
            if name == goal {
                return Some(trace(&came, goal));
            }
            let known = self.type_ids.get(name.as_str()).map(|id| &self.frozen.types[*id].1);
            let stored = known.into_iter().flat_map(|c| c.at(at_ms)).map(|(_, v, _)| &*v.body);
            for body in stored.chain(pending.types.get(&name).into_iter().flatten()) {
                for other in next(body) {
                    if !came.contains_key(&other) {
                        came.insert(other.clone(), name.clone());
                        todo.push(other);
                    }
                }
            }
        }
        None
    }

    /// Whether something may be composed of the node; only then can a new part of it close a cycle.
    fn may_be_part(&self, node: &NodeKey, at_ms: i64, pending: &Pending) -> bool {
        if pending.is_part.contains(node) || pending.aliases.contains_key(node) {
            return true;
        }
        let id = self.frozen.find(node);
        id.is_some_and(|id| self.is_part.contains(&id) || !self.same_as(id, at_ms).is_empty())
    }

    /// Other names of a node, one step away.
    fn same_as(&self, id: u32, at_ms: i64) -> Vec<u32> {
        let records = self.alias_of.get(&id).into_iter().flatten().map(|i| &self.frozen.aliases[*i]);
        let joined = records.filter(|r| r.same.at(at_ms).next().is_some() && r.apart.at(at_ms).next().is_none());
        joined.map(|r| if r.alias == id { r.canonical } else { r.alias }).collect()
    }

    /// The names along a way from a whole down to one of its parts, both ends inside; of other names of one node too.
    fn composition_path(&self, from: &NodeKey, to: &NodeKey, at_ms: i64, pending: &Pending) -> Result<Option<Vec<String>>> {
        let mut came: HashMap<NodeKey, (NodeKey, bool)> = HashMap::new();
        let mut todo = vec![from.clone()];
        came.insert(from.clone(), (from.clone(), false));
        while let Some(key) = todo.pop() {
            if key == *to {
                return Ok(Some(unwind(&came, from, to)));
            }
            if came.len() > MAX_SEARCHED {
                return Err(Error::invalid("to", format!("{from} has more than {MAX_SEARCHED} parts; split it")));
            }
            let mut visit = |next: NodeKey, is_part: bool| {
                if !came.contains_key(&next) {
                    came.insert(next.clone(), (key.clone(), is_part));
                    todo.push(next);
                }
            };
            if let Some(id) = self.frozen.find(&key) {
                let edges = self.parts.get(&id).into_iter().flatten().map(|e| &self.frozen.edges[*e]);
                for edge in edges.filter(|e| e.claims.at(at_ms).next().is_some()) {
                    visit(self.frozen.nodes[edge.to].key.clone(), true);
                }
                for other in self.same_as(id, at_ms) {
                    visit(self.frozen.nodes[other].key.clone(), false);
                }
            }
            pending.parts.get(&key).into_iter().flatten().for_each(|part| visit(part.clone(), true));
            pending.aliases.get(&key).into_iter().flatten().for_each(|same| visit(same.clone(), false));
        }
        Ok(None)
    }
}

/// From `from` to `to`, with one name for each part.
fn unwind(came: &HashMap<NodeKey, (NodeKey, bool)>, from: &NodeKey, to: &NodeKey) -> Vec<String> {
    let mut path = Vec::new();
    let mut at = to;
    loop {
        let (previous, is_part) = &came[at];
        if *is_part || at == from {
            path.push(at.to_string());
        }
        if at == from {
            break;
        }
        at = previous;
    }
    path.reverse();
    path
}

fn trace(came: &HashMap<String, String>, goal: &str) -> Vec<String> {
    let mut path = vec![goal.to_owned()];
    let mut at = &came[goal];
    while at != goal {
        path.push(at.clone());
        at = &came[at];
    }
    path.push(goal.into());
    path.reverse();
    path
}
