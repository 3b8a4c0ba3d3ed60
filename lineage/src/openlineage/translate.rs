//! One event of OpenLineage as events of the graph.
//!
//! A RunEvent adds to what the runs of its job have said; a JobEvent or a DatasetEvent replaces the one before it. A dataset that a job
//! writes depends on the job, and the job on the datasets that it reads: every output may come from every input by way of the job. Where
//! an event tells what an output is really made of, there are edges from the output itself; if it does so as explicit lineage, the
//! edges from the job to its inputs are of class ordering, so that no failure takes that way.

use serde_json::Value;

use super::dataset::{Lifecycle, renamed};
use super::described::{dataset_event, job_event};
use super::known::Known;
use super::names::{SOURCE, hash, renamed_scope};
use super::observed::run_event;
use super::parts;
use super::read::At;
use super::run::rfc3339;
use crate::event::{Event, MAX_FUTURE_MS};
use crate::model::NodeKey;
use crate::{Error, Result};

/// What one event comes to.
#[derive(Debug, Default)]
pub(super) struct Translated {
    /// Events of the graph in the order in which they are to be stored. The first one has the event as it came.
    pub events: Vec<Event>,
    /// Datasets that are gone as of the event: whatever anybody says of them through OpenLineage ends.
    pub dropped: Vec<NodeKey>,
}

/// Translates an event.
///
/// # Errors
/// [`Error::Invalid`] with the path of the field.
pub(super) fn translate(value: &Value, raw: &str, now_ms: i64, known: &mut impl Known) -> Result<Translated> {
    let root = At::root(value);
    if !value.is_object() {
        return Err(Error::invalid("event", "must be an object; send one event, or a list of them to /api/v1/lineage/batch"));
    }
    let at_ms = event_time(&root, now_ms)?;
    root.text_of("producer")?;
    root.optional_text("schemaURL")?;
    let mut out = match (root.field("run"), root.field("job"), root.field("dataset")) {
        (Some(run), Some(job), _) => run_event(&root, &run, &job, at_ms, raw, known)?,
        (Some(_), None, _) => return Err(Error::invalid("job", "is missing")),
        (None, Some(job), _) => job_event(&root, &job, at_ms, raw, known)?,
        (None, None, Some(dataset)) => dataset_event(&dataset, at_ms, raw, known)?,
        (None, None, None) => {
            return Err(Error::invalid("event", "has neither run and job, nor job, nor dataset; give one of them"));
        }
    };
    if let Some(first) = out.events.first_mut() {
        first.raw = Some(raw.into());
    }
    parts::split(&mut out.events);
    Ok(out)
}

fn event_time(root: &At, now_ms: i64) -> Result<i64> {
    let at = root.required("eventTime")?;
    let text = at.text()?;
    let shown: String = text.chars().take(60).collect();
    let naive = || chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").ok().map(|t| t.and_utc().timestamp_millis());
    let time = chrono::DateTime::parse_from_rfc3339(text).ok().map(|t| t.timestamp_millis()).or_else(naive);
    let time = time.ok_or_else(|| at.wrong(format!("{shown:?} is no time; write it as in 2026-11-22T01:01:26.605Z")))?;
    if time < 0 || time > now_ms.saturating_add(MAX_FUTURE_MS) {
        return Err(at.wrong(format!("{shown} is before 1970 or more than 10 minutes ahead of the clock here, {}", rfc3339(now_ms))));
    }
    Ok(time)
}

/// The name of the event among those of all times.
pub(super) fn id(kind: &str, at_ms: i64, raw: &str) -> String {
    format!("openlineage/{kind}/{at_ms}/{:032x}", hash(raw.as_bytes()))
}

/// A dataset has taken over a name, or its own former name is now another's.
pub(super) fn became_another(
    key: &NodeKey,
    became: Option<&Lifecycle>,
    fields: &[Value],
    at_ms: i64,
    id: &str,
    out: &mut Vec<Event>,
) -> Result<()> {
    let (name, facts) = match became {
        Some(Lifecycle::Renamed(before)) if before != key => (before, renamed(before, key, fields)?),
        Some(Lifecycle::Created) => (key, Vec::new()),
        _ => return Ok(()),
    };
    let mut event = Event::new(format!("{id}#renamed"), SOURCE, renamed_scope(name), at_ms);
    event.facts = facts;
    event.complete_since_ms = Some(at_ms);
    out.push(event);
    Ok(())
}
