//! Conformance of the write endpoints, status by status and header by header, against a sink that records or fails.

mod otlp;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt;
use isobar_block::TenantId;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use prost::Message;
use tower::ServiceExt;

use super::*;
use crate::decoded::{RejectReason, WriteError, WriteOutcome};
use crate::limits::LimitsConfig;
use crate::wire::messages::{v1 as m1, v2 as m2};

const V1: &str = "application/x-protobuf;proto=prometheus.WriteRequest";
const V2: &str = "application/x-protobuf;proto=io.prometheus.write.v2.Request";

/// What the sink does with a request after it has recorded it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    RefuseFirstSample,
    RefuseExemplars,
    TooManyRequests,
    Unavailable,
    Internal,
    Hang,
}

struct RecordingSink {
    fault: Mutex<Fault>,
    requests: Mutex<Vec<(String, DecodedRequest)>>,
}

#[async_trait]
impl WriteSink for RecordingSink {
    async fn write(&self, tenant: &TenantId, request: DecodedRequest) -> Result<WriteOutcome, WriteError> {
        let fault = *self.fault.lock();
        let mut outcome = WriteOutcome {
            samples_written: request.samples.len() as u64,
            histograms_written: request.histograms.len() as u64,
            exemplars_written: request.exemplars.len() as u64,
            ..Default::default()
        };
        outcome.rejected.add_rejections(&request.rejected);
        self.requests.lock().push((tenant.to_string(), request));
        match fault {
            Fault::RefuseFirstSample => {
                outcome.samples_written -= 1;
                outcome.rejected.add(&RejectReason::DuplicateTimestamp { timestamp_ms: 1 }, 1, || "up{}".into());
            }
            Fault::RefuseExemplars => {
                let refused = std::mem::take(&mut outcome.exemplars_written);
                outcome.rejected.add(&RejectReason::ExemplarOutOfOrder { timestamp_ms: 1 }, refused, || "up{}".into());
            }
            _ => {}
        }
        let part = Box::new(WriteOutcome { samples_written: 1, ..Default::default() });
        let retry_after = Duration::from_millis(2500);
        match fault {
            Fault::TooManyRequests => {
                Err(WriteError::TooManyRequests { limit: "a_limit", allowed: 3, tenant: tenant.clone(), retry_after, outcome: part })
            }
            Fault::Unavailable => Err(WriteError::Unavailable { reason: "the disk is full".into(), retry_after, outcome: part }),
            Fault::Internal => Err(WriteError::Internal { reason: "a bug".into(), outcome: part }),
            Fault::Hang => std::future::pending().await,
            _ => Ok(outcome),
        }
    }
}

struct Server {
    sink: Arc<RecordingSink>,
    router: Router,
    registry: Registry,
    limits: LiveLimits,
}

struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().expect("ASCII"))
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    /// Samples, histograms and exemplars written, as the headers tell.
    fn written(&self) -> [&str; 3] {
        ["Samples", "Histograms", "Exemplars"].map(|kind| self.header(&format!("X-Prometheus-Remote-Write-{kind}-Written")))
    }
}

fn server_with(config: HttpConfig, limits: Limits) -> Server {
    let sink = Arc::new(RecordingSink { fault: Mutex::new(Fault::None), requests: Mutex::default() });
    let mut registry = Registry::default();
    let metrics = WriteMetrics::register(&mut registry);
    let limits = LiveLimits::new(LimitsConfig { defaults: limits, ..Default::default() });
    let state = HttpState::new(sink.clone(), config, TenantConfig::default(), OtlpConfig::default(), limits.clone(), metrics);
    Server { sink, router: router(state), registry, limits }
}

fn server() -> Server {
    server_with(HttpConfig::default(), Limits::default())
}

impl Server {
    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.expect("the router does not fail");
        let (parts, body) = response.into_parts();
        Answer { status: parts.status, headers: parts.headers, body: body.collect().await.expect("a body").to_bytes() }
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        let builder = headers.iter().fold(Request::post(path), |b, (name, value)| b.header(*name, *value));
        self.send(builder.body(Body::from(body)).expect("a request")).await
    }

    async fn write(&self, content_type: &str, body: &[u8]) -> Answer {
        self.post("/api/v1/write", &[("content-type", content_type), ("content-encoding", "snappy")], compress(body)).await
    }

    fn fail(&self, fault: Fault) {
        *self.sink.fault.lock() = fault;
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("encodes");
        text
    }
}

fn compress(body: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(body).expect("compresses")
}

