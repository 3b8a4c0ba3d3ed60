//! The `Histogram` message, which remote write 1.0 and 2.0 have in common but for the start timestamp.

use isobar_block::Histogram;
use isobar_block::histogram::{Counts, ResetHint, Span};

use super::proto::{Reader, bytes, fields, fixed64, varint, zigzag};
use super::{Budget, DecodeError};

const KNOWN: u64 = fields(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);

/// One side of the buckets as sent: deltas for integers, absolute counts for floats.
#[derive(Default)]
struct Buckets {
    spans: Vec<Span>,
    deltas: Vec<i64>,
    counts: Vec<f64>,
}

/// A histogram as sent, its timestamp, and its start timestamp (0 if not set).
pub(super) struct Decoded {
    pub(super) timestamp_ms: i64,
    pub(super) start_ms: i64,
    /// The rule that it breaks, if it is not valid.
    pub(super) histogram: Result<Histogram, String>,
}

#[derive(Default)]
struct Fields {
    count_integer: u64,
    count_float: Option<f64>,
    sum: f64,
    schema: i64,
    zero_threshold: f64,
    zero_integer: u64,
    zero_float: f64,
    negative: Buckets,
    positive: Buckets,
    reset_hint: u64,
    custom_bounds: Vec<f64>,
}

/// Decodes one message.
///
/// # Errors
/// If it is not protobuf, or takes more than the budget.
pub(super) fn decode(mut r: Reader<'_>, budget: &mut Budget) -> Result<Decoded, DecodeError> {
    budget.spend(size_of::<(i64, Histogram)>())?;
    let mut f = Fields::default();
    let (mut timestamp_ms, mut start_ms) = (0, 0);
    while let Some(tag) = r.tag()? {
        match tag {
            t if t == varint(1) => {
                f.count_integer = r.varint()?;
                f.count_float = None;
            }
            t if t == fixed64(2) => f.count_float = Some(r.double()?),
            t if t == fixed64(3) => f.sum = r.double()?,
            t if t == varint(4) => f.schema = zigzag(r.varint()?),
            t if t == fixed64(5) => f.zero_threshold = r.double()?,
            t if t == varint(6) => f.zero_integer = r.varint()?,
            t if t == fixed64(7) => f.zero_float = r.double()?,
            t if t == bytes(8) => f.negative.spans.push(span(r.message()?, budget)?),
            t if t == varint(9) || t == bytes(9) => deltas(&mut r, t == bytes(9), &mut f.negative.deltas, budget)?,
            t if t == fixed64(10) || t == bytes(10) => doubles(&mut r, t == bytes(10), &mut f.negative.counts, budget)?,
            t if t == bytes(11) => f.positive.spans.push(span(r.message()?, budget)?),
            t if t == varint(12) || t == bytes(12) => deltas(&mut r, t == bytes(12), &mut f.positive.deltas, budget)?,
            t if t == fixed64(13) || t == bytes(13) => doubles(&mut r, t == bytes(13), &mut f.positive.counts, budget)?,
            t if t == varint(14) => f.reset_hint = r.varint()?,
            t if t == varint(15) => timestamp_ms = r.varint()? as i64,
            t if t == fixed64(16) || t == bytes(16) => doubles(&mut r, t == bytes(16), &mut f.custom_bounds, budget)?,
            t if t == varint(17) => start_ms = r.varint()? as i64,
            other => r.skip(other, KNOWN)?,
        }
    }
    Ok(Decoded { timestamp_ms, start_ms, histogram: f.into_histogram() })
}

fn span(mut r: Reader<'_>, budget: &mut Budget) -> Result<Span, DecodeError> {
    budget.spend(size_of::<Span>())?;
    let mut span = Span { offset: 0, length: 0 };
    while let Some(tag) = r.tag()? {
        match tag {
            t if t == varint(1) => span.offset = i32::try_from(zigzag(r.varint()?)).map_err(|_| r.error("a span offset is too large"))?,
            t if t == varint(2) => span.length = u32::try_from(r.varint()?).map_err(|_| r.error("a span is too long"))?,
            other => r.skip(other, fields(&[1, 2]))?,
        }
    }
    Ok(span)
}

