//! What the outer half of this crate (HTTP, wire formats) hands to the inner half (WAL, head): one request, decoded into
//! flat vectors, and what became of it.
//!
//! The hot path hashes the label bytes of a series as they are and finds the series by them; only the first sight of a
//! label set pays for [`DecodedRequest::canonical_labels`]. Limits on labels are checked there too, by the sink.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use isobar_block::histogram::Counts;
use isobar_block::{Exemplar, Histogram, Labels, Metadata, TenantId};

use crate::wire::v1;

/// One request, decoded into flat vectors that are reused between requests.
#[derive(Debug, Default)]
pub struct DecodedRequest {
    /// The series, in the order of the request. The same label set may appear more than once.
    pub series: Vec<DecodedSeries>,
    /// Holds the label bytes of all series. Other bytes of the request may lie between them.
    pub label_bytes: Vec<u8>,
    /// Float samples of all series, in the order of the request.
    pub samples: Vec<Sample>,
    /// Native histograms of all series with their timestamps in Unix milliseconds; they have passed [`Histogram::validate`].
    pub histograms: Vec<(i64, Histogram)>,
    /// Exemplars of all series.
    pub exemplars: Vec<Exemplar>,
    /// Metadata by metric family, each family once per distinct metadata.
    pub metadata: Vec<(String, Metadata)>,
    /// Series, or parts of them, that were refused during decoding. The sink counts them into [`WriteOutcome::rejected`].
    pub rejected: Vec<Rejection>,
}

/// One float sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When, Unix milliseconds.
    pub timestamp_ms: i64,
    /// The value, bit for bit as sent.
    pub value: f64,
}

/// One series of a [`DecodedRequest`]: ranges into its vectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedSeries {
    /// Its label bytes in [`DecodedRequest::label_bytes`].
    pub labels: Range<u32>,
    /// What those bytes are.
    pub form: LabelForm,
    /// Its part of [`DecodedRequest::samples`].
    pub samples: Range<u32>,
    /// Its part of [`DecodedRequest::histograms`].
    pub histograms: Range<u32>,
    /// Its part of [`DecodedRequest::exemplars`].
    pub exemplars: Range<u32>,
    /// Its entry in [`DecodedRequest::metadata`], if the request has one for this series.
    pub metadata: Option<u32>,
    /// When the counters of this series started, Unix milliseconds; 0 if the sender does not say.
    pub created_ms: i64,
}

/// Encoding of the label bytes of one series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LabelForm {
    /// The repeated `Label` fields of remote write 1.0, exactly as on the wire and not checked yet: `0x0A len label …`.
    Wire,
    /// The canonical bytes of [`Labels`]; checked, and a metric name is among them.
    Canonical,
}

impl DecodedRequest {
    /// Empties all vectors and keeps their memory.
    pub fn clear(&mut self) {
        self.series.clear();
        self.label_bytes.clear();
        self.samples.clear();
        self.histograms.clear();
        self.exemplars.clear();
        self.metadata.clear();
        self.rejected.clear();
    }

