//! Samples as kernels want them: one vector of timestamps, one of values, and the few histograms beside.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::Histogram;

/// Bits of the value with which Prometheus marks the end of a series. It is a NaN; only its bits tell it from others.
pub const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

/// The stale marker.
pub fn stale_nan() -> f64 {
    f64::from_bits(STALE_NAN_BITS)
}

/// Whether `value` is the stale marker, and not merely a NaN.
#[inline]
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_NAN_BITS
}

/// Timestamps of one series, Unix milliseconds, strictly ascending, shared between the series of a scrape target.
#[derive(Clone, Debug, Default)]
pub struct Timestamps {
    id: u64,
    millis: Arc<Vec<i64>>,
}

impl Timestamps {
    /// Timestamps that belong to one series only: [`Timestamps::id`] is 0.
    pub fn unshared(millis: Vec<i64>) -> Self {
        Self { id: 0, millis: Arc::new(millis) }
    }

    /// Timestamps that several series have in common; clones share the id.
    pub fn shared(millis: Vec<i64>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), millis: Arc::new(millis) }
    }

    /// Two vectors with the same id other than 0 are equal, so that what was computed from one holds for the other.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The vector itself, to be changed: copies it if others share it, and gives up the id.
    pub fn make_mut(&mut self) -> &mut Vec<i64> {
        self.id = 0;
        Arc::make_mut(&mut self.millis)
    }
}

impl Deref for Timestamps {
    type Target = [i64];

    fn deref(&self) -> &[i64] {
        &self.millis
    }
}

/// The samples of one series, in time order, at most one for a timestamp.
#[derive(Clone, Debug, Default)]
pub struct SampleBuf {
    /// When; as long as `values`.
    pub timestamps: Timestamps,
    /// The float at each timestamp, bit for bit as written. Where the sample is a native histogram this is its sum, so that
    /// a stale marker looks the same for both.
    pub values: Vec<f64>,
    /// The native histograms, ascending by index into `values`. Empty for a float series.
    pub histograms: Vec<(u32, Arc<Histogram>)>,
    /// How many raw samples each value stands for; empty if each stands for itself. Only averages of downsampled data have it.
    pub counts: Vec<u32>,
}

impl SampleBuf {
    /// Empties the buffer and keeps its memory.
    pub fn clear(&mut self) {
        self.timestamps = Timestamps::default();
        self.values.clear();
        self.histograms.clear();
        self.counts.clear();
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}
