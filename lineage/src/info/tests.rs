//! Samples of a graph that changes.

use std::sync::Arc;

use isobar_block::is_stale;
use serde_json::json;

use super::*;
use crate::Event;
use crate::mesh::fake::Fake;
use crate::mesh::tests::{bucket, service, tenant};

async fn say(tenant: &Tenant, facts: serde_json::Value) {
    let at_ms = time::now_ms();
    let event: Event =
        serde_json::from_value(json!({"id": format!("{at_ms}"), "source": "test", "at_ms": at_ms, "facts": facts})).expect("an event");
    tenant.store.append(vec![event]).await.expect("appends");
    tokio::time::sleep(Duration::from_millis(2)).await;
}

/// What was written since the last call: the provider of an edge or the name of a node, and whether it goes on.
fn taken(fake: &Fake) -> Vec<(String, bool)> {
    let written = std::mem::take(&mut *fake.written.lock());
    let name = |l: &Labels| format!("{} {}", l.get("__name__").unwrap_or(""), l.get("to").or(l.get("node")).unwrap_or(""));
    let mut names: Vec<(String, bool)> = written.iter().map(|(l, _, v)| (name(l), !is_stale(*v))).collect();
    names.sort();
    names
}

#[tokio::test]
async fn what_goes_gets_a_stale_marker_once() {
    let fake = Arc::new(Fake::default());
    let service = service(&fake, &bucket(), "");
    let tenant = tenant(&service).await;
    let mut written = Written::default();
    say(&tenant, json!([{"edge": {"from": "service:a", "to": "service:b"}}])).await;
    write(&service, &tenant, 1_000, &mut written).await;
    let line = |text: &str, on: bool| (text.to_owned(), on);
    let (edge, a, b) = ("isobar_lineage_edge service:b", "isobar_lineage_node_info service:a", "isobar_lineage_node_info service:b");
    assert_eq!(taken(&fake), [line(edge, true), line(a, true), line(b, true)]);
    say(&tenant, json!([{"edge_gone": {"from": "service:a", "to": "service:b"}}, {"node": {"node": "service:a"}}])).await;
    write(&service, &tenant, 2_000, &mut written).await;
    assert_eq!(taken(&fake), [line(edge, false), line(a, true), line(b, false)]);
    write(&service, &tenant, 3_000, &mut written).await;
    assert_eq!(taken(&fake), [line(a, true)]);
    let mut settings = (*service.settings()).clone();
    settings.info.enabled = false;
    service.replace_settings(settings);
    write(&service, &tenant, 4_000, &mut written).await;
    assert_eq!(taken(&fake), [line(a, false)]);
    write(&service, &tenant, 5_000, &mut written).await;
    assert!(taken(&fake).is_empty() && written.series.is_empty());
}

#[tokio::test]
async fn what_is_over_the_limit_is_counted() {
    let fake = Arc::new(Fake::default());
    let service = service(&fake, &bucket(), "info: {max_series: 10}");
    let tenant = tenant(&service).await;
    let mut written = Written::default();
    let edges: Vec<_> = (0..50).map(|i| json!({"edge": {"from": "service:a", "to": format!("service:b{i}")}})).collect();
    say(&tenant, json!(edges)).await;
    write(&service, &tenant, 1_000, &mut written).await;
    assert_eq!((taken(&fake).len(), written.left_out), (10, 50 + 51 - 10));
    assert!(crate::settings::Settings::from_yaml("info: {interval: 10m}").is_err());
}
