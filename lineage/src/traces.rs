//! Spans of OTLP become edges: client and server halves are paired, and spans are not stored.
//!
//! What is counted on an edge goes out every so often: as an event if the edge is new, says something else, or was not said for long,
//! and as series in the words of Tempo's service graph. So the log grows with the graph and not with the traffic. A half that nothing
//! comes for waits for a while, then it is counted: it is shown how much of the traffic could be paired.

mod wire;
mod json;
mod attributes;
mod sampling;
mod names;
mod sql;
mod share;
mod waiting;
mod graph;
mod pairing;
mod messages;
mod aliases;
mod report;
mod series;
mod status;
mod metrics;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use isobar_block::time;
use parking_lot::{Mutex, RwLock};
use regex::Regex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::event::MAX_TTL_MS;
use crate::mesh::span;
use crate::service::{Service, Tenant};
use crate::{Error, Result};
pub(crate) use json::to_protobuf as json_to_protobuf;
pub use metrics::Metrics;
use names::Renames;
use pairing::{Counts, Pairs, Terms};
pub(crate) use status::Status;

/// Longest time that a half may wait.
pub const MAX_WAIT_MS: i64 = 300_000;

/// Shortest time between two reports.
pub const MIN_FLUSH_MS: i64 = 1_000;

/// What is new waits at most so long, if the interval between reports is longer.
const NEWS_MS: i64 = 5_000;

/// Most halves of a tenant that the settings may let wait; each takes about 200 bytes.
pub const MAX_WAITING: usize = 10_000_000;

/// Most edges of a tenant that the settings may allow; each takes up to 5 KiB.
pub const MAX_EDGES: usize = 200_000;

/// Most rules for addresses.
pub const MAX_ADDRESS_RULES: usize = 100;

/// The section of the settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// So long a span waits for the other half of its call.
    #[serde(rename = "wait", with = "span")]
    pub wait_ms: i64,
    /// So often the lineage and the series are told what was seen.
    #[serde(rename = "flush_interval", with = "span")]
    pub flush_ms: i64,
    /// An edge is live for so long after it was seen.
    #[serde(rename = "ttl", with = "span")]
    pub ttl_ms: i64,
    /// An edge that stays as it is is said again after so long, at most half of `ttl`.
    #[serde(rename = "refresh_interval", with = "span")]
    pub refresh_ms: i64,
    /// Most halves that wait; the oldest give way.
    pub max_waiting: usize,
    /// Most edges, and most nodes, of a tenant; further ones are left out and counted.
    pub max_edges: usize,
    /// Routes and methods become nodes of their own.
    pub interfaces: bool,
    /// Addresses of databases, brokers and peers that have another name elsewhere, in order.
    pub addresses: Vec<AddressRule>,
}

/// Another name of an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressRule {
    /// Regular expression that `host:port`, or the host alone if no port is known, has to match in full.
    #[serde(rename = "match")]
    pub from: String,
    /// What to call it, with `$1` for the first group.
    #[serde(rename = "name")]
    pub to: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            wait_ms: 10_000,
            flush_ms: 30_000,
            ttl_ms: 24 * 3_600_000,
            refresh_ms: 3_600_000,
            max_waiting: 200_000,
            max_edges: 20_000,
            interfaces: true,
            addresses: Vec::new(),
        }
    }
}

impl Settings {
    /// Checks the values.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] with the field.
    pub fn check(&self) -> Result<()> {
        for (name, value, range) in [
            ("wait", self.wait_ms, 1..=MAX_WAIT_MS),
            ("flush_interval", self.flush_ms, MIN_FLUSH_MS..=3_600_000),
            ("ttl", self.ttl_ms, 60_000..=MAX_TTL_MS),
            ("refresh_interval", self.refresh_ms, 1..=self.ttl_ms / 2),
        ] {
            if !range.contains(&value) {
                let (least, most) = (span::show(*range.start()), span::show(*range.end()));
                return Err(Error::invalid(name, format!("{} is not between {least} and {most}", span::show(value))));
            }
        }
        for (name, value, most) in [("max_waiting", self.max_waiting, MAX_WAITING), ("max_edges", self.max_edges, MAX_EDGES)] {
            if !(1..=most).contains(&value) {
                return Err(Error::invalid(name, format!("{value} is not between 1 and {most}")));
            }
        }
        if self.addresses.len() > MAX_ADDRESS_RULES {
            return Err(Error::invalid("addresses", format!("has {} rules, more than {MAX_ADDRESS_RULES}", self.addresses.len())));
        }
        self.renames().map(drop)
    }

    fn renames(&self) -> Result<Renames> {
        let compile = |(i, rule): (usize, &AddressRule)| match Regex::new(&format!("^(?:{})$", rule.from)) {
            Ok(regex) => Ok((regex, rule.to.clone())),
            Err(e) => Err(Error::invalid(format!("addresses[{i}].match"), format!("{:?} is no regular expression: {e}", rule.from))),
        };
        self.addresses.iter().enumerate().map(compile).collect::<Result<_>>().map(Renames)
    }

    fn limits(&self) -> Limits {
        Limits { wait_ms: self.wait_ms, waiting: self.max_waiting, edges: self.max_edges, interfaces: self.interfaces }
    }
}

