//! What one source says of one node, looked up without a snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::LineageStore;
use crate::event::{EdgeGone, Fact, NodeGone};
use crate::history::{Claims, OPEN_MS};
use crate::model::{NodeBody, NodeKey, kind};
use crate::state::Frozen;

impl LineageStore {
    /// When a scope has said last that a node is there (Unix milliseconds), and what it said. Nothing if it never did, has withdrawn it,
    /// or said it so long before `at_ms` that it does not count.
    pub fn said(&self, node: &NodeKey, source: &str, scope: &str, at_ms: i64) -> Option<(i64, Arc<NodeBody>)> {
        let state = self.state.read();
        let frozen = &state.frozen;
        let claims = &frozen.nodes[frozen.find(node)?].claims;
        let mine = |id| {
            let record = frozen.source(id);
            &*record.source == source && &*record.scope == scope
        };
        let version = claims.0.iter().find(|c| mine(c.source))?.versions.last()?;
        let counts = version.to_ms == OPEN_MS && at_ms < version.stale_until_ms();
        counts.then(|| (version.seen_ms, version.body.clone()))
    }
    /// Facts that withdraw, by scope, whatever a source says of a dataset, of its columns, and of their edges. Reads all names and edges
    /// once, which takes milliseconds where a snapshot would take a hundred times that.
    pub fn withdrawals(&self, dataset: &NodeKey, source: &str) -> BTreeMap<Arc<str>, Vec<Fact>> {
        let frozen = self.state.read().frozen.clone();
        let mut gone = BTreeMap::new();
        let Some(id) = frozen.find(dataset) else { return gone };
        let name = dataset.as_str().split_once(':').map_or("", |(_, name)| name);
        let columns = if name.contains('/') { format!("{}:{name}/", kind::COLUMN) } else { format!("{}:/{name}/", kind::COLUMN) };
        let is_column = |key: &NodeKey| key.as_str().strip_prefix(&columns).is_some_and(|field| !field.contains('/'));
        let mine: Vec<bool> = frozen.nodes.iter().enumerate().map(|(i, n)| i as u32 == id || is_column(&n.key)).collect();
        for node in frozen.nodes.iter().enumerate().filter(|(i, _)| mine[*i]).map(|(_, node)| node) {
            for scope in speakers(&frozen, &node.claims, source) {
                gone.entry(scope).or_default().push(Fact::NodeGone(NodeGone { node: node.key.clone() }));
            }
        }
        for edge in frozen.edges.iter().filter(|e| mine[e.from as usize] || mine[e.to as usize]) {
            for scope in speakers(&frozen, &edge.claims, source) {
                let (from, to) = (frozen.nodes[edge.from].key.clone(), frozen.nodes[edge.to].key.clone());
                gone.entry(scope).or_default().push(Fact::EdgeGone(EdgeGone { from, to, relation: edge.relation }));
            }
        }
        gone
    }
}

/// Scopes of a source that say it and have not withdrawn it.
fn speakers<B: crate::history::Body>(frozen: &Frozen, claims: &Claims<B>, source: &str) -> Vec<Arc<str>> {
    let records = claims.open().map(|(id, _)| frozen.source(id));
    records.filter(|r| &*r.source == source).map(|r| r.scope.clone()).collect()
}
