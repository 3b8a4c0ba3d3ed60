//! Events in and out: after a restart, beside another process, twice, too many, with damage.

use std::collections::BTreeMap;

use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use serde_json::{Value, json};

use super::*;
use crate::diff::diff;
use crate::testing::{Random, key};

async fn open(bucket: &Arc<dyn ObjectStore>) -> Arc<LineageStore> {
    open_with(bucket, LineageConfig { linger_ms: 0, follow_ms: 0, ..LineageConfig::default() }).await
}

async fn open_with(bucket: &Arc<dyn ObjectStore>, config: LineageConfig) -> Arc<LineageStore> {
    LineageStore::open(bucket.clone(), TenantId::default(), config).await.expect("opens")
}

fn event(id: &str, at_ms: i64, facts: Value) -> Event {
    serde_json::from_value(json!({"id": id, "source": "test", "at_ms": at_ms, "facts": facts})).expect("an event")
}

fn edge(from: &str, to: &str) -> Value {
    json!({"edge": {"from": key(from), "to": key(to)}})
}

async fn append(store: &Arc<LineageStore>, event: Event) {
    let outcomes = store.append(vec![event]).await.expect("appends");
    assert!(matches!(outcomes[0], Outcome::Stored(_)), "{outcomes:?}");
}

/// Everything that one can see as of a time.
async fn picture(store: &LineageStore, at_ms: i64) -> Value {
    let snapshot = store.snapshot(AsOf::At(at_ms)).await.expect("a snapshot");
    let nodes: BTreeMap<String, Value> =
        snapshot.nodes().map(|n| (snapshot.key(n).to_string(), serde_json::to_value(snapshot.node(n)).expect("JSON"))).collect();
    let edges: BTreeMap<String, Value> = snapshot
        .edges()
        .map(|e| snapshot.edge(e))
        .map(|e| (format!("{} {} {:?}", e.from, e.to, e.relation), serde_json::to_value(&e).expect("JSON")))
        .collect();
    json!({"nodes": nodes, "edges": edges})
}

/// Facts of every sort.
fn random_event(random: &mut Random, i: usize) -> Event {
    let mut name = || format!("service:{}", random.below(12));
    let (a, b) = (name(), name());
    let at_ms = random.below(1000) as i64;
    let fact = match random.below(9) {
        0 => {
            json!({"node": {"node": a, "ttl_ms": 50, "body": {"title": "A", "owners": [{"name": b}], "attributes": {"x": [1, null, "ü"]}}}})
        }
        1 => json!({"node_gone": {"node": a}}),
        2 if a != b => json!({"alias": {"alias": a, "canonical": b, "rule": "r"}}),
        3 => json!({"separate": {"alias": a, "canonical": b}}),
        4 => json!({"edge_gone": {"from": a, "to": b}}),
        5 => json!({"type": {"name": format!("kind-{}", random.below(3)), "body": {"inherits": "host"}}}),
        6 if a != b => json!({"edge": {"from": a, "to": b, "relation": "composition"}}),
        _ if a != b => {
            json!({"edge": {"from": a, "to": b, "ttl_ms": random.below(3) * 40, "body": {"share": random.below(100) as f64 / 99.0, "group": {"id": "g", "k": 1}}}})
        }
        _ => json!({"node": {"node": a}}),
    };
    let mut event = event(&format!("e{i}"), at_ms, json!([fact]));
    event.source = ["s", "t"][random.below(2) as usize].into();
    event.complete_since_ms = (random.below(10) == 0).then_some(at_ms - random.below(100) as i64);
    event
}

#[tokio::test]
async fn a_restart_finds_the_same_graph_with_and_without_a_checkpoint() {
    for seed in 0..6 {
        let mut random = Random(seed);
        let bucket: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let store = open(&bucket).await;
        for i in 0..200 {
            store.append(vec![random_event(&mut random, i)]).await.expect("appends");
            if i == 120 && seed % 2 == 0 {
                store.checkpoint().await.expect("is written");
            }
        }
        let again = open(&bucket).await;
        assert_eq!(
            (again.version(), again.sizes().nodes, again.sizes().edges),
            (store.version(), store.sizes().nodes, store.sizes().edges)
        );
        for at_ms in [0, 100, 333, 500, 900, 1100, 5000] {
            assert_eq!(picture(&store, at_ms).await, picture(&again, at_ms).await, "seed {seed} as of {at_ms}");
        }
        let outcomes = again.append(vec![random_event(&mut Random(seed), 0)]).await.expect("appends");
        assert!(matches!(outcomes[0], Outcome::Repeated) || matches!(outcomes[0], Outcome::Refused(_)), "{outcomes:?}");
    }
}

