//! What spans have shown goes out: facts to the lineage, samples to the store.

use std::time::Duration;

use isobar_block::{Labels, time};
use ulid::Ulid;

use super::graph::{Connection, EdgeId, Graph};
use super::pairing::Pairs;
use super::{Settings, series};
use crate::event::{EdgeFact, NodeFact};
use crate::model::{EdgeBody, NodeBody, NodeKey, Relation};
use crate::service::{Service, Tenant};
use crate::store::Outcome;
use crate::{AsOf, Event, Fact, Snapshot};

/// The source of the facts.
pub(crate) const SOURCE: &str = "traces";

/// Facts of one event.
const FACTS_PER_EVENT: usize = 2_000;

/// Edges that were not seen for so long are forgotten here; the lineage keeps them until their TTL.
const FORGET_MS: i64 = 3_600_000;

/// Time after which the samples of traces that shares are told by begin anew.
const SHARE_MS: i64 = 300_000;

/// A share is said anew if it differs by more than this.
const SHARE_STEP: f32 = 0.1;

/// A lag is said anew if it differs by more than this fraction.
const LAG_STEP: f64 = 0.5;

/// A report waits so long for its place in the log or in the store before it gives up; the next one says the same.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is remembered from report to report.
#[derive(Debug)]
pub(crate) struct State {
    /// Tells the events of this process from those of others.
    process: Ulid,
    turned_ms: i64,
    /// When the last report was.
    pub told_ms: i64,
    /// When names were last compared with those of the graph.
    pub joined_ms: i64,
    /// When all names that were joined were last said.
    pub aliased_ms: i64,
}

impl Default for State {
    fn default() -> Self {
        Self { process: Ulid::new(), turned_ms: time::now_ms(), told_ms: 0, joined_ms: 0, aliased_ms: 0 }
    }
}

/// Reports for one tenant: facts, and series too if `full`. What cannot be written is written with the next report.
pub(crate) async fn report(service: &Service, tenant: &Tenant, settings: &Settings, full: bool) {
    let now_ms = time::now_ms();
    let metrics = &service.metrics().traces;
    let (process, turn) = {
        let mut state = tenant.traces.report.lock();
        let turn = full && now_ms - state.turned_ms >= SHARE_MS;
        if turn {
            state.turned_ms = now_ms;
        }
        state.told_ms = now_ms;
        (state.process, turn)
    };
    look_up(tenant).await;
    let (facts, samples) = {
        let mut pairs = tenant.traces.pairs.lock();
        pairs.graph.news = false;
        let facts = facts(&mut pairs.graph, settings, now_ms);
        let mut samples = Vec::new();
        let gone = if full { forget(&mut pairs, now_ms - FORGET_MS) } else { Vec::new() };
        if full && service.sink().is_some() {
            series::write(&mut pairs.graph, now_ms, settings.flush_ms, &mut samples);
            gone.iter().for_each(|(from, to, edge)| series::end(from, to, edge, now_ms, &mut samples));
        }
        if turn {
            turn_samples(&mut pairs.graph);
        }
        (facts, samples)
    };
    let count = facts.len();
    if count > 0 {
        match tokio::time::timeout(PATIENCE, append(tenant, events(facts, process, now_ms))).await {
            Ok(Ok(())) => metrics.wrote(count),
            failed => {
                let reason = failed.map_or_else(|_| "it took too long".into(), |r| r.err().unwrap_or_default());
                tracing::warn!(tenant = %tenant.id, reason, "edges of traces were not written; they are written with the next report");
                metrics.failed("lineage");
                unsay(&mut tenant.traces.pairs.lock().graph, now_ms);
            }
        }
    }
    write_samples(service, tenant, samples).await;
}

