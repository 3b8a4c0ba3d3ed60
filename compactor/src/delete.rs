//! Deletions of series by matchers and time: asked for here, in force at once through [`isobar_block::mask`], carried out when
//! a block is compacted or rewritten, and ended when no block needs them any more.
//!
//! A deletion is for what was written before it. Time is compared by the clocks of several machines, which may disagree, so
//! [`delete_series`] dates a deletion after everything that the catalog knows: all blocks that are visible when it returns are
//! masked, and a merge of them that was planned before is masked too. What is in the heads of ingesters has to be cut into
//! blocks first, which whoever calls this sees to.

#[cfg(test)]
mod tests;

use isobar_block::{
    BlockId, BlockMeta, BlockStore, CatalogState, Change, Error as BlockError, Matcher, TenantId, TimeRange, Tombstone, TombstoneMatcher,
    time,
};

use crate::retention;
use crate::{Error, Result};

/// Deletions of a tenant that may be in force at one time. Each is looked at by every query.
pub const MAX_TOMBSTONES: usize = 1000;

/// Length of the matchers of one deletion, all selectors together.
pub const MAX_SELECTOR_BYTES: usize = 64 << 10;

/// A deletion is dated anew so often if blocks keep coming in while it is written.
const MAX_TRIES: usize = 20;

/// Deletes the samples in `range` of all series that one of the selectors accepts. They are gone from answers of this process
/// when this returns, and from those of others after their catalog's refresh interval.
///
/// Selectors see labels as they are stored: a selector that does not name a replica label deletes all replicas.
///
/// # Errors
/// [`Error::Invalid`] if there is no selector or one would accept every series; a limit error if too many deletions are in
/// force or the selectors are too long; [`Error::Block`] if the store fails, and the deletion may or may not be in force then.
pub async fn delete_series(blocks: &BlockStore, tenant: &TenantId, selectors: Vec<Vec<Matcher>>, range: TimeRange) -> Result<Tombstone> {
    let selectors = check(&selectors)?;
    let catalog = blocks.catalog(tenant).await?;
    let mut dated_too_early: Option<Tombstone> = None;
    for _ in 0..MAX_TRIES {
        let state = catalog.refresh().await?;
        let unmask = dated_too_early.take().map(|t| t.id).filter(|id| state.tombstones.iter().any(|t| t.id == *id));
        let in_force = state.tombstones.iter().filter(|t| !retention::is_of_rule(t)).count() - usize::from(unmask.is_some());
        if in_force >= MAX_TOMBSTONES {
            return Err(too_many(tenant));
        }
        let now_ms = time::now_ms();
        let tombstone = Tombstone {
            id: BlockId::new(now_ms),
            selectors: selectors.clone(),
            min_time_ms: range.start_ms(),
            max_time_ms: range.end_ms(),
            created_ms: date_after(&state, now_ms),
        };
        let change = Change { mask: vec![tombstone.clone()], unmask: unmask.into_iter().collect(), ..Change::default() };
        match catalog.commit(change).await {
            Ok(_) => {}
            // A compactor has ended the one that was to be replaced: nothing visible needed it.
            Err(BlockError::Conflict { .. }) => continue,
            Err(other) => return Err(other.into()),
        }
        if is_after_all_others(&tombstone, &catalog.blocks()) {
            return Ok(tombstone);
        }
        dated_too_early = Some(tombstone);
    }
    Err(Error::Invalid {
        what: "deletion",
        reason: format!(
            "blocks of tenant {tenant} changed {MAX_TRIES} times while it was written, so that it may be in force in part; ask again"
        ),
    })
}

