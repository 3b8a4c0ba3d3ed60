//! Alerts find their nodes, and what they touch is assessed, kept and told.
//!
//! Alertmanager posts groups to the webhook, Prometheus single alerts to the API v2. Rules lead from labels to nodes of the graph as it was
//! when the alert began; the blast radius of those nodes is the group's impact. Impacts are in a log of their own, so that they survive
//! this process, and each has an object for good when it is over. While one is open it is assessed anew, and receivers are told.

mod span;
pub mod selector;
pub mod template;
pub mod target;
mod settings;
pub mod model;
mod wire;
mod find;
mod merge;
pub(crate) mod state;
mod keep;
mod receive;
mod assess;
pub(crate) mod tend;
mod series;
pub(crate) mod notify;
pub(crate) mod payload;
pub(crate) mod text;
mod metrics;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use isobar_block::{TenantId, time};
use object_store::ObjectStore;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::service::Service;
use crate::{NodeKey, Result};

pub use metrics::Metrics;
pub use settings::{OneOrMany, Rule, SeriesSettings, Settings, SeverityRule};
pub use span::Span;

pub(crate) use keep::Keeper;
pub(crate) use receive::{Post, Receipt};
pub(crate) use state::Unmatched;
pub(crate) use wire::{Webhook, posts_of};

/// Works until told to stop: what is open is assessed anew and ended in time, series are written, receivers are told.
pub async fn run(service: Service, stop: watch::Receiver<bool>) {
    tokio::join!(tend::run(service.clone(), stop.clone()), notify::run(service, stop));
}

/// Alerts of a tenant.
pub struct Alerts {
    keeper: Arc<Keeper>,
    opened_ms: i64,
    /// By impact and fingerprint, ends that are later than the log says.
    ends: Mutex<HashMap<(String, String), i64>>,
    /// Impacts that wait for an assessment.
    dirty: Mutex<BTreeSet<String>>,
    pub(crate) tending: Mutex<tend::Tending>,
    pub(crate) written: Mutex<series::Written>,
    pub(crate) telling: Mutex<notify::Telling>,
}

impl Alerts {
    /// Opens what is kept.
    ///
    /// # Errors
    /// [`crate::Error::Block`] if it cannot be read.
    pub async fn open(bucket: Arc<dyn ObjectStore>, tenant: &TenantId) -> Result<Self> {
        Ok(Self {
            keeper: Keeper::open(bucket, tenant).await?,
            opened_ms: time::now_ms(),
            ends: Mutex::default(),
            dirty: Mutex::default(),
            tending: Mutex::default(),
            written: Mutex::default(),
            telling: Mutex::default(),
        })
    }

    /// What is kept.
    pub(crate) fn keeper(&self) -> &Arc<Keeper> {
        &self.keeper
    }

    /// Since when this process has it open.
    fn opened_ms(&self) -> i64 {
        self.opened_ms
    }

    /// All nodes that alerts are about now.
    pub(crate) fn alerting(&self) -> Vec<NodeKey> {
        let mut nodes: Vec<NodeKey> = self.keeper.read(|state| state.open.values().flat_map(|i| i.failing_nodes()).collect());
        nodes.sort();
        nodes.dedup();
        nodes
    }

    fn mark_dirty(&self, ids: impl IntoIterator<Item = String>) {
        self.dirty.lock().extend(ids);
    }

    fn take_dirty(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.dirty.lock())
    }

    fn prolong_ends(&self, id: &str, ends: impl Iterator<Item = (String, i64)>) {
        let mut known = self.ends.lock();
        for (fingerprint, ends_ms) in ends {
            let end = known.entry((id.to_owned(), fingerprint)).or_insert(ends_ms);
            *end = (*end).max(ends_ms);
        }
    }

    fn prolonged_ms(&self, id: &str, fingerprint: &str) -> Option<i64> {
        self.ends.lock().get(&(id.to_owned(), fingerprint.to_owned())).copied()
    }

    /// Forgets what belongs to impacts that are not open any more.
    fn forget_closed(&self) {
        let mut ends = self.ends.lock();
        if !ends.is_empty() {
            self.keeper.read(|state| ends.retain(|(id, _), _| state.open.contains_key(id)));
        }
    }
}

impl std::fmt::Debug for Alerts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (open, unmatched) = self.keeper.read(|state| (state.open.len(), state.unmatched.len()));
        f.debug_struct("Alerts").field("open", &open).field("unmatched", &unmatched).finish()
    }
}
