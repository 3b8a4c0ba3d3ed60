//! The blocks of all tenants: what whoever reads or writes blocks holds.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat};
use futures::{StreamExt, TryStreamExt, stream};
use hashbrown::HashMap;
use object_store::ObjectStore;
use parking_lot::RwLock;
use quick_cache::sync::Cache;

use crate::cache::{ByBytes, CacheConfig, Caches, cache};
use crate::catalog::{Catalog, CatalogState};
use crate::mask::{Masked, Masks};
use crate::meta::{BlockId, BlockMeta};
use crate::reader::{BlockReader, Report, verify_block};
use crate::resolution::{self, Plan};
use crate::union::{merge_exemplars, merge_metadata, merge_sorted};
use crate::{Coverage, Exemplar, Labels, Matcher, Metadata, Result, Selected, Source, TenantId, TimeRange, Want, key, time};

/// So many blocks are opened and searched at the same time for one query.
const CONCURRENT_BLOCKS: usize = 8;

/// Limits of a [`BlockStore`].
#[derive(Clone, Debug)]
pub struct BlockStoreConfig {
    /// Bounds of the caches.
    pub caches: CacheConfig,
    /// How old a catalog may get before a query looks for entries of other processes. Commits of this process are seen at once.
    pub refresh_interval_ms: i64,
    /// Tenants whose catalogs are kept in memory. The catalog of a tenant that is not among them is read again.
    pub max_open_catalogs: usize,
}

impl Default for BlockStoreConfig {
    fn default() -> Self {
        Self { caches: CacheConfig::default(), refresh_interval_ms: 15_000, max_open_catalogs: 10_000 }
    }
}

/// Blocks in an object store. Clones share everything.
#[derive(Clone)]
pub struct BlockStore {
    inner: Arc<Inner>,
}

struct Inner {
    objects: Arc<dyn ObjectStore>,
    config: BlockStoreConfig,
    catalogs: RwLock<HashMap<TenantId, Arc<tokio::sync::OnceCell<Arc<Catalog>>>>>,
    readers: Cache<BlockId, Arc<BlockReader>, ByBytes>,
    caches: Arc<Caches>,
    tenants: tokio::sync::Mutex<Option<(i64, Vec<TenantId>)>>,
}

impl BlockStore {
    /// The blocks in `objects`. For a local disk this should be a [`crate::local::DurableLocal`].
    pub fn new(objects: Arc<dyn ObjectStore>, config: BlockStoreConfig) -> Self {
        let caches = Arc::new(Caches::new(&config.caches));
        let readers = cache(config.caches.blocks_bytes, 64 << 10);
        let (catalogs, tenants) = (RwLock::new(HashMap::new()), tokio::sync::Mutex::new(None));
        Self { inner: Arc::new(Inner { objects, config, catalogs, readers, caches, tenants }) }
    }

