//! Decodes the chunks of Prometheus: floats, histograms with integer counts and with float counts. Source:
//! `tsdb/docs/format/chunks.md` and `tsdb/chunkenc` of Prometheus.

use isobar_block::Histogram;
use isobar_block::histogram::{CUSTOM_BUCKETS_SCHEMA, Counts, ResetHint, Span};
use isobar_block::is_stale;

use super::bits::{BitReader, Wrong, Xor};
use crate::transfer::Gathered;

/// Encoding byte of a chunk of floats.
const FLOATS: u8 = 1;
/// Encoding byte of a chunk of histograms with integer counts.
const HISTOGRAMS: u8 = 2;
/// Encoding byte of a chunk of histograms with float counts.
const FLOAT_HISTOGRAMS: u8 = 3;

/// Spans or custom bounds of one layout that are read; a histogram has far fewer.
const MAX_LAYOUT_PARTS: u64 = 1 << 16;
/// Buckets of one side of a histogram that are read.
const MAX_BUCKETS: u64 = 1 << 20;

/// Appends the samples of a chunk.
pub(super) fn decode(encoding: u8, data: &[u8], out: &mut Gathered) -> Result<(), String> {
    let count = data.first_chunk::<2>().map(|b| u16::from_be_bytes(*b)).ok_or("a chunk of less than two bytes")?;
    let mut bits = BitReader::new(&data[2..]);
    let read = match encoding {
        FLOATS => floats(&mut bits, count, out),
        HISTOGRAMS => histograms(&mut bits, count, out),
        FLOAT_HISTOGRAMS => float_histograms(&mut bits, count, out),
        _ => return Err(format!("chunk encoding {encoding} is not known; 1, 2 and 3 are read")),
    };
    read.map_err(str::to_owned)
}

fn floats(bits: &mut BitReader<'_>, count: u16, out: &mut Gathered) -> Result<(), Wrong> {
    if count == 0 {
        return Ok(());
    }
    let mut t = bits.varint()?;
    let mut value = Xor::new(bits.float()?);
    out.push(t, value.value);
    let mut step = 0i64;
    for i in 1..count {
        step = if i == 1 { bits.uvarint()? as i64 } else { step.wrapping_add(bits.timestamp_change()?) };
        t = t.wrapping_add(step);
        bits.xor(&mut value)?;
        out.push(t, value.value);
    }
    Ok(())
}

/// What all histograms of a chunk have in common.
struct Layout {
    hint: u8,
    schema: i32,
    zero_threshold: f64,
    positive_spans: Vec<Span>,
    negative_spans: Vec<Span>,
    custom_bounds: Vec<f64>,
    positive: usize,
    negative: usize,
}

impl Layout {
    fn read(bits: &mut BitReader<'_>) -> Result<Self, Wrong> {
        let hint = bits.byte()? >> 6;
        let zero_threshold = match bits.byte()? {
            0 => 0.0,
            255 => bits.float()?,
            exponent => 2f64.powi(i32::from(exponent) - 244),
        };
        let schema = i32::try_from(bits.varbit_int()?).map_err(|_| "a schema beyond 32 bits")?;
        let (positive_spans, positive) = spans(bits)?;
        let (negative_spans, negative) = spans(bits)?;
        let custom_bounds = if schema == CUSTOM_BUCKETS_SCHEMA { custom_bounds(bits)? } else { Vec::new() };
        Ok(Self { hint, schema, zero_threshold, positive_spans, negative_spans, custom_bounds, positive, negative })
    }

    /// The hint of sample `i` of the chunk: it begins with a reset or not, and has none inside.
    fn reset_hint(&self, i: u16) -> ResetHint {
        match (self.hint, i) {
            (0b11, _) => ResetHint::Gauge,
            (_, 1..) => ResetHint::No,
            (0b10, _) => ResetHint::Yes,
            _ => ResetHint::Unknown,
        }
    }

    fn histogram(&self, i: u16, sum: f64, counts: Counts) -> Result<Histogram, Wrong> {
        let stale = is_stale(sum);
        let spans = |spans: &Vec<Span>| if stale { Vec::new() } else { spans.clone() };
        let histogram = Histogram {
            reset_hint: self.reset_hint(i),
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            sum,
            positive_spans: spans(&self.positive_spans),
            negative_spans: spans(&self.negative_spans),
            custom_bounds: self.custom_bounds.clone(),
            counts,
        };
        histogram.validate().map_err(|_| "a histogram breaks the rules for schema, spans or counts")?;
        Ok(histogram)
    }
}

