//! Alerts in process: from a post over nodes and assessments to receivers, series, and what is read later.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use isobar_block::{TenantId, is_stale, time};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt;

use super::model::State;
use crate::mesh::fake::{Fake, row};
use crate::service::{Service, Tenant};
use crate::testing::event;

mod api;
mod keeping;
mod telling;

/// A service with routes over a bucket.
struct Server {
    service: Service,
    fake: Arc<Fake>,
    bucket: Arc<dyn ObjectStore>,
    stop: watch::Sender<bool>,
}

impl Server {
    fn over(bucket: &Arc<dyn ObjectStore>, settings: &str) -> Self {
        let fake = Arc::new(Fake::default());
        let service = crate::mesh::tests::service(&fake, bucket, settings);
        Self { service, fake, bucket: Arc::clone(bucket), stop: watch::channel(false).0 }
    }

    fn new(settings: &str) -> Self {
        Self::over(&(Arc::new(InMemory::new()) as Arc<dyn ObjectStore>), settings)
    }

    /// Does the background work of alerts.
    fn run(self) -> Self {
        tokio::spawn(super::run(self.service.clone(), self.stop.subscribe()));
        self
    }

    async fn tenant(&self) -> Arc<Tenant> {
        self.service.tenant(&TenantId::default()).await.expect("opens")
    }

    /// A shop: `front` needs `cart` and `payment`, behind them interfaces, an application, a project, a table and a metric.
    async fn shop(&self) {
        let owner = |name: &str| json!({"owners": [{"name": name}]});
        let facts = json!([
            {"node": {"node": "service:shop/payment", "body": owner("pay")}},
            {"node": {"node": "service:shop/front", "body": {"entry": true, "owners": [{"name": "web"}]}}},
            {"edge": {"from": "service:shop/front", "to": "service:shop/payment"}},
            {"edge": {"from": "service:shop/front", "to": "service:shop/cart", "body": {"class": "soft"}}},
            {"edge": {"from": "interface:shop/checkout", "to": "service:shop/front"}},
            {"edge": {"from": "application:store", "to": "service:shop/front", "relation": "composition"}},
            {"edge": {"from": "project:retail", "to": "application:store", "relation": "composition"}},
            {"edge": {"from": "dataset:wh/orders", "to": "service:shop/payment", "body": {"lag_ms": 3_600_000}}},
            {"edge": {"from": "metric:revenue", "to": "dataset:wh/orders", "body": {"lag_ms": 60_000}}},
            {"edge": {"from": "topic:paid", "to": "service:shop/payment"}},
        ]);
        self.append("shop", ago_ms(3600), facts).await;
        self.fake.set("traces_service_graph_request_total", vec![row("client=user,server=front", 30.0)]);
    }

    async fn append(&self, id: &str, at_ms: i64, facts: Value) {
        let outcomes = self.tenant().await.store.append(vec![event(id, at_ms, facts)]).await.expect("stored");
        assert!(matches!(outcomes[0], crate::Outcome::Stored(_)), "{outcomes:?}");
    }

