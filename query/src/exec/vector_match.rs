//! Arithmetic and comparisons between two vectors. Rows find each other by the key that `on` or `ignoring` makes of their
//! labels; the "one" side is read whole first, the "many" side streams past it.
//!
//! As in Prometheus, matching is by step and not by series: two rows of the "one" side may have the same key as long as they
//! have no sample at the same step, and the checks for duplicates come before a comparison drops samples.

use std::fmt;
use std::sync::Arc;

use hashbrown::HashMap;
use isobar_block::LabelsRef;

use super::cells::{Cell, HISTOGRAM, is_histogram};
use super::chunk::{ABSENT, Chunk, ChunkBuilder, any_present, labels_from_bytes, present};
use super::context::QueryContext;
use super::histogram_ops::{self, Operand, Outcome, Site};
use super::labels::{LabelRule, braced, with_label};
use super::operator::{Operator, Worker};
use super::release::{Released, Weight};
use crate::kernel::binary::{ElementOp, vector_vector};
use crate::result::{Error, Result};

/// How the two sides are matched, and what is made of their labels.
#[derive(Clone, Debug)]
pub struct MatchSpec {
    /// The operator.
    pub op: ElementOp,
    /// Whether `bool` was written.
    pub return_bool: bool,
    /// What rows are matched on.
    pub key: LabelRule,
    /// The part of the labels that error messages show.
    pub shown: LabelRule,
    /// What is left of the "many" side's labels.
    pub result: LabelRule,
    /// Labels that are copied from the "one" side.
    pub include: Vec<String>,
    /// Whether there is a group modifier.
    pub grouped: bool,
    /// Whether the "many" side is the right one.
    pub many_is_right: bool,
    /// Value for missing samples of the "many" side.
    pub fill_many: Option<f64>,
    /// Value for missing samples of the "one" side.
    pub fill_one: Option<f64>,
    /// Length of the vectors.
    pub steps: usize,
    /// Where the operator stands.
    pub site: Site,
}

/// The operator; the first input is the "many" side.
#[derive(Debug)]
pub struct VectorMatch(pub MatchSpec);

impl Operator for VectorMatch {
    fn name(&self) -> &'static str {
        "VectorMatchExec"
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = &self.0;
        write!(f, "op={:?}{}, match {}", spec.op, if spec.return_bool { " bool" } else { "" }, spec.key)?;
        if spec.grouped {
            write!(f, ", group_{}({})", if spec.many_is_right { "right" } else { "left" }, spec.include.join(", "))?;
        }
        Ok(())
    }

    fn steps(&self) -> usize {
        self.0.steps
    }

    fn start(&self, sides: Arc<Vec<Chunk>>, query: &Arc<QueryContext>) -> Result<Box<dyn Worker>> {
        let spec = self.0.clone();
        let one = OneSide::new(&spec, &sides[0], query)?;
        Ok(Box::new(Matching {
            spec,
            one,
            sides,
            seen: Released::default(),
            bytes: Vec::new(),
            result: Vec::new(),
            query: Arc::clone(query),
        }))
    }
}

/// Rows of the "one" side by key.
type Keys = HashMap<Vec<u8>, Vec<usize>>;

/// Steps by key.
type Seen = HashMap<Vec<u8>, Vec<bool>>;

impl Weight for Keys {
    fn weight_bytes(&self) -> usize {
        self.len() * KEY_BYTES
    }
}

impl Weight for Seen {
    fn weight_bytes(&self) -> usize {
        self.len() * KEY_BYTES
    }
}

/// About what an entry with its key takes.
const KEY_BYTES: usize = 256;

/// The rows of the "one" side by key.
struct OneSide {
    keys: Released<Keys>,
    /// For each step two rows that have the same key and a value there.
    conflicts: Vec<Option<(usize, usize)>>,
    any_conflict: bool,
}

impl OneSide {
    fn new(spec: &MatchSpec, rows: &Chunk, query: &QueryContext) -> Result<Self> {
        let mut keys: HashMap<Vec<u8>, Vec<usize>> = HashMap::with_capacity(rows.len());
        for row in 0..rows.len() {
            query.check_canceled()?;
            let mut key = Vec::new();
            spec.key.apply(rows.labels(row), &mut key);
            keys.entry(key).or_default().push(row);
        }
        let mut this = Self { keys: keys.into(), conflicts: vec![None; spec.steps], any_conflict: false };
        for same in this.keys.values().filter(|same| same.len() > 1) {
            query.check_canceled()?;
            for step in 0..spec.steps {
                let mut with_value = same.iter().copied().filter(|row| present(rows.values[row * spec.steps + step]));
                if let (Some(first), Some(second)) = (with_value.next(), with_value.next()) {
                    this.any_conflict = true;
                    let pair = if rows.labels(first) <= rows.labels(second) { (first, second) } else { (second, first) };
                    let known = &mut this.conflicts[step];
                    // The error names the same pair whatever the order of the map.
                    if known.is_none_or(|k| rows.labels(pair.0) < rows.labels(k.0)) {
                        *known = Some(pair);
                    }
                }
            }
        }
        Ok(this)
    }
}

