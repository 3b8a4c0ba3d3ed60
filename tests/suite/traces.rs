//! Spans that the OpenTelemetry SDK for Python exports, over HTTP and gRPC, become the graph of the shop that they are of.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use isobar_tests::isobar::Isobar;
use isobar_tests::process::{program, project, wait_for};
use serde_json::Value;

/// Orders that are played.
const ORDERS: usize = 60;

/// Edges that orders lead to, and no others may be there.
const EDGES: &[&str] = &[
    "service:shop/frontend -> service:shop/checkout",
    "service:shop/frontend -> service:shop/ads",
    "service:shop/checkout -> service:shop/payment",
    "service:shop/checkout -> service:shop/shipping",
    "service:shop/checkout -> workload:shop/checkout-v2",
    "service:shop/checkout -> dataset:postgres:%2F%2Fdb:5432/shop.public.orders",
    "service:shop/checkout -> dataset:postgres:%2F%2Fdb:5432/shop.public.stock",
    "service:shop/checkout -> topic:kafka:%2F%2Fkafka:9092/orders",
    "service:shop/payment -> external:bank.example",
    "service:shop/payment -> database:redis:%2F%2Fredis-cart:6379",
    "service:shop/mailer -> topic:kafka:%2F%2Fkafka:9092/orders",
    "service:shop/warehouse -> topic:kafka:%2F%2Fkafka:9092/orders",
    "service:shop/warehouse -> dataset:postgres:%2F%2Fdb:5432/shop.public.stock",
    "topic:kafka:%2F%2Fkafka:9092/orders -> service:shop/checkout",
    "topic:kafka:%2F%2Fkafka:9092/orders -> broker:kafka:%2F%2Fkafka:9092",
    "dataset:postgres:%2F%2Fdb:5432/shop.public.orders -> service:shop/checkout",
    "dataset:postgres:%2F%2Fdb:5432/shop.public.stock -> service:shop/warehouse",
    "dataset:postgres:%2F%2Fdb:5432/shop.public.orders -> database:postgres:%2F%2Fdb:5432/shop",
    "dataset:postgres:%2F%2Fdb:5432/shop.public.stock -> database:postgres:%2F%2Fdb:5432/shop",
    "database:postgres:%2F%2Fdb:5432/shop -> database:postgres:%2F%2Fdb:5432",
    "interface:shop/frontend/POST %2Fcart%2Fcheckout -> service:shop/frontend",
    "interface:shop/checkout/shop.CheckoutService%2FPlaceOrder -> service:shop/checkout",
    "interface:shop/payment/shop.PaymentService%2FCharge -> service:shop/payment",
    "interface:shop/ads/shop.AdService%2FGetAds -> service:shop/ads",
    "service:shop/frontend -> interface:shop/frontend/POST %2Fcart%2Fcheckout",
    "service:shop/checkout -> interface:shop/checkout/shop.CheckoutService%2FPlaceOrder",
    "service:shop/payment -> interface:shop/payment/shop.PaymentService%2FCharge",
    "service:shop/ads -> interface:shop/ads/shop.AdService%2FGetAds",
];

async fn start() -> (Isobar, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let settings = folder.path().join("lineage.yml");
    // Metrics of a mesh are not looked at, so that every edge here is of spans.
    let text = "traces: {wait: 1s, flush_interval: 1s}\nmesh: {built_in: false}\n";
    std::fs::write(&settings, text).expect("is written");
    let argument = format!("--lineage.config-file={}", settings.display());
    (Isobar::start(&["--self-scrape.interval=0", &argument]).await, folder)
}

