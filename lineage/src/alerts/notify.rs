//! Tells receivers what alerts touch. There is no queue to overflow: what a receiver knows is kept with each impact, and whatever it does
//! not know yet is due. Each receiver has one request under way at a time, so that a slow one holds nobody else up.
//!
//! Messages arrive at least once: the process that has changed an impact tells; if it is gone, another one does after a while.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use isobar_block::time;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::model::{Impact, State, Told};
use super::payload;
use super::state::Change;
use super::target::{MAX_SECRET_BYTES, Target, TargetKind};
use crate::service::{Service, Tenant};

/// How often somebody looks whether something is due.
const TICK: Duration = Duration::from_millis(200);

/// Longest pause between two tries, in milliseconds.
pub const MAX_PAUSE_MS: i64 = 5 * 60_000;

/// What another process has not told after so long is told here.
pub const TAKE_OVER_MS: i64 = 60_000;

/// An Alertmanager gets the alerts of an open impact again so often, because it forgets them.
pub const RESEND_MS: i64 = 60_000;

/// Most messages to one receiver in a row, before the settings are looked at again.
const IN_A_ROW: usize = 50;

/// Longest answer that is looked at, in bytes.
const MAX_ANSWER_BYTES: usize = 300;

/// What is known of the receivers of a tenant.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    /// By receiver and impact.
    tries: HashMap<(String, String), Try>,
    /// Receivers with a request under way.
    busy: HashSet<String>,
}

#[derive(Clone, Debug, Default)]
struct Try {
    revision: u32,
    failures: u32,
    next_ms: i64,
    error: String,
    /// When it was sent last with success, and which revision.
    sent_ms: i64,
    sent_revision: u32,
}

/// One message that is due.
struct Due {
    impact: Arc<Impact>,
    revision: u32,
}

/// Works until told to stop.
pub(super) async fn run(service: Service, mut stop: watch::Receiver<bool>) {
    let client = match reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build() {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(%error, "nobody can be told what alerts touch: there is no HTTP client");
            return;
        }
    };
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            _ = tick.tick() => {}
            Some(_) = tasks.join_next() => continue,
        }
        let mut waiting = 0;
        for tenant in service.opened() {
            forget(&service, &tenant);
            for target in &service.settings().alerts.notify {
                let due = due(&tenant, target, time::now_ms());
                waiting += due.len();
                if !due.is_empty() && tenant.alerts.telling.lock().busy.insert(target.name()) {
                    let (service, tenant, target, client) = (service.clone(), Arc::clone(&tenant), target.clone(), client.clone());
                    tasks.spawn(async move {
                        for due in due.into_iter().take(IN_A_ROW) {
                            tell(&service, &tenant, &target, &client, due).await;
                        }
                        tenant.alerts.telling.lock().busy.remove(&target.name());
                    });
                }
            }
        }
        service.metrics().alerts.waiting.set(waiting as i64);
    }
    // What is under way may finish; what is due is due again after the next start.
    let _ = tokio::time::timeout(Duration::from_secs(2), async { while tasks.join_next().await.is_some() {} }).await;
}

/// Impacts that a receiver has to be told of, the oldest change first.
fn due(tenant: &Tenant, target: &Target, now_ms: i64) -> Vec<Due> {
    let name = target.name();
    let keeper = tenant.alerts.keeper();
    let telling = tenant.alerts.telling.lock();
    let mut due: Vec<Due> = keeper.read(|state| {
        let closed = state.recent.iter().map(|c| &c.impact);
        let is_due = |impact: &&Arc<Impact>| {
            let tried = telling.tries.get(&(name.clone(), impact.id.clone()));
            is_due(impact, target, &name, tried, keeper.process(), now_ms)
        };
        let all = state.open.values().chain(closed).filter(is_due);
        all.map(|impact| Due { impact: Arc::clone(impact), revision: impact.revision }).collect()
    });
    due.sort_by_key(|d| d.impact.revised_ms);
    due
}

fn is_due(impact: &Impact, target: &Target, name: &str, tried: Option<&Try>, process: &str, now_ms: i64) -> bool {
    if impact.revision == 0 {
        return false;
    }
    let told = impact.told.get(name);
    if impact.state == State::Resolved && (!target.send_resolved || told.is_none()) {
        // Whoever does not know of it needs not know that it is over.
        return false;
    }
    let unknown = Try::default();
    let tried = tried.unwrap_or(&unknown);
    let known = told.map_or(0, |t| t.revision).max(tried.sent_revision);
    let is_again = target.kind == TargetKind::Alertmanager && impact.state == State::Firing && known > 0;
    if known >= impact.revision {
        let last_ms = tried.sent_ms.max(told.map_or(0, |t| t.at_ms));
        return is_again && now_ms - last_ms >= RESEND_MS && now_ms >= tried.next_ms;
    }
    if tried.revision == impact.revision && tried.failures > 0 {
        return tried.failures <= target.retries && now_ms >= tried.next_ms;
    }
    if impact.revised_by != process && now_ms - impact.revised_ms < TAKE_OVER_MS {
        return false;
    }
    let is_first_or_last = told.is_none() || impact.state == State::Resolved;
    let last_ms = tried.sent_ms.max(told.map_or(0, |t| t.at_ms));
    is_first_or_last || now_ms - last_ms >= target.min_interval.ms()
}

