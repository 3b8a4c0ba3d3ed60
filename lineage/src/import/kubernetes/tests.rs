//! Real shapes of manifests: an online shop as it is written and as the cluster shows it, routes, Knative.

use serde_json::json;

use super::*;
use crate::import::tests::{AT_MS, assert_lines, file, graph, lines, reads};
use crate::import::{Read, read};
use crate::model::Criticality;
use crate::snapshot::Snapshot;
use crate::testing::key;

fn of(content: &str) -> Vec<Read> {
    read(&[file("x.yaml", content)], &Options::default(), AT_MS)
}

fn shop() -> Snapshot {
    graph(reads("kubernetes", &Options::default()))
}

#[test]
fn a_workload_and_its_own_service_are_one_node() {
    let graph = shop();
    let payment = graph.node(graph.get(&key("service:shop/payment")).expect("by the name of its traces"));
    assert_eq!(payment.id, key("service:shop/paymentservice"));
    let names: Vec<_> = payment.aliases.iter().map(|a| (a.id.as_str(), a.rule.as_str())).collect();
    assert_eq!(names, [("service:shop/payment", "otel-service-name"), ("workload:shop/paymentservice", "k8s-service-selector")]);
    assert_eq!((payment.criticality, payment.owners[0].name.as_str()), (Criticality::Critical, "team-payments"));
    assert_eq!((&payment.attributes["replicas"], &payment.attributes["version"]), (&json!(3), &json!("0.10.1")));
    assert_lines(
        &graph,
        "service:shop/paymentservice",
        8,
        &[
            "service:shop/paymentservice -> config:shop/configmap/payment-flags soft",
            "service:shop/paymentservice -> config:shop/secret/psp hard",
            // From a ConfigMap, from a URL with a password, from a known Service.
            "service:shop/paymentservice -> service:data/kafka hard confidence=0.3",
            "service:shop/paymentservice -> service:risk/fraud hard confidence=0.3",
            "service:shop/paymentservice -> service:shop/ledger-db hard confidence=0.6",
            // The budget keeps half of three, rounded up.
            "service:shop/paymentservice => instance:shop/paymentservice-5d4f8c7b9-x2x7k hard pods/2of3",
        ],
    );
    let everything = format!("{:?}", reads("kubernetes", &Options::default()));
    for secret in ["hunter2", "s3cret", "bm90LWEtcmVhbC10b2tlbg"] {
        assert!(!everything.contains(secret), "{secret} is kept");
    }
}

#[test]
fn pods_volumes_and_hosts_share_their_fate() {
    let graph = shop();
    assert_lines(&graph, "host:node-", 3, &["host:node-a -> zone:eu-1a hard"]);
    assert!(graph.find(&key("host:node-b.example.internal")).is_some());
    assert_lines(
        &graph,
        "volume:",
        3,
        &[
            "volume:shop/data-ledger-db-0 -> volume:pvc-6f0c hard",
            "volume:pvc-6f0c -> storage-class:fast hard",
            "volume:pvc-6f0c -> zone:eu-1a hard",
        ],
    );
    assert!(graph.types().is_hosting("storage-class"));
    // A pod that is done is none; one of the machine's own has no workload; one whose ReplicaSet is not there finds its Deployment.
    assert!(graph.find(&key("instance:shop/settle-29384756-zzzzz")).is_none());
    assert!(lines(&graph, "kube-proxy").contains("instance:kube-system/kube-proxy-node-a -> host:node-a hard"));
    assert!(lines(&graph, "service:shop/frontend").contains("service:shop/frontend => instance:shop/frontend-7b6c9d-abcde hard pods/1of3"));
    assert!(graph.find(&key("config:shop/configmap/kube-root-ca.crt")).is_none());
}

