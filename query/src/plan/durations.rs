//! Durations that depend on the query (`[5m + step()]`), and the times at which selectors and subqueries are evaluated.

use isobar_block::TimeRange;

use super::Settings;
use crate::promql::ast::{At, BinaryOp, Duration, DurationExpr, RangeMode, Subquery, VectorSelector};
use crate::result::{Error, Grid, Result};

/// Most evaluations of a subquery, so that `[10y:1ms]` is an error and not an attempt.
const MAX_SUBQUERY_STEPS: i64 = 50_000_000;

/// Milliseconds of a duration.
pub(super) fn millis(duration: &Duration, settings: &Settings) -> Result<i64> {
    match duration {
        Duration::Millis(ms) => Ok(*ms),
        Duration::Computed(expr) => {
            let ms = seconds(expr, settings)? * 1000.0;
            if !ms.is_finite() || ms.abs() >= i64::MAX as f64 / 1e6 {
                return Err(Error::BadData(format!("a duration of {} s is out of range", ms / 1000.0)));
            }
            Ok(ms.round() as i64)
        }
    }
}

/// Milliseconds of a duration that has to be more than 0.
pub(super) fn positive_millis(duration: &Duration, settings: &Settings) -> Result<i64> {
    let ms = millis(duration, settings)?;
    if ms <= 0 { Err(Error::BadData("duration must be greater than 0".into())) } else { Ok(ms) }
}

fn seconds(expr: &DurationExpr, settings: &Settings) -> Result<f64> {
    Ok(match expr {
        DurationExpr::Seconds(s) => *s,
        DurationExpr::Step => settings.step_seconds(),
        DurationExpr::Range => (settings.grid.end_ms() - settings.grid.start_ms) as f64 / 1000.0,
        DurationExpr::Neg(x) => -seconds(x, settings)?,
        DurationExpr::Min(x, y) => seconds(x, settings)?.min(seconds(y, settings)?),
        DurationExpr::Max(x, y) => seconds(x, settings)?.max(seconds(y, settings)?),
        DurationExpr::Binary(op, x, y) => {
            let (x, y) = (seconds(x, settings)?, seconds(y, settings)?);
            match op {
                BinaryOp::Add => x + y,
                BinaryOp::Sub => x - y,
                BinaryOp::Mul => x * y,
                BinaryOp::Div if y == 0.0 => return Err(Error::BadData("division by zero".into())),
                BinaryOp::Div => x / y,
                BinaryOp::Mod if y == 0.0 => return Err(Error::BadData("modulo by zero".into())),
                BinaryOp::Mod => x % y,
                BinaryOp::Pow => x.powf(y),
                other => return Err(Error::BadData(format!("operator {other:?} cannot be used with durations"))),
            }
        }
    })
}

/// The time that `@` fixes.
pub(super) fn fixed_time(at: Option<At>, settings: &Settings) -> Option<i64> {
    at.map(|at| match at {
        At::Millis(ms) => ms,
        At::Start => settings.grid.start_ms,
        At::End => settings.grid.end_ms(),
    })
}

/// When a selection that is evaluated at `grid` looks at the data: `@` and `offset` applied.
pub(super) fn shifted(grid: Grid, at: Option<At>, offset: Option<&Duration>, settings: &Settings) -> Result<Grid> {
    let offset_ms = offset.map_or(Ok(0), |d| millis(d, settings))?;
    Ok(match fixed_time(at, settings) {
        Some(at_ms) => Grid { start_ms: at_ms.saturating_sub(offset_ms), step_ms: 0, len: grid.len },
        None => Grid { start_ms: grid.start_ms.saturating_sub(offset_ms), ..grid },
    })
}

/// When the inside of a subquery is evaluated: at absolute multiples of its step, so that answers do not depend on the
/// start of the query. `None` if no multiple lies in any window.
pub(super) fn subquery_grid(subquery: &Subquery, grid: Grid, settings: &Settings) -> Result<Option<Grid>> {
    let range_ms = positive_millis(&subquery.range, settings)?;
    let step_ms = subquery_step(subquery, settings)?;
    let ends = shifted(grid, subquery.at, subquery.offset.as_ref(), settings)?;
    let after = ends.start_ms.saturating_sub(range_ms);
    let start_ms = (after.div_euclid(step_ms) + 1) * step_ms;
    let last = ends.end_ms();
    if start_ms > last {
        return Ok(None);
    }
    let len = (last - start_ms) / step_ms + 1;
    if len > MAX_SUBQUERY_STEPS {
        return Err(Error::Execution(format!(
            "a subquery of {len} steps is too long (limit {MAX_SUBQUERY_STEPS}); use a longer step or a shorter range"
        )));
    }
    Ok(Some(Grid { start_ms, step_ms, len: len as usize }))
}

fn subquery_step(subquery: &Subquery, settings: &Settings) -> Result<i64> {
    match &subquery.step {
        None => Ok(settings.default_subquery_step_ms),
        // A step of 0 is as none.
        Some(step) => match millis(step, settings)? {
            0 => Ok(settings.default_subquery_step_ms),
            ms if ms < 0 => Err(Error::BadData("duration must be greater than 0".into())),
            ms => Ok(ms),
        },
    }
}

/// The samples that a selection can touch. `range_ms` is 0 for an instant selector.
pub(super) fn touched(selector: &VectorSelector, range_ms: i64, grid: Grid, settings: &Settings) -> Result<TimeRange> {
    let ends = shifted(grid, selector.at, selector.offset.as_ref(), settings)?;
    let (before, after) = match (selector.mode, range_ms) {
        (RangeMode::Plain, 0) => (settings.lookback_ms, 0),
        (RangeMode::Plain, range_ms) => (range_ms, 0),
        (RangeMode::Anchored, range_ms) => (range_ms.saturating_add(settings.lookback_ms), 0),
        (RangeMode::Smoothed, range_ms) => (range_ms.saturating_add(settings.lookback_ms), settings.lookback_ms),
    };
    let first = ends.start_ms.saturating_sub(before).saturating_add(1);
    let last = ends.end_ms().saturating_add(after);
    Ok(TimeRange::new(first.min(last), last)?)
}
