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
pub mod meta;
pub mod key;
pub mod writer;
mod checksum;
mod table;
pub mod reader;
pub mod cache;
pub mod log;
pub mod catalog;
pub mod mask;
pub mod resolution;
pub mod store;
pub mod union;
pub mod local;
pub mod dedup;
pub mod merge;
pub mod replicas;
pub mod promql;
#[doc(hidden)]
pub mod testing;
mod error;

pub use catalog::{Catalog, CatalogState, Change, Quarantined, RetiredBlock, Tombstone, TombstoneMatcher};
pub use error::{Error, Result};
pub use exemplar::Exemplar;
pub use histogram::Histogram;
pub use labels::{Labels, LabelsRef};
pub use mask::{Mask, Masked, Masks};
pub use matcher::{MatchOp, Matcher};
pub use meta::{BlockId, BlockMeta, WriterMark};
pub use metadata::{Metadata, MetricType};
pub use promql::{MatrixSeries, PromQl, SeriesSink, VectorSample};
pub use reader::BlockReader;
pub use sample::{SampleBuf, Timestamps, is_stale, stale_nan};
pub use source::{Aggregate, Coverage, Selected, SeriesRun, SeriesSet, Source, Want};
pub use store::{BlockStore, BlockStoreConfig};
pub use tenant::TenantId;
pub use time::TimeRange;
pub use union::Union;
pub use writer::{BlockWriter, WriterConfig};
