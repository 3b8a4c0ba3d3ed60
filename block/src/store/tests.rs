//! Blocks against a naive model: random series, windows, histograms, exemplars and matchers.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::catalog::Change;
use crate::histogram::{Counts, Span};
use crate::local::DurableLocal;
use crate::sample::STALE_NAN_BITS;
use crate::testing::object_store;
use crate::writer::{BlockWriter, WriterConfig};
use crate::{Histogram, MatchOp, MetricType, SampleBuf, Timestamps, Want};

#[derive(Clone, Debug, Default)]
struct ModelSeries {
    samples: BTreeMap<i64, (u64, Option<Arc<Histogram>>)>,
    exemplars: Vec<Exemplar>,
}

type Model = BTreeMap<Labels, ModelSeries>;

fn random_labels(rng: &mut StdRng) -> Labels {
    let mut pairs: Vec<(String, String)> = Vec::new();
    if rng.random_bool(0.95) {
        pairs.push(("__name__".into(), format!("metric_{}", rng.random_range(0..6))));
    }
    for name in ["job", "A", "instance", "zone", "é", "x_long_name_of_a_label"] {
        if rng.random_bool(0.5) {
            pairs.push((name.into(), format!("v{}", rng.random_range(0..12))));
        }
    }
    for _ in 0..rng.random_range(0..3) {
        pairs.push((format!("rare_{:03}", rng.random_range(0..40)), "ünïcode \u{1F600}\n".repeat(rng.random_range(1..3))));
    }
    let unique: BTreeMap<String, String> = pairs.into_iter().collect();
    Labels::from_pairs(unique).expect("valid")
}

fn random_value(rng: &mut StdRng, i: i64) -> f64 {
    match rng.random_range(0..12) {
        0 => f64::from_bits(STALE_NAN_BITS),
        1 => f64::from_bits(0x7ff8_0000_dead_beef),
        2 => f64::NEG_INFINITY,
        3 => -0.0,
        4 => rng.random(),
        _ => (i * 25) as f64 / 100.0,
    }
}

fn random_histogram(rng: &mut StdRng) -> Arc<Histogram> {
    let positive: Vec<u64> = (0..rng.random_range(0..5)).map(|_| rng.random_range(0..1000)).collect();
    Arc::new(Histogram {
        reset_hint: Default::default(),
        schema: rng.random_range(-4..=8),
        zero_threshold: 1e-128,
        sum: if rng.random_bool(0.1) { f64::from_bits(STALE_NAN_BITS) } else { rng.random_range(0.0..1e6) },
        positive_spans: vec![Span { offset: rng.random_range(-3..3), length: positive.len() as u32 }],
        negative_spans: Vec::new(),
        custom_bounds: Vec::new(),
        counts: Counts::Integer { count: positive.iter().sum(), zero: 0, positive, negative: Vec::new() },
    })
}

/// Timestamps as scrapes have them: some shared between series, some not, with gaps.
fn random_times(rng: &mut StdRng, shared: &[Timestamps]) -> Timestamps {
    if rng.random_bool(0.6) {
        return shared.choose(rng).expect("not empty").clone();
    }
    let mut t = rng.random_range(-50_000..20_000_000);
    let times = (0..rng.random_range(1..60)).map(|_| {
        t += rng.random_range(1..200_000);
        t
    });
    Timestamps::unshared(times.collect())
}

fn random_series(rng: &mut StdRng, shared: &[Timestamps]) -> ModelSeries {
    let times = random_times(rng, shared);
    let histogram_share = *[0.0, 0.0, 1.0, 0.3].choose(rng).expect("not empty");
    let mut series = ModelSeries::default();
    for (i, t) in times.iter().enumerate() {
        let sample = if rng.random_bool(histogram_share) {
            let histogram = random_histogram(rng);
            (histogram.sum.to_bits(), Some(histogram))
        } else {
            (random_value(rng, i as i64).to_bits(), None)
        };
        series.samples.insert(*t, sample);
        if rng.random_bool(0.02) {
            let labels = Labels::from_pairs([("trace_id", format!("{i:x}"))]).expect("valid");
            series.exemplars.push(Exemplar { labels, value: i as f64, timestamp_ms: *t });
        }
    }
    series
}

