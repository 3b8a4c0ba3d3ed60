//! Measures the engine on series in memory: `cargo run --release -p isobar -p isobar-query --example engine_bench [series]
//! [samples] [--cancel]`; with `--cancel` only the last part.
//!
//! Prints the fastest and the median of several runs of each query, and how long a dropped query goes on.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use isobar_block::{
    Exemplar, Labels, LabelsRef, Matcher, Metadata, SampleBuf, Selected, SeriesRun, SeriesSet, Source, TimeRange, Timestamps, Want,
};
use isobar_query::engine::{Engine, EngineConfig, Request, SourceResolution};
use isobar_query::result::{Grid, Value};

const SCRAPE_INTERVAL_MS: i64 = 15_000;
const START_MS: i64 = 1_700_000_000_000;
const SERIES_PER_TARGET: usize = 50;
const RUNS: usize = 9;
/// Moments of a run at which a query is dropped.
const CANCELLATION_POINTS: u32 = 32;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Counters of 50 jobs with 40 instances each, all scraped at the same moments.
struct Counters {
    labels: Vec<Labels>,
    timestamps: Vec<Timestamps>,
    values: Vec<f64>,
    samples: usize,
    reads: AtomicU64,
}

impl Counters {
    fn new(series: usize, samples: usize) -> Self {
        let mut labels: Vec<Labels> = (0..series)
            .map(|i| {
                let (job, instance) = (i % 50, i / 50 % 40);
                Labels::from_pairs([
                    ("__name__", "requests_total".to_owned()),
                    ("instance", format!("10.0.{job}.{instance}:9100")),
                    ("job", format!("service-{job:02}")),
                    ("pod", format!("pod-{i:06}")),
                ])
                .expect("valid labels")
            })
            .collect();
        labels.sort();
        let times: Vec<i64> = (0..samples as i64).map(|i| START_MS + i * SCRAPE_INTERVAL_MS).collect();
        let timestamps = (0..series.div_ceil(SERIES_PER_TARGET)).map(|_| Timestamps::shared(times.clone())).collect();
        let mut values = Vec::with_capacity(series * samples);
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        for _ in 0..series {
            let mut v = 0.0;
            for _ in 0..samples {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                v = if state.is_multiple_of(5000) { 0.0 } else { v + (state % 1000) as f64 };
                values.push(v);
            }
        }
        Self { labels, timestamps, values, samples, reads: AtomicU64::new(0) }
    }
}

struct CounterSet(Arc<Counters>);

struct CounterRun(Arc<Counters>);

struct CounterSource(Arc<Counters>);

#[async_trait]
impl SeriesSet for CounterSet {
    fn len(&self) -> usize {
        self.0.labels.len()
    }

    fn labels(&self, row: usize) -> LabelsRef<'_> {
        self.0.labels[row].as_ref()
    }

    async fn load(&self, _: Range<usize>, _: TimeRange) -> isobar_block::Result<Box<dyn SeriesRun>> {
        Ok(Box::new(CounterRun(Arc::clone(&self.0))))
    }
}

