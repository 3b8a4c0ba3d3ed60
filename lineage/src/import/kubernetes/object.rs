//! One object of a manifest: its names, its labels, and what they say about owners and importance.

use serde_json::{Map, Value};

use super::{items, text};
use crate::Result;
use crate::import::facts::Facts;
use crate::model::{Criticality, NodeBody, NodeKey, Owner, kind};

/// Lists within lists are followed so deep.
const MAX_LISTS: usize = 4;

/// Kinds that belong to no namespace.
const CLUSTER_WIDE: &[&str] = &[
    "Node",
    "PersistentVolume",
    "StorageClass",
    "Namespace",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "GatewayClass",
];

/// An object, as it stands in a file.
#[derive(Debug)]
pub(super) struct Object<'a> {
    /// Index of its file.
    pub file: usize,
    /// Line where its document begins.
    pub line: usize,
    /// Its kind; of Knative's with a prefix, because there are two kinds named Service.
    pub kind: String,
    pub namespace: &'a str,
    pub name: &'a str,
    pub value: &'a Value,
}

/// Adds the object that a document holds, or those of a list.
pub(super) fn collect<'a>(value: &'a Value, file: usize, line: usize, namespace: &'a str, out: &mut Vec<Object<'a>>, facts: &mut Facts) {
    collect_within(value, file, line, namespace, ("", ""), MAX_LISTS, out, facts);
}

#[expect(clippy::too_many_arguments, reason = "the places where an object stands, handed down through lists")]
fn collect_within<'a>(
    value: &'a Value,
    file: usize,
    line: usize,
    namespace: &'a str,
    of_list: (&'a str, &'a str),
    depth: usize,
    out: &mut Vec<Object<'a>>,
    facts: &mut Facts,
) {
    // Items of a list that the API server sends do not say their kind again.
    let version = text(value, "apiVersion").unwrap_or(of_list.0);
    let kind = text(value, "kind").unwrap_or(of_list.1);
    if let Some(of) = kind.strip_suffix("List")
        && value["items"].is_array()
        && depth > 0
    {
        for item in items(value, "items") {
            collect_within(item, file, line, namespace, (version, of), depth - 1, out, facts);
        }
        return;
    }
    let Some(name) = text(&value["metadata"], "name") else {
        let shown = if kind.is_empty() { "an object" } else { kind };
        facts.warn(format!("line {line}: {shown} has no metadata.name and is left out"));
        return;
    };
    let namespace = match text(&value["metadata"], "namespace") {
        _ if CLUSTER_WIDE.contains(&kind) => "",
        Some(own) => own,
        None => namespace,
    };
    out.push(Object { file, line, kind: qualified(version, kind), namespace, name, value });
}

/// The kind, told apart from others of the same name.
pub(super) fn qualified(api_version: &str, kind: &str) -> String {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    match group {
        "messaging.knative.dev" if kind.ends_with("Channel") => "knative/Channel".into(),
        "sources.knative.dev" => "knative/Source".into(),
        "serving.knative.dev" | "eventing.knative.dev" | "messaging.knative.dev" => format!("knative/{kind}"),
        _ if group.ends_with("knative.dev") => format!("knative/{kind}"),
        // OpenShift's and Traefik's objects of these names are something else.
        "route.openshift.io" | "traefik.io" => format!("{group}/{kind}"),
        _ => kind.into(),
    }
}

impl<'a> Object<'a> {
    pub fn spec(&self) -> &'a Value {
        &self.value["spec"]
    }

    pub fn status(&self) -> &'a Value {
        &self.value["status"]
    }

    pub fn labels(&self) -> Option<&'a Map<String, Value>> {
        self.value["metadata"]["labels"].as_object()
    }

    pub fn label(&self, name: &str) -> Option<&'a str> {
        text(&self.value["metadata"]["labels"], name)
    }

    pub fn annotation(&self, name: &str) -> Option<&'a str> {
        text(&self.value["metadata"]["annotations"], name)
    }

    /// What controls it: the kind, and the name.
    pub fn controller(&self) -> Option<(String, &'a str)> {
        let owners = || items(&self.value["metadata"], "ownerReferences");
        let owner = owners().find(|o| o["controller"] == true).or_else(|| owners().next().filter(|_| owners().count() == 1))?;
        Some((qualified(text(owner, "apiVersion")?, text(owner, "kind")?), text(owner, "name")?))
    }

    /// Whether Knative made it, so that what it says is said by Knative's own objects.
    pub fn is_of_knative(&self) -> bool {
        items(&self.value["metadata"], "ownerReferences").any(|o| o["apiVersion"].as_str().is_some_and(|v| v.contains("knative.dev/")))
    }

    /// Where it stands, for messages.
    pub fn place(&self) -> String {
        let kind = self.kind.rsplit('/').next().unwrap_or(&self.kind);
        let slash = if self.namespace.is_empty() { "" } else { "/" };
        format!("line {}: {kind} {}{slash}{}", self.line, self.namespace, self.name)
    }

    /// A node of its own name.
    pub fn key(&self, kind: &str) -> Result<NodeKey> {
        NodeKey::new(kind, self.namespace, self.name)
    }

    /// What its labels and annotations say.
    pub fn body(&self) -> NodeBody {
        let mut body = NodeBody::default();
        body.attributes.insert("kind".into(), self.kind.rsplit('/').next().unwrap_or("").into());
        let said = || {
            [&self.value["metadata"]["labels"], &self.value["metadata"]["annotations"]].into_iter().filter_map(Value::as_object).flatten()
        };
        for (name, value) in said() {
            let Some(value) = value.as_str().filter(|v| !v.is_empty()) else { continue };
            match name.rsplit('/').next().unwrap_or(name) {
                role @ ("owner" | "team" | "squad" | "owned-by") => add_owners(&mut body.owners, value, role),
                "criticality" | "service.criticality" => body.criticality = body.criticality.or(criticality(value)),
                "description" => body.description = value.into(),
                _ => {}
            }
        }
        for (label, attribute) in [("app.kubernetes.io/version", "version"), ("app.kubernetes.io/component", "component")] {
            if let Some(value) = self.label(label) {
                body.attributes.insert(attribute.into(), value.into());
            }
        }
        body
    }

    /// Says that it is a part of the application that a label names, and joins its name in a Backstage catalog.
    pub fn add_membership(&self, node: &NodeKey, facts: &mut Facts) -> Result<()> {
        if let Some(application) = self.label("app.kubernetes.io/part-of") {
            facts.composed(&NodeKey::new(kind::APPLICATION, "", application)?, node, Default::default());
        }
        if let Some(id) = self.label("backstage.io/kubernetes-id") {
            facts.alias(&NodeKey::new(kind::SERVICE, self.namespace, id)?, node, "backstage-kubernetes-id");
        }
        Ok(())
    }
}

fn add_owners(owners: &mut Vec<Owner>, value: &str, role: &str) {
    let role = if role == "owned-by" { "owner" } else { role };
    for name in value.split(',').map(str::trim).filter(|n| !n.is_empty()) {
        if !owners.iter().any(|o| o.name == name) {
            owners.push(Owner { name: name.into(), role: role.into() });
        }
    }
}

fn criticality(value: &str) -> Option<Criticality> {
    serde_json::from_value(Value::String(value.to_ascii_lowercase())).ok()
}
