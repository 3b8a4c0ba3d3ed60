//! What is appended to the log: events, each with the facts that one source states at one time.
//!
//! Events are idempotent: one with an id that was stored lately is acknowledged and not stored again, and one that is stored twice
//! after all changes nothing. A source may say that it has now said everything of a scope; then what it did not repeat is withdrawn.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::edge::is_default;
use crate::model::key::{self, MAX_PART_BYTES};
use crate::model::{Attributes, Class, EdgeBody, Evidence, NodeBody, NodeKey, Relation, TypeBody};
use crate::{Error, Result};

/// Largest event as JSON. An OpenLineage event of 20 MiB fits, with the facts that it makes.
pub const MAX_EVENT_BYTES: usize = 48 << 20;

/// Longest id of an event.
pub const MAX_ID_BYTES: usize = 512;

/// Longest name of a source.
pub const MAX_SOURCE_BYTES: usize = 128;

/// Largest attributes, descriptions, tags and owners of one fact together, about.
pub const MAX_BODY_BYTES: usize = 16 << 20;

/// Largest document.
pub const MAX_DOCUMENT_BYTES: usize = 256 << 10;

/// Events may be from the future by so much, because clocks differ.
pub const MAX_FUTURE_MS: i64 = 10 * 60 * 1000;

/// Longest time to live.
pub const MAX_TTL_MS: i64 = 400 * 24 * 3600 * 1000;

/// Longest lag of an edge.
pub const MAX_LAG_MS: i64 = 400 * 24 * 3600 * 1000;

/// Facts of one source at one time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Unique among the events of the tenant; the same id again is a repetition.
    pub id: String,
    /// Who says it, as in `kubernetes` or `openlineage`.
    pub source: String,
    /// Which part of the source, as in the name of a cluster, a file or a job. Facts of different scopes do not touch each other.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scope: String,
    /// Since when it is so, Unix milliseconds.
    pub at_ms: i64,
    /// What is so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<Fact>,
    /// All that this scope has to say was said from this time on, in this event and earlier ones: whatever it last said before is
    /// withdrawn as of `at_ms`. Equal to `at_ms` if this event alone says everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete_since_ms: Option<i64>,
    /// What the facts were made of, as it came. The log keeps it; the graph does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<Box<str>>,
}

/// One thing that is so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// A node is there.
    Node(NodeFact),
    /// This scope does not say so any more.
    NodeGone(NodeGone),
    /// An edge is there, and so are its ends.
    Edge(EdgeFact),
    /// This scope does not say so any more.
    EdgeGone(EdgeGone),
    /// Two names mean one node.
    Alias(AliasFact),
    /// This scope does not say so any more.
    AliasGone(Pair),
    /// Two names do not mean one node, whoever says that they do: takes a merge apart.
    Separate(Pair),
    /// This scope does not say so any more.
    SeparateGone(Pair),
    /// A type of nodes.
    Type(TypeFact),
    /// This scope does not say so any more.
    TypeGone(TypeGone),
    /// A document about a node: what is kept beside the graph, such as a run of a job.
    Document(DocumentFact),
}

/// A node is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFact {
    /// Which.
    pub node: NodeKey,
    /// It is live for so long after each time that it is said, then stale, then gone. 0: until it is withdrawn.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ttl_ms: i64,
    /// What is said about it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub body: NodeBody,
}

/// A node is not there any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeGone {
    /// Which.
    pub node: NodeKey,
}

/// An edge is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeFact {
    /// The dependent, or the whole.
    pub from: NodeKey,
    /// The provider, or the part.
    pub to: NodeKey,
    /// How they belong together.
    #[serde(default, skip_serializing_if = "is_default")]
    pub relation: Relation,
    /// As for nodes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ttl_ms: i64,
    /// What is said about it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub body: EdgeBody,
}

/// An edge is not there any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeGone {
    /// The dependent, or the whole.
    pub from: NodeKey,
    /// The provider, or the part.
    pub to: NodeKey,
    /// How they belonged together.
    #[serde(default, skip_serializing_if = "is_default")]
    pub relation: Relation,
}

/// Two names mean one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AliasFact {
    /// The name that is another one's alias.
    pub alias: NodeKey,
    /// The name that the node goes by.
    pub canonical: NodeKey,
    /// By which rule they were found to be one, as in `k8s-service-dns` or `manual`.
    pub rule: String,
    /// As for nodes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ttl_ms: i64,
}

