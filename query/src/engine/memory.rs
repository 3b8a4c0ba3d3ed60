//! The share of memory that one query may reserve, on top of the pool that all queries share.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

/// Grants memory up to the query's own limit as long as the shared pool has some.
#[derive(Debug)]
pub(super) struct QueryMemoryPool {
    limit_bytes: usize,
    used_bytes: AtomicUsize,
    peak_bytes: AtomicUsize,
    shared: Arc<dyn MemoryPool>,
}

impl QueryMemoryPool {
    pub(super) fn new(limit_bytes: u64, shared: Arc<dyn MemoryPool>) -> Arc<Self> {
        let limit_bytes = usize::try_from(limit_bytes).unwrap_or(usize::MAX);
        Arc::new(Self { limit_bytes, used_bytes: AtomicUsize::new(0), peak_bytes: AtomicUsize::new(0), shared })
    }

    /// The most that was ever reserved.
    pub(super) fn peak_bytes(&self) -> u64 {
        self.peak_bytes.load(Ordering::Relaxed) as u64
    }

    fn note_peak(&self, used: usize) {
        self.peak_bytes.fetch_max(used, Ordering::Relaxed);
    }
}

impl fmt::Display for QueryMemoryPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "query memory (limit {} bytes)", self.limit_bytes)
    }
}

impl MemoryPool for QueryMemoryPool {
    fn name(&self) -> &str {
        "query memory"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.shared.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.shared.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.shared.grow(reservation, additional);
        self.note_peak(self.used_bytes.fetch_add(additional, Ordering::Relaxed) + additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.used_bytes.fetch_sub(shrink, Ordering::Relaxed);
        self.shared.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let used = self
            .used_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| used.checked_add(additional).filter(|n| *n <= self.limit_bytes))
            .map_err(|used| {
                DataFusionError::ResourcesExhausted(format!(
                    "query memory limit of {} bytes is exceeded: {} more were asked for by {} with {used} in use; select fewer series or a longer step, or raise the limit",
                    self.limit_bytes,
                    additional,
                    reservation.consumer().name(),
                ))
            })?;
        if let Err(e) = self.shared.try_grow(reservation, additional) {
            self.used_bytes.fetch_sub(additional, Ordering::Relaxed);
            return Err(DataFusionError::ResourcesExhausted(format!(
                "total query memory limit is exceeded by all running queries together: {}; try again, or raise the limit",
                e.strip_backtrace()
            )));
        }
        self.note_peak(used + additional);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit_bytes)
    }
}
