//! Operators between rows of numbers, and between rows and scalars. A result is absent where an operand is.

use isobar_block::sample::STALE_NAN_BITS;
use isobar_block::stale_nan;

use crate::promql::ast::BinaryOp;

/// Operators between two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the operators'")]
pub enum ElementOp {
    Add,
    Sub,
    Mul,
    Div,
    /// Sign of the dividend, as C's `fmod`.
    Mod,
    Pow,
    Atan2,
    Equal,
    NotEqual,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
}

impl ElementOp {
    /// The operator, unless it is a set operator or one of histograms only.
    pub fn of(op: BinaryOp) -> Option<Self> {
        Some(match op {
            BinaryOp::Add => Self::Add,
            BinaryOp::Sub => Self::Sub,
            BinaryOp::Mul => Self::Mul,
            BinaryOp::Div => Self::Div,
            BinaryOp::Mod => Self::Mod,
            BinaryOp::Pow => Self::Pow,
            BinaryOp::Atan2 => Self::Atan2,
            BinaryOp::Equal => Self::Equal,
            BinaryOp::NotEqual => Self::NotEqual,
            BinaryOp::Greater => Self::Greater,
            BinaryOp::GreaterEqual => Self::GreaterEqual,
            BinaryOp::Less => Self::Less,
            BinaryOp::LessEqual => Self::LessEqual,
            BinaryOp::And | BinaryOp::Or | BinaryOp::Unless | BinaryOp::TrimUpper | BinaryOp::TrimLower => return None,
        })
    }

    /// Arithmetic, or a comparison that gives 0 or 1: what the operator means between two scalars.
    pub fn scalar(self, lhs: f64, rhs: f64) -> f64 {
        match self {
            Self::Add => lhs + rhs,
            Self::Sub => lhs - rhs,
            Self::Mul => lhs * rhs,
            Self::Div => lhs / rhs,
            Self::Mod => lhs % rhs,
            Self::Pow => lhs.powf(rhs),
            Self::Atan2 => lhs.atan2(rhs),
            Self::Equal => f64::from(lhs == rhs),
            Self::NotEqual => f64::from(lhs != rhs),
            Self::Greater => f64::from(lhs > rhs),
            Self::GreaterEqual => f64::from(lhs >= rhs),
            Self::Less => f64::from(lhs < rhs),
            Self::LessEqual => f64::from(lhs <= rhs),
        }
    }
}

/// What a comparison gives where it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compared {
    /// 1, and 0 where it does not hold.
    Bool,
    /// The left operand, and nothing where it does not hold.
    Left,
    /// The right operand, likewise.
    Right,
}

/// Operator between two rows, or rows after rows. A comparison without `bool` keeps the left value.
///
/// # Panics
/// If lengths differ.
pub fn vector_vector(op: ElementOp, return_bool: bool, lhs: &[f64], rhs: &[f64], out: &mut [f64]) {
    assert!(lhs.len() == rhs.len() && lhs.len() == out.len(), "rows of one grid have one length");
    rows(op, if return_bool { Compared::Bool } else { Compared::Left }, lhs, rhs, out);
}

/// Operator between rows and a scalar on the right (one value, or one for each step of a row). A comparison without `bool`
/// keeps the row's value.
///
/// # Panics
/// If lengths do not fit.
pub fn vector_scalar(op: ElementOp, return_bool: bool, lhs: &[f64], scalar: &[f64], out: &mut [f64]) {
    let compared = if return_bool { Compared::Bool } else { Compared::Left };
    assert_eq!(lhs.len(), out.len(), "rows of one grid have one length");
    if let [scalar] = scalar {
        return with_right(op, compared, lhs, *scalar, out);
    }
    for (lhs, out) in lhs.chunks(scalar.len().max(1)).zip(out.chunks_mut(scalar.len().max(1))) {
        rows(op, compared, lhs, &scalar[..lhs.len()], out);
    }
}

