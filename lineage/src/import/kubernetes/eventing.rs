//! Knative Eventing: who gets events from where. Such edges carry data: a failure makes the subscriber late and breaks nothing.

use serde_json::{Value, json};

use super::object::{Object, qualified};
use super::{items, text};
use crate::Result;
use crate::import::facts::Facts;
use crate::model::{Attributes, Class, EdgeBody, Flow, NodeKey, kind};

/// An edge of events. It is soft because whoever waits for events goes on without them, and what it has is old in any case.
fn events(attributes: Option<Attributes>) -> EdgeBody {
    EdgeBody {
        class: Some(Class::Soft),
        flow: Some(Flow::Data),
        coupling: Some(1.0),
        attributes: attributes.map(Box::new),
        ..EdgeBody::default()
    }
}

/// The node that a destination with `ref` or `uri` names.
fn destination(object: &Object, value: &Value) -> Result<Option<NodeKey>> {
    let reference = if value["ref"].is_object() { &value["ref"] } else { value };
    if let (Some(of_kind), Some(name)) = (text(reference, "kind"), text(reference, "name")) {
        let namespace = text(reference, "namespace").unwrap_or(object.namespace);
        let node = match qualified(text(reference, "apiVersion").unwrap_or(""), of_kind).as_str() {
            "Service" | "knative/Service" | "knative/Route" => kind::SERVICE,
            "knative/Broker" => kind::BROKER,
            "knative/Channel" => kind::TOPIC,
            _ => kind::WORKLOAD,
        };
        return NodeKey::new(node, namespace, name).map(Some);
    }
    let Some(host) = text(value, "uri").and_then(|uri| uri.split_once("://")).map(|(_, rest)| rest.split(['/', ':']).next().unwrap_or(""))
    else {
        return Ok(None);
    };
    let labels: Vec<&str> = host.split('.').collect();
    match labels.as_slice() {
        [""] => Ok(None),
        [name, namespace, "svc", ..] => NodeKey::new(kind::SERVICE, namespace, name).map(Some),
        _ => NodeKey::new(kind::EXTERNAL, "", host).map(Some),
    }
}

/// Adds a trigger: its subscriber gets what its broker has.
pub(super) fn add_trigger(object: &Object, facts: &mut Facts) -> Result<()> {
    let spec = object.spec();
    let broker = NodeKey::new(kind::BROKER, object.namespace, text(spec, "broker").unwrap_or("default"))?;
    let Some(subscriber) = destination(object, &spec["subscriber"])? else {
        facts.warn(format!("{} has no subscriber that is known", object.place()));
        return Ok(());
    };
    let mut attributes = Attributes::from([("trigger".to_owned(), object.name.into())]);
    if let Some(filter) = spec["filter"]["attributes"].as_object() {
        attributes.insert("filter".into(), json!(filter));
    }
    facts.depends(&subscriber, &broker, events(Some(attributes)));
    Ok(())
}

/// Adds a subscription: its subscriber gets what a channel has, and may answer into another one.
pub(super) fn add_subscription(object: &Object, facts: &mut Facts) -> Result<()> {
    let spec = object.spec();
    let Some(channel) = text(&spec["channel"], "name") else { return Ok(()) };
    let channel = NodeKey::new(kind::TOPIC, object.namespace, channel)?;
    let reply = destination(object, &spec["reply"])?;
    match destination(object, &spec["subscriber"])? {
        Some(subscriber) => {
            facts.depends(&subscriber, &channel, events(None));
            if let Some(reply) = reply {
                facts.depends(&reply, &subscriber, events(None));
            }
        }
        // Without a subscriber events go through as they are.
        None => {
            if let Some(reply) = reply {
                facts.depends(&reply, &channel, events(None));
            }
        }
    }
    Ok(())
}

/// Adds a broker.
pub(super) fn add_broker(object: &Object, facts: &mut Facts) -> Result<()> {
    let key = object.key(kind::BROKER)?;
    facts.node(&key, object.body());
    object.add_membership(&key, facts)
}

/// Adds a channel, which is a topic.
pub(super) fn add_channel(object: &Object, facts: &mut Facts) -> Result<()> {
    let key = object.key(kind::TOPIC)?;
    facts.node(&key, object.body());
    object.add_membership(&key, facts)
}

/// Adds a source: its sink gets what it sends.
pub(super) fn add_source(object: &Object, facts: &mut Facts) -> Result<()> {
    let spec = object.spec();
    let mut source = object.key(kind::WORKLOAD)?;
    // A binding makes a source of something that is there already.
    match destination(object, &spec["subject"])? {
        Some(subject) => source = subject,
        None => {
            facts.node(&source, object.body());
            object.add_membership(&source, facts)?;
        }
    }
    match destination(object, &spec["sink"])? {
        Some(sink) => facts.depends(&sink, &source, events(None)),
        None => facts.warn(format!("{} has no sink that is known", object.place())),
    }
    if let Some(bootstrap) = items(spec, "bootstrapServers").find_map(Value::as_str) {
        for topic in items(spec, "topics").filter_map(Value::as_str) {
            facts.depends(&source, &NodeKey::new(kind::TOPIC, &format!("kafka://{bootstrap}"), topic)?, events(None));
        }
    }
    Ok(())
}
