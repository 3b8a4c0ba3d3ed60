//! The parts of the server that other crates own, put together by role: blocks, ingester, query engine, compactor, lineage.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::http::HeaderMap;
use isobar_block::{BlockStore, CatalogState, Matcher, PromQl, SeriesSink, TenantId, TimeRange};
use isobar_compactor::compactor::Status;
use isobar_compactor::config::LiveRules;
use isobar_compactor::{TenantRules, delete};
use isobar_ingest::Ingester;
use isobar_ingest::decoded::WriteSink;
use isobar_ingest::http::HttpState;
use isobar_ingest::limits::LiveLimits;
use isobar_ingest::metrics::WriteMetrics;
use isobar_lineage::service;
use isobar_query::Engine;
use isobar_query::http::Api;
use isobar_query::storage::Storage;
use object_store::ObjectStore;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::compaction::{Compaction, Run};
use super::facts::Facts;
use super::lineage::{Lineage, OwnEngine, OwnIngester};
use super::other_server::OtherServer;
use super::refusal::Refusal;
use super::storage::BlocksAndHeads;
use crate::config::Config;

/// How often the numbers of blocks are read from the catalogs.
const BLOCK_COUNT_INTERVAL: Duration = Duration::from_secs(10);

/// How long that may take before the old numbers stay.
const BLOCK_COUNT_TIMEOUT: Duration = Duration::from_secs(5);

/// Folder under `--data` for the write-ahead log.
const WAL_FOLDER: &str = "wal";

/// Everything that runs.
pub struct Parts {
    blocks: BlockStore,
    ingest: Option<Ingest>,
    api: Option<Api>,
    compaction: Option<Compaction>,
    lineage: Option<Lineage>,
    rules: LiveRules,
    counts: BlockCounts,
    default_tenant: TenantId,
}

struct Ingest {
    ingester: Arc<Ingester>,
    limits: LiveLimits,
    metrics: WriteMetrics,
}

impl Parts {
    /// Starts the parts that the roles ask for. Returns when the write-ahead log has been read.
    ///
    /// # Errors
    /// What keeps a part from starting.
    pub async fn open(config: &Config, store: Arc<dyn ObjectStore>, registry: &mut Registry, mut facts: Facts) -> anyhow::Result<Self> {
        let sections = &config.sections;
        let blocks = BlockStore::new(Arc::clone(&store), sections.blocks.clone());
        let rules = LiveRules::new(config.rules());
        let counts = BlockCounts::register(registry);
        let ingest = if config.roles.ingest {
            let limits = LiveLimits::new(sections.limits.clone());
            let mut storage = sections.storage.clone();
            storage.wal_dir = config.data.join(WAL_FOLDER);
            let metrics = WriteMetrics::register(registry);
            let ingester = Ingester::open(storage, limits.clone(), blocks.clone(), registry, Arc::clone(&facts.progress))
                .await
                .context("cannot start the ingester")?;
            Some(Ingest { ingester, limits, metrics })
        } else {
            None
        };
        facts.ingester = ingest.as_ref().map(|i| Arc::clone(&i.ingester));
        let storage: Arc<dyn Storage> =
            Arc::new(BlocksAndHeads { blocks: blocks.clone(), ingester: facts.ingester.clone(), rules: rules.clone() });
        let engine = match config.roles.query || config.roles.lineage {
            true => Some(Arc::new(Engine::new(sections.engine.clone())?)),
            false => None,
        };
        let api = engine.clone().filter(|_| config.roles.query).map(|engine| api(config, engine, Arc::clone(&storage), facts));
        if let Some(api) = &api {
            api.register(registry);
        }
        let default_tenant = TenantId::new(&sections.tenancy.default_tenant)?;
        counts.clone().start(blocks.clone());
        let compaction =
            config.roles.compact.then(|| Compaction::start(sections.compactor.clone(), rules.clone(), blocks.clone(), registry));
        let lineage = match engine.filter(|_| config.roles.lineage) {
            Some(engine) => {
                let sink = ingest.as_ref().map(|i| Arc::clone(&i.ingester) as Arc<dyn WriteSink>);
                Some(Lineage::start(lineage(config, store, engine, storage, sink, registry)?))
            }
            None => None,
        };
        Ok(Self { blocks, ingest, api, compaction, lineage, rules, counts, default_tenant })
    }

