//! The start after a stop or a crash: heads come back from the write-ahead log, without what blocks hold already.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use isobar_block::store::BlockStore;
use isobar_block::{Exemplar, TenantId, time};

use crate::config::IngestConfig;
use crate::error::Result;
use crate::head::Head;
use crate::head::pending::ReplayNumbers;
use crate::head::replay::{HeadReplay, Names};
use crate::head::resolve::Definition;
use crate::ingester::epoch_of;
use crate::observe::Metrics;
use crate::wal::mapped::Segments;
use crate::wal::record::{self, Frame, Kind, Malformed};
use crate::wal::replay::{Found, OnDamage, replay};
use crate::wal::segment::Header;

/// Samples of all tenants that are gathered before they are put into the heads; the last of them, fewer than this, are put in
/// after the start, which takes one core a tenth of a second. Few in tests, so that they see both.
const GATHERED_SAMPLES: usize = if cfg!(test) { 64 } else { 4 << 20 };
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
    /// What is left to do.
    pub rest: Rest,
}

/// What is left to do when the store is ready already. Requests that need it do it too.
pub struct Rest {
    heads: Vec<Arc<Head>>,
    numbers: ReplayNumbers,
    found: Found,
    start: Instant,
}

impl Rest {
    /// Puts the last samples into the heads and reports about the whole replay. Blocks.
    pub fn complete(mut self, metrics: &Metrics) {
        for head in &self.heads {
            self.numbers.add(head.complete());
        }
        report(self.numbers, &self.found, self.start.elapsed(), metrics);
    }
}

/// One tenant while the log is read.
struct Tenant {
    replay: HeadReplay,
    /// Segments before this one are in blocks.
    covered: u64,
}

/// What the thread that makes series is told.
enum Told<'a> {
    Series(Arc<Names>, Vec<Definition<'a>>),
    Exemplars(Arc<Names>, Vec<(u32, Exemplar)>),
    /// To answer when everything before is done.
    Wait(SyncSender<()>),
}

/// Makes series and keeps exemplars until nobody tells anything any more; returns how many exemplars have an unknown series.
fn make_series(told: &Receiver<Told<'_>>, max_exemplars: usize) -> u64 {
    let mut orphans = 0;
    for what in told {
        match what {
            Told::Series(names, definitions) => names.series(&definitions),
            Told::Exemplars(names, exemplars) => orphans += names.exemplars(&exemplars, max_exemplars),
            // Who waits has an end of the channel.
            Told::Wait(done) => drop(done.send(())),
        }
    }
    orphans
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
    let segments = Arc::new(Segments::open(&config.wal_dir)?);
    let epoch = epoch_of(segments.all().last().map_or(0, |s| s.header.number));
    let on_damage = if config.wal_skip_damaged { OnDamage::Skip } else { OnDamage::Fail };
    let (tell, told) = channel();
    let (read, found, orphans) = std::thread::scope(|scope| {
        let maker = scope.spawn(move || make_series(&told, config.exemplars_per_tenant));
        let find_covered = |tenant: &TenantId| covered(blocks, tenant, writer_id, runtime);
        let mut log =
            LogRead { config, segments: &segments, epoch, tenants: HashMap::new(), log_epoch: 0, gathered: 0, tell, find_covered };
        let tell_progress = |min, max, current| progress.set(min, max, current);
        let found = replay(&segments, on_damage, tell_progress, |segment, frame| log.take(segment, frame));
        let LogRead { tenants, tell, .. } = log;
        drop(tell);
        let orphans = maker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (tenants, found, orphans)
    });
    let found = found?;
    metrics.replay_damage.inc_by(found.skipped.len() as u64);
    metrics.wal.bytes.set(found.total_bytes as i64);
    let mut numbers = ReplayNumbers { orphans, ..ReplayNumbers::default() };
    let mut heads = HashMap::new();
    for (name, tenant) in read {
        let head = Arc::clone(&tenant.replay.names().head);
        numbers.add(tenant.replay.finish());
        if !head.is_empty() {
            heads.insert(TenantId::new(&name)?, head);
        }
    }
    let (next, wal_bytes) = (found.next_header(), found.total_bytes);
    let rest = Rest { heads: heads.values().cloned().collect(), numbers, found, start };
    Ok(Recovered { heads, next, wal_bytes, rest })
}

