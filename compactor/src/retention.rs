//! How long blocks and series are kept.
//!
//! Whole blocks go when they are too old for their resolution or when a tenant has too many bytes ([`expired`]). Series that a
//! rule keeps for a shorter time than the rest are deleted by tombstones that go on once a day ([`selected`]).

#[cfg(test)]
mod tests;

use std::time::Duration;

use hashbrown::HashMap;
use isobar_block::{BlockId, BlockMeta, CatalogState, Change, Tombstone, TombstoneMatcher};

use crate::config::TenantRules;
use crate::delete;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Buckets at least this long are kept as those of 1 h, shorter ones as those of 5 m.
const ONE_HOUR_MS: i64 = 60 * 60 * 1000;

/// Raw blocks that have not been downsampled wait so long beyond their retention for that: if downsampling is behind, its input
/// must not go away.
pub const MAX_WAIT_FOR_ROLLUP_MS: i64 = 14 * DAY_MS;

/// Blocks that are kept no longer, with the reason, oldest samples first.
///
/// By time: a block goes when its last sample is older than what the rules say of its resolution. A raw block of which the
/// tenant is to have downsampled data for longer, and usually has, waits for it, but at most [`MAX_WAIT_FOR_ROLLUP_MS`].
/// By size: if the other blocks are bigger than allowed, those with the oldest last sample go until they fit; the block with
/// the newest sample stays in any case. Blocks in quarantine count and go like others.
pub fn expired(state: &CatalogState, rules: &TenantRules, now_ms: i64) -> Vec<(BlockId, String)> {
    let mut out = Vec::new();
    let mut rest = Vec::with_capacity(state.blocks.len());
    for block in &state.blocks {
        match expired_by_time(state, rules, block, now_ms) {
            Some(reason) => out.push((block, reason)),
            None => rest.push(block),
        }
    }
    if let Some(max_bytes) = rules.max_bytes {
        rest.sort_by_key(|b| (b.max_time_ms, b.resolution_ms, b.ulid));
        let mut total: u64 = rest.iter().map(|b| b.size_bytes).sum();
        for block in rest.iter().take(rest.len().saturating_sub(1)) {
            if total <= max_bytes {
                break;
            }
            total -= block.size_bytes;
            out.push((*block, format!("the tenant's blocks may have {max_bytes} bytes in all")));
        }
    }
    out.sort_by_key(|(b, _)| (b.max_time_ms, b.resolution_ms, b.ulid));
    out.into_iter().map(|(b, reason)| (b.ulid, reason)).collect()
}

fn expired_by_time(state: &CatalogState, rules: &TenantRules, block: &BlockMeta, now_ms: i64) -> Option<String> {
    let (keep, what) = match block.resolution_ms {
        0 => (rules.raw_retention?, "raw samples"),
        ms if ms < ONE_HOUR_MS => (rules.five_minutes_retention?, "5 m buckets"),
        _ => (rules.one_hour_retention?, "1 h buckets"),
    };
    let horizon_ms = now_ms.saturating_sub(millis(keep));
    if block.max_time_ms >= horizon_ms {
        return None;
    }
    let waits = block.resolution_ms == 0 && block.max_time_ms >= horizon_ms - MAX_WAIT_FOR_ROLLUP_MS && lacks_rollup(state, rules, block);
    (!waits).then(|| format!("{what} are kept for {}", Days(keep)))
}

/// Whether downsampled data is made and kept longer than raw data, but there is none for the time of this raw block.
fn lacks_rollup(state: &CatalogState, rules: &TenantRules, block: &BlockMeta) -> bool {
    let is_longer = |keep: Option<Duration>| keep.is_none_or(|keep| rules.raw_retention.is_some_and(|raw| keep > raw));
    let mut rollups = state.blocks.iter().filter(|b| b.resolution_ms > 0).peekable();
    let are_made = rollups.peek().is_some();
    are_made
        && (is_longer(rules.five_minutes_retention) || is_longer(rules.one_hour_retention))
        && !rollups.any(|r| r.min_time_ms <= block.max_time_ms && block.min_time_ms <= r.max_time_ms)
}

