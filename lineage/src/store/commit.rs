//! Group commit: one task writes entries as long as events wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hashbrown::HashSet;
use isobar_block::{BlockId, time};

use super::{BATCH_BYTES, LineageStore, MAX_COMMIT_TRIES, Outcome, Place, Waiting, entry};
use crate::event::Event;
use crate::state::check::Pending;
use crate::state::recent::RecentIds;
use crate::{Error, Result};

impl LineageStore {
    /// Writes entries until nobody waits.
    pub(super) async fn commit_all(self: Arc<Self>) {
        loop {
            if self.queue.lock().bytes < BATCH_BYTES {
                tokio::time::sleep(Duration::from_millis(self.config.linger_ms)).await;
            }
            let Some(batch) = self.take() else { return };
            let bytes: usize = batch.iter().map(|w| w.bytes).sum();
            self.commit(batch).await;
            self.queue.lock().bytes -= bytes;
            self.checkpoint_if_due().await;
        }
    }

    /// The next events to write, whole requests; nothing, and nobody writing, if none wait.
    fn take(&self) -> Option<Vec<Waiting>> {
        let mut queue = self.queue.lock();
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(next) = queue.waiting.front() {
            if !batch.is_empty() && bytes + next.bytes > BATCH_BYTES {
                break;
            }
            bytes += next.bytes;
            batch.extend(queue.waiting.pop_front());
        }
        if batch.is_empty() {
            queue.running = false;
            return None;
        }
        Some(batch)
    }

    /// Writes one entry and tells every writer what became of its events.
    async fn commit(&self, mut batch: Vec<Waiting>) {
        match self.try_commit(&mut batch).await {
            Ok(()) => batch.into_iter().for_each(|w| {
                // A writer that does not wait any more has sent for nothing or will ask again.
                let _ = w.reply.send(Ok(w.outcomes));
            }),
            Err(error) => {
                tracing::warn!("an entry of {} was not written: {error}", self.log.prefix());
                for waiting in batch {
                    let _ = waiting.reply.send(Err(Error::NotWritten { reason: error.to_string() }));
                }
            }
        }
    }

    async fn try_commit(&self, batch: &mut [Waiting]) -> Result<()> {
        let mut place = self.place.lock().await;
        let at_ms = time::now_ms();
        let commit = BlockId::new(at_ms);
        for _ in 0..MAX_COMMIT_TRIES {
            let (number, accepted) = self.accept(batch);
            if accepted.is_empty() {
                return Ok(());
            }
            let json = accepted.iter().map(|(w, e)| batch[*w].events[*e].2.as_slice());
            let content = entry::write(number, commit, at_ms, json);
            if self.create(number, &content).await? {
                self.store(number, batch, &accepted, content.len(), &mut place);
                return Ok(());
            }
            self.follow(&mut place).await?;
        }
        Err(Error::Busy { limit: "tries to append to the lineage log", allowed: MAX_COMMIT_TRIES as u64 })
    }

    /// Creates the entry. After an error looks whether it came through all the same.
    async fn create(&self, number: u64, content: &[u8]) -> Result<bool> {
        match self.log.create(number, content).await {
            Ok(created) => Ok(created),
            Err(error) => match self.log.get(number).await {
                Ok(Some(existing)) => Ok(existing == content),
                _ => Err(error.into()),
            },
        }
    }

    /// Checks all events of the batch against the graph as of the last entry. Returns the next entry's number, and which events go into it.
    fn accept(&self, batch: &mut [Waiting]) -> (u64, Vec<(usize, usize)>) {
        let state = self.state.read();
        let mut pending = Pending::default();
        let mut ids: HashSet<u128> = HashSet::new();
        let mut accepted = Vec::new();
        for (w, waiting) in batch.iter_mut().enumerate() {
            for (e, (i, event, _)) in waiting.events.iter().enumerate() {
                let hash = RecentIds::hash(&event.id);
                waiting.outcomes[*i] = if state.recent.contains(hash) || ids.contains(&hash) {
                    Outcome::Repeated
                } else if let Err(error) = state.check(event, &mut pending) {
                    Outcome::Refused(error)
                } else {
                    ids.insert(hash);
                    accepted.push((w, e));
                    Outcome::Repeated
                };
            }
        }
        (state.frozen.version + 1, accepted)
    }

    /// Puts what was written into the graph.
    fn store(&self, number: u64, batch: &mut [Waiting], accepted: &[(usize, usize)], bytes: usize, place: &mut Place) {
        let mut events: Vec<Event> = Vec::with_capacity(accepted.len());
        for (w, e) in accepted {
            let waiting = &mut batch[*w];
            let (i, event, _) = &mut waiting.events[*e];
            waiting.outcomes[*i] = Outcome::Stored(number);
            events.push(std::mem::take(event));
        }
        self.fold(number, events, bytes, place);
    }

    /// Starts to write a checkpoint if there is much since the last one. One that cannot be written costs time at the next start and nothing else.
    async fn checkpoint_if_due(self: &Arc<Self>) {
        let due_bytes = self.config.checkpoint_bytes.max(self.checkpoint_bytes.load(Ordering::Relaxed));
        let mut place = self.place.lock().await;
        if place.bytes_since_checkpoint < due_bytes && place.entries_since_checkpoint < self.config.checkpoint_entries {
            return;
        }
        if self.checkpointing.swap(true, Ordering::Relaxed) {
            return;
        }
        (place.bytes_since_checkpoint, place.entries_since_checkpoint) = (0, 0);
        drop(place);
        let store = self.clone();
        tokio::spawn(async move {
            if let Err(error) = store.checkpoint().await {
                tracing::warn!("a checkpoint of {} was not written: {error}", store.log.prefix());
            }
            store.checkpointing.store(false, Ordering::Relaxed);
        });
    }
}
