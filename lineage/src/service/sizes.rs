//! How large the graphs of this process are, and what became of the events that it was sent, as metrics by tenant.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Service;
use crate::store::Sizes;

/// Reads the numbers when somebody asks for them.
#[derive(Clone, Debug)]
pub(super) struct SizesOf(pub Service);

/// A gauge: name, help, value.
type Row = (&'static str, &'static str, fn(&Sizes) -> i64);

const GAUGES: &[Row] = &[
    ("isobar_lineage_nodes", "Nodes that were ever mentioned", |s| s.nodes as i64),
    ("isobar_lineage_edges", "Edges that were ever claimed", |s| s.edges as i64),
    ("isobar_lineage_source_scopes", "Scopes of sources that have ever spoken", |s| s.sources as i64),
    ("isobar_lineage_log_entries", "Entries of the log of events", |s| s.version as i64),
    ("isobar_lineage_queued_bytes", "Events that wait to be written", |s| s.queued_bytes as i64),
    ("isobar_lineage_document_bytes", "Documents beside the graph, such as runs", |s| s.document_bytes as i64),
];

impl Collector for SizesOf {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let tenants: Vec<(String, Sizes)> = self.0.opened().iter().map(|t| (t.id.to_string(), t.store.sizes())).collect();
        for (name, help, value) in GAUGES {
            let gauge = ConstGauge::<i64>::new(0);
            let mut family = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            for (tenant, sizes) in &tenants {
                let labels = [("tenant", tenant.as_str())];
                ConstGauge::new(value(sizes)).encode(family.encode_family(&labels)?)?;
            }
        }
        let counter = ConstCounter::<u64>::new(0);
        let help = "Events of all sources that this process was sent, by what became of them";
        let mut family = encoder.encode_descriptor("isobar_lineage_events", help, None, counter.metric_type())?;
        for (tenant, sizes) in &tenants {
            for (outcome, value) in [("stored", sizes.stored), ("repeated", sizes.repeated), ("refused", sizes.refused)] {
                let labels = [("tenant", tenant.as_str()), ("outcome", outcome)];
                ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
