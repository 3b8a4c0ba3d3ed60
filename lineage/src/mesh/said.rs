//! What has been said lately, so that only what is new, has changed or would become stale is said again.

use hashbrown::HashMap;
use serde_json::json;

use super::fold::RuleFound;
use super::found::Found;
use super::rule::Rule;
use crate::event::Fact;
use crate::model::{Attributes, EdgeBody, Evidence, NodeBody, NodeKey};

/// A share is said again when it has changed by this fraction of itself; the traffic of the last minutes always varies a little.
pub const SHARE_CHANGE: f32 = 0.2;

/// A node is an entry when at least this fraction of its traffic comes from outside of the mesh.
pub const ENTRY_FRACTION: f64 = 0.1;

/// What was said about something.
#[derive(Clone, Debug, PartialEq)]
struct Statement {
    at_ms: i64,
    share: f32,
    clusters: Option<(String, String)>,
}

/// What a fact is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Edge(NodeKey, NodeKey),
    Alias(NodeKey, NodeKey),
    Entry(NodeKey),
}

/// The facts of one look that are worth being said, with what to remember once they are.
pub(super) struct News {
    pub facts: Vec<Fact>,
    remember: Vec<(Subject, Statement)>,
}

/// What one rule has said.
#[derive(Debug, Default)]
pub(super) struct Said(HashMap<Subject, Statement>);

impl Said {
    /// What of a rule's find is to be said as of `at_ms`, if facts live for `ttl_ms`.
    pub fn news(&mut self, rule: &Rule, found: &RuleFound, all: &Found, ttl_ms: i64) -> News {
        let at_ms = all.at_ms;
        // What has expired is forgotten; it is said anew if it comes back.
        self.0.retain(|_, s| at_ms - s.at_ms <= ttl_ms);
        let mut out = News { facts: Vec::new(), remember: Vec::new() };
        for ((from, to), traffic) in &found.edges {
            let share = if rule.counts() { all.share(found, from, *traffic) } else { 1.0 };
            let clusters = found.clusters.get(&(from.clone(), to.clone())).cloned();
            let statement = Statement { at_ms, share, clusters };
            self.check(Subject::Edge(from.clone(), to.clone()), statement, ttl_ms, &mut out, |s| {
                Fact::depends(from.clone(), to.clone(), body(rule, s)).with_ttl(ttl_ms)
            });
        }
        for (alias, name) in &found.aliases {
            let statement = Statement { at_ms, share: 1.0, clusters: None };
            let rule = || format!("{}-names", rule.source);
            self.check(Subject::Alias(alias.clone(), name.clone()), statement, ttl_ms, &mut out, |_| {
                Fact::alias(alias.clone(), name.clone(), rule()).with_ttl(ttl_ms)
            });
        }
        for node in entries(found) {
            let statement = Statement { at_ms, share: 1.0, clusters: None };
            let node_body = NodeBody { evidence: Evidence::Observed, entry: true, ..NodeBody::default() };
            self.check(Subject::Entry(node.clone()), statement, ttl_ms, &mut out, |_| Fact::node(node.clone(), node_body).with_ttl(ttl_ms));
        }
        out
    }

    fn check(&self, subject: Subject, now: Statement, ttl_ms: i64, out: &mut News, fact: impl FnOnce(&Statement) -> Fact) {
        if let Some(last) = self.0.get(&subject) {
            let fresh = now.at_ms - last.at_ms < ttl_ms / 2;
            let same = (now.share - last.share).abs() <= SHARE_CHANGE * last.share && now.clusters == last.clusters;
            if fresh && same {
                return;
            }
        }
        out.facts.push(fact(&now));
        out.remember.push((subject, now));
    }

    /// Remembers that the facts from `first` on were said, `count` of them.
    pub fn remember(&mut self, news: &mut News, first: usize, count: usize) {
        let end = (first + count).min(news.remember.len());
        self.0.extend(news.remember[first.min(end)..end].iter().cloned());
    }
}

fn body(rule: &Rule, statement: &Statement) -> EdgeBody {
    let attributes = statement.clusters.as_ref().map(|(from, to)| {
        let clusters = [("from_cluster".to_owned(), json!(from)), ("to_cluster".to_owned(), json!(to))];
        Box::new(Attributes::from(clusters))
    });
    EdgeBody {
        evidence: Evidence::Observed,
        class: rule.class,
        flow: rule.flow,
        share: rule.counts().then_some(statement.share),
        attributes,
        ..EdgeBody::default()
    }
}

/// Nodes with much traffic that no edge explains.
fn entries(found: &RuleFound) -> impl Iterator<Item = &NodeKey> {
    let much = |(node, outside): &(&NodeKey, &f64)| **outside >= ENTRY_FRACTION * found.inbound.get(*node).map_or(0.0, |t| t.rate);
    found.outside.iter().filter(much).map(|(node, _)| node)
}
