//! The syntax tree of PromQL. Every node carries the span of the text that it stands for, so that errors and annotations can
//! point at it.

use isobar_block::Matcher;

use super::functions::Function;

/// Bytes `start..end` of the query text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Where it stands.
    pub span: Span,
}

/// The kinds of expressions.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// `1.5`, `0x1f`, `Inf`, `5m`
    Number(f64),
    /// `"text"`
    String(String),
    /// `(expr)`
    Paren(Box<Expr>),
    /// `-expr`, `+expr`
    Unary {
        /// Whether the sign is a minus.
        negate: bool,
        /// The operand.
        expr: Box<Expr>,
    },
    /// `lhs op rhs`
    Binary(Box<Binary>),
    /// `sum by (a) (expr)`
    Aggregate(Box<Aggregate>),
    /// `rate(...)`
    Call {
        /// The function.
        function: &'static Function,
        /// Its arguments as written; optional ones may be missing.
        args: Vec<Expr>,
    },
    /// `name{a="b"} offset 5m @ 10`
    Vector(VectorSelector),
    /// `name{a="b"}[5m]`; offset and @ are those of the selector
    Matrix {
        /// What is selected.
        selector: VectorSelector,
        /// How far back, more than 0.
        range: Duration,
    },
    /// `expr[1h:1m] offset 5m @ 10`
    Subquery(Box<Subquery>),
}

/// A duration in milliseconds, or an arithmetic expression that is known once the query's range and step are.
#[derive(Clone, Debug, PartialEq)]
pub enum Duration {
    /// Known.
    Millis(i64),
    /// `5m + step()`
    Computed(Box<DurationExpr>),
}

/// Arithmetic on durations; values are seconds.
#[derive(Clone, Debug, PartialEq)]
pub enum DurationExpr {
    /// Seconds.
    Seconds(f64),
    /// `step()`: the step of the query, 0 for an instant query.
    Step,
    /// `range()`: end − start of the query.
    Range,
    /// `-x`
    Neg(Box<DurationExpr>),
    /// `x op y`; `op` is one of `+ - * / % ^`
    Binary(BinaryOp, Box<DurationExpr>, Box<DurationExpr>),
    /// `min_of(x, y)`
    Min(Box<DurationExpr>, Box<DurationExpr>),
    /// `max_of(x, y)`
    Max(Box<DurationExpr>, Box<DurationExpr>),
}

/// The `@` modifier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum At {
    /// `@ 1234.5`, Unix milliseconds.
    Millis(i64),
    /// `@ start()`
    Start,
    /// `@ end()`
    End,
}

/// How the borders of a range are treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RangeMode {
    /// Left-open window over the samples inside.
    #[default]
    Plain,
    /// `anchored`
    Anchored,
    /// `smoothed`
    Smoothed,
}

/// A selection of series.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorSelector {
    /// The metric name if it was written in front of or as the first thing inside the braces.
    pub name: Option<String>,
    /// All conditions, including the one for the name.
    pub matchers: Vec<Matcher>,
    /// How far back the selection is shifted; may be negative.
    pub offset: Option<Duration>,
    /// A fixed time of evaluation.
    pub at: Option<At>,
    /// `anchored` or `smoothed`.
    pub mode: RangeMode,
}

/// `expr[range:step]`
#[derive(Clone, Debug, PartialEq)]
pub struct Subquery {
    /// What is evaluated.
    pub expr: Expr,
    /// How far back.
    pub range: Duration,
    /// Distance of evaluations; the default step if absent.
    pub step: Option<Duration>,
    /// How far back the range is shifted; may be negative.
    pub offset: Option<Duration>,
    /// A fixed time of evaluation.
    pub at: Option<At>,
}

/// Operators between two expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the operators'")]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Atan2,
    Equal,
    NotEqual,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
    And,
    Or,
    Unless,
    /// `</`
    TrimUpper,
    /// `>/`
    TrimLower,
}

impl BinaryOp {
    /// Whether the operator compares.
    pub fn is_comparison(self) -> bool {
        matches!(self, Self::Equal | Self::NotEqual | Self::Greater | Self::GreaterEqual | Self::Less | Self::LessEqual)
    }

