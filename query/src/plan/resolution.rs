//! Which resolution of downsampled data is good enough for a selector, which number of a bucket it reads, and what the answer
//! says about it.
//!
//! As in Thanos, buckets may be as long as a fifth of the step, and half of a range; a selector asks for what the function around
//! it works on. Unlike there, what is left only in coarser form is used too, with a warning.

use std::collections::BTreeSet;

use isobar_block::{Aggregate, Want};

use super::Selection;
use crate::exec::context::QueryContext;
use crate::kernel::RangeFn;
use crate::promql::ast::AggregateOp;
use crate::promql::duration::format_duration;
use crate::result::Grid;

/// Steps are at least so many times as long as the buckets that they are answered from.
const BUCKETS_IN_STEP: i64 = 5;

/// Ranges are at least so many times as long as the buckets that they are answered from.
pub const BUCKETS_IN_RANGE: i64 = 2;

/// How coarse the data may be that a query is answered from, where finer data is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceResolution {
    /// A fifth of the step, of a subquery's own step inside of it; raw samples for an instant query.
    Auto,
    /// At most so many milliseconds; 0 is raw samples.
    AtMost(i64),
}

impl Default for SourceResolution {
    fn default() -> Self {
        Self::AtMost(0)
    }
}

impl std::fmt::Display for SourceResolution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::AtMost(ms) => f.write_str(&format_duration(*ms)),
        }
    }
}

impl SourceResolution {
    /// The coarsest resolution for a selector that is evaluated at `grid`, in milliseconds. `range_ms` is that of a range
    /// vector.
    pub fn limit_ms(self, grid: Grid, range_ms: Option<i64>) -> i64 {
        let limit = match self {
            // The grid of an instant query has a step of 1 ms.
            Self::Auto => grid.step_ms / BUCKETS_IN_STEP,
            Self::AtMost(ms) => ms,
        };
        range_ms.map_or(limit, |range_ms| limit.min(range_ms / BUCKETS_IN_RANGE)).max(0)
    }
}

/// What selectors directly below an expression read of a bucket.
#[derive(Clone, Copy, Default)]
pub struct Reads {
    /// Instant selectors.
    pub instant: Aggregate,
    /// Range selectors.
    pub range: Aggregate,
}

impl Reads {
    /// Below an aggregation.
    pub fn of_aggregation(op: AggregateOp) -> Self {
        let instant = match op {
            AggregateOp::Min => Aggregate::Min,
            AggregateOp::Max => Aggregate::Max,
            _ => Aggregate::Last,
        };
        Self { instant, ..Self::default() }
    }

    /// Below a function.
    pub fn of_function(name: &str) -> Self {
        let range = match super::range_call::range_function(name) {
            // Not irate, which Thanos has here too: what a counter has one millisecond before a value would be its last interval.
            Some(RangeFn::Rate | RangeFn::Increase | RangeFn::Resets) => Aggregate::Counter,
            Some(RangeFn::MinOverTime | RangeFn::TsOfMinOverTime) => Aggregate::Min,
            Some(RangeFn::MaxOverTime | RangeFn::TsOfMaxOverTime) => Aggregate::Max,
            Some(RangeFn::AvgOverTime | RangeFn::SumOverTime | RangeFn::CountOverTime | RangeFn::PresentOverTime) => Aggregate::Average,
            _ => Aggregate::Last,
        };
        Self { range, ..Self::default() }
    }
}

/// Notes which resolutions the answer comes from, unless it is raw samples only.
pub fn warn<'a>(selections: impl Iterator<Item = &'a Selection>, asked: SourceResolution, query: &QueryContext) {
    let (mut as_asked, mut coarser) = (BTreeSet::new(), BTreeSet::new());
    for selection in selections {
        let Want { max_resolution_ms, .. } = selection.want;
        for set in &selection.sets {
            let resolution = set.resolution_ms();
            (if resolution <= max_resolution_ms { &mut as_asked } else { &mut coarser }).insert(resolution);
        }
    }
    let asked = format!("(max_source_resolution={asked})");
    if as_asked.iter().any(|ms| *ms > 0) {
        query.warn_general(format!("answered from {} data {asked}", listed(&as_asked)));
    }
    if !coarser.is_empty() {
        let others = if as_asked.contains(&0) && as_asked.len() == 1 { PARTLY } else { "" };
        query.warn_general(format!("answered from {} data{others}, because nothing finer is left {asked}", listed(&coarser)));
    }
}

