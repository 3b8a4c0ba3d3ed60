//! The `*_over_time` functions, for samples without stale markers.

use isobar_block::{is_stale, stale_nan};

use super::sliding::{Combine, slide};
use super::window::Windows;
use super::{Params, Scratch, kahan_add, quantile};

/// Windows that hold each sample more often than this are evaluated incrementally instead of one by one.
const RESCAN_LIMIT: usize = 3;

/// Ratio of the largest to the smallest magnitude (as a power of two) up to which compensated sums are exact to the last bits
/// whatever the order of summation. Beyond it only Prometheus's own order gives Prometheus's own result.
const EXACT_MAGNITUDES: u64 = 50;

/// Calls `f` with the bounds of each window that is not empty.
#[inline(always)]
pub(super) fn each_bounds(windows: &Windows, out: &mut [f64], mut f: impl FnMut(usize, usize) -> f64) {
    for (out, (lo, hi)) in out.iter_mut().zip(windows.iter()) {
        *out = if lo < hi { f(lo, hi) } else { stale_nan() };
    }
}

/// Calls `f` with the values of each window that is not empty.
#[inline(always)]
pub(super) fn each(values: &[f64], windows: &Windows, out: &mut [f64], mut f: impl FnMut(&[f64]) -> f64) {
    each_bounds(windows, out, |lo, hi| f(&values[lo..hi]));
}

pub(super) fn count(windows: &Windows, out: &mut [f64]) {
    each_bounds(windows, out, |lo, hi| (hi - lo) as f64);
}

/// Sum and compensation.
struct Sum;

impl Combine for Sum {
    type Acc = (f64, f64);

    #[inline(always)]
    fn lift(value: f64) -> Self::Acc {
        (value, 0.0)
    }

    #[inline(always)]
    fn combine(left: Self::Acc, right: Self::Acc) -> Self::Acc {
        let total = left.0 + right.0;
        let right_part = total - left.0;
        let error = (left.0 - (total - right_part)) + (right.0 - right_part);
        (total, left.1 + right.1 + error)
    }

    #[inline(always)]
    fn finish(acc: Self::Acc, _count: usize) -> f64 {
        acc.0 + acc.1
    }
}

/// As [`Sum`], divided by the number of samples.
struct Mean;

impl Combine for Mean {
    type Acc = (f64, f64);

    #[inline(always)]
    fn lift(value: f64) -> Self::Acc {
        Sum::lift(value)
    }

    #[inline(always)]
    fn combine(left: Self::Acc, right: Self::Acc) -> Self::Acc {
        Sum::combine(left, right)
    }

    #[inline(always)]
    fn finish(acc: Self::Acc, count: usize) -> f64 {
        acc.0 / count as f64 + acc.1 / count as f64
    }
}

pub(super) fn sum(values: &[f64], windows: &Windows, scratch: &mut Scratch, out: &mut [f64]) {
    let covered = covered(values, windows);
    if windows.total() > RESCAN_LIMIT * covered.len() && magnitudes_are_near(covered) {
        return slide::<Sum>(values, windows, &mut scratch.suffix_pairs, out);
    }
    each(values, windows, out, |w| {
        let (sum, comp) = w.iter().fold((0.0, 0.0), |(sum, comp), v| kahan_add(*v, sum, comp));
        if sum.is_infinite() { sum } else { sum + comp }
    });
}

pub(super) fn avg(values: &[f64], windows: &Windows, scratch: &mut Scratch, out: &mut [f64]) {
    let covered = covered(values, windows);
    if windows.total() > RESCAN_LIMIT * covered.len() && magnitudes_are_near(covered) {
        return slide::<Mean>(values, windows, &mut scratch.suffix_pairs, out);
    }
    each(values, windows, out, mean);
}

