//! Alerts in, impact out: the webhook of Alertmanager, its API v2 as far as senders and amtool need it, and impacts to read.

mod shown;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use isobar_block::time;
use serde_json::json;

use super::params::Params;
use super::refusal::{Refusal, success};
use crate::alerts::model::{Impact, State as Status, Via};
use crate::alerts::{Post, Receipt, Webhook, posts_of};
use crate::service::{Service, Tenant};

/// Largest body as it comes, and unpacked.
const MAX_BODY_BYTES: usize = 32 << 20;

/// Impacts of one list unless the request says otherwise.
const DEFAULT_LISTED: usize = 100;

/// Most impacts of one list.
const MAX_LISTED: usize = 1000;

/// The routes.
pub(super) fn routes() -> Router<Service> {
    Router::new()
        .route("/api/v1/alerts/webhook", post(webhook))
        .route("/api/v2/alerts", get(shown::alerts).post(post_alerts))
        .route("/api/v2/status", get(shown::status))
        .route("/api/v2/receivers", get(shown::receivers))
        .route("/api/v1/impact", get(list))
        .route("/api/v1/impact/{id}", get(one))
        .route("/api/v1/alerts/unmatched", get(shown::unmatched).delete(shown::dismiss))
        .route("/api/v1/alerts/unmatched/retry", post(shown::retry))
}

async fn webhook(State(service): State<Service>, request: Request) -> Result<Response, Refusal> {
    let begun = Instant::now();
    let (headers, body) = taken(request).await?;
    let tenant = service.tenant_of(&headers).await?;
    let read = Webhook::read(&body).and_then(|message| message.post(&service.settings().alerts, time::now_ms()));
    let post = read.inspect_err(|_| service.metrics().alerts.refused())?;
    let receipts = receive(&service, &tenant, vec![post], Via::Webhook, begun).await?;
    Ok(success(receipts.into_iter().next()))
}

async fn post_alerts(State(service): State<Service>, request: Request) -> Result<Response, Refusal> {
    let begun = Instant::now();
    let (headers, body) = taken(request).await?;
    let tenant = service.tenant_of(&headers).await?;
    let read = posts_of(&body, &service.settings().alerts, time::now_ms());
    let (posts, wrong) = read.inspect_err(|_| service.metrics().alerts.refused())?;
    receive(&service, &tenant, posts, Via::Api, begun).await?;
    if wrong.is_empty() {
        return Ok(StatusCode::OK.into_response());
    }
    // As Alertmanager does it: the good ones are taken all the same.
    service.metrics().alerts.refused();
    Err(Refusal::new(StatusCode::BAD_REQUEST, wrong.join("; ").chars().take(2000).collect::<String>()))
}

async fn receive(service: &Service, tenant: &Arc<Tenant>, posts: Vec<Post>, via: Via, begun: Instant) -> Result<Vec<Receipt>, Refusal> {
    let metrics = &service.metrics().alerts;
    posts.iter().flat_map(|p| &p.alerts).for_each(|alert| metrics.received(via, alert.state));
    let receipts = tenant.alerts.receive(service, tenant, posts).await?;
    metrics.answered(begun.elapsed().as_secs_f64());
    Ok(receipts)
}

/// Headers and the body, unpacked.
async fn taken(request: Request<Body>) -> Result<(HeaderMap, Bytes), Refusal> {
    let (parts, body) = request.into_parts();
    let too_large =
        || Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {MAX_BODY_BYTES} bytes; send less at once"));
    let body = to_bytes(body, MAX_BODY_BYTES).await.map_err(|e| {
        let source = std::error::Error::source(&e).map(ToString::to_string).unwrap_or_default();
        if source.contains("limit") { too_large() } else { Refusal::new(StatusCode::BAD_REQUEST, "the body ends before its end") }
    })?;
    let body = super::facts::unpacked(&parts.headers, body, MAX_BODY_BYTES)?;
    Ok((parts.headers, body))
}

async fn list(State(service): State<Service>, headers: HeaderMap, params: Params) -> Result<Response, Refusal> {
    let tenant = service.tenant_of(&headers).await?;
    let wanted = match params.get("state") {
        None | Some("all") => None,
        Some("firing") => Some(Status::Firing),
        Some("resolved") => Some(Status::Resolved),
        Some(other) => return Err(Refusal::parameter("state", format!("{other:?} is none of firing, resolved and all"))),
    };
    let since_ms = params.time_ms("since")?;
    let until_ms = params.time_ms("until")?.unwrap_or(i64::MAX);
    let limit = params.limit("limit", DEFAULT_LISTED, MAX_LISTED)?;
    let keeper = tenant.alerts.keeper();
    keeper.refresh().await?;
    let in_memory: Vec<Arc<Impact>> = keeper.read(|state| {
        let closed = state.recent.iter().map(|c| Arc::clone(&c.impact));
        state.open.values().filter(|i| i.has_nodes()).cloned().chain(closed).collect()
    });
    let mut found = in_memory;
    let mut cut = false;
    let is_in = |impact: &Arc<Impact>| {
        let ended_ms = impact.resolved_ms.unwrap_or(i64::MAX);
        wanted.is_none_or(|w| w == impact.state) && impact.started_ms < until_ms && since_ms.is_none_or(|since| ended_ms >= since)
    };
    // Older ones are not in memory; they are looked for only where they are asked for.
    if let (Some(since_ms), true) = (since_ms, wanted != Some(Status::Firing)) {
        let (older, was_cut) = keeper.closed(since_ms, until_ms, limit).await?;
        cut = was_cut;
        let known: std::collections::HashSet<String> = found.iter().map(|i| i.id.clone()).collect();
        found.extend(older.into_iter().filter(|i| !known.contains(&i.id)));
    }
    found.retain(is_in);
    found.sort_by(|a, b| (b.state == Status::Firing, &b.id).cmp(&(a.state == Status::Firing, &a.id)));
    let total = found.len();
    found.truncate(limit);
    let external_url = &service.settings().alerts.external_url;
    let impacts: Vec<_> = found.iter().map(|impact| crate::alerts::payload::listed(impact, external_url)).collect();
    Ok(success(json!({"complete": !cut && total <= limit, "as_of_ms": time::now_ms(), "impacts": impacts})))
}

async fn one(State(service): State<Service>, Path(id): Path<String>, headers: HeaderMap, params: Params) -> Result<Response, Refusal> {
    let tenant = service.tenant_of(&headers).await?;
    let keeper = tenant.alerts.keeper();
    keeper.refresh().await?;
    let Some(impact) = keeper.get(&id).await? else {
        let shown: String = id.chars().take(100).collect();
        return Err(Refusal::new(StatusCode::NOT_FOUND, format!("there is no impact {shown:?}; GET /api/v1/impact lists them")));
    };
    let settings = service.settings();
    let external_url = &settings.alerts.external_url;
    match params.get("format") {
        None | Some("json") => {
            let telling = crate::alerts::notify::shown(&service, &tenant, &impact);
            Ok(success(crate::alerts::payload::shown(&impact, external_url, tenant.alerts.checked_ms(&id), telling)))
        }
        Some("text") => {
            let text = crate::alerts::text::text(&impact, external_url);
            Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
        }
        Some(other) => Err(Refusal::parameter("format", format!("{other:?} is neither json nor text"))),
    }
}
