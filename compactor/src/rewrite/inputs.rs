//! The blocks that a rewrite reads: opened with caches that they share, and masked by deletions.

use std::ops::RangeInclusive;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use hashbrown::HashMap;
use isobar_block::cache::{CacheConfig, SharedCaches};
use isobar_block::mask::{Mask, Masks};
use isobar_block::merge::merged_within;
use isobar_block::reader::{Pick, Picked};
use isobar_block::{BlockMeta, BlockReader, Exemplar, Labels, LabelsRef, SeriesSet, TimeRange};
use parking_lot::Mutex;

use super::Rewrite;
use super::batches::{Batch, Cuts, Families, add, without};
use super::damage::{Damages, Noted, note};
use super::encoded::{Encoded, EncodedInput};
use crate::error::{Error, Result};
use crate::plan::Span;

/// Blocks that are opened or searched at a time.
const CONCURRENT_BLOCKS: usize = 16;
/// Timestamps that were joined take this share (1/n) of the memory in each of two runs.
const JOINED_SHARE: u64 = 24;
/// So many label sets are looked at for each part that a metric is cut into.
const SAMPLES_PER_PART: u64 = 64;

/// Opened blocks, ascending by precedence.
pub struct Inputs {
    inputs: Vec<Input>,
    /// Sorted.
    replica_labels: Vec<String>,
    damages: Damages,
    /// For timestamps of several blocks that were joined, for each run in work.
    joined_bytes: u64,
    /// Whether chunks of the blocks can be taken as they are, unless two have chunks of one series and window.
    may_copy: bool,
}

struct Input {
    reader: Arc<BlockReader>,
    mask: Option<Mask>,
}

/// A part of a batch.
#[derive(Clone)]
pub enum Part {
    /// All of it.
    Whole,
    /// Some series of its only metric.
    Some(Arc<Cut>, usize),
}

/// How the series of a metric are cut.
pub struct Cut {
    cuts: Cuts,
    /// For each input and row group which parts it has series of.
    parts: HashMap<(usize, usize), RangeInclusive<usize>>,
}

/// Series that are merged.
pub struct Loaded {
    /// All series of all inputs, each once, without replica labels; empty if `encoded` has them.
    pub set: Arc<dyn SeriesSet>,
    /// Exemplars of some of them, in time order.
    pub exemplars: HashMap<Labels, Vec<Exemplar>>,
    /// The same series, if their chunks can be taken as they are.
    pub encoded: Option<Encoded>,
    /// Series, counted once for each input that has them.
    pub series: u64,
    /// About what the encoded samples of a merged series take in all inputs.
    pub bytes_per_series: u64,
}

impl Inputs {
    /// Opens the blocks.
    pub async fn open(rewrite: &Rewrite, metas: &[Arc<BlockMeta>], replica_labels: &[String], damages: Damages) -> Result<Self> {
        let caches = SharedCaches::new(&caches(rewrite.memory_bytes));
        let masks = Masks::new(&rewrite.tombstones)?;
        let open = |meta: Arc<BlockMeta>| {
            let (caches, mask, damages) = (&caches, masks.of(&meta), &damages);
            async move {
                let id = meta.ulid;
                let opened = BlockReader::open_shared(rewrite.objects.clone(), &rewrite.tenant, meta, caches).await;
                let reader = Arc::new(note(opened, id, damages)?);
                Ok::<_, Error>(Input { reader, mask })
            }
        };
        let opened: Vec<_> = metas.iter().cloned().map(open).collect();
        let inputs = stream::iter(opened).buffered(CONCURRENT_BLOCKS).try_collect().await?;
        let mut replica_labels = replica_labels.to_vec();
        replica_labels.sort_unstable();
        replica_labels.dedup();
        Ok(Self { inputs, replica_labels, damages, joined_bytes: rewrite.memory_bytes / JOINED_SHARE, may_copy: false })
    }

