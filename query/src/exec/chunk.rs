//! Rows as operators work on them, and their form as record batches.
//!
//! A batch has the columns `labels: BinaryView` (the canonical bytes of the current expression's label set),
//! `values: FixedSizeList<Float64, steps>`, where the stale marker's bits stand for "no sample", and `histograms: Binary`, null
//! for all rows that have none (see [`super::cells`]). An aggregation gives the last two as one struct.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewArray, BinaryViewBuilder, FixedSizeListArray, Float64Array};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Float64Type, Schema, SchemaRef, ToByteSlice};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use datafusion::error::{DataFusionError, Result};
use isobar_block::sample::STALE_NAN_BITS;
use isobar_block::{LabelsRef, is_stale};

use super::cells::{CELLS_TYPE, Cell, cells_array, cells_of, is_histogram, leave_out_histograms};
use super::context::QueryContext;
use super::release::{Values, Weight};

/// Position of the label column.
pub const LABELS: usize = 0;
/// Position of the value column.
pub const VALUES: usize = 1;
/// Position of the histogram column.
pub const HISTOGRAMS: usize = 2;

/// The bits that stand for "no sample".
pub const ABSENT: f64 = f64::from_bits(STALE_NAN_BITS);

/// Most values in one batch that an operator makes; more rows are cut into several.
pub const BATCH_VALUES: usize = 32_768;

/// Rows after which loops over them look at the cancel flag, if they do little with each.
pub const CANCEL_ROWS: usize = 64;

/// What a histogram is counted for in memory: its struct and some ten buckets.
const CELL_BYTES: usize = 512;

/// Rows in a batch of vectors with `steps` values: enough to spread the fixed costs, few enough to cancel promptly.
pub fn batch_rows(steps: usize) -> usize {
    (BATCH_VALUES / steps.max(1)).clamp(16, 1024)
}

/// The element field of the value column.
pub fn item_field() -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Float64, false))
}

/// The type of the value column.
pub fn values_type(steps: usize) -> DataType {
    DataType::FixedSizeList(item_field(), steps as i32)
}

/// The schema of vectors with `steps` values.
pub fn schema(steps: usize) -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("labels", DataType::BinaryView, false),
        Field::new("values", values_type(steps), false),
        Field::new("histograms", CELLS_TYPE, true),
    ]))
}

/// The type of what an aggregation gives: values and histograms.
pub fn result_type(steps: usize) -> DataType {
    DataType::Struct(result_fields(steps))
}

/// The fields of [`result_type`].
pub fn result_fields(steps: usize) -> Fields {
    Fields::from(vec![Field::new("values", values_type(steps), false), Field::new("histograms", CELLS_TYPE, true)])
}

/// Wraps values, `steps` for each row, as a value column.
///
/// # Errors
/// If the number of values is not a multiple of `steps`.
pub fn values_array(steps: usize, values: Vec<f64>) -> Result<FixedSizeListArray> {
    let floats = Float64Array::new(ScalarBuffer::from(values), None);
    Ok(FixedSizeListArray::try_new(item_field(), steps as i32, Arc::new(floats), None)?)
}

/// [`values_array`] whose memory is given back on another thread if it is large, whoever drops it.
///
/// # Errors
/// If the number of values is not a multiple of `steps`.
pub fn released_array(steps: usize, values: Values) -> Result<FixedSizeListArray> {
    struct Owner(Values);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            self.0.as_slice().to_byte_slice()
        }
    }
    let len = values.len();
    let buffer = Buffer::from(Bytes::from_owner(Owner(values)));
    let floats = Float64Array::new(ScalarBuffer::new(buffer, 0, len), None);
    Ok(FixedSizeListArray::try_new(item_field(), steps as i32, Arc::new(floats), None)?)
}

/// The values inside of a value column, row after row.
///
/// # Errors
/// If the column has another type.
pub fn flat_values(column: &ArrayRef) -> Result<&Float64Array> {
    let list = column.as_fixed_size_list_opt().ok_or_else(|| DataFusionError::Internal("a value column is not a list".into()))?;
    list.values().as_primitive_opt::<Float64Type>().ok_or_else(|| DataFusionError::Internal("a value column is not of floats".into()))
}