fn play(protocol: &str, endpoint: &str, sampled: &str) {
    let script = project().join("tests/suite/traces_client.py");
    let orders = ORDERS.to_string();
    let output = Command::new(program("python")).arg(script).args([protocol, endpoint, &orders, sampled]).output().expect("python starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !errors.contains("Failed to export"), "{errors}");
}

/// The edges of the whole graph by their ends.
async fn edges(isobar: &Isobar) -> BTreeMap<String, Value> {
    let answer = isobar.get("/api/v1/lineage/graph", &[("limit", "1000")]).await;
    let edges = answer["edges"].as_array().unwrap_or_else(|| panic!("no edges in {answer}")).clone();
    edges.into_iter().map(|e| (format!("{} -> {}", text(&e["from"]), text(&e["to"])), e)).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// Waits until both the edges are there and nothing waits for its other half any more; gives the status.
async fn settle(isobar: &Isobar) -> Value {
    wait_for("all halves to be paired or given up", Duration::from_secs(30), async || {
        let status = isobar.get("/api/v1/lineage/traces/status", &[]).await;
        let graph = edges(isobar).await;
        (status["waiting"] == 0 && EDGES.iter().all(|e| graph.contains_key(*e))).then_some(status)
    })
    .await
}

async fn assert_graph(isobar: &Isobar, status: &Value) {
    let graph = edges(isobar).await;
    let unexpected: Vec<&String> = graph.keys().filter(|e| !EDGES.contains(&e.as_str())).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
    let share = |edge: &str| graph[edge]["claims"][0]["says"]["share"].as_f64().unwrap_or_else(|| panic!("{}", graph[edge]));
    assert!((share("service:shop/frontend -> service:shop/ads") - 0.5).abs() < 0.21, "every second order shows ads");
    assert!(share("service:shop/frontend -> service:shop/checkout") > 0.99);
    assert_eq!(graph["service:shop/mailer -> topic:kafka:%2F%2Fkafka:9092/orders"]["flow"], "data");
    assert!(status["spans"]["ip_peers"].as_u64().expect("a number") > 0, "the address that names nobody is counted: {status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_opentelemetry_sdk_draws_the_shop_over_http() {
    let (isobar, _folder) = start().await;
    play("http", &isobar.url("/v1/traces"), "1");
    let status = settle(&isobar).await;
    assert_graph(&isobar, &status).await;
    // 60 orders are paid, half of them with ads; each message is read twice.
    assert_eq!(status["spans"]["pairs"], 60 + 60 + 30 + 120, "{status}");
    assert_eq!(status["spans"]["unpaired_servers"], 0, "{status}");
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
    for (query, expected) in [
        ("traces_service_graph_request_total{client=\"checkout\",server=\"payment\"}", 60.0),
        ("traces_service_graph_request_failed_total{client=\"checkout\",server=\"payment\"}", 6.0),
        ("traces_service_graph_request_total{client=\"user\",server=\"frontend\"}", 60.0),
        ("sum(traces_service_graph_request_total{connection_type=\"database\",server=\"postgres://db:5432\"})", 126.0),
        ("isobar_traces_message_total{service=\"mailer\"}", 60.0),
        ("traces_service_graph_request_server_seconds_count{client=\"frontend\",server=\"checkout\"}", 60.0),
    ] {
        wait_for(query, Duration::from_secs(10), async || {
            let result = isobar.query(query, now_s + 5.0).await;
            let value: f64 = result[0]["value"][1].as_str()?.parse().ok()?;
            assert!(value <= expected, "{query}: {value} instead of {expected}");
            (value == expected).then_some(())
        })
        .await;
    }
    let blast = isobar.get("/api/v1/lineage/blast-radius", &[("node", "service:shop/payment")]).await;
    let text = blast.to_string();
    for touched in
        ["service:shop/frontend", "interface:shop/frontend/POST %2Fcart%2Fcheckout", "dataset:postgres:%2F%2Fdb:5432/shop.public.orders"]
    {
        assert!(text.contains(touched), "{touched} is not touched: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_opentelemetry_sdk_draws_the_shop_over_grpc() {
    let (mut isobar, _folder) = start().await;
    play("grpc", &isobar.url(""), "1");
    let status = settle(&isobar).await;
    assert_graph(&isobar, &status).await;
    assert_eq!(status["spans"]["pairs"], 60 + 60 + 30 + 120, "{status}");
    // What was seen is in the log also after a stop.
    isobar.stop();
    isobar.launch().await;
    let after = edges(&isobar).await;
    assert!(EDGES.iter().all(|e| after.contains_key(*e)), "{:?}", after.keys());
}

#[tokio::test(flavor = "multi_thread")]
async fn sampled_traces_count_for_all() {
    let (isobar, _folder) = start().await;
    play("http", &isobar.url("/api/v1/otlp/v1/traces"), "0.5");
    let status = wait_for("all halves to be paired or given up", Duration::from_secs(30), async || {
        let status = isobar.get("/api/v1/lineage/traces/status", &[]).await;
        (status["waiting"] == 0 && status["spans"]["received"].as_u64()? > 0).then_some(status)
    })
    .await;
    let edge = status["listed_edges"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|e| e["from"] == "service:shop/frontend" && e["to"] == "service:shop/checkout");
    let edge = edge.unwrap_or_else(|| panic!("no call in {status}"));
    let (requests, spans) = (edge["requests"].as_f64().expect("a number"), edge["spans"].as_f64().expect("a number"));
    assert!((requests - 2.0 * spans).abs() < 1e-6 && spans < ORDERS as f64, "{edge}");
    assert_eq!(edge["sampled_percent"], 50.0);
    assert!((30.0..=90.0).contains(&requests), "{requests} of {ORDERS}");
}
