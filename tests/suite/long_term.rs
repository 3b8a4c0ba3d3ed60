//! What becomes of data in the long run, through the real binary and its HTTP API: replicas joined, series deleted and removed,
//! retention, reload of rules, `isobar compact`.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use isobar_tests::isobar::Isobar;
use isobar_tests::process::wait_for;
use isobar_tests::wire;
use reqwest::StatusCode;
use serde_json::Value;

/// Distance of samples.
const STEP_MS: i64 = 15_000;

const HOUR_MS: i64 = 3_600_000;

fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis() as i64
}

/// The last full hours before now: start in milliseconds, a multiple of two hours.
fn begin_ms(hours_ago: i64) -> i64 {
    (now_ms() - hours_ago * HOUR_MS) / (2 * HOUR_MS) * (2 * HOUR_MS)
}

/// Samples of a counter every step in a range of time.
fn counter(labels: &[(&str, &str)], start_ms: i64, end_ms: i64) -> wire::TimeSeries {
    let steps = (end_ms - start_ms) / STEP_MS;
    let samples: Vec<(i64, f64)> = (0..steps).map(|i| (start_ms + i * STEP_MS, i as f64)).collect();
    wire::series(labels, &samples)
}

async fn post(isobar: &Isobar, path: &str, parameters: &[(&str, &str)]) -> (StatusCode, Value) {
    let answer = isobar.client().post(isobar.url(path)).query(parameters).send().await.expect("isobar answers");
    (answer.status(), answer.json().await.unwrap_or(Value::Null))
}

/// How many samples of each series a selector has in a range that ends at a time, by the value of a label.
async fn counts(isobar: &Isobar, query: &str, at_ms: i64, more: &[(&str, &str)]) -> Vec<(String, f64)> {
    let at = (at_ms as f64 / 1000.0).to_string();
    let mut parameters = vec![("query", query), ("time", at.as_str())];
    parameters.extend(more);
    let data = isobar.get("/api/v1/query", &parameters).await;
    let rows = data["result"].as_array().expect("vector").iter().map(|row| {
        let value: f64 = row["value"][1].as_str().expect("value").parse().expect("number");
        (row["metric"].as_object().expect("labels").values().filter_map(Value::as_str).collect::<Vec<_>>().join(","), value)
    });
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}

