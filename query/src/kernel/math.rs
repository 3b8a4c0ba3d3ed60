//! Functions of single numbers, elementwise and in place. Absent values stay absent.

use std::f64::consts::PI;

use isobar_block::sample::STALE_NAN_BITS;
use isobar_block::{is_stale, stale_nan};

use super::broadcast;

/// Functions of one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are PromQL's")]
pub enum MathFn {
    Abs,
    Ceil,
    Floor,
    Exp,
    Ln,
    Log2,
    Log10,
    Sqrt,
    Sgn,
    Deg,
    Rad,
    Acos,
    Acosh,
    Asin,
    Asinh,
    Atan,
    Atanh,
    Cos,
    Cosh,
    Sin,
    Sinh,
    Tan,
    Tanh,
    /// The unary minus.
    Neg,
}

/// Applies `f` to each value.
pub fn math(f: MathFn, values: &mut [f64]) {
    match f {
        MathFn::Abs | MathFn::Sqrt | MathFn::Deg | MathFn::Rad | MathFn::Neg | MathFn::Sgn => simple(f, values),
        MathFn::Ceil => map(values, f64::ceil),
        MathFn::Floor => map(values, f64::floor),
        MathFn::Exp => map(values, f64::exp),
        MathFn::Ln => map(values, f64::ln),
        MathFn::Log2 => map(values, f64::log2),
        MathFn::Log10 => map(values, f64::log10),
        MathFn::Acos => map(values, f64::acos),
        MathFn::Acosh => map(values, f64::acosh),
        MathFn::Asin => map(values, f64::asin),
        MathFn::Asinh => map(values, f64::asinh),
        MathFn::Atan => map(values, f64::atan),
        MathFn::Atanh => map(values, f64::atanh),
        MathFn::Cos => map(values, f64::cos),
        MathFn::Cosh => map(values, f64::cosh),
        MathFn::Sin => map(values, f64::sin),
        MathFn::Sinh => map(values, f64::sinh),
        MathFn::Tan => map(values, f64::tan),
        MathFn::Tanh => map(values, f64::tanh),
    }
}

/// The value where `absent` was, else the result.
#[inline(always)]
fn keep_absent(value: f64, result: f64) -> f64 {
    if value.to_bits() == STALE_NAN_BITS { value } else { result }
}

#[inline(always)]
fn map(values: &mut [f64], f: impl Fn(f64) -> f64) {
    for v in values {
        *v = keep_absent(*v, f(*v));
    }
}

vectorised! {
    /// Those that are a few instructions.
    fn simple(f: MathFn, values: &mut [f64]) {
        match f {
            MathFn::Abs => map(values, f64::abs),
            MathFn::Sqrt => map(values, f64::sqrt),
            MathFn::Deg => map(values, |v| v * 180.0 / PI),
            MathFn::Rad => map(values, |v| v * PI / 180.0),
            MathFn::Neg => map(values, |v| -v),
            _ => map(values, |v| if v < 0.0 { -1.0 } else if v > 0.0 { 1.0 } else { v }),
        }
    }
}

/// Combines each value with scalars: one value, or one for each step of rows that follow each other in `values`.
fn map_steps(values: &mut [f64], steps: usize, f: impl Fn(f64, usize) -> f64) {
    for row in values.chunks_mut(steps.max(1)) {
        for (step, v) in row.iter_mut().enumerate() {
            *v = keep_absent(*v, f(*v, step));
        }
    }
}

/// `round(v, to_nearest)`: ties go up. `values` holds rows of `steps` values.
pub fn round(values: &mut [f64], steps: usize, to_nearest: &[f64]) {
    map_steps(values, steps, |v, step| {
        // Dividing by the inverse is more precise than multiplying: 0.1 has an exact inverse, but is not exact itself.
        let inverse = 1.0 / broadcast(to_nearest, step);
        (v * inverse + 0.5).floor() / inverse
    });
}

/// `clamp(v, min, max)`; absent where `max < min`. `values` holds rows of `steps` values.
pub fn clamp(values: &mut [f64], steps: usize, min: &[f64], max: &[f64]) {
    map_steps(values, steps, |v, step| {
        let (min, max) = (broadcast(min, step), broadcast(max, step));
        if max < min { stale_nan() } else { go_max(min, go_min(max, v)) }
    });
}

/// `clamp_min(v, min)`. `values` holds rows of `steps` values.
pub fn clamp_min(values: &mut [f64], steps: usize, min: &[f64]) {
    map_steps(values, steps, |v, step| go_max(broadcast(min, step), v));
}

/// `clamp_max(v, max)`. `values` holds rows of `steps` values.
pub fn clamp_max(values: &mut [f64], steps: usize, max: &[f64]) {
    map_steps(values, steps, |v, step| go_min(broadcast(max, step), v));
}

/// The larger number as Go's `math.Max` has it, for `max_of` and `clamp`: NaN if one is NaN, unless the other is +Inf.
pub fn go_max(a: f64, b: f64) -> f64 {
    if a == f64::INFINITY || b == f64::INFINITY {
        return f64::INFINITY;
    }
    if a.is_nan() || b.is_nan() {
        return f64::NAN;
    }
    if a == 0.0 && b == 0.0 {
        return if a.is_sign_negative() { b } else { a };
    }
    if a > b { a } else { b }
}

/// The smaller number as Go's `math.Min` has it, for `min_of` and `clamp`: NaN if one is NaN, unless the other is −Inf.
pub fn go_min(a: f64, b: f64) -> f64 {
    -go_max(-a, -b)
}

/// `timestamp(v)` of anything but a selector: the seconds of each step where there is a value. `values` holds rows.
pub fn timestamp(values: &mut [f64], grid: &crate::result::Grid) {
    for row in values.chunks_mut(grid.len) {
        for (step, v) in row.iter_mut().enumerate() {
            if !is_stale(*v) {
                *v = grid.at(step) as f64 / 1000.0;
            }
        }
    }
}
