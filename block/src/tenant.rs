//! The name of a tenant, safe to be a part of an object key.

use std::fmt;
use std::sync::Arc;

use crate::{Error, Result};

/// A tenant's name: 1 to 150 of the characters `a-z A-Z 0-9 ! - _ . * ' ( )`, and not `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// The tenant of requests that name none.
    pub const DEFAULT: &str = "default";

    /// Checks a name.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a character or the length is not allowed.
    pub fn new(name: &str) -> Result<Self> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "!-_.*'()".contains(c);
        if name.is_empty() || name.len() > 150 || name == "." || name == ".." || !name.chars().all(allowed) {
            return Err(Error::invalid(
                "tenant",
                format!(
                    "{:?} is not a tenant name; use 1 to 150 of a-z A-Z 0-9 ! - _ . * ' ( )",
                    name.chars().take(160).collect::<String>()
                ),
            ));
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TenantId {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