fn isobar_compact(isobar: &Isobar, args: &[&str]) -> Output {
    let data = isobar.data().display().to_string();
    Command::new(Isobar::binary()).arg("compact").arg("--data").arg(data).args(args).output().expect("isobar runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Names of the folders of blocks that have files in the store. A local disk keeps the empty ones.
fn block_folders(data: &Path) -> Vec<String> {
    let has_files = |folder: &Path| std::fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some());
    let entries = std::fs::read_dir(data.join("objects/default/blocks")).expect("the store has blocks");
    let folders = entries.map(|e| e.expect("entry").path()).filter(|folder| has_files(folder));
    folders.filter_map(|folder| Some(folder.file_name()?.to_string_lossy().into_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_series_are_gone_at_once_and_then_from_storage() {
    // The out-of-order window lets the test write hours that have passed.
    let isobar = Isobar::start(&["--self-scrape.interval=0", "--web.enable-admin-api", "--compactor.interval=1h"]).await;
    let (start_ms, end_ms) = (begin_ms(8), begin_ms(8) + 2 * HOUR_MS);
    let series = |job: &str| counter(&[("__name__", "requests_total"), ("job", job)], start_ms, end_ms);
    isobar.write(vec![series("keep"), series("drop")]).await;
    let query = "count by (job) (count_over_time(requests_total[2h]))";
    assert_eq!(counts(&isobar, query, end_ms, &[]).await.len(), 2);

    for (parameters, part) in [
        (vec![], "no match[] parameter provided"),
        (vec![("match[]", "{}")], "at least one non-empty matcher"),
        (vec![("match[]", "up"), ("start", "yesterday")], "cannot parse"),
        (vec![("match[]", "up"), ("start", "2"), ("end", "1")], "end timestamp must not be before start time"),
    ] {
        let (status, body) = post(&isobar, "/api/v1/admin/tsdb/delete_series", &parameters).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert!(body["error"].as_str().is_some_and(|e| e.contains(part)), "{body}");
    }
    let (status, body) = post(&isobar, "/api/v1/admin/tsdb/delete_series", &[("match[]", "{job=\"drop\"}")]).await;
    assert_eq!(status, StatusCode::NO_CONTENT, "{body}");
    assert_eq!(counts(&isobar, query, end_ms, &[]).await, [("keep".to_owned(), 1.0)], "gone at once");
    let labels = isobar.get("/api/v1/label/job/values", &[]).await;
    assert_eq!(labels, serde_json::json!(["keep"]));
    let status = isobar.get("/api/v1/status/compactor", &[]).await;
    assert!(status["compactor"].is_object(), "{status}");
    assert_eq!(status["tombstones"][0]["match"], serde_json::json!(["{job=\"drop\"}"]), "{status}");

    // What comes later is not deleted.
    let late = [(end_ms + 1000, 1.0)];
    isobar.write(vec![wire::series(&[("__name__", "requests_total"), ("job", "drop")], &late)]).await;
    assert_eq!(counts(&isobar, query, end_ms + 2000, &[]).await.len(), 2);

    let before = isobar.get("/api/v1/status/tsdb/blocks", &[]).await;
    assert_eq!(isobar.flush().await, 204);
    let (status, body) = post(&isobar, "/api/v1/admin/tsdb/clean_tombstones", &[]).await;
    assert_eq!(status, StatusCode::NO_CONTENT, "{body}");
    let after = isobar.get("/api/v1/status/tsdb/blocks", &[]).await;
    let ids = |data: &Value| data["blocks"].as_array().expect("blocks").iter().map(|b| b["ulid"].to_string()).collect::<Vec<_>>();
    assert!(ids(&before).iter().all(|id| !ids(&after).contains(id)), "the blocks were rewritten: {before} {after}");
    let series = after["blocks"].as_array().expect("blocks").iter().filter(|b| b["resolutionMs"] == 0);
    let samples: i64 = series.map(|b| b["stats"]["numSamples"].as_i64().expect("number")).sum();
    assert_eq!(samples, (end_ms - start_ms) / STEP_MS + 1, "{after}");
    assert_eq!(counts(&isobar, query, end_ms + 2000, &[]).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_one_series_before_and_after_compaction() {
    let isobar = Isobar::start(&["--self-scrape.interval=0", "--web.enable-admin-api", "--compactor.interval=1h"]).await;
    let (start_ms, end_ms) = (begin_ms(10), begin_ms(10) + 4 * HOUR_MS);
    let gap = (start_ms + HOUR_MS)..(start_ms + 2 * HOUR_MS);
    let replica = |name: &str, shift_ms: i64| {
        let mut series = counter(&[("__name__", "requests_total"), ("job", "a"), ("prometheus_replica", name)], start_ms, end_ms);
        series.samples.retain(|s| name != "a" || !gap.contains(&s.timestamp));
        series.samples.iter_mut().for_each(|s| s.timestamp += shift_ms);
        series
    };
    isobar.write(vec![replica("a", 0)]).await;
    isobar.write(vec![replica("b", 4000)]).await;
    assert_eq!(isobar.flush().await, 204);

    let expected = (end_ms - start_ms) / STEP_MS;
    let query = "count_over_time(requests_total[4h])";
    let at_ms = end_ms - 1;
    let joined = counts(&isobar, query, at_ms, &[]).await;
    assert_eq!(joined.len(), 1, "{joined:?}");
    assert!(joined[0].0 == "a" && (joined[0].1 as i64 - expected).abs() <= 2, "{joined:?}, expected {expected}");
    let raw = counts(&isobar, query, at_ms, &[("dedup", "false")]).await;
    assert_eq!(raw.len(), 2, "{raw:?}");
    assert_eq!(isobar.get("/api/v1/labels", &[]).await, serde_json::json!(["__name__", "job"]));
    let range = format!("{}", at_ms as f64 / 1000.0);
    let rate = [("query", "rate(requests_total[5m])"), ("start", &format!("{}", start_ms / 1000)), ("end", &range), ("step", "60")];
    let before = isobar.get("/api/v1/query_range", &rate).await;

    let (status, body) = post(&isobar, "/api/v1/admin/tsdb/compact", &[]).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(body["status"], "success", "{body}");
    assert_eq!(isobar.get("/api/v1/query_range", &rate).await, before, "compaction changes no answer");
    let after = counts(&isobar, query, at_ms, &[("dedup", "false")]).await;
    assert_eq!(after, joined, "there is one copy now");
    let blocks = isobar.get("/api/v1/status/tsdb/blocks", &[]).await;
    let levels: Vec<i64> = blocks["blocks"].as_array().expect("blocks").iter().filter_map(|b| b["compaction"]["level"].as_i64()).collect();
    assert!(levels.iter().all(|level| *level > 0), "{blocks}");
    let status = isobar.get("/api/v1/status/compactor", &[]).await;
    assert_eq!((&status["plan"], status["tombstones"].as_array().map(Vec::len)), (&serde_json::json!([]), Some(0)), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_follows_a_reload() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let file = folder.path().join("isobar.yml");
    let settings =
        "compactor: {interval: 1s, delete_delay: 1s, downsampling: false}\nquery: {timeout: 1s}\nblocks: {refresh_interval: 0}\n";
    let configure = |rules: &str| std::fs::write(&file, format!("{settings}{rules}")).expect("written");
    configure("");
    let flag = format!("--config.file={}", file.display());
    let isobar = Isobar::start(&["--self-scrape.interval=0", "--web.enable-admin-api", "--web.enable-lifecycle", &flag]).await;
    let old_ms = begin_ms(100);
    let new_ms = begin_ms(60);
    isobar.write(vec![counter(&[("__name__", "a"), ("age", "old")], old_ms, old_ms + HOUR_MS)]).await;
    assert_eq!(isobar.flush().await, 204);
    let new = ["x", "y"].map(|team| counter(&[("__name__", "a"), ("age", "new"), ("team", team)], new_ms, new_ms + HOUR_MS));
    isobar.write(new.to_vec()).await;
    assert_eq!(isobar.flush().await, 204);
    let ages = async || isobar.get("/api/v1/label/age/values", &[]).await;
    assert_eq!(ages().await, serde_json::json!(["new", "old"]));

    configure("retention: {raw: 3}\n");
    let refused = isobar.client().post(isobar.url("/-/reload")).send().await.expect("isobar answers");
    assert_eq!(refused.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(refused.text().await.expect("text").contains("retention.raw: \"3\" is not a duration"));

    configure("retention: {raw: 3d, selected: [{match: '{team=\"x\"}', keep: 1d}]}\n");
    let (status, _) = post(&isobar, "/-/reload", &[]).await;
    assert_eq!(status, StatusCode::OK);
    wait_for("old blocks are gone", Duration::from_secs(60), async || (ages().await == serde_json::json!(["new"])).then_some(())).await;
    wait_for("selected series are gone", Duration::from_secs(60), async || {
        (isobar.get("/api/v1/label/team/values", &[]).await == serde_json::json!(["y"])).then_some(())
    })
    .await;
    wait_for("files of old blocks are gone", Duration::from_secs(60), async || {
        let blocks = isobar.get("/api/v1/status/tsdb/blocks", &[]).await;
        let known: Vec<&str> = blocks["blocks"].as_array()?.iter().filter_map(|b| b["ulid"].as_str()).collect();
        let folders = block_folders(isobar.data());
        (!folders.is_empty() && folders.iter().all(|folder| known.contains(&folder.as_str()))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_compacts_beside_a_server() {
    let isobar = Isobar::start(&["--self-scrape.interval=0", "--web.enable-admin-api", "--roles=ingest,query"]).await;
    let start_ms = begin_ms(12);
    for part in 0..4 {
        let from_ms = start_ms + part * HOUR_MS;
        isobar.write(vec![counter(&[("__name__", "a")], from_ms, from_ms + HOUR_MS)]).await;
        assert_eq!(isobar.flush().await, 204);
    }
    let count = async || counts(&isobar, "count_over_time(a[4h])", start_ms + 4 * HOUR_MS - 1, &[]).await;
    let before = count().await;
    let (status, body) = post(&isobar, "/api/v1/admin/tsdb/compact", &[]).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert!(body["error"].as_str().is_some_and(|e| e.contains("role compact")), "{body}");

    let plan = isobar_compact(&isobar, &["--dry-run"]);
    assert!(plan.status.success() && text(&plan.stdout).contains("compact"), "{}{}", text(&plan.stdout), text(&plan.stderr));
    let plan = isobar_compact(&isobar, &["--dry-run", "--json"]);
    let jobs: Vec<Value> = text(&plan.stdout).lines().map(|l| serde_json::from_str(l).expect("a JSON line")).collect();
    assert!(jobs.iter().any(|j| j["kind"] == "compact" && j["tenant"] == "default"), "{jobs:?}");
    assert_eq!(isobar.get("/api/v1/status/compactor", &[]).await["compactor"], Value::Null);

    let done = isobar_compact(&isobar, &[]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let again = isobar_compact(&isobar, &["--dry-run", "--json"]);
    assert_eq!(text(&again.stdout), "", "nothing is left to do");
    let blocks = isobar.get("/api/v1/status/tsdb/blocks", &[]).await;
    assert!(blocks["blocks"].as_array().expect("blocks").iter().all(|b| b["compaction"]["level"] != 0), "{blocks}");
    assert_eq!(count().await, before);
    let wrong = isobar_compact(&isobar, &["--compactor.levels=3h"]);
    assert!(!wrong.status.success() && text(&wrong.stderr).contains("compactor.levels"), "{}", text(&wrong.stderr));
}
