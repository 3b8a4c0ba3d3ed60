//! What goes and what stays, and the tombstones of rules over simulated months.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use isobar_block::{MatchOp, Matcher, Quarantined};
use proptest::prelude::*;

use super::*;
use crate::config::SelectedRetention;

const HOUR_MS: i64 = 60 * 60 * 1000;

fn block(n: i64, min_time_ms: i64, max_time_ms: i64) -> BlockMeta {
    BlockMeta {
        ulid: BlockId::from_parts(n, n as u128),
        format: 1,
        min_time_ms,
        max_time_ms,
        window_ms: 2 * HOUR_MS,
        resolution_ms: 0,
        level: 0,
        series: 1,
        samples: 1,
        histograms: 0,
        exemplars: 0,
        size_bytes: 100,
        created_ms: n,
        precedence_ms: n,
        sources: Vec::new(),
        writers: Vec::new(),
        deletions_ms: 0,
        raw_samples: 0,
        files: Vec::new(),
    }
}

fn state(blocks: Vec<BlockMeta>) -> CatalogState {
    CatalogState { blocks: blocks.into_iter().map(Arc::new).collect(), ..CatalogState::default() }
}

fn days(n: u64) -> Option<Duration> {
    Some(Duration::from_secs(n * 86_400))
}

fn ids(found: &[(BlockId, String)]) -> Vec<BlockId> {
    found.iter().map(|(id, _)| *id).collect()
}

#[test]
fn each_resolution_has_its_time() {
    let rollup = |n: i64, resolution_ms: i64| BlockMeta { resolution_ms, ..block(n, 0, DAY_MS) };
    let all = state(vec![block(1, 0, DAY_MS), rollup(2, 300_000), rollup(3, 3_600_000), block(4, DAY_MS, 2 * DAY_MS)]);
    let rules =
        TenantRules { raw_retention: days(10), five_minutes_retention: days(20), one_hour_retention: days(30), ..TenantRules::default() };
    for (day, expected) in [(11, vec![]), (12, vec![1]), (13, vec![1, 4]), (22, vec![1, 2, 4]), (99, vec![1, 2, 3, 4])] {
        let mut found = ids(&expired(&all, &rules, day * DAY_MS - DAY_MS / 2));
        found.sort();
        assert_eq!(found, expected.iter().map(|n| block(*n, 0, 0).ulid).collect::<Vec<_>>(), "day {day}");
    }
    assert!(expired(&all, &rules, 11 * DAY_MS).is_empty(), "the last sample is exactly 10 days old");
    let found = expired(&all, &rules, 11 * DAY_MS + 1);
    assert_eq!(found, [(block(1, 0, 0).ulid, "raw samples are kept for 10 d".to_owned())]);
    assert!(expired(&all, &TenantRules::default(), i64::MAX).is_empty(), "nothing goes by default");
}

#[test]
fn raw_data_waits_for_its_rollup() {
    let covered = block(1, 0, DAY_MS);
    let not_yet = block(2, 3 * DAY_MS, 4 * DAY_MS);
    let rollup = BlockMeta { resolution_ms: 3_600_000, ..block(3, 0, 2 * DAY_MS) };
    let rules = TenantRules { raw_retention: days(3), ..TenantRules::default() };
    let all = state(vec![covered.clone(), not_yet.clone(), rollup.clone()]);
    assert_eq!(ids(&expired(&all, &rules, 10 * DAY_MS)), [covered.ulid]);
    assert_eq!(ids(&expired(&all, &rules, 7 * DAY_MS + MAX_WAIT_FOR_ROLLUP_MS + 1)), [covered.ulid, not_yet.ulid], "but not for good");
    let without = state(vec![covered.clone(), not_yet.clone()]);
    assert_eq!(ids(&expired(&without, &rules, 10 * DAY_MS)), [covered.ulid, not_yet.ulid], "nobody downsamples here");
    let short = TenantRules { five_minutes_retention: days(3), one_hour_retention: days(2), ..rules };
    assert_eq!(ids(&expired(&all, &short, 10 * DAY_MS)), [covered.ulid, rollup.ulid, not_yet.ulid]);
}

