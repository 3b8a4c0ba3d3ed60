//! Reads the bit streams of Prometheus's chunks. Source: `tsdb/docs/format/chunks.md` of Prometheus.

/// Why a stream cannot be read.
pub(super) type Wrong = &'static str;

const CUT_OFF: Wrong = "it is cut off";

/// Reads bits from the most significant one of the first byte on.
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    /// Next bit.
    at: usize,
}

/// A float that is written as what changed in its bits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Xor {
    pub value: f64,
    leading: u32,
    trailing: u32,
}

impl Xor {
    pub fn new(value: f64) -> Self {
        Self { value, leading: 0, trailing: 0 }
    }
}

impl<'a> BitReader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    #[inline]
    pub fn bit(&mut self) -> Result<bool, Wrong> {
        let byte = *self.bytes.get(self.at / 8).ok_or(CUT_OFF)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Ok(bit == 1)
    }

    /// The next `n` bits, at most 64.
    #[inline]
    pub fn bits(&mut self, n: u32) -> Result<u64, Wrong> {
        debug_assert!(n <= 64);
        if n == 0 {
            return Ok(0);
        }
        let (byte, shift) = (self.at / 8, (self.at % 8) as u32);
        let end = self.at + n as usize;
        if end > self.bytes.len() * 8 {
            return Err(CUT_OFF);
        }
        self.at = end;
        if shift + n <= 64
            && let Some(word) = self.bytes.get(byte..byte + 8)
        {
            let word = u64::from_be_bytes(word.try_into().expect("these are 8 bytes"));
            return Ok(word << shift >> (64 - n));
        }
        let word = (0..9).fold(0u128, |word, i| word << 8 | u128::from(self.bytes.get(byte + i).copied().unwrap_or(0)));
        Ok((word << (56 + shift) >> (128 - n)) as u64)
    }

    pub fn byte(&mut self) -> Result<u8, Wrong> {
        self.bits(8).map(|b| b as u8)
    }

    pub fn float(&mut self) -> Result<f64, Wrong> {
        self.bits(64).map(f64::from_bits)
    }

    /// LEB128 of Go's `encoding/binary`, not necessarily at the start of a byte.
    pub fn uvarint(&mut self) -> Result<u64, Wrong> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err("a number is longer than 64 bits")
    }

    pub fn varint(&mut self) -> Result<i64, Wrong> {
        self.uvarint().map(zigzag)
    }

    /// The number of leading ones, at most `max`, and the zero that ends them if there are fewer.
    #[inline]
    fn ones(&mut self, max: u32) -> Result<u32, Wrong> {
        for n in 0..max {
            if !self.bit()? {
                return Ok(n);
            }
        }
        Ok(max)
    }

    /// A signed number of `n` bits, whose greatest value is `1 << (n - 1)` and not one less.
    fn signed(&mut self, n: u32) -> Result<i64, Wrong> {
        let bits = self.bits(n)?;
        Ok(if n < 64 && bits > 1 << (n - 1) { bits.wrapping_sub(1 << n) as i64 } else { bits as i64 })
    }

    /// How the timestamps of float chunks are written: the change of the distance.
    #[inline]
    pub fn timestamp_change(&mut self) -> Result<i64, Wrong> {
        match self.ones(4)? {
            0 => Ok(0),
            n => self.signed([14, 17, 20, 64][n as usize - 1]),
        }
    }

    /// `varbit_int` of histogram chunks.
    pub fn varbit_int(&mut self) -> Result<i64, Wrong> {
        match self.ones(8)? {
            0 => Ok(0),
            n => self.signed(VARBIT_SIZES[n as usize - 1]),
        }
    }

    /// `varbit_uint` of histogram chunks.
    pub fn varbit_uint(&mut self) -> Result<u64, Wrong> {
        match self.ones(8)? {
            0 => Ok(0),
            n => self.bits(VARBIT_SIZES[n as usize - 1]),
        }
    }

    /// Brings a float to its next value.
    #[inline]
    pub fn xor(&mut self, of: &mut Xor) -> Result<(), Wrong> {
        if !self.bit()? {
            return Ok(());
        }
        if self.bit()? {
            of.leading = self.bits(5)? as u32;
            let significant = match self.bits(6)? as u32 {
                0 => 64,
                n => n,
            };
            of.trailing = 64u32.checked_sub(of.leading + significant).ok_or("a float has more than 64 bits")?;
        }
        let bits = self.bits(64 - of.leading - of.trailing)?;
        of.value = f64::from_bits(of.value.to_bits() ^ bits << of.trailing);
        Ok(())
    }
}

const VARBIT_SIZES: [u32; 8] = [3, 6, 9, 12, 18, 25, 56, 64];

pub(super) fn zigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packs a text of 0 and 1, blanks ignored.
    fn packed(text: &str) -> Vec<u8> {
        let bits: Vec<u8> = text.bytes().filter(|b| *b != b' ').map(|b| b - b'0').collect();
        bits.chunks(8).map(|c| c.iter().enumerate().fold(0, |byte, (i, bit)| byte | bit << (7 - i))).collect()
    }

    #[test]
    fn reads_numbers_of_all_widths() {
        // 0, the ends of the 3-bit range, the least that needs 6 bits.
        let bytes = packed("0 10100 10101 110100000 0 10 111");
        let mut r = BitReader::new(&bytes);
        let read: Vec<i64> = (0..5).map(|_| r.varbit_int().expect("reads")).collect();
        assert_eq!(read, [0, 4, -3, 32, 0]);
        assert_eq!(r.varbit_uint(), Ok(7));
        let all: Vec<u8> = (0..40).collect();
        for start in 0..16u32 {
            for n in 1..=64 {
                let mut r = BitReader::new(&all);
                r.bits(start).expect("reads");
                let slow = (0..n).fold(0u64, |v, i| {
                    let at = (start + i) as usize;
                    v << 1 | u64::from(all[at / 8] >> (7 - at % 8) & 1)
                });
                assert_eq!(r.bits(n), Ok(slow), "{n} bits at {start}");
            }
        }
        assert_eq!(BitReader::new(&[0xff; 3]).bits(25), Err(CUT_OFF));
        assert_eq!(BitReader::new(&[0xac, 0x02]).uvarint(), Ok(300));
        assert_eq!(BitReader::new(&[0x03]).varint(), Ok(-2));
        assert!(BitReader::new(&[0xff; 12]).uvarint().is_err());
    }

    #[test]
    fn floats_change_by_their_bits() {
        let change = 1.0f64.to_bits() ^ 2.0f64.to_bits();
        let (leading, trailing) = (change.leading_zeros(), change.trailing_zeros());
        let significant = 64 - leading - trailing;
        let text = format!(
            "0 11 {leading:05b} {significant:06b} {:0w$b} 10 {:0w$b}",
            change >> trailing,
            change >> trailing,
            w = significant as usize
        );
        let bytes = packed(&text);
        let (mut r, mut x) = (BitReader::new(&bytes), Xor::new(1.0));
        let read: Vec<f64> = (0..3).map(|_| r.xor(&mut x).map(|()| x.value).expect("reads")).collect();
        assert_eq!(read, [1.0, 2.0, 1.0]);
        assert!(BitReader::new(&packed("11 11111 111111")).xor(&mut Xor::new(1.0)).is_err());
    }
}
