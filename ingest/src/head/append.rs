//! The write path into a head: adds the samples of a request to its series, which [`super::resolve`] finds, and collects the
//! records for the log.
//!
//! All of it happens between two moments at which the epoch can change, so that head and log agree on what belongs to which
//! epoch. A series is only marked as told to the log after the records are queued: until then a second request that uses it
//! tells the log again, and so does not depend on the first one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use isobar_block::{Histogram, Metadata, TenantId};
use parking_lot::MutexGuard;

use super::Head;
use super::chunk::Sealer;
use super::exemplars::ExemplarVerdict;
use super::page::{LabelHash, Page, SeriesRef, prefetch};
use super::series::{AppendContext, Series, Verdict};
use crate::decoded::{DecodedRequest, DecodedSeries, RejectReason, WriteOutcome};
use crate::limits::Limits;
use crate::wal::record::{ExemplarWriter, MetadataWriter, SampleWriter, SeriesWriter, push_histograms};

/// Stands for a series that was refused.
pub(super) const REFUSED: SeriesRef = SeriesRef(u32::MAX);

/// What a request is measured by.
pub struct Rules<'a> {
    /// Whose request it is.
    pub tenant: &'a TenantId,
    /// The tenant's limits.
    pub limits: Limits,
    /// Now, Unix milliseconds.
    pub now_ms: i64,
    /// Epoch of the log.
    pub epoch: u32,
    /// See [`crate::IngestConfig::exemplars_per_tenant`].
    pub max_exemplars: usize,
    /// See [`crate::IngestConfig::metadata_per_tenant`].
    pub max_families: usize,
}

/// Numbers of one request for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Samples and histograms that are new.
    pub appended: u64,
    /// Of these, those that came out of order.
    pub late: u64,
    /// Exact repeats.
    pub repeated: u64,
    /// Series that were created.
    pub created: u64,
    /// Metadata beyond the limit.
    pub metadata_dropped: u64,
}

/// Memory that is reused from request to request, and the records of the present one.
#[derive(Default)]
pub struct Workspace {
    /// Records for the log.
    pub records: Vec<u8>,
    pub(super) refs: Vec<SeriesRef>,
    pub(super) missing: Vec<(usize, LabelHash)>,
    pub(super) wire: Vec<u8>,
    pub(super) sealer: Sealer,
    told: Vec<SeriesRef>,
    told_families: Vec<String>,
    series: SeriesWriter,
    samples: SampleWriter,
    exemplars: ExemplarWriter,
    metadata: MetadataWriter,
    histograms: Vec<(u32, i64, Arc<Histogram>)>,
}

impl Head {
    /// Adds a request. Afterwards `work.records` holds what the log must keep; when they are queued there, call
    /// [`Head::confirm`]. `repeats_are_durable` says whether whatever is in the head by now is queued for the log.
    pub fn append(
        &self,
        request: &DecodedRequest,
        rules: &Rules<'_>,
        work: &mut Workspace,
        repeats_are_durable: &dyn Fn() -> bool,
    ) -> (WriteOutcome, Counted) {
        let (mut outcome, mut counted) = (WriteOutcome::default(), Counted::default());
        outcome.rejected.add_rejections(&request.rejected);
        work.records.clear();
        work.told.clear();
        work.told_families.clear();
        self.resolve(request, rules, work, &mut outcome, &mut counted);
        self.append_samples(request, rules, work, repeats_are_durable, &mut outcome, &mut counted);
        if !request.exemplars.is_empty() {
            self.append_exemplars(request, rules, work, repeats_are_durable, &mut outcome);
        }
        if !request.metadata.is_empty() {
            self.append_metadata(&request.metadata, rules, work, &mut counted);
        }
        work.series.finish(rules.tenant, &mut work.records);
        work.samples.finish(rules.tenant, &mut work.records);
        push_histograms(&mut work.records, rules.tenant, &work.histograms);
        work.histograms.clear();
        work.exemplars.finish(rules.tenant, &mut work.records);
        work.metadata.finish(rules.tenant, &mut work.records);
        (outcome, counted)
    }

