//! Exports read back: by the Parquet library, and by our own import.

use std::fs::File;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Float64Type, TimestampMillisecondType};
use isobar_block::histogram::{Counts, ResetHint, Span};
use isobar_block::{BlockStoreConfig, BlockWriter, Change, Histogram, Labels, MetricType, WriterConfig, stale_nan};
use object_store::memory::InMemory;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;
use crate::import::openmetrics::{self, Flavour};
use crate::import::{ImportConfig, Imported};

const HOUR_MS: i64 = 3_600_000;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied()).expect("valid")
}

fn histogram() -> Histogram {
    Histogram {
        reset_hint: ResetHint::Unknown,
        schema: 0,
        zero_threshold: 0.0,
        sum: 7.5,
        positive_spans: vec![Span { offset: 0, length: 2 }],
        negative_spans: Vec::new(),
        custom_bounds: Vec::new(),
        counts: Counts::Integer { count: 4, zero: 1, positive: vec![1, 2], negative: Vec::new() },
    }
}

async fn commit(blocks: &BlockStore, series: &[(Labels, Option<Metadata>, SampleBuf)]) {
    let mut sorted = series.to_vec();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let mut writer = BlockWriter::new(WriterConfig::new(1_700_000_000_000));
    for (labels, metadata, samples) in &sorted {
        writer.push_series(labels, metadata.as_ref(), samples, &[]).expect("pushes");
    }
    let meta = writer.finish(&**blocks.objects(), &TenantId::default()).await.expect("uploads");
    let catalog = blocks.catalog(&TenantId::default()).await.expect("catalog");
    catalog.commit(Change { add: vec![meta], ..Change::default() }).await.expect("commits");
}

fn floats(times: &[i64], values: &[f64]) -> SampleBuf {
    SampleBuf { timestamps: Timestamps::unshared(times.to_vec()), values: values.to_vec(), ..SampleBuf::default() }
}

async fn filled() -> BlockStore {
    let blocks = BlockStore::new(Arc::new(InMemory::new()), BlockStoreConfig::default());
    let metadata = |metric_type, help: &str| Some(Metadata { metric_type, help: help.into(), unit: String::new() });
    let mut native = floats(&[HOUR_MS, 2 * HOUR_MS], &[7.5, 7.5]);
    native.histograms = vec![(0, Arc::new(histogram())), (1, Arc::new(histogram()))];
    let two = [("__name__", "up"), ("job", "x"), ("prometheus_replica", "a")];
    let series = [
        (labels(&two), metadata(MetricType::Gauge, "Is \"it\" up?\n"), floats(&[0, HOUR_MS, 3 * HOUR_MS], &[1.0, stale_nan(), 0.5])),
        (
            labels(&[("__name__", "reqs_total"), ("Job", "y"), ("value", "v\"\\\n")]),
            metadata(MetricType::Counter, ""),
            floats(&[5], &[1e300]),
        ),
        (labels(&[("__name__", "native"), ("job", "x")]), metadata(MetricType::Histogram, ""), native),
    ];
    commit(&blocks, &series).await;
    blocks
}

fn config(format: Format) -> ExportConfig {
    ExportConfig {
        tenant: TenantId::default(),
        selectors: Vec::new(),
        range: TimeRange::ALL,
        replica_labels: vec!["prometheus_replica".into()],
        format,
        label_columns: 100,
    }
}

fn read(files: &[PathBuf]) -> RecordBatch {
    let mut batches = Vec::new();
    for file in files {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(file).expect("opens")).expect("is Parquet");
        batches.extend(reader.build().expect("builds").map(|b| b.expect("reads")));
    }
    concat_batches(&batches[0].schema(), &batches).expect("have one schema")
}

fn texts(batch: &RecordBatch, column: &str) -> Vec<Option<String>> {
    let column = batch.column_by_name(column).unwrap_or_else(|| panic!("{column}: {:?}", batch.schema()));
    column.as_string::<i32>().iter().map(|t| t.map(str::to_owned)).collect()
}

#[tokio::test]
async fn parquet_has_a_row_for_each_sample() {
    let blocks = filled().await;
    let folder = tempfile::tempdir().expect("a folder");
    let target = Target::File(folder.path().join("x.parquet"));
    let exported = export(&blocks, &config(Format::Parquet), &target, &|_| {}).await.expect("exports");
    assert_eq!((exported.series, exported.samples, exported.stale), (3, 5, 1));
    let batch = read(&exported.files);
    let names: Vec<String> = batch.schema().fields().iter().map(|f| f.name().clone()).collect();
    // `Job` is `job` for SQL, and `value` is taken.
    assert_eq!(names, ["metric", "job", "labels", "timestamp", "value", "histogram"]);
    let some = |t: &str| Some(t.to_owned());
    assert_eq!(texts(&batch, "metric"), [some("native"), some("native"), some("reqs_total"), some("up"), some("up")]);
    assert_eq!(texts(&batch, "job"), [some("x"), some("x"), None, some("x"), some("x")]);
    let times = batch.column_by_name("timestamp").expect("is there").as_primitive::<TimestampMillisecondType>();
    assert_eq!(times.values(), &[HOUR_MS, 2 * HOUR_MS, 5, 0, 3 * HOUR_MS]);
    let values = batch.column_by_name("value").expect("is there").as_primitive::<Float64Type>();
    assert_eq!(values.iter().collect::<Vec<_>>(), [None, None, Some(1e300), Some(1.0), Some(0.5)]);
    let rest = batch.column_by_name("labels").expect("is there").as_map();
    assert_eq!((rest.null_count(), rest.value(2).column(1).as_string::<i32>().value(1).to_owned()), (4, "v\"\\\n".to_owned()));
    let histograms = batch.column_by_name("histogram").expect("is there").as_struct();
    assert_eq!((histograms.null_count(), histograms.column(1).as_primitive::<Float64Type>().value(0)), (3, 7.5));
    let buckets = histograms.column(5).as_list::<i32>().value(1);
    assert_eq!(buckets.as_struct().column(2).as_primitive::<Float64Type>().values(), &[1.0, 2.0]);
    let again = export(&blocks, &config(Format::Parquet), &target, &|_| {}).await.expect_err("it is there already");
    assert!(again.to_string().contains("there already"), "{again}");
}

