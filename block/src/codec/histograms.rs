//! Native histograms of a chunk, by column: runs of equal bucket layout state it once, and each bucket is a stream of its own,
//! since a bucket's counts differ little from sample to sample.
//!
//! ```text
//! run      varint samples, layout, sums, hints, counts; runs follow one another until the chunk's samples are complete
//! layout   byte flags (1 float counts, 2 zero threshold follows, 4 custom bounds follow), signed schema,
//!          8 bytes zero threshold unless it is 0, positive spans, negative spans, varint positive counts, varint negative counts,
//!          custom bounds: varint number, values
//! spans    varint number, then for each: signed offset, varint length
//! values   byte codec, varint size, bytes
//! hints    byte 0-3 if all are equal, else 4 and then for each a byte
//! counts   integers: a stream for each of zero bucket, positive and negative buckets, then one of count - sum of all those
//!          floats: values for each of count, zero bucket, positive and negative buckets
//! ```

use super::integers::{self, Stream};
use super::values::{decode_values, encode_values};
use super::varint::{Reader, corrupt, put, put_signed};
use super::{MAX_CHUNK_SAMPLES, ValueCodec};
use crate::histogram::{Counts, ResetHint, Span};
use crate::{Histogram, Result};

const FLOAT: u8 = 1;
const ZERO_THRESHOLD: u8 = 2;
const CUSTOM_BOUNDS: u8 = 4;
const HINTS: [ResetHint; 4] = [ResetHint::Unknown, ResetHint::Yes, ResetHint::No, ResetHint::Gauge];
const MIXED_HINTS: u8 = 4;
/// Numbers in the samples of one run, so that a few corrupt bytes cannot ask for much memory; longer runs are split.
const MAX_RUN_NUMBERS: usize = 1 << 22;

/// Appends native histograms, their sums included.
///
/// # Panics
/// If there are more than [`MAX_CHUNK_SAMPLES`].
pub fn encode_histograms(histograms: &[&Histogram], out: &mut Vec<u8>) {
    assert!(histograms.len() <= MAX_CHUNK_SAMPLES, "a chunk of {} samples", histograms.len());
    for run in histograms.chunk_by(|a, b| same_layout(a, b)) {
        let (first, (positive, negative)) = (run[0], buckets(run[0]));
        let layout = first.positive_spans.len() + first.negative_spans.len() + first.custom_bounds.len();
        for part in run.chunks((MAX_RUN_NUMBERS / (layout + positive + negative + 2)).max(1)) {
            encode_run(part, out);
        }
    }
}

/// Numbers of positive and negative counts.
fn buckets(histogram: &Histogram) -> (usize, usize) {
    match &histogram.counts {
        Counts::Integer { positive, negative, .. } => (positive.len(), negative.len()),
        Counts::Float { positive, negative, .. } => (positive.len(), negative.len()),
    }
}

fn same_layout(a: &Histogram, b: &Histogram) -> bool {
    a.schema == b.schema
        && a.zero_threshold.to_bits() == b.zero_threshold.to_bits()
        && a.positive_spans == b.positive_spans
        && a.negative_spans == b.negative_spans
        && a.custom_bounds.iter().map(|v| v.to_bits()).eq(b.custom_bounds.iter().map(|v| v.to_bits()))
        && matches!(a.counts, Counts::Float { .. }) == matches!(b.counts, Counts::Float { .. })
        && buckets(a) == buckets(b)
}

