//! Tests of folding query answers into edges.

use super::*;
use crate::mesh::Settings;
use crate::mesh::fake::row;
use crate::testing::key;

fn rule(name: &str) -> Rule {
    Settings::default().active().into_iter().find(|r| r.name == name).expect("a built-in rule")
}

fn folded(name: &str, rows: Vec<VectorSample>) -> RuleFound {
    let rule = rule(name);
    rule.check().expect("is valid");
    fold(&rule, &[MetricRows { metric: rule.metric.clone(), rows }])
}

fn edges(found: &RuleFound) -> Vec<String> {
    let mut lines: Vec<String> = found.edges.iter().map(|((a, b), t)| format!("{a} -> {b} {:.1} {:.1}", t.rate, t.failed)).collect();
    lines.sort();
    lines
}

/// A row of Istio: reporter, caller, provider as `namespace/name`, and further labels.
fn istio(reporter: &str, from: &str, to: &str, more: &str, value: f64) -> VectorSample {
    let split = |id: &'static str, text: &str| {
        let (namespace, name) = text.split_once('/').unwrap_or(("unknown", text));
        match id {
            "source" => format!("source_workload_namespace={namespace},source_workload={name}-v1,source_canonical_service={name}"),
            _ => format!(
                "destination_workload_namespace={namespace},destination_canonical_service={name},destination_service_namespace={namespace},\
                 destination_service_name={name},destination_service={name}.{namespace}.svc.cluster.local"
            ),
        }
    };
    row(&format!("reporter={reporter},{},{},{more}", split("source", from), split("destination", to)), value)
}

#[test]
fn istio_counts_a_request_once_whoever_reports_it() {
    let found = folded(
        "istio",
        vec![
            // Both proxies see it; ten more never arrived.
            istio("destination", "shop/front", "shop/cart", "", 90.0),
            istio("source", "shop/front", "shop/cart", "", 90.0),
            istio("source", "shop/front", "shop/cart", "destination_workload=unknown", 10.0),
            istio("source", "shop/front", "shop/cart", "isobar_failed=true", 10.0),
            // In ambient mode a waypoint sees it too.
            istio("waypoint", "shop/front", "shop/cart", "", 85.0),
            // A provider without a proxy is only seen from its caller.
            istio("source", "shop/cart", "data/redis", "", 30.0),
            // What comes from outside of the mesh is no edge, but it is traffic.
            istio("destination", "unknown", "shop/front", "", 50.0),
            istio("destination", "shop/front", "shop/front", "", 5.0),
        ],
    );
    assert_eq!(edges(&found), ["service:shop/cart -> service:data/redis 30.0 0.0", "service:shop/front -> service:shop/cart 100.0 10.0"]);
    assert_eq!(found.inbound[&key("shop/cart")], Traffic { rate: 100.0, failed: 10.0 });
    assert_eq!(found.inbound[&key("shop/front")].rate, 55.0);
    assert_eq!(found.outside[&key("shop/front")], 50.0);
    assert!(found.aliases.is_empty() && found.outside.len() == 1);
}

#[test]
fn istio_names_what_is_unknown_outside_or_elsewhere() {
    let to = |canonical: &str, name: &str, host: &str, more: &str| {
        let text = format!(
            "reporter=source,source_workload_namespace=shop,source_canonical_service=front,destination_workload_namespace=shop,\
             destination_canonical_service={canonical},destination_service_namespace=shop,destination_service_name={name},destination_service={host},{more}"
        );
        row(&text, 1.0)
    };
    let found = folded(
        "istio",
        vec![
            to("unknown", "PassthroughCluster", "unknown", ""),
            to("unknown", "BlackHoleCluster", "1.2.3.4", ""),
            to("unknown", "api.stripe.com", "api.stripe.com", ""),
            to("unknown", "10.1.2.3", "10.1.2.3:80", ""),
            to("unknown", "unknown", "unknown", ""),
            to("pay", "payment", "payment.shop.svc.cluster.local", "source_cluster=east,destination_cluster=west"),
            // It did not arrive, so that nobody knows who would have answered: the alias does.
            to("unknown", "payment", "payment.shop.svc.cluster.local", "source_cluster=east,destination_cluster=unknown"),
            // Two behind one name: it is nobody's alias.
            to("cart-a", "carts", "carts.shop.svc.cluster.local", ""),
            to("cart-b", "carts", "carts.shop.svc.cluster.local", ""),
        ],
    );
    assert_eq!(
        edges(&found),
        [
            "service:shop/front -> external:BlackHoleCluster 1.0 0.0",
            "service:shop/front -> external:PassthroughCluster 1.0 0.0",
            "service:shop/front -> external:api.stripe.com 1.0 0.0",
            "service:shop/front -> service:shop/cart-a 1.0 0.0",
            "service:shop/front -> service:shop/cart-b 1.0 0.0",
            "service:shop/front -> service:shop/pay 2.0 0.0",
        ]
    );
    assert_eq!(found.aliases, [(key("shop/payment"), key("shop/pay"))]);
    assert_eq!(found.skipped, Skipped { addresses: 1, unnamed: 1 });
    assert_eq!(found.clusters[&(key("shop/front"), key("shop/pay"))], ("east".to_owned(), "west".to_owned()));
}

