//! Jobs carried out on a store: made from raw blocks, merged, rewritten, and read by queries.

use isobar_block::catalog::Catalog;
use isobar_block::{
    BlockId, BlockMeta, BlockStore, BlockStoreConfig, BlockWriter, Change, MatchOp, Matcher, Quarantined, Selected, Tombstone,
    TombstoneMatcher,
};

use super::*;
use crate::config::{CompactorConfig, TenantRules};
use crate::downsample::{Downsampling, Due, due};
use crate::plan::Span;
use crate::rewrite::Control;

pub(super) const HOUR_MS: i64 = 3_600_000;
pub(super) const SPAN_MS: i64 = 48 * HOUR_MS;
const SCRAPE_MS: i64 = 15_000;
const NOW_MS: i64 = 1_700_000_000_000;
const SERIES: usize = 12;

pub(super) struct World {
    pub store: BlockStore,
    pub catalog: Arc<Catalog>,
    pub tenant: TenantId,
}

fn value(series: usize, t: i64) -> f64 {
    // A counter that is reset every 7 hours, at another time for each series.
    let period_ms = 7 * HOUR_MS;
    ((t + series as i64 * 977_000).rem_euclid(period_ms) / SCRAPE_MS) as f64 * (series + 1) as f64
}

pub(super) fn labels(series: usize, replica: Option<&str>) -> Labels {
    let mut pairs = vec![("__name__", "m_total".to_owned()), ("i", format!("{series:03}"))];
    pairs.extend(replica.map(|r| ("replica", r.to_owned())));
    Labels::from_pairs(pairs).expect("valid")
}

impl World {
    pub async fn new() -> Self {
        let (store, tenant) = (BlockStore::new(Arc::new(InMemory::new()), BlockStoreConfig::default()), TenantId::default());
        Self { catalog: store.catalog(&tenant).await.expect("opens"), store, tenant }
    }

    /// Adds a raw block of some series.
    pub async fn raw(&self, span: std::ops::Range<i64>, level: u32, created_ms: i64, series: impl Iterator<Item = Labels>) -> BlockMeta {
        let mut writer = BlockWriter::new(WriterConfig { level, window_ms: 24 * HOUR_MS, ..WriterConfig::new(created_ms) });
        for labels in series {
            let number: usize = labels.get("i").and_then(|i| i.parse().ok()).expect("the tests number their series");
            let samples: Vec<(i64, f64)> = span.clone().step_by(SCRAPE_MS as usize).map(|t| (t, value(number, t))).collect();
            writer.push_series(&labels, None, &floats(&samples), &[]).expect("fits");
        }
        let meta = writer.finish(&**self.store.objects(), &self.tenant).await.expect("is written");
        self.change(Change { add: vec![meta.clone()], ..Change::default() }).await;
        meta
    }

    pub async fn change(&self, change: Change) {
        self.catalog.commit(change).await.expect("commits");
    }

    fn job(&self) -> Downsampling {
        Downsampling {
            objects: self.store.objects().clone(),
            tenant: self.tenant.clone(),
            state: self.catalog.blocks(),
            replica_labels: vec!["replica".into()],
            memory_bytes: 64 << 20,
            created_ms: NOW_MS,
            control: Arc::new(Control::default()),
        }
    }

    pub fn due(&self) -> Vec<Due> {
        due(&self.catalog.blocks(), &TenantRules::default(), &CompactorConfig::default(), NOW_MS)
    }

    /// Carries out everything that is due.
    pub async fn settle(&self) -> Vec<BlockMeta> {
        let mut added = Vec::new();
        loop {
            let Some(due) = self.due().into_iter().next() else { return added };
            let made = self.job().run(&due).await.expect("works");
            for block in &made {
                let report = self.store.verify(&self.tenant, &Arc::new(block.clone())).await.expect("reads");
                assert_eq!(report.problems, Vec::<String>::new());
            }
            self.change(Change { add: made.clone(), remove: due.replaces, ..Change::default() }).await;
            added.extend(made);
        }
    }

    pub async fn select(&self, range: TimeRange, max_resolution_ms: i64, aggregate: Aggregate) -> Selected {
        let want = Want { max_resolution_ms, aggregate };
        self.store.source(&self.tenant).select(&[], range, want).await.expect("selects")
    }

