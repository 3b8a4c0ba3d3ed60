//! Aggregations: which operator, grouped by what, in one phase or in two.

use std::sync::Arc;

use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateExprBuilder;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;

use super::{Cx, FEW_SERIES, Names, Planner, Scalar, Vector, relabel};
use crate::exec::aggregate::{Place, VectorAggregate};
use crate::exec::chunk::{HISTOGRAMS, LABELS, VALUES};
use crate::exec::labels::{DROP_MARK, LabelRule, UnifyMarks, is_metadata};
use crate::exec::operator::{OperatorExec, single_partition, steps_of};
use crate::exec::scan::Param;
use crate::exec::{count_values, limit_ratio, quantile, topk};
use crate::promql::ast::{Aggregate, AggregateOp, Expr};
use crate::result::{Error, Result};

impl Planner {
    pub(super) fn aggregate(&self, aggregate: &Aggregate, cx: Cx<'_>) -> Result<Vector> {
        let rule = if aggregate.without { LabelRule::without(&aggregate.labels) } else { LabelRule::by(&aggregate.labels) };
        match aggregate.op {
            AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk | AggregateOp::LimitRatio => {
                self.select_rows(aggregate, rule, cx)
            }
            AggregateOp::Quantile => {
                let (param, plans) = self.aggregate_param(aggregate, cx)?;
                let input = self.grouped_input(aggregate, &rule, cx)?;
                let span = param_expr(aggregate)?.span;
                let operator = quantile::Quantile { param, span, input_span: aggregate.expr.span, steps: cx.grid.len };
                Ok(Vector {
                    plan: OperatorExec::new(operator, with_sides(input.plan, plans)),
                    rows: input.groups,
                    unique: true,
                    origin: None,
                    ..input
                })
            }
            AggregateOp::CountValues => {
                let label = self.text(param_expr(aggregate)?)?;
                if label.is_empty() {
                    return Err(Error::BadData(format!("invalid label name {label:?} in count_values")));
                }
                let input = self.grouped_input(aggregate, &rule, cx)?;
                let operator = count_values::CountValues { label, steps: cx.grid.len };
                Ok(Vector { plan: OperatorExec::new(operator, vec![input.plan]), unique: true, origin: None, ..input })
            }
            op => {
                let input = self.grouped_input(aggregate, &rule, cx)?;
                hash_aggregate(vector_aggregate(op)?, input, Place { query: Arc::clone(&self.query), span: aggregate.expr.span })
            }
        }
    }

    /// The input with labels reduced to the group's.
    fn grouped_input(&self, aggregate: &Aggregate, rule: &LabelRule, cx: Cx<'_>) -> Result<Vector> {
        // without() groups by type and unit even where they are to be removed.
        let names = aggregate.without || aggregate.labels.iter().any(|l| is_metadata(l));
        let input = self.vector(&aggregate.expr, Cx { grid: cx.grid, names, reduce: Some(rule), detect_resets: cx.detect_resets })?;
        if input.reduced {
            return Ok(Vector { reduced: false, ..input });
        }
        if input.names == Names::Marked && names {
            let steps = cx.grid.len;
            let unified = Vector { plan: OperatorExec::new(UnifyMarks { rule: rule.clone(), steps }, vec![input.plan]), ..input };
            let kept = if aggregate.without {
                LabelRule::dropping(&aggregate.labels, &["__name__"])
            } else {
                LabelRule::keeping(&aggregate.labels, &[DROP_MARK])
            };
            let plan = relabel(&unified, kept);
            return Ok(Vector { plan, ..unified });
        }
        let plan = relabel(&input, rule.clone());
        let groups = input
            .origin
            .as_ref()
            .filter(|_| input.rows > FEW_SERIES)
            .map_or(input.groups, |selection| selection.estimate_groups(|labels, out| rule.apply(labels, out)));
        let names = if input.names == Names::Pending && rule.keeps_names() { Names::Pending } else { Names::Kept };
        Ok(Vector { plan, names, groups, ..input })
    }

    fn select_rows(&self, aggregate: &Aggregate, rule: LabelRule, cx: Cx<'_>) -> Result<Vector> {
        let (param, plans) = self.aggregate_param(aggregate, cx)?;
        let input = self.vector(&aggregate.expr, Cx::plain(cx.grid, true))?;
        let span = param_expr(aggregate)?.span;
        let steps = cx.grid.len;
        let plan = match aggregate.op {
            AggregateOp::LimitRatio => OperatorExec::new(limit_ratio::LimitRatio { param, span, steps }, with_sides(input.plan, plans)),
            op => {
                let order = match op {
                    AggregateOp::Topk => topk::Order::Largest,
                    AggregateOp::Bottomk => topk::Order::Smallest,
                    _ => topk::Order::First,
                };
                let select = topk::TopK { order, param, rule, steps, span: aggregate.expr.span, partial: false };
                let several = input.plan.properties().output_partitioning().partition_count() > 1;
                let plan = if several {
                    OperatorExec::new(topk::TopK { partial: true, ..select.clone() }, with_sides(input.plan, plans.clone()))
                } else {
                    input.plan
                };
                OperatorExec::new(select, with_sides(plan, plans))
            }
        };
        Ok(Vector { plan, reduced: false, ..input })
    }

