//! Aggregates of sliding windows in O(samples + steps): the "two stacks" algorithm.
//!
//! Samples up to some border are kept as aggregates of suffixes, those after it as one running aggregate; a window is one
//! suffix combined with the running part. When windows leave the border behind, it moves to the end of the window. Nothing is
//! ever subtracted, so a large value has no influence on windows that it is not in.

use isobar_block::stale_nan;

use super::window::Windows;

/// How two neighbouring runs of samples become one.
pub(super) trait Combine {
    /// Aggregate of a run.
    type Acc: Copy;
    /// Aggregate of one sample.
    fn lift(value: f64) -> Self::Acc;
    /// Aggregate of `left` followed by `right`.
    fn combine(left: Self::Acc, right: Self::Acc) -> Self::Acc;
    /// The result for a window of `count` samples.
    fn finish(acc: Self::Acc, count: usize) -> f64;
}

/// Evaluates all windows; the stale marker where there is no sample.
#[inline(always)]
pub(super) fn slide<C: Combine>(values: &[f64], windows: &Windows, suffix: &mut Vec<C::Acc>, out: &mut [f64]) {
    // suffix[i] is the aggregate of values[base + i..border], running that of values[border..end].
    let (mut base, mut border, mut end) = (0, 0, 0);
    let mut running: Option<C::Acc> = None;
    for (out, (lo, hi)) in out.iter_mut().zip(windows.iter()) {
        if lo >= hi {
            *out = stale_nan();
            continue;
        }
        if lo >= border {
            (base, border, end) = (lo, hi, hi);
            running = None;
            fill_suffixes::<C>(&values[lo..hi], suffix);
        }
        if end < hi {
            let mut acc = running;
            for v in &values[end..hi] {
                let v = C::lift(*v);
                acc = Some(match acc {
                    Some(acc) => C::combine(acc, v),
                    None => v,
                });
            }
            (running, end) = (acc, hi);
        }
        let head = suffix[lo - base];
        *out = C::finish(running.map_or(head, |tail| C::combine(head, tail)), hi - lo);
    }
}

#[inline(always)]
fn fill_suffixes<C: Combine>(values: &[f64], suffix: &mut Vec<C::Acc>) {
    let Some((last, rest)) = values.split_last() else { return };
    let mut acc = C::lift(*last);
    suffix.clear();
    suffix.resize(values.len(), acc);
    for (slot, v) in suffix.iter_mut().zip(rest).rev() {
        acc = C::combine(C::lift(*v), acc);
        *slot = acc;
    }
}
