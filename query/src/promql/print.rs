//! Syntax trees back to text: on one line as Prometheus prints them, and split over lines as its `format_query` does.
//!
//! Parsing the text gives the same tree again, but for positions and the order of matchers.

use std::fmt::{self, Display, Formatter};

use isobar_block::labels::METRIC_NAME;
use isobar_block::{MatchOp, Matcher};

use super::ast::{
    Aggregate, AggregateOp, At, Binary, BinaryOp, Cardinality, Duration, DurationExpr, Expr, ExprKind, Matching, RangeMode, Subquery,
    VectorSelector,
};
use super::duration::format_duration;
use super::quote::{float, is_plain_label, is_plain_metric, quote};

/// The sign or word of an operator.
pub fn operator(op: BinaryOp) -> &'static str {
    match op {
        BinaryOp::Add => "+",
        BinaryOp::Sub => "-",
        BinaryOp::Mul => "*",
        BinaryOp::Div => "/",
        BinaryOp::Mod => "%",
        BinaryOp::Pow => "^",
        BinaryOp::Atan2 => "atan2",
        BinaryOp::Equal => "==",
        BinaryOp::NotEqual => "!=",
        BinaryOp::Greater => ">",
        BinaryOp::GreaterEqual => ">=",
        BinaryOp::Less => "<",
        BinaryOp::LessEqual => "<=",
        BinaryOp::And => "and",
        BinaryOp::Or => "or",
        BinaryOp::Unless => "unless",
        BinaryOp::TrimUpper => "</",
        BinaryOp::TrimLower => ">/",
    }
}

/// The name of an aggregation.
pub fn aggregation(op: AggregateOp) -> &'static str {
    match op {
        AggregateOp::Sum => "sum",
        AggregateOp::Min => "min",
        AggregateOp::Max => "max",
        AggregateOp::Avg => "avg",
        AggregateOp::Count => "count",
        AggregateOp::Group => "group",
        AggregateOp::Stddev => "stddev",
        AggregateOp::Stdvar => "stdvar",
        AggregateOp::Topk => "topk",
        AggregateOp::Bottomk => "bottomk",
        AggregateOp::CountValues => "count_values",
        AggregateOp::Quantile => "quantile",
        AggregateOp::Limitk => "limitk",
        AggregateOp::LimitRatio => "limit_ratio",
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ExprKind::Number(value) => f.write_str(&float(*value)),
            ExprKind::String(text) => f.write_str(&quote(text)),
            ExprKind::Paren(inner) => write!(f, "({inner})"),
            ExprKind::Unary { negate, expr } => {
                // The sign of an infinity would become a second sign.
                let operand = expr.to_string();
                write!(f, "{}{}", sign(*negate), if operand.starts_with("+Inf") { &operand[1..] } else { &operand })
            }
            ExprKind::Binary(b) => write!(f, "{} {} {}", b.lhs, Operation(b), b.rhs),
            ExprKind::Aggregate(a) => {
                write!(f, "{}(", Aggregation(a))?;
                if let Some(param) = &a.param {
                    write!(f, "{param}, ")?;
                }
                write!(f, "{})", a.expr)
            }
            ExprKind::Call { function, args } => {
                write!(f, "{}(", function.name)?;
                for (i, arg) in args.iter().enumerate() {
                    write!(f, "{}{arg}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str(")")
            }
            ExprKind::Vector(selector) => {
                write!(f, "{}{}", Series(selector), mode(selector.mode))?;
                modifiers(f, selector.at, selector.offset.as_ref())
            }
            ExprKind::Matrix { selector, range } => {
                write!(f, "{}[{range}]{}", Series(selector), mode(selector.mode))?;
                modifiers(f, selector.at, selector.offset.as_ref())
            }
            ExprKind::Subquery(subquery) => {
                write!(f, "{}", subquery.expr)?;
                subquery_suffix(f, subquery)
            }
        }
    }
}

fn sign(negate: bool) -> &'static str {
    if negate { "-" } else { "+" }
}

fn mode(mode: RangeMode) -> &'static str {
    match mode {
        RangeMode::Plain => "",
        RangeMode::Anchored => " anchored",
        RangeMode::Smoothed => " smoothed",
    }
}

