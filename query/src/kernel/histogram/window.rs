//! Range functions of native histograms: `rate`, `increase`, `delta`, `irate`, `idelta`, with the borders of `anchored` and
//! `smoothed`; sums, averages, changes and resets of a window.

use isobar_block::histogram::ResetHint;

use super::{Combined, FloatHistogram, Mean, MixedSchemas};
use crate::kernel::RangeFn;
use crate::promql::ast::RangeMode;

/// A histogram at a time, Unix milliseconds.
pub type Point<'a> = (i64, &'a FloatHistogram);

/// What is worth an annotation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Warning: a gauge in a function of counters.
    pub not_counter: bool,
    /// Warning: a counter in a function of gauges.
    pub not_gauge: bool,
    /// Warning: exponential and custom buckets; there is no result.
    pub mixed_schemas: bool,
    /// Warning: the hints "reset" and "not reset" contradict each other.
    pub reset_collision: bool,
    /// Info: custom bounds were reconciled during addition.
    pub reconciled_add: bool,
    /// Info: custom bounds were reconciled during subtraction.
    pub reconciled_sub: bool,
}

impl Notes {
    fn note_add(&mut self, combined: Result<Combined, MixedSchemas>) -> Option<()> {
        let combined = combined.map_err(|MixedSchemas| self.mixed_schemas = true).ok()?;
        self.reconciled_add |= combined.bounds_reconciled;
        Some(())
    }

    fn note_sub(&mut self, combined: Result<Combined, MixedSchemas>) -> Option<()> {
        let combined = combined.map_err(|MixedSchemas| self.mixed_schemas = true).ok()?;
        self.reconciled_sub |= combined.bounds_reconciled;
        Some(())
    }
}

/// The borders of a window, `(start_ms, end_ms]`.
#[derive(Clone, Copy, Debug)]
pub struct Border {
    /// Exclusive, Unix milliseconds.
    pub start_ms: i64,
    /// Inclusive, Unix milliseconds.
    pub end_ms: i64,
    /// How samples at the borders are used.
    pub mode: RangeMode,
}

