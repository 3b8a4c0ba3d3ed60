//! Events read back: every window, order and page against a plain list.

use std::sync::Arc;

use isobar_block::TenantId;
use object_store::ObjectStore;
use object_store::memory::InMemory;

use super::*;
use crate::event::Event;
use crate::store::{LineageConfig, Outcome};
use crate::testing::Random;

async fn open(bucket: &Arc<dyn ObjectStore>) -> Arc<LineageStore> {
    let config = LineageConfig { linger_ms: 0, follow_ms: 0, ..LineageConfig::default() };
    LineageStore::open(bucket.clone(), TenantId::default(), config).await.expect("opens")
}

fn raw(id: usize, at_ms: i64, source: &str) -> Event {
    let mut event = Event::new(id.to_string(), source, "", at_ms);
    event.raw = Some(format!("{{\"n\":{id}}}").into());
    event
}

#[tokio::test]
async fn pages_are_what_a_plain_list_would_give() {
    let bucket: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut store = open(&bucket).await;
    let mut random = Random(9);
    let mut all: Vec<(i64, usize)> = Vec::new();
    for entry in 0..60 {
        let mut events = Vec::new();
        for _ in 0..random.below(6) {
            let id = all.len() + 1000 * events.len() + entry * 100_000;
            // Mostly in order, some late; times are unique so that the order is, too.
            let late = if random.below(5) == 0 { random.below(4000) } else { 0 };
            let at_ms = (5000 + entry as i64 * 100 - late as i64).max(0) * 100 + all.len() as i64 % 100;
            if all.iter().any(|(t, _)| *t == at_ms) {
                continue;
            }
            events.push(raw(id, at_ms, "openlineage"));
            all.push((at_ms, id));
        }
        events.push(Event::new(format!("no text {entry}"), "openlineage", "", 7));
        events.push(raw(9_000_000 + entry, 8, "another"));
        let outcomes = store.append(events).await.expect("appends");
        assert!(outcomes.iter().all(|o| matches!(o, Outcome::Stored(_))), "{outcomes:?}");
        if entry == 30 {
            store.checkpoint().await.expect("is written");
            store = open(&bucket).await;
        }
    }
    for _ in 0..300 {
        let (a, b) = (random.below(1_200_000) as i64, random.below(1_200_000) as i64);
        let (after, before) = if random.below(3) == 0 { (0, i64::MAX) } else { (a.min(b), a.max(b)) };
        let (limit, offset) = (random.below(30) as usize, random.below(40) as usize);
        let newest_first = random.below(2) == 0;
        let mut expected: Vec<_> = all.iter().filter(|(t, _)| (after..before).contains(t)).copied().collect();
        expected.sort_unstable();
        if newest_first {
            expected.reverse();
        }
        let found = store.raw_events(before, after, newest_first, limit, offset).await.expect("reads");
        assert!(found.exact && found.total == expected.len() as u64, "{found:?}");
        let texts: Vec<_> = expected.iter().skip(offset).take(limit).map(|(t, id)| (*t, format!("{{\"n\":{id}}}").into())).collect();
        assert_eq!(found.events, texts, "{after}..{before} {newest_first} {limit} from {offset}");
    }
}

#[tokio::test]
async fn whole_entries_are_passed_over_unread_and_too_much_is_refused() {
    let bucket: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let store = open(&bucket).await;
    for i in 0..50 {
        store.append(vec![raw(i, i as i64 * 10, "openlineage")]).await.expect("appends");
    }
    use object_store::ObjectStoreExt;
    for number in 30..=50 {
        bucket.delete(&store.log.entry_key(number)).await.expect("is there");
    }
    let found = store.raw_events(i64::MAX, 0, true, 3, 40).await.expect("reads nothing that is lost");
    assert_eq!((found.total, found.events[0].0, found.events.len()), (50, 90, 3));
    let error = store.raw_events(i64::MAX, 0, true, 3, 0).await.expect_err("is lost").to_string();
    assert!(error.contains("the entry is missing"), "{error}");

    let wide = Row { first: 1, last: MAX_RAW_ENTRIES + 1, min_ms: 0, max_ms: 1_000_000, count: 9 };
    store.state.write().raws = Default::default();
    store.state.write().raws.push(wide);
    let error = store.raw_events(i64::MAX, 0, true, 3, 0).await.expect_err("is too much").to_string();
    assert!(error.starts_with("offset: more than 4096 entries"), "{error}");
    let counted = store.raw_events(500_000, 0, true, 0, 0).await.expect("is estimated");
    assert_eq!((counted.exact, counted.total), (false, 5));
}

#[tokio::test]
async fn large_events_are_not_all_held() {
    let bucket: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let store = open(&bucket).await;
    for i in 0..4 {
        let mut event = raw(i, i as i64 * 10, "openlineage");
        event.raw = Some(format!("\"{i}{}\"", "x".repeat(20 << 20)).into());
        store.append(vec![event]).await.expect("appends");
    }
    let found = store.raw_events(i64::MAX, 0, true, 3, 1).await.expect("reads");
    let starts: Vec<_> = found.events.iter().map(|(t, raw)| (*t, &raw[1..2])).collect();
    assert_eq!((starts, found.total), (vec![(20, "2"), (10, "1"), (0, "0")], 4));
    let error = store.raw_events(i64::MAX, 0, false, 4, 0).await.expect_err("is too much").to_string();
    assert!(error.starts_with("limit: the events have more than"), "{error}");
}
