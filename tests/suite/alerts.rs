//! Alerts end to end: the real Prometheus with a rule, the real Alertmanager, and amtool; what a firing alert touches, who is told, and
//! what a killed process still knows.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use isobar_tests::isobar::Isobar;
use isobar_tests::process::{Process, free_port, program, wait_for};
use isobar_tests::prometheus::Prometheus;
use serde_json::{Value, json};

/// From the moment an alert fires until what it touches is assessed.
const GOAL: Duration = Duration::from_secs(1);

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server of the test: `/metrics` says whether the payment service is up, everything else is kept as a message to a receiver.
struct Shop {
    port: u16,
    up: Arc<AtomicBool>,
    messages: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Shop {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let port = listener.local_addr().expect("it has an address").port();
        let (up, messages) = (Arc::new(AtomicBool::new(true)), Arc::new(Mutex::new(Vec::new())));
        let (is_up, kept) = (Arc::clone(&up), Arc::clone(&messages));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A request that breaks off is the sender's business.
                let _ = stream.and_then(|s| answer(s, &is_up, &kept));
            }
        });
        Self { port, up, messages }
    }

    fn told(&self, state: &str) -> Option<Value> {
        let messages = self.messages.lock().expect("not poisoned");
        messages.iter().map(|(_, m)| m).find(|m| m["impact"]["state"] == state).cloned()
    }
}

fn answer(stream: TcpStream, up: &AtomicBool, kept: &Mutex<Vec<(String, Value)>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut line, mut length, mut token) = (String::new(), 0, String::new());
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or("").to_owned();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header == "\r\n" {
            break;
        }
        match header.split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse().unwrap_or(0),
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => token = value.trim().to_owned(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let text = if path == "/metrics" {
        format!("payment_up {}\n", u8::from(up.load(Ordering::SeqCst)))
    } else {
        kept.lock().expect("not poisoned").push((token, serde_json::from_slice(&body).unwrap_or(Value::Null)));
        String::new()
    };
    let mut stream = reader.into_inner();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}", text.len())
}

/// A running Alertmanager that posts to Isobar.
async fn alertmanager(folder: &Path, port: u16, isobar: u16) -> Process {
    let config = format!(
        "route:\n  receiver: isobar\n  group_by: [alertname, service]\n  group_wait: 0s\n  group_interval: 1s\n  repeat_interval: 1h\n\
         receivers:\n  - name: isobar\n    webhook_configs:\n      - url: http://127.0.0.1:{isobar}/api/v1/alerts/webhook\n        send_resolved: true\n"
    );
    std::fs::write(folder.join("alertmanager.yml"), config).expect("configuration is written");
    let mut command = Command::new(program("prometheus-alertmanager"));
    command
        .arg(format!("--config.file={}", folder.join("alertmanager.yml").display()))
        .arg(format!("--storage.path={}", folder.join("alertmanager").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg("--cluster.listen-address=");
    let process = Process::spawn("alertmanager", command, &folder.join("alertmanager.log"));
    let client = reqwest::Client::new();
    wait_for("alertmanager is ready", PATIENCE, async || {
        client.get(format!("http://127.0.0.1:{port}/-/ready")).send().await.ok().filter(|a| a.status().is_success()).map(drop)
    })
    .await;
    process
}

/// A Prometheus with a rule for the payment service that tells the Alertmanager and Isobar.
async fn prometheus(folder: &Path, shop: u16, alertmanager: u16, isobar: u16) -> Prometheus {
    std::fs::create_dir_all(folder).expect("folder for prometheus");
    let rule = "groups:\n  - name: shop\n    rules:\n      - alert: PaymentDown\n        expr: payment_up == 0\n        labels: {severity: critical, namespace: shop, service: payment}\n        annotations: {summary: payment is down}\n";
    std::fs::write(folder.join("rules.yml"), rule).expect("rules are written");
    Prometheus::start(folder, |_| {
        format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}\nrule_files: [rules.yml]\n\
             alerting:\n  alertmanagers:\n    - static_configs: [{{targets: ['127.0.0.1:{alertmanager}']}}]\n    - static_configs: [{{targets: ['127.0.0.1:{isobar}']}}]\n\
             scrape_configs:\n  - job_name: shop\n    static_configs: [{{targets: ['127.0.0.1:{shop}']}}]\n"
        )
    })
    .await
}

