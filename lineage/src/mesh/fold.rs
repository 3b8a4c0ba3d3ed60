//! From the rows of a rule's query to edges with their traffic, each request counted once. Plain functions.

use std::collections::BTreeMap;

use hashbrown::{HashMap, HashSet};
use isobar_block::{MatrixSeries, VectorSample};
use smallvec::SmallVec;

use super::pattern::{Named, NodePattern, named};
use super::rule::{FAILED, Rule};
use crate::model::NodeKey;

/// Requests per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// All of them.
    pub rate: f64,
    /// Those that failed.
    pub failed: f64,
}

impl Traffic {
    fn add(&mut self, other: Self) {
        self.rate += other.rate;
        self.failed += other.failed;
    }
}

/// Rows that are no edges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// The provider is an IP address.
    pub addresses: usize,
    /// The labels do not name the provider.
    pub unnamed: usize,
}

/// What one rule has found at one time.
#[derive(Clone, Debug, Default)]
pub struct RuleFound {
    /// Edges, dependent and provider, with their traffic; 0 for rules that do not count.
    pub edges: HashMap<(NodeKey, NodeKey), Traffic>,
    /// All that comes to a node, from wherever.
    pub inbound: HashMap<NodeKey, Traffic>,
    /// All that goes out from a node.
    pub outbound: HashMap<NodeKey, f64>,
    /// What comes to a node without anybody being named who sends it.
    pub outside: HashMap<NodeKey, f64>,
    /// Clusters of the dependent and the provider, of edges between clusters.
    pub clusters: HashMap<(NodeKey, NodeKey), (String, String)>,
    /// Other names, each with the one that it stands for.
    pub aliases: Vec<(NodeKey, NodeKey)>,
    /// Rows that are no edges.
    pub skipped: Skipped,
    /// Rows beyond the limit, which were left out.
    pub cut: usize,
}

/// The same traffic, as each metric and reporter sees it.
type Views<'a> = SmallVec<[((&'a str, &'a str), Traffic); 2]>;

/// What one metric of a rule has given.
pub(super) struct MetricRows {
    /// The name of the metric.
    pub metric: String,
    /// The rows of [`Rule::query`].
    pub rows: Vec<VectorSample>,
}

/// A row with its names.
struct Row<'a> {
    metric: &'a str,
    sample: &'a VectorSample,
    from: Option<NodeKey>,
    to: NodeKey,
    traffic: Traffic,
}

/// Reads the rows that `rule` has got. What several metrics of a rule show of one edge is taken for the same traffic.
pub(super) fn fold(rule: &Rule, metrics: &[MetricRows]) -> RuleFound {
    let mut found = RuleFound::default();
    let mut rows = Vec::new();
    for metric in metrics {
        name_rows(rule, metric, &mut found.skipped, &mut rows);
    }
    found.aliases = aliases(&rule.aliases, &rows);
    let canonical: HashMap<NodeKey, NodeKey> = found.aliases.iter().cloned().collect();
    let mut by_edge: HashMap<(Option<NodeKey>, NodeKey), Views<'_>> = HashMap::new();
    let mut by_node: HashMap<NodeKey, Views<'_>> = HashMap::new();
    for row in &mut rows {
        if let Some(name) = canonical.get(&row.to) {
            row.to = name.clone();
        }
        let view = (row.metric, rule.count_once_by.as_ref().and_then(|l| row.sample.labels.get(l)).unwrap_or(""));
        add(by_edge.entry((row.from.clone(), row.to.clone())).or_default(), view, row.traffic);
        add(by_node.entry(row.to.clone()).or_default(), view, row.traffic);
        if let Some(from) = &row.from {
            note_clusters(rule, row.sample, from, &row.to, &mut found.clusters);
        }
    }
    // Of a self-call there is no edge, but it is a request.
    for ((from, to), views) in by_edge {
        let traffic = largest(&views);
        if traffic.rate <= 0.0 {
            continue;
        }
        let Some(from) = from else { continue };
        if from != to {
            *found.outbound.entry(from.clone()).or_default() += traffic.rate;
        }
        found.inbound.entry(to.clone()).or_default().add(traffic);
        if from != to {
            found.edges.insert((from, to), traffic);
        }
    }
    // What callers report of a node, and what the node reports itself: the larger one has seen more.
    for (node, views) in by_node {
        let whole = largest(&views);
        let inbound = found.inbound.entry(node.clone()).or_default();
        if whole.rate > inbound.rate {
            found.outside.insert(node, whole.rate - inbound.rate);
            *inbound = whole;
        }
    }
    if !rule.counts() {
        found.inbound.clear();
        found.outbound.clear();
        found.outside.clear();
        found.edges.values_mut().for_each(|t| *t = Traffic::default());
    }
    found
}

/// Values over time, by time.
pub type History = BTreeMap<i64, f64>;

