//! Requests in process: paths, codings, answers, bounds.

use std::io::Write;

use axum::body::Body;
use axum::http::{HeaderMap, Request};
use flate2::Compression;
use flate2::write::GzEncoder;
use isobar_block::TenantId;
use serde_json::Value;
use tower::ServiceExt;

use super::*;
use crate::openlineage::{dataset_key, job_key};

fn service() -> Service {
    crate::testing::service(crate::testing::parts())
}

fn event(name: &str, run: u32) -> Value {
    json!({
        "eventTime": "2024-05-01T10:00:00.123+00:00", "eventType": "COMPLETE", "producer": "https://example.org/p",
        "run": {"runId": format!("00000000-0000-4000-8000-{run:012}")}, "job": {"namespace": "j", "name": name},
        "inputs": [{"namespace": "n", "name": "x"}], "outputs": [{"namespace": "n", "name": name}],
    })
}

async fn post(routes: &Router, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> (u16, HeaderMap, Value) {
    let request = headers.iter().fold(Request::post(path), |r, (n, v)| r.header(*n, *v)).body(body.into()).expect("a request");
    let (parts, body) = routes.clone().oneshot(request).await.expect("answers").into_parts();
    let bytes = http_body_util::BodyExt::collect(body).await.expect("is read").to_bytes();
    (parts.status.as_u16(), parts.headers, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).expect("is written");
    encoder.finish().expect("is written")
}

async fn knows(service: &Service, tenant: &str, job: &str) -> bool {
    let tenant = service.tenant(&TenantId::new(tenant).expect("valid")).await.expect("opens");
    !tenant.store.documents(&job_key("j", job).expect("valid"), "run/").is_empty()
}

#[tokio::test]
async fn all_paths_take_events() {
    let service = service();
    let routes = routes().with_state(service.clone());
    let paths = [
        "/api/v1/lineage",
        "/base/api/v1/lineage",
        "/a/b/api/v1/lineage",
        "/openapi/openlineage/api/v1/lineage",
        "/api/v1/openlineage/lineage",
    ];
    for (i, path) in paths.into_iter().enumerate() {
        let name = format!("job{i}");
        let (status, _, answer) = post(&routes, path, &[], event(&name, 1).to_string()).await;
        assert_eq!((status, &answer["status"]), (201, &json!("success")), "{path}");
        assert!(knows(&service, "default", &name).await, "{path}");
        let (status, _, answer) = post(&routes, &format!("{path}/batch"), &[], json!([event(&name, 2)]).to_string()).await;
        assert_eq!((status, &answer["summary"]["successful"]), (200, &json!(1)), "{path}");
    }
    let compressed = gzip(event("zip", 1).to_string().as_bytes());
    let headers = [("content-encoding", "gzip"), ("x-scope-orgid", "t1")];
    assert_eq!(post(&routes, "/api/v1/lineage", &headers, compressed.clone()).await.0, 201);
    assert!(knows(&service, "t1", "zip").await && !knows(&service, "default", "zip").await);
    assert_eq!(post(&routes, "/api/v1/lineage", &[("content-encoding", "br")], compressed.clone()).await.0, 415);
    assert_eq!(post(&routes, "/api/v1/lineage", &[("content-encoding", "gzip")], "{}").await.0, 400);
    assert_eq!(post(&routes, "/api/v1/lineage", &[], compressed).await.0, 400);
    assert_eq!(post(&routes, "/api/v1/lineage", &[("x-scope-orgid", "..")], "{}").await.0, 400);
}

#[tokio::test]
async fn a_batch_says_what_became_of_each() {
    let service = service();
    let routes = routes().with_state(service.clone());
    let mut wrong = event("b", 1);
    wrong["inputs"][0]["name"] = Value::Null;
    let events = json!([event("a", 1), wrong, event("a", 1), 7]);
    let (status, _, answer) = post(&routes, "/api/v1/lineage/batch", &[], events.to_string()).await;
    let summary = json!({"received": 4, "successful": 2, "failed": 2, "retriable": 0, "non_retriable": 2});
    assert_eq!((status, &answer["status"], &answer["summary"]), (200, &json!("partial_success"), &summary));
    assert_eq!(answer["failed_events"][0], json!({"index": 1, "reason": "inputs[0].name: is missing", "retriable": false}));
    assert_eq!(answer["failed_events"][1]["index"], 3);
    let wrapped = json!({"events": [event("c", 1)]}).to_string();
    let (status, _, answer) = post(&routes, "/api/v1/openlineage/lineage/batch", &[], wrapped).await;
    assert_eq!((status, &answer["status"]), (200, &json!("success")));
    assert!(knows(&service, "default", "c").await && !knows(&service, "default", "b").await);
    assert_eq!(post(&routes, "/api/v1/lineage/batch", &[], "[]").await.0, 200);
    let (status, _, answer) = post(&routes, "/api/v1/lineage/batch", &[], "[1,").await;
    assert!(status == 400 && answer["error"].as_str().is_some_and(|e| e.contains("no list of events")), "{answer}");
    let many = format!("[{}1]", "1,".repeat(batch::MAX_EVENTS));
    assert_eq!(post(&routes, "/api/v1/lineage/batch", &[], many).await.0, 400);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let routes = routes().with_state(service());
    let mut wrong = event("a", 1);
    wrong["outputs"] = json!([{"namespace": "n", "name": "x"}, {"namespace": "n"}]);
    let (status, _, answer) = post(&routes, "/api/v1/lineage", &[], wrong.to_string()).await;
    assert_eq!((status, &answer["error"]), (400, &json!("outputs[1].name: is missing")));
    assert_eq!(post(&routes, "/api/v1/lineage", &[], "not json").await.0, 400);
    assert_eq!(post(&routes, "/api/v1/lineage", &[], vec![0xFF, 0xFE]).await.0, 400);
    assert_eq!(post(&routes, "/api/v1/lineage", &[], "[".repeat(100_000)).await.0, 400);
    let length = (body::MAX_BODY_BYTES + 1).to_string();
    assert_eq!(post(&routes, "/api/v1/lineage", &[("content-length", &length)], "{}").await.0, 413);
    assert_eq!(post(&routes, "/api/v1/lineage", &[], vec![b' '; body::MAX_BODY_BYTES + 1]).await.0, 413);
    let bomb = gzip(&vec![b' '; 4 * body::MAX_BODY_BYTES]);
    assert!(bomb.len() < 1 << 20);
    assert_eq!(post(&routes, "/api/v1/lineage", &[("content-encoding", "gzip")], bomb).await.0, 413);
}

#[tokio::test]
async fn without_room_it_is_503_and_the_room_comes_back() {
    let service = service();
    let shared = Shared::default();
    let routes = Router::new().route("/lineage", axum::routing::post(single)).layer(Extension(shared.clone())).with_state(service);
    let mut held = Vec::new();
    let large = || Body::from(vec![b' '; body::MAX_BODY_BYTES]);
    while let Ok((_, room)) = shared.room.read(&HeaderMap::new(), large()).await {
        held.push(room);
    }
    assert_eq!(held.len(), body::ROOM_BYTES / body::MAX_BODY_BYTES / body::EXPANSION);
    let text = event("a", 1).to_string();
    let padded = format!("{text}{}", " ".repeat(body::ROOM_BYTES % (body::MAX_BODY_BYTES * body::EXPANSION) / body::EXPANSION + 1024));
    let (status, headers, answer) = post(&routes, "/lineage", &[], padded).await;
    assert!(status == 503 && headers.contains_key("retry-after"), "{status} {answer}");
    held.clear();
    assert_eq!(post(&routes, "/lineage", &[], text.clone()).await.0, 201);
    for _ in 0..body::MAX_REQUESTS {
        held.push(shared.room.read(&HeaderMap::new(), Body::empty()).await.expect("has room").1);
    }
    assert_eq!(post(&routes, "/lineage", &[], text.clone()).await.0, 503);
    held.clear();
    assert_eq!(post(&routes, "/lineage", &[], text).await.0, 201);
}

#[tokio::test]
async fn names_of_datasets_are_those_of_other_sources() {
    let key = dataset_key("postgres://db:5432", "shop.public.orders").expect("valid");
    assert_eq!(key.as_str(), "dataset:postgres:%2F%2Fdb:5432/shop.public.orders");
    assert_eq!(dataset_key("kafka://b:9092", "orders").expect("valid").as_str(), "topic:kafka:%2F%2Fb:9092/orders");
}
