//! The numeric kernels of PromQL: what functions, operators and aggregations do with slices of `f64`.
//!
//! Everything here works on one row of values, one value for each step of a [`Grid`]; an absent value is the stale marker's
//! bit pattern ([`isobar_block::is_stale`]), which PromQL never gives back otherwise. Kernels test its bits and never do
//! arithmetic on it, since that would make it an ordinary NaN. Labels, plans and annotations are left to others.
//!
//! Results follow Prometheus 3 (`promql/functions.go`, `engine.go` and `quantile.go`), including order of summation wherever
//! that can be seen.

/// Compiles a loop twice, for any x86-64 and for AVX2, and takes the right one at run time.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments, reason = "state arrays are separate columns")]
            fn generic($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                #[allow(clippy::too_many_arguments, reason = "state arrays are separate columns")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    generic($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the CPU has AVX2.
                    return unsafe { avx2($($arg),*) };
                }
            }
            generic($($arg),*)
        }
    };
}

pub mod aggregate;
pub mod binary;
pub mod bucket;
pub mod calendar;
mod extended;
pub mod histogram;
pub mod instant;
pub mod math;
mod over_time;
pub mod quantile;
mod rate;
mod regression;
mod sliding;
#[cfg(test)]
mod tests;
pub mod window;

use crate::promql::ast::RangeMode;
use crate::result::Grid;
use isobar_block::is_stale;
use isobar_block::sample::STALE_NAN_BITS;
pub use window::{WindowPlan, WindowSpec, Windows, windows};

/// Functions of a range vector. Those not listed (`absent_over_time`) are made of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are PromQL's")]
pub enum RangeFn {
    Rate,
    Increase,
    Delta,
    Irate,
    Idelta,
    Changes,
    Resets,
    Deriv,
    /// First scalar: seconds from the time of evaluation.
    PredictLinear,
    /// First scalar: smoothing factor; second: trend factor. Both inside (0, 1), else there is no result.
    DoubleExponentialSmoothing,
    AvgOverTime,
    SumOverTime,
    MinOverTime,
    MaxOverTime,
    CountOverTime,
    LastOverTime,
    FirstOverTime,
    PresentOverTime,
    StddevOverTime,
    StdvarOverTime,
    /// First scalar: the quantile.
    QuantileOverTime,
    MadOverTime,
    TsOfMinOverTime,
    TsOfMaxOverTime,
    TsOfLastOverTime,
    TsOfFirstOverTime,
}

impl RangeFn {
    /// Whether the function can be used with `anchored` or `smoothed` (`mode`).
    pub fn allows(self, mode: RangeMode) -> bool {
        match mode {
            RangeMode::Plain => true,
            RangeMode::Smoothed => matches!(self, Self::Rate | Self::Increase | Self::Delta),
            RangeMode::Anchored => matches!(self, Self::Rate | Self::Increase | Self::Delta | Self::Changes | Self::Resets),
        }
    }
}

/// Scalar arguments of a range function, and when it is evaluated.
#[derive(Clone, Copy, Debug)]
pub struct Params<'a> {
    /// First scalar: one value, or one for each step. Empty for functions without.
    pub first: &'a [f64],
    /// Second scalar, likewise.
    pub second: &'a [f64],
    /// When the call is evaluated. The windows' grid differs from it by `offset` and `@`; `predict_linear` looks ahead from here.
    pub eval: Grid,
}

impl Params<'_> {
    fn first_at(&self, step: usize) -> f64 {
        broadcast(self.first, step)
    }

    fn second_at(&self, step: usize) -> f64 {
        broadcast(self.second, step)
    }
}

/// Value of a scalar argument at `step`: NaN if there is none.
fn broadcast(scalar: &[f64], step: usize) -> f64 {
    match scalar {
        [only] => *only,
        all => all.get(step).copied().unwrap_or(f64::NAN),
    }
}

/// Memory that range functions keep between series. One for each thread of execution.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Samples without stale markers.
    ts: Vec<i64>,
    values: Vec<f64>,
    /// Indices at which the counter is less than before.
    resets: Vec<u32>,
    /// Number of changes or resets up to each sample.
    prefix: Vec<u32>,
    /// A window to be sorted.
    sorted: Vec<f64>,
    /// Aggregates of suffixes of a block of samples.
    suffix: Vec<f64>,
    suffix_pairs: Vec<(f64, f64)>,
}

/// Evaluates `f` on the samples of one series (`ts`, `values`) for each step of the plan; stale markers among the values are
/// skipped, so that a caller may mask native histograms with them.
///
/// # Panics
/// If `ts` is not what `plan` was made for in length, or lengths of `values` or `out` do not fit.
pub fn range(f: RangeFn, params: &Params<'_>, ts: &[i64], values: &[f64], plan: &WindowPlan, scratch: &mut Scratch, out: &mut [f64]) {
    assert!(ts.len() == values.len() && ts.len() == plan.samples(), "one value for each timestamp of the plan");
    assert_eq!(out.len(), plan.spec().grid.len, "one output for each step");
    if !any_stale(values) {
        return dispatch(f, params, ts, values, plan, scratch, out);
    }
    let (mut kept_ts, mut kept) = (std::mem::take(&mut scratch.ts), std::mem::take(&mut scratch.values));
    kept_ts.clear();
    kept.clear();
    for (t, v) in ts.iter().zip(values) {
        if !is_stale(*v) {
            kept_ts.push(*t);
            kept.push(*v);
        }
    }
    let kept_plan = WindowPlan::new(&kept_ts, plan.spec());
    dispatch(f, params, &kept_ts, &kept, &kept_plan, scratch, out);
    (scratch.ts, scratch.values) = (kept_ts, kept);
}

