//! What a request is, told by its headers.

use axum::http::{HeaderMap, HeaderName, StatusCode, header};

use super::respond::Refusal;
use crate::wire::Version;

const PROTOBUF: &str = "application/x-protobuf";

/// Version of a remote write request. The header `X-Prometheus-Remote-Write-Version` has no say in it.
///
/// # Errors
/// 415 for another media type, schema or encoding.
pub(super) fn remote_write(headers: &HeaderMap) -> Result<Version, Refusal> {
    let content_type = value(headers, header::CONTENT_TYPE)?;
    let version = version(content_type).ok_or_else(|| {
        unsupported(format!(
            "content type {content_type:?} is not {PROTOBUF}, with proto=prometheus.WriteRequest or proto=io.prometheus.write.v2.Request"
        ))
    })?;
    match value(headers, header::CONTENT_ENCODING)? {
        "" => Ok(version),
        encoding if encoding.eq_ignore_ascii_case("snappy") => Ok(version),
        other => Err(unsupported(format!("content encoding {other:?} is not snappy"))),
    }
}

fn version(content_type: &str) -> Option<Version> {
    let mut parts = content_type.split(';').map(str::trim);
    let media_type = parts.next().unwrap_or_default();
    if content_type.is_empty() {
        return Some(Version::V1);
    }
    if !media_type.eq_ignore_ascii_case(PROTOBUF) {
        return None;
    }
    let mut version = Version::V1;
    for parameter in parts {
        let (name, value) = parameter.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("proto") {
            version = match value.trim().trim_matches('"') {
                "prometheus.WriteRequest" => Version::V1,
                "io.prometheus.write.v2.Request" => Version::V2,
                _ => return None,
            };
        }
    }
    Some(version)
}

/// Whether the body of an OTLP request is compressed with gzip.
///
/// # Errors
/// 415 for another media type or encoding.
pub(super) fn otlp(headers: &HeaderMap) -> Result<bool, Refusal> {
    let content_type = value(headers, header::CONTENT_TYPE)?;
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case(PROTOBUF) {
        return Err(unsupported(format!("content type {content_type:?} is not {PROTOBUF}; OTLP in JSON is not supported")));
    }
    match value(headers, header::CONTENT_ENCODING)? {
        "" => Ok(false),
        encoding if encoding.eq_ignore_ascii_case("identity") => Ok(false),
        encoding if encoding.eq_ignore_ascii_case("gzip") => Ok(true),
        other => Err(unsupported(format!("content encoding {other:?} is not gzip"))),
    }
}

fn value(headers: &HeaderMap, name: HeaderName) -> Result<&str, Refusal> {
    match headers.get(&name) {
        None => Ok(""),
        Some(value) => value.to_str().map(str::trim).map_err(|_| unsupported(format!("header {name} is not ASCII"))),
    }
}

fn unsupported(message: String) -> Refusal {
    Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
}
