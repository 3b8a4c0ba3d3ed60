//! Resolves all selectors of a query against the source, before anything is planned. This is the only part of planning that
//! waits; afterwards it is known how many series each selector has.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use isobar_block::{LabelsRef, Matcher, SeriesSet, Source, TimeRange};

use super::{Planned, Planner, Settings, durations};
use crate::exec::context::QueryContext;
use crate::promql::ast::{Expr, ExprKind, Span, VectorSelector};
use crate::result::{Grid, Result};

/// How many series are looked at to guess the number of groups.
const SAMPLED_SERIES: usize = 256;

/// The series of one selector.
pub struct Selection {
    /// What was asked for.
    pub matchers: Vec<Matcher>,
    /// Which samples may be needed.
    pub range: TimeRange,
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
    collect(query.expr(), settings.grid, &settings, &mut wanted)?;
    // `x / x offset 0s` and the like ask for the same; one answer serves them all.
    let mut distinct: Vec<(Vec<Matcher>, TimeRange)> = Vec::new();
    let mut places = Vec::with_capacity(wanted.len());
    for Wanted { span, matchers, range } in wanted {
        let place = distinct.iter().position(|(m, r)| *r == range && *m == matchers).unwrap_or(distinct.len());
        if place == distinct.len() {
            distinct.push((matchers, range));
        }
        places.push((span, place));
    }
    let resolve = |(matchers, range): (Vec<Matcher>, TimeRange)| async move {
        let sets = source.select(&matchers, range).await?.into_iter().filter(|s| !s.is_empty()).collect();
        let selection = Arc::new(Selection { matchers, range, sets });
        query.count_series(selection.series_at_least());
        Ok::<_, crate::result::Error>(selection)
    };
    let resolved = futures::future::try_join_all(distinct.into_iter().map(resolve)).await?;
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

struct Wanted {
    span: Span,
    matchers: Vec<Matcher>,
    range: TimeRange,
}

fn collect(expr: &Expr, grid: Grid, settings: &Settings, out: &mut Vec<Wanted>) -> Result<()> {
    let want = |selector: &VectorSelector, range_ms: i64, out: &mut Vec<Wanted>| -> Result<()> {
        let range = durations::touched(selector, range_ms, grid, settings)?;
        out.push(Wanted { span: expr.span, matchers: selector.matchers.clone(), range });
        Ok(())
    };
    match &expr.kind {
        ExprKind::Number(_) | ExprKind::String(_) => Ok(()),
        ExprKind::Paren(inner) | ExprKind::Unary { expr: inner, .. } => collect(inner, grid, settings, out),
        ExprKind::Binary(binary) => {
            collect(&binary.lhs, grid, settings, out)?;
            collect(&binary.rhs, grid, settings, out)
        }
        ExprKind::Aggregate(aggregate) => {
            if let Some(param) = &aggregate.param {
                collect(param, grid, settings, out)?;
            }
            collect(&aggregate.expr, grid, settings, out)
        }
        ExprKind::Call { function, args } if function.name == "info" => {
            let (matchers, range) = super::info::wanted(args, grid, settings)?;
            out.push(Wanted { span: expr.span, matchers, range });
            collect(&args[0], grid, settings, out)
        }
        ExprKind::Call { args, .. } => args.iter().try_for_each(|arg| collect(arg, grid, settings, out)),
        ExprKind::Vector(selector) => want(selector, 0, out),
        ExprKind::Matrix { selector, range } => want(selector, durations::positive_millis(range, settings)?, out),
        ExprKind::Subquery(subquery) => match durations::subquery_grid(subquery, grid, settings)? {
            Some(inner) => collect(&subquery.expr, inner, settings, out),
            None => Ok(()),
        },
    }
}
