//! Queries over series in memory: one or a few for each kind of operator, limits, and how soon a dropped query ends.

mod cancellation;
mod resolution;

use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use isobar_block::{
    Exemplar, Labels, LabelsRef, Matcher, Metadata, SampleBuf, Selected, SeriesRun, SeriesSet, TimeRange, Timestamps, Want,
};

use super::*;
use crate::result::{RawSeries, Rows, Value};
use crate::testing::{MemorySource, labels};

const MINUTE_MS: i64 = 60_000;

/// Values one minute apart, from time 0; `None` where there is no sample.
fn minutely(source: &mut MemorySource, series: &str, values: impl IntoIterator<Item = Option<f64>>) {
    let samples: Vec<(i64, f64)> = values.into_iter().enumerate().filter_map(|(i, v)| Some((i as i64 * MINUTE_MS, v?))).collect();
    source.float(series, &samples);
}

fn sample_data() -> Arc<dyn Source> {
    let mut source = MemorySource::default();
    for (i, (job, instance)) in [("a", "0"), ("a", "1"), ("b", "0"), ("b", "1")].into_iter().enumerate() {
        let step = 60.0 * (i + 1) as f64;
        minutely(
            &mut source,
            &format!("requests_total{{job=\"{job}\", instance=\"{instance}\"}}"),
            (0..=20).map(|t| Some(t as f64 * step)),
        );
    }
    minutely(&mut source, "limit{job=\"a\", team=\"x\"}", (0..=20).map(|_| Some(1000.0)));
    minutely(&mut source, "limit{job=\"b\", team=\"y\"}", (0..=20).map(|_| Some(2000.0)));
    for twin in ["twin1", "twin2"] {
        minutely(&mut source, twin, [Some(1.0); 21]);
    }
    minutely(&mut source, "gappy", (0..=20).map(|t| (!(5..=15).contains(&t)).then_some(t as f64)));
    for (le, count) in [("0.1", 10.0), ("0.5", 30.0), ("1", 40.0), ("+Inf", 40.0)] {
        minutely(&mut source, &format!("latency_bucket{{le=\"{le}\", job=\"a\"}}"), (0..=20).map(|t| Some(count * t as f64)));
    }
    Arc::new(source)
}

fn engine() -> Engine {
    Engine::new(EngineConfig { threads: 2, ..EngineConfig::default() }).expect("valid configuration")
}

fn request(query: &str, grid: Grid) -> Request {
    Request {
        query: query.into(),
        grid,
        instant: grid.len == 1,
        lookback: None,
        timeout: Duration::from_secs(30),
        max_source_resolution: SourceResolution::default(),
        limit: 0,
    }
}

fn run(query: &str, grid: Grid) -> Result<Answer> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(engine().query(sample_data(), request(query, grid)))
}

fn rows(query: &str, grid: Grid) -> Rows {
    match run(query, grid).unwrap_or_else(|e| panic!("{query}: {e}")).value {
        Value::Rows(rows) => rows,
        other => panic!("{query}: {other:?}"),
    }
}

/// Compares the rows of an instant query after 10 minutes, without regard to their order.
fn check(query: &str, expected: &[(&str, f64)]) {
    let found = rows(query, Grid::instant(10 * MINUTE_MS));
    let mut shown: Vec<(String, f64)> = found.labels.iter().zip(&found.values).map(|(l, v)| (l.to_string(), *v)).collect();
    let mut wanted: Vec<(String, f64)> = expected.iter().map(|(l, v)| (labels(l).to_string(), *v)).collect();
    shown.sort_by(|a, b| a.0.cmp(&b.0));
    wanted.sort_by(|a, b| a.0.cmp(&b.0));
    let close = |a: f64, b: f64| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-9 * b.abs();
    let equal = shown.len() == wanted.len() && shown.iter().zip(&wanted).all(|(a, b)| a.0 == b.0 && close(a.1, b.1));
    assert!(equal, "{query}\n found {shown:?}\nwanted {wanted:?}");
}

fn check_error(query: &str, part: &str) {
    let error = run(query, Grid::instant(10 * MINUTE_MS)).expect_err(query).to_string();
    assert!(error.contains(part), "{query}: {error}");
}