    /// Routes of the parts.
    pub fn routes(&self, config: &Config) -> Router {
        let mut routes = Router::new();
        if let Some(ingest) = &self.ingest {
            let sections = &config.sections;
            let sink: Arc<dyn WriteSink> = ingest.ingester.clone();
            let state = HttpState::new(
                sink,
                sections.write.clone(),
                sections.tenancy.clone(),
                sections.otlp.clone(),
                ingest.limits.clone(),
                ingest.metrics.clone(),
            );
            routes = routes.merge(isobar_ingest::http::router(state));
        }
        if let Some(api) = &self.api {
            routes = routes.merge(isobar_query::http::router(api.clone()));
        }
        if let Some(lineage) = &self.lineage {
            routes = routes.merge(isobar_lineage::http::router(lineage.service().clone()));
        }
        routes
    }

    /// Where own samples go and whose they are; nowhere without the role `ingest`.
    pub fn sink(&self) -> Option<(Arc<dyn WriteSink>, TenantId)> {
        let ingest = self.ingest.as_ref()?;
        let sink: Arc<dyn WriteSink> = ingest.ingester.clone();
        Some((sink, self.default_tenant.clone()))
    }

    /// Puts other limits and rules of tenants, and other rules of lineage, in force.
    ///
    /// # Errors
    /// If the file of rules cannot be read any more; nothing changes then.
    pub fn set_rules(&self, config: &Config) -> anyhow::Result<()> {
        if let Some(lineage) = &self.lineage {
            lineage.service().replace_settings(config.sections.lineage.settings()?);
        }
        if let Some(ingest) = &self.ingest {
            ingest.limits.replace(config.sections.limits.clone());
        }
        self.rules.replace(config.rules());
        Ok(())
    }

    /// Cuts the heads into blocks.
    ///
    /// # Errors
    /// What keeps the blocks from being written; head and log keep the data.
    pub async fn flush(&self) -> anyhow::Result<()> {
        let ingest = self.ingest.as_ref().context("this process has no heads: it runs without the role ingest")?;
        let report = ingest.ingester.flush().await?;
        tracing::info!(blocks = report.blocks, series = report.series, samples = report.samples, bytes = report.bytes, "flushed");
        self.counts.read(&self.blocks).await;
        Ok(())
    }

    /// Hides the samples of series from now on. What is in the heads goes into blocks first, so that it is hidden too.
    ///
    /// # Errors
    /// If there are no heads in this process, or the store fails; nothing is hidden then.
    pub async fn delete_series(&self, tenant: &TenantId, selectors: Vec<Vec<Matcher>>, range: TimeRange) -> Result<(), Refusal> {
        self.flush().await.map_err(|reason| Refusal::unavailable(format!("heads were not flushed, nothing was deleted: {reason:#}")))?;
        let tombstone = delete::delete_series(&self.blocks, tenant, selectors, range).await?;
        tracing::info!(%tenant, tombstone = %tombstone.id, "series were deleted");
        Ok(())
    }

    /// Does all that is due for a tenant's blocks.
    ///
    /// # Errors
    /// Without the role `compact`, or if another such run has not ended.
    pub fn compact_now(&self, tenant: TenantId) -> Result<Run, Refusal> {
        self.compaction
            .as_ref()
            .ok_or_else(|| Refusal::unavailable("this process runs without the role compact; ask one that has it"))?
            .run_now(tenant)
    }

    /// What the compactor of this process is doing; `None` without the role `compact`.
    pub fn compactor_status(&self) -> Option<Status> {
        self.compaction.as_ref().map(|compaction| compaction.compactor().status())
    }

    /// The rules of a tenant that are in force.
    pub fn rules_of(&self, tenant: &TenantId) -> TenantRules {
        self.rules.of(tenant)
    }