/// Operator between a scalar on the left (one value, or one for each step of a row) and rows. A comparison without `bool`
/// keeps the row's value.
///
/// # Panics
/// If lengths do not fit.
pub fn scalar_vector(op: ElementOp, return_bool: bool, scalar: &[f64], rhs: &[f64], out: &mut [f64]) {
    let compared = if return_bool { Compared::Bool } else { Compared::Right };
    assert_eq!(rhs.len(), out.len(), "rows of one grid have one length");
    if let [scalar] = scalar {
        return with_left(op, compared, *scalar, rhs, out);
    }
    for (rhs, out) in rhs.chunks(scalar.len().max(1)).zip(out.chunks_mut(scalar.len().max(1))) {
        rows(op, compared, &scalar[..rhs.len()], rhs, out);
    }
}

vectorised! {
    fn rows(op: ElementOp, compared: Compared, lhs: &[f64], rhs: &[f64], out: &mut [f64]) {
        apply(op, compared, lhs.iter().copied().zip(rhs.iter().copied()), out);
    }
}

vectorised! {
    fn with_right(op: ElementOp, compared: Compared, lhs: &[f64], scalar: f64, out: &mut [f64]) {
        apply(op, compared, lhs.iter().map(|v| (*v, scalar)), out);
    }
}

vectorised! {
    fn with_left(op: ElementOp, compared: Compared, scalar: f64, rhs: &[f64], out: &mut [f64]) {
        apply(op, compared, rhs.iter().map(|v| (scalar, *v)), out);
    }
}

/// Chooses the loop; each operator has its own, so that the choice is not made for each value.
#[inline(always)]
fn apply(op: ElementOp, compared: Compared, operands: impl Iterator<Item = (f64, f64)>, out: &mut [f64]) {
    match op {
        ElementOp::Add => arithmetic(operands, out, |a, b| a + b),
        ElementOp::Sub => arithmetic(operands, out, |a, b| a - b),
        ElementOp::Mul => arithmetic(operands, out, |a, b| a * b),
        ElementOp::Div => arithmetic(operands, out, |a, b| a / b),
        ElementOp::Mod => arithmetic(operands, out, |a, b| a % b),
        ElementOp::Pow => arithmetic(operands, out, f64::powf),
        ElementOp::Atan2 => arithmetic(operands, out, f64::atan2),
        ElementOp::Equal => compare(compared, operands, out, |a, b| a == b),
        ElementOp::NotEqual => compare(compared, operands, out, |a, b| a != b),
        ElementOp::Greater => compare(compared, operands, out, |a, b| a > b),
        ElementOp::GreaterEqual => compare(compared, operands, out, |a, b| a >= b),
        ElementOp::Less => compare(compared, operands, out, |a, b| a < b),
        ElementOp::LessEqual => compare(compared, operands, out, |a, b| a <= b),
    }
}

/// Whether an operand is absent. Without short-circuit, which would be a branch.
#[inline(always)]
fn absent(a: f64, b: f64) -> bool {
    (a.to_bits() == STALE_NAN_BITS) | (b.to_bits() == STALE_NAN_BITS)
}

#[inline(always)]
fn arithmetic(operands: impl Iterator<Item = (f64, f64)>, out: &mut [f64], f: impl Fn(f64, f64) -> f64) {
    for (out, (a, b)) in out.iter_mut().zip(operands) {
        let result = f(a, b);
        *out = if absent(a, b) { stale_nan() } else { result };
    }
}

#[inline(always)]
fn compare(compared: Compared, operands: impl Iterator<Item = (f64, f64)>, out: &mut [f64], holds: impl Fn(f64, f64) -> bool) {
    match compared {
        Compared::Bool => arithmetic(operands, out, |a, b| if holds(a, b) { 1.0 } else { 0.0 }),
        Compared::Left => arithmetic(operands, out, |a, b| if holds(a, b) { a } else { stale_nan() }),
        Compared::Right => arithmetic(operands, out, |a, b| if holds(a, b) { b } else { stale_nan() }),
    }
}
