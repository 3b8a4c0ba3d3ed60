//! Deduplication against simulated scrapes of one truth by several servers.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::histogram::{Counts, Histogram, ResetHint};
use crate::stale_nan;

mod borders;

const INTERVAL_MS: i64 = 15_000;

/// Start of a window.
const START_MS: i64 = 1_700_006_400_000 / DEDUP_WINDOW_MS * DEDUP_WINDOW_MS;

fn buf(samples: impl IntoIterator<Item = (i64, f64)>) -> SampleBuf {
    let (times, values): (Vec<i64>, Vec<f64>) = samples.into_iter().unzip();
    assert!(times.is_sorted_by(|a, b| a < b), "a replica's timestamps ascend");
    SampleBuf { timestamps: Timestamps::shared(times), values, ..SampleBuf::default() }
}

/// Samples in seconds after the start.
fn seconds(samples: &[(f64, f64)]) -> SampleBuf {
    buf(samples.iter().map(|(t, v)| (START_MS + (t * 1000.0) as i64, *v)))
}

fn bits(samples: &SampleBuf) -> Vec<(i64, u64)> {
    samples.timestamps.iter().copied().zip(samples.values.iter().map(|v| v.to_bits())).collect()
}

fn in_seconds(samples: &SampleBuf) -> Vec<(f64, f64)> {
    samples.timestamps.iter().zip(&samples.values).map(|(t, v)| ((t - START_MS) as f64 / 1000.0, *v)).collect()
}

fn falls(samples: &SampleBuf) -> usize {
    let real: Vec<f64> = samples.values.iter().copied().filter(|v| !v.is_nan()).collect();
    real.windows(2).filter(|w| w[1] < w[0]).count()
}

/// A counter as it really was: restarts, and between them a steady rate.
struct Truth {
    restarts: Vec<i64>,
    per_ms: f64,
}

impl Truth {
    fn at(&self, t_ms: i64) -> f64 {
        let since = self.restarts.iter().rev().find(|r| **r <= t_ms).copied().unwrap_or(START_MS - 3_600_000);
        ((t_ms - since) as f64 * self.per_ms).floor()
    }
}

/// How a server scrapes.
#[derive(Clone, Debug)]
struct Scraper {
    seed: u64,
    interval_ms: i64,
    phase_ms: i64,
    jitter_ms: i64,
    /// How much later than it writes down it reads at most.
    delay_ms: i64,
    /// Share of slots that are in gaps.
    gaps: f64,
    /// Whether the first slot of a gap has a stale marker.
    marks: bool,
}

impl Scraper {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        Self {
            seed,
            interval_ms: INTERVAL_MS,
            phase_ms: rng.random_range(3_600..11_400),
            jitter_ms: 3_500,
            delay_ms: 0,
            gaps: 0.02,
            marks: false,
        }
    }

    fn scrape(&self, slots: i64, value: impl Fn(i64) -> f64) -> SampleBuf {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut samples = Vec::new();
        let mut gap = 0;
        for slot in 0..slots {
            let jitter_ms = rng.random_range(-self.jitter_ms..=self.jitter_ms);
            let delay_ms = rng.random_range(0..=self.delay_ms);
            let t_ms = START_MS + slot * self.interval_ms + self.phase_ms + jitter_ms;
            if gap == 0 && rng.random_bool(self.gaps / 6.0) {
                gap = rng.random_range(1..12);
                if self.marks {
                    samples.push((t_ms, stale_nan()));
                }
            }
            if gap > 0 {
                gap -= 1;
            } else {
                samples.push((t_ms, value(t_ms + delay_ms)));
            }
        }
        buf(samples)
    }
}

fn slots(samples: &SampleBuf, interval_ms: i64) -> Vec<i64> {
    let real = samples.timestamps.iter().zip(&samples.values).filter(|(_, v)| !is_stale(**v));
    real.map(|(t, _)| t.div_euclid(interval_ms)).collect()
}

