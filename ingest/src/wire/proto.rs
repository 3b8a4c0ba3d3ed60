//! A reader of protobuf fields that borrows from the body. It knows the wire format only, no message.

use super::DecodeError;

/// Reads the fields of one message. Positions are those in the body that the message is part of.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    /// The body up to the end of the message.
    body: &'a [u8],
    position: usize,
    message: &'static str,
}

/// Wire types of protobuf that are still in use.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// A packed varint has 1 byte at least and takes 8 in memory; the vector that it is in may have twice its length.
pub(crate) const VARINT_PACKED_FACTOR: usize = 16;

/// The tag of a varint field.
pub(crate) const fn varint(field: u64) -> u64 {
    field << 3 | VARINT
}

/// The tag of a field of 8 bytes.
pub(crate) const fn fixed64(field: u64) -> u64 {
    field << 3 | FIXED64
}

/// The tag of a length-delimited field.
pub(crate) const fn bytes(field: u64) -> u64 {
    field << 3 | BYTES
}

/// A set of field numbers below 64, for [`Reader::skip`].
pub(crate) const fn fields(numbers: &[u64]) -> u64 {
    let mut set = 0;
    let mut i = 0;
    while i < numbers.len() {
        set |= 1 << numbers[i];
        i += 1;
    }
    set
}

impl<'a> Reader<'a> {
    pub(crate) fn new(body: &'a [u8], message: &'static str) -> Self {
        Self { body, position: 0, message }
    }

    /// Where the next field begins.
    #[inline]
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    #[cold]
    pub(crate) fn error(&self, reason: impl Into<String>) -> DecodeError {
        DecodeError::Protobuf { message: self.message, reason: format!("{} at byte {}", reason.into(), self.position) }
    }

    /// The tag of the next field, or `None` at the end of the message.
    #[inline]
    pub(crate) fn tag(&mut self) -> Result<Option<u64>, DecodeError> {
        if self.position == self.body.len() {
            return Ok(None);
        }
        self.varint().map(Some)
    }

    /// Takes the next byte if it is `byte`.
    #[inline]
    pub(crate) fn next_is(&mut self, byte: u8) -> bool {
        let is = self.body.get(self.position) == Some(&byte);
        self.position += usize::from(is);
        is
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, DecodeError> {
        match self.body.get(self.position) {
            Some(&byte) if byte < 0x80 => {
                self.position += 1;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for (i, &byte) in self.body[self.position..].iter().take(10).enumerate() {
            if i == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                self.position += i + 1;
                return Ok(value);
            }
        }
        Err(self.error("a varint is cut off or too long"))
    }

    #[inline]
    pub(crate) fn fixed64(&mut self) -> Result<u64, DecodeError> {
        match self.body[self.position..].first_chunk::<8>() {
            Some(chunk) => {
                self.position += 8;
                Ok(u64::from_le_bytes(*chunk))
            }
            None => Err(self.error("a field of 8 bytes is cut off")),
        }
    }

    #[inline]
    pub(crate) fn double(&mut self) -> Result<f64, DecodeError> {
        self.fixed64().map(f64::from_bits)
    }

    /// The bytes of a length-delimited field.
    #[inline]
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.varint()?;
        let rest = &self.body[self.position..];
        if len > rest.len() as u64 {
            return Err(self.error(format!("a field of {len} bytes is cut off")));
        }
        self.position += len as usize;
        Ok(&rest[..len as usize])
    }

    /// A length-delimited field as a message whose positions are those of the same body.
    #[inline]
    pub(crate) fn message(&mut self) -> Result<Reader<'a>, DecodeError> {
        let len = self.bytes()?.len();
        Ok(Reader { body: &self.body[..self.position], position: self.position - len, message: self.message })
    }

    /// Passes over a field that the caller does not know.
    ///
    /// `known` holds the numbers of the fields that the caller knows; one of them with another wire type is an error.
    pub(crate) fn skip(&mut self, tag: u64, known: u64) -> Result<(), DecodeError> {
        let number = tag >> 3;
        if number == 0 || number >= 1 << 29 {
            return Err(self.error(format!("field number {number} is not allowed")));
        }
        if number < 64 && known & (1 << number) != 0 {
            return Err(self.error(format!("field {number} has wire type {}", tag & 7)));
        }
        match tag & 7 {
            VARINT => self.varint().map(drop),
            FIXED64 => self.fixed64().map(drop),
            BYTES => self.bytes().map(drop),
            FIXED32 if self.body.len() - self.position >= 4 => {
                self.position += 4;
                Ok(())
            }
            other => Err(self.error(format!("field {number} has wire type {other}, or is cut off"))),
        }
    }

    /// Whether the message has been read to its end.
    #[inline]
    pub(crate) fn is_at_end(&self) -> bool {
        self.position == self.body.len()
    }
}

/// A `sint64` or `sint32` from its zigzag form.
#[inline]
pub(crate) fn zigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_varints_and_refuses_long_ones() {
        let mut r = Reader::new(&[0x05, 0xac, 0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], "test");
        assert_eq!((r.varint(), r.varint(), r.varint()), (Ok(5), Ok(300), Ok(u64::MAX)));
        assert!(r.is_at_end());
        for bad in [&[0x80][..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], &[0x80; 12]] {
            assert!(Reader::new(bad, "test").varint().is_err(), "{bad:?}");
        }
        assert_eq!((zigzag(0), zigzag(1), zigzag(2), zigzag(u64::MAX)), (0, -1, 1, i64::MIN));
    }

    #[test]
    fn skips_what_is_unknown_and_refuses_wrong_types() {
        // Field 9 of each wire type; then a group, field 0, a length beyond the end, a known field of the wrong type.
        for good in [&[0x48, 0x96, 0x01][..], &[0x49, 0, 0, 0, 0, 0, 0, 0, 0], &[0x4a, 2, 1, 1], &[0x4d, 0, 0, 0, 0]] {
            let mut r = Reader::new(good, "test");
            let tag = r.tag().expect("tag").expect("a field");
            assert_eq!(r.skip(tag, fields(&[1])), Ok(()));
            assert!(r.is_at_end());
        }
        for bad in [&[0x4b][..], &[0x02, 0], &[0x4a, 3, 1], &[0x08, 1], &[0x4d, 0]] {
            let mut r = Reader::new(bad, "test");
            let tag = r.tag().expect("tag").expect("a field");
            assert!(r.skip(tag, fields(&[1])).is_err(), "{bad:?}");
        }
    }
}
