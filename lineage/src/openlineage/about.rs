//! What facets say about a job or a dataset, as the body of its node: owners, words, description, and the facets themselves.
//!
//! Facets accumulate: an event that does not carry one leaves it as it was, and one with `_deleted` removes it. What differs from run
//! to run does not become part of the body, whose history would grow with every run, but a document of which the last one is kept.

use serde_json::{Map, Value, json};

use super::read::At;
use crate::Result;
use crate::event::{DocumentFact, Fact};
use crate::model::{NodeBody, NodeKey, Owner};

/// Facets that are kept in the body, of one node.
pub const MAX_FACETS: usize = 100;

/// Largest facet that is kept in the body. Of a larger one only its size is; the log has all of it.
pub const MAX_FACET_BYTES: usize = 64 << 10;

/// Largest facet that is kept as a document.
pub const MAX_LATEST_BYTES: usize = 16 << 10;

/// Longest name of a facet that is kept as a document.
const MAX_LATEST_NAME_BYTES: usize = 256;

/// The attribute with the facets that are no part of the model.
pub const FACETS: &str = "facets";

/// Prefix of the documents of facets that differ from run to run.
pub const LATEST: &str = "facet/";

/// Facets with a place of their own in the graph.
const MODELLED: &[&str] = &["schema", "columnLineage", "lineage", "symlinks"];

/// Facets that differ from run to run, beside those of inputs and outputs.
const VARYING: &[&str] = &["version", "lifecycleStateChange", "dataQualityMetrics", "dataQualityAssertions", "sql"];

/// Facets by name, of an object that may have them.
pub(super) fn facets<'s, 'v>(at: &'s At<'s, 'v>, name: &'static str) -> Result<Option<At<'s, 'v>>> {
    match at.field(name) {
        Some(facets) => facets.entries().map(drop).map(|()| Some(facets)),
        None => Ok(None),
    }
}

/// A facet by name that is there and not deleted.
pub(super) fn facet<'s, 'v>(facets: Option<&'s At<'s, 'v>>, name: &'static str) -> Option<At<'s, 'v>> {
    facets?.field(name).filter(|f| !is_deleted(f))
}

/// Whether the facet says that it is not there any more.
pub(super) fn is_deleted(facet: &At) -> bool {
    facet.value.get("_deleted").and_then(Value::as_bool) == Some(true)
}

/// Puts facets into a body. Late ones only fill gaps.
pub(super) fn describe(body: &mut NodeBody, facets: &At, late: bool) -> Result<()> {
    for (name, facet) in facets.entries()? {
        let deleted = is_deleted(&facet);
        match name {
            "documentation" if deleted => body.description.clear(),
            "documentation" if !late || body.description.is_empty() => body.description = facet.optional_text("description")?.into(),
            "ownership" if deleted => body.owners.clear(),
            "ownership" if !late || body.owners.is_empty() => body.owners = owners(&facet)?,
            "tags" if deleted => body.tags.clear(),
            "tags" if !late || body.tags.is_empty() => body.tags = tags(&facet, None)?,
            "documentation" | "ownership" | "tags" => {}
            name if MODELLED.contains(&name) || VARYING.contains(&name) => {}
            name if deleted => forget(body, name),
            name => keep(body, name, facet.value, late),
        }
    }
    Ok(())
}

/// Facets that differ from run to run as documents of the node.
pub(super) fn latest(node: &NodeKey, facets: &At, varying: bool, out: &mut Vec<Fact>) -> Result<()> {
    for (name, facet) in facets.entries()? {
        if name.len() > MAX_LATEST_NAME_BYTES || !(varying || VARYING.contains(&name)) || facet.value.is_null() {
            continue;
        }
        let body = if is_deleted(&facet) { Value::Null } else { cut(facet.value, MAX_LATEST_BYTES) };
        out.push(Fact::Document(DocumentFact { node: node.clone(), name: format!("{LATEST}{name}"), body }));
    }
    Ok(())
}

