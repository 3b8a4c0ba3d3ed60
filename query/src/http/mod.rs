//! The Prometheus HTTP API (`/api/v1`) over the engine and a [`Storage`]: parameters in, the JSON envelope out.
//!
//! Writing, rules and administration are not here. What a server says about itself comes from a [`StatusProvider`]; which
//! tenant a request is for, from [`Api::tenant_of`]. A client that goes away drops the handler's future, which cancels the
//! query.

mod params;
mod envelope;
mod json;
pub(crate) mod buckets;
mod gate;
mod query;
mod metadata;
mod format;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::Response;
use axum::routing::{any, get};
use isobar_block::{Source, TenantId};
use prometheus_client::registry::Registry;

use crate::engine::Engine;
use crate::storage::{Storage, View};
use envelope::ApiError;
use gate::Gate;
use params::Params;

pub use status::{BuildInfo, HeadInfo, RuntimeInfo, StatusProvider, WalReplay};

/// Limits of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiConfig {
    /// Longest time that a query may take, waiting included. The parameter `timeout` can only make it shorter.
    pub timeout: Duration,
    /// Queries that run at a time.
    pub max_concurrency: usize,
    /// Queries that may wait for others; further ones are refused with 503.
    pub max_waiting: usize,
    /// Steps that a range query may have.
    pub max_points: u64,
    /// Size of a request's body.
    pub max_body_bytes: usize,
    /// Whether range queries that do not say (`max_source_resolution`) are answered from downsampled data if that is fine
    /// enough for their step.
    pub auto_downsampling: bool,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(120),
            max_concurrency: 20,
            max_waiting: 200,
            max_points: 11_000,
            max_body_bytes: 4 << 20,
            auto_downsampling: true,
        }
    }
}

/// Tells the tenant of a request by its headers, or why they are wrong (400).
pub type TenantOf = Arc<dyn Fn(&HeaderMap) -> Result<TenantId, String> + Send + Sync>;

/// What the handlers work with; clones share it.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    engine: Arc<Engine>,
    storage: Arc<dyn Storage>,
    status: Arc<dyn StatusProvider>,
    tenant_of: TenantOf,
    config: ApiConfig,
    gate: Gate,
}

impl Api {
    /// The API over these parts.
    pub fn new(
        engine: Arc<Engine>,
        storage: Arc<dyn Storage>,
        status: Arc<dyn StatusProvider>,
        tenant_of: TenantOf,
        config: ApiConfig,
    ) -> Self {
        let gate = Gate::new(config.max_concurrency, config.max_waiting);
        Self(Arc::new(Inner { engine, storage, status, tenant_of, config, gate }))
    }

    /// Registers what is counted: running and waiting queries, durations, samples, refusals.
    pub fn register(&self, registry: &mut Registry) {
        self.0.gate.register(registry);
    }

    /// Which tenant a request is for, and what there is of it.
    async fn source(&self, headers: &HeaderMap, view: &View) -> Result<Arc<dyn Source>, ApiError> {
        let tenant = (self.0.tenant_of)(headers).map_err(ApiError::bad_data)?;
        Ok(self.0.storage.source(&tenant, view).await?)
    }

    /// The parameters of a request, those of a posted form first.
    async fn params(&self, request: Request) -> Result<(Params, HeaderMap), ApiError> {
        let (parts, body) = request.into_parts();
        let params = Params::read(&parts, body, self.0.config.max_body_bytes).await?;
        Ok((params, parts.headers))
    }
}

/// The routes. Paths below `/api/v1` that nobody serves, and methods that a path does not have, are answered in the envelope.
pub fn router(api: Api) -> Router {
    Router::new()
        .route("/api/v1/query", get(query::instant).post(query::instant))
        .route("/api/v1/query_range", get(query::range).post(query::range))
        .route("/api/v1/query_explain", get(query::explain_instant).post(query::explain_instant))
        .route("/api/v1/query_range_explain", get(query::explain_range).post(query::explain_range))
        .route("/api/v1/query_exemplars", get(metadata::exemplars).post(metadata::exemplars))
        .route("/api/v1/series", get(metadata::series).post(metadata::series))
        .route("/api/v1/labels", get(metadata::label_names).post(metadata::label_names))
        .route("/api/v1/label/{name}/values", get(metadata::label_values))
        .route("/api/v1/metadata", get(metadata::metadata))
        .route("/api/v1/format_query", get(format::format_query).post(format::format_query))
        .route("/api/v1/parse_query", get(format::parse_query).post(format::parse_query))
        .route("/api/v1/status/buildinfo", get(status::build_info))
        .route("/api/v1/status/runtimeinfo", get(status::runtime_info))
        .route("/api/v1/status/config", get(status::config))
        .route("/api/v1/status/flags", get(status::flags))
        .route("/api/v1/status/tsdb", get(status::tsdb))
        .route("/api/v1/status/walreplay", get(status::wal_replay))
        .route("/api/v1/{*rest}", any(not_found))
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(api)
}

async fn not_found(uri: Uri) -> ApiError {
    ApiError::not_found(format!("{} is not a path of this API", uri.path()))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    envelope::method_not_allowed(&method, uri.path())
}
