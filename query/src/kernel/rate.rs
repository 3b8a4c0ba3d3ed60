//! `rate`, `increase`, `delta` with extrapolation; `irate`, `idelta`; `changes`, `resets`.
//!
//! Extrapolation follows `extrapolatedRate` of Prometheus 3. All of its divisions but one depend on timestamps only and are
//! done once for a timestamp vector ([`RateFactors`]); the remaining one is needed only where a counter starts near zero.

use isobar_block::sample::STALE_NAN_BITS;
use isobar_block::stale_nan;

use super::window::{WindowPlan, WindowSpec, Windows};
use super::{Scratch, over_time};

/// Which of the extrapolating functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Rate,
    Increase,
    Delta,
}

/// What extrapolation multiplies the difference of the last and the first sample with, for each window.
#[derive(Debug, Default)]
pub(super) struct RateFactors {
    /// Index of the first sample; 0 where there are less than two.
    first: Vec<u32>,
    /// Index of the last sample; 0 where there are less than two.
    last: Vec<u32>,
    /// The factor without the limit at zero; the stale marker where there are less than two samples.
    factor: Vec<f64>,
    /// The limit at zero can apply only if `first value < zero_ratio * increase`.
    zero_ratio: Vec<f64>,
    /// Seconds that the result is extended before the first sample.
    to_start: Vec<f64>,
    /// Seconds that it is extended after the last sample.
    to_end: Vec<f64>,
    /// Seconds from the first to the last sample.
    sampled: Vec<f64>,
    range_seconds: f64,
    per_second: bool,
}

impl RateFactors {
    pub(super) fn new(ts: &[i64], windows: &Windows, spec: &WindowSpec, per_second: bool) -> Self {
        let n = windows.lo.len();
        let mut this = Self {
            first: Vec::with_capacity(n),
            last: Vec::with_capacity(n),
            factor: vec![0.0; n],
            zero_ratio: vec![0.0; n],
            to_start: Vec::with_capacity(n),
            to_end: Vec::with_capacity(n),
            sampled: Vec::with_capacity(n),
            range_seconds: spec.range_ms as f64 / 1000.0,
            per_second,
        };
        for (i, (lo, hi)) in windows.iter().enumerate() {
            let (lo, last) = if hi - lo < 2 { (0, 0) } else { (lo, hi - 1) };
            let end_ms = spec.grid.at(i);
            let (first_ms, last_ms) = if last == 0 { (end_ms, end_ms) } else { (ts[lo], ts[last]) };
            this.first.push(lo as u32);
            this.last.push(last as u32);
            this.to_start.push((first_ms - (end_ms - spec.range_ms)) as f64);
            this.to_end.push((end_ms - last_ms) as f64);
            this.sampled.push((last_ms - first_ms) as f64);
        }
        limit_extrapolation(&mut this);
        this
    }

    fn factor_of(&self, sampled: f64, to_start: f64, to_end: f64) -> f64 {
        let factor = (sampled + to_start + to_end) / sampled;
        if self.per_second { factor / self.range_seconds } else { factor }
    }

    /// The result of window `i` of a counter that starts at `first` and increases by `increase`: a counter cannot have been
    /// below zero, so extrapolation to the left ends where it would have been zero.
    fn counter(&self, i: usize, first: f64, increase: f64) -> f64 {
        let (sampled, mut to_start) = (self.sampled[i], self.to_start[i]);
        if increase > 0.0 && first >= 0.0 {
            let to_zero = sampled * (first / increase);
            if to_zero < to_start {
                to_start = to_zero;
            }
        }
        increase * self.factor_of(sampled, to_start, self.to_end[i])
    }
}

vectorised! {
    /// From milliseconds to seconds; then extends the result to the borders of the window if the samples are near, else by
    /// half of their average distance.
    fn limit_extrapolation(factors: &mut RateFactors) {
        let n = factors.first.len();
        let divisor = if factors.per_second { factors.range_seconds } else { 1.0 };
        let (first, last) = (&factors.first[..n], &factors.last[..n]);
        let (factor, zero_ratio) = (&mut factors.factor[..n], &mut factors.zero_ratio[..n]);
        let (to_start, to_end) = (&mut factors.to_start[..n], &mut factors.to_end[..n]);
        let sampled = &mut factors.sampled[..n];
        for i in 0..n {
            // Less than 2^31 samples fit into a window, since their indices are u32.
            let intervals = f64::from(last[i].wrapping_sub(first[i]) as i32);
            let (start, end, seconds) = (to_start[i] / 1000.0, to_end[i] / 1000.0, sampled[i] / 1000.0);
            let average = seconds / intervals;
            let threshold = average * 1.1;
            let start = if start >= threshold { average / 2.0 } else { start };
            let end = if end >= threshold { average / 2.0 } else { end };
            let whole = (seconds + start + end) / seconds;
            let enough = last[i] != 0;
            factor[i] = if enough { whole / divisor } else { stale_nan() };
            // At least `start / seconds`, without a division. The margin covers rounding here and in the exact comparison,
            // which follows where this one holds.
            zero_ratio[i] = if enough { (whole - 1.0) * (1.0 + 1e-9) + 1e-12 } else { 0.0 };
            (to_start[i], to_end[i], sampled[i]) = (start, end, seconds);
        }
    }
}

