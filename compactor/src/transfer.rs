//! What import, export and repair have in common: progress, commits, and putting samples in order.

use std::sync::Arc;

use isobar_block::{BlockStore, Catalog, CatalogState, Change, Histogram, SampleBuf, TenantId, Timestamps};

use crate::Result;
use crate::compactor::commit::{self as certain, Commit};

/// How far something is.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// What is worked on: a block, a file.
    pub what: String,
    /// How much of it is done, in `unit`.
    pub done: u64,
    /// How much there is, if that is known.
    pub total: Option<u64>,
    /// `samples`, `series` or `bytes`.
    pub unit: &'static str,
}

/// Is told of progress, often.
pub type OnProgress<'a> = &'a (dyn Fn(&Progress) + Send + Sync);

/// The samples of one series that came in any order, from any number of places.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    times: Vec<i64>,
    values: Vec<f64>,
    histograms: Vec<(u32, Arc<Histogram>)>,
}

impl Gathered {
    pub fn len(&self) -> usize {
        self.times.len()
    }

    pub fn push(&mut self, t_ms: i64, value: f64) {
        self.times.push(t_ms);
        self.values.push(value);
    }

    pub fn push_histogram(&mut self, t_ms: i64, histogram: Histogram) {
        let place = self.values.len() as u32;
        self.push(t_ms, histogram.sum);
        self.histograms.push((place, Arc::new(histogram)));
    }

    /// Appends the samples that `keep` accepts by their time.
    pub fn append(&mut self, samples: &SampleBuf, keep: impl Fn(i64) -> bool) {
        let mut histograms = samples.histograms.iter().peekable();
        for (i, (t, value)) in samples.timestamps.iter().zip(&samples.values).enumerate() {
            let histogram = histograms.next_if(|(at, _)| *at as usize == i);
            if keep(*t) {
                if let Some((_, histogram)) = histogram {
                    self.histograms.push((self.values.len() as u32, histogram.clone()));
                }
                self.push(*t, *value);
            }
        }
    }

    /// Removes samples that `keep` does not accept by their time.
    pub fn retain(&mut self, keep: impl Fn(i64) -> bool) {
        if self.times.iter().all(|t| keep(*t)) {
            return;
        }
        let whole = std::mem::take(self).into_buf_unsorted();
        self.append(&whole, keep);
    }

    /// The samples in time order. Of several with one timestamp the one that came last counts.
    pub fn take(&mut self) -> SampleBuf {
        if !self.times.is_sorted_by(|a, b| a < b) {
            self.sort();
        }
        std::mem::take(self).into_buf_unsorted()
    }

    fn into_buf_unsorted(self) -> SampleBuf {
        let Self { times, values, histograms } = self;
        SampleBuf { timestamps: Timestamps::unshared(times), values, histograms, counts: Vec::new() }
    }

    fn sort(&mut self) {
        let mut order: Vec<u32> = (0..self.times.len() as u32).collect();
        order.sort_by_key(|i| self.times[*i as usize]);
        let mut sorted = Self::default();
        for (n, i) in order.iter().enumerate() {
            let t = self.times[*i as usize];
            if order.get(n + 1).is_some_and(|next| self.times[*next as usize] == t) {
                continue;
            }
            if let Ok(at) = self.histograms.binary_search_by_key(i, |(place, _)| *place) {
                sorted.histograms.push((sorted.values.len() as u32, self.histograms[at].1.clone()));
            }
            sorted.push(t, self.values[*i as usize]);
        }
        *self = sorted;
    }
}

/// The samples from index `from` to `to`.
pub(crate) fn slice(samples: &SampleBuf, from: usize, to: usize) -> SampleBuf {
    let histograms = samples.histograms.iter().filter(|(i, _)| (from..to).contains(&(*i as usize)));
    SampleBuf {
        timestamps: Timestamps::unshared(samples.timestamps[from..to].to_vec()),
        values: samples.values[from..to].to_vec(),
        histograms: histograms.map(|(i, h)| (i - from as u32, h.clone())).collect(),
        counts: samples.counts.get(from..to).unwrap_or_default().to_vec(),
    }
}

/// Commits a change, and finds out whether a store that failed has done it nevertheless. On a conflict the files of the blocks
/// that were to be added are gone; after another error they stay, because the entry may still arrive.
pub(crate) async fn commit(blocks: &BlockStore, tenant: &TenantId, change: Change) -> Result<()> {
    commit_if(blocks, tenant, change, |_| true).await
}

/// [`commit`] onto a catalog of which `still` holds; if it does not, that is a conflict.
pub(crate) async fn commit_if(
    blocks: &BlockStore,
    tenant: &TenantId,
    change: Change,
    still: impl Fn(&CatalogState) -> bool + Send + Sync,
) -> Result<()> {
    let catalog: Arc<Catalog> = blocks.catalog(tenant).await?;
    match certain::commit(&catalog, &**blocks.objects(), tenant, change, still).await? {
        Commit::Done => Ok(()),
        Commit::Conflict => {
            Err(isobar_block::Error::Conflict { tenant: tenant.to_string(), entry: catalog.blocks().version.saturating_add(1) }.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_come_into_order_and_the_last_of_a_time_counts() {
        let mut gathered = Gathered::default();
        for (t, v) in [(3, 1.0), (1, 2.0), (3, 3.0), (2, 4.0)] {
            gathered.push(t, v);
        }
        let all = gathered.take();
        assert_eq!((&all.timestamps[..], &all.values[..]), (&[1, 2, 3][..], &[2.0, 4.0, 3.0][..]));
        assert_eq!(gathered.len(), 0);
        gathered.append(&all, |t| t != 2);
        gathered.retain(|t| t < 3);
        let left = gathered.take();
        assert_eq!((&left.timestamps[..], &left.values[..]), (&[1][..], &[2.0][..]));
        assert_eq!(slice(&all, 1, 3).values, [4.0, 3.0]);
    }
}
