//! From raw blocks to buckets: one pass over the merged and deduplicated series of a span.

use std::ops::Range;
use std::sync::Arc;

use isobar_block::{BlockMeta, Labels, SampleBuf, SeriesRun, SeriesSet};

use super::aggregate::{keep_histograms, roll_up};
use super::output::{Outputs, Writers};
use super::{Downsampling, Due};
use crate::error::{Error, Result};
use crate::plan::Span;
use crate::rewrite::{Control, Damages, Families, Inputs, Loading, Step, batches};

/// Loaded chunks of one run take this share (1/n) of the memory; two runs are in work.
const RUN_SHARE: u64 = 64;

/// A run of series on its way into blocks.
struct Rolling {
    set: Arc<dyn SeriesSet>,
    run: Box<dyn SeriesRun>,
    rows: Range<usize>,
    families: Arc<Families>,
    span: Span,
    control: Arc<Control>,
}

impl Downsampling {
    pub(super) async fn build(
        &self,
        due: &Due,
        inputs: &[Arc<BlockMeta>],
        damages: &Damages,
        outputs: &mut Outputs,
    ) -> Result<Vec<BlockMeta>> {
        for resolution_ms in &due.resolutions_ms {
            outputs.add(self.template(inputs, due.span, due.level, *resolution_ms), due.span);
        }
        let reading = self.reading(inputs);
        self.control.begin(inputs.iter().map(|b| b.series).sum());
        let opened = Inputs::open(&reading, inputs, &self.replica_labels, damages.clone()).await?;
        let families = Arc::new(opened.families().await?);
        let mut stand_in: Option<Labels> = None;
        for batch in batches(&families, reading.max_series()) {
            for part in opened.parts(&batch, reading.max_series()).await? {
                self.control.check()?;
                let loaded = opened.load(&batch, &part, due.span.range()).await?;
                if stand_in.is_none() && !loaded.set.is_empty() {
                    stand_in = Some(loaded.set.labels(0).to_owned());
                }
                let step = Step::new(self.memory_bytes / RUN_SHARE, loaded.bytes_per_series);
                self.roll(loaded.set, loaded.series, step, &families, due.span, outputs).await?;
            }
        }
        outputs.finish(stand_in.as_ref()).await
    }

    async fn roll(
        &self,
        set: Arc<dyn SeriesSet>,
        input_series: u64,
        mut step: Step,
        families: &Arc<Families>,
        span: Span,
        outputs: &mut Outputs,
    ) -> Result<()> {
        let rows = set.len();
        let mut done = 0;
        let mut loading = Loading::begin(&set, 0, step.rows, span.range());
        while done < rows {
            let (run, rows_of_run) = loading.end().await?;
            let next = rows_of_run.end;
            loading = Loading::begin(&set, next, step.rows, span.range());
            let (families, control) = (families.clone(), self.control.clone());
            let rolling = Rolling { set: set.clone(), run, rows: rows_of_run.clone(), families, span, control };
            let writers = outputs.take()?;
            let rolled = tokio::task::spawn_blocking(move || rolling.roll(writers)).await;
            let (writers, samples) =
                rolled.map_err(|e| Error::Invalid { what: "downsampling", reason: format!("it did not end: {e}") })??;
            outputs.put_back(writers).await?;
            self.control.add_samples(samples);
            self.control.add_series(input_series * next as u64 / rows as u64 - input_series * done as u64 / rows as u64);
            step.learn(rows_of_run.len(), samples);
            done = next;
        }
        Ok(())
    }
}

impl Rolling {
    /// Adds the buckets of all series to the writers; returns how many samples were read too.
    fn roll(mut self, mut writers: Writers) -> Result<(Writers, u64)> {
        let resolutions: Vec<i64> = writers.resolutions().collect();
        let span = self.span.start_ms..self.span.end_ms.saturating_add(1);
        let (mut samples, mut buckets, mut total) = (SampleBuf::default(), Vec::new(), 0);
        let nothing = SampleBuf::default();
        for row in self.rows.clone() {
            self.control.check()?;
            self.run.read(row, &mut samples)?;
            total += samples.len() as u64;
            let labels = self.set.labels(row).to_owned();
            let metadata = self.families.get(labels.as_ref().metric_name()).and_then(|f| f.metadata.as_ref());
            for (number, resolution_ms) in resolutions.iter().enumerate() {
                buckets.clear();
                roll_up(&samples, span.clone(), *resolution_ms, &mut buckets);
                let kept = (!samples.histograms.is_empty()).then(|| keep_histograms(&samples, span.clone(), *resolution_ms));
                writers.push(number, &labels, metadata, &buckets, kept.as_ref().unwrap_or(&nothing))?;
            }
        }
        Ok((writers, total))
    }
}
