//! Lists of namespaces, jobs, datasets, tags and sources, a page at a time.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::node::NO_NAMESPACE;
use super::{Kind, Missing, Reader, iso};
use crate::snapshot::NodeIdx;

/// Who owns a namespace of which nobody has said.
const NO_OWNER: &str = "anonymous";

/// A part of a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page {
    /// So many at most.
    pub limit: usize,
    /// After so many others.
    pub offset: usize,
}

impl Page {
    /// That part of the list.
    pub(super) fn of<T>(self, list: &[T]) -> &[T] {
        let start = self.offset.min(list.len());
        &list[start..(start + self.limit.min(list.len())).min(list.len())]
    }
}

/// How a list is sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// By namespace and name.
    Name,
    /// The ones that were heard of last come first.
    Updated,
}

impl Reader {
    /// All jobs, all datasets, or both, with what they are.
    pub(super) fn all(&self, wanted: Option<Kind>) -> impl Iterator<Item = (NodeIdx, Kind)> {
        let known = move |n: NodeIdx| self.known_as(n).map(|(kind, _)| (n, kind));
        self.snapshot.nodes().filter_map(known).filter(move |(_, kind)| wanted.is_none_or(|w| w == *kind))
    }

    /// Jobs or datasets in a namespace or in all, sorted.
    pub(super) fn sorted(&self, wanted: Kind, namespace: Option<&str>, order: Order) -> Vec<NodeIdx> {
        let in_namespace = |node: NodeIdx| {
            let Some((_, key)) = self.known_as(node) else { return false };
            namespace.is_none_or(|ns| key.namespace() == ns || (ns == NO_NAMESPACE && key.namespace().is_empty()))
        };
        let nodes = self.all(Some(wanted)).map(|(n, _)| n).filter(|n| in_namespace(*n));
        match order {
            Order::Name => {
                let mut named: Vec<_> = nodes.map(|n| (self.name(n), n)).collect();
                named.sort_unstable();
                named.into_iter().map(|(_, n)| n).collect()
            }
            Order::Updated => {
                let mut timed: Vec<_> = nodes.map(|n| (std::cmp::Reverse(self.times(n).1), n)).collect();
                timed.sort_unstable();
                timed.into_iter().map(|(_, n)| n).collect()
            }
        }
    }

    /// Jobs in a namespace, or in all; only those whose last run is in one of these states, if some are given.
    pub fn jobs(&self, namespace: Option<&str>, states: &[String], page: Page) -> Result<Value, Missing> {
        let order = if namespace.is_some() { Order::Name } else { Order::Updated };
        let mut jobs = self.sorted(Kind::Job, namespace, order);
        if let Some(namespace) = namespace.filter(|_| jobs.is_empty()) {
            self.namespace(namespace)?;
        }
        if !states.is_empty() {
            jobs.retain(|job| self.runs(*job).next().is_some_and(|run| states.iter().any(|s| s.eq_ignore_ascii_case(run.state))));
        }
        let list: Vec<Value> = page.of(&jobs).iter().map(|n| self.job_json(*n)).collect();
        Ok(json!({"jobs": list, "totalCount": jobs.len()}))
    }

    /// Datasets in a namespace, or in all.
    pub fn datasets(&self, namespace: Option<&str>, page: Page) -> Result<Value, Missing> {
        let datasets = self.sorted(Kind::Dataset, namespace, Order::Name);
        if let Some(namespace) = namespace.filter(|_| datasets.is_empty()) {
            self.namespace(namespace)?;
        }
        let list: Vec<Value> = page.of(&datasets).iter().map(|n| self.dataset_json(*n)).collect();
        Ok(json!({"datasets": list, "totalCount": datasets.len()}))
    }

    /// All namespaces with the times when something in them was heard of first and last.
    fn all_namespaces(&self) -> BTreeMap<String, (i64, i64)> {
        let mut found: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        for (node, _) in self.all(None) {
            let (first, last) = self.times(node);
            let times = found.entry(self.name(node).0).or_insert((first, last));
            *times = (times.0.min(first), times.1.max(last));
        }
        found
    }

    /// All namespaces.
    pub fn namespaces(&self, page: Page) -> Value {
        let all: Vec<_> = self.all_namespaces().into_iter().collect();
        let list: Vec<Value> = page.of(&all).iter().map(|(name, times)| namespace_json(name, *times)).collect();
        json!({"namespaces": list, "totalCount": all.len()})
    }

    /// One namespace.
    pub fn namespace(&self, name: &str) -> Result<Value, Missing> {
        let found = self.all_namespaces().get(name).map(|times| namespace_json(name, *times));
        found.ok_or_else(|| Missing("Namespace", name.to_owned()))
    }

    /// All tags of jobs, datasets and their fields.
    pub fn tags(&self, page: Page) -> Value {
        let graph = &self.snapshot.graph;
        let records = self.snapshot.nodes().flat_map(|n| graph.node_records(n.0));
        let said = records.flat_map(|r| graph.frozen.nodes[r].claims.at(self.at_ms()));
        let mut tags: Vec<&str> = said.flat_map(|(_, v, _)| &v.body.tags).map(String::as_str).collect();
        tags.sort_unstable();
        tags.dedup();
        let list: Vec<Value> = page.of(&tags).iter().map(|tag| json!({"name": tag, "description": null})).collect();
        json!({"tags": list, "totalCount": tags.len()})
    }

    /// Where datasets are: by name, the address and the times.
    fn all_sources(&self) -> BTreeMap<String, (String, i64, i64)> {
        let mut found: BTreeMap<String, (String, i64, i64)> = BTreeMap::new();
        for (node, _) in self.all(Some(Kind::Dataset)) {
            let (namespace, _) = self.name(node);
            let said = self.said(node);
            let facet = said.facet("dataSource");
            let text = |name: &str| facet.and_then(|f| f.get(name)?.as_str());
            let name = text("name").unwrap_or(&namespace).to_owned();
            let url = text("uri").unwrap_or(&namespace).to_owned();
            let (first, last) = self.times(node);
            let source = found.entry(name).or_insert((url, first, last));
            (source.1, source.2) = (source.1.min(first), source.2.max(last));
        }
        found
    }

    /// All sources.
    pub fn source_list(&self, page: Page) -> Value {
        let all: Vec<_> = self.all_sources().into_iter().collect();
        let list: Vec<Value> = page.of(&all).iter().map(|(name, source)| source_json(name, source)).collect();
        json!({"sources": list, "totalCount": all.len()})
    }

    /// One source.
    pub fn source(&self, name: &str) -> Result<Value, Missing> {
        let found = self.all_sources().get(name).map(|source| source_json(name, source));
        found.ok_or_else(|| Missing("Source", name.to_owned()))
    }

    /// Names of sources with the times when they were heard of first.
    pub(super) fn source_times(&self) -> Vec<i64> {
        self.all_sources().into_values().map(|(_, first, _)| first).collect()
    }
}

fn namespace_json(name: &str, (first_ms, last_ms): (i64, i64)) -> Value {
    json!({
        "name": name,
        "createdAt": iso(first_ms),
        "updatedAt": iso(last_ms),
        "ownerName": NO_OWNER,
        "description": null,
        "isHidden": false,
    })
}

fn source_json(name: &str, (url, first_ms, last_ms): &(String, i64, i64)) -> Value {
    let kind = url.split_once(':').map_or("POSTGRESQL", |(scheme, _)| scheme).to_ascii_uppercase();
    json!({
        "type": kind,
        "name": name,
        "createdAt": iso(*first_ms),
        "updatedAt": iso(*last_ms),
        "connectionUrl": url,
        "description": null,
    })
}
