//! PromQL over anything that is a [`isobar_block::Source`], planned onto DataFusion with one row per series, and the
//! Prometheus HTTP API over it.

pub mod http;
pub mod storage;
pub mod engine;
mod exec;
pub mod kernel;
mod plan;
pub mod promql;
pub mod result;

pub use engine::{Engine, EngineConfig};
#[cfg(test)]
mod testing;