#[test]
fn selects_and_aggregates() {
    check("limit", &[("limit{job=\"a\", team=\"x\"}", 1000.0), ("limit{job=\"b\", team=\"y\"}", 2000.0)]);
    check("sum by (job) (rate(requests_total[5m]))", &[("{job=\"a\"}", 3.0), ("{job=\"b\"}", 7.0)]);
    check("sum(requests_total)", &[("{}", 6000.0)]);
    check("sum(nothing)", &[]);
    check("avg without (instance) (requests_total)", &[("{job=\"a\"}", 900.0), ("{job=\"b\"}", 2100.0)]);
    check("max(requests_total) - min(requests_total)", &[("{}", 1800.0)]);
    check("count by (instance) (requests_total)", &[("{instance=\"0\"}", 2.0), ("{instance=\"1\"}", 2.0)]);
    check("stddev(limit)", &[("{}", 500.0)]);
    check("group(limit)", &[("{}", 1.0)]);
    check("quantile(0.5, requests_total)", &[("{}", 1500.0)]);
    check("sum by (__name__) (limit)", &[("limit", 3000.0)]);
    check("sum by (__name__) (rate(requests_total[5m]))", &[("{}", 10.0)]);
    check("count_values(\"n\", limit / 1000)", &[("{n=\"1\"}", 1.0), ("{n=\"2\"}", 1.0)]);
}

#[test]
fn selects_rows() {
    check("topk(1, requests_total)", &[("requests_total{job=\"b\", instance=\"1\"}", 2400.0)]);
    check(
        "bottomk by (job) (1, requests_total)",
        &[("requests_total{job=\"a\", instance=\"0\"}", 600.0), ("requests_total{job=\"b\", instance=\"0\"}", 1800.0)],
    );
    check("count(limitk(3, requests_total))", &[("{}", 3.0)]);
    check("count(limit_ratio(0.4, requests_total) or limit_ratio(-0.6, requests_total))", &[("{}", 4.0)]);
    check_error("topk(0/0, limit)", "Parameter value is NaN");
    let sorted = rows("sort_desc(requests_total)", Grid::instant(10 * MINUTE_MS));
    assert_eq!(sorted.values, [2400.0, 1800.0, 1200.0, 600.0]);
}

#[test]
fn computes_elementwise() {
    check("-limit{job=\"a\"}", &[("{job=\"a\", team=\"x\"}", -1000.0)]);
    check("2 * limit{job=\"a\"} + 1", &[("{job=\"a\", team=\"x\"}", 2001.0)]);
    check("limit > 1500", &[("limit{job=\"b\", team=\"y\"}", 2000.0)]);
    check("limit > bool scalar(limit{job=\"a\"})", &[("{job=\"a\", team=\"x\"}", 0.0), ("{job=\"b\", team=\"y\"}", 1.0)]);
    check("clamp_max(limit, 1500)", &[("{job=\"a\", team=\"x\"}", 1000.0), ("{job=\"b\", team=\"y\"}", 1500.0)]);
    check("vector(time())", &[("{}", 600.0)]);
    check("minute()", &[("{}", 10.0)]);
    check("timestamp(gappy @ 120)", &[("{}", 120.0)]);
    check(
        "label_replace(limit, \"who\", \"team $1\", \"team\", \"(.*)\") > 1500",
        &[("limit{job=\"b\", team=\"y\", who=\"team y\"}", 2000.0)],
    );
    check("label_join(limit, \"j\", \"-\", \"job\", \"team\") < 1500", &[("limit{job=\"a\", team=\"x\", j=\"a-x\"}", 1000.0)]);
    check_error(
        "label_replace(limit, \"job\", \"\", \"job\", \".*\") and label_replace(limit, \"team\", \"\", \"team\", \".*\") + label_replace(requests_total, \"instance\", \"\", \"instance\", \".*\")",
        "same labelset",
    );
    check_error("abs({__name__=~\"twin.\"})", "same labelset");
}

