//! A writer of as many blocks as the memory demands: their series follow one another, so that none is in two of them.

use std::sync::Arc;

use futures::TryStreamExt;
use isobar_block::writer::WriterConfig;
use isobar_block::{BlockId, BlockMeta, BlockWriter, Exemplar, Labels, Metadata, SampleBuf, TenantId, key};
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::task::JoinHandle;

use crate::error::{Error, Result};

/// Takes series in order and turns them into blocks in the store, which no catalog knows yet. A full block is encoded and
/// uploaded while the next one is filled; there is never more than one of each.
pub struct Output {
    objects: Arc<dyn ObjectStore>,
    tenant: TenantId,
    template: WriterConfig,
    limit_bytes: u64,
    writer: Option<BlockWriter>,
    upload: Option<JoinHandle<isobar_block::Result<BlockMeta>>>,
    uploaded: Vec<BlockMeta>,
    begun: Vec<BlockId>,
    largest_bytes: u64,
}

impl Output {
    /// An empty output. Blocks are as `template` says but for their ids, and a new one begins when what is encoded of one
    /// takes `limit_bytes` of memory. Three times as much can be in use: the block that is filled, the one before, and its files.
    pub fn new(objects: Arc<dyn ObjectStore>, tenant: TenantId, template: WriterConfig, limit_bytes: u64) -> Self {
        Self {
            objects,
            tenant,
            template,
            limit_bytes,
            writer: None,
            upload: None,
            uploaded: Vec::new(),
            begun: Vec::new(),
            largest_bytes: 0,
        }
    }

    /// Adds the next series; one without samples and exemplars is left out. Waits if a block is full and the one before is not
    /// uploaded yet.
    ///
    /// # Errors
    /// As [`BlockWriter::push_series`], and what went wrong with a block before. [`Output::discard`] then removes the blocks.
    pub async fn push(&mut self, labels: &Labels, metadata: Option<&Metadata>, samples: &SampleBuf, exemplars: &[Exemplar]) -> Result<()> {
        let mut writer = self.take();
        let pushed = writer.push_series(labels, metadata, samples, exemplars);
        self.put_back(writer).await?;
        Ok(pushed?)
    }

    /// The block that is being filled, for somebody who pushes on another thread until [`Output::is_full`].
    pub(super) fn take(&mut self) -> BlockWriter {
        self.writer.take().unwrap_or_else(|| {
            let id = BlockId::new(self.template.created_ms);
            self.begun.push(id);
            BlockWriter::new(WriterConfig { id, ..self.template.clone() })
        })
    }

    /// Whether a block should take no more.
    pub(super) fn is_full(writer: &BlockWriter, limit_bytes: u64) -> bool {
        writer.encoded_bytes() as u64 >= limit_bytes
    }

    /// Above this a block is full.
    pub(super) fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// Size of what is encoded of the block that is being filled.
    pub(super) fn encoded_bytes(&self) -> u64 {
        self.writer.as_ref().map_or(0, |w| w.encoded_bytes() as u64)
    }

    /// The most that was ever encoded of a block in memory.
    pub(super) fn largest_bytes(&self) -> u64 {
        self.largest_bytes
    }

    /// Goes on after [`Output::take`].
    pub(super) async fn put_back(&mut self, writer: BlockWriter) -> Result<()> {
        self.largest_bytes = self.largest_bytes.max(writer.encoded_bytes() as u64);
        let is_full = Self::is_full(&writer, self.limit_bytes);
        self.writer = Some(writer);
        if is_full { self.end_block().await } else { Ok(()) }
    }

    /// Ends the block that is being filled, if it has something.
    pub(super) async fn end_block(&mut self) -> Result<()> {
        let Some(writer) = self.writer.take_if(|w| w.series() > 0) else { return Ok(()) };
        self.wait().await?;
        let (objects, tenant) = (self.objects.clone(), self.tenant.clone());
        self.upload = Some(tokio::spawn(async move { writer.finish(&*objects, &tenant).await }));
        Ok(())
    }

    /// Ends the last block, and returns all of them when they are complete in the store, in order of their series.
    ///
    /// # Errors
    /// What went wrong with a block. [`Output::discard`] then removes the blocks.
    pub async fn finish(&mut self) -> Result<Vec<BlockMeta>> {
        self.end_block().await?;
        self.wait().await?;
        Ok(std::mem::take(&mut self.uploaded))
    }

    async fn wait(&mut self) -> Result<()> {
        let Some(upload) = &mut self.upload else { return Ok(()) };
        let result = upload.await;
        self.upload = None;
        match result {
            Ok(meta) => self.uploaded.push(meta?),
            Err(e) => return Err(Error::Invalid { what: "block", reason: format!("writing it did not end: {e}") }),
        }
        Ok(())
    }

    /// Removes what was uploaded, as far as that can be done; what is left is cleaned up as files without catalog entry.
    pub async fn discard(mut self) {
        if let Some(upload) = self.upload.take() {
            // Files that are still being written could not be removed.
            let _ = upload.await;
        }
        for id in std::mem::take(&mut self.begun) {
            remove_files(&*self.objects, &self.tenant, id).await;
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(upload) = &self.upload {
            upload.abort();
        }
    }
}

/// Removes the files of a block that no catalog lists, as far as that can be done.
pub(crate) async fn remove_files(objects: &dyn ObjectStore, tenant: &TenantId, id: BlockId) {
    let files: Result<Vec<_>, _> = objects.list(Some(&key::block(tenant, id))).map_ok(|o| o.location).try_collect().await;
    let files = match files {
        Ok(files) => files,
        Err(error) => return tracing::debug!(%tenant, block = %id, %error, "an unused block is left to the clean-up"),
    };
    for file in files {
        match objects.delete(&file).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return tracing::debug!(%tenant, block = %id, %error, "an unused block is left to the clean-up"),
        }
    }
}
