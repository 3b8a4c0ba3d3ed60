//! What a multiple of an entry's traffic means for the nodes that work for it. A plain function of a snapshot and numbers.
//!
//! Utilisation grows with a node's load: by the slope of a linear fit of the two over the last hours if there is a good one, else in
//! proportion, which is cautious, because it takes what a node needs when idle for load.

use hashbrown::HashMap;
use serde::Serialize;

use super::chain::{Chain, Multiples};
use crate::model::{Class, NodeKey, kind};
use crate::snapshot::{EdgeIdx, HOSTING, NodeIdx, NodeRef, Snapshot};
use crate::{Answer, Unresolved};

/// Most nodes that are listed, those first that saturate first.
pub const MAX_LISTED: usize = 1_000;

/// Most soft edges that are tried.
pub const MAX_SHED: usize = 50;

/// Most nodes without numbers that are named.
pub const MAX_UNRESOLVED: usize = 100;

/// Points that a fit needs.
pub const MIN_POINTS: usize = 10;

/// Part of the variance that a fit has to explain.
pub const MIN_R2: f64 = 0.5;

/// Traffic has to have varied by this part of its mean for a fit.
pub const MIN_SPREAD: f64 = 0.1;

/// A resource of a node, as measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// The query that has found it.
    pub query: String,
    /// What is used.
    pub resource: String,
    /// Fraction of the capacity, 0 to 1.
    pub utilisation: f64,
    /// What is used and what could be, where the query tells.
    pub throughput: Option<(f64, f64)>,
    /// Utilisation over time, Unix milliseconds.
    pub history: Vec<(i64, f64)>,
}

/// Everything that was gathered for a forecast.
#[derive(Debug)]
pub struct Numbers {
    /// The nodes.
    pub chain: Chain,
    /// Loads by node.
    pub loads: HashMap<NodeIdx, Vec<Load>>,
    /// Requests per second that come to a node over time, Unix milliseconds.
    pub rates: HashMap<NodeIdx, Vec<(i64, f64)>>,
    /// What could not be gathered.
    pub unresolved: Vec<Unresolved>,
}

/// The chain behind an entry, and what becomes of it.
#[derive(Clone, Debug, Serialize)]
pub struct Capacity {
    /// The entry.
    pub entry: NodeRef,
    /// Its traffic, times this.
    pub factor: f64,
    /// Requests per second that come to it now, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Utilisation at which a resource is saturated.
    pub saturation: f64,
    /// Which resource is saturated first, and when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<First>,
    /// The nodes, those first that saturate first.
    pub nodes: Vec<NodeLoad>,
    /// Soft edges, those first that help most.
    pub shed: Vec<Shed>,
}

/// What is saturated first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct First {
    /// The node.
    pub node: NodeKey,
    /// The resource.
    pub resource: String,
    /// At this multiple of the entry's traffic; below 1 if it is saturated already.
    pub factor: f64,
}

/// A node and its load.
#[derive(Clone, Debug, Serialize)]
pub struct NodeLoad {
    /// The node.
    pub node: NodeRef,
    /// Edges from the entry.
    pub hops: u32,
    /// Requests per second that come to it, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Part of its load that is the entry's.
    pub from_entry: f64,
    /// Requests to it per request to the entry, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_request: Option<f64>,
    /// Its load at the factor, as a multiple of what it is now.
    pub load_factor: f64,
    /// What it uses.
    pub resources: Vec<ResourceLoad>,
}

/// A resource of a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResourceLoad {
    /// What it is.
    pub resource: String,
    /// The query that has found it.
    pub query: String,
    /// Fraction of the capacity that is used now.
    pub utilisation: f64,
    /// What is used, where the query tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput: Option<f64>,
    /// What could be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    /// What is left until saturation.
    pub headroom: f64,
    /// Fraction of the capacity that is used at the factor; above 1 it is what would be needed.
    pub predicted: f64,
    /// The multiple of the entry's traffic at which it is saturated; none if the entry does not load it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saturates_at: Option<f64>,
    /// How utilisation is taken to grow.
    pub method: Method,
    /// The fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fit: Option<Fit>,
}

