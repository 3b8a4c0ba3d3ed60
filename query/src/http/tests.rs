//! The API as clients see it: requests through the router, over the real engine and a source in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use isobar_block::{Exemplar, Metadata, MetricType, Source, TenantId};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::status::{BuildInfo, HeadInfo, RuntimeInfo, StatusProvider, WalReplay};
use super::{Api, ApiConfig, TenantOf, router};
use crate::engine::{Engine, EngineConfig};
use crate::result::Result;
use crate::storage::{Storage, View};
use crate::testing::{MemorySource, MemoryStorage, labels};

struct Facts;

impl StatusProvider for Facts {
    fn build_info(&self) -> BuildInfo {
        BuildInfo { version: "1.2.3".into(), ..BuildInfo::default() }
    }

    fn runtime_info(&self) -> RuntimeInfo {
        RuntimeInfo { cwd: "/data".into(), ..RuntimeInfo::default() }
    }

    fn config_yaml(&self) -> String {
        "a: 1\n".into()
    }

    fn flags(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("data".into(), "/data".into())])
    }

    fn head(&self, _: &TenantId) -> HeadInfo {
        HeadInfo { num_series: 7, ..HeadInfo::default() }
    }

    fn wal_replay(&self) -> WalReplay {
        WalReplay { min: 1, max: 3, current: 2 }
    }
}

fn data() -> MemorySource {
    let mut source = MemorySource::default();
    let ramp = |factor: f64| (0..20).map(|i| (i64::from(i) * 15_000, f64::from(i) * factor)).collect::<Vec<_>>();
    source
        .float("http_requests_total{job=\"api\",code=\"200\"}", &ramp(15.0))
        .float("http_requests_total{job=\"api\",code=\"500\"}", &ramp(30.0))
        .float("gauge", &ramp(1.0))
        .float("odd{text=\"a\\\"b\\\\c\\n\\u0001é\"}", &[(60_000, f64::NAN)])
        .float("big", &[(60_000, 1e21)])
        .float("latency{job=\"api\"}", &[(60_000, 0.5)])
        .float("{\"my.metric\",\"l.x\"=\"y\"}", &[(60_000, f64::INFINITY)]);
    let exemplar = Exemplar { labels: labels("{trace_id=\"abc\"}"), value: 0.25, timestamp_ms: 60_500 };
    source.add_exemplars("http_requests_total{job=\"api\",code=\"200\"}", vec![exemplar]);
    let meta = |help: &str| Metadata { metric_type: MetricType::Counter, help: help.into(), unit: String::new() };
    source.add_metadata("http_requests_total", vec![meta("Requests."), meta("Other.")]).add_metadata("odd", vec![meta("Odd.")]);
    source
}

fn tenant_of() -> TenantOf {
    Arc::new(|headers: &HeaderMap| match headers.get("x-scope-orgid") {
        None => Ok(TenantId::default()),
        Some(name) => TenantId::new(name.to_str().unwrap_or("")).map_err(|e| e.to_string()),
    })
}

fn app_with(storage: Arc<dyn Storage>, config: ApiConfig) -> Router {
    let engine = Engine::new(EngineConfig { threads: 2, ..EngineConfig::default() }).expect("engine starts");
    router(Api::new(Arc::new(engine), storage, Arc::new(Facts), tenant_of(), config))
}

fn app() -> Router {
    let storage = MemoryStorage { tenant: TenantId::default(), source: Arc::new(data()), view: Mutex::default() };
    app_with(Arc::new(storage), ApiConfig::default())
}

async fn send(app: Router, request: Request<Body>) -> (StatusCode, HeaderMap, String) {
    let response = app.oneshot(request).await.expect("the router does not fail");
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.expect("a body").to_bytes();
    (parts.status, parts.headers, String::from_utf8(bytes.to_vec()).expect("UTF-8"))
}

fn encoded(params: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(params).finish()
}

