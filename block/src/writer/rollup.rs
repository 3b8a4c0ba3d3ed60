//! Writes downsampled blocks: `rollup.parquet` has a row for each series and bucket, and `chunks.parquet` the few native
//! histograms that are kept. Rows leave for the compressed file as they come, so that memory grows with the file.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema};
use object_store::ObjectStore;

use crate::labels::Labels;
use crate::meta::{BlockId, BlockMeta};
use crate::writer::files::{self, File, ParquetBytes};
use crate::writer::{BlockWriter, EncodedBlock, SERIES_COLUMN, WriterConfig};
use crate::{Error, Metadata, Result, SampleBuf, TenantId};

/// Name of the column with the start of the bucket.
pub(crate) const BUCKET_COLUMN: &str = "bucket_ms";
/// Name of the column with the number of samples.
pub(crate) const COUNT_COLUMN: &str = "count";
/// Name of the column with the sum.
pub(crate) const SUM_COLUMN: &str = "sum";
/// Name of the column with the least value.
pub(crate) const MIN_COLUMN: &str = "min";
/// Name of the column with the greatest value.
pub(crate) const MAX_COLUMN: &str = "max";
/// Name of the column with the first value.
pub(crate) const FIRST_COLUMN: &str = "first";
/// Name of the column with the last value.
pub(crate) const LAST_COLUMN: &str = "last";
/// Name of the column with the increase of a counter.
pub(crate) const INCREASE_COLUMN: &str = "increase";
/// Name of the column with the time of the first value.
pub(crate) const FIRST_MS_COLUMN: &str = "first_ms";
/// Name of the column with the time of the last value.
pub(crate) const LAST_MS_COLUMN: &str = "last_ms";

/// Columns of floats.
const FLOAT_COLUMNS: [&str; 6] = [SUM_COLUMN, MIN_COLUMN, MAX_COLUMN, FIRST_COLUMN, LAST_COLUMN, INCREASE_COLUMN];

/// A row group has no more rows, unless one series has: readers fetch and decode whole columns of it for one series.
pub(crate) const ROWS_PER_GROUP: usize = 1 << 15;

/// The float samples of one series in one bucket of time. NaNs and stale markers are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bucket {
    /// Start of the bucket, a multiple of the resolution; the bucket ends before the next multiple.
    pub start_ms: i64,
    /// Number of samples, at least 1.
    pub count: u32,
    /// Their sum; NaN if both infinities are among them.
    pub sum: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// The first.
    pub first: f64,
    /// When the first was taken.
    pub first_ms: i64,
    /// The last.
    pub last: f64,
    /// When the last was taken.
    pub last_ms: i64,
    /// By how much a counter grew from the last sample of the bucket before (in the first bucket of a series in a block: from
    /// its first sample) to the last one of this bucket: the sum of all rises, where a fall counts as a rise from 0.
    pub increase: f64,
}

/// Collects the series of one downsampled block.
pub struct RollupWriter {
    block: BlockWriter,
    span_start_ms: i64,
}

impl RollupWriter {
    /// An empty block of the span that begins at `span_start_ms` and is [`WriterConfig::window_ms`] long. The block will stand
    /// for all of the span, so that raw blocks are not read there.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the span is not aligned to its length, or its length not to [`WriterConfig::resolution_ms`].
    pub fn new(config: WriterConfig, span_start_ms: i64) -> Result<Self> {
        config.check()?;
        let (length_ms, resolution_ms) = (config.window_ms, config.resolution_ms);
        if resolution_ms <= 0 || length_ms % resolution_ms != 0 || resolution_ms > i64::from(u32::MAX) {
            let reason = format!("a span of {length_ms} ms is not made of buckets of {resolution_ms} ms");
            return Err(Error::invalid("downsampled block", reason));
        }
        if span_start_ms.rem_euclid(length_ms) != 0 || span_start_ms.checked_add(length_ms).is_none() {
            let reason = format!("a span of {length_ms} ms cannot begin at {span_start_ms} ms");
            return Err(Error::invalid("downsampled block", reason));
        }
        let mut block = BlockWriter::new(config);
        block.rollup = Some(RollupTable::new()?);
        Ok(Self { block, span_start_ms })
    }

    /// Identity of the block.
    pub fn id(&self) -> BlockId {
        self.block.id()
    }

    /// Number of series so far.
    pub fn series(&self) -> usize {
        self.block.series()
    }

    /// About what the files and this writer's memory will take.
    pub fn encoded_bytes(&self) -> usize {
        self.block.encoded_bytes()
    }

    /// Adds the next series: its buckets in order of time, and those of its native histograms that are kept.
    ///
    /// # Errors
    /// As [`BlockWriter::push_series`], and [`Error::Invalid`] if a bucket is not in order, empty or outside of the span, or if
    /// there is a float among the histograms.
    pub fn push_series(&mut self, labels: &Labels, metadata: Option<&Metadata>, buckets: &[Bucket], histograms: &SampleBuf) -> Result<()> {
        self.check(labels, buckets, histograms)?;
        let row = self.block.add(labels, metadata, histograms, &[])?;
        let times = buckets.first().map(|b| b.first_ms).into_iter().chain(buckets.last().map(|b| b.last_ms));
        for t in times {
            self.block.cover(t);
        }
        self.block.rollup.as_mut().expect("the constructor made it").push(row, buckets)
    }

