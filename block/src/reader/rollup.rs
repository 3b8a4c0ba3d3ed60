//! Reads `rollup.parquet`: the buckets of downsampled series as samples, one aggregate of each, or as they are.
//!
//! Row groups are small and hold whole series mostly; of one only the columns that an aggregate needs are fetched, and decoded
//! columns are cached. Native histograms of downsampled blocks are in chunks like any others, and are mixed in here.

mod samples;

use std::hash::BuildHasher;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{Float64Type, Int64Type, UInt32Type};
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use hashbrown::DefaultHashBuilder;
use parquet::file::statistics::Statistics;
use quick_cache::sync::Cache;

use crate::cache::{ByBytes, Caches, PageKey, Weigh, cache};
use crate::reader::run::BlockSet;
use crate::reader::{BlockReader, CONCURRENT_READS};
use crate::table::Table;
use crate::writer::Bucket;
use crate::writer::SERIES_COLUMN;
use crate::writer::rollup::{
    BUCKET_COLUMN, COUNT_COLUMN, FIRST_COLUMN, FIRST_MS_COLUMN, INCREASE_COLUMN, LAST_COLUMN, LAST_MS_COLUMN, MAX_COLUMN, MIN_COLUMN,
    SUM_COLUMN,
};
use crate::{Aggregate, LabelsRef, Matcher, Result, SampleBuf, SeriesRun, SeriesSet, TimeRange, Timestamps};
use samples::{Counter, append_counter, mixed};

/// The opened table of a block.
pub(crate) struct RollupTable {
    pub table: Table,
    pub groups: Vec<RollupGroupInfo>,
}

/// A row group.
pub(crate) struct RollupGroupInfo {
    pub first_series: u32,
    pub last_series: u32,
}

impl RollupTable {
    pub fn new(table: Table) -> Result<Self> {
        let series = table.column(SERIES_COLUMN)?;
        let mut groups: Vec<RollupGroupInfo> = Vec::with_capacity(table.metadata().num_row_groups());
        for group in table.metadata().row_groups() {
            let (first_series, last_series) = match group.column(series).statistics() {
                Some(Statistics::Int32(s)) => s.min_opt().zip(s.max_opt()).map(|(a, b)| (*a as u32, *b as u32)),
                _ => None,
            }
            .ok_or_else(|| table.corrupt("a row group has no bounds of its series"))?;
            if groups.last().is_some_and(|last| first_series < last.last_series) {
                return Err(table.corrupt("row groups are not in order of series"));
            }
            groups.push(RollupGroupInfo { first_series, last_series });
        }
        Ok(Self { table, groups })
    }

    /// Row groups that hold some of these series, which ascend.
    fn groups_of(&self, wanted: &[u32]) -> Vec<usize> {
        let holds = |info: &RollupGroupInfo| {
            let next = wanted.partition_point(|s| *s < info.first_series);
            wanted.get(next).is_some_and(|s| *s <= info.last_series)
        };
        (0..self.groups.len()).filter(|g| holds(&self.groups[*g])).collect()
    }
}

/// Decoded columns of row groups, and timestamp vectors that several series have.
pub(crate) struct RollupCaches {
    parts: Cache<PageKey, Arc<Part>, ByBytes>,
    times: Cache<u64, Timestamps, ByBytes>,
    hasher: DefaultHashBuilder,
}

impl RollupCaches {
    pub fn new(columns_bytes: u64, times_bytes: u64) -> Self {
        Self { parts: cache(columns_bytes, 256 << 10), times: cache(times_bytes, 4 << 10), hasher: DefaultHashBuilder::default() }
    }

    /// The vector that equals `millis`, shared with everybody who asked for it before.
    fn intern(&self, millis: &[i64]) -> Timestamps {
        let hash = self.hasher.hash_one(millis);
        if let Some(known) = self.times.get(&hash)
            && *known == *millis
        {
            return known;
        }
        let new = Timestamps::shared(millis.to_vec());
        self.times.insert(hash, new.clone());
        new
    }
}

/// What is cached of a row group: a column, or, under number 0 in place of the column of series, where each series is.
enum Part {
    Index(Index),
    Floats(Vec<f64>),
    Counts(Vec<u32>),
    Millis(Vec<i64>),
}

/// Where each series of a row group is.
struct Index {
    /// Series, ascending, and the first row of each.
    starts: Vec<(u32, u32)>,
    rows: u32,
    /// When the last sample of each bucket was taken, by place in `starts`.
    times: Vec<Timestamps>,
}

impl Index {
    fn rows_of(&self, series: u32) -> Option<(usize, Range<usize>)> {
        let place = self.starts.binary_search_by_key(&series, |(s, _)| *s).ok()?;
        let end = self.starts.get(place + 1).map_or(self.rows, |(_, start)| *start);
        Some((place, self.starts[place].1 as usize..end as usize))
    }
}

