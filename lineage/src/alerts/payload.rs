//! What receivers get: the impact as JSON, or its alerts with annotations for an Alertmanager.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::model::{Impact, LabelMap, State};
use super::receive::OWN_ANNOTATION;
use super::target::Target;

/// An alert that is sent on fires so long unless it is sent again, in milliseconds.
pub const SENT_ON_MS: i64 = 5 * 60_000;

/// Version of the message.
pub const VERSION: &str = "1";

/// The message to a webhook.
#[derive(Debug, Serialize)]
struct Message<'a> {
    version: &'static str,
    tenant: &'a str,
    url: String,
    impact: &'a Impact,
}

/// An alert as of `POST /api/v2/alerts`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PostableAlert {
    labels: LabelMap,
    annotations: LabelMap,
    starts_at: String,
    ends_at: String,
    #[serde(rename = "generatorURL", skip_serializing_if = "String::is_empty")]
    generator_url: String,
}

/// Where people find an impact.
pub(crate) fn url_of(external_url: &str, id: &str) -> String {
    format!("{}/api/v1/impact/{id}", external_url.trim_end_matches('/'))
}

/// The impact as JSON.
pub(super) fn message(impact: &Impact, tenant: &str, external_url: &str) -> Vec<u8> {
    let message = Message { version: VERSION, tenant, url: url_of(external_url, &impact.id), impact };
    serde_json::to_vec(&message).expect("an impact has no maps with other keys than strings")
}

/// The alerts of an impact with annotations about it.
pub(super) fn alerts(impact: &Impact, target: &Target, external_url: &str, now_ms: i64) -> Vec<u8> {
    let about = annotations(impact, external_url);
    let alert = |alert: &super::model::Alert| {
        let ends_ms = match alert.state {
            State::Firing => now_ms + SENT_ON_MS,
            State::Resolved => alert.ends_ms.unwrap_or(now_ms).min(now_ms),
        };
        let merged = |own: &LabelMap, more: &LabelMap| own.iter().chain(more).map(|(k, v)| (k.clone(), v.clone())).collect();
        PostableAlert {
            labels: merged(&alert.labels, &target.labels),
            annotations: merged(&alert.annotations, &about),
            starts_at: rfc3339(alert.starts_ms),
            ends_at: rfc3339(ends_ms),
            generator_url: alert.generator_url.clone(),
        }
    };
    let alerts: Vec<PostableAlert> = impact.alerts.iter().map(alert).collect();
    serde_json::to_vec(&alerts).expect("alerts are maps of strings")
}

/// What is said about an impact, as annotations.
fn annotations(impact: &Impact, external_url: &str) -> BTreeMap<String, String> {
    let mut out = BTreeMap::from([
        (OWN_ANNOTATION.to_owned(), impact.id.clone()),
        ("isobar_impact_url".to_owned(), url_of(external_url, &impact.id)),
    ]);
    let Some(assessment) = &impact.assessment else { return out };
    let mut put = |name: &str, value: String| {
        if !value.is_empty() {
            out.insert(format!("isobar_impact_{name}"), value);
        }
    };
    put("summary", assessment.summary.clone());
    put("complete", assessment.complete.to_string());
    put("owners", assessment.owners.iter().map(|o| o.name.as_str()).collect::<Vec<_>>().join(", "));
    put("lost_requests_per_second", assessment.lost_per_s.map(|l| format!("{l:.2}")).unwrap_or_default());
    for (name, list) in assessment.lists() {
        let worst: Vec<String> =
            list.iter().take(10).map(|t| format!("{} ({:.0} %)", t.name, t.probability.max(t.starvation) * 100.0)).collect();
        put(name, worst.join(", "));
    }
    put("cause", assessment.causes.first().map(|c| format!("{} ({:.0} %)", c.id, c.probability * 100.0)).unwrap_or_default());
    out
}

/// A time as RFC 3339, in UTC.
pub(crate) fn rfc3339(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms).map_or_else(String::new, |t| t.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}

/// An impact for the API: as it is kept, with its address and when it was looked at last.
pub(crate) fn shown(impact: &Impact, external_url: &str, checked_ms: Option<i64>, telling: Value) -> Value {
    let mut shown = serde_json::to_value(impact).expect("an impact has no maps with other keys than strings");
    shown["url"] = url_of(external_url, &impact.id).into();
    let assessed_ms = impact.assessment.as_ref().map(|a| a.assessed_ms);
    shown["checked_ms"] = checked_ms.max(assessed_ms).into();
    shown["nodes"] = impact.failing_nodes().iter().map(|n| Value::from(n.as_str())).collect();
    shown["receivers"] = telling;
    shown
}

/// An impact in a list.
pub(crate) fn listed(impact: &Impact, external_url: &str) -> Value {
    let assessment = impact.assessment.as_deref();
    let worst = |list: &[super::model::Touched]| -> Value { list.iter().take(5).map(|t| Value::from(t.id.as_str())).collect() };
    let lists: serde_json::Map<String, Value> =
        assessment.map(|a| a.lists().iter().map(|(name, list)| ((*name).to_owned(), worst(list))).collect()).unwrap_or_default();
    serde_json::json!({
        "id": impact.id,
        "url": url_of(external_url, &impact.id),
        "state": impact.state,
        "alertname": impact.alerts.iter().find_map(|a| a.labels.get("alertname")),
        "group_labels": impact.group.labels,
        "via": impact.group.via,
        "started_ms": impact.started_ms,
        "updated_ms": impact.updated_ms,
        "resolved_ms": impact.resolved_ms,
        "alerts": impact.alerts.len(),
        "firing": impact.firing().count(),
        "nodes": assessment.map_or_else(Vec::new, |a| a.failed.iter().map(|t| t.id.as_str()).collect::<Vec<_>>()),
        "complete": assessment.map(|a| a.complete),
        "assessed_ms": assessment.map(|a| a.assessed_ms),
        "touched": assessment.map(|a| a.touched),
        "lost_per_s": assessment.and_then(|a| a.lost_per_s),
        "summary": assessment.map(|a| a.summary.as_str()),
        "owners": assessment.map_or_else(Vec::new, |a| a.owners.iter().map(|o| o.name.as_str()).collect::<Vec<_>>()),
        "worst": lists,
    })
}
