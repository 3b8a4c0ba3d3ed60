//! `deriv`, `predict_linear` (least squares) and `double_exponential_smoothing`, for samples without stale markers.

use isobar_block::stale_nan;

use super::window::Windows;
use super::{Params, kahan_add};

/// Slope per second and value at `origin_ms` of the line of least squares.
fn linear_regression(ts: &[i64], values: &[f64], origin_ms: i64) -> (f64, f64) {
    let initial = values[0];
    if values.iter().all(|v| *v == initial) {
        return if initial.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, initial) };
    }
    let (mut x_sum, mut y_sum, mut xy_sum, mut xx_sum) = ((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0));
    for (t, y) in ts.iter().zip(values) {
        let x = (t - origin_ms) as f64 / 1e3;
        x_sum = kahan_add(x, x_sum.0, x_sum.1);
        y_sum = kahan_add(*y, y_sum.0, y_sum.1);
        xy_sum = kahan_add(x * y, xy_sum.0, xy_sum.1);
        xx_sum = kahan_add(x * x, xx_sum.0, xx_sum.1);
    }
    let n = values.len() as f64;
    let (x, y, xy, xx) = (x_sum.0 + x_sum.1, y_sum.0 + y_sum.1, xy_sum.0 + xy_sum.1, xx_sum.0 + xx_sum.1);
    let covariance = xy - x * y / n;
    let variance = xx - x * x / n;
    let slope = covariance / variance;
    (slope, y / n - slope * x / n)
}

pub(super) fn deriv(ts: &[i64], values: &[f64], windows: &Windows, out: &mut [f64]) {
    for (out, (lo, hi)) in out.iter_mut().zip(windows.iter()) {
        *out = if hi - lo < 2 { stale_nan() } else { linear_regression(&ts[lo..hi], &values[lo..hi], ts[lo]).0 };
    }
}

pub(super) fn predict_linear(params: &Params<'_>, ts: &[i64], values: &[f64], windows: &Windows, out: &mut [f64]) {
    for (i, (lo, hi)) in windows.iter().enumerate() {
        if hi - lo < 2 {
            out[i] = stale_nan();
            continue;
        }
        let (slope, intercept) = linear_regression(&ts[lo..hi], &values[lo..hi], params.eval.at(i));
        out[i] = slope * params.first_at(i) + intercept;
    }
}

/// Holt-Winters smoothing without seasons. No result where a factor is outside (0, 1): that is an error of the query, for the
/// caller to report.
pub(super) fn double_exponential_smoothing(params: &Params<'_>, values: &[f64], windows: &Windows, out: &mut [f64]) {
    for (i, (lo, hi)) in windows.iter().enumerate() {
        let (smoothing, trend_factor) = (params.first_at(i), params.second_at(i));
        let valid = |factor: f64| factor > 0.0 && factor < 1.0;
        if hi - lo < 2 || !valid(smoothing) || !valid(trend_factor) {
            out[i] = stale_nan();
            continue;
        }
        let window = &values[lo..hi];
        let (mut before, mut smoothed, mut trend) = (0.0, window[0], window[1] - window[0]);
        for (j, v) in window.iter().enumerate().skip(1) {
            let scaled = smoothing * v;
            if j > 1 {
                trend = trend_factor * (smoothed - before) + (1.0 - trend_factor) * trend;
            }
            let carried = (1.0 - smoothing) * (smoothed + trend);
            (before, smoothed) = (smoothed, scaled + carried);
        }
        out[i] = smoothed;
    }
}
