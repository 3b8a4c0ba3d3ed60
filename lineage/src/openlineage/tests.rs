//! Events as clients send them, taken in and looked at in the graph.

use std::sync::Arc;
use std::time::Instant;

use isobar_block::{TenantId, time};
use object_store::memory::InMemory;
use serde_json::{Value, json};

use super::intake::{Accepted, Intake};
use super::run::rfc3339;
use crate::model::{Class, Flow, NodeKey, Relation};
use crate::snapshot::{EdgeView, NodeView, Snapshot};
use crate::store::{AsOf, LineageConfig, LineageStore};
use crate::testing::key;
use crate::{Result, Snapshot as Graph};

mod lineage;
mod accumulate;
mod hostile;

/// A store and what takes events in.
struct Bench {
    store: Arc<LineageStore>,
    intake: Arc<Intake>,
}

impl Bench {
    async fn open() -> Self {
        let config = LineageConfig { linger_ms: 0, follow_ms: i64::MAX, ..LineageConfig::default() };
        let store = LineageStore::open(Arc::new(InMemory::new()), TenantId::default(), config).await.expect("opens");
        Self { store, intake: Arc::default() }
    }

    async fn send(&self, event: &Value) -> Result<Accepted> {
        self.intake.accept(&self.store, vec![event.to_string()], ()).await.remove(0)
    }

    async fn stored(&self, events: &[Value]) {
        for event in events {
            assert_eq!(self.send(event).await.map_err(|e| e.to_string()), Ok(Accepted::Stored), "{event}");
        }
    }

    async fn at(&self, at_ms: i64) -> Arc<Graph> {
        self.store.snapshot(AsOf::At(at_ms)).await.expect("a snapshot")
    }

    async fn now(&self) -> Arc<Graph> {
        self.store.snapshot(AsOf::Now).await.expect("a snapshot")
    }
}

/// Dataset `name` of namespace `n`.
fn data(name: &str) -> NodeKey {
    super::dataset_key("n", name).expect("valid")
}

/// Column `field` of it.
fn column(name: &str, field: &str) -> NodeKey {
    NodeKey::column(&data(name), field).expect("valid")
}

/// Job `name` of namespace `j`.
fn job(name: &str) -> NodeKey {
    super::job_key("j", name).expect("valid")
}

/// The edge between two nodes, if there is one.
fn edge(graph: &Snapshot, from: &NodeKey, to: &NodeKey) -> Option<EdgeView> {
    let from = graph.find(from)?;
    let to = graph.find(to)?;
    let found = graph.providers(from).find(|(_, other)| *other == to)?;
    Some(graph.edge(found.0))
}

fn node(graph: &Snapshot, key: &NodeKey) -> NodeView {
    graph.node(graph.find(key).unwrap_or_else(|| panic!("{key} is not there")))
}

/// Ids of what a node depends on.
fn needs(graph: &Snapshot, from: &NodeKey) -> Vec<String> {
    let from = graph.find(from).unwrap_or_else(|| panic!("{from} is not there"));
    let mut ids: Vec<String> = graph.providers(from).map(|(_, other)| graph.key(other).to_string()).collect();
    ids.sort_unstable();
    ids
}

/// A run of job `name` at a time, with names of inputs and outputs.
fn run(name: &str, id: u32, event_type: &str, at_ms: i64, inputs: &[&str], outputs: &[&str]) -> Value {
    let datasets = |names: &[&str]| names.iter().map(|n| json!({"namespace": "n", "name": n})).collect::<Vec<_>>();
    json!({
        "eventTime": rfc3339(at_ms), "eventType": event_type, "producer": "https://example.org/p", "schemaURL": "https://example.org/s",
        "run": {"runId": format!("00000000-0000-4000-8000-{id:012}")}, "job": {"namespace": "j", "name": name},
        "inputs": datasets(inputs), "outputs": datasets(outputs),
    })
}

