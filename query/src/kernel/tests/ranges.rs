//! Range functions and instant selectors.

use isobar_block::{is_stale, stale_nan};
use proptest::prelude::*;

use super::{assert_same, naive, same};
use crate::kernel::{Params, RangeFn, Scratch, WindowPlan, WindowSpec, counts_matter, instant, range, range_of_means};
use crate::promql::ast::RangeMode;
use crate::result::Grid;

const ALL: [RangeFn; 26] = [
    RangeFn::Rate,
    RangeFn::Increase,
    RangeFn::Delta,
    RangeFn::Irate,
    RangeFn::Idelta,
    RangeFn::Changes,
    RangeFn::Resets,
    RangeFn::Deriv,
    RangeFn::PredictLinear,
    RangeFn::DoubleExponentialSmoothing,
    RangeFn::AvgOverTime,
    RangeFn::SumOverTime,
    RangeFn::MinOverTime,
    RangeFn::MaxOverTime,
    RangeFn::CountOverTime,
    RangeFn::LastOverTime,
    RangeFn::FirstOverTime,
    RangeFn::PresentOverTime,
    RangeFn::StddevOverTime,
    RangeFn::StdvarOverTime,
    RangeFn::QuantileOverTime,
    RangeFn::MadOverTime,
    RangeFn::TsOfMinOverTime,
    RangeFn::TsOfMaxOverTime,
    RangeFn::TsOfLastOverTime,
    RangeFn::TsOfFirstOverTime,
];

fn evaluate(f: RangeFn, scalars: (f64, f64), samples: &[(i64, f64)], spec: &WindowSpec) -> Vec<f64> {
    let (ts, values): (Vec<_>, Vec<_>) = samples.iter().copied().unzip();
    let mut out = vec![0.0; spec.grid.len];
    let params = Params { first: &[scalars.0], second: &[scalars.1], eval: spec.grid };
    range(f, &params, &ts, &values, &WindowPlan::new(&ts, spec), &mut Scratch::default(), &mut out);
    out
}

/// Evaluates at one time; durations are seconds.
fn at(f: RangeFn, at: f64, range: f64, mode: RangeMode, samples: &[(i64, f64)]) -> f64 {
    let spec = WindowSpec { grid: Grid::instant((at * 1000.0) as i64), range_ms: (range * 1000.0) as i64, lookback_ms: 300_000, mode };
    evaluate(f, (0.5, 0.5), samples, &spec)[0]
}

fn series(interval: f64, values: &[f64]) -> Vec<(i64, f64)> {
    let samples = values.iter().enumerate().map(|(i, v)| ((i as f64 * interval * 1000.0) as i64, *v));
    samples.filter(|(_, v)| !is_stale(*v)).collect()
}

/// Values of many kinds: counters with resets, gauges, equal numbers, special ones.
fn samples() -> impl Strategy<Value = Vec<(i64, f64)>> {
    let special = prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(-0.0), Just(1e300), Just(stale_nan())];
    let counter = prop::collection::vec((0..3_u32, 0..50_u32), 0..200).prop_map(|steps| {
        let mut value = 0.0;
        let step = |(kind, by): (u32, u32)| {
            value = if by == 0 { f64::from(kind) } else { value + f64::from(by) * 0.25 };
            value
        };
        steps.into_iter().map(step).collect::<Vec<_>>()
    });
    let gauge = prop::collection::vec(-1000.0..1000.0_f64, 0..200);
    let gaps = prop::collection::vec(prop_oneof![4 => Just(stale_nan()), 6 => (0..9).prop_map(f64::from)], 0..100);
    let wild = prop::collection::vec(prop_oneof![4 => -10.0..10.0_f64, 1 => special], 0..100);
    let values = prop_oneof![counter, gauge, gaps, wild];
    (values, 0..60_000_i64, any::<bool>()).prop_flat_map(|(values, start, regular)| {
        prop::collection::vec(1..30_000_i64, values.len()).prop_map(move |gaps| {
            let mut t = start;
            let next = |(v, gap): (&f64, i64)| {
                t += if regular { 15_000 } else { gap };
                (t, *v)
            };
            values.iter().zip(gaps).map(next).collect()
        })
    })
}

