//! A block, or whatever else a mask is for, as a [`Source`] from which the deleted is gone.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use hashbrown::HashSet;

use crate::labels::METRIC_NAME;
use crate::mask::Mask;
use crate::{Coverage, Exemplar, Labels, MatchOp, Matcher, Metadata, Result, Selected, Source, TimeRange, Want};

/// So many series are looked at before others get a turn.
const SERIES_PER_TURN: usize = 1 << 13;

/// A source as it is after the deletions of a [`Mask`].
pub struct Masked {
    inner: Arc<dyn Source>,
    mask: Mask,
}

impl Masked {
    /// What the mask leaves of `inner`, which is the block that the mask was made for.
    pub fn new(inner: Arc<dyn Source>, mask: Mask) -> Self {
        Self { inner, mask }
    }

    /// Whether some of the matching series are hidden altogether. Mostly none is, and then the answers of `inner` are right,
    /// which come from dictionaries.
    async fn hides_some(&self, matchers: &[Matcher], range: TimeRange) -> Result<bool> {
        for rule in self.mask.rules.iter().filter(|r| r.covers_block) {
            let both: Vec<Matcher> = matchers.iter().chain(rule.matchers.iter()).cloned().collect();
            if self.inner.select(&both, range, Want::default()).await?.sets.iter().any(|set| !set.is_empty()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Texts of the series that are left.
    async fn texts(&self, wanted: Wanted<'_>, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>> {
        let mut out = BTreeSet::new();
        for set in self.select(matchers, range, Want::default()).await?.sets {
            let mut found: HashSet<&str> = HashSet::new();
            for row in 0..set.len() {
                match wanted {
                    Wanted::Names => found.extend(set.labels(row).iter().map(|(name, _)| name)),
                    Wanted::Values(name) => found.extend(set.labels(row).get(name)),
                }
                if row % SERIES_PER_TURN == SERIES_PER_TURN - 1 {
                    tokio::task::yield_now().await;
                }
            }
            out.extend(found.into_iter().map(str::to_owned));
        }
        Ok(out.into_iter().collect())
    }
}

/// Which texts of a label set are asked for.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    Names,
    Values(&'a str),
}

#[async_trait]
impl Source for Masked {
    async fn select(&self, matchers: &[Matcher], range: TimeRange, want: Want) -> Result<Selected> {
        let Selected { sets, warnings } = self.inner.select(matchers, range, want).await?;
        let mut left = Vec::with_capacity(sets.len());
        for set in sets {
            let set = self.mask.apply(set);
            if !set.is_empty() {
                left.push(set);
            }
            tokio::task::yield_now().await;
        }
        Ok(Selected { sets: left, warnings })
    }

    async fn label_names(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>> {
        if self.hides_some(matchers, range).await? {
            return self.texts(Wanted::Names, matchers, range).await;
        }
        self.inner.label_names(matchers, range).await
    }

    async fn label_values(&self, name: &str, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>> {
        if self.hides_some(matchers, range).await? {
            return self.texts(Wanted::Values(name), matchers, range).await;
        }
        self.inner.label_values(name, matchers, range).await
    }

    async fn exemplars(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<(Labels, Vec<Exemplar>)>> {
        let mut found = self.inner.exemplars(matchers, range).await?;
        found.retain_mut(|(labels, exemplars)| {
            self.mask.cut_exemplars(labels.as_ref(), exemplars);
            !exemplars.is_empty()
        });
        Ok(found)
    }

    async fn coverage(&self, matchers: &[Matcher], range: TimeRange) -> Result<Coverage> {
        self.inner.coverage(matchers, range).await
    }

    /// Without that of metrics of which every series is hidden.
    async fn metadata(&self, metric: Option<&str>) -> Result<Vec<(String, Vec<Metadata>)>> {
        let mut found = self.inner.metadata(metric).await?;
        let matchers: Vec<Matcher> = match metric {
            Some(metric) => vec![Matcher::new(METRIC_NAME, MatchOp::Equal, metric)?],
            None => Vec::new(),
        };
        if !found.is_empty() && self.hides_some(&matchers, TimeRange::ALL).await? {
            let left = self.label_values(METRIC_NAME, &matchers, TimeRange::ALL).await?;
            found.retain(|(name, _)| left.binary_search(name).is_ok());
        }
        Ok(found)
    }
}
