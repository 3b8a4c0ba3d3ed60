//! Elementwise functions and operators, dates, quantiles, classic histograms.

use isobar_block::{is_stale, stale_nan};
use proptest::prelude::*;

use super::{assert_same, same};
use crate::kernel::binary::{ElementOp, scalar_vector, vector_scalar, vector_vector};
use crate::kernel::bucket::{Bucket, bucket_fraction, bucket_quantile};
use crate::kernel::calendar::{CalendarFn, calendar};
use crate::kernel::math::{MathFn, clamp, clamp_max, clamp_min, go_max, go_min, math, round};
use crate::kernel::quantile::quantile;

const INF: f64 = f64::INFINITY;
const NAN: f64 = f64::NAN;

#[test]
fn functions_keep_absent_values_and_follow_go() {
    let cases: &[(MathFn, &[(f64, f64)])] = &[
        (MathFn::Abs, &[(-2.5, 2.5), (-0.0, 0.0), (-INF, INF), (NAN, NAN)]),
        (MathFn::Floor, &[(2.5, 2.0), (-2.5, -3.0), (-INF, -INF)]),
        (MathFn::Ceil, &[(2.5, 3.0), (-2.5, -2.0)]),
        (MathFn::Sgn, &[(-INF, -1.0), (INF, 1.0), (NAN, NAN), (-50.0, -1.0), (0.0, 0.0), (100.0, 1.0)]),
        (MathFn::Ln, &[(20.0, 2.995732273553991), (0.0, -INF), (-10.0, NAN)]),
        (MathFn::Log2, &[(20.0, 4.321928094887363)]),
        (MathFn::Log10, &[(20.0, 1.301029995663981), (-10.0, NAN)]),
        (MathFn::Exp, &[(20.0, 485165195.4097903)]),
        (MathFn::Acos, &[(-0.1, 1.670963747956456), (9.9, NAN)]),
        (MathFn::Acosh, &[(10.0, 2.993222846126381)]),
        (MathFn::Atanh, &[(-0.1, -0.10033534773107522)]),
        (MathFn::Deg, &[(10.0, 572.9577951308232)]),
        (MathFn::Rad, &[(10.0, 0.17453292519943295)]),
        (MathFn::Neg, &[(1.0, -1.0), (0.0, -0.0)]),
    ];
    for (f, pairs) in cases {
        let mut values: Vec<f64> = pairs.iter().map(|(v, _)| *v).chain([stale_nan()]).collect();
        math(*f, &mut values);
        let want: Vec<f64> = pairs.iter().map(|(_, want)| *want).chain([stale_nan()]).collect();
        assert_same(&values, &want, 1e-14);
    }
}

#[test]
fn rounding_and_clamping() {
    let mut values = [2.5, -2.5, 2.0, NAN, stale_nan()];
    round(&mut values, 5, &[1.0]);
    assert_same(&values, &[3.0, -2.0, 2.0, NAN, stale_nan()], 0.0);
    let data = [-50.0, 0.0, 100.0, stale_nan()];
    let clamped = |min: f64, max: f64| {
        let mut values = data;
        clamp(&mut values, 4, &[min], &[max]);
        values
    };
    assert_same(&clamped(-25.0, 75.0), &[-25.0, 0.0, 75.0, stale_nan()], 0.0);
    assert_same(&clamped(NAN, 0.0), &[NAN, NAN, NAN, stale_nan()], 0.0);
    assert!(clamped(5.0, -5.0).iter().all(|v| is_stale(*v)));
    let mut two_rows = [1.0, 1.0, 9.0, 9.0];
    clamp_min(&mut two_rows, 2, &[0.0, 5.0]);
    assert_same(&two_rows, &[1.0, 5.0, 9.0, 9.0], 0.0);
    clamp_max(&mut two_rows, 2, &[4.0, 6.0]);
    assert_same(&two_rows, &[1.0, 5.0, 4.0, 6.0], 0.0);
    assert_same(&[go_max(NAN, INF), go_max(NAN, 1.0), go_min(NAN, -INF), go_min(NAN, INF)], &[INF, NAN, -INF, NAN], 0.0);
}

