//! Selected series of a block, and the chunks of a run of them, loaded and decoded.

mod encoded;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::cache::{Caches, ConcatKey};
use crate::codec::{ValueCodec, decode_histograms, decode_values};
use crate::reader::chunks::{ChunkGroup, DataPage, TimesGroup};
use crate::reader::select::Selection;
use crate::reader::series::{LabelArena, SeriesGroup};
use crate::reader::{BlockReader, ChunkGroupInfo};
use crate::writer::{KIND_FLOAT, KIND_HISTOGRAM};
use crate::{Error, LabelsRef, Result, SampleBuf, SeriesRun, SeriesSet, TimeRange, Timestamps};

pub use encoded::EncodedRun;

/// If at least this share (1/n) of a group is selected, the label sets of the whole group are made and cached; otherwise only
/// those of the selected rows, for this selection.
pub(super) const WHOLE_ARENA_SHARE: usize = 8;

/// Selected series of one row group.
pub(super) struct Segment {
    group: Arc<SeriesGroup>,
    selection: Selection,
    arena: Arc<LabelArena>,
    arena_is_whole: bool,
}

impl Segment {
    pub fn new(group: Arc<SeriesGroup>, selection: Selection, arena: Arc<LabelArena>, arena_is_whole: bool) -> Self {
        Self { group, selection, arena, arena_is_whole }
    }

    pub fn is_empty(&self) -> bool {
        self.selection.is_empty()
    }

    fn labels(&self, i: usize) -> LabelsRef<'_> {
        self.arena.get(if self.arena_is_whole { self.selection.row(i) } else { i })
    }

    fn series(&self, i: usize) -> u32 {
        self.group.first_row() + self.selection.row(i) as u32
    }
}

/// Selected series of a block.
pub(super) struct BlockSet {
    reader: Arc<BlockReader>,
    segments: Vec<Segment>,
    /// Position of each segment's first series.
    starts: Vec<usize>,
    len: usize,
}

impl BlockSet {
    pub fn new(reader: Arc<BlockReader>, segments: Vec<Segment>) -> Self {
        let mut starts = Vec::with_capacity(segments.len());
        let mut len = 0;
        for segment in &segments {
            starts.push(len);
            len += segment.selection.len();
        }
        Self { reader, segments, starts, len }
    }

    fn find(&self, row: usize) -> (&Segment, usize) {
        assert!(row < self.len, "row {row} of a set of {} series", self.len);
        let i = self.starts.partition_point(|start| *start <= row) - 1;
        (&self.segments[i], row - self.starts[i])
    }

    /// Numbers of the series in the block, ascending.
    pub fn series(&self, rows: Range<usize>) -> Vec<u32> {
        rows.map(|row| self.find(row)).map(|(segment, i)| segment.series(i)).collect()
    }
}

#[async_trait]
impl SeriesSet for BlockSet {
    fn len(&self) -> usize {
        self.len
    }

    fn labels(&self, row: usize) -> LabelsRef<'_> {
        let (segment, i) = self.find(row);
        segment.labels(i)
    }

    fn may_have_label(&self, name: &str) -> bool {
        self.segments.iter().any(|s| s.group.column(name).is_some() || s.group.has_in_rest(name))
    }

    async fn load(&self, rows: Range<usize>, range: TimeRange) -> Result<Box<dyn SeriesRun>> {
        Ok(Box::new(self.load_run(rows, range).await?))
    }
}

impl ChunkGroupInfo {
    fn may_hold(&self, wanted: &[u32], range: TimeRange, window_ms: i64) -> bool {
        let last_ms = self.window_start_ms.saturating_add(window_ms - 1);
        let in_time = self.window_start_ms <= range.end_ms() && range.start_ms() <= last_ms;
        let next = wanted.partition_point(|s| *s < self.first_series);
        in_time && wanted.get(next).is_some_and(|s| *s <= self.last_series)
    }
}

/// Where the chunks of a run are.
#[derive(Default)]
struct Found {
    chunks: Vec<(u32, ChunkRef)>,
    pages: Vec<(usize, usize)>,
    times: Vec<Arc<TimesGroup>>,
}

#[derive(Clone, Copy)]
struct ChunkRef {
    page: u32,
    in_page: u32,
    /// First row of the group of timestamps; once all are loaded, its place among them.
    times_group: u32,
    times: u32,
    kind: u8,
    codec: u8,
}

