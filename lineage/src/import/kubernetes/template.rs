//! What a pod template refers to: ConfigMaps, Secrets, volumes, zones, and the addresses of Services in its environment.
//!
//! Values of the environment are looked at for host names and go nowhere else, because they may hold passwords.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::object::Object;
use super::{items, text};
use crate::Result;
use crate::import::facts::Facts;
use crate::model::{Attributes, Class, EdgeBody, NodeKey, kind};

/// Confidence of an address that names a Service which is among the manifests.
const KNOWN: f32 = 0.6;

/// Confidence of an address of a Service that is not.
const UNKNOWN: f32 = 0.3;

/// Longest value that is looked at.
const MAX_VALUE_BYTES: usize = 64 << 10;

/// Every namespace has it, so that it says nothing.
pub(super) const ROOT_CERTIFICATE: &str = "kube-root-ca.crt";

/// Labels of nodes that a template may select, for the zone.
pub(super) const ZONE_LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"];

static ADDRESS_NAME: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)(^|_)(addr|address|host|hosts|hostname|url|uri|service|endpoint|server|servers|bootstrap|broker|brokers|dsn)s?$")
        .expect("a valid expression")
});

static HOST: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\.?$").expect("a valid expression"));

/// Adds the edges of a template to its workload.
pub(super) fn add_template(cluster: &Cluster, object: &Object, template: &Value, workload: &NodeKey, facts: &mut Facts) -> Result<()> {
    let spec = &template["spec"];
    for volume in items(spec, "volumes") {
        let projected = items(&volume["projected"], "sources");
        for source in std::iter::once(volume).chain(projected) {
            add_config(object, &source["configMap"], "configmap", "name", workload, facts)?;
            let field = if source["secret"]["secretName"].is_string() { "secretName" } else { "name" };
            add_config(object, &source["secret"], "secret", field, workload, facts)?;
        }
        if let Some(claim) = text(&volume["persistentVolumeClaim"], "claimName") {
            facts.depends(workload, &NodeKey::new(kind::VOLUME, object.namespace, claim)?, EdgeBody::default());
        }
    }
    for label in ZONE_LABELS {
        if let Some(zone) = text(&spec["nodeSelector"], label) {
            facts.depends(workload, &NodeKey::new(kind::ZONE, "", zone)?, EdgeBody::default());
        }
    }
    let mut addresses = Addresses { cluster, object, found: BTreeMap::new() };
    for (containers, initial) in [("containers", false), ("initContainers", true)] {
        for container in items(spec, containers) {
            for variable in items(container, "env") {
                let from = &variable["valueFrom"];
                add_config(object, &from["configMapKeyRef"], "configmap", "name", workload, facts)?;
                add_config(object, &from["secretKeyRef"], "secret", "name", workload, facts)?;
            }
            for from in items(container, "envFrom") {
                add_config(object, &from["configMapRef"], "configmap", "name", workload, facts)?;
                add_config(object, &from["secretRef"], "secret", "name", workload, facts)?;
            }
            addresses.of_container(container, initial);
        }
    }
    for ((namespace, service), (confidence, via)) in addresses.found {
        let attributes = Attributes::from([("via".to_owned(), json!(via))]);
        let body = EdgeBody { confidence: Some(confidence), attributes: Some(Box::new(attributes)), ..EdgeBody::default() };
        facts.depends(workload, &NodeKey::new(kind::SERVICE, &namespace, &service)?, body);
    }
    Ok(())
}

fn add_config(object: &Object, source: &Value, sort: &str, field: &str, workload: &NodeKey, facts: &mut Facts) -> Result<()> {
    let Some(name) = text(source, field).filter(|n| *n != ROOT_CERTIFICATE) else { return Ok(()) };
    let class = if source["optional"] == true { Class::Soft } else { Class::Hard };
    facts.depends(workload, &config_key(object.namespace, sort, name)?, EdgeBody { class: Some(class), ..EdgeBody::default() });
    Ok(())
}

/// A ConfigMap or Secret, which may have the same name.
pub(super) fn config_key(namespace: &str, sort: &str, name: &str) -> Result<NodeKey> {
    NodeKey::from_parts(kind::CONFIG, &[namespace, sort, name])
}

/// Services whose addresses were found.
struct Addresses<'a, 'b> {
    cluster: &'b Cluster<'a>,
    object: &'b Object<'b>,
    /// By namespace and name, how sure it is and where it was found.
    found: BTreeMap<(String, String), (f32, Vec<String>)>,
}

