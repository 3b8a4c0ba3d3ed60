//! Changes single blocks for a person who asks for it: saves what is readable of a damaged block, drops or relabels series.
//!
//! What comes out takes the block's place in the catalog by one commit, with the block's level and precedence.

mod edit;
pub mod relabel;
mod relabelled;
mod salvage;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use isobar_block::cache::CacheConfig;
use isobar_block::reader::restore_block;
use isobar_block::{BlockId, BlockMeta, BlockStore, CatalogState, Change, TenantId, WriterConfig, time};

use crate::rewrite::{Output, Rewrite};
use crate::transfer::{OnProgress, commit};
use crate::{Error, Result};

pub use edit::{Edit, Rewritten, rewrite, sets};

/// Series that are read together.
const BATCH_SERIES: usize = 256;
/// A new block begins when what is encoded of one has this size.
const MAX_BLOCK_BYTES: u64 = 256 << 20;
/// Caches for one pass through a block.
const CACHES: CacheConfig = CacheConfig { blocks_bytes: 0, series_bytes: 32 << 20, chunk_index_bytes: 32 << 20, chunks_bytes: 32 << 20 };

/// What a repair did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repaired {
    /// Nothing is wrong with the block. If it was in quarantine, it is not any more.
    Sound,
    /// Files that can be made from others were written anew, and nothing else was wrong.
    Restored(Vec<&'static str>),
    /// Other blocks are in its place.
    Saved {
        /// The new blocks.
        blocks: Vec<BlockId>,
        /// Samples in them.
        samples: u64,
        /// Samples of the old block that are not in them.
        lost_samples: u64,
        /// Series of the old block of which nothing is in them.
        lost_series: u64,
        /// What could not be read.
        lost: Vec<String>,
    },
    /// The block was taken away as a whole.
    Removed,
}

/// Saves what can be read of a block. `discard` takes away a block of which nothing can be read, and a downsampled one, which
/// is made anew from raw blocks where those exist.
///
/// # Errors
/// [`Error::Invalid`] if nothing is readable and `discard` is not set; [`Error::Block`] if the store or the commit fails. The
/// block is untouched then.
pub async fn repair(blocks: &BlockStore, tenant: &TenantId, id: BlockId, discard: bool, on_progress: OnProgress<'_>) -> Result<Repaired> {
    let catalog = blocks.catalog(tenant).await?;
    let state = catalog.refresh().await?;
    let meta = known(&state, id)?;
    let sound = blocks.verify(tenant, &meta).await?.is_sound();
    let restored = if sound { Vec::new() } else { restore_files(blocks, tenant, &meta).await? };
    if sound || (!restored.is_empty() && blocks.verify(tenant, &meta).await?.is_sound()) {
        if state.quarantine_of(id).is_some() {
            commit(blocks, tenant, Change { release: vec![id], ..Change::default() }).await?;
        }
        return Ok(if sound { Repaired::Sound } else { Repaired::Restored(restored) });
    }
    let remove = Change { remove: vec![id], ..Change::default() };
    if meta.resolution_ms > 0 {
        if !discard {
            return refuse(
                "this is a downsampled block, which is not repaired but made anew: --discard takes it away; samples that have no raw blocks any more are then lost",
            );
        }
        commit(blocks, tenant, remove).await?;
        return Ok(Repaired::Removed);
    }
    let mut output = output(blocks, tenant, template(&meta));
    let saved = match salvage::copy(blocks, tenant, &meta, &mut output, on_progress).await {
        Ok(saved) => saved,
        Err(error) => {
            output.discard().await;
            return Err(error);
        }
    };
    let added = match output.finish().await {
        Ok(added) => added,
        Err(error) => {
            output.discard().await;
            return Err(error);
        }
    };
    if added.is_empty() {
        if !discard {
            let reason = format!("nothing of it can be read ({}); --discard takes it away", saved.lost.join("; "));
            return Err(Error::Invalid { what: "block", reason });
        }
        commit(blocks, tenant, remove).await?;
        return Ok(Repaired::Removed);
    }
    let samples = added.iter().map(|b| b.samples + b.histograms).sum();
    let repaired = Repaired::Saved {
        blocks: added.iter().map(|b| b.ulid).collect(),
        samples,
        lost_samples: (meta.samples + meta.histograms).saturating_sub(samples),
        lost_series: meta.series.saturating_sub(added.iter().map(|b| b.series).sum()),
        lost: saved.lost,
    };
    exchange(blocks, tenant, output, Change { add: added, ..remove }).await?;
    Ok(repaired)
}

fn known(state: &CatalogState, id: BlockId) -> Result<Arc<BlockMeta>> {
    state
        .blocks
        .iter()
        .find(|b| b.ulid == id)
        .cloned()
        .ok_or_else(|| Error::Invalid { what: "block", reason: format!("the catalog has no block {id}; `isobar blocks ls` lists them") })
}

fn refuse<T>(reason: &str) -> Result<T> {
    Err(Error::Invalid { what: "block", reason: reason.to_owned() })
}

/// What blocks are written with that take the place of one.
fn template(meta: &Arc<BlockMeta>) -> WriterConfig {
    let template = Rewrite::template(std::slice::from_ref(meta), &[], meta.level, meta.window_ms, time::now_ms());
    WriterConfig { deletions_ms: meta.deletions_ms, ..template }
}

fn output(blocks: &BlockStore, tenant: &TenantId, template: WriterConfig) -> Output {
    Output::new(blocks.objects().clone(), tenant.clone(), template, MAX_BLOCK_BYTES)
}

/// Restores what can be made from other files; a file that is missing is left to the saving.
async fn restore_files(blocks: &BlockStore, tenant: &TenantId, meta: &BlockMeta) -> Result<Vec<&'static str>> {
    match restore_block(&**blocks.objects(), tenant, meta).await {
        Err(isobar_block::Error::Store(object_store::Error::NotFound { .. })) => Ok(Vec::new()),
        done => Ok(done?),
    }
}

/// Commits; the new blocks are removed again if somebody else has changed the old one meanwhile.
async fn exchange(blocks: &BlockStore, tenant: &TenantId, output: Output, change: Change) -> Result<()> {
    match commit(blocks, tenant, change).await {
        Err(error @ Error::Block(isobar_block::Error::Conflict { .. })) => {
            output.discard().await;
            Err(error)
        }
        done => done,
    }
}
