//! What was counted on edges as samples, under the names and labels that Tempo and the collector's service graph connector use, so that
//! dashboards for these work. The label `source` tells that they are made here.
//!
//! Messages and interfaces have no place in a service graph and get names of their own.

use isobar_block::{Labels, stale_nan};

use super::graph::{BUCKETS_S, Connection, Edge, EdgeId, Graph, Times, Traffic};
use crate::model::{Flow, NodeKey, kind};

/// The value of the label `source`.
pub(crate) const SOURCE_LABEL: &str = "isobar";

/// What Tempo calls whoever is not traced.
const OUTSIDE: &str = "user";

/// Samples that go out.
pub(crate) type Samples = Vec<(Labels, i64, f64)>;

/// Adds the samples of all edges. A series that is new begins with 0 one interval before, so that its first increase counts.
pub(crate) fn write(graph: &mut Graph, now_ms: i64, interval_ms: i64, out: &mut Samples) {
    let ids: Vec<EdgeId> = graph.edges.keys().copied().collect();
    for id in ids {
        let (Some(from), Some(to)) = (graph.get(id.from).map(|n| n.key.clone()), graph.get(id.to).map(|n| n.key.clone())) else { continue };
        let Some(edge) = graph.edges.get_mut(&id) else { continue };
        let Some(labels) = labels(&from, &to, edge) else { continue };
        let Some(traffic) = edge.traffic.as_mut() else { continue };
        let begins = !std::mem::replace(&mut traffic.begun, true);
        each(&labels, traffic, |labels, value| {
            if begins {
                out.push((labels.clone(), now_ms - interval_ms, 0.0));
            }
            out.push((labels, now_ms, value));
        });
    }
    for node in graph.nodes_mut() {
        let Some(service) = node.service.as_mut().filter(|s| s.entered > 0.0) else { continue };
        let Some(labels) = entered(&node.key).labels("_total", None) else { continue };
        if !std::mem::replace(&mut service.entered_begun, true) {
            out.push((labels.clone(), now_ms - interval_ms, 0.0));
        }
        out.push((labels, now_ms, service.entered));
    }
}

/// Ends the series of an edge that was forgotten.
pub(crate) fn end(from: &NodeKey, to: &NodeKey, edge: &Edge, now_ms: i64, out: &mut Samples) {
    if let (Some(labels), Some(traffic)) = (labels(from, to, edge), edge.traffic.as_ref().filter(|t| t.begun)) {
        each(&labels, traffic, |labels, _| out.push((labels, now_ms, stale_nan())));
    }
}

/// The name before the suffixes, and the labels that all series of an edge have.
struct Family {
    prefix: &'static str,
    pairs: Vec<(&'static str, String)>,
}

impl Family {
    fn labels(&self, suffix: &str, le: Option<&str>) -> Option<Labels> {
        let name = format!("{}{suffix}", self.prefix);
        let own = [("__name__", name.as_str()), ("source", SOURCE_LABEL)];
        let shared = self.pairs.iter().map(|(n, v)| (*n, v.as_str()));
        // Names are constants here, so that none is empty or there twice.
        Labels::from_pairs(own.into_iter().chain(shared).chain(le.map(|le| ("le", le)))).ok()
    }
}

/// The labels of an edge's series; `None` if it has none.
fn labels(from: &NodeKey, to: &NodeKey, edge: &Edge) -> Option<Family> {
    let (name, namespace) = (|key: &NodeKey| key.name().into_owned(), |key: &NodeKey| key.namespace().into_owned());
    let connection = ("connection_type", edge.connection.label().to_owned());
    let mut pairs = vec![("client", name(from)), ("client_service_namespace", namespace(from)), connection];
    match edge.connection {
        Connection::Structure => return None,
        Connection::Call => pairs.extend([("server", name(to)), ("server_service_namespace", namespace(to))]),
        Connection::Virtual => {
            let server = match namespace(to).as_str() {
                "" => name(to),
                namespace => format!("{}.{namespace}.svc", name(to)),
            };
            pairs.extend([("virtual_node", "server".to_owned()), ("server", server)]);
        }
        Connection::Database => pairs.extend(match (to.kind(), namespace(to).as_str()) {
            (kind::DATASET, server) => [("server", server.to_owned()), ("db_collection", name(to))],
            (_, "") => [("server", name(to)), ("db_namespace", String::new())],
            (_, server) => [("server", server.to_owned()), ("db_namespace", name(to))],
        }),
        Connection::Messaging => {
            let direction = if edge.flow == Some(Flow::Call) { "send" } else { "receive" };
            let pairs = vec![
                ("service", name(from)),
                ("service_namespace", namespace(from)),
                ("topic", name(to)),
                ("topic_namespace", namespace(to)),
                ("direction", direction.to_owned()),
            ];
            return Some(Family { prefix: "isobar_traces_message", pairs });
        }
        Connection::Interface => {
            let pairs = vec![("service", name(from)), ("service_namespace", namespace(from)), ("interface", name(to))];
            return Some(Family { prefix: "isobar_traces_interface_request", pairs });
        }
    }
    Some(Family { prefix: "traces_service_graph_request", pairs })
}

/// Requests that come from outside, as Tempo tells them.
fn entered(service: &NodeKey) -> Family {
    let pairs = vec![
        ("client", OUTSIDE.to_owned()),
        ("connection_type", "virtual_node".to_owned()),
        ("virtual_node", "client".to_owned()),
        ("server", service.name().into_owned()),
        ("server_service_namespace", service.namespace().into_owned()),
    ];
    Family { prefix: "traces_service_graph_request", pairs }
}

/// Every series of an edge with its value now.
fn each(family: &Family, traffic: &Traffic, mut push: impl FnMut(Labels, f64)) {
    let mut one = |suffix: &str, le: Option<&str>, value: f64| {
        if let Some(labels) = family.labels(suffix, le) {
            push(labels, value);
        }
    };
    one("_total", None, traffic.requests);
    one("_failed_total", None, traffic.failed);
    let mut times = |times: &Times, names: [&str; 3], buckets: bool| {
        if times.count == 0.0 {
            return;
        }
        one(names[0], None, times.sum_s);
        one(names[1], None, times.count);
        if !buckets {
            return;
        }
        let mut below = 0.0;
        for (bound, count) in BUCKETS_S.iter().zip(times.buckets) {
            below += count;
            one(names[2], Some(&bound.to_string()), below);
        }
        one(names[2], Some("+Inf"), times.count);
    };
    times(&traffic.server, ["_server_seconds_sum", "_server_seconds_count", "_server_seconds_bucket"], true);
    // Where the server tells how long it takes, what the client sees is of interest as a mean only.
    let client = ["_client_seconds_sum", "_client_seconds_count", "_client_seconds_bucket"];
    times(&traffic.client, client, traffic.server.count == 0.0);
}