struct Matching {
    spec: MatchSpec,
    one: OneSide,
    sides: Arc<Vec<Chunk>>,
    /// Steps at which a key (or, with a group modifier, a key and the labels of the result) has had a match; and under
    /// [`many_key`] those at which it had a sample of the "many" side, if those are filled.
    seen: Released<Seen>,
    bytes: Vec<u8>,
    result: Vec<u8>,
    query: Arc<QueryContext>,
}

impl Worker for Matching {
    fn push(&mut self, input: Chunk) -> Result<Option<Chunk>> {
        let mut out = ChunkBuilder::new(self.spec.steps, input.len());
        for row in 0..input.len() {
            self.query.check_canceled()?;
            self.check_conflicts(input.row(row))?;
            self.match_row(input.labels(row), input.row(row), input.cells(row), &mut out)?;
        }
        Ok(Some(out.finish()))
    }

    fn finish(&mut self) -> Result<Option<Chunk>> {
        let Some(fill) = self.spec.fill_many else {
            return Ok(None);
        };
        let sides = Arc::clone(&self.sides);
        let mut out = ChunkBuilder::new(self.spec.steps, 0);
        for row in 0..sides[0].len() {
            self.fill_row(&sides[0], row, fill, &mut out)?;
        }
        Ok(Some(out.finish()))
    }

    fn size_bytes(&self) -> usize {
        (self.seen.len() + self.one.keys.len()) * (self.spec.steps + 2 * size_of::<Vec<u8>>())
    }
}

impl Matching {
    /// Steps at which the "one" side has duplicates are an error as soon as the "many" side has anything there.
    fn check_conflicts(&self, many: &[f64]) -> Result<()> {
        if !self.one.any_conflict {
            return Ok(());
        }
        let found = self.one.conflicts.iter().zip(many).find_map(|(pair, v)| pair.filter(|_| present(*v)));
        let Some((first, second)) = found else {
            return Ok(());
        };
        let rows = &self.sides[0];
        let mut group = Vec::new();
        self.spec.shown.apply(rows.labels(first), &mut group);
        Err(Error::Execution(format!(
            "found duplicate series for the match group {} on the {} hand-side of the operation: [{}, {}];many-to-many matching not allowed: matching labels must be unique on one side",
            braced(labels_from_bytes(&group)),
            if self.spec.many_is_right { "left" } else { "right" },
            braced(rows.labels(first)),
            braced(rows.labels(second)),
        )))
    }

    fn match_row(&mut self, labels: LabelsRef<'_>, many: &[f64], cells: &[Cell], out: &mut ChunkBuilder) -> Result<()> {
        self.bytes.clear();
        self.spec.key.apply(labels, &mut self.bytes);
        if self.spec.fill_many.is_some() {
            let steps = self.spec.steps;
            let mask = match self.seen.get_mut(&many_key(&self.bytes)) {
                Some(mask) => mask,
                None => self.seen.entry(many_key(&self.bytes)).or_insert_with(|| vec![false; steps]),
            };
            for (m, v) in mask.iter_mut().zip(many) {
                *m |= present(*v);
            }
        }
        let sides = Arc::clone(&self.sides);
        let rows: Vec<usize> = self.one.keys.get(&self.bytes).cloned().unwrap_or_default();
        let mut unmatched: Option<Vec<f64>> = self.spec.fill_one.map(|_| many.to_vec());
        for row in rows {
            let one = sides[0].row(row);
            if let Some(unmatched) = &mut unmatched {
                for (u, o) in unmatched.iter_mut().zip(one) {
                    *u = if present(*o) { ABSENT } else { *u };
                }
            }
            self.result_labels(labels, Some(sides[0].labels(row)));
            self.note_matches(many, one)?;
            self.emit((many, cells), (one, sides[0].cells(row)), out);
        }
        if let (Some(unmatched), Some(fill)) = (unmatched, self.spec.fill_one)
            && any_present(&unmatched)
        {
            self.result_labels(labels, None);
            let filled: Vec<f64> = unmatched.iter().map(|v| if present(*v) { fill } else { ABSENT }).collect();
            self.note_matches(&unmatched, &filled)?;
            self.emit((&unmatched, cells), (&filled, &[]), out);
        }
        Ok(())
    }

