//! Which blocks a tenant has. The catalog is the only truth about that; nothing lists the bucket to answer a query.
//!
//! It is an [`ObjectLog`]: every entry adds and retires blocks in one step, so that a compaction is atomic and two compactors
//! cannot both retire the same inputs. Retired blocks stay listed until their files are gone, so that a cleaner knows what to
//! remove and since when nobody should read it.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::ObjectStore;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::log::ObjectLog;
use crate::meta::{BlockId, BlockMeta};
use crate::{Error, Result, TenantId, key, time};

/// A checkpoint is written after so many entries.
pub const CHECKPOINT_INTERVAL: u64 = 64;

/// A commit gives up after it has lost against so many others.
pub const MAX_COMMIT_TRIES: usize = 100;

/// What one commit does.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Blocks that become visible. Their files are complete.
    pub add: Vec<BlockMeta>,
    /// Blocks that must not be read any more.
    pub remove: Vec<BlockId>,
    /// Retired blocks whose files have been removed.
    pub forget: Vec<BlockId>,
}

/// A block that was removed from the catalog and whose files may still exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetiredBlock {
    /// The block.
    pub ulid: BlockId,
    /// When it was removed from the catalog, Unix milliseconds.
    pub retired_ms: i64,
}

/// The blocks as of one version. It never changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CatalogState {
    /// Number of the last entry; 0 for a tenant that never had a block.
    pub version: u64,
    /// Visible blocks, ascending by [`BlockMeta::precedence`], so that of two samples at one timestamp the later one counts.
    pub blocks: Vec<Arc<BlockMeta>>,
    /// Removed blocks, ascending by id.
    pub retired: Vec<RetiredBlock>,
}

impl CatalogState {
    /// Whether the block is visible.
    pub fn contains(&self, id: BlockId) -> bool {
        self.blocks.iter().any(|b| b.ulid == id)
    }

    /// Up to which segment the write-ahead log of ingester `writer` is in blocks: segments below the result need no replay.
    pub fn wal_segment_end(&self, writer: &str) -> u64 {
        let marks = self.blocks.iter().flat_map(|b| &b.writers).filter(|m| m.id == writer);
        marks.map(|m| m.wal_segment_end).max().unwrap_or(0)
    }
}

/// One entry of the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    number: u64,
    /// Unique, so that a committer recognises its own entry after a request whose answer was lost.
    commit: BlockId,
    at_ms: i64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    add: Vec<BlockMeta>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    remove: Vec<BlockId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    forget: Vec<BlockId>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checkpoint {
    number: u64,
    blocks: Vec<BlockMeta>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    retired: Vec<RetiredBlock>,
}

/// The catalog of one tenant.
#[derive(Debug)]
pub struct Catalog {
    tenant: TenantId,
    log: ObjectLog,
    state: RwLock<Arc<CatalogState>>,
    /// One refresh or commit of this process at a time; holds the time of the last look at the store.
    refreshed_ms: tokio::sync::Mutex<i64>,
    version: watch::Sender<u64>,
}

impl Catalog {
    /// Opens the catalog: finds the last checkpoint and reads what follows it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if an entry is damaged or missing; [`Error::Store`] if the store fails.
    pub async fn open(store: Arc<dyn ObjectStore>, tenant: TenantId) -> Result<Self> {
        let log = ObjectLog::new(store, key::catalog(&tenant));
        let start = log.start().await?;
        let state = match start.checkpoint {
            Some((number, content)) => read_checkpoint(&log, number, &content)?,
            None => CatalogState::default(),
        };
        let state = follow(&log, Arc::new(state)).await?;
        if state.version < start.last {
            let key = log.entry_key(state.version + 1);
            return Err(Error::corrupt(key, format!("the entry is missing, but entry {} exists; restore it from a backup", start.last)));
        }
        let (version, _) = watch::channel(state.version);
        Ok(Self { tenant, log, state: RwLock::new(state), refreshed_ms: tokio::sync::Mutex::new(time::now_ms()), version })
    }

    /// Whose catalog it is.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The blocks as this process knows them; a commit through this object is in it when [`Catalog::commit`] returns.
    pub fn blocks(&self) -> Arc<CatalogState> {
        self.state.read().clone()
    }

    /// Tells when the version changes.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Reads entries that others have added.
    ///
    /// # Errors
    /// As [`Catalog::open`].
    pub async fn refresh(&self) -> Result<Arc<CatalogState>> {
        let mut refreshed_ms = self.refreshed_ms.lock().await;
        let state = self.follow().await?;
        *refreshed_ms = time::now_ms();
        Ok(state)
    }

    /// [`Catalog::refresh`] if the last one is `interval_ms` ago.
    ///
    /// # Errors
    /// As [`Catalog::open`].
    pub async fn refresh_if_older(&self, interval_ms: i64) -> Result<Arc<CatalogState>> {
        {
            // Whoever holds the lock is refreshing or committing: what it knew before is recent enough.
            let Ok(refreshed_ms) = self.refreshed_ms.try_lock() else { return Ok(self.blocks()) };
            if (time::now_ms() - *refreshed_ms).abs() < interval_ms {
                return Ok(self.blocks());
            }
        }
        self.refresh().await
    }

