//! Cuts series into windows, encodes the chunks, and finds out which series have the same timestamps.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use crate::codec::{encode_histograms, encode_timestamps, encode_values};
use crate::sample::SampleBuf;
use crate::writer::MAX_SAMPLES_PER_CHUNK;
use crate::writer::bytes::Bytes;
use crate::{Histogram, Timestamps};

/// Kind of a chunk of floats.
pub(crate) const KIND_FLOAT: u8 = 0;
/// Kind of a chunk of native histograms.
pub(crate) const KIND_HISTOGRAM: u8 = 1;

/// What a chunk takes beside its bytes: its numbers, in lists that grow by doubling.
const CHUNK_BYTES: usize = 27;
/// What a timestamp vector takes beside its bytes: row, place by hash, lists that grow by doubling.
const TIMES_ROW_BYTES: usize = 100;
/// What the id of a shared timestamp vector takes.
const TIMES_ID_BYTES: usize = 40;

/// All chunks of a block, by window.
pub(crate) struct ChunkTable {
    window_ms: i64,
    pub windows: BTreeMap<i64, Window>,
    pub samples: u64,
    pub histograms: u64,
}

/// The chunks of one window, in order of series.
#[derive(Default)]
pub(crate) struct Window {
    pub times: TimesTable,
    pub series: Vec<u32>,
    /// For each chunk the row in `times`.
    pub times_rows: Vec<u32>,
    pub kinds: Vec<u8>,
    pub codecs: Vec<u8>,
    pub data: Bytes,
}

/// The different timestamp vectors of a window, each stored once.
#[derive(Default)]
pub(crate) struct TimesTable {
    pub rows: Vec<TimesRow>,
    pub data: Bytes,
    /// Rows by the hash of the timestamps.
    by_hash: HashTable<(u64, u32)>,
    /// Rows by the id that [`Timestamps::shared`] gave, and the part of that vector that lies in the window.
    by_id: HashMap<(u64, u32, u32), u32>,
    hasher: DefaultHashBuilder,
    scratch: Vec<u8>,
}

/// One timestamp vector.
pub(crate) struct TimesRow {
    pub min_ms: i64,
    pub max_ms: i64,
    pub count: u32,
    /// How many chunks have it.
    pub uses: u32,
}

impl ChunkTable {
    pub fn new(window_ms: i64) -> Self {
        Self { window_ms, windows: BTreeMap::new(), samples: 0, histograms: 0 }
    }

    /// About what the chunks take in memory.
    pub fn encoded_bytes(&self) -> usize {
        self.windows.values().map(|w| w.data.size() + CHUNK_BYTES * w.series.len() + w.times.memory_bytes()).sum()
    }

    /// Adds the samples of a series, which were checked before.
    pub fn push(&mut self, series: u32, samples: &SampleBuf) {
        self.histograms += samples.histograms.len() as u64;
        self.samples += (samples.len() - samples.histograms.len()) as u64;
        let times: &[i64] = &samples.timestamps;
        let mut start = 0;
        while start < times.len() {
            let window_start = times[start].div_euclid(self.window_ms).saturating_mul(self.window_ms);
            let in_window = times[start..].partition_point(|t| t.saturating_sub(window_start) < self.window_ms).max(1);
            let window = self.windows.entry(window_start).or_default();
            for part in (start..start + in_window).step_by(MAX_SAMPLES_PER_CHUNK) {
                window.push(series, samples, part..(part + MAX_SAMPLES_PER_CHUNK).min(start + in_window));
            }
            start += in_window;
        }
    }
}

/// A chunk as it stands in a block, with its timestamps decoded.
#[derive(Clone)]
pub struct EncodedChunk<'a> {
    pub(crate) timestamps: Timestamps,
    pub(crate) kind: u8,
    pub(crate) codec: u8,
    pub(crate) data: &'a [u8],
}

impl EncodedChunk<'_> {
    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.timestamps.len()
    }

    /// The first and the last timestamp; `None` if there is none, which is no chunk that a block may hold.
    pub fn time_range_ms(&self) -> Option<(i64, i64)> {
        self.timestamps.first().copied().zip(self.timestamps.last().copied())
    }
}

impl ChunkTable {
    /// Start of the only window that all of a chunk lies in.
    pub fn window_of(&self, chunk: &EncodedChunk<'_>) -> Option<i64> {
        let (first_ms, last_ms) = chunk.time_range_ms()?;
        let start_ms = first_ms.div_euclid(self.window_ms).saturating_mul(self.window_ms);
        (last_ms.saturating_sub(start_ms) < self.window_ms).then_some(start_ms)
    }

    /// Adds a chunk of a series, which was checked before.
    pub fn push_encoded(&mut self, series: u32, window_start_ms: i64, chunk: &EncodedChunk<'_>) {
        let samples = chunk.timestamps.len() as u64;
        if chunk.kind == KIND_HISTOGRAM {
            self.histograms += samples;
        } else {
            self.samples += samples;
        }
        let window = self.windows.entry(window_start_ms).or_default();
        let times = window.times.add(&chunk.timestamps, 0..chunk.timestamps.len());
        window.data.buffer().extend_from_slice(chunk.data);
        window.push_row(series, times, chunk.kind, chunk.codec);
    }
}

