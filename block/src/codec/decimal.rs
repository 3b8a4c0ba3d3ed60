//! Decimal floats as integers over one power of ten: 0.25, 1.5 and 3 become 25, 150 and 300 over 10^2.
//!
//! An integer below 2^53 divided by a power of ten up to 10^22 is correctly rounded, both being exact (Clinger, "How to Read
//! Floating Point Numbers Accurately", 1990); that is how a decimal number becomes a float when it is parsed. Each value is tried
//! when it is encoded, and those that do not come back bit for bit are listed as exceptions: NaNs, infinities, −0, outliers.
//!
//! The tag of the stream of integers is the exponent, plus 32 if exceptions follow the stream:
//! varint number of runs, then for each run: varint distance from the end of the run before, byte kind (0: eight bytes follow,
//! else a number into [`SPECIALS`], from 1; bit 7: a varint follows, the number of further samples with the same bits).

use super::cpu::dispatch;
use super::integers::{self, Stream};
use super::varint::{Reader, corrupt, put};
use crate::Result;

/// Added to the tag if exceptions follow.
pub(super) const EXCEPTIONS: u8 = 32;
/// Powers of ten up to this are exact floats.
pub(super) const LARGEST_EXPONENT: usize = 22;
/// Programs print and count nanoseconds, but hardly anything smaller.
pub(super) const USUAL_EXPONENT: usize = 9;
/// Above this, an integer over a power of ten need not be exact.
const LARGEST_QUOTIENT: f64 = (1u64 << 53) as f64;
/// Above this, differences of integers could overflow.
const LARGEST_INTEGER: f64 = (1u64 << 61) as f64;
/// One value in so many may be a number that is no decimal, or the chunk is not worth trying.
const OUTLIER_SHARE: usize = 8;
/// Values looked at first, so that chunks of other floats are given up soon.
const SAMPLE: usize = 16;
const GROUP: usize = 16;
const RUN: u8 = 0x80;
/// Added to a float below 2^51 this leaves the nearest integer in the low bits.
const ROUNDER: f64 = (3u64 << 51) as f64;
const LARGEST_ROUNDED: f64 = (1u64 << 51) as f64;

/// The bits of −0.
pub(super) const NEGATIVE_ZERO: u64 = 1 << 63;

/// Powers of ten that are exact.
pub(super) const POWERS: [f64; LARGEST_EXPONENT + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22];

/// Bit patterns that are frequent exceptions: the stale marker, NaN as Go, Rust and x86 make it, the infinities, −0.
const SPECIALS: [u64; 7] = [
    crate::sample::STALE_NAN_BITS,
    0x7ff8_0000_0000_0001,
    0x7ff8_0000_0000_0000,
    0xfff8_0000_0000_0000,
    0x7ff0_0000_0000_0000,
    0xfff0_0000_0000_0000,
    NEGATIVE_ZERO,
];

/// How well values suit this codec.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Suits {
    /// Too many are no decimals, and nothing was appended.
    No,
    /// Some are no decimals, so that all may be something else rounded.
    Doubtfully,
    /// All are decimals.
    Well,
}

/// Appends `values` unless too many are no decimals with that exponent at most.
pub(super) fn encode(values: &[f64], largest_exponent: usize, out: &mut Vec<u8>) -> Suits {
    let mut integers = vec![0; values.len()];
    let mut exceptions = Vec::new();
    let Some(exponent) = to_integers(values, largest_exponent, &mut integers, &mut exceptions) else { return Suits::No };
    let outliers = exceptions.iter().any(|at| !SPECIALS.contains(&values[*at].to_bits()));
    let tag = exponent as u8 | if exceptions.is_empty() { 0 } else { EXCEPTIONS };
    fill_exceptions(&mut integers, &exceptions);
    integers::encode(tag, &mut integers, out);
    if !exceptions.is_empty() {
        write_exceptions(values, &exceptions, out);
    }
    if outliers { Suits::Doubtfully } else { Suits::Well }
}

/// Fills `out`, to whose length the chunk was written.
pub(super) fn decode(reader: &mut Reader<'_>, out: &mut [f64]) -> Result<()> {
    let stream = Stream::read(reader)?;
    integers::decode_decimal(&stream, reader, divisor(&stream)?, out)?;
    if stream.tag >= EXCEPTIONS { read_exceptions(reader, out) } else { Ok(()) }
}

/// The power of ten in a stream's tag.
pub(super) fn divisor(stream: &Stream) -> Result<f64> {
    let exponent = usize::from(stream.tag % EXCEPTIONS);
    POWERS.get(exponent).copied().ok_or_else(|| corrupt(format!("10^{exponent} is no exact float")))
}

dispatch! {
    /// Finds the least exponent that suits the values, their integers, and the places of those that have none.
    fn to_integers(values: &[f64], largest_exponent: usize, integers: &mut [i64], exceptions: &mut Vec<usize>) -> Option<usize> = find_integers
}

