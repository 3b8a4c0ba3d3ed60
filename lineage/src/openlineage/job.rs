//! What an event says about a job: its body, the edges around it, the jobs before, after and above it.

use serde_json::Value;

use super::about::{cut, describe, facet, facets};
use super::edges::Edges;
use super::known::{Known, Merged, merge};
use super::lineage::{column_lineage, dataset_lineage, job_lineage};
use super::names::{SOURCE, job_at, runs_scope};
use super::read::At;
use super::side::Side;
use super::voice::{Voice, named, ordering};
use crate::Result;
use crate::event::{Event, Fact, MAX_LAG_MS};
use crate::model::{Class, EdgeBody, Evidence, NodeBody, NodeKey, kind};

/// The attribute of a job that tells how the datasets that it writes come from those that it reads: `explicit`, by `columns`, or
/// `inferred` because nobody says.
pub const LINEAGE: &str = "lineage";

/// The attribute of a job with the time between its runs, milliseconds.
pub const RUN_INTERVAL: &str = "run_interval_ms";

/// The attribute of a job with how it works: `BATCH`, `STREAMING` or `SERVICE`.
pub const PROCESSING_TYPE: &str = "processing_type";

/// Rule of the alias of a job that is a service.
const SERVICE_RULE: &str = "openlineage-service";

/// What is known of the runs of a job when its body is put together.
pub(super) struct Heard {
    pub event_type: &'static str,
    pub explicit: bool,
    pub interval_ms: Option<i64>,
}

/// What the body of a job tells.
pub(super) struct JobSaid {
    pub explicit: bool,
    pub interval_ms: Option<i64>,
    pub service: bool,
}

