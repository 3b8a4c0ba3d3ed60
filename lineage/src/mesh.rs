//! Service graphs that are in the store already as metrics of a mesh: rules say how their labels name the ends of an edge.
//!
//! Every so often one query per rule and tenant is asked, never for a page view; what it finds becomes observed edges with the fraction
//! of the dependent's requests that go over them. Times are rounded down to the interval and ids of events follow from rule and time, so
//! that several processes say the same once. An edge that is not found any more becomes stale and expires by its TTL.

pub mod span;
pub mod pattern;
pub mod rule;
mod builtin;
pub mod fold;
pub mod found;
mod said;
mod look;
#[cfg(test)]
pub(crate) mod fake;

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use isobar_block::time;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::analysis::blast::Live;
use crate::event::MAX_TTL_MS;
use crate::model::NodeKey;
use crate::service::{Service, Tenant};
use crate::{AsOf, Error, Result, Unresolved};
pub use found::Found;
use rule::Rule;

/// Most rules of one's own.
pub const MAX_RULES: usize = 100;

/// Most edges of a rule that the settings may allow.
pub const MAX_EDGES: usize = 100_000;

/// Shortest interval.
pub const MIN_INTERVAL_MS: i64 = 1_000;

/// Finds as of times in the past that are kept for the next question.
pub const PAST_FINDS: usize = 8;

/// What was found is taken for what is so now for so many intervals.
const FRESH_INTERVALS: i64 = 4;

/// Tenants that are looked at at a time.
const TENANTS_AT_ONCE: usize = 4;

/// The section of the settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Time between two looks.
    #[serde(with = "span")]
    pub interval: i64,
    /// Traffic is averaged over so long.
    #[serde(with = "span")]
    pub window: i64,
    /// An edge is live for so long after it was found, then stale, and gone after three times as long.
    #[serde(with = "span")]
    pub ttl: i64,
    /// Most edges of one rule; those with most traffic are taken.
    pub max_edges: usize,
    /// Whether there are the rules for Istio, Linkerd, Hubble and service graphs.
    pub built_in: bool,
    /// Rules that are left out, by name.
    pub disabled: Vec<String>,
    /// Further rules. One with the name of a built-in rule takes its place.
    pub rules: Vec<Rule>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: 30_000,
            window: 5 * 60_000,
            ttl: 30 * 60_000,
            max_edges: 10_000,
            built_in: true,
            disabled: Vec::new(),
            rules: Vec::new(),
        }
    }
}

impl Settings {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the field.
    pub fn check(&self) -> Result<()> {
        if self.interval < MIN_INTERVAL_MS {
            return Err(Error::invalid("interval", "is below 1s"));
        }
        if self.window < MIN_INTERVAL_MS {
            return Err(Error::invalid("window", "is below 1s"));
        }
        if self.ttl < 2 * self.interval || self.ttl > MAX_TTL_MS {
            return Err(Error::invalid("ttl", "is below two intervals or above 400d; edges would be stale between two looks"));
        }
        if self.max_edges == 0 || self.max_edges > MAX_EDGES {
            return Err(Error::invalid("max_edges", format!("{} is not from 1 to {MAX_EDGES}", self.max_edges)));
        }
        if self.rules.len() > MAX_RULES {
            return Err(Error::invalid("rules", format!("are {}, more than {MAX_RULES}", self.rules.len())));
        }
        for (i, rule) in self.rules.iter().enumerate() {
            rule.check().map_err(|e| e.within(&format!("rules[{i}]")))?;
            if self.rules[..i].iter().any(|r| r.name == rule.name) {
                return Err(Error::invalid(format!("rules[{i}].name"), format!("{:?} is there twice", rule.name)));
            }
        }
        let built_in = builtin::rules();
        let known = |name: &String| built_in.iter().chain(&self.rules).any(|r| r.name == *name);
        if let Some(i) = self.disabled.iter().position(|name| !known(name)) {
            let names: Vec<&str> = built_in.iter().map(|r| r.name.as_str()).collect();
            let reason = format!("{:?} is no rule; the built-in ones are {}", self.disabled[i], names.join(", "));
            return Err(Error::invalid(format!("disabled[{i}]"), reason));
        }
        Ok(())
    }

    /// The rules in force.
    pub fn active(&self) -> Vec<Rule> {
        let built_in = if self.built_in { builtin::rules() } else { Vec::new() };
        let replaced = |rule: &Rule| self.rules.iter().any(|r| r.name == rule.name);
        let all = built_in.into_iter().filter(|r| !replaced(r)).chain(self.rules.iter().cloned());
        all.filter(|r| !self.disabled.contains(&r.name)).collect()
    }
}

/// A rule, as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabel {
    rule: String,
}

/// What is counted.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    looks: Counter,
    queries: Counter,
    failures: Family<RuleLabel, Counter>,
    facts: Family<RuleLabel, Counter>,
    skipped: Family<RuleLabel, Counter>,
    cut: Family<RuleLabel, Counter>,
}

