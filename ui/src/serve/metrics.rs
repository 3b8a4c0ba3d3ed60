//! Metrics of the server itself: requests, reloads, build. Those of the parts are registered by the parts.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Upper bounds of request durations, in seconds.
const DURATION_BUCKETS_SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

type Labels = Vec<(&'static str, String)>;

/// Handles to the server's own metrics. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    requests: Family<Labels, Counter>,
    durations: Family<Labels, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
    /// Requests without valid credentials.
    pub unauthorized: Counter,
    reload_ok: Gauge,
    reload_time: Gauge<f64, AtomicU64>,
    /// Own samples that the ingester did not take.
    pub self_scrape_failures: Counter,
}

impl Metrics {
    /// Registers all of them.
    pub fn new(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("isobar");
        let build =
            Info::new(vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("rustversion", env!("CARGO_PKG_RUST_VERSION").to_owned())]);
        registry.register("build", "Constant 1 with the version", build);
        let metrics = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS_SECONDS)),
            in_flight: Gauge::default(),
            unauthorized: Counter::default(),
            reload_ok: Gauge::default(),
            reload_time: Gauge::default(),
            self_scrape_failures: Counter::default(),
        };
        registry.register("http_requests", "HTTP requests by handler, method and status", metrics.requests.clone());
        registry.register("http_request_duration_seconds", "Time until the headers of an answer were ready", metrics.durations.clone());
        registry.register("http_requests_in_flight", "HTTP requests that are being answered", metrics.in_flight.clone());
        registry.register("http_requests_unauthorized", "HTTP requests without valid credentials", metrics.unauthorized.clone());
        registry.register(
            "config_last_reload_successful",
            "Whether the last reading of the configuration succeeded",
            metrics.reload_ok.clone(),
        );
        registry.register(
            "config_last_reload_success_timestamp_seconds",
            "When the configuration was last read with success, Unix time",
            metrics.reload_time.clone(),
        );
        registry.register("self_scrape_failures", "Times that own metrics could not be stored", metrics.self_scrape_failures.clone());
        metrics
    }

    /// Notes how a reading of the configuration ended.
    pub fn reloaded(&self, ok: bool) {
        self.reload_ok.set(i64::from(ok));
        if ok {
            self.reload_time.set(isobar_block::time::now_ms() as f64 / 1000.0);
        }
    }

    /// Whether the last reading of the configuration succeeded, and when one last did, Unix milliseconds.
    pub fn last_reload(&self) -> (bool, i64) {
        (self.reload_ok.get() == 1, (self.reload_time.get() * 1000.0) as i64)
    }

    fn finished(&self, handler: &str, method: &str, status: u16, took: Duration) {
        self.requests
            .get_or_create(&vec![("handler", handler.to_owned()), ("method", method.to_owned()), ("code", status.to_string())])
            .inc();
        self.durations.get_or_create(&vec![("handler", handler.to_owned())]).observe(took.as_secs_f64());
    }
}

/// Counts a request under the route that it matched, so that paths from outside make no series.
pub async fn track(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    struct InFlight(Gauge);
    impl Drop for InFlight {
        fn drop(&mut self) {
            self.0.dec();
        }
    }
    let began = std::time::Instant::now();
    let handler = request.extensions().get::<MatchedPath>().map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());
    let method = match *request.method() {
        axum::http::Method::GET => "GET",
        axum::http::Method::POST => "POST",
        axum::http::Method::HEAD => "HEAD",
        axum::http::Method::PUT => "PUT",
        axum::http::Method::OPTIONS => "OPTIONS",
        _ => "other",
    };
    metrics.in_flight.inc();
    // Given back even if the client leaves and the future is dropped.
    let _in_flight = InFlight(metrics.in_flight.clone());
    let response = next.run(request).await;
    metrics.finished(&handler, method, response.status().as_u16(), began.elapsed());
    response
}
