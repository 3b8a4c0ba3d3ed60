//! One graph of services and data over time: who depends on whom, who said so, and what a failure would touch.
//!
//! Facts come as events, which go to a numbered log in the object store and fold into a temporal graph. A snapshot is the graph as
//! of one time; every question is asked of a snapshot. This crate knows neither HTTP nor where events and metrics come from.

pub mod model;
pub mod event;
pub mod history;
mod state;
pub mod snapshot;
pub mod diff;
pub mod analysis;
pub mod store;
pub mod import;
mod error;
#[cfg(test)]
mod testing;

pub use analysis::{Answer, Budget, Direction, Unresolved};
pub use error::{Error, Result};
pub use event::{Event, Fact};
pub use model::NodeKey;
pub use snapshot::{EdgeIdx, NodeIdx, Snapshot};
pub use store::{AsOf, LineageConfig, LineageStore, Outcome};
