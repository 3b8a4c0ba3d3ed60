//! The leaf of all plans: reads series, applies the instant selector or the range function to their samples, reduces their
//! labels, in one pass.
//!
//! Partitions own disjoint ranges of labels over all sets of the selection. Each yields after every batch, since the
//! aggregation above drains it inside of one poll.

mod evaluate;
pub mod reader;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::ReplaceChildrenOptions;
use datafusion::physical_plan::metrics::{BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use isobar_block::LabelsRef;

use super::chunk::{self, ChunkBuilder};
use super::context::QueryContext;
use super::labels::LabelRule;
use super::operator;
use crate::kernel::{RangeFn, WindowSpec};
use crate::plan::Selection;
use crate::promql::ast::{RangeMode, Span};
use crate::result::Grid;

use evaluate::Evaluator;
pub use evaluate::{note_counter_name, resolve, warn_quantiles};
use reader::SeriesReader;

/// Memory of a partition besides its batch: decoded samples, windows and what the kernels keep.
const PARTITION_MEMORY_BYTES: usize = 1 << 20;

/// What the scan computes of the samples of a series.
#[derive(Clone, Debug)]
pub enum ScanFunction {
    /// The newest value in the lookback.
    Instant,
    /// The time of the newest value in the lookback.
    Timestamp,
    /// The same for `info`, which has no use for histograms: where the newest sample is one, the marker of histograms.
    InfoTimestamp,
    /// A function of a range vector.
    Range(RangeCall),
}

/// A call of a function of a range vector.
#[derive(Clone, Debug)]
pub struct RangeCall {
    /// The function.
    pub function: RangeFn,
    /// Its name, for EXPLAIN.
    pub name: &'static str,
    /// Width of the range.
    pub range_ms: i64,
    /// Its scalar arguments, with where they stand in the text.
    pub params: Vec<(Param, Span)>,
    /// Where the range vector stands.
    pub span: Span,
}

/// A scalar argument.
#[derive(Clone, Debug)]
pub enum Param {
    /// Known when the query is planned; one value, or one for each step.
    Known(Vec<f64>),
    /// The next one of the side inputs.
    Input,
}

impl ScanFunction {
    /// Whether the result is something else than a sample, so that the metric's name is removed.
    pub fn removes_names(&self) -> bool {
        match self {
            Self::Instant | Self::InfoTimestamp => false,
            Self::Timestamp => true,
            Self::Range(call) => call.removes_names(),
        }
    }

    /// Width of the range, unless this is an instant selector.
    pub fn range_ms(&self) -> Option<i64> {
        match self {
            Self::Instant | Self::Timestamp | Self::InfoTimestamp => None,
            Self::Range(call) => Some(call.range_ms),
        }
    }
}

impl RangeCall {
    /// Whether the result is something else than a sample, so that the metric's name is removed.
    pub fn removes_names(&self) -> bool {
        !matches!(self.function, RangeFn::FirstOverTime | RangeFn::LastOverTime)
    }
}

/// What a scan reads and computes.
#[derive(Clone, Debug)]
pub struct ScanSpec {
    /// The series.
    pub selection: Arc<Selection>,
    /// When windows end, and how wide they are; `offset` and `@` are applied.
    pub windows: WindowSpec,
    /// Width of the windows at steps where those have no result, because the data is coarser than they are wide.
    pub widened_ms: Option<i64>,
    /// When the expression is evaluated.
    pub eval: Grid,
    /// What is computed.
    pub function: ScanFunction,
    /// What is left of the labels; all of them if `None`.
    pub rule: Option<LabelRule>,
    /// Where the selector stands.
    pub span: Span,
    /// Whether histograms without a hint on resets get one by comparison with the sample before.
    pub detect_resets: bool,
    /// How many partitions there should be.
    pub partitions: usize,
}

/// The scan as a node of a plan. Its children are the scalar arguments that are not known when the query is planned.
pub struct SeriesScanExec {
    spec: Arc<ScanSpec>,
    partitions: Vec<Vec<Range<usize>>>,
    children: Vec<Arc<dyn ExecutionPlan>>,
    properties: Arc<PlanProperties>,
    schema: SchemaRef,
    metrics: ExecutionPlanMetricsSet,
}

impl SeriesScanExec {
    /// A scan with one child for each [`Param::Input`].
    pub fn with_inputs(spec: Arc<ScanSpec>, children: Vec<Arc<dyn ExecutionPlan>>) -> Arc<dyn ExecutionPlan> {
        let partitions = reader::partitions(&spec.selection, spec.partitions);
        let schema = chunk::schema(spec.eval.len);
        let properties = operator::properties(Arc::clone(&schema), partitions.len());
        Arc::new(Self { spec, partitions, children, properties, schema, metrics: ExecutionPlanMetricsSet::new() })
    }
}

impl fmt::Debug for SeriesScanExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SeriesScanExec({:?})", self.spec)
    }
}

