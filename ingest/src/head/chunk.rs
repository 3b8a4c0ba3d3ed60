//! Sealed chunks: a run of samples of one series in the codec of the blocks, with timestamps that are stored once for all
//! series that have the same.

use std::sync::Arc;

use hashbrown::HashTable;
use isobar_block::codec::{
    ValueCodec, decode_histograms, decode_timestamps, decode_values, encode_histograms, encode_timestamps, encode_values,
};
use isobar_block::{Error, Histogram, Result, TimeRange};
use parking_lot::Mutex;

/// The interner drops runs that nobody uses any more when it has grown by this factor.
const INTERNER_GROWTH: usize = 2;
/// The interner is not cleaned below this size.
const INTERNER_MIN: usize = 1024;

/// Timestamps of a chunk, encoded.
#[derive(Debug)]
pub struct TimestampRun {
    /// First timestamp, Unix milliseconds.
    pub first_ms: i64,
    /// Last timestamp, Unix milliseconds.
    pub last_ms: i64,
    count: u32,
    bytes: Box<[u8]>,
}

impl TimestampRun {
    /// Number of timestamps.
    pub fn samples(&self) -> usize {
        self.count as usize
    }

    /// Whether some may lie in `range`.
    pub fn overlaps(&self, range: TimeRange) -> bool {
        self.first_ms <= range.end_ms() && range.start_ms() <= self.last_ms
    }

    /// Appends the timestamps.
    pub fn decode(&self, out: &mut Vec<i64>) -> Result<()> {
        decode_timestamps(&self.bytes, self.samples(), out)
    }

    fn heap_bytes(&self) -> usize {
        self.bytes.len() + size_of::<Self>() + 16
    }
}

/// Finds equal runs, so that each is stored once.
#[derive(Debug, Default)]
pub struct Interner {
    runs: HashTable<Arc<TimestampRun>>,
    clean_at: usize,
}

impl Interner {
    /// The run with these timestamps. The second value is the memory that it took, 0 if it was there already.
    pub fn intern(&mut self, millis: &[i64], scratch: &mut Vec<u8>) -> (Arc<TimestampRun>, usize) {
        scratch.clear();
        encode_timestamps(millis, scratch);
        let (first_ms, last_ms, count) = (millis[0], millis[millis.len() - 1], millis.len() as u32);
        let hash = hash_run(scratch, count);
        let found = self.runs.find(hash, |r| *r.bytes == **scratch && r.count == count && r.first_ms == first_ms);
        if let Some(run) = found {
            return (Arc::clone(run), 0);
        }
        self.clean();
        let run = Arc::new(TimestampRun { first_ms, last_ms, count, bytes: scratch.as_slice().into() });
        self.runs.insert_unique(hash, Arc::clone(&run), |r| hash_run(&r.bytes, r.count));
        let heap_bytes = run.heap_bytes();
        (run, heap_bytes)
    }

    fn clean(&mut self) {
        if self.runs.len() >= self.clean_at.max(INTERNER_MIN) {
            self.runs.retain(|run| Arc::strong_count(run) > 1);
            self.clean_at = self.runs.len() * INTERNER_GROWTH;
        }
    }
}

fn hash_run(bytes: &[u8], count: u32) -> u64 {
    // Runs come from authenticated writers and the table is per tenant; equality is checked byte by byte.
    let mut hash = u64::from(count).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^= hash >> 32;
    }
    hash
}

/// A run of samples of one series.
#[derive(Debug)]
pub struct Chunk {
    /// When.
    pub times: Arc<TimestampRun>,
    /// Encoded values, then from `histograms_at` on: number and places of the histograms, and the histograms.
    data: Box<[u8]>,
    /// The epoch of the log that holds the samples.
    pub epoch: u32,
    histograms_at: u32,
    codec: ValueCodec,
}

impl Chunk {
    /// Number of samples.
    pub fn samples(&self) -> usize {
        self.times.samples()
    }

    /// Memory that belongs to this chunk alone.
    pub fn heap_bytes(&self) -> usize {
        self.data.len() + size_of::<Self>() + 8
    }

