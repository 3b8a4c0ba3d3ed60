//! How much of the traffic could be paired: the numbers behind the edges, for people who doubt them.

use serde::Serialize;

use super::graph::Connection;
use super::pairing::{Counts, Pairs};
use super::report;
use crate::model::NodeKey;

/// What is known of the pairing of a tenant's spans.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    /// What became of all spans since the start.
    spans: Counts,
    /// Percent of the halves of calls that have found the other one; null before any was looked at.
    matched_percent: Option<f64>,
    /// Ids of spans that wait for the other half.
    waiting: usize,
    nodes: usize,
    edges: usize,
    /// Whether every edge and service is listed.
    complete: bool,
    /// Edges with traffic, those with most requests first.
    listed_edges: Vec<EdgeStatus>,
    /// Services, those with most unpaired spans first.
    services: Vec<ServiceStatus>,
}

#[derive(Debug, Serialize)]
struct EdgeStatus {
    from: NodeKey,
    to: NodeKey,
    connection_type: &'static str,
    /// Requests, as extrapolated from the spans.
    requests: f64,
    /// Spans that were received for them.
    spans: u64,
    /// Percent of requests that are in spans.
    sampled_percent: f64,
    failed: f64,
    /// Percent of calls of which both sides were received; null if there is no other side.
    matched_percent: Option<f64>,
    mean_seconds: f64,
    /// Fraction of the dependent's requests that use the provider, where it can be told.
    share: Option<f32>,
    lag_ms: Option<i64>,
    last_seen_ms: i64,
}

#[derive(Debug, Serialize)]
struct ServiceStatus {
    service: NodeKey,
    spans: u64,
    sampled_percent: f64,
    /// Server spans that name a parent, and those of them whose parent did not come.
    server_spans: u64,
    server_spans_unpaired: u64,
    /// Client spans of calls, those of them that nobody has answered with a span, and those of these that do not tell whom they call.
    client_spans: u64,
    client_spans_unpaired: u64,
    client_spans_without_peer: u64,
}

/// Sums it up.
pub(crate) fn of(pairs: &Pairs, most: usize) -> Status {
    let graph = &pairs.graph;
    let mut listed: Vec<_> = graph.edges.iter().filter_map(|(id, e)| Some((id, e, e.traffic.as_deref()?))).collect();
    let with_traffic = listed.len();
    listed.sort_by(|a, b| b.2.requests.total_cmp(&a.2.requests).then(a.0.cmp(b.0)));
    listed.truncate(most);
    let edge = |(id, edge, traffic): (&super::graph::EdgeId, &super::graph::Edge, &super::graph::Traffic)| {
        let both = matches!(edge.connection, Connection::Call | Connection::Virtual);
        let times = if traffic.server.count > 0.0 { &traffic.server } else { &traffic.client };
        Some(EdgeStatus {
            from: graph.get(id.from)?.key.clone(),
            to: graph.get(id.to)?.key.clone(),
            connection_type: if edge.connection == Connection::Interface { "interface" } else { edge.connection.label() },
            requests: traffic.requests,
            spans: traffic.spans,
            sampled_percent: percent(traffic.spans as f64, traffic.requests).unwrap_or(100.0),
            failed: traffic.failed,
            matched_percent: both.then(|| percent(traffic.paired as f64, (traffic.paired + traffic.unpaired) as f64)).flatten(),
            mean_seconds: if times.count > 0.0 { times.sum_s / times.count } else { 0.0 },
            share: report::share(graph, *id),
            lag_ms: edge.lag_ms,
            last_seen_ms: edge.touched_ms,
        })
    };
    let listed_edges: Vec<EdgeStatus> = listed.into_iter().filter_map(edge).collect();
    let mut services: Vec<ServiceStatus> = graph.nodes().filter_map(|n| Some((n, n.service.as_deref()?))).map(service).collect();
    let all_services = services.len();
    services.sort_by(|a, b| {
        let unpaired = |s: &ServiceStatus| s.server_spans_unpaired + s.client_spans_unpaired;
        unpaired(b).cmp(&unpaired(a)).then_with(|| a.service.cmp(&b.service))
    });
    services.truncate(most);
    let c = &pairs.counts;
    let (paired, lone) = (2 * c.pairs, c.unpaired_clients + c.unpaired_servers);
    Status {
        spans: *c,
        matched_percent: percent(paired as f64, (paired + lone) as f64),
        waiting: pairs.calls.len() + pairs.messages.len(),
        nodes: graph.len(),
        edges: graph.edges.len(),
        complete: with_traffic <= most && all_services <= most,
        listed_edges,
        services,
    }
}

fn service((node, service): (&super::graph::Node, &super::graph::Service)) -> ServiceStatus {
    ServiceStatus {
        service: node.key.clone(),
        spans: service.spans,
        sampled_percent: percent(service.spans as f64, service.weight).unwrap_or(100.0),
        server_spans: service.servers,
        server_spans_unpaired: service.servers_unpaired,
        client_spans: service.clients,
        client_spans_unpaired: service.clients_unpaired,
        client_spans_without_peer: service.clients_nameless,
    }
}

fn percent(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole * 100.0)
}
