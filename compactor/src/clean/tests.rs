//! Cleaning against real stores: what is needed stays, what is not goes, whoever else is at work.

use std::sync::Arc;

use futures::future::join_all;
use isobar_block::cache::CacheConfig;
use isobar_block::local::DurableLocal;
use isobar_block::{
    BlockMeta, BlockReader, BlockStoreConfig, BlockWriter, Labels, SampleBuf, Source, TimeRange, Timestamps, Want, WriterConfig, time,
};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;

use super::*;

fn tenant() -> TenantId {
    TenantId::default()
}

fn open(objects: &Arc<dyn ObjectStore>) -> BlockStore {
    BlockStore::new(objects.clone(), BlockStoreConfig::default())
}

/// Removes what is retired and what is an orphan without waiting.
fn at_once() -> CompactorConfig {
    CompactorConfig { delete_delay: Duration::ZERO, orphan_age: Duration::ZERO, ..CompactorConfig::default() }
}

/// Long enough after now for [`at_once`], by whatever clock.
fn later_ms() -> i64 {
    time::now_ms() + 10_000
}

fn writer(created_ms: i64) -> BlockWriter {
    let mut writer = BlockWriter::new(WriterConfig::new(created_ms));
    let labels = Labels::from_pairs([("__name__", "m")]).expect("valid");
    let timestamps = Timestamps::unshared((0..100).collect());
    writer.push_series(&labels, None, &SampleBuf { timestamps, values: vec![2.5; 100], ..SampleBuf::default() }, &[]).expect("fits");
    writer
}

async fn upload(objects: &Arc<dyn ObjectStore>, created_ms: i64) -> BlockMeta {
    writer(created_ms).finish(&**objects, &tenant()).await.expect("is written")
}

async fn commit(store: &BlockStore, change: Change) -> u64 {
    store.catalog(&tenant()).await.expect("opens").commit(change).await.expect("commits")
}

async fn add(store: &BlockStore, created_ms: i64) -> BlockMeta {
    let meta = upload(store.objects(), created_ms).await;
    commit(store, Change { add: vec![meta.clone()], ..Change::default() }).await;
    meta
}

async fn retire(store: &BlockStore, ids: &[BlockId]) {
    commit(store, Change { remove: ids.to_vec(), ..Change::default() }).await;
}

async fn files(objects: &Arc<dyn ObjectStore>) -> Vec<String> {
    let listed = objects.list(Some(&key::blocks(&tenant())));
    let mut names: Vec<String> = listed.map_ok(|o| o.location.to_string()).try_collect().await.expect("lists");
    names.sort();
    names
}

async fn files_of(objects: &Arc<dyn ObjectStore>, id: BlockId) -> usize {
    files(objects).await.iter().filter(|name| name.contains(&id.to_string())).count()
}

async fn samples(reader: &Arc<BlockReader>) -> usize {
    let mut samples = 0;
    for set in reader.select(&[], TimeRange::ALL, Want::default()).await.expect("selects").sets {
        let mut run = set.load(0..set.len(), TimeRange::ALL).await.expect("loads");
        let mut buf = SampleBuf::default();
        for row in 0..set.len() {
            run.read(row, &mut buf).expect("reads");
            samples += buf.len();
        }
    }
    samples
}

/// A reader that holds an older catalog goes on until the delete delay has passed; then the files go, and the block is forgotten.
async fn retired_blocks_go_after_the_delay(objects: Arc<dyn ObjectStore>) {
    let store = open(&objects);
    let created_ms = time::now_ms() - 3_600_000;
    let (kept, old) = (add(&store, created_ms).await, add(&store, created_ms + 1).await);
    let reader_of_old_catalog = open(&objects);
    let known = reader_of_old_catalog.catalog(&tenant()).await.expect("opens").blocks();
    assert_eq!(known.blocks.len(), 2);
    retire(&store, &[old.ulid]).await;
    let retired_ms = store.catalog(&tenant()).await.expect("opens").blocks().retired[0].retired_ms;

    let config = CompactorConfig::default();
    let delay_ms = config.delete_delay.as_millis() as i64;
    let before = files(&objects).await;
    for now_ms in [retired_ms, retired_ms + delay_ms - 1] {
        assert_eq!(clean(&store, &tenant(), &config, now_ms).await.expect("cleans"), Report::default());
        assert_eq!(files(&objects).await, before);
        for meta in &known.blocks {
            let reader = BlockReader::open(objects.clone(), &tenant(), meta.clone(), &CacheConfig::default()).await.expect("opens");
            assert_eq!(samples(&Arc::new(reader)).await, 100, "a reader of the older catalog");
        }
    }
    let report = clean(&store, &tenant(), &config, retired_ms + delay_ms).await.expect("cleans");
    assert_eq!((report.removed_blocks, report.orphans, report.failed), (1, 0, 0));
    assert!(report.removed_bytes > old.size_bytes, "the files and meta.json");
    assert_eq!((files_of(&objects, old.ulid).await, files_of(&objects, kept.ulid).await), (0, kept.files.len() + 1));
    let state = open(&objects).catalog(&tenant()).await.expect("opens").blocks();
    assert!(state.retired.is_empty() && state.contains(kept.ulid));
    let again = clean(&store, &tenant(), &config, retired_ms + delay_ms).await.expect("cleans");
    assert_eq!(again, Report::default());
}

