//! Samples of one series from two sets, joined by timestamp.

use std::collections::HashMap;
use std::sync::Arc;

use crate::{SampleBuf, Timestamps};

/// Joined timestamp vectors that are remembered.
const MAX_JOINED: usize = 4096;

/// Timestamps in those, 8 bytes each, unless somebody has less memory for it.
const MAX_JOINED_TIMESTAMPS: usize = 8 << 20;

/// Joins samples. It remembers joined timestamps, so that the series of a scrape target go on sharing them, and what is computed
/// from them, such as the windows of a query, is computed once for all.
pub struct Join {
    max_remembered: usize,
    spare: SampleBuf,
    joined: HashMap<(u64, u64), Timestamps>,
    remembered: usize,
}

impl Default for Join {
    fn default() -> Self {
        Self::remembering(u64::MAX)
    }
}

impl Join {
    /// Remembers timestamps in `max_bytes` at most.
    pub(super) fn remembering(max_bytes: u64) -> Self {
        let max_remembered = usize::try_from(max_bytes / 8).map_or(MAX_JOINED_TIMESTAMPS, |n| n.min(MAX_JOINED_TIMESTAMPS));
        Self { max_remembered, spare: SampleBuf::default(), joined: HashMap::new(), remembered: 0 }
    }

    /// Takes `later` into `samples`; of two samples at one timestamp that of `later` counts. What is left in `later` has no
    /// meaning.
    pub fn join(&mut self, samples: &mut SampleBuf, later: &mut SampleBuf) {
        if later.is_empty() {
            return;
        }
        if samples.is_empty() || later.timestamps[later.len() - 1] < samples.timestamps[0] {
            std::mem::swap(samples, later);
        }
        if later.is_empty() {
            return;
        }
        if samples.timestamps[samples.len() - 1] < later.timestamps[0] {
            self.append(samples, later);
        } else {
            self.interleave(samples, later);
        }
    }

    fn append(&mut self, samples: &mut SampleBuf, later: &SampleBuf) {
        let offset = samples.len() as u32;
        samples.timestamps = self.joined_timestamps(&samples.timestamps, &later.timestamps);
        append_counts(samples, later, 0..later.len());
        samples.values.extend_from_slice(&later.values);
        samples.histograms.extend(later.histograms.iter().map(|(i, h)| (i + offset, Arc::clone(h))));
    }

    fn joined_timestamps(&mut self, earlier: &Timestamps, later: &Timestamps) -> Timestamps {
        let ids = (earlier.id(), later.id());
        let all = || earlier.iter().chain(later.iter()).copied().collect();
        if ids.0 == 0 || ids.1 == 0 {
            return Timestamps::unshared(all());
        }
        if let Some(known) = self.joined.get(&ids) {
            return known.clone();
        }
        let joined = Timestamps::shared(all());
        if self.joined.len() >= MAX_JOINED || self.remembered + joined.len() > self.max_remembered {
            self.joined.clear();
            self.remembered = 0;
        }
        self.remembered += joined.len();
        self.joined.insert(ids, joined.clone());
        joined
    }

    fn interleave(&mut self, samples: &mut SampleBuf, later: &SampleBuf) {
        let out = &mut self.spare;
        out.clear();
        let mut times = Vec::with_capacity(samples.len() + later.len());
        let (mut i, mut j, mut hist_i, mut hist_j) = (0, 0, 0, 0);
        while i < samples.len() || j < later.len() {
            let take_later = j < later.len() && (i >= samples.len() || later.timestamps[j] <= samples.timestamps[i]);
            let (from, at, hist) = if take_later { (later, j, &mut hist_j) } else { (&*samples, i, &mut hist_i) };
            while from.histograms.get(*hist).is_some_and(|(n, _)| (*n as usize) < at) {
                *hist += 1;
            }
            if let Some((_, histogram)) = from.histograms.get(*hist).filter(|(n, _)| *n as usize == at) {
                out.histograms.push((out.values.len() as u32, Arc::clone(histogram)));
            }
            let time = from.timestamps[at];
            times.push(time);
            append_counts(out, from, at..at + 1);
            out.values.push(from.values[at]);
            if take_later {
                j += 1;
                if i < samples.len() && samples.timestamps[i] == time {
                    i += 1;
                }
            } else {
                i += 1;
            }
        }
        out.timestamps = Timestamps::unshared(times);
        std::mem::swap(samples, out);
    }
}

/// Appends what `from` says of how many samples those at `range` stand for; to be called before their values are appended.
pub(crate) fn append_counts(out: &mut SampleBuf, from: &SampleBuf, range: std::ops::Range<usize>) {
    if from.counts.is_empty() && out.counts.is_empty() {
        return;
    }
    out.counts.resize(out.values.len(), 1);
    if from.counts.is_empty() {
        out.counts.resize(out.values.len() + range.len(), 1);
    } else {
        out.counts.extend_from_slice(&from.counts[range]);
    }
}
