//! Decoded parts of the chunk table and of the table of timestamps.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, AsArray, BinaryArray, RecordBatch};
use arrow::datatypes::{Int64Type, UInt8Type, UInt32Type};

use crate::cache::Weigh;
use crate::codec::decode_timestamps;
use crate::reader::{BlockReader, ChunkGroupInfo};
use crate::table::Table;
use crate::writer::{
    CODEC_COLUMN, COUNT_COLUMN, DATA_COLUMN, KIND_COLUMN, MAX_MS_COLUMN, MAX_SAMPLES_PER_CHUNK, MIN_MS_COLUMN, SERIES_COLUMN, TIMES_COLUMN,
    USES_COLUMN,
};
use crate::{Result, TimeRange, Timestamps};

/// Which chunks a row group holds, without their bytes.
pub(crate) struct ChunkGroup {
    /// Row of each chunk's series, ascending; a series may have several chunks.
    pub series: Vec<u32>,
    /// Row of each chunk's timestamps.
    pub times: Vec<u32>,
    pub kinds: Vec<u8>,
    pub codecs: Vec<u8>,
    /// First chunk of each page of chunk bytes.
    pub page_starts: Vec<u32>,
}

/// The bytes of a run of chunks.
pub(crate) struct DataPage {
    data: BinaryArray,
}

/// Timestamp vectors of a window.
pub(crate) struct TimesGroup {
    pub first_row: u32,
    pub entries: Vec<TimesEntry>,
    data: BinaryArray,
    weight_bytes: u64,
}

/// One timestamp vector.
pub(crate) struct TimesEntry {
    pub min_ms: i64,
    pub max_ms: i64,
    pub count: u32,
    pub uses: u32,
    shared: OnceLock<Timestamps>,
}

impl BlockReader {
    pub(super) async fn chunk_group(&self, group: usize) -> Result<Arc<ChunkGroup>> {
        let load = async {
            let mut columns = Vec::with_capacity(4);
            for name in [SERIES_COLUMN, TIMES_COLUMN, KIND_COLUMN, CODEC_COLUMN] {
                columns.push(self.chunks.column(name)?);
            }
            columns.sort_unstable();
            let batch = self.chunks.read(&*self.store, group, &columns).await?;
            let page_starts = self.chunks.page_starts(group, self.chunks.column(DATA_COLUMN)?)?;
            let decoded = ChunkGroup::decode(&self.chunks, &batch, page_starts).map(Arc::new);
            tokio::task::yield_now().await;
            decoded
        };
        self.caches.chunk_groups.get_or_insert_async(&(self.meta.ulid, group as u32), load).await
    }

    /// Rows of a group of timestamps.
    pub(super) fn times_rows(&self, group: usize) -> Range<u32> {
        let info = &self.times_groups[group];
        info.first_row..info.first_row + info.rows
    }

    /// The group of timestamps that holds a row, which has to be of the chunks' window.
    pub(super) fn times_group_of(&self, chunks: &ChunkGroupInfo, row: u32) -> Result<usize> {
        let after = self.times_groups.partition_point(|g| g.first_row <= row);
        let fits = |g: &usize| self.times_rows(*g).contains(&row) && self.times_groups[*g].window_start_ms == chunks.window_start_ms;
        after
            .checked_sub(1)
            .filter(fits)
            .ok_or_else(|| self.chunks.corrupt(format!("a chunk of window {} has timestamps of another window", chunks.window_start_ms)))
    }

    pub(super) async fn times_group(&self, group: usize) -> Result<Arc<TimesGroup>> {
        let load = async {
            let mut columns = Vec::with_capacity(5);
            for name in [MIN_MS_COLUMN, MAX_MS_COLUMN, COUNT_COLUMN, USES_COLUMN, DATA_COLUMN] {
                columns.push(self.times.column(name)?);
            }
            columns.sort_unstable();
            let batch = self.times.read(&*self.store, group, &columns).await?;
            let decoded = TimesGroup::decode(&self.times, &batch, self.times_groups[group].first_row).map(Arc::new);
            tokio::task::yield_now().await;
            decoded
        };
        self.caches.times.get_or_insert_async(&(self.meta.ulid, group as u32), load).await
    }

    /// Pages of chunk bytes, given as (row group, page); those that are not cached are fetched in one request.
    pub(super) async fn pages(&self, wanted: &[(usize, usize)]) -> Result<Vec<Arc<DataPage>>> {
        let key = |(group, page): (usize, usize)| (self.meta.ulid, group as u32, page as u32);
        let mut pages: Vec<Option<Arc<DataPage>>> = wanted.iter().map(|w| self.caches.pages.get(&key(*w))).collect();
        let missing: Vec<(usize, usize)> = wanted.iter().zip(&pages).filter(|(_, p)| p.is_none()).map(|(w, _)| *w).collect();
        if !missing.is_empty() {
            let column = self.chunks.column(DATA_COLUMN)?;
            let bytes = self.chunks.fetch_pages(&*self.store, column, &missing).await?;
            for (page, (group, number)) in pages.iter_mut().zip(wanted).filter(|(p, _)| p.is_none()) {
                let rows = self.page_rows(*group, *number).await?;
                let batch = self.chunks.decode_rows(bytes.clone(), *group, column, rows)?;
                let decoded = Arc::new(DataPage { data: binary(&self.chunks, &batch, DATA_COLUMN)? });
                self.caches.pages.insert(key((*group, *number)), decoded.clone());
                *page = Some(decoded);
                tokio::task::yield_now().await;
            }
        }
        Ok(pages.into_iter().flatten().collect())
    }

    async fn page_rows(&self, group: usize, page: usize) -> Result<Range<usize>> {
        let chunks = self.chunk_group(group).await?;
        Ok(chunks.page_rows(page))
    }
}