/// Two series with one sample each, the first with an exemplar.
fn v1_body() -> Vec<u8> {
    let series = |job: &str| m1::TimeSeries {
        labels: m1::labels(&[("__name__", "up"), ("job", job)]),
        samples: vec![m1::Sample { value: 1.0, timestamp: 1 }],
        ..Default::default()
    };
    let mut request = m1::WriteRequest { timeseries: vec![series("a"), series("b")], ..Default::default() };
    request.timeseries[0].exemplars.push(m1::Exemplar { labels: m1::labels(&[("trace_id", "x")]), value: 1.0, timestamp: 1 });
    request.encode_to_vec()
}

fn v2_message() -> m2::Request {
    let mut request = m2::Request::new();
    for job in ["a", "b"] {
        let labels_refs = request.labels(&[("__name__", "up"), ("job", job)]);
        request.timeseries.push(m2::TimeSeries {
            labels_refs,
            samples: vec![m2::Sample { value: 1.0, timestamp: 1, start_timestamp: 0 }],
            ..Default::default()
        });
    }
    let labels_refs = request.labels(&[("trace_id", "x")]);
    request.timeseries[0].exemplars.push(m2::Exemplar { labels_refs, value: 1.0, timestamp: 1 });
    request
}

fn v2_body() -> Vec<u8> {
    v2_message().encode_to_vec()
}

#[tokio::test]
async fn success_is_204_with_counts_on_every_path() {
    let server = server();
    for path in ["/api/v1/write", "/api/v1/push", "/api/v1/receive"] {
        for (content_type, body) in [(V1, v1_body()), (V2, v2_body())] {
            let answer = server.post(path, &[("content-type", content_type), ("content-encoding", "snappy")], compress(&body)).await;
            assert_eq!(
                (answer.status, answer.text(), answer.written()),
                (StatusCode::NO_CONTENT, "", ["2", "0", "1"]),
                "{path} {content_type}"
            );
        }
    }
    assert_eq!(server.sink.requests.lock().len(), 6);
    let metrics = server.metrics();
    for line in [
        "isobar_write_requests_total{protocol=\"remote_write_1.0\",code=\"204\"} 3",
        "isobar_write_requests_total{protocol=\"remote_write_2.0\",code=\"204\"} 3",
        "isobar_ingest_written_total{kind=\"sample\"} 12",
        "isobar_write_inflight_bytes 0",
        "isobar_write_inflight_requests 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn the_content_type_picks_the_schema() {
    let server = server();
    let (v1, v2) = (v1_body(), v2_body());
    for (content_type, body) in [
        ("application/x-protobuf", &v1),
        ("Application/X-Protobuf ; proto=prometheus.WriteRequest", &v1),
        ("application/x-protobuf;proto=\"io.prometheus.write.v2.Request\"", &v2),
        ("application/x-protobuf; charset=utf-8; proto=io.prometheus.write.v2.Request", &v2),
    ] {
        assert_eq!(server.write(content_type, body).await.status, StatusCode::NO_CONTENT, "{content_type}");
    }
    // The version header has no say.
    let headers = [("content-type", V1), ("x-prometheus-remote-write-version", "2.0.0"), ("retry-attempt", "3")];
    assert_eq!(server.post("/api/v1/write", &headers, compress(&v1)).await.status, StatusCode::NO_CONTENT);
    let answer = server.post("/api/v1/write", &[], compress(&v1)).await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT, "neither content type nor encoding");
    for content_type in [
        "application/json",
        "text/plain",
        "application/x-protobuf;proto=other.Request",
        "application/x-protobuf;proto",
        "application/x-protobuf; ;",
        "x",
    ] {
        let answer = server.write(content_type, &v1).await;
        assert_eq!((answer.status, answer.written()), (StatusCode::UNSUPPORTED_MEDIA_TYPE, ["0", "0", "0"]), "{content_type}");
        assert!(answer.text().contains("content type"));
    }
}