fn spans(bits: &mut BitReader<'_>) -> Result<(Vec<Span>, usize), Wrong> {
    let number = bits.varbit_uint()?;
    if number > MAX_LAYOUT_PARTS {
        return Err("a histogram has too many spans");
    }
    let mut buckets = 0u64;
    let mut spans = Vec::with_capacity(number as usize);
    for _ in 0..number {
        let length = u32::try_from(bits.varbit_uint()?).map_err(|_| "a span is too long")?;
        let offset = i32::try_from(bits.varbit_int()?).map_err(|_| "an offset of a span is beyond 32 bits")?;
        buckets += u64::from(length);
        if buckets > MAX_BUCKETS {
            return Err("a histogram has too many buckets");
        }
        spans.push(Span { offset, length });
    }
    Ok((spans, buckets as usize))
}

fn custom_bounds(bits: &mut BitReader<'_>) -> Result<Vec<f64>, Wrong> {
    let number = bits.varbit_uint()?;
    if number > MAX_LAYOUT_PARTS {
        return Err("a histogram has too many custom bounds");
    }
    (0..number)
        .map(|_| match bits.varbit_uint()? {
            0 => bits.float(),
            thousandths => Ok((thousandths - 1) as f64 / 1000.0),
        })
        .collect()
}

/// A number that is written as the change of its change.
#[derive(Clone, Copy, Default)]
struct Delta {
    value: i64,
    step: i64,
}

impl Delta {
    fn next(&mut self, bits: &mut BitReader<'_>) -> Result<(), Wrong> {
        self.step = self.step.wrapping_add(bits.varbit_int()?);
        self.value = self.value.wrapping_add(self.step);
        Ok(())
    }
}

/// Absolute counts from the differences between neighbouring buckets.
fn absolute(buckets: &[Delta]) -> Result<Vec<u64>, Wrong> {
    let mut sum = 0i64;
    buckets
        .iter()
        .map(|b| {
            sum = sum.wrapping_add(b.value);
            u64::try_from(sum).map_err(|_| "a bucket of a histogram has a negative count")
        })
        .collect()
}

fn histograms(bits: &mut BitReader<'_>, samples: u16, out: &mut Gathered) -> Result<(), Wrong> {
    let layout = Layout::read(bits)?;
    let (mut t, mut count, mut zero) = (Delta::default(), Delta::default(), Delta::default());
    let mut sum = Xor::default();
    let (mut positive, mut negative) = (vec![Delta::default(); layout.positive], vec![Delta::default(); layout.negative]);
    for i in 0..samples {
        if i == 0 {
            t.value = bits.varbit_int()?;
            count.value = bits.varbit_uint()? as i64;
            zero.value = bits.varbit_uint()? as i64;
            sum = Xor::new(bits.float()?);
            for bucket in positive.iter_mut().chain(&mut negative) {
                bucket.value = bits.varbit_int()?;
            }
        } else {
            t.next(bits)?;
            count.next(bits)?;
            zero.next(bits)?;
            bits.xor(&mut sum)?;
            // A stale marker has no buckets.
            if !is_stale(sum.value) {
                for bucket in positive.iter_mut().chain(&mut negative) {
                    bucket.next(bits)?;
                }
            }
        }
        let counts = if is_stale(sum.value) {
            Counts::Integer { count: 0, zero: 0, positive: Vec::new(), negative: Vec::new() }
        } else {
            let (count, zero) = (count.value as u64, zero.value as u64);
            Counts::Integer { count, zero, positive: absolute(&positive)?, negative: absolute(&negative)? }
        };
        out.push_histogram(t.value, layout.histogram(i, sum.value, counts)?);
    }
    Ok(())
}

fn float_histograms(bits: &mut BitReader<'_>, samples: u16, out: &mut Gathered) -> Result<(), Wrong> {
    let layout = Layout::read(bits)?;
    let mut t = Delta::default();
    let (mut count, mut zero, mut sum) = (Xor::default(), Xor::default(), Xor::default());
    let (mut positive, mut negative) = (vec![Xor::default(); layout.positive], vec![Xor::default(); layout.negative]);
    let plain = |buckets: &[Xor]| buckets.iter().map(|b| b.value).collect::<Vec<f64>>();
    for i in 0..samples {
        if i == 0 {
            t.value = bits.varbit_int()?;
            for float in [&mut count, &mut zero, &mut sum].into_iter().chain(&mut positive).chain(&mut negative) {
                *float = Xor::new(bits.float()?);
            }
        } else {
            t.next(bits)?;
            for float in [&mut count, &mut zero, &mut sum] {
                bits.xor(float)?;
            }
            if !is_stale(sum.value) {
                for float in positive.iter_mut().chain(&mut negative) {
                    bits.xor(float)?;
                }
            }
        }
        let counts = if is_stale(sum.value) {
            Counts::Float { count: 0.0, zero: 0.0, positive: Vec::new(), negative: Vec::new() }
        } else {
            Counts::Float { count: count.value, zero: zero.value, positive: plain(&positive), negative: plain(&negative) }
        };
        out.push_histogram(t.value, layout.histogram(i, sum.value, counts)?);
    }
    Ok(())
}
