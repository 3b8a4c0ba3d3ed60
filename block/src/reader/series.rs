//! A decoded row group of the series table: labels by column, as small numbers that stand for values.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, BinaryArray, RecordBatch};
use arrow::datatypes::{DataType, UInt32Type};
use parquet::file::statistics::Statistics;

use crate::cache::Weigh;
use crate::labels::push_label;
use crate::table::Table;
use crate::writer::{LABEL_PREFIX, REST_COLUMN, WriterConfig};
use crate::{LabelsRef, Result};

/// The labels of a run of series.
pub(crate) struct SeriesGroup {
    first_row: u32,
    rows: usize,
    /// Ascending by label name; labels that no series of the group has are left out.
    columns: Vec<LabelColumn>,
    /// Labels without a column, in canonical form.
    rest: Option<BinaryArray>,
    /// Names that occur in `rest`, ascending.
    rest_names: Vec<String>,
}

/// The values of one label. Code 0 means that a series does not have it.
pub(crate) struct LabelColumn {
    pub name: String,
    pub codes: Vec<u16>,
    /// For each code the label in canonical form, one after another; that of code 0 is empty.
    labels: Vec<u8>,
    /// Ends of the labels in `labels`, by code.
    ends: Vec<u32>,
    /// Starts of the values in `labels`, by code.
    value_starts: Vec<u32>,
}

/// Columns of a row group that hold something: labels that all series lack are not read.
pub(super) fn columns_to_read(table: &Table, group: usize, labels: &BTreeMap<String, usize>) -> Result<Vec<usize>> {
    let row_group = table.metadata().row_group(group);
    let rest = table.column(REST_COLUMN)?;
    let holds_something = |column: &usize| match row_group.column(*column).statistics() {
        Some(Statistics::ByteArray(s)) => s.null_count_opt() != Some(row_group.num_rows() as u64),
        _ => true,
    };
    let mut columns: Vec<usize> = labels.values().copied().chain([rest]).filter(holds_something).collect();
    // Without any column the batch would not know its number of rows.
    if columns.is_empty() {
        columns.push(rest);
    }
    columns.sort_unstable();
    Ok(columns)
}

impl SeriesGroup {
    pub(super) fn decode(table: &Table, batch: &RecordBatch, first_row: u32) -> Result<Self> {
        let rows = batch.num_rows();
        if rows > WriterConfig::MAX_SERIES_PER_GROUP {
            return Err(table.corrupt(format!("a row group has {rows} series")));
        }
        let mut columns = Vec::with_capacity(batch.num_columns());
        let mut rest = None;
        for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
            if let Some(name) = field.name().strip_prefix(LABEL_PREFIX) {
                columns.push(LabelColumn::decode(table, name, array.as_ref())?);
            } else if field.name() == REST_COLUMN && array.null_count() < rows {
                rest = array.as_binary_opt::<i32>().cloned();
            }
        }
        columns.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut rest_names = Vec::new();
        for bytes in rest.iter().flatten().flatten() {
            let labels = LabelsRef::from_bytes(bytes).map_err(|e| table.corrupt(e.to_string()))?;
            rest_names.extend(labels.iter().map(|(name, _)| name.to_owned()));
            rest_names.sort_unstable();
            rest_names.dedup();
        }
        if columns.iter().any(|c| rest_names.binary_search(&c.name).is_ok()) {
            return Err(table.corrupt("a label stands in two columns"));
        }
        Ok(Self { first_row, rows, columns, rest, rest_names })
    }

    /// Number of the first series in the block.
    pub fn first_row(&self) -> u32 {
        self.first_row
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn columns(&self) -> &[LabelColumn] {
        &self.columns
    }

    pub fn column(&self, name: &str) -> Option<&LabelColumn> {
        self.columns.binary_search_by(|c| c.name.as_str().cmp(name)).ok().map(|i| &self.columns[i])
    }

    pub fn has_in_rest(&self, name: &str) -> bool {
        self.rest_names.binary_search_by(|n| n.as_str().cmp(name)).is_ok()
    }

    /// Labels of a series that have no column.
    pub fn rest(&self, row: usize) -> LabelsRef<'_> {
        match &self.rest {
            // SAFETY: every value was checked when the group was decoded.
            Some(rest) if rest.is_valid(row) => unsafe { LabelsRef::from_bytes_unchecked(rest.value(row)) },
            _ => LabelsRef::EMPTY,
        }
    }

    /// The label sets of some rows.
    pub fn arena(&self, rows: impl Iterator<Item = usize>) -> LabelArena {
        let mut arena = LabelArena { bytes: Vec::new(), ends: Vec::with_capacity(rows.size_hint().0) };
        for row in rows {
            self.append_labels(row, &mut arena.bytes);
            arena.ends.push(arena.bytes.len());
        }
        arena.bytes.shrink_to_fit();
        arena
    }

    fn append_labels(&self, row: usize, out: &mut Vec<u8>) {
        let mut rest = self.rest(row).iter().peekable();
        for column in &self.columns {
            while let Some((name, value)) = rest.next_if(|(name, _)| *name < column.name.as_str()) {
                push_label(out, name, value);
            }
            out.extend_from_slice(column.label(column.codes[row]));
        }
        rest.for_each(|(name, value)| push_label(out, name, value));
    }
}

