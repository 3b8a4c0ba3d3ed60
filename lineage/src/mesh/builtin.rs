//! The rules that are always there: Istio, Linkerd, Cilium Hubble, and the service graphs of Tempo and the OpenTelemetry Collector.
//!
//! Istio: both proxies of a request report it, and a waypoint too, so that of every edge the reporter with most traffic counts; that
//! is the caller for requests that never arrived or that leave the mesh, else either. 0 and 5xx are failures, and the codes of gRPC that
//! blame the server. Linkerd: the caller's side is the edge, the other side tells what comes from outside. Hubble has no ends in its
//! labels unless `labelsContext` adds them; replies are flows too, so that connections are told by SYN, which only callers send.

use serde_json::{Value, json};

use super::rule::Rule;

/// gRPC codes that blame the server: unknown, deadline exceeded, unimplemented, internal, unavailable, data loss.
const GRPC_FAILURES: &str = "2|4|12|13|14|15";

/// Names that Istio gives to traffic that it lets through or drops because nobody is known behind the address.
const ISTIO_EGRESS: &str = "PassthroughCluster|BlackHoleCluster";

/// The rules that are always there, unless the settings leave them out.
///
/// # Panics
/// Never: that they are rules is tested.
pub fn rules() -> Vec<Rule> {
    let all = [istio(), istio_tcp(), linkerd()].into_iter().chain(linkerd_routes()).chain(service_graphs()).chain(hubble());
    all.map(|rule| serde_json::from_value(rule).expect("a test reads every rule")).collect()
}

fn istio_from() -> Value {
    json!([
        {"namespace": "{source_workload_namespace}", "name": "{source_canonical_service}"},
        {"namespace": "{source_workload_namespace}", "name": "{source_workload}"},
    ])
}

fn istio_to() -> Value {
    json!([
        {"namespace": "{destination_workload_namespace}", "name": "{destination_canonical_service}"},
        {"kind": "external", "name": "{destination_service_name}", "when": {"destination_service_name": ISTIO_EGRESS}},
        {"host": "{destination_service}"},
        {"namespace": "{destination_service_namespace}", "name": "{destination_service_name}"},
        {"namespace": "{destination_workload_namespace}", "name": "{destination_workload}"},
    ])
}

fn istio_aliases() -> Value {
    json!([{"namespace": "{destination_service_namespace}", "name": "{destination_service_name}"}])
}

fn istio() -> Value {
    let grpc = format!("response_code!~\"0|5..\",grpc_response_status=~\"{GRPC_FAILURES}\"");
    json!({
        "name": "istio", "source": "istio", "metric": "istio_requests_total", "match": "app!=\"ztunnel\"",
        "from": istio_from(), "to": istio_to(), "aliases": istio_aliases(), "count_once_by": "reporter",
        "failures": ["response_code=~\"0|5..\"", grpc], "clusters": ["source_cluster", "destination_cluster"],
    })
}

/// Connections that are no requests. Bytes have no direction that one could trust, but connections have a side that opened them.
fn istio_tcp() -> Value {
    json!({
        "name": "istio-tcp", "source": "istio", "metric": "istio_tcp_sent_bytes_total", "measure": "activity",
        "from": istio_from(), "to": istio_to(), "aliases": istio_aliases(), "clusters": ["source_cluster", "destination_cluster"],
    })
}

const LINKERD_WORKLOADS: &[&str] = &["deployment", "statefulset", "daemonset", "k8s_job", "cronjob", "replicationcontroller"];

fn linkerd_sources(when: Value) -> Vec<Value> {
    let one = |label: &&str| json!({"namespace": "{namespace}", "name": format!("{{{label}}}"), "when": when});
    LINKERD_WORKLOADS.iter().map(one).collect()
}

fn linkerd() -> Value {
    let mut to = linkerd_sources(json!({"direction": "inbound"}));
    to.extend(
        LINKERD_WORKLOADS
            .iter()
            .map(|l| json!({"namespace": "{dst_namespace}", "name": format!("{{dst_{l}}}"), "when": {"direction": "outbound"}})),
    );
    to.push(json!({"namespace": "{dst_namespace}", "name": "{dst_service}", "when": {"direction": "outbound"}}));
    to.push(json!({"host": "{authority}", "when": {"direction": "outbound"}}));
    to.push(json!({"host": "{target_addr}", "when": {"direction": "outbound"}}));
    json!({
        "name": "linkerd", "source": "linkerd", "metric": "response_total", "match": "direction=~\"inbound|outbound\"",
        "from": linkerd_sources(json!({"direction": "outbound"})), "to": to,
        "aliases": [{"namespace": "{dst_namespace}", "name": "{dst_service}"}],
        "count_once_by": "direction", "failures": ["classification=\"failure\""],
    })
}

