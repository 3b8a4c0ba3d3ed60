//! Reading a request body with a limit on its size and on its time.

use std::ops::Deref;

use axum::extract::Request;
use axum::http::{StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt;

use super::HttpConfig;
use super::inflight::Permit;
use super::respond::Refusal;
use crate::limits::Limits;
use crate::units;

/// A refused body is read and thrown away up to this size, since a sender that is still sending when the connection
/// closes does not see the answer.
const MAX_DRAINED_BYTES: usize = 128 << 20;
/// What is reserved at once for a body that comes in several chunks.
const MAX_RESERVED_BYTES: usize = 1 << 20;

/// A body as received. One that came in one chunk is not copied.
pub(super) enum Body {
    Whole(Bytes),
    Joined(Vec<u8>),
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Joined(bytes) => bytes,
        }
    }
}

/// Reads the body of a request.
///
/// # Errors
/// 413 above `max_request_bytes`, 503 when the memory of all requests is exhausted, 408 after `read_timeout`, 400 when the
/// sender breaks off.
pub(super) async fn read(request: Request, limits: &Limits, config: &HttpConfig, permit: &mut Permit) -> Result<Body, Refusal> {
    let max_bytes = limits.max_request_bytes as usize;
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    let asks_first = request.headers().contains_key(header::EXPECT);
    let mut body = request.into_body();
    let reading = async {
        if announced.is_some_and(|bytes| bytes > max_bytes as u64) {
            if !asks_first {
                drain(&mut body).await;
            }
            return Err(too_large(max_bytes));
        }
        let mut first: Option<Bytes> = None;
        let mut joined = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, format!("the body was cut off: {e}")))?;
            let Ok(chunk) = frame.into_data() else { continue };
            if first.as_ref().map_or(0, Bytes::len) + joined.len() + chunk.len() > max_bytes {
                drain(&mut body).await;
                return Err(too_large(max_bytes));
            }
            permit.grow(chunk.len()).ok_or_else(|| overloaded(config))?;
            match first.take() {
                None if joined.is_empty() => first = Some(chunk),
                None => joined.extend_from_slice(&chunk),
                Some(before) => {
                    joined.reserve(announced.map_or(0, |n| n as usize).min(MAX_RESERVED_BYTES).max(before.len() + chunk.len()));
                    joined.extend_from_slice(&before);
                    joined.extend_from_slice(&chunk);
                }
            }
        }
        Ok(match first {
            Some(only) => Body::Whole(only),
            None => Body::Joined(joined),
        })
    };
    match tokio::time::timeout(config.read_timeout, reading).await {
        Ok(result) => result,
        Err(_) => {
            let allowed = units::format_duration(config.read_timeout);
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, format!("the body did not arrive within write.read_timeout of {allowed}")))
        }
    }
}

/// Reads and forgets what is left of a body, up to [`MAX_DRAINED_BYTES`].
async fn drain(body: &mut axum::body::Body) {
    let mut drained = 0;
    while drained <= MAX_DRAINED_BYTES {
        match body.frame().await {
            Some(Ok(frame)) => drained += frame.data_ref().map_or(0, Bytes::len),
            _ => return,
        }
    }
}

fn too_large(max_bytes: usize) -> Refusal {
    let allowed = units::format_bytes(max_bytes as u64);
    Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("max_request_bytes of {allowed} is exceeded; send smaller requests or raise the limit"),
    )
}

fn overloaded(config: &HttpConfig) -> Refusal {
    let allowed = units::format_bytes(config.max_inflight_bytes);
    Refusal::retry(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("write.max_inflight_bytes of {allowed} is reached; try again later"),
        config.retry_after,
    )
}
