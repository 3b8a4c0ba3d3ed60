//! Routes for operators: metrics, reload, quit, the description of the API. What changes data is in `admin`.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use super::{Shared, exposition, host, status};

const OPENAPI: &str = include_str!("../../../docs/openapi.yaml");

/// The routes.
pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/-/reload", post(reload).put(reload))
        .route("/-/quit", post(quit).put(quit))
        .route("/api/v1/status/store", get(status::store))
        .route("/api/v1/openapi.yaml", get(|| async { ([(header::CONTENT_TYPE, "application/yaml")], OPENAPI) }))
}

async fn metrics(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|a| a.to_str().ok()).unwrap_or("");
    let open_metrics = accept.contains("application/openmetrics-text");
    let text = tokio::task::spawn_blocking(move || {
        let mut families = exposition::gather(&shared.registry);
        families.extend(host::process_families());
        exposition::write(&families, open_metrics)
    });
    let kind = if open_metrics { exposition::OPEN_METRICS } else { exposition::TEXT };
    match text.await {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn reload(State(shared): State<Shared>) -> Response {
    if !shared.config().web.enable_lifecycle {
        return lifecycle_is_off();
    }
    match shared.reload().await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("failed to reload config: {error:#}\n")).into_response(),
    }
}

async fn quit(State(shared): State<Shared>) -> Response {
    if !shared.config().web.enable_lifecycle {
        return lifecycle_is_off();
    }
    shared.stop();
    "Requesting termination... Goodbye!\n".into_response()
}

fn lifecycle_is_off() -> Response {
    (StatusCode::FORBIDDEN, "Lifecycle API is not enabled; start with --web.enable-lifecycle.\n").into_response()
}
