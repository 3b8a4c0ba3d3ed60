//! Who answers which instant: against rules that are checked instant by instant, on random lists of blocks.

use proptest::prelude::*;

use super::*;
use crate::{Labels, LabelsRef, Result, SampleBuf, SeriesRun, SeriesSet, Timestamps};

const HOUR_MS: i64 = 3_600_000;
const SPAN_MS: i64 = 48 * HOUR_MS;

fn block(n: u64, resolution_ms: i64, (min_time_ms, max_time_ms): (i64, i64), precedence_ms: i64, samples: u64) -> Arc<BlockMeta> {
    Arc::new(BlockMeta {
        ulid: BlockId::from_parts(precedence_ms, u128::from(n)),
        format: 1,
        min_time_ms,
        max_time_ms,
        window_ms: if resolution_ms > 0 { SPAN_MS } else { 2 * HOUR_MS },
        resolution_ms,
        level: 3,
        series: 10,
        samples,
        histograms: 0,
        exemplars: 0,
        size_bytes: 1,
        created_ms: precedence_ms,
        precedence_ms,
        sources: Vec::new(),
        writers: Vec::new(),
        deletions_ms: 0,
        raw_samples: if resolution_ms > 0 { 1000 } else { 0 },
        files: Vec::new(),
    })
}

/// A span that is there raw and downsampled.
fn span_blocks(span: i64, precedence_ms: i64) -> Vec<Arc<BlockMeta>> {
    let bounds = (span * SPAN_MS + 7, (span + 1) * SPAN_MS - 8);
    let n = span as u64 * 10;
    vec![
        block(n, 0, bounds, precedence_ms, 1000),
        block(n + 1, 300_000, bounds, precedence_ms, 500),
        block(n + 2, HOUR_MS, bounds, precedence_ms, 50),
    ]
}

fn in_order(mut blocks: Vec<Arc<BlockMeta>>) -> Vec<Arc<BlockMeta>> {
    blocks.sort_by_key(|b| b.precedence());
    blocks
}

fn range(start_ms: i64, end_ms: i64) -> TimeRange {
    TimeRange::new(start_ms, end_ms).expect("ordered")
}

/// Resolution and clips of the parts of a plan.
fn told(plan: &Plan) -> Vec<(i64, Option<Vec<TimeRange>>)> {
    plan.parts.iter().map(|p| (p.block.resolution_ms, p.clip.clone())).collect()
}

fn all(blocks: &[Arc<BlockMeta>], max_resolution_ms: i64) -> Plan {
    plan(blocks, |_| true, TimeRange::ALL, max_resolution_ms)
}

#[test]
fn the_coarsest_resolution_that_is_fine_enough_answers() {
    let blocks = span_blocks(3, 100);
    for (max_resolution_ms, expected) in [(0, 0), (299_999, 0), (300_000, 300_000), (HOUR_MS - 1, 300_000), (i64::MAX, HOUR_MS)] {
        assert_eq!(told(&all(&blocks, max_resolution_ms)), [(expected, None)], "{max_resolution_ms}");
    }
    // Without raw samples the finest that is left; without buckets so coarse the next finer ones.
    assert_eq!(told(&all(&blocks[1..], 0)), [(300_000, None)]);
    assert_eq!(told(&all(&blocks[2..], 0)), [(HOUR_MS, None)]);
    assert_eq!(told(&all(&blocks[..2], HOUR_MS)), [(300_000, None)]);
    assert!(all(&[], 0).parts.is_empty());
}

#[test]
fn newer_data_is_raw_and_late_samples_make_a_hole() {
    let mut blocks = span_blocks(0, 100);
    blocks.push(block(90, 0, (SPAN_MS - HOUR_MS, SPAN_MS + HOUR_MS), 200, 40));
    blocks.push(block(91, 0, (10 * HOUR_MS + 5, 10 * HOUR_MS + 6), 300, 2));
    let blocks = in_order(blocks);
    let found = all(&blocks, HOUR_MS);
    let hole = range(10 * HOUR_MS, 10 * HOUR_MS + 299_999);
    let after = range(SPAN_MS - HOUR_MS, i64::MAX);
    let raw = vec![range(i64::MIN, -1), hole, after];
    let five = vec![range(10 * HOUR_MS + 300_000, 11 * HOUR_MS - 1)];
    let hour = vec![range(0, 10 * HOUR_MS - 1), range(11 * HOUR_MS, SPAN_MS - HOUR_MS - 1)];
    assert_eq!(told(&found), [(0, Some(raw)), (300_000, Some(five)), (HOUR_MS, Some(hour)), (0, None), (0, None)]);
    // A query that does not touch the hole does not read it.
    let narrow = plan(&blocks, |_| true, range(0, HOUR_MS), HOUR_MS);
    assert_eq!(narrow.parts.iter().map(|p| p.block.resolution_ms).collect::<Vec<_>>(), [HOUR_MS]);
}

