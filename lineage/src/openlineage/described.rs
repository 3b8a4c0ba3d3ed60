//! JobEvents and DatasetEvents: they describe what is so without a run, and replace the one before of the same job or dataset.

use super::about::{facet, facets, latest};
use super::dataset::{Lifecycle, Role, describe_dataset, lifecycle};
use super::edges::Edges;
use super::job::{LINEAGE, has_columns, is_explicit, job_edges, put_job, service_alias};
use super::known::Known;
use super::lineage::{column_lineage, dataset_lineage};
use super::names::{SOURCE, dataset_at, job_at, static_scope};
use super::read::At;
use super::schema;
use super::side::Side;
use super::translate::{Translated, became_another, id};
use super::voice::Voice;
use crate::Result;
use crate::event::{Event, Fact};
use crate::model::{NodeBody, NodeKey};

/// Translates a JobEvent.
pub(super) fn job_event(root: &At, job: &At, at_ms: i64, raw: &str, known: &impl Known) -> Result<Translated> {
    let key = job_at(job)?;
    let voice = Voice::declared(at_ms);
    let job_facets = facets(job, "facets")?;
    let (inputs_at, outputs_at) = (root.field("inputs"), root.field("outputs"));
    let (inputs, outputs) = (Side::read(inputs_at.as_ref(), Role::Input)?, Side::read(outputs_at.as_ref(), Role::Output)?);
    let explicit = is_explicit(job_facets.as_ref(), &outputs)?;
    let id = id("job", at_ms, raw);
    let mut first = Event::new(&id, SOURCE, static_scope(&key), at_ms);
    let mut body = NodeBody::default();
    let processing = put_job(&mut body, job_facets.as_ref(), false)?;
    if !outputs.keys.is_empty() {
        let lineage = if explicit {
            "explicit"
        } else if has_columns(&outputs)? {
            "columns"
        } else {
            "inferred"
        };
        body.attributes.insert(LINEAGE.into(), lineage.into());
    }
    first.facts.push(Fact::node(key.clone(), body));
    if let Some(facets) = &job_facets {
        latest(&key, facets, false, &mut first.facts)?;
    }
    let mut edges = Edges::default();
    job_edges(&key, job_facets.as_ref(), (&inputs, &outputs), explicit, None, true, &mut edges)?;
    edges.say(&voice, &mut first.facts);
    let mut out = Translated { events: vec![first], dropped: Vec::new() };
    let mut aliases = Vec::new();
    for side in [&inputs, &outputs] {
        for n in 0..side.keys.len() {
            static_dataset(&voice, &side.ats[n], &side.keys[n], side.role, &side.lifecycles[n], &mut out, &mut aliases)?;
        }
    }
    if processing.as_deref() == Some("SERVICE") {
        aliases.push(service_alias(&key)?);
    }
    finish_static(out, aliases, &key, known)
}

/// Translates a DatasetEvent.
pub(super) fn dataset_event(dataset: &At, at_ms: i64, raw: &str, known: &impl Known) -> Result<Translated> {
    let key = dataset_at(dataset)?;
    let voice = Voice::declared(at_ms);
    let mut first = Event::new(id("dataset", at_ms, raw), SOURCE, static_scope(&key), at_ms);
    let said = facets(dataset, "facets")?;
    let became = lifecycle(dataset)?;
    let mut edges = Edges::default();
    match (facet(said.as_ref(), "lineage"), facet(said.as_ref(), "columnLineage")) {
        _ if became == Some(Lifecycle::Dropped) => {}
        (Some(explicit), _) => dataset_lineage(&explicit, &key, None, &mut edges)?,
        (None, Some(columns)) => column_lineage(&columns, &key, None, &mut edges)?,
        (None, None) => {}
    }
    edges.say(&voice, &mut first.facts);
    let mut out = Translated { events: vec![first], dropped: Vec::new() };
    let mut aliases = Vec::new();
    static_dataset(&voice, dataset, &key, Role::Output, &became, &mut out, &mut aliases)?;
    finish_static(out, aliases, &key, known)
}

/// What a JobEvent or a DatasetEvent says of a dataset: all of it, in the event's own scope.
fn static_dataset(
    voice: &Voice,
    at: &At,
    key: &NodeKey,
    role: Role,
    became: &Option<Lifecycle>,
    out: &mut Translated,
    aliases: &mut Vec<Fact>,
) -> Result<()> {
    for (name, varying) in [("facets", false), ("inputFacets", true), ("outputFacets", true)] {
        if let Some(facets) = facets(at, name)? {
            latest(key, &facets, varying, &mut out.events[0].facts)?;
        }
    }
    if *became == Some(Lifecycle::Dropped) {
        out.dropped.push(key.clone());
        return Ok(());
    }
    let mut body = NodeBody::default();
    let around = describe_dataset(voice, at, key, role, false, &mut body)?;
    let fields = schema::known(&body).to_vec();
    out.events[0].facts.push(Fact::node(key.clone(), body));
    out.events[0].facts.extend(around.facts);
    aliases.extend(around.aliases);
    let id = format!("{}#{}", out.events[0].id, out.events.len());
    became_another(key, became.as_ref(), &fields, voice.at_ms, &id, &mut out.events)
}

/// Adds the other names, and that now all is said. Of what a newer description of the node has replaced already, nothing is said.
fn finish_static(mut out: Translated, aliases: Vec<Fact>, node: &NodeKey, known: &impl Known) -> Result<Translated> {
    let first = &mut out.events[0];
    let (id, scope, at_ms) = (first.id.clone(), first.scope.clone(), first.at_ms);
    if known.described_ms(node, at_ms).is_some_and(|newer_ms| newer_ms > at_ms) {
        first.facts.clear();
        out.events.truncate(1);
        out.dropped.clear();
        return Ok(out);
    }
    if !aliases.is_empty() {
        let mut event = Event::new(format!("{id}#names"), SOURCE, &scope, at_ms);
        event.facts = aliases;
        out.events.push(event);
    }
    let mut end = Event::new(format!("{id}#end"), SOURCE, scope, at_ms);
    end.complete_since_ms = Some(at_ms);
    out.events.push(end);
    Ok(out)
}
