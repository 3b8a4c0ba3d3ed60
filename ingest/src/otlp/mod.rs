//! OTLP/HTTP metrics in protobuf: from a request body to a [`DecodedRequest`] under Prometheus's names.

mod attributes;
mod buckets;
mod convert;
pub mod naming;
mod weight;

use std::io::Read;

use flate2::read::MultiGzDecoder;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::decoded::DecodedRequest;
use crate::wire::DecodeError;

const MESSAGE: &str = "opentelemetry.proto.collector.metrics.v1.ExportMetricsServiceRequest";

/// The section `otlp` of the configuration, with Prometheus's keys and defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpConfig {
    /// Resource attributes that become labels of every series of the resource.
    pub promote_resource_attributes: Vec<String>,
    /// Whether `target_info` also has `service.name`, `service.namespace` and `service.instance.id`, which `job` and
    /// `instance` are made of.
    pub keep_identifying_resource_attributes: bool,
    /// Whether name, version, schema and attributes of the instrumentation scope become labels `otel_scope_…`.
    pub promote_scope_metadata: bool,
}

/// Decodes a body (not compressed) into `request`, which is emptied before.
///
/// Data points that cannot be stored, such as those with delta temporality, are in [`DecodedRequest::rejected`].
///
/// # Errors
/// [`DecodeError`] if the body is not the message or takes more than `max_decoded_bytes`.
pub fn decode(body: &[u8], max_decoded_bytes: usize, config: &OtlpConfig, request: &mut DecodedRequest) -> Result<(), DecodeError> {
    request.clear();
    weight::check(body, max_decoded_bytes)?;
    let message =
        ExportMetricsServiceRequest::decode(body).map_err(|e| DecodeError::Protobuf { message: MESSAGE, reason: e.to_string() })?;
    convert::convert(&message, config, max_decoded_bytes, request)
}

/// Decompresses a gzip body; memory is taken as bytes come out, up to `max_bytes`.
///
/// # Errors
/// [`DecodeError::TooLarge`] if there is more, [`DecodeError::Gzip`] if it is not gzip.
pub fn gunzip(body: &[u8], max_bytes: usize) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::new();
    MultiGzDecoder::new(body).take(max_bytes as u64 + 1).read_to_end(&mut out).map_err(|e| DecodeError::Gzip { reason: e.to_string() })?;
    if out.len() > max_bytes {
        return Err(DecodeError::TooLarge { limit: "max_request_bytes", allowed_bytes: max_bytes });
    }
    Ok(out)
}
