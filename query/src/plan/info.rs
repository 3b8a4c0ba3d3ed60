//! `info(v, {selector})`: which info series are selected, and at which times they are looked at.

use isobar_block::{Aggregate, MatchOp, Matcher, TimeRange, Want};

use super::selectors::Wanted;
use super::{Cx, Planner, Settings, Vector, durations};
use crate::exec::info::InfoJoin;
use crate::exec::labels::METADATA_LABELS;
use crate::exec::operator::OperatorExec;
use crate::exec::scan::{ScanFunction, ScanSpec, SeriesScanExec};
use crate::exec::subquery::StepBroadcast;
use crate::kernel::WindowSpec;
use crate::promql::ast::{At, Duration, Expr, ExprKind, RangeMode, Span};
use crate::result::{Grid, Result};

/// The info metric that is used when the query names none.
const DEFAULT_INFO_METRIC: &str = "target_info";

/// What info metrics are called, where the query only says which it does not want.
const INFO_METRIC_PATTERN: &str = ".+_info";

/// What info series have to match: names, and other labels.
struct InfoMatchers {
    names: Vec<Matcher>,
    data: Vec<Matcher>,
}

impl InfoMatchers {
    fn new(args: &[Expr]) -> Result<Self> {
        let given = match args.get(1).map(|arg| &arg.unparenthesized().kind) {
            Some(ExprKind::Vector(selector)) => selector.matchers.clone(),
            _ => Vec::new(),
        };
        let (mut names, data): (Vec<_>, Vec<_>) = given.into_iter().partition(|m| m.name() == METADATA_LABELS[0]);
        if names.is_empty() {
            names.push(Matcher::new(METADATA_LABELS[0], MatchOp::Equal, DEFAULT_INFO_METRIC)?);
        } else if !names.iter().any(|m| matches!(m.op(), MatchOp::Equal | MatchOp::Regex)) {
            names.push(Matcher::new(METADATA_LABELS[0], MatchOp::Regex, INFO_METRIC_PATTERN)?);
        }
        Ok(Self { names, data })
    }

    fn all(&self) -> Vec<Matcher> {
        self.names.iter().chain(&self.data).cloned().collect()
    }
}

/// The selection of info series that a call needs.
pub(super) fn wanted(args: &[Expr], span: Span, grid: Grid, settings: &Settings) -> Result<Wanted> {
    let times = info_times(&args[0], grid, settings)?;
    let first_ms = times.start_ms.saturating_sub(settings.lookback_ms).saturating_add(1);
    Ok(Wanted {
        span,
        matchers: InfoMatchers::new(args)?.all(),
        range: TimeRange::new(first_ms, times.end_ms())?,
        want: Want { max_resolution_ms: settings.resolution.limit_ms(grid, None), aggregate: Aggregate::Last },
        range_ms: None,
        looks_ahead: false,
    })
}

/// When info series are looked at: when the first selector of the argument looks at its samples.
fn info_times(expr: &Expr, grid: Grid, settings: &Settings) -> Result<Grid> {
    let mut found = None;
    first_shift(expr, &mut Vec::new(), &mut found);
    let mut times = grid;
    for (at, offset) in found.unwrap_or_default() {
        times = durations::shifted(times, at, offset.as_ref(), settings)?;
    }
    Ok(times)
}

type Shift = (Option<At>, Option<Duration>);

/// The `@` and `offset` of subqueries around the first selector, and its own, from the outside in.
fn first_shift(expr: &Expr, path: &mut Vec<Shift>, found: &mut Option<Vec<Shift>>) {
    if found.is_some() {
        return;
    }
    match &expr.kind {
        ExprKind::Number(_) | ExprKind::String(_) => {}
        ExprKind::Paren(inner) | ExprKind::Unary { expr: inner, .. } => first_shift(inner, path, found),
        ExprKind::Binary(binary) => {
            first_shift(&binary.lhs, path, found);
            first_shift(&binary.rhs, path, found);
        }
        ExprKind::Aggregate(aggregate) => first_shift(&aggregate.expr, path, found),
        ExprKind::Call { args, .. } => args.iter().for_each(|arg| first_shift(arg, path, found)),
        ExprKind::Vector(selector) | ExprKind::Matrix { selector, .. } => {
            path.push((selector.at, selector.offset.clone()));
            *found = Some(path.clone());
        }
        ExprKind::Subquery(subquery) => {
            path.push((subquery.at, subquery.offset.clone()));
            first_shift(&subquery.expr, path, found);
            path.pop();
        }
    }
}

impl Planner {
    pub(super) fn info(&self, args: &[Expr], span: Span, cx: Cx<'_>) -> Result<Vector> {
        let base = self.vector(&args[0], Cx::plain(cx.grid, true))?;
        let matchers = InfoMatchers::new(args)?;
        let times = info_times(&args[0], cx.grid, &self.settings)?;
        let selection = self.selection(span)?;
        let lookback_ms = self.lookback_ms(&selection);
        let fixed = times.step_ms == 0 && times.len > 1;
        let times = if fixed { Grid::instant(times.start_ms) } else { times };
        let mut infos = SeriesScanExec::with_inputs(
            std::sync::Arc::new(ScanSpec {
                partitions: self.partitions(selection.series_at_least(), times.len),
                selection,
                windows: WindowSpec { grid: times, range_ms: lookback_ms, lookback_ms, mode: RangeMode::Plain },
                widened_ms: None,
                eval: Grid { len: times.len, ..cx.grid },
                // The newest of conflicting series wins, so that what counts is the time of the sample, not its value.
                function: ScanFunction::InfoTimestamp,
                rule: None,
                span,
                detect_resets: false,
            }),
            Vec::new(),
        );
        if fixed {
            infos = OperatorExec::new(StepBroadcast { steps: cx.grid.len }, vec![infos]);
        }
        let data: Vec<String> = matchers.data.iter().map(|m| m.name().to_owned()).collect();
        let required = matchers.data.iter().any(|m| !m.matches_empty());
        let join = InfoJoin { names: matchers.names, data, required, steps: cx.grid.len };
        Ok(Vector { plan: OperatorExec::new(join, vec![base.plan, infos]), reduced: false, unique: false, origin: None, ..base })
    }
}
