//! From spans to facts and series, in process.

use std::collections::BTreeMap;

use async_trait::async_trait;
use isobar_block::{Labels, SeriesSink, TenantId};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::service::Parts;
use crate::{AsOf, NodeKey};

/// Samples that were written.
#[derive(Default)]
struct Recorder(Mutex<Vec<(Labels, i64, f64)>>);

#[async_trait]
impl SeriesSink for Recorder {
    async fn write(&self, _: &TenantId, samples: Vec<(Labels, i64, f64)>) -> isobar_block::Result<()> {
        self.0.lock().extend(samples);
        Ok(())
    }
}

fn service(sink: Option<Arc<dyn SeriesSink>>, settings: Settings) -> Service {
    let settings = crate::settings::Settings { traces: settings, ..Default::default() };
    crate::testing::service(Parts { settings, sink, ..crate::testing::parts() })
}

/// A span in short: kind, trace, id, parent, attributes and more.
struct Sketch {
    service: &'static str,
    span: Value,
}

fn span(service: &'static str, kind: &str, trace: u64, id: u64, parent: u64, attributes: Value) -> Sketch {
    let now_ns = time::now_ms() as u64 * 1_000_000;
    let list: Vec<Value> = attributes
        .as_object()
        .expect("an object")
        .iter()
        .map(|(k, v)| match v {
            Value::Number(n) => json!({"key": k, "value": {"intValue": n.to_string()}}),
            v => json!({"key": k, "value": {"stringValue": v}}),
        })
        .collect();
    let parent = if parent == 0 { String::new() } else { format!("{parent:016x}") };
    let span = json!({
        "traceId": format!("{trace:032x}"), "spanId": format!("{id:016x}"), "parentSpanId": parent, "kind": format!("SPAN_KIND_{kind}"),
        "startTimeUnixNano": (now_ns - 200_000_000).to_string(), "endTimeUnixNano": (now_ns - 100_000_000).to_string(),
        "attributes": list,
    });
    Sketch { service, span }
}

impl Sketch {
    fn with(mut self, field: &str, value: Value) -> Self {
        self.span[field] = value;
        self
    }
}

/// A request with these spans; services are `namespace/name`.
fn request(spans: &[&Sketch]) -> Vec<u8> {
    let resources: Vec<Value> = spans
        .iter()
        .map(|s| {
            let (namespace, name) = s.service.split_once('/').unwrap_or(("", s.service));
            let attribute = |k: &str, v: &str| json!({"key": k, "value": {"stringValue": v}});
            let attributes = [attribute("service.name", name), attribute("service.namespace", namespace)];
            json!({"resource": {"attributes": attributes}, "scopeSpans": [{"spans": [s.span]}]})
        })
        .collect();
    json::to_protobuf(json!({"resourceSpans": resources}).to_string().as_bytes()).expect("valid JSON")
}

/// One order of the shop: everything that it does.
fn order(trace: u64) -> Vec<Sketch> {
    let id = |n: u64| trace * 100 + n;
    let link = json!([{"traceId": format!("{trace:032x}"), "spanId": format!("{:016x}", id(6))}]);
    vec![
        span("shop/frontend", "SERVER", trace, id(1), 0, json!({"http.route": "/cart/checkout", "http.request.method": "POST"})),
        span("shop/frontend", "CLIENT", trace, id(2), id(1), json!({"server.address": "checkout", "server.port": 5050})),
        span("shop/checkout", "SERVER", trace, id(3), id(2), json!({"rpc.service": "shop.Checkout", "rpc.method": "Place"})),
        span("shop/checkout", "CLIENT", trace, id(4), id(3), json!({"server.address": "10.0.0.7", "server.port": 443}))
            .with("status", json!({"code": 2})),
        span("shop/payment", "SERVER", trace, id(5), id(4), json!({"rpc.method": "shop.Payment/Charge"})),
        span(
            "shop/checkout",
            "PRODUCER",
            trace,
            id(6),
            id(3),
            json!({"messaging.system": "kafka", "messaging.destination.name": "orders", "server.address": "kafka", "messaging.operation.type": "send"}),
        ),
        span(
            "shop/checkout",
            "CLIENT",
            trace,
            id(7),
            id(3),
            json!({"db.system.name": "postgresql", "server.address": "db", "db.namespace": "shop", "db.query.text": "INSERT INTO orders VALUES (1)"}),
        ),
        span(
            "shop/mailer",
            "CONSUMER",
            trace + 1_000_000,
            id(8),
            0,
            json!({"messaging.system": "kafka", "messaging.destination.name": "orders", "server.address": "kafka", "messaging.operation.type": "process"}),
        )
        .with("links", link),
        span("shop/mailer", "CLIENT", trace + 1_000_000, id(9), id(8), json!({"url.full": "https://api.mail.example/send"})),
        span("shop/mailer", "CLIENT", trace + 1_000_000, id(10), id(8), json!({"server.address": "10.9.9.9", "server.port": 25})),
    ]
}

