//! Reads blocks and writes others that hold the same samples: the one loop under compaction and deletion. Import and repair use
//! its [`Output`].
//!
//! Memory is bounded whatever the blocks hold: labels are walked in batches of metric names, samples are read in runs of series,
//! and a new block begins when what is encoded of one reaches its share. All shares together stay below the whole. Outputs are complete files in the store; nobody sees
//! them before they are committed to the catalog, which the caller does.

mod batches;
mod clip;
mod control;
mod copy;
mod damage;
mod encoded;
mod inputs;
mod output;
mod remainders;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use isobar_block::mask::carried_out_ms;
use isobar_block::meta::WriterMark;
use isobar_block::writer::WriterConfig;
use isobar_block::{BlockId, BlockMeta, TenantId, Tombstone};
use object_store::ObjectStore;

use crate::error::{Error, Result};
use crate::plan::Span;
use copy::Copier;
use remainders::Remainders;

pub(crate) use batches::{Families, add as add_family, batches};
pub use control::{Control, Progress};
pub(crate) use copy::{Loading, Step};
pub use damage::Damage;
pub(crate) use damage::{Damages, note};
pub(crate) use inputs::Inputs;
pub use output::Output;
pub(crate) use output::remove_files;

/// What is encoded of one block takes this share (1/n) of the memory. Two blocks are in work: one is filled, the other becomes
/// files, piece by piece.
const OUTPUT_SHARE: u64 = 7;
/// What is encoded of all remainders takes this share (1/n) of the memory.
const REMAINDER_SHARE: u64 = 10;
/// Labels of a batch take this share (1/n) of the memory.
const LABELS_SHARE: u64 = 16;
/// About what a series of a block takes while it is in a batch.
const SERIES_BYTES: u64 = 400;

/// A rewrite: several blocks in, blocks with the same samples out.
pub struct Rewrite {
    /// Where the blocks are.
    pub objects: Arc<dyn ObjectStore>,
    /// Whose blocks.
    pub tenant: TenantId,
    /// The blocks that are read, ascending by precedence.
    pub inputs: Vec<Arc<BlockMeta>>,
    /// Blocks that are read along and stay: what they hold decides how replicas at the start of the span are deduplicated.
    pub context: Vec<Arc<BlockMeta>>,
    /// Deletions that are carried out where they apply.
    pub tombstones: Vec<Arc<Tombstone>>,
    /// What is merged; samples outside of it go to blocks like those they came from. Everything is merged if there is none.
    pub span: Option<Span>,
    /// Lengths of the levels, ascending: samples outside of the span are cut at the borders of the longest spans possible.
    pub levels_ms: Vec<i64>,
    /// Labels that tell replicas apart: such series become one. None leaves them as they are.
    pub replica_labels: Vec<String>,
    /// What the blocks of the span are written with, but for their ids.
    pub template: WriterConfig,
    /// Whether chunks are taken as they are where nothing in them changes.
    pub copies_chunks: bool,
    /// Bound of what is held.
    pub memory_bytes: u64,
    /// Ends the rewrite, and says how far it is.
    pub control: Arc<Control>,
}

/// What a rewrite has written. The blocks are complete in the store, and no catalog lists them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewritten {
    /// The blocks: those of the span first, then those with what lies outside of it.
    pub blocks: Vec<BlockMeta>,
    /// The most that was ever encoded of a block in memory.
    pub largest_bytes: u64,
}

/// Why a rewrite has ended early. What it had written is removed.
#[derive(Debug)]
pub struct Failed {
    /// The error.
    pub error: Error,
    /// The block that is damaged, if that is why.
    pub damage: Option<Damage>,
}

impl Rewrite {
    /// What blocks are written with that are merged from `inputs`, which must not be empty.
    ///
    /// # Panics
    /// If there are no inputs.
    pub fn template(inputs: &[Arc<BlockMeta>], tombstones: &[Arc<Tombstone>], level: u32, window_ms: i64, now_ms: i64) -> WriterConfig {
        let deletions_ms = inputs.iter().map(|b| b.deletions_ms).min().expect("there are inputs");
        WriterConfig {
            precedence_ms: inputs.iter().map(|b| b.precedence_ms).max().expect("there are inputs"),
            level,
            window_ms,
            sources: inputs.iter().map(|b| b.ulid).collect(),
            writers: marks(inputs),
            deletions_ms: deletions_ms.max(carried_out_ms(tombstones)),
            ..WriterConfig::new(now_ms)
        }
    }

