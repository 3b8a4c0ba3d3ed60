//! Plans against a model in which blocks are sets of times.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use isobar_block::Quarantined;
use proptest::prelude::*;

use super::compact::{INPUT_BYTES, MAX_INPUTS};
use super::*;

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
/// Long after everything in these tests.
const LATER_MS: i64 = 400 * DAY_MS;

#[derive(Clone, Debug)]
struct ModelBlock {
    id: BlockId,
    times: BTreeSet<i64>,
    level: u32,
    precedence_ms: i64,
}

struct Model {
    blocks: Vec<ModelBlock>,
    next: u128,
    quarantined: Vec<BlockId>,
    memory_bytes: u64,
}

impl Default for Model {
    fn default() -> Self {
        Self { blocks: Vec::new(), next: 0, quarantined: Vec::new(), memory_bytes: MAX_INPUTS as u64 * INPUT_BYTES }
    }
}

impl Model {
    fn add(&mut self, times: impl IntoIterator<Item = i64>, level: u32, precedence_ms: i64) -> BlockId {
        self.next += 1;
        let id = BlockId::from_parts(precedence_ms, self.next);
        self.blocks.push(ModelBlock { id, times: times.into_iter().collect(), level, precedence_ms });
        id
    }

    fn state(&self) -> CatalogState {
        let mut blocks: Vec<_> = self.blocks.iter().map(|b| Arc::new(meta(b))).collect();
        blocks.sort_by_key(|b| b.precedence());
        let quarantined = self.quarantined.iter().map(|ulid| Quarantined { ulid: *ulid, since_ms: 0, reason: String::new() });
        CatalogState { blocks, quarantined: quarantined.collect(), ..CatalogState::default() }
    }

    fn plan(&self, now_ms: i64, settle: bool) -> Vec<Compaction> {
        let config = CompactorConfig { downsampling: false, memory_bytes: self.memory_bytes, ..CompactorConfig::default() };
        let jobs = plan(&self.state(), &TenantRules::default(), &config, now_ms, settle);
        let mut seen = HashSet::new();
        let mut out = Vec::new();
        for job in jobs {
            assert!(job.blocks().iter().all(|b| seen.insert(*b)), "a block is in two jobs");
            assert!(job.size_bytes > 0 && !job.reason.is_empty() && !job.to_string().is_empty());
            match job.kind {
                JobKind::Compact(compaction) => out.push(compaction),
                other => panic!("{other:?} is not expected"),
            }
        }
        out
    }

    /// As the rewriter does it.
    fn apply(&mut self, job: &Compaction) {
        let levels_ms = CompactorConfig::default().levels.iter().map(|l| l.as_millis() as i64).collect::<Vec<_>>();
        let inputs: Vec<ModelBlock> =
            job.inputs.iter().map(|id| self.blocks.iter().find(|b| b.id == *id).expect("is there").clone()).collect();
        self.blocks.retain(|b| !job.inputs.contains(&b.id));
        let precedence_ms = inputs.iter().map(|b| b.precedence_ms).max().expect("there are inputs");
        let all: BTreeSet<i64> = inputs.iter().flat_map(|b| b.times.iter().copied()).filter(|t| job.span.contains(*t)).collect();
        if !all.is_empty() {
            self.add(all, job.level, precedence_ms);
        }
        for input in inputs {
            let mut pieces: BTreeMap<Span, BTreeSet<i64>> = BTreeMap::new();
            for t in input.times.into_iter().filter(|t| !job.span.contains(*t)) {
                let piece = levels_ms.iter().rev().map(|l| Span::aligned(t, *l)).find(|s| !s.overlaps(job.span)).expect("levels fit");
                pieces.entry(piece).or_default().insert(t);
            }
            for times in pieces.into_values() {
                self.add(times, input.level, input.precedence_ms);
            }
        }
    }