/// The shop: who needs the payment service, down to a table and a metric.
async fn build_graph(isobar: &Isobar) {
    let owner = |name: &str| json!({"owners": [{"name": name}]});
    let edge = |from: &str, to: &str, body: Value| json!({"edge": {"from": from, "to": to, "body": body}});
    let facts = json!([
        {"node": {"node": "service:shop/payment", "body": owner("pay")}},
        {"node": {"node": "service:shop/frontend", "body": {"entry": true, "criticality": "critical", "owners": [{"name": "web"}]}}},
        {"node": {"node": "metric:revenue", "body": owner("finance")}},
        edge("service:shop/checkout", "service:shop/payment", json!({})),
        edge("service:shop/frontend", "service:shop/checkout", json!({"share": 0.5})),
        edge("interface:shop/checkout", "service:shop/checkout", json!({})),
        {"edge": {"from": "application:store", "to": "service:shop/frontend", "relation": "composition"}},
        {"edge": {"from": "project:retail", "to": "application:store", "relation": "composition"}},
        edge("topic:paid", "service:shop/payment", json!({})),
        edge("dataset:wh/orders", "topic:paid", json!({"lag_ms": 600_000})),
        edge("metric:revenue", "dataset:wh/orders", json!({"lag_ms": 60_000})),
    ]);
    let at_ms = now_ms() - 600_000;
    let event = json!({"id": "shop", "source": "test", "at_ms": at_ms, "facts": facts});
    let answer = isobar.client().post(isobar.url("/api/v1/lineage/events")).json(&event).send().await.expect("isobar answers");
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap_or_default());
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("the clock is right");
    i64::try_from(since.as_millis()).expect("fits")
}

/// Impacts of a state, by the interface that they came through.
async fn impacts(isobar: &Isobar, state: &str, via: &str) -> Vec<Value> {
    let list = isobar.get("/api/v1/impact", &[("state", state)]).await;
    list["impacts"].as_array().expect("a list").iter().filter(|i| i["via"] == via).cloned().collect()
}

async fn impact(isobar: &Isobar, id: &Value) -> Value {
    isobar.get(&format!("/api/v1/impact/{}", id.as_str().expect("an id")), &[]).await
}

fn ids(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|n| n["id"].as_str().expect("an id")).collect()
}

/// Everything that the payment service's failure touches is there, with reasons and owners.
fn check_assessment(impact: &Value) {
    let assessment = &impact["assessment"];
    assert_eq!(ids(&assessment["failed"]), ["service:shop/payment"], "{impact}");
    for (list, expected) in [
        ("interfaces", "interface:shop/checkout"),
        ("applications", "application:store"),
        ("projects", "project:retail"),
        ("metrics", "metric:revenue"),
        ("datasets", "dataset:wh/orders"),
        ("topics", "topic:paid"),
    ] {
        assert_eq!(ids(&assessment[list]), [expected], "{list}: {assessment}");
        assert!(!assessment[list][0]["path"].as_array().expect("a path").is_empty() && assessment[list][0]["because"].is_string());
    }
    let frontend = assessment["services"].as_array().expect("a list").iter().find(|s| s["id"] == "service:shop/frontend").expect("touched");
    let errors = frontend["errors"].as_f64().expect("a number");
    assert!((errors - 0.5).abs() < 0.1, "half of the requests use it: {errors}");
    assert_eq!(assessment["metrics"][0]["late_after_ms"], 660_000);
    let owners: Vec<&str> = assessment["owners"].as_array().expect("a list").iter().filter_map(|o| o["name"].as_str()).collect();
    assert!(["web", "pay", "finance"].iter().all(|o| owners.contains(o)), "{owners:?}");
    assert_eq!(assessment["causes"][0]["id"], "service:shop/payment", "{assessment}");
    assert_eq!(impact["alerts"][0]["matches"][0]["rule"], "service");
}

