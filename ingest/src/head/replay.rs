//! Puts what the log holds back into a head. All limits were checked when the samples were acknowledged, so none counts here;
//! what is there already stays as it is, so that a log can be read twice.
//!
//! One thread reads the log and gathers where samples stand ([`HeadReplay`]), another one makes the series meanwhile
//! ([`Names`]). What was gathered becomes [`Pending`].

use std::sync::Arc;

use isobar_block::{Exemplar, Histogram, Metadata};
use parking_lot::Mutex;

use super::Head;
use super::page::SeriesRef;
use super::pending::{GROUP_SERIES, Gathered, Pending, ReplayNumbers, UNKNOWN};
use super::resolve::Definition;
use crate::wal::mapped::Segments;
use crate::wal::record::{Malformed, scan_samples};

/// Threads that put samples in.
const MAX_THREADS: usize = 8;
/// Another thread is worth it for so many samples.
const THREAD_SAMPLES: usize = 1 << 14;
/// A histogram counts as so many samples.
const HISTOGRAM_SAMPLES: usize = 16;

/// The series of a head on its way back.
#[derive(Debug)]
pub struct Names {
    /// The head.
    pub head: Arc<Head>,
    epoch: u32,
    /// Series by their number in the log.
    known: Mutex<Vec<SeriesRef>>,
}

impl Names {
    /// Begins. What is read will belong to `epoch`.
    pub fn new(head: Arc<Head>, epoch: u32) -> Self {
        Self { head, epoch, known: Mutex::default() }
    }

    /// Takes what numbers mean.
    pub fn series(&self, definitions: &[Definition<'_>]) {
        self.head.series_for_replay(definitions, &mut self.known.lock());
    }

    /// Takes exemplars; returns how many have an unknown series.
    pub fn exemplars(&self, exemplars: &[(u32, Exemplar)], max: usize) -> u64 {
        let known = self.known.lock();
        let mut ring = self.head.exemplars.lock();
        let mut orphans = 0;
        for (number, exemplar) in exemplars {
            match known.get(*number as usize).filter(|s| **s != UNKNOWN) {
                Some(series) => {
                    ring.push(*series, self.epoch, exemplar, max);
                }
                None => orphans += 1,
            }
        }
        orphans
    }
}

/// The samples of a head on its way back.
#[derive(Debug)]
pub struct HeadReplay {
    names: Arc<Names>,
    segments: Arc<Segments>,
    gathered: Gathered,
    samples: usize,
    now_s: u32,
    /// What was put in.
    numbers: ReplayNumbers,
}

impl HeadReplay {
    /// Begins.
    pub fn new(names: Arc<Names>, segments: Arc<Segments>, now_ms: i64) -> Self {
        let now_s = (now_ms / 1000).clamp(0, i64::from(u32::MAX)) as u32;
        Self { names, segments, gathered: Gathered::default(), samples: 0, now_s, numbers: ReplayNumbers::default() }
    }

    /// The series.
    pub fn names(&self) -> &Arc<Names> {
        &self.names
    }

    /// Takes a record of samples of the segment at a place, where its entries begin at `offset`.
    ///
    /// # Errors
    /// [`Malformed`] if it cannot be read; what stands before is taken.
    pub fn samples(&mut self, segment: usize, offset: usize, entries: &[u8]) -> Result<(), Malformed> {
        let (gathered, samples) = (&mut self.gathered, &mut self.samples);
        let scanned = scan_samples(entries, GROUP_SERIES, |group, mut run| {
            run.offset += offset as u64;
            *samples += run.samples as usize;
            if gathered.groups.len() <= group {
                gathered.groups.resize_with(group + 1, Vec::new);
            }
            gathered.groups[group].push((segment as u32, run));
        });
        match scanned {
            Ok((first_ms, last_ms)) => self.widen(first_ms, last_ms),
            Err(_) => self.widen(i64::MIN, i64::MAX),
        }
        scanned.map(|_| ())
    }

    fn widen(&mut self, first_ms: i64, last_ms: i64) {
        self.gathered.first_ms = self.gathered.first_ms.min(first_ms);
        self.gathered.last_ms = self.gathered.last_ms.max(last_ms);
    }

    /// Takes a histogram.
    pub fn histogram(&mut self, number: u32, timestamp_ms: i64, histogram: Histogram) {
        self.gathered.histograms.push((number, timestamp_ms, histogram));
        self.samples += HISTOGRAM_SAMPLES;
        self.widen(timestamp_ms, timestamp_ms);
    }

    /// Takes metadata.
    pub fn metadata(&mut self, name: &str, metadata: &Metadata, max: usize) {
        self.names.head.families.lock().put(name, metadata, self.names.epoch, max);
    }

    /// Samples and, as sixteen each, histograms that wait for [`HeadReplay::put_in`] or [`HeadReplay::finish`].
    pub fn gathered(&self) -> usize {
        self.samples
    }

    fn take(&mut self, known: Vec<SeriesRef>) -> Pending {
        self.samples = 0;
        Pending::new(std::mem::take(&mut self.gathered), Arc::clone(&self.segments), known, self.names.epoch, self.now_s)
    }

    /// Puts in what was gathered. The series must be there.
    pub fn put_in(&mut self) {
        if self.samples == 0 {
            return;
        }
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_THREADS).min(1 + self.samples / THREAD_SAMPLES);
        let known = self.names.known.lock().clone();
        let pending = self.take(known);
        let head = &*self.names.head;
        let numbers = std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| pending.put_in(head));
            }
            pending.put_in(head)
        });
        self.numbers.add(numbers);
    }

    /// Forgets the numbers of the log: another epoch of it begins. Everything gathered must have been put in.
    pub fn next_epoch(&mut self) {
        self.names.known.lock().clear();
    }

    /// Ends: what was gathered and not put in is left to [`Head::complete`], and then waits for the next cut. Returns what is in.
    pub fn finish(mut self) -> ReplayNumbers {
        if self.samples > 0 {
            let known = std::mem::take(&mut *self.names.known.lock());
            let pending = self.take(known);
            self.names.head.set_pending(pending);
        }
        self.numbers
    }
}

