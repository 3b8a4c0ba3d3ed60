//! Chunks as they are, for whoever writes them to another block without decoding them.

use std::ops::Range;

use super::{BlockRun, BlockSet, Found};
use crate::writer::EncodedChunk;
use crate::{Result, SeriesSet, TimeRange};

/// Loaded chunks of a run of series of one block.
pub struct EncodedRun(BlockRun);

impl BlockSet {
    /// Fetches the chunks of `rows`, for all time.
    pub async fn load_encoded(&self, rows: Range<usize>) -> Result<EncodedRun> {
        assert!(rows.end <= self.len(), "rows {rows:?} of a set of {} series", self.len());
        self.load_run(rows, TimeRange::ALL).await.map(EncodedRun)
    }

    /// Fetches the chunks of `rows` that overlap `range`.
    pub(super) async fn load_run(&self, rows: Range<usize>, range: TimeRange) -> Result<BlockRun> {
        let first_row = rows.start;
        let wanted = self.series(rows);
        let mut found = Found::default();
        for (number, info) in self.reader.chunk_groups.iter().enumerate() {
            if info.may_hold(&wanted, range, self.reader.meta.window_ms) {
                let chunks = self.reader.chunk_group(number).await?;
                let hits = chunks.find(&wanted);
                found.load_times(&self.reader, info, &chunks, &hits).await?;
                found.add(number, &chunks, &hits, range);
            }
        }
        let pages = self.reader.pages(&found.pages).await?;
        let (row_ends, chunks) = found.by_row(wanted.len());
        Ok(BlockRun {
            first_row,
            row_ends,
            chunks,
            pages,
            times: found.times,
            object: self.reader.chunks.key().to_string(),
            caches: self.reader.caches.clone(),
            concatenated: Default::default(),
        })
    }
}

impl EncodedRun {
    /// Appends the chunks of series `row` (numbered as in the set) in order of time.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] if a page is too short or timestamps cannot be decoded.
    ///
    /// # Panics
    /// If `row` is not in the rows that were loaded.
    pub fn read<'a>(&'a self, row: usize, out: &mut Vec<EncodedChunk<'a>>) -> Result<()> {
        let run = &self.0;
        for chunk in &run.chunks[run.range(row)] {
            let timestamps = run.timestamps(*chunk)?;
            let data = run.bytes(*chunk)?;
            out.push(EncodedChunk { timestamps, kind: chunk.kind, codec: chunk.codec, data });
        }
        Ok(())
    }
}