async fn settled(service: &Service, spans: &[Vec<u8>], settings: &Settings) -> Arc<Tenant> {
    let tenant = service.tenant(service.default_tenant()).await.expect("opens");
    for request in spans {
        take(service, &tenant, request).expect("is taken");
    }
    tokio::time::sleep(Duration::from_millis(settings.wait_ms as u64 + 20)).await;
    tenant.traces.expire(settings, &service.metrics().traces);
    report::report(service, &tenant, settings, true).await;
    tenant
}

fn quick() -> Settings {
    Settings { wait_ms: 1, ..Settings::default() }
}

async fn edges(tenant: &Tenant) -> BTreeMap<String, crate::snapshot::EdgeView> {
    let snapshot = tenant.store.snapshot(AsOf::Now).await.expect("is there");
    let views = snapshot.edges().map(|e| snapshot.edge(e));
    views.map(|v| (format!("{} -> {}", v.from, v.to), v)).collect()
}

#[tokio::test]
async fn the_shop_becomes_a_graph() {
    let recorder = Arc::new(Recorder::default());
    let settings = quick();
    let service = service(Some(recorder.clone()), settings.clone());
    let orders: Vec<Vec<u8>> = (1..=40)
        .map(|trace| {
            let mut spans = order(trace);
            if trace % 4 != 0 {
                spans.truncate(3);
            }
            request(&spans.iter().collect::<Vec<_>>())
        })
        .collect();
    let tenant = settled(&service, &orders, &settings).await;
    let found = edges(&tenant).await;
    let expected = [
        "service:shop/frontend -> service:shop/checkout",
        "service:shop/checkout -> service:shop/payment",
        "interface:shop/frontend/POST %2Fcart%2Fcheckout -> service:shop/frontend",
        "service:shop/frontend -> interface:shop/frontend/POST %2Fcart%2Fcheckout",
        "interface:shop/checkout/shop.Checkout%2FPlace -> service:shop/checkout",
        "service:shop/checkout -> interface:shop/checkout/shop.Checkout%2FPlace",
        "interface:shop/payment/shop.Payment%2FCharge -> service:shop/payment",
        "service:shop/payment -> interface:shop/payment/shop.Payment%2FCharge",
        "service:shop/checkout -> topic:kafka:%2F%2Fkafka:9092/orders",
        "topic:kafka:%2F%2Fkafka:9092/orders -> service:shop/checkout",
        "topic:kafka:%2F%2Fkafka:9092/orders -> broker:kafka:%2F%2Fkafka:9092",
        "service:shop/mailer -> topic:kafka:%2F%2Fkafka:9092/orders",
        "service:shop/checkout -> dataset:postgres:%2F%2Fdb:5432/shop.public.orders",
        "dataset:postgres:%2F%2Fdb:5432/shop.public.orders -> service:shop/checkout",
        "dataset:postgres:%2F%2Fdb:5432/shop.public.orders -> database:postgres:%2F%2Fdb:5432/shop",
        "database:postgres:%2F%2Fdb:5432/shop -> database:postgres:%2F%2Fdb:5432",
        "service:shop/mailer -> external:api.mail.example",
    ];
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    let mut wanted = expected.to_vec();
    wanted.sort_unstable();
    assert_eq!(names, wanted, "no more and no less; no address is a service");
    let share = |edge: &str| found[edge].claims[0].says.share;
    assert_eq!(share(expected[0]), Some(1.0));
    assert_eq!(share(expected[1]), Some(0.25), "every fourth order is paid");
    assert_eq!(share("service:shop/checkout -> dataset:postgres:%2F%2Fdb:5432/shop.public.orders"), Some(0.25));
    let flows = |edge: &str| found[edge].flow;
    assert_eq!(flows(expected[8]), crate::model::Flow::Call, "who sends fails with the topic");
    assert_eq!(flows(expected[11]), crate::model::Flow::Data, "who receives is late");
    let snapshot = tenant.store.snapshot(AsOf::Now).await.expect("is there");
    let entry = snapshot.find(&NodeKey::parse("interface:shop/frontend/POST %2Fcart%2Fcheckout").expect("valid")).expect("is there");
    assert!(snapshot.node(entry).entry);

    let status = serde_json::to_value(tenant.traces.status(100)).expect("serializes");
    assert_eq!(status["spans"]["pairs"], 40 + 10 + 10, "calls to checkout, to payment, and messages: {status}");
    assert_eq!((&status["spans"]["unpaired_clients"], &status["spans"]["unpaired_servers"]), (&json!(20), &json!(0)));
    assert_eq!(status["spans"]["ip_peers"], 10);
    let samples = recorder.0.lock();
    let value = |name: &str, labels: &[(&str, &str)]| {
        let found = samples.iter().filter(|(l, _, _)| l.get("__name__") == Some(name) && labels.iter().all(|(n, v)| l.get(n) == Some(v)));
        found.map(|(_, _, v)| *v).collect::<Vec<_>>()
    };
    let call = [("client", "checkout"), ("server", "payment"), ("server_service_namespace", "shop"), ("source", "isobar")];
    assert_eq!(value("traces_service_graph_request_total", &call), [0.0, 10.0]);
    assert_eq!(value("traces_service_graph_request_failed_total", &call), [0.0, 10.0]);
    assert_eq!(value("traces_service_graph_request_server_seconds_sum", &call).last().map(|s| (s * 10.0).round()), Some(10.0));
    let database = [("connection_type", "database"), ("server", "postgres://db:5432"), ("db_collection", "shop.public.orders")];
    assert_eq!(value("traces_service_graph_request_total", &database), [0.0, 10.0]);
    assert_eq!(value("traces_service_graph_request_total", &[("client", "user"), ("server", "frontend")]), [0.0, 40.0]);
    assert_eq!(value("isobar_traces_message_total", &[("topic", "orders"), ("direction", "receive")]), [0.0, 10.0]);
}