fn buffer(series: &ModelSeries, shared: &[Timestamps]) -> SampleBuf {
    let times: Vec<i64> = series.samples.keys().copied().collect();
    let same = shared.iter().find(|s| ***s == times[..]).cloned();
    let histograms = series.samples.values().enumerate().filter_map(|(i, (_, h))| Some((i as u32, h.clone()?)));
    SampleBuf {
        values: series.samples.values().map(|(bits, _)| f64::from_bits(*bits)).collect(),
        histograms: histograms.collect(),
        counts: Vec::new(),
        timestamps: same.unwrap_or_else(|| Timestamps::unshared(times)),
    }
}

fn metadata_of(labels: &Labels) -> Option<Metadata> {
    let name = labels.get("__name__")?;
    (name != "metric_0").then(|| Metadata { metric_type: MetricType::Counter, help: format!("help of {name}"), unit: String::new() })
}

async fn write(store: &BlockStore, tenant: &TenantId, model: &Model, shared: &[Timestamps], config: WriterConfig) {
    let mut writer = BlockWriter::new(config);
    for (labels, series) in model {
        let metadata = metadata_of(labels);
        writer.push_series(labels, metadata.as_ref(), &buffer(series, shared), &series.exemplars).expect("fits");
    }
    let meta = writer.finish(store.objects().as_ref(), tenant).await.expect("is written");
    let catalog = store.catalog(tenant).await.expect("opens");
    assert_eq!(meta.series as usize, model.len());
    catalog.commit(Change { add: vec![meta.clone()], ..Change::default() }).await.expect("commits");
    let report = store.verify(tenant, &Arc::new(meta)).await.expect("reads");
    assert_eq!(report.problems, Vec::<String>::new());
}

fn random_matchers(rng: &mut StdRng) -> Vec<Matcher> {
    let ops = [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex];
    let mut matchers = Vec::new();
    for _ in 0..rng.random_range(0..4) {
        let rare = format!("rare_{:03}", rng.random_range(0..40));
        let name = *["__name__", "job", "A", "zone", "é", &rare, "nowhere"].choose(rng).expect("not empty");
        let op = *ops.choose(rng).expect("not empty");
        let value = *["metric_1", "metric_2|metric_3", "v1", "v.*", "v[0-5]|v9", "", ".+", ".*", "v3"].choose(rng).expect("not empty");
        matchers.push(Matcher::new(name, op, value).expect("compiles"));
    }
    matchers
}

/// Everything that `source` has for the matchers, merged as readers have to.
async fn read(
    source: &dyn Source,
    matchers: &[Matcher],
    range: TimeRange,
    run: usize,
) -> BTreeMap<Labels, BTreeMap<i64, (u64, Option<Arc<Histogram>>)>> {
    let mut out: BTreeMap<Labels, BTreeMap<_, _>> = BTreeMap::new();
    let mut buf = SampleBuf::default();
    for set in source.select(matchers, range, Want::default()).await.expect("selects").sets {
        let sorted = (1..set.len()).all(|i| set.labels(i - 1) < set.labels(i));
        assert!(sorted, "a set is not sorted");
        for start in (0..set.len()).step_by(run) {
            let rows = start..set.len().min(start + run);
            let mut loaded = set.load(rows.clone(), range).await.expect("loads");
            for row in rows.rev() {
                loaded.read(row, &mut buf).expect("reads");
                let series = out.entry(set.labels(row).to_owned()).or_default();
                let mut histograms = buf.histograms.iter().peekable();
                for (i, t) in buf.timestamps.iter().enumerate() {
                    let histogram = histograms.next_if(|(h, _)| *h as usize == i).map(|(_, h)| h.clone());
                    series.insert(*t, (buf.values[i].to_bits(), histogram));
                }
            }
        }
    }
    out
}

fn comparable(histogram: &Option<Arc<Histogram>>) -> String {
    histogram.as_ref().map_or(String::new(), |h| format!("{:x} {h:?}", h.sum.to_bits()))
}

