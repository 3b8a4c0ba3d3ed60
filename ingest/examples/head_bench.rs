//! Measures the inner half of ingestion without HTTP and decoding: CPU per sample, memory, the time of a cut and of a replay.
//!
//! `cargo run --release -p isobar-ingest --example head_bench -- [series] [samples per series] [writers] [write only]`

use std::sync::Arc;
use std::time::Instant;

use isobar_block::store::{BlockStore, BlockStoreConfig};
use isobar_block::{Matcher, SampleBuf, TenantId, TimeRange};
use isobar_ingest::decoded::{DecodedRequest, DecodedSeries, LabelForm, Sample, WriteSink};
use isobar_ingest::limits::LiveLimits;
use isobar_ingest::{IngestConfig, Ingester, ReplayProgress};

const PER_REQUEST: usize = 2000;
const TARGET_SERIES: usize = 1000;

fn main() {
    let args: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let (series, samples, writers) =
        (args.first().copied().unwrap_or(100_000), args.get(1).copied().unwrap_or(480), args.get(2).copied().unwrap_or(4));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(run(series, samples, writers));
}

async fn run(series: usize, samples: usize, writers: usize) {
    let dir = tempfile::tempdir_in(std::env::var("BENCH_DIR").unwrap_or_else(|_| "/tmp".into())).expect("a directory");
    let fleet = Arc::new(Fleet::new(series));
    let total = (series * samples) as f64;
    let start = cpu_seconds();
    for scrape in 0..samples {
        for batch in 0..fleet.batches() {
            fleet.request(batch, scrape).recycle();
        }
    }
    let making = cpu_seconds() - start;
    println!("making requests: {:.0} ns/sample", making / total * 1e9);

    let ingester = open(&dir).await;
    let (wall, start) = (Instant::now(), cpu_seconds());
    write(&ingester, &fleet, 0..samples, writers).await;
    let cpu = cpu_seconds() - start - making;
    println!(
        "write: {:.0} ns/sample CPU ({:.3} s per million), wall {:.2} s = {:.2} M samples/s; VmHWM {} MiB, log {:.2} B/sample",
        cpu / total * 1e9,
        cpu / total * 1e6,
        wall.elapsed().as_secs_f64(),
        total / wall.elapsed().as_secs_f64() / 1e6,
        status_mib("VmHWM"),
        dir_bytes(&dir.path().join("wal")) as f64 / total
    );
    if std::env::args().len() > 4 {
        return;
    }
    query(&ingester).await;
    query(&ingester).await;

    stop(ingester).await;
    let (wall, start) = (Instant::now(), cpu_seconds());
    let ingester = open(&dir).await;
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_seconds() - start);
    println!("replay: {wall:.2} s wall, {cpu:.2} s CPU = {:.1} M samples/s", total / wall / 1e6);

    let (wall, start) = (Instant::now(), cpu_seconds());
    let report = ingester.flush().await.expect("a cut");
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_seconds() - start);
    println!(
        "cut: {wall:.2} s wall, {cpu:.2} s CPU, {} blocks, {:.3} B/sample; VmHWM {} MiB, VmRSS {} MiB",
        report.blocks,
        report.bytes as f64 / total,
        status_mib("VmHWM"),
        status_mib("VmRSS")
    );

    let tail = (2_000_000 / series).clamp(1, 1000);
    write(&ingester, &fleet, samples..samples + tail, writers).await;
    stop(ingester).await;
    let (wall, start) = (Instant::now(), cpu_seconds());
    let ingester = open(&dir).await;
    println!(
        "replay of {:.1} M samples: {:.0} ms wall, {:.0} ms CPU",
        (tail * series) as f64 / 1e6,
        wall.elapsed().as_secs_f64() * 1e3,
        (cpu_seconds() - start) * 1e3
    );
    query(&ingester).await;
}