/// Some rows.
#[derive(Debug)]
pub struct Chunk {
    /// Values for each row.
    pub steps: usize,
    /// Label sets.
    pub labels: BinaryViewArray,
    /// Row after row, `steps` values each.
    pub values: Values,
    /// The native histograms, ascending by row and step; the value at these places is [`super::cells::HISTOGRAM`].
    pub cells: Vec<Cell>,
}

impl Chunk {
    /// No rows.
    pub fn empty(steps: usize) -> Self {
        ChunkBuilder::new(steps, 0).finish()
    }

    /// One row.
    pub fn single(labels: LabelsRef<'_>, values: Vec<f64>) -> Self {
        let mut builder = ChunkBuilder::new(values.len(), 1);
        builder.push(labels, &values);
        builder.finish()
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Labels of a row.
    pub fn labels(&self, row: usize) -> LabelsRef<'_> {
        labels_of(&self.labels, row)
    }

    /// Values of a row.
    pub fn row(&self, row: usize) -> &[f64] {
        &self.values[row * self.steps..][..self.steps]
    }

    /// Histograms of a row.
    pub fn cells(&self, row: usize) -> &[Cell] {
        let from = self.cells.partition_point(|c| (c.row as usize) < row);
        let count = self.cells[from..].partition_point(|c| c.row as usize == row);
        &self.cells[from..from + count]
    }

    /// The rows without their histograms.
    pub fn floats_only(mut self) -> Self {
        if !self.cells.is_empty() {
            leave_out_histograms(&mut self.values);
            self.cells.clear();
        }
        self
    }

    /// Bytes that the rows take, for memory accounting.
    pub fn size_bytes(&self) -> usize {
        self.values.capacity() * size_of::<f64>() + self.labels.get_array_memory_size() + self.cells.len() * CELL_BYTES
    }

    /// All rows of several chunks.
    ///
    /// # Errors
    /// If the query is canceled.
    pub fn concat(steps: usize, chunks: Vec<Self>, query: &QueryContext) -> crate::result::Result<Self> {
        if chunks.len() == 1 {
            return Ok(chunks.into_iter().next().expect("there is one"));
        }
        let mut all = ChunkBuilder::new(steps, chunks.iter().map(Self::len).sum());
        for chunk in chunks {
            for row in 0..chunk.len() {
                if row.is_multiple_of(CANCEL_ROWS) {
                    query.check_canceled()?;
                }
                all.push_row(&chunk, row);
            }
        }
        Ok(all.finish())
    }

    /// A copy of some rows.
    pub fn rows(&self, rows: std::ops::Range<usize>) -> Self {
        let mut some = ChunkBuilder::new(self.steps, rows.len());
        rows.for_each(|row| some.push_row(self, row));
        some.finish()
    }

    /// Takes the columns of a batch, without copying where nobody else holds them.
    ///
    /// # Errors
    /// If the batch has another schema.
    pub fn from_batch(batch: RecordBatch) -> Result<Self> {
        let (_, mut columns, rows) = batch.into_parts();
        if let Some(both) = columns.get(VALUES).and_then(|c| c.as_struct_opt()) {
            let inner = both.columns().to_vec();
            columns.truncate(VALUES);
            columns.extend(inner);
        }
        let mut columns = columns.into_iter();
        let (Some(labels), Some(values), Some(cells)) = (columns.next(), columns.next(), columns.next()) else {
            return Err(DataFusionError::Internal("a batch has no labels, no values or no histograms".into()));
        };
        let labels =
            labels.as_binary_view_opt().cloned().ok_or_else(|| DataFusionError::Internal("a label column is not binary".into()))?;
        let floats = flat_values(&values)?.values().clone();
        drop(values);
        let steps = floats.len().checked_div(rows).unwrap_or(0);
        let values = floats.into_inner().into_vec::<f64>().unwrap_or_else(|shared| ScalarBuffer::<f64>::from(shared).to_vec());
        Ok(Self { steps, labels, values: values.into(), cells: cells_of(&cells)? })
    }

    /// The rows as a batch of [`schema`].
    ///
    /// # Errors
    /// If the number of values does not fit the number of rows.
    pub fn into_batch(self, schema: SchemaRef) -> Result<RecordBatch> {
        let values = values_array(self.steps, self.values.into_inner())?;
        let cells = cells_array(self.labels.len(), &self.cells);
        Ok(RecordBatch::try_new(schema, vec![Arc::new(self.labels), Arc::new(values), cells])?)
    }
}

