//! Sorting that looks at the cancel flag: a million label sets take half a second to compare.

use std::cmp::Ordering;

use super::context::QueryContext;
use crate::result::Result;

/// Items that are sorted or merged between two looks at the flag.
const PIECE: usize = 1024;

/// Sorts like `sort_by` of the standard library: equal items keep their order, and sorted runs are recognised.
///
/// # Errors
/// If the query is canceled; the items are then in some order.
pub fn sort_by<T: Copy>(items: &mut Vec<T>, query: &QueryContext, compare: impl Fn(&T, &T) -> Ordering) -> Result<()> {
    for piece in items.chunks_mut(PIECE) {
        query.check_canceled()?;
        piece.sort_by(&compare);
    }
    let mut merged = Vec::with_capacity(items.len());
    let mut width = PIECE;
    while width < items.len() {
        merged.clear();
        for pair in items.chunks(2 * width) {
            let (left, right) = pair.split_at(width.min(pair.len()));
            merge(left, right, &mut merged, query, &compare)?;
        }
        std::mem::swap(items, &mut merged);
        width *= 2;
    }
    Ok(())
}

fn merge<T: Copy>(
    mut left: &[T],
    mut right: &[T],
    out: &mut Vec<T>,
    query: &QueryContext,
    compare: &impl Fn(&T, &T) -> Ordering,
) -> Result<()> {
    query.check_canceled()?;
    let in_order = |l: &[T], r: &[T]| matches!((l.last(), r.first()), (Some(l), Some(r)) if compare(l, r).is_le());
    if !in_order(left, right) {
        let mut since_check = 0;
        while let (Some(l), Some(r)) = (left.first(), right.first()) {
            if compare(l, r).is_le() {
                out.push(*l);
                left = &left[1..];
            } else {
                out.push(*r);
                right = &right[1..];
            }
            since_check += 1;
            if since_check == PIECE {
                since_check = 0;
                query.check_canceled()?;
            }
        }
    }
    out.extend_from_slice(left);
    out.extend_from_slice(right);
    Ok(())
}

/// Whether each item comes before the next.
///
/// # Errors
/// If the query is canceled.
pub fn ascends<T>(items: &[T], query: &QueryContext, before: impl Fn(&T, &T) -> bool) -> Result<bool> {
    for from in (0..items.len()).step_by(PIECE) {
        query.check_canceled()?;
        // The pieces overlap by one item.
        if !items[from..items.len().min(from + PIECE + 1)].windows(2).all(|pair| before(&pair[0], &pair[1])) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use super::*;

    #[tokio::test]
    async fn sorts_as_the_standard_library() {
        let cancel = Arc::new(AtomicBool::new(false));
        let expr = crate::promql::parse("1").expect("parses");
        let query = QueryContext::new("1".into(), expr, Arc::clone(&cancel), tokio::runtime::Handle::current(), 1);
        let by_key = |a: &(u32, usize), b: &(u32, usize)| a.0.cmp(&b.0);
        for len in [0, 1, 2, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE + 3] {
            let mut state = 7_u32;
            let mut next = |_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state >> 23
            };
            let random: Vec<(u32, usize)> = (0..len).map(&mut next).zip(0..).collect();
            let runs: Vec<(u32, usize)> = (0..len).map(|i| ((i % 1500) as u32, i)).collect();
            for items in [random, runs] {
                let (mut ours, mut theirs) = (items.clone(), items);
                sort_by(&mut ours, &query, by_key).expect("not canceled");
                theirs.sort_by(by_key);
                assert_eq!(ours, theirs);
                assert!(ascends(&ours, &query, |a, b| a < b).expect("not canceled"));
                assert_eq!(ascends(&ours, &query, |a, b| a.0 < b.0).expect("not canceled"), ours.is_sorted_by(|a, b| a.0 < b.0));
            }
        }
        cancel.store(true, Relaxed);
        assert!(sort_by(&mut vec![2, 1], &query, i32::cmp).is_err());
    }
}
