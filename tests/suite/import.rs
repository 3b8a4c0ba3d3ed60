//! Blocks of the real Prometheus are imported by the real binary, and both answer alike.
//!
//! Prometheus 2.42 closes ranges on the left, Prometheus 3 and Isobar leave them open there; so the queries are asked at times
//! at which no sample lies on the border of a window.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use isobar_tests::answers::{difference, series};
use isobar_tests::histogram_target::HistogramTarget;
use isobar_tests::isobar::Isobar;
use isobar_tests::process::{Process, free_port, program, wait_for};
use isobar_tests::s3::S3Server;
use serde_json::Value;

const STEP_S: i64 = 15;

/// Queries that 2.42 and 3 answer alike.
const QUERIES: &[&str] = &[
    "reqs_total",
    "count({__name__=~\".+\"})",
    "rate(reqs_total[5m])",
    "sum by (job) (rate(reqs_total[5m]))",
    "increase(reqs_total{job=\"j1\"}[20m])",
    "irate(reqs_total[2m])",
    "resets(reqs_total[1h])",
    "temp",
    "avg_over_time(temp[10m])",
    "quantile_over_time(0.9, temp[10m])",
    "stddev_over_time(temp[30m])",
    "deriv(temp[10m])",
    "topk(3, temp)",
    "max by (zone) (temp) - min by (zone) (temp)",
    "odd",
    "count_over_time(odd[30m])",
    "present_over_time(odd[3h])",
    "absent(nothing)",
    "temp offset 1h",
    "reqs_total * on (Instance) group_left () sum by (Instance) (reqs_total)",
];

/// Floats of all kinds, as OpenMetrics text; `hours` up to `end_s`.
fn text(end_s: i64, hours: i64, series: i64) -> String {
    let mut out = String::from("# HELP reqs Requests.\n# TYPE reqs counter\n");
    let times: Vec<i64> = (end_s - hours * 3600..end_s).step_by(STEP_S as usize).collect();
    for s in 0..series {
        for (i, t) in times.iter().enumerate() {
            let value = i as i64 * (s + 1) % 5000;
            out.push_str(&format!("reqs_total{{job=\"j{}\",Instance=\"i{s}\"}} {value} {t}.{s:03}\n", s % 3));
        }
    }
    out.push_str("# TYPE temp gauge\n");
    for s in 0..series {
        for t in &times {
            let value = 20.0 + 5.0 * ((t / 700 + s) as f64).sin();
            out.push_str(&format!("temp{{zone=\"z{s}\"}} {value:.3} {t}.{s:03}\n"));
        }
    }
    out.push_str("# TYPE odd gauge\n");
    for (i, t) in times.iter().enumerate().step_by(7) {
        out.push_str(&format!("odd {} {t}\n", ["NaN", "+Inf", "-Inf", "0", "-0", "1e300", "5e-324"][i % 7]));
    }
    out.push_str("# EOF\n");
    out
}

/// A time some hours ago at which a block of Prometheus ends.
fn end_s() -> i64 {
    let now_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs() as i64;
    (now_s / 7200 - 1) * 7200
}

fn run(program: &Path, args: &[&str]) -> Output {
    Command::new(program).args(args).stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{} does not start: {e}", program.display()))
}

/// Runs the binary; its output and exit code.
fn isobar(args: &[&str]) -> (String, i32) {
    let output = run(&Isobar::binary(), args);
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("output is UTF-8")).concat();
    (text, output.status.code().expect("it was not killed"))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the path is UTF-8")
}

/// Makes blocks of a text by promtool.
fn make_blocks(folder: &Path, text: &str) -> PathBuf {
    let (file, blocks) = (folder.join("text.om"), folder.join("blocks"));
    std::fs::write(&file, text).expect("text is written");
    let output = run(&program("promtool"), &["tsdb", "create-blocks-from", "openmetrics", path(&file), path(&blocks)]);
    assert!(output.status.success(), "promtool: {}", String::from_utf8_lossy(&output.stderr));
    blocks
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("folder");
    for entry in std::fs::read_dir(from).expect("folder is read") {
        let entry = entry.expect("entry");
        if entry.file_type().expect("type").is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    }
}

