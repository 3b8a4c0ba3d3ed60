//! Removes files that nobody needs: those of retired blocks after the delete delay, and those that no catalog knows.
//!
//! Whoever reads holds a catalog that may be some seconds old, and queries that began before a block was retired go on reading
//! it; the delete delay covers both. Files without a catalog entry are left by uploads that did not end in a commit. They may
//! also belong to an upload that is still going on, so that they are left alone until they are old by their id and by the
//! store's clock. Several compactors may clean at the same time.
//!
//! Not reached from here: parts of uploads that were neither completed nor aborted. Object stores do not list them; set a
//! lifecycle rule on the bucket (`AbortIncompleteMultipartUpload`). On a local disk they are files with names that end in `#`
//! and a number.

#[cfg(test)]
mod tests;

use std::str::FromStr;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use hashbrown::HashSet;
use isobar_block::meta::META_FILE;
use isobar_block::{BlockId, BlockStore, Catalog, CatalogState, Change, Error as BlockError, TenantId, key};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use crate::Result;
use crate::config::CompactorConfig;

/// Files of so many blocks are removed at the same time.
const CONCURRENT_REMOVALS: usize = 8;

/// So many blocks are forgotten in one commit.
const FORGET_BATCH: usize = 100;

/// What a cleaning has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Retired blocks whose files are gone.
    pub removed_blocks: u64,
    /// Size of all files that were removed.
    pub removed_bytes: u64,
    /// Blocks without a catalog entry whose files were removed.
    pub orphans: u64,
    /// Blocks whose files could not be removed; the next cleaning tries again.
    pub failed: u64,
}

/// [`retired`], then [`orphans`].
///
/// # Errors
/// As both.
pub async fn clean(blocks: &BlockStore, tenant: &TenantId, config: &CompactorConfig, now_ms: i64) -> Result<Report> {
    let first = retired(blocks, tenant, config, now_ms).await?;
    let second = orphans(blocks, tenant, config, now_ms).await?;
    Ok(Report {
        removed_blocks: first.removed_blocks,
        removed_bytes: first.removed_bytes + second.removed_bytes,
        orphans: second.orphans,
        failed: first.failed + second.failed,
    })
}

/// Removes the files of blocks that were retired longer ago than the delete delay, and forgets these blocks. Costs nothing
/// where there are none.
///
/// # Errors
/// If the catalog cannot be read or written. A block whose files cannot be removed is counted and logged.
pub async fn retired(blocks: &BlockStore, tenant: &TenantId, config: &CompactorConfig, now_ms: i64) -> Result<Report> {
    let catalog = blocks.catalog(tenant).await?;
    let before_ms = now_ms.saturating_sub(millis(config.delete_delay));
    let state = catalog.refresh().await?;
    let due: Vec<BlockId> = state.retired.iter().filter(|r| r.retired_ms <= before_ms).map(|r| r.ulid).collect();
    let mut report = Report::default();
    for batch in due.chunks(FORGET_BATCH) {
        let removals = batch.iter().map(|id| async { (*id, remove(blocks.objects().as_ref(), tenant, *id).await) });
        let mut removals = stream::iter(removals.collect::<Vec<_>>()).buffer_unordered(CONCURRENT_REMOVALS);
        let mut gone = Vec::with_capacity(batch.len());
        while let Some((id, result)) = removals.next().await {
            match result {
                Ok(bytes) => {
                    gone.push(id);
                    report.removed_bytes += bytes;
                }
                Err(e) => {
                    report.failed += 1;
                    tracing::warn!("files of retired block {id} of tenant {tenant} were not removed and will be tried again: {e}");
                }
            }
        }
        report.removed_blocks += forget(&catalog, gone).await?;
    }
    Ok(report)
}

/// Takes blocks out of the catalog whose files are gone, and says how many it was that did so: other compactors may have been
/// faster.
async fn forget(catalog: &Catalog, mut gone: Vec<BlockId>) -> Result<u64> {
    while !gone.is_empty() {
        match catalog.commit(Change { forget: gone.clone(), ..Change::default() }).await {
            Ok(_) => break,
            Err(BlockError::Conflict { .. }) => {
                let state = catalog.refresh().await?;
                let still: HashSet<BlockId> = state.retired.iter().map(|r| r.ulid).collect();
                let before = gone.len();
                gone.retain(|id| still.contains(id));
                if gone.len() == before {
                    // All of it fits the catalog; others commit so fast that this one never got its turn. The next cleaning will.
                    return Ok(0);
                }
            }
            Err(other) => return Err(other.into()),
        }
    }
    Ok(gone.len() as u64)
}

