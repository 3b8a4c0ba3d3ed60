//! `isobar lineage import` and the watched folder, through the real binary: manifests, units, catalogs, a dbt manifest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use isobar_tests::isobar::Isobar;
use isobar_tests::process::{project, wait_for};
use serde_json::Value;

const ARGS: &[&str] = &["--self-scrape.interval=0"];

fn fixtures() -> PathBuf {
    project().join("tests/suite/fixtures/lineage")
}

fn import(isobar: &Isobar, folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(Isobar::binary());
    command.current_dir(folder).args(["lineage", "import", "--server", &isobar.url("")]).args(args);
    command.output().expect("starts")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

async fn node(isobar: &Isobar, id: &str) -> Option<Value> {
    let answer = isobar.client().get(isobar.url("/api/v1/lineage/neighbours")).query(&[("node", id)]).send().await.expect("answers");
    if answer.status().as_u16() == 404 {
        return None;
    }
    let answer: Value = answer.json().await.expect("is JSON");
    assert_eq!(answer["status"], "success", "{answer}");
    Some(answer["data"].clone())
}

async fn providers(isobar: &Isobar, id: &str) -> Vec<String> {
    let node = node(isobar, id).await.unwrap_or_else(|| panic!("{id} is not in the graph"));
    let list = node["providers"].as_array().unwrap_or_else(|| panic!("{node}"));
    list.iter().map(|e| e["to"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_graph_of_manifests_units_catalogs_and_dbt() {
    let isobar = Isobar::start(ARGS).await;
    let said = import(&isobar, &fixtures(), &["kubernetes", "knative", "backstage", "own"]);
    assert!(said.status.success(), "{}", text(&said));
    for line in ["shop.yaml", "kubernetes: 4 files, 0 failed", "backstage: 2 files, 0 failed", "is no node id"] {
        assert!(text(&said).contains(line), "{line} is not in {}", text(&said));
    }
    let said = import(&isobar, &fixtures(), &["dbt", "--dbt-namespace", "postgres://ledger-db:5432", "--json"]);
    let report: Value = serde_json::from_slice(&said.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&said)));
    assert_eq!((&report["files"][0]["format"], &report["files"][0]["edges"]), (&Value::from("dbt"), &Value::from(23)));
    for (folder, host) in [("systemd/system", "web-1"), ("fleet", "web-2")] {
        let said = import(&isobar, &fixtures(), &[folder, "--host", host]);
        assert!(said.status.success(), "{}", text(&said));
    }

    // The catalog's component, the Deployment, the Service and the name in traces are one node.
    let payment = node(&isobar, "service:payment-service").await.expect("there");
    for name in ["service:shop/payment", "workload:shop/paymentservice", "service:shop/paymentservice", "service:paymentservice"] {
        assert_eq!(node(&isobar, name).await.expect(name)["node"]["id"], payment["node"]["id"], "{name}");
    }
    let needs = providers(&isobar, "service:payment-service").await;
    for wanted in ["service:shop/ledger-db", "database:ledger", "service:risk/fraud", "config:shop/secret/psp"] {
        assert!(needs.iter().any(|n| n == wanted), "{wanted} is not in {needs:?}");
    }
    let answer = isobar.get("/api/v1/lineage/blast-radius", &[("node", "host:node-a"), ("node", "host:node-b")]).await;
    let impacts = answer["impacts"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let of = |id: &str| impacts.iter().find(|i| i["node"]["id"] == id);
    // Two of three pods are needed, and one is left; both pods of the frontend are gone, and it should have three.
    assert!(of("service:payment-service").or(of("service:shop/paymentservice")).is_some(), "{answer}");
    assert!(of("application:online-boutique").is_some(), "{answer}");
    assert!(
        node(&isobar, "workload:web-1/shop-api.service").await.is_some() && node(&isobar, "workload:web-2/web@1.service").await.is_some()
    );
    let table = "dataset:postgres:%2F%2Fledger-db:5432/shop.main.revenue";
    assert_eq!(providers(&isobar, "dashboard:shop/revenue_dashboard").await, [table]);
}

#[tokio::test(flavor = "multi_thread")]
async fn importing_again_takes_out_what_vanished() {
    let isobar = Isobar::start(ARGS).await;
    let folder = isobar.folder().join("repo");
    fs::create_dir_all(folder.join("deploy")).expect("made");
    let write = |name: &str, content: &str| fs::write(folder.join("deploy").join(name), content).expect("written");
    write("a.yaml", "nodes: [{id: 'service:a', depends_on: ['service:x']}]");
    write("b.yaml", "nodes: [{id: 'service:b'}]");
    let said = import(&isobar, &folder, &["deploy", "--dry-run"]);
    assert!(said.status.success() && text(&said).contains("would be imported"), "{}", text(&said));
    assert!(node(&isobar, "service:a").await.is_none());

    assert!(import(&isobar, &folder, &["deploy"]).status.success());
    assert!(node(&isobar, "service:x").await.is_some());
    write("a.yaml", "nodes: [{id: 'service:a', depends_on: [");
    fs::remove_file(folder.join("deploy/b.yaml")).expect("removed");
    let said = import(&isobar, &folder, &["deploy"]);
    assert_eq!(said.status.code(), Some(1), "{}", text(&said));
    assert!(text(&said).contains("error: a.yaml: ") && text(&said).contains("1 withdrawn"), "{}", text(&said));
    assert!(node(&isobar, "service:x").await.is_some(), "what cannot be read stays");
    assert!(node(&isobar, "service:b").await.is_none());
    let said = import(&isobar, &folder, &["nothing"]);
    assert!(!said.status.success() && text(&said).contains("nothing"), "{}", text(&said));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_watched() {
    let files = tempfile::tempdir().expect("a folder");
    fs::create_dir(files.path().join("manifests")).expect("made");
    let write = |content: &str| fs::write(files.path().join("manifests/shop.yaml"), content).expect("written");
    fs::write(files.path().join("lineage.yml"), "watch: {path: manifests, interval: 1s, name: shop}\n").expect("written");
    write("nodes: [{id: 'service:a'}, {id: 'service:b'}]");
    let config = format!("--lineage.config-file={}", files.path().join("lineage.yml").display());
    let isobar = Isobar::start(&[ARGS[0], &config]).await;
    let wait = Duration::from_secs(30);
    wait_for("the first import", wait, async || node(&isobar, "service:b").await.is_some().then_some(())).await;
    write("nodes: [{id: 'service:a'}]");
    wait_for("the withdrawal", wait, async || node(&isobar, "service:b").await.is_none().then_some(())).await;
    write("nodes: [{id: a}]");
    let failed = async || {
        let answer = isobar.get("/api/v1/lineage/import", &[]).await;
        answer["imported"]["files"][0]["error"].as_str().is_some_and(|e| e.contains("no node id")).then_some(())
    };
    wait_for("the error in the status", wait, failed).await;
    assert!(node(&isobar, "service:a").await.is_some(), "what cannot be read stays");
    let metrics = isobar.client().get(isobar.url("/metrics")).send().await.expect("answers").text().await.expect("text");
    assert!(metrics.contains("isobar_lineage_watch_files{result=\"failure\"} 1"), "the error in the metrics");
}
