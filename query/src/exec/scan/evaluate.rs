//! The part of the scan that turns samples into one value for each step, and notes what is odd about them.

use std::collections::HashMap;
use std::sync::Arc;

use isobar_block::histogram::ResetHint;
use isobar_block::{LabelsRef, SampleBuf};

use super::{Param, ScanFunction, ScanSpec};
use crate::exec::cells::{Cell, HISTOGRAM, is_histogram};
use crate::exec::chunk::{ABSENT, present};
use crate::exec::context::QueryContext;
use crate::exec::format::go_float;
use crate::exec::range_histograms::{self, Mixed};
use crate::kernel::histogram::FloatHistogram;
use crate::kernel::{self, Params, RangeFn, Scratch, WindowPlan, WindowSpec, instant};
use crate::promql::ast::RangeMode;

/// Samples after which a batch ends early, so that long series do not delay cancellation.
pub(super) const MAX_BATCH_SAMPLES: usize = 300_000;

/// Window plans that are kept. Each is needed for all series of one scrape target.
const MAX_WINDOW_PLANS: usize = 1024;

/// Samples of a counter's bucket are at most so far apart (see [`isobar_block::Aggregate::Counter`]); they tell nothing of the
/// speed at which it grows.
const MAX_BUCKET_SAMPLES_MS: i64 = 10;

/// Endings of names of counters.
const COUNTER_ENDINGS: [&str; 4] = ["_total", "_sum", "_count", "_bucket"];

/// Evaluates the scan's function on one series after the other.
pub(super) struct Evaluator {
    spec: Arc<ScanSpec>,
    query: Arc<QueryContext>,
    first: Vec<f64>,
    second: Vec<f64>,
    scratch: Scratch,
    plans: HashMap<u64, Arc<WindowPlan>>,
    last_plan: Option<(u64, Arc<WindowPlan>)>,
    masked: Vec<f64>,
    /// The metric name that was looked at last.
    noted: Option<String>,
    /// Evaluates wider windows, and how much of their results counts.
    widened: Option<Box<(Evaluator, f64)>>,
    wide: Vec<f64>,
    weights: Vec<f64>,
}

impl Evaluator {
    pub(super) fn new(spec: Arc<ScanSpec>, query: Arc<QueryContext>) -> Self {
        let widened = spec.widened_ms.map(|range_ms| {
            let wide = ScanSpec { windows: WindowSpec { range_ms, ..spec.windows }, widened_ms: None, ..(*spec).clone() };
            Box::new((Self::new(Arc::new(wide), Arc::clone(&query)), amount_share(&spec, range_ms)))
        });
        Self {
            spec,
            query,
            widened,
            wide: Vec::new(),
            weights: Vec::new(),
            first: Vec::new(),
            second: Vec::new(),
            scratch: Scratch::default(),
            plans: HashMap::new(),
            last_plan: None,
            masked: Vec::new(),
            noted: None,
        }
    }

    /// Sets the scalar arguments; `inputs` are those that were computed.
    pub(super) fn set_inputs(&mut self, inputs: Vec<Vec<f64>>) {
        if let Some(widened) = &mut self.widened {
            widened.0.set_inputs(inputs.clone());
        }
        let ScanFunction::Range(call) = &self.spec.function else {
            return;
        };
        let mut params = resolve(call.params.iter().map(|(param, _)| param), inputs).into_iter();
        self.first = params.next().unwrap_or_default();
        self.second = params.next().unwrap_or_default();
    }

    /// Fills `out`, which has one place for each step, and gives the histograms of the row.
    pub(super) fn evaluate(&mut self, samples: &SampleBuf, labels: LabelsRef<'_>, out: &mut [f64]) -> Vec<Cell> {
        if samples.is_empty() {
            return Vec::new();
        }
        let cells = self.evaluate_windows(samples, labels, out);
        match self.widened.take() {
            None => cells,
            Some(mut widened) => {
                let cells = self.fill_gaps(&mut widened, samples, labels, cells, out);
                self.widened = Some(widened);
                cells
            }
        }
    }

    /// Adds results of the wider windows at steps that have none.
    fn fill_gaps(
        &mut self,
        widened: &mut (Self, f64),
        samples: &SampleBuf,
        labels: LabelsRef<'_>,
        mut cells: Vec<Cell>,
        out: &mut [f64],
    ) -> Vec<Cell> {
        if matches!(&self.spec.function, ScanFunction::Range(call) if matches!(call.function, RangeFn::Rate | RangeFn::Increase)) {
            let plan = self.window_plan(samples);
            let ts = &samples.timestamps;
            for (step, (lo, hi)) in plan.windows().iter().enumerate().filter(|(_, (lo, hi))| lo < hi) {
                if ts[hi - 1] - ts[lo] <= MAX_BUCKET_SAMPLES_MS {
                    out[step] = ABSENT;
                }
            }
            cells.retain(|cell| present(out[cell.step as usize]));
        }
        if out.iter().all(|v| present(*v)) {
            return cells;
        }
        let (evaluator, share) = widened;
        self.wide.clear();
        self.wide.resize(out.len(), ABSENT);
        let more = evaluator.evaluate_windows(samples, labels, &mut self.wide);
        for mut cell in more.into_iter().filter(|cell| !present(out[cell.step as usize])) {
            if *share != 1.0 {
                Arc::make_mut(&mut cell.histogram).scale(*share);
            }
            cells.push(cell);
        }
        cells.sort_by_key(|cell| cell.step);
        for (out, wide) in out.iter_mut().zip(&self.wide).filter(|(out, wide)| !present(**out) && present(**wide)) {
            *out = if is_histogram(*wide) { *wide } else { *wide * *share };
        }
        cells
    }

