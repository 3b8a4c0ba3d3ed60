//! The ingester against a naive model, through cuts, crashes, stops, a failing object store and a full disk.

mod faults;
mod model;

use std::sync::Arc;
use std::time::Duration;

use isobar_block::store::{BlockStore, BlockStoreConfig};
use isobar_block::union::Union;
use isobar_block::{Exemplar, Labels, Matcher, Metadata, MetricType, SampleBuf, Source, TenantId, TimeRange, Want};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use prometheus_client::registry::Registry;

use super::*;
use crate::decoded::{DecodedSeries, LabelForm, Sample};

/// An ingester in a directory that can be closed and opened again.
struct Store {
    _dir: tempfile::TempDir,
    objects: Arc<dyn ObjectStore>,
    config: IngestConfig,
    limits: LiveLimits,
    ingester: Option<Arc<Ingester>>,
}

impl Store {
    async fn new() -> Self {
        Self::with(Arc::new(InMemory::new()), |_| ()).await
    }

    async fn with(objects: Arc<dyn ObjectStore>, change: impl FnOnce(&mut IngestConfig)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = IngestConfig { wal_dir: dir.path().join("wal"), wal_segment_bytes: 64 << 10, ..IngestConfig::default() };
        change(&mut config);
        let mut store = Self { _dir: dir, objects, config, limits: LiveLimits::default(), ingester: None };
        store.open().await.expect("opens");
        store
    }

    async fn open(&mut self) -> Result<()> {
        let blocks = BlockStore::new(Arc::clone(&self.objects), BlockStoreConfig::default());
        let opened = Ingester::open(self.config.clone(), self.limits.clone(), blocks, &mut Registry::default(), Arc::default()).await;
        self.ingester = Some(opened?);
        Ok(())
    }

