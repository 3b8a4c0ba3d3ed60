//! Remembers what was imported, so that importing it again changes nothing.
//!
//! A finished import leaves an object whose name is the [`ImportId`]: it outlives compaction, which forgets what blocks were
//! made of. The commit to the catalog comes first; if the process dies between the two, the blocks, which name the import
//! among their sources, are still there to tell.

use isobar_block::{BlockId, BlockStore, Change, TenantId, key, time};
use md5::{Digest, Md5};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use serde::Serialize;

use super::Imported;
use super::output::Output;
use crate::Result;
use crate::transfer::commit as commit_change;

/// Identity of an import: of what, with which labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ImportId(BlockId);

#[derive(Serialize)]
struct Record<'a> {
    source: &'a str,
    blocks: Vec<BlockId>,
    samples: u64,
    at_ms: i64,
}

impl ImportId {
    /// Of a block of Prometheus. `identity` are its id and the labels that are added.
    pub fn of(block: BlockId, identity: &[u8]) -> Self {
        let mut digest = Md5::new();
        digest.update(block.to_string());
        digest.update(identity);
        Self::of_digest(digest)
    }

    /// Of any content.
    pub fn of_digest(digest: Md5) -> Self {
        Self(BlockId::from_parts(0, u128::from_be_bytes(digest.finalize().into()) >> 48))
    }

    /// The id as blocks name it among their sources.
    pub fn as_block(self) -> BlockId {
        self.0
    }

    fn key(self, tenant: &TenantId) -> Path {
        key::log(tenant, "imports").join(format!("{}.json", self.0))
    }
}

/// Whether the import was done before.
pub(super) async fn is_done(blocks: &BlockStore, tenant: &TenantId, id: ImportId) -> Result<bool> {
    match blocks.objects().head(&id.key(tenant)).await {
        Ok(_) => return Ok(true),
        Err(object_store::Error::NotFound { .. }) => {}
        Err(error) => return Err(isobar_block::Error::from(error).into()),
    }
    let state = blocks.catalog(tenant).await?.refresh().await?;
    Ok(state.blocks.iter().any(|b| b.sources.contains(&id.0)))
}

/// Makes the blocks visible, all at once, and remembers that.
pub(super) async fn commit(mut output: Output, id: ImportId, source: &str) -> Result<Imported> {
    let added = match output.finish().await {
        Ok(added) => added,
        Err(error) => {
            output.discard().await;
            return Err(error);
        }
    };
    // Somebody else may have imported the same meanwhile.
    if is_done(output.blocks(), output.tenant(), id).await? {
        output.discard().await;
        return Ok(Imported::Before);
    }
    let ids = added.iter().map(|b| b.ulid).collect();
    let samples = added.iter().map(|b| b.samples + b.histograms).sum();
    let summary = Imported::Now { blocks: added.len(), samples, bytes: added.iter().map(|b| b.size_bytes).sum() };
    if !added.is_empty() {
        commit_change(output.blocks(), output.tenant(), Change { add: added, ..Change::default() }).await?;
    }
    let record = Record { source, blocks: ids, samples, at_ms: time::now_ms() };
    let json = serde_json::to_vec(&record).expect("a record has string keys only");
    output.blocks().objects().put(&id.key(output.tenant()), PutPayload::from(json)).await.map_err(isobar_block::Error::from)?;
    Ok(summary)
}