#[tokio::test]
async fn what_the_python_client_sent_is_in_the_graph() {
    let bench = Bench::open().await;
    let events: Vec<Value> = include_str!("recorded.jsonl").lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    bench.stored(&events).await;
    for event in &events {
        assert_eq!(bench.send(event).await.map_err(|e| e.to_string()), Ok(Accepted::Repeated));
    }
    let at_ms = chrono::DateTime::parse_from_rfc3339("2026-11-22T01:02:00Z").expect("a time").timestamp_millis();
    let graph = bench.at(at_ms).await;
    let table = |name: &str| super::dataset_key("postgres://warehouse:5432", name).expect("valid");
    let build = key("job:airflow-prod/daily.build_revenue");
    let revenue = table("shop.public.revenue");

    assert_eq!(needs(&graph, &build), ["dataset:postgres:%2F%2Fwarehouse:5432/shop.public.orders"]);
    let written = edge(&graph, &revenue, &build).expect("the job writes it");
    assert_eq!((written.flow, written.class, written.relation), (Flow::Data, Class::Hard, Relation::Dependency));
    let orders = table("shop.public.orders");
    assert!(edge(&graph, &revenue, &orders).is_some(), "column lineage tells where it comes from");
    let column = |dataset: &NodeKey, name: &str| NodeKey::column(dataset, name).expect("valid");
    let total = edge(&graph, &column(&revenue, "total"), &column(&orders, "amount")).expect("column lineage");
    assert_eq!(total.claims[0].says.attributes.as_ref().expect("has some")["transformations"][0]["subtype"], "AGGREGATION");
    assert!(edge(&graph, &revenue, &column(&orders, "day")).is_some(), "the whole table is grouped by the day");
    assert!(edge(&graph, &orders, &column(&orders, "amount")).is_some_and(|e| e.relation == Relation::Composition));

    let view = node(&graph, &build);
    assert_eq!((view.owners[0].name.as_str(), view.owners[0].role.as_str()), ("team:data", "MAINTAINER"));
    assert_eq!((view.attributes["processing_type"].as_str(), view.attributes["lineage"].as_str()), (Some("BATCH"), Some("columns")));
    assert_eq!(view.attributes["facets"]["jobType"]["integration"], "AIRFLOW");
    assert!(edge(&graph, &key("job:airflow-prod/daily"), &build).is_some_and(|e| e.relation == Relation::Composition));
    let hive = super::dataset_key("hive://m:9083", "shop.revenue").expect("valid");
    assert_eq!(graph.find(&hive), graph.find(&revenue), "the symlink is another name");
    assert_eq!(node(&graph, &revenue).attributes["fields"], json!([{"name": "total", "type": "NUMERIC"}]));

    // The job with explicit lineage, and the view.
    assert_eq!(needs(&graph, &table("t.c")), ["dataset:postgres:%2F%2Fwarehouse:5432/t.a", "job:airflow-prod/bulk"]);
    assert_eq!(needs(&graph, &table("t.d")), ["job:airflow-prod/bulk"]);
    assert_eq!(edge(&graph, &key("job:airflow-prod/bulk"), &table("t.a")).expect("reads it").class, Class::Ordering);
    assert_eq!(needs(&graph, &table("shop.public.v")), ["dataset:postgres:%2F%2Fwarehouse:5432/shop.public.orders"]);

    let run = bench.store.document(&build, "run/01a200c5-b4cc-774c-bb18-7a9dc329eb5f").expect("the run").1;
    assert_eq!((&run["state"], &run["startedAt"]), (&json!("FAIL"), &json!("2026-11-22T01:01:26.605Z")));
    assert_eq!((&run["outputs"][0]["name"], &run["parent"]["job"]["name"]), (&json!("shop.public.revenue"), &json!("daily")));
    let statistics = bench.store.document(&revenue, "facet/outputStatistics").expect("the statistics").1;
    assert_eq!(statistics["rowCount"], 10);
    assert_eq!(bench.store.document(&revenue, "freshness").expect("was written").1["lastWrittenAt"], "2026-11-22T01:01:26.616Z");
}

