//! Downsampled blocks whose series get other labels, or are left out. Which those are, the caller has decided.

use std::sync::Arc;

use isobar_block::writer::WriterConfig;
use isobar_block::{Aggregate, BlockId, BlockMeta, Labels, Metadata};

use super::Downsampling;
use super::due::span_of;
use super::merge::{Input, RUN_SERIES, Series, joined, no_buckets};
use super::output::Outputs;
use crate::error::{Error, Result};
use crate::rewrite::{Damages, Families, add_family};

impl Downsampling {
    /// Writes a downsampled block anew with some of its series, each under the labels that stand beside its row, ascending by
    /// these; series that get the same are joined. Deletions are carried out too. The new block was made of `sources`. Returns
    /// the blocks that take its place; none if nothing is left. `done` is told of series.
    ///
    /// # Errors
    /// Whatever goes wrong. What was written is removed then.
    pub(crate) async fn relabel(
        &self,
        block: &Arc<BlockMeta>,
        series: &[(Labels, u32)],
        sources: Vec<BlockId>,
        done: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Vec<BlockMeta>> {
        let span = span_of(block).ok_or_else(|| no_buckets(block.ulid))?;
        let template = self.template(std::slice::from_ref(block), span, block.level, block.resolution_ms);
        let mut outputs = Outputs::new(self.objects.clone(), self.tenant.clone(), self.memory_bytes / super::OUTPUT_SHARE);
        outputs.add(WriterConfig { sources, ..template }, span);
        match self.write(block, series, &mut outputs, done).await {
            Ok(blocks) => Ok(blocks),
            Err(error) => {
                outputs.discard().await;
                Err(error)
            }
        }
    }

    async fn write(
        &self,
        block: &Arc<BlockMeta>,
        series: &[(Labels, u32)],
        outputs: &mut Outputs,
        done: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Vec<BlockMeta>> {
        let opened = self.open(std::slice::from_ref(block), &Damages::default()).await?;
        let input = &opened[0];
        let set = input.reader.select_rollup(&[], Aggregate::Last).await?.ok_or_else(|| no_buckets(block.ulid))?;
        let mut families = Families::new();
        input.reader.walk_names(|run| add_family(&mut families, run)).await?;
        let mut pending: Option<(&Labels, Option<&Metadata>, Vec<Series>)> = None;
        for batch in series.chunks(RUN_SERIES) {
            let read = read(input, &set, batch).await?;
            for ((labels, row), part) in batch.iter().zip(read) {
                let name = isobar_block::SeriesSet::labels(&*set, *row as usize).metric_name().to_owned();
                let metadata = families.get(name.as_str()).and_then(|f| f.metadata.as_ref());
                match pending.as_mut().filter(|(of, ..)| *of == labels) {
                    Some((_, of, parts)) => {
                        *of = metadata.or(*of);
                        parts.push(part);
                    }
                    None => {
                        let complete = pending.replace((labels, metadata, vec![part]));
                        push(complete, outputs).await?;
                    }
                }
            }
            done(batch.len() as u64);
        }
        push(pending, outputs).await?;
        outputs.finish(None).await
    }
}

async fn push(series: Option<(&Labels, Option<&Metadata>, Vec<Series>)>, outputs: &mut Outputs) -> Result<()> {
    let Some((labels, metadata, parts)) = series else { return Ok(()) };
    let (buckets, histograms) = joined(parts);
    let mut writers = outputs.take()?;
    writers.push(0, labels, metadata, &buckets, &histograms)?;
    outputs.put_back(writers).await
}

/// Some series, which may lie anywhere in the block, in the order of `batch`.
async fn read(input: &Input, set: &Arc<isobar_block::reader::RollupSet>, batch: &[(Labels, u32)]) -> Result<Vec<Series>> {
    let mut by_row: Vec<(usize, usize)> = batch.iter().enumerate().map(|(place, (_, row))| (*row as usize, place)).collect();
    by_row.sort_unstable();
    let mut found: Vec<(usize, Series)> = Vec::with_capacity(batch.len());
    for rows in by_row.chunk_by(|a, b| a.0 + 1 == b.0) {
        let mut run = set.load_buckets(rows[0].0..rows[rows.len() - 1].0 + 1).await?;
        for (row, place) in rows {
            found.push((*place, input.read(set, &mut run, *row).map_err(Error::from)?));
        }
    }
    found.sort_by_key(|(place, _)| *place);
    Ok(found.into_iter().map(|(_, series)| series).collect())
}
