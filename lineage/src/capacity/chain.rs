//! Which nodes work for an entry, and how much of their load is the entry's.
//!
//! Load runs along calls and compositions to providers. An edge carries what was measured, else what its dependent gets times its share
//! (of a redundancy group, each member its part). A node's load is what comes to it by measurement, or what its edges carry if that is
//! more; what no edge explains stays as it is when the entry grows. With M for the multiple of a node's load and s for the part of the
//! load that an edge carries, `M(node) = 1 - Σ s + Σ s M(dependent)`, and `M(entry)` is the factor: linear, so that two passes tell
//! every factor.

use hashbrown::{HashMap, HashSet};

use crate::model::{Class, Flow, Relation};
use crate::snapshot::{EdgeIdx, NONE, NodeIdx, Snapshot};

/// Most nodes of a chain, the nearest first.
pub const MAX_NODES: usize = 10_000;

/// Passes over a chain with cycles; without cycles one is enough.
pub const MAX_PASSES: usize = 64;

/// A pass that changes nothing by more than this part of itself is the last one.
const SETTLED: f64 = 1e-9;

/// An edge that carries load within the chain, or into it.
#[derive(Clone, Copy, Debug)]
struct Carrier {
    edge: EdgeIdx,
    /// Place of the dependent in the chain, or [`NONE`] if it is not in it.
    from: u32,
    /// Part of the dependent's requests that go over it.
    share: f64,
    /// Part of the provider's load that it carries.
    part: f64,
}

/// Nodes that work for an entry.
#[derive(Debug)]
pub struct Chain {
    /// They, dependents before providers where there is no cycle; the entry is the first.
    pub nodes: Vec<NodeIdx>,
    /// Edges from the entry, at least.
    pub hops: Vec<u32>,
    /// Requests per second that come to each, measured or from its edges; nothing if nobody knows any rate.
    pub rates: Vec<Option<f64>>,
    /// Whether there were more than [`MAX_NODES`].
    pub cut: bool,
    /// Whether the numbers have settled; they may not in a cycle that multiplies its own load.
    pub settled: bool,
    place: HashMap<NodeIdx, u32>,
    carriers: Vec<Vec<Carrier>>,
}

/// The multiple of each node's load, as `fixed + growing × factor`.
#[derive(Clone, Debug, PartialEq)]
pub struct Multiples {
    /// What does not depend on the factor.
    pub fixed: Vec<f64>,
    /// What does.
    pub growing: Vec<f64>,
}

impl Multiples {
    /// The multiple of a node's load at a factor.
    pub fn at(&self, place: usize, factor: f64) -> f64 {
        self.fixed[place] + self.growing[place] * factor
    }
}

/// Whether more load on the dependent is more load on the provider.
fn carries(snapshot: &Snapshot, edge: EdgeIdx) -> bool {
    let short = &snapshot.graph.edges[edge.0 as usize];
    match short.relation {
        Relation::Composition => true,
        Relation::Dependency => short.flow == Flow::Call && short.class != Class::Ordering,
    }
}

/// The part of the dependent's requests that go over an edge.
fn share(snapshot: &Snapshot, edge: EdgeIdx) -> f64 {
    let short = &snapshot.graph.edges[edge.0 as usize];
    let share = if short.relation == Relation::Composition { 1.0 } else { f64::from(snapshot.edge(edge).share) };
    if short.group == NONE { share } else { share / f64::from(snapshot.graph.groups[short.group as usize].n.max(1)) }
}

impl Chain {
    /// The chain behind an entry. `rates` are requests per second that come to nodes, `calls` those over edges.
    pub fn new(snapshot: &Snapshot, entry: NodeIdx, rates: &HashMap<NodeIdx, f64>, calls: &HashMap<EdgeIdx, f64>) -> Self {
        let (nodes, hops, cut) = walk(snapshot, entry);
        let place: HashMap<NodeIdx, u32> = nodes.iter().enumerate().map(|(i, n)| (*n, i as u32)).collect();
        let mut chain = Self {
            rates: nodes.iter().map(|n| rates.get(n).copied()).collect(),
            hops,
            cut,
            settled: true,
            carriers: Vec::new(),
            place,
            nodes,
        };
        chain.carriers = (0..chain.nodes.len()).map(|i| chain.carriers_of(snapshot, i)).collect();
        chain.spread(snapshot, rates, calls);
        chain
    }

    /// The place of a node in the chain.
    pub fn place(&self, node: NodeIdx) -> Option<usize> {
        self.place.get(&node).map(|p| *p as usize)
    }

    /// Edges within the chain with the places of their ends and what part of the provider's load they carry.
    pub fn edges(&self) -> impl Iterator<Item = (EdgeIdx, usize, usize, f64)> {
        let within = |(to, carriers): (usize, &Vec<Carrier>)| {
            carriers.iter().filter(|c| c.from != NONE).map(move |c| (c.edge, c.from as usize, to, c.part)).collect::<Vec<_>>()
        };
        self.carriers.iter().enumerate().flat_map(within)
    }

    fn carriers_of(&self, snapshot: &Snapshot, place: usize) -> Vec<Carrier> {
        if place == 0 {
            return Vec::new();
        }
        let dependents = snapshot.dependents(self.nodes[place]).filter(|(e, _)| carries(snapshot, *e));
        dependents
            .map(|(edge, from)| Carrier {
                edge,
                from: self.place.get(&from).copied().unwrap_or(NONE),
                share: share(snapshot, edge),
                part: 0.0,
            })
            .collect()
    }

