//! What the server says of itself. The one who assembles it provides the facts; the cardinality lists of `status/tsdb` are
//! counted here.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use axum::extract::{Request, State};
use isobar_block::labels::METRIC_NAME;
use isobar_block::time::now_ms;
use isobar_block::{TenantId, TimeRange, Want};
use serde::Serialize;
use serde_json::{Value, json};

use super::Api;
use super::envelope::{ApiError, ApiResult, success_json};
use super::params::{Params, invalid};
use crate::result::Error;

/// How far back a series must have had a sample to be counted by `status/tsdb`, unless `start` says otherwise.
const RECENT_MS: i64 = 2 * 3_600_000;

/// How many items the lists of `status/tsdb` have by default, and at most.
const DEFAULT_ITEMS: usize = 10;
const MAX_ITEMS: usize = 10_000;

/// Facts about the server.
pub trait StatusProvider: Send + Sync {
    /// Which program this is.
    fn build_info(&self) -> BuildInfo;
    /// How it runs.
    fn runtime_info(&self) -> RuntimeInfo;
    /// The configuration as YAML, without secrets.
    fn config_yaml(&self) -> String;
    /// The flags in force.
    fn flags(&self) -> BTreeMap<String, String>;
    /// What the tenant's head holds.
    fn head(&self, tenant: &TenantId) -> HeadInfo;
    /// How far the write-ahead log has been read.
    fn wal_replay(&self) -> WalReplay;
}

/// See Prometheus's `status/buildinfo`.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names are those of Prometheus")]
pub struct BuildInfo {
    pub version: String,
    pub revision: String,
    pub branch: String,
    pub build_user: String,
    pub build_date: String,
    /// Holds the compiler's version here.
    pub go_version: String,
}

/// See Prometheus's `status/runtimeinfo`.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeInfo {
    /// When the process started, RFC 3339.
    pub start_time: String,
    /// Working directory.
    #[serde(rename = "CWD")]
    pub cwd: String,
    /// Name of the host.
    pub hostname: String,
    /// Whether the last reload of the configuration succeeded.
    pub reload_config_success: bool,
    /// When it was, RFC 3339.
    pub last_config_time: String,
    /// Damaged records found in the write-ahead log.
    pub corruption_count: u64,
    /// Threads of the process.
    #[serde(rename = "goroutineCount")]
    pub thread_count: u64,
    /// Processors that the process may use.
    #[serde(rename = "GOMAXPROCS")]
    pub processors: u64,
    /// How long data are kept, in words.
    pub storage_retention: String,
}

/// See `headStats` of Prometheus's `status/tsdb`.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeadInfo {
    /// Series in the head.
    pub num_series: u64,
    /// Different pairs of label name and value.
    pub num_label_pairs: u64,
    /// Chunks in the head.
    pub chunk_count: u64,
    /// Time of the oldest sample, Unix milliseconds.
    pub min_time: i64,
    /// Time of the newest sample, Unix milliseconds.
    pub max_time: i64,
}

/// See Prometheus's `status/walreplay`: numbers of segments.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WalReplay {
    /// First segment.
    pub min: u64,
    /// Last segment.
    pub max: u64,
    /// Segment that was read last.
    pub current: u64,
}

/// `GET /api/v1/status/buildinfo`
pub(super) async fn build_info(State(api): State<Api>) -> ApiResult {
    success_json(&api.0.status.build_info())
}

/// `GET /api/v1/status/runtimeinfo`
pub(super) async fn runtime_info(State(api): State<Api>) -> ApiResult {
    let mut info = serde_json::to_value(api.0.status.runtime_info()).map_err(|e| Error::Internal(e.to_string()))?;
    let now = chrono::DateTime::from_timestamp_millis(now_ms()).unwrap_or_default();
    info["serverTime"] = json!(now.to_rfc3339_opts(chrono::SecondsFormat::Millis, true));
    // Members without meaning for this program, which clients expect to find.
    for name in ["GOMEMLIMIT", "GOGC", "GODEBUG"] {
        info[name] = json!("");
    }
    success_json(&info)
}

