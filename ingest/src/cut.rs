//! Cuts blocks out of the heads: when, and in which order so that nothing is lost.
//!
//! 1. The epoch ends: the log goes on in a new segment, and what comes from now on belongs to the next epoch.
//! 2. For each tenant a block of what the ended epochs hold is written and committed to the catalog. It says how far it covers
//!    the log.
//! 3. When queries that may not know the block have ended, the head drops what is in it.
//! 4. When all tenants are done, the old segments are deleted.
//!
//! A failure leaves everything as it is for the next try, which takes what was left and what came since.

pub mod encoder;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use isobar_block::catalog::Change;
use isobar_block::meta::WriterMark;
use isobar_block::writer::{EncodedBlock, WriterConfig};
use isobar_block::{TenantId, time};

use crate::error::{Error, Result};
use crate::head::Head;
use crate::head::cut::HeadCut;
use crate::ingester::{Ingester, epoch_of};

/// How often sizes and times are looked at.
const TICK: Duration = Duration::from_millis(250);
/// Tenants that are cut at the same time.
const CONCURRENT_TENANTS: usize = 4;
/// Longest wait for one upload or commit.
const STORE_TIMEOUT: Duration = Duration::from_secs(300);
/// Longest wait for queries that began before a block was committed.
const QUERY_TIMEOUT: Duration = Duration::from_secs(150);
/// First and longest pause after a cut that failed.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What the cutter remembers.
#[derive(Debug)]
pub struct CutState {
    due: Instant,
    failures: u32,
    /// Size of the log after the last cut: what could not be deleted yet does not count for the next one.
    wal_bytes: u64,
}

impl CutState {
    /// The first cut is due after `interval`.
    pub fn new(interval: Duration) -> Self {
        Self { due: Instant::now() + interval, failures: 0, wal_bytes: 0 }
    }
}

/// What a cut has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CutReport {
    /// Blocks that were committed.
    pub blocks: u64,
    /// Series in them.
    pub series: u64,
    /// Samples and histograms in them.
    pub samples: u64,
    /// Their size.
    pub bytes: u64,
}

impl Ingester {
    /// Cuts everything that is in the heads now into blocks, and waits until they are committed.
    ///
    /// # Errors
    /// The first error of a tenant; other tenants are cut all the same, and the background work tries again.
    pub async fn flush(&self) -> Result<CutReport> {
        let mut state = self.cuts.lock().await;
        self.cut(&mut state).await
    }

    /// Stops: refuses writes, cuts what is left, and closes the log. If the object store does not take the blocks in
    /// [`crate::IngestConfig::shutdown_timeout`], the log keeps the data for the next start.
    ///
    /// # Errors
    /// The error of the cut; the log is closed all the same.
    pub async fn shutdown(&self) -> Result<CutReport> {
        self.stopping.store(true, Ordering::Release);
        self.wake.notify_one();
        let result = tokio::time::timeout(self.config.shutdown_timeout, self.flush()).await.unwrap_or_else(|_| {
            tracing::warn!("the object store does not take blocks in time; the write-ahead log keeps them for the next start");
            Err(Error::Stopping)
        });
        let wal = Arc::clone(&self.wal);
        // It only fails if the runtime stops, which closes the log too.
        let _ = tokio::task::spawn_blocking(move || wal.close()).await;
        result
    }

    async fn cut(&self, state: &mut CutState) -> Result<CutReport> {
        let start = Instant::now();
        self.complete_heads().await?;
        let segment = self.end_epoch();
        let max_epoch = epoch_of(segment) - 1;
        let heads: Vec<(TenantId, Arc<Head>)> = self.heads.read().iter().map(|(t, h)| (t.clone(), Arc::clone(h))).collect();
        let waiting: Vec<_> = heads.iter().filter(|(_, h)| h.is_waiting(max_epoch)).cloned().collect();
        let tries: Vec<_> = stream::iter(waiting)
            .map(|(tenant, head)| async move {
                let result = self.cut_tenant(&tenant, &head, max_epoch, segment).await;
                (tenant, result)
            })
            .buffer_unordered(CONCURRENT_TENANTS)
            .collect()
            .await;
        let mut report = CutReport::default();
        let mut failure = None;
        for (tenant, result) in tries {
            match result {
                Ok(cut) => report.add(cut),
                Err(error) => {
                    tracing::error!(%tenant, %error, "blocks could not be written; head and log keep the data, and it is tried again");
                    self.metrics.cut_failures.inc();
                    failure.get_or_insert(error);
                }
            }
        }
        self.leave_idle(&heads);
        let result = match failure {
            Some(error) => Err(error),
            None => self.remove_log(segment).await.map(|()| report),
        };
        self.metrics.blocks_cut.inc_by(report.blocks);
        self.metrics.cut_seconds.observe(start.elapsed().as_secs_f64());
        state.next(result.is_err(), self.config.cut_interval, self.wal.total_bytes());
        self.measure();
        result
    }

    /// What a start has left for later belongs to the epoch that ends.
    async fn complete_heads(&self) -> Result<()> {
        let heads: Vec<Arc<Head>> = self.heads.read().values().filter(|h| h.is_pending()).cloned().collect();
        if heads.is_empty() {
            return Ok(());
        }
        let complete = move || {
            for head in heads {
                head.complete();
            }
        };
        tokio::task::spawn_blocking(complete).await.map_err(|_| Error::Stopping)
    }

    /// Ends the epoch, and returns the number of the segment with which the next one begins.
    fn end_epoch(&self) -> u64 {
        let mut gate = self.gate.write();
        let segment = self.wal.rotate();
        *gate = epoch_of(segment);
        for head in self.heads.read().values() {
            head.end_epoch();
        }
        segment
    }