async fn prometheus(folder: &Path, config: &str) -> (Process, u16) {
    let port = free_port();
    std::fs::create_dir_all(folder).expect("folder for prometheus");
    std::fs::write(folder.join("prometheus.yml"), config).expect("configuration is written");
    let mut command = Command::new(program("prometheus"));
    command
        .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .args(["--web.enable-admin-api", "--enable-feature=native-histograms"])
        .current_dir(folder);
    let process = Process::spawn("prometheus", command, &folder.join("log"));
    let client = reqwest::Client::new();
    wait_for("prometheus is ready", Duration::from_secs(60), async || {
        client.get(format!("http://127.0.0.1:{port}/-/ready")).send().await.ok().filter(|a| a.status().is_success()).map(drop)
    })
    .await;
    (process, port)
}

async fn ask(port: u16, path: &str, parameters: &[(&str, String)]) -> Value {
    let url = format!("http://127.0.0.1:{port}/api/v1/{path}");
    let answer = reqwest::Client::new().get(url).query(parameters).send().await.expect("server answers");
    let answer: Value = answer.json().await.expect("the answer is JSON");
    assert_eq!(answer["status"], "success", "{parameters:?}: {answer}");
    answer["data"].clone()
}

/// Asks both servers the same, at a time and over the range before it.
async fn compare(prometheus: u16, isobar: u16, queries: &[&str], at_s: f64, range_s: f64) {
    let mut failures = Vec::new();
    for query in queries {
        let instant = ("query", vec![("query", (*query).to_owned()), ("time", format!("{at_s:.3}"))]);
        let start = ("start", format!("{:.3}", at_s - range_s));
        let range = vec![("query", (*query).to_owned()), start, ("end", format!("{at_s:.3}")), ("step", format!("{:.3}", range_s / 40.0))];
        for (path, parameters) in [instant, ("query_range", range)] {
            let expected = series(&ask(prometheus, path, &parameters).await);
            let got = series(&ask(isobar, path, &parameters).await);
            if expected.is_empty() && path == "query_range" {
                failures.push(format!("{query}: no answer, which compares nothing"));
            }
            failures.extend(difference(&expected, &got).map(|d| format!("{path} {query}: {d}")));
        }
    }
    assert!(failures.is_empty(), "{} differences:\n{}", failures.len(), failures.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn imported_blocks_answer_as_prometheus_does() {
    let server = Isobar::start(&["--self-scrape.interval=0"]).await;
    let end_s = end_s();
    let blocks = make_blocks(server.folder(), &text(end_s, 7, 12));
    copy(&blocks, &server.folder().join("prometheus/data"));
    let (_process, port) = prometheus(&server.folder().join("prometheus"), "global: {scrape_interval: 1h}\n").await;
    // The server runs meanwhile.
    let args = ["blocks", "import", "tsdb", path(&blocks), "--data", path(server.data())];
    let (output, code) = isobar(&args);
    assert_eq!(code, 0, "{output}");
    wait_for("the server sees the blocks", Duration::from_secs(60), async || {
        let count = ask(server.port(), "query", &[("query", "count(reqs_total)".into()), ("time", (end_s - 60).to_string())]).await;
        (count["result"][0]["value"][1] == "12").then_some(())
    })
    .await;
    compare(port, server.port(), QUERIES, end_s as f64 - 7.5, 6.0 * 3600.0).await;

    let list = ["blocks", "ls", "--json", "--data", path(server.data())];
    let before = isobar(&list).0;
    let (output, code) = isobar(&args);
    assert!(code == 0 && output.contains("0 blocks imported") && output.contains("BEFORE"), "{output}");
    assert_eq!(isobar(&list).0, before, "the second import changed something");
    let (output, code) = isobar(&["blocks", "verify", "--data", path(server.data())]);
    assert_eq!(code, 0, "{output}");

    // What is exported as text is what promtool made the blocks of.
    let exported = server.folder().join("exported.om");
    let (output, code) = isobar(&["blocks", "export", "--data", path(server.data()), "--format=openmetrics", "-o", path(&exported)]);
    assert_eq!(code, 0, "{output}");
    let lines = |text: &str| {
        let mut lines: Vec<(String, u64, i64)> = text.lines().filter(|l| !l.starts_with('#')).map(sample).collect();
        lines.sort();
        lines
    };
    let text = std::fs::read_to_string(server.folder().join("text.om")).expect("text");
    let (expected, got) = (lines(&text), lines(&std::fs::read_to_string(exported).expect("export")));
    assert!(expected == got, "{} samples in, {} out", expected.len(), got.len());
}

/// Series with its labels sorted, bits of the value, milliseconds.
fn sample(line: &str) -> (String, u64, i64) {
    let (rest, seconds) = line.rsplit_once(' ').expect("a time");
    let (series, value) = rest.rsplit_once(' ').expect("a value");
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let mut labels: Vec<&str> = labels.trim_end_matches('}').split(',').collect();
    labels.sort_unstable();
    let value: f64 = value.parse().expect("a number");
    let bits = if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() };
    (format!("{name}{labels:?}"), bits, (seconds.parse::<f64>().expect("seconds") * 1000.0).round() as i64)
}

#[tokio::test(flavor = "multi_thread")]
async fn native_histograms_of_a_snapshot_are_the_same() {
    let server = Isobar::start(&["--self-scrape.interval=0"]).await;
    let target = HistogramTarget::start();
    let config = format!(
        "global: {{scrape_interval: 250ms}}\nscrape_configs:\n- job_name: h\n  static_configs: [{{targets: ['127.0.0.1:{}']}}]\n",
        target.port()
    );
    let folder = server.folder().join("prometheus");
    let (_process, port) = prometheus(&folder, &config).await;
    wait_for("a reset and some scrapes after it", Duration::from_secs(120), async || {
        let scrapes = ask(port, "query", &[("query", "count_over_time(latency[10m])".into())]).await;
        let count: u64 = scrapes["result"][0]["value"][1].as_str()?.parse().ok()?;
        (count > 60).then_some(())
    })
    .await;
    let last = ask(port, "query", &[("query", "max(timestamp(latency))".into())]).await;
    let last_s: f64 = last["result"][0]["value"][1].as_str().and_then(|t| t.parse().ok()).expect("a time");
    drop(target);
    let url = format!("http://127.0.0.1:{port}/api/v1/admin/tsdb/snapshot");
    let snapshot: Value = reqwest::Client::new().post(url).send().await.expect("answers").json().await.expect("JSON");
    let snapshot = folder.join("data/snapshots").join(snapshot["data"]["name"].as_str().expect("a name"));
    let (output, code) = isobar(&["blocks", "import", "tsdb", path(&snapshot), "--data", path(server.data())]);
    assert_eq!(code, 0, "{output}");
    wait_for("the server sees the blocks", Duration::from_secs(60), async || {
        let count = ask(server.port(), "query", &[("query", "count(latency)".into()), ("time", last_s.to_string())]).await;
        (count["result"][0]["value"][1] == "1").then_some(())
    })
    .await;
    // A time between two scrapes, so that no sample lies on the border of a window.
    let at_s = last_s - 0.111;
    let queries =
        ["histogram_count(latency)", "histogram_sum(latency)", "count_over_time(latency[5s])", "up", "histogram_count(rate(latency[4s]))"];
    compare(port, server.port(), &queries, at_s, 8.0).await;
    let mut compared = 0;
    for back in 0..30 {
        let parameters = [("query", "latency".to_owned()), ("time", format!("{:.3}", at_s - f64::from(back) * 0.5))];
        let expected = numbers(&ask(port, "query", &parameters).await["result"][0]["histogram"][1]);
        let got = numbers(&ask(server.port(), "query", &parameters).await["result"][0]["histogram"][1]);
        assert!(!expected.is_empty() && expected == got, "{parameters:?}:\n{expected:?}\n{got:?}");
        compared += expected.len();
    }
    assert!(compared > 300, "{compared} numbers are no histograms");
}

/// All numbers of a histogram in the API's form.
fn numbers(value: &Value) -> Vec<f32> {
    match value {
        // Bounds are computed in two ways that differ in the last bits.
        Value::String(text) => vec![text.parse::<f64>().expect("a number") as f32],
        Value::Number(number) => vec![number.as_f64().expect("a number") as f32],
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        Value::Object(fields) => fields.values().flat_map(numbers).collect(),
        _ => Vec::new(),
    }
}

/// Samples in visible blocks.
fn samples_in(data: &Path) -> u64 {
    let (list, code) = isobar(&["blocks", "ls", "--json", "--data", path(data)]);
    assert_eq!(code, 0, "{list}");
    list.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON")["samples"].as_u64().expect("a number")).sum()
}

#[test]
fn an_import_that_was_killed_goes_on() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let text = text(end_s(), 22, 40);
    let blocks = make_blocks(folder.path(), &text);
    let data = folder.path().join("data");
    std::fs::create_dir_all(data.join("objects")).expect("folder");
    let expected = text.lines().filter(|l| !l.starts_with('#')).count() as u64;
    let args = ["blocks", "import", "tsdb", path(&blocks), "--data", path(&data)];
    let (mut interrupted, mut partial) = (0, 0);
    for round in 0..40u64 {
        let mut command = Command::new(Isobar::binary());
        let mut child = command.args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        std::thread::sleep(Duration::from_millis(10 + 13 * round % 170));
        let ended = child.try_wait().expect("can be waited for").is_some();
        child.kill().expect("can be killed");
        child.wait().expect("is waited for");
        let samples = samples_in(&data);
        assert!(samples <= expected, "{samples} samples of {expected}");
        interrupted += u32::from(!ended);
        partial += u32::from(samples > 0 && samples < expected);
        if ended {
            break;
        }
    }
    println!("{interrupted} imports were killed, {partial} times a part was there");
    assert!(interrupted > 0);
    let (output, code) = isobar(&args);
    assert_eq!(code, 0, "{output}");
    assert_eq!(samples_in(&data), expected, "{output}");
    let (output, code) = isobar(&args);
    assert!(code == 0 && output.contains("0 blocks imported"), "{output}");
    assert_eq!(samples_in(&data), expected);
    let (output, code) = isobar(&["blocks", "verify", "--data", path(&data)]);
    assert_eq!(code, 0, "{output}");
}

