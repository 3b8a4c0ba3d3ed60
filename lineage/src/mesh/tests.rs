//! Looks at a store of metrics: what becomes of the graph, what is asked, what is said again.

use std::sync::Arc;

use isobar_block::TenantId;
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::fake::{Fake, row};
use super::*;
use crate::model::Status;
use crate::service::Parts;
use crate::store::LineageConfig;
use crate::testing::key;

/// A service over a fake store.
pub(crate) fn service(fake: &Arc<Fake>, bucket: &Arc<dyn ObjectStore>, settings: &str) -> Service {
    crate::testing::service(Parts {
        bucket: Arc::clone(bucket),
        store: LineageConfig { linger_ms: 0, follow_ms: 0, ..LineageConfig::default() },
        max_tenants: 10,
        settings: crate::settings::Settings::from_yaml(settings).expect("settings"),
        promql: Some(Arc::clone(fake) as _),
        sink: Some(Arc::clone(fake) as _),
        ..crate::testing::parts()
    })
}

pub(crate) fn bucket() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

pub(crate) async fn tenant(service: &Service) -> Arc<Tenant> {
    service.tenant(&TenantId::default()).await.expect("opens")
}

/// Slots of 30 seconds, counted from a while ago.
fn slot(i: i64) -> i64 {
    let now_ms = time::now_ms();
    now_ms - now_ms.rem_euclid(30_000) - 3_600_000 + i * 30_000
}

fn calls(from: &str, to: &str, rate: f64) -> isobar_block::VectorSample {
    row(&format!("client={from},server={to}"), rate)
}

const GRAPH: &str = "traces_service_graph_request_total";

#[tokio::test]
async fn edges_of_a_look_are_in_the_graph_until_their_time_is_over() {
    let (fake, bucket) = (Arc::new(Fake::default()), bucket());
    let service = service(&fake, &bucket, "mesh: {ttl: 5m}");
    let tenant = tenant(&service).await;
    fake.set(GRAPH, vec![calls("front", "cart", 30.0), calls("front", "ads", 10.0), calls("cart", "db", 15.0)]);
    look::look(&service, &tenant, slot(0)).await;
    let snapshot = tenant.store.snapshot(AsOf::At(slot(0) + 1)).await.expect("a snapshot");
    let edge = |from: &str, to: &str| {
        let (from, to) = (snapshot.get(&key(from)).expect("is there"), snapshot.get(&key(to)).expect("is there"));
        let (edge, _) = snapshot.providers(from).find(|(_, n)| *n == to).expect("an edge");
        snapshot.edge(edge)
    };
    // Nothing comes to front, so that its shares are of what it sends; half of the requests to cart go on.
    assert_eq!((edge("front", "cart").share, edge("front", "ads").share, edge("cart", "db").share), (0.75, 0.25, 0.5));
    assert_eq!(edge("cart", "db").claims[0].claim.source, "servicegraph");
    let (live, unresolved) = live(&service, &tenant, AsOf::At(slot(0) + 10)).await;
    assert!(unresolved.is_empty());
    assert_eq!((live.rates[&key("front")], live.rates[&key("cart")], live.rates[&key("db")]), (40.0, 30.0, 15.0));

    fake.set(GRAPH, vec![calls("front", "cart", 30.0)]);
    for i in 1..=12 {
        look::look(&service, &tenant, slot(i)).await;
    }
    let later = tenant.store.snapshot(AsOf::At(slot(12))).await.expect("a snapshot");
    let status = |to: &str| later.find(&key(to)).and_then(|n| later.dependents(n).next()).map(|(e, _)| later.edge(e).status);
    assert_eq!((status("cart"), status("ads"), status("db")), (Some(Status::Live), Some(Status::Stale), Some(Status::Stale)));
    for i in 13..=32 {
        look::look(&service, &tenant, slot(i)).await;
    }
    let last = tenant.store.snapshot(AsOf::At(slot(32))).await.expect("a snapshot");
    assert_eq!((last.edge_count(), last.find(&key("ads"))), (1, None));
}

