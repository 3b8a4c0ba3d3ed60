//! What a block holds outside of the span that is compacted: it goes to blocks of the same level and precedence, so that no block
//! reaches over the border of the span any more.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use isobar_block::writer::WriterConfig;
use isobar_block::{BlockMeta, Exemplar, Labels, SampleBuf, TimeRange};

use super::batches::{Families, batches};
use super::clip::Clipper;
use super::copy::{Loading, RUN_SHARE, Step};
use super::inputs::{Inputs, Loaded};
use super::output::Output;
use super::{Rewrite, marks};
use crate::error::{Error, Result};
use crate::plan::Span;

/// The remainders of one block: for each piece of time an output.
pub struct Remainders {
    span: Span,
    levels_ms: Vec<i64>,
    template: WriterConfig,
    limit_bytes: u64,
    outputs: BTreeMap<Span, Output>,
}

/// What one piece of time gets of a run of series.
type Series = (Labels, SampleBuf, Vec<Exemplar>);

impl Remainders {
    /// No remainders yet. All together are encoded in about `limit_bytes`.
    pub fn new(rewrite: &Rewrite, input: &Arc<BlockMeta>, limit_bytes: u64) -> Self {
        let template = WriterConfig {
            precedence_ms: input.precedence_ms,
            level: input.level,
            window_ms: input.window_ms,
            sources: vec![input.ulid],
            writers: marks(std::slice::from_ref(input)),
            deletions_ms: rewrite.template.deletions_ms.max(input.deletions_ms),
            ..rewrite.template.clone()
        };
        Self { span: rewrite.whole(), levels_ms: rewrite.levels_ms.clone(), template, limit_bytes, outputs: BTreeMap::new() }
    }

    /// All outputs, to be discarded if something went wrong.
    pub fn into_outputs(self) -> impl Iterator<Item = Output> {
        self.outputs.into_values()
    }

    /// Copies everything outside of the span, and returns the blocks.
    pub async fn copy(&mut self, inputs: &Inputs, rewrite: &Rewrite) -> Result<Vec<BlockMeta>> {
        let families = Arc::new(inputs.families().await?);
        let before = self.span.start_ms.checked_sub(1).map(|end_ms| Span { start_ms: i64::MIN, end_ms });
        let after = self.span.end_ms.checked_add(1).map(|start_ms| Span { start_ms, end_ms: i64::MAX });
        for batch in batches(&families, rewrite.max_series()) {
            for part in inputs.parts(&batch, rewrite.max_series()).await? {
                let loaded = inputs.load(&batch, &part, TimeRange::ALL).await?;
                for side in [before, after].into_iter().flatten() {
                    self.copy_side(&loaded, side, &families, rewrite).await?;
                }
                rewrite.control.add_series(loaded.series);
            }
        }
        let mut blocks = Vec::new();
        for output in self.outputs.values_mut() {
            blocks.extend(output.finish().await?);
        }
        Ok(blocks)
    }

    async fn copy_side(&mut self, loaded: &Loaded, side: Span, families: &Arc<Families>, rewrite: &Rewrite) -> Result<()> {
        let exemplars = Arc::new(loaded.exemplars.clone());
        let mut step = Step::new(rewrite.memory_bytes / RUN_SHARE, loaded.bytes_per_series);
        let mut next = 0;
        while next < loaded.set.len() {
            rewrite.control.check()?;
            let (mut run, rows) = Loading::begin(&loaded.set, next, step.rows, side.range()).end().await?;
            next = rows.end;
            let (set, exemplars, pieces) = (loaded.set.clone(), exemplars.clone(), Pieces::new(self));
            let of_run = rows.clone();
            let split = move || {
                let (mut out, mut samples, mut clipper) = (HashMap::new(), SampleBuf::default(), Clipper::default());
                for row in of_run {
                    run.read(row, &mut samples)?;
                    clipper.clip(&mut samples, side);
                    let labels = set.labels(row).to_owned();
                    pieces.split(&labels, &samples, exemplars.get(&labels).map_or(&[][..], |e| e), side, &mut clipper, &mut out);
                }
                Ok::<_, Error>(out)
            };
            let split = tokio::task::spawn_blocking(split).await.map_err(|_| Error::Canceled)??;
            step.learn(rows.len(), split.values().flatten().map(|(_, s, _): &Series| s.len() as u64).sum());
            for (piece, series) in split {
                self.push(piece, series, families, rewrite).await?;
            }
            self.bound().await?;
        }
        Ok(())
    }