    async fn ask(&self, request: Request<Body>) -> (StatusCode, Value) {
        let response = crate::http::router(self.service.clone()).oneshot(request).await.expect("answers");
        let status = response.status();
        let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("is read").to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&body).into_owned())))
    }

    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        self.ask(Request::post(path).body(Body::from(body.to_string())).expect("a request")).await
    }

    async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.ask(Request::get(path).body(Body::empty()).expect("a request")).await;
        assert_eq!(status, 200, "{path}: {answer}");
        if answer["status"] == "success" { answer["data"].clone() } else { answer }
    }

    /// Posts a webhook and gives the data of the answer.
    async fn webhook(&self, message: &Value) -> Value {
        let (status, answer) = self.post("/api/v1/alerts/webhook", message).await;
        assert_eq!(status, 200, "{answer}");
        answer["data"].clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

fn ago_ms(seconds: i64) -> i64 {
    time::now_ms() - seconds * 1000
}

fn rfc3339(ms: i64) -> String {
    super::payload::rfc3339(ms)
}

/// An alert of the webhook, firing or over.
fn alert(name: &str, firing: bool, started_ms: i64, labels: Value) -> Value {
    let mut all = json!({"alertname": name, "severity": "critical"});
    all.as_object_mut().expect("an object").extend(labels.as_object().expect("an object").clone());
    let labels: super::model::LabelMap = serde_json::from_value(all.clone()).expect("labels");
    let ends = if firing { "0001-01-01T00:00:00Z".to_owned() } else { rfc3339(time::now_ms()) };
    json!({
        "status": if firing { "firing" } else { "resolved" },
        "labels": all,
        "annotations": {"summary": "it is down"},
        "startsAt": rfc3339(started_ms),
        "endsAt": ends,
        "generatorURL": "http://prometheus/graph",
        "fingerprint": super::merge::fingerprint(&labels),
    })
}

/// A message of Alertmanager.
fn message(group: &str, alerts: &[Value]) -> Value {
    let firing = alerts.iter().any(|a| a["status"] == "firing");
    json!({
        "version": "4",
        "groupKey": group,
        "truncatedAlerts": 0,
        "status": if firing { "firing" } else { "resolved" },
        "receiver": "isobar",
        "groupLabels": {"alertname": alerts[0]["labels"]["alertname"]},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager",
        "alerts": alerts,
    })
}

fn payment(firing: bool, started_ms: i64) -> Value {
    alert("Down", firing, started_ms, json!({"namespace": "shop", "service": "payment"}))
}

fn ids(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|n| n["id"].as_str().expect("an id")).collect()
}

/// Waits until something is there.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_alert_is_assessed_before_it_is_acknowledged_and_closed_when_it_is_over() {
    let server = Server::new("");
    server.shop().await;
    let started_ms = ago_ms(60);
    let begun = Instant::now();
    let receipt = server.webhook(&message("{}:{alertname=\"Down\"}", &[payment(true, started_ms)])).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!((&receipt["assessed"], &receipt["nodes"]), (&json!(true), &json!(["service:shop/payment"])), "{receipt}");

    let id = receipt["impact"].as_str().expect("an id").to_owned();
    let impact = server.get(&format!("/api/v1/impact/{id}")).await;
    let assessment = &impact["assessment"];
    assert_eq!(assessment["as_of_ms"], started_ms, "the graph is that of the start");
    assert_eq!(ids(&assessment["failed"]), ["service:shop/payment"]);
    assert_eq!(ids(&assessment["interfaces"]), ["interface:shop/checkout"]);
    assert_eq!(ids(&assessment["applications"]), ["application:store"]);
    assert_eq!(ids(&assessment["projects"]), ["project:retail"]);
    assert_eq!(ids(&assessment["metrics"]), ["metric:revenue"]);
    assert_eq!(ids(&assessment["datasets"]), ["dataset:wh/orders"]);
    assert_eq!(ids(&assessment["topics"]), ["topic:paid"]);
    assert_eq!(ids(&assessment["services"])[..2], ["service:shop/payment", "service:shop/front"]);
    assert_eq!(assessment["metrics"][0]["late_after_ms"], 3_660_000, "lags add up");
    assert_eq!(assessment["services"][1]["because"], "front needs payment (hard, 100 %)");
    let owners: Vec<&str> = assessment["owners"].as_array().expect("a list").iter().filter_map(|o| o["name"].as_str()).collect();
    assert!(owners.contains(&"web") && owners.contains(&"pay"), "{owners:?}");
    assert_eq!(assessment["causes"][0]["id"], "service:shop/payment");
    assert_eq!(impact["alerts"][0]["matches"][0]["rule"], "service");
    assert!(assessment["summary"].as_str().expect("text").starts_with("Down: payment fails; touches 1 interface"), "{assessment}");
    let text = server.get(&format!("/api/v1/impact/{id}?format=text")).await;
    assert!(text.as_str().expect("text").contains("is about service:shop/payment by rule \"service\""), "{text}");

    assert_eq!(server.get("/api/v1/impact?state=firing").await["impacts"][0]["id"], id.as_str());
    let receipt = server.webhook(&message("{}:{alertname=\"Down\"}", &[payment(false, started_ms)])).await;
    assert_eq!((&receipt["impact"], &receipt["state"]), (&json!(id), &json!("resolved")));
    assert_eq!(server.get("/api/v1/impact?state=firing").await["impacts"], json!([]));
    let closed = server.get(&format!("/api/v1/impact/{id}")).await;
    assert_eq!((&closed["state"], &closed["resolved_by"]), (&json!("resolved"), &json!("alerts")));
    assert_eq!(ids(&closed["assessment"]["interfaces"]), ["interface:shop/checkout"], "what it was stays");
    // The same group again is another impact.
    let receipt = server.webhook(&message("{}:{alertname=\"Down\"}", &[payment(true, ago_ms(1))])).await;
    assert_ne!(receipt["impact"], json!(id));
    let both = server.get("/api/v1/impact").await;
    assert_eq!(both["impacts"].as_array().map(Vec::len), Some(2), "{both}");
}

