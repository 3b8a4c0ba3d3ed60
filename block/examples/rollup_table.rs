//! Measures `rollup.parquet`: bytes per row, writing, and reading of each aggregate, for a fleet of series over many days.
//!
//! `rollup_table [DAYS [SERIES [DIRECTORY]]]`; the blocks stay in the directory if one is given, for a look with other tools.

use std::sync::Arc;
use std::time::Instant;

use isobar_block::cache::{CacheConfig, SharedCaches};
use isobar_block::local::DurableLocal;
use isobar_block::meta::ROLLUP_FILE;
use isobar_block::writer::{Bucket, RollupWriter, WriterConfig};
use isobar_block::{Aggregate, BlockReader, Labels, SampleBuf, Source, TenantId, TimeRange, Want};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
const SPAN_MS: i64 = 14 * DAY_MS;
const SCRAPE_MS: i64 = 15_000;
const TARGETS: usize = 20;

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: i64| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (days, series) = (number(0, 90), number(1, 1000) as usize);
    let store: Arc<dyn ObjectStore> = match args.get(2) {
        Some(directory) => Arc::new(DurableLocal::new(directory).expect("opens")),
        None => Arc::new(InMemory::new()),
    };
    for resolution_ms in [300_000, 3_600_000] {
        measure(&store, days, series, resolution_ms).await;
    }
}

async fn measure(store: &Arc<dyn ObjectStore>, days: i64, series: usize, resolution_ms: i64) {
    let (tenant, rng) = (TenantId::default(), &mut StdRng::seed_from_u64(1));
    let (mut metas, mut rows, mut bytes, mut files, mut seconds) = (Vec::new(), 0, 0, 0, 0.0);
    let names: Vec<Labels> = (0..series).map(labels).collect();
    let mut states = vec![1000.0; series];
    for start_ms in (0..days * DAY_MS).step_by(SPAN_MS as usize) {
        let config = WriterConfig { resolution_ms, window_ms: SPAN_MS, ..WriterConfig::new(start_ms) };
        let mut writer = RollupWriter::new(config, start_ms).expect("aligned");
        let end_ms = (start_ms + SPAN_MS).min(days * DAY_MS);
        let times: Vec<Vec<(i64, i64)>> = (0..TARGETS).map(|target| times(start_ms..end_ms, resolution_ms, target, rng)).collect();
        for (i, name) in names.iter().enumerate() {
            let buckets = buckets(i * 22 / series, &mut states[i], &times[i % TARGETS], start_ms, resolution_ms, rng);
            let begun = Instant::now();
            writer.push_series(name, None, &buckets, &SampleBuf::default()).expect("fits");
            seconds += begun.elapsed().as_secs_f64();
        }
        let begun = Instant::now();
        let meta = writer.finish(&**store, &tenant).await.expect("is written");
        seconds += begun.elapsed().as_secs_f64();
        rows += meta.samples;
        bytes += meta.file(ROLLUP_FILE).expect("has buckets").size_bytes;
        files += meta.size_bytes;
        metas.push(Arc::new(meta));
    }
    println!(
        "{:>4} m: {rows} rows in {} blocks, {:.2} B/row ({:.2} with all files), written in {seconds:.2} s",
        resolution_ms / 60_000,
        metas.len(),
        bytes as f64 / rows as f64,
        files as f64 / rows as f64,
    );
    for aggregate in [Aggregate::Last, Aggregate::Counter, Aggregate::Min, Aggregate::Average] {
        let caches = SharedCaches::new(&CacheConfig::default());
        for pass in ["cold", "warm"] {
            let begun = Instant::now();
            let (mut values, mut buf, mut ids) = (0, SampleBuf::default(), std::collections::BTreeSet::new());
            for meta in &metas {
                let reader = Arc::new(BlockReader::open_shared(store.clone(), &tenant, meta.clone(), &caches).await.expect("opens"));
                let want = Want { max_resolution_ms: resolution_ms, aggregate };
                for set in reader.select(&[], TimeRange::ALL, want).await.expect("selects").sets {
                    let mut run = set.load(0..set.len(), TimeRange::ALL).await.expect("loads");
                    for row in 0..set.len() {
                        run.read(row, &mut buf).expect("reads");
                        values += buf.len();
                        ids.insert(buf.timestamps.id());
                    }
                }
            }
            println!("  {aggregate:?} {pass}: {values} samples, {} vectors, {:.3} s", ids.len(), begun.elapsed().as_secs_f64());
        }
    }
}

fn labels(i: usize) -> Labels {
    let pairs =
        [("__name__", format!("metric_{:03}", i / 50)), ("instance", format!("host-{:02}:9100", i % 50)), ("job", "node".to_owned())];
    Labels::from_pairs(pairs).expect("valid")
}

/// First and last sample of each bucket, as a target with some jitter has them.
fn times(span: std::ops::Range<i64>, resolution_ms: i64, target: usize, rng: &mut StdRng) -> Vec<(i64, i64)> {
    let offset = target as i64 * SCRAPE_MS / TARGETS as i64 + 5;
    let mut jitter = || rng.random_range(-3..4);
    span.step_by(resolution_ms as usize)
        .map(|start| (start + offset + jitter(), start + resolution_ms - SCRAPE_MS + offset + jitter()))
        .collect()
}

/// Buckets of one kind of series: counters of several makes, gauges, constants.
fn buckets(kind: usize, state: &mut f64, times: &[(i64, i64)], start_ms: i64, resolution_ms: i64, rng: &mut StdRng) -> Vec<Bucket> {
    let count = (resolution_ms / SCRAPE_MS) as u32;
    let n = f64::from(count);
    let mut before: Option<f64> = None;
    let mut bucket = |i: usize, (first_ms, last_ms): (i64, i64)| {
        let first = before.map_or(*state, |b| b + step(kind, 1.0, rng));
        let last = first + step(kind, n - 1.0, rng);
        let (min, max) = if kind < 12 { (first, last) } else { (first.min(last) - 2.0, first.max(last) + 2.0) };
        let increase = last - before.unwrap_or(first);
        let sum = if kind < 12 { ((first + last) / 2.0 * n * 100.0).round() / 100.0 } else { (first + last) / 2.0 * n };
        let start_ms = start_ms + i as i64 * resolution_ms;
        before = Some(last);
        Bucket { start_ms, count, sum, min, max, first, first_ms, last, last_ms, increase: increase.max(0.0) }
    };
    let out = times.iter().enumerate().map(|(i, t)| bucket(i, *t)).collect();
    *state = before.unwrap_or(*state);
    out
}

fn step(kind: usize, n: f64, rng: &mut StdRng) -> f64 {
    match kind {
        0..4 => (rng.random_range(80.0..120.0) * n).round(),
        4 => (rng.random_range(80.0..120.0) * n).round() / 100.0,
        5 => rng.random_range(0.5..1.5) * n,
        6..12 => f64::from(rng.random_range(0..1000) < n as i32),
        12..18 => 0.0,
        18..21 => rng.random_range(-20.0..20.0_f64).round(),
        _ => rng.random_range(-1.0..1.0),
    }
}
