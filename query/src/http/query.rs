//! `query`, `query_range` and their explanations.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::extract::{Request as HttpRequest, State};
use axum::response::Response;
use isobar_block::time::now_ms;
use serde_json::json;

use super::Api;
use super::envelope::{ApiError, ApiResult, success};
use super::json::{push_string, push_time, push_value};
use super::params::{Params, end_before_start, invalid};
use crate::engine::{Request, SourceResolution};
use crate::promql;
use crate::result::{Answer, Error, Grid, Rows, Value};

/// An answer with more numbers than this is written as JSON on a thread where it delays nobody.
const LARGE_ANSWER_VALUES: usize = 50_000;

/// `GET|POST /api/v1/query`
pub(super) async fn instant(State(api): State<Api>, http: HttpRequest) -> ApiResult {
    api.answer(http, true, None).await
}

/// `GET|POST /api/v1/query_range`
pub(super) async fn range(State(api): State<Api>, http: HttpRequest) -> ApiResult {
    api.answer(http, false, None).await
}

/// `GET|POST /api/v1/query_explain`
pub(super) async fn explain_instant(State(api): State<Api>, http: HttpRequest) -> ApiResult {
    api.answer(http, true, Some(Explain { analyze: false })).await
}

/// `GET|POST /api/v1/query_range_explain`
pub(super) async fn explain_range(State(api): State<Api>, http: HttpRequest) -> ApiResult {
    api.answer(http, false, Some(Explain { analyze: false })).await
}

/// That the plan is wanted and not the answer.
#[derive(Clone, Copy)]
struct Explain {
    /// Whether the query is run, so that the plan has numbers.
    analyze: bool,
}

/// What a query's parameters say.
struct Asked {
    request: Request,
    explain: Option<Explain>,
    /// Value of `stats`.
    stats: String,
}

impl Api {
    async fn answer(&self, http: HttpRequest, instant: bool, explain: Option<Explain>) -> ApiResult {
        let (params, headers) = self.params(http).await?;
        let Asked { mut request, explain, stats } = self.asked(&params, instant, explain)?;
        let began = Instant::now();
        let running = self.0.gate.enter(request.timeout).await?;
        let timeout = request.timeout;
        request.timeout = timeout.saturating_sub(running.waited);
        let source = tokio::time::timeout(request.timeout, self.source(&headers, &params.view()))
            .await
            .map_err(|_| Error::Timeout { after: timeout, limit: "query timeout" })??;
        request.timeout = timeout.saturating_sub(began.elapsed());
        if let Some(Explain { analyze }) = explain {
            let at_ms = request.grid.start_ms;
            let plan = self.0.engine.explain(source, request, analyze).await.map_err(query_error)?;
            return Ok(success(|out| push_plan(out, at_ms, &plan), &[], &[]));
        }
        let answer = self.0.engine.query(source, request).await.map_err(query_error)?;
        running.count(&answer.stats);
        let waited = running.waited;
        drop(running);
        respond(answer, instant, stats, waited).await
    }

    fn asked(&self, params: &Params, instant: bool, explain: Option<Explain>) -> Result<Asked, ApiError> {
        let config = &self.0.config;
        let limit = params.limit()?;
        let grid = if instant { Grid::instant(params.time_or("time", now_ms())?) } else { range_grid(params, config.max_points)? };
        let timeout = params.timeout(config.timeout)?;
        let lookback = params.lookback()?;
        let (query, prefix) = split_explain(params.get("query"))?;
        let analyze = matches!(params.get("analyze"), "true" | "1");
        let explain = prefix.or(explain.map(|_| Explain { analyze }));
        let automatic = config.auto_downsampling && !instant;
        let max_source_resolution =
            params.source_resolution()?.unwrap_or(if automatic { SourceResolution::Auto } else { SourceResolution::default() });
        let request = Request { query: query.into_owned(), grid, instant, lookback, timeout, max_source_resolution, limit };
        Ok(Asked { request, explain, stats: params.get("stats").to_owned() })
    }
}

