//! Buckets of downsampled blocks as others read them: DuckDB and pandas, without any code of ours.

use std::path::Path;
use std::process::Command;

use isobar_tests::isobar::Isobar;
use isobar_tests::process::program;
use isobar_tests::wire;
use serde_json::{Value, json};

const SERIES: i64 = 20;
const STEP_MS: i64 = 60_000;
const HOUR_MS: i64 = 3_600_000;
const SPAN_MS: i64 = 48 * HOUR_MS;

/// What somebody who has only DuckDB asks, and the same of pandas.
const SCRIPT: &str = r#"
import duckdb, json, pandas, sys
folder = sys.argv[1]
rows = duckdb.sql(f"""
    SELECT s."l:series" AS number, count(*) AS buckets, sum(r.count)::BIGINT AS samples, sum(r.sum) AS total, min(r.min) AS least,
           max(r.max) AS most, sum(r.increase) AS increase, max(r.last_ms) AS last_ms, min(r.bucket_ms) AS first_bucket_ms
    FROM '{folder}/rollup.parquet' r JOIN read_parquet('{folder}/series.parquet', file_row_number = true) s
      ON s.file_row_number = r.series
    WHERE s."l:__name__" = 'rollup_test_total' GROUP BY s."l:series"
""").fetchall()
rows.sort(key=lambda row: int(row[0]))
frame = pandas.read_parquet(f"{folder}/rollup.parquet")
print(json.dumps({"rows": rows, "pandas": [len(frame), int(frame["count"].sum()), float(frame["max"].max())]}))
"#;

/// A counter that starts again from 0 every 500 steps.
fn value(step: i64, series: i64) -> f64 {
    (step % 500 * (series + 1)) as f64
}

fn read_with_duckdb(folder: &Path) -> Value {
    let output = Command::new(program("python")).args(["-c", SCRIPT]).arg(folder).output().expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the script prints JSON")
}

/// A server with a span that is compacted and downsampled, and where it begins.
async fn downsampled() -> (Isobar, i64) {
    let isobar = Isobar::start(&["--web.enable-admin-api", "--self-scrape.interval=0", "--compactor.interval=1h"]).await;
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    let base_ms = (now_ms - SPAN_MS - 4 * HOUR_MS) / SPAN_MS * SPAN_MS;
    let steps = SPAN_MS / STEP_MS;
    for from in (0..steps).step_by(720) {
        let series = (0..SERIES).map(|s| {
            let samples: Vec<(i64, f64)> = (from..from + 720).map(|step| (base_ms + step * STEP_MS, value(step, s))).collect();
            wire::series(&[("__name__", "rollup_test_total"), ("series", &s.to_string())], &samples)
        });
        isobar.write(series.collect()).await;
    }
    assert_eq!(isobar.flush().await / 100, 2, "flush");
    compact(&isobar).await;
    (isobar, base_ms)
}

async fn compact(isobar: &Isobar) {
    let compacted = isobar.client().post(isobar.url("/api/v1/admin/tsdb/compact")).send().await.expect("isobar answers");
    assert!(compacted.status().is_success(), "compact answered {}", compacted.status());
}

/// What the catalog says of all blocks.
fn listed(isobar: &Isobar) -> Vec<Value> {
    let listed = Command::new(Isobar::binary()).args(["blocks", "ls", "--json", "--data"]).arg(isobar.data()).output().expect("runs");
    String::from_utf8_lossy(&listed.stdout).lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
}

