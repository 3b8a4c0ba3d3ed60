//! What Marquez needs to know of one node: what it is there, what it is called, and what is said of it.

use serde_json::{Map, Value, json};

use super::{Kind, Missing, NodeId, Reader};
use crate::history::Version;
use crate::model::{Class, NodeBody, NodeKey, Relation, kind};
use crate::openlineage;
use crate::snapshot::NodeIdx;

/// The namespace of nodes that have none.
pub(super) const NO_NAMESPACE: &str = "default";

/// Edges that are looked at for the times of a node.
const TIMED_EDGES: usize = 64;

/// A node's bodies, those that were said first before the others.
pub(super) struct Said<'a>(Vec<&'a Version<std::sync::Arc<NodeBody>>>);

impl<'a> Said<'a> {
    fn bodies(&self) -> impl DoubleEndedIterator<Item = &'a NodeBody> {
        self.0.iter().map(|v| &*v.body)
    }

    /// What was said last.
    pub fn description(&self) -> Value {
        let mut texts = self.bodies().rev().map(|b| b.description.as_str());
        texts.find(|d| !d.is_empty()).map_or(Value::Null, Into::into)
    }

    /// All words.
    pub fn tags(&self) -> Vec<&'a str> {
        let mut tags: Vec<&str> = self.bodies().flat_map(|b| &b.tags).map(String::as_str).collect();
        tags.sort_unstable();
        tags.dedup();
        tags
    }

    /// An attribute as it was said last.
    pub fn attribute(&self, name: &str) -> Option<&'a Value> {
        self.bodies().rev().find_map(|b| b.attributes.get(name))
    }

    /// A facet as it was said last.
    pub fn facet(&self, name: &str) -> Option<&'a Value> {
        self.bodies().rev().find_map(|b| b.attributes.get(openlineage::FACETS)?.get(name))
    }

    /// All facets.
    fn facets(&self) -> Map<String, Value> {
        let mut out = Map::new();
        for facets in self.bodies().filter_map(|b| b.attributes.get(openlineage::FACETS)?.as_object()) {
            out.extend(facets.iter().map(|(name, facet)| (name.clone(), facet.clone())));
        }
        out
    }
}

impl Reader {
    /// All names of a node, the one that it goes by first.
    pub(super) fn names(&self, node: NodeIdx) -> impl Iterator<Item = &NodeKey> {
        let graph = &self.snapshot.graph;
        graph.node_records(node.0).map(|r| &graph.frozen.nodes[r].key)
    }

    /// The kinds that are jobs or datasets, with those that inherit from them.
    fn kind_of_key(&self, key: &NodeKey) -> Option<Kind> {
        let types = self.snapshot.types();
        match key.kind() {
            kind::JOB => Some(Kind::Job),
            kind::DATASET | kind::TOPIC => Some(Kind::Dataset),
            kind::COLUMN | kind::SERVICE | kind::HOST | kind::INSTANCE | kind::WORKLOAD => None,
            other if types.is_a(other, kind::JOB) => Some(Kind::Job),
            other if types.is_a(other, kind::DATASET) || types.is_a(other, kind::TOPIC) => Some(Kind::Dataset),
            _ => None,
        }
    }

    /// What a node is, and the name that it has as such. A service that is also known as a job is a job here.
    pub(super) fn known_as(&self, node: NodeIdx) -> Option<(Kind, &NodeKey)> {
        self.names(node).find_map(|key| self.kind_of_key(key).map(|kind| (kind, key)))
    }

    /// Namespace and name of a job or dataset.
    pub(super) fn name(&self, node: NodeIdx) -> (String, String) {
        let key = self.known_as(node).map_or_else(|| self.snapshot.key(node), |(_, key)| key);
        split(key)
    }

    /// The node's id in Marquez.
    pub(super) fn node_id(&self, node: NodeIdx) -> String {
        let (namespace, name) = self.name(node);
        match self.known_as(node) {
            Some((Kind::Job, _)) => format!("job:{namespace}:{name}"),
            _ => format!("dataset:{namespace}:{name}"),
        }
    }

