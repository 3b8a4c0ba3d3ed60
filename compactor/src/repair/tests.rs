//! Repairs and rewrites of blocks in memory.

use std::collections::BTreeMap;

use isobar_block::meta::{CHECKSUMS_FILE, CHUNKS_FILE, META_FILE, SERIES_FILE, TIMES_FILE};
use isobar_block::{
    BlockStoreConfig, BlockWriter, Exemplar, Labels, MatchOp, Matcher, Metadata, MetricType, Quarantined, SampleBuf, TimeRange, Timestamps,
    Want, key,
};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};

use super::relabel::{Action, Rule, RuleText};
use super::*;

const SERIES: usize = 60;

fn labels(i: usize) -> Labels {
    Labels::from_pairs([("__name__", format!("m{}", i % 4)), ("i", format!("{i:03}"))]).expect("valid")
}

/// A block of three windows whose pages are so small that damage hits a few series only.
async fn filled() -> (BlockStore, BlockId) {
    let blocks = BlockStore::new(Arc::new(InMemory::new()), BlockStoreConfig::default());
    let config =
        WriterConfig { series_per_group: 16, chunks_per_group: 16, page_bytes: 1 << 10, level: 2, ..WriterConfig::new(1_700_000_000_000) };
    let mut writer = BlockWriter::new(config);
    let mut all: Vec<(Labels, usize)> = (0..SERIES).map(|i| (labels(i), i)).collect();
    all.sort();
    let metadata = Metadata { metric_type: MetricType::Gauge, help: "help".into(), unit: String::new() };
    for (labels, i) in all {
        let mut random = i as u64 + 1;
        let mut noise = move || {
            // xorshift64 (Marsaglia, 2003)
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % 9973) as i64
        };
        let times: Vec<i64> = (0..2000).map(|n| n * 10_000 + noise()).collect();
        let values = times.iter().map(|t| (*t as f64 * 1.7).sin()).collect();
        let samples = SampleBuf { timestamps: Timestamps::unshared(times), values, ..SampleBuf::default() };
        let exemplar = Exemplar { labels: Labels::from_pairs([("trace_id", "t")]).expect("valid"), value: 1.0, timestamp_ms: i as i64 };
        writer.push_series(&labels, Some(&metadata), &samples, &[exemplar]).expect("pushes");
    }
    let meta = writer.finish(&**blocks.objects(), &TenantId::default()).await.expect("uploads");
    let id = meta.ulid;
    let catalog = blocks.catalog(&TenantId::default()).await.expect("catalog");
    catalog.commit(Change { add: vec![meta], ..Change::default() }).await.expect("commits");
    (blocks, id)
}

async fn damage(blocks: &BlockStore, id: BlockId, file: &str, at: impl Fn(usize) -> usize) {
    let key = key::block_file(&TenantId::default(), id, file);
    let store: &dyn ObjectStore = &**blocks.objects();
    let mut bytes = store.get(&key).await.expect("is there").bytes().await.expect("reads").to_vec();
    let at = at(bytes.len());
    bytes[at] ^= 0x55;
    store.put(&key, bytes.into()).await.expect("puts");
}

async fn read(blocks: &BlockStore) -> BTreeMap<String, Vec<(i64, u64)>> {
    let source = blocks.source(&TenantId::default());
    let sets = source.select(&[], TimeRange::ALL, Want::default()).await.expect("selects").sets;
    let mut out = BTreeMap::new();
    for set in sets {
        let mut run = set.load(0..set.len(), TimeRange::ALL).await.expect("loads");
        let mut buf = SampleBuf::default();
        for row in 0..set.len() {
            run.read(row, &mut buf).expect("reads");
            let samples = buf.timestamps.iter().copied().zip(buf.values.iter().map(|v| v.to_bits())).collect();
            out.insert(set.labels(row).to_string(), samples);
        }
    }
    out
}

async fn state(blocks: &BlockStore) -> Arc<CatalogState> {
    blocks.catalog(&TenantId::default()).await.expect("catalog").blocks()
}

async fn try_repair(blocks: &BlockStore, id: BlockId, discard: bool) -> Result<Repaired> {
    repair(blocks, &TenantId::default(), id, discard, &|_| {}).await
}

