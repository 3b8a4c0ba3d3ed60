//! Versions of datasets: one for every run that has written it, and one for every other change of what is said of it.

use std::rc::Rc;

use super::{Kind, Reader, node, uuid};
use crate::model::NodeBody;
use crate::snapshot::NodeIdx;

/// Jobs that write one dataset whose runs are looked at.
const MAX_WRITERS: usize = 50;

/// Versions of one dataset that are known; the newest.
pub const MAX_VERSIONS: usize = 500;

/// A change of a description within so much time of a run that wrote the dataset is that run's.
const SAME_CHANGE_MS: i64 = 60_000;

/// A version of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    /// A UUID.
    pub id: String,
    /// Since when it is there, Unix milliseconds.
    pub created_ms: i64,
    /// The run that made it.
    pub run: Option<String>,
}

impl Reader {
    /// Versions of a dataset, the newest first.
    pub(super) fn versions(&self, dataset: NodeIdx) -> Rc<Vec<Version>> {
        if let Some(known) = self.versions.borrow().get(&dataset) {
            return Rc::clone(known);
        }
        let found = Rc::new(self.find_versions(dataset));
        self.versions.borrow_mut().insert(dataset, Rc::clone(&found));
        found
    }

    fn find_versions(&self, dataset: NodeIdx) -> Vec<Version> {
        let (namespace, name) = self.name(dataset);
        let names: Vec<(String, String)> = self.names(dataset).map(node::split).collect();
        let mut versions = Vec::new();
        for (job, _) in self.sources(dataset).filter(|(_, kind)| *kind == Kind::Job).take(MAX_WRITERS) {
            let wrote = self.runs(job).filter(|r| r.outputs.iter().any(|o| names.iter().any(|(ns, n)| *ns == o.namespace && *n == o.name)));
            versions.extend(wrote.map(|run| Version {
                id: self.version_of_run(dataset, &run.id),
                created_ms: run.ended_ms.unwrap_or(run.updated_ms),
                run: Some(run.id),
            }));
        }
        versions.sort_by(|a, b| (b.created_ms, &b.id).cmp(&(a.created_ms, &a.id)));
        let graph = &self.snapshot.graph;
        let mut changes: Vec<i64> = graph
            .node_records(dataset.0)
            .flat_map(|r| &graph.frozen.nodes[r].claims.0)
            .flat_map(|claim| &claim.versions)
            .filter(|v| v.from_ms <= self.at_ms() && *v.body != NodeBody::default())
            .map(|v| v.from_ms)
            .collect();
        changes.sort_unstable();
        changes.dedup();
        changes.retain(|at_ms| !versions.iter().any(|v| (v.created_ms - at_ms).abs() <= SAME_CHANGE_MS));
        versions.extend(changes.into_iter().map(|at_ms| Version {
            id: uuid(&["dataset", &namespace, &name, &at_ms.to_string()]),
            created_ms: at_ms,
            run: None,
        }));
        versions.sort_by(|a, b| (b.created_ms, &b.id).cmp(&(a.created_ms, &a.id)));
        versions.truncate(MAX_VERSIONS);
        versions
    }

    /// The version that was there at a time.
    pub(super) fn version_before(&self, dataset: NodeIdx, at_ms: i64) -> Option<Version> {
        let versions = self.versions(dataset);
        versions.iter().find(|v| v.created_ms <= at_ms).cloned()
    }

    /// The id of the version that a run has made.
    pub(super) fn version_of_run(&self, dataset: NodeIdx, run: &str) -> String {
        let (namespace, name) = self.name(dataset);
        uuid(&["dataset", &namespace, &name, run])
    }
}
