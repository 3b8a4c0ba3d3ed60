//! OTLP in JSON becomes OTLP in protobuf, piece by piece, so that there is one reader of spans and a hostile body takes little memory.
//!
//! The JSON mapping of OTLP: ids in hexadecimal, 64-bit integers as strings or numbers, enumerations as numbers; names of enumeration
//! values are understood too. Fields that edges are not made of are passed over.

use std::fmt;
use std::marker::PhantomData;

use prost::encoding::{WireType, encode_key, encode_varint};
use serde::de::{DeserializeOwned, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Largest body in JSON.
pub(crate) const MAX_JSON_BYTES: usize = 16 << 20;

/// The request in protobuf.
///
/// # Errors
/// What is wrong, with line and column.
pub(crate) fn to_protobuf(body: &[u8]) -> Result<Vec<u8>, String> {
    if body.len() > MAX_JSON_BYTES {
        return Err(format!("a body in JSON may have {MAX_JSON_BYTES} bytes; send fewer spans at once, or protobuf"));
    }
    let request: Request = serde_json::from_slice(body).map_err(|e| format!("the body is no OTLP request in JSON: {e}"))?;
    Ok(request.resource_spans.0)
}

/// A message that is written field by field.
trait Part: DeserializeOwned {
    fn write(self, out: &mut Vec<u8>);
}

/// The elements of a list, written as fields of number `TAG` as they are read.
struct List<T, const TAG: u32>(Vec<u8>, PhantomData<T>);

impl<T, const TAG: u32> Default for List<T, TAG> {
    fn default() -> Self {
        Self(Vec::new(), PhantomData)
    }
}

impl<'de, T: Part, const TAG: u32> Deserialize<'de> for List<T, TAG> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T, const TAG: u32>(PhantomData<T>);
        impl<'de, T: Part, const TAG: u32> Visitor<'de> for Elements<T, TAG> {
            type Value = List<T, TAG>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(List::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut list = List::default();
                while let Some(element) = seq.next_element::<T>()? {
                    message(TAG, &mut list.0, |out| element.write(out));
                }
                Ok(list)
            }
        }
        deserializer.deserialize_any(Elements(PhantomData))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    #[serde(default)]
    resource_spans: List<ResourceSpans, 1>,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct ResourceSpans {
    resource: Option<Resource>,
    scope_spans: List<ScopeSpans, 2>,
}

impl Part for ResourceSpans {
    fn write(self, out: &mut Vec<u8>) {
        if let Some(resource) = self.resource {
            bytes(1, &resource.attributes.0, out);
        }
        out.extend(self.scope_spans.0);
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Resource {
    attributes: List<Attribute, 1>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ScopeSpans {
    spans: List<Span, 2>,
}

impl Part for ScopeSpans {
    fn write(self, out: &mut Vec<u8>) {
        out.extend(self.spans.0);
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Span {
    trace_id: Hex,
    span_id: Hex,
    trace_state: Option<String>,
    parent_span_id: Option<Hex>,
    kind: Enum,
    start_time_unix_nano: Integer,
    end_time_unix_nano: Integer,
    attributes: List<Attribute, 9>,
    links: List<Link, 13>,
    status: Option<Status>,
}

impl Part for Span {
    fn write(self, out: &mut Vec<u8>) {
        bytes(1, &self.trace_id.0, out);
        bytes(2, &self.span_id.0, out);
        bytes(3, self.trace_state.unwrap_or_default().as_bytes(), out);
        bytes(4, &self.parent_span_id.unwrap_or_default().0, out);
        varint(6, self.kind.0, out);
        fixed(7, self.start_time_unix_nano.0 as u64, out);
        fixed(8, self.end_time_unix_nano.0 as u64, out);
        out.extend(self.attributes.0);
        out.extend(self.links.0);
        if let Some(status) = self.status {
            message(15, out, |out| varint(3, status.code.0, out));
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Link {
    trace_id: Hex,
    span_id: Hex,
}

impl Part for Link {
    fn write(self, out: &mut Vec<u8>) {
        bytes(1, &self.trace_id.0, out);
        bytes(2, &self.span_id.0, out);
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: Enum,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Attribute {
    key: String,
    value: Option<Value>,
}

impl Part for Attribute {
    fn write(self, out: &mut Vec<u8>) {
        bytes(1, self.key.as_bytes(), out);
        if let Some(value) = self.value {
            message(2, out, |out| value.write(out));
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Value {
    string_value: Option<String>,
    bool_value: Option<bool>,
    int_value: Option<Integer>,
    double_value: Option<Number>,
    array_value: Option<Array>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Array {
    values: First,
}

impl Part for Value {
    fn write(self, out: &mut Vec<u8>) {
        if let Some(text) = self.string_value {
            bytes(1, text.as_bytes(), out);
        } else if let Some(bit) = self.bool_value {
            varint(2, u64::from(bit), out);
        } else if let Some(int) = self.int_value {
            varint(3, int.0 as u64, out);
        } else if let Some(number) = self.double_value {
            fixed(4, number.0.to_bits(), out);
        } else if let Some(first) = self.array_value.and_then(|a| a.values.0) {
            message(5, out, |out| message(1, out, |out| first.write(out)));
        }
    }
}

/// The first element of a list; the others are passed over.
#[derive(Default)]
struct First(Option<Box<Value>>);

impl<'de> Deserialize<'de> for First {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements;
        impl<'de> Visitor<'de> for Elements {
            type Value = First;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<First, A::Error> {
                let first = seq.next_element::<Box<Value>>()?;
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(First(first))
            }
        }
        deserializer.deserialize_seq(Elements)
    }
}

/// An id.
#[derive(Default)]
struct Hex(Vec<u8>);

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let refuse =
            || serde::de::Error::custom(format!("{:?} is no id; ids are in hexadecimal", text.chars().take(40).collect::<String>()));
        let digits = text.as_bytes().chunks(2);
        let byte = |pair: &[u8]| match pair {
            [high, low] => Some((char::from(*high).to_digit(16)? * 16 + char::from(*low).to_digit(16)?) as u8),
            _ => None,
        };
        digits.map(byte).collect::<Option<_>>().map(Self).ok_or_else(refuse)
    }
}

/// An integer, as a number or a string.
#[derive(Clone, Copy, Default)]
struct Integer(i128);

/// A number, as a number or a string.
#[derive(Clone, Copy, Default)]
struct Number(f64);

/// A value of an enumeration, by number or name.
#[derive(Clone, Copy, Default)]
struct Enum(u64);

/// Something that is a number or a string.
enum Scalar {
    Integer(i128),
    Double(f64),
    Text(String),
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a string")
            }

            fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar::Integer(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar::Integer(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar::Double(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar::Text(value.to_owned()))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Scalar::deserialize(deserializer)? {
            Scalar::Integer(value) => Ok(Self(value)),
            Scalar::Double(value) => Ok(Self(value as i128)),
            Scalar::Text(text) => text.parse().map(Self).map_err(serde::de::Error::custom),
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Scalar::deserialize(deserializer)? {
            Scalar::Integer(value) => Ok(Self(value as f64)),
            Scalar::Double(value) => Ok(Self(value)),
            Scalar::Text(text) => text.parse().map(Self).map_err(serde::de::Error::custom),
        }
    }
}

impl<'de> Deserialize<'de> for Enum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let named = |text: &str| match text {
            "SPAN_KIND_INTERNAL" | "STATUS_CODE_OK" => 1,
            "SPAN_KIND_SERVER" | "STATUS_CODE_ERROR" => 2,
            "SPAN_KIND_CLIENT" => 3,
            "SPAN_KIND_PRODUCER" => 4,
            "SPAN_KIND_CONSUMER" => 5,
            _ => 0,
        };
        Ok(Self(match Scalar::deserialize(deserializer)? {
            Scalar::Integer(value) => u64::try_from(value).unwrap_or(0),
            Scalar::Double(value) => value as u64,
            Scalar::Text(text) => named(&text),
        }))
    }
}

fn message(tag: u32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    write(&mut inner);
    bytes(tag, &inner, out);
}

fn bytes(tag: u32, content: &[u8], out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

fn varint(tag: u32, value: u64, out: &mut Vec<u8>) {
    encode_key(tag, WireType::Varint, out);
    encode_varint(value, out);
}

fn fixed(tag: u32, value: u64, out: &mut Vec<u8>) {
    encode_key(tag, WireType::SixtyFourBit, out);
    out.extend_from_slice(&value.to_le_bytes());
}