/// `rate`, `increase` or `delta`, for samples without stale markers.
pub(super) fn extrapolated(kind: Kind, ts: &[i64], values: &[f64], plan: &WindowPlan, scratch: &mut Scratch, out: &mut [f64]) {
    let factors = plan.factors(kind == Kind::Rate, ts);
    if values.is_empty() {
        return out.fill(stale_nan());
    }
    assert!(values.len() == plan.samples() && out.len() == factors.first.len(), "the plan was made for these timestamps");
    let near_zero = scaled_differences(factors, values, out);
    if kind == Kind::Delta {
        return;
    }
    if near_zero {
        for (i, out) in out.iter_mut().enumerate() {
            if out.to_bits() != STALE_NAN_BITS {
                let first = values[factors.first[i] as usize];
                *out = factors.counter(i, first, values[factors.last[i] as usize] - first);
            }
        }
    }
    if any_reset(values) {
        correct_resets(factors, values, &mut scratch.resets, out);
    }
}

vectorised! {
    /// Writes `(last − first) * factor`, and says whether the limit at zero may apply somewhere.
    fn scaled_differences(factors: &RateFactors, values: &[f64], out: &mut [f64]) -> bool {
        let n = out.len();
        let (first, last) = (&factors.first[..n], &factors.last[..n]);
        let (factor, zero_ratio) = (&factors.factor[..n], &factors.zero_ratio[..n]);
        let mut near_zero = 0_u64;
        for i in 0..n {
            // SAFETY: indices come from windows over as many samples as there are values (asserted by the caller), or are 0,
            // and there is at least one value.
            let (a, b) = unsafe { (*values.get_unchecked(first[i] as usize), *values.get_unchecked(last[i] as usize)) };
            let difference = b - a;
            let result = difference * factor[i];
            out[i] = if factor[i].to_bits() == STALE_NAN_BITS { factor[i] } else { result };
            near_zero |= u64::from((a >= 0.0) & (a < zero_ratio[i] * difference));
        }
        near_zero != 0
    }
}

vectorised! {
    /// Whether a value is less than the one before.
    fn any_reset(values: &[f64]) -> bool {
        if values.is_empty() {
            return false;
        }
        let n = values.len() - 1;
        let (before, after) = (&values[..n], &values[1..]);
        before.chunks(64).zip(after.chunks(64)).any(|(before, after)| {
            before.iter().zip(after).fold(false, |any, (before, after)| any | (after < before))
        })
    }
}

/// Computes the windows that contain a reset again, adding the value before each one in order, as Prometheus does.
fn correct_resets(factors: &RateFactors, values: &[f64], resets: &mut Vec<u32>, out: &mut [f64]) {
    resets.clear();
    resets.extend(values.windows(2).zip(1..).filter(|(pair, _)| pair[1] < pair[0]).map(|(_, i)| i));
    let (mut from, mut to) = (0, 0);
    for (i, out) in out.iter_mut().enumerate() {
        if out.to_bits() == STALE_NAN_BITS {
            continue;
        }
        let (first, last) = (factors.first[i], factors.last[i]);
        while from < resets.len() && resets[from] <= first {
            from += 1;
        }
        while to < resets.len() && resets[to] <= last {
            to += 1;
        }
        if from < to {
            let first = values[first as usize];
            let increase = resets[from..to].iter().fold(values[last as usize] - first, |sum, r| sum + values[*r as usize - 1]);
            *out = factors.counter(i, first, increase);
        }
    }
}

/// `irate` (per second, with resets) or `idelta`: from the last two samples.
pub(super) fn instantaneous(is_rate: bool, ts: &[i64], values: &[f64], windows: &Windows, out: &mut [f64]) {
    for (out, (lo, hi)) in out.iter_mut().zip(windows.iter()) {
        if hi - lo < 2 {
            *out = stale_nan();
            continue;
        }
        let (before, last) = (values[hi - 2], values[hi - 1]);
        let mut result = if is_rate && last < before { last } else { last - before };
        if is_rate {
            result /= (ts[hi - 1] - ts[hi - 2]) as f64 / 1000.0;
        }
        *out = result;
    }
}

/// Whether `changes` counts the step from `before` to `after`.
pub(super) fn is_change(before: f64, after: f64) -> bool {
    before != after && !(before.is_nan() && after.is_nan())
}

/// Whether `resets` counts the step from `before` to `after`.
pub(super) fn is_reset(before: f64, after: f64) -> bool {
    after < before
}

/// Number of neighbours in each window for which `counts` holds.
pub(super) fn transitions(counts: fn(f64, f64) -> bool, values: &[f64], windows: &Windows, prefix: &mut Vec<u32>, out: &mut [f64]) {
    prefix.clear();
    prefix.push(0);
    let mut seen = 0;
    for pair in values.windows(2) {
        seen += u32::from(counts(pair[0], pair[1]));
        prefix.push(seen);
    }
    over_time::each_bounds(windows, out, |lo, hi| f64::from(prefix[hi - 1] - prefix[lo]));
}
