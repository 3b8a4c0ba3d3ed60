//! Range functions where native histograms are among the samples. The kernel has computed the results of the floats; here
//! the steps are done again whose window has a histogram.

use std::sync::Arc;

use super::annotate::{self, Combining};
use super::cells::{Cell, HISTOGRAM};
use super::chunk::ABSENT;
use super::context::QueryContext;
use super::scan::RangeCall;
use crate::kernel::histogram::FloatHistogram;
use crate::kernel::histogram::window::{self, Border, Notes, Point, Sample};
use crate::kernel::{RangeFn, WindowPlan};
use crate::promql::ast::{RangeMode, Span};
use isobar_block::histogram::ResetHint;
use isobar_block::is_stale;

/// The samples of a series.
pub struct Mixed<'a> {
    /// Unix milliseconds.
    pub timestamps: &'a [i64],
    /// The floats; the stale marker where a histogram is.
    pub values: &'a [f64],
    /// Index into `values` and histogram, ascending.
    pub histograms: &'a [(u32, Arc<FloatHistogram>)],
    /// Name of the metric, for annotations.
    pub metric: &'a str,
}

/// What a window has.
struct Window<'a> {
    samples: &'a Mixed<'a>,
    /// Indices of the samples.
    from: usize,
    to: usize,
    histograms: &'a [(u32, Arc<FloatHistogram>)],
}

impl Window<'_> {
    fn floats(&self) -> usize {
        self.samples.values[self.from..self.to].iter().filter(|v| !is_stale(**v)).count()
    }

    fn points(&self) -> Vec<Point<'_>> {
        self.histograms.iter().map(|(i, h)| (self.samples.timestamps[*i as usize], &**h)).collect()
    }

    /// All samples in order, with their time.
    fn all(&self) -> Vec<(i64, Sample<'_>)> {
        let mut histograms = self.histograms.iter().peekable();
        let sample = |i: usize| {
            let time = self.samples.timestamps[i];
            match histograms.next_if(|(at, _)| *at as usize == i) {
                Some((_, h)) => Some((time, Sample::Histogram(h))),
                None if is_stale(self.samples.values[i]) => None,
                None => Some((time, Sample::Float(self.samples.values[i]))),
            }
        };
        (self.from..self.to).filter_map(sample).collect()
    }
}

/// What comes out of a window.
enum Found {
    Nothing,
    /// What the kernel has found.
    Unchanged,
    Float(f64),
    Histogram(Arc<FloatHistogram>),
}

/// Corrects `out` where a window has histograms, and gives the resulting histograms.
pub fn evaluate(call: &RangeCall, plan: &WindowPlan, samples: &Mixed<'_>, query: &QueryContext, out: &mut [f64]) -> Vec<Cell> {
    let mut cells = Vec::new();
    let spec = plan.spec();
    for (step, (from, to)) in plan.windows().iter().enumerate() {
        let first = samples.histograms.partition_point(|(i, _)| (*i as usize) < from);
        let count = samples.histograms[first..].partition_point(|(i, _)| (*i as usize) < to);
        if count == 0 {
            continue;
        }
        let window = Window { samples, from, to, histograms: &samples.histograms[first..first + count] };
        let end_ms = spec.grid.at(step);
        let border = Border { start_ms: end_ms - spec.range_ms, end_ms, mode: spec.mode };
        match evaluate_window(call, &window, border, query) {
            Found::Unchanged => {}
            Found::Nothing => out[step] = ABSENT,
            Found::Float(v) => out[step] = v,
            Found::Histogram(histogram) => {
                out[step] = HISTOGRAM;
                cells.push(Cell { row: 0, step: step as u32, histogram });
            }
        }
    }
    cells
}