    /// A row of the "one" side at the steps at which no row of the "many" side had its key.
    fn fill_row(&mut self, rows: &Chunk, row: usize, fill: f64, out: &mut ChunkBuilder) -> Result<()> {
        self.query.check_canceled()?;
        let labels = rows.labels(row);
        self.bytes.clear();
        self.spec.key.apply(labels, &mut self.bytes);
        let mask = self.seen.get(&many_key(&self.bytes));
        let one: Vec<f64> =
            rows.row(row).iter().enumerate().map(|(step, v)| if mask.is_some_and(|m| m[step]) { ABSENT } else { *v }).collect();
        if !any_present(&one) {
            return Ok(());
        }
        let many: Vec<f64> = one.iter().map(|v| if present(*v) { fill } else { ABSENT }).collect();
        let mut shown = Vec::new();
        self.spec.shown.apply(labels, &mut shown);
        self.result_labels(labels_from_bytes(&shown), Some(labels));
        self.emit((&many, &[]), (&one, rows.cells(row)), out);
        Ok(())
    }

    /// Puts the labels of a result into `self.result`.
    fn result_labels(&mut self, many: LabelsRef<'_>, one: Option<LabelsRef<'_>>) {
        self.result.clear();
        self.spec.result.apply(many, &mut self.result);
        let Some(one) = one else {
            return;
        };
        for name in &self.spec.include {
            let mut next = Vec::with_capacity(self.result.len());
            with_label(labels_from_bytes(&self.result), name, one.get(name).unwrap_or(""), &mut next);
            self.result = next;
        }
    }

    /// Fails if another row was matched with the same key (and with a group modifier gave the same labels) at the same step.
    fn note_matches(&mut self, many: &[f64], one: &[f64]) -> Result<()> {
        let mut key = self.bytes.clone();
        if self.spec.grouped {
            // The length keeps keys and labels apart.
            key.extend_from_slice(&(self.bytes.len() as u32).to_le_bytes());
            key.extend_from_slice(&self.result);
        }
        let steps = self.spec.steps;
        let mask = self.seen.entry(key).or_insert_with(|| vec![false; steps]);
        for (m, (a, b)) in mask.iter_mut().zip(many.iter().zip(one)) {
            let matched = present(*a) && present(*b);
            if *m && matched {
                let why = if self.spec.grouped {
                    "grouping labels must ensure unique matches"
                } else {
                    "many-to-one matching must be explicit (group_left/group_right)"
                };
                return Err(Error::Execution(format!("multiple matches for labels: {why}")));
            }
            *m |= matched;
        }
        Ok(())
    }

    fn emit(&self, many: (&[f64], &[Cell]), one: (&[f64], &[Cell]), out: &mut ChunkBuilder) {
        let start = out.values.len();
        out.values.resize(start + self.spec.steps, ABSENT);
        let (lhs, rhs) = if self.spec.many_is_right { (one, many) } else { (many, one) };
        vector_vector(self.spec.op, self.spec.return_bool, lhs.0, rhs.0, &mut out.values[start..]);
        if !(many.1.is_empty() && one.1.is_empty()) {
            let cells = self.emit_histograms(lhs, rhs, &mut out.values[start..]);
            out.add_cells(&cells, |_| true);
        }
        if any_present(&out.values[start..]) {
            out.push_labels(labels_from_bytes(&self.result));
        } else {
            out.discard_row();
        }
    }

    /// Does the steps again at which one side is a histogram.
    fn emit_histograms(&self, lhs: (&[f64], &[Cell]), rhs: (&[f64], &[Cell]), out: &mut [f64]) -> Vec<Cell> {
        let mut cells = Vec::new();
        for (step, out) in out.iter_mut().enumerate() {
            let (a, b) = (lhs.0[step], rhs.0[step]);
            if !present(a) || !present(b) || !(is_histogram(a) || is_histogram(b)) {
                continue;
            }
            let (a, b) = (operand(a, lhs.1, step), operand(b, rhs.1, step));
            *out = ABSENT;
            match histogram_ops::binary(self.spec.op, self.spec.return_bool, a, b, self.spec.site, &self.query) {
                Outcome::Nothing => {}
                Outcome::Float(v) => *out = v,
                Outcome::Histogram(histogram) => {
                    *out = HISTOGRAM;
                    cells.push(Cell { row: 0, step: step as u32, histogram: Arc::new(histogram) });
                }
            }
        }
        cells
    }
}

fn operand<'a>(value: f64, cells: &'a [Cell], step: usize) -> Operand<'a> {
    let cell = cells.binary_search_by_key(&step, |c| c.step as usize).ok().filter(|_| is_histogram(value));
    cell.map_or(Operand::Float(value), |at| Operand::Histogram(&cells[at].histogram))
}

/// Under which the presence of the "many" side is kept; no other key of `seen` begins like this, since a label name is not
/// empty.
fn many_key(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 1);
    out.push(0);
    out.extend_from_slice(key);
    out
}
