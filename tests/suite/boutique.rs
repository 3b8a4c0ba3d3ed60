//! The Online Boutique, told by its own programs and files alone: spans of the OpenTelemetry SDK, runs of the OpenLineage client,
//! Kubernetes manifests, a Backstage catalog, a dbt project. Then `payment` is down.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use isobar_tests::isobar::Isobar;
use isobar_tests::process::{project, wait_for};
use serde_json::Value;

/// Windows of traces are short, so that the graph is there soon.
const RULES: &str = "traces: {wait: 2s, flush_interval: 1s}\n";

fn files() -> PathBuf {
    project().join("tests/suite/boutique")
}

fn run(mut command: Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

fn isobar_lineage(isobar: &Isobar, args: &[&str]) -> String {
    let mut command = Command::new(Isobar::binary());
    command.arg("lineage").args(args).args(["--server", &isobar.url("")]);
    run(command)
}

/// The manifest that dbt itself writes of the project.
fn dbt_manifest(folder: &Path) -> PathBuf {
    let dbt = project().join("target/dbt-venv/bin/dbt");
    assert!(dbt.is_file(), "dbt is not there; `tests/run` installs it");
    let mut command = Command::new(dbt);
    command.args(["parse", "--profiles-dir", ".", "--target-path"]).arg(folder).arg("--log-path").arg(folder);
    run_in(command, &files().join("dbt"));
    folder.join("manifest.json")
}

fn run_in(mut command: Command, folder: &Path) -> String {
    command.current_dir(folder).env("DO_NOT_TRACK", "1");
    run(command)
}

async fn shop() -> Isobar {
    let folder = tempfile::tempdir().expect("a folder");
    let rules = folder.path().join("lineage.yml");
    std::fs::write(&rules, RULES).expect("is written");
    let isobar = Isobar::start(&["--self-scrape.interval=0", &format!("--lineage.config-file={}", rules.display())]).await;
    let files = files();
    let path = |name: &str| files.join(name).display().to_string();
    isobar_lineage(&isobar, &["import", &path("kubernetes.yaml"), &path("catalog-info.yaml"), &path("classes.yaml")]);
    let manifest = dbt_manifest(&isobar.folder().join("dbt"));
    isobar_lineage(&isobar, &["import", &manifest.display().to_string(), "--dbt-namespace", "postgres://warehouse:5432"]);
    let mut clients = Command::new("python3");
    clients.arg(path("clients.py")).arg(isobar.url(""));
    run(clients);
    wait_for("the call of checkout to payment to be seen", Duration::from_secs(30), async || {
        let node = isobar.get("/api/v1/lineage/neighbours", &[("node", "service:shop/payment")]).await;
        let callers = node["dependents"].as_array()?;
        let call = callers.iter().find(|e| e["from"] == "service:shop/checkout")?;
        call["evidence"].as_array()?.contains(&Value::from("observed")).then_some(())
    })
    .await;
    isobar
}

#[tokio::test(flavor = "multi_thread")]
async fn payment_is_down_in_the_shop() {
    let isobar = shop().await;
    let blast = isobar.get("/api/v1/lineage/blast-radius", &[("node", "service:shop/payment"), ("limit", "200")]).await;
    println!("{}", isobar_lineage(&isobar, &["status"]));
    println!("{}", isobar_lineage(&isobar, &["blast-radius", "service:shop/payment"]));
    assert_eq!(blast["complete"], true, "{}", blast["unresolved"]);
    let impacts: BTreeMap<&str, &Value> =
        blast["impacts"].as_array().expect("a list").iter().map(|i| (i["node"]["id"].as_str().expect("an id"), i)).collect();
    let of = |id: &str, what: &str| {
        let impact = impacts.get(id).unwrap_or_else(|| panic!("{id} is not touched, but {:?} are", impacts.keys()));
        impact[what].as_f64().unwrap_or_else(|| panic!("{impact}"))
    };
    assert!(of("service:shop/checkout", "errors") > 0.95, "checkout cannot do without payment");
    let frontend = of("service:shop/frontend", "errors");
    // The share is taken from 128 traces.
    assert!((0.1..0.4).contains(&frontend), "one request in four of the frontend is a checkout, not {frontend}");
    let payments = "dataset:postgres:%2F%2Fledger:5432/shop.public.payments";
    let revenue = "dataset:postgres:%2F%2Fwarehouse:5432/shop.marts.revenue";
    for table in [payments, "dataset:postgres:%2F%2Fwarehouse:5432/shop.raw.payments", revenue] {
        assert!(of(table, "staleness") > 0.9 && of(table, "errors") < 0.5, "{table} is late and does not fail");
    }
    let raw_orders = impacts.get("dataset:postgres:%2F%2Fwarehouse:5432/shop.raw.orders");
    let orders_late = raw_orders.map_or(0.0, |i| i["staleness"].as_f64().unwrap_or(0.0));
    assert!(orders_late > 0.5, "orders come from checkout by a topic");
    let kinds: Vec<&str> = blast["by_kind"].as_array().expect("a list").iter().filter_map(|s| s["name"].as_str()).collect();
    for kind in ["service", "dataset", "job", "application", "project", "dashboard", "interface"] {
        assert!(kinds.contains(&kind), "{kind} is not among {kinds:?}");
    }
    let owners = blast["by_owner"].to_string();
    for owner in ["orders", "web", "finance", "data-platform"] {
        assert!(owners.to_lowercase().contains(owner), "{owner} is not among {owners}");
    }
    let reason = impacts[revenue]["path"].as_array().expect("a path");
    assert_eq!(reason[0]["provider"], "service:shop/payment");
    assert_eq!(reason.last().expect("has steps")["dependent"], revenue);

    let dot = isobar_lineage(&isobar, &["graph", "--dot", "--limit", "300", "--failed", "service:shop/payment", "--depth", "8"]);
    assert!(dot.contains("service:shop/payment") && dot.contains("#d03030") && dot.trim_end().ends_with('}'), "{dot}");
    if let Some(folder) = std::env::var_os("SHOW_FOLDER") {
        std::fs::write(Path::new(&folder).join("boutique.dot"), dot).expect("is written");
        std::fs::write(Path::new(&folder).join("boutique.json"), serde_json::to_vec_pretty(&blast).expect("JSON")).expect("is written");
    }
}
