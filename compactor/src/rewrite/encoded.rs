//! The inner loop where nothing is to be decoded: every chunk comes from one block that is cut at the same windows as the output.
//!
//! This is so for the longest level, whose inputs are days that follow one another. It is decided for each part of a batch from
//! labels alone.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use hashbrown::HashMap;
use isobar_block::reader::{EncodedRun, Picked};
use isobar_block::{BlockId, BlockMeta, BlockWriter, Exemplar, Labels, LabelsRef};
use tokio::task::JoinHandle;

use super::batches::Families;
use super::control::Control;
use super::damage::{Damages, note};
use super::output::Output;
use crate::error::{Error, Result};

/// Loads of one run that are under way at a time.
const CONCURRENT_LOADS: usize = 16;

/// A block's series of a part.
pub struct EncodedInput {
    /// Its id.
    pub block: BlockId,
    /// First and last window.
    pub windows_ms: (i64, i64),
    /// The series.
    pub picked: Picked,
}

impl EncodedInput {
    /// Of a block whose chunks can be taken as they are, as far as the block itself is concerned.
    pub fn new(meta: &BlockMeta, picked: Picked) -> Self {
        let window = |t: i64| t.div_euclid(meta.window_ms);
        Self { block: meta.ulid, windows_ms: (window(meta.min_time_ms), window(meta.max_time_ms)), picked }
    }
}

/// Series of several blocks that can be copied.
pub struct Encoded {
    /// Ascending by time.
    inputs: Vec<EncodedInput>,
    /// For each series its (input, row), ascending by time, one after the other.
    members: Vec<(u32, u32)>,
    /// Where each series' members end.
    ends: Vec<u32>,
}

impl Encoded {
    /// Merges the series; `None` if a series has two inputs whose windows overlap.
    pub fn new(mut inputs: Vec<EncodedInput>) -> Option<Self> {
        inputs.sort_by_key(|i| (i.windows_ms, i.block));
        let (mut members, mut ends) = (Vec::new(), Vec::new());
        {
            let sets: Vec<_> = inputs.iter().map(|i| i.picked.set()).collect();
            let mut next: BinaryHeap<Reverse<(LabelsRef<'_>, u32, u32)>> = BinaryHeap::with_capacity(sets.len());
            for (number, set) in sets.iter().enumerate().filter(|(_, set)| !set.is_empty()) {
                next.push(Reverse((set.labels(0), number as u32, 0)));
            }
            let mut last: Option<LabelsRef<'_>> = None;
            while let Some(Reverse((labels, input, row))) = next.pop() {
                if last == Some(labels) {
                    let (before, _) = members[members.len() - 1];
                    let (before, this) = (&inputs[before as usize], &inputs[input as usize]);
                    if before.windows_ms.1 >= this.windows_ms.0 {
                        return None;
                    }
                } else if last.is_some() {
                    ends.push(members.len() as u32);
                }
                last = Some(labels);
                members.push((input, row));
                let set = &sets[input as usize];
                if (row as usize + 1) < set.len() {
                    next.push(Reverse((set.labels(row as usize + 1), input, row + 1)));
                }
            }
            if last.is_some() {
                ends.push(members.len() as u32);
            }
        }
        Some(Self { inputs, members, ends })
    }

    /// Number of series.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    fn members(&self, rows: Range<usize>) -> &[(u32, u32)] {
        let start = |row: usize| if row == 0 { 0 } else { self.ends[row - 1] as usize };
        &self.members[start(rows.start)..start(rows.end)]
    }

    fn labels(&self, row: usize) -> Labels {
        let (input, of_input) = self.members(row..row + 1)[0];
        self.inputs[input as usize].picked.set().labels(of_input as usize).to_owned()
    }

    /// Loads the chunks of some series in the background.
    pub fn load(self: &Arc<Self>, rows: Range<usize>, damages: &Damages) -> LoadingEncoded {
        let (this, damages, wanted) = (self.clone(), damages.clone(), rows.clone());
        let task = tokio::spawn(async move {
            // All series of an input are in the merge, so that those of a run follow one another.
            let mut ranges: HashMap<u32, Range<usize>> = HashMap::new();
            for (input, row) in this.members(wanted) {
                let range = ranges.entry(*input).or_insert(*row as usize..*row as usize);
                range.end = *row as usize + 1;
            }
            let loads = ranges.into_iter().map(|(number, rows)| {
                let (input, damages) = (&this.inputs[number as usize], &damages);
                async move { Ok::<_, Error>((number, note(input.picked.load_encoded(rows).await, input.block, damages)?)) }
            });
            stream::iter(loads.collect::<Vec<_>>()).buffer_unordered(CONCURRENT_LOADS).try_collect().await
        });
        LoadingEncoded { rows, task }
    }
}

/// Chunks that are being loaded. Dropping it ends that.
pub struct LoadingEncoded {
    rows: Range<usize>,
    task: JoinHandle<Result<HashMap<u32, EncodedRun>>>,
}

impl LoadingEncoded {
    /// Waits for them.
    pub async fn end(mut self) -> Result<(HashMap<u32, EncodedRun>, Range<usize>)> {
        let runs =
            (&mut self.task).await.map_err(|e| Error::Invalid { what: "rewrite", reason: format!("loading did not end: {e}") })??;
        Ok((runs, self.rows.clone()))
    }
}

impl Drop for LoadingEncoded {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A run of series on its way into a block.
pub struct Copying {
    /// The series.
    pub encoded: Arc<Encoded>,
    /// Their chunks by input.
    pub runs: HashMap<u32, EncodedRun>,
    /// Those that are left.
    pub rows: Range<usize>,
    /// Exemplars of some.
    pub exemplars: Arc<HashMap<Labels, Vec<Exemplar>>>,
    /// Metadata.
    pub families: Arc<Families>,
    /// When the block is full.
    pub limit_bytes: u64,
    /// Ends the rewrite.
    pub control: Arc<Control>,
    /// Where damage is noted.
    pub damages: Damages,
}

impl Copying {
    /// Copies series until the block is full, or all.
    pub fn copy(&mut self, writer: &mut BlockWriter) -> Result<()> {
        let mut chunks = Vec::new();
        for row in self.rows.by_ref() {
            self.control.check()?;
            chunks.clear();
            for (input, of_input) in self.encoded.members(row..row + 1) {
                let read = self.runs[input].read(*of_input as usize, &mut chunks);
                note(read, self.encoded.inputs[*input as usize].block, &self.damages)?;
            }
            let labels = self.encoded.labels(row);
            let metadata = self.families.get(labels.as_ref().metric_name()).and_then(|f| f.metadata.as_ref());
            let exemplars = self.exemplars.get(&labels).map_or(&[][..], |e| e);
            writer.push_encoded(&labels, metadata, &chunks, exemplars)?;
            self.control.add_samples(chunks.iter().map(|c| c.samples() as u64).sum());
            if Output::is_full(writer, self.limit_bytes) {
                break;
            }
        }
        Ok(())
    }
}