/// The log while it is read.
struct LogRead<'a, F> {
    config: &'a IngestConfig,
    segments: &'a Arc<Segments>,
    epoch: u32,
    tenants: HashMap<String, Tenant>,
    log_epoch: u64,
    /// Of all tenants.
    gathered: usize,
    tell: Sender<Told<'a>>,
    find_covered: F,
}

impl<'a, F: Fn(&TenantId) -> u64> LogRead<'a, F> {
    /// Takes a record of the segment at a place. The error says what does not hold.
    fn take(&mut self, at: usize, frame: Frame<'a>) -> Result<(), String> {
        let segment = &self.segments.all()[at];
        if segment.header.epoch != self.log_epoch {
            self.log_epoch = segment.header.epoch;
            self.put_in();
            self.tenants.values_mut().for_each(|t| t.replay.next_epoch());
        }
        let (name, entries) = record::read_tenant(frame.payload).map_err(|Malformed(reason)| reason.to_owned())?;
        if !self.tenants.contains_key(name) {
            let tenant = TenantId::new(name).map_err(|e| e.to_string())?;
            let covered = (self.find_covered)(&tenant);
            let names = Arc::new(Names::new(Arc::default(), self.epoch));
            let replay = HeadReplay::new(names, Arc::clone(self.segments), time::now_ms());
            self.tenants.insert(name.to_owned(), Tenant { replay, covered });
        }
        let tenant = self.tenants.get_mut(name).expect("it was put in above");
        if segment.header.number < tenant.covered {
            return Ok(());
        }
        let before = tenant.replay.gathered();
        let offset = entries.as_ptr().addr() - segment.bytes().as_ptr().addr();
        let taken = take_entries(&mut tenant.replay, (at, offset), frame.kind, entries, self.config, &self.tell);
        self.gathered += tenant.replay.gathered() - before;
        if self.gathered >= GATHERED_SAMPLES {
            self.put_in();
        }
        taken.map_err(|Malformed(reason)| reason.to_owned())
    }

    /// Puts in what was gathered, with the series that were told of until now.
    fn put_in(&mut self) {
        let (done, wait) = sync_channel(1);
        // Neither fails while the maker of series runs; if it has panicked, that is what the start ends with.
        if self.tell.send(Told::Wait(done)).is_ok() && wait.recv().is_ok() {
            self.tenants.values_mut().for_each(|t| t.replay.put_in());
        }
        self.gathered = 0;
    }
}

fn take_entries<'a>(
    replay: &mut HeadReplay,
    (segment, offset): (usize, usize),
    kind: Kind,
    entries: &'a [u8],
    config: &IngestConfig,
    tell: &Sender<Told<'a>>,
) -> Result<(), Malformed> {
    // A maker of series that has panicked takes nothing; its panic is what the start ends with.
    match kind {
        Kind::Batch => Ok(()),
        Kind::Series => {
            let mut definitions = Vec::new();
            let read = record::read_series(entries, |number, labels| definitions.push(Definition::new(number, labels)));
            let _ = tell.send(Told::Series(Arc::clone(replay.names()), definitions));
            read
        }
        Kind::Samples => replay.samples(segment, offset, entries),
        Kind::Histograms => record::read_histograms(entries, |number, t, histogram| replay.histogram(number, t, histogram)),
        Kind::Exemplars => {
            let mut exemplars = Vec::new();
            let read = record::read_exemplars(entries, |number, exemplar| exemplars.push((number, exemplar)));
            let _ = tell.send(Told::Exemplars(Arc::clone(replay.names()), exemplars));
            read
        }
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

fn report(numbers: ReplayNumbers, found: &Found, elapsed: Duration, metrics: &Metrics) {
    metrics.replay_seconds.set(elapsed.as_secs_f64());
    metrics.replayed_samples.inc_by(numbers.samples);
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