/// How utilisation is taken to grow with load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// By the slope of a fit.
    Fit,
    /// In proportion.
    Proportional,
}

/// Utilisation as a linear function of requests per second (least squares).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// Requests to which node: itself, or the entry if nobody counts its own.
    pub against: NodeKey,
    /// Utilisation per request per second.
    pub slope: f64,
    /// Utilisation without requests.
    pub intercept: f64,
    /// Part of the variance that it explains.
    pub r2: f64,
    /// Points.
    pub points: usize,
}

/// A soft edge, and what it would help to do without it.
#[derive(Clone, Debug, Serialize)]
pub struct Shed {
    /// Who would do without.
    pub from: NodeKey,
    /// What.
    pub to: NodeKey,
    /// Requests per second over it at the factor, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_s: Option<f64>,
    /// Multiple of the entry's traffic at which the first resource would be saturated then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saturates_at: Option<f64>,
    /// Resources that it would relieve, most first.
    pub frees: Vec<Freed>,
}

/// How much a resource would be relieved.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Freed {
    /// The node.
    pub node: NodeKey,
    /// The resource.
    pub resource: String,
    /// Utilisation at the factor.
    pub before: f64,
    /// Utilisation at the factor without the edge.
    pub after: f64,
}

/// A resource of a node with how it grows.
struct Growth<'a> {
    place: usize,
    load: &'a Load,
    /// Utilisation that one more of the node's load would add.
    gain: f64,
    fit: Option<Fit>,
}

impl Growth<'_> {
    fn at(&self, multiples: &Multiples, factor: f64) -> f64 {
        self.load.utilisation + self.gain * (multiples.at(self.place, factor) - 1.0)
    }

    /// The factor at which it reaches a utilisation.
    fn reaches(&self, multiples: &Multiples, utilisation: f64) -> Option<f64> {
        let (fixed, growing) = (multiples.fixed[self.place], multiples.growing[self.place]);
        if self.gain <= 0.0 || growing <= 1e-9 {
            return None;
        }
        let multiple = 1.0 + (utilisation - self.load.utilisation) / self.gain;
        Some(((multiple - fixed) / growing).max(0.0))
    }
}

/// What becomes of the chain when the entry's traffic is multiplied by `factor`, if resources are saturated at `saturation`.
pub fn forecast(snapshot: &Snapshot, mut numbers: Numbers, factor: f64, saturation: f64) -> Answer<Capacity> {
    let mut unresolved = std::mem::take(&mut numbers.unresolved);
    let chain = &numbers.chain;
    let multiples = chain.multiples(None);
    let growths = growths(snapshot, &numbers, &multiples);
    let first = first(snapshot, chain, &growths, &multiples, saturation);
    let shed = shed(snapshot, chain, &growths, &multiples, factor, saturation);
    complain(snapshot, &numbers, &mut unresolved);
    let entry_rate = chain.rates[0];
    let mut nodes: Vec<NodeLoad> = (0..chain.nodes.len())
        .map(|place| {
            let from_entry = multiples.growing[place].clamp(0.0, 1.0);
            let per_request = entry_rate.filter(|r| *r > 0.0).zip(chain.rates[place]).map(|(entry, own)| own * from_entry / entry);
            NodeLoad {
                node: snapshot.node_ref(chain.nodes[place]),
                hops: chain.hops[place],
                rate: chain.rates[place],
                from_entry,
                per_request,
                load_factor: multiples.at(place, factor),
                resources: growths.iter().filter(|g| g.place == place).map(|g| resource(g, &multiples, factor, saturation)).collect(),
            }
        })
        .collect();
    let soonest = |n: &NodeLoad| n.resources.iter().filter_map(|r| r.saturates_at).min_by(f64::total_cmp).unwrap_or(f64::INFINITY);
    nodes.sort_by(|a, b| soonest(a).total_cmp(&soonest(b)).then(a.hops.cmp(&b.hops)).then_with(|| a.node.id.cmp(&b.node.id)));
    if nodes.len() > MAX_LISTED {
        unresolved
            .push(Unresolved::new("nodes", format!("only {MAX_LISTED} of {} are listed, those first that saturate first", nodes.len())));
        nodes.truncate(MAX_LISTED);
    }
    let entry = snapshot.node_ref(chain.nodes[0]);
    snapshot.answer(Capacity { entry, factor, rate: entry_rate, saturation, first, nodes, shed }, unresolved)
}