    /// A job or dataset by namespace and name.
    pub(super) fn find(&self, wanted: Kind, namespace: &str, name: &str) -> Option<NodeIdx> {
        let roots = match wanted {
            Kind::Job => &[kind::JOB][..],
            Kind::Dataset if namespace.starts_with("kafka://") => &[kind::TOPIC, kind::DATASET],
            Kind::Dataset => &[kind::DATASET, kind::TOPIC],
        };
        let types = self.snapshot.types();
        let inherited = types.iter().map(|(k, _)| k).filter(|k| !roots.contains(k) && roots.iter().any(|r| types.is_a(k, r)));
        let kinds: Vec<&str> = roots.iter().copied().chain(inherited).collect();
        let namespaces = [namespace, ""];
        let namespaces = &namespaces[..if namespace == NO_NAMESPACE { 2 } else { 1 }];
        let mut keys = namespaces.iter().flat_map(|ns| kinds.iter().filter_map(move |k| NodeKey::new(k, ns, name).ok()));
        keys.find_map(|key| self.snapshot.find(&key))
    }

    /// A job or dataset that has to be there.
    pub(super) fn get(&self, wanted: Kind, namespace: &str, name: &str) -> Result<NodeIdx, Missing> {
        let what = if wanted == Kind::Job { "Job" } else { "Dataset" };
        self.find(wanted, namespace, name).ok_or_else(|| Missing(what, name.to_owned()))
    }

    /// The column of a dataset.
    pub(super) fn find_field(&self, dataset: NodeIdx, field: &str) -> Option<NodeIdx> {
        self.names(dataset).find_map(|key| self.snapshot.find(&NodeKey::column(key, field).ok()?))
    }

    /// The job or dataset that an id means.
    pub(super) fn resolve(&self, id: &NodeId, text: &str) -> Result<NodeIdx, Missing> {
        let found = match id {
            NodeId::Named(kind, readings) => readings.iter().find_map(|(namespace, name)| self.find(*kind, namespace, name)),
            NodeId::Field(readings) => {
                let field = |(ns, name, field): &(String, String, String)| self.find_field(self.find(Kind::Dataset, ns, name)?, field);
                readings.iter().find_map(field)
            }
            NodeId::Run(run) => self.run(run).map(|r| r.job),
        };
        found.ok_or_else(|| Missing("Node", text.to_owned()))
    }

