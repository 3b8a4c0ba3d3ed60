//! Range vectors as the value of an instant query: raw samples, which no operator of the plan touches.

use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use isobar_block::TimeRange;

use super::{Cx, Names, Planner, Selection, durations};
use crate::promql::ast::{Expr, ExprKind};
use crate::result::{Error, Grid, Result};

/// What a range vector is read from.
pub enum RawPlan {
    /// The samples of a selector in a range.
    Samples {
        /// The series.
        selection: Arc<Selection>,
        /// When.
        range: TimeRange,
    },
    /// The values of a subquery.
    Subquery {
        /// The inner plan.
        plan: Arc<dyn ExecutionPlan>,
        /// What is to be done with names.
        names: Names,
        /// When it is evaluated.
        grid: Grid,
    },
    /// Nothing.
    Empty,
}

impl RawPlan {
    /// For EXPLAIN.
    pub fn describe(&self) -> String {
        match self {
            Self::Samples { selection, range } => {
                format!(
                    "RawSamples: matchers={:?}, range={}..={}ms, series={}, sets={}, {}\n",
                    selection.matchers,
                    range.start_ms(),
                    range.end_ms(),
                    selection.series(),
                    selection.sets.len(),
                    selection.describe_resolution()
                )
            }
            Self::Subquery { plan, grid, .. } => format!(
                "RawSubquery: step={}ms, steps={}\n{}",
                grid.step_ms,
                grid.len,
                DisplayableExecutionPlan::new(plan.as_ref()).indent(false)
            ),
            Self::Empty => "RawSubquery: steps=0\n".into(),
        }
    }
}

impl Planner {
    pub(super) fn raw(&self, expr: &Expr) -> Result<RawPlan> {
        let at = self.settings.grid;
        match &expr.kind {
            ExprKind::Matrix { selector, range } => {
                let range_ms = durations::positive_millis(range, &self.settings)?;
                let end_ms = durations::shifted(at, selector.at, selector.offset.as_ref(), &self.settings)?.start_ms;
                let selection = self.selection(expr.span)?;
                let range = TimeRange::new(end_ms.saturating_sub(range_ms).saturating_add(1), end_ms)?;
                Ok(RawPlan::Samples { selection, range })
            }
            ExprKind::Subquery(subquery) => match durations::subquery_grid(subquery, at, &self.settings)? {
                None => Ok(RawPlan::Empty),
                Some(grid) => {
                    let vector = self.vector_or_scalar(&subquery.expr, Cx::plain(grid, false))?;
                    Ok(RawPlan::Subquery { plan: vector.plan, names: vector.names, grid })
                }
            },
            _ => Err(Error::Internal("not a range vector".into())),
        }
    }
}
