//! What the catalog knows of a block without opening it.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ulid::Ulid;

use crate::{Error, Result, TimeRange};

/// Version of the block format that is written, and the newest that is read.
pub const FORMAT_VERSION: u32 = 1;

/// Name of the table of series.
pub const SERIES_FILE: &str = "series.parquet";
/// Name of the table of downsampled series; only blocks with [`BlockMeta::resolution_ms`] above 0 have it.
pub const ROLLUP_FILE: &str = "rollup.parquet";
/// Name of the table of chunks.
pub const CHUNKS_FILE: &str = "chunks.parquet";
/// Name of the table of timestamp vectors.
pub const TIMES_FILE: &str = "times.parquet";
/// Name of the table of exemplars; the block has it only if it has exemplars.
pub const EXEMPLARS_FILE: &str = "exemplars.parquet";
/// Name of the table of checksums of the other files.
pub const CHECKSUMS_FILE: &str = "checksums.bin";
/// Name of the copy of the [`BlockMeta`], from which a lost catalog can be rebuilt.
pub const META_FILE: &str = "meta.json";

/// Identity of a block: a ULID, so that ids ascend with the time of creation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(Ulid);

impl BlockId {
    /// A new id, unique by 80 random bits.
    pub fn new(created_ms: i64) -> Self {
        Self(Ulid::from_datetime(UNIX_EPOCH + Duration::from_millis(created_ms.max(0) as u64)))
    }

    /// The id with these parts, for tests and fixtures that must be the same every time.
    pub fn from_parts(created_ms: i64, random: u128) -> Self {
        Self(Ulid::from_parts(created_ms.max(0) as u64, random))
    }
}

impl FromStr for BlockId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let id = Ulid::from_string(text).map_err(|e| Error::invalid("block id", format!("{text:?}: {e}")))?;
        if id.to_string() != text {
            return Err(Error::invalid("block id", format!("{text:?} is not in canonical form ({id})")));
        }
        Ok(Self(id))
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for BlockId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BlockId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Which part of an ingester's write-ahead log a block holds, so that replay can skip it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriterMark {
    /// Identity of the ingester.
    pub id: String,
    /// Everything of this tenant in segments below this number is in this block or in an earlier one.
    pub wal_segment_end: u64,
}

/// One file of a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileMeta {
    /// Its name inside of the block's directory.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// How much of its end is Parquet page index and footer: what a reader fetches first. 0 if it is not a Parquet file.
    pub tail_bytes: u64,
    /// CRC-32 (IEEE) of the whole file.
    pub crc32: u32,
}

/// Everything that the catalog knows of a block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockMeta {
    /// Identity, and name of its directory.
    pub ulid: BlockId,
    /// Version of the format.
    pub format: u32,
    /// Timestamp of the first sample, Unix milliseconds.
    pub min_time_ms: i64,
    /// Timestamp of the last sample, Unix milliseconds.
    pub max_time_ms: i64,
    /// Length of the windows that chunks are cut at; windows begin at multiples of it.
    pub window_ms: i64,
    /// 0 for raw samples, otherwise the step of a downsampled tier.
    pub resolution_ms: i64,
    /// How often the data has been compacted; 0 if an ingester wrote it.
    pub level: u32,
    /// Number of series.
    pub series: u64,
    /// Number of float samples.
    pub samples: u64,
    /// Number of native histogram samples.
    pub histograms: u64,
    /// Number of exemplars.
    pub exemplars: u64,
    /// Size of all files.
    pub size_bytes: u64,
    /// When it was written, Unix milliseconds.
    pub created_ms: i64,
    /// Of two samples with the same timestamp that of the block with the higher precedence counts; ties go to the higher id.
    /// It is the creation time of the newest data in the block, so that it survives compaction.
    pub precedence_ms: i64,
    /// The blocks that were compacted into this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<BlockId>,
    /// The ingester that wrote it, and how much of its log it covers; kept through compaction for the highest segment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub writers: Vec<WriterMark>,
    /// Deletions asked for up to this time have been carried out in it; 0 if it was never rewritten.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub deletions_ms: i64,
    /// How many raw samples the buckets of a downsampled block stand for; 0 in raw blocks.
    #[serde(default, skip_serializing_if = "is_none")]
    pub raw_samples: u64,
    /// Its files.
    pub files: Vec<FileMeta>,
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

fn is_none(n: &u64) -> bool {
    *n == 0
}

impl BlockMeta {
    /// From the first to the last sample.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if they are the wrong way round.
    pub fn time_range(&self) -> Result<TimeRange> {
        TimeRange::new(self.min_time_ms, self.max_time_ms)
            .map_err(|_| Error::corrupt(format!("meta of block {}", self.ulid), "the first sample is after the last"))
    }

    /// Whether it may hold samples in `range`.
    pub fn overlaps(&self, range: TimeRange) -> bool {
        self.min_time_ms <= range.end_ms() && range.start_ms() <= self.max_time_ms
    }

    /// The file of that name.
    pub fn file(&self, name: &str) -> Option<&FileMeta> {
        self.files.iter().find(|f| f.name == name)
    }

    /// What decides between two samples at one timestamp; see [`BlockMeta::precedence_ms`].
    pub fn precedence(&self) -> (i64, BlockId) {
        (self.precedence_ms, self.ulid)
    }

    /// Checks that this program reads the block's format.
    ///
    /// # Errors
    /// [`Error::Version`] if it is too new.
    pub fn check_format(&self) -> Result<()> {
        if self.format > FORMAT_VERSION || self.format == 0 {
            return Err(Error::Version { object: format!("block {}", self.ulid), version: self.format, supported: FORMAT_VERSION });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_canonical_text() {
        let id = BlockId::from_parts(1_700_000_000_000, 7);
        assert_eq!(id.to_string().parse::<BlockId>().expect("parses"), id);
        assert!(id.to_string().to_lowercase().parse::<BlockId>().is_err());
        assert!("".parse::<BlockId>().is_err());
        assert!(BlockId::from_parts(1, u128::MAX) < BlockId::from_parts(2, 0));
        assert_eq!(serde_json::to_string(&id).expect("serializes"), format!("\"{id}\""));
    }
}
