//! The inner loop: loads runs of series, decodes, encodes. The next run is loaded while one is encoded on a thread for blocking
//! work.

use std::ops::Range;
use std::sync::Arc;

use hashbrown::HashMap;
use isobar_block::{BlockWriter, Exemplar, Labels, SampleBuf, SeriesRun, SeriesSet, TimeRange};
use tokio::task::JoinHandle;

use super::batches::Families;
use super::clip::Clipper;
use super::control::Control;
use super::damage::Damages;
use super::encoded::{Copying, Encoded};
use super::inputs::Loaded;
use super::output::Output;
use crate::error::{Error, Result};
use crate::plan::Span;

/// Loaded chunks of one run take this share (1/n) of the memory; two runs are in work, and one is held compressed and decoded
/// while it is loaded. Each run looks at most of the timestamps of its blocks, so that short runs cost time.
pub const RUN_SHARE: u64 = 24;
/// Most series of a run.
const MAX_RUN_SERIES: usize = 8192;

/// Copies series to outputs.
pub struct Copier {
    span: Span,
    run_bytes: u64,
    control: Arc<Control>,
    damages: Damages,
    tools: Option<Tools>,
}

/// What is reused from run to run.
#[derive(Default)]
struct Tools {
    samples: SampleBuf,
    clipper: Clipper,
}

/// A run of series on its way into a block.
struct Encoding {
    set: Arc<dyn SeriesSet>,
    run: Box<dyn SeriesRun>,
    rows: Range<usize>,
    exemplars: Arc<HashMap<Labels, Vec<Exemplar>>>,
    families: Arc<Families>,
    span: Span,
    limit_bytes: u64,
    control: Arc<Control>,
}

impl Copier {
    /// Copies what lies in `span`, with loads that fit into `memory_bytes`.
    pub fn new(span: Span, memory_bytes: u64, control: Arc<Control>, damages: Damages) -> Self {
        Self { span, run_bytes: memory_bytes / RUN_SHARE, control, damages, tools: Some(Tools::default()) }
    }

    /// Copies loaded series, whose labels have to come after those that the output has.
    pub async fn copy(&mut self, loaded: Loaded, families: &Arc<Families>, output: &mut Output) -> Result<()> {
        let (set, exemplars) = (loaded.set, Arc::new(loaded.exemplars));
        let rows = set.len();
        let mut step = Step::new(self.run_bytes, loaded.bytes_per_series);
        let mut done = 0;
        let mut loading = Loading::begin(&set, 0, step.rows, self.span.range());
        while done < rows {
            let (run, rows_of_run) = loading.end().await?;
            let next = rows_of_run.end;
            loading = Loading::begin(&set, next, step.rows, self.span.range());
            let samples_before = self.control.progress().samples;
            let mut encoding = Encoding {
                set: set.clone(),
                run,
                rows: rows_of_run.clone(),
                exemplars: exemplars.clone(),
                families: families.clone(),
                span: self.span,
                limit_bytes: output.limit_bytes(),
                control: self.control.clone(),
            };
            while !encoding.rows.is_empty() {
                let (mut writer, mut tools) = (output.take(), self.tools.take().unwrap_or_default());
                let encode = move || {
                    let result = encoding.encode(&mut writer, &mut tools);
                    (encoding, writer, tools, result)
                };
                let (rest, writer, tools, result) = tokio::task::spawn_blocking(encode).await.map_err(panicked)?;
                encoding = rest;
                self.tools = Some(tools);
                output.put_back(writer).await?;
                result?;
            }
            self.control.add_series(loaded.series * next as u64 / rows as u64 - loaded.series * done as u64 / rows as u64);
            step.learn(rows_of_run.len(), self.control.progress().samples - samples_before);
            done = next;
        }
        Ok(())
    }
}