/// `GET /api/v1/status/config`
pub(super) async fn config(State(api): State<Api>) -> ApiResult {
    success_json(&json!({"yaml": api.0.status.config_yaml()}))
}

/// `GET /api/v1/status/flags`
pub(super) async fn flags(State(api): State<Api>) -> ApiResult {
    success_json(&api.0.status.flags())
}

/// `GET /api/v1/status/walreplay`
pub(super) async fn wal_replay(State(api): State<Api>) -> ApiResult {
    success_json(&api.0.status.wal_replay())
}

/// `GET /api/v1/status/tsdb`
pub(super) async fn tsdb(State(api): State<Api>, request: Request) -> ApiResult {
    let (params, headers) = api.params(request).await?;
    let limit = items(&params)?;
    let now = now_ms();
    let range = TimeRange::new(params.time_or("start", now - RECENT_MS)?, params.time_or("end", i64::MAX)?)
        .map_err(|_| super::params::end_before_start())?;
    let tenant = (api.0.tenant_of)(&headers).map_err(ApiError::bad_data)?;
    let source = api.0.storage.source(&tenant, &params.view()).await?;
    let sets = source.select(&[], range, Want::default()).await?.sets;
    let counted = tokio::task::spawn_blocking(move || {
        let mut counts = Counts::default();
        // A series may be in the head and in blocks.
        let mut seen = BTreeSet::new();
        let several = sets.len() > 1;
        for set in &sets {
            for row in 0..set.len() {
                let labels = set.labels(row);
                if !several || seen.insert(labels.as_bytes()) {
                    counts.add(labels);
                }
            }
        }
        counts.lists(limit)
    });
    let mut out = counted.await.map_err(|e| Error::Internal(format!("series were not counted: {e}")))?;
    out["headStats"] = serde_json::to_value(api.0.status.head(&tenant)).map_err(|e| Error::Internal(e.to_string()))?;
    success_json(&out)
}

fn items(params: &Params) -> Result<usize, ApiError> {
    match params.get("limit") {
        "" => Ok(DEFAULT_ITEMS),
        text => match text.parse() {
            Ok(limit @ 1..=MAX_ITEMS) => Ok(limit),
            _ => Err(invalid("limit", format!("limit must be a number from 1 to {MAX_ITEMS}"))),
        },
    }
}

/// How often what occurs among series.
#[derive(Default)]
struct Counts {
    by_metric: HashMap<String, u64>,
    by_pair: HashMap<String, HashMap<String, u64>>,
}

impl Counts {
    fn add(&mut self, labels: isobar_block::LabelsRef<'_>) {
        for (name, value) in labels.iter() {
            if name == METRIC_NAME {
                add_one(&mut self.by_metric, value);
            }
            if !self.by_pair.contains_key(name) {
                self.by_pair.insert(name.to_owned(), HashMap::new());
            }
            if let Some(values) = self.by_pair.get_mut(name) {
                add_one(values, value);
            }
        }
    }

    fn lists(self, limit: usize) -> Value {
        let values = self.by_pair.iter().map(|(name, values)| (name.clone(), values.len() as u64));
        let bytes = self.by_pair.iter().map(|(name, values)| (name.clone(), values.keys().map(|v| v.len() as u64).sum()));
        let pairs = self.by_pair.iter().flat_map(|(name, values)| values.iter().map(move |(value, n)| (format!("{name}={value}"), *n)));
        json!({
            "labelValueCountByLabelName": top(values, limit),
            "memoryInBytesByLabelName": top(bytes, limit),
            "seriesCountByLabelValuePair": top(pairs, limit),
            "seriesCountByMetricName": top(self.by_metric.into_iter(), limit),
        })
    }
}

fn add_one(counts: &mut HashMap<String, u64>, key: &str) {
    match counts.get_mut(key) {
        Some(count) => *count += 1,
        None => {
            counts.insert(key.to_owned(), 1);
        }
    }
}

/// The biggest, descending; equal ones by name.
fn top(counts: impl Iterator<Item = (String, u64)>, limit: usize) -> Value {
    let mut all: Vec<_> = counts.collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all.truncate(limit);
    all.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
}
