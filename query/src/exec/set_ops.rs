//! `and`, `or` and `unless`: rows are kept at the steps at which the other side has, or has not, a row with the same key.

use std::fmt;
use std::sync::Arc;

use hashbrown::HashMap;
use isobar_block::LabelsRef;

use super::cells::{Cell, is_histogram};
use super::chunk::{ABSENT, Chunk, ChunkBuilder, any_present, present};
use super::context::QueryContext;
use super::labels::LabelRule;
use super::operator::{Operator, Worker};
use crate::result::Result;

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOp {
    And,
    Or,
    Unless,
}

/// The operator; the first input is the left side.
#[derive(Debug)]
pub struct SetOperation {
    /// Which.
    pub op: SetOp,
    /// What rows are matched on.
    pub key: LabelRule,
    /// Length of the vectors.
    pub steps: usize,
}

impl Operator for SetOperation {
    fn name(&self) -> &'static str {
        "SetOperationExec"
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "op={:?}, match {}", self.op, self.key)
    }

    fn steps(&self) -> usize {
        self.steps
    }

    fn parallel(&self) -> bool {
        self.op != SetOp::Or
    }

    fn start(&self, sides: Arc<Vec<Chunk>>, query: &Arc<QueryContext>) -> Result<Box<dyn Worker>> {
        let mut presence = Presence { key: self.key.clone(), steps: self.steps, masks: HashMap::new(), bytes: Vec::new() };
        if self.op != SetOp::Or {
            for row in 0..sides[0].len() {
                query.check_canceled()?;
                presence.add(sides[0].labels(row), sides[0].row(row));
            }
        }
        Ok(Box::new(Matching { op: self.op, presence, sides, query: Arc::clone(query) }))
    }
}

/// At which steps a key has a value.
struct Presence {
    key: LabelRule,
    steps: usize,
    masks: HashMap<Vec<u8>, Vec<bool>>,
    bytes: Vec<u8>,
}

impl Presence {
    fn add(&mut self, labels: LabelsRef<'_>, values: &[f64]) {
        self.bytes.clear();
        self.key.apply(labels, &mut self.bytes);
        let mask = match self.masks.get_mut(&self.bytes) {
            Some(mask) => mask,
            None => self.masks.entry(self.bytes.clone()).or_insert_with(|| vec![false; self.steps]),
        };
        for (m, v) in mask.iter_mut().zip(values) {
            *m |= present(*v);
        }
    }

    fn of(&mut self, labels: LabelsRef<'_>) -> Option<&[bool]> {
        self.bytes.clear();
        self.key.apply(labels, &mut self.bytes);
        self.masks.get(&self.bytes).map(Vec::as_slice)
    }
}

struct Matching {
    op: SetOp,
    presence: Presence,
    sides: Arc<Vec<Chunk>>,
    query: Arc<QueryContext>,
}

impl Worker for Matching {
    fn push(&mut self, input: Chunk) -> Result<Option<Chunk>> {
        if self.op == SetOp::Or {
            for row in 0..input.len() {
                self.query.check_canceled()?;
                self.presence.add(input.labels(row), input.row(row));
            }
            return Ok(Some(input));
        }
        self.masked(&input, self.op == SetOp::And).map(Some)
    }

    fn finish(&mut self) -> Result<Option<Chunk>> {
        if self.op != SetOp::Or {
            return Ok(None);
        }
        let sides = Arc::clone(&self.sides);
        self.masked(&sides[0], false).map(Some)
    }

    fn size_bytes(&self) -> usize {
        self.presence.masks.len() * (self.presence.steps + 2 * size_of::<Vec<u8>>())
    }
}

impl Matching {
    /// The rows at the steps at which their key has, or has not, a value.
    fn masked(&mut self, input: &Chunk, wanted: bool) -> Result<Chunk> {
        let mut out = ChunkBuilder::new(input.steps, input.len());
        for row in 0..input.len() {
            self.query.check_canceled()?;
            let values = input.row(row);
            match self.presence.of(input.labels(row)) {
                None if wanted => continue,
                None => out.values.extend_from_slice(values),
                Some(mask) => out.values.extend(values.iter().zip(mask).map(|(v, m)| if *m == wanted { *v } else { ABSENT })),
            }
            let start = out.len() * input.steps;
            if any_present(&out.values[start..]) {
                let kept = &out.values[start..];
                let cells: Vec<Cell> = input.cells(row).iter().filter(|c| is_histogram(kept[c.step as usize])).cloned().collect();
                out.add_cells(&cells, |_| true);
                out.push_labels(input.labels(row));
            } else {
                out.discard_row();
            }
        }
        Ok(out.finish())
    }
}
