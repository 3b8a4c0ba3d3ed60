//! Accumulators of `sum`, `avg`, `min`, `max`, `count`, `group`, `stddev` and `stdvar` for one group: state is one number or a
//! few for each step, in columns, so that it can travel between partitions.
//!
//! Each has its `init` values, `update` with a row, `merge` with the state of another partition, and `finish`. All slices have
//! one length, the number of steps (or of many groups' steps, one after the other).

use isobar_block::sample::STALE_NAN_BITS;
use isobar_block::stale_nan;

/// Value that state columns of an aggregation start with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Init {
    /// Absent.
    Absent,
    /// 0.
    Zero,
}

impl Init {
    /// The number.
    pub fn value(self) -> f64 {
        match self {
            Self::Absent => stale_nan(),
            Self::Zero => 0.0,
        }
    }
}

/// Columns of `sum`: sum, compensation.
pub const SUM_STATE: [Init; 2] = [Init::Absent, Init::Zero];
/// Columns of `avg`: sum (or mean), compensation, count (negative once the first is the mean).
pub const AVG_STATE: [Init; 3] = [Init::Zero; 3];
/// Column of `min` and `max`.
pub const EXTREME_STATE: [Init; 1] = [Init::Absent];
/// Column of `count`.
pub const COUNT_STATE: [Init; 1] = [Init::Zero];
/// Column of `group`.
pub const GROUP_STATE: [Init; 1] = [Init::Absent];
/// Columns of `stddev` and `stdvar`: count, mean, sum of squared differences from the mean.
pub const VARIANCE_STATE: [Init; 3] = [Init::Zero; 3];

#[inline(always)]
fn absent(v: f64) -> bool {
    v.to_bits() == STALE_NAN_BITS
}

/// Compensated addition without branches; an infinite sum has no compensation.
#[inline(always)]
fn add(sum: f64, comp: f64, inc: f64, inc_comp: f64) -> (f64, f64) {
    let total = sum + inc;
    let inc_part = total - sum;
    let error = (sum - (total - inc_part)) + (inc - inc_part);
    (total, if total.abs() == f64::INFINITY { 0.0 } else { comp + inc_comp + error })
}

vectorised! {
    /// Adds a row to a sum.
    pub fn sum_update(sum: &mut [f64], comp: &mut [f64], row: &[f64]) {
        for ((sum, comp), v) in sum.iter_mut().zip(comp).zip(row) {
            let (total, total_comp) = add(*sum, *comp, *v, 0.0);
            let (fresh, skip) = (absent(*sum), absent(*v));
            *comp = if skip { *comp } else if fresh { 0.0 } else { total_comp };
            *sum = if skip { *sum } else if fresh { *v } else { total };
        }
    }
}

vectorised! {
    /// Adds the sum of another partition.
    pub fn sum_merge(sum: &mut [f64], comp: &mut [f64], other_sum: &[f64], other_comp: &[f64]) {
        for (((sum, comp), v), v_comp) in sum.iter_mut().zip(comp).zip(other_sum).zip(other_comp) {
            let (total, total_comp) = add(*sum, *comp, *v, *v_comp);
            let (fresh, skip) = (absent(*sum), absent(*v));
            *comp = if skip { *comp } else if fresh { *v_comp } else { total_comp };
            *sum = if skip { *sum } else if fresh { *v } else { total };
        }
    }
}

vectorised! {
    /// The sums.
    pub fn sum_finish(sum: &[f64], comp: &[f64], out: &mut [f64]) {
        for ((sum, comp), out) in sum.iter().zip(comp).zip(out) {
            let total = *sum + *comp;
            *out = if absent(*sum) { *sum } else { total };
        }
    }
}

