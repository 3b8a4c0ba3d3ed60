//! Quantiles of a set of numbers: `quantile` and `quantile_over_time`.

use std::cmp::Ordering;

/// NaN before everything else, as Prometheus sorts. (Also −0 equals 0.)
fn nan_first(a: &f64, b: &f64) -> Ordering {
    a.partial_cmp(b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

/// The `q`-quantile, interpolated linearly between the two nearest ranks. Reorders `values`.
///
/// NaN if `q` is NaN or there are no values; −Inf if `q` < 0, +Inf if `q` > 1.
pub fn quantile(q: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    let rank = q * (values.len() - 1) as f64;
    let weight = rank - rank.floor();
    let lower = rank.floor() as usize;
    let (_, &mut at_lower, above) = values.select_nth_unstable_by(lower, nan_first);
    let at_upper = above.iter().copied().min_by(nan_first).unwrap_or(at_lower);
    at_lower * (1.0 - weight) + at_upper * weight
}
