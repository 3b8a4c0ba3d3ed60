//! Which samples lie in the window of each step. Depends on timestamps only, so that series of one scrape target share it.

use std::sync::OnceLock;

use super::rate::RateFactors;
use crate::promql::ast::RangeMode;
use crate::result::Grid;

/// For each step `i` the samples `lo[i]..hi[i]`; both ascend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// First sample.
    pub lo: Vec<u32>,
    /// One past the last sample; equal to `lo` if there is none.
    pub hi: Vec<u32>,
}

impl Windows {
    /// Bounds of each window, as indices.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (usize, usize)> + '_ {
        self.lo.iter().zip(&self.hi).map(|(lo, hi)| (*lo as usize, *hi as usize))
    }

    /// Number of samples in all windows together.
    pub(super) fn total(&self) -> usize {
        self.iter().map(|(lo, hi)| hi - lo).sum()
    }
}

/// The windows `(t − range, t]` of ascending timestamps `ts`, for each `t` of the grid. Equal timestamps give equal windows.
pub fn windows(ts: &[i64], grid: &Grid, range_ms: i64, out: &mut Windows) {
    at_or_before(ts, grid, -range_ms, &mut out.lo);
    at_or_before(ts, grid, 0, &mut out.hi);
}

/// For each `t` of the grid, how many timestamps are at or before `t + shift`.
fn at_or_before(ts: &[i64], grid: &Grid, shift_ms: i64, out: &mut Vec<u32>) {
    // Above this many samples for a step a search is faster than the walk.
    const SEARCH_ABOVE: usize = 16;
    out.clear();
    out.reserve(grid.len);
    let mut next = 0;
    if ts.len() / grid.len.max(1) > SEARCH_ABOVE {
        for i in 0..grid.len {
            let at = grid.at(i).saturating_add(shift_ms);
            next += ts[next..].partition_point(|t| *t <= at);
            out.push(next as u32);
        }
        return;
    }
    for i in 0..grid.len {
        let at = grid.at(i).saturating_add(shift_ms);
        while next < ts.len() && ts[next] <= at {
            next += 1;
        }
        out.push(next as u32);
    }
}

/// What the windows of a range selection depend on, besides the timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WindowSpec {
    /// Ends of the windows. The step may be 0: `@` evaluates the same window at all steps.
    pub grid: Grid,
    /// Width.
    pub range_ms: i64,
    /// How far outside of the window `anchored` and `smoothed` look.
    pub lookback_ms: i64,
    /// How the borders are treated.
    pub mode: RangeMode,
}

/// All that can be computed from timestamps before the values are seen. A caller keeps it by the id of the timestamps.
#[derive(Debug)]
pub struct WindowPlan {
    spec: WindowSpec,
    samples: usize,
    windows: Windows,
    increase: OnceLock<RateFactors>,
    rate: OnceLock<RateFactors>,
}

impl WindowPlan {
    /// Plans windows over ascending timestamps. O(samples + steps).
    pub fn new(ts: &[i64], spec: &WindowSpec) -> Self {
        let mut windows = Windows::default();
        let (before, after) = match spec.mode {
            RangeMode::Plain => (0, 0),
            RangeMode::Anchored => (spec.lookback_ms, 0),
            RangeMode::Smoothed => (spec.lookback_ms, spec.lookback_ms),
        };
        at_or_before(ts, &spec.grid, -spec.range_ms.saturating_add(before), &mut windows.lo);
        at_or_before(ts, &spec.grid, after, &mut windows.hi);
        Self { spec: *spec, samples: ts.len(), windows, increase: OnceLock::new(), rate: OnceLock::new() }
    }

    /// What was asked for.
    pub fn spec(&self) -> &WindowSpec {
        &self.spec
    }

    /// Number of timestamps.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// The windows; with `anchored` and `smoothed`, widened by the lookback.
    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// Factors of extrapolation, computed at the first call; `ts` are the timestamps of the plan.
    pub(super) fn factors(&self, per_second: bool, ts: &[i64]) -> &RateFactors {
        let cell = if per_second { &self.rate } else { &self.increase };
        cell.get_or_init(|| RateFactors::new(ts, &self.windows, &self.spec, per_second))
    }
}
