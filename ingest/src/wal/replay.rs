//! Reads the write-ahead log back.
//!
//! Bytes that do not hold at the end of the last segment are a write that was never acknowledged; they are cut off. Anywhere
//! else, also before a later batch of the last segment, they are damage: a batch is only begun when the one before it is
//! durable.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::record::{BATCH_MARKER_BYTES, Frame, FrameFault, Kind, parse_frame};
use super::segment::{self, HEADER_BYTES, Header, NO_PREVIOUS};
use crate::error::{Error, Result};

/// Bytes that are read at once.
const READ_BYTES: usize = 1 << 20;

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

/// Reads all segments in order and calls `visit` with the header and each record; `progress` gets first, last and current
/// number. Segments before `first_needed` are deleted unread.
///
/// # Errors
/// [`Error::WalDamaged`] unless damage is to be skipped, [`Error::Io`], and what `visit` returns: `Err(reason)` for a
/// record whose checksum holds but that cannot be understood counts as damage too.
pub fn replay(
    dir: &Path,
    on_damage: OnDamage,
    mut progress: impl FnMut(u64, u64, u64),
    mut visit: impl FnMut(&Header, Frame<'_>) -> Result<(), String>,
) -> Result<Found> {
    let mut numbers = segment::list(dir)?;
    let mut found = Found { next_segment: 1, ..Found::default() };
    drop_unfinished_last(dir, &mut numbers)?;
    let headers = numbers.iter().map(|n| read_header(dir, *n)).collect::<Result<Vec<_>>>()?;
    for (i, header) in headers.iter().enumerate() {
        progress(numbers[0], numbers[numbers.len() - 1], header.number);
        let path = segment::path(dir, header.number);
        if i > 0 && header.number != headers[i - 1].number + 1 {
            let reason = format!("segment {} before it is missing", header.number - 1);
            damage(on_damage, &mut found, path.clone(), 0, 0, reason)?;
        }
        let expected_bytes = headers.get(i + 1).filter(|next| next.number == header.number + 1).map(|next| next.previous_bytes);
        let mut reader = SegmentReader::open(path, expected_bytes)?;
        reader.read_all(on_damage, &mut found, |frame| visit(header, frame))?;
        found.last_bytes = Some(reader.valid_bytes);
        found.total_bytes += reader.valid_bytes;
        found.next_segment = header.number + 1;
    }
    Ok(found)
}

/// A segment whose creation was interrupted holds no record: it is removed.
fn drop_unfinished_last(dir: &Path, numbers: &mut Vec<u64>) -> Result<()> {
    if let Some(last) = numbers.last().copied() {
        let path = segment::path(dir, last);
        let mut bytes = Vec::new();
        File::open(&path).and_then(|f| f.take(HEADER_BYTES + 1).read_to_end(&mut bytes)).map_err(|e| Error::io(&path, e))?;
        if bytes.len() as u64 <= HEADER_BYTES && Header::decode(&bytes).is_err() {
            std::fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
            numbers.pop();
        }
    }
    Ok(())
}

fn read_header(dir: &Path, number: u64) -> Result<Header> {
    let path = segment::path(dir, number);
    let mut bytes = Vec::new();
    File::open(&path).and_then(|f| f.take(HEADER_BYTES).read_to_end(&mut bytes)).map_err(|e| Error::io(&path, e))?;
    match Header::decode(&bytes) {
        Ok(header) if header.number == number => Ok(header),
        Ok(header) => Err(Error::WalDamaged { path, offset: 8, reason: format!("it says that it is segment {}", header.number) }),
        Err(reason) => Err(Error::WalDamaged { path, offset: 0, reason: reason.into() }),
    }
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

/// Reads one segment through a window of bytes.
struct SegmentReader {
    path: PathBuf,
    file: File,
    /// Where the segment has to end, if the next one says it.
    expected_bytes: Option<u64>,
    window: Vec<u8>,
    at: usize,
    /// Offset in the file of the window's first byte.
    window_offset: u64,
    ended: bool,
    /// Bytes up to which everything was read or skipped.
    valid_bytes: u64,
}

impl SegmentReader {
    fn open(path: PathBuf, expected_bytes: Option<u64>) -> Result<Self> {
        let mut file = File::open(&path).map_err(|e| Error::io(&path, e))?;
        let mut header = [0; HEADER_BYTES as usize];
        file.read_exact(&mut header).map_err(|e| Error::io(&path, e))?;
        Ok(Self {
            path,
            file,
            expected_bytes,
            window: Vec::new(),
            at: 0,
            window_offset: HEADER_BYTES,
            ended: false,
            valid_bytes: HEADER_BYTES,
        })
    }

    fn offset(&self) -> u64 {
        self.window_offset + self.at as u64
    }

    /// Makes sure that the window holds `needed` bytes from the present place, if the segment has them.
    fn fill(&mut self, needed: usize) -> Result<()> {
        while self.window.len() - self.at < needed && !self.ended {
            self.window.drain(..self.at);
            self.window_offset += self.at as u64;
            self.at = 0;
            let end = self.window_offset + self.window.len() as u64;
            let wanted = needed.saturating_sub(self.window.len()).max(READ_BYTES) as u64;
            let wanted = self.expected_bytes.map_or(wanted, |total| wanted.min(total.saturating_sub(end)));
            let read = (&mut self.file).take(wanted).read_to_end(&mut self.window).map_err(|e| Error::io(&self.path, e))?;
            self.ended = read == 0;
        }
        Ok(())
    }

    fn read_all(&mut self, on_damage: OnDamage, found: &mut Found, mut visit: impl FnMut(Frame<'_>) -> Result<(), String>) -> Result<()> {
        loop {
            self.fill(READ_BYTES / 4)?;
            if self.at == self.window.len() {
                break;
            }
            let fault = match parse_frame(&self.window[self.at..]) {
                Ok((frame, whole)) => {
                    let outcome = if frame.kind == Kind::Batch { self.check_marker(frame) } else { visit(frame) };
                    match outcome {
                        Ok(()) => {
                            self.at += whole;
                            self.valid_bytes = self.offset();
                            continue;
                        }
                        Err(reason) => reason,
                    }
                }
                Err(FrameFault::Incomplete(needed)) if !self.ended => {
                    self.fill(needed)?;
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
            damage(on_damage, found, self.path.clone(), at, missing, format!("the file ends here, {missing} bytes are missing"))?;
        }
        Ok(())
    }

    fn check_marker(&self, frame: Frame<'_>) -> Result<(), String> {
        if frame.payload == self.offset().to_le_bytes() { Ok(()) } else { Err("a batch stands at the wrong place".into()) }
    }

    /// Decides about bytes that do not hold. `false` if the segment ends here.
    fn recover(&mut self, on_damage: OnDamage, found: &mut Found, reason: String) -> Result<bool> {
        let bad_at = self.offset();
        // A marker that begins here would be the fault itself; a later one proves that these bytes were durable once.
        self.at += 1;
        while !self.seek_marker()? {
            if self.ended {
                return self.end_at(bad_at, on_damage, found, reason);
            }
        }
        damage(on_damage, found, self.path.clone(), bad_at, self.offset() - bad_at, reason)?;
        self.valid_bytes = self.offset();
        Ok(true)
    }

    fn end_at(&mut self, bad_at: u64, on_damage: OnDamage, found: &mut Found, reason: String) -> Result<bool> {
        let rest = self.window_offset + self.window.len() as u64 - bad_at;
        if let Some(expected) = self.expected_bytes {
            damage(on_damage, found, self.path.clone(), bad_at, expected - bad_at, reason)?;
            self.valid_bytes = expected;
            return Ok(false);
        }
        tracing::warn!(
            file = %self.path.display(), offset = bad_at, bytes = rest,
            "the write-ahead log ends with an unfinished write, which was not acknowledged; it is cut off"
        );
        found.torn_bytes += rest;
        let file = OpenOptions::new().write(true).open(&self.path).map_err(|e| Error::io(&self.path, e))?;
        file.set_len(bad_at).and_then(|()| file.sync_all()).map_err(|e| Error::io(&self.path, e))?;
        self.valid_bytes = bad_at;
        Ok(false)
    }

    /// Moves to the next batch marker that says its own place. `false` if the window has none; then it was moved on.
    fn seek_marker(&mut self) -> Result<bool> {
        self.fill(READ_BYTES)?;
        while self.window.len() - self.at >= BATCH_MARKER_BYTES {
            let bytes = &self.window[self.at..];
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
        self.fill(BATCH_MARKER_BYTES)?;
        Ok(false)
    }
}
