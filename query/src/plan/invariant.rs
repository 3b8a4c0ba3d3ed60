//! Which expressions have the same value at all steps of a query.

use crate::promql::ast::{Expr, ExprKind};

/// Functions whose result depends on the time of evaluation even if their arguments do not.
const TIME_DEPENDENT: &[&str] = &[
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "days_in_month",
    "hour",
    "minute",
    "month",
    "predict_linear",
    "time",
    "timestamp",
    "year",
];

/// Whether `expr` has the same value whenever it is evaluated in one query: all of its selectors are fixed by `@`.
pub(super) fn is_invariant(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Number(_) | ExprKind::String(_) => true,
        ExprKind::Paren(inner) | ExprKind::Unary { expr: inner, .. } => is_invariant(inner),
        ExprKind::Binary(binary) => is_invariant(&binary.lhs) && is_invariant(&binary.rhs),
        ExprKind::Aggregate(aggregate) => is_invariant(&aggregate.expr) && aggregate.param.as_ref().is_none_or(is_invariant),
        ExprKind::Call { function, args } => !TIME_DEPENDENT.contains(&function.name) && args.iter().all(is_invariant),
        ExprKind::Vector(selector) | ExprKind::Matrix { selector, .. } => selector.at.is_some(),
        ExprKind::Subquery(subquery) => subquery.at.is_some(),
    }
}
