//! How many spans a second one core takes: requests of OTLP in protobuf through the routes, without a socket.
//!
//! `cargo run --release -p isobar -p isobar-lineage --example spans -- [TRACES]`. Each trace has 16 spans of 6 services with about ten attributes, of
//! which most are of no use for edges, as it is with the SDKs.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::http::Request;
use isobar_block::{TenantId, time};
use isobar_lineage::http::router;
use isobar_lineage::service::{Parts, Service};
use object_store::memory::InMemory;
use prometheus_client::registry::Registry;
use prost::encoding::{WireType, encode_key, encode_varint};
use tower::ServiceExt;

/// Spans of one request, as the batch processor of the SDKs sends them.
const SPANS_PER_REQUEST: usize = 512;

const SERVICES: [&str; 6] = ["frontend", "checkout", "payment", "cart", "catalog", "mailer"];

fn bytes(tag: u32, content: &[u8], out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

fn attribute(tag: u32, key: &str, value: &str, out: &mut Vec<u8>) {
    let (mut text, mut pair) = (Vec::new(), Vec::new());
    bytes(1, value.as_bytes(), &mut text);
    bytes(1, key.as_bytes(), &mut pair);
    bytes(2, &text, &mut pair);
    bytes(tag, &pair, out);
}

/// A span: its trace, its number in it, its parent's number and its kind.
fn span(trace: u64, id: u64, parent: u64, kind: u64, end_ns: u64, own: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    bytes(1, &u128::from(trace.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_be_bytes(), &mut out);
    bytes(2, &(trace * 100 + id).to_be_bytes(), &mut out);
    if parent != 0 {
        bytes(4, &(trace * 100 + parent).to_be_bytes(), &mut out);
    }
    bytes(5, b"POST /cart/checkout", &mut out);
    encode_key(6, WireType::Varint, &mut out);
    encode_varint(kind, &mut out);
    for (tag, ns) in [(7, end_ns - 5_000_000), (8, end_ns)] {
        encode_key(tag, WireType::SixtyFourBit, &mut out);
        out.extend(ns.to_le_bytes());
    }
    let common = [
        ("thread.name", "worker-3"),
        ("network.protocol.version", "1.1"),
        ("user_agent.original", "Mozilla/5.0 (X11; Linux x86_64)"),
        ("url.path", "/cart/checkout"),
        ("url.scheme", "http"),
        ("client.address", "10.0.0.3"),
    ];
    common.iter().chain(own).for_each(|(k, v)| attribute(9, k, v, &mut out));
    out
}

/// The spans of a trace, each with its service.
fn trace(trace: u64, end_ns: u64) -> Vec<(usize, Vec<u8>)> {
    let http = [
        ("http.route", "/cart/checkout"),
        ("http.request.method", "POST"),
        ("server.address", "frontend"),
        ("http.response.status_code", "200"),
    ];
    let db = [
        ("db.system.name", "postgresql"),
        ("server.address", "db"),
        ("db.namespace", "shop"),
        ("db.query.text", "SELECT id, total FROM orders WHERE id = $1"),
    ];
    let kafka = [
        ("messaging.system", "kafka"),
        ("messaging.destination.name", "orders"),
        ("server.address", "kafka"),
        ("messaging.operation.type", "send"),
    ];
    let mut spans = vec![(0, span(trace, 1, 0, 2, end_ns, &http))];
    // Calls: caller, callee, the caller's span.
    for (i, (caller, callee, parent)) in [(0, 1, 1), (1, 2, 3), (0, 3, 1), (0, 4, 1), (1, 3, 3), (1, 4, 3)].into_iter().enumerate() {
        let id = 2 + 2 * i as u64;
        spans.push((caller, span(trace, id, parent, 3, end_ns, &http)));
        spans.push((callee, span(trace, id + 1, id, 2, end_ns, &http)));
    }
    spans.push((1, span(trace, 14, 3, 3, end_ns, &db)));
    spans.push((1, span(trace, 15, 3, 4, end_ns, &kafka)));
    spans.push((5, span(trace, 16, 15, 5, end_ns, &kafka)));
    spans
}

/// Requests with the spans of so many traces; each request is one service's.
fn requests(first: u64, traces: u64) -> Vec<Vec<u8>> {
    let end_ns = time::now_ms() as u64 * 1_000_000;
    let mut by_service: Vec<Vec<Vec<u8>>> = vec![Vec::new(); SERVICES.len()];
    for number in first..first + traces {
        for (service, span) in trace(number, end_ns) {
            by_service[service].push(span);
        }
    }
    let batches = by_service.iter().enumerate().flat_map(|(s, spans)| spans.chunks(SPANS_PER_REQUEST).map(move |batch| (s, batch)));
    batches.map(|(service, batch)| request(SERVICES[service], batch)).collect()
}

fn request(service: &str, spans: &[Vec<u8>]) -> Vec<u8> {
    let (mut resource, mut scope, mut resource_spans, mut request) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (key, value) in
        [("service.name", service), ("service.namespace", "shop"), ("telemetry.sdk.language", "python"), ("host.name", "node-7")]
    {
        attribute(1, key, value, &mut resource);
    }
    spans.iter().for_each(|span| bytes(2, span, &mut scope));
    bytes(1, &resource, &mut resource_spans);
    bytes(2, &scope, &mut resource_spans);
    bytes(1, &resource_spans, &mut request);
    request
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let traces: u64 = std::env::args().nth(1).map_or(100_000, |n| n.parse().expect("the number of traces"));
    let default_tenant = TenantId::new("default").expect("valid");
    let tenant = default_tenant.clone();
    let parts = Parts {
        bucket: Arc::new(InMemory::new()),
        store: Default::default(),
        max_tenants: 1,
        default_tenant,
        settings: Default::default(),
        promql: None,
        sink: None,
        tenant_of: Arc::new(move |_| Ok(tenant.clone())),
    };
    let routes = router(Service::new(parts, &mut Registry::default()));
    let (mut took_s, mut spans, mut size_bytes, mut sent) = (0.0, 0, 0, 0);
    // In pieces, so that making the requests does not take all memory.
    const PIECE: u64 = 5_000;
    while sent < traces {
        let requests = requests(sent, PIECE);
        sent += PIECE;
        spans += PIECE * 16;
        size_bytes += requests.iter().map(Vec::len).sum::<usize>();
        let started = Instant::now();
        for body in requests {
            let request =
                Request::post("/v1/traces").header("content-type", "application/x-protobuf").body(Body::from(body)).expect("is a request");
            let answer = routes.clone().oneshot(request).await.expect("answers");
            assert!(answer.status().is_success(), "{}", answer.status());
        }
        took_s += started.elapsed().as_secs_f64();
    }
    let status = Request::get("/api/v1/lineage/traces/status").body(Body::empty()).expect("is a request");
    let status = axum::body::to_bytes(routes.oneshot(status).await.expect("answers").into_body(), 1 << 20).await.expect("is read");
    println!(
        "{spans} spans, {size_bytes} bytes, in {took_s:.2} s on one thread: {:.0} spans/s, {:.0} ns each",
        spans as f64 / took_s,
        took_s * 1e9 / spans as f64
    );
    println!("{}", String::from_utf8_lossy(&status));
}
