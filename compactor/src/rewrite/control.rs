//! How far a rewrite is, and the flag that ends it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;

use crate::error::{Error, Result};

/// Shared between a rewrite and whoever watches it.
#[derive(Debug, Default)]
pub struct Control {
    canceled: AtomicBool,
    series_total: AtomicU64,
    series_done: AtomicU64,
    samples: AtomicU64,
    written_bytes: AtomicU64,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Series to read, counted once for each block that has them; 0 until it is known.
    pub series_total: u64,
    /// Of these, how many are done.
    pub series_done: u64,
    /// Samples that were written.
    pub samples: u64,
    /// Size of the blocks that were written.
    pub written_bytes: u64,
}

impl Progress {
    /// From 0 to 1.
    pub fn share(&self) -> f64 {
        if self.series_total == 0 { 0.0 } else { (self.series_done as f64 / self.series_total as f64).min(1.0) }
    }
}

impl Control {
    /// Ends the rewrite soon.
    pub fn cancel(&self) {
        self.canceled.store(true, Ordering::Relaxed);
    }

    /// # Errors
    /// [`Error::Canceled`] after [`Control::cancel`].
    pub fn check(&self) -> Result<()> {
        if self.canceled.load(Ordering::Relaxed) { Err(Error::Canceled) } else { Ok(()) }
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        Progress {
            series_total: self.series_total.load(Ordering::Relaxed),
            series_done: self.series_done.load(Ordering::Relaxed),
            samples: self.samples.load(Ordering::Relaxed),
            written_bytes: self.written_bytes.load(Ordering::Relaxed),
        }
    }

    /// Says how many series there are.
    pub fn begin(&self, series_total: u64) {
        self.series_total.store(series_total, Ordering::Relaxed);
    }

    /// Says that series are done.
    pub fn add_series(&self, series: u64) {
        self.series_done.fetch_add(series, Ordering::Relaxed);
    }

    /// Says that samples were written.
    pub fn add_samples(&self, samples: u64) {
        self.samples.fetch_add(samples, Ordering::Relaxed);
    }

    /// Says that blocks were written.
    pub fn add_written(&self, bytes: u64) {
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
