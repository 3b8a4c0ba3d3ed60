//! Runs, which are documents of their job.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Kind, Reader, iso, iso_or_null};
use crate::http::params::parse_time_ms;
use crate::openlineage::RUN;
use crate::snapshot::NodeIdx;

/// Runs of a job that are shown with it.
pub(super) const LATEST_RUNS: usize = 10;

/// A dataset that a run has named.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Named {
    pub namespace: String,
    pub name: String,
    #[serde(default)]
    facets: Map<String, Value>,
}

/// What a document says about a run.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    run_id: String,
    #[serde(default)]
    state: Option<String>,
    #[serde(default)]
    started_at: Option<Value>,
    #[serde(default)]
    ended_at: Option<Value>,
    #[serde(default)]
    updated_at: Option<Value>,
    #[serde(default)]
    nominal_start_time: Option<Value>,
    #[serde(default)]
    nominal_end_time: Option<Value>,
    #[serde(default)]
    facets: Option<Map<String, Value>>,
    #[serde(default)]
    inputs: Option<Vec<Named>>,
    #[serde(default)]
    outputs: Option<Vec<Named>>,
    #[serde(default)]
    parent: Option<Value>,
}

/// A run as of the time of the reader.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub id: String,
    /// The job's node.
    pub job: NodeIdx,
    pub state: &'static str,
    pub created_ms: i64,
    pub updated_ms: i64,
    pub started_ms: Option<i64>,
    pub ended_ms: Option<i64>,
    nominal_ms: (Option<i64>, Option<i64>),
    pub inputs: Vec<Named>,
    pub outputs: Vec<Named>,
    parent: Option<Value>,
    pub facets: Map<String, Value>,
}

fn time(value: Option<&Value>) -> Option<i64> {
    match value? {
        Value::String(text) => parse_time_ms(text),
        number => number.as_i64(),
    }
}

/// Marquez's word for what OpenLineage says.
fn state(said: &str) -> &'static str {
    match said {
        "COMPLETE" | "COMPLETED" => "COMPLETED",
        "FAIL" | "FAILED" => "FAILED",
        "ABORT" | "ABORTED" => "ABORTED",
        "START" | "RUNNING" | "OTHER" => "RUNNING",
        _ => "NEW",
    }
}

impl Reader {
    /// The run that a document is, unless it began after the time of the reader.
    fn read_run(&self, job: NodeIdx, updated_ms: i64, text: &str) -> Option<Run> {
        let body: Body = serde_json::from_str(text).ok()?;
        let started_ms = time(body.started_at.as_ref());
        let updated_ms = time(body.updated_at.as_ref()).unwrap_or(updated_ms);
        let ended_ms = time(body.ended_at.as_ref());
        let created_ms = started_ms.unwrap_or(i64::MAX).min(updated_ms).min(ended_ms.unwrap_or(i64::MAX));
        if created_ms > self.at_ms() {
            return None;
        }
        let mut run = Run {
            id: body.run_id,
            job,
            state: state(body.state.as_deref().unwrap_or("")),
            created_ms,
            updated_ms,
            started_ms,
            ended_ms,
            nominal_ms: (time(body.nominal_start_time.as_ref()), time(body.nominal_end_time.as_ref())),
            inputs: body.inputs.unwrap_or_default(),
            outputs: body.outputs.unwrap_or_default(),
            parent: body.parent,
            facets: body.facets.unwrap_or_default(),
        };
        if run.ended_ms.is_some_and(|end| end > self.at_ms()) {
            (run.state, run.ended_ms, run.updated_ms) = ("RUNNING", None, created_ms);
        }
        Some(run)
    }

    /// Runs of a job, the newest first. They are read one by one.
    pub(super) fn runs(&self, job: NodeIdx) -> impl Iterator<Item = Run> {
        let mut texts: Vec<(Arc<str>, i64, Arc<str>)> = self.names(job).flat_map(|key| self.store.document_texts_of(key, RUN)).collect();
        texts.sort_by_key(|(_, updated_ms, _)| std::cmp::Reverse(*updated_ms));
        texts.into_iter().filter_map(move |(_, updated_ms, text)| self.read_run(job, updated_ms, &text))
    }

    /// A run by its id.
    pub(super) fn run(&self, id: &str) -> Option<Run> {
        let name = format!("{RUN}{}", id.to_ascii_lowercase());
        let found = self.store.documents_named(&name).into_iter().find_map(|(job, updated_ms, body)| {
            let job = self.snapshot.find(&job)?;
            self.read_run(job, updated_ms, &body.to_string())
        });
        found.filter(|run| matches!(self.known_as(run.job), Some((Kind::Job, _))))
    }

    /// The dataset that a run has named, if it is in the graph.
    pub(super) fn dataset_of(&self, named: &Named) -> Option<NodeIdx> {
        self.find(Kind::Dataset, &named.namespace, &named.name)
    }

    /// The run as Marquez shows it.
    pub(super) fn run_json(&self, run: &Run) -> Value {
        let read = |named: &Named| Some((self.version_before(self.dataset_of(named)?, run.created_ms)?.id, named.clone()));
        self.show_run(run, &run.inputs.iter().filter_map(read).collect::<Vec<_>>())
    }

