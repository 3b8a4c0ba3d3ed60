//! Counters where the replica changes: step 6.
//!
//! Two servers never read a counter at quite the times that they write down: one is slow, or its clock is off. So the sample that
//! follows on one of another replica may be lower although nothing was reset, and `rate` would take that for a restart. Such a
//! sample is dropped, as long as it is near; further on a lower value is believed.

use super::borders::LATE_MS;
use super::layout::Run;
use crate::histogram::{Counts, ResetHint};
use crate::{SampleBuf, is_stale};

/// Endings of names of counters.
const COUNTER_ENDINGS: [&str; 4] = ["_total", "_sum", "_count", "_bucket"];

/// How near to the time of its sample a value is that tells the time.
const CLOCK_MS: f64 = 3_600_000.0;

/// The runs without samples that would be taken for resets, or `None` if there are none such. `markers` are the places of the
/// replicas' stale markers.
pub(super) fn without_false_resets(metric: &str, runs: &[Run], replicas: &[&SampleBuf], markers: &[Vec<u32>]) -> Option<Vec<Run>> {
    let first = runs.windows(2).position(|w| goes_down(replicas, &w[0], &w[1]))?;
    let mut splice = Splice { metric, replicas, markers, counter: None };
    let mut out: Vec<Run> = Vec::with_capacity(runs.len());
    out.extend_from_slice(&runs[..=first]);
    let mut is_changed = false;
    for run in &runs[first + 1..] {
        let mut run = *run;
        while run.start < run.end {
            let Some(last) = out.last_mut().filter(|last| splice.is_false_reset(last, &run)) else { break };
            is_changed = true;
            if run.rank > last.rank {
                run.start += 1;
                continue;
            }
            last.end -= 1;
            if last.start == last.end {
                out.pop();
            }
        }
        if run.start < run.end {
            out.push(run);
        }
    }
    is_changed.then_some(out)
}

/// Whether the value goes down from the end of one run to the start of the next, of another replica, nearby.
fn goes_down(replicas: &[&SampleBuf], last: &Run, next: &Run) -> bool {
    if last.replica == next.replica || last.window_ms != next.window_ms {
        return false;
    }
    let (a, b) = (replicas[last.replica], replicas[next.replica]);
    b.timestamps[next.start] - a.timestamps[last.end - 1] <= next.reach_ms && level(b, next.start).is_below(level(a, last.end - 1))
}

/// How high a counter stands.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Level {
    Float(f64),
    /// The count of a native histogram.
    Count(f64),
    /// A stale marker, or a gauge.
    None,
}

impl Level {
    pub fn is_below(self, other: Self) -> bool {
        match (self, other) {
            (Self::Float(a), Self::Float(b)) | (Self::Count(a), Self::Count(b)) => a < b,
            _ => false,
        }
    }

    fn is_below_half_of(self, other: Self) -> bool {
        match (self, other) {
            (Self::Float(a), Self::Float(b)) | (Self::Count(a), Self::Count(b)) => a < b / 2.0,
            _ => false,
        }
    }
}

/// Of one sample.
pub(super) fn level(samples: &SampleBuf, at: usize) -> Level {
    let value = samples.values[at];
    if is_stale(value) {
        return Level::None;
    }
    let Ok(i) = samples.histograms.binary_search_by_key(&(at as u32), |(i, _)| *i) else {
        return Level::Float(value);
    };
    let histogram = &samples.histograms[i].1;
    match (&histogram.counts, histogram.reset_hint) {
        (_, ResetHint::Gauge) => Level::None,
        (Counts::Integer { count, .. }, _) => Level::Count(*count as f64),
        (Counts::Float { count, .. }, _) => Level::Count(*count),
    }
}

struct Splice<'a> {
    metric: &'a str,
    replicas: &'a [&'a SampleBuf],
    markers: &'a [Vec<u32>],
    /// Whether the series looks like a counter in the window that starts there.
    counter: Option<(i64, bool)>,
}