/// The value, or if it is too large what it was.
pub(super) fn cut(value: &Value, most_bytes: usize) -> Value {
    let bytes = size(value, most_bytes);
    if bytes <= most_bytes {
        return value.clone();
    }
    let url = value.get("_schemaURL").filter(|u| u.is_string() && size(u, 1024) <= 1024);
    json!({"_schemaURL": url, "_left_out": format!("more than {most_bytes} bytes; the event has it")})
}

/// About as many bytes as the value has as JSON, counted until there are more than `enough`.
fn size(value: &Value, enough: usize) -> usize {
    let sum = |sizes: &mut dyn Iterator<Item = usize>| {
        let mut total = 2;
        for size in sizes {
            total += size;
            if total > enough {
                break;
            }
        }
        total
    };
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(s) => s.len() + 2,
        Value::Array(items) => sum(&mut items.iter().map(|v| size(v, enough) + 1)),
        Value::Object(fields) => sum(&mut fields.iter().map(|(k, v)| k.len() + 4 + size(v, enough))),
    }
}

fn owners(facet: &At) -> Result<Vec<Owner>> {
    let Some(list) = facet.field("owners") else { return Ok(Vec::new()) };
    let owner = |at: At| Ok(Owner { name: at.text_of("name")?.into(), role: at.optional_text("type")?.into() });
    list.items()?.map(owner).collect()
}

/// Words of a facet of tags: those of a column, or those of the whole.
pub(super) fn tags(facet: &At, field: Option<&str>) -> Result<Vec<String>> {
    let Some(list) = facet.field("tags") else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for tag in list.items()? {
        if tag.value.get("field").and_then(Value::as_str) != field {
            continue;
        }
        let key = tag.text_of("key")?;
        let value = tag.value.get("value").unwrap_or(&Value::Null);
        out.push(match value {
            Value::String(text) if !text.is_empty() && !text.eq_ignore_ascii_case("true") => format!("{key}:{text}"),
            Value::Number(_) | Value::Bool(false) => format!("{key}:{value}"),
            _ => key.into(),
        });
    }
    Ok(out)
}

/// Columns that a facet of tags speaks of.
pub(super) fn tagged_fields<'v>(facet: &At<'_, 'v>) -> Vec<&'v str> {
    let list = facet.value.get("tags").and_then(Value::as_array);
    let mut fields: Vec<&str> = list.into_iter().flatten().filter_map(|t| t.get("field")?.as_str()).filter(|f| !f.is_empty()).collect();
    fields.sort_unstable();
    fields.dedup();
    fields
}

fn kept(body: &mut NodeBody) -> &mut Map<String, Value> {
    let facets = body.attributes.entry(FACETS.into()).or_insert_with(|| Value::Object(Map::new()));
    if !facets.is_object() {
        *facets = Value::Object(Map::new());
    }
    facets.as_object_mut().expect("it was just made one")
}

fn keep(body: &mut NodeBody, name: &str, value: &Value, late: bool) {
    if value.is_null() {
        return;
    }
    let kept = kept(body);
    let has_room = kept.len() < MAX_FACETS && name.len() <= MAX_LATEST_NAME_BYTES;
    match kept.get_mut(name) {
        // Two producers that say the same would else take turns.
        Some(old) if late || same(old, value) => {}
        Some(old) => *old = cut(value, MAX_FACET_BYTES),
        None if has_room => {
            kept.insert(name.into(), cut(value, MAX_FACET_BYTES));
        }
        None => {}
    }
}

fn forget(body: &mut NodeBody, name: &str) {
    let kept = kept(body);
    kept.remove(name);
    if kept.is_empty() {
        body.attributes.remove(FACETS);
    }
}

