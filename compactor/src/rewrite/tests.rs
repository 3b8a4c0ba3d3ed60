//! What the memory allows does not change what is written, only how many blocks it is.

use std::collections::BTreeMap;

use isobar_block::cache::CacheConfig;
use isobar_block::{BlockReader, BlockWriter, Exemplar, Labels, Metadata, MetricType, SampleBuf, Source, TimeRange, Timestamps, testing};

use super::*;
use crate::compactor::tests::slow::Slow;

const HOUR_MS: i64 = 3_600_000;
const REPLICA: &str = "__replica__";

/// Labels, bits of samples by time, and exemplars by time.
type Content = Vec<(Labels, Vec<(i64, u64)>, Vec<i64>)>;

/// Series of one huge metric and of some small ones.
fn series() -> Vec<Labels> {
    let mut all = Vec::new();
    for (metric, number) in [("a_small", 50), ("huge", 1500), ("other", 30), ("z_small", 200)] {
        for n in 0..number {
            for replica in ["A", "B"] {
                let pairs = [("__name__", metric.to_owned()), ("instance", format!("i{n:05}")), (REPLICA, replica.to_owned())];
                all.push(Labels::from_pairs(pairs).expect("valid"));
            }
        }
    }
    all.sort();
    all
}

async fn write(objects: &Arc<dyn ObjectStore>, hour: i64, samples: i64) -> Arc<BlockMeta> {
    let mut writer = BlockWriter::new(WriterConfig::new(hour * HOUR_MS));
    for (number, labels) in series().into_iter().enumerate().filter(|(n, _)| n % 11 != hour as usize) {
        let times: Vec<i64> = (0..samples).map(|i| hour * HOUR_MS + i * 15_000).collect();
        let values = times.iter().map(|t| (*t / 15_000 * number as i64 % 1009) as f64 / 7.0).collect();
        let exemplars: Vec<Exemplar> = (number % 50 == 0)
            .then(|| Exemplar { labels: Labels::from_pairs([("trace_id", "x")]).expect("valid"), value: 1.0, timestamp_ms: times[3] })
            .into_iter()
            .collect();
        let metadata = Metadata { metric_type: MetricType::Gauge, help: format!("help at {hour}"), unit: String::new() };
        let buf = SampleBuf { timestamps: Timestamps::unshared(times), values, ..SampleBuf::default() };
        writer.push_series(&labels, Some(&metadata), &buf, &exemplars).expect("fits");
    }
    Arc::new(writer.finish(&**objects, &TenantId::default()).await.expect("is written"))
}

/// All of some blocks, which have to be in order and disjoint.
async fn read(objects: &Arc<dyn ObjectStore>, blocks: &[BlockMeta]) -> Content {
    let mut content = Content::new();
    for block in blocks {
        let reader = BlockReader::open(objects.clone(), &TenantId::default(), Arc::new(block.clone()), &CacheConfig::default()).await;
        let reader = Arc::new(reader.expect("opens"));
        let exemplars = reader.exemplars(&[], TimeRange::ALL).await.expect("reads");
        let mut exemplars: BTreeMap<Labels, Vec<i64>> =
            exemplars.into_iter().map(|(labels, list)| (labels, list.iter().map(|e| e.timestamp_ms).collect())).collect();
        let set = reader.select_series(&[]).await.expect("selects");
        let mut run = set.load(0..set.len(), TimeRange::ALL).await.expect("loads");
        let mut buf = SampleBuf::default();
        for row in 0..set.len() {
            run.read(row, &mut buf).expect("reads");
            let samples = buf.timestamps.iter().copied().zip(buf.values.iter().map(|v| v.to_bits())).collect();
            let labels = set.labels(row).to_owned();
            let exemplars = exemplars.remove(&labels).unwrap_or_default();
            content.push((labels, samples, exemplars));
        }
    }
    assert!(content.is_sorted_by(|a, b| a.0 < b.0), "series are not in order");
    content
}

