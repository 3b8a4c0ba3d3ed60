//! Counters where one window ends and the next begins: step 7.
//!
//! The last value of a window may have been read late and the first one of the next in time, by another replica, so that a
//! counter seems to go down between them. What replicas saw in the window before may be gone, because it has been compacted
//! already: so this looks at nothing of it but its last sample, which compaction keeps, and the verdict is the same before and
//! after. A fall is believed if the samples of the window that are too far from the border to have been overtaken by a late reading
//! begin below the last value too. If not, the samples before those are dropped. So a restart right at a border goes unseen if
//! the counter passes its old value within [`LATE_MS`].

use super::layout::Run;
use super::splice::{Level, is_counter, level};
use crate::SampleBuf;

/// How much later than its timestamp says a value is read at most: half as long again as the scrape timeout that is usual.
pub(super) const LATE_MS: i64 = 15_000;

/// The runs without samples at the start of windows that would be taken for resets, or `None` if there are none such. Windows
/// that are all of the replica `plain` stay as they are.
pub(super) fn without_false_resets(metric: &str, runs: &[Run], replicas: &[&SampleBuf], plain: Option<usize>) -> Option<Vec<Run>> {
    let mut out: Option<Vec<Run>> = None;
    let mut start = 0;
    for at in 1..=runs.len() {
        if at < runs.len() && runs[at].window_ms == runs[start].window_ms {
            continue;
        }
        let (before, window) = (&runs[..start], &runs[start..at]);
        let is_plain = window.iter().all(|run| Some(run.replica) == plain);
        let count = if is_plain { 0 } else { overtaken(metric, before, window, replicas) };
        if count > 0 && out.is_none() {
            out = Some(before.to_vec());
        }
        if let Some(out) = &mut out {
            push_without(out, window, count);
        }
        start = at;
    }
    out
}

/// How many of the first samples of a window are to be dropped, which comes after the runs in `before`.
fn overtaken(metric: &str, before: &[Run], window: &[Run], replicas: &[&SampleBuf]) -> usize {
    let Some((left_ms, left)) = last_sample(before, window, replicas) else { return 0 };
    let mut count = 0;
    for (t_ms, level) in samples(window, replicas) {
        if !level.is_below(left) {
            break;
        }
        if t_ms - left_ms > LATE_MS {
            return 0;
        }
        count += 1;
    }
    let looks_so = || {
        let first = &window[0];
        is_counter(metric, (replicas[first.replica], first.start), samples(window, replicas).map(|(_, level)| level))
    };
    if count > 0 && looks_so() { count } else { 0 }
}

/// The last sample before a window that is no stale marker, if it is near.
fn last_sample(before: &[Run], window: &[Run], replicas: &[&SampleBuf]) -> Option<(i64, Level)> {
    let first_ms = replicas[window.first()?.replica].timestamps[window[0].start];
    for run in before.iter().rev() {
        let samples = replicas[run.replica];
        for at in (run.start..run.end).rev() {
            let t_ms = samples.timestamps[at];
            if first_ms.saturating_sub(t_ms) > LATE_MS {
                return None;
            }
            let level = level(samples, at);
            if level != Level::None {
                return Some((t_ms, level));
            }
        }
    }
    None
}

fn samples<'a>(window: &'a [Run], replicas: &'a [&SampleBuf]) -> impl Iterator<Item = (i64, Level)> + 'a {
    window.iter().flat_map(|run| {
        let samples = replicas[run.replica];
        (run.start..run.end).map(|at| (samples.timestamps[at], level(samples, at)))
    })
}

/// Appends the runs of a window without its first `count` samples.
fn push_without(out: &mut Vec<Run>, window: &[Run], count: usize) {
    let mut left = count;
    for run in window {
        let dropped = left.min(run.end - run.start);
        left -= dropped;
        if run.start + dropped < run.end {
            out.push(Run { start: run.start + dropped, ..*run });
        }
    }
}
