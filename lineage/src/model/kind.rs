//! Types of nodes: the ones that Isobar knows, and the asset model of the user. A type inherits from at most one other, has typed
//! attributes, and says what it is composed of and what it depends on.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::key;
use super::node::Attributes;
use crate::{Error, Result};

/// A service: the logical thing that answers calls.
pub const SERVICE: &str = "service";
/// An interface of a service: an API, a route, an operation.
pub const INTERFACE: &str = "interface";
/// What runs a service: a Deployment, a unit, a Knative revision.
pub const WORKLOAD: &str = "workload";
/// One instance of a workload, such as a pod.
pub const INSTANCE: &str = "instance";
/// A machine.
pub const HOST: &str = "host";
/// A zone, a rack, or what else hosts share.
pub const ZONE: &str = "zone";
/// A volume.
pub const VOLUME: &str = "volume";
/// Several things of one kind that are run as one.
pub const CLUSTER: &str = "cluster";
/// A job of a data pipeline.
pub const JOB: &str = "job";
/// A table, a file, a bucket.
pub const DATASET: &str = "dataset";
/// A column of a dataset.
pub const COLUMN: &str = "column";
/// A topic or queue.
pub const TOPIC: &str = "topic";
/// A metric, in the store or of the business.
pub const METRIC: &str = "metric";
/// A dashboard or report.
pub const DASHBOARD: &str = "dashboard";
/// A database server.
pub const DATABASE: &str = "database";
/// A message broker.
pub const BROKER: &str = "broker";
/// What users know by a name.
pub const APPLICATION: &str = "application";
/// A project or product.
pub const PROJECT: &str = "project";
/// People who own things.
pub const TEAM: &str = "team";
/// Configuration that something reads.
pub const CONFIG: &str = "config";
/// Something outside that nobody describes.
pub const EXTERNAL: &str = "external";

/// The types that are always there, each with the one that it inherits from.
pub const BUILT_IN: &[(&str, Option<&str>)] = &[
    (SERVICE, None),
    (INTERFACE, None),
    (WORKLOAD, None),
    (INSTANCE, None),
    (HOST, None),
    (ZONE, None),
    (VOLUME, None),
    (CLUSTER, None),
    (JOB, None),
    (DATASET, None),
    (COLUMN, None),
    (TOPIC, None),
    (METRIC, None),
    (DASHBOARD, None),
    (DATABASE, None),
    (BROKER, None),
    (APPLICATION, None),
    (PROJECT, None),
    (TEAM, None),
    (CONFIG, None),
    (EXTERNAL, None),
];

/// Kinds that others run on: if one is down, so is what runs there.
const HOSTING: &[&str] = &[HOST, ZONE, VOLUME];

/// Kinds that hold data and grow old when whoever writes them fails.
const DATA: &[&str] = &[DATASET, COLUMN, TOPIC, METRIC, DASHBOARD];

/// Kinds that write data.
const PRODUCERS: &[&str] = &[JOB, SERVICE, WORKLOAD, INTERFACE, APPLICATION];

/// What an attribute may hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueType {
    /// A string.
    Text,
    /// A number.
    Number,
    /// true or false.
    Boolean,
    /// A time as RFC 3339 text or in Unix milliseconds.
    Time,
    /// The id of a node.
    Node,
    /// An array.
    List,
    /// An object.
    Object,
    /// One of these strings.
    OneOf(Vec<String>),
}

/// An attribute of a type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttributeType {
    /// What it may hold.
    #[serde(rename = "type")]
    pub value: ValueType,
    /// Whether a node without it is incomplete. Such nodes are accepted, and shown as incomplete.
    #[serde(default)]
    pub required: bool,
    /// What it means, with its unit.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// What one source says about a type of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypeBody {
    /// The type that it is a special case of. Must not have cycles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inherits: Option<String>,
    /// Attributes by name, besides the inherited ones.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, AttributeType>,
    /// Types of its parts. Must not have cycles.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub composed_of: Vec<String>,
    /// Types that nodes of this type usually depend on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<String>,
    /// What it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

impl TypeBody {
    /// Refuses names that no kind can have.
    pub(crate) fn check(&self) -> Result<()> {
        for (field, names) in [
            ("inherits", self.inherits.as_slice()),
            ("composed_of", self.composed_of.as_slice()),
            ("depends_on", self.depends_on.as_slice()),
        ] {
            for name in names {
                key::check_kind(name).map_err(|e| e.within(field))?;
            }
        }
        Ok(())
    }
}

/// All types as of one time.
#[derive(Clone, Debug, Default)]
pub struct TypeTable {
    types: BTreeMap<String, Arc<TypeBody>>,
}

impl TypeTable {
    /// The built-in types and these, which may say more about a built-in one.
    pub fn new(declared: impl IntoIterator<Item = (String, Arc<TypeBody>)>) -> Self {
        let built_in = |(name, parent): &(&str, Option<&str>)| {
            ((*name).to_owned(), Arc::new(TypeBody { inherits: parent.map(str::to_owned), ..TypeBody::default() }))
        };
        let mut types: BTreeMap<_, _> = BUILT_IN.iter().map(built_in).collect();
        types.extend(declared);
        Self { types }
    }

    /// These types and one more.
    #[must_use]
    pub fn with(&self, name: &str, body: &TypeBody) -> Self {
        let mut types = self.types.clone();
        types.insert(name.into(), Arc::new(body.clone()));
        Self { types }
    }