#[cfg(test)]
mod tests {
    use isobar_block::{Labels, Matcher, SampleBuf, Source, TenantId, TimeRange, Want};

    use super::super::source::HeadSource;
    use super::*;
    use crate::wal::record::{BATCH_MARKER_BYTES, Frame, Kind, SampleWriter, SeriesWriter, read_series, read_tenant};
    use crate::wal::replay::{OnDamage, replay};
    use crate::wal::segment::{Header, NO_PREVIOUS, SegmentFile};

    const SERIES: u32 = 600;
    const SCRAPES: i64 = 40;

    fn labels(number: u32) -> Labels {
        Labels::from_pairs([("__name__", "m"), ("i", format!("{number:04}").as_str())]).expect("valid")
    }

    /// A log with all scrapes of all series but one, which it has samples of but no labels.
    fn write_log(dir: &std::path::Path) {
        let tenant = TenantId::default();
        let mut file = SegmentFile::create(dir, Header { number: 1, epoch: 1, previous_bytes: NO_PREVIOUS }).expect("creates");
        let (mut series, mut samples) = (SeriesWriter::default(), SampleWriter::default());
        for scrape in 0..SCRAPES {
            let mut batch = vec![0; BATCH_MARKER_BYTES];
            for number in 0..=SERIES {
                if scrape == 0 && number < SERIES {
                    series.push(number, labels(number).as_ref());
                }
                samples.push(number, 1_000_000 + scrape * 15_000, f64::from(number) + scrape as f64 / 8.0);
            }
            series.finish(&tenant, &mut batch);
            samples.finish(&tenant, &mut batch);
            file.append(&mut batch).expect("appends");
        }
    }

    fn read_log(dir: &std::path::Path) -> HeadReplay {
        let segments = Arc::new(Segments::open(dir).expect("opens"));
        let mut back = HeadReplay::new(Arc::new(Names::new(Arc::default(), 1)), Arc::clone(&segments), 2_000_000);
        let take = |at: usize, frame: Frame<'_>| {
            let (_, entries) = read_tenant(frame.payload).expect("reads");
            let mut definitions = Vec::new();
            if frame.kind == Kind::Series {
                read_series(entries, |number, labels| definitions.push(Definition::new(number, labels))).expect("reads");
                back.names().series(&definitions);
            } else {
                let offset = entries.as_ptr().addr() - segments.all()[at].bytes().as_ptr().addr();
                back.samples(at, offset, entries).expect("reads");
            }
            Ok(())
        };
        replay(&segments, OnDamage::Fail, |_, _, _| (), take).expect("replays");
        back
    }

    async fn read_head(head: &Arc<Head>, range: TimeRange) -> Vec<(Labels, Vec<(i64, f64)>)> {
        let sets = HeadSource(Arc::clone(head)).select(&[] as &[Matcher], range, Want::default()).await.expect("selects").sets;
        let mut all = Vec::new();
        for set in sets {
            let mut run = set.load(0..set.len(), range).await.expect("loads");
            for row in 0..set.len() {
                let mut samples = SampleBuf::default();
                run.read(row, &mut samples).expect("reads");
                let pairs = samples.timestamps.iter().copied().zip(samples.values.iter().copied()).collect();
                all.push((set.labels(row).to_owned(), pairs));
            }
        }
        all
    }

    #[tokio::test]
    async fn samples_that_are_put_in_later_are_there_for_whoever_needs_them() {
        let dir = tempfile::tempdir().expect("a directory");
        write_log(dir.path());
        let back = read_log(dir.path());
        let head = Arc::clone(&back.names().head);
        assert_eq!(back.finish(), ReplayNumbers::default());
        assert_eq!((head.series(), head.samples(), head.is_pending()), (SERIES as usize, 0, true));
        let before = TimeRange::new(0, 999_999).expect("a range");
        assert_eq!(read_head(&head, before).await, []);
        assert!(head.is_pending(), "a query of older data waits for nothing");
        let numbers = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| head.complete())).collect();
            threads.into_iter().map(|t| t.join().expect("ends")).find(|n| n.samples > 0).expect("one was in time")
        });
        let expected = u64::from(SERIES) * SCRAPES as u64;
        assert_eq!(numbers, ReplayNumbers { samples: expected, orphans: SCRAPES as u64, ..ReplayNumbers::default() });
        assert_eq!((head.samples(), head.is_pending()), (expected, false));
        let whole: Vec<(Labels, Vec<(i64, f64)>)> = (0..SERIES)
            .map(|n| (labels(n), (0..SCRAPES).map(|s| (1_000_000 + s * 15_000, f64::from(n) + s as f64 / 8.0)).collect()))
            .collect();
        assert_eq!(read_head(&head, TimeRange::ALL).await, whole);
        // Without anyone who completes it before, the query does.
        let back = read_log(dir.path());
        let head = Arc::clone(&back.names().head);
        back.finish();
        assert_eq!(read_head(&head, TimeRange::ALL).await, whole);
        assert!(!head.is_pending());
        // What is put in at once is the same.
        let mut back = read_log(dir.path());
        back.put_in();
        assert_eq!(read_head(&back.names().head, TimeRange::ALL).await, whole);
        assert_eq!(back.finish().samples, expected);
    }
}