    fn evaluate_windows(&mut self, samples: &SampleBuf, labels: LabelsRef<'_>, out: &mut [f64]) -> Vec<Cell> {
        let plan = self.window_plan(samples);
        if samples.histograms.is_empty() {
            self.evaluate_floats(&samples.timestamps, &samples.values, &samples.counts, &plan, out);
            return Vec::new();
        }
        if !samples.counts.is_empty() && self.is_count() {
            // Histograms count like floats.
            self.evaluate_floats(&samples.timestamps, &samples.values, &samples.counts, &plan, out);
            return Vec::new();
        }
        let mut values = std::mem::take(&mut self.masked);
        let cells = self.evaluate_mixed(samples, labels, &plan, &mut values, out);
        self.masked = values;
        cells
    }

    fn is_count(&self) -> bool {
        matches!(&self.spec.function, ScanFunction::Range(call) if call.function == RangeFn::CountOverTime)
    }

    fn evaluate_floats(&mut self, ts: &[i64], values: &[f64], counts: &[u32], plan: &WindowPlan, out: &mut [f64]) {
        let spec = &*self.spec;
        match &spec.function {
            ScanFunction::Instant if spec.windows.mode == RangeMode::Smoothed => {
                instant::smoothed(ts, values, &spec.windows.grid, spec.windows.lookback_ms, out)
            }
            ScanFunction::Instant => instant::instant_with(plan.windows(), values, out),
            ScanFunction::Timestamp | ScanFunction::InfoTimestamp => instant::timestamp_with(plan.windows(), ts, values, out),
            ScanFunction::Range(call) if !counts.is_empty() && kernel::counts_matter(call.function) => {
                fill_weights(spec, ts, counts, &mut self.weights);
                kernel::range_of_means(call.function, values, &self.weights, plan, out);
            }
            ScanFunction::Range(call) => {
                let params = Params { first: &self.first, second: &self.second, eval: spec.eval };
                kernel::range(call.function, &params, ts, values, plan, &mut self.scratch, out);
            }
        }
    }

    fn evaluate_mixed(
        &mut self,
        samples: &SampleBuf,
        labels: LabelsRef<'_>,
        plan: &WindowPlan,
        values: &mut Vec<f64>,
        out: &mut [f64],
    ) -> Vec<Cell> {
        // The end of a series is no histogram, even if it is written as one.
        let proper = samples.histograms.iter().filter(|(_, h)| !isobar_block::is_stale(h.sum));
        let mut histograms: Vec<(u32, Arc<FloatHistogram>)> = proper.map(|(i, h)| (*i, Arc::new(FloatHistogram::from(&**h)))).collect();
        let spec = Arc::clone(&self.spec);
        if spec.detect_resets {
            detect_resets(&mut histograms);
        }
        let by_step = !matches!(spec.function, ScanFunction::Range(_)) && spec.windows.mode == RangeMode::Plain;
        values.clear();
        values.extend_from_slice(&samples.values);
        for (i, _) in &histograms {
            values[*i as usize] = if by_step { HISTOGRAM } else { ABSENT };
        }
        self.evaluate_floats(&samples.timestamps, values, &samples.counts, plan, out);
        match &spec.function {
            ScanFunction::Range(call) => {
                let mixed = Mixed { timestamps: &samples.timestamps, values, histograms: &histograms, metric: labels.metric_name() };
                range_histograms::evaluate(call, plan, &mixed, &self.query, out)
            }
            ScanFunction::Instant if spec.windows.mode == RangeMode::Smoothed => {
                let mixed = Mixed { timestamps: &samples.timestamps, values, histograms: &histograms, metric: labels.metric_name() };
                range_histograms::smoothed_instant(plan, &mixed, spec.span, &self.query, out)
            }
            ScanFunction::InfoTimestamp => {
                for (step, (_, to)) in plan.windows().iter().enumerate().filter(|(_, (from, to))| from < to) {
                    out[step] = if is_histogram(values[to - 1]) { HISTOGRAM } else { out[step] };
                }
                Vec::new()
            }
            ScanFunction::Instant | ScanFunction::Timestamp => {
                let newest = plan.windows().iter().map(|(_, to)| to).enumerate().filter(|(step, _)| is_histogram(out[*step]));
                let cell = |(step, to): (usize, usize)| {
                    let at = histograms.binary_search_by_key(&(to - 1), |(i, _)| *i as usize).ok()?;
                    Some(Cell { row: 0, step: step as u32, histogram: Arc::clone(&histograms[at].1) })
                };
                newest.filter_map(cell).collect()
            }
        }
    }

