//! Reading a stream of integers straight into what the caller wants of them.

use super::super::bitpack::{BLOCK, packed_len, unpack};
use super::super::cpu::dispatch;
use super::super::varint::{Reader, corrupt};
use super::{Layout, MAX_TAG, PATCHED, SCALE_FACTOR, SCALE_FACTOR_REST, SCALE_LAST_SHIFT, SCALE_LAST_TEN};
use crate::Result;

/// A stream whose header has been read.
#[derive(Clone, Copy)]
pub(in super::super) struct Stream {
    /// The caller's number.
    pub(in super::super) tag: u8,
    order: usize,
    layout: Layout,
    factor: i64,
    rest: i64,
    first: i64,
    difference: i64,
    base: i64,
}

impl Stream {
    /// Reads the header of a stream.
    pub(in super::super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let (byte0, byte1) = (reader.byte()?, reader.byte()?);
        let order = usize::from(byte0 >> 6);
        let layout = [Layout::Packed, Layout::Local, Layout::Sparse, Layout::Uniform][usize::from(byte1 & 3)];
        let (factor, rest) = match byte1 >> 2 {
            shift @ 0..=SCALE_LAST_SHIFT => (1 << shift, 0),
            ten @ ..=SCALE_LAST_TEN => (10i64.pow(u32::from(ten - SCALE_LAST_SHIFT)), 0),
            SCALE_FACTOR => (reader.varint()? as i64, 0),
            SCALE_FACTOR_REST => (reader.varint()? as i64, reader.varint()? as i64),
            _ => return Err(corrupt("scale 63 is not defined")),
        };
        if order > 2 {
            return Err(corrupt("differences of order 3 are not defined"));
        }
        let first = if order > 0 { reader.signed()? } else { 0 };
        let difference = if order > 1 { reader.signed()? } else { 0 };
        let base = if layout == Layout::Local { 0 } else { reader.signed()? };
        Ok(Self { tag: byte0 & MAX_TAG, order, layout, factor, rest, first, difference, base })
    }

    #[inline(always)]
    fn scale(&self, reduced: i64) -> i64 {
        reduced.wrapping_mul(self.factor).wrapping_add(self.rest)
    }

    /// Fills `out`, to whose length the stream was written.
    #[inline(always)]
    fn fill<T: Copy>(&self, reader: &mut Reader<'_>, out: &mut [T], convert: impl Fn(i64) -> T) -> Result<()> {
        let mut sum = self.first;
        let mut difference = self.difference;
        let (head, tail) = out.split_at_mut(self.order.min(out.len()));
        if let Some(first) = head.first_mut() {
            *first = convert(self.scale(sum));
        }
        if let Some(second) = head.get_mut(1) {
            sum = sum.wrapping_add(difference);
            *second = convert(self.scale(sum));
        }
        let scaled = self.factor != 1 || self.rest != 0;
        let mut blocks = Blocks::start(self, reader, tail.len())?;
        let mut values = [0u64; BLOCK];
        for chunk in tail.chunks_mut(BLOCK) {
            let block = blocks.next(reader, chunk.len(), &mut values)?;
            if block.zero && (self.order == 0 || self.order == 1 && block.base == 0) {
                let value = if self.order == 0 { block.base } else { sum };
                chunk.fill(convert(self.scale(value)));
                continue;
            }
            match self.order {
                0 => values.iter_mut().for_each(|v| *v = v.wrapping_add(block.base as u64)),
                1 => values.iter_mut().for_each(|v| {
                    sum = sum.wrapping_add(block.base).wrapping_add(*v as i64);
                    *v = sum as u64;
                }),
                _ => values.iter_mut().for_each(|v| {
                    difference = difference.wrapping_add(block.base).wrapping_add(*v as i64);
                    sum = sum.wrapping_add(difference);
                    *v = sum as u64;
                }),
            }
            if scaled {
                values.iter_mut().for_each(|v| *v = self.scale(*v as i64) as u64);
            }
            if let Ok(full) = <&mut [T; BLOCK]>::try_from(&mut *chunk) {
                full.iter_mut().zip(&values).for_each(|(to, v)| *to = convert(*v as i64));
            } else {
                chunk.iter_mut().zip(&values).for_each(|(to, v)| *to = convert(*v as i64));
            }
        }
        Ok(())
    }
}

/// Where in the deviations the reader stands.
struct Blocks {
    layout: Layout,
    base: i64,
    /// Layout `Uniform` only.
    width: usize,
    /// Layout `Sparse` only: entries not read yet, the position of the one at hand counted from the next block's start, and it.
    entries: usize,
    position: usize,
    deviation: i64,
}

/// What is true of a whole block.
struct Block {
    base: i64,
    /// Every deviation is zero.
    zero: bool,
}

