//! The graph as of one time, laid out for walking: it never changes, and every question is asked of one.
//!
//! Nodes and edges are numbered densely. Names that mean one node are one node here. Edges stand by dependent, members of a redundancy
//! group beside each other, and a second list leads from the provider back to its dependents, those first that a failure takes.

mod build;
mod shares;
mod effective;
mod merge;
mod view;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use hashbrown::HashMap;
use serde::Serialize;

use crate::analysis::dominators::Dominators;
use crate::analysis::order::Order;
use crate::model::{Class, Criticality, Flow, NodeKey, Relation, TypeTable};
use crate::state::Frozen;
use crate::{Error, Result};

pub use view::{AliasView, ClaimView, EdgeClaimView, EdgeView, NodeRef, NodeView};

/// A node of one snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIdx(pub u32);

/// An edge of one snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EdgeIdx(pub u32);

/// No such index.
pub(crate) const NONE: u32 = u32::MAX;

/// Stale: not seen for longer than its TTL.
pub(crate) const STALE: u8 = 1;
/// The provider is something that the dependent runs on.
pub(crate) const HOSTING: u8 = 2;
/// A failure of the provider can reach the dependent.
pub(crate) const PROPAGATES: u8 = 4;

/// It takes its share, and what it does in each world, from another edge.
pub(crate) const BORROWED: u8 = 8;

/// What walks need to know about an edge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Edge {
    /// The provider.
    pub to: u32,
    /// Probability that a failure of the provider reaches a request to the dependent.
    pub probability: f32,
    /// Index of its redundancy group, or [`NONE`].
    pub group: u32,
    /// Index of its record.
    pub record: u32,
    pub class: Class,
    pub flow: Flow,
    pub relation: Relation,
    pub marks: u8,
}

/// An edge, seen from the provider.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Back {
    /// The dependent.
    pub from: u32,
    /// The edge's index.
    pub edge: u32,
}

/// Providers that stand in for each other.
#[derive(Clone, Debug)]
pub(crate) struct GroupInfo {
    /// So many have to work.
    pub k: u32,
    /// So many there are, known or not.
    pub n: u32,
    /// Probability that a failure of the group reaches a request to the dependent.
    pub probability: f32,
}

/// What a source has contributed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceSummary {
    /// Its name.
    pub source: String,
    /// How many scopes of it have spoken.
    pub scopes: u32,
    /// The latest time of its events, Unix milliseconds.
    pub heard_ms: i64,
}

/// What all snapshots of an unchanged time share.
#[derive(Debug)]
pub(crate) struct Graph {
    pub(crate) frozen: Frozen,
    /// The time for which it was made.
    pub(crate) built_ms: i64,
    /// First later millisecond at which the graph would be another one.
    pub(crate) next_change_ms: i64,
    /// By node, the record of its name.
    pub(crate) records: Vec<u32>,
    /// By record, its node or [`NONE`].
    pub(crate) node_of: Vec<u32>,
    /// By node that has several names, the records of all.
    pub(crate) names: HashMap<u32, Vec<u32>>,
    pub(crate) criticality: Vec<Criticality>,
    /// Whether a node was declared to be an entry.
    pub(crate) entry: Vec<bool>,
    pub(crate) types: TypeTable,
    pub(crate) out_start: Vec<u32>,
    pub(crate) edges: Vec<Edge>,
    /// By edge that several records stand for, the others.
    pub(crate) other_records: HashMap<u32, Vec<u32>>,
    /// By edge that is marked as borrowing, the edge that it follows.
    pub(crate) borrowed: HashMap<u32, u32>,
    pub(crate) in_start: Vec<u32>,
    /// By node, where those of its dependents end that a failure takes.
    pub(crate) in_reached: Vec<u32>,
    pub(crate) back: Vec<Back>,
    pub(crate) groups: Vec<GroupInfo>,
    pub(crate) sources: Vec<SourceSummary>,
    /// Merges that could not be made.
    pub(crate) conflicts: Vec<crate::analysis::Unresolved>,
    pub(crate) order: OnceLock<Order>,
    pub(crate) dominators: OnceLock<Dominators>,
}

/// The graph as of one time.
#[derive(Clone, Debug)]
pub struct Snapshot {
    at_ms: i64,
    pub(crate) graph: Arc<Graph>,
}

impl Snapshot {
    pub(crate) fn new(frozen: Frozen, at_ms: i64) -> Self {
        Self { at_ms, graph: Arc::new(build::build(frozen, at_ms)) }
    }

    /// The same graph as of another time, if nothing has changed in between.
    pub(crate) fn at(&self, at_ms: i64) -> Option<Self> {
        (self.graph.built_ms <= at_ms && at_ms < self.graph.next_change_ms).then(|| Self { at_ms, graph: self.graph.clone() })
    }

