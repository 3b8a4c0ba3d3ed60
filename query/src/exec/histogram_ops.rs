//! What functions and operators do with single native histograms.

use super::annotate;
use super::context::QueryContext;
use crate::kernel::binary::ElementOp;
use crate::kernel::histogram::FloatHistogram;
use crate::promql::ast::Span;

/// Numbers that a histogram is summed up in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Summary {
    /// Number of observations.
    Count,
    /// Their sum.
    Sum,
    /// Their average.
    Avg,
    /// Estimated standard deviation.
    Stddev,
    /// Estimated variance.
    Stdvar,
}

impl Summary {
    /// The number.
    pub fn of(self, histogram: &FloatHistogram) -> f64 {
        match self {
            Self::Count => histogram.count(),
            Self::Sum => histogram.sum(),
            Self::Avg => histogram.mean(),
            Self::Stddev => histogram.stddev(),
            Self::Stdvar => histogram.variance(),
        }
    }
}

/// Where an operator stands, for annotations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Site {
    /// The whole expression.
    pub span: Span,
    /// The operator as it is written.
    pub symbol: &'static str,
}

/// One side of an operator.
#[derive(Clone, Copy, Debug)]
pub enum Operand<'a> {
    /// A float.
    Float(f64),
    /// A histogram.
    Histogram(&'a FloatHistogram),
}

impl Operand<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Self::Float(_) => "float",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// What an operator gives.
#[derive(Debug)]
pub enum Outcome {
    /// No sample.
    Nothing,
    /// A float.
    Float(f64),
    /// A histogram.
    Histogram(FloatHistogram),
}

/// Applies an operator of which at least one side is a histogram.
pub fn binary(op: ElementOp, return_bool: bool, lhs: Operand<'_>, rhs: Operand<'_>, site: Site, query: &QueryContext) -> Outcome {
    let compared = |holds: bool, lhs: &FloatHistogram| match (return_bool, holds) {
        (true, _) => Outcome::Float(f64::from(holds)),
        (false, true) => Outcome::Histogram(lhs.clone()),
        (false, false) => Outcome::Nothing,
    };
    match (op, lhs, rhs) {
        (ElementOp::Add | ElementOp::Sub, Operand::Histogram(a), Operand::Histogram(b)) => combined(op, a, b, site, query),
        (ElementOp::Equal, Operand::Histogram(a), Operand::Histogram(b)) => compared(a == b, a),
        (ElementOp::NotEqual, Operand::Histogram(a), Operand::Histogram(b)) => compared(a != b, a),
        (ElementOp::Mul, Operand::Histogram(h), Operand::Float(v)) | (ElementOp::Mul, Operand::Float(v), Operand::Histogram(h)) => {
            let mut h = h.clone();
            h.scale(v);
            Outcome::Histogram(h)
        }
        (ElementOp::Div, Operand::Histogram(h), Operand::Float(v)) => {
            let mut h = h.clone();
            h.divide(v);
            Outcome::Histogram(h)
        }
        _ => {
            annotate::incompatible_types(query, site.span, site.symbol, lhs.kind(), rhs.kind());
            Outcome::Nothing
        }
    }
}

fn combined(op: ElementOp, a: &FloatHistogram, b: &FloatHistogram, site: Site, query: &QueryContext) -> Outcome {
    let mut result = a.clone();
    let (word, combined) = if op == ElementOp::Add { ("addition", result.add(b)) } else { ("subtraction", result.sub(b)) };
    match combined {
        Ok(notes) => {
            annotate::combined(query, site.span, notes, word);
            Outcome::Histogram(result)
        }
        Err(_) => {
            annotate::incompatible_buckets(query, site.span, site.symbol);
            Outcome::Nothing
        }
    }
}
