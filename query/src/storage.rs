//! Where the HTTP API gets its data from: the one who assembles the server hands in something that knows all tenants.

use std::sync::Arc;

use futures::future::BoxFuture;
use isobar_block::{Source, TenantId};

use crate::result::Result;

/// All data of all tenants.
pub trait Storage: Send + Sync {
    /// What there is of a tenant at this moment. A tenant that nobody has written for has an empty source; it is no error.
    ///
    /// # Errors
    /// If the store cannot be reached.
    fn source(&self, tenant: &TenantId) -> BoxFuture<'_, Result<Arc<dyn Source>>>;
}