    /// As of when it is, Unix milliseconds.
    pub fn at_ms(&self) -> i64 {
        self.at_ms
    }

    /// The time for which the graph was laid out; nothing has changed since then until the time that it is as of.
    pub(crate) fn built_ms(&self) -> i64 {
        self.graph.built_ms
    }

    /// Number of the last entry of the log that is in it.
    pub fn version(&self) -> u64 {
        self.graph.frozen.version
    }

    /// The first later millisecond at which something becomes stale, ends or begins, as far as is known; `i64::MAX` for never.
    pub fn next_change_ms(&self) -> i64 {
        self.graph.next_change_ms
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.graph.records.len()
    }

    /// How many edges there are.
    pub fn edge_count(&self) -> usize {
        self.graph.edges.len()
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = NodeIdx> + use<> {
        (0..self.graph.records.len() as u32).map(NodeIdx)
    }

    /// All edges.
    pub fn edges(&self) -> impl Iterator<Item = EdgeIdx> + use<> {
        (0..self.graph.edges.len() as u32).map(EdgeIdx)
    }

    /// The node of a name, which may be an alias.
    pub fn find(&self, key: &NodeKey) -> Option<NodeIdx> {
        let record = self.graph.frozen.find(key)?;
        self.graph.node_of.get(record as usize).copied().filter(|n| *n != NONE).map(NodeIdx)
    }

    /// The node of a name, which may be an alias.
    ///
    /// # Errors
    /// [`Error::Unknown`] if it is not in the graph at that time.
    pub fn get(&self, key: &NodeKey) -> Result<NodeIdx> {
        self.find(key).ok_or_else(|| Error::Unknown { node: key.to_string(), at_ms: self.at_ms })
    }

    /// The name that a node goes by.
    pub fn key(&self, node: NodeIdx) -> &NodeKey {
        &self.graph.frozen.nodes[self.graph.records[node.0 as usize]].key
    }

    /// What kind of node it is.
    pub fn kind(&self, node: NodeIdx) -> &str {
        let record = &self.graph.frozen.nodes[self.graph.records[node.0 as usize]];
        &self.graph.frozen.kinds[u32::from(record.kind)]
    }

    /// How much it matters.
    pub fn criticality(&self, node: NodeIdx) -> Criticality {
        self.graph.criticality[node.0 as usize]
    }

    /// The types of nodes as of this time.
    pub fn types(&self) -> &TypeTable {
        &self.graph.types
    }

    /// What the node depends on or is composed of: providers, with their edges.
    pub fn providers(&self, node: NodeIdx) -> impl Iterator<Item = (EdgeIdx, NodeIdx)> {
        self.graph.out(node.0).map(|e| (EdgeIdx(e as u32), NodeIdx(self.graph.edges[e].to)))
    }

    /// What depends on the node: dependents, with their edges.
    pub fn dependents(&self, node: NodeIdx) -> impl Iterator<Item = (EdgeIdx, NodeIdx)> {
        self.graph.back(node.0).iter().map(|b| (EdgeIdx(b.edge), NodeIdx(b.from)))
    }

    /// The dependent and the provider of an edge.
    pub fn ends(&self, edge: EdgeIdx) -> (NodeIdx, NodeIdx) {
        let starts = &self.graph.out_start;
        let from = starts.partition_point(|s| *s <= edge.0) - 1;
        (NodeIdx(from as u32), NodeIdx(self.graph.edges[edge.0 as usize].to))
    }

    /// Who has contributed.
    pub fn sources(&self) -> &[SourceSummary] {
        &self.graph.sources
    }
}

impl Graph {
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Indices of the edges to the node's providers.
    pub(crate) fn out(&self, node: u32) -> Range<usize> {
        self.out_start[node as usize] as usize..self.out_start[node as usize + 1] as usize
    }

    /// All dependents.
    pub(crate) fn back(&self, node: u32) -> &[Back] {
        &self.back[self.in_start[node as usize] as usize..self.in_start[node as usize + 1] as usize]
    }

    /// Dependents that a failure of the node can reach.
    pub(crate) fn reached(&self, node: u32) -> &[Back] {
        &self.back[self.in_start[node as usize] as usize..self.in_reached[node as usize] as usize]
    }

    /// The records of an edge.
    pub(crate) fn edge_records(&self, edge: u32) -> impl Iterator<Item = u32> {
        let others = self.other_records.get(&edge).into_iter().flatten().copied();
        std::iter::once(self.edges[edge as usize].record).chain(others)
    }

    /// The records of a node: the one of its name first.
    pub(crate) fn node_records(&self, node: u32) -> impl Iterator<Item = u32> {
        let name = self.records[node as usize];
        let others = self.names.get(&node).into_iter().flatten().copied().filter(move |r| *r != name);
        std::iter::once(name).chain(others)
    }
}

#[cfg(test)]
mod tests;
