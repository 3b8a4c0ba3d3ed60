//! The envelope around every answer: `{"status", "data", "errorType", "error", "warnings", "infos"}`, and which HTTP status an
//! error has.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::json;
use crate::result::Error;

/// When to come again after 503, in seconds.
const RETRY_AFTER_SECONDS: u32 = 1;

/// An error as the API tells it.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
}

/// What handlers give back.
pub(super) type ApiResult = Result<Response, ApiError>;

impl ApiError {
    pub fn bad_data(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, kind: "bad_data", message: message.into() }
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, kind: "not_found", message: message.into() }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let (status, kind) = match &error {
            Error::BadData(_) => (StatusCode::BAD_REQUEST, "bad_data"),
            Error::Execution(_) => (StatusCode::UNPROCESSABLE_ENTITY, "execution"),
            Error::Timeout { .. } => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
            Error::Canceled => (StatusCode::from_u16(499).expect("499 is a status code"), "canceled"),
            Error::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Error::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(%error, "query failed");
        }
        Self { status, kind, message: error.to_string() }
    }
}

impl From<isobar_block::Error> for ApiError {
    fn from(error: isobar_block::Error) -> Self {
        Error::from(error).into()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = Vec::with_capacity(self.message.len() + 80);
        body.extend_from_slice(b"{\"status\":\"error\",\"errorType\":");
        json::push_string(&mut body, self.kind);
        body.extend_from_slice(b",\"error\":");
        json::push_string(&mut body, &self.message);
        body.push(b'}');
        let mut response = with_body(self.status, body);
        if self.kind == "unavailable" {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        response
    }
}

/// The answer to a method that the path does not have. The header `Allow` is the router's.
pub(super) fn method_not_allowed(method: &Method, path: &str) -> Response {
    let message = format!("{path} does not have the method {method}");
    ApiError { status: StatusCode::METHOD_NOT_ALLOWED, kind: "bad_data", message }.into_response()
}

/// A successful answer whose data are written by `data`.
pub(super) fn success(data: impl FnOnce(&mut Vec<u8>), warnings: &[String], infos: &[String]) -> Response {
    let mut body = Vec::with_capacity(1024);
    body.extend_from_slice(b"{\"status\":\"success\",\"data\":");
    data(&mut body);
    for (name, notes) in [("warnings", warnings), ("infos", infos)] {
        if !notes.is_empty() {
            body.extend_from_slice(format!(",\"{name}\":").as_bytes());
            json::push_list(&mut body, notes, |out, note| json::push_string(out, note));
        }
    }
    body.push(b'}');
    with_body(StatusCode::OK, body)
}

/// A successful answer with anything small.
pub(super) fn success_json(data: &impl Serialize) -> ApiResult {
    let bytes = serde_json::to_vec(data).map_err(|e| Error::Internal(format!("answer cannot be written as JSON: {e}")))?;
    Ok(success(|out| out.extend_from_slice(&bytes), &[], &[]))
}

fn with_body(status: StatusCode, body: Vec<u8>) -> Response {
    (status, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}
