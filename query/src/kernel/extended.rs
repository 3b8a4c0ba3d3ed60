//! Range functions of `anchored` and `smoothed` selections: no extrapolation, but a value at the borders of the window, taken
//! from the sample before it (`anchored`) or interpolated between its neighbours (`smoothed`).

use isobar_block::stale_nan;

use super::window::WindowPlan;
use super::{RangeFn, rate};
use crate::promql::ast::RangeMode;

/// One window with the samples around it.
struct Extended<'a> {
    ts: &'a [i64],
    values: &'a [f64],
    start_ms: i64,
    end_ms: i64,
    smoothed: bool,
    /// Last sample at or before the start of the window, or the first one inside.
    first: usize,
    /// Last sample of the window; with `smoothed`, the first one at or after its end.
    last: usize,
}

/// Evaluates `f`, one of those that [`RangeFn::allows`] names; others have no result.
pub(super) fn range(f: RangeFn, ts: &[i64], values: &[f64], plan: &WindowPlan, out: &mut [f64]) {
    let spec = plan.spec();
    let smoothed = spec.mode == RangeMode::Smoothed;
    for (i, (lo, hi)) in plan.windows().iter().enumerate() {
        out[i] = stale_nan();
        if lo >= hi || !f.allows(spec.mode) {
            continue;
        }
        let end_ms = spec.grid.at(i);
        if let Some(window) = Extended::new(&ts[lo..hi], &values[lo..hi], end_ms - spec.range_ms, end_ms, smoothed) {
            let inside = &window.values[window.first..=window.last];
            let count = |counts: fn(f64, f64) -> bool| inside.windows(2).filter(|pair| counts(pair[0], pair[1])).count() as f64;
            out[i] = match f {
                RangeFn::Changes => count(rate::is_change),
                RangeFn::Resets => count(rate::is_reset),
                RangeFn::Delta => window.difference(false),
                RangeFn::Increase => window.difference(true),
                RangeFn::Rate => window.difference(true) / (spec.range_ms as f64 / 1000.0),
                _ => stale_nan(),
            };
        }
    }
}

impl<'a> Extended<'a> {
    /// `None` if all samples are before the window, or all after it.
    fn new(ts: &'a [i64], values: &'a [f64], start_ms: i64, end_ms: i64, smoothed: bool) -> Option<Self> {
        let mut last = ts.len() - 1;
        let first = ts[..last].partition_point(|t| *t <= start_ms).saturating_sub(1);
        if smoothed {
            last = ts[..last].partition_point(|t| *t < end_ms);
        }
        let outside = ts[last] <= start_ms || ts[first] > end_ms;
        (!outside).then_some(Self { ts, values, start_ms, end_ms, smoothed, first, last })
    }

    /// Value at the end minus value at the start; of a counter, corrected for resets.
    fn difference(&self, counter: bool) -> f64 {
        let (left, right) = (self.left(counter), self.right(counter));
        let mut difference = right - left;
        if !counter {
            return difference;
        }
        let from = self.first + usize::from(self.ts[self.first] <= self.start_ms);
        let to = self.last + usize::from(self.ts[self.last] < self.end_ms);
        let mut before = left;
        for v in self.values.get(from..to).unwrap_or(&[]).iter().chain([&right]) {
            if *v < before {
                difference += before;
            }
            before = *v;
        }
        difference
    }

    fn left(&self, counter: bool) -> f64 {
        if self.smoothed && self.ts[self.first] < self.start_ms {
            return self.interpolate(self.first, self.start_ms, counter);
        }
        self.values[self.first]
    }

    fn right(&self, counter: bool) -> f64 {
        if self.smoothed && self.last > 0 && self.ts[self.last] > self.end_ms {
            return self.interpolate(self.last - 1, self.end_ms, counter);
        }
        self.values[self.last]
    }

    /// Value at `at_ms` between sample `i` and the next.
    fn interpolate(&self, i: usize, at_ms: i64, counter: bool) -> f64 {
        interpolate((self.ts[i], self.values[i]), (self.ts[i + 1], self.values[i + 1]), at_ms, counter)
    }
}

/// Value at `at_ms` on the line between two samples; a counter that was reset between them is taken to have started at 0.
pub(super) fn interpolate(before: (i64, f64), after: (i64, f64), at_ms: i64, counter: bool) -> f64 {
    let start = if counter && after.1 < before.1 { 0.0 } else { before.1 };
    start + (after.1 - start) * (at_ms - before.0) as f64 / (after.0 - before.0) as f64
}
