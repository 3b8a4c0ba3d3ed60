//! One series in the head: a short tail of raw samples, sealed chunks before it, and beside them what came out of order.
//!
//! Every part carries the epoch of the log that holds its samples, so that a cut can take what it covers and nothing else,
//! while writes go on.

use std::sync::Arc;

use isobar_block::histogram::Counts;
use isobar_block::{Histogram, Result, TimeRange};
use parking_lot::Mutex;

use super::chunk::{Chunk, Interner, Sealer, TimestampRun};

/// Raw samples of a tail, and of a small chunk.
pub const TAIL_SAMPLES: usize = 32;
/// Samples of a big chunk, which small ones are merged into.
pub const CHUNK_SAMPLES: usize = 128;
/// Out-of-order samples that are kept raw.
const LATE_SAMPLES: usize = 32;

/// What became of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is in the head.
    Stored,
    /// It was there already.
    Repeat,
    /// Another value has its timestamp.
    Conflict,
    /// It is older than the out-of-order window allows, which begins here.
    TooOld {
        /// The window's begin, Unix milliseconds.
        oldest_ms: i64,
    },
}

/// What appending needs to know.
pub struct AppendContext<'a> {
    /// Epoch of the log that the samples go to.
    pub epoch: u32,
    /// How much older than the newest sample of its series a sample may be.
    pub window_ms: i64,
    /// Where timestamps are shared.
    pub interner: &'a Mutex<Interner>,
    /// Makes chunks.
    pub sealer: &'a mut Sealer,
    /// Counts the memory that was taken.
    pub new_bytes: i64,
}

/// A series.
#[derive(Debug)]
pub struct Series {
    last_ms: i64,
    last_bits: u64,
    tail_base_ms: i64,
    tail: Vec<TailSample>,
    chunks: Vec<Chunk>,
    rare: Option<Box<Rare>>,
    tail_epoch: u32,
    /// The epoch in which the log was last told of the series.
    pub logged_epoch: u32,
    /// When a sample came last, Unix seconds.
    pub active_s: u32,
    /// Whether the series has left the head.
    pub gone: bool,
}

/// A raw sample, in twelve bytes.
#[derive(Clone, Copy, Debug)]
struct TailSample {
    /// Milliseconds after the tail's first sample.
    offset_ms: u32,
    /// The halves of the value's bits; as one they would need four bytes more to be aligned.
    bits: [u32; 2],
}

impl TailSample {
    #[inline]
    fn new(offset_ms: u32, value: f64) -> Self {
        let bits = value.to_bits();
        Self { offset_ms, bits: [bits as u32, (bits >> 32) as u32] }
    }

    #[inline]
    fn bits(self) -> u64 {
        u64::from(self.bits[0]) | u64::from(self.bits[1]) << 32
    }

    #[inline]
    fn value(self) -> f64 {
        f64::from_bits(self.bits())
    }
}

/// What most series do not have.
#[derive(Debug, Default)]
struct Rare {
    tail_histograms: Vec<(u32, Arc<Histogram>)>,
    last_histogram: Option<Arc<Histogram>>,
    late: Vec<Late>,
    late_epoch: u32,
    late_chunks: Vec<Chunk>,
}

/// An out-of-order sample.
#[derive(Clone, Debug)]
pub struct Late {
    /// When, Unix milliseconds.
    pub timestamp_ms: i64,
    /// As in a sample buffer.
    pub value: f64,
    /// As in a sample buffer.
    pub histogram: Option<Arc<Histogram>>,
}

impl Default for Series {
    fn default() -> Self {
        Self {
            last_ms: i64::MIN,
            last_bits: 0,
            tail_base_ms: 0,
            tail: Vec::new(),
            chunks: Vec::new(),
            rare: None,
            tail_epoch: 0,
            logged_epoch: 0,
            active_s: 0,
            gone: false,
        }
    }
}

impl Series {
    /// Asks the processor for what appending will touch. Call it when the series itself has been asked for some time ago.
    #[inline]
    pub fn prefetch_tail(&self) {
        super::page::prefetch(self.tail.as_ptr().wrapping_add(self.tail.len()));
    }

    /// Makes room for a whole tail, if there is none at all.
    #[inline]
    pub fn reserve_tail(&mut self) {
        if self.tail.capacity() == 0 {
            self.tail.reserve_exact(TAIL_SAMPLES);
        }
    }