/// Looks up what was said of edges that this process has not written yet, so that a restart does not make their history flap.
async fn look_up(tenant: &Tenant) {
    let new: Vec<(EdgeId, NodeKey, NodeKey)> = {
        let pairs = tenant.traces.pairs.lock();
        let graph = &pairs.graph;
        let new = graph.edges.iter().filter(|(_, e)| e.traffic.is_some() && e.written.is_none() && e.said_before.is_none());
        new.filter_map(|(id, _)| Some((*id, graph.get(id.from)?.key.clone(), graph.get(id.to)?.key.clone()))).collect()
    };
    if new.is_empty() {
        return;
    }
    let snapshot = match tenant.store.snapshot(AsOf::Now).await {
        Ok(snapshot) => snapshot,
        Err(error) => {
            tracing::warn!(tenant = %tenant.id, %error, "what was said of edges of traces could not be looked up");
            return;
        }
    };
    let known: Vec<(EdgeId, Option<EdgeBody>)> =
        new.into_iter().map(|(id, from, to)| (id, said(&snapshot, &from, &to, id.relation))).collect();
    let mut pairs = tenant.traces.pairs.lock();
    for (id, body) in known {
        if let Some(edge) = pairs.graph.edges.get_mut(&id) {
            edge.said_before = Some(body.as_ref().and_then(|b| b.share));
            edge.lag_ms = edge.lag_ms.or(body.and_then(|b| b.lag_ms));
        }
    }
}

/// What traces have said of an edge.
fn said(snapshot: &Snapshot, from: &NodeKey, to: &NodeKey, relation: Relation) -> Option<EdgeBody> {
    let (from, to) = (snapshot.find(from)?, snapshot.find(to)?);
    let edges = snapshot.providers(from).filter(|(_, provider)| *provider == to).map(|(edge, _)| snapshot.edge(edge));
    let claims = edges.filter(|e| e.relation == relation).flat_map(|e| e.claims);
    claims.into_iter().find(|c| c.claim.source == SOURCE).map(|c| c.says)
}

async fn append(tenant: &Tenant, events: Vec<Event>) -> Result<(), String> {
    let outcomes = tenant.store.append(events).await.map_err(|e| e.to_string())?;
    let refused = outcomes.into_iter().find_map(|o| if let Outcome::Refused(error) = o { Some(error) } else { None });
    refused.map_or(Ok(()), |error| Err(error.to_string()))
}

async fn write_samples(service: &Service, tenant: &Tenant, samples: Vec<(Labels, i64, f64)>) {
    let Some(sink) = service.sink().filter(|_| !samples.is_empty()) else { return };
    let failed = match tokio::time::timeout(PATIENCE, sink.write(&tenant.id, samples)).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it took too long".to_owned(),
    };
    // They are counters: the next report makes up for it.
    tracing::warn!(tenant = %tenant.id, reason = failed, "series of traces were not written in full");
    service.metrics().traces.failed("series");
}

fn events(facts: Vec<Fact>, process: Ulid, now_ms: i64) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for (i, fact) in facts.into_iter().enumerate() {
        if i % FACTS_PER_EVENT == 0 {
            events.push(Event::new(format!("{SOURCE}/{process}/{now_ms}/{}", events.len()), SOURCE, "", now_ms));
        }
        if let Some(event) = events.last_mut() {
            event.facts.push(fact);
        }
    }
    events
}

/// What is new, what has changed, and what was not said for long; nodes first.
fn facts(graph: &mut Graph, settings: &Settings, now_ms: i64) -> Vec<Fact> {
    let mut facts = Vec::new();
    let is_due = |said_ms: i64, touched_ms: i64| now_ms - said_ms >= settings.refresh_ms && touched_ms > said_ms;
    for node in graph.nodes_mut().filter(|n| n.service.is_some() || n.body != said_nothing()) {
        let due = node.written.as_ref().is_none_or(|(body, said_ms)| *body != node.body || is_due(*said_ms, node.touched_ms));
        if due {
            node.written = Some((node.body.clone(), now_ms));
            facts.push(Fact::Node(NodeFact { node: node.key.clone(), ttl_ms: settings.ttl_ms, body: node.body.clone() }));
        }
    }
    let ids: Vec<EdgeId> = graph.edges.keys().copied().collect();
    for id in ids {
        let (share, lag_ms) = (share(graph, id), graph.edges.get_mut(&id).and_then(|e| e.traffic.as_mut()?.take_lag_ms()));
        let (Some(from), Some(to)) = (graph.get(id.from).map(|n| n.key.clone()), graph.get(id.to).map(|n| n.key.clone())) else { continue };
        let Some(edge) = graph.edges.get_mut(&id) else { continue };
        if edge.connection == Connection::Messaging {
            edge.lag_ms = lag_ms.map_or(edge.lag_ms, |lag| Some(steady_lag(edge.lag_ms, lag)));
        }
        let said = edge.written.as_ref().map_or(edge.said_before.flatten(), |(body, _)| body.share);
        let body = edge.body(steady_share(said, share));
        let due = edge.written.as_ref().is_none_or(|(said, said_ms)| *said != body || is_due(*said_ms, edge.touched_ms));
        if due {
            edge.written = Some((body.clone(), now_ms));
            facts.push(Fact::Edge(EdgeFact { from, to, relation: id.relation, ttl_ms: settings.ttl_ms, body }));
        }
    }
    facts
}

