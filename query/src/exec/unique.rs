//! Rows with equal label sets: one series as long as they do not have a value at the same step.

use std::fmt;
use std::sync::Arc;

use hashbrown::HashMap;

use super::cells::Cell;
use super::chunk::{CANCEL_ROWS, Chunk, ChunkBuilder, present};
use super::context::QueryContext;
use super::operator::{Operator, WholeWorker, Worker};
use crate::result::{Error, Result};

/// What is done where two rows with equal labels have a value at the same step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// The query fails.
    Fail,
    /// The rows stay apart.
    Keep,
}

/// Joins rows with equal label sets, where no two have a value at the same step.
#[derive(Debug)]
pub struct JoinRows {
    /// Length of the vectors.
    pub steps: usize,
}

impl Operator for JoinRows {
    fn name(&self) -> &'static str {
        "JoinRowsExec"
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("equal labels")
    }

    fn steps(&self) -> usize {
        self.steps
    }

    fn start(&self, _: Arc<Vec<Chunk>>, query: &Arc<QueryContext>) -> Result<Box<dyn Worker>> {
        let context = Arc::clone(query);
        Ok(Box::new(WholeWorker::new(self.steps, query, move |chunk| join_rows(chunk, OnConflict::Keep, &context))))
    }
}

/// Joins rows with equal label sets; the first of them keeps its place.
///
/// # Errors
/// [`Error::Execution`] if two have a value at the same step and that is not allowed; [`Error::Canceled`].
pub fn join_rows(mut chunk: Chunk, on_conflict: OnConflict, query: &QueryContext) -> Result<Chunk> {
    let mut first_rows: HashMap<&[u8], usize> = HashMap::with_capacity(chunk.len());
    let mut repeats: Vec<(usize, usize)> = Vec::new();
    for row in 0..chunk.len() {
        if row.is_multiple_of(CANCEL_ROWS) {
            query.check_canceled()?;
        }
        let first = *first_rows.entry(chunk.labels.value(row)).or_insert(row);
        if first != row {
            repeats.push((row, first));
        }
    }
    drop(first_rows);
    if repeats.is_empty() {
        return Ok(chunk);
    }
    let steps = chunk.steps;
    let mut cells: Vec<Vec<Cell>> = (0..chunk.len()).map(|row| chunk.cells(row).to_vec()).collect();
    let mut joined = vec![false; chunk.len()];
    for (row, first) in repeats {
        query.check_canceled()?;
        let (head, tail) = chunk.values.split_at_mut(row * steps);
        let (target, from) = (&mut head[first * steps..][..steps], &tail[..steps]);
        if target.iter().zip(from).any(|(a, b)| present(*a) && present(*b)) {
            if on_conflict == OnConflict::Keep {
                continue;
            }
            return Err(Error::Execution("vector cannot contain metrics with the same labelset".into()));
        }
        for (a, b) in target.iter_mut().zip(from) {
            if present(*b) {
                *a = *b;
            }
        }
        let moved = std::mem::take(&mut cells[row]);
        cells[first].extend(moved);
        cells[first].sort_by_key(|c| c.step);
        joined[row] = true;
    }
    let mut out = ChunkBuilder::new(steps, chunk.len());
    for row in (0..chunk.len()).filter(|row| !joined[*row]) {
        query.check_canceled()?;
        out.push_with(chunk.labels(row), chunk.row(row), &cells[row]);
    }
    Ok(out.finish())
}
