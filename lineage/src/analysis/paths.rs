//! The most likely ways on which a failure of one node reaches another.
//!
//! Best-first search over simple paths, guided by the exact best rest (Dijkstra from the far end), so that paths come out in order.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use serde::Serialize;

use super::blast::PathStep;
use super::{Answer, Budget, Unresolved};
use crate::Result;
use crate::model::NodeKey;
use crate::snapshot::{EdgeIdx, NONE, PROPAGATES, Snapshot};

/// Most paths that are listed.
pub const MAX_PATHS: usize = 1000;

/// Most edges of a path.
pub const MAX_PATH_EDGES: usize = 1000;

/// Ways from one node to another.
#[derive(Clone, Debug, Serialize)]
pub struct Paths {
    /// The most likely first.
    pub paths: Vec<Path>,
}

/// One way.
#[derive(Clone, Debug, Serialize)]
pub struct Path {
    /// Probability that a failure of the provider reaches the dependent on this way.
    pub probability: f64,
    /// The edges, from the provider on.
    pub steps: Vec<PathStep>,
}

#[derive(Clone, Copy, PartialEq)]
struct Reached {
    probability: f64,
    node: u32,
    /// Index of the partial path, when paths are searched.
    path: u32,
}

impl Eq for Reached {}

impl PartialOrd for Reached {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Reached {
    fn cmp(&self, other: &Self) -> Ordering {
        self.probability.total_cmp(&other.probability).then_with(|| other.node.cmp(&self.node)).then_with(|| other.path.cmp(&self.path))
    }
}

/// A partial path: its last edge, and the one before.
struct Partial {
    node: u32,
    edge: u32,
    before: u32,
    edges: u32,
}

impl Snapshot {
    /// The `limit` most likely ways on which a failure of `provider` reaches `dependent`.
    ///
    /// # Errors
    /// [`crate::Error::Unknown`] if one of them is not in the graph, [`crate::Error::Canceled`] if the budget's flag is set.
    pub fn paths(&self, provider: &NodeKey, dependent: &NodeKey, limit: usize, budget: &mut Budget) -> Result<Answer<Paths>> {
        let (from, to) = (self.get(provider)?.0, self.get(dependent)?.0);
        let limit = limit.min(MAX_PATHS);
        let mut unresolved = Vec::new();
        let out_of_work = || Unresolved::new("paths", "the work allowed for the answer was used up; allow more");
        let Some(rest) = self.best_rest(to, from, budget)? else {
            unresolved.push(out_of_work());
            return Ok(self.answer(Paths { paths: Vec::new() }, unresolved));
        };
        let mut partials = vec![Partial { node: from, edge: NONE, before: NONE, edges: 0 }];
        let mut heap = BinaryHeap::from([Reached { probability: rest[from as usize], node: from, path: 0 }]);
        let mut paths = Vec::new();
        while let Some(Reached { probability, node, path }) = heap.pop() {
            if probability <= 0.0 || paths.len() >= limit {
                break;
            }
            if node == to {
                paths.push(self.path(&partials, path, probability));
                continue;
            }
            let so_far = probability / rest[node as usize];
            let edges = partials[path as usize].edges + 1;
            if !budget.spend(self.graph.reached(node).len() as u64 + u64::from(edges))? {
                unresolved.push(out_of_work());
                break;
            }
            if edges as usize > MAX_PATH_EDGES {
                continue;
            }
            for back in self.graph.reached(node) {
                let rest = rest[back.from as usize];
                if rest > 0.0 && !visits(&partials, path, back.from) {
                    let probability = so_far * f64::from(self.graph.edges[back.edge as usize].probability) * rest;
                    heap.push(Reached { probability, node: back.from, path: partials.len() as u32 });
                    partials.push(Partial { node: back.from, edge: back.edge, before: path, edges });
                }
            }
        }
        Ok(self.answer(Paths { paths }, unresolved))
    }

    /// By node, the probability of the best way from it to `to`; exact for all that matter for ways from `from`.
    fn best_rest(&self, to: u32, from: u32, budget: &mut Budget) -> Result<Option<Vec<f64>>> {
        let graph = &*self.graph;
        let mut best = vec![0.0_f64; graph.len()];
        let mut done = vec![false; graph.len()];
        best[to as usize] = 1.0;
        let mut heap = BinaryHeap::from([Reached { probability: 1.0, node: to, path: 0 }]);
        while let Some(Reached { probability, node, .. }) = heap.pop() {
            if std::mem::replace(&mut done[node as usize], true) || node == from {
                continue;
            }
            if !budget.spend(graph.out(node).len() as u64 + 1)? {
                return Ok(None);
            }
            for edge in graph.edges[graph.out(node)].iter().filter(|e| e.marks & PROPAGATES != 0) {
                let through = probability * f64::from(edge.probability);
                if through > best[edge.to as usize] {
                    best[edge.to as usize] = through;
                    heap.push(Reached { probability: through, node: edge.to, path: 0 });
                }
            }
        }
        Ok(Some(best))
    }

    fn path(&self, partials: &[Partial], mut at: u32, probability: f64) -> Path {
        let mut edges = Vec::new();
        while partials[at as usize].before != NONE {
            edges.push(partials[at as usize].edge);
            at = partials[at as usize].before;
        }
        edges.reverse();
        let mut errors = true;
        let steps = edges.into_iter().map(|e| {
            errors &= self.graph.edges[e as usize].flow == crate::model::Flow::Call;
            self.step(EdgeIdx(e), errors)
        });
        Path { probability, steps: steps.collect() }
    }
}

/// Whether a partial path has been at a node.
fn visits(partials: &[Partial], mut at: u32, node: u32) -> bool {
    while at != NONE {
        if partials[at as usize].node == node {
            return true;
        }
        at = partials[at as usize].before;
    }
    false
}