/// Whether a `lineage` facet is in the event, which then tells all that there is to tell about columns and datasets.
pub(super) fn is_explicit(job_facets: Option<&At>, outputs: &Side) -> Result<bool> {
    if facet(job_facets, "lineage").is_some() {
        return Ok(true);
    }
    for at in &outputs.ats {
        if facet(facets(at, "facets")?.as_ref(), "lineage").is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn describe_job(
    known: &mut impl Known,
    key: &NodeKey,
    job_facets: Option<&At>,
    outputs: &Side,
    at_ms: i64,
    heard: &Heard,
) -> Result<Merged<JobSaid>> {
    let by_columns = has_columns(outputs)?;
    merge(known, key, at_ms, |body, late| {
        body.evidence = Evidence::Observed;
        let processing = put_job(body, job_facets, late)?;
        let before = body.attributes.get(LINEAGE).and_then(Value::as_str).map(str::to_owned);
        // A run that only begins often does not know yet what the ones before it knew at their end.
        let begins = matches!(heard.event_type, "START" | "RUNNING" | "OTHER");
        let now = match before {
            _ if heard.explicit => Some("explicit".to_owned()),
            Some(before) if late || begins || outputs.keys.is_empty() => Some(before),
            _ if by_columns => Some("columns".to_owned()),
            before if outputs.keys.is_empty() => before,
            _ => Some("inferred".to_owned()),
        };
        let explicit = now.as_deref() == Some("explicit");
        if let Some(now) = now {
            body.attributes.insert(LINEAGE.into(), now.into());
        }
        let rhythmic = !matches!(processing.as_deref(), Some("STREAMING" | "SERVICE"));
        let known_ms = body.attributes.get(RUN_INTERVAL).and_then(Value::as_i64);
        let interval_ms = heard.interval_ms.or(known_ms).filter(|_| rhythmic).map(|ms| ms.clamp(1, MAX_LAG_MS));
        match interval_ms {
            Some(ms) => drop(body.attributes.insert(RUN_INTERVAL.into(), ms.into())),
            None => drop(body.attributes.remove(RUN_INTERVAL)),
        }
        Ok(JobSaid { explicit, interval_ms, service: processing.as_deref() == Some("SERVICE") })
    })
}

pub(super) fn has_columns(outputs: &Side) -> Result<bool> {
    for at in &outputs.ats {
        if facet(facets(at, "facets")?.as_ref(), "columnLineage").is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Puts the facets of a job into its body. Returns how it works.
pub(super) fn put_job(body: &mut NodeBody, facets: Option<&At>, late: bool) -> Result<Option<String>> {
    if let Some(facets) = facets {
        describe(body, facets, late)?;
    }
    if let Some(said) = facet(facets, "jobType").as_ref().and_then(|t| t.field("processingType")) {
        body.attributes.insert(PROCESSING_TYPE.into(), said.text()?.to_ascii_uppercase().into());
    }
    Ok(body.attributes.get(PROCESSING_TYPE).and_then(Value::as_str).map(str::to_owned))
}

/// Edges between a job and its datasets, and those of its outputs.
pub(super) fn job_edges(
    job: &NodeKey,
    job_facets: Option<&At>,
    (inputs, outputs): (&Side, &Side),
    explicit: bool,
    lag_ms: Option<i64>,
    ended: bool,
    edges: &mut Edges,
) -> Result<()> {
    for (output, at) in outputs.present(ended) {
        edges.add(output, job, EdgeBody { lag_ms, ..EdgeBody::default() });
        let facets = facets(at, "facets")?;
        if let Some(said) = facet(facets.as_ref(), "lineage") {
            dataset_lineage(&said, output, Some(job), edges)?;
        }
        if let Some(said) = facet(facets.as_ref(), "columnLineage").filter(|_| !explicit) {
            column_lineage(&said, output, lag_ms, edges)?;
        }
    }
    if let Some(said) = facet(job_facets, "lineage") {
        job_lineage(&said, job, lag_ms, edges)?;
    }
    for (input, _) in inputs.present(ended) {
        let body = if explicit { ordering(&[(LINEAGE, "explicit".into())]) } else { EdgeBody::default() };
        edges.add(job, input, body);
    }
    Ok(())
}

/// Jobs that run before or after this one, which is no flow of data.
pub(super) fn dependencies(run_facets: Option<&At>, job: &NodeKey, edges: &mut Edges) -> Result<()> {
    let Some(said) = facet(run_facets, "jobDependencies") else { return Ok(()) };
    for (name, before) in [("upstream", true), ("downstream", false)] {
        let Some(list) = said.field(name) else { continue };
        for dependency in list.items()? {
            let other = job_at(&dependency.required("job")?)?;
            let mut attributes = Vec::new();
            for name in ["dependency_type", "sequence_trigger_rule", "status_trigger_rule"] {
                if let Some(rule) = dependency.field(name).or_else(|| said.field("trigger_rule").filter(|_| name == "status_trigger_rule"))
                {
                    attributes.push((name, cut(rule.value, 1024)));
                }
            }
            let body = EdgeBody { class: Some(Class::Ordering), attributes: named(&attributes), ..EdgeBody::default() };
            let (from, to) = if before { (job, &other) } else { (&other, job) };
            edges.add(from, to, body);
        }
    }
    Ok(())
}

/// That the parent of a run contains the job. It may not fit the graph, and then the rest still counts.
pub(super) fn contain(out: &mut Vec<Event>, id: &str, run_facets: Option<&At>, job: &NodeKey, voice: &Voice) -> Result<()> {
    let Some(said) = facet(run_facets, "parent").or_else(|| facet(run_facets, "parentRun")) else { return Ok(()) };
    let Some(named) = said.field("job") else { return Ok(()) };
    let parent = job_at(&named)?;
    if parent != *job {
        let mut event = Event::new(format!("{id}#parent"), SOURCE, runs_scope(job), voice.at_ms);
        event.facts = vec![voice.composed(&parent, job)];
        out.push(event);
    }
    Ok(())
}

/// A job that is a service goes by the service's name.
pub(super) fn service_alias(job: &NodeKey) -> Result<Fact> {
    let service = NodeKey::new(kind::SERVICE, &job.namespace(), &job.name())?;
    Ok(Fact::alias(job.clone(), service, SERVICE_RULE))
}
