//! The buckets of a native histogram as the API lists them: with borders, ascending, without empty ones.

use isobar_block::Histogram;
use isobar_block::histogram::{Bucket, CUSTOM_BUCKETS_SCHEMA};

/// Rule of borders, lower border, upper border, observations.
pub(crate) type ApiBucket = (u8, f64, f64, f64);

/// Which borders belong to a bucket.
const UPPER: u8 = 0;
const LOWER: u8 = 1;
const NONE: u8 = 2;
const BOTH: u8 = 3;

/// The buckets that have observations.
pub(crate) fn api_buckets(h: &Histogram) -> Vec<ApiBucket> {
    let buckets = h.buckets();
    let mut out: Vec<ApiBucket> = Vec::with_capacity(buckets.len() + 1);
    if h.schema == CUSTOM_BUCKETS_SCHEMA {
        let rule = |b: &Bucket| if b.lower == f64::NEG_INFINITY { BOTH } else { UPPER };
        out.extend(buckets.iter().map(|b| (rule(b), b.lower, b.upper, b.count)));
    } else {
        let (negative, positive) = buckets.split_at(buckets.partition_point(|b| b.upper <= 0.0));
        out.extend(negative.iter().map(|b| exponential(h, b)));
        // Prometheus shows the zero bucket only if it has observations, and not if arithmetic has left a negative number in it.
        if h.zero_count() > 0.0 {
            out.push((BOTH, -h.zero_threshold, h.zero_threshold, h.zero_count()));
        }
        out.extend(positive.iter().map(|b| exponential(h, b)));
    }
    out.retain(|b| b.3 != 0.0);
    out
}

/// An exponential bucket, cut where the zero bucket begins.
fn exponential(h: &Histogram, bucket: &Bucket) -> ApiBucket {
    let Bucket { mut lower, mut upper, count } = *bucket;
    if upper < 0.0 && upper > -h.zero_threshold {
        upper = -h.zero_threshold;
    } else if lower > 0.0 && lower < h.zero_threshold {
        lower = h.zero_threshold;
    }
    let rule = match (lower < 0.0, upper > 0.0) {
        (true, true) => BOTH,
        (true, false) => LOWER,
        (false, true) => UPPER,
        (false, false) => NONE,
    };
    (rule, lower, upper, count)
}

#[cfg(test)]
mod tests {
    use isobar_block::histogram::{Counts, Span};

    use super::*;

    #[test]
    fn lists_ascending_without_empty_ones() {
        let mut h = Histogram {
            reset_hint: Default::default(),
            schema: 0,
            zero_threshold: 0.5,
            sum: 1.0,
            positive_spans: vec![Span { offset: 0, length: 2 }, Span { offset: 1, length: 1 }],
            negative_spans: vec![Span { offset: 1, length: 1 }],
            custom_bounds: Vec::new(),
            counts: Counts::Integer { count: 10, zero: 3, positive: vec![1, 0, 4], negative: vec![2] },
        };
        let wanted = [(LOWER, -2.0, -1.0, 2.0), (BOTH, -0.5, 0.5, 3.0), (UPPER, 0.5, 1.0, 1.0), (UPPER, 4.0, 8.0, 4.0)];
        assert_eq!(api_buckets(&h), wanted);
        h.schema = CUSTOM_BUCKETS_SCHEMA;
        (h.custom_bounds, h.negative_spans) = (vec![1.0, 5.0], Vec::new());
        h.positive_spans = vec![Span { offset: 0, length: 3 }];
        h.counts = Counts::Float { count: 6.0, zero: 0.0, positive: vec![1.0, 2.0, 3.0], negative: Vec::new() };
        assert_eq!(api_buckets(&h), [(BOTH, f64::NEG_INFINITY, 1.0, 1.0), (UPPER, 1.0, 5.0, 2.0), (UPPER, 5.0, f64::INFINITY, 3.0)]);
    }
}
