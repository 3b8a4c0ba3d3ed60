//! From downsampled blocks to bigger ones of the same resolution, without what is deleted.

use std::ops::Range;
use std::sync::Arc;

use futures::future::try_join_all;
use hashbrown::HashMap;
use isobar_block::cache::{CacheConfig, SharedCaches};
use isobar_block::reader::{BucketRun, Pick, RollupSet};
use isobar_block::resolution::widened;
use isobar_block::writer::Bucket;
use isobar_block::{BlockId, BlockMeta, BlockReader, Histogram, LabelsRef, Matcher, Metadata, SampleBuf, SeriesSet, TimeRange, Timestamps};

use super::aggregate::{continued, increase};
use super::output::Outputs;
use super::{Downsampling, due};
use crate::error::{Error, Result};
use crate::plan::Span;
use crate::rewrite::{Damages, Families, batches, note};

/// Series whose buckets are loaded at a time, of each block.
pub(super) const RUN_SERIES: usize = 64;

/// A block that is merged.
pub(super) struct Input {
    pub reader: Arc<BlockReader>,
    /// Spans of newer blocks that answer in its place.
    outdated: Vec<Span>,
    deleted: Vec<(Vec<Vec<Matcher>>, TimeRange)>,
}

/// Where the merge is in the series of one block.
struct Cursor<'a> {
    input: &'a Input,
    set: Arc<RollupSet>,
    next: usize,
    loaded: Range<usize>,
    run: Option<BucketRun>,
}

/// What a series has in one block.
pub(super) struct Series {
    buckets: Vec<Kept>,
    histograms: Vec<(i64, Arc<Histogram>)>,
}

/// A bucket that is left.
pub(super) struct Kept {
    bucket: Bucket,
    /// Whether its increase counts from its own first sample, because nothing is left before it in its block.
    begins: bool,
}

impl Downsampling {
    pub(super) async fn merge(
        &self,
        (span, level): (Span, u32),
        inputs: &[Arc<BlockMeta>],
        damages: &Damages,
        outputs: &mut Outputs,
    ) -> Result<Vec<BlockMeta>> {
        let first = &inputs[0];
        if inputs.iter().any(|b| b.resolution_ms != first.resolution_ms) {
            return Err(Error::Invalid { what: "downsampled blocks", reason: "blocks of several resolutions cannot be merged".into() });
        }
        outputs.add(self.template(inputs, span, level, first.resolution_ms), span);
        self.control.begin(inputs.iter().map(|b| b.series).sum());
        let opened = self.open(inputs, damages).await?;
        let mut families = Families::new();
        for input in &opened {
            let walked = input.reader.walk_names(|run| crate::rewrite::add_family(&mut families, run)).await;
            note(walked, input.reader.meta().ulid, damages)?;
        }
        for batch in batches(&families, self.reading(inputs).max_series()) {
            let mut cursors = Vec::with_capacity(opened.len());
            for input in &opened {
                let pick = Pick { names: &*batch.first..=&*batch.last, group: &|_| true, series: None };
                let picked = note(input.reader.pick(&pick).await, input.reader.meta().ulid, damages)?;
                let set = picked.buckets().ok_or_else(|| no_buckets(input.reader.meta().ulid))?;
                cursors.push(Cursor { input, set, next: 0, loaded: 0..0, run: None });
            }
            self.merge_batch(cursors, &families, damages, outputs).await?;
        }
        outputs.finish(None).await
    }

    pub(super) async fn open(&self, inputs: &[Arc<BlockMeta>], damages: &Damages) -> Result<Vec<Input>> {
        let part = self.memory_bytes / 32;
        let caches =
            SharedCaches::new(&CacheConfig { blocks_bytes: 0, series_bytes: part, chunk_index_bytes: part, chunks_bytes: 4 * part });
        let open = inputs.iter().map(|meta| async {
            let opened = BlockReader::open_shared(self.objects.clone(), &self.tenant, meta.clone(), &caches).await;
            let reader = Arc::new(note(opened, meta.ulid, damages)?);
            let newer = inputs.iter().filter(|other| other.precedence_ms > meta.precedence_ms);
            let outdated = newer.filter_map(|other| due::span_of(other)).collect();
            let applying = widened(&self.state.tombstones, meta.resolution_ms).into_iter().filter(|t| t.applies_to(meta));
            let deleted = applying.map(|t| Ok((t.matchers()?, TimeRange::new(t.min_time_ms, t.max_time_ms)?)));
            Ok::<_, Error>(Input { reader, outdated, deleted: deleted.collect::<Result<_>>()? })
        });
        try_join_all(open).await
    }

    async fn merge_batch(&self, mut cursors: Vec<Cursor<'_>>, families: &Families, damages: &Damages, outputs: &mut Outputs) -> Result<()> {
        while let Some(labels) = cursors.iter().filter_map(Cursor::labels).min().map(LabelsRef::to_owned) {
            self.control.check()?;
            // Blocks come in order of precedence, those of one series in order of time.
            let mut parts: Vec<Series> = Vec::with_capacity(cursors.len());
            for cursor in &mut cursors {
                if cursor.labels() == Some(labels.as_ref()) {
                    parts.push(cursor.take(damages).await?);
                    self.control.add_series(1);
                }
            }
            let (buckets, histograms) = joined(parts);
            self.control.add_samples(buckets.len() as u64);
            let metadata: Option<&Metadata> = families.get(labels.as_ref().metric_name()).and_then(|f| f.metadata.as_ref());
            let mut writers = outputs.take()?;
            writers.push(0, &labels, metadata, &buckets, &histograms)?;
            outputs.put_back(writers).await?;
        }
        Ok(())
    }
}

