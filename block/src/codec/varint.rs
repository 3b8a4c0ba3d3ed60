//! Variable-length integers and a reader of bytes that may be corrupt.
//!
//! Seven bits a byte, least significant first, the top bit set in every byte but the last (LEB128). Signed integers are
//! zigzag-mapped first. What the bytes mean is left to the callers.

use crate::{Error, Result};

/// The error that every part of the codec gives for bytes that no encoder writes.
#[cold]
pub(super) fn corrupt(reason: impl Into<String>) -> Error {
    Error::corrupt("chunk", reason)
}

/// Maps signed to unsigned so that small magnitudes stay small.
#[inline(always)]
pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Undoes [`zigzag`].
#[inline(always)]
pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Bytes that [`put`] takes for `value`.
#[inline(always)]
pub(super) fn len(value: u64) -> usize {
    ((63 - (value | 1).leading_zeros()) / 7 + 1) as usize
}

/// Bytes that [`put_signed`] takes for `value`.
#[inline(always)]
pub(super) fn len_signed(value: i64) -> usize {
    len(zigzag(value))
}

/// Appends an unsigned integer.
pub(super) fn put(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed integer.
pub(super) fn put_signed(value: i64, out: &mut Vec<u8>) {
    put(zigzag(value), out);
}

/// Reads from the front of a slice; refuses to read past its end.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Starts at the first of `bytes`.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What is not read yet.
    #[inline(always)]
    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// One byte.
    #[inline(always)]
    pub(super) fn byte(&mut self) -> Result<u8> {
        let (&first, rest) = self.0.split_first().ok_or_else(short)?;
        self.0 = rest;
        Ok(first)
    }

    /// The next `size` bytes.
    #[inline(always)]
    pub(super) fn bytes(&mut self, size: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(size).ok_or_else(short)?;
        self.0 = rest;
        Ok(bytes)
    }

    /// Eight bytes, little endian.
    pub(super) fn fixed(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes(8)?.try_into().expect("eight bytes were taken")))
    }

    /// An unsigned integer.
    #[inline(always)]
    pub(super) fn varint(&mut self) -> Result<u64> {
        match self.0 {
            [first, rest @ ..] if *first < 0x80 => {
                self.0 = rest;
                Ok(u64::from(*first))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for (index, &byte) in self.0.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                if index == 9 && byte > 1 {
                    return Err(corrupt("a variable-length integer exceeds 64 bits"));
                }
                self.0 = &self.0[index + 1..];
                return Ok(value);
            }
        }
        Err(if self.0.len() < 10 { short() } else { corrupt("a variable-length integer exceeds 64 bits") })
    }

    /// A signed integer.
    #[inline(always)]
    pub(super) fn signed(&mut self) -> Result<i64> {
        self.varint().map(unzigzag)
    }

    /// An unsigned integer that must not exceed `limit`.
    pub(super) fn at_most(&mut self, limit: usize, what: &str) -> Result<usize> {
        let value = self.varint()?;
        usize::try_from(value).ok().filter(|v| *v <= limit).ok_or_else(|| corrupt(format!("{what} is {value}, at most {limit} can be")))
    }

    /// Checks that nothing is left.
    pub(super) fn end(&self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(corrupt(format!("{} bytes follow its end", self.0.len()))) }
    }
}

#[cold]
fn short() -> Error {
    corrupt("it ends too early")
}
