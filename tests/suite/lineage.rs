//! The lineage graph over HTTP and the command line: own events, questions, times, leases, names, and `kill -9` in a flood.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use isobar_tests::isobar::Isobar;
use isobar_tests::process::wait_for;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};

/// How often the process is killed in a flood.
const KILLS: usize = 8;

/// Connections that send at the same time.
const WRITERS: usize = 8;

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("the clock is right");
    i64::try_from(since.as_millis()).expect("fits")
}

async fn send(isobar: &Isobar, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let answer = isobar.client().request(method, isobar.url(path)).json(body).send().await.expect("isobar answers");
    let status = answer.status().as_u16();
    (status, answer.json().await.expect("the answer is JSON"))
}

async fn events(isobar: &Isobar, events: Value) -> Value {
    let (status, answer) = send(isobar, Method::POST, "/api/v1/lineage/events", &events).await;
    assert_eq!(status, 200, "{answer}");
    answer["data"].clone()
}

fn event(id: &str, at_ms: i64, facts: Value) -> Value {
    json!({"id": id, "source": "test", "at_ms": at_ms, "facts": facts})
}

fn edge(from: &str, to: &str, body: Value) -> Value {
    json!({"edge": {"from": from, "to": to, "body": body}})
}

/// Ids of the nodes in a list of an answer.
fn ids(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|row| row["node"]["id"].as_str().expect("an id")).collect()
}

fn cli(isobar: &Isobar, args: &[&str]) -> String {
    let output = Command::new(Isobar::binary()).arg("lineage").args(args).arg("--server").arg(isobar.url("")).output().expect("runs");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test]
async fn the_graph_answers_now_and_as_of_a_time() {
    let isobar = Isobar::start(&["--self-scrape.interval=0"]).await;
    let start_ms = now_ms() - 60_000;
    let shop = json!([
        edge("service:shop/frontend", "service:shop/checkout", json!({"share": 0.5})),
        edge("service:shop/frontend", "service:shop/ads", json!({"class": "soft"})),
        edge("service:shop/checkout", "service:shop/payment", json!({})),
        edge("service:shop/payment", "database:ledger", json!({})),
        {"node": {"node": "service:shop/frontend", "body": {"entry": true, "criticality": "critical", "owners": [{"name": "web"}]}}},
    ]);
    events(&isobar, event("1", start_ms, shop)).await;
    events(&isobar, event("2", start_ms + 30_000, json!([edge("service:shop/payment", "service:shop/fraud", json!({"class": "soft"}))])))
        .await;
    let gone = json!([{"edge_gone": {"from": "service:shop/frontend", "to": "service:shop/ads"}}]);
    events(&isobar, json!([event("3", start_ms + 40_000, gone)])).await;

    let blast = isobar.get("/api/v1/lineage/blast-radius", &[("node", "service:shop/payment")]).await;
    assert_eq!(blast["complete"], true, "{blast}");
    assert_eq!(ids(&blast["impacts"])[..2], ["service:shop/frontend", "service:shop/checkout"], "criticality ranks the frontend first");
    // What only the failed service calls has no errors, but no traffic either.
    assert!(blast["impacts"][2]["errors"] == 0.0 && blast["impacts"][2]["starvation"].as_f64() > Some(0.99), "{blast}");
    let errors = |i: usize| blast["impacts"][i]["errors"].as_f64().expect("a number");
    assert!((errors(0) - 0.5).abs() < 0.1 && errors(1) > 0.99, "{blast}");
    assert_eq!(blast["impacts"][0]["path"].as_array().expect("a path").len(), 2);

    let before = ((start_ms + 10_000) as f64 / 1000.0).to_string();
    let down = |at: &str| [("node", "database:ledger".to_owned()), ("at", at.to_owned())];
    let then: Vec<(&str, String)> = down(&before).into();
    let then = isobar.get("/api/v1/lineage/downstream", &then.iter().map(|(k, v)| (*k, v.as_str())).collect::<Vec<_>>()).await;
    assert_eq!(ids(&then["nodes"]), ["service:shop/payment", "service:shop/checkout", "service:shop/frontend"]);
    let nearest = isobar.get("/api/v1/lineage/upstream", &[("node", "service:shop/payment"), ("depth", "1")]).await;
    let mut nearest = ids(&nearest["nodes"]);
    nearest.sort_unstable();
    assert_eq!(nearest, ["database:ledger", "service:shop/fraud"]);

    let diff = isobar.get("/api/v1/lineage/diff", &[("from", &before)]).await;
    assert_eq!(diff["edges_added"][0]["to"], "service:shop/fraud", "{diff}");
    assert_eq!(diff["edges_removed"][0]["to"], "service:shop/ads", "{diff}");
    assert_eq!(diff["edges_added"].as_array().map(Vec::len), Some(1));

    let paths = isobar.get("/api/v1/lineage/paths", &[("from", "database:ledger"), ("to", "service:shop/frontend")]).await;
    assert_eq!(paths["paths"][0]["steps"].as_array().map(Vec::len), Some(3), "{paths}");
    let single = isobar.get("/api/v1/lineage/single-points", &[("node", "service:shop/checkout")]).await;
    assert_eq!(ids(&single["points"]), ["service:shop/payment", "database:ledger"], "{single}");
    let causes = [("node", "service:shop/frontend"), ("node", "service:shop/checkout"), ("node", "service:shop/payment")];
    let causes = isobar.get("/api/v1/lineage/causes", &causes).await;
    assert!(["service:shop/payment", "database:ledger"].contains(&ids(&causes["causes"])[0]), "{causes}");
    let value = isobar.get("/api/v1/lineage/value", &[("node", "database:ledger")]).await;
    assert_eq!((&value["users"], &value["by_owner"]["web"]), (&json!(3), &json!(1)), "{value}");
    assert_eq!(isobar.get("/api/v1/lineage/cycles", &[]).await["total"], 0);

    let dot = cli(&isobar, &["graph", "--dot", "--failed", "service:shop/payment"]);
    assert!(dot.starts_with("digraph") && dot.contains("fillcolor=\"#d03030\""), "{dot}");
    let table = cli(&isobar, &["blast-radius", "service:shop/payment"]);
    assert!(table.contains("service:shop/payment > service:shop/checkout (hard, 1.00)"), "{table}");
    assert!(cli(&isobar, &["diff", &before]).contains("+  service:shop/payment -> service:shop/fraud"), "{table}");
    assert!(cli(&isobar, &["node", "service:shop/payment"]).contains("is needed by  service:shop/checkout"));
    assert!(cli(&isobar, &["capacity", "service:shop/frontend"]).contains("no node with known resources saturates"));
    assert!(cli(&isobar, &["search", "LEDGER"]).contains("database:ledger"));

    let unknown = isobar.client().get(isobar.url("/api/v1/lineage/blast-radius?node=service:nobody")).send().await.expect("answers");
    assert_eq!(unknown.status(), 404);
}

