//! Reads `tombstones`: what was deleted from a block and is still in its chunks. Source: `tsdb/docs/format/tombstones.md`.

use hashbrown::HashMap;

use super::file::{File, take_uvarint, take_varint};
use crate::Result;

const MAGIC: u32 = 0x0130_ba30;
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 5;

/// Deleted times by number of the series; both ends of a span of milliseconds are deleted.
pub(super) type Deleted = HashMap<u64, Vec<(i64, i64)>>;

/// Reads the file.
pub(super) async fn read(file: &File) -> Result<Deleted> {
    let bytes = file.read(0..file.size()).await?;
    let Some((header, rest)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Err(file.wrong(0, "cut off: it has no header"));
    };
    if header[..4] != MAGIC.to_be_bytes() {
        return Err(file.wrong(0, "this is no file of tombstones"));
    }
    if header[4] != VERSION {
        return Err(file.wrong(4, format!("version {} is not known; {VERSION} is read", header[4])));
    }
    let mut content = file.checked(HEADER_BYTES as u64, rest)?;
    let mut deleted = Deleted::new();
    while !content.is_empty() {
        let at = (bytes.len() - 4 - content.len()) as u64;
        let mut next = || Some((take_uvarint(&mut content)?, take_varint(&mut content)?, take_varint(&mut content)?));
        let (series, min_ms, max_ms) = next().ok_or_else(|| file.wrong(at, "a tombstone is cut off"))?;
        deleted.entry(series).or_default().push((min_ms, max_ms));
    }
    Ok(deleted)
}
