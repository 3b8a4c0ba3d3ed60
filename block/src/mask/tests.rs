//! Masks against a naive filter, over sets in memory and over blocks in a store.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use async_trait::async_trait;
use object_store::ObjectStore;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::cache::CacheConfig;
use crate::histogram::{Counts, Histogram, Span};
use crate::local::DurableLocal;
use crate::{BlockId, BlockReader, BlockWriter, Labels, Metadata, SampleBuf, SeriesRun, Source, TenantId, Timestamps, Want, WriterConfig};

/// When the deletions of these tests were asked for.
const DELETED_MS: i64 = 10_000;

#[derive(Clone, Debug)]
struct Series {
    labels: Labels,
    times: Vec<i64>,
    /// Of every so many samples one is a histogram; 0 for none.
    histograms_every: usize,
}

impl Series {
    fn buffer(&self, shared: &mut BTreeMap<Vec<i64>, Timestamps>) -> SampleBuf {
        let timestamps = shared.entry(self.times.clone()).or_insert_with(|| Timestamps::shared(self.times.clone())).clone();
        let value = |i: usize| i as f64 + 0.5;
        let is_histogram = |i: &usize| self.histograms_every > 0 && i.is_multiple_of(self.histograms_every);
        let histograms = (0..self.times.len()).filter(is_histogram).map(|i| (i as u32, Arc::new(histogram(value(i)))));
        SampleBuf {
            timestamps,
            values: (0..self.times.len()).map(value).collect(),
            histograms: histograms.collect(),
            counts: if self.histograms_every == 0 { (0..self.times.len() as u32).collect() } else { Vec::new() },
        }
    }
}

fn histogram(sum: f64) -> Histogram {
    Histogram {
        reset_hint: Default::default(),
        schema: 0,
        zero_threshold: 0.0,
        sum,
        positive_spans: vec![Span { offset: 0, length: 1 }],
        negative_spans: Vec::new(),
        custom_bounds: Vec::new(),
        counts: Counts::Integer { count: 1, zero: 0, positive: vec![1], negative: Vec::new() },
    }
}

/// Sorted series in memory.
struct MemorySet(Vec<(Labels, SampleBuf)>);

struct MemoryRun(Range<usize>, Vec<SampleBuf>);

#[async_trait]
impl SeriesSet for MemorySet {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn labels(&self, row: usize) -> LabelsRef<'_> {
        self.0[row].0.as_ref()
    }

    fn may_have_label(&self, name: &str) -> bool {
        self.0.iter().any(|(labels, _)| labels.get(name).is_some())
    }

    async fn load(&self, rows: Range<usize>, _range: TimeRange) -> Result<Box<dyn SeriesRun>> {
        Ok(Box::new(MemoryRun(rows.clone(), self.0[rows].iter().map(|(_, samples)| samples.clone()).collect())))
    }
}

impl SeriesRun for MemoryRun {
    fn read(&mut self, row: usize, out: &mut SampleBuf) -> Result<()> {
        assert!(self.0.contains(&row));
        *out = self.1[row - self.0.start].clone();
        Ok(())
    }
}

fn set(series: &[Series]) -> Arc<MemorySet> {
    let mut shared = BTreeMap::new();
    Arc::new(MemorySet(series.iter().map(|s| (s.labels.clone(), s.buffer(&mut shared))).collect()))
}

fn block(series: &[Series]) -> BlockMeta {
    let times = || series.iter().flat_map(|s| s.times.iter().copied());
    let mut meta = BlockWriter::new(WriterConfig::new(5));
    let empty = SampleBuf { timestamps: Timestamps::unshared(vec![1]), values: vec![0.0], ..SampleBuf::default() };
    meta.push_series(&Labels::empty(), None, &empty, &[]).expect("fits");
    let meta = meta.encode().expect("encodes").meta;
    BlockMeta { min_time_ms: times().min().unwrap_or(0), max_time_ms: times().max().unwrap_or(0), ..meta }
}

fn matcher(name: &str, op: MatchOp, value: &str) -> Matcher {
    Matcher::new(name, op, value).expect("compiles")
}

fn tombstone(n: u128, selectors: &[Vec<Matcher>], min_time_ms: i64, max_time_ms: i64) -> Arc<Tombstone> {
    let selectors = selectors.iter().map(|s| s.iter().map(TombstoneMatcher::from).collect()).collect();
    Arc::new(Tombstone { id: BlockId::from_parts(DELETED_MS, n), selectors, min_time_ms, max_time_ms, created_ms: DELETED_MS })
}

