//! What is done whether compaction gets on or not: retention, the end of deletions, and the removal of files.

use std::sync::Arc;

use isobar_block::catalog::Catalog;
use isobar_block::{BlockStore, Change, Error as BlockError, TenantId};

use crate::config::{CompactorConfig, TenantRules};
use crate::error::Result;
use crate::metrics::CompactorMetrics;
use crate::{clean, delete, plan, retention};

/// Does what is due of all that. Each step is tried even if another one fails; the first error is returned.
///
/// # Errors
/// If the store fails.
pub async fn upkeep(
    blocks: &BlockStore,
    tenant: &TenantId,
    rules: &TenantRules,
    config: &CompactorConfig,
    metrics: &CompactorMetrics,
    (now_ms, with_orphans): (i64, bool),
) -> Result<()> {
    let catalog = blocks.catalog(tenant).await?;
    catalog.refresh().await?;
    let steps = [
        retire(&catalog, tenant, rules, metrics, now_ms).await,
        deletions(&catalog, rules, now_ms).await,
        remove(blocks, tenant, config, metrics, (now_ms, with_orphans)).await,
    ];
    steps.into_iter().collect()
}

/// Takes blocks out of the catalog that are kept no longer.
async fn retire(catalog: &Arc<Catalog>, tenant: &TenantId, rules: &TenantRules, metrics: &CompactorMetrics, now_ms: i64) -> Result<()> {
    for job in plan::retire(&catalog.blocks(), rules, now_ms) {
        let remove = job.blocks();
        let count = remove.len() as u64;
        if fits(catalog.commit(Change { remove, ..Change::default() }).await)? {
            tracing::info!(%tenant, "{job}");
            metrics.expired.inc_by(count);
        }
    }
    Ok(())
}

/// Moves the deletions of retention rules on, and ends those that no block needs.
async fn deletions(catalog: &Arc<Catalog>, rules: &TenantRules, now_ms: i64) -> Result<()> {
    if let Some(change) = retention::selected(&catalog.blocks(), rules, now_ms) {
        fits(catalog.commit(change).await)?;
    }
    let unmask = delete::finished(&catalog.blocks());
    if !unmask.is_empty() {
        fits(catalog.commit(Change { unmask, ..Change::default() }).await)?;
    }
    Ok(())
}

async fn remove(
    blocks: &BlockStore,
    tenant: &TenantId,
    config: &CompactorConfig,
    metrics: &CompactorMetrics,
    (now_ms, with_orphans): (i64, bool),
) -> Result<()> {
    let report = match with_orphans {
        true => clean::clean(blocks, tenant, config, now_ms).await?,
        false => clean::retired(blocks, tenant, config, now_ms).await?,
    };
    metrics.removed.inc_by(report.removed_blocks);
    metrics.removed_bytes.inc_by(report.removed_bytes);
    metrics.orphans.inc_by(report.orphans);
    metrics.upkeep_failures.inc_by(report.failed);
    Ok(())
}

/// Whether a commit was made; what another process has made unnecessary is looked at again the next time.
fn fits(result: isobar_block::Result<u64>) -> Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(BlockError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
