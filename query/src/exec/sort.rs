//! `sort` and `sort_by_label`, for the answer of an instant query.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use isobar_block::LabelsRef;

use super::chunk::{Chunk, ChunkBuilder};
use super::context::QueryContext;
use super::operator::{Operator, WholeWorker, Worker};
use super::sorting::sort_by;
use crate::result::Result;

/// What rows are ordered by.
#[derive(Clone, Debug)]
pub enum SortBy {
    /// The value; NaN comes last in both directions.
    Value,
    /// Values of labels, in natural order; the whole label set where they are equal.
    Labels(Vec<String>),
}

/// Orders rows of one value each.
#[derive(Debug)]
pub struct Sort {
    /// By what.
    pub by: SortBy,
    /// Whether the largest comes first.
    pub descending: bool,
}

impl Operator for Sort {
    fn name(&self) -> &'static str {
        "SortRowsExec"
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "by={:?}{}", self.by, if self.descending { " desc" } else { "" })
    }

    fn steps(&self) -> usize {
        1
    }

    fn start(&self, _: Arc<Vec<Chunk>>, query: &Arc<QueryContext>) -> Result<Box<dyn Worker>> {
        let (by, descending, query) = (self.by.clone(), self.descending, Arc::clone(query));
        let whole = Arc::clone(&query);
        let run = move |chunk: Chunk| {
            let chunk = if matches!(by, SortBy::Value) { chunk.floats_only() } else { chunk };
            let mut rows: Vec<usize> = (0..chunk.len()).collect();
            sort_by(&mut rows, &query, |a, b| {
                let in_direction = |order: Ordering| if descending { order.reverse() } else { order };
                match &by {
                    SortBy::Value => {
                        let (x, y) = (chunk.values[*a], chunk.values[*b]);
                        x.is_nan()
                            .cmp(&y.is_nan())
                            .then_with(|| in_direction(x.partial_cmp(&y).unwrap_or(Ordering::Equal)))
                            .then_with(|| chunk.labels(*a).cmp(&chunk.labels(*b)))
                    }
                    SortBy::Labels(names) => in_direction(by_labels(names, chunk.labels(*a), chunk.labels(*b))),
                }
            })?;
            let mut out = ChunkBuilder::new(1, rows.len());
            for row in rows {
                out.push_row(&chunk, row);
            }
            Ok(out.finish())
        };
        Ok(Box::new(WholeWorker::new(1, &whole, run)))
    }
}

fn by_labels(names: &[String], a: LabelsRef<'_>, b: LabelsRef<'_>) -> Ordering {
    let value = |labels: LabelsRef<'_>, name: &str| labels.get(name).unwrap_or("").to_owned();
    names.iter().map(|name| natural(&value(a, name), &value(b, name))).find(|o| o.is_ne()).unwrap_or_else(|| a.iter().cmp(b.iter()))
}

/// Runs of digits compare as numbers, all else as text.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a, b);
    while !x.is_empty() && !y.is_empty() {
        let (chunk_x, rest_x) = split_run(x);
        let (chunk_y, rest_y) = split_run(y);
        let order = match (chunk_x.parse::<u64>(), chunk_y.parse::<u64>()) {
            (Ok(m), Ok(n)) => m.cmp(&n),
            _ => chunk_x.cmp(chunk_y),
        };
        if order.is_ne() {
            return order;
        }
        (x, y) = (rest_x, rest_y);
    }
    x.len().cmp(&y.len()).then_with(|| a.cmp(b))
}

fn split_run(text: &str) -> (&str, &str) {
    let digit = text.starts_with(|c: char| c.is_ascii_digit());
    text.split_at(text.find(|c: char| c.is_ascii_digit() != digit).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn natural_order() {
        let sorted = ["", "1", "2", "10", "a", "a1", "a2b", "a10", "b"];
        for pair in sorted.windows(2) {
            assert_eq!(natural(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
    }
}