#[test]
fn a_damaged_block_is_named_and_the_others_are_imported() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let blocks = make_blocks(folder.path(), &text(end_s(), 6, 3));
    let victim = std::fs::read_dir(&blocks).expect("lists").next().expect("a block").expect("a block").path();
    let chunks = victim.join("chunks/000001");
    let size = std::fs::metadata(&chunks).expect("chunks").len();
    std::fs::OpenOptions::new().write(true).open(&chunks).expect("opens").set_len(size / 2).expect("is cut");
    let data = folder.path().join("data");
    let args = ["blocks", "import", "tsdb", path(&blocks), "--data", path(&data)];
    let (output, code) = isobar(&args);
    assert_eq!(code, 3, "{output}");
    assert!(output.contains(path(&chunks)) && output.contains("byte") && output.contains("cut off"), "{output}");
    assert!(output.contains("1 damaged") && !output.contains(" 0 blocks imported"), "{output}");

    let text = folder.path().join("wrong.om");
    std::fs::write(&text, "up 1 1700000000\nup x 1700000015\n# EOF\n").expect("written");
    let (output, code) = isobar(&["blocks", "import", "openmetrics", path(&text), "--data", path(&data)]);
    assert!(code == 1 && output.contains("wrong.om: line 2: \"x\" is not a number"), "{output}");
}

