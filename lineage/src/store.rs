//! The lineage of one tenant: the log of events in the object store, and the graph that they make.
//!
//! Whoever appends waits until the events are in the log, together with those of others: while one entry is written, the next one is
//! collected. Then they are in the graph of this process, so that whoever has written can read. Several processes may append;
//! each follows the entries of the others.

mod entry;
mod checkpoint;
mod commit;
mod documents;
mod raws;
mod said;
mod snapshots;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::{StreamExt, TryStreamExt};
use isobar_block::log::ObjectLog;
use isobar_block::{TenantId, key, time};
use object_store::ObjectStore;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{oneshot, watch};

use crate::event::{Event, MAX_EVENT_BYTES, too_large};
use crate::snapshot::Snapshot;
use crate::state::recent::RecentIds;
use crate::state::{Changes, State};
use crate::{Error, Result};

/// Most bytes of events, as JSON, in one call of [`LineageStore::append`].
pub const MAX_APPEND_BYTES: usize = 64 << 20;

/// An entry is closed when it has so many bytes of events.
pub const BATCH_BYTES: usize = 4 << 20;

/// Entries that are read ahead at a start.
pub const READ_AHEAD: usize = 32;

/// An append gives up after it has lost against so many others.
pub const MAX_COMMIT_TRIES: usize = 100;

pub use raws::{MAX_RAW_BYTES, MAX_RAW_ENTRIES, RawEvents};

/// How the store works. Values are checked by [`LineageStore::open`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineageConfig {
    /// Bytes of events that may wait to be written; more are refused for now.
    pub queue_bytes: usize,
    /// So long an entry is collected when nobody else is writing.
    pub linger_ms: u64,
    /// After so long a question looks for entries of other processes first.
    pub follow_ms: i64,
    /// Snapshots that are kept for the next question.
    pub snapshots: usize,
    /// A checkpoint is written after so many bytes of entries, or as many as the last checkpoint has if that is more.
    pub checkpoint_bytes: u64,
    /// And after so many entries.
    pub checkpoint_entries: u64,
}

impl Default for LineageConfig {
    fn default() -> Self {
        Self { queue_bytes: 128 << 20, linger_ms: 5, follow_ms: 2_000, snapshots: 4, checkpoint_bytes: 8 << 20, checkpoint_entries: 2_000 }
    }
}

/// What became of an event.
#[derive(Debug)]
pub enum Outcome {
    /// It is in this entry of the log, and in the graph.
    Stored(u64),
    /// It was stored before.
    Repeated,
    /// It breaks a rule; nothing of it is stored.
    Refused(Error),
}

/// As of when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// Now, with everything that this process has stored.
    Now,
    /// A time, Unix milliseconds.
    At(i64),
}

/// Events of one writer, with their JSON.
struct Waiting {
    events: Vec<(usize, Event, Vec<u8>)>,
    bytes: usize,
    outcomes: Vec<Outcome>,
    reply: oneshot::Sender<Result<Vec<Outcome>>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// A task is writing entries until the queue is empty.
    running: bool,
}

/// What is known of the log; one entry is written or read at a time.
struct Place {
    refreshed_ms: i64,
    bytes_since_checkpoint: u64,
    entries_since_checkpoint: u64,
}

/// The lineage of one tenant.
pub struct LineageStore {
    tenant: TenantId,
    config: LineageConfig,
    log: ObjectLog,
    state: RwLock<State>,
    queue: Mutex<Queue>,
    place: tokio::sync::Mutex<Place>,
    snapshots: snapshots::Snapshots,
    checkpoint_bytes: AtomicU64,
    checkpointing: AtomicBool,
    counted: Counted,
    version: watch::Sender<u64>,
}

/// What became of events in this process.
#[derive(Default)]
struct Counted {
    stored: AtomicU64,
    repeated: AtomicU64,
    refused: AtomicU64,
}

