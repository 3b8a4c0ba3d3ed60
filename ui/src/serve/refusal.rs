//! Answers of this crate's own API routes: the envelope of Prometheus, and what is said when a request cannot be done.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// When to come again after 503, in seconds.
const RETRY_AFTER_SECONDS: u32 = 5;

/// Why a request was not done.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    kind: &'static str,
    reason: String,
}

impl Refusal {
    /// The request is wrong.
    pub fn bad_data(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, kind: "bad_data", reason: reason.into() }
    }

    /// A parameter is wrong, as Prometheus says it.
    pub fn parameter(name: &str, reason: impl std::fmt::Display) -> Self {
        Self::bad_data(format!("invalid parameter {name:?}: {reason}"))
    }

    /// It is turned off.
    pub fn disabled(reason: &str) -> Self {
        Self { status: StatusCode::FORBIDDEN, kind: "unavailable", reason: reason.to_owned() }
    }

    /// A limit of the tenant or of the program is reached.
    pub fn limit(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::UNPROCESSABLE_ENTITY, kind: "execution", reason: reason.into() }
    }

    /// It cannot be done now.
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, kind: "unavailable", reason: reason.into() }
    }

    /// Something is broken here.
    pub fn internal(reason: impl Into<String>) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, kind: "internal", reason: reason.into() }
    }
}

impl From<isobar_block::Error> for Refusal {
    fn from(error: isobar_block::Error) -> Self {
        match error {
            isobar_block::Error::Invalid { .. } => Self::bad_data(error.to_string()),
            isobar_block::Error::Limit { .. } => Self::limit(error.to_string()),
            isobar_block::Error::Unavailable { .. } | isobar_block::Error::Store(_) | isobar_block::Error::Conflict { .. } => {
                Self::unavailable(error.to_string())
            }
            _ => Self::internal(error.to_string()),
        }
    }
}

impl From<isobar_compactor::Error> for Refusal {
    fn from(error: isobar_compactor::Error) -> Self {
        match error {
            isobar_compactor::Error::Block(error) => error.into(),
            isobar_compactor::Error::Invalid { .. } => Self::bad_data(error.to_string()),
            isobar_compactor::Error::Canceled => Self::unavailable("the server is stopping; what was committed stays"),
            _ => Self::internal(error.to_string()),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = json!({"status": "error", "errorType": self.kind, "error": self.reason});
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        response
    }
}

/// The envelope of an answer.
pub fn success(data: &Value) -> Response {
    Json(json!({"status": "success", "data": data})).into_response()
}
