//! Manifests of Kubernetes and Knative, as they are written or as `kubectl get -o yaml` shows them.
//!
//! A Deployment and its like is a workload, made of its pods, of which it needs k of n (PodDisruptionBudget). A Service is a service;
//! if it selects one workload and is that one's own, the two names mean one node, else it depends on what it selects. Routes are
//! interfaces. Pods run on hosts, hosts are in zones; workloads read ConfigMaps and Secrets, of which only the names are kept.
//! Addresses in the environment are edges of low confidence, until traffic shows them too. Names are those that meshes and traces
//! use, without the cluster, so that one node results.

mod object;
mod cluster;
mod workload;
mod template;
mod network;
mod route;
mod storage;
mod knative;
mod eventing;

use std::collections::BTreeMap;

use serde_json::Value;

use super::facts::Facts;
use super::{Options, Parsed};
use crate::Result;
use cluster::Cluster;
use object::Object;

/// Namespace of objects that name none.
const DEFAULT_NAMESPACE: &str = "default";

/// The facts of each file. All files together are one cluster.
pub(super) fn facts(files: &[Parsed], options: &Options) -> Vec<Facts> {
    let mut out: Vec<Facts> = files.iter().map(|_| Facts::default()).collect();
    let namespace = options.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    let mut objects = Vec::new();
    for (file, parsed) in files.iter().enumerate() {
        for document in &parsed.documents {
            object::collect(&document.value, file, document.line, namespace, &mut objects, &mut out[file]);
        }
    }
    let cluster = Cluster::new(objects);
    let mut silent: Vec<BTreeMap<&str, usize>> = vec![BTreeMap::new(); files.len()];
    for object in &cluster.objects {
        let facts = &mut out[object.file];
        match add(&cluster, object, facts) {
            Ok(true) => {}
            Ok(false) => *silent[object.file].entry(&object.kind).or_default() += 1,
            Err(error) => facts.warn(error.within(&object.place()).to_string()),
        }
    }
    for (facts, kinds) in out.iter_mut().zip(silent) {
        if facts.node_count() == 0 && !kinds.is_empty() {
            let kinds: Vec<String> = kinds.into_iter().map(|(kind, n)| format!("{n} {kind}")).collect();
            facts.warn(format!("nothing here says what depends on what: {}", kinds.join(", ")));
        }
    }
    out
}

/// Adds what one object says; `false` if objects of its kind say nothing.
fn add(cluster: &Cluster, object: &Object, facts: &mut Facts) -> Result<bool> {
    match object.kind.as_str() {
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "ReplicationController" | "Job" | "CronJob" | "Rollout" => {
            workload::add(cluster, object, facts)?;
        }
        "Pod" => workload::add_pod(cluster, object, facts)?,
        "Service" => network::add_service(cluster, object, facts)?,
        "EndpointSlice" | "Endpoints" => network::add_endpoints(cluster, object, facts)?,
        "Ingress" => route::add_ingress(cluster, object, facts)?,
        "HTTPRoute" | "GRPCRoute" | "TLSRoute" | "TCPRoute" | "UDPRoute" => route::add_route(object, facts)?,
        "VirtualService" => route::add_virtual_service(object, facts)?,
        "Gateway" => route::add_gateway(object, facts)?,
        "Node" => storage::add_node(object, facts)?,
        "PersistentVolumeClaim" => storage::add_claim(object, facts)?,
        "PersistentVolume" => storage::add_volume(object, facts)?,
        "StorageClass" => storage::add_class(object, facts)?,
        "ConfigMap" | "Secret" => storage::add_config(object, facts)?,
        "knative/Service" | "knative/Route" => knative::add_service(cluster, object, facts)?,
        "knative/Revision" => knative::add_revision(cluster, object, facts)?,
        "knative/Trigger" => eventing::add_trigger(object, facts)?,
        "knative/Subscription" => eventing::add_subscription(object, facts)?,
        "knative/Broker" => eventing::add_broker(object, facts)?,
        "knative/Channel" => eventing::add_channel(object, facts)?,
        "knative/Source" => eventing::add_source(object, facts)?,
        // What these say is read where it is needed.
        "PodDisruptionBudget" | "HorizontalPodAutoscaler" | "Namespace" | "knative/Configuration" => {}
        _ => return Ok(false),
    }
    Ok(true)
}

/// A text field that is there and not empty.
fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value[field].as_str().filter(|t| !t.is_empty())
}

/// The items of a list; none if it is not there.
fn items<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[field].as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests;
