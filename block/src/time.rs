//! Time as the store counts it: Unix milliseconds. The wall clock is read here and nowhere else.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Error, Result};

/// Span of sample timestamps, `start_ms <= t <= end_ms`, Unix milliseconds, both ends inside. Never empty:
/// [`TimeRange::new`] refuses `start_ms > end_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimeRange {
    start_ms: i64,
    end_ms: i64,
}

impl TimeRange {
    /// Everything that can have a timestamp.
    pub const ALL: Self = Self { start_ms: i64::MIN, end_ms: i64::MAX };

    /// The span from `start_ms` to `end_ms`, both inside.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `start_ms > end_ms`.
    pub fn new(start_ms: i64, end_ms: i64) -> Result<Self> {
        if start_ms > end_ms {
            return Err(Error::invalid("time range", format!("start {start_ms} ms is after end {end_ms} ms")));
        }
        Ok(Self { start_ms, end_ms })
    }

    /// First millisecond inside.
    pub fn start_ms(self) -> i64 {
        self.start_ms
    }

    /// Last millisecond inside.
    pub fn end_ms(self) -> i64 {
        self.end_ms
    }

    /// Whether `t_ms` lies inside.
    pub fn contains(self, t_ms: i64) -> bool {
        self.start_ms <= t_ms && t_ms <= self.end_ms
    }

    /// Whether some millisecond lies in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.start_ms <= other.end_ms && other.start_ms <= self.end_ms
    }
}

/// Now, in Unix milliseconds.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}
