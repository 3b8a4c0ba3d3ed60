//! How a failure spreads: in each of many worlds, which nodes answer with errors, which hold old data, which are down.
//!
//! Bit-parallel Monte Carlo: a mask per node and effect holds 256 worlds. Nodes are computed after their providers, each once; only
//! within a cycle until nothing changes, which is the least fixed point.

use super::Budget;
use super::reach::Reach;
use super::worlds::{Counter, EMPTY, FULL, Mask, WORLDS, and, count, draw, or, without};
use crate::Result;
use crate::model::Flow;
use crate::snapshot::{BORROWED, Edge, Graph, HOSTING, NONE, PROPAGATES};

/// What has failed in which worlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(64))]
pub(crate) struct Effects {
    /// It answers with errors, or is not there.
    pub errors: Mask,
    /// Its data are old.
    pub stale: Mask,
}

/// Nothing has failed.
pub(crate) const FINE: Effects = Effects { errors: EMPTY, stale: EMPTY };

/// Effects, and worlds in which the node does not run.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Now {
    effects: Effects,
    down: Mask,
}

const NOTHING: Now = Now { effects: FINE, down: EMPTY };

/// How a failure begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start {
    pub node: u32,
    /// It is late rather than down.
    pub late: bool,
    /// Probability that a request to it meets the failure.
    pub severity: f32,
}

/// Worlds counted per node, by place in the reach.
#[derive(Debug)]
pub(crate) struct Tally {
    pub worlds: u32,
    pub errors: Vec<u32>,
    pub stale: Vec<u32>,
    pub either: Vec<u32>,
}

/// One block of worlds.
pub(crate) struct Spread<'a> {
    pub graph: &'a Graph,
    pub reach: &'a Reach,
    pub seed: u64,
    pub block: u32,
    /// By place.
    pub effects: Vec<Effects>,
    /// By place, worlds in which a node does not run; empty if nothing runs on what has failed.
    down: Vec<Mask>,
    /// Nodes that failed first.
    failed: Vec<(u32, Mask)>,
    dirty: Vec<bool>,
    counter: Counter,
}

impl Tally {
    /// Nothing counted yet.
    pub fn new(len: usize) -> Self {
        Self { worlds: 0, errors: vec![0; len], stale: vec![0; len], either: vec![0; len] }
    }

    /// Counts the worlds of a block.
    pub fn add(&mut self, effects: &[Effects]) {
        self.worlds += WORLDS;
        for (i, e) in effects.iter().enumerate() {
            self.errors[i] += count(e.errors);
            self.stale[i] += count(e.stale);
            self.either[i] += count(or(e.errors, e.stale));
        }
    }
}

impl<'a> Spread<'a> {
    /// Before anything has failed. What runs on `starts` is told apart as down.
    pub fn new(graph: &'a Graph, reach: &'a Reach, seed: u64, starts: &[u32]) -> Self {
        let len = reach.nodes.len();
        let marks = |n: &u32| graph.reached(*n).first().map_or(0, |b| graph.edges[b.edge as usize].marks);
        let hosting = starts.iter().any(|n| marks(n) & HOSTING != 0);
        let down = if hosting { vec![EMPTY; len] } else { Vec::new() };
        let (failed, dirty, counter) = (Vec::new(), vec![false; len], Counter::default());
        Self { graph, reach, seed, block: 0, effects: vec![FINE; len], down, failed, dirty, counter }
    }

