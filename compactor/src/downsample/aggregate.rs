//! From samples to buckets: pure functions over the samples of one series.

use std::ops::Range;
use std::sync::Arc;

use isobar_block::histogram::{Counts, ResetHint, Span};
use isobar_block::writer::Bucket;
use isobar_block::{Histogram, SampleBuf, Timestamps, is_stale};

/// Appends the buckets of the float samples in `span` to `out`. NaNs, stale markers among them, and native histograms are not
/// looked at.
///
/// The sum is Neumaier's (1974) and does not depend on how far the values of a bucket are apart; a bucket's `increase` counts
/// from the last sample of the bucket before that has one, as PromQL's `increase` sees it.
pub fn roll_up(samples: &SampleBuf, span: Range<i64>, resolution_ms: i64, out: &mut Vec<Bucket>) {
    let times: &[i64] = &samples.timestamps;
    let mut histograms = samples.histograms.iter().map(|(i, _)| *i as usize).peekable();
    let mut bucket: Option<Open> = None;
    let mut end_ms = i64::MIN;
    let mut before = None;
    let start = times.partition_point(|t| *t < span.start);
    for (i, (t, value)) in times.iter().zip(&samples.values).enumerate().skip(start).take_while(|(_, (t, _))| **t < span.end) {
        while histograms.next_if(|h| *h < i).is_some() {}
        if value.is_nan() || histograms.peek() == Some(&i) {
            continue;
        }
        if *t >= end_ms
            && let Some(full) = bucket.take()
        {
            before = Some(full.bucket.last);
            out.push(full.close());
        }
        match &mut bucket {
            Some(open) => open.add(*t, *value),
            None => {
                let start_ms = t.div_euclid(resolution_ms) * resolution_ms;
                end_ms = start_ms.saturating_add(resolution_ms);
                bucket = Some(Open::new(start_ms, *t, *value, before));
            }
        }
    }
    out.extend(bucket.map(Open::close));
}

/// A bucket that is being filled.
struct Open {
    bucket: Bucket,
    /// What the sum has lost by rounding.
    lost: f64,
    /// Rises before the last reset.
    risen: f64,
    /// From where the counter rises since then.
    base: f64,
}

impl Open {
    fn new(start_ms: i64, first_ms: i64, first: f64, before: Option<f64>) -> Self {
        let bucket = Bucket {
            start_ms,
            count: 1,
            sum: first,
            min: first,
            max: first,
            first,
            first_ms,
            last: first,
            last_ms: first_ms,
            increase: 0.0,
        };
        let is_reset = before.is_some_and(|before| first < before);
        Self { bucket, lost: 0.0, risen: 0.0, base: if is_reset { 0.0 } else { before.unwrap_or(first) } }
    }

    fn add(&mut self, t_ms: i64, value: f64) {
        let bucket = &mut self.bucket;
        let sum = bucket.sum + value;
        self.lost += if bucket.sum.abs() >= value.abs() { (bucket.sum - sum) + value } else { (value - sum) + bucket.sum };
        bucket.sum = sum;
        bucket.count = bucket.count.saturating_add(1);
        bucket.min = bucket.min.min(value);
        bucket.max = bucket.max.max(value);
        if value < bucket.last {
            self.risen += rise(self.base, bucket.last);
            self.base = 0.0;
        }
        (bucket.last, bucket.last_ms) = (value, t_ms);
    }

    fn close(mut self) -> Bucket {
        // With infinities the correction is no number, and the sum needs none.
        if self.lost.is_finite() && self.bucket.sum.is_finite() {
            self.bucket.sum += self.lost;
        }
        self.bucket.increase = self.risen + rise(self.base, self.bucket.last);
        self.bucket
    }
}

/// The difference, which of two equal infinities is 0.
fn rise(from: f64, to: f64) -> f64 {
    if from == to { 0.0 } else { to - from }
}

/// What a counter has risen by between two samples that follow each other.
pub fn increase(before: f64, after: f64) -> f64 {
    if after < before { after } else { rise(before, after) }
}