    /// Remembers that the log was told of what the last request used first in this epoch.
    pub fn confirm(&self, work: &mut Workspace, epoch: u32) {
        if !work.told.is_empty() {
            let pages = self.pages();
            for run in work.told.chunk_by(|a, b| a.page() == b.page()) {
                let mut series = pages[run[0].page()].series.lock();
                run.iter().for_each(|s| series[s.slot()].logged_epoch = epoch);
            }
        }
        if !work.told_families.is_empty() {
            let mut families = self.families.lock();
            work.told_families.iter().for_each(|name| families.mark_logged(name, epoch));
        }
    }

    fn append_samples(
        &self,
        request: &DecodedRequest,
        rules: &Rules<'_>,
        work: &mut Workspace,
        repeats_are_durable: &dyn Fn() -> bool,
        outcome: &mut WriteOutcome,
        counted: &mut Counted,
    ) {
        let pages = self.pages();
        let grace_ms = i64::try_from(rules.limits.creation_grace_period.as_millis()).unwrap_or(i64::MAX);
        let now_s = (rules.now_ms / 1000).clamp(0, i64::from(u32::MAX)) as u32;
        let mut pass = Pass {
            request,
            context: AppendContext {
                epoch: rules.epoch,
                window_ms: i64::try_from(rules.limits.out_of_order_time_window.as_millis()).unwrap_or(i64::MAX),
                interner: &self.interner,
                sealer: &mut work.sealer,
                new_bytes: 0,
            },
            newest_ms: rules.now_ms.saturating_add(grace_ms),
            repeats_are_durable,
            samples: &mut work.samples,
            histograms: &mut work.histograms,
            outcome,
            counted,
        };
        let mut page = OpenPage::new(&pages);
        for (i, (decoded, number)) in request.series.iter().zip(&work.refs).enumerate() {
            if *number == REFUSED {
                continue;
            }
            page.prefetch(&work.refs[i..]);
            let series = page.series(*number);
            let stored = pass.append_floats(decoded, *number, series) | pass.append_histograms(decoded, *number, series);
            if stored || !decoded.exemplars.is_empty() {
                series.active_s = now_s;
                if series.logged_epoch != rules.epoch {
                    work.told.push(*number);
                    work.series.push(number.0, pages[number.page()].labels_ref(number.slot()));
                }
            }
        }
        drop(page);
        self.bytes.fetch_add(pass.context.new_bytes, Ordering::Relaxed);
        self.samples.fetch_add(pass.counted.appended, Ordering::Relaxed);
    }

    fn append_exemplars(
        &self,
        request: &DecodedRequest,
        rules: &Rules<'_>,
        work: &mut Workspace,
        repeats_are_durable: &dyn Fn() -> bool,
        outcome: &mut WriteOutcome,
    ) {
        let mut ring = self.exemplars.lock();
        for (decoded, number) in request.series.iter().zip(&work.refs).filter(|(_, number)| **number != REFUSED) {
            for exemplar in request.exemplars_of(decoded) {
                if let Err(reason) = rules.limits.check_exemplar(exemplar) {
                    outcome.rejected.add(&reason, 1, || request.describe(decoded));
                    continue;
                }
                match ring.push(*number, rules.epoch, exemplar, rules.max_exemplars) {
                    ExemplarVerdict::OutOfOrder => {
                        let reason = RejectReason::ExemplarOutOfOrder { timestamp_ms: exemplar.timestamp_ms };
                        outcome.rejected.add(&reason, 1, || request.describe(decoded));
                        continue;
                    }
                    ExemplarVerdict::Repeat if repeats_are_durable() => {}
                    ExemplarVerdict::Repeat | ExemplarVerdict::Stored => work.exemplars.push(number.0, exemplar),
                }
                outcome.exemplars_written += 1;
            }
        }
    }

    fn append_metadata(&self, metadata: &[(String, Metadata)], rules: &Rules<'_>, work: &mut Workspace, counted: &mut Counted) {
        let mut families = self.families.lock();
        for (name, metadata) in metadata {
            match families.put(name, metadata, rules.epoch, rules.max_families) {
                Some(true) => {
                    work.metadata.push(name, metadata);
                    work.told_families.push(name.clone());
                }
                Some(false) => {}
                None => counted.metadata_dropped += 1,
            }
        }
    }
}

/// The page of the series at hand, locked. Most series are in the page of the one before them.
pub(super) struct OpenPage<'a> {
    pages: &'a [Arc<Page>],
    open: Option<(usize, MutexGuard<'a, Vec<Series>>)>,
}