#[test]
fn services_and_routes_lead_to_workloads() {
    let graph = shop();
    // Two Services select the frontend; the one of its name is its own.
    assert_lines(
        &graph,
        "service:shop/frontend-external",
        3,
        &[
            "service:shop/frontend-external -> service:shop/frontend hard",
            "service:shop/frontend-external -> instance:shop/frontend-7b6c9d-abcde hard endpoints/1of?",
        ],
    );
    assert_lines(&graph, "service:shop/tax", 1, &["service:shop/tax -> external:192.0.2.10 hard endpoints/1of?"]);
    assert_lines(&graph, "service:shop/psp-gateway", 1, &["service:shop/psp-gateway -> external:api.psp.example.org hard"]);
    assert_lines(
        &graph,
        "interface:",
        5,
        &[
            "interface:shop/shop.example.org%2fcheckout -> service:shop/checkoutservice hard",
            "interface:shop/pay.example.org%2fv1 -> service:shop/paymentservice hard share=0.9",
            "interface:shop/pay.example.org%2fv1 -> service:shop/paymentservice-next hard share=0.1",
            "interface:shop/pay.example.org%2fv1 -> service:infra/edge hard",
        ],
    );
    assert_lines(&graph, "service:shop/adservice", 1, &["service:shop/adservice -> service:partners/ads-external hard share=0.5"]);
    assert!(lines(&graph, "currencyservice").contains("service:shop/currencyservice -> service:shop/currencyservice-v0 hard share=0"));
    let entry = graph.node(graph.get(&key("interface:shop/shop.example.org%2F")).expect("there"));
    assert!(entry.entry && entry.name == "shop.example.org/" && entry.owners[0].name == "team-web");
    assert!(lines(&graph, "application:online-boutique").len() > 10);
}

#[test]
fn what_the_cluster_and_the_files_say_is_the_same() {
    let graph = shop();
    // An init container that waits, and an address in arguments.
    assert!(lines(&graph, "checkoutservice").contains("service:shop/checkoutservice -> service:shop/currencyservice hard confidence=0.6"));
    assert_lines(&graph, "workload:shop/settle", 1, &["workload:shop/settle -> service:shop/ledger-db hard confidence=0.6"]);
    let edge = graph
        .edges()
        .map(|e| graph.edge(e))
        .find(|e| e.from == key("service:shop/checkoutservice") && e.to == key("service:shop/currencyservice"));
    let says = edge.expect("there").claims[0].says.attributes.clone().expect("how it was found");
    assert_eq!(says["via"], json!(["env CURRENCY_SERVICE_ADDR", "init container"]));
}

#[test]
fn redundancy_follows_from_budgets_and_replicas() {
    let of_budget = |budget: &str, replicas: &str| {
        let graph = graph(of(&format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: a}}, spec: {{{replicas} template: {{metadata: {{labels: {{app: a}}}}}}}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: a-1-x, labels: {{app: a, pod-template-hash: '1'}}, ownerReferences: [{{apiVersion: apps/v1, kind: ReplicaSet, name: a-1, controller: true}}]}}}}
---
{{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {{name: a}}, spec: {{{budget} selector: {{matchExpressions: [{{key: app, operator: In, values: [a, b]}}]}}}}}}
---
{{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {{name: a}}, spec: {{minReplicas: 7, scaleTargetRef: {{kind: Deployment, name: a}}}}}}
"
        )));
        let found = lines(&graph, "a");
        found.into_iter().next().and_then(|l| l.rsplit_once(' ').map(|(_, group)| group.to_owned())).expect("one edge")
    };
    for (budget, replicas, wanted) in [
        ("minAvailable: 2,", "replicas: 5,", "pods/2of5"),
        ("minAvailable: '30%',", "replicas: 5,", "pods/2of5"),
        ("maxUnavailable: 1,", "replicas: 5,", "pods/4of5"),
        ("maxUnavailable: '100%',", "replicas: 5,", "pods/1of5"),
        ("minAvailable: 9,", "replicas: 5,", "pods/5of5"),
        ("maxUnavailable: 1,", "", "pods/6of7"),
        ("", "replicas: 5,", "pods/1of5"),
        ("", "replicas: 0,", "pods/0of?"),
    ] {
        assert_eq!(of_budget(budget, replicas), wanted, "{budget} {replicas}");
    }
}

#[test]
fn a_version_and_its_canary_share_the_requests() {
    let workload = |name: &str, replicas: u32| {
        format!(
            "---\n{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: {name}, namespace: n}}, spec: {{replicas: {replicas}, template: {{metadata: {{labels: {{app: a}}}}}}}}}}\n"
        )
    };
    let service = "---\n{apiVersion: v1, kind: Service, metadata: {name: a, namespace: n}, spec: {selector: {app: a}}}\n";
    let ingress = |name: &str, annotations: &str, service: &str| {
        format!(
            "---\n{{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {{name: {name}, namespace: n, annotations: {{{annotations}}}}}, spec: {{rules: [{{host: h, http: {{paths: [{{backend: {{service: {{name: {service}}}}}}}]}}}}]}}}}\n"
        )
    };
    let canary = "nginx.ingress.kubernetes.io/canary: 'true', nginx.ingress.kubernetes.io/canary-weight: '25'";
    let text =
        [workload("stable", 9), workload("canary", 1), service.into(), ingress("main", "", "a"), ingress("next", canary, "b")].concat();
    let graph = graph(of(&text));
    assert_lines(
        &graph,
        "service:n/a",
        2,
        &["service:n/a -> workload:n/stable hard share=0.9", "service:n/a -> workload:n/canary hard share=0.1"],
    );
    assert_lines(
        &graph,
        "interface:",
        2,
        &["interface:n/h%2f -> service:n/a hard share=0.75", "interface:n/h%2f -> service:n/b hard share=0.25"],
    );
}

