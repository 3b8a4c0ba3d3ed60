//! The read API of Marquez at the paths that Marquez has. Errors have Marquez's shape, too.

use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use super::params::{Params, parse_time_ms};
use super::refusal::{RETRY_AFTER_SECONDS, Refusal};
use crate::AsOf;
use crate::marquez::{Counted, Found, Kind, Missing, NodeId, Order, Page, Period, Reader};
use crate::service::Service;

/// Entries of a page unless the request says otherwise.
const DEFAULT_LIMIT: usize = 100;

/// Most entries of a page.
const MAX_LIMIT: usize = 10_000;

/// Most events of a page.
const MAX_EVENTS: usize = 1_000;

/// Hits of a search unless the request says otherwise.
const DEFAULT_HITS: usize = 10;

/// Jobs from the first one to the last one unless the request says otherwise.
const DEFAULT_DEPTH: usize = 20;

/// Most runs back from one.
const MAX_RUN_DEPTH: usize = 1_000;

/// The routes. Those that begin with `/api/v1/lineage/` are others' but for the first one.
pub(super) fn routes() -> Router<Service> {
    Router::new()
        .route("/api/v1/lineage", get(lineage))
        .route("/api/v1/column-lineage", get(column_lineage))
        .route("/api/v1/runlineage/upstream", get(upstream_runs))
        .route("/api/v1/events/lineage", get(events))
        .route("/api/v1/search", get(search))
        .route("/api/v2beta/search/jobs", get(search_jobs))
        .route("/api/v2beta/search/datasets", get(search_datasets))
        .route("/api/v1/namespaces", get(namespaces))
        .route("/api/v1/namespaces/{namespace}", get(namespace))
        .route("/api/v1/namespaces/{namespace}/jobs", get(namespace_jobs))
        .route("/api/v1/namespaces/{namespace}/jobs/{name}", get(job))
        .route("/api/v1/namespaces/{namespace}/jobs/{name}/runs", get(job_runs))
        .route("/api/v1/namespaces/{namespace}/jobs/{name}/versions", get(job_versions))
        .route("/api/v1/namespaces/{namespace}/jobs/{name}/versions/{version}", get(job_version))
        .route("/api/v1/namespaces/{namespace}/datasets", get(namespace_datasets))
        .route("/api/v1/namespaces/{namespace}/datasets/{name}", get(dataset))
        .route("/api/v1/namespaces/{namespace}/datasets/{name}/versions", get(dataset_versions))
        .route("/api/v1/namespaces/{namespace}/datasets/{name}/versions/{version}", get(dataset_version))
        .route("/api/v1/jobs", get(jobs))
        .route("/api/v1/jobs/runs/{id}", get(run))
        .route("/api/v1/jobs/runs/{id}/facets", get(run_facets))
        .route("/api/v1/tags", get(tags))
        .route("/api/v1/sources", get(sources))
        .route("/api/v1/sources/{name}", get(source))
        .route("/api/v1/stats/jobs", get(|s, h, p| stats(s, h, p, Counted::Jobs)))
        .route("/api/v1/stats/datasets", get(|s, h, p| stats(s, h, p, Counted::Datasets)))
        .route("/api/v1/stats/sources", get(|s, h, p| stats(s, h, p, Counted::Sources)))
        .route("/api/v1/stats/lineage-events", get(run_stats))
}

/// A refusal in Marquez's shape: the status as `code`, and a `message`.
struct Refused(Refusal);

impl<E: Into<Refusal>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl From<Missing> for Refusal {
    fn from(Missing(what, name): Missing) -> Self {
        let shown: String = name.chars().take(200).collect();
        Self::new(StatusCode::NOT_FOUND, format!("{what} '{shown}' not found."))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Refusal { status, reason } = self.0;
        let mut response = (status, Json(json!({"code": status.as_u16(), "message": reason}))).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        response
    }
}

type Answer = Result<Json<Value>, Refused>;

