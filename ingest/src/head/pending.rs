//! Samples of the log that are not in the head yet.
//!
//! A start reads and checks the whole log, makes the series, and remembers where their samples stand. The last of these samples
//! are put in after the store has become ready: by a thread of their own, and by every request that needs them, which then waits
//! for the others. So nothing is answered without them.
//!
//! The log has the samples scrape by scrape. They are put in group by group of series with near numbers, each group by one
//! thread in the order of the log: so a series gets many samples while it is in the processor's cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use isobar_block::{Histogram, TimeRange};
use parking_lot::{Condvar, Mutex};

use super::Head;
use super::append::OpenPage;
use super::chunk::Sealer;
use super::page::SeriesRef;
use super::series::{AppendContext, Verdict};
use crate::wal::mapped::Segments;
use crate::wal::record::{SampleRun, read_run};

/// Series whose numbers in the log begin alike; as many as a page has.
pub const GROUP_SERIES: u32 = 256;
/// A series that gets so many samples on average will fill its tail.
const TAIL_WORTH: u64 = 6;
/// Stands for a number of the log that no record has explained.
pub const UNKNOWN: SeriesRef = SeriesRef(u32::MAX);

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

/// Where the samples stand.
#[derive(Debug)]
pub struct Gathered {
    /// By series number divided by [`GROUP_SERIES`]: runs with the place of their segment, in the order of the log.
    pub groups: Vec<Vec<(u32, SampleRun)>>,
    /// Series number, Unix milliseconds and histogram.
    pub histograms: Vec<(u32, i64, Histogram)>,
    /// First timestamp, Unix milliseconds.
    pub first_ms: i64,
    /// Last timestamp, Unix milliseconds.
    pub last_ms: i64,
}

impl Default for Gathered {
    fn default() -> Self {
        Self { groups: Vec::new(), histograms: Vec::new(), first_ms: i64::MAX, last_ms: i64::MIN }
    }
}

/// Samples that belong to one head.
#[derive(Debug)]
pub struct Pending {
    gathered: Gathered,
    segments: Arc<Segments>,
    /// Series by their number in the log.
    known: Vec<SeriesRef>,
    epoch: u32,
    now_s: u32,
    next: AtomicUsize,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    numbers: ReplayNumbers,
    groups_done: usize,
    ended: bool,
}

impl Pending {
    /// What `gathered` tells, to be put in as part of `epoch`.
    pub fn new(gathered: Gathered, segments: Arc<Segments>, known: Vec<SeriesRef>, epoch: u32, now_s: u32) -> Self {
        Self { gathered, segments, known, epoch, now_s, next: AtomicUsize::new(0), state: Mutex::default(), ended: Condvar::new() }
    }

    /// Whether some of it lies in `range`.
    pub fn overlaps(&self, range: TimeRange) -> bool {
        self.gathered.first_ms <= range.end_ms() && range.start_ms() <= self.gathered.last_ms
    }

    /// Takes part in putting everything in, and returns when it is done.
    pub fn put_in(&self, head: &Head) -> ReplayNumbers {
        let mut sealer = Sealer::default();
        loop {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(group) = self.gathered.groups.get(at) else { break };
            let done = Done { pending: self, head };
            let numbers = self.put_in_group(head, group, &mut sealer);
            self.state.lock().numbers.add(numbers);
            drop(done);
        }
        let mut state = self.state.lock();
        if self.gathered.groups.is_empty() && !state.ended {
            self.end(head, &mut state);
        }
        while !state.ended {
            self.ended.wait(&mut state);
        }
        state.numbers
    }

    fn find(&self, number: u32) -> Option<SeriesRef> {
        self.known.get(number as usize).copied().filter(|s| *s != UNKNOWN)
    }

    fn context<'a>(&self, head: &'a Head, sealer: &'a mut Sealer) -> AppendContext<'a> {
        AppendContext { epoch: self.epoch, window_ms: i64::MAX, interner: &head.interner, sealer, new_bytes: 0 }
    }

