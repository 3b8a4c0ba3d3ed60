//! Reads all of a block and checks what readers rely on.
//!
//! Checked: checksums of every byte, that each file decodes, the order of series, chunks and windows, that timestamps ascend
//! and lie in their window and bounds, that every chunk decodes to its count, and that counts and times are those of the
//! catalog; of downsampled blocks also that buckets ascend, hold samples and lie in the block's span. Not checked: whether the samples are those that a writer sent.

use std::sync::Arc;

use object_store::{ObjectStore, ObjectStoreExt};

use crate::cache::CacheConfig;
use crate::log;
use crate::meta::{BlockMeta, META_FILE};
use crate::reader::BlockReader;
use crate::writer::Bucket;
use crate::{Aggregate, Error, Labels, Result, SampleBuf, SeriesSet, Source, TenantId, TimeRange, key};

/// What the verification of a block found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What does not hold; empty if the block is sound.
    pub problems: Vec<String>,
    /// Series that were read.
    pub series: u64,
    /// Float samples that were read.
    pub samples: u64,
    /// Native histogram samples that were read.
    pub histograms: u64,
    /// Exemplars that were read.
    pub exemplars: u64,
    /// Bytes of files that were read.
    pub bytes: u64,
}

impl Report {
    /// Whether nothing was found.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    fn expect(&mut self, holds: bool, problem: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(problem());
        }
    }
}

/// Series that are read at a time.
const RUN_SERIES: usize = 1024;

/// Caches for one pass through a block: nothing is read twice, but for indexes.
const CACHES: CacheConfig = CacheConfig { blocks_bytes: 0, series_bytes: 32 << 20, chunk_index_bytes: 32 << 20, chunks_bytes: 32 << 20 };

/// Verifies a block.
///
/// # Errors
/// Only if the store fails; what is wrong with the block is in the [`Report`].
pub async fn verify_block(store: Arc<dyn ObjectStore>, tenant: &TenantId, meta: Arc<BlockMeta>) -> Result<Report> {
    let mut report = Report::default();
    match verify(&mut report, store, tenant, meta).await {
        Ok(()) => Ok(report),
        Err(e @ Error::Store(object_store::Error::NotFound { .. })) => {
            report.problems.push(e.to_string());
            Ok(report)
        }
        Err(e @ (Error::Store(_) | Error::Io { .. })) => Err(e),
        Err(e) => {
            report.problems.push(e.to_string());
            Ok(report)
        }
    }
}

async fn verify(report: &mut Report, store: Arc<dyn ObjectStore>, tenant: &TenantId, meta: Arc<BlockMeta>) -> Result<()> {
    verify_files(report, &*store, tenant, &meta).await?;
    let reader = Arc::new(BlockReader::open(store, tenant, meta.clone(), &CACHES).await?);
    verify_tables(report, &reader).await?;
    let set = reader.select_series(&[]).await?;
    let mut buf = SampleBuf::default();
    let mut last: Option<Labels> = None;
    let (mut min_ms, mut max_ms) = (i64::MAX, i64::MIN);
    for start in (0..set.len()).step_by(RUN_SERIES) {
        let rows = start..set.len().min(start + RUN_SERIES);
        let mut run = set.load(rows.clone(), TimeRange::ALL).await?;
        for row in rows {
            let labels = set.labels(row).to_owned();
            report.expect(last.as_ref().is_none_or(|l| *l < labels), || format!("series {row} {labels} is not after the one before"));
            run.read(row, &mut buf)?;
            let times: &[i64] = &buf.timestamps;
            let fits = times.len() == buf.values.len() && times.is_sorted_by(|a, b| a < b);
            report.expect(fits, || format!("samples of series {row} {labels} are not in order"));
            if let (Some(first), Some(last)) = (times.first(), times.last()) {
                (min_ms, max_ms) = (min_ms.min(*first), max_ms.max(*last));
            }
            report.series += 1;
            report.histograms += buf.histograms.len() as u64;
            report.samples += (buf.len() - buf.histograms.len()) as u64;
            last = Some(labels);
        }
        tokio::task::yield_now().await;
    }
    for (labels, exemplars) in reader.exemplars(&[], TimeRange::ALL).await? {
        report.expect(exemplars.is_sorted_by_key(|e| e.timestamp_ms), || format!("exemplars of {labels} are not in time order"));
        report.exemplars += exemplars.len() as u64;
        for exemplar in &exemplars {
            (min_ms, max_ms) = (min_ms.min(exemplar.timestamp_ms), max_ms.max(exemplar.timestamp_ms));
        }
    }
    if meta.resolution_ms > 0 {
        let (first_ms, last_ms) = verify_rollup(report, &reader).await?;
        (min_ms, max_ms) = (min_ms.min(first_ms), max_ms.max(last_ms));
        if min_ms > max_ms {
            // A block without any number still stands for its span.
            (min_ms, max_ms) = (meta.min_time_ms, meta.max_time_ms);
        }
    }
    verify_totals(report, &meta, min_ms, max_ms);
    Ok(())
}

