//! Samples as Parquet, in the long form that SQL likes: a row for each sample, a column for each label.
//!
//! | column | type | |
//! |---|---|---|
//! | `metric` | text | the metric's name |
//! | one for each label | text | null if the series does not have it |
//! | `labels` | map of text to text | labels without column; null if there are none |
//! | `timestamp` | timestamp, milliseconds, UTC | |
//! | `value` | double | null for native histograms |
//! | `histogram` | struct | only if there are native histograms; see [`histogram_type`] |

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, Float64Builder, Int32Builder, MapBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMillisecondBuilder,
};
use arrow::datatypes::{DataType, Field, Fields, Int32Type, Schema, TimeUnit};
use hashbrown::HashMap;
use isobar_block::labels::METRIC_NAME;
use isobar_block::{LabelsRef, SampleBuf};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use super::files::{Files, Out};
use super::histograms::{Histograms, histogram_type};
use crate::Result;

/// Rows that are handed to the Parquet writer at a time.
const BATCH_ROWS: usize = 1 << 16;
/// Rows of a row group: what readers skip or read.
const GROUP_ROWS: usize = 1 << 20;
const ZSTD_LEVEL: i32 = 3;

const METRIC: &str = "metric";
const LABELS: &str = "labels";
const TIMESTAMP: &str = "timestamp";
const VALUE: &str = "value";
const HISTOGRAM: &str = "histogram";

/// Whether a label cannot have a column, because that name, in any case, is taken.
pub(super) fn is_reserved(label: &str) -> bool {
    label == METRIC_NAME || [METRIC, LABELS, TIMESTAMP, VALUE, HISTOGRAM].iter().any(|c| c.eq_ignore_ascii_case(label))
}

/// A table that is being written.
pub(super) struct Table {
    files: Files,
    writer: Option<ArrowWriter<Out>>,
    schema: Arc<Schema>,
    rows: usize,
    metric: Texts,
    /// Ascending by name.
    labels: Vec<(String, Texts)>,
    rest: MapBuilder<StringBuilder, StringBuilder>,
    timestamps: TimestampMillisecondBuilder,
    values: Float64Builder,
    histograms: Option<Histograms>,
}

/// A column of texts that repeat.
#[derive(Default)]
struct Texts {
    codes: Int32Builder,
    values: Vec<String>,
    by_text: HashMap<String, i32>,
}

impl Texts {
    fn push(&mut self, text: Option<&str>, rows: usize) {
        let Some(text) = text else { return self.codes.append_nulls(rows) };
        let code = match self.by_text.get(text) {
            Some(code) => *code,
            None => {
                let code = self.values.len() as i32;
                self.values.push(text.to_owned());
                self.by_text.insert(text.to_owned(), code);
                code
            }
        };
        self.codes.append_value_n(code, rows);
    }

    fn take(&mut self) -> Result<ArrayRef> {
        let values = StringArray::from_iter_values(self.values.drain(..));
        self.by_text.clear();
        Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(self.codes.finish(), Arc::new(values))?))
    }
}

impl Table {
    /// An empty table with a column for each of `labels` (ascending).
    pub fn new(files: Files, labels: &[String], histograms: bool) -> Result<Self> {
        let text = || DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        let mut fields = vec![Field::new(METRIC, text(), true)];
        fields.extend(labels.iter().map(|name| Field::new(name, text(), true)));
        let rest = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        fields.push(Field::new(LABELS, map_type(), true));
        let utc = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        fields.extend([Field::new(TIMESTAMP, utc.clone(), false), Field::new(VALUE, DataType::Float64, true)]);
        fields.extend(histograms.then(|| Field::new(HISTOGRAM, histogram_type(), true)));
        Ok(Self {
            files,
            writer: None,
            schema: Arc::new(Schema::new(Fields::from(fields))),
            rows: 0,
            metric: Texts::default(),
            labels: labels.iter().map(|name| (name.clone(), Texts::default())).collect(),
            rest,
            timestamps: TimestampMillisecondBuilder::new().with_data_type(utc),
            values: Float64Builder::new(),
            histograms: histograms.then(Histograms::default),
        })
    }

