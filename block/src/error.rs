//! What can go wrong below: one variant for each decision that a caller can make.

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the block layer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value that the caller gave breaks a rule; trying again will not help.
    #[error("{what}: {reason}")]
    Invalid {
        /// The thing that was refused.
        what: &'static str,
        /// The rule that it breaks and the remedy.
        reason: String,
    },
    /// Bytes that were read are not what was written: the object must be quarantined or repaired.
    #[error("{object} is corrupt: {reason}")]
    Corrupt {
        /// Object key, file path or chunk that holds the bytes.
        object: String,
        /// What does not hold.
        reason: String,
    },
    /// The format is one that this version does not read.
    #[error("{object} has format version {version}, this program reads up to {supported}; use a newer release")]
    Version {
        /// Object key or file path.
        object: String,
        /// The version found.
        version: u32,
        /// The newest version that is read here.
        supported: u32,
    },
    /// Another committer was faster; load the catalog again and decide anew.
    #[error("catalog of tenant {tenant}: entry {entry} was taken by another committer")]
    Conflict {
        /// The tenant.
        tenant: String,
        /// The entry number.
        entry: u64,
    },
    /// A named limit is reached.
    #[error("{limit} of {allowed} is exceeded ({what}); {remedy}")]
    Limit {
        /// The limit's name as an operator knows it.
        limit: &'static str,
        /// What it allows.
        allowed: u64,
        /// What ran into it.
        what: String,
        /// What can be done.
        remedy: &'static str,
    },
    /// Another part that this depends on cannot do it now; trying again may help.
    #[error("{what}: {reason}")]
    Unavailable {
        /// The part.
        what: &'static str,
        /// Why, and the remedy.
        reason: String,
    },
    /// The object store failed; trying again may help.
    #[error("object store: {0}")]
    Store(#[from] object_store::Error),
    /// The local disk failed.
    #[error("{path}: {source}")]
    Io {
        /// The path.
        path: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// A Parquet file could not be written or read.
    #[error("parquet: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// An Arrow array could not be built.
    #[error("arrow: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
}

impl Error {
    /// [`Error::Invalid`] in one call.
    pub fn invalid(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Invalid { what, reason: reason.into() }
    }

    /// [`Error::Corrupt`] in one call.
    pub fn corrupt(object: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Corrupt { object: object.into(), reason: reason.into() }
    }

    /// [`Error::Io`] in one call.
    pub fn io(path: impl AsRef<std::path::Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().display().to_string(), source }
    }
}