impl Blocks {
    #[inline(always)]
    fn start(stream: &Stream, reader: &mut Reader<'_>, count: usize) -> Result<Self> {
        let mut blocks = Self { layout: stream.layout, base: stream.base, width: 0, entries: 0, position: usize::MAX, deviation: 0 };
        match stream.layout {
            Layout::Uniform => blocks.width = reader.byte()?.into(),
            Layout::Sparse => {
                blocks.entries = reader.at_most(count, "the number of listed values")?;
                blocks.entry(reader, 0)?;
            }
            Layout::Packed | Layout::Local => {}
        }
        if blocks.width > 64 {
            return Err(corrupt(format!("a block has values of {} bits", blocks.width)));
        }
        Ok(blocks)
    }

    /// Reads the next entry of layout `Sparse`, which stands at `from` or behind it.
    fn entry(&mut self, reader: &mut Reader<'_>, from: usize) -> Result<()> {
        if self.entries == 0 {
            self.position = usize::MAX;
            return Ok(());
        }
        self.entries -= 1;
        self.position = from + reader.at_most(super::super::MAX_CHUNK_SAMPLES, "a gap")?;
        self.deviation = reader.signed()?;
        Ok(())
    }

    /// Reads the next block of `count` deviations.
    #[inline(always)]
    fn next(&mut self, reader: &mut Reader<'_>, count: usize, values: &mut [u64; BLOCK]) -> Result<Block> {
        let mut block = Block { base: self.base, zero: false };
        match self.layout {
            Layout::Sparse => {
                block.zero = self.position >= count;
                values.fill(0);
                while self.position < count {
                    values[self.position] = self.deviation as u64;
                    self.entry(reader, self.position + 1)?;
                }
                self.position = self.position.wrapping_sub(count);
            }
            Layout::Uniform => {
                block.zero = self.width == 0;
                unpack_from(reader, count, self.width, values)?;
            }
            Layout::Local => {
                let width = reader.byte()?.into();
                block.base = reader.signed()?;
                block.zero = width == 0;
                unpack_from(reader, count, width, values)?;
            }
            Layout::Packed => {
                let byte = reader.byte()?;
                let width = usize::from(byte & !PATCHED);
                block.zero = byte == 0;
                unpack_from(reader, count, width, values)?;
                if byte & PATCHED != 0 {
                    let patches = reader.byte()?;
                    for &position in reader.bytes(patches.into())? {
                        let value = values.get_mut(usize::from(position)).ok_or_else(|| corrupt("a patch lies outside of its block"))?;
                        *value = reader.signed()? as u64;
                    }
                }
            }
        }
        Ok(block)
    }
}

#[inline(always)]
fn unpack_from(reader: &mut Reader<'_>, count: usize, width: usize, values: &mut [u64; BLOCK]) -> Result<()> {
    if width > 64 {
        return Err(corrupt(format!("a block has values of {width} bits")));
    }
    let rest = reader.rest();
    reader.bytes(packed_len(count, width))?;
    unpack(rest, count, width, values);
    Ok(())
}

/// The nearest float, also for integers above 2^53; unlike a cast it compiles to a few vector instructions without AVX-512.
#[inline(always)]
fn to_f64(value: i64) -> f64 {
    const LOW: u64 = 0x4330_0000_0000_0000; // 2^52: its last 32 bits count ones
    const HIGH: u64 = 0x4530_0000_8000_0000; // 2^84 + 2^63: its last 32 bits count 2^32, offset by 2^31
    const BOTH: f64 = f64::from_bits(0x4530_0000_8010_0000); // 2^84 + 2^63 + 2^52
    let low = f64::from_bits(LOW | (value as u64 & 0xffff_ffff));
    let high = f64::from_bits(HIGH ^ (value as u64 >> 32));
    (high - BOTH) + low
}

#[inline(always)]
fn fill_i64(stream: &Stream, reader: &mut Reader<'_>, out: &mut [i64]) -> Result<()> {
    stream.fill(reader, out, |v| v)
}

#[inline(always)]
fn fill_bits(stream: &Stream, reader: &mut Reader<'_>, out: &mut [f64]) -> Result<()> {
    stream.fill(reader, out, |v| f64::from_bits(super::super::values::ordered(v) as u64))
}

#[inline(always)]
fn fill_decimal(stream: &Stream, reader: &mut Reader<'_>, divisor: f64, out: &mut [f64]) -> Result<()> {
    if divisor == 1.0 { stream.fill(reader, out, to_f64) } else { stream.fill(reader, out, |v| to_f64(v) / divisor) }
}

dispatch! {
    /// Fills `out` with the integers.
    pub(in super::super) fn decode_i64(stream: &Stream, reader: &mut Reader<'_>, out: &mut [i64]) -> Result<()> = fill_i64
}
dispatch! {
    /// Fills `out` with the floats whose order-preserving bit patterns the integers are.
    pub(in super::super) fn decode_bits(stream: &Stream, reader: &mut Reader<'_>, out: &mut [f64]) -> Result<()> = fill_bits
}
dispatch! {
    /// Fills `out` with the integers divided by `divisor`.
    pub(in super::super) fn decode_decimal(stream: &Stream, reader: &mut Reader<'_>, divisor: f64, out: &mut [f64]) -> Result<()>
        = fill_decimal
}
