//! What workloads stand on: nodes, zones, volumes, configuration.

use serde_json::Value;

use super::object::Object;
use super::template::{ROOT_CERTIFICATE, ZONE_LABELS, config_key};
use super::{items, text};
use crate::Result;
use crate::import::facts::Facts;
use crate::model::{EdgeBody, NodeKey, kind};

/// The type of StorageClasses; what it stands for is shared by all its volumes.
const STORAGE_CLASS: &str = "storage-class";

/// Adds a node of the cluster, which is a host, and its zone.
pub(super) fn add_node(object: &Object, facts: &mut Facts) -> Result<()> {
    let key = object.key(kind::HOST)?;
    let mut body = object.body();
    for (label, attribute) in [("topology.kubernetes.io/region", "region"), ("node.kubernetes.io/instance-type", "instance_type")] {
        if let Some(value) = object.label(label) {
            body.attributes.insert(attribute.into(), value.into());
        }
    }
    if object.spec()["unschedulable"] == true {
        body.attributes.insert("unschedulable".into(), true.into());
    }
    facts.node(&key, body);
    for address in items(object.status(), "addresses").filter(|a| a["type"] == "Hostname" || a["type"] == "InternalDNS") {
        if let Some(name) = text(address, "address") {
            facts.alias(&NodeKey::new(kind::HOST, "", name)?, &key, "k8s-node-address");
        }
    }
    if let Some(zone) = ZONE_LABELS.iter().find_map(|l| object.label(l)) {
        facts.depends(&key, &NodeKey::new(kind::ZONE, "", zone)?, EdgeBody::default());
    }
    Ok(())
}

/// Adds a claim: the volume that it is bound to, or else the class that it is to come from.
pub(super) fn add_claim(object: &Object, facts: &mut Facts) -> Result<()> {
    let key = object.key(kind::VOLUME)?;
    let mut body = object.body();
    if let Some(size) = text(&object.spec()["resources"]["requests"], "storage") {
        body.attributes.insert("size".into(), size.into());
    }
    facts.node(&key, body);
    object.add_membership(&key, facts)?;
    match text(object.spec(), "volumeName") {
        Some(volume) => facts.depends(&key, &NodeKey::new(kind::VOLUME, "", volume)?, EdgeBody::default()),
        None => add_class_edge(object, &key, facts)?,
    }
    Ok(())
}

/// Adds a volume: its class and its zone.
pub(super) fn add_volume(object: &Object, facts: &mut Facts) -> Result<()> {
    let key = object.key(kind::VOLUME)?;
    let mut body = object.body();
    if let Some(handle) = text(&object.spec()["csi"], "volumeHandle") {
        body.attributes.insert("handle".into(), handle.into());
    }
    facts.node(&key, body);
    add_class_edge(object, &key, facts)?;
    let terms = items(&object.spec()["nodeAffinity"]["required"], "nodeSelectorTerms");
    let expressions = terms.flat_map(|t| items(t, "matchExpressions")).filter(|e| text(e, "key").is_some_and(|k| ZONE_LABELS.contains(&k)));
    let zones: Vec<&str> = expressions.flat_map(|e| items(e, "values")).filter_map(Value::as_str).collect();
    // In one zone it fails with that; a volume that may be in several is one that survives.
    if let Some(zone) = ZONE_LABELS.iter().find_map(|l| object.label(l)).or(if zones.len() == 1 { Some(zones[0]) } else { None }) {
        facts.depends(&key, &NodeKey::new(kind::ZONE, "", zone)?, EdgeBody::default());
    }
    if let Some(server) = text(&object.spec()["nfs"], "server") {
        facts.depends(&key, &NodeKey::new(kind::EXTERNAL, "", server)?, EdgeBody::default());
    }
    Ok(())
}

fn add_class_edge(object: &Object, volume: &NodeKey, facts: &mut Facts) -> Result<()> {
    let Some(class) = text(object.spec(), "storageClassName") else { return Ok(()) };
    facts.kind(STORAGE_CLASS, kind::VOLUME);
    facts.depends(volume, &NodeKey::new(STORAGE_CLASS, "", class)?, EdgeBody::default());
    Ok(())
}

/// Adds a class of volumes.
pub(super) fn add_class(object: &Object, facts: &mut Facts) -> Result<()> {
    facts.kind(STORAGE_CLASS, kind::VOLUME);
    let mut body = object.body();
    if let Some(provisioner) = text(object.value, "provisioner") {
        body.attributes.insert("provisioner".into(), provisioner.into());
    }
    facts.node(&object.key(STORAGE_CLASS)?, body);
    Ok(())
}

/// Adds a ConfigMap or Secret by its name; what it holds is not kept. Tokens of service accounts are left out.
pub(super) fn add_config(object: &Object, facts: &mut Facts) -> Result<()> {
    // Nothing reads Helm's records of its releases but Helm.
    let internal = matches!(text(object.value, "type"), Some("kubernetes.io/service-account-token" | "helm.sh/release.v1"));
    if internal || object.name == ROOT_CERTIFICATE {
        return Ok(());
    }
    let sort = if object.kind == "Secret" { "secret" } else { "configmap" };
    let key = config_key(object.namespace, sort, object.name)?;
    facts.node(&key, object.body());
    object.add_membership(&key, facts)
}
