//! What is different between the graphs of two times.

use serde::Serialize;

use crate::analysis::{Answer, Unresolved};
use crate::snapshot::{EdgeIdx, EdgeView, NONE, NodeIdx, NodeRef, Snapshot};

/// Most differences of each sort that are listed.
pub const MAX_DIFFERENCES: usize = 100_000;

/// Shares and probabilities that differ by less than this are the same.
const SAME: f32 = 0.01;

/// From the first time to the second.
#[derive(Clone, Debug, Serialize)]
pub struct Diff {
    /// The first time, Unix milliseconds.
    pub from_ms: i64,
    /// The second time, Unix milliseconds.
    pub to_ms: i64,
    /// Nodes that came.
    pub nodes_added: Vec<NodeRef>,
    /// Nodes that went.
    pub nodes_removed: Vec<NodeRef>,
    /// Edges that came.
    pub edges_added: Vec<EdgeView>,
    /// Edges that went.
    pub edges_removed: Vec<EdgeView>,
    /// Edges that are another way now.
    pub edges_changed: Vec<EdgeChange>,
}

/// One edge at both times.
#[derive(Clone, Debug, Serialize)]
pub struct EdgeChange {
    /// Which fields differ.
    pub fields: Vec<&'static str>,
    /// At the first time.
    pub before: EdgeView,
    /// At the second time.
    pub after: EdgeView,
}

struct List<T> {
    items: Vec<T>,
    total: usize,
    limit: usize,
}

impl<T> List<T> {
    fn new(limit: usize) -> Self {
        Self { items: Vec::new(), total: 0, limit }
    }

    fn push(&mut self, item: impl FnOnce() -> T) {
        self.total += 1;
        if self.items.len() < self.limit {
            self.items.push(item());
        }
    }

    fn close(self, name: &str, unresolved: &mut Vec<Unresolved>) -> Vec<T> {
        if self.total > self.items.len() {
            let reason = format!("only {} of {} are listed; raise limit", self.items.len(), self.total);
            unresolved.push(Unresolved::new(name, reason));
        }
        self.items
    }
}

/// What is different in `after`, with at most `limit` differences of each sort. Both are of one [`crate::store::LineageStore`].
pub fn diff(before: &Snapshot, after: &Snapshot, limit: usize) -> Answer<Diff> {
    let limit = limit.min(MAX_DIFFERENCES);
    let mut unresolved = Vec::new();
    let (mut nodes_added, mut nodes_removed) = (List::new(limit), List::new(limit));
    for node in after.nodes().filter(|n| node_in(before, after, *n).is_none()) {
        nodes_added.push(|| after.node_ref(node));
    }
    for node in before.nodes().filter(|n| node_in(after, before, *n).is_none()) {
        nodes_removed.push(|| before.node_ref(node));
    }
    let (mut edges_added, mut edges_removed, mut edges_changed) = (List::new(limit), List::new(limit), List::new(limit));
    for edge in after.edges() {
        match edge_in(before, after, edge) {
            None => edges_added.push(|| after.edge(edge)),
            Some(old) if differs(before, old, after, edge) => {
                let (old, new) = (before.edge(old), after.edge(edge));
                let fields = fields(&old, &new);
                if !fields.is_empty() {
                    edges_changed.push(|| EdgeChange { fields, before: old, after: new });
                }
            }
            Some(_) => {}
        }
    }
    for edge in before.edges().filter(|e| edge_in(after, before, *e).is_none()) {
        edges_removed.push(|| before.edge(edge));
    }
    let diff = Diff {
        from_ms: before.at_ms(),
        to_ms: after.at_ms(),
        nodes_added: nodes_added.close("nodes_added", &mut unresolved),
        nodes_removed: nodes_removed.close("nodes_removed", &mut unresolved),
        edges_added: edges_added.close("edges_added", &mut unresolved),
        edges_removed: edges_removed.close("edges_removed", &mut unresolved),
        edges_changed: edges_changed.close("edges_changed", &mut unresolved),
    };
    after.answer(diff, unresolved)
}

/// The same node in the other snapshot: by index, which both share.
fn node_in(other: &Snapshot, own: &Snapshot, node: NodeIdx) -> Option<u32> {
    let record = own.graph.records[node.0 as usize];
    other.graph.node_of.get(record as usize).copied().filter(|n| *n != NONE)
}

fn edge_in(other: &Snapshot, own: &Snapshot, edge: EdgeIdx) -> Option<EdgeIdx> {
    let (from, to) = own.ends(edge);
    let (from, to) = (node_in(other, own, from)?, node_in(other, own, to)?);
    let relation = own.graph.edges[edge.0 as usize].relation;
    let found = other.graph.out(from).find(|e| other.graph.edges[*e].to == to && other.graph.edges[*e].relation == relation);
    found.map(|e| EdgeIdx(e as u32))
}

/// A quick look before edges are compared in full: groups and lags are only in the records.
fn differs(before: &Snapshot, old: EdgeIdx, after: &Snapshot, new: EdgeIdx) -> bool {
    let (a, b) = (&before.graph.edges[old.0 as usize], &after.graph.edges[new.0 as usize]);
    let version =
        |s: &Snapshot, record: u32| s.graph.frozen.edges[record].claims.at(s.at_ms()).map(|(id, v, _)| (id, v.from_ms)).collect::<Vec<_>>();
    (a.class, a.flow, a.marks) != (b.class, b.flow, b.marks)
        || (a.probability - b.probability).abs() > SAME
        || version(before, a.record) != version(after, b.record)
}

fn fields(a: &EdgeView, b: &EdgeView) -> Vec<&'static str> {
    let far = |a: f32, b: f32| (a - b).abs() > SAME;
    [
        ("class", a.class != b.class),
        ("flow", a.flow != b.flow),
        ("group", a.group != b.group),
        ("share", far(a.share, b.share)),
        ("coupling", far(a.coupling, b.coupling)),
        ("confidence", far(a.confidence, b.confidence)),
        ("lag_ms", a.lag_ms != b.lag_ms),
        ("status", a.status != b.status),
        ("evidence", a.evidence != b.evidence),
    ]
    .into_iter()
    .filter_map(|(name, differs)| differs.then_some(name))
    .collect()
}
