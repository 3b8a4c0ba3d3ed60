//! Events of OpenLineage in, answers of Marquez out, in process.

use axum::body::Body;
use axum::http::Request;
use tower::ServiceExt;

use super::*;
use crate::service::Parts;

const DB: &str = "postgres://db:5432";
const AIRFLOW: &str = "airflow-prod";

fn run_id(n: usize) -> String {
    format!("01a200c5-b4cc-774c-bb18-{n:012}")
}

struct App(Service);

impl App {
    fn new() -> Self {
        let store = crate::LineageConfig { linger_ms: 0, ..crate::LineageConfig::default() };
        Self(crate::testing::service(Parts { store, ..crate::testing::parts() }))
    }

    async fn send(&self, request: Request<Body>) -> (StatusCode, Value) {
        let response = crate::http::router(self.0.clone()).oneshot(request).await.expect("answers");
        let status = response.status();
        let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("is read").to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    async fn post(&self, event: &Value) {
        let request = Request::post("/api/v1/lineage").header("content-type", "application/json").body(Body::from(event.to_string()));
        let (status, answer) = self.send(request.expect("is a request")).await;
        assert!(status.is_success(), "{status} {answer}");
    }

    async fn try_get(&self, path: &str, params: &[(&str, &str)]) -> (StatusCode, Value) {
        let query: String = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(params).finish();
        self.send(Request::get(format!("{path}?{query}")).body(Body::empty()).expect("is a request")).await
    }

    async fn get(&self, path: &str, params: &[(&str, &str)]) -> Value {
        let (status, answer) = self.try_get(path, params).await;
        assert_eq!(status, StatusCode::OK, "{path} {params:?}: {answer}");
        answer
    }
}

fn dataset(namespace: &str, name: &str, facets: Value) -> Value {
    json!({"namespace": namespace, "name": name, "facets": facets})
}

fn event(kind: &str, at: &str, run: usize, job: Value, inputs: Value, outputs: Value) -> Value {
    json!({
        "eventType": kind, "eventTime": at, "producer": "https://example.org/p",
        "schemaURL": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent",
        "run": {"runId": run_id(run), "facets": {"nominalTime": {"nominalStartTime": "2026-01-02T00:00:00Z"}}},
        "job": job, "inputs": inputs, "outputs": outputs,
    })
}

fn job(name: &str, facets: Value) -> Value {
    json!({"namespace": AIRFLOW, "name": name, "facets": facets})
}

fn ids(graph: &Value) -> Vec<&str> {
    let mut ids: Vec<&str> = graph["graph"].as_array().expect("a list").iter().map(|n| n["id"].as_str().expect("an id")).collect();
    ids.sort_unstable();
    ids
}

fn names<'a>(list: &'a Value, of: &str) -> Vec<&'a str> {
    list[of].as_array().expect("a list").iter().map(|n| n["name"].as_str().expect("a name")).collect()
}

fn node<'a>(graph: &'a Value, id: &str) -> &'a Value {
    graph["graph"].as_array().expect("a list").iter().find(|n| n["id"] == id).unwrap_or_else(|| panic!("{id} is not in {graph}"))
}

