//! Downsampled blocks: what is written is read, as buckets and as samples, and damage is found.

use std::collections::BTreeSet;

use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::samples::synthetic;
use super::*;
use crate::histogram::Counts;
use crate::reader::verify_block;
use crate::writer::{RollupWriter, WriterConfig};
use crate::{BlockMeta, Error, Histogram, Labels, Source, TenantId, Want};

const STEP_MS: i64 = 1000;
const SPAN_START_MS: i64 = -100_000_000;

fn config() -> WriterConfig {
    WriterConfig { resolution_ms: STEP_MS, window_ms: 100_000_000, series_per_group: 7, ..WriterConfig::new(1_700_000_000_000) }
}

fn labels(i: usize) -> Labels {
    Labels::from_pairs([("__name__", "m".to_owned()), ("i", format!("{i:05}"))]).expect("valid")
}

fn bucket(i: usize, n: i64) -> Bucket {
    let (start_ms, value) = (SPAN_START_MS + n * STEP_MS, (i as i64 + n) as f64);
    Bucket {
        start_ms,
        count: 3,
        sum: 3.0 * value,
        min: value - 1.0,
        max: value + 1.0,
        first: value - 0.5,
        first_ms: start_ms + 1,
        last: value,
        last_ms: start_ms + 990 + (i as i64 % 3),
        increase: if n == 0 { 0.5 } else { 1.0 },
    }
}

fn histogram(sum: f64) -> Arc<Histogram> {
    let counts = Counts::Integer { count: 1, zero: 1, positive: Vec::new(), negative: Vec::new() };
    let (positive_spans, negative_spans, custom_bounds) = (Vec::new(), Vec::new(), Vec::new());
    let (reset_hint, schema, zero_threshold) = (Default::default(), 0, 0.001);
    Arc::new(Histogram { reset_hint, schema, zero_threshold, sum, positive_spans, negative_spans, custom_bounds, counts })
}

fn histograms(times: &[i64]) -> SampleBuf {
    SampleBuf {
        timestamps: Timestamps::unshared(times.to_vec()),
        values: times.iter().map(|t| *t as f64).collect(),
        histograms: times.iter().enumerate().map(|(i, t)| (i as u32, histogram(*t as f64))).collect(),
        counts: Vec::new(),
    }
}

async fn write(series: &[(Labels, Vec<Bucket>, SampleBuf)]) -> (Arc<dyn ObjectStore>, Arc<BlockMeta>) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut writer = RollupWriter::new(config(), SPAN_START_MS).expect("aligned");
    for (labels, buckets, histograms) in series {
        writer.push_series(labels, None, buckets, histograms).expect("fits");
    }
    let meta = writer.finish(&*store, &TenantId::default()).await.expect("is written");
    (store, Arc::new(meta))
}

async fn open(store: &Arc<dyn ObjectStore>, meta: &Arc<BlockMeta>) -> Arc<BlockReader> {
    let config = crate::cache::CacheConfig::default();
    Arc::new(BlockReader::open(store.clone(), &TenantId::default(), meta.clone(), &config).await.expect("opens"))
}

async fn read(reader: &Arc<BlockReader>, aggregate: Aggregate, row: usize) -> SampleBuf {
    let want = Want { max_resolution_ms: STEP_MS, aggregate };
    let sets = reader.select(&[], TimeRange::ALL, want).await.expect("selects").sets;
    assert_eq!(sets[0].resolution_ms(), STEP_MS);
    let mut buf = SampleBuf::default();
    sets[0].load(row..row + 1, TimeRange::ALL).await.expect("loads").read(row, &mut buf).expect("reads");
    buf
}

#[tokio::test]
async fn buckets_come_back_as_they_were() {
    // The longest series needs several row groups of its own.
    let lengths = [3, 0, 70_000, 40, 1, 32_768, 5];
    let series: Vec<_> = lengths
        .iter()
        .enumerate()
        .map(|(i, n)| (labels(i), (0..*n).map(|n| bucket(i, n)).collect::<Vec<_>>(), SampleBuf::default()))
        .collect();
    let (store, meta) = write(&series).await;
    assert_eq!((meta.samples, meta.raw_samples, meta.series), (102_817, 3 * 102_817, 7));
    let report = verify_block(store.clone(), &TenantId::default(), meta.clone()).await.expect("reads");
    assert_eq!(report.problems, Vec::<String>::new());
    let reader = open(&store, &meta).await;
    let set = reader.select_rollup(&[], Aggregate::Last).await.expect("selects").expect("is downsampled");
    let (mut buckets, mut none) = (Vec::new(), SampleBuf::default());
    for rows in [0..7, 2..3, 3..6] {
        let mut run = set.load_buckets(rows.clone()).await.expect("loads");
        for row in rows {
            run.read(row, &mut buckets, &mut none).expect("reads");
            assert_eq!(buckets, series[row].1, "series {row}");
            assert_eq!(set.labels(row), series[row].0.as_ref());
        }
    }
    let long = read(&reader, Aggregate::Last, 2).await;
    assert_eq!(long.len(), 70_000);
    assert!(long.timestamps.is_sorted_by(|a, b| a < b));
}

