//! What can go wrong with lineage: one variant for each decision that a caller can make.

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the lineage graph.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was sent breaks a rule; sending it again will not help.
    #[error("{path}: {reason}")]
    Invalid {
        /// Where in the input, as in `facts[3].share`.
        path: String,
        /// The rule that it breaks and the remedy.
        reason: String,
    },
    /// A composition or an inheritance would come back to where it began.
    #[error("{relation} must not have a cycle: {}; leave one of these out", path.join(" -> "))]
    Cycle {
        /// `composition`, `inheritance` or `composition of types`.
        relation: &'static str,
        /// The names along the cycle; the last one is the first one.
        path: Vec<String>,
    },
    /// A node that was asked for is not in the graph at that time.
    #[error("{node} is not in the graph as of {at_ms}; search for it, or ask for another time")]
    Unknown {
        /// The node's textual id.
        node: String,
        /// The time, Unix milliseconds.
        at_ms: i64,
    },
    /// Too much is waiting; sending it again later will help.
    #[error("{limit} of {allowed} is exceeded; send it again later")]
    Busy {
        /// The limit's name as an operator knows it.
        limit: &'static str,
        /// What it allows.
        allowed: u64,
    },
    /// The log could not be written. The events may or may not be in it; sending them again does no harm.
    #[error("the lineage log was not written: {reason}; send it again later")]
    NotWritten {
        /// What the store said.
        reason: String,
    },
    /// The caller does not want the answer any more, or its time is over.
    #[error("canceled")]
    Canceled,
    /// The log, a checkpoint or the store.
    #[error(transparent)]
    Block(#[from] isobar_block::Error),
}

impl Error {
    /// [`Error::Invalid`] in one call.
    pub fn invalid(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { path: path.into(), reason: reason.into() }
    }

    /// The same error, with the place that the caller knows in front of the one that it has.
    #[must_use]
    pub fn within(self, outer: &str) -> Self {
        match self {
            Self::Invalid { path, reason } if path.is_empty() => Self::Invalid { path: outer.into(), reason },
            Self::Invalid { path, reason } if path.starts_with('[') => Self::Invalid { path: format!("{outer}{path}"), reason },
            Self::Invalid { path, reason } => Self::Invalid { path: format!("{outer}.{path}"), reason },
            other => other,
        }
    }
}
