//! What the compactor remembers of each tenant, for its status and its gauges.

use std::collections::BTreeMap;
use std::sync::Arc;

use isobar_block::{TenantId, time};

use super::Compactor;
use super::failures::Failures;
use crate::error::Error;
use crate::metrics::LevelLabel;
use crate::plan::Job;
use crate::rewrite::{Control, Progress};
use crate::status::{LastError, Running, TenantStatus};

/// What is known of a tenant.
#[derive(Default)]
pub struct Record {
    /// As of the last round, but for what is running.
    pub status: TenantStatus,
    /// The job that is carried out, since when, and how far it is.
    pub running: Option<(Job, i64, Arc<Control>)>,
    /// What has failed.
    pub failures: Failures,
    /// Size and samples of raw blocks by level.
    pub levels: Vec<(u32, u64, u64)>,
}

impl Record {
    /// The status now.
    pub fn status(&self) -> TenantStatus {
        let running = self.running.as_ref();
        let running =
            running.map(|(job, since_ms, control)| Running { job: job.clone(), since_ms: *since_ms, progress: control.progress() });
        TenantStatus { running, ..self.status.clone() }
    }
}

impl Compactor {
    /// Remembers an error.
    pub(super) fn failed(&self, tenant: &TenantId, job: &str, error: &Error) {
        let error = LastError { at_ms: time::now_ms(), job: job.to_owned(), error: error.to_string() };
        self.record(tenant, |record| record.status.last_error = Some(error));
    }

    /// Changes what is known of a tenant.
    pub(super) fn record(&self, tenant: &TenantId, change: impl FnOnce(&mut Record)) {
        let mut tenants = self.tenants.lock();
        let record = tenants.entry(tenant.clone()).or_default();
        if record.status.tenant.is_empty() {
            record.status.tenant = tenant.to_string();
        }
        change(record);
    }

    /// Tells the running job of a tenant to stop.
    pub(super) fn cancel(&self, tenant: &TenantId) {
        if let Some((_, _, control)) = self.tenants.lock().get(tenant).and_then(|r| r.running.as_ref()) {
            control.cancel();
        }
    }

    /// How far the running job of a tenant is.
    pub(super) fn progress_of(&self, tenant: &TenantId) -> Progress {
        let tenants = self.tenants.lock();
        tenants.get(tenant).and_then(|r| r.running.as_ref()).map(|(_, _, control)| control.progress()).unwrap_or_default()
    }

    /// Brings the gauges up to date.
    pub(super) fn publish(&self) {
        let tenants = self.tenants.lock();
        let all = || tenants.values().map(|r| &r.status);
        self.metrics.backlog_bytes.set(all().map(|s| s.backlog_bytes as i64).sum());
        self.metrics.backlog_hours.set(all().map(|s| s.backlog_hours).fold(0.0, f64::max));
        self.metrics.quarantined.set(all().map(|s| s.quarantined.len() as i64).sum());
        let mut levels: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        for (level, size, samples) in tenants.values().flat_map(|r| &r.levels) {
            let sum = levels.entry(*level).or_default();
            *sum = (sum.0 + size, sum.1 + samples);
        }
        for (level, (size, samples)) in levels {
            self.metrics.bytes_per_sample.get_or_create(&LevelLabel { level }).set(size as f64 / samples.max(1) as f64);
        }
    }
}

/// Says that a job is over, however it ends.
pub struct Ended<'a> {
    /// Whose job.
    pub compactor: &'a Compactor,
    /// Of which tenant.
    pub tenant: &'a TenantId,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.compactor.record(self.tenant, |record| record.running = None);
        self.compactor.metrics.running.set(0);
        if let Some(while_working) = self.compactor.config.while_working {
            while_working(false);
        }
    }
}
