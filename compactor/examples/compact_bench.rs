//! Measures compaction: CPU time for a million samples by level, size of a sample, and peak memory, for data that doubles twice.
//!
//! `compact_bench [SERIES] [HOURS] [MEMORY_MIB] [REPLICAS]`; the series are counters, gauges and decimals as exporters have them, one sample in 15 s,
//! cut into a block each 30 minutes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use isobar_block::local::DurableLocal;
use isobar_block::{
    BlockStore, BlockStoreConfig, BlockWriter, CatalogState, Change, Labels, Metadata, MetricType, SampleBuf, TenantId, Timestamps,
    WriterConfig,
};
use isobar_compactor::Compactor;
use isobar_compactor::config::{CompactorConfig, LiveRules, Rules, TenantRules};
use object_store::ObjectStore;
use prometheus_client::registry::Registry;

/// That of the binary.
#[path = "../../ui/src/allocator.rs"]
mod allocator;

const HOUR_MS: i64 = 3_600_000;
/// A multiple of 14 days.
const START_MS: i64 = 1400 * 14 * 24 * HOUR_MS;
/// Lengths of the levels.
const LEVELS_HOURS: [u64; 4] = [2, 8, 48, 336];
const STEP_MS: i64 = 15_000;
const BLOCK_MS: i64 = HOUR_MS / 2;
/// Series of one scrape target.
const TARGET_SERIES: usize = 500;
const REPLICA_LABEL: &str = "prometheus_replica";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // The parts run in processes of their own, so that each has its own peak of memory.
    if let [step, dir, numbers @ ..] = &arguments[..]
        && (step == "cut" || step == "compact")
    {
        let numbers = numbers.iter().map(|n| n.parse()).collect::<Result<Vec<usize>, _>>()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        return match (step.as_str(), &numbers[..]) {
            ("cut", [series, hours, replicas]) => runtime.block_on(cut(dir, *series, *hours as i64, *replicas)),
            ("compact", [series, level, memory]) => runtime.block_on(compact(dir, *series, *level, (*memory as u64) << 20)),
            _ => Err("usage: compact_bench [SERIES] [HOURS] [MEMORY_MIB] [REPLICAS]".into()),
        };
    }
    let number = |place: usize, default: usize| arguments.get(place).map_or(Ok(default), |a| a.parse::<usize>());
    let (series, hours, memory, replicas) = (number(0, 10_000)?, number(1, 24)?, number(2, 512)?, number(3, 1)?);
    println!("{series} series, {hours} h, {replicas} replicas, --compactor-memory {memory} MiB");
    let heads = ["series", "level", "M samples", "MiB in", "MiB out", "blocks", "B/sample", "CPU s", "CPU s/M", "wall s", "peak MiB"];
    println!("{}", heads.map(|h| format!("{h:>10}")).concat());
    for part in [4, 2, 1] {
        let dir = tempfile::tempdir()?;
        let series = series / part;
        run("cut", dir.path(), [series, hours, replicas])?;
        for level in 1..=LEVELS_HOURS.len() {
            run("compact", dir.path(), [series, level, memory])?;
        }
    }
    Ok(())
}

fn run(step: &str, dir: &std::path::Path, numbers: [usize; 3]) -> Result<(), Box<dyn std::error::Error>> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    let status = command.arg(step).arg(dir).args(numbers.map(|n| n.to_string())).status()?;
    if status.success() { Ok(()) } else { Err(format!("{step} failed: {status}").into()) }
}

fn open(dir: &str) -> Result<BlockStore, Box<dyn std::error::Error>> {
    let objects: Arc<dyn ObjectStore> = Arc::new(DurableLocal::new(dir)?);
    Ok(BlockStore::new(objects, BlockStoreConfig { refresh_interval_ms: 0, ..BlockStoreConfig::default() }))
}

async fn cut(dir: &str, series: usize, hours: i64, replicas: usize) -> Result<(), Box<dyn std::error::Error>> {
    let (blocks, start) = (open(dir)?, Instant::now());
    for n in 0..hours * HOUR_MS / BLOCK_MS {
        write(&blocks, &TenantId::default(), series, replicas, START_MS + n * BLOCK_MS).await?;
    }
    let state = blocks.catalog(&TenantId::default()).await?.blocks();
    Row::new(series, 0, 0, &state, start).print();
    Ok(())
}

async fn compact(dir: &str, series: usize, level: usize, memory_bytes: u64) -> Result<(), Box<dyn std::error::Error>> {
    allocator::keep_freed(false);
    let (blocks, tenant, start) = (open(dir)?, TenantId::default(), Instant::now());
    let levels = LEVELS_HOURS[..level].iter().map(|h| Duration::from_secs(h * 3600)).collect();
    let config = CompactorConfig { levels, memory_bytes, downsampling: false, ..CompactorConfig::default() };
    let rules = TenantRules { replica_labels: vec![REPLICA_LABEL.into()], ..TenantRules::default() };
    let rules = LiveRules::new(Rules { default: rules, ..Rules::default() });
    let compactor = Compactor::new(config, rules, blocks.clone(), &mut Registry::default());
    let catalog = blocks.catalog(&tenant).await?;
    let size_in = catalog.blocks().blocks.iter().map(|b| b.size_bytes).sum();
    let report = compactor.run_to_end(Some(&tenant), Arc::new(|_| {})).await?;
    if let Some(failure) = report.failures.first() {
        return Err(format!("{}: {}", failure.job, failure.error).into());
    }
    Row::new(series, level, size_in, &catalog.blocks(), start).print();
    Ok(())
}

