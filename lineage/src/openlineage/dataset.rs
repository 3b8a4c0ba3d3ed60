//! What an event says about a dataset itself: its facets, columns, other names, and whether it was dropped or renamed.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::about::{describe, facet, facets, is_deleted, tagged_fields, tags};
use super::names::{column_at, dataset, dataset_at, name_at};
use super::read::At;
use super::schema;
use super::voice::Voice;
use crate::Result;
use crate::event::{Fact, NodeFact, NodeGone, Pair};
use crate::model::{NodeBody, NodeKey};

/// The attribute with a dataset's other names.
pub const SYMLINKS: &str = "symlinks";

/// The attribute with the words of a dataset's columns.
pub const FIELD_TAGS: &str = "field_tags";

/// Columns of a dataset with another name that get that other name too.
pub const MAX_ALIASED_COLUMNS: usize = 2_000;

/// Rule of aliases that a symlinks facet says.
const SYMLINK_RULE: &str = "openlineage-symlinks";

/// Rule of aliases that come from a rename.
const RENAME_RULE: &str = "openlineage-rename";

/// How a dataset takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A job reads it.
    Input,
    /// A job writes it, or the event is about it.
    Output,
}

/// What became of a dataset.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Lifecycle {
    /// It was made, so that whoever had its name before is another one.
    Created,
    /// It is gone.
    Dropped,
    /// It had another name before.
    Renamed(NodeKey),
}

/// What is said about a dataset besides its body.
#[derive(Debug, Default)]
pub(super) struct Around {
    /// Columns.
    pub facts: Vec<Fact>,
    /// Other names. They may not fit the graph, and then the rest still counts.
    pub aliases: Vec<Fact>,
}

/// Puts the facets of a dataset into its body, and says what follows from them. Late ones only fill gaps.
pub(super) fn describe_dataset(voice: &Voice, at: &At, key: &NodeKey, role: Role, late: bool, body: &mut NodeBody) -> Result<Around> {
    let mut around = Around::default();
    body.evidence = voice.evidence;
    let Some(facets) = facets(at, "facets")? else { return Ok(around) };
    let has_words = facets.field("schema").is_some() || facets.field("tags").is_some();
    let words_before = has_words.then(|| column_words(body));
    describe(body, &facets, late)?;
    match facets.field("schema") {
        Some(said) if is_deleted(&said) => {
            schema::dropped(key, schema::known(body), &[], &mut around.facts)?;
            body.attributes.remove(schema::FIELDS);
        }
        Some(said) if !late || schema::known(body).is_empty() => {
            let fields = schema::fields(&said)?;
            schema::columns(voice, key, &fields, &said, &mut around.facts)?;
            if role == Role::Output || !schema::is_part(&fields, schema::known(body)) {
                schema::dropped(key, schema::known(body), &fields, &mut around.facts)?;
                schema::set(body, fields);
            }
        }
        _ => {}
    }
    field_tags(&facets, body)?;
    if let Some(before) = words_before {
        say_words(voice, key, &before, body, &facets, &mut around.facts)?;
    }
    other_names(voice, &facets, key, body, &mut around.aliases)?;
    Ok(around)
}

/// Keeps the words of columns in the body.
fn field_tags(facets: &At, body: &mut NodeBody) -> Result<()> {
    let Some(said) = facets.field("tags") else { return Ok(()) };
    let mut kept = Map::new();
    for field in if is_deleted(&said) { Vec::new() } else { tagged_fields(&said) } {
        kept.insert(field.into(), json!(tags(&said, Some(field))?));
    }
    if kept.is_empty() {
        body.attributes.remove(FIELD_TAGS);
    } else {
        body.attributes.insert(FIELD_TAGS.into(), Value::Object(kept));
    }
    Ok(())
}

/// Descriptions and words of columns by name, of those that have some.
fn column_words(body: &NodeBody) -> BTreeMap<String, NodeBody> {
    let fields = schema::known(body);
    let mut out: BTreeMap<String, NodeBody> = BTreeMap::new();
    for ((name, _), description) in schema::names(fields).into_iter().zip(schema::descriptions(fields)) {
        if !description.is_empty() {
            out.entry(name).or_default().description = description.into();
        }
    }
    for (name, words) in body.attributes.get(FIELD_TAGS).and_then(Value::as_object).into_iter().flatten() {
        let words = words.as_array().into_iter().flatten().filter_map(|w| w.as_str().map(str::to_owned));
        out.entry(name.clone()).or_default().tags = words.collect();
    }
    out
}

