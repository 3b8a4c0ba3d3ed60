//! The planner: from the syntax tree and the resolved selectors to a tree of physical operators.
//!
//! Every expression is planned for a grid of evaluation times ([`Cx`]). What does not depend on the time is planned for one
//! evaluation and spread over the grid. Removal of the metric name is put off to the end, as Prometheus does with delayed
//! name removal: [`Names`] says what is still to be removed, and the scan removes it at once where nothing above looks at it.

mod aggregate;
mod binary;
mod call;
mod durations;
mod info;
mod invariant;
mod range_call;
mod raw;
mod resolution;
mod selectors;

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;

pub use raw::RawPlan;
pub use resolution::SourceResolution;
pub(crate) use resolution::coarser_than_raw;
pub use selectors::{Selected, Selection, select};

use crate::exec::chunk::Chunk;
use crate::exec::context::QueryContext;
use crate::exec::labels::LabelRule;
use crate::exec::operator::{OperatorExec, steps_of};
use crate::exec::scalar::ValuesExec;
use crate::exec::scan::{ScanFunction, ScanSpec, SeriesScanExec};
use crate::exec::{labels, map, subquery};
use crate::kernel::WindowSpec;
use crate::kernel::math::MathFn;
use crate::promql::ast::{Expr, ExprKind, Span, VectorSelector};
use crate::result::{Error, Grid, Result};

/// Below this many series it does not matter how many groups they make.
const FEW_SERIES: usize = 256;

/// What a query is planned for.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Times of evaluation.
    pub grid: Grid,
    /// Whether it is an instant query.
    pub instant: bool,
    /// How far back an instant selector looks.
    pub lookback_ms: i64,
    /// How coarse the data may be.
    pub resolution: SourceResolution,
    /// Step of subqueries that name none.
    pub default_subquery_step_ms: i64,
    /// Most partitions of a scan.
    pub threads: usize,
}

impl Settings {
    /// What `step()` gives: 0 for an instant query.
    fn step_seconds(&self) -> f64 {
        if self.instant { 0.0 } else { self.grid.step_ms as f64 / 1000.0 }
    }
}

/// A planned expression.
pub enum Planned {
    /// An instant vector for each step.
    Vector(Vector),
    /// A number for each step.
    Scalar(Scalar),
    /// A text.
    Text(String),
    /// Raw samples; only as the value of an instant query.
    Raw(RawPlan),
}

impl Planned {
    /// Number of values in the longest vectors that operators exchange; subqueries have other grids than the query.
    pub fn longest_vector(&self) -> usize {
        fn longest(plan: &Arc<dyn ExecutionPlan>) -> usize {
            plan.children().into_iter().map(longest).fold(steps_of(&**plan), usize::max)
        }
        match self {
            Self::Vector(Vector { plan, .. }) | Self::Scalar(Scalar::Computed(plan)) | Self::Raw(RawPlan::Subquery { plan, .. }) => {
                longest(plan)
            }
            Self::Scalar(Scalar::Known(_)) | Self::Text(_) | Self::Raw(_) => 1,
        }
    }
}

/// An instant vector for each step.
pub struct Vector {
    /// The operators.
    pub plan: Arc<dyn ExecutionPlan>,
    /// What is to be done with names in the end.
    pub names: Names,
    /// Whether the labels are reduced by [`Cx::reduce`] already.
    reduced: bool,
    /// About how many rows there are.
    rows: usize,
    /// About how many different label sets there are after reduction.
    groups: usize,
    /// Whether label sets are known to differ. Where they are not, rows that never have a value at the same step may be one
    /// series in pieces.
    unique: bool,
    /// The selection that has one series for each row, if there is one.
    origin: Option<Arc<Selection>>,
}

/// Whether the metric's name, type and unit are still to be removed from the labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Labels are as they should be.
    Kept,
    /// In all rows.
    Pending,
    /// In the rows that carry the marker [`labels::DROP_MARK`].
    Marked,
}

/// A number for each step.
pub enum Scalar {
    /// Known when the query is planned; one value, or one for each step.
    Known(Vec<f64>),
    /// One row of a plan.
    Computed(Arc<dyn ExecutionPlan>),
}

impl Scalar {
    /// The scalar as a plan with one row of `steps` values and no labels.
    ///
    /// # Errors
    /// If the row cannot be built.
    pub fn plan(&self, steps: usize) -> Result<Arc<dyn ExecutionPlan>> {
        match self {
            Self::Known(values) => {
                let values = if values.len() == steps { values.clone() } else { vec![values[0]; steps] };
                ValuesExec::new(Chunk::single(isobar_block::LabelsRef::EMPTY, values))
            }
            Self::Computed(plan) => Ok(Arc::clone(plan)),
        }
    }
}

/// What an expression is planned for.
#[derive(Clone, Copy)]
struct Cx<'a> {
    /// Times of evaluation.
    grid: Grid,
    /// Whether something above looks at names that are to be removed.
    names: bool,
    /// The labels that an aggregation directly above groups by.
    reduce: Option<&'a LabelRule>,
    /// Whether only count and sum of native histograms are asked for. As in Prometheus, resets of counters are then detected
    /// when the samples are read.
    detect_resets: bool,
}