    /// What is said of a node.
    pub(super) fn said(&self, node: NodeIdx) -> Said<'_> {
        let graph = &self.snapshot.graph;
        let claims = graph.node_records(node.0).flat_map(|r| graph.frozen.nodes[r].claims.at(self.at_ms()));
        let mut versions: Vec<_> = claims.map(|(_, version, _)| version).collect();
        versions.sort_by_key(|v| v.from_ms);
        Said(versions)
    }

    /// When the node was heard of first and last, Unix milliseconds: it or one of its edges, because what is said of a node is often not
    /// said again with every run.
    pub(super) fn times(&self, node: NodeIdx) -> (i64, i64) {
        let (graph, at_ms) = (&self.snapshot.graph, self.at_ms());
        let (mut first, mut last) = (i64::MAX, 0);
        for claims in graph.node_records(node.0).map(|r| &graph.frozen.nodes[r].claims) {
            first = first.min(claims.first_seen_ms().unwrap_or(i64::MAX));
            last = claims.at(at_ms).map(|(_, v, _)| v.seen_ms).fold(last, i64::max);
        }
        let around = self.snapshot.providers(node).chain(self.snapshot.dependents(node)).take(TIMED_EDGES);
        for claims in around.flat_map(|(e, _)| graph.edge_records(e.0)).map(|r| &graph.frozen.edges[r].claims) {
            first = first.min(claims.first_seen_ms().unwrap_or(i64::MAX));
            last = claims.at(at_ms).map(|(_, v, _)| v.seen_ms).fold(last, i64::max);
        }
        (first.min(at_ms), last.min(at_ms).max(first.min(at_ms)))
    }

    /// The facets of a node: those of its description, and those that come with every run.
    pub(super) fn facets(&self, node: NodeIdx) -> Map<String, Value> {
        let mut facets = self.said(node).facets();
        for key in self.names(node) {
            for (name, _, facet) in self.store.documents(key, openlineage::LATEST) {
                facets.insert(name[openlineage::LATEST.len()..].to_owned(), (*facet).clone());
            }
        }
        facets
    }

    /// Where data comes from: nodes that are jobs or datasets.
    pub(super) fn sources(&self, node: NodeIdx) -> impl Iterator<Item = (NodeIdx, Kind)> {
        let own = self.known_as(node).map(|(kind, _)| kind);
        self.snapshot.providers(node).filter_map(move |(e, other)| {
            let (kind, _) = self.known_as(other)?;
            self.is_flow(e.0, own, kind).then_some((other, kind))
        })
    }

    /// Where data goes to.
    pub(super) fn targets(&self, node: NodeIdx) -> impl Iterator<Item = (NodeIdx, Kind)> {
        let own = self.known_as(node).map(|(kind, _)| kind);
        self.snapshot.dependents(node).filter_map(move |(e, other)| {
            let (kind, _) = self.known_as(other)?;
            own.is_some_and(|own| self.is_flow(e.0, Some(kind), own)).then_some((other, kind))
        })
    }

    /// Composition is no flow of data, and neither is the order of jobs. The edge from a job to what it reads is one even where it is of
    /// class ordering, which says that an output is made only from what is said of it.
    fn is_flow(&self, edge: u32, dependent: Option<Kind>, provider: Kind) -> bool {
        let edge = &self.snapshot.graph.edges[edge as usize];
        let reads = (dependent, provider) == (Some(Kind::Job), Kind::Dataset);
        edge.relation == Relation::Dependency && (edge.class != Class::Ordering || reads)
    }

    /// Datasets that a job reads, but of which it was said which outputs are made from them.
    pub(super) fn explicit_inputs(&self, job: NodeIdx) -> impl Iterator<Item = NodeIdx> {
        let is_explicit = |e: u32| self.snapshot.graph.edges[e as usize].class == Class::Ordering;
        self.snapshot.providers(job).filter(move |(e, _)| is_explicit(e.0)).map(|(_, input)| input)
    }

    /// The wholes that a node is a part of.
    pub(super) fn wholes(&self, node: NodeIdx) -> impl Iterator<Item = NodeIdx> {
        let is_part = |e: u32| self.snapshot.graph.edges[e as usize].relation == Relation::Composition;
        self.snapshot.dependents(node).filter(move |(e, _)| is_part(e.0)).map(|(_, whole)| whole)
    }

    /// The parts of a node.
    pub(super) fn parts(&self, node: NodeIdx) -> impl Iterator<Item = NodeIdx> {
        let is_part = |e: u32| self.snapshot.graph.edges[e as usize].relation == Relation::Composition;
        self.snapshot.providers(node).filter(move |(e, _)| is_part(e.0)).map(|(_, part)| part)
    }

    /// Namespaces and names of nodes, sorted.
    pub(super) fn pairs(&self, nodes: impl Iterator<Item = NodeIdx>) -> Vec<(String, String)> {
        let mut pairs: Vec<_> = nodes.map(|n| self.name(n)).collect();
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }
}

/// Namespace and name of a key.
pub(super) fn split(key: &NodeKey) -> (String, String) {
    let namespace = key.namespace();
    let namespace = if namespace.is_empty() { NO_NAMESPACE.to_owned() } else { namespace.into_owned() };
    (namespace, key.name().into_owned())
}

/// Namespaces and names as Marquez writes them.
pub(super) fn pair_list(pairs: &[(String, String)]) -> Value {
    pairs.iter().map(|(namespace, name)| json!({"namespace": namespace, "name": name})).collect()
}