#[tokio::test]
async fn what_stays_as_it_is_is_not_said_again() {
    let settings = quick();
    let service = service(None, settings.clone());
    let spans: Vec<Vec<u8>> = (1..=3).map(|trace| request(&order(trace).iter().collect::<Vec<_>>())).collect();
    let tenant = settled(&service, &spans, &settings).await;
    let version = tenant.store.version();
    assert_eq!(version, 1);
    settled(&service, &[request(&order(9).iter().collect::<Vec<_>>())], &settings).await;
    assert_eq!(tenant.store.version(), version, "the log does not grow with the traffic");
    let soon = Settings { refresh_ms: 1, ..settings };
    settled(&service, &[request(&order(10).iter().collect::<Vec<_>>())], &soon).await;
    assert_eq!(tenant.store.version(), version + 1);
}

#[tokio::test]
async fn sampled_spans_count_for_those_that_were_left_out() {
    let settings = quick();
    let service = service(None, settings.clone());
    let mut spans = order(1);
    spans.truncate(3);
    let spans: Vec<Sketch> = spans.into_iter().map(|s| s.with("traceState", json!("ot=th:c"))).collect();
    let tenant = settled(&service, &[request(&spans.iter().collect::<Vec<_>>())], &settings).await;
    let status = serde_json::to_value(tenant.traces.status(100)).expect("serializes");
    let call = status["listed_edges"].as_array().expect("a list").iter().find(|e| e["connection_type"] == "").expect("the call");
    assert_eq!((&call["requests"], &call["spans"], &call["sampled_percent"]), (&json!(4.0), &json!(1), &json!(25.0)));
}