/// What a node says that only its edges say is there.
fn said_nothing() -> NodeBody {
    NodeBody { evidence: crate::model::Evidence::Observed, ..NodeBody::default() }
}

/// Which fraction of a service's requests goes over an edge, if that can be told.
pub(crate) fn share(graph: &Graph, id: EdgeId) -> Option<f32> {
    let traffic = graph.edges.get(&id)?.traffic.as_ref()?;
    let service = graph.get(id.from)?.service.as_ref()?;
    // Of whoever answers requests, those; of whoever only makes some, the traces that it begins.
    let all = if service.has_inbound { &service.inbound } else { &service.begun };
    all.share_in(&traffic.uses)
}

/// Chance makes shares tremble, and every change would be kept for good: only what differs clearly is said.
fn steady_share(said: Option<f32>, share: Option<f32>) -> Option<f32> {
    let rounded = share.map(|s| (s * 100.0).round() / 100.0);
    match (said, rounded) {
        (Some(said), Some(new)) if (said - new).abs() <= SHARE_STEP && (said > 0.0) == (new > 0.0) => Some(said),
        (said, new) => new.or(said),
    }
}

fn steady_lag(said_ms: Option<i64>, lag_ms: i64) -> i64 {
    match said_ms {
        Some(said) if ((said - lag_ms).abs() as f64) <= LAG_STEP * said.max(lag_ms).max(1) as f64 => said,
        _ => lag_ms,
    }
}

/// Says everything again that was said at a time, because it was not written.
fn unsay(graph: &mut Graph, at_ms: i64) {
    fn undo<B>(written: &mut Option<(B, i64)>, at_ms: i64) {
        if written.as_ref().is_some_and(|(_, said_ms)| *said_ms == at_ms) {
            *written = None;
        }
    }
    graph.nodes_mut().for_each(|n| undo::<NodeBody>(&mut n.written, at_ms));
    graph.edges.values_mut().for_each(|e| undo::<EdgeBody>(&mut e.written, at_ms));
}

fn turn_samples(graph: &mut Graph) {
    for service in graph.nodes_mut().filter_map(|n| n.service.as_mut()) {
        service.inbound.turn();
        service.begun.turn();
    }
    graph.edges.values_mut().filter_map(|e| e.traffic.as_mut()).for_each(|t| t.uses.turn());
}

/// Forgets what was not seen for long.
fn forget(pairs: &mut Pairs, since_ms: i64) -> super::graph::Gone {
    let before = (pairs.graph.len(), pairs.graph.edges.len());
    let gone = pairs.graph.sweep(since_ms);
    if before != (pairs.graph.len(), pairs.graph.edges.len()) {
        pairs.forget_remembered();
        let parts: Vec<u32> = pairs.graph.edges.keys().filter(|id| id.relation == Relation::Composition).map(|id| id.from).collect();
        pairs.graph.nodes_mut().filter_map(|n| n.service.as_mut()).for_each(|s| s.interfaces = 0);
        for service in parts {
            if let Some(service) = pairs.graph.service(service) {
                service.interfaces += 1;
            }
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_trembles_is_not_said_again() {
        assert_eq!(steady_share(None, None), None);
        assert_eq!(steady_share(None, Some(0.333)), Some(0.33));
        assert_eq!(steady_share(Some(0.33), Some(0.4)), Some(0.33));
        assert_eq!(steady_share(Some(0.33), Some(0.5)), Some(0.5));
        assert_eq!(steady_share(Some(0.05), Some(0.0)), Some(0.0));
        assert_eq!(steady_share(Some(0.33), None), Some(0.33));
        assert_eq!((steady_lag(None, 7), steady_lag(Some(100), 140), steady_lag(Some(100), 300)), (7, 100, 300));
    }
}
