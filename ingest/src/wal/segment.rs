//! Segment files of the write-ahead log: names, the header, and appending with a known durable length.
//!
//! The header of a segment says how long the one before it is. So a segment that lost bytes is noticed, and bytes that a
//! failed write left behind its end are not read.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::record::{BATCH_MARKER_BYTES, push_batch_marker};
use crate::error::{Error, Result};

/// First bytes of every segment; the last one is the version.
const MAGIC: [u8; 8] = *b"ISOWAL\0\x01";
/// Length of the header.
pub const HEADER_BYTES: u64 = 64;
/// Value of [`Header::previous_bytes`] in the first segment of a directory.
pub const NO_PREVIOUS: u64 = u64::MAX;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its number; they ascend without gaps.
    pub number: u64,
    /// Number of the first segment of its epoch; series numbers hold within one.
    pub epoch: u64,
    /// Length of the segment before it, or [`NO_PREVIOUS`].
    pub previous_bytes: u64,
}

impl Header {
    fn encode(self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.previous_bytes.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header; the error says what does not hold.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let bytes: &[u8; HEADER_BYTES as usize] = bytes.first_chunk().ok_or("the header is cut off")?;
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if bytes[..7] != MAGIC[..7] {
            return Err("it does not begin as a segment");
        }
        if u32::from_le_bytes(bytes[60..].try_into().expect("four bytes")) != crc32fast::hash(&bytes[..60]) {
            return Err("the checksum of the header is wrong");
        }
        if bytes[7] != MAGIC[7] {
            return Err("a newer version wrote it");
        }
        Ok(Self { number: number(8), epoch: number(16), previous_bytes: number(24) })
    }
}

/// Path of a segment.
pub fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.wal"))
}

/// Numbers of the segments in a directory, ascending. Removes what an interrupted rewrite left.
pub fn list(dir: &Path) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let entry = entry.map_err(|e| Error::io(dir, e))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".wal.tmp") {
            fs::remove_file(entry.path()).map_err(|e| Error::io(entry.path(), e))?;
        } else if let Some(number) = name.strip_suffix(".wal").and_then(|n| n.parse().ok()) {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Makes names in a directory durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The segment that is written.
#[derive(Debug)]
pub struct SegmentFile {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    /// What it says of itself.
    pub header: Header,
    /// Bytes that are durable.
    pub durable_bytes: u64,
}

impl SegmentFile {
    /// Creates a segment durably. A file that a failed attempt left is overwritten.
    pub fn create(dir: &Path, header: Header) -> io::Result<Self> {
        let path = path(dir, header.number);
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path)?;
        file.write_all_at(&header.encode(), 0)?;
        file.sync_all()?;
        sync_dir(dir)?;
        Ok(Self { dir: dir.to_owned(), path, file, header, durable_bytes: HEADER_BYTES })
    }

    /// Writes a batch and makes it durable. `batch` begins with room for the batch marker. Returns how long the sync took.
    ///
    /// # Errors
    /// After an error nothing of the batch counts, and the same call may be made again.
    pub fn append(&mut self, batch: &mut [u8]) -> io::Result<Duration> {
        let mut marker = Vec::with_capacity(BATCH_MARKER_BYTES);
        push_batch_marker(&mut marker, self.durable_bytes);
        batch[..BATCH_MARKER_BYTES].copy_from_slice(&marker);
        if let Err(e) = self.file.write_all_at(batch, self.durable_bytes) {
            // Gives the space back. If even this fails, the next try writes over the same bytes.
            let _ = self.file.set_len(self.durable_bytes);
            return Err(e);
        }
        let start = Instant::now();
        if let Err(e) = self.file.sync_data() {
            // After a failed sync the kernel may have dropped the pages and call them clean: this file cannot be trusted
            // with new bytes any more.
            self.rewrite()?;
            return Err(e);
        }
        self.durable_bytes += batch.len() as u64;
        Ok(start.elapsed())
    }

    /// Marks, without waiting for the disk, that everything until here is durable. Returns how many bytes that took.
    pub fn mark_idle(&mut self) -> u64 {
        let mut marker = Vec::with_capacity(BATCH_MARKER_BYTES);
        push_batch_marker(&mut marker, self.durable_bytes);
        if self.file.write_all_at(&marker, self.durable_bytes).is_ok() {
            self.durable_bytes += marker.len() as u64;
            return marker.len() as u64;
        }
        let _ = self.file.set_len(self.durable_bytes);
        0
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let tmp = self.path.with_extension("wal.tmp");
        let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&tmp)?;
        let mut chunk = vec![0; 1 << 20];
        let mut at = 0;
        while at < self.durable_bytes {
            let len = chunk.len().min((self.durable_bytes - at) as usize);
            self.file.read_exact_at(&mut chunk[..len], at)?;
            file.write_all_at(&chunk[..len], at)?;
            at += len as u64;
        }
        file.sync_all()?;
        fs::rename(&tmp, &self.path)?;
        sync_dir(&self.dir)?;
        self.file = file;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_comes_back_and_flips_are_noticed() {
        let header = Header { number: 7, epoch: 5, previous_bytes: NO_PREVIOUS };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        for at in 0..bytes.len() {
            let mut flipped = bytes;
            flipped[at] ^= 1;
            assert!(Header::decode(&flipped).is_err(), "{at}");
        }
        assert!(Header::decode(&bytes[..63]).is_err());
    }
}
