//! Damaged and missing files: every flipped byte gives an error that names the object, or the same answer.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;
use object_store::PutPayload;

use super::*;
use crate::testing::object_store;
use crate::writer::{BlockWriter, WriterConfig};
use crate::{MetricType, SampleBuf, Timestamps, Want};

fn small_block() -> crate::writer::EncodedBlock {
    let mut config = WriterConfig::new(1_700_000_000_000);
    config.series_per_group = 3;
    config.chunks_per_group = 5;
    config.page_bytes = 64;
    config.label_columns = 3;
    let mut writer = BlockWriter::new(config);
    let times = Timestamps::shared((0..100).map(|i| i * 100_000).collect());
    let mut rows = BTreeMap::new();
    for i in 0..8 {
        let labels = [("__name__", "m"), ("job", ["a", "b"][i % 2]), ("n", &i.to_string()), ("rare", ["", "x"][i / 5])];
        let values = (0..100).map(|t| if t == 50 { crate::stale_nan() } else { (t * i) as f64 / 10.0 }).collect();
        let samples = SampleBuf { timestamps: times.clone(), values, histograms: Vec::new(), counts: Vec::new() };
        rows.insert(Labels::from_pairs(labels).expect("valid"), samples);
    }
    let metadata = Metadata { metric_type: MetricType::Gauge, help: "helps".into(), unit: "s".into() };
    for (labels, samples) in rows {
        let exemplar = Exemplar { labels: labels.clone(), value: 1.5, timestamp_ms: 100_000 };
        writer.push_series(&labels, Some(&metadata), &samples, &[exemplar]).expect("fits");
    }
    writer.encode().expect("encodes")
}

/// Everything that can be read from a block, as text.
async fn read_all(store: Arc<dyn ObjectStore>, meta: &BlockMeta) -> Result<String> {
    let reader = Arc::new(BlockReader::open(store, &TenantId::default(), Arc::new(meta.clone()), &CacheConfig::default()).await?);
    let mut out = String::new();
    let mut buf = SampleBuf::default();
    for set in reader.select(&[], TimeRange::ALL, Want::default()).await?.sets {
        let mut run = set.load(0..set.len(), TimeRange::ALL).await?;
        for row in 0..set.len() {
            run.read(row, &mut buf)?;
            let bits: Vec<u64> = buf.values.iter().map(|v| v.to_bits()).collect();
            writeln!(out, "{} {:?} {bits:?}", set.labels(row), &*buf.timestamps).expect("memory");
        }
    }
    writeln!(out, "{:?}", reader.label_names(&[], TimeRange::ALL).await?).expect("memory");
    writeln!(out, "{:?}", reader.exemplars(&[], TimeRange::ALL).await?).expect("memory");
    writeln!(out, "{:?}", reader.metadata(None).await?).expect("memory");
    Ok(out)
}

async fn store_of(files: &BTreeMap<String, Bytes>, meta: &BlockMeta) -> Arc<dyn ObjectStore> {
    let store = object_store();
    for (name, bytes) in files {
        store.put(&key::block_file(&TenantId::default(), meta.ulid, name), PutPayload::from_bytes(bytes.clone())).await.expect("writes");
    }
    Arc::new(store)
}

fn files_of(block: &crate::writer::EncodedBlock) -> BTreeMap<String, Bytes> {
    block.files().map(|(name, bytes)| (name.to_owned(), bytes.clone())).collect()
}

#[tokio::test]
async fn every_flipped_byte_is_an_error_or_harmless() {
    let block = small_block();
    let files = files_of(&block);
    assert_eq!(files.len(), 5);
    let expected = read_all(store_of(&files, &block.meta).await, &block.meta).await.expect("reads");
    assert!(expected.contains("\"rare\""));
    for (name, bytes) in &files {
        let key = key::block_file(&TenantId::default(), block.meta.ulid, name);
        let mut errors = 0;
        for i in 0..bytes.len() {
            let mut bad = bytes.to_vec();
            bad[i] ^= 1 << (i % 8);
            let mut damaged = files.clone();
            damaged.insert(name.clone(), bad.into());
            match read_all(store_of(&damaged, &block.meta).await, &block.meta).await {
                Ok(answer) => assert_eq!(answer, expected, "byte {i} of {name}"),
                Err(Error::Corrupt { object, .. }) => {
                    assert_eq!(object, key.as_ref(), "byte {i} of {name}");
                    errors += 1;
                }
                Err(other) => panic!("byte {i} of {name}: {other}"),
            }
        }
        assert_eq!(errors, bytes.len(), "{name} is small enough for one checksum");
    }
}

