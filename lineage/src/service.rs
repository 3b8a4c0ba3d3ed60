//! The lineage of all tenants as one part of a server: stores that are opened on first use, what runs in the background, and what it
//! reaches of the rest of the server. The HTTP API is over it.

mod sizes;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use axum::http::HeaderMap;
use futures::StreamExt;
use isobar_block::{PromQl, SeriesSink, TenantId, key};
use object_store::ObjectStore;
use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;
use tokio::sync::{OnceCell, watch};

use crate::settings::Settings;
use crate::store::{LineageConfig, LineageStore};
use crate::{Error, Result, alerts, info, mesh, traces, watch as folder};

/// Tells the tenant of a request by its headers, or why they are wrong (400).
pub type TenantOf = Arc<dyn Fn(&HeaderMap) -> std::result::Result<TenantId, String> + Send + Sync>;

/// What the service is made of.
pub struct Parts {
    /// Where the logs are.
    pub bucket: Arc<dyn ObjectStore>,
    /// How each log works.
    pub store: LineageConfig,
    /// Tenants whose lineage may be open at a time; requests of further ones are refused.
    pub max_tenants: usize,
    /// Tenant that the background work is done for in any case.
    pub default_tenant: TenantId,
    /// Rules that can change while running.
    pub settings: Settings,
    /// Live numbers; without it answers that need them say so.
    pub promql: Option<Arc<dyn PromQl>>,
    /// Where own series go; without it they are not written.
    pub sink: Option<Arc<dyn SeriesSink>>,
    /// Which tenant a request is for.
    pub tenant_of: TenantOf,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("tenants", &self.0.tenants.lock().len()).finish_non_exhaustive()
    }
}

/// See the module. Clones share it.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    parts: Parts,
    settings: RwLock<Arc<Settings>>,
    tenants: Mutex<HashMap<TenantId, Arc<OnceCell<Arc<Tenant>>>>>,
    changed: watch::Sender<u64>,
    metrics: Metrics,
}

/// Everything of one tenant.
pub struct Tenant {
    /// Whose it is.
    pub id: TenantId,
    /// Log and graph.
    pub store: Arc<LineageStore>,
    /// Spans that wait for their other half.
    pub traces: traces::Pairing,
    /// What the last look at mesh metrics has found.
    pub mesh: mesh::Seen,
    /// Alerts that fire, and what they touch.
    pub alerts: alerts::Alerts,
}

/// What is counted; each module has its own.
#[derive(Clone, Default)]
pub struct Metrics {
    /// Of OTLP traces.
    pub traces: traces::Metrics,
    /// Of mesh metrics.
    pub mesh: mesh::Metrics,
    /// Of alerts.
    pub alerts: alerts::Metrics,
    /// Of the folder that is watched.
    pub folder: folder::Metrics,
    /// Of the series of edges.
    pub info: info::Metrics,
}

impl Service {
    /// A service over these parts; nothing is read yet. What is counted is registered.
    pub fn new(mut parts: Parts, registry: &mut Registry) -> Self {
        let metrics = Metrics::default();
        metrics.traces.register(registry);
        metrics.mesh.register(registry);
        metrics.alerts.register(registry);
        metrics.folder.register(registry);
        metrics.info.register(registry);
        let settings = RwLock::new(Arc::new(std::mem::take(&mut parts.settings)));
        let (changed, _) = watch::channel(0);
        let service = Self(Arc::new(Inner { parts, settings, tenants: Mutex::default(), changed, metrics }));
        registry.register_collector(Box::new(sizes::SizesOf(service.clone())));
        service
    }

    /// The rules in force.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.0.settings.read())
    }

    /// Puts other rules in force.
    pub fn replace_settings(&self, settings: Settings) {
        *self.0.settings.write() = Arc::new(settings);
        self.0.changed.send_modify(|n| *n += 1);
    }

    /// Live numbers.
    pub fn promql(&self) -> Option<&Arc<dyn PromQl>> {
        self.0.parts.promql.as_ref()
    }

    /// Where own series go.
    pub fn sink(&self) -> Option<&Arc<dyn SeriesSink>> {
        self.0.parts.sink.as_ref()
    }

    /// Where objects are.
    pub fn bucket(&self) -> &Arc<dyn ObjectStore> {
        &self.0.parts.bucket
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The tenant that the background work is done for in any case.
    pub fn default_tenant(&self) -> &TenantId {
        &self.0.parts.default_tenant
    }

    /// The tenant of a request, opened.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the headers are wrong; else as [`Service::tenant`].
    pub async fn tenant_of(&self, headers: &HeaderMap) -> Result<Arc<Tenant>> {
        let id = (self.0.parts.tenant_of)(headers).map_err(|reason| Error::invalid("tenant", reason))?;
        self.tenant(&id).await
    }

    /// A tenant's lineage; the first call reads its log.
    ///
    /// # Errors
    /// [`Error::Busy`] if too many tenants are open; [`Error::Block`] if the log cannot be read.
    pub async fn tenant(&self, id: &TenantId) -> Result<Arc<Tenant>> {
        let cell = {
            let mut tenants = self.0.tenants.lock();
            if !tenants.contains_key(id) && tenants.len() >= self.0.parts.max_tenants {
                return Err(Error::Busy { limit: "lineage.max-tenants", allowed: self.0.parts.max_tenants as u64 });
            }
            Arc::clone(tenants.entry(id.clone()).or_default())
        };
        let opened = cell.get_or_try_init(|| self.open(id)).await?;
        Ok(Arc::clone(opened))
    }

    async fn open(&self, id: &TenantId) -> Result<Arc<Tenant>> {
        let parts = &self.0.parts;
        let store = LineageStore::open(Arc::clone(&parts.bucket), id.clone(), parts.store.clone()).await?;
        let alerts = alerts::Alerts::open(Arc::clone(&parts.bucket), id).await?;
        Ok(Arc::new(Tenant { id: id.clone(), store, traces: Default::default(), mesh: Default::default(), alerts }))
    }

    /// Tenants that are open.
    pub fn opened(&self) -> Vec<Arc<Tenant>> {
        self.0.tenants.lock().values().filter_map(|cell| cell.get().cloned()).collect()
    }

    /// Opens the default tenant, and every one that has a log, as far as there is room.
    ///
    /// # Errors
    /// [`Error::Block`] if the bucket cannot be listed or the default tenant's log cannot be read.
    pub async fn open_known(&self) -> Result<()> {
        self.tenant(self.default_tenant()).await?;
        let listed = self.0.parts.bucket.list_with_delimiter(None).await.map_err(isobar_block::Error::from)?;
        for id in listed.common_prefixes.iter().filter_map(|prefix| key::tenant_of(prefix).ok()) {
            let mut entries = self.0.parts.bucket.list(Some(&key::log(&id, "lineage")));
            if entries.next().await.is_none() {
                continue;
            }
            if let Err(error) = self.tenant(&id).await {
                tracing::warn!(tenant = %id, %error, "lineage was not opened; it is tried again with the first request");
            }
        }
        Ok(())
    }

    /// Does the background work until told to stop: looks at mesh metrics, at the watched folder, at alerts; writes edges and own series.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        if let Err(error) = self.open_known().await {
            tracing::warn!(%error, "not every tenant's lineage could be opened; it is tried again with the first request");
        }
        tokio::join!(
            mesh::run(self.clone(), stop.clone()),
            traces::run(self.clone(), stop.clone()),
            alerts::run(self.clone(), stop.clone()),
            folder::run(self.clone(), stop.clone()),
            info::run(self.clone(), stop.clone()),
        );
    }

    /// Tells when the rules in force have changed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }
}