/// Answers from the graph as of the time that the request wants, away from the threads that wait for requests.
async fn read<T, F>(service: &Service, headers: &HeaderMap, as_of: AsOf, question: F) -> Result<T, Refused>
where
    T: Send + 'static,
    F: FnOnce(&Reader) -> Result<T, Refusal> + Send + 'static,
{
    let tenant = service.tenant_of(headers).await?;
    let snapshot = tenant.store.snapshot(as_of).await?;
    let store = tenant.store.clone();
    let work = tokio::task::spawn_blocking(move || question(&Reader::new(snapshot, store)));
    Ok(work.await.expect("questions do not panic")?)
}

async fn answer<F>(service: Service, headers: HeaderMap, params: &Params, question: F) -> Answer
where
    F: FnOnce(&Reader) -> Result<Value, Refusal> + Send + 'static,
{
    read(&service, &headers, params.as_of()?, question).await.map(Json)
}

fn page(params: &Params, default: usize) -> Result<Page, Refusal> {
    Ok(Page { limit: params.limit("limit", default, MAX_LIMIT)?, offset: params.limit("offset", 0, usize::MAX)? })
}

/// A time of Marquez: ISO 8601, a day, or Unix seconds. A plus sign that was not escaped has become a space.
fn moment(params: &Params, name: &str) -> Result<Option<i64>, Refusal> {
    let Some(text) = params.get(name) else { return Ok(None) };
    let plain = text.replace(' ', "+");
    let time =
        parse_time_ms(&plain).or_else(|| parse_time_ms(&format!("{plain}T00:00:00Z"))).or_else(|| parse_time_ms(&format!("{plain}Z")));
    time.map(Some).ok_or_else(|| Refusal::parameter(name, format!("{text:?} is neither ISO 8601 nor Unix seconds")))
}

/// The node that a request is about, and the time: that of the version in its id, or the one of the request.
async fn node(service: &Service, headers: &HeaderMap, params: &Params) -> Result<(NodeId, String, AsOf), Refused> {
    let text = params.required("nodeId")?.to_owned();
    let (id, version) = NodeId::parse(&text).map_err(|reason| Refusal::parameter("nodeId", reason))?;
    let mut as_of = params.as_of()?;
    if let Some(version) = version.map(str::to_owned) {
        let (id, name) = (id.clone(), text.clone());
        let found = read(service, headers, as_of, move |r| Ok(r.time_of_version(&id, &name, &version)?)).await?;
        as_of = AsOf::At(found);
    }
    Ok((id, text, as_of))
}

