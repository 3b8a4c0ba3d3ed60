//! Questions to a snapshot. All of them are plain functions of the snapshot and of what is handed in, bounded in work, and say what
//! they left out.

pub mod walk;
pub mod paths;
pub mod search;
pub mod cycles;
pub mod dominators;
pub mod single;
pub mod blast;
pub mod cause;
pub mod value;
pub(crate) mod order;
pub(crate) mod reach;
pub(crate) mod worlds;
pub(crate) mod spread;
pub(crate) mod starve;
pub(crate) mod explain;
pub(crate) mod rank;
#[cfg(test)]
mod exact;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::model::NodeKey;
use crate::snapshot::{NodeIdx, Snapshot, SourceSummary};
use crate::{Error, Result};

/// Work that an answer may cost unless the caller says otherwise: about so many visits of an edge, a few seconds.
pub const DEFAULT_WORK: u64 = 200_000_000;

/// After so much work somebody looks whether the caller still waits.
const LOOK_EVERY: u64 = 1 << 14;

/// What was asked for or met and could not be answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unresolved {
    /// The name, or the part of the answer.
    pub subject: String,
    /// Why, and what to do about it.
    pub reason: String,
}

impl Unresolved {
    pub(crate) fn new(subject: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { subject: subject.into(), reason: reason.into() }
    }
}

/// An answer, with what one has to know to trust it.
#[derive(Clone, Debug, Serialize)]
pub struct Answer<T> {
    /// Whether nothing was left out because of a limit or an unknown name.
    pub complete: bool,
    /// As of when it is, Unix milliseconds.
    pub as_of_ms: i64,
    /// Who has contributed to the graph, and when each was heard last.
    pub sources: Vec<SourceSummary>,
    /// What could not be answered.
    pub unresolved: Vec<Unresolved>,
    /// The answer.
    #[serde(flatten)]
    pub result: T,
}

/// Which way to walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// To what the node needs: where its answers and data come from.
    Providers,
    /// To what needs the node: who notices when it fails.
    Dependents,
}

/// How much work an answer may cost, and whether it is still wanted.
#[derive(Clone, Debug)]
pub struct Budget {
    left: u64,
    until_look: u64,
    canceled: Option<Arc<AtomicBool>>,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(DEFAULT_WORK)
    }
}

impl Budget {
    /// So much work, in visits of an edge.
    pub fn new(work: u64) -> Self {
        Self { left: work, until_look: LOOK_EVERY, canceled: None }
    }

    /// The same, given up with [`Error::Canceled`] soon after the flag is set.
    #[must_use]
    pub fn cancelable(mut self, flag: Arc<AtomicBool>) -> Self {
        self.canceled = Some(flag);
        self
    }

    /// Whether there is enough left for this; it is taken if so.
    pub(crate) fn spend(&mut self, work: u64) -> Result<bool> {
        if self.until_look <= work {
            self.until_look = LOOK_EVERY;
            if self.canceled.as_ref().is_some_and(|c| c.load(Ordering::Relaxed)) {
                return Err(Error::Canceled);
            }
        } else {
            self.until_look -= work;
        }
        match self.left.checked_sub(work) {
            Some(left) => self.left = left,
            None => return Ok(false),
        }
        Ok(true)
    }

    /// What is left.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }
}

impl Snapshot {
    /// Wraps a result. It is complete if nothing is unresolved but merges that contradict each other.
    pub(crate) fn answer<T>(&self, result: T, mut unresolved: Vec<Unresolved>) -> Answer<T> {
        let complete = unresolved.is_empty();
        unresolved.extend(self.graph.conflicts.iter().cloned());
        Answer { complete, as_of_ms: self.at_ms(), sources: self.sources().to_vec(), unresolved, result }
    }

    /// The nodes of these names; names that are not there become unresolved.
    pub(crate) fn resolve(&self, keys: &[NodeKey], unresolved: &mut Vec<Unresolved>) -> Vec<NodeIdx> {
        let mut nodes = Vec::new();
        for key in keys {
            match self.find(key) {
                Some(node) if !nodes.contains(&node) => nodes.push(node),
                Some(_) => {}
                None => unresolved
                    .push(Unresolved::new(key.as_str(), "is not in the graph at that time; search for it, or ask for another time")),
            }
        }
        nodes
    }
}

#[cfg(test)]
mod tests;
