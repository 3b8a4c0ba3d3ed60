//! Where traffic comes in: Ingress, the Gateway API's routes, Istio's VirtualService. Every host with a path is an interface.

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::object::Object;
use super::{items, text};
use crate::Result;
use crate::import::facts::Facts;
use crate::model::{EdgeBody, NodeBody, NodeKey, kind};

/// Interfaces of one route that are taken.
const MAX_INTERFACES: usize = 1000;

/// An interface of this host and path.
fn add_interface(object: &Object, host: &str, path: &str, facts: &mut Facts) -> Result<NodeKey> {
    let shown = format!("{host}{path}");
    let key = NodeKey::new(kind::INTERFACE, object.namespace, &shown)?;
    let body = object.body();
    let mut attributes = body.attributes;
    attributes.insert("object".into(), object.name.into());
    facts.node(&key, NodeBody { title: shown, entry: true, attributes, ..body });
    object.add_membership(&key, facts)?;
    Ok(key)
}

/// Adds the rules of an Ingress.
pub(super) fn add_ingress(cluster: &Cluster, object: &Object, facts: &mut Facts) -> Result<()> {
    let share = canary_share(cluster, object);
    let mut add = |host: &str, path: &str, backend: &Value| -> Result<()> {
        // The older form of the API has serviceName.
        let Some(name) = text(&backend["service"], "name").or_else(|| text(backend, "serviceName")) else { return Ok(()) };
        let interface = add_interface(object, host, path, facts)?;
        facts.depends(&interface, &NodeKey::new(kind::SERVICE, object.namespace, name)?, EdgeBody { share, ..EdgeBody::default() });
        Ok(())
    };
    for field in ["defaultBackend", "backend"] {
        add("*", "/", &object.spec()[field])?;
    }
    for rule in items(object.spec(), "rules") {
        let host = text(rule, "host").unwrap_or("*");
        for path in items(&rule["http"], "paths").take(MAX_INTERFACES) {
            add(host, text(path, "path").unwrap_or("/"), &path["backend"])?;
        }
    }
    Ok(())
}

/// The share that ingress-nginx gives to a canary, or leaves for what it is a canary of.
fn canary_share(cluster: &Cluster, object: &Object) -> Option<f32> {
    let weight = |o: &Object| {
        let canary = o.annotation("nginx.ingress.kubernetes.io/canary") == Some("true");
        let weight: f32 = o.annotation("nginx.ingress.kubernetes.io/canary-weight")?.parse().ok()?;
        (canary && (0.0..=100.0).contains(&weight)).then_some(weight / 100.0)
    };
    if let Some(own) = weight(object) {
        return Some(own);
    }
    let hosts = |o: &Object| items(o.spec(), "rules").filter_map(|r| text(r, "host")).map(str::to_owned).collect::<Vec<_>>();
    let mine = hosts(object);
    let same = |o: &&Object| o.kind == "Ingress" && o.namespace == object.namespace && hosts(o) == mine;
    let canary = cluster.objects.iter().filter(same).find_map(weight)?;
    Some(1.0 - canary)
}

/// Adds a route of the Gateway API.
pub(super) fn add_route(object: &Object, facts: &mut Facts) -> Result<()> {
    let spec = object.spec();
    let parents: Vec<&Value> = items(spec, "parentRefs").collect();
    let mut hosts: Vec<&str> = items(spec, "hostnames").filter_map(Value::as_str).collect();
    if hosts.is_empty() {
        hosts.push("*");
    }
    for rule in items(spec, "rules").take(MAX_INTERFACES) {
        let backends: Vec<_> = items(rule, "backendRefs").filter(|b| matches!(text(b, "kind"), None | Some("Service"))).collect();
        let backends = weighted(object, &backends, |b| Some((text(b, "namespace").unwrap_or(object.namespace), text(b, "name")?)));
        let mut dependents = Vec::new();
        for parent in &parents {
            let key =
                NodeKey::new(kind::SERVICE, text(parent, "namespace").unwrap_or(object.namespace), text(parent, "name").unwrap_or("?"))?;
            dependents.push((parent["kind"] == "Service", key));
        }
        let mut paths: Vec<String> = items(rule, "matches").map(match_of).collect();
        if paths.is_empty() {
            paths.push("/".into());
        }
        // A route of a Service splits what that one's callers send; a route of a Gateway is an interface of its own.
        for (_, service) in dependents.iter().filter(|(is_service, _)| *is_service) {
            add_backends(service, &backends, facts)?;
        }
        if !parents.is_empty() && dependents.iter().all(|(is_service, _)| *is_service) {
            continue;
        }
        for (host, path) in hosts.iter().flat_map(|h| paths.iter().map(move |p| (h, p))).take(MAX_INTERFACES) {
            let interface = add_interface(object, host, path, facts)?;
            add_backends(&interface, &backends, facts)?;
            for (_, gateway) in dependents.iter().filter(|(is_service, _)| !is_service) {
                facts.depends(&interface, gateway, EdgeBody::default());
            }
        }
    }
    Ok(())
}

