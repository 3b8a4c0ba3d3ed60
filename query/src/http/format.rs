//! `format_query` and `parse_query`: a query's text, and its syntax tree as JSON in the shape of Prometheus.

use axum::extract::{Request, State};
use isobar_block::{MatchOp, Matcher};
use serde_json::{Value, json};

use super::Api;
use super::envelope::{ApiResult, success, success_json};
use super::json::push_string;
use super::params::invalid;
use crate::promql;
use crate::promql::ast::{At, Binary, Cardinality, Duration, Expr, ExprKind, Matching, RangeMode, ValueType, VectorSelector};
use crate::promql::functions::Function;
use crate::promql::print::{aggregation, operator, pretty};
use crate::promql::quote::float;

/// `GET|POST /api/v1/format_query`
pub(super) async fn format_query(State(api): State<Api>, request: Request) -> ApiResult {
    let (params, _) = api.params(request).await?;
    let expr = promql::parse(params.get("query")).map_err(|e| invalid("query", e))?;
    Ok(success(|out| push_string(out, &pretty(&expr)), &[], &[]))
}

/// `GET|POST /api/v1/parse_query`
pub(super) async fn parse_query(State(api): State<Api>, request: Request) -> ApiResult {
    let (params, _) = api.params(request).await?;
    let expr = promql::parse(params.get("query")).map_err(|e| invalid("query", e))?;
    success_json(&tree(&expr))
}

fn tree(expr: &Expr) -> Value {
    match &expr.kind {
        ExprKind::Number(value) => json!({"type": "numberLiteral", "val": float(*value)}),
        ExprKind::String(text) => json!({"type": "stringLiteral", "val": text}),
        ExprKind::Paren(inner) => json!({"type": "parenExpr", "expr": tree(inner)}),
        ExprKind::Unary { negate, expr } => json!({"type": "unaryExpr", "op": if *negate { "-" } else { "+" }, "expr": tree(expr)}),
        ExprKind::Binary(binary) => binary_tree(binary),
        ExprKind::Aggregate(a) => json!({
            "type": "aggregation",
            "op": aggregation(a.op),
            "expr": tree(&a.expr),
            "param": a.param.as_ref().map(tree),
            "grouping": a.labels,
            "without": a.without,
        }),
        ExprKind::Call { function, args } => {
            let args: Vec<Value> = args.iter().map(tree).collect();
            json!({"type": "call", "func": function_tree(function), "args": args})
        }
        ExprKind::Vector(selector) => selector_tree("vectorSelector", selector, None),
        ExprKind::Matrix { selector, range } => selector_tree("matrixSelector", selector, Some(range)),
        ExprKind::Subquery(s) => {
            let (timestamp, start_or_end) = at(s.at);
            let mut out = json!({"type": "subquery", "expr": tree(&s.expr), "timestamp": timestamp, "startOrEnd": start_or_end});
            put_duration(&mut out, "range", Some(&s.range));
            put_duration(&mut out, "step", s.step.as_ref());
            put_duration(&mut out, "offset", s.offset.as_ref());
            out
        }
    }
}

fn binary_tree(binary: &Binary) -> Value {
    json!({
        "type": "binaryExpr",
        "op": operator(binary.op),
        "lhs": tree(&binary.lhs),
        "rhs": tree(&binary.rhs),
        "matching": binary.matching.as_ref().map(matching_tree),
        "bool": binary.return_bool,
    })
}

fn matching_tree(m: &Matching) -> Value {
    let card = match m.cardinality {
        Cardinality::OneToOne => "one-to-one",
        Cardinality::ManyToOne => "many-to-one",
        Cardinality::OneToMany => "one-to-many",
        Cardinality::ManyToMany => "many-to-many",
    };
    let fill = |value: Option<f64>| value.map(float);
    json!({
        "card": card,
        "labels": m.labels,
        "on": m.on,
        "include": m.include,
        "fillValues": {"lhs": fill(m.fill_lhs), "rhs": fill(m.fill_rhs)},
    })
}

fn function_tree(function: &Function) -> Value {
    let name = |t: &ValueType| match t {
        ValueType::Scalar => "scalar",
        ValueType::String => "string",
        ValueType::Vector => "vector",
        ValueType::Matrix => "matrix",
    };
    let variadic = match function.max_args {
        Some(max) if max == function.min_args => 0,
        Some(max) => max as i64 - (function.args.len() as i64 - 1),
        None => -1,
    };
    let args: Vec<_> = function.args.iter().map(name).collect();
    json!({"name": function.name, "argTypes": args, "variadic": variadic, "returnType": name(&function.returns)})
}

fn selector_tree(kind: &str, selector: &VectorSelector, range: Option<&Duration>) -> Value {
    let (timestamp, start_or_end) = at(selector.at);
    let matchers: Vec<Value> = selector.matchers.iter().map(matcher_tree).collect();
    let mut out = json!({
        "type": kind,
        "name": selector.name.as_deref().unwrap_or(""),
        "matchers": matchers,
        "timestamp": timestamp,
        "startOrEnd": start_or_end,
        "anchored": selector.mode == RangeMode::Anchored,
        "smoothed": selector.mode == RangeMode::Smoothed,
    });
    if range.is_some() {
        put_duration(&mut out, "range", range);
    }
    put_duration(&mut out, "offset", selector.offset.as_ref());
    out
}

fn matcher_tree(matcher: &Matcher) -> Value {
    let op = match matcher.op() {
        MatchOp::Equal => "=",
        MatchOp::NotEqual => "!=",
        MatchOp::Regex => "=~",
        MatchOp::NotRegex => "!~",
    };
    json!({"name": matcher.name(), "value": matcher.value(), "type": op})
}

/// Fixed time in milliseconds, or which end of the query it is.
fn at(at: Option<At>) -> (Option<i64>, Option<&'static str>) {
    match at {
        Some(At::Millis(ms)) => (Some(ms), None),
        Some(At::Start) => (None, Some("start")),
        Some(At::End) => (None, Some("end")),
        None => (None, None),
    }
}

/// A duration in milliseconds; of one that depends on the query, the text under `<name>Expr`.
fn put_duration(out: &mut Value, name: &str, duration: Option<&Duration>) {
    match duration {
        None => out[name] = json!(0),
        Some(Duration::Millis(ms)) => out[name] = json!(ms),
        Some(Duration::Computed(expr)) => {
            out[name] = json!(0);
            out[format!("{name}Expr")] = json!(expr.to_string());
        }
    }
}
