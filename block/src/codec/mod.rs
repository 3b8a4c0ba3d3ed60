//! The chunk codec: values, timestamps and native histograms of one series and window as bytes, lossless bit for bit.
//!
//! Bytes that no encoder wrote give an error or some values, never a panic and never much memory. They are not told from
//! damaged ones here: the files that hold chunks carry checksums. `FORMAT.md` describes the bytes, and so does each file here.

mod bitpack;
mod cpu;
mod decimal;
mod histograms;
mod integers;
mod near;
#[cfg(test)]
mod tests;
mod timestamps;
mod values;
mod varint;

pub use histograms::{decode_histograms, encode_histograms};
pub use timestamps::{decode_timestamps, encode_timestamps};
pub use values::{decode_values, encode_values, encode_values_with};

use crate::{Error, Result};

/// More samples than this in one chunk are refused, so that a corrupt count cannot ask for much memory.
pub const MAX_CHUNK_SAMPLES: usize = 1 << 24;

/// How the values of a chunk are encoded; the number stands in the chunk's codec column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ValueCodec {
    /// All values have the same bits, which are the chunk, big endian and without the zero bytes at the end.
    Constant = 0,
    /// Integers over a power of ten, with exceptions: counters, and gauges that were decimal numbers.
    Decimal = 1,
    /// The bits of floats as integers in the order of the floats: what was computed and is no short decimal number.
    Bits = 2,
    /// Integers over a power of ten, and how far off it rounding has put each value: sums of durations, products with 0.001.
    Near = 3,
}

impl ValueCodec {
    /// Every codec.
    pub const ALL: [Self; 4] = [Self::Constant, Self::Decimal, Self::Bits, Self::Near];

    /// The codec with that number.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if there is none.
    pub fn from_u8(number: u8) -> Result<Self> {
        Self::ALL
            .get(usize::from(number))
            .copied()
            .ok_or_else(|| Error::corrupt("chunk", format!("value codec {number} is not one of 0 to {}", Self::ALL.len() - 1)))
    }
}