/// Where raw samples answer the rest.
const PARTLY: &str = " for a part of the time or series";

/// What [`warn`] says of an answer that asked for raw samples, such as one about labels; `None` if it has nothing to say.
pub fn coarser_than_raw(resolutions: &BTreeSet<i64>) -> Option<String> {
    let coarser: BTreeSet<i64> = resolutions.iter().copied().filter(|ms| *ms > 0).collect();
    let others = if resolutions.contains(&0) { PARTLY } else { "" };
    (!coarser.is_empty()).then(|| format!("answered from {} data{others}, because nothing finer is left", listed(&coarser)))
}

/// `raw, 5m and 1h downsampled`
fn listed(resolutions: &BTreeSet<i64>) -> String {
    let raw = resolutions.contains(&0).then(|| "raw".to_owned());
    let names: Vec<String> = raw.into_iter().chain(resolutions.iter().filter(|ms| **ms > 0).map(|ms| format_duration(*ms))).collect();
    let (last, others) = names.split_last().expect("there is a resolution");
    let names = if others.is_empty() { last.clone() } else { format!("{} and {last}", others.join(", ")) };
    format!("{names} downsampled")
}

/// Notes that ranges were too short for the data that is left.
pub fn warn_widened(range_ms: i64, widened_ms: i64, query: &QueryContext) {
    query.warn_general(format!(
        "the range [{}] is too short for downsampled data: where it has too few samples, the {} before each step were used",
        format_duration(range_ms),
        format_duration(widened_ms)
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let hourly = Grid { start_ms: 0, step_ms: 3_600_000, len: 10 };
        let auto = SourceResolution::Auto;
        assert_eq!(auto.limit_ms(hourly, None), 720_000);
        assert_eq!(auto.limit_ms(hourly, Some(600_000)), 300_000);
        assert_eq!(auto.limit_ms(Grid::instant(5), None), 0);
        assert_eq!(SourceResolution::AtMost(300_000).limit_ms(Grid::instant(5), None), 300_000);
        assert_eq!(SourceResolution::AtMost(300_000).limit_ms(hourly, Some(300_000)), 150_000);
        assert_eq!(SourceResolution::default().limit_ms(hourly, None), 0);
    }

    #[test]
    fn functions_read_what_they_work_on() {
        use Aggregate::{Average, Counter, Last, Max, Min};
        for (aggregate, names) in [
            (Counter, &["rate", "increase", "resets"][..]),
            (Min, &["min_over_time", "ts_of_min_over_time"]),
            (Max, &["max_over_time", "ts_of_max_over_time"]),
            (Average, &["avg_over_time", "sum_over_time", "count_over_time", "present_over_time", "absent_over_time"]),
        ] {
            for name in names {
                assert_eq!(Reads::of_function(name).range, aggregate, "{name}");
            }
        }
        // Whatever else there is, and all that is added.
        let listed = ["rate", "increase", "resets", "min_", "max_", "ts_of_m", "avg_", "sum_", "count_", "present_", "absent_"];
        for function in crate::promql::functions::FUNCTIONS {
            let reads = Reads::of_function(function.name);
            assert_eq!(reads.instant, Last, "{}", function.name);
            if !listed.iter().any(|l| function.name.starts_with(l)) {
                assert_eq!(reads.range, Last, "{}", function.name);
            }
        }
        for (op, aggregate) in [
            (AggregateOp::Min, Min),
            (AggregateOp::Max, Max),
            (AggregateOp::Sum, Last),
            (AggregateOp::Avg, Last),
            (AggregateOp::Count, Last),
        ] {
            assert_eq!(Reads::of_aggregation(op).instant, aggregate);
            assert_eq!(Reads::of_aggregation(op).range, Last);
        }
    }

    #[test]
    fn lists_resolutions() {
        let list = |ms: &[i64]| listed(&ms.iter().copied().collect());
        assert_eq!(list(&[300_000]), "5m downsampled");
        assert_eq!(list(&[0, 300_000]), "raw and 5m downsampled");
        assert_eq!(list(&[3_600_000, 0, 300_000]), "raw, 5m and 1h downsampled");
    }
}
