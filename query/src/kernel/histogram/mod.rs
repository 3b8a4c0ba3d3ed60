//! Arithmetic of native histograms, as `model/histogram/float_histogram.go` of Prometheus has it.
//!
//! Here a histogram has its buckets as sorted (index, count) pairs; every number carries a compensation (Neumaier), so that
//! sums of many histograms are as exact as those of floats.

mod buckets;
mod summary;
pub mod window;

use std::sync::Arc;

use isobar_block::Histogram;
use isobar_block::histogram::{CUSTOM_BUCKETS_SCHEMA, Counts, ResetHint, Span};

use super::kahan_add;
use buckets::{Bucket, Side};

/// A number and what was lost of it in summation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Number {
    value: f64,
    comp: f64,
}

impl Number {
    fn new(value: f64) -> Self {
        Self { value, comp: 0.0 }
    }

    fn get(self) -> f64 {
        if self.value.is_infinite() { self.value } else { self.value + self.comp }
    }

    fn add(&mut self, other: Self) {
        let (value, comp) = kahan_add(other.value, self.value, self.comp);
        *self = Self { value, comp: if value.is_infinite() { 0.0 } else { comp + other.comp } };
    }

    fn map(&mut self, f: impl Fn(f64) -> f64) {
        *self = Self { value: f(self.value), comp: f(self.comp) };
        if !self.comp.is_finite() {
            self.comp = 0.0;
        }
    }
}

/// Exponential and custom buckets cannot be combined: the caller drops the result with a warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MixedSchemas;

/// What an addition or subtraction had to do: worth annotations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Combined {
    /// One operand had the hint "reset", the other "not reset".
    pub reset_collision: bool,
    /// Custom bounds differed, and were reduced to those that both have.
    pub bounds_reconciled: bool,
}

/// A histogram with float counts, ready for arithmetic.
#[derive(Clone, Debug)]
pub struct FloatHistogram {
    /// Counter or gauge, and whether it was reset.
    pub reset_hint: ResetHint,
    schema: i32,
    zero_threshold: f64,
    zero: Number,
    count: Number,
    sum: Number,
    positive: Side,
    negative: Side,
    custom_bounds: Arc<[f64]>,
}

impl From<&Histogram> for FloatHistogram {
    fn from(h: &Histogram) -> Self {
        let (count, zero, positive, negative) = match &h.counts {
            Counts::Float { count, zero, positive, negative } => {
                let positive = Side::from_spans(&h.positive_spans, positive.iter().copied());
                (*count, *zero, positive, Side::from_spans(&h.negative_spans, negative.iter().copied()))
            }
            Counts::Integer { count, zero, positive, negative } => {
                let positive = Side::from_spans(&h.positive_spans, positive.iter().map(|c| *c as f64));
                let negative = Side::from_spans(&h.negative_spans, negative.iter().map(|c| *c as f64));
                (*count as f64, *zero as f64, positive, negative)
            }
        };
        Self {
            reset_hint: h.reset_hint,
            schema: h.schema,
            zero_threshold: h.zero_threshold,
            zero: Number::new(zero),
            count: Number::new(count),
            sum: Number::new(h.sum),
            positive,
            negative,
            custom_bounds: h.custom_bounds.as_slice().into(),
        }
    }
}

impl From<&FloatHistogram> for Histogram {
    /// Buckets without observations are left out.
    fn from(h: &FloatHistogram) -> Self {
        let ((positive_spans, positive), (negative_spans, negative)) = (h.positive.to_spans(), h.negative.to_spans());
        Self {
            reset_hint: h.reset_hint,
            schema: h.schema,
            zero_threshold: h.zero_threshold,
            sum: h.sum(),
            positive_spans,
            negative_spans,
            custom_bounds: h.custom_bounds.to_vec(),
            counts: Counts::Float { count: h.count(), zero: h.zero.get(), positive, negative },
        }
    }
}

/// Equality as `==` and `changes` have it: the same buckets with the same counts. Empty buckets and the reset hint do not
/// count; NaN sums of the same bits are equal.
impl PartialEq for FloatHistogram {
    fn eq(&self, other: &Self) -> bool {
        let bits = |a: f64, b: f64| a == b || a.to_bits() == b.to_bits();
        self.schema == other.schema
            && bits(self.count(), other.count())
            && bits(self.sum(), other.sum())
            && (self.is_custom() || (self.zero_threshold == other.zero_threshold && self.zero.get() == other.zero.get()))
            && self.custom_bounds == other.custom_bounds
            && self.positive.to_spans() == other.positive.to_spans()
            && self.negative.to_spans() == other.negative.to_spans()
    }
}

impl FloatHistogram {
    /// All observations.
    pub fn count(&self) -> f64 {
        self.count.get()
    }