    fn run_to_end(&mut self) -> usize {
        let mut jobs = 0;
        for _ in 0..1000 {
            let plan = self.plan(LATER_MS, false);
            if plan.is_empty() {
                return jobs;
            }
            jobs += plan.len();
            plan.iter().for_each(|job| self.apply(job));
        }
        panic!("plans do not end: {:?}", self.plan(LATER_MS, false));
    }
}

fn meta(block: &ModelBlock) -> BlockMeta {
    let meta = serde_json::json!({
        "ulid": block.id, "format": 1, "min_time_ms": block.times.first(), "max_time_ms": block.times.last(), "window_ms": 2 * HOUR_MS,
        "resolution_ms": 0, "level": block.level, "series": 1, "samples": block.times.len(), "histograms": 0, "exemplars": 0,
        "size_bytes": 1000 * block.times.len(), "created_ms": block.precedence_ms, "precedence_ms": block.precedence_ms, "files": [],
    });
    serde_json::from_value(meta).expect("is a meta")
}

fn every_minute(from_ms: i64, to_ms: i64) -> impl Iterator<Item = i64> {
    (from_ms..to_ms).step_by(60_000)
}

#[test]
fn spans_are_aligned_also_at_the_ends_of_time() {
    for t in [i64::MIN, i64::MIN + 1, -1, 0, 1, HOUR_MS, i64::MAX - 1, i64::MAX] {
        let span = Span::aligned(t, 2 * HOUR_MS);
        assert!(span.contains(t), "{t}: {span:?}");
        assert!(span.start_ms <= span.end_ms);
    }
    assert_eq!(Span::aligned(-1, 10), Span { start_ms: -10, end_ms: -1 });
    assert_eq!(Span::aligned(10, 10), Span { start_ms: 10, end_ms: 19 });
    assert_eq!(Span::aligned(0, 2 * HOUR_MS).to_string(), "1970-01-01T00:00Z to 1970-01-01T02:00Z");
}

#[test]
fn a_span_is_compacted_when_it_has_settled() {
    let mut model = Model::default();
    let blocks = [0, 1].map(|n| model.add(every_minute(n * HOUR_MS, (n + 1) * HOUR_MS), 0, (n + 1) * HOUR_MS));
    let settled_ms = 2 * HOUR_MS + Duration::from_secs(30 * 60).as_millis() as i64;
    assert_eq!(model.plan(settled_ms - 1, true), []);
    let expected = Compaction { span: Span::aligned(0, 2 * HOUR_MS), level: 1, inputs: blocks.to_vec(), partial: false };
    let only = std::slice::from_ref(&expected);
    assert_eq!(model.plan(settled_ms, true), only);
    assert_eq!(model.plan(2 * HOUR_MS, false), only);
    assert_eq!(model.plan(2 * HOUR_MS - 1, false), []);
    model.apply(&expected);
    assert_eq!(model.plan(settled_ms, true), []);
}

#[test]
fn a_backlog_is_written_once() {
    let mut model = Model::default();
    for n in 0..100 {
        model.add(every_minute(n * HOUR_MS, (n + 1) * HOUR_MS), 0, n * HOUR_MS);
    }
    let plan = model.plan(LATER_MS, true);
    assert_eq!(plan.iter().map(|c| (c.level, c.inputs.len())).collect::<Vec<_>>(), [(4, 100)]);
}

#[test]
fn too_many_blocks_go_through_lower_levels() {
    let mut model = Model::default();
    let blocks = 14 * 24 * 2;
    for n in 0..blocks {
        model.add(every_minute(n * HOUR_MS / 2, (n + 1) * HOUR_MS / 2), 0, n * HOUR_MS / 2);
    }
    assert!(blocks as usize > MAX_INPUTS);
    let plan = model.plan(LATER_MS, true);
    assert_eq!(plan.iter().map(|c| (c.level, c.inputs.len())).collect::<Vec<_>>(), [(3, 96); 7]);
    plan.iter().for_each(|c| model.apply(c));
    let plan = model.plan(LATER_MS, true);
    assert_eq!(plan.iter().map(|c| (c.level, c.inputs.len())).collect::<Vec<_>>(), [(4, 7)]);
}

