//! Native histograms in rows of vectors. They are rare: a row has a list of (step, histogram), and at such a step its value
//! is a marker of its own, so that what only asks "is there a sample" need not know of histograms.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, new_null_array};
use arrow::datatypes::DataType;
use datafusion::error::{DataFusionError, Result};
use isobar_block::Histogram;
use isobar_block::codec::{decode_histograms, encode_histograms};

use super::chunk::ABSENT;
use crate::kernel::histogram::FloatHistogram;

/// Bits of the value where a histogram is. A NaN that no arithmetic makes, and not the one that stands for "no sample".
const HISTOGRAM_BITS: u64 = 0x7ff0_0000_0000_0003;

/// The value where a histogram is.
pub const HISTOGRAM: f64 = f64::from_bits(HISTOGRAM_BITS);

/// Whether a value is [`HISTOGRAM`].
#[inline]
pub fn is_histogram(value: f64) -> bool {
    value.to_bits() == HISTOGRAM_BITS
}

/// A histogram at a step of a row.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The row.
    pub row: u32,
    /// The step.
    pub step: u32,
    /// What is there.
    pub histogram: Arc<FloatHistogram>,
}

impl Cell {
    /// The same in another row.
    pub fn in_row(&self, row: usize) -> Self {
        Self { row: row as u32, step: self.step, histogram: Arc::clone(&self.histogram) }
    }
}

/// The type of the histogram column: for each row null, or its cells.
pub const CELLS_TYPE: DataType = DataType::Binary;

/// Cells, ascending, as a column of `rows` rows.
pub fn cells_array(rows: usize, cells: &[Cell]) -> ArrayRef {
    if cells.is_empty() {
        return new_null_array(&CELLS_TYPE, rows);
    }
    let mut builder = BinaryBuilder::with_capacity(rows, 0);
    let mut bytes = Vec::new();
    let mut rest = cells;
    for row in 0..rows {
        let (own, others) = rest.split_at(rest.partition_point(|c| c.row as usize <= row));
        rest = others;
        if own.is_empty() {
            builder.append_null();
            continue;
        }
        bytes.clear();
        encode_cells(own, &mut bytes);
        builder.append_value(&bytes);
    }
    Arc::new(builder.finish())
}

/// The cells in a column.
///
/// # Errors
/// If the column has another type or is corrupt.
pub fn cells_of(column: &ArrayRef) -> Result<Vec<Cell>> {
    if column.null_count() == column.len() {
        return Ok(Vec::new());
    }
    let column: &BinaryArray =
        column.as_binary_opt().ok_or_else(|| DataFusionError::Internal("a histogram column is not binary".into()))?;
    let mut cells = Vec::new();
    for row in (0..column.len()).filter(|row| column.is_valid(*row)) {
        decode_cells(row as u32, column.value(row), &mut cells)?;
    }
    Ok(cells)
}

/// Number of cells, their steps, then the histograms as in chunks.
fn encode_cells(cells: &[Cell], out: &mut Vec<u8>) {
    out.extend_from_slice(&(cells.len() as u32).to_le_bytes());
    for cell in cells {
        out.extend_from_slice(&cell.step.to_le_bytes());
    }
    let histograms: Vec<Histogram> = cells.iter().map(|c| Histogram::from(&*c.histogram)).collect();
    encode_histograms(&histograms.iter().collect::<Vec<_>>(), out);
}

fn decode_cells(row: u32, bytes: &[u8], out: &mut Vec<Cell>) -> Result<()> {
    let corrupt = || DataFusionError::Internal("a histogram column is corrupt".into());
    let number = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes).ok_or_else(corrupt);
    let count = number(0)? as usize;
    let mut histograms = Vec::new();
    decode_histograms(bytes.get(4 + 4 * count..).ok_or_else(corrupt)?, count, &mut histograms).map_err(crate::result::Error::from)?;
    for (i, histogram) in histograms.iter().enumerate() {
        out.push(Cell { row, step: number(4 + 4 * i)?, histogram: Arc::new(histogram.into()) });
    }
    Ok(())
}

/// Replaces the marker of histograms by "no sample", for functions of floats.
pub fn leave_out_histograms(values: &mut [f64]) {
    for v in values {
        *v = if is_histogram(*v) { ABSENT } else { *v };
    }
}
