//! Tests of the tables.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float32Type, Int64Type, TimestampMillisecondType};
use serde_json::json;

use super::*;
use crate::testing::{AT_MS, snapshot};

fn column<'a>(batch: &'a RecordBatch, name: &str) -> &'a ArrayRef {
    batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"))
}

fn list(batch: &RecordBatch, name: &str, row: usize) -> Vec<String> {
    column(batch, name).as_list::<i32>().value(row).as_string::<i32>().iter().map(|v| v.expect("a text").to_owned()).collect()
}

#[test]
fn nodes_and_edges_read_back_as_they_were_said() {
    let graph = snapshot(json!([
        {"type": {"name": "web", "body": {"inherits": "service"}}},
        {"node": {"node": "web:shop/front%2Fend", "body": {"title": "Shop", "owners": [{"name": "team-a"}, {"name": "team-b"}],
            "criticality": "critical", "tags": ["x"], "entry": true, "attributes": {"n": 1}, "description": "sells"}}},
        {"edge": {"from": "web:shop/front%2Fend", "to": "service:shop/cart", "ttl_ms": 60000,
            "body": {"evidence": "observed", "class": "soft", "share": 0.25, "lag_ms": 5, "group": {"id": "g", "k": 1, "n": 3}}}},
        {"alias": {"alias": "service:cart", "canonical": "service:shop/cart", "rule": "r"}},
    ]));
    let nodes: Vec<RecordBatch> = nodes(&graph).collect();
    let [nodes] = nodes.as_slice() else { panic!("one batch") };
    assert_eq!((nodes.num_rows(), nodes.schema()), (2, node_schema()));
    let ids = column(nodes, "id").as_string::<i32>();
    let (front, cart) = if ids.value(0).starts_with("web") { (0, 1) } else { (1, 0) };
    assert_eq!((ids.value(front), ids.value(cart)), ("web:shop/front%2Fend", "service:shop/cart"));
    let at = |name: &str, row| column(nodes, name).as_string::<i32>().value(row).to_owned();
    assert_eq!((at("namespace", front), at("name", front), at("title", front)), ("shop".into(), "front/end".into(), "Shop".into()));
    assert_eq!(
        (at("criticality", front), at("attributes", front), at("description", front)),
        ("critical".into(), "{\"n\":1}".into(), "sells".into())
    );
    assert_eq!(
        (list(nodes, "kinds", front), list(nodes, "owners", front)),
        (vec!["web".to_owned(), "service".to_owned()], vec!["team-a".to_owned(), "team-b".to_owned()])
    );
    assert_eq!((list(nodes, "aliases", cart), list(nodes, "sources", front)), (vec!["service:cart".to_owned()], vec!["test".to_owned()]));
    assert!(column(nodes, "title").is_null(cart) && column(nodes, "entry").as_boolean().value(front));
    assert!(column(nodes, "last_seen").is_null(cart), "only an edge mentions it");
    assert_eq!(column(nodes, "first_seen").as_primitive::<TimestampMillisecondType>().value(front), AT_MS);
    assert_eq!(column(nodes, "as_of").as_primitive::<TimestampMillisecondType>().value(front), graph.at_ms());

    let edges: Vec<RecordBatch> = edges(&graph).collect();
    let [edges] = edges.as_slice() else { panic!("one batch") };
    assert_eq!((edges.num_rows(), edges.schema()), (1, edge_schema()));
    let at = |name: &str| column(edges, name).as_string::<i32>().value(0).to_owned();
    assert_eq!(
        (at("from_id"), at("from_kind"), at("to_id"), at("to_kind")),
        ("web:shop/front%2Fend".into(), "web".into(), "service:shop/cart".into(), "service".into())
    );
    assert_eq!(
        (at("relation"), at("class"), at("status"), at("group_id")),
        ("dependency".into(), "soft".into(), "live".into(), "g".into())
    );
    assert_eq!(column(edges, "share").as_primitive::<Float32Type>().value(0), 0.25);
    assert_eq!(column(edges, "lag_ms").as_primitive::<Int64Type>().value(0), 5);
    assert_eq!(column(edges, "group_n").as_primitive::<Int64Type>().value(0), 3);
    assert_eq!(list(edges, "evidence", 0), ["observed"]);
}

#[test]
fn batches_are_bounded_in_rows_and_bytes() {
    let rows = |n: usize, name: &str| -> Vec<Value> { (0..n).map(|i| json!({"node": {"node": format!("service:{name}{i}")}})).collect() };
    let many = snapshot(Value::Array(rows(BATCH_ROWS + 10, "n")));
    assert_eq!(nodes(&many).map(|b| b.num_rows()).collect::<Vec<_>>(), [BATCH_ROWS, 10]);
    let long = snapshot(Value::Array(rows(300, &"x".repeat(60_000))));
    let sizes: Vec<usize> = nodes(&long).map(|b| b.num_rows()).collect();
    assert!(sizes.len() >= 2 && sizes.iter().sum::<usize>() == 300, "{sizes:?}");
    assert_eq!(edges(&many).count(), 0);
}