fn encode_run(run: &[&Histogram], out: &mut Vec<u8>) {
    put(run.len() as u64, out);
    let first = run[0];
    let float = matches!(first.counts, Counts::Float { .. });
    let thresholded = first.zero_threshold.to_bits() != 0;
    let custom = !first.custom_bounds.is_empty();
    let flags = [(float, FLOAT), (thresholded, ZERO_THRESHOLD), (custom, CUSTOM_BOUNDS)];
    out.push(flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum());
    put_signed(first.schema.into(), out);
    if thresholded {
        out.extend(first.zero_threshold.to_bits().to_le_bytes());
    }
    for spans in [&first.positive_spans, &first.negative_spans] {
        put(spans.len() as u64, out);
        for span in spans {
            put_signed(span.offset.into(), out);
            put(span.length.into(), out);
        }
    }
    let (positive, negative) = buckets(first);
    put(positive as u64, out);
    put(negative as u64, out);
    if custom {
        put(first.custom_bounds.len() as u64, out);
        put_values(&first.custom_bounds, out);
    }
    put_values(&run.iter().map(|h| h.sum).collect::<Vec<_>>(), out);
    let hints = run.iter().map(|h| HINTS.iter().position(|hint| *hint == h.reset_hint).expect("every hint is listed") as u8);
    if run.iter().all(|h| h.reset_hint == first.reset_hint) {
        out.extend(hints.take(1));
    } else {
        out.push(MIXED_HINTS);
        out.extend(hints);
    }
    if float { encode_floats(run, positive + negative, out) } else { encode_integers(run, positive + negative, out) }
}

fn encode_integers(run: &[&Histogram], buckets: usize, out: &mut Vec<u8>) {
    let mut rest = Vec::with_capacity(run.len());
    let mut columns = vec![Vec::with_capacity(run.len()); buckets + 1];
    for histogram in run {
        let Counts::Integer { count, zero, positive, negative } = &histogram.counts else { continue };
        let mut sum = 0u64;
        for (column, &value) in columns.iter_mut().zip([zero].into_iter().chain(positive).chain(negative)) {
            sum = sum.wrapping_add(value);
            column.push(value as i64);
        }
        rest.push(count.wrapping_sub(sum) as i64);
    }
    columns.iter_mut().chain([&mut rest]).for_each(|column| integers::encode(0, column, out));
}

fn encode_floats(run: &[&Histogram], buckets: usize, out: &mut Vec<u8>) {
    let mut columns = vec![Vec::with_capacity(run.len()); buckets + 2];
    for histogram in run {
        let Counts::Float { count, zero, positive, negative } = &histogram.counts else { continue };
        for (column, value) in columns.iter_mut().zip([count, zero].into_iter().chain(positive).chain(negative)) {
            column.push(*value);
        }
    }
    columns.iter().for_each(|column| put_values(column, out));
}

fn put_values(values: &[f64], out: &mut Vec<u8>) {
    let mut bytes = Vec::new();
    out.push(encode_values(values, &mut bytes) as u8);
    put(bytes.len() as u64, out);
    out.extend(bytes);
}

/// Appends exactly `count` histograms to `out`. After an error what was appended has no meaning.
///
/// # Errors
/// [`crate::Error::Corrupt`] if no encoder wrote these bytes for so many histograms.
pub fn decode_histograms(bytes: &[u8], count: usize, out: &mut Vec<Histogram>) -> Result<()> {
    if count > MAX_CHUNK_SAMPLES {
        return Err(corrupt(format!("{count} samples are more than a chunk can have")));
    }
    let mut reader = Reader::new(bytes);
    let mut left = count;
    while left > 0 {
        let samples = reader.at_most(left, "the length of a run")?;
        if samples == 0 {
            return Err(corrupt("a run of histograms is empty"));
        }
        decode_run(&mut reader, samples, out)?;
        left -= samples;
    }
    reader.end()
}

