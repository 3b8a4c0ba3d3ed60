//! Runs a plan and puts its rows together to the value of the query.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;
use hashbrown::HashMap;
use isobar_block::{Histogram, Labels, SampleBuf, TimeRange, is_stale};

use crate::exec::cells::{Cell, leave_out_histograms};
use crate::exec::chunk::{Chunk, any_present, labels_from_bytes, present};
use crate::exec::context::QueryContext;
use crate::exec::labels::{DROP_MARK, LabelRule};
use crate::exec::operator::{gather, pause, single_partition};
use crate::exec::scan::reader::{SeriesReader, partitions};
use crate::plan::{Names, Planned, RawPlan, Scalar, Selection};
use crate::result::{Error, Grid, RawSeries, Result, Rows, Value};

/// Samples of raw series after which others get a turn.
const PAUSE_AFTER_SAMPLES: usize = 200_000;

/// What an answer is made for.
pub(super) struct Shape {
    pub(super) grid: Grid,
    pub(super) instant: bool,
    /// Most series; 0 is no limit.
    pub(super) limit: usize,
}

/// Executes `planned`.
///
/// # Errors
/// Those of the operators, and [`Error::Execution`] if two series of the answer have the same labels.
pub(super) async fn collect(planned: Planned, query: &Arc<QueryContext>, task: Arc<TaskContext>, shape: Shape) -> Result<Value> {
    let Shape { grid, instant, limit } = shape;
    match planned {
        Planned::Text(text) => Ok(Value::String { at_ms: grid.start_ms, text }),
        Planned::Scalar(Scalar::Known(values)) => {
            Ok(Value::Scalar { grid, values: if values.len() == grid.len { values } else { vec![values[0]; grid.len] } })
        }
        Planned::Scalar(Scalar::Computed(plan)) => {
            let (chunk, _held) = gather(plan, &task, query).await.map_err(from_datafusion)?;
            if chunk.len() != 1 {
                return Err(Error::Internal(format!("a scalar has {} rows", chunk.len())));
            }
            Ok(Value::Scalar { grid, values: chunk.values })
        }
        Planned::Vector(vector) => {
            let mut rows = collect_rows(vector.plan, vector.names, query, &task, grid).await?;
            if !instant {
                sort_rows(&mut rows);
            }
            if limit > 0 && rows.labels.len() > limit {
                rows.labels.truncate(limit);
                rows.values.truncate(limit * grid.len);
                rows.histograms.retain(|(row, _, _)| (*row as usize) < limit);
                query.warn_general("results truncated due to limit");
            }
            Ok(Value::Rows(rows))
        }
        Planned::Raw(raw) => {
            let mut series = collect_raw(raw, query, &task).await?;
            if limit > 0 && series.len() > limit {
                series.truncate(limit);
                query.warn_general("results truncated due to limit");
            }
            Ok(Value::Raw(series))
        }
    }
}

async fn collect_rows(
    plan: Arc<dyn ExecutionPlan>,
    names: Names,
    query: &Arc<QueryContext>,
    task: &Arc<TaskContext>,
    grid: Grid,
) -> Result<Rows> {
    let mut result = Collected::new(names, grid, query, task);
    let mut stream = single_partition(plan).execute(0, Arc::clone(task)).map_err(from_datafusion)?;
    while let Some(batch) = stream.next().await.transpose().map_err(from_datafusion)? {
        query.check_canceled()?;
        result.add(batch)?;
    }
    Ok(result.finish())
}

/// Rows of the answer so far. A series that comes in several rows, none of which has a value where another has one, is one.
struct Collected<'a> {
    rows: Rows,
    index: HashMap<Labels, usize>,
    names: Names,
    unnamed: LabelRule,
    query: &'a QueryContext,
    reservation: MemoryReservation,
}

impl<'a> Collected<'a> {
    fn new(names: Names, grid: Grid, query: &'a QueryContext, task: &TaskContext) -> Self {
        Self {
            rows: Rows { grid, labels: Vec::new(), values: Vec::new(), histograms: Vec::new() },
            index: HashMap::new(),
            names,
            unnamed: LabelRule::without_names(),
            query,
            reservation: MemoryConsumer::new("answer").register(task.memory_pool()),
        }
    }

