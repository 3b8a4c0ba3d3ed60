//! The buckets of a native histogram as the API lists them: with borders, ascending, without empty ones.

use isobar_block::Histogram;
use isobar_block::histogram::{CUSTOM_BUCKETS_SCHEMA, Counts, Span};

/// Rule of borders, lower border, upper border, observations.
pub(crate) type ApiBucket = (u8, f64, f64, f64);

/// Which borders belong to a bucket.
const UPPER: u8 = 0;
const LOWER: u8 = 1;
const NONE: u8 = 2;
const BOTH: u8 = 3;

/// The buckets that have observations.
pub(crate) fn api_buckets(h: &Histogram) -> Vec<ApiBucket> {
    let floats = |counts: &[u64]| counts.iter().map(|c| *c as f64).collect::<Vec<_>>();
    let (zero, positive, negative) = match &h.counts {
        Counts::Integer { zero, positive, negative, .. } => (*zero as f64, floats(positive), floats(negative)),
        Counts::Float { zero, positive, negative, .. } => (*zero, positive.clone(), negative.clone()),
    };
    let mut out: Vec<ApiBucket> = indexed(&h.negative_spans, &negative)
        .map(|(i, count)| exponential(h, -border(i, h.schema), -border(i.saturating_sub(1), h.schema), count))
        .collect();
    out.reverse();
    if h.schema == CUSTOM_BUCKETS_SCHEMA {
        out.extend(indexed(&h.positive_spans, &positive).map(|(i, count)| custom(h, i, count)));
    } else {
        if zero > 0.0 {
            out.push((BOTH, -h.zero_threshold, h.zero_threshold, zero));
        }
        let positive = indexed(&h.positive_spans, &positive);
        out.extend(positive.map(|(i, count)| exponential(h, border(i.saturating_sub(1), h.schema), border(i, h.schema), count)));
    }
    out.retain(|b| b.3 != 0.0);
    out
}

/// Counts with the numbers of their buckets.
fn indexed<'a>(spans: &'a [Span], counts: &'a [f64]) -> impl Iterator<Item = (i32, f64)> + 'a {
    let mut next = 0i32;
    let indices = spans.iter().flat_map(move |span| {
        let start = next.saturating_add(span.offset);
        next = start.saturating_add_unsigned(span.length);
        start..next
    });
    indices.zip(counts.iter().copied())
}

/// An exponential bucket, cut where the zero bucket begins.
fn exponential(h: &Histogram, mut lower: f64, mut upper: f64, count: f64) -> ApiBucket {
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

fn custom(h: &Histogram, index: i32, count: f64) -> ApiBucket {
    let at = |i: i32, otherwise: f64| usize::try_from(i).ok().and_then(|i| h.custom_bounds.get(i)).copied().unwrap_or(otherwise);
    let rule = if index == 0 { BOTH } else { UPPER };
    (rule, at(index.saturating_sub(1), f64::NEG_INFINITY), at(index, f64::INFINITY), count)
}

/// Upper border of an exponential bucket: 2^(index · 2^−schema). The last finite one is the largest float, so that only infinite
/// observations lie above.
fn border(index: i32, schema: i32) -> f64 {
    let (exponent, fraction) = if schema < 0 {
        (i64::from(index) << -schema, 0.0)
    } else {
        let per_power = 1i64 << schema;
        (i64::from(index).div_euclid(per_power), i64::from(index).rem_euclid(per_power) as f64 / per_power as f64)
    };
    if exponent == 1024 && fraction == 0.0 {
        return f64::MAX;
    }
    // In two steps, since 2^exponent alone may be too small for a float.
    let exponent = exponent.clamp(-2000, 2000) as i32;
    let half = exponent / 2;
    fraction.exp2() * f64::from(half).exp2() * f64::from(exponent - half).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_are_powers() {
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
        ] {
            assert_eq!(border(index, schema), wanted, "{index} {schema}");
        }
    }

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
