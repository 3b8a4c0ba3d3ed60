//! What the compactor knows about blocks and about what is to be done, for the API.

use isobar_block::{CatalogState, Quarantined};
use serde::Serialize;

use crate::config::CompactorConfig;
use crate::plan::{Job, JobKind};
use crate::rewrite::Progress as Rewritten;

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// When the last round over all tenants ended without a failure, Unix milliseconds.
    pub last_success_ms: Option<i64>,
    /// By tenant, sorted.
    pub tenants: Vec<TenantStatus>,
}

/// What is known of a tenant since the last round.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TenantStatus {
    /// Its name.
    pub tenant: String,
    /// What is done now.
    pub running: Option<Running>,
    /// What is to be done.
    pub planned: Vec<Job>,
    /// Size of what is due for compaction.
    pub backlog_bytes: u64,
    /// How long the oldest of it has been due.
    pub backlog_hours: f64,
    /// When a job or a round without jobs last ended well, Unix milliseconds.
    pub last_success_ms: Option<i64>,
    /// What went wrong last.
    pub last_error: Option<LastError>,
    /// Damaged blocks.
    pub quarantined: Vec<Quarantined>,
}

/// A job that is being carried out.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    /// The job.
    pub job: Job,
    /// Since when, Unix milliseconds.
    pub since_ms: i64,
    /// How far it is.
    pub progress: Rewritten,
}

/// An error of the past.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    /// When, Unix milliseconds.
    pub at_ms: i64,
    /// What was to be done.
    pub job: String,
    /// What went wrong.
    pub error: String,
}

/// What somebody is told who waits for a run to its end.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Whose blocks.
    pub tenant: String,
    /// What is done now.
    pub job: String,
    /// How far this job is.
    pub progress: Rewritten,
    /// Jobs that are done.
    pub jobs_done: u64,
    /// Jobs that are known to follow.
    pub jobs_left: u64,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Jobs that were carried out.
    pub jobs: u64,
    /// Jobs that were given up because another compactor was faster.
    pub conflicts: u64,
    /// Blocks that were read or removed.
    pub blocks_in: u64,
    /// Blocks that were written.
    pub blocks_out: u64,
    /// Size of the blocks that were read or removed.
    pub bytes_in: u64,
    /// Size of the blocks that were written.
    pub bytes_out: u64,
    /// Samples in the blocks that were written.
    pub samples_out: u64,
    /// Blocks that were found to be damaged.
    pub quarantined: Vec<Quarantined>,
    /// Jobs that failed, with the error.
    pub failures: Vec<LastError>,
}

/// Size of the due compactions, and how long the oldest has been due.
pub fn backlog(jobs: &[Job], config: &CompactorConfig, now_ms: i64) -> (u64, f64) {
    let settle_ms = config.settle.as_millis() as i64;
    let compactions = jobs.iter().filter_map(|job| match &job.kind {
        JobKind::Compact(compaction) => Some((job.size_bytes, compaction.span.end_ms.saturating_add(settle_ms))),
        _ => None,
    });
    compactions.fold((0, 0.0), |(bytes, hours), (size, due_ms)| {
        let waited = now_ms.saturating_sub(due_ms).max(0) as f64 / 3_600_000.0;
        (bytes + size, f64::max(hours, waited))
    })
}

/// Size and samples of the raw blocks of each level.
pub fn levels(state: &CatalogState) -> Vec<(u32, u64, u64)> {
    let mut out: Vec<(u32, u64, u64)> = Vec::new();
    for block in state.blocks.iter().filter(|b| b.resolution_ms == 0) {
        let samples = block.samples + block.histograms;
        match out.iter_mut().find(|(level, ..)| *level == block.level) {
            Some((_, size, all)) => {
                *size += block.size_bytes;
                *all += samples;
            }
            None => out.push((block.level, block.size_bytes, samples)),
        }
    }
    out
}