/// Whether two facets say the same, whoever produced them.
fn same(a: &Value, b: &Value) -> bool {
    let (Value::Object(a), Value::Object(b)) = (a, b) else { return a == b };
    let said = |m: &Map<String, Value>| m.keys().filter(|k| *k != "_producer").count();
    said(a) == said(b) && a.iter().filter(|(k, _)| *k != "_producer").all(|(k, v)| b.get(k) == Some(v))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(before: &NodeBody, facets: Value, late: bool) -> NodeBody {
        let mut body = before.clone();
        describe(&mut body, &At::root(&facets), late).expect("valid facets");
        body
    }

    #[test]
    fn facets_accumulate_and_are_deleted() {
        let first = described(
            &NodeBody::default(),
            json!({
                "ownership": {"owners": [{"name": "team:data", "type": "MAINTAINER"}, {"name": "x"}]},
                "documentation": {"_producer": "p", "description": "Orders"},
                "tags": {"tags": [{"key": "pii", "value": "true"}, {"key": "tier", "value": "gold", "source": "x"}, {"key": "f", "field": "a"}]},
                "dataSource": {"_producer": "p", "name": "warehouse", "uri": "postgres://w"},
                "own_facet": {"x": [1, {"y": null}]},
                "schema": {"fields": []}, "version": {"datasetVersion": "7"}, "gone": null,
            }),
            false,
        );
        assert_eq!((first.description.as_str(), first.owners.len(), first.owners[0].role.as_str()), ("Orders", 2, "MAINTAINER"));
        assert_eq!(first.tags, ["pii", "tier:gold"]);
        assert_eq!(
            first.attributes[FACETS],
            json!({"dataSource": {"_producer": "p", "name": "warehouse", "uri": "postgres://w"}, "own_facet": {"x": [1, {"y": null}]}})
        );
        let other = json!({"dataSource": {"_producer": "q", "uri": "postgres://w", "name": "warehouse"}});
        assert_eq!(described(&first, other, false), first, "another producer that says the same changes nothing");
        let late = json!({"documentation": {"description": "old"}, "own_facet": 1, "more": 2});
        let after = described(&first, late, true);
        assert_eq!((after.description.as_str(), &after.attributes[FACETS]["more"]), ("Orders", &json!(2)));
        assert_eq!(after.attributes[FACETS]["own_facet"], first.attributes[FACETS]["own_facet"]);
        let all = json!({"ownership": {"_deleted": true}, "documentation": {"_deleted": true}, "tags": {"_deleted": true},
            "dataSource": {"_deleted": true}, "own_facet": {"_deleted": true}});
        assert_eq!(described(&first, all, false), NodeBody::default());
    }

    #[test]
    fn large_facets_are_cut_and_wrong_ones_named() {
        let large = described(&NodeBody::default(), json!({"plan": {"_schemaURL": "u", "tree": "x".repeat(MAX_FACET_BYTES)}}), false);
        assert_eq!(large.attributes[FACETS]["plan"]["_schemaURL"], "u");
        assert!(large.attributes[FACETS]["plan"]["_left_out"].as_str().is_some_and(|t| t.contains("65536")));
        let many: Map<String, Value> = (0..MAX_FACETS + 5).map(|i| (format!("f{i}"), json!({}))).collect();
        let body = described(&NodeBody::default(), Value::Object(many), false);
        assert_eq!(body.attributes[FACETS].as_object().map(Map::len), Some(MAX_FACETS));
        let wrong = json!({"ownership": {"owners": [{"type": "x"}]}});
        let error = describe(&mut NodeBody::default(), &At::root(&wrong), false).expect_err("has no name").to_string();
        assert_eq!(error, "ownership.owners[0].name: is missing");
    }

    #[test]
    fn what_varies_is_a_document() {
        let node = NodeKey::parse("dataset:n/a").expect("valid");
        let mut out = Vec::new();
        let facets = json!({"version": {"datasetVersion": "7"}, "sql": {"_deleted": true}, "dataSource": {}});
        latest(&node, &At::root(&facets), false, &mut out).expect("valid");
        let named = |f: &Fact| match f {
            Fact::Document(d) => (d.name.clone(), d.body.clone()),
            other => panic!("{other:?}"),
        };
        let expected = [("facet/sql".to_owned(), Value::Null), ("facet/version".to_owned(), json!({"datasetVersion": "7"}))];
        assert_eq!(out.iter().map(named).collect::<Vec<_>>(), expected);
        let mut all = Vec::new();
        latest(&node, &At::root(&json!({"outputStatistics": {"rowCount": 10}})), true, &mut all).expect("valid");
        assert_eq!(named(&all[0]).0, "facet/outputStatistics");
    }
}