fn evaluate_window(call: &RangeCall, window: &Window<'_>, border: Border, query: &QueryContext) -> Found {
    let metric = window.samples.metric;
    let float = |sample: (i64, Sample<'_>)| match sample.1 {
        Sample::Float(v) => Found::Float(v),
        Sample::Histogram(h) => Found::Histogram(Arc::new(h.clone())),
    };
    match call.function {
        RangeFn::Rate | RangeFn::Increase | RangeFn::Delta => {
            if window.floats() > 0 {
                annotate::mixed_in_range(query, call.span, metric);
                return Found::Nothing;
            }
            difference(call, &window.points(), border, query, metric)
        }
        RangeFn::Irate | RangeFn::Idelta => match window.all().as_slice() {
            [.., (_, Sample::Float(_)), (_, Sample::Float(_))] => Found::Unchanged,
            [.., (t, Sample::Histogram(a)), (u, Sample::Histogram(b))] => difference(call, &[(*t, *a), (*u, *b)], border, query, metric),
            [_] => Found::Nothing,
            _ => {
                annotate::mixed_in_range(query, call.span, metric);
                Found::Nothing
            }
        },
        RangeFn::SumOverTime | RangeFn::AvgOverTime => {
            if window.floats() > 0 {
                annotate::mixed_in_range(query, call.span, metric);
                return Found::Nothing;
            }
            let mut notes = Notes::default();
            let histograms = window.histograms.iter().map(|(_, h)| &**h);
            let hinted = |hint| histograms.clone().any(|h| h.reset_hint == hint);
            notes.reset_collision = hinted(ResetHint::Yes) && hinted(ResetHint::No);
            let total = if call.function == RangeFn::SumOverTime {
                window::sum(histograms, &mut notes)
            } else {
                window::avg(histograms, &mut notes)
            };
            annotate::window_notes(query, call.span, notes, Combining::Aggregation(metric));
            total.map_or(Found::Nothing, |h| Found::Histogram(Arc::new(h)))
        }
        RangeFn::CountOverTime => Found::Float((window.floats() + window.histograms.len()) as f64),
        RangeFn::PresentOverTime => Found::Float(1.0),
        RangeFn::LastOverTime => window.all().pop().map_or(Found::Nothing, float),
        RangeFn::FirstOverTime => window.all().into_iter().next().map_or(Found::Nothing, float),
        RangeFn::TsOfLastOverTime => window.all().last().map_or(Found::Nothing, |(t, _)| Found::Float(*t as f64 / 1000.0)),
        RangeFn::TsOfFirstOverTime => window.all().first().map_or(Found::Nothing, |(t, _)| Found::Float(*t as f64 / 1000.0)),
        RangeFn::Changes | RangeFn::Resets => {
            let mut all = window.all();
            if border.mode == RangeMode::Anchored {
                // Of what was before the range, only the newest sample counts.
                let anchor = all.partition_point(|(t, _)| *t <= border.start_ms).saturating_sub(1);
                all.drain(..anchor);
            }
            let samples: Vec<Sample<'_>> = all.into_iter().map(|(_, s)| s).collect();
            Found::Float(window::transitions(call.function == RangeFn::Changes, &samples))
        }
        _ => {
            if window.floats() > 0 {
                annotate::ignored_in_range(query, call.span, metric);
            }
            Found::Unchanged
        }
    }
}

/// A `smoothed` instant selector: corrects `out` where a neighbour of the step is a histogram, and gives the resulting ones.
pub fn smoothed_instant(plan: &WindowPlan, samples: &Mixed<'_>, span: Span, query: &QueryContext, out: &mut [f64]) -> Vec<Cell> {
    let spec = plan.spec();
    let mut cells = Vec::new();
    for (step, out) in out.iter_mut().enumerate() {
        let at_ms = spec.grid.at(step);
        let from = samples.timestamps.partition_point(|t| *t <= at_ms.saturating_sub(spec.lookback_ms));
        let to = samples.timestamps.partition_point(|t| *t <= at_ms.saturating_add(spec.lookback_ms));
        let first = samples.histograms.partition_point(|(i, _)| (*i as usize) < from);
        let count = samples.histograms[first..].partition_point(|(i, _)| (*i as usize) < to);
        let window = Window { samples, from, to, histograms: &samples.histograms[first..first + count] };
        if count == 0 {
            continue;
        }
        *out = ABSENT;
        if window.floats() > 0 {
            annotate::mixed_in_range(query, span, samples.metric);
            continue;
        }
        let points = window.points();
        let (before, after) = points.split_at(points.partition_point(|(t, _)| *t <= at_ms));
        let found = match (before.last(), after.first()) {
            (Some((t, h)), _) if *t == at_ms => Some((*h).clone()),
            (Some(before), Some(after)) => {
                let mut notes = Notes::default();
                let counter = before.1.reset_hint != ResetHint::Gauge;
                let found = window::interpolate(*before, *after, at_ms, counter, &mut notes);
                annotate::window_notes(query, span, notes, Combining::Range(samples.metric));
                found
            }
            (Some((_, h)), None) => Some((*h).clone()),
            (None, _) => None,
        };
        if let Some(histogram) = found {
            *out = HISTOGRAM;
            cells.push(Cell { row: 0, step: step as u32, histogram: Arc::new(histogram) });
        }
    }
    cells
}

fn difference(call: &RangeCall, points: &[Point<'_>], border: Border, query: &QueryContext, metric: &str) -> Found {
    let mut notes = Notes::default();
    let result = window::difference(call.function, points, border, &mut notes);
    annotate::window_notes(query, call.span, notes, Combining::Range(metric));
    result.map_or(Found::Nothing, |h| Found::Histogram(Arc::new(h)))
}
