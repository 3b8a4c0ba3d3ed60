//! Records of the write-ahead log: the frame with its checksum, and what is inside.
//!
//! A frame is `payload length u32, crc32 u32, type u8, payload`; numbers are little-endian, the checksum covers type and
//! payload. Series are numbered per tenant and epoch; a [`Kind::Series`] record that says which number means which labels may
//! come after the first use within its epoch only if the two were written at the same time.

use std::sync::Arc;

use isobar_block::codec::{decode_histograms, encode_histograms};
use isobar_block::metadata::{Metadata, MetricType};
use isobar_block::{Exemplar, Histogram, Labels, LabelsRef, TenantId};

mod samples;

pub use samples::{SampleRun, SampleWriter, read_run, scan_samples};

/// Bytes of a frame before its payload.
pub const FRAME_HEADER_BYTES: usize = 9;
/// Payloads are not longer, so that a damaged length cannot ask for much memory.
pub const MAX_PAYLOAD_BYTES: usize = 256 << 20;

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Starts a batch: its own offset in the segment. Where a later one is, everything before it was durable.
    Batch = 1,
    /// Series numbers and their labels.
    Series = 2,
    /// Float samples.
    Samples = 3,
    /// Native histograms.
    Histograms = 4,
    /// Exemplars.
    Exemplars = 5,
    /// Metadata of metric names.
    Metadata = 6,
}

impl Kind {
    /// The kind with that number.
    pub fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Batch,
            2 => Self::Series,
            3 => Self::Samples,
            4 => Self::Histograms,
            5 => Self::Exemplars,
            6 => Self::Metadata,
            _ => return None,
        })
    }
}

/// Appends a frame around what `fill` appends. Leaves `out` as it was if `fill` appends nothing.
pub fn push_frame(out: &mut Vec<u8>, kind: Kind, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    fill(out);
    let payload_bytes = out.len() - start - FRAME_HEADER_BYTES;
    if payload_bytes == 0 {
        out.truncate(start);
        return;
    }
    assert!(payload_bytes <= MAX_PAYLOAD_BYTES, "requests are limited to less than a record may hold");
    out[start + 8] = kind as u8;
    let crc = crc32fast::hash(&out[start + 8..]);
    out[start..start + 4].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// Appends the marker with which every batch starts.
pub fn push_batch_marker(out: &mut Vec<u8>, offset: u64) {
    push_frame(out, Kind::Batch, |out| out.extend_from_slice(&offset.to_le_bytes()));
}

/// Bytes of the frame of a batch marker.
pub const BATCH_MARKER_BYTES: usize = FRAME_HEADER_BYTES + 8;

/// A frame that was read and whose checksum holds.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// What it holds.
    pub kind: Kind,
    /// Its bytes.
    pub payload: &'a [u8],
}

/// Why bytes are not a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum FrameFault {
    /// The bytes end within it; they have to be this many at least.
    Incomplete(usize),
    /// The checksum, the length or the type is wrong.
    Bad(&'static str),
}

/// The frame at the start of `bytes` and its whole length.
pub fn parse_frame(bytes: &[u8]) -> Result<(Frame<'_>, usize), FrameFault> {
    let Some(header) = bytes.first_chunk::<FRAME_HEADER_BYTES>() else {
        return Err(FrameFault::Incomplete(FRAME_HEADER_BYTES));
    };
    let payload_bytes = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let crc = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    if payload_bytes == 0 || payload_bytes > MAX_PAYLOAD_BYTES {
        return Err(FrameFault::Bad("the length of a record cannot be"));
    }
    let Some(kind) = Kind::from_u8(header[8]) else {
        return Err(FrameFault::Bad("the type of a record is not known"));
    };
    let whole = FRAME_HEADER_BYTES + payload_bytes;
    let Some(checked) = bytes.get(8..whole) else {
        return Err(FrameFault::Incomplete(whole));
    };
    if crc32fast::hash(checked) != crc {
        return Err(FrameFault::Bad("the checksum of a record is wrong"));
    }
    Ok((Frame { kind, payload: &checked[1..] }, whole))
}

/// Why a payload with a right checksum cannot be read: it was written by another version, or a defect wrote it.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// Reads numbers and bytes from a payload.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    #[inline]
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed("a record is cut off"))?;
        self.0 = rest;
        Ok(*first)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed("a number is too long"))
    }

    #[inline]
    fn zigzag(&mut self) -> Result<i64, Malformed> {
        let n = self.varint()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(len).map_err(|_| Malformed("a length is too big"))?;
        if len > self.0.len() {
            return Err(Malformed("a record is cut off"));
        }
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        Ok(taken)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let len = self.varint()?;
        self.take(len)
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed("a text is not UTF-8"))
    }
}

