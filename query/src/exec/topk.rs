//! `topk`, `bottomk` and `limitk`: rows stay as they are, but only at the steps at which they are selected.

use std::fmt;
use std::sync::Arc;

use hashbrown::HashMap;
use isobar_block::{Labels, LabelsRef};

use super::annotate;
use super::cells::Cell;
use super::chunk::{ABSENT, CANCEL_ROWS, Chunk, ChunkBuilder, present};
use super::context::QueryContext;
use super::format::go_float;
use super::labels::LabelRule;
use super::operator::{Operator, Worker};
use super::release::{Released, Values, Weight};
use super::scalar::{at_step, side_params};
use super::scan::Param;
use super::sorting::sort_by;
use crate::promql::ast::Span;
use crate::result::{Error, Result};

/// Which rows are selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Those with the largest values.
    Largest,
    /// Those with the smallest values.
    Smallest,
    /// The first ones.
    First,
}

/// Selects up to k rows of each group at each step.
#[derive(Clone, Debug)]
pub struct TopK {
    /// Which.
    pub order: Order,
    /// How many; may be different at each step.
    pub param: Param,
    /// How rows are grouped.
    pub rule: LabelRule,
    /// Length of the vectors.
    pub steps: usize,
    /// Where the input stands.
    pub span: Span,
    /// Whether each partition selects for itself, for another one of these to select from that.
    pub partial: bool,
}

impl Operator for TopK {
    fn name(&self) -> &'static str {
        "TopKStepsExec"
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "order={:?}, {}{}", self.order, self.rule, if self.partial { ", partial" } else { "" })
    }

    fn steps(&self) -> usize {
        self.steps
    }

    fn parallel(&self) -> bool {
        self.partial
    }

    fn start(&self, sides: Arc<Vec<Chunk>>, query: &Arc<QueryContext>) -> Result<Box<dyn Worker>> {
        let counts = side_params(std::slice::from_ref(&self.param), &sides).swap_remove(0);
        let counts = (0..self.steps).map(|step| row_count(at_step(&counts, step))).collect::<Result<Vec<usize>>>()?;
        Ok(Box::new(Selecting {
            operator: self.clone(),
            counts,
            groups: HashMap::new(),
            heaps: Released::default(),
            rows: Released::default(),
            free: Vec::new(),
            entries: 0,
            waiting: Released::default(),
            query: Arc::clone(query),
        }))
    }
}

fn row_count(k: f64) -> Result<usize> {
    if k.is_nan() {
        return Err(Error::Execution("Parameter value is NaN".into()));
    }
    if k <= i64::MIN as f64 {
        return Err(Error::Execution(format!("Scalar value {} underflows int64", go_float(k))));
    }
    if k >= i64::MAX as f64 {
        return Err(Error::Execution(format!("Scalar value {} overflows int64", go_float(k))));
    }
    Ok(if k < 1.0 { 0 } else { k as usize })
}

/// About what the labels of a row take.
const ROW_LABELS_BYTES: usize = 128;

/// A value that is selected, and the row that it is of.
type Entry = (f64, u32);

struct Row {
    labels: Labels,
    histograms: Vec<Cell>,
    /// Steps at which it is selected.
    selected: u32,
}

impl Weight for Vec<Vec<Entry>> {
    fn weight_bytes(&self) -> usize {
        self.capacity() * (size_of::<Vec<Entry>>() + size_of::<Entry>())
    }
}

impl Weight for Vec<Row> {
    fn weight_bytes(&self) -> usize {
        self.capacity() * (size_of::<Row>() + ROW_LABELS_BYTES)
    }
}

struct Selecting {
    operator: TopK,
    counts: Vec<usize>,
    groups: HashMap<Vec<u8>, usize>,
    /// For each group and step a heap with the entry on top that is the first to go.
    heaps: Released<Vec<Vec<Entry>>>,
    rows: Released<Vec<Row>>,
    free: Vec<u32>,
    entries: usize,
    /// What came from several partitions and has to be put in order first.
    waiting: Released<Vec<Chunk>>,
    query: Arc<QueryContext>,
}

impl Worker for Selecting {
    fn push(&mut self, input: Chunk) -> Result<Option<Chunk>> {
        let input = if self.operator.order == Order::First || input.cells.is_empty() {
            input
        } else {
            let name = if self.operator.order == Order::Largest { "topk" } else { "bottomk" };
            annotate::ignored_in_aggregation(&self.query, self.operator.span, name);
            input.floats_only()
        };
        if self.operator.partial {
            for row in 0..input.len() {
                self.offer(input.labels(row), input.row(row), input.cells(row))?;
            }
        } else {
            self.waiting.push(input);
        }
        Ok(None)
    }

    fn finish(&mut self) -> Result<Option<Chunk>> {
        // Which of equal values is selected depends on the order, which must not depend on which partition was faster.
        let waiting = std::mem::take(&mut self.waiting);
        let mut order: Vec<(usize, usize)> =
            waiting.iter().enumerate().flat_map(|(i, chunk)| (0..chunk.len()).map(move |row| (i, row))).collect();
        sort_by(&mut order, &self.query, |a, b| waiting[a.0].labels(a.1).cmp(&waiting[b.0].labels(b.1)))?;
        for (i, row) in order {
            self.offer(waiting[i].labels(row), waiting[i].row(row), waiting[i].cells(row))?;
        }
        Ok(Some(if self.operator.steps == 1 { self.in_order_of_value()? } else { self.in_order_of_arrival()? }))
    }

    fn size_bytes(&self) -> usize {
        let waiting: usize = self.waiting.iter().map(Chunk::size_bytes).sum();
        let rows: usize = self.rows.iter().map(|r| r.labels.as_bytes().len() + size_of::<Row>()).sum();
        waiting + rows + self.entries * size_of::<Entry>() + self.heaps.capacity() * size_of::<Vec<Entry>>()
    }
}