    /// From now on [`Loaded::encoded`] is there where chunks can go as they are to a block with that window length and span.
    pub fn copy_chunks(&mut self, window_ms: i64, span: Span) {
        let fits = |i: &Input| i.mask.is_none() && i.reader.meta().window_ms == window_ms && span.covers(Span::of(i.reader.meta()));
        self.may_copy = self.inputs.iter().all(fits);
    }

    /// All metrics with their numbers of series and metadata.
    pub async fn families(&self) -> Result<Families> {
        let mut families = Families::new();
        for input in &self.inputs {
            let walked = input.reader.walk_names(|run| add(&mut families, run)).await;
            note(walked, input.reader.meta().ulid, &self.damages)?;
        }
        Ok(families)
    }

    /// Cuts a batch that has more than `max_series`.
    pub async fn parts(&self, batch: &Batch, max_series: u64) -> Result<Vec<Part>> {
        if batch.series <= max_series {
            return Ok(vec![Part::Whole]);
        }
        let parts = batch.series.div_ceil(max_series);
        let step = (batch.series / (parts * SAMPLES_PER_PART)).max(1);
        let seen = Mutex::new(Seen::default());
        for (number, input) in self.inputs.iter().enumerate() {
            let look = |group: usize, labels: LabelsRef<'_>| {
                seen.lock().add(number, group, without(labels, &self.replica_labels), step);
                false
            };
            let pick = Pick { names: &*batch.first..=&*batch.last, group: &|_| true, series: Some(&look) };
            note(input.reader.pick(&pick).await, input.reader.meta().ulid, &self.damages)?;
        }
        let Seen { sample, bounds, .. } = seen.into_inner();
        let cuts = Cuts::new(sample, parts as usize);
        let of = |(min, max): (Labels, Labels)| cuts.part_of(min.as_ref())..=cuts.part_of(max.as_ref());
        let parts = bounds.into_iter().map(|(group, bounds)| (group, of(bounds))).collect();
        let cut = Arc::new(Cut { parts, cuts });
        Ok((0..cut.cuts.parts()).map(|n| Part::Some(cut.clone(), n)).collect())
    }

    /// The series of a part and their exemplars in `range`.
    pub async fn load(&self, batch: &Batch, part: &Part, range: TimeRange) -> Result<Loaded> {
        let picks = self.inputs.iter().enumerate().map(|(number, input)| async move {
            let picked = self.pick(number, input, batch, part).await?;
            let id = input.reader.meta().ulid;
            let mut exemplars = note(picked.exemplars(range).await, id, &self.damages)?;
            if let Some(mask) = &input.mask {
                exemplars.iter_mut().for_each(|(labels, list)| mask.cut_exemplars(labels.as_ref(), list));
            }
            let set: Arc<dyn SeriesSet> = Arc::new(Noted { inner: picked.set(), block: id, damages: self.damages.clone() });
            Ok::<_, Error>((set, exemplars, EncodedInput::new(input.reader.meta(), picked)))
        });
        let picked: Vec<_> = stream::iter(picks.collect::<Vec<_>>()).buffered(CONCURRENT_BLOCKS).try_collect().await?;
        let bytes_per_series = self.bytes_per_series(picked.iter().map(|(set, ..)| set.len() as u64));
        let series = picked.iter().map(|(set, ..)| set.len() as u64).sum();
        let has_replicas = picked.iter().any(|(set, ..)| self.replica_labels.iter().any(|name| set.may_have_label(name)));
        let may_copy = self.may_copy && !has_replicas;
        let masks: Vec<_> = self.inputs.iter().map(|i| i.mask.clone()).collect();
        let (replica_labels, joined_bytes) = (self.replica_labels.clone(), self.joined_bytes);
        let merge = move || {
            let mut exemplars: HashMap<Labels, Vec<Exemplar>> = HashMap::new();
            let (mut sets, mut inputs) = (Vec::with_capacity(picked.len()), Vec::with_capacity(picked.len()));
            for ((set, of_set, input), mask) in picked.into_iter().zip(masks) {
                inputs.push(input);
                for (labels, list) in of_set.into_iter().filter(|(_, list)| !list.is_empty()) {
                    exemplars.entry(without(labels.as_ref(), &replica_labels)).or_default().extend(list);
                }
                if !set.is_empty() {
                    sets.push(mask.map_or(set.clone(), |mask| mask.apply(set)));
                }
            }
            exemplars.values_mut().for_each(in_order);
            let encoded = may_copy.then(|| Encoded::new(inputs)).flatten();
            // Where chunks are copied, nobody asks for the merged set.
            let set = merged_within(if encoded.is_some() { Vec::new() } else { sets }, &replica_labels, joined_bytes);
            (set, exemplars, encoded)
        };
        let (set, exemplars, encoded) = tokio::task::spawn_blocking(merge).await.map_err(|_| Error::Canceled)?;
        Ok(Loaded { set, exemplars, encoded, series, bytes_per_series })
    }

    async fn pick(&self, number: usize, input: &Input, batch: &Batch, part: &Part) -> Result<Picked> {
        let names = &*batch.first..=&*batch.last;
        let picked = match part {
            Part::Whole => input.reader.pick(&Pick { names, group: &|_| true, series: None }).await,
            Part::Some(cut, part) => {
                let group = |group: usize| cut.parts.get(&(number, group)).is_some_and(|parts| parts.contains(part));
                let series = |_, labels: LabelsRef<'_>| match labels_without(labels, &self.replica_labels) {
                    None => cut.cuts.part_of(labels) == *part,
                    Some(labels) => cut.cuts.part_of(labels.as_ref()) == *part,
                };
                input.reader.pick(&Pick { names, group: &group, series: Some(&series) }).await
            }
        };
        Ok(note(picked, input.reader.meta().ulid, &self.damages)?)
    }

    /// Blocks that have none of the series do not count.
    fn bytes_per_series(&self, picked: impl Iterator<Item = u64>) -> u64 {
        let of_block = |meta: &BlockMeta| meta.size_bytes / meta.series.max(1);
        self.inputs.iter().zip(picked).filter(|(_, series)| *series > 0).map(|(i, _)| of_block(i.reader.meta())).sum()
    }
}