/// What holds for every result.
fn check_any(replicas: &[SampleBuf], result: &SampleBuf) {
    assert_eq!(result.timestamps.len(), result.values.len());
    assert!(result.timestamps.is_sorted_by(|a, b| a < b), "timestamps ascend");
    let written: HashSet<(i64, u64)> = replicas.iter().flat_map(bits).collect();
    assert!(bits(result).iter().all(|s| written.contains(s)), "nobody wrote this sample");
    let again = dedup("m", vec![result.clone()]);
    assert_eq!(bits(&again), bits(result));
    for metric in ["m", "m_total"] {
        check_every_start(metric, replicas);
    }
}

/// The same for every window with the one before it, as a query that starts in it reads them.
fn check_every_start(metric: &str, replicas: &[SampleBuf]) {
    let whole = bits(&dedup(metric, replicas.to_vec()));
    let windows: BTreeSet<i64> = replicas.iter().flat_map(|r| r.timestamps.iter().map(|t| t.div_euclid(DEDUP_WINDOW_MS))).collect();
    for window in windows {
        let of = |t_ms: &i64| t_ms.div_euclid(DEDUP_WINDOW_MS);
        let read = replicas.iter().map(|r| part(r, |t| (window - 1..=window).contains(&of(&t)))).collect();
        let alone: Vec<_> = bits(&dedup(metric, read)).into_iter().filter(|(t, _)| of(t) == window).collect();
        let expected: Vec<_> = whole.iter().copied().filter(|(t, _)| of(t) == window).collect();
        assert_eq!(alone, expected, "a window depends on others than the one before");
    }
}

/// The samples whose times are accepted.
fn part(samples: &SampleBuf, accept: impl Fn(i64) -> bool) -> SampleBuf {
    let kept: Vec<usize> = (0..samples.len()).filter(|i| accept(samples.timestamps[*i])).collect();
    let histogram = |i: &usize| samples.histograms.iter().find(|(at, _)| *at as usize == *i).map(|(_, h)| h.clone());
    SampleBuf {
        timestamps: Timestamps::unshared(kept.iter().map(|i| samples.timestamps[*i]).collect()),
        values: kept.iter().map(|i| samples.values[*i]).collect(),
        histograms: kept.iter().enumerate().filter_map(|(n, i)| Some((n as u32, histogram(i)?))).collect(),
        counts: Vec::new(),
    }
}

/// The result goes before the replicas that it was made of.
fn check_beside(metric: &str, replicas: Vec<SampleBuf>, result: &SampleBuf) {
    let expected: BTreeSet<_> = bits(result).into_iter().collect();
    let again: BTreeSet<_> = bits(&dedup(metric, std::iter::once(result.clone()).chain(replicas).collect())).into_iter().collect();
    let changed: Vec<_> = again.symmetric_difference(&expected).map(|(t_ms, v)| (t_ms - START_MS, f64::from_bits(*v))).collect();
    assert!(changed.is_empty(), "beside its replicas the result changes: {changed:?}");
}

/// One sample in each slot that any replica sent.
fn check_slots(replicas: &[SampleBuf], result: &SampleBuf, interval_ms: i64) {
    let sent: BTreeSet<i64> = replicas.iter().flat_map(|r| slots(r, interval_ms)).collect();
    let kept = slots(result, interval_ms);
    let lost: Vec<i64> = sent.iter().filter(|s| !kept.contains(s)).map(|s| s - START_MS / interval_ms).collect();
    assert!(lost.is_empty(), "slots {lost:?} are lost");
    let twice: Vec<i64> = kept.windows(2).filter(|w| w[0] == w[1]).map(|w| w[0] - START_MS / interval_ms).collect();
    assert!(twice.is_empty(), "slots {twice:?} have two samples");
}