impl Splice<'_> {
    /// Whether the step from the end of `last` to the start of `next` looks like a reset and is none.
    fn is_false_reset(&mut self, last: &Run, next: &Run) -> bool {
        if !goes_down(self.replicas, last, next) || !self.is_counter(next.window_ms) {
            return false;
        }
        let (left, right) = (last.end - 1, next.start);
        let (before, after) = (self.replicas[last.replica], self.replicas[next.replica]);
        let left_ms = before.timestamps[left];
        // Samples of the right replica from its last one that is not after the left sample.
        let own = after.timestamps[..right].partition_point(|t| *t <= left_ms);
        match self.sample_before(next.replica, own, next.window_ms) {
            Some(own) => {
                let own_ms = after.timestamps[own];
                let seen = self.resets(next.replica, own, right);
                // A reset that the left replica saw as well, before its sample, is behind both.
                let since = before.timestamps.partition_point(|t| *t <= own_ms).saturating_sub(1);
                let since = if before.timestamps[since] < next.window_ms { since + 1 } else { since };
                seen <= self.resets(last.replica, since.min(left), left)
            }
            // Nothing is known of the right replica before: the left one tells whether it saw a reset afterwards.
            None => match self.sample_after(last.replica, left, next.window_ms) {
                Some(later) => !level(before, later).is_below(level(before, left)),
                None => {
                    !level(after, right).is_below_half_of(level(before, left))
                        || !self.stays_below(next, right, (left_ms, level(before, left)))
                }
            },
        }
    }

    /// Whether the replica's samples after `right` begin below a level, too, where they are too late to have been overtaken by a
    /// late reading of it.
    fn stays_below(&self, next: &Run, right: usize, (left_ms, left): (i64, Level)) -> bool {
        let mut at = right;
        while let Some(later) = self.sample_after(next.replica, at, next.window_ms) {
            let is_below = level(self.replicas[next.replica], later).is_below(left);
            if !is_below || self.replicas[next.replica].timestamps[later] - left_ms > LATE_MS {
                return is_below;
            }
            at = later;
        }
        false
    }

    /// The last sample before `end` that is no stale marker and in the window.
    fn sample_before(&self, replica: usize, end: usize, window_ms: i64) -> Option<usize> {
        let samples = self.replicas[replica];
        let mut inside = (0..end).rev().take_while(|i| samples.timestamps[*i] >= window_ms);
        inside.find(|i| self.markers[replica].binary_search(&(*i as u32)).is_err())
    }

    /// The first sample after `at` that is no stale marker and in the window.
    fn sample_after(&self, replica: usize, at: usize, window_ms: i64) -> Option<usize> {
        let samples = self.replicas[replica];
        let mut inside = (at + 1..samples.len()).take_while(|i| samples.timestamps[*i] - window_ms < super::DEDUP_WINDOW_MS);
        inside.find(|i| self.markers[replica].binary_search(&(*i as u32)).is_err())
    }

    /// How often the replica's own samples go down from `from` to `to`, both inside.
    fn resets(&self, replica: usize, from: usize, to: usize) -> usize {
        self.steps(replica, from, to).filter(|(before, now)| now.is_below(*before)).count()
    }

    /// The replica's own steps from sample to sample, from `from` to `to`, both inside.
    fn steps(&self, replica: usize, from: usize, to: usize) -> impl Iterator<Item = (Level, Level)> {
        let samples = self.replicas[replica];
        steps((from..=to).map(|at| level(samples, at)))
    }

    /// Whether the series looks like a counter in a window, in every replica.
    fn is_counter(&mut self, window_ms: i64) -> bool {
        if let Some((of, known)) = self.counter
            && of == window_ms
        {
            return known;
        }
        let is_counter = (0..self.replicas.len()).all(|replica| {
            let times = &self.replicas[replica].timestamps;
            let start = times.partition_point(|t| *t < window_ms);
            let end = start + times[start..].partition_point(|t| t - window_ms < super::DEDUP_WINDOW_MS);
            let samples = self.replicas[replica];
            start == end || is_counter(self.metric, (samples, start), (start..end).map(|at| level(samples, at)))
        });
        self.counter = Some((window_ms, is_counter));
        is_counter
    }
}

/// Steps from sample to sample.
fn steps(levels: impl Iterator<Item = Level>) -> impl Iterator<Item = (Level, Level)> {
    let mut before = Level::None;
    levels.filter(|level| *level != Level::None).filter_map(move |now| {
        let step = (before, now);
        before = now;
        (step.0 != Level::None).then_some(step)
    })
}

/// Whether samples of which `first` is the first look like a counter: they seldom go down, and it has the name of one, or is a
/// histogram, or mostly goes up and, if down, to less than half, and does not tell the time.
pub(super) fn is_counter(metric: &str, (samples, first): (&SampleBuf, usize), levels: impl Iterator<Item = Level>) -> bool {
    let by_name = COUNTER_ENDINGS.iter().any(|ending| metric.ends_with(ending));
    let is_histogram = matches!(level(samples, first), Level::Count(_));
    let (mut falls, mut soft_falls, mut rises, mut number) = (0, 0, 0, 0);
    for (before, now) in steps(levels) {
        number += 1;
        rises += usize::from(before.is_below(now));
        falls += usize::from(now.is_below(before));
        soft_falls += usize::from(now.is_below(before) && !now.is_below_half_of(before));
    }
    let is_rising = || soft_falls == 0 && rises * 2 >= number && !is_clock(samples.timestamps[first], samples.values[first]);
    falls * 8 <= number && (by_name || is_histogram || is_rising())
}

/// Whether a gauge holds the time, in seconds or milliseconds, as the time when something was last seen.
fn is_clock(t_ms: i64, value: f64) -> bool {
    let t_ms = t_ms as f64;
    [value, value * 1000.0].into_iter().any(|v| (v - t_ms).abs() < CLOCK_MS)
}
