//! A RunEvent: what a run has shown adds to what the runs of its job have shown before.

use std::sync::Arc;

use serde_json::{Value, json};

use super::about::{facets, latest};
use super::dataset::{Around, Lifecycle, Role, describe_dataset};
use super::edges::Edges;
use super::job::{Heard, JobSaid, contain, dependencies, describe_job, is_explicit, job_edges, service_alias};
use super::known::{Known, merge, said_lately};
use super::names::{SOURCE, job_at, runs_scope, uuid_at};
use super::read::At;
use super::run::{FRESHNESS, RUN, Seen, document, rfc3339, rhythm};
use super::schema;
use super::side::Side;
use super::translate::{Translated, became_another, id};
use super::voice::Voice;
use crate::Result;
use crate::event::{DocumentFact, Event, Fact, NodeFact};
use crate::model::{NodeBody, NodeKey};

/// States of runs.
const EVENT_TYPES: &[&str] = &["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"];

/// Translates a RunEvent.
pub(super) fn run_event(root: &At, run: &At, job: &At, at_ms: i64, raw: &str, known: &mut impl Known) -> Result<Translated> {
    let run_id = uuid_at(&run.required("runId")?)?;
    let event_type = event_type(root)?;
    let key = job_at(job)?;
    let (job_facets, run_facets) = (facets(job, "facets")?, facets(run, "facets")?);
    let (inputs_at, outputs_at) = (root.field("inputs"), root.field("outputs"));
    let (inputs, outputs) = (Side::read(inputs_at.as_ref(), Role::Input)?, Side::read(outputs_at.as_ref(), Role::Output)?);
    let explicit_here = is_explicit(job_facets.as_ref(), &outputs)?;
    let run_name = format!("{RUN}{run_id}");
    let before = known.document(&key, &run_name);
    let run_is_explicit = explicit_here || before.as_ref().is_some_and(|r| r.get("lineage").is_some());
    let seen = Seen {
        run_id: &run_id,
        event_type,
        at_ms,
        facets: run_facets.as_ref(),
        inputs: &inputs.ats,
        outputs: &outputs.ats,
        explicit: run_is_explicit,
    };
    let rhythm = rhythm(known.document(&key, FRESHNESS).as_deref(), &seen, before.is_none());
    let heard = Heard { event_type, explicit: run_is_explicit, interval_ms: rhythm.get("intervalMs").and_then(Value::as_i64) };
    let merged = describe_job(known, &key, job_facets.as_ref(), &outputs, at_ms, &heard)?;
    let JobSaid { explicit, interval_ms, service } = merged.result;
    let voice = Voice::observed(at_ms, interval_ms);
    let id = id(&format!("run/{run_id}/{event_type}"), at_ms, raw);
    let ended = !matches!(event_type, "START" | "RUNNING" | "FAIL" | "ABORT");

    let mut first = Event::new(&id, SOURCE, runs_scope(&key), at_ms);
    let mut edges = Edges::default();
    job_edges(&key, job_facets.as_ref(), (&inputs, &outputs), explicit, interval_ms, ended, &mut edges)?;
    dependencies(run_facets.as_ref(), &key, &mut edges)?;
    edges.say(&voice, &mut first.facts);
    documents(&mut first.facts, known, &key, vec![(run_name, document(before.as_deref(), &seen)?), (FRESHNESS.into(), rhythm)]);
    if let Some(facets) = &job_facets {
        latest(&key, facets, false, &mut first.facts)?;
    }
    let mut out = Translated { events: vec![first], dropped: Vec::new() };
    if let Some((say_ms, body)) = merged.say {
        out.events.push(node_event(&id, "job", &key, say_ms, &voice, &body));
    }
    for (i, side) in [&inputs, &outputs].into_iter().enumerate() {
        for n in 0..side.keys.len() {
            run_dataset(known, &voice, side, n, &format!("{id}#{}{n}", ["in", "out"][i]), ended, &mut out)?;
        }
    }
    if event_type == "COMPLETE" {
        written(&mut out.events[0].facts, (&key, job, &run_id), &outputs, at_ms, interval_ms);
    }
    contain(&mut out.events, &id, run_facets.as_ref(), &key, &voice)?;
    if service {
        let mut event = Event::new(format!("{id}#service"), SOURCE, runs_scope(&key), at_ms);
        event.facts = vec![service_alias(&key)?.with_ttl(voice.ttl_ms)];
        out.events.push(event);
    }
    Ok(out)
}

