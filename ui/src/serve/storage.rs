//! What a query sees of a tenant: its blocks, and the head of this process over them.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use isobar_block::replicas::Deduplicated;
use isobar_block::{BlockStore, Source, TenantId, Union};
use isobar_compactor::config::LiveRules;
use isobar_ingest::Ingester;
use isobar_query::storage::{Storage, View};

/// Blocks and heads.
pub struct BlocksAndHeads {
    /// Blocks of all tenants.
    pub blocks: BlockStore,
    /// Heads, if this process has the role `ingest`.
    pub ingester: Option<Arc<Ingester>>,
    /// Which labels tell replicas apart, by tenant.
    pub rules: LiveRules,
}

impl Storage for BlocksAndHeads {
    /// The head comes last in the union: it is asked first, because samples move from it into blocks, and of two samples at one
    /// timestamp its counts. Replicas are merged over the union, because one may be in a block and the other in the head.
    fn source(&self, tenant: &TenantId, view: &View) -> BoxFuture<'_, isobar_query::result::Result<Arc<dyn Source>>> {
        let mut sources = vec![self.blocks.source(tenant)];
        sources.extend(self.ingester.as_ref().map(|ingester| ingester.source(tenant)));
        let union: Arc<dyn Source> = Arc::new(Union::new(sources));
        let replica_labels = match (view.dedup, &view.replica_labels) {
            (false, _) => Vec::new(),
            (true, Some(labels)) => labels.clone(),
            (true, None) => self.rules.of(tenant).replica_labels,
        };
        let source = if replica_labels.is_empty() { union } else { Arc::new(Deduplicated::new(union, replica_labels)) };
        ready(Ok(source)).boxed()
    }
}