    async fn push(&mut self, piece: Span, series: Vec<Series>, families: &Arc<Families>, rewrite: &Rewrite) -> Result<()> {
        let new = || Output::new(rewrite.objects.clone(), rewrite.tenant.clone(), self.template.clone(), self.limit_bytes);
        let output = self.outputs.entry(piece).or_insert_with(new);
        let mut writer = output.take();
        let (families, control) = (families.clone(), rewrite.control.clone());
        let encode = move || {
            let result = series.iter().try_for_each(|(labels, samples, exemplars)| {
                let metadata = families.get(labels.as_ref().metric_name()).and_then(|f| f.metadata.as_ref());
                control.add_samples(samples.len() as u64);
                writer.push_series(labels, metadata, samples, exemplars)
            });
            (writer, result)
        };
        let (writer, result) = tokio::task::spawn_blocking(encode).await.map_err(|_| Error::Canceled)?;
        output.put_back(writer).await?;
        Ok(result?)
    }

    /// Ends the biggest blocks until all together are small enough.
    async fn bound(&mut self) -> Result<()> {
        while self.outputs.values().map(Output::encoded_bytes).sum::<u64>() > self.limit_bytes {
            let biggest = self.outputs.values_mut().max_by_key(|o| o.encoded_bytes());
            biggest.expect("the sum of none is 0").end_block().await?;
        }
        Ok(())
    }
}

/// Which pieces time is cut into around a span.
struct Pieces {
    span: Span,
    levels_ms: Vec<i64>,
}

impl Pieces {
    fn new(of: &Remainders) -> Self {
        Self { span: of.span, levels_ms: of.levels_ms.clone() }
    }

    /// The piece that a time outside of the span belongs to: the longest aligned span that does not touch it.
    fn piece_of(&self, t_ms: i64) -> Span {
        let aligned = self.levels_ms.iter().rev().map(|len_ms| Span::aligned(t_ms, *len_ms)).find(|s| !s.overlaps(self.span));
        let side = || match t_ms < self.span.start_ms {
            true => Span { start_ms: i64::MIN, end_ms: self.span.start_ms - 1 },
            false => Span { start_ms: self.span.end_ms + 1, end_ms: i64::MAX },
        };
        aligned.unwrap_or_else(side)
    }

    fn split(
        &self,
        labels: &Labels,
        samples: &SampleBuf,
        exemplars: &[Exemplar],
        side: Span,
        clipper: &mut Clipper,
        out: &mut HashMap<Span, Vec<Series>>,
    ) {
        let mut exemplars = exemplars.iter().filter(|e| side.contains(e.timestamp_ms)).peekable();
        let mut next = 0;
        loop {
            let times = [samples.timestamps.get(next).copied(), exemplars.peek().map(|e| e.timestamp_ms)];
            let Some(first_ms) = times.into_iter().flatten().min() else { return };
            let piece = self.piece_of(first_ms);
            let part = clipper.part(samples, piece);
            next += part.len();
            let mut of_piece = Vec::new();
            while let Some(exemplar) = exemplars.next_if(|e| piece.contains(e.timestamp_ms)) {
                of_piece.push(exemplar.clone());
            }
            out.entry(piece).or_default().push((labels.clone(), part, of_piece));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    #[test]
    fn pieces_are_as_long_as_the_levels_allow() {
        let levels_ms = [2, 8, 48, 336].map(|h| h * HOUR_MS).to_vec();
        let span = Span::aligned(340 * HOUR_MS, 2 * HOUR_MS);
        let pieces = Pieces { span, levels_ms };
        let hours = |t: i64| {
            let piece = pieces.piece_of(t * HOUR_MS);
            assert!(piece.contains(t * HOUR_MS) && !piece.overlaps(span), "{t}");
            (piece.start_ms / HOUR_MS, (piece.end_ms + 1) / HOUR_MS)
        };
        assert_eq!(span.start_ms, 340 * HOUR_MS);
        assert_eq!(hours(339), (338, 340));
        assert_eq!(hours(336), (336, 338));
        assert_eq!(hours(343), (342, 344));
        assert_eq!(hours(344), (344, 352));
        assert_eq!(hours(390), (384, 432));
        assert_eq!(hours(0), (0, 336));
        assert_eq!(hours(1000), (672, 1008));
    }
}
