//! Which spans are due.

use std::sync::Arc;
use std::time::Duration;

use isobar_block::{BlockId, BlockMeta, CatalogState, Quarantined};

use super::super::{Due, RESOLUTIONS_MS, due};
use crate::config::{CompactorConfig, TenantRules};

const DAY_MS: i64 = 86_400_000;
const NOW_MS: i64 = 1000 * 14 * DAY_MS;

pub fn meta(n: u64, days: (i64, i64), level: u32, resolution_ms: i64, precedence_ms: i64) -> BlockMeta {
    BlockMeta {
        ulid: BlockId::from_parts(precedence_ms, u128::from(n)),
        format: 1,
        min_time_ms: days.0 * DAY_MS + 1,
        max_time_ms: days.1 * DAY_MS - 1,
        window_ms: if resolution_ms > 0 { (days.1 - days.0) * DAY_MS } else { DAY_MS },
        resolution_ms,
        level,
        series: 1,
        samples: 1000,
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
    }
}

fn state(blocks: Vec<BlockMeta>) -> CatalogState {
    let mut blocks: Vec<Arc<BlockMeta>> = blocks.into_iter().map(Arc::new).collect();
    blocks.sort_by_key(|b| b.precedence());
    CatalogState { blocks, ..CatalogState::default() }
}

fn planned(state: &CatalogState, rules: &TenantRules) -> Vec<Due> {
    due(state, rules, &CompactorConfig::default(), NOW_MS)
}

fn told(due: &[Due]) -> Vec<(i64, i64, Vec<i64>, bool, usize, usize)> {
    let days = |ms: i64| ms.div_euclid(DAY_MS);
    due.iter()
        .map(|d| (days(d.span.start_ms), days(d.span.end_ms + 1), d.resolutions_ms.clone(), d.from_raw, d.inputs.len(), d.replaces.len()))
        .collect()
}

/// A raw span of two days and what was made of it.
fn made(n: u64, day: i64, precedence_ms: i64) -> Vec<BlockMeta> {
    let days = (day, day + 2);
    vec![
        meta(n, days, 3, 0, precedence_ms),
        meta(n + 1, days, 3, RESOLUTIONS_MS[0], precedence_ms),
        meta(n + 2, days, 3, RESOLUTIONS_MS[1], precedence_ms),
    ]
}

#[test]
fn compacted_spans_are_downsampled_once() {
    let both = RESOLUTIONS_MS.to_vec();
    let low = meta(1, (0, 1), 2, 0, 5);
    assert_eq!(told(&planned(&state(vec![low]), &TenantRules::default())), []);
    let raw = meta(1, (0, 2), 3, 0, 5);
    let late = meta(2, (1, 2), 0, 0, 9);
    let found = planned(&state(vec![raw.clone(), late.clone()]), &TenantRules::default());
    assert_eq!(told(&found), [(0, 2, both.clone(), true, 2, 0)]);
    assert_eq!(found[0].to_string(), "downsample 2 blocks of 1970-01-01T00:00Z to 1970-01-03T00:00Z to 5m and 1h");
    assert_eq!(told(&planned(&state(made(1, 0, 5)), &TenantRules::default())), []);
    // What came late waits for its compaction; that makes what was downsampled outdated.
    let waiting = state(made(1, 0, 5).into_iter().chain([late]).collect());
    assert_eq!(told(&planned(&waiting, &TenantRules::default())), []);
    let again = state(made(1, 0, 5).into_iter().skip(1).chain([BlockMeta { precedence_ms: 9, ..raw.clone() }]).collect());
    assert_eq!(told(&planned(&again, &TenantRules::default())), [(0, 2, both.clone(), true, 1, 2)]);
    // A resolution that is missing is made alone.
    let one = state(made(1, 0, 5).into_iter().take(2).collect());
    assert_eq!(told(&planned(&one, &TenantRules::default())), [(0, 2, vec![RESOLUTIONS_MS[1]], true, 1, 0)]);
    // Spans that are not over, and those with a damaged block, wait.
    assert_eq!(told(&due(&state(vec![raw.clone()]), &TenantRules::default(), &CompactorConfig::default(), DAY_MS)), []);
    let mut damaged = state(vec![raw.clone()]);
    damaged.quarantined = vec![Quarantined { ulid: raw.ulid, since_ms: 1, reason: "torn".into() }];
    assert_eq!(told(&planned(&damaged, &TenantRules::default())), []);
}

#[test]
fn a_longer_compaction_makes_longer_blocks() {
    let small: Vec<BlockMeta> = (0..7).flat_map(|i| made(i as u64 * 10, i * 2, 5 + i).split_off(1)).collect();
    let long = meta(99, (0, 14), 4, 0, 11);
    let long = BlockMeta { samples: 7000, ..long };
    let found = planned(&state(small.into_iter().chain([long]).collect()), &TenantRules::default());
    assert_eq!(told(&found), [(0, 14, RESOLUTIONS_MS.to_vec(), true, 1, 14)]);
    assert_eq!(found[0].level, 4);
}

#[test]
fn small_blocks_are_merged_when_the_raw_ones_are_gone() {
    let mut small: Vec<BlockMeta> = (0..7).flat_map(|i| made(i as u64 * 10, i * 2, 5 + i).split_off(1)).collect();
    let found = planned(&state(small.clone()), &TenantRules::default());
    let merged = |r: usize| (0, 14, vec![RESOLUTIONS_MS[r]], false, 7, 7);
    assert_eq!(told(&found), [merged(0), merged(1)]);
    assert_eq!(found[0].to_string(), "merge 7 blocks of 1970-01-01T00:00Z to 1970-01-15T00:00Z with buckets of 5m");
    // A single one stays, and so do those with raw samples.
    assert_eq!(told(&planned(&state(small[..2].to_vec()), &TenantRules::default())), []);
    small.extend(made(0, 0, 5).into_iter().take(1));
    assert_eq!(told(&planned(&state(small), &TenantRules::default())), []);
}

#[test]
fn retention_stops_what_would_be_lost_or_removed() {
    let keep = |days: u64| Some(Duration::from_secs(days * 86_400));
    let recent = NOW_MS / DAY_MS - 10;
    let raw = |precedence_ms| meta(1, (recent, recent + 2), 3, 0, precedence_ms);
    let rules = |raw, five| TenantRules { raw_retention: raw, five_minutes_retention: five, ..TenantRules::default() };
    let count =
        |blocks: Vec<BlockMeta>, rules: TenantRules| planned(&state(blocks), &rules).iter().map(|d| d.resolutions_ms.len()).sum::<usize>();
    assert_eq!(count(vec![raw(5)], rules(keep(11), None)), 2);
    assert_eq!(count(vec![raw(5)], rules(keep(9), None)), 2, "half of it is still kept");
    assert_eq!(count(vec![raw(5)], rules(keep(7), None)), 0);
    assert_eq!(count(vec![raw(5)], rules(None, keep(7))), 1);
    // What was downsampled before is not replaced by what is left of the raw samples.
    let older = || made(1, recent, 5).split_off(1);
    let with = |raw: BlockMeta| older().into_iter().chain([raw]).collect::<Vec<_>>();
    assert_eq!(count(with(raw(9)), rules(keep(11), None)), 2);
    assert_eq!(count(with(raw(9)), rules(keep(9), None)), 0);
    assert_eq!(count(with(BlockMeta { samples: 10, ..raw(9) }), rules(None, None)), 0);
}
