//! The PromQL engine: takes a query text and a source of one tenant, gives back an answer.
//!
//! A query runs in four steps: parse, resolve the selectors against the source (waits for data, on the caller's runtime),
//! plan, execute. The last two run on the engine's own threads, so that a heavy query never delays HTTP or timers.
//! Planning is in [`crate::plan`], the operators are in [`crate::exec`].
//!
//! Dropping the future of [`Engine::query`] cancels the query: the guard below raises a flag that every operator looks at
//! for each batch, and the tasks are aborted.

mod answer;
mod memory;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use datafusion::execution::TaskContext;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use datafusion::prelude::SessionConfig;
use futures::FutureExt;
use isobar_block::Source;
use tokio::runtime::{Builder, Handle, Runtime};

pub use crate::plan::SourceResolution;

use crate::exec::chunk::batch_rows;
use crate::exec::context::QueryContext;
use crate::plan::{self, Planned};
use crate::promql::{self, ast::ValueType};
use crate::result::{Answer, Error, Grid, Result};

use memory::QueryMemoryPool;

/// How many of the biggest consumers an over-limit error names.
const NAMED_MEMORY_CONSUMERS: usize = 3;

/// Stack of a thread that plans and executes: syntax trees may be [`promql::MAX_HEIGHT`] high, and an
/// operator calls the one below it.
const STACK_BYTES: usize = 32 << 20;

/// Longest text of a query that is planned on the caller's stack, which is smaller than [`STACK_BYTES`].
const LIGHT_QUERY_BYTES: usize = 256;

/// Limits and defaults of the engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Threads that compute, at least 1. Also the highest number of partitions of a scan.
    pub threads: usize,
    /// Memory that one query may reserve.
    pub query_memory_bytes: u64,
    /// Memory that all queries together may reserve.
    pub total_memory_bytes: u64,
    /// Samples that one query may hold in memory at a time.
    pub max_samples: u64,
    /// How far back an instant selector looks for a sample.
    pub lookback: Duration,
    /// Step of a subquery that names none.
    pub default_subquery_step: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            query_memory_bytes: 1 << 30,
            total_memory_bytes: 4 << 30,
            max_samples: 50_000_000,
            lookback: Duration::from_secs(300),
            default_subquery_step: Duration::from_secs(60),
        }
    }
}

/// One query.
#[derive(Clone, Debug)]
pub struct Request {
    /// The text.
    pub query: String,
    /// When it is evaluated.
    pub grid: Grid,
    /// Whether this is an instant query; the grid then has one point.
    pub instant: bool,
    /// Lookback instead of the configured one.
    pub lookback: Option<Duration>,
    /// How long it may run.
    pub timeout: Duration,
    /// How coarse the data may be that it is answered from, where finer data is there.
    pub max_source_resolution: SourceResolution,
    /// How many series the answer may have; those beyond are left out, with a warning. 0 is no limit.
    pub limit: usize,
}

/// The engine. Cheap to share behind an `Arc`; one for the process.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    memory: Arc<dyn MemoryPool>,
    /// `None` only while it is being dropped.
    cpu: Option<Runtime>,
}

