//! The bound on the memory of all write requests together.
//!
//! A request accounts for memory as it takes it: for the chunks of its body as they arrive, then for what it is
//! decompressed and decoded to. So a sender that announces much and sends nothing holds nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::gauge::Gauge;

/// The bound, shared by all requests.
pub(super) struct Inflight(Arc<Account>);

struct Account {
    used_bytes: AtomicU64,
    max_bytes: u64,
    gauge: Gauge,
}

/// Memory that one request has accounted for; dropping it gives the memory back.
pub(super) struct Permit {
    account: Arc<Account>,
    bytes: u64,
}

impl Inflight {
    pub(super) fn new(max_bytes: u64, gauge: Gauge) -> Self {
        Self(Arc::new(Account { used_bytes: AtomicU64::new(0), max_bytes, gauge }))
    }

    /// A permit for nothing yet.
    pub(super) fn open(&self) -> Permit {
        Permit { account: Arc::clone(&self.0), bytes: 0 }
    }
}

impl Permit {
    /// Accounts for `bytes` more, or returns `None` and accounts for nothing more if the bound is reached.
    ///
    /// A request that has accounted for nothing else and is alone always passes, however small the bound is.
    pub(super) fn grow(&mut self, bytes: usize) -> Option<()> {
        let bytes = bytes as u64;
        let account = &self.account;
        let fits = |used: u64| (used + bytes <= account.max_bytes || used == self.bytes).then_some(used + bytes);
        account.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        account.gauge.inc_by(bytes as i64);
        self.bytes += bytes;
        Some(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.account.used_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.account.gauge.dec_by(self.bytes as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_all_and_lets_one_pass() {
        let gauge = Gauge::default();
        let inflight = Inflight::new(100, gauge.clone());
        let mut a = inflight.open();
        let mut b = inflight.open();
        assert!(a.grow(60).is_some() && b.grow(30).is_some());
        assert!(b.grow(20).is_none());
        assert_eq!(gauge.get(), 90);
        drop(a);
        assert!(b.grow(500).is_some(), "alone");
        assert!(inflight.open().grow(1).is_none());
        drop(b);
        assert_eq!(gauge.get(), 0);
    }
}
