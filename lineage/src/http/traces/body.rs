//! Reading bodies within bounds: of one request, of all of them together, and in time.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Refusal, unsupported};

/// Largest body as it is sent.
pub(super) const MAX_BODY_BYTES: usize = 16 << 20;

/// Largest body after decompression.
pub(super) const MAX_UNPACKED_BYTES: usize = 64 << 20;

/// Memory of all bodies together; beyond it requests are answered with 503.
const MAX_INFLIGHT_BYTES: usize = 256 << 20;

/// How long a sender may take to send a body.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Memory is counted in pieces of this size.
const PIECE_BYTES: usize = 1 << 10;

/// What is decompressed at a time.
const STEP_BYTES: usize = 256 << 10;

/// The memory of all bodies.
pub(super) struct Inflight(Arc<Semaphore>);

impl Default for Inflight {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_INFLIGHT_BYTES / PIECE_BYTES)))
    }
}

impl Inflight {
    /// A permit for nothing yet.
    pub fn open(&self) -> Permit {
        Permit { all: Arc::clone(&self.0), held: None }
    }
}

/// Memory that one request has taken; dropping it gives it back.
pub(super) struct Permit {
    all: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl Permit {
    fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        let pieces = bytes.div_ceil(PIECE_BYTES) as u32;
        let more = Arc::clone(&self.all).try_acquire_many_owned(pieces).map_err(|_| {
            let reason = format!("the bodies of all requests with traces take {MAX_INFLIGHT_BYTES} bytes; try again later");
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason)
        })?;
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }
}

/// Whether a header says that something is compressed with gzip.
///
/// # Errors
/// 415 for another encoding.
pub(super) fn is_gzip(headers: &HeaderMap, name: &HeaderName) -> Result<bool, Refusal> {
    match headers.get(name).map_or("", |v| v.to_str().unwrap_or("?")).trim() {
        "" => Ok(false),
        identity if identity.eq_ignore_ascii_case("identity") => Ok(false),
        gzip if gzip.eq_ignore_ascii_case("gzip") => Ok(true),
        other => Err(unsupported(format!("{name} {other:?} is not gzip"))),
    }
}

/// Reads a body.
///
/// # Errors
/// 413 if it is too large, 503 if there is no room for it now, 408 if it takes too long, 400 if it breaks off.
pub(super) async fn read(mut body: Body, permit: &mut Permit) -> Result<Bytes, Refusal> {
    let reading = async {
        let mut whole = Bytes::new();
        let mut joined = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, format!("the body was cut off: {e}")))?;
            let Ok(chunk) = frame.into_data() else { continue };
            if whole.len() + joined.len() + chunk.len() > MAX_BODY_BYTES {
                return Err(too_large(MAX_BODY_BYTES, "a body"));
            }
            permit.grow(chunk.len())?;
            if joined.is_empty() && whole.is_empty() {
                whole = chunk;
                continue;
            }
            joined.extend_from_slice(&std::mem::take(&mut whole));
            joined.extend_from_slice(&chunk);
        }
        Ok(if joined.is_empty() { whole } else { joined.into() })
    };
    tokio::time::timeout(READ_TIMEOUT, reading).await.unwrap_or_else(|_| {
        let reason = format!("the body did not arrive within {} seconds", READ_TIMEOUT.as_secs());
        Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, reason))
    })
}

/// Decompresses; memory is taken as bytes come out.
///
/// # Errors
/// 413 if there are too many, 503 if there is no room for them now, 400 if it is not gzip.
pub(super) fn gunzip(body: &[u8], permit: &mut Permit) -> Result<Vec<u8>, Refusal> {
    let mut decoder = MultiGzDecoder::new(body);
    let mut out = Vec::new();
    loop {
        let step = decoder.by_ref().take(STEP_BYTES as u64).read_to_end(&mut out);
        let read = step.map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, format!("the body is no gzip: {e}")))?;
        if read == 0 {
            return Ok(out);
        }
        if out.len() > MAX_UNPACKED_BYTES {
            return Err(too_large(MAX_UNPACKED_BYTES, "a body that is unpacked"));
        }
        permit.grow(read)?;
    }
}

fn too_large(allowed: usize, what: &str) -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("{what} may have {allowed} bytes; send fewer spans at once"))
}
