//! Reads the write-ahead log back.
//!
//! Bytes that do not hold at the end of the last segment are a write that was never acknowledged; they are cut off. Anywhere
//! else, also before a later batch of the last segment, they are damage: a batch is only begun when the one before it is
//! durable.

use std::path::PathBuf;

use super::mapped::{Segment, Segments};
use super::record::{BATCH_MARKER_BYTES, Frame, FrameFault, Kind, parse_frame};
use super::segment::{HEADER_BYTES, Header, NO_PREVIOUS};
use crate::error::{Error, Result};

/// Bytes that are asked for at once.
const LOAD_BYTES: usize = 1 << 20;

/// What to do about damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDamage {
    /// Refuse to start.
    Fail,
    /// Keep the damaged file aside and go on after the damage.
    Skip,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Number for the next segment.
    pub next_segment: u64,
    /// Length of the last segment, or [`NO_PREVIOUS`].
    pub last_bytes: Option<u64>,
    /// Bytes of all segments that remain.
    pub total_bytes: u64,
    /// Bytes that an unfinished write left.
    pub torn_bytes: u64,
    /// Places that were skipped: file, offset, number of bytes, reason.
    pub skipped: Vec<(PathBuf, u64, u64, String)>,
}

impl Found {
    /// Header for the segment with which the log goes on.
    pub fn next_header(&self) -> Header {
        Header { number: self.next_segment, epoch: self.next_segment, previous_bytes: self.last_bytes.unwrap_or(NO_PREVIOUS) }
    }
}

/// Reads all segments in order and calls `visit` with the place of the segment in `segments` and each record; `progress` gets
/// first, last and current number.
///
/// # Errors
/// [`Error::WalDamaged`] unless damage is to be skipped, [`Error::Io`], and what `visit` returns: `Err(reason)` for a
/// record whose checksum holds but that cannot be understood counts as damage too.
pub fn replay<'a>(
    segments: &'a Segments,
    on_damage: OnDamage,
    mut progress: impl FnMut(u64, u64, u64),
    mut visit: impl FnMut(usize, Frame<'a>) -> Result<(), String>,
) -> Result<Found> {
    let all = segments.all();
    let mut found = Found { next_segment: 1, ..Found::default() };
    for (i, segment) in all.iter().enumerate() {
        let header = segment.header;
        progress(all[0].header.number, all[all.len() - 1].header.number, header.number);
        if i > 0 && header.number != all[i - 1].header.number + 1 {
            let reason = format!("segment {} before it is missing", header.number - 1);
            damage(on_damage, &mut found, segment.path().to_owned(), 0, 0, reason)?;
        }
        let next = all.get(i + 1).map(|next| next.header);
        let mut reader = SegmentReader::new(segment, next.filter(|n| n.number == header.number + 1).map(|n| n.previous_bytes));
        reader.read_all(on_damage, &mut found, |frame| visit(i, frame))?;
        found.last_bytes = Some(reader.valid_bytes);
        found.total_bytes += reader.valid_bytes;
        found.next_segment = header.number + 1;
    }
    Ok(found)
}

fn damage(on_damage: OnDamage, found: &mut Found, path: PathBuf, offset: u64, skipped_bytes: u64, reason: String) -> Result<()> {
    if on_damage == OnDamage::Fail {
        return Err(Error::WalDamaged { path, offset, reason });
    }
    let aside = path.with_extension("wal.damaged");
    match std::fs::hard_link(&path, &aside) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(Error::io(&aside, e)),
    }
    tracing::error!(
        file = %path.display(), kept_as = %aside.display(), offset, skipped_bytes, reason,
        "the write-ahead log is damaged; records that were acknowledged are lost"
    );
    found.skipped.push((path, offset, skipped_bytes, reason));
    Ok(())
}

/// Reads one segment.
struct SegmentReader<'a> {
    segment: &'a Segment,
    /// Where the segment has to end, if the next one says it.
    expected_bytes: Option<u64>,
    /// The bytes up to there.
    bytes: &'a [u8],
    /// So many of them can be touched.
    loaded: usize,
    at: usize,
    /// Bytes up to which everything was read or skipped.
    valid_bytes: u64,
}

impl<'a> SegmentReader<'a> {
    fn new(segment: &'a Segment, expected_bytes: Option<u64>) -> Self {
        let bytes = segment.bytes();
        let bytes = expected_bytes.and_then(|e| bytes.get(..usize::try_from(e).ok()?)).unwrap_or(bytes);
        let start = HEADER_BYTES as usize;
        Self { segment, expected_bytes, bytes, loaded: start, at: start, valid_bytes: HEADER_BYTES }
    }

