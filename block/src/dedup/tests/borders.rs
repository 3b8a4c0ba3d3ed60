//! Counters where the primary changes from one window to the next.

use super::*;
use crate::dedup::borders::LATE_MS;

/// A counter read by servers that are late by up to half of the interval, with gaps that begin or end near borders of windows.
/// Whose gap it is, where, and how long, is random; so the primary changes at many of the borders.
#[derive(Clone, Debug)]
struct Fleet {
    seed: u64,
    replicas: usize,
    windows: i64,
    delay_ms: i64,
    /// What the counter rises by in an interval.
    rise: f64,
    /// Restarts, in milliseconds after the start.
    restarts: Vec<i64>,
}

impl Fleet {
    fn truth(&self) -> Truth {
        let mut restarts: Vec<i64> = self.restarts.iter().map(|t| START_MS + t).chain([START_MS - INTERVAL_MS]).collect();
        restarts.sort();
        Truth { restarts, per_ms: self.rise / INTERVAL_MS as f64 }
    }

    fn scrape(&self) -> Vec<SampleBuf> {
        let truth = self.truth();
        let slots = self.windows * DEDUP_WINDOW_MS / INTERVAL_MS;
        let per_window = DEDUP_WINDOW_MS / INTERVAL_MS;
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut gaps: Vec<Vec<Range<i64>>> = vec![Vec::new(); self.replicas];
        for border in 0..=self.windows {
            let near = border * per_window + if rng.random_bool(0.8) { 0 } else { rng.random_range(-1..=1) };
            let length = if rng.random_bool(0.5) { rng.random_range(1..6) } else { rng.random_range(200..300) };
            let gap = if rng.random_bool(0.5) { near..near + length } else { near - length..near };
            gaps[rng.random_range(0..self.replicas)].push(gap);
        }
        (0..self.replicas)
            .map(|replica| {
                // Scrapes are right before or right after a border.
                let phase_ms = if rng.random_bool(0.5) { rng.random_range(0..2_000) } else { rng.random_range(12_500..14_500) };
                let mut samples = Vec::new();
                for slot in 0..slots {
                    let jitter_ms = rng.random_range(0..200);
                    let delay_ms = rng.random_range(0..=self.delay_ms);
                    let t_ms = START_MS + slot * INTERVAL_MS + phase_ms + jitter_ms;
                    if !gaps[replica].iter().any(|gap| gap.contains(&slot)) {
                        samples.push((t_ms, truth.at(t_ms + delay_ms)));
                    }
                }
                buf(samples)
            })
            .collect()
    }
}

fn fleets() -> impl Strategy<Value = Fleet> {
    let rise = prop_oneof![0.01..1.0f64, 1.0..1000.0f64];
    let restarts = prop::collection::vec(-20_000i64..20_000, 0..3);
    (any::<u64>(), 2usize..4, 2i64..5, 0i64..7_000, rise, restarts).prop_map(|(seed, replicas, windows, delay_ms, rise, near)| {
        // Restarts are near borders, where they are hardest to tell from late readings.
        let restarts = near.iter().enumerate().map(|(i, t)| (i as i64 + 1) * DEDUP_WINDOW_MS + t).collect();
        Fleet { seed, replicas, windows, delay_ms, rise, restarts }
    })
}

/// As [`dedup`], where the first replica is what has been compacted.
fn dedup_beside(metric: &str, mut replicas: Vec<SampleBuf>) -> SampleBuf {
    let mut out = SampleBuf::default();
    Deduplicator::default().dedup(metric, &mut replicas, true, &mut out);
    out
}

/// How often replicas saw the counter go down themselves.
fn own_falls(replicas: &[SampleBuf]) -> usize {
    replicas.iter().map(falls).sum()
}

#[test]
fn a_late_reading_at_the_end_of_a_window_is_no_reset() {
    let end_s = DEDUP_WINDOW_MS as f64 / 1000.0;
    let regular =
        |from: f64, count: usize, value: fn(f64) -> f64| (0..count).map(move |i| from + 15.0 * i as f64).map(move |t| (t, value(t)));
    // The first reads 6 seconds late, and is gone with the window; the second has been there all the time.
    let first: Vec<_> = regular(end_s - 301.0, 21, |t| t + 6.0).collect();
    let second: Vec<_> = regular(end_s - 298.0, 60, |t| t).collect();
    let replicas = vec![seconds(&first), seconds(&second)];
    assert!(first[20].0 < end_s && first[20].1 > second[20].1, "the second is behind");
    for metric in ["requests_total", "requests"] {
        let result = dedup(metric, replicas.clone());
        assert_eq!((falls(&result), result.len()), (0, 60), "{metric}");
        check_any(&replicas, &result);
    }
    // A restart is seen, be it right at the border.
    let restarted: Vec<_> = second.iter().map(|(t, v)| (*t, if *t >= end_s { v - end_s } else { *v })).collect();
    let result = dedup("requests_total", vec![seconds(&first), seconds(&restarted)]);
    assert_eq!((falls(&result), result.len()), (1, 61));
    // A gauge goes up and down as it likes.
    let gauge = |samples: &[(f64, f64)]| seconds(&samples.iter().map(|(t, v)| (*t, (v / 7.0).sin())).collect::<Vec<_>>());
    assert_eq!(dedup("temperature", vec![gauge(&first), gauge(&second)]).len(), 61);
}

