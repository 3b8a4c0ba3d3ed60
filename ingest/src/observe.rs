//! What the ingester tells of itself on `/metrics`: the log, the heads, and cutting. The HTTP side has its own numbers.

use std::fmt::{self, Debug, Formatter};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Numbers of the write-ahead log.
#[derive(Clone)]
pub struct WalMetrics {
    /// How long making a batch durable took.
    pub fsync_seconds: Histogram,
    /// Bytes that were written.
    pub written_bytes: Counter,
    /// Bytes of all segments.
    pub bytes: Gauge,
    /// Batches that the disk refused.
    pub write_failures: Counter,
}

/// Numbers of heads and cuts.
#[derive(Clone)]
pub struct Metrics {
    /// Of the log.
    pub wal: WalMetrics,
    /// Series in all heads.
    pub head_series: Gauge,
    /// Memory of all heads, estimated.
    pub head_bytes: Gauge,
    /// Samples and histograms that were stored.
    pub samples_appended: Counter,
    /// Of these, those that came out of order.
    pub late_samples: Counter,
    /// Exact repeats.
    pub samples_repeated: Counter,
    /// Series that were created.
    pub series_created: Counter,
    /// Metadata that was not kept because a limit was reached.
    pub metadata_dropped: Counter,
    /// How long a cut of all tenants took.
    pub cut_seconds: Histogram,
    /// Cuts that failed, and are tried again.
    pub cut_failures: Counter,
    /// Blocks that were cut.
    pub blocks_cut: Counter,
    /// How long reading the log at the start took.
    pub replay_seconds: Gauge<f64, std::sync::atomic::AtomicU64>,
    /// Samples that were read from the log at the start.
    pub replayed_samples: Counter,
    /// Places in the log that could not be read at the start.
    pub replay_damage: Counter,
}

impl Debug for WalMetrics {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("WalMetrics")
    }
}

impl Debug for Metrics {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Creates all and registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            wal: WalMetrics {
                fsync_seconds: Histogram::new(exponential_buckets(0.0001, 2.0, 16)),
                written_bytes: Counter::default(),
                bytes: Gauge::default(),
                write_failures: Counter::default(),
            },
            head_series: Gauge::default(),
            head_bytes: Gauge::default(),
            samples_appended: Counter::default(),
            late_samples: Counter::default(),
            samples_repeated: Counter::default(),
            series_created: Counter::default(),
            metadata_dropped: Counter::default(),
            cut_seconds: Histogram::new(exponential_buckets(0.01, 2.0, 16)),
            cut_failures: Counter::default(),
            blocks_cut: Counter::default(),
            replay_seconds: Gauge::default(),
            replayed_samples: Counter::default(),
            replay_damage: Counter::default(),
        };
        metrics.register(registry);
        metrics
    }

    fn register(&self, registry: &mut Registry) {
        let wal = registry.sub_registry_with_prefix("isobar_wal");
        wal.register_with_unit("fsync_duration", "Time to make a batch durable", Unit::Seconds, self.wal.fsync_seconds.clone());
        wal.register("written_bytes", "Bytes written", self.wal.written_bytes.clone());
        wal.register("bytes", "Bytes of all segments", self.wal.bytes.clone());
        wal.register("write_failures", "Batches that the disk refused", self.wal.write_failures.clone());
        wal.register_with_unit(
            "replay_duration",
            "Time that reading the log took at the start",
            Unit::Seconds,
            self.replay_seconds.clone(),
        );
        wal.register("replayed_samples", "Samples read from the log at the start", self.replayed_samples.clone());
        wal.register("replay_damage", "Places of the log that could not be read at the start", self.replay_damage.clone());
        let head = registry.sub_registry_with_prefix("isobar_head");
        head.register("series", "Series in the heads", self.head_series.clone());
        head.register("bytes", "Memory of the heads, estimated", self.head_bytes.clone());
        head.register("samples_appended", "Samples and histograms stored", self.samples_appended.clone());
        head.register("late_samples", "Samples and histograms stored out of order", self.late_samples.clone());
        head.register("samples_repeated", "Exact repeats of stored samples", self.samples_repeated.clone());
        head.register("series_created", "Series created", self.series_created.clone());
        head.register("metadata_dropped", "Metadata dropped at a limit", self.metadata_dropped.clone());
        let cut = registry.sub_registry_with_prefix("isobar_cut");
        cut.register_with_unit("duration", "Time to cut blocks of all tenants", Unit::Seconds, self.cut_seconds.clone());
        cut.register("failures", "Cuts that failed and are tried again", self.cut_failures.clone());
        cut.register("blocks", "Blocks cut", self.blocks_cut.clone());
    }
}