impl Weigh for Part {
    fn weight_bytes(&self) -> u64 {
        64 + match self {
            // Most vectors are shared between series and between row groups; the cache of vectors weighs them.
            Self::Index(index) => 40 * index.starts.len() as u64 + u64::from(index.rows),
            Self::Floats(values) => 8 * values.len() as u64,
            Self::Counts(values) => 4 * values.len() as u64,
            Self::Millis(values) => 8 * values.len() as u64,
        }
    }
}

impl Part {
    fn floats(&self) -> &[f64] {
        if let Self::Floats(values) = self { values } else { &[] }
    }

    fn counts(&self) -> &[u32] {
        if let Self::Counts(values) = self { values } else { &[] }
    }

    fn millis(&self) -> &[i64] {
        if let Self::Millis(values) = self { values } else { &[] }
    }
}

/// One row group, with the columns that were asked for.
struct LoadedGroup {
    index: Arc<Part>,
    columns: Vec<Arc<Part>>,
}

impl LoadedGroup {
    fn index(&self) -> &Index {
        let Part::Index(index) = &*self.index else { unreachable!("number 0 is the index, whoever loads it") };
        index
    }

    /// The buckets of a counter, whose columns must be those of [`Aggregate::Counter`].
    fn counter(&self, place: usize, rows: Range<usize>) -> Counter<'_> {
        let [last, increase, first, first_ms] = &self.columns[..] else { unreachable!("a counter has four columns") };
        let (first, first_ms) = (first.floats()[rows.start], first_ms.millis()[rows.start]);
        let (lasts, increases) = (&last.floats()[rows.clone()], &increase.floats()[rows]);
        Counter { times: &self.index().times[place], lasts, increases, first, first_ms }
    }
}

impl BlockReader {
    fn rollup(&self) -> &RollupTable {
        self.rollup.as_ref().expect("sets of buckets are made of blocks that have them only")
    }

    /// Row groups of `wanted` series with some columns; those that are not cached are fetched, several at a time.
    async fn rollup_groups(&self, wanted: &[u32], columns: &[&'static str]) -> Result<Vec<LoadedGroup>> {
        let groups = self.rollup().groups_of(wanted);
        stream::iter(groups).map(|group| self.rollup_group(group, columns)).buffered(CONCURRENT_READS).try_collect().await
    }

    async fn rollup_group(&self, group: usize, columns: &[&'static str]) -> Result<LoadedGroup> {
        let (table, caches) = (&self.rollup().table, &self.caches.rollups);
        let key = |column: usize| (self.meta.ulid, group as u32, column as u32);
        let series = table.column(SERIES_COLUMN)?;
        let numbers: Vec<usize> = columns.iter().map(|name| table.column(name)).collect::<Result<_>>()?;
        let mut index = caches.parts.get(&key(series));
        let mut found: Vec<Option<Arc<Part>>> = numbers.iter().map(|n| caches.parts.get(&key(*n))).collect();
        let mut missing: Vec<usize> = numbers.iter().zip(&found).filter(|(_, part)| part.is_none()).map(|(n, _)| *n).collect();
        if index.is_none() {
            missing.extend([series, table.column(LAST_MS_COLUMN)?]);
        }
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            let batch = table.read(&*self.store, group, &missing).await?;
            if index.is_none() {
                let part = Arc::new(Part::Index(decode_index(table, caches, &batch)?));
                caches.parts.insert(key(series), part.clone());
                index = Some(part);
            }
            for ((name, number), part) in columns.iter().zip(&numbers).zip(&mut found).filter(|(_, part)| part.is_none()) {
                let decoded = Arc::new(decode_column(table, &batch, name)?);
                caches.parts.insert(key(*number), decoded.clone());
                *part = Some(decoded);
            }
            tokio::task::yield_now().await;
        }
        let index = index.expect("it was decoded if it was not cached");
        Ok(LoadedGroup { index, columns: found.into_iter().flatten().collect() })
    }

    /// The downsampled series that all matchers accept, sorted; `None` if the block holds raw samples.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] or [`crate::Error::Store`].
    pub async fn select_rollup(self: &Arc<Self>, matchers: &[Matcher], aggregate: Aggregate) -> Result<Option<Arc<RollupSet>>> {
        if self.rollup.is_none() {
            return Ok(None);
        }
        let series = Arc::new(self.select_rows(matchers).await?);
        Ok(Some(Arc::new(RollupSet { reader: self.clone(), series, aggregate })))
    }
}

fn decode_index(table: &Table, caches: &RollupCaches, batch: &arrow::array::RecordBatch) -> Result<Index> {
    let series = primitive::<UInt32Type>(table, batch.column_by_name(SERIES_COLUMN))?;
    let millis = primitive::<Int64Type>(table, batch.column_by_name(LAST_MS_COLUMN))?;
    let mut starts: Vec<(u32, u32)> = Vec::new();
    for (row, series) in series.iter().enumerate() {
        match starts.last() {
            Some((last, _)) if last == series => {}
            Some((last, _)) if last > series => return Err(table.corrupt("rows are not in order of series")),
            _ => starts.push((*series, row as u32)),
        }
    }
    let mut index = Index { starts, rows: series.len() as u32, times: Vec::new() };
    let mut times: Vec<Timestamps> = Vec::with_capacity(index.starts.len());
    for (place, (_, start)) in index.starts.iter().enumerate() {
        let end = index.starts.get(place + 1).map_or(index.rows, |(_, start)| *start);
        let of_series = &millis[*start as usize..end as usize];
        if !of_series.is_sorted_by(|a, b| a < b) {
            return Err(table.corrupt("the buckets of a series are not in order of time"));
        }
        times.push(caches.intern(of_series));
    }
    index.times = times;
    Ok(index)
}

fn decode_column(table: &Table, batch: &arrow::array::RecordBatch, name: &str) -> Result<Part> {
    let array = batch.column_by_name(name);
    Ok(match name {
        COUNT_COLUMN => Part::Counts(primitive::<UInt32Type>(table, array)?.to_vec()),
        BUCKET_COLUMN | FIRST_MS_COLUMN | LAST_MS_COLUMN => Part::Millis(primitive::<Int64Type>(table, array)?.to_vec()),
        _ => Part::Floats(primitive::<Float64Type>(table, array)?.to_vec()),
    })
}

fn primitive<'a, T: arrow::datatypes::ArrowPrimitiveType>(table: &Table, array: Option<&'a ArrayRef>) -> Result<&'a [T::Native]> {
    let array = array.filter(|a| a.null_count() == 0).and_then(|a| a.as_primitive_opt::<T>());
    Ok(array.ok_or_else(|| table.corrupt("a column is missing, has nulls or has another type"))?.values())
}

