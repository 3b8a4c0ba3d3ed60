//! Native histograms as a nested column: their buckets with the bounds that PromQL shows.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Float64Builder, Int32Builder, ListArray, NullBufferBuilder, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use isobar_block::Histogram;
use isobar_block::histogram::{CUSTOM_BUCKETS_SCHEMA, Counts, Span};

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
        let buckets = histogram.map(buckets).unwrap_or_default();
        self.counts.append_value(histogram.map_or(0.0, Histogram::count));
        self.sums.append_value(histogram.map_or(0.0, |h| h.sum));
        self.schemas.append_value(histogram.map_or(0, |h| h.schema));
        self.zero_thresholds.append_value(histogram.map_or(0.0, |h| h.zero_threshold));
        self.zero_counts.append_value(histogram.map_or(0.0, |h| match &h.counts {
            Counts::Integer { zero, .. } => *zero as f64,
            Counts::Float { zero, .. } => *zero,
        }));
        self.lens.push(buckets.len());
        for bucket in buckets {
            for (column, number) in self.buckets.iter_mut().zip(bucket) {
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

/// Lower bound, upper bound and count of each bucket that has one, ascending.
fn buckets(histogram: &Histogram) -> Vec<[f64; 3]> {
    let (positive, negative): (Vec<f64>, Vec<f64>) = match &histogram.counts {
        Counts::Integer { positive, negative, .. } => {
            (positive.iter().map(|c| *c as f64).collect(), negative.iter().map(|c| *c as f64).collect())
        }
        Counts::Float { positive, negative, .. } => (positive.clone(), negative.clone()),
    };
    let mut out: Vec<[f64; 3]> =
        numbered(&histogram.negative_spans, &negative).map(|(i, count)| [-bound(histogram, i), -bound(histogram, i - 1), count]).collect();
    out.reverse();
    out.extend(numbered(&histogram.positive_spans, &positive).map(|(i, count)| [bound(histogram, i - 1), bound(histogram, i), count]));
    out
}

/// Number and count of each bucket of one side.
fn numbered<'a>(spans: &'a [Span], counts: &'a [f64]) -> impl Iterator<Item = (i64, f64)> + 'a {
    let mut next = 0i64;
    let numbers = spans.iter().flat_map(move |span| {
        let start = next + i64::from(span.offset);
        next = start + i64::from(span.length);
        start..next
    });
    numbers.zip(counts.iter().copied())
}

/// Upper bound of bucket `i`.
fn bound(histogram: &Histogram, i: i64) -> f64 {
    if histogram.schema == CUSTOM_BUCKETS_SCHEMA {
        return match usize::try_from(i) {
            Ok(i) => histogram.custom_bounds.get(i).copied().unwrap_or(f64::INFINITY),
            Err(_) => f64::NEG_INFINITY,
        };
    }
    (i as f64 * (-f64::from(histogram.schema)).exp2()).exp2()
}

#[cfg(test)]
mod tests {
    use isobar_block::histogram::ResetHint;

    use super::*;

    #[test]
    fn buckets_have_the_bounds_of_promql() {
        let mut histogram = Histogram {
            reset_hint: ResetHint::Unknown,
            schema: 0,
            zero_threshold: 0.001,
            sum: 5.0,
            positive_spans: vec![Span { offset: 0, length: 2 }, Span { offset: 1, length: 1 }],
            negative_spans: vec![Span { offset: 1, length: 1 }],
            custom_bounds: Vec::new(),
            counts: Counts::Integer { count: 12, zero: 2, positive: vec![1, 2, 3], negative: vec![4] },
        };
        assert_eq!(buckets(&histogram), [[-2.0, -1.0, 4.0], [0.5, 1.0, 1.0], [1.0, 2.0, 2.0], [4.0, 8.0, 3.0]]);
        histogram.schema = 1;
        assert_eq!(buckets(&histogram)[2], [1.0, 2f64.sqrt(), 2.0]);
        histogram.schema = CUSTOM_BUCKETS_SCHEMA;
        histogram.custom_bounds = vec![5.0, 10.0];
        (histogram.positive_spans, histogram.negative_spans) = (vec![Span { offset: 0, length: 3 }], Vec::new());
        histogram.counts = Counts::Float { count: 6.0, zero: 0.0, positive: vec![1.0, 2.0, 3.0], negative: Vec::new() };
        let expected = [[f64::NEG_INFINITY, 5.0, 1.0], [5.0, 10.0, 2.0], [10.0, f64::INFINITY, 3.0]];
        assert_eq!(buckets(&histogram), expected);
    }
}