#[test]
fn histograms_at_borders_compare_by_count() {
    let times = |phase_ms: i64, slots: Range<i64>| slots.map(move |i| START_MS + DEDUP_WINDOW_MS + phase_ms + i * INTERVAL_MS);
    let count = |t: i64| ((t - START_MS) / 10) as u64;
    for (hint, lost) in [(ResetHint::Unknown, 1), (ResetHint::Gauge, 0)] {
        let first = histograms(times(14_000, -40..0).map(|t| (t, count(t + 6_000))), hint);
        let second = histograms(times(2_000, -40..40).map(|t| (t, count(t))), hint);
        assert_eq!(dedup("latency", vec![first, second]).len() + lost, 80, "{hint:?}");
    }
}

#[test]
fn only_a_query_that_starts_near_a_border_reads_the_window_before() {
    let of = |from_ms: i64| whole_windows(TimeRange::new(START_MS + from_ms, START_MS + DEDUP_WINDOW_MS + 5).expect("a range"));
    assert_eq!(of(LATE_MS).start_ms(), START_MS);
    assert_eq!(of(LATE_MS - 1).start_ms(), START_MS - DEDUP_WINDOW_MS);
    assert_eq!(of(0).end_ms(), START_MS + 2 * DEDUP_WINDOW_MS - 1);
}

/// The fleets of the tests below are hard: windows that are deduplicated without the one before show resets that nobody saw.
#[test]
fn windows_alone_show_false_resets() {
    let mut wrong = 0;
    for seed in 0..400 {
        let fleet = Fleet { seed, replicas: 2, windows: 4, delay_ms: 7_000, rise: 200.0, restarts: Vec::new() };
        let replicas = fleet.scrape();
        let of = |window: i64, t: i64| (t - START_MS).div_euclid(DEDUP_WINDOW_MS) == window;
        let alone = |window: i64| dedup("m_total", replicas.iter().map(|r| part(r, |t| of(window, t))).collect());
        let all: Vec<f64> = (0..4).flat_map(|window| alone(window).values).collect();
        wrong += all.windows(2).filter(|w| w[1] < w[0]).count();
        assert_eq!(falls(&dedup("m_total", replicas)), 0, "seed {seed}");
    }
    assert!(wrong > 0, "no false reset at 1200 borders");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    /// The result shows no more resets than replicas saw themselves, and none at all if there was no restart.
    #[test]
    fn no_false_reset_at_borders(fleet in fleets()) {
        let replicas = fleet.scrape();
        let result = dedup("m_total", replicas.clone());
        check_any(&replicas, &result);
        prop_assert!(falls(&result) <= own_falls(&replicas), "{} resets, {} were seen", falls(&result), own_falls(&replicas));
        if fleet.restarts.is_empty() {
            prop_assert_eq!((own_falls(&replicas), falls(&result)), (0, 0));
        }
    }

    /// Compaction takes windows in any order, each with the ones beside it as they are then; a query sees the same after each.
    #[test]
    fn answers_stay_whatever_is_compacted_first(fleet in fleets(), order in any::<u64>(), by_name in any::<bool>()) {
        let metric = if by_name { "m_total" } else { "m" };
        let of = |t: i64| (t - START_MS).div_euclid(DEDUP_WINDOW_MS);
        // The first replica is what has been compacted: it has no replica label, and so goes before the others.
        let mut stored: Vec<SampleBuf> = std::iter::once(SampleBuf::default()).chain(fleet.scrape()).collect();
        let expected = bits(&dedup_beside(metric, stored.clone()));
        let mut left: Vec<i64> = (0..fleet.windows).collect();
        let mut rng = StdRng::seed_from_u64(order);
        while !left.is_empty() {
            let window = left.swap_remove(rng.random_range(0..left.len()));
            let read = stored.iter().map(|r| part(r, |t| (window - 1..=window).contains(&of(t)))).collect();
            let compacted = part(&dedup_beside(metric, read), |t| of(t) == window);
            let others: Vec<(i64, f64)> = stored[0].timestamps.iter().copied().zip(stored[0].values.iter().copied()).collect();
            let mut all: Vec<(i64, f64)> = compacted.timestamps.iter().copied().zip(compacted.values.iter().copied()).chain(others).collect();
            all.sort_by_key(|(t, _)| *t);
            stored = std::iter::once(buf(all)).chain(stored[1..].iter().map(|r| part(r, |t| of(t) != window))).collect();
            prop_assert_eq!(&bits(&dedup_beside(metric, stored.clone())), &expected, "after window {}", window);
        }
    }
}
