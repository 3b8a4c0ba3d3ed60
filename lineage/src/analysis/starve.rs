//! Who gets no more requests because whoever calls them is down.
//!
//! In every world: traffic enters where it always does and passes through every node that runs. What it does not reach, although it
//! did before, starves; for a node that is down for certain, these are the nodes that it dominates. Only what lies below a node that
//! is down can starve, so only that is walked.

use super::Budget;
use super::spread::Start;
use super::worlds::{EMPTY, FULL, Mask, count, or, without};
use crate::Result;
use crate::model::{Class, Flow, Relation};
use crate::snapshot::{Edge, Graph, HOSTING, NONE};

/// What lies below nodes that may be down, callers before what they call.
#[derive(Debug, Default)]
pub(crate) struct Below {
    pub nodes: Vec<u32>,
    place: Vec<u32>,
    /// Worlds counted in which each got nothing.
    pub starved: Vec<u32>,
    /// Something was left out because of a limit.
    pub cut: bool,
}

fn carries_requests(edge: &Edge) -> bool {
    edge.flow == Flow::Call && edge.relation == Relation::Dependency && edge.class != Class::Ordering && edge.marks & HOSTING == 0
}

impl Below {
    /// Finds what lies below the nodes that a failure of `starts` can take down: these, and what runs on them.
    pub fn find(graph: &Graph, starts: &[Start], max_nodes: usize, budget: &mut Budget) -> Result<Self> {
        let mut place = vec![NONE; graph.len()];
        let mut nodes: Vec<u32> = Vec::new();
        for start in starts.iter().filter(|s| !s.late) {
            if place[start.node as usize] == NONE {
                place[start.node as usize] = 0;
                nodes.push(start.node);
            }
        }
        let (mut at, mut cut) = (0, false);
        while at < nodes.len() && nodes.len() < max_nodes {
            // Either all dependents run on a node, or none.
            for back in graph.reached(nodes[at]).iter().take_while(|b| graph.edges[b.edge as usize].marks & HOSTING != 0) {
                if place[back.from as usize] == NONE {
                    place[back.from as usize] = 0;
                    nodes.push(back.from);
                }
            }
            at += 1;
        }
        at = 0;
        while at < nodes.len() {
            let edges = graph.out(nodes[at]);
            at += 1;
            if !budget.spend(edges.len() as u64 + 1)? {
                cut = true;
                break;
            }
            for edge in graph.edges[edges].iter().filter(|e| carries_requests(e)) {
                if place[edge.to as usize] == NONE {
                    if nodes.len() >= max_nodes {
                        cut = true;
                        break;
                    }
                    place[edge.to as usize] = 0;
                    nodes.push(edge.to);
                }
            }
        }
        let rank = &graph.order().rank;
        nodes.sort_unstable_by_key(|n| std::cmp::Reverse(rank[*n as usize]));
        nodes.iter().enumerate().for_each(|(i, n)| place[*n as usize] = i as u32);
        let starved = vec![0; nodes.len()];
        Ok(Self { nodes, place, starved, cut })
    }

    /// Counts the worlds of a block in which each node gets nothing. `down` tells what does not run. `false` if the budget ends.
    pub fn add(&mut self, graph: &Graph, down: impl Fn(u32) -> Mask, is_start: impl Fn(u32) -> bool, budget: &mut Budget) -> Result<bool> {
        let mut alive = vec![EMPTY; self.nodes.len()];
        let down: Vec<Mask> = self.nodes.iter().map(|n| down(*n)).collect();
        loop {
            let mut changed = false;
            for (i, node) in self.nodes.iter().enumerate() {
                let callers = graph.back(*node);
                if !budget.spend(callers.len() as u64 + 1)? {
                    return Ok(false);
                }
                let mut now = alive[i];
                let mut called = false;
                for back in callers.iter().filter(|b| carries_requests(&graph.edges[b.edge as usize])) {
                    called = true;
                    let caller = self.place[back.from as usize];
                    now = if caller == NONE { FULL } else { or(now, without(alive[caller as usize], down[caller as usize])) };
                    if now == FULL {
                        break;
                    }
                }
                // Requests also begin here.
                if !called || graph.entry[*node as usize] {
                    now = FULL;
                }
                changed |= now != alive[i];
                alive[i] = now;
            }
            // Callers come first, so that one round does it unless there are cycles.
            if !changed {
                break;
            }
        }
        for (i, node) in self.nodes.iter().enumerate() {
            if !is_start(*node) {
                self.starved[i] += count(without(without(FULL, alive[i]), down[i]));
            }
        }
        Ok(true)
    }
}