#[test]
fn late_samples_are_read_on_top_where_the_raw_ones_are_gone() {
    let mut blocks = span_blocks(0, 100).split_off(1);
    blocks.push(block(91, 0, (10 * HOUR_MS + 5, 10 * HOUR_MS + 6), 300, 2));
    assert_eq!(told(&all(&blocks, 0)), [(300_000, None), (0, None)]);
    assert_eq!(told(&all(&blocks, HOUR_MS)), [(HOUR_MS, None), (0, None)]);
}

#[test]
fn damaged_blocks_are_named_only_if_they_are_needed() {
    let blocks = span_blocks(0, 100);
    let without = |damaged: usize, max_resolution_ms| {
        let plan = plan(&blocks, |id| id != blocks[damaged].ulid, TimeRange::ALL, max_resolution_ms);
        (told(&plan).iter().map(|(r, _)| *r).collect::<Vec<_>>(), plan.missing.len())
    };
    assert_eq!(without(0, HOUR_MS), (vec![HOUR_MS], 0));
    assert_eq!(without(0, 0), (vec![300_000], 0), "what was made of it is intact");
    assert_eq!(without(2, HOUR_MS), (vec![300_000], 0));
    let halves = vec![block(1, HOUR_MS, (0, 5), 100, 500), block(2, HOUR_MS, (0, 5), 100, 500)];
    let left = plan(&halves, |id| id != halves[0].ulid, TimeRange::ALL, HOUR_MS);
    assert_eq!((left.parts.len(), left.missing.len()), (1, 1));
    assert_eq!(left.missing[0].ulid, halves[0].ulid);
}

#[test]
fn deletions_take_whole_buckets() {
    let tombstone =
        Tombstone { id: BlockId::from_parts(1, 1), selectors: Vec::new(), min_time_ms: -1, max_time_ms: 300_000, created_ms: 9 };
    let wide = widened(&[Arc::new(tombstone.clone())], 300_000);
    assert_eq!((wide[0].min_time_ms, wide[0].max_time_ms), (-300_000, 599_999));
    let all = Tombstone { min_time_ms: i64::MIN, max_time_ms: i64::MAX, ..tombstone };
    let wide = widened(&[Arc::new(all)], 300_000);
    assert_eq!(wide[0].max_time_ms, i64::MAX);
    assert!(wide[0].min_time_ms < -(1 << 62));
}

/// Blocks as they may be in a catalog: compacted or not, downsampled or not, split, late, damaged.
fn random_blocks() -> impl Strategy<Value = Vec<(Arc<BlockMeta>, bool)>> {
    let span = (0..4i64, 1..4u64, any::<[bool; 4]>(), 1..1000i64);
    let late = (0..4 * SPAN_MS, 0..6 * HOUR_MS, 1..2000i64, 1..400u64, prop::bool::weighted(0.9));
    (prop::collection::vec(span, 0..5), prop::collection::vec(late, 0..5)).prop_map(|(spans, late)| {
        let mut out = Vec::new();
        for (number, (span, pieces, [raw, five, hour, intact], precedence_ms)) in spans.into_iter().enumerate() {
            let bounds = (span * SPAN_MS + 1000, (span + 1) * SPAN_MS - 1001);
            for (resolution_ms, exists) in [(0, raw), (300_000, five), (HOUR_MS, hour)] {
                for piece in 0..pieces {
                    let n = number as u64 * 100 + piece * 10 + resolution_ms as u64 / 300_000;
                    if exists {
                        out.push((block(n, resolution_ms, bounds, precedence_ms, 1000), intact || piece > 0));
                    }
                }
            }
        }
        for (number, (start_ms, len_ms, precedence_ms, samples, intact)) in late.into_iter().enumerate() {
            out.push((block(10_000 + number as u64, 0, (start_ms, start_ms + len_ms), precedence_ms, samples), intact));
        }
        out.sort_by_key(|(b, _)| b.precedence());
        out
    })
}

