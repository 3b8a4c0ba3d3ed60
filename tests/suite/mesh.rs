//! Metrics of meshes become edges, edges become series that PromQL joins, and what is not called any more goes; capacity along a chain.

use std::sync::Arc;
use std::time::Duration;

use isobar_tests::isobar::Isobar;
use isobar_tests::process::wait_for;
use isobar_tests::wire::{TimeSeries, series};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(60);

/// Looks every second at the rates of the last five; edges are stale after two seconds and gone after six.
const SETTINGS: &str = r#"
mesh:
  interval: 1s
  window: 5s
  ttl: 2s
  rules:
    - name: gateway
      metric: gateway_calls_total
      match: 'env="prod"'
      from: [{name: "{edge}", kind: interface}]
      to: [{namespace: "{ns}", name: "{upstream}"}]
      failures: ['code=~"5.."']
info: {interval: 1s}
capacity:
  history: 1m
  queries:
    - {name: pool, resource: workers, node: [{kind: service, namespace: shop, name: "{pool}"}], throughput: busy_workers, limit: max_workers}
"#;

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("the clock is right");
    i64::try_from(since.as_millis()).expect("fits")
}

/// A server with these settings, which are read again whenever the file changes.
async fn start() -> (tempfile::NamedTempFile, Arc<Isobar>) {
    let settings = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(settings.path(), SETTINGS).expect("is written");
    let path = settings.path().to_str().expect("a path").to_owned();
    let isobar = Isobar::start(&["--self-scrape.interval=0", "--lineage.config-file", &path]).await;
    (settings, Arc::new(isobar))
}

/// Labels from `a=b,c=d`.
fn labels(text: &str) -> Vec<(&str, &str)> {
    text.split(',').filter_map(|pair| pair.split_once('=')).collect()
}

/// Counters and gauges, each with labels and how much it grows in a second; a gauge has its value and does not grow.
type Metrics = Vec<(String, f64)>;

fn at(metrics: &Metrics, times_ms: &[i64]) -> Vec<TimeSeries> {
    let value =
        |text: &str, number: f64, t: i64| if text.contains("_total") { number * ((t % 10_000_000) as f64 / 1000.0) } else { number };
    let samples = |text: &str, number: f64| times_ms.iter().map(|t| (*t, value(text, number, *t))).collect::<Vec<_>>();
    metrics.iter().map(|(text, number)| series(&labels(text), &samples(text, *number))).collect()
}

