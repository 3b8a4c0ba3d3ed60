//! Jobs as Marquez shows them.

use serde_json::{Value, json};

use super::lists::Page;
use super::run::Run;
use super::{Kind, Missing, Reader, iso, node, pair};
use crate::openlineage::PROCESSING_TYPE;
use crate::snapshot::NodeIdx;

impl Reader {
    /// A job.
    pub fn job(&self, namespace: &str, name: &str) -> Result<Value, Missing> {
        let job = self.get(Kind::Job, namespace, name)?;
        Ok(self.job_json(job))
    }

    /// The job with everything.
    pub(super) fn job_json(&self, job: NodeIdx) -> Value {
        let runs = self.latest_runs(job);
        let mut out = self.job_data(job, runs.first());
        out["latestRuns"] = runs.iter().map(|r| self.run_summary(r)).collect();
        out["facets"] = self.facets(job).into();
        out["currentVersion"] = runs.first().map_or_else(|| self.job_version(job), |r| self.job_version_of(r)).into();
        out["labels"] = json!([]);
        out
    }

    /// The job as it stands in a graph.
    pub(super) fn job_data(&self, job: NodeIdx, latest: Option<&Run>) -> Value {
        let (namespace, name) = self.name(job);
        let (created_ms, updated_ms) = self.times(job);
        let said = self.said(job);
        let parent = self.wholes(job).find(|w| matches!(self.known_as(*w), Some((Kind::Job, _))));
        let parent_name = parent.map(|p| self.name(p).1);
        let simple = parent_name.as_deref().and_then(|p| name.strip_prefix(p)?.strip_prefix('.')).unwrap_or(&name);
        json!({
            "id": pair(&namespace, &name),
            "type": self.job_type(job),
            "name": name,
            "simpleName": simple,
            "parentJobName": parent_name,
            "parentJobUuid": parent.map(|p| { let (ns, n) = self.name(p); super::uuid(&["job", &ns, &n]) }),
            "createdAt": iso(created_ms),
            "updatedAt": iso(latest.map_or(updated_ms, |r| r.updated_ms.max(updated_ms))),
            "namespace": namespace,
            "inputs": node::pair_list(&self.inputs(job)),
            "outputs": node::pair_list(&self.outputs(job)),
            "location": said.facet("sourceCodeLocation").and_then(|f| f.get("url")),
            "description": said.description(),
            "latestRun": latest.map(|r| self.run_summary(r)),
            "tags": said.tags(),
        })
    }

    /// Marquez knows batches, streams and services.
    pub(super) fn job_type(&self, job: NodeIdx) -> &'static str {
        let said = self.said(job);
        match said.attribute(PROCESSING_TYPE).and_then(Value::as_str) {
            Some("STREAMING") => "STREAM",
            Some("SERVICE") => "SERVICE",
            _ => "BATCH",
        }
    }

    /// Datasets that a job reads.
    fn inputs(&self, job: NodeIdx) -> Vec<(String, String)> {
        self.pairs(self.sources(job).filter(|(_, kind)| *kind == Kind::Dataset).map(|(n, _)| n))
    }

    /// Datasets that a job writes.
    fn outputs(&self, job: NodeIdx) -> Vec<(String, String)> {
        self.pairs(self.targets(job).filter(|(_, kind)| *kind == Kind::Dataset).map(|(n, _)| n))
    }

    /// The version of a job of which no run is known.
    fn job_version(&self, job: NodeIdx) -> String {
        let (namespace, name) = self.name(job);
        super::uuid(&["job", &namespace, &name, &format!("{:?} {:?}", self.inputs(job), self.outputs(job))])
    }

    /// Runs of a job, the newest first.
    pub fn job_runs(&self, namespace: &str, name: &str, page: Page) -> Result<Value, Missing> {
        let job = self.get(Kind::Job, namespace, name)?;
        let runs: Vec<Run> = self.runs(job).collect();
        let list: Vec<Value> = page.of(&runs).iter().map(|r| self.run_json(r)).collect();
        Ok(json!({"runs": list, "totalCount": runs.len()}))
    }

    /// Versions of a job, the newest first: runs that have read and written the same are of one version.
    fn all_job_versions(&self, job: NodeIdx) -> Vec<(String, i64, Option<Run>)> {
        let mut versions: Vec<(String, i64, Option<Run>)> = Vec::new();
        for run in self.runs(job) {
            let id = self.job_version_of(&run);
            match versions.iter_mut().find(|(known, _, _)| *known == id) {
                Some((_, created_ms, _)) => *created_ms = run.created_ms.min(*created_ms),
                None => versions.push((id, run.created_ms, Some(run))),
            }
        }
        if versions.is_empty() {
            versions.push((self.job_version(job), self.times(job).0, None));
        }
        versions
    }

    /// When a version was seen first, Unix milliseconds.
    pub(super) fn job_version_time(&self, job: NodeIdx, version: &str) -> Option<i64> {
        self.all_job_versions(job).into_iter().find(|(id, _, _)| id == version).map(|(_, created_ms, _)| created_ms)
    }

    fn job_version_json(&self, job: NodeIdx, version: &(String, i64, Option<Run>)) -> Value {
        let (namespace, name) = self.name(job);
        let (id, created_ms, latest) = version;
        let named = |list: &[super::run::Named]| list.iter().map(|n| pair(&n.namespace, &n.name)).collect::<Value>();
        let (inputs, outputs) = match latest {
            Some(run) => (named(&run.inputs), named(&run.outputs)),
            None => (node::pair_list(&self.inputs(job)), node::pair_list(&self.outputs(job))),
        };
        json!({
            "id": {"namespace": namespace, "name": name, "version": id},
            "name": name,
            "namespace": namespace,
            "version": id,
            "createdAt": iso(*created_ms),
            "location": self.said(job).facet("sourceCodeLocation").and_then(|f| f.get("url")),
            "inputs": inputs,
            "outputs": outputs,
            "latestRun": latest.as_ref().map(|r| self.run_json(r)),
        })
    }

    /// Versions of a job, the newest first.
    pub fn job_versions(&self, namespace: &str, name: &str, page: Page) -> Result<Value, Missing> {
        let job = self.get(Kind::Job, namespace, name)?;
        let versions = self.all_job_versions(job);
        let list: Vec<Value> = page.of(&versions).iter().map(|v| self.job_version_json(job, v)).collect();
        Ok(json!({"versions": list, "totalCount": versions.len()}))
    }

    /// One version of a job.
    pub fn job_version_by_id(&self, namespace: &str, name: &str, version: &str) -> Result<Value, Missing> {
        let job = self.get(Kind::Job, namespace, name)?;
        let versions = self.all_job_versions(job);
        let found = versions.iter().find(|(id, _, _)| id == version);
        found.map(|v| self.job_version_json(job, v)).ok_or_else(|| Missing("Job version", version.to_owned()))
    }
}
