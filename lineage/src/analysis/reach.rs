//! What a failure can reach at all: dependents of dependents, nearest first, and then in the order in which failures are computed.

use super::Budget;
use crate::Result;
use crate::snapshot::{Graph, NONE};

/// If one node in so many is reached, looking at all is faster than sorting.
const DENSE: usize = 16;

/// Nodes that a failure can reach.
#[derive(Debug)]
pub(crate) struct Reach {
    /// Providers before dependents; nodes of one component beside each other.
    pub nodes: Vec<u32>,
    /// By place in `nodes`, edges from the nearest failed node.
    pub hops: Vec<u32>,
    /// By node, its place in `nodes` or [`NONE`].
    pub place: Vec<u32>,
    /// Dependents were left out because of a limit.
    pub cut: bool,
}

/// Finds everything that a failure of `starts` can reach, `max_nodes` at most, up to `max_hops` edges away.
pub(crate) fn reach(graph: &Graph, starts: &[u32], max_nodes: usize, max_hops: u32, budget: &mut Budget) -> Result<Reach> {
    let mut place = vec![NONE; graph.len()];
    let mut found: Vec<u32> = Vec::new();
    for start in starts {
        if place[*start as usize] == NONE {
            place[*start as usize] = 0;
            found.push(*start);
        }
    }
    let mut hops = vec![0_u32; found.len()];
    let mut cut = false;
    let mut at = 0;
    while at < found.len() {
        let (node, distance) = (found[at], hops[at]);
        at += 1;
        let dependents = graph.reached(node);
        if distance >= max_hops {
            cut |= dependents.iter().any(|b| place[b.from as usize] == NONE);
            continue;
        }
        if !budget.spend(dependents.len() as u64 + 1)? {
            cut = true;
            break;
        }
        for back in dependents {
            if place[back.from as usize] == NONE {
                if found.len() >= max_nodes {
                    cut = true;
                    break;
                }
                place[back.from as usize] = 0;
                found.push(back.from);
                hops.push(distance + 1);
            }
        }
    }
    Ok(sort(graph, &found, &hops, place, cut))
}

fn sort(graph: &Graph, found: &[u32], hops: &[u32], mut place: Vec<u32>, cut: bool) -> Reach {
    let order = graph.order();
    found.iter().enumerate().for_each(|(i, n)| place[*n as usize] = i as u32);
    let nodes: Vec<u32> = if found.len() > graph.len() / DENSE {
        order.nodes.iter().copied().filter(|n| place[*n as usize] != NONE).collect()
    } else {
        let mut nodes = found.to_vec();
        nodes.sort_unstable_by_key(|n| order.rank[*n as usize]);
        nodes
    };
    let hops = nodes.iter().map(|n| hops[place[*n as usize] as usize]).collect();
    for (i, node) in nodes.iter().enumerate() {
        place[*node as usize] = i as u32;
    }
    Reach { nodes, hops, place, cut }
}

impl Reach {
    /// Visits runs of places whose nodes are in one component, in order.
    pub fn components<'a>(&'a self, graph: &'a Graph) -> impl Iterator<Item = std::ops::Range<usize>> + 'a {
        let component = &graph.order().component;
        let mut start = 0;
        std::iter::from_fn(move || {
            if start >= self.nodes.len() {
                return None;
            }
            let mine = component[self.nodes[start] as usize];
            let mut end = start + 1;
            while end < self.nodes.len() && component[self.nodes[end] as usize] == mine {
                end += 1;
            }
            let run = start..end;
            start = end;
            Some(run)
        })
    }
}
