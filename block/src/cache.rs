//! What was decoded from blocks, kept within bounds and shared by all readers of a process.

use std::sync::Arc;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use smallvec::SmallVec;

use crate::Timestamps;
use crate::meta::BlockId;
use crate::reader::rollup::RollupCaches;
use crate::reader::{ChunkGroup, DataPage, LabelArena, SeriesGroup, TimesGroup};

/// How much memory each kind of decoded data may take.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// Opened blocks: footers, page indexes, checksums.
    pub blocks_bytes: u64,
    /// Labels of series, as columns and as label sets.
    pub series_bytes: u64,
    /// Which series has which chunk, and decoded timestamps.
    pub chunk_index_bytes: u64,
    /// Encoded chunks, without Parquet's compression, and columns of downsampled blocks.
    pub chunks_bytes: u64,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { blocks_bytes: 64 << 20, series_bytes: 256 << 20, chunk_index_bytes: 128 << 20, chunks_bytes: 256 << 20 }
    }
}

/// A value that is bigger than one shard's part of a cache is not kept, so there are few; lookups are rare and short.
const SHARDS: usize = 2;

/// Weighs values by the memory that they hold.
pub(crate) trait Weigh {
    fn weight_bytes(&self) -> u64;
}

#[derive(Clone)]
pub(crate) struct ByBytes;

impl<K, V: Weigh> Weighter<K, Arc<V>> for ByBytes {
    fn weight(&self, _: &K, value: &Arc<V>) -> u64 {
        value.weight_bytes()
    }
}

impl<K> Weighter<K, Timestamps> for ByBytes {
    fn weight(&self, _: &K, value: &Timestamps) -> u64 {
        value.len() as u64 * 8 + 128
    }
}

/// A row group of a block.
pub(crate) type GroupKey = (BlockId, u32);
/// A page of a row group of a block.
pub(crate) type PageKey = (BlockId, u32, u32);
/// Ids of timestamp vectors that follow each other.
pub(crate) type ConcatKey = SmallVec<[u64; 8]>;

/// All caches.
pub(crate) struct Caches {
    pub series: Cache<GroupKey, Arc<SeriesGroup>, ByBytes>,
    pub labels: Cache<GroupKey, Arc<LabelArena>, ByBytes>,
    pub chunk_groups: Cache<GroupKey, Arc<ChunkGroup>, ByBytes>,
    pub times: Cache<GroupKey, Arc<TimesGroup>, ByBytes>,
    pub concatenations: Cache<ConcatKey, Timestamps, ByBytes>,
    pub pages: Cache<PageKey, Arc<DataPage>, ByBytes>,
    pub rollups: RollupCaches,
}

/// Caches that several readers share which are not those of a [`crate::BlockStore`], so that one bound holds for all of them.
#[derive(Clone)]
pub struct SharedCaches(pub(crate) Arc<Caches>);

impl SharedCaches {
    /// Empty caches.
    pub fn new(config: &CacheConfig) -> Self {
        Self(Arc::new(Caches::new(config)))
    }
}

impl Caches {
    pub fn new(config: &CacheConfig) -> Self {
        let CacheConfig { series_bytes, chunk_index_bytes, chunks_bytes, .. } = *config;
        Self {
            series: cache(series_bytes / 2, 1 << 20),
            labels: cache(series_bytes / 2, 1 << 20),
            chunk_groups: cache(chunk_index_bytes / 2, 512 << 10),
            times: cache(chunk_index_bytes / 4, 512 << 10),
            concatenations: cache(chunk_index_bytes / 8, 16 << 10),
            pages: cache(chunks_bytes / 4 * 3, 128 << 10),
            rollups: RollupCaches::new(chunks_bytes / 4, chunk_index_bytes / 8),
        }
    }
}

pub(crate) fn cache<K: Eq + std::hash::Hash, V: Clone>(capacity_bytes: u64, typical_bytes: u64) -> Cache<K, V, ByBytes>
where
    ByBytes: Weighter<K, V>,
{
    let options = OptionsBuilder::new()
        .shards(SHARDS)
        .estimated_items_capacity((capacity_bytes / typical_bytes).max(16) as usize)
        .weight_capacity(capacity_bytes)
        .build()
        .expect("items and weight are set, which is all that is required");
    Cache::with_options(options, ByBytes, DefaultHashBuilder::default(), DefaultLifecycle::default())
}
