//! Numbers out of a histogram: quantile, fraction, mean, variance; and cutting off its ends (`</`, `>/`).

use super::buckets::bound;
use super::{FloatHistogram, Number};
use crate::kernel::kahan_add;

/// A bucket with its borders.
#[derive(Clone, Copy, Debug)]
struct Range {
    lower: f64,
    upper: f64,
    count: f64,
}

impl Range {
    /// Share of the observations below `v`, which is inside; `linear` in custom buckets and the zero bucket.
    fn share_below(&self, v: f64, linear: bool) -> f64 {
        if linear {
            // Nothing can be said of a position in an infinite bucket.
            return if self.lower == f64::NEG_INFINITY { 1.0 } else { (v - self.lower) / (self.upper - self.lower) };
        }
        let (lower, upper, v_log) = (self.lower.abs().log2(), self.upper.abs().log2(), v.abs().log2());
        if v > 0.0 { (v_log - lower) / (upper - lower) } else { 1.0 - (v_log - upper) / (lower - upper) }
    }

    /// Where one supposes the observations to be on average.
    fn midpoint(&self, linear: bool) -> f64 {
        if self.lower == f64::NEG_INFINITY {
            return if self.upper == f64::INFINITY {
                0.0
            } else if self.upper > 0.0 {
                self.upper / 2.0
            } else {
                self.upper
            };
        }
        if self.upper == f64::INFINITY {
            return self.lower;
        }
        if linear {
            return (self.lower + self.upper) / 2.0;
        }
        let middle = (self.lower * self.upper).sqrt();
        if self.upper <= 0.0 { -middle } else { middle }
    }
}

impl FloatHistogram {
    fn positive_range(&self, index: i32, count: f64) -> Range {
        if self.is_custom() {
            let at = |i: i32, otherwise| usize::try_from(i).ok().and_then(|i| self.custom_bounds.get(i)).copied().unwrap_or(otherwise);
            return Range { lower: at(index - 1, f64::NEG_INFINITY), upper: at(index, f64::INFINITY), count };
        }
        Range { lower: bound(index - 1, self.schema), upper: bound(index, self.schema), count }
    }

    fn negative_range(&self, index: i32, count: f64) -> Range {
        Range { lower: -bound(index, self.schema), upper: -bound(index - 1, self.schema), count }
    }

    /// The zero bucket. With buckets of one sign only, zero is its border to the other.
    fn zero_range(&self) -> Range {
        let one_sided = self.positive.is_empty() != self.negative.is_empty();
        Range {
            lower: if one_sided && self.negative.is_empty() { 0.0 } else { -self.zero_threshold },
            upper: if one_sided && self.positive.is_empty() { 0.0 } else { self.zero_threshold },
            count: self.zero.get(),
        }
    }

    /// All buckets that are not empty, ascending. Borders do not overlap the zero bucket.
    fn ranges(&self) -> Vec<Range> {
        let negative = self.negative.iter().rev().map(|b| self.negative_range(b.index, b.count.get()));
        let negative = negative.map(|r| Range { upper: r.upper.min(-self.zero_threshold), ..r });
        let positive = self.positive.iter().map(|b| self.positive_range(b.index, b.count.get()));
        let threshold = if self.is_custom() { f64::NEG_INFINITY } else { self.zero_threshold };
        let positive = positive.map(|r| Range { lower: r.lower.max(threshold), ..r });
        let zero = (!self.is_custom()).then(|| self.zero_range());
        negative.chain(zero).chain(positive).filter(|r| r.count != 0.0).collect()
    }

    /// Whether positions inside a bucket are interpolated linearly.
    fn is_linear(&self, range: &Range) -> bool {
        self.is_custom() || (range.lower <= 0.0 && range.upper >= 0.0)
    }

    /// Average of the observations.
    pub fn mean(&self) -> f64 {
        self.sum() / self.count()
    }

    /// Whether NaN was observed, which is in the count but in no bucket: worth an info annotation with quantiles and
    /// fractions.
    pub fn has_nan_observations(&self) -> bool {
        let in_buckets: f64 = self.ranges().iter().map(|r| r.count).sum();
        self.sum().is_nan() && in_buckets < self.count()
    }

    /// The `q`-quantile; NaN if there are no observations or it falls among those that were NaN.
    pub fn quantile(&self, q: f64) -> f64 {
        if q < 0.0 {
            return f64::NEG_INFINITY;
        }
        if q > 1.0 {
            return f64::INFINITY;
        }
        if self.count() == 0.0 || q.is_nan() {
            return f64::NAN;
        }
        // From the nearer end; NaN observations are missing at the upper one.
        let forward = self.sum().is_nan() || q < 0.5;
        let mut ranges = self.ranges();
        let mut rank = if forward { q * self.count() } else { (1.0 - q) * self.count() };
        if !forward {
            ranges.reverse();
        }
        let mut seen = 0.0;
        let reached = ranges.iter().find(|range| {
            seen += range.count;
            seen >= rank
        });
        let Some(mut range) = reached.or(ranges.last()).copied() else { return f64::NAN };
        if self.is_custom() {
            if range.lower == f64::NEG_INFINITY {
                if range.upper <= 0.0 {
                    return range.upper;
                }
                range.lower = 0.0;
            } else if range.upper == f64::INFINITY {
                return range.lower;
            }
        }
        let seen = seen.min(self.count());
        if seen < rank && self.sum().is_nan() {
            return f64::NAN;
        }
        // Rounding may leave the rank just beyond the last bucket.
        rank = if forward { rank.min(seen) - (seen - range.count) } else { (seen - rank).max(0.0) };
        let share = rank / range.count;
        if self.is_linear(&range) {
            return range.lower + (range.upper - range.lower) * share;
        }
        let (lower, upper) = (range.lower.abs().log2(), range.upper.abs().log2());
        if range.lower > 0.0 { (lower + (upper - lower) * share).exp2() } else { -(upper + (lower - upper) * (1.0 - share)).exp2() }
    }

