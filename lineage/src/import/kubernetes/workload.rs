//! Workloads and their pods.

use serde_json::Value;

use super::cluster::{Cluster, template};
use super::object::Object;
use super::template::add_template;
use super::{items, text};
use crate::Result;
use crate::import::facts::Facts;
use crate::model::{EdgeBody, NodeBody, NodeKey, kind};

/// Adds a controller of pods, unless it belongs to another one.
pub(super) fn add(cluster: &Cluster, object: &Object, facts: &mut Facts) -> Result<()> {
    if !cluster.is_own_workload(object) {
        return Ok(());
    }
    let key = object.key(kind::WORKLOAD)?;
    facts.node(&key, body(cluster, object));
    object.add_membership(&key, facts)?;
    add_template(cluster, object, template(object), &key, facts)?;
    let service = cluster.own_service(object);
    if let Some(service) = service {
        facts.alias(&key, &service.key(kind::SERVICE)?, "k8s-service-selector");
    }
    add_telemetry_name(object, &key, service.is_some(), cluster, facts)
}

fn body(cluster: &Cluster, object: &Object) -> NodeBody {
    let mut body = cluster.body(object);
    if let Some(replicas) = object.spec()["replicas"].as_u64() {
        body.attributes.insert("replicas".into(), replicas.into());
    }
    if let Some(schedule) = text(object.spec(), "schedule") {
        body.attributes.insert("schedule".into(), schedule.into());
    }
    let images: Vec<Value> = items(&template(object)["spec"], "containers").filter_map(|c| text(c, "image")).map(Value::from).collect();
    if !images.is_empty() {
        body.attributes.insert("images".into(), images.into());
    }
    body
}

/// Joins the name that the workload's traces have.
fn add_telemetry_name(object: &Object, key: &NodeKey, has_service: bool, cluster: &Cluster, facts: &mut Facts) -> Result<()> {
    let containers = || items(&template(object)["spec"], "containers");
    let env = |name: &str| containers().flat_map(|c| items(c, "env")).find(|e| e["name"] == name).and_then(|e| text(e, "value"));
    let resource = |name: &str| env("OTEL_RESOURCE_ATTRIBUTES")?.split(',').find_map(|p| p.trim().strip_prefix(name)?.strip_prefix('='));
    let namespace = resource("service.namespace");
    if let Some(name) = env("OTEL_SERVICE_NAME").or_else(|| resource("service.name")).filter(|n| !n.contains('$')) {
        let name = NodeKey::new(kind::SERVICE, namespace.unwrap_or(object.namespace), name)?;
        facts.alias(&name, key, "otel-service-name");
    } else if !has_service && !cluster.has_service(object.namespace, object.name) {
        facts.alias(&object.key(kind::SERVICE)?, key, "k8s-workload-name");
    }
    Ok(())
}

/// Adds a pod: a part of its workload that runs on a host. Pods that are done are left out.
pub(super) fn add_pod(cluster: &Cluster, object: &Object, facts: &mut Facts) -> Result<()> {
    let phase = text(object.status(), "phase");
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return Ok(());
    }
    let pod = object.key(kind::INSTANCE)?;
    let mut body = object.body();
    if let Some(phase) = phase {
        body.attributes.insert("phase".into(), phase.into());
    }
    let ready = items(object.status(), "conditions").find(|c| c["type"] == "Ready").map(|c| c["status"] == "True");
    if let Some(ready) = ready {
        body.attributes.insert("ready".into(), ready.into());
    }
    facts.node(&pod, body);
    if let Some(host) = text(object.spec(), "nodeName") {
        facts.depends(&pod, &NodeKey::new(kind::HOST, "", host)?, EdgeBody::default());
    }
    for claim in items(object.spec(), "volumes").filter_map(|v| text(&v["persistentVolumeClaim"], "claimName")) {
        facts.depends(&pod, &NodeKey::new(kind::VOLUME, object.namespace, claim)?, EdgeBody::default());
    }
    let Some(workload) = cluster.workload_key(object)? else {
        // Nobody else says what a pod reads that nothing controls.
        object.add_membership(&pod, facts)?;
        return add_template(cluster, object, object.value, &pod, facts);
    };
    let group = Some(Box::new(cluster.pods_group(object)));
    facts.composed(&workload, &pod, EdgeBody { group, ..EdgeBody::default() });
    Ok(())
}
