//! A folder whose files are imported when they change: they are looked at every so often, and what vanished is withdrawn.
//!
//! Names, sizes and times of change tell whether anything is new, so that a look costs little. What goes wrong is in the log, in
//! metrics and in the answer of `GET /api/v1/lineage/import`; it is tried again with the next look.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use isobar_block::time;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::alerts::Span;
use crate::import::reconcile::{self, Report};
use crate::import::{self, Options, folder};
use crate::service::Service;
use crate::{Error, Result};

/// Shortest time between two looks.
pub const MIN_INTERVAL_MS: i64 = 1_000;

/// Name of the import, unless another one is set.
const NAME: &str = "watch";

/// The section of the settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The folder; nothing is watched without it. Relative to the settings file.
    pub path: Option<PathBuf>,
    /// Time between two looks.
    pub interval: Span,
    /// Name of the import: scopes begin with it.
    pub name: String,
    /// The source of all facts, rather than one by format.
    pub source: Option<String>,
    /// Namespace of Kubernetes objects that name none.
    pub namespace: Option<String>,
    /// Host that unit files are of.
    pub host: Option<String>,
    /// OpenLineage namespace of dbt's relations.
    pub dbt_namespace: Option<String>,
    /// OpenLineage namespace of dbt's jobs.
    pub dbt_job_namespace: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            path: None,
            interval: Span::seconds(30),
            name: NAME.into(),
            source: None,
            namespace: None,
            host: None,
            dbt_namespace: None,
            dbt_job_namespace: None,
        }
    }
}

impl Settings {
    /// Makes paths of the section that are relative to the folder of the settings file absolute.
    pub fn resolve_paths(&mut self, folder: &Path) {
        if let Some(path) = &mut self.path {
            *path = folder.join(&*path);
        }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the field.
    pub fn check(&self) -> Result<()> {
        if self.interval.ms() < MIN_INTERVAL_MS {
            return Err(Error::invalid("interval", format!("is shorter than {MIN_INTERVAL_MS} ms; give 1s or more")));
        }
        if self.name.is_empty() {
            return Err(Error::invalid("name", "is empty; leave it out or name the import"));
        }
        Ok(())
    }

    fn options(&self) -> Options {
        Options {
            name: self.name.clone(),
            folder: true,
            source: self.source.clone(),
            namespace: self.namespace.clone(),
            host: self.host.clone(),
            dbt_namespace: self.dbt_namespace.clone(),
            dbt_job_namespace: self.dbt_job_namespace.clone(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

/// What the last look and the last import came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// The folder; none if nothing is watched.
    pub path: Option<String>,
    /// When it was looked at last, Unix milliseconds.
    pub looked_ms: Option<i64>,
    /// Why the last look could not be finished.
    pub error: Option<String>,
    /// The last import, with what became of each file.
    pub imported: Option<Report>,
}

/// What is counted, and the status.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    imports: Family<ResultLabels, Counter>,
    files: Family<ResultLabels, Gauge>,
    last_success: Gauge<f64, AtomicU64>,
    status: Arc<Mutex<Status>>,
}

impl Metrics {
    /// Registers it.
    pub fn register(&self, registry: &mut Registry) {
        let name = "isobar_lineage_watch_imports";
        registry.register(
            name,
            "Imports of the watched folder by result: success, partial if files could not be read, or failure",
            self.imports.clone(),
        );
        let name = "isobar_lineage_watch_files";
        registry.register(name, "Files of the last import of the watched folder: success or failure", self.files.clone());
        let name = "isobar_lineage_watch_last_success_timestamp_seconds";
        registry.register(name, "When the watched folder was last looked at without an error", self.last_success.clone());
    }

    /// What the last look and the last import came to.
    pub fn status(&self) -> Status {
        self.status.lock().clone()
    }

    fn imported(&self, report: Report) {
        let failed = report.failed().count();
        let result = if failed == 0 { "success" } else { "partial" };
        self.imports.get_or_create(&ResultLabels { result }).inc();
        self.files.get_or_create(&ResultLabels { result: "success" }).set((report.files.len() - failed) as i64);
        self.files.get_or_create(&ResultLabels { result: "failure" }).set(failed as i64);
        self.status.lock().imported = Some(report);
    }

    fn looked(&self, path: &Path, outcome: &Result<()>) {
        let now_ms = time::now_ms();
        let mut status = self.status.lock();
        status.path = Some(path.display().to_string());
        status.looked_ms = Some(now_ms);
        status.error = outcome.as_ref().err().map(Error::to_string);
        match outcome {
            Ok(()) => drop(self.last_success.set(now_ms as f64 / 1000.0)),
            Err(_) => drop(self.imports.get_or_create(&ResultLabels { result: "failure" }).inc()),
        }
    }
}

/// Works until told to stop.
pub async fn run(service: Service, mut stop: watch::Receiver<bool>) {
    let mut changed = service.subscribe();
    let mut last: Option<(Settings, u128)> = None;
    loop {
        let settings = service.settings().watch.clone();
        if let Some(path) = settings.path.clone() {
            let outcome = look(&service, &settings, &path, &mut last).await;
            if let Err(error) = &outcome {
                tracing::warn!(folder = %path.display(), %error, "the watched folder was not imported; it is tried again");
            }
            service.metrics().folder.looked(&path, &outcome);
        }
        tokio::select! {
            () = tokio::time::sleep(settings.interval.duration()) => {}
            _ = changed.changed() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Imports the folder if it or the settings have changed.
async fn look(service: &Service, settings: &Settings, path: &Path, last: &mut Option<(Settings, u128)>) -> Result<()> {
    let folder_path = path.to_path_buf();
    let state = tokio::task::spawn_blocking(move || folder::state(&folder_path)).await.map_err(|_| Error::Canceled)??;
    if last.as_ref().is_some_and(|(of, was)| of == settings && *was == state) {
        return Ok(());
    }
    let (options, at_ms, folder_path) = (settings.options(), time::now_ms(), path.to_path_buf());
    let read_options = options.clone();
    let reads = tokio::task::spawn_blocking(move || import::detect_and_read(&folder_path, &read_options, at_ms));
    let reads = reads.await.map_err(|_| Error::Canceled)??;
    let tenant = service.tenant(service.default_tenant()).await?;
    let report = reconcile::apply(&tenant.store, reads, &options, true, false, at_ms).await?;
    for file in report.failed() {
        tracing::warn!(file = file.path, error = file.error, "a file of the watched folder was not imported; what it said before stays");
    }
    tracing::info!(folder = %path.display(), files = report.files.len(), withdrawn = report.withdrawn.len(), "the watched folder was imported");
    service.metrics().folder.imported(report);
    // Only now, so that what failed as a whole is tried again.
    *last = Some((settings.clone(), state));
    Ok(())
}

#[cfg(test)]
mod tests;
