//! The one integration-test binary: real programs, end to end, and the house rules.

mod house;
mod remote_write;
mod end_to_end;
mod conformance;
mod kill;
mod long_term;
mod marquez;
mod faults;
mod cancellation;
mod otlp;
mod traces;
mod import;
mod compaction;
mod rollups;
mod lineage;
mod boutique;
mod openlineage;
mod alerts;
mod mesh;
mod memory;
mod lineage_import;