#[tokio::test]
async fn the_graph_is_the_one_of_the_start_even_if_it_has_changed_since() {
    let server = Server::new("");
    server.shop().await;
    let started_ms = ago_ms(60);
    let later = json!([
        {"edge_gone": {"from": "interface:shop/checkout", "to": "service:shop/front"}},
        {"edge": {"from": "interface:shop/new", "to": "service:shop/front"}},
        {"node": {"node": "service:shop/young"}},
    ]);
    server.append("later", ago_ms(30), later).await;
    let receipt = server.webhook(&message("a", &[payment(true, started_ms)])).await;
    let impact = server.get(&format!("/api/v1/impact/{}", receipt["impact"].as_str().expect("an id"))).await;
    assert_eq!(ids(&impact["assessment"]["interfaces"]), ["interface:shop/checkout"]);
    // What was not there when the alert began is found in the graph of now, and that is said.
    let young = alert("Young", true, started_ms, json!({"namespace": "shop", "service": "young"}));
    let receipt = server.webhook(&message("b", &[young])).await;
    let impact = server.get(&format!("/api/v1/impact/{}", receipt["impact"].as_str().expect("an id"))).await;
    assert_eq!(impact["alerts"][0]["matches"][0]["topology"], "later");
}

#[tokio::test]
async fn severity_weakens_and_late_data_are_no_errors() {
    let server = Server::new("alerts: {severity: [{match: '{kind=\"freshness\"}', severity: 1, late: true}]}");
    server.shop().await;
    let warning = alert("Slow", true, ago_ms(5), json!({"namespace": "shop", "service": "payment", "severity": "warning"}));
    let receipt = server.webhook(&message("w", &[warning])).await;
    let impact = server.get(&format!("/api/v1/impact/{}", receipt["impact"].as_str().expect("an id"))).await;
    let errors = impact["assessment"]["services"][1]["errors"].as_f64().expect("a number");
    assert!((errors - 0.3).abs() < 0.06, "{errors}");
    let late = alert("Late", true, ago_ms(5), json!({"dataset": "orders", "kind": "freshness"}));
    let receipt = server.webhook(&message("l", &[late])).await;
    let impact = server.get(&format!("/api/v1/impact/{}", receipt["impact"].as_str().expect("an id"))).await;
    let metric = &impact["assessment"]["metrics"][0];
    assert_eq!((&metric["errors"], &metric["staleness"]), (&json!(0.0), &json!(1.0)), "{metric}");
}
