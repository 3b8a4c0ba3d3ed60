//! Writes those files of a block anew that can be made from others: the table of checksums and the copy of the meta.

use std::collections::BTreeMap;

use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

use crate::checksum::{self, FileChecksums};
use crate::meta::{BlockMeta, CHECKSUMS_FILE, META_FILE};
use crate::{Result, TenantId, key, log};

/// Writes the checksums and the copy of the meta where they are damaged or missing, and returns the names of what was written.
/// The checksums are written only if they are, byte for byte, those that the catalog knows: if no other file is damaged.
///
/// # Errors
/// [`crate::Error::Store`] if the store fails, or another file is missing.
pub async fn restore_block(store: &dyn ObjectStore, tenant: &TenantId, meta: &BlockMeta) -> Result<Vec<&'static str>> {
    let mut restored = Vec::new();
    if let Some(expected) = meta.file(CHECKSUMS_FILE)
        && stored(store, tenant, meta, CHECKSUMS_FILE).await?.is_none_or(|bytes| crc32fast::hash(&bytes) != expected.crc32)
    {
        let mut sums = BTreeMap::new();
        for file in meta.files.iter().filter(|f| f.name != CHECKSUMS_FILE) {
            let bytes = store.get(&key::block_file(tenant, meta.ulid, &file.name)).await?.bytes().await?;
            sums.insert(file.name.clone(), FileChecksums::of(&bytes));
        }
        let bytes = checksum::encode(&sums);
        if bytes.len() as u64 == expected.size_bytes && crc32fast::hash(&bytes) == expected.crc32 {
            store.put(&key::block_file(tenant, meta.ulid, CHECKSUMS_FILE), PutPayload::from(bytes)).await?;
            restored.push(CHECKSUMS_FILE);
        }
    }
    let copy = stored(store, tenant, meta, META_FILE).await?.and_then(|bytes| {
        let content = log::unseal(META_FILE, 0, &bytes).ok()?;
        serde_json::from_slice::<BlockMeta>(&content).ok()
    });
    if copy.as_ref() != Some(meta) {
        let bytes = log::seal(0, &serde_json::to_vec(meta).expect("the meta has string keys only"));
        store.put(&key::block_file(tenant, meta.ulid, META_FILE), PutPayload::from(bytes)).await?;
        restored.push(META_FILE);
    }
    Ok(restored)
}

/// A file's bytes; `None` if it is missing.
async fn stored(store: &dyn ObjectStore, tenant: &TenantId, meta: &BlockMeta, name: &str) -> Result<Option<bytes::Bytes>> {
    match store.get(&key::block_file(tenant, meta.ulid, name)).await {
        Ok(object) => Ok(Some(object.bytes().await?)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
