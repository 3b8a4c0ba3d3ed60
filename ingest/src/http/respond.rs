//! From the outcome of a write to status, headers and body.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceResponse};
use prost::Message;

use crate::decoded::{WriteError, WriteOutcome};
use crate::metrics::Protocol;
use crate::wire::DecodeError;

const SAMPLES_WRITTEN: HeaderName = HeaderName::from_static("x-prometheus-remote-write-samples-written");
const HISTOGRAMS_WRITTEN: HeaderName = HeaderName::from_static("x-prometheus-remote-write-histograms-written");
const EXEMPLARS_WRITTEN: HeaderName = HeaderName::from_static("x-prometheus-remote-write-exemplars-written");

/// `google.rpc.Status`, which OTLP answers errors with.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// A request that was refused as a whole, or failed on the way.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    message: String,
    retry_after: Option<Duration>,
    outcome: Box<WriteOutcome>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after: None, outcome: Box::default() }
    }

    pub(super) fn retry(status: StatusCode, message: impl Into<String>, after: Duration) -> Self {
        Self { retry_after: Some(after), ..Self::new(status, message) }
    }
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        let status = match error {
            DecodeError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            DecodeError::Snappy { .. } | DecodeError::Gzip { .. } | DecodeError::Protobuf { .. } => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}

impl From<WriteError> for Refusal {
    fn from(error: WriteError) -> Self {
        let (message, retry_after) = (error.to_string(), error.retry_after());
        let (status, outcome) = match error {
            WriteError::TooManyRequests { outcome, .. } => (StatusCode::TOO_MANY_REQUESTS, outcome),
            WriteError::Unavailable { outcome, .. } => (StatusCode::SERVICE_UNAVAILABLE, outcome),
            WriteError::Internal { outcome, .. } => {
                tracing::error!(%message, "a write failed");
                (StatusCode::INTERNAL_SERVER_ERROR, outcome)
            }
        };
        Self { status, message, retry_after, outcome }
    }
}

/// The answer to a remote write request.
///
/// A version 1 sender is not told of exemplars that were refused, as with Prometheus; to a version 2 sender nothing
/// that was refused is a success.
pub(super) fn remote_write(protocol: Protocol, result: Result<WriteOutcome, Refusal>) -> Response {
    let refusal = match result {
        Ok(outcome) => {
            let rejected = &outcome.rejected;
            let refused = if protocol == Protocol::RemoteWrite2 { rejected.total() } else { rejected.total_without_exemplars() };
            let (status, message) = match refused {
                0 => (StatusCode::NO_CONTENT, String::new()),
                _ => (StatusCode::BAD_REQUEST, rejected.to_string()),
            };
            Refusal { outcome: Box::new(outcome), ..Refusal::new(status, message) }
        }
        Err(refusal) => refusal,
    };
    let mut response = if refusal.status == StatusCode::NO_CONTENT {
        StatusCode::NO_CONTENT.into_response()
    } else {
        (refusal.status, format!("{}\n", refusal.message)).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(SAMPLES_WRITTEN, refusal.outcome.samples_written.into());
    headers.insert(HISTOGRAMS_WRITTEN, refusal.outcome.histograms_written.into());
    headers.insert(EXEMPLARS_WRITTEN, refusal.outcome.exemplars_written.into());
    set_retry_after(&mut response, refusal.retry_after);
    response
}

/// The answer to an OTLP request. What is refused of a request that is stored otherwise is a partial success, as
/// the OTLP specification has it; a request of which nothing is stored is a 400.
pub(super) fn otlp(result: Result<WriteOutcome, Refusal>) -> Response {
    let refusal = match result {
        Ok(outcome) => {
            let rejected = &outcome.rejected;
            let stored = outcome.samples_written + outcome.histograms_written > 0;
            if rejected.is_empty() || stored {
                let partial_success = (!rejected.is_empty()).then(|| ExportMetricsPartialSuccess {
                    rejected_data_points: rejected.total_without_exemplars() as i64,
                    error_message: rejected.to_string(),
                });
                return protobuf(StatusCode::OK, ExportMetricsServiceResponse { partial_success }.encode_to_vec());
            }
            Refusal::new(StatusCode::BAD_REQUEST, rejected.to_string())
        }
        Err(refusal) => refusal,
    };
    let status = Status { code: grpc_code(refusal.status), message: refusal.message };
    let mut response = protobuf(refusal.status, status.encode_to_vec());
    set_retry_after(&mut response, refusal.retry_after);
    response
}

fn protobuf(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"))], body).into_response()
}

/// The code of gRPC that is closest to a status.
fn grpc_code(status: StatusCode) -> i32 {
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::PAYLOAD_TOO_LARGE => 8,
        StatusCode::SERVICE_UNAVAILABLE => 14,
        StatusCode::REQUEST_TIMEOUT => 4,
        status if status.is_server_error() => 13,
        _ => 3,
    }
}

/// `Retry-After` in whole seconds, at least 1.
fn set_retry_after(response: &mut Response, after: Option<Duration>) {
    if let Some(after) = after {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        response.headers_mut().insert(header::RETRY_AFTER, seconds.max(1).into());
    }
}
