//! What Alertmanager and Prometheus send: the webhook of version 4 (and Grafana's, which is a superset), and the alerts of the API v2.

use std::collections::BTreeMap;

use isobar_block::time;
use serde::Deserialize;

use super::merge::fingerprint;
use super::model::{Alert, Group, LabelMap, State, Via};
use super::receive::Post;
use super::settings::Settings;
use crate::{Error, Result};

/// Most alerts of one request.
pub const MAX_ALERTS: usize = 20_000;

/// Most labels, and most annotations, of one alert.
pub const MAX_LABELS: usize = 200;

/// Largest labels of one alert together, in bytes.
pub const MAX_LABEL_BYTES: usize = 64 << 10;

/// Longer annotations are cut.
pub const MAX_ANNOTATION_BYTES: usize = 4 << 10;

/// Version of the webhook.
const VERSION: &str = "4";

/// Version that Grafana gives to its superset.
const GRAFANA_VERSION: &str = "1";

/// The message of the webhook. Fields that are not known are passed over.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Webhook {
    version: Option<String>,
    #[serde(default)]
    group_key: String,
    #[serde(default)]
    truncated_alerts: u64,
    #[serde(default)]
    receiver: String,
    #[serde(default)]
    group_labels: LabelMap,
    #[serde(default)]
    common_annotations: LabelMap,
    #[serde(default, rename = "externalURL")]
    external_url: String,
    #[serde(default)]
    org_id: Option<i64>,
    alerts: Vec<WireAlert>,
}

/// An alert of either interface.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WireAlert {
    #[serde(default)]
    status: Option<String>,
    labels: LabelMap,
    #[serde(default)]
    annotations: LabelMap,
    #[serde(default)]
    starts_at: Option<String>,
    #[serde(default)]
    ends_at: Option<String>,
    #[serde(default, rename = "generatorURL")]
    generator_url: Option<String>,
    #[serde(default)]
    fingerprint: Option<String>,
}

impl Webhook {
    /// Reads a message.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the field.
    pub fn read(body: &[u8]) -> Result<Self> {
        let webhook: Self = from_json(body, "is no message of Alertmanager")?;
        match webhook.version.as_deref() {
            Some(VERSION) => {}
            Some(GRAFANA_VERSION) if webhook.org_id.is_some() => {}
            Some(other) => {
                let reason = format!("{other:?} is not supported; send version {VERSION} of Alertmanager's webhook");
                return Err(Error::invalid("version", reason));
            }
            None => return Err(Error::invalid("version", "is missing; send version 4 of Alertmanager's webhook")),
        }
        if webhook.group_key.is_empty() {
            return Err(Error::invalid("groupKey", "is missing; without it the next message cannot be told to be of the same group"));
        }
        if webhook.alerts.len() > MAX_ALERTS {
            let reason = format!("there are {} of them, more than {MAX_ALERTS}; set max_alerts", webhook.alerts.len());
            return Err(Error::invalid("alerts", reason));
        }
        Ok(webhook)
    }

    /// The group and its alerts.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the field.
    pub fn post(self, settings: &Settings, now_ms: i64) -> Result<Post> {
        let timeout_ms = settings.webhook_timeout.ms();
        let mut alerts = Vec::with_capacity(self.alerts.len());
        for (i, wire) in self.alerts.into_iter().enumerate() {
            let within = |e: Error| e.within(&format!("alerts[{i}]"));
            let is_over = match wire.status.as_deref() {
                Some("firing") => false,
                Some("resolved") => true,
                other => {
                    return Err(within(Error::invalid("status", format!("{:?} is neither firing nor resolved", other.unwrap_or("")))));
                }
            };
            let mut alert = wire.read(now_ms).map_err(within)?;
            alert.sender.clone_from(&self.external_url);
            alert.state = if is_over { State::Resolved } else { State::Firing };
            // While an alert fires, Alertmanager does not tell when it will end.
            alert.ends_ms = Some(if is_over { alert.ends_ms.unwrap_or(now_ms).min(now_ms) } else { now_ms.saturating_add(timeout_ms) });
            alerts.push(alert);
        }
        let group = Group {
            key: self.group_key,
            via: Via::Webhook,
            receiver: self.receiver,
            labels: self.group_labels,
            annotations: self.common_annotations,
            external_url: self.external_url.clone(),
        };
        Ok(Post { group, alerts, sender: self.external_url, whole: true, truncated: self.truncated_alerts })
    }
}