#[tokio::test]
async fn who_has_written_can_read_and_ids_count_once() {
    let bucket: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let store = open(&bucket).await;
    for i in 0..20 {
        append(&store, event(&format!("e{i}"), 10, json!([edge(&format!("a{i}"), "b")]))).await;
        let now = store.snapshot(AsOf::Now).await.expect("a snapshot");
        assert_eq!(now.edge_count(), i + 1);
    }
    let version = store.version();
    let twice = event("e3", 10, json!([edge("x", "y")]));
    let bad = event("bad", 10, json!([{"edge": {"from": "service:q", "to": "service:q"}}]));
    let good = event("good", 10, json!([edge("q", "r")]));
    let outcomes = store.append(vec![twice, bad, good.clone(), good]).await.expect("appends");
    assert!(
        matches!(&outcomes[..], [Outcome::Repeated, Outcome::Refused(_), Outcome::Stored(n), Outcome::Repeated] if *n == version + 1),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn many_writers_share_entries() {
    let bucket: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let store = open_with(&bucket, LineageConfig::default()).await;
    let writers: Vec<_> = (0..50)
        .map(|w| {
            let store = store.clone();
            tokio::spawn(async move {
                for i in 0..20 {
                    append(&store, event(&format!("{w}-{i}"), 10, json!([edge(&format!("w{w}"), &format!("t{i}"))]))).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("writes");
    }
    assert_eq!(store.snapshot(AsOf::Now).await.expect("a snapshot").edge_count(), 1000);
    assert!(store.version() < 100, "1000 events in {} entries", store.version());
    assert_eq!(store.sizes().queued_bytes, 0);
}

#[tokio::test]
async fn two_processes_append_to_one_log() {
    let bucket: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let stores = [open(&bucket).await, open(&bucket).await];
    let writers: Vec<_> = (0..40)
        .map(|w| {
            let store = stores[w % 2].clone();
            tokio::spawn(async move { append(&store, event(&format!("{w}"), 10, json!([edge("hub", &format!("n{w}"))]))).await })
        })
        .collect();
    for writer in writers {
        writer.await.expect("writes");
    }
    for store in &stores {
        assert_eq!(store.snapshot(AsOf::Now).await.expect("a snapshot").edge_count(), 40, "each follows the other");
    }
    append(&stores[0], event("c1", 20, json!([{"edge": {"from": "host:a", "to": "host:b", "relation": "composition"}}]))).await;
    let back = event("c2", 20, json!([{"edge": {"from": "host:b", "to": "host:a", "relation": "composition"}}]));
    let outcomes = stores[1].append(vec![back]).await.expect("appends");
    assert!(matches!(&outcomes[0], Outcome::Refused(Error::Cycle { .. })), "checked against what the other has just written: {outcomes:?}");
}

#[tokio::test]
async fn a_flood_is_refused_before_it_fills_the_memory() {
    let bucket: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let config = LineageConfig { queue_bytes: MAX_APPEND_BYTES, ..LineageConfig::default() };
    let store = open_with(&bucket, config).await;
    let place = store.place.lock().await;
    let large = |id: &str| event(id, 10, json!([{"node": {"node": "service:a", "body": {"description": "x".repeat(15 << 20)}}}]));
    let waiting: Vec<_> = (0..4)
        .map(|i| {
            let (store, event) = (store.clone(), large(&i.to_string()));
            tokio::spawn(async move { store.append(vec![event]).await })
        })
        .collect();
    while store.sizes().queued_bytes < 60 << 20 {
        tokio::task::yield_now().await;
    }
    let error = store.append(vec![large("one too many")]).await.expect_err("is refused");
    assert!(matches!(error, Error::Busy { limit: "lineage.queue_bytes", .. }), "{error}");
    drop(place);
    for one in waiting {
        assert!(one.await.expect("runs").is_ok(), "what was taken is stored");
    }
    append(&store, large("now there is room")).await;
    assert!(LineageStore::open(bucket, TenantId::default(), LineageConfig { queue_bytes: 1, ..LineageConfig::default() }).await.is_err());
}

#[tokio::test]
async fn damage_is_passed_over_or_named() {
    let bucket: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let store = open(&bucket).await;
    for i in 0..10 {
        append(&store, event(&format!("e{i}"), 10, json!([edge("a", &format!("b{i}"))]))).await;
    }
    store.log.checkpoint(5, b"{\"number\":5,\"lines\":\"AAAA\"}").await.expect("is written");
    assert_eq!(open(&bucket).await.snapshot(AsOf::Now).await.expect("a snapshot").edge_count(), 10, "the log has everything");
    bucket.delete(&store.log.entry_key(7)).await.expect("is there");
    let error = LineageStore::open(bucket.clone(), TenantId::default(), LineageConfig::default()).await.err().expect("is missed");
    assert!(error.to_string().contains("00000000000000000007.json is corrupt: the entry is missing"), "{error}");
}

#[tokio::test]
async fn checkpoints_are_written_by_themselves() {
    let bucket: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let config = LineageConfig { linger_ms: 0, checkpoint_entries: 10, ..LineageConfig::default() };
    let store = open_with(&bucket, config).await;
    for i in 0..40 {
        append(&store, event(&format!("e{i}"), 10, json!([edge("a", &format!("b{i}"))]))).await;
    }
    while store.log.start().await.expect("lists").checkpoint.is_none_or(|(n, _)| n < 10) {
        tokio::task::yield_now().await;
    }
    assert_eq!(open(&bucket).await.sizes().edges, 40);
}

#[tokio::test]
async fn before_after_and_the_difference() {
    let bucket: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let store = open(&bucket).await;
    let soft = json!({"edge": {"from": "service:a", "to": "service:b", "body": {"class": "soft"}}});
    append(&store, event("1", 100, json!([edge("a", "b"), edge("a", "c"), edge("c", "d")]))).await;
    append(&store, event("2", 200, json!([soft, {"edge_gone": {"from": "service:c", "to": "service:d"}}, edge("a", "e")]))).await;
    let (before, after) = store.snapshots(AsOf::At(150), AsOf::At(250)).await.expect("snapshots");
    let answer = diff(&before, &after, 100);
    assert!(answer.complete);
    let d = answer.result;
    let ends = |e: &crate::snapshot::EdgeView| format!("{} {}", e.from, e.to);
    assert_eq!(d.edges_added.iter().map(ends).collect::<Vec<_>>(), ["service:a service:e"]);
    assert_eq!(d.edges_removed.iter().map(ends).collect::<Vec<_>>(), ["service:c service:d"]);
    assert_eq!((d.nodes_added[0].name.as_str(), d.nodes_removed[0].name.as_str()), ("e", "d"));
    assert_eq!(
        d.edges_changed.iter().map(|c| (ends(&c.after), c.fields.clone())).collect::<Vec<_>>(),
        [("service:a service:b".into(), vec!["class", "coupling"])]
    );
    assert!(!diff(&before, &after, 0).complete);
    let same = diff(&before, &before, 10).result;
    assert!(same.nodes_added.is_empty() && same.edges_changed.is_empty() && same.edges_removed.is_empty());
}

#[tokio::test]
async fn a_snapshot_is_kept_while_nothing_changes() {
    let bucket: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let store = open(&bucket).await;
    let now = time::now_ms();
    let lease = |id: &str, at_ms| event(id, at_ms, json!([{"node": {"node": "service:a", "ttl_ms": 60_000}}]));
    append(&store, lease("1", now)).await;
    let first = store.snapshot(AsOf::At(now + 1)).await.expect("a snapshot");
    append(&store, lease("2", now + 2)).await;
    let second = store.snapshot(AsOf::At(now + 5)).await.expect("a snapshot");
    assert!(Arc::ptr_eq(&first.graph, &second.graph), "it was only said again");
    assert_eq!((first.at_ms(), second.at_ms()), (now + 1, now + 5));
    let stale = store.snapshot(AsOf::At(now + 60_010)).await.expect("a snapshot");
    assert!(!Arc::ptr_eq(&first.graph, &stale.graph));
    append(&store, lease("3", now + 20_000)).await;
    let live = store.snapshot(AsOf::At(now + 60_010)).await.expect("a snapshot");
    assert_eq!(live.node(live.nodes().next().expect("one")).status, crate::model::Status::Live, "what was stale is not any more");
}