    /// The run without the versions of what it has read, which take longer to find.
    pub(super) fn run_summary(&self, run: &Run) -> Value {
        self.show_run(run, &[])
    }

    fn show_run(&self, run: &Run, inputs: &[(String, Named)]) -> Value {
        let (namespace, job) = self.name(run.job);
        let wrote = |named: &Named| Some((self.version_of_run(self.dataset_of(named)?, &run.id), named.clone()));
        let outputs: Vec<(String, Named)> = run.outputs.iter().filter_map(wrote).collect();
        let id = |(version, named): &(String, Named)| json!({"namespace": named.namespace, "name": named.name, "version": version});
        let ids = |list: &[(String, Named)]| list.iter().map(id).collect::<Value>();
        let versions = |list: &[(String, Named)]| -> Value {
            list.iter().map(|one| json!({"datasetVersionId": id(one), "facets": one.1.facets})).collect()
        };
        json!({
            "id": run.id,
            "createdAt": iso(run.created_ms),
            "updatedAt": iso(run.updated_ms),
            "nominalStartTime": iso_or_null(run.nominal_ms.0),
            "nominalEndTime": iso_or_null(run.nominal_ms.1),
            "state": run.state,
            "startedAt": iso_or_null(run.started_ms),
            "endedAt": iso_or_null(run.ended_ms),
            "durationMs": run.started_ms.zip(run.ended_ms).map(|(a, b)| (b - a).max(0)),
            "args": self.run_args(run),
            "jobVersion": {"namespace": namespace, "name": job, "version": self.job_version_of(run)},
            "inputVersions": ids(inputs),
            "outputVersions": ids(&outputs),
            "inputDatasetVersions": versions(inputs),
            "outputDatasetVersions": versions(&outputs),
            "facets": run.facets,
        })
    }

    /// What Marquez calls the arguments of a run: its nominal times, and the run that it is a part of.
    fn run_args(&self, run: &Run) -> Value {
        let mut args = Map::new();
        for (name, time) in [("nominal_start_time", run.nominal_ms.0), ("nominal_end_time", run.nominal_ms.1)] {
            args.extend(time.map(|ms| (name.to_owned(), iso(ms).into())));
        }
        if let Some(parent) = &run.parent {
            let texts = [("run_id", "/run/runId"), ("run_id", "/runId"), ("name", "/job/name"), ("namespace", "/job/namespace")];
            for (name, path) in texts {
                args.extend(parent.pointer(path).and_then(Value::as_str).map(|text| (name.to_owned(), text.into())));
            }
        }
        Value::Object(args)
    }

    /// The version of the job that a run was of: another one whenever the job reads or writes something else.
    pub(super) fn job_version_of(&self, run: &Run) -> String {
        let (namespace, name) = self.name(run.job);
        let datasets = |list: &[Named]| {
            let mut ids: Vec<String> = list.iter().map(|n| format!("{}\0{}", n.namespace, n.name)).collect();
            ids.sort_unstable();
            ids.dedup();
            ids.join("\0")
        };
        super::uuid(&["job", &namespace, &name, &datasets(&run.inputs), &datasets(&run.outputs)])
    }

    /// The facets of a run, or those of its job.
    pub fn run_facets(&self, id: &str, of_job: bool) -> Option<Value> {
        let run = self.run(id)?;
        let facets = if of_job { self.facets(run.job) } else { run.facets };
        Some(json!({"runId": run.id, "facets": facets}))
    }

    /// A run as Marquez shows it, by its id.
    pub fn run_by_id(&self, id: &str) -> Option<Value> {
        self.run(id).map(|run| self.run_json(&run))
    }

    /// The last run of a job, and the last few.
    pub(super) fn latest_runs(&self, job: NodeIdx) -> Vec<Run> {
        self.runs(job).take(LATEST_RUNS).collect()
    }

    /// The runs that have made what a run has read, and what made that, so many steps back.
    pub fn upstream_runs(&self, id: &str, depth: usize) -> Option<Value> {
        let mut found = vec![(self.run(id)?, 0)];
        let mut seen = std::collections::HashSet::from([found[0].0.id.clone()]);
        let (mut at, mut out) = (0, Vec::new());
        while at < found.len() {
            let (run, distance) = found[at].clone();
            at += 1;
            let mut inputs = Vec::new();
            for named in &run.inputs {
                let version = self.dataset_of(named).and_then(|d| self.version_before(d, run.created_ms));
                let made_by = version.as_ref().and_then(|v| v.run.as_deref());
                inputs.push(json!({
                    "namespace": named.namespace, "name": named.name,
                    "version": version.as_ref().map(|v| &v.id), "producedByRunId": made_by,
                }));
                let Some(made_by) = made_by.filter(|_| distance < depth) else { continue };
                if found.len() < super::MAX_LINEAGE_NODES && seen.insert(made_by.to_owned()) {
                    found.extend(self.run(made_by).map(|r| (r, distance + 1)));
                }
            }
            let (namespace, name) = self.name(run.job);
            out.push(json!({
                "job": {"namespace": namespace, "name": name, "version": self.job_version_of(&run)},
                "run": {"id": run.id, "start": iso_or_null(run.started_ms), "end": iso_or_null(run.ended_ms), "status": run.state},
                "inputs": inputs,
            }));
        }
        Some(json!({"runs": out}))
    }
}