impl<'a> OpenPage<'a> {
    /// None is open yet.
    pub(super) fn new(pages: &'a [Arc<Page>]) -> Self {
        Self { pages, open: None }
    }

    /// Asks for the memory of series that come soon, if they are in the page that is open.
    #[inline]
    pub(super) fn prefetch(&self, coming: &[SeriesRef]) {
        const SLOT_AHEAD: usize = 12;
        const TAIL_AHEAD: usize = 6;
        let Some((page, series)) = &self.open else { return };
        let find = |ahead: usize| coming.get(ahead).filter(|s| s.page() == *page).and_then(|s| series.get(s.slot()));
        if let Some(slot) = find(SLOT_AHEAD) {
            prefetch(slot);
            prefetch(std::ptr::from_ref(slot).wrapping_byte_add(64));
        }
        if let Some(slot) = find(TAIL_AHEAD) {
            slot.prefetch_tail();
        }
    }

    /// A series; opens its page.
    #[inline]
    pub(super) fn series(&mut self, number: SeriesRef) -> &mut Series {
        if self.open.as_ref().is_none_or(|(page, _)| *page != number.page()) {
            // The lock of the page before goes first: two requests must not wait for each other.
            drop(self.open.take());
            self.open = Some((number.page(), self.pages[number.page()].series.lock()));
        }
        let (_, series) = self.open.as_mut().expect("it was opened above");
        &mut series[number.slot()]
    }
}

/// One request on its way through its series.
struct Pass<'a> {
    request: &'a DecodedRequest,
    context: AppendContext<'a>,
    newest_ms: i64,
    repeats_are_durable: &'a dyn Fn() -> bool,
    samples: &'a mut SampleWriter,
    histograms: &'a mut Vec<(u32, i64, Arc<Histogram>)>,
    outcome: &'a mut WriteOutcome,
    counted: &'a mut Counted,
}

impl Pass<'_> {
    /// Whether anything was stored or repeated.
    #[inline]
    fn append_floats(&mut self, decoded: &DecodedSeries, number: SeriesRef, series: &mut Series) -> bool {
        let before = self.outcome.samples_written;
        for sample in self.request.samples_of(decoded) {
            let t = sample.timestamp_ms;
            let late = series.is_late(t);
            let verdict = if t > self.newest_ms { None } else { Some(series.append(t, sample.value, &mut self.context)) };
            if self.judge(verdict, t, late, decoded) {
                self.samples.push(number.0, t, sample.value);
            }
            self.outcome.samples_written += u64::from(matches!(verdict, Some(Verdict::Stored | Verdict::Repeat)));
        }
        self.outcome.samples_written > before
    }

    fn append_histograms(&mut self, decoded: &DecodedSeries, number: SeriesRef, series: &mut Series) -> bool {
        let before = self.outcome.histograms_written;
        for (t, histogram) in self.request.histograms_of(decoded) {
            let late = series.is_late(*t);
            let histogram = Arc::new(histogram.clone());
            let verdict = if *t > self.newest_ms { None } else { Some(series.append_histogram(*t, &histogram, &mut self.context)) };
            if self.judge(verdict, *t, late, decoded) {
                self.histograms.push((number.0, *t, histogram));
            }
            self.outcome.histograms_written += u64::from(matches!(verdict, Some(Verdict::Stored | Verdict::Repeat)));
        }
        self.outcome.histograms_written > before
    }

    /// Counts what became of a sample; `None` is one from too far in the future. Returns whether the log has to keep it.
    #[inline]
    fn judge(&mut self, verdict: Option<Verdict>, timestamp_ms: i64, late: bool, decoded: &DecodedSeries) -> bool {
        let reason = match verdict {
            Some(Verdict::Stored) => {
                self.counted.appended += 1;
                self.counted.late += u64::from(late);
                return true;
            }
            Some(Verdict::Repeat) => {
                self.counted.repeated += 1;
                return !(self.repeats_are_durable)();
            }
            Some(Verdict::Conflict) => RejectReason::DuplicateTimestamp { timestamp_ms },
            Some(Verdict::TooOld { oldest_ms }) => RejectReason::TooOld { timestamp_ms, oldest_ms },
            None => RejectReason::TooFarInFuture { timestamp_ms, newest_ms: self.newest_ms },
        };
        self.outcome.rejected.add(&reason, 1, || self.request.describe(decoded));
        false
    }
}