#[tokio::test]
async fn errors_name_the_field() {
    let bench = Bench::open().await;
    let good = run("a", 1, "START", 1_000, &["x", "y"], &["z"]);
    let with = |path: &str, value: Value| {
        let mut event = good.clone();
        *event.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
        event
    };
    let future = rfc3339(time::now_ms() + 3_600_000);
    for (event, expected) in [
        (json!([]), "event: must be an object"),
        (json!({}), "eventTime: is missing"),
        (with("/eventTime", json!("yesterday")), "eventTime: \"yesterday\" is no time"),
        (with("/eventTime", json!(future)), "eventTime: "),
        (with("/producer", json!(null)), "producer: is missing"),
        (with("/eventType", json!("DONE")), "eventType: \"DONE\" is none of START"),
        (with("/run/runId", json!("7")), "run.runId: \"7\" is no UUID"),
        (with("/run", json!({})), "run.runId: is missing"),
        (with("/job/name", json!(5)), "job.name: must be a string; it is a number"),
        (with("/job", json!(null)), "job: is missing"),
        (with("/job/name", json!("")), "job: "),
        (with("/inputs/1/name", json!(null)), "inputs[1].name: is missing"),
        (with("/inputs", json!({})), "inputs: must be a list; it is an object"),
        (
            with("/outputs/0", json!({"namespace": "n", "name": "z", "facets": {"schema": {"fields": [{}]}}})),
            "outputs[0].facets.schema.fields[0].name: is missing",
        ),
        (
            with(
                "/outputs/0",
                json!({"namespace": "n", "name": "z", "facets": {"columnLineage": {"fields": {"a b": {"inputFields": [{}]}}}}}),
            ),
            "outputs[0].facets.columnLineage.fields[\"a b\"].inputFields[0].namespace: is missing",
        ),
        (with("/outputs/0", json!({"namespace": "n", "name": "z".repeat(65_537)})), "outputs[0]: "),
        (json!({"eventTime": rfc3339(1), "producer": "p"}), "event: has neither run and job"),
    ] {
        let error = bench.send(&event).await.expect_err("is refused").to_string();
        assert!(error.starts_with(expected), "{error} does not begin with {expected}");
    }
    let broken =
        bench.intake.accept(&bench.store, vec!["{\"eventTime\": ".into()], ()).await.remove(0).expect_err("is refused").to_string();
    assert!(broken.starts_with("event: is no JSON: "), "{broken}");
    assert_eq!(bench.store.sizes().nodes, 0, "nothing of what was refused is stored");
}

#[tokio::test]
async fn a_service_is_one_node_and_a_circle_of_parents_is_left_out() {
    let bench = Bench::open().await;
    let mut event = run("pay", 1, "START", 1_000, &["x"], &[]);
    event["job"]["facets"] = json!({"jobType": {"processingType": "SERVICE", "integration": "OWN"}});
    bench.stored(&[event]).await;
    let parent = |id, name: &str, parent: &str| {
        let mut event = run(name, id, "COMPLETE", 1_000 + i64::from(id), &[], &[]);
        event["run"]["facets"] = json!({"parent": {"run": {"runId": "x"}, "job": {"namespace": "j", "name": parent}}});
        event
    };
    bench.stored(&[parent(2, "a", "b"), parent(3, "b", "a"), parent(4, "c", "c")]).await;
    let graph = bench.at(2_000).await;
    assert_eq!(graph.find(&key("service:j/pay")), graph.find(&job("pay")));
    assert_eq!(graph.kind(graph.find(&job("pay")).expect("is there")), "service");
    assert!(edge(&graph, &job("b"), &job("a")).is_some() && edge(&graph, &job("a"), &job("b")).is_none());
    assert!(graph.find(&job("c")).is_some());
}

#[tokio::test]
async fn jobs_that_follow_each_other_carry_no_failure() {
    let bench = Bench::open().await;
    let mut event = run("b", 1, "START", 1_000, &[], &[]);
    let other = |name: &str| json!({"job": {"namespace": "j", "name": name}, "dependency_type": "DIRECT_INVOCATION"});
    event["run"]["facets"] =
        json!({"jobDependencies": {"trigger_rule": "all_success", "upstream": [other("a")], "downstream": [other("c")]}});
    bench.stored(&[event]).await;
    let graph = bench.at(2_000).await;
    let before = edge(&graph, &job("b"), &job("a")).expect("runs after it");
    assert_eq!((before.class, before.probability), (Class::Ordering, 0.0));
    assert_eq!(before.claims[0].says.attributes.as_ref().expect("has some")["status_trigger_rule"], "all_success");
    assert!(edge(&graph, &job("c"), &job("b")).is_some());
}
