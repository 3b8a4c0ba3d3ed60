//! `meta.json` of a block of Prometheus or Thanos, and which blocks a folder or bucket has.

use std::collections::BTreeMap;
use std::sync::Arc;

use isobar_block::BlockId;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::Deserialize;

use crate::{Error, Result};

/// Name of the file that makes a folder a block.
const META: &str = "meta.json";
/// Name of the file by which Thanos says that a block is about to be removed.
const DELETION_MARK: &str = "deletion-mark.json";

/// A folder or a bucket that holds blocks.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where its objects are.
    pub store: Arc<dyn ObjectStore>,
    /// How people call it, in front of the names of its files.
    pub name: String,
}

/// A block that can be imported.
#[derive(Clone, Debug)]
pub struct SourceBlock {
    pub(super) place: Place,
    pub(super) folder: Path,
    pub(super) meta: Meta,
}

/// What was found in a place.
#[derive(Debug, Default)]
pub struct Found {
    /// Blocks that can be imported, oldest data first.
    pub blocks: Vec<SourceBlock>,
    /// Blocks that need not or cannot be imported, and why.
    pub skipped: Vec<(String, String)>,
    /// Blocks that cannot be read.
    pub damaged: Vec<(String, Error)>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Meta {
    pub ulid: BlockId,
    pub min_time: i64,
    pub max_time: i64,
    pub version: u32,
    #[serde(default)]
    pub stats: Stats,
    pub thanos: Option<Thanos>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Stats {
    pub num_samples: u64,
    pub num_series: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Thanos {
    pub labels: BTreeMap<String, String>,
    pub downsample: Downsample,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Downsample {
    pub resolution: i64,
}

impl SourceBlock {
    /// Its id at the source.
    pub fn id(&self) -> BlockId {
        self.meta.ulid
    }

    /// First timestamp that it may hold, Unix milliseconds.
    pub fn min_time_ms(&self) -> i64 {
        self.meta.min_time
    }

    /// First timestamp after it, Unix milliseconds.
    pub fn max_time_ms(&self) -> i64 {
        self.meta.max_time
    }

    /// How many samples it says it has; 0 if it does not say.
    pub fn samples(&self) -> u64 {
        self.meta.stats.num_samples
    }
}

/// Looks what is in a place: a folder of one block, or folders of blocks.
///
/// # Errors
/// [`Error::File`] if there is no block at all; [`Error::Block`] if the store fails.
pub async fn find(place: &Place) -> Result<Found> {
    let listed = place.store.list_with_delimiter(None).await.map_err(isobar_block::Error::from)?;
    let is_block = listed.objects.iter().any(|o| o.location.filename() == Some(META));
    let folders: Vec<Path> = if is_block { vec![Path::default()] } else { listed.common_prefixes };
    let mut found = Found::default();
    for folder in folders {
        let name = folder.filename().unwrap_or(&place.name).to_owned();
        if folder.filename().is_some_and(|n| n.parse::<BlockId>().is_err()) {
            continue;
        }
        match read(place, folder).await {
            Ok(Ok(block)) => found.blocks.push(block),
            Ok(Err(why)) => found.skipped.push((name, why)),
            Err(error @ Error::File { .. }) => found.damaged.push((name, error)),
            Err(other) => return Err(other),
        }
    }
    if found.blocks.is_empty() && found.skipped.is_empty() && found.damaged.is_empty() {
        return Err(Error::File {
            path: place.name.clone(),
            reason: "there is no block; give the folder of a block, or the one above (for a running Prometheus a snapshot: POST /api/v1/admin/tsdb/snapshot)".into(),
        });
    }
    found.blocks.sort_by_key(|b| (b.meta.min_time, b.meta.ulid));
    Ok(found)
}

/// Reads the meta of one block; the inner error says why the block is left out.
async fn read(place: &Place, folder: Path) -> Result<Result<SourceBlock, String>> {
    let Some(bytes) = get(place, &folder.clone().join(META)).await? else {
        return Ok(Err(format!("it has no {META}: it was not uploaded or written to its end")));
    };
    let wrong = |reason: String| Error::File { path: format!("{}{}", place.name, folder.clone().join(META)), reason };
    let meta: Meta = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
    if meta.version != 1 {
        return Err(wrong(format!("version {} is not known; 1 is read", meta.version)));
    }
    if meta.min_time > meta.max_time {
        return Err(wrong("minTime is after maxTime".into()));
    }
    if let Some(thanos) = meta.thanos.as_ref().filter(|t| t.downsample.resolution > 0) {
        let seconds = thanos.downsample.resolution / 1000;
        return Ok(Err(format!("it is downsampled to {seconds} s; import the raw block, Isobar downsamples by itself")));
    }
    if get(place, &folder.clone().join(DELETION_MARK)).await?.is_some() {
        return Ok(Err(format!("it has a {DELETION_MARK}: its data is in another block or unwanted")));
    }
    Ok(Ok(SourceBlock { place: place.clone(), folder, meta }))
}

async fn get(place: &Place, path: &Path) -> Result<Option<bytes::Bytes>> {
    match place.store.get(path).await {
        Ok(object) => Ok(Some(object.bytes().await.map_err(isobar_block::Error::from)?)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(isobar_block::Error::from(error).into()),
    }
}
