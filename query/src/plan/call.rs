//! Function calls other than those of range vectors.

use super::aggregate::{param_of, with_sides};
use super::range_call::range_function;
use super::{Cx, Names, Planned, Planner, Scalar, Vector};
use crate::exec::absent::Absent;
use crate::exec::histogram_ops::Summary;
use crate::exec::histogram_quantile::{HistogramFraction, HistogramQuantiles, LabelledQuantile};
use crate::exec::label_functions::{LabelJoin, LabelReplace};
use crate::exec::labels::METADATA_LABELS;
use crate::exec::map::{Map, MapFn};
use crate::exec::operator::OperatorExec;
use crate::exec::scalar::ScalarOf;
use crate::exec::scan::ScanFunction;
use crate::exec::sort::{Sort, SortBy};
use crate::kernel::calendar::CalendarFn;
use crate::kernel::math::MathFn;
use crate::promql::ast::{Expr, ExprKind, Span, VectorSelector};
use crate::promql::functions::Function;
use crate::result::{Error, Grid, Result};

impl Planner {
    pub(super) fn call(&self, function: &'static Function, args: &[Expr], span: Span, cx: Cx<'_>) -> Result<Planned> {
        let name = function.name;
        if let Some(scalar) = self.scalar_call(name, args, cx.grid)? {
            return Ok(Planned::Scalar(scalar));
        }
        if name == "absent" || name == "absent_over_time" {
            return self.absent(name, args, cx).map(Planned::Vector);
        }
        if let Some(range) = range_function(name) {
            return self.range_call(name, range, args, cx).map(Planned::Vector);
        }
        if let Some(map) = map_function(name) {
            return self.map_call(map, args, cx).map(Planned::Vector);
        }
        let vector = match name {
            "vector" => self.vector_of(&self.scalar(&args[0], cx.grid)?, cx.grid)?,
            "timestamp" => self.timestamp(&args[0], cx)?,
            "label_replace" | "label_join" => self.label_call(name, args, cx)?,
            "sort" | "sort_desc" | "sort_by_label" | "sort_by_label_desc" => self.sort(name, args, span, cx)?,
            "histogram_quantile" | "histogram_quantiles" | "histogram_fraction" => self.histogram_call(name, args, cx)?,
            "info" => self.info(args, span, cx)?,
            _ => return Err(Error::BadData(format!("function {name} is not supported"))),
        };
        Ok(Planned::Vector(vector))
    }

    fn scalar_call(&self, name: &str, args: &[Expr], grid: Grid) -> Result<Option<Scalar>> {
        let settings = &self.settings;
        let seconds = |ms: i64| ms as f64 / 1000.0;
        let known = match name {
            "pi" => vec![std::f64::consts::PI],
            "time" => (0..grid.len).map(|i| seconds(grid.at(i))).collect(),
            "start" => vec![seconds(settings.grid.start_ms)],
            "end" => vec![seconds(settings.grid.end_ms())],
            "range" => vec![seconds(settings.grid.end_ms() - settings.grid.start_ms)],
            "step" => vec![settings.step_seconds()],
            "scalar" => {
                let vector = self.vector(&args[0], Cx::plain(grid, false))?;
                return Ok(Some(Scalar::Computed(OperatorExec::new(ScalarOf { steps: grid.len }, vec![vector.plan]))));
            }
            "min_of" | "max_of" => {
                let function = if name == "min_of" { MapFn::MinOf } else { MapFn::MaxOf };
                let (lhs, rhs) = (self.scalar(&args[0], grid)?, self.scalar(&args[1], grid)?);
                return self.scalar_map(function, lhs, rhs, grid).map(Some);
            }
            _ => return Ok(None),
        };
        Ok(Some(Scalar::Known(known)))
    }

    /// A function of two scalars.
    pub(super) fn scalar_map(&self, function: MapFn, lhs: Scalar, rhs: Scalar, grid: Grid) -> Result<Scalar> {
        if let (Scalar::Known(a), Scalar::Known(b)) = (&lhs, &rhs) {
            let mut values = if a.len() == 1 { vec![a[0]; b.len()] } else { a.clone() };
            let row = Grid { len: values.len(), ..grid };
            crate::exec::map::apply(function, std::slice::from_ref(b), &row, &mut values, &mut Vec::new());
            return Ok(Scalar::Known(values));
        }
        let mut sides = Vec::new();
        let lhs = lhs.plan(grid.len)?;
        let param = param_of(rhs, &mut sides);
        Ok(Scalar::Computed(OperatorExec::new(Map::with_params(function, vec![param], grid), with_sides(lhs, sides))))
    }

