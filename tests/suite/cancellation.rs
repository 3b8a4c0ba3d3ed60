//! A query that nobody waits for any more stops using the processor.

use std::time::{Duration, Instant};

use isobar_tests::isobar::Isobar;
use isobar_tests::wire;

/// Series and samples of each, so that the query below takes seconds.
const SERIES: usize = 10_000;
const SAMPLES: i64 = 240;

fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("process is there");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    fields[11].parse::<u64>().expect("user time") + fields[12].parse::<u64>().expect("system time")
}

const HEAVY: &str = "sum(quantile_over_time(0.5, rate(cancel_test[5m])[1h:1s]))";

async fn filled() -> (Isobar, i64) {
    let isobar = Isobar::start(&[]).await;
    let base_ms = 1_700_000_000_000;
    for from in (0..SERIES).step_by(500) {
        let series = (from..from + 500).map(|s| {
            let samples: Vec<(i64, f64)> = (0..SAMPLES).map(|i| (base_ms + i * 15_000, (i * s as i64) as f64)).collect();
            wire::series(&[("__name__", "cancel_test"), ("series", &s.to_string())], &samples)
        });
        isobar.write(series.collect()).await;
    }
    (isobar, base_ms / 1000)
}

#[tokio::test(flavor = "multi_thread")]
async fn timeouts_and_disconnects_stop_the_work() {
    let (isobar, start_s) = filled().await;
    let range = [
        ("query", HEAVY.to_owned()),
        ("start", (start_s + 1800).to_string()),
        ("end", (start_s + 3600).to_string()),
        ("step", "10".to_owned()),
    ];

    let begun = Instant::now();
    let answer = isobar
        .client()
        .get(isobar.url("/api/v1/query_range"))
        .query(&range)
        .query(&[("timeout", "200ms")])
        .send()
        .await
        .expect("isobar answers");
    assert_eq!(answer.status(), 503, "a timeout is 503");
    let body: serde_json::Value = answer.json().await.expect("JSON");
    assert_eq!(body["errorType"], "timeout", "{body}");
    assert!(begun.elapsed() < Duration::from_millis(600), "the timeout of 200 ms took {:?}", begun.elapsed());
    assert_idle(&isobar).await;

    let request = isobar.client().get(isobar.url("/api/v1/query_range")).query(&range).send();
    assert!(tokio::time::timeout(Duration::from_millis(300), request).await.is_err(), "the query is too light for this test");
    assert_idle(&isobar).await;
}

/// Within 100 ms of the end of the wait the process does next to nothing for half a second.
async fn assert_idle(isobar: &Isobar) {
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = cpu_ticks(isobar.pid());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let used = cpu_ticks(isobar.pid()) - before;
    assert!(used <= 10, "the query goes on: {used} ticks of processor time in 500 ms");
}
