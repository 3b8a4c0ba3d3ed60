//! The Parquet files of a block: schemas, encodings and row groups. `FORMAT.md` says why each column is encoded as it is.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Float64Array, Int64Array, RecordBatch, UInt8Array};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion};
use parquet::schema::types::ColumnPath;

use crate::writer::WriterConfig;
use crate::writer::bytes::Bytes;
use crate::writer::chunks::{ChunkTable, Window};
use crate::writer::series::{SeriesArrays, numbers};
use crate::{Exemplar, Result};

/// Name of the column with the start of the window.
pub(crate) const WINDOW_COLUMN: &str = "window_ms";
/// Name of the column with the row of the series.
pub(crate) const SERIES_COLUMN: &str = "series";
/// Name of the column with the row of the timestamps.
pub(crate) const TIMES_COLUMN: &str = "times";
/// Name of the column with the kind of a chunk.
pub(crate) const KIND_COLUMN: &str = "kind";
/// Name of the column with the codec of a chunk.
pub(crate) const CODEC_COLUMN: &str = "codec";
/// Name of the column with the first timestamp.
pub(crate) const MIN_MS_COLUMN: &str = "min_ms";
/// Name of the column with the last timestamp.
pub(crate) const MAX_MS_COLUMN: &str = "max_ms";
/// Name of the column with the number of timestamps.
pub(crate) const COUNT_COLUMN: &str = "count";
/// Name of the column that says how many chunks have the timestamps.
pub(crate) const USES_COLUMN: &str = "uses";
/// Name of the column with encoded bytes.
pub(crate) const DATA_COLUMN: &str = "data";

/// Level of zstd for everything but chunk values: small columns, read whole.
const INDEX_ZSTD_LEVEL: i32 = 9;
/// Level of zstd over buckets: level 9 takes 1.5 % less at a multiple of the time.
const ROLLUP_ZSTD_LEVEL: i32 = 3;
/// Rows in a page of buckets; readers of ours read all pages of a row group.
const ROLLUP_PAGE_ROWS: usize = 1 << 15;
/// Statistics keep this much of a label value; the rest is rounded to a bound.
const STATISTICS_BYTES: usize = 64;
/// No dictionary of a row group is bigger, so that its pages never change the encoding.
const MAX_DICTIONARY_BYTES: usize = 1 << 30;
/// Chunks are looked at in runs of so many when a page is filled: how exactly [`WriterConfig::page_bytes`] is kept.
const PAGE_STEP_ROWS: usize = 16;
/// A row group of chunks ends at this size: its pages are in memory until it is complete, and readers address the bytes of a
/// column with 31 bits.
const MAX_GROUP_BYTES: usize = 16 << 20;
/// A row group of chunks is handed over in slices of this size, so that it is in memory once and not twice while it is encoded.
const SLICE_BYTES: usize = 1 << 20;
/// What a chunk takes in the file at most beside its bytes, as far as it matters: numbers that compress well.
const MAX_ROW_BYTES: usize = 16;
/// A row group of timestamp vectors ends after so many timestamps, because readers decode and cache all of it.
const TIMES_PER_GROUP: usize = 256 << 10;
/// Exemplars per row group.
const EXEMPLARS_PER_GROUP: usize = 1 << 16;

/// A Parquet file, and how much of its end is page index and footer.
pub(crate) struct ParquetBytes {
    pub bytes: Vec<u8>,
    pub tail_bytes: u64,
}

/// `series.parquet`.
pub(crate) fn series(arrays: &SeriesArrays, config: &WriterConfig) -> Result<ParquetBytes> {
    let properties = properties(zstd(INDEX_ZSTD_LEVEL)?).set_offset_index_disabled(true).set_data_page_row_count_limit(1 << 20);
    let mut file = File::new(arrays.schema(), properties)?;
    for start in (0..arrays.rows()).step_by(config.series_per_group) {
        let end = arrays.rows().min(start.saturating_add(config.series_per_group as u32));
        file.row_group(arrays.arrays(start..end)?)?;
    }
    file.finish()
}

