//! A real Prometheus scrapes itself and a node exporter and writes to Isobar; both must give the same answers.
//!
//! Prometheus 2.42 closes ranges on the left, Prometheus 3 and Isobar leave them open there. The two differ only where a
//! sample lies exactly on the border of a window, so the queries are asked at a phase of the second at which none does.

use std::time::Duration;

use isobar_tests::answers::{difference, series};
use isobar_tests::isobar::Isobar;
use isobar_tests::process::wait_for;
use isobar_tests::prometheus::{Prometheus, node_exporter};
use serde_json::Value;

/// How long samples are collected before the comparison.
const COLLECT_S: f64 = 60.0;

async fn ask(client: &reqwest::Client, port: u16, path: &str, parameters: &[(&str, String)]) -> Value {
    let answer = client.get(format!("http://127.0.0.1:{port}/api/v1/{path}")).query(parameters).send().await.expect("server answers");
    answer.json().await.expect("the answer is JSON")
}

/// A phase of the second, in milliseconds, that no sample has.
async fn free_phase_ms(client: &reqwest::Client, prometheus: u16) -> i64 {
    let answer = ask(client, prometheus, "query", &[("query", "up[2m]".into())]).await;
    let taken: Vec<i64> = answer["data"]["result"]
        .as_array()
        .expect("matrix")
        .iter()
        .flat_map(|s| s["values"].as_array().expect("values"))
        .map(|v| (v[0].as_f64().expect("time") * 1000.0).round() as i64 % 1000)
        .collect();
    (0..1000)
        .max_by_key(|phase| taken.iter().map(|t| (t - phase).rem_euclid(1000).min((phase - t).rem_euclid(1000))).min())
        .expect("not empty")
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_and_isobar_give_the_same_answers() {
    // Prometheus does not have the series that Isobar stores of itself.
    let isobar = Isobar::start(&["--self-scrape.interval=0"]).await;
    let (_exporter, node_port) = node_exporter(isobar.folder());
    let write_url = isobar.url("/api/v1/write");
    let prometheus = Prometheus::start(&isobar.folder().join("prometheus"), |port| {
        format!(
            "global:\n  scrape_interval: 1s\nremote_write:\n  - url: {write_url}\n    queue_config:\n      batch_send_deadline: 500ms\nscrape_configs:\n  - job_name: prometheus\n    static_configs:\n      - targets: ['127.0.0.1:{port}']\n  - job_name: node\n    static_configs:\n      - targets: ['127.0.0.1:{node_port}']\n"
        )
    })
    .await;
    let client = isobar.client();
    let begun_s = first_sample_s(client, prometheus.port).await;
    let end_s = begun_s + COLLECT_S;
    wait_for("isobar has a minute of samples", Duration::from_secs(180), async || {
        let newest = ask(client, isobar.port(), "query", &[("query", "min(timestamp(up{job=~'node|prometheus'}))".into())]).await;
        let newest_s: f64 = newest["data"]["result"][0]["value"][1].as_str()?.parse().ok()?;
        (newest_s > end_s + 2.0).then_some(())
    })
    .await;

    let phase_s = free_phase_ms(client, prometheus.port).await as f64 / 1000.0;
    let at_s = end_s.floor() + phase_s;
    let mut compared = 0;
    let mut failures = Vec::new();
    for query in include_str!("queries.txt").lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let instant = ("query", vec![("query", query.to_owned()), ("time", format!("{at_s:.3}"))]);
        let range = (
            "query_range",
            vec![
                ("query", query.to_owned()),
                ("start", format!("{:.3}", at_s - 40.0)),
                ("end", format!("{at_s:.3}")),
                ("step", "4".into()),
            ],
        );
        for (path, parameters) in [instant, range] {
            let expected = ask(client, prometheus.port, path, &parameters).await;
            let got = ask(client, isobar.port(), path, &parameters).await;
            compared += 1;
            if expected["status"] != "success" || got["status"] != "success" {
                failures.push(format!("{path} {query}: prometheus {}, isobar {} {}", expected["status"], got["status"], got["error"]));
            } else if expected["data"]["resultType"] != got["data"]["resultType"] {
                failures.push(format!("{path} {query}: type {} and {}", expected["data"]["resultType"], got["data"]["resultType"]));
            } else if let Some(difference) = difference(&series(&expected["data"]), &series(&got["data"])) {
                failures.push(format!("{path} {query}: {difference}"));
            }
        }
    }
    assert!(compared >= 120, "only {compared} comparisons");
    assert!(failures.is_empty(), "{} of {compared} answers differ:\n{}", failures.len(), failures.join("\n"));
}

async fn first_sample_s(client: &reqwest::Client, port: u16) -> f64 {
    wait_for("prometheus scrapes both targets", Duration::from_secs(30), async || {
        let answer = ask(client, port, "query", &[("query", "min(timestamp(up == 1)) and count(up == 1) == 2".into())]).await;
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    })
    .await
}
