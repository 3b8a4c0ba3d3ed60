//! One `ExecutionPlan` for all operators of PromQL that are not DataFusion's: it moves the batches, gathers side inputs,
//! accounts memory and looks at the cancel flag, so that an [`Operator`] is plain computation on [`Chunk`]s.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType, ReplaceChildrenOptions, SchedulingType,
};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::StreamExt;
use tokio::sync::OnceCell;

use super::chunk::{self, Chunk};
use super::context::QueryContext;
use super::release::Released;

/// Outputs with more values are given out in pieces, so that what is above never works long on one batch.
const LARGE_OUTPUT_VALUES: usize = 8 * chunk::BATCH_VALUES;

/// What one operator computes.
pub trait Operator: fmt::Debug + Send + Sync + 'static {
    /// Name in plans.
    fn name(&self) -> &'static str;

    /// What EXPLAIN shows after the name.
    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;

    /// Length of the vectors that come out.
    fn steps(&self) -> usize;

    /// Whether each partition of the first input can be worked on for itself.
    fn parallel(&self) -> bool {
        false
    }

    /// Begins the work on one partition. `sides` are all inputs but the first, each whole.
    ///
    /// # Errors
    /// Where the data of the side inputs do not allow the operation.
    fn start(&self, sides: Arc<Vec<Chunk>>, query: &Arc<QueryContext>) -> crate::result::Result<Box<dyn Worker>>;
}

/// The work of an [`Operator`] on one partition of its first input.
pub trait Worker: Send {
    /// Takes some rows, and may give some back.
    ///
    /// # Errors
    /// Where the data do not allow the operation.
    fn push(&mut self, input: Chunk) -> crate::result::Result<Option<Chunk>>;

    /// Gives the rest when there is no more input.
    ///
    /// # Errors
    /// Where the data do not allow the operation.
    fn finish(&mut self) -> crate::result::Result<Option<Chunk>> {
        Ok(None)
    }

    /// Memory that is held between calls.
    fn size_bytes(&self) -> usize {
        0
    }
}

/// A worker that maps each chunk for itself.
pub struct MapWorker<F>(pub F);

impl<F: FnMut(Chunk) -> crate::result::Result<Chunk> + Send> Worker for MapWorker<F> {
    fn push(&mut self, input: Chunk) -> crate::result::Result<Option<Chunk>> {
        (self.0)(input).map(Some)
    }
}

/// A worker that needs all rows before it can say anything.
pub struct WholeWorker<F> {
    steps: usize,
    gathered: Released<Vec<Chunk>>,
    run: Option<F>,
    query: Arc<QueryContext>,
}

impl<F: FnOnce(Chunk) -> crate::result::Result<Chunk> + Send> WholeWorker<F> {
    /// `run` gets all rows, with vectors of `steps` values.
    pub fn new(steps: usize, query: &Arc<QueryContext>, run: F) -> Self {
        Self { steps, gathered: Released::default(), run: Some(run), query: Arc::clone(query) }
    }
}

impl<F: FnOnce(Chunk) -> crate::result::Result<Chunk> + Send> Worker for WholeWorker<F> {
    fn push(&mut self, input: Chunk) -> crate::result::Result<Option<Chunk>> {
        self.gathered.push(input);
        Ok(None)
    }

    fn finish(&mut self) -> crate::result::Result<Option<Chunk>> {
        let all = Chunk::concat(self.steps, std::mem::take(&mut self.gathered).into_inner(), &self.query)?;
        self.run.take().map(|run| run(all)).transpose()
    }

    fn size_bytes(&self) -> usize {
        self.gathered.iter().map(Chunk::size_bytes).sum()
    }
}

/// An [`Operator`] with its inputs, as a node of a plan.
pub struct OperatorExec {
    operator: Arc<dyn Operator>,
    children: Vec<Arc<dyn ExecutionPlan>>,
    properties: Arc<PlanProperties>,
    schema: SchemaRef,
    sides: Arc<OnceCell<Sides>>,
    metrics: ExecutionPlanMetricsSet,
}

#[derive(Clone)]
struct Sides {
    chunks: Arc<Vec<Chunk>>,
    _held: Arc<Vec<Held>>,
}

