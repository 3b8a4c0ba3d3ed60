//! What the server says about itself under `/api/v1/status`.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use chrono::{DateTime, SecondsFormat};
use isobar_block::{TenantId, time};
use isobar_compactor::TenantRules;
use isobar_ingest::{Ingester, ReplayProgress, units};
use isobar_query::http::{BuildInfo, HeadInfo, RuntimeInfo, StatusProvider, WalReplay};
use parking_lot::RwLock;
use prometheus_client::registry::Registry;

use super::metrics::Metrics;
use super::{exposition, status};
use crate::config::load::Loaded;

/// The configuration in force, changed by a reload.
pub type Live = Arc<RwLock<Arc<Loaded>>>;

/// Where the facts come from.
pub struct Facts {
    live: Live,
    started_ms: i64,
    /// How far the log has been read.
    pub progress: Arc<ReplayProgress>,
    metrics: Metrics,
    /// The registry, once everything is registered.
    pub registry: Arc<OnceLock<Arc<Registry>>>,
    /// Knows of heads, if there are any.
    pub ingester: Option<Arc<Ingester>>,
}

impl Facts {
    /// Of a process that starts now.
    pub fn new(live: Live, metrics: Metrics) -> Self {
        Self { live, started_ms: time::now_ms(), progress: Arc::default(), metrics, registry: Arc::default(), ingester: None }
    }
}

impl StatusProvider for Facts {
    fn build_info(&self) -> BuildInfo {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        BuildInfo { version, go_version: concat!("rust ", env!("CARGO_PKG_RUST_VERSION")).to_owned(), ..BuildInfo::default() }
    }

    fn runtime_info(&self) -> RuntimeInfo {
        let (reload_config_success, reloaded_ms) = self.metrics.last_reload();
        RuntimeInfo {
            start_time: rfc3339(self.started_ms),
            cwd: std::env::current_dir().map(|d| d.display().to_string()).unwrap_or_default(),
            hostname: super::host::name(),
            reload_config_success,
            last_config_time: rfc3339(reloaded_ms),
            corruption_count: self
                .registry
                .get()
                .map_or(0, |registry| exposition::value(&exposition::gather(registry), "isobar_wal_replay_damage_total")),
            thread_count: procfs::process::Process::myself().and_then(|p| p.stat()).map_or(0, |s| s.num_threads.unsigned_abs()),
            processors: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
            storage_retention: retention(&self.live.read().config.sections.rules),
        }
    }

    fn config_yaml(&self) -> String {
        status::config_yaml(&self.live.read())
    }

    fn flags(&self) -> BTreeMap<String, String> {
        status::flags(&self.live.read())
    }

    fn head(&self, tenant: &TenantId) -> HeadInfo {
        let Some(ingester) = &self.ingester else { return HeadInfo::default() };
        let status = ingester.tenant_status(tenant, 0);
        HeadInfo {
            num_series: status.series,
            num_label_pairs: status.label_pairs,
            chunk_count: status.chunks,
            min_time: status.min_time_ms.unwrap_or_default(),
            max_time: status.max_time_ms.unwrap_or_default(),
        }
    }

    fn wal_replay(&self) -> WalReplay {
        let (min, max, current) = self.progress.get();
        WalReplay { min, max, current }
    }
}

/// How long raw samples are kept by default, as Prometheus says it.
fn retention(rules: &TenantRules) -> String {
    let limits = [rules.raw_retention.map(units::format_duration), rules.max_bytes.map(units::format_bytes)];
    let limits: Vec<String> = limits.into_iter().flatten().collect();
    if limits.is_empty() { "unlimited".to_owned() } else { limits.join(" or ") }
}

fn rfc3339(at_ms: i64) -> String {
    DateTime::from_timestamp_millis(at_ms).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Secs, true)
}
