//! Functions of range vectors: over a selector they are fused into the scan, over a subquery they are an operator on top of
//! the inner plan.

use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;

use super::aggregate::{param_of, with_sides};
use super::{Cx, Names, Planner, Vector, durations};
use crate::exec::chunk::Chunk;
use crate::exec::operator::OperatorExec;
use crate::exec::scalar::ValuesExec;
use crate::exec::scan::{RangeCall, ScanFunction};
use crate::exec::subquery::SubqueryRange;
use crate::exec::unique::JoinRows;
use crate::kernel::{RangeFn, WindowSpec};
use crate::promql::ast::{Expr, ExprKind, RangeMode, Subquery};
use crate::result::{Error, Result};

/// The kernel of a function of a range vector; `None` for functions of other things.
pub(super) fn range_function(name: &str) -> Option<RangeFn> {
    Some(match name {
        "rate" => RangeFn::Rate,
        "increase" => RangeFn::Increase,
        "delta" => RangeFn::Delta,
        "irate" => RangeFn::Irate,
        "idelta" => RangeFn::Idelta,
        "changes" => RangeFn::Changes,
        "resets" => RangeFn::Resets,
        "deriv" => RangeFn::Deriv,
        "predict_linear" => RangeFn::PredictLinear,
        "double_exponential_smoothing" => RangeFn::DoubleExponentialSmoothing,
        "avg_over_time" => RangeFn::AvgOverTime,
        "sum_over_time" => RangeFn::SumOverTime,
        "min_over_time" => RangeFn::MinOverTime,
        "max_over_time" => RangeFn::MaxOverTime,
        "count_over_time" => RangeFn::CountOverTime,
        "last_over_time" => RangeFn::LastOverTime,
        "first_over_time" => RangeFn::FirstOverTime,
        "present_over_time" | "absent_over_time" => RangeFn::PresentOverTime,
        "stddev_over_time" => RangeFn::StddevOverTime,
        "stdvar_over_time" => RangeFn::StdvarOverTime,
        "quantile_over_time" => RangeFn::QuantileOverTime,
        "mad_over_time" => RangeFn::MadOverTime,
        "ts_of_min_over_time" => RangeFn::TsOfMinOverTime,
        "ts_of_max_over_time" => RangeFn::TsOfMaxOverTime,
        "ts_of_last_over_time" => RangeFn::TsOfLastOverTime,
        "ts_of_first_over_time" => RangeFn::TsOfFirstOverTime,
        _ => return None,
    })
}

impl Planner {
    /// A call of a function whose arguments are one range vector and perhaps scalars, in any order.
    pub(super) fn range_call(&self, name: &'static str, function: RangeFn, args: &[Expr], cx: Cx<'_>) -> Result<Vector> {
        let is_range = |e: &&Expr| matches!(e.unparenthesized().kind, ExprKind::Matrix { .. } | ExprKind::Subquery(_));
        let range_arg = args.iter().find(is_range).ok_or_else(|| Error::BadData(format!("{name} needs a range vector")))?;
        let mut inputs = Vec::new();
        let mut params = Vec::new();
        for arg in args.iter().filter(|e| !is_range(e)) {
            params.push((param_of(self.scalar(arg, cx.grid)?, &mut inputs), arg.span));
        }
        let unwrapped = range_arg.unparenthesized();
        let call = |range_ms| RangeCall { function, name, range_ms, params, span: range_arg.span };
        match &unwrapped.kind {
            ExprKind::Matrix { selector, range } => {
                check_mode(name, function, selector.mode)?;
                let call = call(durations::positive_millis(range, &self.settings)?);
                self.selector(unwrapped.span, selector, ScanFunction::Range(call), inputs, cx)
            }
            ExprKind::Subquery(subquery) => {
                self.subquery_call(subquery, call(durations::positive_millis(&subquery.range, &self.settings)?), inputs, cx)
            }
            _ => Err(Error::BadData(format!("{name} needs a range vector"))),
        }
    }

    fn subquery_call(&self, subquery: &Subquery, call: RangeCall, inputs: Vec<Arc<dyn ExecutionPlan>>, cx: Cx<'_>) -> Result<Vector> {
        let Some(inner) = durations::subquery_grid(subquery, cx.grid, &self.settings)? else {
            let plan = ValuesExec::new(Chunk::empty(cx.grid.len))?;
            return Ok(Vector { plan, names: Names::Kept, reduced: false, rows: 0, groups: 0, unique: true, origin: None });
        };
        let mut vector = self.vector_or_scalar(&subquery.expr, Cx::plain(inner, true))?;
        if !vector.unique {
            // A window must see all pieces of a series.
            vector.plan = OperatorExec::new(JoinRows { steps: inner.len }, vec![vector.plan]);
            vector.unique = true;
        }
        let windows = WindowSpec {
            grid: durations::shifted(cx.grid, subquery.at, subquery.offset.as_ref(), &self.settings)?,
            range_ms: call.range_ms,
            lookback_ms: self.settings.lookback_ms,
            mode: RangeMode::Plain,
        };
        let removes = call.removes_names();
        let operator = SubqueryRange { call, inner, windows, eval: cx.grid };
        let vector = Vector { plan: OperatorExec::new(operator, with_sides(vector.plan, inputs)), reduced: false, ..vector };
        Ok(if removes { self.remove_names(vector, cx) } else { vector })
    }
}

fn check_mode(name: &str, function: RangeFn, mode: RangeMode) -> Result<()> {
    if function.allows(mode) {
        return Ok(());
    }
    let (word, allowed) = match mode {
        RangeMode::Anchored => ("anchored", "changes, delta, increase, rate, resets"),
        _ => ("smoothed", "delta, increase, rate"),
    };
    Err(Error::BadData(format!("{word} modifier can only be used with: {allowed} - not with {name}")))
}