#[tokio::test]
async fn retired_blocks_go_after_the_delay_in_a_store() {
    retired_blocks_go_after_the_delay(isobar_block::testing::object_store()).await;
}

#[tokio::test]
async fn retired_blocks_go_after_the_delay_on_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    retired_blocks_go_after_the_delay(Arc::new(DurableLocal::new(dir.path()).expect("opens"))).await;
}

/// A removal that was cut short, at any file, is ended by the next one.
async fn half_removed_blocks_are_finished(objects: Arc<dyn ObjectStore>) {
    let store = open(&objects);
    let created_ms = time::now_ms() - 3_600_000;
    for files_gone in 0..=5 {
        let meta = add(&store, created_ms + files_gone).await;
        retire(&store, &[meta.ulid]).await;
        let mut names = vec![META_FILE];
        names.extend(meta.files.iter().map(|f| f.name.as_str()));
        for name in names.into_iter().take(files_gone as usize) {
            objects.delete(&key::block_file(&tenant(), meta.ulid, name)).await.expect("deletes");
        }
    }
    let report = clean(&store, &tenant(), &at_once(), later_ms()).await.expect("cleans");
    assert_eq!((report.removed_blocks, report.failed), (6, 0));
    assert_eq!(files(&objects).await, Vec::<String>::new());
    assert!(store.catalog(&tenant()).await.expect("opens").blocks().retired.is_empty());
}

#[tokio::test]
async fn half_removed_blocks_are_finished_in_a_store() {
    half_removed_blocks_are_finished(isobar_block::testing::object_store()).await;
}

#[tokio::test]
async fn half_removed_blocks_are_finished_on_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    half_removed_blocks_are_finished(Arc::new(DurableLocal::new(dir.path()).expect("opens"))).await;
}

/// Orphans go when both their id and their files are old; what the catalog knows stays, whatever its age.
async fn orphans_go_when_they_are_old(objects: Arc<dyn ObjectStore>) {
    const HOUR_MS: i64 = 3_600_000;
    let store = open(&objects);
    let now_ms = time::now_ms();
    let visible = add(&store, now_ms - 90 * HOUR_MS).await;
    let retired = add(&store, now_ms - 80 * HOUR_MS).await;
    retire(&store, &[retired.ulid]).await;
    let orphan = upload(&objects, now_ms - 70 * HOUR_MS).await;
    let without_meta = upload(&objects, now_ms - 60 * HOUR_MS).await;
    objects.delete(&key::block_file(&tenant(), without_meta.ulid, META_FILE)).await.expect("deletes");
    let young_id = upload(&objects, now_ms).await;
    let stranger = key::blocks(&tenant()).join("not-a-block").join("x");
    objects.put(&stranger, "x".into()).await.expect("writes");
    let config = CompactorConfig { delete_delay: Duration::from_secs(1_000_000), ..CompactorConfig::default() };
    let report = clean(&store, &tenant(), &config, now_ms).await.expect("cleans");
    assert_eq!(report, Report::default(), "ids are old, files are new");
    let after_a_day = now_ms + 23 * HOUR_MS + 3_540_000;
    let report = clean(&store, &tenant(), &config, after_a_day).await.expect("cleans");
    assert_eq!(report, Report::default(), "files are a minute too young");
    let report = clean(&store, &tenant(), &config, now_ms + 24 * HOUR_MS + 60_000).await.expect("cleans");
    assert_eq!((report.orphans, report.removed_blocks, report.failed), (3, 0, 0));
    assert!(report.removed_bytes >= orphan.size_bytes + without_meta.size_bytes + young_id.size_bytes);
    assert!(files_of(&objects, visible.ulid).await > 0 && files_of(&objects, retired.ulid).await > 0);
    let left = files(&objects).await;
    assert!(left.contains(&stranger.to_string()), "what is no block is left alone");
    assert_eq!(left.len(), visible.files.len() + retired.files.len() + 3);
}

