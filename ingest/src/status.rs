//! Numbers for `status/tsdb` and for people.

use std::collections::BTreeMap;

use isobar_block::TenantId;
use isobar_block::labels::METRIC_NAME;

use crate::ingester::Ingester;

/// What the heads hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngesterStatus {
    /// Series.
    pub series: u64,
    /// Sealed chunks.
    pub chunks: u64,
    /// Different pairs of label name and value.
    pub label_pairs: u64,
    /// First timestamp, Unix milliseconds; `None` without samples.
    pub min_time_ms: Option<i64>,
    /// Last timestamp, Unix milliseconds.
    pub max_time_ms: Option<i64>,
    /// Memory of the heads, estimated.
    pub head_bytes: u64,
    /// Size of the write-ahead log.
    pub wal_bytes: u64,
    /// Metric names with the most series.
    pub series_by_metric: Vec<(String, u64)>,
    /// Label names with the most values.
    pub values_by_label: Vec<(String, u64)>,
    /// Label names whose values take the most bytes.
    pub bytes_by_label: Vec<(String, u64)>,
    /// Pairs `name=value` with the most series.
    pub series_by_pair: Vec<(String, u64)>,
}

impl Ingester {
    /// Numbers of all tenants; lists have `top` entries at most. Takes time in proportion to the number of series.
    pub fn status(&self, top: usize) -> IngesterStatus {
        let tenants = self.tenants();
        self.status_of(&tenants, top)
    }

    /// Numbers of one tenant.
    pub fn tenant_status(&self, tenant: &TenantId, top: usize) -> IngesterStatus {
        self.status_of(std::slice::from_ref(tenant), top)
    }

    fn status_of(&self, tenants: &[TenantId], top: usize) -> IngesterStatus {
        let mut status = IngesterStatus { wal_bytes: self.wal.total_bytes(), ..IngesterStatus::default() };
        let mut by_metric = BTreeMap::<String, u64>::new();
        let mut by_label = BTreeMap::<String, (u64, u64)>::new();
        let mut by_pair = BTreeMap::<String, u64>::new();
        for head in tenants.iter().filter_map(|t| self.head(t)) {
            let numbers = head.numbers();
            status.series += numbers.series;
            status.chunks += numbers.chunks;
            status.head_bytes += head.bytes();
            status.label_pairs += numbers.label_pairs;
            status.min_time_ms = status.min_time_ms.into_iter().chain(numbers.min_time_ms).min();
            status.max_time_ms = status.max_time_ms.into_iter().chain(numbers.max_time_ms).max();
            let mut pairs = Vec::new();
            head.count_labels(|name, value, series| {
                if name == METRIC_NAME {
                    *by_metric.entry(value.to_owned()).or_default() += series;
                }
                match by_label.get_mut(name) {
                    Some((values, bytes)) => (*values, *bytes) = (*values + 1, *bytes + value.len() as u64),
                    None => drop(by_label.insert(name.to_owned(), (1, value.len() as u64))),
                }
                pairs.push((format!("{name}={value}"), series));
            });
            for (pair, series) in largest(pairs, top) {
                *by_pair.entry(pair).or_default() += series;
            }
        }
        status.series_by_metric = largest(by_metric, top);
        status.values_by_label = largest(by_label.iter().map(|(name, (values, _))| (name.clone(), *values)), top);
        status.bytes_by_label = largest(by_label.into_iter().map(|(name, (_, bytes))| (name, bytes)), top);
        status.series_by_pair = largest(by_pair, top);
        status
    }
}

fn largest(counts: impl IntoIterator<Item = (String, u64)>, top: usize) -> Vec<(String, u64)> {
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    counts.truncate(top);
    counts
}
