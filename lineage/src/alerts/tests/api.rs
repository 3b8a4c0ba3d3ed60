//! The API v2 of Alertmanager as Prometheus uses it, groups, ends, alerts without a node, and what is refused.

use std::io::Write;

use super::*;

/// When the alerts of a test begin; the same for all of it.
fn start_ms() -> i64 {
    static START_MS: std::sync::LazyLock<i64> = std::sync::LazyLock::new(|| ago_ms(30));
    *START_MS
}

fn posted(service: &str, ends_ms: Option<i64>) -> Value {
    let mut alert = json!({
        "labels": {"alertname": "Down", "namespace": "shop", "service": service, "severity": "critical"},
        "annotations": {"summary": "x"},
        "startsAt": rfc3339(start_ms()),
        "generatorURL": "http://prometheus/g",
    });
    if let Some(ends_ms) = ends_ms {
        alert["endsAt"] = rfc3339(ends_ms).into();
    }
    alert
}

async fn firing(server: &Server) -> Vec<String> {
    let list = server.get("/api/v1/impact?state=firing").await;
    list["impacts"].as_array().expect("a list").iter().map(|i| i["group_labels"]["service"].as_str().unwrap_or("").to_owned()).collect()
}

#[tokio::test]
async fn prometheus_posts_directly() {
    let server = Server::new("");
    server.shop().await;
    let later_ms = time::now_ms() + 240_000;
    let both = json!([posted("payment", Some(later_ms)), posted("cart", None)]);
    let (status, answer) = server.post("/api/v2/alerts", &both).await;
    assert_eq!((status, answer), (StatusCode::OK, Value::from("")));
    let mut groups = firing(&server).await;
    groups.sort();
    assert_eq!(groups, ["cart", "payment"], "each service is a group");

    let shown = server.get("/api/v2/alerts?filter=service%3D%22payment%22").await;
    assert_eq!(shown.as_array().map(Vec::len), Some(1), "{shown}");
    assert_eq!(shown[0]["status"]["state"], "active");
    assert_eq!(shown[0]["endsAt"], rfc3339(later_ms));
    assert_eq!(shown[0]["fingerprint"].as_str().map(str::len), Some(16));
    assert_eq!(server.get("/api/v2/alerts?active=false").await, json!([]));
    assert_eq!(server.get("/api/v2/status").await["cluster"]["status"], "disabled");

    // The same again is not another impact; an end in the past closes it.
    let version = server.tenant().await.alerts.keeper().read(|s| s.version);
    server.post("/api/v2/alerts", &json!([posted("payment", Some(later_ms + 60_000))])).await;
    assert_eq!(server.tenant().await.alerts.keeper().read(|s| s.version), version, "a later end needs no entry in the log");
    assert_eq!(firing(&server).await.len(), 2);
    server.post("/api/v2/alerts", &json!([posted("payment", Some(ago_ms(1)))])).await;
    assert_eq!(firing(&server).await, ["cart"]);
}

#[tokio::test]
async fn what_is_not_repeated_ends() {
    let server = Server::new("alerts: {resolve_timeout: 1s, webhook_timeout: 2s}").run();
    server.shop().await;
    server.post("/api/v2/alerts", &json!([posted("payment", None)])).await;
    server.webhook(&message("g", &[payment(true, ago_ms(5))])).await;
    assert_eq!(firing(&server).await.len(), 2);
    until("both end", async || firing(&server).await.is_empty().then_some(())).await;
    let list = server.get("/api/v1/impact").await;
    for impact in list["impacts"].as_array().expect("a list") {
        let impact = server.get(&format!("/api/v1/impact/{}", impact["id"].as_str().expect("an id"))).await;
        assert_eq!(impact["resolved_by"], "timeout", "{impact}");
    }
}

#[tokio::test]
async fn good_alerts_are_taken_and_wrong_ones_are_named() {
    let server = Server::new("");
    server.shop().await;
    let wrong = json!({"labels": {"a": ""}});
    let turned = json!({"labels": {"a": "b"}, "startsAt": rfc3339(ago_ms(10)), "endsAt": rfc3339(ago_ms(20))});
    let (status, answer) = server.post("/api/v2/alerts", &json!([wrong, posted("payment", None), turned])).await;
    assert_eq!(status, 400);
    let error = answer["error"].as_str().expect("text");
    assert!(error.contains("[0].labels") && error.contains("[2].endsAt"), "{error}");
    assert_eq!(firing(&server).await, ["payment"]);
}

