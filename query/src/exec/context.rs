//! What all operators of one query share: the cancel flag, the annotations, the counters, the runtime that loads data.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::promql::ast::{Expr, Span};
use crate::result::{Error, Result, Stats};

/// How many warnings, and how many infos, an answer carries; the rest is only counted.
const MAX_ANNOTATIONS: usize = 10;

/// The context of one query.
pub struct QueryContext {
    text: String,
    expr: Expr,
    cancel: Arc<AtomicBool>,
    io: Handle,
    annotations: Mutex<Annotations>,
    max_samples: u64,
    held_samples: AtomicU64,
    series: AtomicU64,
    samples: AtomicU64,
}

#[derive(Default)]
struct Annotations {
    warnings: BTreeSet<String>,
    infos: BTreeSet<String>,
}

impl QueryContext {
    /// A context for `expr`, which was parsed from `text`. `io` is where data are loaded.
    pub fn new(text: String, expr: Expr, cancel: Arc<AtomicBool>, io: Handle, max_samples: u64) -> Self {
        Self {
            text,
            expr,
            cancel,
            io,
            annotations: Mutex::default(),
            max_samples,
            held_samples: AtomicU64::new(0),
            series: AtomicU64::new(0),
            samples: AtomicU64::new(0),
        }
    }

    /// The context that the engine put into a task.
    ///
    /// # Errors
    /// If the plan is run by something else than the engine.
    pub fn of(task: &TaskContext) -> Result<Arc<Self>, DataFusionError> {
        task.session_config()
            .get_extension::<Self>()
            .ok_or_else(|| DataFusionError::Internal("a PromQL operator was run without a query context".into()))
    }

    /// The whole expression.
    pub fn expr(&self) -> &Expr {
        &self.expr
    }

    /// The runtime on which waiting for data is done.
    pub fn io(&self) -> &Handle {
        &self.io
    }

    /// Fails if nobody waits for the answer any more. To be called at least once for each batch, and once a millisecond in
    /// long loops.
    ///
    /// # Errors
    /// [`Error::Canceled`].
    pub fn check_canceled(&self) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) { Err(Error::Canceled) } else { Ok(()) }
    }

    /// Notes something that may make the answer wrong. `span` is what it is about.
    pub fn warn(&self, span: Span, message: impl fmt::Display) {
        let text = format!("PromQL warning: {message} ({})", self.position(span));
        self.annotations.lock().warnings.insert(text);
    }

    /// Notes something that is probably a mistake in the query.
    pub fn info(&self, span: Span, message: impl fmt::Display) {
        let text = format!("PromQL info: {message} ({})", self.position(span));
        self.annotations.lock().infos.insert(text);
    }

    /// Notes something about the data and not about a place in the query.
    pub fn warn_general(&self, message: impl Into<String>) {
        self.annotations.lock().warnings.insert(message.into());
    }

    fn position(&self, span: Span) -> String {
        let before = self.text.as_bytes().get(..span.start as usize).unwrap_or(self.text.as_bytes());
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
        format!("{line}:{column}")
    }

    /// Warnings and infos so far, sorted; they are gone from the context then.
    pub fn take_annotations(&self) -> (Vec<String>, Vec<String>) {
        let Annotations { warnings, infos } = std::mem::take(&mut *self.annotations.lock());
        (capped(warnings, "warning"), capped(infos, "info"))
    }

    /// Counts samples that are held in memory.
    ///
    /// # Errors
    /// [`Error::Execution`] if they are too many.
    pub fn hold_samples(&self, count: usize) -> Result<()> {
        let held = self.held_samples.fetch_add(count as u64, Ordering::Relaxed) + count as u64;
        if held > self.max_samples {
            return Err(Error::Execution(format!(
                "query processing would load too many samples into memory in query execution (limit {}, query.max-samples); select fewer series or a longer step, or raise the limit",
                self.max_samples
            )));
        }
        Ok(())
    }

    /// Takes back a count given to [`QueryContext::hold_samples`].
    pub fn release_samples(&self, count: usize) {
        self.held_samples.fetch_sub(count as u64, Ordering::Relaxed);
    }

    /// Counts series that were selected.
    pub fn count_series(&self, count: usize) {
        self.series.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Counts samples that were decoded.
    pub fn count_samples(&self, count: usize) {
        self.samples.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// The counters; memory and times are left at 0.
    pub fn stats(&self) -> Stats {
        Stats { series: self.series.load(Ordering::Relaxed), samples: self.samples.load(Ordering::Relaxed), ..Stats::default() }
    }
}

impl fmt::Debug for QueryContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QueryContext({:?})", self.text)
    }
}

fn capped(all: BTreeSet<String>, kind: &str) -> Vec<String> {
    let left_out = all.len().saturating_sub(MAX_ANNOTATIONS);
    let mut list: Vec<String> = all.into_iter().take(MAX_ANNOTATIONS).collect();
    if left_out > 0 {
        list.push(format!("{left_out} more {kind} annotations omitted"));
    }
    list
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        Self::External(Box::new(error))
    }
}