/// What the retention rules for selected series change in the catalog now, if anything: at most once a day a rule gets a
/// tombstone that goes on where the one before ends.
///
/// A rule's tombstone deletes up to the start of the day that is `keep` ago. It begins where the rule has got so far, so that
/// blocks that have been rewritten are not touched again, or earlier if late data has come in. The newest one of a rule is its
/// mark and stays in force as long as the rule; older ones end when no block needs them, as all deletions do
/// ([`delete::finished`]). Ids follow from selector and end: two compactors that both want to go on add the same tombstone, and
/// the catalog takes the first. Samples are kept up to one day longer than `keep`.
pub fn selected(state: &CatalogState, rules: &TenantRules, now_ms: i64) -> Option<Change> {
    let wanted = by_selector(rules);
    let of_rules: Vec<&Tombstone> = state.tombstones.iter().map(|t| &**t).filter(|t| is_of_rule(t)).collect();
    let mut change = Change::default();
    change.unmask.extend(of_rules.iter().filter(|t| !wanted.iter().any(|(s, _)| *s == t.selectors[0])).map(|t| t.id));
    for (selector, keep_ms) in wanted {
        let so_far: Vec<&Tombstone> = of_rules.iter().copied().filter(|t| t.selectors[0] == selector).collect();
        let reached_ms = so_far.iter().map(|t| t.max_time_ms).max();
        let horizon_ms = now_ms.saturating_sub(keep_ms).div_euclid(DAY_MS) * DAY_MS - 1;
        // One that is a day ahead is that of a compactor whose clock is past midnight already.
        if reached_ms.is_some_and(|ms| (0..=DAY_MS).contains(&(ms - horizon_ms))) {
            continue;
        }
        let first_ms = if reached_ms.is_some_and(|ms| ms > horizon_ms) {
            // Series are to be kept longer than before: the rule goes back, so that what is still there comes back.
            change.unmask.extend(so_far.iter().map(|t| t.id));
            so_far.iter().map(|t| t.min_time_ms.min(horizon_ms)).min()
        } else {
            state.blocks.iter().filter_map(|b| first_left(b, &so_far, horizon_ms)).min()
        };
        let Some(min_time_ms) = first_ms else { continue };
        change.mask.push(Tombstone {
            id: rule_id(&selector, horizon_ms),
            selectors: vec![selector],
            min_time_ms,
            max_time_ms: horizon_ms,
            created_ms: delete::date_after(state, now_ms),
        });
    }
    (!change.mask.is_empty() || !change.unmask.is_empty()).then_some(change)
}

/// The selectors of the rules, each with the shortest time that a rule gives it.
fn by_selector(rules: &TenantRules) -> Vec<(Vec<TombstoneMatcher>, i64)> {
    let mut out: Vec<(Vec<TombstoneMatcher>, i64)> = Vec::new();
    for rule in &rules.selected_retention {
        let mut selector: Vec<TombstoneMatcher> = rule.matchers.iter().map(TombstoneMatcher::from).collect();
        selector.sort_by(|a, b| (&a.name, &a.op, &a.value).cmp(&(&b.name, &b.op, &b.value)));
        let keep_ms = millis(rule.keep);
        match out.iter_mut().find(|(known, _)| *known == selector) {
            Some((_, shortest_ms)) => *shortest_ms = keep_ms.min(*shortest_ms),
            None => out.push((selector, keep_ms)),
        }
    }
    out
}

/// From when on the block may hold samples up to the horizon that the rule's tombstones so far have neither removed nor masked.
fn first_left(block: &BlockMeta, so_far: &[&Tombstone], horizon_ms: i64) -> Option<i64> {
    // Each tombstone goes on where the ones before end, in the blocks that were there, and they stay in force while needed.
    let is_done = |t: &Tombstone| block.deletions_ms >= t.created_ms || block.created_ms.max(block.precedence_ms) <= t.created_ms;
    let done_to_ms = so_far.iter().filter(|t| is_done(t)).map(|t| t.max_time_ms).max();
    let first_ms = done_to_ms.map_or(block.min_time_ms, |ms| block.min_time_ms.max(ms.saturating_add(1)));
    (first_ms <= block.max_time_ms.min(horizon_ms)).then_some(first_ms)
}

/// How far each rule has got: the id of its newest tombstone and the last millisecond that it deletes, for each of the rule's
/// tombstones in force.
pub(crate) fn progress(state: &CatalogState) -> HashMap<BlockId, (BlockId, i64)> {
    let of_rules: Vec<&Tombstone> = state.tombstones.iter().map(|t| &**t).filter(|t| is_of_rule(t)).collect();
    let newest = |t: &Tombstone| of_rules.iter().filter(|o| o.selectors == t.selectors).max_by_key(|o| (o.max_time_ms, o.id)).copied();
    of_rules.iter().filter_map(|t| newest(t).map(|n| (t.id, (n.id, n.max_time_ms)))).collect()
}

/// Whether a tombstone is that of a retention rule, and not one that somebody asked for.
pub fn is_of_rule(tombstone: &Tombstone) -> bool {
    matches!(tombstone.selectors.as_slice(), [selector] if tombstone.id == rule_id(selector, tombstone.max_time_ms))
}

/// The time of the id is the end of what is deleted, the rest of it stands for the selector (FNV-1a, of which a ULID has room
/// for 80 bits).
fn rule_id(selector: &[TombstoneMatcher], max_time_ms: i64) -> BlockId {
    let text = serde_json::to_vec(selector).expect("matchers have string keys only");
    let mut hash: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    for byte in text {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
    }
    BlockId::from_parts(max_time_ms, (hash ^ (hash >> 80)) & ((1 << 80) - 1))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A retention time as operators write it.
struct Days(Duration);

impl std::fmt::Display for Days {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.0.as_secs();
        match (seconds % 86_400, seconds % 3_600) {
            (0, _) => write!(f, "{} d", seconds / 86_400),
            (_, 0) => write!(f, "{} h", seconds / 3_600),
            _ => write!(f, "{seconds} s"),
        }
    }
}
