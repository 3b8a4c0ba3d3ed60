//! Exponential histograms of OpenTelemetry as native histograms.
//!
//! OTLP's bucket `i` holds `(base^i, base^(i+1)]`, Prometheus's bucket `i` holds `(base^(i−1), base^i]`: hence the shift by
//! one. Scales above 8 are brought down to 8 by merging neighbours, which is exact.

use isobar_block::Histogram;
use isobar_block::histogram::{Counts, ResetHint, Span};
use isobar_block::stale_nan;
use opentelemetry_proto::tonic::metrics::v1::ExponentialHistogramDataPoint;
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;

const MAX_SCHEMA: i32 = 8;
const MIN_SCHEMA: i32 = -4;
/// Width of the zero bucket where the sender does not say; Prometheus's default.
const DEFAULT_ZERO_THRESHOLD: f64 = 1e-128;
/// Empty buckets that are stored rather than starting a new span, as in Prometheus.
const MAX_GAP: i64 = 2;

/// The native histogram of a data point.
///
/// # Errors
/// The rule that does not hold.
pub(super) fn native(point: &ExponentialHistogramDataPoint, no_value: bool) -> Result<Histogram, String> {
    if point.scale < MIN_SCHEMA {
        return Err(format!("scale {} is below {MIN_SCHEMA}", point.scale));
    }
    let shift = (point.scale - MAX_SCHEMA).max(0);
    let (positive_spans, positive) = side(point.positive.as_ref(), shift)?;
    let (negative_spans, negative) = side(point.negative.as_ref(), shift)?;
    let histogram = Histogram {
        reset_hint: ResetHint::Unknown,
        schema: point.scale.min(MAX_SCHEMA),
        zero_threshold: if point.zero_threshold == 0.0 { DEFAULT_ZERO_THRESHOLD } else { point.zero_threshold },
        sum: if no_value { stale_nan() } else { point.sum.unwrap_or(0.0) },
        positive_spans,
        negative_spans,
        custom_bounds: Vec::new(),
        counts: Counts::Integer { count: point.count, zero: point.zero_count, positive, negative },
    };
    crate::wire::histogram::check(&histogram)?;
    Ok(histogram)
}

fn side(buckets: Option<&Buckets>, shift: i32) -> Result<(Vec<Span>, Vec<u64>), String> {
    let (mut spans, mut counts): (Vec<Span>, Vec<u64>) = Default::default();
    let Some(buckets) = buckets else { return Ok((spans, counts)) };
    // Index of the bucket that would come next in the current span.
    let mut next = 0i64;
    for (i, &count) in buckets.bucket_counts.iter().enumerate() {
        if count == 0 {
            continue;
        }
        let index = ((i64::from(buckets.offset) + i as i64) >> shift.min(63)) + 1;
        let gap = index - next;
        match spans.last_mut() {
            Some(_) if gap < 0 => {
                let last = counts.last_mut().expect("a span has a bucket");
                *last = last.checked_add(count).ok_or("bucket counts overflow")?;
                continue;
            }
            Some(span) if gap <= MAX_GAP => {
                counts.extend(std::iter::repeat_n(0, gap as usize));
                span.length += gap as u32 + 1;
            }
            _ => {
                let offset = i32::try_from(gap).map_err(|_| format!("bucket {index} is out of range"))?;
                spans.push(Span { offset, length: 1 });
            }
        }
        counts.push(count);
        next = index + 1;
    }
    Ok((spans, counts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(offset: i32, counts: &[u64], shift: i32, spans: &[(i32, u32)], expected: &[u64]) {
        let buckets = Buckets { offset, bucket_counts: counts.to_vec() };
        let (got_spans, got) = side(Some(&buckets), shift).expect("valid");
        assert_eq!(got_spans.iter().map(|s| (s.offset, s.length)).collect::<Vec<_>>(), spans);
        assert_eq!(got, expected);
    }

    #[test]
    fn buckets_become_spans() {
        check(0, &[1, 2, 3], 0, &[(1, 3)], &[1, 2, 3]);
        check(-2, &[1, 0, 0, 4], 0, &[(-1, 4)], &[1, 0, 0, 4]);
        check(3, &[0, 1, 0, 0, 0, 5], 0, &[(5, 1), (3, 1)], &[1, 5]);
        check(0, &[], 0, &[], &[]);
        // Scale 9 to 8: buckets 2k and 2k+1 fall together.
        check(0, &[1, 2, 3, 4, 5], 1, &[(1, 3)], &[3, 7, 5]);
        check(-3, &[1, 2, 3], 1, &[(-1, 2)], &[1, 5]);
        check(i32::MAX - 2, &[1], 40, &[(1, 1)], &[1]);
        check(i32::MIN, &[1], 40, &[(0, 1)], &[1]);
        assert!(side(Some(&Buckets { offset: i32::MAX, bucket_counts: vec![1, 1] }), 0).is_err());
        assert!(side(Some(&Buckets { offset: 0, bucket_counts: vec![u64::MAX, 1] }), 1).is_err());
    }

    #[test]
    fn scales_out_of_range() {
        let mut point = ExponentialHistogramDataPoint { scale: 10, count: 3, zero_count: 3, ..Default::default() };
        assert_eq!(native(&point, false).expect("valid").schema, 8);
        point.scale = -5;
        assert!(native(&point, false).is_err());
        point.scale = i32::MAX;
        assert_eq!(native(&point, false).expect("valid").zero_threshold, DEFAULT_ZERO_THRESHOLD);
    }
}
