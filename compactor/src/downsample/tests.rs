//! Downsampling from end to end, and its parts against naive computations.

mod edited;
mod jobs;
mod planned;

use std::collections::BTreeMap;
use std::sync::Arc;

use isobar_block::cache::CacheConfig;
use isobar_block::histogram::{Counts, Span as Buckets};
use isobar_block::writer::{Bucket, RollupWriter, WriterConfig};
use isobar_block::{
    Aggregate, BlockReader, Histogram, Labels, SampleBuf, Source, TenantId, TimeRange, Timestamps, Want, is_stale, stale_nan,
};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use proptest::prelude::*;

use super::aggregate::{increase, keep_histograms, roll_up};

const STEP_MS: i64 = 1000;

fn floats(samples: &[(i64, f64)]) -> SampleBuf {
    SampleBuf {
        timestamps: Timestamps::unshared(samples.iter().map(|(t, _)| *t).collect()),
        values: samples.iter().map(|(_, v)| *v).collect(),
        histograms: Vec::new(),
        counts: Vec::new(),
    }
}

/// Samples as counters and gauges have them, with gaps, resets, and values that are no numbers.
fn samples() -> impl Strategy<Value = Vec<(i64, f64)>> {
    let step = (1..1500i64, 0..20u8, 0..1_000_000u32);
    (any::<bool>(), prop::collection::vec(step, 1..80)).prop_map(|(is_counter, steps)| {
        let (mut t, mut value) = (-20_000, 5.0);
        let take = |(dt, kind, n): (i64, u8, u32)| {
            t += if kind == 0 { dt * 5 } else { dt };
            let n = f64::from(n) / 8.0;
            match kind {
                1 => return (t, stale_nan()),
                2 => return (t, f64::NAN),
                3 if !is_counter => return (t, f64::INFINITY),
                4 if !is_counter => return (t, f64::NEG_INFINITY),
                5..8 if is_counter => value = n % 100.0,
                _ if is_counter => value += n,
                _ => value = n - 60_000.0,
            }
            (t, value)
        };
        steps.into_iter().map(take).collect()
    })
}

fn naive(samples: &[(i64, f64)]) -> Vec<Bucket> {
    let mut by_bucket: BTreeMap<i64, Vec<(i64, f64)>> = BTreeMap::new();
    let mut rises: BTreeMap<i64, f64> = BTreeMap::new();
    let mut before: Option<f64> = None;
    for (t, v) in samples.iter().filter(|(_, v)| !v.is_nan()) {
        let start_ms = t.div_euclid(STEP_MS) * STEP_MS;
        by_bucket.entry(start_ms).or_default().push((*t, *v));
        *rises.entry(start_ms).or_default() += before.map_or(0.0, |b| increase(b, *v));
        before = Some(*v);
    }
    let bucket = |(start_ms, of): (i64, Vec<(i64, f64)>)| {
        let values = || of.iter().map(|(_, v)| *v);
        let ((first_ms, first), (last_ms, last)) = (of[0], of[of.len() - 1]);
        Bucket {
            start_ms,
            count: of.len() as u32,
            sum: values().sum(),
            min: values().fold(f64::INFINITY, f64::min),
            max: values().fold(f64::NEG_INFINITY, f64::max),
            first,
            first_ms,
            last,
            last_ms,
            increase: rises[&start_ms],
        }
    };
    by_bucket.into_iter().map(bucket).collect()
}

fn same(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0)
}

fn rolled(samples: &SampleBuf) -> Vec<Bucket> {
    let mut out = Vec::new();
    roll_up(samples, i64::MIN..i64::MAX, STEP_MS, &mut out);
    out
}

/// Buckets written as a block and read as samples.
fn through_block(buckets: &[Bucket], histograms: &SampleBuf, aggregate: Aggregate) -> SampleBuf {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("starts");
    runtime.block_on(async {
        let (store, tenant): (Arc<dyn ObjectStore>, _) = (Arc::new(InMemory::new()), TenantId::default());
        let config = WriterConfig { resolution_ms: STEP_MS, window_ms: 1_000_000_000_000, ..WriterConfig::new(1) };
        let mut writer = RollupWriter::new(config, -1_000_000_000_000).expect("aligned");
        let labels = Labels::from_pairs([("__name__", "m")]).expect("valid");
        let shift = |t: i64| t - 500_000_000;
        let moved: Vec<Bucket> = buckets
            .iter()
            .map(|b| Bucket { start_ms: shift(b.start_ms), first_ms: shift(b.first_ms), last_ms: shift(b.last_ms), ..*b })
            .collect();
        let times = histograms.timestamps.iter().map(|t| shift(*t)).collect();
        let histograms = SampleBuf { timestamps: Timestamps::unshared(times), ..histograms.clone() };
        writer.push_series(&labels, None, &moved, &histograms).expect("fits");
        let meta = Arc::new(writer.finish(&*store, &tenant).await.expect("is written"));
        let reader = Arc::new(BlockReader::open(store, &tenant, meta, &CacheConfig::default()).await.expect("opens"));
        let want = Want { max_resolution_ms: STEP_MS, aggregate };
        let set = reader.select(&[], TimeRange::ALL, want).await.expect("selects").sets.remove(0);
        let mut out = SampleBuf::default();
        set.load(0..1, TimeRange::ALL).await.expect("loads").read(0, &mut out).expect("reads");
        out.timestamps = Timestamps::unshared(out.timestamps.iter().map(|t| t + 500_000_000).collect());
        out
    })
}

