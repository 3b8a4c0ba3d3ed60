//! What is counted about alerts and impacts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::model::{Assessment, Reason, State, Via};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Received {
    via: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Sent {
    target: String,
    outcome: &'static str,
}

/// The metrics; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    received: Family<Received, Counter>,
    refused: Counter,
    assessments: Family<Why, Counter>,
    seconds: Histogram,
    request_seconds: Histogram,
    sent: Family<Sent, Counter>,
    pub(super) failures: Counter,
    pub(super) open: Gauge,
    pub(super) unmatched: Gauge,
    pub(super) unmatched_dropped: Gauge,
    pub(super) waiting: Gauge,
    pub(super) series: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]);
        Self {
            received: Family::default(),
            refused: Counter::default(),
            assessments: Family::default(),
            seconds: seconds(),
            request_seconds: seconds(),
            sent: Family::default(),
            failures: Counter::default(),
            open: Gauge::default(),
            unmatched: Gauge::default(),
            unmatched_dropped: Gauge::default(),
            waiting: Gauge::default(),
            series: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Registers it.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("isobar_alerts_received", "Alerts that were posted, by interface and status.", self.received.clone());
        registry.register("isobar_alerts_refused", "Requests with alerts that were refused as wrong.", self.refused.clone());
        registry.register("isobar_alerts_assessments", "Assessments of impacts, by why they were made.", self.assessments.clone());
        registry.register("isobar_alerts_assessment_duration_seconds", "Time that one assessment took.", self.seconds.clone());
        let request_help = "Time from the headers of a request with alerts until they are assessed, stored and acknowledged.";
        registry.register("isobar_alerts_request_duration_seconds", request_help, self.request_seconds.clone());
        registry.register("isobar_alerts_notifications", "Messages about impacts, by receiver and outcome.", self.sent.clone());
        registry.register("isobar_alerts_failures", "Background work on impacts that failed and is tried again.", self.failures.clone());
        registry.register("isobar_alerts_open_impacts", "Groups of alerts that fire.", self.open.clone());
        registry.register("isobar_alerts_unmatched", "Alerts that no rule has found a node for.", self.unmatched.clone());
        let dropped_help = "Alerts without a node that were dropped because their queue was full.";
        registry.register("isobar_alerts_unmatched_dropped", dropped_help, self.unmatched_dropped.clone());
        registry.register("isobar_alerts_notifications_waiting", "Messages about impacts that wait to be sent.", self.waiting.clone());
        registry.register("isobar_alerts_series", "Series about impacts that are written.", self.series.clone());
    }

    pub(crate) fn received(&self, via: Via, state: State) {
        let via = match via {
            Via::Webhook => "webhook",
            Via::Api => "api",
        };
        let status = match state {
            State::Firing => "firing",
            State::Resolved => "resolved",
        };
        self.received.get_or_create(&Received { via, status }).inc();
    }

    pub(crate) fn refused(&self) {
        self.refused.inc();
    }

    pub(crate) fn answered(&self, seconds: f64) {
        self.request_seconds.observe(seconds);
    }

    pub(super) fn assessed(&self, reason: Reason, assessment: &Assessment) {
        let reason = match reason {
            Reason::Posted => "posted",
            Reason::Changed => "changed",
            Reason::Interval => "interval",
        };
        self.assessments.get_or_create(&Why { reason }).inc();
        self.seconds.observe(assessment.took_ms / 1e3);
    }

    pub(super) fn sent(&self, target: &str, outcome: &'static str) {
        self.sent.get_or_create(&Sent { target: target.to_owned(), outcome }).inc();
    }
}