impl Window {
    fn push(&mut self, series: u32, samples: &SampleBuf, range: Range<usize>) {
        let first = samples.histograms.partition_point(|(i, _)| (*i as usize) < range.start);
        let last = samples.histograms.partition_point(|(i, _)| (*i as usize) < range.end);
        let histograms = &samples.histograms[first..last];
        if histograms.is_empty() {
            let times = self.times.add(&samples.timestamps, range.clone());
            self.push_floats(series, times, &samples.values[range]);
        } else if histograms.len() == range.len() {
            let times = self.times.add(&samples.timestamps, range);
            self.push_histograms(series, times, histograms);
        } else {
            self.push_mixed(series, samples, range, histograms);
        }
    }

    /// Floats and histograms in one window become a chunk each.
    fn push_mixed(&mut self, series: u32, samples: &SampleBuf, range: Range<usize>, histograms: &[(u32, Arc<Histogram>)]) {
        let mut times = [Vec::new(), Vec::new()];
        let mut floats = Vec::with_capacity(range.len() - histograms.len());
        let mut next = histograms.iter().map(|(i, _)| *i as usize).peekable();
        for i in range {
            let is_histogram = next.next_if_eq(&i).is_some();
            times[usize::from(is_histogram)].push(samples.timestamps[i]);
            if !is_histogram {
                floats.push(samples.values[i]);
            }
        }
        let [float_times, histogram_times] = times.map(Timestamps::unshared);
        let row = self.times.add(&float_times, 0..float_times.len());
        self.push_floats(series, row, &floats);
        let row = self.times.add(&histogram_times, 0..histogram_times.len());
        self.push_histograms(series, row, histograms);
    }

    fn push_floats(&mut self, series: u32, times: u32, values: &[f64]) {
        let codec = encode_values(values, self.data.buffer());
        self.push_row(series, times, KIND_FLOAT, codec as u8);
    }

    fn push_histograms(&mut self, series: u32, times: u32, histograms: &[(u32, Arc<Histogram>)]) {
        let histograms: Vec<&Histogram> = histograms.iter().map(|(_, h)| &**h).collect();
        encode_histograms(&histograms, self.data.buffer());
        self.push_row(series, times, KIND_HISTOGRAM, 0);
    }

    fn push_row(&mut self, series: u32, times: u32, kind: u8, codec: u8) {
        self.data.end_item();
        self.series.push(series);
        self.times_rows.push(times);
        self.kinds.push(kind);
        self.codecs.push(codec);
    }
}

impl TimesTable {
    fn memory_bytes(&self) -> usize {
        self.data.size() + TIMES_ROW_BYTES * self.rows.len() + TIMES_ID_BYTES * self.by_id.len()
    }

    /// The row of `times[range]`, added if it is new.
    fn add(&mut self, times: &Timestamps, range: Range<usize>) -> u32 {
        let by_id = (times.id(), range.start as u32, range.end as u32);
        if times.id() != 0
            && let Some(row) = self.by_id.get(&by_id)
        {
            self.rows[*row as usize].uses += 1;
            return *row;
        }
        let row = self.add_by_value(&times[range]);
        if times.id() != 0 {
            self.by_id.insert(by_id, row);
        }
        row
    }

    fn add_by_value(&mut self, times: &[i64]) -> u32 {
        let hash = self.hasher.hash_one(times);
        self.scratch.clear();
        encode_timestamps(times, &mut self.scratch);
        let (rows, data, scratch) = (&self.rows, &self.data, &self.scratch);
        let same = |(h, row): &(u64, u32)| {
            *h == hash && rows[*row as usize].count as usize == times.len() && data.get(*row as usize) == scratch.as_slice()
        };
        if let Some((_, row)) = self.by_hash.find(hash, same) {
            let row = *row;
            self.rows[row as usize].uses += 1;
            return row;
        }
        let row = self.rows.len() as u32;
        let (min_ms, max_ms) = (times[0], times[times.len() - 1]);
        self.rows.push(TimesRow { min_ms, max_ms, count: times.len() as u32, uses: 1 });
        self.data.buffer().extend_from_slice(&self.scratch);
        self.data.end_item();
        self.by_hash.insert_unique(hash, (hash, row), |(h, _)| *h);
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buf(times: Timestamps) -> SampleBuf {
        let values = (0..times.len()).map(|i| i as f64).collect();
        SampleBuf { timestamps: times, values, histograms: Vec::new(), counts: Vec::new() }
    }

    #[test]
    fn equal_timestamps_are_stored_once_and_windows_are_aligned() {
        let mut table = ChunkTable::new(100);
        let shared = Timestamps::shared(vec![-1, 0, 50, 99, 100, 250]);
        table.push(0, &buf(shared.clone()));
        table.push(1, &buf(shared));
        table.push(2, &buf(Timestamps::unshared(vec![0, 50, 99])));
        table.push(3, &buf(Timestamps::unshared(vec![0, 51, 99])));
        assert_eq!(table.windows.keys().copied().collect::<Vec<_>>(), [-100, 0, 100, 200]);
        let window = &table.windows[&0];
        assert_eq!(window.series, [0, 1, 2, 3]);
        assert_eq!(window.times_rows, [0, 0, 0, 1]);
        assert_eq!(window.times.rows.iter().map(|r| r.uses).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(table.samples, 18);
    }

    #[test]
    fn extreme_timestamps_do_not_overflow() {
        let mut table = ChunkTable::new(7_200_000);
        table.push(0, &buf(Timestamps::unshared(vec![i64::MIN, 0, i64::MAX])));
        assert_eq!(table.windows.len(), 3);
        assert_eq!(table.windows.values().map(|w| w.series.len()).sum::<usize>(), 3);
    }
}
