//! The temporal graph in memory: everything that the events of a log have said, as of the last entry.
//!
//! The state only grows by events and is the same in every process that has folded the same entries. A [`Frozen`] copy is cheap and
//! does not change; snapshots and checkpoints are made from one, without holding up whoever appends.

pub(crate) mod chunks;
pub(crate) mod fold;
pub(crate) mod check;
pub(crate) mod recent;
pub(crate) mod documents;
pub(crate) mod raws;

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashMap, HashSet, HashTable};
use parking_lot::RwLock;

use crate::history::{Body, Claims, OPEN_MS, SourceId};
use crate::model::{EdgeBody, NodeBody, NodeKey, Relation, TypeBody};
use chunks::Chunks;
use documents::Documents;
use raws::Raws;
use recent::RecentIds;

/// Most different kinds of nodes.
pub const MAX_KINDS: usize = 4096;

/// A node that somebody has ever mentioned. Its index never changes.
#[derive(Clone, Debug)]
pub(crate) struct NodeRecord {
    pub key: NodeKey,
    /// Index of its kind.
    pub kind: u16,
    pub claims: Claims<Arc<NodeBody>>,
}

/// An edge that somebody has ever claimed.
#[derive(Clone, Debug)]
pub(crate) struct EdgeRecord {
    /// The dependent's index.
    pub from: u32,
    /// The provider's index.
    pub to: u32,
    pub relation: Relation,
    pub claims: Claims<EdgeBody>,
}

/// Two names that somebody has ever called one, or two.
#[derive(Clone, Debug, Default)]
pub(crate) struct AliasRecord {
    pub alias: u32,
    pub canonical: u32,
    /// Who says that they are one, by which rule.
    pub same: Claims<Rule>,
    /// Who says that they are not.
    pub apart: Claims<Rule>,
}

/// By which rule two names were joined or taken apart.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rule(pub Arc<str>);

/// Who says something.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SourceRecord {
    pub source: Arc<str>,
    pub scope: Arc<str>,
    /// The latest time of its events.
    pub heard_ms: i64,
}

impl Body for EdgeBody {
    fn says_the_same(&self, other: &Self) -> bool {
        Self::says_the_same(self, other)
    }
}

impl Body for Arc<NodeBody> {
    fn says_the_same(&self, other: &Self) -> bool {
        Self::ptr_eq(self, other) || self == other
    }
}

impl Body for Arc<TypeBody> {
    fn says_the_same(&self, other: &Self) -> bool {
        self == other
    }
}

impl Body for Rule {
    fn says_the_same(&self, other: &Self) -> bool {
        self == other
    }
}

/// Finds nodes by their keys. Indices are only added, so that all copies of the state share it.
#[derive(Debug, Default)]
pub(crate) struct KeyIndex {
    hasher: DefaultHashBuilder,
    table: RwLock<HashTable<u32>>,
}

impl KeyIndex {
    /// The index of a key among `nodes`.
    pub fn find(&self, key: &NodeKey, nodes: &Chunks<NodeRecord>) -> Option<u32> {
        let hash = self.hasher.hash_one(key.as_str());
        self.table.read().find(hash, |&i| nodes.get(i).is_some_and(|n| n.key == *key)).copied()
    }

    fn insert(&self, index: u32, nodes: &Chunks<NodeRecord>) {
        let hash = |i: u32| self.hasher.hash_one(nodes[i].key.as_str());
        self.table.write().insert_unique(hash(index), index, |&i| hash(i));
    }

    /// Makes room for so many more.
    pub fn reserve(&self, additional: usize, nodes: &Chunks<NodeRecord>) {
        self.table.write().reserve(additional, |&i| self.hasher.hash_one(nodes[i].key.as_str()));
    }
}

/// A copy that does not change.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frozen {
    /// Number of the last entry of the log that is in it.
    pub version: u64,
    /// Changes when the graph does, and not when something is merely said again.
    pub epoch: u64,
    pub kinds: Chunks<Arc<str>>,
    pub sources: Chunks<SourceRecord>,
    pub nodes: Chunks<NodeRecord>,
    pub edges: Chunks<EdgeRecord>,
    pub aliases: Chunks<AliasRecord>,
    pub types: Chunks<(Arc<str>, Claims<Arc<TypeBody>>)>,
    pub keys: Arc<KeyIndex>,
}

/// What a claim is about, so that a source's claims can be found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Node(u32),
    Edge(u32),
    Same(u32),
    Apart(u32),
    Type(u32),
}

/// The graph that events change.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub frozen: Frozen,
    pub recent: RecentIds,
    /// What is kept beside the graph. It has no history.
    pub documents: Documents,
    /// Where the events are that came as text.
    pub raws: Raws,
    source_ids: HashMap<(Arc<str>, Arc<str>), SourceId>,
    /// By source, everything that it has ever claimed.
    subjects: Vec<Vec<Subject>>,
    kind_ids: HashMap<Arc<str>, u16>,
    edge_ids: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Edges of a composition by the whole, and aliases by either name: what cycles are looked for in.
    parts: HashMap<u32, Vec<u32>>,
    is_part: HashSet<u32>,
    alias_ids: HashMap<(u32, u32), u32>,
    alias_of: HashMap<u32, Vec<u32>>,
    type_ids: HashMap<Arc<str>, u32>,
    /// What most nodes have.
    empty_body: Arc<NodeBody>,
}