fn modifiers(f: &mut Formatter<'_>, at: Option<At>, offset: Option<&Duration>) -> fmt::Result {
    match at {
        Some(At::Millis(ms)) => {
            let (sign, ms) = (if ms < 0 { "-" } else { "" }, ms.unsigned_abs());
            write!(f, " @ {sign}{}.{:03}", ms / 1000, ms % 1000)?;
        }
        Some(At::Start) => f.write_str(" @ start()")?,
        Some(At::End) => f.write_str(" @ end()")?,
        None => {}
    }
    match offset {
        None => Ok(()),
        Some(Duration::Millis(ms)) => write!(f, " offset {}", format_duration(*ms)),
        Some(Duration::Computed(expr)) => match &**expr {
            DurationExpr::Neg(inner) => write!(f, " offset -{}", Operand(inner)),
            expr => write!(f, " offset {}", Operand(expr)),
        },
    }
}

fn subquery_suffix(f: &mut Formatter<'_>, subquery: &Subquery) -> fmt::Result {
    write!(f, "[{}:", subquery.range)?;
    if let Some(step) = &subquery.step {
        write!(f, "{step}")?;
    }
    f.write_str("]")?;
    modifiers(f, subquery.at, subquery.offset.as_ref())
}

/// The operator with what belongs to it.
struct Operation<'a>(&'a Binary);

impl Display for Operation<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(operator(self.0.op))?;
        if self.0.return_bool {
            f.write_str(" bool")?;
        }
        self.0.matching.as_ref().map_or(Ok(()), |m| matching(f, m))
    }
}

fn matching(f: &mut Formatter<'_>, m: &Matching) -> fmt::Result {
    let grouped = matches!(m.cardinality, Cardinality::ManyToOne | Cardinality::OneToMany);
    if !m.labels.is_empty() || m.on || grouped {
        write!(f, " {} ({})", if m.on { "on" } else { "ignoring" }, Labels(&m.labels))?;
    }
    if grouped {
        let side = if m.cardinality == Cardinality::ManyToOne { "left" } else { "right" };
        write!(f, " group_{side} ({})", Labels(&m.include))?;
    }
    match (m.fill_lhs, m.fill_rhs) {
        (Some(left), Some(right)) if left.to_bits() == right.to_bits() => write!(f, " fill ({})", float(left)),
        (left, right) => {
            for (side, value) in [("left", left), ("right", right)] {
                if let Some(value) = value {
                    write!(f, " fill_{side} ({})", float(value))?;
                }
            }
            Ok(())
        }
    }
}

/// The name of an aggregation with its grouping.
struct Aggregation<'a>(&'a Aggregate);

impl Display for Aggregation<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(aggregation(self.0.op))?;
        if self.0.without {
            write!(f, " without ({}) ", Labels(&self.0.labels))
        } else if !self.0.labels.is_empty() {
            write!(f, " by ({}) ", Labels(&self.0.labels))
        } else {
            Ok(())
        }
    }
}

struct Labels<'a>(&'a [String]);

impl Display for Labels<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (i, label) in self.0.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { ", " })?;
            f.write_str(&label_name(label))?;
        }
        Ok(())
    }
}

/// A label name, in quotes where it needs them.
fn label_name(name: &str) -> String {
    let is_number = name.eq_ignore_ascii_case("inf") || name.eq_ignore_ascii_case("nan");
    if is_plain_label(name) && !is_number { name.to_owned() } else { quote(name) }
}

/// A selector without range and modifiers.
struct Series<'a>(&'a VectorSelector);

impl Display for Series<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        const NO_METRIC: [&str; 8] = ["bool", "on", "ignoring", "group_left", "group_right", "atan2", "inf", "nan"];
        let name = self.0.name.as_deref();
        let is_name = |m: &&Matcher| m.name() == METRIC_NAME && m.op() == MatchOp::Equal && Some(m.value()) == name;
        let mut conditions: Vec<String> = self.0.matchers.iter().filter(|m| !is_name(m)).map(matcher).collect();
        conditions.sort();
        match name {
            Some(name) if is_plain_metric(name) && !NO_METRIC.contains(&name.to_ascii_lowercase().as_str()) => {
                f.write_str(name)?;
                if conditions.is_empty() {
                    return Ok(());
                }
            }
            Some(name) => conditions.insert(0, quote(name)),
            None => {}
        }
        write!(f, "{{{}}}", conditions.join(","))
    }
}