/// How the resources of the chain grow.
fn growths<'a>(snapshot: &Snapshot, numbers: &'a Numbers, multiples: &Multiples) -> Vec<Growth<'a>> {
    let chain = &numbers.chain;
    let mut growths = Vec::new();
    for (place, node) in chain.nodes.iter().enumerate() {
        for load in numbers.loads.get(node).into_iter().flatten() {
            let fit_to = |at: usize| {
                let rates = numbers.rates.get(&chain.nodes[at])?;
                let fit = fit(&load.history, rates, snapshot.key(chain.nodes[at]))?;
                Some((chain.rates[at]?, fit))
            };
            let own = fit_to(place).map(|(rate, fit)| (fit.slope * rate, fit));
            // More requests to the entry are more load by the part that is the entry's.
            let of_entry = || {
                fit_to(0).filter(|_| multiples.growing[place] > 1e-6).map(|(rate, fit)| (fit.slope * rate / multiples.growing[place], fit))
            };
            let (gain, fit) = match own.or_else(of_entry) {
                Some((gain, fit)) => (gain, Some(fit)),
                None => (load.utilisation, None),
            };
            growths.push(Growth { place, load, gain, fit });
        }
    }
    growths
}

/// The line through utilisation over requests per second, if it is one that can be trusted.
fn fit(utilisation: &[(i64, f64)], rates: &[(i64, f64)], against: &NodeKey) -> Option<Fit> {
    let by_time: HashMap<i64, f64> = rates.iter().copied().collect();
    let points: Vec<(f64, f64)> =
        utilisation.iter().filter_map(|(t, u)| Some((*by_time.get(t)?, *u))).filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let n = points.len() as f64;
    if points.len() < MIN_POINTS {
        return None;
    }
    let (mean_x, mean_y) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let sum = |of: &dyn Fn(f64, f64) -> f64| points.iter().map(|(x, y)| of(x - mean_x, y - mean_y)).sum::<f64>();
    let (xx, yy, xy) = (sum(&|x, _| x * x), sum(&|_, y| y * y), sum(&|x, y| x * y));
    if mean_x <= 0.0 || (xx / n).sqrt() < MIN_SPREAD * mean_x || yy <= 0.0 || xy <= 0.0 {
        return None;
    }
    let (slope, r2) = (xy / xx, xy * xy / (xx * yy));
    (r2 >= MIN_R2).then(|| Fit { against: against.clone(), slope, intercept: mean_y - slope * mean_x, r2, points: points.len() })
}

fn resource(growth: &Growth<'_>, multiples: &Multiples, factor: f64, saturation: f64) -> ResourceLoad {
    let load = growth.load;
    ResourceLoad {
        resource: load.resource.clone(),
        query: load.query.clone(),
        utilisation: load.utilisation,
        throughput: load.throughput.map(|t| t.0),
        limit: load.throughput.map(|t| t.1),
        headroom: saturation - load.utilisation,
        predicted: growth.at(multiples, factor).max(0.0),
        saturates_at: growth.reaches(multiples, saturation),
        method: if growth.fit.is_some() { Method::Fit } else { Method::Proportional },
        fit: growth.fit.clone(),
    }
}