/// Requests per second that come to each node over time, from the series that a rule's query has over a range; of a node to which none
/// come what it sends out. Of several metrics and reporters the one with most counts.
pub(super) fn fold_range(rule: &Rule, metrics: &[(String, Vec<MatrixSeries>)]) -> HashMap<NodeKey, History> {
    let mut inbound: HashMap<(NodeKey, &str, &str), History> = HashMap::new();
    let mut outbound: HashMap<(NodeKey, &str, &str), History> = HashMap::new();
    for (metric, all) in metrics {
        for series in all.iter().filter(|s| s.labels.get(FAILED).is_none()) {
            let view = rule.count_once_by.as_ref().and_then(|l| series.labels.get(l)).unwrap_or("");
            let ends = [(named(&rule.to, &series.labels), &mut inbound), (named(&rule.from, &series.labels), &mut outbound)];
            for (name, sums) in ends {
                let Named::Node(key) = name else { continue };
                let sum = sums.entry((key, metric.as_str(), view)).or_default();
                for (t, value) in series.values.iter().filter(|(_, v)| v.is_finite()) {
                    *sum.entry(*t).or_default() += value;
                }
            }
        }
    }
    let most = |views: HashMap<(NodeKey, &str, &str), History>| {
        let mut of: HashMap<NodeKey, History> = HashMap::new();
        for ((key, _, _), history) in views {
            let kept = of.entry(key).or_default();
            if history.values().sum::<f64>() > kept.values().sum::<f64>() {
                *kept = history;
            }
        }
        of
    };
    let mut all = most(outbound);
    all.extend(most(inbound));
    all
}

/// The rows that name a provider, with failures beside what they are a part of.
fn name_rows<'a>(rule: &Rule, metric: &'a MetricRows, skipped: &mut Skipped, rows: &mut Vec<Row<'a>>) {
    for sample in &metric.rows {
        if !sample.value.is_finite() || sample.value <= 0.0 {
            continue;
        }
        let failed = sample.labels.get(FAILED).is_some();
        let to = match named(&rule.to, &sample.labels) {
            Named::Node(key) => key,
            Named::Address => {
                skipped.addresses += usize::from(!failed);
                continue;
            }
            Named::Nothing => {
                skipped.unnamed += usize::from(!failed);
                continue;
            }
        };
        let from = match named(&rule.from, &sample.labels) {
            Named::Node(key) => Some(key),
            _ => None,
        };
        let traffic = if failed { Traffic { rate: 0.0, failed: sample.value } } else { Traffic { rate: sample.value, failed: 0.0 } };
        rows.push(Row { metric: &metric.metric, sample, from, to, traffic });
    }
}

/// Names that always stand beside the same name, which never stands beside another one of them.
fn aliases(patterns: &[NodePattern], rows: &[Row<'_>]) -> Vec<(NodeKey, NodeKey)> {
    if patterns.is_empty() {
        return Vec::new();
    }
    let mut names: HashMap<NodeKey, Option<&NodeKey>> = HashMap::new();
    let mut others: HashMap<&NodeKey, Option<NodeKey>> = HashMap::new();
    for row in rows {
        let Named::Node(other) = named(patterns, &row.sample.labels) else { continue };
        // A row without the better name says nothing about what it is, and what is external is no service.
        if other == row.to || other.kind() != row.to.kind() {
            continue;
        }
        names.entry(other.clone()).and_modify(|n| *n = n.filter(|n| **n == row.to)).or_insert(Some(&row.to));
        others.entry(&row.to).and_modify(|o| *o = o.take().filter(|o| *o == other)).or_insert(Some(other));
    }
    let taken: HashSet<&NodeKey> = rows.iter().filter_map(|r| r.from.as_ref()).collect();
    let pairs = names.into_iter().filter_map(|(other, name)| name.map(|name| (other, name)));
    // A name that others go by is somebody of its own.
    pairs
        .filter(|(other, name)| {
            others.get(name).is_some_and(|o| o.as_ref() == Some(other)) && !taken.contains(other) && !others.contains_key(other)
        })
        .map(|(other, name)| (other, name.clone()))
        .collect()
}

fn add<'a>(views: &mut Views<'a>, view: (&'a str, &'a str), traffic: Traffic) {
    match views.iter_mut().find(|(v, _)| *v == view) {
        Some((_, sum)) => sum.add(traffic),
        None => views.push((view, traffic)),
    }
}

fn largest(views: &Views<'_>) -> Traffic {
    let most = views.iter().map(|(_, t)| *t).max_by(|a, b| a.rate.total_cmp(&b.rate)).unwrap_or_default();
    Traffic { rate: most.rate, failed: most.failed.min(most.rate) }
}

fn note_clusters(
    rule: &Rule,
    sample: &VectorSample,
    from: &NodeKey,
    to: &NodeKey,
    clusters: &mut HashMap<(NodeKey, NodeKey), (String, String)>,
) {
    let Some((from_label, to_label)) = &rule.clusters else { return };
    let known = |label: &str| sample.labels.get(label).filter(|v| *v != "unknown");
    // The provider of a request that did not arrive is taken to be in the caller's cluster.
    if let (Some(a), Some(b)) = (known(from_label), known(to_label))
        && a != b
    {
        let pair = (a.to_owned(), b.to_owned());
        let kept = clusters.entry((from.clone(), to.clone())).or_insert_with(|| pair.clone());
        // Of several pairs always the same one is noted.
        if pair < *kept {
            *kept = pair;
        }
    }
}

#[cfg(test)]
mod tests;
