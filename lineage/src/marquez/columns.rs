//! Column lineage.

use std::collections::{HashSet, VecDeque};

use serde_json::{Value, json};

use super::graph::{MAX_DEPTH, MAX_LINEAGE_NODES, graph_json};
use super::node::NO_NAMESPACE;
use super::{Kind, Missing, NodeId, Reader};
use crate::model::{Class, Relation, kind};
use crate::openlineage::FIELDS;
use crate::snapshot::{EdgeIdx, NodeIdx};

/// Namespace, dataset and field of a column.
struct Name {
    namespace: String,
    dataset: String,
    field: String,
}

impl Reader {
    fn is_column(&self, node: NodeIdx) -> bool {
        self.snapshot.kind(node) == kind::COLUMN
    }

    /// The name of a column, with its dataset's name as it goes by.
    fn column_name(&self, column: NodeIdx) -> Name {
        let key = self.snapshot.key(column);
        let parts = key.parts();
        let part = |from_end: usize| parts.len().checked_sub(from_end).map_or("", |i| parts[i].as_ref());
        let (namespace, dataset, field) = (part(3), part(2), part(1).to_owned());
        let known = self.find(Kind::Dataset, if namespace.is_empty() { NO_NAMESPACE } else { namespace }, dataset);
        match known.map(|d| self.name(d)) {
            Some((namespace, dataset)) => Name { namespace, dataset, field },
            None => Name { namespace: namespace.to_owned(), dataset: dataset.to_owned(), field },
        }
    }

    fn column_id(&self, column: NodeIdx) -> String {
        let Name { namespace, dataset, field } = self.column_name(column);
        format!("datasetField:{namespace}:{dataset}:{field}")
    }

    /// Columns that a column is made from, or that are made from it.
    fn column_edges(&self, column: NodeIdx, up: bool) -> Vec<(EdgeIdx, NodeIdx)> {
        let is_flow = |e: &EdgeIdx| {
            let edge = &self.snapshot.graph.edges[e.0 as usize];
            edge.relation == Relation::Dependency && edge.class != Class::Ordering
        };
        let wanted = |(e, other): &(EdgeIdx, NodeIdx)| is_flow(e) && self.is_column(*other);
        if up {
            self.snapshot.providers(column).filter(wanted).collect()
        } else {
            self.snapshot.dependents(column).filter(wanted).collect()
        }
    }

    /// A source of a column with how it is transformed.
    fn input_field(&self, edge: EdgeIdx, source: NodeIdx) -> Value {
        let Name { namespace, dataset, field } = self.column_name(source);
        let transformations = self.transformations(edge);
        let first = |name: &str| transformations.as_ref().and_then(|t| t.get(0)?.get(name)).cloned();
        json!({
            "namespace": namespace,
            "dataset": dataset,
            "datasetVersion": null,
            "field": field,
            "transformationDescription": first("description").unwrap_or(Value::Null),
            "transformationType": first("subtype").filter(|s| s.as_str() != Some("")).or_else(|| first("type")).unwrap_or(Value::Null),
            "transformations": transformations.unwrap_or_else(|| json!([])),
        })
    }

    /// What was said of how an edge transforms.
    fn transformations(&self, edge: EdgeIdx) -> Option<Value> {
        let graph = &self.snapshot.graph;
        let claims = graph.edge_records(edge.0).flat_map(|r| graph.frozen.edges[r].claims.at(self.at_ms()));
        let mut said: Vec<_> =
            claims.filter_map(|(_, v, _)| Some((v.seen_ms, v.body.attributes.as_ref()?.get("transformations")?))).collect();
        said.sort_by_key(|(seen_ms, _)| *seen_ms);
        said.last().map(|(_, t)| (*t).clone())
    }

    /// What a column is made from, as it stands with its dataset.
    pub(super) fn column_sources(&self, column: NodeIdx) -> Option<Value> {
        let inputs: Vec<Value> = self.column_edges(column, true).into_iter().map(|(e, source)| self.input_field(e, source)).collect();
        (!inputs.is_empty()).then(|| json!({"name": self.column_name(column).field, "inputFields": inputs}))
    }