    /// Whether a sample at that time would come out of order.
    #[inline]
    pub fn is_late(&self, timestamp_ms: i64) -> bool {
        timestamp_ms <= self.last_ms
    }

    /// Adds a float sample.
    #[inline]
    pub fn append(&mut self, timestamp_ms: i64, value: f64, context: &mut AppendContext<'_>) -> Verdict {
        if timestamp_ms <= self.last_ms {
            return self.append_late(timestamp_ms, value, None, context);
        }
        self.push_tail(timestamp_ms, value, context);
        if let Some(rare) = &mut self.rare {
            rare.last_histogram = None;
        }
        Verdict::Stored
    }

    /// Adds a native histogram.
    pub fn append_histogram(&mut self, timestamp_ms: i64, histogram: &Arc<Histogram>, context: &mut AppendContext<'_>) -> Verdict {
        if timestamp_ms <= self.last_ms {
            return self.append_late(timestamp_ms, histogram.sum, Some(histogram), context);
        }
        self.push_tail(timestamp_ms, histogram.sum, context);
        context.new_bytes += histogram_bytes(histogram);
        let at = self.tail.len() as u32 - 1;
        let rare = self.rare.get_or_insert_default();
        rare.tail_histograms.push((at, Arc::clone(histogram)));
        rare.last_histogram = Some(Arc::clone(histogram));
        Verdict::Stored
    }

    #[inline]
    fn push_tail(&mut self, timestamp_ms: i64, value: f64, context: &mut AppendContext<'_>) {
        let mut offset = timestamp_ms.wrapping_sub(self.tail_base_ms) as u64;
        let len = self.tail.len();
        if len == 0 || len >= TAIL_SAMPLES || self.tail_epoch != context.epoch || offset > u64::from(u32::MAX) {
            if len > 0 {
                self.seal_tail(context);
            }
            self.tail_base_ms = timestamp_ms;
            self.tail_epoch = context.epoch;
            offset = 0;
        }
        self.tail.push(TailSample::new(offset as u32, value));
        self.last_ms = timestamp_ms;
        self.last_bits = value.to_bits();
    }

    /// Makes a chunk of the tail, or a big one of the tail and the small ones before it.
    #[cold]
    fn seal_tail(&mut self, context: &mut AppendContext<'_>) {
        let mut from = self.chunks.len();
        let mut total = self.tail.len();
        while from > 0 && self.chunks[from - 1].epoch == self.tail_epoch && self.chunks[from - 1].samples() + total <= CHUNK_SAMPLES {
            from -= 1;
            total += self.chunks[from].samples();
        }
        context.sealer.unsealed.clear();
        if total < CHUNK_SAMPLES || !self.unseal(from, context) {
            from = self.chunks.len();
        }
        let unsealed = &mut context.sealer.unsealed;
        let base = unsealed.values.len() as u32;
        unsealed.millis.extend(self.tail.iter().map(|s| self.tail_base_ms + i64::from(s.offset_ms)));
        unsealed.values.extend(self.tail.iter().map(|s| s.value()));
        self.tail.clear();
        if let Some(rare) = &mut self.rare {
            context.new_bytes -= rare.tail_histograms.iter().map(|(_, h)| histogram_bytes(h)).sum::<i64>();
            unsealed.histograms.extend(rare.tail_histograms.drain(..).map(|(at, h)| (base + at, h)));
        }
        context.new_bytes -= self.chunks.drain(from..).map(|c| c.heap_bytes() as i64).sum::<i64>();
        let chunk = context.sealer.seal(context.interner, self.tail_epoch, &mut context.new_bytes);
        // Most series have few chunks, and there are many series: room to spare would be a good part of the memory.
        self.chunks.reserve_exact(1);
        self.chunks.push(chunk);
    }

    /// Decodes the chunks from `from` on. `false`, and nothing, if one cannot be decoded: then it stays as it is, and reading
    /// it gives the error.
    fn unseal(&self, from: usize, context: &mut AppendContext<'_>) -> bool {
        let unsealed = &mut context.sealer.unsealed;
        for chunk in &self.chunks[from..] {
            let base = unsealed.values.len();
            let decoded =
                chunk.times.decode(&mut unsealed.millis).and_then(|()| chunk.decode(base, &mut unsealed.values, &mut unsealed.histograms));
            if let Err(error) = decoded {
                tracing::error!(%error, "a chunk in memory cannot be decoded");
                unsealed.clear();
                return false;
            }
        }
        true
    }

