//! The one method of gRPC that senders of traces call: a unary call is a message each way in a frame of five bytes, and a status in the
//! trailers (gRPC over HTTP/2, `PROTOCOL-HTTP2.md`).

use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use prost::Message;

use super::body::{self, Inflight};
use super::{Encoding, ExportResponse, Packed, Refusal, unpack_and_take};
use crate::service::Service;
use crate::traces::Taken;

/// The path of `opentelemetry.proto.collector.trace.v1.TraceService/Export`.
pub(super) const PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// Flag and length before a message.
const FRAME_BYTES: usize = 5;

/// Takes spans.
pub(super) async fn export(State(service): State<Service>, Extension(inflight): Extension<Arc<Inflight>>, request: Request) -> Response {
    let is_grpc = request.headers().get(header::CONTENT_TYPE).is_some_and(|v| {
        let rest = v.as_bytes().strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+proto") || rest.starts_with(b";"))
    });
    if !is_grpc {
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, "this path takes application/grpc; OTLP over HTTP goes to /v1/traces\n")
            .into_response();
    }
    let result = accept(&service, &inflight, request).await;
    let status = result.as_ref().map_or_else(|refusal| refusal.status, |_| StatusCode::OK);
    service.metrics().traces.answered("grpc", status.as_u16());
    match result {
        Ok(taken) => success(ExportResponse::from(taken)),
        Err(refusal) => failure(&refusal),
    }
}

async fn accept(service: &Service, inflight: &Inflight, request: Request) -> Result<Taken, Refusal> {
    let tenant = service.tenant_of(request.headers()).await?;
    let gzip = body::is_gzip(request.headers(), &GRPC_ENCODING)?;
    let mut permit = inflight.open();
    let body = body::read(request.into_body(), &mut permit).await?;
    let (compressed, body) = message(&body)?;
    if compressed && !gzip {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "the message is compressed, but grpc-encoding names no encoding"));
    }
    unpack_and_take(service, tenant, Packed { body, gzip: compressed, encoding: Encoding::Protobuf }, permit).await
}

/// The only message of a body, and whether it is compressed.
fn message(body: &Bytes) -> Result<(bool, Bytes), Refusal> {
    let refuse = |reason: &str| Refusal::new(StatusCode::BAD_REQUEST, reason);
    let Some((&[flag, a, b, c, d], rest)) = body.split_first_chunk::<FRAME_BYTES>() else {
        return Err(refuse("the body has no gRPC message"));
    };
    if flag > 1 || rest.len() != u32::from_be_bytes([a, b, c, d]) as usize {
        return Err(refuse("the body is not exactly one gRPC message"));
    }
    Ok((flag == 1, body.slice(FRAME_BYTES..)))
}

fn success(response: ExportResponse) -> Response {
    let mut frame = vec![0];
    frame.extend((response.encoded_len() as u32).to_be_bytes());
    response.encode_raw(&mut frame);
    let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))]);
    let body = Full::new(Bytes::from(frame)).with_trailers(async move { Some(Ok::<_, Infallible>(trailers)) });
    headers(Response::new(Body::new(body)))
}

/// An answer without a message: what would be trailers is in its headers.
fn failure(refusal: &Refusal) -> Response {
    let mut response = headers(Response::new(Body::empty()));
    let code = match refusal.status {
        StatusCode::UNSUPPORTED_MEDIA_TYPE => UNIMPLEMENTED,
        status => code(status),
    };
    response.headers_mut().insert(GRPC_STATUS, HeaderValue::from(code));
    if let Ok(message) = HeaderValue::try_from(percent_encoded(&refusal.reason)) {
        response.headers_mut().insert(GRPC_MESSAGE, message);
    }
    response
}

fn headers(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
    response.headers_mut().insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity,gzip"));
    response
}

const UNIMPLEMENTED: i32 = 12;

/// The code of gRPC that is closest to a status.
pub(super) fn code(status: StatusCode) -> i32 {
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::PAYLOAD_TOO_LARGE => 8,
        StatusCode::SERVICE_UNAVAILABLE => 14,
        StatusCode::REQUEST_TIMEOUT => 4,
        status if status.is_server_error() => 13,
        _ => 3,
    }
}

/// A message as it stands in a header: printable ASCII, the rest as `%XX`.
fn percent_encoded(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
