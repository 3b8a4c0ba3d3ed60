//! Questions to the graph. Each names a time (`at`, now by default), and gets an answer that says how far it can be trusted.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::params::Params;
use super::refusal::{Refusal, success};
use crate::analysis::blast::{Blast, BlastRequest, Live, MAX_LISTED};
use crate::analysis::cause::CauseRequest;
use crate::analysis::paths::MAX_PATHS;
use crate::analysis::search::MAX_HITS;
use crate::analysis::walk::{Filter, MAX_WALK_NODES, WalkRequest};
use crate::diff::{MAX_DIFFERENCES, diff};
use crate::service::{Service, Tenant};
use crate::{Answer, AsOf, Budget, Direction, NodeIdx, Result, Snapshot, Unresolved, dot, mesh};

/// Largest body of a question.
const MAX_BODY_BYTES: usize = 4 << 20;

/// Nodes that are listed unless the request says how many.
const DEFAULT_LIMIT: usize = 100;

/// Most edges of a node that are listed.
const MAX_NEIGHBOURS: usize = 10_000;

/// Most nodes of a picture.
const MAX_PICTURE_NODES: usize = 2_000;

/// The routes.
pub(super) fn routes() -> Router<Service> {
    Router::new()
        .route("/api/v1/lineage/status", get(status))
        .route("/api/v1/lineage/nodes", get(nodes))
        .route("/api/v1/lineage/neighbours", get(neighbours))
        .route("/api/v1/lineage/upstream", get(upstream))
        .route("/api/v1/lineage/downstream", get(downstream))
        .route("/api/v1/lineage/paths", get(paths))
        .route("/api/v1/lineage/blast-radius", get(blast).post(blast_of))
        .route("/api/v1/lineage/causes", get(causes).post(causes_of))
        .route("/api/v1/lineage/single-points", get(single_points))
        .route("/api/v1/lineage/choke-points", get(choke_points))
        .route("/api/v1/lineage/cycles", get(cycles))
        .route("/api/v1/lineage/value", get(value))
        .route("/api/v1/lineage/diff", get(difference))
        .route("/api/v1/lineage/graph", get(graph))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
}

type Answered = std::result::Result<Response, Refusal>;

