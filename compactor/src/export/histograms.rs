//! Native histograms as a nested column: their buckets with the bounds that PromQL shows.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Float64Builder, Int32Builder, ListArray, NullBufferBuilder, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use isobar_block::Histogram;

/// `struct(count, sum, schema, zero_threshold, zero_count, buckets list(struct(lower, upper, count)))`, buckets ascending, the
/// zero bucket not among them.
pub(super) fn histogram_type() -> DataType {
    DataType::Struct(fields())
}

fn fields() -> Fields {
    let float = |name: &str| Field::new(name, DataType::Float64, false);
    Fields::from(vec![
        float("count"),
        float("sum"),
        Field::new("schema", DataType::Int32, false),
        float("zero_threshold"),
        float("zero_count"),
        Field::new("buckets", DataType::List(bucket_field()), false),
    ])
}

fn bucket_field() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Struct(bucket_fields()), false))
}

fn bucket_fields() -> Fields {
    Fields::from(["lower", "upper", "count"].map(|name| Field::new(name, DataType::Float64, false)).to_vec())
}

/// The column so far.
#[derive(Default)]
pub(super) struct Histograms {
    valid: Vec<bool>,
    counts: Float64Builder,
    sums: Float64Builder,
    schemas: Int32Builder,
    zero_thresholds: Float64Builder,
    zero_counts: Float64Builder,
    lens: Vec<usize>,
    buckets: [Vec<f64>; 3],
}

impl Histograms {
    pub fn push(&mut self, histogram: Option<&Histogram>) {
        self.valid.push(histogram.is_some());
        let buckets = histogram.map(Histogram::buckets).unwrap_or_default();
        self.counts.append_value(histogram.map_or(0.0, Histogram::count));
        self.sums.append_value(histogram.map_or(0.0, |h| h.sum));
        self.schemas.append_value(histogram.map_or(0, |h| h.schema));
        self.zero_thresholds.append_value(histogram.map_or(0.0, |h| h.zero_threshold));
        self.zero_counts.append_value(histogram.map_or(0.0, Histogram::zero_count));
        self.lens.push(buckets.len());
        for bucket in buckets {
            for (column, number) in self.buckets.iter_mut().zip([bucket.lower, bucket.upper, bucket.count]) {
                column.push(number);
            }
        }
    }

    pub fn take(&mut self) -> ArrayRef {
        let columns = self.buckets.each_mut().map(|c| Arc::new(Float64Array::from(std::mem::take(c))) as ArrayRef);
        let buckets = StructArray::new(bucket_fields(), columns.to_vec(), None);
        let offsets = OffsetBuffer::from_lengths(self.lens.drain(..));
        let buckets = ListArray::new(bucket_field(), offsets, Arc::new(buckets), None);
        let mut nulls = NullBufferBuilder::new(self.valid.len());
        self.valid.drain(..).for_each(|valid| nulls.append(valid));
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(self.counts.finish()),
            Arc::new(self.sums.finish()),
            Arc::new(self.schemas.finish()),
            Arc::new(self.zero_thresholds.finish()),
            Arc::new(self.zero_counts.finish()),
            Arc::new(buckets),
        ];
        Arc::new(StructArray::new(fields(), arrays, nulls.finish()))
    }
}
