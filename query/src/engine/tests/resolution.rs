//! Queries over data that is kept in several resolutions.

use isobar_block::Aggregate;

use super::*;
use crate::engine::SourceResolution;

const FIVE_MINUTES_MS: i64 = 300_000;
const HOUR_MS: i64 = 3_600_000;

/// Two days of samples a minute apart: a counter that goes up by 60 a minute and is reset every 410 minutes, and a gauge that goes up
/// and down.
fn two_days() -> MemorySource {
    let mut source = MemorySource::default();
    minutely(&mut source, "work_total{job=\"a\"}", (0..2880).map(|t| Some(f64::from(t % 410) * 60.0)));
    minutely(&mut source, "gauge{job=\"a\"}", (0..2880).map(|t| Some(f64::from(t % 50))));
    source
}

fn ask_of(source: &Arc<MemorySource>, query: &str, grid: Grid, resolution: SourceResolution) -> Answer {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let request = Request { max_source_resolution: resolution, ..request(query, grid) };
    runtime.block_on(engine().query(Arc::clone(source) as Arc<dyn Source>, request)).unwrap_or_else(|e| panic!("{query}: {e}"))
}

fn values(answer: Answer) -> Vec<f64> {
    match answer.value {
        Value::Rows(rows) => rows.values,
        other => panic!("{other:?}"),
    }
}

/// Hourly, from hour 6 to hour 40.
fn hourly() -> Grid {
    Grid { start_ms: 6 * HOUR_MS, step_ms: HOUR_MS, len: 35 }
}

#[test]
fn selectors_say_what_is_good_enough() {
    use Aggregate::{Average, Counter, Last, Max, Min};
    let source = Arc::new(two_days());
    let step_ms = 2 * HOUR_MS;
    let grid = Grid { start_ms: 20 * HOUR_MS, step_ms, len: 5 };
    let by_step = step_ms / 5;
    for (query, max_resolution_ms, aggregate) in [
        ("gauge", by_step, Last),
        ("sum(gauge)", by_step, Last),
        ("min((gauge))", by_step, Min),
        ("max by (job) (gauge offset 1m)", by_step, Max),
        ("max(-gauge)", by_step, Last),
        ("min(abs(gauge))", by_step, Last),
        ("topk(1, gauge)", by_step, Last),
        ("sum(rate(work_total[10m]))", FIVE_MINUTES_MS, Counter),
        ("max(increase(work_total[1h]))", by_step, Counter),
        ("irate(work_total[1h])", by_step, Last),
        ("resets(work_total[1h])", by_step, Counter),
        ("histogram_quantile(0.5, rate(work_total[1h]))", by_step, Counter),
        ("min_over_time(gauge[1h])", by_step, Min),
        ("max_over_time(gauge[5m])", FIVE_MINUTES_MS / 2, Max),
        ("avg_over_time(gauge[1h])", by_step, Average),
        ("sum_over_time(gauge[1h])", by_step, Average),
        ("count_over_time(gauge[1h])", by_step, Average),
        ("present_over_time(gauge[1h])", by_step, Average),
        ("absent_over_time(gauge[1h])", by_step, Average),
        ("delta(gauge[1h])", by_step, Last),
        ("deriv(gauge[1h])", by_step, Last),
        ("quantile_over_time(0.5, gauge[1h])", by_step, Last),
        ("last_over_time(gauge[1h])", by_step, Last),
        ("max_over_time(gauge[1h:25m])", FIVE_MINUTES_MS, Last),
        ("max_over_time(rate(work_total[4m])[1h:25m])", 120_000, Counter),
    ] {
        ask_of(&source, query, grid, SourceResolution::Auto);
        let asked: Vec<Want> = source.take_asked().into_iter().map(|(_, want)| want).collect();
        assert_eq!(asked, [Want { max_resolution_ms, aggregate }], "{query}");
    }
    ask_of(&source, "gauge / gauge offset 0s + min(gauge)", grid, SourceResolution::AtMost(HOUR_MS));
    let mut asked: Vec<Want> = source.take_asked().into_iter().map(|(_, want)| want).collect();
    asked.sort_by_key(|want| want.aggregate as u8);
    let hour = |aggregate| Want { max_resolution_ms: HOUR_MS, aggregate };
    assert_eq!(asked, [hour(Last), hour(Min)], "equal selectors are resolved once");
    ask_of(&source, "gauge", Grid::instant(HOUR_MS), SourceResolution::Auto);
    let (range, want) = source.take_asked().remove(0);
    assert_eq!((range, want), (TimeRange::new(HOUR_MS - 299_999, HOUR_MS).expect("ascending"), Want::default()));
}

