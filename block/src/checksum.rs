//! Checksums of the files of a block, one for every 32 KiB, so that any range can be checked when it is read.
//!
//! Parquet has a place for a checksum in each page, but none for footers and page indexes, and the Parquet library does not
//! write it. `FORMAT.md` specifies the bytes of the table.

use std::collections::BTreeMap;

use crate::{Error, Result};

/// How many bytes one checksum covers.
pub(crate) const CHECKSUM_BLOCK_BYTES: u64 = 32 * 1024;

const MAGIC: &[u8; 8] = b"ISOSUM01";

/// CRC-32 of each [`CHECKSUM_BLOCK_BYTES`] of one file; the last covers what is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileChecksums {
    pub size_bytes: u64,
    pub crc32: Vec<u32>,
}

impl FileChecksums {
    pub fn of(bytes: &[u8]) -> Self {
        let crc32 = bytes.chunks(CHECKSUM_BLOCK_BYTES as usize).map(crc32fast::hash).collect();
        Self { size_bytes: bytes.len() as u64, crc32 }
    }

    /// Whether `bytes`, which begin at a multiple of [`CHECKSUM_BLOCK_BYTES`], are as written.
    pub fn check(&self, start: u64, bytes: &[u8]) -> Result<(), u64> {
        debug_assert_eq!(start % CHECKSUM_BLOCK_BYTES, 0);
        for (i, block) in bytes.chunks(CHECKSUM_BLOCK_BYTES as usize).enumerate() {
            let number = start / CHECKSUM_BLOCK_BYTES + i as u64;
            if self.crc32.get(number as usize) != Some(&crc32fast::hash(block)) {
                return Err(number * CHECKSUM_BLOCK_BYTES);
            }
        }
        Ok(())
    }
}

/// The bytes of the table.
pub(crate) fn encode(files: &BTreeMap<String, FileChecksums>) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend((CHECKSUM_BLOCK_BYTES as u32).to_le_bytes());
    out.extend((files.len() as u32).to_le_bytes());
    for (name, sums) in files {
        out.extend((name.len() as u16).to_le_bytes());
        out.extend(name.as_bytes());
        out.extend(sums.size_bytes.to_le_bytes());
        out.extend(sums.crc32.iter().flat_map(|c| c.to_le_bytes()));
    }
    out.extend(crc32fast::hash(&out).to_le_bytes());
    out
}

/// Reads the table; `object` is named in errors.
pub(crate) fn decode(object: &str, bytes: &[u8]) -> Result<BTreeMap<String, FileChecksums>> {
    let corrupt = |reason: &str| Error::corrupt(object, reason);
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or_else(|| corrupt("the checksum table is cut off"))?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err(corrupt("the checksum of the checksum table does not fit"));
    }
    let mut rest = body;
    if take::<8>(&mut rest) != Some(*MAGIC) {
        return Err(corrupt("not a checksum table"));
    }
    if take(&mut rest).map(u32::from_le_bytes) != Some(CHECKSUM_BLOCK_BYTES as u32) {
        return Err(corrupt("checksums cover blocks of another size"));
    }
    let files = take(&mut rest).map(u32::from_le_bytes).ok_or_else(|| corrupt("the checksum table is cut off"))?;
    let mut out = BTreeMap::new();
    for _ in 0..files {
        let (name, sums) = decode_file(&mut rest).ok_or_else(|| corrupt("the checksum table is cut off"))?;
        out.insert(name, sums);
    }
    if !rest.is_empty() {
        return Err(corrupt("the checksum table has bytes left over"));
    }
    Ok(out)
}

fn decode_file(rest: &mut &[u8]) -> Option<(String, FileChecksums)> {
    let len = u16::from_le_bytes(take(rest)?) as usize;
    let (name, tail) = rest.split_at_checked(len)?;
    *rest = tail;
    let size_bytes = u64::from_le_bytes(take(rest)?);
    let count = usize::try_from(size_bytes.div_ceil(CHECKSUM_BLOCK_BYTES)).ok()?;
    let (sums, tail) = rest.split_at_checked(count.checked_mul(4)?)?;
    *rest = tail;
    let crc32 = sums.as_chunks::<4>().0.iter().map(|c| u32::from_le_bytes(*c)).collect();
    Some((String::from_utf8(name.to_vec()).ok()?, FileChecksums { size_bytes, crc32 }))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_every_flipped_byte() {
        let file: Vec<u8> = (0..100_000u32).map(|i| (i * 7) as u8).collect();
        let sums = FileChecksums::of(&file);
        assert_eq!(sums.crc32.len(), 4);
        assert_eq!(sums.check(CHECKSUM_BLOCK_BYTES, &file[CHECKSUM_BLOCK_BYTES as usize..]), Ok(()));
        let mut bad = file.clone();
        bad[70_000] ^= 1;
        assert_eq!(sums.check(0, &bad), Err(65_536));

        let table = BTreeMap::from([("a".to_owned(), sums), ("b".to_owned(), FileChecksums::of(b""))]);
        let bytes = encode(&table);
        assert_eq!(decode("t", &bytes).expect("decodes"), table);
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 0x10;
            assert!(decode("t", &bad).is_err(), "byte {i}");
            assert!(decode("t", &bytes[..i]).is_err(), "cut at {i}");
        }
    }
}