/// Two names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// One name; of an alias the name that is another one's.
    pub alias: NodeKey,
    /// The other name.
    pub canonical: NodeKey,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
}

/// A type of nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypeFact {
    /// The kind that its nodes have.
    pub name: String,
    /// What is said about it.
    #[serde(default)]
    pub body: TypeBody,
}

/// A document about a node. The last one of a name counts; it has no history, and of many the ones said last are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DocumentFact {
    /// Which node it belongs to.
    pub node: NodeKey,
    /// Its name among the documents of the node, as in `run/01a200c5-b4cc-774c-bb18-7a9dc329eb5f`.
    pub name: String,
    /// What it says; null removes it.
    pub body: Value,
}

/// A type is not there any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypeGone {
    /// The kind.
    pub name: String,
}

impl Event {
    /// An event of one source without facts yet.
    pub fn new(id: impl Into<String>, source: impl Into<String>, scope: impl Into<String>, at_ms: i64) -> Self {
        Self { id: id.into(), source: source.into(), scope: scope.into(), at_ms, facts: Vec::new(), complete_since_ms: None, raw: None }
    }

    /// Reads an event from JSON.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is too large or not an event, with the line and column.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        if json.len() > MAX_EVENT_BYTES {
            return Err(too_large(json.len()));
        }
        serde_json::from_slice(json).map_err(|e| Error::invalid("event", e.to_string()))
    }

    /// Refuses what breaks a rule that needs no knowledge of the graph, and rounds numbers as they are kept.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the path of the field.
    pub fn check(&mut self, now_ms: i64) -> Result<()> {
        if self.id.is_empty() || self.id.len() > MAX_ID_BYTES {
            return Err(Error::invalid("id", format!("has {} bytes; give 1 to {MAX_ID_BYTES}", self.id.len())));
        }
        if self.source.is_empty() || self.source.len() > MAX_SOURCE_BYTES || self.source.contains(char::is_control) {
            return Err(Error::invalid(
                "source",
                format!("has {} bytes; give 1 to {MAX_SOURCE_BYTES}, no control characters", self.source.len()),
            ));
        }
        if self.scope.len() > MAX_PART_BYTES {
            return Err(Error::invalid("scope", format!("has {} bytes, more than {MAX_PART_BYTES}; shorten it", self.scope.len())));
        }
        if self.at_ms < 0 || self.at_ms > now_ms.saturating_add(MAX_FUTURE_MS) {
            let reason =
                format!("{} is before 1970 or more than 10 minutes ahead of the clock here, {now_ms}; give Unix milliseconds", self.at_ms);
            return Err(Error::invalid("at_ms", reason));
        }
        if self.complete_since_ms.is_some_and(|since| since > self.at_ms) {
            return Err(Error::invalid("complete_since_ms", "is after at_ms; give the time when the source began to say everything"));
        }
        for (i, fact) in self.facts.iter_mut().enumerate() {
            fact.check().map_err(|e| e.within(&format!("facts[{i}]")))?;
        }
        Ok(())
    }
}

impl Fact {
    /// That a node is there.
    pub fn node(node: NodeKey, body: NodeBody) -> Self {
        Self::Node(NodeFact { node, ttl_ms: 0, body })
    }

    /// That `from` depends on `to`.
    pub fn depends(from: NodeKey, to: NodeKey, body: EdgeBody) -> Self {
        Self::Edge(EdgeFact { from, to, relation: Relation::Dependency, ttl_ms: 0, body })
    }

    /// That `part` is a part of `whole`.
    pub fn composed(whole: NodeKey, part: NodeKey) -> Self {
        Self::Edge(EdgeFact { from: whole, to: part, relation: Relation::Composition, ttl_ms: 0, body: EdgeBody::default() })
    }

    /// That `alias` is another name of `canonical`.
    pub fn alias(alias: NodeKey, canonical: NodeKey, rule: impl Into<String>) -> Self {
        Self::Alias(AliasFact { alias, canonical, rule: rule.into(), ttl_ms: 0 })
    }

    /// The same fact, live for so long after each time that it is said. Facts that cannot expire stay as they are.
    #[must_use]
    pub fn with_ttl(mut self, ttl_ms: i64) -> Self {
        match &mut self {
            Self::Node(f) => f.ttl_ms = ttl_ms,
            Self::Edge(f) => f.ttl_ms = ttl_ms,
            Self::Alias(f) => f.ttl_ms = ttl_ms,
            _ => {}
        }
        self
    }

