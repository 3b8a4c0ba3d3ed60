//! The HTTP endpoints that data is written to: remote write 1.0 and 2.0, and OTLP.
//!
//! What they keep to (Prometheus's remote write specification): the content type picks the schema; the good part of a bad
//! request is stored and 400 tells the rest; what may be tried again is 429 or 503 with `Retry-After`; the counts of what
//! was written are told on success and on failure.

mod body;
mod inflight;
mod negotiate;
mod respond;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use isobar_block::TenantId;
use serde::{Deserialize, Serialize};

use crate::decoded::{DecodedRequest, WriteError, WriteOutcome, WriteSink};
use crate::limits::{Limits, LiveLimits, RateLimiter};
use crate::metrics::{Protocol, WriteMetrics};
use crate::otlp::{self, OtlpConfig};
use crate::tenant::TenantConfig;
use crate::units;
use crate::wire::{self, DecodeError, Version};
use inflight::{Inflight, Permit};
use respond::Refusal;

/// A body that is larger than this is decoded on a thread of its own, so that it does not hold up other requests.
const LARGE_BODY_BYTES: usize = 1 << 20;

/// Estimates for the accounting of OTLP requests, which do not say how long they are when decompressed: how much gzip saves,
/// and how much more memory the messages take than their bytes.
const OTLP_GZIP_RATIO: usize = 8;
const OTLP_MEMORY_FACTOR: usize = 8;

/// The section `write` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Memory that all write requests together may take at a time; beyond it they are answered with 503.
    #[serde(with = "units::bytes")]
    pub max_inflight_bytes: u64,
    /// How long a sender may take to send a request's body.
    #[serde(with = "units::duration")]
    pub read_timeout: Duration,
    /// What `Retry-After` says when `max_inflight_bytes` is reached.
    #[serde(with = "units::duration")]
    pub retry_after: Duration,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { max_inflight_bytes: 256 << 20, read_timeout: Duration::from_secs(30), retry_after: Duration::from_secs(1) }
    }
}

/// What the handlers work with; clones share it.
#[derive(Clone)]
pub struct HttpState(Arc<Inner>);

struct Inner {
    sink: Arc<dyn WriteSink>,
    config: HttpConfig,
    tenants: TenantConfig,
    otlp: OtlpConfig,
    limits: LiveLimits,
    rates: RateLimiter,
    inflight: Inflight,
    metrics: WriteMetrics,
}

impl HttpState {
    /// Handlers that write into `sink`.
    pub fn new(
        sink: Arc<dyn WriteSink>,
        config: HttpConfig,
        tenants: TenantConfig,
        otlp: OtlpConfig,
        limits: LiveLimits,
        metrics: WriteMetrics,
    ) -> Self {
        let inflight = Inflight::new(config.max_inflight_bytes, metrics.inflight_bytes.clone());
        Self(Arc::new(Inner { sink, config, tenants, otlp, limits, rates: RateLimiter::default(), inflight, metrics }))
    }
}

/// The routes. Other methods than POST are answered with 405.
pub fn router(state: HttpState) -> Router {
    Router::new()
        .route("/api/v1/write", post(remote_write))
        .route("/api/v1/push", post(remote_write))
        .route("/api/v1/receive", post(remote_write))
        .route("/api/v1/otlp/v1/metrics", post(otlp_metrics))
        .with_state(state)
}

async fn remote_write(State(state): State<HttpState>, request: Request) -> Response {
    let started = Instant::now();
    let inner = &*state.0;
    let _inflight = Counted::new(&inner.metrics);
    let version = negotiate::remote_write(request.headers());
    let protocol = match &version {
        Ok(Version::V1) => Protocol::RemoteWrite1,
        Ok(Version::V2) => Protocol::RemoteWrite2,
        Err(_) => Protocol::RemoteWriteUnknown,
    };
    let result = match version {
        Ok(version) => inner.write(request, Format::RemoteWrite(version)).await,
        Err(refusal) => Err(refusal),
    };
    let response = respond::remote_write(protocol, result);
    inner.metrics.finish(protocol, response.status().as_u16(), started.elapsed());
    response
}

async fn otlp_metrics(State(state): State<HttpState>, request: Request) -> Response {
    let started = Instant::now();
    let inner = &*state.0;
    let _inflight = Counted::new(&inner.metrics);
    let result = match negotiate::otlp(request.headers()) {
        Ok(gzip) => inner.write(request, Format::Otlp { gzip }).await,
        Err(refusal) => Err(refusal),
    };
    let response = respond::otlp(result);
    inner.metrics.finish(Protocol::Otlp, response.status().as_u16(), started.elapsed());
    response
}

