//! Where the HTTP API gets its data from: the one who assembles the server hands in something that knows all tenants.

use std::sync::Arc;

use futures::future::BoxFuture;
use isobar_block::{Source, TenantId};

use crate::result::Result;

/// How a request wants to see a tenant's series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Whether the replicas of a series are shown as one, without their replica labels (`dedup`, by default true).
    pub dedup: bool,
    /// Replica labels instead of the tenant's (`replicaLabels[]`).
    pub replica_labels: Option<Vec<String>>,
}

impl Default for View {
    fn default() -> Self {
        Self { dedup: true, replica_labels: None }
    }
}

/// All data of all tenants.
pub trait Storage: Send + Sync {
    /// What there is of a tenant at this moment. A tenant that nobody has written for has an empty source; it is no error.
    ///
    /// # Errors
    /// If the store cannot be reached.
    fn source(&self, tenant: &TenantId, view: &View) -> BoxFuture<'_, Result<Arc<dyn Source>>>;
}
