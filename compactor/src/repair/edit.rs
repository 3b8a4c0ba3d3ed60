//! `isobar blocks rewrite`: drops or relabels series of raw blocks, and of the downsampled blocks that stand for them.
//!
//! Both change by one commit, so that no query sees what was dropped. As long as the raw samples of a span exist, the
//! downsampled blocks that come out say that they know none of its raw blocks: all of the span is answered from these
//! ([`isobar_block::resolution`]) until the compactor has made the buckets anew, which is due from then on. Where raw samples are
//! gone, the downsampled blocks are all there is, and are rewritten by the same rules. Joining two series of buckets is less
//! exact than joining samples: of two buckets of one time, that of the series that sorted last counts.

use std::sync::Arc;

use isobar_block::mask::{Masks, carried_out_ms};
use isobar_block::resolution::{affected, span_of};
use isobar_block::{BlockId, BlockMeta, BlockReader, BlockStore, CatalogState, Change, Matcher, TenantId, TimeRange, WriterConfig, time};

use super::relabel::Rule;
use super::relabelled::Plan;
use super::{CACHES, known, output, refuse};
use crate::Result;
use crate::downsample::Downsampling;
use crate::rewrite::{Control, Output, remove_files};
use crate::transfer::{OnProgress, Progress, commit_if};

/// Memory for the rewrite of a downsampled block: what is encoded of it, and caches.
const MEMORY_BYTES: u64 = 1 << 30;

/// Which series a rewrite changes.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Series that one of the selectors accepts are left out.
    Drop(Vec<Vec<Matcher>>),
    /// Only series that one of the selectors accepts stay.
    Keep(Vec<Vec<Matcher>>),
    /// Series get other labels, or are left out.
    Relabel(Vec<Rule>),
}

/// What a rewrite did to a block, or would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// The block.
    pub block: BlockId,
    /// 0 if it holds raw samples, else the length of its buckets.
    pub resolution_ms: i64,
    /// Series that were there.
    pub series: u64,
    /// Series that are left out.
    pub dropped: u64,
    /// Series that have other labels.
    pub relabelled: u64,
    /// Series that became one with another.
    pub joined: u64,
    /// Some of the dropped or relabelled series, with what they became.
    pub examples: Vec<String>,
    /// The new blocks; none if all was dropped, if nothing was to change, or in a dry run.
    pub blocks: Vec<BlockId>,
}

impl Rewritten {
    /// Whether any series was to change.
    pub fn changes(&self) -> bool {
        self.dropped + self.relabelled > 0
    }
}

/// Blocks in sets that should be rewritten one after the other: what a set affects is not in another.
pub fn sets(state: &CatalogState, mut metas: Vec<Arc<BlockMeta>>) -> Vec<Vec<BlockId>> {
    let spans = || state.blocks.iter().filter_map(|b| span_of(b));
    let reach = |meta: &BlockMeta| {
        let own = span_of(meta).map_or((meta.min_time_ms, meta.max_time_ms), |s| (s.start_ms(), s.end_ms()));
        let touched = spans().filter(|s| meta.overlaps(*s));
        touched.fold(own, |(start_ms, end_ms), s| (s.start_ms().min(start_ms), s.end_ms().max(end_ms)))
    };
    metas.sort_by_key(|meta| reach(meta));
    let mut out: Vec<(i64, Vec<BlockId>)> = Vec::new();
    for meta in metas {
        let (start_ms, end_ms) = reach(&meta);
        match out.last_mut().filter(|(last_ms, _)| start_ms <= *last_ms) {
            Some((last_ms, ids)) => {
                *last_ms = end_ms.max(*last_ms);
                ids.push(meta.ulid);
            }
            None => out.push((end_ms, vec![meta.ulid])),
        }
    }
    out.into_iter().map(|(_, ids)| ids).collect()
}

