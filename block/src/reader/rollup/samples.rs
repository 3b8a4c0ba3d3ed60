//! What stands for the buckets of a series: samples of a counter, and floats between histograms.

use crate::{SampleBuf, Timestamps};

/// A fall by less than this share of the value is not taken for a counter reset: sums of rises are not exact.
const ROUNDING: f64 = 1e-9;

/// Buckets of a counter, from one row group.
pub struct Counter<'a> {
    /// When the last sample of each bucket was taken.
    pub times: &'a [i64],
    /// Its value.
    pub lasts: &'a [f64],
    /// What each bucket rises by.
    pub increases: &'a [f64],
    /// The first sample of the first bucket.
    pub first: f64,
    /// When that was taken.
    pub first_ms: i64,
}

/// The buckets of a series as samples of a counter from which every increase can be computed.
///
/// The first sample of the block's first bucket comes before all others, so that an increase in the bucket, and a reset just
/// before it, are seen. Where a counter was reset inside of a bucket, the last value alone would not tell: before it, the value
/// from which the reset would give the bucket's increase is put, and, if that is not above the last value, a zero too.
pub fn append_counter(counter: &Counter<'_>, millis: &mut Vec<i64>, values: &mut Vec<f64>) {
    let Counter { times, .. } = *counter;
    if millis.is_empty() && counter.first_ms < times[0] {
        millis.push(counter.first_ms);
        values.push(counter.first);
    }
    let mut before = values.last().copied();
    for ((t, last), increase) in times.iter().zip(counter.lasts).zip(counter.increases) {
        if let Some(before) = before {
            let (peak, zero) = synthetic(before, *last, *increase);
            for (value, early_ms) in [(peak, 1 + i64::from(zero)), (zero.then_some(0.0), 1)] {
                if let Some(value) = value
                    && millis.last().is_none_or(|last_ms| *last_ms < t - early_ms)
                {
                    millis.push(t - early_ms);
                    values.push(value);
                }
            }
        }
        millis.push(*t);
        values.push(*last);
        before = Some(*last);
    }
}

/// What has to stand between two samples of a counter so that the rises between them add up to `increase`: the value from which
/// it was reset, and whether a zero has to follow.
pub fn synthetic(before: f64, last: f64, increase: f64) -> (Option<f64>, bool) {
    let seen = if last < before { last } else { last - before };
    // Infinities, and gauges that fall below zero, are not counted; there is nothing to repair.
    let is_counter = before >= 0.0 && last >= 0.0 && before.is_finite() && last.is_finite() && increase.is_finite();
    if !is_counter || increase - seen <= ROUNDING * last.max(before) {
        return (None, false);
    }
    let peak = (before + (increase - last)).max(before);
    let zero = peak <= last;
    ((peak > before).then_some(peak), zero)
}

/// Floats and histograms of one series in order of time.
pub fn mixed(floats: &SampleBuf, histograms: &SampleBuf) -> SampleBuf {
    let mut out = SampleBuf::default();
    let mut millis = Vec::with_capacity(floats.len() + histograms.len());
    let mut float = 0;
    let mut push_floats = |until_ms: i64, millis: &mut Vec<i64>, out: &mut SampleBuf| {
        while let Some(t) = floats.timestamps.get(float).filter(|t| **t < until_ms) {
            millis.push(*t);
            out.values.push(floats.values[float]);
            out.counts.extend(floats.counts.get(float));
            float += 1;
        }
        // What was put between two samples gives way to a real one.
        float += usize::from(floats.timestamps.get(float) == Some(&until_ms));
    };
    for (i, histogram) in &histograms.histograms {
        let t = histograms.timestamps[*i as usize];
        push_floats(t, &mut millis, &mut out);
        out.histograms.push((millis.len() as u32, histogram.clone()));
        millis.push(t);
        out.values.push(histogram.sum);
        out.counts.extend((!floats.counts.is_empty()).then_some(1));
    }
    push_floats(i64::MAX, &mut millis, &mut out);
    out.timestamps = Timestamps::unshared(millis);
    out
}