/// What folding events has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Changes {
    /// The graph is another one.
    pub changed: bool,
    /// Things that were said again would not have been live at this time without it. [`OPEN_MS`] if there are none.
    pub prolonged_ms: i64,
}

impl Default for Changes {
    fn default() -> Self {
        Self { changed: false, prolonged_ms: OPEN_MS }
    }
}

impl Frozen {
    /// The index of a node that was ever mentioned.
    pub fn find(&self, key: &NodeKey) -> Option<u32> {
        self.keys.find(key, &self.nodes)
    }

    /// The source and scope of a claim.
    pub fn source(&self, id: SourceId) -> &SourceRecord {
        &self.sources[id]
    }
}

impl State {
    fn node_id(&mut self, key: &NodeKey) -> u32 {
        if let Some(id) = self.frozen.find(key) {
            return id;
        }
        let kind = self.kind_id(key.kind());
        self.add_node(NodeRecord { key: key.clone(), kind, claims: Claims::default() })
    }

    pub(crate) fn add_node(&mut self, record: NodeRecord) -> u32 {
        let id = self.frozen.nodes.push(record);
        self.frozen.keys.insert(id, &self.frozen.nodes);
        id
    }

    pub(crate) fn kind_id(&mut self, kind: &str) -> u16 {
        if let Some(id) = self.kind_ids.get(kind) {
            return *id;
        }
        let name: Arc<str> = kind.into();
        let id = self.frozen.kinds.push(name.clone()) as u16;
        self.kind_ids.insert(name, id);
        id
    }

    fn edge_hash(&self, from: u32, to: u32, relation: Relation) -> u64 {
        self.hasher.hash_one((from, to, relation))
    }

    fn find_edge(&self, from: u32, to: u32, relation: Relation) -> Option<u32> {
        let same = |&i: &u32| {
            let edge = &self.frozen.edges[i];
            (edge.from, edge.to, edge.relation) == (from, to, relation)
        };
        self.edge_ids.find(self.edge_hash(from, to, relation), same).copied()
    }

    fn edge_id(&mut self, from: u32, to: u32, relation: Relation) -> u32 {
        if let Some(id) = self.find_edge(from, to, relation) {
            return id;
        }
        self.add_edge(EdgeRecord { from, to, relation, claims: Claims::default() })
    }

    pub(crate) fn add_edge(&mut self, record: EdgeRecord) -> u32 {
        let (from, to, relation) = (record.from, record.to, record.relation);
        let id = self.frozen.edges.push(record);
        let hash = self.edge_hash(from, to, relation);
        let (edges, hasher) = (&self.frozen.edges, &self.hasher);
        self.edge_ids.insert_unique(hash, id, |&i| hasher.hash_one((edges[i].from, edges[i].to, edges[i].relation)));
        if relation == Relation::Composition {
            self.parts.entry(from).or_default().push(id);
            self.is_part.insert(to);
        }
        id
    }

    fn alias_id(&mut self, alias: u32, canonical: u32) -> u32 {
        if let Some(id) = self.alias_ids.get(&(alias, canonical)) {
            return *id;
        }
        self.add_alias(AliasRecord { alias, canonical, ..AliasRecord::default() })
    }

    pub(crate) fn add_alias(&mut self, record: AliasRecord) -> u32 {
        let (alias, canonical) = (record.alias, record.canonical);
        let id = self.frozen.aliases.push(record);
        self.alias_ids.insert((alias, canonical), id);
        self.alias_of.entry(alias).or_default().push(id);
        self.alias_of.entry(canonical).or_default().push(id);
        id
    }

    fn type_id(&mut self, name: &str) -> u32 {
        if let Some(id) = self.type_ids.get(name) {
            return *id;
        }
        self.add_type(name.into(), Claims::default())
    }

    pub(crate) fn add_type(&mut self, name: Arc<str>, claims: Claims<Arc<TypeBody>>) -> u32 {
        let id = self.frozen.types.push((name.clone(), claims));
        self.type_ids.insert(name, id);
        id
    }

    fn source_id(&mut self, source: &str, scope: &str) -> SourceId {
        let key: (Arc<str>, Arc<str>) = (source.into(), scope.into());
        if let Some(id) = self.source_ids.get(&key) {
            return *id;
        }
        self.add_source(SourceRecord { source: key.0, scope: key.1, heard_ms: 0 })
    }

    pub(crate) fn add_source(&mut self, record: SourceRecord) -> SourceId {
        let key = (record.source.clone(), record.scope.clone());
        let id = self.frozen.sources.push(record);
        self.source_ids.insert(key, id);
        self.subjects.push(Vec::new());
        id
    }

    /// Notes that a source claims something, for what was read from a checkpoint.
    pub(crate) fn add_subject(&mut self, source: SourceId, subject: Subject) {
        if let Some(subjects) = self.subjects.get_mut(source as usize) {
            subjects.push(subject);
        }
    }

    /// Makes room for what a checkpoint holds.
    pub(crate) fn reserve(&mut self, nodes: usize, edges: usize) {
        self.frozen.keys.reserve(nodes, &self.frozen.nodes);
        let (records, hasher) = (&self.frozen.edges, &self.hasher);
        self.edge_ids.reserve(edges, |&i| hasher.hash_one((records[i].from, records[i].to, records[i].relation)));
    }
}

#[cfg(test)]
mod tests;
