//! Impacts survive the process, are the same to several processes, and are read long after they are over.

use super::*;
use crate::alerts::state::{MAX_UNMATCHED, RECENT};

#[tokio::test]
async fn open_and_closed_impacts_survive_the_process() {
    let server = Server::new("");
    server.shop().await;
    let open = server.webhook(&message("open", &[payment(true, ago_ms(60))])).await["impact"].clone();
    let closed = server.webhook(&message("closed", &[payment(true, ago_ms(50))])).await["impact"].clone();
    server.webhook(&message("closed", &[payment(false, ago_ms(50))])).await;
    server.webhook(&message("ghost", &[alert("G", true, ago_ms(5), json!({"x": "y"}))])).await;
    let path = |id: &Value| format!("/api/v1/impact/{}", id.as_str().expect("an id"));
    let before = (server.get(&path(&open)).await, server.get(&path(&closed)).await);
    server.tenant().await.alerts.keeper().checkpoint().await.expect("written");
    // Without a checkpoint, and with one that another entry follows.
    for round in 0..2 {
        let again = Server::over(&server.bucket, "");
        let after = again.get(&path(&open)).await;
        assert_eq!(after["nodes"].as_array().map(Vec::len), Some(round + 1), "what was added is there");
        if round == 0 {
            assert_eq!(after["assessment"], before.0["assessment"]);
        }
        assert_eq!(again.get(&path(&closed)).await["assessment"], before.1["assessment"]);
        assert_eq!(again.get("/api/v1/impact?state=firing").await["impacts"][0]["id"], open);
        assert_eq!(again.get("/api/v1/alerts/unmatched").await["total"], 1);
        if round == 0 {
            again.webhook(&message("open", &[payment(true, ago_ms(60)), alert("More", true, ago_ms(1), json!({"service": "cart"}))])).await;
        }
    }
}

#[tokio::test]
async fn two_processes_see_the_same() {
    let one = Server::new("");
    let two = Server::over(&one.bucket, "");
    one.shop().await;
    two.tenant().await;
    let started_ms = ago_ms(60);
    let first = one.webhook(&message("g", &[payment(true, started_ms)])).await;
    // The other one has not looked for a while, so that it does not know of the impact; the log tells it.
    let cart = alert("Down", true, started_ms, json!({"service": "cart"}));
    let (h, i) = (message("h", std::slice::from_ref(&cart)), message("i", std::slice::from_ref(&cart)));
    let (a, b) = tokio::join!(one.webhook(&h), two.webhook(&i));
    assert!(a["impact"].is_string() && b["impact"].is_string());
    tokio::time::sleep(Duration::from_millis(super::super::keep::FOLLOW_MS as u64 + 50)).await;
    for server in [&one, &two] {
        let list = server.get("/api/v1/impact?state=firing").await;
        assert_eq!(list["impacts"].as_array().map(Vec::len), Some(3), "{list}");
    }
    assert_eq!(two.get(&format!("/api/v1/impact/{}", first["impact"].as_str().expect("an id"))).await["state"], "firing");
}

#[tokio::test]
async fn old_impacts_leave_memory_and_can_still_be_read() {
    let server = Server::new("");
    server.shop().await;
    let keeper = Arc::clone(server.tenant().await.alerts.keeper());
    let first_ms = ago_ms(1000);
    let mut ids = Vec::new();
    for i in 0..RECENT as i64 + 10 {
        let group = format!("g{i}");
        ids.push(server.webhook(&message(&group, &[payment(true, first_ms + i)])).await["impact"].as_str().expect("an id").to_owned());
        server.webhook(&message(&group, &[payment(false, first_ms + i)])).await;
    }
    keeper.record_closed().await.expect("written");
    assert_eq!(keeper.read(|s| (s.open.len(), s.recent.len())), (0, RECENT));
    let old = server.get(&format!("/api/v1/impact/{}", ids[0])).await;
    assert_eq!(super::ids(&old["assessment"]["interfaces"]), ["interface:shop/checkout"]);
    let since = |ms: i64| format!("/api/v1/impact?since={}&limit=1000", ms as f64 / 1000.0);
    let all = server.get(&since(first_ms)).await;
    assert_eq!(all["impacts"].as_array().map(Vec::len), Some(ids.len()));
    let oldest = server.get(&format!("{}&until={}", since(first_ms), (first_ms + 3) as f64 / 1000.0)).await;
    let shown: Vec<&str> = super::ids(&oldest["impacts"]);
    assert_eq!(shown, [ids[2].as_str(), &ids[1], &ids[0]]);
    // A process that starts now has the same.
    keeper.checkpoint().await.expect("written");
    let again = Server::over(&server.bucket, "");
    assert_eq!(again.get(&format!("/api/v1/impact/{}", ids[0])).await["assessment"], old["assessment"]);
}

#[tokio::test]
async fn a_flood_is_bounded() {
    let server = Server::new("");
    server.shop().await;
    let alerts: Vec<Value> = (0..MAX_UNMATCHED + 200).map(|i| alert("Flood", true, ago_ms(1), json!({"n": i.to_string()}))).collect();
    server.webhook(&message("g", &alerts)).await;
    let queue = server.get("/api/v1/alerts/unmatched").await;
    assert_eq!((&queue["total"], &queue["dropped"], &queue["complete"]), (&json!(MAX_UNMATCHED), &json!(200), &json!(false)));
    let kept =
        server.tenant().await.alerts.keeper().read(|s| s.open.values().map(|i| (i.alerts.len(), i.left_out_alerts)).collect::<Vec<_>>());
    assert_eq!(kept, [(crate::alerts::model::MAX_ALERTS, 200)]);
}

#[tokio::test]
async fn the_same_alerts_after_a_break_are_the_same_impact() {
    let server = Server::new("");
    server.shop().await;
    let started_ms = ago_ms(60);
    let id = server.webhook(&message("g", &[payment(true, started_ms)])).await["impact"].clone();
    server.webhook(&message("g", &[payment(false, started_ms)])).await;
    assert_eq!(server.webhook(&message("g", &[payment(true, started_ms)])).await["impact"], id);
    let (open, recent) = server.tenant().await.alerts.keeper().read(|s| (s.open.len(), s.recent.len()));
    assert_eq!((open, recent), (1, 0));
    let impact = server.get(&format!("/api/v1/impact/{}", id.as_str().expect("an id"))).await;
    assert_eq!(impact["state"], json!(State::Firing));
    assert_eq!(impact["resolved_ms"], Value::Null);
}