/// `times.parquet`: row groups of one window.
pub(crate) fn times(chunks: &ChunkTable) -> Result<ParquetBytes> {
    let schema = Schema::new(vec![
        Field::new(WINDOW_COLUMN, DataType::Int64, false),
        Field::new(MIN_MS_COLUMN, DataType::Int64, false),
        Field::new(MAX_MS_COLUMN, DataType::Int64, false),
        Field::new(COUNT_COLUMN, DataType::UInt32, false),
        Field::new(USES_COLUMN, DataType::UInt32, false),
        Field::new(DATA_COLUMN, DataType::Binary, false),
    ]);
    let mut properties = properties(zstd(INDEX_ZSTD_LEVEL)?).set_offset_index_disabled(true).set_data_page_row_count_limit(1 << 20);
    for column in [MIN_MS_COLUMN, MAX_MS_COLUMN, COUNT_COLUMN, USES_COLUMN] {
        properties = delta(properties, column);
    }
    properties = payload(properties);
    let mut file = File::new(schema, properties)?;
    for (start_ms, window) in &chunks.windows {
        let all = &window.times.rows;
        let mut start = 0;
        while start < all.len() {
            let mut end = start;
            let mut timestamps = 0;
            while end < all.len() && (end == start || timestamps + all[end].count as usize <= TIMES_PER_GROUP) {
                timestamps += all[end].count as usize;
                end += 1;
            }
            let range = start..end;
            let rows = &all[range.clone()];
            file.row_group(vec![
                constant(*start_ms, rows.len()),
                Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.min_ms))),
                Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.max_ms))),
                numbers(rows.iter().map(|r| r.count)),
                numbers(rows.iter().map(|r| r.uses)),
                binary(&window.times.data, range.clone()),
            ])?;
            start = end;
        }
    }
    file.finish()
}

/// `chunks.parquet`: row groups of one window and a run of series.
pub(crate) fn chunks(chunks: &mut ChunkTable, config: &WriterConfig) -> Result<ParquetBytes> {
    let schema = Schema::new(vec![
        Field::new(WINDOW_COLUMN, DataType::Int64, false),
        Field::new(SERIES_COLUMN, DataType::UInt32, false),
        Field::new(TIMES_COLUMN, DataType::UInt32, false),
        Field::new(KIND_COLUMN, DataType::UInt8, false),
        Field::new(CODEC_COLUMN, DataType::UInt8, false),
        Field::new(DATA_COLUMN, DataType::Binary, false),
    ]);
    let values = if config.values_zstd_level == 0 { Compression::UNCOMPRESSED } else { zstd(config.values_zstd_level)? };
    let data = ColumnPath::from(DATA_COLUMN);
    let mut properties = properties(zstd(INDEX_ZSTD_LEVEL)?)
        .set_data_page_row_count_limit(1 << 14)
        .set_write_batch_size(PAGE_STEP_ROWS)
        .set_column_compression(data.clone(), values)
        .set_column_data_page_size_limit(data, config.page_bytes);
    for column in [SERIES_COLUMN, TIMES_COLUMN] {
        properties = delta(properties, column);
    }
    properties = payload(properties);
    // Growing would copy what is there, and hold it twice meanwhile. What is not written to takes no memory.
    let size_bytes: usize = chunks.windows.values().map(|w| w.data.size() + MAX_ROW_BYTES * w.series.len()).sum();
    let mut file = File::with_capacity(schema, properties, size_bytes + size_bytes / 16)?;
    let mut times_base = 0;
    for (start_ms, window) in &mut chunks.windows {
        let mut start = 0;
        while start < window.series.len() {
            let end = (start + config.chunks_per_group).min(window.series.len());
            let end = window.data.end_within(start..end, MAX_GROUP_BYTES);
            while start < end {
                let slice = slice_end(&window.data, start..end);
                file.rows(chunk_columns(*start_ms, window, times_base, start..slice))?;
                start = slice;
                // They are in the file now; both together would take twice the memory.
                window.data.free_before(start);
            }
            file.end_group()?;
        }
        times_base += window.times.rows.len() as u32;
    }
    file.finish()
}

/// Where the first slice of some rows ends. Pages end where they would without slices, at whole steps.
fn slice_end(data: &Bytes, rows: std::ops::Range<usize>) -> usize {
    let fit = data.end_within(rows.clone(), SLICE_BYTES) - rows.start;
    rows.end.min(rows.start + (fit / PAGE_STEP_ROWS * PAGE_STEP_ROWS).max(PAGE_STEP_ROWS))
}

fn chunk_columns(start_ms: i64, window: &Window, times_base: u32, rows: std::ops::Range<usize>) -> Vec<ArrayRef> {
    vec![
        constant(start_ms, rows.len()),
        numbers(window.series[rows.clone()].iter().copied()),
        numbers(window.times_rows[rows.clone()].iter().map(|r| times_base + r)),
        Arc::new(UInt8Array::from(window.kinds[rows.clone()].to_vec())),
        Arc::new(UInt8Array::from(window.codecs[rows.clone()].to_vec())),
        binary(&window.data, rows),
    ]
}

