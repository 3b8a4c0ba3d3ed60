//! Native histograms, with cases of `native_histograms.test` and `extended_vectors.test` of Prometheus.

use isobar_block::Histogram;
use isobar_block::histogram::{Counts, ResetHint, Span};
use proptest::prelude::*;

use super::same;
use crate::kernel::RangeFn;
use crate::kernel::histogram::window::{Border, Notes, Sample, avg, difference, interpolate, sum, transitions};
use crate::kernel::histogram::{FloatHistogram, MixedSchemas};
use crate::promql::ast::RangeMode;

const INF: f64 = f64::INFINITY;
const SQRT_2: f64 = std::f64::consts::SQRT_2;

/// Buckets from bucket 0 on, zero bucket (count, width).
fn exponential(schema: i32, (count, sum): (f64, f64), zero: (f64, f64), positive: &[f64], negative: &[f64]) -> FloatHistogram {
    let span = |counts: &[f64]| vec![Span { offset: 0, length: counts.len() as u32 }];
    FloatHistogram::from(&Histogram {
        reset_hint: ResetHint::Unknown,
        schema,
        zero_threshold: zero.1,
        sum,
        positive_spans: span(positive),
        negative_spans: span(negative),
        custom_bounds: vec![],
        counts: Counts::Float { count, zero: zero.0, positive: positive.to_vec(), negative: negative.to_vec() },
    })
}

fn custom(bounds: &[f64], (count, sum): (f64, f64), counts: &[f64]) -> FloatHistogram {
    FloatHistogram::from(&Histogram {
        reset_hint: ResetHint::Unknown,
        schema: -53,
        zero_threshold: 0.0,
        sum,
        positive_spans: vec![Span { offset: 0, length: counts.len() as u32 }],
        negative_spans: vec![],
        custom_bounds: bounds.to_vec(),
        counts: Counts::Float { count, zero: 0.0, positive: counts.to_vec(), negative: vec![] },
    })
}

fn counter(count: f64, hint: ResetHint) -> FloatHistogram {
    let mut h = exponential(0, (count, count), (0.0, 0.0), &[count], &[]);
    h.reset_hint = hint;
    h
}

/// Positive buckets and counts of a result.
fn positive(h: &FloatHistogram) -> (Vec<Span>, Vec<f64>) {
    let h = Histogram::from(h);
    let Counts::Float { positive, .. } = h.counts else { return (vec![], vec![]) };
    (h.positive_spans, positive)
}

#[track_caller]
fn assert_close(got: f64, want: f64) {
    assert!(same(got, want, 1e-9) || (got - want).abs() < 1e-12, "got {got}, want {want}");
}

#[test]
fn quantiles_interpolate_exponentially() {
    let buckets = [2.0, 3.0, 0.0, 1.0, 4.0];
    let above = exponential(0, (12.0, 100.0), (2.0, 0.001), &buckets, &[]);
    let below = exponential(0, (12.0, 100.0), (2.0, 0.001), &[], &buckets);
    let both = exponential(0, (24.0, 100.0), (4.0, 0.001), &buckets, &buckets);
    let cases: &[(&FloatHistogram, f64, f64)] = &[
        (&above, 1.001, INF),
        (&above, 1.0, 16.0),
        (&above, 0.99, 15.67072476139083),
        (&above, 0.6, 4.594793419988138),
        (&above, 0.1, 0.0006),
        (&above, 0.0, 0.0),
        (&below, 0.99, -0.00006),
        (&below, 0.0, -16.0),
        (&both, 0.9, 10.556063286183155),
        (&both, 0.55, 0.0006),
        (&both, 0.3, -1.2030250360821169),
        (&both, -1.0, -INF),
    ];
    for (h, q, want) in cases {
        assert_close(h.quantile(*q), *want);
    }
    for (schema, want) in [(-1, 8.0), (0, 2.82842712474619), (1, 1.6817928305074292)] {
        assert_close(exponential(schema, (5.0, 4.0), (0.0, 0.0), &[0.0, 0.0, 5.0], &[]).quantile(0.5), want);
    }
    assert_close(custom(&[5.0, 10.0], (4.0, 5.0), &[1.0, 2.0, 1.0]).quantile(0.5), 7.5);
    let nan = exponential(0, (15.0, f64::NAN), (0.0, 0.0), &[12.0], &[]);
    assert!(nan.has_nan_observations() && nan.quantile(0.9).is_nan());
    assert_close(nan.quantile(0.4), SQRT_2 / 2.0);
    assert_close(nan.fraction(-INF, SQRT_2 / 2.0), 0.4);
    assert!(exponential(0, (0.0, 0.0), (0.0, 0.0), &[], &[]).quantile(0.5).is_nan());
}