#[tokio::test]
async fn bad_events_are_refused_with_the_field_and_hostile_names_survive() {
    let isobar = Isobar::start(&["--self-scrape.interval=0"]).await;
    let at_ms = now_ms();
    let post = async |body: Value| send(&isobar, Method::POST, "/api/v1/lineage/events", &body).await;
    let (status, answer) = post(event("1", at_ms, json!([edge("service:a", "service:b", json!({"share": 2}))]))).await;
    assert!(status == 400 && answer["error"].as_str().expect("text").contains("facts[0].edge.body.share"), "{answer}");
    let (status, answer) = post(event("2", at_ms, json!([{"edge": {"from": "service:a", "to": "b"}}]))).await;
    assert!(status == 400 && answer["error"].as_str().expect("text").contains("facts[0].edge.to"), "{answer}");
    let part = |from: &str, to: &str| json!({"edge": {"from": from, "to": to, "relation": "composition"}});
    let (status, answer) = post(event("3", at_ms, json!([part("cluster:a", "cluster:b"), part("cluster:b", "cluster:a")]))).await;
    assert!(status == 422 && answer["error"].as_str().expect("text").contains("cycle"), "{answer}");

    let names = ["a:b/c%2F?#&=", "ümläut 中文 \u{1F980}", "\"quotes\\ and\nnewlines\"", &"x".repeat(64 * 1024)];
    for (i, name) in names.iter().enumerate() {
        let mut escaped = String::new();
        for c in name.chars() {
            match c {
                '%' => escaped.push_str("%25"),
                '/' => escaped.push_str("%2F"),
                '\n' => escaped.push_str("%0A"),
                c => escaped.push(c),
            }
        }
        let id = format!("service:{escaped}");
        events(&isobar, event(&format!("name-{i}"), at_ms, json!([edge("service:user", &id, json!({}))]))).await;
        let request = json!({"nodes": [id]});
        let (status, answer) = send(&isobar, Method::POST, "/api/v1/lineage/blast-radius", &request).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(answer["data"]["failed"][0]["id"], json!(id));
        assert_eq!(answer["data"]["failed"][0]["name"], json!(name));
        assert_eq!(answer["data"]["impacts"][0]["node"]["id"], "service:user");
    }
}

