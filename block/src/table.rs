//! One Parquet file of a block, read by ranges that are checked against the block's checksums before anything looks at them.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use bytes::buf::Reader;
use bytes::{Buf, Bytes};
use object_store::ObjectStore;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};

use crate::checksum::{CHECKSUM_BLOCK_BYTES, FileChecksums};
use crate::meta::FileMeta;
use crate::{Error, Result};

/// An opened file: its footer and page index are in memory.
pub(crate) struct Table {
    key: Path,
    checksums: FileChecksums,
    metadata: ArrowReaderMetadata,
}

impl Table {
    /// Fetches the end of the file and reads footer and page index. Columns for which `as_dictionary` says so are read as
    /// Arrow dictionaries.
    pub async fn open(
        store: &dyn ObjectStore,
        key: Path,
        file: &FileMeta,
        checksums: FileChecksums,
        as_dictionary: fn(&str) -> bool,
    ) -> Result<Self> {
        if checksums.size_bytes != file.size_bytes || file.tail_bytes > file.size_bytes {
            return Err(Error::corrupt(key, "catalog and checksum table disagree about the size"));
        }
        let tail = file.size_bytes - file.tail_bytes..file.size_bytes;
        let tail = fetch(store, &key, &checksums, std::slice::from_ref(&tail)).await?;
        let corrupt = |e: ParquetError| Error::corrupt(key.as_ref(), e.to_string());
        let metadata = ParquetMetaDataReader::new()
            .with_column_index_policy(PageIndexPolicy::Skip)
            .with_offset_index_policy(PageIndexPolicy::Optional)
            .parse_and_finish(&tail)
            .map_err(corrupt)?;
        let metadata = with_dictionaries(Arc::new(metadata), as_dictionary).map_err(corrupt)?;
        Ok(Self { key, checksums, metadata })
    }

    pub fn key(&self) -> &Path {
        &self.key
    }

    pub fn metadata(&self) -> &ParquetMetaData {
        self.metadata.metadata()
    }

    pub fn schema(&self) -> &Schema {
        self.metadata.schema()
    }

    /// About what the opened file takes in memory.
    pub fn memory_bytes(&self) -> usize {
        self.metadata().memory_size() + 4 * self.checksums.crc32.len() + 64 * self.schema().fields().len()
    }

    /// Number of the column of that name.
    pub fn column(&self, name: &str) -> Result<usize> {
        self.schema().index_of(name).map_err(|_| self.corrupt(format!("column {name:?} is missing")))
    }

    pub fn corrupt(&self, reason: impl Into<String>) -> Error {
        Error::corrupt(self.key.as_ref(), reason)
    }

    /// Fetches whole columns of one row group and decodes them into one batch, in the file's order of columns.
    pub async fn read(&self, store: &dyn ObjectStore, group: usize, columns: &[usize]) -> Result<RecordBatch> {
        let row_group = self.metadata().row_group(group);
        let ranges: Vec<_> = columns.iter().map(|c| as_range(row_group.column(*c).byte_range())).collect();
        let bytes = fetch(store, &self.key, &self.checksums, &ranges).await?;
        self.decode(bytes, group, columns, None)
    }

    /// First row of each page of a column within its row group.
    pub fn page_starts(&self, group: usize, column: usize) -> Result<Vec<u32>> {
        let starts: Vec<u32> = self.page_index(group, column)?.iter().map(|p| p.first_row_index as u32).collect();
        if starts.first() != Some(&0) || !starts.is_sorted() {
            return Err(self.corrupt("the page index does not begin at the first row or does not ascend"));
        }
        Ok(starts)
    }

    /// Fetches some pages of one column without dictionary.
    pub async fn fetch_pages(&self, store: &dyn ObjectStore, column: usize, pages: &[(usize, usize)]) -> Result<SparseBytes> {
        let mut ranges = Vec::with_capacity(pages.len());
        for (group, page) in pages {
            let page = &self.page_index(*group, column)?[*page];
            ranges.push(as_range((page.offset as u64, page.compressed_page_size as u64)));
        }
        fetch(store, &self.key, &self.checksums, &ranges).await
    }

    /// Decodes `rows` of one column of a row group from pages that were fetched before.
    pub fn decode_rows(&self, bytes: SparseBytes, group: usize, column: usize, rows: Range<usize>) -> Result<RecordBatch> {
        self.decode(bytes, group, &[column], Some(rows))
    }

    fn page_index(&self, group: usize, column: usize) -> Result<&[parquet::file::page_index::offset_index::PageLocation]> {
        let index = self.metadata().offset_index().ok_or_else(|| self.corrupt("there is no page index"))?;
        let column = index.get(group).and_then(|g| g.get(column)).ok_or_else(|| self.corrupt("the page index is incomplete"))?;
        Ok(column.page_locations())
    }

