//! Lets a bounded number of queries run, and a bounded number wait for that.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::result::{Error, Result, Stats};

/// The gate, and the metrics of what goes through.
pub(super) struct Gate {
    running: Semaphore,
    max_running: usize,
    max_waiting: usize,
    metrics: Metrics,
}

struct Metrics {
    running: Gauge,
    max_running: Gauge,
    waiting: Gauge,
    refused: Counter,
    wait: Histogram,
    duration: Histogram,
    samples: Counter<u64, AtomicU64>,
}

/// A query that runs; dropping it lets the next one in.
pub(super) struct Running<'a> {
    _permit: SemaphorePermit<'a>,
    metrics: &'a Metrics,
    since: Instant,
    /// How long it had to wait.
    pub waited: Duration,
}

impl Gate {
    pub fn new(max_running: usize, max_waiting: usize) -> Self {
        let buckets = || Histogram::new([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]);
        let metrics = Metrics {
            running: Gauge::default(),
            max_running: Gauge::default(),
            waiting: Gauge::default(),
            refused: Counter::default(),
            wait: buckets(),
            duration: buckets(),
            samples: Counter::default(),
        };
        metrics.max_running.set(max_running as i64);
        Self { running: Semaphore::new(max_running.min(Semaphore::MAX_PERMITS)), max_running, max_waiting, metrics }
    }

    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        let m = &self.metrics;
        registry.register("isobar_query_running", "Queries that run at the moment", m.running.clone());
        registry.register("isobar_query_running_max", "Queries that may run at a time", m.max_running.clone());
        registry.register("isobar_query_waiting", "Queries that wait for others to end", m.waiting.clone());
        registry.register("isobar_query_refused", "Queries that were refused because too many ran or waited", m.refused.clone());
        registry.register_with_unit("isobar_query_wait", "How long queries waited for others", Unit::Seconds, m.wait.clone());
        registry.register_with_unit("isobar_query_duration", "How long queries ran", Unit::Seconds, m.duration.clone());
        registry.register("isobar_query_samples", "Samples that queries have read", m.samples.clone());
    }

    /// Waits until the query may run, at most for `timeout`. Dropping the future gives the place up.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if too many wait already, or the time is over.
    pub async fn enter(&self, timeout: Duration) -> Result<Running<'_>> {
        let since = Instant::now();
        let permit = match self.running.try_acquire() {
            Ok(permit) => permit,
            Err(_) => self.wait(timeout).await?,
        };
        let waited = since.elapsed();
        self.metrics.wait.observe(waited.as_secs_f64());
        self.metrics.running.inc();
        Ok(Running { _permit: permit, metrics: &self.metrics, since: Instant::now(), waited })
    }

    async fn wait(&self, timeout: Duration) -> Result<SemaphorePermit<'_>> {
        let refused = |message: String| {
            self.metrics.refused.inc();
            Error::Unavailable(message)
        };
        if self.metrics.waiting.inc() >= self.max_waiting as i64 {
            self.metrics.waiting.dec();
            let (running, waiting) = (self.max_running, self.max_waiting);
            return Err(refused(format!("{running} queries run and {waiting} wait; try again, or raise the limit of concurrent queries")));
        }
        let _waiting = Waiting(&self.metrics.waiting);
        match tokio::time::timeout(timeout, self.running.acquire()).await {
            Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
            Err(_) => Err(refused(format!("query timed out in query queue after {timeout:?}; {} other queries run", self.max_running))),
        }
    }
}

struct Waiting<'a>(&'a Gauge);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Running<'_> {
    /// Counts the work of a query that succeeded.
    pub fn count(&self, stats: &Stats) {
        self.metrics.samples.inc_by(stats.samples);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.metrics.running.dec();
        self.metrics.duration.observe(self.since.elapsed().as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lets_few_run_and_few_wait() {
        let gate = Gate::new(1, 1);
        let first = gate.enter(Duration::from_secs(5)).await.expect("free");
        let error = gate.enter(Duration::from_millis(5)).await.err().expect("the place is taken");
        assert!(matches!(&error, Error::Unavailable(m) if m.contains("in query queue")), "{error}");
        let mut second = Box::pin(gate.enter(Duration::from_secs(5)));
        assert!(futures::poll!(&mut second).is_pending());
        let error = gate.enter(Duration::from_secs(5)).await.err().expect("one waits already");
        assert!(error.to_string().contains("1 wait"), "{error}");
        drop(first);
        assert!(second.await.is_ok());
        assert_eq!((gate.metrics.running.get(), gate.metrics.waiting.get(), gate.metrics.refused.get()), (0, 0, 2));
        // One that goes away while it waits leaves no trace.
        let first = gate.enter(Duration::from_secs(5)).await.expect("free");
        let mut second = Box::pin(gate.enter(Duration::from_secs(5)));
        assert!(futures::poll!(&mut second).is_pending());
        drop(second);
        assert_eq!(gate.metrics.waiting.get(), 0);
        drop(first);
        assert!(gate.enter(Duration::ZERO).await.is_ok());
    }
}