/// Says descriptions and words of columns, and takes back those that there are none of any more.
fn say_words(
    voice: &Voice,
    key: &NodeKey,
    before: &BTreeMap<String, NodeBody>,
    body: &NodeBody,
    at: &At,
    out: &mut Vec<Fact>,
) -> Result<()> {
    let now = column_words(body);
    for name in before.keys().filter(|n| !now.contains_key(*n)) {
        out.push(Fact::NodeGone(NodeGone { node: column_at(key, name, at)? }));
    }
    for (name, words) in now {
        let body = NodeBody { evidence: voice.evidence, ..words };
        out.push(Fact::Node(NodeFact { node: column_at(key, &name, at)?, ttl_ms: voice.ttl_ms, body }));
    }
    Ok(())
}

/// Names of the symlinks facet, and no longer those that it had before.
fn other_names(voice: &Voice, facets: &At, key: &NodeKey, body: &mut NodeBody, out: &mut Vec<Fact>) -> Result<()> {
    let Some(said) = facets.field("symlinks") else { return Ok(()) };
    let before: Vec<Value> = body.attributes.get(SYMLINKS).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut now = Vec::new();
    let mut names = Vec::new();
    if let Some(identifiers) = facet(Some(facets), "symlinks").as_ref().and_then(|s| s.field("identifiers")) {
        for identifier in identifiers.items()? {
            let other = dataset_at(&identifier)?;
            let (namespace, name) = name_at(&identifier)?;
            now.push(json!({"namespace": namespace, "name": name, "type": identifier.optional_text("type")?}));
            if other != *key && !names.contains(&other) {
                names.push(other);
            }
        }
    }
    let columns = schema::names(schema::known(body));
    let columns = || columns.iter().take(MAX_ALIASED_COLUMNS);
    for other in &names {
        out.push(Fact::alias(other.clone(), key.clone(), SYMLINK_RULE).with_ttl(voice.ttl_ms));
        for (column, _) in columns() {
            let (alias, canonical) = (column_at(other, column, &said)?, column_at(key, column, &said)?);
            out.push(Fact::alias(alias, canonical, SYMLINK_RULE).with_ttl(voice.ttl_ms));
        }
    }
    for gone in before.iter().filter_map(|s| dataset(s["namespace"].as_str()?, s["name"].as_str()?).ok()) {
        if gone != *key && !names.contains(&gone) {
            out.push(Fact::AliasGone(Pair { alias: gone.clone(), canonical: key.clone(), rule: String::new() }));
            for (column, _) in columns() {
                let (alias, canonical) = (column_at(&gone, column, &said)?, column_at(key, column, &said)?);
                out.push(Fact::AliasGone(Pair { alias, canonical, rule: String::new() }));
            }
        }
    }
    if now.is_empty() {
        body.attributes.remove(SYMLINKS);
    } else {
        body.attributes.insert(SYMLINKS.into(), Value::Array(now));
    }
    Ok(())
}

/// What the event says became of the dataset.
pub(super) fn lifecycle(at: &At) -> Result<Option<Lifecycle>> {
    let Some(facets) = facets(at, "facets")? else { return Ok(None) };
    let Some(said) = facet(Some(&facets), "lifecycleStateChange") else { return Ok(None) };
    Ok(match said.text_of("lifecycleStateChange")? {
        change if change.eq_ignore_ascii_case("DROP") => Some(Lifecycle::Dropped),
        change if change.eq_ignore_ascii_case("CREATE") => Some(Lifecycle::Created),
        change if change.eq_ignore_ascii_case("RENAME") => match said.field("previousIdentifier") {
            Some(previous) => Some(Lifecycle::Renamed(dataset_at(&previous)?)),
            None => None,
        },
        _ => None,
    })
}

/// That `before` was the name of `now`.
pub(super) fn renamed(before: &NodeKey, now: &NodeKey, fields: &[Value]) -> Result<Vec<Fact>> {
    let mut out = vec![Fact::alias(before.clone(), now.clone(), RENAME_RULE)];
    for (column, _) in schema::names(fields).iter().take(MAX_ALIASED_COLUMNS) {
        out.push(Fact::alias(NodeKey::column(before, column)?, NodeKey::column(now, column)?, RENAME_RULE));
    }
    Ok(out)
}
