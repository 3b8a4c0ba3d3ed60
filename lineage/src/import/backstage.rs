//! Entities of a Backstage catalog: components are services, APIs interfaces, systems applications, domains projects, groups teams,
//! and resources what their type says.
//!
//! `partOf` is a composition, `dependsOn` and `consumesApis` are dependencies. Names in the namespace `default` have none here, so that
//! they are those that people use. Annotations that name the same thing in Kubernetes join the names.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::Parsed;
use super::facts::Facts;
use crate::model::{EdgeBody, NodeBody, NodeKey, Owner, kind};
use crate::{Error, Result};

/// Words in the type of a resource that tell what kind of node it is like.
const LIKE: &[(&str, &str)] = &[
    ("topic", kind::TOPIC),
    ("queue", kind::TOPIC),
    ("stream", kind::TOPIC),
    ("bucket", kind::DATASET),
    ("table", kind::DATASET),
    ("dataset", kind::DATASET),
    ("database", kind::DATABASE),
    ("postgres", kind::DATABASE),
    ("mysql", kind::DATABASE),
    ("broker", kind::BROKER),
    ("cluster", kind::CLUSTER),
    ("volume", kind::VOLUME),
    ("dashboard", kind::DASHBOARD),
    ("server", kind::HOST),
    ("host", kind::HOST),
];

/// An entity in a file.
struct Entity<'a> {
    file: usize,
    line: usize,
    value: &'a Value,
    /// Its kind in lower case.
    kind: String,
    namespace: &'a str,
    name: &'a str,
}

/// Nodes of entities by kind, namespace and name, in lower case: references do not mind the case.
type Nodes = HashMap<(String, String, String), NodeKey>;

/// The facts of each file. All files together are one catalog.
pub(super) fn facts(files: &[Parsed]) -> Vec<Facts> {
    let mut out: Vec<Facts> = files.iter().map(|_| Facts::default()).collect();
    let mut entities = Vec::new();
    let mut nodes = Nodes::new();
    for (file, parsed) in files.iter().enumerate() {
        for document in &parsed.documents {
            let facts = &mut out[file];
            let Some(entity) = entity(file, document.line, &document.value) else {
                facts.warn(format!("line {}: an entity has no kind or no metadata.name and is left out", document.line));
                continue;
            };
            if let Some(Some(key)) = facts.or_warn(&entity.place(), key(&entity, facts_kind(&entity))) {
                let id = (entity.kind.clone(), entity.namespace.to_lowercase(), entity.name.to_lowercase());
                nodes.insert(id, key);
            }
            entities.push(entity);
        }
    }
    for entity in &entities {
        let facts = &mut out[entity.file];
        if let Err(error) = add(entity, &nodes, facts) {
            facts.warn(error.within(&entity.place()).to_string());
        }
    }
    out
}

fn entity(file: usize, line: usize, value: &Value) -> Option<Entity<'_>> {
    let kind = value["kind"].as_str()?.to_ascii_lowercase();
    let metadata = &value["metadata"];
    let name = metadata["name"].as_str().filter(|n| !n.is_empty())?;
    Some(Entity { file, line, value, kind, namespace: metadata["namespace"].as_str().unwrap_or("default"), name })
}

impl Entity<'_> {
    fn place(&self) -> String {
        format!("line {}: {} {}", self.line, self.kind, self.name)
    }

    fn spec(&self) -> &Value {
        &self.value["spec"]
    }

    fn annotation(&self, name: &str) -> Option<&str> {
        self.value["metadata"]["annotations"][name].as_str().filter(|v| !v.is_empty())
    }
}

/// The kind of node that an entity is; `None` if it is none.
fn facts_kind(entity: &Entity) -> Option<String> {
    match entity.kind.as_str() {
        "resource" => Some(resource_kind(entity.spec()["type"].as_str().unwrap_or("resource"))),
        other => node_kind(other).map(str::to_owned),
    }
}

fn node_kind(entity_kind: &str) -> Option<&'static str> {
    Some(match entity_kind {
        "component" => kind::SERVICE,
        "api" => kind::INTERFACE,
        "system" => kind::APPLICATION,
        "domain" => kind::PROJECT,
        "group" => kind::TEAM,
        "resource" => "resource",
        _ => return None,
    })
}

/// The type of a resource as a kind of nodes.
fn resource_kind(of_type: &str) -> String {
    let fits = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() || "_.-".contains(c) { c } else { '-' };
    let name: String = of_type.to_lowercase().chars().map(fits).take(64).collect();
    let name = name.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    if name.is_empty() { "resource".into() } else { name.into() }
}

fn key(entity: &Entity, kind: Option<String>) -> Result<Option<NodeKey>> {
    kind.map(|kind| NodeKey::new(&kind, namespace(entity.namespace), entity.name)).transpose()
}

fn namespace(of: &str) -> &str {
    if of.eq_ignore_ascii_case("default") { "" } else { of }
}

/// The node that a reference `[kind:][namespace/]name` means.
fn reference(text: &str, default_kind: &str, from: &Entity, nodes: &Nodes) -> Result<NodeKey> {
    let (kind, rest) = text.split_once(':').map_or((default_kind, text), |(k, r)| (k, r));
    let (within, name) = rest.split_once('/').map_or((from.namespace, rest), |(n, r)| (n, r));
    let kind = kind.to_lowercase();
    if let Some(key) = nodes.get(&(kind.clone(), within.to_lowercase(), name.to_lowercase())) {
        return Ok(key.clone());
    }
    let node = node_kind(&kind)
        .ok_or_else(|| Error::invalid("", format!("{text:?} names no component, resource, API, system, domain or group")))?;
    NodeKey::new(node, namespace(within), name)
}

