//! Requests in process: one file, several, what is refused.

use axum::body::Body;
use axum::http::Request;
use isobar_block::TenantId;
use serde_json::Value;
use tower::ServiceExt;

use super::*;
use crate::AsOf;
use crate::testing::key;

fn service() -> Service {
    crate::testing::service(crate::testing::parts())
}

async fn post(service: &Service, query: &str, body: impl Into<Body>) -> (u16, Value) {
    let request = Request::post(format!("/api/v1/lineage/import{query}")).body(body.into()).expect("a request");
    let (parts, body) = routes().with_state(service.clone()).oneshot(request).await.expect("answers").into_parts();
    let bytes = http_body_util::BodyExt::collect(body).await.expect("is read").to_bytes();
    (parts.status.as_u16(), serde_json::from_slice(&bytes).expect("is JSON"))
}

async fn has(service: &Service, id: &str) -> bool {
    let tenant = service.tenant(&TenantId::default()).await.expect("opens");
    tenant.store.snapshot(AsOf::Now).await.expect("a snapshot").find(&key(id)).is_some()
}

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {nodeName: h}\n";

#[tokio::test]
async fn one_file_is_the_body() {
    let service = service();
    let (status, answer) = post(&service, "?scope=live&namespace=shop", POD).await;
    assert_eq!((status, &answer["data"]["files"][0]["format"]), (200, &json!("kubernetes")), "{answer}");
    assert!(has(&service, "instance:shop/p").await && has(&service, "host:h").await);
    // The same scope says something else now.
    let (status, _) = post(&service, "?scope=live", POD.replace("{nodeName: h}", "{nodeName: i}")).await;
    assert_eq!(status, 200);
    assert!(!has(&service, "host:h").await && has(&service, "instance:default/p").await);
    let (status, answer) = post(&service, "?path=u&host=web-1", "[Unit]\nRequires=b.service\n").await;
    assert_eq!((status, has(&service, "workload:web-1/u.service").await), (200, true), "{answer}");
    let (status, answer) = post(&service, "?scope=x&dry_run=true", POD.replace("{nodeName: h}", "{nodeName: only-tried}")).await;
    assert_eq!((status, &answer["data"]["dry_run"], has(&service, "host:only-tried").await), (200, &json!(true), false));
}

#[tokio::test]
async fn several_files_are_json() {
    let service = service();
    let files = json!({"files": [{"path": "a.yaml", "content": POD}, {"path": "b.yaml", "content": "a: ["}]});
    let (status, answer) = post(&service, "?scope=repo&complete=true", files.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    let files = &answer["data"]["files"];
    assert!(files[0]["error"].is_null() && files[1]["error"].as_str().is_some_and(|e| e.starts_with("b.yaml: ")), "{answer}");
    let files = json!({"files": [{"path": "b.yaml", "content": "nodes: [{id: 'service:a'}]"}]});
    let (status, answer) = post(&service, "?scope=repo&complete=true", serde_json::to_string_pretty(&files).expect("JSON")).await;
    assert_eq!((status, &answer["data"]["withdrawn"]), (200, &json!(["repo/a.yaml"])), "{answer}");
    assert!(!has(&service, "host:h").await);
    let (status, answer) = post(&service, "?scope=repo&complete=true", "{\"files\": []}").await;
    assert_eq!((status, &answer["data"]["withdrawn"], has(&service, "service:a").await), (200, &json!(["repo/b.yaml"]), false), "{answer}");
    // None of them is good, which says of each why.
    let files = json!({"files": [{"path": "b.yaml", "content": "a: ["}]});
    let (status, answer) = post(&service, "?scope=repo&complete=true", files.to_string()).await;
    assert_eq!((status, &answer["data"]["files"][0]["path"]), (400, &json!("b.yaml")), "{answer}");
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_its_place() {
    let service = service();
    for (query, body, wanted) in [
        ("", POD, "scope"),
        ("?scope=a", "a: [", "line "),
        ("?scope=a", "", "is none of Kubernetes"),
        ("?scope=a", "nodes: [{id: 3}]", "a: "),
        ("?scope=a&complete=maybe", POD, "complete"),
        ("?complete=true&path=x", POD, "needs scope"),
        ("", "{\"files\": []}", "0 files"),
        ("", "{\"files\": [{\"path\": \"a\"}, {\"path\": \"a\"}]}", "twice"),
        ("", "{\"files\": [{\"path\": \"\"}]}", "no path"),
        ("", "{\"files\": [{\"pth\": \"\"}]}", "pth"),
    ] {
        let (status, answer) = post(&service, query, body).await;
        assert_eq!(status, 400, "{query} {body}: {answer}");
        assert!(answer["error"].as_str().is_some_and(|e| e.contains(wanted)), "{query} {body}: {answer}");
    }
    let (status, _) = post(&service, "?scope=a", vec![0xff, 0xfe]).await;
    assert_eq!(status, 400);
}
