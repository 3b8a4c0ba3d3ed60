//! Measures the inner half of ingestion without HTTP and decoding: CPU per sample, memory, the time of a cut and of a replay.
//!
//! `cargo run --release -p isobar-ingest --example head_bench -- [series] [samples per series] [writers]`

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use isobar_block::store::{BlockStore, BlockStoreConfig};
use isobar_block::{Matcher, SampleBuf, TenantId, TimeRange};
use isobar_ingest::decoded::{DecodedRequest, DecodedSeries, LabelForm, Sample, WriteSink};
use isobar_ingest::limits::LiveLimits;
use isobar_ingest::{IngestConfig, Ingester, ReplayProgress};

/// The allocator of the real program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PER_REQUEST: usize = 2000;
const TARGET_SERIES: usize = 1000;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |at: usize, default: usize| args.get(at).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (series, samples, writers) = (number(1, 100_000), number(2, 480), number(3, 4));
    if let (Some(phase), Some(dir)) = (args.get(4), args.get(5)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(run(phase, Path::new(dir), series, samples, writers));
        return;
    }
    let dir = tempfile::tempdir_in(std::env::var("BENCH_DIR").unwrap_or_else(|_| "/tmp".into())).expect("a directory");
    // Each phase is a process of its own, so that its memory is its own.
    for phase in ["write", "replay", "write-and-cut", "tail", "replay"] {
        let program = std::env::current_exe().expect("a program");
        let arguments = [series, samples, writers].map(|n| n.to_string());
        let status = std::process::Command::new(program).args(arguments).arg(phase).arg(dir.path()).status().expect("runs");
        assert!(status.success(), "{phase} failed");
        if phase == "replay" {
            std::fs::remove_dir_all(dir.path().join("wal")).expect("removes the log");
        }
    }
}

async fn run(phase: &str, dir: &Path, series: usize, samples: usize, writers: usize) {
    let (wall, start) = (Instant::now(), cpu_seconds());
    let ingester = open(dir).await;
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_seconds() - start);
    if phase == "replay" {
        let samples = ingester.status(0);
        println!(
            "replay: {:.0} ms wall, {:.0} ms CPU, {} series; VmHWM {} MiB",
            wall * 1e3,
            cpu * 1e3,
            samples.series,
            status_mib("VmHWM")
        );
        query(&ingester).await;
        return;
    }
    let fleet = Arc::new(Fleet::new(series));
    println!("before the first write: VmRSS {} MiB", status_mib("VmRSS"));
    let scrapes = if phase == "tail" { samples..samples + (2_000_000 / series).clamp(1, 1000) } else { 0..samples };
    let total = (series * scrapes.len()) as f64;
    let start = cpu_seconds();
    for scrape in scrapes.clone() {
        for batch in 0..fleet.batches() {
            fleet.request(batch, scrape).recycle();
        }
    }
    let making = cpu_seconds() - start;
    let (wall, start) = (Instant::now(), cpu_seconds());
    write(&ingester, &fleet, scrapes, writers).await;
    let cpu = cpu_seconds() - start - making;
    println!("heads: {} MiB by own estimate, VmRSS {} MiB", ingester.status(0).head_bytes >> 20, status_mib("VmRSS"));
    println!(
        "{phase}: {:.0} ns/sample CPU (and {:.0} to make the requests), wall {:.2} s = {:.2} M samples/s; VmHWM {} MiB, log {:.2} B/sample",
        cpu / total * 1e9,
        making / total * 1e9,
        wall.elapsed().as_secs_f64(),
        total / wall.elapsed().as_secs_f64() / 1e6,
        status_mib("VmHWM"),
        dir_bytes(&dir.join("wal")) as f64 / total
    );
    if phase == "write-and-cut" {
        query(&ingester).await;
        query(&ingester).await;
        let (wall, start) = (Instant::now(), cpu_seconds());
        let report = ingester.flush().await.expect("a cut");
        println!(
            "cut: {:.2} s wall, {:.2} s CPU, {} blocks, {:.3} B/sample; VmHWM {} MiB, VmRSS {} MiB",
            wall.elapsed().as_secs_f64(),
            cpu_seconds() - start,
            report.blocks,
            report.bytes as f64 / total,
            status_mib("VmHWM"),
            status_mib("VmRSS")
        );
    }
}

async fn open(dir: &Path) -> Arc<Ingester> {
    let objects = isobar_block::local::DurableLocal::new(dir.join("objects")).expect("a store");
    let blocks = BlockStore::new(Arc::new(objects), BlockStoreConfig::default());
    let config = IngestConfig { wal_dir: dir.join("wal"), ..IngestConfig::default() };
    let mut registry = prometheus_client::registry::Registry::default();
    Ingester::open(config, LiveLimits::default(), blocks, &mut registry, Arc::new(ReplayProgress::default())).await.expect("opens")
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
    let sets = ingester
        .source(&TenantId::default())
        .select(&[] as &[Matcher], TimeRange::ALL, isobar_block::Want::default())
        .await
        .expect("selects")
        .sets;
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

fn dir_bytes(dir: &Path) -> u64 {
    std::fs::read_dir(dir).map(|d| d.flatten().filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum()).unwrap_or(0)
}
