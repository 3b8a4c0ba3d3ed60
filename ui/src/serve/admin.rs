//! The admin API: what changes data now, at an operator's word. It is off unless it was turned on, and is not given to a network
//! without users (`config` refuses that).

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use isobar_block::time;
use serde_json::{Value, json};

use super::Shared;
use super::params::Params;
use super::refusal::{Refusal, success};

/// The routes.
pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/api/v1/admin/tsdb/flush", post(flush).put(flush))
        .route("/api/v1/admin/tsdb/delete_series", post(delete_series).put(delete_series))
        .route("/api/v1/admin/tsdb/clean_tombstones", post(clean_tombstones).put(clean_tombstones))
        .route("/api/v1/admin/tsdb/compact", post(compact).put(compact))
}

fn must_be_on(shared: &Shared) -> Result<(), Refusal> {
    if shared.config().web.enable_admin_api {
        return Ok(());
    }
    Err(Refusal::disabled("admin APIs disabled; start with --web.enable-admin-api"))
}

/// Cuts the heads into blocks and uploads them, and answers when these can be read.
async fn flush(State(shared): State<Shared>) -> Result<Response, Refusal> {
    must_be_on(&shared)?;
    shared.flush().await.map_err(|reason| Refusal::unavailable(format!("{reason:#}")))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Hides samples of series from every answer from now on; the next compaction removes them from storage.
async fn delete_series(State(shared): State<Shared>, request: Request) -> Result<Response, Refusal> {
    must_be_on(&shared)?;
    let params = Params::read(&shared, request).await?;
    let (selectors, range) = (params.selectors()?, params.time_range()?);
    // A client that leaves does not leave half of it behind: the task goes on.
    let task = tokio::spawn(async move { shared.parts.delete_series(&params.tenant, selectors, range).await });
    task.await.map_err(|e| Refusal::internal(e.to_string()))??;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Compacts to the end, by which what was deleted leaves the blocks.
async fn clean_tombstones(State(shared): State<Shared>, request: Request) -> Result<Response, Refusal> {
    must_be_on(&shared)?;
    let params = Params::read(&shared, request).await?;
    let report = shared.parts.compact_now(params.tenant)?.finish().await?;
    if let Some(failure) = report.failures.first() {
        return Err(Refusal::internal(format!("{}: {}; it is tried again", failure.job, failure.error)));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Compacts to the end. With `wait=false` it is only started.
async fn compact(State(shared): State<Shared>, request: Request) -> Result<Response, Refusal> {
    must_be_on(&shared)?;
    let params = Params::read(&shared, request).await?;
    let wait = params.switch("wait", true)?;
    let started_ms = time::now_ms();
    let run = shared.parts.compact_now(params.tenant)?;
    if !wait {
        return Ok((StatusCode::ACCEPTED, success(&json!({"started": true}))).into_response());
    }
    let mut report: Value = serde_json::to_value(run.finish().await?).map_err(|e| Refusal::internal(e.to_string()))?;
    report["durationMs"] = (time::now_ms() - started_ms).into();
    Ok(success(&report))
}