/// Tells the work of an answer to stop when nobody waits for it any more.
struct Abandoned(Arc<AtomicBool>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a question on a thread that may compute, and gives what it answers. Dropping the future ends the work soon.
async fn compute<T: Send + 'static>(work: impl FnOnce(&mut Budget) -> Result<T> + Send + 'static) -> std::result::Result<T, Refusal> {
    let abandoned = Abandoned(Arc::default());
    let mut budget = Budget::default().cancelable(Arc::clone(&abandoned.0));
    let done = tokio::task::spawn_blocking(move || work(&mut budget)).await;
    Ok(done.map_err(|e| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer could not be computed: {e}")))??)
}

/// Asks the graph as of the parameter `at`.
async fn ask<T: Serialize>(
    service: &Service,
    headers: &HeaderMap,
    params: &Params,
    question: impl FnOnce(&Snapshot, &mut Budget) -> Result<Answer<T>> + Send + 'static,
) -> Answered {
    let tenant = service.tenant_of(headers).await?;
    let snapshot = tenant.store.snapshot(params.as_of()?).await?;
    answer(snapshot, question).await
}

async fn answer<T: Serialize>(
    snapshot: Arc<Snapshot>,
    question: impl FnOnce(&Snapshot, &mut Budget) -> Result<Answer<T>> + Send + 'static,
) -> Answered {
    let body = compute(move |budget| {
        let answer = question(&snapshot, budget)?;
        // Written here, because a large answer takes long to write.
        Ok(serde_json::to_vec(&json!({"status": "success", "data": answer})).expect("an answer is plain data"))
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], body.await?).into_response())
}

async fn status(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answered {
    let tenant = service.tenant_of(&headers).await?;
    let snapshot = tenant.store.snapshot(params.as_of()?).await?;
    let sizes = tenant.store.sizes();
    Ok(success(json!({
        "as_of_ms": snapshot.at_ms(),
        "version": sizes.version,
        "nodes": snapshot.node_count(),
        "edges": snapshot.edge_count(),
        "kinds": snapshot.count_by_kind(),
        "sources": snapshot.sources(),
        "ever": {"nodes": sizes.nodes, "edges": sizes.edges, "source_scopes": sizes.sources},
        "queued_bytes": sizes.queued_bytes,
    })))
}

async fn nodes(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answered {
    let text = params.get("q").unwrap_or("").to_owned();
    let kind = params.get("kind").map(str::to_owned);
    let limit = params.limit("limit", DEFAULT_LIMIT, MAX_HITS)?;
    ask(&service, &headers, &params, move |snapshot, budget| snapshot.search(&text, kind.as_deref(), limit, budget)).await
}

async fn neighbours(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answered {
    let (node, limit) = (params.node("node")?, params.limit("limit", 1000, MAX_NEIGHBOURS)?);
    ask(&service, &headers, &params, move |snapshot, _| snapshot.neighbours(&node, limit)).await
}

async fn upstream(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answered {
    walk(&service, &headers, &params, Direction::Providers).await
}

async fn downstream(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answered {
    walk(&service, &headers, &params, Direction::Dependents).await
}

async fn walk(service: &Service, headers: &HeaderMap, params: &Params, direction: Direction) -> Answered {
    let request = walk_request(params, direction, 1000)?;
    ask(service, headers, params, move |snapshot, budget| snapshot.walk(&request, budget)).await
}

fn walk_request(params: &Params, direction: Direction, default_limit: usize) -> std::result::Result<WalkRequest, Refusal> {
    let nodes = params.nodes("node")?;
    if nodes.is_empty() {
        return Err(Refusal::parameter("node", "is missing"));
    }
    Ok(WalkRequest {
        nodes,
        direction,
        depth: params.parsed("depth")?.unwrap_or(u32::MAX),
        filter: filter(params)?,
        limit: params.limit("limit", default_limit, MAX_WALK_NODES)?,
        edges: switch(params, "edges")?,
    })
}

fn filter(params: &Params) -> std::result::Result<Filter, Refusal> {
    Ok(Filter {
        kinds: params.all("kind").map(str::to_owned).collect(),
        classes: words(params, "class")?,
        relations: words(params, "relation")?,
        flows: words(params, "flow")?,
        evidence: words(params, "evidence")?,
        live_only: switch(params, "live_only")?,
    })
}

/// Values of a parameter that are words of the model, such as `hard`.
fn words<T: DeserializeOwned>(params: &Params, name: &str) -> std::result::Result<Vec<T>, Refusal> {
    params.all(name).map(|word| serde_json::from_value(word.into()).map_err(|e| Refusal::parameter(name, e))).collect()
}

fn switch(params: &Params, name: &str) -> std::result::Result<bool, Refusal> {
    match params.get(name) {
        None => Ok(false),
        Some(text) => bool::from_str(text).map_err(|_| Refusal::parameter(name, format!("{text:?} is neither true nor false"))),
    }
}

async fn paths(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answered {
    let (from, to) = (params.node("from")?, params.node("to")?);
    let limit = params.limit("limit", 10, MAX_PATHS)?;
    ask(&service, &headers, &params, move |snapshot, budget| snapshot.paths(&from, &to, limit, budget)).await
}

async fn blast(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answered {
    blast_answer(&service, &headers, &params, blast_request(&params)?).await
}

async fn blast_of(State(service): State<Service>, headers: HeaderMap, params: Params, body: Bytes) -> Answered {
    blast_answer(&service, &headers, &params, super::facts::json(&body)?).await
}

fn blast_request(params: &Params) -> std::result::Result<BlastRequest, Refusal> {
    let nodes = params.nodes("node")?;
    if nodes.is_empty() {
        return Err(Refusal::parameter("node", "is missing; name what has failed, as in node=service:shop/payment"));
    }
    let mut request = BlastRequest::new(nodes);
    request.late = switch(params, "late")?;
    request.kinds = params.all("kind").map(str::to_owned).collect();
    request.limit = params.limit("limit", request.limit, MAX_LISTED)?;
    request.limit_per_kind = params.limit("limit_per_kind", request.limit_per_kind, MAX_LISTED)?;
    request.severity = params.parsed("severity")?.unwrap_or(request.severity);
    request.worlds = params.parsed("worlds")?.unwrap_or(request.worlds);
    request.seed = params.parsed("seed")?.unwrap_or(request.seed);
    request.min_probability = params.parsed("min_probability")?.unwrap_or(request.min_probability);
    request.max_hops = params.parsed("max_hops")?.unwrap_or(request.max_hops);
    Ok(request)
}

/// Graph and live rates as of the parameter `at`. What could not be had of the rates is told with the answer.
async fn with_rates(
    service: &Service,
    headers: &HeaderMap,
    params: &Params,
) -> std::result::Result<(Arc<Tenant>, Arc<Snapshot>, Live, Vec<Unresolved>), Refusal> {
    let as_of = params.as_of()?;
    let tenant = service.tenant_of(headers).await?;
    let snapshot = tenant.store.snapshot(as_of).await?;
    let (live, unresolved) = mesh::live(service, &tenant, as_of).await;
    Ok((tenant, snapshot, live, unresolved))
}

async fn blast_answer(service: &Service, headers: &HeaderMap, params: &Params, request: BlastRequest) -> Answered {
    let (_, snapshot, live, unresolved) = with_rates(service, headers, params).await?;
    answer(snapshot, move |snapshot, budget| Ok(joined(snapshot.blast(&request, &live, budget)?, unresolved))).await
}

/// An answer that is not complete if more than the graph's own part could not be had.
fn joined<T>(mut answer: Answer<T>, unresolved: Vec<Unresolved>) -> Answer<T> {
    answer.complete &= unresolved.is_empty();
    answer.unresolved.extend(unresolved);
    answer
}

async fn causes(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answered {
    let request = CauseRequest {
        alerting: params.nodes("node")?,
        silent: params.nodes("silent")?,
        limit: params.limit("limit", 20, 1000)?,
        ..CauseRequest::default()
    };
    if request.alerting.is_empty() {
        return Err(Refusal::parameter("node", "is missing; name every node that alerts"));
    }
    ask(&service, &headers, &params, move |snapshot, budget| snapshot.causes(&request, budget)).await
}

async fn causes_of(State(service): State<Service>, headers: HeaderMap, params: Params, body: Bytes) -> Answered {
    let request: CauseRequest = super::facts::json(&body)?;
    ask(&service, &headers, &params, move |snapshot, budget| snapshot.causes(&request, budget)).await
}

async fn single_points(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answered {
    let node = params.node("node")?;
    ask(&service, &headers, &params, move |snapshot, budget| snapshot.single_points(&node, budget)).await
}

async fn choke_points(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answered {
    let limit = params.limit("limit", DEFAULT_LIMIT, MAX_LISTED)?;
    ask(&service, &headers, &params, move |snapshot, _| Ok(snapshot.choke_points(limit))).await
}

async fn cycles(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answered {
    let limit = params.limit("limit", DEFAULT_LIMIT, MAX_LISTED)?;
    ask(&service, &headers, &params, move |snapshot, _| Ok(snapshot.cycles(limit))).await
}

async fn value(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answered {
    let (node, limit) = (params.node("node")?, params.limit("limit", 20, MAX_LISTED)?);
    let (_, snapshot, live, unresolved) = with_rates(&service, &headers, &params).await?;
    answer(snapshot, move |snapshot, budget| Ok(joined(snapshot.value(&node, &live, limit, budget)?, unresolved))).await
}

async fn difference(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answered {
    let from = params.time_ms("from")?.ok_or_else(|| Refusal::parameter("from", "is missing; give a time"))?;
    let to = params.time_ms("to")?.map_or(AsOf::Now, AsOf::At);
    let limit = params.limit("limit", 1000, MAX_DIFFERENCES)?;
    let tenant = service.tenant_of(&headers).await?;
    let (before, after) = tenant.store.snapshots(AsOf::At(from), to).await?;
    answer(after, move |after, _| Ok(diff(&before, after, limit))).await
}

/// What a picture is made of.
#[derive(Serialize)]
struct Picture {
    nodes: Vec<crate::snapshot::NodeRef>,
    edges: Vec<crate::snapshot::EdgeView>,
}

/// A part of the graph: all of it if it is small and no node is given, or what lies around nodes. `format=dot` is for Graphviz.
async fn graph(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answered {
    let dot_wanted = match params.get("format").unwrap_or("json") {
        "json" => false,
        "dot" => true,
        other => return Err(Refusal::parameter("format", format!("{other:?} is neither json nor dot"))),
    };
    let limit = params.limit("limit", 200, MAX_PICTURE_NODES)?;
    let starts = params.nodes("node")?;
    let failed = params.nodes("failed")?;
    let depth: u32 = params.parsed("depth")?.unwrap_or(3);
    let filter = filter(&params)?;
    let (_, snapshot, live, _) = with_rates(&service, &headers, &params).await?;
    let picture = move |snapshot: &Snapshot, budget: &mut Budget| -> Result<(Answer<Picture>, Option<Blast>)> {
        let picture = picture(snapshot, if starts.is_empty() { &failed } else { &starts }, depth, &filter, limit, budget)?;
        let blast = match failed.is_empty() {
            true => None,
            false => Some(snapshot.blast(&BlastRequest { limit: MAX_LISTED, ..BlastRequest::new(failed) }, &live, budget)?.result),
        };
        Ok((picture, blast))
    };
    if !dot_wanted {
        return answer(snapshot, move |snapshot, budget| Ok(picture(snapshot, budget)?.0)).await;
    }
    let text = compute(move |budget| {
        let (picture, blast) = picture(&snapshot, budget)?;
        let left_out: String = picture.unresolved.iter().map(|u| format!("// {}: {}\n", u.subject, u.reason.replace('\n', " "))).collect();
        Ok(left_out + &dot::write(&picture.result.nodes, &picture.result.edges, blast.as_ref()))
    });
    Ok(([(header::CONTENT_TYPE, "text/vnd.graphviz; charset=utf-8")], text.await?).into_response())
}

fn picture(
    snapshot: &Snapshot,
    starts: &[crate::NodeKey],
    depth: u32,
    filter: &Filter,
    limit: usize,
    budget: &mut Budget,
) -> Result<Answer<Picture>> {
    let mut unresolved = Vec::new();
    let mut nodes: Vec<NodeIdx> = Vec::new();
    if starts.is_empty() {
        nodes.extend(
            snapshot.nodes().filter(|n| filter.kinds.is_empty() || filter.kinds.iter().any(|k| k == snapshot.kind(*n))).take(limit),
        );
        if snapshot.node_count() > limit {
            let reason = format!("only {limit} of {} nodes are shown; name nodes to begin with, or raise limit", snapshot.node_count());
            unresolved.push(Unresolved { subject: "nodes".into(), reason });
        }
    }
    for direction in [Direction::Providers, Direction::Dependents] {
        if starts.is_empty() {
            break;
        }
        let request =
            WalkRequest { nodes: starts.to_vec(), direction, depth, filter: filter.clone(), limit: limit.div_ceil(2), edges: false };
        let walked = snapshot.walk(&request, budget)?;
        unresolved.extend(walked.unresolved);
        let found = starts.iter().chain(walked.result.nodes.iter().map(|v| &v.node.id)).filter_map(|key| snapshot.find(key));
        nodes.extend(found);
    }
    nodes.sort_unstable();
    nodes.dedup();
    let inside = |n: &NodeIdx| nodes.binary_search(n).is_ok();
    let edges = nodes.iter().flat_map(|n| snapshot.providers(*n)).filter(|(_, to)| inside(to)).map(|(e, _)| snapshot.edge(e)).collect();
    let picture = Picture { nodes: nodes.iter().map(|n| snapshot.node_ref(*n)).collect(), edges };
    Ok(snapshot.answer(picture, unresolved))
}