    /// As a crash: nothing is cut.
    async fn crash(&mut self) {
        if let Some(ingester) = self.ingester.take() {
            let gone = Arc::downgrade(&ingester);
            ingester.stopping.store(true, Ordering::Release);
            ingester.wake.notify_one();
            drop(ingester);
            while gone.strong_count() > 0 || DirLock::take(&self.config.wal_dir).is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    async fn stop(&mut self) {
        if let Some(ingester) = &self.ingester {
            ingester.shutdown().await.expect("stops");
        }
        self.crash().await;
    }

    fn now(&self) -> &Arc<Ingester> {
        self.ingester.as_ref().expect("it is open")
    }

    fn source(&self, tenant: &TenantId) -> Union {
        Union::new(vec![self.now().blocks.source(tenant), self.now().source(tenant)])
    }

    /// Everything that a query finds, by series and timestamp, as text.
    async fn read(&self, tenant: &TenantId) -> model::Content {
        let sets = self.source(tenant).select(&[], TimeRange::ALL, Want::default()).await.expect("selects").sets;
        let mut content = model::Content::default();
        for set in sets {
            assert!((1..set.len()).all(|row| set.labels(row - 1) < set.labels(row)), "a set is sorted");
            let mut run = set.load(0..set.len(), TimeRange::ALL).await.expect("loads");
            let mut samples = SampleBuf::default();
            for row in 0..set.len() {
                run.read(row, &mut samples).expect("reads");
                assert!(samples.timestamps.is_sorted_by(|a, b| a < b), "timestamps ascend");
                assert_eq!(samples.timestamps.len(), samples.values.len());
                let series = content.entry(set.labels(row).to_owned()).or_default();
                series.extend(model::texts(&samples));
            }
        }
        content
    }
}

/// Puts series into a request, each with its labels in one of the two forms.
#[derive(Default)]
struct Builder(DecodedRequest);

impl Builder {
    fn series(mut self, labels: &Labels, form: LabelForm, samples: &[(i64, f64)]) -> Self {
        let (label_start, sample_start) = (self.0.label_bytes.len() as u32, self.0.samples.len() as u32);
        match form {
            LabelForm::Canonical => self.0.label_bytes.extend_from_slice(labels.as_bytes()),
            LabelForm::Wire => {
                let mut wire = Vec::new();
                crate::head::lookup::is_normal_wire(&[], labels.as_ref(), &mut wire);
                self.0.label_bytes.extend_from_slice(&wire);
            }
        }
        self.0.samples.extend(samples.iter().map(|(t, v)| Sample { timestamp_ms: *t, value: *v }));
        let (histograms, exemplars) = (self.0.histograms.len() as u32, self.0.exemplars.len() as u32);
        self.0.series.push(DecodedSeries {
            labels: label_start..self.0.label_bytes.len() as u32,
            form,
            samples: sample_start..self.0.samples.len() as u32,
            histograms: histograms..histograms,
            exemplars: exemplars..exemplars,
            metadata: None,
            created_ms: 0,
        });
        self
    }

    fn histogram(mut self, t: i64, histogram: isobar_block::Histogram) -> Self {
        self.0.histograms.push((t, histogram));
        self.0.series.last_mut().expect("a series").histograms.end += 1;
        self
    }

    fn exemplar(mut self, exemplar: Exemplar) -> Self {
        self.0.exemplars.push(exemplar);
        self.0.series.last_mut().expect("a series").exemplars.end += 1;
        self
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied()).expect("valid labels")
}

fn up(i: usize) -> Labels {
    labels(&[("__name__", "up"), ("i", &i.to_string())])
}

fn one(i: usize, samples: &[(i64, f64)]) -> DecodedRequest {
    Builder::default().series(&up(i), LabelForm::Wire, samples).0
}

const BASE_MS: i64 = 1_700_000_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn rejects_what_the_rules_say_and_keeps_the_rest() {
    let store = Store::new().await;
    let tenant = TenantId::default();
    let write = async |samples: &[(i64, f64)]| {
        let outcome = store.now().write(&tenant, one(0, samples)).await.expect("written");
        (outcome.samples_written, outcome.rejected.counts().to_vec())
    };
    assert_eq!(write(&[(0, 1.0), (BASE_MS, 2.0)]).await, (2, vec![]), "an empty store takes any old timestamp");
    assert_eq!(write(&[(BASE_MS, 2.0)]).await, (1, vec![]), "an exact repeat is silent");
    assert_eq!(write(&[(BASE_MS, 3.0), (BASE_MS + 1, 3.0)]).await, (1, vec![("duplicate_timestamp", 1)]));
    assert_eq!(write(&[(BASE_MS + 1 - 7_200_000, 3.0)]).await, (1, vec![]), "within the window");
    assert_eq!(write(&[(BASE_MS + 1 - 7_200_000, 4.0)]).await, (0, vec![("duplicate_timestamp", 1)]));
    assert_eq!(write(&[(BASE_MS - 7_200_000, 3.0)]).await, (0, vec![("too_old", 1)]));
    let now = time::now_ms();
    assert_eq!(write(&[(now + 3_600_000, 1.0), (now + 300_000, 1.0)]).await, (1, vec![("too_far_in_future", 1)]));
    let no_name =
        Builder::default().series(&labels(&[("job", "x")]), LabelForm::Wire, &[(1, 1.0)]).series(&up(1), LabelForm::Canonical, &[(1, 1.0)]);
    let outcome = store.now().write(&tenant, no_name.0).await.expect("written");
    assert_eq!((outcome.samples_written, outcome.rejected.counts()), (1, &[("missing_metric_name", 1)][..]));
    assert_eq!(store.read(&tenant).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_forms_of_labels_are_one_series_and_limits_hold() {
    let mut store = Store::new().await;
    let tenant = TenantId::new("team").expect("valid");
    let wire = Builder::default().series(&up(0), LabelForm::Canonical, &[(1, 1.0)]).series(&up(0), LabelForm::Wire, &[(2, 1.0)]);
    store.now().write(&tenant, wire.0).await.expect("written");
    store.now().write(&tenant, one(0, &[(3, 1.0)])).await.expect("written");
    assert_eq!(store.read(&tenant).await[&up(0)].len(), 3);
    let mut limits = crate::limits::LimitsConfig::default();
    limits.defaults.max_active_series = 2;
    store.limits.replace(limits);
    let request = Builder::default().series(&up(0), LabelForm::Wire, &[(4, 1.0)]).series(&up(1), LabelForm::Wire, &[(4, 1.0)]);
    let outcome = store.now().write(&tenant, request.series(&up(2), LabelForm::Wire, &[(4, 1.0)]).0).await.expect("written");
    assert_eq!((outcome.samples_written, outcome.rejected.counts()), (2, &[("per_tenant_series_limit", 1)][..]));
    assert_eq!(store.read(&TenantId::default()).await.len(), 0, "another tenant sees nothing");
    store.crash().await;
    store.open().await.expect("opens");
    assert_eq!(store.read(&tenant).await.values().map(|s| s.len()).sum::<usize>(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn exemplars_and_metadata_survive_cuts_and_crashes() {
    let mut store = Store::new().await;
    let tenant = TenantId::default();
    let exemplar = |t: i64| Exemplar { labels: labels(&[("trace_id", &t.to_string())]), value: 0.5, timestamp_ms: t };
    let metadata = Metadata { metric_type: MetricType::Gauge, help: "Up.".into(), unit: String::new() };
    for t in 0..4 {
        let mut request = Builder::default().series(&up(0), LabelForm::Wire, &[(t, 1.0)]).exemplar(exemplar(t)).0;
        request.metadata.push(("up".into(), metadata.clone()));
        let outcome = store.now().write(&tenant, request).await.expect("written");
        assert_eq!(outcome.exemplars_written, 1);
        match t {
            0 => drop(store.now().flush().await.expect("cuts")),
            1 => {
                store.crash().await;
                store.open().await.expect("opens");
            }
            2 => {
                store.stop().await;
                store.open().await.expect("opens");
            }
            _ => {}
        }
        let found = store.source(&tenant).exemplars(&[], TimeRange::ALL).await.expect("finds");
        let expected: Vec<Exemplar> = (0..=t).map(exemplar).collect();
        assert_eq!(found, [(up(0), expected)], "after step {t}");
        assert_eq!(store.source(&tenant).metadata(None).await.expect("finds"), [("up".to_owned(), vec![metadata.clone()])]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn index_follows_cuts_and_idle_series_leave() {
    let store = Store::with(Arc::new(InMemory::new()), |c| c.series_idle_time = Duration::ZERO).await;
    let tenant = TenantId::default();
    for i in 0..600 {
        store.now().write(&tenant, one(i, &[(BASE_MS, 1.0)])).await.expect("written");
    }
    let head = store.now().source(&tenant);
    let matcher = |v: &str| vec![Matcher::new("i", isobar_block::MatchOp::Regex, v).expect("valid")];
    assert_eq!(head.label_values("i", &matcher("1.|2"), TimeRange::ALL).await.expect("finds").len(), 11);
    assert_eq!(head.label_names(&[], TimeRange::ALL).await.expect("finds"), ["__name__", "i"]);
    let before = TimeRange::new(0, BASE_MS - 1).expect("valid");
    assert!(head.label_values("i", &[], before).await.expect("finds").is_empty());
    assert!(head.select(&[], before, Want::default()).await.expect("selects").sets.is_empty());
    tokio::time::sleep(Duration::from_millis(1100)).await;
    store.now().flush().await.expect("cuts");
    assert_eq!(store.now().tenants(), [], "a head without series leaves");
    assert_eq!(store.read(&tenant).await.len(), 600);
    store.now().write(&tenant, one(1, &[(BASE_MS + 1, 1.0)])).await.expect("written");
    assert_eq!(store.read(&tenant).await[&up(1)].len(), 2);
    let status = store.now().status(10);
    assert_eq!((status.series, status.min_time_ms), (1, Some(BASE_MS + 1)));
}

/// Writers go on while blocks are cut; every acknowledged sample is there exactly once, before and after a crash.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cuts_lose_nothing_while_writers_and_readers_go_on() {
    let mut store = Store::new().await;
    let tenant = TenantId::default();
    let writers: Vec<_> = (0..4)
        .map(|w| {
            let (ingester, tenant) = (Arc::clone(store.now()), tenant.clone());
            tokio::spawn(async move {
                for t in 0..150i64 {
                    let mut request = Builder::default();
                    for i in 0..20 {
                        request = request.series(&up(w * 20 + i), LabelForm::Wire, &[(BASE_MS + t * 1000, t as f64)]);
                    }
                    let outcome = ingester.write(&tenant, request.0).await.expect("written");
                    assert_eq!(outcome.samples_written, 20);
                }
            })
        })
        .collect();
    let mut least = 0;
    while !writers.iter().all(|w| w.is_finished()) {
        let reading = async {
            let count: usize = store.read(&tenant).await.values().map(|s| s.len()).sum();
            assert!(count >= least, "what was there stays visible: {count} after {least}");
            least = count;
        };
        let (cut, ()) = tokio::join!(store.now().flush(), reading);
        cut.expect("cuts");
    }
    for writer in writers {
        writer.await.expect("ends");
    }
    for _ in 0..2 {
        let content = store.read(&tenant).await;
        assert_eq!(content.len(), 80);
        assert!(content.values().all(|s| s.len() == 150 && s.iter().all(|(t, v)| *v == model::float((t - BASE_MS) as f64 / 1000.0))));
        store.crash().await;
        store.open().await.expect("opens");
    }
}
