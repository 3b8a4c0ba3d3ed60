//! Deletions against a real catalog, and which blocks they make due.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use isobar_block::{BlockStoreConfig, BlockWriter, Labels, MatchOp, Quarantined, SampleBuf, Source, Timestamps, Want, WriterConfig};
use parking_lot::Mutex;

use super::*;
use crate::config::{SelectedRetention, TenantRules};
use crate::retention;

fn matcher(name: &str, op: MatchOp, value: &str) -> Matcher {
    Matcher::new(name, op, value).expect("compiles")
}

fn job(value: &str) -> Vec<Vec<Matcher>> {
    vec![vec![matcher("job", MatchOp::Equal, value)]]
}

fn store() -> BlockStore {
    BlockStore::new(isobar_block::testing::object_store(), BlockStoreConfig::default())
}

/// Adds a block with series of jobs `x` and `y`, each from two replicas.
async fn add_block(store: &BlockStore, config: WriterConfig, times: &[i64]) -> BlockMeta {
    let mut writer = BlockWriter::new(config);
    for replica in ["a", "b"] {
        for job in ["x", "y"] {
            let labels = Labels::from_pairs([("__name__", "up"), ("__replica__", replica), ("job", job)]).expect("valid");
            let timestamps = Timestamps::unshared(times.to_vec());
            let samples = SampleBuf { timestamps, values: vec![1.0; times.len()], ..SampleBuf::default() };
            writer.push_series(&labels, None, &samples, &[]).expect("fits");
        }
    }
    let tenant = TenantId::default();
    let meta = writer.finish(store.objects().as_ref(), &tenant).await.expect("is written");
    let catalog = store.catalog(&tenant).await.expect("opens");
    catalog.commit(Change { add: vec![meta.clone()], ..Change::default() }).await.expect("commits");
    meta
}

async fn state(store: &BlockStore) -> Arc<CatalogState> {
    store.catalog(&TenantId::default()).await.expect("opens").refresh().await.expect("refreshes")
}

/// Rows and samples that a mask leaves of a block.
async fn left(store: &BlockStore, meta: &BlockMeta) -> (usize, usize) {
    let tombstones = &state(store).await.tombstones;
    let reader = store.reader(&TenantId::default(), &Arc::new(meta.clone())).await.expect("opens");
    let sets = reader.select(&[], TimeRange::ALL, Want::default()).await.expect("selects").sets;
    let mask = isobar_block::Mask::new(tombstones, meta).expect("compiles");
    let (mut rows, mut samples) = (0, 0);
    for set in sets.into_iter().map(|set| mask.as_ref().map_or(set.clone(), |m| m.apply(set))) {
        let mut run = set.load(0..set.len(), TimeRange::ALL).await.expect("loads");
        let mut buf = SampleBuf::default();
        for row in 0..set.len() {
            run.read(row, &mut buf).expect("reads");
            samples += buf.len();
        }
        rows += set.len();
    }
    (rows, samples)
}

#[tokio::test]
async fn deleted_series_are_gone_from_all_blocks() {
    let store = store();
    let tenant = TenantId::default();
    // The clock of whoever wrote the second block is an hour ahead.
    let ahead_ms = time::now_ms() + 3_600_000;
    let first = add_block(&store, WriterConfig::new(5), &[0, 10, 20]).await;
    let second = add_block(&store, WriterConfig::new(ahead_ms), &[20, 30]).await;
    let range = TimeRange::new(10, 40).expect("ordered");
    let deletion = delete_series(&store, &tenant, job("x"), range).await.expect("deletes");
    assert!(deletion.created_ms >= ahead_ms);
    assert_eq!((deletion.min_time_ms, deletion.max_time_ms), (10, 40));
    assert_eq!(left(&store, &first).await, (4, 2 + 6), "both replicas of x lose two samples");
    assert_eq!(left(&store, &second).await, (2, 4), "x is wholly deleted in the second block");
    assert_eq!(rewrites(&*state(&store).await), [first.ulid, second.ulid]);
    assert!(finished(&*state(&store).await).is_empty());

    // What is written later is not concerned, even if it is late data of that time.
    let third = add_block(&store, WriterConfig::new(deletion.created_ms + 1), &[15]).await;
    assert_eq!(left(&store, &third).await, (4, 4));
    // A rewrite carries it out; the deletion ends when no block needs it.
    let catalog = store.catalog(&tenant).await.expect("opens");
    for old in [first, second] {
        let mut config = WriterConfig::new(deletion.created_ms + 10);
        (config.precedence_ms, config.level) = (old.precedence_ms, 1);
        config.deletions_ms = isobar_block::mask::carried_out_ms(&state(&store).await.tombstones);
        let rewritten = add_block(&store, config, &[20]).await;
        catalog.commit(Change { remove: vec![old.ulid], ..Change::default() }).await.expect("commits");
        assert_eq!(left(&store, &rewritten).await, (4, 4));
    }
    assert!(rewrites(&*state(&store).await).is_empty());
    assert_eq!(finished(&*state(&store).await), [deletion.id]);
}

