//! The metrics of the write path itself.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::decoded::WriteOutcome;

/// Protocol of a write request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Remote write 1.0.
    RemoteWrite1,
    /// Remote write 2.0.
    RemoteWrite2,
    /// A remote write whose media type is not known.
    RemoteWriteUnknown,
    /// OTLP over HTTP.
    Otlp,
}

impl EncodeLabelValue for Protocol {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let word = match self {
            Self::RemoteWrite1 => "remote_write_1.0",
            Self::RemoteWrite2 => "remote_write_2.0",
            Self::RemoteWriteUnknown => "remote_write",
            Self::Otlp => "otlp",
        };
        EncodeLabelValue::encode(&word, encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    protocol: Protocol,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProtocolLabel {
    protocol: Protocol,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug)]
struct RequestSeconds;

impl MetricConstructor<Histogram> for RequestSeconds {
    fn new_metric(&self) -> Histogram {
        Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
    }
}

/// The metrics; clones share them.
#[derive(Clone, Debug)]
pub struct WriteMetrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<ProtocolLabel, Histogram, RequestSeconds>,
    written: Family<KindLabel, Counter>,
    rejected: Family<ReasonLabel, Counter>,
    received_bytes: Counter,
    pub(crate) inflight_requests: Gauge,
    pub(crate) inflight_bytes: Gauge,
}

impl WriteMetrics {
    /// Makes the metrics and registers them under names that begin with `isobar_`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(RequestSeconds),
            written: Family::default(),
            rejected: Family::default(),
            received_bytes: Counter::default(),
            inflight_requests: Gauge::default(),
            inflight_bytes: Gauge::default(),
        };
        registry.register("isobar_write_requests", "Write requests by protocol and status code.", metrics.requests.clone());
        registry.register(
            "isobar_write_request_duration_seconds",
            "Time from the headers of a write request to its answer.",
            metrics.seconds.clone(),
        );
        registry.register(
            "isobar_ingest_written",
            "Samples, histograms and exemplars that were stored; exact repeats count.",
            metrics.written.clone(),
        );
        registry.register(
            "isobar_ingest_rejected",
            "Samples, histograms and exemplars that were refused, by reason.",
            metrics.rejected.clone(),
        );
        registry.register("isobar_write_received_bytes", "Bytes of write request bodies as received.", metrics.received_bytes.clone());
        registry.register("isobar_write_inflight_requests", "Write requests that are being served.", metrics.inflight_requests.clone());
        registry.register(
            "isobar_write_inflight_bytes",
            "Memory accounted to write requests that are being served.",
            metrics.inflight_bytes.clone(),
        );
        metrics
    }

    pub(crate) fn finish(&self, protocol: Protocol, code: u16, took: Duration) {
        self.requests.get_or_create(&RequestLabels { protocol, code }).inc();
        self.seconds.get_or_create(&ProtocolLabel { protocol }).observe(took.as_secs_f64());
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.received_bytes.inc_by(bytes as u64);
    }

    pub(crate) fn outcome(&self, outcome: &WriteOutcome) {
        for (kind, count) in
            [("sample", outcome.samples_written), ("histogram", outcome.histograms_written), ("exemplar", outcome.exemplars_written)]
        {
            self.written.get_or_create(&KindLabel { kind }).inc_by(count);
        }
        for &(reason, count) in outcome.rejected.counts() {
            self.rejected.get_or_create(&ReasonLabel { reason }).inc_by(count);
        }
    }
}
