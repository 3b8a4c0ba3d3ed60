//! A numbered log in the object store: entry n is created only if it is not there yet, so that several processes append to
//! it without a coordinator. Works wherever put-if-absent works: local files, memory, S3, GCS, Azure.
//!
//! What the entries mean, and how they fold into a state, is the user's: the catalog is one, lineage events are another.
//! Entries are never removed, so that a damaged checkpoint costs time and not data.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use crate::{Error, Result, key};

/// Checkpoints that are kept; older ones are removed when a new one is written.
pub const CHECKPOINTS_KEPT: usize = 2;

/// One log. Entries are numbered from 1 without gaps.
#[derive(Clone, Debug)]
pub struct ObjectLog {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
}

/// Where to begin when a log is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogStart {
    /// Number and content of the newest checkpoint that is intact.
    pub checkpoint: Option<(u64, Bytes)>,
    /// Highest number that was there when the log was listed. Fewer entries than this mean that one is lost.
    pub last: u64,
}

impl ObjectLog {
    /// The log below `prefix`.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        Self { store, prefix }
    }

    /// Where the log is.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// Key of an entry, for messages.
    pub fn entry_key(&self, number: u64) -> Path {
        key::log_entry(&self.prefix, number)
    }

    /// Finds the newest intact checkpoint and the last entry. This lists the bucket; nothing else here does.
    ///
    /// # Errors
    /// [`Error::Store`] if the store fails.
    pub async fn start(&self) -> Result<LogStart> {
        let mut checkpoints = self.numbers(&key::log_checkpoints(&self.prefix), None).await?;
        checkpoints.sort_unstable();
        let newest = checkpoints.last().copied().unwrap_or(0);
        let after = (newest > 0).then(|| self.entry_key(newest));
        let last = self.numbers(&self.prefix, after.as_ref()).await?.into_iter().max().unwrap_or(0).max(newest);
        while let Some(number) = checkpoints.pop() {
            let object = key::log_checkpoint(&self.prefix, number);
            match self.fetch(&object, number).await {
                Ok(Some(content)) => return Ok(LogStart { checkpoint: Some((number, content)), last }),
                Ok(None) => {}
                Err(Error::Corrupt { object, reason }) => {
                    tracing::warn!("checkpoint {object} is corrupt ({reason}); the log is read from an older place");
                }
                Err(other) => return Err(other),
            }
        }
        Ok(LogStart { checkpoint: None, last })
    }

    /// The content of an entry; `None` if it does not exist yet.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is not as written.
    pub async fn get(&self, number: u64) -> Result<Option<Bytes>> {
        self.fetch(&self.entry_key(number), number).await
    }

    /// Creates an entry. `false` if it exists already with another content; `true` also if it exists with this very content,
    /// because then an earlier try of the same request has reached the store. So the content has to hold something unique.
    ///
    /// # Errors
    /// [`Error::Store`] if the store fails; the entry may or may not exist then.
    pub async fn create(&self, number: u64, content: &[u8]) -> Result<bool> {
        match self.put(&self.entry_key(number), number, content, PutMode::Create).await {
            Ok(()) => Ok(true),
            Err(Error::Store(object_store::Error::AlreadyExists { .. })) => {
                Ok(self.get(number).await?.is_some_and(|existing| existing == content))
            }
            Err(other) => Err(other),
        }
    }

    /// Writes the checkpoint that stands for all entries up to `number`, and removes checkpoints that are older than the
    /// last [`CHECKPOINTS_KEPT`].
    ///
    /// # Errors
    /// [`Error::Store`] if the store fails; the log is still whole.
    pub async fn checkpoint(&self, number: u64, content: &[u8]) -> Result<()> {
        self.put(&key::log_checkpoint(&self.prefix, number), number, content, PutMode::Overwrite).await?;
        let mut numbers = self.numbers(&key::log_checkpoints(&self.prefix), None).await?;
        numbers.sort_unstable();
        numbers.truncate(numbers.len().saturating_sub(CHECKPOINTS_KEPT));
        for old in numbers {
            match self.store.delete(&key::log_checkpoint(&self.prefix, old)).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    async fn numbers(&self, prefix: &Path, after: Option<&Path>) -> Result<Vec<u64>> {
        let listed = match after {
            Some(after) => self.store.list_with_offset(Some(prefix), after),
            None => self.store.list(Some(prefix)),
        };
        let depth = prefix.parts().count() + 1;
        let direct = listed.try_filter_map(|object| async move {
            Ok((object.location.parts().count() == depth).then(|| key::log_number(&object.location)).flatten())
        });
        Ok(direct.try_collect().await?)
    }

    async fn put(&self, key: &Path, number: u64, content: &[u8], mode: PutMode) -> Result<()> {
        self.store.put_opts(key, PutPayload::from(seal(number, content)), mode.into()).await?;
        Ok(())
    }

    async fn fetch(&self, key: &Path, number: u64) -> Result<Option<Bytes>> {
        let bytes = match self.store.get(key).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        unseal(key.as_ref(), number, &bytes).map(Some)
    }
}

const HEAD: &[u8] = b"{\"crc32\":\"";
const MIDDLE: &[u8] = b"\",\"content\":";
const END: &[u8] = b"}\n";

/// Wraps a JSON value in a JSON object that carries its checksum, over the number (8 bytes, little endian) and the content.
pub(crate) fn seal(number: u64, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 40);
    out.extend_from_slice(HEAD);
    out.extend_from_slice(&checksum(number, content));
    out.extend_from_slice(MIDDLE);
    out.extend_from_slice(content);
    out.extend_from_slice(END);
    out
}