impl Engine {
    /// Starts the engine's threads.
    ///
    /// # Errors
    /// [`Error::BadData`] if a limit is 0; [`Error::Internal`] if the system refuses threads.
    pub fn new(config: EngineConfig) -> Result<Self> {
        let positive = [
            ("threads", config.threads as u64),
            ("query memory", config.query_memory_bytes),
            ("total query memory", config.total_memory_bytes),
            ("max samples", config.max_samples),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::BadData(format!("query engine: {name} is 0; it must be at least 1")));
        }
        if config.default_subquery_step.as_millis() == 0 || config.lookback.as_millis() == 0 {
            return Err(Error::BadData("query engine: lookback and default subquery step must be at least 1ms".into()));
        }
        // Aborts and spawns from other threads arrive in the injection queue; looking at it first keeps cancellation prompt.
        let cpu = Builder::new_multi_thread()
            .worker_threads(config.threads)
            .thread_name("isobar-query")
            .global_queue_interval(1)
            .thread_stack_size(STACK_BYTES)
            .enable_time()
            .build()
            .map_err(|e| Error::Internal(format!("query engine: cannot start {} threads: {e}", config.threads)))?;
        let total = usize::try_from(config.total_memory_bytes).unwrap_or(usize::MAX);
        let consumers = std::num::NonZeroUsize::new(NAMED_MEMORY_CONSUMERS).expect("the constant is not 0");
        let memory = Arc::new(TrackConsumersPool::new(GreedyMemoryPool::new(total), consumers));
        Ok(Self { config, memory, cpu: Some(cpu) })
    }

    /// The limits and defaults that the engine was made with.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Memory that running queries have reserved at the moment.
    pub fn reserved_memory_bytes(&self) -> u64 {
        self.memory.reserved() as u64
    }

    /// Answers a query. Must be awaited on a Tokio runtime with IO and time; data are loaded there. Dropping the future
    /// cancels the query.
    ///
    /// # Errors
    /// [`Error::BadData`] for a wrong query; [`Error::Execution`] where the data do not allow the operation or a limit is
    /// exceeded; [`Error::Timeout`]; [`Error::Internal`] for corrupt data and defects.
    pub async fn query(&self, source: Arc<dyn Source>, request: Request) -> Result<Answer> {
        self.within_timeout(request.timeout, self.answer(source, &request)).await
    }

    /// The physical plan of a query as an indented tree; with `analyze` the query is run, and the tree has rows and times.
    ///
    /// # Errors
    /// As [`Engine::query`].
    pub async fn explain(&self, source: Arc<dyn Source>, request: Request, analyze: bool) -> Result<String> {
        self.within_timeout(request.timeout, self.explained(source, &request, analyze)).await
    }

    async fn within_timeout<T>(&self, timeout: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(timeout, work).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout { after: timeout, limit: "query timeout" }),
        }
    }

    async fn answer(&self, source: Arc<dyn Source>, request: &Request) -> Result<Answer> {
        let began = Instant::now();
        let (query, _guard) = self.start(request)?;
        let selected = self.select(&*source, &query, request).await?;
        let memory = QueryMemoryPool::new(self.config.query_memory_bytes, Arc::clone(&self.memory));
        let shape = answer::Shape { grid: request.grid, instant: request.instant, limit: request.limit };
        let light = request.query.len() <= LIGHT_QUERY_BYTES && selected.is_light();
        let work = {
            let (query, memory) = (Arc::clone(&query), Arc::clone(&memory));
            async move {
                let planned = selected.plan(&query)?;
                let plan_time = began.elapsed();
                let task = task_context(&query, memory, planned.longest_vector())?;
                let value = answer::collect(planned, &query, task, shape).await?;
                Ok((value, plan_time))
            }
        };
        let (value, plan_time) = if light { here(work).await? } else { self.on_cpu(work).await? };
        let (warnings, infos) = query.take_annotations();
        let mut stats = query.stats();
        stats.peak_memory_bytes = memory.peak_bytes();
        stats.plan_time = plan_time;
        stats.exec_time = began.elapsed() - plan_time;
        Ok(Answer { value, warnings, infos, stats })
    }

    async fn explained(&self, source: Arc<dyn Source>, request: &Request, analyze: bool) -> Result<String> {
        let (query, _guard) = self.start(request)?;
        let selected = self.select(&*source, &query, request).await?;
        let memory = QueryMemoryPool::new(self.config.query_memory_bytes, Arc::clone(&self.memory));
        let shape = answer::Shape { grid: request.grid, instant: request.instant, limit: request.limit };
        self.on_cpu(async move {
            let planned = selected.plan(&query)?;
            let root = match &planned {
                Planned::Vector(vector) => Arc::clone(&vector.plan),
                Planned::Scalar(scalar) => scalar.plan(shape.grid.len)?,
                Planned::Text(text) => return Ok(format!("StringLiteral: {text:?}\n")),
                Planned::Raw(raw) => return Ok(raw.describe()),
            };
            if analyze {
                let task = task_context(&query, memory, planned.longest_vector())?;
                answer::collect(planned, &query, task, shape).await?;
            }
            let mut out = String::new();
            let display =
                if analyze { DisplayableExecutionPlan::with_metrics(root.as_ref()) } else { DisplayableExecutionPlan::new(root.as_ref()) };
            write!(out, "{}", display.indent(false)).expect("writing to a string does not fail");
            Ok(out)
        })
        .await
    }

    /// Parses, and makes the context that all operators of the query share.
    fn start(&self, request: &Request) -> Result<(Arc<QueryContext>, CancelGuard)> {
        let expr = promql::parse(&request.query).map_err(|e| Error::BadData(e.to_string()))?;
        let kind = expr.value_type();
        if !request.instant && !matches!(kind, ValueType::Scalar | ValueType::Vector) {
            let kind = if kind == ValueType::Matrix { "range vector" } else { "string" };
            return Err(Error::BadData(format!("invalid expression type \"{kind}\" for range query, must be Scalar or instant Vector")));
        }
        if request.grid.len == 0 || (request.instant && request.grid.len != 1) || request.grid.step_ms <= 0 {
            return Err(Error::BadData("a query needs at least one time of evaluation and a positive step".into()));
        }
        let cancel = Arc::new(AtomicBool::new(false));
        let query =
            Arc::new(QueryContext::new(request.query.clone(), expr, Arc::clone(&cancel), Handle::current(), self.config.max_samples));
        Ok((query, CancelGuard(cancel)))
    }

    async fn select(&self, source: &dyn Source, query: &Arc<QueryContext>, request: &Request) -> Result<plan::Selected> {
        let settings = plan::Settings {
            grid: request.grid,
            instant: request.instant,
            lookback_ms: request.lookback.unwrap_or(self.config.lookback).as_millis() as i64,
            resolution: request.max_source_resolution,
            default_subquery_step_ms: self.config.default_subquery_step.as_millis() as i64,
            threads: self.config.threads,
        };
        plan::select(source, query, settings).await
    }

    /// Runs work on the engine's threads; it is aborted when the returned future is dropped.
    async fn on_cpu<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let cpu = self.cpu.as_ref().expect("the runtime is there until the engine is dropped");
        let mut task = AbortOnDrop(cpu.spawn(work));
        match (&mut task.0).await {
            Ok(result) => result,
            Err(e) if e.is_cancelled() => Err(Error::Canceled),
            Err(e) => Err(Error::Internal(format!("query engine: {e}"))),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Waiting for the threads is not allowed inside async code, where the last owner may live.
        if let Some(cpu) = self.cpu.take() {
            cpu.shutdown_background();
        }
    }
}

/// What DataFusion's operators get: no disk, this query's share of memory, this query's context, batches of a size that is
/// worked off in a fraction of a millisecond if their vectors have `steps` values.
fn task_context(query: &Arc<QueryContext>, memory: Arc<QueryMemoryPool>, steps: usize) -> Result<Arc<TaskContext>> {
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(memory)
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
        .build_arc()
        .map_err(answer::from_datafusion)?;
    let mut config = SessionConfig::new().with_extension(Arc::clone(query)).with_batch_size(batch_rows(steps));
    // A partial aggregation that gives up on grouping would only move its work to the final one, which is serial.
    config.options_mut().execution.skip_partial_aggregation_probe_ratio_threshold = 1.0;
    Ok(Arc::new(TaskContext::new(None, String::new(), config, HashMap::new(), HashMap::new(), HashMap::new(), HashMap::new(), runtime)))
}

/// Runs light work on the caller's thread: waking another one would take longer than the work itself.
async fn here<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| Err(Error::Internal("query engine: a defect stopped the query".into())))
}

/// Raises the flag of a query when its future ends, however it ends.
struct CancelGuard(Arc<AtomicBool>);

impl Drop for CancelGuard {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
