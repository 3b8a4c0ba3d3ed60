//! The inner half of ingestion: requests go into the head of their tenant and into the write-ahead log, and from time to time
//! everything is cut into blocks.
//!
//! Keeps the rule that a 2xx means that the data survives: a write returns when the log is durable up to its records. What
//! a write adds to a head and what it queues for the log belong to the same epoch, because both happen while the gate is held
//! for reading; a cut closes the gate for the moment in which it ends the epoch.

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hashbrown::HashMap;
use isobar_block::store::BlockStore;
use isobar_block::{Source, TenantId, time};
use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;
use tokio::sync::Notify;

use crate::config::IngestConfig;
use crate::cut::CutState;
use crate::cut::encoder::Encoder;
use crate::decoded::{DecodedRequest, WriteError, WriteOutcome, WriteSink};
use crate::error::{Error, Result};
use crate::head::Head;
use crate::head::append::{Rules, Workspace};
use crate::head::source::HeadSource;
use crate::limits::LiveLimits;
use crate::observe::Metrics;
use crate::recover::{self, ReplayProgress};
use crate::wal::{DirLock, Failure, Wal, WalConfig};

/// When a sender should try again after a 503.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// A workspace that grew beyond this is not kept.
const KEPT_WORKSPACE_BYTES: usize = 4 << 20;

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::default();
}

/// Holds the newest data of all tenants.
pub struct Ingester {
    pub(crate) config: IngestConfig,
    pub(crate) limits: LiveLimits,
    pub(crate) blocks: BlockStore,
    pub(crate) heads: RwLock<HashMap<TenantId, Arc<Head>>>,
    pub(crate) wal: Arc<Wal>,
    /// The present epoch. Held for reading while a request is put into head and log.
    pub(crate) gate: RwLock<u32>,
    pub(crate) writer_id: String,
    pub(crate) metrics: Metrics,
    pub(crate) encoder: Encoder,
    pub(crate) cuts: tokio::sync::Mutex<CutState>,
    /// Why writes are refused, if a limit is reached.
    pub(crate) full: Mutex<Option<String>>,
    pub(crate) stopping: AtomicBool,
    pub(crate) wake: Notify,
    _lock: DirLock,
}

impl Ingester {
    /// Reads the log back and starts the background work, which ends when the ingester is dropped or shut down. Call it within
    /// a Tokio runtime.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::Locked`], [`Error::WalDamaged`] and [`Error::Io`].
    pub async fn open(
        config: IngestConfig,
        limits: LiveLimits,
        blocks: BlockStore,
        registry: &mut Registry,
        progress: Arc<ReplayProgress>,
    ) -> Result<Arc<Self>> {
        config.validate().map_err(Error::Config)?;
        fs::create_dir_all(&config.wal_dir).map_err(|e| Error::io(&config.wal_dir, e))?;
        let lock = DirLock::take(&config.wal_dir)?;
        let metrics = Metrics::new(registry);
        let writer_id = writer_id(&config.wal_dir)?;
        let recovered = {
            let (config, blocks, writer_id, metrics) = (config.clone(), blocks.clone(), writer_id.clone(), metrics.clone());
            let runtime = tokio::runtime::Handle::current();
            let replay = move || recover::recover(&config, &blocks, &writer_id, &metrics, &progress, &runtime);
            tokio::task::spawn_blocking(replay).await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?
        };
        let wal_config = WalConfig {
            dir: config.wal_dir.clone(),
            segment_bytes: config.wal_segment_bytes,
            max_queued_bytes: config.wal_max_queued_bytes as usize,
        };
        let (first, rest) = (recovered.next, recovered.rest);
        let wal = Arc::new(Wal::open(wal_config, first, recovered.wal_bytes, metrics.wal.clone())?);
        let ingester = Arc::new(Self {
            limits,
            blocks,
            heads: RwLock::new(recovered.heads),
            gate: RwLock::new(epoch_of(wal.epoch())),
            wal,
            writer_id,
            metrics,
            encoder: Encoder::start().map_err(|e| Error::io(&config.wal_dir, e))?,
            cuts: tokio::sync::Mutex::new(CutState::new(config.cut_interval)),
            full: Mutex::new(None),
            stopping: AtomicBool::new(false),
            wake: Notify::new(),
            config,
            _lock: lock,
        });
        ingester.measure();
        let metrics = ingester.metrics.clone();
        tokio::task::spawn_blocking(move || rest.complete(&metrics));
        tokio::spawn(crate::cut::run(Arc::downgrade(&ingester)));
        Ok(ingester)
    }

