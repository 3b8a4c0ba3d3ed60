//! The files of an export: they get their names when they are complete.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{Target, file_error};
use crate::{Error, Result};

/// What is written goes to the disk in pieces of this size.
const BUFFER_BYTES: usize = 1 << 20;

/// Somewhere to write to.
pub(super) type Out = BufWriter<Box<dyn Write + Send>>;

/// Files one after the other.
pub(super) struct Files {
    target: Target,
    ending: &'static str,
    open: Option<PathBuf>,
    done: Vec<PathBuf>,
    bytes: u64,
}

impl Files {
    /// Checks that nothing would be overwritten.
    pub fn new(target: &Target, ending: &'static str) -> Result<Self> {
        match target {
            Target::File(path) if path.exists() => {
                return Err(file_error(path, "the file is there already; remove it or choose another name"));
            }
            Target::Folder { path, .. } => {
                fs::create_dir_all(path).map_err(|e| file_error(path, e))?;
                if fs::read_dir(path).map_err(|e| file_error(path, e))?.next().is_some() {
                    return Err(file_error(path, "the folder is not empty; empty it or choose another"));
                }
            }
            Target::File(_) => {}
            Target::Standard if ending == "parquet" => {
                return Err(Error::Invalid { what: "export", reason: "Parquet cannot be written to standard output; name a file".into() });
            }
            Target::Standard => {}
        }
        Ok(Self { target: target.clone(), ending, open: None, done: Vec::new(), bytes: 0 })
    }

    /// A new file begins at this size.
    pub fn limit_bytes(&self) -> u64 {
        match self.target {
            Target::Folder { file_bytes, .. } => file_bytes,
            _ => u64::MAX,
        }
    }

    /// Begins the next file.
    pub fn begin(&mut self) -> Result<Out> {
        let path = match &self.target {
            Target::Standard => return Ok(BufWriter::with_capacity(BUFFER_BYTES, Box::new(std::io::stdout()))),
            Target::File(path) => path.clone(),
            Target::Folder { path, .. } => path.join(format!("part-{:05}.{}", self.done.len(), self.ending)),
        };
        let unfinished = unfinished(&path);
        let file = File::create(&unfinished).map_err(|e| file_error(&unfinished, e))?;
        self.open = Some(path);
        Ok(BufWriter::with_capacity(BUFFER_BYTES, Box::new(file)))
    }

    /// Ends a file of which everything is written.
    pub fn end(&mut self, mut out: Out) -> Result<()> {
        let name = self.open.clone().unwrap_or_else(|| PathBuf::from("standard output"));
        out.flush().map_err(|e| file_error(&name, e))?;
        drop(out);
        let Some(path) = self.open.take() else { return Ok(()) };
        let from = unfinished(&path);
        File::open(&from).and_then(|f| f.sync_all()).and_then(|()| fs::rename(&from, &path)).map_err(|e| file_error(&path, e))?;
        self.bytes += fs::metadata(&path).map_err(|e| file_error(&path, e))?.len();
        self.done.push(path);
        Ok(())
    }

    /// What is being written, for errors.
    pub fn name(&self) -> &Path {
        self.open.as_deref().unwrap_or(Path::new("standard output"))
    }

    /// Whether no file is complete yet.
    pub fn is_empty(&self) -> bool {
        self.done.is_empty()
    }

    /// All files and their size.
    pub fn finish(self) -> (Vec<PathBuf>, u64) {
        (self.done, self.bytes)
    }
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}