#[inline(always)]
fn find_integers(values: &[f64], largest_exponent: usize, integers: &mut [i64], exceptions: &mut Vec<usize>) -> Option<usize> {
    let exponent = exponent(values, largest_exponent)?;
    let power = POWERS[exponent];
    let mut outliers = 0;
    for (group, (values, integers)) in values.chunks(GROUP).zip(integers.chunks_mut(GROUP)).enumerate() {
        if scale_group(values, power, integers) {
            continue;
        }
        for (index, (value, integer)) in values.iter().zip(integers).enumerate() {
            match scale(*value, exponent) {
                Some(found) => *integer = found,
                None => {
                    exceptions.push(group * GROUP + index);
                    outliers += usize::from(!SPECIALS.contains(&value.to_bits()));
                }
            }
        }
        if outliers > group * GROUP / OUTLIER_SHARE + GROUP {
            return None;
        }
    }
    (exceptions.len() < values.len()).then_some(exponent)
}

/// The least exponent with which every value that has any becomes an integer.
#[inline(always)]
fn exponent(values: &[f64], largest_exponent: usize) -> Option<usize> {
    let largest = values.iter().map(|v| v.abs()).fold(0.0, |a, b| if b < LARGEST_QUOTIENT && b > a { b } else { a });
    let limit = POWERS[..=largest_exponent].iter().rposition(|p| largest * p < LARGEST_QUOTIENT).unwrap_or_default();
    let mut exponent = 0;
    let (mut tried, mut failed) = (0, 0);
    let mut integers = [0; GROUP];
    for group in values.chunks(GROUP) {
        if scale_group(group, POWERS[exponent], &mut integers) {
            continue;
        }
        for &value in group.iter().filter(|v| v.is_finite() && v.to_bits() != NEGATIVE_ZERO) {
            match (exponent..=limit).find(|e| scale(value, *e).is_some()) {
                Some(found) => exponent = found,
                None => failed += 1,
            }
            tried += 1;
            if failed * OUTLIER_SHARE > tried.max(SAMPLE) {
                return None;
            }
        }
    }
    Some(exponent)
}

/// Scales up to [`GROUP`] values by `power`; tells whether all came out exact.
#[inline(always)]
fn scale_group(values: &[f64], power: f64, integers: &mut [i64]) -> bool {
    let mut wrong = 0;
    for (value, integer) in values.iter().zip(integers) {
        let rounded = value * power + ROUNDER;
        let whole = rounded - ROUNDER;
        *integer = (rounded.to_bits() as i64).wrapping_sub(ROUNDER.to_bits() as i64);
        wrong |= (whole / power).to_bits() ^ value.to_bits();
        wrong |= u64::from(whole.abs() >= LARGEST_ROUNDED || whole.is_nan());
    }
    wrong == 0
}

/// The integer of one value, also of large ones.
#[inline(always)]
fn scale(value: f64, exponent: usize) -> Option<i64> {
    let power = POWERS[exponent];
    let scaled = value * power;
    if scaled.is_nan() || scaled.abs() >= if exponent == 0 { LARGEST_INTEGER } else { LARGEST_QUOTIENT } {
        return None;
    }
    let integer = if scaled.abs() < LARGEST_ROUNDED { (scaled + ROUNDER - ROUNDER) as i64 } else { scaled as i64 };
    ((integer as f64 / power).to_bits() == value.to_bits()).then_some(integer)
}

/// Gives exceptions the integer before them, which costs least in differences of order 1.
pub(super) fn fill_exceptions(integers: &mut [i64], exceptions: &[usize]) {
    let Some(_) = exceptions.first() else { return };
    let leading = exceptions.iter().enumerate().take_while(|(index, at)| index == *at).count();
    let first = integers.get(leading).copied().unwrap_or_default();
    integers[..leading].fill(first);
    for &at in &exceptions[leading..] {
        integers[at] = integers[at - 1];
    }
}

/// Appends the bits of the values with these indices.
pub(super) fn write_exceptions(values: &[f64], exceptions: &[usize], out: &mut Vec<u8>) {
    let runs: Vec<&[usize]> = exceptions.chunk_by(|a, b| a + 1 == *b && values[*a].to_bits() == values[*b].to_bits()).collect();
    put(runs.len() as u64, out);
    let mut next = 0;
    for run in runs {
        put((run[0] - next) as u64, out);
        let bits = values[run[0]].to_bits();
        let kind = SPECIALS.iter().position(|s| *s == bits).map_or(0, |at| at as u8 + 1);
        out.push(kind | if run.len() > 1 { RUN } else { 0 });
        if kind == 0 {
            out.extend(bits.to_le_bytes());
        }
        if run.len() > 1 {
            put(run.len() as u64 - 1, out);
        }
        next = run[0] + run.len();
    }
}

/// Puts exceptions into `out`, which is as long as the chunk.
pub(super) fn read_exceptions(reader: &mut Reader<'_>, out: &mut [f64]) -> Result<()> {
    let runs = reader.at_most(out.len(), "the number of exceptions")?;
    let mut rest = out;
    for _ in 0..runs {
        let gap = reader.at_most(rest.len(), "the distance to an exception")?;
        let kind = reader.byte()?;
        let bits = match kind & !RUN {
            0 => reader.fixed()?,
            special => *SPECIALS.get(usize::from(special) - 1).ok_or_else(|| corrupt(format!("exception {special} is not defined")))?,
        };
        let further = if kind & RUN != 0 { reader.at_most(rest.len(), "the length of a run")? } else { 0 };
        let run = rest[gap..].get_mut(..=further).ok_or_else(|| corrupt("an exception lies behind the last sample"))?;
        run.fill(f64::from_bits(bits));
        rest = &mut rest[gap + further + 1..];
    }
    Ok(())
}
