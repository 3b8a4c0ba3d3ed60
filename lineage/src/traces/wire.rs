//! The messages of OTLP traces, read in place: nothing is copied and nothing is allocated, however hostile the body.
//!
//! Field numbers are those of `opentelemetry/proto/trace/v1/trace.proto`. Only what edges are made of is looked at.

use smallvec::SmallVec;

use super::attributes::{ResourceAttributes, SpanAttributes};

/// Links of a span that are followed; further ones are left out.
pub(crate) const MAX_LINKS: usize = 32;

/// Kinds of spans that are looked at.
pub(crate) const KIND_SERVER: u64 = 2;
pub(crate) const KIND_CLIENT: u64 = 3;
pub(crate) const KIND_PRODUCER: u64 = 4;
pub(crate) const KIND_CONSUMER: u64 = 5;

/// `STATUS_CODE_ERROR`.
const STATUS_ERROR: u64 = 2;

/// The body is not the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

type Result<T> = std::result::Result<T, Malformed>;

/// The value of a field as it is on the wire.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

/// The fields of a message, with their numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(Malformed)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8]> {
        let len = usize::try_from(len).map_err(|_| Malformed)?;
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u64, Field<'a>)> {
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| Malformed)?)),
            2 => {
                let len = self.varint()?;
                Field::Bytes(self.take(len)?)
            }
            5 => {
                self.take(4)?;
                Field::Fixed32
            }
            _ => return Err(Malformed),
        };
        Ok((key >> 3, field))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Field<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// A span, as far as edges are made of it.
#[derive(Debug, Default)]
pub(crate) struct Span<'a> {
    pub trace_id: u128,
    pub span_id: u64,
    /// 0 for none.
    pub parent_id: u64,
    pub trace_state: &'a str,
    pub kind: u64,
    pub start_ns: u64,
    pub end_ns: u64,
    pub failed: bool,
    pub attributes: SpanAttributes<'a>,
    pub links: SmallVec<[(u128, u64); 2]>,
}

impl<'a> Span<'a> {
    /// Reads a span.
    pub fn read(bytes: &'a [u8]) -> Result<Self> {
        let mut span = Self::default();
        for field in Fields(bytes) {
            match field? {
                (1, Field::Bytes(id)) => span.trace_id = trace_id(id),
                (2, Field::Bytes(id)) => span.span_id = span_id(id),
                (3, Field::Bytes(text)) => span.trace_state = std::str::from_utf8(text).unwrap_or_default(),
                (4, Field::Bytes(id)) => span.parent_id = span_id(id),
                (6, Field::Varint(kind)) => span.kind = kind,
                (7, Field::Fixed64(ns)) => span.start_ns = ns,
                (8, Field::Fixed64(ns)) => span.end_ns = ns,
                (9, Field::Bytes(attribute)) => span.attributes.read(attribute)?,
                (13, Field::Bytes(link)) if span.links.len() < MAX_LINKS => span.links.extend(read_link(link)?),
                (15, Field::Bytes(status)) => span.failed = read_status(status)?,
                _ => {}
            }
        }
        Ok(span)
    }

    /// How long it took.
    pub fn duration_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }
}

/// Calls `visit` with every span's bytes of a request, by resource: with the attributes of the resource and an iterator over spans.
///
/// # Errors
/// [`Malformed`] if the request is not the message; what stands before the broken place was visited.
pub(crate) fn visit_resources<'a>(
    request: &'a [u8],
    mut visit: impl FnMut(&ResourceAttributes<'a>, Spans<'a>) -> Result<()>,
) -> Result<()> {
    for field in Fields(request) {
        let (1, Field::Bytes(resource_spans)) = field? else { continue };
        let mut resource = ResourceAttributes::default();
        for field in Fields(resource_spans) {
            let (1, Field::Bytes(message)) = field? else { continue };
            for field in Fields(message) {
                if let (1, Field::Bytes(attribute)) = field? {
                    resource.read(attribute)?;
                }
            }
        }
        visit(&resource, Spans { scopes: Fields(resource_spans), spans: Fields(&[]) })?;
    }
    Ok(())
}

