//! The compactor in this process: its loop, the runs that an operator asks for, and its end.

use std::sync::Arc;

use isobar_block::{BlockStore, TenantId};
use isobar_compactor::compactor::{Compactor, Report};
use isobar_compactor::config::LiveRules;
use isobar_compactor::{CompactorConfig, Error};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::refusal::Refusal;

/// A compactor that runs.
pub struct Compaction {
    compactor: Arc<Compactor>,
    stop: watch::Sender<bool>,
    background: Mutex<Option<JoinHandle<()>>>,
    /// Held by the run that an operator asked for: one at a time, further ones are refused.
    asked: Arc<tokio::sync::Mutex<()>>,
}

/// A run that an operator asked for. It goes on if nobody waits for it.
pub struct Run(JoinHandle<Result<Report, Refusal>>);

impl Compaction {
    /// Starts.
    pub fn start(config: CompactorConfig, rules: LiveRules, blocks: BlockStore, registry: &mut Registry) -> Self {
        let config = CompactorConfig { while_working: Some(|works| crate::allocator::keep_freed(!works)), ..config };
        let compactor = Compactor::new(config, rules, blocks, registry);
        let (stop, stopped) = watch::channel(false);
        let background = tokio::spawn(Arc::clone(&compactor).run(stopped));
        Self { compactor, stop, background: Mutex::new(Some(background)), asked: Arc::default() }
    }

    /// The compactor itself, to be asked how it is.
    pub fn compactor(&self) -> &Compactor {
        &self.compactor
    }

    /// Does all that is due for a tenant.
    ///
    /// # Errors
    /// If another run has not ended.
    pub fn run_now(&self, tenant: TenantId) -> Result<Run, Refusal> {
        let Ok(alone) = Arc::clone(&self.asked).try_lock_owned() else {
            return Err(Refusal::unavailable("a compaction that was asked for is running; /api/v1/status/compactor shows it"));
        };
        if *self.stop.borrow() {
            return Err(Error::Canceled.into());
        }
        let compactor = Arc::clone(&self.compactor);
        let stop = self.stop.subscribe();
        Ok(Run(tokio::spawn(async move {
            let _alone = alone;
            let quiet = Arc::new(|_: &_| {});
            let report = compactor.run_to_end_or(Some(&tenant), quiet, stop).await;
            let report = report.inspect_err(|error| tracing::warn!(%tenant, %error, "a compaction that was asked for has failed"))?;
            tracing::info!(%tenant, jobs = report.jobs, failures = report.failures.len(), "a compaction that was asked for is done");
            Ok(report)
        })))
    }

    /// Cancels what runs. Nothing that is not committed can be seen afterwards.
    pub fn cancel(&self) {
        self.stop.send_replace(true);
    }

    /// Cancels, and waits for the end.
    pub async fn shutdown(&self) {
        self.cancel();
        let background = self.background.lock().take();
        if let Some(background) = background
            && let Err(error) = background.await
        {
            tracing::error!(%error, "the compactor did not end in order");
        }
        // Whoever holds it is told to stop and ends soon.
        let _ended = self.asked.lock().await;
    }
}

impl Run {
    /// Waits for the end and gives the report.
    ///
    /// # Errors
    /// Why it was not completed.
    pub async fn finish(self) -> Result<Report, Refusal> {
        self.0.await.map_err(|e| Refusal::internal(e.to_string()))?
    }
}
