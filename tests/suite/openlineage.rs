//! OpenLineage with the clients of PyPI, unmodified: the Python client, the SQL parser, a real dbt project; and a flood of events.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use isobar_tests::isobar::Isobar;
use isobar_tests::process::{program, project};
use serde_json::{Value, json};

const ARGS: &[&str] = &["--self-scrape.interval=0"];

/// Events per second that the flood offers.
const OFFERED_PER_SECOND: usize = 10_000;

/// How long the flood lasts.
const FLOOD: Duration = Duration::from_secs(10);

/// Memory that the process may have at most while the flood lasts, in KiB.
const MAX_RSS_KIB: u64 = 1_200 << 10;

/// Ids of the nodes that a node depends on, by its own id.
async fn providers(isobar: &Isobar, node: &str) -> Vec<String> {
    let answer = isobar.get("/api/v1/lineage/neighbours", &[("node", node)]).await;
    let list = answer["providers"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let mut ids: Vec<String> = list.iter().map(|e| e["to"].as_str().expect("an id").to_owned()).collect();
    ids.sort_unstable();
    ids
}

async fn neighbours(isobar: &Isobar, node: &str) -> Value {
    isobar.get("/api/v1/lineage/neighbours", &[("node", node)]).await
}

/// A path of the read API, whose answers have no envelope.
async fn read(isobar: &Isobar, path: &str) -> Value {
    let answer = isobar.client().get(isobar.url(path)).send().await.expect("answers");
    let status = answer.status();
    let text = answer.text().await.expect("is text");
    assert!(status.is_success(), "{path}: {status} {text}");
    serde_json::from_str(&text).expect("is JSON")
}

fn run(program: PathBuf, args: &[&str], folder: &Path, environment: &[(&str, &str)]) -> String {
    let output = Command::new(program).args(args).current_dir(folder).envs(environment.iter().copied()).output().expect("starts");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_and_the_sql_parser() {
    let isobar = Isobar::start(ARGS).await;
    let script = project().join("tests/suite/openlineage_client.py");
    let said = run(program("python"), &[script.to_str().expect("UTF-8"), &isobar.url("")], isobar.folder(), &[]);
    assert!(said.contains("done"), "{said}");

    let table = |name: &str| format!("dataset:postgres:%2F%2Fwarehouse:5432/{name}");
    let column = |table: &str, field: &str| format!("column:postgres:%2F%2Fwarehouse:5432/{table}/{field}");
    let revenue = neighbours(&isobar, &table("shop.public.revenue")).await;
    assert_eq!(revenue["node"]["description"], "Revenue per day");
    assert_eq!(
        (&revenue["node"]["tags"], revenue["node"]["attributes"]["fields"][1]["name"].as_str()),
        (&json!(["tier:gold"]), Some("total"))
    );
    let names: Vec<&str> = revenue["node"]["aliases"].as_array().expect("a list").iter().filter_map(|a| a["id"].as_str()).collect();
    assert_eq!(names, ["dataset:hive:%2F%2Fmeta:9083/shop.revenue"]);
    let needs = [
        column("shop.public.revenue", "day"),
        column("shop.public.revenue", "total"),
        table("shop.public.orders"),
        "job:airflow/daily.build_revenue".into(),
    ];
    assert_eq!(providers(&isobar, &table("shop.public.revenue")).await, needs);
    let amount = column("shop.public.orders", "amount");
    assert_eq!(providers(&isobar, &column("shop.public.revenue", "total")).await, [amount]);

    let job = neighbours(&isobar, "job:airflow/daily.build_revenue").await;
    assert_eq!(
        (&job["node"]["owners"][0]["name"], job["node"]["attributes"]["run_interval_ms"].as_i64()),
        (&json!("team:data"), Some(3_600_000))
    );
    let whole = job["dependents"].as_array().expect("a list").iter().find(|e| e["from"] == "job:airflow/daily").expect("the parent");
    assert_eq!(whole["relation"], "composition");
    let written = job["dependents"].as_array().expect("a list").iter().find(|e| e["from"] == table("shop.public.revenue").as_str());
    assert_eq!(written.expect("the output")["lag_ms"].as_i64(), Some(3_600_000));
    let runs = read(&isobar, "/api/v1/namespaces/airflow/jobs/daily.build_revenue/runs").await;
    assert_eq!(runs["totalCount"].as_u64(), Some(5), "{runs}");

    assert_eq!(providers(&isobar, &table("t.c")).await, [table("t.a"), "job:airflow/bulk".into()]);
    assert_eq!(providers(&isobar, &table("t.d")).await, ["job:airflow/bulk"]);
    assert_eq!(providers(&isobar, &table("shop.public.v")).await, [table("shop.public.orders")]);
    let top = providers(&isobar, &table("shop.public.top")).await;
    assert_eq!(top, [table("shop.public.revenue"), "job:airflow/daily.top".into()]);
    assert_eq!(providers(&isobar, &column("shop.public.top", "best")).await, [column("shop.public.revenue", "total")]);

    let found = isobar.get("/api/v1/lineage/nodes", &[("q", "名前")]).await;
    assert!(found.to_string().contains("s3:%2F%2Fbucket%2Fwith:colon/a:b%2Fc %252F 名前"), "{found}");
    let asynchronous = read(&isobar, "/api/v1/namespaces/other/jobs?limit=1000").await;
    assert_eq!(asynchronous["totalCount"].as_u64(), Some(53), "50 of the asynchronous transport, one below a prefix, two of other paths");
    let raw = read(&isobar, "/api/v1/events/lineage?limit=1").await;
    assert_eq!(raw["totalCount"].as_u64(), Some(10 + 2 + 2 + 1 + 3 + 100), "{raw}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dbt_project() {
    let isobar = Isobar::start(ARGS).await;
    let programs = project().join("target/dbt-venv/bin");
    assert!(programs.join("dbt-ol").is_file(), "dbt is not there; `tests/run` installs it");
    let folder = isobar.folder().join("shop");
    for inner in ["models", "seeds"] {
        std::fs::create_dir_all(folder.join(inner)).expect("is made");
    }
    for (name, content) in [
        ("dbt_project.yml", "name: shop\nversion: '1.0'\nprofile: shop\nmodel-paths: [models]\nseed-paths: [seeds]\n"),
        ("profiles.yml", "shop:\n  target: dev\n  outputs:\n    dev: {type: duckdb, path: shop.duckdb, schema: main, threads: 1}\n"),
        ("seeds/raw_orders.csv", "id,customer,amount,day\n1,a,10,2026-01-01\n2,b,20,2026-01-02\n"),
        ("models/orders.sql", "select id, customer, cast(amount as double) as amount, day from {{ ref('raw_orders') }}\n"),
        (
            "models/revenue.sql",
            "{{ config(materialized='table') }}\nselect day, sum(amount) as total from {{ ref('orders') }} group by day\n",
        ),
        (
            "models/schema.yml",
            "version: 2\nmodels:\n  - name: revenue\n    description: Revenue per day\n    columns:\n      - {name: day}\n      - {name: total, tests: [not_null]}\n",
        ),
    ] {
        std::fs::write(folder.join(name), content).expect("is written");
    }
    let (url, path) = (isobar.url(""), format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default()));
    let environment = [("OPENLINEAGE_URL", url.as_str()), ("OPENLINEAGE_NAMESPACE", "dbt"), ("PATH", path.as_str()), ("DO_NOT_TRACK", "1")];
    for command in ["seed", "run", "test"] {
        let said = run(programs.join("dbt-ol"), &[command, "--profiles-dir", "."], &folder, &environment);
        assert!(said.contains("Emitted") && !said.contains("Failed to emit"), "{said}");
    }

    let table = |name: &str| format!("dataset:duckdb:%2F%2Fshop.duckdb/shop.main.{name}");
    let column = |table: &str, field: &str| format!("column:duckdb:%2F%2Fshop.duckdb/shop.main.{table}/{field}");
    let job = |name: &str| format!("job:dbt/shop.main.shop.{name}");
    let revenue = neighbours(&isobar, &table("revenue")).await;
    assert_eq!(revenue["node"]["description"], "Revenue per day");
    let needs = providers(&isobar, &table("revenue")).await;
    assert_eq!(needs, [column("revenue", "day"), column("revenue", "total"), table("orders"), job("revenue")]);
    assert_eq!(providers(&isobar, &column("revenue", "total")).await, [column("orders", "amount")]);
    assert!(providers(&isobar, &job("revenue")).await.contains(&table("orders")));
    let whole = neighbours(&isobar, "job:dbt/dbt-run-shop").await;
    assert!(
        whole["providers"].as_array().expect("a list").iter().any(|e| e["to"] == job("revenue").as_str() && e["relation"] == "composition")
    );
    let down = isobar.get("/api/v1/lineage/blast-radius", &[("node", &job("orders"))]).await;
    let touched: Vec<&str> =
        down["impacts"].as_array().unwrap_or_else(|| panic!("{down}")).iter().filter_map(|i| i["node"]["id"].as_str()).collect();
    assert!(touched.contains(&table("orders").as_str()) && touched.contains(&table("revenue").as_str()), "{touched:?}");
    let runs = read(&isobar, "/api/v1/namespaces/dbt/jobs/shop.main.shop.revenue/runs").await;
    assert_eq!(runs["runs"][0]["state"], "COMPLETED", "{runs}");
}

/// Memory of a process now, in KiB.
fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("is running");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("has memory");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

fn flood_event(i: u64, now: &str) -> Value {
    let job = i % 1_000;
    json!({
        "eventTime": now, "eventType": (["START", "COMPLETE"][(i % 2) as usize]), "producer": "https://example.org/flood",
        "run": {"runId": format!("00000000-0000-4000-8000-{:012}", i / 2)}, "job": {"namespace": "flood", "name": format!("job{job}")},
        "inputs": [{"namespace": "postgres://db:5432", "name": format!("shop.public.t{}", job % 100), "facets": {"schema": {"fields":
            (0..20).map(|f| json!({"name": format!("column_{f}"), "type": "VARCHAR"})).collect::<Vec<_>>()}}}],
        "outputs": [{"namespace": "postgres://db:5432", "name": format!("shop.public.out{job}")}],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_bounded() {
    let isobar = Isobar::start(ARGS).await;
    let (stored, busy) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let now = run(program("date"), &["-u", "+%Y-%m-%dT%H:%M:%SZ"], isobar.folder(), &[]);
    let begun = Instant::now();
    let mut sent = Vec::new();
    let batch = 100_u64;
    let mut peak_kib = rss_kib(isobar.pid());
    let mut i = 0;
    while begun.elapsed() < FLOOD {
        let due = (begun.elapsed().as_secs_f64() * OFFERED_PER_SECOND as f64) as u64;
        while i < due {
            let events: Vec<Value> = (i..i + batch).map(|i| flood_event(i, now.trim())).collect();
            i += batch;
            let (client, url, body) = (isobar.client().clone(), isobar.url("/api/v1/lineage/batch"), Value::Array(events).to_string());
            let (stored, busy) = (stored.clone(), busy.clone());
            sent.push(tokio::spawn(async move {
                let answer = client.post(url).body(body).send().await.expect("answers");
                let status = answer.status().as_u16();
                let answer: Value = answer.json().await.expect("is JSON");
                match status {
                    200 => {
                        stored.fetch_add(answer["summary"]["successful"].as_u64().expect("a number"), Ordering::Relaxed);
                        assert_eq!(answer["summary"]["non_retriable"], 0, "{answer}");
                    }
                    503 => drop(busy.fetch_add(batch, Ordering::Relaxed)),
                    other => panic!("{other} {answer}"),
                }
            }));
        }
        peak_kib = peak_kib.max(rss_kib(isobar.pid()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let offered = i as f64 / begun.elapsed().as_secs_f64();
    for one in sent {
        one.await.expect("is answered");
        peak_kib = peak_kib.max(rss_kib(isobar.pid()));
    }
    let (stored, busy) = (stored.load(Ordering::Relaxed), busy.load(Ordering::Relaxed));
    let seconds = begun.elapsed().as_secs_f64();
    println!("{offered:.0} events/s offered, {:.0}/s stored, {busy} sent away, peak {} MiB", stored as f64 / seconds, peak_kib >> 10);
    assert!(stored > 0 && peak_kib < MAX_RSS_KIB, "{stored} stored, {peak_kib} KiB");
    let raw = read(&isobar, "/api/v1/events/lineage?limit=1").await;
    assert!(raw["totalCount"].as_u64().is_some_and(|n| n >= stored), "{raw}");
    assert!(providers(&isobar, "job:flood/job7").await.contains(&"dataset:postgres:%2F%2Fdb:5432/shop.public.t7".to_owned()));
}
