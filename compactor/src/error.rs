//! What can go wrong while blocks are kept.

/// An error of the compactor.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A block, the catalog or the store.
    #[error(transparent)]
    Block(#[from] isobar_block::Error),
    /// A file to import or to export.
    #[error("{path}: {reason}")]
    File {
        /// The file, with the place in it where that is known.
        path: String,
        /// What is wrong, and what to do about it.
        reason: String,
    },
    /// The table of an export or a rollup.
    #[error("parquet: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// An Arrow batch.
    #[error("arrow: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    /// The configuration.
    #[error("{what}: {reason}")]
    Invalid {
        /// Which value.
        what: &'static str,
        /// What is wrong, and what to do about it.
        reason: String,
    },
    /// Somebody asked to stop.
    #[error("canceled")]
    Canceled,
}

/// Result of the compactor.
pub type Result<T, E = Error> = std::result::Result<T, E>;