    /// A function of the values of a vector and of scalars.
    pub(super) fn map_call(&self, function: MapFn, args: &[Expr], cx: Cx<'_>) -> Result<Vector> {
        let Some((input, scalars)) = args.split_first() else {
            // year() and its kin without an argument are of the time of evaluation.
            let now = Scalar::Known((0..cx.grid.len).map(|i| cx.grid.at(i) as f64 / 1000.0).collect());
            let vector = self.vector_of(&now, cx.grid)?;
            return Ok(Vector { plan: OperatorExec::new(Map::new(function, cx.grid), vec![vector.plan]), ..vector });
        };
        let mut params = Vec::new();
        let mut sides = Vec::new();
        for scalar in scalars {
            params.push(param_of(self.scalar(scalar, cx.grid)?, &mut sides));
        }
        if function == MapFn::Round && params.is_empty() {
            params.push(crate::exec::scan::Param::Known(vec![1.0]));
        }
        let counted = matches!(function, MapFn::Summary(Summary::Count | Summary::Sum | Summary::Avg));
        let vector = self.vector(input, Cx { detect_resets: cx.detect_resets || counted, ..cx })?;
        let plan = OperatorExec::new(Map::with_params(function, params, cx.grid), with_sides(vector.plan, sides));
        Ok(self.remove_names(Vector { plan, ..vector }, cx))
    }

    fn timestamp(&self, arg: &Expr, cx: Cx<'_>) -> Result<Vector> {
        let inner = arg.unparenthesized();
        if let ExprKind::Vector(selector) = &inner.kind {
            if cx.grid.len > 1 && selector.at.is_some() {
                // The newest sample is the same one at all steps.
                let once = self.selector(
                    inner.span,
                    selector,
                    ScanFunction::Timestamp,
                    Vec::new(),
                    Cx { grid: Grid::instant(cx.grid.start_ms), ..cx },
                )?;
                let plan = OperatorExec::new(crate::exec::subquery::StepBroadcast { steps: cx.grid.len }, vec![once.plan]);
                return Ok(Vector { plan, ..once });
            }
            return self.selector(inner.span, selector, ScanFunction::Timestamp, Vec::new(), cx);
        }
        self.map_call(MapFn::Timestamp, std::slice::from_ref(arg), cx)
    }

    fn absent(&self, name: &'static str, args: &[Expr], cx: Cx<'_>) -> Result<Vector> {
        let arg = args[0].unparenthesized();
        let (vector, selector) = if name == "absent" {
            let selector = if let ExprKind::Vector(selector) = &arg.kind { Some(selector) } else { None };
            (self.vector(arg, Cx::plain(cx.grid, false))?, selector)
        } else {
            let selector = if let ExprKind::Matrix { selector, .. } = &arg.kind { Some(selector) } else { None };
            (self.range_call(name, crate::kernel::RangeFn::PresentOverTime, args, Cx::plain(cx.grid, false))?, selector)
        };
        let labels = selector.map_or_else(|| Ok(isobar_block::Labels::empty()), absent_labels)?;
        let plan = OperatorExec::new(Absent { labels, steps: cx.grid.len }, vec![vector.plan]);
        Ok(Vector { plan, names: Names::Kept, reduced: false, rows: 1, groups: 1, unique: true, origin: None })
    }

    fn label_call(&self, name: &str, args: &[Expr], cx: Cx<'_>) -> Result<Vector> {
        let vector = self.vector(&args[0], Cx::plain(cx.grid, true))?;
        let steps = cx.grid.len;
        let destination = self.text(&args[1])?;
        let sets_name = destination == METADATA_LABELS[0];
        let pending = vector.names == Names::Pending;
        if name == "label_join" {
            let separator = self.text(&args[2])?;
            let sources = args[3..].iter().map(|arg| self.text(arg)).collect::<Result<Vec<_>>>()?;
            let names = if sets_name { Names::Kept } else { vector.names };
            let plan = OperatorExec::new(LabelJoin::new(destination, separator, sources, steps)?, vec![vector.plan]);
            return Ok(Vector { plan, names, reduced: false, unique: true, origin: None, ..vector });
        }
        let (replacement, source, pattern) = (self.text(&args[2])?, self.text(&args[3])?, self.text(&args[4])?);
        // Rows that get a new name keep it; the others are marked, if their name was to be removed.
        let names = if sets_name && pending { Names::Marked } else { vector.names };
        let operator = LabelReplace::new(destination, replacement, source, &pattern, sets_name && pending, steps)?;
        Ok(Vector { plan: OperatorExec::new(operator, vec![vector.plan]), names, reduced: false, unique: true, origin: None, ..vector })
    }

    fn sort(&self, name: &str, args: &[Expr], span: Span, cx: Cx<'_>) -> Result<Vector> {
        let vector = self.vector(&args[0], Cx::plain(cx.grid, cx.names))?;
        let vector = Vector { reduced: false, ..vector };
        if !self.settings.instant {
            self.query.warn(span, "sort is ineffective for range queries since results are always ordered by labels");
            return Ok(vector);
        }
        if cx.grid.len > 1 {
            return Ok(vector);
        }
        let by = match name {
            "sort" | "sort_desc" => SortBy::Value,
            _ => SortBy::Labels(args[1..].iter().map(|arg| self.text(arg)).collect::<Result<_>>()?),
        };
        let plan = OperatorExec::new(Sort { by, descending: name.ends_with("_desc") }, vec![vector.plan]);
        Ok(Vector { plan, ..vector })
    }