    /// Whether there is nothing to store and nothing to refuse.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty() && self.metadata.is_empty() && self.rejected.is_empty()
    }

    /// About the memory that the request takes.
    pub fn size_bytes(&self) -> usize {
        let spans = |h: &Histogram| 8 * (h.positive_spans.len() + h.negative_spans.len() + h.custom_bounds.len());
        let buckets = |h: &Histogram| match &h.counts {
            Counts::Integer { positive, negative, .. } => 8 * (positive.len() + negative.len()),
            Counts::Float { positive, negative, .. } => 8 * (positive.len() + negative.len()),
        };
        let histograms: usize = self.histograms.iter().map(|(_, h)| size_of::<(i64, Histogram)>() + spans(h) + buckets(h)).sum();
        let exemplars: usize = self.exemplars.iter().map(|e| size_of::<Exemplar>() + e.labels.as_bytes().len()).sum();
        let metadata: usize =
            self.metadata.iter().map(|(name, m)| size_of::<(String, Metadata)>() + name.len() + m.help.len() + m.unit.len()).sum();
        let rejected: usize = self.rejected.iter().map(|r| size_of::<Rejection>() + r.series.len()).sum();
        self.label_bytes.len()
            + self.series.len() * size_of::<DecodedSeries>()
            + self.samples.len() * size_of::<Sample>()
            + histograms
            + exemplars
            + metadata
            + rejected
    }

    /// The label bytes of a series, to be hashed.
    ///
    /// # Panics
    /// If `series` belongs to another request.
    #[inline]
    pub fn label_bytes_of(&self, series: &DecodedSeries) -> &[u8] {
        &self.label_bytes[series.labels.start as usize..series.labels.end as usize]
    }

    /// The float samples of a series.
    ///
    /// # Panics
    /// If `series` belongs to another request.
    #[inline]
    pub fn samples_of(&self, series: &DecodedSeries) -> &[Sample] {
        &self.samples[series.samples.start as usize..series.samples.end as usize]
    }

    /// The native histograms of a series.
    ///
    /// # Panics
    /// If `series` belongs to another request.
    #[inline]
    pub fn histograms_of(&self, series: &DecodedSeries) -> &[(i64, Histogram)] {
        &self.histograms[series.histograms.start as usize..series.histograms.end as usize]
    }

    /// The exemplars of a series.
    ///
    /// # Panics
    /// If `series` belongs to another request.
    #[inline]
    pub fn exemplars_of(&self, series: &DecodedSeries) -> &[Exemplar] {
        &self.exemplars[series.exemplars.start as usize..series.exemplars.end as usize]
    }

    /// The labels of a series; the slow path of the first sight of a label set.
    ///
    /// # Errors
    /// As [`canonicalize_wire`]; a series in [`LabelForm::Canonical`] has passed already.
    pub fn canonical_labels(&self, series: &DecodedSeries) -> Result<Labels, RejectReason> {
        let bytes = self.label_bytes_of(series);
        match series.form {
            LabelForm::Wire => canonicalize_wire(bytes),
            LabelForm::Canonical => Labels::from_bytes(bytes).map_err(|e| RejectReason::InvalidLabels { rule: e.to_string() }),
        }
    }

    /// The name of a series for a message, also where its labels are not valid.
    pub fn describe(&self, series: &DecodedSeries) -> String {
        let bytes = self.label_bytes_of(series);
        match (series.form, self.canonical_labels(series)) {
            (_, Ok(labels)) => shorten(&labels.to_string()),
            (LabelForm::Wire, Err(_)) => v1::describe_labels(bytes),
            (LabelForm::Canonical, Err(_)) => shorten(&String::from_utf8_lossy(bytes)),
        }
    }
}

/// Parses label fields in [`LabelForm::Wire`] into their canonical form: sorts them where they are not sorted and leaves out
/// labels with empty values.
///
/// # Errors
/// A [`RejectReason`] if a name or value is not UTF-8, a name is empty or occurs twice, there is no metric name, or the
/// bytes are not label fields.
pub fn canonicalize_wire(bytes: &[u8]) -> Result<Labels, RejectReason> {
    v1::canonicalize(bytes)
}

