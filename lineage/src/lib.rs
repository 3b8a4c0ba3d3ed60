//! One graph of services and data over time: who depends on whom, who said so, and what a failure would touch.
//!
//! Facts come as events, which go to a numbered log in the object store and fold into a temporal graph. A snapshot is the graph as
//! of one time; every question is asked of a snapshot. Around that core are the sources that make events, the alerts whose impact is
//! assessed, and the HTTP API. Numbers come and go through the traits of `isobar_block::promql`; this crate knows no query engine.

pub mod model;
pub mod event;
pub mod history;
mod state;
pub mod snapshot;
pub mod diff;
pub mod analysis;
pub mod store;
pub mod import;
pub mod openlineage;
pub mod marquez;
pub mod traces;
pub mod mesh;
pub mod watch;
pub mod alerts;
pub mod capacity;
pub mod info;
pub mod table;
pub mod dot;
pub mod settings;
pub mod service;
pub mod http;
mod error;
#[cfg(test)]
mod testing;

pub use analysis::{Answer, Budget, Direction, Unresolved};
pub use error::{Error, Result};
pub use event::{Event, Fact};
pub use model::NodeKey;
pub use snapshot::{EdgeIdx, NodeIdx, Snapshot};
pub use store::{AsOf, LineageConfig, LineageStore, Outcome};