pub(super) fn no_buckets(block: BlockId) -> Error {
    Error::Invalid { what: "downsampled block", reason: format!("block {block} holds raw samples") }
}

impl Cursor<'_> {
    fn labels(&self) -> Option<LabelsRef<'_>> {
        (self.next < self.set.len()).then(|| self.set.labels(self.next))
    }

    /// What is left of the next series.
    async fn take(&mut self, damages: &Damages) -> Result<Series> {
        let (row, block) = (self.next, self.input.reader.meta().ulid);
        if !self.loaded.contains(&row) {
            self.loaded = row..self.set.len().min(row + RUN_SERIES);
            self.run = Some(note(self.set.load_buckets(self.loaded.clone()).await, block, damages)?);
        }
        let run = self.run.as_mut().expect("it was loaded just now, or before");
        let series = note(self.input.read(&self.set, run, row), block, damages)?;
        self.next += 1;
        if self.next == self.loaded.end {
            self.run = None;
        }
        Ok(series)
    }
}

impl Input {
    /// What is left of a series of the block.
    pub(super) fn read(&self, set: &RollupSet, run: &mut BucketRun, row: usize) -> isobar_block::Result<Series> {
        let (mut buckets, mut histograms) = (Vec::new(), SampleBuf::default());
        run.read(row, &mut buckets, &mut histograms)?;
        let labels = set.labels(row);
        let matching = |selectors: &[Vec<Matcher>]| selectors.iter().any(|s| Matcher::all_match(s, labels));
        let deleted: Vec<TimeRange> = self.deleted.iter().filter(|(s, _)| matching(s)).map(|(_, range)| *range).collect();
        let is_left = |t: i64| !deleted.iter().any(|d| d.contains(t)) && !self.outdated.iter().any(|span| span.contains(t));
        let mut kept: Vec<Kept> = Vec::with_capacity(buckets.len());
        for (i, bucket) in buckets.iter().enumerate().filter(|(_, b)| is_left(b.last_ms)) {
            let before = i.checked_sub(1).map(|before| buckets[before]);
            let lost = before.filter(|before| !is_left(before.last_ms));
            let mut bucket = *bucket;
            if let Some(lost) = lost {
                bucket.increase -= increase(lost.last, bucket.first);
            }
            kept.push(Kept { bucket, begins: before.is_none() || lost.is_some() });
        }
        let times = histograms.histograms.iter().map(|(i, h)| (histograms.timestamps[*i as usize], h.clone()));
        let histograms = times.filter(|(t, _)| is_left(*t)).collect();
        Ok(Series { buckets: kept, histograms })
    }
}

/// The parts of one series as one. Of two buckets of one time that of the later part counts, unless it begins where the earlier
/// one has ended: then they are added up.
pub(super) fn joined(parts: Vec<Series>) -> (Vec<Bucket>, SampleBuf) {
    let mut kept: Vec<Kept> = Vec::new();
    let mut histograms: HashMap<i64, Arc<Histogram>> = HashMap::new();
    for part in parts {
        kept.extend(part.buckets);
        histograms.extend(part.histograms);
    }
    kept.sort_by_key(|k| k.bucket.start_ms);
    let mut buckets: Vec<Bucket> = Vec::with_capacity(kept.len());
    for Kept { mut bucket, begins } in kept {
        match buckets.pop_if(|last| last.start_ms == bucket.start_ms) {
            Some(earlier) if begins && earlier.last_ms < bucket.first_ms => bucket = sum(&earlier, &bucket),
            _ => {
                if let Some(before) = buckets.last().filter(|_| begins) {
                    bucket.increase = continued(before.last, &bucket);
                }
            }
        }
        buckets.push(bucket);
    }
    let mut histograms: Vec<_> = histograms.into_iter().collect();
    histograms.sort_by_key(|(t, _)| *t);
    let out = SampleBuf {
        timestamps: Timestamps::unshared(histograms.iter().map(|(t, _)| *t).collect()),
        values: histograms.iter().map(|(_, h)| h.sum).collect(),
        histograms: histograms.into_iter().enumerate().map(|(i, (_, h))| (i as u32, h)).collect(),
        counts: Vec::new(),
    };
    (buckets, out)
}

/// A bucket of which a part is one series and the rest another that goes on from there.
fn sum(earlier: &Bucket, later: &Bucket) -> Bucket {
    Bucket {
        count: earlier.count.saturating_add(later.count),
        sum: earlier.sum + later.sum,
        min: earlier.min.min(later.min),
        max: earlier.max.max(later.max),
        first: earlier.first,
        first_ms: earlier.first_ms,
        increase: earlier.increase + continued(earlier.last, later),
        ..*later
    }
}