impl ChunkGroup {
    /// The chunks of the wanted series, as (place in `wanted`, chunk).
    fn find(&self, wanted: &[u32]) -> Vec<(u32, u32)> {
        let mut hits = Vec::with_capacity(wanted.len());
        let mut chunk = 0;
        for (place, series) in wanted.iter().enumerate() {
            // Mostly the next chunk is that of the next series.
            if self.series.get(chunk).is_some_and(|s| s < series) {
                chunk += self.series[chunk..].partition_point(|s| s < series);
            }
            while self.series.get(chunk) == Some(series) {
                hits.push((place as u32, chunk as u32));
                chunk += 1;
            }
        }
        hits
    }
}

impl Found {
    /// Loads the timestamps of the chunks: mostly one row group for a window.
    async fn load_times(&mut self, reader: &BlockReader, info: &ChunkGroupInfo, chunks: &ChunkGroup, hits: &[(u32, u32)]) -> Result<()> {
        let mut groups = SmallVec::<[usize; 4]>::new();
        for (_, chunk) in hits {
            let row = chunks.times[*chunk as usize];
            if !groups.last().is_some_and(|g| reader.times_rows(*g).contains(&row)) {
                groups.push(reader.times_group_of(info, row)?);
            }
        }
        groups.sort_unstable();
        groups.dedup();
        for group in groups {
            let times = reader.times_group(group).await?;
            // Chunk row groups of one window share timestamps.
            if !self.times.iter().any(|t| t.first_row == times.first_row) {
                self.times.push(times);
            }
        }
        self.times.sort_unstable_by_key(|t| t.first_row);
        Ok(())
    }

    fn add(&mut self, number: usize, chunks: &ChunkGroup, hits: &[(u32, u32)], range: TimeRange) {
        for (place, chunk) in hits {
            let chunk = *chunk as usize;
            let times_row = chunks.times[chunk];
            let times_group = self.times.partition_point(|t| t.first_row <= times_row) - 1;
            let times = &self.times[times_group];
            let in_group = times_row - times.first_row;
            if !times.entries[in_group as usize].overlaps(range) {
                continue;
            }
            let (page, in_page) = chunks.page_of(chunk);
            if self.pages.last() != Some(&(number, page)) {
                self.pages.push((number, page));
            }
            let page = self.pages.len() as u32 - 1;
            let (kind, codec) = (chunks.kinds[chunk], chunks.codecs[chunk]);
            let found = ChunkRef { page, in_page: in_page as u32, times_group: times.first_row, times: in_group, kind, codec };
            self.chunks.push((*place, found));
        }
    }

    /// The chunks in order of rows, for each row in order of time, and where each row's chunks end.
    fn by_row(&mut self, rows: usize) -> (Vec<u32>, Vec<ChunkRef>) {
        let mut chunks = std::mem::take(&mut self.chunks);
        for (_, chunk) in &mut chunks {
            chunk.times_group = self.times.partition_point(|t| t.first_row <= chunk.times_group) as u32 - 1;
        }
        chunks.sort_by_key(|(row, _)| *row);
        let mut ends = vec![0u32; rows];
        for (row, _) in &chunks {
            ends[*row as usize] += 1;
        }
        let mut end = 0;
        for e in &mut ends {
            end += *e;
            *e = end;
        }
        (ends, chunks.into_iter().map(|(_, c)| c).collect())
    }
}

/// Loaded chunks of a run of series.
struct BlockRun {
    first_row: usize,
    row_ends: Vec<u32>,
    chunks: Vec<ChunkRef>,
    pages: Vec<Arc<DataPage>>,
    times: Vec<Arc<TimesGroup>>,
    object: String,
    caches: Arc<Caches>,
    concatenated: HashMap<ConcatKey, Timestamps>,
}

impl SeriesRun for BlockRun {
    fn read(&mut self, row: usize, out: &mut SampleBuf) -> Result<()> {
        out.clear();
        let range = self.range(row);
        match range.len() {
            0 => Ok(()),
            1 => {
                let chunk = self.chunks[range.start];
                out.timestamps = self.timestamps(chunk)?;
                self.decode(chunk, out)
            }
            _ => self.read_several(range, out),
        }
    }
}