#[test]
fn matches_vectors() {
    check("sum by (job) (requests_total) / on (job) limit", &[("{job=\"a\"}", 1.8), ("{job=\"b\"}", 2.1)]);
    check(
        "requests_total{instance=\"0\"} / on (job) group_left (team) limit",
        &[("{job=\"a\", instance=\"0\", team=\"x\"}", 0.6), ("{job=\"b\", instance=\"0\", team=\"y\"}", 0.9)],
    );
    check("limit * on (job) group_right requests_total{job=\"a\", instance=\"1\"}", &[("{job=\"a\", instance=\"1\"}", 1_200_000.0)]);
    check("limit and on (job) requests_total{job=\"a\"}", &[("limit{job=\"a\", team=\"x\"}", 1000.0)]);
    check("limit unless on (job) requests_total{job=\"a\"}", &[("limit{job=\"b\", team=\"y\"}", 2000.0)]);
    check(
        "limit{job=\"a\"} or on (job) sum by (job) (requests_total)",
        &[("limit{job=\"a\", team=\"x\"}", 1000.0), ("{job=\"b\"}", 4200.0)],
    );
    check("limit{job=\"a\"} + on (job) fill_left(1) limit", &[("{job=\"a\"}", 2000.0), ("{job=\"b\"}", 2001.0)]);
    check_error("limit / on () requests_total", "found duplicate series for the match group {} on the right hand-side");
    check_error("requests_total / on (job) limit", "many-to-one matching must be explicit");
    check_error("requests_total / on (job) group_left (instance) limit", "grouping labels must ensure unique matches");
}

#[test]
fn evaluates_other_times() {
    check("gappy", &[("gappy", f64::NAN)][..0]);
    check("gappy offset 6m", &[("gappy", 4.0)]);
    check("gappy @ 120", &[("gappy", 2.0)]);
    check("absent(gappy)", &[("{}", 1.0)]);
    check("absent(nothing{job=\"a\", team!=\"b\"})", &[("{job=\"a\"}", 1.0)]);
    check("absent_over_time(gappy[2m])", &[("{}", 1.0)]);
    check("max_over_time(sum(requests_total)[5m:1m])", &[("{}", 6000.0)]);
    check("rate(requests_total{job=\"a\", instance=\"0\"}[5m:1m])", &[("{job=\"a\", instance=\"0\"}", 1.0)]);
    check("last_over_time(gappy[10m])", &[("gappy", 4.0)]);
    let spread = rows("limit{job=\"a\"} @ 60 + time()", Grid { start_ms: 0, step_ms: MINUTE_MS, len: 3 });
    assert_eq!(spread.values, [1000.0, 1060.0, 1120.0]);
}

#[test]
fn computes_histogram_quantiles() {
    check("histogram_quantile(0.5, rate(latency_bucket[5m]))", &[("{job=\"a\"}", 0.3)]);
    check("histogram_fraction(0, 0.5, sum by (le) (rate(latency_bucket[5m])))", &[("{}", 0.75)]);
    check("histogram_quantiles(latency_bucket, \"q\", 0.25, 1)", &[("{job=\"a\", q=\"0.25\"}", 0.1), ("{job=\"a\", q=\"1.0\"}", 1.0)]);
}

/// A native histogram with `count` observations, half of them in (0.5, 1] and half in (1, 2].
fn histogram(count: u64) -> isobar_block::Histogram {
    use isobar_block::histogram::{Counts, Span};
    isobar_block::Histogram {
        reset_hint: isobar_block::histogram::ResetHint::Unknown,
        schema: 0,
        zero_threshold: 0.0,
        sum: count as f64,
        positive_spans: vec![Span { offset: 0, length: 2 }],
        negative_spans: Vec::new(),
        custom_bounds: Vec::new(),
        counts: Counts::Integer { count, zero: 0, positive: vec![count / 2, count / 2], negative: Vec::new() },
    }
}