impl Counted {
    fn add(&self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            let counter = match outcome {
                Outcome::Stored(_) => &self.stored,
                Outcome::Repeated => &self.repeated,
                Outcome::Refused(_) => &self.refused,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sizes, for metrics and status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Number of the last entry of the log.
    pub version: u64,
    /// Nodes that were ever mentioned.
    pub nodes: usize,
    /// Edges that were ever claimed.
    pub edges: usize,
    /// Source scopes that ever spoke.
    pub sources: usize,
    /// Documents that are kept.
    pub documents: usize,
    /// Bytes of them.
    pub document_bytes: usize,
    /// Bytes of events that wait to be written.
    pub queued_bytes: usize,
    /// Events that this process has stored.
    pub stored: u64,
    /// Events that it was sent again.
    pub repeated: u64,
    /// Events that it has refused.
    pub refused: u64,
}

impl LineageStore {
    /// Opens the lineage of a tenant: reads the last checkpoint and the entries after it.
    ///
    /// # Errors
    /// [`Error::Block`] if an entry is damaged or missing, or the store fails; [`Error::Invalid`] if the configuration breaks a rule.
    pub async fn open(store: Arc<dyn ObjectStore>, tenant: TenantId, config: LineageConfig) -> Result<Arc<Self>> {
        if config.queue_bytes < MAX_APPEND_BYTES {
            return Err(Error::invalid("queue_bytes", format!("{} is below {MAX_APPEND_BYTES}, the largest request", config.queue_bytes)));
        }
        let log = ObjectLog::new(store, key::log(&tenant, "lineage"));
        let start = log.start().await?;
        let mut state = State::default();
        let mut checkpoint_bytes = 0;
        if let Some((number, content)) = start.checkpoint {
            checkpoint_bytes = content.len() as u64;
            let read = tokio::task::spawn_blocking(move || checkpoint::read(number, &content)).await.expect("reading does not panic");
            match read {
                Ok(read) => state = read,
                Err(reason) => {
                    tracing::warn!("checkpoint {number} of {} cannot be used ({reason}); the log is read from its beginning", log.prefix());
                }
            }
        }
        let (version, _) = watch::channel(state.frozen.version);
        let snapshots = snapshots::Snapshots::new(config.snapshots);
        let place = Place { refreshed_ms: time::now_ms(), bytes_since_checkpoint: 0, entries_since_checkpoint: 0 };
        let opened = Self {
            tenant,
            config,
            log,
            state: RwLock::new(state),
            queue: Mutex::default(),
            place: tokio::sync::Mutex::new(place),
            snapshots,
            checkpoint_bytes: AtomicU64::new(checkpoint_bytes),
            checkpointing: AtomicBool::new(false),
            counted: Counted::default(),
            version,
        };
        opened.replay(start.last).await?;
        Ok(Arc::new(opened))
    }

    /// Whose lineage it is.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Number of the last entry of the log that this process has.
    pub fn version(&self) -> u64 {
        *self.version.borrow()
    }

    /// Tells when there are new entries.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Sizes, for metrics and status.
    pub fn sizes(&self) -> Sizes {
        let state = self.state.read();
        let frozen = &state.frozen;
        let (version, nodes, edges, sources) = (frozen.version, frozen.nodes.len(), frozen.edges.len(), frozen.sources.len());
        let (documents, document_bytes) = state.documents.size();
        drop(state);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Sizes {
            version,
            nodes,
            edges,
            sources,
            documents,
            document_bytes,
            queued_bytes: self.queue.lock().bytes,
            stored: count(&self.counted.stored),
            repeated: count(&self.counted.repeated),
            refused: count(&self.counted.refused),
        }
    }

    /// Reads the entries up to `last` that were there at the start, several at a time, and then whatever follows.
    async fn replay(&self, last: u64) -> Result<()> {
        let mut place = self.place.lock().await;
        let first = self.state.read().frozen.version + 1;
        let mut entries = futures::stream::iter(first..=last)
            .map(|number| async move { self.log.get(number).await.map(|content| (number, content)) })
            .buffered(READ_AHEAD);
        while let Some((number, content)) = entries.try_next().await? {
            let Some(content) = content else {
                let reason = format!("the entry is missing, but entry {last} exists; restore it from a backup");
                return Err(isobar_block::Error::corrupt(self.log.entry_key(number), reason).into());
            };
            self.apply(number, &content, &mut place)?;
        }
        drop(entries);
        self.follow(&mut place).await
    }

    /// Reads entries that others have added.
    ///
    /// # Errors
    /// [`Error::Block`] if an entry is damaged, or the store fails.
    pub async fn refresh(&self) -> Result<u64> {
        let mut place = self.place.lock().await;
        self.follow(&mut place).await?;
        Ok(self.version())
    }

    /// [`LineageStore::refresh`] if the last one is as long ago as the configuration says.
    async fn refresh_if_old(&self) -> Result<()> {
        {
            // Whoever holds the lock is reading or writing: what it knew before is recent enough.
            let Ok(place) = self.place.try_lock() else { return Ok(()) };
            if (time::now_ms() - place.refreshed_ms).abs() < self.config.follow_ms {
                return Ok(());
            }
        }
        self.refresh().await.map(drop)
    }

    async fn follow(&self, place: &mut Place) -> Result<()> {
        loop {
            let number = self.state.read().frozen.version + 1;
            let Some(content) = self.log.get(number).await? else { break };
            self.apply(number, &content, place)?;
        }
        place.refreshed_ms = time::now_ms();
        Ok(())
    }

    /// Folds an entry that was read.
    fn apply(&self, number: u64, content: &[u8], place: &mut Place) -> Result<()> {
        let events = entry::read(number, content).map_err(|reason| isobar_block::Error::corrupt(self.log.entry_key(number), reason))?;
        self.fold(number, events, content.len(), place);
        Ok(())
    }

    /// Puts the events of entry `number` into the graph.
    fn fold(&self, number: u64, events: Vec<Event>, bytes: usize, place: &mut Place) {
        let mut changes = Changes::default();
        {
            let mut state = self.state.write();
            state.raws.add(number, events.iter().filter(|e| raws::is_raw(&e.source, e.raw.is_some())).map(|e| e.at_ms));
            for event in events {
                changes.join(state.fold(event));
            }
            state.frozen.version = number;
        }
        place.bytes_since_checkpoint += bytes as u64;
        place.entries_since_checkpoint += 1;
        self.snapshots.forget(changes);
        self.version.send_replace(number);
    }

    /// The graph as of a time, with everything that was appended through this object before the call.
    ///
    /// # Errors
    /// [`Error::Block`] if entries of other processes cannot be read.
    pub async fn snapshot(&self, as_of: AsOf) -> Result<Arc<Snapshot>> {
        self.refresh_if_old().await?;
        let at_ms = match as_of {
            AsOf::Now => time::now_ms(),
            AsOf::At(at_ms) => at_ms,
        };
        self.snapshots.get(at_ms, || self.state.read().frozen.clone()).await
    }

    /// Two snapshots of one version of the graph, as [`crate::diff::diff`] needs them.
    ///
    /// # Errors
    /// As [`LineageStore::snapshot`].
    pub async fn snapshots(&self, first: AsOf, second: AsOf) -> Result<(Arc<Snapshot>, Arc<Snapshot>)> {
        Ok((self.snapshot(first).await?, self.snapshot(second).await?))
    }

    /// Stores events, and returns what became of each, in their order. When this returns, stored events survive power loss and are in
    /// every snapshot that is asked for later.
    ///
    /// Cancel safe: events of a call that is dropped may or may not be stored, and sending them again does no harm.
    ///
    /// # Errors
    /// [`Error::Busy`] if too much is waiting; [`Error::NotWritten`] if the store fails. [`Error::Invalid`] if there is more than one request may hold.
    pub async fn append(self: &Arc<Self>, events: Vec<Event>) -> Result<Vec<Outcome>> {
        let now_ms = time::now_ms();
        let (reply, answer) = oneshot::channel();
        let mut waiting = Waiting { events: Vec::with_capacity(events.len()), bytes: 0, outcomes: Vec::with_capacity(events.len()), reply };
        for (i, mut event) in events.into_iter().enumerate() {
            match event.check(now_ms).and_then(|()| to_json(&event)) {
                Err(error) => waiting.outcomes.push(Outcome::Refused(error)),
                Ok(_) if self.state.read().recent.contains(RecentIds::hash(&event.id)) => waiting.outcomes.push(Outcome::Repeated),
                Ok(json) => {
                    waiting.bytes += json.len();
                    waiting.outcomes.push(Outcome::Repeated);
                    waiting.events.push((i, event, json));
                }
            }
        }
        if waiting.events.is_empty() {
            self.counted.add(&waiting.outcomes);
            return Ok(waiting.outcomes);
        }
        if waiting.bytes > MAX_APPEND_BYTES {
            return Err(Error::invalid(
                "events",
                format!("have {} bytes together, more than {MAX_APPEND_BYTES}; send fewer at once", waiting.bytes),
            ));
        }
        self.enqueue(waiting)?;
        let outcomes = answer.await.map_err(|_| Error::Canceled)??;
        self.counted.add(&outcomes);
        Ok(outcomes)
    }

    fn enqueue(self: &Arc<Self>, waiting: Waiting) -> Result<()> {
        let mut queue = self.queue.lock();
        if queue.bytes + waiting.bytes > self.config.queue_bytes {
            return Err(Error::Busy { limit: "lineage.queue_bytes", allowed: self.config.queue_bytes as u64 });
        }
        queue.bytes += waiting.bytes;
        queue.waiting.push_back(waiting);
        if !std::mem::replace(&mut queue.running, true) {
            tokio::spawn(self.clone().commit_all());
        }
        Ok(())
    }

    /// Writes a checkpoint now.
    ///
    /// # Errors
    /// [`Error::Block`] if the store fails; the log is still whole.
    pub async fn checkpoint(&self) -> Result<()> {
        let (frozen, beside) = {
            let state = self.state.read();
            (state.frozen.clone(), checkpoint::Beside::of(&state))
        };
        let number = frozen.version;
        let written = tokio::task::spawn_blocking(move || checkpoint::write(&frozen, &beside)).await.expect("writing does not panic");
        let content = written.map_err(|e| isobar_block::Error::io("checkpoint in memory", e))?;
        self.log.checkpoint(number, &content).await?;
        self.checkpoint_bytes.store(content.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

fn to_json(event: &Event) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(event).map_err(|e| Error::invalid("event", e.to_string()))?;
    if json.len() > MAX_EVENT_BYTES { Err(too_large(json.len())) } else { Ok(json) }
}

#[cfg(test)]
mod tests;