impl DisplayAs for SeriesScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = &self.spec;
        write!(f, "SeriesScanExec: matchers={:?}, fn=", spec.selection.matchers)?;
        match &spec.function {
            ScanFunction::Instant => write!(f, "instant[lookback {}ms]", spec.windows.range_ms)?,
            ScanFunction::Timestamp | ScanFunction::InfoTimestamp => write!(f, "timestamp[lookback {}ms]", spec.windows.range_ms)?,
            ScanFunction::Range(call) => write!(f, "{}[{}ms]", call.name, call.range_ms)?,
        }
        match spec.windows.mode {
            RangeMode::Plain => {}
            RangeMode::Anchored => f.write_str(" anchored")?,
            RangeMode::Smoothed => f.write_str(" smoothed")?,
        }
        if let Some(rule) = &spec.rule {
            write!(f, ", labels={rule}")?;
        }
        let shift_ms = spec.eval.start_ms - spec.windows.grid.start_ms;
        if shift_ms != 0 {
            write!(f, ", shift={shift_ms}ms")?;
        }
        write!(
            f,
            ", steps={}, series={}, sets={}, partitions={}, {}",
            spec.eval.len,
            spec.selection.series(),
            spec.selection.sets.len(),
            self.partitions.len(),
            spec.selection.describe_resolution()
        )
    }
}

impl ExecutionPlan for SeriesScanExec {
    fn name(&self) -> &str {
        "SeriesScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.children.iter().collect()
    }

    fn apply_expressions(&self, _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Self::with_inputs(Arc::clone(&self.spec), children))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Self::with_inputs(Arc::clone(&self.spec), children))
    }

    fn execute(&self, partition: usize, task: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let query = QueryContext::of(&task)?;
        let mut scan = Scan {
            reader: SeriesReader::new(&self.spec.selection, &self.partitions[partition], Arc::clone(&query)),
            evaluator: Evaluator::new(Arc::clone(&self.spec), Arc::clone(&query)),
            builder: ChunkBuilder::new(self.spec.eval.len, 0),
            labels: Vec::new(),
            rows: chunk::batch_rows(self.spec.eval.len),
            schema: Arc::clone(&self.schema),
            metrics: BaselineMetrics::new(&self.metrics, partition),
            samples: MetricBuilder::new(&self.metrics).counter("samples", partition),
            reservation: MemoryConsumer::new("SeriesScanExec").register(task.memory_pool()),
            query,
            spec: Arc::clone(&self.spec),
        };
        let children = self.children.clone();
        let first = async move {
            let mut inputs = Vec::with_capacity(children.len());
            for child in children {
                let (chunk, _held) = operator::gather(child, &task, &scan.query).await?;
                inputs.push(chunk.values.into_inner());
            }
            scan.evaluator.set_inputs(inputs);
            scan.reserve()?;
            Ok::<_, datafusion::error::DataFusionError>(scan)
        };
        let batches = futures::stream::try_unfold(Progress::Start(Box::pin(first)), |progress| async move {
            let mut scan = match progress {
                Progress::Start(first) => Box::new(first.await?),
                Progress::Running(scan) => {
                    operator::pause().await;
                    scan
                }
            };
            let batch = scan.next_batch().await?;
            Ok(batch.map(|batch| (batch, Progress::Running(scan))))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

enum Progress<F> {
    Start(F),
    Running(Box<Scan>),
}

struct Scan {
    reader: SeriesReader,
    evaluator: Evaluator,
    builder: ChunkBuilder,
    labels: Vec<u8>,
    rows: usize,
    schema: SchemaRef,
    metrics: BaselineMetrics,
    samples: Count,
    reservation: MemoryReservation,
    query: Arc<QueryContext>,
    spec: Arc<ScanSpec>,
}

impl Scan {
    fn reserve(&self) -> Result<()> {
        let batch = self.rows * self.spec.eval.len * size_of::<f64>();
        // One batch is being made, one is with the operator above.
        self.reservation.try_grow(2 * batch + PARTITION_MEMORY_BYTES)
    }

    fn count(&self, decoded: usize) {
        self.samples.add(decoded);
        self.query.count_samples(decoded);
    }

    async fn next_batch(&mut self) -> Result<Option<RecordBatch>> {
        self.query.check_canceled()?;
        let elapsed = self.metrics.elapsed_compute().clone();
        let _timer = elapsed.timer();
        let steps = self.spec.eval.len;
        let mut decoded = 0;
        self.builder.reserve(self.rows);
        while self.builder.len() < self.rows && self.reader.advance().await? {
            let (labels, samples) = self.reader.read()?;
            decoded += samples.len();
            let start = self.builder.values.len();
            self.builder.values.resize(start + steps, chunk::ABSENT);
            let out = &mut self.builder.values[start..];
            let cells = self.evaluator.evaluate(samples, labels, out);
            if !chunk::any_present(out) {
                self.builder.values.truncate(start);
            } else {
                self.evaluator.note(labels, !samples.histograms.is_empty());
                self.builder.add_cells(&cells, |_| true);
                push_reduced(&mut self.builder, self.spec.rule.as_ref(), labels, &mut self.labels);
            }
            if decoded > evaluate::MAX_BATCH_SAMPLES {
                self.query.check_canceled()?;
                if !self.builder.is_empty() {
                    break;
                }
                self.count(std::mem::take(&mut decoded));
                operator::pause().await;
            }
        }
        self.count(decoded);
        if self.builder.is_empty() {
            return Ok(None);
        }
        let chunk = self.builder.finish();
        self.metrics.record_output(chunk.len());
        chunk.into_batch(Arc::clone(&self.schema)).map(Some)
    }
}

fn push_reduced(builder: &mut ChunkBuilder, rule: Option<&LabelRule>, labels: LabelsRef<'_>, bytes: &mut Vec<u8>) {
    let Some(rule) = rule else {
        return builder.push_labels(labels);
    };
    bytes.clear();
    rule.apply(labels, bytes);
    builder.push_labels(chunk::labels_from_bytes(bytes));
}
