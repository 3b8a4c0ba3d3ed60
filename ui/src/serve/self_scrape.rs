//! Stores Isobar's own metrics and those of its host in Isobar, as a Prometheus that scraped them would: so a new store is
//! never empty, and an operator can ask it about itself.
//!
//! Series have `job="isobar"` and the listen address as `instance`, and go to the default tenant. When the process stops in
//! order they end with a stale marker.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use isobar_block::{Labels, Metadata, TenantId, stale_nan, time};
use isobar_ingest::decoded::{DecodedRequest, DecodedSeries, LabelForm, Sample, WriteSink};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::exposition::{self, Family};
use super::host;
use super::metrics::Metrics;

/// What is scraped and where it goes.
pub struct SelfScrape {
    /// Where samples go.
    pub sink: Arc<dyn WriteSink>,
    /// Whose samples they are.
    pub tenant: TenantId,
    /// Own metrics.
    pub registry: Arc<Registry>,
    /// Counts failures.
    pub metrics: Metrics,
    /// Folder whose file system is reported.
    pub data: PathBuf,
    /// Value of the label `instance`.
    pub instance: String,
    /// Time between two scrapes.
    pub interval: Duration,
}

impl SelfScrape {
    /// Scrapes until told to stop, then ends the series.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let scrape = Arc::new(self);
        let last = Mutex::new(Vec::new());
        let mut ticks = tokio::time::interval(scrape.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut failed = false;
        while !*stop.borrow() {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stop.changed() => break,
            }
            let at_ms = time::now_ms();
            let reader = Arc::clone(&scrape);
            let Ok(families) = tokio::task::spawn_blocking(move || reader.gather()).await else { continue };
            let request = scrape.request(&families, at_ms, &last);
            let result = scrape.sink.write(&scrape.tenant, request).await;
            let reason = match &result {
                Ok(outcome) if outcome.rejected.total_without_exemplars() == 0 => None,
                Ok(outcome) => Some(outcome.rejected.to_string()),
                Err(error) => Some(error.to_string()),
            };
            if let Some(reason) = &reason {
                scrape.metrics.self_scrape_failures.inc();
                // Once is enough: a full disk would fill the log as well.
                if !failed {
                    tracing::warn!(%reason, "own metrics could not be stored");
                }
            }
            failed = reason.is_some();
        }
        let ended = std::mem::take(&mut *last.lock());
        let at_ms = time::now_ms();
        let stale = ended.iter().map(|labels: &Labels| (labels.clone(), at_ms, stale_nan()));
        // The process ends anyway; a reader waits for the lookback then.
        let _best_effort = scrape.sink.write(&scrape.tenant, request_of(stale, Vec::new())).await;
    }

    fn gather(&self) -> Vec<Family> {
        let mut families = exposition::gather(&self.registry);
        families.extend(host::process_families());
        families.extend(host::families(&self.data));
        families
    }

    /// A request with all samples, an `up` of 1, and stale markers for series that have gone since the last time.
    fn request(&self, families: &[Family], at_ms: i64, last: &Mutex<Vec<Labels>>) -> DecodedRequest {
        let target = [("job", "isobar"), ("instance", self.instance.as_str())];
        let up = Family::single("up", "Whether the target could be scraped", isobar_block::MetricType::Gauge, 1.0);
        let mut samples: Vec<(Labels, f64)> = families.iter().chain([&up]).flat_map(|f| f.samples(&target)).collect();
        let mut now: Vec<Labels> = samples.iter().map(|(labels, _)| labels.clone()).collect();
        now.sort_unstable_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        let before = std::mem::replace(&mut *last.lock(), now.clone());
        let gone = before.into_iter().filter(|l| now.binary_search_by(|n| n.as_bytes().cmp(l.as_bytes())).is_err());
        samples.extend(gone.map(|labels| (labels, stale_nan())));
        let metadata =
            families.iter().map(|f| (f.name.clone(), Metadata { metric_type: f.metric_type, help: f.help.clone(), unit: String::new() }));
        request_of(samples.into_iter().map(|(labels, value)| (labels, at_ms, value)), metadata.collect())
    }
}

/// A write request with one sample for each of these labels, Unix milliseconds and values.
pub fn request_of(samples: impl Iterator<Item = (Labels, i64, f64)>, metadata: Vec<(String, Metadata)>) -> DecodedRequest {
    let mut request = DecodedRequest { metadata, ..DecodedRequest::default() };
    for (at, (labels, timestamp_ms, value)) in samples.enumerate() {
        let (start, at) = (request.label_bytes.len() as u32, at as u32);
        request.label_bytes.extend_from_slice(labels.as_bytes());
        request.samples.push(Sample { timestamp_ms, value });
        request.series.push(DecodedSeries {
            labels: start..request.label_bytes.len() as u32,
            form: LabelForm::Canonical,
            samples: at..at + 1,
            histograms: 0..0,
            exemplars: 0..0,
            metadata: None,
            created_ms: 0,
        });
    }
    request
}

#[cfg(test)]
mod tests {
    use isobar_block::is_stale;
    use isobar_ingest::decoded::{WriteError, WriteOutcome};

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<Vec<(String, f64)>>>);

    #[async_trait::async_trait]
    impl WriteSink for Kept {
        async fn write(&self, _: &TenantId, request: DecodedRequest) -> Result<WriteOutcome, WriteError> {
            let series = request.series.iter().map(|s| {
                let labels = request.canonical_labels(s).expect("canonical");
                (labels.to_string(), request.samples_of(s)[0].value)
            });
            self.0.lock().push(series.collect());
            Ok(WriteOutcome::default())
        }
    }

    #[tokio::test]
    async fn stores_and_ends_its_series() {
        let kept = Arc::new(Kept::default());
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let scrape = SelfScrape {
            sink: kept.clone(),
            tenant: TenantId::default(),
            registry: Arc::new(registry),
            metrics,
            data: std::env::temp_dir(),
            instance: "127.0.0.1:9292".into(),
            interval: Duration::from_millis(10),
        };
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(scrape.run(stopped));
        while kept.0.lock().len() < 2 {
            tokio::task::yield_now().await;
        }
        stop.send(true).expect("is running");
        task.await.expect("ends");
        let kept = kept.0.lock();
        let first = &kept[0];
        for part in ["isobar_build_info", "node_cpu_seconds_total", "process_resident_memory_bytes", "up"] {
            let series = first.iter().find(|(labels, _)| labels.contains(part)).unwrap_or_else(|| panic!("{part} is missing"));
            assert!(series.0.contains("job=\"isobar\"") && series.0.contains("instance=\"127.0.0.1:9292\""), "{series:?}");
        }
        let last = kept.last().expect("has writes");
        assert!(last.len() >= first.len() && last.iter().all(|(_, value)| is_stale(*value)));
    }
}
