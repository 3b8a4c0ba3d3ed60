//! The lineage part in this process: what it reaches of the others, its background work, and its end.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use isobar_block::{Error, Labels, MatrixSeries, PromQl, Result, SeriesSink, TenantId, VectorSample, is_stale};
use isobar_ingest::decoded::{WriteError, WriteSink};
use isobar_lineage::service::Service;
use isobar_query::Engine;
use isobar_query::engine::{Request, SourceResolution};
use isobar_query::result::{Error as QueryError, Grid, Value};
use isobar_query::storage::{Storage, View};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::self_scrape::request_of;

/// Series that an answer to lineage may have; beyond, it is not whole.
const MAX_SERIES: usize = 200_000;

/// Steps that a range for lineage may have.
const MAX_STEPS: i64 = 11_000;

/// The lineage service while it runs.
pub struct Lineage {
    service: Service,
    stop: watch::Sender<bool>,
    background: Mutex<Option<JoinHandle<()>>>,
}

impl Lineage {
    /// Starts the background work.
    pub fn start(service: Service) -> Self {
        let (stop, stopped) = watch::channel(false);
        let background = tokio::spawn(service.clone().run(stopped));
        Self { service, stop, background: Mutex::new(Some(background)) }
    }

    /// The service itself.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Stops the background work and waits for its end.
    pub async fn shutdown(&self) {
        self.stop.send_replace(true);
        let background = self.background.lock().take();
        if let Some(background) = background
            && let Err(error) = background.await
        {
            tracing::error!(%error, "lineage did not end in order");
        }
    }
}

/// PromQL answered by an engine of this process.
pub struct OwnEngine {
    /// Computes.
    pub engine: Arc<Engine>,
    /// What there is.
    pub storage: Arc<dyn Storage>,
    /// How long a query may take.
    pub timeout: Duration,
}

impl OwnEngine {
    async fn answer(&self, tenant: &TenantId, query: &str, grid: Grid, instant: bool) -> Result<Vec<MatrixSeries>> {
        let source = self.storage.source(tenant, &View::default()).await.map_err(error)?;
        let request = Request {
            query: query.to_owned(),
            grid,
            instant,
            lookback: None,
            timeout: self.timeout,
            max_source_resolution: SourceResolution::default(),
            limit: 0,
        };
        let answer = self.engine.query(source, request).await.map_err(error)?;
        match answer.value {
            Value::Rows(rows) if rows.labels.len() > MAX_SERIES => Err(Error::Limit {
                limit: "series of an answer for lineage",
                allowed: MAX_SERIES as u64,
                what: format!("{} series", rows.labels.len()),
                remedy: "make the query sum over more labels",
            }),
            Value::Rows(rows) => Ok(rows
                .labels
                .into_iter()
                .zip(rows.values.chunks_exact(rows.grid.len.max(1)))
                .map(|(labels, values)| MatrixSeries { labels, values: points(&rows.grid, values) })
                .filter(|series| !series.values.is_empty())
                .collect()),
            Value::Scalar { grid, values } => Ok(vec![MatrixSeries { labels: Labels::empty(), values: points(&grid, &values) }]),
            Value::String { .. } | Value::Raw(_) => {
                Err(Error::invalid("query for lineage", format!("{query:?} gives neither a vector nor a scalar")))
            }
        }
    }
}

fn points(grid: &Grid, values: &[f64]) -> Vec<(i64, f64)> {
    values.iter().enumerate().filter(|(_, v)| !is_stale(**v)).map(|(i, v)| (grid.at(i), *v)).collect()
}

fn error(error: QueryError) -> Error {
    match error {
        QueryError::BadData(reason) => Error::Invalid { what: "query for lineage", reason },
        other => Error::Unavailable { what: "query for lineage", reason: other.to_string() },
    }
}

#[async_trait]
impl PromQl for OwnEngine {
    async fn instant(&self, tenant: &TenantId, query: &str, at_ms: i64) -> Result<Vec<VectorSample>> {
        let series = self.answer(tenant, query, Grid::instant(at_ms), true).await?;
        Ok(series.into_iter().filter_map(|s| Some(VectorSample { value: s.values.last()?.1, labels: s.labels })).collect())
    }

    async fn range(&self, tenant: &TenantId, query: &str, start_ms: i64, end_ms: i64, step_ms: i64) -> Result<Vec<MatrixSeries>> {
        if step_ms <= 0 || end_ms < start_ms || (end_ms - start_ms) / step_ms >= MAX_STEPS {
            let reason = format!("from {start_ms} to {end_ms} every {step_ms} is no range of up to {MAX_STEPS} steps");
            return Err(Error::invalid("range for lineage", reason));
        }
        let len = ((end_ms - start_ms) / step_ms + 1) as usize;
        self.answer(tenant, query, Grid { start_ms, step_ms, len }, false).await
    }
}

/// Samples written into the ingester of this process.
pub struct OwnIngester(pub Arc<dyn WriteSink>);

#[async_trait]
impl SeriesSink for OwnIngester {
    async fn write(&self, tenant: &TenantId, samples: Vec<(Labels, i64, f64)>) -> Result<()> {
        let count = samples.len();
        match self.0.write(tenant, request_of(samples.into_iter(), Vec::new())).await {
            Ok(outcome) if outcome.rejected.total_without_exemplars() == 0 => Ok(()),
            Ok(outcome) => Err(Error::Limit {
                limit: "limits of the tenant",
                allowed: count as u64 - outcome.rejected.total_without_exemplars(),
                what: outcome.rejected.to_string(),
                remedy: "raise the limit, or write fewer series",
            }),
            Err(error @ WriteError::TooManyRequests { .. }) => Err(Error::Unavailable { what: "tenant's rate", reason: error.to_string() }),
            Err(error) => Err(Error::Unavailable { what: "ingester", reason: error.to_string() }),
        }
    }
}