impl Copier {
    /// Copies chunks as they are.
    pub async fn copy_encoded(
        &mut self,
        encoded: Encoded,
        (exemplars, bytes_per_series): (HashMap<Labels, Vec<Exemplar>>, u64),
        families: &Arc<Families>,
        output: &mut Output,
    ) -> Result<()> {
        let (encoded, exemplars) = (Arc::new(encoded), Arc::new(exemplars));
        let rows = encoded.len();
        let step = Step::new(self.run_bytes, bytes_per_series).rows;
        let run = |start: usize| start..rows.min(start + step);
        let mut loading = encoded.load(run(0), &self.damages);
        let mut done = 0;
        while done < rows {
            let (runs, of_run) = loading.end().await?;
            done = of_run.end;
            loading = encoded.load(run(done), &self.damages);
            let mut copying = Copying {
                encoded: encoded.clone(),
                runs,
                rows: of_run,
                exemplars: exemplars.clone(),
                families: families.clone(),
                limit_bytes: output.limit_bytes(),
                control: self.control.clone(),
                damages: self.damages.clone(),
            };
            while !copying.rows.is_empty() {
                let mut writer = output.take();
                let copy = move || {
                    let result = copying.copy(&mut writer);
                    (copying, writer, result)
                };
                let (rest, writer, result) = tokio::task::spawn_blocking(copy).await.map_err(panicked)?;
                copying = rest;
                output.put_back(writer).await?;
                result?;
            }
        }
        Ok(())
    }
}

fn panicked(e: tokio::task::JoinError) -> Error {
    Error::Invalid { what: "rewrite", reason: format!("merging did not end: {e}") }
}

impl Encoding {
    /// Encodes series until the block is full, or all.
    fn encode(&mut self, writer: &mut BlockWriter, tools: &mut Tools) -> Result<()> {
        let Tools { samples, clipper } = tools;
        for row in self.rows.by_ref() {
            self.control.check()?;
            self.run.read(row, samples)?;
            clipper.clip(samples, self.span);
            let labels = self.set.labels(row);
            let labels = labels.to_owned();
            let metadata = self.families.get(labels.as_ref().metric_name()).and_then(|f| f.metadata.as_ref());
            let exemplars = self.exemplars.get(&labels).map_or(&[][..], |e| e);
            writer.push_series(&labels, metadata, samples, exemplars)?;
            self.control.add_samples(samples.len() as u64);
            if Output::is_full(writer, self.limit_bytes) {
                break;
            }
        }
        Ok(())
    }
}

/// A run that is being loaded in the background. Dropping it ends that.
pub struct Loading {
    rows: Range<usize>,
    task: Option<JoinHandle<isobar_block::Result<Box<dyn SeriesRun>>>>,
}

impl Loading {
    /// Begins with the run from `start` on of at most `step` series; there may be none.
    pub fn begin(set: &Arc<dyn SeriesSet>, start: usize, step: usize, range: TimeRange) -> Self {
        let rows = start..set.len().min(start + step);
        let set = set.clone();
        let wanted = rows.clone();
        let task = (!rows.is_empty()).then(|| tokio::spawn(async move { set.load(wanted, range).await }));
        Self { rows, task }
    }

    /// Waits for the run.
    ///
    /// # Panics
    /// If the run is empty.
    pub async fn end(mut self) -> Result<(Box<dyn SeriesRun>, Range<usize>)> {
        let task = self.task.as_mut().expect("a run is only awaited if it has series");
        let run = task.await.map_err(panicked)??;
        Ok((run, self.rows.clone()))
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// How many series a run has, so that its chunks take about the same memory each time.
pub struct Step {
    run_bytes: u64,
    /// Series of the next run.
    pub rows: usize,
}

impl Step {
    /// From what the catalog says of the blocks. Pages are compressed once more in the store, about to a half.
    pub fn new(run_bytes: u64, bytes_per_series: u64) -> Self {
        let rows = run_bytes / (2 * bytes_per_series).max(1);
        Self { run_bytes, rows: (rows as usize).clamp(1, MAX_RUN_SERIES) }
    }

    /// From a run that was read: an encoded sample takes about two bytes.
    pub fn learn(&mut self, rows: usize, samples: u64) {
        let per_row = (2 * samples / rows.max(1) as u64).max(1);
        let wanted = (self.run_bytes / per_row) as usize;
        self.rows = wanted.clamp(self.rows / 2, self.rows * 2).clamp(1, MAX_RUN_SERIES);
    }
}