/// What a counter rises by over samples up to `end_ms`, from the first one on.
fn risen(samples: &SampleBuf, end_ms: i64) -> f64 {
    let mut before: Option<f64> = None;
    let mut total = 0.0;
    for (_, v) in samples.timestamps.iter().zip(&samples.values).filter(|(t, v)| **t <= end_ms && !v.is_nan()) {
        total += before.map_or(0.0, |b| increase(b, *v));
        before = Some(*v);
    }
    total
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn buckets_are_those_of_a_naive_computation(samples in samples()) {
        let found = rolled(&floats(&samples));
        let expected = naive(&samples);
        prop_assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(&expected) {
            let whole = |b: &Bucket| (b.start_ms, b.count, b.first_ms, b.last_ms);
            prop_assert_eq!(whole(f), whole(e));
            for (a, b) in [(f.sum, e.sum), (f.min, e.min), (f.max, e.max), (f.first, e.first), (f.last, e.last)] {
                prop_assert!(same(a, b), "{f:?} is not {e:?}");
            }
            let finite = [f.min, f.max, f.increase, e.increase].iter().all(|v| v.is_finite());
            prop_assert!(!finite || same(f.increase, e.increase), "{f:?} is not {e:?}");
        }
    }

    #[test]
    fn counters_rise_as_the_raw_samples_did(samples in samples()) {
        let raw = floats(&samples);
        let buckets = rolled(&raw);
        prop_assume!(!buckets.is_empty() && raw.values.iter().all(|v| v.is_nan() || *v >= 0.0) && !raw.values.contains(&f64::INFINITY));
        let read = through_block(&buckets, &SampleBuf::default(), Aggregate::Counter);
        prop_assert!(read.timestamps.is_sorted_by(|a, b| a < b));
        for bucket in &buckets {
            let (found, expected) = (risen(&read, bucket.last_ms), risen(&raw, bucket.last_ms));
            prop_assert!(same(found, expected), "{found} is not {expected} at {}: {read:?}", bucket.last_ms);
        }
    }

    #[test]
    fn histograms_keep_every_increase(steps in prop::collection::vec((1..700i64, 0..12u8, 0..50u64), 1..60)) {
        let (mut t, mut counts) = (0, [0u64; 3]);
        let mut all: Vec<(i64, Arc<Histogram>)> = Vec::new();
        for (dt, kind, n) in steps {
            t += dt;
            if kind < 2 {
                counts = [n % 7, n % 5, n % 3];
            } else {
                counts[n as usize % 3] += n;
            }
            let sum = if kind == 3 { stale_nan() } else { n as f64 };
            all.push((t, histogram(counts, sum)));
        }
        let raw = histogram_buf(&all);
        let kept = keep_histograms(&raw, i64::MIN..i64::MAX, STEP_MS);
        let left: Vec<(i64, Arc<Histogram>)> = all.iter().filter(|(_, h)| !is_stale(h.sum)).cloned().collect();
        for (end_ms, _) in left.iter().enumerate().filter(|(i, (t, _))| {
            left.get(i + 1).is_none_or(|(next, _)| next.div_euclid(STEP_MS) != t.div_euclid(STEP_MS))
        }).map(|(_, sample)| sample) {
            prop_assert_eq!(risen_histograms(&kept, *end_ms), risen_histograms(&histogram_buf(&left), *end_ms));
        }
        prop_assert!(kept.len() <= left.len());
    }
}