async fn compare(source: &dyn Source, model: &Model, rng: &mut StdRng) {
    let matchers = random_matchers(rng);
    let start = rng.random_range(-100_000..25_000_000);
    let range =
        if rng.random_bool(0.5) { TimeRange::ALL } else { TimeRange::new(start, start + rng.random_range(0..9_000_000)).expect("ordered") };
    let found = read(source, &matchers, range, rng.random_range(1..50)).await;
    let expected: BTreeMap<&Labels, &ModelSeries> = model.iter().filter(|(l, _)| Matcher::all_match(&matchers, l.as_ref())).collect();
    assert!(found.keys().all(|l| expected.contains_key(l)), "{matchers:?}: series that do not match");
    for (labels, series) in &expected {
        let in_range = |samples: &BTreeMap<i64, (u64, Option<Arc<Histogram>>)>| -> Vec<(i64, u64, String)> {
            samples.iter().filter(|(t, _)| range.contains(**t)).map(|(t, (v, h))| (*t, *v, comparable(h))).collect()
        };
        let found = found.get(*labels).map(in_range).unwrap_or_default();
        assert_eq!(found, in_range(&series.samples), "{labels} {matchers:?} {range:?}");
    }
    if range != TimeRange::ALL {
        return;
    }
    let names: BTreeSet<&str> = expected.keys().flat_map(|l| l.iter().map(|(n, _)| n)).collect();
    assert_eq!(source.label_names(&matchers, range).await.expect("answers"), names.into_iter().collect::<Vec<_>>());
    for name in ["job", "__name__", "rare_007", "none"] {
        let values: BTreeSet<&str> = expected.keys().filter_map(|l| l.get(name)).collect();
        assert_eq!(source.label_values(name, &matchers, range).await.expect("answers"), values.into_iter().collect::<Vec<_>>());
    }
    let exemplars: Vec<(Labels, Vec<Exemplar>)> =
        expected.iter().filter(|(_, s)| !s.exemplars.is_empty()).map(|(l, s)| ((*l).clone(), s.exemplars.clone())).collect();
    assert_eq!(source.exemplars(&matchers, range).await.expect("answers"), exemplars);
    let with_metadata: BTreeMap<&str, Metadata> = model.keys().filter_map(|l| Some((l.get("__name__")?, metadata_of(l)?))).collect();
    let found = source.metadata(None).await.expect("answers");
    assert_eq!(found, with_metadata.into_iter().map(|(n, m)| (n.to_owned(), vec![m])).collect::<Vec<_>>());
}

async fn round_trip(seed: u64, objects: Arc<dyn ObjectStore>, blocks: usize) {
    println!("seed {seed}");
    let rng = &mut StdRng::seed_from_u64(seed);
    let tenant = TenantId::new("a*b").expect("valid");
    let shared: Vec<Timestamps> = (0..5i64)
        .map(|target| Timestamps::shared((0..rng.random_range(1..700i64)).map(|i| target * 777 + i * 15_000 + i % 3).collect()))
        .collect();
    let store = BlockStore::new(objects, BlockStoreConfig::default());
    let mut all = Model::new();
    for block in 0..blocks {
        let mut model = Model::new();
        for _ in 0..rng.random_range(1..250) {
            model.insert(random_labels(rng), random_series(rng, &shared));
        }
        let mut config = WriterConfig::new(1_000 + block as i64);
        config.window_ms = *[3_600_000, 7_200_000, 86_400_000].choose(rng).expect("not empty");
        config.series_per_group = rng.random_range(1..100);
        config.chunks_per_group = rng.random_range(1..200);
        config.page_bytes = rng.random_range(1..10_000);
        config.label_columns = rng.random_range(0..12);
        config.values_zstd_level = rng.random_range(0..4);
        write(&store, &tenant, &model, &shared, config).await;
        for (labels, series) in model {
            let merged = all.entry(labels).or_default();
            merged.samples.extend(series.samples);
            merged.exemplars.extend(series.exemplars);
            merged.exemplars = merge_exemplars(vec![vec![(Labels::empty(), std::mem::take(&mut merged.exemplars))]]).remove(0).1;
        }
    }
    let reopened = BlockStore::new(store.objects().clone(), BlockStoreConfig::default());
    assert_eq!(reopened.tenants().await.expect("lists"), std::slice::from_ref(&tenant));
    for store in [store, reopened] {
        let source = store.source(&tenant);
        for _ in 0..12 {
            compare(&*source, &all, rng).await;
        }
    }
}

#[tokio::test]
async fn one_block_is_the_model() {
    for seed in 0..12 {
        round_trip(seed, object_store(), 1).await;
    }
}

#[tokio::test]
async fn several_blocks_are_the_model() {
    for seed in 100..106 {
        round_trip(seed, object_store(), 4).await;
    }
}

#[tokio::test]
async fn blocks_on_disk_are_the_model() {
    let dir = tempfile::tempdir().expect("a directory");
    round_trip(200, Arc::new(DurableLocal::new(dir.path()).expect("opens")), 2).await;
}

