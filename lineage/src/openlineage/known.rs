//! What earlier events have said, so that the next one of a run or a dataset adds to it.

use std::sync::Arc;

use serde_json::Value;

use crate::Result;
use crate::model::{NodeBody, NodeKey};

/// What is said again unchanged is not written again for so long.
pub const SAY_AGAIN_MS: i64 = 24 * 3600 * 1000;

/// What runs have said of a node.
#[derive(Clone, Debug)]
pub(super) struct Prior {
    /// All facets so far.
    pub body: Arc<NodeBody>,
    /// When it was said last, Unix milliseconds.
    pub seen_ms: i64,
}

/// Where it is looked up. One event is translated after the other, and each knows what those before it have said.
pub(super) trait Known {
    /// What runs have said of a node, as far as it still counts at a time.
    fn prior(&self, node: &NodeKey, at_ms: i64) -> Option<Prior>;

    /// When a JobEvent or DatasetEvent has described the node last, Unix milliseconds.
    fn described_ms(&self, node: &NodeKey, at_ms: i64) -> Option<i64>;

    /// Replaces what runs have said of a node, as far as it still counts at a time; nobody else does so at the same moment.
    fn update<T>(&mut self, node: &NodeKey, at_ms: i64, change: impl FnOnce(Option<Prior>) -> Result<(Prior, T)>) -> Result<T>;

    /// A document of a node.
    fn document(&self, node: &NodeKey, name: &str) -> Option<Arc<Value>>;

    /// Notes a document that is about to be said.
    fn remember(&mut self, node: &NodeKey, name: &str, document: Value);
}

/// What became of a body, and when it is to be said; nothing if it was said lately.
pub(super) struct Merged<T> {
    pub say: Option<(i64, Arc<NodeBody>)>,
    pub result: T,
}

/// Whether runs have said lately that a node is there, so that an event which says nothing of it need not.
pub(super) fn said_lately(known: &impl Known, node: &NodeKey, at_ms: i64) -> bool {
    known.prior(node, at_ms).is_some_and(|prior| at_ms.saturating_sub(prior.seen_ms) < SAY_AGAIN_MS)
}

/// Lets `change` add to the body of a node. It is told whether the event is an earlier one than the last, so that it only fills gaps.
pub(super) fn merge<T>(
    known: &mut impl Known,
    node: &NodeKey,
    at_ms: i64,
    change: impl FnOnce(&mut NodeBody, bool) -> Result<T>,
) -> Result<Merged<T>> {
    known.update(node, at_ms, |prior| {
        let seen_ms = prior.as_ref().map_or(i64::MIN, |p| p.seen_ms);
        let mut body = prior.as_ref().map_or_else(NodeBody::default, |p| (*p.body).clone());
        let result = change(&mut body, at_ms < seen_ms)?;
        if let Some(prior) = prior
            && *prior.body == body
            && at_ms.saturating_sub(seen_ms) < SAY_AGAIN_MS
        {
            return Ok((prior, Merged { say: None, result }));
        }
        let prior = Prior { body: Arc::new(body), seen_ms: seen_ms.max(at_ms) };
        let say = Some((prior.seen_ms, prior.body.clone()));
        Ok((prior, Merged { say, result }))
    })
}