    /// The share of observations between two numbers; NaN if there are none or a number is NaN.
    pub fn fraction(&self, lower: f64, upper: f64) -> f64 {
        if self.count() == 0.0 || lower.is_nan() || upper.is_nan() {
            return f64::NAN;
        }
        if lower >= upper {
            return 0.0;
        }
        let mut ranges = self.ranges();
        if self.is_custom()
            && let Some(first) = ranges.first_mut()
            && first.lower == f64::NEG_INFINITY
            && first.upper > 0.0
        {
            first.lower = 0.0;
        }
        let all = if self.sum().is_nan() { ranges.iter().map(|r| r.count).sum() } else { self.count() };
        let rank_of = |v: f64| {
            let mut rank = 0.0;
            for range in &ranges {
                if range.lower >= v {
                    return rank;
                }
                if range.upper > v {
                    return f64::min(rank + range.count * range.share_below(v, self.is_linear(range)), all);
                }
                rank += range.count;
            }
            all
        };
        (rank_of(upper) - rank_of(lower)) / self.count()
    }

    /// Population variance, supposing all observations of a bucket in its middle (geometric for exponential buckets).
    pub fn variance(&self) -> f64 {
        let mean = self.mean();
        let (sum, comp) = self.ranges().iter().fold((0.0, 0.0), |(sum, comp), range| {
            let middle = if self.is_custom() {
                (range.upper + range.lower) / 2.0
            } else if range.lower <= 0.0 && range.upper >= 0.0 {
                0.0
            } else {
                range.midpoint(false)
            };
            let delta = middle - mean;
            kahan_add(range.count * delta * delta, sum, comp)
        });
        (sum + comp) / self.count()
    }

    /// Population standard deviation; see [`FloatHistogram::variance`].
    pub fn stddev(&self) -> f64 {
        self.variance().sqrt()
    }

    /// Only the observations below `limit` (`</`), or with `lower` those above (`>/`). The sum is estimated from the buckets
    /// if anything was cut off.
    pub fn trim(&self, limit: f64, lower: bool) -> Self {
        let mut out = self.clone();
        let (mut count, mut sum, mut cut) = (0.0, 0.0, false);
        let mut keep = |range: Range, linear: bool| {
            if range.count == 0.0 {
                return 0.0;
            }
            let (kept, middle) = if lower { keep_above(range, limit, linear) } else { keep_below(range, limit, linear) };
            cut |= kept != range.count;
            count += kept;
            if kept != 0.0 {
                sum += kept * middle;
            }
            kept
        };
        out.negative.retain_counts(|index, count| {
            let range = self.negative_range(index, count);
            keep(Range { upper: range.upper.min(-self.zero_threshold), ..range }, false)
        });
        if !self.is_custom() {
            out.zero = Number::new(keep(self.zero_range(), true));
        }
        out.positive.retain_counts(|index, count| {
            let range = self.positive_range(index, count);
            let threshold = if self.is_custom() { f64::NEG_INFINITY } else { self.zero_threshold };
            keep(Range { lower: range.lower.max(threshold), ..range }, self.is_custom())
        });
        if cut {
            (out.count, out.sum) = (Number::new(count), Number::new(sum));
        }
        out
    }
}

/// How many observations of a bucket are below `limit`, and where they are on average.
fn keep_below(range: Range, limit: f64, linear: bool) -> (f64, f64) {
    if range.upper <= limit {
        return (range.count, range.midpoint(linear));
    }
    if range.lower >= limit || range.upper == f64::INFINITY {
        return (0.0, 0.0);
    }
    if range.lower == f64::NEG_INFINITY {
        return if range.upper <= 0.0 {
            (range.count, limit)
        } else if limit > 0.0 {
            (range.count * limit / range.upper, limit / 2.0)
        } else {
            (0.0, 0.0)
        };
    }
    let kept = Range { upper: limit, ..range };
    (range.count * range.share_below(limit, linear), kept.midpoint(linear))
}

/// How many observations of a bucket are above `limit`, and where they are on average.
fn keep_above(range: Range, limit: f64, linear: bool) -> (f64, f64) {
    if range.lower >= limit {
        return (range.count, range.midpoint(linear));
    }
    if range.upper <= limit {
        return (0.0, 0.0);
    }
    if range.lower == f64::NEG_INFINITY {
        return if limit >= 0.0 && range.upper != f64::INFINITY {
            (range.count * (1.0 - limit / range.upper), (limit + range.upper) / 2.0)
        } else {
            (0.0, 0.0)
        };
    }
    if range.upper == f64::INFINITY {
        return (range.count, limit);
    }
    let kept = Range { lower: limit, ..range };
    (range.count * (1.0 - range.share_below(limit, linear)), kept.midpoint(linear))
}
