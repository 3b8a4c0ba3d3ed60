//! What there is: series, label names and values, metadata, exemplars.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use axum::extract::{Path, Request, State};
use isobar_block::{Coverage, Exemplar, Labels, Matcher, Source, TimeRange, Want};
use serde_json::json;

use super::Api;
use super::envelope::{ApiError, ApiResult, success, success_json};
use super::json::{push_float, push_labels, push_list, push_string, push_time};
use super::params::{end_before_start, invalid, unescape_label_name};
use crate::plan::coarser_than_raw;
use crate::promql::{self, quote::quote};
use crate::result::Error;

/// The warning of an answer that was cut.
const TRUNCATED: &str = "results truncated due to limit";

/// Cuts a list to `limit` items (0: no limit), with a warning if something is lost.
fn truncate<T>(items: &mut Vec<T>, limit: usize) -> Vec<String> {
    if limit == 0 || items.len() <= limit {
        return Vec::new();
    }
    items.truncate(limit);
    vec![TRUNCATED.to_owned()]
}

impl Api {
    /// Looks at metadata no longer than a query may run.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
        let limit = self.0.config.timeout;
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(Error::Timeout { after: limit, limit: "query timeout" }.into()))
    }
}

/// `GET|POST /api/v1/series`
pub(super) async fn series(State(api): State<Api>, request: Request) -> ApiResult {
    let (params, headers) = api.params(request).await?;
    let (limit, range, selectors) = (params.limit()?, params.time_range()?, params.matchers()?);
    if selectors.is_empty() {
        return Err(ApiError::bad_data("no match[] parameter provided"));
    }
    let work = async {
        let source = api.source(&headers, &params.view()).await?;
        let mut found: Vec<Labels> = Vec::new();
        let mut coverage = Coverage::default();
        for matchers in &selectors {
            let selected = source.select(matchers, range, Want::default()).await?;
            coverage.warnings.extend(selected.warnings);
            for set in selected.sets {
                coverage.resolutions_ms.insert(set.resolution_ms());
                found.extend((0..set.len()).map(|row| set.labels(row).to_owned()));
            }
        }
        found.sort();
        found.dedup();
        Ok((found, coverage))
    };
    let (mut found, coverage) = api.in_time(work).await?;
    let warnings = warnings(coverage, truncate(&mut found, limit));
    Ok(success(|out| push_list(out, &found, |out, labels| push_labels(out, labels.as_ref())), &warnings, &[]))
}

/// What is said of an answer: what is missing from it, where it comes from, and whether it was cut.
fn warnings(coverage: Coverage, cut: Vec<String>) -> Vec<String> {
    let mut all: BTreeSet<String> = coverage.warnings.into_iter().collect();
    all.extend(coarser_than_raw(&coverage.resolutions_ms));
    all.into_iter().chain(cut).collect()
}

/// The union of what `ask` gives for each selector; for no selector, of what it gives for everything.
async fn union<T: Ord, F: Future<Output = isobar_block::Result<Vec<T>>>>(
    source: &dyn Source,
    (selectors, range): (Vec<Vec<Matcher>>, TimeRange),
    ask: impl Fn(Vec<Matcher>) -> F,
) -> Result<(Vec<T>, Coverage), ApiError> {
    let selectors = if selectors.is_empty() { vec![Vec::new()] } else { selectors };
    let (mut all, mut coverage) = (BTreeSet::new(), Coverage::default());
    let mut only = None;
    let several = selectors.len() > 1;
    for matchers in selectors {
        coverage.extend(source.coverage(&matchers, range).await?);
        let found = ask(matchers).await?;
        if several {
            all.extend(found);
        } else {
            only = Some(found);
        }
    }
    Ok((only.unwrap_or_else(|| all.into_iter().collect()), coverage))
}

fn strings(list: &[String], warnings: &[String]) -> ApiResult {
    Ok(success(|out| push_list(out, list, |out, text| push_string(out, text)), warnings, &[]))
}

