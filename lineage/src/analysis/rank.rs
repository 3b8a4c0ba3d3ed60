//! Puts what a failure touches in order, the worst first, and sums it up by kind and owner.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

use hashbrown::{HashMap, HashSet};

use super::blast::{Blast, BlastRequest, Impact, Live, MAX_OWNED, STALE_WEIGHT, STARVED_WEIGHT, Sum};
use super::explain::Explanations;
use super::reach::Reach;
use super::spread::Tally;
use super::starve::Below;
use crate::snapshot::{EdgeIdx, NONE, NodeIdx, Snapshot};

/// What was found out about a failure.
pub(crate) struct Outcome<'a> {
    pub failed: &'a [NodeIdx],
    pub found: &'a Reach,
    pub tally: &'a Tally,
    pub below: &'a Below,
    pub explanations: Option<&'a Explanations>,
}

/// A node that is touched. The worse one is the greater.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Row {
    score: f64,
    hops: u32,
    node: u32,
    /// Its place in the reach, or [`NONE`] if it only starves.
    place: u32,
}

impl Eq for Row {}

impl PartialOrd for Row {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Row {
    fn cmp(&self, other: &Self) -> Ordering {
        let nearer = || other.hops.cmp(&self.hops).then_with(|| other.node.cmp(&self.node));
        self.score.total_cmp(&other.score).then_with(nearer)
    }
}

/// Probabilities of one node.
#[derive(Clone, Copy, Debug, Default)]
struct Chances {
    errors: f64,
    stale: f64,
    either: f64,
    starved: f64,
}

/// What is known of nodes besides their probabilities.
struct Known {
    /// Worlds in which a node gets nothing.
    starved: HashMap<u32, u32>,
    rates: HashMap<u32, f64>,
    median_rate: f64,
}

impl Snapshot {
    /// The answer to a request from what was found out.
    pub(crate) fn rank(&self, request: &BlastRequest, live: &Live, outcome: &Outcome) -> Blast {
        let known = self.known(live, outcome);
        let rows = self.rows(request, outcome, &known);
        let kind_of = |row: &Row| usize::from(self.graph.frozen.nodes[self.graph.records[row.node as usize]].kind);
        let kinds: Vec<&str> = self.graph.frozen.kinds.iter().map(|k| &**k).collect();
        let types = self.types();
        let is_wanted = |k: &&str| request.kinds.is_empty() || request.kinds.iter().any(|w| types.is_a(k, w));
        let wanted: Vec<bool> = kinds.iter().map(is_wanted).collect();

        let mut sums: Vec<Sum> = kinds.iter().map(|k| Sum::new(k)).collect();
        let mut worst_of_kind: Vec<BinaryHeap<Reverse<Row>>> = vec![BinaryHeap::new(); kinds.len()];
        for row in &rows {
            let kind = kind_of(row);
            sums[kind].add(row, &outcome.chances(row, &known), &known);
            if wanted[kind] {
                keep_worst(&mut worst_of_kind[kind], *row, request.limit_per_kind);
            }
        }
        let owners = self.owners(worst(rows.clone(), MAX_OWNED), outcome, &known);
        let mut listed = worst(rows.iter().copied().filter(|r| wanted[kind_of(r)]).collect(), request.limit);
        let seen: HashSet<u32> = listed.iter().map(|r| r.node).collect();
        listed.extend(worst_of_kind.into_iter().flatten().map(|Reverse(r)| r).filter(|r| !seen.contains(&r.node)));
        listed.sort_unstable_by(|a, b| b.cmp(a));
        sums.retain(|s| s.nodes > 0);
        Blast {
            failed: outcome.failed.iter().map(|n| self.node_ref(*n)).collect(),
            worlds: outcome.tally.worlds,
            deviation: 0.5 / f64::from(outcome.tally.worlds.max(1)).sqrt(),
            seed: request.seed,
            reachable: outcome.found.nodes.len() - outcome.failed.len(),
            touched: rows.len(),
            impacts: listed.iter().map(|r| self.impact(r, outcome, &known)).collect(),
            by_kind: worst_first(sums),
            by_owner: worst_first(owners),
        }
    }

    fn known(&self, live: &Live, outcome: &Outcome) -> Known {
        let below = outcome.below;
        let starved = below.nodes.iter().zip(&below.starved).filter(|(_, s)| **s > 0).map(|(n, s)| (*n, *s)).collect();
        let mut rates: HashMap<u32, f64> = HashMap::new();
        for (key, rate) in live.rates.iter().filter(|(_, r)| r.is_finite() && **r >= 0.0) {
            if let Some(node) = self.find(key) {
                *rates.entry(node.0).or_insert(0.0) += *rate;
            }
        }
        let reached = rates.iter().filter(|(n, _)| outcome.found.place[**n as usize] != NONE);
        let mut reached: Vec<f64> = reached.map(|(_, r)| *r).collect();
        reached.sort_by(f64::total_cmp);
        Known { starved, rates, median_rate: reached.get(reached.len() / 2).copied().unwrap_or(1.0) }
    }

