//! Collects the labels of series as columns of values, which is how `series.parquet` holds them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, LargeBinaryBuilder, StringArray, UInt8Array, UInt32Array, UInt32Builder};
use arrow::datatypes::{DataType, Field, Schema, UInt32Type};
use hashbrown::HashMap;

use crate::labels::{Labels, push_label};
use crate::{Metadata, Result};

/// Prefix of the names of columns that hold a label.
pub(crate) const LABEL_PREFIX: &str = "l:";
/// Column of the labels that have no column of their own, in canonical form.
pub(crate) const REST_COLUMN: &str = "rest";
/// Column of the metric type's number.
pub(crate) const TYPE_COLUMN: &str = "type";
/// Column of the metric's help text.
pub(crate) const HELP_COLUMN: &str = "help";
/// Column of the metric's unit.
pub(crate) const UNIT_COLUMN: &str = "unit";

/// Column of the metric's name.
pub(crate) const METRIC_NAME_COLUMN: &str = "l:__name__";

/// What a value takes beside its bytes: its place in the map of its column, which grows by doubling, and in the dictionary that is
/// written.
const VALUE_BYTES: usize = 80;

/// Whether a column of any table is read as a dictionary of text.
pub(crate) fn is_dictionary(column: &str) -> bool {
    column.starts_with(LABEL_PREFIX) || column == HELP_COLUMN || column == UNIT_COLUMN
}

/// The series of a block so far.
#[derive(Default)]
pub(crate) struct SeriesTable {
    rows: u32,
    columns: HashMap<Box<str>, Column>,
    types: Vec<u8>,
    help: Column,
    unit: Column,
    /// Size of the different values of all labels and metadata.
    values_bytes: usize,
    values: usize,
    cells: usize,
}

/// The values that one label has, and which rows have them.
#[derive(Default)]
struct Column {
    values: HashMap<Box<str>, u32>,
    cells: Vec<Cell>,
}

struct Cell {
    row: u32,
    code: u32,
}

impl Column {
    /// Adds a cell; `true` if its value is new.
    fn push(&mut self, row: u32, value: &str) -> bool {
        let next = self.values.len() as u32;
        let code = *self.values.entry_ref(value).or_insert(next);
        self.cells.push(Cell { row, code });
        code == next
    }

    fn dictionary(&self) -> Arc<StringArray> {
        let mut sorted: Vec<(&str, u32)> = self.values.iter().map(|(v, code)| (&**v, *code)).collect();
        sorted.sort_unstable_by_key(|(_, code)| *code);
        Arc::new(StringArray::from_iter_values(sorted.iter().map(|(v, _)| v)))
    }

    fn array(&self, rows: Range<u32>, dictionary: &Arc<StringArray>) -> Result<ArrayRef> {
        let from = self.cells.partition_point(|c| c.row < rows.start);
        let mut cells = self.cells[from..].iter().take_while(|c| c.row < rows.end).peekable();
        let mut keys = UInt32Builder::with_capacity(rows.len());
        for row in rows.clone() {
            keys.append_option(cells.next_if(|c| c.row == row).map(|c| c.code));
        }
        Ok(Arc::new(DictionaryArray::<UInt32Type>::try_new(keys.finish(), dictionary.clone())?))
    }
}

impl SeriesTable {
    pub fn len(&self) -> usize {
        self.rows as usize
    }

    /// Size of the different values of all labels and metadata.
    pub fn values_bytes(&self) -> usize {
        self.values_bytes
    }

    /// About what the table takes in memory: lists of cells grow by doubling, and are full by three quarters on average.
    pub fn memory_bytes(&self) -> usize {
        self.values_bytes + VALUE_BYTES * self.values + size_of::<Cell>() * self.cells * 3 / 2
    }