/// The increase of a bucket that counts from its own first sample, if it is to count from `before`, the sample before that.
pub fn continued(before: f64, bucket: &Bucket) -> f64 {
    let has_reset = bucket.increase != rise(bucket.first, bucket.last);
    if has_reset || bucket.first < before {
        return increase(before, bucket.first) + bucket.increase;
    }
    // One subtraction is exact more often than the sum of two.
    rise(before, bucket.last)
}

/// The native histograms of a series in `span` that stand for all of them: the first, the last one of every bucket, and
/// wherever the counts may have been reset the one before and the one after, so that no reset is hidden between two that
/// are kept. Stale markers are left out.
pub fn keep_histograms(samples: &SampleBuf, span: Range<i64>, resolution_ms: i64) -> SampleBuf {
    let all: Vec<(i64, &Arc<Histogram>)> = samples
        .histograms
        .iter()
        .map(|(i, h)| (samples.timestamps[*i as usize], h))
        .filter(|(t, h)| span.contains(t) && !is_stale(h.sum))
        .collect();
    let bucket_of = |i: usize| all[i].0.div_euclid(resolution_ms);
    let keeps = |i: usize| {
        let (is_first, is_last) = (i == 0, i + 1 == all.len());
        is_first
            || is_last
            || bucket_of(i + 1) != bucket_of(i)
            || may_be_reset(all[i].1, all[i + 1].1)
            || may_be_reset(all[i - 1].1, all[i].1)
    };
    let mut out = SampleBuf::default();
    let mut millis = Vec::new();
    for (t, histogram) in (0..all.len()).filter(|i| keeps(*i)).map(|i| all[i]) {
        out.histograms.push((millis.len() as u32, histogram.clone()));
        out.values.push(histogram.sum);
        millis.push(t);
    }
    out.timestamps = Timestamps::unshared(millis);
    out
}

/// Whether counts may have been reset between two histograms that follow each other. Where their buckets cannot be compared
/// this says yes: keeping one too many does no harm.
fn may_be_reset(before: &Histogram, after: &Histogram) -> bool {
    match after.reset_hint {
        ResetHint::Yes => return true,
        ResetHint::No | ResetHint::Gauge => return false,
        ResetHint::Unknown => {}
    }
    let layouts_differ = before.schema != after.schema
        || before.zero_threshold != after.zero_threshold
        || before.custom_bounds != after.custom_bounds
        || std::mem::discriminant(&before.counts) != std::mem::discriminant(&after.counts);
    layouts_differ || after.count() < before.count() || has_fallen(before, after)
}

/// Whether a bucket has less than before.
fn has_fallen(before: &Histogram, after: &Histogram) -> bool {
    let (old, new) = (floats(before), floats(after));
    new.0 < old.0
        || side_has_fallen((&before.positive_spans, &old.1), (&after.positive_spans, &new.1))
        || side_has_fallen((&before.negative_spans, &old.2), (&after.negative_spans, &new.2))
}

/// Zero bucket, positive and negative buckets.
fn floats(histogram: &Histogram) -> (f64, Vec<f64>, Vec<f64>) {
    let as_floats = |counts: &[u64]| counts.iter().map(|n| *n as f64).collect();
    match &histogram.counts {
        Counts::Integer { zero, positive, negative, .. } => (*zero as f64, as_floats(positive), as_floats(negative)),
        Counts::Float { zero, positive, negative, .. } => (*zero, positive.clone(), negative.clone()),
    }
}

fn side_has_fallen(before: (&[Span], &[f64]), after: (&[Span], &[f64])) -> bool {
    let mut now = places(after.0).zip(after.1).peekable();
    for (place, count) in places(before.0).zip(before.1).filter(|(_, count)| **count > 0.0) {
        while now.next_if(|(p, _)| *p < place).is_some() {}
        if now.next_if(|(p, _)| *p == place).is_none_or(|(_, after)| after < count) {
            return true;
        }
    }
    false
}

/// Numbers of the buckets in spans.
fn places(spans: &[Span]) -> impl Iterator<Item = i64> + '_ {
    let mut next = 0;
    spans.iter().flat_map(move |span| {
        let start = next + i64::from(span.offset);
        next = start + i64::from(span.length);
        start..next
    })
}