/// Why a series, sample, histogram or exemplar is not stored. `Display` says it to a person, without the series' name;
/// [`RejectReason::code`] is the value of the `reason` label of the rejection metrics.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RejectReason {
    /// There is no `__name__`.
    #[error("it has no metric name; set the label __name__")]
    MissingMetricName,
    /// A label name occurs twice.
    #[error("label {name:?} occurs twice")]
    DuplicateLabel {
        /// The label's name.
        name: String,
    },
    /// A label name is empty.
    #[error("a label name is empty")]
    EmptyLabelName,
    /// A label is not UTF-8.
    #[error("a label name or value is not UTF-8")]
    InvalidUtf8,
    /// The labels break another rule of the format.
    #[error("its labels cannot be read: {rule}")]
    InvalidLabels {
        /// The rule.
        rule: String,
    },
    /// More labels than `max_label_names_per_series`.
    #[error("it has {count} labels, max_label_names_per_series is {allowed}")]
    TooManyLabels {
        /// Labels of the series.
        count: usize,
        /// The limit.
        allowed: usize,
    },
    /// A label name is longer than `max_label_name_length`.
    #[error("label name {name:?} has {length_bytes} bytes, max_label_name_length is {allowed_bytes}")]
    LabelNameTooLong {
        /// The beginning of the name.
        name: String,
        /// Its length.
        length_bytes: usize,
        /// The limit.
        allowed_bytes: usize,
    },
    /// A label value is longer than `max_label_value_length`.
    #[error("the value of label {name:?} has {length_bytes} bytes, max_label_value_length is {allowed_bytes}")]
    LabelValueTooLong {
        /// The label's name.
        name: String,
        /// Length of the value.
        length_bytes: usize,
        /// The limit.
        allowed_bytes: usize,
    },
    /// The sample is older than the out-of-order window allows.
    #[error("its sample at {timestamp_ms} ms is too old, samples from {oldest_ms} ms on are accepted (out_of_order_time_window)")]
    TooOld {
        /// Time of the sample, Unix milliseconds.
        timestamp_ms: i64,
        /// Oldest time that is accepted, Unix milliseconds.
        oldest_ms: i64,
    },
    /// The sample lies further in the future than `creation_grace_period`.
    #[error("its sample at {timestamp_ms} ms is too far in the future, samples until {newest_ms} ms are accepted (creation_grace_period)")]
    TooFarInFuture {
        /// Time of the sample, Unix milliseconds.
        timestamp_ms: i64,
        /// Newest time that is accepted, Unix milliseconds.
        newest_ms: i64,
    },
    /// The series has another value at this timestamp already.
    #[error("it has another value at {timestamp_ms} ms already")]
    DuplicateTimestamp {
        /// Time of the sample, Unix milliseconds.
        timestamp_ms: i64,
    },
    /// The tenant has as many active series as `max_active_series` allows.
    #[error("the tenant has {allowed} active series, which max_active_series allows; drop labels at the sender or raise the limit")]
    SeriesLimit {
        /// The limit.
        allowed: u64,
    },
    /// A native histogram breaks a rule.
    #[error("its native histogram at {timestamp_ms} ms is not valid: {rule}")]
    InvalidHistogram {
        /// Time of the sample, Unix milliseconds.
        timestamp_ms: i64,
        /// The rule.
        rule: String,
    },
    /// A series of remote write 2.0 has both samples and histograms, or neither.
    #[error("it must hold samples or histograms, and not both")]
    MixedOrNoSamples,
    /// A reference of remote write 2.0 points outside of the symbol table, or the number of references is odd.
    #[error("its symbol references are not valid: {rule}")]
    InvalidSymbolRefs {
        /// The rule.
        rule: String,
    },
    /// An OTLP metric with delta temporality.
    #[error(
        "delta temporality is not supported; send cumulative values, for example through the deltatocumulative processor of the collector"
    )]
    DeltaTemporality,
    /// An OTLP data point cannot be stored.
    #[error("its OTLP data point is not valid: {rule}")]
    InvalidDataPoint {
        /// The rule.
        rule: String,
    },
    /// An exemplar is older than the newest one of its series.
    #[error("its exemplar at {timestamp_ms} ms is out of order")]
    ExemplarOutOfOrder {
        /// Time of the exemplar, Unix milliseconds.
        timestamp_ms: i64,
    },
    /// An exemplar's labels are not valid or too long.
    #[error("its exemplar at {timestamp_ms} ms is not valid: {rule}")]
    InvalidExemplar {
        /// Time of the exemplar, Unix milliseconds.
        timestamp_ms: i64,
        /// The rule.
        rule: String,
    },
}

impl RejectReason {
    /// The value of the metrics' label `reason`. Stable.
    pub fn code(&self) -> &'static str {
        match self {
            Self::MissingMetricName => "missing_metric_name",
            Self::DuplicateLabel { .. } => "duplicate_label_name",
            Self::EmptyLabelName => "empty_label_name",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::InvalidLabels { .. } => "invalid_labels",
            Self::TooManyLabels { .. } => "max_label_names_per_series",
            Self::LabelNameTooLong { .. } => "label_name_too_long",
            Self::LabelValueTooLong { .. } => "label_value_too_long",
            Self::TooOld { .. } => "too_old",
            Self::TooFarInFuture { .. } => "too_far_in_future",
            Self::DuplicateTimestamp { .. } => "duplicate_timestamp",
            Self::SeriesLimit { .. } => "per_tenant_series_limit",
            Self::InvalidHistogram { .. } => "invalid_histogram",
            Self::MixedOrNoSamples => "mixed_or_no_samples",
            Self::InvalidSymbolRefs { .. } => "invalid_symbol_refs",
            Self::DeltaTemporality => "delta_temporality",
            Self::InvalidDataPoint { .. } => "invalid_data_point",
            Self::ExemplarOutOfOrder { .. } => "exemplar_out_of_order",
            Self::InvalidExemplar { .. } => "invalid_exemplar",
        }
    }

    /// Whether this is about an exemplar, which remote write 1.0 never fails for.
    pub fn is_exemplar(&self) -> bool {
        matches!(self, Self::ExemplarOutOfOrder { .. } | Self::InvalidExemplar { .. })
    }
}

/// A series, or a part of one, that was refused during decoding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejection {
    /// Name of the series, for the message; shortened.
    pub series: String,
    /// Why.
    pub reason: RejectReason,
    /// Samples, histograms or exemplars that are lost by it; 1 at least, so that a refused series without any is told too.
    pub count: u64,
}

/// What was refused of a request: counts by reason and the first few messages. Its size does not grow with the request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RejectSummary {
    counts: Vec<(&'static str, u64)>,
    messages: Vec<String>,
    non_exemplar: u64,
}

