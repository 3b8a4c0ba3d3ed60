//! The physical operators. All of them exchange one row per series: labels and a vector of values (see [`chunk`]).
//!
//! [`scan`] reads the sources; [`aggregate`] has the aggregations that run inside DataFusion's aggregate operator; all others
//! are [`operator::Operator`]s.

pub mod context;

pub mod cells;
pub mod chunk;
pub mod operator;
pub mod release;
pub mod sorting;

pub mod range_histograms;
pub mod scan;

pub mod aggregate;

pub mod label_functions;
pub mod labels;
pub mod map;
pub mod scalar;

pub mod subquery;
pub mod unique;

pub mod annotate;
pub mod histogram_ops;
pub mod histogram_quantile;
pub mod set_ops;
pub mod vector_match;

pub mod absent;
pub mod count_values;
pub mod info;
pub mod limit_ratio;
pub mod quantile;
pub mod sort;
pub mod topk;

pub mod format;
