//! Requests in process: encodings, refusals, bounds.

use std::io::Write;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use flate2::Compression;
use flate2::write::GzEncoder;
use isobar_block::{TenantId, time};
use serde_json::Value;
use tower::ServiceExt;

use super::*;

fn service() -> Service {
    crate::testing::service(crate::testing::parts())
}

fn spans(service_name: &str) -> Value {
    let end = (time::now_ms() * 1_000_000).to_string();
    let span = json!({"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "name": "x", "kind": 2,
        "startTimeUnixNano": end, "endTimeUnixNano": end, "attributes": [{"key": "http.route", "value": {"stringValue": "/pay"}}],
        "events": [{"name": "ignored", "attributes": [{"key": "a", "value": {"kvlistValue": {"values": []}}}]}], "status": {}});
    let name = json!({"key": "service.name", "value": {"stringValue": service_name}});
    json!({"resourceSpans": [{"resource": {"attributes": [name]}, "scopeSpans": [{"scope": {"name": "s"}, "spans": [span]}], "schemaUrl": ""}]})
}

async fn post(service: &Service, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> (StatusCode, HeaderMap, Bytes) {
    let request = headers.iter().fold(Request::post(path), |r, (n, v)| r.header(*n, *v));
    let request = request.body(Body::from(body)).expect("is a request");
    let response = routes().with_state(service.clone()).oneshot(request).await.expect("answers");
    let (parts, body) = response.into_parts();
    let collected = http_body_util::BodyExt::collect(body).await.expect("is read");
    let mut headers = parts.headers;
    headers.extend(collected.trailers().cloned().unwrap_or_default());
    (parts.status, headers, collected.to_bytes())
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).expect("is written");
    encoder.finish().expect("is written")
}

async fn received(service: &Service, tenant: &str) -> u64 {
    let tenant = service.tenant(&TenantId::new(tenant).expect("valid")).await.expect("opens");
    let status = serde_json::to_value(tenant.traces.status(10)).expect("serializes");
    status["spans"]["received"].as_u64().expect("a number")
}

#[tokio::test]
async fn protobuf_and_json_are_taken_plain_and_compressed() {
    let service = service();
    let json = spans("pay").to_string().into_bytes();
    let protobuf = json_to_protobuf(&json).expect("valid");
    for (i, path) in ["/v1/traces", "/api/v1/otlp/v1/traces"].into_iter().enumerate() {
        for (kind, body) in [("application/x-protobuf", &protobuf), ("application/json; charset=utf-8", &json)] {
            let (status, headers, answer) = post(&service, path, &[("content-type", kind)], body.clone()).await;
            assert_eq!(status, 200);
            assert!(headers["content-type"].to_str().expect("text").starts_with(kind.split(';').next().expect("one")));
            assert_eq!(&answer[..], if kind.starts_with("application/json") { &b"{}"[..] } else { b"" });
            let compressed = [("content-type", kind), ("content-encoding", "gzip"), ("x-scope-orgid", "other")];
            assert_eq!(post(&service, path, &compressed, gzip(body)).await.0, 200);
        }
        assert_eq!(received(&service, "default").await, 2 * (i as u64 + 1));
    }
    assert_eq!(received(&service, "other").await, 4);
}

