//! How parts that know neither the query engine nor the ingester get at numbers and leave numbers: asked in PromQL, written as samples.
//!
//! The server implements both over its own parts, or over HTTP where it has none.

use async_trait::async_trait;

use crate::{Labels, Result, TenantId};

/// The value of one series at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorSample {
    /// What the series is called; without `__name__` where PromQL drops it.
    pub labels: Labels,
    /// Its value; histograms are left out of answers.
    pub value: f64,
}

/// The values of one series at the steps of a range.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixSeries {
    /// As of [`VectorSample`].
    pub labels: Labels,
    /// Time, Unix milliseconds, and value, by time. Steps without a value are left out.
    pub values: Vec<(i64, f64)>,
}

/// Answers PromQL.
#[async_trait]
pub trait PromQl: Send + Sync {
    /// The vector of an expression at a time, Unix milliseconds. A scalar is a vector of one series without labels.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] if the expression is wrong; another one if it could not be answered, or not in full.
    async fn instant(&self, tenant: &TenantId, query: &str, at_ms: i64) -> Result<Vec<VectorSample>>;

    /// The matrix of an expression from `start_ms` to `end_ms`, both included, every `step_ms`.
    ///
    /// # Errors
    /// As [`PromQl::instant`].
    async fn range(&self, tenant: &TenantId, query: &str, start_ms: i64, end_ms: i64, step_ms: i64) -> Result<Vec<MatrixSeries>>;
}

/// Takes samples.
#[async_trait]
pub trait SeriesSink: Send + Sync {
    /// Writes samples of a tenant: labels, Unix milliseconds, value. A stale marker ends a series.
    ///
    /// # Errors
    /// [`crate::Error::Limit`] if some were refused, with the reason; another one if they could not be written now.
    async fn write(&self, tenant: &TenantId, samples: Vec<(Labels, i64, f64)>) -> Result<()>;
}