    /// All samples by series: value and how many it stands for.
    pub async fn read(&self, max_resolution_ms: i64, aggregate: Aggregate) -> BTreeMap<String, BTreeMap<i64, (f64, u32)>> {
        let mut out: BTreeMap<String, BTreeMap<i64, (f64, u32)>> = BTreeMap::new();
        let mut buf = SampleBuf::default();
        for set in self.select(TimeRange::ALL, max_resolution_ms, aggregate).await.sets {
            let mut run = set.load(0..set.len(), TimeRange::ALL).await.expect("loads");
            for row in 0..set.len() {
                run.read(row, &mut buf).expect("reads");
                let series = out.entry(set.labels(row).get("i").unwrap_or("").to_owned()).or_default();
                for (i, (t, v)) in buf.timestamps.iter().zip(&buf.values).enumerate() {
                    series.insert(*t, (*v, buf.counts.get(i).copied().unwrap_or(1)));
                }
            }
        }
        out
    }
}

pub(super) fn total(series: &BTreeMap<i64, (f64, u32)>) -> (u64, f64) {
    series.values().fold((0, 0.0), |(n, sum), (v, count)| (n + u64::from(*count), sum + v * f64::from(*count)))
}

fn as_buf(series: &BTreeMap<i64, (f64, u32)>) -> SampleBuf {
    floats(&series.iter().map(|(t, (v, _))| (*t, *v)).collect::<Vec<_>>())
}

/// Answers from buckets are those from raw samples: sums, counts, and increases at ends of buckets.
pub(super) fn compare(
    raw: &BTreeMap<String, BTreeMap<i64, (f64, u32)>>,
    average: &BTreeMap<String, BTreeMap<i64, (f64, u32)>>,
    counter: &BTreeMap<String, BTreeMap<i64, (f64, u32)>>,
) {
    assert_eq!(raw.keys().collect::<Vec<_>>(), average.keys().collect::<Vec<_>>());
    for (name, samples) in raw {
        let ((n, sum), (found_n, found_sum)) = (total(samples), total(&average[name]));
        assert!(n == found_n && same(sum, found_sum), "{name}: {n} samples are {found_n}, their sum {sum} is {found_sum}");
        for end_ms in [20 * HOUR_MS - 1, 49 * HOUR_MS - 1, i64::MAX] {
            let (expected, found) = (risen(&as_buf(samples), end_ms), risen(&as_buf(&counter[name]), end_ms));
            assert!(same(expected, found), "{name}: an increase of {expected} up to {end_ms} is {found}");
        }
    }
}

#[tokio::test]
async fn queries_get_the_same_from_buckets_as_from_raw_samples() {
    let world = World::new().await;
    for (span, created_ms) in [(0, 100), (1, 200)] {
        let series = (0..SERIES).flat_map(|i| [Some("a"), Some("b")].map(|r| labels(i, r)));
        world.raw(span * SPAN_MS..(span + 1) * SPAN_MS, 3, created_ms, series).await;
    }
    // Newer data is not downsampled yet.
    world.raw(2 * SPAN_MS..2 * SPAN_MS + 3 * HOUR_MS, 1, 300, (0..SERIES).map(|i| labels(i, None))).await;
    let raw = world.read(0, Aggregate::Last).await;
    let made = world.settle().await;
    assert_eq!(made.len(), 4, "two spans, two resolutions");
    assert!(world.due().is_empty());
    let rows: u64 = made.iter().filter(|b| b.resolution_ms == HOUR_MS).map(|b| b.samples).sum();
    assert_eq!(rows, 2 * 48 * SERIES as u64, "replicas are one series");
    for resolution_ms in [300_000, HOUR_MS] {
        let sets = world.select(TimeRange::ALL, resolution_ms, Aggregate::Average).await.sets;
        assert_eq!(sets.iter().map(|s| s.resolution_ms()).collect::<Vec<_>>(), [resolution_ms, resolution_ms, 0]);
        compare(&raw, &world.read(resolution_ms, Aggregate::Average).await, &world.read(resolution_ms, Aggregate::Counter).await);
    }
    let sets = world.select(TimeRange::ALL, 0, Aggregate::Last).await.sets;
    assert!(sets.iter().all(|s| s.resolution_ms() == 0));
    // When raw blocks are gone, buckets answer, and small blocks of them become one.
    let gone = world.catalog.blocks().blocks.iter().filter(|b| b.level == 3 && b.resolution_ms == 0).map(|b| b.ulid).collect();
    world.change(Change { remove: gone, ..Change::default() }).await;
    compare(&raw, &world.read(0, Aggregate::Average).await, &world.read(0, Aggregate::Counter).await);
    let newest = world.catalog.blocks().blocks.iter().filter(|b| b.level == 1).map(|b| b.ulid).collect();
    world.change(Change { remove: newest, ..Change::default() }).await;
    let before = [world.read(0, Aggregate::Average).await, world.read(HOUR_MS, Aggregate::Max).await];
    let increases = world.read(HOUR_MS, Aggregate::Counter).await;
    let merged = world.settle().await;
    assert_eq!(merged.iter().map(|b| (b.resolution_ms, b.window_ms)).collect::<Vec<_>>(), [(300_000, 7 * SPAN_MS), (HOUR_MS, 7 * SPAN_MS)]);
    assert_eq!([world.read(0, Aggregate::Average).await, world.read(HOUR_MS, Aggregate::Max).await], before);
    for (name, series) in world.read(HOUR_MS, Aggregate::Counter).await {
        assert!(same(risen(&as_buf(&series), i64::MAX), risen(&as_buf(&increases[&name]), i64::MAX)), "{name}");
    }
    assert_eq!(world.catalog.blocks().blocks.len(), 2);
}

