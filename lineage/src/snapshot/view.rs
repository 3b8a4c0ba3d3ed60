//! Nodes and edges of a snapshot in full, for people: everything that anybody says, with who says it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::effective::effective;
use super::{EdgeIdx, NodeIdx, STALE, Snapshot};
use crate::history::{SourceId, Version};
use crate::model::{Attributes, Class, Criticality, EdgeBody, Evidence, EvidenceSet, Flow, Group, NodeKey, Owner, Relation, Status};

/// A node in a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeRef {
    /// The name that it goes by.
    pub id: NodeKey,
    /// What kind it is.
    pub kind: String,
    /// A name for people.
    pub name: String,
    /// Who answers for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<Owner>,
    /// How much it matters.
    pub criticality: Criticality,
}

/// A node in full.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeView {
    /// The name that it goes by.
    pub id: NodeKey,
    /// What kind it is, and what that kind inherits from, nearest first.
    pub kinds: Vec<String>,
    /// A name for people.
    pub name: String,
    /// What it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Who answers for it, as all sources say.
    pub owners: Vec<Owner>,
    /// How much it matters: the most that any source says.
    pub criticality: Criticality,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// Where traffic or work begins.
    pub entry: bool,
    /// Live if anybody who says that it is there says so within the TTL, or if nobody but its edges does.
    pub status: Status,
    /// How it is known.
    pub evidence: EvidenceSet,
    /// Attributes by name; where sources differ, what was said last.
    pub attributes: Attributes,
    /// Attributes that its type requires and nobody gives.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing_attributes: Vec<String>,
    /// Its other names.
    pub aliases: Vec<AliasView>,
    /// Who says that it is there.
    pub claims: Vec<ClaimView>,
}

/// Another name of a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AliasView {
    /// The name.
    pub id: NodeKey,
    /// The name that it was said to be an alias of.
    pub canonical: NodeKey,
    /// By which rule.
    pub rule: String,
    /// Who says so.
    pub claim: ClaimView,
}

/// Who says something since when.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClaimView {
    /// The source.
    pub source: String,
    /// The part of the source.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scope: String,
    /// How fresh it is.
    pub status: Status,
    /// First millisecond.
    pub from_ms: i64,
    /// When it was said last.
    pub seen_ms: i64,
    /// It is live for so long after it was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<i64>,
}

/// What one source says about an edge.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EdgeClaimView {
    /// Who.
    #[serde(flatten)]
    pub claim: ClaimView,
    /// What.
    pub says: EdgeBody,
}

/// An edge in full.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EdgeView {
    /// The dependent.
    pub from: NodeKey,
    /// The provider.
    pub to: NodeKey,
    /// How they belong together.
    pub relation: Relation,
    /// What a failure of the provider does.
    pub class: Class,
    /// What flows.
    pub flow: Flow,
    /// The redundancy group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
    /// Fraction of the dependent's requests that use the provider.
    pub share: f32,
    /// Probability that a failed call fails the dependent.
    pub coupling: f32,
    /// Probability that the edge is real.
    pub confidence: f32,
    /// Probability that a failure of the provider reaches a request to the dependent.
    pub probability: f32,
    /// How much later data arrives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_ms: Option<i64>,
    /// How fresh it is.
    pub status: Status,
    /// How it is known.
    pub evidence: EvidenceSet,
    /// When anybody said it first.
    pub first_seen_ms: i64,
    /// When anybody said it last.
    pub last_seen_ms: i64,
    /// What each source says.
    pub claims: Vec<EdgeClaimView>,
}

impl Snapshot {
    /// Who answers for a node, as all sources say.
    pub fn owners_of(&self, node: NodeIdx) -> Vec<&Owner> {
        let mut owners: Vec<&Owner> = Vec::new();
        for record in self.graph.node_records(node.0) {
            for (_, version, _) in self.graph.frozen.nodes[record].claims.at(self.at_ms()) {
                for owner in &version.body.owners {
                    if !owners.contains(&owner) {
                        owners.push(owner);
                    }
                }
            }
        }
        owners
    }

    /// The node as in lists.
    pub fn node_ref(&self, node: NodeIdx) -> NodeRef {
        let said = |r: u32| self.graph.frozen.nodes[r].claims.at(self.at_ms());
        let mut titles = self.graph.node_records(node.0).flat_map(said).map(|(_, v, _)| v.body.title.as_str());
        let id = self.key(node).clone();
        let name = titles.find(|t| !t.is_empty()).map_or_else(|| id.name().into_owned(), str::to_owned);
        let owners = self.owners_of(node).into_iter().cloned().collect();
        NodeRef { id, kind: self.kind(node).into(), name, owners, criticality: self.criticality(node) }
    }

