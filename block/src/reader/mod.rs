//! Reads one block: finds series by their labels, and fetches and decodes only the chunks that are asked for.
//!
//! Everything that is decoded goes through bounded caches that all readers of a process share. Every byte is checked
//! against the block's checksums before it is decoded.

mod chunks;
mod exemplars;
mod names;
pub(crate) mod rollup;
mod run;
mod select;
mod series;
#[cfg(test)]
mod tests;
mod verify;
mod restore;
mod walk;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::try_join5;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::file::statistics::Statistics;
use tokio::sync::OnceCell;

use crate::cache::{CacheConfig, Caches, SharedCaches, Weigh};
use crate::checksum::{self, FileChecksums};
use crate::meta::{BlockMeta, CHECKSUMS_FILE, CHUNKS_FILE, EXEMPLARS_FILE, ROLLUP_FILE, SERIES_FILE, TIMES_FILE};
use crate::table::Table;
use crate::writer::{LABEL_PREFIX, METRIC_NAME_COLUMN, SERIES_COLUMN, WINDOW_COLUMN, is_dictionary};
use crate::{Error, Exemplar, Labels, Matcher, Metadata, Result, Selected, SeriesSet, Source, TenantId, TimeRange, Want, key};

pub(crate) use chunks::{ChunkGroup, DataPage, TimesGroup};
pub use restore::restore_block;
pub use rollup::{BucketRun, RollupSet};
pub use run::EncodedRun;
pub(crate) use series::{LabelArena, SeriesGroup};
pub use verify::{Report, verify_block};
pub use walk::{NameRun, Pick, Picked, SeriesFilter};

/// So many row groups are fetched at the same time.
const CONCURRENT_READS: usize = 8;

/// What each metric is; a name has several answers if writers disagree.
type MetadataByName = Vec<(String, Vec<Metadata>)>;

/// An opened block. Cheap to keep: footers, page indexes and checksums.
pub struct BlockReader {
    meta: Arc<BlockMeta>,
    store: Arc<dyn ObjectStore>,
    caches: Arc<Caches>,
    series: Table,
    times: Table,
    chunks: Table,
    exemplars: Option<Table>,
    rollup: Option<rollup::RollupTable>,
    series_groups: Vec<SeriesGroupInfo>,
    chunk_groups: Vec<ChunkGroupInfo>,
    times_groups: Vec<TimesGroupInfo>,
    /// Column numbers of labels, ascending by label name.
    label_columns: BTreeMap<String, usize>,
    metadata: OnceCell<Arc<MetadataByName>>,
}

/// A row group of the series table.
struct SeriesGroupInfo {
    first_row: u32,
    /// Bounds of the metric names in it; `None` if not known, or if a series has no name.
    names: Option<(Vec<u8>, Vec<u8>)>,
}

/// A row group of the chunk table.
struct ChunkGroupInfo {
    window_start_ms: i64,
    first_series: u32,
    last_series: u32,
}

/// A row group of the table of timestamps.
struct TimesGroupInfo {
    window_start_ms: i64,
    first_row: u32,
    rows: u32,
}

impl BlockReader {
    /// Opens a block with caches of its own, as the compactor and tools do.
    ///
    /// # Errors
    /// As [`BlockReader::open_with`].
    pub async fn open(store: Arc<dyn ObjectStore>, tenant: &TenantId, meta: Arc<BlockMeta>, caches: &CacheConfig) -> Result<Self> {
        Self::open_with(store, tenant, meta, Arc::new(Caches::new(caches))).await
    }

    /// Opens a block with caches that several readers share.
    ///
    /// # Errors
    /// As [`BlockReader::open`].
    pub async fn open_shared(store: Arc<dyn ObjectStore>, tenant: &TenantId, meta: Arc<BlockMeta>, caches: &SharedCaches) -> Result<Self> {
        Self::open_with(store, tenant, meta, caches.0.clone()).await
    }

    /// Opens a block: fetches the checksums and the ends of its files.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if a file is damaged, [`Error::Store`] if one is missing or the store fails, [`Error::Version`] if
    /// the block is of a newer format.
    pub(crate) async fn open_with(
        store: Arc<dyn ObjectStore>,
        tenant: &TenantId,
        meta: Arc<BlockMeta>,
        caches: Arc<Caches>,
    ) -> Result<Self> {
        meta.check_format()?;
        let sums = read_checksums(&*store, tenant, &meta).await?;
        let open = |name: &'static str| open_table(&*store, tenant, &meta, &sums, name);
        let (series, times, chunks, exemplars, rollup) =
            try_join5(open(SERIES_FILE), open(TIMES_FILE), open(CHUNKS_FILE), open(EXEMPLARS_FILE), open(ROLLUP_FILE)).await?;
        let required =
            |table: Option<Table>, name| table.ok_or_else(|| Error::corrupt(key::block(tenant, meta.ulid), format!("{name} is missing")));
        let (series, times, chunks) = (required(series, SERIES_FILE)?, required(times, TIMES_FILE)?, required(chunks, CHUNKS_FILE)?);
        if rollup.is_some() != (meta.resolution_ms > 0) {
            return Err(Error::corrupt(key::block(tenant, meta.ulid), format!("{ROLLUP_FILE} does not fit the resolution")));
        }
        let rollup = rollup.map(rollup::RollupTable::new).transpose()?;
        let series_groups = series_groups(&series)?;
        let (chunk_groups, times_groups) = (chunk_groups(&chunks)?, times_groups(&times)?);
        let columns = series.schema().fields().iter().enumerate();
        let label_columns = columns.filter_map(|(i, f)| Some((f.name().strip_prefix(LABEL_PREFIX)?.to_owned(), i))).collect();
        Ok(Self {
            meta,
            store,
            caches,
            series,
            times,
            chunks,
            exemplars,
            rollup,
            series_groups,
            chunk_groups,
            times_groups,
            label_columns,
            metadata: OnceCell::new(),
        })
    }

