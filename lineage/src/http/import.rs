//! Files in: manifests, units, catalogs. One file is the body itself, several are JSON with path and content of each.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use isobar_block::time;
use serde::Deserialize;
use serde_json::json;

use super::facts::unpacked;
use super::params::Params;
use super::refusal::{Refusal, success};
use crate::Error;
use crate::import::{self, MAX_FILES, MAX_IMPORT_BYTES, Options, SourceFile, reconcile};
use crate::service::Service;

/// Path of a file whose name is not given.
const UNNAMED: &str = "file";

/// The routes.
pub(super) fn routes() -> Router<Service> {
    Router::new().route("/api/v1/lineage/import", get(folder).post(import)).layer(DefaultBodyLimit::max(MAX_IMPORT_BYTES))
}

/// Several files in one body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Files {
    files: Vec<SourceFile>,
}

/// What became of the folder that is watched.
async fn folder(State(service): State<Service>) -> Response {
    success(service.metrics().folder.status())
}

async fn import(State(service): State<Service>, params: Params, headers: HeaderMap, body: Bytes) -> Result<Response, Refusal> {
    let tenant = service.tenant_of(&headers).await?;
    let body = unpacked(&headers, body, MAX_IMPORT_BYTES)?;
    let text = |name: &str| params.get(name).map(str::to_owned);
    let path = params.get("path").or(params.get("scope")).unwrap_or(UNNAMED).to_owned();
    let options = Options {
        // Without a name the path is the scope, so that the same file replaces itself.
        name: text("scope").unwrap_or_default(),
        folder: is_bundle(&body),
        source: text("source"),
        namespace: text("namespace"),
        host: text("host"),
        dbt_namespace: text("dbt_namespace"),
        dbt_job_namespace: text("dbt_job_namespace"),
    };
    if options.name.is_empty() && path == UNNAMED && !options.folder {
        return Err(Refusal::parameter("scope", "is missing, and so is path; name what is imported, so that it can be imported again"));
    }
    let complete = params.parsed::<bool>("complete")?.unwrap_or(false);
    if complete && options.name.is_empty() {
        return Err(Refusal::parameter("complete", "needs scope; name the import whose files these are"));
    }
    let dry_run = params.parsed::<bool>("dry_run")?.unwrap_or(false);
    let at_ms = time::now_ms();
    let read_options = options.clone();
    let work = move || files(&body, path, read_options.folder, complete).map(|files| import::read(&files, &read_options, at_ms));
    let reads = tokio::task::spawn_blocking(work);
    let reads = reads.await.map_err(|_| Refusal::from(Error::Canceled))??;
    let report = reconcile::apply(&tenant.store, reads, &options, complete, dry_run, at_ms).await?;
    // A file alone that is wrong is an error; of a folder, the good ones are stored.
    if !options.folder
        && let [file] = report.files.as_slice()
        && let Some(error) = &file.error
    {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, error.clone()));
    }
    let failed = report.failed().count();
    let status = if failed > 0 && failed == report.files.len() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    if status != StatusCode::OK {
        let body = json!({"status": "error", "errorType": "bad_data", "error": "no file could be imported", "data": report});
        return Ok((status, axum::Json(body)).into_response());
    }
    Ok(success(report))
}

/// Whether a body holds several files. No file that can be imported begins like that.
fn is_bundle(body: &[u8]) -> bool {
    let mut head = body.iter().copied().filter(|b| !b.is_ascii_whitespace());
    b"{\"files\":[".iter().all(|wanted| head.next() == Some(*wanted))
}

fn files(body: &[u8], path: String, bundle: bool, complete: bool) -> Result<Vec<SourceFile>, Refusal> {
    if !bundle {
        let content = std::str::from_utf8(body).map_err(|e| Error::invalid(&*path, format!("is not UTF-8 text: {e}")))?;
        return Ok(vec![SourceFile { path, content: content.into(), link: None }]);
    }
    let bundle: Files = serde_json::from_slice(body).map_err(|e| Error::invalid("files", e.to_string()))?;
    // A folder that is empty now takes all out that was in it, if somebody says that it is all.
    if (bundle.files.is_empty() && !complete) || bundle.files.len() > MAX_FILES {
        let reason = format!("there are {} files; send 1 to {MAX_FILES} at once", bundle.files.len());
        return Err(Error::invalid("files", reason).into());
    }
    let mut paths: Vec<&str> = bundle.files.iter().map(|f| f.path.as_str()).collect();
    paths.sort_unstable();
    if let Some(twice) = paths.windows(2).find(|p| p[0] == p[1]) {
        return Err(Error::invalid("files", format!("{:?} is there twice; send each file once", twice[0])).into());
    }
    if paths.first().is_some_and(|p| p.is_empty()) {
        return Err(Error::invalid("files", "a file has no path; give each one").into());
    }
    Ok(bundle.files)
}

#[cfg(test)]
mod tests;
