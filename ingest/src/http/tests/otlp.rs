//! OTLP over HTTP, from the bytes of a request to series and back to the answer.

use std::io::Write;

use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar, number_data_point, summary_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::*;

const PATH: &str = "/api/v1/otlp/v1/metrics";
const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const CUMULATIVE: i32 = 2;
const DELTA: i32 = 1;

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(Value::StringValue(value.into())) }), ..Default::default() }
}

fn number(value: f64, flags: u32) -> NumberDataPoint {
    NumberDataPoint {
        attributes: vec![attribute("http.method", "GET")],
        start_time_unix_nano: 500_000_000,
        time_unix_nano: 1_000_000_000,
        value: Some(number_data_point::Value::AsDouble(value)),
        flags,
        ..Default::default()
    }
}

fn sum(name: &str, temporality: i32) -> Metric {
    let data = Data::Sum(Sum { data_points: vec![number(3.0, 0)], aggregation_temporality: temporality, is_monotonic: true });
    Metric { name: name.into(), description: "Help.".into(), unit: "By".into(), data: Some(data), ..Default::default() }
}

fn metric(name: &str, unit: &str, data: Data) -> Metric {
    Metric { name: name.into(), unit: unit.into(), data: Some(data), ..Default::default() }
}

fn request(metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
    let attributes = vec![
        attribute("service.name", "shop"),
        attribute("service.namespace", "eu"),
        attribute("service.instance.id", "i-1"),
        attribute("host.name", "h1"),
    ];
    let scope_metrics = vec![ScopeMetrics {
        metrics,
        scope: Some(InstrumentationScope { name: "lib".into(), ..Default::default() }),
        ..Default::default()
    }];
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource { attributes, ..Default::default() }),
            scope_metrics,
            ..Default::default()
        }],
    }
}

/// The series of the last request as `labels value`.
fn series(server: &Server) -> Vec<String> {
    let requests = server.sink.requests.lock();
    let request = &requests.last().expect("a request").1;
    let line = |s| {
        let labels = request.canonical_labels(s).expect("valid").to_string();
        let values: Vec<String> = request
            .samples_of(s)
            .iter()
            .map(|v| v.value.to_string())
            .chain(request.histograms_of(s).iter().map(|(_, h)| format!("{:?}", h.counts)))
            .collect();
        format!("{labels} {}", values.join(" "))
    };
    request.series.iter().map(line).collect()
}

#[tokio::test]
async fn every_type_of_metric() {
    let server = server();
    let exemplar = Exemplar {
        trace_id: vec![0xab; 16],
        span_id: vec![1; 8],
        time_unix_nano: 900_000_000,
        value: Some(exemplar::Value::AsDouble(0.7)),
        ..Default::default()
    };
    let histogram = HistogramDataPoint {
        time_unix_nano: 1_000_000_000,
        count: 6,
        sum: Some(4.5),
        bucket_counts: vec![1, 2, 3],
        explicit_bounds: vec![0.5, 1.0],
        exemplars: vec![exemplar],
        ..Default::default()
    };
    let exponential = ExponentialHistogramDataPoint {
        time_unix_nano: 1_000_000_000,
        count: 6,
        sum: Some(4.5),
        scale: 2,
        zero_count: 1,
        positive: Some(Buckets { offset: -1, bucket_counts: vec![2, 3] }),
        ..Default::default()
    };
    let summary = SummaryDataPoint {
        time_unix_nano: 1_000_000_000,
        count: 2,
        sum: 3.0,
        quantile_values: vec![summary_data_point::ValueAtQuantile { quantile: 0.5, value: 1.5 }],
        ..Default::default()
    };
    let body = request(vec![
        sum("network.io", CUMULATIVE),
        metric("cpu.usage", "1", Data::Gauge(Gauge { data_points: vec![number(0.25, 0), number(0.0, 1)] })),
        metric("latency", "s", Data::Histogram(Histogram { data_points: vec![histogram], aggregation_temporality: CUMULATIVE })),
        metric(
            "size",
            "By",
            Data::ExponentialHistogram(ExponentialHistogram { data_points: vec![exponential], aggregation_temporality: CUMULATIVE }),
        ),
        metric("wait", "ms", Data::Summary(Summary { data_points: vec![summary] })),
    ]);
    let answer = server.post(PATH, &[PROTOBUF], body.encode_to_vec()).await;
    assert_eq!((answer.status, answer.header("content-type"), answer.body.len()), (StatusCode::OK, "application/x-protobuf", 0));
    let id = "instance=\"i-1\", job=\"eu/shop\"";
    assert_eq!(
        series(&server),
        [
            format!("network_io_bytes_total{{http_method=\"GET\", {id}}} 3"),
            format!("cpu_usage_ratio{{http_method=\"GET\", {id}}} 0.25"),
            format!("cpu_usage_ratio{{http_method=\"GET\", {id}}} NaN"),
            format!("latency_seconds_sum{{{id}}} 4.5"),
            format!("latency_seconds_count{{{id}}} 6"),
            format!("latency_seconds_bucket{{{id}, le=\"0.5\"}} 1"),
            format!("latency_seconds_bucket{{{id}, le=\"1\"}} 3"),
            format!("latency_seconds_bucket{{{id}, le=\"+Inf\"}} 6"),
            format!("size_bytes{{{id}}} Integer {{ count: 6, zero: 1, positive: [2, 3], negative: [] }}"),
            format!("wait_milliseconds_sum{{{id}}} 3"),
            format!("wait_milliseconds_count{{{id}}} 2"),
            format!("wait_milliseconds{{{id}, quantile=\"0.5\"}} 1.5"),
            format!("target_info{{host_name=\"h1\", {id}}} 1"),
        ]
    );
    let requests = server.sink.requests.lock();
    let decoded = &requests[0].1;
    assert_eq!((decoded.series[0].created_ms, decoded.samples[0].timestamp_ms), (500, 1000));
    assert!(isobar_block::is_stale(decoded.samples[2].value), "no recorded value");
    let with_exemplar = decoded.series.iter().find(|s| !s.exemplars.is_empty()).expect("one has an exemplar");
    assert!(decoded.canonical_labels(with_exemplar).expect("valid").to_string().contains("le=\"1\""));
    assert_eq!(decoded.exemplars[0].labels.get("trace_id"), Some("ab".repeat(16).as_str()));
    assert_eq!(decoded.metadata[0].0, "network_io_bytes_total");
}