    fn histogram_call(&self, name: &str, args: &[Expr], cx: Cx<'_>) -> Result<Vector> {
        let at = if name == "histogram_quantiles" { 0 } else { args.len() - 1 };
        let vector = self.vector(&args[at], Cx::plain(cx.grid, true))?;
        let (steps, span) = (cx.grid.len, args[at].span);
        let mut sides = Vec::new();
        let mut param = |arg: &Expr| -> Result<_> { Ok((param_of(self.scalar(arg, cx.grid)?, &mut sides), arg.span)) };
        let plan = match name {
            "histogram_fraction" => {
                let params = vec![param(&args[0])?.0, param(&args[1])?.0];
                OperatorExec::new(HistogramFraction { params, steps, span }, with_sides(vector.plan, sides))
            }
            "histogram_quantile" => {
                let quantiles = vec![param(&args[0])?];
                OperatorExec::new(HistogramQuantiles { label: None, quantiles, steps, span }, with_sides(vector.plan, sides))
            }
            _ => {
                let label = self.text(&args[1])?;
                let quantiles = args[2..].iter().map(&mut param).collect::<Result<Vec<LabelledQuantile>>>()?;
                OperatorExec::new(HistogramQuantiles { label: Some(label), quantiles, steps, span }, with_sides(vector.plan, sides))
            }
        };
        let vector = Vector { plan, reduced: false, unique: true, origin: None, ..vector };
        Ok(self.remove_names(vector, cx))
    }
}

/// Labels of the result of `absent()`: those that equality matchers fix, except where a label is matched again later.
fn absent_labels(selector: &VectorSelector) -> Result<isobar_block::Labels> {
    let mut fixed: Vec<(&str, &str)> = Vec::new();
    let mut seen = Vec::new();
    for matcher in selector.matchers.iter().filter(|m| m.name() != METADATA_LABELS[0]) {
        fixed.retain(|(name, _)| *name != matcher.name());
        if matcher.op() == isobar_block::MatchOp::Equal && !seen.contains(&matcher.name()) {
            seen.push(matcher.name());
            fixed.push((matcher.name(), matcher.value()));
        }
    }
    Ok(isobar_block::Labels::from_pairs(fixed)?)
}

fn map_function(name: &str) -> Option<MapFn> {
    Some(match name {
        "abs" => MapFn::Math(MathFn::Abs),
        "ceil" => MapFn::Math(MathFn::Ceil),
        "floor" => MapFn::Math(MathFn::Floor),
        "exp" => MapFn::Math(MathFn::Exp),
        "ln" => MapFn::Math(MathFn::Ln),
        "log2" => MapFn::Math(MathFn::Log2),
        "log10" => MapFn::Math(MathFn::Log10),
        "sqrt" => MapFn::Math(MathFn::Sqrt),
        "sgn" => MapFn::Math(MathFn::Sgn),
        "deg" => MapFn::Math(MathFn::Deg),
        "rad" => MapFn::Math(MathFn::Rad),
        "acos" => MapFn::Math(MathFn::Acos),
        "acosh" => MapFn::Math(MathFn::Acosh),
        "asin" => MapFn::Math(MathFn::Asin),
        "asinh" => MapFn::Math(MathFn::Asinh),
        "atan" => MapFn::Math(MathFn::Atan),
        "atanh" => MapFn::Math(MathFn::Atanh),
        "cos" => MapFn::Math(MathFn::Cos),
        "cosh" => MapFn::Math(MathFn::Cosh),
        "sin" => MapFn::Math(MathFn::Sin),
        "sinh" => MapFn::Math(MathFn::Sinh),
        "tan" => MapFn::Math(MathFn::Tan),
        "tanh" => MapFn::Math(MathFn::Tanh),
        "round" => MapFn::Round,
        "clamp" => MapFn::Clamp,
        "clamp_min" => MapFn::ClampMin,
        "clamp_max" => MapFn::ClampMax,
        "minute" => MapFn::Calendar(CalendarFn::Minute),
        "hour" => MapFn::Calendar(CalendarFn::Hour),
        "day_of_week" => MapFn::Calendar(CalendarFn::DayOfWeek),
        "day_of_month" => MapFn::Calendar(CalendarFn::DayOfMonth),
        "day_of_year" => MapFn::Calendar(CalendarFn::DayOfYear),
        "days_in_month" => MapFn::Calendar(CalendarFn::DaysInMonth),
        "month" => MapFn::Calendar(CalendarFn::Month),
        "year" => MapFn::Calendar(CalendarFn::Year),
        "histogram_avg" => MapFn::Summary(Summary::Avg),
        "histogram_count" => MapFn::Summary(Summary::Count),
        "histogram_sum" => MapFn::Summary(Summary::Sum),
        "histogram_stddev" => MapFn::Summary(Summary::Stddev),
        "histogram_stdvar" => MapFn::Summary(Summary::Stdvar),
        // Start timestamps are not stored.
        "start_timestamp" => MapFn::Nothing,
        _ => return None,
    })
}
