//! Compaction against a naive model, alone and in a race, with damaged blocks, and in little memory.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use futures::TryStreamExt;
use isobar_block::local::DurableLocal;
use isobar_block::meta::CHUNKS_FILE;
use isobar_block::{
    BlockId, BlockMeta, BlockStoreConfig, BlockWriter, Change, Exemplar, Histogram, Labels, Metadata, MetricType, SampleBuf, TimeRange,
    Timestamps, Want, WriterConfig, key, testing,
};
use object_store::{ObjectStore, ObjectStoreExt};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::config::{Rules, TenantRules};

mod borders;
pub(crate) mod slow;

const HOUR_MS: i64 = 3_600_000;
/// A multiple of 14 days, long ago.
const START_MS: i64 = 1400 * 14 * 24 * HOUR_MS;

type Sample = (u64, Option<Arc<Histogram>>);

/// What a tenant has.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    samples: BTreeMap<Labels, BTreeMap<i64, Sample>>,
    exemplars: BTreeMap<Labels, BTreeSet<(i64, u64)>>,
}

fn tenant() -> TenantId {
    TenantId::default()
}

fn open(objects: &Arc<dyn ObjectStore>) -> BlockStore {
    BlockStore::new(objects.clone(), BlockStoreConfig { refresh_interval_ms: 0, ..BlockStoreConfig::default() })
}

fn config() -> CompactorConfig {
    CompactorConfig { memory_bytes: 32 << 20, downsampling: false, ..CompactorConfig::default() }
}

fn compactor(objects: &Arc<dyn ObjectStore>, config: CompactorConfig, rules: TenantRules) -> Arc<Compactor> {
    let rules = LiveRules::new(Rules { default: rules, ..Rules::default() });
    Compactor::new(config, rules, open(objects), &mut Registry::default())
}

async fn to_end(compactor: &Compactor) -> Report {
    compactor.run_to_end(None, Arc::new(|_| {})).await.expect("runs")
}

fn labels(number: usize) -> Labels {
    let pairs = [("__name__", format!("metric_{}", number % 7)), ("instance", format!("host-{}", number / 7)), ("job", "x".into())];
    Labels::from_pairs(pairs).expect("valid")
}

fn histogram(rng: &mut StdRng) -> Arc<Histogram> {
    let positive: Vec<u64> = (0..3).map(|_| rng.random_range(0..100)).collect();
    Arc::new(Histogram {
        reset_hint: Default::default(),
        schema: 3,
        zero_threshold: 0.0,
        sum: rng.random_range(0.0..10.0),
        positive_spans: vec![isobar_block::histogram::Span { offset: 0, length: 3 }],
        negative_spans: Vec::new(),
        custom_bounds: Vec::new(),
        counts: isobar_block::histogram::Counts::Integer { count: positive.iter().sum(), zero: 0, positive, negative: Vec::new() },
    })
}

/// Some series with samples between two times, and outliers.
fn random_part(rng: &mut StdRng, times: Range<i64>) -> Model {
    let mut part = Model::default();
    let all: Range<i64> = START_MS..START_MS + 80 * HOUR_MS;
    for number in 0..40 {
        if rng.random_bool(0.3) {
            continue;
        }
        let (labels, step) = (labels(number), *[15_000, 60_000].get(number % 2).expect("two"));
        let offset = rng.random_range(0..step);
        let series = part.samples.entry(labels.clone()).or_default();
        let mut wanted: Vec<i64> = times.clone().step_by(step as usize).map(|t| t + if number < 20 { 0 } else { offset }).collect();
        if rng.random_bool(0.1) {
            wanted.push(rng.random_range(all.clone()));
        }
        for t in wanted {
            if rng.random_bool(0.02) {
                continue;
            }
            let sample = match number % 10 {
                9 => Some(histogram(rng)),
                8 if rng.random_bool(0.5) => Some(histogram(rng)),
                _ => None,
            };
            let value = if rng.random_bool(0.01) { isobar_block::stale_nan() } else { (t % 100_000) as f64 / 8.0 };
            series.insert(t, (sample.as_ref().map_or(value, |h| h.sum).to_bits(), sample));
            if rng.random_bool(0.002) {
                part.exemplars.entry(labels.clone()).or_default().insert((t, rng.random_range(0..3)));
            }
        }
    }
    part.samples.retain(|_, samples| !samples.is_empty());
    part
}