#[test]
fn linkerd_joins_both_sides() {
    let out = |to: &str, more: &str, value: f64| row(&format!("direction=outbound,namespace=shop,deployment=web,{to},{more}"), value);
    let found = folded(
        "linkerd",
        vec![
            out("dst_namespace=shop,dst_deployment=emoji,dst_service=emoji-svc", "", 40.0),
            out("dst_namespace=shop,dst_deployment=emoji,dst_service=emoji-svc", "isobar_failed=true", 4.0),
            out("dst_namespace=data,dst_statefulset=pg", "", 5.0),
            out("authority=vote-svc.shop.svc.cluster.local:8080", "", 7.0),
            out("authority=api.github.com:443", "", 1.0),
            out("authority=10.0.0.9:80,target_addr=10.0.0.9:80", "", 1.0),
            row("direction=inbound,namespace=shop,deployment=emoji", 60.0),
            row("direction=inbound,namespace=shop,deployment=web", 50.0),
        ],
    );
    assert_eq!(
        edges(&found),
        [
            "service:shop/web -> external:api.github.com 1.0 0.0",
            "service:shop/web -> service:data/pg 5.0 0.0",
            "service:shop/web -> service:shop/emoji 40.0 4.0",
            "service:shop/web -> service:shop/vote-svc 7.0 0.0",
        ]
    );
    assert_eq!((found.inbound[&key("shop/emoji")].rate, found.outside[&key("shop/emoji")]), (60.0, 20.0));
    assert_eq!((found.inbound[&key("shop/web")].rate, found.skipped.addresses), (50.0, 1));
    assert_eq!(found.aliases, [(key("shop/emoji-svc"), key("shop/emoji"))]);
}

#[test]
fn service_graphs_know_users_databases_and_messages() {
    let found = folded(
        "servicegraph",
        vec![
            row("client=user,server=front,connection_type=virtual_node", 20.0),
            row("client=front,server=cart", 15.0),
            row("client=front,server=cart,isobar_failed=true", 1.5),
            row("client=cart,server=orders,connection_type=database", 3.0),
            row("client=cart,server=api.stripe.com,connection_type=virtual_node", 2.0),
            row("client=cart,server=10.2.3.4:80,connection_type=virtual_node", 2.0),
            row("client=mobile,server=front,connection_type=virtual_node,virtual_node=client", 4.0),
            row("client=a,server=b,client_service_namespace=x,server_k8s_namespace_name=y", 1.0),
        ],
    );
    assert_eq!(
        edges(&found),
        [
            "service:cart -> database:orders 3.0 0.0",
            "service:cart -> external:api.stripe.com 2.0 0.0",
            "service:front -> service:cart 15.0 1.5",
            "service:x/a -> service:y/b 1.0 0.0",
        ]
    );
    assert_eq!((found.inbound[&key("front")].rate, found.outside[&key("front")], found.skipped.addresses), (24.0, 24.0, 1));
    let messages = folded("servicegraph-messages", vec![row("client=front,server=mailer,connection_type=messaging_system", 3.0)]);
    assert_eq!(edges(&messages), ["service:mailer -> service:front 0.0 0.0"]);
    assert!(messages.inbound.is_empty());
}

#[test]
fn hubble_is_counted_once_and_kafka_flows_both_ways() {
    let http = |reporter: &str, value: f64| {
        row(&format!("reporter={reporter},source_namespace=a,source_workload=x,destination_namespace=b,destination_workload=y"), value)
    };
    assert_eq!(edges(&folded("hubble", vec![http("client", 7.0), http("server", 6.0)])), ["service:a/x -> service:b/y 7.0 0.0"]);
    let contexts = vec![row("source=shop/cart,destination=reserved:world", 1.0), row("source=shop/cart,destination=shop/pay-0", 2.0)];
    let found = folded("hubble", contexts);
    assert_eq!((edges(&found), found.skipped.unnamed), (vec!["service:shop/cart -> service:shop/pay 2.0 0.0".to_owned()], 1));
    let kafka = || vec![row("topic=orders,source_namespace=a,source_workload=x", 1.0)];
    assert_eq!(edges(&folded("hubble-kafka-reads", kafka())), ["service:a/x -> topic:orders 0.0 0.0"]);
    assert_eq!(edges(&folded("hubble-kafka-writes", kafka())), ["topic:orders -> service:a/x 0.0 0.0"]);
}

#[test]
fn two_pipelines_that_show_one_edge_show_the_same_requests() {
    let rule = rule("servicegraph");
    let of = |metric: &str, value: f64| MetricRows { metric: metric.into(), rows: vec![row("client=a,server=b", value)] };
    let found = fold(&rule, &[of("traces_service_graph_request_total", 5.0), of("x_traces_service_graph_request_total", 6.0)]);
    assert_eq!(edges(&found), ["service:a -> service:b 6.0 0.0"]);
    assert_eq!(found.inbound[&key("b")].rate, 6.0);
}
