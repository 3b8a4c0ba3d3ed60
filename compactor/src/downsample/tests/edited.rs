//! Rewrites of raw blocks reach the downsampled blocks that stand for them.

use isobar_block::{BlockId, Change, MatchOp, Matcher, Tombstone, TombstoneMatcher};

use super::jobs::{HOUR_MS, SPAN_MS, World, compare, labels, total};
use super::*;
use crate::repair::relabel::{Action, Rule, RuleText};
use crate::repair::{Edit, Rewritten, rewrite, sets};

const SERIES: usize = 12;

fn matcher(value: &str) -> Matcher {
    Matcher::new("i", MatchOp::Regex, value).expect("compiles")
}

fn drop_of(value: &str) -> Edit {
    Edit::Drop(vec![vec![matcher(value)]])
}

/// Gives all series whose `i` matches the label `i="to"`.
fn rename(from: &str, to: &str) -> Edit {
    let text = RuleText {
        source_labels: vec!["i".into()],
        regex: Some(from.into()),
        target_label: "i".into(),
        replacement: Some(to.into()),
        ..RuleText::default()
    };
    Edit::Relabel(vec![Rule::new(Action::Replace, text).expect("is right")])
}

impl World {
    async fn edit(&self, ids: &[BlockId], edit: &Edit) -> crate::Result<Vec<Rewritten>> {
        rewrite(&self.store, &self.tenant, ids, edit, false, &|_| {}).await
    }

    async fn resolutions(&self, max_resolution_ms: i64) -> Vec<i64> {
        let sets = self.select(TimeRange::ALL, max_resolution_ms, Aggregate::Last).await.sets;
        sets.iter().map(|set| set.resolution_ms()).collect()
    }

    /// All that is answered from buckets is right, as far as raw samples tell.
    async fn check(&self) {
        let raw = self.read(0, Aggregate::Last).await;
        for resolution_ms in [300_000, HOUR_MS] {
            compare(&raw, &self.read(resolution_ms, Aggregate::Average).await, &self.read(resolution_ms, Aggregate::Counter).await);
        }
    }

    async fn verify(&self) {
        for block in &self.catalog.blocks().blocks {
            let report = self.store.verify(&self.tenant, block).await.expect("reads");
            assert_eq!(report.problems, Vec::<String>::new());
        }
    }

    async fn retire(&self, ids: &[BlockId]) {
        self.change(Change { remove: ids.to_vec(), ..Change::default() }).await;
    }

    fn rollups(&self) -> Vec<BlockId> {
        self.catalog.blocks().blocks.iter().filter(|b| b.resolution_ms > 0).map(|b| b.ulid).collect()
    }
}

