//! Snapshots that were made lately. One is made at a time, off the threads that wait for requests; others that want the same one wait for it.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::Result;
use crate::snapshot::Snapshot;
use crate::state::{Changes, Frozen};

/// The last snapshots.
pub(super) struct Snapshots {
    limit: usize,
    kept: Mutex<Kept>,
    making: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Kept {
    /// Oldest first.
    list: Vec<Arc<Snapshot>>,
    /// What has changed since the one that is being made was begun.
    since: Changes,
}

impl Snapshots {
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), kept: Mutex::default(), making: tokio::sync::Mutex::new(()) }
    }

    /// Drops what is not the graph any more.
    pub fn forget(&self, changes: Changes) {
        let mut kept = self.kept.lock();
        kept.since.join(changes);
        kept.list.retain(|s| survives(s, changes));
    }

    /// The snapshot as of a time, of the state that `freeze` gives.
    pub async fn get(&self, at_ms: i64, freeze: impl Fn() -> Frozen) -> Result<Arc<Snapshot>> {
        if let Some(found) = self.find(at_ms) {
            return Ok(found);
        }
        let _making = self.making.lock().await;
        if let Some(found) = self.find(at_ms) {
            return Ok(found);
        }
        let frozen = {
            let mut kept = self.kept.lock();
            kept.since = Changes::default();
            freeze()
        };
        let made = tokio::task::spawn_blocking(move || Arc::new(Snapshot::new(frozen, at_ms))).await.expect("building does not panic");
        let mut kept = self.kept.lock();
        if survives(&made, kept.since) {
            if kept.list.len() >= self.limit {
                kept.list.remove(0);
            }
            kept.list.push(made.clone());
        }
        Ok(made)
    }

    fn find(&self, at_ms: i64) -> Option<Arc<Snapshot>> {
        let mut kept = self.kept.lock();
        let index = kept.list.iter().position(|s| s.at(at_ms).is_some())?;
        let found = kept.list.remove(index);
        kept.list.push(found.clone());
        if found.at_ms() == at_ms { Some(found) } else { found.at(at_ms).map(Arc::new) }
    }
}

/// Whether a snapshot still is the graph after these changes. What was prolonged was live in all snapshots from before its old end;
/// later ones may show it as stale.
fn survives(snapshot: &Snapshot, changes: Changes) -> bool {
    !changes.changed && snapshot.built_ms() < changes.prolonged_ms
}