#[tokio::test]
async fn bounds_hold() {
    let settings = Settings { max_edges: 5, max_waiting: 10, wait_ms: 60_000, ..Settings::default() };
    let service = service(None, settings.clone());
    let tenant = service.tenant(service.default_tenant()).await.expect("opens");
    for i in 0..100 {
        let name: &'static str = Box::leak(format!("s{i}").into_boxed_str());
        take(&service, &tenant, &request(&[&span(name, "SERVER", i + 1, 7, 8, json!({"http.route": "/x"}))])).expect("is taken");
        take(&service, &tenant, &request(&[&span("s0", "CLIENT", 500 + i, 7, 8, json!({"server.address": "x"}))])).expect("is taken");
    }
    let pairs = tenant.traces.pairs.lock();
    assert_eq!((pairs.graph.len(), pairs.calls.len()), (5, 10));
    assert!(pairs.graph.edges.len() <= 5 && pairs.counts.no_room >= 95 && pairs.counts.crowded_out >= 90, "{:?}", pairs.counts);
}

#[tokio::test]
async fn refused_spans_are_told() {
    let service = service(None, Settings::default());
    let tenant = service.tenant(service.default_tenant()).await.expect("opens");
    let spans = [
        span("", "SERVER", 1, 2, 0, json!({})),
        span("unknown_service:python", "SERVER", 1, 2, 0, json!({})),
        span("a", "SERVER", 0, 2, 0, json!({})),
        span("a", "SERVER", 1, 2, 0, json!({})).with("endTimeUnixNano", json!(5)),
        span("a", "SERVER", 1, 2, 0, json!({})),
    ];
    let taken = take(&service, &tenant, &request(&spans.iter().collect::<Vec<_>>())).expect("is taken");
    assert_eq!((taken.counts.received, taken.refused), (5, 4));
    let reason = taken.reason();
    assert!(
        reason.contains("2 spans from a resource without service.name") && reason.contains("1 spans without a valid trace id"),
        "{reason}"
    );
    assert!(reason.contains("60 minutes"), "{reason}");
    let error = take(&service, &tenant, b"\x0a\xff").expect_err("is cut off").to_string();
    assert!(error.contains("ExportTraceServiceRequest"), "{error}");
}

