//! What is read of alerts: Alertmanager's API v2, and the queue of alerts that no rule has found a node for.

use std::sync::{Arc, LazyLock};

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use isobar_block::time;
use serde_json::{Value, json};

use super::super::params::Params;
use super::super::refusal::{Refusal, success};
use crate::Error;
use crate::alerts::model::{Alert, Impact, State as Status};
use crate::alerts::payload::rfc3339;
use crate::alerts::selector::Selector;
use crate::alerts::tend::retry_unmatched;
use crate::alerts::{Unmatched, state::Change};
use crate::service::Service;

/// Alerts without a node in one answer unless the request says otherwise.
const DEFAULT_LISTED: usize = 200;

/// Name of the one receiver that Alertmanager's API shows.
const RECEIVER: &str = "isobar";

static STARTED_MS: LazyLock<i64> = LazyLock::new(time::now_ms);

/// `GET /api/v2/alerts`: what fires, in the shape of Alertmanager.
pub(super) async fn alerts(State(service): State<Service>, headers: HeaderMap, params: Params) -> Result<Response, Refusal> {
    let tenant = service.tenant_of(&headers).await?;
    let filters: Result<Vec<Selector>, Refusal> =
        params.all("filter").map(|text| Selector::parse(text).map_err(|e| Refusal::parameter("filter", e))).collect();
    let filters = filters?;
    let wants = |name: &str| params.parsed::<bool>(name).map(|v| v.unwrap_or(true));
    let (active, _, _, _) = (wants("active")?, wants("silenced")?, wants("inhibited")?, wants("unprocessed")?);
    let keeper = tenant.alerts.keeper();
    keeper.refresh().await?;
    let open: Vec<Arc<Impact>> = keeper.read(|state| state.open.values().cloned().collect());
    let fits = |alert: &&Alert| active && filters.iter().all(|f| f.matches(&alert.labels));
    let mut shown: Vec<Value> = Vec::new();
    for impact in &open {
        shown.extend(impact.firing().filter(fits).map(|alert| gettable(impact, alert)));
    }
    Ok(Json(shown).into_response())
}

fn gettable(impact: &Impact, alert: &Alert) -> Value {
    let receiver = if impact.group.receiver.is_empty() { RECEIVER } else { &impact.group.receiver };
    json!({
        "annotations": alert.annotations,
        "endsAt": rfc3339(alert.ends_ms.unwrap_or_else(time::now_ms)),
        "fingerprint": alert.fingerprint,
        "receivers": [{"name": receiver}],
        "startsAt": rfc3339(alert.starts_ms),
        "status": {"inhibitedBy": [], "silencedBy": [], "state": "active"},
        "updatedAt": rfc3339(alert.updated_ms),
        "generatorURL": alert.generator_url,
        "labels": alert.labels,
    })
}

/// `GET /api/v2/status`, as far as senders and amtool look at it.
pub(super) async fn status(State(service): State<Service>) -> Response {
    let settings = service.settings();
    let group_by = settings.alerts.group_by.join(", ");
    let original = format!(
        "route:\n  receiver: {RECEIVER}\n  group_by: [{group_by}]\nglobal:\n  resolve_timeout: {}\nreceivers:\n  - name: {RECEIVER}\n",
        settings.alerts.resolve_timeout
    );
    let version = json!({
        "branch": "",
        "buildDate": "",
        "buildUser": "",
        "goVersion": "",
        "revision": "",
        "version": env!("CARGO_PKG_VERSION"),
    });
    Json(json!({
        "cluster": {"name": RECEIVER, "status": "disabled", "peers": []},
        "config": {"original": original},
        "uptime": rfc3339(*STARTED_MS),
        "versionInfo": version,
    }))
    .into_response()
}

/// `GET /api/v2/receivers`.
pub(super) async fn receivers() -> Response {
    Json(json!([{"name": RECEIVER}])).into_response()
}

/// `GET /api/v1/alerts/unmatched`: alerts that no rule has found a node for, those that were posted last first.
pub(super) async fn unmatched(State(service): State<Service>, headers: HeaderMap, params: Params) -> Result<Response, Refusal> {
    let tenant = service.tenant_of(&headers).await?;
    let limit = params.limit("limit", DEFAULT_LISTED, crate::alerts::state::MAX_UNMATCHED)?;
    let keeper = tenant.alerts.keeper();
    keeper.refresh().await?;
    let (mut queue, dropped) =
        keeper.read(|state| (state.unmatched.values().cloned().collect::<Vec<Unmatched>>(), state.unmatched_dropped));
    queue.sort_by_key(|u| std::cmp::Reverse((u.alert.state == Status::Firing, u.last_ms)));
    let total = queue.len();
    queue.truncate(limit);
    let complete = total <= limit && dropped == 0;
    Ok(success(json!({"complete": complete, "as_of_ms": time::now_ms(), "total": total, "dropped": dropped, "alerts": queue})))
}

/// `DELETE /api/v1/alerts/unmatched`: takes alerts out of the queue, by fingerprint or all of them.
pub(super) async fn dismiss(State(service): State<Service>, headers: HeaderMap, params: Params) -> Result<Response, Refusal> {
    let tenant = service.tenant_of(&headers).await?;
    let keeper = tenant.alerts.keeper();
    let mut wanted: Vec<String> = params.all("fingerprint").map(str::to_owned).collect();
    let all = params.parsed::<bool>("all")?.unwrap_or(false);
    if !all && wanted.is_empty() {
        return Err(Refusal::parameter("fingerprint", "is missing; name alerts, or give all=true"));
    }
    keeper.refresh().await?;
    let known: Vec<String> = keeper.read(|state| state.unmatched.keys().cloned().collect());
    if all {
        wanted = known;
    } else if let Some(missing) = wanted.iter().find(|f| !known.contains(f)) {
        let shown: String = missing.chars().take(100).collect();
        return Err(Refusal::new(StatusCode::NOT_FOUND, format!("no alert in the queue has fingerprint {shown:?}")));
    }
    let dismissed = wanted.len();
    if dismissed > 0 {
        keeper.commit(vec![Change::Dismissed { fingerprints: wanted }]).await?;
    }
    Ok(success(json!({"dismissed": dismissed})))
}

/// `POST /api/v1/alerts/unmatched/retry`: tries the rules again now.
pub(super) async fn retry(State(service): State<Service>, headers: HeaderMap) -> Result<Response, Refusal> {
    let tenant = service.tenant_of(&headers).await?;
    tenant.alerts.keeper().refresh().await?;
    Ok(success(retry_unmatched(&service, &tenant, true).await.map_err(|e: Error| Refusal::from(e))?))
}