#[test]
fn one_replica_stays_as_it_is() {
    let only = seconds(&[(0.0, 1.0), (0.1, f64::NAN), (15.0, stale_nan()), (7300.0, -0.0)]);
    let result = dedup("m", vec![SampleBuf::default(), only.clone()]);
    assert_eq!(bits(&result), bits(&only));
    assert_eq!(result.timestamps.id(), only.timestamps.id());
    assert!(dedup("m", Vec::new()).is_empty());
}

#[test]
fn equal_replicas_are_the_first() {
    let first = seconds(&[(1.0, 1.0), (16.0, stale_nan()), (31.0, 3.0), (9000.0, 4.0)]);
    let second = seconds(&[(1.0, 2.0), (16.0, stale_nan()), (31.0, 5.0), (9000.0, 7.0)]);
    let result = dedup("m", vec![first.clone(), second]);
    assert_eq!(bits(&result), bits(&first));
    assert_eq!(result.timestamps.id(), first.timestamps.id());
}

#[test]
fn gaps_are_filled_slot_by_slot() {
    // The first misses the slots 4 to 7; the second is there two seconds after its last sample.
    let first = seconds(&[(14.0, 1.0), (29.0, 2.0), (44.0, 3.0), (59.0, 4.0), (134.0, 9.0), (149.0, 10.0)]);
    let second: Vec<(f64, f64)> = (0..10).map(|i| (1.0 + 15.0 * f64::from(i), 100.0 + f64::from(i))).collect();
    let result = dedup("m", vec![first, seconds(&second)]);
    let expected = [
        (14.0, 1.0),
        (29.0, 2.0),
        (44.0, 3.0),
        (59.0, 4.0),
        (61.0, 104.0),
        (76.0, 105.0),
        (91.0, 106.0),
        (106.0, 107.0),
        (134.0, 9.0),
        (149.0, 10.0),
    ];
    assert_eq!(in_seconds(&result), expected);
}

#[test]
fn a_complete_replica_is_not_touched() {
    let first = Scraper { gaps: 0.0, ..Scraper::new(1) }.scrape(1200, |t| t as f64);
    let second = Scraper::new(2).scrape(1200, |t| t as f64);
    let result = dedup("m", vec![first.clone(), second]);
    assert_eq!(result.timestamps.id(), first.timestamps.id());
    assert_eq!(bits(&result), bits(&first));
}

#[test]
fn a_replica_that_is_mostly_away_is_not_primary() {
    let first = Scraper { gaps: 0.0, ..Scraper::new(1) }.scrape(200, |_| 1.0);
    let second = Scraper { gaps: 0.0, ..Scraper::new(2) }.scrape(480, |_| 2.0);
    let result = dedup("m", vec![first, second.clone()]);
    assert_eq!(bits(&result), bits(&second));
}

#[test]
fn series_of_a_target_share_timestamps_and_change_no_result() {
    let (a, b) = (Scraper::new(11).scrape(1000, |t| t as f64), Scraper::new(12).scrape(1000, |t| t as f64));
    let mut dedup_all = Deduplicator::default();
    let mut ids = HashSet::new();
    for i in 0..5 {
        let mut replicas = [a.clone(), b.clone()];
        replicas.iter_mut().for_each(|r| r.values.iter_mut().for_each(|v| *v += f64::from(i)));
        let expected = dedup("m", replicas.to_vec());
        let mut out = SampleBuf::default();
        dedup_all.dedup("m", &mut replicas, false, &mut out);
        assert_eq!(bits(&out), bits(&expected));
        assert_ne!(out.timestamps.id(), 0);
        ids.insert(out.timestamps.id());
    }
    assert_eq!(ids.len(), 1);
}

