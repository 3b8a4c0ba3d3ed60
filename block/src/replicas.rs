//! A source whose replicas are shown as one: series that differ in their replica labels only are one series without them.

use std::sync::Arc;

use async_trait::async_trait;

use crate::dedup::whole_windows;
use crate::labels::METRIC_NAME;
use crate::merge::merged;
use crate::union::merge_exemplars;
use crate::{Coverage, Exemplar, Labels, Matcher, Metadata, Result, Selected, SeriesSet, Source, TimeRange, Want};

/// Deduplicates what another source has. Where no series has a replica label, the other source's sets are handed on as they are.
///
/// To who asks, there are no replica labels: a matcher on one sees "", and the names and values of labels leave them out.
pub struct Deduplicated {
    inner: Arc<dyn Source>,
    /// Ascending.
    replica_labels: Vec<String>,
}

/// What matchers ask of a source of replicas.
enum Question {
    /// These matchers, which leave the replica labels alone.
    Ask(Vec<Matcher>),
    /// Nothing, because this matcher wants a replica label.
    Nothing(Matcher),
}

impl Deduplicated {
    /// Deduplicates `inner`, whose replicas differ in the values of `replica_labels`. The metric's name is no such label.
    pub fn new(inner: Arc<dyn Source>, replica_labels: Vec<String>) -> Self {
        let mut replica_labels = replica_labels;
        replica_labels.retain(|name| name != METRIC_NAME);
        replica_labels.sort();
        replica_labels.dedup();
        Self { inner, replica_labels }
    }

    fn is_replica_label(&self, name: &str) -> bool {
        self.replica_labels.binary_search_by(|l| l.as_str().cmp(name)).is_ok()
    }

    fn question(&self, matchers: &[Matcher]) -> Question {
        let (on_replicas, others): (Vec<&Matcher>, Vec<&Matcher>) = matchers.iter().partition(|m| self.is_replica_label(m.name()));
        match on_replicas.into_iter().find(|m| !m.matches_empty()) {
            Some(unmet) => Question::Nothing(unmet.clone()),
            None => Question::Ask(others.into_iter().cloned().collect()),
        }
    }

    fn has_replicas(&self, set: &dyn SeriesSet) -> bool {
        self.replica_labels.iter().any(|name| set.may_have_label(name))
    }
}

fn nothing_selected(unmet: &Matcher) -> String {
    let name = unmet.name();
    format!(
        "nothing is selected by {unmet}: {name} is a replica label, which deduplicated series do not have; \
         leave the matcher out, or ask with dedup=false for single replicas"
    )
}

#[async_trait]
impl Source for Deduplicated {
    async fn select(&self, matchers: &[Matcher], range: TimeRange, want: Want) -> Result<Selected> {
        let matchers = match self.question(matchers) {
            Question::Ask(matchers) => matchers,
            Question::Nothing(unmet) => return Ok(Selected { sets: Vec::new(), warnings: vec![nothing_selected(&unmet)] }),
        };
        let mut selected = self.inner.select(&matchers, range, want).await?;
        if !selected.sets.iter().any(|set| self.has_replicas(&**set)) {
            return Ok(selected);
        }
        // Windows are deduplicated whole, and parts of them may be in sets that have nothing in the range itself.
        let whole = whole_windows(range);
        if whole != range {
            selected = self.inner.select(&matchers, whole, want).await?;
        }
        // Buckets and raw samples are no replicas of each other.
        let mut by_resolution: Vec<(i64, Vec<Arc<dyn SeriesSet>>)> = Vec::new();
        for set in selected.sets {
            let resolution_ms = set.resolution_ms();
            match by_resolution.iter_mut().find(|(r, _)| *r == resolution_ms) {
                Some((_, sets)) => sets.push(set),
                None => by_resolution.push((resolution_ms, vec![set])),
            }
        }
        let sets = by_resolution.into_iter().map(|(_, sets)| merged(sets, &self.replica_labels)).collect();
        Ok(Selected { sets, warnings: selected.warnings })
    }

    async fn label_names(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>> {
        let Question::Ask(matchers) = self.question(matchers) else { return Ok(Vec::new()) };
        let mut names = self.inner.label_names(&matchers, range).await?;
        names.retain(|name| !self.is_replica_label(name));
        Ok(names)
    }

    async fn label_values(&self, name: &str, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>> {
        match self.question(matchers) {
            Question::Ask(matchers) if !self.is_replica_label(name) => self.inner.label_values(name, &matchers, range).await,
            _ => Ok(Vec::new()),
        }
    }

    async fn exemplars(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<(Labels, Vec<Exemplar>)>> {
        let Question::Ask(matchers) = self.question(matchers) else { return Ok(Vec::new()) };
        let found = self.inner.exemplars(&matchers, range).await?;
        if !found.iter().any(|(labels, _)| self.replica_labels.iter().any(|name| labels.get(name).is_some())) {
            return Ok(found);
        }
        let strip = |(labels, exemplars): (Labels, Vec<Exemplar>)| {
            let mut bytes = Vec::new();
            labels.as_ref().drop_into(&self.replica_labels, &mut bytes);
            Ok((Labels::from_bytes(&bytes)?, exemplars))
        };
        Ok(merge_exemplars(vec![found.into_iter().map(strip).collect::<Result<_>>()?]))
    }

    async fn coverage(&self, matchers: &[Matcher], range: TimeRange) -> Result<Coverage> {
        match self.question(matchers) {
            Question::Ask(matchers) => self.inner.coverage(&matchers, range).await,
            Question::Nothing(unmet) => Ok(Coverage { warnings: vec![nothing_selected(&unmet)], ..Coverage::default() }),
        }
    }

    async fn metadata(&self, metric: Option<&str>) -> Result<Vec<(String, Vec<Metadata>)>> {
        self.inner.metadata(metric).await
    }
}

#[cfg(test)]
mod tests;