#[tokio::test]
async fn what_has_not_changed_is_said_again_only_when_half_of_its_time_is_over() {
    let (fake, bucket) = (Arc::new(Fake::default()), bucket());
    let service = service(&fake, &bucket, "mesh: {ttl: 5m}");
    let tenant = tenant(&service).await;
    fake.set(GRAPH, vec![calls("in", "a", 100.0), calls("a", "b", 50.0)]);
    look::look(&service, &tenant, slot(0)).await;
    let version = tenant.store.version();
    for i in 1..5 {
        fake.set(GRAPH, vec![calls("in", "a", 100.0 + i as f64), calls("a", "b", 50.0)]);
        look::look(&service, &tenant, slot(i)).await;
    }
    assert_eq!(tenant.store.version(), version, "nothing was said");
    fake.set(GRAPH, vec![calls("in", "a", 100.0), calls("a", "b", 80.0)]);
    look::look(&service, &tenant, slot(5)).await;
    assert_eq!(tenant.store.version(), version + 1);
    let snapshot = tenant.store.snapshot(AsOf::At(slot(5))).await.expect("a snapshot");
    let a = snapshot.get(&key("a")).expect("is there");
    let (edge, _) = snapshot.providers(a).next().expect("an edge");
    assert_eq!(snapshot.edge(edge).share, 0.8);
}

#[tokio::test]
async fn two_processes_say_it_once_and_a_new_one_takes_over() {
    let (fake, bucket) = (Arc::new(Fake::default()), bucket());
    let (first, second) = (service(&fake, &bucket, ""), service(&fake, &bucket, ""));
    let (a, b) = (tenant(&first).await, tenant(&second).await);
    fake.set(GRAPH, vec![calls("x", "y", 1.0)]);
    look::look(&first, &a, slot(0)).await;
    let version = a.store.version();
    b.store.refresh().await.expect("reads");
    look::look(&second, &b, slot(0)).await;
    assert_eq!((a.store.refresh().await.expect("reads"), b.store.version()), (version, version));
    // It does not know what the first one has said in full, so that it says everything itself once.
    look::look(&second, &b, slot(1)).await;
    look::look(&second, &b, slot(2)).await;
    assert_eq!(b.store.version(), version + 1);
}

#[tokio::test]
async fn metrics_that_are_not_there_cost_a_query_now_and_then() {
    let (fake, bucket) = (Arc::new(Fake::default()), bucket());
    let service = service(&fake, &bucket, "");
    let tenant = tenant(&service).await;
    for i in 0..40 {
        look::look(&service, &tenant, slot(i)).await;
    }
    let asked = fake.take_asked();
    assert!(asked.len() <= 8 && asked.iter().all(|q| q.starts_with("group by")), "{} queries", asked.len());
    fake.set("servicegraph_traces_service_graph_request_total", vec![calls("x", "y", 1.0)]);
    for i in 40..61 {
        look::look(&service, &tenant, slot(i)).await;
    }
    let of_rule = |asked: &[String]| asked.iter().filter(|q| q.contains("\"servicegraph_traces_service_graph_request_total\"")).count();
    let asked = fake.take_asked();
    assert!(of_rule(&asked) >= 10, "{asked:?}");
    let query = asked.iter().find(|q| q.contains("failed_total")).expect("failures are asked for");
    assert!(query.contains("{__name__=\"servicegraph_traces_service_graph_request_failed_total\","), "{query}");
    let snapshot = tenant.store.snapshot(AsOf::At(slot(60))).await.expect("a snapshot");
    assert_eq!(snapshot.edge_count(), 1);
    look::look(&service, &tenant, slot(61)).await;
    assert!(fake.take_asked().len() <= 3, "one query per rule whose metric is there");
}

#[tokio::test]
async fn too_many_edges_are_counted_and_reported() {
    let (fake, bucket) = (Arc::new(Fake::default()), bucket());
    let service = service(&fake, &bucket, "mesh: {max_edges: 3}");
    let tenant = tenant(&service).await;
    fake.set(GRAPH, (0..10).map(|i| calls("a", &format!("b{i}"), f64::from(20 - i))).collect());
    look::look(&service, &tenant, slot(0)).await;
    let found = tenant.mesh.last().expect("was looked");
    assert_eq!((found.edges.len(), found.rules[0].cut), (3, 7));
    assert!(found.unresolved[0].reason.starts_with("7 rows"), "{:?}", found.unresolved);
    *fake.broken.lock() = Some("topk(".into());
    look::look(&service, &tenant, slot(1)).await;
    let found = tenant.mesh.last().expect("was looked");
    assert!(found.edges.is_empty() && found.unresolved[0].reason.contains("does not answer"), "{:?}", found.unresolved);
}

