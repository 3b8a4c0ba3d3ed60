//! Type checking, with the messages of `parser.checkAST` of Prometheus. Also settles what depends on types: vector matching
//! is kept between two vectors only, and set operators are many-to-many.

use super::Mistake;
use super::ast::{AggregateOp, Binary, Cardinality, Duration, Expr, ExprKind, RangeMode, Span, ValueType, VectorSelector};
use super::functions::Function;
use super::quote::quote;

/// Checks a whole expression.
pub(super) fn check(expr: &mut Expr, query: &str) -> Result<(), Mistake> {
    Checker { query }.expr(expr).map(|_| ())
}

struct Checker<'a> {
    query: &'a str,
}

/// How messages call a type.
pub(super) fn type_name(t: ValueType) -> &'static str {
    match t {
        ValueType::Scalar => "scalar",
        ValueType::String => "string",
        ValueType::Vector => "instant vector",
        ValueType::Matrix => "range vector",
    }
}

impl Checker<'_> {
    fn expr(&self, expr: &mut Expr) -> Result<ValueType, Mistake> {
        let span = expr.span;
        match &mut expr.kind {
            ExprKind::Number(_) => Ok(ValueType::Scalar),
            ExprKind::String(_) => Ok(ValueType::String),
            ExprKind::Paren(inner) => self.expr(inner),
            ExprKind::Unary { expr, .. } => match self.expr(expr)? {
                t @ (ValueType::Scalar | ValueType::Vector) => Ok(t),
                t => Err(Mistake::new(
                    span,
                    format!("unary expression only allowed on expressions of type scalar or instant vector, got {}", quote(type_name(t))),
                )),
            },
            ExprKind::Binary(binary) => self.binary(binary, span),
            ExprKind::Aggregate(aggregate) => {
                self.expect(&mut aggregate.expr, ValueType::Vector, "aggregation expression")?;
                let wanted = if aggregate.op == AggregateOp::CountValues { ValueType::String } else { ValueType::Scalar };
                if let Some(param) = &mut aggregate.param {
                    self.expect(param, wanted, "aggregation parameter")?;
                }
                Ok(ValueType::Vector)
            }
            ExprKind::Call { function, args } => self.call(function, args, span),
            ExprKind::Vector(selector) => self.selector(selector, span, true),
            ExprKind::Matrix { selector, range } => {
                self.selector(selector, span, true)?;
                self.duration(range, true, span)?;
                Ok(ValueType::Matrix)
            }
            ExprKind::Subquery(subquery) => {
                let t = self.expr(&mut subquery.expr)?;
                if t != ValueType::Vector {
                    let t = if t == ValueType::Matrix { "matrix" } else { type_name(t) };
                    return Err(Mistake::new(span, format!("subquery is only allowed on instant vector, got {t} instead")));
                }
                self.duration(&subquery.range, true, span)?;
                subquery.step.as_ref().map_or(Ok(()), |d| self.duration(d, true, span))?;
                subquery.offset.as_ref().map_or(Ok(()), |d| self.duration(d, false, span))?;
                Ok(ValueType::Matrix)
            }
        }
    }

    fn expect(&self, expr: &mut Expr, wanted: ValueType, context: &str) -> Result<(), Mistake> {
        let got = self.expr(expr)?;
        if got != wanted {
            return Err(Mistake::new(expr.span, format!("expected type {} in {context}, got {}", type_name(wanted), type_name(got))));
        }
        Ok(())
    }

    /// A computed duration of known value must be valid; others are the engine's to check.
    fn duration(&self, duration: &Duration, positive: bool, span: Span) -> Result<(), Mistake> {
        let constant = match duration {
            Duration::Millis(_) => true,
            Duration::Computed(expr) => expr.is_constant(),
        };
        if !constant {
            return Ok(());
        }
        let resolved = if positive { duration.resolve_positive(1, 0) } else { duration.resolve(1, 0) };
        resolved.map(|_| ()).map_err(|message| Mistake::new(span, message))
    }

    fn selector(&self, selector: &VectorSelector, span: Span, needs_matcher: bool) -> Result<ValueType, Mistake> {
        if needs_matcher && selector.matchers.iter().all(|m| m.matches_empty()) {
            return Err(Mistake::new(span, "vector selector must contain at least one non-empty matcher"));
        }
        selector.offset.as_ref().map_or(Ok(()), |d| self.duration(d, false, span))?;
        Ok(ValueType::Vector)
    }

    fn call(&self, function: &'static Function, args: &mut [Expr], span: Span) -> Result<ValueType, Mistake> {
        let name = quote(function.name);
        let (min, max, got) = (function.min_args, function.max_args, args.len());
        let count = if max == Some(min) && got != min {
            Some(format!("expected {min} argument(s) in call to {name}, got {got}"))
        } else if got < min {
            Some(format!("expected at least {min} argument(s) in call to {name}, got {got}"))
        } else {
            max.filter(|max| got > *max).map(|max| format!("expected at most {max} argument(s) in call to {name}, got {got}"))
        };
        if let Some(message) = count {
            return Err(Mistake::new(span, message));
        }
        let context = format!("call to function {name}");
        for (i, arg) in args.iter_mut().enumerate() {
            let wanted = function.args[i.min(function.args.len() - 1)];
            if function.name == "info" && i == 1 {
                self.info_selector(arg, &context)?;
                continue;
            }
            self.expect(arg, wanted, &context)?;
            if let ExprKind::Matrix { selector, .. } = &arg.unparenthesized().kind {
                range_mode(selector.mode, function.name, arg.span)?;
            }
        }
        Ok(function.returns)
    }

    /// The second argument of `info` selects labels, not series.
    fn info_selector(&self, arg: &Expr, context: &str) -> Result<(), Mistake> {
        match &arg.kind {
            ExprKind::Vector(selector) if selector.name.is_some() => {
                Err(Mistake::new(arg.span, "expected label selectors only, got vector selector instead"))
            }
            ExprKind::Vector(selector) => self.selector(selector, arg.span, false).map(|_| ()),
            _ => {
                let got = type_name(arg.value_type());
                Err(Mistake::new(arg.span, format!("expected label selectors in {context}, got an expression of type {got}")))
            }
        }
    }

    fn binary(&self, binary: &mut Binary, span: Span) -> Result<ValueType, Mistake> {
        use ValueType::{Scalar, Vector};
        let left = self.expr(&mut binary.lhs)?;
        let right = self.expr(&mut binary.rhs)?;
        let op = binary.op;
        let at_operator = |message: String| Err(Mistake::new(self.operator_span(binary), message));
        let at_whole = |message: String| Err(Mistake::new(span, message));
        if binary.return_bool && !op.is_comparison() {
            return at_operator("bool modifier can only be used on comparison operators".into());
        }
        if op.is_comparison() && !binary.return_bool && left == Scalar && right == Scalar {
            return at_operator("comparisons between scalars must use BOOL modifier".into());
        }
        let matching = binary.matching.clone().unwrap_or_default();
        if let Some(label) = matching.labels.iter().find(|l| matching.on && matching.include.contains(l)) {
            return at_operator(format!("label {} must not occur in ON and GROUP clause at once", quote(label)));
        }
        for (t, side) in [(left, &binary.lhs), (right, &binary.rhs)] {
            if t != Scalar && t != Vector {
                return Err(Mistake::new(side.span, "binary expression must contain only scalar and instant vector types"));
            }
        }
        let fills = matching.fill_lhs.is_some() || matching.fill_rhs.is_some();
        if left == Scalar || right == Scalar {
            if !matching.labels.is_empty() {
                return at_whole("vector matching only allowed between instant vectors".into());
            }
            if fills {
                return at_whole("filling in missing series only allowed between instant vectors".into());
            }
            if op.is_set() {
                return at_whole(format!("set operator {} not allowed in binary scalar expression", quote(super::print::operator(op))));
            }
            binary.matching = None;
            return Ok(if left == right { Scalar } else { Vector });
        }
        if op.is_set() {
            if matching.cardinality != Cardinality::OneToOne {
                return at_whole(format!("no grouping allowed for {} operation", quote(super::print::operator(op))));
            }
            if fills {
                return at_whole("filling in missing series not allowed for set operators".into());
            }
            if let Some(matching) = &mut binary.matching {
                matching.cardinality = Cardinality::ManyToMany;
            }
        }
        Ok(Vector)
    }

    /// The operator stands behind the blanks that follow the left operand.
    fn operator_span(&self, binary: &Binary) -> Span {
        let between = &self.query[binary.lhs.span.end as usize..binary.rhs.span.start as usize];
        let blanks = between.len() - between.trim_start().len();
        let start = binary.lhs.span.end + blanks as u32;
        Span { start, end: start + (between.trim().len() as u32) }
    }
}

/// `anchored` and `smoothed` have a meaning for few functions.
fn range_mode(mode: RangeMode, function: &str, span: Span) -> Result<(), Mistake> {
    let (word, allowed): (_, &[&str]) = match mode {
        RangeMode::Plain => return Ok(()),
        RangeMode::Anchored => ("anchored", &["changes", "delta", "increase", "rate", "resets"]),
        RangeMode::Smoothed => ("smoothed", &["delta", "increase", "rate"]),
    };
    if allowed.contains(&function) {
        return Ok(());
    }
    Err(Mistake::new(span, format!("{word} modifier can only be used with: {} - not with {function}", allowed.join(", "))))
}