    async fn cut_tenant(&self, tenant: &TenantId, head: &Arc<Head>, max_epoch: u32, segment: u64) -> Result<CutReport> {
        let catalog = in_time(self.blocks.catalog(tenant)).await?;
        let (mut add, mut report) = (Vec::new(), CutReport::default());
        let mut cut = None;
        loop {
            let (mark, head, block_bytes) =
                (WriterMark { id: self.writer_id.clone(), wal_segment_end: segment }, Arc::clone(head), self.config.block_bytes);
            let encode = move || next_block(cut.unwrap_or_else(|| HeadCut::new(head, max_epoch)), mark, block_bytes);
            let (rest, encoded) = self.encoder.run(encode).await??;
            let Some(encoded) = encoded else { break };
            in_time(encoded.upload(&**self.blocks.objects(), tenant)).await?;
            report.add(CutReport {
                blocks: 1,
                series: encoded.meta.series,
                samples: encoded.meta.samples + encoded.meta.histograms,
                bytes: encoded.meta.size_bytes,
            });
            add.push(encoded.meta);
            cut = Some(rest);
        }
        if !add.is_empty() {
            in_time(catalog.commit(Change { add, ..Change::default() })).await?;
        }
        let head = Arc::clone(head);
        let drop_it = move || {
            head.pins().wait(QUERY_TIMEOUT);
            head.drop_through(max_epoch);
        };
        tokio::task::spawn_blocking(drop_it).await.map_err(|_| Error::Stopping)?;
        Ok(report)
    }

    /// Series that have been quiet for long leave, and heads without series too.
    fn leave_idle(&self, heads: &[(TenantId, Arc<Head>)]) {
        let idle_since_s = (time::now_ms() / 1000 - self.config.series_idle_time.as_secs() as i64).clamp(0, i64::from(u32::MAX)) as u32;
        for (tenant, head) in heads {
            let gate = self.gate.write();
            head.retire_idle(idle_since_s);
            if head.is_empty() {
                self.heads.write().remove(tenant);
            }
            drop(gate);
        }
    }

    /// Deletes the segments before `segment`, after the metadata in them was written again.
    async fn remove_log(&self, segment: u64) -> Result<()> {
        let mut records = Vec::new();
        let number = {
            let epoch = self.gate.read();
            for (tenant, head) in self.heads.read().iter() {
                head.log_metadata(tenant, *epoch, &mut records);
            }
            self.wal.append(&records, None)
        };
        self.wal.wait(number).await.map_err(|failure| Error::Wal(failure.to_string()))?;
        self.wal.remove_before(segment)
    }
}

impl CutState {
    fn next(&mut self, failed: bool, interval: Duration, wal_bytes: u64) {
        self.wal_bytes = wal_bytes;
        self.failures = if failed { self.failures + 1 } else { 0 };
        let pause =
            if failed { RETRY_PAUSE.0.saturating_mul(1 << self.failures.min(16)).min(RETRY_PAUSE.1).min(interval) } else { interval };
        self.due = Instant::now() + pause;
    }
}

impl CutReport {
    fn add(&mut self, other: Self) {
        self.blocks += other.blocks;
        self.series += other.series;
        self.samples += other.samples;
        self.bytes += other.bytes;
    }
}

fn next_block(mut cut: HeadCut, mark: WriterMark, block_bytes: u64) -> isobar_block::Result<(HeadCut, Option<EncodedBlock>)> {
    let config = WriterConfig { writers: vec![mark], ..WriterConfig::new(time::now_ms()) };
    let writer = cut.next_block(config, block_bytes)?;
    let encoded = writer.map(|w| w.encode()).transpose()?;
    Ok((cut, encoded))
}

async fn in_time<T>(work: impl Future<Output = isobar_block::Result<T>>) -> Result<T> {
    match tokio::time::timeout(STORE_TIMEOUT, work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Error::StoreTimeout { seconds: STORE_TIMEOUT.as_secs() }),
    }
}

/// Watches sizes and times, and cuts when it is due. Ends with the ingester.
pub(crate) async fn run(ingester: Weak<Ingester>) {
    // What the log brought back is indexed after one tick: until then the first requests have the processor.
    let mut series_before = ingester.upgrade().map_or(0, |i| i.measure().series);
    loop {
        {
            let Some(ingester) = ingester.upgrade() else { return };
            let _ = tokio::time::timeout(TICK, ingester.wake.notified()).await;
            if ingester.stopping.load(Ordering::Acquire) {
                return;
            }
            let sizes = ingester.measure();
            if sizes.series == series_before {
                prepare_indexes(&ingester).await;
            }
            series_before = sizes.series;
            // A flush that is under way does the same.
            if let Ok(mut state) = ingester.cuts.try_lock() {
                let grown = sizes.wal_bytes.saturating_sub(state.wal_bytes) >= ingester.config.wal_cut_bytes;
                let big = sizes.head_bytes >= ingester.config.head_cut_bytes;
                if Instant::now() >= state.due || (state.failures == 0 && (grown || big)) {
                    // The error was logged where it happened, and the next try has its time.
                    let _ = ingester.cut(&mut state).await;
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Indexes new series while nobody waits for it.
async fn prepare_indexes(ingester: &Arc<Ingester>) {
    let heads: Vec<Arc<Head>> = ingester.heads.read().values().filter(|h| !h.is_index_ready()).cloned().collect();
    if !heads.is_empty() {
        let _ = tokio::task::spawn_blocking(move || heads.iter().for_each(|h| h.prepare_index())).await;
    }
}
