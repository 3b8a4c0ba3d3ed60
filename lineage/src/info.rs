//! Edges and nodes as series in the store, so that PromQL can join any metric with its neighbourhood.
//!
//! `isobar_lineage_edge{from, from_kind, from_namespace, from_name, to, to_kind, to_namespace, to_name, relation, class, flow}` and
//! `isobar_lineage_node_info{node, kind, namespace, name, owner, criticality}` are 1 while they are in the graph, and end with a stale
//! marker. Times are rounded down to the interval, so that several processes write the same samples.

mod series;

use std::collections::HashMap;
use std::time::Duration;

use hashbrown::HashSet;
use isobar_block::{Labels, TenantId, stale_nan, time};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::mesh::span;
use crate::service::{Service, Tenant};
use crate::{AsOf, Error, Result};
use series::Series;

/// Most series of a tenant that the settings may allow.
pub const MAX_SERIES: usize = 1_000_000;

/// Shortest interval.
pub const MIN_INTERVAL_MS: i64 = 1_000;

/// Longest interval: PromQL does not see a sample that is older than five minutes.
pub const MAX_INTERVAL_MS: i64 = 4 * 60_000;

/// Samples of one write.
const WRITE_SAMPLES: usize = 5_000;

/// The section of the settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Whether the series are written.
    pub enabled: bool,
    /// Time between two samples.
    #[serde(with = "span")]
    pub interval: i64,
    /// Most series of a tenant. Beyond it, edges of columns are left out first, then those of instances, volumes and configuration.
    pub max_series: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { enabled: true, interval: 60_000, max_series: 20_000 }
    }
}

impl Settings {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the field.
    pub fn check(&self) -> Result<()> {
        if !(MIN_INTERVAL_MS..=MAX_INTERVAL_MS).contains(&self.interval) {
            return Err(Error::invalid("interval", "is not from 1s to 4m; PromQL does not see samples older than five minutes"));
        }
        if self.max_series > MAX_SERIES {
            return Err(Error::invalid("max_series", format!("{} is above {MAX_SERIES}", self.max_series)));
        }
        Ok(())
    }
}

/// What is counted.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    series: Gauge,
    left_out: Gauge,
    samples: Counter,
    failures: Counter,
}

impl Metrics {
    /// Registers it.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("isobar_lineage_info");
        r.register("series", "Series of edges and nodes that are written, of all tenants.", self.series.clone());
        r.register("left_out_series", "Edges and nodes without a series because of max_series, of all tenants.", self.left_out.clone());
        r.register("samples", "Samples of edges and nodes that were written.", self.samples.clone());
        r.register("failures", "Writes that failed. The next ones write the same series again.", self.failures.clone());
    }
}

/// What was written for a tenant at last.
#[derive(Default)]
struct Written {
    series: HashSet<Labels>,
    left_out: usize,
}

/// Works until told to stop.
pub async fn run(service: Service, mut stop: watch::Receiver<bool>) {
    if service.sink().is_none() {
        return;
    }
    let mut written: HashMap<TenantId, Written> = HashMap::new();
    let mut changed = service.subscribe();
    let mut last_ms = 0;
    loop {
        let interval_ms = service.settings().info.interval;
        let now_ms = time::now_ms();
        let slot_ms = now_ms - now_ms.rem_euclid(interval_ms);
        // A second sample of one time would be another value at best.
        if slot_ms > last_ms {
            last_ms = slot_ms;
            for tenant in service.opened() {
                write(&service, &tenant, slot_ms, written.entry(tenant.id.clone()).or_default()).await;
            }
            let metrics = &service.metrics().info;
            metrics.series.set(written.values().map(|w| w.series.len() as i64).sum());
            metrics.left_out.set(written.values().map(|w| w.left_out as i64).sum());
        }
        let wait_ms = (slot_ms.max(last_ms) + interval_ms - time::now_ms()).clamp(1, interval_ms);
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = changed.changed() => {}
            () = tokio::time::sleep(Duration::from_millis(wait_ms as u64)) => {}
        }
    }
}

/// Writes a sample of everything that is in a tenant's graph, and ends what is not any more.
async fn write(service: &Service, tenant: &Tenant, at_ms: i64, written: &mut Written) {
    let settings = service.settings();
    let now = match current(&settings.info, tenant).await {
        Ok(now) => now,
        Err(error) => {
            service.metrics().info.failures.inc();
            tracing::warn!(tenant = %tenant.id, %error, "series of edges were not written, because there is no graph; they are tried again");
            return;
        }
    };
    if now.left_out > 0 && written.left_out == 0 {
        let (tenant, left_out, limit) = (&tenant.id, now.left_out, settings.info.max_series);
        tracing::warn!(%tenant, left_out, "the graph has more edges and nodes than info.max_series, {limit}; the least important have no series");
    }
    written.left_out = now.left_out;
    let labels: HashSet<Labels> = now.labels.into_iter().collect();
    let ended: Vec<Labels> = written.series.iter().filter(|l| !labels.contains(*l)).cloned().collect();
    let mut kept = labels.clone();
    let samples = labels.into_iter().map(|l| (l, at_ms, 1.0)).chain(ended.into_iter().map(|l| (l, at_ms, stale_nan())));
    let samples: Vec<(Labels, i64, f64)> = samples.collect();
    let (Some(sink), metrics) = (service.sink(), &service.metrics().info) else { return };
    for part in samples.chunks(WRITE_SAMPLES) {
        match sink.write(&tenant.id, part.to_vec()).await {
            Ok(()) => drop(metrics.samples.inc_by(part.len() as u64)),
            Err(error) => {
                metrics.failures.inc();
                tracing::warn!(tenant = %tenant.id, %error, "some series of edges were not written; the next samples are tried again");
                // What could not be ended is ended next time.
                kept.extend(part.iter().filter(|s| s.2.is_nan()).map(|s| s.0.clone()));
            }
        }
    }
    written.series = kept;
}

/// The series of a tenant's graph as it is now.
async fn current(settings: &Settings, tenant: &Tenant) -> Result<Series> {
    if !settings.enabled || settings.max_series == 0 {
        return Ok(Series::default());
    }
    let snapshot = tenant.store.snapshot(AsOf::Now).await?;
    let limit = settings.max_series;
    Ok(tokio::task::spawn_blocking(move || series::of(&snapshot, limit)).await.expect("making labels does not panic"))
}

#[cfg(test)]
mod tests;