#[tokio::test]
async fn rules_of_ones_own_take_any_metric() {
    let (fake, bucket) = (Arc::new(Fake::default()), bucket());
    let yaml = r#"
mesh:
  interval: 15s
  window: 2m
  disabled: [istio-tcp]
  rules:
    - name: gateway
      metric: gateway_calls_total
      match: 'env="prod"'
      from: [{name: "{route}", kind: interface}]
      to: [{namespace: "{ns}", name: "{upstream}"}, {host: "{addr}"}]
      failures: ['code=~"5.."']
      class: soft
"#;
    let service = service(&fake, &bucket, yaml);
    let tenant = tenant(&service).await;
    fake.set("gateway_calls_total", vec![row("route=/buy,ns=shop,upstream=cart", 4.0), row("route=/buy,addr=auth.iam.svc:80", 4.0)]);
    look::look(&service, &tenant, slot(0)).await;
    let query = fake.take_asked().pop().expect("was asked");
    let all = r#"topk(10001, sum by (addr, ns, route, upstream) (rate({__name__="gateway_calls_total",env="prod"}[2m])) > 0)"#;
    let failed = r#"rate({__name__="gateway_calls_total",env="prod",code=~"5.."}[2m])"#;
    assert!(query.starts_with(all) && query.contains(failed) && query.ends_with(r#""isobar_failed", "true", "", "")"#), "{query}");
    let snapshot = tenant.store.snapshot(AsOf::At(slot(0))).await.expect("a snapshot");
    let route = snapshot.get(&key("interface:%2Fbuy")).expect("is there");
    let mut edges: Vec<String> =
        snapshot.providers(route).map(|(e, _)| snapshot.edge(e)).map(|e| format!("{} {:?} {}", e.to, e.class, e.share)).collect();
    edges.sort();
    assert_eq!(edges, ["service:iam/auth Soft 0.5", "service:shop/cart Soft 0.5"]);
}

#[tokio::test]
async fn two_names_of_one_node_have_seen_the_same_requests() {
    let (fake, bucket) = (Arc::new(Fake::default()), bucket());
    let service = service(&fake, &bucket, "");
    let tenant = tenant(&service).await;
    fake.set(GRAPH, vec![calls("a", "short", 5.0), calls("b", "long", 7.0)]);
    look::look(&service, &tenant, slot(0)).await;
    let facts = serde_json::json!([{"alias": {"alias": "service:short", "canonical": "service:long", "rule": "test"}}]);
    let event = serde_json::json!({"id": "1", "source": "test", "at_ms": slot(0), "facts": facts});
    tenant.store.append(vec![serde_json::from_value(event).expect("an event")]).await.expect("appends");
    let (live, _) = live(&service, &tenant, AsOf::At(slot(0) + 1)).await;
    assert_eq!((live.rates.get(&key("long")), live.rates.get(&key("short"))), (Some(&7.0), None));
}

#[test]
fn settings_are_checked_and_survive_their_text() {
    let settings = Settings::default();
    settings.check().expect("is valid");
    for rule in settings.active() {
        rule.check().unwrap_or_else(|e| panic!("{}: {e}", rule.name));
    }
    let yaml = serde_saphyr::to_string(&settings).expect("serializes");
    assert!(yaml.contains("ttl: 30m"), "{yaml}");
    let error = |yaml: &str| crate::settings::Settings::from_yaml(yaml).expect_err("is wrong").to_string();
    assert!(error("mesh: {ttl: 10s}").starts_with("mesh.ttl"));
    assert!(error("mesh: {disabled: [istoi]}").contains("built-in ones are istio,"));
    assert!(error("mesh: {rules: [{name: a, metric: m, from: [{name: x}], to: [{name: y}]}]}").contains("uses no label"));
    assert!(error("mesh: {rules: [{name: a, metric: m, from: [{name: '{x'}], to: [{name: y}]}]}").contains("without }"));
    assert!(error("mesh: {rules: [{name: a, metric: m, from: [], to: [{name: '{y}'}]}]}").contains("rules[0].from"));
    assert!(error("mesh: {interval: 5}").contains("duration"));
}
