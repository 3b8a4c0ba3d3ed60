//! Carries out one job: reads, writes, and commits.

use std::sync::Arc;
use std::time::Duration;

use isobar_block::catalog::Catalog;
use isobar_block::dedup::{DEDUP_WINDOW_MS, whole_windows};
use isobar_block::{BlockId, BlockMeta, BlockStore, CatalogState, Change, Error as BlockError, Quarantined, TenantId, TimeRange, time};

use super::commit::{Commit, commit};
use crate::config::{CompactorConfig, TenantRules};
use crate::downsample::{Downsampling, Due};
use crate::error::{Error, Result};
use crate::plan::{Compaction, Job, JobKind, Span};
use crate::rewrite::{Control, Damage, Failed, Rewrite, visible};

/// How often a long job looks whether its inputs are still visible.
const WATCH_INTERVAL: Duration = Duration::from_secs(30);
/// Windows of chunks get no longer than this, however long the level is.
const MAX_WINDOW_MS: i64 = 24 * 60 * 60 * 1000;

/// How a job has ended, if not by an error.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// It is done.
    Done {
        /// The blocks that were written.
        added: Vec<BlockMeta>,
    },
    /// Another compactor was faster: the plan is out of date.
    Conflict,
    /// Inputs are damaged and in quarantine now: the plan is out of date.
    Quarantined(Vec<Quarantined>),
}

/// What is needed to carry out jobs of one tenant.
pub struct Worker<'a> {
    /// Where the blocks are.
    pub blocks: &'a BlockStore,
    /// Whose blocks.
    pub tenant: &'a TenantId,
    /// Its catalog.
    pub catalog: &'a Arc<Catalog>,
    /// What the job was planned with.
    pub state: &'a Arc<CatalogState>,
    /// What holds for the tenant.
    pub rules: &'a TenantRules,
    /// Settings.
    pub config: &'a CompactorConfig,
    /// Ends the job, and says how far it is.
    pub control: Arc<Control>,
}