#[tokio::test]
async fn deletions_are_dated_one_after_the_other() {
    let store = store();
    let tenant = TenantId::default();
    let mut config = WriterConfig::new(5);
    config.deletions_ms = time::now_ms() + 100_000;
    let block = add_block(&store, config, &[1]).await;
    let mut dates = vec![block.deletions_ms];
    for name in ["x", "y", "z"] {
        dates.push(delete_series(&store, &tenant, job(name), TimeRange::ALL).await.expect("deletes").created_ms);
    }
    assert!(dates.is_sorted_by(|a, b| a < b), "{dates:?}");
    assert_eq!(left(&store, &block).await, (0, 0));
}

/// What a block was merged from, down to the blocks that were written first, each with the deletions that were carried out
/// in it on the way.
type Parts = Vec<(BlockId, HashSet<BlockId>)>;

#[derive(Default)]
struct Lineage(Mutex<HashMap<BlockId, Parts>>);

impl Lineage {
    fn of(&self, id: BlockId) -> Parts {
        self.0.lock().get(&id).cloned().unwrap_or_else(|| vec![(id, HashSet::new())])
    }

    /// A merge that knows only the deletions of `plan`.
    fn merge(&self, plan: &CatalogState, inputs: &[Arc<BlockMeta>], output: BlockId) {
        let mut all = Parts::new();
        for input in inputs {
            let carried_out: Vec<BlockId> = plan.tombstones.iter().filter(|t| t.applies_to(input)).map(|t| t.id).collect();
            for (origin, mut known) in self.of(input.ulid) {
                known.extend(&carried_out);
                all.push((origin, known));
            }
        }
        self.0.lock().insert(output, all);
    }
}