#[tokio::test]
async fn what_is_dropped_from_raw_blocks_is_gone_from_buckets_at_once() {
    let world = World::new().await;
    let raw = world.raw(0..SPAN_MS, 3, 100, (0..SERIES).map(|i| labels(i, None))).await;
    world.raw(SPAN_MS..2 * SPAN_MS, 3, 200, (0..SERIES).map(|i| labels(i, None))).await;
    world.settle().await;
    // Most of the block: what is left is far less than what the buckets were made of.
    let done = world.edit(&[raw.ulid], &drop_of("0(0[1-9]|10)")).await.expect("rewrites");
    assert_eq!(done.iter().map(|r| (r.resolution_ms, r.dropped)).collect::<Vec<_>>(), [(0, 10), (300_000, 10), (HOUR_MS, 10)]);
    world.verify().await;
    let first_span = |read: BTreeMap<String, BTreeMap<i64, (f64, u32)>>| {
        read.into_iter().filter(|(_, samples)| samples.range(..SPAN_MS).next().is_some()).map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(first_span(world.read(HOUR_MS, Aggregate::Average).await), ["000", "011"]);
    assert_eq!(world.resolutions(HOUR_MS).await, [0, HOUR_MS], "raw samples answer until the buckets are made anew");
    world.check().await;
    let made = world.settle().await;
    assert_eq!(made.iter().map(|b| (b.resolution_ms, b.series)).collect::<Vec<_>>(), [(300_000, 2), (HOUR_MS, 2)]);
    assert_eq!(world.resolutions(HOUR_MS).await, [HOUR_MS, HOUR_MS]);
    assert_eq!(first_span(world.read(HOUR_MS, Aggregate::Average).await), ["000", "011"]);
    world.check().await;
    assert_eq!(world.catalog.blocks().blocks.len(), 6);
}

#[tokio::test]
async fn buckets_that_cannot_be_made_anew_are_right_when_the_raw_samples_go() {
    let world = World::new().await;
    let halves = [0..6, 6..SERIES].map(|part| part.map(|i| labels(i, None)).collect::<Vec<_>>());
    let [first, second] = halves;
    let first = world.raw(0..SPAN_MS, 3, 100, first.into_iter()).await;
    let second = world.raw(0..SPAN_MS, 3, 100, second.into_iter()).await;
    world.settle().await;
    let expected = world.read(HOUR_MS, Aggregate::Average).await;
    let rewritten = world.edit(&[first.ulid], &drop_of("003")).await.expect("rewrites").remove(0).blocks;
    world.retire(&[second.ulid]).await;
    // The raw samples of half of the series are gone: the buckets are all there is.
    assert!(world.due().is_empty());
    world.retire(&rewritten).await;
    let left = world.read(HOUR_MS, Aggregate::Average).await;
    assert_eq!(left.len(), SERIES - 1);
    assert!(left.iter().all(|(name, samples)| name != "003" && total(samples) == total(&expected[name])));
}

#[tokio::test]
async fn buckets_of_which_only_a_part_is_still_there_raw_are_rewritten_with_it() {
    let world = World::new().await;
    let first = world.raw(0..SPAN_MS, 3, 100, (0..6).map(|i| labels(i, None))).await;
    let second = world.raw(0..SPAN_MS, 3, 100, (6..SERIES).map(|i| labels(i, None))).await;
    world.settle().await;
    let expected = world.read(HOUR_MS, Aggregate::Average).await;
    world.retire(&[second.ulid]).await;
    let done = world.edit(&[first.ulid], &drop_of("004|008")).await.expect("rewrites");
    assert_eq!(done.iter().map(|r| r.dropped).collect::<Vec<_>>(), [1, 2, 2]);
    world.verify().await;
    // What is left of the raw blocks is no news to the buckets.
    assert_eq!(world.resolutions(0).await, [300_000]);
    let left = world.read(HOUR_MS, Aggregate::Average).await;
    assert_eq!(left.len(), SERIES - 2);
    assert!(left.iter().all(|(name, samples)| total(samples) == total(&expected[name])));
}

#[tokio::test]
async fn buckets_without_raw_blocks_are_rewritten_themselves() {
    let world = World::new().await;
    let raw = world.raw(0..SPAN_MS, 3, 100, (0..SERIES).map(|i| labels(i, None))).await;
    world.settle().await;
    let refused = world.edit(&world.rollups()[..1], &drop_of("003")).await.expect_err("it would be made anew").to_string();
    assert!(refused.contains(&raw.ulid.to_string()), "{refused}");
    world.retire(&[raw.ulid]).await;
    let before = [world.read(0, Aggregate::Average).await, world.read(HOUR_MS, Aggregate::Counter).await];
    let ids = world.rollups();
    let dry = rewrite(&world.store, &world.tenant, &ids, &drop_of("003"), true, &|_| {}).await.expect("looks");
    assert!(dry.iter().all(|r| r.dropped == 1 && r.blocks.is_empty()) && world.rollups() == ids);
    world.edit(&ids, &drop_of("003")).await.expect("rewrites");
    world.verify().await;
    // Two series become one: they were scraped together, so that the later one counts.
    let joined = world.edit(&world.rollups(), &rename("00[45]", "new")).await.expect("rewrites");
    assert!(joined.iter().all(|r| (r.relabelled, r.joined) == (2, 1)));
    world.verify().await;
    for (before, (resolution_ms, aggregate)) in before.iter().zip([(0, Aggregate::Average), (HOUR_MS, Aggregate::Counter)]) {
        let after = world.read(resolution_ms, aggregate).await;
        assert_eq!(after.len(), SERIES - 2);
        for (name, samples) in after {
            assert_eq!(samples, before[if name == "new" { "005" } else { &name }], "{name}");
        }
    }
    assert!(world.due().is_empty());
}

#[tokio::test]
async fn series_that_follow_one_another_become_one() {
    let world = World::new().await;
    // One target, first under one name, then under another, in the middle of a bucket.
    let change_ms = 20 * HOUR_MS + 25 * 60_000;
    let first = world.raw(0..change_ms, 3, 100, std::iter::once(labels(1, None))).await;
    let mut writer = isobar_block::BlockWriter::new(WriterConfig { level: 3, ..WriterConfig::new(100) });
    let value = |t: i64| (t / 1000) as f64;
    let samples: Vec<(i64, f64)> = (change_ms..SPAN_MS).step_by(15_000).map(|t| (t, value(t))).collect();
    writer.push_series(&labels(2, None), None, &floats(&samples), &[]).expect("fits");
    let second = writer.finish(&**world.store.objects(), &world.tenant).await.expect("is written");
    world.change(Change { add: vec![second.clone()], ..Change::default() }).await;
    world.settle().await;
    let metas = world.catalog.blocks().blocks.iter().filter(|b| b.resolution_ms == 0).cloned().collect();
    let sets = sets(&world.catalog.blocks(), metas);
    assert!(sets.len() == 1 && [first, second].iter().all(|b| sets[0].contains(&b.ulid)), "they have buckets in common: {sets:?}");
    world.edit(&sets[0], &rename("00[12]", "new")).await.expect("rewrites");
    world.check().await;
    let raw = world.read(0, Aggregate::Last).await;
    let left: Vec<BlockId> = world.catalog.blocks().blocks.iter().filter(|b| b.resolution_ms == 0).map(|b| b.ulid).collect();
    world.retire(&left).await;
    assert_eq!(world.resolutions(HOUR_MS).await, [HOUR_MS]);
    let (average, counter) = (world.read(0, Aggregate::Average).await, world.read(0, Aggregate::Counter).await);
    compare(&raw, &average, &counter);
    compare(&raw, &world.read(HOUR_MS, Aggregate::Average).await, &world.read(HOUR_MS, Aggregate::Counter).await);
}

#[tokio::test]
async fn deleted_samples_do_not_come_back_under_other_labels() {
    let world = World::new().await;
    let raw = world.raw(0..SPAN_MS, 3, 100, (0..3).map(|i| labels(i, None))).await;
    world.settle().await;
    let tombstone = Tombstone {
        id: BlockId::new(1),
        selectors: vec![vec![TombstoneMatcher::from(&matcher("001"))]],
        min_time_ms: 10 * HOUR_MS,
        max_time_ms: 20 * HOUR_MS - 1,
        created_ms: 1_000,
    };
    world.change(Change { mask: vec![tombstone], ..Change::default() }).await;
    let expected = world.read(0, Aggregate::Last).await;
    assert_eq!(expected["001"].range(10 * HOUR_MS..20 * HOUR_MS).count(), 0);
    let done = world.edit(&[raw.ulid], &rename("001", "new")).await.expect("rewrites");
    assert_eq!(world.read(0, Aggregate::Last).await["new"], expected["001"]);
    world.check().await;
    world.retire(&done[0].blocks).await;
    let hours = world.read(HOUR_MS, Aggregate::Last).await;
    assert_eq!((hours["new"].len(), hours["new"].range(10 * HOUR_MS..20 * HOUR_MS).count()), (38, 0));
}