impl Worker<'_> {
    /// Carries out a job, and gives it up if its blocks are gone meanwhile.
    ///
    /// # Errors
    /// [`Error::Canceled`] if somebody asked for it; else what went wrong, which is worth another try.
    pub async fn carry_out(&self, job: &Job) -> Result<End> {
        let inputs = job.blocks();
        let work = async {
            match &job.kind {
                JobKind::Compact(compaction) => self.compact(compaction).await,
                JobKind::Downsample(due) => self.downsample(due).await,
                JobKind::Rewrite { block } => self.rewrite(*block).await,
                JobKind::Retire { blocks } => self.commit(Vec::new(), blocks.clone(), |_| true).await,
            }
        };
        let mut gone = false;
        tokio::pin!(work);
        let mut watch = tokio::time::interval(WATCH_INTERVAL);
        watch.tick().await;
        loop {
            tokio::select! {
                end = &mut work => {
                    return match end {
                        Err(Error::Canceled) if gone => Ok(End::Conflict),
                        end => end,
                    };
                }
                _ = watch.tick() => {
                    // A store that fails now is noticed by the job itself.
                    gone = gone || self.catalog.refresh().await.is_ok_and(|state| visible(&state, &inputs).is_none());
                    if gone {
                        self.control.cancel();
                    }
                }
            }
        }
    }

    async fn compact(&self, compaction: &Compaction) -> Result<End> {
        let Some(inputs) = visible(self.state, &compaction.inputs) else { return Ok(End::Conflict) };
        let len_ms = compaction.span.end_ms.saturating_sub(compaction.span.start_ms).saturating_add(1);
        let window_ms = if compaction.partial { isobar_block::writer::DEFAULT_WINDOW_MS } else { len_ms.min(MAX_WINDOW_MS) };
        let replica_labels = if compaction.partial { Vec::new() } else { self.rules.replica_labels.clone() };
        let template = Rewrite::template(&inputs, &self.state.tombstones, compaction.level, window_ms, time::now_ms());
        let context = if replica_labels.is_empty() { Vec::new() } else { context(self.state, compaction.span, &inputs) };
        let rewrite = Rewrite { span: Some(compaction.span), context, replica_labels, template, ..self.rewrite_of(inputs) };
        self.replace(rewrite).await
    }

    async fn rewrite(&self, block: BlockId) -> Result<End> {
        let Some(inputs) = visible(self.state, &[block]) else { return Ok(End::Conflict) };
        if inputs[0].resolution_ms > 0 {
            let result = self.downsampling().rewrite(block).await;
            return self.end(result, &inputs, vec![block], |_| true).await;
        }
        self.replace(self.rewrite_of(inputs)).await
    }

    async fn downsample(&self, due: &Due) -> Result<End> {
        let Some(inputs) = visible(self.state, &due.inputs) else { return Ok(End::Conflict) };
        let result = self.downsampling().run(due).await;
        // Nothing that is added keeps another compactor from adding the same, but this does.
        let still = |state: &CatalogState| {
            let others = state.blocks.iter().filter(|b| b.resolution_ms > 0 && Span::of(b).overlaps(due.span));
            visible(state, &due.inputs).is_some() && others.into_iter().all(|b| self.state.contains(b.ulid))
        };
        self.end(result, &inputs, due.replaces.clone(), still).await
    }

    fn downsampling(&self) -> Downsampling {
        Downsampling {
            objects: self.blocks.objects().clone(),
            tenant: self.tenant.clone(),
            state: self.state.clone(),
            replica_labels: self.rules.replica_labels.clone(),
            memory_bytes: self.config.working_bytes(),
            created_ms: time::now_ms(),
            control: self.control.clone(),
        }
    }

    /// A rewrite that changes nothing but what is deleted.
    fn rewrite_of(&self, inputs: Vec<Arc<BlockMeta>>) -> Rewrite {
        let (level, window_ms) = (inputs[0].level, inputs[0].window_ms);
        Rewrite {
            objects: self.blocks.objects().clone(),
            tenant: self.tenant.clone(),
            template: Rewrite::template(&inputs, &self.state.tombstones, level, window_ms, time::now_ms()),
            inputs,
            context: Vec::new(),
            tombstones: self.state.tombstones.clone(),
            span: None,
            levels_ms: self.config.levels.iter().map(|l| l.as_millis() as i64).collect(),
            replica_labels: Vec::new(),
            copies_chunks: true,
            memory_bytes: self.config.working_bytes(),
            control: self.control.clone(),
        }
    }

    /// Carries out a rewrite and puts what it has written in the place of its inputs.
    async fn replace(&self, rewrite: Rewrite) -> Result<End> {
        let ids: Vec<BlockId> = rewrite.inputs.iter().map(|b| b.ulid).collect();
        let result = rewrite.run().await.map(|rewritten| rewritten.blocks);
        self.end(result, &rewrite.inputs, ids, |_| true).await
    }

    /// Commits what was written if `still` holds of the catalog, or finds out what is wrong with the inputs.
    async fn end(
        &self,
        result: Result<Vec<BlockMeta>, Failed>,
        inputs: &[Arc<BlockMeta>],
        remove: Vec<BlockId>,
        still: impl Fn(&CatalogState) -> bool + Send + Sync,
    ) -> Result<End> {
        let ids: Vec<BlockId> = inputs.iter().map(|b| b.ulid).collect();
        match result {
            Ok(blocks) => {
                // What was deleted meanwhile must not pass for carried out.
                let deletions_ms = blocks.iter().map(|b| b.deletions_ms).max().unwrap_or(0);
                let known = |id: BlockId| self.state.tombstones.iter().any(|t| t.id == id);
                let unknown = |state: &CatalogState| state.tombstones.iter().any(|t| t.created_ms <= deletions_ms && !known(t.id));
                self.commit(blocks, remove, |state| still(state) && !unknown(state)).await
            }
            Err(Failed { error: Error::Canceled, .. }) => Err(Error::Canceled),
            Err(Failed { damage: Some(damage), .. }) => self.quarantine(&ids, vec![damage]).await,
            Err(Failed { error, .. }) if is_of_store(&error) => Err(error),
            Err(Failed { error, .. }) => self.find_damage(inputs, error).await,
        }
    }

    async fn commit(&self, add: Vec<BlockMeta>, remove: Vec<BlockId>, still: impl Fn(&CatalogState) -> bool + Send + Sync) -> Result<End> {
        let change = Change { add: add.clone(), remove, ..Change::default() };
        Ok(match commit(self.catalog, &**self.blocks.objects(), self.tenant, change, still).await? {
            Commit::Done => End::Done { added: add },
            Commit::Conflict => End::Conflict,
        })
    }

    /// Puts damaged blocks into quarantine, unless they or others of the job are gone anyway.
    async fn quarantine(&self, inputs: &[BlockId], damages: Vec<Damage>) -> Result<End> {
        let state = self.catalog.refresh().await?;
        if visible(&state, inputs).is_none() {
            return Ok(End::Conflict);
        }
        let since_ms = time::now_ms();
        let found = damages.into_iter().map(|d| Quarantined { ulid: d.block, since_ms, reason: d.reason });
        let quarantine: Vec<Quarantined> = found.filter(|q| state.quarantine_of(q.ulid).is_none()).collect();
        for Quarantined { ulid, reason, .. } in &quarantine {
            tracing::error!(tenant = %self.tenant, block = %ulid, %reason, "block is damaged and set aside; see `isobar blocks repair`");
        }
        match self.catalog.commit(Change { quarantine: quarantine.clone(), ..Change::default() }).await {
            Ok(_) => Ok(End::Quarantined(quarantine)),
            Err(BlockError::Conflict { .. }) => Ok(End::Conflict),
            Err(error) => Err(error.into()),
        }
    }

    /// Something does not work out that is neither the store's fault nor a known damage: the blocks are checked one by one.
    async fn find_damage(&self, inputs: &[Arc<BlockMeta>], error: Error) -> Result<End> {
        tracing::warn!(tenant = %self.tenant, %error, "blocks cannot be merged; checking each of them");
        let mut damages = Vec::new();
        for meta in inputs {
            let report = self.blocks.verify(self.tenant, meta).await?;
            if let Some(problem) = report.problems.first() {
                damages.push(Damage { block: meta.ulid, reason: problem.clone(), missing: false });
            }
        }
        if damages.is_empty() {
            return Err(error);
        }
        let ids: Vec<BlockId> = inputs.iter().map(|b| b.ulid).collect();
        self.quarantine(&ids, damages).await
    }
}

/// The blocks that are read along with the inputs of a span, so that queries see the same after the compaction as before: those
/// that deduplication looks at for the first samples of the span. Only blocks of level 0 hold replicas.
fn context(state: &CatalogState, span: Span, inputs: &[Arc<BlockMeta>]) -> Vec<Arc<BlockMeta>> {
    let read = whole_windows(span.range());
    let Ok(before) = TimeRange::new(read.start_ms(), span.start_ms.saturating_sub(1)) else { return Vec::new() };
    let Ok(first) = TimeRange::new(span.start_ms, span.start_ms.saturating_add(DEDUP_WINDOW_MS - 1)) else { return Vec::new() };
    if !inputs.iter().any(|b| b.level == 0 && b.overlaps(first)) {
        return Vec::new();
    }
    let is_read = |b: &&Arc<BlockMeta>| {
        let is_input = inputs.iter().any(|i| i.ulid == b.ulid);
        b.resolution_ms == 0 && b.overlaps(before) && !is_input && state.quarantine_of(b.ulid).is_none()
    };
    state.blocks.iter().filter(is_read).cloned().collect()
}

fn is_of_store(error: &Error) -> bool {
    matches!(error, Error::Block(BlockError::Store(_) | BlockError::Io { .. }))
}
