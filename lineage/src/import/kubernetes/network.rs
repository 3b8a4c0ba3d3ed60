//! Services and their endpoints.

use serde_json::Value;

use super::cluster::Cluster;
use super::object::Object;
use super::{items, text};
use crate::Result;
use crate::import::facts::Facts;
use crate::model::{EdgeBody, NodeKey, kind};

/// Adds a Service: what it selects, or where it points to.
pub(super) fn add_service(cluster: &Cluster, object: &Object, facts: &mut Facts) -> Result<()> {
    // The Services that Knative makes for its routes and revisions say nothing that these do not.
    if object.is_of_knative() || cluster.find("knative/Service", object.namespace, object.name).is_some() {
        return Ok(());
    }
    let service = object.key(kind::SERVICE)?;
    let mut body = cluster.body(object);
    let sort = text(object.spec(), "type").unwrap_or("ClusterIP");
    body.attributes.insert("type".into(), sort.into());
    body.entry = matches!(sort, "LoadBalancer" | "NodePort");
    facts.node(&service, body);
    object.add_membership(&service, facts)?;
    if let Some(outside) = text(object.spec(), "externalName") {
        facts.depends(&service, &NodeKey::new(kind::EXTERNAL, "", outside)?, EdgeBody::default());
    }
    let workloads = cluster.selected(object);
    let replicas = |w: &Object| w.spec()["replicas"].as_u64().unwrap_or(1) as f64;
    let all: f64 = workloads.iter().map(|w| replicas(w)).sum();
    for workload in &workloads {
        if cluster.is_own_service(workload, object) {
            continue;
        }
        // Requests go to the pods of all of them alike, as to a version and its canary.
        let share = if workloads.len() > 1 && all > 0.0 { Some((replicas(workload) / all) as f32) } else { None };
        facts.depends(&service, &workload.key(kind::WORKLOAD)?, EdgeBody { share, ..EdgeBody::default() });
    }
    Ok(())
}

/// The Service that endpoints belong to.
pub(super) fn service_name<'a>(endpoints: &Object<'a>) -> &'a str {
    if endpoints.kind == "Endpoints" { endpoints.name } else { endpoints.label("kubernetes.io/service-name").unwrap_or("") }
}

/// What is ready behind a Service: the pods by kind, namespace and name where they are known, and an address.
pub(super) fn ready<'a>(object: &Object<'a>) -> impl Iterator<Item = (&'a Value, Option<&'a str>)> + use<'a> {
    let of_slice = items(object.value, "endpoints")
        .filter(|e| e["conditions"]["ready"] != false)
        .map(|e| (&e["targetRef"], items(e, "addresses").next().and_then(Value::as_str)));
    let old = items(object.value, "subsets").flat_map(|s| items(s, "addresses")).map(|a| (&a["targetRef"], text(a, "ip")));
    of_slice.chain(old)
}

/// Adds what is ready behind a Service.
pub(super) fn add_endpoints(cluster: &Cluster, object: &Object, facts: &mut Facts) -> Result<()> {
    let name = service_name(object);
    // Slices say the same as the older kind of the same name.
    let repeated = object.kind == "Endpoints" && cluster.has_slices(object.namespace, name);
    if name.is_empty() || repeated || object.is_of_knative() {
        return Ok(());
    }
    let of = cluster.find("Service", object.namespace, name);
    if of.is_some_and(|s| s.is_of_knative()) {
        return Ok(());
    }
    let service = NodeKey::new(kind::SERVICE, object.namespace, name)?;
    let group = cluster.endpoints_group(object.namespace, name);
    for (target, address) in ready(object) {
        let pod = text(target, "name").filter(|_| target["kind"] == "Pod");
        let provider = match (pod, text(target, "name"), address) {
            (Some(pod), ..) => {
                let known = cluster.find("Pod", object.namespace, pod).and_then(|p| cluster.workload_of(p));
                let workload = known.and_then(|(kind, name)| cluster.find(&kind, object.namespace, name));
                // A Service that is its workload's own is made of the pods already.
                if let (Some(workload), Some(service)) = (workload, of)
                    && cluster.is_own_service(workload, service)
                {
                    continue;
                }
                NodeKey::new(kind::INSTANCE, object.namespace, pod)?
            }
            (None, Some(host), _) if target["kind"] == "Node" => NodeKey::new(kind::HOST, "", host)?,
            (None, _, Some(address)) => NodeKey::new(kind::EXTERNAL, "", address)?,
            _ => continue,
        };
        facts.depends(&service, &provider, EdgeBody { group: Some(Box::new(group.clone())), ..EdgeBody::default() });
    }
    Ok(())
}