#[tokio::test]
async fn a_sound_block_leaves_quarantine() {
    let (blocks, id) = filled().await;
    let catalog = blocks.catalog(&TenantId::default()).await.expect("catalog");
    let quarantine = vec![Quarantined { ulid: id, since_ms: 1, reason: "x".into() }];
    catalog.commit(Change { quarantine, ..Change::default() }).await.expect("commits");
    assert_eq!(try_repair(&blocks, id, false).await.expect("repairs"), Repaired::Sound);
    assert!(state(&blocks).await.quarantined.is_empty());
    assert!(state(&blocks).await.contains(id));
}

#[tokio::test]
async fn what_is_readable_is_saved() {
    let (sound, _) = filled().await;
    let expected = read(&sound).await;
    // A place in the middle of the file hits some chunks or the timestamps of a window.
    for file in [CHUNKS_FILE, TIMES_FILE] {
        let (blocks, id) = filled().await;
        damage(&blocks, id, file, |len| len / 3).await;
        let repaired = try_repair(&blocks, id, false).await.expect("repairs");
        let Repaired::Saved { blocks: new, samples, lost_samples, lost, .. } = repaired else { panic!("{file}: {repaired:?}") };
        assert!(samples > 0 && lost_samples > 0 && !lost.is_empty(), "{file}: {samples} {lost_samples} {lost:?}");
        assert_eq!(samples + lost_samples, (SERIES * 2000) as u64);
        let state = state(&blocks).await;
        assert!(!state.contains(id) && new.iter().all(|id| state.contains(*id)));
        for block in &state.blocks {
            assert!(blocks.verify(&TenantId::default(), block).await.expect("verifies").is_sound());
            assert_eq!((block.level, block.precedence_ms), (2, 1_700_000_000_000));
        }
        let got = read(&blocks).await;
        for (series, samples) in &got {
            assert!(samples.iter().all(|s| expected[series].contains(s)), "{file}: {series} has samples that nobody wrote");
        }
        let left: u64 = got.values().map(|s| s.len() as u64).sum();
        assert_eq!(left, samples, "{file}");
    }
}

