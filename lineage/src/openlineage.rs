//! OpenLineage events: read, checked, and turned into facts. Not the HTTP endpoints.
//!
//! What comes is kept as it came in the log of events; what it says becomes jobs, datasets, columns and edges of the graph, and runs
//! become documents of their job.

mod read;
mod names;
mod about;
mod schema;
mod voice;
mod edges;
mod dataset;
mod lineage;
mod run;
mod known;
mod parts;
mod side;
mod job;
mod observed;
mod described;
mod translate;
mod dropped;
mod intake;

pub use about::{FACETS, LATEST};
pub use dataset::{FIELD_TAGS, SYMLINKS};
pub use intake::{Accepted, Intake};
pub use job::{LINEAGE, PROCESSING_TYPE, RUN_INTERVAL};
pub use names::{SOURCE, dataset as dataset_key, job as job_key, runs_scope, static_scope};
pub use run::{FRESHNESS, RUN};
pub use schema::FIELDS;
pub use voice::RUN_TTL_MS;

#[cfg(test)]
mod tests;