fn range_grid(params: &Params, max_points: u64) -> Result<Grid, ApiError> {
    let (start_ms, end_ms) = (params.time("start")?, params.time("end")?);
    if end_ms < start_ms {
        return Err(end_before_start());
    }
    let step_ms = params.step_ms()?;
    let steps = ((end_ms - start_ms) / step_ms) as u64;
    if steps > max_points {
        return Err(ApiError::bad_data(format!(
            "exceeded maximum resolution of {} points per timeseries. Try decreasing the query resolution (?step=XX)",
            with_commas(max_points)
        )));
    }
    Ok(Grid { start_ms, step_ms, len: steps as usize + 1 })
}

fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Takes `EXPLAIN` or `EXPLAIN ANALYZE` off a query and checks the rest. A metric may be called `explain`, so a text that is a
/// query as it stands has no prefix. Blanks take the prefix's place, so that positions in messages stay right.
fn split_explain(text: &str) -> Result<(Cow<'_, str>, Option<Explain>), ApiError> {
    let error = match promql::parse(text) {
        Ok(_) => return Ok((text.into(), None)),
        Err(error) => error,
    };
    let Some(rest) = strip_word(text, "explain") else { return Err(invalid("query", error)) };
    let (query, analyze) = match strip_word(rest, "analyze") {
        Some(query) if promql::parse(rest).is_err() => (query, true),
        _ => (rest, false),
    };
    let query = " ".repeat(text.len() - query.len()) + query;
    promql::parse(&query).map_err(|e| invalid("query", e))?;
    Ok((query.into(), Some(Explain { analyze })))
}

fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let text = text.trim_start();
    let (first, rest) = text.split_at_checked(word.len())?;
    (first.eq_ignore_ascii_case(word) && rest.starts_with(|c: char| c.is_ascii_whitespace())).then_some(rest)
}

/// What the engine finds wrong with a query is a wrong parameter.
fn query_error(error: Error) -> ApiError {
    match error {
        Error::BadData(message) => invalid("query", message),
        error => error.into(),
    }
}

fn push_plan(out: &mut Vec<u8>, at_ms: i64, plan: &str) {
    out.extend_from_slice(b"{\"resultType\":\"string\",\"result\":[");
    push_time(out, at_ms);
    out.push(b',');
    push_string(out, plan);
    out.extend_from_slice(b"]}");
}

async fn respond(answer: Answer, instant: bool, stats: String, waited: Duration) -> ApiResult {
    let numbers = match &answer.value {
        Value::Rows(Rows { values, .. }) => values.len(),
        Value::Raw(series) => series.iter().map(|s| s.floats.len() + s.histograms.len()).sum(),
        Value::Scalar { values, .. } => values.len(),
        Value::String { .. } => 0,
    };
    let given_up = Arc::new(AtomicBool::new(false));
    if numbers <= LARGE_ANSWER_VALUES {
        return Ok(write(&answer, instant, &stats, waited, &given_up));
    }
    let _guard = RaiseOnDrop(Arc::clone(&given_up));
    let written = tokio::task::spawn_blocking(move || write(&answer, instant, &stats, waited, &given_up)).await;
    written.map_err(|e| Error::Internal(format!("answer was not written: {e}")).into())
}

/// Ends the writing of an answer that nobody waits for any more.
struct RaiseOnDrop(Arc<AtomicBool>);

impl Drop for RaiseOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn write(answer: &Answer, instant: bool, stats: &str, waited: Duration, given_up: &AtomicBool) -> Response {
    let data = |out: &mut Vec<u8>| {
        push_value(out, &answer.value, instant, given_up);
        if !stats.is_empty() {
            out.extend_from_slice(b",\"stats\":");
            out.extend_from_slice(stats_json(answer, waited).to_string().as_bytes());
        }
        out.push(b'}');
    };
    success(data, &answer.warnings, &answer.infos)
}

/// The names of Prometheus, and beside them what this engine knows besides.
fn stats_json(answer: &Answer, waited: Duration) -> serde_json::Value {
    let stats = &answer.stats;
    let total = stats.plan_time + stats.exec_time;
    json!({
        "timings": {
            "evalTotalTime": total.as_secs_f64(),
            "queryPreparationTime": stats.plan_time.as_secs_f64(),
            "innerEvalTime": stats.exec_time.as_secs_f64(),
            "execQueueTime": waited.as_secs_f64(),
            "execTotalTime": (waited + total).as_secs_f64(),
        },
        "samples": { "totalQueryableSamples": stats.samples },
        "series": stats.series,
        "peakMemoryBytes": stats.peak_memory_bytes,
    })
}
