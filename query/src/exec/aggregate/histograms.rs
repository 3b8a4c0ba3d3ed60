//! The part of an aggregation's state that is made of native histograms: their sum and number, for each group and step that
//! has any.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, new_null_array};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::EmitTo;
use isobar_block::Histogram;
use isobar_block::codec::{decode_histograms, encode_histograms};
use isobar_block::histogram::ResetHint;

use crate::exec::cells::{CELLS_TYPE, Cell};
use crate::kernel::histogram::FloatHistogram;
use crate::kernel::histogram::window::Notes;

/// Bytes of an encoded entry besides its histogram: step, number, flags.
const ENTRY_BYTES: usize = 4 + 8 + 1;

/// What an entry is counted for in memory.
const ENTRY_MEMORY_BYTES: usize = 768;

/// Sums of histograms by group and step.
#[derive(Default)]
pub struct HistogramSums {
    sums: BTreeMap<(usize, u32), Sum>,
    /// What is worth an annotation.
    pub notes: Notes,
}

struct Sum {
    /// Absent if the histograms cannot be added.
    total: Option<FloatHistogram>,
    count: f64,
    /// Whether any had the hint "reset".
    reset: bool,
    /// Whether any had the hint "not reset".
    no_reset: bool,
}

/// Flag of an entry: there is a sum.
const HAS_TOTAL: u8 = 1;
/// Flag of an entry: [`Sum::reset`].
const RESET: u8 = 2;
/// Flag of an entry: [`Sum::no_reset`].
const NO_RESET: u8 = 4;

impl Sum {
    fn flags(&self) -> u8 {
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        flag(self.total.is_some(), HAS_TOTAL) | flag(self.reset, RESET) | flag(self.no_reset, NO_RESET)
    }
}

impl HistogramSums {
    /// Adds the histograms of a row to a group.
    pub fn update(&mut self, group: usize, cells: &[Cell]) {
        for cell in cells {
            let hint = cell.histogram.reset_hint;
            let other = Sum { total: None, count: 1.0, reset: hint == ResetHint::Yes, no_reset: hint == ResetHint::No };
            self.add(group, cell.step, Some(&cell.histogram), &other);
        }
    }

    /// Adds `histogram`, which is that of `other` but borrowed.
    fn add(&mut self, group: usize, step: u32, histogram: Option<&FloatHistogram>, other: &Sum) {
        let Some(sum) = self.sums.get_mut(&(group, step)) else {
            self.sums.insert((group, step), Sum { total: histogram.cloned(), ..*other });
            return;
        };
        sum.count += other.count;
        sum.reset |= other.reset;
        sum.no_reset |= other.no_reset;
        let (Some(total), Some(histogram)) = (&mut sum.total, histogram) else {
            sum.total = None;
            return;
        };
        match total.add(histogram) {
            Ok(combined) => {
                self.notes.reconciled_add |= combined.bounds_reconciled;
            }
            Err(_) => {
                self.notes.mixed_schemas = true;
                sum.total = None;
            }
        }
    }

    /// Takes out the groups below `groups`; those after them move to the front.
    fn take(&mut self, emit_to: EmitTo, groups: usize) -> BTreeMap<(usize, u32), Sum> {
        match emit_to {
            EmitTo::All => std::mem::take(&mut self.sums),
            EmitTo::First(_) => {
                let later = self.sums.split_off(&(groups, 0));
                let first = std::mem::take(&mut self.sums);
                self.sums = later.into_iter().map(|((group, step), sum)| ((group - groups, step), sum)).collect();
                first
            }
        }
    }

    /// Sums (or, with `average`, means) of the groups that are emitted. Those that could not be added have none.
    pub fn finish(&mut self, emit_to: EmitTo, groups: usize, average: bool) -> Vec<(usize, u32, Option<Arc<FloatHistogram>>)> {
        let sums = self.take(emit_to, groups);
        self.notes.reset_collision |= sums.values().any(|sum| sum.reset && sum.no_reset);
        let result = |((group, step), sum): ((usize, u32), Sum)| {
            let total = sum.total.map(|mut total| {
                if average {
                    total.divide(sum.count);
                }
                Arc::new(total)
            });
            (group, step, total)
        };
        sums.into_iter().map(result).collect()
    }

    /// The state of the groups that are emitted, as a column.
    pub fn state(&mut self, emit_to: EmitTo, groups: usize) -> ArrayRef {
        let sums = self.take(emit_to, groups);
        if sums.is_empty() {
            return new_null_array(&CELLS_TYPE, groups);
        }
        let mut builder = BinaryBuilder::with_capacity(groups, 0);
        for group in 0..groups {
            let own: Vec<_> = sums.range((group, 0)..(group + 1, 0)).collect();
            if own.is_empty() {
                builder.append_null();
                continue;
            }
            let mut bytes = (own.len() as u32).to_le_bytes().to_vec();
            for ((_, step), sum) in &own {
                bytes.extend_from_slice(&step.to_le_bytes());
                bytes.extend_from_slice(&sum.count.to_le_bytes());
                bytes.push(sum.flags());
            }
            let totals: Vec<Histogram> = own.iter().filter_map(|(_, sum)| sum.total.as_ref().map(Histogram::from)).collect();
            encode_histograms(&totals.iter().collect::<Vec<_>>(), &mut bytes);
            builder.append_value(&bytes);
        }
        Arc::new(builder.finish())
    }

    /// Adds the state of another partition.
    ///
    /// # Errors
    /// If the column is corrupt.
    pub fn merge(&mut self, column: &ArrayRef, group_indices: &[usize]) -> Result<()> {
        if column.null_count() == column.len() {
            return Ok(());
        }
        let corrupt = || DataFusionError::Internal("a column of histogram sums is corrupt".into());
        let column: &BinaryArray = column.as_binary_opt().ok_or_else(corrupt)?;
        for (row, group) in group_indices.iter().enumerate().filter(|(row, _)| column.is_valid(*row)) {
            let bytes = column.value(row);
            let count = bytes.get(..4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes).ok_or_else(corrupt)? as usize;
            let (entries, encoded) = bytes[4..].split_at_checked(count * ENTRY_BYTES).ok_or_else(corrupt)?;
            let valid = entries.chunks_exact(ENTRY_BYTES).filter(|e| e[ENTRY_BYTES - 1] & HAS_TOTAL != 0).count();
            let mut totals = Vec::new();
            decode_histograms(encoded, valid, &mut totals).map_err(crate::result::Error::from)?;
            let mut totals = totals.iter().map(FloatHistogram::from);
            for entry in entries.chunks_exact(ENTRY_BYTES) {
                let step = u32::from_le_bytes(entry[..4].try_into().expect("four bytes"));
                let number = f64::from_le_bytes(entry[4..12].try_into().expect("eight bytes"));
                let flags = entry[ENTRY_BYTES - 1];
                let total = if flags & HAS_TOTAL != 0 { totals.next() } else { None };
                let other = Sum { total: None, count: number, reset: flags & RESET != 0, no_reset: flags & NO_RESET != 0 };
                self.add(*group, step, total.as_ref(), &other);
            }
        }
        Ok(())
    }

    /// Memory that is held.
    pub fn size_bytes(&self) -> usize {
        self.sums.len() * ENTRY_MEMORY_BYTES
    }
}
