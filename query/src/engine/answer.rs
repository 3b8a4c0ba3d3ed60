//! Runs a plan and puts its rows together to the value of the query.

use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;
use hashbrown::HashMap;
use isobar_block::{Histogram, Labels, LabelsRef, SampleBuf, TimeRange, is_stale};
use tokio::task::JoinSet;

use crate::exec::cells::leave_out_histograms;
use crate::exec::chunk::{BATCH_VALUES, Chunk, any_present, labels_from_bytes, present};
use crate::exec::context::QueryContext;
use crate::exec::labels::{DROP_MARK, LabelRule};
use crate::exec::operator::{gather, pause};
use crate::exec::release::{Released, Values, Weight};
use crate::exec::scan::reader::{SeriesReader, partitions};
use crate::exec::sorting::{ascends, sort_by};
use crate::plan::{Names, Planned, RawPlan, Scalar, Selection};
use crate::result::{Error, Grid, RawSeries, Result, Rows, Value};

/// Samples of raw series after which others get a turn.
const PAUSE_AFTER_SAMPLES: usize = 200_000;

/// About what the labels of a row take.
const ROW_LABELS_BYTES: usize = 128;

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
            Ok(Value::Scalar { grid, values: chunk.values.into_inner() })
        }
        Planned::Vector(vector) => {
            let mut rows = collect_rows(vector.plan, vector.names, query, &task, grid, !instant).await?;
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

/// Runs all partitions side by side and puts their rows together: ascending by labels for a range query, in the order of the
/// plan for an instant query.
async fn collect_rows(
    plan: Arc<dyn ExecutionPlan>,
    names: Names,
    query: &Arc<QueryContext>,
    task: &Arc<TaskContext>,
    grid: Grid,
    sorted: bool,
) -> Result<Rows> {
    let count = plan.properties().output_partitioning().partition_count();
    let mut running = JoinSet::new();
    for partition in 1..count {
        running.spawn(collect_part(Arc::clone(&plan), partition, names, Arc::clone(query), Arc::clone(task)));
    }
    let first = collect_part(plan, 0, names, Arc::clone(query), Arc::clone(task)).await?;
    let mut parts = vec![first];
    while let Some(part) = running.join_next().await {
        parts.push(part.map_err(|e| if e.is_cancelled() { Error::Canceled } else { Error::Internal(e.to_string()) })??);
    }
    // The partitions of a scan hold ascending ranges of labels.
    parts.sort_by_key(|part| part.partition);
    put_together(parts, query, grid, sorted)
}

/// What one partition has given.
struct Part {
    partition: usize,
    chunks: Released<Vec<Chunk>>,
    rows: Released<Vec<RowPlace>>,
    reservation: MemoryReservation,
}

impl Weight for Vec<RowPlace> {
    fn weight_bytes(&self) -> usize {
        self.capacity() * (size_of::<RowPlace>() + ROW_LABELS_BYTES)
    }
}

impl Weight for Vec<RawSeries> {
    fn weight_bytes(&self) -> usize {
        self.iter().map(|series| size_of::<RawSeries>() + ROW_LABELS_BYTES + series.floats.capacity() * size_of::<(i64, f64)>()).sum()
    }
}

/// A row of the answer, and where its values are.
struct RowPlace {
    labels: Labels,
    chunk: u32,
    row: u32,
}

async fn collect_part(
    plan: Arc<dyn ExecutionPlan>,
    partition: usize,
    names: Names,
    query: Arc<QueryContext>,
    task: Arc<TaskContext>,
) -> Result<Part> {
    let reservation = MemoryConsumer::new("answer").register(task.memory_pool());
    let unnamed = LabelRule::without_names();
    let mut part = Part { partition, chunks: Released::default(), rows: Released::default(), reservation };
    let mut stream = plan.execute(partition, task).map_err(from_datafusion)?;
    while let Some(batch) = stream.next().await.transpose().map_err(from_datafusion)? {
        query.check_canceled()?;
        let chunk = Chunk::from_batch(batch).map_err(from_datafusion)?;
        query.hold_samples(chunk.values.len())?;
        part.reservation.try_grow(chunk.size_bytes()).map_err(from_datafusion)?;
        for row in (0..chunk.len()).filter(|row| any_present(chunk.row(*row))) {
            let labels = final_labels(chunk.labels(row), names, &unnamed);
            part.rows.push(RowPlace { labels, chunk: part.chunks.len() as u32, row: row as u32 });
        }
        part.chunks.push(chunk);
    }
    Ok(part)
}

fn final_labels(labels: LabelsRef<'_>, names: Names, unnamed: &LabelRule) -> Labels {
    let remove = match names {
        Names::Kept => false,
        Names::Pending => true,
        Names::Marked => labels.get(DROP_MARK).is_some(),
    };
    if !remove {
        return labels.to_owned();
    }
    let mut bytes = Vec::new();
    unnamed.apply(labels, &mut bytes);
    labels_from_bytes(&bytes).to_owned()
}

/// Rows with equal labels are one series in pieces, as long as no two have a value at the same step.
fn put_together(parts: Vec<Part>, query: &QueryContext, grid: Grid, sorted: bool) -> Result<Rows> {
    let mut places: Vec<(usize, &RowPlace)> =
        parts.iter().enumerate().flat_map(|(part, p)| p.rows.iter().map(move |row| (part, row))).collect();
    let unique = ascends(&places, query, |a, b| a.1.labels < b.1.labels)?;
    if !unique && sorted {
        // Stable, since the rows are a few sorted runs, one for each partition, which this sort recognises.
        sort_by(&mut places, query, |a, b| a.1.labels.cmp(&b.1.labels))?;
    }
    let mut rows = Rows { grid, labels: Vec::with_capacity(places.len()), values: Vec::new(), histograms: Vec::new() };
    let mut all = Values::from(Vec::with_capacity(places.len() * grid.len));
    let mut index: HashMap<&Labels, usize> = HashMap::new();
    for (part, place) in &places {
        query.check_canceled()?;
        let chunk = &parts[*part].chunks[place.chunk as usize];
        let (values, cells) = (chunk.row(place.row as usize), chunk.cells(place.row as usize));
        let next = rows.labels.len();
        let row = if unique { next } else { *index.entry(&place.labels).or_insert(next) };
        rows.histograms.extend(cells.iter().map(|c| (row as u32, c.step, Arc::new(Histogram::from(&*c.histogram)))));
        if row == next {
            rows.labels.push(place.labels.clone());
            all.extend_from_slice(values);
            continue;
        }
        for (known, v) in all[row * grid.len..][..grid.len].iter_mut().zip(values).filter(|(_, v)| present(**v)) {
            if present(*known) {
                return Err(Error::Execution("vector cannot contain metrics with the same labelset".into()));
            }
            *known = *v;
        }
    }
    if !rows.histograms.is_empty() {
        for part in all.chunks_mut(BATCH_VALUES) {
            query.check_canceled()?;
            leave_out_histograms(part);
        }
        rows.histograms.sort_by_key(|(row, step, _)| (*row, *step));
    }
    rows.values = all.into_inner();
    Ok(rows)
}

async fn collect_raw(raw: RawPlan, query: &Arc<QueryContext>, task: &Arc<TaskContext>) -> Result<Vec<RawSeries>> {
    match raw {
        RawPlan::Empty => Ok(Vec::new()),
        RawPlan::Samples { selection, range } => read_samples(&selection, range, query, task).await,
        RawPlan::Subquery { plan, names, grid } => {
            let rows = collect_rows(plan, names, query, task, grid, true).await?;
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
    let mut all: Released<Vec<RawSeries>> = Released::default();
    let mut since_pause = 0;
    for rows in partitions(selection, 1) {
        let mut reader = SeriesReader::new(selection, &rows, Arc::clone(query));
        while reader.advance().await? {
            query.check_canceled()?;
            let (labels, samples) = reader.read()?;
            query.count_samples(samples.len());
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
    Ok(all.into_inner())
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