#[tokio::test]
async fn alerts_without_a_node_wait_for_one() {
    let server = Server::new("alerts: {debounce: 1s}").run();
    server.shop().await;
    let ghost = alert("Ghost", true, ago_ms(60), json!({"namespace": "shop", "service": "ghost"}));
    let receipt = server.webhook(&message("g", &[ghost])).await;
    assert_eq!((&receipt["impact"], &receipt["unmatched"]), (&Value::Null, &json!(1)), "{receipt}");
    let queue = server.get("/api/v1/alerts/unmatched").await;
    let alert = &queue["alerts"][0]["alert"];
    assert_eq!(alert["labels"]["service"], "ghost");
    let tried = alert["tried"].as_array().expect("a list");
    assert!(
        tried.iter().any(|t| t["rule"] == "service" && t["reason"].as_str().is_some_and(|r| r.contains("service:shop/ghost"))),
        "{tried:?}"
    );
    assert_eq!(server.get("/api/v1/impact").await["impacts"], json!([]));

    server.append("ghost", ago_ms(1), json!([{"edge": {"from": "service:shop/front", "to": "service:shop/ghost"}}])).await;
    let impacts = until("it finds its node", async || {
        let impacts = server.get("/api/v1/impact").await["impacts"].clone();
        (impacts[0]["touched"].as_u64() > Some(0)).then_some(impacts)
    })
    .await;
    assert_eq!(impacts[0]["nodes"], json!(["service:shop/ghost"]));
    assert_eq!(server.get("/api/v1/alerts/unmatched").await["total"], 0);
}

#[tokio::test]
async fn the_queue_is_emptied_by_hand_and_by_new_rules() {
    let server = Server::new("");
    server.shop().await;
    let alerts: Vec<Value> = (0..3).map(|i| alert("Odd", true, ago_ms(60), json!({"thing": format!("payment{i}")}))).collect();
    server.webhook(&message("g", &alerts)).await;
    assert_eq!(server.get("/api/v1/alerts/unmatched").await["total"], 3);
    let path = format!("/api/v1/alerts/unmatched?fingerprint={}", alerts[0]["fingerprint"].as_str().expect("text"));
    let delete = |path: &str| Request::delete(path).body(Body::empty()).expect("a request");
    assert_eq!(server.ask(delete(&path)).await.0, 200);
    assert_eq!(server.ask(delete(&path)).await.0, 404);
    assert_eq!(server.ask(delete("/api/v1/alerts/unmatched")).await.0, 400);
    let rules = "alerts: {matchers: [{name: things, match: '{thing=\"payment1\"}', node: 'service:shop/payment'}]}";
    server.service.replace_settings(crate::settings::Settings::from_yaml(rules).expect("settings"));
    let (_, answer) = server.post("/api/v1/alerts/unmatched/retry", &Value::Null).await;
    assert_eq!(answer["data"], json!({"tried": 3, "matched": 1}));
    let queue = server.get("/api/v1/alerts/unmatched").await;
    assert_eq!((&queue["total"], &queue["alerts"][0]["alert"]["labels"]["thing"]), (&json!(1), &json!("payment2")));
    assert_eq!(server.ask(delete("/api/v1/alerts/unmatched?all=true")).await.0, 200);
    assert_eq!(server.get("/api/v1/alerts/unmatched").await["total"], 0);
}

#[tokio::test]
async fn a_group_holds_all_of_its_alerts_and_says_what_is_missing() {
    let server = Server::new("");
    server.shop().await;
    let cart = |firing| alert("Down", firing, ago_ms(40), json!({"namespace": "shop", "service": "cart"}));
    let started_ms = ago_ms(60);
    let mut both = message("g", &[payment(true, started_ms), cart(true)]);
    both["truncatedAlerts"] = 7.into();
    let receipt = server.webhook(&both).await;
    let id = receipt["impact"].as_str().expect("an id").to_owned();
    let impact = server.get(&format!("/api/v1/impact/{id}")).await;
    assert_eq!(impact["nodes"], json!(["service:shop/cart", "service:shop/payment"]));
    assert_eq!(impact["assessment"]["complete"], false);
    assert!(impact["assessment"]["unresolved"].to_string().contains("truncatedAlerts"), "{impact}");
    // Alertmanager sends all that fires: what is not there any more is over.
    server.webhook(&message("g", &[payment(true, started_ms)])).await;
    let impact = server.get(&format!("/api/v1/impact/{id}")).await;
    assert_eq!((&impact["state"], &impact["nodes"]), (&json!("firing"), &json!(["service:shop/payment"])));
    assert_eq!(impact["alerts"].as_array().map(Vec::len), Some(2), "what is over is still shown");
    assert_eq!(impact["history"].as_array().map(Vec::len), Some(2), "{impact}");
}

