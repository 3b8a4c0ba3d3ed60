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
        deletions_ms: 0,
        raw_samples: 0,
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
                match catalog.commit(Change { add: vec![output], remove: inputs.clone(), ..Change::default() }).await {
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
async fn committers_race_in_a_store() {
    race(crate::testing::object_store(), 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committers_race_on_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    race(Arc::new(DurableLocal::new(dir.path()).expect("opens")), 8).await;
}

#[tokio::test]
async fn reopens_from_checkpoints() {
    let store: Arc<dyn ObjectStore> = crate::testing::object_store();
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
    let store: Arc<dyn ObjectStore> = crate::testing::object_store();
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
    let store: Arc<dyn ObjectStore> = crate::testing::object_store();
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
    let store: Arc<dyn ObjectStore> = crate::testing::object_store();
    let catalog = open(&store).await;
    for (n, end) in [(1, 7), (2, 5)] {
        let block = BlockMeta { writers: vec![crate::WriterMark { id: "a".into(), wal_segment_end: end }], ..meta(n) };
        catalog.commit(Change { add: vec![block], ..Change::default() }).await.expect("commits");
    }
    assert_eq!(catalog.blocks().wal_segment_end("a"), 7);
    assert_eq!(catalog.blocks().wal_segment_end("b"), 0);
}

fn tombstone(n: i64) -> Tombstone {
    let matcher = TombstoneMatcher { name: "job".into(), op: "=~".into(), value: "a|b".into() };
    Tombstone { id: BlockId::from_parts(n, 7), selectors: vec![vec![matcher]], min_time_ms: i64::MIN, max_time_ms: i64::MAX, created_ms: n }
}

fn quarantined(n: i64) -> Quarantined {
    Quarantined { ulid: meta(n).ulid, since_ms: n, reason: "chunks.parquet: checksum".into() }
}

fn mask(n: i64) -> Change {
    Change { mask: vec![tombstone(n)], ..Change::default() }
}

fn unmask(n: i64) -> Change {
    Change { unmask: vec![tombstone(n).id], ..Change::default() }
}

fn quarantine(n: i64) -> Change {
    Change { quarantine: vec![quarantined(n)], ..Change::default() }
}

fn release(n: i64) -> Change {
    Change { release: vec![meta(n).ulid], ..Change::default() }
}

fn remove(n: i64) -> Change {
    Change { remove: vec![meta(n).ulid], ..Change::default() }
}

/// Deletions and quarantine are in the entries and in the checkpoints, and end when they are told to.
async fn deletions_and_quarantine_last(store: Arc<dyn ObjectStore>) {
    let catalog = open(&store).await;
    for n in 1..=CHECKPOINT_INTERVAL as i64 * 2 {
        let mut change = add(n);
        if n % 4 == 0 {
            change.mask.push(tombstone(n));
            change.quarantine.push(quarantined(n - 1));
        }
        if n % 8 == 0 {
            change.unmask.push(tombstone(n - 4).id);
            change.release.push(meta(n - 5).ulid);
        }
        if n % 16 == 0 {
            change.remove.push(meta(n - 9).ulid);
        }
        catalog.commit(change).await.expect("commits");
        let is_checkpoint = (n as u64).is_multiple_of(CHECKPOINT_INTERVAL);
        if is_checkpoint || n == 40 {
            assert_eq!(open(&store).await.blocks(), catalog.blocks(), "after {n}");
        }
    }
    let state = open(&store).await.blocks();
    assert_eq!(state, catalog.blocks());
    let every_eighth: Vec<i64> = (8..=128).step_by(8).collect();
    assert_eq!(state.tombstones.iter().map(|t| t.created_ms).collect::<Vec<_>>(), every_eighth);
    assert_eq!(*state.tombstones[0], tombstone(8));
    // Of those in quarantine every second was removed from the catalog, and left it by that.
    assert_eq!(state.quarantined.iter().map(|q| q.since_ms).collect::<Vec<_>>(), (15..=127).step_by(16).collect::<Vec<_>>());
    assert_eq!(state.quarantine_of(meta(15).ulid), Some(&quarantined(15)));
    assert_eq!(state.quarantine_of(meta(7).ulid), None);
    assert!(!state.contains(meta(7).ulid) && state.contains(meta(15).ulid));
}

#[tokio::test]
async fn deletions_and_quarantine_last_in_a_store() {
    deletions_and_quarantine_last(crate::testing::object_store()).await;
}

#[tokio::test]
async fn deletions_and_quarantine_last_on_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    deletions_and_quarantine_last(Arc::new(DurableLocal::new(dir.path()).expect("opens"))).await;
}

#[tokio::test]
async fn refuses_deletions_and_quarantine_that_do_not_fit() {
    let store: Arc<dyn ObjectStore> = crate::testing::object_store();
    let catalog = open(&store).await;
    for change in [add(1), add(2), mask(1), quarantine(1)] {
        catalog.commit(change).await.expect("commits");
    }
    for change in [mask(1), unmask(2), quarantine(1), quarantine(3), release(2), release(3)] {
        assert!(matches!(catalog.commit(change.clone()).await, Err(Error::Conflict { entry: 5, .. })), "{change:?}");
    }
    catalog.commit(remove(1)).await.expect("a damaged block can be removed");
    for change in [release(1), quarantine(1)] {
        assert!(matches!(catalog.commit(change.clone()).await, Err(Error::Conflict { entry: 6, .. })), "{change:?}");
    }
    let swap = Change { mask: vec![tombstone(3)], unmask: vec![tombstone(1).id], ..Change::default() };
    catalog.commit(swap).await.expect("commits");
    assert_eq!(open(&store).await.blocks().tombstones, [Arc::new(tombstone(3))]);
}

/// Of two that want the same deletion, quarantine or end of it one wins.
#[tokio::test]
async fn deletions_and_quarantine_are_taken_once() {
    let store: Arc<dyn ObjectStore> = crate::testing::object_store();
    let (first, second) = (open(&store).await, open(&store).await);
    first.commit(add(1)).await.expect("commits");
    for change in [mask(1), quarantine(1), unmask(1), release(1)] {
        let results = [first.commit(change.clone()).await, second.commit(change).await];
        assert!(results[0].is_ok() && matches!(results[1], Err(Error::Conflict { .. })), "{results:?}");
    }
    assert_eq!(second.blocks().version, 5);
}

/// Catalogs that were written before there were deletions are read, and what is not known is refused.
#[tokio::test]
async fn entries_may_lack_new_fields_but_not_have_unknown_ones() {
    for (field, is_known) in [("", true), (r#","mask":[]"#, true), (r#","quarantine":[]"#, true), (r#","paint":[]"#, false)] {
        let store: Arc<dyn ObjectStore> = crate::testing::object_store();
        let log = ObjectLog::new(store.clone(), key::catalog(&TenantId::default()));
        let block = serde_json::to_string(&meta(1)).expect("serializes");
        assert!(!block.contains("deletions_ms"), "absent where nothing was carried out");
        let entry = format!(r#"{{"number":1,"commit":"{}","at_ms":1,"add":[{block}]{field}}}"#, meta(9).ulid);
        assert!(log.create(1, entry.as_bytes()).await.expect("writes"));
        let opened = Catalog::open(store, TenantId::default()).await;
        assert_eq!(opened.is_ok(), is_known, "{field}");
        if let Ok(catalog) = opened {
            assert_eq!(catalog.blocks().blocks, [Arc::new(meta(1))]);
        }
    }
    let rewritten = BlockMeta { deletions_ms: 5, ..meta(1) };
    let json = serde_json::to_string(&rewritten).expect("serializes");
    assert_eq!(serde_json::from_str::<BlockMeta>(&json).expect("parses"), rewritten);
}

#[test]
fn deletions_apply_to_older_data_that_overlaps() {
    let bounded = Tombstone { min_time_ms: 10, max_time_ms: 20, ..tombstone(100) };
    let block = BlockMeta { min_time_ms: 20, max_time_ms: 30, precedence_ms: 100, ..meta(1) };
    assert!(bounded.applies_to(&block));
    assert!(bounded.applies_to(&BlockMeta { deletions_ms: 99, ..block.clone() }));
    assert!(!bounded.applies_to(&BlockMeta { deletions_ms: 100, ..block.clone() }), "it has been carried out");
    assert!(!bounded.applies_to(&BlockMeta { precedence_ms: 101, ..block.clone() }), "it was written later");
    assert!(!bounded.applies_to(&BlockMeta { min_time_ms: 21, ..block.clone() }));
    assert!(bounded.applies_to(&BlockMeta { min_time_ms: 0, max_time_ms: 10, ..block }));
}