    /// All columns of a dataset, those inside others too.
    fn columns_of(&self, dataset: NodeIdx) -> Vec<NodeIdx> {
        let mut found: Vec<NodeIdx> = self.parts(dataset).filter(|c| self.is_column(*c)).collect();
        let mut seen: HashSet<NodeIdx> = found.iter().copied().collect();
        let mut at = 0;
        while at < found.len() && found.len() < MAX_LINEAGE_NODES {
            let inner: Vec<NodeIdx> = self.parts(found[at]).filter(|c| self.is_column(*c) && seen.insert(*c)).collect();
            found.extend(inner);
            at += 1;
        }
        found
    }

    /// The lineage of a column, of the columns of a dataset, or of what a job writes.
    pub fn column_lineage(&self, id: &NodeId, text: &str, depth: usize, with_downstream: bool) -> Result<Value, Missing> {
        let node = self.resolve(id, text)?;
        let starts = match self.known_as(node) {
            _ if self.is_column(node) => vec![node],
            Some((Kind::Job, _)) => self.targets(node).filter(|(_, k)| *k == Kind::Dataset).flat_map(|(d, _)| self.columns_of(d)).collect(),
            _ => self.columns_of(node),
        };
        let mut complete = true;
        let mut found: HashSet<NodeIdx> = HashSet::new();
        let mut order = Vec::new();
        for up in [true, false] {
            if !up && !with_downstream {
                break;
            }
            let mut queue: VecDeque<(NodeIdx, usize)> = starts.iter().map(|n| (*n, 0)).collect();
            let mut seen: HashSet<NodeIdx> = starts.iter().copied().collect();
            while let Some((column, distance)) = queue.pop_front() {
                if order.len() >= MAX_LINEAGE_NODES && !found.contains(&column) {
                    complete = false;
                    break;
                }
                if found.insert(column) {
                    order.push(column);
                }
                if distance < depth.min(MAX_DEPTH) {
                    let next = self.column_edges(column, up).into_iter().map(|(_, n)| n);
                    queue.extend(next.filter(|n| seen.insert(*n)).map(|n| (n, distance + 1)));
                }
            }
        }
        let mut edges = Vec::new();
        let mut nodes = Vec::new();
        for column in &order {
            let sources = self.column_edges(*column, true);
            edges.extend(sources.iter().filter(|(_, s)| found.contains(s)).map(|(_, s)| (*s, *column)));
            nodes.push((self.column_id(*column), "DATASET_FIELD", self.column_data(*column, &sources)));
        }
        edges.sort_unstable();
        edges.dedup();
        let mut out = graph_json(nodes, &order, &edges);
        out["complete"] = complete.into();
        Ok(out)
    }

    fn column_data(&self, column: NodeIdx, sources: &[(EdgeIdx, NodeIdx)]) -> Value {
        let Name { namespace, dataset, field } = self.column_name(column);
        let inputs: Vec<Value> = sources.iter().map(|(e, source)| self.input_field(*e, *source)).collect();
        let of_first = |name: &str| inputs.first().map_or(Value::Null, |i| i[name].clone());
        let whole = self.find(Kind::Dataset, if namespace.is_empty() { NO_NAMESPACE } else { &namespace }, &dataset);
        json!({
            "namespace": namespace,
            "dataset": dataset,
            "datasetVersion": null,
            "field": field,
            "fieldType": whole.and_then(|d| self.field_type(d, &field)),
            "transformationDescription": of_first("transformationDescription"),
            "transformationType": of_first("transformationType"),
            "inputFields": inputs,
        })
    }

    /// The type of a field in its dataset's schema. Fields inside others are named with dots.
    fn field_type(&self, dataset: NodeIdx, field: &str) -> Option<String> {
        fn find<'a>(fields: &'a Value, name: &str) -> Option<&'a Value> {
            fields.as_array()?.iter().find_map(|f| {
                let own = f.get("name")?.as_str()?;
                if own == name {
                    return Some(f);
                }
                find(f.get("fields")?, name.strip_prefix(own)?.strip_prefix('.')?)
            })
        }
        let said = self.said(dataset);
        find(said.attribute(FIELDS)?, field)?.get("type")?.as_str().map(str::to_owned)
    }
}
