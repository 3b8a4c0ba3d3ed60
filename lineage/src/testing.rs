//! Small graphs for tests.

use std::sync::Arc;

use axum::http::HeaderMap;
use isobar_block::TenantId;
use object_store::memory::InMemory;
use prometheus_client::registry::Registry;
use serde_json::Value;

use crate::event::Event;
use crate::model::{EdgeBody, NodeKey};
use crate::service::{Parts, Service};
use crate::settings::Settings;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::state::check::Pending;
use crate::store::LineageConfig;

/// When facts of [`snapshot`] are said.
pub const AT_MS: i64 = 1_000;

/// A name; a service if it names no kind.
pub fn key(name: &str) -> NodeKey {
    let id = if name.contains(':') { name.to_owned() } else { format!("service:{name}") };
    NodeKey::parse(&id).expect("a valid id")
}

/// An event of source `test` with these facts.
pub fn event(id: &str, at_ms: i64, facts: Value) -> Event {
    let mut event = Event::new(id, "test", "", at_ms);
    event.facts = serde_json::from_value(facts).expect("valid facts");
    event.check(at_ms).expect("a valid event");
    event
}

/// The graph that these events make, as of a time.
pub fn fold(events: Vec<Event>, at_ms: i64) -> Snapshot {
    let mut state = State::default();
    for event in events {
        state.check(&event, &mut Pending::default()).expect("fits the graph");
        state.fold(event);
    }
    Snapshot::new(state.frozen.clone(), at_ms)
}

/// The graph of these facts.
pub fn snapshot(facts: Value) -> Snapshot {
    fold(vec![event("1", AT_MS, facts)], AT_MS + 1)
}

/// The graph of edges in lines such as `a -> b {"class": "soft"}`.
pub fn edges(lines: &str) -> Snapshot {
    let mut facts = Vec::new();
    for line in lines.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let (from, rest) = line.split_once(" -> ").expect("an arrow");
        let (to, body) = rest.split_once(' ').unwrap_or((rest, "{}"));
        let body: EdgeBody = serde_json::from_str(body).expect("an edge's body");
        facts.push(serde_json::json!({"edge": {"from": key(from), "to": key(to), "body": body}}));
    }
    snapshot(Value::Array(facts))
}

/// What a service in memory is made of: tenants by the usual header, no numbers, no series.
pub fn parts() -> Parts {
    let tenant_of = |headers: &HeaderMap| match headers.get("x-scope-orgid").map(|v| v.to_str().unwrap_or("?")) {
        None => Ok(TenantId::default()),
        Some(name) => TenantId::new(name).map_err(|e| e.to_string()),
    };
    Parts {
        bucket: Arc::new(InMemory::new()),
        store: LineageConfig::default(),
        max_tenants: 3,
        default_tenant: TenantId::default(),
        settings: Settings::default(),
        promql: None,
        sink: None,
        tenant_of: Arc::new(tenant_of),
    }
}

/// A service of these parts.
pub fn service(parts: Parts) -> Service {
    Service::new(parts, &mut Registry::default())
}

/// Deterministic numbers from a seed (SplitMix64).
pub struct Random(pub u64);

impl Random {
    /// The next number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}