#[tokio::test]
async fn late_samples_are_seen_at_once_and_rolled_up_later() {
    let world = World::new().await;
    let base = world.raw(0..SPAN_MS, 3, 100, (0..SERIES).map(|i| labels(i, None))).await;
    world.settle().await;
    world.raw(5 * HOUR_MS..6 * HOUR_MS, 0, 500, std::iter::once(labels(99, None))).await;
    assert!(world.due().is_empty(), "it waits for its compaction");
    let average = world.read(HOUR_MS, Aggregate::Average).await;
    assert_eq!(total(&average["099"]).0, 240);
    assert_eq!(total(&average["003"]), total(&world.read(0, Aggregate::Average).await["003"]));
    let resolutions: Vec<i64> =
        world.select(TimeRange::ALL, HOUR_MS, Aggregate::Average).await.sets.iter().map(|s| s.resolution_ms()).collect();
    assert_eq!(resolutions, [0, HOUR_MS, 0], "the hour of the late samples is read from raw blocks");
    // A compaction brings both together.
    let late = world.catalog.blocks().blocks.iter().find(|b| b.precedence_ms == 500).expect("is there").ulid;
    let all = (0..SERIES).map(|i| labels(i, None)).chain([labels(99, None)]);
    world.change(Change { remove: vec![base.ulid, late], ..Change::default() }).await;
    world.raw(0..SPAN_MS, 3, 500, all).await;
    let made = world.settle().await;
    assert_eq!((made.len(), made[0].precedence_ms, made[0].series), (2, 500, SERIES as u64 + 1));
    assert_eq!(world.catalog.blocks().blocks.len(), 3, "the old ones are replaced");
}

#[tokio::test]
async fn deletions_reach_buckets() {
    let world = World::new().await;
    world.raw(0..SPAN_MS, 3, 100, (0..SERIES).map(|i| labels(i, None))).await;
    let made = world.settle().await;
    let selector = TombstoneMatcher::from(&Matcher::new("i", MatchOp::Regex, "00[34]").expect("compiles"));
    let tombstone = Tombstone {
        id: BlockId::new(1),
        selectors: vec![vec![selector]],
        min_time_ms: 10 * HOUR_MS + 30 * 60_000,
        max_time_ms: 10 * HOUR_MS + 40 * 60_000,
        created_ms: NOW_MS + 1,
    };
    world.change(Change { mask: vec![tombstone.clone()], ..Change::default() }).await;
    let masked = world.read(HOUR_MS, Aggregate::Max).await;
    assert_eq!((masked["003"].len(), masked["005"].len()), (47, 48), "the whole bucket is gone");
    for block in made {
        let rewritten = world.job().rewrite(block.ulid).await.expect("works");
        assert_eq!(rewritten.len(), 1);
        assert_eq!((rewritten[0].precedence_ms, rewritten[0].deletions_ms), (block.precedence_ms, NOW_MS + 1));
        assert!(rewritten[0].raw_samples < block.raw_samples);
        let report = world.store.verify(&world.tenant, &Arc::new(rewritten[0].clone())).await.expect("reads");
        assert_eq!(report.problems, Vec::<String>::new());
        world.change(Change { add: rewritten, remove: vec![block.ulid], ..Change::default() }).await;
    }
    assert_eq!(world.read(HOUR_MS, Aggregate::Max).await, masked);
    // A deletion of everything leaves no block.
    let everything = Tombstone {
        id: BlockId::new(2),
        selectors: vec![vec![TombstoneMatcher::from(&Matcher::new("i", MatchOp::Regex, ".+").expect("compiles"))]],
        min_time_ms: i64::MIN,
        max_time_ms: i64::MAX,
        created_ms: NOW_MS + 2,
    };
    world.change(Change { mask: vec![everything], ..Change::default() }).await;
    assert!(world.read(HOUR_MS, Aggregate::Max).await.is_empty());
    let names = world.store.source(&world.tenant).label_names(&[], TimeRange::ALL).await.expect("answers");
    assert!(names.is_empty(), "{names:?}");
    let block = world.catalog.blocks().blocks.iter().find(|b| b.resolution_ms > 0).expect("is there").ulid;
    assert!(world.job().rewrite(block).await.expect("works").is_empty());
}