/// Selected series of a downsampled block.
pub struct RollupSet {
    reader: Arc<BlockReader>,
    series: Arc<BlockSet>,
    aggregate: Aggregate,
}

/// The columns that an aggregate is read from.
fn columns_of(aggregate: Aggregate) -> &'static [&'static str] {
    match aggregate {
        Aggregate::Last => &[LAST_COLUMN],
        Aggregate::Counter => &[LAST_COLUMN, INCREASE_COLUMN, FIRST_COLUMN, FIRST_MS_COLUMN],
        Aggregate::Min => &[MIN_COLUMN],
        Aggregate::Max => &[MAX_COLUMN],
        Aggregate::Average => &[SUM_COLUMN, COUNT_COLUMN],
    }
}

/// All columns but that of series.
const ALL_COLUMNS: [&str; 10] = [
    BUCKET_COLUMN,
    COUNT_COLUMN,
    SUM_COLUMN,
    MIN_COLUMN,
    MAX_COLUMN,
    FIRST_COLUMN,
    LAST_COLUMN,
    INCREASE_COLUMN,
    FIRST_MS_COLUMN,
    LAST_MS_COLUMN,
];

impl RollupSet {
    /// The buckets of series that were found before; `None` if the block holds raw samples.
    pub(super) fn new(reader: &Arc<BlockReader>, series: &Arc<BlockSet>) -> Option<Arc<Self>> {
        let (reader, series, aggregate) = (reader.clone(), series.clone(), Aggregate::Last);
        reader.rollup.is_some().then(|| Arc::new(Self { reader, series, aggregate }))
    }

    /// Fetches the buckets of some series, all of their columns.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] or [`crate::Error::Store`].
    pub async fn load_buckets(&self, rows: Range<usize>) -> Result<BucketRun> {
        let wanted = self.series.series(rows.clone());
        let groups = self.reader.rollup_groups(&wanted, &ALL_COLUMNS).await?;
        let histograms = self.load_histograms(rows.clone(), TimeRange::ALL).await?;
        Ok(BucketRun { first_row: rows.start, wanted, groups, histograms })
    }

    async fn load_histograms(&self, rows: Range<usize>, range: TimeRange) -> Result<Option<Box<dyn SeriesRun>>> {
        if self.reader.meta.histograms == 0 {
            return Ok(None);
        }
        self.series.load(rows, range).await.map(Some)
    }
}

#[async_trait]
impl SeriesSet for RollupSet {
    fn len(&self) -> usize {
        self.series.len()
    }

