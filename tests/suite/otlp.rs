//! The unmodified OpenTelemetry SDK for Python exports to Isobar; names and values are those of Prometheus's rules.

use std::process::Command;

use isobar_tests::isobar::Isobar;
use isobar_tests::process::{program, project};

#[tokio::test(flavor = "multi_thread")]
async fn the_opentelemetry_sdk_writes() {
    let isobar = Isobar::start(&["--self-scrape.interval=0"]).await;
    let script = project().join("tests/suite/otlp_client.py");
    let output = Command::new(program("python")).arg(script).arg(isobar.url("/api/v1/otlp/v1/metrics")).output().expect("python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let names = isobar.get("/api/v1/label/__name__/values", &[]).await;
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
    for (query, expected) in [
        ("http_requests_total{http_method=\"GET\", job=\"shop/checkout\", instance=\"i-1\"}", 3.0),
        ("sum(http_requests_total)", 7.0),
        ("queue_depth_ratio", 12.5),
        ("http_duration_seconds_count", 4.0),
        ("http_duration_seconds_bucket{le=\"+Inf\"}", 4.0),
        ("http_duration_seconds_bucket{le=\"5.0\"} or http_duration_seconds_bucket{le=\"5\"}", 3.0),
        ("histogram_count(payload_size_bytes)", 4.0),
        ("histogram_sum(payload_size_bytes)", 7410.0),
        ("target_info{job=\"shop/checkout\"}", 1.0),
    ] {
        let result = isobar.query(query, now_s).await;
        let value: f64 =
            result[0]["value"][1].as_str().and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("{query}: {result}; names: {names}"));
        assert!((value - expected).abs() < 1e-9, "{query}: {value} instead of {expected}");
    }
    let metadata = isobar.get("/api/v1/metadata", &[("metric", "http_requests_total")]).await;
    assert_eq!(metadata["http_requests_total"][0]["type"], "counter", "{metadata}");
}