async fn open(dir: &tempfile::TempDir) -> Arc<Ingester> {
    let objects = isobar_block::local::DurableLocal::new(dir.path().join("objects")).expect("a store");
    let blocks = BlockStore::new(Arc::new(objects), BlockStoreConfig::default());
    let config = IngestConfig { wal_dir: dir.path().join("wal"), ..IngestConfig::default() };
    let mut registry = prometheus_client::registry::Registry::default();
    loop {
        match Ingester::open(config.clone(), LiveLimits::default(), blocks.clone(), &mut registry, Arc::new(ReplayProgress::default()))
            .await
        {
            Ok(ingester) => return ingester,
            Err(isobar_ingest::Error::Locked { .. }) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// As a crash would: nothing is cut.
async fn stop(ingester: Arc<Ingester>) {
    let weak = Arc::downgrade(&ingester);
    drop(ingester);
    while weak.strong_count() > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

async fn write(ingester: &Arc<Ingester>, fleet: &Arc<Fleet>, scrapes: std::ops::Range<usize>, writers: usize) {
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let (ingester, fleet, scrapes) = (Arc::clone(ingester), Arc::clone(fleet), scrapes.clone());
            tokio::spawn(async move {
                let tenant = TenantId::default();
                for scrape in scrapes {
                    for batch in (writer..fleet.batches()).step_by(writers) {
                        let outcome = ingester.write(&tenant, fleet.request(batch, scrape)).await.expect("written");
                        assert!(outcome.rejected.is_empty(), "{}", outcome.rejected);
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("ends");
    }
}

async fn query(ingester: &Arc<Ingester>) {
    let wall = Instant::now();
    let sets = ingester.source(&TenantId::default()).select(&[] as &[Matcher], TimeRange::ALL).await.expect("selects");
    let selected = wall.elapsed();
    let (mut series, mut samples) = (0, 0);
    for set in &sets {
        let mut run = set.load(0..set.len(), TimeRange::ALL).await.expect("loads");
        let mut out = SampleBuf::default();
        for row in 0..set.len() {
            run.read(row, &mut out).expect("reads");
            series += 1;
            samples += out.len();
        }
    }
    println!(
        "query of everything: select {:.1} ms, read {:.1} ms on one thread ({:.2} ns/sample, {series} series, {samples} samples)",
        selected.as_secs_f64() * 1e3,
        (wall.elapsed() - selected).as_secs_f64() * 1e3,
        (wall.elapsed() - selected).as_secs_f64() * 1e9 / samples as f64
    );
}

struct Fleet {
    labels: Vec<Vec<u8>>,
}

impl Fleet {
    fn new(series: usize) -> Self {
        let labels = (0..series)
            .map(|i| {
                let (target, metric) = (i / TARGET_SERIES, i % TARGET_SERIES);
                let mut wire = Vec::new();
                for (name, value) in [
                    ("__name__", format!("service_operation_{:03}_seconds_total", metric / 10)),
                    ("cluster", "eu-west-1-production".to_owned()),
                    ("code", format!("{}", 200 + metric % 5)),
                    ("container", "main".to_owned()),
                    ("handler", format!("/api/v1/resource/{}", metric % 10)),
                    ("instance", format!("10.0.{}.{}:9100", target / 250, target % 250)),
                    ("job", format!("service-{}", target % 10)),
                    ("method", ["GET", "POST"][metric % 2].to_owned()),
                    ("namespace", format!("team-{}", target % 7)),
                    ("pod", format!("service-{}-{:08x}", target % 10, target * 2_654_435_761)),
                ] {
                    let field = [&[0x0a, name.len() as u8], name.as_bytes(), &[0x12, value.len() as u8], value.as_bytes()].concat();
                    wire.extend_from_slice(&[0x0a, field.len() as u8]);
                    wire.extend_from_slice(&field);
                }
                wire
            })
            .collect();
        Self { labels }
    }

    fn batches(&self) -> usize {
        self.labels.len().div_ceil(PER_REQUEST)
    }

    fn request(&self, batch: usize, scrape: usize) -> DecodedRequest {
        let mut request = DecodedRequest::pooled();
        for i in batch * PER_REQUEST..((batch + 1) * PER_REQUEST).min(self.labels.len()) {
            let start = request.label_bytes.len() as u32;
            request.label_bytes.extend_from_slice(&self.labels[i]);
            let at = request.samples.len() as u32;
            let jitter = (i / TARGET_SERIES * 37 + scrape * 11) % 5;
            request.samples.push(Sample {
                timestamp_ms: 1_700_000_000_000 + (scrape * 15_000 + jitter + i / TARGET_SERIES) as i64,
                value: value(i, scrape),
            });
            request.series.push(DecodedSeries {
                labels: start..request.label_bytes.len() as u32,
                form: LabelForm::Wire,
                samples: at..at + 1,
                histograms: 0..0,
                exemplars: 0..0,
                metadata: None,
                created_ms: 0,
            });
        }
        request
    }
}

/// A third constant or rare, the rest counters, gauges and some full-precision floats.
fn value(i: usize, scrape: usize) -> f64 {
    let mut x = (i as u64) << 32 | scrape as u64;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let noise = ((x >> 40) % 1000) as f64;
    match i % 10 {
        0..=2 => (i % 100) as f64,
        3 => (i + scrape / 50) as f64,
        4 | 5 => (scrape * 1000 + i) as f64 * 3.0 + noise,
        6 => (scrape * 100) as f64 / 100.0 + noise / 100.0,
        7 => 40.0 + noise / 100.0,
        8 => (noise * 4096.0) + 1e9,
        _ => 1.0 / (noise + 1.5),
    }
}

fn cpu_seconds() -> f64 {
    // SAFETY: the struct is plain data, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

fn status_mib(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with(key)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn dir_bytes(dir: &std::path::Path) -> u64 {
    std::fs::read_dir(dir).map(|d| d.flatten().filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum()).unwrap_or(0)
}