    /// Writes the samples of a series.
    pub fn push(&mut self, labels: LabelsRef<'_>, samples: &SampleBuf) -> Result<()> {
        let mut start = 0;
        while start < samples.len() {
            let end = samples.len().min(start + BATCH_ROWS - self.rows);
            self.push_rows(labels, samples, start..end)?;
            start = end;
            if self.rows >= BATCH_ROWS {
                self.write()?;
            }
        }
        Ok(())
    }

    fn push_rows(&mut self, labels: LabelsRef<'_>, samples: &SampleBuf, range: std::ops::Range<usize>) -> Result<()> {
        let rows = range.len();
        self.metric.push(labels.get(METRIC_NAME), rows);
        for (name, column) in &mut self.labels {
            column.push(labels.get(name), rows);
        }
        let columns = &self.labels;
        let rest: Vec<(&str, &str)> = labels
            .iter()
            .filter(|(name, _)| *name != METRIC_NAME && columns.binary_search_by(|(n, _)| n.as_str().cmp(name)).is_err())
            .collect();
        for _ in 0..rows {
            for (name, value) in &rest {
                self.rest.keys().append_value(name);
                self.rest.values().append_value(value);
            }
            self.rest.append(!rest.is_empty())?;
        }
        self.timestamps.append_slice(&samples.timestamps[range.clone()]);
        let mut next = samples.histograms[samples.histograms.partition_point(|(i, _)| (*i as usize) < range.start)..].iter().peekable();
        for i in range {
            let histogram = next.next_if(|(at, _)| *at as usize == i).map(|(_, h)| &**h);
            self.values.append_option(if histogram.is_some() { None } else { Some(samples.values[i]) });
            if let Some(column) = &mut self.histograms {
                column.push(histogram);
            }
        }
        self.rows += rows;
        Ok(())
    }

    /// Hands what was collected to the file.
    fn write(&mut self) -> Result<()> {
        let mut columns = vec![self.metric.take()?];
        for (_, column) in &mut self.labels {
            columns.push(column.take()?);
        }
        columns.push(Arc::new(self.rest.finish()));
        columns.push(Arc::new(self.timestamps.finish()));
        columns.push(Arc::new(self.values.finish()));
        columns.extend(self.histograms.as_mut().map(Histograms::take));
        self.rows = 0;
        let batch = RecordBatch::try_new(self.schema.clone(), columns)?;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let out = self.files.begin()?;
                self.writer.insert(ArrowWriter::try_new_with_options(out, self.schema.clone(), options()?)?)
            }
        };
        writer.write(&batch)?;
        if (writer.bytes_written() + writer.in_progress_size()) as u64 >= self.files.limit_bytes() {
            self.end_file()?;
        }
        Ok(())
    }

    fn end_file(&mut self) -> Result<()> {
        match self.writer.take() {
            Some(writer) => self.files.end(writer.into_inner()?),
            None => Ok(()),
        }
    }

    /// Ends the last file. Without any sample there is a file without rows, so that readers find one.
    pub fn finish(mut self) -> Result<(Vec<PathBuf>, u64)> {
        if self.rows > 0 || (self.writer.is_none() && self.files.is_empty()) {
            self.write()?;
        }
        self.end_file()?;
        Ok(self.files.finish())
    }
}

fn map_type() -> DataType {
    let entries = [Field::new("keys", DataType::Utf8, false), Field::new("values", DataType::Utf8, true)];
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries.to_vec().into()), false)), false)
}

fn options() -> Result<ArrowWriterOptions> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_column_dictionary_enabled(ColumnPath::from(TIMESTAMP), false)
        .set_column_encoding(ColumnPath::from(TIMESTAMP), Encoding::DELTA_BINARY_PACKED)
        .set_created_by(concat!("isobar ", env!("CARGO_PKG_VERSION")).to_owned())
        .build();
    // Labels are plain texts for readers, however they are written.
    Ok(ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true))
}
