//! A head as a source of series for queries.
//!
//! A query must select from the heads before it looks at the catalog: samples move from the head into a block, and what it
//! has selected here stays here until it has read it ([`super::pins`]). Samples that it finds twice are merged by timestamp.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use isobar_block::{
    Error, Exemplar, Labels, LabelsRef, Matcher, Metadata, Result, SampleBuf, Selected, SeriesRun, SeriesSet, Source, TimeRange, Want,
};
use parking_lot::MutexGuard;
use roaring::RoaringBitmap;

use super::Head;
use super::order;
use super::page::{Page, SeriesRef};
use super::pins::Pin;
use super::read::Reader;
use super::series::Series;

/// Selections of fewer series are sorted on their own, without the order of all.
const SORT_MAX: usize = 2048;

/// A head that queries can read.
#[derive(Debug)]
pub struct HeadSource(pub Arc<Head>);

/// Series of a head, in order.
#[derive(Debug)]
struct HeadSet {
    head: Arc<Head>,
    pages: Arc<Vec<Arc<Page>>>,
    series: Vec<SeriesRef>,
    pin: Arc<Pin>,
}

/// Series of a head that are being read.
struct HeadRun {
    pages: Arc<Vec<Arc<Page>>>,
    series: Vec<SeriesRef>,
    first_row: usize,
    range: TimeRange,
    reader: Reader,
    pin: Arc<Pin>,
}

impl Head {
    /// The series that all matchers accept and that have a part with samples in `range`.
    fn selected(&self, pages: &[Arc<Page>], matchers: &[Matcher], range: TimeRange) -> RoaringBitmap {
        self.complete_in(range);
        // Right after a start the index is not there yet, and a query of old data need not wait for it.
        if !self.is_index_ready() && !pages.iter().any(|page| page.has_samples(range)) {
            return RoaringBitmap::new();
        }
        let mut selected = self.with_index(false, |index| index.select(matchers));
        let mut absent = Vec::new();
        let mut open: Option<(usize, MutexGuard<'_, Vec<Series>>)> = None;
        for number in &selected {
            let series = SeriesRef(number);
            let Some(page) = pages.get(series.page()) else {
                absent.push(number);
                continue;
            };
            if open.as_ref().is_none_or(|(at, _)| *at != series.page()) {
                drop(open.take());
                open = Some((series.page(), page.series.lock()));
            }
            if !open.as_ref().and_then(|(_, slots)| slots.get(series.slot())).is_some_and(|s| s.has_samples(range)) {
                absent.push(number);
            }
        }
        drop(open);
        absent.into_iter().for_each(|number| {
            selected.remove(number);
        });
        selected
    }

    /// In the order of labels.
    fn sorted(&self, pages: &[Arc<Page>], selected: &RoaringBitmap) -> Vec<SeriesRef> {
        let count = selected.len() as usize;
        if count <= SORT_MAX {
            let labels = |s: SeriesRef| Self::page_of(pages, s).labels_ref(s.slot());
            let mut series: Vec<SeriesRef> = selected.iter().map(SeriesRef).collect();
            series.sort_unstable_by(|a, b| order::compare(labels(*a), labels(*b)));
            return series;
        }
        let order = self.with_index(true, |index| index.order());
        if count * 4 > order.sorted.len() {
            let mut wanted = vec![false; order.ranks.len()];
            selected.iter().for_each(|n| wanted[n as usize] = true);
            return order.sorted.iter().filter(|n| wanted[**n as usize]).map(|n| SeriesRef(*n)).collect();
        }
        let mut series: Vec<SeriesRef> = selected.iter().map(SeriesRef).collect();
        series.sort_unstable_by_key(|s| order.ranks[s.0 as usize]);
        series
    }
}

#[async_trait]
impl Source for HeadSource {
    async fn select(&self, matchers: &[Matcher], range: TimeRange, _want: Want) -> Result<Selected> {
        // The pin comes first: whatever is dropped from now on waits for it.
        let pin = self.0.pins.pin();
        let pages = self.0.pages();
        let selected = self.0.selected(&pages, matchers, range);
        if selected.is_empty() {
            return Ok(Selected::default());
        }
        let series = self.0.sorted(&pages, &selected);
        Ok(Selected::complete(vec![Arc::new(HeadSet { head: Arc::clone(&self.0), pages, series, pin: Arc::new(pin) })]))
    }

    async fn label_names(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>> {
        let selected = self.0.selected(&self.0.pages(), matchers, range);
        Ok(self.0.with_index(false, |index| index.label_names(&selected)))
    }

    async fn label_values(&self, name: &str, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>> {
        let selected = self.0.selected(&self.0.pages(), matchers, range);
        Ok(self.0.with_index(false, |index| index.label_values(name, &selected)))
    }

    async fn exemplars(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<(Labels, Vec<Exemplar>)>> {
        let selected = self.0.with_index(false, |index| index.select(matchers));
        let pages = self.0.pages();
        let ring = self.0.exemplars.lock();
        let mut found: Vec<(SeriesRef, Exemplar)> = ring
            .iter()
            .filter(|(series, _, e)| selected.contains(series.0) && range.contains(e.timestamp_ms))
            .map(|(series, _, e)| (series, e.clone()))
            .collect();
        drop(ring);
        found.sort_by_key(|(series, e)| (*series, e.timestamp_ms));
        let mut by_series: Vec<(Labels, Vec<Exemplar>)> = found
            .chunk_by(|a, b| a.0 == b.0)
            .map(|run| (Head::page_of(&pages, run[0].0).labels(run[0].0.slot()).clone(), run.iter().map(|(_, e)| e.clone()).collect()))
            .collect();
        by_series.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(by_series)
    }

    async fn metadata(&self, metric: Option<&str>) -> Result<Vec<(String, Vec<Metadata>)>> {
        Ok(self.0.families.lock().list(metric))
    }
}

#[async_trait]
impl SeriesSet for HeadSet {
    fn len(&self) -> usize {
        self.series.len()
    }

    fn labels(&self, row: usize) -> LabelsRef<'_> {
        let series = self.series[row];
        self.pages[series.page()].labels_ref(series.slot())
    }

    fn may_have_label(&self, name: &str) -> bool {
        self.head.with_index(false, |index| index.has_label(name))
    }

    async fn load(&self, rows: Range<usize>, range: TimeRange) -> Result<Box<dyn SeriesRun>> {
        Ok(Box::new(HeadRun {
            pages: Arc::clone(&self.pages),
            series: self.series[rows.clone()].to_vec(),
            first_row: rows.start,
            range,
            reader: Reader::default(),
            pin: Arc::clone(&self.pin),
        }))
    }
}

impl SeriesRun for HeadRun {
    fn read(&mut self, row: usize, out: &mut SampleBuf) -> Result<()> {
        let number = self.series[row - self.first_row];
        self.reader.collected.clear();
        {
            let page = self.pages[number.page()].series.lock();
            page[number.slot()].collect(self.range, u32::MAX, &mut self.reader.collected)?;
        }
        if !self.pin.holds() {
            let reason = "the query took so long that what it selected has moved into a block; ask again".to_owned();
            return Err(Error::Invalid { what: "query", reason });
        }
        self.reader.finish(out)
    }
}