async fn get(path: &str, params: &[(&str, &str)]) -> (u16, Value) {
    let uri = format!("/api/v1/{path}?{}", encoded(params));
    let request = Request::get(uri).body(Body::empty()).expect("a request");
    let (status, _, body) = send(app(), request).await;
    (status.as_u16(), serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}")))
}

async fn ok(path: &str, params: &[(&str, &str)]) -> Value {
    let (status, body) = get(path, params).await;
    assert_eq!((status, &body["status"]), (200, &json!("success")), "{path} {params:?}: {body}");
    body["data"].clone()
}

/// Checks status, type and text of an error.
async fn refused(path: &str, params: &[(&str, &str)], status: u16, kind: &str, message: &str) {
    let (got, body) = get(path, params).await;
    assert_eq!((got, body["errorType"].as_str()), (status, Some(kind)), "{path} {params:?}: {body}");
    assert_eq!(body["status"], "error");
    assert_eq!(body["error"].as_str(), Some(message), "{path} {params:?}");
    assert_eq!(body.get("data"), None);
}

#[tokio::test]
async fn instant_queries() {
    let at = ("time", "60.5");
    assert_eq!(
        ok("query", &[("query", "http_requests_total{code=\"500\"}"), at]).await,
        json!({"resultType": "vector", "result": [
            {"metric": {"__name__": "http_requests_total", "job": "api", "code": "500"}, "value": [60.5, "120"]}
        ]})
    );
    assert_eq!(ok("query", &[("query", "1 + 0.5"), at]).await, json!({"resultType": "scalar", "result": [60.5, "1.5"]}));
    assert_eq!(ok("query", &[("query", "\"a\\nb\""), at]).await, json!({"resultType": "string", "result": [60.5, "a\nb"]}));
    assert_eq!(
        ok("query", &[("query", "big[1m]"), at]).await,
        json!({"resultType": "matrix", "result": [{"metric": {"__name__": "big"}, "values": [[60, "1e+21"]]}]})
    );
    let odd = ok("query", &[("query", "odd"), at]).await;
    assert_eq!(odd["result"][0]["metric"]["text"], "a\"b\\c\n\u{1}é");
    assert_eq!(odd["result"][0]["value"][1], "NaN");
    assert_eq!(ok("query", &[("query", "{\"my.metric\"}"), at]).await["result"][0]["value"][1], "+Inf");
    assert_eq!(ok("query", &[("query", "nothing"), at]).await, json!({"resultType": "vector", "result": []}));
    let now = ok("query", &[("query", "time()")]).await;
    let asked = now["result"][0].as_f64().expect("a time");
    assert!((asked - isobar_block::time::now_ms() as f64 / 1e3).abs() < 60.0, "{now}");
}

#[tokio::test]
async fn range_queries() {
    let range = [("start", "1970-01-01T00:01:00Z"), ("end", "120"), ("step", "30s")];
    let with = |query: &'static str| [&[("query", query)], range.as_slice()].concat();
    assert_eq!(
        ok("query_range", &with("sum by (job) (http_requests_total)")).await,
        json!({"resultType": "matrix", "result": [{"metric": {"job": "api"}, "values": [[60, "180"], [90, "270"], [120, "360"]]}]})
    );
    assert_eq!(
        ok("query_range", &with("time()")).await,
        json!({"resultType": "matrix", "result": [{"metric": {}, "values": [[60, "60"], [90, "90"], [120, "120"]]}]})
    );
    assert_eq!(ok("query_range", &with("nothing")).await["result"], json!([]));
}