/// `GET|POST /api/v1/labels`
pub(super) async fn label_names(State(api): State<Api>, request: Request) -> ApiResult {
    let (params, headers) = api.params(request).await?;
    let (limit, range, selectors) = (params.limit()?, params.time_range()?, params.matchers()?);
    let work = async {
        let source = &*api.source(&headers, &params.view()).await?;
        union(source, (selectors, range), |matchers| async move { source.label_names(&matchers, range).await }).await
    };
    let (mut names, coverage) = api.in_time(work).await?;
    let warnings = warnings(coverage, truncate(&mut names, limit));
    strings(&names, &warnings)
}

/// `GET /api/v1/label/<name>/values`
pub(super) async fn label_values(State(api): State<Api>, Path(name): Path<String>, request: Request) -> ApiResult {
    let name = &unescape_label_name(&name);
    if name.is_empty() {
        return Err(ApiError::bad_data(format!("invalid label name: {}", quote(name))));
    }
    let (params, headers) = api.params(request).await?;
    let (limit, range, selectors) = (params.limit()?, params.time_range()?, params.matchers()?);
    let work = async {
        let source = &*api.source(&headers, &params.view()).await?;
        union(source, (selectors, range), |matchers| async move { source.label_values(name, &matchers, range).await }).await
    };
    let (mut values, coverage) = api.in_time(work).await?;
    let warnings = warnings(coverage, truncate(&mut values, limit));
    strings(&values, &warnings)
}

/// `GET /api/v1/metadata`
pub(super) async fn metadata(State(api): State<Api>, request: Request) -> ApiResult {
    let (params, headers) = api.params(request).await?;
    let number = |name: &str| match params.get(name) {
        "" => Ok(usize::MAX),
        // As in Prometheus, a negative number is no limit.
        text => text
            .parse::<i64>()
            .map(|n| usize::try_from(n).unwrap_or(usize::MAX))
            .map_err(|_| ApiError::bad_data(format!("{name} must be a number"))),
    };
    let (limit, per_metric) = (number("limit")?, number("limit_per_metric")?);
    let per_metric = if per_metric == 0 { usize::MAX } else { per_metric };
    let metric = Some(params.get("metric")).filter(|m| !m.is_empty());
    let found = api.in_time(async { Ok(api.source(&headers, &params.view()).await?.metadata(metric).await?) }).await?;
    let listed: BTreeMap<&str, Vec<_>> = found
        .iter()
        .take(limit)
        .map(|(name, list)| {
            let entry = |m: &isobar_block::Metadata| json!({"type": m.metric_type.as_str(), "help": m.help, "unit": m.unit});
            (name.as_str(), list.iter().take(per_metric).map(entry).collect())
        })
        .collect();
    success_json(&listed)
}

/// `GET|POST /api/v1/query_exemplars`
pub(super) async fn exemplars(State(api): State<Api>, request: Request) -> ApiResult {
    let (params, headers) = api.params(request).await?;
    let range = TimeRange::new(params.time("start")?, params.time("end")?).map_err(|_| end_before_start())?;
    let expr = promql::parse(params.get("query")).map_err(|e| invalid("query", e))?;
    let work = async {
        let source = api.source(&headers, &params.view()).await?;
        let mut found: BTreeMap<Labels, Vec<Exemplar>> = BTreeMap::new();
        let mut missing = BTreeSet::new();
        for selector in expr.selectors() {
            missing.extend(source.coverage(&selector.matchers, range).await?.warnings);
            for (labels, list) in source.exemplars(&selector.matchers, range).await? {
                found.insert(labels, list);
            }
        }
        Ok((found, missing.into_iter().collect::<Vec<_>>()))
    };
    let (found, missing) = api.in_time(work).await?;
    let data = |out: &mut Vec<u8>| {
        push_list(out, &found, |out, (labels, list)| {
            out.extend_from_slice(b"{\"seriesLabels\":");
            push_labels(out, labels.as_ref());
            out.extend_from_slice(b",\"exemplars\":");
            push_list(out, list, push_exemplar);
            out.push(b'}');
        });
    };
    Ok(success(data, &missing, &[]))
}

fn push_exemplar(out: &mut Vec<u8>, exemplar: &Exemplar) {
    out.extend_from_slice(b"{\"labels\":");
    push_labels(out, exemplar.labels.as_ref());
    out.extend_from_slice(b",\"value\":\"");
    push_float(out, exemplar.value);
    out.extend_from_slice(b"\",\"timestamp\":");
    push_time(out, exemplar.timestamp_ms);
    out.push(b'}');
}