/// `rate`, `increase`, `delta`, `irate` or `idelta` of the histograms of a window (with `anchored` and `smoothed`, widened by
/// the lookback). No result for other functions, for too few points, or if buckets do not fit.
pub fn difference(f: RangeFn, points: &[Point<'_>], border: Border, notes: &mut Notes) -> Option<FloatHistogram> {
    let counter = matches!(f, RangeFn::Rate | RangeFn::Increase | RangeFn::Irate);
    let mut result = match (f, border.mode) {
        (RangeFn::Irate | RangeFn::Idelta, _) => return instantaneous(counter, points, notes),
        (RangeFn::Rate | RangeFn::Increase | RangeFn::Delta, RangeMode::Plain) => extrapolated(counter, points, border, notes)?,
        (RangeFn::Rate | RangeFn::Increase | RangeFn::Delta, _) => extended(counter, points, border, notes)?,
        _ => return None,
    };
    if f == RangeFn::Rate {
        result.divide((border.end_ms - border.start_ms) as f64 / 1000.0);
    }
    Some(result)
}

/// Whether all histograms have buckets of one kind, exponential or custom.
fn one_kind(points: &[Point<'_>], custom: bool, notes: &mut Notes) -> bool {
    let mixed = points.iter().any(|(_, h)| h.is_custom() != custom);
    notes.mixed_schemas |= mixed;
    !mixed
}

fn check_hints(counter: bool, points: &[Point<'_>], notes: &mut Notes) {
    let is_gauge = |(_, h): &Point<'_>| h.reset_hint == ResetHint::Gauge;
    if counter {
        notes.not_counter |= points.iter().any(is_gauge);
    } else if let [first, .., last] = points {
        notes.not_gauge |= !is_gauge(first) || !is_gauge(last);
    }
}

fn extrapolated(counter: bool, points: &[Point<'_>], border: Border, notes: &mut Notes) -> Option<FloatHistogram> {
    let [(first_ms, first), .., (last_ms, last)] = *points else { return None };
    check_hints(counter, points, notes);
    // A first histogram before a reset does not matter, nor do its buckets.
    let empty = points[1].1.empty_like();
    let mut before = if counter && points[1].1.detect_reset(first) { &empty } else { first };
    let relevant = if counter { &points[1..] } else { &points[points.len() - 1..] };
    if !one_kind(relevant, before.is_custom(), notes) {
        return None;
    }
    let mut result = last.clone();
    notes.note_sub(result.sub(before))?;
    if counter {
        for (_, h) in &points[1..] {
            if h.detect_reset(before) {
                notes.note_add(result.add(before))?;
            }
            before = h;
        }
    }
    let seconds = |ms: i64| ms as f64 / 1000.0;
    let (mut to_start, mut to_end) = (seconds(first_ms - border.start_ms), seconds(border.end_ms - last_ms));
    let sampled = seconds(last_ms - first_ms);
    let average = sampled / (points.len() - 1) as f64;
    if to_start >= average * 1.1 {
        to_start = average / 2.0;
    }
    if counter && result.count() > 0.0 && first.count() >= 0.0 {
        to_start = to_start.min(sampled * (first.count() / result.count()));
    }
    if to_end >= average * 1.1 {
        to_end = average / 2.0;
    }
    result.scale((sampled + to_start + to_end) / sampled);
    result.reset_hint = ResetHint::Gauge;
    Some(result)
}

fn instantaneous(counter: bool, points: &[Point<'_>], notes: &mut Notes) -> Option<FloatHistogram> {
    let [.., (before_ms, before), (last_ms, last)] = *points else { return None };
    let gauges = [before, last].map(|h| h.reset_hint == ResetHint::Gauge);
    if counter {
        notes.not_counter |= gauges.contains(&true);
    } else {
        notes.not_gauge |= gauges.contains(&false);
    }
    let mut result = last.clone();
    if !(counter && last.detect_reset(before)) {
        notes.note_sub(result.sub(before))?;
    }
    result.reset_hint = ResetHint::Gauge;
    if counter {
        result.divide((last_ms - before_ms) as f64 / 1000.0);
    }
    Some(result)
}

/// With a value at each border, taken from the sample before it or interpolated.
fn extended(counter: bool, points: &[Point<'_>], border: Border, notes: &mut Notes) -> Option<FloatHistogram> {
    let smoothed = border.mode == RangeMode::Smoothed;
    let mut last = points.len().checked_sub(1)?;
    let first = points[..last].partition_point(|(t, _)| *t <= border.start_ms).saturating_sub(1);
    if smoothed {
        last = points[..last].partition_point(|(t, _)| *t < border.end_ms);
    }
    if points[last].0 <= border.start_ms || points[first].0 > border.end_ms {
        return None;
    }
    let used = &points[first..=last];
    check_hints(counter, used, notes);
    if !one_kind(used, used[0].1.is_custom(), notes) {
        return None;
    }
    let n = used.len();
    let inside_left = smoothed && used[0].0 < border.start_ms;
    let left = if inside_left { interpolate(used[0], used[1], border.start_ms, counter, notes)? } else { used[0].1.clone() };
    let inside_right = smoothed && n > 1 && used[n - 1].0 > border.end_ms;
    let mut result =
        if inside_right { interpolate(used[n - 2], used[n - 1], border.end_ms, counter, notes)? } else { used[n - 1].1.clone() };
    notes.note_sub(result.sub(&left))?;
    if counter {
        // What was interpolated from a reset has nothing from before it.
        for pair in used.windows(2).skip(usize::from(inside_left)) {
            if pair[1].1.detect_reset(pair[0].1) {
                notes.note_add(result.add(pair[0].1))?;
            }
        }
    }
    result.reset_hint = ResetHint::Gauge;
    Some(result)
}

/// The histogram at `at_ms` between two; a counter that was reset between them is taken to have started empty. Also for
/// `smoothed` instant selectors, with `counter` unless the hint says that it is a gauge.
pub fn interpolate(before: Point<'_>, after: Point<'_>, at_ms: i64, counter: bool, notes: &mut Notes) -> Option<FloatHistogram> {
    let share = (at_ms - before.0) as f64 / (after.0 - before.0) as f64;
    let mut result = after.1.clone();
    if counter && after.1.detect_reset(before.1) {
        result.scale(share);
        return Some(result);
    }
    notes.note_sub(result.sub(before.1))?;
    result.scale(share);
    notes.note_add(result.add(before.1))?;
    result.reset_hint = before.1.reset_hint;
    Some(result)
}

/// `sum_over_time`, and `sum` of an aggregation: the sum in order. `None` without histograms, or if buckets do not fit.
pub fn sum<'a>(histograms: impl IntoIterator<Item = &'a FloatHistogram>, notes: &mut Notes) -> Option<FloatHistogram> {
    let mut histograms = histograms.into_iter();
    let mut total = histograms.next()?.clone();
    for h in histograms {
        let combined = total.add(h);
        notes.reset_collision |= combined.is_ok_and(|c| c.reset_collision);
        notes.note_add(combined)?;
    }
    Some(total)
}

/// `avg_over_time`, and `avg` of an aggregation. `None` without histograms, or if buckets do not fit.
pub fn avg<'a>(histograms: impl IntoIterator<Item = &'a FloatHistogram>, notes: &mut Notes) -> Option<FloatHistogram> {
    let mut histograms = histograms.into_iter();
    let mut mean = Mean::new(histograms.next()?);
    for h in histograms {
        let combined = mean.add(h);
        notes.reset_collision |= combined.is_ok_and(|c| c.reset_collision);
        notes.note_add(combined)?;
    }
    Some(mean.finish())
}

/// A sample of a series that may change between floats and histograms.
#[derive(Clone, Copy, Debug)]
pub enum Sample<'a> {
    /// A float.
    Float(f64),
    /// A histogram.
    Histogram(&'a FloatHistogram),
}

/// `changes` (or else `resets`) of a window with histograms. A change between float and histogram is both.
pub fn transitions(changes: bool, samples: &[Sample<'_>]) -> f64 {
    let counts = |pair: &&[Sample<'_>]| match (pair[0], pair[1]) {
        (Sample::Float(a), Sample::Float(b)) if changes => a != b && !(a.is_nan() && b.is_nan()),
        (Sample::Float(a), Sample::Float(b)) => b < a,
        (Sample::Histogram(a), Sample::Histogram(b)) if changes => a != b,
        (Sample::Histogram(a), Sample::Histogram(b)) => b.detect_reset(a),
        _ => true,
    };
    samples.windows(2).filter(counts).count() as f64
}
