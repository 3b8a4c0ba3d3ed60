//! Reads series of a head into sample buffers. Series with equal timestamps get the same shared vector.

use std::sync::Arc;

use hashbrown::HashMap;
use isobar_block::{Result, SampleBuf, Timestamps};

use super::chunk::TimestampRun;
use super::series::Collected;

/// Timestamp vectors that a reader remembers.
const MAX_CACHED: usize = 1024;

/// Decodes series, one after the other.
#[derive(Debug, Default)]
pub struct Reader {
    /// What the series at hand consists of; to be filled before [`Reader::finish`].
    pub collected: Collected,
    cache: HashMap<u64, Cached>,
}

/// A timestamp vector, and what it was decoded from.
#[derive(Debug)]
struct Cached {
    runs: Vec<Arc<TimestampRun>>,
    tail_base_ms: i64,
    tail_offsets: Vec<u32>,
    timestamps: Timestamps,
}

impl Reader {
    /// Replaces what is in `out` by what was collected.
    pub fn finish(&mut self, out: &mut SampleBuf) -> Result<()> {
        out.clear();
        std::mem::swap(&mut out.values, &mut self.collected.values);
        std::mem::swap(&mut out.histograms, &mut self.collected.histograms);
        if !self.collected.late.is_empty() {
            return self.merge_late(out);
        }
        if !out.values.is_empty() {
            out.timestamps = self.timestamps()?;
        }
        Ok(())
    }

    fn timestamps(&mut self) -> Result<Timestamps> {
        let collected = &self.collected;
        let key = signature(collected);
        if let Some(cached) = self.cache.get(&key)
            && cached.tail_base_ms == collected.tail_base_ms
            && cached.tail_offsets == collected.tail_offsets
            && cached.runs.len() == collected.runs.len()
            && cached.runs.iter().zip(&collected.runs).all(|(a, b)| Arc::ptr_eq(a, b))
        {
            return Ok(cached.timestamps.clone());
        }
        let mut millis = Vec::with_capacity(collected.runs.iter().map(|r| r.samples()).sum::<usize>() + collected.tail_offsets.len());
        collected.decode_times(&mut millis)?;
        let timestamps = Timestamps::shared(millis);
        if self.cache.len() >= MAX_CACHED {
            self.cache.clear();
        }
        let cached = Cached {
            runs: collected.runs.clone(),
            tail_base_ms: collected.tail_base_ms,
            tail_offsets: collected.tail_offsets.clone(),
            timestamps: timestamps.clone(),
        };
        self.cache.insert(key, cached);
        Ok(timestamps)
    }

    /// Puts out-of-order samples in their places.
    fn merge_late(&mut self, out: &mut SampleBuf) -> Result<()> {
        let mut millis = Vec::with_capacity(out.values.len());
        self.collected.decode_times(&mut millis)?;
        let mut histograms = std::mem::take(&mut out.histograms).into_iter().peekable();
        let mut samples: Vec<_> = millis
            .into_iter()
            .zip(out.values.drain(..))
            .enumerate()
            .map(|(i, (t, v))| (t, v, histograms.next_if(|(at, _)| *at as usize == i).map(|(_, h)| h)))
            .collect();
        samples.extend(self.collected.late.drain(..).map(|s| (s.timestamp_ms, s.value, s.histogram)));
        // The sort is stable, so that of two samples at one timestamp the first that came is kept.
        samples.sort_by_key(|(t, _, _)| *t);
        samples.dedup_by_key(|(t, _, _)| *t);
        let mut millis = Vec::with_capacity(samples.len());
        for (at, (t, v, histogram)) in samples.into_iter().enumerate() {
            millis.push(t);
            out.values.push(v);
            out.histograms.extend(histogram.map(|h| (at as u32, h)));
        }
        out.timestamps = Timestamps::unshared(millis);
        Ok(())
    }
}

/// A hash of what timestamps are decoded from. Equality is checked afterwards.
fn signature(collected: &Collected) -> u64 {
    const FACTOR: u64 = 0xff51_afd7_ed55_8ccd;
    let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(FACTOR).rotate_left(29);
    let hash = collected.runs.iter().fold(collected.tail_base_ms as u64, |h, run| mix(h, Arc::as_ptr(run) as u64));
    collected.tail_offsets.iter().fold(mix(hash, collected.tail_offsets.len() as u64), |h, offset| mix(h, u64::from(*offset)))
}
