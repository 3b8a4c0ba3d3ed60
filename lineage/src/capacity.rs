//! Load and headroom along a chain: which node saturates first when the traffic of an entry grows, and what could be shed.
//!
//! Queries tell how far nodes are used to capacity, rules of the mesh tell the traffic. [`chain`] tells how much of each node's load is the
//! entry's, [`forecast`] what a multiple of it would mean; both are plain functions of a snapshot and numbers. What follows the entry as
//! data, such as consumers of its messages, is not followed.

pub mod query;
pub mod chain;
pub mod forecast;
mod gather;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::mesh::span;
use crate::model::NodeKey;
use crate::service::{Service, Tenant};
use crate::{Answer, AsOf, Error, Result};
use forecast::Capacity;
use query::LoadQuery;

/// Most queries of one's own.
pub const MAX_QUERIES: usize = 50;

/// Longest time over which load is compared with traffic.
pub const MAX_HISTORY_MS: i64 = 31 * 24 * 3_600_000;

/// Factor by which traffic grows unless the request says otherwise.
pub const DEFAULT_FACTOR: f64 = 2.0;

/// Largest factor.
pub const MAX_FACTOR: f64 = 1_000.0;

/// The section of the settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Load is compared with traffic over so long before the time that is asked about.
    #[serde(with = "span")]
    pub history: i64,
    /// Utilisation at which a resource is saturated.
    pub saturation: f64,
    /// Whether there are the queries for CPU and memory of containers, CPU of hosts and processes, and pools.
    pub built_in: bool,
    /// Queries that are left out, by name.
    pub disabled: Vec<String>,
    /// Further queries. One with the name of a built-in query takes its place.
    pub queries: Vec<LoadQuery>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { history: 6 * 3_600_000, saturation: 1.0, built_in: true, disabled: Vec::new(), queries: Vec::new() }
    }
}

impl Settings {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the field.
    pub fn check(&self) -> Result<()> {
        if !(60_000..=MAX_HISTORY_MS).contains(&self.history) {
            return Err(Error::invalid("history", "is not from 1m to 31d"));
        }
        if !(self.saturation > 0.0 && self.saturation <= 10.0) {
            return Err(Error::invalid("saturation", format!("{} is not above 0 and at most 10; 1 is full", self.saturation)));
        }
        if self.queries.len() > MAX_QUERIES {
            return Err(Error::invalid("queries", format!("are {}, more than {MAX_QUERIES}", self.queries.len())));
        }
        for (i, query) in self.queries.iter().enumerate() {
            query.check().map_err(|e| e.within(&format!("queries[{i}]")))?;
            if self.queries[..i].iter().any(|q| q.name == query.name) {
                return Err(Error::invalid(format!("queries[{i}].name"), format!("{:?} is there twice", query.name)));
            }
        }
        let built_in = query::built_in();
        let known = |name: &String| built_in.iter().chain(&self.queries).any(|q| q.name == *name);
        if let Some(i) = self.disabled.iter().position(|name| !known(name)) {
            let names: Vec<&str> = built_in.iter().map(|q| q.name.as_str()).collect();
            let reason = format!("{:?} is no query; the built-in ones are {}", self.disabled[i], names.join(", "));
            return Err(Error::invalid(format!("disabled[{i}]"), reason));
        }
        Ok(())
    }

    /// The queries in force.
    pub fn active(&self) -> Vec<LoadQuery> {
        let built_in = if self.built_in { query::built_in() } else { Vec::new() };
        let replaced = |query: &LoadQuery| self.queries.iter().any(|q| q.name == query.name);
        let all = built_in.into_iter().filter(|q| !replaced(q)).chain(self.queries.iter().cloned());
        all.filter(|q| !self.disabled.contains(&q.name)).collect()
    }
}

/// What becomes of the chain behind an entry when its traffic is multiplied.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The entry.
    pub node: NodeKey,
    /// Its traffic, times this.
    pub factor: f64,
    /// As of when.
    pub as_of: AsOf,
}

/// Answers a request from the graph and the store of metrics.
///
/// # Errors
/// [`Error::Unknown`] if the node is not in the graph then; [`Error::Invalid`] if the factor is not above 0 and at most [`MAX_FACTOR`];
/// [`Error::Block`] if the graph cannot be read. Numbers that cannot be had are unresolved, not an error.
pub async fn capacity(service: &Service, tenant: &Tenant, request: &Request) -> Result<Answer<Capacity>> {
    if !(request.factor > 0.0 && request.factor <= MAX_FACTOR) {
        return Err(Error::invalid("factor", format!("{} is not above 0 and at most {MAX_FACTOR}", request.factor)));
    }
    let snapshot = tenant.store.snapshot(request.as_of).await?;
    let entry = snapshot.get(&request.node)?;
    let gathered = gather::gather(service, tenant, &snapshot, entry, request.as_of).await?;
    let (factor, saturation) = (request.factor, service.settings().capacity.saturation);
    let answer = tokio::task::spawn_blocking(move || forecast::forecast(&snapshot, gathered, factor, saturation));
    Ok(answer.await.expect("a forecast does not panic"))
}