    /// Appends the values, and the histograms with places that count from `base`.
    pub fn decode(&self, base: usize, values: &mut Vec<f64>, histograms: &mut Vec<(u32, Arc<Histogram>)>) -> Result<()> {
        let (encoded, rest) = self.data.split_at(self.histograms_at as usize);
        decode_values(self.codec, encoded, self.samples(), values)?;
        if rest.is_empty() {
            return Ok(());
        }
        let corrupt = || Error::corrupt("chunk in the head", "places of histograms are cut off");
        let count = rest.first_chunk::<4>().map(|b| u32::from_le_bytes(*b) as usize).ok_or_else(corrupt)?;
        let (places, encoded) = rest[4..].split_at_checked(4 * count).ok_or_else(corrupt)?;
        let mut decoded = Vec::with_capacity(count);
        decode_histograms(encoded, count, &mut decoded)?;
        let places = places.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        histograms.extend(places.zip(decoded).map(|(at, h)| (base as u32 + at, Arc::new(h))));
        Ok(())
    }
}

/// Samples that are about to become a chunk.
#[derive(Debug, Default)]
pub struct Unsealed {
    /// When, strictly ascending.
    pub millis: Vec<i64>,
    /// As in a sample buffer.
    pub values: Vec<f64>,
    /// As in a sample buffer.
    pub histograms: Vec<(u32, Arc<Histogram>)>,
}

impl Unsealed {
    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.millis.clear();
        self.values.clear();
        self.histograms.clear();
    }
}

/// Makes chunks, and reuses the memory for it.
#[derive(Debug, Default)]
pub struct Sealer {
    /// The samples of the next chunk.
    pub unsealed: Unsealed,
    recent: Option<(Vec<i64>, Arc<TimestampRun>)>,
    scratch: Vec<u8>,
}

impl Sealer {
    /// Makes a chunk of what is in [`Sealer::unsealed`], which must not be empty, and empties it. Adds to `new_bytes` what the
    /// chunk takes.
    pub fn seal(&mut self, interner: &Mutex<Interner>, epoch: u32, new_bytes: &mut i64) -> Chunk {
        let times = self.times(interner, new_bytes);
        self.scratch.clear();
        let codec = encode_values(&self.unsealed.values, &mut self.scratch);
        let histograms_at = self.scratch.len() as u32;
        if !self.unsealed.histograms.is_empty() {
            self.scratch.extend_from_slice(&(self.unsealed.histograms.len() as u32).to_le_bytes());
            for (at, _) in &self.unsealed.histograms {
                self.scratch.extend_from_slice(&at.to_le_bytes());
            }
            let histograms: Vec<&Histogram> = self.unsealed.histograms.iter().map(|(_, h)| &**h).collect();
            encode_histograms(&histograms, &mut self.scratch);
        }
        self.unsealed.clear();
        let chunk = Chunk { times, data: self.scratch.as_slice().into(), epoch, histograms_at, codec };
        *new_bytes += chunk.heap_bytes() as i64;
        chunk
    }

    /// The series of a scrape target are sealed one after the other: most find what the one before them used.
    fn times(&mut self, interner: &Mutex<Interner>, new_bytes: &mut i64) -> Arc<TimestampRun> {
        if let Some((millis, run)) = &self.recent
            && *millis == self.unsealed.millis
        {
            return Arc::clone(run);
        }
        let (run, heap_bytes) = interner.lock().intern(&self.unsealed.millis, &mut self.scratch);
        *new_bytes += heap_bytes as i64;
        let mut millis = self.recent.take().map(|(m, _)| m).unwrap_or_default();
        millis.clone_from(&self.unsealed.millis);
        self.recent = Some((millis, Arc::clone(&run)));
        run
    }

    /// Lets go of the last run, so that the interner can drop it.
    pub fn forget(&mut self) {
        self.recent = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_timestamps_are_stored_once_and_values_come_back() {
        let interner = Mutex::new(Interner::default());
        let mut sealer = Sealer::default();
        let mut bytes = 0;
        let mut chunks = Vec::new();
        for i in 0..3i64 {
            let shift = i64::from(i == 2);
            sealer.unsealed.millis.extend((0..32).map(|t| 1_000_000 + t * 15_000 + shift));
            sealer.unsealed.values.extend((0..32).map(|t| f64::from(t) * i as f64));
            chunks.push(sealer.seal(&interner, 7, &mut bytes));
        }
        assert!(Arc::ptr_eq(&chunks[0].times, &chunks[1].times));
        assert!(!Arc::ptr_eq(&chunks[0].times, &chunks[2].times));
        let mut values = Vec::new();
        chunks[1].decode(0, &mut values, &mut Vec::new()).expect("decodes");
        assert_eq!(values, (0..32).map(f64::from).collect::<Vec<_>>());
        let mut millis = Vec::new();
        chunks[2].times.decode(&mut millis).expect("decodes");
        assert_eq!((millis[0], millis[31]), (1_000_001, 1_465_001));
        assert!(bytes > 0);
    }
}