impl OperatorExec {
    #[expect(clippy::new_ret_no_self, reason = "plans are built as trait objects")]
    /// Puts `operator` on top of its inputs; the first is streamed, the others are read whole beforehand.
    pub fn new(operator: impl Operator, children: Vec<Arc<dyn ExecutionPlan>>) -> Arc<dyn ExecutionPlan> {
        Self::with_operator(Arc::new(operator), children)
    }

    fn with_operator(operator: Arc<dyn Operator>, children: Vec<Arc<dyn ExecutionPlan>>) -> Arc<dyn ExecutionPlan> {
        let parallel = operator.parallel();
        let children: Vec<_> =
            children.into_iter().enumerate().map(|(i, child)| if i == 0 && parallel { child } else { single_partition(child) }).collect();
        let partitions = children.first().map_or(1, |c| c.properties().output_partitioning().partition_count());
        let schema = chunk::schema(operator.steps());
        let properties = properties(Arc::clone(&schema), partitions);
        Arc::new(Self { operator, children, properties, schema, sides: Arc::default(), metrics: ExecutionPlanMetricsSet::new() })
    }
}

/// Properties of a source of vectors.
pub fn properties(schema: SchemaRef, partitions: usize) -> Arc<PlanProperties> {
    let properties = PlanProperties::new(
        EquivalenceProperties::new(schema),
        Partitioning::UnknownPartitioning(partitions),
        EmissionType::Incremental,
        Boundedness::Bounded,
    );
    Arc::new(properties.with_scheduling_type(SchedulingType::Cooperative))
}

/// Length of the vectors that come out of a plan; 0 if it has none.
pub fn steps_of(plan: &dyn ExecutionPlan) -> usize {
    match plan.schema().field(chunk::VALUES).data_type() {
        DataType::FixedSizeList(_, steps) => *steps as usize,
        DataType::Struct(fields) => match fields.first().map(|f| f.data_type()) {
            Some(DataType::FixedSizeList(_, steps)) => *steps as usize,
            _ => 0,
        },
        _ => 0,
    }
}

/// The plan with all its rows in one partition.
pub fn single_partition(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    if plan.properties().output_partitioning().partition_count() == 1 { plan } else { Arc::new(CoalescePartitionsExec::new(plan)) }
}

impl fmt::Debug for OperatorExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.operator)
    }
}

impl DisplayAs for OperatorExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.operator.name())?;
        self.operator.describe(f)
    }
}