/// The mean; of the sum as long as it does not overflow, then incrementally.
fn mean(window: &[f64]) -> f64 {
    let (mut sum, mut comp, mut mean) = (window[0], 0.0, 0.0);
    let mut incremental = false;
    for (i, v) in window.iter().enumerate().skip(1) {
        let count = (i + 1) as f64;
        if !incremental {
            let (next, next_comp) = kahan_add(*v, sum, comp);
            if !next.is_infinite() {
                (sum, comp) = (next, next_comp);
                continue;
            }
            incremental = true;
            mean = sum / (count - 1.0);
            comp /= count - 1.0;
        }
        let q = (count - 1.0) / count;
        (mean, comp) = kahan_add(*v / count, q * mean, q * comp);
    }
    let count = window.len() as f64;
    if incremental { mean + comp } else { sum / count + comp / count }
}

/// Means of some samples each, in one window.
pub(super) struct Means<'a> {
    values: &'a [f64],
    weights: &'a [f64],
}

impl Means<'_> {
    /// Values without stale markers, with the number of samples that they stand for.
    fn pairs(&self) -> impl Iterator<Item = (f64, f64)> {
        self.values.iter().zip(self.weights).filter(|(v, _)| !is_stale(**v)).map(|(v, n)| (*v, *n))
    }

    /// Number of samples.
    pub(super) fn count(self) -> f64 {
        self.pairs().map(|(_, n)| n).sum()
    }

    /// Sum of all samples.
    pub(super) fn sum(self) -> f64 {
        let (sum, comp) = self.pairs().fold((0.0, 0.0), |(sum, comp), (v, n)| kahan_add(v * n, sum, comp));
        if sum.is_infinite() { sum } else { sum + comp }
    }

    /// Mean of all samples.
    pub(super) fn mean(self) -> f64 {
        let total: f64 = self.pairs().map(|(_, n)| n).sum();
        let (sum, comp) = self.pairs().fold((0.0, 0.0), |(sum, comp), (v, n)| kahan_add(v * n, sum, comp));
        if sum.is_finite() {
            return sum / total + comp / total;
        }
        // The sum is too large, the mean need not be.
        let (mean, comp) = self.pairs().fold((0.0, 0.0), |(mean, comp), (v, n)| kahan_add(v * (n / total), mean, comp));
        mean + comp
    }
}

/// Calls `finish` with the means of each window that has any.
pub(super) fn of_means(values: &[f64], weights: &[f64], windows: &Windows, out: &mut [f64], finish: fn(Means<'_>) -> f64) {
    each_bounds(windows, out, |lo, hi| {
        let means = Means { values: &values[lo..hi], weights: &weights[lo..hi] };
        if means.pairs().next().is_some() { finish(means) } else { stale_nan() }
    });
}

/// The values that are in some window. Which samples beside them were loaded depends on where blocks end, and must not decide
/// how a sum is rounded.
fn covered<'a>(values: &'a [f64], windows: &Windows) -> &'a [f64] {
    let (first, last) = windows.iter().filter(|(lo, hi)| lo < hi).fold((values.len(), 0), |(a, b), (lo, hi)| (a.min(lo), b.max(hi)));
    if first < last { &values[first..last] } else { &[] }
}

vectorised! {
    /// Whether all values are finite, far from overflow, and within [`EXACT_MAGNITUDES`] of each other, apart from zeros.
    fn magnitudes_are_near(values: &[f64]) -> bool {
        const EXPONENT_BITS: u32 = 52;
        // Values without sign compare like integers. A zero becomes the largest number in the search for the smallest.
        let (mut largest, mut smallest) = (0_i64, i64::MAX);
        for v in values {
            let magnitude = (v.to_bits() & !(1 << 63)) as i64;
            largest = largest.max(magnitude);
            smallest = smallest.min(if magnitude == 0 { i64::MAX } else { magnitude });
        }
        let (largest, smallest) = (largest as u64 >> EXPONENT_BITS, smallest as u64 >> EXPONENT_BITS);
        largest < 1900 && largest.saturating_sub(smallest) <= EXACT_MAGNITUDES
    }
}