#[test]
fn evaluates_native_histograms() {
    let histograms: Vec<_> = (0..=10).map(|t| histogram(120 * t)).collect();
    let native = SampleBuf {
        timestamps: Timestamps::shared((0..=10).map(|t| t * MINUTE_MS).collect()),
        values: histograms.iter().map(|h| h.sum).collect(),
        histograms: histograms.into_iter().enumerate().map(|(i, h)| (i as u32, Arc::new(h))).collect(),
        counts: Vec::new(),
    };
    let float =
        SampleBuf { timestamps: Timestamps::unshared(vec![10 * MINUTE_MS]), values: vec![5.0], histograms: Vec::new(), counts: Vec::new() };
    let series = ["a", "b", "c"].map(|pod| labels(&format!("size{{pod=\"{pod}\"}}"))).to_vec();
    let source: Arc<dyn Source> = Arc::new(Crowd { series, samples: vec![native.clone(), native, float], reads: Arc::default() });
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let ask =
        |query: &str| runtime.block_on(engine().query(Arc::clone(&source), request(query, Grid::instant(10 * MINUTE_MS)))).expect(query);
    let one = |query: &str| match ask(query).value {
        Value::Rows(rows) if rows.labels.len() == 1 => (rows.values[0], rows.histograms.first().map(|(_, _, h)| h.count())),
        other => panic!("{query}: {other:?}"),
    };
    assert_eq!(one("size{pod=\"a\"}").1, Some(1200.0));
    assert_eq!(one("sum(size{pod!=\"c\"})").1, Some(2400.0));
    assert_eq!(one("2 * avg(rate(size[5m]))").1, Some(4.0));
    assert_eq!(one("histogram_count(sum_over_time(size{pod=\"a\"}[2m:1m]))").0, 2280.0);
    assert_eq!(one("histogram_quantile(0.5, sum(size{pod!=\"c\"}))").0, 1.0);
    assert_eq!(one("count(size)").0, 3.0);
    assert_eq!(one("max(size)").0, 5.0);
    assert_eq!(one("size{pod=\"a\"} + ignoring (pod) size{pod=\"b\"}").1, Some(2400.0));
    assert_eq!(one("size{pod=\"a\"} and size").1, Some(1200.0));
    assert_eq!(ask("sum(size)").warnings, ["PromQL warning: encountered a mix of histograms and floats for aggregation (1:5)"]);
    assert_eq!(ask("max(size)").infos, ["PromQL info: ignored histograms in max aggregation (1:5)"]);
}

#[test]
fn annotates() {
    let infos = run("rate(gappy[5m])", Grid::instant(4 * MINUTE_MS)).expect("answers").infos;
    assert_eq!(infos, ["PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: \"gappy\" (1:6)"]);
    let warnings = run("quantile(5, limit)", Grid::instant(0)).expect("answers").warnings;
    assert_eq!(warnings, ["PromQL warning: quantile value should be between 0 and 1, got 5 (1:10)"]);
}

#[test]
fn gives_other_values() {
    let Value::Scalar { values, .. } = run("scalar(limit{job=\"a\"}) + 1", Grid::instant(0)).expect("answers").value else {
        panic!("not a scalar")
    };
    assert_eq!(values, [1001.0]);
    let Value::String { text, .. } = run("\"text\"", Grid::instant(0)).expect("answers").value else { panic!("not a text") };
    assert_eq!(text, "text");
    let Value::Raw(raw) = run("gappy[3m]", Grid::instant(3 * MINUTE_MS)).expect("answers").value else { panic!("not raw") };
    let [RawSeries { floats, .. }] = raw.as_slice() else { panic!("{raw:?}") };
    assert_eq!(*floats, [(MINUTE_MS, 1.0), (2 * MINUTE_MS, 2.0), (3 * MINUTE_MS, 3.0)]);
    let range = run("gappy[3m]", Grid { start_ms: 0, step_ms: 1, len: 2 }).expect_err("a range query").to_string();
    assert_eq!(range, "invalid expression type \"range vector\" for range query, must be Scalar or instant Vector");
}

#[test]
fn survives_high_trees() {
    let length = promql::MAX_HEIGHT as usize - 10;
    let chain = "+ 1".repeat(length);
    check(&format!("limit{{job=\"a\"}} {chain}"), &[("{job=\"a\", team=\"x\"}", 1000.0 + length as f64)]);
    let depth = promql::MAX_NESTING as usize - 10;
    let nested = format!("{}limit{{job=\"a\"}}{}", "abs(".repeat(depth), ")".repeat(depth));
    check(&nested, &[("{job=\"a\", team=\"x\"}", 1000.0)]);
}