#[test]
fn little_memory_takes_fewer_blocks_at_once() {
    let mut model = Model { memory_bytes: 256 << 20, ..Model::default() };
    for n in 0..48 {
        model.add(every_minute(n * HOUR_MS / 2, (n + 1) * HOUR_MS / 2), 0, n * HOUR_MS / 2);
    }
    let plan = model.plan(LATER_MS, true);
    assert_eq!(plan.iter().map(|c| (c.level, c.inputs.len())).collect::<Vec<_>>(), [(2, 16); 3]);
    plan.iter().for_each(|c| model.apply(c));
    let plan = model.plan(LATER_MS, true);
    assert_eq!(plan.iter().map(|c| (c.level, c.inputs.len())).collect::<Vec<_>>(), [(4, 3)]);
}

#[test]
fn very_many_blocks_of_one_span_are_merged_in_runs() {
    let mut model = Model::default();
    for n in 0..3 * MAX_INPUTS as i64 {
        model.add([n], 0, DAY_MS + n);
    }
    let plan = model.plan(LATER_MS, true);
    assert_eq!(plan.iter().map(|c| (c.level, c.inputs.len(), c.partial)).collect::<Vec<_>>(), [(0, MAX_INPUTS, true)]);
    model.run_to_end();
    assert_eq!(model.blocks.len(), 1);
}

#[test]
fn big_blocks_are_merged_at_once_however_many() {
    let mut model = Model::default();
    let size = 200_000;
    for n in 0..MAX_INPUTS as i64 + 20 {
        model.add((0..size).map(|i| i * 30 + n % 30), 0, DAY_MS + n);
    }
    // 148 blocks of 200 MB in one span of 2 h.
    let plan = model.plan(LATER_MS, true);
    assert_eq!(plan.iter().map(|c| (c.inputs.len(), c.partial)).collect::<Vec<_>>(), [(MAX_INPUTS + 20, false)]);
}

#[test]
fn late_blocks_wait_until_they_are_many_or_old() {
    let now_ms = 20 * DAY_MS;
    let mut model = Model::default();
    let base = model.add(every_minute(0, 14 * DAY_MS), 4, 15 * DAY_MS);
    assert_eq!(model.plan(now_ms, true), []);
    let late = model.add(every_minute(DAY_MS, DAY_MS + 10 * HOUR_MS), 0, now_ms - HOUR_MS);
    assert_eq!(model.plan(now_ms, true), []);
    assert_eq!(model.plan(now_ms, false).len(), 1);
    let old = model.plan(now_ms + DAY_MS, true);
    assert_eq!(old.iter().map(|c| (c.level, c.inputs.clone())).collect::<Vec<_>>(), [(4, vec![base, late])]);
    model.add(every_minute(DAY_MS, 2 * DAY_MS), 0, now_ms - HOUR_MS);
    assert_eq!(model.plan(now_ms, true).iter().map(|c| (c.level, c.inputs.len())).collect::<Vec<_>>(), [(4, 3)]);
}

#[test]
fn outputs_of_one_compaction_are_one_group_and_those_of_two_are_not() {
    let mut model = Model::default();
    model.add(every_minute(0, 14 * DAY_MS), 4, 20 * DAY_MS);
    model.add(every_minute(0, 14 * DAY_MS), 4, 20 * DAY_MS);
    assert_eq!(model.plan(LATER_MS, false), []);
    model.add(every_minute(0, DAY_MS), 4, 21 * DAY_MS);
    assert_eq!(model.plan(LATER_MS, false).len(), 1);
    model.run_to_end();
    assert_eq!(model.blocks.len(), 1);
}

#[test]
fn a_straddling_block_keeps_its_neighbours_from_being_compacted_at_a_lower_level() {
    let mut model = Model::default();
    model.add(every_minute(0, 13 * DAY_MS), 0, 1);
    model.add(every_minute(13 * DAY_MS, 15 * DAY_MS), 0, 2);
    model.add(every_minute(15 * DAY_MS, 27 * DAY_MS), 0, 3);
    let plan = model.plan(LATER_MS, true);
    assert_eq!(plan.iter().map(|c| (c.level, c.inputs.len())).collect::<Vec<_>>(), [(4, 2)]);
    model.apply(&plan[0]);
    let plan = model.plan(LATER_MS, true);
    assert_eq!(plan.iter().map(|c| (c.level, c.inputs.len())).collect::<Vec<_>>(), [(4, 2)]);
    assert_eq!(model.run_to_end(), 1);
}