/// The path, or the gRPC method, that a match of a route names.
fn match_of(rule: &Value) -> String {
    if let Some(service) = text(&rule["method"], "service") {
        return format!("/{service}/{}", text(&rule["method"], "method").unwrap_or("*"));
    }
    text(&rule["path"], "value").unwrap_or("/").into()
}

/// Backends with the fraction of requests that each gets; the fraction is left out if there is only one.
fn weighted<'v>(
    object: &Object,
    backends: &[&'v Value],
    name: impl Fn(&'v Value) -> Option<(&'v str, &'v str)>,
) -> Vec<((String, String), Option<f32>)> {
    let weight = |b: &Value| b["weight"].as_f64().unwrap_or(1.0).max(0.0);
    let all: f64 = backends.iter().map(|b| weight(b)).sum();
    let mut out: Vec<((String, String), Option<f32>)> = Vec::new();
    for backend in backends {
        let Some((namespace, name)) = name(backend) else { continue };
        let namespace = if namespace.is_empty() { object.namespace } else { namespace };
        let share = if backends.len() == 1 {
            None
        } else if all > 0.0 {
            Some((weight(backend) / all) as f32)
        } else {
            Some(0.0)
        };
        let key = (namespace.to_owned(), name.to_owned());
        // Two subsets of one Service are one backend.
        match out.iter_mut().find(|(k, _)| *k == key) {
            Some((_, sum)) => *sum = sum.zip(share).map(|(a, b)| (a + b).min(1.0)),
            None => out.push((key, share)),
        }
    }
    out
}

fn add_backends(from: &NodeKey, backends: &[((String, String), Option<f32>)], facts: &mut Facts) -> Result<()> {
    for ((namespace, name), share) in backends {
        facts.depends(from, &NodeKey::new(kind::SERVICE, namespace, name)?, EdgeBody { share: *share, ..EdgeBody::default() });
    }
    Ok(())
}

/// Adds Istio's routes: an interface for hosts outside of the cluster, a split of requests for those of Services.
pub(super) fn add_virtual_service(object: &Object, facts: &mut Facts) -> Result<()> {
    let hosts: Vec<&str> = items(object.spec(), "hosts").filter_map(Value::as_str).collect();
    let at_gateway = items(object.spec(), "gateways").any(|g| g != "mesh");
    for route in ["http", "grpc", "tls", "tcp"].iter().flat_map(|p| items(object.spec(), p)).take(MAX_INTERFACES) {
        let targets: Vec<&Value> = items(route, "route").collect();
        let backends = weighted(object, &targets, |t| service_of_host(object.namespace, text(&t["destination"], "host")?));
        let path = items(route, "match").find_map(|m| ["prefix", "exact"].iter().find_map(|k| text(&m["uri"], k))).unwrap_or("/");
        for host in &hosts {
            let inside = !host.contains('.') || host.contains(".svc");
            let from = if inside && !at_gateway {
                let Some((namespace, name)) = service_of_host(object.namespace, host).filter(|(_, n)| *n != "*") else { continue };
                NodeKey::new(kind::SERVICE, namespace, name)?
            } else {
                add_interface(object, host, path, facts)?
            };
            add_backends(&from, &backends, facts)?;
        }
    }
    Ok(())
}

/// Namespace and name of the Service that a host in an Istio object means.
fn service_of_host<'v>(namespace: &'v str, host: &'v str) -> Option<(&'v str, &'v str)> {
    let mut labels = host.split('.');
    let name = labels.next()?;
    Some((labels.next().unwrap_or(namespace), name))
}

/// Adds a Gateway; the routes at it depend on it.
pub(super) fn add_gateway(object: &Object, facts: &mut Facts) -> Result<()> {
    let key = object.key(kind::SERVICE)?;
    let mut body = object.body();
    body.entry = true;
    if let Some(class) = text(object.spec(), "gatewayClassName") {
        body.attributes.insert("class".into(), json!(class));
    }
    facts.node(&key, body);
    object.add_membership(&key, facts)
}