/// Whether it makes a difference to `f` how many samples a value stands for.
pub fn counts_matter(f: RangeFn) -> bool {
    matches!(f, RangeFn::AvgOverTime | RangeFn::SumOverTime | RangeFn::CountOverTime)
}

/// [`range`] for the functions of [`counts_matter`] where each of `values` is the mean of as many samples as `weights` says.
///
/// # Panics
/// If lengths do not fit, or `f` is another function.
pub fn range_of_means(f: RangeFn, values: &[f64], weights: &[f64], plan: &WindowPlan, out: &mut [f64]) {
    assert!(values.len() == weights.len() && values.len() == plan.samples(), "a value and a weight for each timestamp of the plan");
    assert_eq!(out.len(), plan.spec().grid.len, "one output for each step");
    let finish: fn(over_time::Means<'_>) -> f64 = match f {
        RangeFn::AvgOverTime => |window| window.mean(),
        RangeFn::SumOverTime => |window| window.sum(),
        RangeFn::CountOverTime => |window| window.count(),
        other => panic!("{other:?} does not depend on counts"),
    };
    over_time::of_means(values, weights, plan.windows(), out, finish);
}

/// [`range`] on samples without stale markers.
fn dispatch(f: RangeFn, params: &Params<'_>, ts: &[i64], values: &[f64], plan: &WindowPlan, scratch: &mut Scratch, out: &mut [f64]) {
    if plan.spec().mode != RangeMode::Plain {
        return extended::range(f, ts, values, plan, out);
    }
    let windows = plan.windows();
    match f {
        RangeFn::Rate => rate::extrapolated(rate::Kind::Rate, ts, values, plan, scratch, out),
        RangeFn::Increase => rate::extrapolated(rate::Kind::Increase, ts, values, plan, scratch, out),
        RangeFn::Delta => rate::extrapolated(rate::Kind::Delta, ts, values, plan, scratch, out),
        RangeFn::Irate => rate::instantaneous(true, ts, values, windows, out),
        RangeFn::Idelta => rate::instantaneous(false, ts, values, windows, out),
        RangeFn::Changes => rate::transitions(rate::is_change, values, windows, &mut scratch.prefix, out),
        RangeFn::Resets => rate::transitions(rate::is_reset, values, windows, &mut scratch.prefix, out),
        RangeFn::Deriv => regression::deriv(ts, values, windows, out),
        RangeFn::PredictLinear => regression::predict_linear(params, ts, values, windows, out),
        RangeFn::DoubleExponentialSmoothing => regression::double_exponential_smoothing(params, values, windows, out),
        RangeFn::AvgOverTime => over_time::avg(values, windows, scratch, out),
        RangeFn::SumOverTime => over_time::sum(values, windows, scratch, out),
        RangeFn::MinOverTime => over_time::min(values, windows, scratch, out),
        RangeFn::MaxOverTime => over_time::max(values, windows, scratch, out),
        RangeFn::CountOverTime => over_time::count(windows, out),
        RangeFn::LastOverTime => over_time::each(values, windows, out, |w| w[w.len() - 1]),
        RangeFn::FirstOverTime => over_time::each(values, windows, out, |w| w[0]),
        RangeFn::PresentOverTime => over_time::each(values, windows, out, |_| 1.0),
        RangeFn::StddevOverTime => over_time::each(values, windows, out, |w| over_time::variance(w).sqrt()),
        RangeFn::StdvarOverTime => over_time::each(values, windows, out, over_time::variance),
        RangeFn::QuantileOverTime => over_time::quantile(params, values, windows, &mut scratch.sorted, out),
        RangeFn::MadOverTime => over_time::mad(values, windows, &mut scratch.sorted, out),
        RangeFn::TsOfMinOverTime => over_time::ts_of(ts, values, windows, out, |new, best| new <= best || best.is_nan()),
        RangeFn::TsOfMaxOverTime => over_time::ts_of(ts, values, windows, out, |new, best| new >= best || best.is_nan()),
        RangeFn::TsOfLastOverTime => over_time::ts_of(ts, values, windows, out, |_, _| true),
        RangeFn::TsOfFirstOverTime => over_time::ts_of(ts, values, windows, out, |_, _| false),
    }
}

vectorised! {
    /// Whether a stale marker is among `values`.
    pub fn any_stale(values: &[f64]) -> bool {
        values.chunks(64).any(|block| block.iter().fold(false, |any, v| any | (v.to_bits() == STALE_NAN_BITS)))
    }
}

/// Neumaier's step of compensated summation, as Prometheus does it: adds `inc` to `sum` with compensation `comp`.
#[inline(always)]
fn kahan_add(inc: f64, sum: f64, comp: f64) -> (f64, f64) {
    let total = sum + inc;
    // The exact error of the addition whichever operand is larger (Knuth's TwoSum): the same bits as Neumaier's two
    // branches give, without a branch.
    let inc_part = total - sum;
    let error = (sum - (total - inc_part)) + (inc - inc_part);
    (total, if total.is_infinite() { 0.0 } else { comp + error })
}
