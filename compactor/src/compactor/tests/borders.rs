//! Replicas whose primary changes where a deduplicated window ends: no false reset, and the same answers before, between and after
//! all compactions, wherever a query starts.

use isobar_block::Source;
use isobar_block::dedup::DEDUP_WINDOW_MS;
use isobar_block::replicas::Deduplicated;
use rand::seq::IndexedRandom;

use super::*;

const SCRAPE_MS: i64 = 15_000;
const WINDOWS: i64 = 9;
const REPLICA: &str = "replica";

type Answer = BTreeMap<Labels, Vec<(i64, u64)>>;

async fn read(objects: &Arc<dyn ObjectStore>, range: TimeRange) -> Answer {
    let source = Deduplicated::new(open(objects).source(&tenant()), vec![REPLICA.into()]);
    let selected = source.select(&[], range, Want::default()).await.expect("selects");
    let set = isobar_block::merge::merged(selected.sets, &[]);
    let mut out = Answer::new();
    let mut run = set.load(0..set.len(), range).await.expect("loads");
    let mut buf = SampleBuf::default();
    for row in 0..set.len() {
        run.read(row, &mut buf).expect("reads");
        let samples = buf.timestamps.iter().zip(&buf.values).filter(|(t, _)| range.contains(**t));
        out.insert(set.labels(row).to_owned(), samples.map(|(t, v)| (*t, v.to_bits())).collect());
    }
    out.retain(|_, samples| !samples.is_empty());
    out
}

fn clipped(answer: &Answer, range: TimeRange) -> Answer {
    let clip = |samples: &Vec<(i64, u64)>| samples.iter().copied().filter(|(t, _)| range.contains(*t)).collect::<Vec<_>>();
    answer.iter().map(|(l, s)| (l.clone(), clip(s))).filter(|(_, s)| !s.is_empty()).collect()
}

/// The first replica reads late and is away in every other window; the second is always there.
async fn write_replicas(store: &BlockStore, rng: &mut StdRng) {
    let (start_ms, end_ms) = (START_MS, START_MS + WINDOWS * DEDUP_WINDOW_MS);
    // Blocks are cut where the ingester pleases.
    for cut in 0..=WINDOWS {
        let from_ms = (start_ms + cut * DEDUP_WINDOW_MS - 1_000_000).max(start_ms);
        let to_ms = (start_ms + (cut + 1) * DEDUP_WINDOW_MS - 1_000_000).min(end_ms);
        let mut part = Model::default();
        for (series, rise) in [("fast_total", 100.0), ("slow_total", 1.0), ("unnamed", 7.0)] {
            for (replica, phase_ms, delay_ms) in [("a", 14_000, 6_000), ("b", 1_000, 0)] {
                let labels = Labels::from_pairs([("__name__", series), (REPLICA, replica)]).expect("valid");
                let mut samples = BTreeMap::new();
                for t in (start_ms..end_ms).step_by(SCRAPE_MS as usize).map(|t| t + phase_ms).filter(|t| (from_ms..to_ms).contains(t)) {
                    let is_away = replica == "a" && (t - start_ms).div_euclid(DEDUP_WINDOW_MS) % 2 == 1;
                    if !is_away && !rng.random_bool(0.01) {
                        let value = ((t + delay_ms - start_ms) as f64 * rise / SCRAPE_MS as f64).floor();
                        samples.insert(t, (value.to_bits(), None));
                    }
                }
                part.samples.insert(labels, samples);
            }
        }
        part.samples.retain(|_, samples| !samples.is_empty());
        part.write(store, to_ms).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_at_borders_stay_whatever_is_compacted_first() {
    for seed in 0..6 {
        let objects = testing::object_store();
        let mut rng = StdRng::seed_from_u64(seed);
        write_replicas(&open(&objects), &mut rng).await;
        let expected = read(&objects, TimeRange::ALL).await;
        assert_eq!(expected.len(), 3);
        for (labels, samples) in &expected {
            let falls = samples.windows(2).filter(|w| f64::from_bits(w[1].1) < f64::from_bits(w[0].1)).count();
            assert_eq!(falls, 0, "{labels}");
        }
        let rules = TenantRules { replica_labels: vec![REPLICA.into()], ..TenantRules::default() };
        let mut number = 0;
        let mut levels = vec![Duration::from_millis(DEDUP_WINDOW_MS as u64)];
        loop {
            // A compactor that has not seen the blocks yet, as another process would be.
            let compactor = compactor(&objects, CompactorConfig { levels: levels.clone(), ..config() }, rules.clone());
            let (state, jobs) = compactor.refreshed(&tenant(), false).await.expect("plans");
            let Some(job) = jobs.choose(&mut rng) else {
                if levels.len() == 2 {
                    break;
                }
                levels.push(levels[0] * 4);
                continue;
            };
            let end = compactor.work(&tenant(), job, &state).await.expect("works");
            assert!(matches!(end, End::Done { .. }), "{end:?}");
            number += 1;
            assert!(read(&objects, TimeRange::ALL).await == expected, "seed {seed}: the answer has changed after job {number}: {job}");
            for _ in 0..8 {
                let border_ms = START_MS + rng.random_range(0..WINDOWS) * DEDUP_WINDOW_MS;
                let start_ms = border_ms + rng.random_range(-20_000..20_000);
                let range = TimeRange::new(start_ms, start_ms + rng.random_range(0..2 * DEDUP_WINDOW_MS)).expect("a range");
                assert!(read(&objects, range).await == clipped(&expected, range), "seed {seed}: from {start_ms} on after {job}");
            }
        }
        assert!(number > WINDOWS);
        assert!(read(&objects, TimeRange::ALL).await.keys().all(|l| l.get(REPLICA).is_none()));
    }
}
