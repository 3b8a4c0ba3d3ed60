//! Writes in: remote write and OTLP over HTTP, limits, the write-ahead log, the head, and the blocks cut from it.

pub mod decoded;
pub mod wire;
pub mod otlp;
pub mod tenant;
pub mod limits;
pub mod units;
pub mod http;
pub mod metrics;
pub mod config;
pub mod wal;
pub mod head;
pub mod ingester;
pub mod recover;
pub mod cut;
pub mod status;
pub mod observe;
mod error;

pub use config::IngestConfig;
pub use error::{Error, Result};
pub use ingester::Ingester;
pub use recover::ReplayProgress;
