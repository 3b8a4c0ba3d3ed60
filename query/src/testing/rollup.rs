//! Downsampled data as a store would have it, computed in the simplest way.

use isobar_block::{Aggregate, SampleBuf, TimeRange, Timestamps};

/// Cuts `range` into slices of one resolution each: the coarsest that is kept there and good enough, else the finest.
pub fn slices(kept: &[(i64, TimeRange)], range: TimeRange, max_resolution_ms: i64) -> Vec<(i64, TimeRange)> {
    let mut borders = vec![range.start_ms(), range.end_ms() + 1];
    borders.extend(kept.iter().flat_map(|(_, r)| [r.start_ms(), r.end_ms() + 1]));
    borders.retain(|b| (range.start_ms()..=range.end_ms() + 1).contains(b));
    borders.sort_unstable();
    borders.dedup();
    let best = |from: i64| {
        let there: Vec<i64> = kept.iter().filter(|(_, r)| r.contains(from)).map(|(resolution, _)| *resolution).collect();
        let fine_enough = there.iter().copied().filter(|r| *r <= max_resolution_ms).max();
        fine_enough.or(there.into_iter().min())
    };
    borders.windows(2).filter_map(|b| Some((best(b[0])?, TimeRange::new(b[0], b[1] - 1).ok()?))).collect()
}

/// The samples in a range, or one for each bucket of them (see [`Aggregate`]).
pub fn downsampled(samples: &SampleBuf, resolution_ms: i64, range: TimeRange, aggregate: Aggregate) -> SampleBuf {
    let mut inside: Vec<(i64, f64)> =
        samples.timestamps.iter().copied().zip(samples.values.iter().copied()).filter(|(t, _)| range.contains(*t)).collect();
    let mut counts = Vec::new();
    if resolution_ms > 0 {
        let buckets = inside.chunk_by(|a, b| a.0.div_euclid(resolution_ms) == b.0.div_euclid(resolution_ms));
        let mut out: Vec<(i64, f64)> = Vec::new();
        let mut before = None;
        for bucket in buckets {
            let (at, last) = bucket[bucket.len() - 1];
            let values = || bucket.iter().map(|(_, v)| *v);
            match aggregate {
                Aggregate::Last => out.push((at, last)),
                Aggregate::Min => out.push((at, values().fold(f64::INFINITY, f64::min))),
                Aggregate::Max => out.push((at, values().fold(f64::NEG_INFINITY, f64::max))),
                Aggregate::Average => {
                    out.push((at, values().sum::<f64>() / bucket.len() as f64));
                    counts.push(bucket.len() as u32);
                }
                Aggregate::Counter => {
                    let mut previous = before.unwrap_or(bucket[0].1);
                    let start = previous;
                    let mut increase = 0.0;
                    for value in values() {
                        increase += if value < previous { value } else { value - previous };
                        previous = value;
                    }
                    // From here the last value is a reset.
                    let peak = start + increase - last;
                    if start + increase != last && peak > start {
                        out.push((at - 1, peak));
                    }
                    out.push((at, last));
                    before = Some(last);
                }
            }
        }
        inside = out;
    }
    let (millis, values) = inside.into_iter().unzip();
    SampleBuf { timestamps: Timestamps::unshared(millis), values, histograms: Vec::new(), counts }
}