fn spec(mode: RangeMode) -> impl Strategy<Value = WindowSpec> {
    (-10_000..3_000_000_i64, 0..100_000_i64, 1..60_usize, 1..1_500_000_i64).prop_map(move |(start_ms, step_ms, len, range_ms)| WindowSpec {
        grid: Grid { start_ms, step_ms, len },
        range_ms,
        lookback_ms: 300_000,
        mode,
    })
}

/// What sums over series of very different magnitudes may differ by: nothing, since the order is Prometheus's.
fn tolerance(f: RangeFn) -> f64 {
    match f {
        RangeFn::SumOverTime | RangeFn::AvgOverTime => 1e-14,
        _ => 0.0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn plain_ranges_are_as_defined(samples in samples(), spec in spec(RangeMode::Plain), q in -0.1..1.1_f64) {
        for f in ALL {
            let scalars = if f == RangeFn::DoubleExponentialSmoothing { (0.3, 0.2) } else { (q, 0.0) };
            let got = evaluate(f, scalars, &samples, &spec);
            for (i, got) in got.iter().enumerate() {
                let want = naive::at_step(f, scalars, spec.grid.at(i), &samples, &spec, i);
                prop_assert!(same(*got, want, tolerance(f)), "{f:?} at step {i}: got {got:?}, want {want:?}");
            }
        }
    }

    #[test]
    fn extended_ranges_are_as_defined(samples in samples(), anchored in spec(RangeMode::Anchored)) {
        // Corrected counters of the definition add up in another order, and infinities cancel.
        let samples: Vec<_> = samples.into_iter().filter(|(_, v)| is_stale(*v) || v.abs() < 1e6).collect();
        for mode in [RangeMode::Anchored, RangeMode::Smoothed] {
            let spec = WindowSpec { mode, ..anchored };
            for f in ALL.into_iter().filter(|f| f.allows(mode)) {
                // Counters only: a negative gauge makes "reset" mean something else in the two ways to compute.
                if f != RangeFn::Delta && samples.iter().any(|(_, v)| *v < 0.0) {
                    continue;
                }
                for (i, got) in evaluate(f, (0.0, 0.0), &samples, &spec).iter().enumerate() {
                    let want = naive::at_step(f, (0.0, 0.0), 0, &samples, &spec, i);
                    let close = same(*got, want, 1e-9) || (got - want).abs() < 1e-9;
                    prop_assert!(close, "{f:?} {mode:?} at step {i}: got {got:?}, want {want:?}");
                }
            }
        }
    }

    #[test]
    fn instant_takes_the_newest(samples in samples(), spec in spec(RangeMode::Plain)) {
        let (ts, values): (Vec<_>, Vec<_>) = samples.iter().copied().unzip();
        let mut out = vec![0.0; spec.grid.len];
        instant::instant(&ts, &values, &spec.grid, 300_000, &mut out);
        for (i, got) in out.iter().enumerate() {
            let t = spec.grid.at(i);
            let want = samples.iter().rfind(|(at, _)| *at <= t && *at > t - 300_000).map_or(stale_nan(), |(_, v)| *v);
            prop_assert_eq!(got.to_bits(), want.to_bits());
        }
    }

    #[test]
    fn sums_of_overlapping_windows_do_not_drift(values in prop::collection::vec(-1e9..1e9_f64, 300..600)) {
        let samples = series(15.0, &values);
        let spec = WindowSpec {
            grid: Grid { start_ms: 1_800_000, step_ms: 15_000, len: 300 }, range_ms: 1_800_000, lookback_ms: 0, mode: RangeMode::Plain,
        };
        for f in [RangeFn::SumOverTime, RangeFn::AvgOverTime] {
            for (i, got) in evaluate(f, (0.0, 0.0), &samples, &spec).iter().enumerate() {
                prop_assert!(same(*got, naive::at_step(f, (0.0, 0.0), 0, &samples, &spec, i), 1e-14));
            }
        }
    }
}

#[test]
fn a_window_is_open_on_the_left_and_closed_on_the_right() {
    let samples = series(10.0, &[1.0, 2.0, 3.0, 4.0]);
    assert_eq!(at(RangeFn::CountOverTime, 30.0, 10.0, RangeMode::Plain, &samples), 1.0);
    assert_eq!(at(RangeFn::SumOverTime, 30.0, 20.0, RangeMode::Plain, &samples), 7.0);
    assert!(is_stale(at(RangeFn::SumOverTime, 45.0, 10.0, RangeMode::Plain, &samples)));
}

#[test]
fn step_zero_repeats_the_window_and_predicts_from_the_time_of_evaluation() {
    let (ts, values): (Vec<_>, Vec<_>) =
        series(300.0, &[0.0, 10.0, 20.0, 30.0, 40.0, 0.0, 10.0, 20.0, 30.0, 40.0, 50.0]).into_iter().unzip();
    let fixed = Grid { start_ms: 3_000_000, step_ms: 0, len: 2 };
    let spec = WindowSpec { grid: fixed, range_ms: 3_300_000, lookback_ms: 0, mode: RangeMode::Plain };
    let params = Params { first: &[3600.0], second: &[], eval: Grid { start_ms: 600_000, step_ms: 2_400_000, len: 2 } };
    let mut out = [0.0; 2];
    range(RangeFn::PredictLinear, &params, &ts, &values, &WindowPlan::new(&ts, &spec), &mut Scratch::default(), &mut out);
    assert_same(&out, &[51.36363636363637, 76.81818181818181], 1e-14);
}

#[test]
fn counters_as_in_upstreams_tests() {
    let reset = series(300.0, &[0.0, 1.0, 2.0, 3.0, 2.0, 3.0, 4.0]);
    assert_same(&[at(RangeFn::Increase, 1800.0, 1800.0, RangeMode::Plain, &reset)], &[7.0], 1e-12);
    for start in 0..6 {
        let cut_off: Vec<f64> = (0..11).map(|i| f64::from(start * 60 + i * 240)).collect();
        let got = at(RangeFn::Rate, 3000.0, 1200.0, RangeMode::Plain, &series(240.0, &cut_off));
        assert_same(&[got], &[0.6], 1e-12);
    }
}

#[test]
fn sums_keep_small_values_beside_large_ones() {
    let samples = series(10.0, &[1.0, 1e100, 1.0, -1e100]);
    assert_eq!(at(RangeFn::SumOverTime, 60.0, 120.0, RangeMode::Plain, &samples), 2.0);
    assert_eq!(at(RangeFn::AvgOverTime, 60.0, 120.0, RangeMode::Plain, &samples), 0.5);
    let cancelling =
        [-2.258e220, -1.78264e219, 0.76342771, 1.9592258, 2.3757689e217, -2.3757689e217, 2.258e220, 7.69805412, 1.78264e219, -458.90154];
    // Wrong, but what Prometheus says.
    assert_eq!(at(RangeFn::AvgOverTime, 55.0, 60.0, RangeMode::Plain, &series(5.0, &cancelling)), 0.0);
}

#[test]
fn anchored_and_smoothed_as_in_upstreams_tests() {
    use RangeFn::{Changes, Delta, Increase, Rate, Resets};
    use RangeMode::{Anchored, Smoothed};
    let absent = stale_nan();
    let complete = series(15.0, &[1.0, 2.0, 3.0, 4.0, 5.0, 9.0, 10.0, 11.0, 12.0, 13.0]);
    let partial = series(15.0, &[1.0, 2.0, 3.0, absent, absent, 9.0, 10.0, 11.0, 12.0, 13.0]);
    let gap = series(60.0, &[1.0, 2.0, absent, 4.0, 5.0]);
    let negative = series(60.0, &[11.0, -1.0, 100.0, 0.0]);
    let late = series(10.0, &[absent, 5.0, 6.0, 7.0, 8.0, 9.0]);
    let twice = series(10.0, &[10.0, 5.0, 2.0, 4.0]);
    let once = series(20.0, &[10.0, 5.0]);
    let sparse = series(60.0, &[2.0, absent, 1.0, absent, absent, absent, absent, absent, 0.0]);
    type Case<'a> = (RangeFn, f64, f64, RangeMode, &'a [(i64, f64)], f64);
    let cases: &[Case<'_>] = &[
        (Increase, 35.0, 60.0, Anchored, &complete, 2.0),
        (Increase, 110.0, 60.0, Anchored, &complete, 7.0),
        (Increase, 20.0, 60.0, Smoothed, &complete, 4.0 / 3.0),
        (Increase, 80.0, 60.0, Smoothed, &complete, 7.0),
        (Increase, 5.0, 60.0, Anchored, &partial, 0.0),
        (Increase, 80.0, 60.0, Anchored, &partial, 7.0),
        (Increase, 125.0, 60.0, Anchored, &partial, 9.0),
        (Increase, 65.0, 60.0, Smoothed, &partial, 19.0 / 3.0),
        (Increase, 95.0, 60.0, Smoothed, &partial, 20.0 / 3.0),
        (Increase, 120.0, 60.0, Smoothed, &gap, 1.0),
        (Increase, 120.0, 60.0, Anchored, &gap, absent),
        (Delta, 345.0, 300.0, Smoothed, &negative, -2.0),
        (Rate, 5.0, 5.0, Smoothed, &late, absent),
        (Increase, 15.0, 10.0, Smoothed, &late, 0.5),
        (Increase, 15.0, 14.0, Smoothed, &twice, 5.5),
        (Increase, 15.0, 10.0, Smoothed, &once, 2.5),
        (Changes, 480.0, 60.0, Anchored, &sparse, 0.0),
        (Changes, 480.0, 60.001, Anchored, &sparse, 1.0),
        (Resets, 480.0, 60.001, Anchored, &sparse, 1.0),
    ];
    for (f, t, window, mode, samples, want) in cases {
        let got = at(*f, *t, *window, *mode, samples);
        assert!(same(got, *want, 1e-12), "{f:?} {mode:?} at {t}: got {got}, want {want}");
    }
}

