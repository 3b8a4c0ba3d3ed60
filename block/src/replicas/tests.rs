//! Replicas as a query sees them: matchers, labels, exemplars, and the same samples before and after they are stored as one.

use object_store::ObjectStore;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::cache::CacheConfig;
use crate::merge::tests::{MemorySet, labels, read_all, samples};
use crate::testing::object_store;
use crate::{BlockMeta, BlockReader, BlockWriter, MatchOp, SampleBuf, TenantId, Union, WriterConfig};

const REPLICA: &str = "prometheus_replica";

/// Some sets and what they were asked for.
#[derive(Default)]
struct Memory {
    sets: Vec<MemorySet>,
    asked: parking_lot::Mutex<Vec<(Vec<String>, TimeRange)>>,
}

#[async_trait]
impl Source for Memory {
    async fn select(&self, matchers: &[Matcher], range: TimeRange, _want: Want) -> Result<Selected> {
        self.asked.lock().push((matchers.iter().map(|m| m.to_string()).collect(), range));
        Ok(Selected::complete(self.sets.iter().map(|s| Arc::new(s.clone()) as Arc<dyn SeriesSet>).collect()))
    }

    async fn label_names(&self, _: &[Matcher], _: TimeRange) -> Result<Vec<String>> {
        Ok(vec!["__name__".into(), REPLICA.into(), "zone".into()])
    }

    async fn label_values(&self, name: &str, _: &[Matcher], _: TimeRange) -> Result<Vec<String>> {
        Ok(vec![format!("{name} 1"), format!("{name} 2")])
    }

    async fn exemplars(&self, _: &[Matcher], _: TimeRange) -> Result<Vec<(Labels, Vec<Exemplar>)>> {
        let exemplar = |timestamp_ms, value| Exemplar { labels: labels(&[("trace", "x")]), value, timestamp_ms };
        Ok(vec![
            (labels(&[("__name__", "m"), (REPLICA, "a")]), vec![exemplar(1, 1.0), exemplar(5, 2.0)]),
            (labels(&[("__name__", "m"), (REPLICA, "b")]), vec![exemplar(1, 1.0), exemplar(3, 3.0)]),
        ])
    }

    async fn metadata(&self, _: Option<&str>) -> Result<Vec<(String, Vec<Metadata>)>> {
        Ok(Vec::new())
    }
}

fn up(replica: &str, times: std::ops::Range<i64>) -> (Labels, SampleBuf) {
    (labels(&[("__name__", "up"), (REPLICA, replica)]), samples(times.map(|i| (i * 15_000, 1.0))))
}

fn matcher(name: &str, op: MatchOp, value: &str) -> Matcher {
    Matcher::new(name, op, value).expect("valid")
}

fn deduplicated(inner: Arc<Memory>) -> Deduplicated {
    Deduplicated::new(inner, vec!["__replica__".into(), REPLICA.into(), "__name__".into()])
}

#[tokio::test]
async fn data_without_replicas_is_handed_on() {
    let inner = Arc::new(Memory { sets: vec![MemorySet::new([up("", 0..10)]); 3], ..Memory::default() });
    let range = TimeRange::new(5, 10).expect("a range");
    let selected = deduplicated(Arc::clone(&inner)).select(&[matcher("__name__", MatchOp::Equal, "up")], range, Want::default()).await;
    assert_eq!(selected.expect("selects").sets.len(), 3);
    assert_eq!(*inner.asked.lock(), [(vec!["__name__=\"up\"".to_owned()], range)]);
}

#[tokio::test]
async fn replicas_are_one_series_without_their_label() {
    let five_minutes = MemorySet { resolution_ms: 300_000, ..MemorySet::new([up("a", 0..3)]) };
    let sets =
        vec![five_minutes.clone(), MemorySet::new([up("a", 0..10), up("b", 0..20)]), MemorySet::new([up("b", 20..30)]), five_minutes];
    let inner = Arc::new(Memory { sets, ..Memory::default() });
    let source = deduplicated(Arc::clone(&inner));
    let range = TimeRange::new(5, 10).expect("a range");
    let matchers =
        [matcher("__name__", MatchOp::Equal, "up"), matcher(REPLICA, MatchOp::NotEqual, "a"), matcher(REPLICA, MatchOp::Regex, ".*")];
    let selected = source.select(&matchers, range, Want::default()).await.expect("selects");
    assert!(selected.warnings.is_empty());
    assert_eq!(selected.sets.iter().map(|s| s.resolution_ms()).collect::<Vec<_>>(), [300_000, 0]);
    let all = read_all(&*selected.sets[1], TimeRange::ALL, 100).await;
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].0, labels(&[("__name__", "up")]));
    assert_eq!(all[0].1.len(), 30);
    let asked = inner.asked.lock();
    assert_eq!(asked.last().expect("it was asked"), &(vec!["__name__=\"up\"".to_owned()], whole_windows(range)));
}

#[tokio::test]
async fn a_matcher_on_a_replica_label_sees_nothing_and_says_so() {
    let inner = Arc::new(Memory { sets: vec![MemorySet::new([up("a", 0..10)])], ..Memory::default() });
    let source = deduplicated(Arc::clone(&inner));
    let unmet = [matcher(REPLICA, MatchOp::Equal, "a")];
    let selected = source.select(&unmet, TimeRange::ALL, Want::default()).await.expect("selects");
    assert!(selected.sets.is_empty());
    let [warning] = selected.warnings.as_slice() else { panic!("{:?}", selected.warnings) };
    assert!(warning.contains(REPLICA) && warning.contains("dedup=false"), "{warning}");
    assert!(source.label_names(&unmet, TimeRange::ALL).await.expect("asks").is_empty());
    assert!(source.label_values("zone", &unmet, TimeRange::ALL).await.expect("asks").is_empty());
    assert!(source.exemplars(&unmet, TimeRange::ALL).await.expect("asks").is_empty());
    assert!(inner.asked.lock().is_empty());
}