#[tokio::test]
async fn wrong_parameters() {
    let at = ("query", "up");
    refused("query", &[], 400, "bad_data", "invalid parameter \"query\": unknown position: parse error: no expression found in input")
        .await;
    refused("query", &[("query", "sum(")], 400, "bad_data", "invalid parameter \"query\": 1:5: parse error: unclosed left parenthesis")
        .await;
    refused("query", &[at, ("time", "x")], 400, "bad_data", "invalid parameter \"time\": cannot parse \"x\" to a valid timestamp").await;
    refused("query", &[at, ("timeout", "x")], 400, "bad_data", "invalid parameter \"timeout\": cannot parse \"x\" to a valid duration")
        .await;
    refused("query", &[at, ("limit", "-1")], 400, "bad_data", "invalid parameter \"limit\": limit must be non-negative").await;
    let range = |start, end, step| [at, ("start", start), ("end", end), ("step", step)];
    let invalid = |name, what| format!("invalid parameter \"{name}\": {what}");
    for (params, message) in [
        (range("", "1", "1"), invalid("start", "cannot parse \"\" to a valid timestamp")),
        (range("0", "x", "1"), invalid("end", "cannot parse \"x\" to a valid timestamp")),
        (range("2", "1", "1"), invalid("end", "end timestamp must not be before start time")),
        (range("0", "1", ""), invalid("step", "cannot parse \"\" to a valid duration")),
        (range("0", "1", "0"), invalid("step", "zero or negative query resolution step widths are not accepted. Try a positive integer")),
        (
            range("0", "11001", "1"),
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)".to_owned(),
        ),
    ] {
        refused("query_range", &params, 400, "bad_data", &message).await;
    }
    ok("query_range", &range("0", "11000", "1")).await;
    let matrix = [("query", "up[5m]"), ("start", "0"), ("end", "1"), ("step", "1")];
    let message = "invalid parameter \"query\": invalid expression type \"range vector\" for range query, must be Scalar or instant Vector";
    refused("query_range", &matrix, 400, "bad_data", message).await;
    refused("series", &[], 400, "bad_data", "no match[] parameter provided").await;
    let empty = "invalid parameter \"match[]\": match[] must contain at least one non-empty matcher";
    refused("series", &[("match[]", "{a=\"\"}")], 400, "bad_data", empty).await;
    refused("metadata", &[("limit", "x")], 400, "bad_data", "limit must be a number").await;
    refused(
        "query_exemplars",
        &[at, ("start", "2"), ("end", "1")],
        400,
        "bad_data",
        "invalid parameter \"end\": end timestamp must not be before start time",
    )
    .await;
}

#[tokio::test]
async fn errors_of_data_are_422() {
    let query = "http_requests_total + on (job) http_requests_total";
    let (status, body) = get("query", &[("query", query), ("time", "60")]).await;
    assert_eq!((status, &body["errorType"]), (422, &json!("execution")), "{body}");
    assert!(body["error"].as_str().is_some_and(|e| e.contains("many-to-many")), "{body}");
}

#[tokio::test]
async fn limit_cuts_with_a_warning() {
    let warned = json!(["results truncated due to limit"]);
    let (_, body) = get("query", &[("query", "http_requests_total"), ("time", "60"), ("limit", "1")]).await;
    assert_eq!((body["data"]["result"].as_array().map(Vec::len), &body["warnings"]), (Some(1), &warned), "{body}");
    let (_, body) = get("query", &[("query", "http_requests_total"), ("time", "60"), ("limit", "2")]).await;
    assert_eq!(body.get("warnings"), None, "{body}");
    let (_, body) = get("labels", &[("limit", "1")]).await;
    assert_eq!((&body["data"], &body["warnings"]), (&json!(["__name__"]), &warned));
    let (_, body) = get("series", &[("match[]", "http_requests_total"), ("limit", "1")]).await;
    assert_eq!((body["data"].as_array().map(Vec::len), &body["warnings"]), (Some(1), &warned));
}

