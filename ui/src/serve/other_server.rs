//! PromQL asked of another server, for a process that keeps lineage and has no heads.

use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use isobar_block::{Error, Labels, MatrixSeries, PromQl, Result, TenantId, VectorSample};
use serde::Deserialize;

/// Largest answer that is read.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// A server with the HTTP API of Prometheus.
pub struct OtherServer {
    client: reqwest::Client,
    url: String,
}

#[derive(Deserialize)]
struct Envelope {
    status: String,
    #[serde(default)]
    error: String,
    #[serde(default)]
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "resultType")]
    result_type: String,
    result: serde_json::Value,
}

#[derive(Deserialize)]
struct Series {
    metric: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    value: Option<(f64, String)>,
    #[serde(default)]
    values: Vec<(f64, String)>,
}

impl OtherServer {
    /// The server at this URL, with its route prefix.
    ///
    /// # Errors
    /// If the system refuses a client.
    pub fn new(url: &str, timeout: Duration) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().timeout(timeout).build().context("cannot make an HTTP client (lineage.query-url)")?;
        Ok(Self { client, url: url.trim_end_matches('/').to_owned() })
    }

    async fn ask(&self, tenant: &TenantId, path: &str, form: &[(&str, String)]) -> Result<Vec<MatrixSeries>> {
        let url = format!("{}/api/v1/{path}", self.url);
        let unavailable = |reason: String| Error::Unavailable { what: "lineage.query-url", reason };
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = self
            .client
            .post(&url)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("X-Scope-OrgID", tenant.as_str())
            .body(body);
        let mut answer = request.send().await.map_err(|e| unavailable(format!("{url}: {e}")))?;
        let mut bytes = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|e| unavailable(format!("{url}: {e}")))? {
            if bytes.len() + part.len() > MAX_ANSWER_BYTES {
                return Err(unavailable(format!("{url} answers more than {MAX_ANSWER_BYTES} bytes; make the query sum over more labels")));
            }
            bytes.extend_from_slice(&part);
        }
        let envelope: Envelope =
            serde_json::from_slice(&bytes).map_err(|e| unavailable(format!("{url} answered {} and no JSON: {e}", answer.status())))?;
        match envelope.data {
            Some(data) if envelope.status == "success" => series(data).map_err(|e| unavailable(format!("{url}: {e}"))),
            _ if answer.status().is_client_error() => Err(Error::Invalid { what: "query for lineage", reason: envelope.error }),
            _ => Err(unavailable(format!("{url}: {}", envelope.error))),
        }
    }
}

fn series(data: Data) -> std::result::Result<Vec<MatrixSeries>, String> {
    let point = |(seconds, value): (f64, String)| Some(((seconds * 1000.0).round() as i64, value.parse().ok()?));
    if data.result_type == "scalar" {
        let scalar: (f64, String) = serde_json::from_value(data.result).map_err(|e| e.to_string())?;
        return Ok(vec![MatrixSeries { labels: Labels::empty(), values: point(scalar).into_iter().collect() }]);
    }
    let rows: Vec<Series> = serde_json::from_value(data.result).map_err(|e| e.to_string())?;
    let read = |row: Series| {
        let labels = Labels::from_pairs(&row.metric).map_err(|e| e.to_string())?;
        Ok(MatrixSeries { labels, values: row.value.into_iter().chain(row.values).filter_map(point).collect() })
    };
    rows.into_iter().map(read).filter(|s| s.as_ref().map_or(true, |s| !s.values.is_empty())).collect()
}

#[async_trait]
impl PromQl for OtherServer {
    async fn instant(&self, tenant: &TenantId, query: &str, at_ms: i64) -> Result<Vec<VectorSample>> {
        let form = [("query", query.to_owned()), ("time", seconds(at_ms))];
        let series = self.ask(tenant, "query", &form).await?;
        Ok(series.into_iter().filter_map(|s| Some(VectorSample { value: s.values.last()?.1, labels: s.labels })).collect())
    }

    async fn range(&self, tenant: &TenantId, query: &str, start_ms: i64, end_ms: i64, step_ms: i64) -> Result<Vec<MatrixSeries>> {
        let form = [("query", query.to_owned()), ("start", seconds(start_ms)), ("end", seconds(end_ms)), ("step", seconds(step_ms))];
        self.ask(tenant, "query_range", &form).await
    }
}

fn seconds(ms: i64) -> String {
    format!("{}.{:03}", ms / 1000, ms.rem_euclid(1000))
}
