//! The endpoints of OpenLineage, and those of DataHub and OpenMetadata that take the same events.
//!
//! Clients drop an event that is answered with 4xx, 429 included, and send one that is answered with 503 again: so whatever may work
//! later is 503. What waits in memory is bounded by bytes and by requests.

mod body;
mod batch;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use serde_json::json;

use super::refusal::Refusal;
use crate::openlineage::Intake;
use crate::service::Service;
use body::Room;

/// What all requests share.
#[derive(Clone, Default)]
struct Shared {
    intake: Arc<Intake>,
    room: Arc<Room>,
}

/// Prefixes that clients join to the usual path if they are told a base URL that has one.
const PREFIXES: &[&str] = &["", "/{prefix}", "/{prefix}/{second}"];

/// The routes.
pub(super) fn routes() -> Router<Service> {
    let mut routes = Router::new()
        .route("/openapi/openlineage/api/v1/lineage", post(single))
        .route("/openapi/openlineage/api/v1/lineage/batch", post(batch::batch))
        .route("/api/v1/openlineage/lineage", post(single))
        .route("/api/v1/openlineage/lineage/batch", post(batch::batch));
    for prefix in PREFIXES {
        routes = routes
            .route(&format!("{prefix}/api/v1/lineage"), post(single))
            .route(&format!("{prefix}/api/v1/lineage/batch"), post(batch::batch));
    }
    // Bodies are bounded by their own reader, which answers with a reason.
    routes.layer(DefaultBodyLimit::disable()).layer(Extension(Shared::default()))
}

/// One event. Answers 201, as Marquez does.
async fn single(State(service): State<Service>, Extension(shared): Extension<Shared>, request: Request) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let tenant = service.tenant_of(&parts.headers).await?;
    let (text, held) = shared.room.read(&parts.headers, body).await?;
    let mut outcomes = shared.intake.accept(&tenant.store, vec![text], held).await;
    outcomes.pop().expect("there is one outcome for one event")?;
    Ok((StatusCode::CREATED, Json(json!({"status": "success"}))).into_response())
}

#[cfg(test)]
mod tests;