#[test]
fn a_marker_counts_only_if_nobody_sees_the_series() {
    let s = stale_nan();
    // One failed scrape of the first, which the second did not have.
    let first = seconds(&[(0.0, 1.0), (15.0, 2.0), (30.0, s), (45.0, 4.0), (60.0, 5.0)]);
    let second = seconds(&[(5.0, 1.0), (20.0, 2.0), (35.0, 3.0), (50.0, 4.0), (65.0, 5.0)]);
    let result = dedup("m", vec![first, second]);
    assert_eq!(in_seconds(&result), [(0.0, 1.0), (15.0, 2.0), (35.0, 3.0), (45.0, 4.0), (60.0, 5.0)]);
    // Both see the end: the first marker stays.
    let first = seconds(&[(0.0, 1.0), (15.0, 2.0), (30.0, 3.0), (45.0, s)]);
    let second = seconds(&[(5.0, 1.0), (20.0, 2.0), (35.0, 3.0), (50.0, s)]);
    let result = dedup("m", vec![first, second]);
    assert_eq!(result.len(), 4);
    assert_eq!(result.timestamps[3], START_MS + 45_000);
    assert!(is_stale(result.values[3]));
    // Both missed one scrape.
    let first = seconds(&[(0.0, 1.0), (15.0, 2.0), (30.0, s), (45.0, 4.0), (60.0, 5.0)]);
    let second = seconds(&[(5.0, 1.0), (20.0, 2.0), (35.0, s), (50.0, 4.0), (65.0, 5.0)]);
    let result = dedup("m", vec![first.clone(), second]);
    assert_eq!(bits(&result), bits(&first));
}

#[test]
fn a_marker_at_the_end_of_a_window_waits_for_the_other_replica() {
    let regular = |from: i64, count: i64| (0..count).map(move |i| (START_MS + DEDUP_WINDOW_MS - 150_000 + from + i * INTERVAL_MS, 1.0));
    let first = buf(regular(12_000, 9).chain([(START_MS + DEDUP_WINDOW_MS - 3_000, stale_nan())]));
    let second = buf(regular(2_000, 20));
    let result = dedup("m", vec![first.clone(), second]);
    assert!(!result.values.iter().any(|v| is_stale(*v)), "the second is alive");
    let result = dedup("m", vec![first, buf(regular(2_000, 4))]);
    assert!(result.values.iter().any(|v| is_stale(*v)), "the second is gone");
}

#[test]
fn a_late_reading_is_no_reset() {
    // The second reads four seconds before what it writes down, as if its clock were ahead.
    let truth = Truth { restarts: Vec::new(), per_ms: 0.01 };
    let first =
        buf((0..100).filter(|i| !(40..50).contains(i)).map(|i| START_MS + 1_000 + i * INTERVAL_MS).map(|t| (t, truth.at(t + 14_500))));
    let second = buf((0..100).map(|i| START_MS + 3_000 + i * INTERVAL_MS).map(|t| (t, truth.at(t - 4_000))));
    let replicas = vec![first, second];
    let result = dedup("requests_total", replicas.clone());
    check_any(&replicas, &result);
    assert_eq!(falls(&result), 0, "{:?}", in_seconds(&result));
    assert!(result.len() >= 98, "no more than the samples at both ends of the gap are dropped");
    // A gauge goes up and down as it likes.
    let wave = |samples: &SampleBuf| buf(samples.timestamps.iter().map(|t| (*t, ((t / 1000) as f64).sin() * 100.0)));
    let gauges: Vec<SampleBuf> = replicas.iter().map(wave).collect();
    let result = dedup("temperature", gauges.clone());
    check_slots(&gauges, &result, INTERVAL_MS);
    let result = dedup("in_flight_count", gauges.clone());
    check_slots(&gauges, &result, INTERVAL_MS);
}

#[test]
fn a_restart_in_a_gap_stays() {
    let truth = Truth { restarts: vec![START_MS + 620_000], per_ms: 0.01 };
    let scrape = |phase_ms: i64, gap: Range<i64>| {
        buf((0..100).filter(|i| !gap.contains(i)).map(|i| START_MS + phase_ms + i * INTERVAL_MS).map(|t| (t, truth.at(t))))
    };
    let replicas = vec![scrape(1_000, 40..50), scrape(8_000, 0..1)];
    let result = dedup("requests_total", replicas.clone());
    check_slots(&replicas, &result, INTERVAL_MS);
    assert_eq!(falls(&result), 1);
}

