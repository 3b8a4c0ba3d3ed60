//! Rewrites the series of a block with other labels, or without some of them.

use std::sync::Arc;

use hashbrown::HashMap;
use isobar_block::mask::Mask;
use isobar_block::{BlockReader, Exemplar, Labels, LabelsRef, Matcher, Metadata, SampleBuf, SeriesSet, Source, TimeRange};

use super::BATCH_SERIES;
use super::edit::{Edit, Rewritten};
use super::relabel::relabel;
use crate::Result;
use crate::rewrite::Output;
use crate::transfer::{Gathered, OnProgress, Progress};

/// Examples in the summary.
const MAX_EXAMPLES: usize = 10;

/// Which series get which labels, in the order in which they are written. Takes memory for the labels of the block.
pub(super) struct Plan {
    set: Arc<dyn SeriesSet>,
    /// The labels that series get, ascending, and their rows in the block.
    pub series: Vec<(Labels, u32)>,
    pub summary: Rewritten,
}

impl Plan {
    pub async fn new(reader: &Arc<BlockReader>, edit: &Edit) -> Result<Self> {
        let set = reader.select_series(&[]).await?;
        let meta = reader.meta();
        let mut summary = Rewritten {
            block: meta.ulid,
            resolution_ms: meta.resolution_ms,
            series: set.len() as u64,
            dropped: 0,
            relabelled: 0,
            joined: 0,
            examples: Vec::new(),
            blocks: Vec::new(),
        };
        let mut series = Vec::with_capacity(set.len());
        for row in 0..set.len() {
            let labels = set.labels(row);
            let becomes = match edit {
                Edit::Drop(selectors) => (!accepts(selectors, labels)).then(|| labels.to_owned()),
                Edit::Keep(selectors) => accepts(selectors, labels).then(|| labels.to_owned()),
                Edit::Relabel(rules) => relabel(rules, labels)?,
            };
            let example = match &becomes {
                None => {
                    summary.dropped += 1;
                    Some(format!("{labels} is left out"))
                }
                Some(other) if other.as_ref() != labels => {
                    summary.relabelled += 1;
                    Some(format!("{labels} becomes {other}"))
                }
                Some(_) => None,
            };
            if summary.examples.len() < MAX_EXAMPLES {
                summary.examples.extend(example);
            }
            series.extend(becomes.map(|labels| (labels, row as u32)));
            if row % 4096 == 0 {
                tokio::task::yield_now().await;
            }
        }
        if !series.is_sorted() {
            series.sort_unstable();
        }
        summary.joined = series.windows(2).filter(|w| w[0].0 == w[1].0).count() as u64;
        Ok(Self { set, series, summary })
    }

    /// Writes the series of a raw block that stay, as they are without what `mask` hides: under other labels its deletions would
    /// not find them any more.
    pub async fn copy(
        &self,
        reader: &Arc<BlockReader>,
        mask: Option<&Mask>,
        output: &mut Output,
        on_progress: OnProgress<'_>,
    ) -> Result<()> {
        let metadata: HashMap<String, Vec<Metadata>> = reader.metadata(None).await?.into_iter().collect();
        let mut exemplars: HashMap<Labels, Vec<Exemplar>> = reader.exemplars(&[], TimeRange::ALL).await?.into_iter().collect();
        let total = Some(self.series.len() as u64);
        let mut progress = Progress { what: reader.meta().ulid.to_string(), done: 0, total, unit: "series" };
        let mut pending: Option<Pending> = None;
        for batch in self.series.chunks(BATCH_SERIES) {
            let read = self.read(batch).await?;
            for ((labels, row), samples) in batch.iter().zip(read) {
                let old = self.set.labels(*row as usize);
                let mut next = pending.take_if(|p| p.labels == *labels).unwrap_or_else(|| Pending::new(labels));
                if let Some(done) = pending.take() {
                    done.write(output).await?;
                }
                let mut of_series = exemplars.remove(&old.to_owned()).unwrap_or_default();
                match mask {
                    None => next.samples.append(&samples, |_| true),
                    Some(mask) => {
                        let deleted = mask.deleted(old);
                        next.samples.append(&samples, |t| !deleted.iter().any(|d| d.contains(t)));
                        mask.cut_exemplars(old, &mut of_series);
                    }
                }
                next.exemplars.extend(of_series);
                next.metadata = metadata.get(old.metric_name()).and_then(|known| known.last()).cloned();
                pending = Some(next);
            }
            progress.done += batch.len() as u64;
            on_progress(&progress);
        }
        match pending {
            Some(done) => done.write(output).await,
            None => Ok(()),
        }
    }

    /// The samples of some series, which may lie anywhere in the block.
    async fn read(&self, batch: &[(Labels, u32)]) -> Result<Vec<SampleBuf>> {
        let mut by_row: Vec<(usize, usize)> = batch.iter().enumerate().map(|(i, (_, row))| (*row as usize, i)).collect();
        by_row.sort_unstable();
        let mut out = vec![SampleBuf::default(); batch.len()];
        for rows in by_row.chunk_by(|a, b| a.0 + 1 == b.0) {
            let mut run = self.set.load(rows[0].0..rows[rows.len() - 1].0 + 1, TimeRange::ALL).await?;
            for (row, i) in rows {
                run.read(*row, &mut out[*i])?;
            }
        }
        Ok(out)
    }
}

/// A series that others may still join.
struct Pending {
    labels: Labels,
    metadata: Option<Metadata>,
    samples: Gathered,
    exemplars: Vec<Exemplar>,
}

impl Pending {
    fn new(labels: &Labels) -> Self {
        Self { labels: labels.clone(), metadata: None, samples: Gathered::default(), exemplars: Vec::new() }
    }

    async fn write(mut self, output: &mut Output) -> Result<()> {
        self.exemplars.sort_by_key(|e| e.timestamp_ms);
        output.push(&self.labels, self.metadata.as_ref(), &self.samples.take(), &self.exemplars).await
    }
}

/// Whether one of the selectors accepts the series.
fn accepts(selectors: &[Vec<Matcher>], labels: LabelsRef<'_>) -> bool {
    selectors.iter().any(|matchers| Matcher::all_match(matchers, labels))
}
