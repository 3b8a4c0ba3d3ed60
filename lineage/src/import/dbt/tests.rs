//! A manifest that dbt 1.12 has written for a small shop.

use serde_json::json;

use crate::import::Options;
use crate::import::tests::{assert_lines, graph, lines, reads};
use crate::model::Criticality;
use crate::testing::key;

fn options() -> Options {
    Options { dbt_namespace: Some("postgres://wh:5432".into()), ..Options::default() }
}

#[test]
fn tables_jobs_and_who_uses_them() {
    let reads = reads("dbt", &options());
    assert!(reads[0].warnings.is_empty(), "{:?}", reads[0].warnings);
    let graph = graph(reads);
    let table = |name: &str| format!("dataset:postgres:%2f%2fwh:5432/{name}");
    let revenue = table("shop.main.revenue");
    assert_lines(
        &graph,
        "job:dbt/shop.main.shop.revenue",
        3,
        &[
            &format!("job:dbt/shop.main.shop.revenue -> {} hard", table("shop.main.stg_orders")),
            &format!("job:dbt/shop.main.shop.revenue -> {} hard", table("shop.main.regions")),
            // It is no table.
            "job:dbt/shop.main.shop.revenue -> job:dbt/shop.main.shop.paid_orders hard",
        ],
    );
    let from = lines(&graph, "");
    for line in [
        format!("{revenue} -> job:dbt/shop.main.shop.revenue hard data"),
        format!("dashboard:shop/revenue_dashboard -> {revenue} hard data"),
        format!("application:billing -> {revenue} hard"),
        format!("application:billing -> {} hard", table("shop.public.payments")),
        // Through the semantic model.
        format!("metric:shop/total_revenue -> {revenue} hard data"),
        format!("job:dbt/shop.main.shop.paid_orders -> {} hard", table("shop.public.payments")),
        format!("{revenue} => {}/total hard", revenue.replace("dataset:", "column:")),
    ] {
        assert!(from.contains(&line), "{line} is not in {from:#?}");
    }
    assert_eq!(from.len(), 23);
    assert!(!from.iter().any(|l| l.contains("not_null")), "tests make nothing");
}

#[test]
fn what_is_said_about_them() {
    let graph = graph(reads("dbt", &options()));
    let node = |id: &str| graph.node(graph.get(&key(id)).expect("there"));
    let revenue = node("dataset:postgres:%2F%2Fwh:5432/shop.main.revenue");
    let owners: Vec<_> = revenue.owners.iter().map(|o| (o.name.as_str(), o.role.as_str())).collect();
    assert_eq!((owners, revenue.criticality), (vec![("alice", "owner"), ("team-finance", "group")], Criticality::High));
    assert_eq!((revenue.tags.len(), revenue.description.as_str()), (2, "Captured revenue by region."));
    assert_eq!(revenue.attributes["fields"], json!([{"name": "region", "type": "varchar"}, {"name": "total", "type": "numeric"}]));
    let orders = node("dataset:postgres:%2F%2Fwh:5432/shop.public.orders");
    assert_eq!((orders.owners[0].name.as_str(), &orders.attributes["loader"]), ("team-platform", &json!("debezium")));
    let dashboard = node("dashboard:shop/revenue_dashboard");
    assert_eq!((dashboard.name.as_str(), dashboard.owners[0].name.as_str()), ("Revenue", "Finance"));
    // dbt build names its runs otherwise.
    assert_eq!(node("job:dbt/shop.main.shop.revenue.build.run").id, key("job:dbt/shop.main.shop.revenue"));
}

#[test]
fn a_manifest_does_not_know_where_its_warehouse_is() {
    let reads = reads("dbt", &Options::default());
    assert!(reads[0].warnings[0].contains("--dbt-namespace"));
    assert!(graph(reads).find(&key("dataset:duckdb/shop.main.revenue")).is_some());
}
