//! Brings data in: blocks of Prometheus, from a folder or a bucket of Thanos, and OpenMetrics text.
//!
//! An import is atomic (a source block or a text becomes visible by one commit to the catalog) and idempotent (what was imported
//! is not imported again). What it writes are raw blocks of level 0, one or more for each aligned span of two hours; compaction
//! takes them on like those that were cut from a head.

pub mod tsdb;
pub mod openmetrics;
mod output;
mod record;

use isobar_block::TenantId;

/// What holds for all imports.
#[derive(Clone, Debug)]
pub struct ImportConfig {
    /// Whose data it becomes.
    pub tenant: TenantId,
    /// Labels that each series gets; they take the place of those of the same name. Not empty ones.
    pub labels: Vec<(String, String)>,
    /// Memory for what is read and written, beside about 100 bytes for each series of a source block.
    pub memory_bytes: u64,
}

/// What an import did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Imported {
    /// It was imported.
    Now {
        /// Blocks that were added.
        blocks: usize,
        /// Samples in them.
        samples: u64,
        /// Their size.
        bytes: u64,
    },
    /// It had been imported before; nothing was changed.
    Before,
}
