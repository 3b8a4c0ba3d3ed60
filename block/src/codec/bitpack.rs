//! Bit packing of 64 unsigned integers at a time: value `i` of a block takes bits `i × width` and on, least significant first.
//!
//! Sixty-four values of width `w` fill `8 × w` bytes exactly, so that every block starts at a byte. A shorter last block ends
//! with the byte that holds its last bit.

use super::cpu::dispatch;

/// Values of a full block.
pub(super) const BLOCK: usize = 64;

/// Bytes that an unpacker may look at behind a block.
const SLACK: usize = 8;

/// Bits that `value` needs.
#[inline(always)]
pub(super) fn width(value: u64) -> usize {
    (64 - value.leading_zeros()) as usize
}

/// Bytes of `count` values of `width` bits.
#[inline(always)]
pub(super) fn packed_len(count: usize, width: usize) -> usize {
    (count * width).div_ceil(8)
}

/// Appends at most 64 `values`, none wider than `width` bits.
pub(super) fn pack(values: &[u64], width: usize, out: &mut Vec<u8>) {
    debug_assert!(values.len() <= BLOCK && width <= 64);
    if width == 0 {
        return;
    }
    let mut words = [0u64; BLOCK];
    let (mut word, mut filled, mut index) = (0u64, 0, 0);
    for &value in values {
        word |= value << filled;
        filled += width;
        if filled >= 64 {
            words[index] = word;
            index += 1;
            filled -= 64;
            word = if filled == 0 { 0 } else { value >> (width - filled) };
        }
    }
    if filled > 0 {
        words[index] = word;
    }
    let size = packed_len(values.len(), width);
    let start = out.len();
    out.resize(start + size.next_multiple_of(8), 0);
    for (bytes, word) in out[start..].chunks_exact_mut(8).zip(&words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    out.truncate(start + size);
}

dispatch! {
    /// Unpacks the first `count` (at most 64) values of `width` (at most 64) bits at the front of `bytes`, which holds at least
    /// [`packed_len`] bytes; what stands in `values` behind `count` afterwards has no meaning.
    pub(super) fn unpack(bytes: &[u8], count: usize, width: usize, values: &mut [u64; BLOCK]) -> () = unpack_any
}

#[inline(always)]
fn unpack_any(bytes: &[u8], count: usize, width: usize, values: &mut [u64; BLOCK]) {
    let looked_at = BLOCK / 8 * width + SLACK;
    if bytes.len() >= looked_at {
        unpack_full(bytes, width, values);
    } else {
        let mut padded = [0u8; BLOCK * 8 + SLACK];
        let size = packed_len(count, width);
        padded[..size].copy_from_slice(&bytes[..size]);
        unpack_full(&padded, width, values);
    }
}

/// One arm for each width, so that shifts and offsets are constants.
#[inline(always)]
fn unpack_full(bytes: &[u8], width: usize, values: &mut [u64; BLOCK]) {
    macro_rules! arms {
        ($($narrow:literal),*; $($wide:literal),*) => {
            match width {
                $($narrow => unpack_narrow::<$narrow>(bytes, values),)*
                $($wide => unpack_wide::<$wide>(bytes, values),)*
                _ => values.fill(0),
            }
        };
    }
    arms!(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57; 58, 59, 60, 61, 62, 63, 64);
}

/// Widths up to 57: a value lies within the eight bytes from the byte of its first bit.
#[inline(always)]
fn unpack_narrow<const WIDTH: usize>(bytes: &[u8], values: &mut [u64; BLOCK]) {
    let mask = (1u64 << WIDTH) - 1;
    let bytes = &bytes[..8 * WIDTH + SLACK];
    for (group, eight) in values.chunks_exact_mut(8).enumerate() {
        let bytes = &bytes[group * WIDTH..group * WIDTH + WIDTH + SLACK];
        for (index, value) in eight.iter_mut().enumerate() {
            let bit = index * WIDTH;
            *value = (word(bytes, bit / 8) >> (bit % 8)) & mask;
        }
    }
}

/// Wider ones reach into a ninth byte.
#[inline(always)]
fn unpack_wide<const WIDTH: usize>(bytes: &[u8], values: &mut [u64; BLOCK]) {
    let mask = u64::MAX >> (64 - WIDTH);
    let bytes = &bytes[..8 * WIDTH + SLACK];
    for (index, value) in values.iter_mut().enumerate() {
        let bit = index * WIDTH;
        let high = u64::from(bytes[bit / 8 + 8]);
        *value = ((word(bytes, bit / 8) >> (bit % 8)) | (high << 1) << (63 - bit % 8)) & mask;
    }
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a range of eight"))
}