#[test]
fn the_oldest_go_if_there_is_too_much() {
    let mut all = state((1..=5).map(|n| block(10 - n, n * DAY_MS, n * DAY_MS + HOUR_MS)).collect());
    let by_size = |max_bytes| TenantRules { max_bytes: Some(max_bytes), ..TenantRules::default() };
    let id = |n: i64| block(10 - n, 0, 0).ulid;
    assert!(expired(&all, &by_size(500), 0).is_empty());
    assert_eq!(ids(&expired(&all, &by_size(499), 0)), [id(1)]);
    assert_eq!(ids(&expired(&all, &by_size(201), 0)), [id(1), id(2), id(3)]);
    assert_eq!(ids(&expired(&all, &by_size(1), 0)), [id(1), id(2), id(3), id(4)], "the newest stays");
    let found = expired(&all, &by_size(1), 0);
    assert!(found.iter().all(|(_, reason)| reason == "the tenant's blocks may have 1 bytes in all"), "{found:?}");
    // What goes by time makes room.
    let both = TenantRules { raw_retention: days(2), max_bytes: Some(300), ..TenantRules::default() };
    assert_eq!(ids(&expired(&all, &both, 4 * DAY_MS + 2 * HOUR_MS)), [id(1), id(2)]);
    all.quarantined.push(Quarantined { ulid: id(1), since_ms: 0, reason: String::new() });
    assert_eq!(ids(&expired(&all, &by_size(499), 0)), [id(1)], "damaged blocks count too");
    assert!(expired(&CatalogState::default(), &by_size(1), 0).is_empty());
}

fn rules(keep_days: &[(&str, u64)]) -> TenantRules {
    let rule = |(value, keep): &(&str, u64)| {
        let matchers = vec![
            Matcher::new("team", MatchOp::Equal, *value).expect("compiles"),
            Matcher::new("__name__", MatchOp::NotEqual, "up").expect("compiles"),
        ];
        SelectedRetention { matchers, keep: Duration::from_secs(keep * 86_400) }
    };
    TenantRules { selected_retention: keep_days.iter().map(rule).collect(), ..TenantRules::default() }
}

/// As the catalog does it; refuses what the catalog refuses.
fn apply(state: &mut CatalogState, change: Change) {
    let Change { add, remove, mask, unmask, .. } = change;
    assert!(mask.iter().all(|m| state.tombstones.iter().all(|t| t.id != m.id)), "a deletion of that id is in force");
    for id in unmask {
        let at = state.tombstones.iter().position(|t| t.id == id).expect("is in force");
        state.tombstones.remove(at);
    }
    state.tombstones.extend(mask.into_iter().map(Arc::new));
    for id in remove {
        let at = state.blocks.iter().position(|b| b.ulid == id).expect("is visible");
        state.blocks.remove(at);
    }
    state.blocks.extend(add.into_iter().map(Arc::new));
}

#[test]
fn a_rule_moves_once_a_day() {
    let mut all = state(vec![block(1, 0, 3 * DAY_MS - 1), block(2, 3 * DAY_MS, 20 * DAY_MS)]);
    let rules = rules(&[("x", 7)]);
    assert!(selected(&all, &rules, 7 * DAY_MS - 1).is_none(), "nothing is old enough");
    let change = selected(&all, &rules, 8 * DAY_MS + HOUR_MS).expect("is due");
    assert!(change.unmask.is_empty());
    let first = change.mask[0].clone();
    assert_eq!((first.min_time_ms, first.max_time_ms, first.created_ms), (0, DAY_MS - 1, 8 * DAY_MS + HOUR_MS));
    assert!(is_of_rule(&first));
    assert!(!is_of_rule(&Tombstone { max_time_ms: 5, ..first.clone() }));
    // Another compactor, a little later and with the matchers in another order, wants the same.
    let mut turned = rules.clone();
    turned.selected_retention[0].matchers.reverse();
    let other = selected(&all, &turned, 8 * DAY_MS + 2 * HOUR_MS).expect("is due");
    assert_eq!(other.mask[0].id, first.id);
    apply(&mut all, change);
    for later_ms in [0, HOUR_MS, 22 * HOUR_MS] {
        assert!(selected(&all, &turned, first.created_ms + later_ms).is_none());
    }
    assert!(selected(&all, &rules, 8 * DAY_MS - 1).is_none(), "a clock that is behind moves nothing back");
    let change = selected(&all, &rules, 9 * DAY_MS).expect("is due");
    assert!(change.unmask.is_empty());
    assert_eq!((change.mask[0].min_time_ms, change.mask[0].max_time_ms), (DAY_MS, 2 * DAY_MS - 1), "it goes on");
    apply(&mut all, change);
    assert!(delete::finished(&all).is_empty(), "the first block needs both");
    let rewritten = BlockMeta { deletions_ms: 9 * DAY_MS, ..block(3, 0, 3 * DAY_MS - 1) };
    apply(&mut all, Change { add: vec![rewritten], remove: vec![block(1, 0, 0).ulid], ..Change::default() });
    assert_eq!(delete::finished(&all), [first.id], "the second is the mark");
    let late = BlockMeta { created_ms: 9 * DAY_MS + 1, precedence_ms: 9 * DAY_MS + 1, ..block(4, HOUR_MS, 2 * HOUR_MS) };
    let change = selected(&all, &rules, 10 * DAY_MS).expect("is due");
    assert_eq!((change.mask[0].min_time_ms, change.mask[0].max_time_ms), (2 * DAY_MS, 3 * DAY_MS - 1));
    apply(&mut all, Change { add: vec![late], ..Change::default() });
    let change = selected(&all, &rules, 10 * DAY_MS).expect("is due");
    assert_eq!((change.mask[0].min_time_ms, change.mask[0].max_time_ms), (HOUR_MS, 3 * DAY_MS - 1), "late data is reached too");
}