async fn lineage(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answer {
    let depth = params.limit("depth", DEFAULT_DEPTH, usize::MAX)?;
    let (id, text, as_of) = node(&service, &headers, &params).await?;
    read(&service, &headers, as_of, move |r| Ok(r.lineage(&id, &text, depth)?)).await.map(Json)
}

async fn column_lineage(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answer {
    let depth = params.limit("depth", DEFAULT_DEPTH, usize::MAX)?;
    let downstream = params.get("withDownstream").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    let (id, text, as_of) = node(&service, &headers, &params).await?;
    read(&service, &headers, as_of, move |r| Ok(r.column_lineage(&id, &text, depth, downstream)?)).await.map(Json)
}

async fn upstream_runs(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answer {
    let id = params.required("runId")?.to_owned();
    let depth = params.limit("depth", DEFAULT_DEPTH, MAX_RUN_DEPTH)?;
    answer(service, headers, &params, move |r| r.upstream_runs(&id, depth).ok_or_else(|| no_run(&id))).await
}

fn no_run(id: &str) -> Refusal {
    Missing("Run", id.to_owned()).into()
}

/// Events as they came. They are written into the answer as they are.
async fn events(State(service): State<Service>, headers: HeaderMap, params: Params) -> Result<Response, Refused> {
    let page = Page { limit: params.limit("limit", DEFAULT_LIMIT, MAX_EVENTS)?, offset: params.limit("offset", 0, usize::MAX)? };
    let before_ms = moment(&params, "before")?.unwrap_or(i64::MAX);
    let after_ms = moment(&params, "after")?.unwrap_or(0);
    let newest_first = match params.get("sortDirection") {
        None => true,
        Some(text) if text.eq_ignore_ascii_case("desc") => true,
        Some(text) if text.eq_ignore_ascii_case("asc") => false,
        Some(text) => return Err(Refusal::parameter("sortDirection", format!("{text:?} is neither asc nor desc")).into()),
    };
    let tenant = service.tenant_of(&headers).await?;
    let found = tenant.store.raw_events(before_ms, after_ms, newest_first, page.limit, page.offset).await?;
    let mut body = String::from("{\"events\":[");
    for (i, (_, event)) in found.events.iter().enumerate() {
        if i > 0 {
            body.push(',');
        }
        // An event that came in the store's own form may carry any text.
        match serde_json::from_str::<serde::de::IgnoredAny>(event) {
            Ok(_) => body.push_str(event),
            Err(_) => body.push_str(&Value::from(&**event).to_string()),
        }
    }
    body.push_str(&format!("],\"totalCount\":{}}}", found.total));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

async fn search(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answer {
    let kind = match params.get("filter") {
        None => None,
        Some(text) if text.eq_ignore_ascii_case("job") => Some(Kind::Job),
        Some(text) if text.eq_ignore_ascii_case("dataset") => Some(Kind::Dataset),
        Some(text) => return Err(Refusal::parameter("filter", format!("{text:?} is neither JOB nor DATASET")).into()),
    };
    let order = match params.get("sort").map(str::to_ascii_lowercase).as_deref() {
        None | Some("name") => Order::Name,
        Some("update_at" | "updated_at") => Order::Updated,
        Some(text) => return Err(Refusal::parameter("sort", format!("{text:?} is neither NAME nor UPDATE_AT")).into()),
    };
    let wanted = Found {
        text: params.required("q")?.to_owned(),
        kind,
        namespace: params.get("namespace").map(str::to_owned),
        before_ms: moment(&params, "before")?,
        after_ms: moment(&params, "after")?,
        order,
        limit: params.limit("limit", DEFAULT_HITS, MAX_LIMIT)?,
    };
    answer(service, headers, &params, move |r| Ok(r.search(&wanted))).await
}

async fn search_jobs(state: State<Service>, headers: HeaderMap, params: Params) -> Answer {
    search_in(state, headers, params, Kind::Job).await
}

async fn search_datasets(state: State<Service>, headers: HeaderMap, params: Params) -> Answer {
    search_in(state, headers, params, Kind::Dataset).await
}

async fn search_in(State(service): State<Service>, headers: HeaderMap, params: Params, kind: Kind) -> Answer {
    let text = params.required("q")?.to_owned();
    let page = page(&params, DEFAULT_HITS)?;
    answer(service, headers, &params, move |r| Ok(r.search_in(&text, kind, page))).await
}

async fn namespaces(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answer {
    let page = page(&params, DEFAULT_LIMIT)?;
    answer(service, headers, &params, move |r| Ok(r.namespaces(page))).await
}

async fn namespace(State(service): State<Service>, Path(name): Path<String>, headers: HeaderMap, params: Params) -> Answer {
    answer(service, headers, &params, move |r| Ok(r.namespace(&name)?)).await
}

async fn namespace_jobs(State(service): State<Service>, Path(namespace): Path<String>, headers: HeaderMap, params: Params) -> Answer {
    let (page, states) = (page(&params, DEFAULT_LIMIT)?, states(&params));
    answer(service, headers, &params, move |r| Ok(r.jobs(Some(&namespace), &states, page)?)).await
}

async fn jobs(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answer {
    let (page, states) = (page(&params, DEFAULT_LIMIT)?, states(&params));
    answer(service, headers, &params, move |r| Ok(r.jobs(None, &states, page)?)).await
}

/// States of last runs that are wanted.
fn states(params: &Params) -> Vec<String> {
    params.all("lastRunStates").flat_map(|v| v.split(',')).map(str::to_owned).collect()
}

async fn job(
    State(service): State<Service>,
    Path((namespace, name)): Path<(String, String)>,
    headers: HeaderMap,
    params: Params,
) -> Answer {
    answer(service, headers, &params, move |r| Ok(r.job(&namespace, &name)?)).await
}

async fn job_runs(
    State(service): State<Service>,
    Path((namespace, name)): Path<(String, String)>,
    headers: HeaderMap,
    params: Params,
) -> Answer {
    let page = page(&params, DEFAULT_LIMIT)?;
    answer(service, headers, &params, move |r| Ok(r.job_runs(&namespace, &name, page)?)).await
}

async fn job_versions(
    State(service): State<Service>,
    Path((namespace, name)): Path<(String, String)>,
    headers: HeaderMap,
    params: Params,
) -> Answer {
    let page = page(&params, DEFAULT_LIMIT)?;
    answer(service, headers, &params, move |r| Ok(r.job_versions(&namespace, &name, page)?)).await
}

async fn job_version(
    State(service): State<Service>,
    Path((namespace, name, version)): Path<(String, String, String)>,
    headers: HeaderMap,
    params: Params,
) -> Answer {
    answer(service, headers, &params, move |r| Ok(r.job_version_by_id(&namespace, &name, &version)?)).await
}

async fn namespace_datasets(State(service): State<Service>, Path(namespace): Path<String>, headers: HeaderMap, params: Params) -> Answer {
    let page = page(&params, DEFAULT_LIMIT)?;
    answer(service, headers, &params, move |r| Ok(r.datasets(Some(&namespace), page)?)).await
}

async fn dataset(
    State(service): State<Service>,
    Path((namespace, name)): Path<(String, String)>,
    headers: HeaderMap,
    params: Params,
) -> Answer {
    answer(service, headers, &params, move |r| Ok(r.dataset(&namespace, &name)?)).await
}

async fn dataset_versions(
    State(service): State<Service>,
    Path((namespace, name)): Path<(String, String)>,
    headers: HeaderMap,
    params: Params,
) -> Answer {
    let page = page(&params, DEFAULT_LIMIT)?;
    answer(service, headers, &params, move |r| Ok(r.dataset_versions(&namespace, &name, page)?)).await
}

async fn dataset_version(
    State(service): State<Service>,
    Path((namespace, name, version)): Path<(String, String, String)>,
    headers: HeaderMap,
    params: Params,
) -> Answer {
    answer(service, headers, &params, move |r| Ok(r.dataset_version(&namespace, &name, &version)?)).await
}

async fn run(State(service): State<Service>, Path(id): Path<String>, headers: HeaderMap, params: Params) -> Answer {
    answer(service, headers, &params, move |r| r.run_by_id(&id).ok_or_else(|| no_run(&id))).await
}

async fn run_facets(State(service): State<Service>, Path(id): Path<String>, headers: HeaderMap, params: Params) -> Answer {
    let of_job = match params.get("type").map(str::to_ascii_lowercase).as_deref() {
        None | Some("run") => false,
        Some("job") => true,
        Some(text) => return Err(Refusal::parameter("type", format!("{text:?} is neither run nor job")).into()),
    };
    answer(service, headers, &params, move |r| r.run_facets(&id, of_job).ok_or_else(|| no_run(&id))).await
}

async fn tags(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answer {
    let page = page(&params, DEFAULT_LIMIT)?;
    answer(service, headers, &params, move |r| Ok(r.tags(page))).await
}

async fn sources(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answer {
    let page = page(&params, DEFAULT_LIMIT)?;
    answer(service, headers, &params, move |r| Ok(r.source_list(page))).await
}

async fn source(State(service): State<Service>, Path(name): Path<String>, headers: HeaderMap, params: Params) -> Answer {
    answer(service, headers, &params, move |r| Ok(r.source(&name)?)).await
}

fn period(params: &Params) -> Result<Period, Refusal> {
    match params.get("period").map(str::to_ascii_lowercase).as_deref() {
        None | Some("day") => Ok(Period::Day),
        Some("week") => Ok(Period::Week),
        Some(text) => Err(Refusal::parameter("period", format!("{text:?} is neither DAY nor WEEK"))),
    }
}

async fn stats(State(service): State<Service>, headers: HeaderMap, params: Params, counted: Counted) -> Answer {
    let period = period(&params)?;
    answer(service, headers, &params, move |r| Ok(r.counts(counted, period))).await
}

async fn run_stats(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answer {
    let period = period(&params)?;
    answer(service, headers, &params, move |r| Ok(r.run_counts(period))).await
}

#[cfg(test)]
mod tests;