    fn decode(&self, bytes: SparseBytes, group: usize, columns: &[usize], rows: Option<Range<usize>>) -> Result<RecordBatch> {
        let all_rows = self.metadata().row_group(group).num_rows() as usize;
        let mask = ProjectionMask::leaves(self.metadata.parquet_schema(), columns.iter().copied());
        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes, self.metadata.clone())
            .with_row_groups(vec![group])
            .with_projection(mask)
            .with_batch_size(all_rows.max(1));
        let wanted = rows.as_ref().map_or(all_rows, ExactSizeIterator::len);
        if let Some(rows) = rows {
            let selectors = vec![RowSelector::skip(rows.start), RowSelector::select(rows.len()), RowSelector::skip(all_rows - rows.end)];
            builder = builder.with_row_selection(RowSelection::from(selectors));
        }
        let mut reader = builder.build().map_err(|e| self.corrupt(e.to_string()))?;
        let batch = reader.next().transpose().map_err(|e| self.corrupt(e.to_string()))?;
        match batch {
            Some(batch) if batch.num_rows() == wanted => Ok(batch),
            Some(batch) => Err(self.corrupt(format!("row group {group} has {} rows in place of {wanted}", batch.num_rows()))),
            None => Err(self.corrupt(format!("row group {group} is empty"))),
        }
    }
}

fn with_dictionaries(metadata: Arc<ParquetMetaData>, as_dictionary: fn(&str) -> bool) -> Result<ArrowReaderMetadata, ParquetError> {
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let plain = ArrowReaderMetadata::try_new(metadata.clone(), options.clone())?;
    let fields = plain.schema().fields().iter().map(|field| {
        if as_dictionary(field.name()) {
            let dictionary = DataType::Dictionary(Box::new(DataType::UInt32), Box::new(DataType::Utf8));
            Arc::new(Field::new(field.name(), dictionary, field.is_nullable()))
        } else {
            field.clone()
        }
    });
    let schema = Schema::new(fields.collect::<Vec<_>>());
    ArrowReaderMetadata::try_new(metadata, options.with_schema(Arc::new(schema)))
}

fn as_range((start, len): (u64, u64)) -> Range<u64> {
    start..start.saturating_add(len)
}

/// Fetches `ranges`, widened to whole checksum blocks, and checks them.
async fn fetch(store: &dyn ObjectStore, key: &Path, checksums: &FileChecksums, ranges: &[Range<u64>]) -> Result<SparseBytes> {
    let size = checksums.size_bytes;
    if ranges.iter().any(|r| r.end > size) {
        return Err(Error::corrupt(key.as_ref(), format!("a range ends beyond the {size} bytes of the file")));
    }
    let widen = |r: &Range<u64>| {
        let start = r.start / CHECKSUM_BLOCK_BYTES * CHECKSUM_BLOCK_BYTES;
        start..(r.end.div_ceil(CHECKSUM_BLOCK_BYTES) * CHECKSUM_BLOCK_BYTES).min(size)
    };
    let mut wide: Vec<Range<u64>> = ranges.iter().filter(|r| !r.is_empty()).map(widen).collect();
    wide.sort_by_key(|r| r.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(wide.len());
    for range in wide {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    let parts = if merged.is_empty() { Vec::new() } else { store.get_ranges(key, &merged).await.map_err(|e| short_read(key, e))? };
    for (range, part) in merged.iter().zip(&parts) {
        if part.len() as u64 != range.end - range.start {
            return Err(Error::corrupt(key.as_ref(), format!("cut off: bytes {range:?} cannot be read")));
        }
        checksums
            .check(range.start, part)
            .map_err(|at| Error::corrupt(key.as_ref(), format!("the checksum of the {CHECKSUM_BLOCK_BYTES} bytes at {at} does not fit")))?;
    }
    Ok(SparseBytes { size, parts: merged.iter().map(|r| r.start).zip(parts).collect() })
}

/// Object stores report a range beyond the end of an object as a failure of the request; here it means a damaged file.
fn short_read(key: &Path, error: object_store::Error) -> Error {
    match error {
        object_store::Error::Generic { .. } => Error::corrupt(key.as_ref(), format!("cannot be read in full: {error}")),
        other => other.into(),
    }
}

/// Parts of a file that were fetched, addressed by their place in the file.
#[derive(Clone, Debug)]
pub(crate) struct SparseBytes {
    size: u64,
    parts: Arc<[(u64, Bytes)]>,
}

impl SparseBytes {
    fn from(&self, start: u64) -> Result<Bytes, ParquetError> {
        let index = self.parts.partition_point(|(s, _)| *s <= start);
        let (part_start, part) = index
            .checked_sub(1)
            .map(|i| &self.parts[i])
            .filter(|(s, b)| start <= *s + b.len() as u64)
            .ok_or_else(|| ParquetError::General(format!("byte {start} was not fetched")))?;
        Ok(part.slice((start - part_start) as usize..))
    }
}

impl Length for SparseBytes {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for SparseBytes {
    type T = Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Reader<Bytes>, ParquetError> {
        self.from(start).map(Buf::reader)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let part = self.from(start)?;
        if length > part.len() {
            return Err(ParquetError::General(format!("bytes {start}+{length} were not fetched")));
        }
        Ok(part.slice(..length))
    }
}
