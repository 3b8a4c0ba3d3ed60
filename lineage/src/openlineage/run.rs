//! Runs as documents of their job, and what the runs of a job tell about its rhythm.
//!
//! A run's document is what all its events together say, in whatever order they came. How often a job runs is the median of the times
//! between its last runs; whoever knows it can tell when its tables are late.

use chrono::{DateTime, SecondsFormat};
use serde_json::{Map, Value, json};

use super::about::{cut, is_deleted};
use super::names::name_at;
use super::read::At;
use crate::Result;

/// Prefix of the documents of runs, before the run's id.
pub const RUN: &str = "run/";

/// Name of the document with the rhythm of a job, and with the last write to a dataset.
pub const FRESHNESS: &str = "freshness";

/// Largest facet that is kept in the document of a run.
pub const MAX_RUN_FACET_BYTES: usize = 4 << 10;

/// Bytes of a run's document that its facets may have together.
pub const MAX_RUN_FACETS_BYTES: usize = 32 << 10;

/// Bytes of names of inputs, and as many of outputs, in the document of a run.
pub const MAX_RUN_NAMES_BYTES: usize = 64 << 10;

/// Runs whose beginnings are remembered to tell the rhythm.
const REMEMBERED: usize = 9;

/// Beginnings that it takes to tell the rhythm.
const ENOUGH: usize = 4;

/// The rhythm stays what it was if it changed by less than this fraction.
const STEADY: f64 = 0.25;

/// States after which nothing comes.
const FINAL: &[&str] = &["COMPLETE", "FAIL", "ABORT"];

/// What one event says about a run.
pub(super) struct Seen<'p, 'v> {
    pub run_id: &'p str,
    /// In capitals; `OTHER` if the event does not say.
    pub event_type: &'p str,
    pub at_ms: i64,
    pub facets: Option<&'p At<'p, 'v>>,
    pub inputs: &'p [At<'p, 'v>],
    pub outputs: &'p [At<'p, 'v>],
    /// Whether the explicit lineage of the run is known.
    pub explicit: bool,
}