impl Model {
    /// Adds what was written later.
    fn extend(&mut self, later: &Self) {
        for (labels, samples) in &later.samples {
            self.samples.entry(labels.clone()).or_default().extend(samples.clone());
        }
        for (labels, exemplars) in &later.exemplars {
            self.exemplars.entry(labels.clone()).or_default().extend(exemplars.clone());
        }
    }

    fn buffer(samples: &BTreeMap<i64, Sample>) -> SampleBuf {
        let histograms = samples.values().enumerate().filter_map(|(i, (_, h))| Some((i as u32, h.clone()?)));
        SampleBuf {
            timestamps: Timestamps::unshared(samples.keys().copied().collect()),
            values: samples.values().map(|(bits, _)| f64::from_bits(*bits)).collect(),
            histograms: histograms.collect(),
            counts: Vec::new(),
        }
    }

    async fn write(&self, store: &BlockStore, created_ms: i64) -> BlockMeta {
        let mut writer = BlockWriter::new(WriterConfig::new(created_ms));
        for (labels, samples) in &self.samples {
            let exemplars = self.exemplars.get(labels).into_iter().flatten().map(|(t, n)| exemplar(*t, *n)).collect::<Vec<_>>();
            let help = format!("help of {}", labels.as_ref().metric_name());
            let metadata = Metadata { metric_type: MetricType::Gauge, help, unit: String::new() };
            writer.push_series(labels, Some(&metadata), &Self::buffer(samples), &exemplars).expect("fits");
        }
        let meta = writer.finish(&**store.objects(), &tenant()).await.expect("is written");
        let change = Change { add: vec![meta.clone()], ..Change::default() };
        store.catalog(&tenant()).await.expect("opens").commit(change).await.expect("commits");
        meta
    }

    async fn read(objects: &Arc<dyn ObjectStore>, replica_labels: &[String]) -> Self {
        let source = open(objects).source(&tenant());
        let selected = source.select(&[], TimeRange::ALL, Want::default()).await.expect("selects");
        let set = isobar_block::merge::merged(selected.sets, replica_labels);
        let mut model = Self::default();
        if set.is_empty() {
            return model;
        }
        let mut run = set.load(0..set.len(), TimeRange::ALL).await.expect("loads");
        let mut buf = SampleBuf::default();
        for row in 0..set.len() {
            run.read(row, &mut buf).expect("reads");
            let mut histograms = buf.histograms.iter().cloned().peekable();
            let sample = |(i, (t, v)): (usize, (&i64, &f64))| {
                let histogram = histograms.next_if(|(place, _)| *place as usize == i).map(|(_, h)| h);
                (*t, (v.to_bits(), histogram))
            };
            let samples: BTreeMap<i64, Sample> = buf.timestamps.iter().zip(&buf.values).enumerate().map(sample).collect();
            if !samples.is_empty() {
                model.samples.insert(set.labels(row).to_owned(), samples);
            }
        }
        for (labels, exemplars) in source.exemplars(&[], TimeRange::ALL).await.expect("reads") {
            model.exemplars.insert(labels, exemplars.iter().map(|e| (e.timestamp_ms, e.value as u64)).collect());
        }
        model
    }

    fn count(&self) -> u64 {
        self.samples.values().map(|s| s.len() as u64).sum()
    }
}

fn exemplar(timestamp_ms: i64, number: u64) -> Exemplar {
    let labels = Labels::from_pairs([("trace_id", format!("{number}"))]).expect("valid");
    Exemplar { labels, value: number as f64, timestamp_ms }
}

/// Blocks as ingesters cut them in 72 h: one an hour, with gaps, overlaps, stragglers and outliers.
async fn write_blocks(store: &BlockStore, rng: &mut StdRng, blocks: i64) -> Model {
    let mut model = Model::default();
    for n in 0..blocks {
        let early = if rng.random_bool(0.2) { rng.random_range(0..5) } else { 0 };
        let start = START_MS + (n - early).max(0) * HOUR_MS - rng.random_range(0..HOUR_MS / 4);
        let part = random_part(rng, start..start + HOUR_MS);
        part.write(store, START_MS + (n + 1) * HOUR_MS).await;
        model.extend(&part);
    }
    model
}

async fn state(objects: &Arc<dyn ObjectStore>) -> Arc<CatalogState> {
    open(objects).catalog(&tenant()).await.expect("opens").refresh().await.expect("refreshes")
}