#[inline]
fn push_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

#[inline]
fn push_zigzag(out: &mut Vec<u8>, n: i64) {
    push_varint(out, ((n << 1) ^ (n >> 63)) as u64);
}

fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    push_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Series definitions of one request, being collected.
#[derive(Debug, Default)]
pub struct SeriesWriter(Vec<u8>);

impl SeriesWriter {
    /// Adds one definition.
    pub fn push(&mut self, series: u32, labels: LabelsRef<'_>) {
        push_varint(&mut self.0, u64::from(series));
        push_bytes(&mut self.0, labels.as_bytes());
    }

    /// Appends the record, if it has any content, and empties the collection.
    pub fn finish(&mut self, tenant: &TenantId, out: &mut Vec<u8>) {
        finish_entries(&mut self.0, Kind::Series, tenant, out);
    }
}

fn finish_entries(entries: &mut Vec<u8>, kind: Kind, tenant: &TenantId, out: &mut Vec<u8>) {
    if !entries.is_empty() {
        push_frame(out, kind, |out| {
            push_bytes(out, tenant.as_str().as_bytes());
            out.extend_from_slice(entries);
        });
        entries.clear();
    }
}

/// The tenant of a record of any kind but [`Kind::Batch`], and the rest of its payload, which the `read_` functions take.
pub fn read_tenant(payload: &[u8]) -> Result<(&str, &[u8]), Malformed> {
    let mut reader = Reader(payload);
    let tenant = reader.text()?;
    Ok((tenant, reader.0))
}

/// Calls `each` with the number and the labels of every definition.
pub fn read_series<'a>(entries: &'a [u8], mut each: impl FnMut(u32, LabelsRef<'a>)) -> Result<(), Malformed> {
    let mut reader = Reader(entries);
    while !reader.0.is_empty() {
        let series = u32::try_from(reader.varint()?).map_err(|_| Malformed("a series number is too big"))?;
        let labels = LabelsRef::from_bytes(reader.bytes()?).map_err(|_| Malformed("labels are not in canonical form"))?;
        each(series, labels);
    }
    Ok(())
}

/// Appends a record of native histograms, if there are any.
pub fn push_histograms(out: &mut Vec<u8>, tenant: &TenantId, entries: &[(u32, i64, Arc<Histogram>)]) {
    if entries.is_empty() {
        return;
    }
    push_frame(out, Kind::Histograms, |out| {
        push_bytes(out, tenant.as_str().as_bytes());
        push_varint(out, entries.len() as u64);
        for (series, timestamp_ms, _) in entries {
            push_varint(out, u64::from(*series));
            push_zigzag(out, *timestamp_ms);
        }
        let histograms: Vec<&Histogram> = entries.iter().map(|e| &*e.2).collect();
        encode_histograms(&histograms, out);
    });
}

/// Calls `each` with every histogram.
pub fn read_histograms(entries: &[u8], mut each: impl FnMut(u32, i64, Histogram)) -> Result<(), Malformed> {
    let mut reader = Reader(entries);
    let count = reader.varint()?;
    let mut keys = Vec::new();
    for _ in 0..count {
        let series = u32::try_from(reader.varint()?).map_err(|_| Malformed("a series number is too big"))?;
        keys.push((series, reader.zigzag()?));
    }
    let mut histograms = Vec::new();
    decode_histograms(reader.0, keys.len(), &mut histograms).map_err(|_| Malformed("histograms cannot be decoded"))?;
    for ((series, timestamp_ms), histogram) in keys.into_iter().zip(histograms) {
        each(series, timestamp_ms, histogram);
    }
    Ok(())
}

/// Exemplars of one request, being collected.
#[derive(Debug, Default)]
pub struct ExemplarWriter(Vec<u8>);

impl ExemplarWriter {
    /// Adds one exemplar.
    pub fn push(&mut self, series: u32, exemplar: &Exemplar) {
        push_varint(&mut self.0, u64::from(series));
        push_zigzag(&mut self.0, exemplar.timestamp_ms);
        self.0.extend_from_slice(&exemplar.value.to_bits().to_le_bytes());
        push_bytes(&mut self.0, exemplar.labels.as_bytes());
    }