fn is_deleted(tombstones: &[Arc<Tombstone>], labels: &Labels, t_ms: i64) -> bool {
    tombstones.iter().any(|t| {
        let selectors = t.matchers().expect("compiles");
        t.min_time_ms <= t_ms && t_ms <= t.max_time_ms && selectors.iter().any(|s| Matcher::all_match(s, labels.as_ref()))
    })
}

fn labels() -> impl Strategy<Value = Labels> {
    let name = select(vec!["", "a", "b", "b.c", "c"]);
    let job = select(vec!["", "x", "y"]);
    let pod = (0..4u8).prop_map(|n| format!("pod-{n}"));
    (name, job, pod).prop_map(|(name, job, pod)| Labels::from_pairs([("__name__", name), ("job", job), ("pod", &pod)]).expect("valid"))
}

fn all_series() -> impl Strategy<Value = Vec<Series>> {
    let times = prop_oneof![Just((0..40).map(|i| i * 5).collect::<Vec<i64>>()), btree_set(0..200i64, 1..40).prop_map(Vec::from_iter)];
    let one = (times, select(vec![0usize, 0, 1, 3]));
    btree_map(labels(), one, 1..30)
        .prop_map(|m| m.into_iter().map(|(labels, (times, histograms_every))| Series { labels, times, histograms_every }).collect())
}

fn matchers() -> impl Strategy<Value = Matcher> {
    let name = select(vec!["__name__", "__name__", "job", "pod", "none"]);
    let op = select(vec![MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex]);
    let value = select(vec!["a", "b", "a|c", "x", "pod-[12]", "pod-3", "", ".+", "b.c", ".*"]);
    (name, op, value).prop_map(|(name, op, value)| matcher(name, op, value))
}

fn tombstones() -> impl Strategy<Value = Vec<Arc<Tombstone>>> {
    let range = prop_oneof![
        Just((i64::MIN, i64::MAX)),
        (0..220i64, 0..120i64).prop_map(|(start, len)| (start, start + len)),
        (0..220i64).prop_map(|end| (i64::MIN, end)),
        (0..220i64).prop_map(|start| (start, i64::MAX)),
    ];
    let one = (vec(vec(matchers(), 1..4), 1..3), range);
    vec(one, 0..6).prop_map(|all| all.iter().zip(0..).map(|((selectors, (start, end)), n)| tombstone(n, selectors, *start, *end)).collect())
}

type Read = Vec<(Labels, Vec<(i64, u64, u32, Option<Arc<Histogram>>)>)>;