#[tokio::test]
async fn labels_and_exemplars_leave_replicas_out() {
    let source = deduplicated(Arc::new(Memory::default()));
    assert_eq!(source.label_names(&[], TimeRange::ALL).await.expect("asks"), ["__name__", "zone"]);
    assert_eq!(source.label_values("zone", &[], TimeRange::ALL).await.expect("asks"), ["zone 1", "zone 2"]);
    assert!(source.label_values(REPLICA, &[], TimeRange::ALL).await.expect("asks").is_empty());
    let exemplars = source.exemplars(&[], TimeRange::ALL).await.expect("asks");
    let [(of, found)] = exemplars.as_slice() else { panic!("{exemplars:?}") };
    assert_eq!(of, &labels(&[("__name__", "m")]));
    assert_eq!(found.iter().map(|e| e.timestamp_ms).collect::<Vec<_>>(), [1, 3, 5]);
}

async fn block(store: &Arc<dyn ObjectStore>, series: impl IntoIterator<Item = (Labels, SampleBuf)>) -> Arc<BlockReader> {
    let mut writer = BlockWriter::new(WriterConfig::new(1));
    for (labels, samples) in series {
        writer.push_series(&labels, None, &samples, &[]).expect("fits");
    }
    let meta: BlockMeta = writer.finish(store, &TenantId::default()).await.expect("writes");
    Arc::new(BlockReader::open(store.clone(), &TenantId::default(), Arc::new(meta), &CacheConfig::default()).await.expect("opens"))
}

/// Two servers, with jitter, gaps and counters, in several blocks.
async fn replicas_in_blocks(store: &Arc<dyn ObjectStore>, seed: u64) -> Vec<Arc<dyn Source>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut blocks: Vec<MemorySet> = vec![MemorySet::default(); 5];
    for replica in ["a", "b"] {
        for target in 0..6 {
            let phase_ms = rng.random_range(1000..14_000);
            let mut gap = 0;
            let times: Vec<i64> = (0..1900)
                .filter_map(|slot| {
                    gap = if gap == 0 && rng.random_bool(0.01) { rng.random_range(1..12) } else { i64::max(gap - 1, 0) };
                    (gap == 0).then(|| slot * 15_000 + phase_ms + rng.random_range(-900..900))
                })
                .collect();
            for name in ["requests_total", "in_flight"] {
                let labels = labels(&[("__name__", name), (REPLICA, replica), ("target", &target.to_string())]);
                for (i, block) in blocks.iter_mut().enumerate() {
                    let inside = times.iter().filter(|t| **t / 6_000_000 == i as i64).map(|t| (*t, (*t / 100) as f64));
                    block.series.insert(labels.clone(), samples(inside));
                }
            }
        }
    }
    let mut sources: Vec<Arc<dyn Source>> = Vec::new();
    for set in blocks {
        sources.push(Arc::new(block(store, set.series).await));
    }
    sources
}

#[tokio::test]
async fn answers_are_the_same_before_and_after_the_replicas_are_stored_as_one() {
    for seed in 0..5 {
        let store: Arc<dyn ObjectStore> = object_store();
        let raw: Arc<dyn Source> = Arc::new(Union::new(replicas_in_blocks(&store, seed).await));
        let source = Deduplicated::new(Arc::clone(&raw), vec![REPLICA.into()]);
        let all = source.select(&[], TimeRange::ALL, Want::default()).await.expect("selects");
        let [merged] = all.sets.as_slice() else { panic!("{} sets", all.sets.len()) };
        assert_eq!(merged.len(), 12);
        let mut clean = Vec::new();
        let mut run = merged.load(0..merged.len(), TimeRange::ALL).await.expect("loads");
        for row in 0..merged.len() {
            let mut buf = SampleBuf::default();
            run.read(row, &mut buf).expect("reads");
            clean.push((merged.labels(row).to_owned(), buf));
        }
        let clean: Arc<dyn Source> = Arc::new(block(&store, clean).await);
        let stored = Deduplicated::new(Arc::clone(&clean), vec![REPLICA.into()]);
        // Until the replicas are removed, a reader may see both; the clean series is the first.
        let both = Deduplicated::new(Arc::new(Union::new(vec![raw, clean])), vec![REPLICA.into()]);
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..20 {
            let start_ms = rng.random_range(0..28_000_000);
            let range = TimeRange::new(start_ms, start_ms + rng.random_range(0..9_000_000)).expect("a range");
            let mut answers = Vec::new();
            for source in [&source, &stored, &both] {
                let selected = source.select(&[], range, Want::default()).await.expect("selects");
                let [set] = selected.sets.as_slice() else { panic!("{} sets", selected.sets.len()) };
                let series = read_all(&**set, range, 5).await;
                answers.push(series.into_iter().filter(|(_, s)| !s.is_empty()).collect::<Vec<_>>());
            }
            assert_eq!(answers[0], answers[1], "{range:?}");
            assert_eq!(answers[0], answers[2], "{range:?}");
        }
    }
}