/// Blocks that hold samples that are deleted and should be rewritten without them, those with the oldest samples first. Blocks
/// in quarantine cannot be read and are not among them.
///
/// What a retention rule deletes day by day (see [`retention::selected`]) stays masked in a block until all of the block's time
/// has passed, so that a long block is rewritten once and not every day.
pub fn rewrites(state: &CatalogState) -> Vec<BlockId> {
    let progress = retention::progress(state);
    let has_passed = |t: &Tombstone, b: &BlockMeta| progress.get(&t.id).is_none_or(|(_, reached_ms)| b.max_time_ms <= *reached_ms);
    let is_due = |b: &BlockMeta| state.tombstones.iter().any(|t| t.applies_to(b) && has_passed(t, b));
    let due = state.blocks.iter().filter(|b| is_due(b) && state.quarantine_of(b.ulid).is_none());
    let mut found: Vec<_> = due.map(|b| (b.max_time_ms, b.ulid)).collect();
    found.sort_unstable();
    found.into_iter().map(|(_, id)| id).collect()
}

/// Deletions that no visible block needs: those to end. The newest one of a retention rule is not among them: it says how far
/// the rule has got, and [`retention::selected`] ends it with the rule.
pub fn finished(state: &CatalogState) -> Vec<BlockId> {
    let progress = retention::progress(state);
    let is_mark = |t: &Tombstone| progress.get(&t.id).is_some_and(|(newest, _)| *newest == t.id);
    let is_needed = |t: &Tombstone| state.blocks.iter().any(|b| t.applies_to(b));
    state.tombstones.iter().filter(|t| !is_needed(t) && !is_mark(t)).map(|t| t.id).collect()
}

/// The date of a deletion that is added to `state` now: such that it applies to every visible block, and that a block for which
/// earlier deletions have been carried out does not pass for one that knows of this.
pub(crate) fn date_after(state: &CatalogState, now_ms: i64) -> i64 {
    let blocks = state.blocks.iter().map(|b| b.precedence_ms.max(b.deletions_ms.saturating_add(1)));
    let tombstones = state.tombstones.iter().map(|t| t.created_ms.saturating_add(1));
    blocks.chain(tombstones).fold(now_ms, i64::max)
}

/// Whether nothing came into the catalog meanwhile that [`date_after`] would have looked at.
fn is_after_all_others(tombstone: &Tombstone, state: &CatalogState) -> bool {
    state.blocks.iter().all(|b| b.precedence_ms <= tombstone.created_ms && b.deletions_ms < tombstone.created_ms)
        && state.tombstones.iter().all(|t| t.id == tombstone.id || t.created_ms < tombstone.created_ms)
}

fn check(selectors: &[Vec<Matcher>]) -> Result<Vec<Vec<TombstoneMatcher>>> {
    let refuse = |reason: String| Err(Error::Invalid { what: "deletion", reason });
    if selectors.is_empty() {
        return refuse("it has no selector; name the series to delete, such as {job=\"x\"}".into());
    }
    for selector in selectors {
        if selector.iter().all(Matcher::matches_empty) {
            let text: Vec<String> = selector.iter().map(ToString::to_string).collect();
            return refuse(format!(
                "the selector {{{}}} accepts every series; add a matcher that does not accept the empty value",
                text.join(",")
            ));
        }
    }
    let bytes: usize = selectors.iter().flatten().map(|m| m.name().len() + m.value().len()).sum();
    if bytes > MAX_SELECTOR_BYTES {
        return Err(Error::Block(BlockError::Limit {
            limit: "length of the selectors of a deletion",
            allowed: MAX_SELECTOR_BYTES as u64,
            what: format!("{bytes} bytes"),
            remedy: "delete in several steps, or by a label that the series have in common",
        }));
    }
    Ok(selectors.iter().map(|s| s.iter().map(TombstoneMatcher::from).collect()).collect())
}

fn too_many(tenant: &TenantId) -> Error {
    Error::Block(BlockError::Limit {
        limit: "number of deletions that are not carried out yet",
        allowed: MAX_TOMBSTONES as u64,
        what: format!("tenant {tenant}"),
        remedy: "run `isobar compact` to carry them out, or delete with fewer and wider selectors",
    })
}