#[derive(Clone, Copy)]
enum Format {
    RemoteWrite(Version),
    Otlp { gzip: bool },
}

impl Inner {
    /// Reads, decodes and stores one request.
    async fn write(&self, request: Request, format: Format) -> Result<WriteOutcome, Refusal> {
        let tenant = self.tenants.of_request(request.headers()).map_err(|m| Refusal::new(StatusCode::BAD_REQUEST, m))?;
        let limits = self.limits.of(&tenant);
        let mut permit = self.inflight.open();
        let body = body::read(request, &limits, &self.config, &mut permit).await?;
        self.metrics.received(body.len());
        let decoded = self.decode(body, format, &limits, &mut permit).await?;
        self.store(&tenant, decoded, &limits).await
    }

    async fn decode(&self, body: body::Body, format: Format, limits: &Limits, permit: &mut Permit) -> Result<DecodedRequest, Refusal> {
        // What the decompressed body will take is claimed before it is taken.
        let claim = match format {
            Format::RemoteWrite(_) => wire::snappy::claimed_len(&body, limits.max_request_bytes as usize)?,
            Format::Otlp { gzip } => {
                let uncompressed = body.len().saturating_mul(if gzip { OTLP_GZIP_RATIO } else { 1 }).min(limits.max_request_bytes as usize);
                uncompressed.saturating_mul(OTLP_MEMORY_FACTOR).min(limits.max_decoded_request_bytes as usize)
            }
        };
        permit.grow(claim).ok_or_else(|| self.overloaded())?;
        let large = claim.max(body.len()) > LARGE_BODY_BYTES;
        let (limits, otlp) = (*limits, self.otlp.clone());
        let work = move || {
            let mut request = DecodedRequest::pooled();
            decode_body(&body, format, &limits, &otlp, &mut request).map(|()| request)
        };
        let decoded = if large {
            tokio::task::spawn_blocking(work)
                .await
                .map_err(|e| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("decoding failed: {e}")))?
        } else {
            work()
        };
        let mut decoded = decoded?;
        limits.cut_metadata(&mut decoded.metadata);
        permit.grow(decoded.size_bytes().saturating_sub(claim)).ok_or_else(|| self.overloaded())?;
        Ok(decoded)
    }

    async fn store(&self, tenant: &TenantId, request: DecodedRequest, limits: &Limits) -> Result<WriteOutcome, Refusal> {
        if request.is_empty() {
            request.recycle();
            return Ok(WriteOutcome::default());
        }
        let samples = (request.samples.len() + request.histograms.len()) as u64;
        self.rates.take(tenant, samples, limits, Instant::now()).map_err(|retry_after| {
            let error = WriteError::TooManyRequests {
                limit: "ingestion_rate",
                allowed: limits.ingestion_rate,
                tenant: tenant.clone(),
                retry_after,
                outcome: Box::default(),
            };
            Refusal::from(error)
        })?;
        let result = self.sink.write(tenant, request).await;
        self.metrics.outcome(match &result {
            Ok(outcome) => outcome,
            Err(error) => error.outcome(),
        });
        result.map_err(Refusal::from)
    }

    fn overloaded(&self) -> Refusal {
        let allowed = units::format_bytes(self.config.max_inflight_bytes);
        Refusal::retry(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("write.max_inflight_bytes of {allowed} is reached; try again later"),
            self.config.retry_after,
        )
    }
}

fn decode_body(body: &[u8], format: Format, limits: &Limits, config: &OtlpConfig, request: &mut DecodedRequest) -> Result<(), DecodeError> {
    let (max_body, max_decoded) = (limits.max_request_bytes as usize, limits.max_decoded_request_bytes as usize);
    match format {
        Format::RemoteWrite(version) => wire::decode(version, body, max_body, max_decoded, request),
        Format::Otlp { gzip: false } => otlp::decode(body, max_decoded, config, request),
        Format::Otlp { gzip: true } => otlp::decode(&otlp::gunzip(body, max_body)?, max_decoded, config, request),
    }
}

/// Counts a request as in flight for as long as it lives, also when the sender goes away.
struct Counted<'a>(&'a WriteMetrics);

impl<'a> Counted<'a> {
    fn new(metrics: &'a WriteMetrics) -> Self {
        metrics.inflight_requests.inc();
        Self(metrics)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.inflight_requests.dec();
    }
}