#[test]
fn rules_come_go_and_change() {
    let mut all = state(vec![block(1, 0, 30 * DAY_MS)]);
    let now_ms = 40 * DAY_MS;
    let change = selected(&all, &rules(&[("x", 20), ("y", 5), ("x", 15)]), now_ms).expect("is due");
    apply(&mut all, change);
    let ends: Vec<i64> = all.tombstones.iter().map(|t| t.max_time_ms).collect();
    assert_eq!(ends, [25 * DAY_MS - 1, 35 * DAY_MS - 1], "the shorter time counts");
    let by_hand = Tombstone { id: BlockId::from_parts(1, 1), ..(*all.tombstones[0]).clone() };
    apply(&mut all, Change { mask: vec![by_hand.clone()], ..Change::default() });
    // y is dropped, x is kept longer: what was not removed yet comes back.
    let change = selected(&all, &rules(&[("x", 30)]), now_ms).expect("is due");
    assert_eq!(change.unmask.len(), 2);
    apply(&mut all, change);
    let of_rules: Vec<_> = all.tombstones.iter().filter(|t| is_of_rule(t)).collect();
    assert_eq!(of_rules.iter().map(|t| (t.min_time_ms, t.max_time_ms)).collect::<Vec<_>>(), [(0, 10 * DAY_MS - 1)]);
    let change = selected(&all, &TenantRules::default(), now_ms).expect("is due");
    assert!(change.mask.is_empty());
    apply(&mut all, change);
    assert_eq!(all.tombstones, [Arc::new(by_hand)], "what somebody asked for stays");
    assert!(selected(&all, &TenantRules::default(), now_ms).is_none());
}

/// A catalog, and the hours of which the files of each block really hold a sample of the rule's series.
#[derive(Default)]
struct Model {
    catalog: CatalogState,
    hours: BTreeMap<BlockId, BTreeSet<i64>>,
    /// How often a block was rewritten since it was merged.
    rewrites: BTreeMap<BlockId, u32>,
    next_id: i64,
}

impl Model {
    fn add(&mut self, now_ms: i64, min_time_ms: i64, max_time_ms: i64) {
        let ulid = self.next_id(now_ms);
        let new = BlockMeta { ulid, created_ms: now_ms, precedence_ms: now_ms, ..block(0, min_time_ms, max_time_ms) };
        self.hours.insert(ulid, (min_time_ms..=max_time_ms).step_by(HOUR_MS as usize).collect());
        apply(&mut self.catalog, Change { add: vec![new], ..Change::default() });
    }

    fn next_id(&mut self, now_ms: i64) -> BlockId {
        self.next_id += 1;
        BlockId::from_parts(now_ms, self.next_id as u128)
    }

    fn is_masked(&self, block: &BlockMeta, t_ms: i64) -> bool {
        self.catalog.tombstones.iter().any(|t| t.applies_to(block) && t.min_time_ms <= t_ms && t_ms <= t.max_time_ms)
    }