    /// Whether the operator is `and`, `or` or `unless`.
    pub fn is_set(self) -> bool {
        matches!(self, Self::And | Self::Or | Self::Unless)
    }
}

/// `lhs op rhs`
#[derive(Clone, Debug, PartialEq)]
pub struct Binary {
    /// The operator.
    pub op: BinaryOp,
    /// Left operand.
    pub lhs: Expr,
    /// Right operand.
    pub rhs: Expr,
    /// Whether `bool` was written.
    pub return_bool: bool,
    /// How the series of two vectors find each other; present whenever both sides are vectors.
    pub matching: Option<Matching>,
}

/// How many series of one side a series of the other may meet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cardinality {
    /// No group modifier.
    #[default]
    OneToOne,
    /// `group_left`
    ManyToOne,
    /// `group_right`
    OneToMany,
    /// Set operators.
    ManyToMany,
}

/// Vector matching.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matching {
    /// Which sides may have many.
    pub cardinality: Cardinality,
    /// Whether `labels` are those to match on (`on`) or those to leave out (`ignoring`, also when nothing was written).
    pub on: bool,
    /// Sorted, each once.
    pub labels: Vec<String>,
    /// Labels of the "one" side that `group_left` or `group_right` copies; as written.
    pub include: Vec<String>,
    /// Value for a missing left sample.
    pub fill_lhs: Option<f64>,
    /// Value for a missing right sample.
    pub fill_rhs: Option<f64>,
}

/// Aggregation operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the operators'")]
pub enum AggregateOp {
    Sum,
    Min,
    Max,
    Avg,
    Count,
    Group,
    Stddev,
    Stdvar,
    Topk,
    Bottomk,
    CountValues,
    Quantile,
    Limitk,
    LimitRatio,
}

/// `op by (labels) (param, expr)`
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    /// The operator.
    pub op: AggregateOp,
    /// The parameter of topk, quantile, count_values, ….
    pub param: Option<Expr>,
    /// What is aggregated.
    pub expr: Expr,
    /// Whether `labels` are those to drop (`without`).
    pub without: bool,
    /// Sorted, each once.
    pub labels: Vec<String>,
}

/// Type of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// A number for each step.
    Scalar,
    /// A text.
    String,
    /// Instant vector.
    Vector,
    /// Range vector.
    Matrix,
}

impl Expr {
    /// The type, known from the tree alone.
    pub fn value_type(&self) -> ValueType {
        match &self.kind {
            ExprKind::Number(_) => ValueType::Scalar,
            ExprKind::String(_) => ValueType::String,
            ExprKind::Paren(e) | ExprKind::Unary { expr: e, .. } => e.value_type(),
            ExprKind::Binary(b) => match (b.lhs.value_type(), b.rhs.value_type()) {
                (ValueType::Scalar, ValueType::Scalar) => ValueType::Scalar,
                _ => ValueType::Vector,
            },
            ExprKind::Aggregate(_) | ExprKind::Vector(_) => ValueType::Vector,
            ExprKind::Call { function, .. } => function.returns,
            ExprKind::Matrix { .. } | ExprKind::Subquery(_) => ValueType::Matrix,
        }
    }

    /// All selectors in the expression, from left to right.
    pub fn selectors(&self) -> Vec<&VectorSelector> {
        let mut out = Vec::new();
        let mut rest = vec![self];
        while let Some(expr) = rest.pop() {
            match &expr.kind {
                ExprKind::Number(_) | ExprKind::String(_) => {}
                ExprKind::Vector(selector) | ExprKind::Matrix { selector, .. } => out.push(selector),
                ExprKind::Paren(inner) | ExprKind::Unary { expr: inner, .. } => rest.push(inner),
                ExprKind::Binary(binary) => rest.extend([&binary.rhs, &binary.lhs]),
                ExprKind::Aggregate(aggregate) => {
                    rest.push(&aggregate.expr);
                    rest.extend(&aggregate.param);
                }
                ExprKind::Call { args, .. } => rest.extend(args.iter().rev()),
                ExprKind::Subquery(subquery) => rest.push(&subquery.expr),
            }
        }
        out
    }

    /// The expression without parentheses around it.
    pub fn unparenthesized(&self) -> &Self {
        match &self.kind {
            ExprKind::Paren(inner) => inner.unparenthesized(),
            _ => self,
        }
    }
}
