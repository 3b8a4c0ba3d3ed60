//! `histogram_quantile`, `histogram_quantiles` and `histogram_fraction`. Of classic histograms, rows that differ in the label
//! `le` only are the buckets of one histogram; native histograms are computed one by one.

use std::fmt;
use std::sync::Arc;

use hashbrown::HashMap;
use isobar_block::LabelsRef;

use super::annotate;
use super::cells::is_histogram;
use super::chunk::{ABSENT, Chunk, ChunkBuilder, labels_from_bytes, present};
use super::context::QueryContext;
use super::labels::{DROP_MARK, LabelRule, with_label};
use super::operator::{Operator, WholeWorker, Worker};
use super::scalar::{at_step, side_params};
use super::scan::{Param, warn_quantiles};
use crate::kernel::bucket::{Bucket, bucket_fraction, bucket_quantile};
use crate::kernel::histogram::FloatHistogram;
use crate::promql::ast::Span;
use crate::result::{Error, Result};

/// The label that holds a bucket's upper bound.
const BUCKET_LABEL: &str = "le";

/// A quantile, and where it stands.
pub type LabelledQuantile = (Param, Span);

/// One quantile, or several that a label tells apart.
#[derive(Debug)]
pub struct HistogramQuantiles {
    /// The label of `histogram_quantiles`.
    pub label: Option<String>,
    /// Which quantiles.
    pub quantiles: Vec<LabelledQuantile>,
    /// Length of the vectors.
    pub steps: usize,
    /// Where the histograms stand.
    pub span: Span,
}

impl Operator for HistogramQuantiles {
    fn name(&self) -> &'static str {
        "HistogramQuantileExec"
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "quantiles={}", self.quantiles.len())
    }

    fn steps(&self) -> usize {
        self.steps
    }

    fn start(&self, sides: Arc<Vec<Chunk>>, query: &Arc<QueryContext>) -> Result<Box<dyn Worker>> {
        let params: Vec<Param> = self.quantiles.iter().map(|(param, _)| param.clone()).collect();
        let quantiles = side_params(&params, &sides);
        for (values, (_, span)) in quantiles.iter().zip(&self.quantiles) {
            warn_quantiles(query, *span, values);
        }
        let (steps, span, label, query) = (self.steps, self.span, self.label.clone(), Arc::clone(query));
        let whole = Arc::clone(&query);
        let run =
            move |chunk: Chunk| {
                let mut out = ChunkBuilder::new(steps, 0);
                let mut buckets = Vec::new();
                for histogram in histograms(&chunk, span, &query) {
                    query.check_canceled()?;
                    let labels = labels_from_bytes(&histogram.labels);
                    let metric = labels.metric_name();
                    if label.as_deref().is_some_and(|label| labels.get(label).is_some()) {
                        return Err(Error::Execution(format!(
                            "label {} already exists in the histogram; use another label for the quantiles",
                            label.as_deref().unwrap_or_default()
                        )));
                    }
                    for q in &quantiles {
                        let mut forced = false;
                        let any = each_step(&chunk, &histogram, steps, &mut buckets, &mut out.values, (&query, span), |step, buckets| {
                            match buckets {
                                Buckets::Classic(buckets) => {
                                    let found = bucket_quantile(at_step(q, step), buckets);
                                    forced |= found.forced_monotonic.is_some();
                                    found.value
                                }
                                Buckets::Native(histogram) => {
                                    let found = histogram.quantile(at_step(q, step));
                                    if histogram.has_nan_observations() {
                                        let effect = if found.is_nan() { "result is NaN" } else { "result is skewed higher" };
                                        query.info(
                                            span,
                                            format_args!(
                                                "input to histogram_quantile has NaN observations, {effect} for metric name {metric:?}"
                                            ),
                                        );
                                    }
                                    found
                                }
                            }
                        });
                        if forced {
                            note_forced(&query, span, labels);
                        }
                        if !any {
                            out.discard_row();
                            continue;
                        }
                        match &label {
                            None => out.push_labels(labels),
                            Some(label) => {
                                let mut bytes = Vec::new();
                                with_label(labels, label, &open_metrics_float(at_step(q, 0)), &mut bytes);
                                out.push_labels(labels_from_bytes(&bytes));
                            }
                        }
                    }
                }
                Ok(out.finish())
            };
        Ok(Box::new(WholeWorker::new(steps, &whole, run)))
    }
}

/// The share of observations between two bounds.
#[derive(Debug)]
pub struct HistogramFraction {
    /// Lower and upper bound.
    pub params: Vec<Param>,
    /// Length of the vectors.
    pub steps: usize,
    /// Where the histograms stand.
    pub span: Span,
}