#[test]
fn fractions() {
    let buckets = [2.0, 3.0, 0.0, 1.0, 4.0];
    let above = exponential(0, (12.0, 100.0), (2.0, 0.001), &buckets, &[]);
    let both = exponential(0, (24.0, 100.0), (4.0, 0.001), &buckets, &buckets);
    let bounds = custom(&[1.0, 2.0, 3.0], (100.0, 0.0), &[1.0, 2.0, 3.0, 94.0]);
    let cases: &[(&FloatHistogram, f64, f64, f64)] = &[
        (&above, 0.0, INF, 1.0),
        (&above, 0.001, INF, 0.8333333333333334),
        (&above, 0.0, 6.0, 0.6320802083934297),
        (&above, 1.5, 6.0, 0.15250624987980724),
        (&above, -6.0, -1.0, 0.0),
        (&above, 42.0, 3.25, 0.0),
        (&above, f64::NAN, 1.0, f64::NAN),
        (&both, -0.001, 0.0, 0.08333333333333333),
        (&both, -INF, 0.0005, 0.5416666666666666),
        (&both, -6.0, -1.5, 0.07625312493990362),
        (&both, -INF, INF, 1.0),
        (&bounds, 0.0, 1.5, 0.02),
        (&bounds, 4.0, 5.0, 0.0),
        (&bounds, 400.0, INF, 0.94),
    ];
    for (h, lower, upper, want) in cases {
        assert_close(h.fraction(*lower, *upper), *want);
    }
}

#[test]
fn means_and_variances() {
    let h = exponential(2, (4.0, 10.0), (0.0, 0.0), &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0], &[]);
    assert_close(h.variance(), 1.163807968526718);
    assert_close(h.mean(), 2.5);
    let tens = exponential(0, (10.0, -100.0), (0.0, 0.0), &[], &[0.0, 0.0, 0.0, 0.0, 10.0]);
    assert_close(tens.variance(), 1.725830020304794);
    let nhcb = custom(&[0.0, 0.1, 0.2, 1.0], (110.0, 330.0), &[0.0, 50.0, 20.0, 40.0]);
    assert_close(nhcb.stddev(), 2.7435461458749795);
}

#[test]
fn addition_takes_the_coarser_buckets() {
    let mut low = exponential(-1, (1.0, 4.0), (0.0, 0.0), &[0.0, 1.0], &[]);
    low.add(&exponential(0, (4.0, 4.0), (0.0, 0.0), &[0.0, 2.0, 2.0], &[])).expect("both are exponential");
    assert_eq!((low.count(), low.sum()), (5.0, 8.0));
    assert_eq!(positive(&low), (vec![Span { offset: 1, length: 1 }], vec![5.0]));
    // The narrow zero bucket grows over the populated bucket (0.25, 0.5].
    let mut narrow = exponential(0, (3.0, 1.0), (1.0, 0.001), &[1.0], &[]);
    let low_bucket = Histogram { positive_spans: vec![Span { offset: -1, length: 2 }], ..Histogram::from(&narrow) };
    let counts = Counts::Float { count: 3.0, zero: 1.0, positive: vec![1.0, 1.0], negative: vec![] };
    narrow = FloatHistogram::from(&Histogram { counts, ..low_bucket });
    narrow.add(&exponential(0, (5.0, 1.0), (5.0, 0.3), &[], &[])).expect("both are exponential");
    let sum = Histogram::from(&narrow);
    assert_eq!(sum.zero_threshold, 0.5);
    assert_eq!(sum.counts, Counts::Float { count: 8.0, zero: 7.0, positive: vec![1.0], negative: vec![] });
    assert_eq!(narrow.add(&custom(&[1.0], (1.0, 1.0), &[1.0])).err(), Some(MixedSchemas));
}

#[test]
fn scaling_and_hints() {
    let mut h = exponential(0, (30.0, 33.0), (3.0, 0.001), &[3.0, 3.0], &[6.0]);
    h.scale(-1.0);
    assert_eq!((h.count(), h.reset_hint), (-30.0, ResetHint::Gauge));
    h.divide(0.0);
    assert_eq!((h.count(), positive(&h).1), (-INF, vec![]));
    let hints = |a, b| {
        let mut h = counter(1.0, a);
        let combined = h.add(&counter(1.0, b)).expect("both are exponential");
        (h.reset_hint, combined.reset_collision)
    };
    assert_eq!(hints(ResetHint::No, ResetHint::No), (ResetHint::No, false));
    assert_eq!(hints(ResetHint::No, ResetHint::Unknown), (ResetHint::Unknown, false));
    assert_eq!(hints(ResetHint::No, ResetHint::Gauge), (ResetHint::Gauge, false));
    assert_eq!(hints(ResetHint::No, ResetHint::Yes), (ResetHint::Unknown, true));
}

