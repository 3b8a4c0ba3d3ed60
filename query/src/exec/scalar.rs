//! Scalars as rows: constants, and `scalar()`.

use std::fmt;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result as DfResult;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::ReplaceChildrenOptions;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

use super::cells::is_histogram;
use super::chunk::{self, Chunk};
use super::context::QueryContext;
use super::operator::{self, Operator, WholeWorker, Worker};
use super::scan::{Param, resolve};
use crate::result::{Error, Result};

/// Rows that are known when the query is planned.
#[derive(Debug)]
pub struct ValuesExec {
    batch: RecordBatch,
    properties: Arc<PlanProperties>,
}

impl ValuesExec {
    /// A plan that gives the rows of `chunk`.
    ///
    /// # Errors
    /// If the chunk is not well-formed.
    #[expect(clippy::new_ret_no_self, reason = "plans are built as trait objects")]
    pub fn new(chunk: Chunk) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = chunk::schema(chunk.steps);
        let properties = operator::properties(Arc::clone(&schema), 1);
        let batch = chunk.into_batch(schema).map_err(|e| Error::Internal(e.to_string()))?;
        Ok(Arc::new(Self { batch, properties }))
    }
}

impl DisplayAs for ValuesExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ValuesExec: rows={}", self.batch.num_rows())
    }
}

impl ExecutionPlan for ValuesExec {
    fn name(&self) -> &str {
        "ValuesExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(&self, _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>) -> DfResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>, _: ReplaceChildrenOptions) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let batch = self.batch.clone();
        Ok(Box::pin(RecordBatchStreamAdapter::new(batch.schema(), futures::stream::once(async move { Ok(batch) }))))
    }
}

/// `scalar(v)`: the value where a step has exactly one, else NaN.
#[derive(Debug)]
pub struct ScalarOf {
    /// Length of the vectors.
    pub steps: usize,
}

impl Operator for ScalarOf {
    fn name(&self) -> &'static str {
        "ScalarExec"
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("scalar")
    }

    fn steps(&self) -> usize {
        self.steps
    }

    fn start(&self, _: Arc<Vec<Chunk>>, query: &Arc<QueryContext>) -> Result<Box<dyn Worker>> {
        let steps = self.steps;
        let run = move |all: Chunk| {
            let mut counts = vec![0_u32; steps];
            let mut values = vec![f64::NAN; steps];
            for row in 0..all.len() {
                for (i, v) in all.row(row).iter().enumerate() {
                    if chunk::present(*v) && !is_histogram(*v) {
                        counts[i] += 1;
                        values[i] = if counts[i] == 1 { *v } else { f64::NAN };
                    }
                }
            }
            Ok(Chunk::single(isobar_block::LabelsRef::EMPTY, values))
        };
        Ok(Box::new(WholeWorker::new(self.steps, query, run)))
    }
}

/// Value of a scalar argument at a step: it has one value, or one for each step.
pub fn at_step(values: &[f64], step: usize) -> f64 {
    values.get(step).or(values.first()).copied().unwrap_or(f64::NAN)
}

/// The values of scalar arguments of an operator: those known, and the side inputs for the others.
pub fn side_params(params: &[Param], sides: &[Chunk]) -> Vec<Vec<f64>> {
    resolve(params.iter(), sides.iter().map(|side| side.values.to_vec()).collect())
}
