//! The page at `/`: what runs, how to connect a Prometheus, a few numbers, one live chart. Rendered here, refreshed by a small
//! script of its own; nothing comes from elsewhere, and a strict content security policy says so.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use isobar_ingest::units::format_duration;

use super::Shared;
use super::status::Store;

const PAGE: &str = include_str!("page/start.html");
const SCRIPT: &str = include_str!("page/start.js");
const STYLE: &str = include_str!("page/start.css");

/// What the browser may load and do on this page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// What the chart shows at first.
const FIRST_EXPRESSION: &str = "100 * (1 - avg(rate(node_cpu_seconds_total{job=\"isobar\", mode=\"idle\"}[1m])))";

/// The page and its two files.
pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/", get(page))
        .route("/start.js", get(|| async { file("text/javascript; charset=utf-8", SCRIPT) }))
        .route("/start.css", get(|| async { file("text/css; charset=utf-8", STYLE) }))
}

async fn page(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let config = shared.config();
    let store = Store::read(&shared);
    let url = external_url(&shared, &headers);
    let interval = config.self_scrape_interval;
    let values = [
        ("prefix", shared.prefix.clone()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("state", "ready".to_owned()),
        ("roles", config.roles.names().join(", ")),
        ("store", shared.store_description.clone()),
        ("series", store.series.to_string()),
        ("blocks", store.blocks.to_string()),
        ("size", store.size_text),
        ("backlog", store.backlog_text),
        ("uptime", store.uptime_text),
        ("interval", if interval.is_zero() { "(never: --self-scrape.interval is 0)".to_owned() } else { format_duration(interval) }),
        ("expr", FIRST_EXPRESSION.to_owned()),
        ("url", url),
    ];
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    ];
    (headers, render(PAGE, &values)).into_response()
}

/// The URL to write into a Prometheus's configuration: the external one, or that under which the page was asked for, or the
/// listen address.
fn external_url(shared: &Shared, headers: &HeaderMap) -> String {
    let config = shared.config();
    if !config.web.external_url.is_empty() {
        return config.web.external_url.trim_end_matches('/').to_owned();
    }
    let plausible = |host: &&str| !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b));
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).filter(plausible).unwrap_or(&shared.instance);
    let scheme = if shared.tls { "https" } else { "http" };
    format!("{scheme}://{host}{}", shared.prefix)
}

fn file(kind: &'static str, content: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache")], content).into_response()
}

/// Puts values, escaped, in the place of `{{name}}`.
fn render(page: &str, values: &[(&str, String)]) -> String {
    let mut out = String::with_capacity(page.len() + 512);
    let mut rest = page;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let (name, after) = after.split_once("}}").expect("the page closes what it opens, a test renders it");
        let value =
            values.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str()).expect("the page names known values, a test renders it");
        escape_into(value, &mut out);
        rest = after;
    }
    out.push_str(rest);
    out
}

fn escape_into(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped() {
        let page = render("<b title=\"{{a}}\">{{a}}</b>", &[("a", "\"<script>'&".to_owned())]);
        assert_eq!(page, "<b title=\"&quot;&lt;script&gt;&#39;&amp;\">&quot;&lt;script&gt;&#39;&amp;</b>");
    }

    #[test]
    fn nothing_is_inline_or_from_elsewhere() {
        for text in [PAGE, SCRIPT, STYLE] {
            for forbidden in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "<style",
                "style=",
                "onclick",
                "@import",
                "url(",
                "//cdn",
            ] {
                assert!(!text.contains(forbidden), "{forbidden}");
            }
        }
        assert!(!POLICY.contains("unsafe"));
        let remote = SCRIPT.replace("http://www.w3.org/2000/svg", "");
        assert!(!remote.contains("http://") && !remote.contains("https://"));
    }
}
