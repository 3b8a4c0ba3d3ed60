//! The start after a stop or a crash: heads come back from the write-ahead log, without what blocks hold already.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use isobar_block::store::BlockStore;
use isobar_block::{TenantId, time};

use crate::config::IngestConfig;
use crate::error::Result;
use crate::head::Head;
use crate::head::replay::{HeadReplay, ReplayNumbers};
use crate::ingester::epoch_of;
use crate::observe::Metrics;
use crate::wal::record::{self, Frame, Kind, Malformed};
use crate::wal::replay::{OnDamage, replay};
use crate::wal::segment::{self, Header};

/// Samples of all tenants that are gathered before they are put into the heads.
const GATHERED_SAMPLES: usize = 1 << 19;
/// Longest wait for the catalog of one tenant.
const CATALOG_TIMEOUT: Duration = Duration::from_secs(10);

/// How far the replay of the log is: numbers of segments, as `status/walreplay` tells them.
#[derive(Debug, Default)]
pub struct ReplayProgress {
    min: AtomicU64,
    max: AtomicU64,
    current: AtomicU64,
}

impl ReplayProgress {
    /// First, last and present segment.
    pub fn get(&self) -> (u64, u64, u64) {
        (self.min.load(Ordering::Relaxed), self.max.load(Ordering::Relaxed), self.current.load(Ordering::Relaxed))
    }

    fn set(&self, min: u64, max: u64, current: u64) {
        self.min.store(min, Ordering::Relaxed);
        self.max.store(max, Ordering::Relaxed);
        self.current.store(current, Ordering::Relaxed);
    }
}

/// What came back.
pub struct Recovered {
    /// Heads by tenant.
    pub heads: HashMap<TenantId, Arc<Head>>,
    /// Header of the segment with which the log goes on.
    pub next: Header,
    /// Bytes of all segments.
    pub wal_bytes: u64,
}

/// One tenant while the log is read.
struct Tenant {
    replay: HeadReplay,
    /// Segments before this one are in blocks.
    covered: u64,
}

/// Reads the log. Blocks; `runtime` is used for the catalogs.
pub fn recover(
    config: &IngestConfig,
    blocks: &BlockStore,
    writer_id: &str,
    metrics: &Metrics,
    progress: &ReplayProgress,
    runtime: &tokio::runtime::Handle,
) -> Result<Recovered> {
    let start = Instant::now();
    let epoch = epoch_of(segment::list(&config.wal_dir)?.last().copied().unwrap_or(0));
    let mut tenants: HashMap<String, Tenant> = HashMap::new();
    let (mut log_epoch, mut gathered) = (0, 0);
    let on_damage = if config.wal_skip_damaged { OnDamage::Skip } else { OnDamage::Fail };
    let found = replay(
        &config.wal_dir,
        on_damage,
        |min, max, current| progress.set(min, max, current),
        |header, frame| {
            if header.epoch != log_epoch {
                log_epoch = header.epoch;
                tenants.values_mut().for_each(|t| t.replay.next_epoch());
            }
            let (name, entries) = record::read_tenant(frame.payload).map_err(|Malformed(reason)| reason.to_owned())?;
            if !tenants.contains_key(name) {
                let tenant = TenantId::new(name).map_err(|e| e.to_string())?;
                let covered = covered(blocks, &tenant, writer_id, runtime);
                tenants.insert(name.to_owned(), Tenant { replay: HeadReplay::new(Arc::default(), epoch, time::now_ms()), covered });
            }
            let tenant = tenants.get_mut(name).expect("it was put in above");
            if header.number < tenant.covered {
                return Ok(());
            }
            let before = tenant.replay.gathered();
            let applied = apply(&mut tenant.replay, frame, entries, config);
            gathered += tenant.replay.gathered() - before;
            if gathered >= GATHERED_SAMPLES {
                tenants.values_mut().for_each(|t| t.replay.put_in());
                gathered = 0;
            }
            applied.map_err(|Malformed(reason)| reason.to_owned())
        },
    )?;
    let mut numbers = ReplayNumbers::default();
    let mut heads = HashMap::new();
    for (name, tenant) in tenants {
        let head = Arc::clone(&tenant.replay.head);
        numbers.add(tenant.replay.finish());
        if !head.is_empty() {
            heads.insert(TenantId::new(&name)?, head);
        }
    }
    report(numbers, &found, start.elapsed(), metrics);
    Ok(Recovered { heads, next: found.next_header(), wal_bytes: found.total_bytes })
}

fn apply(replay: &mut HeadReplay, frame: Frame<'_>, entries: &[u8], config: &IngestConfig) -> Result<(), Malformed> {
    match frame.kind {
        Kind::Batch => Ok(()),
        Kind::Series => record::read_series(entries, |number, labels| replay.series(number, labels)),
        Kind::Samples => replay.samples(entries),
        Kind::Histograms => record::read_histograms(entries, |number, t, histogram| replay.histogram(number, t, histogram)),
        Kind::Exemplars => record::read_exemplars(entries, |number, e| replay.exemplar(number, &e, config.exemplars_per_tenant)),
        Kind::Metadata => record::read_metadata(entries, |name, metadata| replay.metadata(name, &metadata, config.metadata_per_tenant)),
    }
}

/// Up to which segment blocks hold the tenant's data. If the catalog cannot be read, everything is taken: samples that are in
/// a block too are the same, and queries merge them.
fn covered(blocks: &BlockStore, tenant: &TenantId, writer_id: &str, runtime: &tokio::runtime::Handle) -> u64 {
    let read = async {
        let catalog = blocks.catalog(tenant).await?;
        Ok::<_, isobar_block::Error>(catalog.blocks().wal_segment_end(writer_id))
    };
    match runtime.block_on(tokio::time::timeout(CATALOG_TIMEOUT, read)) {
        Ok(Ok(covered)) => covered,
        Ok(Err(error)) => {
            tracing::warn!(%tenant, %error, "the catalog cannot be read; the whole log is taken");
            0
        }
        Err(_) => {
            tracing::warn!(%tenant, "the object store does not answer; the whole log is taken");
            0
        }
    }
}

fn report(numbers: ReplayNumbers, found: &crate::wal::replay::Found, elapsed: Duration, metrics: &Metrics) {
    metrics.replay_seconds.set(elapsed.as_secs_f64());
    metrics.replayed_samples.inc_by(numbers.samples);
    metrics.replay_damage.inc_by(found.skipped.len() as u64);
    metrics.wal.bytes.set(found.total_bytes as i64);
    if numbers.orphans > 0 {
        tracing::error!(records = numbers.orphans, "records of the log belong to series whose names were damaged; they are lost");
    }
    if numbers.conflicts > 0 {
        tracing::warn!(
            samples = numbers.conflicts,
            "samples of the log have the timestamp of others with another value; the first ones stay"
        );
    }
    if found.next_segment > 1 {
        tracing::info!(
            samples = numbers.samples,
            repeats = numbers.repeats,
            log_bytes = found.total_bytes,
            seconds = elapsed.as_secs_f64(),
            "the write-ahead log was read"
        );
    }
}
