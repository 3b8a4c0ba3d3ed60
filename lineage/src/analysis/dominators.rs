//! Choke points: nodes that every way from the entries to others passes.
//!
//! Dominators of the graph of calls from a virtual root over all entries, by the iteration of Cooper, Harvey and Kennedy (2001) on
//! arrays. Entries are nodes that nobody calls and those that were declared to be one; of a cycle that nothing leads to, one node.

use serde::Serialize;

use super::Answer;
use crate::model::{Class, Relation};
use crate::snapshot::{Edge, Graph, NONE, NodeIdx, NodeRef, Snapshot};

/// Most choke points that are listed.
pub const MAX_CHOKE_POINTS: usize = 10_000;

/// The tree of dominators.
#[derive(Debug)]
pub(crate) struct Dominators {
    /// By node, its immediate dominator; [`NONE`] for the virtual root.
    pub parent: Vec<u32>,
    /// By node, how many nodes it dominates, without itself.
    pub below: Vec<u32>,
}

/// Nodes through which everything must go.
#[derive(Clone, Debug, Serialize)]
pub struct ChokePoints {
    /// Those that cut off most, first.
    pub choke_points: Vec<ChokePoint>,
    /// How many cut off anything.
    pub total: usize,
}

/// One of them.
#[derive(Clone, Debug, Serialize)]
pub struct ChokePoint {
    /// The node.
    pub node: NodeRef,
    /// So many nodes are reached from the entries through it only.
    pub cuts_off: u32,
}

fn counts(edge: &Edge) -> bool {
    edge.relation == Relation::Dependency && edge.class != Class::Ordering
}

impl Dominators {
    /// Computes the tree.
    pub fn of(graph: &Graph) -> Self {
        let len = graph.len();
        let mut order: Vec<u32> = Vec::with_capacity(len);
        let mut seen = vec![false; len];
        let mut is_root = vec![false; len];
        let called = |node: u32| graph.back(node).iter().any(|b| counts(&graph.edges[b.edge as usize]));
        for node in 0..len as u32 {
            if graph.entry[node as usize] || !called(node) {
                is_root[node as usize] = true;
                if !seen[node as usize] {
                    post_order(graph, node, &mut seen, &mut order);
                }
            }
        }
        // What is left hangs below cycles that nothing leads to; components of dependents have the higher numbers.
        let mut left: Vec<u32> = (0..len as u32).filter(|n| !seen[*n as usize]).collect();
        left.sort_unstable_by_key(|n| std::cmp::Reverse(graph.order().rank[*n as usize]));
        for node in left {
            if !seen[node as usize] {
                is_root[node as usize] = true;
                post_order(graph, node, &mut seen, &mut order);
            }
        }
        let parent = iterate(graph, &order, &is_root);
        let mut below = vec![0_u32; len];
        for node in &order {
            let dominator = parent[*node as usize];
            if dominator != NONE {
                below[dominator as usize] += below[*node as usize] + 1;
            }
        }
        Self { parent, below }
    }
}

fn post_order(graph: &Graph, root: u32, seen: &mut [bool], order: &mut Vec<u32>) {
    let mut path = vec![(root, graph.out(root))];
    seen[root as usize] = true;
    while let Some((node, edges)) = path.last_mut() {
        let Some(e) = edges.next() else {
            order.push(*node);
            path.pop();
            continue;
        };
        let edge = &graph.edges[e];
        if counts(edge) && !seen[edge.to as usize] {
            seen[edge.to as usize] = true;
            path.push((edge.to, graph.out(edge.to)));
        }
    }
}

/// Immediate dominators; numbers inside are places in the post-order, the root's is the highest.
fn iterate(graph: &Graph, order: &[u32], is_root: &[bool]) -> Vec<u32> {
    let len = order.len();
    let root = len as u32;
    let mut place = vec![0_u32; len];
    order.iter().enumerate().for_each(|(i, n)| place[*n as usize] = i as u32);
    let mut above = vec![NONE; len + 1];
    above[len] = root;
    let mut changed = true;
    while changed {
        changed = false;
        for i in (0..len).rev() {
            let node = order[i];
            let mut new = if is_root[node as usize] { root } else { NONE };
            for back in graph.back(node).iter().filter(|b| counts(&graph.edges[b.edge as usize])) {
                let caller = place[back.from as usize];
                if above[caller as usize] == NONE {
                    continue;
                }
                new = if new == NONE { caller } else { meet(&above, caller, new) };
                if new == root {
                    break;
                }
            }
            if above[i] != new {
                above[i] = new;
                changed = true;
            }
        }
    }
    let mut parent = vec![NONE; len];
    for (i, node) in order.iter().enumerate() {
        if above[i] != root && above[i] != NONE {
            parent[*node as usize] = order[above[i] as usize];
        }
    }
    parent
}

fn meet(above: &[u32], mut a: u32, mut b: u32) -> u32 {
    while a != b {
        while a < b {
            a = above[a as usize];
        }
        while b < a {
            b = above[b as usize];
        }
    }
    a
}

impl Graph {
    /// The tree of dominators, computed at the first call.
    pub(crate) fn dominators(&self) -> &Dominators {
        self.dominators.get_or_init(|| Dominators::of(self))
    }
}

impl Snapshot {
    /// Nodes through which everything from the entries to others must go, those that cut off most first.
    pub fn choke_points(&self, limit: usize) -> Answer<ChokePoints> {
        let below = &self.graph.dominators().below;
        let mut nodes: Vec<u32> = (0..below.len() as u32).filter(|n| below[*n as usize] > 0).collect();
        nodes.sort_unstable_by_key(|n| (std::cmp::Reverse(below[*n as usize]), *n));
        let total = nodes.len();
        nodes.truncate(limit.min(MAX_CHOKE_POINTS));
        let point = |n: &u32| ChokePoint { node: self.node_ref(NodeIdx(*n)), cuts_off: below[*n as usize] };
        self.answer(ChokePoints { choke_points: nodes.iter().map(point).collect(), total }, Vec::new())
    }

    /// The node's dominators, nearest first: every way from an entry to it passes all of them.
    pub fn dominators(&self, node: NodeIdx) -> Vec<NodeIdx> {
        let parent = &self.graph.dominators().parent;
        let above = |n: u32| Some(parent[n as usize]).filter(|p| *p != NONE);
        std::iter::successors(above(node.0), |n| above(*n)).map(NodeIdx).collect()
    }
}
