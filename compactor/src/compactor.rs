//! The compactor: plans, carries out, commits, rests; reports progress and can be cancelled.
//!
//! Two loops run side by side, so that a compaction that fails or takes long does not keep retention and clean-up from
//! their work. Nothing but the catalog is shared with other compactors: who commits second has worked in vain, and plans anew.

pub(crate) mod commit;
mod failures;
mod records;
#[cfg(test)]
pub(crate) mod tests;
mod to_end;
mod upkeep;
mod work;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isobar_block::{BlockStore, CatalogState, TenantId, time};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use rand::Rng;
use rand::seq::SliceRandom;
use tokio::sync::watch;

use crate::config::{CompactorConfig, LiveRules};
use crate::error::{Error, Result};
use crate::metrics::{CompactorMetrics, KindLabel, LevelLabel};
use crate::plan::{self, Job, JobKind};
use crate::rewrite::Control;
use crate::status;
use records::{Ended, Record};
use work::{End, Worker};

pub use crate::status::{Progress, Report, Status};

/// Jobs of one tenant that are carried out before it is the next tenant's turn.
const JOBS_PER_TURN: usize = 8;
/// Longest pause after rounds that failed.
const MAX_PAUSE: Duration = Duration::from_secs(600);
/// How often files without catalog entry are looked for.
const ORPHAN_INTERVAL: Duration = Duration::from_secs(3600);
/// A job that was told to stop gets so long to remove what it has written.
const STOP_TIME: Duration = Duration::from_secs(5);

/// Keeps the blocks of all tenants. There may be any number of them on one store.
pub struct Compactor {
    config: CompactorConfig,
    rules: LiveRules,
    blocks: BlockStore,
    metrics: CompactorMetrics,
    tenants: Mutex<BTreeMap<TenantId, Record>>,
    last_success_ms: Mutex<Option<i64>>,
    /// Held while a job is carried out: the memory is for one.
    working: tokio::sync::Mutex<()>,
}

impl Compactor {
    /// A compactor that does nothing yet.
    pub fn new(config: CompactorConfig, rules: LiveRules, blocks: BlockStore, registry: &mut Registry) -> Arc<Self> {
        Arc::new(Self {
            config,
            rules,
            blocks,
            metrics: CompactorMetrics::register(registry),
            tenants: Mutex::default(),
            last_success_ms: Mutex::default(),
            working: tokio::sync::Mutex::default(),
        })
    }

    /// Works until `stop` is true or its sender is gone. What is being written then is given up.
    pub async fn run(self: Arc<Self>, stop: watch::Receiver<bool>) {
        tokio::join!(self.compaction_loop(stop.clone()), self.upkeep_loop(stop));
    }

    /// What is to be done now. With `settle`, spans wait for late data as configured.
    ///
    /// # Errors
    /// If the catalog cannot be read.
    pub async fn plan(&self, tenant: &TenantId, settle: bool) -> Result<Vec<Job>> {
        let state = self.blocks.catalog(tenant).await?.refresh().await?;
        Ok(plan::plan(&state, &self.rules.of(tenant), &self.config, time::now_ms(), settle))
    }

    /// What is known, as of the last round of each tenant.
    pub fn status(&self) -> Status {
        let tenants = self.tenants.lock();
        Status { last_success_ms: *self.last_success_ms.lock(), tenants: tenants.values().map(Record::status).collect() }
    }

    /// Does everything that can be done now for one tenant or all of them, without waiting for late data. Jobs that fail are
    /// left, and are in the report. `progress` is told every now and then how far it is.
    ///
    /// # Errors
    /// If the tenants or the catalog of a tenant cannot be read.
    pub async fn run_to_end(&self, tenant: Option<&TenantId>, progress: Arc<dyn Fn(&Progress) + Send + Sync>) -> Result<Report> {
        let (_nobody_stops, stop) = watch::channel(false);
        self.run_to_end_or(tenant, progress, stop).await
    }