/// A time as RFC 3339 in UTC.
pub(super) fn rfc3339(at_ms: i64) -> String {
    DateTime::from_timestamp_millis(at_ms).map_or_else(String::new, |t| t.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// Milliseconds of a time in a document or a facet.
pub(super) fn time_ms(value: Option<&Value>) -> Option<i64> {
    DateTime::parse_from_rfc3339(value?.as_str()?).ok().map(|t| t.timestamp_millis())
}

/// The document of a run after one more event.
pub(super) fn document(before: Option<&Value>, seen: &Seen) -> Result<Value> {
    let mut run = before.and_then(Value::as_object).cloned().unwrap_or_default();
    let at = Value::String(rfc3339(seen.at_ms));
    let late = time_ms(run.get("updatedAt")).is_some_and(|t| t > seen.at_ms);
    run.insert("runId".into(), seen.run_id.into());
    state(&mut run, seen, late);
    if !late {
        run.insert("updatedAt".into(), at.clone());
    }
    if seen.event_type == "START" || !run.contains_key("startedAt") {
        let earlier = time_ms(run.get("startedAt")).is_some_and(|t| t <= seen.at_ms);
        if !earlier {
            run.insert("startedAt".into(), at.clone());
        }
    }
    if FINAL.contains(&seen.event_type) && !(late && run.contains_key("endedAt")) {
        run.insert("endedAt".into(), at);
    }
    add_facets(&mut run, seen, late)?;
    names(&mut run, "inputs", seen.inputs)?;
    names(&mut run, "outputs", seen.outputs)?;
    if seen.explicit {
        run.insert("lineage".into(), "explicit".into());
    }
    Ok(Value::Object(run))
}

/// The last state counts, but nothing comes after the end, and `OTHER` says nothing about the state.
fn state(run: &mut Map<String, Value>, seen: &Seen, late: bool) {
    let known = run.get("state").and_then(Value::as_str).unwrap_or("");
    let ended = FINAL.contains(&known);
    let ends = FINAL.contains(&seen.event_type);
    let counts = match (ended, ends) {
        (true, false) => false,
        (false, true) => true,
        _ => !late && (seen.event_type != "OTHER" || known.is_empty()),
    };
    if counts || known.is_empty() {
        run.insert("state".into(), seen.event_type.into());
    }
}

fn add_facets(run: &mut Map<String, Value>, seen: &Seen, late: bool) -> Result<()> {
    let mut kept = run.remove("facets").and_then(|f| if let Value::Object(f) = f { Some(f) } else { None }).unwrap_or_default();
    let mut bytes: usize = kept.iter().map(|(name, value)| name.len() + value.to_string().len()).sum();
    if let Some(facets) = seen.facets {
        for (name, facet) in facets.entries()? {
            if facet.value.is_null() || is_deleted(&facet) || (late && kept.contains_key(name)) {
                continue;
            }
            let value = cut(facet.value, MAX_RUN_FACET_BYTES);
            bytes += name.len() + value.to_string().len();
            if bytes > MAX_RUN_FACETS_BYTES {
                run.insert("facetsLeftOut".into(), true.into());
                break;
            }
            kept.insert(name.into(), value);
        }
        if let Some(parent) = facets.field("parent").or_else(|| facets.field("parentRun")) {
            run.insert("parent".into(), cut(&parent_of(&parent), MAX_RUN_FACET_BYTES));
        }
        if let Some(nominal) = facets.field("nominalTime") {
            for name in ["nominalStartTime", "nominalEndTime"] {
                if let Some(time) = nominal.field(name).filter(|t| t.value.is_string()) {
                    run.insert(name.into(), cut(time.value, MAX_RUN_FACET_BYTES));
                }
            }
        }
    }
    run.insert("facets".into(), Value::Object(kept));
    Ok(())
}

/// The run and job that a parent facet names.
fn parent_of(facet: &At) -> Value {
    let text = |a: &str, b: &str| facet.value.get(a).and_then(|v| v.get(b)).and_then(Value::as_str);
    json!({"runId": text("run", "runId"), "job": {"namespace": text("job", "namespace"), "name": text("job", "name")}})
}

/// Adds names of datasets that are not there yet.
fn names(run: &mut Map<String, Value>, field: &str, datasets: &[At]) -> Result<()> {
    let mut list = match run.remove(field) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let length = |v: &Value| v.as_str().map_or(0, str::len);
    let mut bytes: usize = list.iter().map(|n| 40 + length(&n["namespace"]) + length(&n["name"])).sum();
    let mut known: std::collections::HashSet<(String, String)> =
        list.iter().map(|n| (n["namespace"].as_str().unwrap_or("").to_owned(), n["name"].as_str().unwrap_or("").to_owned())).collect();
    for dataset in datasets {
        let (namespace, name) = name_at(dataset)?;
        if !known.insert((namespace.to_owned(), name.to_owned())) {
            continue;
        }
        bytes += 40 + namespace.len() + name.len();
        if bytes > MAX_RUN_NAMES_BYTES {
            run.insert(format!("{field}LeftOut"), true.into());
            break;
        }
        list.push(json!({"namespace": namespace, "name": name}));
    }
    run.insert(field.into(), Value::Array(list));
    Ok(())
}

/// The document of a job's rhythm after one more event. `first`: it is the first one of its run.
pub(super) fn rhythm(before: Option<&Value>, seen: &Seen, first: bool) -> Value {
    let mut out = before.and_then(Value::as_object).cloned().unwrap_or_default();
    let nominal = seen.facets.and_then(|f| f.value.get("nominalTime")).and_then(|n| time_ms(n.get("nominalStartTime")));
    let late = time_ms(out.get("lastEventAt")).is_some_and(|t| t > seen.at_ms);
    if first {
        let mut starts: Vec<i64> = out.get("starts").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_i64).collect();
        starts.push(nominal.unwrap_or(seen.at_ms));
        starts.sort_unstable();
        starts.dedup();
        starts.drain(..starts.len().saturating_sub(REMEMBERED));
        let known = out.get("intervalMs").and_then(Value::as_i64);
        if let Some(interval_ms) = interval_ms(&starts, known) {
            out.insert("intervalMs".into(), interval_ms.into());
        }
        out.insert("starts".into(), starts.into());
    }
    if !late {
        out.insert("lastEventAt".into(), rfc3339(seen.at_ms).into());
        out.insert("lastRunId".into(), seen.run_id.into());
        out.insert("lastState".into(), seen.event_type.into());
    }
    if seen.event_type == "COMPLETE" && time_ms(out.get("lastSuccessAt")).is_none_or(|t| t <= seen.at_ms) {
        out.insert("lastSuccessAt".into(), rfc3339(seen.at_ms).into());
        out.insert("lastSuccessRunId".into(), seen.run_id.into());
    }
    Value::Object(out)
}

/// The median of the times between runs that follow each other.
fn interval_ms(starts: &[i64], known: Option<i64>) -> Option<i64> {
    if starts.len() < ENOUGH {
        return known;
    }
    let mut between: Vec<i64> = starts.windows(2).map(|w| w[1] - w[0]).collect();
    between.sort_unstable();
    let median = between[between.len() / 2].max(1);
    Some(known.filter(|k| ((median - k).abs() as f64) < STEADY * *k as f64).unwrap_or(median))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(run_id: &str, event_type: &str, at_ms: i64, facets: Value, before: Option<&Value>) -> Value {
        let dataset = json!({"namespace": "n", "name": event_type});
        let facets = At::root(&facets);
        let inputs = [At::root(&dataset)];
        let seen = Seen { run_id, event_type, at_ms, facets: Some(&facets), inputs: &inputs, outputs: &[], explicit: false };
        document(before, &seen).expect("valid")
    }

    #[test]
    fn a_run_is_the_same_in_whatever_order_its_events_come() {
        let said = [
            ("START", 1_000, json!({"nominalTime": {"nominalStartTime": "2026-01-01T00:00:00Z"}, "x": {"v": 1}})),
            ("RUNNING", 2_000, json!({"x": {"v": 2}, "parent": {"run": {"runId": "p"}, "job": {"namespace": "n", "name": "dag"}}})),
            ("OTHER", 2_500, json!({})),
            ("COMPLETE", 3_000, json!({"y": {"big": "z".repeat(MAX_RUN_FACET_BYTES)}})),
        ];
        let mut runs = Vec::new();
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
            let mut run: Option<Value> = None;
            for i in order {
                let (event_type, at_ms, facets) = &said[i];
                run = Some(event("r", event_type, *at_ms, facets.clone(), run.as_ref()));
            }
            let mut run = run.expect("has events");
            let inputs = run["inputs"].as_array_mut().expect("a list");
            inputs.sort_by_key(|v| v["name"].to_string());
            runs.push(run);
        }
        let run = &runs[0];
        assert_eq!(
            (&run["state"], &run["startedAt"], &run["endedAt"]),
            (&json!("COMPLETE"), &json!(rfc3339(1_000)), &json!(rfc3339(3_000)))
        );
        assert_eq!((&run["nominalStartTime"], &run["parent"]["job"]["name"]), (&json!("2026-01-01T00:00:00Z"), &json!("dag")));
        assert_eq!((run["facets"]["x"]["v"].as_i64(), run["inputs"].as_array().map(Vec::len)), (Some(2), Some(4)));
        assert!(run["facets"]["y"]["_left_out"].is_string());
        assert_eq!((&runs[0]["state"], &runs[0]["endedAt"]), (&runs[1]["state"], &runs[1]["endedAt"]));
        assert!(
            runs.iter().all(|r| r["updatedAt"] == run["updatedAt"] && r["startedAt"] == run["startedAt"] && r["inputs"] == run["inputs"])
        );
    }

    #[test]
    fn documents_are_bounded() {
        let names: Vec<Value> = (0..5_000).map(|i| json!({"namespace": "postgres://db:5432", "name": format!("{i:050}")})).collect();
        let inputs: Vec<At> = names.iter().map(At::root).collect();
        let facets: Map<String, Value> = (0..1000).map(|i| (format!("f{i}"), json!({"v": "x".repeat(1000)}))).collect();
        let facets = Value::Object(facets);
        let facets = At::root(&facets);
        let seen =
            Seen { run_id: "r", event_type: "START", at_ms: 1, facets: Some(&facets), inputs: &inputs, outputs: &inputs, explicit: true };
        let run = document(None, &seen).expect("valid");
        assert!(run.to_string().len() < 256 << 10);
        assert_eq!((&run["inputsLeftOut"], &run["facetsLeftOut"], &run["lineage"]), (&json!(true), &json!(true), &json!("explicit")));
    }

    #[test]
    fn the_rhythm_is_the_median_and_steady() {
        let mut known: Option<Value> = None;
        let hour = 3_600_000;
        let facets = json!({});
        let facets = At::root(&facets);
        let mut run = |i: i64, event_type: &str, at_ms: i64, first: bool| {
            let run_id = format!("r{i}");
            let seen = Seen { run_id: &run_id, event_type, at_ms, facets: Some(&facets), inputs: &[], outputs: &[], explicit: false };
            known = Some(rhythm(known.as_ref(), &seen, first));
            known.clone().expect("was just set")
        };
        for i in 0..3 {
            run(i, "START", i * hour, true);
            assert!(run(i, "COMPLETE", i * hour + 5, false).get("intervalMs").is_none());
        }
        let after = run(3, "START", 3 * hour + 60_000, true);
        assert_eq!(
            (after["intervalMs"].as_i64(), &after["lastState"], &after["lastSuccessRunId"]),
            (Some(hour), &json!("START"), &json!("r2"))
        );
        let failed = run(3, "FAIL", 3 * hour + 70_000, false);
        assert_eq!((&failed["lastState"], &failed["lastSuccessRunId"]), (&json!("FAIL"), &json!("r2")));
        run(4, "START", 4 * hour, true);
        let late = run(9, "COMPLETE", hour, false);
        assert_eq!((&late["lastRunId"], &late["lastSuccessAt"]), (&json!("r4"), &json!(rfc3339(2 * hour + 5))));
        let mut last = Value::Null;
        for i in 5..40 {
            last = run(i, "START", 4 * hour + (i - 4) * 24 * hour, true);
        }
        assert_eq!((last["intervalMs"].as_i64(), last["starts"].as_array().map(Vec::len)), (Some(24 * hour), Some(REMEMBERED)));
    }
}
