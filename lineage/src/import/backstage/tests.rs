//! A catalog of two files that refer to each other.

use serde_json::json;

use super::*;
use crate::import::Options;
use crate::import::read;
use crate::import::tests::{AT_MS, assert_lines, file, graph, reads};
use crate::model::Criticality;
use crate::testing::key;

#[test]
fn entities_become_nodes_of_their_kind() {
    let reads = reads("backstage", &Options::default());
    assert_eq!(reads[0].warnings.len(), 1);
    assert!(reads[0].warnings[0].starts_with("line 1: component payment-service: \"no-id\" is no node id"));
    let graph = graph(reads);
    assert_lines(
        &graph,
        "service:payment-service",
        5,
        &[
            "service:payment-service -> database:ledger hard",
            "service:payment-service -> interface:risk/fraud-api hard",
            "service:payment-service -> kafka-topic:orders-topic hard",
            "service:payment-service -> service:ledger-service hard",
            "service:payment-service => service:ledger-service hard",
        ],
    );
    assert_lines(&graph, "interface:payment-api", 1, &["interface:payment-api -> service:payment-service hard"]);
    assert_lines(&graph, "service:reporting", 1, &["service:reporting -> database:ledger hard"]);
    assert_lines(&graph, "project:commerce", 1, &["project:commerce => application:online-boutique hard"]);
    assert_lines(&graph, "team:commerce", 1, &["team:commerce => team:team-payments hard"]);
    assert!(graph.types().is_a("kafka-topic", "topic") && graph.types().is_data("kafka-topic"));

    let payment = graph.node(graph.get(&key("service:shop/paymentservice")).expect("by its annotation"));
    assert_eq!(
        (payment.id.as_str(), payment.name.as_str(), payment.criticality),
        ("service:payment-service", "Payment", Criticality::Critical)
    );
    assert_eq!((payment.owners[0].name.as_str(), payment.tags.len()), ("team-payments", 2));
    assert_eq!((&payment.attributes["lifecycle"], &payment.attributes["type"]), (&json!("production"), &json!("service")));
    assert!(payment.aliases.iter().any(|a| a.id == key("database:legacy-payment") && a.rule == "backstage-annotation"));
    assert!(graph.find(&key("service:ledger")).is_some(), "by its label selector");
    assert!(graph.find(&key("resource:ledger")).is_some(), "by a reference that does not know its type");
    let team = graph.node(graph.get(&key("team:team-payments")).expect("there"));
    assert_eq!((team.name.as_str(), &team.attributes["email"]), ("Payments", &json!("payments@example.org")));
    assert_eq!(graph.node(graph.get(&key("project:commerce")).expect("there")).owners[0].name, "leads/commerce");
}

#[test]
fn references_that_mean_nothing_are_warnings() {
    let text = "apiVersion: backstage.io/v1alpha1\nkind: Component\nmetadata: {name: a, namespace: n}\nspec: {dependsOn: ['user:x', 'component:', other, 'resource:db'], system: [s]}\n---\napiVersion: backstage.io/v1alpha1\nkind: Location\nmetadata: {name: l}\n---\napiVersion: backstage.io/v1alpha1\nkind: API\nmetadata: {}\n";
    let reads = read(&[file("x.yaml", text)], &Options::default(), AT_MS);
    let warnings = &reads[0].warnings;
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings.iter().any(|w| w.starts_with("line 1: component a: dependsOn") && w.contains("user:x")), "{warnings:?}");
    assert_lines(
        &graph(reads),
        "",
        3,
        &["service:n/a -> service:n/other hard", "service:n/a -> resource:n/db hard", "application:n/s => service:n/a hard"],
    );
}

#[test]
fn types_of_resources_are_kinds() {
    assert_eq!(["S3 Bucket", "database", "Ünï", "", "-x-"].map(resource_kind), ["s3-bucket", "database", "n", "resource", "x"]);
}