/// Checks the buckets of all series, and returns the times of the first and the last sample in them.
async fn verify_rollup(report: &mut Report, reader: &Arc<BlockReader>) -> Result<(i64, i64)> {
    let meta = &reader.meta;
    let step_ms = meta.resolution_ms;
    let (mut min_ms, mut max_ms, mut raw_samples) = (i64::MAX, i64::MIN, report.histograms);
    let Some(set) = reader.select_rollup(&[], Aggregate::Last).await? else { return Ok((min_ms, max_ms)) };
    let span_start_ms = meta.min_time_ms.div_euclid(meta.window_ms).saturating_mul(meta.window_ms);
    let (mut buckets, mut histograms) = (Vec::new(), SampleBuf::default());
    for start in (0..set.len()).step_by(RUN_SERIES) {
        let rows = start..set.len().min(start + RUN_SERIES);
        let mut run = set.load_buckets(rows.clone()).await?;
        for row in rows {
            run.read(row, &mut buckets, &mut histograms)?;
            let placed = |b: &Bucket| {
                b.start_ms.rem_euclid(step_ms) == 0
                    && b.start_ms >= span_start_ms
                    && b.start_ms.saturating_sub(span_start_ms) <= meta.window_ms - step_ms
            };
            let filled = |b: &Bucket| {
                b.count > 0 && b.start_ms <= b.first_ms && b.first_ms <= b.last_ms && b.last_ms.saturating_sub(b.start_ms) < step_ms
            };
            let sound = buckets.is_sorted_by(|a, b| a.start_ms < b.start_ms) && buckets.iter().all(|b| placed(b) && filled(b));
            report.expect(sound, || format!("buckets of series {row} are empty, out of order or outside of the span"));
            for bucket in &buckets {
                (min_ms, max_ms) = (min_ms.min(bucket.first_ms), max_ms.max(bucket.last_ms));
                raw_samples += u64::from(bucket.count);
            }
            report.samples += buckets.len() as u64;
        }
        tokio::task::yield_now().await;
    }
    let expected = meta.raw_samples;
    report.expect(raw_samples == expected, || format!("buckets stand for {raw_samples} samples, but the catalog says {expected}"));
    Ok((min_ms, max_ms))
}

fn verify_totals(report: &mut Report, meta: &BlockMeta, min_ms: i64, max_ms: i64) {
    let totals = [
        ("series", report.series, meta.series),
        ("samples", report.samples, meta.samples),
        ("histograms", report.histograms, meta.histograms),
        ("exemplars", report.exemplars, meta.exemplars),
        ("bytes", report.bytes, meta.size_bytes),
    ];
    for (what, found, expected) in totals {
        report.expect(found == expected, || format!("{found} {what} were found, but the catalog says {expected}"));
    }
    let bounds = (meta.min_time_ms, meta.max_time_ms);
    report.expect((min_ms, max_ms) == bounds, || format!("samples are from {min_ms} to {max_ms} ms, but the catalog says {bounds:?}"));
}

/// Checks whole files against the catalog.
async fn verify_files(report: &mut Report, store: &dyn ObjectStore, tenant: &TenantId, meta: &BlockMeta) -> Result<()> {
    for file in &meta.files {
        let key = key::block_file(tenant, meta.ulid, &file.name);
        let bytes = store.get(&key).await?.bytes().await?;
        report.bytes += bytes.len() as u64;
        let fits = bytes.len() as u64 == file.size_bytes && crc32fast::hash(&bytes) == file.crc32;
        report.expect(fits, || format!("{key} has not the size or the checksum that the catalog says"));
    }
    let key = key::block_file(tenant, meta.ulid, META_FILE);
    let bytes = store.get(&key).await?.bytes().await?;
    let content = log::unseal(key.as_ref(), 0, &bytes)?;
    let copy = serde_json::from_slice::<BlockMeta>(&content).map_err(|e| Error::corrupt(key.as_ref(), e.to_string()))?;
    report.expect(copy == *meta, || format!("{key} is not what the catalog says"));
    Ok(())
}

/// Checks what the readers of series do not see: order of row groups, windows and uses.
async fn verify_tables(report: &mut Report, reader: &BlockReader) -> Result<()> {
    let window_ms = reader.meta.window_ms;
    let mut uses: Vec<Vec<u32>> = Vec::with_capacity(reader.times_groups.len());
    for (number, info) in reader.times_groups.iter().enumerate() {
        let start_ms = info.window_start_ms;
        report.expect(start_ms == i64::MIN || start_ms.rem_euclid(window_ms) == 0, || format!("window {start_ms} is not aligned"));
        let group = reader.times_group(number).await?;
        uses.push(vec![0; group.entries.len()]);
        for (i, entry) in group.entries.iter().enumerate() {
            let times = group.timestamps(i as u32)?;
            let bounds = times.first().zip(times.last()) == Some((&entry.min_ms, &entry.max_ms)) && times.is_sorted_by(|a, b| a < b);
            let inside = entry.min_ms >= start_ms && entry.max_ms.saturating_sub(start_ms) < window_ms;
            report.expect(bounds && inside, || format!("timestamps {i} of window {start_ms} do not ascend or leave their bounds"));
        }
    }
    let mut last = None;
    for (number, info) in reader.chunk_groups.iter().enumerate() {
        report.expect(last.is_none_or(|l| l <= (info.window_start_ms, info.first_series)), || {
            format!("chunk row group {number} is out of order")
        });
        last = Some((info.window_start_ms, info.last_series));
        let chunks = reader.chunk_group(number).await?;
        for i in 0..chunks.len() {
            report.expect(u64::from(chunks.series[i]) < reader.meta.series, || format!("chunk {i} of row group {number} has no series"));
            let group = reader.times_group_of(info, chunks.times[i])?;
            uses[group][(chunks.times[i] - reader.times_groups[group].first_row) as usize] += 1;
        }
    }
    for (number, counted) in uses.into_iter().enumerate() {
        let group = reader.times_group(number).await?;
        let fits = group.entries.iter().zip(&counted).all(|(e, n)| e.uses == *n);
        report.expect(fits, || format!("window {} counts the uses of its timestamps wrong", reader.times_groups[number].window_start_ms));
    }
    Ok(())
}