#[tokio::test]
async fn stats_lookback_and_infos() {
    let (_, body) = get("query", &[("query", "rate(gauge[1m])"), ("time", "60"), ("stats", "all")]).await;
    assert!(body["data"]["stats"]["timings"]["evalTotalTime"].is_f64(), "{body}");
    assert!(body["data"]["stats"]["samples"]["totalQueryableSamples"].is_u64(), "{body}");
    let info = body["infos"][0].as_str().unwrap_or("");
    assert!(info.starts_with("PromQL info: metric might not be a counter") && info.ends_with("(1:6)"), "{body}");
    let count = async |lookback: &str| {
        let params = [("query", "big"), ("time", "100"), ("lookback_delta", lookback)];
        ok("query", &params).await["result"].as_array().map(Vec::len)
    };
    assert_eq!((count("1m").await, count("30").await), (Some(1), Some(0)));
}

#[tokio::test]
async fn explains() {
    let plan = |data: &Value| data["result"][1].as_str().map(str::to_owned).expect("a plan");
    for text in ["EXPLAIN sum(rate(http_requests_total[1m]))", "explain analyze sum(rate(http_requests_total[1m]))"] {
        let data = ok("query", &[("query", text), ("time", "60")]).await;
        assert_eq!(data["resultType"], "string");
        assert!(plan(&data).lines().count() > 1, "{data}");
    }
    let data = ok("query_explain", &[("query", "sum(http_requests_total)"), ("analyze", "true")]).await;
    assert!(!plan(&data).is_empty());
    refused(
        "query",
        &[("query", "EXPLAIN sum(")],
        400,
        "bad_data",
        "invalid parameter \"query\": 1:13: parse error: unclosed left parenthesis",
    )
    .await;
    assert_eq!(ok("query", &[("query", "explain offset 1m")]).await["resultType"], "vector");
}

#[tokio::test]
async fn labels_and_series() {
    assert_eq!(ok("labels", &[]).await, json!(["__name__", "code", "job", "l.x", "text"]));
    assert_eq!(ok("labels", &[("match[]", "latency"), ("match[]", "odd")]).await, json!(["__name__", "job", "text"]));
    assert_eq!(ok("label/code/values", &[]).await, json!(["200", "500"]));
    assert_eq!(ok("label/code/values", &[("match[]", "{job=\"api\",code!=\"200\"}")]).await, json!(["500"]));
    assert_eq!(ok("label/U__l_2e_x/values", &[]).await, json!(["y"]));
    assert_eq!(ok("label/code/values", &[("start", "1000"), ("end", "2000")]).await, json!([]));
    let both = ok("series", &[("match[]", "http_requests_total"), ("match[]", "{job=\"api\"}")]).await;
    assert_eq!(both.as_array().map(Vec::len), Some(3), "{both}");
    assert_eq!(both[0], json!({"__name__": "http_requests_total", "job": "api", "code": "200"}));
}

#[tokio::test]
async fn labels_and_series_say_what_is_missing() {
    let mut source = data();
    source.warn("block X is damaged").keep(300_000, 0, 120_000).keep(0, 120_001, 10_000_000);
    let storage = Arc::new(MemoryStorage { tenant: TenantId::default(), source: Arc::new(source), view: Mutex::default() });
    let notes = async |path: &str| {
        let app = app_with(storage.clone(), ApiConfig::default());
        let (_, _, body) = send(app, Request::get(path).body(Body::empty()).expect("a request")).await;
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(body["status"], "success", "{body}");
        body["warnings"].clone()
    };
    let buckets = "answered from 5m downsampled data for a part of the time or series, because nothing finer is left";
    for path in ["labels?start=0&end=300", "label/job/values?start=0&end=300&limit=9", "series?match[]=gauge&start=0&end=300"] {
        assert_eq!(notes(&format!("/api/v1/{path}")).await, json!([buckets, "block X is damaged"]), "{path}");
    }
    assert_eq!(notes("/api/v1/series?start=200&end=300&match[]=gauge&match[]=odd").await, json!(["block X is damaged"]));
    assert_eq!(notes("/api/v1/labels?start=200&end=300&match[]=gauge&match[]=odd").await, json!(["block X is damaged"]));
    assert_eq!(notes("/api/v1/query_exemplars?query=gauge&start=0&end=300").await, json!(["block X is damaged"]));
}

