//! A stream of 64-bit integers: a common factor taken out, differences of order 0, 1 or 2, a base subtracted, the rest
//! bit-packed in blocks of 64 or listed where it is seldom other than zero. All arithmetic wraps, so any integers are kept.
//!
//! ```text
//! byte 0   bits 0-5 tag (the caller's), bits 6-7 order of differences
//! byte 1   bits 0-1 layout, bits 2-7 scale
//! scale    0-47: factor 2^scale · 48-60: factor 10^(scale-47) · 61: varint factor · 62: varint factor, varint rest
//!          integer = factor × reduced + rest; rest is 0 unless given
//! order 1  signed first reduced integer
//! order 2  signed first, signed first difference
//! base     signed, absent in layout `Local`; what follows is difference - base, one each from number `order` on
//! Packed   per block: byte width (bit 7: patched), packed bits, if patched: byte n, n positions, n signed true deviations
//! Local    per block: byte width, signed base, packed bits
//! Sparse   varint n, then n × (varint zeros between it and the one before, signed deviation)
//! Uniform  byte width, packed bits of all blocks
//! ```
//!
//! Frame of reference with patched exceptions follows Zukowski et al., "Super-Scalar RAM-CPU Cache Compression" (2006).

mod decode;
mod encode;

pub(super) use decode::{Stream, decode_bits, decode_decimal, decode_i64};
pub(super) use encode::encode;

/// Largest tag that a caller can put in front of a stream.
pub(super) const MAX_TAG: u8 = 63;

const SCALE_LAST_SHIFT: u8 = 47;
const SCALE_LAST_TEN: u8 = 60;
const SCALE_FACTOR: u8 = 61;
const SCALE_FACTOR_REST: u8 = 62;

/// How the deviations from the base are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Layout {
    Packed = 0,
    Local = 1,
    Sparse = 2,
    Uniform = 3,
}

const PATCHED: u8 = 0x80;