impl LabelColumn {
    fn decode(table: &Table, name: &str, array: &dyn Array) -> Result<Self> {
        let corrupt = |reason: &str| table.corrupt(format!("column of label {name:?}: {reason}"));
        if name.is_empty() {
            return Err(corrupt("its name is empty"));
        }
        let dictionary = array.as_dictionary_opt::<UInt32Type>().ok_or_else(|| corrupt("it is not text"))?;
        let values = match dictionary.values().data_type() {
            DataType::Utf8 => dictionary.values().as_string::<i32>(),
            _ => return Err(corrupt("it is not text")),
        };
        let mut column = Self {
            name: name.to_owned(),
            codes: Vec::with_capacity(array.len()),
            labels: Vec::new(),
            ends: vec![0],
            value_starts: vec![0],
        };
        if values.len() > WriterConfig::MAX_SERIES_PER_GROUP {
            return Err(corrupt("it has more values than series"));
        }
        for value in values {
            let value = value.filter(|v| !v.is_empty()).ok_or_else(|| corrupt("a value is empty"))?;
            push_label(&mut column.labels, name, value);
            let end = u32::try_from(column.labels.len()).map_err(|_| corrupt("its values are longer than 4 GiB"))?;
            column.ends.push(end);
            column.value_starts.push(end - value.len() as u32);
        }
        let keys = dictionary.keys();
        if keys.iter().flatten().any(|k| k as usize >= values.len()) {
            return Err(corrupt("a number stands for no value"));
        }
        column.codes.extend(keys.iter().map(|k| k.map_or(0, |k| k as u16 + 1)));
        Ok(column)
    }

    /// Number of codes, 0 included.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The label in canonical form.
    pub fn label(&self, code: u16) -> &[u8] {
        match code {
            0 => &[],
            code => &self.labels[self.ends[code as usize - 1] as usize..self.ends[code as usize] as usize],
        }
    }

    /// The label's value, "" for code 0.
    pub fn value(&self, code: u16) -> &str {
        let bytes = &self.labels[self.value_starts[code as usize] as usize..self.ends[code as usize] as usize];
        // SAFETY: the bytes were copied from a `str` when the column was decoded.
        unsafe { std::str::from_utf8_unchecked(bytes) }
    }
}

impl Weigh for SeriesGroup {
    fn weight_bytes(&self) -> u64 {
        let columns: usize = self.columns.iter().map(|c| 2 * c.codes.len() + c.labels.len() + 8 * c.ends.len() + 128).sum();
        (columns + self.rest.as_ref().map_or(0, |r| r.get_array_memory_size()) + 256) as u64
    }
}

/// Canonical label sets of many series in one buffer.
pub(crate) struct LabelArena {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl LabelArena {
    pub fn get(&self, i: usize) -> LabelsRef<'_> {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        // SAFETY: `SeriesGroup::append_labels` writes labels in canonical form: each name once, ascending, UTF-8, no empty
        // value, as columns and rest were checked for when the group was decoded.
        unsafe { LabelsRef::from_bytes_unchecked(&self.bytes[start..self.ends[i]]) }
    }
}

impl Weigh for LabelArena {
    fn weight_bytes(&self) -> u64 {
        (self.bytes.len() + 8 * self.ends.len() + 64) as u64
    }
}