#[tokio::test]
async fn leases_expire_and_names_are_joined_and_taken_apart() {
    let isobar = Isobar::start(&["--self-scrape.interval=0"]).await;
    let lease = json!({"ttl_seconds": 1, "instance": "1", "host": "host-7", "depends_on": [{"node": "database:ledger", "class": "hard"}]});
    let (status, answer) = send(&isobar, Method::PUT, "/api/v1/lineage/leases/shop%2Fpayment", &lease).await;
    assert!(status == 200 && answer["data"]["node"] == "service:shop/payment", "{answer}");
    let put = Instant::now();
    let status_of = async || {
        let url = isobar.url("/api/v1/lineage/neighbours?node=service:shop/payment");
        let answer: Value = isobar.client().get(url).send().await.expect("answers").json().await.expect("JSON");
        answer["data"]["node"]["status"].as_str().unwrap_or("gone").to_owned()
    };
    assert_eq!(status_of().await, "live");
    let down = isobar.get("/api/v1/lineage/downstream", &[("node", "host:host-7")]).await;
    assert!(ids(&down["nodes"]).contains(&"service:shop/payment"), "{down}");
    wait_for("the lease to be stale", Duration::from_secs(10), async || (status_of().await == "stale").then_some(())).await;
    assert!(put.elapsed() >= Duration::from_millis(900), "it was live for its time");
    wait_for("the lease to expire", Duration::from_secs(30), async || (status_of().await == "gone").then_some(())).await;
    let (status, _) = send(&isobar, Method::PUT, "/api/v1/lineage/leases/payment", &json!({"ttl_seconds": 0.1})).await;
    assert_eq!(status, 400);

    let facts = json!([edge("service:web", "service:pay", json!({})), edge("service:prod/pay", "database:ledger", json!({}))]);
    events(&isobar, event("1", now_ms(), facts)).await;
    let touched = async || {
        let blast = isobar.get("/api/v1/lineage/blast-radius", &[("node", "database:ledger")]).await;
        ids(&blast["impacts"]).iter().map(|id| (*id).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(touched().await, ["service:prod/pay"]);
    let pair = json!({"alias": "service:pay", "canonical": "service:prod/pay"});
    assert_eq!(send(&isobar, Method::POST, "/api/v1/lineage/aliases", &pair).await.0, 200);
    assert_eq!(touched().await, ["service:prod/pay", "service:web"]);
    let merged = isobar.get("/api/v1/lineage/aliases", &[]).await;
    assert_eq!(merged["merged"][0]["aliases"][0]["rule"], "manual", "{merged}");
    assert_eq!(send(&isobar, Method::DELETE, "/api/v1/lineage/aliases", &pair).await.0, 200);
    assert_eq!(touched().await, ["service:prod/pay"]);
}

/// Sends single-edge events until told to stop or the connection breaks. Returns how many were acknowledged.
async fn flood(isobar: Arc<Isobar>, round: usize, writer: usize, stop: Arc<AtomicBool>) -> usize {
    for i in 0.. {
        if stop.load(Ordering::Relaxed) {
            return i;
        }
        let from = format!("service:r{round}w{writer}/n{i}");
        let body = event(&format!("{round}-{writer}-{i}"), now_ms(), json!([edge(&from, "database:all", json!({}))]));
        match isobar.client().post(isobar.url("/api/v1/lineage/events")).json(&body).send().await {
            Ok(answer) if answer.status().as_u16() == 200 => {}
            Ok(answer) if answer.status().as_u16() == 503 => tokio::time::sleep(Duration::from_millis(20)).await,
            Ok(answer) => panic!("an event was answered with {}", answer.status()),
            Err(_) => return i,
        }
    }
    unreachable!("the loop has no end")
}

#[tokio::test]
async fn every_acknowledged_event_is_there_after_kill_9_in_a_flood() {
    let mut random = StdRng::seed_from_u64(7);
    let mut isobar = Isobar::start(&["--self-scrape.interval=0"]).await;
    let mut acknowledged: Vec<(usize, usize, usize)> = Vec::new();
    for round in 0..KILLS {
        let (shared, stop) = (Arc::new(isobar), Arc::new(AtomicBool::new(false)));
        let writers: Vec<_> = (0..WRITERS).map(|w| tokio::spawn(flood(shared.clone(), round, w, stop.clone()))).collect();
        tokio::time::sleep(Duration::from_millis(random.random_range(50..700))).await;
        // SAFETY: the process is a child that nobody has waited for, so the number is still its own.
        assert_eq!(unsafe { libc::kill(shared.pid() as i32, libc::SIGKILL) }, 0);
        for (writer, flooding) in writers.into_iter().enumerate() {
            acknowledged.push((round, writer, flooding.await.expect("runs")));
        }
        stop.store(true, Ordering::Relaxed);
        isobar = Arc::into_inner(shared).expect("the writers have ended");
        isobar.kill();
        isobar.launch().await;
        let down = isobar.get("/api/v1/lineage/downstream", &[("node", "database:all"), ("limit", "100000")]).await;
        let mut there: Vec<&str> = ids(&down["nodes"]);
        there.sort_unstable();
        for (round, writer, count) in &acknowledged {
            for i in 0..*count {
                let id = format!("service:r{round}w{writer}/n{i}");
                assert!(there.binary_search(&id.as_str()).is_ok(), "{id} was acknowledged and is lost");
            }
        }
    }
    let total: usize = acknowledged.iter().map(|(_, _, count)| count).sum();
    println!("{total} events were acknowledged around {KILLS} kills, and all of them are there");
    assert!(total > 200, "only {total} events were acknowledged");
}