impl Selecting {
    fn offer(&mut self, labels: LabelsRef<'_>, values: &[f64], histograms: &[Cell]) -> Result<()> {
        self.query.check_canceled()?;
        let mut key = Vec::new();
        self.operator.rule.apply(labels, &mut key);
        let steps = self.operator.steps;
        let group = match self.groups.get(&key) {
            Some(group) => *group,
            None => {
                let group = self.groups.len();
                self.groups.insert(key, group);
                self.heaps.resize_with((group + 1) * steps, Vec::new);
                group
            }
        };
        let order = self.operator.order;
        let mut slot: Option<u32> = None;
        for (step, v) in values.iter().enumerate().filter(|(_, v)| present(**v)) {
            let count = self.counts[step];
            let heap = &mut self.heaps[group * steps + step];
            if heap.len() < count {
                let slot = *slot.get_or_insert_with(|| new_row(&mut self.rows, &mut self.free, labels, histograms));
                self.rows[slot as usize].selected += 1;
                self.entries += 1;
                heap.push((*v, slot));
                let last = heap.len() - 1;
                sift_up(order, heap, last);
            } else if count > 0 && order != Order::First && goes_first(order, heap[0].0, *v) {
                let slot = *slot.get_or_insert_with(|| new_row(&mut self.rows, &mut self.free, labels, histograms));
                self.rows[slot as usize].selected += 1;
                let (_, gone) = std::mem::replace(&mut heap[0], (*v, slot));
                sift_down(order, heap, 0);
                let gone_row = &mut self.rows[gone as usize];
                gone_row.selected -= 1;
                if gone_row.selected == 0 {
                    self.free.push(gone);
                }
            }
        }
        Ok(())
    }

    /// For range queries and partial selections: rows in the order in which they came.
    fn in_order_of_arrival(&self) -> Result<Chunk> {
        let steps = self.operator.steps;
        let mut values = Values::from(Vec::with_capacity(self.rows.len() * steps));
        for i in 0..self.rows.len() {
            if i.is_multiple_of(CANCEL_ROWS) {
                self.query.check_canceled()?;
            }
            values.resize((i + 1) * steps, ABSENT);
        }
        for (i, heap) in self.heaps.iter().enumerate() {
            if i.is_multiple_of(CANCEL_ROWS) || heap.len() > CANCEL_ROWS {
                self.query.check_canceled()?;
            }
            for (v, row) in heap {
                values[*row as usize * steps + i % steps] = *v;
            }
        }
        let mut out = ChunkBuilder::new(steps, self.rows.len());
        for (row, values) in self.rows.iter().zip(values.chunks(steps)).filter(|(row, _)| row.selected > 0) {
            self.query.check_canceled()?;
            out.push_with(row.labels.as_ref(), values, &row.histograms);
        }
        Ok(out.finish())
    }

    /// For instant queries: group by group, the best first.
    fn in_order_of_value(&mut self) -> Result<Chunk> {
        let order = self.operator.order;
        let mut out = ChunkBuilder::new(1, self.entries);
        for heap in self.heaps.iter_mut() {
            self.query.check_canceled()?;
            if order != Order::First {
                heap.sort_by(|a, b| {
                    if goes_first(order, a.0, b.0) {
                        std::cmp::Ordering::Greater
                    } else if goes_first(order, b.0, a.0) {
                        std::cmp::Ordering::Less
                    } else {
                        a.1.cmp(&b.1)
                    }
                });
            }
            for (v, row) in heap.iter() {
                let row = &self.rows[*row as usize];
                out.push_with(row.labels.as_ref(), &[*v], &row.histograms);
            }
        }
        Ok(out.finish())
    }
}

fn new_row(rows: &mut Vec<Row>, free: &mut Vec<u32>, labels: LabelsRef<'_>, histograms: &[Cell]) -> u32 {
    let row = Row { labels: labels.to_owned(), histograms: histograms.to_vec(), selected: 0 };
    match free.pop() {
        Some(slot) => {
            rows[slot as usize] = row;
            slot
        }
        None => {
            rows.push(row);
            (rows.len() - 1) as u32
        }
    }
}

/// Whether `a` gives way to `b`. A NaN gives way to everything else.
fn goes_first(order: Order, a: f64, b: f64) -> bool {
    match order {
        Order::Largest => a < b || (a.is_nan() && !b.is_nan()),
        Order::Smallest => a > b || (a.is_nan() && !b.is_nan()),
        Order::First => false,
    }
}

// The two below move entries as Go's container/heap does, so that of equal values the same ones are selected as by Prometheus.

fn sift_up(order: Order, heap: &mut [Entry], mut at: usize) {
    while at > 0 {
        let parent = (at - 1) / 2;
        if !goes_first(order, heap[at].0, heap[parent].0) {
            break;
        }
        heap.swap(at, parent);
        at = parent;
    }
}

fn sift_down(order: Order, heap: &mut [Entry], mut at: usize) {
    loop {
        let left = 2 * at + 1;
        if left >= heap.len() {
            break;
        }
        let right = left + 1;
        let child = if right < heap.len() && goes_first(order, heap[right].0, heap[left].0) { right } else { left };
        if !goes_first(order, heap[child].0, heap[at].0) {
            break;
        }
        heap.swap(at, child);
        at = child;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_gives_way() {
        assert!(goes_first(Order::Largest, f64::NAN, 1.0) && !goes_first(Order::Largest, 1.0, f64::NAN));
        assert!(goes_first(Order::Smallest, 2.0, 1.0) && !goes_first(Order::Smallest, 1.0, 1.0));
    }
}