#[test]
fn explains() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let source = crowd(1000, 240);
    let request = request("sum by (job) (rate(x_total[5m]))", Grid { start_ms: 600_000, step_ms: 15_000, len: 100 });
    let plan = runtime.block_on(engine().explain(source, request, true)).expect("explains");
    for part in [
        "AggregateExec: mode=Final",
        "CoalescePartitionsExec",
        "AggregateExec: mode=Partial",
        "SeriesScanExec: matchers=[__name__=\"x_total\"], fn=rate[300000ms], labels=by(job)",
        "partitions=2",
        "samples=240",
    ] {
        assert!(plan.contains(part), "{part} is not in\n{plan}");
    }
}

/// Series in memory that are counted when they are read.
#[derive(Clone)]
struct Crowd {
    /// Ascending.
    series: Vec<Labels>,
    /// One for each series, or one for all.
    samples: Vec<SampleBuf>,
    reads: Arc<AtomicUsize>,
}

fn crowd(series: usize, samples: usize) -> Arc<Crowd> {
    let mut series: Vec<_> = (0..series).map(|i| labels(&format!("x_total{{job=\"{}\", i=\"{i:06}\"}}", i % 10))).collect();
    series.sort();
    let timestamps = Timestamps::shared((0..samples as i64).map(|i| i * 15_000).collect());
    let values = (0..samples).map(|i| i as f64).collect();
    Arc::new(Crowd {
        series,
        samples: vec![SampleBuf { timestamps, values, histograms: Vec::new(), counts: Vec::new() }],
        reads: Arc::default(),
    })
}

/// Some of the series.
struct CrowdSet(Arc<Crowd>, Vec<usize>);

