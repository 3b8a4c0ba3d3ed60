//! Tests of the catalog: several committers, checkpoints, damage.

use std::collections::BTreeSet;

use object_store::memory::InMemory;
use object_store::{ObjectStoreExt, PutPayload};

use super::*;
use crate::local::DurableLocal;

fn meta(n: i64) -> BlockMeta {
    BlockMeta {
        ulid: BlockId::from_parts(n, n as u128),
        format: 1,
        min_time_ms: n,
        max_time_ms: n,
        window_ms: 1,
        resolution_ms: 0,
        level: 0,
        series: 1,
        samples: 1,
        histograms: 0,
        exemplars: 0,
        size_bytes: 1,
        created_ms: n,
        precedence_ms: n,
        sources: Vec::new(),
        writers: Vec::new(),
        files: Vec::new(),
    }
}

fn add(n: i64) -> Change {
    Change { add: vec![meta(n)], ..Change::default() }
}

async fn open(store: &Arc<dyn ObjectStore>) -> Catalog {
    Catalog::open(store.clone(), TenantId::default()).await.expect("opens")
}

/// Several committers with catalogs of their own add blocks and merge pairs of them; nothing may be lost or merged twice.
async fn race(store: Arc<dyn ObjectStore>, rounds: i64) {
    const COMMITTERS: i64 = 5;
    let mut tasks = Vec::new();
    for committer in 0..COMMITTERS {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let catalog = open(&store).await;
            let mut merged = Vec::new();
            for round in 0..rounds {
                let id = 1 + committer * 1000 + round;
                catalog.commit(add(id)).await.expect("commits");
                let state = catalog.refresh().await.expect("refreshes");
                // All committers see the same two oldest blocks, so that they want to merge the same ones.
                let inputs: Vec<BlockId> = state.blocks.iter().filter(|b| b.level == 0).take(2).map(|b| b.ulid).collect();
                if inputs.len() < 2 {
                    continue;
                }
                let output = BlockMeta { level: 1, sources: inputs.clone(), ..meta(100_000 + id) };
                match catalog.commit(Change { add: vec![output], remove: inputs.clone(), forget: Vec::new() }).await {
                    Ok(_) => merged.extend(inputs),
                    Err(Error::Conflict { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            merged
        }));
    }
    let mut merged = Vec::new();
    for task in tasks {
        merged.extend(task.await.expect("ends"));
    }
    let merged_set: BTreeSet<BlockId> = merged.iter().copied().collect();
    assert_eq!(merged.len(), merged_set.len(), "a block was merged twice");
    let state = open(&store).await.blocks();
    let raw: BTreeSet<BlockId> = state.blocks.iter().filter(|b| b.level == 0).map(|b| b.ulid).collect();
    assert_eq!(raw.len() + merged.len(), (COMMITTERS * rounds) as usize, "a block was lost");
    assert!(raw.is_disjoint(&merged_set));
    let sources: BTreeSet<BlockId> = state.blocks.iter().flat_map(|b| b.sources.clone()).collect();
    assert_eq!(sources, merged_set);
    assert_eq!(state.retired.iter().map(|r| r.ulid).collect::<BTreeSet<_>>(), merged_set);
    assert_eq!(state.version, COMMITTERS as u64 * rounds as u64 + merged.len() as u64 / 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committers_race_in_memory() {
    race(Arc::new(InMemory::new()), 30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committers_race_on_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    race(Arc::new(DurableLocal::new(dir.path()).expect("opens")), 8).await;
}

#[tokio::test]
async fn reopens_from_checkpoints() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let catalog = open(&store).await;
    assert_eq!(*catalog.blocks(), CatalogState::default());
    let mut versions = catalog.subscribe();
    for n in 1..=150 {
        catalog.commit(add(n)).await.expect("commits");
        if n % 3 == 0 {
            catalog.commit(Change { remove: vec![meta(n - 1).ulid], ..Change::default() }).await.expect("commits");
        }
        if n % 30 == 0 {
            catalog.commit(Change { forget: vec![meta(n - 1).ulid], ..Change::default() }).await.expect("commits");
        }
        if n % 50 == 0 {
            assert_eq!(open(&store).await.blocks(), catalog.blocks());
        }
    }
    assert_eq!(*versions.borrow_and_update(), catalog.blocks().version);
    let log = ObjectLog::new(store.clone(), key::catalog(&TenantId::default()));
    assert!(log.start().await.expect("lists").checkpoint.is_some_and(|(n, _)| n == 192));
    assert_eq!(open(&store).await.blocks(), catalog.blocks());
    assert!(catalog.blocks().blocks.is_sorted_by_key(|b| b.precedence()));
}

#[tokio::test]
async fn refuses_what_does_not_fit() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let catalog = open(&store).await;
    catalog.commit(add(1)).await.expect("commits");
    let conflicts =
        [add(1), Change { remove: vec![meta(2).ulid], ..Change::default() }, Change { forget: vec![meta(1).ulid], ..Change::default() }];
    for change in conflicts {
        assert!(matches!(catalog.commit(change).await, Err(Error::Conflict { entry: 2, .. })));
    }
    let newer = BlockMeta { format: 99, ..meta(5) };
    assert!(matches!(catalog.commit(Change { add: vec![newer], ..Change::default() }).await, Err(Error::Version { .. })));
    catalog.commit(Change { remove: vec![meta(1).ulid], ..Change::default() }).await.expect("commits");
    assert!(matches!(catalog.commit(add(1)).await, Err(Error::Conflict { .. })), "a retired block must not come back");
    assert_eq!(open(&store).await.blocks().version, 2);
}

#[tokio::test]
async fn damage_is_named() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let catalog = open(&store).await;
    for n in 1..=3 {
        catalog.commit(add(n)).await.expect("commits");
    }
    let key = key::log_entry(&key::catalog(&TenantId::default()), 2);
    let good = store.get(&key).await.expect("reads").bytes().await.expect("reads");
    for i in 0..good.len() {
        let mut bad = good.to_vec();
        bad[i] ^= 4;
        store.put(&key, PutPayload::from(bad)).await.expect("writes");
        let error = Catalog::open(store.clone(), TenantId::default()).await.expect_err("byte is flipped");
        assert!(matches!(&error, Error::Corrupt { object, .. } if object == key.as_ref()), "{error}");
    }
    store.delete(&key).await.expect("deletes");
    let error = Catalog::open(store.clone(), TenantId::default()).await.expect_err("entry is missing");
    assert!(matches!(&error, Error::Corrupt { object, .. } if object == key.as_ref()), "{error}");
    store.put(&key, PutPayload::from_bytes(good)).await.expect("writes");
    assert_eq!(open(&store).await.blocks(), catalog.blocks());
}

#[tokio::test]
async fn wal_marks_are_the_highest_of_all_blocks() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let catalog = open(&store).await;
    for (n, end) in [(1, 7), (2, 5)] {
        let block = BlockMeta { writers: vec![crate::WriterMark { id: "a".into(), wal_segment_end: end }], ..meta(n) };
        catalog.commit(Change { add: vec![block], ..Change::default() }).await.expect("commits");
    }
    assert_eq!(catalog.blocks().wal_segment_end("a"), 7);
    assert_eq!(catalog.blocks().wal_segment_end("b"), 0);
}
