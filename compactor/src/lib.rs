//! Keeps blocks for good: merges them into bigger ones, joins the replicas of a series, downsamples, retains and deletes,
//! repairs, imports and exports. Any number of compactors may run on one store: what they do becomes visible by one commit to
//! the catalog, and whoever loses the race throws its work away.

pub mod config;
pub mod plan;
pub mod rewrite;
pub mod compactor;
pub mod retention;
pub mod clean;
pub mod delete;
pub mod downsample;
pub mod transfer;
pub mod import;
pub mod export;
pub mod repair;
pub mod metrics;
pub mod status;
mod error;

pub use compactor::Compactor;
pub use config::{CompactorConfig, LiveRules, Rules, TenantRules};
pub use error::{Error, Result};
