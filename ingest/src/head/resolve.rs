//! Finds the series of a request, and creates those that are new.
//!
//! The order in which a sender lists its series hardly changes, so that the series after the one just found is tried first;
//! then the table is asked; and only what is not in the table is made canonical and checked against the limits.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use isobar_block::{Labels, LabelsRef};

use super::append::{Counted, REFUSED, Rules, Workspace};
use super::lookup::{self, Lookup};
use super::page::{LabelHash, PAGE_SERIES, Page, SeriesRef};
use super::pending::UNKNOWN;
use super::series::Series;
use super::{Head, SERIES_BYTES};
use crate::decoded::{DecodedRequest, DecodedSeries, LabelForm, RejectReason, WriteOutcome};

/// Numbers of series stay below this, so that no arithmetic with them can overflow.
const MAX_SERIES_NUMBER: u32 = u32::MAX - 512;

/// What a number of the log means.
#[derive(Clone, Copy, Debug)]
pub struct Definition<'a> {
    number: u32,
    labels: LabelsRef<'a>,
    hash: LabelHash,
}

impl<'a> Definition<'a> {
    /// A definition. This hashes the labels, which takes a good part of the time that a series takes.
    pub fn new(number: u32, labels: LabelsRef<'a>) -> Self {
        Self { number, labels, hash: lookup::hash(LabelForm::Canonical, labels.as_bytes()) }
    }
}

impl Head {
    /// Fills `work.refs` with the series of the request, [`REFUSED`] for those that cannot be.
    pub(super) fn resolve(
        &self,
        request: &DecodedRequest,
        rules: &Rules<'_>,
        work: &mut Workspace,
        outcome: &mut WriteOutcome,
        counted: &mut Counted,
    ) {
        work.refs.clear();
        work.missing.clear();
        let pages = self.pages();
        let mut table = None;
        let mut expected = SeriesRef(0);
        for (i, series) in request.series.iter().enumerate() {
            let hash = lookup::hash(series.form, request.label_bytes_of(series));
            let found = if pages.get(expected.page()).is_some_and(|p| p.is_named(expected.slot(), hash)) {
                Some(expected)
            } else {
                table.get_or_insert_with(|| self.lookup.read()).get(hash)
            };
            match found {
                Some(number) => {
                    work.refs.push(number);
                    expected = SeriesRef(number.0 + 1);
                }
                None => {
                    work.refs.push(REFUSED);
                    work.missing.push((i, hash));
                }
            }
        }
        drop(table);
        if !work.missing.is_empty() {
            self.resolve_missing(request, rules, work, outcome, counted);
        }
    }

    /// Finds by their canonical labels, or creates, the series whose bytes are not known.
    fn resolve_missing(
        &self,
        request: &DecodedRequest,
        rules: &Rules<'_>,
        work: &mut Workspace,
        outcome: &mut WriteOutcome,
        counted: &mut Counted,
    ) {
        let mut refuse = |series: &DecodedSeries, reason: &RejectReason| {
            let count = (series.samples.len() + series.histograms.len() + series.exemplars.len()).max(1) as u64;
            outcome.rejected.add(reason, count, || request.describe(series));
        };
        let mut wanted = Vec::with_capacity(work.missing.len());
        for (i, hash) in work.missing.drain(..) {
            let series = &request.series[i];
            let labels = request.canonical_labels(series).and_then(|l| rules.limits.check_labels(l.as_ref()).map(|()| l));
            match labels {
                Ok(labels) => wanted.push((i, hash, labels)),
                Err(reason) => refuse(series, &reason),
            }
        }
        let max_series = if rules.limits.max_active_series == 0 { u64::MAX } else { rules.limits.max_active_series };
        let mut new_bytes = 0;
        let mut table = self.lookup.write();
        for (i, hash, labels) in wanted {
            let series = &request.series[i];
            let canonical = if series.form == LabelForm::Canonical { hash } else { lookup::hash(LabelForm::Canonical, labels.as_bytes()) };
            let normal =
                series.form == LabelForm::Wire && lookup::is_normal_wire(request.label_bytes_of(series), labels.as_ref(), &mut work.wire);
            let number = match table.get(canonical) {
                Some(number) => number,
                None if table.live as u64 >= max_series => {
                    refuse(series, &RejectReason::SeriesLimit { allowed: max_series });
                    continue;
                }
                None => {
                    counted.created += 1;
                    new_bytes += SERIES_BYTES + labels.as_bytes().len() as i64;
                    self.create(&mut table, canonical, labels)
                }
            };
            if normal && table.get(hash).is_none() {
                table.insert(hash, number);
                self.pages.read()[number.page()].set_hash(number.slot(), hash);
            }
            work.refs[i] = number;
        }
        drop(table);
        self.bytes.fetch_add(new_bytes, Ordering::Relaxed);
    }

    /// Creates a series. The labels must not be in the table.
    fn create(&self, table: &mut Lookup, canonical: LabelHash, labels: Labels) -> SeriesRef {
        Self::create_in(&mut self.pages.write(), table, canonical, labels)
    }

    fn create_in(pages: &mut Arc<Vec<Arc<Page>>>, table: &mut Lookup, canonical: LabelHash, labels: Labels) -> SeriesRef {
        assert!(table.next < MAX_SERIES_NUMBER, "a head counts up to four thousand million series");
        let number = SeriesRef(table.next);
        if number.slot() == 0 {
            let page = Page::default();
            if number.page() > 0 {
                // A head of more than one page will most likely fill this one too.
                page.series.lock().reserve_exact(PAGE_SERIES);
            }
            Arc::make_mut(pages).push(Arc::new(page));
        }
        let page = &pages[number.page()];
        page.set_labels(number.slot(), labels);
        page.set_hash(number.slot(), canonical);
        page.series.lock().push(Series::default());
        table.insert(canonical, number);
        table.next += 1;
        table.live += 1;
        number
    }

    /// Finds or creates series for the replay of the log, and notes in `known` which number of the log means which. No limit
    /// counts there.
    pub fn series_for_replay(&self, definitions: &[Definition<'_>], known: &mut Vec<SeriesRef>) {
        let mut new_bytes = 0;
        let mut table = self.lookup.write();
        let mut pages = self.pages.write();
        for Definition { number, labels, hash } in definitions {
            let series = table.get(*hash).unwrap_or_else(|| {
                new_bytes += SERIES_BYTES + labels.as_bytes().len() as i64;
                Self::create_in(&mut pages, &mut table, *hash, LabelsRef::to_owned(*labels))
            });
            let at = *number as usize;
            if known.len() <= at {
                known.resize(at + 1, UNKNOWN);
            }
            known[at] = series;
        }
        self.bytes.fetch_add(new_bytes, Ordering::Relaxed);
    }
}
