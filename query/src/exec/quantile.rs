//! The aggregation `quantile`. It has no partial form: all values of a group are needed.

use std::fmt;
use std::sync::Arc;

use hashbrown::HashMap;

use super::annotate;
use super::chunk::{ABSENT, CANCEL_ROWS, Chunk, ChunkBuilder, present};
use super::context::QueryContext;
use super::operator::{Operator, WholeWorker, Worker};
use super::scalar::{at_step, side_params};
use super::scan::{Param, warn_quantiles};
use crate::kernel::quantile::quantile;
use crate::promql::ast::Span;
use crate::result::Result;

/// Quantiles of the rows of each label set.
#[derive(Debug)]
pub struct Quantile {
    /// Which quantile.
    pub param: Param,
    /// Where that stands.
    pub span: Span,
    /// Where the input stands.
    pub input_span: Span,
    /// Length of the vectors.
    pub steps: usize,
}

impl Operator for Quantile {
    fn name(&self) -> &'static str {
        "QuantileStepsExec"
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.param {
            Param::Known(values) if values.len() == 1 => write!(f, "q={}", values[0]),
            _ => f.write_str("q=<steps>"),
        }
    }

    fn steps(&self) -> usize {
        self.steps
    }

    fn start(&self, sides: Arc<Vec<Chunk>>, query: &Arc<QueryContext>) -> Result<Box<dyn Worker>> {
        let quantiles = side_params(std::slice::from_ref(&self.param), &sides).swap_remove(0);
        let (steps, span, query) = (self.steps, self.input_span, Arc::clone(query));
        let whole = Arc::clone(&query);
        warn_extremes(&query, self.span, &quantiles);
        let run = move |chunk: Chunk| {
            if !chunk.cells.is_empty() {
                annotate::ignored_in_aggregation(&query, span, "quantile");
            }
            let chunk = chunk.floats_only();
            let mut values = Vec::new();
            let mut out = ChunkBuilder::new(steps, 0);
            for rows in group_rows(&chunk, &query)? {
                query.check_canceled()?;
                let mut any = false;
                for step in 0..steps {
                    values.clear();
                    values.extend(rows.iter().map(|row| chunk.values[row * steps + step]).filter(|v| present(*v)));
                    any |= !values.is_empty();
                    let q = at_step(&quantiles, step);
                    out.values.push(if values.is_empty() { ABSENT } else { quantile(q, &mut values) });
                }
                if any {
                    out.push_labels(chunk.labels(rows[0]));
                } else {
                    out.discard_row();
                }
            }
            Ok(out.finish())
        };
        Ok(Box::new(WholeWorker::new(steps, &whole, run)))
    }
}

/// Warns of the worst of the quantiles, as Prometheus does: NaN, the largest, the smallest.
fn warn_extremes(query: &QueryContext, span: Span, quantiles: &[f64]) {
    let nan = quantiles.iter().copied().find(|q| q.is_nan());
    let largest = quantiles.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let smallest = quantiles.iter().copied().fold(f64::INFINITY, f64::min);
    let worst: Vec<f64> = nan.into_iter().chain((largest > 1.0).then_some(largest)).chain((smallest < 0.0).then_some(smallest)).collect();
    warn_quantiles(query, span, &worst);
}

/// The rows of each label set, in order of first appearance.
///
/// # Errors
/// If the query is canceled.
pub fn group_rows(chunk: &Chunk, query: &QueryContext) -> Result<Vec<Vec<usize>>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut index: HashMap<&[u8], usize> = HashMap::new();
    for row in 0..chunk.len() {
        if row.is_multiple_of(CANCEL_ROWS) {
            query.check_canceled()?;
        }
        let group = *index.entry(chunk.labels.value(row)).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(row);
    }
    Ok(groups)
}