vectorised! {
    /// Adds a row to an average.
    pub fn avg_update(sum: &mut [f64], comp: &mut [f64], count: &mut [f64], row: &[f64]) {
        // Blocks, so that the second look at the data finds them in the nearest cache.
        const BLOCK: usize = 256;
        let state = sum.chunks_mut(BLOCK).zip(comp.chunks_mut(BLOCK)).zip(count.chunks_mut(BLOCK));
        for (((sum, comp), count), row) in state.zip(row.chunks(BLOCK)) {
            let mut special = false;
            for ((sum, count), v) in sum.iter().zip(count.iter()).zip(row) {
                let overflows = ((*sum + *v).abs() == f64::INFINITY) & (*count > 0.0);
                special |= (*count < 0.0) | overflows;
            }
            if special {
                avg_overflow(sum, comp, count, row);
                continue;
            }
            for (((sum, comp), count), v) in sum.iter_mut().zip(comp).zip(count).zip(row) {
                let (total, total_comp) = add(*sum, *comp, *v, 0.0);
                let (fresh, skip) = (*count == 0.0, absent(*v));
                *comp = if skip | fresh { *comp } else { total_comp };
                *sum = if skip { *sum } else if fresh { *v } else { total };
                *count = if skip { *count } else { *count + 1.0 };
            }
        }
    }
}

/// Adds a row where a sum is infinite, would be, or was: Prometheus continues with the mean there.
#[cold]
#[inline(never)]
fn avg_overflow(sum: &mut [f64], comp: &mut [f64], count: &mut [f64], row: &[f64]) {
    for (((sum, comp), count), v) in sum.iter_mut().zip(comp).zip(count).zip(row) {
        if absent(*v) {
            continue;
        }
        if *count == 0.0 {
            (*sum, *count) = (*v, 1.0);
            continue;
        }
        if *count > 0.0 {
            let (total, total_comp) = add(*sum, *comp, *v, 0.0);
            if !total.is_infinite() {
                (*sum, *comp, *count) = (total, total_comp, *count + 1.0);
                continue;
            }
        }
        (*sum, *comp, *count) = mean_add((*sum, *comp, *count), *v);
    }
}

/// Adds one value to the mean of `|count|` values, switching from sum to mean if necessary.
fn mean_add((mut mean, mut comp, count): (f64, f64, f64), v: f64) -> (f64, f64, f64) {
    let before = count.abs();
    let after = before + 1.0;
    if count > 0.0 {
        mean /= before;
        comp /= before;
    }
    if mean.is_infinite() && ((v.is_infinite() && (mean > 0.0) == (v > 0.0)) || v.is_finite()) {
        return (mean, comp, -after);
    }
    let q = before / after;
    let (mean, comp) = add(q * mean, q * comp, v / after, 0.0);
    (mean, comp, -after)
}

/// Adds the average of another partition.
pub fn avg_merge(state: [&mut [f64]; 3], other: [&[f64]; 3]) {
    let [sum, comp, count] = state;
    for i in 0..sum.len() {
        let (v, v_comp, v_count) = (other[0][i], other[1][i], other[2][i]);
        if v_count == 0.0 {
            continue;
        }
        if count[i] == 0.0 {
            (sum[i], comp[i], count[i]) = (v, v_comp, v_count);
            continue;
        }
        if count[i] > 0.0 && v_count > 0.0 {
            let (total, total_comp) = add(sum[i], comp[i], v, v_comp);
            if !total.is_infinite() {
                (sum[i], comp[i], count[i]) = (total, total_comp, count[i] + v_count);
                continue;
            }
        }
        (sum[i], comp[i], count[i]) = mean_merge((sum[i], comp[i], count[i]), (v, v_comp, v_count));
    }
}

/// The mean of two means, weighted.
fn mean_merge(a: (f64, f64, f64), b: (f64, f64, f64)) -> (f64, f64, f64) {
    let mean = |(v, comp, count): (f64, f64, f64)| if count > 0.0 { (v / count, comp / count) } else { (v, comp) };
    let ((a_mean, a_comp), (b_mean, b_comp)) = (mean(a), mean(b));
    let (a_count, b_count) = (a.2.abs(), b.2.abs());
    let total = a_count + b_count;
    let (a_weight, b_weight) = (a_count / total, b_count / total);
    let (mean, comp) = add(a_mean * a_weight, a_comp * a_weight, b_mean * b_weight, b_comp * b_weight);
    (mean, comp, -total)
}

vectorised! {
    /// The averages.
    pub fn avg_finish(sum: &[f64], comp: &[f64], count: &[f64], out: &mut [f64]) {
        for (((sum, comp), count), out) in sum.iter().zip(comp).zip(count).zip(out) {
            let divisor = if *count < 0.0 { 1.0 } else { *count };
            let mean = *sum / divisor + *comp / divisor;
            *out = if *count == 0.0 { stale_nan() } else { mean };
        }
    }
}

