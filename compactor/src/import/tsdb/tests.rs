//! Blocks made by the real Prometheus 2.42, in `testdata/prometheus-2.42`: `floats` by `promtool tsdb create-blocks-from
//! openmetrics` with some samples deleted, `histograms` by a scrape, `long` by promtool with blocks of a day. The texts beside them are what Prometheus says is in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path as FsPath;
use std::sync::Arc;

use isobar_block::histogram::Counts;
use isobar_block::{BlockStoreConfig, SampleBuf, TenantId, TimeRange, Want, is_stale};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};

use super::*;

mod custom;

const FLOATS: &str = "floats";
const HISTOGRAMS: &str = "histograms";

fn testdata() -> std::path::PathBuf {
    FsPath::new(env!("CARGO_MANIFEST_DIR")).join("testdata/prometheus-2.42")
}

/// Files of a block by path.
fn files(of: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = testdata().join(of);
    let read = |path: &str| fs::read(folder.join(path)).ok().map(|bytes| (path.to_owned(), bytes));
    ["meta.json", "index", "chunks/000001", "tombstones"].iter().filter_map(|p| read(p)).collect()
}

async fn place(blocks: &[(&str, &BTreeMap<String, Vec<u8>>)]) -> Place {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    for (id, files) in blocks {
        for (path, bytes) in *files {
            store.put(&Path::from(format!("{id}/{path}")), bytes.clone().into()).await.expect("put");
        }
    }
    Place { store, name: "bucket: ".into() }
}

const ID: &str = "01M812W0FYPZSWR0AHFRCDJZ7W";

fn config(labels: &[(&str, &str)]) -> ImportConfig {
    let labels = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    ImportConfig { tenant: TenantId::default(), labels, memory_bytes: 64 << 20 }
}

fn store() -> BlockStore {
    BlockStore::new(Arc::new(InMemory::new()), BlockStoreConfig::default())
}

async fn import_all(blocks: &BlockStore, place: &Place, config: &ImportConfig) -> Result<Imported> {
    let found = find(place).await?;
    import(blocks, found.blocks.first().expect("a block is there"), config, &|_| {}).await
}

/// Every series with its samples.
async fn read(blocks: &BlockStore) -> BTreeMap<String, SampleBuf> {
    let source = blocks.source(&TenantId::default());
    let mut out = BTreeMap::new();
    for set in source.select(&[], TimeRange::ALL, Want::default()).await.expect("selects").sets {
        let mut run = set.load(0..set.len(), TimeRange::ALL).await.expect("loads");
        for row in 0..set.len() {
            let mut buf = SampleBuf::default();
            run.read(row, &mut buf).expect("reads");
            let labels: Vec<String> = set.labels(row).iter().map(|(n, v)| format!("{n}={v:?}")).collect();
            let before = out.insert(format!("{{{}}}", labels.join(", ")), buf);
            assert!(before.is_none(), "each series is in one block");
        }
    }
    out
}

#[tokio::test]
async fn floats_are_those_that_promtool_dumps() {
    let blocks = store();
    let imported = import_all(&blocks, &place(&[(ID, &files(FLOATS))]).await, &config(&[])).await.expect("imports");
    assert!(matches!(imported, Imported::Now { blocks: 1, samples: 1097, .. }), "{imported:?}");
    let mut dumped: BTreeMap<String, Vec<(i64, f64)>> = BTreeMap::new();
    for line in fs::read_to_string(testdata().join("floats.txt")).expect("is there").lines() {
        let (series, rest) = line.split_once("} ").expect("a series");
        let (value, t) = rest.split_once(' ').expect("a value and a time");
        dumped.entry(format!("{series}}}")).or_default().push((t.parse().expect("time"), value.parse().expect("value")));
    }
    let got = read(&blocks).await;
    assert_eq!(got.keys().collect::<Vec<_>>(), dumped.keys().collect::<Vec<_>>());
    for (series, mut expected) in dumped {
        expected.sort_by_key(|(t, _)| *t);
        let samples = &got[&series];
        assert_eq!(&samples.timestamps[..], expected.iter().map(|(t, _)| *t).collect::<Vec<_>>(), "{series}");
        for (a, (_, b)) in samples.values.iter().zip(expected) {
            assert!(a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()), "{series}: {a} {b}");
        }
    }
    let catalog = blocks.catalog(&TenantId::default()).await.expect("catalog").blocks();
    let block = &catalog.blocks[0];
    assert!(block.precedence_ms < block.min_time_ms && block.deletions_ms > 0, "{block:?}");
    assert!(block.sources.contains(&ID.parse().expect("an id")));
    assert!(blocks.verify(&TenantId::default(), block).await.expect("verifies").is_sound());
}

