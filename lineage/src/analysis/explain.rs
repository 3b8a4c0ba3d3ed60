//! The one path that explains best why a node is touched: the one with the highest product of probabilities.
//!
//! Computed with the nodes in the order of their providers, so that each is visited once; within cycles until nothing improves.
//! Errors and old data have a path each, because an edge that carries data turns the one into the other.

use super::Budget;
use super::reach::Reach;
use super::spread::Start;
use crate::Result;
use crate::model::Flow;
use crate::snapshot::{Graph, NONE, PROPAGATES};

/// Best way of one effect to one node.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Best {
    probability: f32,
    /// The edge over which it came; [`NONE`] at a start.
    edge: u32,
    /// Over that edge the provider's errors came, rather than its old data.
    from_errors: bool,
}

const NOTHING: Best = Best { probability: 0.0, edge: NONE, from_errors: false };

/// Best ways by place in the reach.
#[derive(Debug)]
pub(crate) struct Explanations {
    errors: Vec<Best>,
    stale: Vec<Best>,
}

/// A step of a path: the edge, and whether errors (rather than old data) came over it to the dependent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub edge: u32,
    pub errors: bool,
}

impl Explanations {
    /// Finds the best ways. `None` if the budget ends.
    pub fn find(graph: &Graph, reach: &Reach, starts: &[Start], budget: &mut Budget) -> Result<Option<Self>> {
        let len = reach.nodes.len();
        let mut found = Self { errors: vec![NOTHING; len], stale: vec![NOTHING; len] };
        for start in starts {
            let place = reach.place[start.node as usize] as usize;
            let best = if start.late { &mut found.stale[place] } else { &mut found.errors[place] };
            best.probability = best.probability.max(start.severity);
        }
        for run in reach.components(graph) {
            loop {
                let mut changed = false;
                for place in run.clone() {
                    if !budget.spend(graph.out(reach.nodes[place]).len() as u64 + 1)? {
                        return Ok(None);
                    }
                    changed |= found.improve(graph, reach, place);
                }
                if run.len() == 1 || !changed {
                    break;
                }
            }
        }
        Ok(Some(found))
    }

    fn improve(&mut self, graph: &Graph, reach: &Reach, place: usize) -> bool {
        let mut changed = false;
        for e in graph.out(reach.nodes[place]) {
            let edge = &graph.edges[e];
            let provider = reach.place[edge.to as usize];
            if provider == NONE || edge.marks & PROPAGATES == 0 {
                continue;
            }
            let (errors, stale) = (self.errors[provider as usize].probability, self.stale[provider as usize].probability);
            let mut offer = |to: &mut Best, probability: f32, from_errors: bool| {
                if probability > to.probability {
                    *to = Best { probability, edge: e as u32, from_errors };
                    changed = true;
                }
            };
            match edge.flow {
                Flow::Call => offer(&mut self.errors[place], errors * edge.probability, true),
                Flow::Data => offer(&mut self.stale[place], errors * edge.probability, true),
            }
            offer(&mut self.stale[place], stale * edge.probability, false);
        }
        changed
    }

    /// The path to a place, from the failed node on: of errors if there is one, else of old data.
    pub fn path(&self, graph: &Graph, reach: &Reach, place: usize) -> (f32, Vec<Step>) {
        let mut errors = self.errors[place].probability > 0.0;
        let probability = if errors { self.errors[place].probability } else { self.stale[place].probability };
        let mut steps = Vec::new();
        let mut at = place;
        // A best way has no cycle, because probabilities are at most 1 and only strictly better ones are taken.
        while steps.len() <= reach.nodes.len() {
            let best = if errors { self.errors[at] } else { self.stale[at] };
            if best.edge == NONE {
                break;
            }
            steps.push(Step { edge: best.edge, errors });
            errors = best.from_errors;
            at = reach.place[graph.edges[best.edge as usize].to as usize] as usize;
        }
        steps.reverse();
        (probability, steps)
    }
}