    fn put_in_group(&self, head: &Head, group: &[(u32, SampleRun)], sealer: &mut Sealer) -> ReplayNumbers {
        let mut numbers = ReplayNumbers::default();
        let mut context = self.context(head, sealer);
        let pages = head.pages();
        let mut page = OpenPage::new(&pages);
        let samples: u64 = group.iter().map(|(_, run)| u64::from(run.samples)).sum();
        let whole_tails = samples >= TAIL_WORTH * u64::from(GROUP_SERIES);
        for (segment, run) in group {
            let bytes = &self.segments.all()[*segment as usize].bytes()[run.offset as usize..];
            let read = read_run(bytes, run, |number, timestamp_ms, value| match self.find(number) {
                Some(series) => {
                    let series = page.series(series);
                    if whole_tails {
                        series.reserve_tail();
                    }
                    series.active_s = self.now_s;
                    numbers.count(series.append(timestamp_ms, value, &mut context));
                }
                None => numbers.orphans += 1,
            });
            if read.is_err() {
                // They were read once before. A start that finds them so refuses, or says what it skips.
                tracing::error!("the write-ahead log has changed while it was read; samples are missing until the next start");
            }
        }
        drop(page);
        head.bytes.fetch_add(context.new_bytes, Ordering::Relaxed);
        numbers
    }

    fn put_in_histograms(&self, head: &Head, numbers: &mut ReplayNumbers) {
        let mut sealer = Sealer::default();
        let mut context = self.context(head, &mut sealer);
        let pages = head.pages();
        let mut page = OpenPage::new(&pages);
        for (number, timestamp_ms, histogram) in &self.gathered.histograms {
            let Some(series) = self.find(*number) else {
                numbers.orphans += 1;
                continue;
            };
            let series = page.series(series);
            series.active_s = self.now_s;
            numbers.count(series.append_histogram(*timestamp_ms, &Arc::new(histogram.clone()), &mut context));
        }
        drop(page);
        head.bytes.fetch_add(context.new_bytes, Ordering::Relaxed);
    }

    fn end(&self, head: &Head, state: &mut State) {
        self.put_in_histograms(head, &mut state.numbers);
        head.samples.fetch_add(state.numbers.samples, Ordering::Relaxed);
        head.forget_pending(self);
        state.ended = true;
        self.ended.notify_all();
    }
}

/// Counts a group as done, also if putting it in panics: nobody must wait for ever.
struct Done<'a> {
    pending: &'a Pending,
    head: &'a Head,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        let mut state = self.pending.state.lock();
        state.groups_done += 1;
        if state.groups_done == self.pending.gathered.groups.len() {
            self.pending.end(self.head, &mut state);
        }
    }
}

impl Head {
    /// Leaves samples to be put in by [`Head::complete`].
    pub fn set_pending(&self, pending: Pending) {
        *self.pending.write() = Some(Arc::new(pending));
        self.is_pending.store(true, Ordering::Release);
    }

    /// Whether some samples are not in yet.
    pub fn is_pending(&self) -> bool {
        self.is_pending.load(Ordering::Acquire)
    }

    fn forget_pending(&self, ended: &Pending) {
        let mut pending = self.pending.write();
        if pending.as_ref().is_some_and(|p| std::ptr::eq(&**p, ended)) {
            *pending = None;
            self.is_pending.store(false, Ordering::Release);
        }
    }

    /// Puts in the samples that a start has left for later, or waits until others have. Call it before anything that reads or
    /// adds samples. Blocks.
    #[inline]
    pub fn complete(&self) -> ReplayNumbers {
        if self.is_pending.load(Ordering::Acquire) { self.complete_if(|_| true) } else { ReplayNumbers::default() }
    }

    /// As [`Head::complete`], if any of these samples lie in `range`.
    #[inline]
    pub fn complete_in(&self, range: TimeRange) {
        if self.is_pending.load(Ordering::Acquire) {
            self.complete_if(|pending| pending.overlaps(range));
        }
    }

    #[cold]
    fn complete_if(&self, needed: impl FnOnce(&Pending) -> bool) -> ReplayNumbers {
        let pending = self.pending.read().clone();
        pending.filter(|p| needed(p)).map(|p| p.put_in(self)).unwrap_or_default()
    }
}
