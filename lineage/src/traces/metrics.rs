//! What is counted of spans, of all tenants together.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::pairing::Counts;

/// The kind of a span.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

/// Why something was left out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// A request's way in and the status of its answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabel {
    protocol: &'static str,
    code: u16,
}

/// The metrics; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    requests: Family<RequestLabel, Counter>,
    spans: Family<KindLabel, Counter>,
    pairs: Counter,
    unpaired: Family<KindLabel, Counter>,
    dropped: Family<ReasonLabel, Counter>,
    waiting: Gauge,
    edges: Gauge,
    facts: Counter,
    failures: Family<ReasonLabel, Counter>,
}

impl Metrics {
    /// Registers it.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("isobar_lineage_traces");
        registry.register("requests", "Requests with spans, by protocol and status of the answer", self.requests.clone());
        registry.register("spans", "Spans that were received, by kind", self.spans.clone());
        registry.register("pairs", "Calls and messages of which both sides were received", self.pairs.clone());
        registry.register("unpaired", "Spans that no span of the other side has come for in time, by kind", self.unpaired.clone());
        registry.register("dropped", "Spans, nodes and edges that were left out, by reason", self.dropped.clone());
        registry.register("waiting", "Ids of spans that wait for the other side", self.waiting.clone());
        registry.register("edges", "Edges that spans have shown lately", self.edges.clone());
        registry.register("facts", "Facts that were written to the lineage", self.facts.clone());
        registry.register("write_failures", "Reports that could not be written, by what was to be written", self.failures.clone());
    }

    /// Counts what became of spans.
    pub(super) fn count(&self, c: &Counts) {
        let others = c.received - (c.servers + c.clients + c.producers + c.consumers).min(c.received);
        for (kind, n) in
            [("server", c.servers), ("client", c.clients), ("producer", c.producers), ("consumer", c.consumers), ("other", others)]
        {
            if n > 0 {
                self.spans.get_or_create(&KindLabel { kind }).inc_by(n);
            }
        }
        self.pairs.inc_by(c.pairs);
        for (kind, n) in [("client", c.unpaired_clients), ("server", c.unpaired_servers)] {
            if n > 0 {
                self.unpaired.get_or_create(&KindLabel { kind }).inc_by(n);
            }
        }
        for (reason, n) in [
            ("invalid", c.invalid),
            ("out_of_time", c.out_of_time),
            ("no_service_name", c.nameless),
            ("max_waiting", c.crowded_out),
            ("max_edges", c.no_room),
            ("repeated", c.repeated),
        ] {
            if n > 0 {
                self.dropped.get_or_create(&ReasonLabel { reason }).inc_by(n);
            }
        }
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, protocol: &'static str, code: u16) {
        self.requests.get_or_create(&RequestLabel { protocol, code }).inc();
    }

    /// Says how much there is now.
    pub(super) fn sizes(&self, waiting: usize, edges: usize) {
        self.waiting.set(waiting as i64);
        self.edges.set(edges as i64);
    }

    /// Counts facts that were written.
    pub(super) fn wrote(&self, facts: usize) {
        self.facts.inc_by(facts as u64);
    }

    /// Counts a report that was not written.
    pub(super) fn failed(&self, what: &'static str) {
        self.failures.get_or_create(&ReasonLabel { reason: what }).inc();
    }
}
