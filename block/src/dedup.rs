//! One series out of its replicas: what two or more Prometheus servers that scrape the same targets wrote of it. Queries and
//! compaction use the same function, so that an answer is the same before and after a block was deduplicated.
//!
//! The algorithm is this project's own. It works on windows of [`DEDUP_WINDOW_MS`], aligned to the epoch, and looks at nothing
//! outside of a window but, in step 7, the last sample that is kept of the one before; so the result does not depend on where a
//! query starts, if whole windows are given ([`whole_windows`]). In each window:
//!
//! 1. A window in which only one replica has samples, or in which all have the same timestamps and stale markers, is that of
//!    the first replica, bit for bit.
//! 2. The scrape interval *I* is the least of the replicas' median distances between samples ([`layout`] says of which).
//! 3. The primary is the first replica that has about half as many samples as the fullest. All of its samples are kept.
//! 4. The other replicas fill its gaps, one after the other, in order. A sample fills if it is in another slot of time than the
//!    kept samples before and after it (slots are the multiples of *I*), and if these, where they are of one replica, are more
//!    than 1.5 *I* apart: scrapes near the edge of a slot may leave one out without one missing. For the same reason the samples
//!    of one replica do not compete with each other.
//! 5. A stale marker is kept if no other replica has a sample in its place, from *I*/4 before it to *I* after it; near the end
//!    of the window, where that would be outside, if no other replica was alive just before. Of several without a sample between
//!    them the first is kept.
//! 6. A counter read by two servers with unequal delay may seem to go down where the replica changes. The filling sample is
//!    dropped there, unless one of the replicas really saw a reset ([`splice`]).
//! 7. So it may where the primary changes from one window to the next. The first samples of the window are dropped there, unless
//!    those after them confirm the reset ([`borders`]). This is done in windows of which a series with replica labels is kept.
//!
//! No sample is moved or computed: each one in the result was written by some replica. What comes out is one replica, which
//! deduplicated again stays as it is; so does the result beside the replicas that it was made of, where it is the first, unless
//! the window has so few samples that they do not tell the interval.
//!
//! Steps 1 to 5 depend on timestamps and stale markers only. Series of one target share these, so the steps are done once for all
//! of them, and each series then costs a copy of its values.

mod borders;
mod layout;
mod splice;

use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::merge::append_counts;
use crate::{SampleBuf, TimeRange, Timestamps, is_stale};
use layout::{Replica, Run};

/// Span that is deduplicated on its own, milliseconds; windows begin at its multiples.
pub const DEDUP_WINDOW_MS: i64 = 2 * 3600 * 1000;

/// Layouts that are remembered.
const MAX_LAYOUTS: usize = 4096;

/// Timestamps in those, 8 bytes each.
const MAX_LAYOUT_TIMESTAMPS: usize = 8 << 20;

/// Layouts of series with more stale markers than this are not remembered.
const MAX_REMEMBERED_MARKERS: usize = 32;

/// All windows that `range` touches, whole, and the one before if it decides on samples in the range.
pub fn whole_windows(range: TimeRange) -> TimeRange {
    let start = |t_ms: i64| t_ms.div_euclid(DEDUP_WINDOW_MS).saturating_mul(DEDUP_WINDOW_MS);
    let end = start(range.end_ms()).saturating_add(DEDUP_WINDOW_MS - 1).max(range.end_ms());
    let decided_from_ms = range.start_ms().saturating_sub(borders::LATE_MS);
    TimeRange::new(start(decided_from_ms).min(range.start_ms()), end).expect("a widened range is not empty")
}

/// What has to be read of a series of one replica for `range`.
pub(crate) fn with_border(range: TimeRange) -> TimeRange {
    TimeRange::new(range.start_ms().saturating_sub(borders::LATE_MS), range.end_ms()).expect("a widened range is not empty")
}

/// Deduplicates the replicas of one series. See [`Deduplicator::dedup`].
pub fn dedup(metric: &str, mut replicas: Vec<SampleBuf>) -> SampleBuf {
    let mut out = SampleBuf::default();
    Deduplicator::default().dedup(metric, &mut replicas, false, &mut out);
    out
}

/// Deduplicates one series after the other, and remembers what their targets have in common. It changes no result.
#[derive(Default)]
pub struct Deduplicator {
    layouts: HashMap<Key, Arc<Layout>>,
    remembered: usize,
}

/// Ids of the replicas' timestamps, and the places of their stale markers.
type Key = SmallVec<[u64; 8]>;

/// Which samples of which replica follow each other.
struct Layout {
    runs: Vec<Run>,
    kept: Kept,
}

/// What is left of the replicas.
enum Kept {
    /// All of this one, and nothing else.
    All(usize),
    /// Samples at these times.
    Some(Timestamps),
}