impl Operator for HistogramFraction {
    fn name(&self) -> &'static str {
        "HistogramFractionExec"
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("share between bounds")
    }

    fn steps(&self) -> usize {
        self.steps
    }

    fn start(&self, sides: Arc<Vec<Chunk>>, query: &Arc<QueryContext>) -> Result<Box<dyn Worker>> {
        let bounds = side_params(&self.params, &sides);
        let (steps, span, query) = (self.steps, self.span, Arc::clone(query));
        let whole = Arc::clone(&query);
        let run = move |chunk: Chunk| {
            let mut out = ChunkBuilder::new(steps, 0);
            let mut buckets = Vec::new();
            for histogram in histograms(&chunk, span, &query) {
                query.check_canceled()?;
                let metric = labels_from_bytes(&histogram.labels).metric_name();
                let any = each_step(&chunk, &histogram, steps, &mut buckets, &mut out.values, (&query, span), |step, buckets| {
                    let (lower, upper) = (at_step(&bounds[0], step), at_step(&bounds[1], step));
                    match buckets {
                        Buckets::Classic(buckets) => bucket_fraction(lower, upper, buckets),
                        Buckets::Native(histogram) => {
                            if histogram.has_nan_observations() {
                                let message = "input to histogram_fraction has NaN observations, which are excluded from all fractions for metric name";
                                query.info(span, format_args!("{message} {metric:?}"));
                            }
                            histogram.fraction(lower, upper)
                        }
                    }
                });
                if any {
                    out.push_labels(labels_from_bytes(&histogram.labels));
                } else {
                    out.discard_row();
                }
            }
            Ok(out.finish())
        };
        Ok(Box::new(WholeWorker::new(steps, &whole, run)))
    }
}

/// The rows with the buckets of one histogram, and those with native ones of the same labels.
struct HistogramRows {
    labels: Vec<u8>,
    /// Row and upper bound.
    buckets: Vec<(usize, f64)>,
    native: Vec<usize>,
}

/// A histogram at one step.
enum Buckets<'a> {
    Classic(&'a mut Vec<Bucket>),
    Native(&'a FloatHistogram),
}

/// Puts the rows of each histogram together; rows without a proper bound are left out, with a warning.
fn histograms(chunk: &Chunk, span: Span, query: &QueryContext) -> Vec<HistogramRows> {
    let (classic, native) = (LabelRule::dropping(&[], &[BUCKET_LABEL, DROP_MARK]), LabelRule::without_mark());
    let mut index: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut all: Vec<HistogramRows> = Vec::new();
    let mut rows_of = |rule: &LabelRule, labels: LabelsRef<'_>, all: &mut Vec<HistogramRows>| {
        let mut key = Vec::new();
        rule.apply(labels, &mut key);
        *index.entry(key).or_insert_with_key(|key| {
            all.push(HistogramRows { labels: key.clone(), buckets: Vec::new(), native: Vec::new() });
            all.len() - 1
        })
    };
    for row in 0..chunk.len() {
        let labels = chunk.labels(row);
        if !chunk.cells(row).is_empty() {
            let at = rows_of(&native, labels, &mut all);
            all[at].native.push(row);
        }
        if !chunk.row(row).iter().any(|v| is_float(*v)) {
            continue;
        }
        let text = labels.get(BUCKET_LABEL).unwrap_or("");
        let Some(bound) = parse_bound(text) else {
            query.warn(
                span,
                format_args!(
                    "bucket label \"le\" is missing or has a malformed value of {text:?} for metric name {:?}",
                    labels.metric_name()
                ),
            );
            continue;
        };
        let at = rows_of(&classic, labels, &mut all);
        all[at].buckets.push((row, bound));
    }
    all
}

fn parse_bound(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    // Rust reads a few words that Go does not, and the other way round.
    let word_is_known = !unsigned.starts_with(|c: char| c.is_ascii_alphabetic())
        || ["inf", "infinity", "nan"].iter().any(|w| unsigned.eq_ignore_ascii_case(w));
    text.parse().ok().filter(|_| word_is_known)
}

fn is_float(value: f64) -> bool {
    present(value) && !is_histogram(value)
}

/// Appends one value for each step to `out`. Returns whether there is one at any step.
fn each_step(
    chunk: &Chunk,
    histogram: &HistogramRows,
    steps: usize,
    buckets: &mut Vec<Bucket>,
    out: &mut Vec<f64>,
    (query, span): (&QueryContext, Span),
    mut compute: impl FnMut(usize, Buckets<'_>) -> f64,
) -> bool {
    let mut any = false;
    for step in 0..steps {
        buckets.clear();
        let counts = histogram.buckets.iter().map(|(row, bound)| Bucket { upper_bound: *bound, count: chunk.values[row * steps + step] });
        buckets.extend(counts.filter(|b| is_float(b.count)));
        let cell = |row: &usize| chunk.cells(*row).iter().find(|c| c.step as usize == step);
        let value = match (buckets.is_empty(), histogram.native.iter().find_map(cell)) {
            (true, None) => ABSENT,
            (false, None) => compute(step, Buckets::Classic(buckets)),
            (true, Some(cell)) => compute(step, Buckets::Native(&cell.histogram)),
            (false, Some(_)) => {
                annotate::mixed_classic_native(query, span, labels_from_bytes(&histogram.labels).metric_name());
                ABSENT
            }
        };
        any |= present(value);
        out.push(value);
    }
    any
}

fn note_forced(query: &QueryContext, span: Span, labels: LabelsRef<'_>) {
    query.info(
        span,
        format_args!(
            "input to histogram_quantile needed to be fixed for monotonicity (see https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile) for metric name {:?}",
            labels.metric_name()
        ),
    );
}

/// A float as OpenMetrics writes it in labels: always with a point or an exponent.
fn open_metrics_float(v: f64) -> String {
    let text = super::format::go_float(v);
    if text.contains(['.', 'e', 'I', 'N']) { text } else { format!("{text}.0") }
}