/// landing -> load -> orders -> revenue -> mart -> dashboard topic; orders -> audit -> audited, and landing -> copy -> copied beside it.
async fn warehouse() -> App {
    let app = App::new();
    let schema = json!({"schema": {"fields": [{"name": "id", "type": "BIGINT"}, {"name": "amount", "type": "NUMERIC", "description": "in euros"}]},
        "tags": {"tags": [{"key": "gold"}, {"key": "pii", "field": "amount"}]}, "documentation": {"description": "All orders"},
        "dataSource": {"name": "warehouse", "uri": "postgres://db:5432/shop"}});
    let landing = dataset("s3://landing", "raw/orders.csv", json!({}));
    let orders = dataset(DB, "shop.public.orders", schema);
    let columns = json!({"columnLineage": {"fields": {"total": {"inputFields": [{"namespace": DB, "name": "shop.public.orders", "field": "amount",
        "transformations": [{"type": "DIRECT", "subtype": "AGGREGATION", "description": "sum(amount)", "masking": false}]}]}}},
        "schema": {"fields": [{"name": "total", "type": "NUMERIC"}]}});
    let revenue = dataset(DB, "shop.public.revenue", columns);
    let load = job(
        "daily.load",
        json!({"sourceCodeLocation": {"type": "git", "url": "https://git/load.py"}, "sql": {"query": "COPY orders FROM x"}}),
    );
    let plain = |name: &str| dataset(DB, name, json!({}));
    for (i, (job, input, output)) in [
        (load.clone(), landing.clone(), orders.clone()),
        (job("daily.revenue", json!({"jobType": {"processingType": "BATCH", "integration": "AIRFLOW"}})), orders.clone(), revenue),
        (job("copy", json!({})), landing.clone(), plain("copied")),
        (job("audit", json!({})), plain("shop.public.orders"), plain("audited")),
        (
            job("publish", json!({"jobType": {"processingType": "STREAMING", "integration": "FLINK"}})),
            plain("shop.public.revenue"),
            dataset("kafka://broker:9092", "revenue", json!({})),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        app.post(&event("START", &format!("2026-01-02T0{i}:00:00Z"), i, job.clone(), json!([input]), json!([]))).await;
        app.post(&event("COMPLETE", &format!("2026-01-02T0{i}:10:00Z"), i, job, json!([input]), json!([output]))).await;
    }
    app
}

/// Runs of then have expired by now.
const AT: (&str, &str) = ("at", "2026-01-03T00:00:00Z");

#[tokio::test]
async fn lineage_is_walked_in_one_direction_at_a_time() {
    let app = warehouse().await;
    let orders = format!("dataset:{DB}:shop.public.orders");
    let graph = app.get("/api/v1/lineage", &[("nodeId", &orders), AT]).await;
    let expected = [
        "dataset:kafka://broker:9092:revenue".to_owned(),
        format!("dataset:{DB}:audited"),
        orders.clone(),
        format!("dataset:{DB}:shop.public.revenue"),
        "dataset:s3://landing:raw/orders.csv".into(),
        "job:airflow-prod:audit".into(),
        "job:airflow-prod:daily.load".into(),
        "job:airflow-prod:daily.revenue".into(),
        "job:airflow-prod:publish".into(),
    ];
    let mut expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    expected.sort_unstable();
    assert_eq!(ids(&graph), expected, "copy and what it makes only share an input");
    assert_eq!(graph["complete"], true);
    let load = node(&graph, "job:airflow-prod:daily.load");
    assert_eq!(load["inEdges"], json!([{"origin": "dataset:s3://landing:raw/orders.csv", "destination": "job:airflow-prod:daily.load"}]));
    assert_eq!(load["outEdges"], json!([{"origin": "job:airflow-prod:daily.load", "destination": orders}]));
    assert_eq!(
        (&load["type"], &load["data"]["type"], &load["data"]["location"]),
        (&json!("JOB"), &json!("BATCH"), &json!("https://git/load.py"))
    );
    assert_eq!(load["data"]["latestRun"]["state"], "COMPLETED");
    let revenue = node(&graph, &format!("dataset:{DB}:shop.public.revenue"));
    assert_eq!(revenue["inEdges"].as_array().map(Vec::len), Some(1), "only by way of the job: {revenue}");
    assert_eq!(node(&graph, "dataset:kafka://broker:9092:revenue")["data"]["type"], "STREAM");
    assert_eq!(node(&graph, "job:airflow-prod:publish")["data"]["type"], "STREAM");

    let near = app.get("/api/v1/lineage", &[("nodeId", &orders), ("depth", "0"), AT]).await;
    assert!(
        !ids(&near).contains(&"job:airflow-prod:publish") && ids(&near).contains(&"job:airflow-prod:daily.revenue"),
        "{:?}",
        ids(&near)
    );
    let end = app.get("/api/v1/lineage", &[("nodeId", "job:airflow-prod:publish"), AT]).await;
    assert!(!ids(&end).iter().any(|id| id.contains("audit") || id.contains("copy")), "{:?}", ids(&end));
    let of_run = app.get("/api/v1/lineage", &[("nodeId", &format!("run:{}", run_id(4))), AT]).await;
    assert_eq!(ids(&of_run), ids(&end));
    let (status, error) = app.try_get("/api/v1/lineage", &[("nodeId", "dataset:a:b")]).await;
    assert_eq!((status, error), (StatusCode::NOT_FOUND, json!({"code": 404, "message": "Node 'dataset:a:b' not found."})));
    let (status, error) = app.try_get("/api/v1/lineage", &[("nodeId", "x")]).await;
    assert!(
        status == StatusCode::BAD_REQUEST && error["message"].as_str().is_some_and(|m| m.contains("write dataset:{namespace}:{name}")),
        "{error}"
    );
}

#[tokio::test]
async fn explicit_lineage_is_not_multiplied_by_the_job() {
    let app = App::new();
    let made_of = |name: &str| json!({"lineage": {"inputs": [{"type": "DATASET", "namespace": DB, "name": name}]}});
    let plain = |name: &str| dataset(DB, name, json!({}));
    let outputs =
        json!([dataset(DB, "x", made_of("a")), dataset(DB, "y", made_of("b")), dataset(DB, "z", json!({"lineage": {"inputs": []}}))]);
    let both = job("both", json!({}));
    app.post(&event("COMPLETE", "2026-01-02T00:00:00Z", 1, both, json!([plain("a"), plain("b")]), outputs)).await;
    let of = async |name: &str| {
        let graph = app.get("/api/v1/lineage", &[("nodeId", &format!("dataset:{DB}:{name}")), AT]).await;
        ids(&graph).into_iter().filter_map(|id| id.strip_prefix("dataset:postgres://db:5432:")).collect::<String>()
    };
    assert_eq!((of("x").await, of("y").await, of("z").await), ("ax".into(), "by".into(), "z".into()));
    assert_eq!((of("a").await, of("b").await), ("ax".into(), "by".into()));
    let job = app.get("/api/v1/lineage", &[("nodeId", "job:airflow-prod:both"), AT]).await;
    assert_eq!((ids(&job).len(), node(&job, "job:airflow-prod:both")["inEdges"].as_array().map(Vec::len)), (6, Some(2)));
    assert_eq!(
        node(&job, "job:airflow-prod:both")["data"]["inputs"],
        json!([{"namespace": DB, "name": "a"}, {"namespace": DB, "name": "b"}])
    );
}

#[tokio::test]
async fn columns_lead_up_and_down() {
    let app = warehouse().await;
    let total = format!("datasetField:{DB}:shop.public.revenue:total");
    let amount = format!("datasetField:{DB}:shop.public.orders:amount");
    let up = app.get("/api/v1/column-lineage", &[("nodeId", &total), AT]).await;
    assert_eq!(ids(&up), [&amount, &total]);
    let data = &node(&up, &total)["data"];
    assert_eq!((&data["field"], &data["fieldType"], &data["dataset"]), (&json!("total"), &json!("NUMERIC"), &json!("shop.public.revenue")));
    assert_eq!(data["inputFields"][0]["field"], "amount");
    assert_eq!(
        (&data["inputFields"][0]["transformationType"], &data["inputFields"][0]["transformationDescription"]),
        (&json!("AGGREGATION"), &json!("sum(amount)"))
    );
    assert_eq!(node(&up, &total)["inEdges"], json!([{"origin": amount, "destination": total}]));
    let orders = format!("dataset:{DB}:shop.public.orders");
    let own = app.get("/api/v1/column-lineage", &[("nodeId", &orders), AT]).await;
    assert_eq!(ids(&own).len(), 2, "its own two columns");
    let down = app.get("/api/v1/column-lineage", &[("nodeId", &orders), ("withDownstream", "true"), AT]).await;
    assert!(ids(&down).contains(&total.as_str()) && ids(&down).len() == 3);
    let of_job = app.get("/api/v1/column-lineage", &[("nodeId", "job:airflow-prod:daily.revenue"), AT]).await;
    assert_eq!(ids(&of_job), ids(&up));
    let detail = app.get("/api/v1/namespaces/postgres%3A%2F%2Fdb%3A5432/datasets/shop.public.revenue", &[AT]).await;
    assert_eq!(
        (&detail["columnLineage"][0]["name"], &detail["columnLineage"][0]["inputFields"][0]["field"]),
        (&json!("total"), &json!("amount"))
    );
}

#[tokio::test]
async fn lists_and_details() {
    let app = warehouse().await;
    let namespaces = app.get("/api/v1/namespaces", &[AT]).await;
    assert_eq!(names(&namespaces, "namespaces"), [AIRFLOW, "kafka://broker:9092", DB, "s3://landing"]);
    let one = app.get("/api/v1/namespaces/airflow-prod", &[AT]).await;
    assert_eq!((&one["createdAt"], &one["ownerName"]), (&json!("2026-01-02T00:00:00.000Z"), &json!("anonymous")));
    let jobs = app.get("/api/v1/namespaces/airflow-prod/jobs", &[("limit", "2"), ("offset", "1"), AT]).await;
    assert_eq!((names(&jobs, "jobs"), &jobs["totalCount"]), (vec!["copy", "daily.load"], &json!(5)));
    let all = app.get("/api/v1/jobs", &[AT]).await;
    assert_eq!(names(&all, "jobs")[0], "publish", "heard of last");
    assert_eq!(app.get("/api/v1/jobs", &[("lastRunStates", "FAILED"), AT]).await["totalCount"], 0);
    assert_eq!(app.get("/api/v1/jobs", &[("lastRunStates", "completed"), AT]).await["totalCount"], 5);

    let load = app.get("/api/v1/namespaces/airflow-prod/jobs/daily.load", &[AT]).await;
    assert_eq!(load["id"], json!({"namespace": AIRFLOW, "name": "daily.load"}));
    assert_eq!(load["inputs"], json!([{"namespace": "s3://landing", "name": "raw/orders.csv"}]));
    assert_eq!(load["outputs"], json!([{"namespace": DB, "name": "shop.public.orders"}]));
    assert_eq!((&load["latestRuns"][0]["id"], &load["latestRun"]["durationMs"]), (&json!(run_id(0)), &json!(600_000)));
    assert_eq!(load["facets"]["sql"]["query"], "COPY orders FROM x");

    let path = "/api/v1/namespaces/postgres%3A%2F%2Fdb%3A5432/datasets";
    let datasets = app.get(path, &[AT]).await;
    assert_eq!(names(&datasets, "datasets"), ["audited", "copied", "shop.public.orders", "shop.public.revenue"]);
    let orders = app.get(&format!("{path}/shop.public.orders"), &[AT]).await;
    let fields = json!([{"name": "id", "type": "BIGINT", "tags": [], "description": null},
        {"name": "amount", "type": "NUMERIC", "tags": ["pii"], "description": "in euros"}]);
    assert_eq!(orders["fields"], fields);
    assert_eq!(
        (&orders["tags"], &orders["sourceName"], &orders["description"]),
        (&json!(["gold"]), &json!("warehouse"), &json!("All orders"))
    );
    assert_eq!(
        (&orders["type"], &orders["deleted"], &orders["physicalName"]),
        (&json!("DB_TABLE"), &json!(false), &json!("shop.public.orders"))
    );
    let slashes = app.get("/api/v1/namespaces/s3%3A%2F%2Flanding/datasets/raw%2Forders.csv", &[AT]).await;
    assert_eq!(slashes["name"], "raw/orders.csv");

    assert_eq!(names(&app.get("/api/v1/tags", &[AT]).await, "tags"), ["gold", "pii"]);
    let sources = app.get("/api/v1/sources", &[AT]).await;
    assert!(names(&sources, "sources").contains(&"warehouse"), "{sources}");
    let source = app.get("/api/v1/sources/warehouse", &[AT]).await;
    assert_eq!((&source["type"], &source["connectionUrl"]), (&json!("POSTGRES"), &json!("postgres://db:5432/shop")));
    for missing in
        ["namespaces/x", "namespaces/x/jobs", "namespaces/x/datasets/y", "namespaces/airflow-prod/jobs/y", "jobs/runs/y", "sources/x"]
    {
        let (status, error) = app.try_get(&format!("/api/v1/{missing}"), &[AT]).await;
        assert_eq!((status, &error["code"]), (StatusCode::NOT_FOUND, &json!(404)), "{missing}");
    }
    let before = app.get("/api/v1/namespaces", &[("at", "2025-01-01T00:00:00Z")]).await;
    assert_eq!(before["totalCount"], 0, "as of a time before everything");
    for (path, params) in
        [("/api/v1/jobs", ("limit", "x")), ("/api/v1/search", ("filter", "JOB")), ("/api/v1/stats/jobs", ("period", "YEAR"))]
    {
        assert_eq!(app.try_get(path, &[params]).await.0, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn runs_and_versions() {
    let app = warehouse().await;
    let path = "/api/v1/namespaces/airflow-prod/jobs/daily.revenue";
    app.post(&event("START", "2026-01-02T08:00:00Z", 8, job("daily.load", json!({})), json!([]), json!([]))).await;
    let output = json!([dataset(DB, "shop.public.orders", json!({}))]);
    app.post(&event("COMPLETE", "2026-01-02T08:30:00Z", 8, job("daily.load", json!({})), json!([]), output)).await;
    let input = json!([dataset(DB, "shop.public.orders", json!({}))]);
    app.post(&event("START", "2026-01-02T09:00:00Z", 9, job("daily.revenue", json!({})), input, json!([]))).await;
    app.post(&event("FAIL", "2026-01-02T09:05:00Z", 9, job("daily.revenue", json!({})), json!([]), json!([]))).await;

    let runs = app.get(&format!("{path}/runs"), &[AT]).await;
    assert_eq!(runs["totalCount"], 2);
    let ninth = &runs["runs"][0];
    assert_eq!((&ninth["id"], &ninth["state"], &ninth["durationMs"]), (&json!(run_id(9)), &json!("FAILED"), &json!(300_000)));
    assert_eq!((&ninth["nominalStartTime"], &ninth["startedAt"]), (&json!("2026-01-02T00:00:00.000Z"), &json!("2026-01-02T09:00:00.000Z")));
    let one = app.get(&format!("/api/v1/jobs/runs/{}", run_id(9).to_uppercase()), &[AT]).await;
    assert_eq!(&one, ninth);
    let facets = app.get(&format!("/api/v1/jobs/runs/{}/facets", run_id(9)), &[("type", "run"), AT]).await;
    assert!(facets["runId"] == run_id(9) && facets["facets"]["nominalTime"].is_object(), "{facets}");
    assert!(app.get(&format!("/api/v1/jobs/runs/{}/facets", run_id(9)), &[("type", "job"), AT]).await["facets"]["jobType"].is_object());
    let then = app.get(&format!("/api/v1/jobs/runs/{}", run_id(9)), &[("at", "2026-01-02T09:01:00Z")]).await;
    assert_eq!((&then["state"], &then["endedAt"]), (&json!("RUNNING"), &Value::Null), "as of a minute after it began");
    assert_eq!(app.try_get(&format!("/api/v1/jobs/runs/{}", run_id(9)), &[("at", "2026-01-02T08:59:00Z")]).await.0, StatusCode::NOT_FOUND);

    let orders = "/api/v1/namespaces/postgres%3A%2F%2Fdb%3A5432/datasets/shop.public.orders";
    let versions = app.get(&format!("{orders}/versions"), &[AT]).await;
    let made_by: Vec<&Value> = versions["versions"].as_array().expect("a list").iter().map(|v| &v["createdByRun"]["id"]).collect();
    assert!(made_by.contains(&&json!(run_id(8))) && made_by.contains(&&json!(run_id(0))), "{made_by:?}");
    let newest = &versions["versions"][0];
    assert_eq!((&newest["createdByRun"]["id"], &newest["createdAt"]), (&json!(run_id(8)), &json!("2026-01-02T08:30:00.000Z")));
    let id = newest["version"].as_str().expect("a version");
    assert_eq!(&app.get(&format!("{orders}/versions/{id}"), &[AT]).await, newest);
    assert_eq!(
        ninth["inputVersions"],
        json!([{"namespace": DB, "name": "shop.public.orders", "version": id}]),
        "read what was there when it began"
    );
    assert_eq!(app.get(orders, &[AT]).await["currentVersion"], id);
    let eighth = app.get(&format!("/api/v1/jobs/runs/{}", run_id(8)), &[AT]).await;
    assert_eq!(eighth["outputVersions"][0]["version"], id);
    let first = made_by.len() - 1;
    let first = versions["versions"].as_array().expect("a list")[..=first].iter().rfind(|v| v["createdByRun"]["id"] == run_id(0));
    let node_id = format!("dataset:{DB}:shop.public.orders#{}", first.expect("is there")["version"].as_str().expect("a version"));
    let then = app.get("/api/v1/lineage", &[("nodeId", &node_id), AT]).await;
    assert!(!ids(&then).contains(&"job:airflow-prod:audit"), "as of that version nobody had audited it: {:?}", ids(&then));

    let job_versions = app.get(&format!("{path}/versions"), &[AT]).await;
    assert_eq!(job_versions["totalCount"], 2, "the failed run has written nothing: {job_versions}");
    let version = job_versions["versions"][1]["version"].as_str().expect("a version");
    assert_eq!(
        app.get(&format!("{path}/versions/{version}"), &[AT]).await["outputs"],
        json!([{"namespace": DB, "name": "shop.public.revenue"}])
    );

    let upstream = app.get("/api/v1/runlineage/upstream", &[("runId", &run_id(4)), ("depth", "5"), AT]).await;
    let chain: Vec<&Value> = upstream["runs"].as_array().expect("a list").iter().map(|r| &r["run"]["id"]).collect();
    assert_eq!(chain, [&json!(run_id(4)), &json!(run_id(1)), &json!(run_id(0))]);
    assert_eq!(upstream["runs"][0]["inputs"][0]["producedByRunId"], run_id(1));
    let one = app.get("/api/v1/runlineage/upstream", &[("runId", &run_id(4)), ("depth", "1"), AT]).await;
    assert_eq!(one["runs"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn search_events_and_stats() {
    let app = warehouse().await;
    let found = app.get("/api/v1/search", &[("q", "ORDERS"), AT]).await;
    assert_eq!((names(&found, "results"), &found["totalCount"]), (vec!["raw/orders.csv", "shop.public.orders"], &json!(2)));
    let first = &found["results"][0];
    assert_eq!((&first["type"], &first["nodeId"]), (&json!("DATASET"), &json!("dataset:s3://landing:raw/orders.csv")));
    assert_eq!(first["updatedAt"], "2026-01-02T02:10:00.000Z");
    assert_eq!(
        app.get("/api/v1/search", &[("q", "daily"), ("filter", "JOB"), ("sort", "UPDATE_AT"), AT]).await["results"][0]["name"],
        "daily.revenue"
    );
    assert_eq!(app.get("/api/v1/search", &[("q", "daily"), ("filter", "DATASET"), AT]).await["totalCount"], 0);
    assert_eq!(app.get("/api/v1/search", &[("q", "a"), ("namespace", "s3://landing"), AT]).await["totalCount"], 1);
    assert_eq!(app.get("/api/v1/search", &[("q", "a"), ("before", "2026-01-01"), AT]).await["totalCount"], 0);
    let jobs = app.get("/api/v2beta/search/jobs", &[("q", "copy"), AT]).await;
    assert_eq!((&jobs["hits"][0]["name"], &jobs["highlights"][0]["name"]), (&json!("copy"), &json!(["<em>copy</em>"])), "{jobs}");
    assert_eq!(
        (&jobs["hits"][1]["name"], &jobs["highlights"][1]["facets.sql.query"]),
        (&json!("daily.load"), &json!(["<em>COPY</em> orders FROM x"]))
    );
    let datasets = app.get("/api/v2beta/search/datasets", &[("q", "amount"), AT]).await;
    assert_eq!(
        (&datasets["hits"][0]["name"], &datasets["hits"][0]["run_id"]),
        (&json!("shop.public.orders"), &json!(run_id(0))),
        "{datasets}"
    );
    assert_eq!(datasets["hits"][0]["eventType"], "COMPLETE");

    let events = app.get("/api/v1/events/lineage", &[("limit", "3")]).await;
    assert_eq!(events["totalCount"], 10);
    let times: Vec<&Value> = events["events"].as_array().expect("a list").iter().map(|e| &e["eventTime"]).collect();
    assert_eq!(times, [&json!("2026-01-02T04:10:00Z"), &json!("2026-01-02T04:00:00Z"), &json!("2026-01-02T03:10:00Z")]);
    assert_eq!(events["events"][0]["run"]["runId"], run_id(4), "as it came");
    let window =
        [("after", "2026-01-02T01:00:00.000Z"), ("before", "2026-01-02T02:00:00+00:00"), ("sortDirection", "asc"), ("offset", "1")];
    let one = app.get("/api/v1/events/lineage", &window).await;
    assert_eq!(
        (&one["totalCount"], &one["events"][0]["eventType"], one["events"].as_array().map(Vec::len)),
        (&json!(2), &json!("COMPLETE"), Some(1))
    );
    assert_eq!(app.try_get("/api/v1/events/lineage", &[("sortDirection", "up")]).await.0, StatusCode::BAD_REQUEST);

    let runs = app.get("/api/v1/stats/lineage-events", &[("period", "DAY"), ("at", "2026-01-02T04:30:00Z")]).await;
    assert_eq!(runs.as_array().map(Vec::len), Some(24));
    assert_eq!(
        runs[23],
        json!({"startInterval": "2026-01-02T04:00:00.000Z", "endInterval": "2026-01-02T05:00:00.000Z", "start": 1, "complete": 1, "fail": 0, "abort": 0})
    );
    let jobs = app.get("/api/v1/stats/jobs", &[("period", "WEEK"), AT]).await;
    assert_eq!((jobs.as_array().map(Vec::len), &jobs[6]["count"], &jobs[4]["count"]), (Some(7), &json!(5), &json!(0)), "{jobs}");
    assert_eq!(app.get("/api/v1/stats/datasets", &[AT]).await[23]["count"], 6);
    assert_eq!(app.get("/api/v1/stats/sources", &[AT]).await[23]["count"], 4);
}