#[test]
fn knative_splits_by_percent_and_is_well_without_pods() {
    let graph = graph(reads("knative", &Options::default()));
    assert_lines(
        &graph,
        "service:shop/recommend",
        3,
        &[
            "service:shop/recommend -> workload:shop/recommend-00001 hard share=0.9",
            "service:shop/recommend -> workload:shop/recommend-00002 hard share=0",
            "service:shop/recommend -> workload:shop/recommend-00003 hard share=0.1",
        ],
    );
    let tagged = graph.edges().map(|e| graph.edge(e)).find(|e| e.to == key("workload:shop/recommend-00002")).expect("reachable");
    assert_eq!(tagged.claims[0].says.attributes.as_ref().expect("a tag")["tags"], json!(["canary"]));
    assert_lines(
        &graph,
        "workload:shop/recommend-0",
        4,
        &[
            "workload:shop/recommend-00001 -> service:shop/productcatalogservice hard confidence=0.3",
            "workload:shop/recommend-00001 => instance:shop/recommend-00001-deployment-6c9-aaaaa hard pods/1of2",
            "workload:shop/recommend-00003 => instance:shop/recommend-00003-deployment-7d1-bbbbb hard pods/0of?",
        ],
    );
    // Services that Knative made itself are left out, and a manifest that was never applied has one workload.
    assert!(graph.find(&key("external:kourier-internal.kourier-system.svc.cluster.local")).is_none());
    assert!(graph.find(&key("service:shop/recommend-00001-private")).is_none());
    assert_lines(&graph, "service:shop/thumbnails", 1, &["service:shop/thumbnails -> workload:shop/thumbnails hard"]);
    assert_lines(&graph, "workload:shop/thumbnails", 1, &["workload:shop/thumbnails -> service:shop/frontend hard confidence=0.3"]);
}

#[test]
fn events_flow_from_sources_to_subscribers() {
    let graph = graph(reads("knative", &Options::default()));
    assert_lines(
        &graph,
        "broker:shop/orders",
        2,
        &["broker:shop/orders -> workload:shop/orders-in soft data", "broker:shop/orders -> workload:shop/checkoutservice soft data"],
    );
    for (of, line) in [
        ("mailer", "service:shop/mailer -> broker:shop/orders soft data"),
        ("service:data/archive", "service:data/archive -> broker:shop/orders soft data"),
        ("orders-in", "workload:shop/orders-in -> topic:kafka:%2f%2fkafka.data:9092/orders soft data"),
        ("pricing", "service:shop/pricing -> topic:shop/prices soft data"),
        ("repriced", "topic:shop/repriced -> service:shop/pricing soft data"),
    ] {
        assert!(lines(&graph, of).contains(line), "{line}");
    }
}

#[test]
fn a_namespace_has_owners() {
    let text = "{apiVersion: v1, kind: Namespace, metadata: {name: n, labels: {example.org/team: team-n}}}
---
{apiVersion: v1, kind: Service, metadata: {name: a, namespace: n}, spec: {}}
---
{apiVersion: v1, kind: Service, metadata: {name: b, namespace: n, annotations: {a8r.io/owner: 'x, y'}}, spec: {}}
";
    let graph = graph(of(text));
    let owners = |id: &str| graph.node(graph.get(&key(id)).expect("there")).owners.iter().map(|o| o.name.clone()).collect::<Vec<_>>();
    assert_eq!((owners("service:n/a"), owners("service:n/b")), (vec!["team-n".to_owned()], vec!["x".to_owned(), "y".to_owned()]));
}

#[test]
fn what_says_nothing_is_told() {
    let reads = of(
        "{apiVersion: v1, kind: ServiceAccount, metadata: {name: a}}\n---\n{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: a}}",
    );
    assert_eq!(reads[0].warnings, ["nothing here says what depends on what: 1 Role, 1 ServiceAccount"]);
    let list = of(r#"{"kind": "PodList", "apiVersion": "v1", "items": [{"metadata": {"name": "a"}, "spec": {"nodeName": "h"}}]}"#);
    assert_lines(&graph(list), "", 1, &["instance:default/a -> host:h hard"]);
}
