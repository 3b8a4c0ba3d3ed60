//! Measures what replicas cost a query: `cargo run --release -p isobar-block --example dedup_bench [series] [samples]`.
//!
//! Prints nanoseconds per sample that comes out for series with two replicas, and nanoseconds per row for telling which rows are
//! replicas of each other.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use isobar_block::dedup::Deduplicator;
use isobar_block::merge::{Join, merged};
use isobar_block::{Labels, LabelsRef, Result, SampleBuf, SeriesRun, SeriesSet, TimeRange, Timestamps};

const INTERVAL_MS: i64 = 15_000;
const START_MS: i64 = 1_700_006_400_000;
const SERIES_PER_TARGET: usize = 100;
const RUNS: usize = 7;

/// Label sets and nothing else.
struct LabelSets {
    labels: Vec<Labels>,
    replica_label: Option<&'static str>,
}

#[async_trait]
impl SeriesSet for LabelSets {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn labels(&self, row: usize) -> LabelsRef<'_> {
        self.labels[row].as_ref()
    }

    fn may_have_label(&self, name: &str) -> bool {
        self.replica_label == Some(name)
    }

    async fn load(&self, _: Range<usize>, _: TimeRange) -> Result<Box<dyn SeriesRun>> {
        unreachable!("only labels are measured")
    }
}

fn label_sets(series: usize, replica_label: Option<&'static str>) -> Arc<dyn SeriesSet> {
    let replicas = if replica_label.is_some() { 2 } else { 1 };
    let mut labels: Vec<Labels> = (0..series / replicas)
        .flat_map(|i| {
            (0..replicas).map(move |replica| {
                let pairs = [
                    ("__name__", "container_network_receive_bytes_total".to_owned()),
                    ("cluster", "eu-1".to_owned()),
                    ("instance", format!("10.0.{}.{}:9100", i / 250 % 40, i % 250)),
                    ("job", format!("service-{:02}", i % 50)),
                    ("pod", format!("pod-{i:07}")),
                    (replica_label.unwrap_or("none"), if replicas == 2 { format!("prometheus-{replica}") } else { String::new() }),
                ];
                Labels::from_pairs(pairs).expect("valid labels")
            })
        })
        .collect();
    labels.sort();
    Arc::new(LabelSets { labels, replica_label })
}

/// Scrapes at this phase, without every `gap_every`th run of six.
fn times(samples: usize, phase_ms: i64, gap_every: usize) -> Vec<i64> {
    let is_there = |slot: &usize| gap_every == 0 || slot / 6 % gap_every != gap_every - 1;
    (0..samples).filter(is_there).map(|slot| START_MS + slot as i64 * INTERVAL_MS + phase_ms).collect()
}

fn fill(buf: &mut SampleBuf, timestamps: &Timestamps, rate: f64) {
    buf.clear();
    buf.timestamps = timestamps.clone();
    buf.values.extend(timestamps.iter().map(|t| (t - START_MS) as f64 * rate));
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Time of `work` on two replicas, over all series of all targets; making the replicas is not counted.
fn measure(series: usize, shared: bool, replicas: [&[i64]; 2], mut work: impl FnMut(&mut [SampleBuf; 2], &mut SampleBuf)) -> (f64, usize) {
    let mut spent = Vec::new();
    let mut written = 0;
    for _ in 0..RUNS {
        let mut all = Duration::ZERO;
        let mut out = SampleBuf::default();
        let mut bufs = [SampleBuf::default(), SampleBuf::default()];
        let mut of_target = replicas.map(|t| Timestamps::shared(t.to_vec()));
        written = 0;
        for i in 0..series {
            if i % SERIES_PER_TARGET == 0 || !shared {
                of_target = replicas.map(|t| if shared { Timestamps::shared(t.to_vec()) } else { Timestamps::unshared(t.to_vec()) });
            }
            for (buf, timestamps) in bufs.iter_mut().zip(&of_target) {
                fill(buf, timestamps, 0.001 * i as f64);
            }
            let began = Instant::now();
            work(&mut bufs, &mut out);
            all += began.elapsed();
            written += out.len();
        }
        spent.push(all);
    }
    (median(spent).as_nanos() as f64 / written as f64, written / series)
}

fn main() {
    let mut args = std::env::args().skip(1).map(|a| a.parse().expect("a number"));
    let series: usize = args.next().unwrap_or(2000);
    let samples: usize = args.next().unwrap_or(5760);
    let (a, b) = (times(samples, 3_000, 0), times(samples, 9_000, 0));
    let (a_gaps, b_gaps) = (times(samples, 3_000, 17), times(samples, 9_000, 13));
    println!("{series} series of targets with {SERIES_PER_TARGET}, {samples} slots of 15 s");
    let cases: [(&str, bool, [&[i64]; 2]); 5] = [
        ("equal timestamps", true, [&a, &a]),
        ("two phases, no gaps", true, [&a, &b]),
        ("two phases, gaps", true, [&a_gaps, &b_gaps]),
        ("the same, timestamps of each series its own", false, [&a_gaps, &b_gaps]),
        ("equal, timestamps of each series its own", false, [&a, &a]),
    ];
    for (name, shared, replicas) in cases {
        let mut dedup = Deduplicator::default();
        let (nanos, kept) = measure(series, shared, replicas, |bufs, out| dedup.dedup("requests_total", bufs, false, out));
        println!("dedup, {name:<46} {nanos:>7.2} ns per sample, {kept} samples");
    }
    let (early, late) = a.split_at(a.len() / 2);
    let mut join = Join::default();
    let (nanos, _) = measure(series, true, [early, late], |bufs, out| {
        let [first, second] = bufs;
        join.join(first, second);
        std::mem::swap(first, out);
    });
    println!("join,  {:<46} {nanos:>7.2} ns per sample", "one after the other");
    for rows in [10_000, 100_000, 1_000_000] {
        for (name, label) in [("none", None), ("last", Some("prometheus_replica")), ("first", Some("__replica__"))] {
            let set = label_sets(rows, label);
            let replica_labels: Vec<String> = ["__replica__", "prometheus_replica"].map(str::to_owned).to_vec();
            let mut times = Vec::new();
            let mut groups = 0;
            for _ in 0..3 {
                let began = Instant::now();
                groups = merged(vec![Arc::clone(&set)], &replica_labels).len();
                times.push(began.elapsed());
            }
            let time = median(times);
            println!(
                "group, {rows:>7} rows, replica label {name:<5} {time:>10.2?} {:>6} ns per row, {groups} series",
                time.as_nanos() / rows as u128
            );
        }
    }
}
