//! Writes series to one block for each aligned span of two hours, several spans at a time, in bounded memory.

use std::collections::BTreeMap;

use isobar_block::writer::DEFAULT_WINDOW_MS;
use isobar_block::{BlockId, BlockMeta, BlockStore, BlockWriter, Exemplar, Labels, Metadata, SampleBuf, TenantId, WriterConfig, time};

use crate::Result;
use crate::rewrite::remove_files;
use crate::transfer::slice;

/// Length of the spans: that of the first level of compaction, so that nothing has to be cut again.
pub(super) const SPAN_MS: i64 = DEFAULT_WINDOW_MS;

/// A block is not made bigger than this; the span gets another one with the series that follow.
const MAX_BLOCK_BYTES: u64 = 256 << 20;

/// Imported samples must not take the place of those that an ingester wrote for the same time. What an ingester writes has
/// the precedence of the moment of writing, which is after the sample's time, or before it by as much as a clock may be wrong
/// (`creation_grace_period`). A day is more than anybody allows.
const BELOW_SPAN_MS: i64 = 24 * 60 * 60 * 1000;

/// Blocks that are being written, and those that are written and not committed yet.
pub(super) struct Output {
    blocks: BlockStore,
    tenant: TenantId,
    sources: Vec<BlockId>,
    memory_bytes: u64,
    created_ms: i64,
    /// By start of the span, with the size of what is encoded.
    open: BTreeMap<i64, (BlockWriter, u64)>,
    done: Vec<BlockMeta>,
    /// Blocks that may have files.
    begun: Vec<BlockId>,
}

impl Output {
    /// Nothing so far. `sources` is what the blocks say they were made of.
    pub fn new(blocks: &BlockStore, tenant: &TenantId, memory_bytes: u64, sources: Vec<BlockId>) -> Self {
        let created_ms = time::now_ms();
        Self {
            blocks: blocks.clone(),
            tenant: tenant.clone(),
            sources,
            memory_bytes,
            created_ms,
            open: BTreeMap::new(),
            done: Vec::new(),
            begun: Vec::new(),
        }
    }

    pub fn blocks(&self) -> &BlockStore {
        &self.blocks
    }

    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Adds a series, whose samples may lie in several spans. Series ascend between calls of [`Output::flush`].
    pub async fn push(&mut self, labels: &Labels, metadata: Option<&Metadata>, samples: &SampleBuf, exemplars: &[Exemplar]) -> Result<()> {
        let span_of = |t: i64| t.div_euclid(SPAN_MS).saturating_mul(SPAN_MS);
        let times = &samples.timestamps;
        let (mut start, mut exemplars) = (0, exemplars);
        while start < times.len() || !exemplars.is_empty() {
            let first = times.get(start).into_iter().chain(exemplars.first().map(|e| &e.timestamp_ms)).min().copied();
            let span = span_of(first.expect("a sample or an exemplar is left"));
            let end = start + times[start..].partition_point(|t| span_of(*t) <= span);
            let of_span = exemplars.partition_point(|e| span_of(e.timestamp_ms) <= span);
            let part = if (start, end) == (0, times.len()) { None } else { Some(slice(samples, start, end)) };
            self.push_to(span, labels, metadata, part.as_ref().unwrap_or(samples), &exemplars[..of_span]).await?;
            (start, exemplars) = (end, &exemplars[of_span..]);
        }
        Ok(())
    }

    async fn push_to(
        &mut self,
        span: i64,
        labels: &Labels,
        metadata: Option<&Metadata>,
        samples: &SampleBuf,
        exemplars: &[Exemplar],
    ) -> Result<()> {
        let (created_ms, sources) = (self.created_ms, &self.sources);
        let (writer, size) = self.open.entry(span).or_insert_with(|| (BlockWriter::new(config(created_ms, span, sources)), 0));
        writer.push_series(labels, metadata, samples, exemplars)?;
        *size = writer.encoded_bytes() as u64;
        if *size >= MAX_BLOCK_BYTES {
            self.end_span(span).await?;
        }
        while self.open.values().map(|(_, size)| size).sum::<u64>() > self.memory_bytes {
            let biggest = self.open.iter().max_by_key(|(_, (_, size))| *size).map(|(span, _)| *span);
            self.end_span(biggest.expect("nothing open takes no memory")).await?;
        }
        Ok(())
    }

    async fn end_span(&mut self, span: i64) -> Result<()> {
        if let Some((writer, _)) = self.open.remove(&span)
            && writer.series() > 0
        {
            self.begun.push(writer.id());
            self.done.push(writer.finish(&**self.blocks.objects(), &self.tenant).await?);
        }
        Ok(())
    }

    /// Ends all blocks that are open; series may begin anew.
    pub async fn flush(&mut self) -> Result<()> {
        while let Some(span) = self.open.keys().next().copied() {
            self.end_span(span).await?;
        }
        Ok(())
    }

    /// Ends all blocks and returns what is to be committed.
    pub async fn finish(&mut self) -> Result<Vec<BlockMeta>> {
        self.flush().await?;
        Ok(std::mem::take(&mut self.done))
    }

    /// Removes what was uploaded. What stays is found by the cleaning.
    pub async fn discard(self) {
        for id in self.begun {
            remove_files(&**self.blocks.objects(), &self.tenant, id).await;
        }
    }
}

fn config(created_ms: i64, span: i64, sources: &[BlockId]) -> WriterConfig {
    WriterConfig {
        precedence_ms: span.saturating_sub(BELOW_SPAN_MS),
        sources: sources.to_vec(),
        // Deletions that were asked for before the import do not apply to it, although its precedence is that of old data.
        deletions_ms: created_ms,
        ..WriterConfig::new(created_ms)
    }
}