async fn verify_all(objects: &Arc<dyn ObjectStore>) {
    let store = open(objects);
    for block in &state(objects).await.blocks {
        let report = store.verify(&tenant(), block).await.expect("reads");
        assert!(report.is_sound(), "block {}: {:?}", block.ulid, report.problems);
    }
}

async fn every_job_keeps_all_samples(objects: Arc<dyn ObjectStore>, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let store = open(&objects);
    let model = write_blocks(&store, &mut rng, 30).await;
    assert_eq!(Model::read(&objects, &[]).await, model, "seed {seed}");
    // Few levels at a time, so that there are many jobs.
    let levels = [2, 8, 48, 336].map(|h| Duration::from_secs(h * 3600));
    let mut jobs = 0;
    for count in 1..=levels.len() {
        let compactor = compactor(&objects, CompactorConfig { levels: levels[..count].to_vec(), ..config() }, TenantRules::default());
        while let Some(job) = compactor.plan(&tenant(), false).await.expect("plans").first() {
            let state = state(&objects).await;
            let end = compactor.work(&tenant(), job, &state).await.expect("works");
            assert!(matches!(end, End::Done { .. }), "{end:?}");
            assert!(Model::read(&objects, &[]).await == model, "seed {seed}: {job}");
            jobs += 1;
        }
    }
    assert!(jobs > 10, "{jobs} jobs");
    let blocks = &state(&objects).await.blocks;
    assert_eq!(blocks.iter().map(|b| b.samples + b.histograms).sum::<u64>(), model.count());
    assert!(blocks.iter().all(|b| b.level == 4 && b.window_ms == 24 * HOUR_MS));
    verify_all(&objects).await;
    let metadata = store.source(&tenant()).metadata(Some("metric_3")).await.expect("reads");
    assert_eq!(metadata[0].1[0].help, "help of metric_3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_job_keeps_all_samples_in_an_object_store() {
    every_job_keeps_all_samples(testing::object_store(), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_job_keeps_all_samples_on_a_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    every_job_keeps_all_samples(Arc::new(DurableLocal::new(dir.path()).expect("opens")), 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compactors_that_race_lose_and_double_nothing() {
    let mut conflicts = 0;
    for seed in 0..3 {
        let mut rng = StdRng::seed_from_u64(seed);
        let objects = testing::object_store();
        let store = open(&objects);
        let mut model = write_blocks(&store, &mut rng, 12).await;
        let slow: Vec<Arc<dyn ObjectStore>> =
            (0..3).map(|n| Arc::new(slow::Slow::new(objects.clone(), seed * 10 + n)) as Arc<dyn ObjectStore>).collect();
        let compactors: Vec<_> = slow.iter().map(|objects| compactor(objects, config(), TenantRules::default())).collect();
        let writes = async {
            for n in 0..5 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let part = random_part(&mut rng, START_MS + n * HOUR_MS..START_MS + (n + 2) * HOUR_MS);
                part.write(&store, START_MS + (100 + n) * HOUR_MS).await;
                model.extend(&part);
            }
        };
        let races = futures::future::join_all(compactors.iter().map(|c| to_end(c)));
        let ((), reports) = tokio::join!(writes, races);
        conflicts += reports.iter().map(|r| r.conflicts).sum::<u64>();
        assert!(reports.iter().all(|r| r.failures.is_empty() && r.quarantined.is_empty()), "seed {seed}: {reports:?}");
        let last = compactor(&objects, config(), TenantRules::default());
        to_end(&last).await;
        assert!(Model::read(&objects, &[]).await == model, "seed {seed}");
        let state = state(&objects).await;
        assert_eq!(state.blocks.iter().map(|b| b.samples + b.histograms).sum::<u64>(), model.count(), "seed {seed}");
        verify_all(&objects).await;
        // What was written in vain is gone: only visible and retired blocks have files.
        let known: BTreeSet<String> =
            state.blocks.iter().map(|b| b.ulid).chain(state.retired.iter().map(|r| r.ulid)).map(|id| id.to_string()).collect();
        let files: Vec<_> = objects.list(Some(&key::blocks(&tenant()))).map_ok(|o| o.location).try_collect().await.expect("lists");
        for file in files {
            let id = file.parts().nth(2).expect("a block").as_ref().to_owned();
            assert!(known.contains(&id), "seed {seed}: {file} is left");
        }
    }
    assert!(conflicts > 0, "nobody raced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_block_is_set_aside_and_the_rest_goes_on() {
    let objects = testing::object_store();
    let store = open(&objects);
    let mut rng = StdRng::seed_from_u64(5);
    let mut model = Model::default();
    let mut damaged: Vec<BlockId> = Vec::new();
    for n in 0..8 {
        let part = random_part(&mut rng, START_MS + n * HOUR_MS..START_MS + (n + 1) * HOUR_MS);
        let meta = part.write(&store, START_MS + n * HOUR_MS).await;
        let path = key::block_file(&tenant(), meta.ulid, CHUNKS_FILE);
        match n {
            2 => {
                let mut bytes = objects.get(&path).await.expect("reads").bytes().await.expect("reads").to_vec();
                bytes[100] ^= 1;
                objects.put(&path, bytes.into()).await.expect("writes");
                damaged.push(meta.ulid);
            }
            5 => {
                objects.delete(&path).await.expect("deletes");
                damaged.push(meta.ulid);
            }
            _ => model.extend(&part),
        }
    }
    let compactor = compactor(&objects, config(), TenantRules::default());
    let report = to_end(&compactor).await;
    assert_eq!(report.failures, []);
    let mut found: Vec<BlockId> = report.quarantined.iter().map(|q| q.ulid).collect();
    found.sort_unstable();
    assert_eq!(found, damaged);
    let state = state(&objects).await;
    assert_eq!(state.quarantined.iter().map(|q| q.ulid).collect::<Vec<_>>(), damaged);
    let (bad, good): (Vec<_>, Vec<_>) = state.blocks.iter().partition(|b| damaged.contains(&b.ulid));
    assert_eq!(bad.len(), 2);
    assert!(good.iter().all(|b| b.level == 4));
    assert_eq!(good.iter().map(|b| b.samples + b.histograms).sum::<u64>(), model.count());
    let status = compactor.status();
    assert_eq!(status.tenants[0].quarantined.len(), 2);
    assert!(serde_json::to_string(&status).expect("serializes").contains("\"quarantined\":[{"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_store_is_tried_again_and_loses_nothing() {
    let objects = testing::object_store();
    let mut rng = StdRng::seed_from_u64(6);
    let model = write_blocks(&open(&objects), &mut rng, 6).await;
    let flaky = Arc::new(slow::Slow::new(objects.clone(), 7));
    flaky.fail_every(13);
    let shared: Arc<dyn ObjectStore> = flaky.clone();
    let compactor = compactor(&shared, config(), TenantRules::default());
    let mut failures = 0;
    for _ in 0..20 {
        match compactor.run_to_end(Some(&tenant()), Arc::new(|_| {})).await {
            Ok(report) => failures += report.failures.len(),
            Err(_) => failures += 1,
        }
    }
    assert!(failures > 0, "nothing failed");
    flaky.fail_every(0);
    let report = to_end(&compactor).await;
    assert_eq!(report.failures, []);
    assert!(Model::read(&objects, &[]).await == model);
    verify_all(&objects).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_become_one_and_answers_stay() {
    let objects = testing::object_store();
    let store = open(&objects);
    let mut rng = StdRng::seed_from_u64(8);
    let replica = vec!["prometheus_replica".to_owned()];
    for n in 0..10 {
        let start = START_MS + n * HOUR_MS;
        let one = random_part(&mut rng, start..start + HOUR_MS);
        let mut part = Model::default();
        for (labels, samples) in &one.samples {
            for (name, shift) in [("a", 0), ("b", 7_000)] {
                let pairs = labels.iter().chain([("prometheus_replica", name)]);
                let shifted = samples.iter().filter(|_| rng.random_bool(0.9)).map(|(t, s)| (t + shift, s.clone())).collect();
                part.samples.insert(Labels::from_pairs(pairs).expect("valid"), shifted);
            }
        }
        part.samples.retain(|_, s| !s.is_empty());
        part.write(&store, start + HOUR_MS).await;
    }
    let before = Model::read(&objects, &replica).await;
    let rules = TenantRules { replica_labels: replica.clone(), ..TenantRules::default() };
    to_end(&compactor(&objects, config(), rules)).await;
    let after = Model::read(&objects, &[]).await;
    assert!(before.samples == after.samples, "answers differ");
    assert!(after.samples.keys().all(|l| l.get("prometheus_replica").is_none()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_runs_until_it_is_stopped() {
    let objects = testing::object_store();
    let mut rng = StdRng::seed_from_u64(9);
    let model = write_blocks(&open(&objects), &mut rng, 6).await;
    let mut registry = Registry::default();
    let config = CompactorConfig { interval: Duration::from_millis(10), ..config() };
    let compactor = Compactor::new(config, LiveRules::default(), open(&objects), &mut registry);
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(compactor.clone().run(stopped));
    while compactor.plan(&tenant(), true).await.expect("plans").len() + usize::from(compactor.status().last_success_ms.is_none()) > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.send(true).expect("it listens");
    tokio::time::timeout(Duration::from_secs(10), running).await.expect("stops").expect("does not panic");
    assert!(Model::read(&objects, &[]).await == model);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("encodes");
    for line in [
        "isobar_compactor_jobs_total{kind=\"compact\"}",
        "isobar_compactor_last_success_timestamp_seconds 1",
        "isobar_compactor_backlog_bytes 0",
    ] {
        assert!(text.contains(line), "{line} is not in {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_stopped_leaves_no_files() {
    let objects = testing::object_store();
    let mut rng = StdRng::seed_from_u64(12);
    let mut model = write_blocks(&open(&objects), &mut rng, 8).await;
    let slow: Arc<dyn ObjectStore> = Arc::new(slow::Slow::new(objects.clone(), 13));
    let (mut stopped_runs, mut n) = (0, 0);
    while stopped_runs < 20 {
        n += 1;
        assert!(n < 200, "only {stopped_runs} runs were stopped in their work");
        let part = random_part(&mut rng, START_MS + n * HOUR_MS..START_MS + (n + 1) * HOUR_MS);
        part.write(&open(&objects), START_MS + (n + 1) * HOUR_MS).await;
        model.extend(&part);
        let compactor = compactor(&slow, config(), TenantRules::default());
        let (stop, stopped) = watch::channel(false);
        let time = Duration::from_millis(rng.random_range(1..200));
        let stopping = async {
            tokio::time::sleep(time).await;
            stop.send(true).expect("it listens");
            std::future::pending::<()>().await
        };
        let end = tokio::select! {
            end = compactor.run_to_end_or(None, Arc::new(|_| {}), stopped) => end,
            () = stopping => unreachable!("it waits for ever"),
        };
        stopped_runs += usize::from(matches!(end, Err(Error::Canceled)));
        let state = state(&objects).await;
        let known: BTreeSet<String> =
            state.blocks.iter().map(|b| b.ulid).chain(state.retired.iter().map(|r| r.ulid)).map(|id| id.to_string()).collect();
        let files: Vec<_> = objects.list(Some(&key::blocks(&tenant()))).map_ok(|o| o.location).try_collect().await.expect("lists");
        assert!(files.iter().all(|f| known.contains(f.parts().nth(2).expect("a block").as_ref())), "files are left after {time:?}");
    }
    assert!(Model::read(&objects, &[]).await == model);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compactor_that_dies_anywhere_loses_nothing() {
    let objects = testing::object_store();
    let mut rng = StdRng::seed_from_u64(10);
    let store = open(&objects);
    let mut model = Model::default();
    let slow: Arc<dyn ObjectStore> = Arc::new(slow::Slow::new(objects.clone(), 11));
    for n in 0..50 {
        if n % 5 == 0 {
            let part = random_part(&mut rng, START_MS + n * HOUR_MS..START_MS + (n + 2) * HOUR_MS);
            part.write(&store, START_MS + (n + 2) * HOUR_MS).await;
            model.extend(&part);
        }
        let compactor = compactor(&slow, config(), TenantRules::default());
        let time = Duration::from_millis(rng.random_range(1..300));
        let _ = tokio::time::timeout(time, compactor.run_to_end(None, Arc::new(|_| {}))).await;
    }
    assert!(Model::read(&objects, &[]).await == model, "before the last run");
    let config = CompactorConfig { delete_delay: Duration::ZERO, orphan_age: Duration::ZERO, ..config() };
    to_end(&compactor(&objects, config.clone(), TenantRules::default())).await;
    assert!(Model::read(&objects, &[]).await == model, "after the last run");
    verify_all(&objects).await;
    crate::clean::clean(&open(&objects), &tenant(), &config, time::now_ms() + 60_000).await.expect("cleans");
    let state = state(&objects).await;
    assert_eq!(state.retired, []);
    let files: Vec<_> = objects.list(Some(&key::blocks(&tenant()))).map_ok(|o| o.location).try_collect().await.expect("lists");
    let known: BTreeSet<String> = state.blocks.iter().map(|b| b.ulid.to_string()).collect();
    assert!(files.iter().all(|f| known.contains(f.parts().nth(2).expect("a block").as_ref())), "orphans are left");
}
