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
    /// Deletions that are in force from now on.
    pub mask: Vec<Tombstone>,
    /// Deletions that no visible block needs any more.
    pub unmask: Vec<BlockId>,
    /// Damaged blocks that stay visible in the catalog, but are neither read nor compacted.
    pub quarantine: Vec<Quarantined>,
    /// Blocks that leave quarantine; those that are removed leave it by that.
    pub release: Vec<BlockId>,
}

/// A deletion: samples of matching series in a range of time are not read any more. It applies to what was written before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tombstone {
    /// Identity.
    pub id: BlockId,
    /// A PromQL selector for each alternative; a series matches if it matches one of them.
    pub selectors: Vec<Vec<TombstoneMatcher>>,
    /// First millisecond that is deleted.
    pub min_time_ms: i64,
    /// Last millisecond that is deleted.
    pub max_time_ms: i64,
    /// When it was asked for. It masks blocks with [`BlockMeta::precedence_ms`] at or below and
    /// [`BlockMeta::deletions_ms`] below this.
    pub created_ms: i64,
}

/// A matcher as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TombstoneMatcher {
    /// The label.
    pub name: String,
    /// `=`, `!=`, `=~` or `!~`.
    pub op: String,
    /// The literal or the regular expression.
    pub value: String,
}

/// A damaged block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quarantined {
    /// The block.
    pub ulid: BlockId,
    /// When it was found, Unix milliseconds.
    pub since_ms: i64,
    /// What is wrong.
    pub reason: String,
}

impl Tombstone {
    /// Whether samples of the block may be deleted by it.
    pub fn applies_to(&self, block: &BlockMeta) -> bool {
        block.precedence_ms <= self.created_ms
            && block.deletions_ms < self.created_ms
            && block.min_time_ms <= self.max_time_ms
            && self.min_time_ms <= block.max_time_ms
    }
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
    /// Deletions in force, ascending by id.
    pub tombstones: Vec<Arc<Tombstone>>,
    /// Visible blocks that are damaged, ascending by id.
    pub quarantined: Vec<Quarantined>,
}

impl CatalogState {
    /// Whether the block is visible.
    pub fn contains(&self, id: BlockId) -> bool {
        self.blocks.iter().any(|b| b.ulid == id)
    }

    /// Why a block is in quarantine, if it is.
    pub fn quarantine_of(&self, id: BlockId) -> Option<&Quarantined> {
        self.quarantined.iter().find(|q| q.ulid == id)
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    mask: Vec<Tombstone>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    unmask: Vec<BlockId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    quarantine: Vec<Quarantined>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    release: Vec<BlockId>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checkpoint {
    number: u64,
    blocks: Vec<BlockMeta>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    retired: Vec<RetiredBlock>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tombstones: Vec<Tombstone>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    quarantined: Vec<Quarantined>,
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
    /// [`Error::Conflict`] if a block to remove is not visible any more, a block to add is known already, or the like holds of
    /// deletions and quarantine: the caller has to decide anew. [`Error::Store`] if the store fails; the change may or may not be visible then, and
    /// [`Catalog::refresh`] tells.
    pub async fn commit(&self, change: Change) -> Result<u64> {
        self.commit_if(change, |_| true).await
    }

    /// As [`Catalog::commit`], but only onto a state of which `still` holds: no other entry comes between the two.
    ///
    /// # Errors
    /// As [`Catalog::commit`]; [`Error::Conflict`] also if `still` does not hold.
    pub async fn commit_if(&self, change: Change, still: impl Fn(&CatalogState) -> bool + Send + Sync) -> Result<u64> {
        let mut refreshed_ms = self.refreshed_ms.lock().await;
        let at_ms = time::now_ms();
        let commit = BlockId::new(at_ms);
        for _ in 0..MAX_COMMIT_TRIES {
            let state = self.follow().await?;
            self.check(&state, &change)?;
            if !still(&state) {
                return Err(self.conflict(state.version + 1));
            }
            let Change { add, remove, forget, mask, unmask, quarantine, release } = change.clone();
            let entry = Entry { number: state.version + 1, commit, at_ms, add, remove, forget, mask, unmask, quarantine, release };
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
        let masked_twice = change.mask.iter().any(|m| state.tombstones.iter().any(|t| t.id == m.id));
        let unmasked = change.unmask.iter().any(|id| !state.tombstones.iter().any(|t| t.id == *id));
        let absent = change.quarantine.iter().any(|q| !state.contains(q.ulid) || state.quarantine_of(q.ulid).is_some())
            || change.release.iter().any(|id| state.quarantine_of(*id).is_none());
        if added_twice || gone || unknown || masked_twice || unmasked || absent {
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
        let content = Checkpoint {
            number: state.version,
            blocks,
            retired: state.retired.clone(),
            tombstones: state.tombstones.iter().map(|t| (**t).clone()).collect(),
            quarantined: state.quarantined.clone(),
        };
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
    let mut tombstones: BTreeMap<BlockId, Arc<Tombstone>> = state.tombstones.iter().map(|t| (t.id, t.clone())).collect();
    for id in &entry.unmask {
        tombstones.remove(id).ok_or_else(|| corrupt(format!("it ends deletion {id}, which is not in force")))?;
    }
    tombstones.extend(entry.mask.into_iter().map(|t| (t.id, Arc::new(t))));
    let mut quarantined: BTreeMap<BlockId, Quarantined> = state.quarantined.iter().map(|q| (q.ulid, q.clone())).collect();
    for id in &entry.release {
        quarantined.remove(id).ok_or_else(|| corrupt(format!("it releases block {id}, which is not in quarantine")))?;
    }
    quarantined.extend(entry.quarantine.into_iter().map(|q| (q.ulid, q)));
    quarantined.retain(|id, _| blocks.contains_key(id));
    Ok(CatalogState {
        version: entry.number,
        blocks: in_order(blocks.into_values()),
        retired: retired.into_values().collect(),
        tombstones: tombstones.into_values().collect(),
        quarantined: quarantined.into_values().collect(),
    })
}

fn read_checkpoint(log: &ObjectLog, number: u64, content: &[u8]) -> Result<CatalogState> {
    let object = key::log_checkpoint(log.prefix(), number);
    let checkpoint: Checkpoint = serde_json::from_slice(content).map_err(|e| Error::corrupt(object.as_ref(), e.to_string()))?;
    if checkpoint.number != number {
        return Err(Error::corrupt(object, format!("it says that it is checkpoint {}", checkpoint.number)));
    }
    let blocks = in_order(checkpoint.blocks.into_iter().map(Arc::new));
    let tombstones = checkpoint.tombstones.into_iter().map(Arc::new).collect();
    Ok(CatalogState { version: number, blocks, retired: checkpoint.retired, tombstones, quarantined: checkpoint.quarantined })
}

fn in_order(blocks: impl Iterator<Item = Arc<BlockMeta>>) -> Vec<Arc<BlockMeta>> {
    let mut blocks: Vec<_> = blocks.collect();
    blocks.sort_by_key(|b| b.precedence());
    blocks
}

#[cfg(test)]
mod tests;