    /// What the tenant has in the head. Put it after the tenant's blocks in an [`isobar_block::union::Union`], so that it is
    /// asked before them: samples move from here into blocks.
    pub fn source(self: &Arc<Self>, tenant: &TenantId) -> Arc<dyn Source> {
        Arc::new(TenantSource { ingester: Arc::clone(self), tenant: tenant.clone() })
    }

    /// Tenants that have something in a head, sorted.
    pub fn tenants(&self) -> Vec<TenantId> {
        let mut tenants: Vec<TenantId> = self.heads.read().keys().cloned().collect();
        tenants.sort_unstable();
        tenants
    }

    pub(crate) fn head(&self, tenant: &TenantId) -> Option<Arc<Head>> {
        self.heads.read().get(tenant).cloned()
    }

    fn head_or_new(&self, tenant: &TenantId) -> std::result::Result<Arc<Head>, WriteError> {
        if let Some(head) = self.head(tenant) {
            return Ok(head);
        }
        let mut heads = self.heads.write();
        if heads.len() >= self.config.max_tenants && !heads.contains_key(tenant) {
            return Err(WriteError::TooManyRequests {
                limit: "max_tenants",
                allowed: self.config.max_tenants as u64,
                tenant: tenant.clone(),
                retry_after: RETRY_AFTER,
                outcome: Box::default(),
            });
        }
        Ok(Arc::clone(heads.entry(tenant.clone()).or_default()))
    }

    /// Refuses what could not be kept.
    fn admit(&self) -> std::result::Result<(), WriteError> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(unavailable("the store is stopping".into(), Box::default()));
        }
        if let Some(reason) = &*self.full.lock() {
            return Err(unavailable(reason.clone(), Box::default()));
        }
        self.wal.check().map_err(|failure| unavailable(failure.to_string(), Box::default()))
    }

    /// Puts a request into head and log; returns what became of it and what to wait for.
    fn apply(
        &self,
        tenant: &TenantId,
        request: &DecodedRequest,
        work: &mut Workspace,
    ) -> std::result::Result<(WriteOutcome, u64), WriteError> {
        if let Some(head) = self.head(tenant) {
            head.complete();
        }
        let limits = self.limits.of(tenant);
        let arriving = self.wal.arrive();
        let epoch = self.gate.read();
        // Asked again behind the gate: after the last cut nothing may come.
        self.admit()?;
        let head = self.head_or_new(tenant)?;
        let rules = Rules {
            tenant,
            limits,
            now_ms: time::now_ms(),
            epoch: *epoch,
            max_exemplars: self.config.exemplars_per_tenant,
            max_families: self.config.metadata_per_tenant,
        };
        let (outcome, counted) = head.append(request, &rules, work, &|| !self.wal.others_arriving());
        let number = self.wal.append(&work.records, Some(arriving));
        head.confirm(work, *epoch);
        drop(epoch);
        self.metrics.samples_appended.inc_by(counted.appended);
        for (counter, n) in [
            (&self.metrics.late_samples, counted.late),
            (&self.metrics.samples_repeated, counted.repeated),
            (&self.metrics.series_created, counted.created),
            (&self.metrics.metadata_dropped, counted.metadata_dropped),
        ] {
            if n > 0 {
                counter.inc_by(n);
            }
        }
        Ok((outcome, number))
    }

    /// Looks at sizes and limits.
    pub(crate) fn measure(&self) -> Sizes {
        let heads = self.heads.read();
        let (mut series, mut head_bytes) = (0, 0);
        for head in heads.values() {
            series += head.series() as u64;
            head_bytes += head.bytes();
        }
        drop(heads);
        let wal_bytes = self.wal.total_bytes();
        self.metrics.head_series.set(series as i64);
        self.metrics.head_bytes.set(head_bytes as i64);
        let limit = |what: &str, key: &str, allowed: u64| {
            Some(format!(
                "{what} has reached storage.{key} ({}); blocks cannot be written fast enough",
                crate::units::format_bytes(allowed)
            ))
        };
        *self.full.lock() = if head_bytes >= self.config.head_max_bytes {
            limit("the memory of the heads", "head_max_bytes", self.config.head_max_bytes)
        } else if wal_bytes >= self.config.wal_max_bytes {
            limit("the write-ahead log", "wal_max_bytes", self.config.wal_max_bytes)
        } else {
            None
        };
        Sizes { head_bytes, wal_bytes, series }
    }
}