fn counts_at(part: &Part, t: i64) -> bool {
    part.clip.as_ref().is_none_or(|clip| clip.iter().any(|c| c.contains(t)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_instant_is_answered_once(
        blocks in random_blocks(),
        max_resolution_ms in prop::sample::select(vec![0, 300_000, HOUR_MS]),
        instants in prop::collection::vec(0..4 * SPAN_MS, 20),
    ) {
        let metas: Vec<Arc<BlockMeta>> = blocks.iter().map(|(b, _)| b.clone()).collect();
        let readable = |id: BlockId| blocks.iter().any(|(b, intact)| b.ulid == id && *intact);
        let plan = plan(&metas, readable, TimeRange::ALL, max_resolution_ms);
        let borders: Vec<i64> = metas.iter().flat_map(|b| [b.min_time_ms, b.max_time_ms, b.max_time_ms + 1]).collect();
        for t in instants.into_iter().chain(borders) {
            let at: Vec<&BlockMeta> = plan.parts.iter().filter(|p| counts_at(p, t)).map(|p| &*p.block).collect();
            let in_span = |b: &BlockMeta| span_of(b).is_some_and(|s| s.contains(t));
            let group = at.iter().find(|b| in_span(b));
            let raw_at = |b: &&Arc<BlockMeta>| b.resolution_ms == 0 && b.min_time_ms <= t && t <= b.max_time_ms && readable(b.ulid);
            let Some(group) = group else {
                // Nothing that is downsampled answers: then every raw sample is read.
                for raw in metas.iter().filter(raw_at) {
                    prop_assert!(at.iter().any(|b| b.ulid == raw.ulid), "raw block {} is not read at {t}", raw.ulid);
                }
                continue;
            };
            let is_member = |b: &BlockMeta| {
                (b.resolution_ms, b.precedence_ms) == (group.resolution_ms, group.precedence_ms) && span_of(b) == span_of(group)
            };
            for b in at.iter().filter(|b| b.resolution_ms > 0 && in_span(b)) {
                prop_assert!(is_member(b), "{} and {} both answer at {t}", b.ulid, group.ulid);
            }
            for b in metas.iter().filter(|b| is_member(b)) {
                let is_known = at.iter().any(|a| a.ulid == b.ulid) || plan.missing.iter().any(|m| m.ulid == b.ulid);
                prop_assert!(is_known, "{} is left out at {t}", b.ulid);
            }
            let span = span_of(group).expect("it is downsampled");
            let members: Vec<&Arc<BlockMeta>> = metas.iter().filter(|b| is_member(b)).collect();
            let base = has_base(&members, metas.iter().filter(|b| b.resolution_ms == 0 && b.overlaps(span) && readable(b.ulid)));
            for raw in metas.iter().filter(raw_at) {
                let is_read = at.iter().any(|b| b.ulid == raw.ulid);
                prop_assert_eq!(is_read, !base && raw.precedence_ms > group.precedence_ms, "raw block {} at {}", raw.ulid, t);
            }
            // One span may have been downsampled twice, from more and from less.
            let rivals = metas.iter().filter(|b| in_span(b)).count();
            if group.resolution_ms > max_resolution_ms && rivals == members.len() {
                prop_assert!(!base, "raw samples were fine enough at {t}");
            }
        }
    }
}

/// One series with a sample at each of some times; two in one.
struct Fixed(Timestamps);

#[async_trait::async_trait]
impl SeriesSet for Fixed {
    fn len(&self) -> usize {
        2
    }

    fn labels(&self, _row: usize) -> LabelsRef<'_> {
        LabelsRef::EMPTY
    }

    async fn load(&self, _rows: std::ops::Range<usize>, _range: TimeRange) -> Result<Box<dyn SeriesRun>> {
        Ok(Box::new(Fixed(self.0.clone())))
    }
}

impl SeriesRun for Fixed {
    fn read(&mut self, _row: usize, out: &mut SampleBuf) -> Result<()> {
        out.clear();
        out.timestamps = self.0.clone();
        out.values = self.0.iter().map(|t| *t as f64).collect();
        out.counts = self.0.iter().map(|t| *t as u32).collect();
        Ok(())
    }
}

#[tokio::test]
async fn clipped_sets_lose_nothing_and_double_nothing_at_borders() {
    let inner: Arc<dyn SeriesSet> = Arc::new(Fixed(Timestamps::shared((0..100).collect())));
    let parts = [vec![range(i64::MIN, 9), range(20, 29), range(98, i64::MAX)], vec![range(10, 19), range(30, 97)]];
    let mut seen = Vec::new();
    for clip in parts {
        let set = clipped(inner.clone(), clip.clone());
        let mut ids = Vec::new();
        for row in 0..2 {
            let mut run = set.load(0..2, TimeRange::ALL).await.expect("loads");
            let mut buf = SampleBuf::default();
            run.read(row, &mut buf).expect("reads");
            assert!(buf.timestamps.iter().zip(&buf.values).zip(&buf.counts).all(|((t, v), c)| *t as f64 == *v && *t as u32 == *c));
            ids.push(buf.timestamps.id());
            if row == 0 {
                seen.extend(buf.timestamps.iter().copied());
            }
        }
        assert!(ids[0] != 0 && ids[0] == ids[1], "cut vectors stay shared");
        let mut outside = set.load(0..1, range(1000, 1001)).await.expect("loads");
        let mut buf = SampleBuf::default();
        outside.read(0, &mut buf).expect("reads");
        assert_eq!(buf.is_empty(), !clip.iter().any(|c| c.contains(1000)));
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
    let whole = clipped(inner.clone(), vec![range(0, 99)]);
    let (mut buf, mut raw) = (SampleBuf::default(), SampleBuf::default());
    whole.load(0..1, TimeRange::ALL).await.expect("loads").read(0, &mut buf).expect("reads");
    inner.load(0..1, TimeRange::ALL).await.expect("loads").read(0, &mut raw).expect("reads");
    assert_eq!(buf.timestamps.id(), raw.timestamps.id(), "what is not cut is not copied");
    assert_eq!(Labels::empty().as_ref(), whole.labels(0));
}

#[test]
fn an_import_is_news_in_spite_of_its_low_precedence() {
    let raw = block(1, 0, (7, SPAN_MS - 8), 100, 1000);
    let bucket = BlockMeta { sources: vec![raw.ulid], ..(*block(2, HOUR_MS, (7, SPAN_MS - 8), 100, 50)).clone() };
    let import = block(3, 0, (5 * HOUR_MS, 6 * HOUR_MS), 1, 10);
    let blocks = in_order(vec![raw.clone(), Arc::new(bucket.clone()), import.clone()]);
    assert!(is_news(&import, [&Arc::new(bucket.clone())].into_iter()));
    assert!(!is_news(&raw, [&Arc::new(bucket.clone())].into_iter()));
    // The buckets in which the import has samples are answered raw, from all raw blocks.
    let planned = all(&blocks, HOUR_MS);
    let hole = range(5 * HOUR_MS, 7 * HOUR_MS - 1);
    let clip = |id: BlockId| planned.parts.iter().find(|p| p.block.ulid == id).expect("is read").clip.clone();
    assert_eq!(clip(import.ulid), None);
    let of_raw = clip(raw.ulid).expect("only a part is read");
    assert_eq!(of_raw.into_iter().filter(|r| r.overlaps(range(0, SPAN_MS - 1))).collect::<Vec<_>>(), [hole]);
    // Compacted together they are news too, until the buckets are made again; what was compacted of known blocks only is not.
    let merged = |sources: Vec<BlockId>| BlockMeta { sources, ..(*block(4, 0, (7, SPAN_MS - 8), 100, 1010)).clone() };
    assert!(is_news(&merged(vec![raw.ulid, import.ulid]), [&Arc::new(bucket.clone())].into_iter()));
    assert!(!is_news(&merged(vec![raw.ulid]), [&Arc::new(bucket.clone())].into_iter()));
    // Where the raw samples are gone, the import is read on top of the buckets.
    let left = in_order(vec![Arc::new(bucket), import.clone()]);
    assert!(all(&left, HOUR_MS).parts.iter().any(|p| p.block.ulid == import.ulid));
}