    /// Appends the record, if it has any content, and empties the collection.
    pub fn finish(&mut self, tenant: &TenantId, out: &mut Vec<u8>) {
        finish_entries(&mut self.0, Kind::Exemplars, tenant, out);
    }
}

/// Calls `each` with every exemplar.
pub fn read_exemplars(entries: &[u8], mut each: impl FnMut(u32, Exemplar)) -> Result<(), Malformed> {
    let mut reader = Reader(entries);
    while !reader.0.is_empty() {
        let series = u32::try_from(reader.varint()?).map_err(|_| Malformed("a series number is too big"))?;
        let timestamp_ms = reader.zigzag()?;
        let bits = reader.take(8)?.first_chunk().map(|b| u64::from_le_bytes(*b)).ok_or(Malformed("an exemplar is cut off"))?;
        let labels = Labels::from_bytes(reader.bytes()?).map_err(|_| Malformed("labels are not in canonical form"))?;
        each(series, Exemplar { labels, value: f64::from_bits(bits), timestamp_ms });
    }
    Ok(())
}

/// Metadata of one request, being collected.
#[derive(Debug, Default)]
pub struct MetadataWriter(Vec<u8>);

impl MetadataWriter {
    /// Adds the metadata of one metric name.
    pub fn push(&mut self, name: &str, metadata: &Metadata) {
        push_bytes(&mut self.0, name.as_bytes());
        self.0.push(metadata.metric_type as u8);
        push_bytes(&mut self.0, metadata.help.as_bytes());
        push_bytes(&mut self.0, metadata.unit.as_bytes());
    }

    /// Appends the record, if it has any content, and empties the collection.
    pub fn finish(&mut self, tenant: &TenantId, out: &mut Vec<u8>) {
        finish_entries(&mut self.0, Kind::Metadata, tenant, out);
    }
}

/// Calls `each` with every metric name and its metadata.
pub fn read_metadata<'a>(entries: &'a [u8], mut each: impl FnMut(&'a str, Metadata)) -> Result<(), Malformed> {
    let mut reader = Reader(entries);
    while !reader.0.is_empty() {
        let name = reader.text()?;
        let metric_type = MetricType::from_number(i32::from(reader.byte()?));
        let (help, unit) = (reader.text()?.to_owned(), reader.text()?.to_owned());
        each(name, Metadata { metric_type, help, unit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_or_flipped_bytes_are_noticed() {
        let mut out = Vec::new();
        let mut writer = SeriesWriter::default();
        writer.push(3, Labels::from_pairs([("__name__", "up")]).expect("valid").as_ref());
        writer.finish(&TenantId::default(), &mut out);
        for len in 0..out.len() {
            assert!(matches!(parse_frame(&out[..len]), Err(FrameFault::Incomplete(_))), "{len}");
        }
        for at in 0..out.len() {
            let mut flipped = out.clone();
            flipped[at] ^= 0x10;
            assert!(parse_frame(&flipped).is_err(), "{at}");
        }
    }

    #[test]
    fn other_records_come_back() {
        let tenant = TenantId::new("a-b").expect("valid");
        let exemplar =
            Exemplar { labels: Labels::from_pairs([("trace_id", "x")]).expect("valid"), value: f64::from_bits(7), timestamp_ms: -5 };
        let metadata = Metadata { metric_type: MetricType::Counter, help: "h".into(), unit: String::new() };
        let mut out = Vec::new();
        let mut exemplars = ExemplarWriter::default();
        exemplars.push(9, &exemplar);
        exemplars.finish(&tenant, &mut out);
        let mut families = MetadataWriter::default();
        families.push("up", &metadata);
        families.finish(&tenant, &mut out);
        let (frame, first) = parse_frame(&out).expect("a frame");
        let mut seen = 0;
        let (name, entries) = read_tenant(frame.payload).expect("reads");
        assert_eq!(name, "a-b");
        read_exemplars(entries, |s, e| {
            assert_eq!((s, e), (9, exemplar.clone()));
            seen += 1;
        })
        .expect("reads");
        let (frame, _) = parse_frame(&out[first..]).expect("a frame");
        read_metadata(read_tenant(frame.payload).expect("reads").1, |n, m| {
            assert_eq!((n, m), ("up", metadata.clone()));
            seen += 1;
        })
        .expect("reads");
        assert_eq!(seen, 2);
    }
}
