//! The read API of Marquez over the graph and its documents: jobs, datasets, runs, versions and lineage in the shapes that scripts and
//! pages written for Marquez expect. Not the routes, which are in the HTTP part.
//!
//! Two things differ on purpose. Lineage is walked in a direction: what a node is made from, and what is made from it, without what merely
//! shares an input with it. And every answer can be as of a time; only runs have no history of their own, so that one that was going on
//! at that time is shown as such.

mod id;
mod node;
mod run;
mod version;
mod dataset;
mod job;
mod graph;
mod columns;
mod lists;
mod search;
mod stats;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::snapshot::{NodeIdx, Snapshot};
use crate::store::LineageStore;

pub use graph::{MAX_DEPTH, MAX_LINEAGE_NODES};
pub(crate) use id::NodeId;
pub(crate) use lists::{Order, Page};
pub(crate) use search::Found;
pub(crate) use stats::{Counted, Period};

/// What a node is in Marquez's eyes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A table, a file, a topic.
    Dataset,
    /// A job.
    Job,
}

/// What was asked for is not there: what, and its name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Missing(pub &'static str, pub String);

/// One look at the graph and its documents; made for one request.
pub(crate) struct Reader {
    snapshot: Arc<Snapshot>,
    store: Arc<LineageStore>,
    /// By dataset, what was found out about its versions.
    versions: RefCell<HashMap<NodeIdx, Rc<Vec<version::Version>>>>,
}

impl Reader {
    /// Reads this snapshot and the documents of the store that it came from.
    pub fn new(snapshot: Arc<Snapshot>, store: Arc<LineageStore>) -> Self {
        Self { snapshot, store, versions: RefCell::default() }
    }

    /// As of when it reads, Unix milliseconds.
    pub fn at_ms(&self) -> i64 {
        self.snapshot.at_ms()
    }
}

/// A time as Marquez writes it.
fn iso(ms: i64) -> String {
    DateTime::<Utc>::from_timestamp_millis(ms).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// A time that may not be known.
fn iso_or_null(ms: Option<i64>) -> Value {
    ms.map_or(Value::Null, |ms| iso(ms).into())
}

/// A namespace and a name.
fn pair(namespace: &str, name: &str) -> Value {
    json!({"namespace": namespace, "name": name})
}

/// A UUID that depends on these texts only, so that the same thing has the same one in every answer: FNV-1a with 128 bits, marked as
/// version 8.
fn uuid(texts: &[&str]) -> String {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013B;
    let mut hash: u128 = 0x6C62_272E_07BB_0142_62B8_2175_6295_C58D;
    for text in texts {
        for byte in text.bytes().chain([0xFF]) {
            hash = (hash ^ u128::from(byte)).wrapping_mul(PRIME);
        }
    }
    let hash = hash & !(0xF << 76) | (0x8 << 76);
    let hex = format!("{:032x}", hash & !(0x3 << 62) | (0x2 << 62));
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests;