#[tokio::test]
async fn cut_and_missing_files_are_errors() {
    let block = small_block();
    let files = files_of(&block);
    for (name, bytes) in &files {
        for len in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            let mut damaged = files.clone();
            damaged.insert(name.clone(), bytes.slice(..len));
            let error = read_all(store_of(&damaged, &block.meta).await, &block.meta).await.expect_err("cut off");
            assert!(error.to_string().contains(name.as_str()), "{error}");
        }
        let mut damaged = files.clone();
        damaged.remove(name);
        let store = store_of(&damaged, &block.meta).await;
        let error = read_all(store.clone(), &block.meta).await.expect_err("missing");
        assert!(
            matches!(&error, Error::Store(object_store::Error::NotFound { .. })) && error.to_string().contains(name.as_str()),
            "{error}"
        );
        let report = verify_block(store, &TenantId::default(), Arc::new(block.meta.clone())).await.expect("reports");
        assert!(report.problems.iter().any(|p| p.contains(name.as_str())), "{report:?}");
    }
}

#[tokio::test]
async fn verification_compares_with_the_catalog() {
    let block = small_block();
    let store: Arc<dyn ObjectStore> = object_store();
    block.upload(&*store, &TenantId::default()).await.expect("uploads");
    let report = verify_block(store.clone(), &TenantId::default(), Arc::new(block.meta.clone())).await.expect("reads");
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.series, report.samples, report.exemplars), (8, 800, 8));
    let wrong = BlockMeta { samples: 1, max_time_ms: 5, ..block.meta.clone() };
    let report = verify_block(store, &TenantId::default(), Arc::new(wrong)).await.expect("reads");
    assert_eq!(report.problems.len(), 3, "{report:?}");
}

#[tokio::test]
async fn newer_formats_are_refused() {
    let block = small_block();
    let files = files_of(&block);
    let meta = BlockMeta { format: 2, ..block.meta.clone() };
    let error = read_all(store_of(&files, &meta).await, &meta).await.expect_err("too new");
    assert!(matches!(error, Error::Version { version: 2, supported: 1, .. }), "{error}");
}

/// What the frozen files of each format version say, in the words of `expected.json` beside them.
async fn frozen(version: &str) -> (serde_json::Value, serde_json::Value) {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(version);
    let expected = std::fs::read(root.join("expected.json")).expect("the frozen files are in the repository");
    let objects = object_store::local::LocalFileSystem::new_with_prefix(&root).expect("opens");
    let store = crate::BlockStore::new(Arc::new(objects), crate::BlockStoreConfig::default());
    let tenant = TenantId::new("frozen").expect("valid");
    for block in &store.catalog(&tenant).await.expect("opens").blocks().blocks {
        assert_eq!(store.verify(&tenant, block).await.expect("reads").problems, Vec::<String>::new());
    }
    let source = store.source(&tenant);
    let mut series = Vec::new();
    let mut buf = SampleBuf::default();
    for set in source.select(&[], TimeRange::ALL, Want::default()).await.expect("selects").sets {
        let mut run = set.load(0..set.len(), TimeRange::ALL).await.expect("loads");
        for row in 0..set.len() {
            run.read(row, &mut buf).expect("reads");
            let labels: BTreeMap<&str, &str> = set.labels(row).iter().collect();
            let bits: Vec<String> = buf.values.iter().map(|v| format!("{:016x}", v.to_bits())).collect();
            let histograms: Vec<(u32, String)> = buf.histograms.iter().map(|(i, h)| (*i, format!("{h:?}"))).collect();
            series.push(serde_json::json!({
                "labels": labels, "timestamps_ms": &buf.timestamps[..], "value_bits": bits, "histograms": histograms,
            }));
        }
    }
    let exemplars = source.exemplars(&[], TimeRange::ALL).await.expect("answers");
    let exemplars: Vec<String> = exemplars.iter().map(|e| format!("{e:?}")).collect();
    let found = serde_json::json!({
        "series": series,
        "exemplars": exemplars,
        "metadata": source.metadata(None).await.expect("answers"),
    });
    (found, serde_json::from_slice(&expected).expect("is JSON"))
}

#[tokio::test]
async fn frozen_blocks_are_read_for_ever() {
    for version in ["v1"] {
        let (found, expected) = frozen(version).await;
        assert!(expected["series"].as_array().is_some_and(|s| s.len() > 10));
        assert_eq!(found, expected, "{version}");
    }
}
