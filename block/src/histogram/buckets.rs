//! Where the buckets of a native histogram begin and end.

use super::{CUSTOM_BUCKETS_SCHEMA, Counts, Histogram, Span};

/// A bucket: how many observations lie between two bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Lower bound.
    pub lower: f64,
    /// Upper bound.
    pub upper: f64,
    /// Observations.
    pub count: f64,
}

/// Upper bound of an exponential bucket: 2^(index · 2^−schema). The last finite one is the largest float, so that only infinite
/// observations lie above.
pub fn upper_bound(index: i32, schema: i32) -> f64 {
    if schema < 0 {
        return power_of_two(i64::from(index) << -schema, 1.0);
    }
    let fraction = index & ((1 << schema) - 1);
    power_of_two(i64::from(index >> schema), (f64::from(fraction) / f64::from(1 << schema)).exp2())
}

/// `factor · 2^exponent`, with `f64::MAX` for 2^1024.
fn power_of_two(exponent: i64, factor: f64) -> f64 {
    if exponent == 1024 && factor == 1.0 {
        return f64::MAX;
    }
    let exponent = exponent.clamp(-1100, 1100) as i32;
    // In two steps, since the power itself may be less than the smallest normal number.
    let half = exponent / 2;
    factor * f64::exp2(f64::from(half)) * f64::exp2(f64::from(exponent - half))
}

/// Numbers of the buckets that spans stand for. They do not leave the range of numbers, whatever the spans say.
pub fn bucket_numbers(spans: &[Span]) -> impl Iterator<Item = i32> + '_ {
    let mut next = 0i32;
    spans.iter().flat_map(move |span| {
        let start = next.saturating_add(span.offset);
        next = start.saturating_add_unsigned(span.length);
        start..next
    })
}

impl Histogram {
    /// Observations in the zero bucket.
    pub fn zero_count(&self) -> f64 {
        match &self.counts {
            Counts::Integer { zero, .. } => *zero as f64,
            Counts::Float { zero, .. } => *zero,
        }
    }

    /// The buckets that the spans stand for, ascending; the zero bucket is not among them.
    pub fn buckets(&self) -> Vec<Bucket> {
        let mut out = Vec::new();
        if self.schema == CUSTOM_BUCKETS_SCHEMA {
            let bound =
                |i: i32, otherwise: f64| usize::try_from(i).ok().and_then(|i| self.custom_bounds.get(i)).copied().unwrap_or(otherwise);
            self.side(&self.positive_spans, true, |i, count| {
                out.push(Bucket { lower: bound(i.saturating_sub(1), f64::NEG_INFINITY), upper: bound(i, f64::INFINITY), count });
            });
            return out;
        }
        let bound = |i: i32| upper_bound(i, self.schema);
        self.side(&self.negative_spans, false, |i, count| {
            out.push(Bucket { lower: -bound(i), upper: -bound(i.saturating_sub(1)), count });
        });
        out.reverse();
        self.side(&self.positive_spans, true, |i, count| {
            out.push(Bucket { lower: bound(i.saturating_sub(1)), upper: bound(i), count });
        });
        out
    }

    /// Tells `each` number and count of the buckets of one side.
    fn side(&self, spans: &[Span], is_positive: bool, mut each: impl FnMut(i32, f64)) {
        let numbers = bucket_numbers(spans);
        match &self.counts {
            Counts::Integer { positive, negative, .. } => {
                let counts = if is_positive { positive } else { negative };
                numbers.zip(counts).for_each(|(i, count)| each(i, *count as f64));
            }
            Counts::Float { positive, negative, .. } => {
                let counts = if is_positive { positive } else { negative };
                numbers.zip(counts).for_each(|(i, count)| each(i, *count));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::ResetHint;

    #[test]
    fn bounds_are_powers() {
        for (index, schema, wanted) in [
            (0, 0, 1.0),
            (1, 0, 2.0),
            (-1, 0, 0.5),
            (1, -1, 4.0),
            (4, 2, 2.0),
            (1, 1, 2f64.sqrt()),
            (1024, 0, f64::MAX),
            (1025, 0, f64::INFINITY),
            (-1074, 0, 5e-324),
            (i32::MAX, -4, f64::INFINITY),
            (i32::MIN, -4, 0.0),
        ] {
            assert_eq!(upper_bound(index, schema), wanted, "{index} {schema}");
        }
    }

    #[test]
    fn buckets_ascend() {
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
        let told = |histogram: &Histogram| histogram.buckets().iter().map(|b| [b.lower, b.upper, b.count]).collect::<Vec<_>>();
        assert_eq!(told(&histogram), [[-2.0, -1.0, 4.0], [0.5, 1.0, 1.0], [1.0, 2.0, 2.0], [4.0, 8.0, 3.0]]);
        histogram.schema = 1;
        assert_eq!(told(&histogram)[2], [1.0, 2f64.sqrt(), 2.0]);
        histogram.schema = CUSTOM_BUCKETS_SCHEMA;
        histogram.custom_bounds = vec![5.0, 10.0];
        (histogram.positive_spans, histogram.negative_spans) = (vec![Span { offset: 0, length: 3 }], Vec::new());
        histogram.counts = Counts::Float { count: 6.0, zero: 0.0, positive: vec![1.0, 2.0, 3.0], negative: Vec::new() };
        assert_eq!(told(&histogram), [[f64::NEG_INFINITY, 5.0, 1.0], [5.0, 10.0, 2.0], [10.0, f64::INFINITY, 3.0]]);
    }
}
