//! The functions of PromQL as of Prometheus 3.14: names, argument types and results. What they compute is the engine's business.

use super::ast::ValueType::{self, Matrix, Scalar, String, Vector};

/// What the parser knows of a function.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name; case matters.
    pub name: &'static str,
    /// Types of the arguments. The last one also holds for repeated arguments.
    pub args: &'static [ValueType],
    /// Fewest arguments.
    pub min_args: usize,
    /// Most arguments; any number if absent.
    pub max_args: Option<usize>,
    /// Type of the result.
    pub returns: ValueType,
    /// Whether Prometheus calls it experimental.
    pub experimental: bool,
}

/// The function with this name.
pub fn function(name: &str) -> Option<&'static Function> {
    FUNCTIONS.binary_search_by(|f| f.name.cmp(name)).ok().map(|i| &FUNCTIONS[i])
}

const fn fixed(name: &'static str, args: &'static [ValueType], returns: ValueType) -> Function {
    Function { name, args, min_args: args.len(), max_args: Some(args.len()), returns, experimental: false }
}

const fn experimental(function: Function) -> Function {
    Function { experimental: true, ..function }
}

/// The last argument may be missing, or there may be up to `max`.
const fn up_to(max: usize, function: Function) -> Function {
    Function { min_args: function.args.len() - 1, max_args: Some(max), ..function }
}

/// The last argument may be missing or repeated.
const fn any_number(function: Function) -> Function {
    Function { min_args: function.args.len() - 1, max_args: None, ..function }
}

const fn of_vector(name: &'static str) -> Function {
    fixed(name, &[Vector], Vector)
}

const fn of_matrix(name: &'static str) -> Function {
    fixed(name, &[Matrix], Vector)
}

/// All functions, ascending by name.
pub const FUNCTIONS: &[Function] = &[
    of_vector("abs"),
    of_vector("absent"),
    of_matrix("absent_over_time"),
    of_vector("acos"),
    of_vector("acosh"),
    of_vector("asin"),
    of_vector("asinh"),
    of_vector("atan"),
    of_vector("atanh"),
    of_matrix("avg_over_time"),
    of_vector("ceil"),
    of_matrix("changes"),
    fixed("clamp", &[Vector, Scalar, Scalar], Vector),
    fixed("clamp_max", &[Vector, Scalar], Vector),
    fixed("clamp_min", &[Vector, Scalar], Vector),
    of_vector("cos"),
    of_vector("cosh"),
    of_matrix("count_over_time"),
    up_to(1, of_vector("day_of_month")),
    up_to(1, of_vector("day_of_week")),
    up_to(1, of_vector("day_of_year")),
    up_to(1, of_vector("days_in_month")),
    of_vector("deg"),
    of_matrix("delta"),
    of_matrix("deriv"),
    experimental(fixed("double_exponential_smoothing", &[Matrix, Scalar, Scalar], Vector)),
    experimental(fixed("end", &[], Scalar)),
    of_vector("exp"),
    experimental(of_matrix("first_over_time")),
    of_vector("floor"),
    of_vector("histogram_avg"),
    of_vector("histogram_count"),
    fixed("histogram_fraction", &[Scalar, Scalar, Vector], Vector),
    fixed("histogram_quantile", &[Scalar, Vector], Vector),
    experimental(Function {
        name: "histogram_quantiles",
        args: &[Vector, String, Scalar],
        min_args: 3,
        max_args: Some(12),
        returns: Vector,
        experimental: true,
    }),
    of_vector("histogram_stddev"),
    of_vector("histogram_stdvar"),
    of_vector("histogram_sum"),
    up_to(1, of_vector("hour")),
    of_matrix("idelta"),
    of_matrix("increase"),
    experimental(up_to(2, fixed("info", &[Vector, Vector], Vector))),
    of_matrix("irate"),
    any_number(fixed("label_join", &[Vector, String, String, String], Vector)),
    fixed("label_replace", &[Vector, String, String, String, String], Vector),
    of_matrix("last_over_time"),
    of_vector("ln"),
    of_vector("log10"),
    of_vector("log2"),
    experimental(of_matrix("mad_over_time")),
    experimental(fixed("max_of", &[Scalar, Scalar], Scalar)),
    of_matrix("max_over_time"),
    experimental(fixed("min_of", &[Scalar, Scalar], Scalar)),
    of_matrix("min_over_time"),
    up_to(1, of_vector("minute")),
    up_to(1, of_vector("month")),
    fixed("pi", &[], Scalar),
    fixed("predict_linear", &[Matrix, Scalar], Vector),
    of_matrix("present_over_time"),
    fixed("quantile_over_time", &[Scalar, Matrix], Vector),
    of_vector("rad"),
    experimental(fixed("range", &[], Scalar)),
    of_matrix("rate"),
    of_matrix("resets"),
    up_to(2, fixed("round", &[Vector, Scalar], Vector)),
    fixed("scalar", &[Vector], Scalar),
    of_vector("sgn"),
    of_vector("sin"),
    of_vector("sinh"),
    of_vector("sort"),
    experimental(any_number(fixed("sort_by_label", &[Vector, String], Vector))),
    experimental(any_number(fixed("sort_by_label_desc", &[Vector, String], Vector))),
    of_vector("sort_desc"),
    of_vector("sqrt"),
    experimental(fixed("start", &[], Scalar)),
    experimental(of_vector("start_timestamp")),
    of_matrix("stddev_over_time"),
    of_matrix("stdvar_over_time"),
    experimental(fixed("step", &[], Scalar)),
    of_matrix("sum_over_time"),
    of_vector("tan"),
    of_vector("tanh"),
    fixed("time", &[], Scalar),
    of_vector("timestamp"),
    experimental(of_matrix("ts_of_first_over_time")),
    experimental(of_matrix("ts_of_last_over_time")),
    experimental(of_matrix("ts_of_max_over_time")),
    experimental(of_matrix("ts_of_min_over_time")),
    fixed("vector", &[Scalar], Vector),
    up_to(1, of_vector("year")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_ascend_and_are_found() {
        assert!(FUNCTIONS.is_sorted_by(|a, b| a.name < b.name));
        assert_eq!(FUNCTIONS.len(), 90);
        for f in FUNCTIONS {
            assert_eq!(function(f.name), Some(f));
            assert!(f.max_args.is_none_or(|max| f.min_args <= max));
        }
        assert_eq!(function("Rate"), None);
        assert_eq!(function("xrate"), None);
    }
}