fn event_type<'v>(root: &At<'_, 'v>) -> Result<&'static str> {
    let Some(at) = root.field("eventType") else { return Ok("OTHER") };
    let text = at.text()?;
    let known = EVENT_TYPES.iter().find(|t| t.eq_ignore_ascii_case(text));
    known.copied().ok_or_else(|| {
        let shown: String = text.chars().take(60).collect();
        at.wrong(format!("{shown:?} is none of {}", EVENT_TYPES.join(", ")))
    })
}

/// Says documents and notes them for the events that follow.
fn documents(out: &mut Vec<Fact>, known: &mut impl Known, node: &NodeKey, documents: Vec<(String, Value)>) {
    for (name, body) in documents {
        known.remember(node, &name, body.clone());
        out.push(Fact::Document(DocumentFact { node: node.clone(), name, body }));
    }
}

fn node_event(id: &str, part: &str, key: &NodeKey, at_ms: i64, voice: &Voice, body: &Arc<NodeBody>) -> Event {
    let mut event = Event::new(format!("{id}#{part}"), SOURCE, runs_scope(key), at_ms);
    event.facts.push(Fact::Node(NodeFact { node: key.clone(), ttl_ms: voice.ttl_ms, body: (**body).clone() }));
    event
}

/// What a run says of a dataset that it reads or writes.
fn run_dataset(known: &mut impl Known, voice: &Voice, side: &Side, n: usize, id: &str, ended: bool, out: &mut Translated) -> Result<()> {
    let (at, key, became) = (&side.ats[n], &side.keys[n], &side.lifecycles[n]);
    for (name, varying) in [("facets", false), ("inputFacets", true), ("outputFacets", true)] {
        if let Some(facets) = facets(at, name)? {
            latest(key, &facets, varying, &mut out.events[0].facts)?;
        }
    }
    if ended && *became == Some(Lifecycle::Dropped) {
        out.dropped.push(key.clone());
        return Ok(());
    }
    if says_nothing(at) && said_lately(known, key, voice.at_ms) {
        return Ok(());
    }
    let merged = merge(known, key, voice.at_ms, |body, late| {
        let around = describe_dataset(voice, at, key, side.role, late, body)?;
        let renamed = ended && matches!(became, Some(Lifecycle::Renamed(_)));
        Ok((around, if renamed { schema::known(body).to_vec() } else { Vec::new() }))
    })?;
    let (Around { facts, aliases }, fields) = merged.result;
    if let Some((say_ms, body)) = merged.say {
        let mut event = node_event(id, "node", key, say_ms, voice, &body);
        event.facts.extend(facts);
        out.events.push(event);
        if !aliases.is_empty() {
            let mut event = Event::new(format!("{id}#names"), SOURCE, runs_scope(key), say_ms);
            event.facts = aliases;
            out.events.push(event);
        }
    }
    if ended {
        became_another(key, became.as_ref(), &fields, voice.at_ms, id, &mut out.events)?;
    }
    Ok(())
}

/// Whether the event only names the dataset.
fn says_nothing(at: &At) -> bool {
    at.field("facets").is_none_or(|f| f.value.as_object().is_some_and(serde_json::Map::is_empty))
}

/// Notes when the outputs were written.
fn written(out: &mut Vec<Fact>, (key, job, run_id): (&NodeKey, &At, &str), outputs: &Side, at_ms: i64, interval_ms: Option<i64>) {
    for (output, _) in outputs.present(true).filter(|(o, _)| *o != key) {
        let job = json!({"namespace": job.value["namespace"], "name": job.value["name"]});
        let body = json!({"lastWrittenAt": rfc3339(at_ms), "job": job, "runId": run_id, "intervalMs": interval_ms});
        out.push(Fact::Document(DocumentFact { node: output.clone(), name: FRESHNESS.into(), body }));
    }
}
