//! Time of the kernels for each output value: `cargo run --release -p isobar-query --example kernel_bench`.
//!
//! "shared" is with a window plan that exists already, as for all but the first series of a scrape target; "unshared" makes
//! it anew for each series.

use std::hint::black_box;
use std::time::Instant;

use isobar_query::kernel::{Params, RangeFn, Scratch, WindowPlan, WindowSpec, aggregate, instant, range};
use isobar_query::promql::ast::RangeMode;
use isobar_query::result::Grid;

const INTERVAL_MS: i64 = 15_000;
const SERIES: usize = 64;
/// Best of so many runs, since neighbours on the machine disturb.
const RUNS: usize = 40;

fn main() {
    println!("{:<24} {:>8} {:>6} {:>8} {:>10} {:>10}", "function", "samples", "steps", "window", "shared ns", "unshared ns");
    for samples in [240, 480] {
        let ts: Vec<i64> = (0..samples).map(|i| i * INTERVAL_MS + 137 + (i * 7919) % 11).collect();
        for steps in [61, 240, 1000] {
            for range_ms in [300_000, 1_800_000] {
                measure(&ts, steps, range_ms);
            }
        }
    }
    aggregates();
}

fn best(mut run: impl FnMut()) -> f64 {
    let once = |_| {
        let start = Instant::now();
        run();
        start.elapsed().as_nanos() as f64
    };
    (0..RUNS).map(once).fold(f64::INFINITY, f64::min)
}

fn measure(ts: &[i64], steps: usize, range_ms: i64) {
    let end_ms = ts[ts.len() - 1];
    let step_ms = end_ms / steps as i64;
    let spec = WindowSpec {
        grid: Grid { start_ms: end_ms - step_ms * (steps as i64 - 1), step_ms, len: steps },
        range_ms,
        lookback_ms: 300_000,
        mode: RangeMode::Plain,
    };
    let all: Vec<Vec<f64>> = (0..SERIES).map(|s| counter(ts.len(), s)).collect();
    let params = Params { first: &[], second: &[], eval: spec.grid };
    let (mut scratch, mut out) = (Scratch::default(), vec![0.0; steps]);
    let outputs = (steps * SERIES) as f64;
    for f in [RangeFn::Rate, RangeFn::SumOverTime, RangeFn::AvgOverTime, RangeFn::MaxOverTime, RangeFn::CountOverTime] {
        let plan = WindowPlan::new(ts, &spec);
        let shared = best(|| {
            for values in &all {
                range(f, &params, ts, values, &plan, &mut scratch, &mut out);
                black_box(&mut out);
            }
        });
        let unshared = best(|| {
            for values in &all {
                range(f, &params, ts, values, &WindowPlan::new(ts, &spec), &mut scratch, &mut out);
                black_box(&mut out);
            }
        });
        report(&format!("{f:?}"), ts.len(), steps, range_ms, shared / outputs, unshared / outputs);
    }
    let plan = WindowPlan::new(ts, &spec);
    let shared = best(|| {
        for values in &all {
            instant::instant_with(plan.windows(), values, &mut out);
            black_box(&mut out);
        }
    });
    let unshared = best(|| {
        for values in &all {
            instant::instant(ts, values, &spec.grid, range_ms, &mut out);
            black_box(&mut out);
        }
    });
    report("Instant", ts.len(), steps, range_ms, shared / outputs, unshared / outputs);
}

fn report(name: &str, samples: usize, steps: usize, range_ms: i64, shared: f64, unshared: f64) {
    println!("{name:<24} {samples:>8} {steps:>6} {:>7}s {shared:>10.2} {unshared:>10.2}", range_ms / 1000);
}

/// A counter with a reset in every 16th series.
fn counter(len: usize, series: usize) -> Vec<f64> {
    let mut value = 1000.0 + series as f64;
    let mut random = series as u64 + 1;
    let mut next = |i| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        value = if series.is_multiple_of(16) && i == len / 2 { 0.0 } else { value + (random >> 56) as f64 * 0.25 };
        value
    };
    (0..len).map(&mut next).collect()
}

fn aggregates() {
    const STEPS: usize = 240;
    let rows: Vec<Vec<f64>> = (0..SERIES).map(|s| counter(STEPS, s)).collect();
    let outputs = (STEPS * SERIES) as f64;
    let (mut a, mut b, mut c) = (vec![0.0; STEPS], vec![0.0; STEPS], vec![0.0; STEPS]);
    type Update<'a> = &'a dyn Fn(&mut [f64], &mut [f64], &mut [f64], &[f64]);
    let mut time = |name: &str, update: Update<'_>| {
        let time = best(|| rows.iter().for_each(|row| update(&mut a, &mut b, &mut c, row)));
        println!("{name:<24} {:>8} {STEPS:>6} {:>8} {:>10.2}", "", "", time / outputs);
    };
    time("sum", &|a, b, _, row| aggregate::sum_update(a, b, row));
    time("avg", &|a, b, c, row| aggregate::avg_update(a, b, c, row));
    time("max", &|a, _, _, row| aggregate::max_update(a, row));
    time("count", &|a, _, _, row| aggregate::count_update(a, row));
    time("stddev", &|a, b, c, row| aggregate::variance_update(a, b, c, row));
}