    fn check(&mut self) -> Result<()> {
        match self {
            Self::Node(fact) => {
                check_ttl(fact.ttl_ms).map_err(|e| e.within("node"))?;
                check_node(&mut fact.body).map_err(|e| e.within("node.body"))
            }
            Self::Edge(fact) => {
                check_ttl(fact.ttl_ms).map_err(|e| e.within("edge"))?;
                if fact.from == fact.to {
                    return Err(Error::invalid("edge.to", format!("{} cannot depend on itself; leave the edge out", fact.from)));
                }
                check_edge(fact).map_err(|e| e.within("edge.body"))
            }
            Self::Alias(fact) => {
                check_ttl(fact.ttl_ms).map_err(|e| e.within("alias"))?;
                check_names(&fact.alias, &fact.canonical, &fact.rule).map_err(|e| e.within("alias"))
            }
            Self::Separate(pair) => check_names(&pair.alias, &pair.canonical, &pair.rule).map_err(|e| e.within("separate")),
            Self::Type(fact) => {
                key::check_kind(&fact.name).map_err(|e| e.within("type.name"))?;
                fact.body.check().map_err(|e| e.within("type.body"))
            }
            Self::Document(fact) => check_document(fact).map_err(|e| e.within("document")),
            Self::NodeGone(_) | Self::EdgeGone(_) | Self::AliasGone(_) | Self::SeparateGone(_) | Self::TypeGone(_) => Ok(()),
        }
    }
}

fn check_ttl(ttl_ms: i64) -> Result<()> {
    if (0..=MAX_TTL_MS).contains(&ttl_ms) {
        return Ok(());
    }
    Err(Error::invalid("ttl_ms", format!("{ttl_ms} is not between 0 and {MAX_TTL_MS}; leave it out for what does not expire")))
}

fn check_names(alias: &NodeKey, canonical: &NodeKey, rule: &str) -> Result<()> {
    if alias == canonical {
        return Err(Error::invalid("canonical", format!("{alias} is the same name; leave it out")));
    }
    if rule.len() > MAX_SOURCE_BYTES * 8 {
        return Err(Error::invalid("rule", format!("has {} bytes, more than {}; shorten it", rule.len(), MAX_SOURCE_BYTES * 8)));
    }
    Ok(())
}

fn check_document(fact: &DocumentFact) -> Result<()> {
    if fact.name.is_empty() || fact.name.len() > MAX_ID_BYTES {
        return Err(Error::invalid("name", format!("has {} bytes; give 1 to {MAX_ID_BYTES}", fact.name.len())));
    }
    let bytes = size(&fact.body);
    if bytes > MAX_DOCUMENT_BYTES {
        return Err(Error::invalid("body", format!("has about {bytes} bytes, more than {MAX_DOCUMENT_BYTES}; shorten it")));
    }
    Ok(())
}

fn check_node(body: &mut NodeBody) -> Result<()> {
    let texts = [&body.title, &body.description].into_iter().chain(&body.tags).map(|t| t.len() + 8);
    let owners = body.owners.iter().map(|o| o.name.len() + o.role.len() + 16);
    check_size(texts.chain(owners).sum::<usize>() + attributes_size(&body.attributes))
}

fn check_edge(fact: &mut EdgeFact) -> Result<()> {
    let body = &mut fact.body;
    for (name, value) in [("share", body.share), ("coupling", body.coupling), ("confidence", body.confidence)] {
        if value.is_some_and(|v| !(0.0..=1.0).contains(&v)) {
            return Err(Error::invalid(name, format!("{} is not between 0 and 1; give a fraction", value.unwrap_or_default())));
        }
    }
    body.round();
    if body.lag_ms.is_some_and(|lag| !(0..=MAX_LAG_MS).contains(&lag)) {
        return Err(Error::invalid("lag_ms", format!("{} is not between 0 and {MAX_LAG_MS}", body.lag_ms.unwrap_or_default())));
    }
    if let Some(group) = &body.group {
        if group.id.len() > MAX_PART_BYTES {
            return Err(Error::invalid("group.id", format!("has {} bytes, more than {MAX_PART_BYTES}; shorten it", group.id.len())));
        }
        if group.n.is_some_and(|n| n < group.k) {
            return Err(Error::invalid("group.k", format!("{} of {} can never be there; k is at most n", group.k, group.n.unwrap_or(0))));
        }
    }
    if fact.relation == Relation::Composition && body.class == Some(Class::Ordering) {
        return Err(Error::invalid("class", "a composition cannot be of class ordering; make it a dependency"));
    }
    if body.evidence == Evidence::Proven && body.class.is_none() && body.coupling.is_none() {
        return Err(Error::invalid("evidence", "proven needs what was proven; give class or coupling"));
    }
    check_size(body.attributes.as_deref().map_or(0, attributes_size))
}