async fn read(set: &dyn SeriesSet, rows_per_load: usize) -> Read {
    let mut out = Read::new();
    let mut by_id: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
    for start in (0..set.len()).step_by(rows_per_load) {
        let rows = start..set.len().min(start + rows_per_load);
        let mut run = set.load(rows.clone(), TimeRange::ALL).await.expect("loads");
        let mut buf = SampleBuf::default();
        for row in rows {
            run.read(row, &mut buf).expect("reads");
            assert_eq!(buf.timestamps.len(), buf.values.len());
            assert!(buf.counts.is_empty() || buf.counts.len() == buf.values.len());
            if buf.timestamps.id() != 0 {
                let same = by_id.entry(buf.timestamps.id()).or_insert_with(|| buf.timestamps.to_vec());
                assert_eq!(**same, *buf.timestamps, "one id stands for two vectors");
            }
            let histograms: BTreeMap<u32, _> = buf.histograms.iter().cloned().collect();
            assert!(buf.histograms.is_sorted_by_key(|(i, _)| *i));
            assert!(histograms.keys().all(|i| (*i as usize) < buf.len()));
            let sample = |i: usize| {
                let count = buf.counts.get(i).copied().unwrap_or(1);
                (buf.timestamps[i], buf.values[i].to_bits(), count, histograms.get(&(i as u32)).cloned())
            };
            out.push((set.labels(row).to_owned(), (0..buf.len()).map(sample).collect()));
        }
    }
    out
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

proptest! {
    #[test]
    fn a_masked_set_is_the_filtered_set(series in all_series(), tombstones in tombstones(), rows in 1usize..9) {
        let inner = set(&series);
        let meta = block(&series);
        let all = block_on(read(&*inner, 100));
        let Some(mask) = Mask::new(&tombstones, &meta).expect("compiles") else {
            prop_assert!(tombstones.iter().all(|t| !t.applies_to(&meta)));
            return Ok(());
        };
        let masked = mask.apply(inner);
        let found = block_on(read(&*masked, rows));
        let covers = |t: &Tombstone| t.min_time_ms <= meta.min_time_ms && meta.max_time_ms <= t.max_time_ms;
        let whole: Vec<_> = tombstones.iter().filter(|t| covers(t)).cloned().collect();
        let mut expected = all;
        for (labels, samples) in &mut expected {
            samples.retain(|(t, ..)| !is_deleted(&tombstones, labels, *t));
        }
        for (labels, _) in found.iter().filter(|(_, samples)| samples.is_empty()) {
            prop_assert!(!is_deleted(&whole, labels, meta.min_time_ms), "{labels} is deleted for the whole block and listed");
        }
        prop_assert!(found.is_sorted_by(|a, b| a.0 < b.0));
        let filled = |all: Read| all.into_iter().filter(|(_, samples)| !samples.is_empty()).collect::<Vec<_>>();
        prop_assert_eq!(filled(found), filled(expected));
    }

    #[test]
    fn matchers_survive_the_catalog(all in vec(matchers(), 1..5)) {
        let stored = tombstone(1, std::slice::from_ref(&all), 0, 1);
        let json = serde_json::to_string(&*stored).expect("serializes");
        let back: Tombstone = serde_json::from_str(&json).expect("parses");
        prop_assert_eq!(back.matchers().expect("compiles"), [all]);
    }
}

#[test]
fn stored_matchers_that_are_wrong_are_named() {
    let stored = |op: &str, value: &str| TombstoneMatcher { name: "a".into(), op: op.into(), value: value.into() };
    for wrong in [stored("==", "x"), stored("=~", "(")] {
        let tombstone = Tombstone { selectors: vec![vec![wrong]], ..(*tombstone(1, &[], 0, 9)).clone() };
        let error = tombstone.matchers().expect_err("is refused");
        assert!(error.to_string().contains(&tombstone.id.to_string()), "{error}");
    }
}

#[test]
fn only_older_data_is_masked() {
    let series = [Series { labels: Labels::empty(), times: vec![10, 20], histograms_every: 0 }];
    let all = [tombstone(1, &[vec![matcher("a", MatchOp::Equal, "")]], 15, 30)];
    let meta = block(&series);
    assert!(Mask::new(&all, &meta).expect("compiles").is_some_and(|m| !m.hides_series()));
    for newer in [
        BlockMeta { precedence_ms: DELETED_MS + 1, ..meta.clone() },
        BlockMeta { deletions_ms: DELETED_MS, ..meta.clone() },
        BlockMeta { max_time_ms: 14, ..meta.clone() },
        BlockMeta { min_time_ms: 31, max_time_ms: 40, ..meta.clone() },
    ] {
        assert!(Mask::new(&all, &newer).expect("compiles").is_none());
    }
    assert_eq!(carried_out_ms(&all), DELETED_MS);
    assert_eq!(carried_out_ms(&[]), 0);
}

#[test]
fn deletions_of_one_selector_add_up() {
    let series = [Series { labels: Labels::empty(), times: vec![0, 100], histograms_every: 0 }];
    let selector = vec![matcher("a", MatchOp::Equal, "")];
    let halves = [tombstone(1, std::slice::from_ref(&selector), 50, 200), tombstone(2, std::slice::from_ref(&selector), -5, 49)];
    let mask = Mask::new(&halves, &block(&series)).expect("compiles").expect("applies");
    assert!(mask.hides_series());
    assert!(mask.apply(set(&series)).is_empty());
    let with_gap = [halves[0].clone(), tombstone(3, &[selector], -5, 48)];
    assert!(!Mask::new(&with_gap, &block(&series)).expect("compiles").expect("applies").hides_series());
}

#[test]
fn series_that_lose_the_same_share_timestamps() {
    let series: Vec<Series> = (0..3000)
        .map(|i| Series {
            labels: Labels::from_pairs([("__name__", "m"), ("i", &format!("{i:05}"))]).expect("valid"),
            times: (0..100).map(|t| t * 10 + i64::from(i % 2)).collect(),
            histograms_every: 0,
        })
        .collect();
    let all = [
        tombstone(1, &[vec![matcher("__name__", MatchOp::Equal, "m")]], 200, 400),
        tombstone(2, &[vec![matcher("i", MatchOp::Regex, "00[6-9].*|01.*")]], i64::MIN, i64::MAX),
    ];
    let masked = Mask::new(&all, &block(&series)).expect("compiles").expect("applies").apply(set(&series));
    assert_eq!(masked.len(), 3000 - 1400);
    let mut ids = BTreeSet::new();
    for rows in [0..500, 500..700, 700..1600] {
        let mut run = block_on(masked.load(rows.clone(), TimeRange::ALL)).expect("loads");
        let mut buf = SampleBuf::default();
        for row in rows {
            run.read(row, &mut buf).expect("reads");
            assert_eq!(
                buf.len(),
                if masked.labels(row).get("i").is_some_and(|i| i.ends_with(['0', '2', '4', '6', '8'])) { 79 } else { 80 }
            );
            ids.insert(buf.timestamps.id());
        }
    }
    assert_eq!(ids.len(), 2);
    assert!(!ids.contains(&0));
}

fn exemplar(t_ms: i64) -> Exemplar {
    Exemplar { labels: Labels::from_pairs([("trace_id", t_ms.to_string())]).expect("valid"), value: 1.0, timestamp_ms: t_ms }
}

/// A block with metrics `a` and `b` of jobs `x` and `y`, read through the deletions.
async fn masked_block(store: Arc<dyn ObjectStore>, tombstones: &[Arc<Tombstone>]) -> Masked {
    let tenant = TenantId::default();
    let mut config = WriterConfig::new(5);
    config.series_per_group = 3;
    let mut writer = BlockWriter::new(config);
    let mut shared = BTreeMap::new();
    for (name, job, only) in [("a", "x", "1"), ("a", "y", ""), ("b", "x", ""), ("b", "y", "2")] {
        let labels = Labels::from_pairs([("__name__", name), ("job", job), (&format!("only_{name}"), only)]).expect("valid");
        let series = Series { labels: labels.clone(), times: (0..200).map(|i| i * 60_000).collect(), histograms_every: 7 };
        let metadata = Metadata { help: format!("help of {name}"), ..Metadata::default() };
        let samples = SampleBuf { counts: Vec::new(), ..series.buffer(&mut shared) };
        writer.push_series(&labels, Some(&metadata), &samples, &[exemplar(60_000), exemplar(9_000_000)]).expect("fits");
    }
    let meta = Arc::new(writer.finish(&*store, &tenant).await.expect("is written"));
    let mask = Mask::new(tombstones, &meta).expect("compiles").expect("applies");
    let reader = BlockReader::open(store, &tenant, meta, &CacheConfig::default()).await.expect("opens");
    Masked::new(Arc::new(Arc::new(reader)), mask)
}

async fn deletions_are_gone_at_once(store: Arc<dyn ObjectStore>) {
    let x_of_a = vec![matcher("__name__", MatchOp::Equal, "a"), matcher("job", MatchOp::Equal, "x")];
    let y = vec![matcher("job", MatchOp::Equal, "y")];
    let all = [tombstone(1, &[x_of_a], i64::MIN, i64::MAX), tombstone(2, std::slice::from_ref(&y), 0, 8_000_000)];
    let masked = masked_block(store.clone(), &all).await;
    let selected = masked.select(&[], TimeRange::ALL, Want::default()).await.expect("selects").sets;
    let found = read(&*selected[0], 2).await;
    let lengths: Vec<(String, usize)> = found.iter().map(|(labels, samples)| (labels.to_string(), samples.len())).collect();
    assert_eq!(lengths, [("a{job=\"y\"}".into(), 66), ("b{job=\"x\"}".into(), 200), ("b{job=\"y\", only_b=\"2\"}".into(), 66)]);
    assert_eq!(masked.label_names(&[], TimeRange::ALL).await.expect("answers"), ["__name__", "job", "only_b"]);
    let in_a = [matcher("__name__", MatchOp::Equal, "a")];
    assert_eq!(masked.label_values("job", &in_a, TimeRange::ALL).await.expect("answers"), ["y"]);
    assert_eq!(masked.label_values("job", &[], TimeRange::ALL).await.expect("answers"), ["x", "y"]);
    let exemplars = masked.exemplars(&[], TimeRange::ALL).await.expect("answers");
    let times: Vec<Vec<i64>> = exemplars.iter().map(|(_, all)| all.iter().map(|e| e.timestamp_ms).collect()).collect();
    assert_eq!(times, [vec![9_000_000], vec![60_000, 9_000_000], vec![9_000_000]]);
    assert_eq!(masked.metadata(None).await.expect("answers").len(), 2, "a metric that is left keeps its metadata");

    let all = [all[0].clone(), tombstone(3, &[y], i64::MIN, i64::MAX)];
    let masked = masked_block(store, &all).await;
    assert!(masked.select(&in_a, TimeRange::ALL, Want::default()).await.expect("selects").sets.is_empty());
    assert_eq!(masked.label_values("__name__", &[], TimeRange::ALL).await.expect("answers"), ["b"]);
    let names = |found: Vec<(String, Vec<Metadata>)>| found.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(masked.metadata(None).await.expect("answers")), ["b"]);
    assert!(masked.metadata(Some("a")).await.expect("answers").is_empty());
}

#[tokio::test]
async fn deletions_are_gone_at_once_in_a_store() {
    deletions_are_gone_at_once(crate::testing::object_store()).await;
}

#[tokio::test]
async fn deletions_are_gone_at_once_on_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    deletions_are_gone_at_once(Arc::new(DurableLocal::new(dir.path()).expect("opens"))).await;
}