impl ExecutionPlan for OperatorExec {
    fn name(&self) -> &str {
        self.operator.name()
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
        Ok(Self::with_operator(Arc::clone(&self.operator), children))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, task: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let query = QueryContext::of(&task)?;
        let reservation = MemoryConsumer::new(self.operator.name()).register(task.memory_pool());
        let state = Running {
            input: Some(self.children[0].execute(partition, Arc::clone(&task))?),
            side_plans: self.children[1..].to_vec(),
            sides: Arc::clone(&self.sides),
            operator: Arc::clone(&self.operator),
            worker: None,
            rest: None,
            schema: Arc::clone(&self.schema),
            metrics: BaselineMetrics::new(&self.metrics, partition),
            reservation,
            query,
            task,
        };
        let batches = futures::stream::try_unfold(state, |mut state| async move {
            let batch = state.next_batch().await?;
            Ok(batch.map(|batch| (batch, state)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

struct Running {
    input: Option<SendableRecordBatchStream>,
    side_plans: Vec<Arc<dyn ExecutionPlan>>,
    sides: Arc<OnceCell<Sides>>,
    operator: Arc<dyn Operator>,
    worker: Option<Box<dyn Worker>>,
    /// A large chunk that is given out in pieces, and how many of its rows are gone.
    rest: Option<(Chunk, usize)>,
    schema: SchemaRef,
    metrics: BaselineMetrics,
    reservation: MemoryReservation,
    query: Arc<QueryContext>,
    task: Arc<TaskContext>,
}

impl Running {
    async fn next_batch(&mut self) -> Result<Option<arrow::record_batch::RecordBatch>> {
        if self.worker.is_none() {
            let sides = self.sides.get_or_try_init(|| gather_sides(&self.side_plans, &self.task, &self.query)).await?;
            self.worker = Some(self.operator.start(Arc::clone(&sides.chunks), &self.query)?);
        }
        if self.rest.is_some() {
            // What is above may work off the pieces inside of one poll.
            pause().await;
            self.query.check_canceled()?;
        }
        if let Some(piece) = self.next_piece() {
            return Ok(Some(piece.into_batch(Arc::clone(&self.schema))?));
        }
        let worker = self.worker.as_mut().expect("made above");
        while let Some(input) = self.input.as_mut() {
            let next = input.next().await.transpose()?;
            self.query.check_canceled()?;
            let timer = self.metrics.elapsed_compute().timer();
            let output = match next {
                Some(batch) => worker.push(Chunk::from_batch(batch)?)?,
                None => {
                    self.input = None;
                    worker.finish()?
                }
            };
            self.reservation.try_resize(worker.size_bytes())?;
            timer.done();
            if let Some(chunk) = output.filter(|c| !c.is_empty()) {
                self.metrics.record_output(chunk.len());
                self.rest = Some((chunk, 0));
                return self.next_piece().map(|piece| piece.into_batch(Arc::clone(&self.schema))).transpose();
            }
        }
        Ok(None)
    }

    /// The next rows of a large chunk; a small one as it is.
    fn next_piece(&mut self) -> Option<Chunk> {
        let (chunk, from) = self.rest.take()?;
        if from == 0 && chunk.values.len() <= LARGE_OUTPUT_VALUES {
            return Some(chunk);
        }
        let to = chunk.len().min(from + chunk::batch_rows(chunk.steps));
        let piece = chunk.rows(from..to);
        self.rest = (to < chunk.len()).then_some((chunk, to));
        Some(piece)
    }
}

async fn gather_sides(plans: &[Arc<dyn ExecutionPlan>], task: &Arc<TaskContext>, query: &Arc<QueryContext>) -> Result<Sides> {
    let mut chunks = Vec::with_capacity(plans.len());
    let mut held = Vec::with_capacity(plans.len());
    for plan in plans {
        let (chunk, guard) = gather(Arc::clone(plan), task, query).await?;
        chunks.push(chunk);
        held.push(guard);
    }
    Ok(Sides { chunks: Arc::new(chunks), _held: Arc::new(held) })
}

/// Memory and samples that rows in memory count for, given back when it is dropped.
pub struct Held {
    reservation: MemoryReservation,
    samples: usize,
    query: Arc<QueryContext>,
}

impl Held {
    fn add(&mut self, chunk: &Chunk) -> Result<()> {
        self.query.hold_samples(chunk.values.len())?;
        self.samples += chunk.values.len();
        self.reservation.try_grow(chunk.size_bytes())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.query.release_samples(self.samples);
        self.reservation.free();
    }
}

/// Runs a plan and gathers all of its rows.
///
/// # Errors
/// Those of the plan, or when a limit on memory or samples is exceeded.
pub async fn gather(plan: Arc<dyn ExecutionPlan>, task: &Arc<TaskContext>, query: &Arc<QueryContext>) -> Result<(Chunk, Held)> {
    let mut held =
        Held { reservation: MemoryConsumer::new("gathered rows").register(task.memory_pool()), samples: 0, query: Arc::clone(query) };
    let steps = steps_of(&*plan);
    let mut stream = single_partition(plan).execute(0, Arc::clone(task))?;
    let mut chunks: Released<Vec<Chunk>> = Released::default();
    while let Some(batch) = stream.next().await.transpose()? {
        query.check_canceled()?;
        let chunk = Chunk::from_batch(batch)?;
        held.add(&chunk)?;
        chunks.push(chunk);
    }
    Ok((Chunk::concat(steps, chunks.into_inner(), query)?, held))
}

/// Lets other tasks of the thread run before going on, so that cancellation and small queries are not kept waiting.
pub fn pause() -> impl Future<Output = ()> {
    let mut paused = false;
    std::future::poll_fn(move |cx: &mut std::task::Context<'_>| {
        if std::mem::replace(&mut paused, true) {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    })
}