#[tokio::test]
async fn histograms_are_those_that_prometheus_answers() {
    let blocks = store();
    let place = place(&[("01M812V7NS314SNMM0QWRCJQ63", &files(HISTOGRAMS))]).await;
    let imported = import_all(&blocks, &place, &config(&[])).await.expect("imports");
    assert!(matches!(imported, Imported::Now { samples: 308, .. }), "{imported:?}");
    let got = read(&blocks).await;
    let (_, samples) = got.iter().find(|(series, _)| series.contains("req_seconds")).expect("is there");
    assert_eq!(samples.histograms.len(), samples.len());
    let shown: Vec<String> = samples
        .timestamps
        .iter()
        .zip(&samples.histograms)
        .filter(|(_, (_, h))| !is_stale(h.sum))
        .map(|(t, (_, h))| {
            let Counts::Integer { count, positive, negative, .. } = &h.counts else { panic!("these have integer counts") };
            let buckets = negative.iter().rev().chain(positive).filter(|c| **c > 0);
            let buckets: Vec<String> = buckets.map(u64::to_string).collect();
            format!("{t} {count} {} {}\n", h.sum, buckets.join(" "))
        })
        .collect();
    assert_eq!(shown.concat(), fs::read_to_string(testdata().join("histograms.txt")).expect("is there"));
}

#[tokio::test]
async fn again_changes_nothing_and_other_labels_are_another_import() {
    let blocks = store();
    let mut files = files(FLOATS);
    let meta = String::from_utf8(files["meta.json"].clone()).expect("text");
    let thanos = r#""thanos": {"labels": {"job": "all", "replica": "a"}, "downsample": {"resolution": 0}, "source": "sidecar"}, "version""#;
    files.insert("meta.json".into(), meta.replace("\"version\"", thanos).into_bytes());
    let place = place(&[(ID, &files)]).await;
    import_all(&blocks, &place, &config(&[("dc", "x")])).await.expect("imports");
    let catalog = blocks.catalog(&TenantId::default()).await.expect("catalog");
    let version = catalog.blocks().version;
    assert_eq!(import_all(&blocks, &place, &config(&[("dc", "x")])).await.expect("imports"), Imported::Before);
    assert_eq!(catalog.blocks().version, version);
    let got = read(&blocks).await;
    assert!(got.keys().all(|s| s.contains("dc=\"x\", job=\"all\", replica=\"a\"")), "{:?}", got.keys());
    assert!(matches!(import_all(&blocks, &place, &config(&[("dc", "y")])).await.expect("imports"), Imported::Now { .. }));

    // The record is found although no block names the import any more.
    let remove = catalog.blocks().blocks.iter().map(|b| b.ulid).collect();
    catalog.commit(isobar_block::Change { remove, ..Default::default() }).await.expect("commits");
    assert_eq!(import_all(&blocks, &place, &config(&[("dc", "x")])).await.expect("imports"), Imported::Before);
}

#[tokio::test]
async fn series_that_become_one_are_joined() {
    let blocks = store();
    let place = place(&[(ID, &files(FLOATS))]).await;
    import_all(&blocks, &place, &config(&[("Instance", "all"), ("job", "all"), ("zone", "all")])).await.expect("imports");
    let got = read(&blocks).await;
    assert_eq!(got.len(), 3);
    let reqs = got.iter().find(|(s, _)| s.contains("reqs_total")).expect("is there").1;
    // Four series whose times differ by a millisecond.
    assert!(reqs.timestamps.is_sorted_by(|a, b| a < b) && reqs.len() > 900, "{}", reqs.len());
}