/// Alerts as Prometheus posts them, each in the group that the settings make. What is wrong with single ones is told beside the
/// groups of the others.
///
/// # Errors
/// [`Error::Invalid`] if the body is no list of alerts, or too long.
pub(crate) fn posts_of(body: &[u8], settings: &Settings, now_ms: i64) -> Result<(Vec<Post>, Vec<String>)> {
    let wires: Vec<WireAlert> = from_json(body, "is no list of alerts as of Alertmanager's API v2")?;
    if wires.len() > MAX_ALERTS {
        return Err(Error::invalid("body", format!("has {} alerts, more than {MAX_ALERTS}; send fewer at once", wires.len())));
    }
    let mut groups: BTreeMap<String, Post> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (i, wire) in wires.into_iter().enumerate() {
        match wire.read_api(settings, now_ms) {
            Err(error) => wrong.push(error.within(&format!("[{i}]")).to_string()),
            Ok(alert) => {
                let labels: LabelMap =
                    settings.group_by.iter().filter_map(|name| Some((name.clone(), alert.labels.get(name)?.clone()))).collect();
                let key = format!("api:{}", serde_json::to_string(&labels).map_err(|e| Error::invalid("labels", e.to_string()))?);
                let post = groups.entry(key.clone()).or_insert_with(|| Post {
                    group: Group { key, via: Via::Api, labels, ..Group::default() },
                    alerts: Vec::new(),
                    sender: String::new(),
                    whole: false,
                    truncated: 0,
                });
                // Of two with the same labels the last one counts.
                post.alerts.retain(|a| a.fingerprint != alert.fingerprint);
                post.alerts.push(alert);
            }
        }
    }
    Ok((groups.into_values().collect(), wrong))
}

impl WireAlert {
    fn read(self, now_ms: i64) -> Result<Alert> {
        let mut labels = self.labels;
        labels.retain(|_, value| !value.is_empty());
        check_labels(&labels)?;
        let starts_ms = time_ms("startsAt", self.starts_at.as_deref())?.unwrap_or(now_ms);
        let ends_ms = time_ms("endsAt", self.ends_at.as_deref())?;
        // Alertmanager's own fingerprint is the one that its users see.
        let is_hash = |f: &String| f.len() <= 32 && f.bytes().all(|b| b.is_ascii_hexdigit()) && !f.is_empty();
        Ok(Alert {
            fingerprint: self.fingerprint.filter(is_hash).unwrap_or_else(|| fingerprint(&labels)),
            state: State::Firing,
            labels,
            annotations: annotations(self.annotations)?,
            starts_ms,
            ends_ms,
            updated_ms: now_ms,
            generator_url: cut(self.generator_url.unwrap_or_default()),
            sender: String::new(),
            severity: 1.0,
            late: false,
            matches: Vec::new(),
            tried: Vec::new(),
        })
    }

    /// As Alertmanager reads alerts of its API: without an end it is over if it is not posted again for the resolve timeout; an end
    /// in the past means that it is over.
    fn read_api(self, settings: &Settings, now_ms: i64) -> Result<Alert> {
        let has_start = time_ms("startsAt", self.starts_at.as_deref())?.is_some();
        let mut alert = self.read(now_ms)?;
        alert.fingerprint = fingerprint(&alert.labels);
        if let (false, Some(ends_ms)) = (has_start, alert.ends_ms) {
            alert.starts_ms = alert.starts_ms.min(ends_ms);
        }
        let ends_ms = alert.ends_ms.unwrap_or_else(|| now_ms.saturating_add(settings.resolve_timeout.ms()));
        if ends_ms < alert.starts_ms {
            return Err(Error::invalid("endsAt", "is before startsAt"));
        }
        alert.ends_ms = Some(ends_ms);
        alert.state = if ends_ms <= now_ms { State::Resolved } else { State::Firing };
        Ok(alert)
    }
}

/// Reads JSON; what is wrong comes with its place.
fn from_json<'de, T: Deserialize<'de>>(body: &'de [u8], what: &str) -> Result<T> {
    let mut json = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let path = e.path().to_string();
        let path = if path == "." { "body".to_owned() } else { path };
        Error::invalid(path, format!("{what}: {}", e.into_inner()))
    })
}

fn check_labels(labels: &LabelMap) -> Result<()> {
    if labels.is_empty() {
        return Err(Error::invalid("labels", "has no label with a value; give at least one"));
    }
    if labels.len() > MAX_LABELS {
        return Err(Error::invalid("labels", format!("has {} labels, more than {MAX_LABELS}", labels.len())));
    }
    if labels.keys().any(|name| name.is_empty()) {
        return Err(Error::invalid("labels", "has a label without a name"));
    }
    let bytes: usize = labels.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MAX_LABEL_BYTES {
        return Err(Error::invalid("labels", format!("has {bytes} bytes, more than {MAX_LABEL_BYTES}; shorten it")));
    }
    Ok(())
}

fn annotations(all: LabelMap) -> Result<LabelMap> {
    if all.len() > MAX_LABELS {
        return Err(Error::invalid("annotations", format!("has {} annotations, more than {MAX_LABELS}", all.len())));
    }
    Ok(all.into_iter().map(|(name, value)| (cut(name), cut(value))).collect())
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_ANNOTATION_BYTES {
        let end = (0..=MAX_ANNOTATION_BYTES).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Milliseconds of a time as Go writes it; its zero time means none.
fn time_ms(field: &str, text: Option<&str>) -> Result<Option<i64>> {
    let Some(text) = text.filter(|t| !t.is_empty()) else { return Ok(None) };
    let time = chrono::DateTime::parse_from_rfc3339(text)
        .map_err(|_| Error::invalid(field, format!("{:?} is no time as of RFC 3339", text.chars().take(60).collect::<String>())))?;
    let ms = time.timestamp_millis();
    Ok((ms > 0).then_some(ms.min(time::now_ms().saturating_add(400 * 24 * 3_600_000))))
}