/// Merges blocks, from catalogs that may be older than the deletions that come in meanwhile.
async fn merge_for_a_while(store: BlockStore, lineage: Arc<Lineage>) -> usize {
    let catalog = store.catalog(&TenantId::default()).await.expect("opens");
    let mut merged = 0;
    for round in 0..150u64 {
        let plan = catalog.refresh().await.expect("refreshes");
        let inputs: Vec<_> = plan.blocks.iter().rev().skip(round as usize % 3).take(3).cloned().collect();
        tokio::time::sleep(Duration::from_millis(round % 7)).await;
        if inputs.len() < 2 {
            continue;
        }
        let output = BlockMeta {
            ulid: BlockId::new(time::now_ms()),
            level: 1,
            min_time_ms: inputs.iter().map(|b| b.min_time_ms).min().expect("has inputs"),
            max_time_ms: inputs.iter().map(|b| b.max_time_ms).max().expect("has inputs"),
            precedence_ms: inputs.iter().map(|b| b.precedence_ms).max().expect("has inputs"),
            deletions_ms: isobar_block::mask::carried_out_ms(&plan.tombstones),
            ..(*inputs[0]).clone()
        };
        lineage.merge(&plan, &inputs, output.ulid);
        let change = Change { add: vec![output], remove: inputs.iter().map(|b| b.ulid).collect(), ..Change::default() };
        match catalog.commit(change).await {
            Ok(_) => merged += 1,
            Err(BlockError::Conflict { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    merged
}

async fn add_for_a_while(store: BlockStore) {
    for n in 0..80 {
        // Clocks of ingesters are off by up to half a second.
        let created_ms = time::now_ms() + [500, -500, 0][n % 3];
        add_block(&store, WriterConfig::new(created_ms), &[n as i64]).await;
    }
}

/// A deletion holds for all that was visible before it, whatever merges were planned without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_comes_back_from_merges_planned_before() {
    let objects = isobar_block::testing::object_store();
    let open = || BlockStore::new(objects.clone(), BlockStoreConfig::default());
    let lineage = Arc::new(Lineage::default());
    add_block(&open(), WriterConfig::new(5), &[1]).await;
    let adder = tokio::spawn(add_for_a_while(open()));
    let mergers = [(); 2].map(|()| tokio::spawn(merge_for_a_while(open(), lineage.clone())));
    let store = open();
    let mut deletions = Vec::new();
    for n in 0..40 {
        let before: HashSet<BlockId> = state(&store).await.blocks.iter().flat_map(|b| lineage.of(b.ulid)).map(|(id, _)| id).collect();
        let deletion = delete_series(&store, &TenantId::default(), job(&n.to_string()), TimeRange::ALL).await.expect("deletes");
        deletions.push((deletion, before));
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    adder.await.expect("ends");
    let mut merged = 0;
    for merger in mergers {
        merged += merger.await.expect("ends");
    }
    assert!(merged > 10, "{merged} merges");
    let state = state(&store).await;
    assert_eq!(state.tombstones.len(), deletions.len());
    for block in &state.blocks {
        for (origin, carried_out) in lineage.of(block.ulid) {
            for (deletion, before) in deletions.iter().filter(|(_, before)| before.contains(&origin)) {
                let is_gone = carried_out.contains(&deletion.id) || deletion.applies_to(block);
                assert!(is_gone, "{deletion:?} of {} blocks is lost in {block:?}", before.len());
            }
        }
    }
}

#[tokio::test]
async fn limits_and_empty_selectors_are_named() {
    let store = store();
    let tenant = TenantId::default();
    let everything = [vec![], vec![vec![]], vec![vec![matcher("a", MatchOp::Regex, ".*")], job("x").remove(0)]];
    for selectors in everything {
        let error = delete_series(&store, &tenant, selectors, TimeRange::ALL).await.expect_err("is refused");
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }
    let error = delete_series(&store, &tenant, job(&"x".repeat(MAX_SELECTOR_BYTES)), TimeRange::ALL).await.expect_err("is refused");
    assert!(error.to_string().contains("65536"), "{error}");
    assert_eq!(state(&store).await.version, 0);

    let one = delete_series(&store, &tenant, job("x"), TimeRange::ALL).await.expect("deletes");
    let many = (1..MAX_TOMBSTONES).map(|n| Tombstone { id: BlockId::from_parts(1, n as u128), ..one.clone() });
    let catalog = store.catalog(&tenant).await.expect("opens");
    catalog.commit(Change { mask: many.collect(), ..Change::default() }).await.expect("commits");
    let error = delete_series(&store, &tenant, job("y"), TimeRange::ALL).await.expect_err("is refused");
    assert!(error.to_string().contains("1000") && error.to_string().contains("isobar compact"), "{error}");
    catalog.commit(Change { unmask: vec![one.id], ..Change::default() }).await.expect("commits");
    delete_series(&store, &tenant, job("y"), TimeRange::ALL).await.expect("deletes");
}

#[tokio::test]
async fn damaged_blocks_are_not_rewritten_but_keep_their_deletions() {
    let store = store();
    let tenant = TenantId::default();
    let block = add_block(&store, WriterConfig::new(5), &[1]).await;
    delete_series(&store, &tenant, job("x"), TimeRange::ALL).await.expect("deletes");
    let damaged = Quarantined { ulid: block.ulid, since_ms: 1, reason: "test".into() };
    let catalog = store.catalog(&tenant).await.expect("opens");
    catalog.commit(Change { quarantine: vec![damaged], ..Change::default() }).await.expect("commits");
    assert!(rewrites(&catalog.blocks()).is_empty());
    assert!(finished(&catalog.blocks()).is_empty());
}

#[tokio::test]
async fn what_rules_delete_day_by_day_waits_until_a_block_has_passed() {
    const DAY_MS: i64 = 86_400_000;
    let store = store();
    let old = add_block(&store, WriterConfig::new(5), &[0, DAY_MS]).await;
    let straddling = add_block(&store, WriterConfig::new(5), &[DAY_MS, 9 * DAY_MS]).await;
    let keep = Duration::from_millis(DAY_MS as u64);
    let rules = TenantRules { selected_retention: vec![SelectedRetention { matchers: job("x").remove(0), keep }], ..Default::default() };
    let catalog = store.catalog(&TenantId::default()).await.expect("opens");
    let change = retention::selected(&catalog.blocks(), &rules, 6 * DAY_MS).expect("is due");
    catalog.commit(change).await.expect("commits");
    assert_eq!(left(&store, &straddling).await, (4, 6), "x loses its first sample");
    assert_eq!(rewrites(&catalog.blocks()), [old.ulid]);
    assert!(finished(&catalog.blocks()).is_empty(), "the mark of a rule stays");
}