    /// [`Compactor::run_to_end`] until `stop` is true or its sender is gone. What is being written then is removed.
    ///
    /// # Errors
    /// As [`Compactor::run_to_end`], and [`Error::Canceled`] if it was stopped.
    pub async fn run_to_end_or(
        &self,
        tenant: Option<&TenantId>,
        progress: Arc<dyn Fn(&Progress) + Send + Sync>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<Report> {
        let tenants = match tenant {
            Some(tenant) => vec![tenant.clone()],
            None => self.blocks.tenants().await?,
        };
        let mut report = Report::default();
        for tenant in tenants {
            self.upkeep_or(&tenant, false, &mut stop).await?;
            self.run_tenant_to_end(&tenant, &*progress, &mut stop, &mut report).await?;
            self.upkeep_or(&tenant, true, &mut stop).await?;
        }
        self.publish();
        Ok(report)
    }

    async fn compaction_loop(&self, mut stop: watch::Receiver<bool>) {
        let mut failures = 0u32;
        while !*stop.borrow() {
            let (more, failed) = self.round(stop.clone()).await;
            failures = if failed { failures + 1 } else { 0 };
            if !failed {
                let now_ms = time::now_ms();
                *self.last_success_ms.lock() = Some(now_ms);
                self.metrics.last_success.set(now_ms as f64 / 1000.0);
            }
            self.metrics.runs.inc();
            self.publish();
            let pause = match (more, failures) {
                (true, 0) => Duration::ZERO,
                (_, 0) => self.config.interval,
                (_, n) => self.config.interval.saturating_mul(1 << n.min(8)).min(MAX_PAUSE.max(self.config.interval)),
            };
            // Several compactors that were started together drift apart.
            let pause = pause.mul_f64(rand::rng().random_range(0.75..1.25));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = stop.changed() => if changed.is_err() { return },
            }
        }
    }

    /// One turn of each tenant. Says whether something is left to do, and whether something failed.
    async fn round(&self, stop: watch::Receiver<bool>) -> (bool, bool) {
        let mut tenants = match self.blocks.tenants().await {
            Ok(tenants) => tenants,
            Err(error) => {
                tracing::error!(%error, "the tenants cannot be listed");
                return (false, true);
            }
        };
        tenants.shuffle(&mut rand::rng());
        let (mut more, mut failed) = (false, false);
        for tenant in tenants {
            if *stop.borrow() {
                break;
            }
            match self.turn(&tenant, stop.clone()).await {
                Ok(left) => more |= left,
                Err(error) => {
                    failed = true;
                    tracing::debug!(%tenant, %error, "the turn of the tenant has ended early");
                }
            }
        }
        (more, failed)
    }

    /// Some jobs of a tenant. Says whether there is more to do.
    async fn turn(&self, tenant: &TenantId, mut stop: watch::Receiver<bool>) -> Result<bool> {
        let mut failure = None;
        for _ in 0..JOBS_PER_TURN {
            let (state, mut jobs) = match self.refreshed(tenant, true).await {
                Ok(found) => found,
                Err(error) => {
                    self.failed(tenant, "read the catalog", &error);
                    return Err(error);
                }
            };
            let now = Instant::now();
            jobs.retain(|job| !self.tenants.lock().get(tenant).is_some_and(|r| r.failures.waits(&key(job), now)));
            jobs.shuffle(&mut rand::rng());
            let Some(job) = jobs.first() else {
                if failure.is_none() {
                    self.record(tenant, |record| record.status.last_success_ms = Some(time::now_ms()));
                }
                return failure.map_or(Ok(false), Err);
            };
            let work = self.work(tenant, job, &state);
            tokio::pin!(work);
            let end = tokio::select! {
                end = &mut work => end,
                () = stopped(&mut stop) => {
                    self.cancel(tenant);
                    let _ = tokio::time::timeout(STOP_TIME, work).await;
                    return Ok(false);
                }
            };
            match end {
                Ok(_) => {}
                Err(Error::Canceled) => return Ok(false),
                // Other jobs may do better, unless it is the store.
                Err(error) => {
                    let is_of_store = matches!(error, Error::Block(isobar_block::Error::Store(_)));
                    failure = Some(error);
                    if is_of_store {
                        break;
                    }
                }
            }
        }
        failure.map_or(Ok(true), Err)
    }

    /// The newest catalog of a tenant and what is to be done, which the status shows from then on.
    async fn refreshed(&self, tenant: &TenantId, settle: bool) -> Result<(Arc<CatalogState>, Vec<Job>)> {
        let state = self.blocks.catalog(tenant).await?.refresh().await?;
        let now_ms = time::now_ms();
        let jobs = plan::plan(&state, &self.rules.of(tenant), &self.config, now_ms, settle);
        let (backlog_bytes, backlog_hours) = status::backlog(&jobs, &self.config, now_ms);
        self.record(tenant, |record| {
            record.status.planned.clone_from(&jobs);
            record.status.backlog_bytes = backlog_bytes;
            record.status.backlog_hours = backlog_hours;
            record.status.quarantined.clone_from(&state.quarantined);
            record.levels = status::levels(&state);
        });
        Ok((state, jobs))
    }

