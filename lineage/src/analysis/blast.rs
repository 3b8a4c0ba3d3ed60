//! The blast radius: what a failure of some nodes touches, how likely, why, and who owns it, the worst first.

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::explain::Explanations;
use super::rank::Outcome;
use super::reach::{Reach, reach};
use super::spread::{Spread, Start, Tally};
use super::starve::Below;
use super::worlds::WORLDS;
use super::{Answer, Budget, Unresolved};
use crate::model::{Class, EvidenceSet, Flow, NodeKey, Relation};
use crate::snapshot::{EdgeIdx, NodeRef, Snapshot};
use crate::{Error, Result};

/// Worlds that are drawn for a small graph unless the request says otherwise; at least 256 for a large one.
pub const DEFAULT_WORLDS: u32 = 1024;

/// Visits of an edge for which worlds beyond the first 256 are drawn unless the request says how many.
const DEFAULT_VISITS: u64 = 1_000_000;

/// Most worlds of a request.
pub const MAX_WORLDS: u32 = 1 << 16;

/// Most impacts that are listed.
pub const MAX_LISTED: usize = 10_000;

/// Owners are summed up over so many of the worst impacts.
pub const MAX_OWNED: usize = 10_000;

/// Weight of old data when nodes are ranked; errors have 1.
pub const STALE_WEIGHT: f64 = 0.3;

/// Weight of missing traffic when nodes are ranked.
pub const STARVED_WEIGHT: f64 = 0.1;

/// What has failed, and what the answer should hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlastRequest {
    /// What has failed.
    pub nodes: Vec<NodeKey>,
    /// They are late or hold wrong data, rather than down.
    #[serde(default)]
    pub late: bool,
    /// Fraction of requests to them that meet the failure, above 0, at most 1.
    #[serde(default = "one")]
    pub severity: f32,
    /// How many worlds to draw, rounded up to a multiple of 256; 0 for as many as are worth their time.
    #[serde(default)]
    pub worlds: u32,
    /// The same seed gives the same answer.
    #[serde(default)]
    pub seed: u64,
    /// Only nodes of these kinds, or of kinds that inherit from them, are listed; all if empty.
    #[serde(default)]
    pub kinds: Vec<String>,
    /// Only nodes that are touched with at least this probability are counted.
    #[serde(default = "default_floor")]
    pub min_probability: f64,
    /// So many of the worst are listed.
    #[serde(default = "default_limit")]
    pub limit: usize,
    /// And so many of the worst of each kind, whether or not they are among those.
    #[serde(default = "default_per_kind")]
    pub limit_per_kind: usize,
    /// So many nodes are looked at, the nearest first.
    #[serde(default = "default_nodes")]
    pub max_nodes: usize,
    /// Dependents so many edges away are looked at.
    #[serde(default = "default_nodes")]
    pub max_hops: usize,
}

fn one() -> f32 {
    1.0
}

fn default_floor() -> f64 {
    0.001
}

fn default_limit() -> usize {
    200
}

fn default_per_kind() -> usize {
    20
}

fn default_nodes() -> usize {
    u32::MAX as usize
}

/// What is known from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Requests per second that come to a node.
    pub rates: HashMap<NodeKey, f64>,
}

/// What a failure touches.
#[derive(Clone, Debug, Serialize)]
pub struct Blast {
    /// What has failed.
    pub failed: Vec<NodeRef>,
    /// Worlds that were drawn.
    pub worlds: u32,
    /// Largest standard deviation that a probability can have for the number of worlds.
    pub deviation: f64,
    /// The seed.
    pub seed: u64,
    /// Nodes that the failure could reach.
    pub reachable: usize,
    /// Nodes that it touches with at least the probability asked for.
    pub touched: usize,
    /// The worst, worst first.
    pub impacts: Vec<Impact>,
    /// Touched nodes of each kind.
    pub by_kind: Vec<Sum>,
    /// Touched nodes of each owner.
    pub by_owner: Vec<Sum>,
}