#[tokio::test]
async fn other_row_groups_of_series_are_saved() {
    let blocks = BlockStore::new(Arc::new(InMemory::new()), BlockStoreConfig::default());
    let mut writer = BlockWriter::new(WriterConfig { series_per_group: 256, ..WriterConfig::new(1_700_000_000_000) });
    let count = 8000u64;
    for i in 0..count {
        let noise = format!("{:016x}{:016x}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15), i.wrapping_mul(0xd1b5_4a32_d192_ed03));
        let labels = Labels::from_pairs([("__name__", "m"), ("i", &format!("{i:06}")), ("noise", &noise)]).expect("valid");
        let samples = SampleBuf { timestamps: Timestamps::unshared(vec![5]), values: vec![i as f64], ..SampleBuf::default() };
        writer.push_series(&labels, None, &samples, &[]).expect("pushes");
    }
    let meta = writer.finish(&**blocks.objects(), &TenantId::default()).await.expect("uploads");
    let id = meta.ulid;
    let catalog = blocks.catalog(&TenantId::default()).await.expect("catalog");
    catalog.commit(Change { add: vec![meta], ..Change::default() }).await.expect("commits");
    damage(&blocks, id, SERIES_FILE, |len| len / 3).await;
    let repaired = try_repair(&blocks, id, false).await.expect("repairs");
    let Repaired::Saved { samples, lost_samples, lost_series, lost, .. } = repaired else { panic!("{repaired:?}") };
    assert!(samples > count / 2 && lost_samples > 0 && lost_samples == lost_series, "{samples} {lost_samples} {lost_series}");
    assert!(lost.iter().any(|l| l.contains("row group")), "{lost:?}");
    assert_eq!(read(&blocks).await.len() as u64, samples);
}

#[tokio::test]
async fn what_can_be_made_from_the_rest_is_restored() {
    let (blocks, id) = filled().await;
    let expected = read(&blocks).await;
    damage(&blocks, id, CHECKSUMS_FILE, |len| len / 2).await;
    damage(&blocks, id, META_FILE, |len| len / 2).await;
    let repaired = try_repair(&blocks, id, false).await.expect("repairs");
    assert_eq!(repaired, Repaired::Restored(vec![CHECKSUMS_FILE, META_FILE]));
    assert_eq!(try_repair(&blocks, id, false).await.expect("looks"), Repaired::Sound);
    assert_eq!(read(&blocks).await, expected);
}

#[tokio::test]
async fn a_lost_block_goes_only_if_that_is_asked_for() {
    let (blocks, id) = filled().await;
    damage(&blocks, id, CHECKSUMS_FILE, |_| 0).await;
    damage(&blocks, id, SERIES_FILE, |len| len - 20).await;
    let error = try_repair(&blocks, id, false).await.expect_err("nothing is readable").to_string();
    assert!(error.contains("--discard"), "{error}");
    assert!(state(&blocks).await.contains(id));
    assert_eq!(try_repair(&blocks, id, true).await.expect("removes"), Repaired::Removed);
    assert!(!state(&blocks).await.contains(id));
}

#[tokio::test]
async fn series_are_dropped_and_relabelled() {
    let (blocks, id) = filled().await;
    let before = read(&blocks).await;
    let matcher = |name: &str, value: &str| Matcher::new(name, MatchOp::Regex, value).expect("compiles");
    let drop = Edit::Drop(vec![vec![matcher("__name__", "m1")], vec![matcher("i", "00.")]]);
    let run = |id: BlockId, edit: Edit, dry: bool| {
        let blocks = blocks.clone();
        async move { rewrite(&blocks, &TenantId::default(), &[id], &edit, dry, &|_| {}).await.expect("rewrites").remove(0) }
    };
    let dry = run(id, drop.clone(), true).await;
    assert_eq!((dry.series, dry.dropped, dry.blocks.len(), dry.examples.len()), (60, 22, 0, 10));
    assert!(state(&blocks).await.contains(id));
    let done = run(id, drop, false).await;
    assert_eq!((done.dropped, done.blocks.len()), (22, 1));
    let after = read(&blocks).await;
    assert_eq!(after.len(), 38);
    assert!(after.iter().all(|(series, samples)| before[series] == *samples));
    let keep = run(done.blocks[0], Edit::Keep(vec![vec![matcher("i", "0[1-3].")]]), false).await;
    assert_eq!((keep.dropped, read(&blocks).await.len()), (15, 23));

    let kept = read(&blocks).await;

    // All series of a metric become one, and the order of metrics is turned round.
    let rule = |action, text| Rule::new(action, text).expect("is right");
    let rules = vec![
        rule(Action::LabelDrop, RuleText { regex: Some("i".into()), ..RuleText::default() }),
        rule(
            Action::Replace,
            RuleText {
                source_labels: vec!["__name__".into()],
                regex: Some("m(.)".into()),
                target_label: "__name__".into(),
                replacement: Some("z_$1".into()),
                ..RuleText::default()
            },
        ),
    ];
    let joined = run(keep.blocks[0], Edit::Relabel(rules), false).await;
    assert_eq!((joined.relabelled, joined.joined), (23, 20));
    let after = read(&blocks).await;
    assert_eq!(after.keys().collect::<Vec<_>>(), ["z_0{}", "z_2{}", "z_3{}"]);
    for (series, samples) in &after {
        let metric = series.replace("z_", "m").replace("{}", "{");
        let times = kept.iter().filter(|(old, _)| old.starts_with(&metric)).flat_map(|(_, samples)| samples.iter().map(|(t, _)| *t));
        let times: Vec<i64> = times.collect::<std::collections::BTreeSet<_>>().into_iter().collect();
        assert_eq!(samples.iter().map(|(t, _)| *t).collect::<Vec<_>>(), times, "{series}");
    }
    let source = blocks.source(&TenantId::default());
    assert_eq!(source.exemplars(&[], TimeRange::ALL).await.expect("reads").iter().map(|(_, e)| e.len()).sum::<usize>(), 23);
    assert_eq!(source.metadata(Some("z_0")).await.expect("reads")[0].1[0].help, "help");
    let all = run(joined.blocks[0], Edit::Drop(vec![Vec::new()]), false).await;
    assert!(all.blocks.is_empty() && state(&blocks).await.blocks.is_empty());
}
