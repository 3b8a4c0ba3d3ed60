//! Neighbours, and walks in one direction with a depth and filters.

use serde::{Deserialize, Serialize};

use super::{Answer, Budget, Direction, Unresolved};
use crate::Result;
use crate::model::{Class, Evidence, Flow, NodeKey, Relation, Status};
use crate::snapshot::{EdgeIdx, EdgeView, NONE, NodeIdx, NodeRef, NodeView, STALE, Snapshot};

/// Most nodes that a walk returns.
pub const MAX_WALK_NODES: usize = 100_000;

/// Which edges and nodes a walk follows. What is empty allows everything.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Kinds of nodes, or kinds that they inherit from. Nodes of other kinds are passed through and not returned.
    pub kinds: Vec<String>,
    /// Classes of edges.
    pub classes: Vec<Class>,
    /// Relations.
    pub relations: Vec<Relation>,
    /// What flows.
    pub flows: Vec<Flow>,
    /// Edges of which this kind of evidence is known.
    pub evidence: Vec<Evidence>,
    /// Leaves stale edges out.
    pub live_only: bool,
}

/// Where to begin and how far to go.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalkRequest {
    /// Where to begin.
    pub nodes: Vec<NodeKey>,
    /// Which way.
    pub direction: Direction,
    /// So many edges at most.
    #[serde(default = "everything")]
    pub depth: u32,
    /// What to follow.
    #[serde(default)]
    pub filter: Filter,
    /// So many nodes at most, the nearest first.
    #[serde(default = "default_limit")]
    pub limit: usize,
    /// Whether the edges between the nodes are wanted too.
    #[serde(default)]
    pub edges: bool,
}

fn everything() -> u32 {
    u32::MAX
}

fn default_limit() -> usize {
    1000
}

/// What lies in one direction.
#[derive(Clone, Debug, Serialize)]
pub struct Walk {
    /// The nodes, nearest first, without those that it began with.
    pub nodes: Vec<Visited>,
    /// Edges among them and the beginning, if asked for.
    pub edges: Vec<EdgeView>,
}

/// A node that was met.
#[derive(Clone, Debug, Serialize)]
pub struct Visited {
    /// The node.
    pub node: NodeRef,
    /// Edges from the beginning.
    pub hops: u32,
}

/// A node with everything around it.
#[derive(Clone, Debug, Serialize)]
pub struct Neighbours {
    /// The node.
    pub node: NodeView,
    /// Edges to what it needs.
    pub providers: Vec<EdgeView>,
    /// Edges from what needs it.
    pub dependents: Vec<EdgeView>,
}

/// A filter with kinds looked up.
struct Compiled<'a> {
    snapshot: &'a Snapshot,
    filter: &'a Filter,
    kinds: Vec<bool>,
}

impl Compiled<'_> {
    fn passes(&self, edge: u32) -> bool {
        let (f, e) = (self.filter, &self.snapshot.graph.edges[edge as usize]);
        let status = if e.marks & STALE != 0 { Status::Stale } else { Status::Live };
        (f.classes.is_empty() || f.classes.contains(&e.class))
            && (f.relations.is_empty() || f.relations.contains(&e.relation))
            && (f.flows.is_empty() || f.flows.contains(&e.flow))
            && (!f.live_only || status == Status::Live)
            && (f.evidence.is_empty() || f.evidence.iter().any(|k| self.snapshot.has_evidence(edge, *k)))
    }

    fn shows(&self, node: u32) -> bool {
        let graph = &self.snapshot.graph;
        self.kinds[usize::from(graph.frozen.nodes[graph.records[node as usize]].kind)]
    }
}

impl Snapshot {
    /// One node with the edges around it, at most `limit` in each direction.
    ///
    /// # Errors
    /// [`crate::Error::Unknown`] if it is not in the graph.
    pub fn neighbours(&self, key: &NodeKey, limit: usize) -> Result<Answer<Neighbours>> {
        let node = self.get(key)?;
        let mut unresolved = Vec::new();
        let mut cut = |what: &str, count: usize| {
            if count > limit {
                unresolved.push(Unresolved::new(what, format!("only {limit} of {count} are listed; raise limit")));
            }
        };
        cut("providers", self.graph.out(node.0).len());
        cut("dependents", self.graph.back(node.0).len());
        let result = Neighbours {
            node: self.node(node),
            providers: self.providers(node).take(limit).map(|(e, _)| self.edge(e)).collect(),
            dependents: self.dependents(node).take(limit).map(|(e, _)| self.edge(e)).collect(),
        };
        Ok(self.answer(result, unresolved))
    }

    /// Everything in one direction, nearest first.
    ///
    /// # Errors
    /// [`crate::Error::Canceled`] if the budget's flag is set.
    pub fn walk(&self, request: &WalkRequest, budget: &mut Budget) -> Result<Answer<Walk>> {
        let mut unresolved = Vec::new();
        let starts = self.resolve(&request.nodes, &mut unresolved);
        let graph = &*self.graph;
        let kinds = graph
            .frozen
            .kinds
            .iter()
            .map(|k| request.filter.kinds.is_empty() || request.filter.kinds.iter().any(|w| graph.types.is_a(k, w)));
        let filter = Compiled { snapshot: self, filter: &request.filter, kinds: kinds.collect() };
        let limit = request.limit.min(MAX_WALK_NODES);
        let mut hops = vec![NONE; graph.len()];
        let mut found: Vec<u32> = starts.iter().map(|n| n.0).collect();
        found.iter().for_each(|n| hops[*n as usize] = 0);
        let (mut at, mut shown, mut passed) = (0, 0, Vec::new());
        while at < found.len() {
            let node = found[at];
            at += 1;
            let distance = hops[node as usize];
            if distance >= request.depth {
                continue;
            }
            let next: &mut dyn Iterator<Item = (u32, u32)> = match request.direction {
                Direction::Providers => &mut graph.out(node).map(|e| (e as u32, graph.edges[e].to)),
                Direction::Dependents => &mut graph.back(node).iter().map(|b| (b.edge, b.from)),
            };
            let mut visited = 1;
            for (edge, other) in next {
                visited += 1;
                if !filter.passes(edge) {
                    continue;
                }
                if hops[other as usize] == NONE {
                    if shown >= limit {
                        unresolved.push(Unresolved::new("nodes", format!("only the nearest {limit} are listed; raise limit")));
                        at = found.len();
                        break;
                    }
                    hops[other as usize] = distance + 1;
                    found.push(other);
                    shown += usize::from(filter.shows(other));
                }
                if request.edges {
                    passed.push(edge);
                }
            }
            if !budget.spend(visited)? {
                unresolved.push(Unresolved::new("nodes", "the work allowed for the answer was used up; allow more"));
                break;
            }
        }
        let nodes = found[starts.len()..].iter().filter(|n| filter.shows(**n));
        let nodes = nodes.map(|n| Visited { node: self.node_ref(NodeIdx(*n)), hops: hops[*n as usize] }).collect();
        passed.truncate(MAX_WALK_NODES);
        let edges = passed.into_iter().map(|e| self.edge(EdgeIdx(e))).collect();
        Ok(self.answer(Walk { nodes, edges }, unresolved))
    }
}
