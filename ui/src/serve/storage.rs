//! What a query sees of a tenant: its blocks, and the head of this process over them.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use isobar_block::{BlockStore, Source, TenantId, Union};
use isobar_ingest::Ingester;
use isobar_query::storage::Storage;

/// Blocks and heads.
pub struct BlocksAndHeads {
    /// Blocks of all tenants.
    pub blocks: BlockStore,
    /// Heads, if this process has the role `ingest`.
    pub ingester: Option<Arc<Ingester>>,
}

impl Storage for BlocksAndHeads {
    /// The head comes last in the union: it is asked first, because samples move from it into blocks, and of two samples at one
    /// timestamp its counts.
    fn source(&self, tenant: &TenantId) -> BoxFuture<'_, isobar_query::result::Result<Arc<dyn Source>>> {
        let mut sources = vec![self.blocks.source(tenant)];
        sources.extend(self.ingester.as_ref().map(|ingester| ingester.source(tenant)));
        let union: Arc<dyn Source> = Arc::new(Union::new(sources));
        ready(Ok(union)).boxed()
    }
}