#[test]
fn smoothed_selectors_interpolate() {
    let (ts, values): (Vec<_>, Vec<_>) = series(10.0, &[1.0, 2.0, 3.0]).into_iter().unzip();
    let mut out = [0.0; 4];
    instant::smoothed(&ts, &values, &Grid { start_ms: -5000, step_ms: 10_000, len: 4 }, 300_000, &mut out);
    assert_same(&out, &[stale_nan(), 1.5, 2.5, 3.0], 0.0);
}

/// Means with weights give what the samples give that they are made of.
#[test]
fn means_stand_for_their_samples() {
    let of = |f: RangeFn, samples: &[(i64, f64, f64)]| {
        let ts: Vec<i64> = samples.iter().map(|s| s.0).collect();
        let (values, weights): (Vec<f64>, Vec<f64>) = samples.iter().map(|s| (s.1, s.2)).unzip();
        let spec = WindowSpec { grid: Grid { start_ms: 10, step_ms: 10, len: 3 }, range_ms: 20, lookback_ms: 5, mode: RangeMode::Plain };
        let mut out = vec![0.0; 3];
        range_of_means(f, &values, &weights, &WindowPlan::new(&ts, &spec), &mut out);
        out
    };
    let samples = [(1, 2.0, 3.0), (11, stale_nan(), 1.0), (12, 5.0, 1.0), (29, -4.0, 2.0)];
    assert_same(&of(RangeFn::CountOverTime, &samples), &[3.0, 4.0, 3.0], 0.0);
    assert_same(&of(RangeFn::SumOverTime, &samples), &[6.0, 11.0, -3.0], 0.0);
    assert_same(&of(RangeFn::AvgOverTime, &samples), &[2.0, 2.75, -1.0], 0.0);
    assert_same(&of(RangeFn::AvgOverTime, &[(1, stale_nan(), 1.0)]), &[stale_nan(); 3], 0.0);
    let large = [(1, 1e308, 10.0), (12, 1e307, 10.0)];
    assert_same(&of(RangeFn::SumOverTime, &large), &[f64::INFINITY, f64::INFINITY, 1e308], 0.0);
    let mean = of(RangeFn::AvgOverTime, &large)[1];
    assert!((mean / 5.5e307 - 1.0).abs() < 1e-12, "{mean}");
    // Compensated, as sums of samples are.
    assert_eq!(of(RangeFn::SumOverTime, &[(1, 1e16, 3.0), (2, 1.0, 1.0), (3, -1e16, 3.0)])[0], 1.0);
    assert!(ALL.into_iter().filter(|f| counts_matter(*f)).eq([RangeFn::AvgOverTime, RangeFn::SumOverTime, RangeFn::CountOverTime]));
}
