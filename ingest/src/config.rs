//! The section `storage` of the configuration: the write-ahead log, the head and when blocks are cut.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units;

/// How the ingester keeps data until it is in blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IngestConfig {
    /// Directory of the write-ahead log.
    pub wal_dir: PathBuf,
    /// A segment of the write-ahead log is ended at this size.
    #[serde(with = "units::bytes")]
    pub wal_segment_bytes: u64,
    /// Blocks are cut when the write-ahead log has grown by this much since the last cut. It bounds how long a start after a
    /// crash takes.
    #[serde(with = "units::bytes")]
    pub wal_cut_bytes: u64,
    /// Writes are refused when the write-ahead log is this big, which happens while the object store fails.
    #[serde(with = "units::bytes")]
    pub wal_max_bytes: u64,
    /// Writes are refused while this much waits for the disk.
    #[serde(with = "units::bytes")]
    pub wal_max_queued_bytes: u64,
    /// A write is answered with 503 if the disk has not taken it after this time.
    #[serde(with = "units::duration")]
    pub wal_commit_timeout: Duration,
    /// Start in spite of damage in the write-ahead log: the damaged file is kept aside, what cannot be read is lost.
    pub wal_skip_damaged: bool,
    /// Blocks are cut this long after the last cut.
    #[serde(with = "units::duration")]
    pub cut_interval: Duration,
    /// Blocks are cut when the heads take this much memory.
    #[serde(with = "units::bytes")]
    pub head_cut_bytes: u64,
    /// Writes are refused when the heads take this much memory.
    #[serde(with = "units::bytes")]
    pub head_max_bytes: u64,
    /// A block is ended at about this size; a cut may write several. While a block is made it takes three times this memory.
    #[serde(with = "units::bytes")]
    pub block_bytes: u64,
    /// A series without samples for this long leaves the head, and is no longer active.
    #[serde(with = "units::duration")]
    pub series_idle_time: Duration,
    /// Exemplars that the head of a tenant holds; the oldest give way.
    pub exemplars_per_tenant: usize,
    /// Metric names of which the head of a tenant knows metadata.
    pub metadata_per_tenant: usize,
    /// Tenants; requests of further ones are refused.
    pub max_tenants: usize,
    /// Longest time that a stop waits for the object store. What is not in blocks by then is read from the log at the next
    /// start.
    #[serde(with = "units::duration")]
    pub shutdown_timeout: Duration,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            wal_dir: PathBuf::from("data/wal"),
            wal_segment_bytes: 128 << 20,
            wal_cut_bytes: 1 << 30,
            wal_max_bytes: 8 << 30,
            wal_max_queued_bytes: 64 << 20,
            wal_commit_timeout: Duration::from_secs(10),
            wal_skip_damaged: false,
            cut_interval: Duration::from_secs(30 * 60),
            head_cut_bytes: 2 << 30,
            head_max_bytes: 4 << 30,
            block_bytes: 16 << 20,
            series_idle_time: Duration::from_secs(3600),
            exemplars_per_tenant: 100_000,
            metadata_per_tenant: 20_000,
            max_tenants: 10_000,
            shutdown_timeout: Duration::from_secs(30),
        }
    }
}

impl IngestConfig {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// A message that names the key and the remedy.
    pub fn validate(&self) -> Result<(), String> {
        let refuse = |key: &str, rule: &str| Err(format!("storage.{key}: {rule}"));
        if self.wal_dir.as_os_str().is_empty() {
            return refuse("wal_dir", "name a directory");
        }
        if !(64 << 10..=4 << 30).contains(&self.wal_segment_bytes) {
            return refuse("wal_segment_bytes", "use 64KiB to 4GiB");
        }
        if self.wal_max_bytes < self.wal_cut_bytes.saturating_mul(2) {
            return refuse("wal_max_bytes", "use at least twice wal_cut_bytes, so that a cut can end before writes are refused");
        }
        if self.head_max_bytes < self.head_cut_bytes {
            return refuse("head_max_bytes", "use at least head_cut_bytes");
        }
        if self.cut_interval < Duration::from_secs(1) {
            return refuse("cut_interval", "use at least 1s");
        }
        if self.block_bytes < 1 << 20 {
            return refuse("block_bytes", "use at least 1MiB");
        }
        for (key, value) in [("max_tenants", self.max_tenants), ("metadata_per_tenant", self.metadata_per_tenant)] {
            if value == 0 {
                return refuse(key, "use at least 1");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_mistakes_are_named() {
        assert_eq!(IngestConfig::default().validate(), Ok(()));
        let config = IngestConfig { wal_max_bytes: 1, ..Default::default() };
        assert!(config.validate().expect_err("too small").starts_with("storage.wal_max_bytes: "));
    }
}