    /// Sum of all observations.
    pub fn sum(&self) -> f64 {
        self.sum.get()
    }

    /// Whether buckets have custom bounds.
    pub fn is_custom(&self) -> bool {
        self.schema == CUSTOM_BUCKETS_SCHEMA
    }

    /// No observations, in buckets like those of `self`.
    fn empty_like(&self) -> Self {
        Self {
            reset_hint: ResetHint::Unknown,
            zero: Number::default(),
            count: Number::default(),
            sum: Number::default(),
            positive: Side::default(),
            negative: Side::default(),
            ..self.clone()
        }
    }

    /// Adds another histogram, in the coarser of both resolutions and with the wider zero bucket.
    ///
    /// # Errors
    /// [`MixedSchemas`] if only one of them has custom buckets.
    pub fn add(&mut self, other: &Self) -> Result<Combined, MixedSchemas> {
        self.combine(other, 1.0)
    }

    /// Subtracts another histogram. The result is a gauge.
    ///
    /// # Errors
    /// [`MixedSchemas`] if only one of them has custom buckets.
    pub fn sub(&mut self, other: &Self) -> Result<Combined, MixedSchemas> {
        let combined = self.combine(other, -1.0)?;
        self.reset_hint = ResetHint::Gauge;
        Ok(combined)
    }

    fn combine(&mut self, other: &Self, sign: f64) -> Result<Combined, MixedSchemas> {
        if self.is_custom() != other.is_custom() {
            return Err(MixedSchemas);
        }
        let reset_collision = self.combine_hints(other.reset_hint);
        let signed = |n: Number| Number { value: n.value * sign, comp: n.comp * sign };
        self.count.add(signed(other.count));
        self.sum.add(signed(other.sum));
        if self.is_custom() {
            let bounds_reconciled = self.custom_bounds != other.custom_bounds;
            if bounds_reconciled {
                let bounds = common_bounds(&self.custom_bounds, &other.custom_bounds);
                self.positive = self.positive.to_bounds(&self.custom_bounds, &bounds);
                self.positive.add(&other.positive.to_bounds(&other.custom_bounds, &bounds), sign);
                self.custom_bounds = bounds;
            } else {
                self.positive.add(&other.positive, sign);
            }
            return Ok(Combined { reset_collision, bounds_reconciled });
        }
        let other_zero = self.reconcile_zero_buckets(other);
        self.zero.add(signed(other_zero));
        let schema = self.schema.min(other.schema);
        self.reduce_resolution(schema);
        let threshold = self.zero_threshold;
        for (mine, theirs) in [(&mut self.positive, &other.positive), (&mut self.negative, &other.negative)] {
            mine.add(&theirs.above(threshold, other.schema).to_schema(other.schema, schema), sign);
        }
        Ok(Combined { reset_collision, bounds_reconciled: false })
    }

    /// The hint of a sum; whether hints contradict each other.
    fn combine_hints(&mut self, other: ResetHint) -> bool {
        let mine = self.reset_hint;
        if mine == other {
            return false;
        }
        if mine == ResetHint::Gauge || other == ResetHint::Gauge {
            self.reset_hint = ResetHint::Gauge;
            return false;
        }
        self.reset_hint = ResetHint::Unknown;
        mine != ResetHint::Unknown && other != ResetHint::Unknown
    }

    /// Multiplies all counts and the sum. A negative factor makes a gauge.
    pub fn scale(&mut self, factor: f64) {
        self.map_all(|v| v * factor);
        if factor < 0.0 {
            self.reset_hint = ResetHint::Gauge;
        }
    }

    /// Divides all counts and the sum. Division by zero leaves no buckets but the zero bucket.
    pub fn divide(&mut self, divisor: f64) {
        self.map_all(|v| v / divisor);
        if divisor == 0.0 {
            (self.positive, self.negative) = (Side::default(), Side::default());
        }
        if divisor < 0.0 {
            self.reset_hint = ResetHint::Gauge;
        }
    }

    fn map_all(&mut self, f: impl Fn(f64) -> f64) {
        let buckets = self.positive.iter_mut().chain(self.negative.iter_mut()).map(|b| &mut b.count);
        for number in [&mut self.zero, &mut self.count, &mut self.sum].into_iter().chain(buckets) {
            number.map(&f);
        }
    }

    /// Merges buckets to those of a coarser schema; does nothing if `schema` is not coarser.
    pub fn reduce_resolution(&mut self, schema: i32) {
        if !self.is_custom() && schema < self.schema {
            self.positive = self.positive.to_schema(self.schema, schema);
            self.negative = self.negative.to_schema(self.schema, schema);
            self.schema = schema;
        }
    }