    fn aggregate_param(&self, aggregate: &Aggregate, cx: Cx<'_>) -> Result<(Param, Vec<Arc<dyn ExecutionPlan>>)> {
        let scalar = self.scalar(param_expr(aggregate)?, cx.grid)?;
        let mut plans = Vec::new();
        let param = param_of(scalar, &mut plans);
        Ok((param, plans))
    }
}

/// A scalar as a parameter of an operator; if it has to be computed, its plan is appended to the inputs.
pub(super) fn param_of(scalar: Scalar, inputs: &mut Vec<Arc<dyn ExecutionPlan>>) -> Param {
    match scalar {
        Scalar::Known(values) => Param::Known(values),
        Scalar::Computed(plan) => {
            inputs.push(plan);
            Param::Input
        }
    }
}

/// The main input followed by the side inputs.
pub(super) fn with_sides(main: Arc<dyn ExecutionPlan>, sides: Vec<Arc<dyn ExecutionPlan>>) -> Vec<Arc<dyn ExecutionPlan>> {
    std::iter::once(main).chain(sides).collect()
}

fn param_expr(aggregate: &Aggregate) -> Result<&Expr> {
    aggregate.param.as_ref().ok_or_else(|| Error::BadData(format!("{:?} needs a parameter", aggregate.op)))
}

fn vector_aggregate(op: AggregateOp) -> Result<VectorAggregate> {
    Ok(match op {
        AggregateOp::Sum => VectorAggregate::Sum,
        AggregateOp::Avg => VectorAggregate::Avg,
        AggregateOp::Min => VectorAggregate::Min,
        AggregateOp::Max => VectorAggregate::Max,
        AggregateOp::Count => VectorAggregate::Count,
        AggregateOp::Group => VectorAggregate::Group,
        AggregateOp::Stddev => VectorAggregate::Stddev,
        AggregateOp::Stdvar => VectorAggregate::Stdvar,
        other => return Err(Error::Internal(format!("{other:?} is not an aggregation of vectors"))),
    })
}

/// DataFusion's aggregation by the label column, which is never an empty list: `sum(x)` groups by the empty label set.
///
/// Few groups are aggregated in each partition first. If there is about one group for each row, that would only copy.
fn hash_aggregate(function: VectorAggregate, input: Vector, place: Place) -> Result<Vector> {
    let internal = |e: datafusion::error::DataFusionError| Error::Internal(e.to_string());
    let steps = steps_of(&*input.plan);
    let schema = input.plan.schema();
    let labels: Arc<dyn PhysicalExpr> = Arc::new(Column::new("labels", LABELS));
    let args: Vec<Arc<dyn PhysicalExpr>> = vec![Arc::new(Column::new("values", VALUES)), Arc::new(Column::new("histograms", HISTOGRAMS))];
    let group_by = PhysicalGroupBy::new_single(vec![(labels, "labels".into())]);
    let groups = input.groups.clamp(1, input.rows.max(1));
    let aggregate =
        AggregateExprBuilder::new(function.function(steps, groups, place), args).schema(Arc::clone(&schema)).alias(function.name()).build();
    let aggregates = vec![Arc::new(aggregate.map_err(internal)?)];
    let build = |mode, group_by: PhysicalGroupBy, plan| {
        AggregateExec::try_new(mode, group_by, aggregates.clone(), vec![None], plan, Arc::clone(&schema)).map_err(internal)
    };

    let partitions = input.plan.properties().output_partitioning().partition_count();
    let plan: Arc<dyn ExecutionPlan> = if partitions == 1 || groups * 2 > input.rows {
        Arc::new(build(AggregateMode::Single, group_by, single_partition(Arc::clone(&input.plan)))?)
    } else {
        let partial = build(AggregateMode::Partial, group_by.clone(), Arc::clone(&input.plan))?;
        let coalesced = Arc::new(CoalescePartitionsExec::new(Arc::new(partial)));
        Arc::new(build(AggregateMode::Final, group_by.as_final(), coalesced)?)
    };
    Ok(Vector { plan, rows: groups, groups, unique: true, origin: None, ..input })
}
