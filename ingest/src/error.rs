//! What can go wrong when the ingester starts, cuts or stops. Errors of a single write are [`crate::decoded::WriteError`].

use std::path::{Path, PathBuf};

/// The result of everything in this crate that is not a write.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the ingester.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The local disk failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Bytes of the write-ahead log that were acknowledged are not what was written.
    #[error(
        "write-ahead log {} is damaged at byte {offset}: {reason}; restore the file from a copy, or start once with --storage.wal-skip-damaged to \
         keep the damaged file aside and go on without the records that cannot be read",
        path.display()
    )]
    WalDamaged {
        /// The segment.
        path: PathBuf,
        /// Where the first bad byte may be.
        offset: u64,
        /// What does not hold.
        reason: String,
    },
    /// Another process uses the directory.
    #[error("{} is in use by another process; stop it or give this one its own directory", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The configuration breaks a rule.
    #[error("configuration: {0}")]
    Config(String),
    /// The log does not take data now.
    #[error("{0}")]
    Wal(String),
    /// The object store does not answer.
    #[error("the object store has not answered for {seconds} s")]
    StoreTimeout {
        /// How long was waited.
        seconds: u64,
    },
    /// The block layer failed.
    #[error(transparent)]
    Block(#[from] isobar_block::Error),
    /// Something is shutting down.
    #[error("the ingester is stopping")]
    Stopping,
}

impl Error {
    /// [`Error::Io`] in one call.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_owned(), source }
    }
}
