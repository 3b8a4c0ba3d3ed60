//! Root cause: which one failure explains best what alerts and what does not.
//!
//! The blast radius turned around. For every candidate, the probability that its failure makes each alerting node alert and leaves each
//! watched silent node silent; the logarithms add up, with what else is known (a change, an anomaly, a fault that is injected).

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::reach::Reach;
use super::spread::{Spread, Start, Tally};
use super::worlds::WORLDS;
use super::{Answer, Budget, Unresolved};
use crate::model::NodeKey;
use crate::snapshot::{NONE, NodeIdx, NodeRef, PROPAGATES, Snapshot};
use crate::{Error, Result};

/// Probability that a node which is touched alerts.
pub const DETECTION: f64 = 0.9;

/// Probability that a node which is not touched alerts.
pub const FALSE_ALARM: f64 = 0.02;

/// Most failures that are considered; those nearest to the alerts.
pub const MAX_CANDIDATES: usize = 512;

/// Most nodes between causes and alerts that are looked at.
pub const MAX_BETWEEN: usize = 200_000;

/// What alerts and what does not.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CauseRequest {
    /// Nodes that alert.
    pub alerting: Vec<NodeKey>,
    /// Nodes that are watched and do not alert.
    pub silent: Vec<NodeKey>,
    /// Hints: how many times more likely than others a node is to have failed, as by a change just before.
    #[serde(with = "pairs")]
    pub prior: HashMap<NodeKey, f64>,
    /// How many causes are listed; 20 if 0.
    pub limit: usize,
    /// The same seed gives the same answer.
    pub seed: u64,
}

mod pairs {
    use super::*;

    pub fn serialize<S: serde::Serializer>(map: &HashMap<NodeKey, f64>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(map)
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<HashMap<NodeKey, f64>, D::Error> {
        Ok(std::collections::BTreeMap::deserialize(deserializer)?.into_iter().collect())
    }
}

/// Possible causes.
#[derive(Clone, Debug, Serialize)]
pub struct Causes {
    /// The most likely first.
    pub causes: Vec<Cause>,
    /// So many were considered.
    pub considered: usize,
}

/// One possible cause.
#[derive(Clone, Debug, Serialize)]
pub struct Cause {
    /// The node that would have failed.
    pub node: NodeRef,
    /// Probability among those considered.
    pub probability: f64,
    /// Sum of logarithms.
    pub score: f64,
    /// It alerts itself.
    pub alerting: bool,
    /// Alerting nodes that its failure would touch, with the probability of that.
    pub explains: Vec<Touch>,
    /// Alerting nodes that it would not.
    pub leaves_open: Vec<NodeKey>,
    /// Silent nodes that it would most likely touch: they speak against it.
    pub against: Vec<Touch>,
}

/// A node that would be touched.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Touch {
    /// The node.
    pub node: NodeKey,
    /// Probability.
    pub probability: f64,
}

impl Snapshot {
    /// Ranks the failures that would explain a set of alerts.
    ///
    /// # Errors
    /// [`Error::Invalid`] if nothing alerts, [`Error::Unknown`] if nothing that alerts is in the graph, [`Error::Canceled`] if the budget's flag is set.
    pub fn causes(&self, request: &CauseRequest, budget: &mut Budget) -> Result<Answer<Causes>> {
        let Some(first) = request.alerting.first() else {
            return Err(Error::invalid("alerting", "is empty; name at least one node that alerts"));
        };
        let mut unresolved = Vec::new();
        let alerting = self.resolve(&request.alerting, &mut unresolved);
        if alerting.is_empty() {
            return Err(Error::Unknown { node: first.to_string(), at_ms: self.at_ms() });
        }
        let mut silent = self.resolve(&request.silent, &mut unresolved);
        silent.retain(|n| !alerting.contains(n));
        let (between, candidates) = self.between(&alerting, &silent, budget, &mut unresolved)?;
        let prior: HashMap<u32, f64> =
            request.prior.iter().filter(|(_, p)| **p > 0.0).filter_map(|(k, p)| Some((self.find(k)?.0, p.ln()))).collect();
        let mut spread = Spread::new(&self.graph, &between, request.seed, &[]);
        let mut causes = Vec::new();
        for candidate in &candidates {
            if !spread.run(&[Start { node: *candidate, late: false, severity: 1.0 }], 0, budget)? {
                let reason = format!("only {} of {} were tried within the work allowed; allow more", causes.len(), candidates.len());
                unresolved.push(Unresolved::new("causes", reason));
                break;
            }
            let mut tally = Tally::new(between.nodes.len());
            tally.add(&spread.effects);
            let touched = |node: NodeIdx| match between.place[node.0 as usize] {
                NONE => 0.0,
                place => f64::from(tally.either[place as usize]) / f64::from(WORLDS),
            };
            causes.push(self.cause(NodeIdx(*candidate), &alerting, &silent, prior.get(candidate).copied(), touched));
        }
        let best = causes.iter().map(|c| c.score).fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = causes.iter().map(|c| (c.score - best).exp()).sum();
        causes.iter_mut().for_each(|c| c.probability = (c.score - best).exp() / total);
        // Of two that explain the same, the one farther from the alerts is the cause rather than a step in between: candidates
        // come nearest first, so the order is turned before the stable sort.
        causes.reverse();
        causes.sort_by(|a, b| b.score.total_cmp(&a.score));
        let considered = causes.len();
        causes.truncate(if request.limit == 0 { 20 } else { request.limit.min(MAX_CANDIDATES) });
        Ok(self.answer(Causes { causes, considered }, unresolved))
    }