impl Cx<'_> {
    fn plain(grid: Grid, names: bool) -> Cx<'static> {
        Cx { grid, names, reduce: None, detect_resets: false }
    }
}

struct Planner {
    settings: Settings,
    selections: HashMap<Span, Arc<Selection>>,
    query: Arc<QueryContext>,
}

impl Planner {
    fn root(&self) -> Result<Planned> {
        let query = Arc::clone(&self.query);
        let expr = query.expr().unparenthesized();
        match &expr.kind {
            ExprKind::Matrix { .. } | ExprKind::Subquery(_) => Ok(Planned::Raw(self.raw(expr)?)),
            _ => self.expr(expr, Cx::plain(self.settings.grid, false)),
        }
    }

    fn expr(&self, expr: &Expr, cx: Cx<'_>) -> Result<Planned> {
        let expr = expr.unparenthesized();
        if cx.grid.len > 1 && !matches!(expr.kind, ExprKind::Number(_) | ExprKind::String(_)) && invariant::is_invariant(expr) {
            let once = self.varying(expr, Cx { grid: Grid::instant(cx.grid.start_ms), ..cx })?;
            return Ok(match once {
                Planned::Vector(v) => {
                    Planned::Vector(Vector { plan: OperatorExec::new(subquery::StepBroadcast { steps: cx.grid.len }, vec![v.plan]), ..v })
                }
                Planned::Scalar(Scalar::Computed(plan)) => {
                    Planned::Scalar(Scalar::Computed(OperatorExec::new(subquery::StepBroadcast { steps: cx.grid.len }, vec![plan])))
                }
                other => other,
            });
        }
        self.varying(expr, cx)
    }

    fn varying(&self, expr: &Expr, cx: Cx<'_>) -> Result<Planned> {
        match &expr.kind {
            ExprKind::Number(n) => Ok(Planned::Scalar(Scalar::Known(vec![*n]))),
            ExprKind::String(s) => Ok(Planned::Text(s.clone())),
            ExprKind::Paren(inner) => self.expr(inner, cx),
            ExprKind::Unary { negate, expr } => self.unary(*negate, expr, cx),
            ExprKind::Binary(binary) => self.binary(binary, expr.span, cx),
            ExprKind::Aggregate(aggregate) => self.aggregate(aggregate, cx).map(Planned::Vector),
            ExprKind::Call { function, args } => self.call(function, args, expr.span, cx),
            ExprKind::Vector(selector) => self.selector(expr.span, selector, ScanFunction::Instant, Vec::new(), cx).map(Planned::Vector),
            ExprKind::Matrix { .. } | ExprKind::Subquery(_) => {
                Err(Error::BadData("a range vector can only be an argument of a function".into()))
            }
        }
    }

    fn vector(&self, expr: &Expr, cx: Cx<'_>) -> Result<Vector> {
        match self.expr(expr, cx)? {
            Planned::Vector(vector) => Ok(vector),
            _ => Err(Error::BadData(format!("expected an instant vector, got {:?}", expr.value_type()))),
        }
    }

    /// A vector; a scalar counts as one without labels, as it does inside of a subquery.
    fn vector_or_scalar(&self, expr: &Expr, cx: Cx<'_>) -> Result<Vector> {
        match self.expr(expr, cx)? {
            Planned::Vector(vector) => Ok(vector),
            Planned::Scalar(scalar) => self.vector_of(&scalar, cx.grid),
            _ => Err(Error::BadData(format!("subquery is only allowed on instant vector, got {:?}", expr.value_type()))),
        }
    }

    /// A vector with one element without labels.
    fn vector_of(&self, scalar: &Scalar, grid: Grid) -> Result<Vector> {
        Ok(Vector { plan: scalar.plan(grid.len)?, names: Names::Kept, reduced: false, rows: 1, groups: 1, unique: true, origin: None })
    }

    fn scalar(&self, expr: &Expr, grid: Grid) -> Result<Scalar> {
        match self.expr(expr, Cx::plain(grid, false))? {
            Planned::Scalar(scalar) => Ok(scalar),
            _ => Err(Error::BadData(format!("expected a scalar, got {:?}", expr.value_type()))),
        }
    }

    fn text(&self, expr: &Expr) -> Result<String> {
        match &expr.unparenthesized().kind {
            ExprKind::String(text) => Ok(text.clone()),
            _ => Err(Error::BadData("expected a string literal".into())),
        }
    }

    fn unary(&self, negate: bool, expr: &Expr, cx: Cx<'_>) -> Result<Planned> {
        match self.expr(expr, cx)? {
            unchanged if !negate => Ok(unchanged),
            Planned::Scalar(Scalar::Known(values)) => Ok(Planned::Scalar(Scalar::Known(values.into_iter().map(|v| -v).collect()))),
            Planned::Scalar(Scalar::Computed(plan)) => {
                Ok(Planned::Scalar(Scalar::Computed(OperatorExec::new(map::Map::new(map::MapFn::Math(MathFn::Neg), cx.grid), vec![plan]))))
            }
            Planned::Vector(vector) => {
                let vector =
                    Vector { plan: OperatorExec::new(map::Map::new(map::MapFn::Math(MathFn::Neg), cx.grid), vec![vector.plan]), ..vector };
                Ok(Planned::Vector(self.remove_names(vector, cx)))
            }
            _ => Err(Error::BadData("unary expression only allowed on expressions of type scalar or instant vector".into())),
        }
    }