#[tokio::test]
async fn orphans_go_when_they_are_old_in_a_store() {
    orphans_go_when_they_are_old(isobar_block::testing::object_store()).await;
}

#[tokio::test]
async fn orphans_go_when_they_are_old_on_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    orphans_go_when_they_are_old(Arc::new(DurableLocal::new(dir.path()).expect("opens"))).await;
}

/// Without a catalog every block looks like an orphan; they are what it can be rebuilt from.
#[tokio::test]
async fn nothing_goes_while_the_catalog_is_missing() {
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let meta = upload(&objects, 5).await;
    let report = clean(&open(&objects), &tenant(), &at_once(), later_ms()).await.expect("cleans");
    assert_eq!(report, Report::default());
    assert_eq!(files_of(&objects, meta.ulid).await, meta.files.len() + 1);
}

/// Blocks are uploaded and committed, and merged into others, while several cleaners run as often as they can. All that the
/// catalog says is there is there.
async fn nothing_needed_is_removed(objects: Arc<dyn ObjectStore>, rounds: usize) {
    let config = CompactorConfig { delete_delay: Duration::ZERO, orphan_age: Duration::from_secs(3600), ..CompactorConfig::default() };
    let stop = Arc::new(tokio::sync::Notify::new());
    let cleaners: Vec<_> = (0..3)
        .map(|_| {
            let (store, config, stop) = (open(&objects), config.clone(), stop.clone());
            tokio::spawn(async move {
                let mut removed = 0;
                let stopped = stop.notified();
                tokio::pin!(stopped);
                while futures::poll!(&mut stopped).is_pending() {
                    let report = clean(&store, &tenant(), &config, time::now_ms()).await.expect("cleans");
                    assert_eq!((report.orphans, report.failed), (0, 0));
                    removed += report.removed_blocks;
                    tokio::task::yield_now().await;
                }
                removed
            })
        })
        .collect();
    let writers = (0..3).map(|_| {
        let store = open(&objects);
        tokio::spawn(async move {
            let mut retired = 0;
            for _ in 0..rounds {
                let (a, b) = (add(&store, time::now_ms()).await, add(&store, time::now_ms()).await);
                let merged = upload(store.objects(), time::now_ms()).await;
                commit(&store, Change { add: vec![merged], remove: vec![a.ulid, b.ulid], ..Change::default() }).await;
                retired += 2;
            }
            retired
        })
    });
    let retired: u64 = join_all(writers).await.into_iter().map(|n| n.expect("ends")).sum();
    stop.notify_waiters();
    let mut removed = 0;
    for cleaner in cleaners {
        removed += cleaner.await.expect("ends");
    }
    let store = open(&objects);
    removed += clean(&store, &tenant(), &config, later_ms()).await.expect("cleans").removed_blocks;
    assert_eq!(removed, retired, "each block is forgotten by one cleaner");
    let state = store.catalog(&tenant()).await.expect("opens").refresh().await.expect("refreshes");
    assert_eq!((state.blocks.len(), state.retired.len()), (3 * rounds, 0));
    for meta in &state.blocks {
        assert_eq!(store.verify(&tenant(), meta).await.expect("reads").problems, Vec::<String>::new());
    }
    let expected: usize = state.blocks.iter().map(|b| b.files.len() + 1).sum();
    assert_eq!(files(&objects).await.len(), expected, "nothing is left over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_needed_is_removed_in_a_store() {
    nothing_needed_is_removed(isobar_block::testing::object_store(), 15).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_needed_is_removed_on_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    nothing_needed_is_removed(Arc::new(DurableLocal::new(dir.path()).expect("opens")), 4).await;
}

/// A commit of a block that passed for an orphan when the bucket was listed: it is looked up again before it is removed.
#[tokio::test]
async fn a_late_commit_saves_an_old_upload() {
    let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (cleaner, other) = (open(&objects), open(&objects));
    let visible = add(&other, 5).await;
    cleaner.catalog(&tenant()).await.expect("opens");
    let late = upload(&objects, 6).await;
    // The cleaner's own view of the catalog is older than this commit.
    commit(&other, Change { add: vec![late.clone()], ..Change::default() }).await;
    let report = clean(&cleaner, &tenant(), &at_once(), later_ms()).await.expect("cleans");
    assert_eq!(report, Report::default());
    for meta in [visible, late] {
        assert_eq!(files_of(&objects, meta.ulid).await, meta.files.len() + 1);
    }
}
