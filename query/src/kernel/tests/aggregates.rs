//! Accumulators: one partition against the definition, and several against one.

use isobar_block::{is_stale, stale_nan};
use proptest::prelude::*;

use super::{assert_same, same};
use crate::kernel::aggregate::*;

const STEPS: usize = 5;

fn rows(special: bool) -> impl Strategy<Value = Vec<Vec<f64>>> {
    let special = if special { f64::INFINITY } else { 7.0 };
    let value = prop_oneof![3 => Just(stale_nan()), 6 => -1e6..1e6_f64, 1 => Just(special)];
    prop::collection::vec(prop::collection::vec(value, STEPS), 0..20)
}

fn state<const N: usize>(init: [Init; N]) -> [Vec<f64>; N] {
    init.map(|init| vec![init.value(); STEPS])
}

/// Values of step `i`.
fn column(rows: &[Vec<f64>], i: usize) -> Vec<f64> {
    rows.iter().map(|row| row[i]).filter(|v| !is_stale(*v)).collect()
}

/// Sum, average, minimum, maximum, count, group, variance, deviation of rows that came in two partitions.
fn aggregate(rows: &[Vec<f64>], split: usize) -> [Vec<f64>; 8] {
    let (left, right) = rows.split_at(split.min(rows.len()));
    let one = |rows: &[Vec<f64>]| {
        let (mut sum, mut avg, mut variance) = (state(SUM_STATE), state(AVG_STATE), state(VARIANCE_STATE));
        let ([mut min], [mut max], [mut count], [mut group]) =
            (state(EXTREME_STATE), state(EXTREME_STATE), state(COUNT_STATE), state(GROUP_STATE));
        for row in rows {
            let [s, c] = &mut sum;
            sum_update(s, c, row);
            let [s, c, n] = &mut avg;
            avg_update(s, c, n, row);
            let [n, mean, m2] = &mut variance;
            variance_update(n, mean, m2, row);
            min_update(&mut min, row);
            max_update(&mut max, row);
            count_update(&mut count, row);
            group_update(&mut group, row);
        }
        (sum, avg, variance, min, max, count, group)
    };
    let ([mut s, mut c], [mut a, mut ac, mut an], [mut n, mut mean, mut m2], mut min, mut max, mut count, mut group) = one(left);
    let (sum, avg, variance, o_min, o_max, o_count, o_group) = one(right);
    sum_merge(&mut s, &mut c, &sum[0], &sum[1]);
    avg_merge([&mut a, &mut ac, &mut an], [&avg[0], &avg[1], &avg[2]]);
    variance_merge(&mut n, &mut mean, &mut m2, &variance[0], &variance[1], &variance[2]);
    min_update(&mut min, &o_min);
    max_update(&mut max, &o_max);
    count_merge(&mut count, &o_count);
    group_update(&mut group, &o_group);
    let mut out: [Vec<f64>; 8] = std::array::from_fn(|_| vec![0.0; STEPS]);
    sum_finish(&s, &c, &mut out[0]);
    avg_finish(&a, &ac, &an, &mut out[1]);
    (out[2], out[3], out[5]) = (min, max, group);
    count_finish(&count, &mut out[4]);
    stdvar_finish(&n, &m2, &mut out[6]);
    stddev_finish(&n, &m2, &mut out[7]);
    out
}

proptest! {
    #[test]
    fn aggregates_are_as_defined(rows in rows(false), split in 0..20_usize) {
        let got = aggregate(&rows, split);
        for i in 0..STEPS {
            let values = column(&rows, i);
            let n = values.len() as f64;
            let or_absent = |v: f64| if values.is_empty() { stale_nan() } else { v };
            let sum: f64 = values.iter().sum();
            let variance = values.iter().map(|v| (v - sum / n).powi(2)).sum::<f64>() / n;
            let want = [sum, sum / n, values.iter().copied().fold(f64::INFINITY, f64::min),
                values.iter().copied().fold(f64::NEG_INFINITY, f64::max), n, 1.0, variance, variance.sqrt()].map(or_absent);
            for (k, want) in want.into_iter().enumerate() {
                let got = got[k][i];
                prop_assert!(same(got, want, 1e-9) || (got - want).abs() < 1e-4, "{}: got {}, want {}", k, got, want);
            }
        }
    }

    #[test]
    fn infinities_are_the_same_in_any_partitioning(rows in rows(true), split in 0..20_usize) {
        let (two, one) = (aggregate(&rows, split), aggregate(&rows, 0));
        for (two, one) in two.iter().zip(&one) {
            for (two, one) in two.iter().zip(one) {
                prop_assert!(same(*two, *one, 1e-9) || (two - one).abs() < 1e-4, "{} and {}", two, one);
            }
        }
    }
}

fn avg_of(values: &[f64]) -> f64 {
    aggregate(&values.iter().map(|v| vec![*v; STEPS]).collect::<Vec<_>>(), values.len())[1][0]
}

#[test]
fn averages_survive_overflow() {
    let (inf, big) = (f64::INFINITY, 9.98846567431158e307);
    let cases: &[(&[f64], f64)] = &[
        (&[big, big], big),
        (&[-big, -big, -big], -big),
        (&[-big, big], 0.0),
        (&[inf, 0.0, inf], inf),
        (&[1.0, 2.0, 3.0, 4.0, -inf], -inf),
        (&[1.0, inf, -inf], f64::NAN),
        (&[inf, inf, inf, -inf], f64::NAN),
        (&[52.0; 11], 52.0),
        (&[f64::NAN, 1.0], f64::NAN),
    ];
    for (values, want) in cases {
        assert!(same(avg_of(values), *want, 1e-15), "{values:?}: got {}, want {want}", avg_of(values));
    }
    let halves = aggregate(&[vec![big; STEPS], vec![big; STEPS]], 1);
    assert_same(&halves[1], &[big; STEPS], 1e-15);
}

#[test]
fn extremes_prefer_numbers_to_nan() {
    let rows = [f64::NAN, 2.0, f64::NAN, 1.0, stale_nan()].map(|v| vec![v; STEPS]);
    let got = aggregate(&rows, 2);
    assert_eq!((got[2][0], got[3][0], got[4][0]), (1.0, 2.0, 4.0));
    assert!(aggregate(&[vec![f64::NAN; STEPS]], 1)[2][0].is_nan());
    assert!(is_stale(aggregate(&[vec![stale_nan(); STEPS]], 1)[2][0]));
}

#[test]
fn sums_are_compensated() {
    let rows = [1.0, 1e100, 1.0, -1e100].map(|v| vec![v; STEPS]);
    for split in 0..4 {
        assert_eq!(aggregate(&rows, split)[0], vec![2.0; STEPS]);
    }
}