/// The smallest value; a NaN only if there is nothing else.
struct Min;

/// The largest value; a NaN only if there is nothing else.
struct Max;

/// As [`Min`], where no NaN is known to be.
struct MinOfNumbers;

/// As [`Max`], where no NaN is known to be.
struct MaxOfNumbers;

macro_rules! extreme {
    ($name:ident, |$left:ident, $right:ident| $take_right:expr) => {
        impl Combine for $name {
            type Acc = f64;

            #[inline(always)]
            fn lift(value: f64) -> f64 {
                value
            }

            #[inline(always)]
            fn combine($left: f64, $right: f64) -> f64 {
                if $take_right { $right } else { $left }
            }

            #[inline(always)]
            fn finish(acc: f64, _count: usize) -> f64 {
                acc
            }
        }
    };
}

extreme!(Min, |left, right| right < left || left.is_nan());
extreme!(Max, |left, right| right > left || left.is_nan());
extreme!(MinOfNumbers, |left, right| right < left);
extreme!(MaxOfNumbers, |left, right| right > left);

vectorised! {
    fn any_nan(values: &[f64]) -> bool {
        values.chunks(64).any(|block| block.iter().fold(false, |any, v| any | v.is_nan()))
    }
}

pub(super) fn min(values: &[f64], windows: &Windows, scratch: &mut Scratch, out: &mut [f64]) {
    if any_nan(values) {
        slide::<Min>(values, windows, &mut scratch.suffix, out);
    } else {
        slide::<MinOfNumbers>(values, windows, &mut scratch.suffix, out);
    }
}

pub(super) fn max(values: &[f64], windows: &Windows, scratch: &mut Scratch, out: &mut [f64]) {
    if any_nan(values) {
        slide::<Max>(values, windows, &mut scratch.suffix, out);
    } else {
        slide::<MaxOfNumbers>(values, windows, &mut scratch.suffix, out);
    }
}

/// Population variance by Welford's method with compensated sums, as Prometheus computes it.
pub(super) fn variance(window: &[f64]) -> f64 {
    let (mut count, mut mean, mut mean_comp, mut m2, mut m2_comp) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for v in window {
        count += 1.0;
        let delta = v - (mean + mean_comp);
        (mean, mean_comp) = kahan_add(delta / count, mean, mean_comp);
        (m2, m2_comp) = kahan_add(delta * (v - (mean + mean_comp)), m2, m2_comp);
    }
    (m2 + m2_comp) / count
}

pub(super) fn quantile(params: &Params<'_>, values: &[f64], windows: &Windows, sorted: &mut Vec<f64>, out: &mut [f64]) {
    for (i, (lo, hi)) in windows.iter().enumerate() {
        sorted.clear();
        sorted.extend_from_slice(&values[lo..hi]);
        out[i] = if lo < hi { quantile::quantile(params.first_at(i), sorted) } else { stale_nan() };
    }
}

/// Median of the absolute deviations from the median; NaN if a value is.
pub(super) fn mad(values: &[f64], windows: &Windows, sorted: &mut Vec<f64>, out: &mut [f64]) {
    each(values, windows, out, |w| {
        if any_nan(w) {
            return f64::NAN;
        }
        sorted.clear();
        sorted.extend_from_slice(w);
        let median = quantile::quantile(0.5, sorted);
        sorted.iter_mut().for_each(|v| *v = (*v - median).abs());
        quantile::quantile(0.5, sorted)
    });
}

/// Seconds of the sample that `replaces(value, best so far)` selects.
pub(super) fn ts_of(ts: &[i64], values: &[f64], windows: &Windows, out: &mut [f64], replaces: impl Fn(f64, f64) -> bool) {
    each_bounds(windows, out, |lo, hi| {
        let mut best = lo;
        for i in lo..hi {
            if replaces(values[i], values[best]) {
                best = i;
            }
        }
        ts[best] as f64 / 1000.0
    });
}
