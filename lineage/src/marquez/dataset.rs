//! Datasets as Marquez shows them.

use serde_json::{Value, json};

use super::version::Version;
use super::{Kind, Missing, NodeId, Page, Reader, iso, pair};
use crate::model::{NodeKey, kind};
use crate::openlineage::FIELDS;
use crate::snapshot::NodeIdx;

/// Fields of a dataset that are shown.
const MAX_FIELDS: usize = 10_000;

impl Reader {
    /// A dataset.
    pub fn dataset(&self, namespace: &str, name: &str) -> Result<Value, Missing> {
        let dataset = self.get(Kind::Dataset, namespace, name)?;
        Ok(self.dataset_json(dataset))
    }

    /// The dataset with everything.
    pub(super) fn dataset_json(&self, dataset: NodeIdx) -> Value {
        let mut out = self.dataset_data(dataset);
        let lineage: Vec<Value> = self.parts(dataset).filter_map(|column| self.column_sources(column)).collect();
        out["currentVersion"] = self.versions(dataset).first().map_or(Value::Null, |v| v.id.clone().into());
        out["columnLineage"] = if lineage.is_empty() { Value::Null } else { lineage.into() };
        out["facets"] = self.facets(dataset).into();
        out["deleted"] = false.into();
        out
    }

    /// The dataset as it stands in a graph.
    pub(super) fn dataset_data(&self, dataset: NodeIdx) -> Value {
        let (namespace, name) = self.name(dataset);
        let (created_ms, updated_ms) = self.times(dataset);
        let said = self.said(dataset);
        json!({
            "id": pair(&namespace, &name),
            "type": self.dataset_type(dataset),
            "name": name,
            "physicalName": name,
            "createdAt": iso(created_ms),
            "updatedAt": iso(updated_ms),
            "namespace": namespace,
            "sourceName": said.facet("dataSource").and_then(|s| s.get("name")?.as_str()).unwrap_or(&namespace),
            "fields": self.fields(dataset),
            "tags": said.tags(),
            "lastModifiedAt": iso(updated_ms),
            "lastLifecycleState": self.lifecycle_state(dataset),
            "description": said.description(),
        })
    }