    fn check(&self, labels: &Labels, buckets: &[Bucket], histograms: &SampleBuf) -> Result<()> {
        let refuse = |reason: String| Err(Error::invalid("series for a downsampled block", format!("{labels}: {reason}")));
        let config = &self.block.config;
        let span = self.span_start_ms..self.span_start_ms + config.window_ms;
        let mut next_ms = span.start;
        for bucket in buckets {
            let end_ms = bucket.start_ms.saturating_add(config.resolution_ms);
            let placed = bucket.start_ms >= next_ms && end_ms <= span.end && bucket.start_ms.rem_euclid(config.resolution_ms) == 0;
            let filled =
                bucket.count > 0 && bucket.start_ms <= bucket.first_ms && bucket.first_ms <= bucket.last_ms && bucket.last_ms < end_ms;
            if !placed || !filled {
                return refuse(format!("the bucket at {} ms is empty, out of order or outside of the span", bucket.start_ms));
            }
            next_ms = end_ms;
        }
        if histograms.histograms.len() != histograms.len() || histograms.timestamps.iter().any(|t| !span.contains(t)) {
            return refuse("a sample among the histograms is a float or outside of the span".into());
        }
        Ok(())
    }

    /// Encodes the files and uploads them, as [`BlockWriter::finish`] does.
    ///
    /// # Errors
    /// As [`BlockWriter::finish`].
    pub async fn finish(self, store: &dyn ObjectStore, tenant: &TenantId) -> Result<BlockMeta> {
        self.into_block().finish(store, tenant).await
    }

    /// Encodes the files without uploading them.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no series.
    pub fn encode(self) -> Result<EncodedBlock> {
        self.into_block().encode()
    }

    /// A block whose series hold nothing but NaNs still stands for its span.
    fn into_block(mut self) -> BlockWriter {
        if self.block.series() > 0 && self.block.time_range_ms.is_none() {
            self.block.cover(self.span_start_ms);
        }
        self.block
    }
}

/// Rows on their way into `rollup.parquet`.
pub(super) struct RollupTable {
    file: File,
    pending: Vec<(u32, Bucket)>,
    pub rows: u64,
    pub raw_samples: u64,
}

impl RollupTable {
    fn new() -> Result<Self> {
        let integer = |name: &str| Field::new(name, DataType::Int64, false);
        let mut fields = vec![
            Field::new(SERIES_COLUMN, DataType::UInt32, false),
            integer(BUCKET_COLUMN),
            Field::new(COUNT_COLUMN, DataType::UInt32, false),
        ];
        fields.extend(FLOAT_COLUMNS.iter().map(|name| Field::new(*name, DataType::Float64, false)));
        fields.extend([integer(FIRST_MS_COLUMN), integer(LAST_MS_COLUMN)]);
        let file = File::new(Schema::new(fields), files::rollup_properties(&FLOAT_COLUMNS)?)?;
        Ok(Self { file, pending: Vec::with_capacity(ROWS_PER_GROUP), rows: 0, raw_samples: 0 })
    }

    pub fn encoded_bytes(&self) -> usize {
        self.file.written_bytes() + self.pending.len() * (size_of::<Bucket>() / 4)
    }

    fn push(&mut self, series: u32, buckets: &[Bucket]) -> Result<()> {
        if self.pending.len() + buckets.len() > ROWS_PER_GROUP {
            self.flush()?;
        }
        self.rows += buckets.len() as u64;
        self.raw_samples += buckets.iter().map(|b| u64::from(b.count)).sum::<u64>();
        for part in buckets.chunks(ROWS_PER_GROUP) {
            self.pending.extend(part.iter().map(|b| (series, *b)));
            if self.pending.len() >= ROWS_PER_GROUP {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.pending);
        let integers = |of: fn(&Bucket) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, b)| of(b)))) };
        let floats = |of: fn(&Bucket) -> f64| -> ArrayRef { Arc::new(Float64Array::from_iter_values(rows.iter().map(|(_, b)| of(b)))) };
        self.file.row_group(vec![
            Arc::new(UInt32Array::from_iter_values(rows.iter().map(|(series, _)| *series))),
            integers(|b| b.start_ms),
            Arc::new(UInt32Array::from_iter_values(rows.iter().map(|(_, b)| b.count))),
            floats(|b| b.sum),
            floats(|b| b.min),
            floats(|b| b.max),
            floats(|b| b.first),
            floats(|b| b.last),
            floats(|b| b.increase),
            integers(|b| b.first_ms),
            integers(|b| b.last_ms),
        ])?;
        self.pending = rows;
        self.pending.clear();
        Ok(())
    }

    pub fn finish(mut self) -> Result<ParquetBytes> {
        self.flush()?;
        self.file.finish()
    }
}
