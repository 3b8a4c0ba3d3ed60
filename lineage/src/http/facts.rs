//! Own events and leases in: facts that somebody states directly, and names that people join or take apart.
//!
//! A lease is how a process says that a service is there, as a sidekick does: it puts the lease every so often, and if it stops, the
//! service is stale after the time to live and expired some time later. Nothing is ever removed by a lost request.

use std::io::Read;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use flate2::read::GzDecoder;
use isobar_block::{BlockId, time};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::params::Params;
use super::refusal::{Refusal, success};
use crate::event::{Event, MAX_TTL_MS, Pair};
use crate::model::{Attributes, EdgeBody, Evidence, NodeBody, Owner, kind};
use crate::service::Service;
use crate::store::MAX_APPEND_BYTES;
use crate::{Error, Fact, NodeKey, Outcome};

/// Source of leases.
pub const LEASE_SOURCE: &str = "lease";

/// Source of what people join and take apart.
pub const MANUAL_SOURCE: &str = "manual";

/// Time to live of a lease that names none.
const LEASE_TTL: Duration = Duration::from_secs(30);

/// Shortest time to live of a lease.
const MIN_LEASE_TTL: Duration = Duration::from_secs(1);

/// Largest body of a lease or an alias.
const MAX_SMALL_BODY_BYTES: usize = 256 << 10;

/// The routes.
pub(super) fn routes() -> Router<Service> {
    let small = Router::new()
        .route("/api/v1/lineage/leases/{service}", put(put_lease).delete(delete_lease))
        .route("/api/v1/lineage/aliases", get(aliases).post(join).delete(separate))
        .layer(DefaultBodyLimit::max(MAX_SMALL_BODY_BYTES));
    Router::new().route("/api/v1/lineage/events", post(events)).layer(DefaultBodyLimit::max(MAX_APPEND_BYTES)).merge(small)
}

type Answered = Result<Response, Refusal>;

/// The body of a request, unpacked if it says that it is compressed.
///
/// # Errors
/// If it is compressed in another way, broken, or larger than `most` when unpacked.
pub(crate) fn unpacked(headers: &HeaderMap, body: Bytes, most: usize) -> Result<Bytes, Refusal> {
    let encoding = headers.get(header::CONTENT_ENCODING).map(|e| e.to_str().unwrap_or("?").trim().to_ascii_lowercase());
    match encoding.as_deref() {
        None | Some("" | "identity") => Ok(body),
        Some("gzip") => {
            let mut out = Vec::new();
            let read = GzDecoder::new(&body[..]).take(most as u64 + 1).read_to_end(&mut out);
            read.map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, format!("the body is not gzip, as Content-Encoding says: {e}")))?;
            if out.len() > most {
                let reason = format!("the body has more than {most} bytes when unpacked; send less at once");
                return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, reason));
            }
            Ok(out.into())
        }
        Some(other) => {
            Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("Content-Encoding {other:?} is not known; send gzip or nothing")))
        }
    }
}

/// Own events, one or a list. All of them are looked at: the answer says of each what became of it.
async fn events(State(service): State<Service>, headers: HeaderMap, body: Bytes) -> Answered {
    let tenant = service.tenant_of(&headers).await?;
    let body = unpacked(&headers, body, MAX_APPEND_BYTES)?;
    let events = read_events(&body)?;
    let ids: Vec<String> = events.iter().map(|e| e.id.clone()).collect();
    let outcomes = tenant.store.append(events).await?;
    let mut refused = 0;
    let list: Vec<_> = ids
        .into_iter()
        .zip(&outcomes)
        .map(|(id, outcome)| match outcome {
            Outcome::Stored(entry) => serde_json::json!({"id": id, "outcome": "stored", "entry": entry}),
            Outcome::Repeated => serde_json::json!({"id": id, "outcome": "repeated"}),
            Outcome::Refused(error) => {
                refused += 1;
                serde_json::json!({"id": id, "outcome": "refused", "error": error.to_string()})
            }
        })
        .collect();
    // An event alone that is refused is an error; of several, the good ones are stored.
    if let [Outcome::Refused(error)] = &outcomes[..] {
        let status = if matches!(error, Error::Cycle { .. }) { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::BAD_REQUEST };
        return Err(Refusal::new(status, error.to_string()));
    }
    let status = if refused == outcomes.len() && refused > 0 { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    Ok((status, success(serde_json::json!({"events": list, "refused": refused}))).into_response())
}

/// A body of JSON.
///
/// # Errors
/// With the path of the field that is wrong.
pub(crate) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let read = serde_path_to_error::deserialize(&mut reader).map_err(|e| match e.path().iter().next() {
        Some(_) => Refusal::new(StatusCode::BAD_REQUEST, format!("{}: {}", e.path(), e.inner())),
        None => Refusal::new(StatusCode::BAD_REQUEST, format!("the body: {}", e.inner())),
    })?;
    reader.end().map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, format!("the body: {e}")))?;
    Ok(read)
}

