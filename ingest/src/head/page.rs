//! A page: 256 series that were created one after the other, behind one lock.
//!
//! Requests list the series of a target in the same order each time, so that a request works on few pages and on one after
//! the other, and the series after the one at hand is most likely the next one of the request.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use isobar_block::{Labels, LabelsRef, TimeRange};
use parking_lot::Mutex;

use super::series::Series;

/// Series of a page.
pub const PAGE_SERIES: usize = 256;

/// Number of a series within its head. Numbers are not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesRef(pub u32);

impl SeriesRef {
    /// The number of the series at a place.
    pub fn new(page: usize, slot: usize) -> Self {
        Self((page * PAGE_SERIES + slot) as u32)
    }

    /// The page.
    #[inline]
    pub fn page(self) -> usize {
        self.0 as usize / PAGE_SERIES
    }

    /// The place in the page.
    #[inline]
    pub fn slot(self) -> usize {
        self.0 as usize % PAGE_SERIES
    }
}

/// Hash of label bytes with the key of the process.
pub type LabelHash = [u64; 2];

/// A page.
#[derive(Debug)]
pub struct Page {
    /// The series themselves.
    pub series: Mutex<Vec<Series>>,
    names: Box<[Name]>,
}

/// What of a series can be read without the lock.
#[derive(Debug, Default)]
struct Name {
    hash: [AtomicU64; 2],
    labels: OnceLock<Labels>,
}

impl Default for Page {
    fn default() -> Self {
        Self { series: Mutex::default(), names: (0..PAGE_SERIES).map(|_| Name::default()).collect() }
    }
}

impl Page {
    /// What stands in the place of a page whose series have all left.
    pub fn tombstone() -> Self {
        Self { series: Mutex::default(), names: Box::default() }
    }

    /// Whether the page is full and all its series have left.
    pub fn is_dead(&self) -> bool {
        let series = self.series.lock();
        series.len() == PAGE_SERIES && series.iter().all(|s| s.gone)
    }

    /// Whether a series has a part with samples in `range`.
    pub fn has_samples(&self, range: TimeRange) -> bool {
        self.series.lock().iter().any(|s| s.has_samples(range))
    }

    /// Whether the label bytes with that hash were last used for the series in `slot`.
    #[inline]
    pub fn is_named(&self, slot: usize, hash: LabelHash) -> bool {
        let Some(Name { hash: name, .. }) = self.names.get(slot) else { return false };
        // A half-written hash equals neither the old one nor the new one: then the lookup table decides.
        name[0].load(Ordering::Relaxed) == hash[0] && name[1].load(Ordering::Acquire) == hash[1]
    }

    /// Remembers which label bytes are used for the series in `slot`.
    pub fn set_hash(&self, slot: usize, hash: LabelHash) {
        self.names[slot].hash[0].store(hash[0], Ordering::Relaxed);
        self.names[slot].hash[1].store(hash[1], Ordering::Release);
    }

    /// Sets the labels of a new series.
    pub fn set_labels(&self, slot: usize, labels: Labels) {
        assert!(self.names[slot].labels.set(labels).is_ok(), "a slot is used once");
    }

    /// The labels of a series.
    ///
    /// # Panics
    /// If there is no series in `slot`.
    #[inline]
    pub fn labels(&self, slot: usize) -> &Labels {
        self.names[slot].labels.get().expect("the number of a series is given out after its labels were set")
    }

    /// The labels of a series, borrowed.
    #[inline]
    pub fn labels_ref(&self, slot: usize) -> LabelsRef<'_> {
        self.labels(slot).as_ref()
    }
}

/// Asks the processor to have the memory at `place` ready soon. The place need not be valid.
#[inline]
pub fn prefetch<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program could see, and an address that is not valid is ignored.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}
