//! Choosing the codec of a chunk's values; the codecs `Constant` and `Bits`, which need few words.
//!
//! Two others were measured and are left out (`examples/codec_table.rs`): `pco` saves at most 1 % on chunks of floats up to a day
//! long and costs seven times the decoding, XOR is larger on everything.

use super::decimal::{self, Suits};
use super::integers::{self, Stream};
use super::varint::{Reader, corrupt};
use super::{MAX_CHUNK_SAMPLES, ValueCodec, near};
use crate::Result;

/// Below so many bytes per sample decimals are taken without a look at other codecs.
const GOOD_DECIMAL_BYTES: usize = 3;
/// The same of near decimals; floats that are neither take five to seven.
const GOOD_NEAR_BYTES: usize = 5;
/// Another codec than decimals must save one byte in so many.
const OTHER_WORTH: usize = 32;

/// Appends `values` to `out` in the smallest form that is quick to write and read.
///
/// # Panics
/// If there are more than [`MAX_CHUNK_SAMPLES`].
pub fn encode_values(values: &[f64], out: &mut Vec<u8>) -> ValueCodec {
    assert!(values.len() <= MAX_CHUNK_SAMPLES, "a chunk of {} samples", values.len());
    if values.is_empty() || encode_with(ValueCodec::Constant, values, out) {
        return ValueCodec::Constant;
    }
    let count = values.len();
    let mut suits = Suits::No;
    let mut smallest = Smallest { start: out.len(), codec: None, out };
    smallest.offer(ValueCodec::Decimal, |out| {
        suits = decimal::encode(values, decimal::USUAL_EXPONENT, out);
        suits != Suits::No
    });
    if suits == Suits::Well && smallest.below(GOOD_DECIMAL_BYTES * count) {
        return ValueCodec::Decimal;
    }
    smallest.offer(ValueCodec::Near, |out| near::encode(values, out));
    if !smallest.below(GOOD_NEAR_BYTES * count) {
        if suits == Suits::No {
            smallest.offer(ValueCodec::Decimal, |out| encode_with(ValueCodec::Decimal, values, out));
        }
        smallest.offer(ValueCodec::Bits, |out| encode_with(ValueCodec::Bits, values, out));
    }
    smallest.codec.expect("codec Bits suits any values")
}

/// Keeps the smallest of what is appended behind `start`.
struct Smallest<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    codec: Option<ValueCodec>,
}

impl Smallest<'_> {
    fn below(&self, size: usize) -> bool {
        self.codec.is_some() && self.out.len() - self.start < size
    }

    /// Later offers must be smaller by a share: those first tried are quicker to decode, or as quick.
    fn offer(&mut self, codec: ValueCodec, append: impl FnOnce(&mut Vec<u8>) -> bool) {
        let middle = self.out.len();
        if !append(self.out) {
            return;
        }
        let (before, after) = (middle - self.start, self.out.len() - middle);
        if self.codec.is_none() || after + after / OTHER_WORTH < before {
            self.out.drain(self.start..middle);
            self.codec = Some(codec);
        } else {
            self.out.truncate(middle);
        }
    }
}

/// Appends `values` to `out` with that codec. Returns false, and appends nothing, if the codec does not suit the values;
/// [`ValueCodec::Bits`] suits any, if
/// there are any, and [`ValueCodec::Constant`] suits none at all.
///
/// # Panics
/// If there are more than [`MAX_CHUNK_SAMPLES`].
pub fn encode_values_with(codec: ValueCodec, values: &[f64], out: &mut Vec<u8>) -> bool {
    assert!(values.len() <= MAX_CHUNK_SAMPLES, "a chunk of {} samples", values.len());
    encode_with(codec, values, out)
}

fn encode_with(codec: ValueCodec, values: &[f64], out: &mut Vec<u8>) -> bool {
    let Some(first) = values.first().map(|v| v.to_bits()) else { return codec == ValueCodec::Constant };
    match codec {
        ValueCodec::Constant => {
            let constant = values.iter().all(|v| v.to_bits() == first);
            if constant {
                // Most constants are small integers, whose last bytes are zero.
                out.extend(&first.to_be_bytes()[..8 - first.trailing_zeros() as usize / 8]);
            }
            constant
        }
        ValueCodec::Decimal => decimal::encode(values, decimal::LARGEST_EXPONENT, out) != Suits::No,
        ValueCodec::Near => near::encode(values, out),
        ValueCodec::Bits => {
            let mut integers: Vec<i64> = values.iter().map(|v| ordered(v.to_bits() as i64)).collect();
            integers::encode(0, &mut integers, out);
            true
        }
    }
}

/// Appends exactly `count` values to `out`. After an error what was appended has no meaning.
///
/// # Errors
/// [`crate::Error::Corrupt`] if no encoder wrote these bytes for so many values.
pub fn decode_values(codec: ValueCodec, bytes: &[u8], count: usize, out: &mut Vec<f64>) -> Result<()> {
    if count > MAX_CHUNK_SAMPLES {
        return Err(corrupt(format!("{count} samples are more than a chunk can have")));
    }
    let start = out.len();
    if codec == ValueCodec::Constant {
        let mut first = [0; 8];
        first.get_mut(..bytes.len()).ok_or_else(|| corrupt("a constant has more than eight bytes"))?.copy_from_slice(bytes);
        out.resize(start + count, f64::from_bits(u64::from_be_bytes(first)));
        return Ok(());
    }
    out.resize(start + count, 0.0);
    let out = &mut out[start..];
    let mut reader = Reader::new(bytes);
    match codec {
        ValueCodec::Constant => {}
        ValueCodec::Decimal => decimal::decode(&mut reader, out)?,
        ValueCodec::Near => near::decode(&mut reader, out)?,
        ValueCodec::Bits => {
            let stream = Stream::read(&mut reader)?;
            integers::decode_bits(&stream, &mut reader, out)?;
        }
    }
    reader.end()
}

/// Maps bit patterns of floats to integers in the order of the floats, and back. A negative float becomes the negative of its
/// magnitude's pattern, which leaves zero bits at the end alone; −0 becomes the one integer that is left over.
#[inline(always)]
pub(super) fn ordered(bits: i64) -> i64 {
    if bits < 0 && bits != i64::MIN { i64::MIN.wrapping_sub(bits) } else { bits }
}