impl Deduplicator {
    /// Replaces what is in `out` by the one series of `replicas`, given in the order of the values of their replica labels.
    /// If `is_first_plain`, the first of them has no replica labels: it was deduplicated before. `metric` is the name of the metric. Windows that are cut off at an end give other results than whole ones, and the
    /// first samples of the first window are right only if the one before is there too. What is left
    /// in `replicas` has no meaning.
    pub fn dedup(&mut self, metric: &str, replicas: &mut [SampleBuf], is_first_plain: bool, out: &mut SampleBuf) {
        let used: SmallVec<[usize; 4]> = (0..replicas.len()).filter(|i| !replicas[*i].is_empty()).collect();
        let plain = (is_first_plain && used.first() == Some(&0)).then_some(0);
        match used.as_slice() {
            [] => return out.clear(),
            [only] => return Self::only(metric, &mut replicas[*only], plain, out),
            _ => {}
        }
        let markers: SmallVec<[Vec<u32>; 4]> = used.iter().map(|i| stale_markers(&replicas[*i])).collect();
        let layout = self.layout(replicas, &used, &markers);
        let parts: SmallVec<[&SampleBuf; 4]> = used.iter().map(|i| &replicas[*i]).collect();
        let spliced = splice::without_false_resets(metric, &layout.runs, &parts, &markers);
        let cut = borders::without_false_resets(metric, spliced.as_deref().unwrap_or(&layout.runs), &parts, plain);
        match (&cut.or(spliced), &layout.kept) {
            (None, Kept::All(i)) => {
                drop(parts);
                std::mem::swap(out, &mut replicas[used[*i]]);
            }
            (None, Kept::Some(timestamps)) => copy(&layout.runs, &parts, timestamps.clone(), out),
            (Some(runs), _) => copy(runs, &parts, Timestamps::unshared(times(runs, |i| &parts[i].timestamps)), out),
        }
    }

    /// A series of one replica. There may have been others in windows that are compacted.
    fn only(metric: &str, replica: &mut SampleBuf, plain: Option<usize>, out: &mut SampleBuf) {
        let cut = if plain.is_some() {
            None
        } else {
            let parts = [&*replica];
            let runs = layout::runs(&[Replica { times: &replica.timestamps, markers: &[] }]);
            borders::without_false_resets(metric, &runs, &parts, None).map(|runs| {
                let times = Timestamps::unshared(times(&runs, |_| &replica.timestamps));
                copy(&runs, &parts, times, out);
            })
        };
        if cut.is_none() {
            std::mem::swap(out, replica);
        }
    }

    fn layout(&mut self, replicas: &[SampleBuf], used: &[usize], markers: &[Vec<u32>]) -> Arc<Layout> {
        let key = key(replicas, used, markers);
        if let Some(known) = key.as_ref().and_then(|key| self.layouts.get(key)) {
            return Arc::clone(known);
        }
        let parts: SmallVec<[Replica<'_>; 4]> =
            used.iter().zip(markers).map(|(i, markers)| Replica { times: &replicas[*i].timestamps, markers }).collect();
        let runs = layout::runs(&parts);
        let kept = match whole(&runs, &parts) {
            Some(i) => Kept::All(i),
            None => {
                let times = times(&runs, |i| parts[i].times);
                Kept::Some(if key.is_some() { Timestamps::shared(times) } else { Timestamps::unshared(times) })
            }
        };
        let size = if let Kept::Some(times) = &kept { times.len() } else { 0 };
        let layout = Arc::new(Layout { runs, kept });
        if let Some(key) = key {
            if self.layouts.len() >= MAX_LAYOUTS || self.remembered + size > MAX_LAYOUT_TIMESTAMPS {
                self.layouts.clear();
                self.remembered = 0;
            }
            self.remembered += size;
            self.layouts.insert(key, Arc::clone(&layout));
        }
        layout
    }
}

fn stale_markers(samples: &SampleBuf) -> Vec<u32> {
    let any = samples.values.chunks(64).any(|values| values.iter().fold(false, |any, v| any | is_stale(*v)));
    if !any {
        return Vec::new();
    }
    samples.values.iter().enumerate().filter(|(_, v)| is_stale(**v)).map(|(i, _)| i as u32).collect()
}

fn key(replicas: &[SampleBuf], used: &[usize], markers: &[Vec<u32>]) -> Option<Key> {
    if markers.iter().map(Vec::len).sum::<usize>() > MAX_REMEMBERED_MARKERS {
        return None;
    }
    // Ids count up from 1, so that the highest bit tells places from them.
    let places = markers.iter().enumerate().flat_map(|(i, places)| places.iter().map(move |p| 1 << 63 | (i as u64) << 32 | u64::from(*p)));
    let key: Key = used.iter().map(|i| replicas[*i].timestamps.id()).chain(places).collect();
    (!key.contains(&0)).then_some(key)
}

/// The replica that the runs are all of.
fn whole(runs: &[Run], parts: &[Replica<'_>]) -> Option<usize> {
    let replica = runs.first()?.replica;
    let mut next = 0;
    for run in runs {
        if run.replica != replica || run.start != next {
            return None;
        }
        next = run.end;
    }
    (next == parts[replica].times.len()).then_some(replica)
}

fn times<'a>(runs: &[Run], of: impl Fn(usize) -> &'a [i64]) -> Vec<i64> {
    let mut times = Vec::with_capacity(runs.iter().map(|run| run.end - run.start).sum());
    for run in runs {
        times.extend_from_slice(&of(run.replica)[run.start..run.end]);
    }
    times
}

fn copy(runs: &[Run], parts: &[&SampleBuf], timestamps: Timestamps, out: &mut SampleBuf) {
    out.clear();
    out.values.reserve(timestamps.len());
    out.timestamps = timestamps;
    for run in runs {
        let from = parts[run.replica];
        let first = from.histograms.partition_point(|(i, _)| (*i as usize) < run.start);
        for (i, histogram) in from.histograms[first..].iter().take_while(|(i, _)| (*i as usize) < run.end) {
            out.histograms.push(((*i as usize - run.start + out.values.len()) as u32, Arc::clone(histogram)));
        }
        append_counts(out, from, run.start..run.end);
        out.values.extend_from_slice(&from.values[run.start..run.end]);
    }
}

#[cfg(test)]
mod tests;
