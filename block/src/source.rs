//! How data is read, whoever holds it: the head of an ingester, a block in the object store, or several of them.
//!
//! A selection goes down in three steps, each cheaper to repeat than the one before: [`Source::select`] resolves matchers to
//! sorted series, [`SeriesSet::load`] fetches the bytes of a run of them, and [`SeriesRun::read`] decodes one series.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;

use crate::{Exemplar, Labels, LabelsRef, Matcher, Metadata, Result, SampleBuf, TimeRange};

/// Which number stands for the samples of a bucket where downsampled data is read. Raw samples are what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Aggregate {
    /// The last sample, at its own time: for instant selectors, `delta`, `deriv` and all that follow a value over time.
    #[default]
    Last,
    /// The last sample, and in a block's first bucket of a series the first one too; where the counter was reset inside of a
    /// bucket, also the value it would have reached by then, one millisecond before (and a zero between them if that is not
    /// above the last one), so that `rate` and `increase` see every increase. Fits raw samples before and after it.
    Counter,
    /// The least.
    Min,
    /// The greatest.
    Max,
    /// The mean, with [`SampleBuf::counts`] saying of how many samples: for averages, sums and counts over time.
    Average,
}

/// What a selection may be answered from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Want {
    /// The coarsest resolution that is good enough, milliseconds; 0 asks for raw samples. Where nothing so fine is left,
    /// coarser data is used, and [`SeriesSet::resolution_ms`] says so.
    pub max_resolution_ms: i64,
    /// What of a bucket is read.
    pub aggregate: Aggregate,
}

/// What a selection found.
#[derive(Clone, Default)]
pub struct Selected {
    /// Sets that are each sorted and free of repeats. One series may be in several; its samples then have to be merged by
    /// timestamp, where of two samples at one timestamp that of the later set counts.
    pub sets: Vec<Arc<dyn SeriesSet>>,
    /// What is missing from them, for whoever asked. Never empty if something is left out.
    pub warnings: Vec<String>,
}

impl Selected {
    /// Sets with nothing missing.
    pub fn complete(sets: Vec<Arc<dyn SeriesSet>>) -> Self {
        Self { sets, warnings: Vec::new() }
    }
}

/// How complete an answer about labels or exemplars is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// What is missing, for whoever asked.
    pub warnings: Vec<String>,
    /// Where it comes from: 0 for raw samples, else the length of the buckets that are left of them.
    pub resolutions_ms: BTreeSet<i64>,
}

impl Coverage {
    /// Adds that of another source.
    pub fn extend(&mut self, other: Self) {
        self.warnings.extend(other.warnings);
        self.resolutions_ms.extend(other.resolutions_ms);
    }
}

/// Something that holds series of one tenant. Calls see every sample that was acknowledged before they began.
#[async_trait]
pub trait Source: Send + Sync {
    /// The series that all matchers accept and that may have samples in `range`.
    async fn select(&self, matchers: &[Matcher], range: TimeRange, want: Want) -> Result<Selected>;

    /// Names of labels of matching series, sorted, each once.
    async fn label_names(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>>;

    /// Values of one label of matching series, sorted, each once.
    async fn label_values(&self, name: &str, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>>;

    /// Exemplars of matching series in `range`, by series, in time order.
    async fn exemplars(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<(Labels, Vec<Exemplar>)>>;

    /// How complete the answers about labels and exemplars of these series are; those of [`Source::select`] say so themselves.
    /// Nothing is missing from a source that does not say anything else.
    async fn coverage(&self, _matchers: &[Matcher], _range: TimeRange) -> Result<Coverage> {
        Ok(Coverage::default())
    }

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

    /// 0 for raw samples, else the length of the buckets that the samples stand for.
    fn resolution_ms(&self) -> i64 {
        0
    }

    /// Whether some series may have a label of this name. Cheap; false only if none has.
    fn may_have_label(&self, _name: &str) -> bool {
        true
    }

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