fn matcher(matcher: &Matcher) -> String {
    let op = match matcher.op() {
        MatchOp::Equal => "=",
        MatchOp::NotEqual => "!=",
        MatchOp::Regex => "=~",
        MatchOp::NotRegex => "!~",
    };
    let name = if is_plain_label(matcher.name()) { matcher.name().to_owned() } else { quote(matcher.name()) };
    format!("{name}{op}{}", quote(matcher.value()))
}

impl Display for Duration {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Millis(ms) => f.write_str(&format_duration(*ms)),
            Self::Computed(expr) => expr.fmt(f),
        }
    }
}

impl DurationExpr {
    /// Binding power; that of an operand is the highest.
    fn power(&self) -> u8 {
        match self {
            Self::Binary(BinaryOp::Add | BinaryOp::Sub, ..) => 1,
            Self::Binary(BinaryOp::Pow, ..) => 4,
            Self::Binary(..) => 2,
            Self::Neg(_) => 3,
            Self::Seconds(s) if s.is_sign_negative() => 3,
            _ => 5,
        }
    }
}

/// Puts parentheses around whatever binds weaker than `power`.
fn bound(f: &mut Formatter<'_>, expr: &DurationExpr, power: u8) -> fmt::Result {
    if expr.power() < power { write!(f, "({expr})") } else { expr.fmt(f) }
}

struct Operand<'a>(&'a DurationExpr);

impl Display for Operand<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        bound(f, self.0, 5)
    }
}

impl Display for DurationExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seconds(s) => f.write_str(&float(*s)),
            Self::Step => f.write_str("step()"),
            Self::Range => f.write_str("range()"),
            Self::Neg(x) => {
                f.write_str("-")?;
                bound(f, x, 3)
            }
            Self::Min(x, y) => write!(f, "min_of({x}, {y})"),
            Self::Max(x, y) => write!(f, "max_of({x}, {y})"),
            Self::Binary(op, x, y) => {
                // A sign in front of a right operand reaches as far as a power does, so it needs no parentheses.
                let (left, right) = if *op == BinaryOp::Pow { (5, 3) } else { (self.power(), self.power() + 1) };
                bound(f, x, left)?;
                write!(f, " {} ", operator(*op))?;
                bound(f, y, right)
            }
        }
    }
}

/// Longest line of the pretty form, in characters.
const MAX_LINE: usize = 100;

/// The expression over several lines where one would be too long, as `format_query` gives it.
pub fn pretty(expr: &Expr) -> String {
    let mut out = String::new();
    push_pretty(&mut out, expr, 0);
    out
}

fn push_pretty(out: &mut String, expr: &Expr, level: usize) {
    let indent = "  ".repeat(level);
    let line = expr.to_string();
    let fits = line.len() <= MAX_LINE;
    match &expr.kind {
        ExprKind::Paren(inner) if !fits => {
            out.push_str(&indent);
            out.push_str("(\n");
            push_pretty(out, inner, level + 1);
            out.push_str(&format!("\n{indent})"));
        }
        ExprKind::Binary(b) if !fits => {
            push_pretty(out, &b.lhs, level + 1);
            out.push_str(&format!("\n{indent}{}\n", Operation(b)));
            push_pretty(out, &b.rhs, level + 1);
        }
        ExprKind::Aggregate(a) if !fits => {
            out.push_str(&format!("{indent}{}(\n", Aggregation(a)));
            if let Some(param) = &a.param {
                push_pretty(out, param, level + 1);
                out.push_str(",\n");
            }
            push_pretty(out, &a.expr, level + 1);
            out.push_str(&format!("\n{indent})"));
        }
        ExprKind::Call { function, args } if !fits => {
            out.push_str(&format!("{indent}{}(\n", function.name));
            for (i, arg) in args.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ",\n" });
                push_pretty(out, arg, level + 1);
            }
            out.push_str(&format!("\n{indent})"));
        }
        ExprKind::Subquery(subquery) if !fits => {
            push_pretty(out, &subquery.expr, level);
            out.push_str(&line[subquery.expr.to_string().len()..]);
        }
        ExprKind::Unary { negate, expr } => {
            let mut inner = String::new();
            push_pretty(&mut inner, expr, level);
            let inner = inner.trim();
            let inner = if inner.starts_with("+Inf") { &inner[1..] } else { inner };
            out.push_str(&format!("{indent}{}{inner}", sign(*negate)));
        }
        _ => {
            out.push_str(&indent);
            out.push_str(&line);
        }
    }
}
