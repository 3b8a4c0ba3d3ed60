//! `absent` and `absent_over_time`: one row that is 1 where the input has no value at all.

use std::fmt;
use std::sync::Arc;

use isobar_block::Labels;

use super::chunk::{ABSENT, Chunk, present};
use super::context::QueryContext;
use super::operator::{Operator, Worker};
use crate::result::Result;

/// The operator.
#[derive(Debug)]
pub struct Absent {
    /// Labels of the result.
    pub labels: Labels,
    /// Length of the vectors.
    pub steps: usize,
}

impl Operator for Absent {
    fn name(&self) -> &'static str {
        "AbsentExec"
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "labels={}", self.labels)
    }

    fn steps(&self) -> usize {
        self.steps
    }

    fn start(&self, _: Arc<Vec<Chunk>>, _: &Arc<QueryContext>) -> Result<Box<dyn Worker>> {
        Ok(Box::new(AbsentWorker { labels: self.labels.clone(), values: vec![1.0; self.steps] }))
    }
}

struct AbsentWorker {
    labels: Labels,
    values: Vec<f64>,
}

impl Worker for AbsentWorker {
    fn push(&mut self, input: Chunk) -> Result<Option<Chunk>> {
        for row in 0..input.len() {
            for (out, v) in self.values.iter_mut().zip(input.row(row)) {
                *out = if present(*v) { ABSENT } else { *out };
            }
        }
        Ok(None)
    }

    fn finish(&mut self) -> Result<Option<Chunk>> {
        Ok(Some(Chunk::single(self.labels.as_ref(), std::mem::take(&mut self.values))))
    }
}
