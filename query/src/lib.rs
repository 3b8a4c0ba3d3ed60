//! PromQL over anything that is a [`isobar_block::Source`], planned onto DataFusion with one row per series, and the
//! Prometheus HTTP API over it.

pub mod kernel;
pub mod promql;
pub mod result;
