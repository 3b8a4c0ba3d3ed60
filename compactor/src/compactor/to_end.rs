//! Work until nothing is left, for somebody who waits for it.

use isobar_block::{BlockMeta, TenantId, time};
use rand::seq::SliceRandom;
use tokio::sync::watch;

use super::work::End;
use super::{Compactor, STOP_TIME, stopped};
use crate::error::{Error, Result};
use crate::plan::Job;
use crate::status::{LastError, Progress, Report};

/// How often somebody who waits is told of progress.
const PROGRESS_INTERVAL: std::time::Duration = std::time::Duration::from_millis(250);
/// A tenant is left after losing so many races.
const MAX_CONFLICTS: u64 = 1000;

impl Compactor {
    /// See [`Compactor::run_to_end`].
    pub(super) async fn run_tenant_to_end(
        &self,
        tenant: &TenantId,
        progress: &(dyn Fn(&Progress) + Send + Sync),
        stop: &mut watch::Receiver<bool>,
        report: &mut Report,
    ) -> Result<()> {
        let mut failed: Vec<String> = Vec::new();
        let mut conflicts = 0;
        let mut jobs_done = 0;
        while conflicts < MAX_CONFLICTS {
            let mut jobs = self.refreshed(tenant, false).await?.1;
            jobs.retain(|job| !failed.contains(&job.to_string()));
            jobs.shuffle(&mut rand::rng());
            let Some(job) = jobs.first() else { break };
            let state = self.blocks.catalog(tenant).await?.blocks();
            let work = self.work(tenant, job, &state);
            tokio::pin!(work);
            let mut ticks = tokio::time::interval(PROGRESS_INTERVAL);
            let end = loop {
                tokio::select! {
                    end = &mut work => break end,
                    () = stopped(stop) => {
                        self.cancel(tenant);
                        // It removes what it has written; what takes longer than this is left to the clean-up.
                        let _ = tokio::time::timeout(STOP_TIME, work).await;
                        return Err(Error::Canceled);
                    }
                    _ = ticks.tick() => {
                        let (jobs_left, name) = (jobs.len() as u64, job.to_string());
                        let so_far = self.progress_of(tenant);
                        progress(&Progress { tenant: tenant.to_string(), job: name, progress: so_far, jobs_done, jobs_left });
                    }
                }
            };
            match end {
                Ok(End::Done { added }) => {
                    jobs_done += 1;
                    report.add(job, &added);
                }
                Ok(End::Quarantined(blocks)) => report.quarantined.extend(blocks),
                Ok(End::Conflict) => {
                    conflicts += 1;
                    report.conflicts += 1;
                }
                Err(error) => {
                    failed.push(job.to_string());
                    report.failures.push(LastError { at_ms: time::now_ms(), job: job.to_string(), error: error.to_string() });
                }
            }
        }
        Ok(())
    }
}

impl Compactor {
    /// Retention and clean-up, which can be left at any point.
    pub(super) async fn upkeep_or(&self, tenant: &TenantId, with_orphans: bool, stop: &mut watch::Receiver<bool>) -> Result<()> {
        tokio::select! {
            () = self.upkeep(tenant, with_orphans) => Ok(()),
            () = stopped(stop) => Err(Error::Canceled),
        }
    }
}

impl Report {
    fn add(&mut self, job: &Job, added: &[BlockMeta]) {
        self.jobs += 1;
        self.blocks_in += job.blocks().len() as u64;
        self.bytes_in += job.size_bytes;
        self.blocks_out += added.len() as u64;
        self.bytes_out += added.iter().map(|b| b.size_bytes).sum::<u64>();
        self.samples_out += added.iter().map(|b| b.samples + b.histograms).sum::<u64>();
    }
}
