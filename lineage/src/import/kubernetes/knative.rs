//! Knative Serving: services whose requests are split over revisions, which may be scaled to zero and are well then.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::object::Object;
use super::template::add_template;
use super::{items, text};
use crate::Result;
use crate::import::facts::Facts;
use crate::model::{Attributes, EdgeBody, NodeKey, kind};

/// Adds a Service of Knative, or a Route, which says the same about traffic.
pub(super) fn add_service(cluster: &Cluster, object: &Object, facts: &mut Facts) -> Result<()> {
    let service = object.key(kind::SERVICE)?;
    let is_service = object.kind == "knative/Service";
    if is_service || object.controller().is_none() {
        let mut body = cluster.body(object);
        body.attributes.insert("kind".into(), if is_service { "Knative Service".into() } else { "Knative Route".into() });
        if let Some(url) = text(object.status(), "url") {
            body.attributes.insert("url".into(), url.into());
        }
        body.entry = object.label("networking.knative.dev/visibility") != Some("cluster-local");
        facts.node(&service, body);
        object.add_membership(&service, facts)?;
    }
    let latest = latest(cluster, object);
    add_traffic(object, &service, &latest, facts)?;
    let template = &object.spec()["template"];
    if is_service && template.is_object() && cluster.find("knative/Revision", object.namespace, &latest).is_none() {
        let workload = NodeKey::new(kind::WORKLOAD, object.namespace, &latest)?;
        add_template(cluster, object, template, &workload, facts)?;
    }
    Ok(())
}

/// The revision that is the latest one as far as the manifests tell; the service's own name if they were never applied.
fn latest(cluster: &Cluster, object: &Object) -> String {
    let of_configuration = || {
        let configuration = items(object.spec(), "traffic").find_map(|t| text(t, "configurationName")).unwrap_or(object.name);
        text(cluster.find("knative/Configuration", object.namespace, configuration)?.status(), "latestReadyRevisionName")
    };
    let own = text(object.status(), "latestReadyRevisionName").or_else(|| text(&object.spec()["template"]["metadata"], "name"));
    own.or_else(of_configuration).unwrap_or(object.name).into()
}

fn add_traffic(object: &Object, service: &NodeKey, latest: &str, facts: &mut Facts) -> Result<()> {
    let stated = |place: &'static str| object.value[place]["traffic"].as_array().filter(|t| !t.is_empty());
    let mut revisions: BTreeMap<&str, (f64, Vec<&str>)> = BTreeMap::new();
    match stated("status").or_else(|| stated("spec")) {
        Some(targets) => {
            for target in targets {
                let (percent, tags) = revisions.entry(text(target, "revisionName").unwrap_or(latest)).or_default();
                *percent += target["percent"].as_f64().unwrap_or(0.0);
                tags.extend(text(target, "tag"));
            }
        }
        // A Route always says; a Service that says nothing sends everything to the latest revision.
        None if object.kind == "knative/Service" => drop(revisions.insert(latest, (100.0, Vec::new()))),
        None => {}
    }
    for (revision, (percent, tags)) in revisions {
        let share = Some((percent / 100.0).clamp(0.0, 1.0) as f32);
        let attributes = (!tags.is_empty()).then(|| Box::new(Attributes::from([("tags".to_owned(), json!(tags))])));
        let body = EdgeBody { share, attributes, ..EdgeBody::default() };
        facts.depends(service, &NodeKey::new(kind::WORKLOAD, object.namespace, revision)?, body);
    }
    Ok(())
}

/// How many pods a revision keeps when nobody calls it.
pub(super) fn min_scale(object: &Object) -> u64 {
    let names = ["autoscaling.knative.dev/min-scale", "autoscaling.knative.dev/minScale"];
    names.iter().find_map(|n| object.annotation(n)?.parse().ok()).unwrap_or(0)
}

/// Adds a revision.
pub(super) fn add_revision(cluster: &Cluster, object: &Object, facts: &mut Facts) -> Result<()> {
    let key = object.key(kind::WORKLOAD)?;
    let mut body = cluster.body(object);
    body.attributes.insert("min_scale".into(), min_scale(object).into());
    body.attributes.insert("scale_to_zero".into(), (min_scale(object) == 0).into());
    if let Some(service) = object.label("serving.knative.dev/service") {
        body.attributes.insert("service".into(), service.into());
    }
    let images: Vec<Value> = items(object.spec(), "containers").filter_map(|c| text(c, "image")).map(Value::from).collect();
    body.attributes.insert("images".into(), images.into());
    facts.node(&key, body);
    object.add_membership(&key, facts)?;
    add_template(cluster, object, object.value, &key, facts)
}