#[tokio::test]
async fn metadata_and_exemplars() {
    let all = ok("metadata", &[]).await;
    assert_eq!(all["http_requests_total"][0], json!({"type": "counter", "help": "Requests.", "unit": ""}));
    assert_eq!(ok("metadata", &[("limit", "1"), ("limit_per_metric", "1")]).await.as_object().map(|m| m.len()), Some(1));
    assert_eq!(ok("metadata", &[("metric", "odd")]).await, json!({"odd": [{"type": "counter", "help": "Odd.", "unit": ""}]}));
    let params = [("query", "rate(http_requests_total[5m]) / http_requests_total"), ("start", "0"), ("end", "100")];
    assert_eq!(
        ok("query_exemplars", &params).await,
        json!([{
            "seriesLabels": {"__name__": "http_requests_total", "job": "api", "code": "200"},
            "exemplars": [{"labels": {"trace_id": "abc"}, "value": "0.25", "timestamp": 60.5}],
        }])
    );
    assert_eq!(ok("query_exemplars", &[("query", "odd"), ("start", "0"), ("end", "100")]).await, json!([]));
}

#[tokio::test]
async fn formats_and_parses() {
    assert_eq!(ok("format_query", &[("query", "foo/bar")]).await, json!("foo / bar"));
    refused(
        "format_query",
        &[("query", "foo/")],
        400,
        "bad_data",
        "invalid parameter \"query\": 1:5: parse error: unexpected end of input",
    )
    .await;
    let tree = ok("parse_query", &[("query", "sum by (a) (rate(foo{b=\"c\"}[5m] offset 1m)) > bool 1")]).await;
    assert_eq!(
        (&tree["type"], &tree["op"], &tree["bool"], &tree["matching"]),
        (&json!("binaryExpr"), &json!(">"), &json!(true), &Value::Null)
    );
    let selector = &tree["lhs"]["expr"]["args"][0];
    assert_eq!((&selector["type"], &selector["range"], &selector["offset"]), (&json!("matrixSelector"), &json!(300_000), &json!(60_000)));
}

#[tokio::test]
async fn status_pages() {
    assert_eq!(ok("status/buildinfo", &[]).await["version"], "1.2.3");
    assert_eq!(ok("status/runtimeinfo", &[]).await["CWD"], "/data");
    assert_eq!(ok("status/config", &[]).await, json!({"yaml": "a: 1\n"}));
    assert_eq!(ok("status/flags", &[]).await, json!({"data": "/data"}));
    assert_eq!(ok("status/walreplay", &[]).await, json!({"min": 1, "max": 3, "current": 2}));
    let tsdb = ok("status/tsdb", &[("start", "0"), ("limit", "1")]).await;
    assert_eq!(tsdb["headStats"]["numSeries"], 7);
    assert_eq!(tsdb["seriesCountByMetricName"], json!([{"name": "http_requests_total", "value": 2}]));
    assert_eq!(tsdb["labelValueCountByLabelName"], json!([{"name": "__name__", "value": 6}]));
    assert_eq!(tsdb["seriesCountByLabelValuePair"], json!([{"name": "job=api", "value": 3}]));
}

