//! Several sources as one: the blocks of a tenant, and its blocks together with its heads.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::{Coverage, Exemplar, Labels, Matcher, Metadata, Result, Selected, Source, TimeRange, Want};

/// Sources of one tenant in ascending precedence: of two samples of a series at one timestamp that of the later source counts.
///
/// They are asked from the last to the first. Data moves from a later source to an earlier one (from the head into a block), so
/// that in this order it is seen at least once while it moves.
pub struct Union {
    sources: Vec<Arc<dyn Source>>,
}

impl Union {
    /// The union of `sources`, given in ascending precedence.
    pub fn new(sources: Vec<Arc<dyn Source>>) -> Self {
        Self { sources }
    }
}

#[async_trait]
impl Source for Union {
    async fn select(&self, matchers: &[Matcher], range: TimeRange, want: Want) -> Result<Selected> {
        let mut parts = Vec::with_capacity(self.sources.len());
        for source in self.sources.iter().rev() {
            parts.push(source.select(matchers, range, want).await?);
        }
        let mut all = Selected::default();
        for part in parts.into_iter().rev() {
            all.sets.extend(part.sets);
            all.warnings.extend(part.warnings);
        }
        Ok(all)
    }

    async fn label_names(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>> {
        let mut parts = Vec::with_capacity(self.sources.len());
        for source in self.sources.iter().rev() {
            parts.push(source.label_names(matchers, range).await?);
        }
        Ok(merge_sorted(parts))
    }

    async fn label_values(&self, name: &str, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>> {
        let mut parts = Vec::with_capacity(self.sources.len());
        for source in self.sources.iter().rev() {
            parts.push(source.label_values(name, matchers, range).await?);
        }
        Ok(merge_sorted(parts))
    }

    async fn exemplars(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<(Labels, Vec<Exemplar>)>> {
        let mut parts = Vec::with_capacity(self.sources.len());
        for source in self.sources.iter().rev() {
            parts.push(source.exemplars(matchers, range).await?);
        }
        Ok(merge_exemplars(parts))
    }

    async fn coverage(&self, matchers: &[Matcher], range: TimeRange) -> Result<Coverage> {
        let mut all = Coverage::default();
        for source in &self.sources {
            all.extend(source.coverage(matchers, range).await?);
        }
        Ok(all)
    }

    async fn metadata(&self, metric: Option<&str>) -> Result<Vec<(String, Vec<Metadata>)>> {
        let mut parts = Vec::with_capacity(self.sources.len());
        for source in self.sources.iter().rev() {
            parts.push(source.metadata(metric).await?);
        }
        Ok(merge_metadata(parts))
    }
}

/// Sorted texts of several lists, each once.
pub(crate) fn merge_sorted(parts: Vec<Vec<String>>) -> Vec<String> {
    let mut parts = parts;
    if parts.len() == 1 {
        return parts.swap_remove(0);
    }
    let mut all: Vec<String> = parts.into_iter().flatten().collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Exemplars of several sources by series, in time order, equal ones once.
pub(crate) fn merge_exemplars(parts: Vec<Vec<(Labels, Vec<Exemplar>)>>) -> Vec<(Labels, Vec<Exemplar>)> {
    let mut merged: BTreeMap<Labels, Vec<Exemplar>> = BTreeMap::new();
    for (labels, exemplars) in parts.into_iter().flatten() {
        merged.entry(labels).or_default().extend(exemplars);
    }
    for exemplars in merged.values_mut() {
        exemplars.sort_by(|a, b| a.timestamp_ms.cmp(&b.timestamp_ms).then_with(|| a.labels.cmp(&b.labels)));
        exemplars.dedup_by(|a, b| a.timestamp_ms == b.timestamp_ms && a.labels == b.labels && a.value.to_bits() == b.value.to_bits());
    }
    merged.into_iter().collect()
}

/// Metadata of several sources by name, equal ones once; that of the first list first.
pub(crate) fn merge_metadata(parts: Vec<Vec<(String, Vec<Metadata>)>>) -> Vec<(String, Vec<Metadata>)> {
    let mut merged: BTreeMap<String, Vec<Metadata>> = BTreeMap::new();
    for (name, metadata) in parts.into_iter().flatten() {
        let known = merged.entry(name).or_default();
        for one in metadata {
            if !known.contains(&one) {
                known.push(one);
            }
        }
    }
    merged.into_iter().collect()
}
