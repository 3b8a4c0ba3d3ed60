//! Keeps what a query has selected until the query has read it.
//!
//! A query takes the head's series first and the catalog's blocks second. If a cut commits its block after that, the query does
//! not know the block; so the samples must stay in the head until every query that began before the commit has ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// Queries that read a head.
#[derive(Clone, Debug, Default)]
pub struct Pins(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    now: u64,
    held: BTreeMap<u64, u64>,
    /// Pins from before this moment are not honoured any more.
    revoked: u64,
}

/// One query. What it selected stays as long as it lives.
#[derive(Debug)]
pub struct Pin {
    pins: Pins,
    moment: u64,
}

impl Pins {
    /// Begins a query.
    pub fn pin(&self) -> Pin {
        let mut state = self.0.state.lock();
        let moment = state.now;
        *state.held.entry(moment).or_default() += 1;
        Pin { pins: self.clone(), moment }
    }

    /// Waits until all queries that have begun before this call have ended, but not longer than `timeout`. Those that have not
    /// ended then get an error when they read on. Blocks.
    pub fn wait(&self, timeout: std::time::Duration) {
        let deadline = std::time::Instant::now() + timeout;
        let mut state = self.0.state.lock();
        state.now += 1;
        let moment = state.now;
        while state.held.keys().next().is_some_and(|oldest| *oldest < moment) {
            if self.0.released.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.revoked = state.revoked.max(moment);
    }
}

impl Pin {
    /// Whether what the query selected is still there. Ask after reading.
    pub fn holds(&self) -> bool {
        self.moment >= self.pins.0.state.lock().revoked
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.pins.0.state.lock();
        if let Some(count) = state.held.get_mut(&self.moment) {
            *count -= 1;
            if *count == 0 {
                state.held.remove(&self.moment);
                self.pins.0.released.notify_all();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn waits_for_older_queries_only() {
        let pins = Pins::default();
        let old = pins.pin();
        let waiting = std::thread::spawn({
            let pins = pins.clone();
            move || pins.wait(Duration::from_secs(60))
        });
        while pins.0.state.lock().now == 0 {
            std::thread::yield_now();
        }
        let new = pins.pin();
        assert!(old.holds());
        drop(old);
        waiting.join().expect("ends");
        assert!(new.holds());
        pins.wait(Duration::ZERO);
        assert!(!new.holds());
    }
}