fn read_events(body: &[u8]) -> Result<Vec<Event>, Refusal> {
    let first = body.iter().find(|b| !b.is_ascii_whitespace());
    // The first byte tells which; trying both would hide what is wrong with the one that is meant.
    let events: Vec<Event> = match first {
        Some(b'[') => json(body)?,
        _ => vec![json(body)?],
    };
    match events.is_empty() {
        true => Err(Refusal::new(StatusCode::BAD_REQUEST, "the list of events is empty")),
        false => Ok(events),
    }
}

/// What a lease may say. All of it may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Lease {
    /// How long it holds, in seconds.
    ttl_seconds: Option<f64>,
    /// Who holds it, if several instances of a service do.
    instance: String,
    /// The host that the instance runs on.
    host: String,
    owners: Vec<Owner>,
    attributes: Attributes,
    /// What the service needs.
    depends_on: Vec<Need>,
}

/// Something that the holder of a lease needs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Need {
    node: NodeKey,
    #[serde(flatten)]
    body: EdgeBody,
}

/// The service that a path names: an id of a node, or `namespace/name`, or a name.
fn service_key(text: &str) -> Result<NodeKey, Refusal> {
    let key = if text.starts_with("service:") {
        NodeKey::parse(text)
    } else {
        match text.rsplit_once('/') {
            Some((namespace, name)) => NodeKey::new(kind::SERVICE, namespace, name),
            None => NodeKey::new(kind::SERVICE, "", text),
        }
    };
    key.map_err(|e| Refusal::parameter("service", e))
}

async fn put_lease(State(service): State<Service>, headers: HeaderMap, Path(name): Path<String>, body: Bytes) -> Answered {
    let node = service_key(&name)?;
    let lease: Lease = if body.is_empty() { Lease::default() } else { json(&body)? };
    let ttl_s = lease.ttl_seconds.unwrap_or(LEASE_TTL.as_secs_f64());
    let ttl_ms = (ttl_s * 1000.0).round();
    if !(MIN_LEASE_TTL.as_millis() as f64..=MAX_TTL_MS as f64).contains(&ttl_ms) {
        let reason = format!("{ttl_s} is not between {} and {}", MIN_LEASE_TTL.as_secs(), MAX_TTL_MS / 1000);
        return Err(Refusal::parameter("ttl_seconds", reason));
    }
    let ttl_ms = ttl_ms as i64;
    let now_ms = time::now_ms();
    let mut event = Event::new(BlockId::new(now_ms).to_string(), LEASE_SOURCE, format!("{node} {}", lease.instance), now_ms);
    event.facts = lease_facts(&node, lease, ttl_ms)?;
    let tenant = service.tenant_of(&headers).await?;
    stored(tenant.store.append(vec![event]).await?)?;
    Ok(success(serde_json::json!({"node": node, "ttl_ms": ttl_ms, "expires_at_ms": now_ms + ttl_ms})))
}