/// One node that is touched.
#[derive(Clone, Debug, Serialize)]
pub struct Impact {
    /// Which.
    pub node: NodeRef,
    /// Probability that it is touched by errors or old data.
    pub probability: f64,
    /// Probability that a request to it fails.
    pub errors: f64,
    /// Probability that its data are old.
    pub staleness: f64,
    /// Probability that it gets no requests any more.
    pub starvation: f64,
    /// Edges from the nearest failed node; 0 if it only starves.
    pub hops: u32,
    /// Requests per second that come to it, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Requests per second that are expected to fail, if the rate is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_per_s: Option<f64>,
    /// What it was ranked by: effects by weight, times the rate (where unknown, the median of the known ones), times criticality.
    pub score: f64,
    /// Its data are late so long after the failure begins, if they become old.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late_after_ms: Option<i64>,
    /// The path that explains most of it, from the failed node on.
    pub path: Vec<PathStep>,
    /// Probability of that path alone.
    pub path_probability: f64,
}

/// One edge of a path.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PathStep {
    /// What fails.
    pub provider: NodeKey,
    /// What is touched by that.
    pub dependent: NodeKey,
    /// How they belong together.
    pub relation: Relation,
    /// Class of the edge.
    pub class: Class,
    /// What flows over it.
    pub flow: Flow,
    /// Probability that it passes the failure on.
    pub probability: f32,
    /// How it is known.
    pub evidence: EvidenceSet,
    /// Errors arrive at the dependent, rather than old data.
    pub errors: bool,
}

/// Touched nodes that have something in common.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sum {
    /// What: a kind or an owner.
    pub name: String,
    /// How many.
    pub nodes: usize,
    /// Sum of their expected lost requests per second.
    pub lost_per_s: f64,
    /// Highest probability.
    pub probability: f64,
    /// Sum of their scores.
    pub score: f64,
}

impl BlastRequest {
    /// A failure of these nodes, with the defaults for everything else.
    pub fn new(nodes: Vec<NodeKey>) -> Self {
        Self {
            nodes,
            late: false,
            severity: one(),
            worlds: 0,
            seed: 0,
            kinds: Vec::new(),
            min_probability: default_floor(),
            limit: default_limit(),
            limit_per_kind: default_per_kind(),
            max_nodes: default_nodes(),
            max_hops: default_nodes(),
        }
    }

    fn check(&self) -> Result<()> {
        if self.nodes.is_empty() {
            return Err(Error::invalid("nodes", "is empty; name at least one node that has failed"));
        }
        if !(self.severity > 0.0 && self.severity <= 1.0) {
            return Err(Error::invalid("severity", format!("{} is not above 0 and at most 1", self.severity)));
        }
        if self.worlds > MAX_WORLDS {
            return Err(Error::invalid("worlds", format!("{} is above {MAX_WORLDS}", self.worlds)));
        }
        if self.limit > MAX_LISTED || self.limit_per_kind > MAX_LISTED {
            return Err(Error::invalid("limit", format!("is above {MAX_LISTED}")));
        }
        Ok(())
    }
}

