//! Subqueries: a range function over the values that an inner plan has on its own grid. And the spreading of what is evaluated
//! once over all steps.

use std::fmt;
use std::sync::Arc;

use super::cells::{Cell, leave_out_histograms};
use super::chunk::{self, ABSENT, Chunk, ChunkBuilder};
use super::context::QueryContext;
use super::operator::{MapWorker, Operator, Worker};
use super::range_histograms::{self, Mixed};
use super::scalar::side_params;
use super::scan::{Param, RangeCall, note_counter_name, warn_quantiles};
use crate::kernel::{self, Params, RangeFn, Scratch, WindowPlan, WindowSpec};
use crate::result::{Grid, Result};

/// Applies a range function to rows of an inner grid.
#[derive(Debug)]
pub struct SubqueryRange {
    /// The function; scalar arguments that are not known are the inputs after the first.
    pub call: RangeCall,
    /// When the inner plan is evaluated.
    pub inner: Grid,
    /// When windows end, and how wide they are.
    pub windows: WindowSpec,
    /// When the call is evaluated.
    pub eval: Grid,
}

impl Operator for SubqueryRange {
    fn name(&self) -> &'static str {
        "SubqueryRangeExec"
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "fn={}[{}ms:{}ms], inner steps={}, steps={}",
            self.call.name, self.call.range_ms, self.inner.step_ms, self.inner.len, self.eval.len
        )
    }

    fn steps(&self) -> usize {
        self.eval.len
    }

    fn parallel(&self) -> bool {
        true
    }

    fn start(&self, sides: Arc<Vec<Chunk>>, query: &Arc<QueryContext>) -> Result<Box<dyn Worker>> {
        let known: Vec<Param> = self.call.params.iter().map(|(param, _)| param.clone()).collect();
        let mut params = side_params(&known, &sides).into_iter();
        let times: Vec<i64> = (0..self.inner.len).map(|i| self.inner.at(i)).collect();
        let plan = WindowPlan::new(&times, &self.windows);
        Ok(Box::new(SubqueryWorker {
            first: params.next().unwrap_or_default(),
            second: params.next().unwrap_or_default(),
            call: self.call.clone(),
            eval: self.eval,
            times,
            plan,
            scratch: Scratch::default(),
            query: Arc::clone(query),
        }))
    }
}

struct SubqueryWorker {
    call: RangeCall,
    eval: Grid,
    first: Vec<f64>,
    second: Vec<f64>,
    times: Vec<i64>,
    plan: WindowPlan,
    scratch: Scratch,
    query: Arc<QueryContext>,
}

impl Worker for SubqueryWorker {
    fn push(&mut self, input: Chunk) -> Result<Option<Chunk>> {
        let params = Params { first: &self.first, second: &self.second, eval: self.eval };
        let mut out = ChunkBuilder::new(self.eval.len, input.len());
        let mut masked = Vec::new();
        for row in 0..input.len() {
            self.query.check_canceled()?;
            let start = out.values.len();
            out.values.resize(start + self.eval.len, ABSENT);
            // Absent values are skipped by the kernel, so that all rows share the timestamps of the grid.
            let labels = input.labels(row);
            let histograms: Vec<_> = input.cells(row).iter().map(|c| (c.step, Arc::clone(&c.histogram))).collect();
            masked.clear();
            masked.extend_from_slice(input.row(row));
            leave_out_histograms(&mut masked);
            kernel::range(self.call.function, &params, &self.times, &masked, &self.plan, &mut self.scratch, &mut out.values[start..]);
            if !histograms.is_empty() {
                let mixed = Mixed { timestamps: &self.times, values: &masked, histograms: &histograms, metric: labels.metric_name() };
                let cells = range_histograms::evaluate(&self.call, &self.plan, &mixed, &self.query, &mut out.values[start..]);
                out.add_cells(&cells, |_| true);
            }
            if !chunk::any_present(&out.values[start..]) {
                out.discard_row();
                continue;
            }
            out.push_labels(labels);
            match self.call.function {
                RangeFn::Rate | RangeFn::Increase if histograms.is_empty() => {
                    note_counter_name(&self.query, self.call.span, labels.metric_name())
                }
                RangeFn::QuantileOverTime => warn_quantiles(&self.query, self.call.params[0].1, &self.first),
                _ => {}
            }
        }
        Ok(Some(out.finish()))
    }
}

/// Repeats the one value of each row for all steps.
#[derive(Debug)]
pub struct StepBroadcast {
    /// Number of steps.
    pub steps: usize,
}

impl Operator for StepBroadcast {
    fn name(&self) -> &'static str {
        "StepBroadcastExec"
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1 -> {}", self.steps)
    }

    fn steps(&self) -> usize {
        self.steps
    }

    fn parallel(&self) -> bool {
        true
    }

    fn start(&self, _: Arc<Vec<Chunk>>, _: &Arc<QueryContext>) -> Result<Box<dyn Worker>> {
        let steps = self.steps;
        Ok(Box::new(MapWorker(move |chunk: Chunk| {
            let values = chunk.values.iter().flat_map(|v| std::iter::repeat_n(*v, steps)).collect::<Vec<f64>>().into();
            let at_all_steps = |cell: &Cell| (0..steps as u32).map(|step| Cell { step, ..cell.clone() }).collect::<Vec<_>>();
            let cells = chunk.cells.iter().flat_map(at_all_steps).collect();
            Ok(Chunk { steps, labels: chunk.labels, values, cells })
        })))
    }
}