    /// The node in full.
    pub fn node(&self, node: NodeIdx) -> NodeView {
        let graph = &self.graph;
        let NodeRef { id, kind, name, owners, criticality } = self.node_ref(node);
        let mut view = NodeView {
            kinds: graph.types.ancestry(&kind).into_iter().map(str::to_owned).collect(),
            id,
            name,
            description: String::new(),
            owners,
            criticality,
            tags: Vec::new(),
            entry: graph.entry[node.0 as usize],
            status: Status::Live,
            evidence: EvidenceSet::default(),
            attributes: Attributes::new(),
            missing_attributes: Vec::new(),
            aliases: self.aliases(node),
            claims: Vec::new(),
        };
        let mut said: Vec<_> = graph.node_records(node.0).flat_map(|r| graph.frozen.nodes[r].claims.at(self.at_ms)).collect();
        said.sort_by_key(|(_, version, _)| version.from_ms);
        if !said.is_empty() && said.iter().all(|(_, _, status)| *status == Status::Stale) {
            view.status = Status::Stale;
        }
        for (source, version, status) in said {
            let body = &version.body;
            view.evidence.insert(body.evidence);
            if !body.description.is_empty() {
                view.description.clone_from(&body.description);
            }
            view.tags.extend(body.tags.iter().cloned());
            view.attributes.extend(body.attributes.iter().map(|(k, v)| (k.clone(), v.clone())));
            view.claims.push(self.claim(source, version, status));
        }
        view.tags.sort_unstable();
        view.tags.dedup();
        let missing = graph.types.missing(&kind, &view.attributes);
        view.missing_attributes = missing.into_iter().map(str::to_owned).collect();
        view
    }

    /// Whether several names were joined into this node.
    pub fn has_aliases(&self, node: NodeIdx) -> bool {
        self.graph.node_records(node.0).nth(1).is_some()
    }

    fn aliases(&self, node: NodeIdx) -> Vec<AliasView> {
        let frozen = &self.graph.frozen;
        let records: Vec<u32> = self.graph.node_records(node.0).collect();
        if records.len() == 1 {
            return Vec::new();
        }
        let mut out = Vec::new();
        for record in frozen.aliases.iter().filter(|r| records.contains(&r.alias) && records.contains(&r.canonical)) {
            for (source, version, status) in record.same.at(self.at_ms) {
                out.push(AliasView {
                    id: frozen.nodes[record.alias].key.clone(),
                    canonical: frozen.nodes[record.canonical].key.clone(),
                    rule: version.body.0.to_string(),
                    claim: self.claim(source, version, status),
                });
            }
        }
        out
    }

    fn claim<B>(&self, source: SourceId, version: &Version<B>, status: Status) -> ClaimView {
        let record = self.graph.frozen.source(source);
        ClaimView {
            source: record.source.to_string(),
            scope: record.scope.to_string(),
            status,
            from_ms: version.from_ms,
            seen_ms: version.seen_ms,
            ttl_ms: (version.ttl_ms > 0).then_some(version.ttl_ms),
        }
    }

    /// The edge in full.
    pub fn edge(&self, edge: EdgeIdx) -> EdgeView {
        let graph = &self.graph;
        let (from, to) = self.ends(edge);
        let short = &graph.edges[edge.0 as usize];
        let records = || graph.edge_records(edge.0).map(|r| &graph.frozen.edges[r].claims);
        let said = effective(records(), self.at_ms).expect("the edge is in the snapshot because somebody says so");
        let claims: Vec<EdgeClaimView> = records()
            .flat_map(|c| c.at(self.at_ms))
            .map(|(source, version, status)| EdgeClaimView { claim: self.claim(source, version, status), says: version.body.clone() })
            .collect();
        EdgeView {
            from: self.key(from).clone(),
            to: self.key(to).clone(),
            relation: short.relation,
            class: said.class,
            flow: short.flow,
            group: said.group.cloned(),
            share: said.share,
            coupling: said.coupling,
            confidence: said.confidence,
            probability: short.probability,
            lag_ms: said.lag_ms,
            status: if short.marks & STALE != 0 { Status::Stale } else { Status::Live },
            evidence: said.evidence,
            first_seen_ms: records().filter_map(crate::history::Claims::first_seen_ms).min().unwrap_or(0),
            last_seen_ms: claims.iter().map(|c| c.claim.seen_ms).max().unwrap_or(0),
            claims,
        }
    }

    /// How much later the dependent of an edge has what the provider had; 0 if nobody says.
    pub(crate) fn lag_ms(&self, edge: u32) -> i64 {
        let claims = self.graph.edge_records(edge).map(|r| &self.graph.frozen.edges[r].claims);
        effective(claims, self.at_ms).and_then(|e| e.lag_ms).unwrap_or(0)
    }

    /// Whether what is known about the edge includes this kind of evidence.
    pub(crate) fn has_evidence(&self, edge: u32, evidence: Evidence) -> bool {
        let mut claims = self.graph.edge_records(edge).flat_map(|r| self.graph.frozen.edges[r].claims.at(self.at_ms));
        claims.any(|(_, version, _)| version.body.evidence == evidence)
    }

    /// How many nodes there are of each kind.
    pub fn count_by_kind(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for node in self.nodes() {
            *counts.entry(self.kind(node)).or_insert(0) += 1;
        }
        counts
    }
}