#[tokio::test]
async fn posts_forms() {
    let post = |uri: &str, body: String| {
        let request = Request::post(uri).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        request.body(Body::from(body)).expect("a request")
    };
    let (status, headers, body) = send(app(), post("/api/v1/query?time=1", encoded(&[("query", "time()"), ("time", "60")]))).await;
    assert_eq!((status, headers[header::CONTENT_TYPE].to_str().ok()), (StatusCode::OK, Some("application/json")));
    assert_eq!(body, r#"{"status":"success","data":{"resultType":"scalar","result":[60,"60"]}}"#);
    let (status, ..) = send(app(), post("/api/v1/query", "x".repeat(5 << 20))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, _, body) = send(app(), post("/api/v1/labels", String::new())).await;
    assert_eq!(status, StatusCode::OK, "{body}");
}

#[tokio::test]
async fn other_paths_and_methods() {
    let (status, body) = get("nothing/here", &[]).await;
    assert_eq!((status, &body["errorType"]), (404, &json!("not_found")));
    let (status, headers, body) = send(app(), Request::delete("/api/v1/query").body(Body::empty()).expect("a request")).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(headers[header::ALLOW].to_str().is_ok_and(|allow| allow.contains("GET") && allow.contains("POST")), "{headers:?}");
    assert!(body.contains("\"status\":\"error\""), "{body}");
    let (status, ..) = send(app(), Request::post("/api/v1/metadata").body(Body::empty()).expect("a request")).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn tenants_see_their_own() {
    let ask = async |tenant: &str| {
        let uri = format!("/api/v1/query?{}", encoded(&[("query", "count(http_requests_total)"), ("time", "60")]));
        let request = Request::get(uri).header("X-Scope-OrgID", tenant).body(Body::empty()).expect("a request");
        let (status, _, body) = send(app(), request).await;
        (status.as_u16(), body)
    };
    assert!(ask("default").await.1.contains("\"2\""));
    let (status, body) = ask("somebody").await;
    assert_eq!((status, body.as_str()), (200, r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#));
    assert_eq!(ask("no/tenant").await.0, 400);
}

/// A store that does not answer, and says whether somebody waits for it.
struct Hanging(Arc<AtomicBool>);

impl Storage for Hanging {
    fn source(&self, _: &TenantId, _: &View) -> BoxFuture<'_, Result<Arc<dyn Source>>> {
        struct Waiting(Arc<AtomicBool>);
        impl Drop for Waiting {
            fn drop(&mut self) {
                self.0.store(false, Ordering::SeqCst);
            }
        }
        self.0.store(true, Ordering::SeqCst);
        let waiting = Waiting(Arc::clone(&self.0));
        Box::pin(async move {
            futures::future::pending::<()>().await;
            drop(waiting);
            Ok(Arc::new(MemorySource::default()) as Arc<dyn Source>)
        })
    }
}

#[tokio::test]
async fn too_long_and_too_many_are_503() {
    let waiting = Arc::new(AtomicBool::new(false));
    let app = app_with(Arc::new(Hanging(Arc::clone(&waiting))), ApiConfig { max_concurrency: 1, max_waiting: 1, ..ApiConfig::default() });
    let ask = |timeout: &str| {
        let uri = format!("/api/v1/query?{}", encoded(&[("query", "up"), ("timeout", timeout)]));
        send(app.clone(), Request::get(uri).body(Body::empty()).expect("a request"))
    };
    let began = Instant::now();
    let (status, _, body) = ask("50ms").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.contains("\"errorType\":\"timeout\"") && began.elapsed() < Duration::from_secs(5), "{body}");

    let mut running = Box::pin(ask("1m"));
    assert!(futures::poll!(&mut running).is_pending() && waiting.load(Ordering::SeqCst));
    let (status, headers, body) = ask("20ms").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.contains("query timed out in query queue") && headers.contains_key(header::RETRY_AFTER), "{body}");
    let mut queued = Box::pin(ask("1m"));
    assert!(futures::poll!(&mut queued).is_pending());
    let (_, _, body) = ask("1m").await;
    assert!(body.contains("\"errorType\":\"unavailable\""), "{body}");

    // The client of the running query goes away.
    drop(running);
    assert!(!waiting.load(Ordering::SeqCst));
    assert!(futures::poll!(&mut queued).is_pending() && waiting.load(Ordering::SeqCst), "the next one runs");
}

/// Two days of samples, of which the first is kept in buckets of 5 minutes.
fn downsampled() -> MemorySource {
    const DAY_MS: i64 = 86_400_000;
    let mut source = MemorySource::default();
    let samples: Vec<(i64, f64)> = (0..2880).map(|i| (i * 60_000, i as f64)).collect();
    source.float("gauge", &samples).keep(300_000, 0, DAY_MS - 1).keep(0, DAY_MS / 2, 2 * DAY_MS).warn("block b is damaged");
    source
}

#[tokio::test]
async fn resolutions_and_views_are_parameters() {
    let storage = Arc::new(MemoryStorage { tenant: TenantId::default(), source: Arc::new(downsampled()), view: Mutex::default() });
    let send = async |config: ApiConfig, path: &str, params: &[(&str, &str)]| {
        let app = app_with(storage.clone() as Arc<dyn Storage>, config);
        let request = Request::get(format!("/api/v1/{path}?{}", encoded(params))).body(Body::empty()).expect("a request");
        let (status, _, body) = send(app, request).await;
        let body: Value = serde_json::from_str(&body).expect("JSON");
        (status.as_u16(), body)
    };
    let range = [("query", "gauge"), ("start", "50000"), ("end", "80000"), ("step", "1800")];
    let notes = async |config: ApiConfig, more: &[(&str, &str)]| {
        let (status, body) = send(config, "query_range", &[&range, more].concat()).await;
        assert_eq!(status, 200, "{body}");
        let warnings = body["warnings"].as_array().expect("a list").iter().map(|w| w.as_str().expect("text").to_owned());
        warnings.filter(|w| w != "block b is damaged").collect::<Vec<_>>()
    };
    let manual = || ApiConfig { auto_downsampling: false, ..ApiConfig::default() };
    let answered = |by: &str| vec![format!("answered from 5m downsampled data (max_source_resolution={by})")];
    assert_eq!(notes(ApiConfig::default(), &[]).await, answered("auto"));
    assert_eq!(notes(manual(), &[]).await, [""; 0]);
    assert_eq!(notes(manual(), &[("max_source_resolution", "auto")]).await, answered("auto"));
    assert_eq!(notes(manual(), &[("max_source_resolution", "300")]).await, answered("5m"));
    assert_eq!(notes(manual(), &[("max_source_resolution", "1h")]).await, answered("1h"));
    assert_eq!(notes(ApiConfig::default(), &[("max_source_resolution", "0")]).await, [""; 0]);

    let (_, instant) = send(ApiConfig::default(), "query", &[("query", "gauge"), ("time", "60000")]).await;
    assert_eq!(instant["warnings"], json!(["block b is damaged"]), "instant queries read raw samples where there are any");
    let (_, old) = send(ApiConfig::default(), "query", &[("query", "gauge"), ("time", "10000")]).await;
    let forced = "answered from 5m downsampled data, because nothing finer is left (max_source_resolution=0s)";
    assert_eq!(old["warnings"], json!([forced, "block b is damaged"]));

    for (text, message) in [
        ("-1", "invalid parameter \"max_source_resolution\": it must not be negative; use auto, 0 or a duration"),
        ("fine", "invalid parameter \"max_source_resolution\": cannot parse \"fine\" to a valid duration"),
    ] {
        let (status, body) = send(ApiConfig::default(), "query_range", &[&range[..], &[("max_source_resolution", text)]].concat()).await;
        assert_eq!((status, body["error"].as_str()), (400, Some(message)));
    }

    for (params, dedup, replica_labels) in [
        (&[][..], true, None),
        (&[("dedup", "false")], false, None),
        (&[("dedup", "true"), ("replicaLabels[]", "a"), ("replicaLabels[]", "b")], true, Some(vec!["a".to_owned(), "b".to_owned()])),
    ] {
        for (path, own) in [("query", ("query", "gauge")), ("series", ("match[]", "gauge")), ("labels", ("limit", "5"))] {
            *storage.view.lock() = View { dedup: !dedup, replica_labels: None };
            let (status, _) = send(ApiConfig::default(), path, &[&[own], params].concat()).await;
            assert_eq!(status, 200);
            assert_eq!(*storage.view.lock(), View { dedup, replica_labels: replica_labels.clone() }, "{path} {params:?}");
        }
    }
}
