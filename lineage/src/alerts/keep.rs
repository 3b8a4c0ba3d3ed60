//! Impacts in the object store: a log of changes for what is open, and an object for each impact that is closed, so that it can be
//! read for good while memory holds only the last ones.
//!
//! Several processes may write; each follows the entries of the others. Changes that come while an entry is written go into the next one.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use futures::{StreamExt, TryStreamExt};
use isobar_block::log::ObjectLog;
use isobar_block::{TenantId, key, time};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use ulid::Ulid;

use super::model::Impact;
use super::state::{Change, Checkpoint, State};
use crate::{Error, Result};

/// A checkpoint is written after so many entries,
pub const CHECKPOINT_ENTRIES: u64 = 1000;

/// or after so many bytes of entries, or as many as the last checkpoint has if that is more.
pub const CHECKPOINT_BYTES: u64 = 8 << 20;

/// Bytes of changes, as JSON, that may wait to be written; more are refused for now.
pub const MAX_QUEUE_BYTES: usize = 64 << 20;

/// An entry is closed when it has so many bytes of changes.
pub const BATCH_BYTES: usize = 4 << 20;

/// A change gives up after it has lost against so many entries of others.
pub const MAX_TRIES: usize = 100;

/// Whoever asks looks for entries of other processes after so long.
pub const FOLLOW_MS: i64 = 2_000;

/// Most ids of closed impacts that one list looks at.
pub const MAX_LISTED: usize = 100_000;

/// Objects of closed impacts that are read at a time.
const READS: usize = 16;

/// Largest object of a closed impact, unpacked.
const MAX_RECORD_BYTES: u64 = 256 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    id: String,
    by: String,
    at_ms: i64,
    changes: Vec<Change>,
}

struct Waiting {
    changes: Vec<Change>,
    bytes: usize,
    reply: oneshot::Sender<Result<()>>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    bytes: usize,
    running: bool,
}

/// Impacts of one tenant, in memory and in the store.
pub struct Keeper {
    bucket: Arc<dyn ObjectStore>,
    records: Path,
    log: ObjectLog,
    process: String,
    state: RwLock<State>,
    /// One entry is written or read at a time.
    place: tokio::sync::Mutex<()>,
    queue: Mutex<Queue>,
    refreshed_ms: AtomicI64,
    entries: AtomicU64,
    bytes: AtomicU64,
    checkpoint_bytes: AtomicU64,
    checkpointing: AtomicBool,
}

impl Keeper {
    /// Reads the last checkpoint and the entries after it.
    ///
    /// # Errors
    /// [`Error::Block`] if an entry is damaged or missing, or the store fails.
    pub async fn open(bucket: Arc<dyn ObjectStore>, tenant: &TenantId) -> Result<Arc<Self>> {
        let log = ObjectLog::new(Arc::clone(&bucket), key::log(tenant, "impact"));
        let start = log.start().await?;
        let mut state = State::default();
        if let Some((number, content)) = start.checkpoint {
            match serde_json::from_slice::<Checkpoint>(&content) {
                Ok(checkpoint) => state = State::restore(number, checkpoint),
                Err(reason) => {
                    tracing::warn!("checkpoint {number} of {} cannot be used ({reason}); the log is read from its beginning", log.prefix());
                }
            }
        }
        let keeper = Self {
            bucket,
            records: key::log(tenant, "impact-records"),
            log,
            process: Ulid::new().to_string(),
            state: RwLock::new(state),
            place: tokio::sync::Mutex::default(),
            queue: Mutex::default(),
            refreshed_ms: AtomicI64::new(0),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            checkpoint_bytes: AtomicU64::new(0),
            checkpointing: AtomicBool::new(false),
        };
        {
            let _place = keeper.place.lock().await;
            keeper.follow().await?;
        }
        let version = keeper.state.read().version;
        if version < start.last {
            let reason = format!("the entry is missing, but entry {} exists; restore it from a backup", start.last);
            return Err(isobar_block::Error::corrupt(keeper.log.entry_key(version + 1), reason).into());
        }
        Ok(Arc::new(keeper))
    }

    /// Which process this is, in the log.
    pub fn process(&self) -> &str {
        &self.process
    }