    /// Reads, merges and writes. Dropping the future leaves files that the clean-up removes.
    ///
    /// # Errors
    /// Whatever goes wrong; see [`Failed`].
    pub async fn run(&self) -> Result<Rewritten, Failed> {
        let damages = Damages::default();
        let mut outputs = Vec::new();
        match self.merge(&damages, &mut outputs).await {
            Ok(rewritten) => Ok(rewritten),
            Err(error) => {
                for output in outputs {
                    output.discard().await;
                }
                let damage = damages.lock().take();
                Err(Failed { error, damage })
            }
        }
    }

    /// Whatever happens, `outputs` has what may have files.
    async fn merge(&self, damages: &Damages, outputs: &mut Vec<Output>) -> Result<Rewritten> {
        let mut read: Vec<Arc<BlockMeta>> = self.inputs.iter().chain(&self.context).cloned().collect();
        read.sort_by_key(|b| b.precedence());
        let mut inputs = self.open(&read, &self.replica_labels, damages).await?;
        if self.copies_chunks {
            inputs.copy_chunks(self.template.window_ms, self.whole());
        }
        let straddling: Vec<_> = self.inputs.iter().filter(|b| !self.whole().covers(Span::of(b))).collect();
        self.control.begin(self.inputs.iter().chain(straddling.iter().copied()).map(|b| b.series).sum());
        let mut rewritten = Rewritten::default();
        let limit_bytes = self.memory_bytes / OUTPUT_SHARE;
        outputs.push(Output::new(self.objects.clone(), self.tenant.clone(), self.template.clone(), limit_bytes));
        let mut copier = Copier::new(self.whole(), self.memory_bytes, self.control.clone(), damages.clone());
        for block in self.copy(&inputs, &mut copier, outputs).await? {
            self.control.add_written(block.size_bytes);
            rewritten.blocks.push(block);
        }
        drop(inputs);
        for input in straddling {
            let inputs = self.open(std::slice::from_ref(input), &[], damages).await?;
            let mut remainders = Remainders::new(self, input, self.memory_bytes / REMAINDER_SHARE);
            let result = remainders.copy(&inputs, self).await;
            outputs.extend(remainders.into_outputs());
            for block in result? {
                self.control.add_written(block.size_bytes);
                rewritten.blocks.push(block);
            }
        }
        rewritten.largest_bytes = outputs.iter().map(Output::largest_bytes).max().unwrap_or(0);
        Ok(rewritten)
    }

    async fn copy(&self, inputs: &Inputs, copier: &mut Copier, outputs: &mut [Output]) -> Result<Vec<BlockMeta>> {
        let output = outputs.last_mut().expect("the caller has put one in");
        let families = Arc::new(inputs.families().await?);
        for batch in batches(&families, self.max_series()) {
            for part in inputs.parts(&batch, self.max_series()).await? {
                self.control.check()?;
                let loaded = inputs.load(&batch, &part, self.whole().range()).await?;
                if let Some(encoded) = loaded.encoded {
                    copier.copy_encoded(encoded, (loaded.exemplars, loaded.bytes_per_series), &families, output).await?;
                    self.control.add_series(loaded.series);
                } else {
                    copier.copy(loaded, &families, output).await?;
                }
            }
        }
        output.finish().await
    }

    async fn open(&self, inputs: &[Arc<BlockMeta>], replica_labels: &[String], damages: &Damages) -> Result<Inputs> {
        Inputs::open(self, inputs, replica_labels, damages.clone()).await
    }

    fn whole(&self) -> Span {
        self.span.unwrap_or(Span { start_ms: i64::MIN, end_ms: i64::MAX })
    }

    pub(crate) fn max_series(&self) -> u64 {
        (self.memory_bytes / LABELS_SHARE / SERIES_BYTES).max(1)
    }
}

/// The highest mark of each ingester.
fn marks(blocks: &[Arc<BlockMeta>]) -> Vec<WriterMark> {
    let mut marks: Vec<WriterMark> = blocks.iter().flat_map(|b| b.writers.iter().cloned()).collect();
    marks.sort_by(|a, b| a.id.cmp(&b.id).then(b.wal_segment_end.cmp(&a.wal_segment_end)));
    marks.dedup_by(|a, b| a.id == b.id);
    marks
}

impl From<isobar_block::Error> for Failed {
    fn from(error: isobar_block::Error) -> Self {
        Self { error: error.into(), damage: None }
    }
}

/// Blocks that a list of ids stands for, in the list's order; `None` if one is not visible.
pub fn visible(state: &isobar_block::CatalogState, ids: &[BlockId]) -> Option<Vec<Arc<BlockMeta>>> {
    ids.iter().map(|id| state.blocks.iter().find(|b| b.ulid == *id).cloned()).collect()
}
