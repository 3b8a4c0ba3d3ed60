//! Segments of the write-ahead log mapped into memory, for reading them back: no byte is copied, and what is only needed after
//! the start stays in the page cache until then.
//!
//! A disk that cannot read would end the process with a signal when mapped memory is touched. So the bytes are asked for with
//! a call that returns an error before they are touched for the first time.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use super::segment::{self, HEADER_BYTES, Header};
use crate::error::{Error, Result};

/// Alignment of what the kernel is asked for. Pages of other sizes are a multiple or a fraction.
const PAGE_BYTES: usize = 64 << 10;

/// A segment that is read back.
#[derive(Debug)]
pub struct Segment {
    /// What it says of itself.
    pub header: Header,
    path: PathBuf,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory is only read, and stays mapped as long as the value lives.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

/// All segments of a log, ascending by number.
#[derive(Debug, Default)]
pub struct Segments(Vec<Segment>);

impl Segments {
    /// Maps the segments of a directory. A last one whose creation was interrupted holds no record and is removed.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::WalDamaged`] if a header does not hold.
    pub fn open(dir: &Path) -> Result<Self> {
        let mut numbers = segment::list(dir)?;
        if let Some(last) = numbers.last().copied() {
            let path = segment::path(dir, last);
            let bytes = first_bytes(&path, HEADER_BYTES + 1)?;
            if bytes.len() as u64 <= HEADER_BYTES && Header::decode(&bytes).is_err() {
                std::fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
                numbers.pop();
            }
        }
        Ok(Self(numbers.into_iter().map(|number| Segment::open(dir, number)).collect::<Result<_>>()?))
    }

    /// The segments.
    pub fn all(&self) -> &[Segment] {
        &self.0
    }
}

impl Segment {
    fn open(dir: &Path, number: u64) -> Result<Self> {
        let path = segment::path(dir, number);
        let header = match Header::decode(&first_bytes(&path, HEADER_BYTES)?) {
            Ok(header) if header.number == number => header,
            Ok(header) => {
                return Err(Error::WalDamaged { path, offset: 8, reason: format!("it says that it is segment {}", header.number) });
            }
            Err(reason) => return Err(Error::WalDamaged { path, offset: 0, reason: reason.into() }),
        };
        let (start, len) = File::open(&path).and_then(|file| map(&file)).map_err(|e| Error::io(&path, e))?;
        Ok(Self { header, path, start, len })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All bytes, with the header. Those that [`Segment::load`] was not asked for must not be touched.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes are mapped there for reading as long as `self` lives. Nobody writes to them: the directory is
        // locked, new records go into a new segment, and this process shortens a segment only behind what it reads.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Brings the bytes from `from` up to `to` into memory.
    ///
    /// # Errors
    /// [`Error::Io`] if the disk does not give them.
    pub fn load(&self, from: usize, to: usize) -> Result<()> {
        let (from, to) = (from / PAGE_BYTES * PAGE_BYTES, to.min(self.len));
        if from >= to {
            return Ok(());
        }
        // SAFETY: the range lies within the mapping, whose start is aligned, and reading it ahead changes nothing.
        let outcome = unsafe { libc::madvise(self.start.as_ptr().add(from).cast(), to - from, libc::MADV_POPULATE_READ) };
        if outcome == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // Linux before 5.14 does not know the call: then the bytes come when they are touched.
            Some(libc::EINVAL | libc::ENOSYS) => Ok(()),
            Some(libc::EFAULT) => Err(Error::io(&self.path, io::Error::other(format!("the disk cannot read bytes {from} to {to}")))),
            _ => Err(Error::io(&self.path, error)),
        }
    }

    /// Cuts off what stands behind the first `len` bytes, which nobody may touch any more.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn cut_off(&self, len: u64) -> Result<()> {
        let file = OpenOptions::new().write(true).open(&self.path).map_err(|e| Error::io(&self.path, e))?;
        file.set_len(len).and_then(|()| file.sync_all()).map_err(|e| Error::io(&self.path, e))
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: this is what was mapped, and no reference to it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

fn first_bytes(path: &Path, len: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|f| f.take(len).read_to_end(&mut bytes)).map_err(|e| Error::io(path, e))?;
    Ok(bytes)
}

fn map(file: &File) -> io::Result<(NonNull<u8>, usize)> {
    let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    // SAFETY: a new mapping, which the kernel places where nothing is.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("a file was mapped nowhere"))?;
    Ok((start, len))
}