/// Drops or relabels series of blocks, and of the downsampled blocks that stand for them, by one commit. Samples of series that
/// get the same labels are joined; of two at one time that of the series that sorted last counts. With `dry_run` nothing is
/// written. Says of each block what was done to it, the named raw ones first.
///
/// # Errors
/// [`crate::Error::Invalid`] for a block that is unknown, or is downsampled while its raw blocks exist and none of them is named;
/// [`crate::Error::Block`] if a block is damaged, or the store or the commit fails. All blocks are untouched then.
pub async fn rewrite(
    blocks: &BlockStore,
    tenant: &TenantId,
    ids: &[BlockId],
    edit: &Edit,
    dry_run: bool,
    on_progress: OnProgress<'_>,
) -> Result<Vec<Rewritten>> {
    let state = blocks.catalog(tenant).await?.refresh().await?;
    let named = ids.iter().map(|id| known(&state, *id)).collect::<Result<Vec<_>>>()?;
    let (raw, rollups) = targets(&state, named)?;
    let mut rewriting = Rewriting { blocks, tenant, state: &state, edit, dry_run, on_progress, added: Vec::new(), done: Vec::new() };
    if let Err(error) = rewriting.all(&raw, &rollups).await {
        rewriting.discard().await;
        return Err(error);
    }
    let Rewriting { added, done, .. } = rewriting;
    let remove: Vec<BlockId> = done.iter().filter(|(_, is_replaced)| *is_replaced).map(|(summary, _)| summary.block).collect();
    if !remove.is_empty() {
        // A block that was downsampled or a deletion that was asked for meanwhile would not know of this.
        let deletions_ms = added.iter().map(|b| b.deletions_ms).max().unwrap_or(0);
        let ranges: Vec<TimeRange> = raw.iter().filter_map(|b| b.time_range().ok()).collect();
        let still = |now: &CatalogState| {
            let is_new = |b: &BlockMeta| span_of(b).is_some_and(|s| ranges.iter().any(|r| r.overlaps(s))) && !state.contains(b.ulid);
            let is_unknown = |id: BlockId| !state.tombstones.iter().any(|t| t.id == id);
            !now.blocks.iter().any(|b| is_new(b)) && !now.tombstones.iter().any(|t| t.created_ms <= deletions_ms && is_unknown(t.id))
        };
        commit_if(blocks, tenant, Change { add: added, remove, ..Change::default() }, still).await?;
    }
    Ok(done.into_iter().map(|(summary, _)| summary).collect())
}

/// A downsampled block that is rewritten, and whether the raw samples that it was made of exist.
type Rollup = (Arc<BlockMeta>, bool);

/// Raw blocks and downsampled blocks to rewrite.
fn targets(state: &CatalogState, named: Vec<Arc<BlockMeta>>) -> Result<(Vec<Arc<BlockMeta>>, Vec<Rollup>)> {
    let readable = |id: BlockId| state.quarantine_of(id).is_none();
    let (mut raw, made): (Vec<_>, Vec<_>) = named.into_iter().partition(|b| b.resolution_ms == 0);
    raw.sort_by_key(|b| (b.min_time_ms, b.ulid));
    raw.dedup_by_key(|b| b.ulid);
    let mut rollups = affected(&state.blocks, readable, &raw);
    let all_raw: Vec<Arc<BlockMeta>> = state.blocks.iter().filter(|b| b.resolution_ms == 0).cloned().collect();
    let based: Vec<Rollup> = affected(&state.blocks, readable, &all_raw).into_iter().filter(|(_, has_base)| *has_base).collect();
    for block in made {
        if rollups.iter().any(|(b, _)| b.ulid == block.ulid) {
            continue;
        }
        if based.iter().any(|(b, _)| b.ulid == block.ulid) {
            let span = span_of(&block);
            let of_span = all_raw.iter().filter(|b| span.is_some_and(|s| b.overlaps(s))).map(|b| b.ulid.to_string());
            return refuse(&format!(
                "block {} is downsampled, and would be made anew from its raw blocks: rewrite those, and it follows ({})",
                block.ulid,
                of_span.collect::<Vec<_>>().join(", ")
            ));
        }
        rollups.push((block, false));
    }
    Ok((raw, rollups))
}