fn check_size(bytes: usize) -> Result<()> {
    if bytes <= MAX_BODY_BYTES {
        return Ok(());
    }
    Err(Error::invalid("attributes", format!("attributes and texts have {bytes} bytes, more than {MAX_BODY_BYTES}; leave some out")))
}

fn attributes_size(attributes: &Attributes) -> usize {
    attributes.iter().map(|(name, value)| name.len() + 4 + size(value)).sum()
}

/// About as many bytes as the value has as JSON. JSON parsers bound the depth, so that this does not recurse far.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(s) => s.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|v| size(v) + 1).sum::<usize>(),
        Value::Object(fields) => 2 + fields.iter().map(|(k, v)| k.len() + 4 + size(v)).sum::<usize>(),
    }
}

pub(crate) fn too_large(bytes: usize) -> Error {
    Error::invalid("event", format!("has {bytes} bytes as JSON, more than {MAX_EVENT_BYTES}; split it"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(event: Value) -> String {
        let parsed = serde_json::from_value::<Event>(event).map_err(|e| e.to_string());
        match parsed.and_then(|mut e| e.check(1000).map_err(|e| e.to_string())) {
            Ok(()) => panic!("it was accepted"),
            Err(error) => error,
        }
    }

    fn event(fact: Value) -> Value {
        json!({"id": "1", "source": "test", "at_ms": 5, "facts": [fact]})
    }

    #[test]
    fn errors_name_the_field() {
        let edge = |body: Value| event(json!({"edge": {"from": "service:a", "to": "service:b", "body": body}}));
        for (input, start) in [
            (json!({"id": "", "source": "x", "at_ms": 1}), "id: "),
            (json!({"id": "1", "source": "x", "at_ms": i64::MAX}), "at_ms: "),
            (json!({"id": "1", "source": "x", "at_ms": 5, "complete_since_ms": 6}), "complete_since_ms: "),
            (edge(json!({"share": 1.5})), "facts[0].edge.body.share: 1.5 is not"),
            (edge(json!({"lag_ms": -1})), "facts[0].edge.body.lag_ms: "),
            (edge(json!({"group": {"id": "g", "k": 3, "n": 2}})), "facts[0].edge.body.group.k: 3 of 2"),
            (edge(json!({"evidence": "proven"})), "facts[0].edge.body.evidence: "),
            (edge(json!({"clas": "hard"})), "unknown field `clas`"),
            (event(json!({"edge": {"from": "service:a", "to": "service:a"}})), "facts[0].edge.to: service:a cannot depend on itself"),
            (event(json!({"node": {"node": "a"}})), "\"a\" is no node id"),
            (event(json!({"node": {"node": "service:a", "ttl_ms": -5}})), "facts[0].node.ttl_ms: "),
            (event(json!({"type": {"name": "Host"}})), "facts[0].type.name: \"Host\" is no kind"),
            (event(json!({"type": {"name": "a", "body": {"inherits": "B"}}})), "facts[0].type.body.inherits: "),
            (event(json!({"alias": {"alias": "a:x", "canonical": "a:x", "rule": "r"}})), "facts[0].alias.canonical: "),
        ] {
            let error = refused(input);
            assert!(error.starts_with(start), "{error} does not begin with {start}");
        }
    }

    #[test]
    fn an_event_survives_json() {
        let mut event = Event::new("1", "test", "scope", 7);
        let node = |name: &str| NodeKey::new("service", "a/b", name).expect("valid");
        event.facts = vec![
            Fact::node(node("x"), NodeBody { tags: vec!["t".into()], ..NodeBody::default() }).with_ttl(5),
            Fact::depends(node("x"), node("y"), EdgeBody { share: Some(1.0 / 3.0), lag_ms: Some(9), ..EdgeBody::default() }),
            Fact::composed(node("x"), node("z")),
            Fact::alias(node("x"), node("w"), "rule"),
            Fact::Type(TypeFact { name: "k".into(), body: TypeBody::default() }),
        ];
        event.complete_since_ms = Some(7);
        event.check(7).expect("valid");
        let json = serde_json::to_vec(&event).expect("serializes");
        assert_eq!(Event::from_json(&json).expect("parses"), event);
    }
}