impl SeriesRun for CounterRun {
    fn read(&mut self, row: usize, out: &mut SampleBuf) -> isobar_block::Result<()> {
        out.clear();
        out.timestamps = self.0.timestamps[row / SERIES_PER_TARGET].clone();
        out.values.extend_from_slice(&self.0.values[row * self.0.samples..][..self.0.samples]);
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[async_trait]
impl Source for CounterSource {
    async fn select(&self, _: &[Matcher], _: TimeRange, _: Want) -> isobar_block::Result<Selected> {
        Ok(Selected::complete(vec![Arc::new(CounterSet(Arc::clone(&self.0)))]))
    }

    async fn label_names(&self, _: &[Matcher], _: TimeRange) -> isobar_block::Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn label_values(&self, _: &str, _: &[Matcher], _: TimeRange) -> isobar_block::Result<Vec<String>> {
        Ok(Vec::new())
    }

    async fn exemplars(&self, _: &[Matcher], _: TimeRange) -> isobar_block::Result<Vec<(Labels, Vec<Exemplar>)>> {
        Ok(Vec::new())
    }

    async fn metadata(&self, _: Option<&str>) -> isobar_block::Result<Vec<(String, Vec<Metadata>)>> {
        Ok(Vec::new())
    }
}

fn request(query: &str, samples: usize, steps: usize) -> Request {
    let end_ms = START_MS + (samples as i64 - 1) * SCRAPE_INTERVAL_MS;
    let grid = if steps == 1 {
        Grid::instant(end_ms)
    } else {
        let step_ms = (samples as i64 - 21) * SCRAPE_INTERVAL_MS / (steps as i64 - 1);
        Grid { start_ms: end_ms - step_ms * (steps as i64 - 1), step_ms, len: steps }
    };
    Request {
        query: query.into(),
        grid,
        instant: steps == 1,
        lookback: None,
        timeout: Duration::from_secs(60),
        max_source_resolution: SourceResolution::default(),
        limit: 0,
    }
}

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1).filter(|a| a != "--cancel");
    let series: usize = args.next().map_or(100_000, |a| a.parse().expect("a number of series"));
    let samples: usize = args.next().map_or(240, |a| a.parse().expect("a number of samples"));
    let counters = Arc::new(Counters::new(series, samples));
    let source: Arc<dyn Source> = Arc::new(CounterSource(Arc::clone(&counters)));
    let engine = Engine::new(EngineConfig { query_memory_bytes: 8 << 30, total_memory_bytes: 16 << 30, ..EngineConfig::default() })
        .expect("valid configuration");
    let threads = engine.config().threads;
    println!("{series} series, {samples} samples each, {threads} threads");
    println!(
        "{}",
        engine.explain(Arc::clone(&source), request("sum by (job) (rate(requests_total[5m]))", samples, 61), true).await.expect("explains")
    );
    let queries = [
        "sum by (job) (rate(requests_total[5m]))",
        "sum(rate(requests_total[5m]))",
        "sum by (instance) (rate(requests_total[5m]))",
        "max by (job) (requests_total)",
        "topk(10, rate(requests_total[5m]))",
        "count(rate(requests_total[5m]) > 1)",
        "rate(requests_total[5m])",
    ];
    let queries = if std::env::args().any(|a| a == "--cancel") { &queries[..0] } else { &queries[..] };
    for query in queries {
        for steps in [1, 61, 240] {
            let mut times = Vec::new();
            let mut rows = 0;
            for _ in 0..RUNS {
                let began = Instant::now();
                let answer = engine.query(Arc::clone(&source), request(query, samples, steps)).await.expect("answers");
                times.push(began.elapsed());
                rows = if let Value::Rows(r) = answer.value { r.labels.len() } else { 0 };
            }
            times.sort();
            println!("{query:<48} N={steps:<4} min {:>8.2?}  median {:>8.2?}  rows {rows}", times[0], times[RUNS / 2]);
        }
    }
    for query in [
        "sum by (job) (rate(requests_total[5m]))",
        "sum by (pod) (rate(requests_total[5m]))",
        "max by (instance, job) (requests_total)",
        "sum by (pod) (requests_total) / sum by (pod) (requests_total)",
        "topk(5000, requests_total)",
        "quantile by (pod) (0.5, requests_total)",
        "requests_total",
    ] {
        print_overruns(&engine, &source, query, samples).await;
    }
}

/// Threads of the engine that are running or waiting for a processor.
fn busy_threads(threads: &[PathBuf]) -> usize {
    let state = |path: &PathBuf| {
        let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
        stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next())
    };
    threads.iter().filter(|path| matches!(state(path), Some('R' | 'D'))).count()
}

fn engine_threads() -> Vec<PathBuf> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let tasks = tasks.filter_map(|task| Some(task.ok()?.path()));
    tasks.filter(|path| std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("isobar-query"))).collect()
}

/// Drops a query at moments spread over its run, and prints how long the engine's threads go on.
async fn print_overruns(engine: &Engine, source: &Arc<dyn Source>, query: &str, samples: usize) {
    const WATCHED: Duration = Duration::from_millis(150);
    let ask = || engine.query(Arc::clone(source), request(query, samples, 240));
    drop(ask().await.expect("answers"));
    let began = Instant::now();
    drop(ask().await.expect("answers"));
    let whole = began.elapsed();
    let threads = engine_threads();
    let mut overruns = Vec::new();
    for point in 1..CANCELLATION_POINTS {
        let after = whole * point / CANCELLATION_POINTS;
        if let Ok(answer) = tokio::time::timeout(after, ask()).await {
            drop(answer.expect("answers"));
            continue;
        }
        let dropped = Instant::now();
        let mut last_busy = Duration::ZERO;
        while dropped.elapsed() < WATCHED {
            if busy_threads(&threads) > 0 {
                last_busy = dropped.elapsed();
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        overruns.push((last_busy, point * 100 / CANCELLATION_POINTS));
    }
    overruns.sort();
    let at = |share: usize| overruns[(overruns.len() - 1) * share / 100].0;
    let (worst, place) = overruns[overruns.len() - 1];
    println!(
        "{query:<64} {whole:>8.1?} whole; dropped at {} points, threads busy for {:.1?} (median) {:.1?} (90 %) {worst:.1?} (worst, after {place} %)",
        overruns.len(),
        at(50),
        at(90),
    );
}
