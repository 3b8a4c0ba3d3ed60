//! Downsampling: buckets of 5 minutes and of an hour are made from the raw blocks of a compacted span, in one pass over them.
//!
//! What is made stands for all of its span, so that it is made from raw blocks only where those are complete, and made anew
//! where a compaction has brought late samples. Where the raw samples are gone, small downsampled blocks are merged into bigger
//! ones. Which of them a query reads is [`isobar_block::resolution`]'s.

pub mod aggregate;
mod build;
mod due;
mod merge;
mod output;
mod relabel;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use isobar_block::writer::WriterConfig;
use isobar_block::{BlockId, BlockMeta, CatalogState, TenantId};
use object_store::ObjectStore;

use crate::error::{Error, Result};
use crate::rewrite::{Control, Damages, Failed, Rewrite, visible};
use output::Outputs;

pub use due::{Due, due};

/// Lengths of the buckets, ascending, milliseconds.
pub const RESOLUTIONS_MS: [i64; 2] = [5 * 60 * 1000, 60 * 60 * 1000];

/// What is encoded of the blocks of one resolution takes this share (1/n) of the memory.
const OUTPUT_SHARE: u64 = 8;

/// Makes downsampled blocks of one tenant. They are complete in the store when a call returns, and no catalog lists them.
pub struct Downsampling {
    /// Where the blocks are.
    pub objects: Arc<dyn ObjectStore>,
    /// Whose blocks.
    pub tenant: TenantId,
    /// The catalog that the job was planned with.
    pub state: Arc<CatalogState>,
    /// Labels that tell replicas apart: such series become one.
    pub replica_labels: Vec<String>,
    /// Bound of what is held.
    pub memory_bytes: u64,
    /// When the blocks are written, Unix milliseconds.
    pub created_ms: i64,
    /// Ends the job, and says how far it is.
    pub control: Arc<Control>,
}

impl Downsampling {
    /// Carries out what is due, and returns the blocks that take the place of [`Due::replaces`]. Dropping the future leaves
    /// files that the clean-up removes.
    ///
    /// # Errors
    /// Whatever goes wrong; see [`Failed`]. What was written is removed then.
    pub async fn run(&self, due: &Due) -> Result<Vec<BlockMeta>, Failed> {
        let damages = Damages::default();
        let mut outputs = Outputs::new(self.objects.clone(), self.tenant.clone(), self.memory_bytes / OUTPUT_SHARE);
        let made = async {
            let inputs = self.visible(&due.inputs)?;
            if due.from_raw {
                self.build(due, &inputs, &damages, &mut outputs).await
            } else {
                self.merge((due.span, due.level), &inputs, &damages, &mut outputs).await
            }
        };
        let made = made.await;
        self.end(made, outputs, &damages).await
    }

    /// Writes a downsampled block anew without what is deleted, and returns the block that takes its place; none if nothing is
    /// left of it.
    ///
    /// # Errors
    /// As [`Downsampling::run`].
    pub async fn rewrite(&self, block: BlockId) -> Result<Vec<BlockMeta>, Failed> {
        let damages = Damages::default();
        let mut outputs = Outputs::new(self.objects.clone(), self.tenant.clone(), u64::MAX);
        let made = async {
            let inputs = self.visible(&[block])?;
            let span = due::span_of(&inputs[0]).ok_or_else(|| Error::Invalid {
                what: "downsampled block",
                reason: format!("block {block} holds raw samples, which are rewritten otherwise"),
            })?;
            self.merge((span, inputs[0].level), &inputs, &damages, &mut outputs).await
        };
        let made = made.await;
        self.end(made, outputs, &damages).await
    }

    async fn end(&self, made: Result<Vec<BlockMeta>>, outputs: Outputs, damages: &Damages) -> Result<Vec<BlockMeta>, Failed> {
        match made {
            Ok(blocks) => {
                blocks.iter().for_each(|b| self.control.add_written(b.size_bytes));
                Ok(blocks)
            }
            Err(error) => {
                outputs.discard().await;
                Err(Failed { error, damage: damages.lock().take() })
            }
        }
    }

    /// The blocks with these ids, ascending by precedence.
    fn visible(&self, ids: &[BlockId]) -> Result<Vec<Arc<BlockMeta>>> {
        let found = visible(&self.state, ids).filter(|blocks| !blocks.is_empty());
        let mut blocks = found.ok_or_else(|| Error::Invalid {
            what: "downsampling",
            reason: "it was planned for blocks that its catalog does not list; plan again".into(),
        })?;
        blocks.sort_by_key(|b| b.precedence());
        Ok(blocks)
    }

    /// How blocks are read.
    fn reading(&self, inputs: &[Arc<BlockMeta>]) -> Rewrite {
        Rewrite {
            objects: self.objects.clone(),
            tenant: self.tenant.clone(),
            inputs: inputs.to_vec(),
            context: Vec::new(),
            tombstones: self.state.tombstones.clone(),
            span: None,
            levels_ms: Vec::new(),
            replica_labels: self.replica_labels.clone(),
            template: Rewrite::template(inputs, &self.state.tombstones, 0, 1, self.created_ms),
            copies_chunks: false,
            memory_bytes: self.memory_bytes,
            control: self.control.clone(),
        }
    }

    /// What the blocks of a span are written with, but for their ids. They cover no log: raw blocks do.
    fn template(&self, inputs: &[Arc<BlockMeta>], span: crate::plan::Span, level: u32, resolution_ms: i64) -> WriterConfig {
        let window_ms = span.end_ms - span.start_ms + 1;
        let template = Rewrite::template(inputs, &self.state.tombstones, level, window_ms, self.created_ms);
        // Downsampled blocks that are merged or rewritten stand for the raw blocks that they were made of.
        let raw = inputs.iter().filter(|b| b.resolution_ms > 0).flat_map(|b| b.sources.iter().copied());
        let sources = template.sources.iter().copied().chain(raw).collect();
        WriterConfig { resolution_ms, writers: Vec::new(), sources, ..template }
    }
}
