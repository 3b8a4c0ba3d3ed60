//! What every request passes before a part sees it: prefix, liveness, credentials, origin checks, headers.
//!
//! The front answers from the moment the port is open. The routes behind it are put in when the parts have started, so that
//! `/-/ready` tells the truth during a long replay.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use isobar_block::{MatchOp, Matcher};
use parking_lot::RwLock;
use tower::ServiceExt;

use super::auth::Auth;
use super::metrics::Metrics;

/// gRPC has the names of its methods for paths, and no prefix can be put before them.
const GRPC_PREFIX: &str = "/opentelemetry.proto.collector.";

/// How far the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Reads the write-ahead log.
    Starting = 0,
    /// Answers.
    Ready = 1,
    /// Finishes what it has and takes nothing new.
    Stopping = 2,
}

/// Settings of the front, fixed at the start.
pub struct FrontConfig {
    /// Path before all routes, empty or `/a/b`.
    pub prefix: String,
    /// Anchored regular expression of origins that may read; empty for none.
    pub cors_origin: String,
}

/// The front.
pub struct Front {
    prefix: String,
    cors: Option<Matcher>,
    phase: AtomicU8,
    inner: OnceLock<Router>,
    auth: Auth,
    headers: RwLock<HeaderMap>,
    metrics: Metrics,
}

impl Front {
    /// A front without routes behind it.
    ///
    /// # Errors
    /// If the expression for origins does not compile.
    pub fn new(config: FrontConfig, auth: Auth, metrics: Metrics) -> isobar_block::Result<Self> {
        let cors = if config.cors_origin.is_empty() { None } else { Some(Matcher::new("origin", MatchOp::Regex, config.cors_origin)?) };
        let phase = AtomicU8::new(Phase::Starting as u8);
        Ok(Self { prefix: config.prefix, cors, phase, inner: OnceLock::new(), auth, headers: RwLock::default(), metrics })
    }

    /// Puts the routes in. Only the first call counts.
    pub fn open(&self, routes: Router) {
        if self.inner.set(routes).is_ok() {
            self.set_phase(Phase::Ready);
        }
    }

    /// Moves on.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
    }

    /// Who may come in.
    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// Sets headers of every answer, as `web-config.yml` has them. Invalid ones are left out.
    pub fn set_headers(&self, headers: &[(String, String)]) {
        let valid = headers.iter().filter_map(|(n, v)| Some((HeaderName::try_from(n).ok()?, HeaderValue::try_from(v).ok()?)));
        *self.headers.write() = valid.collect();
    }

    /// Answers one request.
    pub async fn handle(&self, mut request: Request) -> Response {
        // HTTP/2 tells the host as a part of the URI.
        if let Some(host) = request.uri().authority().and_then(|a| HeaderValue::try_from(a.as_str()).ok()) {
            request.headers_mut().entry(header::HOST).or_insert(host);
        }
        let origin = request.headers().get(header::ORIGIN).cloned();
        let allowed_origin = origin.filter(|o| o.to_str().is_ok_and(|o| self.cors.as_ref().is_some_and(|m| m.matches(o))));
        let mut response = match self.strip_prefix(request.uri()) {
            Err(response) => *response,
            Ok(uri) => {
                *request.uri_mut() = uri;
                self.answer(request, allowed_origin.is_some()).await
            }
        };
        self.decorate(response.headers_mut(), allowed_origin);
        response
    }

    async fn answer(&self, request: Request, cors: bool) -> Response {
        // A browser asks without credentials before it sends them.
        if cors && request.method() == Method::OPTIONS {
            return StatusCode::NO_CONTENT.into_response();
        }
        if !self.auth.allows(request.headers()).await {
            self.metrics.unauthorized.inc();
            return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=\"isobar\", charset=\"UTF-8\"")], "unauthorized\n")
                .into_response();
        }
        if let Some(response) = self.health(&request) {
            return response;
        }
        if is_cross_site_write(&request) {
            return (StatusCode::FORBIDDEN, "this request comes from a page of another site\n").into_response();
        }
        match (self.phase(), self.inner.get()) {
            (Phase::Starting, _) | (_, None) => unavailable("the server is starting: it reads its write-ahead log"),
            (Phase::Ready | Phase::Stopping, Some(routes)) => routes.clone().oneshot(request).await.unwrap_or_else(|never| match never {}),
        }
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Stopping,
        }
    }

    fn health(&self, request: &Request) -> Option<Response> {
        let path = request.uri().path();
        if !matches!(path, "/-/healthy" | "/-/ready" | "/ready") {
            return None;
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Some((StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD")]).into_response());
        }
        Some(match (path, self.phase()) {
            ("/-/healthy", _) => "Isobar is Healthy.\n".into_response(),
            (_, Phase::Ready) => "Isobar is Ready.\n".into_response(),
            (_, Phase::Starting) => unavailable("the server is starting: it reads its write-ahead log"),
            (_, Phase::Stopping) => unavailable("the server is stopping"),
        })
    }

    /// The URI as the routes know it, or the answer to a request outside of them.
    fn strip_prefix(&self, uri: &Uri) -> Result<Uri, Box<Response>> {
        if self.prefix.is_empty() || uri.path().starts_with(GRPC_PREFIX) {
            return Ok(uri.clone());
        }
        let path = uri.path();
        if path == "/" || path == self.prefix {
            return Err(Box::new((StatusCode::FOUND, [(header::LOCATION, format!("{}/", self.prefix))]).into_response()));
        }
        let rest = path.strip_prefix(&self.prefix).filter(|rest| rest.starts_with('/'));
        let not_found =
            || Box::new((StatusCode::NOT_FOUND, format!("all routes of this server are below {}/\n", self.prefix)).into_response());
        let rest = rest.ok_or_else(not_found)?;
        let query = uri.query().map_or_else(String::new, |q| format!("?{q}"));
        Uri::try_from(format!("{rest}{query}")).map_err(|_| not_found())
    }

    fn decorate(&self, headers: &mut HeaderMap, allowed_origin: Option<HeaderValue>) {
        headers.entry(header::X_CONTENT_TYPE_OPTIONS).or_insert(HeaderValue::from_static("nosniff"));
        if self.cors.is_some() {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        if let Some(origin) = allowed_origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
            headers.insert(
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                HeaderValue::from_static("Accept, Authorization, Content-Type, Origin, X-Scope-OrgID"),
            );
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Date"));
        }
        for (name, value) in self.headers.read().iter() {
            headers.insert(name, value.clone());
        }
    }
}

/// Whether a page of another site makes the browser change something here: POST and the like outside of the query API, which
/// only reads. Clients that are not browsers send neither header.
fn is_cross_site_write(request: &Request) -> bool {
    let path = request.uri().path();
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
        && (path.starts_with("/-/") || path.starts_with("/api/v1/admin/"));
    let headers = request.headers();
    let text = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let from_site = text(HeaderName::from_static("sec-fetch-site"));
    let foreign_site = from_site.is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let foreign_origin = match (text(header::ORIGIN), text(header::HOST)) {
        (Some(origin), Some(host)) => from_site.is_none() && origin.split_once("://").is_none_or(|(_, o)| !o.eq_ignore_ascii_case(host)),
        (Some(_), None) => true,
        (None, _) => false,
    };
    changes && (foreign_site || foreign_origin)
}

fn unavailable(reason: &str) -> Response {
    let body = serde_json::json!({"status": "error", "errorType": "unavailable", "error": reason});
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::RETRY_AFTER, "5")];
    (StatusCode::SERVICE_UNAVAILABLE, headers, Body::from(body.to_string())).into_response()
}

#[cfg(test)]
mod tests;
