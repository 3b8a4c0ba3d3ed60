//! A source in memory for tests: a list of series, looked through from beginning to end. What is kept only in downsampled form
//! (see [`MemorySource::keep`]) is computed from the samples when it is asked for.

mod rollup;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;
use isobar_block::{
    Coverage, Exemplar, Labels, LabelsRef, Matcher, Metadata, Result, SampleBuf, Selected, SeriesRun, SeriesSet, Source, TenantId,
    TimeRange, Timestamps, Want,
};
use parking_lot::Mutex;

use crate::storage::{Storage, View};

/// Series, exemplars and metadata.
#[derive(Clone, Default)]
pub struct MemorySource {
    series: Vec<(Labels, SampleBuf)>,
    exemplars: Vec<(Labels, Vec<Exemplar>)>,
    metadata: Vec<(String, Vec<Metadata>)>,
    /// Resolutions and when there is data of them. Raw samples at all times if empty.
    kept: Vec<(i64, TimeRange)>,
    /// What selections are answered with besides.
    warnings: Vec<String>,
    /// What was asked for.
    asked: Arc<Mutex<Vec<(TimeRange, Want)>>>,
}

/// Labels from text such as `up{job="x"}`.
pub fn labels(text: &str) -> Labels {
    let selector = crate::promql::parse_selector(text).expect("a selector of equalities");
    Labels::from_pairs(selector.matchers.iter().map(|m| (m.name(), m.value()))).expect("valid labels")
}

impl MemorySource {
    /// Adds a float series: Unix milliseconds and value, ascending.
    pub fn float(&mut self, series: &str, samples: &[(i64, f64)]) -> &mut Self {
        let (millis, values) = samples.iter().copied().unzip();
        self.push(series, SampleBuf { timestamps: Timestamps::unshared(millis), values, histograms: Vec::new(), counts: Vec::new() })
    }

    fn push(&mut self, series: &str, samples: SampleBuf) -> &mut Self {
        self.series.push((labels(series), samples));
        self.series.sort_by(|a, b| a.0.cmp(&b.0));
        self
    }

    /// Keeps data of one resolution (0: raw samples) from one time to another, in milliseconds; what is not kept so is gone.
    pub fn keep(&mut self, resolution_ms: i64, from_ms: i64, to_ms: i64) -> &mut Self {
        self.kept.push((resolution_ms, TimeRange::new(from_ms, to_ms).expect("ascending")));
        self
    }

    /// Answers all selections with a warning.
    pub fn warn(&mut self, warning: &str) -> &mut Self {
        self.warnings.push(warning.into());
        self
    }

    /// What selections have asked for since the last call.
    pub fn take_asked(&self) -> Vec<(TimeRange, Want)> {
        std::mem::take(&mut self.asked.lock())
    }

    /// Adds exemplars of a series.
    pub fn add_exemplars(&mut self, series: &str, exemplars: Vec<Exemplar>) -> &mut Self {
        self.exemplars.push((labels(series), exemplars));
        self
    }

    /// Adds metadata of a metric.
    pub fn add_metadata(&mut self, metric: &str, metadata: Vec<Metadata>) -> &mut Self {
        self.metadata.push((metric.into(), metadata));
        self
    }

    fn matching<'a>(&'a self, matchers: &'a [Matcher], range: TimeRange) -> impl Iterator<Item = &'a (Labels, SampleBuf)> {
        self.series.iter().filter(move |(labels, samples)| {
            Matcher::all_match(matchers, labels.as_ref()) && samples.timestamps.iter().any(|t| range.contains(*t))
        })
    }
}