fn first(snapshot: &Snapshot, chain: &Chain, growths: &[Growth<'_>], multiples: &Multiples, saturation: f64) -> Option<First> {
    let reached = growths.iter().filter_map(|g| Some((g, g.reaches(multiples, saturation)?)));
    let (growth, factor) = reached.min_by(|(_, a), (_, b)| a.total_cmp(b))?;
    Some(First { node: snapshot.key(chain.nodes[growth.place]).clone(), resource: growth.load.resource.clone(), factor })
}

/// Soft edges of the chain, with what it would help to do without each.
fn shed(snapshot: &Snapshot, chain: &Chain, growths: &[Growth<'_>], base: &Multiples, factor: f64, saturation: f64) -> Vec<Shed> {
    let soft = |edge: EdgeIdx| snapshot.graph.edges[edge.0 as usize].class == Class::Soft;
    let mut edges: Vec<_> = chain.edges().filter(|(edge, ..)| soft(*edge)).collect();
    let load = |(_, from, to, part): &(EdgeIdx, usize, usize, f64)| part * chain.rates[*to].unwrap_or(1.0) * base.at(*from, factor);
    edges.sort_by(|a, b| load(b).total_cmp(&load(a)));
    edges.truncate(MAX_SHED);
    let mut shed: Vec<Shed> = edges
        .into_iter()
        .map(|(edge, from, to, part)| {
            let without = chain.multiples(Some(edge));
            let mut frees: Vec<Freed> = growths
                .iter()
                .map(|g| (g, g.at(base, factor).max(0.0), g.at(&without, factor).max(0.0)))
                .filter(|(_, before, after)| before - after > 1e-6)
                .map(|(g, before, after)| Freed {
                    node: snapshot.key(chain.nodes[g.place]).clone(),
                    resource: g.load.resource.clone(),
                    before,
                    after,
                })
                .collect();
            frees.sort_by(|a, b| (b.before - b.after).total_cmp(&(a.before - a.after)));
            Shed {
                from: snapshot.key(chain.nodes[from]).clone(),
                to: snapshot.key(chain.nodes[to]).clone(),
                requests_per_s: chain.rates[to].map(|rate| rate * part * base.at(from, factor)),
                saturates_at: first(snapshot, chain, growths, &without, saturation).map(|f| f.factor),
                frees,
            }
        })
        .collect();
    let helps = |s: &Shed| s.saturates_at.unwrap_or(f64::INFINITY);
    let freed = |s: &Shed| s.frees.iter().map(|f| f.before - f.after).sum::<f64>();
    shed.sort_by(|a, b| helps(b).total_cmp(&helps(a)).then(freed(b).total_cmp(&freed(a))));
    shed
}

/// Says what is not known.
fn complain(snapshot: &Snapshot, numbers: &Numbers, unresolved: &mut Vec<Unresolved>) {
    let chain = &numbers.chain;
    if chain.cut {
        unresolved.push(Unresolved::new("nodes", format!("only the nearest {} work for the entry in this answer", chain.nodes.len())));
    }
    if !chain.settled {
        unresolved
            .push(Unresolved::new("rates", "do not settle, because calls in a cycle multiply; give the edges shares that were measured"));
    }
    if chain.rates[0].is_none() {
        let reason =
            "the traffic of the entry is not known, so that all load is taken to be its own; let a mesh or traces count its requests";
        unresolved.push(Unresolved::new(snapshot.key(chain.nodes[0]).as_str(), reason));
    }
    let has = |node: NodeIdx| numbers.loads.get(&node).is_some_and(|l| !l.is_empty());
    // What runs somewhere is used where it runs.
    let runs_on = |edge: EdgeIdx, to: NodeIdx| {
        let hosting = snapshot.graph.edges[edge.0 as usize].marks & HOSTING != 0;
        (hosting || [kind::WORKLOAD, kind::INSTANCE].contains(&snapshot.kind(to))) && has(to)
    };
    let unknown: Vec<NodeIdx> =
        chain.nodes.iter().copied().filter(|n| !has(*n) && !snapshot.providers(*n).any(|(e, to)| runs_on(e, to))).collect();
    for node in unknown.iter().take(MAX_UNRESOLVED) {
        let reason = "no query tells how far it is used to capacity; add one to capacity.queries";
        unresolved.push(Unresolved::new(snapshot.key(*node).as_str(), reason));
    }
    if unknown.len() > MAX_UNRESOLVED {
        unresolved.push(Unresolved::new("nodes", format!("{} further ones have no numbers", unknown.len() - MAX_UNRESOLVED)));
    }
}