/// What was seen of the labels of a metric.
#[derive(Default)]
struct Seen {
    series: u64,
    sample: Vec<Labels>,
    bounds: HashMap<(usize, usize), (Labels, Labels)>,
}

impl Seen {
    fn add(&mut self, input: usize, group: usize, labels: Labels, step: u64) {
        let (min, max) = self.bounds.entry((input, group)).or_insert_with(|| (labels.clone(), labels.clone()));
        if labels < *min {
            *min = labels.clone();
        } else if labels > *max {
            *max = labels.clone();
        }
        if self.series.is_multiple_of(step) {
            self.sample.push(labels);
        }
        self.series += 1;
    }
}

/// As [`without`], but `None` if nothing is to be removed.
fn labels_without(labels: LabelsRef<'_>, replica_labels: &[String]) -> Option<Labels> {
    replica_labels.iter().any(|name| labels.get(name).is_some()).then(|| without(labels, replica_labels))
}

/// Brings exemplars of several blocks and replicas into order of time, equal ones once.
fn in_order(exemplars: &mut Vec<Exemplar>) {
    exemplars.sort_by(|a, b| a.timestamp_ms.cmp(&b.timestamp_ms).then_with(|| a.labels.cmp(&b.labels)));
    exemplars.dedup_by(|a, b| a.timestamp_ms == b.timestamp_ms && a.labels == b.labels && a.value.to_bits() == b.value.to_bits());
}

/// Timestamps are looked at again and again, in the order of series: where they do not fit, each run decodes them anew.
fn caches(memory_bytes: u64) -> CacheConfig {
    CacheConfig { blocks_bytes: 0, series_bytes: memory_bytes / 16, chunk_index_bytes: memory_bytes / 4, chunks_bytes: memory_bytes / 32 }
}
