//! What every other crate shares: labels, samples and histograms, the chunk codec, the files of a block,
//! the catalog that says which blocks exist, and the traits through which data is read.
//!
//! This crate knows neither DataFusion nor HTTP. `FORMAT.md` beside it specifies every byte that it writes.

pub mod time;
pub mod labels;
pub mod sample;
pub mod histogram;
pub mod exemplar;
pub mod codec;
pub mod metadata;
pub mod matcher;
pub mod tenant;
pub mod source;
mod error;

pub use error::{Error, Result};
pub use exemplar::Exemplar;
pub use histogram::Histogram;
pub use labels::{Labels, LabelsRef};
pub use matcher::{MatchOp, Matcher};
pub use metadata::{Metadata, MetricType};
pub use sample::{SampleBuf, Timestamps, is_stale, stale_nan};
pub use source::{SeriesRun, SeriesSet, Source};
pub use tenant::TenantId;
pub use time::TimeRange;