/// Traffic that goes on until it is stopped.
struct Traffic {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Traffic {
    /// Writes the last minute at once, then every half second.
    async fn start(isobar: &Arc<Isobar>, metrics: Metrics) -> Self {
        let now = now_ms() / 500 * 500;
        isobar.write(at(&metrics, &(0..=120).rev().map(|i| now - i * 500).collect::<Vec<_>>())).await;
        let (stop, mut stopped) = watch::channel(false);
        let isobar = Arc::clone(isobar);
        let task = tokio::spawn(async move {
            let mut last = now;
            while !*stopped.borrow_and_update() {
                let now = now_ms() / 500 * 500;
                let times: Vec<i64> = (1..=(now - last) / 500).map(|i| last + i * 500).collect();
                if !times.is_empty() {
                    isobar.write(at(&metrics, &times)).await;
                }
                last = now;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self { stop, task }
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.task.await.expect("wrote to the end");
    }
}

fn meshes() -> Metrics {
    let istio = |reporter: &str, from: &str, to: &str, code: &str, rate: f64| {
        let text = format!(
            "__name__=istio_requests_total,reporter={reporter},source_workload_namespace=shop,source_canonical_service={from},\
             destination_workload_namespace=shop,destination_canonical_service={to},destination_service_namespace=shop,\
             destination_service_name={to}-svc,destination_service={to}-svc.shop.svc.cluster.local,response_code={code}"
        );
        (text, rate)
    };
    let passthrough = "__name__=istio_requests_total,reporter=source,source_workload_namespace=shop,source_canonical_service=cart,\
        destination_workload_namespace=unknown,destination_canonical_service=unknown,destination_service_name=PassthroughCluster,response_code=200";
    vec![
        istio("destination", "front", "cart", "200", 8.0),
        istio("source", "front", "cart", "200", 8.0),
        istio("source", "front", "cart", "503", 2.0),
        istio("destination", "cart", "pay", "200", 5.0),
        (passthrough.to_owned(), 1.0),
        ("__name__=response_total,direction=outbound,namespace=emoji,deployment=web,dst_namespace=emoji,dst_deployment=voting,dst_service=voting-svc,classification=success".to_owned(), 4.0),
        ("__name__=hubble_http_requests_total,reporter=client,source_namespace=net,source_workload=a,destination_namespace=net,destination_workload=b,status=200".to_owned(), 3.0),
        ("__name__=hubble_http_requests_total,reporter=server,source_namespace=net,source_workload=a,destination_namespace=net,destination_workload=b,status=200".to_owned(), 3.0),
        ("__name__=servicegraph_traces_service_graph_request_total,client=mail,server=smtp.example.com,connection_type=virtual_node".to_owned(), 2.0),
        ("__name__=servicegraph_traces_service_graph_request_total,client=mail,server=templates".to_owned(), 2.0),
        ("__name__=gateway_calls_total,env=prod,edge=/buy,ns=shop,upstream=front,code=200".to_owned(), 10.0),
        ("__name__=gateway_calls_total,env=test,edge=/test,ns=shop,upstream=front,code=200".to_owned(), 10.0),
    ]
}

/// Edges to the providers of a node as `to status share`.
async fn providers(isobar: &Isobar, node: &str) -> Vec<String> {
    let answer = isobar.client().get(isobar.url("/api/v1/lineage/neighbours")).query(&[("node", node)]).send().await.expect("answers");
    let body: Value = answer.json().await.expect("JSON");
    let edges = body["data"]["providers"].as_array().cloned().unwrap_or_default();
    let line = |e: &Value| {
        format!("{} {} {:.1}", e["to"].as_str().unwrap_or(""), e["status"].as_str().unwrap_or(""), e["share"].as_f64().unwrap_or(-1.0))
    };
    let mut lines: Vec<String> = edges.iter().map(line).collect();
    lines.sort();
    lines
}

async fn wait_for_providers(isobar: &Isobar, node: &str, expected: &[&str]) {
    let mut last = Vec::new();
    for _ in 0..PATIENCE.as_millis() / 100 {
        last = providers(isobar, node).await;
        if last == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{node} has {last:?}, not {expected:?}; isobar printed:\n{}", isobar.output());
}

#[tokio::test]
async fn traffic_of_meshes_is_a_graph_that_promql_joins_and_that_expires() {
    let (_settings, isobar) = start().await;
    let traffic = Traffic::start(&isobar, meshes()).await;
    // Istio: each request once, also those that never arrived; nothing comes to front but what the gateway counts.
    wait_for_providers(&isobar, "service:shop/front", &["service:shop/cart live 1.0"]).await;
    wait_for_providers(&isobar, "service:shop/cart", &["external:PassthroughCluster live 0.1", "service:shop/pay live 0.5"]).await;
    wait_for_providers(&isobar, "service:emoji/web", &["service:emoji/voting live 1.0"]).await;
    wait_for_providers(&isobar, "service:net/a", &["service:net/b live 1.0"]).await;
    wait_for_providers(&isobar, "service:mail", &["external:smtp.example.com live 0.5", "service:templates live 0.5"]).await;
    wait_for_providers(&isobar, "interface:%2Fbuy", &["service:shop/front live 1.0"]).await;
    assert!(providers(&isobar, "interface:%2Ftest").await.is_empty(), "its traffic is not matched");
    // Other names of a provider lead to it.
    let alias = isobar.get("/api/v1/lineage/neighbours", &[("node", "service:shop/cart-svc")]).await;
    assert_eq!(alias["node"]["id"], "service:shop/cart", "{alias}");

    let blast = isobar.get("/api/v1/lineage/blast-radius", &[("node", "service:shop/pay")]).await;
    let cart = blast["impacts"].as_array().expect("a list").iter().find(|i| i["node"]["id"] == "service:shop/cart").expect("is touched");
    assert!((cart["rate"].as_f64().expect("a rate") - 10.0).abs() < 0.5, "{cart}");
    assert!((cart["lost_per_s"].as_f64().expect("a rate") - 5.0).abs() < 1.0, "{cart}");

    // What the providers of cart answer, by a join with the graph.
    let join = r#"isobar_lineage_edge{from_namespace="shop", from_name="cart"} * on (to_namespace, to_name) group_left ()
        sum by (to_namespace, to_name) (label_replace(label_replace(rate(istio_requests_total{reporter="destination"}[5s]),
        "to_name", "$1", "destination_canonical_service", "(.+)"), "to_namespace", "$1", "destination_workload_namespace", "(.+)"))"#;
    let joined = wait_for("a join of edges and rates", PATIENCE, async || {
        let result = isobar.query(join, now_ms() as f64 / 1000.0).await;
        result.as_array().filter(|r| r.len() == 1).map(|r| r[0].clone())
    })
    .await;
    assert_eq!((&joined["metric"]["to"], &joined["metric"]["class"]), (&"service:shop/pay".into(), &"hard".into()), "{joined}");
    let rate: f64 = joined["value"][1].as_str().and_then(|v| v.parse().ok()).expect("a number");
    assert!((rate - 5.0).abs() < 0.5, "{joined}");
    let infos = isobar.query(r#"count(isobar_lineage_node_info{kind="service"})"#, now_ms() as f64 / 1000.0).await;
    assert!(infos[0]["value"][1].as_str().and_then(|v| v.parse::<u32>().ok()).is_some_and(|n| n >= 9), "{infos}");

    let then = (now_ms() as f64 / 1000.0).to_string();
    traffic.end().await;
    // The first second without traffic is seen when the window is past; then the edges become stale, and go.
    wait_for_providers(&isobar, "service:shop/cart", &[]).await;
    wait_for("the end of the series", PATIENCE, async || {
        let left = isobar.query("isobar_lineage_edge", now_ms() as f64 / 1000.0).await;
        left.as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
    // One still sees what there was.
    let before = isobar.get("/api/v1/lineage/neighbours", &[("node", "service:net/a"), ("at", &then)]).await;
    assert_eq!(before["providers"][0]["to"], "service:net/b", "{before}");
}

#[tokio::test]
async fn capacity_names_what_saturates_first() {
    let (_settings, isobar) = start().await;
    let mut metrics = meshes();
    for (pool, busy) in [("front", 20.0), ("cart", 40.0), ("pay", 25.0)] {
        metrics.push((format!("__name__=busy_workers,pool={pool}"), busy));
        metrics.push((format!("__name__=max_workers,pool={pool}"), 100.0));
    }
    let traffic = Traffic::start(&isobar, metrics).await;
    wait_for_providers(&isobar, "service:shop/front", &["service:shop/cart live 1.0"]).await;
    wait_for_providers(&isobar, "service:shop/cart", &["external:PassthroughCluster live 0.1", "service:shop/pay live 0.5"]).await;
    wait_for_providers(&isobar, "interface:%2Fbuy", &["service:shop/front live 1.0"]).await;
    let answer = isobar.get("/api/v1/lineage/capacity", &[("node", "service:shop/front"), ("factor", "2")]).await;
    assert_eq!((&answer["first"]["node"], &answer["first"]["resource"]), (&"service:shop/cart".into(), &"workers".into()), "{answer}");
    let near = |value: &Value, expected: f64| {
        let off = value.as_f64().map(|v| (v - expected).abs());
        assert!(off.is_some_and(|off| off < 0.1), "{value} is not {expected}: {answer}");
    };
    near(&answer["first"]["factor"], 2.5);
    let of = |node: &str| answer["nodes"].as_array().expect("a list").iter().find(|n| n["node"]["id"] == node).expect("is listed").clone();
    near(&of("service:shop/cart")["resources"][0]["predicted"], 0.8);
    near(&of("service:shop/pay")["per_request"], 0.5);
    near(&of("service:shop/pay")["resources"][0]["saturates_at"], 4.0);
    near(&answer["rate"], 10.0);
    let unknown: Vec<&str> = answer["unresolved"].as_array().expect("a list").iter().filter_map(|u| u["subject"].as_str()).collect();
    assert_eq!(unknown, ["external:PassthroughCluster"], "{answer}");
    traffic.end().await;
}