/// Puts the blocks of a folder into the bucket, each under an id of its own, as a sidecar of Thanos with these labels does.
async fn upload(blocks: &Path, s3: &S3Server, labels: Value, number: u32) -> usize {
    let client = reqwest::Client::new();
    let mut uploaded = 0;
    for block in std::fs::read_dir(blocks).expect("lists").map(|e| e.expect("a block").path()) {
        let name = block.file_name().and_then(|n| n.to_str()).expect("an id");
        let id = format!("{}{number:02}", &name[..name.len() - 2]);
        let mut meta: Value = serde_json::from_slice(&std::fs::read(block.join("meta.json")).expect("meta")).expect("JSON");
        meta["ulid"] = id.clone().into();
        meta["thanos"] = serde_json::json!({"version": 1, "labels": labels, "downsample": {"resolution": 0}, "source": "sidecar"});
        let file = |path: &str| std::fs::read(block.join(path)).expect("a file of the block");
        let mut files = vec![("index".to_owned(), file("index")), ("meta.json".into(), meta.to_string().into_bytes())];
        for chunks in std::fs::read_dir(block.join("chunks")).expect("lists") {
            let path = format!("chunks/{}", chunks.expect("a file").file_name().to_str().expect("a number"));
            files.push((path.clone(), file(&path)));
        }
        for (path, bytes) in files {
            let url = format!("http://127.0.0.1:{}/thanos/{id}/{path}", s3.port());
            let answer = client.put(url).body(bytes).send().await.expect("the S3 server answers");
            assert!(answer.status().is_success(), "{path}: {}", answer.status());
        }
        uploaded += 1;
    }
    uploaded
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_of_thanos_is_imported() {
    let server = Isobar::start(&["--self-scrape.interval=0"]).await;
    let s3 = S3Server::start(server.folder()).await;
    let made = reqwest::Client::new().put(format!("http://127.0.0.1:{}/thanos", s3.port())).send().await.expect("answers");
    assert!(made.status().is_success());
    let end_s = end_s();
    let blocks = make_blocks(server.folder(), &text(end_s, 7, 6));
    copy(&blocks, &server.folder().join("prometheus/data"));
    let (_process, port) = prometheus(&server.folder().join("prometheus"), "global: {scrape_interval: 1h}\n").await;
    // An HA pair with a sidecar each, and another cluster.
    let labels = |cluster: &str, replica: &str| serde_json::json!({"cluster": cluster, "prometheus_replica": replica});
    let mut number = 0;
    for (i, (cluster, replica)) in [("eu", "a"), ("eu", "b"), ("us", "a")].into_iter().enumerate() {
        number += upload(&blocks, &s3, labels(cluster, replica), i as u32).await;
    }
    let config = std::fs::read_to_string(s3.write_config(server.folder(), s3.port())).expect("is there");
    let bucket = server.folder().join("thanos.yml");
    std::fs::write(&bucket, config.replace("bucket: metrics", "bucket: thanos")).expect("is written");
    let args = ["blocks", "import", "tsdb", "--from.config-file", path(&bucket), "--data", path(server.data())];
    let (output, code) = isobar(&args);
    assert!(code == 0 && output.contains(&format!("{number} blocks imported")), "{output}");
    wait_for("the server sees the blocks", Duration::from_secs(60), async || {
        let count = ask(server.port(), "query", &[("query", "count(reqs_total)".into()), ("time", (end_s - 60).to_string())]).await;
        (count["result"][0]["value"][1] == "12").then_some(())
    })
    .await;
    let (at_s, range_s) = (end_s as f64 - 7.5, 6.0 * 3600.0);
    let mut compared = 0;
    for query in [
        "reqs_total",
        "rate(reqs_total[5m])",
        "sum by (cluster, job) (rate(reqs_total[5m]))",
        "resets(reqs_total[1h])",
        "temp",
        "quantile_over_time(0.9, temp[10m])",
        "odd",
        "count_over_time(odd[30m])",
    ] {
        let parameters = |query: String| {
            let [start, end, step] = [at_s - range_s, at_s, range_s / 40.0].map(|n| format!("{n:.3}"));
            [("query", query), ("start", start), ("end", end), ("step", step)]
        };
        for cluster in ["eu", "us"] {
            // Prometheus does not know the labels that its sidecar adds.
            let expected = format!("label_replace({query}, \"cluster\", \"{cluster}\", \"\", \"\")");
            let expected = series(&ask(port, "query_range", &parameters(expected)).await);
            let got = series(&ask(server.port(), "query_range", &parameters(query.to_owned())).await);
            let of_cluster = got.into_iter().filter(|(labels, _)| labels.contains(&format!("\"cluster\":\"{cluster}\""))).collect();
            assert!(!expected.is_empty(), "{query} compares nothing");
            assert_eq!(difference(&expected, &of_cluster), None, "{query} of {cluster}");
            compared += expected.len();
        }
    }
    println!("{number} blocks, {compared} series compared");
    let (output, code) = isobar(&args);
    assert!(code == 0 && output.contains("0 blocks imported") && output.contains(&format!("{number} imported before")), "{output}");
}
