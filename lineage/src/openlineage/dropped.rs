//! A dataset that was dropped: everything that anybody has said of it through OpenLineage ends.

use super::names::SOURCE;
use crate::event::Event;
use crate::model::NodeKey;
use crate::store::LineageStore;

/// Events that withdraw, in each scope that has said it, the dataset, its columns, and their edges.
pub(super) fn dropped(store: &LineageStore, dataset: &NodeKey, at_ms: i64, id: &str) -> Vec<Event> {
    let event = |(i, (scope, facts)): (usize, (std::sync::Arc<str>, _))| {
        let mut event = Event::new(format!("{id}/{i}"), SOURCE, &*scope, at_ms);
        event.facts = facts;
        event
    };
    store.withdrawals(dataset, SOURCE).into_iter().enumerate().map(event).collect()
}
