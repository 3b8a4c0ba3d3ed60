//! Receivers and series: who is told what, when, and again.

use super::*;

/// What a receiver got: path, headers, body. It answers with the statuses in turn, then with 200.
type Got = Arc<Mutex<Vec<(String, HeaderMap, Value)>>>;

async fn receiver(statuses: Vec<u16>) -> (String, Got) {
    let got: Got = Arc::default();
    let statuses = Arc::new(Mutex::new(statuses.into_iter()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it has one");
    let kept = Arc::clone(&got);
    let take = move |request: axum::http::Uri, headers: HeaderMap, Json(body): Json<Value>| {
        let (kept, statuses) = (Arc::clone(&kept), Arc::clone(&statuses));
        async move {
            let status = statuses.lock().next().unwrap_or(200);
            if status == 200 {
                kept.lock().push((request.path().to_owned(), headers, body));
            }
            StatusCode::from_u16(status).expect("a status")
        }
    };
    let router = Router::new().fallback(post(take));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://{address}"), got)
}

#[tokio::test]
async fn a_webhook_is_told_of_the_beginning_and_the_end() {
    let (url, got) = receiver(vec![500, 503]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    std::fs::write(&file, "Bearer s3cret\n").expect("written");
    let settings = format!(
        "alerts: {{external_url: 'https://isobar.example', notify: [{{name: chat, url: '{url}/hook', headers: {{X-A: b}}, header_files: {{Authorization: '{}'}}}}]}}",
        file.display()
    );
    let server = Server::new(&settings).run();
    server.shop().await;
    let started_ms = ago_ms(60);
    let id = server.webhook(&message("g", &[payment(true, started_ms)])).await["impact"].as_str().expect("an id").to_owned();
    let (path, headers, body) = until("it is told", async || got.lock().first().cloned()).await;
    assert_eq!(
        (path.as_str(), &headers["authorization"], &headers["x-a"]),
        ("/hook", &"Bearer s3cret".parse().expect("valid"), &"b".parse().expect("valid"))
    );
    assert_eq!((&body["impact"]["id"], &body["impact"]["state"]), (&json!(id), &json!("firing")));
    assert_eq!(body["url"], format!("https://isobar.example/api/v1/impact/{id}"));
    assert_eq!(ids(&body["impact"]["assessment"]["interfaces"]), ["interface:shop/checkout"]);
    server.webhook(&message("g", &[payment(true, started_ms)])).await;
    server.webhook(&message("g", &[payment(false, started_ms)])).await;
    until("it is told of the end", async || (got.lock().len() == 2).then_some(())).await;
    assert_eq!(got.lock()[1].2["impact"]["state"], "resolved");
    let shown = until("that is shown", async || {
        let shown = server.get(&format!("/api/v1/impact/{id}")).await["receivers"]["chat"].clone();
        (shown["told_revision"] == 2).then_some(shown)
    })
    .await;
    assert_eq!((&shown["failures"], &shown["error"]), (&json!(0), &Value::Null));
    // Another process has nothing to tell.
    let again = Server::over(&server.bucket, &settings).run();
    again.tenant().await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(got.lock().len(), 2);
}

#[tokio::test]
async fn errors_of_a_receiver_are_seen_and_it_is_told_after_a_restart() {
    let settings = |url: &str| format!("alerts: {{notify: [{{name: chat, url: '{url}', retries: 1}}]}}");
    let server = Server::new(&settings("http://user:pw@127.0.0.1:9/secret")).run();
    server.shop().await;
    let id = server.webhook(&message("g", &[payment(true, ago_ms(60))])).await["impact"].as_str().expect("an id").to_owned();
    let shown = until("it is given up", async || {
        let shown = server.get(&format!("/api/v1/impact/{id}")).await["receivers"]["chat"].clone();
        (shown["given_up"] == true).then_some(shown)
    })
    .await;
    let error = shown["error"].as_str().expect("text");
    assert!(error.contains("refused") && !error.contains("secret") && !error.contains("pw"), "{error}");
    server.stop.send_replace(true);
    // The process is gone; the next one tells, after it has given the old one its time.
    let (url, got) = receiver(vec![]).await;
    let again = Server::over(&server.bucket, &settings(&url)).run();
    again.tenant().await;
    let other = alert("Other", true, ago_ms(60), json!({"service": "cart"}));
    again.webhook(&message("g", &[payment(true, ago_ms(60)), other])).await;
    until("it is told", async || (got.lock().len() == 1).then_some(())).await;
    assert_eq!(got.lock()[0].2["impact"]["id"], id.as_str());
}

#[tokio::test]
async fn an_alertmanager_gets_the_alerts_with_annotations() {
    let (url, got) = receiver(vec![]).await;
    let settings = format!("alerts: {{notify: [{{kind: alertmanager, url: '{url}/am/', labels: {{via: isobar}}}}]}}");
    let server = Server::new(&settings).run();
    server.shop().await;
    server.webhook(&message("g", &[payment(true, ago_ms(60))])).await;
    let (path, _, body) = until("it is told", async || got.lock().first().cloned()).await;
    assert_eq!(path, "/am/api/v2/alerts");
    assert_eq!((&body[0]["labels"]["via"], &body[0]["labels"]["service"]), (&json!("isobar"), &json!("payment")));
    let annotations = &body[0]["annotations"];
    assert_eq!(annotations["isobar_impact_interfaces"], "checkout (100 %)");
    assert_eq!(annotations["summary"], "it is down");
    for name in ["id", "url", "summary", "owners", "cause"] {
        assert!(annotations[format!("isobar_impact_{name}")].is_string(), "{name}: {annotations}");
    }
    // If that Alertmanager posts it back, it is not taken for another alert.
    let mut back = payment(true, ago_ms(60));
    back["annotations"] = annotations.clone();
    back["labels"]["via"] = "isobar".into();
    let receipt = server.webhook(&message("back", &[back])).await;
    assert_eq!(receipt["impact"], Value::Null);
    assert_eq!(server.get("/api/v1/impact").await["impacts"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn series_are_written_while_it_lasts_and_end_with_it() {
    let server = Server::new("alerts: {series: {interval: 1s}}").run();
    server.shop().await;
    let started_ms = ago_ms(60);
    let id = server.webhook(&message("g", &[payment(true, started_ms)])).await["impact"].as_str().expect("an id").to_owned();
    let of = |name: &'static str, node: &'static str| {
        let written = server.fake.written.lock().clone();
        let fits = |labels: &isobar_block::Labels| {
            labels.get("__name__") == Some(name)
                && (node.is_empty() || labels.get("node") == Some(node))
                && labels.get("impact") == Some(&id)
        };
        written.into_iter().filter(|(labels, _, _)| fits(labels)).collect::<Vec<_>>()
    };
    let front = until("they are written", async || of("isobar_impact_probability", "service:shop/front").first().cloned()).await;
    assert_eq!((front.0.get("kind"), front.0.get("owner"), front.2), (Some("service"), Some("web"), 1.0));
    assert_eq!(of("isobar_impact_open", "")[0].2, 1.0);
    server.webhook(&message("g", &[payment(false, started_ms)])).await;
    until("they end", async || of("isobar_impact_open", "").last().is_some_and(|(_, _, v)| is_stale(*v)).then_some(())).await;
    let last = of("isobar_impact_probability", "service:shop/front").pop().expect("written");
    assert!(is_stale(last.2));
}

#[tokio::test]
async fn an_open_impact_follows_the_graph() {
    let server = Server::new("alerts: {debounce: 1s}").run();
    server.shop().await;
    let started_ms = ago_ms(60);
    let id = server.webhook(&message("g", &[payment(true, started_ms)])).await["impact"].as_str().expect("an id").to_owned();
    // A fact that was so when the alert began, but is heard only now.
    server.append("late", ago_ms(120), json!([{"edge": {"from": "interface:shop/refund", "to": "service:shop/payment"}}])).await;
    let impact = until("it is assessed anew", async || {
        let impact = server.get(&format!("/api/v1/impact/{id}")).await;
        (impact["assessment"]["interfaces"].as_array().map(Vec::len) == Some(2)).then_some(impact)
    })
    .await;
    assert_eq!(impact["assessment"]["reason"], "changed");
    assert_eq!(impact["history"].as_array().map(Vec::len), Some(2));
    assert_eq!(impact["revision"], 2);
}