    /// What the catalog knows of the block.
    pub fn meta(&self) -> &Arc<BlockMeta> {
        &self.meta
    }

    /// The series that all matchers accept, sorted; time is not looked at.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::Store`].
    pub async fn select_series(self: &Arc<Self>, matchers: &[Matcher]) -> Result<Arc<dyn SeriesSet>> {
        Ok(Arc::new(self.select_rows(matchers).await?))
    }

    async fn select_rows(self: &Arc<Self>, matchers: &[Matcher]) -> Result<run::BlockSet> {
        let groups = self.groups_for(matchers);
        let segments = stream::iter(groups).map(|group| self.select_in_group(group, matchers)).buffered(CONCURRENT_READS);
        let segments = segments.try_filter_map(|s| async move { Ok(s) }).try_collect().await?;
        Ok(run::BlockSet::new(self.clone(), segments))
    }

    /// Row groups that may hold series that match.
    fn groups_for(&self, matchers: &[Matcher]) -> Vec<usize> {
        let wanted = select::only_names(matchers);
        let may_match = |info: &SeriesGroupInfo| match (&wanted, &info.names) {
            (Some(wanted), Some((min, max))) => wanted.iter().any(|w| min.as_slice() <= w.as_bytes() && w.as_bytes() <= max.as_slice()),
            _ => true,
        };
        (0..self.series_groups.len()).filter(|g| may_match(&self.series_groups[*g])).collect()
    }

    async fn series_group(&self, group: usize) -> Result<Arc<SeriesGroup>> {
        let load = async {
            let info = &self.series_groups[group];
            let columns = series::columns_to_read(&self.series, group, &self.label_columns)?;
            let batch = self.series.read(&*self.store, group, &columns).await?;
            let decoded = SeriesGroup::decode(&self.series, &batch, info.first_row).map(Arc::new);
            tokio::task::yield_now().await;
            decoded
        };
        self.caches.series.get_or_insert_async(&(self.meta.ulid, group as u32), load).await
    }

    async fn select_in_group(&self, group: usize, matchers: &[Matcher]) -> Result<Option<run::Segment>> {
        let series = self.series_group(group).await?;
        let selection = select::select(&series, matchers);
        if selection.is_empty() {
            return Ok(None);
        }
        let segment = if selection.len() * run::WHOLE_ARENA_SHARE >= series.rows() {
            let whole = async { Ok::<_, Error>(Arc::new(series.arena(0..series.rows()))) };
            let arena = self.caches.labels.get_or_insert_async(&(self.meta.ulid, group as u32), whole).await?;
            run::Segment::new(series, selection, arena, true)
        } else {
            let arena = Arc::new(series.arena(selection.iter()));
            run::Segment::new(series, selection, arena, false)
        };
        tokio::task::yield_now().await;
        Ok(Some(segment))
    }
}

#[async_trait]
impl Source for Arc<BlockReader> {
    async fn select(&self, matchers: &[Matcher], range: TimeRange, want: Want) -> Result<Selected> {
        if !self.meta.overlaps(range) {
            return Ok(Selected::default());
        }
        let set: Arc<dyn SeriesSet> = match self.select_rollup(matchers, want.aggregate).await? {
            Some(set) => set,
            None => self.select_series(matchers).await?,
        };
        Ok(Selected::complete(if set.is_empty() { Vec::new() } else { vec![set] }))
    }