#[async_trait]
impl Source for MemorySource {
    async fn select(&self, matchers: &[Matcher], range: TimeRange, want: Want) -> Result<Selected> {
        self.asked.lock().push((range, want));
        let slices = if self.kept.is_empty() { vec![(0, range)] } else { rollup::slices(&self.kept, range, want.max_resolution_ms) };
        let sets = slices.into_iter().map(|(resolution_ms, slice)| {
            let matching = self.matching(matchers, slice);
            let series = if self.kept.is_empty() {
                matching.cloned().collect()
            } else {
                matching.map(|(l, samples)| (l.clone(), rollup::downsampled(samples, resolution_ms, slice, want.aggregate))).collect()
            };
            Arc::new(MemorySet { series: Arc::new(series), resolution_ms }) as Arc<dyn SeriesSet>
        });
        Ok(Selected { sets: sets.collect(), warnings: self.warnings.clone() })
    }

    async fn label_names(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>> {
        let names: BTreeSet<_> = self.matching(matchers, range).flat_map(|(l, _)| l.iter().map(|(n, _)| n.to_owned())).collect();
        Ok(names.into_iter().collect())
    }

    async fn label_values(&self, name: &str, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>> {
        let values: BTreeSet<_> = self.matching(matchers, range).filter_map(|(l, _)| l.get(name).map(str::to_owned)).collect();
        Ok(values.into_iter().collect())
    }

    async fn exemplars(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<(Labels, Vec<Exemplar>)>> {
        let inside = |list: &[Exemplar]| list.iter().filter(|e| range.contains(e.timestamp_ms)).cloned().collect::<Vec<_>>();
        let matching = self.exemplars.iter().filter(|(labels, _)| Matcher::all_match(matchers, labels.as_ref()));
        Ok(matching.map(|(labels, list)| (labels.clone(), inside(list))).filter(|(_, list)| !list.is_empty()).collect())
    }

    async fn coverage(&self, _matchers: &[Matcher], range: TimeRange) -> Result<Coverage> {
        let slices = if self.kept.is_empty() { vec![(0, range)] } else { rollup::slices(&self.kept, range, 0) };
        Ok(Coverage { warnings: self.warnings.clone(), resolutions_ms: slices.iter().map(|(resolution_ms, _)| *resolution_ms).collect() })
    }

    async fn metadata(&self, metric: Option<&str>) -> Result<Vec<(String, Vec<Metadata>)>> {
        Ok(self.metadata.iter().filter(|(name, _)| metric.is_none_or(|m| m == name)).cloned().collect())
    }
}

struct MemorySet {
    series: Arc<Vec<(Labels, SampleBuf)>>,
    resolution_ms: i64,
}

#[async_trait]
impl SeriesSet for MemorySet {
    fn len(&self) -> usize {
        self.series.len()
    }

    fn labels(&self, row: usize) -> LabelsRef<'_> {
        self.series[row].0.as_ref()
    }

    fn resolution_ms(&self) -> i64 {
        self.resolution_ms
    }

    async fn load(&self, _rows: Range<usize>, _range: TimeRange) -> Result<Box<dyn SeriesRun>> {
        Ok(Box::new(MemoryRun(Arc::clone(&self.series))))
    }
}

struct MemoryRun(Arc<Vec<(Labels, SampleBuf)>>);

impl SeriesRun for MemoryRun {
    fn read(&mut self, row: usize, out: &mut SampleBuf) -> Result<()> {
        *out = self.0[row].1.clone();
        Ok(())
    }
}

/// One tenant has data, the others have none.
pub struct MemoryStorage {
    /// The tenant's name.
    pub tenant: TenantId,
    /// Its data.
    pub source: Arc<MemorySource>,
    /// How the data was last asked for.
    pub view: Mutex<View>,
}

impl Storage for MemoryStorage {
    fn source(&self, tenant: &TenantId, view: &View) -> BoxFuture<'_, crate::result::Result<Arc<dyn Source>>> {
        *self.view.lock() = view.clone();
        let source: Arc<dyn Source> = if *tenant == self.tenant { self.source.clone() } else { Arc::new(MemorySource::default()) };
        Box::pin(async move { Ok(source) })
    }
}
