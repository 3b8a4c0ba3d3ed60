//! What is counted of the compactor's work.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// A gauge of fractions.
type FloatGauge = Gauge<f64, AtomicU64>;

/// The level of a block.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LevelLabel {
    /// The level; that of downsampled blocks is not counted here.
    pub level: u32,
}

/// The kind of a job.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    /// As in the plan.
    pub kind: &'static str,
}

/// The metrics; clones share them.
#[derive(Clone, Debug, Default)]
pub struct CompactorMetrics {
    /// Rounds over all tenants.
    pub runs: Counter,
    /// Jobs that were carried out.
    pub jobs: Family<KindLabel, Counter>,
    /// Jobs that failed.
    pub failures: Family<KindLabel, Counter>,
    /// Jobs whose work was thrown away because another compactor was faster.
    pub conflicts: Counter,
    /// When a round ended without a failure.
    pub last_success: FloatGauge,
    /// Whether a job is carried out now.
    pub running: Gauge,
    /// How far the running job is, from 0 to 1.
    pub progress: FloatGauge,
    /// Size of what is due for compaction.
    pub backlog_bytes: Gauge,
    /// How long the oldest of it has been due.
    pub backlog_hours: FloatGauge,
    /// Damaged blocks.
    pub quarantined: Gauge,
    /// Size of raw blocks in relation to their samples.
    pub bytes_per_sample: Family<LevelLabel, FloatGauge>,
    /// Samples that were written by compactions.
    pub compacted_samples: Family<LevelLabel, Counter>,
    /// Size of the blocks that compactions have read.
    pub read_bytes: Counter,
    /// Size of the blocks that compactions have written.
    pub written_bytes: Counter,
    /// Time that jobs took.
    pub job_seconds: Family<KindLabel, Counter<f64, AtomicU64>>,
    /// Blocks that were retired because they are kept no longer.
    pub expired: Counter,
    /// Retired blocks whose files were removed.
    pub removed: Counter,
    /// Size of the files that were removed.
    pub removed_bytes: Counter,
    /// Blocks without catalog entry that were removed.
    pub orphans: Counter,
    /// Failures of retention and clean-up.
    pub upkeep_failures: Counter,
}

impl CompactorMetrics {
    /// Makes the metrics and registers them under names that begin with `isobar_compactor_`.
    pub fn register(registry: &mut Registry) -> Self {
        let m = Self::default();
        let r = registry.sub_registry_with_prefix("isobar_compactor");
        r.register("runs", "Rounds over all tenants.", m.runs.clone());
        r.register("jobs", "Jobs that were carried out, by kind.", m.jobs.clone());
        r.register("failures", "Jobs that failed, by kind. They are tried again.", m.failures.clone());
        r.register("conflicts", "Jobs given up because another compactor was faster.", m.conflicts.clone());
        r.register_with_unit(
            "last_success_timestamp",
            "When a round over all tenants last ended without a failure, Unix seconds.",
            Unit::Seconds,
            m.last_success.clone(),
        );
        r.register("running", "Whether a job is carried out now.", m.running.clone());
        r.register("progress_ratio", "How far the running job is.", m.progress.clone());
        r.register("backlog_bytes", "Size of the blocks that are due for compaction.", m.backlog_bytes.clone());
        r.register("backlog_hours", "How long the oldest due compaction has been due.", m.backlog_hours.clone());
        r.register("quarantined_blocks", "Damaged blocks, which are neither read nor compacted.", m.quarantined.clone());
        r.register("bytes_per_sample", "Size of raw blocks in relation to their samples, by level.", m.bytes_per_sample.clone());
        r.register("compacted_samples", "Samples written by compactions, by level.", m.compacted_samples.clone());
        r.register("compacted_bytes", "Size of the blocks that compactions have read.", m.read_bytes.clone());
        r.register("written_bytes", "Size of the blocks that compactions have written.", m.written_bytes.clone());
        r.register("job_seconds", "Time that jobs took, by kind.", m.job_seconds.clone());
        r.register("expired_blocks", "Blocks retired because they are kept no longer.", m.expired.clone());
        r.register("removed_blocks", "Retired blocks whose files were removed.", m.removed.clone());
        r.register("removed_bytes", "Size of the files of removed blocks.", m.removed_bytes.clone());
        r.register("removed_orphans", "Blocks without catalog entry that were removed.", m.orphans.clone());
        r.register("upkeep_failures", "Failures of retention and clean-up. They are tried again.", m.upkeep_failures.clone());
        m
    }
}