    /// Writes one block from several, or one anew, without what is deleted.
    fn write(&mut self, now_ms: i64, inputs: &[Arc<BlockMeta>]) {
        let ulid = self.next_id(now_ms);
        let mut hours = BTreeSet::new();
        for input in inputs {
            let of_input = self.hours.remove(&input.ulid).expect("is known");
            hours.extend(of_input.into_iter().filter(|t_ms| !self.is_masked(input, *t_ms)));
        }
        self.hours.insert(ulid, hours);
        let rewrites = if let [one] = inputs { self.rewrites.get(&one.ulid).copied().unwrap_or(0) + 1 } else { 0 };
        self.rewrites.insert(ulid, rewrites);
        let output = BlockMeta {
            ulid,
            created_ms: now_ms,
            precedence_ms: inputs.iter().map(|b| b.precedence_ms).max().expect("has inputs"),
            min_time_ms: inputs.iter().map(|b| b.min_time_ms).min().expect("has inputs"),
            max_time_ms: inputs.iter().map(|b| b.max_time_ms).max().expect("has inputs"),
            deletions_ms: isobar_block::mask::carried_out_ms(&self.catalog.tombstones),
            level: inputs.len() as u32,
            ..(*inputs[0]).clone()
        };
        let remove = inputs.iter().map(|b| b.ulid).collect();
        apply(&mut self.catalog, Change { add: vec![output], remove, ..Change::default() });
    }

    /// Every sample that is older than the rule says by a day is masked or gone, and none that is younger.
    fn check(&self, horizon_ms: i64) {
        for block in &self.catalog.blocks {
            for t_ms in &self.hours[&block.ulid] {
                let is_masked = self.is_masked(block, *t_ms);
                assert!(is_masked || *t_ms >= horizon_ms - DAY_MS, "{t_ms} of {block:?} is left: {:?}", self.catalog.tombstones);
                assert!(!is_masked || *t_ms < horizon_ms, "{t_ms} of {block:?} goes too early: {:?}", self.catalog.tombstones);
            }
        }
    }
}

/// Lives through months: blocks of a day come in, some late, are merged by the fortnight, and rewritten when that is due. For
/// some days no compactor is there.
fn live(keep_days: u64, late: &[(i64, i64)], outage: Range<i64>) {
    let rules = rules(&[("x", keep_days)]);
    let mut model = Model::default();
    for day in 1..70 {
        let now_ms = day * DAY_MS + HOUR_MS;
        let horizon_ms = now_ms - keep_days as i64 * DAY_MS;
        model.add(now_ms, (day - 1) * DAY_MS, day * DAY_MS - 1);
        for (_, age) in late.iter().filter(|(at, _)| *at == day) {
            let start_ms = (day - age).max(0) * DAY_MS;
            model.add(now_ms, start_ms, start_ms + HOUR_MS);
        }
        if outage.contains(&day) {
            continue;
        }
        if let Some(change) = selected(&model.catalog, &rules, now_ms + 1) {
            apply(&mut model.catalog, change);
        }
        assert!(selected(&model.catalog, &rules, now_ms + 2).is_none(), "day {day}: it moves twice");
        model.check(horizon_ms);
        if day % 14 == 0 {
            let is_of_fortnight = |b: &&Arc<BlockMeta>| b.min_time_ms >= (day - 14) * DAY_MS;
            let inputs: Vec<_> = model.catalog.blocks.iter().filter(is_of_fortnight).cloned().collect();
            model.write(now_ms + 3, &inputs);
        }
        for id in delete::rewrites(&model.catalog) {
            let input = model.catalog.blocks.iter().find(|b| b.ulid == id).expect("is visible").clone();
            model.write(now_ms + 3, &[input]);
        }
        assert!(delete::rewrites(&model.catalog).is_empty());
        let unmask = delete::finished(&model.catalog);
        apply(&mut model.catalog, Change { unmask, ..Change::default() });
        assert!(model.catalog.tombstones.len() <= 15, "day {day}: {:?}", model.catalog.tombstones);
        model.check(horizon_ms);
    }
    let most = model.rewrites.values().max().copied().unwrap_or(0);
    // Late data that overlaps a block makes the rule begin anew there, so that it may be rewritten along with it.
    assert!(most <= 1 + late.len() as u32, "a block is rewritten {most} times");
}

#[test]
fn a_long_block_is_rewritten_once() {
    live(7, &[], 0..0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn rules_live_for_months(
        keep_days in 1u64..25,
        late in proptest::collection::vec((2i64..69, 1i64..40), 0..5),
        down in 10i64..60,
        down_days in 0i64..6,
    ) {
        live(keep_days, &late, down..down + down_days);
    }
}