#[tokio::test]
async fn aggregates_are_what_they_are_documented_to_be() {
    let series: Vec<_> = (0..9).map(|i| (labels(i), (0..50).map(|n| bucket(i, n)).collect::<Vec<_>>(), SampleBuf::default())).collect();
    let (store, meta) = write(&series).await;
    let reader = open(&store, &meta).await;
    let mut ids = BTreeSet::new();
    for (row, (_, buckets, _)) in series.iter().enumerate() {
        type Value = fn(&Bucket) -> f64;
        let of: [(Aggregate, Value); 4] = [
            (Aggregate::Last, |b| b.last),
            (Aggregate::Min, |b| b.min),
            (Aggregate::Max, |b| b.max),
            (Aggregate::Average, |b| b.sum / f64::from(b.count)),
        ];
        for (aggregate, value) in of {
            let buf = read(&reader, aggregate, row).await;
            assert_eq!(buf.values, buckets.iter().map(value).collect::<Vec<_>>());
            assert_eq!(*buf.timestamps, *buckets.iter().map(|b| b.last_ms).collect::<Vec<_>>());
            let counts: Vec<u32> = if aggregate == Aggregate::Average { vec![3; 50] } else { Vec::new() };
            assert_eq!(buf.counts, counts);
            ids.insert(buf.timestamps.id());
        }
        let counter = read(&reader, Aggregate::Counter, row).await;
        assert_eq!((counter.len(), counter.values[0], counter.timestamps[0]), (51, buckets[0].first, buckets[0].first_ms));
        ids.insert(counter.timestamps.id());
    }
    assert_eq!(ids.len(), 6, "three targets, with and without the first sample");
    assert!(!ids.contains(&0));
}

#[test]
fn resets_inside_of_a_bucket_are_made_visible() {
    // Before, last, increase; the samples that are put between.
    let cases = [
        ((10.0, 15.0, 5.0), (None, false)),
        ((10.0, 3.0, 3.0), (None, false)),
        ((10.0, 3.0, 13.0), (Some(20.0), false)),
        ((10.0, 30.0, 35.0), (Some(15.0), true)),
        ((10.0, 30.0, 30.0), (None, true)),
        ((10.0, 3.0, f64::INFINITY), (None, false)),
        ((f64::NAN, 3.0, 3.0), (None, false)),
        ((-5.0, -3.0, 40.0), (None, false)),
        ((0.1 + 0.2, 1e9, 1e9 - 0.3), (None, false)),
    ];
    for ((before, last, increase), expected) in cases {
        assert_eq!(synthetic(before, last, increase), expected, "{before} {last} {increase}");
    }
}

#[tokio::test]
async fn histograms_are_mixed_in() {
    let t = |n: i64| SPAN_START_MS + n;
    let floats: Vec<Bucket> = (0..4).map(|n| bucket(0, n)).collect();
    let both = histograms(&[t(5), t(1990), t(9_000)]);
    let series = [(labels(0), floats, both.clone()), (labels(1), Vec::new(), both), (labels(2), vec![bucket(2, 0)], SampleBuf::default())];
    let (store, meta) = write(&series).await;
    assert_eq!((meta.samples, meta.histograms, meta.raw_samples), (5, 6, 21));
    let report = verify_block(store.clone(), &TenantId::default(), meta.clone()).await.expect("reads");
    assert_eq!(report.problems, Vec::<String>::new());
    let reader = open(&store, &meta).await;
    let mixed = read(&reader, Aggregate::Average, 0).await;
    // The float at 1990 ms gives way to the histogram there.
    assert_eq!(*mixed.timestamps, [t(5), t(990), t(1990), t(2990), t(3990), t(9_000)]);
    assert_eq!(mixed.histograms.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [0, 2, 5]);
    assert_eq!(mixed.counts, [1, 3, 1, 3, 3, 1]);
    assert_eq!(read(&reader, Aggregate::Last, 1).await.histograms.len(), 3);
    assert_eq!(read(&reader, Aggregate::Counter, 2).await.len(), 2);
}

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let refused = |config: WriterConfig, start_ms| RollupWriter::new(config, start_ms).err().expect("is refused").to_string();
    assert!(refused(WriterConfig { resolution_ms: 0, ..config() }, 0).contains("buckets of 0 ms"));
    assert!(refused(WriterConfig { resolution_ms: 3000, ..config() }, 0).contains("buckets of 3000 ms"));
    assert!(refused(config(), 5).contains("cannot begin at 5 ms"));
    let mut writer = RollupWriter::new(config(), SPAN_START_MS).expect("aligned");
    let none = SampleBuf::default();
    let outside = Bucket { start_ms: 0, first_ms: 1, last_ms: 2, ..bucket(0, 0) };
    for bad in [outside, Bucket { count: 0, ..bucket(0, 0) }, Bucket { last_ms: 0, ..bucket(0, 0) }, Bucket { start_ms: 1, ..bucket(0, 0) }]
    {
        assert!(matches!(writer.push_series(&labels(0), None, &[bad], &none), Err(Error::Invalid { .. })), "{bad:?}");
    }
    assert!(writer.push_series(&labels(0), None, &[bucket(0, 1), bucket(0, 0)], &none).is_err());
    assert!(writer.push_series(&labels(0), None, &[], &histograms(&[5])).is_err());
    assert_eq!(writer.series(), 0);
    // Series without any number still make a block that stands for the span.
    writer.push_series(&labels(0), None, &[], &none).expect("fits");
    let meta = writer.encode().expect("encodes").meta;
    assert_eq!((meta.samples, meta.min_time_ms, meta.max_time_ms), (0, SPAN_START_MS, SPAN_START_MS));
}

#[tokio::test]
async fn verification_finds_wrong_counts() {
    let (store, meta) = write(&[(labels(0), vec![bucket(0, 0)], SampleBuf::default())]).await;
    let wrong = BlockMeta { raw_samples: 4, window_ms: 50_000_000, min_time_ms: 0, ..(*meta).clone() };
    let report = verify_block(store, &TenantId::default(), Arc::new(wrong)).await.expect("reads");
    let found = |text: &str| report.problems.iter().any(|p| p.contains(text));
    assert!(found("stand for 3 samples") && found("outside of the span"), "{report:?}");
}