impl Snapshot {
    /// What a failure touches.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the request breaks a rule, [`Error::Unknown`] if none of its nodes is in the graph, [`Error::Canceled`] if the budget's flag is set.
    pub fn blast(&self, request: &BlastRequest, live: &Live, budget: &mut Budget) -> Result<Answer<Blast>> {
        request.check()?;
        let mut unresolved = Vec::new();
        let failed = self.resolve(&request.nodes, &mut unresolved);
        if failed.is_empty() {
            return Err(Error::Unknown { node: request.nodes[0].to_string(), at_ms: self.at_ms() });
        }
        let starts: Vec<Start> = failed.iter().map(|n| Start { node: n.0, late: request.late, severity: request.severity }).collect();
        let graph = &*self.graph;
        let ids: Vec<u32> = failed.iter().map(|n| n.0).collect();
        let hops = u32::try_from(request.max_hops).unwrap_or(u32::MAX);
        let found = reach(graph, &ids, request.max_nodes.max(ids.len()), hops, budget)?;
        if found.cut {
            let reason = format!("only the nearest {} nodes were looked at; raise max_nodes or max_hops", found.nodes.len());
            unresolved.push(Unresolved::new("reachable", reason));
        }
        let (tally, below) = self.tally(request, &starts, &found, budget, &mut unresolved)?;
        let explanations = Explanations::find(graph, &found, &starts, budget)?;
        if explanations.is_none() {
            unresolved.push(Unresolved::new("path", "the work allowed for the answer was used up before paths were found; allow more"));
        }
        let outcome = Outcome { failed: &failed, found: &found, tally: &tally, below: &below, explanations: explanations.as_ref() };
        let blast = self.rank(request, live, &outcome);
        Ok(self.answer(blast, unresolved))
    }

    /// Draws worlds until there are enough or the budget is used up.
    fn tally(
        &self,
        request: &BlastRequest,
        starts: &[Start],
        found: &Reach,
        budget: &mut Budget,
        unresolved: &mut Vec<Unresolved>,
    ) -> Result<(Tally, Below)> {
        let graph = &*self.graph;
        let mut tally = Tally::new(found.nodes.len());
        let mut spread = Spread::new(graph, found, request.seed, &starts.iter().map(|s| s.node).collect::<Vec<_>>());
        let is_start = |node: u32| starts.iter().any(|s| s.node == node);
        let mut below: Option<Below> = None;
        // What the paths will cost is left for them.
        let cost = found.nodes.iter().map(|n| graph.out(*n).len() as u64 + 1).sum::<u64>();
        let worth = (DEFAULT_VISITS / cost.max(1)).clamp(1, u64::from(DEFAULT_WORLDS / WORLDS)) as u32;
        let blocks = if request.worlds == 0 { worth } else { request.worlds.div_ceil(WORLDS) };
        for block in 0..blocks {
            if block > 0 && budget.left() < 3 * cost {
                let reason = format!("only {} of {} worlds were drawn within the work allowed; allow more", tally.worlds, blocks * WORLDS);
                unresolved.push(Unresolved::new("worlds", reason));
                break;
            }
            if !spread.run(starts, block, budget)? {
                unresolved.push(Unresolved::new(
                    "worlds",
                    "the work allowed for the answer was used up before any probability was known; allow more",
                ));
                break;
            }
            tally.add(&spread.effects);
            if below.is_none() {
                below = Some(Below::find(graph, starts, request.max_nodes, budget)?);
            }
            let below = below.as_mut().expect("it was just made");
            let counted = below.add(graph, |n| spread.down(n), is_start, budget)?;
            if !counted || below.cut {
                below.cut = true;
            }
        }
        let below = below.unwrap_or_default();
        if below.cut {
            unresolved.push(Unresolved::new("starvation", "was not followed to its end within the work allowed; allow more"));
        }
        Ok((tally, below))
    }

    /// An edge as a step of a path.
    pub(crate) fn step(&self, edge: EdgeIdx, errors: bool) -> PathStep {
        let (from, to) = self.ends(edge);
        let short = &self.graph.edges[edge.0 as usize];
        let mut evidence = EvidenceSet::default();
        for kind in [crate::model::Evidence::Declared, crate::model::Evidence::Observed, crate::model::Evidence::Proven] {
            if self.has_evidence(edge.0, kind) {
                evidence.insert(kind);
            }
        }
        PathStep {
            provider: self.key(to).clone(),
            dependent: self.key(from).clone(),
            relation: short.relation,
            class: short.class,
            flow: short.flow,
            probability: short.probability,
            evidence,
            errors,
        }
    }
}
