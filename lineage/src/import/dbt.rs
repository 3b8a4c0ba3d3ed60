//! The `manifest.json` of dbt: tables, the jobs that make them, and who uses them.
//!
//! Tables and jobs have the names that dbt's OpenLineage integration gives them, so that its events meet the same nodes: a table is
//! `database.schema.alias` in the namespace of the warehouse, which a manifest does not know (`--dbt-namespace`); a job
//! `database.schema.package.model` in the namespace `dbt`. A model that is no table, being ephemeral, is a job alone.

use hashbrown::{HashMap, HashSet};
use serde_json::{Value, json};

use super::facts::Facts;
use super::{Options, Parsed};
use crate::Result;
use crate::model::{Criticality, EdgeBody, NodeBody, NodeKey, Owner, kind};

/// The OpenLineage namespace of dbt's jobs, unless another one is asked for.
const JOB_NAMESPACE: &str = "dbt";

/// Columns of one table that become nodes.
const MAX_COLUMNS: usize = 2000;

/// References through semantic models and the like are followed so deep.
const MAX_DEPTH: usize = 32;

struct Manifest<'a> {
    value: &'a Value,
    namespace: String,
    jobs: &'a str,
}

/// The facts of a manifest.
pub(super) fn facts(file: &Parsed, options: &Options) -> Facts {
    let mut facts = Facts::default();
    for document in &file.documents {
        let adapter = document.value["metadata"]["adapter_type"].as_str().unwrap_or("dbt");
        if options.dbt_namespace.is_none() && adapter != "bigquery" {
            facts.warn(format!(
                "a manifest does not say where its {adapter} is, so that its tables are in the namespace {adapter:?}; name the one of your OpenLineage events with --dbt-namespace"
            ));
        }
        let manifest = Manifest {
            value: &document.value,
            namespace: options.dbt_namespace.clone().unwrap_or_else(|| adapter.into()),
            jobs: options.dbt_job_namespace.as_deref().unwrap_or(JOB_NAMESPACE),
        };
        for section in ["sources", "nodes", "metrics", "exposures"] {
            for (id, node) in document.value[section].as_object().into_iter().flatten() {
                if let Err(error) = manifest.add(id, node, &mut facts) {
                    facts.warn(error.within(id).to_string());
                }
            }
        }
    }
    facts
}

impl<'a> Manifest<'a> {
    fn add(&self, id: &str, node: &Value, facts: &mut Facts) -> Result<()> {
        match sort(id) {
            "model" | "seed" | "snapshot" | "source" => self.add_table(id, node, facts),
            "metric" => {
                let key = self.key(id, node)?;
                let mut body = self.body(node);
                body.attributes.insert("type".into(), node["type"].clone());
                facts.node(&key, body);
                self.add_inputs(node, &key, facts)
            }
            "exposure" => self.add_exposure(id, node, facts),
            // Tests and operations make nothing that others use.
            _ => Ok(()),
        }
    }

    fn add_table(&self, id: &str, node: &Value, facts: &mut Facts) -> Result<()> {
        let table = self.table(node)?;
        let mut body = self.body(node);
        body.attributes.insert("dbt_unique_id".into(), id.into());
        if let Some(materialized) = node["config"]["materialized"].as_str() {
            body.attributes.insert("materialized".into(), materialized.into());
        }
        for field in ["loader", "source_name"] {
            if let Some(value) = node[field].as_str().filter(|v| !v.is_empty()) {
                body.attributes.insert(field.into(), value.into());
            }
        }
        let columns: Vec<&Value> = node["columns"].as_object().into_iter().flat_map(|c| c.values()).take(MAX_COLUMNS).collect();
        if let Some(table) = &table {
            if !columns.is_empty() {
                body.attributes.insert("fields".into(), columns.iter().map(|c| field(c)).collect());
            }
            facts.node(table, body.clone());
            for column in &columns {
                add_column(table, column, facts)?;
            }
        }
        if sort(id) == "source" {
            return Ok(());
        }
        let job = self.job(id, node)?;
        body.attributes.remove("fields");
        facts.node(&job, body);
        // dbt build calls its runs otherwise than dbt run does.
        let suffix = if sort(id) == "snapshot" { ".build.snapshot" } else { ".build.run" };
        facts.alias(&NodeKey::new(kind::JOB, self.jobs, &format!("{}{suffix}", job_name(id, node, false)))?, &job, "dbt-build");
        if let Some(table) = &table {
            facts.depends(table, &job, EdgeBody::default());
        }
        self.add_inputs(node, &job, facts)
    }

    fn add_exposure(&self, id: &str, node: &Value, facts: &mut Facts) -> Result<()> {
        let key = self.key(id, node)?;
        let mut body = self.body(node);
        for field in ["type", "url", "maturity"] {
            if let Some(value) = node[field].as_str() {
                body.attributes.insert(field.into(), value.into());
            }
        }
        facts.node(&key, body);
        self.add_inputs(node, &key, facts)
    }