    #[cold]
    fn append_late(
        &mut self,
        timestamp_ms: i64,
        value: f64,
        histogram: Option<&Arc<Histogram>>,
        context: &mut AppendContext<'_>,
    ) -> Verdict {
        let same = |bits: u64, other: Option<&Arc<Histogram>>| {
            let equal = bits == value.to_bits()
                && match (histogram, other) {
                    (None, None) => true,
                    // The sums were compared by their bits: a stale marker is a NaN, which no comparison finds equal.
                    (Some(a), Some(b)) => equal_but_sum(a, b),
                    _ => false,
                };
            if equal { Verdict::Repeat } else { Verdict::Conflict }
        };
        if timestamp_ms == self.last_ms && timestamp_ms != i64::MIN {
            return same(self.last_bits, self.rare.as_ref().and_then(|r| r.last_histogram.as_ref()));
        }
        match self.find(timestamp_ms) {
            Ok(Some((bits, other))) => return same(bits, other.as_ref()),
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "a chunk in memory cannot be decoded"),
        }
        let oldest_ms = self.last_ms.saturating_sub(context.window_ms);
        if timestamp_ms < oldest_ms || timestamp_ms == i64::MIN {
            return Verdict::TooOld { oldest_ms };
        }
        let rare = self.rare.get_or_insert_default();
        if rare.late.len() >= LATE_SAMPLES || (!rare.late.is_empty() && rare.late_epoch != context.epoch) {
            rare.seal_late(context);
        }
        rare.late_epoch = context.epoch;
        let at = rare.late.partition_point(|s| s.timestamp_ms < timestamp_ms);
        rare.late.insert(at, Late { timestamp_ms, value, histogram: histogram.cloned() });
        context.new_bytes += size_of::<Late>() as i64 + histogram.map_or(0, |h| histogram_bytes(h));
        Verdict::Stored
    }

    /// The sample at a timestamp, if the head has one.
    fn find(&self, timestamp_ms: i64) -> Result<Option<(u64, Option<Arc<Histogram>>)>> {
        if let Ok(offset) = u32::try_from(timestamp_ms.wrapping_sub(self.tail_base_ms))
            && let Ok(at) = self.tail.binary_search_by_key(&offset, |s| s.offset_ms)
        {
            let histograms = self.rare.as_ref().map_or(&[][..], |r| &r.tail_histograms);
            let histogram = histograms.iter().find(|(i, _)| *i as usize == at).map(|(_, h)| Arc::clone(h));
            return Ok(Some((self.tail[at].bits(), histogram)));
        }
        let range = TimeRange::new(timestamp_ms, timestamp_ms)?;
        let at = self.chunks.partition_point(|c| c.times.last_ms < timestamp_ms);
        let in_order = self.chunks.get(at).filter(|c| c.times.overlaps(range));
        let late_chunks = self.rare.as_ref().map_or(&[][..], |r| &r.late_chunks);
        for chunk in in_order.into_iter().chain(late_chunks.iter().filter(|c| c.times.overlaps(range))) {
            let mut millis = Vec::with_capacity(chunk.samples());
            chunk.times.decode(&mut millis)?;
            if let Ok(at) = millis.binary_search(&timestamp_ms) {
                let (mut values, mut histograms) = (Vec::with_capacity(chunk.samples()), Vec::new());
                chunk.decode(0, &mut values, &mut histograms)?;
                let histogram = histograms.into_iter().find(|(i, _)| *i as usize == at).map(|(_, h)| h);
                return Ok(Some((values[at].to_bits(), histogram)));
            }
        }
        let late = self.rare.as_ref().map_or(&[][..], |r| &r.late);
        let found = late.binary_search_by_key(&timestamp_ms, |s| s.timestamp_ms).ok().map(|at| &late[at]);
        Ok(found.map(|s| (s.value.to_bits(), s.histogram.clone())))
    }

    /// First and last timestamp of what is in the head.
    pub fn time_bounds(&self) -> Option<(i64, i64)> {
        let mut bounds: Option<(i64, i64)> = None;
        let mut add = |first: i64, last: i64| bounds = Some(bounds.map_or((first, last), |(a, b)| (a.min(first), b.max(last))));
        if let (Some(first), Some(last)) = (self.chunks.first(), self.chunks.last()) {
            add(first.times.first_ms, last.times.last_ms);
        }
        if let (Some(first), Some(last)) = (self.tail.first(), self.tail.last()) {
            add(self.tail_base_ms + i64::from(first.offset_ms), self.tail_base_ms + i64::from(last.offset_ms));
        }
        if let Some(rare) = &self.rare {
            rare.late_chunks.iter().for_each(|c| add(c.times.first_ms, c.times.last_ms));
            rare.late.iter().for_each(|s| add(s.timestamp_ms, s.timestamp_ms));
        }
        bounds
    }

    /// Whether what is in the head may reach into `range`.
    pub fn has_samples(&self, range: TimeRange) -> bool {
        self.time_bounds().is_some_and(|(first, last)| first <= range.end_ms() && range.start_ms() <= last)
    }

    /// Number of sealed chunks.
    pub fn chunks(&self) -> usize {
        self.chunks.len() + self.rare.as_ref().map_or(0, |r| r.late_chunks.len())
    }

    /// Whether the head holds nothing of the series but its name.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.tail.is_empty() && self.rare.as_ref().is_none_or(|r| r.late.is_empty() && r.late_chunks.is_empty())
    }

    /// Adds what lies in `range`, from epochs up to `max_epoch`, to `out`. Whole chunks are taken.
    pub fn collect(&self, range: TimeRange, max_epoch: u32, out: &mut Collected) -> Result<()> {
        for chunk in self.chunks.iter().filter(|c| c.epoch <= max_epoch && c.times.overlaps(range)) {
            out.push_chunk(chunk)?;
        }
        if !self.tail.is_empty() && self.tail_epoch <= max_epoch {
            let base = out.values.len() as u32;
            out.tail_base_ms = self.tail_base_ms;
            out.tail_offsets.extend(self.tail.iter().map(|s| s.offset_ms));
            out.values.extend(self.tail.iter().map(|s| s.value()));
            if let Some(rare) = &self.rare {
                out.histograms.extend(rare.tail_histograms.iter().map(|(at, h)| (base + at, Arc::clone(h))));
            }
        }
        if let Some(rare) = &self.rare {
            for chunk in rare.late_chunks.iter().filter(|c| c.epoch <= max_epoch && c.times.overlaps(range)) {
                out.push_late_chunk(chunk)?;
            }
            if rare.late_epoch <= max_epoch {
                out.late.extend(rare.late.iter().cloned());
            }
        }
        Ok(())
    }

    /// Forgets what belongs to epochs up to `max_epoch`, and returns how much memory that frees.
    pub fn drop_through(&mut self, max_epoch: u32) -> i64 {
        let mut freed = 0;
        let mut keep = |chunk: &Chunk| {
            let kept = chunk.epoch > max_epoch;
            freed += if kept { 0 } else { chunk.heap_bytes() as i64 };
            kept
        };
        self.chunks.retain(&mut keep);
        self.chunks.shrink_to(4);
        if let Some(rare) = &mut self.rare {
            rare.late_chunks.retain(&mut keep);
            if rare.late_epoch <= max_epoch {
                freed +=
                    rare.late.drain(..).map(|s| size_of::<Late>() as i64 + s.histogram.map_or(0, |h| histogram_bytes(&h))).sum::<i64>();
            }
        }
        if self.tail_epoch <= max_epoch {
            self.tail.clear();
            if let Some(rare) = &mut self.rare {
                freed += rare.tail_histograms.drain(..).map(|(_, h)| histogram_bytes(&h)).sum::<i64>();
            }
        }
        if self.rare.as_ref().is_some_and(|r| r.is_empty()) {
            self.rare = None;
        }
        freed
    }

    /// Gives back the memory of a series that leaves the head.
    pub fn retire(&mut self) {
        *self = Self { gone: true, ..Self::default() };
    }
}