#[test]
fn averages_and_sums_are_compensated() {
    let sums = |values: &[(f64, f64)]| -> Vec<FloatHistogram> { values.iter().map(|v| exponential(0, *v, (0.0, 0.0), &[], &[])).collect() };
    let mut notes = Notes::default();
    let large = sums(&[(1.0, 1.0), (2.0, 1e100), (3.0, 1.0), (4.0, -1e100)]);
    let total = sum(&large, &mut notes).expect("not empty");
    assert_eq!((total.count(), total.sum()), (10.0, 2.0));
    let mean = avg(&large, &mut notes).expect("not empty");
    assert_eq!((mean.count(), mean.sum()), (2.5, 0.5));
    let overflowing = sums(&[(f64::MAX, 1.0), (1e308, 1e100), (1e-6, 1.0), (1e-6, -1e100)]);
    assert_eq!(sum(&overflowing, &mut notes).expect("not empty").count(), INF);
    let mean = avg(&overflowing, &mut notes).expect("not empty");
    assert_close(mean.count(), 6.99423283715579e307);
    assert_close(mean.sum(), 0.5);
}

fn evaluate(f: RangeFn, points: &[(f64, FloatHistogram)], at: f64, range: f64, mode: RangeMode) -> (Option<FloatHistogram>, Notes) {
    let ms = |s: f64| (s * 1000.0) as i64;
    let (start_ms, end_ms) = (ms(at - range), ms(at));
    let inside = |t: i64| match mode {
        RangeMode::Plain => t > start_ms && t <= end_ms,
        RangeMode::Anchored => t <= end_ms,
        RangeMode::Smoothed => true,
    };
    let window: Vec<_> = points.iter().map(|(t, h)| (ms(*t), h)).filter(|(t, _)| inside(*t)).collect();
    let mut notes = Notes::default();
    (difference(f, &window, Border { start_ms, end_ms, mode }, &mut notes), notes)
}

#[test]
fn rates_extrapolate_to_zero() {
    let mut points = vec![(0.0, exponential(0, (15.0, 25.0), (0.0, 0.0), &[5.0, 10.0], &[]))];
    points.extend((1..56).map(|i| (f64::from(i) * 60.0, exponential(0, (2490.0, 75.0), (0.0, 0.0), &[15.0, 2475.0], &[]))));
    let (result, notes) = evaluate(RangeFn::Increase, &points, 3300.0, 5400.0, RangeMode::Plain);
    let result = result.expect("two samples");
    assert_close(result.count(), 2490.0);
    assert_close(result.sum(), 50.303030303030305);
    assert_close(positive(&result).1[0], 10.06060606060606);
    assert_eq!(notes, Notes::default());
}

#[test]
fn resets_in_one_bucket_are_seen() {
    let buckets = [[1.0, 2.0, 1.0], [1.0, 1.0, 3.0], [1.0, 2.0, 3.0]];
    let points: Vec<_> = (0_u8..)
        .zip(buckets)
        .map(|(i, b)| (f64::from(i) * 300.0, exponential(0, (f64::from(i) + 4.0, f64::from(i) + 5.0), (0.0, 0.0), &b, &[])))
        .collect();
    let (result, _) = evaluate(RangeFn::Increase, &points, 600.0, 900.0, RangeMode::Plain);
    assert_close(result.expect("three samples").sum(), 10.5);
    let samples: Vec<_> = points.iter().map(|(_, h)| Sample::Histogram(h)).chain([Sample::Float(1.0), Sample::Float(1.0)]).collect();
    assert_eq!((transitions(false, &samples), transitions(true, &samples)), (2.0, 3.0));
}

