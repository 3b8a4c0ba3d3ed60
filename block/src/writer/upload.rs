//! From a full [`BlockWriter`] to files in the object store.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::future::try_join_all;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};

use crate::checksum::{self, FileChecksums};
use crate::meta::{
    BlockMeta, CHECKSUMS_FILE, CHUNKS_FILE, EXEMPLARS_FILE, FORMAT_VERSION, FileMeta, META_FILE, ROLLUP_FILE, SERIES_FILE, TIMES_FILE,
};
use crate::writer::{BlockWriter, files};
use crate::{Error, Result, TenantId, key, log};

/// Files above this size are uploaded in parts of this size, so that a failure repeats one part only.
const UPLOAD_PART_BYTES: usize = 16 << 20;

/// The files of a block, ready to be uploaded.
pub struct EncodedBlock {
    /// What the catalog will know of it.
    pub meta: BlockMeta,
    files: Vec<(String, Bytes)>,
}

impl EncodedBlock {
    /// Name and content of each file.
    pub fn files(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.files.iter().map(|(name, bytes)| (name.as_str(), bytes))
    }

    /// Uploads the files, the copy of the meta last.
    ///
    /// # Errors
    /// [`Error::Store`] if that fails; what was uploaded stays and is cleaned up as a block without catalog entry.
    pub async fn upload(&self, store: &dyn ObjectStore, tenant: &TenantId) -> Result<()> {
        try_join_all(self.files().map(|(name, bytes)| put(store, tenant, &self.meta, name, bytes.clone()))).await?;
        let meta = log::seal(0, &serde_json::to_vec(&self.meta).expect("the meta has string keys only"));
        put(store, tenant, &self.meta, META_FILE, meta.into()).await
    }
}

async fn put(store: &dyn ObjectStore, tenant: &TenantId, meta: &BlockMeta, name: &str, bytes: Bytes) -> Result<()> {
    let key = key::block_file(tenant, meta.ulid, name);
    if bytes.len() <= UPLOAD_PART_BYTES {
        store.put(&key, PutPayload::from_bytes(bytes)).await?;
        return Ok(());
    }
    let mut upload = store.put_multipart(&key).await?;
    for start in (0..bytes.len()).step_by(UPLOAD_PART_BYTES) {
        let part = bytes.slice(start..bytes.len().min(start + UPLOAD_PART_BYTES));
        if let Err(e) = upload.put_part(PutPayload::from_bytes(part)).await {
            abort(upload).await;
            return Err(e.into());
        }
    }
    match upload.complete().await {
        Ok(_) => Ok(()),
        Err(e) => {
            abort(upload).await;
            Err(e.into())
        }
    }
}

async fn abort(mut upload: Box<dyn MultipartUpload>) {
    if let Err(e) = upload.abort().await {
        tracing::debug!("an unfinished upload could not be removed: {e}");
    }
}

pub(super) fn encode(writer: BlockWriter) -> Result<EncodedBlock> {
    let BlockWriter { config, series, mut chunks, exemplars, time_range_ms, rollup, .. } = writer;
    config.check()?;
    let Some((min_time_ms, max_time_ms)) = time_range_ms else {
        return Err(Error::invalid("block", "it has no series; write blocks that have samples only"));
    };
    let series = series.into_arrays(config.label_columns);
    let mut parquet = vec![
        (SERIES_FILE, files::series(&series, &config)?),
        (TIMES_FILE, files::times(&chunks)?),
        (CHUNKS_FILE, files::chunks(&mut chunks, &config)?),
    ];
    if !exemplars.is_empty() {
        parquet.push((EXEMPLARS_FILE, files::exemplars(&exemplars)?));
    }
    let (mut samples, mut raw_samples) = (chunks.samples, 0);
    if let Some(rollup) = rollup {
        (samples, raw_samples) = (rollup.rows, rollup.raw_samples + chunks.histograms);
        parquet.push((ROLLUP_FILE, rollup.finish()?));
    }
    let mut metas = Vec::with_capacity(parquet.len() + 1);
    let mut sums = BTreeMap::new();
    let mut contents = Vec::with_capacity(parquet.len() + 1);
    for (name, file) in parquet {
        sums.insert(name.to_owned(), FileChecksums::of(&file.bytes));
        metas.push(file_meta(name, &file.bytes, file.tail_bytes));
        contents.push((name.to_owned(), file.bytes.into()));
    }
    let sums = checksum::encode(&sums);
    metas.push(file_meta(CHECKSUMS_FILE, &sums, 0));
    contents.push((CHECKSUMS_FILE.to_owned(), sums.into()));
    let meta = BlockMeta {
        ulid: config.id,
        format: FORMAT_VERSION,
        min_time_ms,
        max_time_ms,
        window_ms: config.window_ms,
        resolution_ms: config.resolution_ms,
        level: config.level,
        series: u64::from(series.rows()),
        samples,
        histograms: chunks.histograms,
        exemplars: exemplars.len() as u64,
        size_bytes: metas.iter().map(|f| f.size_bytes).sum(),
        created_ms: config.created_ms,
        precedence_ms: config.precedence_ms,
        sources: config.sources,
        writers: config.writers,
        deletions_ms: config.deletions_ms,
        raw_samples,
        files: metas,
    };
    Ok(EncodedBlock { meta, files: contents })
}

fn file_meta(name: &str, bytes: &[u8], tail_bytes: u64) -> FileMeta {
    FileMeta { name: name.to_owned(), size_bytes: bytes.len() as u64, tail_bytes, crc32: crc32fast::hash(bytes) }
}