#[tokio::test]
async fn damaged_blocks_are_left_out_with_a_warning() {
    let world = World::new().await;
    let sound = world.raw(0..SPAN_MS, 3, 100, (0..2).map(|i| labels(i, None))).await;
    let damaged = world.raw(SPAN_MS..2 * SPAN_MS, 3, 200, (0..2).map(|i| labels(i, None))).await;
    let quarantine = vec![Quarantined { ulid: damaged.ulid, since_ms: 1, reason: "torn page".into() }];
    world.change(Change { quarantine, ..Change::default() }).await;
    let found = world.select(TimeRange::ALL, 0, Aggregate::Last).await;
    assert_eq!((found.sets.len(), found.warnings.len()), (1, 1));
    for part in [&*damaged.ulid.to_string(), "1970-01-03T00:00:00.000Z", "torn page", "`isobar blocks repair`"] {
        assert!(found.warnings[0].contains(part), "{} lacks {part}", found.warnings[0]);
    }
    let coverage = world.store.source(&world.tenant).coverage(&[], TimeRange::ALL).await.expect("answers");
    assert_eq!((coverage.warnings, coverage.resolutions_ms.into_iter().collect::<Vec<_>>()), (found.warnings, vec![0]));
    let early = world.select(TimeRange::new(0, HOUR_MS).expect("ordered"), 0, Aggregate::Last).await;
    assert!(early.warnings.is_empty(), "it is not needed there");
    let due = world.due();
    assert_eq!(due.iter().map(|d| d.inputs.clone()).collect::<Vec<_>>(), [vec![sound.ulid]], "it is not downsampled");
}

#[tokio::test]
async fn jobs_split_big_results_stop_when_asked_and_leave_nothing_behind() {
    let world = World::new().await;
    world.raw(0..SPAN_MS, 3, 100, (0..200).map(|i| labels(i, None))).await;
    let due = world.due().remove(0);
    let small = Downsampling { memory_bytes: 1 << 20, ..world.job() };
    let made = small.run(&due).await.expect("works");
    assert!(made.len() > 2, "{} blocks", made.len());
    let series: u64 = made.iter().filter(|b| b.resolution_ms == HOUR_MS).map(|b| b.series).sum();
    let progress = small.control.progress();
    assert_eq!((series, progress.series_done, progress.series_total), (200, 200, 200));
    assert_eq!(progress.written_bytes, made.iter().map(|b| b.size_bytes).sum::<u64>());
    let raw = world.read(0, Aggregate::Last).await;
    world.change(Change { add: made, ..Change::default() }).await;
    compare(&raw, &world.read(HOUR_MS, Aggregate::Average).await, &world.read(HOUR_MS, Aggregate::Counter).await);
    let objects = |world: &World| {
        let listed = world.store.objects().list(None);
        async move { futures::TryStreamExt::try_collect::<Vec<_>>(listed).await.expect("lists").len() }
    };
    let before = objects(&world).await;
    let canceled = world.job();
    canceled.control.cancel();
    let failed = canceled.run(&due).await.expect_err("was canceled");
    assert!(matches!(failed.error, crate::Error::Canceled), "{failed:?}");
    assert_eq!(objects(&world).await, before);
}

#[tokio::test]
async fn a_span_without_any_number_is_done_once() {
    let world = World::new().await;
    let mut writer = BlockWriter::new(WriterConfig { level: 3, ..WriterConfig::new(100) });
    writer.push_series(&labels(0, None), None, &floats(&[(5, stale_nan())]), &[]).expect("fits");
    let meta = writer.finish(&**world.store.objects(), &world.tenant).await.expect("is written");
    world.change(Change { add: vec![meta], ..Change::default() }).await;
    let made = world.settle().await;
    assert_eq!(made.iter().map(|b| (b.samples, b.series)).collect::<Vec<_>>(), [(0, 1), (0, 1)]);
    assert!(world.due().is_empty());
    let span = made[0].min_time_ms..made[0].min_time_ms + made[0].window_ms;
    assert_eq!(Span { start_ms: span.start, end_ms: span.end - 1 }, Span::aligned(5, SPAN_MS));
}
