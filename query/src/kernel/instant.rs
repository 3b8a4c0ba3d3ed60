//! Instant selectors: the newest sample in the lookback of each step.

use isobar_block::{is_stale, stale_nan};

use super::extended::interpolate;
use super::over_time;
use super::window::{Windows, windows};
use crate::result::Grid;

/// The newest value in `(t − lookback, t]` for each step; absent if it is a stale marker.
pub fn instant(ts: &[i64], values: &[f64], grid: &Grid, lookback_ms: i64, out: &mut [f64]) {
    let mut found = Windows::default();
    windows(ts, grid, lookback_ms, &mut found);
    instant_with(&found, values, out);
}

/// [`instant`] with windows that are known already.
///
/// # Panics
/// If the windows are those of more samples.
pub fn instant_with(windows: &Windows, values: &[f64], out: &mut [f64]) {
    // The stale marker needs no test: it is what says that there is no value.
    over_time::each_bounds(windows, out, |_, hi| values[hi - 1]);
}

/// Seconds of the newest sample, for `timestamp()` of a selector.
///
/// # Panics
/// If the windows are those of more samples.
pub fn timestamp_with(windows: &Windows, ts: &[i64], values: &[f64], out: &mut [f64]) {
    over_time::each_bounds(windows, out, |_, hi| if is_stale(values[hi - 1]) { stale_nan() } else { ts[hi - 1] as f64 / 1000.0 });
}

/// A `smoothed` instant selector: the value at each step on the line between its neighbours, which are at most `lookback`
/// away; the newest value if nothing follows. Stale markers are skipped.
pub fn smoothed(ts: &[i64], values: &[f64], grid: &Grid, lookback_ms: i64, out: &mut [f64]) {
    let samples: Vec<(i64, f64)> = ts.iter().copied().zip(values.iter().copied()).filter(|(_, v)| !is_stale(*v)).collect();
    let mut next = 0;
    for (i, out) in out.iter_mut().enumerate() {
        let at = grid.at(i);
        while next < samples.len() && samples[next].0 <= at {
            next += 1;
        }
        let before = samples[..next].last().filter(|(t, _)| *t > at.saturating_sub(lookback_ms));
        let after = samples.get(next).filter(|(t, _)| *t <= at.saturating_add(lookback_ms));
        *out = match (before, after) {
            (Some((t, v)), _) if *t == at => *v,
            (Some(before), Some(after)) => interpolate(*before, *after, at, false),
            (Some((_, v)), None) => *v,
            (None, _) => stale_nan(),
        };
    }
}
