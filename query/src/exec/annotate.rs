//! The texts of annotations about native histograms, in the words of Prometheus.

use super::context::QueryContext;
use crate::kernel::histogram::Combined;
use crate::kernel::histogram::window::Notes;
use crate::promql::ast::Span;

/// Warns of floats and histograms in one window.
pub fn mixed_in_range(query: &QueryContext, span: Span, metric: &str) {
    query.warn(span, format_args!("encountered a mix of histograms and floats for metric name {metric:?}"));
}

/// Warns of floats and histograms in one group.
pub fn mixed_in_aggregation(query: &QueryContext, span: Span) {
    query.warn(span, "encountered a mix of histograms and floats for aggregation");
}

/// Notes that a function of floats leaves out the histograms of a window.
pub fn ignored_in_range(query: &QueryContext, span: Span, metric: &str) {
    query.info(span, format_args!("ignored histograms in a range containing both floats and histograms for metric name {metric:?}"));
}

/// Notes that an aggregation of floats leaves out histograms.
pub fn ignored_in_aggregation(query: &QueryContext, span: Span, aggregation: &str) {
    query.info(span, format_args!("ignored histograms in {aggregation} aggregation"));
}

/// Warns of classic and native histograms with the same labels.
pub fn mixed_classic_native(query: &QueryContext, span: Span, metric: &str) {
    query.warn(span, format_args!("vector contains a mix of classic and native histograms for metric name {metric:?}"));
}

/// Notes operands that the operator has no meaning for.
pub fn incompatible_types(query: &QueryContext, span: Span, operator: &str, lhs: &str, rhs: &str) {
    query.info(span, format_args!("incompatible sample types encountered for binary operator {operator:?}: {lhs} {operator} {rhs}"));
}

/// Warns of bucket layouts that an operator cannot combine.
pub fn incompatible_buckets(query: &QueryContext, span: Span, operator: &str) {
    query.warn(span, format_args!("incompatible bucket layout encountered for binary operator {operator}"));
}

/// Says what was found when two histograms were added or subtracted.
pub fn combined(query: &QueryContext, span: Span, notes: Combined, operation: &str) {
    if notes.reset_collision {
        query.warn(span, format_args!("conflicting counter resets during histogram {operation}"));
    }
    if notes.bounds_reconciled {
        query.info(span, format_args!("mismatched custom buckets were reconciled during {operation}"));
    }
}

/// Where histograms were combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combining<'a> {
    /// In windows of the series of a metric.
    Range(&'a str),
    /// In a window whose histograms are summed up.
    Aggregation(&'a str),
}

/// Says what was found when the histograms of a window were combined.
pub fn window_notes(query: &QueryContext, span: Span, notes: Notes, combining: Combining<'_>) {
    let (metric, addition) = match combining {
        Combining::Range(metric) => (metric, "addition"),
        Combining::Aggregation(metric) => (metric, "aggregation"),
    };
    if notes.not_counter {
        query.warn(span, format_args!("this native histogram metric is not a counter: {metric:?}"));
    }
    if notes.not_gauge {
        query.warn(span, format_args!("this native histogram metric is not a gauge: {metric:?}"));
    }
    if notes.mixed_schemas {
        query.warn(
            span,
            format_args!("vector contains a mix of histograms with exponential and custom buckets schemas for metric name {metric:?}"),
        );
    }
    if notes.reset_collision {
        query.warn(span, format_args!("conflicting counter resets during histogram {addition}"));
    }
    if notes.reconciled_add {
        query.info(span, format_args!("mismatched custom buckets were reconciled during {addition}"));
    }
    if notes.reconciled_sub {
        query.info(span, "mismatched custom buckets were reconciled during subtraction");
    }
}