#[test]
fn mixed_buckets_have_no_rate_unless_the_first_does_not_matter() {
    let exp = |count: f64| exponential(0, (count, count), (0.0, 0.0), &[count], &[]);
    let nhcb = || custom(&[5.0, 10.0], (1.0, 1.0), &[1.0]);
    let points = [(0.0, exp(1.0)), (30.0, nhcb()), (60.0, exponential(0, (4.0, 5.0), (0.0, 0.0), &[1.0, 2.0, 1.0], &[])), (90.0, nhcb())];
    let (none, notes) = evaluate(RangeFn::Rate, &points, 60.0, 90.0, RangeMode::Plain);
    assert!(none.is_none() && notes.mixed_schemas);
    let (some, notes) = evaluate(RangeFn::Rate, &points, 60.0, 60.0, RangeMode::Plain);
    assert_close(some.expect("the first is ignored").count(), 0.08333333333333333);
    assert!(!notes.mixed_schemas);
}

#[test]
fn custom_bounds_are_reconciled() {
    let points = [
        (0.0, custom(&[2.0, 4.0, 6.0], (15.0, 55.0), &[1.0, 2.0, 5.0, 7.0])),
        (60.0, custom(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], (450.0, 555.0), &[10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0])),
    ];
    let (result, notes) = evaluate(RangeFn::Irate, &points, 60.0, 120.0, RangeMode::Plain);
    let mut result = result.expect("two samples");
    result.scale(60.0);
    assert!(notes.reconciled_sub);
    for (got, want) in positive(&result).1.into_iter().zip([29.0, 68.0, 105.0, 233.0]) {
        assert_close(got, want);
    }
}

#[test]
fn gauges_and_counters_are_told_apart() {
    let points: Vec<_> = (1_u8..4).map(|i| (f64::from(i) * 30.0, counter(f64::from(i), ResetHint::Gauge))).collect();
    let (rate, notes) = evaluate(RangeFn::Rate, &points, 60.0, 60.0, RangeMode::Plain);
    assert_close(rate.expect("two samples").count(), 0.03333333333333333);
    assert!(notes.not_counter && !notes.not_gauge);
    let (_, notes) =
        evaluate(RangeFn::Delta, &[(0.0, counter(1.0, ResetHint::No)), (30.0, counter(2.0, ResetHint::No))], 30.0, 60.0, RangeMode::Plain);
    assert!(notes.not_gauge);
}

#[test]
fn anchored_and_smoothed() {
    use RangeMode::{Anchored, Smoothed};
    let hist = |interval: f64, counts: &[(f64, bool)]| -> Vec<(f64, FloatHistogram)> {
        let hint = |reset: bool| if reset { ResetHint::Yes } else { ResetHint::Unknown };
        counts.iter().enumerate().map(|(i, (c, reset))| (i as f64 * interval, counter(*c, hint(*reset)))).collect()
    };
    let steady: Vec<_> = (1..9).map(|c| (f64::from(c), false)).collect();
    let steady = hist(15.0, &steady);
    let at_end = hist(30.0, &[(5.0, false), (10.0, false), (3.0, true)]);
    let double = hist(10.0, &[(10.0, false), (5.0, true), (2.0, true), (4.0, false)]);
    let both = hist(20.0, &[(10.0, false), (5.0, true)]);
    let right = hist(10.0, &[(5.0, false), (10.0, false), (3.0, true)]);
    let mut boundary = hist(10.0, &[(0.0, false), (396.0, false), (110.0, true), (194.0, false)]);
    boundary.remove(0);
    type Case<'a> = (&'a [(f64, FloatHistogram)], f64, f64, RangeMode, f64);
    let cases: &[Case<'_>] = &[
        (&steady, 50.0, 60.0, Anchored, 3.0),
        (&steady, 50.0, 60.0, Smoothed, 10.0 / 3.0),
        (&steady, 5.0, 60.0, Smoothed, 1.0 / 3.0),
        (&steady, 5.0, 60.0, Anchored, 0.0),
        (&at_end, 70.0, 70.0, Anchored, 8.0),
        (&double, 15.0, 14.0, Smoothed, 5.5),
        (&both, 15.0, 10.0, Smoothed, 2.5),
        (&right, 15.0, 10.0, Smoothed, 4.0),
        (&boundary, 20.5, 1.0, Smoothed, 9.7),
    ];
    for (points, at, range, mode, want) in cases {
        let (result, _) = evaluate(RangeFn::Increase, points, *at, *range, *mode);
        assert_close(result.expect("samples on both sides").count(), *want);
    }
    let mut notes = Notes::default();
    let (a, b) = (counter(10.0, ResetHint::Unknown), counter(2.0, ResetHint::Yes));
    let between = interpolate((15_000, &a), (30_000, &b), 20_000, true, &mut notes).expect("one kind");
    assert_close(between.count(), 2.0 / 3.0);
}

