//! The front without a socket.

use std::collections::BTreeMap;

use axum::routing::{get, post};
use base64::Engine;
use prometheus_client::registry::Registry;

use super::*;

fn front(prefix: &str, cors: &str, users: &[(&str, &str)]) -> Front {
    let users: BTreeMap<_, _> = users.iter().map(|(u, p)| ((*u).to_owned(), bcrypt::hash(p, 4).expect("hashes"))).collect();
    let config = FrontConfig { prefix: prefix.into(), cors_origin: cors.into() };
    Front::new(config, Auth::new(users), Metrics::new(&mut Registry::default())).expect("valid")
}

fn routes() -> Router {
    Router::new()
        .route("/", get(|| async { "start" }))
        .route("/api/v1/query", get(|uri: Uri| async move { uri.to_string() }))
        .route("/-/reload", post(|| async { "reloaded" }))
        .route("/opentelemetry.proto.collector.trace.v1.TraceService/Export", post(|| async {}))
}

fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request {
    let builder = headers.iter().fold(axum::http::Request::builder().method(method).uri(path), |b, (n, v)| b.header(*n, *v));
    builder.body(Body::empty()).expect("is a request")
}

async fn status(front: &Front, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
    front.handle(request(method, path, headers)).await.status().as_u16()
}

async fn text(response: Response) -> String {
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("is read");
    String::from_utf8(bytes.to_vec()).expect("is text")
}

#[tokio::test]
async fn is_healthy_at_once_and_ready_when_open() {
    let front = front("", "", &[]);
    for method in ["GET", "HEAD"] {
        assert_eq!(status(&front, method, "/-/healthy", &[]).await, 200);
        assert_eq!(status(&front, method, "/-/ready", &[]).await, 503);
    }
    let starting = front.handle(request("GET", "/api/v1/query", &[])).await;
    assert_eq!((starting.status().as_u16(), starting.headers().contains_key(header::RETRY_AFTER)), (503, true));
    assert!(text(starting).await.contains("\"errorType\":\"unavailable\""));
    front.open(routes());
    assert_eq!(status(&front, "GET", "/-/ready", &[]).await, 200);
    assert_eq!(status(&front, "POST", "/-/ready", &[]).await, 405);
    assert_eq!(status(&front, "GET", "/api/v1/query", &[]).await, 200);
    front.set_phase(Phase::Stopping);
    assert_eq!(status(&front, "GET", "/-/ready", &[]).await, 503);
    assert_eq!(status(&front, "GET", "/-/healthy", &[]).await, 200);
    assert_eq!(status(&front, "GET", "/api/v1/query", &[]).await, 200, "open requests are still answered");
}

#[tokio::test]
async fn serves_below_the_prefix_only() {
    let front = front("/isobar", "", &[]);
    front.open(routes());
    for (path, expected) in [
        ("/isobar/", 200),
        ("/isobar", 302),
        ("/", 302),
        ("/isobar/-/ready", 200),
        ("/-/ready", 404),
        ("/isobarx/", 404),
        ("/api/v1/query", 404),
    ] {
        assert_eq!(status(&front, "GET", path, &[]).await, expected, "{path}");
    }
    let inner = front.handle(request("GET", "/isobar/api/v1/query?query=a%2Fb", &[])).await;
    assert_eq!(text(inner).await, "/api/v1/query?query=a%2Fb");
    let moved = front.handle(request("GET", "/", &[])).await;
    assert_eq!(moved.headers()[header::LOCATION], "/isobar/");
    let grpc = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
    assert_eq!(status(&front, "POST", grpc, &[]).await, 200, "gRPC knows no prefix");
}

#[tokio::test]
async fn asks_for_credentials() {
    let front = front("", "", &[("alice", "secret")]);
    front.open(routes());
    let basic = |pair: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
    for path in ["/", "/-/healthy", "/-/ready", "/api/v1/query"] {
        let refused = front.handle(request("GET", path, &[])).await;
        assert_eq!((refused.status().as_u16(), refused.headers().contains_key(header::WWW_AUTHENTICATE)), (401, true), "{path}");
        assert_eq!(status(&front, "GET", path, &[("authorization", &basic("alice:wrong"))]).await, 401, "{path}");
        assert_eq!(status(&front, "GET", path, &[("authorization", &basic("alice:secret"))]).await, 200, "{path}");
    }
}

#[tokio::test]
async fn refuses_changes_from_other_sites() {
    let front = front("", "", &[]);
    front.open(routes());
    for (headers, expected) in [
        (vec![], 200),
        (vec![("sec-fetch-site", "same-origin"), ("origin", "http://x"), ("host", "x")], 200),
        (vec![("sec-fetch-site", "none")], 200),
        (vec![("sec-fetch-site", "cross-site")], 403),
        (vec![("sec-fetch-site", "same-site")], 403),
        (vec![("origin", "http://x"), ("host", "x")], 200),
        (vec![("origin", "http://evil"), ("host", "x")], 403),
        (vec![("origin", "null"), ("host", "x")], 403),
    ] {
        assert_eq!(status(&front, "POST", "/-/reload", &headers).await, expected, "{headers:?}");
    }
}

#[tokio::test]
async fn lets_chosen_origins_read() {
    let front = front("", "https://(a|b)\\.example", &[]);
    front.open(routes());
    for (origin, allowed) in [("https://a.example", true), ("https://a.example.evil", false), ("https://c.example", false)] {
        let response = front.handle(request("GET", "/api/v1/query", &[("origin", origin)])).await;
        assert_eq!(response.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN).is_some_and(|o| o == origin), allowed, "{origin}");
    }
    assert_eq!(status(&front, "OPTIONS", "/api/v1/query", &[("origin", "https://a.example")]).await, 204);
}

#[tokio::test]
async fn adds_the_headers_of_the_web_file() {
    let front = front("", "", &[]);
    front.open(routes());
    front.set_headers(&[("Strict-Transport-Security".into(), "max-age=1".into())]);
    let response = front.handle(request("GET", "/", &[])).await;
    assert_eq!(response.headers()[header::STRICT_TRANSPORT_SECURITY], "max-age=1");
    assert_eq!(response.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
}

#[tokio::test]
async fn the_host_of_http_2_counts_as_one() {
    let front = front("", "", &[]);
    front.open(routes());
    for (origin, expected) in [("http://x:9090", 200), ("http://evil", 403)] {
        assert_eq!(status(&front, "POST", "http://x:9090/-/reload", &[("origin", origin)]).await, expected, "{origin}");
    }
}
