//! Events of the unmodified OpenLineage client, read back by the unmodified client of Marquez, before and after a `kill -9`.

use std::path::Path;
use std::process::Command;

use isobar_tests::isobar::Isobar;
use isobar_tests::process::{program, project};
use serde_json::{Value, json};

const DB: &str = "postgres://warehouse:5432";

/// Runs a script against the server and returns what it printed.
fn script(isobar: &Isobar, name: &str) -> Vec<u8> {
    let script = project().join(Path::new("tests/suite").join(name));
    let output = Command::new(program("python")).arg(script).arg(isobar.url("")).output().expect("python starts");
    assert!(output.status.success(), "{name}: {}\n{}", String::from_utf8_lossy(&output.stderr), isobar.output());
    output.stdout
}

fn read(isobar: &Isobar) -> Value {
    serde_json::from_slice(&script(isobar, "marquez_read.py")).expect("JSON")
}

fn texts<'a>(list: &'a Value, name: &str) -> Vec<&'a str> {
    let mut texts: Vec<&str> = list.as_array().expect("a list").iter().map(|v| v[name].as_str().expect("a text")).collect();
    texts.sort_unstable();
    texts
}

fn node<'a>(graph: &'a Value, id: &str) -> &'a Value {
    graph["graph"].as_array().expect("a list").iter().find(|n| n["id"] == id).unwrap_or_else(|| panic!("{id} is not in {graph}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_marquez_client_reads_what_the_openlineage_client_has_sent() {
    let mut isobar = Isobar::start(&["--self-scrape.interval=0"]).await;
    script(&isobar, "marquez_send.py");
    let answers = read(&isobar);
    lists(&answers);
    lineage(&answers);
    runs(&answers);
    others(&answers);
    isobar.kill();
    isobar.launch().await;
    let mut again = read(&isobar);
    // Hours pass.
    again["stats"] = answers["stats"].clone();
    for (name, answer) in answers.as_object().expect("an object") {
        assert_eq!(&again[name], answer, "{name} after a kill -9");
    }
}

fn lists(answers: &Value) {
    assert_eq!(
        texts(&answers["namespaces"]["namespaces"], "name"),
        ["airflow-prod", "kafka://broker:9092", DB, "s3://archive", "s3://landing"]
    );
    assert_eq!((&answers["namespace"]["name"], &answers["namespace"]["isHidden"]), (&json!(DB), &json!(false)));
    let jobs = &answers["jobs"];
    assert_eq!((texts(&jobs["jobs"], "name"), jobs["totalCount"].as_u64()), (vec!["copy", "daily"], Some(6)));
    assert_eq!(texts(&answers["datasets"]["datasets"], "name"), ["shop.audit.orders", "shop.public.orders", "shop.public.revenue"]);
    let orders = &answers["dataset"];
    assert_eq!(orders["id"], json!({"namespace": DB, "name": "shop.public.orders"}));
    assert_eq!(
        orders["fields"],
        json!([
            {"name": "id", "type": "BIGINT", "tags": [], "description": null},
            {"name": "amount", "type": "NUMERIC", "tags": [], "description": "in euros"},
        ])
    );
    assert_eq!((&orders["tags"], &orders["description"]), (&json!(["tier:gold"]), &json!("All orders")));
    assert_eq!(orders["currentVersion"], answers["versions"]["versions"][0]["version"]);
    assert_eq!(answers["slashes"]["name"], "raw/orders.csv");
    let load = &answers["job"];
    assert_eq!((&load["simpleName"], &load["parentJobName"]), (&json!("load"), &json!("daily")));
    assert_eq!((&load["location"], &load["latestRun"]["state"]), (&json!("https://git.example.org/load.sql"), &json!("COMPLETED")));
    assert_eq!(load["inputs"], json!([{"namespace": "s3://landing", "name": "raw/orders.csv"}]));
    assert!(load["facets"]["sql"]["query"].as_str().is_some_and(|q| q.starts_with("COPY")), "{load}");
    assert_eq!(texts(&answers["tags"]["tags"], "name"), ["tier:gold"]);
    assert_eq!((&answers["source"]["type"], &answers["source"]["connectionUrl"]), (&json!("POSTGRES"), &json!(DB)));
    assert_eq!(texts(&answers["sources"]["sources"], "name").len(), 4);
}

fn lineage(answers: &Value) {
    let revenue = format!("dataset:{DB}:shop.public.revenue");
    let orders = format!("dataset:{DB}:shop.public.orders");
    let mut expected = vec![
        revenue.as_str(),
        &orders,
        "dataset:kafka://broker:9092:revenue",
        "dataset:s3://landing:raw/orders.csv",
        "job:airflow-prod:daily.load",
        "job:airflow-prod:daily.publish",
        "job:airflow-prod:daily.revenue",
    ];
    expected.sort_unstable();
    assert_eq!(texts(&answers["lineage"]["graph"], "id"), expected, "without what only shares an input");
    let job = node(&answers["lineage"], "job:airflow-prod:daily.revenue");
    assert_eq!(job["inEdges"], json!([{"origin": orders, "destination": "job:airflow-prod:daily.revenue"}]));
    assert_eq!(job["outEdges"], json!([{"origin": "job:airflow-prod:daily.revenue", "destination": revenue}]));
    assert_eq!(node(&answers["lineage"], "dataset:kafka://broker:9092:revenue")["data"]["type"], "STREAM");
    assert!(!texts(&answers["near"]["graph"], "id").contains(&"job:airflow-prod:daily.load"));

    let total = format!("datasetField:{DB}:shop.public.revenue:total");
    let amount = format!("datasetField:{DB}:shop.public.orders:amount");
    assert_eq!(texts(&answers["columns_of_field"]["graph"], "id"), [&amount, &total]);
    assert_eq!(texts(&answers["columns_of_job"]["graph"], "id"), [&amount, &total]);
    assert!(texts(&answers["columns_of_dataset"]["graph"], "id").contains(&total.as_str()));
    let input = &node(&answers["columns_of_field"], &total)["data"]["inputFields"][0];
    assert_eq!((&input["field"], &input["transformationDescription"]), (&json!("amount"), &json!("sum(amount)")));
}

fn runs(answers: &Value) {
    let runs = &answers["runs"];
    assert_eq!(runs["totalCount"], 2);
    let states: Vec<&Value> = runs["runs"].as_array().expect("a list").iter().map(|r| &r["state"]).collect();
    assert_eq!(states, ["FAILED", "COMPLETED"], "the newest first");
    let run = &answers["run"];
    assert_eq!((&run["id"], &run["durationMs"]), (&json!("01a200c5-b4cc-774c-bb18-000000000002"), &json!(300_000)));
    assert_eq!(run["inputVersions"][0]["version"], answers["versions"]["versions"][0]["version"]);
    assert_eq!(run["args"]["run_id"], "01a200c5-b4cc-774c-bb18-0000000000ff");
    assert_eq!(answers["version"], answers["versions"]["versions"][0]);
    assert_eq!(answers["version"]["createdByRun"]["id"], "01a200c5-b4cc-774c-bb18-000000000001");
    let upstream: Vec<&Value> = answers["upstream"]["runs"].as_array().expect("a list").iter().map(|r| &r["job"]["name"]).collect();
    assert_eq!(upstream, ["daily.revenue", "daily.load"]);
    assert!(answers["facets"]["facets"]["parent"].is_object(), "{}", answers["facets"]);
}

fn others(answers: &Value) {
    let events = &answers["events"];
    assert_eq!((events["totalCount"].as_u64(), events["events"].as_array().map(Vec::len)), (Some(12), Some(5)));
    assert_eq!(events["events"][0]["eventType"], "FAIL");
    assert_eq!(events["events"][0]["producer"], "https://example.org/warehouse", "as it came");
    assert_eq!(
        texts(&answers["search"]["results"], "nodeId"),
        [
            format!("dataset:{DB}:shop.audit.orders").as_str(),
            &format!("dataset:{DB}:shop.public.orders"),
            "dataset:s3://archive:2026/orders.csv",
            "dataset:s3://landing:raw/orders.csv",
        ]
    );
    assert_eq!(texts(&answers["search_jobs"]["hits"], "name"), ["copy", "daily.load"], "by name and in the SQL");
    assert_eq!(texts(&answers["search_datasets"]["hits"], "name"), ["shop.public.orders"]);
    assert_eq!(answers["all_jobs"]["totalCount"], 6);
    let sum = |what: &str| answers["stats"].as_array().expect("a list").iter().filter_map(|s| s[what].as_u64()).sum::<u64>();
    assert_eq!((sum("start"), sum("complete"), sum("fail")), (6, 5, 1), "{}", answers["stats"]);
}