fn linkerd_routes() -> impl Iterator<Item = Value> {
    ["http", "grpc"].into_iter().map(|protocol| {
        json!({
            "name": format!("linkerd-{protocol}-routes"), "source": "linkerd",
            "metric": format!("outbound_{protocol}_route_backend_requests_total"),
            "from": linkerd_sources(json!({})),
            "to": [{"namespace": "{backend_namespace}", "name": "{backend_name}", "when": {"backend_kind": "Service|"}}],
        })
    })
}

/// An end of an edge of a service graph, with the namespace from whichever dimension the operator has added.
fn service_graph_end(end: &str) -> Vec<Value> {
    let mut patterns: Vec<Value> = ["service_namespace", "k8s_namespace_name", "namespace"]
        .iter()
        .map(|label| json!({"namespace": format!("{{{end}_{label}}}"), "name": format!("{{{end}}}")}))
        .collect();
    patterns.push(json!({"name": format!("{{{end}}}")}));
    patterns
}

fn service_graph_calls(name: &str, metric: &str, measure: &str) -> Value {
    let with = |mut pattern: Value, when: &Value| {
        pattern["when"] = when.clone();
        pattern
    };
    // Whoever the collector calls `user` is everybody whose calls nobody has traced.
    let known =
        [json!({"connection_type": "|database"}), json!({"connection_type": "virtual_node", "virtual_node": "|server", "client": "!user"})];
    let from: Vec<Value> = known.iter().flat_map(|when| service_graph_end("client").into_iter().map(move |p| with(p, when))).collect();
    let mut to = vec![json!({"kind": "database", "name": "{server}", "when": {"connection_type": "database"}})];
    let traced = [
        json!({"connection_type": ""}),
        json!({"connection_type": "virtual_node", "virtual_node": "client"}),
        json!({"connection_type": "virtual_node", "virtual_node": "", "client": "user"}),
    ];
    to.extend(traced.iter().flat_map(|when| service_graph_end("server").into_iter().map(move |p| with(p, when))));
    to.push(json!({"host": "{server}", "when": {"connection_type": "virtual_node"}}));
    json!({
        "name": name, "source": "servicegraph", "metric": metric, "prefixed": true, "measure": measure,
        "match": "connection_type!=\"messaging_system\"", "from": from, "to": to,
    })
}

fn service_graphs() -> impl Iterator<Item = Value> {
    let mut calls = service_graph_calls("servicegraph", "traces_service_graph_request_total", "requests");
    calls["failed_metric"] = json!("traces_service_graph_request_failed_total");
    let mut info = service_graph_calls("servicegraph-info", "traces_service_graph_connection_info", "presence");
    info["failed_metric"] = Value::Null;
    // Who reads a message depends on who has sent it, and has it later.
    let messages = json!({
        "name": "servicegraph-messages", "source": "servicegraph", "metric": "traces_service_graph_request_total", "prefixed": true,
        "measure": "activity", "match": "connection_type=\"messaging_system\"",
        "from": service_graph_end("server"), "to": service_graph_end("client"), "flow": "data",
    });
    [calls, info, messages].into_iter()
}

/// An end of a flow: from `labelsContext`, or from the contexts of sources and destinations (workload, pod, DNS name).
fn hubble_end(end: &str) -> Value {
    json!([
        {"namespace": format!("{{{end}_namespace}}"), "name": format!("{{{end}_workload}}")},
        {"namespace": format!("{{{end}_namespace}}"), "name": format!("{{{end}_app}}")},
        {"path": format!("{{{end}|workload}}")},
    ])
}

fn hubble() -> impl Iterator<Item = Value> {
    let http = json!({
        "name": "hubble", "source": "hubble", "metric": "hubble_http_requests_total",
        "from": hubble_end("source"), "to": hubble_end("destination"), "count_once_by": "reporter", "failures": ["status=~\"0|5..\""],
    });
    let tcp = json!({
        "name": "hubble-tcp", "source": "hubble", "metric": "hubble_tcp_flags_total", "measure": "activity", "match": "flag=\"SYN\"",
        "from": hubble_end("source"), "to": hubble_end("destination"),
    });
    let topic = json!([{"kind": "topic", "name": "{topic}"}]);
    let kafka = |name: &str, key: &str, from: Value, to: Value| {
        json!({
            "name": name, "source": "hubble", "metric": "hubble_kafka_requests_total", "measure": "activity",
            "match": format!("api_key=~\"(?i){key}\""), "from": from, "to": to,
        })
    };
    let mut reads = kafka("hubble-kafka-reads", "fetch", hubble_end("source"), topic.clone());
    reads["flow"] = json!("data");
    let writes = kafka("hubble-kafka-writes", "produce", topic, hubble_end("source"));
    [http, tcp, reads, writes].into_iter()
}