    /// Widens the own zero bucket to that of `other` if necessary; gives the count of the other's zero bucket, widened to the
    /// own one if necessary.
    fn reconcile_zero_buckets(&mut self, other: &Self) -> Number {
        let (mut other_zero, mut other_threshold) = (other.zero, other.zero_threshold);
        while other_threshold != self.zero_threshold {
            if self.zero_threshold > other_threshold {
                (other_zero, other_threshold) = other.zero_for_threshold(self.zero_threshold);
            }
            if other_threshold > self.zero_threshold {
                (self.zero, self.zero_threshold) = self.zero_for_threshold(other_threshold);
                self.positive = self.positive.above(self.zero_threshold, self.schema);
                self.negative = self.negative.above(self.zero_threshold, self.schema);
            }
        }
        other_zero
    }

    /// Count of the zero bucket if it were wider, and how wide it then is: at least `threshold`, and at the border of a bucket
    /// if there are observations in the one that it falls into.
    fn zero_for_threshold(&self, threshold: f64) -> (Number, f64) {
        let mut threshold = threshold;
        loop {
            let (mut zero, before) = (self.zero, threshold);
            for side in [&self.positive, &self.negative] {
                for Bucket { index, count } in side.iter() {
                    if buckets::bound(index - 1, self.schema) >= threshold {
                        break;
                    }
                    zero.add(*count);
                    if count.get() != 0.0 {
                        threshold = threshold.max(buckets::bound(*index, self.schema));
                    }
                }
            }
            // Buckets of the first side that the second one's widening covers are counted in the next round.
            if threshold == before {
                return (zero, threshold);
            }
        }
    }

    /// Whether a counter was reset between `previous` and this histogram.
    pub fn detect_reset(&self, previous: &Self) -> bool {
        match self.reset_hint {
            ResetHint::Yes => return true,
            ResetHint::No => return false,
            ResetHint::Unknown | ResetHint::Gauge => {}
        }
        if self.count() < previous.count() || self.is_custom() != previous.is_custom() {
            return true;
        }
        if self.is_custom() {
            let bounds = common_bounds(&self.custom_bounds, &previous.custom_bounds);
            let mine = self.positive.to_bounds(&self.custom_bounds, &bounds);
            return mine.is_less_somewhere(&previous.positive.to_bounds(&previous.custom_bounds, &bounds));
        }
        if self.schema > previous.schema || self.zero_threshold < previous.zero_threshold {
            return true;
        }
        let (zero, threshold) = if self.zero_threshold == previous.zero_threshold {
            (previous.zero, previous.zero_threshold)
        } else {
            previous.zero_for_threshold(self.zero_threshold)
        };
        if threshold != self.zero_threshold || self.zero.get() < zero.get() {
            return true;
        }
        let sides = [(&self.positive, &previous.positive), (&self.negative, &previous.negative)];
        sides
            .into_iter()
            .any(|(mine, theirs)| mine.is_less_somewhere(&theirs.above(threshold, previous.schema).to_schema(previous.schema, self.schema)))
    }

    /// Whether a count or the sum is infinite.
    fn has_overflow(&self) -> bool {
        let buckets = self.positive.iter().chain(self.negative.iter()).map(|b| b.count);
        [self.zero, self.count, self.sum].into_iter().chain(buckets).any(|n| n.value.is_infinite())
    }
}

/// The bounds that are in both, ascending.
fn common_bounds(a: &[f64], b: &[f64]) -> Arc<[f64]> {
    a.iter().copied().filter(|bound| b.binary_search_by(|other| other.total_cmp(bound)).is_ok()).collect()
}

/// The mean of histograms: of their sum as long as that does not overflow, then incrementally. For `avg` and `avg_over_time`.
#[derive(Clone, Debug)]
pub struct Mean {
    total: FloatHistogram,
    count: f64,
    incremental: bool,
}

impl Mean {
    /// The mean of one histogram.
    pub fn new(first: &FloatHistogram) -> Self {
        Self { total: first.clone(), count: 1.0, incremental: false }
    }

    /// Takes one more into account.
    ///
    /// # Errors
    /// [`MixedSchemas`] if only some have custom buckets.
    pub fn add(&mut self, next: &FloatHistogram) -> Result<Combined, MixedSchemas> {
        self.count += 1.0;
        if !self.incremental {
            let mut total = self.total.clone();
            let combined = total.add(next)?;
            if !total.has_overflow() {
                self.total = total;
                return Ok(combined);
            }
            self.incremental = true;
            self.total.divide(self.count - 1.0);
        }
        let mut share = next.clone();
        share.divide(self.count);
        self.total.scale((self.count - 1.0) / self.count);
        self.total.add(&share)
    }

    /// The mean.
    pub fn finish(mut self) -> FloatHistogram {
        if !self.incremental {
            self.total.divide(self.count);
        }
        self.total
    }
}
