//! Takes a stretch out of the samples of a series.

use std::ops::Range;

use hashbrown::HashMap;
use isobar_block::{SampleBuf, Timestamps};

use crate::plan::Span;

/// Cut timestamps that are remembered, so that series that shared their timestamps still do.
const REMEMBERED: usize = 1024;

/// Cuts samples.
#[derive(Default)]
pub struct Clipper {
    cut: HashMap<(u64, usize, usize), Timestamps>,
}

impl Clipper {
    /// Removes what lies outside of `span`.
    pub fn clip(&mut self, samples: &mut SampleBuf, span: Span) {
        let range = places(&samples.timestamps, span);
        if range.len() == samples.len() {
            return;
        }
        let timestamps = self.timestamps(&samples.timestamps, range.clone());
        samples.timestamps = timestamps;
        for list in [&mut samples.counts] {
            if !list.is_empty() {
                list.truncate(range.end);
                list.drain(..range.start);
            }
        }
        samples.values.truncate(range.end);
        samples.values.drain(..range.start);
        samples.histograms.retain(|(i, _)| range.contains(&(*i as usize)));
        samples.histograms.iter_mut().for_each(|(i, _)| *i -= range.start as u32);
    }

    /// A copy of what lies inside of `span`.
    pub fn part(&mut self, samples: &SampleBuf, span: Span) -> SampleBuf {
        let range = places(&samples.timestamps, span);
        let histograms = samples.histograms.iter().filter(|(i, _)| range.contains(&(*i as usize)));
        SampleBuf {
            timestamps: self.timestamps(&samples.timestamps, range.clone()),
            histograms: histograms.map(|(i, h)| (*i - range.start as u32, h.clone())).collect(),
            counts: samples.counts.get(range.clone()).unwrap_or_default().to_vec(),
            values: samples.values[range].to_vec(),
        }
    }

    fn timestamps(&mut self, times: &Timestamps, range: Range<usize>) -> Timestamps {
        if times.id() == 0 {
            return Timestamps::unshared(times[range].to_vec());
        }
        if self.cut.len() >= REMEMBERED {
            self.cut.clear();
        }
        let key = (times.id(), range.start, range.end);
        self.cut.entry(key).or_insert_with(|| Timestamps::shared(times[range].to_vec())).clone()
    }
}

fn places(times: &[i64], span: Span) -> Range<usize> {
    let start = times.partition_point(|t| *t < span.start_ms);
    start..start + times[start..].partition_point(|t| *t <= span.end_ms)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use isobar_block::Histogram;
    use isobar_block::histogram::{Counts, ResetHint};

    use super::*;

    #[test]
    fn a_part_has_its_samples_and_histograms_and_shares_timestamps() {
        let times = Timestamps::shared((0..10).collect());
        let counts = Counts::Integer { count: 0, zero: 0, positive: Vec::new(), negative: Vec::new() };
        let empty = Histogram {
            reset_hint: ResetHint::Unknown,
            schema: 0,
            zero_threshold: 0.0,
            sum: 0.0,
            positive_spans: Vec::new(),
            negative_spans: Vec::new(),
            custom_bounds: Vec::new(),
            counts,
        };
        let histogram = |n: i64| (n as u32, Arc::new(Histogram { sum: n as f64, ..empty.clone() }));
        let samples = SampleBuf {
            timestamps: times,
            values: (0..10).map(f64::from).collect(),
            histograms: vec![histogram(2), histogram(3), histogram(7)],
            counts: Vec::new(),
        };
        let mut clipper = Clipper::default();
        let span = Span { start_ms: 3, end_ms: 7 };
        let part = clipper.part(&samples, span);
        assert_eq!((&part.timestamps[..], &part.values[..]), (&[3, 4, 5, 6, 7][..], &[3.0, 4.0, 5.0, 6.0, 7.0][..]));
        assert_eq!(part.histograms.iter().map(|(i, h)| (*i, h.sum)).collect::<Vec<_>>(), [(0, 3.0), (4, 7.0)]);
        let mut clipped = samples.clone();
        clipper.clip(&mut clipped, span);
        assert_eq!((clipped.timestamps.id(), &clipped.values), (part.timestamps.id(), &part.values));
        assert_eq!(clipped.histograms.len(), 2);
        clipper.clip(&mut clipped, Span { start_ms: 100, end_ms: 200 });
        assert!(clipped.is_empty() && clipped.histograms.is_empty() && clipped.timestamps.is_empty());
    }
}