#[tokio::test]
async fn what_is_no_message_is_refused() {
    let server = Server::new("");
    let good = message("g", &[payment(true, ago_ms(1))]);
    let with = |field: &str, value: Value| {
        let mut message = good.clone();
        message[field] = value;
        message
    };
    for (message, word) in [
        (with("version", json!("3")), "version"),
        (with("version", Value::Null), "version"),
        (with("version", json!("1")), "version"),
        (with("groupKey", json!("")), "groupKey"),
        (with("alerts", json!([{"status": "odd", "labels": {"a": "b"}}])), "alerts[0].status"),
        (with("alerts", json!([{"status": "firing", "labels": {"a": 1}}])), "alerts[0].labels"),
        (with("alerts", json!([{"status": "firing", "labels": {"a": "b"}, "startsAt": "noon"}])), "alerts[0].startsAt"),
        (with("alerts", json!([{"status": "firing", "labels": {"a": "x".repeat(70_000)}}])), "alerts[0].labels"),
        (json!("x"), "body"),
    ] {
        let (status, answer) = server.post("/api/v1/alerts/webhook", &message).await;
        assert_eq!(status, 400, "{answer}");
        assert!(answer["error"].as_str().is_some_and(|e| e.contains(word)), "{word}: {answer}");
    }
    // Grafana's message is a superset with a version of its own.
    let mut grafana = with("version", json!("1"));
    grafana["orgId"] = 1.into();
    assert_eq!(server.post("/api/v1/alerts/webhook", &grafana).await.0, 200);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(good.to_string().as_bytes()).expect("packs");
    let body = packed.finish().expect("packs");
    let request = Request::post("/api/v1/alerts/webhook").header("content-encoding", "gzip").body(Body::from(body)).expect("a request");
    assert_eq!(server.ask(request).await.0, 200);
    for path in ["/api/v1/impact?state=odd", "/api/v1/impact?limit=9999", "/api/v1/impact?since=x", "/api/v2/alerts?filter=%7B"] {
        let (status, answer) = server.ask(Request::get(path).body(Body::empty()).expect("a request")).await;
        assert_eq!(status, 400, "{path}: {answer}");
    }
    assert_eq!(server.ask(Request::get("/api/v1/impact/..%2Fx").body(Body::empty()).expect("a request")).await.0, 404);
}

#[tokio::test]
async fn too_many_groups_are_refused_for_now_and_hostile_labels_survive() {
    let server = Server::new("alerts: {max_open: 2}");
    server.shop().await;
    let odd = "ü/:%\n\"{}本番".to_owned() + &"y".repeat(60_000);
    for group in ["a", "b"] {
        let alert = alert(group, true, ago_ms(1), json!({"odd": odd, "namespace": "shop", "service": "payment"}));
        server.webhook(&message(group, &[alert])).await;
    }
    let (status, _) = server.post("/api/v1/alerts/webhook", &message("c", &[payment(true, ago_ms(1))])).await;
    assert_eq!(status, 503);
    server.webhook(&message("a", &[payment(true, ago_ms(1))])).await;
    let shown = server.get("/api/v2/alerts").await;
    assert!(shown.as_array().expect("a list").iter().any(|a| a["labels"]["odd"] == odd.as_str()));
}

#[tokio::test]
async fn a_rule_may_put_a_node_into_the_graph() {
    let rules = "alerts: {matchers: [{name: apps, match: '{app_id!=\"\"}', node: 'application:{{app_id}}', create: true}]}";
    let server = Server::new(rules);
    server.shop().await;
    let receipt = server.webhook(&message("g", &[alert("Odd", true, ago_ms(60), json!({"app_id": "crm"}))])).await;
    assert_eq!(receipt["nodes"], json!(["application:crm"]));
    let impact = server.get(&format!("/api/v1/impact/{}", receipt["impact"].as_str().expect("an id"))).await;
    assert_eq!(impact["alerts"][0]["matches"][0]["created"], true);
    assert_eq!(ids(&impact["assessment"]["applications"]), ["application:crm"]);
}