fn deltas(r: &mut Reader<'_>, packed: bool, out: &mut Vec<i64>, budget: &mut Budget) -> Result<(), DecodeError> {
    if !packed {
        budget.spend(size_of::<i64>())?;
        out.push(zigzag(r.varint()?));
        return Ok(());
    }
    let mut packed = r.message()?;
    while !packed.is_at_end() {
        budget.spend(size_of::<i64>())?;
        out.push(zigzag(packed.varint()?));
    }
    Ok(())
}

fn doubles(r: &mut Reader<'_>, packed: bool, out: &mut Vec<f64>, budget: &mut Budget) -> Result<(), DecodeError> {
    if !packed {
        budget.spend(size_of::<f64>())?;
        out.push(r.double()?);
        return Ok(());
    }
    let mut packed = r.message()?;
    while !packed.is_at_end() {
        budget.spend(size_of::<f64>())?;
        out.push(packed.double()?);
    }
    Ok(())
}

impl Fields {
    fn into_histogram(self) -> Result<Histogram, String> {
        let counts = match self.count_float {
            Some(count) => Counts::Float { count, zero: self.zero_float, positive: self.positive.counts, negative: self.negative.counts },
            None => Counts::Integer {
                count: self.count_integer,
                zero: self.zero_integer,
                positive: absolute(&self.positive.deltas)?,
                negative: absolute(&self.negative.deltas)?,
            },
        };
        let histogram = Histogram {
            reset_hint: match self.reset_hint {
                1 => ResetHint::Yes,
                2 => ResetHint::No,
                3 => ResetHint::Gauge,
                _ => ResetHint::Unknown,
            },
            schema: i32::try_from(self.schema).map_err(|_| format!("schema {} is not one of -4 to 8 and -53", self.schema))?,
            zero_threshold: self.zero_threshold,
            sum: self.sum,
            positive_spans: self.positive.spans,
            negative_spans: self.negative.spans,
            custom_bounds: self.custom_bounds,
            counts,
        };
        check(&histogram)?;
        Ok(histogram)
    }
}

/// The rules of a histogram that comes from outside; shared with OTLP.
pub(crate) fn check(histogram: &Histogram) -> Result<(), String> {
    histogram.validate().map_err(|e| match e {
        isobar_block::Error::Invalid { reason, .. } => reason,
        other => other.to_string(),
    })?;
    let Counts::Integer { count, zero, positive, negative } = &histogram.counts else { return Ok(()) };
    let in_buckets = positive.iter().chain(negative).try_fold(*zero, |sum, n| sum.checked_add(*n)).ok_or("bucket counts overflow")?;
    // Observations of NaN are counted, but lie in no bucket.
    if in_buckets > *count || (in_buckets < *count && !histogram.sum.is_nan()) {
        return Err(format!("{in_buckets} observations in buckets, but a count of {count}"));
    }
    Ok(())
}

/// Absolute counts from deltas: the first is absolute, each other is relative to the one before.
fn absolute(deltas: &[i64]) -> Result<Vec<u64>, String> {
    let mut count = 0i64;
    deltas
        .iter()
        .map(|delta| {
            count = count.checked_add(*delta).ok_or("bucket deltas overflow")?;
            u64::try_from(count).map_err(|_| format!("a bucket has the negative count {count}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deltas_become_absolute_counts() {
        assert_eq!(absolute(&[3, -1, 0, 5]), Ok(vec![3, 2, 2, 7]));
        assert!(absolute(&[1, -2]).is_err());
        assert!(absolute(&[i64::MAX, 1]).is_err());
    }

    #[test]
    fn the_count_must_fit_the_buckets() {
        let mut f = Fields { count_integer: 5, zero_integer: 1, sum: 1.0, ..Fields::default() };
        f.positive = Buckets { spans: vec![Span { offset: 0, length: 2 }], deltas: vec![1, 2], counts: vec![] };
        let good = f.into_histogram().expect("valid");
        assert_eq!(good.counts, Counts::Integer { count: 5, zero: 1, positive: vec![1, 3], negative: vec![] });
        let mut more = good.clone();
        more.counts = Counts::Integer { count: 6, zero: 1, positive: vec![1, 3], negative: vec![] };
        assert!(check(&more).is_err());
        more.sum = f64::NAN;
        assert_eq!(check(&more), Ok(()), "NaN observations are in no bucket");
    }
}