#[tokio::test]
async fn several_passes_give_the_same() {
    let source = SourceBlock {
        place: place(&[]).await,
        folder: Path::default(),
        meta: serde_json::from_str(r#"{"ulid":"01M812W0FYPZSWR0AHFRCDJZ7W","minTime":0,"maxTime":86400000,"version":1}"#).expect("meta"),
    };
    let all = passes(&source, 10 << 20, 3 << 20);
    assert_eq!(all.len(), 4);
    assert_eq!((all[0].0, all[3].1), (0, 86_399_999));
    assert!(all.windows(2).all(|w| w[0].1 + 1 == w[1].0 && w[1].0 % SPAN_MS == 0), "{all:?}");
    assert_eq!(passes(&source, 0, 1).len(), 1);
    assert_eq!(passes(&source, 1 << 40, 1).len(), 12);
}

/// With hardly any memory each span is a pass, and each series a block.
#[tokio::test]
async fn little_memory_gives_the_same_samples() {
    let files = files("long");
    let mut all = Vec::new();
    for memory_bytes in [64 << 20, 1] {
        let blocks = store();
        let config = ImportConfig { memory_bytes, ..config(&[]) };
        let imported = import_all(&blocks, &place(&[("01M815680WM3D8FYH36ZM4F1JE", &files)]).await, &config).await.expect("imports");
        let Imported::Now { blocks: number, samples, .. } = imported else { panic!("{imported:?}") };
        assert_eq!((number, samples), (if memory_bytes == 1 { 9 } else { 3 }, 216));
        let mut read: BTreeMap<String, Vec<(i64, u64)>> = BTreeMap::new();
        let source = blocks.source(&TenantId::default());
        for set in source.select(&[], TimeRange::ALL, Want::default()).await.expect("selects").sets {
            let mut run = set.load(0..set.len(), TimeRange::ALL).await.expect("loads");
            for row in 0..set.len() {
                let mut buf = SampleBuf::default();
                run.read(row, &mut buf).expect("reads");
                let samples = buf.timestamps.iter().copied().zip(buf.values.iter().map(|v| v.to_bits()));
                read.entry(set.labels(row).to_string()).or_default().extend(samples);
            }
        }
        read.values_mut().for_each(|s| s.sort_unstable());
        assert!(read.len() == 3 && read.values().all(|s| s.len() == 72));
        all.push(read);
    }
    assert_eq!(all[0], all[1]);
}

#[tokio::test]
async fn what_is_skipped_is_said() {
    let (good, mut marked, mut downsampled, mut partial) = (files(FLOATS), files(FLOATS), files(FLOATS), files(FLOATS));
    marked.insert("deletion-mark.json".into(), b"{}".to_vec());
    let meta = String::from_utf8(downsampled["meta.json"].clone()).expect("text");
    let thanos = "\"thanos\": {\"downsample\": {\"resolution\": 300000}}, \"version\"";
    downsampled.insert("meta.json".into(), meta.replace("\"version\"", thanos).into_bytes());
    partial.remove("meta.json");
    let ids: Vec<String> = (1..=4).map(|i| isobar_block::BlockId::from_parts(i, 0).to_string()).collect();
    let found = [(&*ids[0], &good), (&*ids[1], &marked), (&*ids[2], &downsampled), (&*ids[3], &partial)];
    let found = find(&place(&found).await).await.expect("finds");
    assert_eq!(found.blocks.len(), 1);
    let why: Vec<&str> = found.skipped.iter().map(|(_, why)| why.as_str()).collect();
    assert!(why[0].contains("deletion-mark") && why[1].contains("300 s") && why[2].contains("no meta.json"), "{why:?}");
    let nothing = find(&place(&[]).await).await.expect_err("nothing is there").to_string();
    assert!(nothing.contains("snapshot"), "{nothing}");
}

/// All that a store holds, to be compared: vectors of timestamps have ids, and NaN is not itself.
fn bits(series: &BTreeMap<String, SampleBuf>) -> Vec<(&str, &[i64], Vec<u64>, String)> {
    let of = |s: &SampleBuf| (s.values.iter().map(|v| v.to_bits()).collect(), format!("{:?}", s.histograms));
    let all = series.iter().map(|(name, s)| (name.as_str(), &s.timestamps[..], of(s)));
    all.map(|(name, times, (values, histograms))| (name, times, values, histograms)).collect()
}

/// Cut off at any place and with any byte changed, a block gives an error that names the file, or the very same samples where
/// the byte does not matter. It never panics, and never gives other samples.
#[tokio::test]
async fn damage_is_found_wherever_it_is() {
    for of in [FLOATS, HISTOGRAMS] {
        let good = files(of);
        let whole = store();
        import_all(&whole, &place(&[(ID, &good)]).await, &config(&[])).await.expect("imports");
        let expected = read(&whole).await;
        let (mut refused, mut harmless) = (0, 0);
        for path in ["index", "chunks/000001", "tombstones"] {
            let Some(bytes) = good.get(path) else { continue };
            for at in (0..bytes.len()).step_by(7).chain([bytes.len() - 1]) {
                let mut flipped = bytes.clone();
                flipped[at] ^= 0x41;
                for damaged in [flipped, bytes[..at].to_vec()] {
                    let mut bad = good.clone();
                    bad.insert(path.into(), damaged);
                    let blocks = store();
                    match import_all(&blocks, &place(&[(ID, &bad)]).await, &config(&[])).await {
                        Ok(_) => {
                            harmless += 1;
                            assert!(bits(&read(&blocks).await) == bits(&expected), "{path} {at}");
                        }
                        Err(Error::File { path: named, .. }) => {
                            refused += 1;
                            assert!(named.contains(path) && named.contains("byte"), "{path} {at}: {named}");
                            let catalog = blocks.catalog(&TenantId::default()).await.expect("catalog");
                            assert!(catalog.blocks().blocks.is_empty());
                        }
                        Err(other) => panic!("{path} {at}: {other}"),
                    }
                }
            }
        }
        assert!(refused > 500 && harmless < refused, "{refused} {harmless}");
    }
}