    /// Finds the rates that were not measured, and which part of a node's load each edge carries.
    fn spread(&mut self, snapshot: &Snapshot, measured: &HashMap<NodeIdx, f64>, calls: &HashMap<EdgeIdx, f64>) {
        // What an edge carries, if its dependent's rate is known.
        let carried = |c: &Carrier, rates: &[Option<f64>]| {
            let rate = || match c.from {
                NONE => measured.get(&snapshot.ends(c.edge).0).copied(),
                from => rates[from as usize],
            };
            calls.get(&c.edge).copied().or_else(|| rate().map(|r| r * c.share))
        };
        self.settled = self.passes(|chain, place| {
            let sums: Vec<f64> = chain.carriers[place].iter().filter_map(|c| carried(c, &chain.rates)).collect();
            let (sum, before) = (sums.iter().sum::<f64>(), chain.rates[place]);
            let own = measured.get(&chain.nodes[place]).copied();
            let rate = if sums.is_empty() { own } else { Some(own.unwrap_or(0.0).max(sum)) };
            chain.rates[place] = rate;
            (rate.unwrap_or(0.0) - before.unwrap_or(0.0)).abs() <= SETTLED * rate.unwrap_or(0.0).max(1.0)
        });
        for place in 1..self.nodes.len() {
            let of: Vec<Option<f64>> = self.carriers[place].iter().map(|c| carried(c, &self.rates)).collect();
            let all = self.rates[place].filter(|r| *r > 0.0);
            // Where nobody knows any rate, all of the load is taken to be the chain's: better a node too many than one too few.
            let unknown: f64 = self.carriers[place].iter().filter(|c| c.from != NONE).map(|c| c.share).sum();
            for (carrier, carried) in self.carriers[place].iter_mut().zip(of) {
                carrier.part = match (all, carried) {
                    (Some(all), Some(carried)) => (carried / all).min(1.0),
                    (Some(_), None) => 0.0,
                    (None, _) if carrier.from != NONE && unknown > 0.0 => carrier.share / unknown,
                    (None, _) => 0.0,
                };
            }
        }
    }

    /// The multiples of load, without the calls over an edge if one is given.
    pub fn multiples(&self, without: Option<EdgeIdx>) -> Multiples {
        let pass = |factor: f64| {
            let mut multiples = vec![1.0; self.nodes.len()];
            multiples[0] = factor;
            for _ in 0..MAX_PASSES {
                let mut settled = true;
                for place in 1..self.nodes.len() {
                    let mut multiple = 1.0;
                    for c in &self.carriers[place] {
                        let of = match c.from {
                            NONE => 1.0,
                            from => multiples[from as usize],
                        };
                        let of = if without == Some(c.edge) { 0.0 } else { of };
                        multiple += c.part * (of - 1.0);
                    }
                    settled &= (multiple - multiples[place]).abs() <= SETTLED * multiple.abs().max(1.0);
                    multiples[place] = multiple;
                }
                if settled {
                    break;
                }
            }
            multiples
        };
        let (fixed, one) = (pass(0.0), pass(1.0));
        let growing = one.iter().zip(&fixed).map(|(one, fixed)| one - fixed).collect();
        Multiples { fixed, growing }
    }

    /// Visits the nodes after the entry again and again until all have settled; whether they have.
    fn passes(&mut self, mut visit: impl FnMut(&mut Self, usize) -> bool) -> bool {
        for _ in 0..MAX_PASSES {
            let mut settled = true;
            for place in 1..self.nodes.len() {
                settled &= visit(self, place);
            }
            if settled {
                return true;
            }
        }
        false
    }
}

/// Everything that works for an entry: dependents before providers, with hops; and whether something was left out.
fn walk(snapshot: &Snapshot, entry: NodeIdx) -> (Vec<NodeIdx>, Vec<u32>, bool) {
    let mut hops: HashMap<NodeIdx, u32> = HashMap::from_iter([(entry, 0)]);
    let mut near = vec![entry];
    let (mut at, mut cut) = (0, false);
    while at < near.len() {
        let distance = hops[&near[at]] + 1;
        for (edge, to) in snapshot.providers(near[at]) {
            if !carries(snapshot, edge) || hops.contains_key(&to) {
                continue;
            }
            if near.len() >= MAX_NODES {
                cut = true;
                break;
            }
            hops.insert(to, distance);
            near.push(to);
        }
        at += 1;
    }
    // The reverse of the order in which a search in depth leaves them.
    let mut left = Vec::with_capacity(near.len());
    let mut seen: HashSet<NodeIdx> = HashSet::from_iter([entry]);
    let providers = |node: NodeIdx| -> Vec<NodeIdx> {
        snapshot.providers(node).filter(|(e, n)| carries(snapshot, *e) && hops.contains_key(n)).map(|(_, n)| n).collect()
    };
    let mut path = vec![(entry, providers(entry))];
    while let Some((node, rest)) = path.last_mut() {
        match rest.pop() {
            Some(next) if seen.insert(next) => path.push((next, providers(next))),
            Some(_) => {}
            None => {
                left.push(*node);
                path.pop();
            }
        }
    }
    left.reverse();
    let distances = left.iter().map(|n| hops[n]).collect();
    (left, distances, cut)
}
