//! Reads chunks from the files in `chunks`. Source: `tsdb/docs/format/chunks.md` of Prometheus.

use super::chunk;
use super::file::{File, take_uvarint};
use super::index::ChunkRef;
use crate::Result;
use crate::transfer::Gathered;

const MAGIC: u32 = 0x85bd_40dd;
const VERSION: u8 = 1;
/// Chunks that are read together are read with so much after the start of each: most end there.
const GUESS_BYTES: u64 = 1 << 10;
/// Length, encoding and checksum around the data of a chunk.
const AROUND_BYTES: u64 = 10 + 1 + 4;
/// The longest chunk that is read.
const MAX_CHUNK_BYTES: u64 = 64 << 20;

/// The files of chunks of one block, in order.
pub(super) struct Segments(Vec<File>);

impl Segments {
    /// Checks the head of each file.
    pub async fn open(files: Vec<File>) -> Result<Self> {
        for file in &files {
            let header = file.read(0..8).await?;
            if header[..4] != MAGIC.to_be_bytes() {
                return Err(file.wrong(0, "this is no file of chunks"));
            }
            if header[4] != VERSION {
                return Err(file.wrong(4, format!("version {} is not known; {VERSION} is read", header[4])));
            }
        }
        Ok(Self(files))
    }

    /// Size of all files.
    pub fn size(&self) -> u64 {
        self.0.iter().map(File::size).sum()
    }

    /// Reads chunks of several series; `refs` says for each which ones.
    pub async fn read(&self, refs: &[Vec<ChunkRef>], index: &File) -> Result<Vec<Gathered>> {
        let mut by_place: Vec<(u32, u32, usize)> =
            refs.iter().enumerate().flat_map(|(row, refs)| refs.iter().map(move |c| (c.segment, c.offset, row))).collect();
        by_place.sort_unstable();
        let mut out: Vec<Gathered> = refs.iter().map(|_| Gathered::default()).collect();
        for chunks in by_place.chunk_by(|a, b| a.0 == b.0) {
            let segment = chunks[0].0;
            let missing = || index.wrong(0, format!("the index points to file {} of chunks, which is not there", segment + 1));
            let file = self.0.get(segment as usize).ok_or_else(missing)?;
            let starts: Vec<u64> = chunks.iter().map(|(_, offset, _)| u64::from(*offset)).collect();
            let parts = file.read_at(&starts, GUESS_BYTES).await?;
            for ((_, _, row), start) in chunks.iter().zip(starts) {
                let mut bytes = parts.from(start);
                let wrong = |reason: String| file.wrong(start, reason);
                let mut rest = bytes;
                let len = take_uvarint(&mut rest).ok_or_else(|| wrong("cut off: the index points to a chunk here".into()))?;
                if len > MAX_CHUNK_BYTES {
                    return Err(wrong(format!("a chunk of {len} bytes")));
                }
                let long;
                if rest.len() as u64 <= len + 4 {
                    let end = start + (bytes.len() - rest.len()) as u64 + 1 + len + 4;
                    long = file.read(start..end).await?;
                    bytes = &long;
                    rest = bytes;
                    take_uvarint(&mut rest);
                }
                let content = file.checked(start, &rest[..1 + len as usize + 4])?;
                chunk::decode(content[0], &content[1..], &mut out[*row]).map_err(wrong)?;
            }
        }
        Ok(out)
    }
}

/// About how many bytes are read to get at these chunks.
pub(super) fn read_bytes(refs: &[ChunkRef]) -> u64 {
    refs.len() as u64 * (GUESS_BYTES + AROUND_BYTES)
}