fn histogram(count: u64, reset_hint: ResetHint) -> Arc<Histogram> {
    Arc::new(Histogram {
        reset_hint,
        schema: 0,
        zero_threshold: 0.0,
        sum: count as f64 * 0.5,
        positive_spans: Vec::new(),
        negative_spans: Vec::new(),
        custom_bounds: Vec::new(),
        counts: Counts::Integer { count, zero: count, positive: Vec::new(), negative: Vec::new() },
    })
}

fn histograms(samples: impl IntoIterator<Item = (i64, u64)>, hint: ResetHint) -> SampleBuf {
    let mut out = SampleBuf::default();
    for (at, (t_ms, count)) in samples.into_iter().enumerate() {
        let histogram = histogram(count, hint);
        out.timestamps.make_mut().push(t_ms);
        out.values.push(histogram.sum);
        out.histograms.push((at as u32, histogram));
    }
    out
}

#[test]
fn histograms_come_along_and_compare_by_count() {
    let times =
        |phase_ms: i64, gap: Range<i64>| (0..60).filter(move |i| !gap.contains(i)).map(move |i| START_MS + phase_ms + i * INTERVAL_MS);
    let count = |t: i64| ((t - START_MS) / 10 + 1000) as u64;
    for (hint, lost) in [(ResetHint::Unknown, 1), (ResetHint::Gauge, 0)] {
        let first = histograms(times(1_000, 20..30).map(|t| (t, count(t + 14_000))), hint);
        let second = histograms(times(3_000, 0..0).map(|t| (t, count(t - 7_000))), hint);
        let result = dedup("latency", vec![first, second]);
        assert_eq!(result.len() + lost, 60, "{hint:?}");
        assert_eq!(result.histograms.len(), result.len());
        for (at, (i, h)) in result.histograms.iter().enumerate() {
            assert_eq!(*i as usize, at);
            assert_eq!(h.sum.to_bits(), result.values[at].to_bits());
        }
        let counts = result.histograms.iter().map(|(_, h)| if let Counts::Integer { count, .. } = h.counts { count } else { 0 });
        assert_eq!(counts.is_sorted(), lost > 0, "a gauge may go down");
    }
}

#[test]
fn counts_come_along() {
    let mut first = seconds(&[(0.0, 1.0), (300.0, 2.0), (600.0, 3.0), (1500.0, 6.0), (1800.0, 7.0), (2100.0, 8.0)]);
    first.counts = vec![20, 20, 19, 20, 20, 20];
    let mut second = seconds(&[(0.5, 1.0), (300.5, 2.0), (600.5, 3.0), (900.5, 4.0), (1200.5, 5.0), (1500.5, 6.0), (1800.5, 7.0)]);
    second.counts = vec![5, 5, 5, 6, 7, 5, 5];
    let result = dedup("m", vec![first, second.clone()]);
    assert_eq!(result.counts, [20, 20, 19, 6, 7, 20, 20, 20]);
    let plain = seconds(&[(0.0, 1.0), (300.0, 2.0), (600.0, 3.0), (1500.0, 6.0), (1800.0, 7.0)]);
    assert_eq!(dedup("m", vec![plain, second]).counts, [1, 1, 1, 6, 7, 1, 1]);
}

#[test]
fn unequal_intervals_lose_no_slot() {
    for (first_ms, second_ms) in [(15_000, 60_000), (60_000, 15_000), (30_000, 15_000), (10_000, 30_000)] {
        let scraper = |interval_ms: i64, seed| Scraper { interval_ms, phase_ms: interval_ms / 3, jitter_ms: 200, ..Scraper::new(seed) };
        let slots_of = |interval_ms: i64| 2 * DEDUP_WINDOW_MS / interval_ms;
        let replicas = vec![
            scraper(first_ms, 5).scrape(slots_of(first_ms), |t| t as f64),
            scraper(second_ms, 6).scrape(slots_of(second_ms), |t| t as f64),
        ];
        let result = dedup("m", replicas.clone());
        check_any(&replicas, &result);
        check_slots(&replicas, &result, first_ms.min(second_ms));
    }
}