/// What bounds the work on a request.
#[derive(Clone, Copy, Debug)]
struct Limits {
    wait_ms: i64,
    waiting: usize,
    edges: usize,
    interfaces: bool,
}

/// Spans that wait for their other half, and the edges that they have made.
#[derive(Debug, Default)]
pub struct Pairing {
    pairs: Mutex<Pairs>,
    renames: RwLock<(Vec<AddressRule>, Arc<Renames>)>,
    report: Mutex<report::State>,
}

/// What became of a request's spans.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taken {
    /// Spans that were refused.
    pub refused: u64,
    counts: Counts,
}

impl Taken {
    /// Why spans were refused, in words.
    pub fn reason(&self) -> String {
        let c = &self.counts;
        let parts = [
            (c.invalid, "without a valid trace id and span id".to_owned()),
            (c.out_of_time, format!("ended more than {} minutes ago or in the future", pairing::MAX_AGE_MS / 60_000)),
            (c.nameless, "from a resource without service.name; set OTEL_SERVICE_NAME".to_owned()),
        ];
        let told: Vec<String> = parts.into_iter().filter(|(n, _)| *n > 0).map(|(n, why)| format!("{n} spans {why}")).collect();
        told.join("; ")
    }
}

impl Pairing {
    /// Takes a request, `opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest` in protobuf.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not the message; spans before the broken place are taken.
    pub(crate) fn take(&self, request: &[u8], settings: &Settings, metrics: &Metrics) -> Result<Taken> {
        let renames = self.renames(settings);
        let terms = Terms { limits: settings.limits(), renames: &renames, now_ms: time::now_ms() };
        let (result, counts) = {
            let mut pairs = self.pairs.lock();
            let before = pairs.counts;
            let result = pairs.take(request, &terms);
            (result, pairs.counts.since(&before))
        };
        metrics.count(&counts);
        let invalid =
            |_| Error::invalid("body", "is no opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest; send OTLP traces");
        result.map_err(invalid)?;
        Ok(Taken { refused: counts.refused(), counts })
    }

    /// The rules for addresses, compiled when they change.
    fn renames(&self, settings: &Settings) -> Arc<Renames> {
        {
            let current = self.renames.read();
            if current.0 == settings.addresses {
                return Arc::clone(&current.1);
            }
        }
        // Settings are checked before they come into force.
        let compiled = Arc::new(settings.renames().unwrap_or_default());
        *self.renames.write() = (settings.addresses.clone(), Arc::clone(&compiled));
        self.pairs.lock().forget_remembered();
        compiled
    }

    /// Looks at the halves whose time is over.
    fn expire(&self, settings: &Settings, metrics: &Metrics) {
        let renames = self.renames(settings);
        let terms = Terms { limits: settings.limits(), renames: &renames, now_ms: time::now_ms() };
        let counts = {
            let mut pairs = self.pairs.lock();
            let before = pairs.counts;
            pairs.expire(&terms);
            pairs.counts.since(&before)
        };
        metrics.count(&counts);
    }

    /// Whether something is new and has waited for long enough.
    fn has_news(&self, settings: &Settings) -> bool {
        self.pairs.lock().graph.news && time::now_ms() - self.report.lock().told_ms >= settings.flush_ms.min(NEWS_MS)
    }

    /// Whether it is time to compare names with those of the graph.
    fn may_join(&self) -> bool {
        let (now_ms, mut report) = (time::now_ms(), self.report.lock());
        let due = now_ms - report.joined_ms >= aliases::INTERVAL_MS;
        if due {
            report.joined_ms = now_ms;
        }
        due
    }

    /// What is known of the pairing, the edges with most requests first.
    pub(crate) fn status(&self, most: usize) -> Status {
        status::of(&self.pairs.lock(), most)
    }
}

/// Works until told to stop: lets halves expire, and reports what was seen; once more at the end.
pub async fn run(service: Service, mut stop: watch::Receiver<bool>) {
    let mut reported_ms = time::now_ms();
    loop {
        let settings = service.settings().traces.clone();
        let pause = Duration::from_millis((settings.wait_ms.min(settings.flush_ms) / 2).clamp(50, 1_000) as u64);
        let stopping = tokio::select! {
            _ = tokio::time::sleep(pause) => false,
            _ = stop.wait_for(|stop| *stop) => true,
        };
        let due = stopping || time::now_ms() - reported_ms >= settings.flush_ms;
        let (mut waiting, mut edges) = (0, 0);
        for tenant in service.opened() {
            tenant.traces.expire(&settings, &service.metrics().traces);
            if due || tenant.traces.has_news(&settings) {
                report::report(&service, &tenant, &settings, due).await;
            }
            if tenant.traces.may_join() {
                aliases::join(&tenant, &settings).await;
            }
            let pairs = tenant.traces.pairs.lock();
            waiting += pairs.calls.len() + pairs.messages.len();
            edges += pairs.graph.edges.len();
        }
        service.metrics().traces.sizes(waiting, edges);
        if due {
            reported_ms = time::now_ms();
        }
        if stopping {
            return;
        }
    }
}

/// Takes a request for a tenant.
///
/// # Errors
/// As [`Pairing::take`].
pub(crate) fn take(service: &Service, tenant: &Tenant, request: &[u8]) -> Result<Taken> {
    tenant.traces.take(request, &service.settings().traces, &service.metrics().traces)
}
