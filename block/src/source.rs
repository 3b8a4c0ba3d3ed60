//! How data is read, whoever holds it: the head of an ingester, a block in the object store, or several of them.
//!
//! A selection goes down in three steps, each cheaper to repeat than the one before: [`Source::select`] resolves matchers to
//! sorted series, [`SeriesSet::load`] fetches the bytes of a run of them, and [`SeriesRun::read`] decodes one series.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;

use crate::{Exemplar, Labels, LabelsRef, Matcher, Metadata, Result, SampleBuf, TimeRange};

/// Something that holds series of one tenant. Calls see every sample that was acknowledged before they began.
#[async_trait]
pub trait Source: Send + Sync {
    /// The series that all matchers accept and that may have samples in `range`, as sets that are each sorted and free of
    /// repeats. One series may be in several sets; its samples then have to be merged by timestamp, where of two samples at
    /// one timestamp that of the later set counts.
    async fn select(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<Arc<dyn SeriesSet>>>;

    /// Names of labels of matching series, sorted, each once.
    async fn label_names(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>>;

    /// Values of one label of matching series, sorted, each once.
    async fn label_values(&self, name: &str, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>>;

    /// Exemplars of matching series in `range`, by series, in time order.
    async fn exemplars(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<(Labels, Vec<Exemplar>)>>;

    /// Metadata by metric name, sorted by name; only that of `metric` if given. A name has several if writers disagree.
    async fn metadata(&self, metric: Option<&str>) -> Result<Vec<(String, Vec<Metadata>)>>;
}

/// Matching series of one source, ascending by [`LabelsRef`]'s order.
#[async_trait]
pub trait SeriesSet: Send + Sync {
    /// Number of series.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Labels of a series.
    ///
    /// # Panics
    /// If `row` is not below [`SeriesSet::len`].
    fn labels(&self, row: usize) -> LabelsRef<'_>;

    /// Fetches what is needed to read `rows` in `range`. This is where waiting happens; dropping the future ends it.
    async fn load(&self, rows: Range<usize>, range: TimeRange) -> Result<Box<dyn SeriesRun>>;
}

/// Loaded series. Reading is pure computation.
pub trait SeriesRun: Send {
    /// Replaces what is in `out` by the samples of series `row` (numbered as in the set). They cover the range that was
    /// loaded and may go beyond it at both ends. Reuses `out`'s memory.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] if a checksum or a length does not fit.
    ///
    /// # Panics
    /// If `row` is not in the rows that were loaded.
    fn read(&mut self, row: usize, out: &mut SampleBuf) -> Result<()>;
}
