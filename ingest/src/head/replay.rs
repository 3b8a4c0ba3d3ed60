//! Puts what the log holds back into a head. All limits were checked when the samples were acknowledged, so none counts here;
//! what is there already stays as it is, so that a log can be read twice.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use isobar_block::{Exemplar, Histogram, LabelsRef, Metadata};
use parking_lot::MutexGuard;

use super::Head;
use super::append::OpenPage;
use super::chunk::Sealer;
use super::page::{Page, SeriesRef};
use super::series::{AppendContext, Series, Verdict};
use crate::wal::record::{Malformed, read_samples};

/// Stands for a number of the log that no record has explained.
const UNKNOWN: SeriesRef = SeriesRef(u32::MAX);

/// A head on its way back.
#[derive(Debug)]
pub struct HeadReplay {
    /// The head.
    pub head: Arc<Head>,
    pages: Arc<Vec<Arc<Page>>>,
    /// Series by their number in the log.
    known: Vec<SeriesRef>,
    sealer: Sealer,
    epoch: u32,
    now_s: u32,
    /// What was read.
    pub numbers: ReplayNumbers,
}

/// What a replay has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayNumbers {
    /// Samples and histograms that are in the head now.
    pub samples: u64,
    /// Those that were there already.
    pub repeats: u64,
    /// Those at whose timestamp there is another value, which stays.
    pub conflicts: u64,
    /// Those whose series is not known, because the record that names it was damaged.
    pub orphans: u64,
}

impl HeadReplay {
    /// Begins. What is read will belong to `epoch`.
    pub fn new(head: Arc<Head>, epoch: u32, now_ms: i64) -> Self {
        Self {
            pages: head.pages(),
            head,
            known: Vec::new(),
            sealer: Sealer::default(),
            epoch,
            now_s: (now_ms / 1000).clamp(0, i64::from(u32::MAX)) as u32,
            numbers: ReplayNumbers::default(),
        }
    }

    /// Forgets the numbers of the log: another epoch of it begins.
    pub fn next_epoch(&mut self) {
        self.known.clear();
    }

    /// Takes what a number means.
    pub fn series(&mut self, number: u32, labels: LabelsRef<'_>) {
        let series = self.head.series_for_replay(labels);
        let at = number as usize;
        if self.known.len() <= at {
            self.known.resize(at + 1, UNKNOWN);
        }
        self.known[at] = series;
    }

    fn find(known: &[SeriesRef], number: u32) -> Option<SeriesRef> {
        known.get(number as usize).copied().filter(|s| *s != UNKNOWN)
    }

    fn context<'a>(head: &'a Head, epoch: u32, sealer: &'a mut Sealer) -> AppendContext<'a> {
        AppendContext { epoch, window_ms: i64::MAX, interner: &head.interner, sealer, new_bytes: 0 }
    }

    /// Takes a record of samples.
    ///
    /// # Errors
    /// [`Malformed`] if it cannot be read; what stands before is taken.
    pub fn samples(&mut self, entries: &[u8]) -> Result<(), Malformed> {
        self.pages = self.head.pages();
        let mut context = Self::context(&self.head, self.epoch, &mut self.sealer);
        let mut page = OpenPage::new(&self.pages);
        let (known, numbers, now_s) = (&self.known, &mut self.numbers, self.now_s);
        let result = read_samples(entries, |number, timestamp_ms, value| match Self::find(known, number) {
            Some(series) => {
                let series = page.series(series);
                series.active_s = now_s;
                numbers.count(series.append(timestamp_ms, value, &mut context));
            }
            None => numbers.orphans += 1,
        });
        drop(page);
        self.head.bytes.fetch_add(context.new_bytes, Ordering::Relaxed);
        result
    }

    /// Takes a histogram.
    pub fn histogram(&mut self, number: u32, timestamp_ms: i64, histogram: Histogram) {
        let Some(series) = Self::find(&self.known, number) else {
            self.numbers.orphans += 1;
            return;
        };
        self.pages = self.head.pages();
        let mut context = Self::context(&self.head, self.epoch, &mut self.sealer);
        let mut slots: MutexGuard<'_, Vec<Series>> = self.pages[series.page()].series.lock();
        slots[series.slot()].active_s = self.now_s;
        self.numbers.count(slots[series.slot()].append_histogram(timestamp_ms, &Arc::new(histogram), &mut context));
        self.head.bytes.fetch_add(context.new_bytes, Ordering::Relaxed);
    }

    /// Takes an exemplar.
    pub fn exemplar(&mut self, number: u32, exemplar: &Exemplar, max: usize) {
        match Self::find(&self.known, number) {
            Some(series) => {
                self.head.exemplars.lock().push(series, self.epoch, exemplar, max);
            }
            None => self.numbers.orphans += 1,
        }
    }

    /// Takes metadata.
    pub fn metadata(&mut self, name: &str, metadata: &Metadata, max: usize) {
        self.head.families.lock().put(name, metadata, self.epoch, max);
    }

    /// Ends: what was read waits for the next cut.
    pub fn finish(self) -> ReplayNumbers {
        self.head.samples.fetch_add(self.numbers.samples, Ordering::Relaxed);
        self.numbers
    }
}

impl ReplayNumbers {
    #[inline]
    fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Stored => self.samples += 1,
            Verdict::Repeat => self.repeats += 1,
            Verdict::Conflict | Verdict::TooOld { .. } => self.conflicts += 1,
        }
    }

    /// Adds others.
    pub fn add(&mut self, other: Self) {
        self.samples += other.samples;
        self.repeats += other.repeats;
        self.conflicts += other.conflicts;
        self.orphans += other.orphans;
    }
}