    async fn label_names(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>> {
        if self.meta.overlaps(range) { self.names(matchers).await } else { Ok(Vec::new()) }
    }

    async fn label_values(&self, name: &str, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>> {
        if self.meta.overlaps(range) { self.values(name, matchers).await } else { Ok(Vec::new()) }
    }

    async fn exemplars(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<(Labels, Vec<Exemplar>)>> {
        if self.meta.overlaps(range) && self.meta.exemplars > 0 { self.read_exemplars(matchers, range).await } else { Ok(Vec::new()) }
    }

    async fn metadata(&self, metric: Option<&str>) -> Result<Vec<(String, Vec<Metadata>)>> {
        let all = self.metadata.get_or_try_init(|| self.read_metadata()).await?;
        Ok(match metric {
            None => all.to_vec(),
            Some(metric) => all.iter().filter(|(name, _)| name == metric).cloned().collect(),
        })
    }
}

impl Weigh for BlockReader {
    fn weight_bytes(&self) -> u64 {
        let tables =
            [Some(&self.series), Some(&self.times), Some(&self.chunks), self.exemplars.as_ref(), self.rollup.as_ref().map(|r| &r.table)];
        tables.into_iter().flatten().map(|t| t.memory_bytes() as u64).sum()
    }
}

async fn read_checksums(store: &dyn ObjectStore, tenant: &TenantId, meta: &BlockMeta) -> Result<BTreeMap<String, FileChecksums>> {
    let key = key::block_file(tenant, meta.ulid, CHECKSUMS_FILE);
    let file = meta.file(CHECKSUMS_FILE).ok_or_else(|| Error::corrupt(key.as_ref(), "the catalog does not list it"))?;
    let bytes = store.get(&key).await?.bytes().await?;
    if bytes.len() as u64 != file.size_bytes || crc32fast::hash(&bytes) != file.crc32 {
        return Err(Error::corrupt(key, "its size or checksum is not that in the catalog"));
    }
    checksum::decode(key.as_ref(), &bytes)
}

/// Opens a table; `None` if the block has no such file.
async fn open_table(
    store: &dyn ObjectStore,
    tenant: &TenantId,
    meta: &BlockMeta,
    sums: &BTreeMap<String, FileChecksums>,
    name: &str,
) -> Result<Option<Table>> {
    let key: Path = key::block_file(tenant, meta.ulid, name);
    let Some(file) = meta.file(name) else { return Ok(None) };
    let sums = sums.get(name).cloned().ok_or_else(|| Error::corrupt(key.as_ref(), "it has no checksums"))?;
    Table::open(store, key, file, sums, is_dictionary).await.map(Some)
}

fn series_groups(table: &Table) -> Result<Vec<SeriesGroupInfo>> {
    let name = table.column(METRIC_NAME_COLUMN).ok();
    let mut first_row = 0u32;
    let mut out = Vec::with_capacity(table.metadata().num_row_groups());
    for group in table.metadata().row_groups() {
        let rows = u32::try_from(group.num_rows()).map_err(|_| table.corrupt("a row group is too long"))?;
        let names = name.and_then(|c| match group.column(c).statistics()? {
            Statistics::ByteArray(s) if s.null_count_opt() == Some(0) => Some((s.min_opt()?.data().to_vec(), s.max_opt()?.data().to_vec())),
            _ => None,
        });
        out.push(SeriesGroupInfo { first_row, names });
        first_row = first_row.checked_add(rows).ok_or_else(|| table.corrupt("too many rows"))?;
    }
    Ok(out)
}

fn chunk_groups(table: &Table) -> Result<Vec<ChunkGroupInfo>> {
    let (window, series) = (table.column(WINDOW_COLUMN)?, table.column(SERIES_COLUMN)?);
    let mut out = Vec::with_capacity(table.metadata().num_row_groups());
    for group in 0..table.metadata().num_row_groups() {
        let (first_series, last_series) = match table.metadata().row_group(group).column(series).statistics() {
            Some(Statistics::Int32(s)) => s.min_opt().zip(s.max_opt()).map(|(a, b)| (*a as u32, *b as u32)),
            _ => None,
        }
        .ok_or_else(|| table.corrupt("a row group has no bounds of its series"))?;
        out.push(ChunkGroupInfo { window_start_ms: window_start(table, group, window)?, first_series, last_series });
    }
    Ok(out)
}

fn times_groups(table: &Table) -> Result<Vec<TimesGroupInfo>> {
    let window = table.column(WINDOW_COLUMN)?;
    let mut first_row = 0u32;
    let mut out = Vec::with_capacity(table.metadata().num_row_groups());
    for group in 0..table.metadata().num_row_groups() {
        let rows = u32::try_from(table.metadata().row_group(group).num_rows()).map_err(|_| table.corrupt("a row group is too long"))?;
        out.push(TimesGroupInfo { window_start_ms: window_start(table, group, window)?, first_row, rows });
        first_row = first_row.checked_add(rows).ok_or_else(|| table.corrupt("too many rows"))?;
    }
    if !out.is_sorted_by_key(|g| g.window_start_ms) {
        return Err(table.corrupt("windows do not ascend"));
    }
    Ok(out)
}

/// The start of the window that a row group belongs to: the only value of that column.
fn window_start(table: &Table, group: usize, column: usize) -> Result<i64> {
    match table.metadata().row_group(group).column(column).statistics() {
        Some(Statistics::Int64(s)) if s.min_opt() == s.max_opt() => s.min_opt().copied(),
        _ => None,
    }
    .ok_or_else(|| table.corrupt("a row group is not of one window"))
}