#[tokio::test]
async fn a_tenant_without_blocks_is_empty() {
    let store = BlockStore::new(object_store(), BlockStoreConfig::default());
    let source = store.source(&TenantId::default());
    assert!(source.select(&[], TimeRange::ALL, Want::default()).await.expect("answers").sets.is_empty());
    assert!(source.label_names(&[], TimeRange::ALL).await.expect("answers").is_empty());
    assert!(store.tenants().await.expect("lists").is_empty());
}

#[tokio::test]
async fn shared_timestamps_stay_shared() {
    let store = BlockStore::new(object_store(), BlockStoreConfig::default());
    let tenant = TenantId::default();
    let shared = Timestamps::shared((0..1000).map(|i| i * 15_000).collect());
    let series = ModelSeries { samples: shared.iter().map(|t| (*t, (*t as u64, None))).collect(), exemplars: Vec::new() };
    let model: Model = (0..20).map(|i| (Labels::from_pairs([("i", i.to_string())]).expect("valid"), series.clone())).collect();
    write(&store, &tenant, &model, &[shared], WriterConfig::new(5)).await;
    for (range, len) in [(TimeRange::ALL, 1000), (TimeRange::new(0, 1).expect("ordered"), 480)] {
        let sets = store.source(&tenant).select(&[], range, Want::default()).await.expect("selects").sets;
        let mut ids = BTreeSet::new();
        for rows in [0..7, 7..20] {
            let mut run = sets[0].load(rows.clone(), range).await.expect("loads");
            for row in rows {
                let mut buf = SampleBuf::default();
                run.read(row, &mut buf).expect("reads");
                assert_eq!(buf.len(), len);
                ids.insert(buf.timestamps.id());
            }
        }
        assert_eq!(ids.len(), 1, "{ids:?}");
        assert!(!ids.contains(&0));
    }
}

#[tokio::test]
async fn series_with_timestamps_of_their_own_need_several_groups() {
    let mut model = Model::new();
    for i in 0..700i64 {
        let samples = (0..480i64).map(|k| (i * 7 + k * 14_000 + (i * k) % 5, ((i + k) as u64, None)));
        let series = ModelSeries { samples: samples.collect(), exemplars: Vec::new() };
        model.insert(Labels::from_pairs([("__name__", "m"), ("job", &format!("v{i}"))]).expect("valid"), series);
    }
    let store = BlockStore::new(object_store(), BlockStoreConfig::default());
    let tenant = TenantId::default();
    write(&store, &tenant, &model, &[], WriterConfig::new(5)).await;
    let found = read(&*store.source(&tenant), &[], TimeRange::ALL, 97).await;
    assert!(model.iter().all(|(labels, series)| found.get(labels).is_some_and(|f| f == &series.samples)));
    let one = [Matcher::new("job", MatchOp::Equal, "v699").expect("compiles")];
    assert_eq!(read(&*store.source(&tenant), &one, TimeRange::ALL, 1).await.len(), 1);
}

#[test]
fn writers_refuse_what_is_out_of_order() {
    let labels = |v: &str| Labels::from_pairs([("a", v)]).expect("valid");
    let samples = |times: &[i64], values: usize| SampleBuf {
        timestamps: Timestamps::unshared(times.to_vec()),
        values: vec![1.0; values],
        histograms: Vec::new(),
        counts: Vec::new(),
    };
    let mut writer = BlockWriter::new(WriterConfig::new(1));
    assert!(writer.push_series(&labels("a"), None, &samples(&[2, 2], 2), &[]).is_err());
    assert!(writer.push_series(&labels("a"), None, &samples(&[1, 2], 1), &[]).is_err());
    writer.push_series(&labels("b"), None, &samples(&[1, 2], 2), &[]).expect("fits");
    for before in ["a", "b"] {
        assert!(writer.push_series(&labels(before), None, &samples(&[1], 1), &[]).is_err());
    }
    writer.push_series(&labels("c"), None, &samples(&[], 0), &[]).expect("is left out");
    assert_eq!(writer.series(), 1);
    assert!(BlockWriter::new(WriterConfig::new(1)).encode().is_err(), "an empty block");
    let mut config = WriterConfig::new(1);
    config.series_per_group = 1 << 16;
    assert!(BlockWriter::new(config).push_series(&labels("a"), None, &samples(&[1], 1), &[]).is_err());
}