    /// All types by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TypeBody)> {
        self.types.iter().map(|(name, body)| (name.as_str(), &**body))
    }

    /// What is said about a type.
    pub fn get(&self, kind: &str) -> Option<&TypeBody> {
        self.types.get(kind).map(|b| &**b)
    }

    /// The type and those it inherits from, nearest first. Ends where a cycle would begin.
    pub fn ancestry<'a>(&'a self, kind: &'a str) -> Vec<&'a str> {
        let mut out = vec![kind];
        let mut at = kind;
        while let Some(parent) = self.types.get(at).and_then(|t| t.inherits.as_deref()) {
            if out.contains(&parent) {
                break;
            }
            out.push(parent);
            at = parent;
        }
        out
    }

    /// Whether `kind` is `ancestor` or inherits from it.
    pub fn is_a(&self, kind: &str, ancestor: &str) -> bool {
        kind == ancestor || self.ancestry(kind).contains(&ancestor)
    }

    /// Whether others run on nodes of this kind.
    pub fn is_hosting(&self, kind: &str) -> bool {
        self.ancestry(kind).iter().any(|k| HOSTING.contains(k))
    }

    /// Whether nodes of this kind hold data.
    pub fn is_data(&self, kind: &str) -> bool {
        self.ancestry(kind).iter().any(|k| DATA.contains(k))
    }

    /// Whether a dependency on `provider` means that data comes from there later, where nobody says what flows.
    pub fn is_data_flow(&self, dependent: &str, provider: &str) -> bool {
        self.is_data(dependent) && (self.is_data(provider) || self.ancestry(provider).iter().any(|k| PRODUCERS.contains(k)))
    }

    /// The attributes of a kind with the inherited ones; the nearest statement counts.
    pub fn attributes<'a>(&'a self, kind: &'a str) -> BTreeMap<&'a str, &'a AttributeType> {
        let mut out = BTreeMap::new();
        for ancestor in self.ancestry(kind) {
            for (name, attribute) in self.types.get(ancestor).map(|t| &t.attributes).into_iter().flatten() {
                out.entry(name.as_str()).or_insert(attribute);
            }
        }
        out
    }

    /// Refuses values of a type other than the kind's.
    pub(crate) fn check_attributes(&self, kind: &str, attributes: &Attributes) -> Result<()> {
        if attributes.is_empty() {
            return Ok(());
        }
        for (name, wanted) in self.attributes(kind) {
            if let Some(value) = attributes.get(name)
                && !wanted.value.accepts(value)
            {
                let reason = format!("must be {}, as kind {kind} says; it is {}", wanted.value, short(value));
                return Err(Error::invalid(format!("attributes.{name}"), reason));
            }
        }
        Ok(())
    }

    /// Required attributes that are not there.
    pub fn missing<'a>(&'a self, kind: &'a str, present: &Attributes) -> Vec<&'a str> {
        let wanted = self.attributes(kind).into_iter();
        wanted.filter(|(name, a)| a.required && !present.contains_key(*name)).map(|(name, _)| name).collect()
    }
}

impl ValueType {
    fn accepts(&self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
            Self::Time => value.is_string() || value.is_i64(),
            Self::Node => value.as_str().is_some_and(|id| key::NodeKey::parse(id).is_ok()),
            Self::List => value.is_array(),
            Self::Object => value.is_object(),
            Self::OneOf(allowed) => value.as_str().is_some_and(|v| allowed.iter().any(|a| a == v)),
        }
    }
}

impl std::fmt::Display for ValueType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text => f.write_str("text"),
            Self::Number => f.write_str("a number"),
            Self::Boolean => f.write_str("true or false"),
            Self::Time => f.write_str("a time"),
            Self::Node => f.write_str("the id of a node"),
            Self::List => f.write_str("a list"),
            Self::Object => f.write_str("an object"),
            Self::OneOf(allowed) => write!(f, "one of {}", allowed.join(", ")),
        }
    }
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table() -> TypeTable {
        let body = |value: Value| Arc::new(serde_json::from_value::<TypeBody>(value).expect("valid"));
        TypeTable::new([
            ("cvm-host".to_owned(), body(json!({"inherits": "host", "attributes": {"region": {"type": "text", "required": true}}}))),
            (
                "gpu-host".to_owned(),
                body(
                    json!({"inherits": "cvm-host", "attributes": {"cards": {"type": "number"}, "tier": {"type": {"one_of": ["a", "b"]}}}}),
                ),
            ),
        ])
    }

    #[test]
    fn a_type_has_what_its_ancestors_have() {
        let types = table();
        assert!(types.is_a("gpu-host", "host") && !types.is_a("host", "gpu-host") && types.is_hosting("gpu-host"));
        assert_eq!(types.attributes("gpu-host").into_keys().collect::<Vec<_>>(), ["cards", "region", "tier"]);
        assert_eq!(types.missing("gpu-host", &Attributes::new()), ["region"]);
        let set = |name: &str, value: Value| types.check_attributes("gpu-host", &Attributes::from([(name.to_owned(), value)]));
        set("region", json!("eu")).expect("is text");
        set("other", json!(null)).expect("the type says nothing about it");
        set("tier", json!("a")).expect("is one of them");
        let error = set("cards", json!("four")).expect_err("is text").to_string();
        assert_eq!(error, "attributes.cards: must be a number, as kind gpu-host says; it is \"four\"");
        assert!(set("tier", json!("c")).expect_err("is not one of them").to_string().contains("one of a, b"));
    }

    #[test]
    fn what_flows_follows_from_the_kinds() {
        let types = table();
        assert!(types.is_data_flow(DATASET, JOB) && types.is_data_flow(TOPIC, SERVICE) && types.is_data_flow(COLUMN, COLUMN));
        assert!(!types.is_data_flow(JOB, DATASET) && !types.is_data_flow(TOPIC, BROKER) && !types.is_data_flow(DATASET, DATABASE));
        assert!(!types.is_data_flow(SERVICE, SERVICE));
    }
}