    /// Computes one block of worlds. `false` if the budget ends before; then the block is of no use.
    pub fn run(&mut self, starts: &[Start], block: u32, budget: &mut Budget) -> Result<bool> {
        self.block = block;
        self.effects.fill(FINE);
        self.down.fill(EMPTY);
        self.failed.clear();
        for (i, start) in starts.iter().enumerate() {
            // Edges have the lower ids, so that a start never draws what an edge does.
            let id = (self.graph.edges.len() + i) as u32;
            let mask = draw(self.seed, id, block, start.severity, FULL);
            let place = self.reach.place[start.node as usize] as usize;
            let effects = &mut self.effects[place];
            if start.late {
                effects.stale = or(effects.stale, mask);
                continue;
            }
            effects.errors = or(effects.errors, mask);
            self.failed.push((start.node, mask));
            if let Some(down) = self.down.get_mut(place) {
                *down = or(*down, mask);
            }
        }
        let (graph, reach) = (self.graph, self.reach);
        for run in reach.components(graph) {
            if run.len() == 1 {
                if !budget.spend(graph.out(reach.nodes[run.start]).len() as u64 + 1)? {
                    return Ok(false);
                }
                self.evaluate(run.start);
            } else if !self.settle(run, budget)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Worlds in which a node does not run.
    pub fn down(&self, node: u32) -> Mask {
        match self.reach.place[node as usize] {
            NONE => EMPTY,
            place if !self.down.is_empty() => self.down[place as usize],
            _ => self.failed.iter().filter(|(n, _)| *n == node).fold(EMPTY, |down, (_, mask)| or(down, *mask)),
        }
    }

    /// Computes the nodes of a cycle until nothing changes, sweeping in an order in which few edges lead backwards.
    fn settle(&mut self, run: std::ops::Range<usize>, budget: &mut Budget) -> Result<bool> {
        self.dirty[run.clone()].fill(true);
        let mut again = true;
        while std::mem::take(&mut again) {
            for place in run.clone() {
                if !std::mem::take(&mut self.dirty[place]) {
                    continue;
                }
                let node = self.reach.nodes[place];
                if !budget.spend(self.graph.out(node).len() as u64 + 1)? {
                    return Ok(false);
                }
                if !self.evaluate(place) {
                    continue;
                }
                for back in self.graph.reached(node) {
                    let dependent = self.reach.place[back.from as usize] as usize;
                    if run.contains(&dependent) {
                        self.dirty[dependent] = true;
                        again |= dependent <= place;
                    }
                }
            }
        }
        Ok(true)
    }

    /// Adds to a node what reaches it from its providers. Returns whether that is more than before.
    fn evaluate(&mut self, place: usize) -> bool {
        let mut now = Now { effects: self.effects[place], down: self.down.get(place).copied().unwrap_or(EMPTY) };
        let before = now;
        let graph = self.graph;
        let mut edges = graph.out(self.reach.nodes[place]);
        while let Some(e) = edges.next() {
            let edge = &graph.edges[e];
            if edge.group != NONE {
                let end = (e + 1..edges.end).find(|i| graph.edges[*i].group != edge.group).unwrap_or(edges.end);
                self.evaluate_group(e..end, &mut now);
                edges.start = end;
                continue;
            }
            let provider = self.reach.place[edge.to as usize];
            if provider == NONE || edge.marks & PROPAGATES == 0 {
                continue;
            }
            let theirs = self.now(provider);
            if theirs != NOTHING {
                self.pass(&mut now, theirs, e as u32, edge.probability, edge);
            }
        }
        self.effects[place] = now.effects;
        if let Some(down) = self.down.get_mut(place) {
            *down = now.down;
        }
        now != before
    }

    fn now(&self, place: u32) -> Now {
        Now { effects: self.effects[place as usize], down: self.down.get(place as usize).copied().unwrap_or(EMPTY) }
    }

    /// A group fails in the worlds in which fewer than k of its n members work.
    fn evaluate_group(&mut self, edges: std::ops::Range<usize>, now: &mut Now) {
        let first = self.graph.edges[edges.start];
        let group = &self.graph.groups[first.group as usize];
        let failures = group.n - group.k + 1;
        if group.k == 0 || failures as usize > edges.len() {
            return;
        }
        let mut counter = std::mem::take(&mut self.counter);
        let members = || {
            let places = edges.clone().map(|e| self.reach.place[self.graph.edges[e].to as usize]);
            places.filter(|p| *p != NONE).map(|p| self.now(p))
        };
        if members().any(|m| m != NOTHING) {
            let mut at_least = |wanted: u32, effect: fn(&Now) -> Mask| {
                counter.clear();
                members().for_each(|m| counter.add(effect(&m)));
                counter.at_least(wanted)
            };
            let (errors, down) = (at_least(failures, |m| m.effects.errors), at_least(failures, |m| m.down));
            // Whoever still answers has old data, or some of them. Nothing here may shrink when more fails: cycles rely on it.
            let touched = at_least(failures, |m| or(m.effects.errors, m.effects.stale));
            let stale = and(touched, at_least(1, |m| m.effects.stale));
            let theirs = Now { effects: Effects { errors, stale }, down };
            self.pass(now, theirs, edges.start as u32, group.probability, &first);
        }
        self.counter = counter;
    }

    /// Adds what a dependent gets of a provider's failure in the worlds in which the edge passes it on.
    fn pass(&self, now: &mut Now, theirs: Now, id: u32, probability: f32, edge: &Edge) {
        let (mine, Now { effects: theirs, down }) = (&mut now.effects, theirs);
        // Only what would be new has to be drawn.
        let mut wanted = match edge.flow {
            Flow::Call => or(without(theirs.errors, mine.errors), without(theirs.stale, mine.stale)),
            Flow::Data => without(or(theirs.errors, theirs.stale), mine.stale),
        };
        let hosting = edge.marks & HOSTING != 0;
        if hosting {
            wanted = or(wanted, without(down, now.down));
        }
        if wanted == EMPTY {
            return;
        }
        let id = if edge.marks & BORROWED == 0 { id } else { self.graph.borrowed.get(&id).copied().unwrap_or(id) };
        let passes = draw(self.seed, id, self.block, probability, wanted);
        let errors = and(theirs.errors, passes);
        match edge.flow {
            Flow::Call => mine.errors = or(mine.errors, errors),
            Flow::Data => mine.stale = or(mine.stale, errors),
        }
        mine.stale = or(mine.stale, and(theirs.stale, passes));
        if hosting {
            now.down = or(now.down, and(down, passes));
        }
    }
}
