//! Nodes that depend on themselves by way of others.

use std::collections::VecDeque;

use serde::Serialize;

use super::{Answer, Unresolved};
use crate::model::NodeKey;
use crate::snapshot::{NONE, NodeIdx, NodeRef, PROPAGATES, Snapshot};

/// Most cycles that are listed.
pub const MAX_CYCLES: usize = 1000;

/// Most nodes that are listed of one.
pub const MAX_MEMBERS: usize = 1000;

/// Groups of nodes that all depend on each other.
#[derive(Clone, Debug, Serialize)]
pub struct Cycles {
    /// The largest first.
    pub cycles: Vec<Cycle>,
    /// How many there are.
    pub total: usize,
}

/// One group.
#[derive(Clone, Debug, Serialize)]
pub struct Cycle {
    /// How many nodes.
    pub size: usize,
    /// The nodes, or the first of them.
    pub members: Vec<NodeRef>,
    /// A shortest way around, from one node over its providers back to itself.
    pub example: Vec<NodeKey>,
}

impl Snapshot {
    /// Dependencies that come back to where they began; those of class ordering do not count.
    pub fn cycles(&self, limit: usize) -> Answer<Cycles> {
        let order = self.graph.order();
        let mut large: Vec<u32> = (0..order.size.len() as u32).filter(|c| order.size[*c as usize] > 1).collect();
        large.sort_by_key(|c| (std::cmp::Reverse(order.size[*c as usize]), *c));
        let total = large.len();
        let limit = limit.min(MAX_CYCLES);
        let mut unresolved = Vec::new();
        if total > limit {
            unresolved.push(Unresolved::new("cycles", format!("only {limit} of {total} are listed; raise limit")));
        }
        large.truncate(limit);
        let mut members: hashbrown::HashMap<u32, Vec<u32>> = large.iter().map(|c| (*c, Vec::new())).collect();
        for (node, component) in order.component.iter().enumerate() {
            if let Some(list) = members.get_mut(component) {
                list.push(node as u32);
            }
        }
        let cycles = large.iter().map(|c| {
            let all = &members[c];
            Cycle {
                size: all.len(),
                members: all.iter().take(MAX_MEMBERS).map(|n| self.node_ref(NodeIdx(*n))).collect(),
                example: self.way_around(all[0]).into_iter().map(|n| self.key(NodeIdx(n)).clone()).collect(),
            }
        });
        let cycles = cycles.collect();
        self.answer(Cycles { cycles, total }, unresolved)
    }

    /// Breadth-first from a node over providers of its component until it is met again.
    fn way_around(&self, start: u32) -> Vec<u32> {
        let graph = &*self.graph;
        let component = &graph.order().component;
        let mut came: hashbrown::HashMap<u32, u32> = hashbrown::HashMap::new();
        let mut todo = VecDeque::from([start]);
        while let Some(node) = todo.pop_front() {
            for edge in graph.edges[graph.out(node)].iter().filter(|e| e.marks & PROPAGATES != 0) {
                if component[edge.to as usize] != component[start as usize] || came.contains_key(&edge.to) {
                    continue;
                }
                came.insert(edge.to, node);
                if edge.to == start {
                    let mut way = vec![start];
                    let mut at = node;
                    while at != start && at != NONE {
                        way.push(at);
                        at = came[&at];
                    }
                    way.push(start);
                    way.reverse();
                    return way;
                }
                todo.push_back(edge.to);
            }
        }
        Vec::new()
    }
}