#[test]
fn scrapes_near_the_edge_of_a_slot_are_not_lost() {
    // Every other scrape of the second falls into the slot of the one before.
    let second = buf((0..200).map(|i| (START_MS + (i + 1) * INTERVAL_MS + if i % 2 == 0 { 1 } else { -1 }, 2.0)));
    let first = buf((0..200).filter(|i| !(50..150).contains(i)).map(|i| (START_MS + i * INTERVAL_MS + 7_000, 1.0)));
    let result = dedup("m", vec![first, second]);
    assert!(result.timestamps.windows(2).all(|w| w[1] - w[0] < INTERVAL_MS * 2), "a hole where the second had samples");
    assert!(result.len() >= 199);
}

#[test]
fn a_few_samples_with_gaps_lose_none() {
    let replicas = vec![seconds(&[(1.0, 1.0), (61.0, 5.0)]), seconds(&[(20.0, 2.0)])];
    let result = dedup("m", replicas.clone());
    check_slots(&replicas, &result, INTERVAL_MS);
    // Two servers that agree on a long interval are believed.
    let replicas = vec![seconds(&[(60.0, 1.0), (3660.0, 5.0)]), seconds(&[(1260.0, 2.0), (4860.0, 6.0)])];
    assert_eq!(bits(&dedup("m", replicas.clone())), bits(&replicas[0]));
}

#[test]
fn wide_windows_do_not_overflow() {
    assert_eq!(whole_windows(TimeRange::ALL), TimeRange::ALL);
    let widened = whole_windows(TimeRange::new(-1, 1).expect("a range"));
    assert_eq!((widened.start_ms(), widened.end_ms()), (-DEDUP_WINDOW_MS, DEDUP_WINDOW_MS - 1));
    let ends = |v| buf([(i64::MIN, v), (i64::MIN + 5, v), (-1, v), (0, v), (i64::MAX - 1, v)]);
    let other = buf([(i64::MIN + 1, 3.0), (0, 4.0), (i64::MAX, 4.0)]);
    let replicas = vec![ends(1.0), ends(stale_nan()), other];
    check_any(&replicas, &dedup("m", replicas.clone()));
}

