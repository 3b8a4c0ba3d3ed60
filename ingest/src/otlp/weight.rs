//! How much memory an OTLP request takes when `prost` decodes it, bounded from its bytes before it does so: an empty data
//! point is 2 bytes on the wire and hundreds in memory.

use crate::wire::Budget;
use crate::wire::DecodeError;
use crate::wire::proto::{Reader, VARINT_PACKED_FACTOR};

/// What a message costs, and those of its fields that are messages or packed numbers. All other length-delimited fields
/// are strings.
struct Shape {
    size_bytes: usize,
    fields: &'static [(u64, Part)],
}

enum Part {
    Message(&'static Shape),
    Packed,
}

use Part::{Message, Packed};

/// Memory of a string or byte vector without its content.
const STRING_BYTES: usize = 32;
/// Deepest nesting that `prost` reads.
const MAX_DEPTH: usize = 100;

static REQUEST: Shape = Shape { size_bytes: 32, fields: &[(1, Message(&RESOURCE_METRICS))] };
static RESOURCE_METRICS: Shape = Shape { size_bytes: 256, fields: &[(1, Message(&RESOURCE)), (2, Message(&SCOPE_METRICS))] };
static RESOURCE: Shape = Shape { size_bytes: 96, fields: &[(1, Message(&KEY_VALUE)), (3, Message(&ENTITY))] };
static ENTITY: Shape = Shape { size_bytes: 128, fields: &[] };
static SCOPE_METRICS: Shape = Shape { size_bytes: 256, fields: &[(1, Message(&SCOPE)), (2, Message(&METRIC))] };
static SCOPE: Shape = Shape { size_bytes: 128, fields: &[(3, Message(&KEY_VALUE))] };
static METRIC: Shape = Shape {
    size_bytes: 256,
    fields: &[
        (5, Message(&NUMBERS)),
        (7, Message(&NUMBERS)),
        (9, Message(&HISTOGRAMS)),
        (10, Message(&EXPONENTIALS)),
        (11, Message(&SUMMARIES)),
        (12, Message(&KEY_VALUE)),
    ],
};
static NUMBERS: Shape = Shape { size_bytes: 64, fields: &[(1, Message(&NUMBER))] };
static NUMBER: Shape = Shape { size_bytes: 192, fields: &[(5, Message(&EXEMPLAR)), (7, Message(&KEY_VALUE))] };
static HISTOGRAMS: Shape = Shape { size_bytes: 64, fields: &[(1, Message(&HISTOGRAM))] };
static HISTOGRAM: Shape = Shape { size_bytes: 320, fields: &[(6, Packed), (7, Packed), (8, Message(&EXEMPLAR)), (9, Message(&KEY_VALUE))] };
static EXPONENTIALS: Shape = Shape { size_bytes: 64, fields: &[(1, Message(&EXPONENTIAL))] };
static EXPONENTIAL: Shape = Shape {
    size_bytes: 384,
    fields: &[(1, Message(&KEY_VALUE)), (8, Message(&BUCKETS)), (9, Message(&BUCKETS)), (11, Message(&EXEMPLAR))],
};
static BUCKETS: Shape = Shape { size_bytes: 64, fields: &[(2, Packed)] };
static SUMMARIES: Shape = Shape { size_bytes: 64, fields: &[(1, Message(&SUMMARY))] };
static SUMMARY: Shape = Shape { size_bytes: 192, fields: &[(6, Message(&QUANTILE)), (7, Message(&KEY_VALUE))] };
static QUANTILE: Shape = Shape { size_bytes: 32, fields: &[] };
static EXEMPLAR: Shape = Shape { size_bytes: 192, fields: &[(7, Message(&KEY_VALUE))] };
static KEY_VALUE: Shape = Shape { size_bytes: 128, fields: &[(2, Message(&ANY_VALUE))] };
static ANY_VALUE: Shape = Shape { size_bytes: 64, fields: &[(5, Message(&ARRAY)), (6, Message(&KEY_VALUES))] };
static ARRAY: Shape = Shape { size_bytes: 32, fields: &[(1, Message(&ANY_VALUE))] };
static KEY_VALUES: Shape = Shape { size_bytes: 32, fields: &[(1, Message(&KEY_VALUE))] };

/// Checks that an `ExportMetricsServiceRequest` takes `max_decoded_bytes` at most when decoded.
///
/// # Errors
/// [`DecodeError::TooLarge`] if it takes more, [`DecodeError::Protobuf`] if it is not protobuf.
pub fn check(body: &[u8], max_decoded_bytes: usize) -> Result<(), DecodeError> {
    let mut budget = Budget::new(max_decoded_bytes);
    weigh(Reader::new(body, super::MESSAGE), &REQUEST, MAX_DEPTH, &mut budget)
}

fn weigh(mut r: Reader<'_>, shape: &Shape, depth: usize, budget: &mut Budget) -> Result<(), DecodeError> {
    // A vector grows by doubling, so that an element can take its size twice.
    budget.spend(2 * shape.size_bytes)?;
    while let Some(tag) = r.tag()? {
        if tag & 7 != 2 {
            // Repeated numbers that are not packed take 8 bytes each and have 2 at least.
            budget.spend(16)?;
            r.skip(tag, 0)?;
            continue;
        }
        match shape.fields.iter().find(|(number, _)| *number == tag >> 3) {
            Some((_, Message(inner))) if depth > 0 => weigh(r.message()?, inner, depth - 1, budget)?,
            Some((_, Message(_))) => return Err(r.error("messages are nested too deeply")),
            Some((_, Packed)) => budget.spend(r.bytes()?.len() * VARINT_PACKED_FACTOR)?,
            None => budget.spend(2 * STRING_BYTES + r.bytes()?.len())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_empty_messages_are_refused() {
        // Gauges of a metric whose data points are empty: 2 bytes each.
        let wrap = |field: u8, inner: &[u8]| {
            let mut out = vec![field << 3 | 2];
            let mut len = inner.len();
            while len >= 0x80 {
                out.push(len as u8 | 0x80);
                len >>= 7;
            }
            out.push(len as u8);
            out.extend_from_slice(inner);
            out
        };
        let body = |points: usize| wrap(1, &wrap(2, &wrap(2, &wrap(5, &[0x0a, 0].repeat(points)))));
        assert_eq!(check(&body(1000), 1 << 20), Ok(()));
        assert!(matches!(check(&body(10_000), 1 << 20), Err(DecodeError::TooLarge { .. })));
        let mut deep = wrap(1, &[]);
        for _ in 0..200 {
            deep = wrap(5, &wrap(1, &deep));
        }
        let resource = wrap(1, &wrap(1, &wrap(1, &wrap(2, &deep))));
        assert!(check(&resource, 1 << 20).expect_err("too deep").to_string().contains("nested"));
        assert!(check(&[0x0a, 5, 1], 1 << 20).is_err());
    }
}