impl RejectSummary {
    /// Messages that are kept.
    pub const MAX_MESSAGES: usize = 5;

    /// Counts `count` refused elements; `series` is called only if the message is kept.
    pub fn add(&mut self, reason: &RejectReason, count: u64, series: impl FnOnce() -> String) {
        match self.counts.iter_mut().find(|(code, _)| *code == reason.code()) {
            Some((_, total)) => *total += count,
            None => self.counts.push((reason.code(), count)),
        }
        if !reason.is_exemplar() {
            self.non_exemplar += count;
        }
        if self.messages.len() < Self::MAX_MESSAGES {
            self.messages.push(format!("{}: {reason}", series()));
        }
    }

    /// Counts what was refused during decoding.
    pub fn add_rejections(&mut self, rejections: &[Rejection]) {
        for rejection in rejections {
            self.add(&rejection.reason, rejection.count, || rejection.series.clone());
        }
    }

    /// Refused elements by [`RejectReason::code`].
    pub fn counts(&self) -> &[(&'static str, u64)] {
        &self.counts
    }

    /// The first messages.
    pub fn messages(&self) -> &[String] {
        &self.messages
    }

    /// All refused elements.
    pub fn total(&self) -> u64 {
        self.counts.iter().map(|(_, n)| n).sum()
    }

    /// Refused elements other than exemplars.
    pub fn total_without_exemplars(&self) -> u64 {
        self.non_exemplar
    }

    /// Whether nothing was refused.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

impl fmt::Display for RejectSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} refused (", self.total())?;
        for (i, (code, count)) in self.counts.iter().enumerate() {
            write!(f, "{}{code}: {count}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str(")")?;
        for message in &self.messages {
            write!(f, "\n{message}")?;
        }
        Ok(())
    }
}

/// What became of a request. Exact repeats of what is stored count as written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WriteOutcome {
    /// Float samples that are stored.
    pub samples_written: u64,
    /// Native histograms that are stored.
    pub histograms_written: u64,
    /// Exemplars that are stored.
    pub exemplars_written: u64,
    /// What is not stored, [`DecodedRequest::rejected`] included.
    pub rejected: RejectSummary,
}

/// Why a request was not stored, or not completely. Sending it again is harmless, as exact repeats are no-ops.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A rate or quota of the tenant: 429.
    #[error("{limit} of {allowed} is exceeded for tenant {tenant}; send less or raise the limit")]
    TooManyRequests {
        /// The limit's name in the configuration.
        limit: &'static str,
        /// What it allows.
        allowed: u64,
        /// Whose limit it is.
        tenant: TenantId,
        /// When trying again makes sense.
        retry_after: Duration,
        /// What was stored before.
        outcome: Box<WriteOutcome>,
    },
    /// The store cannot take data now, and nothing may be lost: 503.
    #[error("{reason}")]
    Unavailable {
        /// Why, naming the limit or the disk.
        reason: String,
        /// When trying again makes sense.
        retry_after: Duration,
        /// What was stored before.
        outcome: Box<WriteOutcome>,
    },
    /// A defect or a failing disk: 500, and the sender tries again.
    #[error("internal error: {reason}")]
    Internal {
        /// What happened.
        reason: String,
        /// What was stored before.
        outcome: Box<WriteOutcome>,
    },
}

impl WriteError {
    /// What was stored before the error.
    pub fn outcome(&self) -> &WriteOutcome {
        match self {
            Self::TooManyRequests { outcome, .. } | Self::Unavailable { outcome, .. } | Self::Internal { outcome, .. } => outcome,
        }
    }

    /// When trying again makes sense, if the sender is told.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyRequests { retry_after, .. } | Self::Unavailable { retry_after, .. } => Some(*retry_after),
            Self::Internal { .. } => None,
        }
    }
}

/// Where decoded requests go: the ingester, and in tests a sink with faults.
#[async_trait]
pub trait WriteSink: Send + Sync {
    /// Stores the good part of a request. When this returns `Ok`, everything that the outcome counts as written survives a
    /// crash of the process and a loss of power.
    ///
    /// Cancellation: a dropped future may have stored anything between nothing and all of the request.
    ///
    /// # Errors
    /// A [`WriteError`] that says whether and when sending the same request again helps.
    async fn write(&self, tenant: &TenantId, request: DecodedRequest) -> Result<WriteOutcome, WriteError>;
}

/// At most about 400 bytes of a name, so that messages stay short whatever a sender sends.
pub(crate) fn shorten(text: &str) -> String {
    const MAX_BYTES: usize = 400;
    if text.len() <= MAX_BYTES {
        return text.to_owned();
    }
    let mut end = MAX_BYTES;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}