/// Numbers of the series with samples from buckets of an hour, as far as there are such, and what is said of the answer.
async fn series_by_hour(isobar: &Isobar, base_ms: i64) -> (Vec<i64>, String) {
    let at_s = (base_ms + SPAN_MS) as f64 / 1000.0;
    let query = [("query", "sum by (series) (count_over_time(rollup_test_total[1d]))"), ("time", &at_s.to_string())];
    let request = isobar.client().get(isobar.url("/api/v1/query")).query(&query).query(&[("max_source_resolution", "1h")]);
    let answer: Value = request.send().await.expect("isobar answers").json().await.expect("JSON");
    let series = answer["data"]["result"].as_array().unwrap_or_else(|| panic!("{answer}")).iter();
    let mut numbers: Vec<i64> = series.map(|s| s["metric"]["series"].as_str().and_then(|n| n.parse().ok()).expect("a number")).collect();
    numbers.sort_unstable();
    (numbers, answer["warnings"].to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_from_raw_blocks_is_not_in_answers_from_buckets() {
    let (mut isobar, base_ms) = downsampled().await;
    let (series, notes) = series_by_hour(&isobar, base_ms).await;
    assert!(series.len() == SERIES as usize && notes.contains("1h downsampled"), "{series:?} {notes}");
    isobar.stop();
    let raw: Vec<Value> = listed(&isobar).into_iter().filter(|b| b["resolution_ms"] == 0).collect();
    let mut command = Command::new(Isobar::binary());
    command.args(["blocks", "rewrite", "--drop", "{series=~\"[3-9]|1.\"}", "--data"]).arg(isobar.data());
    let output = command.args(raw.iter().map(|b| b["ulid"].as_str().expect("ulid"))).output().expect("runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("buckets of 60 min, 17 of 20 series dropped"), "{text}");
    isobar.launch().await;
    // The server's compactor may be making the buckets anew already.
    let (series, notes) = series_by_hour(&isobar, base_ms).await;
    assert_eq!(series, [0, 1, 2], "{notes}");
    compact(&isobar).await;
    let (series, notes) = series_by_hour(&isobar, base_ms).await;
    assert!(series == [0, 1, 2] && notes.contains("1h downsampled"), "{series:?} {notes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn duckdb_and_pandas_read_buckets() {
    let (mut isobar, base_ms) = downsampled().await;
    let steps = SPAN_MS / STEP_MS;
    let at_s = (base_ms + SPAN_MS) as f64 / 1000.0;
    let answer = isobar
        .client()
        .get(isobar.url("/api/v1/query"))
        .query(&[("query", "sum(increase(rollup_test_total[1d]))"), ("time", &at_s.to_string()), ("max_source_resolution", "1h")])
        .send()
        .await
        .expect("isobar answers");
    let answer: Value = answer.json().await.expect("JSON");
    assert!(answer["warnings"][0].as_str().is_some_and(|w| w.contains("1h downsampled")), "a warning names the resolution: {answer}");
    isobar.stop();

    let blocks = listed(&isobar);
    for resolution_ms in [300_000, HOUR_MS] {
        let block = blocks.iter().find(|b| b["resolution_ms"] == resolution_ms).unwrap_or_else(|| panic!("no rollup: {blocks:?}"));
        let folder = isobar.data().join("objects/default/blocks").join(block["ulid"].as_str().expect("ulid"));
        let read = read_with_duckdb(&folder);
        let buckets = SPAN_MS / resolution_ms;
        let expected: Vec<Value> = (0..SERIES)
            .map(|s| {
                let values = || (0..steps).map(|step| value(step, s));
                let increase: f64 = (1..steps)
                    .map(|step| if value(step, s) >= value(step - 1, s) { value(step, s) - value(step - 1, s) } else { value(step, s) })
                    .sum();
                let (most, last_ms) = (values().fold(0.0, f64::max), base_ms + (steps - 1) * STEP_MS);
                json!([s.to_string(), buckets, steps, values().sum::<f64>(), 0.0, most, increase, last_ms, base_ms])
            })
            .collect();
        assert_eq!(read["rows"], Value::from(expected), "{resolution_ms} ms");
        assert_eq!(read["pandas"], json!([buckets * SERIES, steps * SERIES, value(499, SERIES - 1)]), "{resolution_ms} ms");
    }
}