    fn rows(&self, request: &BlastRequest, outcome: &Outcome, known: &Known) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        let mut push = |node: u32, place: u32, hops: u32| {
            let mut row = Row { score: 0.0, hops, node, place };
            let chances = outcome.chances(&row, known);
            let most = chances.either.max(chances.starved);
            if most == 0.0 || most < request.min_probability {
                return;
            }
            let effects = chances.errors + STALE_WEIGHT * chances.stale + STARVED_WEIGHT * chances.starved;
            let rate = if known.rates.is_empty() { None } else { known.rates.get(&node).copied() };
            row.score = effects * rate.unwrap_or(known.median_rate) * self.criticality(NodeIdx(node)).weight();
            rows.push(row);
        };
        for (place, node) in outcome.found.nodes.iter().enumerate() {
            // A node that failed is no hop away from itself.
            if outcome.found.hops[place] > 0 {
                push(*node, place as u32, outcome.found.hops[place]);
            }
        }
        for node in known.starved.keys().filter(|n| outcome.found.place[**n as usize] == NONE) {
            push(*node, NONE, 0);
        }
        rows
    }

    fn owners(&self, rows: Vec<Row>, outcome: &Outcome, known: &Known) -> Vec<Sum> {
        let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
        for row in rows {
            for owner in self.owners_of(NodeIdx(row.node)) {
                if !sums.contains_key(&owner.name) {
                    sums.insert(owner.name.clone(), Sum::new(&owner.name));
                }
                if let Some(sum) = sums.get_mut(&owner.name) {
                    sum.add(&row, &outcome.chances(&row, known), known);
                }
            }
        }
        sums.into_values().collect()
    }

    fn impact(&self, row: &Row, outcome: &Outcome, known: &Known) -> Impact {
        let chances = outcome.chances(row, known);
        let (path_probability, steps) = match outcome.explanations {
            Some(e) if row.place != NONE => e.path(&self.graph, outcome.found, row.place as usize),
            _ => (0.0, Vec::new()),
        };
        let rate = known.rates.get(&row.node).copied();
        Impact {
            node: self.node_ref(NodeIdx(row.node)),
            probability: chances.either,
            errors: chances.errors,
            staleness: chances.stale,
            starvation: chances.starved,
            hops: row.hops,
            rate,
            lost_per_s: rate.map(|r| r * chances.errors),
            score: row.score,
            late_after_ms: (chances.stale > 0.0).then(|| steps.iter().map(|s| self.lag_ms(s.edge)).sum()),
            path: steps.iter().map(|s| self.step(EdgeIdx(s.edge), s.errors)).collect(),
            path_probability: f64::from(path_probability),
        }
    }
}

impl Outcome<'_> {
    fn chances(&self, row: &Row, known: &Known) -> Chances {
        let part = |worlds: u32| f64::from(worlds) / f64::from(self.tally.worlds.max(1));
        let mut chances = Chances::default();
        if row.place != NONE {
            let place = row.place as usize;
            chances.errors = part(self.tally.errors[place]);
            chances.stale = part(self.tally.stale[place]);
            chances.either = part(self.tally.either[place]);
        }
        if !known.starved.is_empty() {
            chances.starved = part(known.starved.get(&row.node).copied().unwrap_or(0));
        }
        chances
    }
}

impl Sum {
    fn new(name: &str) -> Self {
        Self { name: name.into(), nodes: 0, lost_per_s: 0.0, probability: 0.0, score: 0.0 }
    }

    fn add(&mut self, row: &Row, chances: &Chances, known: &Known) {
        self.nodes += 1;
        if !known.rates.is_empty() {
            self.lost_per_s += known.rates.get(&row.node).copied().unwrap_or(0.0) * chances.errors;
        }
        self.probability = self.probability.max(chances.either);
        self.score += row.score;
    }
}

fn keep_worst(heap: &mut BinaryHeap<Reverse<Row>>, row: Row, limit: usize) {
    if heap.len() < limit {
        heap.push(Reverse(row));
    } else if let Some(mut mildest) = heap.peek_mut()
        && mildest.0 < row
    {
        *mildest = Reverse(row);
    }
}

/// The worst rows, worst first.
fn worst(mut rows: Vec<Row>, limit: usize) -> Vec<Row> {
    if rows.len() > limit {
        if limit == 0 {
            return Vec::new();
        }
        rows.select_nth_unstable_by(limit - 1, |a, b| b.cmp(a));
        rows.truncate(limit);
    }
    rows.sort_unstable_by(|a, b| b.cmp(a));
    rows
}

fn worst_first(mut sums: Vec<Sum>) -> Vec<Sum> {
    sums.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.name.cmp(&b.name)));
    sums
}