/// Undoes [`seal`]; every byte has to be as it was.
pub(crate) fn unseal(object: &str, number: u64, bytes: &Bytes) -> Result<Bytes> {
    let corrupt = |reason: &str| Error::corrupt(object, reason);
    let inner = bytes.strip_prefix(HEAD).and_then(|b| b.strip_suffix(END)).ok_or_else(|| corrupt("its frame is damaged or cut off"))?;
    let (crc, rest) = inner.split_first_chunk::<8>().ok_or_else(|| corrupt("it is cut off"))?;
    let content = rest.strip_prefix(MIDDLE).ok_or_else(|| corrupt("its frame is damaged"))?;
    if *crc != checksum(number, content) {
        return Err(corrupt("its checksum does not fit"));
    }
    Ok(bytes.slice_ref(content))
}

fn checksum(number: u64, content: &[u8]) -> [u8; 8] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(content);
    let mut out = [0; 8];
    out.copy_from_slice(format!("{:08x}", hasher.finalize()).as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[test]
    fn every_flipped_byte_is_seen() {
        let sealed = Bytes::from(seal(7, br#"{"a":1}"#));
        assert!(serde_json::from_slice::<serde_json::Value>(&sealed).is_ok());
        assert_eq!(unseal("x", 7, &sealed).expect("intact"), br#"{"a":1}"#.as_slice());
        assert!(unseal("x", 8, &sealed).is_err());
        for i in 0..sealed.len() {
            for bit in 0..8 {
                let mut bad = sealed.to_vec();
                bad[i] ^= 1 << bit;
                assert!(unseal("x", 7, &bad.into()).is_err(), "byte {i} bit {bit}");
            }
            assert!(unseal("x", 7, &sealed.slice(..i)).is_err());
        }
    }

    #[tokio::test]
    async fn entries_are_created_once_and_checkpoints_are_found() {
        let log = ObjectLog::new(Arc::new(InMemory::new()), Path::from("t/catalog"));
        assert_eq!(log.start().await.expect("lists"), LogStart::default());
        assert!(log.create(1, b"1").await.expect("writes"));
        assert!(log.create(1, b"1").await.expect("writes"));
        assert!(!log.create(1, b"2").await.expect("writes"));
        for n in 2..=9 {
            assert!(log.create(n, b"{}").await.expect("writes"));
            if n % 3 == 0 {
                log.checkpoint(n, b"[]").await.expect("writes");
            }
        }
        assert!(log.create(10, b"{}").await.expect("writes"));
        let start = log.start().await.expect("lists");
        assert_eq!(start, LogStart { checkpoint: Some((9, "[]".into())), last: 10 });
        assert_eq!(log.numbers(&key::log_checkpoints(log.prefix()), None).await.expect("lists").len(), CHECKPOINTS_KEPT);
    }

    #[tokio::test]
    async fn a_damaged_checkpoint_is_passed_over() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let log = ObjectLog::new(store.clone(), Path::from("t/log"));
        log.checkpoint(3, b"3").await.expect("writes");
        log.checkpoint(6, b"6").await.expect("writes");
        store.put(&key::log_checkpoint(log.prefix(), 6), "junk".into()).await.expect("writes");
        assert_eq!(log.start().await.expect("lists"), LogStart { checkpoint: Some((3, "3".into())), last: 6 });
    }
}
