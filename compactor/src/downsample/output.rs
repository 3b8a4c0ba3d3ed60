//! Writers of downsampled blocks, one for each resolution: a new block begins when what is encoded of one is big enough.

use std::collections::BTreeMap;
use std::sync::Arc;

use isobar_block::writer::{Bucket, RollupWriter, WriterConfig};
use isobar_block::{BlockId, BlockMeta, Labels, Metadata, SampleBuf, TenantId};
use object_store::ObjectStore;

use crate::error::Result;
use crate::plan::Span;
use crate::rewrite::remove_files;

/// Blocks that are being written.
pub struct Outputs {
    objects: Arc<dyn ObjectStore>,
    tenant: TenantId,
    limit_bytes: u64,
    /// By resolution.
    open: BTreeMap<i64, Open>,
    begun: Vec<BlockId>,
    done: Vec<BlockMeta>,
}

/// The blocks of one resolution.
struct Open {
    template: WriterConfig,
    span: Span,
    writer: Option<RollupWriter>,
    has_written: bool,
}

/// The block of each resolution that is being filled, for whoever pushes on another thread.
pub struct Writers(Vec<(i64, RollupWriter)>);

impl Outputs {
    /// No output yet.
    pub fn new(objects: Arc<dyn ObjectStore>, tenant: TenantId, limit_bytes: u64) -> Self {
        Self { objects, tenant, limit_bytes, open: BTreeMap::new(), begun: Vec::new(), done: Vec::new() }
    }

    /// Adds an output for the resolution of `template`.
    pub fn add(&mut self, template: WriterConfig, span: Span) {
        self.open.insert(template.resolution_ms, Open { template, span, writer: None, has_written: false });
    }

    /// The writers, to be given back by [`Outputs::put_back`].
    pub fn take(&mut self) -> Result<Writers> {
        let mut writers = Vec::with_capacity(self.open.len());
        for (resolution_ms, open) in &mut self.open {
            let writer = match open.writer.take() {
                Some(writer) => writer,
                None => {
                    let id = BlockId::new(open.template.created_ms);
                    self.begun.push(id);
                    RollupWriter::new(WriterConfig { id, ..open.template.clone() }, open.span.start_ms)?
                }
            };
            writers.push((*resolution_ms, writer));
        }
        Ok(Writers(writers))
    }

    /// Goes on after [`Outputs::take`]: ends blocks that are full.
    pub async fn put_back(&mut self, writers: Writers) -> Result<()> {
        let mut full = Vec::new();
        for (resolution_ms, writer) in writers.0 {
            let is_full = writer.encoded_bytes() as u64 >= self.limit_bytes;
            full.extend(is_full.then_some(resolution_ms));
            if let Some(open) = self.open.get_mut(&resolution_ms) {
                open.writer = Some(writer);
            }
        }
        for resolution_ms in full {
            self.end_block(resolution_ms).await?;
        }
        Ok(())
    }

    async fn end_block(&mut self, resolution_ms: i64) -> Result<()> {
        let open = self.open.get_mut(&resolution_ms).expect("only resolutions that were added are ended");
        let Some(writer) = open.writer.take_if(|w| w.series() > 0) else { return Ok(()) };
        open.has_written = true;
        self.done.push(writer.finish(&*self.objects, &self.tenant).await?);
        Ok(())
    }

    /// Ends the last blocks. If a resolution has got no bucket at all, a block with the series `stand_in` alone stands for its
    /// span, so that it is not looked at again and again.
    pub async fn finish(&mut self, stand_in: Option<&Labels>) -> Result<Vec<BlockMeta>> {
        let resolutions: Vec<i64> = self.open.keys().copied().collect();
        for resolution_ms in resolutions {
            self.end_block(resolution_ms).await?;
        }
        if let Some(labels) = stand_in {
            let empty: Vec<i64> = self.open.iter().filter(|(_, open)| !open.has_written).map(|(r, _)| *r).collect();
            if !empty.is_empty() {
                let mut writers = self.take()?;
                for (_, writer) in writers.0.iter_mut().filter(|(r, _)| empty.contains(r)) {
                    writer.push_series(labels, None, &[], &SampleBuf::default())?;
                }
                self.put_back(writers).await?;
                for resolution_ms in empty {
                    self.end_block(resolution_ms).await?;
                }
            }
        }
        Ok(std::mem::take(&mut self.done))
    }

    /// Removes what was uploaded, as far as that can be done.
    pub async fn discard(self) {
        for id in self.begun {
            remove_files(&*self.objects, &self.tenant, id).await;
        }
    }
}

impl Writers {
    /// The resolutions.
    pub fn resolutions(&self) -> impl Iterator<Item = i64> + '_ {
        self.0.iter().map(|(resolution_ms, _)| *resolution_ms)
    }

    /// Adds the next series of writer `number`, unless it has nothing.
    pub fn push(
        &mut self,
        number: usize,
        labels: &Labels,
        metadata: Option<&Metadata>,
        buckets: &[Bucket],
        histograms: &SampleBuf,
    ) -> Result<()> {
        if buckets.is_empty() && histograms.is_empty() {
            return Ok(());
        }
        Ok(self.0[number].1.push_series(labels, metadata, buckets, histograms)?)
    }
}
