//! `histogram_quantile`, `histogram_quantiles` and `histogram_fraction` of classic histograms: rows that differ in the label
//! `le` only are the buckets of one histogram.

use std::fmt;
use std::sync::Arc;

use hashbrown::HashMap;
use isobar_block::LabelsRef;

use super::chunk::{ABSENT, Chunk, ChunkBuilder, labels_from_bytes, present};
use super::context::QueryContext;
use super::labels::{DROP_MARK, LabelRule, with_label};
use super::operator::{Operator, WholeWorker, Worker};
use super::scalar::side_params;
use super::scan::{Param, warn_quantiles};
use crate::kernel::bucket::{Bucket, bucket_fraction, bucket_quantile};
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
        let run = move |chunk: Chunk| {
            let mut out = ChunkBuilder::new(steps, 0);
            let mut buckets = Vec::new();
            for histogram in histograms(&chunk, span, &query) {
                query.check_canceled()?;
                let labels = labels_from_bytes(&histogram.labels);
                if label.as_deref().is_some_and(|label| labels.get(label).is_some()) {
                    return Err(Error::Execution(format!("label {} already exists in the histogram; use another label for the quantiles", label.as_deref().unwrap_or_default())));
                }
                for q in &quantiles {
                    let mut forced = false;
                    let any = each_step(&chunk, &histogram, steps, &mut buckets, &mut out.values, |step, buckets| {
                        let found = bucket_quantile(at_step(q, step), buckets);
                        forced |= found.forced_monotonic.is_some();
                        found.value
                    });
                    if forced {
                        note_forced(&query, span, labels);
                    }
                    if !any {
                        out.values.truncate(out.len() * steps);
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
        Ok(Box::new(WholeWorker::new(steps, run)))
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
        let run = move |chunk: Chunk| {
            let mut out = ChunkBuilder::new(steps, 0);
            let mut buckets = Vec::new();
            for histogram in histograms(&chunk, span, &query) {
                query.check_canceled()?;
                let any = each_step(&chunk, &histogram, steps, &mut buckets, &mut out.values, |step, buckets| {
                    bucket_fraction(at_step(&bounds[0], step), at_step(&bounds[1], step), buckets)
                });
                if any {
                    out.push_labels(labels_from_bytes(&histogram.labels));
                } else {
                    out.values.truncate(out.len() * steps);
                }
            }
            Ok(out.finish())
        };
        Ok(Box::new(WholeWorker::new(steps, run)))
    }
}

/// The rows of one histogram with their upper bounds.
struct ClassicHistogram {
    labels: Vec<u8>,
    buckets: Vec<(usize, f64)>,
}

/// Puts the rows of each histogram together; rows without a proper bound are left out, with a warning.
fn histograms(chunk: &Chunk, span: Span, query: &QueryContext) -> Vec<ClassicHistogram> {
    let rule = LabelRule::dropping(&[], &[BUCKET_LABEL, DROP_MARK]);
    let mut index: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut all: Vec<ClassicHistogram> = Vec::new();
    for row in 0..chunk.len() {
        let labels = chunk.labels(row);
        let text = labels.get(BUCKET_LABEL).unwrap_or("");
        let Some(bound) = parse_bound(text) else {
            query.warn(span, format_args!("bucket label \"le\" is missing or has a malformed value of {text:?} for metric name {:?}", labels.metric_name()));
            continue;
        };
        let mut key = Vec::new();
        rule.apply(labels, &mut key);
        let at = *index.entry(key).or_insert_with_key(|key| {
            all.push(ClassicHistogram { labels: key.clone(), buckets: Vec::new() });
            all.len() - 1
        });
        all[at].buckets.push((row, bound));
    }
    all
}

fn parse_bound(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    // Rust reads a few words that Go does not, and the other way round.
    let word_is_known = !unsigned.starts_with(|c: char| c.is_ascii_alphabetic()) || ["inf", "infinity", "nan"].iter().any(|w| unsigned.eq_ignore_ascii_case(w));
    text.parse().ok().filter(|_| word_is_known)
}

/// Appends one value for each step to `out`. Returns whether the histogram has a bucket at any step.
fn each_step(
    chunk: &Chunk,
    histogram: &ClassicHistogram,
    steps: usize,
    buckets: &mut Vec<Bucket>,
    out: &mut Vec<f64>,
    mut compute: impl FnMut(usize, &mut Vec<Bucket>) -> f64,
) -> bool {
    let mut any = false;
    for step in 0..steps {
        buckets.clear();
        let counts = histogram.buckets.iter().map(|(row, bound)| Bucket { upper_bound: *bound, count: chunk.values[row * steps + step] });
        buckets.extend(counts.filter(|b| present(b.count)));
        any |= !buckets.is_empty();
        out.push(if buckets.is_empty() { ABSENT } else { compute(step, buckets) });
    }
    any
}

fn at_step(values: &[f64], step: usize) -> f64 {
    values.get(step).or(values.first()).copied().unwrap_or(f64::NAN)
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