#[tokio::test]
async fn only_snappy_blocks() {
    let server = server();
    let post = async |encoding: &str, body: Vec<u8>| {
        server.post("/api/v1/write", &[("content-type", V1), ("content-encoding", encoding)], body).await
    };
    assert_eq!(post("SNAPPY", compress(&v1_body())).await.status, StatusCode::NO_CONTENT);
    for encoding in ["gzip", "zstd", "identity", "snappy, gzip"] {
        assert_eq!(post(encoding, compress(&v1_body())).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{encoding}");
    }
    let framed = [b"\xff\x06\x00\x00sNaPpY".to_vec(), v1_body()].concat();
    for body in [framed, vec![], v1_body(), b"garbage".to_vec()] {
        let answer = post("snappy", body).await;
        assert!(answer.status == StatusCode::BAD_REQUEST || answer.status == StatusCode::PAYLOAD_TOO_LARGE, "{}", answer.status);
    }
    assert_eq!(server.sink.requests.lock().len(), 1);
}

#[tokio::test]
async fn only_post() {
    let server = server();
    for method in ["GET", "PUT", "DELETE", "HEAD"] {
        let request = Request::builder().method(method).uri("/api/v1/write").body(Body::empty()).expect("a request");
        let answer = server.send(request).await;
        assert_eq!((answer.status, answer.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, "POST"));
    }
}

#[tokio::test]
async fn undecodable_bodies_are_400() {
    let server = server();
    for (content_type, body) in [(V1, v1_body()), (V2, v2_body())] {
        for end in 1..body.len() {
            let answer = server.write(content_type, &body[..end]).await;
            assert!(matches!(answer.status, StatusCode::BAD_REQUEST | StatusCode::NO_CONTENT), "{} at {end}", answer.status);
        }
    }
    let answer = server.write(V1, &v2_body()).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.text().contains("proto=io.prometheus.write.v2.Request"));
    assert_eq!(server.write(V2, &v1_body()).await.status, StatusCode::BAD_REQUEST);
    let mut no_empty_symbol = v2_message();
    no_empty_symbol.symbols[0] = b"a".to_vec();
    assert_eq!(server.write(V2, &no_empty_symbol.encode_to_vec()).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(server.write(V1, &[]).await.status, StatusCode::NO_CONTENT, "an empty message is legal");
}

#[tokio::test]
async fn good_samples_of_a_bad_request_are_kept() {
    let server = server();
    server.fail(Fault::RefuseFirstSample);
    for (content_type, body) in [(V1, v1_body()), (V2, v2_body())] {
        let answer = server.write(content_type, &body).await;
        assert_eq!((answer.status, answer.written()), (StatusCode::BAD_REQUEST, ["1", "0", "1"]));
        assert!(answer.text().contains("duplicate_timestamp: 1") && answer.text().contains("up{}"), "{}", answer.text());
    }
    server.fail(Fault::None);
    let mut request = v2_message();
    request.timeseries[0].labels_refs = request.labels(&[("job", "a")]);
    let answer = server.write(V2, &request.encode_to_vec()).await;
    assert_eq!((answer.status, answer.written()), (StatusCode::BAD_REQUEST, ["1", "0", "0"]));
    assert!(answer.text().contains("missing_metric_name: 1"), "{}", answer.text());
    assert!(server.metrics().contains("isobar_ingest_rejected_total{reason=\"missing_metric_name\"} 1"));
}

#[tokio::test]
async fn refused_exemplars_fail_version_2_only() {
    let server = server();
    server.fail(Fault::RefuseExemplars);
    let answer = server.write(V1, &v1_body()).await;
    assert_eq!((answer.status, answer.written()), (StatusCode::NO_CONTENT, ["2", "0", "0"]));
    let answer = server.write(V2, &v2_body()).await;
    assert_eq!((answer.status, answer.written()), (StatusCode::BAD_REQUEST, ["2", "0", "0"]));
}

#[tokio::test]
async fn faults_of_the_store() {
    let server = server();
    for (fault, status, retry_after, text) in [
        (Fault::TooManyRequests, StatusCode::TOO_MANY_REQUESTS, "3", "a_limit of 3"),
        (Fault::Unavailable, StatusCode::SERVICE_UNAVAILABLE, "3", "the disk is full"),
        (Fault::Internal, StatusCode::INTERNAL_SERVER_ERROR, "", "a bug"),
    ] {
        server.fail(fault);
        for (content_type, body) in [(V1, v1_body()), (V2, v2_body())] {
            let answer = server.write(content_type, &body).await;
            assert_eq!(
                (answer.status, answer.header("retry-after"), answer.written()),
                (status, retry_after, ["1", "0", "0"]),
                "{fault:?}"
            );
            assert!(answer.text().contains(text), "{}", answer.text());
        }
    }
}

#[tokio::test]
async fn tenants() {
    let server = server();
    for (headers, expected) in [
        (&[][..], Some("default")),
        (&[("x-scope-orgid", "team-a")][..], Some("team-a")),
        (&[("thanos-tenant", "team-b")][..], Some("team-b")),
        (&[("x-scope-orgid", "a|b")][..], None),
        (&[("x-scope-orgid", "../../etc")][..], None),
        (&[("x-scope-orgid", "a"), ("thanos-tenant", "b")][..], None),
    ] {
        server.sink.requests.lock().clear();
        let answer = server.post("/api/v1/write", headers, compress(&v1_body())).await;
        let tenant = server.sink.requests.lock().first().map(|(tenant, _)| tenant.clone());
        assert_eq!(tenant.as_deref(), expected);
        assert_eq!(answer.status, if expected.is_some() { StatusCode::NO_CONTENT } else { StatusCode::BAD_REQUEST });
    }
}

#[tokio::test]
async fn rate_limit_is_429_with_retry_after() {
    let server = server_with(HttpConfig::default(), Limits { ingestion_rate: 1, ingestion_burst_size: 2, ..Limits::default() });
    assert_eq!(server.write(V1, &v1_body()).await.status, StatusCode::NO_CONTENT);
    let answer = server.write(V2, &v2_body()).await;
    assert_eq!((answer.status, answer.header("retry-after"), answer.written()), (StatusCode::TOO_MANY_REQUESTS, "2", ["0", "0", "0"]));
    assert!(answer.text().contains("ingestion_rate of 1"), "{}", answer.text());
    server.limits.replace(LimitsConfig::default());
    assert_eq!(server.write(V1, &v1_body()).await.status, StatusCode::NO_CONTENT, "limits change while it runs");
}

#[tokio::test]
async fn requests_that_are_too_large_are_413() {
    let server = server_with(HttpConfig::default(), Limits { max_request_bytes: 4096, ..Limits::default() });
    let bomb = vec![0xff, 0xff, 0xff, 0xff, 0x0f, 0xfe, 0x01, 0x00];
    let zeros = compress(&vec![0; 5000]);
    for body in [bomb, zeros, vec![0; 5000]] {
        let answer = server.post("/api/v1/write", &[("content-type", V2)], body).await;
        assert_eq!((answer.status, answer.written()), (StatusCode::PAYLOAD_TOO_LARGE, ["0", "0", "0"]));
        assert!(answer.text().contains("max_request_bytes"), "{}", answer.text());
    }
    assert!(server.sink.requests.lock().is_empty());
}

/// A body of 100 MiB in chunks, with or without an announced length; `Counted` tells how many chunks exist at a time.
#[tokio::test]
async fn a_body_of_100_mib_takes_no_memory() {
    const CHUNK: usize = 64 << 10;
    let server = server_with(HttpConfig::default(), Limits::default());
    for announced in [true, false] {
        let chunk = Bytes::from(vec![0u8; CHUNK]);
        let gauge_at_most = Arc::new(Mutex::new(0usize));
        let seen = gauge_at_most.clone();
        let chunks = futures::stream::iter((0..(100 << 20) / CHUNK).map(move |i| {
            *seen.lock() = i;
            Ok::<_, std::convert::Infallible>(chunk.clone())
        }));
        let mut builder = Request::post("/api/v1/write").header("content-type", V1);
        if announced {
            builder = builder.header("content-length", 100 << 20);
        }
        let answer = server.send(builder.body(Body::from_stream(chunks)).expect("a request")).await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(*gauge_at_most.lock(), (100 << 20) / CHUNK - 1, "the rest is read, so that the sender sees the answer");
        assert!(server.metrics().contains("isobar_write_inflight_bytes 0"));
    }
    let asks = Request::post("/api/v1/write").header("content-length", 100 << 20).header("expect", "100-continue");
    let body = Body::from_stream(futures::stream::pending::<Result<Bytes, std::convert::Infallible>>());
    assert_eq!(server.send(asks.body(body).expect("a request")).await.status, StatusCode::PAYLOAD_TOO_LARGE, "answered without reading");
}

#[tokio::test]
async fn inflight_memory_is_bounded() {
    let server = server_with(HttpConfig { max_inflight_bytes: 1000, ..Default::default() }, Limits::default());
    server.fail(Fault::Hang);
    let router = server.router.clone();
    let hanging = tokio::spawn(async move {
        let request = Request::post("/api/v1/write").body(Body::from(compress(&v1_body().repeat(100)))).expect("a request");
        router.oneshot(request).await
    });
    while server.sink.requests.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    let answer = server.write(V1, &v1_body()).await;
    assert_eq!((answer.status, answer.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "1"));
    assert!(answer.text().contains("max_inflight_bytes of 1000B"), "{}", answer.text());
    hanging.abort();
    assert!(hanging.await.expect_err("aborted").is_cancelled());
    server.fail(Fault::None);
    assert_eq!(server.write(V1, &v1_body()).await.status, StatusCode::NO_CONTENT, "a sender that goes away gives its memory back");
}

#[tokio::test]
async fn slow_bodies_time_out_and_large_ones_pass() {
    let server = server_with(HttpConfig { read_timeout: Duration::from_millis(20), ..Default::default() }, Limits::default());
    let body = Body::from_stream(futures::stream::pending::<Result<Bytes, std::convert::Infallible>>());
    let answer = server.send(Request::post("/api/v1/write").body(body).expect("a request")).await;
    assert_eq!((answer.status, answer.written()), (StatusCode::REQUEST_TIMEOUT, ["0", "0", "0"]));
    let large = v1_body().repeat(LARGE_BODY_BYTES / v1_body().len() + 1);
    let server = self::server();
    assert_eq!(server.write(V1, &large).await.status, StatusCode::NO_CONTENT);
    let series = server.sink.requests.lock()[0].1.series.len();
    assert_eq!(series, 2 * large.len() / v1_body().len());
}