impl BlockRun {
    fn corrupt(&self, reason: impl std::fmt::Display) -> Error {
        Error::corrupt(self.object.as_str(), reason.to_string())
    }

    /// Places of the chunks of a row.
    fn range(&self, row: usize) -> Range<usize> {
        let i = row.checked_sub(self.first_row).filter(|i| *i < self.row_ends.len()).expect("the row is one of those that were loaded");
        let start = if i == 0 { 0 } else { self.row_ends[i - 1] as usize };
        start..self.row_ends[i] as usize
    }

    fn bytes(&self, chunk: ChunkRef) -> Result<&[u8]> {
        self.pages[chunk.page as usize].get(chunk.in_page as usize).ok_or_else(|| self.corrupt("a page is too short"))
    }

    fn timestamps(&self, chunk: ChunkRef) -> Result<Timestamps> {
        self.times[chunk.times_group as usize].timestamps(chunk.times).map_err(|e| self.corrupt(e))
    }

    /// Appends the values of a chunk.
    fn decode(&self, chunk: ChunkRef, out: &mut SampleBuf) -> Result<()> {
        let count = self.times[chunk.times_group as usize].entries[chunk.times as usize].count as usize;
        let bytes = self.bytes(chunk)?;
        match chunk.kind {
            KIND_FLOAT => ValueCodec::from_u8(chunk.codec).and_then(|codec| decode_values(codec, bytes, count, &mut out.values)),
            KIND_HISTOGRAM => {
                let mut histograms = Vec::with_capacity(count);
                decode_histograms(bytes, count, &mut histograms).map(|()| {
                    for histogram in histograms {
                        let place = out.values.len() as u32;
                        out.values.push(histogram.sum);
                        out.histograms.push((place, Arc::new(histogram)));
                    }
                })
            }
            kind => Err(Error::corrupt("chunk", format!("kind {kind} is not known"))),
        }
        .map_err(|e| self.corrupt(e))
    }

    fn read_several(&mut self, range: Range<usize>, out: &mut SampleBuf) -> Result<()> {
        let mut parts = SmallVec::<[Timestamps; 8]>::new();
        for chunk in &self.chunks[range] {
            parts.push(self.timestamps(*chunk)?);
            self.decode(*chunk, out)?;
        }
        let key: ConcatKey = parts.iter().map(Timestamps::id).collect();
        let shared = !key.contains(&0);
        if shared && let Some(timestamps) = self.concatenation(&key) {
            out.timestamps = timestamps;
            return Ok(());
        }
        let all: Vec<i64> = parts.iter().flat_map(|p| p.iter().copied()).collect();
        if !all.is_sorted_by(|a, b| a < b) {
            return interleave(all, out).map_err(|reason| self.corrupt(reason));
        }
        if !shared {
            out.timestamps = Timestamps::unshared(all);
            return Ok(());
        }
        out.timestamps = Timestamps::shared(all);
        self.caches.concatenations.insert(key.clone(), out.timestamps.clone());
        self.concatenated.insert(key, out.timestamps.clone());
        Ok(())
    }

    fn concatenation(&mut self, key: &ConcatKey) -> Option<Timestamps> {
        if let Some(timestamps) = self.concatenated.get(key) {
            return Some(timestamps.clone());
        }
        let timestamps = self.caches.concatenations.get(key)?;
        self.concatenated.insert(key.clone(), timestamps.clone());
        Some(timestamps)
    }
}

/// Brings samples of chunks that overlap in time (floats and histograms of one series) into time order.
fn interleave(times: Vec<i64>, out: &mut SampleBuf) -> Result<(), String> {
    let mut order: Vec<usize> = (0..times.len()).collect();
    order.sort_by_key(|i| times[*i]);
    let sorted: Vec<i64> = order.iter().map(|i| times[*i]).collect();
    if let Some(w) = sorted.windows(2).find(|w| w[0] == w[1]) {
        return Err(format!("a series has two samples at {} ms", w[0]));
    }
    let mut new_place = vec![0u32; order.len()];
    for (place, i) in order.iter().enumerate() {
        new_place[*i] = place as u32;
    }
    for (i, _) in &mut out.histograms {
        *i = new_place[*i as usize];
    }
    out.histograms.sort_by_key(|(i, _)| *i);
    out.values = order.iter().map(|i| out.values[*i]).collect();
    out.timestamps = Timestamps::unshared(sorted);
    Ok(())
}