/// The spans of one resource.
#[derive(Clone, Debug)]
pub(crate) struct Spans<'a> {
    scopes: Fields<'a>,
    spans: Fields<'a>,
}

impl<'a> Iterator for Spans<'a> {
    type Item = Result<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.spans.next() {
                Some(Ok((2, Field::Bytes(span)))) => return Some(Ok(span)),
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Some(Err(error)),
                None => {}
            }
            match self.scopes.next()? {
                Ok((2, Field::Bytes(scope))) => self.spans = Fields(scope),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// An attribute's value, of the types that names and numbers have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Text(&'a str),
    Int(i64),
    Double(f64),
    Bool(bool),
    /// Something else.
    Other,
}

/// Key and value of an attribute. Text that is not UTF-8 is no text.
pub(crate) fn read_attribute(bytes: &[u8]) -> Result<(&[u8], Value<'_>)> {
    let (mut key, mut value): (&[u8], _) = (&[], Value::Other);
    for field in Fields(bytes) {
        match field? {
            (1, Field::Bytes(bytes)) => key = bytes,
            (2, Field::Bytes(bytes)) => value = read_value(bytes)?,
            _ => {}
        }
    }
    Ok((key, value))
}

/// A value; of a list its first element, as in the bootstrap servers of Kafka clients.
fn read_value(bytes: &[u8]) -> Result<Value<'_>> {
    let mut value = Value::Other;
    for field in Fields(bytes) {
        value = match field? {
            (1, Field::Bytes(text)) => std::str::from_utf8(text).map_or(Value::Other, Value::Text),
            (2, Field::Varint(bit)) => Value::Bool(bit != 0),
            (3, Field::Varint(int)) => Value::Int(int as i64),
            (4, Field::Fixed64(bits)) => Value::Double(f64::from_bits(bits)),
            (5, Field::Bytes(list)) => match Fields(list).next().transpose()? {
                Some((1, Field::Bytes(first))) => match Fields(first).next().transpose()? {
                    Some((1, Field::Bytes(text))) => std::str::from_utf8(text).map_or(Value::Other, Value::Text),
                    _ => Value::Other,
                },
                _ => Value::Other,
            },
            _ => Value::Other,
        };
    }
    Ok(value)
}

fn read_link(bytes: &[u8]) -> Result<Option<(u128, u64)>> {
    let (mut trace, mut span) = (0, 0);
    for field in Fields(bytes) {
        match field? {
            (1, Field::Bytes(id)) => trace = trace_id(id),
            (2, Field::Bytes(id)) => span = span_id(id),
            _ => {}
        }
    }
    Ok((trace != 0 && span != 0).then_some((trace, span)))
}

fn read_status(bytes: &[u8]) -> Result<bool> {
    let mut failed = false;
    for field in Fields(bytes) {
        if let (3, Field::Varint(code)) = field? {
            failed = code == STATUS_ERROR;
        }
    }
    Ok(failed)
}

/// 0 if it is none.
fn trace_id(bytes: &[u8]) -> u128 {
    bytes.try_into().map_or(0, u128::from_be_bytes)
}

/// 0 if it is none.
fn span_id(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Span::read(&bytes);
            let _ = visit_resources(&bytes, |_, mut spans| spans.try_for_each(|span| Span::read(span?).map(drop)));
        }
    }

    #[test]
    fn what_ends_too_early_is_malformed() {
        for bytes in [&[0x0a][..], &[0x0a, 5, 1], &[0x80], &[0x09, 1, 2], &[0x0b], &[0xff; 11]] {
            assert!(Fields(bytes).any(|f| f.is_err()), "{bytes:?}");
        }
    }
}