    fn window_plan(&mut self, samples: &SampleBuf) -> Arc<WindowPlan> {
        let id = samples.timestamps.id();
        if id == 0 {
            return Arc::new(WindowPlan::new(&samples.timestamps, &self.spec.windows));
        }
        if let Some((last, plan)) = &self.last_plan
            && *last == id
        {
            return Arc::clone(plan);
        }
        if self.plans.len() >= MAX_WINDOW_PLANS {
            self.plans.clear();
        }
        let plan = self.plans.entry(id).or_insert_with(|| Arc::new(WindowPlan::new(&samples.timestamps, &self.spec.windows)));
        self.last_plan = Some((id, Arc::clone(plan)));
        Arc::clone(plan)
    }

    /// Notes what is odd about a series that has a result.
    pub(super) fn note(&mut self, labels: LabelsRef<'_>, has_histograms: bool) {
        let ScanFunction::Range(call) = &self.spec.function else {
            return;
        };
        match call.function {
            RangeFn::Rate | RangeFn::Increase if !has_histograms => {
                let name = labels.metric_name();
                if self.noted.as_deref() != Some(name) {
                    self.noted = Some(name.to_owned());
                    note_counter_name(&self.query, call.span, name);
                }
            }
            RangeFn::QuantileOverTime if self.noted.is_none() => {
                self.noted = Some(String::new());
                warn_quantiles(&self.query, call.params[0].1, &self.first);
            }
            _ => {}
        }
    }
}

/// Fills `weights` with how many samples each mean adds to a window. Of a bucket that is longer than the window, which is only
/// read where nothing finer is left, that is a part.
fn fill_weights(spec: &ScanSpec, ts: &[i64], counts: &[u32], weights: &mut Vec<f64>) {
    weights.clear();
    weights.extend(counts.iter().map(|n| f64::from(*n)));
    if !spec.selection.is_too_coarse() {
        return;
    }
    let (resolution_ms, range_ms) = (spec.selection.resolution_ms(), spec.windows.range_ms);
    for (i, weight) in weights.iter_mut().enumerate().filter(|(_, weight)| **weight > 1.0) {
        // There may be buckets of several lengths; the distance of samples tells them apart.
        let neighbour = if i > 0 { i - 1 } else { 1 };
        let distance_ms = ts.get(neighbour).map_or(resolution_ms, |t| (t - ts[i]).abs().clamp(1, resolution_ms));
        *weight *= (range_ms as f64 / distance_ms as f64).min(1.0);
    }
}

/// How much of a result over `wide_ms` counts for the range that was asked for: amounts grow with the range.
fn amount_share(spec: &ScanSpec, wide_ms: i64) -> f64 {
    let ScanFunction::Range(call) = &spec.function else {
        return 1.0;
    };
    match call.function {
        RangeFn::Increase | RangeFn::Delta | RangeFn::Changes | RangeFn::Resets | RangeFn::SumOverTime | RangeFn::CountOverTime => {
            call.range_ms as f64 / wide_ms as f64
        }
        _ => 1.0,
    }
}

/// Gives histograms without a hint on resets one.
fn detect_resets(histograms: &mut [(u32, Arc<FloatHistogram>)]) {
    for i in (1..histograms.len()).rev() {
        if histograms[i].1.reset_hint == ResetHint::Unknown {
            let reset = histograms[i].1.detect_reset(&histograms[i - 1].1);
            Arc::make_mut(&mut histograms[i].1).reset_hint = if reset { ResetHint::Yes } else { ResetHint::No };
        }
    }
}

/// The values of scalar arguments: those known, and the next of `inputs` for the others.
pub fn resolve<'a>(params: impl Iterator<Item = &'a Param>, inputs: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let mut inputs = inputs.into_iter();
    params
        .map(|param| match param {
            Param::Known(values) => values.clone(),
            Param::Input => inputs.next().unwrap_or_default(),
        })
        .collect()
}

/// Notes a name that is not that of a counter.
pub fn note_counter_name(query: &QueryContext, span: crate::promql::ast::Span, name: &str) {
    if !name.is_empty() && !COUNTER_ENDINGS.iter().any(|ending| name.ends_with(ending)) {
        query.info(span, format_args!("metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {name:?}"));
    }
}

/// Warns of quantiles outside of 0 to 1.
pub fn warn_quantiles(query: &QueryContext, span: crate::promql::ast::Span, quantiles: &[f64]) {
    for q in quantiles.iter().filter(|q| !(0.0..=1.0).contains(*q) && !isobar_block::is_stale(**q)) {
        query.warn(span, format_args!("quantile value should be between 0 and 1, got {}", go_float(*q)));
    }
}