#[test]
fn blocks_in_quarantine_are_left_alone() {
    let mut model = Model::default();
    let blocks = [0, 1, 2].map(|n| model.add(every_minute(n, HOUR_MS), 0, n));
    model.quarantined = vec![blocks[1]];
    let plan = model.plan(LATER_MS, true);
    assert_eq!(plan.iter().map(|c| c.inputs.clone()).collect::<Vec<_>>(), [vec![blocks[0], blocks[2]]]);
}

#[test]
fn blocks_of_other_levels_than_the_configuration_has_fit_in() {
    let mut model = Model::default();
    // A week as one block of level 3, and a block of a level that does not exist any more.
    model.add(every_minute(10 * DAY_MS, 17 * DAY_MS), 3, 1);
    model.add(every_minute(0, 14 * DAY_MS), 7, 2);
    model.run_to_end();
    assert_eq!(model.blocks.iter().map(|b| b.level).collect::<Vec<_>>(), [4, 4]);
}

/// A block that begins somewhere in 40 days and is short, or not, or has far outliers.
fn any_block() -> impl Strategy<Value = (Vec<i64>, u32, i64)> {
    let start = 0..40 * 24 * 60i64;
    let len = prop_oneof![4 => 1..180i64, 1 => 1..5_000i64];
    let outliers = prop::collection::vec(0..40 * 24 * 60i64, 0..3);
    let level = prop_oneof![6 => Just(0u32), 1 => 0..6u32];
    (start, len, outliers, level, 0..100i64, 0..4).prop_map(|(start, len, outliers, level, precedence, with_outliers)| {
        let mut minutes: Vec<i64> = (start..start + len).step_by(7).collect();
        if with_outliers == 0 {
            minutes.extend(outliers);
        }
        (minutes.into_iter().map(|m| m * 60_000).collect(), level, precedence)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn plans_end_with_one_group_for_each_span(blocks in prop::collection::vec(any_block(), 1..60)) {
        let mut model = Model::default();
        let mut all = BTreeSet::new();
        for (times, level, precedence) in blocks {
            all.extend(times.iter().copied());
            model.add(times, level, precedence);
        }
        model.run_to_end();
        let top_ms = 14 * DAY_MS;
        let mut groups: BTreeMap<Span, BTreeSet<i64>> = BTreeMap::new();
        for block in &model.blocks {
            let (first, last) = (*block.times.first().expect("no block is empty"), *block.times.last().expect("no block is empty"));
            let span = Span::aligned(first, top_ms);
            prop_assert!(span.contains(last), "a block straddles");
            prop_assert!(block.level >= 4, "level {}", block.level);
            groups.entry(span).or_default().insert(block.precedence_ms);
        }
        prop_assert!(groups.values().all(|g| g.len() == 1), "{groups:?}");
        let left: BTreeSet<i64> = model.blocks.iter().flat_map(|b| b.times.iter().copied()).collect();
        prop_assert_eq!(left, all);
    }

    #[test]
    fn plans_in_the_course_of_time_end_too(blocks in prop::collection::vec(any_block(), 1..40)) {
        let mut model = Model::default();
        for (day, (times, level, precedence)) in (0..).zip(blocks) {
            model.add(times, level, precedence + day * DAY_MS);
            // A day has so many rounds at most.
            let mut rounds = 0;
            loop {
                let plan = model.plan((day + 2) * DAY_MS, true);
                if plan.is_empty() {
                    break;
                }
                plan.iter().for_each(|job| model.apply(job));
                rounds += 1;
                prop_assert!(rounds < 100);
            }
        }
    }
}
