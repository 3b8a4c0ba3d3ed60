//! What a query gives back, and how it fails.

use std::time::Duration;

use isobar_block::{Histogram, Labels};
use std::sync::Arc;

/// The times at which an expression is evaluated: `start_ms + i * step_ms` for `i < len`, Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grid {
    /// First evaluation.
    pub start_ms: i64,
    /// Distance of evaluations; 1 for an instant query, where it has no meaning.
    pub step_ms: i64,
    /// Number of evaluations, at least 1.
    pub len: usize,
}

impl Grid {
    /// A single evaluation.
    pub fn instant(at_ms: i64) -> Self {
        Self { start_ms: at_ms, step_ms: 1, len: 1 }
    }

    /// Time of evaluation `i`.
    pub fn at(&self, i: usize) -> i64 {
        self.start_ms + i as i64 * self.step_ms
    }

    /// Time of the last evaluation.
    pub fn end_ms(&self) -> i64 {
        self.at(self.len - 1)
    }
}

/// Rows of a vector or a matrix: one per series.
#[derive(Clone, Debug)]
pub struct Rows {
    /// When the columns are.
    pub grid: Grid,
    /// Label sets, in the order of the answer.
    pub labels: Vec<Labels>,
    /// Row after row, `grid.len` values each; the stale marker's bits where there is no sample.
    pub values: Vec<f64>,
    /// Native histograms: (row, column, histogram), ascending. The value at such a place is absent.
    pub histograms: Vec<(u32, u32, Arc<Histogram>)>,
}

/// One series of a range vector: raw samples.
#[derive(Clone, Debug)]
pub struct RawSeries {
    /// Its labels.
    pub labels: Labels,
    /// Unix milliseconds and value, ascending.
    pub floats: Vec<(i64, f64)>,
    /// Unix milliseconds and histogram, ascending.
    pub histograms: Vec<(i64, Arc<Histogram>)>,
}

/// The value of a query.
#[derive(Clone, Debug)]
pub enum Value {
    /// A number per step.
    Scalar {
        /// When.
        grid: Grid,
        /// What; as long as the grid.
        values: Vec<f64>,
    },
    /// A text.
    String {
        /// When the query was evaluated, Unix milliseconds.
        at_ms: i64,
        /// The text.
        text: String,
    },
    /// Instant vector (grid of length 1) or, in a range query, matrix.
    Rows(Rows),
    /// Range vector of an instant query.
    Raw(Vec<RawSeries>),
}

/// How much work a query was.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Series selected.
    pub series: u64,
    /// Samples decoded.
    pub samples: u64,
    /// Peak of reserved memory.
    pub peak_memory_bytes: u64,
    /// Time to parse and plan.
    pub plan_time: Duration,
    /// Time to execute.
    pub exec_time: Duration,
}

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The value.
    pub value: Value,
    /// Things the user should know because the answer may be wrong or less than asked; sorted, each once.
    pub warnings: Vec<String>,
    /// Things that are probably mistakes in the query; sorted, each once.
    pub infos: Vec<String>,
    /// How much work it was.
    pub stats: Stats,
}

/// Why a query failed: one variant for each `errorType` of the Prometheus API.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The query or a parameter is wrong. 400 `bad_data`.
    #[error("{0}")]
    BadData(String),
    /// The data do not allow the operation, or a limit is exceeded. 422 `execution`.
    #[error("{0}")]
    Execution(String),
    /// The query took longer than allowed. 503 `timeout`.
    #[error("query timed out after {after:?} ({limit}); ask for less, or raise the limit")]
    Timeout {
        /// How long it ran.
        after: Duration,
        /// Which limit it was.
        limit: &'static str,
    },
    /// The client went away. 499 `canceled`.
    #[error("query was canceled")]
    Canceled,
    /// Too many queries at once. 503 `unavailable`.
    #[error("{0}")]
    Unavailable(String),
    /// A defect or a broken store. 500 `internal`.
    #[error("{0}")]
    Internal(String),
}

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<isobar_block::Error> for Error {
    fn from(error: isobar_block::Error) -> Self {
        match error {
            isobar_block::Error::Invalid { .. } => Self::BadData(error.to_string()),
            isobar_block::Error::Limit { .. } => Self::Execution(error.to_string()),
            other => Self::Internal(other.to_string()),
        }
    }
}