#[test]
fn operators_filter_and_compare() {
    let (lhs, rhs) = ([1.0, 2.0, 3.0, stale_nan(), 5.0, NAN], [2.0, 2.0, 2.0, 2.0, stale_nan(), NAN]);
    let mut out = [0.0; 6];
    let absent = stale_nan();
    vector_vector(ElementOp::GreaterEqual, false, &lhs, &rhs, &mut out);
    assert_same(&out, &[absent, 2.0, 3.0, absent, absent, absent], 0.0);
    vector_vector(ElementOp::GreaterEqual, true, &lhs, &rhs, &mut out);
    assert_same(&out, &[0.0, 1.0, 1.0, absent, absent, 0.0], 0.0);
    vector_scalar(ElementOp::Less, false, &lhs, &[2.5], &mut out);
    assert_same(&out, &[1.0, 2.0, absent, absent, absent, absent], 0.0);
    // The vector's value stays, whichever side it is on.
    scalar_vector(ElementOp::Less, false, &[2.5], &lhs, &mut out);
    assert_same(&out, &[absent, absent, 3.0, absent, 5.0, absent], 0.0);
    scalar_vector(ElementOp::Sub, false, &[10.0, 20.0, 30.0], &lhs, &mut out);
    assert_same(&out, &[9.0, 18.0, 27.0, absent, 15.0, NAN], 0.0);
    vector_scalar(ElementOp::Mod, false, &[-5.5, 5.5, 1.0, INF, 4.0, NAN], &[3.0, -3.0, 0.0, 2.0, INF, 1.0], &mut out);
    assert_same(&out, &[-2.5, 2.5, NAN, NAN, 4.0, NAN], 0.0);
    assert_eq!(ElementOp::Pow.scalar(1.0, NAN), 1.0);
    assert_eq!(ElementOp::Pow.scalar(-1.0, INF), 1.0);
    assert_eq!(ElementOp::NotEqual.scalar(NAN, NAN), 1.0);
}

#[test]
fn dates() {
    let cases = [
        (CalendarFn::Month, 1_136_239_445.0, 1.0),
        (CalendarFn::DayOfMonth, 0.0, 1.0),
        (CalendarFn::DayOfYear, 1_136_239_445.0, 2.0),
        (CalendarFn::Hour, 1_136_239_445.0, 22.0),
        (CalendarFn::Minute, 1_136_239_445.0, 4.0),
        (CalendarFn::Year, 1_230_768_000.0, 2009.0),
        (CalendarFn::Month, 1_456_790_399.0, 2.0),
        (CalendarFn::DayOfMonth, 1_456_790_399.0, 29.0),
        (CalendarFn::DayOfMonth, 1_456_790_400.0, 1.0),
        (CalendarFn::DayOfYear, 1_483_191_420.0, 366.0),
        (CalendarFn::DaysInMonth, 1_454_284_800.0, 29.0),
        (CalendarFn::DaysInMonth, 1_481_000_000.0, 31.0),
        (CalendarFn::DayOfWeek, 0.0, 4.0),
        (CalendarFn::DayOfWeek, -86_400.0, 3.0),
        (CalendarFn::Year, -1.0, 1969.0),
        (CalendarFn::Year, NAN, NAN),
        (CalendarFn::Year, 1e300, NAN),
    ];
    for (f, seconds, want) in cases {
        let mut values = [seconds, stale_nan()];
        calendar(f, &mut values);
        assert!(same(values[0], want, 0.0) && is_stale(values[1]), "{f:?} of {seconds}: got {}, want {want}", values[0]);
    }
}

proptest! {
    #[test]
    fn dates_agree_with_chrono(seconds in -60_000_000_000..60_000_000_000_i64) {
        use chrono::{Datelike, Timelike};
        let date = chrono::DateTime::from_timestamp(seconds, 0).expect("in the range of chrono");
        let want = [date.year() as f64, f64::from(date.month()), f64::from(date.day()), f64::from(date.ordinal()),
            f64::from(date.weekday().num_days_from_sunday()), f64::from(date.hour()), f64::from(date.minute())];
        let functions = [CalendarFn::Year, CalendarFn::Month, CalendarFn::DayOfMonth, CalendarFn::DayOfYear,
            CalendarFn::DayOfWeek, CalendarFn::Hour, CalendarFn::Minute];
        for (f, want) in functions.into_iter().zip(want) {
            let mut value = [seconds as f64];
            calendar(f, &mut value);
            prop_assert_eq!(value[0], want, "{:?}", f);
        }
    }
}

#[test]
fn quantiles() {
    assert_eq!(quantile(0.5, &mut [1.0, 0.0]), 0.5);
    assert_eq!(quantile(0.75, &mut [4.0, 0.0, 1.0]), 2.5);
    assert_eq!(quantile(-1.0, &mut [1.0]), -INF);
    assert_eq!(quantile(2.0, &mut [1.0]), INF);
    assert!(quantile(NAN, &mut [1.0]).is_nan() && quantile(0.5, &mut []).is_nan());
    // NaN is the smallest value.
    assert!(quantile(0.0, &mut [1.0, NAN]).is_nan());
    assert_eq!(quantile(1.0, &mut [1.0, NAN]), 1.0);
}

