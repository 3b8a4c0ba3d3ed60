//! The chunk codec (first sketch: signatures are final, bodies are being written).

use crate::{Error, Histogram, Result};

/// More samples than this in one chunk are refused, so that a corrupt count cannot ask for much memory.
pub const MAX_CHUNK_SAMPLES: usize = 1 << 24;

/// How the values of a chunk are encoded; the number stands in the chunk's codec column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ValueCodec {
    /// All values have the same bits.
    Constant = 0,
    /// Integers over a power of ten.
    Decimal = 1,
    /// Bit patterns as integers.
    Bits = 2,
    /// `pco` format.
    Pco = 3,
}

impl ValueCodec {
    /// The codec with that number.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if there is none.
    pub fn from_u8(number: u8) -> Result<Self> {
        Ok(match number {
            0 => Self::Constant,
            1 => Self::Decimal,
            2 => Self::Bits,
            3 => Self::Pco,
            _ => return Err(Error::corrupt("value chunk", format!("codec {number} is not one of 0 to 3"))),
        })
    }
}

/// Appends `values` to `out`.
pub fn encode_values(values: &[f64], out: &mut Vec<u8>) -> ValueCodec {
    out.extend(values.iter().flat_map(|v| v.to_bits().to_le_bytes()));
    ValueCodec::Bits
}

/// Appends exactly `count` values to `out`.
///
/// # Errors
/// [`Error::Corrupt`].
pub fn decode_values(_codec: ValueCodec, bytes: &[u8], count: usize, out: &mut Vec<f64>) -> Result<()> {
    out.extend(bytes.chunks_exact(8).take(count).map(|c| f64::from_bits(u64::from_le_bytes(c.try_into().expect("8 bytes")))));
    Ok(())
}

/// Appends timestamps, Unix milliseconds, strictly ascending.
pub fn encode_timestamps(millis: &[i64], out: &mut Vec<u8>) {
    out.extend(millis.iter().flat_map(|v| v.to_le_bytes()));
}

/// Appends exactly `count` timestamps to `out`.
///
/// # Errors
/// [`Error::Corrupt`].
pub fn decode_timestamps(bytes: &[u8], count: usize, out: &mut Vec<i64>) -> Result<()> {
    out.extend(bytes.chunks_exact(8).take(count).map(|c| i64::from_le_bytes(c.try_into().expect("8 bytes"))));
    Ok(())
}

/// Appends native histograms, sums included.
pub fn encode_histograms(_histograms: &[&Histogram], _out: &mut Vec<u8>) {}

/// Appends exactly `count` histograms to `out`.
///
/// # Errors
/// [`Error::Corrupt`].
pub fn decode_histograms(_bytes: &[u8], _count: usize, _out: &mut Vec<Histogram>) -> Result<()> {
    Ok(())
}
