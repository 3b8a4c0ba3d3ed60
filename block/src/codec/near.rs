//! Floats that are nearly decimals: counters to which a program adds durations, or integers that it multiplied by 0.001. Rounding
//! has left them some units in the last place off the decimal number that they stand for.
//!
//! The integers follow the differences of the values, which stay near decimals also when the sum of all rounding has grown.
//!
//! A stream of the integers over a power of ten (tag as in [`super::decimal`]), a stream of how many floats lie between that
//! quotient and the value, then the exceptions if the tag says so. The integers carry what moves, the distances stay small.

use super::cpu::dispatch;
use super::decimal::{EXCEPTIONS, NEGATIVE_ZERO, POWERS, divisor, fill_exceptions, read_exceptions, write_exceptions};
use super::integers::{self, Stream};
use super::values::ordered;
use super::varint::Reader;
use crate::Result;

/// Values by which the exponent is found.
const SAMPLE: usize = 16;
/// How far from an integer a scaled difference may be; by chance one in eight is nearer.
const NEAR: f64 = 1.0 / 16.0;
/// Above this, floats lie too wide apart to tell what is near.
const LARGEST_SCALED: f64 = (1u64 << 49) as f64;
const LARGEST_EXPONENT: usize = 15;

/// Appends `values` unless they are near no decimals; tells whether it did.
pub(super) fn encode(values: &[f64], out: &mut Vec<u8>) -> bool {
    let Some(exponent) = exponent(values) else { return false };
    let (mut integers, mut distances) = (vec![0; values.len()], vec![0; values.len()]);
    let mut exceptions = Vec::new();
    split(values, POWERS[exponent], &mut integers, &mut distances, &mut exceptions);
    fill_exceptions(&mut integers, &exceptions);
    fill_exceptions(&mut distances, &exceptions);
    let tag = exponent as u8 | if exceptions.is_empty() { 0 } else { EXCEPTIONS };
    integers::encode(tag, &mut integers, out);
    integers::encode(0, &mut distances, out);
    if !exceptions.is_empty() {
        write_exceptions(values, &exceptions, out);
    }
    true
}

/// Fills `out`, to whose length the chunk was written.
pub(super) fn decode(reader: &mut Reader<'_>, out: &mut [f64]) -> Result<()> {
    let stream = Stream::read(reader)?;
    integers::decode_decimal(&stream, reader, divisor(&stream)?, out)?;
    let distance = Stream::read(reader)?;
    let mut distances = vec![0; out.len()];
    integers::decode_i64(&distance, reader, &mut distances)?;
    join(out, &distances);
    if stream.tag >= EXCEPTIONS { read_exceptions(reader, out) } else { Ok(()) }
}

/// The least exponent with which differences come near integers.
fn exponent(values: &[f64]) -> Option<usize> {
    let pairs = values.windows(2).filter(|w| (w[1] - w[0]).is_finite() && w[0] != w[1]).step_by(values.len().div_ceil(1024));
    let mut sampled = [(0.0, 0.0); SAMPLE];
    let count = sampled.iter_mut().zip(pairs).map(|(to, w)| *to = (w[1] - w[0], w[0].abs().max(w[1].abs()))).count();
    (0..=LARGEST_EXPONENT).find(|exponent| {
        count > 0
            && sampled[..count].iter().all(|(difference, magnitude)| {
                let scaled = (difference * POWERS[*exponent]).abs();
                scaled >= 0.5 && magnitude * POWERS[*exponent] < LARGEST_SCALED && (scaled - (scaled + 0.5).floor()).abs() <= NEAR
            })
    })
}

/// Sets an integer near each scaled value, and the distance of its quotient to the value; lists what cannot be scaled.
fn split(values: &[f64], power: f64, integers: &mut [i64], distances: &mut [i64], exceptions: &mut Vec<usize>) {
    let nearest = |scaled: f64| (scaled + 0.5f64.copysign(scaled)) as i64;
    let (mut before, mut integer) = (0.0f64, 0i64);
    for (index, &value) in values.iter().enumerate() {
        let scaled = value * power;
        if scaled.is_nan() || scaled.abs() >= LARGEST_SCALED || value.to_bits() == NEGATIVE_ZERO {
            exceptions.push(index);
            continue;
        }
        // After a reset the sum of all rounding is gone too.
        let starts_anew = value.abs() * 2.0 < before.abs() || before.abs() * 2.0 < value.abs();
        integer = if starts_anew { nearest(scaled) } else { integer + nearest((value - before) * power) };
        before = value;
        integers[index] = integer;
        distances[index] = ordered(value.to_bits() as i64).wrapping_sub(ordered((integer as f64 / power).to_bits() as i64));
    }
}

dispatch! {
    /// Adds the distances to the quotients.
    fn join(out: &mut [f64], distances: &[i64]) -> () = join_any
}

#[inline(always)]
fn join_any(out: &mut [f64], distances: &[i64]) {
    for (value, distance) in out.iter_mut().zip(distances) {
        *value = f64::from_bits(ordered(ordered(value.to_bits() as i64).wrapping_add(*distance)) as u64);
    }
}