    /// Adds edges to what a node reads.
    fn add_inputs(&self, node: &Value, from: &NodeKey, facts: &mut Facts) -> Result<()> {
        let mut seen = HashSet::new();
        let mut todo: Vec<(&str, usize)> = inputs(node).map(|id| (id, 0)).collect();
        while let Some((id, depth)) = todo.pop() {
            if !seen.insert(id) {
                continue;
            }
            let Some(input) = self.find(id) else {
                facts.warn(format!("{from} reads {id}, which is not in the manifest"));
                continue;
            };
            match sort(id) {
                "model" | "seed" | "snapshot" | "source" => {
                    let provider = match self.table(input)? {
                        Some(table) => table,
                        None => self.job(id, input)?,
                    };
                    facts.depends(from, &provider, EdgeBody::default());
                }
                "metric" | "exposure" => facts.depends(from, &self.key(id, input)?, EdgeBody::default()),
                _ if depth < MAX_DEPTH => todo.extend(inputs(input).map(|id| (id, depth + 1))),
                _ => {}
            }
        }
        Ok(())
    }

    fn find(&self, id: &str) -> Option<&'a Value> {
        ["nodes", "sources", "metrics", "exposures", "semantic_models", "saved_queries", "disabled"]
            .iter()
            .find_map(|s| self.value[s].get(id))
    }

    /// The table that a node is; `None` if it is none.
    fn table(&self, node: &Value) -> Result<Option<NodeKey>> {
        if node["relation_name"].is_null() || node["config"]["materialized"] == "ephemeral" {
            return Ok(None);
        }
        let text = |field: &str| node[field].as_str().filter(|t| !t.is_empty());
        let table = text("alias").or(text("identifier")).or(text("name"));
        let name: Vec<&str> = [text("database"), text("schema"), table].into_iter().flatten().collect();
        NodeKey::new(kind::DATASET, &self.namespace, &name.join(".")).map(Some)
    }

    fn job(&self, id: &str, node: &Value) -> Result<NodeKey> {
        NodeKey::new(kind::JOB, self.jobs, &job_name(id, node, true))
    }

    /// A metric or an exposure.
    fn key(&self, id: &str, node: &Value) -> Result<NodeKey> {
        let name = node["name"].as_str().unwrap_or(id);
        let package = node["package_name"].as_str().unwrap_or("");
        match (sort(id), node["type"].as_str()) {
            ("metric", _) => NodeKey::new(kind::METRIC, package, name),
            (_, Some("dashboard")) => NodeKey::new(kind::DASHBOARD, package, name),
            _ => NodeKey::new(kind::APPLICATION, "", name),
        }
    }

    fn body(&self, node: &Value) -> NodeBody {
        let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
        let tags = node["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        let mut body = NodeBody { title: text(&node["label"]), description: text(&node["description"]), tags, ..NodeBody::default() };
        let mut owners: HashMap<String, Owner> = HashMap::new();
        let mut order = Vec::new();
        let mut add = |value: &Value, role: &str| {
            let name = [&value["name"], &value["email"], value].into_iter().find_map(Value::as_str).filter(|n| !n.is_empty());
            if let Some(name) = name.filter(|n| !owners.contains_key(*n)) {
                owners.insert(name.into(), Owner { name: name.into(), role: role.into() });
                order.push(name.to_owned());
            }
        };
        for owner in [&node["meta"]["owner"], &node["config"]["meta"]["owner"], &node["source_meta"]["owner"], &node["owner"]] {
            match owner {
                Value::Array(all) => all.iter().for_each(|o| add(o, "owner")),
                one => add(one, "owner"),
            }
        }
        if let Some(group) = node["group"].as_str() {
            let groups = self.value["groups"].as_object().into_iter().flat_map(|g| g.values());
            groups.filter(|g| g["name"] == group).for_each(|g| add(&g["owner"], "group"));
        }
        body.owners = order.into_iter().filter_map(|name| owners.remove(&name)).collect();
        let criticality = [&node["meta"]["criticality"], &node["config"]["meta"]["criticality"]];
        body.criticality = criticality.iter().find_map(|c| serde_json::from_value::<Criticality>((*c).clone()).ok());
        body
    }
}

/// What kind of thing an id is of.
fn sort(id: &str) -> &str {
    id.split('.').next().unwrap_or("")
}

fn inputs(node: &Value) -> impl Iterator<Item = &str> {
    node["depends_on"]["nodes"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn job_name(id: &str, node: &Value, suffix: bool) -> String {
    let rest = id.split_once('.').map_or(id, |(_, rest)| rest);
    let text = |field: &str| node[field].as_str().filter(|t| !t.is_empty());
    let mut parts: Vec<&str> = [text("database"), text("schema"), Some(rest)].into_iter().flatten().collect();
    if suffix && sort(id) == "snapshot" {
        parts.push("snapshot");
    }
    parts.join(".")
}

fn field(column: &Value) -> Value {
    let mut out = json!({"name": column["name"]});
    for (from, to) in [("data_type", "type"), ("description", "description")] {
        if let Some(value) = column[from].as_str().filter(|v| !v.is_empty()) {
            out[to] = value.into();
        }
    }
    out
}

fn add_column(table: &NodeKey, column: &Value, facts: &mut Facts) -> Result<()> {
    let Some(name) = column["name"].as_str().filter(|n| !n.is_empty()) else { return Ok(()) };
    let key = NodeKey::column(table, name)?;
    let mut body = NodeBody { description: column["description"].as_str().unwrap_or("").into(), ..NodeBody::default() };
    if let Some(data_type) = column["data_type"].as_str() {
        body.attributes.insert("type".into(), data_type.into());
    }
    facts.node(&key, body);
    facts.composed(table, &key, EdgeBody::default());
    Ok(())
}

#[cfg(test)]
mod tests;