    /// Looks at the state. Do not wait inside.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read())
    }

    /// Reads entries of other processes, if that was not done just now.
    ///
    /// # Errors
    /// [`Error::Block`] if an entry is damaged, or the store fails.
    pub async fn refresh(&self) -> Result<()> {
        if (time::now_ms() - self.refreshed_ms.load(Ordering::Relaxed)).abs() < FOLLOW_MS {
            return Ok(());
        }
        let _place = self.place.lock().await;
        self.follow().await
    }

    async fn follow(&self) -> Result<()> {
        loop {
            let number = self.state.read().version + 1;
            let Some(content) = self.log.get(number).await? else { break };
            let entry: Entry = serde_json::from_slice(&content)
                .map_err(|e| isobar_block::Error::corrupt(self.log.entry_key(number), format!("it is no entry of impacts: {e}")))?;
            self.fold(number, entry, content.len());
        }
        self.refreshed_ms.store(time::now_ms(), Ordering::Relaxed);
        Ok(())
    }

    fn fold(&self, number: u64, entry: Entry, bytes: usize) {
        let mut state = self.state.write();
        for change in entry.changes {
            state.fold(change, &entry.by);
        }
        state.version = number;
        drop(state);
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Writes changes. When this returns, they survive power loss and are in the state.
    ///
    /// Cancel safe: changes of a call that is dropped may or may not be written.
    ///
    /// # Errors
    /// [`Error::Busy`] if too much is waiting; [`Error::NotWritten`] if the store fails.
    pub async fn commit(self: &Arc<Self>, changes: Vec<Change>) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&changes).map_err(|e| Error::invalid("alerts", e.to_string()))?.len();
        let (reply, answer) = oneshot::channel();
        {
            let mut queue = self.queue.lock();
            if queue.bytes + bytes > MAX_QUEUE_BYTES {
                return Err(Error::Busy { limit: "alerts waiting to be written, in bytes", allowed: MAX_QUEUE_BYTES as u64 });
            }
            queue.bytes += bytes;
            queue.waiting.push(Waiting { changes, bytes, reply });
            if !std::mem::replace(&mut queue.running, true) {
                tokio::spawn(Arc::clone(self).commit_all());
            }
        }
        answer.await.map_err(|_| Error::Canceled)?
    }

    async fn commit_all(self: Arc<Self>) {
        loop {
            let batch = {
                let mut queue = self.queue.lock();
                let mut size = 0;
                let fits = queue.waiting.iter().take_while(|w| {
                    size += w.bytes;
                    size <= BATCH_BYTES
                });
                let count = fits.count().max(1).min(queue.waiting.len());
                if count == 0 {
                    queue.running = false;
                    return;
                }
                let batch: Vec<Waiting> = queue.waiting.drain(..count).collect();
                queue.bytes -= batch.iter().map(|w| w.bytes).sum::<usize>();
                batch
            };
            let (changes, replies): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.changes, w.reply)).unzip();
            let result = self.write(changes.into_iter().flatten().collect()).await;
            for reply in replies {
                let _nobody_waits = reply.send(match &result {
                    Ok(()) => Ok(()),
                    Err(reason) => Err(Error::NotWritten { reason: reason.clone() }),
                });
            }
            self.checkpoint_if_due();
        }
    }

    /// Writes one entry after those of others.
    async fn write(&self, changes: Vec<Change>) -> std::result::Result<(), String> {
        let _place = self.place.lock().await;
        let entry = Entry { id: Ulid::new().to_string(), by: self.process.clone(), at_ms: time::now_ms(), changes };
        let content = serde_json::to_vec(&entry).map_err(|e| e.to_string())?;
        for _ in 0..MAX_TRIES {
            let number = self.state.read().version + 1;
            if self.log.create(number, &content).await.map_err(|e| e.to_string())? {
                self.fold(number, entry, content.len());
                return Ok(());
            }
            self.follow().await.map_err(|e| e.to_string())?;
        }
        Err(format!("other processes were faster {MAX_TRIES} times"))
    }

    fn checkpoint_if_due(self: &Arc<Self>) {
        let bytes = self.bytes.load(Ordering::Relaxed);
        let due = self.entries.load(Ordering::Relaxed) >= CHECKPOINT_ENTRIES
            || bytes >= CHECKPOINT_BYTES.max(self.checkpoint_bytes.load(Ordering::Relaxed));
        if due && !self.checkpointing.swap(true, Ordering::Relaxed) {
            let keeper = Arc::clone(self);
            tokio::spawn(async move {
                if let Err(error) = keeper.checkpoint().await {
                    tracing::warn!(%error, log = %keeper.log.prefix(), "no checkpoint of impacts was written; it is tried again later");
                }
                keeper.checkpointing.store(false, Ordering::Relaxed);
            });
        }
    }

    /// Writes a checkpoint now.
    ///
    /// # Errors
    /// [`Error::Block`] if the store fails; the log is still whole.
    pub async fn checkpoint(&self) -> Result<()> {
        let (number, checkpoint) = self.read(|state| (state.version, state.checkpoint()));
        let (entries, bytes) = (self.entries.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        let content = serde_json::to_vec(&checkpoint).map_err(|e| Error::invalid("checkpoint", e.to_string()))?;
        self.log.checkpoint(number, &content).await?;
        self.entries.fetch_sub(entries, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.checkpoint_bytes.store(content.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn record_key(&self, id: &str) -> Path {
        self.records.clone().join(format!("{id}.json.zst"))
    }

    /// Writes the object of each closed impact that has none yet. Returns how many.
    ///
    /// # Errors
    /// [`Error::Block`] if the store fails; it is tried again with the next call.
    pub async fn record_closed(self: &Arc<Self>) -> Result<usize> {
        let closed: Vec<Arc<Impact>> =
            self.read(|state| state.recent.iter().filter(|c| !c.recorded).map(|c| Arc::clone(&c.impact)).collect());
        let mut changes = Vec::new();
        for impact in closed {
            let json = serde_json::to_vec(&*impact).map_err(|e| Error::invalid("impact", e.to_string()))?;
            let packed = pack(&json).map_err(|e| isobar_block::Error::io("impact in memory", e))?;
            let object = self.record_key(&impact.id);
            self.bucket.put(&object, PutPayload::from(packed)).await.map_err(isobar_block::Error::from)?;
            changes.push(Change::Recorded { id: impact.id.clone() });
        }
        let count = changes.len();
        self.commit(changes).await?;
        Ok(count)
    }

    /// An impact of any time.
    ///
    /// # Errors
    /// [`Error::Block`] if its object is damaged, or the store fails.
    pub async fn get(&self, id: &str) -> Result<Option<Arc<Impact>>> {
        if let Some(found) = self.read(|state| state.get(id).cloned()) {
            return Ok(Some(found));
        }
        // Only what can be an id is looked up.
        let is_id = id.len() <= 40 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        if is_id { self.fetch(&self.record_key(id)).await } else { Ok(None) }
    }

    async fn fetch(&self, object: &Path) -> Result<Option<Arc<Impact>>> {
        let packed = match self.bucket.get(object).await {
            Ok(found) => found.bytes().await.map_err(isobar_block::Error::from)?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(other) => return Err(isobar_block::Error::from(other).into()),
        };
        let unpack = || -> std::result::Result<Impact, String> {
            let mut json = Vec::new();
            let unpacked = zstd::stream::read::Decoder::new(&packed[..]).map_err(|e| e.to_string())?;
            unpacked.take(MAX_RECORD_BYTES).read_to_end(&mut json).map_err(|e| e.to_string())?;
            serde_json::from_slice(&json).map_err(|e| e.to_string())
        };
        unpack().map(|impact| Some(Arc::new(impact))).map_err(|reason| isobar_block::Error::corrupt(object.clone(), reason).into())
    }

    /// The newest closed impacts that began from `since_ms` on and before `until_ms`, newest first, at most `limit`; and whether the list was
    /// cut because there are too many to look at.
    ///
    /// # Errors
    /// [`Error::Block`] if an object is damaged, or the store fails.
    pub async fn closed(&self, since_ms: i64, until_ms: i64, limit: usize) -> Result<(Vec<Arc<Impact>>, bool)> {
        let from = self.records.clone().join(format!("{:013}", since_ms.max(0)));
        let mut listed = self.bucket.list_with_offset(Some(&self.records), &from);
        let mut found: Vec<(i64, Path)> = Vec::new();
        let mut cut = false;
        while let Some(object) = listed.try_next().await.map_err(isobar_block::Error::from)? {
            let start = object.location.filename().and_then(|n| n.split_once('-')).and_then(|(ms, _)| ms.parse::<i64>().ok());
            let Some(start_ms) = start.filter(|ms| (since_ms..until_ms).contains(ms)) else { continue };
            if found.len() >= MAX_LISTED {
                cut = true;
                break;
            }
            found.push((start_ms, object.location));
        }
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.truncate(limit);
        let reads = futures::stream::iter(found).map(|(_, object)| async move { self.fetch(&object).await }).buffered(READS);
        let impacts: Vec<Option<Arc<Impact>>> = reads.try_collect().await?;
        Ok((impacts.into_iter().flatten().collect(), cut))
    }
}

/// Packs with a checksum of the content.
fn pack(json: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut packer = zstd::bulk::Compressor::new(zstd::DEFAULT_COMPRESSION_LEVEL)?;
    packer.include_checksum(true)?;
    packer.include_contentsize(true)?;
    packer.compress(json)
}
