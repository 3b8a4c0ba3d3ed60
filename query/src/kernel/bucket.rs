//! Quantiles and fractions of classic histograms: cumulative counts by upper bound, as Prometheus's `BucketQuantile` and
//! `BucketFraction` compute them.

/// A cumulative bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Value of the label `le`.
    pub upper_bound: f64,
    /// Observations at or below it.
    pub count: f64,
}

/// Relative difference of neighbouring counts that is taken for an error of floating-point arithmetic.
const SMALL_DELTA: f64 = 1e-12;

/// The largest correction that was necessary to make counts ascend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forced {
    /// Upper bound of the lowest bucket that was corrected.
    pub lowest_bound: f64,
    /// Upper bound of the highest bucket that was corrected.
    pub highest_bound: f64,
    /// Largest difference that was removed.
    pub largest_delta: f64,
}

/// What [`bucket_quantile`] found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BucketQuantile {
    /// The quantile.
    pub value: f64,
    /// Set if counts descended: worth an info annotation.
    pub forced_monotonic: Option<Forced>,
    /// Whether counts were made equal that differed by rounding only.
    pub fixed_precision: bool,
}

impl From<f64> for BucketQuantile {
    fn from(value: f64) -> Self {
        Self { value, forced_monotonic: None, fixed_precision: false }
    }
}

/// The `q`-quantile of the observations, interpolated linearly within a bucket. `buckets` need no order, and may have bounds
/// twice; they are changed.
///
/// NaN without a bucket `+Inf`, with fewer than two buckets or without observations.
pub fn bucket_quantile(q: f64, buckets: &mut Vec<Bucket>) -> BucketQuantile {
    if q.is_nan() {
        return f64::NAN.into();
    }
    if q < 0.0 {
        return f64::NEG_INFINITY.into();
    }
    if q > 1.0 {
        return f64::INFINITY.into();
    }
    if !sort_and_merge(buckets) {
        return f64::NAN.into();
    }
    let (forced_monotonic, fixed_precision) = ensure_monotonic(buckets);
    let value = quantile_of_sorted(q, buckets);
    BucketQuantile { value, forced_monotonic, fixed_precision }
}

fn quantile_of_sorted(q: f64, buckets: &[Bucket]) -> f64 {
    let [.., below_last, last] = buckets else { return f64::NAN };
    if last.count == 0.0 {
        return f64::NAN;
    }
    let mut rank = q * last.count;
    let reached = |bucket: &Bucket| bucket.count >= rank;
    let b = buckets[..buckets.len() - 1].partition_point(|bucket| !reached(bucket));
    if b == buckets.len() - 1 {
        return below_last.upper_bound;
    }
    let Bucket { upper_bound: end, mut count } = buckets[b];
    if b == 0 && end <= 0.0 {
        return end;
    }
    let mut start = 0.0;
    if b > 0 {
        start = buckets[b - 1].upper_bound;
        count -= buckets[b - 1].count;
        rank -= buckets[b - 1].count;
    }
    start + (end - start) * (rank / count)
}

/// The share of observations in `(lower, upper]`, interpolated linearly within a bucket. `buckets` need no order; they are
/// changed.
///
/// NaN without a bucket `+Inf`, without observations, or if a bound is NaN.
pub fn bucket_fraction(lower: f64, upper: f64, buckets: &mut Vec<Bucket>) -> f64 {
    if !sort_and_merge(buckets) {
        return f64::NAN;
    }
    let total = buckets.last().map_or(0.0, |b| b.count);
    if total == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let rank_of = |bound: f64| rank_below(bound, buckets).filter(|rank| *rank <= total).unwrap_or(total);
    (rank_of(upper) - rank_of(lower)) / total
}

/// Number of observations at or below `bound`; `None` if it is above all buckets.
fn rank_below(bound: f64, buckets: &[Bucket]) -> Option<f64> {
    let mut below = 0.0;
    // A first bucket that ends above zero is taken to start there.
    let mut start = if buckets.first().is_some_and(|b| b.upper_bound > 0.0) { 0.0 } else { f64::NEG_INFINITY };
    for bucket in buckets {
        if start >= bound {
            return Some(below);
        }
        if bucket.upper_bound > bound {
            // There is no interpolation in a bucket of infinite width.
            let inside = if start == f64::NEG_INFINITY { 1.0 } else { (bound - start) / (bucket.upper_bound - start) };
            return Some(below + (bucket.count - below) * inside);
        }
        below = bucket.count;
        start = bucket.upper_bound;
    }
    None
}

/// Sorts, adds up buckets of equal bounds, and says whether the last bound is `+Inf`.
fn sort_and_merge(buckets: &mut Vec<Bucket>) -> bool {
    buckets.sort_by(|a, b| a.upper_bound.total_cmp(&b.upper_bound));
    if buckets.last().is_none_or(|b| b.upper_bound != f64::INFINITY) {
        return false;
    }
    buckets.dedup_by(|next, kept| {
        let same = next.upper_bound == kept.upper_bound;
        if same {
            kept.count += next.count;
        }
        same
    });
    true
}

/// Makes counts ascend: rounding errors silently, whatever else descends with a note.
fn ensure_monotonic(buckets: &mut [Bucket]) -> (Option<Forced>, bool) {
    let (mut forced, mut fixed_precision) = (None::<Forced>, false);
    let Some(mut before) = buckets.first().map(|b| b.count) else { return (None, false) };
    for bucket in &mut buckets[1..] {
        let count = bucket.count;
        if count == before {
            continue;
        }
        if almost_equal(before, count, SMALL_DELTA) {
            bucket.count = before;
            fixed_precision = true;
        } else if count < before {
            bucket.count = before;
            let delta = before - count;
            let bound = bucket.upper_bound;
            let so_far = forced.get_or_insert(Forced { lowest_bound: bound, highest_bound: bound, largest_delta: delta });
            so_far.lowest_bound = so_far.lowest_bound.min(bound);
            so_far.highest_bound = so_far.highest_bound.max(bound);
            so_far.largest_delta = so_far.largest_delta.max(delta);
        } else {
            before = count;
        }
    }
    (forced, fixed_precision)
}

/// Equality up to a relative error, as Prometheus's `almost.Equal`.
pub(super) fn almost_equal(a: f64, b: f64, epsilon: f64) -> bool {
    if (a.is_nan() && b.is_nan()) || a == b {
        return true;
    }
    let (sum, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < epsilon * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < epsilon
}