fn rewrite(objects: &Arc<dyn ObjectStore>, inputs: &[Arc<BlockMeta>], replica_labels: &[&str], memory_bytes: u64) -> Rewrite {
    Rewrite {
        objects: objects.clone(),
        tenant: TenantId::default(),
        inputs: inputs.to_vec(),
        context: Vec::new(),
        tombstones: Vec::new(),
        span: None,
        levels_ms: vec![2 * HOUR_MS, 8 * HOUR_MS],
        replica_labels: replica_labels.iter().map(|l| (*l).to_owned()).collect(),
        template: Rewrite::template(inputs, &[], 2, 8 * HOUR_MS, 9 * HOUR_MS),
        copies_chunks: true,
        memory_bytes,
        control: Arc::default(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn little_memory_makes_more_blocks_of_the_same() {
    let objects = testing::object_store();
    let mut inputs = Vec::new();
    for hour in 0..4 {
        inputs.push(write(&objects, hour, 200).await);
    }
    for replica_labels in [&[][..], &[REPLICA][..]] {
        let big = rewrite(&objects, &inputs, replica_labels, 1 << 30).run().await.expect("runs");
        assert_eq!(big.blocks.len(), 1);
        let expected = read(&objects, &big.blocks).await;
        assert!(expected.iter().map(|(_, samples, _)| samples.len() as u64).sum::<u64>() == big.blocks[0].samples);
        assert_eq!(expected.iter().any(|(labels, ..)| labels.get(REPLICA).is_some()), replica_labels.is_empty());
        for memory_bytes in [4 << 20, 1 << 20] {
            let small = rewrite(&objects, &inputs, replica_labels, memory_bytes);
            assert!(small.max_series() < 1500);
            let written = small.run().await.expect("runs");
            assert!(written.blocks.len() > 2, "{} blocks", written.blocks.len());
            assert!(read(&objects, &written.blocks).await == expected, "{memory_bytes} bytes of memory");
            // A block ends with the series that fills it.
            let limit_bytes = memory_bytes / OUTPUT_SHARE + (8 << 10);
            assert!(written.largest_bytes <= limit_bytes, "{} of {limit_bytes}", written.largest_bytes);
            let progress = small.control.progress();
            assert_eq!((progress.share(), progress.samples), (1.0, big.blocks[0].samples));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_read_about_once() {
    let objects = testing::object_store();
    let mut inputs = Vec::new();
    for hour in 0..4 {
        inputs.push(write(&objects, hour, 200).await);
    }
    let counting = Arc::new(Slow::new(objects, 1));
    let shared: Arc<dyn ObjectStore> = counting.clone();
    rewrite(&shared, &inputs, &[REPLICA], 64 << 20).run().await.expect("runs");
    let size: u64 = inputs.iter().map(|b| b.size_bytes).sum();
    // Pages at the border of two runs, and whole checksum blocks around pages.
    assert!(counting.read_bytes() < size * 2, "{} of {size}", counting.read_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_outside_of_the_span_keeps_its_place_and_its_replicas() {
    let objects = testing::object_store();
    let inputs = [write(&objects, 0, 240).await, write(&objects, 1, 2000).await];
    let all = read(&objects, &rewrite(&objects, &inputs, &[], 1 << 30).run().await.expect("runs").blocks).await;
    let span = Span::aligned(2 * HOUR_MS, 2 * HOUR_MS);
    let clipped = Rewrite { span: Some(span), ..rewrite(&objects, &inputs, &[REPLICA], 2 << 20) };
    let written = clipped.run().await.expect("runs").blocks;
    let (inside, outside): (Vec<_>, Vec<_>) = written.into_iter().partition(|b| span.covers(Span::of(b)));
    assert!(inside.iter().all(|b| (b.level, b.precedence_ms) == (2, HOUR_MS)));
    assert!(!outside.iter().any(|b| Span::of(b).overlaps(span)));
    let mut found: BTreeMap<Labels, Vec<(i64, u64)>> = BTreeMap::new();
    for block in &outside {
        assert_eq!((block.level, block.window_ms), (0, 2 * HOUR_MS));
        assert!(Span::aligned(block.min_time_ms, 8 * HOUR_MS).contains(block.max_time_ms));
        for (labels, samples, _) in read(&objects, std::slice::from_ref(block)).await {
            found.entry(labels).or_default().extend(samples);
        }
    }
    for (labels, samples, _) in &all {
        let mut found = found.remove(labels).unwrap_or_default();
        found.sort_unstable();
        let expected: Vec<_> = samples.iter().copied().filter(|(t, _)| !span.contains(*t)).collect();
        assert_eq!(found, expected, "{labels}");
    }
    assert!(found.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canceled_rewrite_leaves_nothing() {
    use futures::TryStreamExt;
    let objects = testing::object_store();
    let inputs = [write(&objects, 0, 500).await, write(&objects, 1, 500).await];
    let files = async || objects.list(None).map_ok(|o| o.location).try_collect::<Vec<_>>().await.expect("lists").len();
    let before = files().await;
    let job = rewrite(&objects, &inputs, &[], 1 << 20);
    let control = job.control.clone();
    let cancel = async {
        while control.progress().samples < 200_000 {
            tokio::task::yield_now().await;
        }
        control.cancel();
    };
    let (result, ()) = tokio::join!(job.run(), cancel);
    assert!(matches!(result, Err(Failed { error: Error::Canceled, damage: None })), "{result:?}");
    assert_eq!(files().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_are_copied_only_where_nothing_changes() {
    let objects = testing::object_store();
    let mut days = Vec::new();
    for hour in [0, 2, 4] {
        days.push(write(&objects, hour, 300).await);
    }
    let window = |mut rewrite: Rewrite, copies_chunks| {
        rewrite.template.window_ms = 2 * HOUR_MS;
        Rewrite { copies_chunks, ..rewrite }
    };
    // Disjoint windows; then two blocks in one window; then replicas.
    let overlapping = [days[0].clone(), write(&objects, 1, 100).await, days[1].clone()];
    for (inputs, replica_labels) in [(&days[..], &[][..]), (&overlapping[..], &[][..]), (&days[..], &[REPLICA][..])] {
        for memory_bytes in [1 << 30, 1 << 20] {
            let decoded = window(rewrite(&objects, inputs, replica_labels, memory_bytes), false).run().await.expect("runs");
            let copied = window(rewrite(&objects, inputs, replica_labels, memory_bytes), true).run().await.expect("runs");
            assert!(read(&objects, &copied.blocks).await == read(&objects, &decoded.blocks).await);
            let of = |written: &Rewritten| written.blocks.iter().map(|b| (b.samples, b.min_time_ms, b.max_time_ms)).collect::<Vec<_>>();
            if memory_bytes == 1 << 30 {
                assert_eq!(of(&copied), of(&decoded));
            } else {
                // Where little memory ends a block depends on what is counted until then, which differs a little.
                assert!(copied.blocks.len() > 1 && decoded.blocks.len() > 1);
                let samples = |written: &Rewritten| written.blocks.iter().map(|b| b.samples).sum::<u64>();
                assert_eq!(samples(&copied), samples(&decoded));
            }
            for block in &copied.blocks {
                let report = isobar_block::reader::verify_block(objects.clone(), &TenantId::default(), Arc::new(block.clone())).await;
                assert_eq!(report.expect("reads").problems, Vec::<String>::new());
            }
        }
    }
}
