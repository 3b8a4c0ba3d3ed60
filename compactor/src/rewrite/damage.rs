//! Finds out which of several merged blocks is the damaged one.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use isobar_block::{BlockId, Error, LabelsRef, Result, SampleBuf, SeriesRun, SeriesSet, TimeRange};
use parking_lot::Mutex;

/// A block that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The block.
    pub block: BlockId,
    /// What is wrong with it.
    pub reason: String,
    /// Whether a file of it is missing, which is no damage if the block was removed meanwhile.
    pub missing: bool,
}

/// Where the first damage is noted.
pub type Damages = Arc<Mutex<Option<Damage>>>;

/// Passes a result on, and notes if it says that a block is damaged.
pub fn note<T>(result: Result<T>, block: BlockId, damages: &Damages) -> Result<T> {
    if let Err(e) = &result {
        let missing = matches!(e, Error::Store(object_store::Error::NotFound { .. }));
        if missing || matches!(e, Error::Corrupt { .. } | Error::Version { .. } | Error::Parquet(_) | Error::Arrow(_)) {
            damages.lock().get_or_insert_with(|| Damage { block, reason: e.to_string(), missing });
        }
    }
    result
}

/// The series of one block. Errors that say that it is damaged are noted.
pub struct Noted {
    /// The series.
    pub inner: Arc<dyn SeriesSet>,
    /// Whose they are.
    pub block: BlockId,
    /// Where to note.
    pub damages: Damages,
}

#[async_trait]
impl SeriesSet for Noted {
    fn len(&self) -> usize {
        self.inner.len()
    }

    fn labels(&self, row: usize) -> LabelsRef<'_> {
        self.inner.labels(row)
    }

    fn resolution_ms(&self) -> i64 {
        self.inner.resolution_ms()
    }

    fn may_have_label(&self, name: &str) -> bool {
        self.inner.may_have_label(name)
    }

    async fn load(&self, rows: Range<usize>, range: TimeRange) -> Result<Box<dyn SeriesRun>> {
        let inner = note(self.inner.load(rows, range).await, self.block, &self.damages)?;
        Ok(Box::new(NotedRun { inner, block: self.block, damages: self.damages.clone() }))
    }
}

struct NotedRun {
    inner: Box<dyn SeriesRun>,
    block: BlockId,
    damages: Damages,
}

impl SeriesRun for NotedRun {
    fn read(&mut self, row: usize, out: &mut SampleBuf) -> Result<()> {
        note(self.inner.read(row, out), self.block, &self.damages)
    }
}