impl Addresses<'_, '_> {
    fn of_container(&mut self, container: &Value, initial: bool) {
        let place = if initial { "init container" } else { "container" };
        for variable in items(container, "env") {
            let name = text(variable, "name").unwrap_or("");
            if let Some(value) = text(variable, "value") {
                self.of_value(&format!("env {name}"), value, ADDRESS_NAME.is_match(name));
            }
            let reference = &variable["valueFrom"]["configMapKeyRef"];
            if let (Some(map), Some(key)) = (text(reference, "name"), text(reference, "key")) {
                self.of_config_map(map, |k| k == key, Some(name));
            }
        }
        for map in items(container, "envFrom").filter_map(|f| text(&f["configMapRef"], "name")) {
            self.of_config_map(map, |_| true, None);
        }
        for argument in items(container, "command").chain(items(container, "args")).filter_map(Value::as_str) {
            for word in argument.split(|c: char| c.is_whitespace() || "=\"'();&|".contains(c)) {
                self.of_value(place, word, false);
            }
        }
    }

    fn of_config_map(&mut self, map: &str, wanted: impl Fn(&str) -> bool, variable: Option<&str>) {
        let Some(data) = self.cluster.find("ConfigMap", self.object.namespace, map).and_then(|o| o.value["data"].as_object()) else {
            return;
        };
        for (key, value) in data.iter().filter(|(key, _)| wanted(key)) {
            let name = variable.unwrap_or(key);
            if let Some(value) = value.as_str().filter(|v| !v.contains('\n')) {
                self.of_value(&format!("env {name}"), value, ADDRESS_NAME.is_match(name));
            }
        }
    }

    fn of_value(&mut self, via: &str, value: &str, is_address: bool) {
        if value.len() > MAX_VALUE_BYTES {
            return;
        }
        for (host, has_port) in value.split([',', ';', ' ']).filter_map(host) {
            let Some((namespace, name, known)) = self.service(&host, is_address && has_port) else { continue };
            let own = |s: &Object| self.cluster.selected(s).iter().any(|w| w.name == self.object.name && w.kind == self.object.kind);
            if self.cluster.find("Service", &namespace, &name).is_some_and(own) {
                continue;
            }
            let (confidence, places) = self.found.entry((namespace, name)).or_default();
            *confidence = confidence.max(if known { KNOWN } else { UNKNOWN });
            if !places.iter().any(|p| p == via) {
                places.push(via.into());
            }
        }
    }

    /// The Service that a host name means, and whether it is among the manifests.
    fn service(&self, host: &str, guess: bool) -> Option<(String, String, bool)> {
        let labels: Vec<&str> = host.trim_end_matches('.').split('.').collect();
        let known = |namespace: &str, name: &str| self.cluster.has_service(namespace, name);
        let own = self.object.namespace;
        if let Some(svc) = labels.iter().position(|l| *l == "svc").filter(|at| *at >= 2) {
            let (name, namespace) = (labels[svc - 2], labels[svc - 1]);
            return Some((namespace.into(), name.into(), known(namespace, name)));
        }
        match labels.as_slice() {
            [name] if known(own, name) => Some((own.into(), (*name).into(), true)),
            [name, namespace] if known(namespace, name) => Some(((*namespace).into(), (*name).into(), true)),
            // A pod of a StatefulSet by the name of its headless Service.
            [pod, name] if known(own, name) && pod.rsplit('-').next().is_some_and(|n| n.parse::<u32>().is_ok()) => {
                Some((own.into(), (*name).into(), true))
            }
            [name] if guess && *name != "localhost" && !name.bytes().all(|b| b.is_ascii_digit()) => {
                Some((own.into(), (*name).into(), false))
            }
            _ => None,
        }
    }
}

/// The host name in an address such as `postgres://user:password@db.shop:5432/orders` or `db:5432`, and whether a port or a scheme says
/// that it is one.
fn host(address: &str) -> Option<(String, bool)> {
    let (scheme, rest) = address.split_once("://").map_or((None, address), |(s, rest)| (Some(s), rest));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = authority.split_once(':').map_or((authority, None), |(h, p)| (h, Some(p)));
    let has_port = port.is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    if (port.is_some() && !has_port) || host.len() > 253 || host.parse::<std::net::Ipv4Addr>().is_ok() {
        return None;
    }
    let host = host.to_ascii_lowercase();
    HOST.is_match(&host).then_some((host, has_port || scheme.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_found_in_addresses() {
        for (address, wanted) in [
            ("payment:50051", Some(("payment", true))),
            ("postgres://u:p%40@db.shop:5432/orders?x=1", Some(("db.shop", true))),
            ("http://Payment.shop.svc.cluster.local./x", Some(("payment.shop.svc.cluster.local.", true))),
            ("payment", Some(("payment", false))),
            ("10.0.0.1:80", None),
            ("a b", None),
            ("x:y", None),
            ("", None),
        ] {
            assert_eq!(host(address), wanted.map(|(h, p)| (h.to_owned(), p)), "{address}");
        }
        assert!(["PAYMENT_SERVICE_ADDR", "url", "KAFKA_BROKERS", "DB_HOST"].iter().all(|n| ADDRESS_NAME.is_match(n)));
        assert!(!ADDRESS_NAME.is_match("LOG_LEVEL"));
    }
}