#[tokio::test]
async fn what_is_refused_is_told_as_otlp_does() {
    let service = service();
    let json = spans("").to_string().into_bytes();
    let (status, _, answer) = post(&service, "/v1/traces", &[("content-type", "application/json")], json.clone()).await;
    let told: Value = serde_json::from_slice(&answer).expect("JSON");
    assert_eq!((status.as_u16(), &told["partialSuccess"]["rejectedSpans"]), (200, &Value::from("1")), "{told}");
    let protobuf = json_to_protobuf(&json).expect("valid");
    let (_, _, answer) = post(&service, "/v1/traces", &[("content-type", "application/x-protobuf")], protobuf).await;
    let told = ExportResponse::decode(answer).expect("protobuf").partial_success.expect("is partial");
    assert!(told.rejected_spans == 1 && told.error_message.contains("service.name"), "{told:?}");

    let bomb = gzip(&vec![0; body::MAX_UNPACKED_BYTES + 1]);
    let protobuf = "application/x-protobuf";
    for (headers, body, expected, word) in [
        (vec![("content-type", "text/plain")], vec![], 415, "text/plain"),
        (vec![("content-type", protobuf), ("content-encoding", "br")], vec![], 415, "gzip"),
        (vec![("content-type", protobuf)], vec![0x0a, 0xff], 400, "ExportTraceServiceRequest"),
        (vec![("content-type", protobuf), ("content-encoding", "gzip")], vec![1, 2, 3], 400, "gzip"),
        (vec![("content-type", protobuf), ("content-encoding", "gzip")], bomb, 413, "fewer spans"),
        (vec![("content-type", protobuf)], vec![0; body::MAX_BODY_BYTES + 1], 413, "fewer spans"),
        (vec![("content-type", protobuf), ("x-scope-orgid", "..")], vec![], 400, "tenant"),
    ] {
        let (status, headers, answer) = post(&service, "/v1/traces", &headers, body).await;
        let told = Status::decode(answer).expect("google.rpc.Status");
        assert!(status.as_u16() == expected && told.message.contains(word) && told.code != 0, "{status} {told:?}");
        assert_eq!(headers["content-type"], protobuf);
    }
    let (status, _, answer) =
        post(&service, "/v1/traces", &[("content-type", "application/json")], b"{\"resourceSpans\": 7}".to_vec()).await;
    let told: Value = serde_json::from_slice(&answer).expect("JSON");
    assert!(status == 400 && told["message"].as_str().is_some_and(|m| m.contains("line 1 column")), "{told}");
}

#[tokio::test]
async fn grpc_is_taken() {
    let service = service();
    let message = json_to_protobuf(spans("pay").to_string().as_bytes()).expect("valid");
    let frame = |flag: u8, message: &[u8]| [&[flag][..], &(message.len() as u32).to_be_bytes(), message].concat();
    let grpc = ("content-type", "application/grpc");
    let (status, headers, answer) = post(&service, grpc::PATH, &[grpc], frame(0, &message)).await;
    assert_eq!((status.as_u16(), &headers["grpc-status"], &answer[..]), (200, &HeaderValue::from_static("0"), &[0; 5][..]));
    let headers = [("content-type", "application/grpc+proto"), ("grpc-encoding", "gzip")];
    assert_eq!(post(&service, grpc::PATH, &headers, frame(1, &gzip(&message))).await.1["grpc-status"], "0");
    assert_eq!(received(&service, "default").await, 2);
    for (headers, body, code) in [
        (vec![grpc], vec![], "3"),
        (vec![grpc], frame(0, b"\x0a\xff"), "3"),
        (vec![grpc], frame(1, &message), "3"),
        (vec![grpc], [frame(0, &message), vec![1]].concat(), "3"),
        (vec![grpc, ("grpc-encoding", "zstd")], frame(1, &message), "12"),
        (vec![grpc], vec![0; body::MAX_BODY_BYTES + 1], "8"),
    ] {
        let (status, headers, _) = post(&service, grpc::PATH, &headers, body).await;
        assert_eq!((status.as_u16(), &headers["grpc-status"]), (200, &HeaderValue::from_static(code)), "{headers:?}");
        assert!(!headers["grpc-message"].is_empty());
    }
    assert_eq!(post(&service, grpc::PATH, &[("content-type", "application/json")], vec![]).await.0, 415);
}

#[tokio::test]
async fn the_status_is_an_answer_of_prometheus() {
    let service = service();
    let request = Request::get("/api/v1/lineage/traces/status?limit=5").body(Body::empty()).expect("is a request");
    let response = routes().with_state(service.clone()).oneshot(request).await.expect("answers");
    let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("is read").to_bytes();
    let status: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(
        (&status["status"], &status["data"]["matched_percent"], &status["data"]["complete"]),
        (&json!("success"), &Value::Null, &json!(true))
    );
}