fn buckets(pairs: &[(f64, f64)]) -> Vec<Bucket> {
    pairs.iter().map(|(upper_bound, count)| Bucket { upper_bound: *upper_bound, count: *count }).collect()
}

#[test]
fn classic_quantiles() {
    let halves = [(INF, 30.0), (0.0, 0.0), (2.0, 10.0), (6.0, 30.0), (4.0, 20.0)];
    for (q, want) in [(0.0, 0.0), (1.0 / 6.0, 1.0), (0.5, 3.0), (5.0 / 6.0, 5.0), (1.0, 6.0), (-0.1, -INF), (1.1, INF), (NAN, NAN)] {
        let got = bucket_quantile(q, &mut buckets(&halves));
        assert!(same(got.value, want, 1e-12) && got.forced_monotonic.is_none(), "{q}: {got:?}");
    }
    let negative = [(-0.2, 10.0), (-0.1, 20.0), (0.3, 20.0), (INF, 30.0)];
    assert_eq!(bucket_quantile(0.0, &mut buckets(&negative)).value, -0.2);
    assert_eq!(bucket_quantile(1.0, &mut buckets(&negative)).value, 0.3);
    for unusable in [&[(1.0, 2.0)][..], &[(INF, 2.0)], &[(1.0, 0.0), (INF, 0.0)], &[]] {
        assert!(bucket_quantile(0.5, &mut buckets(unusable)).value.is_nan());
    }
}

#[test]
fn classic_quantiles_correct_counts() {
    let mut descending = buckets(&[(1.0, 10.0), (2.0, 8.0), (3.0, 4.0), (4.0, 20.0), (INF, 20.0)]);
    let got = bucket_quantile(0.5, &mut descending);
    let forced = got.forced_monotonic.expect("counts descend");
    assert_eq!((forced.lowest_bound, forced.highest_bound, forced.largest_delta), (2.0, 3.0, 6.0));
    assert_eq!(got.value, 1.0);
    let mut rounded = buckets(&[(1.0, 10.0), (2.0, 10.0 - 1e-14 * 100.0), (INF, 10.0)]);
    let got = bucket_quantile(0.5, &mut rounded);
    assert!(got.fixed_precision && got.forced_monotonic.is_none());
    // The same bound twice.
    let mut twice = buckets(&[(0.2, 1.0), (0.2, 1.0), (INF, 4.0), (INF, 0.0)]);
    assert_eq!(bucket_quantile(0.25, &mut twice).value, 0.1);
}

#[test]
fn classic_fractions() {
    let positive = [(1.0, 1.0), (2.0, 3.0), (3.0, 6.0), (INF, 100.0)];
    let negative = [(-3.0, 10.0), (-2.0, 12.0), (-1.0, 15.0), (INF, 100.0)];
    let crossing = [(-2.0, 5.0), (-1.0, 10.0), (0.0, 15.0), (1.0, 20.0), (INF, 100.0)];
    type Case<'a> = (f64, f64, &'a [(f64, f64)], f64);
    let cases: &[Case<'_>] = &[
        (0.0, 1.5, &positive, 0.02),
        (-4.0, -2.0, &negative, 0.02),
        (-INF, -1.5, &negative, 0.135),
        (-INF, INF, &positive, 1.0),
        (-INF, INF, &negative, 1.0),
        (4.0, 5.0, &positive, 0.0),
        (0.0, 1.0, &negative, 0.0),
        (2.0, 5.0, &positive, 0.03),
        (400.0, INF, &positive, 0.94),
        (3.0, 2.0, &positive, 0.0),
        (0.0, 1.0, &[(INF, 100.0)], 0.0),
        (0.0, 5.0, &[(1.0, 0.0), (INF, 0.0)], NAN),
        (1.0, 3.0, &positive, 0.05),
        (0.1, 0.75, &[(0.5, 2.5), (1.0, 7.5), (INF, 100.0)], 0.045),
        (-1.0, 1.0, &crossing, 0.1),
        (NAN, 1.0, &positive, NAN),
        (0.0, 1.0, &[(1.0, 1.0)], NAN),
    ];
    for (lower, upper, pairs, want) in cases {
        let got = bucket_fraction(*lower, *upper, &mut buckets(pairs));
        assert!(same(got, *want, 1e-12), "({lower}, {upper}): got {got}, want {want}");
    }
}
