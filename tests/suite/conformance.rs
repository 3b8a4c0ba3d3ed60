//! The PromQL scripts of Prometheus through their runner. `conformance/expected-failures.txt` lists the cases that are known
//! to fail; it may only shrink: a case that fails without being listed fails the test, and so does a listed case that passes.

use std::collections::BTreeSet;
use std::process::Command;

use isobar_tests::isobar::Isobar;
use isobar_tests::process::{program, project, shared};
use serde_json::Value;

/// Categories of which nearly all must pass, and the share.
const MUST_PASS: &[&str] = &[
    "aggregators",
    "at_modifier",
    "collision",
    "functions",
    "histograms",
    "literals",
    "operators",
    "range_queries",
    "selectors",
    "staleness",
    "subquery",
    "trig_functions",
    "name_label_dropping",
    "limit",
];

#[tokio::test(flavor = "multi_thread")]
async fn promql_scripts() {
    let isobar = Isobar::start(&[]).await;
    let report = isobar.folder().join("report.json");
    let output = Command::new(program("python3"))
        .arg(shared().join("conformance/promqltest.py"))
        .arg("run")
        .args(["--url", &isobar.url("")])
        .args(["--files", &format!("{}/*.test", shared().join("conformance/promqltest-dev").display())])
        .arg("--json")
        .arg(&report)
        .output()
        .expect("the runner starts");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    let text = std::fs::read_to_string(&report)
        .unwrap_or_else(|e| panic!("the runner wrote no report ({e}): {}", String::from_utf8_lossy(&output.stderr)));
    let report: Value = serde_json::from_str(&text).expect("the report is JSON");

    let mut failed = BTreeSet::new();
    for file in report["files"].as_array().expect("files") {
        let name = file["file"].as_str().expect("file name").rsplit('/').next().expect("not empty").trim_end_matches(".test").to_owned();
        let (mut pass, mut fail) = (0usize, 0usize);
        for case in file["cases"].as_array().expect("cases") {
            match case["status"].as_str().expect("status") {
                "pass" => pass += 1,
                "fail" => {
                    fail += 1;
                    failed.insert(format!("{name}:{}", case["line"]));
                }
                _ => {}
            }
        }
        if MUST_PASS.contains(&name.as_str()) {
            assert!(pass * 100 >= (pass + fail) * 95, "{name}: only {pass} of {} cases pass", pass + fail);
        }
    }
    let list =
        std::fs::read_to_string(project().join("tests/conformance/expected-failures.txt")).expect("the list of expected failures is there");
    let expected: BTreeSet<String> = list.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect();
    let new: Vec<_> = failed.difference(&expected).collect();
    let gone: Vec<_> = expected.difference(&failed).collect();
    assert!(new.is_empty(), "{} cases fail that did not before: {new:?}", new.len());
    assert!(gone.is_empty(), "{} listed cases pass now, take them off the list: {gone:?}", gone.len());
}