#[async_trait]
impl Source for Crowd {
    async fn select(&self, matchers: &[Matcher], _: TimeRange, _: Want) -> isobar_block::Result<Selected> {
        let rows = (0..self.series.len()).filter(|row| Matcher::all_match(matchers, self.series[*row].as_ref())).collect();
        Ok(Selected::complete(vec![Arc::new(CrowdSet(Arc::new(self.clone()), rows))]))
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

#[async_trait]
impl SeriesSet for CrowdSet {
    fn len(&self) -> usize {
        self.1.len()
    }

    fn labels(&self, row: usize) -> LabelsRef<'_> {
        self.0.series[self.1[row]].as_ref()
    }

    async fn load(&self, _: std::ops::Range<usize>, _: TimeRange) -> isobar_block::Result<Box<dyn SeriesRun>> {
        // Really waits, so that loading takes the way over the other runtime.
        tokio::task::yield_now().await;
        Ok(Box::new(CrowdRun(Arc::clone(&self.0), self.1.clone())))
    }
}

struct CrowdRun(Arc<Crowd>, Vec<usize>);

impl SeriesRun for CrowdRun {
    fn read(&mut self, row: usize, out: &mut SampleBuf) -> isobar_block::Result<()> {
        let samples = &self.0.samples[self.1[row] % self.0.samples.len()];
        out.clear();
        out.timestamps = samples.timestamps.clone();
        out.values.extend_from_slice(&samples.values);
        out.histograms.clone_from(&samples.histograms);
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Several sources as one, as a block and a head are.
struct Layers(Vec<Crowd>);

#[async_trait]
impl Source for Layers {
    async fn select(&self, matchers: &[Matcher], range: TimeRange, want: Want) -> isobar_block::Result<Selected> {
        let mut all = Selected::default();
        for layer in &self.0 {
            all.sets.extend(layer.select(matchers, range, want).await?.sets);
        }
        Ok(all)
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

#[test]
fn merges_sets() {
    let layer = |names: &[&str], from: i64, to: i64, value: f64| Crowd {
        series: names.iter().map(|name| labels(&format!("x_total{{i=\"{name}\"}}"))).collect(),
        samples: vec![SampleBuf {
            timestamps: Timestamps::shared((from..=to).map(|t| t * MINUTE_MS).collect()),
            values: (from..=to).map(|t| value + t as f64).collect(),
            histograms: Vec::new(),
            counts: Vec::new(),
        }],
        reads: Arc::default(),
    };
    let ask = |layers: Vec<Crowd>, query: &str| {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let answer =
            runtime.block_on(engine().query(Arc::new(Layers(layers)), request(query, Grid::instant(10 * MINUTE_MS)))).expect(query);
        let Value::Raw(raw) = answer.value else { panic!("{query} is not raw") };
        raw.into_iter()
            .map(|s| (s.labels.get("i").unwrap_or("").to_owned(), s.floats.iter().map(|(_, v)| *v).collect::<Vec<f64>>()))
            .collect::<Vec<_>>()
    };
    // One after the other, in both orders, and overlapping: there the later set counts.
    let found = ask(vec![layer(&["a", "b"], 1, 3, 0.0), layer(&["b", "c"], 4, 5, 100.0)], "x_total[20m]");
    assert_eq!(
        found,
        [("a".into(), vec![1.0, 2.0, 3.0]), ("b".into(), vec![1.0, 2.0, 3.0, 104.0, 105.0]), ("c".into(), vec![104.0, 105.0])]
    );
    let found = ask(vec![layer(&["b"], 4, 5, 100.0), layer(&["b"], 1, 3, 0.0)], "x_total[20m]");
    assert_eq!(found, [("b".into(), vec![1.0, 2.0, 3.0, 104.0, 105.0])]);
    let found = ask(vec![layer(&["b"], 1, 4, 0.0), layer(&["b"], 3, 5, 100.0), layer(&["b"], 2, 2, 200.0)], "x_total[20m]");
    assert_eq!(found, [("b".into(), vec![1.0, 202.0, 103.0, 104.0, 105.0])]);
}

/// Partitions are disjoint, so that each series is counted once however the sets overlap.
#[test]
fn partitions_sets() {
    let many = |from: usize, to: usize| {
        let mut layer = Crowd::clone(&crowd(0, 40));
        layer.series = (from..to).map(|i| labels(&format!("x_total{{i=\"{i:05}\"}}"))).collect();
        layer
    };
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let source = Arc::new(Layers(vec![many(0, 3000), many(1000, 5000), many(4990, 5010)]));
    let grid = Grid { start_ms: 300_000, step_ms: 15_000, len: 10 };
    let answer = runtime.block_on(engine().query(source.clone(), request("count(x_total)", grid))).expect("answers");
    let Value::Rows(rows) = answer.value else { panic!("not rows") };
    assert_eq!(rows.values, [5010.0; 10]);
    let answer = runtime.block_on(engine().query(source, request("x_total", grid))).expect("answers");
    let Value::Rows(rows) = answer.value else { panic!("not rows") };
    assert!(rows.labels.len() == 5010 && rows.labels.is_sorted());
}

#[test]
fn names_the_limit_that_is_exceeded() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let source = crowd(20_000, 20);
    let grid = Grid { start_ms: 0, step_ms: 1000, len: 300 };
    let ask = |config: EngineConfig, query: &str| {
        let engine = Engine::new(EngineConfig { threads: 2, ..config }).expect("valid configuration");
        let error = runtime.block_on(engine.query(source.clone(), request(query, grid))).expect_err(query);
        assert!(matches!(error, Error::Execution(_)), "{query}: {error:?}");
        let waited = Instant::now();
        while engine.reserved_memory_bytes() > 0 && waited.elapsed() < Duration::from_secs(5) {
            std::thread::yield_now();
        }
        assert_eq!(engine.reserved_memory_bytes(), 0, "all memory is given back");
        error.to_string()
    };
    let small = || EngineConfig { query_memory_bytes: 16 << 20, ..EngineConfig::default() };
    for query in ["x_total", "sum by (i) (x_total)", "x_total + x_total", "topk(10000, x_total)", "quantile(0.5, x_total)"] {
        let message = ask(small(), query);
        assert!(message.contains("query memory limit of 16777216 bytes"), "{query}: {message}");
    }
    let total = ask(EngineConfig { total_memory_bytes: 16 << 20, ..EngineConfig::default() }, "x_total");
    assert!(total.contains("total query memory limit"), "{total}");
    let samples = ask(EngineConfig { max_samples: 1_000_000, ..EngineConfig::default() }, "x_total");
    assert!(samples.contains("too many samples"), "{samples}");
}

#[test]
fn times_out() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let mut slow = request("sum(rate(x_total[5m]))", Grid { start_ms: 600_000, step_ms: 28_000, len: 240 });
    slow.timeout = Duration::from_millis(5);
    let error = runtime.block_on(engine().query(crowd(50_000, 480), slow)).expect_err("times out");
    assert!(matches!(error, Error::Timeout { .. }), "{error:?}");
}