    /// Makes sure that `needed` bytes from the present place can be touched, if the segment has them.
    fn load(&mut self, needed: usize) -> Result<()> {
        if self.loaded < self.at.saturating_add(needed) && !self.is_loaded() {
            let to = self.at.saturating_add(needed.max(LOAD_BYTES)).min(self.bytes.len());
            self.segment.load(self.loaded, to)?;
            self.loaded = to;
        }
        Ok(())
    }

    fn is_loaded(&self) -> bool {
        self.loaded == self.bytes.len()
    }

    fn read_all(&mut self, on_damage: OnDamage, found: &mut Found, mut visit: impl FnMut(Frame<'a>) -> Result<(), String>) -> Result<()> {
        while self.at < self.bytes.len() {
            let bytes = self.bytes;
            let fault = match parse_frame(&bytes[self.at..self.loaded]) {
                Ok((frame, whole)) => {
                    let outcome = if frame.kind == Kind::Batch { self.check_marker(frame) } else { visit(frame) };
                    match outcome {
                        Ok(()) => {
                            self.at += whole;
                            self.valid_bytes = self.at as u64;
                            continue;
                        }
                        Err(reason) => reason,
                    }
                }
                Err(FrameFault::Incomplete(needed)) if !self.is_loaded() => {
                    self.load(needed)?;
                    continue;
                }
                Err(FrameFault::Incomplete(_)) => "the file ends within a record".to_owned(),
                Err(FrameFault::Bad(reason)) => reason.to_owned(),
            };
            if !self.recover(on_damage, found, fault)? {
                return Ok(());
            }
        }
        if let Some(expected) = self.expected_bytes.filter(|e| *e > self.valid_bytes) {
            let (at, missing) = (self.valid_bytes, expected - self.valid_bytes);
            damage(
                on_damage,
                found,
                self.segment.path().to_owned(),
                at,
                missing,
                format!("the file ends here, {missing} bytes are missing"),
            )?;
        }
        Ok(())
    }

    fn check_marker(&self, frame: Frame<'_>) -> Result<(), String> {
        if frame.payload == (self.at as u64).to_le_bytes() { Ok(()) } else { Err("a batch stands at the wrong place".into()) }
    }

    /// Decides about bytes that do not hold. `false` if the segment ends here.
    fn recover(&mut self, on_damage: OnDamage, found: &mut Found, reason: String) -> Result<bool> {
        let bad_at = self.at as u64;
        // A marker that begins here would be the fault itself; a later one proves that these bytes were durable once.
        self.at += 1;
        if !self.seek_marker()? {
            return self.end_at(bad_at, on_damage, found, reason);
        }
        damage(on_damage, found, self.segment.path().to_owned(), bad_at, self.at as u64 - bad_at, reason)?;
        self.valid_bytes = self.at as u64;
        Ok(true)
    }

    fn end_at(&mut self, bad_at: u64, on_damage: OnDamage, found: &mut Found, reason: String) -> Result<bool> {
        if let Some(expected) = self.expected_bytes {
            damage(on_damage, found, self.segment.path().to_owned(), bad_at, expected - bad_at, reason)?;
            self.valid_bytes = expected;
            return Ok(false);
        }
        let rest = self.bytes.len() as u64 - bad_at;
        tracing::warn!(
            file = %self.segment.path().display(), offset = bad_at, bytes = rest,
            "the write-ahead log ends with an unfinished write, which was not acknowledged; it is cut off"
        );
        found.torn_bytes += rest;
        self.segment.cut_off(bad_at)?;
        self.valid_bytes = bad_at;
        Ok(false)
    }

    /// Moves to the next batch marker that says its own place. `false` if there is none.
    fn seek_marker(&mut self) -> Result<bool> {
        while self.bytes.len() - self.at >= BATCH_MARKER_BYTES {
            self.load(BATCH_MARKER_BYTES)?;
            let bytes = &self.bytes[self.at..];
            // The length of a marker's payload; nearly every other place fails on this first byte.
            if bytes[0] == 8
                && let Ok((frame, _)) = parse_frame(&bytes[..BATCH_MARKER_BYTES])
                && frame.kind == Kind::Batch
                && self.check_marker(frame).is_ok()
            {
                return Ok(true);
            }
            self.at += 1;
        }
        Ok(false)
    }
}