/// Sizes of everything that the ingester holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub head_bytes: u64,
    pub wal_bytes: u64,
    pub series: u64,
}

#[async_trait]
impl WriteSink for Ingester {
    async fn write(&self, tenant: &TenantId, request: DecodedRequest) -> std::result::Result<WriteOutcome, WriteError> {
        self.admit()?;
        let applied = WORKSPACE.with_borrow_mut(|work| {
            let applied = self.apply(tenant, &request, work);
            if work.records.capacity() > KEPT_WORKSPACE_BYTES {
                *work = Workspace::default();
            }
            applied
        });
        request.recycle();
        let (outcome, number) = applied?;
        match tokio::time::timeout(self.config.wal_commit_timeout, self.wal.wait(number)).await {
            Ok(Ok(())) => Ok(outcome),
            Ok(Err(failure)) => Err(refused(&failure, outcome)),
            Err(_) => Err(refused(&Failure::Disk("the disk does not answer".into()), outcome)),
        }
    }
}

/// Nothing counts as written, as it may not survive; sending it again is harmless.
fn refused(failure: &Failure, outcome: WriteOutcome) -> WriteError {
    unavailable(failure.to_string(), Box::new(WriteOutcome { rejected: outcome.rejected, ..WriteOutcome::default() }))
}

fn unavailable(reason: String, outcome: Box<WriteOutcome>) -> WriteError {
    WriteError::Unavailable { reason, retry_after: RETRY_AFTER, outcome }
}

/// Epochs are the number of their first segment, cut to 32 bits in heads: a store would have to cut four thousand million
/// times to wrap.
pub(crate) fn epoch_of(segment: u64) -> u32 {
    u32::try_from(segment).unwrap_or(u32::MAX)
}

/// The identity of this log. A directory without segments gets a new one: numbers of segments begin again there, and must not
/// be taken for those that blocks cover.
fn writer_id(dir: &Path) -> Result<String> {
    let path = dir.join("writer-id");
    if !crate::wal::segment::list(dir)?.is_empty() {
        match fs::read_to_string(&path) {
            Ok(id) if !id.trim().is_empty() => return Ok(id.trim().to_owned()),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(&path, e)),
        }
    }
    let id = isobar_block::meta::BlockId::new(time::now_ms()).to_string();
    let tmp = dir.join("writer-id.tmp");
    fs::write(&tmp, &id).and_then(|()| fs::File::open(&tmp)?.sync_all()).map_err(|e| Error::io(&tmp, e))?;
    fs::rename(&tmp, &path).and_then(|()| crate::wal::segment::sync_dir(dir)).map_err(|e| Error::io(&path, e))?;
    Ok(id)
}

/// The head of a tenant, looked up for each query: it may come into being after the source.
struct TenantSource {
    ingester: Arc<Ingester>,
    tenant: TenantId,
}

impl TenantSource {
    fn head(&self) -> HeadSource {
        HeadSource(self.ingester.head(&self.tenant).unwrap_or_default())
    }
}

#[async_trait]
impl Source for TenantSource {
    async fn select(
        &self,
        matchers: &[isobar_block::Matcher],
        range: isobar_block::TimeRange,
        want: isobar_block::Want,
    ) -> isobar_block::Result<isobar_block::Selected> {
        self.head().select(matchers, range, want).await
    }

    async fn label_names(&self, matchers: &[isobar_block::Matcher], range: isobar_block::TimeRange) -> isobar_block::Result<Vec<String>> {
        self.head().label_names(matchers, range).await
    }

    async fn label_values(
        &self,
        name: &str,
        matchers: &[isobar_block::Matcher],
        range: isobar_block::TimeRange,
    ) -> isobar_block::Result<Vec<String>> {
        self.head().label_values(name, matchers, range).await
    }

    async fn exemplars(
        &self,
        matchers: &[isobar_block::Matcher],
        range: isobar_block::TimeRange,
    ) -> isobar_block::Result<Vec<(isobar_block::Labels, Vec<isobar_block::Exemplar>)>> {
        self.head().exemplars(matchers, range).await
    }

    async fn metadata(&self, metric: Option<&str>) -> isobar_block::Result<Vec<(String, Vec<isobar_block::Metadata>)>> {
        self.head().metadata(metric).await
    }
}

#[cfg(test)]
mod tests;
