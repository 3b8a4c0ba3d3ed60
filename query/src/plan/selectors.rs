//! Resolves all selectors of a query against the source, before anything is planned. This is the only part of planning that
//! waits; afterwards it is known how many series each selector has.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use isobar_block::{Aggregate, LabelsRef, Matcher, SeriesSet, Source, TimeRange, Want};

use super::resolution::{BUCKETS_IN_RANGE, Reads};
use super::{Planned, Planner, Settings, durations, resolution};
use crate::exec::context::QueryContext;
use crate::promql::ast::{Expr, ExprKind, RangeMode, Span, VectorSelector};
use crate::result::{Grid, Result};

/// How many series are looked at to guess the number of groups.
const SAMPLED_SERIES: usize = 256;

/// Resolution that is reckoned with from the start where it would be good enough; for coarser data the source is asked again.
const MAX_EXPECTED_RESOLUTION_MS: i64 = 3_600_000;

/// The series of one selector.
pub struct Selection {
    /// What was asked for.
    pub matchers: Vec<Matcher>,
    /// Which samples may be needed.
    pub range: TimeRange,
    /// Which resolution was good enough, and what of a bucket is read.
    pub want: Want,
    /// Sorted sets; a series may be in several of them.
    pub sets: Vec<Arc<dyn SeriesSet>>,
}

impl Selection {
    /// Number of series, where one that is in several sets counts as often.
    pub fn series(&self) -> usize {
        self.sets.iter().map(|s| s.len()).sum()
    }

    /// Number of series in the biggest set: at least so many, and close to it if the sets hold the same series.
    pub fn series_at_least(&self) -> usize {
        self.sets.iter().map(|s| s.len()).max().unwrap_or(0)
    }

    /// The coarsest resolution of a set, milliseconds; 0 if all are raw samples.
    pub fn resolution_ms(&self) -> i64 {
        self.sets.iter().map(|s| s.resolution_ms()).max().unwrap_or(0)
    }

    /// Whether some of the data is coarser than was good enough, because nothing finer is left.
    pub fn is_too_coarse(&self) -> bool {
        self.resolution_ms() > self.want.max_resolution_ms
    }

    /// What EXPLAIN shows of the resolution.
    pub fn describe_resolution(&self) -> String {
        let levels: std::collections::BTreeSet<i64> = self.sets.iter().map(|s| s.resolution_ms()).collect();
        let levels: Vec<String> = levels.into_iter().map(|ms| if ms == 0 { "raw".to_owned() } else { format!("{ms}ms") }).collect();
        format!("resolution={}, aggregate={:?}", if levels.is_empty() { "raw".to_owned() } else { levels.join("+") }, self.want.aggregate)
    }

    /// A guess at how many different keys `key` makes of the series, from a sample.
    pub fn estimate_groups(&self, mut key: impl FnMut(LabelsRef<'_>, &mut Vec<u8>)) -> usize {
        let Some(set) = self.sets.iter().max_by_key(|s| s.len()) else {
            return 0;
        };
        let sampled = set.len().min(SAMPLED_SERIES);
        let mut keys = std::collections::HashSet::new();
        for i in 0..sampled {
            let mut bytes = Vec::new();
            key(set.labels(i * set.len() / sampled), &mut bytes);
            keys.insert(bytes);
        }
        if keys.len() * 2 > sampled { keys.len() * set.len() / sampled.max(1) } else { keys.len() }
    }
}

impl fmt::Debug for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {:?}: {} series in {} sets", self.matchers, self.range, self.series(), self.sets.len())
    }
}

/// The resolved selectors of a query, each by where it stands in the text.
pub struct Selected {
    settings: Settings,
    selections: HashMap<Span, Arc<Selection>>,
}

/// Resolves all selectors of the query. Waits for the source; dropping the future ends that.
///
/// # Errors
/// If a duration is wrong or the source fails.
pub async fn select(source: &dyn Source, query: &Arc<QueryContext>, settings: Settings) -> Result<Selected> {
    let mut wanted = Vec::new();
    collect(query.expr(), settings.grid, Reads::default(), &settings, &mut wanted)?;
    // `x / x offset 0s` and the like ask for the same; one answer serves them all.
    let mut distinct: Vec<Wanted> = Vec::new();
    let mut places = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        let place = distinct.iter().position(|known| known.is_same(&wanted)).unwrap_or(distinct.len());
        places.push((wanted.span, place));
        if place == distinct.len() {
            distinct.push(wanted);
        }
    }
    let resolve = |wanted: Wanted| async move {
        let selection = resolve(source, wanted, query).await?;
        query.count_series(selection.series_at_least());
        Ok::<_, crate::result::Error>(Arc::new(selection))
    };
    let resolved = futures::future::try_join_all(distinct.into_iter().map(resolve)).await?;
    resolution::warn(resolved.iter().map(|selection| &**selection), settings.resolution, query);
    let selections = places.into_iter().map(|(span, place)| (span, Arc::clone(&resolved[place]))).collect();
    Ok(Selected { settings, selections })
}

/// Samples and values that are computed before a second thread has woken up.
const LIGHT_COST: i64 = 100_000;