/// The answer from raw samples, from rollups and from both agree wherever buckets and steps do.
#[test]
fn rollups_answer_as_raw_samples_do() {
    let raw = Arc::new(two_days());
    let kept = |resolution_ms: i64, rollups_to_ms: i64, raw_from_ms: i64| {
        let mut source = two_days();
        source.keep(resolution_ms, 0, rollups_to_ms).keep(0, raw_from_ms, 48 * HOUR_MS);
        Arc::new(source)
    };
    let rollups = kept(FIVE_MINUTES_MS, 48 * HOUR_MS, 0);
    let mixed = kept(FIVE_MINUTES_MS, 20 * HOUR_MS - 1, 20 * HOUR_MS);
    // A window (t − 1 h, t] has all samples of twelve buckets if the steps are at ends of buckets.
    let grid = Grid { start_ms: 6 * HOUR_MS - MINUTE_MS, ..hourly() };
    for query in [
        "sum_over_time(gauge[1h])",
        "count_over_time(gauge[1h])",
        "avg_over_time(gauge[1h])",
        "min_over_time(gauge[1h])",
        "max_over_time(gauge[1h])",
        "last_over_time(gauge[1h])",
        "present_over_time(gauge[1h])",
        "resets(work_total[2h])",
        "gauge",
        "timestamp(gauge)",
        "sum(gauge) + 1",
        "sum_over_time(gauge[1h]) / count_over_time(gauge[1h])",
    ] {
        let expected = ask_of(&raw, query, grid, SourceResolution::Auto);
        assert_eq!(expected.warnings, [""; 0], "{query}");
        let expected = values(expected);
        for (source, levels) in [(&rollups, "5m"), (&mixed, "raw and 5m")] {
            let answer = ask_of(source, query, grid, SourceResolution::Auto);
            assert_eq!(answer.warnings, [format!("answered from {levels} downsampled data (max_source_resolution=auto)")], "{query}");
            for (found, expected) in values(answer).iter().zip(&expected) {
                assert!((found - expected).abs() <= 1e-12 * expected.abs(), "{query} from {levels}: {found} and {expected}");
            }
        }
    }
    for query in ["rate(work_total[1h])", "increase(work_total[2h])"] {
        let expected = values(ask_of(&raw, query, grid, SourceResolution::Auto));
        for source in [&rollups, &mixed] {
            for (found, expected) in values(ask_of(source, query, grid, SourceResolution::Auto)).iter().zip(&expected) {
                // The borders of the window are extrapolated over up to a bucket instead of up to a minute.
                assert!((found - expected).abs() <= 0.05 * expected, "{query}: {found} and {expected}");
            }
        }
    }
    let fine = ask_of(&rollups, "gauge", grid, SourceResolution::default());
    assert_eq!(fine.warnings, [""; 0], "raw samples are there and were asked for");
}

#[test]
fn looks_back_over_whole_buckets() {
    let mut source = two_days();
    source.keep(HOUR_MS, 0, 48 * HOUR_MS);
    let source = Arc::new(source);
    // The newest bucket that has ended did so 58 minutes ago.
    let at = Grid::instant(10 * HOUR_MS + 57 * MINUTE_MS);
    source.take_asked();
    for (resolution, times_asked) in [(SourceResolution::AtMost(HOUR_MS), 1), (SourceResolution::default(), 2)] {
        let answer = ask_of(&source, "timestamp(gauge{job=\"a\"})", at, resolution);
        let asked = source.take_asked();
        assert_eq!(asked.len(), times_asked);
        assert_eq!(asked.last().map(|(range, _)| range.start_ms()), Some(at.start_ms - 300_000 - HOUR_MS + 1));
        let Value::Rows(rows) = answer.value else { panic!("not rows") };
        assert_eq!(rows.values.len(), 1, "{resolution}");
    }
    let mut gone = MemorySource::default();
    minutely(&mut gone, "gauge", (0..60).map(|t| Some(f64::from(t))));
    gone.keep(HOUR_MS, 0, 48 * HOUR_MS);
    let gone = Arc::new(gone);
    let rows_at = |minute: i64| values(ask_of(&gone, "gauge", Grid::instant(minute * MINUTE_MS), SourceResolution::default())).len();
    assert_eq!((rows_at(59 + 64), rows_at(59 + 65)), (1, 0), "it is absent after lookback and a bucket");
}