/// Removes the files of blocks that the catalog does not know and that are older than the orphan age. This lists the bucket, so
/// that once an hour is often enough.
///
/// # Errors
/// If the catalog cannot be read or the bucket cannot be listed. A block whose files cannot be removed is counted and logged.
pub async fn orphans(blocks: &BlockStore, tenant: &TenantId, config: &CompactorConfig, now_ms: i64) -> Result<Report> {
    let objects = blocks.objects().as_ref();
    let before_ms = now_ms.saturating_sub(millis(config.orphan_age));
    let mut report = Report::default();
    let listed = objects.list_with_delimiter(Some(&key::blocks(tenant))).await.map_err(BlockError::from)?;
    let ids = listed.common_prefixes.iter().filter_map(|p| BlockId::from_str(p.filename()?).ok());
    let old: Vec<BlockId> = ids.filter(|id| *id < BlockId::from_parts(before_ms, 0)).collect();
    let catalog = blocks.catalog(tenant).await?;
    let state = catalog.refresh().await?;
    let unknown = not_in(&state, old);
    if state.version == 0 && !unknown.is_empty() {
        tracing::error!(
            "tenant {tenant} has no catalog, but files of {} blocks: they are kept; restore {} from a backup",
            unknown.len(),
            key::catalog(tenant)
        );
        return Ok(report);
    }
    let young = |id: BlockId| async move { Ok::<_, BlockError>((id, newest_ms(objects, tenant, id).await?)) };
    let mut checked = stream::iter(unknown.into_iter().map(young)).buffer_unordered(CONCURRENT_REMOVALS);
    let mut due = Vec::new();
    while let Some((id, newest_ms)) = checked.try_next().await? {
        // A directory without objects is what a local disk keeps of a block that is gone.
        if newest_ms.is_some_and(|ms| ms < before_ms) {
            due.push(id);
        }
    }
    for id in due {
        // What is committed now was uploaded before, so that a catalog read after the listing knows it.
        let state = catalog.refresh().await?;
        if not_in(&state, vec![id]).is_empty() {
            continue;
        }
        match remove(objects, tenant, id).await {
            Ok(bytes) => {
                report.orphans += 1;
                report.removed_bytes += bytes;
                tracing::info!("removed block {id} of tenant {tenant}, which no catalog knew ({bytes} bytes)");
            }
            Err(e) => {
                report.failed += 1;
                tracing::warn!("files of block {id} of tenant {tenant}, which no catalog knows, were not removed: {e}");
            }
        }
    }
    Ok(report)
}

fn not_in(state: &CatalogState, ids: Vec<BlockId>) -> Vec<BlockId> {
    let known: HashSet<BlockId> = state.blocks.iter().map(|b| b.ulid).chain(state.retired.iter().map(|r| r.ulid)).collect();
    ids.into_iter().filter(|id| !known.contains(id)).collect()
}

/// When the last of a block's files was written, by the store's clock; `None` if it has none.
async fn newest_ms(objects: &dyn ObjectStore, tenant: &TenantId, id: BlockId) -> Result<Option<i64>, BlockError> {
    let files: Vec<ObjectMeta> = objects.list(Some(&key::block(tenant, id))).try_collect().await?;
    Ok(files.iter().map(|f| f.last_modified.timestamp_millis()).max())
}

/// Removes all files of a block, `meta.json` first, so that what is left of a removal that was cut short does not look like a
/// complete block. Files that are gone already are fine. Returns the size of what was there.
async fn remove(objects: &dyn ObjectStore, tenant: &TenantId, id: BlockId) -> Result<u64, BlockError> {
    let files: Vec<ObjectMeta> = objects.list(Some(&key::block(tenant, id))).try_collect().await?;
    let meta = key::block_file(tenant, id, META_FILE);
    let (first, rest): (Vec<ObjectMeta>, Vec<ObjectMeta>) = files.into_iter().partition(|f| f.location == meta);
    let mut bytes = 0;
    for part in [first, rest] {
        bytes += part.iter().map(|f| f.size).sum::<u64>();
        let locations: Vec<object_store::Result<Path>> = part.into_iter().map(|f| Ok(f.location)).collect();
        let mut removed = objects.delete_stream(stream::iter(locations).boxed());
        while let Some(result) = removed.next().await {
            match result {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(bytes)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
