//! Single points of failure of one node: which failures of one other node take it down for certain.
//!
//! Hard edges and redundancy groups only. Each bit of a mask is one fault, so that 256 faults are tried at once; the result is exact.

use serde::Serialize;

use super::worlds::{Counter, EMPTY, Mask, WORLDS, or};
use super::{Answer, Budget, Unresolved};
use crate::Result;
use crate::model::{Class, Flow, NodeKey};
use crate::snapshot::{Edge, NONE, NodeIdx, NodeRef, Snapshot};

/// Most nodes below one that are tried.
pub const MAX_TRIED: usize = 50_000;

/// What takes a node down.
#[derive(Clone, Debug, Serialize)]
pub struct SinglePoints {
    /// The node.
    pub node: NodeRef,
    /// What takes it down, nearest first.
    pub points: Vec<SinglePoint>,
    /// So many nodes that it needs were tried.
    pub tried: usize,
    /// So many of them are redundant: their failure alone does not take it down.
    pub redundant: usize,
}

/// One of them.
#[derive(Clone, Debug, Serialize)]
pub struct SinglePoint {
    /// The node.
    pub node: NodeRef,
    /// Edges on the shortest way to it.
    pub hops: u32,
}

fn is_hard(edge: &Edge) -> bool {
    edge.class == Class::Hard && edge.flow == Flow::Call
}

/// The nodes below, providers before dependents.
struct Needs {
    nodes: Vec<u32>,
    place: hashbrown::HashMap<u32, usize>,
}

impl Snapshot {
    /// Which single failures take a node down for certain.
    ///
    /// # Errors
    /// [`crate::Error::Unknown`] if it is not in the graph, [`crate::Error::Canceled`] if the budget's flag is set.
    pub fn single_points(&self, key: &NodeKey, budget: &mut Budget) -> Result<Answer<SinglePoints>> {
        let node = self.get(key)?;
        let graph = &*self.graph;
        let mut unresolved = Vec::new();
        let (mut found, mut hops) = (vec![node.0], vec![0_u32]);
        let mut seen: hashbrown::HashSet<u32> = hashbrown::HashSet::from_iter([node.0]);
        let mut at = 0;
        while at < found.len() {
            for edge in graph.edges[graph.out(found[at])].iter().filter(|e| is_hard(e)) {
                if seen.insert(edge.to) {
                    found.push(edge.to);
                    hops.push(hops[at] + 1);
                }
            }
            at += 1;
            if found.len() > MAX_TRIED || !budget.spend(1)? {
                unresolved.push(Unresolved::new("points", format!("only the nearest {} nodes were tried", found.len())));
                break;
            }
        }
        let rank = &graph.order().rank;
        let mut nodes = found.clone();
        nodes.sort_unstable_by_key(|n| rank[*n as usize]);
        let place = nodes.iter().enumerate().map(|(i, n)| (*n, i)).collect();
        let needs = Needs { nodes, place };
        let mut points = Vec::new();
        let mut tried = 0;
        for (chunk, faults) in found[1..].chunks(WORLDS as usize).enumerate() {
            let Some(mask) = self.try_faults(&needs, faults, node.0, budget)? else {
                unresolved.push(Unresolved::new(
                    "points",
                    format!("only the nearest {tried} nodes were tried within the work allowed; allow more"),
                ));
                break;
            };
            tried += faults.len();
            for (i, fault) in faults.iter().enumerate().filter(|(i, _)| mask[i / 64] >> (i % 64) & 1 == 1) {
                let hops = hops[1 + chunk * WORLDS as usize + i];
                points.push(SinglePoint { node: self.node_ref(NodeIdx(*fault)), hops });
            }
        }
        let redundant = tried - points.len();
        Ok(self.answer(SinglePoints { node: self.node_ref(node), points, tried, redundant }, unresolved))
    }

    /// Which of the faults take `target` down; `None` if the budget ends.
    fn try_faults(&self, needs: &Needs, faults: &[u32], target: u32, budget: &mut Budget) -> Result<Option<Mask>> {
        let graph = &*self.graph;
        let mut down = vec![EMPTY; needs.nodes.len()];
        for (i, fault) in faults.iter().enumerate() {
            down[needs.place[fault]][i / 64] |= 1 << (i % 64);
        }
        let mut counter = Counter::default();
        loop {
            let mut changed = false;
            for (i, node) in needs.nodes.iter().enumerate() {
                let edges = graph.out(*node);
                if !budget.spend(edges.len() as u64 + 1)? {
                    return Ok(None);
                }
                let mut now = down[i];
                let mut e = edges.start;
                while e < edges.end {
                    let group = graph.edges[e].group;
                    let end = if group == NONE {
                        e + 1
                    } else {
                        (e + 1..edges.end).find(|x| graph.edges[*x].group != group).unwrap_or(edges.end)
                    };
                    let members = graph.edges[e..end].iter().filter(|m| is_hard(m));
                    let masks = members.filter_map(|m| needs.place.get(&m.to)).map(|p| down[*p]);
                    if group == NONE {
                        now = masks.fold(now, or);
                    } else {
                        counter.clear();
                        masks.for_each(|m| counter.add(m));
                        let info = &graph.groups[group as usize];
                        if info.k > 0 {
                            now = or(now, counter.at_least(info.n - info.k + 1));
                        }
                    }
                    e = end;
                }
                changed |= now != down[i];
                down[i] = now;
            }
            if !changed {
                return Ok(Some(down[needs.place[&target]]));
            }
        }
    }
}