    /// The tenant's catalog as it is in the store now.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn catalog_state(&self, tenant: &TenantId) -> Result<Arc<CatalogState>, Refusal> {
        Ok(self.blocks.catalog(tenant).await?.refresh().await?)
    }

    /// Ends what the compactor does, so that requests that wait for it are answered.
    pub fn cancel_compaction(&self) {
        if let Some(compaction) = &self.compaction {
            compaction.cancel();
        }
    }

    /// Stops in order: the compactor, lineage, then what is in the heads goes into blocks, or else stays in the log for the next start.
    pub async fn shutdown(&self) {
        if let Some(compaction) = &self.compaction {
            compaction.shutdown().await;
        }
        if let Some(lineage) = &self.lineage {
            lineage.shutdown().await;
        }
        let Some(ingest) = &self.ingest else { return };
        match ingest.ingester.shutdown().await {
            Ok(report) => tracing::info!(blocks = report.blocks, samples = report.samples, "heads are in blocks"),
            Err(error) => tracing::warn!(%error, "heads are not in blocks; the write-ahead log keeps them for the next start"),
        }
    }
}

fn api(config: &Config, engine: Arc<Engine>, storage: Arc<dyn Storage>, facts: Facts) -> Api {
    let sections = &config.sections;
    let tenancy = sections.tenancy.clone();
    let tenant_of = Arc::new(move |headers: &HeaderMap| tenancy.of_request(headers));
    Api::new(engine, storage, Arc::new(facts), tenant_of, sections.api.clone())
}

fn lineage(
    config: &Config,
    bucket: Arc<dyn ObjectStore>,
    engine: Arc<Engine>,
    storage: Arc<dyn Storage>,
    sink: Option<Arc<dyn WriteSink>>,
    registry: &mut Registry,
) -> anyhow::Result<service::Service> {
    let sections = &config.sections;
    let promql: Arc<dyn PromQl> = match sections.lineage.query_url.as_str() {
        "" => Arc::new(OwnEngine { engine, storage, timeout: sections.api.timeout }),
        url => Arc::new(OtherServer::new(url, sections.api.timeout)?),
    };
    let tenancy = sections.tenancy.clone();
    let parts = service::Parts {
        bucket,
        store: sections.lineage.store.clone(),
        max_tenants: sections.lineage.max_tenants,
        default_tenant: TenantId::new(&sections.tenancy.default_tenant)?,
        settings: sections.lineage.settings()?,
        promql: Some(promql),
        sink: sink.map(|sink| Arc::new(OwnIngester(sink)) as Arc<dyn SeriesSink>),
        tenant_of: Arc::new(move |headers: &HeaderMap| tenancy.of_request(headers)),
    };
    Ok(service::Service::new(parts, registry))
}

/// How many blocks there are and how big, as this process last read them.
#[derive(Clone, Default)]
struct BlockCounts {
    blocks: Gauge,
    size_bytes: Gauge,
}

impl BlockCounts {
    fn register(registry: &mut Registry) -> Self {
        let counts = Self::default();
        registry.register("isobar_blocks", "Blocks in the catalogs of all tenants", counts.blocks.clone());
        registry.register("isobar_blocks_size_bytes", "Size of the blocks in the catalogs of all tenants", counts.size_bytes.clone());
        counts
    }

    fn start(self, store: BlockStore) {
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(BLOCK_COUNT_INTERVAL);
            loop {
                ticks.tick().await;
                self.read(&store).await;
            }
        });
    }

    async fn read(&self, store: &BlockStore) {
        let counted = tokio::time::timeout(BLOCK_COUNT_TIMEOUT, async {
            let (mut blocks, mut size_bytes) = (0, 0);
            for tenant in store.tenants().await? {
                let state = store.catalog(&tenant).await?.blocks();
                blocks += state.blocks.len();
                size_bytes += state.blocks.iter().map(|b| b.size_bytes).sum::<u64>();
            }
            Ok::<_, isobar_block::Error>((blocks, size_bytes))
        });
        match counted.await {
            Ok(Ok((blocks, size_bytes))) => {
                self.blocks.set(blocks as i64);
                self.size_bytes.set(size_bytes as i64);
            }
            // Queries and cuts report what is wrong with the store; these numbers only stay as they were.
            Ok(Err(error)) => tracing::debug!(%error, "blocks could not be counted"),
            Err(_) => tracing::debug!("blocks could not be counted in time"),
        }
    }
}
