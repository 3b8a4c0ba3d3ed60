//! A store of metrics for tests: answers queries of rules with rows that a test has set, and remembers what was asked.

use async_trait::async_trait;
use isobar_block::{Labels, MatrixSeries, PromQl, SeriesSink, TenantId, VectorSample};
use parking_lot::Mutex;

/// See the module.
#[derive(Default)]
pub(crate) struct Fake {
    /// By metric, the rows that a query of it gives.
    pub rows: Mutex<Vec<(String, Vec<VectorSample>)>>,
    /// By text in a query, the rows or series that it gives; asked before `rows`.
    pub answers: Mutex<Vec<(String, Vec<MatrixSeries>)>>,
    /// Queries, with their times.
    pub asked: Mutex<Vec<(String, i64)>>,
    /// What was written.
    pub written: Mutex<Vec<(Labels, i64, f64)>>,
    /// Queries with this text fail.
    pub broken: Mutex<Option<String>>,
}

/// Labels from `a=b,c=d`.
pub(crate) fn labels(text: &str) -> Labels {
    Labels::from_pairs(text.split(',').filter_map(|p| p.split_once('='))).expect("labels")
}

/// A row of a vector.
pub(crate) fn row(text: &str, value: f64) -> VectorSample {
    VectorSample { labels: labels(text), value }
}

impl Fake {
    /// Sets the rows of a metric.
    pub fn set(&self, metric: &str, rows: Vec<VectorSample>) {
        let mut all = self.rows.lock();
        all.retain(|(m, _)| m != metric);
        all.push((metric.into(), rows));
    }

    /// Sets what a query with this text gives.
    pub fn answer(&self, text: &str, series: Vec<(&str, Vec<(i64, f64)>)>) {
        let series = series.into_iter().map(|(l, values)| MatrixSeries { labels: labels(l), values }).collect();
        self.answers.lock().push((text.into(), series));
    }

    /// Queries that were asked since the last call.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock()).into_iter().map(|(q, _)| q).collect()
    }

    fn ask(&self, query: &str, at_ms: i64) -> isobar_block::Result<()> {
        self.asked.lock().push((query.into(), at_ms));
        match &*self.broken.lock() {
            Some(text) if query.contains(text.as_str()) => Err(isobar_block::Error::invalid("query", "the store does not answer")),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl PromQl for Fake {
    async fn instant(&self, _: &TenantId, query: &str, at_ms: i64) -> isobar_block::Result<Vec<VectorSample>> {
        self.ask(query, at_ms)?;
        if let Some((_, series)) = self.answers.lock().iter().find(|(text, _)| query.contains(text.as_str())) {
            let last = |s: &MatrixSeries| s.values.last().map(|(_, v)| VectorSample { labels: s.labels.clone(), value: *v });
            return Ok(series.iter().filter_map(last).collect());
        }
        let rows = self.rows.lock();
        if query.starts_with("group by (__name__)") {
            let regex = query.split('"').nth(1).expect("a regular expression").replace("\\\\", "\\");
            let regex = regex::Regex::new(&format!("^(?:{regex})$")).expect("a regular expression");
            return Ok(rows.iter().filter(|(m, _)| regex.is_match(m)).map(|(m, _)| row(&format!("__name__={m}"), 1.0)).collect());
        }
        let metric = query.split("__name__=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("");
        let mut of = rows.iter().find(|(m, _)| m == metric).map(|(_, rows)| rows.clone()).unwrap_or_default();
        // The only matchers by which rules share a metric.
        for (matcher, wanted) in [("connection_type=\"messaging_system\"", true), ("connection_type!=\"messaging_system\"", false)] {
            of.retain(|s| !query.contains(matcher) || (s.labels.get("connection_type") == Some("messaging_system")) == wanted);
        }
        if query.starts_with("count(") {
            return Ok(vec![row("", of.len() as f64)]);
        }
        let limit: usize =
            query.split("topk(").nth(1).and_then(|rest| rest.split(',').next()).and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
        Ok(of.into_iter().take(limit).collect())
    }

    async fn range(&self, _: &TenantId, query: &str, start_ms: i64, end_ms: i64, _: i64) -> isobar_block::Result<Vec<MatrixSeries>> {
        self.ask(query, end_ms)?;
        let answers = self.answers.lock();
        let mut series = answers.iter().find(|(text, _)| query.contains(text.as_str())).map(|(_, s)| s.clone()).unwrap_or_default();
        series.iter_mut().for_each(|s| s.values.retain(|(t, _)| (start_ms..=end_ms).contains(t)));
        Ok(series)
    }
}

#[async_trait]
impl SeriesSink for Fake {
    async fn write(&self, _: &TenantId, samples: Vec<(Labels, i64, f64)>) -> isobar_block::Result<()> {
        self.written.lock().extend(samples);
        Ok(())
    }
}