impl Selected {
    /// Whether answering takes less time than handing the work to another thread. Assumes at most a sample a second for each
    /// series; subqueries count by the time that they reach back.
    pub fn is_light(&self) -> bool {
        let steps = self.settings.grid.len as i64;
        let cost = |selection: &Arc<Selection>| {
            let seconds = selection.range.end_ms().saturating_sub(selection.range.start_ms()) / 1000;
            seconds.saturating_add(steps).saturating_mul(selection.series().max(1) as i64)
        };
        !self.selections.is_empty() && self.selections.values().map(cost).fold(0, i64::saturating_add) <= LIGHT_COST
    }

    /// Makes the physical plan.
    ///
    /// # Errors
    /// Where an argument is wrong in a way that only the planner sees.
    pub fn plan(self, query: &Arc<QueryContext>) -> Result<Planned> {
        Planner { settings: self.settings, selections: self.selections, query: Arc::clone(query) }.root()
    }
}

/// A selector that is to be resolved.
pub(super) struct Wanted {
    pub(super) span: Span,
    pub(super) matchers: Vec<Matcher>,
    /// The samples that can matter if they are raw.
    pub(super) range: TimeRange,
    pub(super) want: Want,
    /// Width of the range of a range selector.
    pub(super) range_ms: Option<i64>,
    /// Whether samples after the time of evaluation matter too.
    pub(super) looks_ahead: bool,
}

impl Wanted {
    fn is_same(&self, other: &Self) -> bool {
        (self.range, self.want, self.range_ms, self.looks_ahead) == (other.range, other.want, other.range_ms, other.looks_ahead)
            && self.matchers == other.matchers
    }

    /// The samples that can matter if the data is as coarse as that.
    fn touched(&self, resolution_ms: i64) -> Result<TimeRange> {
        let before = match self.range_ms {
            None => resolution_ms,
            Some(range_ms) => resolution_ms.saturating_mul(BUCKETS_IN_RANGE).saturating_sub(range_ms).max(0),
        };
        let after = if self.looks_ahead { resolution_ms } else { 0 };
        Ok(TimeRange::new(self.range.start_ms().saturating_sub(before), self.range.end_ms().saturating_add(after))?)
    }
}

/// Asks the source; once more if the data turns out to be so coarse that older samples matter.
async fn resolve(source: &dyn Source, wanted: Wanted, query: &QueryContext) -> Result<Selection> {
    let mut resolution_ms = if wanted.range_ms.is_none() { wanted.want.max_resolution_ms.min(MAX_EXPECTED_RESOLUTION_MS) } else { 0 };
    loop {
        let range = wanted.touched(resolution_ms)?;
        let found = source.select(&wanted.matchers, range, wanted.want).await?;
        let coarsest_ms = found.sets.iter().map(|s| s.resolution_ms()).max().unwrap_or(0);
        if coarsest_ms > resolution_ms && wanted.touched(coarsest_ms)? != range {
            resolution_ms = coarsest_ms;
            continue;
        }
        found.warnings.into_iter().for_each(|warning| query.warn_general(warning));
        let sets = found.sets.into_iter().filter(|s| !s.is_empty()).collect();
        return Ok(Selection { matchers: wanted.matchers, range, want: wanted.want, sets });
    }
}

fn collect(expr: &Expr, grid: Grid, reads: Reads, settings: &Settings, out: &mut Vec<Wanted>) -> Result<()> {
    let want = |selector: &VectorSelector, range_ms: Option<i64>, aggregate: Aggregate, out: &mut Vec<Wanted>| -> Result<()> {
        let range = durations::touched(selector, range_ms.unwrap_or(0), grid, settings)?;
        let want = Want { max_resolution_ms: settings.resolution.limit_ms(grid, range_ms), aggregate };
        let looks_ahead = selector.mode == RangeMode::Smoothed;
        out.push(Wanted { span: expr.span, matchers: selector.matchers.clone(), range, want, range_ms, looks_ahead });
        Ok(())
    };
    let below = Reads::default();
    match &expr.kind {
        ExprKind::Number(_) | ExprKind::String(_) => Ok(()),
        ExprKind::Paren(inner) => collect(inner, grid, reads, settings, out),
        ExprKind::Unary { expr: inner, .. } => collect(inner, grid, below, settings, out),
        ExprKind::Binary(binary) => {
            collect(&binary.lhs, grid, below, settings, out)?;
            collect(&binary.rhs, grid, below, settings, out)
        }
        ExprKind::Aggregate(aggregate) => {
            if let Some(param) = &aggregate.param {
                collect(param, grid, below, settings, out)?;
            }
            collect(&aggregate.expr, grid, Reads::of_aggregation(aggregate.op), settings, out)
        }
        ExprKind::Call { function, args } if function.name == "info" => {
            out.push(super::info::wanted(args, expr.span, grid, settings)?);
            collect(&args[0], grid, below, settings, out)
        }
        ExprKind::Call { function, args } => {
            args.iter().try_for_each(|arg| collect(arg, grid, Reads::of_function(function.name), settings, out))
        }
        ExprKind::Vector(selector) => want(selector, None, reads.instant, out),
        ExprKind::Matrix { selector, range } => want(selector, Some(durations::positive_millis(range, settings)?), reads.range, out),
        ExprKind::Subquery(subquery) => match durations::subquery_grid(subquery, grid, settings)? {
            Some(inner) => collect(&subquery.expr, inner, below, settings, out),
            None => Ok(()),
        },
    }
}