/// `exemplars.parquet`.
pub(crate) fn exemplars(exemplars: &[(u32, Exemplar)]) -> Result<ParquetBytes> {
    let schema = Schema::new(vec![
        Field::new(SERIES_COLUMN, DataType::UInt32, false),
        Field::new("timestamp_ms", DataType::Int64, false),
        Field::new("value", DataType::Float64, false),
        Field::new("labels", DataType::Binary, false),
    ]);
    let properties = delta(delta(properties(zstd(INDEX_ZSTD_LEVEL)?), SERIES_COLUMN), "timestamp_ms").set_offset_index_disabled(true);
    let mut file = File::new(schema, properties)?;
    for part in exemplars.chunks(EXEMPLARS_PER_GROUP) {
        file.row_group(vec![
            numbers(part.iter().map(|(row, _)| *row)),
            Arc::new(Int64Array::from_iter_values(part.iter().map(|(_, e)| e.timestamp_ms))),
            Arc::new(Float64Array::from_iter_values(part.iter().map(|(_, e)| e.value))),
            Arc::new(BinaryArray::from_iter_values(part.iter().map(|(_, e)| e.labels.as_bytes()))),
        ])?;
    }
    file.finish()
}

fn zstd(level: i32) -> Result<Compression> {
    Ok(Compression::ZSTD(ZstdLevel::try_new(level)?))
}

fn properties(compression: Compression) -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_created_by("isobar".to_owned())
        .set_compression(compression)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_statistics_truncate_length(Some(STATISTICS_BYTES))
        .set_dictionary_page_size_limit(MAX_DICTIONARY_BYTES)
        .set_max_row_group_row_count(None)
}

/// Numbers that mostly ascend by little.
fn delta(properties: WriterPropertiesBuilder, column: &'static str) -> WriterPropertiesBuilder {
    let column = ColumnPath::from(column);
    properties.set_column_dictionary_enabled(column.clone(), false).set_column_encoding(column, Encoding::DELTA_BINARY_PACKED)
}

/// Bytes that are compressed already: no dictionary, no statistics.
fn payload(properties: WriterPropertiesBuilder) -> WriterPropertiesBuilder {
    let column = ColumnPath::from(DATA_COLUMN);
    properties
        .set_column_dictionary_enabled(column.clone(), false)
        .set_column_encoding(column.clone(), Encoding::DELTA_LENGTH_BYTE_ARRAY)
        .set_column_statistics_enabled(column, EnabledStatistics::None)
}

fn constant(value: i64, rows: usize) -> ArrayRef {
    Arc::new(Int64Array::from_value(value, rows))
}

fn binary(bytes: &Bytes, rows: std::ops::Range<usize>) -> ArrayRef {
    Arc::new(BinaryArray::from_iter_values(rows.map(|i| bytes.get(i))))
}

/// Properties of `rollup.parquet`, whose columns of floats are `floats`: measured over plain and dictionary encodings. All
/// columns have statistics, so that other readers skip row groups.
pub(super) fn rollup_properties(floats: &[&'static str]) -> Result<WriterPropertiesBuilder> {
    let mut properties = properties(zstd(ROLLUP_ZSTD_LEVEL)?)
        .set_dictionary_enabled(false)
        .set_encoding(Encoding::DELTA_BINARY_PACKED)
        .set_offset_index_disabled(true)
        .set_data_page_row_count_limit(ROLLUP_PAGE_ROWS);
    for column in floats {
        properties = properties.set_column_encoding(ColumnPath::from(*column), Encoding::BYTE_STREAM_SPLIT);
    }
    Ok(properties)
}

pub(super) struct File {
    schema: Arc<Schema>,
    writer: ArrowWriter<Vec<u8>>,
}

impl File {
    pub(super) fn new(schema: Schema, properties: WriterPropertiesBuilder) -> Result<Self> {
        Self::with_capacity(schema, properties, 0)
    }

    fn with_capacity(schema: Schema, properties: WriterPropertiesBuilder, size_bytes: usize) -> Result<Self> {
        let schema = Arc::new(schema);
        let options = ArrowWriterOptions::new().with_properties(properties.build()).with_skip_arrow_metadata(true);
        Ok(Self { writer: ArrowWriter::try_new_with_options(Vec::with_capacity(size_bytes), schema.clone(), options)?, schema })
    }

    pub(super) fn row_group(&mut self, columns: Vec<ArrayRef>) -> Result<()> {
        self.rows(columns)?;
        self.end_group()
    }

    /// Adds rows to the row group that is being encoded.
    fn rows(&mut self, columns: Vec<ArrayRef>) -> Result<()> {
        Ok(self.writer.write(&RecordBatch::try_new(self.schema.clone(), columns)?)?)
    }

    fn end_group(&mut self) -> Result<()> {
        Ok(self.writer.flush()?)
    }

    /// Size of the row groups so far.
    pub(super) fn written_bytes(&self) -> usize {
        self.writer.bytes_written()
    }

    pub(super) fn finish(mut self) -> Result<ParquetBytes> {
        let metadata = self.writer.finish()?;
        let bytes = std::mem::take(self.writer.inner_mut());
        let columns = metadata.row_groups().iter().flat_map(|g| g.columns());
        let data_end = columns.map(|c| c.byte_range()).map(|(start, len)| start + len).max().unwrap_or(0);
        Ok(ParquetBytes { tail_bytes: bytes.len() as u64 - data_end, bytes })
    }
}
