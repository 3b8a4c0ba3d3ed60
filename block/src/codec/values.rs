//! Choosing the codec of a chunk's values; the codecs `Constant` and `Bits`, which need few words.
//!
//! Two others were measured and are left out (`examples/codec_table.rs`): `pco` saves at most 1 % on chunks of floats up to a day
//! long and costs seven times the decoding, XOR is larger on everything.

use super::integers::{self, Stream};
use super::varint::{Reader, corrupt};
use super::{MAX_CHUNK_SAMPLES, ValueCodec, decimal};
use crate::Result;

/// Below so many bytes per sample decimals are taken without a look at other codecs.
const GOOD_DECIMAL_BYTES: usize = 4;

/// Appends `values` to `out` in the smallest form that is quick to write and read.
///
/// # Panics
/// If there are more than [`MAX_CHUNK_SAMPLES`].
pub fn encode_values(values: &[f64], out: &mut Vec<u8>) -> ValueCodec {
    assert!(values.len() <= MAX_CHUNK_SAMPLES, "a chunk of {} samples", values.len());
    if encode_with(ValueCodec::Constant, values, out) {
        return ValueCodec::Constant;
    }
    let start = out.len();
    let decimal = encode_with(ValueCodec::Decimal, values, out);
    let middle = out.len();
    if decimal && middle - start < GOOD_DECIMAL_BYTES * values.len() {
        return ValueCodec::Decimal;
    }
    encode_with(ValueCodec::Bits, values, out);
    if !decimal {
        return ValueCodec::Bits;
    }
    if out.len() - middle < middle - start {
        out.drain(start..middle);
        return ValueCodec::Bits;
    }
    out.truncate(middle);
    ValueCodec::Decimal
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
        ValueCodec::Decimal => decimal::encode(values, out),
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
        ValueCodec::Bits => {
            let stream = Stream::read(&mut reader)?;
            integers::decode_bits(&stream, &mut reader, out)?;
        }
    }
    reader.end()
}

/// Maps bit patterns of floats to integers in the order of the floats, and back.
#[inline(always)]
pub(super) fn ordered(bits: i64) -> i64 {
    bits ^ ((bits >> 63) as u64 >> 1) as i64
}