impl Metrics {
    /// Registers it.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("isobar_lineage_mesh");
        r.register("looks", "Looks at the metrics of meshes, one per tenant and interval.", self.looks.clone());
        r.register("queries", "Queries that were asked for them.", self.queries.clone());
        r.register(
            "failures",
            "Queries that failed and finds that could not be stored, by rule. They are tried again.",
            self.failures.clone(),
        );
        r.register("facts", "Facts that were stored, by rule.", self.facts.clone());
        r.register("skipped_rows", "Rows whose provider has no name or is an IP address, by rule.", self.skipped.clone());
        r.register("cut_rows", "Rows beyond the limit of edges, by rule.", self.cut.clone());
    }

    fn rule(rule: &str) -> RuleLabel {
        RuleLabel { rule: rule.into() }
    }
}

/// What the last looks of a tenant have found.
#[derive(Debug, Default)]
pub struct Seen {
    state: Mutex<State>,
    /// One process asks for a time only once.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Arc<Found>>,
    past: VecDeque<Arc<Found>>,
    names: look::Names,
    said: HashMap<String, said::Said>,
}

impl Seen {
    /// What the last look has found.
    pub fn last(&self) -> Option<Arc<Found>> {
        self.state.lock().last.clone()
    }

    fn past(&self, at_ms: i64) -> Option<Arc<Found>> {
        self.state.lock().past.iter().find(|f| f.at_ms == at_ms).cloned()
    }

    fn keep_past(&self, found: Arc<Found>) {
        let mut state = self.state.lock();
        if state.past.len() >= PAST_FINDS {
            state.past.pop_front();
        }
        state.past.push_back(found);
    }
}

/// Works until told to stop.
pub async fn run(service: Service, mut stop: watch::Receiver<bool>) {
    if service.promql().is_none() {
        return;
    }
    let mut changed = service.subscribe();
    // Several processes look at different moments of the interval, so that the later ones find that everything has been said.
    let late = RandomState::new().hash_one(0_u8);
    loop {
        let interval_ms = service.settings().mesh.interval;
        let now_ms = time::now_ms();
        let slot_ms = now_ms - now_ms.rem_euclid(interval_ms);
        futures::StreamExt::for_each_concurrent(futures::stream::iter(service.opened()), TENANTS_AT_ONCE, |tenant| {
            let service = &service;
            async move { look::look(service, &tenant, slot_ms).await }
        })
        .await;
        let jitter_ms = (late % (interval_ms as u64 / 4).max(1)) as i64;
        let wait_ms = (slot_ms + interval_ms + jitter_ms - time::now_ms()).max(interval_ms / 10);
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = changed.changed() => {}
            () = tokio::time::sleep(Duration::from_millis(wait_ms as u64)) => {}
        }
    }
}

/// Everything that the rules find as of a time: now what the last look has found, else what the store says then.
pub async fn found(service: &Service, tenant: &Tenant, as_of: AsOf) -> Arc<Found> {
    let settings = service.settings();
    let interval_ms = settings.mesh.interval;
    let now_ms = time::now_ms();
    let at_ms = match as_of {
        AsOf::Now => now_ms,
        AsOf::At(at_ms) => at_ms,
    };
    let recent = |found: &Arc<Found>| (0..=FRESH_INTERVALS * interval_ms).contains(&(at_ms - found.at_ms));
    if now_ms - at_ms < interval_ms
        && let Some(found) = tenant.mesh.last().filter(recent)
    {
        return found;
    }
    let slot_ms = at_ms - at_ms.rem_euclid(interval_ms);
    let _asking = tenant.mesh.asking.lock().await;
    if let Some(found) = tenant.mesh.past(slot_ms) {
        return found;
    }
    let found = Arc::new(look::ask(service, tenant, slot_ms).await);
    // While the store does not answer, it is not asked for what is so now more often than by looks.
    if !found.failed || as_of == AsOf::Now {
        tenant.mesh.keep_past(Arc::clone(&found));
    }
    found
}

/// Requests per second that come to each node as of a time, and what could not be found out.
pub async fn live(service: &Service, tenant: &Tenant, as_of: AsOf) -> (Live, Vec<Unresolved>) {
    let found = found(service, tenant, as_of).await;
    let mut unresolved = found.unresolved.clone();
    let live = match tenant.store.snapshot(as_of).await {
        Ok(snapshot) => found.live(|key| snapshot.find(key).map_or(key, |node| snapshot.key(node))),
        Err(error) => {
            unresolved.push(Unresolved::new("rates", error.to_string()));
            Live::default()
        }
    };
    (live, unresolved)
}

/// Requests per second that come to each node over time, from `start_ms` to `end_ms` every `step_ms`, Unix milliseconds; of a node to which
/// none come what it sends out. And what could not be found out.
pub async fn history(
    service: &Service,
    tenant: &Tenant,
    start_ms: i64,
    end_ms: i64,
    step_ms: i64,
) -> (HashMap<NodeKey, Vec<(i64, f64)>>, Vec<Unresolved>) {
    look::history(service, tenant, start_ms, end_ms, step_ms).await
}

#[cfg(test)]
pub(crate) mod tests;