    /// Carries out a job, and keeps the records.
    async fn work(&self, tenant: &TenantId, job: &Job, state: &Arc<CatalogState>) -> Result<End> {
        let _working = self.working.lock().await;
        let control = Arc::new(Control::default());
        let (since_ms, start) = (time::now_ms(), Instant::now());
        self.record(tenant, |record| record.running = Some((job.clone(), since_ms, control.clone())));
        self.metrics.running.set(1);
        let _running = Ended { compactor: self, tenant };
        if let Some(while_working) = self.config.while_working {
            while_working(true);
        }
        let catalog = self.blocks.catalog(tenant).await?;
        let rules = self.rules.of(tenant);
        let worker = Worker { blocks: &self.blocks, tenant, catalog: &catalog, state, rules: &rules, config: &self.config, control };
        let end = worker.carry_out(job).await;
        let kind = KindLabel { kind: kind(job) };
        self.metrics.job_seconds.get_or_create(&kind).inc_by(start.elapsed().as_secs_f64());
        match &end {
            Ok(End::Done { added }) => {
                let written: u64 = added.iter().map(|b| b.size_bytes).sum();
                tracing::info!(%tenant, blocks = added.len(), bytes = written, seconds = start.elapsed().as_secs_f64(), "done: {job}");
                self.metrics.jobs.get_or_create(&kind).inc();
                self.record(tenant, |record| {
                    record.failures.remove(&key(job));
                    record.status.last_success_ms = Some(time::now_ms());
                });
                if let JobKind::Compact(_) = &job.kind {
                    self.metrics.read_bytes.inc_by(job.size_bytes);
                    self.metrics.written_bytes.inc_by(written);
                    for block in added {
                        let samples = self.metrics.compacted_samples.get_or_create(&LevelLabel { level: block.level }).clone();
                        samples.inc_by(block.samples + block.histograms);
                    }
                }
            }
            Ok(End::Conflict) => {
                tracing::info!(%tenant, "another compactor was faster: {job}");
                self.metrics.conflicts.inc();
            }
            Ok(End::Quarantined(blocks)) => tracing::warn!(%tenant, blocks = blocks.len(), "planning anew without damaged blocks"),
            Err(Error::Canceled) => {}
            Err(error) => {
                self.metrics.failures.get_or_create(&kind).inc();
                self.failed(tenant, &job.to_string(), error);
                self.record(tenant, |record| {
                    let pause = record.failures.add(&key(job), Instant::now());
                    tracing::error!(%tenant, %error, retry_in_seconds = pause.as_secs(), "failed: {job}");
                });
            }
        }
        end
    }

    async fn upkeep_loop(&self, mut stop: watch::Receiver<bool>) {
        let mut orphans_due = Instant::now();
        while !*stop.borrow() {
            let with_orphans = Instant::now() >= orphans_due;
            if let Ok(tenants) = self.blocks.tenants().await {
                for tenant in tenants {
                    self.upkeep(&tenant, with_orphans).await;
                    if *stop.borrow() {
                        return;
                    }
                }
                if with_orphans {
                    orphans_due = Instant::now() + ORPHAN_INTERVAL;
                }
            }
            self.publish();
            tokio::select! {
                () = tokio::time::sleep(self.config.interval) => {}
                changed = stop.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn upkeep(&self, tenant: &TenantId, with_orphans: bool) {
        let rules = self.rules.of(tenant);
        let when = (time::now_ms(), with_orphans);
        if let Err(error) = upkeep::upkeep(&self.blocks, tenant, &rules, &self.config, &self.metrics, when).await {
            tracing::warn!(%tenant, %error, "retention or clean-up failed and will be tried again");
            self.metrics.upkeep_failures.inc();
            self.failed(tenant, "retention and clean-up", &error);
        }
    }
}

/// Waits until it is time to stop.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Without a sender there is nobody left to work for.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn kind(job: &Job) -> &'static str {
    match &job.kind {
        JobKind::Compact(_) => "compact",
        JobKind::Downsample(_) => "downsample",
        JobKind::Rewrite { .. } => "rewrite",
        JobKind::Retire { .. } => "retire",
    }
}

/// What a job is recognised by when it has failed: the same work with one more input is the same job.
fn key(job: &Job) -> String {
    match &job.kind {
        JobKind::Compact(compaction) => format!("compact {} {}", compaction.span, compaction.level),
        JobKind::Downsample(due) => format!("downsample {} {:?}", due.span, due.resolutions_ms),
        JobKind::Rewrite { block } => format!("rewrite {block}"),
        JobKind::Retire { .. } => "retire".to_owned(),
    }
}