    /// The object store below.
    pub fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.inner.objects
    }

    /// Tenants that have something in the store, sorted. Looks at the bucket at most once in a refresh interval.
    ///
    /// # Errors
    /// [`crate::Error::Store`] if the store fails.
    pub async fn tenants(&self) -> Result<Vec<TenantId>> {
        let mut known = self.inner.tenants.lock().await;
        let now_ms = time::now_ms();
        if let Some((at_ms, tenants)) = &*known
            && (now_ms - at_ms).abs() < self.inner.config.refresh_interval_ms
        {
            return Ok(tenants.clone());
        }
        let listed = self.inner.objects.list_with_delimiter(None).await?;
        let mut tenants: Vec<TenantId> = listed.common_prefixes.iter().filter_map(|p| key::tenant_of(p).ok()).collect();
        tenants.sort_unstable();
        tenants.dedup();
        *known = Some((now_ms, tenants.clone()));
        Ok(tenants)
    }

    /// The catalog of a tenant; that of a tenant without data is empty. The first call of a tenant reads the store.
    ///
    /// # Errors
    /// As [`Catalog::open`].
    pub async fn catalog(&self, tenant: &TenantId) -> Result<Arc<Catalog>> {
        let cell = self.catalog_cell(tenant);
        let open = async { Catalog::open(self.inner.objects.clone(), tenant.clone()).await.map(Arc::new) };
        cell.get_or_try_init(|| open).await.cloned()
    }

    fn catalog_cell(&self, tenant: &TenantId) -> Arc<tokio::sync::OnceCell<Arc<Catalog>>> {
        if let Some(cell) = self.inner.catalogs.read().get(tenant) {
            return cell.clone();
        }
        let mut catalogs = self.inner.catalogs.write();
        if catalogs.len() >= self.inner.config.max_open_catalogs {
            // Those that somebody holds stay, because two objects for one catalog in a process would not see each other's commits
            // at once.
            catalogs.retain(|_, cell| Arc::strong_count(cell) > 1 || cell.get().is_some_and(|c| Arc::strong_count(c) > 1));
        }
        catalogs.entry(tenant.clone()).or_default().clone()
    }

    /// Everything that the tenant has in blocks. Cheap to make; the catalog is read when it is asked.
    pub fn source(&self, tenant: &TenantId) -> Arc<dyn Source> {
        Arc::new(TenantBlocks { store: self.clone(), tenant: tenant.clone() })
    }

    /// An opened block, from the cache if possible.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] if it is damaged, [`crate::Error::Store`] if a file is missing or the store fails.
    pub async fn reader(&self, tenant: &TenantId, meta: &Arc<BlockMeta>) -> Result<Arc<BlockReader>> {
        let inner = &self.inner;
        let open = async { BlockReader::open_with(inner.objects.clone(), tenant, meta.clone(), inner.caches.clone()).await.map(Arc::new) };
        inner.readers.get_or_insert_async(&meta.ulid, open).await
    }

    /// Reads and checks all of a block, without the caches.
    ///
    /// # Errors
    /// [`crate::Error::Store`] if the store fails; what is wrong with the block is in the report.
    pub async fn verify(&self, tenant: &TenantId, meta: &Arc<BlockMeta>) -> Result<Report> {
        verify_block(self.inner.objects.clone(), tenant, meta.clone()).await
    }
}

/// The blocks of one tenant as of the catalog at the time of each call.
struct TenantBlocks {
    store: BlockStore,
    tenant: TenantId,
}

impl TenantBlocks {
    async fn snapshot(&self) -> Result<Arc<CatalogState>> {
        let catalog = self.store.catalog(&self.tenant).await?;
        catalog.refresh_if_older(self.store.inner.config.refresh_interval_ms).await
    }

    /// Asks the blocks that answer for `range`, several at a time, through the masks of what is deleted, and returns their
    /// answers in order of precedence.
    async fn ask<T, F>(&self, state: &CatalogState, plan: &Plan, ask: impl Fn(Arc<dyn Source>) -> F) -> Result<Vec<T>>
    where
        F: Future<Output = Result<T>>,
    {
        let masks = masks(state, plan)?;
        let mask_of = |block: &BlockMeta| masks.get(&block.resolution_ms).and_then(|masks| masks.of(block));
        let answers = plan.parts.iter().map(|part| async {
            let reader: Arc<dyn Source> = Arc::new(self.store.reader(&self.tenant, &part.block).await?);
            ask(match mask_of(&part.block) {
                Some(mask) => Arc::new(Masked::new(reader, mask)),
                None => reader,
            })
            .await
        });
        stream::iter(answers.collect::<Vec<_>>()).buffered(CONCURRENT_BLOCKS).try_collect().await
    }

    /// [`TenantBlocks::ask`] for what is known of labels, of which raw blocks know most.
    async fn ask_labels<T, F>(&self, range: TimeRange, ask: impl Fn(Arc<dyn Source>) -> F) -> Result<Vec<T>>
    where
        F: Future<Output = Result<T>>,
    {
        let state = self.snapshot().await?;
        self.ask(&state, &plan(&state, range, 0), ask).await
    }
}

