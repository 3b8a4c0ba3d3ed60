//! The kernels against the definitions of Prometheus, written out naively, and against tables of its own tests.

mod aggregates;
mod elements;
mod histograms;
mod naive;
mod ranges;

use isobar_block::is_stale;

/// Equality of values, where absent equals only absent, NaN equals NaN, and `tolerance` is relative.
fn same(a: f64, b: f64, tolerance: f64) -> bool {
    if is_stale(a) || is_stale(b) {
        return is_stale(a) && is_stale(b);
    }
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * a.abs().max(b.abs())
}

#[track_caller]
fn assert_same(got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(same(*got, *want, tolerance), "at {i}: got {got:?}, want {want:?}");
    }
}