#[tokio::test]
async fn a_firing_rule_is_an_assessed_impact_within_a_second() {
    let folder = tempfile::tempdir().expect("a folder");
    let shop = Shop::start();
    std::fs::write(folder.path().join("token"), "Bearer of-the-test\n").expect("the secret is written");
    let (port, closed) = (free_port(), free_port());
    let rules = format!(
        "alerts:\n  series: {{interval: 1s}}\n  external_url: http://isobar.test\n  notify:\n    - {{name: hook, url: 'http://127.0.0.1:{}/hook', header_files: {{Authorization: token}}}}\n    - {{name: unreachable, url: 'http://127.0.0.1:{closed}/', retries: 2}}\n",
        shop.port
    );
    std::fs::write(folder.path().join("lineage.yml"), rules).expect("rules are written");
    let config = format!("--lineage.config-file={}", folder.path().join("lineage.yml").display());
    let mut isobar = Isobar::start(&["--self-scrape.interval=0", &config]).await;
    build_graph(&isobar).await;
    let _alertmanager = alertmanager(folder.path(), port, isobar.port()).await;
    let prometheus = prometheus(&folder.path().join("prometheus"), shop.port, port, isobar.port()).await;
    // The rule has been evaluated, so that the time of a start of Prometheus does not count.
    wait_for("the rule is evaluated", PATIENCE, async || {
        let url = format!("http://127.0.0.1:{}/api/v1/query?query=payment_up", prometheus.port);
        let answer: Value = isobar.client().get(url).send().await.ok()?.json().await.ok()?;
        answer["data"]["result"].as_array().is_some_and(|r| !r.is_empty()).then_some(())
    })
    .await;

    shop.up.store(false, Ordering::SeqCst);
    let mut first = Vec::new();
    for via in ["webhook", "api"] {
        let found =
            wait_for(&format!("an impact by {via}"), PATIENCE, async || impacts(&isobar, "firing", via).await.into_iter().next()).await;
        let impact = impact(&isobar, &found["id"]).await;
        check_assessment(&impact);
        let fired_ms = impact["alerts"][0]["starts_ms"].as_i64().expect("a time");
        let assessed_ms = impact["history"][0]["assessed_ms"].as_i64().expect("a time");
        let latency = Duration::from_millis(u64::try_from(assessed_ms - fired_ms).expect("after it fired"));
        println!("{via}: from firing to assessment {latency:?}, of which the assessment took {} ms", impact["assessment"]["took_ms"]);
        assert!(latency < GOAL, "{via}: {latency:?}");
        assert_eq!(impact["assessment"]["as_of_ms"], fired_ms, "the graph is that of the start");
        first.push(impact);
    }
    assert_eq!(first[0]["alerts"][0]["fingerprint"], first[1]["alerts"][0]["fingerprint"], "as Alertmanager computes it");

    let told = wait_for("the receiver is told", PATIENCE, async || shop.told("firing")).await;
    check_assessment(&told["impact"]);
    assert_eq!(shop.messages.lock().expect("not poisoned")[0].0, "Bearer of-the-test");
    wait_for("series of the impact", PATIENCE, async || {
        let result =
            isobar.query("isobar_impact_probability{node=\"service:shop/frontend\",owner=\"web\"} > 0.4", now_ms() as f64 / 1000.0).await;
        (result.as_array().map(Vec::len) == Some(2)).then_some(())
    })
    .await;

    isobar.kill();
    isobar.launch().await;
    for before in &first {
        let after = impact(&isobar, &before["id"]).await;
        assert_eq!(after["state"], "firing");
        assert_eq!(after["assessment"]["services"], before["assessment"]["services"], "it survived kill -9");
    }

    shop.up.store(true, Ordering::SeqCst);
    for (via, before) in ["webhook", "api"].into_iter().zip(&first) {
        let over = wait_for(&format!("the impact by {via} is over"), PATIENCE, async || {
            impacts(&isobar, "resolved", via).await.into_iter().find(|i| i["id"] == before["id"])
        })
        .await;
        let over = impact(&isobar, &over["id"]).await;
        assert_eq!(over["resolved_by"], "alerts", "{over}");
        check_assessment(&over);
    }
    assert_eq!(impacts(&isobar, "firing", "webhook").await.len() + impacts(&isobar, "firing", "api").await.len(), 0);
    wait_for("the receiver is told of the end", PATIENCE, async || shop.told("resolved")).await;
    wait_for("the series end", PATIENCE, async || {
        let result = isobar.query("isobar_impact_open", now_ms() as f64 / 1000.0).await;
        result.as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
    let text = isobar.client().get(isobar.url(&format!("/api/v1/impact/{}?format=text", first[0]["id"].as_str().expect("an id"))));
    println!("{}", text.send().await.expect("isobar answers").text().await.expect("text"));
    assert!(!isobar.output().contains("of-the-test"), "no secret in the log");
}

#[tokio::test]
async fn an_alertmanager_gets_annotations_and_does_not_echo_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let rules = format!("alerts:\n  notify:\n    - {{kind: alertmanager, url: 'http://127.0.0.1:{port}', labels: {{via: isobar}}}}\n");
    std::fs::write(folder.path().join("lineage.yml"), rules).expect("rules are written");
    let config = format!("--lineage.config-file={}", folder.path().join("lineage.yml").display());
    let isobar = Isobar::start(&["--self-scrape.interval=0", &config]).await;
    let _alertmanager = alertmanager(folder.path(), port, isobar.port()).await;
    build_graph(&isobar).await;

    // The real amtool talks to Isobar as if it was an Alertmanager.
    let url = format!("--alertmanager.url=http://127.0.0.1:{}", isobar.port());
    let amtool = |args: &[&str]| {
        let output = Command::new(program("amtool")).args(args).arg(&url).output().expect("amtool runs");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    amtool(&["alert", "add", "PaymentDown", "namespace=shop", "service=payment", "severity=critical", "--annotation=summary=by hand"]);
    let shown = amtool(&["alert", "query", "service=payment"]);
    assert!(shown.contains("PaymentDown") && shown.contains("active"), "{shown}");
    assert!(!amtool(&["alert", "query", "service=cart"]).contains("PaymentDown"));
    assert!(amtool(&["config", "show"]).contains("resolve_timeout"));

    let begun = Instant::now();
    let alert = wait_for("Alertmanager has the annotations", PATIENCE, async || {
        let url = format!("http://127.0.0.1:{port}/api/v2/alerts?filter=via%3D%22isobar%22");
        let alerts: Value = isobar.client().get(url).send().await.ok()?.json().await.ok()?;
        alerts.get(0).cloned()
    })
    .await;
    println!("annotations were there after {:?}", begun.elapsed());
    let annotations = &alert["annotations"];
    assert_eq!((&annotations["summary"], &annotations["isobar_impact_interfaces"]), (&json!("by hand"), &json!("checkout (100 %)")));
    assert!(annotations["isobar_impact_summary"].as_str().is_some_and(|s| s.contains("payment fails")), "{annotations}");
    // Alertmanager posts it back to the webhook, which must not make another impact of it.
    isobar.wait_for_metric("isobar_alerts_received_total{via=\"webhook\"", PATIENCE, |n| n >= 1.0).await;
    let all = isobar.get("/api/v1/impact", &[]).await;
    assert_eq!(all["impacts"].as_array().map(Vec::len), Some(1), "{all}");
}