fn decode_run(reader: &mut Reader<'_>, samples: usize, out: &mut Vec<Histogram>) -> Result<()> {
    let flags = reader.byte()?;
    if flags > FLOAT | ZERO_THRESHOLD | CUSTOM_BOUNDS {
        return Err(corrupt(format!("histogram flags {flags} are not defined")));
    }
    let schema = i32::try_from(reader.signed()?).map_err(|_| corrupt("a schema exceeds 32 bits"))?;
    let zero_threshold = if flags & ZERO_THRESHOLD != 0 { f64::from_bits(reader.fixed()?) } else { 0.0 };
    let positive_spans = read_spans(reader)?;
    let negative_spans = read_spans(reader)?;
    let at_most = reader.rest().len();
    let positive = reader.at_most(at_most, "the number of positive buckets")?;
    let negative = reader.at_most(at_most, "the number of negative buckets")?;
    let mut custom_bounds = Vec::new();
    if flags & CUSTOM_BOUNDS != 0 {
        let bounds = reader.at_most(MAX_RUN_NUMBERS, "the number of bounds")?;
        read_values(reader, bounds, &mut custom_bounds)?;
    }
    let layout = positive_spans.len() + negative_spans.len() + custom_bounds.len();
    if samples > 1 && samples.saturating_mul(layout + positive + negative + 2) > MAX_RUN_NUMBERS {
        return Err(corrupt("a run of histograms is too long"));
    }
    let mut sums = Vec::new();
    read_values(reader, samples, &mut sums)?;
    let hint = reader.byte()?;
    let hints = if hint == MIXED_HINTS { reader.bytes(samples)? } else { &[] };
    let counts = if flags & FLOAT != 0 {
        decode_floats(reader, samples, positive, negative)?
    } else {
        decode_integers(reader, samples, positive, negative)?
    };
    out.reserve(samples);
    for (index, (sum, counts)) in sums.into_iter().zip(counts).enumerate() {
        let hint = hints.get(index).copied().unwrap_or(hint);
        out.push(Histogram {
            reset_hint: *HINTS.get(usize::from(hint)).ok_or_else(|| corrupt(format!("reset hint {hint} is not defined")))?,
            schema,
            zero_threshold,
            sum,
            positive_spans: positive_spans.clone(),
            negative_spans: negative_spans.clone(),
            custom_bounds: custom_bounds.clone(),
            counts,
        });
    }
    Ok(())
}

fn read_spans(reader: &mut Reader<'_>) -> Result<Vec<Span>> {
    let count = reader.at_most(reader.rest().len() / 2, "the number of spans")?;
    let mut spans = Vec::with_capacity(count);
    for _ in 0..count {
        let offset = i32::try_from(reader.signed()?).map_err(|_| corrupt("a span's offset exceeds 32 bits"))?;
        let length = u32::try_from(reader.varint()?).map_err(|_| corrupt("a span's length exceeds 32 bits"))?;
        spans.push(Span { offset, length });
    }
    Ok(spans)
}

fn read_values(reader: &mut Reader<'_>, count: usize, out: &mut Vec<f64>) -> Result<()> {
    let codec = ValueCodec::from_u8(reader.byte()?)?;
    let size = reader.at_most(reader.rest().len(), "the size of a column")?;
    decode_values(codec, reader.bytes(size)?, count, out)
}

fn decode_integers(reader: &mut Reader<'_>, samples: usize, positive: usize, negative: usize) -> Result<Vec<Counts>> {
    let mut rows: Vec<Counts> = (0..samples)
        .map(|_| Counts::Integer { count: 0, zero: 0, positive: Vec::with_capacity(positive), negative: Vec::with_capacity(negative) })
        .collect();
    let mut column = vec![0; samples];
    for bucket in 0..positive + negative + 2 {
        let stream = Stream::read(reader)?;
        integers::decode_i64(&stream, reader, &mut column)?;
        for (row, &value) in rows.iter_mut().zip(&column) {
            let Counts::Integer { count, zero, positive: above, negative: below } = row else { continue };
            *count = count.wrapping_add(value as u64);
            if bucket == 0 {
                *zero = value as u64;
            } else if bucket <= positive {
                above.push(value as u64);
            } else if bucket <= positive + negative {
                below.push(value as u64);
            }
        }
    }
    Ok(rows)
}

fn decode_floats(reader: &mut Reader<'_>, samples: usize, positive: usize, negative: usize) -> Result<Vec<Counts>> {
    let mut rows: Vec<Counts> = (0..samples)
        .map(|_| Counts::Float { count: 0.0, zero: 0.0, positive: Vec::with_capacity(positive), negative: Vec::with_capacity(negative) })
        .collect();
    let mut column = Vec::with_capacity(samples);
    for bucket in 0..positive + negative + 2 {
        column.clear();
        read_values(reader, samples, &mut column)?;
        for (row, &value) in rows.iter_mut().zip(&column) {
            let Counts::Float { count, zero, positive: above, negative: below } = row else { continue };
            match bucket {
                0 => *count = value,
                1 => *zero = value,
                _ if bucket < positive + 2 => above.push(value),
                _ => below.push(value),
            }
        }
    }
    Ok(rows)
}