impl Rare {
    fn is_empty(&self) -> bool {
        self.last_histogram.is_none() && self.tail_histograms.is_empty() && self.late.is_empty() && self.late_chunks.is_empty()
    }

    fn seal_late(&mut self, context: &mut AppendContext<'_>) {
        let unsealed = &mut context.sealer.unsealed;
        unsealed.clear();
        for (at, sample) in self.late.drain(..).enumerate() {
            context.new_bytes -= size_of::<Late>() as i64 + sample.histogram.as_ref().map_or(0, |h| histogram_bytes(h));
            unsealed.millis.push(sample.timestamp_ms);
            unsealed.values.push(sample.value);
            unsealed.histograms.extend(sample.histogram.map(|h| (at as u32, h)));
        }
        let chunk = context.sealer.seal(context.interner, self.late_epoch, &mut context.new_bytes);
        self.late_chunks.push(chunk);
    }
}

fn histogram_bytes(histogram: &Histogram) -> i64 {
    let buckets = match &histogram.counts {
        Counts::Integer { positive, negative, .. } => positive.len() + negative.len(),
        Counts::Float { positive, negative, .. } => positive.len() + negative.len(),
    };
    let spans = histogram.positive_spans.len() + histogram.negative_spans.len();
    (size_of::<Histogram>() + 8 * (buckets + spans + histogram.custom_bounds.len())) as i64
}