macro_rules! extreme {
    ($(#[$meta:meta])* $name:ident, $less:tt) => {
        vectorised! {
            $(#[$meta])*
            pub fn $name(best: &mut [f64], row: &[f64]) {
                for (best, v) in best.iter_mut().zip(row) {
                    // An absent best is a NaN too.
                    let take = !absent(*v) & ((*v $less *best) | best.is_nan());
                    *best = if take { *v } else { *best };
                }
            }
        }
    };
}

extreme!(
    /// Keeps the smallest value, a NaN only if there is nothing else. Also merges; the state is the result.
    min_update,
    <
);
extreme!(
    /// Keeps the largest value, a NaN only if there is nothing else. Also merges; the state is the result.
    max_update,
    >
);

vectorised! {
    /// Counts the values of a row.
    pub fn count_update(count: &mut [f64], row: &[f64]) {
        for (count, v) in count.iter_mut().zip(row) {
            *count += if absent(*v) { 0.0 } else { 1.0 };
        }
    }
}

vectorised! {
    /// Adds the counts of another partition.
    pub fn count_merge(count: &mut [f64], other: &[f64]) {
        for (count, v) in count.iter_mut().zip(other) {
            *count += *v;
        }
    }
}

vectorised! {
    /// The counts; absent where nothing was counted.
    pub fn count_finish(count: &[f64], out: &mut [f64]) {
        for (count, out) in count.iter().zip(out) {
            *out = if *count == 0.0 { stale_nan() } else { *count };
        }
    }
}

vectorised! {
    /// Sets 1 where the row has a value. Also merges; the state is the result.
    pub fn group_update(group: &mut [f64], row: &[f64]) {
        for (group, v) in group.iter_mut().zip(row) {
            *group = if absent(*v) { *group } else { 1.0 };
        }
    }
}

vectorised! {
    /// Adds a row to count, mean and sum of squares (Welford).
    pub fn variance_update(count: &mut [f64], mean: &mut [f64], m2: &mut [f64], row: &[f64]) {
        for (((count, mean), m2), v) in count.iter_mut().zip(mean).zip(m2).zip(row) {
            let skip = absent(*v);
            let after = *count + 1.0;
            let delta = *v - *mean;
            let next = *mean + delta / after;
            let squares = *m2 + delta * (*v - next);
            *count = if skip { *count } else { after };
            *mean = if skip { *mean } else { next };
            *m2 = if skip { *m2 } else { squares };
        }
    }
}

vectorised! {
    /// Adds the state of another partition (Chan, Golub and LeVeque).
    pub fn variance_merge(count: &mut [f64], mean: &mut [f64], m2: &mut [f64], other_count: &[f64], other_mean: &[f64], other_m2: &[f64]) {
        let others = other_count.iter().zip(other_mean).zip(other_m2);
        for (((count, mean), m2), ((v_count, v_mean), v_m2)) in count.iter_mut().zip(mean).zip(m2).zip(others) {
            let (skip, fresh) = (*v_count == 0.0, *count == 0.0);
            let total = *count + *v_count;
            let delta = *v_mean - *mean;
            let next = *mean + delta * (*v_count / total);
            let squares = *m2 + *v_m2 + delta * delta * (*count * *v_count / total);
            *mean = if skip { *mean } else if fresh { *v_mean } else { next };
            *m2 = if skip { *m2 } else if fresh { *v_m2 } else { squares };
            *count = total;
        }
    }
}

vectorised! {
    /// Population variances.
    pub fn stdvar_finish(count: &[f64], m2: &[f64], out: &mut [f64]) {
        for ((count, m2), out) in count.iter().zip(m2).zip(out) {
            let variance = *m2 / *count;
            *out = if *count == 0.0 { stale_nan() } else { variance };
        }
    }
}

vectorised! {
    /// Population standard deviations.
    pub fn stddev_finish(count: &[f64], m2: &[f64], out: &mut [f64]) {
        for ((count, m2), out) in count.iter().zip(m2).zip(out) {
            let deviation = (*m2 / *count).sqrt();
            *out = if *count == 0.0 { stale_nan() } else { deviation };
        }
    }
}
