//! One file of a block of Prometheus, in a folder or a bucket, of which parts are read.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::crc32c::crc32c;
use crate::{Error, Result};

/// Parts that are this near to each other are read as one.
const GAP_BYTES: u64 = 4 << 10;
/// Parts that are read as one are not longer than this, or than the longest of them.
const MAX_READ_BYTES: u64 = 8 << 20;

/// A file and its size.
#[derive(Clone, Debug)]
pub(super) struct File {
    store: Arc<dyn ObjectStore>,
    path: Path,
    /// How people call it.
    name: String,
    size: u64,
}

impl File {
    pub fn new(store: Arc<dyn ObjectStore>, path: Path, name: String, size: u64) -> Self {
        Self { store, path, name, size }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// That something at byte `at` is wrong.
    pub fn wrong(&self, at: u64, reason: impl std::fmt::Display) -> Error {
        Error::File { path: format!("{}: byte {at}", self.name), reason: reason.to_string() }
    }

    /// Reads a part, all of it.
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        self.check(&range)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let bytes = self.store.get_range(&self.path, range.clone()).await.map_err(isobar_block::Error::from)?;
        self.complete(&range, bytes)
    }

    /// Reads parts that begin at `starts` (ascending) and are `guess` bytes long or reach to the file's end.
    pub async fn read_at(&self, starts: &[u64], guess: u64) -> Result<Parts> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for start in starts {
            let range = *start..start.saturating_add(guess).min(self.size).max(*start);
            self.check(&range)?;
            match ranges.last_mut() {
                Some(last) if *start <= last.end + GAP_BYTES && range.end - last.start <= MAX_READ_BYTES.max(guess) => {
                    last.end = last.end.max(range.end);
                }
                _ => ranges.push(range),
            }
        }
        let parts = self.store.get_ranges(&self.path, &ranges).await.map_err(isobar_block::Error::from)?;
        let parts = ranges.iter().zip(parts).map(|(range, bytes)| Ok((range.start, self.complete(range, bytes)?)));
        Ok(Parts(parts.collect::<Result<_>>()?))
    }

    fn check(&self, range: &Range<u64>) -> Result<()> {
        if range.end > self.size {
            return Err(self.wrong(range.start, format!("cut off: the file has {} bytes, at least {} were expected", self.size, range.end)));
        }
        Ok(())
    }

    fn complete(&self, range: &Range<u64>, bytes: Bytes) -> Result<Bytes> {
        if bytes.len() as u64 != range.end - range.start {
            return Err(self.wrong(range.start, format!("cut off: {} bytes were read of {range:?}", bytes.len())));
        }
        Ok(bytes)
    }

    /// Splits `content` and the four bytes of its checksum, and compares them. `at` is where `bytes` begin.
    pub fn checked<'a>(&self, at: u64, bytes: &'a [u8]) -> Result<&'a [u8]> {
        let (content, sum) = bytes.split_last_chunk::<4>().ok_or_else(|| self.wrong(at, "cut off: there is no checksum"))?;
        if crc32c(content) != u32::from_be_bytes(*sum) {
            return Err(self.wrong(at, format!("the checksum of {} bytes does not fit", content.len())));
        }
        Ok(content)
    }
}

/// Parts of a file that were read, ascending.
pub(super) struct Parts(Vec<(u64, Bytes)>);

impl Parts {
    /// What was read from `start` on; empty if nothing was.
    pub fn from(&self, start: u64) -> &[u8] {
        let next = self.0.partition_point(|(s, _)| *s <= start);
        let Some((part_start, part)) = next.checked_sub(1).map(|i| &self.0[i]) else { return &[] };
        part.get((start - part_start) as usize..).unwrap_or(&[])
    }
}

/// Takes a LEB128 number from the front; `None` if it is cut off or longer than 64 bits.
pub(super) fn take_uvarint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (i, byte) in rest.iter().enumerate().take(10) {
        if i == 9 && *byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * i);
        if *byte < 0x80 {
            *rest = &rest[i + 1..];
            return Some(value);
        }
    }
    None
}

/// As [`take_uvarint`], of a number with sign.
pub(super) fn take_varint(rest: &mut &[u8]) -> Option<i64> {
    take_uvarint(rest).map(super::bits::zigzag)
}
