//! The aggregation `count_values`: values become a label.

use std::fmt;
use std::sync::Arc;

use hashbrown::HashMap;

use super::cells::is_histogram;
use super::chunk::{ABSENT, Chunk, ChunkBuilder, labels_from_bytes, present};
use super::context::QueryContext;
use super::format::{go_decimal, histogram_text};
use super::labels::with_label;
use super::operator::{Operator, Worker};
use crate::result::Result;

/// Counts equal values of the rows of each label set.
#[derive(Debug)]
pub struct CountValues {
    /// The label that holds the value.
    pub label: String,
    /// Length of the vectors.
    pub steps: usize,
}

impl Operator for CountValues {
    fn name(&self) -> &'static str {
        "CountValuesExec"
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "label={}", self.label)
    }

    fn steps(&self) -> usize {
        self.steps
    }

    fn start(&self, _: Arc<Vec<Chunk>>, query: &Arc<QueryContext>) -> Result<Box<dyn Worker>> {
        Ok(Box::new(Counting {
            label: self.label.clone(),
            steps: self.steps,
            rows: HashMap::new(),
            counts: Vec::new(),
            query: Arc::clone(query),
        }))
    }
}

struct Counting {
    label: String,
    steps: usize,
    rows: HashMap<Vec<u8>, usize>,
    counts: Vec<f64>,
    query: Arc<QueryContext>,
}

impl Worker for Counting {
    fn push(&mut self, input: Chunk) -> Result<Option<Chunk>> {
        let mut key = Vec::new();
        for row in 0..input.len() {
            self.query.check_canceled()?;
            // Neighbouring steps often have the same value.
            let mut last: Option<(u64, usize)> = None;
            let mut cells = input.cells(row).iter();
            for (step, v) in input.row(row).iter().enumerate().filter(|(_, v)| present(**v)) {
                let target = match last {
                    Some((bits, target)) if bits == v.to_bits() && !is_histogram(*v) => target,
                    _ => {
                        key.clear();
                        let text = if is_histogram(*v) {
                            cells.next().map(|c| histogram_text(&c.histogram)).unwrap_or_default()
                        } else {
                            go_decimal(*v)
                        };
                        with_label(input.labels(row), &self.label, &text, &mut key);
                        match self.rows.get(&key) {
                            Some(target) => *target,
                            None => {
                                let target = self.rows.len();
                                self.rows.insert(key.clone(), target);
                                self.counts.resize((target + 1) * self.steps, ABSENT);
                                target
                            }
                        }
                    }
                };
                last = Some((v.to_bits(), target));
                let count = &mut self.counts[target * self.steps + step];
                *count = if present(*count) { *count + 1.0 } else { 1.0 };
            }
        }
        Ok(None)
    }

    fn finish(&mut self) -> Result<Option<Chunk>> {
        let mut keys: Vec<(Vec<u8>, usize)> = self.rows.drain().collect();
        keys.sort_by_key(|(_, row)| *row);
        let mut out = ChunkBuilder::new(self.steps, 0);
        out.values = std::mem::take(&mut self.counts).into();
        let chunk = out.finish_with_labels(keys.iter().map(|(key, _)| labels_from_bytes(key)));
        Ok(Some(chunk))
    }

    fn size_bytes(&self) -> usize {
        let keys: usize = self.rows.keys().map(|k| k.capacity() + size_of::<(Vec<u8>, usize)>()).sum();
        keys + self.counts.capacity() * size_of::<f64>()
    }
}