/// The values of a field that may be one or a list.
fn texts<'a>(spec: &'a Value, field: &str) -> Vec<&'a str> {
    match &spec[field] {
        Value::String(one) if !one.is_empty() => vec![one],
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn add(entity: &Entity, nodes: &Nodes, facts: &mut Facts) -> Result<()> {
    let Some(kind) = facts_kind(entity) else { return Ok(()) };
    let Some(key) = key(entity, Some(kind.clone()))? else { return Ok(()) };
    facts.node(&key, body(entity));
    if entity.kind == "resource" {
        if !kind::BUILT_IN.iter().any(|(name, _)| *name == kind)
            && let Some((_, like)) = LIKE.iter().find(|(word, _)| kind.contains(word))
        {
            facts.kind(&kind, like);
        }
        // Whoever refers to it without knowing its type calls it so.
        facts.alias(&NodeKey::new("resource", namespace(entity.namespace), entity.name)?, &key, "backstage-resource");
    }
    add_names(entity, &key, facts)?;
    // Field, kind that its references have unless they say, and what the edge is.
    for (field, default_kind, relation) in [
        ("dependsOn", "component", Edge::Depends),
        ("dependencyOf", "component", Edge::DependencyOf),
        ("consumesApis", "api", Edge::Depends),
        ("providesApis", "api", Edge::DependencyOf),
        ("subcomponentOf", "component", Edge::PartOf),
        ("system", "system", Edge::PartOf),
        ("domain", "domain", Edge::PartOf),
        ("subdomainOf", "domain", Edge::PartOf),
        ("parent", "group", Edge::PartOf),
        ("children", "group", Edge::Whole),
    ] {
        for text in texts(entity.spec(), field) {
            let place = format!("{}: {field}", entity.place());
            let Some(other) = facts.or_warn(&place, reference(text, default_kind, entity, nodes)) else { continue };
            match relation {
                Edge::Depends => facts.depends(&key, &other, EdgeBody::default()),
                Edge::DependencyOf => facts.depends(&other, &key, EdgeBody::default()),
                Edge::PartOf => facts.composed(&other, &key, EdgeBody::default()),
                Edge::Whole => facts.composed(&key, &other, EdgeBody::default()),
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum Edge {
    Depends,
    DependencyOf,
    PartOf,
    Whole,
}

fn body(entity: &Entity) -> NodeBody {
    let (metadata, spec) = (&entity.value["metadata"], entity.spec());
    let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
    let mut body = NodeBody { title: text(&metadata["title"]), description: text(&metadata["description"]), ..NodeBody::default() };
    if body.title.is_empty() {
        body.title = text(&spec["profile"]["displayName"]);
    }
    body.tags = texts(metadata, "tags").into_iter().map(str::to_owned).collect();
    if let Some(owner) = spec["owner"].as_str().filter(|o| !o.is_empty()) {
        // group:default/team-a is what everybody else calls team-a.
        let name = owner.split_once(':').map_or(owner, |(_, rest)| rest);
        body.owners.push(Owner { name: name.strip_prefix("default/").unwrap_or(name).into(), role: "owner".into() });
    }
    for field in ["type", "lifecycle"] {
        if let Some(value) = spec[field].as_str() {
            body.attributes.insert(field.into(), value.into());
        }
    }
    if metadata["links"].as_array().is_some_and(|l| !l.is_empty()) {
        body.attributes.insert("links".into(), metadata["links"].clone());
    }
    if let Some(email) = spec["profile"]["email"].as_str() {
        body.attributes.insert("email".into(), json!(email));
    }
    for name in ["criticality", "service.criticality"] {
        let said = metadata["labels"][name].as_str().or(entity.annotation(name));
        body.criticality = body.criticality.or(said.and_then(|v| serde_json::from_value(json!(v.to_lowercase())).ok()));
    }
    body
}

/// Joins the names that annotations say the entity has elsewhere.
fn add_names(entity: &Entity, key: &NodeKey, facts: &mut Facts) -> Result<()> {
    let within = entity.annotation("backstage.io/kubernetes-namespace").unwrap_or("");
    if let Some(id) = entity.annotation("backstage.io/kubernetes-id") {
        facts.alias(&NodeKey::new(kind::SERVICE, within, id)?, key, "backstage-kubernetes-id");
    }
    let selector = entity.annotation("backstage.io/kubernetes-label-selector").unwrap_or("");
    let mut pairs = selector.split(',').filter_map(|p| p.trim().split_once('='));
    if let Some((_, app)) = pairs.find(|(label, _)| matches!(*label, "app" | "k8s-app" | "app.kubernetes.io/name")) {
        facts.alias(&NodeKey::new(kind::SERVICE, within, app)?, key, "backstage-label-selector");
    }
    for text in entity.annotation("isobar/alias").unwrap_or("").split_whitespace() {
        if let Some(alias) = facts.or_warn(&entity.place(), NodeKey::parse(text)) {
            facts.alias(&alias, key, "backstage-annotation");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