impl Weight for Vec<Chunk> {
    fn weight_bytes(&self) -> usize {
        self.iter().map(Chunk::size_bytes).sum()
    }
}

/// The labels in a row of a label column.
pub fn labels_of(column: &BinaryViewArray, row: usize) -> LabelsRef<'_> {
    // SAFETY: label columns are filled by `ChunkBuilder` and the scan only, from canonical label sets.
    unsafe { LabelsRef::from_bytes_unchecked(column.value(row)) }
}

/// Labels in bytes that an operator has put together in canonical form: in ascending order of names, without empty values.
pub fn labels_from_bytes(bytes: &[u8]) -> LabelsRef<'_> {
    // SAFETY: the callers copy labels of canonical sets, or append them in order with `push_label`.
    unsafe { LabelsRef::from_bytes_unchecked(bytes) }
}

/// Collects rows.
pub struct ChunkBuilder {
    steps: usize,
    labels: BinaryViewBuilder,
    /// The values so far. Whoever appends here directly appends `steps` of them, and the labels with
    /// [`ChunkBuilder::push_labels`].
    pub values: Values,
    cells: Vec<Cell>,
    rows: usize,
}

impl ChunkBuilder {
    /// Makes room for `rows` rows.
    pub fn new(steps: usize, rows: usize) -> Self {
        Self {
            steps,
            labels: BinaryViewBuilder::with_capacity(rows),
            values: Vec::with_capacity(rows * steps).into(),
            cells: Vec::new(),
            rows: 0,
        }
    }

    /// Number of rows so far.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is no row yet.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Makes room for `rows` more rows.
    pub fn reserve(&mut self, rows: usize) {
        self.values.reserve_exact(rows * self.steps);
    }

    /// Appends a row.
    pub fn push(&mut self, labels: LabelsRef<'_>, values: &[f64]) {
        debug_assert_eq!(values.len(), self.steps);
        self.values.extend_from_slice(values);
        self.push_labels(labels);
    }

    /// Appends a row of another chunk.
    pub fn push_row(&mut self, chunk: &Chunk, row: usize) {
        self.push_with(chunk.labels(row), chunk.row(row), chunk.cells(row));
    }

    /// Appends a row; of the histograms those remain at whose step the values have the marker.
    pub fn push_with(&mut self, labels: LabelsRef<'_>, values: &[f64], cells: &[Cell]) {
        self.add_cells(cells, |step| is_histogram(values[step]));
        self.push(labels, values);
    }

    /// Adds histograms to the row that is being made, those at whose step `keep` says so.
    pub fn add_cells(&mut self, cells: &[Cell], keep: impl Fn(usize) -> bool) {
        let row = self.rows;
        self.cells.extend(cells.iter().filter(|c| keep(c.step as usize)).map(|c| c.in_row(row)));
    }

    /// Takes back the values and histograms of the row that is being made.
    pub fn discard_row(&mut self) {
        self.values.truncate(self.rows * self.steps);
        let rows = self.rows as u32;
        while self.cells.last().is_some_and(|c| c.row >= rows) {
            self.cells.pop();
        }
    }

    /// Appends the labels of a row whose values are in [`ChunkBuilder::values`] already.
    pub fn push_labels(&mut self, labels: LabelsRef<'_>) {
        self.labels.append_value(labels.as_bytes());
        self.rows += 1;
        debug_assert_eq!(self.values.len(), self.rows * self.steps);
    }

    /// The rows, of which only the values are in the builder.
    pub fn finish_with_labels<'a>(mut self, labels: impl Iterator<Item = LabelsRef<'a>>) -> Chunk {
        for labels in labels {
            self.labels.append_value(labels.as_bytes());
            self.rows += 1;
        }
        debug_assert_eq!(self.values.len(), self.rows * self.steps);
        self.finish()
    }

    /// The rows; the builder is empty then.
    pub fn finish(&mut self) -> Chunk {
        self.rows = 0;
        let values = std::mem::take(&mut self.values);
        Chunk { steps: self.steps, labels: self.labels.finish(), values, cells: std::mem::take(&mut self.cells) }
    }
}

/// Whether a value is one, and not "no sample".
#[inline]
pub fn present(value: f64) -> bool {
    !is_stale(value)
}

/// Whether a row has a sample at all.
pub fn any_present(values: &[f64]) -> bool {
    values.iter().any(|v| present(*v))
}