    fn cause(
        &self,
        node: NodeIdx,
        alerting: &[NodeIdx],
        silent: &[NodeIdx],
        prior: Option<f64>,
        touched: impl Fn(NodeIdx) -> f64,
    ) -> Cause {
        let alerts = |p: f64| FALSE_ALARM + (DETECTION - FALSE_ALARM) * p;
        let mut cause = Cause {
            node: self.node_ref(node),
            probability: 0.0,
            score: prior.unwrap_or(0.0),
            alerting: alerting.contains(&node),
            explains: Vec::new(),
            leaves_open: Vec::new(),
            against: Vec::new(),
        };
        for other in alerting {
            let probability = touched(*other);
            cause.score += alerts(probability).ln();
            if probability > 0.0 {
                cause.explains.push(Touch { node: self.key(*other).clone(), probability });
            } else {
                cause.leaves_open.push(self.key(*other).clone());
            }
        }
        for other in silent {
            let probability = touched(*other);
            cause.score += (1.0 - alerts(probability)).ln();
            if probability > 0.5 {
                cause.against.push(Touch { node: self.key(*other).clone(), probability });
            }
        }
        cause.explains.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        cause
    }

    /// Everything that alerting and silent nodes need, as far as it is looked at, and what of it may be the cause: what alerting nodes need.
    fn between(
        &self,
        alerting: &[NodeIdx],
        silent: &[NodeIdx],
        budget: &mut Budget,
        unresolved: &mut Vec<Unresolved>,
    ) -> Result<(Reach, Vec<u32>)> {
        let graph = &*self.graph;
        let mut place = vec![NONE; graph.len()];
        let mut nodes: Vec<u32> = Vec::new();
        let mut candidates = Vec::new();
        for (i, starts) in [alerting, silent].into_iter().enumerate() {
            let mut at = nodes.len();
            for start in starts {
                if place[start.0 as usize] == NONE {
                    place[start.0 as usize] = 0;
                    nodes.push(start.0);
                }
            }
            while at < nodes.len() && nodes.len() < MAX_BETWEEN {
                let edges = graph.out(nodes[at]);
                at += 1;
                if !budget.spend(edges.len() as u64 + 1)? {
                    break;
                }
                for edge in graph.edges[edges].iter().filter(|e| e.marks & PROPAGATES != 0) {
                    if place[edge.to as usize] == NONE {
                        place[edge.to as usize] = 0;
                        nodes.push(edge.to);
                    }
                }
            }
            if at < nodes.len() {
                let reason = format!("only the nearest {MAX_BETWEEN} nodes below the alerts were looked at");
                unresolved.push(Unresolved::new("causes", reason));
            }
            if i == 0 {
                candidates = nodes.clone();
            }
        }
        if candidates.len() > MAX_CANDIDATES {
            let reason = format!("only the {MAX_CANDIDATES} of {} possible causes nearest to the alerts were tried", candidates.len());
            unresolved.push(Unresolved::new("causes", reason));
            candidates.truncate(MAX_CANDIDATES);
        }
        let rank = &graph.order().rank;
        nodes.sort_unstable_by_key(|n| rank[*n as usize]);
        nodes.iter().enumerate().for_each(|(i, n)| place[*n as usize] = i as u32);
        let hops = vec![0; nodes.len()];
        Ok((Reach { nodes, hops, place, cut: false }, candidates))
    }
}