    /// Marquez knows tables and streams.
    fn dataset_type(&self, dataset: NodeIdx) -> &'static str {
        let types = self.snapshot.types();
        let is_topic = self.known_as(dataset).is_some_and(|(_, key)| types.is_a(key.kind(), kind::TOPIC));
        if is_topic { "STREAM" } else { "DB_TABLE" }
    }

    fn lifecycle_state(&self, dataset: NodeIdx) -> Value {
        let document = |key: &NodeKey| self.store.document(key, "facet/lifecycleStateChange");
        let last = self.names(dataset).filter_map(document).max_by_key(|(updated_ms, _)| *updated_ms);
        last.and_then(|(_, facet)| facet.get("lifecycleStateChange").cloned()).unwrap_or_else(|| "".into())
    }

    /// The fields of the dataset: those of its schema, or its columns where nobody has given a schema.
    pub(super) fn fields(&self, dataset: NodeIdx) -> Vec<Value> {
        let said = self.said(dataset);
        let Some(schema) = said.attribute(FIELDS).and_then(Value::as_array).filter(|f| !f.is_empty()) else {
            let types = self.snapshot.types();
            let columns = self.parts(dataset).filter(|c| types.is_a(self.snapshot.kind(*c), kind::COLUMN)).take(MAX_FIELDS);
            return columns.map(|c| self.field(&self.snapshot.key(c).name(), None, None, Some(c))).collect();
        };
        let text = |field: &Value, name: &str| field.get(name).and_then(Value::as_str).map(str::to_owned);
        let one = |field: &Value| {
            let name = field.get("name")?.as_str()?;
            let (kind, description) = (text(field, "type"), text(field, "description"));
            let mut out = self.field(name, kind.as_deref(), description.as_deref(), self.find_field(dataset, name));
            if let Some(inner) = field.get("fields") {
                out["fields"] = inner.clone();
            }
            Some(out)
        };
        schema.iter().take(MAX_FIELDS).filter_map(one).collect()
    }

    fn field(&self, name: &str, kind: Option<&str>, description: Option<&str>, column: Option<NodeIdx>) -> Value {
        let said = column.map(|c| self.said(c));
        let description = description.map_or_else(|| said.as_ref().map_or(Value::Null, |s| s.description()), Into::into);
        json!({"name": name, "type": kind, "tags": said.map_or_else(Vec::new, |s| s.tags()), "description": description})
    }

    /// Versions of a dataset, the newest first.
    pub fn dataset_versions(&self, namespace: &str, name: &str, page: Page) -> Result<Value, Missing> {
        let dataset = self.get(Kind::Dataset, namespace, name)?;
        let versions = self.versions(dataset);
        let list: Vec<Value> = page.of(&versions).iter().map(|v| self.version_json(dataset, v)).collect();
        Ok(json!({"versions": list, "totalCount": versions.len()}))
    }

    /// One version of a dataset.
    pub fn dataset_version(&self, namespace: &str, name: &str, version: &str) -> Result<Value, Missing> {
        let dataset = self.get(Kind::Dataset, namespace, name)?;
        let versions = self.versions(dataset);
        let found = versions.iter().find(|v| v.id == version);
        found.map(|v| self.version_json(dataset, v)).ok_or_else(|| Missing("Dataset version", version.to_owned()))
    }

    /// When the version of a dataset or a job came to be that stands in the id of a node, Unix milliseconds.
    pub fn time_of_version(&self, id: &NodeId, text: &str, version: &str) -> Result<i64, Missing> {
        let mut node = self.resolve(id, text)?;
        if let NodeId::Field(readings) = id {
            node = readings.iter().find_map(|(ns, name, _)| self.find(Kind::Dataset, ns, name)).unwrap_or(node);
        }
        let found = match self.known_as(node) {
            Some((Kind::Job, _)) => self.job_version_time(node, version),
            _ => self.versions(node).iter().find(|v| v.id == version).map(|v| v.created_ms),
        };
        found.ok_or_else(|| Missing("Version", version.to_owned()))
    }

    fn version_json(&self, dataset: NodeIdx, version: &Version) -> Value {
        let mut out = self.dataset_data(dataset);
        let fields = self.fields_at(dataset, version.created_ms);
        if let Some(object) = out.as_object_mut() {
            for gone in ["updatedAt", "lastModifiedAt"] {
                object.remove(gone);
            }
            let lifecycle = object.remove("lastLifecycleState").filter(|s| s.as_str() != Some("")).unwrap_or(Value::Null);
            object.insert("lifecycleState".into(), lifecycle);
        }
        if let Some(fields) = fields {
            out["fields"] = fields;
        }
        let schema = out["fields"].to_string();
        let (namespace, name) = self.name(dataset);
        out["createdAt"] = iso(version.created_ms).into();
        out["version"] = version.id.clone().into();
        out["currentSchemaVersion"] = super::uuid(&["schema", &namespace, &name, &schema]).into();
        out["createdByRun"] = version.run.as_deref().and_then(|id| self.run(id)).map_or(Value::Null, |run| self.run_json(&run));
        out["facets"] = self.facets(dataset).into();
        out
    }

    /// The fields as of an earlier time, where the schema was another one.
    fn fields_at(&self, dataset: NodeIdx, at_ms: i64) -> Option<Value> {
        let graph = &self.snapshot.graph;
        let claims = graph.node_records(dataset.0).flat_map(|r| graph.frozen.nodes[r].claims.at(at_ms));
        let mut with_fields: Vec<_> = claims.filter_map(|(_, v, _)| Some((v.from_ms, v.body.attributes.get(FIELDS)?))).collect();
        with_fields.sort_by_key(|(from_ms, _)| *from_ms);
        let fields = with_fields.last()?.1.as_array()?;
        let one = |f: &Value| {
            let tags: Vec<&str> = Vec::new();
            json!({"name": f.get("name"), "type": f.get("type"), "tags": tags, "description": f.get("description")})
        };
        Some(fields.iter().take(MAX_FIELDS).map(one).collect())
    }
}
