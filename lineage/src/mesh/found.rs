//! What all rules together have found: traffic of nodes and edges, and which fraction of a node's requests go over each of its edges.

use hashbrown::HashMap;

use super::fold::{RuleFound, Traffic};
use super::rule::Rule;
use crate::Unresolved;
use crate::analysis::blast::Live;
use crate::model::NodeKey;

/// What was found at one time.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// When, Unix milliseconds.
    pub at_ms: i64,
    /// Requests per second that come to a node; of a node to which none come what it sends out.
    pub nodes: HashMap<NodeKey, Traffic>,
    /// Requests per second over an edge, from the dependent to the provider.
    pub edges: HashMap<(NodeKey, NodeKey), Traffic>,
    /// Rules that found something, with how many edges each has.
    pub rules: Vec<RuleSummary>,
    /// What could not be found out.
    pub unresolved: Vec<Unresolved>,
    /// Whether a query failed, so that asking again may find more.
    pub failed: bool,
}

/// What one rule has found, in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSummary {
    /// The rule.
    pub rule: String,
    /// Edges.
    pub edges: usize,
    /// Rows whose provider is an IP address.
    pub addresses: usize,
    /// Rows whose provider has no name.
    pub unnamed: usize,
    /// Rows beyond the limit.
    pub cut: usize,
}

impl Found {
    /// Adds what a rule has found. Rules may have seen the same requests, so that the one that has seen most counts.
    pub(super) fn add(&mut self, rule: &Rule, found: &RuleFound) {
        for (key, traffic) in &found.inbound {
            most(self.nodes.entry(key.clone()).or_default(), *traffic);
        }
        for (key, traffic) in found.edges.iter().filter(|_| rule.counts()) {
            most(self.edges.entry(key.clone()).or_default(), *traffic);
        }
        let cut = found.cut;
        if cut > 0 {
            let reason =
                format!("{cut} rows of metrics with the least traffic were left out; narrow the rule by match, or raise max_edges");
            self.unresolved.push(Unresolved::new(format!("mesh rule {}", rule.name), reason));
        }
        if cut > 0 || !found.edges.is_empty() || !found.inbound.is_empty() || found.skipped != Default::default() {
            let (addresses, unnamed) = (found.skipped.addresses, found.skipped.unnamed);
            self.rules.push(RuleSummary { rule: rule.name.clone(), edges: found.edges.len(), addresses, unnamed, cut });
        }
    }

    /// Gives nodes to which nothing comes what they send out, when all rules have been added.
    pub(super) fn finish(&mut self, found: &[(Rule, RuleFound)]) {
        let mut entries: HashMap<&NodeKey, f64> = HashMap::new();
        for (_, rule) in found {
            for (node, rate) in rule.outbound.iter().filter(|(node, _)| !self.nodes.contains_key(*node)) {
                let most = entries.entry(node).or_default();
                *most = most.max(*rate);
            }
        }
        self.nodes.extend(entries.into_iter().map(|(node, rate)| (node.clone(), Traffic { rate, failed: 0.0 })));
    }

    /// The fraction of the requests to `from` that go over an edge of a rule. It is of what the rule itself has seen come to the node,
    /// else of what others have; of a node to which nothing comes it is of what it sends out.
    pub(super) fn share(&self, rule: &RuleFound, from: &NodeKey, traffic: Traffic) -> f32 {
        let own = rule.inbound.get(from).map_or(0.0, |t| t.rate);
        let all = if own > 0.0 { own } else { self.nodes.get(from).map_or(0.0, |t| t.rate) };
        // A call that is seldom is still a call.
        if all > 0.0 { (traffic.rate / all).clamp(1e-6, 1.0) as f32 } else { 1.0 }
    }

    /// The rates as the blast radius wants them, by the names that `canonical` gives. Of several names of one node, which have seen the
    /// same requests, the one with most counts.
    pub fn live<'a>(&'a self, canonical: impl Fn(&'a NodeKey) -> &'a NodeKey) -> Live {
        let mut live = Live::default();
        for (key, traffic) in &self.nodes {
            let rate = live.rates.entry(canonical(key).clone()).or_default();
            *rate = rate.max(traffic.rate);
        }
        live
    }
}

fn most(kept: &mut Traffic, other: Traffic) {
    if other.rate > kept.rate {
        *kept = other;
    }
}