proptest! {
    /// What `loadgen` writes and `loadgen verify --dedup` checks.
    #[test]
    fn one_sample_for_each_slot_that_any_replica_sent(seed in any::<u64>(), replicas in 2usize..4, length in 1i64..1500, gaps in 0.0..0.4f64) {
        let scrapers: Vec<Scraper> = (0..replicas as u64).map(|r| Scraper { gaps, jitter_ms: if length % 480 < 60 { 700 } else { 3_500 }, ..Scraper::new(seed.wrapping_add(r)) }).collect();
        let replicas: Vec<SampleBuf> = scrapers.iter().map(|s| s.scrape(length, |t| t as f64)).collect();
        let result = dedup("m_total", replicas.clone());
        check_any(&replicas, &result);
        check_slots(&replicas, &result, INTERVAL_MS);
        // Of a few samples with gaps the result may tell more of the interval than the replicas do.
        if length % 480 >= 60 {
            check_beside("m_total", replicas, &result);
        }
    }

    /// Servers that read up to a third of the interval late, and a process that restarts.
    #[test]
    fn no_false_reset(seed in any::<u64>(), replicas in 2usize..4, delay_ms in 0i64..5_000, restarts in prop::collection::vec(0i64..14_400_000, 0..4),
        rate in 0.0001..1.0f64, by_name in any::<bool>()) {
        let mut restarts: Vec<i64> = restarts.into_iter().map(|t| START_MS + t).collect();
        restarts.sort();
        let truth = Truth { restarts, per_ms: if by_name { rate } else { rate.max(0.01) } };
        let scraper = |r: u64| Scraper { gaps: 0.2, delay_ms, ..Scraper::new(seed.wrapping_add(r)) };
        let replicas: Vec<SampleBuf> = (0..replicas as u64).map(|r| scraper(r).scrape(480, |t| truth.at(t))).collect();
        let name = if by_name { "m_total" } else { "m" };
        let result = dedup(name, replicas.clone());
        check_any(&replicas, &result);
        prop_assert!(falls(&result) <= truth.restarts.len(), "{} resets of {:?}", falls(&result), truth.restarts);
        // Of two restarts in one gap each replica may have seen another.
        if truth.restarts.len() < 2 {
            check_beside(name, replicas, &result);
        }
    }

    #[test]
    fn markers_show_only_where_nobody_has_samples(seed in any::<u64>(), replicas in 2usize..4) {
        let scraper = |r: u64| Scraper { gaps: 0.2, marks: true, jitter_ms: 500, ..Scraper::new(seed.wrapping_add(r)) };
        let replicas: Vec<SampleBuf> = (0..replicas as u64).map(|r| scraper(r).scrape(960, |t| t as f64)).collect();
        let result = dedup("m", replicas.clone());
        check_any(&replicas, &result);
        check_slots(&replicas, &result, INTERVAL_MS);
        let stale: Vec<usize> = (0..result.len()).filter(|i| is_stale(result.values[*i])).collect();
        for i in &stale {
            let alive = replicas.iter().filter(|r| r.timestamps.binary_search(&result.timestamps[*i]).is_err()).any(|r| {
                let place = result.timestamps[*i] - INTERVAL_MS / 4..=result.timestamps[*i] + INTERVAL_MS;
                r.timestamps.iter().zip(&r.values).any(|(t, v)| place.contains(t) && !is_stale(*v) && t.div_euclid(DEDUP_WINDOW_MS) == result.timestamps[*i].div_euclid(DEDUP_WINDOW_MS))
            });
            prop_assert!(!alive);
        }
        prop_assert!(stale.windows(2).all(|w| w[0] + 1 < w[1] || result.timestamps[w[0]].div_euclid(DEDUP_WINDOW_MS) != result.timestamps[w[1]].div_euclid(DEDUP_WINDOW_MS)));
        check_beside("m", replicas, &result);
    }

    #[test]
    fn anything_goes(replicas in prop::collection::vec(prop::collection::btree_map(0i64..20_000_000, 0u8..6, 0..60), 0..5), name in "(m|m_total)") {
        let value = |v: u8| match v { 0 => stale_nan(), 1 => f64::NAN, v => f64::from(v) };
        let replicas: Vec<SampleBuf> = replicas.into_iter().map(|r| buf(r.into_iter().map(|(t, v)| (t, value(v))))).collect();
        check_any(&replicas, &dedup(&name, replicas.clone()));
    }

    /// A remembered layout is the one that would be made.
    #[test]
    fn remembering_changes_nothing(seed in any::<u64>()) {
        let mut together = Deduplicator::default();
        let mut known: HashMap<u64, Vec<SampleBuf>> = HashMap::new();
        for i in 0..6u64 {
            let target = known.entry(i % 3).or_insert_with(|| {
                (0..2).map(|r| Scraper { marks: i % 3 == 1, gaps: 0.1, ..Scraper::new(seed.wrapping_add(i % 3 * 2 + r)) }.scrape(300, |t| t as f64)).collect()
            });
            let mut out = SampleBuf::default();
            together.dedup("m_total", &mut target.clone(), false, &mut out);
            prop_assert_eq!(bits(&out), bits(&dedup("m_total", target.clone())));
        }
    }
}
