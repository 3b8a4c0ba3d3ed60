//! Exemplars: single observations that point at a trace.

use crate::Labels;

/// One exemplar of a series.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    /// Labels of the exemplar itself, such as `trace_id`.
    pub labels: Labels,
    /// The observed value.
    pub value: f64,
    /// When, Unix milliseconds.
    pub timestamp_ms: i64,
}
