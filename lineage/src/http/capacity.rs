//! The load along a chain, and when it saturates.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::get;

use super::params::Params;
use super::refusal::{Refusal, success};
use crate::capacity::{self, DEFAULT_FACTOR, MAX_FACTOR, Request};
use crate::service::Service;

/// The routes.
pub(super) fn routes() -> Router<Service> {
    Router::new().route("/api/v1/lineage/capacity", get(answer))
}

async fn answer(State(service): State<Service>, headers: HeaderMap, params: Params) -> Result<Response, Refusal> {
    let factor = params.parsed::<f64>("factor")?.unwrap_or(DEFAULT_FACTOR);
    if !(factor > 0.0 && factor <= MAX_FACTOR) {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("invalid parameter \"factor\": {factor} is not above 0 and at most {MAX_FACTOR}"),
        ));
    }
    let request = Request { node: params.node("node")?, factor, as_of: params.as_of()? };
    let tenant = service.tenant_of(&headers).await?;
    Ok(success(capacity::capacity(&service, &tenant, &request).await?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::body::to_bytes;
    use axum::extract::FromRequestParts;
    use serde_json::{Value, json};

    use super::*;
    use crate::mesh::fake::Fake;
    use crate::mesh::tests::{bucket, service, tenant};

    async fn get(service: &Service, query: &str) -> (StatusCode, Value) {
        let request = axum::http::Request::get(format!("/api/v1/lineage/capacity{query}")).body(()).expect("a request");
        let params = Params::from_request_parts(&mut request.into_parts().0, &()).await.expect("parameters");
        let response = match answer(State(service.clone()), HeaderMap::new(), params).await {
            Ok(response) => response,
            Err(refusal) => axum::response::IntoResponse::into_response(refusal),
        };
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        (status, serde_json::from_slice(&body).expect("JSON"))
    }

    #[tokio::test]
    async fn the_answer_has_the_chain_and_what_is_not_known() {
        let service = service(&Arc::new(Fake::default()), &bucket(), "");
        let facts = json!([{"edge": {"from": "service:a", "to": "service:b"}}]);
        let event = json!({"id": "1", "source": "test", "at_ms": isobar_block::time::now_ms(), "facts": facts});
        let event: crate::Event = serde_json::from_value(event).expect("an event");
        tenant(&service).await.store.append(vec![event]).await.expect("appends");
        let (status, body) = get(&service, "?node=service:a&factor=3").await;
        assert_eq!((status, &body["status"]), (StatusCode::OK, &json!("success")));
        let data = &body["data"];
        assert_eq!((&data["factor"], &data["complete"], &data["entry"]["id"]), (&json!(3.0), &json!(false), &json!("service:a")));
        assert_eq!((data["nodes"].as_array().map(Vec::len), &data["nodes"][1]["load_factor"]), (Some(2), &json!(3.0)));
        assert_eq!(data["unresolved"].as_array().map(Vec::len), Some(3));
        for (query, status, text) in [
            ("", StatusCode::BAD_REQUEST, "\"node\""),
            ("?node=x", StatusCode::BAD_REQUEST, "node id"),
            ("?node=service:a&factor=0", StatusCode::BAD_REQUEST, "factor"),
            ("?node=service:a&factor=NaN", StatusCode::BAD_REQUEST, "factor"),
            ("?node=service:a&factor=x", StatusCode::BAD_REQUEST, "factor"),
            ("?node=service:c", StatusCode::NOT_FOUND, "not in the graph"),
            ("?node=service:a&at=never", StatusCode::BAD_REQUEST, "\"at\""),
        ] {
            let (got, body) = get(&service, query).await;
            assert!(got == status && body["error"].as_str().is_some_and(|e| e.contains(text)), "{query}: {got} {body}");
        }
    }
}
