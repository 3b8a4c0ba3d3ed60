//! Series about open impacts, so that dashboards and rules of alerts can use them: `isobar_impact_open`,
//! `isobar_impact_probability` and `isobar_impact_lost_requests_per_second`. They end with the impact.

use std::collections::HashSet;
use std::sync::Arc;

use isobar_block::{Labels, stale_nan};

use super::model::{Assessment, Impact, Touched};
use super::settings::SeriesSettings;
use crate::service::{Service, Tenant};

/// Longest value of a label, in bytes; longer ones are cut.
pub const MAX_VALUE_BYTES: usize = 512;

/// Series that were written last, so that those that are not written any more can be ended.
#[derive(Debug, Default)]
pub(crate) struct Written(HashSet<Labels>);

/// Writes the series of a tenant. A failure is told and tried again with the next round.
pub(super) async fn write(service: &Service, tenant: &Tenant, now_ms: i64) {
    let settings = service.settings();
    let Some(sink) = service.sink() else { return };
    let open: Vec<Arc<Impact>> = if settings.alerts.series.enabled {
        tenant.alerts.keeper().read(|state| state.open.values().filter(|i| i.has_nodes()).cloned().collect())
    } else {
        Vec::new()
    };
    let wanted = samples(&open, &settings.alerts.series);
    let now: HashSet<Labels> = wanted.iter().map(|(labels, _)| labels.clone()).collect();
    let gone: Vec<Labels> = tenant.alerts.written.lock().0.difference(&now).cloned().collect();
    let mut all: Vec<(Labels, i64, f64)> = wanted.into_iter().map(|(labels, value)| (labels, now_ms, value)).collect();
    all.extend(gone.iter().map(|labels| (labels.clone(), now_ms, stale_nan())));
    if all.is_empty() {
        return;
    }
    let count = now.len();
    match sink.write(&tenant.id, all).await {
        Ok(()) | Err(isobar_block::Error::Limit { .. }) => tenant.alerts.written.lock().0 = now,
        Err(error) => {
            service.metrics().alerts.failures.inc();
            tracing::warn!(tenant = %tenant.id, %error, "series about impacts were not written; they are tried again");
            // What should have ended is remembered until it could be told.
            tenant.alerts.written.lock().0.extend(now);
        }
    }
    service.metrics().alerts.series.set(count as i64);
}

/// The series of impacts, bounded as the settings say.
fn samples(open: &[Arc<Impact>], settings: &SeriesSettings) -> Vec<(Labels, f64)> {
    let mut out = Vec::new();
    let mut left = settings.max_nodes;
    for impact in open {
        let alert = impact.alerts.iter().find_map(|a| a.labels.get("alertname")).map_or("", String::as_str);
        push(&mut out, &[("__name__", "isobar_impact_open"), ("impact", &impact.id), ("alertname", alert)], 1.0);
        let Some(assessment) = &impact.assessment else { continue };
        for touched in worst(assessment, settings.nodes.min(left)) {
            left -= 1;
            let owner = touched.owners.first().map_or("", |o| o.name.as_str());
            let labels = [("impact", impact.id.as_str()), ("node", touched.id.as_str()), ("kind", &touched.kind), ("owner", owner)];
            let named = |name| [&[("__name__", name)], &labels[..]].concat();
            push(&mut out, &named("isobar_impact_probability"), touched.probability);
            if let Some(lost_per_s) = touched.lost_per_s {
                push(&mut out, &named("isobar_impact_lost_requests_per_second"), lost_per_s);
            }
        }
    }
    out
}

/// The failed nodes and the worst of all lists.
fn worst(assessment: &Assessment, count: usize) -> Vec<&Touched> {
    let mut all: Vec<&Touched> = assessment.lists().iter().flat_map(|(_, list)| *list).filter(|t| t.hops > 0).collect();
    all.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.id.cmp(&b.id)));
    assessment.failed.iter().chain(all).take(count).collect()
}

fn push(out: &mut Vec<(Labels, f64)>, labels: &[(&str, &str)], value: f64) {
    let cut = |text: &str| -> String {
        let end = (0..=MAX_VALUE_BYTES.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text[..end].to_owned()
    };
    let mut pairs: Vec<(&str, String)> = labels.iter().filter(|(_, v)| !v.is_empty()).map(|(n, v)| (*n, cut(v))).collect();
    pairs.sort_unstable();
    if let Ok(labels) = Labels::from_pairs(pairs) {
        out.push((labels, value));
    }
}