/// A line of the table.
struct Row {
    series: usize,
    level: usize,
    samples: u64,
    size_in: u64,
    size_out: u64,
    blocks: usize,
    cpu: f64,
    wall: Duration,
    peak: u64,
}

impl Row {
    fn new(series: usize, level: usize, size_in: u64, state: &CatalogState, start: Instant) -> Self {
        Self {
            series,
            level,
            samples: state.blocks.iter().map(|b| b.samples).sum(),
            size_in,
            size_out: state.blocks.iter().map(|b| b.size_bytes).sum(),
            blocks: state.blocks.len(),
            cpu: cpu_seconds(),
            wall: start.elapsed(),
            peak: peak_mib(),
        }
    }

    fn print(&self) {
        let (millions, mib) = (self.samples as f64 / 1e6, |n: u64| n as f64 / 1048576.0);
        println!(
            "{:>10}{:>10}{millions:>10.1}{:>10.1}{:>10.1}{:>10}{:>10.3}{:>10.2}{:>10.4}{:>10.2}{:>10}",
            self.series,
            self.level,
            mib(self.size_in),
            mib(self.size_out),
            self.blocks,
            self.size_out as f64 / self.samples as f64,
            self.cpu,
            self.cpu / millions,
            self.wall.as_secs_f64(),
            self.peak
        );
    }
}

/// One block of half an hour, as an ingester cuts it.
async fn write(
    blocks: &BlockStore,
    tenant: &TenantId,
    series: usize,
    replicas: usize,
    start_ms: i64,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut all: Vec<(Labels, usize, usize)> = Vec::new();
    for number in 0..series {
        for replica in 0..replicas {
            let (target, metric) = (number / TARGET_SERIES, number % TARGET_SERIES);
            let mut pairs = vec![
                ("__name__".to_owned(), format!("app_{}_{metric:03}", ["requests_total", "queue_length", "latency_seconds"][metric % 3])),
                ("instance".to_owned(), format!("10.0.{}.{}:9100", target / 250, target % 250)),
                ("job".to_owned(), "app".to_owned()),
                ("pod".to_owned(), format!("app-{target:04}")),
            ];
            if replicas > 1 {
                pairs.push((REPLICA_LABEL.to_owned(), format!("r{replica}")));
            }
            all.push((Labels::from_pairs(pairs)?, number, replica));
        }
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let targets = series.div_ceil(TARGET_SERIES);
    let times: Vec<Timestamps> = (0..targets * replicas).map(|n| timestamps(start_ms, n)).collect();
    let mut writer = BlockWriter::new(WriterConfig::new(start_ms + BLOCK_MS));
    for (labels, number, replica) in all {
        let timestamps = times[number / TARGET_SERIES * replicas + replica].clone();
        let values = timestamps.iter().map(|t| value(number, t / STEP_MS)).collect();
        let metric_type = if (number % TARGET_SERIES).is_multiple_of(3) { MetricType::Counter } else { MetricType::Gauge };
        let metadata = Metadata { metric_type, help: format!("Help of {}", labels.as_ref().metric_name()), unit: String::new() };
        writer.push_series(&labels, Some(&metadata), &SampleBuf { timestamps, values, ..SampleBuf::default() }, &[])?;
    }
    let meta = writer.finish(&**blocks.objects(), tenant).await?;
    blocks.catalog(tenant).await?.commit(Change { add: vec![meta], ..Change::default() }).await?;
    Ok(())
}

/// Scrapes with a jitter of some milliseconds, one of 200 missing.
fn timestamps(start_ms: i64, target: usize) -> Timestamps {
    let offset = (noise(target as u64) % STEP_MS as u64) as i64;
    let scrape = |n: i64| {
        let random = noise(target as u64 ^ ((start_ms / STEP_MS + n) as u64) << 20);
        (!random.is_multiple_of(200))
            .then(|| start_ms + n * STEP_MS + offset + if random.is_multiple_of(4) { (random >> 8) as i64 % 4 } else { 0 })
    };
    Timestamps::shared((0..BLOCK_MS / STEP_MS).filter_map(scrape).collect())
}

/// Counters that grow, gauges that move, and latencies with three digits after the point.
fn value(number: usize, scrape: i64) -> f64 {
    let random = noise(number as u64 * 0x1_0000_0001 + scrape as u64);
    let number = number as i64;
    match number % TARGET_SERIES as i64 % 3 {
        0 => (scrape % 100_000 * (number % 90 + 1) + (random % 30) as i64) as f64,
        1 => ((number % 50) + (random % 8) as i64) as f64,
        _ => ((number % 40) * 25 + (random % 100) as i64) as f64 / 1000.0,
    }
}

/// SplitMix64.
fn noise(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = |n: usize| after_name.split_whitespace().nth(n).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (field(11) + field(12)) / 100.0
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