fn histogram(buckets: [u64; 3], sum: f64) -> Arc<Histogram> {
    // Empty buckets leave gaps between the spans, as clients send them.
    let mut spans: Vec<Buckets> = Vec::new();
    let mut gap = 0;
    for count in buckets {
        match (count, spans.last_mut()) {
            (0, _) => gap += 1,
            (_, Some(last)) if gap == 0 => last.length += 1,
            _ => {
                spans.push(Buckets { offset: gap, length: 1 });
                gap = 0;
            }
        }
    }
    let positive: Vec<u64> = buckets.into_iter().filter(|n| *n > 0).collect();
    Arc::new(Histogram {
        reset_hint: Default::default(),
        schema: 0,
        zero_threshold: 0.0,
        sum,
        positive_spans: spans,
        negative_spans: Vec::new(),
        custom_bounds: Vec::new(),
        counts: Counts::Integer { count: positive.iter().sum(), zero: 0, positive, negative: Vec::new() },
    })
}

fn histogram_buf(samples: &[(i64, Arc<Histogram>)]) -> SampleBuf {
    SampleBuf {
        timestamps: Timestamps::unshared(samples.iter().map(|(t, _)| *t).collect()),
        values: samples.iter().map(|(_, h)| h.sum).collect(),
        histograms: samples.iter().enumerate().map(|(i, (_, h))| (i as u32, h.clone())).collect(),
        counts: Vec::new(),
    }
}

/// Counts by bucket number.
fn spread(histogram: &Histogram) -> BTreeMap<i64, u64> {
    let Counts::Integer { positive, .. } = &histogram.counts else { unreachable!("the tests have integers only") };
    let mut next = 0;
    let mut places = Vec::new();
    for span in &histogram.positive_spans {
        next += i64::from(span.offset);
        places.extend(next..next + i64::from(span.length));
        next += i64::from(span.length);
    }
    places.into_iter().zip(positive.iter().copied()).collect()
}

/// What each bucket rises by up to `end_ms`; a histogram of which some bucket has fallen is one after a reset.
fn risen_histograms(samples: &SampleBuf, end_ms: i64) -> BTreeMap<i64, u64> {
    let mut total: BTreeMap<i64, u64> = BTreeMap::new();
    let mut before: Option<BTreeMap<i64, u64>> = None;
    for (_, h) in samples.histograms.iter().filter(|(i, _)| samples.timestamps[*i as usize] <= end_ms) {
        let now = spread(h);
        if let Some(before) = &before {
            let is_reset = before.iter().any(|(place, n)| now.get(place).copied().unwrap_or(0) < *n);
            for (place, n) in &now {
                *total.entry(*place).or_default() += n - if is_reset { 0 } else { before.get(place).copied().unwrap_or(0) };
            }
        }
        before = Some(now);
    }
    total.retain(|_, n| *n > 0);
    total
}

#[test]
fn what_is_no_number_is_left_out_and_infinities_are_kept() {
    let nothing = floats(&[(0, f64::NAN), (1, stale_nan())]);
    assert!(rolled(&nothing).is_empty());
    let one = rolled(&floats(&[(0, 1.0), (1, f64::INFINITY), (2, f64::NAN), (3, 2.0)]));
    assert_eq!((one[0].count, one[0].sum, one[0].max, one[0].min, one[0].last), (3, f64::INFINITY, f64::INFINITY, 1.0, 2.0));
    let both = rolled(&floats(&[(0, f64::NEG_INFINITY), (1, f64::INFINITY)]));
    assert!(both[0].sum.is_nan() && both[0].min == f64::NEG_INFINITY);
    let exact = rolled(&floats(&[(0, 1e100), (1, 1.0), (2, -1e100)]));
    assert_eq!(exact[0].sum, 1.0);
}

#[test]
fn samples_outside_of_the_span_are_left_out() {
    let samples = floats(&(0..100).map(|i| (i * 100, i as f64)).collect::<Vec<_>>());
    let mut out = Vec::new();
    roll_up(&samples, 2000..4000, STEP_MS, &mut out);
    assert_eq!(out.iter().map(|b| (b.start_ms, b.count, b.increase)).collect::<Vec<_>>(), [(2000, 10, 9.0), (3000, 10, 10.0)]);
}

#[test]
fn gauge_histograms_have_no_resets() {
    let gauge =
        |n: u64| Arc::new(Histogram { reset_hint: isobar_block::histogram::ResetHint::Gauge, ..(*histogram([n, 0, 0], 1.0)).clone() });
    let all: Vec<_> = [9, 3, 8, 1, 5].iter().enumerate().map(|(i, n)| (i as i64 * 300, gauge(*n))).collect();
    let kept = keep_histograms(&histogram_buf(&all), 0..10_000, STEP_MS);
    assert_eq!(*kept.timestamps, [0, 900, 1200]);
}