#[test]
fn settings_are_checked() {
    Settings::default().check().expect("defaults are valid");
    let read = crate::settings::Settings::from_yaml("traces: {wait: 5s, refresh_interval: 2h, addresses: [{match: 'a-(.*)', name: $1}]}");
    let read = read.expect("valid").traces;
    assert_eq!((read.wait_ms, read.refresh_ms, read.flush_ms), (5_000, 7_200_000, 30_000));
    for (settings, field) in [
        (Settings { wait_ms: 0, ..Settings::default() }, "wait"),
        (Settings { refresh_ms: Settings::default().ttl_ms, ..Settings::default() }, "refresh_interval"),
        (Settings { addresses: vec![AddressRule { from: "(".into(), to: String::new() }], ..Settings::default() }, "addresses[0].match"),
    ] {
        let error = settings.check().expect_err(field).to_string();
        assert!(error.starts_with(field), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_order_of_spans_does_not_matter(keys in proptest::collection::vec(any::<u64>(), 30), batch in 1_usize..9) {
        let settings = Settings { wait_ms: 60_000, ..Settings::default() };
        let run = |spans: &[&Sketch], batch: usize| {
            let (pairing, metrics) = (Pairing::default(), Metrics::default());
            for part in spans.chunks(batch) {
                pairing.take(&request(part), &settings, &metrics).expect("is taken");
            }
            let pairs = pairing.pairs.lock();
            let name = |id: u32| pairs.graph.get(id).map(|n| n.key.to_string()).unwrap_or_default();
            let mut edges: Vec<_> = pairs
                .graph
                .edges
                .iter()
                .map(|(id, e)| {
                    let t = e.traffic.as_deref().cloned().unwrap_or_default();
                    (name(id.from), name(id.to), e.flow, e.connection, t.requests, t.failed, t.paired, t.lag_count)
                })
                .collect();
            edges.sort_by(|a, b| a.partial_cmp(b).expect("comparable"));
            (edges, pairs.counts)
        };
        let spans: Vec<Sketch> = (1..=3).flat_map(order).collect();
        let straight: Vec<&Sketch> = spans.iter().collect();
        let mut shuffled: Vec<(u64, &Sketch)> = keys.into_iter().zip(spans.iter()).collect();
        shuffled.sort_by_key(|(key, _)| *key);
        let shuffled: Vec<&Sketch> = shuffled.into_iter().map(|(_, s)| s).collect();
        let (one, other) = (run(&straight, 30), run(&shuffled, batch));
        prop_assert_eq!(one.1.pairs, 9);
        prop_assert_eq!(one, other);
    }
}

#[tokio::test]
async fn names_without_a_namespace_join_the_only_one_with() {
    let settings = quick();
    let service = service(None, settings.clone());
    let tenant = service.tenant(service.default_tenant()).await.expect("opens");
    let catalog: Vec<crate::Fact> = ["topic:kafka:%2F%2Fkafka:9092/orders", "service:shop/pay", "service:a/twice", "service:b/twice"]
        .iter()
        .map(|id| crate::Fact::node(NodeKey::parse(id).expect("valid"), crate::model::NodeBody::default()))
        .collect();
    let mut event = crate::Event::new("1", "catalog", "", time::now_ms());
    event.facts = catalog;
    tenant.store.append(vec![event]).await.expect("is stored");
    let spans = [
        span("pay", "PRODUCER", 1, 2, 0, json!({"messaging.system": "kafka", "messaging.destination.name": "orders"})),
        span("twice", "SERVER", 1, 3, 0, json!({})),
    ];
    settled(&service, &[request(&spans.iter().collect::<Vec<_>>())], &settings).await;
    aliases::join(&tenant, &settings).await;
    let found = edges(&tenant).await;
    assert!(found.contains_key("service:shop/pay -> topic:kafka:%2F%2Fkafka:9092/orders"), "{:?}", found.keys());
    let snapshot = tenant.store.snapshot(AsOf::Now).await.expect("is there");
    let twice = snapshot.find(&NodeKey::parse("service:twice").expect("valid")).expect("is there");
    assert_eq!(snapshot.key(twice).as_str(), "service:twice", "nobody knows which");
}

#[tokio::test]
async fn a_restart_does_not_change_what_is_said() {
    let settings = quick();
    let service = service(None, settings.clone());
    let orders: Vec<Vec<u8>> =
        (1..=40).map(|t| request(&order(t).iter().take(if t % 4 == 0 { 10 } else { 3 }).collect::<Vec<_>>())).collect();
    let tenant = settled(&service, &orders, &settings).await;
    *tenant.traces.pairs.lock() = Pairs::default();
    settled(&service, &[request(&order(100).iter().collect::<Vec<_>>())], &settings).await;
    let found = edges(&tenant).await;
    assert_eq!(found["service:shop/checkout -> service:shop/payment"].claims[0].says.share, Some(0.25), "not none, for lack of traces");
}