    /// Adds a series and returns its row.
    pub fn push(&mut self, labels: &Labels, metadata: Option<&Metadata>) -> u32 {
        let row = self.rows;
        for (name, value) in labels.iter() {
            if self.columns.entry_ref(name).or_default().push(row, value) {
                self.values_bytes += value.len();
                self.values += 1;
            }
            self.cells += 1;
        }
        self.types.push(metadata.map_or(0, |m| m.metric_type as u8));
        if let Some(metadata) = metadata {
            for (column, text) in [(&mut self.help, &metadata.help), (&mut self.unit, &metadata.unit)] {
                if !text.is_empty() && column.push(row, text) {
                    self.values_bytes += text.len();
                    self.values += 1;
                }
            }
        }
        self.rows += 1;
        row
    }

    /// The table in its file's shape, with the `label_columns` most frequent labels as columns.
    pub fn into_arrays(self, label_columns: usize) -> SeriesArrays {
        let mut columns: Vec<(Box<str>, Column)> = self.columns.into_iter().collect();
        columns.sort_unstable_by(|a, b| b.1.cells.len().cmp(&a.1.cells.len()).then_with(|| a.0.cmp(&b.0)));
        // The metric name stands first in the order of series, so that it always needs its column.
        columns.sort_by_key(|c| &*c.0 != crate::labels::METRIC_NAME);
        let rest = columns.split_off(label_columns.max(1).min(columns.len()));
        columns.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let labels = columns.into_iter().map(|(name, column)| (name, column.dictionary(), column)).collect();
        let (help, unit) = (self.help.dictionary(), self.unit.dictionary());
        SeriesArrays { labels, rest: rest_labels(rest), types: self.types, help: (help, self.help), unit: (unit, self.unit) }
    }
}

/// Labels without a column, by row, in canonical form.
fn rest_labels(mut columns: Vec<(Box<str>, Column)>) -> BTreeMap<u32, Vec<u8>> {
    columns.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let mut out: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    for (name, column) in &columns {
        let values = column.dictionary();
        for cell in &column.cells {
            push_label(out.entry(cell.row).or_default(), name, values.value(cell.code as usize));
        }
    }
    out
}

/// The columns of `series.parquet`.
pub(crate) struct SeriesArrays {
    labels: Vec<(Box<str>, Arc<StringArray>, Column)>,
    rest: BTreeMap<u32, Vec<u8>>,
    types: Vec<u8>,
    help: (Arc<StringArray>, Column),
    unit: (Arc<StringArray>, Column),
}

impl SeriesArrays {
    pub fn rows(&self) -> u32 {
        self.types.len() as u32
    }

    pub fn schema(&self) -> Schema {
        let text = || DataType::Dictionary(Box::new(DataType::UInt32), Box::new(DataType::Utf8));
        let mut fields: Vec<Field> = self.labels.iter().map(|(n, ..)| Field::new(format!("{LABEL_PREFIX}{n}"), text(), true)).collect();
        fields.push(Field::new(REST_COLUMN, DataType::LargeBinary, true));
        fields.push(Field::new(TYPE_COLUMN, DataType::UInt8, false));
        fields.push(Field::new(HELP_COLUMN, text(), true));
        fields.push(Field::new(UNIT_COLUMN, text(), true));
        Schema::new(fields)
    }

    pub fn arrays(&self, rows: Range<u32>) -> Result<Vec<ArrayRef>> {
        let mut out = Vec::with_capacity(self.labels.len() + 4);
        for (_, dictionary, column) in &self.labels {
            out.push(column.array(rows.clone(), dictionary)?);
        }
        let mut rest = LargeBinaryBuilder::new();
        for row in rows.clone() {
            rest.append_option(self.rest.get(&row));
        }
        out.push(Arc::new(rest.finish()));
        out.push(Arc::new(UInt8Array::from(self.types[rows.start as usize..rows.end as usize].to_vec())));
        out.push(self.help.1.array(rows.clone(), &self.help.0)?);
        out.push(self.unit.1.array(rows, &self.unit.0)?);
        Ok(out)
    }
}

/// A column of row numbers.
pub(crate) fn numbers(numbers: impl IntoIterator<Item = u32>) -> ArrayRef {
    Arc::new(UInt32Array::from_iter_values(numbers))
}