async fn tell(service: &Service, tenant: &Tenant, target: &Target, client: &reqwest::Client, due: Due) {
    let name = target.name();
    let place = (name.clone(), due.impact.id.clone());
    let result = send(service, tenant, target, client, &due.impact).await;
    let now_ms = time::now_ms();
    service.metrics().alerts.sent(&name, if result.is_ok() { "delivered" } else { "failed" });
    let is_news = {
        let mut telling = tenant.alerts.telling.lock();
        let tried = telling.tries.entry(place).or_default();
        match &result {
            Ok(()) => {
                let is_news = due.impact.told.get(&name).is_none_or(|t| t.revision < due.revision);
                *tried = Try { sent_ms: now_ms, sent_revision: due.revision, ..Try::default() };
                is_news
            }
            Err(error) => {
                tried.failures = if tried.revision == due.revision { tried.failures + 1 } else { 1 };
                tried.revision = due.revision;
                tried.next_ms = now_ms + (500_i64 << tried.failures.min(16)).min(MAX_PAUSE_MS);
                tried.error.clone_from(error);
                let left = target.retries.saturating_sub(tried.failures);
                tracing::warn!(receiver = %name, impact = %due.impact.id, %error, tries_left = left, "a receiver was not told of an impact");
                false
            }
        }
    };
    if is_news {
        let told = Told { revision: due.revision, at_ms: now_ms };
        let change = Change::Told { id: due.impact.id.clone(), target: name, told };
        if let Err(error) = tenant.alerts.keeper().commit(vec![change]).await {
            tracing::warn!(%error, "it was not stored that a receiver was told; it may be told again");
        }
    }
}

async fn send(service: &Service, tenant: &Tenant, target: &Target, client: &reqwest::Client, impact: &Impact) -> Result<(), String> {
    let settings = service.settings();
    let (mut url, body) = match target.kind {
        TargetKind::Webhook => {
            let body = payload::message(impact, tenant.id.as_str(), &settings.alerts.external_url);
            (target.url.reveal().to_owned(), body)
        }
        TargetKind::Alertmanager => {
            let body = payload::alerts(impact, target, &settings.alerts.external_url, time::now_ms());
            (target.url.reveal().trim_end_matches('/').to_owned(), body)
        }
    };
    if target.kind == TargetKind::Alertmanager && !url.ends_with("/api/v2/alerts") {
        url.push_str("/api/v2/alerts");
    }
    let mut request = client.post(url).timeout(target.timeout.duration()).header("Content-Type", "application/json");
    for (header, value) in &target.headers {
        request = request.header(header, value.reveal());
    }
    for (header, path) in &target.header_files {
        let shown = path.display();
        let size = tokio::fs::metadata(path).await.map_err(|e| format!("file {shown} of header {header}: {e}"))?.len();
        if size > MAX_SECRET_BYTES {
            return Err(format!("file {shown} of header {header} has {size} bytes, more than {MAX_SECRET_BYTES}"));
        }
        let value = tokio::fs::read_to_string(path).await.map_err(|e| format!("file {shown} of header {header}: {e}"))?;
        request = request.header(header, value.trim());
    }
    // The address may hold a secret, so it is left out of what is said.
    let answer = request.body(body).send().await.map_err(|e| chain(&e.without_url()))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let text = answer.text().await.unwrap_or_default();
    let shown: String = text.chars().take(MAX_ANSWER_BYTES).collect();
    Err(format!("answered {status}: {}", shown.trim()))
}

/// An error with what is behind it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(cause) = at {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        at = cause.source();
    }
    text
}

/// Forgets tries for what is not in memory or not in the settings any more.
fn forget(service: &Service, tenant: &Tenant) {
    let mut telling = tenant.alerts.telling.lock();
    if telling.tries.is_empty() {
        return;
    }
    let names: HashSet<String> = service.settings().alerts.notify.iter().map(Target::name).collect();
    tenant.alerts.keeper().read(|state| {
        telling.tries.retain(|(target, id), _| names.contains(target) && state.get(id).is_some());
    });
}

/// What the receivers of an impact know, for people.
pub(crate) fn shown(service: &Service, tenant: &Tenant, impact: &Impact) -> Value {
    let telling = tenant.alerts.telling.lock();
    let about = |target: &Target| {
        let name = target.name();
        let told = impact.told.get(&name);
        let tried = telling.tries.get(&(name.clone(), impact.id.clone()));
        let failures = tried.map_or(0, |t| t.failures);
        let value = json!({
            "kind": target.kind,
            "told_revision": told.map(|t| t.revision),
            "told_ms": told.map(|t| t.at_ms),
            "failures": failures,
            "given_up": failures > target.retries,
            "error": tried.map(|t| t.error.as_str()).filter(|e| !e.is_empty()),
        });
        (name, value)
    };
    service.settings().alerts.notify.iter().map(about).collect::<serde_json::Map<_, _>>().into()
}