struct Rewriting<'a> {
    blocks: &'a BlockStore,
    tenant: &'a TenantId,
    state: &'a Arc<CatalogState>,
    edit: &'a Edit,
    dry_run: bool,
    on_progress: OnProgress<'a>,
    added: Vec<BlockMeta>,
    /// What was done to each block, and whether others take its place.
    done: Vec<(Rewritten, bool)>,
}

impl Rewriting<'_> {
    async fn all(&mut self, raw: &[Arc<BlockMeta>], rollups: &[Rollup]) -> Result<()> {
        for meta in raw {
            self.raw(meta).await?;
        }
        let of_raw: Vec<BlockId> = self.added.iter().map(|b| b.ulid).collect();
        let has_changed = self.done.iter().any(|(summary, _)| summary.changes());
        for (meta, has_base) in rollups {
            let sources = match has_base {
                true => vec![meta.ulid],
                false => [meta.ulid].into_iter().chain(meta.sources.iter().copied()).chain(of_raw.iter().copied()).collect(),
            };
            self.rollup(meta, sources, *has_base && has_changed).await?;
        }
        Ok(())
    }

    async fn raw(&mut self, meta: &Arc<BlockMeta>) -> Result<()> {
        let (reader, plan) = self.plan(meta).await?;
        let mut summary = plan.summary.clone();
        let is_replaced = !self.dry_run && summary.changes();
        if is_replaced {
            let mask = Masks::new(&self.state.tombstones)?.of(meta);
            let template =
                WriterConfig { deletions_ms: meta.deletions_ms.max(carried_out_ms(&self.state.tombstones)), ..super::template(meta) };
            let mut output: Output = output(self.blocks, self.tenant, template);
            let copied = match plan.copy(&reader, mask.as_ref(), &mut output, self.on_progress).await {
                Ok(()) => output.finish().await,
                Err(error) => Err(error),
            };
            match copied {
                Ok(added) => self.add(&mut summary, added),
                Err(error) => {
                    output.discard().await;
                    return Err(error);
                }
            }
        }
        self.done.push((summary, is_replaced));
        Ok(())
    }

    /// `always` replaces the block even if none of its series change.
    async fn rollup(&mut self, meta: &Arc<BlockMeta>, sources: Vec<BlockId>, always: bool) -> Result<()> {
        let (_, plan) = self.plan(meta).await?;
        let mut summary = plan.summary.clone();
        let is_replaced = !self.dry_run && (always || summary.changes());
        if is_replaced {
            let job = Downsampling {
                objects: self.blocks.objects().clone(),
                tenant: self.tenant.clone(),
                state: self.state.clone(),
                replica_labels: Vec::new(),
                memory_bytes: MEMORY_BYTES,
                created_ms: time::now_ms(),
                control: Arc::new(Control::default()),
            };
            let progress = parking_lot::Mutex::new(Progress {
                what: meta.ulid.to_string(),
                done: 0,
                total: Some(plan.series.len() as u64),
                unit: "series",
            });
            let on_progress = self.on_progress;
            let tell = |series: u64| {
                let mut progress = progress.lock();
                progress.done += series;
                on_progress(&progress);
            };
            let added = job.relabel(meta, &plan.series, sources, &tell).await?;
            self.add(&mut summary, added);
        }
        self.done.push((summary, is_replaced));
        Ok(())
    }

    async fn plan(&self, meta: &Arc<BlockMeta>) -> Result<(Arc<BlockReader>, Plan)> {
        let reader = Arc::new(BlockReader::open(self.blocks.objects().clone(), self.tenant, meta.clone(), &CACHES).await?);
        let plan = Plan::new(&reader, self.edit).await?;
        Ok((reader, plan))
    }

    fn add(&mut self, summary: &mut Rewritten, added: Vec<BlockMeta>) {
        summary.blocks = added.iter().map(|b| b.ulid).collect();
        self.added.extend(added);
    }

    /// Removes what was written.
    async fn discard(&self) {
        for block in &self.added {
            remove_files(&**self.blocks.objects(), self.tenant, block.ulid).await;
        }
    }
}