    fn labels(&self, row: usize) -> LabelsRef<'_> {
        self.series.labels(row)
    }

    fn resolution_ms(&self) -> i64 {
        self.reader.meta.resolution_ms
    }

    fn may_have_label(&self, name: &str) -> bool {
        self.series.may_have_label(name)
    }

    async fn load(&self, rows: Range<usize>, range: TimeRange) -> Result<Box<dyn SeriesRun>> {
        let wanted = self.series.series(rows.clone());
        let groups = self.reader.rollup_groups(&wanted, columns_of(self.aggregate)).await?;
        let histograms = self.load_histograms(rows.clone(), range).await?;
        let (first_row, aggregate, caches) = (rows.start, self.aggregate, self.reader.caches.clone());
        Ok(Box::new(AggregateRun { first_row, wanted, groups, aggregate, histograms, caches, millis: Vec::new() }))
    }
}

/// Loaded buckets of a run of series.
pub struct BucketRun {
    first_row: usize,
    wanted: Vec<u32>,
    groups: Vec<LoadedGroup>,
    histograms: Option<Box<dyn SeriesRun>>,
}

impl BucketRun {
    /// Replaces what is in `buckets` and `histograms` by what series `row` has.
    ///
    /// # Errors
    /// As [`SeriesRun::read`].
    ///
    /// # Panics
    /// If `row` is not in the rows that were loaded.
    pub fn read(&mut self, row: usize, buckets: &mut Vec<Bucket>, histograms: &mut SampleBuf) -> Result<()> {
        buckets.clear();
        histograms.clear();
        let series = self.wanted[row.checked_sub(self.first_row).expect("the row is one of those that were loaded")];
        for group in &self.groups {
            let Some((_, rows)) = group.index().rows_of(series) else { continue };
            let [start, count, sum, min, max, first, last, increase, first_ms, last_ms] = &group.columns[..] else {
                unreachable!("all columns were loaded")
            };
            buckets.extend(rows.map(|i| Bucket {
                start_ms: start.millis()[i],
                count: count.counts()[i],
                sum: sum.floats()[i],
                min: min.floats()[i],
                max: max.floats()[i],
                first: first.floats()[i],
                first_ms: first_ms.millis()[i],
                last: last.floats()[i],
                last_ms: last_ms.millis()[i],
                increase: increase.floats()[i],
            }));
        }
        match &mut self.histograms {
            Some(run) => run.read(row, histograms),
            None => Ok(()),
        }
    }
}

/// Loaded columns of a run of series, read as samples.
struct AggregateRun {
    first_row: usize,
    wanted: Vec<u32>,
    groups: Vec<LoadedGroup>,
    aggregate: Aggregate,
    histograms: Option<Box<dyn SeriesRun>>,
    caches: Arc<Caches>,
    millis: Vec<i64>,
}

impl SeriesRun for AggregateRun {
    fn read(&mut self, row: usize, out: &mut SampleBuf) -> Result<()> {
        out.clear();
        let i = row.checked_sub(self.first_row).filter(|i| *i < self.wanted.len()).expect("the row is one of those that were loaded");
        let series = self.wanted[i];
        // Groups ascend by series, and mostly one group has all of it.
        let first = self.groups.partition_point(|g| g.index().starts.last().is_none_or(|(last, _)| *last < series));
        let parts = self.groups[first..].iter().map_while(|g| Some((g, g.index().rows_of(series)?)));
        if self.aggregate == Aggregate::Counter {
            self.millis.clear();
            for (group, (place, rows)) in parts {
                append_counter(&group.counter(place, rows), &mut self.millis, &mut out.values);
            }
            out.timestamps = self.caches.rollups.intern(&self.millis);
        } else {
            let mut times: Option<Timestamps> = None;
            for (group, (place, rows)) in parts {
                append_values(self.aggregate, group, rows, out);
                let of_group = &group.index().times[place];
                times = Some(match times {
                    None => of_group.clone(),
                    Some(before) => Timestamps::shared(before.iter().chain(of_group.iter()).copied().collect()),
                });
            }
            out.timestamps = times.unwrap_or_default();
        }
        self.add_histograms(row, out)
    }
}

impl AggregateRun {
    fn add_histograms(&mut self, row: usize, out: &mut SampleBuf) -> Result<()> {
        let Some(run) = &mut self.histograms else { return Ok(()) };
        let mut histograms = SampleBuf::default();
        run.read(row, &mut histograms)?;
        if out.is_empty() {
            *out = histograms;
        } else if !histograms.is_empty() {
            *out = mixed(out, &histograms);
        }
        Ok(())
    }
}

fn append_values(aggregate: Aggregate, group: &LoadedGroup, rows: Range<usize>, out: &mut SampleBuf) {
    if aggregate != Aggregate::Average {
        out.values.extend_from_slice(&group.columns[0].floats()[rows]);
        return;
    }
    let (sums, counts) = (&group.columns[0].floats()[rows.clone()], &group.columns[1].counts()[rows]);
    out.values.extend(sums.iter().zip(counts).map(|(sum, count)| sum / f64::from(*count)));
    out.counts.extend_from_slice(counts);
}

#[cfg(test)]
mod tests;
