//! Timestamps of a chunk, strictly ascending Unix milliseconds.
//!
//! ```text
//! byte 0   0 regular · 1 grid · 2 integers
//! regular  signed start, varint step: timestamp i is start + i × step
//! grid     signed start, varint step, varint n, n × (varint samples since the one before, varint skipped steps): scrapes that
//!          were missed; then a stream of integers: what each timestamp is off its place start + step × (i + steps skipped so far)
//! integers a stream of the timestamps themselves
//! ```
//!
//! The grid halves the range of jitter that differences would see twice. Series of one scrape target share their timestamps,
//! so these bytes are few in any case.

use super::MAX_CHUNK_SAMPLES;
use super::integers::{self, Stream};
use super::varint::{Reader, corrupt, put, put_signed};
use crate::Result;

const REGULAR: u8 = 0;
const GRID: u8 = 1;
const INTEGERS: u8 = 2;
/// Skipped steps beyond this are no grid.
const MAX_SLOT: i64 = 1 << 40;

/// Appends timestamps, Unix milliseconds, strictly ascending.
///
/// # Panics
/// If they do not ascend strictly, or are more than [`MAX_CHUNK_SAMPLES`].
pub fn encode_timestamps(millis: &[i64], out: &mut Vec<u8>) {
    assert!(millis.len() <= MAX_CHUNK_SAMPLES, "a chunk of {} samples", millis.len());
    assert!(millis.is_sorted_by(|a, b| a < b), "timestamps of a chunk do not ascend strictly");
    let Some(&start) = millis.first() else { return };
    let grid = Grid::of(millis);
    if let Some(grid) = &grid
        && grid.skips.is_empty()
        && grid.offsets.iter().all(|o| *o == 0)
    {
        out.push(REGULAR);
        put_signed(start, out);
        return put(grid.step as u64, out);
    }
    let from = out.len();
    out.push(INTEGERS);
    integers::encode(0, &mut millis.to_vec(), out);
    let Some(mut grid) = grid else { return };
    let middle = out.len();
    out.push(GRID);
    put_signed(start, out);
    put(grid.step as u64, out);
    put(grid.skips.len() as u64, out);
    let mut before = 0;
    for (index, skipped) in grid.skips {
        put((index - before) as u64, out);
        put(skipped as u64, out);
        before = index;
    }
    integers::encode(0, &mut grid.offsets, out);
    if out.len() - middle < middle - from {
        out.drain(from..middle);
    } else {
        out.truncate(middle);
    }
}

/// Timestamps near multiples of a step.
struct Grid {
    step: i64,
    /// Index of a sample and the steps without one before it.
    skips: Vec<(usize, i64)>,
    offsets: Vec<i64>,
}

impl Grid {
    /// The grid on which most of the timestamps lie; none if numbers get too large or every fourth step is skipped.
    fn of(millis: &[i64]) -> Option<Self> {
        let (&start, &end) = (millis.first()?, millis.last()?);
        let span = end.checked_sub(start)?;
        let mut steps: Vec<i64> = millis.windows(2).map(|w| w[1] - w[0]).collect();
        if steps.is_empty() {
            return Some(Self { step: 1, skips: Vec::new(), offsets: vec![0] });
        }
        let middle = steps.len() / 2;
        let median = *steps.select_nth_unstable(middle).1;
        // Jitter of both ends is spread over all steps, so that the quotient is the true step nearly always.
        let slots = nearest(span, median);
        if slots > MAX_SLOT {
            return None;
        }
        let step = nearest(span, slots);
        let mut grid = Self { step, skips: Vec::new(), offsets: Vec::with_capacity(millis.len()) };
        let mut slot = 0;
        for (index, &at) in millis.iter().enumerate() {
            let place = nearest(at - start, step);
            // A late scrape may be nearer to the next place; only what is a whole step off counts as skipped.
            if index > 0 && place > slot + 1 {
                grid.skips.push((index, place - slot - 1));
                slot = place;
            } else if index > 0 {
                slot += 1;
            }
            grid.offsets.push((at - start).checked_sub(step.checked_mul(slot)?)?);
        }
        (grid.skips.len() * 4 <= millis.len()).then_some(grid)
    }
}

/// `dividend ÷ divisor` of non-negative numbers, rounded, at least 1 unless the dividend is 0.
fn nearest(dividend: i64, divisor: i64) -> i64 {
    let quotient = dividend / divisor;
    let rounded = quotient + i64::from(dividend % divisor > divisor / 2);
    if dividend > 0 { rounded.max(1) } else { rounded }
}

/// Appends exactly `count` timestamps to `out`, strictly ascending. After an error what was appended has no meaning.
///
/// # Errors
/// [`crate::Error::Corrupt`] if no encoder wrote these bytes for so many timestamps.
pub fn decode_timestamps(bytes: &[u8], count: usize, out: &mut Vec<i64>) -> Result<()> {
    if count > MAX_CHUNK_SAMPLES {
        return Err(corrupt(format!("{count} samples are more than a chunk can have")));
    }
    let mut reader = Reader::new(bytes);
    if count == 0 {
        return reader.end();
    }
    let from = out.len();
    out.resize(from + count, 0);
    let out = &mut out[from..];
    match reader.byte()? {
        REGULAR => {
            let (start, step) = (reader.signed()?, reader.varint()? as i64);
            out.iter_mut().enumerate().for_each(|(index, at)| *at = start.wrapping_add(step.wrapping_mul(index as i64)));
        }
        GRID => decode_grid(&mut reader, out)?,
        INTEGERS => {
            let stream = Stream::read(&mut reader)?;
            integers::decode_i64(&stream, &mut reader, out)?;
        }
        kind => return Err(corrupt(format!("timestamps of kind {kind} are not defined"))),
    }
    reader.end()?;
    if !out.is_sorted_by(|a, b| a < b) {
        return Err(corrupt("timestamps do not ascend"));
    }
    Ok(())
}

fn decode_grid(reader: &mut Reader<'_>, out: &mut [i64]) -> Result<()> {
    let (start, step) = (reader.signed()?, reader.varint()? as i64);
    let count = reader.at_most(out.len(), "the number of skips")?;
    let mut skips = *reader;
    for _ in 0..count {
        reader.varint()?;
        reader.varint()?;
    }
    let stream = Stream::read(reader)?;
    integers::decode_i64(&stream, reader, out)?;
    let (mut place, mut from) = (start, 0);
    for skip in 0..=count {
        let (to, skipped) = if skip < count {
            (from + skips.at_most(out.len() - from, "the distance to a skip")?, skips.varint()? as i64)
        } else {
            (out.len(), 0)
        };
        for at in &mut out[from..to] {
            *at = at.wrapping_add(place);
            place = place.wrapping_add(step);
        }
        place = place.wrapping_add(step.wrapping_mul(skipped));
        from = to;
    }
    Ok(())
}