    /// Marks the names of all rows for removal, or removes them at once where nothing above looks at them.
    fn remove_names(&self, vector: Vector, cx: Cx<'_>) -> Vector {
        if let Some(rule) = cx.reduce.filter(|_| vector.reduced) {
            let names = if rule.keeps_names() { Names::Pending } else { vector.names };
            return Vector { names, ..vector };
        }
        if cx.names {
            let plan = if vector.names == Names::Marked { relabel(&vector, LabelRule::without_mark()) } else { vector.plan };
            return Vector { plan, names: Names::Pending, reduced: false, ..vector };
        }
        if vector.names == Names::Pending {
            return vector;
        }
        let plan = relabel(&vector, LabelRule::without_names());
        Vector { plan, names: Names::Kept, reduced: false, unique: false, ..vector }
    }

    /// A scan of the selection at `span`; `inputs` are scalar arguments of the function that have to be computed.
    fn selector(
        &self,
        span: Span,
        selector: &VectorSelector,
        function: ScanFunction,
        inputs: Vec<Arc<dyn ExecutionPlan>>,
        cx: Cx<'_>,
    ) -> Result<Vector> {
        let selection = self.selection(span)?;
        let ends = durations::shifted(cx.grid, selector.at, selector.offset.as_ref(), &self.settings)?;
        let removes = function.removes_names();
        let (rule, names, reduced) = match (cx.reduce, removes) {
            // Grouping by the name needs to know whether it is to be removed, and without() keeps type and unit.
            (Some(rule), true) if rule.keeps_names() => (Some(rule.clone()), Names::Pending, true),
            (Some(rule), _) => (Some(rule.clone()), Names::Kept, true),
            (None, true) if !cx.names => (Some(LabelRule::without_names()), Names::Kept, false),
            (None, true) => (None, Names::Pending, false),
            (None, false) => (None, Names::Kept, false),
        };
        let rows = selection.series_at_least();
        let unique = rule.is_none();
        let groups = match &rule {
            Some(rule) if reduced && rows > FEW_SERIES => selection.estimate_groups(|labels, out| rule.apply(labels, out)),
            _ => rows,
        };
        let lookback_ms = self.lookback_ms(&selection);
        let range_ms = function.range_ms().unwrap_or(lookback_ms);
        let widened_ms = function.range_ms().and_then(|range_ms| self.widened_ms(&selection, range_ms));
        let spec = ScanSpec {
            selection: Arc::clone(&selection),
            windows: WindowSpec { grid: ends, range_ms, lookback_ms, mode: selector.mode },
            widened_ms,
            eval: cx.grid,
            function,
            rule,
            span,
            detect_resets: cx.detect_resets,
            partitions: self.partitions(rows, cx.grid.len),
        };
        Ok(Vector {
            plan: SeriesScanExec::with_inputs(Arc::new(spec), inputs),
            names,
            reduced,
            rows,
            groups,
            unique,
            origin: Some(selection),
        })
    }

    /// How far back an instant selector looks: the newest sample of a bucket may be a whole bucket older than that of a scrape.
    fn lookback_ms(&self, selection: &Selection) -> i64 {
        self.settings.lookback_ms.saturating_add(selection.resolution_ms())
    }

    /// The range that is used where the asked one has too few samples, if it is too short for the data that is left.
    fn widened_ms(&self, selection: &Selection, range_ms: i64) -> Option<i64> {
        let needed_ms = selection.resolution_ms().saturating_mul(resolution::BUCKETS_IN_RANGE);
        if !selection.is_too_coarse() || range_ms >= needed_ms {
            return None;
        }
        resolution::warn_widened(range_ms, needed_ms, &self.query);
        Some(needed_ms)
    }

    fn selection(&self, span: Span) -> Result<Arc<Selection>> {
        self.selections.get(&span).cloned().ok_or_else(|| Error::Internal(format!("the selector at {span:?} was not resolved")))
    }

    /// One partition for work that is done before a second thread has woken up, else one for each thread.
    fn partitions(&self, rows: usize, steps: usize) -> usize {
        const SERIES_COST_NS: usize = 1_000;
        const VALUE_COST_NS: usize = 8;
        const WORTH_A_THREAD_NS: usize = 150_000;
        let cost = rows * (SERIES_COST_NS + VALUE_COST_NS * steps);
        (cost / WORTH_A_THREAD_NS).clamp(1, self.settings.threads.max(1)).min(rows.max(1))
    }
}

/// The vector's rows with `rule` applied to their labels.
fn relabel(vector: &Vector, rule: LabelRule) -> Arc<dyn ExecutionPlan> {
    let steps = steps_of(&*vector.plan);
    OperatorExec::new(labels::Relabel { rule, steps }, vec![Arc::clone(&vector.plan)])
}
