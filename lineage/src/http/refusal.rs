//! Answers of this crate's own routes: the envelope of Prometheus, and what is said when a request cannot be done.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

use crate::Error;

/// When to come again after 503, in seconds.
pub(crate) const RETRY_AFTER_SECONDS: u32 = 1;

/// Why a request was not done.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub status: StatusCode,
    pub reason: String,
}

impl Refusal {
    /// A refusal with this status.
    pub fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }

    /// A parameter is wrong.
    pub fn parameter(name: &str, reason: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, format!("invalid parameter {name:?}: {reason}"))
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Invalid { .. } => StatusCode::BAD_REQUEST,
            Error::Cycle { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Error::Unknown { .. } => StatusCode::NOT_FOUND,
            Error::Busy { .. } | Error::NotWritten { .. } | Error::Canceled => StatusCode::SERVICE_UNAVAILABLE,
            Error::Block(isobar_block::Error::Invalid { .. }) => StatusCode::BAD_REQUEST,
            Error::Block(isobar_block::Error::Limit { .. }) => StatusCode::UNPROCESSABLE_ENTITY,
            Error::Block(
                isobar_block::Error::Unavailable { .. } | isobar_block::Error::Store(_) | isobar_block::Error::Conflict { .. },
            ) => StatusCode::SERVICE_UNAVAILABLE,
            Error::Block(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, reason: error.to_string() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let kind = match self.status {
            StatusCode::NOT_FOUND => "not_found",
            StatusCode::UNPROCESSABLE_ENTITY => "execution",
            StatusCode::SERVICE_UNAVAILABLE => "unavailable",
            status if status.is_server_error() => "internal",
            _ => "bad_data",
        };
        let body = json!({"status": "error", "errorType": kind, "error": self.reason});
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        response
    }
}

/// The envelope of an answer.
pub(crate) fn success(data: impl Serialize) -> Response {
    Json(json!({"status": "success", "data": data})).into_response()
}
