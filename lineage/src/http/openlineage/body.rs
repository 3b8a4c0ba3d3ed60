//! Bodies of requests with events: read and decompressed as far as there is room.

use std::io::Read;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use flate2::read::MultiGzDecoder;
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::refusal::Refusal;

/// Largest body, decompressed.
pub const MAX_BODY_BYTES: usize = 32 << 20;

/// Memory of all requests that are being taken in.
pub const ROOM_BYTES: usize = 512 << 20;

/// So many times its size an event takes while it is taken in: the text, the parsed values, and what they become.
pub const EXPANSION: usize = 8;

/// Requests that are being taken in.
pub const MAX_REQUESTS: usize = 1_024;

/// Room is given out in units of so many bytes.
const UNIT_BYTES: usize = 1 << 10;

/// Step by which a compressed body is decompressed.
const STEP_BYTES: usize = 256 << 10;

/// Room for requests.
#[derive(Debug)]
pub struct Room {
    units: Arc<Semaphore>,
    requests: Arc<Semaphore>,
}

/// What a request has taken of it.
#[derive(Debug)]
pub struct Held {
    units: OwnedSemaphorePermit,
    _request: OwnedSemaphorePermit,
}

impl Default for Room {
    fn default() -> Self {
        Self { units: Arc::new(Semaphore::new(ROOM_BYTES / UNIT_BYTES)), requests: Arc::new(Semaphore::new(MAX_REQUESTS)) }
    }
}

impl Room {
    /// Reads a body as text. The room is given back when what is held is dropped.
    ///
    /// # Errors
    /// 503 if there is no room; 413, 415, 400 if the body is too large, coded in an unknown way, or no text.
    pub async fn read(&self, headers: &HeaderMap, body: Body) -> Result<(String, Held), Refusal> {
        let request = Arc::clone(&self.requests).try_acquire_owned().map_err(|_| full("requests", MAX_REQUESTS))?;
        let units = Arc::clone(&self.units).try_acquire_many_owned(0).map_err(|_| full("bytes", ROOM_BYTES))?;
        let mut held = Held { units, _request: request };
        let is_gzip = is_gzip(headers)?;
        if let Some(length) = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok())
            && length > MAX_BODY_BYTES
        {
            return Err(too_large());
        }
        let received = self.receive(body, &mut held).await?;
        let bytes = if is_gzip {
            let units = Arc::clone(&self.units);
            tokio::task::spawn_blocking(move || gunzip(&units, &received, &mut held).map(|bytes| (bytes, held)))
                .await
                .expect("decompressing does not panic")
        } else {
            Ok((received, held))
        };
        let (bytes, held) = bytes?;
        let text = String::from_utf8(bytes).map_err(|e| bad(format!("the body is no UTF-8 text: {e}")))?;
        Ok((text, held))
    }

    async fn receive(&self, body: Body, held: &mut Held) -> Result<Vec<u8>, Refusal> {
        let mut out: Vec<u8> = Vec::new();
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk: Bytes = chunk.map_err(|e| bad(format!("the body could not be read: {e}")))?;
            if out.len() + chunk.len() > MAX_BODY_BYTES {
                return Err(too_large());
            }
            held.grow(&self.units, chunk.len() * EXPANSION)?;
            out.extend_from_slice(&chunk);
        }
        Ok(out)
    }
}

impl Held {
    fn grow(&mut self, units: &Arc<Semaphore>, bytes: usize) -> Result<(), Refusal> {
        let count = bytes.div_ceil(UNIT_BYTES) as u32;
        let more = Arc::clone(units).try_acquire_many_owned(count).map_err(|_| full("bytes", ROOM_BYTES))?;
        self.units.merge(more);
        Ok(())
    }
}

fn gunzip(units: &Arc<Semaphore>, received: &[u8], held: &mut Held) -> Result<Vec<u8>, Refusal> {
    let mut decoder = MultiGzDecoder::new(received);
    let mut out = Vec::new();
    loop {
        held.grow(units, STEP_BYTES.min(MAX_BODY_BYTES) * EXPANSION)?;
        let step = (&mut decoder).take(STEP_BYTES as u64).read_to_end(&mut out).map_err(|e| bad(format!("the body is no gzip: {e}")))?;
        if out.len() > MAX_BODY_BYTES {
            return Err(too_large());
        }
        if step < STEP_BYTES {
            return Ok(out);
        }
    }
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, Refusal> {
    let Some(coding) = headers.get(header::CONTENT_ENCODING) else { return Ok(false) };
    match coding.to_str().unwrap_or("?").trim().to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(false),
        "gzip" | "x-gzip" => Ok(true),
        other => {
            Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("content encoding {other:?} is not known; send gzip or none")))
        }
    }
}

fn full(what: &str, allowed: usize) -> Refusal {
    let reason = format!("{allowed} {what} of events are being taken in; send it again later");
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason)
}

fn too_large() -> Refusal {
    let reason = format!("the body has more than {MAX_BODY_BYTES} bytes; split it, or leave large facets out");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, reason)
}

fn bad(reason: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, reason)
}