impl ChunkGroup {
    fn decode(table: &Table, batch: &RecordBatch, page_starts: Vec<u32>) -> Result<Self> {
        let group = Self {
            series: numbers(table, batch, SERIES_COLUMN)?,
            times: numbers(table, batch, TIMES_COLUMN)?,
            kinds: bytes(table, batch, KIND_COLUMN)?,
            codecs: bytes(table, batch, CODEC_COLUMN)?,
            page_starts,
        };
        if !group.series.is_sorted() || group.page_starts.last().is_some_and(|p| *p as usize >= group.series.len()) {
            return Err(table.corrupt("chunks are not in order of series, or a page begins after the last"));
        }
        Ok(group)
    }

    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// The page that holds a chunk, and the chunk's place in it.
    pub fn page_of(&self, chunk: usize) -> (usize, usize) {
        let page = self.page_starts.partition_point(|start| *start as usize <= chunk) - 1;
        (page, chunk - self.page_starts[page] as usize)
    }

    fn page_rows(&self, page: usize) -> Range<usize> {
        let end = self.page_starts.get(page + 1).map_or(self.series.len(), |p| *p as usize);
        self.page_starts[page] as usize..end
    }
}

impl Weigh for ChunkGroup {
    fn weight_bytes(&self) -> u64 {
        (10 * self.series.len() + 4 * self.page_starts.len() + 128) as u64
    }
}

impl DataPage {
    /// The bytes of a chunk.
    pub fn get(&self, i: usize) -> Option<&[u8]> {
        (i < self.data.len()).then(|| self.data.value(i))
    }
}

impl Weigh for DataPage {
    fn weight_bytes(&self) -> u64 {
        self.data.get_array_memory_size() as u64 + 64
    }
}

impl TimesGroup {
    fn decode(table: &Table, batch: &RecordBatch, first_row: u32) -> Result<Self> {
        let (min, max) = (longs(table, batch, MIN_MS_COLUMN)?, longs(table, batch, MAX_MS_COLUMN)?);
        let (count, uses) = (numbers(table, batch, COUNT_COLUMN)?, numbers(table, batch, USES_COLUMN)?);
        let data = binary(table, batch, DATA_COLUMN)?;
        let mut entries = Vec::with_capacity(batch.num_rows());
        let mut weight_bytes = data.get_array_memory_size() as u64 + 128;
        for i in 0..batch.num_rows() {
            let entry = TimesEntry { min_ms: min[i], max_ms: max[i], count: count[i], uses: uses[i], shared: OnceLock::new() };
            if entry.count == 0 || entry.count as usize > MAX_SAMPLES_PER_CHUNK || entry.min_ms > entry.max_ms {
                return Err(table.corrupt(format!("row {i} of a window has no samples, too many, or bounds the wrong way round")));
            }
            weight_bytes += size_of::<TimesEntry>() as u64 + if entry.uses > 1 { 8 * u64::from(entry.count) } else { 0 };
            entries.push(entry);
        }
        Ok(Self { first_row, entries, data, weight_bytes })
    }

    /// The timestamps of entry `i`: decoded once and shared if several chunks have them.
    pub fn timestamps(&self, i: u32) -> Result<Timestamps> {
        let entry = &self.entries[i as usize];
        if entry.uses <= 1 {
            return self.decode_entry(i).map(Timestamps::unshared);
        }
        if let Some(shared) = entry.shared.get() {
            return Ok(shared.clone());
        }
        let decoded = Timestamps::shared(self.decode_entry(i)?);
        Ok(entry.shared.get_or_init(|| decoded).clone())
    }

    fn decode_entry(&self, i: u32) -> Result<Vec<i64>> {
        let count = self.entries[i as usize].count as usize;
        let mut out = Vec::with_capacity(count);
        decode_timestamps(self.data.value(i as usize), count, &mut out)?;
        Ok(out)
    }
}

impl TimesEntry {
    pub fn overlaps(&self, range: TimeRange) -> bool {
        self.min_ms <= range.end_ms() && range.start_ms() <= self.max_ms
    }
}

impl Weigh for TimesGroup {
    fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }
}

fn column<'a>(table: &Table, batch: &'a RecordBatch, name: &str) -> Result<&'a dyn Array> {
    let array = batch.column_by_name(name).ok_or_else(|| table.corrupt(format!("column {name:?} is missing")))?;
    if array.null_count() > 0 {
        return Err(table.corrupt(format!("column {name:?} has nulls")));
    }
    Ok(array.as_ref())
}

fn wrong_type(table: &Table, name: &str) -> crate::Error {
    table.corrupt(format!("column {name:?} has another type"))
}

fn numbers(table: &Table, batch: &RecordBatch, name: &str) -> Result<Vec<u32>> {
    let array = column(table, batch, name)?.as_primitive_opt::<UInt32Type>();
    Ok(array.ok_or_else(|| wrong_type(table, name))?.values().to_vec())
}

fn bytes(table: &Table, batch: &RecordBatch, name: &str) -> Result<Vec<u8>> {
    let array = column(table, batch, name)?.as_primitive_opt::<UInt8Type>();
    Ok(array.ok_or_else(|| wrong_type(table, name))?.values().to_vec())
}

fn longs(table: &Table, batch: &RecordBatch, name: &str) -> Result<Vec<i64>> {
    let array = column(table, batch, name)?.as_primitive_opt::<Int64Type>();
    Ok(array.ok_or_else(|| wrong_type(table, name))?.values().to_vec())
}

fn binary(table: &Table, batch: &RecordBatch, name: &str) -> Result<BinaryArray> {
    column(table, batch, name)?.as_binary_opt::<i32>().cloned().ok_or_else(|| wrong_type(table, name))
}
