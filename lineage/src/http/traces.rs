//! OTLP traces over HTTP and gRPC, on one port; and how much of them could be paired.

mod body;
mod grpc;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use bytes::Bytes;
use prost::Message;
use serde_json::json;

use super::params::Params;
use super::refusal::{RETRY_AFTER_SECONDS, Refusal, success};
use crate::service::{Service, Tenant};
use crate::traces::{Taken, json_to_protobuf, take};
use body::{Inflight, Permit};

/// Edges and services of a status unless the request says how many.
const DEFAULT_LISTED: usize = 1_000;

/// A body that is larger than this, as it came, is read on a thread of its own.
const LARGE_BODY_BYTES: usize = 128 << 10;

/// Most edges and services of a status.
const MAX_LISTED: usize = 100_000;

/// The routes. Those of gRPC need HTTP/2.
pub(super) fn routes() -> Router<Service> {
    Router::new()
        .route("/v1/traces", post(otlp))
        .route("/api/v1/otlp/v1/traces", post(otlp))
        .route(grpc::PATH, post(grpc::export))
        .layer(Extension(Arc::new(Inflight::default())))
        .route("/api/v1/lineage/traces/status", get(status))
}

async fn status(State(service): State<Service>, headers: HeaderMap, params: Params) -> Result<Response, Refusal> {
    let tenant = service.tenant_of(&headers).await?;
    let most = params.limit("limit", DEFAULT_LISTED, MAX_LISTED)?;
    Ok(success(tenant.traces.status(most)))
}

/// How a request's body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Protobuf,
    Json,
}

async fn otlp(State(service): State<Service>, Extension(inflight): Extension<Arc<Inflight>>, request: Request) -> Response {
    let encoding = match encoding(request.headers()) {
        Ok(encoding) => encoding,
        Err(refusal) => return answer(&service, Encoding::Protobuf, Err(refusal)),
    };
    let result = accept(&service, &inflight, request, encoding).await;
    answer(&service, encoding, result)
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Refusal> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/x-protobuf" => Ok(Encoding::Protobuf),
        "application/json" => Ok(Encoding::Json),
        _ => Err(unsupported(format!("content type {given:?} is neither application/x-protobuf nor application/json"))),
    }
}

async fn accept(service: &Service, inflight: &Inflight, request: Request, encoding: Encoding) -> Result<Taken, Refusal> {
    let tenant = service.tenant_of(request.headers()).await?;
    let gzip = body::is_gzip(request.headers(), &header::CONTENT_ENCODING)?;
    let mut permit = inflight.open();
    let body = body::read(request.into_body(), &mut permit).await?;
    unpack_and_take(service, tenant, Packed { body, gzip, encoding }, permit).await
}

/// A message as it came.
struct Packed {
    body: Bytes,
    gzip: bool,
    encoding: Encoding,
}

impl Packed {
    fn unpack(self, permit: &mut Permit) -> Result<Bytes, Refusal> {
        let body = if self.gzip { body::gunzip(&self.body, permit)?.into() } else { self.body };
        match self.encoding {
            Encoding::Protobuf => Ok(body),
            Encoding::Json => json_to_protobuf(&body).map(Bytes::from).map_err(|reason| Refusal::new(StatusCode::BAD_REQUEST, reason)),
        }
    }
}

/// Takes the spans of a message. What is large is read on a thread of its own, so that it does not hold up other requests.
async fn unpack_and_take(service: &Service, tenant: Arc<Tenant>, packed: Packed, mut permit: Permit) -> Result<Taken, Refusal> {
    let large = packed.body.len() > LARGE_BODY_BYTES;
    let service = service.clone();
    let work = move || {
        let message = packed.unpack(&mut permit)?;
        Ok(take(&service, &tenant, &message)?)
    };
    if !large {
        return work();
    }
    let failed = |e| Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the spans were not read: {e}")));
    tokio::task::spawn_blocking(work).await.unwrap_or_else(failed)
}

/// `ExportTracePartialSuccess` in `ExportTraceServiceResponse`.
#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

/// `ExportTraceServiceResponse`.
#[derive(Clone, PartialEq, Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

impl From<Taken> for ExportResponse {
    fn from(taken: Taken) -> Self {
        let rejected = |taken: Taken| PartialSuccess { rejected_spans: taken.refused as i64, error_message: taken.reason() };
        Self { partial_success: (taken.refused > 0).then(|| rejected(taken)) }
    }
}

/// `google.rpc.Status`, which OTLP answers errors with.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// The answer in the encoding of the request, as the OTLP specification has it.
fn answer(service: &Service, encoding: Encoding, result: Result<Taken, Refusal>) -> Response {
    let (status, protobuf, json) = match result {
        Ok(taken) => {
            let response = ExportResponse::from(taken);
            let json = match &response.partial_success {
                // 64-bit integers are strings in the JSON of protobuf.
                Some(p) => json!({"partialSuccess": {"rejectedSpans": p.rejected_spans.to_string(), "errorMessage": p.error_message}}),
                None => json!({}),
            };
            (StatusCode::OK, response.encode_to_vec(), json)
        }
        Err(refusal) => {
            let code = grpc::code(refusal.status);
            let json = json!({"code": code, "message": refusal.reason});
            (refusal.status, Status { code, message: refusal.reason }.encode_to_vec(), json)
        }
    };
    let (kind, body) = match encoding {
        Encoding::Protobuf => ("application/x-protobuf", protobuf),
        Encoding::Json => ("application/json", json.to_string().into_bytes()),
    };
    let mut response = (status, [(header::CONTENT_TYPE, HeaderValue::from_static(kind))], body).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    }
    service.metrics().traces.answered("http", status.as_u16());
    response
}

fn unsupported(reason: String) -> Refusal {
    Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason)
}

#[cfg(test)]
mod tests;