    fn add(&mut self, batch: RecordBatch) -> Result<()> {
        let chunk = Chunk::from_batch(batch).map_err(from_datafusion)?;
        self.query.hold_samples(chunk.values.len())?;
        self.reservation.try_grow(chunk.size_bytes()).map_err(from_datafusion)?;
        for row in 0..chunk.len() {
            if any_present(chunk.row(row)) {
                self.add_row(self.final_labels(&chunk, row), chunk.row(row), chunk.cells(row))?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Rows {
        if !self.rows.histograms.is_empty() {
            leave_out_histograms(&mut self.rows.values);
            self.rows.histograms.sort_by_key(|(row, step, _)| (*row, *step));
        }
        self.rows
    }

    fn final_labels(&self, chunk: &Chunk, row: usize) -> Labels {
        let labels = chunk.labels(row);
        let remove = match self.names {
            Names::Kept => false,
            Names::Pending => true,
            Names::Marked => labels.get(DROP_MARK).is_some(),
        };
        if !remove {
            return labels.to_owned();
        }
        let mut bytes = Vec::new();
        self.unnamed.apply(labels, &mut bytes);
        labels_from_bytes(&bytes).to_owned()
    }

    fn add_row(&mut self, labels: Labels, values: &[f64], cells: &[Cell]) -> Result<()> {
        let steps = self.rows.grid.len;
        let next = self.rows.labels.len();
        let row = *self.index.entry(labels.clone()).or_insert(next);
        self.rows.histograms.extend(cells.iter().map(|c| (row as u32, c.step, Arc::new(Histogram::from(&*c.histogram)))));
        if row == next {
            self.rows.labels.push(labels);
            self.rows.values.extend_from_slice(values);
            return Ok(());
        }
        for (known, v) in self.rows.values[row * steps..][..steps].iter_mut().zip(values).filter(|(_, v)| present(**v)) {
            if present(*known) {
                return Err(Error::Execution("vector cannot contain metrics with the same labelset".into()));
            }
            *known = *v;
        }
        Ok(())
    }
}

/// Orders rows by labels.
fn sort_rows(rows: &mut Rows) {
    if rows.labels.is_sorted() {
        return;
    }
    let steps = rows.grid.len;
    let mut order: Vec<usize> = (0..rows.labels.len()).collect();
    // Stable, since the rows are a few sorted runs, one for each partition, which this sort recognises.
    order.sort_by(|a, b| rows.labels[*a].cmp(&rows.labels[*b]));
    let mut values = Vec::with_capacity(rows.values.len());
    let mut places = vec![0; order.len()];
    for (place, row) in order.iter().enumerate() {
        values.extend_from_slice(&rows.values[row * steps..][..steps]);
        places[*row] = place as u32;
    }
    rows.labels = order.iter().map(|row| rows.labels[*row].clone()).collect();
    rows.values = values;
    for (row, _, _) in &mut rows.histograms {
        *row = places[*row as usize];
    }
    rows.histograms.sort_by_key(|(row, step, _)| (*row, *step));
}

async fn collect_raw(raw: RawPlan, query: &Arc<QueryContext>, task: &Arc<TaskContext>) -> Result<Vec<RawSeries>> {
    match raw {
        RawPlan::Empty => Ok(Vec::new()),
        RawPlan::Samples { selection, range } => read_samples(&selection, range, query, task).await,
        RawPlan::Subquery { plan, names, grid } => {
            let mut rows = collect_rows(plan, names, query, task, grid).await?;
            sort_rows(&mut rows);
            let series = rows.labels.iter().zip(rows.values.chunks(grid.len)).map(|(labels, values)| RawSeries {
                labels: labels.clone(),
                floats: values.iter().enumerate().filter(|(_, v)| present(**v)).map(|(i, v)| (grid.at(i), *v)).collect(),
                histograms: Vec::new(),
            });
            let mut series: Vec<RawSeries> = series.collect();
            for (row, step, histogram) in &rows.histograms {
                series[*row as usize].histograms.push((grid.at(*step as usize), Arc::clone(histogram)));
            }
            Ok(series)
        }
    }
}

async fn read_samples(selection: &Selection, range: TimeRange, query: &Arc<QueryContext>, task: &TaskContext) -> Result<Vec<RawSeries>> {
    let reservation = MemoryConsumer::new("answer").register(task.memory_pool());
    let mut all = Vec::new();
    let mut since_pause = 0;
    for rows in partitions(selection, 1) {
        let mut reader = SeriesReader::new(selection, &rows, Arc::clone(query));
        while reader.advance().await? {
            query.check_canceled()?;
            let (labels, samples) = reader.read()?;
            since_pause += samples.len();
            let (floats, histograms) = in_range(samples, range);
            query.hold_samples(floats.len() + histograms.len())?;
            reservation.try_grow(floats.len() * size_of::<(i64, f64)>() + size_of::<RawSeries>()).map_err(from_datafusion)?;
            if !floats.is_empty() || !histograms.is_empty() {
                all.push(RawSeries { labels: labels.to_owned(), floats, histograms });
            }
            if since_pause > PAUSE_AFTER_SAMPLES {
                since_pause = 0;
                pause().await;
            }
        }
    }
    Ok(all)
}

type RawSamples = (Vec<(i64, f64)>, Vec<(i64, Arc<Histogram>)>);

fn in_range(samples: &SampleBuf, range: TimeRange) -> RawSamples {
    let from = samples.timestamps.partition_point(|t| *t < range.start_ms());
    let to = samples.timestamps.partition_point(|t| *t <= range.end_ms());
    let mut histograms = samples.histograms.iter().map(|(i, h)| (*i as usize, h)).skip_while(|(i, _)| *i < from).peekable();
    let (mut floats, mut found) = (Vec::with_capacity(to - from), Vec::new());
    for i in from..to {
        let histogram = histograms.next_if(|(at, _)| *at == i);
        if is_stale(samples.values[i]) {
            continue;
        }
        match histogram {
            Some((_, histogram)) => found.push((samples.timestamps[i], Arc::clone(histogram))),
            None => floats.push((samples.timestamps[i], samples.values[i])),
        }
    }
    (floats, found)
}

/// An error of DataFusion as one of ours: our own come through it unchanged, and an exhausted memory pool is a limit.
pub(super) fn from_datafusion(error: DataFusionError) -> Error {
    match error.find_root() {
        DataFusionError::External(inner) => match inner.downcast_ref::<Error>() {
            Some(ours) => duplicate(ours),
            None => Error::Internal(error.strip_backtrace()),
        },
        DataFusionError::ResourcesExhausted(message) => Error::Execution(message.clone()),
        _ => Error::Internal(error.strip_backtrace()),
    }
}

/// Errors inside of a shared DataFusion error can only be borrowed.
fn duplicate(error: &Error) -> Error {
    match error {
        Error::BadData(m) => Error::BadData(m.clone()),
        Error::Execution(m) => Error::Execution(m.clone()),
        Error::Timeout { after, limit } => Error::Timeout { after: *after, limit },
        Error::Canceled => Error::Canceled,
        Error::Unavailable(m) => Error::Unavailable(m.clone()),
        Error::Internal(m) => Error::Internal(m.clone()),
    }
}