/// Floats are compared by their bits: a NaN is equal to itself here.
fn equal_but_sum(a: &Histogram, b: &Histogram) -> bool {
    let same = |x: &[f64], y: &[f64]| x.len() == y.len() && x.iter().zip(y).all(|(x, y)| x.to_bits() == y.to_bits());
    let counts = match (&a.counts, &b.counts) {
        (
            Counts::Float { count, zero, positive, negative },
            Counts::Float { count: other_count, zero: other_zero, positive: other_positive, negative: other_negative },
        ) => same(&[*count, *zero], &[*other_count, *other_zero]) && same(positive, other_positive) && same(negative, other_negative),
        (x, y) => x == y,
    };
    counts
        && a.reset_hint == b.reset_hint
        && a.schema == b.schema
        && a.zero_threshold.to_bits() == b.zero_threshold.to_bits()
        && a.positive_spans == b.positive_spans
        && a.negative_spans == b.negative_spans
        && same(&a.custom_bounds, &b.custom_bounds)
}

/// Samples of one series as they are stored, before their timestamps are decoded.
#[derive(Debug, Default)]
pub struct Collected {
    /// Timestamps of all values but those of the tail.
    pub runs: Vec<Arc<TimestampRun>>,
    /// What [`Collected::tail_offsets`] count from.
    pub tail_base_ms: i64,
    /// Timestamps of the last values.
    pub tail_offsets: Vec<u32>,
    /// As in a sample buffer, but for late samples.
    pub values: Vec<f64>,
    /// As in a sample buffer, but for late samples.
    pub histograms: Vec<(u32, Arc<Histogram>)>,
    /// Out-of-order samples, in no order.
    pub late: Vec<Late>,
}

impl Collected {
    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.tail_base_ms = 0;
        self.tail_offsets.clear();
        self.values.clear();
        self.histograms.clear();
        self.late.clear();
    }

    fn push_chunk(&mut self, chunk: &Chunk) -> Result<()> {
        self.runs.push(Arc::clone(&chunk.times));
        chunk.decode(self.values.len(), &mut self.values, &mut self.histograms)
    }

    fn push_late_chunk(&mut self, chunk: &Chunk) -> Result<()> {
        let (mut millis, mut values, mut histograms) = (Vec::new(), Vec::new(), Vec::new());
        chunk.times.decode(&mut millis)?;
        chunk.decode(0, &mut values, &mut histograms)?;
        let base = self.late.len();
        self.late.extend(millis.iter().zip(&values).map(|(t, v)| Late { timestamp_ms: *t, value: *v, histogram: None }));
        for (at, histogram) in histograms {
            self.late[base + at as usize].histogram = Some(histogram);
        }
        Ok(())
    }

    /// Decodes the timestamps of all values but late ones.
    pub fn decode_times(&self, out: &mut Vec<i64>) -> Result<()> {
        for run in &self.runs {
            run.decode(out)?;
        }
        out.extend(self.tail_offsets.iter().map(|o| self.tail_base_ms + i64::from(*o)));
        Ok(())
    }
}
