//! Native histograms: exponential buckets (schema −4…8) and custom buckets (schema −53).
//!
//! The shape is that of Prometheus's remote write messages; counts are absolute, not deltas.

mod buckets;

pub use buckets::{Bucket, bucket_numbers, upper_bound};

/// Schema number of a histogram with custom bucket bounds.
pub const CUSTOM_BUCKETS_SCHEMA: i32 = -53;

/// What the sender says of a counter reset before this sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ResetHint {
    /// Nothing is known: compare with the sample before.
    #[default]
    Unknown,
    /// The counter was reset.
    Yes,
    /// The counter was not reset.
    No,
    /// The histogram is a gauge; resets have no meaning.
    Gauge,
}

/// A run of buckets: `length` of them, `offset` buckets after the end of the run before (or from bucket 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// Gap to the run before; may be negative in the first span only.
    pub offset: i32,
    /// Number of buckets.
    pub length: u32,
}

/// Observations per bucket, absolute. Integers are kept as integers, since f64 is exact up to 2^53 only.
#[derive(Clone, Debug, PartialEq)]
pub enum Counts {
    /// Of an integer histogram.
    Integer {
        /// All observations.
        count: u64,
        /// Observations in the zero bucket.
        zero: u64,
        /// One for each positive bucket in the spans.
        positive: Vec<u64>,
        /// One for each negative bucket in the spans.
        negative: Vec<u64>,
    },
    /// Of a float histogram.
    Float {
        /// All observations.
        count: f64,
        /// Observations in the zero bucket.
        zero: f64,
        /// One for each positive bucket in the spans.
        positive: Vec<f64>,
        /// One for each negative bucket in the spans.
        negative: Vec<f64>,
    },
}

/// One native histogram sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Reset hint of the sender.
    pub reset_hint: ResetHint,
    /// Resolution: bucket bounds grow by 2^(2^−schema), or [`CUSTOM_BUCKETS_SCHEMA`].
    pub schema: i32,
    /// Width of the zero bucket.
    pub zero_threshold: f64,
    /// Sum of observations; the stale marker where the series ends.
    pub sum: f64,
    /// Runs of positive buckets.
    pub positive_spans: Vec<Span>,
    /// Runs of negative buckets.
    pub negative_spans: Vec<Span>,
    /// Upper bounds, for custom buckets only; ascending, without +Inf.
    pub custom_bounds: Vec<f64>,
    /// How many observations fell where.
    pub counts: Counts,
}

impl Histogram {
    /// Checks what a receiver must not accept: bucket numbers that do not fit the spans, an unknown schema, negative
    /// counts, bounds that do not ascend.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] with the rule that does not hold.
    pub fn validate(&self) -> crate::Result<()> {
        let refuse = |reason: String| Err(crate::Error::invalid("native histogram", reason));
        let custom = self.schema == CUSTOM_BUCKETS_SCHEMA;
        if !custom && !(-4..=8).contains(&self.schema) {
            return refuse(format!("schema {} is not one of -4 to 8 and -53", self.schema));
        }
        if custom && !self.custom_bounds.windows(2).all(|w| w[0] < w[1]) {
            return refuse("custom bounds do not ascend".into());
        }
        if !custom && !self.custom_bounds.is_empty() {
            return refuse(format!("custom bounds with schema {}", self.schema));
        }
        let (positive, negative) = match &self.counts {
            Counts::Integer { positive, negative, .. } => (positive.len(), negative.len()),
            Counts::Float { count, zero, positive, negative } => {
                if *count < 0.0 || *zero < 0.0 || positive.iter().chain(negative).any(|c| *c < 0.0) {
                    return refuse("a count is negative".into());
                }
                (positive.len(), negative.len())
            }
        };
        for (side, spans, buckets) in [("positive", &self.positive_spans, positive), ("negative", &self.negative_spans, negative)] {
            let in_spans: u64 = spans.iter().map(|s| u64::from(s.length)).sum();
            if in_spans != buckets as u64 {
                return refuse(format!("{side} spans hold {in_spans} buckets, but {buckets} counts were given"));
            }
            if spans.iter().skip(1).any(|s| s.offset < 0) {
                return refuse(format!("a {side} span after the first has a negative offset"));
            }
        }
        if custom && (negative > 0 || positive as u64 > self.custom_bounds.len() as u64 + 1) {
            return refuse("more buckets than custom bounds".into());
        }
        Ok(())
    }

    /// All observations, as a float.
    pub fn count(&self) -> f64 {
        match &self.counts {
            Counts::Integer { count, .. } => *count as f64,
            Counts::Float { count, .. } => *count,
        }
    }
}