fn plan(state: &CatalogState, range: TimeRange, max_resolution_ms: i64) -> Plan {
    resolution::plan(&state.blocks, |id| state.quarantine_of(id).is_none(), range, max_resolution_ms)
}

/// What is deleted, by the resolution of the blocks that are read.
fn masks(state: &CatalogState, plan: &Plan) -> Result<BTreeMap<i64, Masks>> {
    let mut masks = BTreeMap::new();
    if state.tombstones.is_empty() {
        return Ok(masks);
    }
    for part in &plan.parts {
        if let Entry::Vacant(entry) = masks.entry(part.block.resolution_ms) {
            entry.insert(Masks::new(&resolution::widened(&state.tombstones, part.block.resolution_ms))?);
        }
    }
    Ok(masks)
}

/// Says that a damaged block is left out, and how it is repaired.
fn warning(state: &CatalogState, block: &BlockMeta) -> String {
    let utc = |ms: i64| match DateTime::from_timestamp_millis(ms) {
        Some(time) => time.to_rfc3339_opts(SecondsFormat::Millis, true),
        None => format!("{ms} ms"),
    };
    let (from, to) = (utc(block.min_time_ms), utc(block.max_time_ms));
    let reason = state.quarantine_of(block.ulid).map_or("", |q| q.reason.as_str());
    format!("block {} with samples from {from} to {to} is damaged and was left out ({reason}); see `isobar blocks repair`", block.ulid)
}

#[async_trait]
impl Source for TenantBlocks {
    async fn select(&self, matchers: &[Matcher], range: TimeRange, want: Want) -> Result<Selected> {
        let state = self.snapshot().await?;
        let plan = plan(&state, range, want.max_resolution_ms);
        let parts = self.ask(&state, &plan, |block| async move { block.select(matchers, range, want).await }).await?;
        let mut all = Selected { sets: Vec::new(), warnings: plan.missing.iter().map(|block| warning(&state, block)).collect() };
        for (part, Selected { sets, warnings }) in plan.parts.into_iter().zip(parts) {
            let clip = |set| match &part.clip {
                Some(clip) => resolution::clipped(set, clip.clone()),
                None => set,
            };
            all.sets.extend(sets.into_iter().map(clip));
            all.warnings.extend(warnings);
        }
        Ok(all)
    }

    async fn label_names(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>> {
        Ok(merge_sorted(self.ask_labels(range, |block| async move { block.label_names(matchers, range).await }).await?))
    }

    async fn label_values(&self, name: &str, matchers: &[Matcher], range: TimeRange) -> Result<Vec<String>> {
        Ok(merge_sorted(self.ask_labels(range, |block| async move { block.label_values(name, matchers, range).await }).await?))
    }

    async fn exemplars(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<(Labels, Vec<Exemplar>)>> {
        Ok(merge_exemplars(self.ask_labels(range, |block| async move { block.exemplars(matchers, range).await }).await?))
    }

    async fn coverage(&self, _matchers: &[Matcher], range: TimeRange) -> Result<Coverage> {
        let state = self.snapshot().await?;
        let plan = plan(&state, range, 0);
        Ok(Coverage {
            warnings: plan.missing.iter().map(|block| warning(&state, block)).collect(),
            resolutions_ms: plan.parts.iter().map(|part| part.block.resolution_ms).collect(),
        })
    }

    async fn metadata(&self, metric: Option<&str>) -> Result<Vec<(String, Vec<Metadata>)>> {
        let mut parts = self.ask_labels(TimeRange::ALL, |block| async move { block.metadata(metric).await }).await?;
        parts.reverse();
        Ok(merge_metadata(parts))
    }
}

#[cfg(test)]
mod tests;
