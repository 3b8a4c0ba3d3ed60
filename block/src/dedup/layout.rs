//! Which samples of which replica are kept, as far as timestamps and stale markers decide it: steps 1 to 5.

use smallvec::SmallVec;

use super::DEDUP_WINDOW_MS;

/// The interval that is assumed where the samples do not tell one.
const DEFAULT_INTERVAL_MS: i64 = 15_000;

/// Distances between samples from which an interval is believed even if no other replica has the same.
const ENOUGH_DISTANCES: usize = 3;

/// Samples that a primary may be short of half of the fullest replica's.
const PRIMARY_SLACK: usize = 3;

/// Intervals that are in use; what is near to one means it.
const USUAL_INTERVALS_MS: [i64; 12] = [1_000, 2_000, 5_000, 10_000, 15_000, 20_000, 30_000, 60_000, 120_000, 300_000, 600_000, 3_600_000];

/// Timestamps of a replica, ascending, and which of them are stale markers.
pub(super) struct Replica<'a> {
    pub times: &'a [i64],
    pub markers: &'a [u32],
}

/// Samples of one replica that follow each other in the result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Run {
    /// Which replica.
    pub replica: usize,
    /// Its first sample.
    pub start: usize,
    /// One past its last sample.
    pub end: usize,
    /// 0 for the primary of the window; replicas that filled later have higher ones.
    pub rank: u32,
    /// Start of the window. No run reaches into another.
    pub window_ms: i64,
    /// Longest distance at which neighbours count as such: 1.5 times the interval.
    pub reach_ms: i64,
}

/// The runs of all windows, in time order.
pub(super) fn runs(replicas: &[Replica<'_>]) -> Vec<Run> {
    let mut out = Vec::new();
    let mut window = Window::default();
    let mut next: SmallVec<[usize; 4]> = replicas.iter().map(|_| 0).collect();
    while let Some(first) = replicas.iter().zip(&next).filter_map(|(r, next)| r.times.get(*next)).min() {
        let start_ms = first.div_euclid(DEDUP_WINDOW_MS).saturating_mul(DEDUP_WINDOW_MS);
        let last_ms = start_ms.saturating_add(DEDUP_WINDOW_MS - 1);
        window.start_ms = start_ms;
        window.parts.clear();
        for (i, (replica, next)) in replicas.iter().zip(&mut next).enumerate() {
            let start = *next;
            *next += replica.times[start..].partition_point(|t| *t <= last_ms);
            if start < *next {
                window.parts.push(Part { replica: i, start, end: *next });
            }
        }
        window.lay(replicas, &mut out);
    }
    out
}

/// The samples of one replica in a window.
#[derive(Clone, Copy)]
struct Part {
    replica: usize,
    start: usize,
    end: usize,
}

impl Part {
    fn times<'a>(&self, replicas: &[Replica<'a>]) -> &'a [i64] {
        &replicas[self.replica].times[self.start..self.end]
    }

    /// The stale markers, numbered as samples of the replica.
    fn markers<'a>(&self, replicas: &[Replica<'a>]) -> &'a [u32] {
        let all = replicas[self.replica].markers;
        &all[all.partition_point(|m| (*m as usize) < self.start)..all.partition_point(|m| (*m as usize) < self.end)]
    }
}

/// One sample.
#[derive(Clone, Copy)]
struct Sample {
    t_ms: i64,
    /// Place among the replica's samples.
    at: u32,
    replica: u32,
    is_marker: bool,
}

/// One window, with memory that is used again for the next.
#[derive(Default)]
struct Window {
    start_ms: i64,
    parts: Vec<Part>,
    /// The replica all of whose samples are kept.
    primary: usize,
    /// The samples of each part that are no stale markers.
    samples: Vec<Vec<Sample>>,
    kept: Vec<Sample>,
    filled: Vec<Sample>,
    markers: Vec<Sample>,
    distances: Vec<i64>,
}