fn lease_facts(node: &NodeKey, lease: Lease, ttl_ms: i64) -> Result<Vec<Fact>, Refusal> {
    let refuse = |e: Error| Refusal::new(StatusCode::BAD_REQUEST, e.to_string());
    let body = NodeBody { evidence: Evidence::Observed, owners: lease.owners, attributes: lease.attributes, ..NodeBody::default() };
    let mut facts = vec![Fact::node(node.clone(), body).with_ttl(ttl_ms)];
    let observed = || EdgeBody { evidence: Evidence::Observed, ..EdgeBody::default() };
    let mut holder = node.clone();
    if !lease.instance.is_empty() {
        let parts = node.parts();
        let service: Vec<&str> = parts.iter().map(AsRef::as_ref).chain([lease.instance.as_str()]).collect();
        holder = NodeKey::from_parts(kind::INSTANCE, &service).map_err(refuse)?;
        // Any one instance keeps the service up.
        let group = crate::model::Group { id: "leases".into(), k: 1, n: None };
        let member = EdgeBody { group: Some(Box::new(group)), ..observed() };
        facts.push(Fact::depends(node.clone(), holder.clone(), member).with_ttl(ttl_ms));
    }
    if !lease.host.is_empty() {
        let host = NodeKey::new(kind::HOST, "", &lease.host).map_err(refuse)?;
        facts.push(Fact::depends(holder, host, observed()).with_ttl(ttl_ms));
    }
    let needs = lease.depends_on.into_iter().map(|need| Fact::depends(node.clone(), need.node, need.body).with_ttl(ttl_ms));
    facts.extend(needs);
    Ok(facts)
}

/// Gives a lease up: the service goes at once and does not wait for the end of its time to live.
async fn delete_lease(State(service): State<Service>, headers: HeaderMap, Path(name): Path<String>, params: Params) -> Answered {
    let node = service_key(&name)?;
    let instance = params.get("instance").unwrap_or("");
    let now_ms = time::now_ms();
    let mut event = Event::new(BlockId::new(now_ms).to_string(), LEASE_SOURCE, format!("{node} {instance}"), now_ms);
    event.complete_since_ms = Some(now_ms);
    let tenant = service.tenant_of(&headers).await?;
    stored(tenant.store.append(vec![event]).await?)?;
    Ok(success(serde_json::json!({"node": node})))
}

/// Refuses what was not stored.
fn stored(outcomes: Vec<Outcome>) -> Result<(), Refusal> {
    for outcome in outcomes {
        if let Outcome::Refused(error) = outcome {
            return Err(error.into());
        }
    }
    Ok(())
}

/// Two names of which somebody says that they are one.
#[derive(Debug, Serialize)]
struct Merged {
    canonical: NodeKey,
    aliases: Vec<crate::snapshot::AliasView>,
}

/// Every node with several names, and who says so by which rule.
async fn aliases(State(service): State<Service>, headers: HeaderMap, params: Params) -> Answered {
    const MAX_LISTED: usize = 10_000;
    let limit = params.limit("limit", 1000, MAX_LISTED)?;
    let tenant = service.tenant_of(&headers).await?;
    let snapshot = tenant.store.snapshot(params.as_of()?).await?;
    let answer = tokio::task::spawn_blocking(move || {
        let (mut merged, mut total) = (Vec::new(), 0);
        for node in snapshot.nodes().filter(|n| snapshot.has_aliases(*n)) {
            total += 1;
            if merged.len() < limit {
                let view = snapshot.node(node);
                merged.push(Merged { canonical: view.id, aliases: view.aliases });
            }
        }
        serde_json::json!({"as_of_ms": snapshot.at_ms(), "complete": total == merged.len(), "total": total, "merged": merged})
    });
    let answer = answer.await.map_err(|e| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    Ok(success(answer))
}

async fn join(State(service): State<Service>, headers: HeaderMap, body: Bytes) -> Answered {
    set_pair(&service, &headers, &body, true).await
}

async fn separate(State(service): State<Service>, headers: HeaderMap, body: Bytes) -> Answered {
    set_pair(&service, &headers, &body, false).await
}

/// Joins two names, or takes them apart whoever joins them. The last word of a person counts, so each takes the other back.
async fn set_pair(service: &Service, headers: &HeaderMap, body: &[u8], one: bool) -> Answered {
    let mut pair: Pair = json(body)?;
    if pair.rule.is_empty() {
        pair.rule = MANUAL_SOURCE.into();
    }
    let now_ms = time::now_ms();
    let mut event = Event::new(BlockId::new(now_ms).to_string(), MANUAL_SOURCE, "aliases", now_ms);
    event.facts = match one {
        true => vec![Fact::SeparateGone(pair.clone()), Fact::alias(pair.alias.clone(), pair.canonical.clone(), pair.rule.clone())],
        false => vec![Fact::AliasGone(pair.clone()), Fact::Separate(pair.clone())],
    };
    let tenant = service.tenant_of(headers).await?;
    stored(tenant.store.append(vec![event]).await?)?;
    Ok(success(serde_json::json!({"alias": pair.alias, "canonical": pair.canonical, "joined": one})))
}