    /// Adds, retires and forgets blocks in one step, and returns the new version. Tries again with the next number when
    /// another committer was faster, as long as the change still fits.
    ///
    /// # Errors
    /// [`Error::Conflict`] if a block to remove is not visible any more or a block to add is known already: the caller has to
    /// decide anew. [`Error::Store`] if the store fails; the change may or may not be visible then, and
    /// [`Catalog::refresh`] tells.
    pub async fn commit(&self, change: Change) -> Result<u64> {
        let mut refreshed_ms = self.refreshed_ms.lock().await;
        let at_ms = time::now_ms();
        let commit = BlockId::new(at_ms);
        for _ in 0..MAX_COMMIT_TRIES {
            let state = self.follow().await?;
            self.check(&state, &change)?;
            let Change { add, remove, forget } = change.clone();
            let entry = Entry { number: state.version + 1, commit, at_ms, add, remove, forget };
            let content = serde_json::to_vec(&entry).expect("an entry has string keys only");
            if self.log.create(entry.number, &content).await? {
                let next = apply(&self.log, &state, entry)?;
                self.publish(Arc::new(next));
                *refreshed_ms = time::now_ms();
                self.checkpoint().await;
                return Ok(self.blocks().version);
            }
        }
        Err(self.conflict(self.blocks().version + 1))
    }

    fn check(&self, state: &CatalogState, change: &Change) -> Result<()> {
        let known = |id: BlockId| state.contains(id) || state.retired.iter().any(|r| r.ulid == id);
        let added_twice = change.add.iter().any(|b| known(b.ulid));
        let gone = change.remove.iter().any(|id| !state.contains(*id));
        let unknown = change.forget.iter().any(|id| !state.retired.iter().any(|r| r.ulid == *id));
        if added_twice || gone || unknown {
            return Err(self.conflict(state.version + 1));
        }
        for block in &change.add {
            block.time_range()?;
            block.check_format()?;
        }
        Ok(())
    }

    fn conflict(&self, entry: u64) -> Error {
        Error::Conflict { tenant: self.tenant.to_string(), entry }
    }

    async fn follow(&self) -> Result<Arc<CatalogState>> {
        let state = follow(&self.log, self.blocks()).await?;
        self.publish(state.clone());
        Ok(state)
    }

    fn publish(&self, state: Arc<CatalogState>) {
        let version = state.version;
        *self.state.write() = state;
        self.version.send_if_modified(|v| std::mem::replace(v, version) != version);
    }

    /// A checkpoint that cannot be written costs time at the next start and nothing else.
    async fn checkpoint(&self) {
        let state = self.blocks();
        if !state.version.is_multiple_of(CHECKPOINT_INTERVAL) {
            return;
        }
        let blocks = state.blocks.iter().map(|b| (**b).clone()).collect();
        let content = Checkpoint { number: state.version, blocks, retired: state.retired.clone() };
        let content = serde_json::to_vec(&content).expect("a checkpoint has string keys only");
        if let Err(e) = self.log.checkpoint(state.version, &content).await {
            tracing::warn!("checkpoint {} of the catalog of tenant {} was not written: {e}", state.version, self.tenant);
        }
    }
}

/// Applies all entries that follow `state`.
async fn follow(log: &ObjectLog, mut state: Arc<CatalogState>) -> Result<Arc<CatalogState>> {
    while let Some(content) = log.get(state.version + 1).await? {
        let number = state.version + 1;
        let entry: Entry = serde_json::from_slice(&content).map_err(|e| Error::corrupt(log.entry_key(number), e.to_string()))?;
        if entry.number != number {
            return Err(Error::corrupt(log.entry_key(number), format!("it says that it is entry {}", entry.number)));
        }
        state = Arc::new(apply(log, &state, entry)?);
    }
    Ok(state)
}

fn apply(log: &ObjectLog, state: &CatalogState, entry: Entry) -> Result<CatalogState> {
    let corrupt = |reason: String| Error::corrupt(log.entry_key(entry.number), reason);
    let mut blocks: BTreeMap<BlockId, Arc<BlockMeta>> = state.blocks.iter().map(|b| (b.ulid, b.clone())).collect();
    let mut retired: BTreeMap<BlockId, RetiredBlock> = state.retired.iter().map(|r| (r.ulid, r.clone())).collect();
    for ulid in &entry.remove {
        blocks.remove(ulid).ok_or_else(|| corrupt(format!("it removes block {ulid}, which is not there")))?;
        retired.insert(*ulid, RetiredBlock { ulid: *ulid, retired_ms: entry.at_ms });
    }
    for ulid in &entry.forget {
        retired.remove(ulid).ok_or_else(|| corrupt(format!("it forgets block {ulid}, which is not retired")))?;
    }
    for block in &entry.add {
        if blocks.insert(block.ulid, Arc::new(block.clone())).is_some() {
            return Err(corrupt(format!("it adds block {} again", block.ulid)));
        }
    }
    Ok(CatalogState { version: entry.number, blocks: in_order(blocks.into_values()), retired: retired.into_values().collect() })
}

fn read_checkpoint(log: &ObjectLog, number: u64, content: &[u8]) -> Result<CatalogState> {
    let object = key::log_checkpoint(log.prefix(), number);
    let checkpoint: Checkpoint = serde_json::from_slice(content).map_err(|e| Error::corrupt(object.as_ref(), e.to_string()))?;
    if checkpoint.number != number {
        return Err(Error::corrupt(object, format!("it says that it is checkpoint {}", checkpoint.number)));
    }
    let blocks = in_order(checkpoint.blocks.into_iter().map(Arc::new));
    Ok(CatalogState { version: number, blocks, retired: checkpoint.retired })
}

fn in_order(blocks: impl Iterator<Item = Arc<BlockMeta>>) -> Vec<Arc<BlockMeta>> {
    let mut blocks: Vec<_> = blocks.collect();
    blocks.sort_by_key(|b| b.precedence());
    blocks
}

#[cfg(test)]
mod tests;