impl Window {
    fn lay(&mut self, replicas: &[Replica<'_>], out: &mut Vec<Run>) {
        let first = self.parts[0];
        let places = |part: &Part| {
            let start = part.start;
            part.markers(replicas).iter().map(move |m| *m as usize - start)
        };
        let is_same = |part: &Part| part.times(replicas) == first.times(replicas) && places(part).eq(places(&first));
        if self.parts[1..].iter().all(is_same) {
            out.push(Run { replica: first.replica, start: first.start, end: first.end, rank: 0, window_ms: self.start_ms, reach_ms: 0 });
            return;
        }
        self.separate(replicas);
        let interval_ms = self.interval_ms();
        self.fill(interval_ms);
        self.keep_markers(interval_ms);
        self.push_runs(interval_ms, out);
    }

    /// Tells samples from stale markers.
    fn separate(&mut self, replicas: &[Replica<'_>]) {
        self.samples.resize_with(self.samples.len().max(self.parts.len()), Vec::new);
        self.markers.clear();
        for (part, samples) in self.parts.iter().zip(&mut self.samples) {
            samples.clear();
            let mut stale = part.markers(replicas).iter().map(|m| *m as usize).peekable();
            for (at, t_ms) in (part.start..part.end).zip(part.times(replicas)) {
                let is_marker = stale.next_if_eq(&at).is_some();
                let list = if is_marker { &mut self.markers } else { &mut *samples };
                list.push(Sample { t_ms: *t_ms, at: at as u32, replica: part.replica as u32, is_marker });
            }
        }
        self.markers.sort_by_key(|m| (m.t_ms, m.replica));
    }

    /// The scrape interval: the least of those of the replicas that can be believed, because they are of several distances or
    /// because another replica has the same. A few samples with gaps between them do not tell; then too short an interval is the
    /// lesser evil, because it lets no sample get lost.
    fn interval_ms(&mut self) -> i64 {
        let mut found: SmallVec<[(i64, usize); 4]> = SmallVec::new();
        for samples in &self.samples[..self.parts.len()] {
            self.distances.clear();
            self.distances.extend(samples.windows(2).map(|w| w[1].t_ms - w[0].t_ms));
            if !self.distances.is_empty() {
                found.push((typical(&mut self.distances), self.distances.len()));
            }
        }
        let near = |a: i64, b: i64| (a - b).abs() <= a / 32;
        let is_believed = |i: usize| {
            let (interval_ms, count) = found[i];
            count >= ENOUGH_DISTANCES || found.iter().enumerate().any(|(other, f)| other != i && near(interval_ms, f.0))
        };
        let believed = (0..found.len()).filter(|i| is_believed(*i)).map(|i| found[i].0).min();
        let least = found.iter().map(|f| f.0).min().filter(|ms| *ms < DEFAULT_INTERVAL_MS * 2 / 3);
        rounded(believed.or(least).unwrap_or(DEFAULT_INTERVAL_MS))
    }

    /// Takes the primary's samples, and into their gaps those of the others.
    fn fill(&mut self, interval_ms: i64) {
        let samples = &self.samples[..self.parts.len()];
        let fullest = samples.iter().map(Vec::len).max().unwrap_or(0);
        let is_full = |s: &Vec<Sample>| !s.is_empty() && (s.len() + PRIMARY_SLACK) * 2 >= fullest;
        let primary = samples.iter().position(is_full).unwrap_or(0);
        self.primary = self.parts[primary].replica;
        self.kept.clear();
        self.kept.extend_from_slice(&samples[primary]);
        for (i, samples) in samples.iter().enumerate() {
            if i != primary {
                fill_from(&self.kept, samples, interval_ms, &mut self.filled);
                std::mem::swap(&mut self.kept, &mut self.filled);
            }
        }
    }

    /// Adds those stale markers that end the series for all replicas.
    fn keep_markers(&mut self, interval_ms: i64) {
        let markers = std::mem::take(&mut self.markers);
        for marker in &markers {
            if self.is_alive_elsewhere(&markers, marker, interval_ms) {
                continue;
            }
            let at = self.kept.partition_point(|k| k.t_ms < marker.t_ms);
            let is_taken = self.kept.get(at).is_some_and(|k| k.t_ms == marker.t_ms);
            // Markers come in time order, so that one without a sample between stands right before.
            let is_repeat = at > 0 && self.kept[at - 1].is_marker;
            if !is_taken && !is_repeat {
                self.kept.insert(at, *marker);
            }
        }
        self.markers = markers;
    }

    /// Whether a replica that has no marker at this time shows that the series goes on.
    fn is_alive_elsewhere(&self, markers: &[Sample], marker: &Sample, interval_ms: i64) -> bool {
        let t_ms = marker.t_ms;
        let place_end_ms = t_ms.saturating_add(interval_ms);
        self.parts.iter().zip(&self.samples).any(|(part, samples)| {
            let own = || markers.iter().filter(|m| m.replica as usize == part.replica);
            if own().any(|m| m.t_ms == t_ms) {
                return false;
            }
            let next = samples.partition_point(|s| s.t_ms < t_ms.saturating_sub(interval_ms / 4));
            if samples.get(next).is_some_and(|s| s.t_ms <= place_end_ms) {
                return true;
            }
            let is_cut = place_end_ms - self.start_ms >= DEDUP_WINDOW_MS;
            let last = samples.last().filter(|s| s.t_ms >= t_ms.saturating_sub(interval_ms + interval_ms / 4));
            is_cut && last.is_some_and(|last| !own().any(|m| m.t_ms > last.t_ms))
        })
    }

    fn push_runs(&self, interval_ms: i64, out: &mut Vec<Run>) {
        let first = out.len();
        for sample in &self.kept {
            match out[first..].last_mut() {
                Some(run) if run.replica == sample.replica as usize && run.end == sample.at as usize => run.end += 1,
                _ => out.push(Run {
                    replica: sample.replica as usize,
                    start: sample.at as usize,
                    end: sample.at as usize + 1,
                    rank: rank(sample.replica as usize, self.primary),
                    window_ms: self.start_ms,
                    reach_ms: interval_ms + interval_ms / 2,
                }),
            }
        }
    }
}

/// In which turn a replica fills; 0 for the primary.
fn rank(replica: usize, primary: usize) -> u32 {
    match replica.cmp(&primary) {
        std::cmp::Ordering::Less => replica as u32 + 1,
        std::cmp::Ordering::Equal => 0,
        std::cmp::Ordering::Greater => replica as u32,
    }
}

/// The interval of which most of these distances are one: their median, then the mean in which a gap counts as often as the
/// median fits into it, since the mean hardly depends on when single scrapes were made.
fn typical(distances: &mut [i64]) -> i64 {
    let (_, median, _) = distances.select_nth_unstable((distances.len() - 1) / 2);
    let median = *median;
    // Nearly all are one interval, and a division takes long.
    let intervals = |d: i64| if d <= median + median / 4 { 1 } else { (d + median / 2) / median };
    let intervals: i64 = distances.iter().map(|d| intervals(*d)).sum();
    distances.iter().sum::<i64>() / intervals
}

/// An interval as it was meant.
fn rounded(interval_ms: i64) -> i64 {
    let nearest_usual = USUAL_INTERVALS_MS.into_iter().min_by_key(|usual| (usual - interval_ms).abs()).unwrap_or(interval_ms);
    if (nearest_usual - interval_ms).abs() * 10 <= nearest_usual {
        return nearest_usual;
    }
    let seconds = (interval_ms + 500) / 1000 * 1000;
    if (seconds - interval_ms).abs() * 100 <= interval_ms * 3 { seconds } else { interval_ms.max(1) }
}

/// `kept`, with those of `samples` that fill its gaps.
fn fill_from(kept: &[Sample], samples: &[Sample], interval_ms: i64, out: &mut Vec<Sample>) {
    out.clear();
    out.reserve(kept.len() + samples.len());
    let slot = |t_ms: i64| t_ms.div_euclid(interval_ms);
    let mut next = 0;
    for sample in samples {
        while kept.get(next).is_some_and(|k| k.t_ms <= sample.t_ms) {
            out.push(kept[next]);
            next += 1;
        }
        let before = next.checked_sub(1).map(|i| kept[i]);
        let after = kept.get(next).copied();
        let is_gap = match (before, after) {
            (Some(before), Some(after)) if before.replica == after.replica => (after.t_ms - before.t_ms) * 2 > interval_ms * 3,
            _ => true,
        };
        let is_free = || [before, after].into_iter().flatten().all(|k| slot(k.t_ms) != slot(sample.t_ms));
        if is_gap && is_free() {
            out.push(*sample);
        }
    }
    out.extend_from_slice(&kept[next..]);
}