#[test]
fn trimming_keeps_one_side() {
    let h = exponential(0, (34.0, 123.75), (1.0, 0.001), &[2.0, 4.0, 8.0, 16.0], &[1.0, 2.0]);
    let sided = exponential(0, (12.0, 8.021067811865476), (2.0, 0.5), &[10.0], &[]);
    let nhcb = custom(&[5.0, 10.0, 15.0, 20.0], (15.0, 172.5), &[1.0, 6.0, 4.0, 3.0, 1.0]);
    let at_zero = custom(&[0.0], (101.0, 33.0), &[1.0, 100.0]);
    let negative = custom(&[-5.0], (101.0, 33.0), &[1.0, 100.0]);
    let positive = custom(&[5.0], (101.0, 33.0), &[1.0, 100.0]);
    let (below, above) = (false, true);
    let cases: &[(&FloatHistogram, bool, f64, f64, f64)] = &[
        (&h, above, -INF, 34.0, 123.75),
        (&h, above, INF, 0.0, 0.0),
        (&h, below, 0.0, 3.5, -3.5357839059327377),
        (&h, below, SQRT_2, 8.0, 0.2570938865989847),
        (&h, above, SQRT_2, 26.0, 116.50067065070982),
        (&h, below, 2.0, 10.0, 3.5355339059327373),
        (&sided, above, 0.1, 11.6, 7.551067811865476),
        (&nhcb, below, 13.0, 9.4, 75.1),
        (&nhcb, below, -INF, 0.0, 0.0),
        (&at_zero, below, 10.0, 1.0, 0.0),
        (&at_zero, above, 10.0, 100.0, 1000.0),
        (&positive, above, -10.0, 100.0, 500.0),
        (&negative, below, -2.0, 1.0, -5.0),
        (&negative, above, -10.0, 100.0, -500.0),
        (&negative, above, 0.0, 100.0, 0.0),
    ];
    for (h, lower, limit, count, sum) in cases {
        let trimmed = h.trim(*limit, *lower);
        assert!(same(trimmed.count(), *count, 1e-9), "{limit}: got {}, want {count}", trimmed.count());
        assert!(same(trimmed.sum(), *sum, 1e-6) || (trimmed.sum() - sum).abs() < 1e-9, "{limit}: got {}, want {sum}", trimmed.sum());
    }
}

fn random() -> impl Strategy<Value = FloatHistogram> {
    let counts = || prop::collection::vec(0..5_u8, 0..12);
    (-2..3_i32, counts(), counts(), 0..3_u8, prop::sample::select(vec![0.0, 0.001, 0.3, 1.5])).prop_map(
        |(schema, positive, negative, zero, threshold)| {
            let floats = |counts: Vec<u8>| counts.into_iter().map(f64::from).collect::<Vec<_>>();
            let (positive, negative) = (floats(positive), floats(negative));
            let count = f64::from(zero) + positive.iter().chain(&negative).sum::<f64>();
            let mut h = exponential(schema, (count, count), (f64::from(zero), 0.0), &positive, &negative);
            // A zero bucket covers no others: it grows by adding one that is wider.
            h.add(&exponential(8, (0.0, 0.0), (0.0, threshold), &[], &[])).expect("both are exponential");
            h
        },
    )
}

/// Observations in all buckets.
fn in_buckets(h: &FloatHistogram) -> f64 {
    let Counts::Float { zero, positive, negative, .. } = Histogram::from(h).counts else { return f64::NAN };
    zero + positive.iter().chain(&negative).sum::<f64>()
}

proptest! {
    #[test]
    fn sums_lose_nothing_and_do_not_depend_on_order(a in random(), b in random()) {
        let (mut ab, mut ba) = (a.clone(), b.clone());
        ab.add(&b).expect("both are exponential");
        ba.add(&a).expect("both are exponential");
        prop_assert_eq!(in_buckets(&ab), ab.count());
        prop_assert_eq!(&ab, &ba);
        prop_assert!(!ab.detect_reset(&a) && !ab.detect_reset(&b));
        ab.sub(&b).expect("both are exponential");
        prop_assert_eq!(in_buckets(&ab), a.count());
    }

    #[test]
    fn quantile_inverts_fraction(h in random(), q in 0.01..0.99_f64) {
        prop_assume!(h.count() > 0.0);
        let found = h.fraction(-INF, h.quantile(q));
        // At the border of buckets many ranks have the same quantile.
        prop_assert!((found - q).abs() < 1e-6 || h.quantile(found + 1e-9) >= h.quantile(q) - 1e-6, "{} {}", found, q);
    }
}