#[tokio::test]
async fn delta_temporality_is_refused_and_the_rest_kept() {
    let server = server();
    let answer = server.post(PATH, &[PROTOBUF], request(vec![sum("a", DELTA), sum("b", CUMULATIVE)]).encode_to_vec()).await;
    assert_eq!(answer.status, StatusCode::OK);
    let partial = ExportMetricsServiceResponse::decode(answer.body).expect("a response").partial_success.expect("partial");
    assert_eq!(partial.rejected_data_points, 1);
    assert!(partial.error_message.contains("delta temporality"), "{}", partial.error_message);
    for temporality in [DELTA, 0] {
        let answer = server.post(PATH, &[PROTOBUF], request(vec![sum("a", temporality)]).encode_to_vec()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn gzip_and_other_encodings() {
    let server = server();
    let body = request(vec![sum("a", CUMULATIVE)]).encode_to_vec();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(&body).expect("compresses");
    let gzip = gzip.finish().expect("compresses");
    let post = async |headers: &[(&str, &str)], body: &[u8]| server.post(PATH, headers, body.to_vec()).await.status;
    assert_eq!(post(&[PROTOBUF, ("content-encoding", "gzip")], &gzip).await, StatusCode::OK);
    assert_eq!(post(&[PROTOBUF, ("content-encoding", "gzip")], &body).await, StatusCode::BAD_REQUEST);
    assert_eq!(post(&[PROTOBUF, ("content-encoding", "gzip")], &gzip[..gzip.len() - 9]).await, StatusCode::BAD_REQUEST);
    assert_eq!(post(&[PROTOBUF, ("content-encoding", "zstd")], &body).await, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(post(&[("content-type", "application/json")], b"{}").await, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(post(&[PROTOBUF], b"\x0a\x05\x01").await, StatusCode::BAD_REQUEST);
    assert_eq!(post(&[PROTOBUF], b"").await, StatusCode::OK, "an empty message");
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&vec![0; 40 << 20]).expect("compresses");
    assert_eq!(post(&[PROTOBUF, ("content-encoding", "gzip")], &bomb.finish().expect("compresses")).await, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn faults_may_be_tried_again() {
    let server = server();
    for (fault, status, retry_after) in [
        (Fault::Unavailable, StatusCode::SERVICE_UNAVAILABLE, "3"),
        (Fault::TooManyRequests, StatusCode::TOO_MANY_REQUESTS, "3"),
        (Fault::Internal, StatusCode::INTERNAL_SERVER_ERROR, ""),
    ] {
        server.fail(fault);
        let answer = server.post(PATH, &[PROTOBUF], request(vec![sum("a", CUMULATIVE)]).encode_to_vec()).await;
        assert_eq!(
            (answer.status, answer.header("retry-after"), answer.header("content-type")),
            (status, retry_after, "application/x-protobuf")
        );
    }
}

#[tokio::test]
async fn truncated_and_changed_bodies_do_not_panic() {
    let server = server();
    let body =
        request(vec![sum("a", CUMULATIVE), metric("b", "1", Data::Gauge(Gauge { data_points: vec![number(0.25, 0)] }))]).encode_to_vec();
    for at in 0..body.len() {
        let mut changed = body.clone();
        changed[at] ^= 0x55;
        for bytes in [&body[..at], &changed] {
            let status = server.post(PATH, &[PROTOBUF], bytes.to_vec()).await.status;
            assert!(matches!(status, StatusCode::OK | StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE), "{status} at {at}");
        }
    }
}
