//! Puts what the log holds back into a head. All limits were checked when the samples were acknowledged, so none counts here;
//! what is there already stays as it is, so that a log can be read twice.
//!
//! The log has the samples scrape by scrape. They are gathered by page first, and then put in page by page on several threads:
//! so a series gets many samples while it is in the processor's cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use isobar_block::{Exemplar, Histogram, LabelsRef, Metadata};

use super::Head;
use super::chunk::Sealer;
use super::page::SeriesRef;
use super::series::{AppendContext, Verdict};
use crate::wal::record::{Malformed, read_samples};

/// Threads that put samples in.
const MAX_THREADS: usize = 8;
/// Another thread is worth it for so many samples.
const THREAD_SAMPLES: usize = 1 << 14;
/// Stands for a number of the log that no record has explained.
const UNKNOWN: SeriesRef = SeriesRef(u32::MAX);

/// A head on its way back.
#[derive(Debug)]
pub struct HeadReplay {
    /// The head.
    pub head: Arc<Head>,
    gathered: Gathered,
    /// Series by their number in the log.
    known: Vec<SeriesRef>,
    sealer: Sealer,
    epoch: u32,
    now_s: u32,
    /// What was read.
    pub numbers: ReplayNumbers,
}

/// Samples that are not in the head yet: slot, timestamp and value by page.
#[derive(Debug, Default)]
struct Gathered {
    pages: Vec<Vec<(u32, i64, f64)>>,
    histograms: Vec<(SeriesRef, i64, Histogram)>,
    count: usize,
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
            head,
            known: Vec::new(),
            gathered: Gathered::default(),
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
        let (known, gathered, numbers) = (&self.known, &mut self.gathered, &mut self.numbers);
        read_samples(entries, |number, timestamp_ms, value| match Self::find(known, number) {
            Some(series) => {
                if gathered.pages.len() <= series.page() {
                    gathered.pages.resize_with(series.page() + 1, Vec::new);
                }
                gathered.pages[series.page()].push((series.slot() as u32, timestamp_ms, value));
                gathered.count += 1;
            }
            None => numbers.orphans += 1,
        })
    }

    /// Samples and, as sixteen each, histograms that wait for [`HeadReplay::put_in`]. Each takes 24 bytes.
    pub fn gathered(&self) -> usize {
        self.gathered.count
    }

    /// Puts in what was gathered.
    pub fn put_in(&mut self) {
        if self.gathered.count == 0 {
            return;
        }
        let pages = self.head.pages();
        let next = AtomicUsize::new(0);
        let work = || {
            let (mut numbers, mut sealer) = (ReplayNumbers::default(), Sealer::default());
            let mut context = Self::context(&self.head, self.epoch, &mut sealer);
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(samples) = self.gathered.pages.get(at) else { break };
                let mut series = pages[at].series.lock();
                for (slot, timestamp_ms, value) in samples {
                    let series = &mut series[*slot as usize];
                    series.active_s = self.now_s;
                    numbers.count(series.append(*timestamp_ms, *value, &mut context));
                }
            }
            self.head.bytes.fetch_add(context.new_bytes, Ordering::Relaxed);
            numbers
        };
        let threads =
            std::thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_THREADS).min(1 + self.gathered.count / THREAD_SAMPLES);
        let all: Vec<ReplayNumbers> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut all = vec![work()];
            all.extend(others.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))));
            all
        });
        all.into_iter().for_each(|n| self.numbers.add(n));
        for (series, timestamp_ms, histogram) in std::mem::take(&mut self.gathered.histograms) {
            self.put_in_histogram(series, timestamp_ms, &Arc::new(histogram));
        }
        self.gathered.pages.iter_mut().for_each(Vec::clear);
        self.gathered.count = 0;
    }

    /// Takes a histogram.
    pub fn histogram(&mut self, number: u32, timestamp_ms: i64, histogram: Histogram) {
        match Self::find(&self.known, number) {
            Some(series) => {
                self.gathered.histograms.push((series, timestamp_ms, histogram));
                self.gathered.count += 16;
            }
            None => self.numbers.orphans += 1,
        }
    }

    fn put_in_histogram(&mut self, series: SeriesRef, timestamp_ms: i64, histogram: &Arc<Histogram>) {
        let pages = self.head.pages();
        let mut context = Self::context(&self.head, self.epoch, &mut self.sealer);
        let mut slots = pages[series.page()].series.lock();
        slots[series.slot()].active_s = self.now_s;
        self.numbers.count(slots[series.slot()].append_histogram(timestamp_ms, histogram, &mut context));
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
    pub fn finish(mut self) -> ReplayNumbers {
        self.put_in();
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
