//! How an event speaks: of what it has seen or of what is declared, at what time, and for how long it counts.

use serde_json::Value;

use super::read::At;
use crate::Result;
use crate::event::{EdgeFact, Fact};
use crate::model::{Attributes, Class, EdgeBody, Evidence, NodeKey, Relation};

/// What a run has shown is live for so long after the last run that showed it, unless the job runs more rarely than that.
pub const RUN_TTL_MS: i64 = 35 * 24 * 3600 * 1000;

/// What a run has shown is live for at least so many times the interval of the job's runs.
pub const TTL_INTERVALS: i64 = 3;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Voice {
    /// Time of the event, Unix milliseconds.
    pub at_ms: i64,
    /// Time to live of its facts; 0 for what stays until it is replaced.
    pub ttl_ms: i64,
    /// How it is known.
    pub evidence: Evidence,
}

impl Voice {
    /// Of a run.
    pub fn observed(at_ms: i64, interval_ms: Option<i64>) -> Self {
        let ttl_ms = RUN_TTL_MS.max(interval_ms.unwrap_or(0).saturating_mul(TTL_INTERVALS)).min(crate::event::MAX_TTL_MS);
        Self { at_ms, ttl_ms, evidence: Evidence::Observed }
    }

    /// Of a description that holds until the next one.
    pub fn declared(at_ms: i64) -> Self {
        Self { at_ms, ttl_ms: 0, evidence: Evidence::Declared }
    }

    /// That `part` is a part of `whole`.
    pub fn composed(&self, whole: &NodeKey, part: &NodeKey) -> Fact {
        let body = EdgeBody { evidence: self.evidence, ..EdgeBody::default() };
        Fact::Edge(EdgeFact { from: whole.clone(), to: part.clone(), relation: Relation::Composition, ttl_ms: self.ttl_ms, body })
    }

    /// That `from` depends on `to`; nothing if they are the same, such as a table that is made of itself.
    pub fn depends(&self, from: &NodeKey, to: &NodeKey, body: EdgeBody, out: &mut Vec<Fact>) {
        if from != to {
            let body = EdgeBody { evidence: self.evidence, ..body };
            let edge = EdgeFact { from: from.clone(), to: to.clone(), relation: Relation::Dependency, ttl_ms: self.ttl_ms, body };
            out.push(Fact::Edge(edge));
        }
    }
}

/// An edge of class ordering, with why.
pub(super) fn ordering(attributes: &[(&str, Value)]) -> EdgeBody {
    EdgeBody { class: Some(Class::Ordering), attributes: named(attributes), ..EdgeBody::default() }
}

/// An edge with the transformations of a list of sources.
pub(super) fn transformed(source: &At) -> Result<EdgeBody> {
    let Some(list) = source.field("transformations") else { return Ok(EdgeBody::default()) };
    drop(list.items()?);
    let is_empty = list.value.as_array().is_none_or(Vec::is_empty);
    let attributes = if is_empty { None } else { named(&[("transformations", super::about::cut(list.value, MAX_TRANSFORMATIONS_BYTES))]) };
    Ok(EdgeBody { attributes, ..EdgeBody::default() })
}

/// Largest list of transformations that is kept at an edge.
const MAX_TRANSFORMATIONS_BYTES: usize = 16 << 10;

/// Attributes by name, or none.
pub(super) fn named(attributes: &[(&str, Value)]) -> Option<Box<Attributes>> {
    if attributes.is_empty() {
        return None;
    }
    Some(Box::new(attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()))
}