#[tokio::test]
async fn selectors_range_and_replicas() {
    let blocks = filled().await;
    let folder = tempfile::tempdir().expect("a folder");
    let matcher = |name: &str, value: &str| Matcher::new(name, isobar_block::MatchOp::Equal, value).expect("compiles");
    let config = ExportConfig {
        selectors: vec![vec![matcher("__name__", "up")], vec![matcher("job", "x"), matcher("__name__", "up")]],
        range: TimeRange::new(1, i64::MAX).expect("a range"),
        replica_labels: Vec::new(),
        label_columns: 1,
        ..config(Format::Parquet)
    };
    let exported = export(&blocks, &config, &Target::File(folder.path().join("x")), &|_| {}).await.expect("exports");
    assert_eq!((exported.series, exported.samples), (1, 1));
    let batch = read(&exported.files);
    assert_eq!(texts(&batch, "job"), [Some("x".to_owned())]);
    let rest = batch.column_by_name("labels").expect("is there").as_map().value(0);
    assert_eq!(rest.column(0).as_string::<i32>().value(0), "prometheus_replica");
    let none = ExportConfig { selectors: vec![vec![matcher("job", "none")]], ..config };
    let exported = export(&blocks, &none, &Target::File(folder.path().join("y")), &|_| {}).await.expect("exports");
    assert_eq!((exported.samples, read_rows(&exported.files)), (0, 0));
}

fn read_rows(files: &[PathBuf]) -> i64 {
    let rows = |file: &PathBuf| {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(file).expect("opens")).expect("is Parquet");
        reader.metadata().file_metadata().num_rows()
    };
    files.iter().map(rows).sum()
}

#[tokio::test]
async fn a_big_export_is_split() {
    let blocks = BlockStore::new(Arc::new(InMemory::new()), BlockStoreConfig::default());
    let times: Vec<i64> = (0..150_000).map(|i| i * 1000 + i % 7).collect();
    let values: Vec<f64> = times.iter().map(|t| (*t as f64).sin()).collect();
    let series: Vec<_> = (0..3).map(|i| (labels(&[("__name__", "m"), ("i", &i.to_string())]), None, floats(&times, &values))).collect();
    commit(&blocks, &series).await;
    let folder = tempfile::tempdir().expect("a folder");
    let target = Target::Folder { path: folder.path().to_owned(), file_bytes: 1 << 20 };
    let exported = export(&blocks, &config(Format::Parquet), &target, &|_| {}).await.expect("exports");
    assert!(exported.files.len() > 2 && exported.bytes > 2 << 20, "{exported:?}");
    assert_eq!((exported.samples, read_rows(&exported.files)), (450_000, 450_000));
    assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), exported.files.len());
    assert!(export(&blocks, &config(Format::Parquet), &target, &|_| {}).await.is_err(), "the folder is not empty");
}

#[tokio::test]
async fn text_can_be_imported_again() {
    let blocks = filled().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.om");
    let exported = export(&blocks, &config(Format::OpenMetrics), &Target::File(path.clone()), &|_| {}).await.expect("exports");
    assert_eq!((exported.samples, exported.histograms_left_out, exported.stale), (3, 2, 1));
    let text = std::fs::read_to_string(&path).expect("reads");
    let expected = "# TYPE reqs counter\nreqs_total{Job=\"y\",value=\"v\\\"\\\\\\n\"} 1e300 0.005\n# TYPE up gauge\n# HELP up Is \\\"it\\\" up?\\n\nup{job=\"x\"} 1 0\nup{job=\"x\"} 0.5 10800\n# EOF\n";
    assert_eq!(text, expected);
    let other = BlockStore::new(Arc::new(InMemory::new()), BlockStoreConfig::default());
    let text = openmetrics::Text {
        reader: Box::new(File::open(&path).expect("opens")),
        name: "x".into(),
        size_bytes: None,
        flavour: Flavour::OpenMetrics,
    };
    let import = ImportConfig { tenant: TenantId::default(), labels: Vec::new(), memory_bytes: 64 << 20 };
    let imported = openmetrics::import(&other, text, folder.path(), &import, &|_| {}).await.expect("imports");
    assert!(matches!(imported, Imported::Now { samples: 3, .. }), "{imported:?}");
    let again = export(&other, &config(Format::OpenMetrics), &Target::File(folder.path().join("y.om")), &|_| {}).await.expect("exports");
    assert_eq!(std::fs::read_to_string(&again.files[0]).expect("reads"), expected);
}