#[test]
fn coarser_data_is_used_where_nothing_finer_is_left() {
    let mut source = two_days();
    source.keep(HOUR_MS, 0, 24 * HOUR_MS - 1).keep(0, 24 * HOUR_MS, 48 * HOUR_MS);
    let source = Arc::new(source);
    let grid = Grid { start_ms: 9 * HOUR_MS, step_ms: 600_000, len: 150 };
    let answer = ask_of(&source, "rate(work_total[5m])", grid, SourceResolution::default());
    assert_eq!(
        answer.warnings,
        [
            "answered from 1h downsampled data for a part of the time or series, because nothing finer is left (max_source_resolution=0s)",
            "the range [5m] is too short for downsampled data: where it has too few samples, the 2h before each step were used",
        ]
    );
    let rates = values(answer);
    assert_eq!(rates.len(), grid.len);
    let coarse = (24 * HOUR_MS - grid.start_ms) / grid.step_ms;
    let coarse = &rates[..coarse as usize];
    let mean = coarse.iter().sum::<f64>() / coarse.len() as f64;
    assert!((mean - 1.0).abs() < 0.03, "{mean}");
    // Within two buckets of a reset, extrapolation over a part of a bucket is a guess.
    assert!(coarse.iter().all(|v| (v - 1.0).abs() < 0.5), "{coarse:?}");
    assert!(coarse.iter().filter(|v| (**v - 1.0).abs() < 1e-9).count() > coarse.len() * 2 / 3, "{coarse:?}");
    let increases = values(ask_of(&source, "increase(work_total[5m])", grid, SourceResolution::default()));
    assert!(increases.iter().zip(&rates).all(|(increase, rate)| (increase - 300.0 * rate).abs() < 1e-9 * increase), "{increases:?}");
    for (query, expected) in [("count_over_time(gauge[10m])", 10.0), ("sum_over_time(gauge[10m])", 245.0)] {
        let grid = Grid { len: 80, ..grid };
        for v in values(ask_of(&source, query, grid, SourceResolution::default())) {
            // The mean of an hour of the gauge depends on which of its periods of 50 minutes it has.
            assert!((v - expected).abs() < 0.2 * expected, "{query}: {v}");
        }
    }
    let forced = ask_of(&source, "gauge", Grid::instant(20 * HOUR_MS), SourceResolution::AtMost(FIVE_MINUTES_MS));
    assert_eq!(forced.warnings, ["answered from 1h downsampled data, because nothing finer is left (max_source_resolution=5m)"]);
    let recent = ask_of(&source, "gauge", Grid::instant(30 * HOUR_MS), SourceResolution::AtMost(FIVE_MINUTES_MS));
    assert_eq!(recent.warnings, [""; 0]);
}

#[test]
fn plans_show_resolution_and_aggregate() {
    let mut source = two_days();
    source.keep(FIVE_MINUTES_MS, 0, 20 * HOUR_MS - 1).keep(0, 20 * HOUR_MS, 48 * HOUR_MS);
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let source: Arc<dyn Source> = Arc::new(source);
    let explain = |query: &str, grid: Grid| {
        let request = Request { max_source_resolution: SourceResolution::Auto, ..request(query, grid) };
        runtime.block_on(engine().explain(Arc::clone(&source), request, false)).expect("explains")
    };
    let plan = explain("sum(rate(work_total[1h]))", hourly());
    assert!(plan.contains("resolution=raw+300000ms, aggregate=Counter"), "{plan}");
    let plan = explain("gauge[1h]", Grid::instant(30 * HOUR_MS));
    assert!(plan.contains("resolution=raw, aggregate=Last"), "{plan}");
}
