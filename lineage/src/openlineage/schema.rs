//! The columns of a dataset, from its schema facet.

use serde_json::{Map, Value};

use super::names::column_at;
use super::read::At;
use super::voice::Voice;
use crate::Result;
use crate::event::{EdgeGone, Fact, NodeGone};
use crate::model::{NodeBody, NodeKey, Relation};

/// The attribute with a dataset's fields.
pub const FIELDS: &str = "fields";

/// Bytes of fields, as JSON, that are kept as an attribute. The columns are nodes all the same.
pub const MAX_FIELDS_BYTES: usize = 4 << 20;

/// The fields of a schema facet as they are kept: name, type, description, position, and those inside.
pub(super) fn fields(schema: &At) -> Result<Vec<Value>> {
    match schema.field("fields") {
        Some(fields) => fields.items()?.map(|f| field(&f)).collect(),
        None => Ok(Vec::new()),
    }
}

fn field(at: &At) -> Result<Value> {
    let mut out = Map::new();
    let name = at.text_of("name")?;
    if name.is_empty() {
        return Err(at.required("name")?.wrong("is empty; give the field a name"));
    }
    out.insert("name".into(), name.into());
    for key in ["type", "description", "ordinal_position"] {
        if let Some(value) = at.field(key) {
            out.insert(key.into(), value.value.clone());
        }
    }
    if let Some(inner) = at.field("fields") {
        let inner = inner.items()?.map(|f| field(&f)).collect::<Result<Vec<_>>>()?;
        if !inner.is_empty() {
            out.insert("fields".into(), inner.into());
        }
    }
    Ok(Value::Object(out))
}

/// Names of all fields; those inside others stand behind them and a dot. Each with the index of the one that it is inside of.
pub(super) fn names(fields: &[Value]) -> Vec<(String, Option<usize>)> {
    let mut out = Vec::new();
    add_names(fields, None, &mut out);
    out
}

fn add_names(fields: &[Value], inside: Option<usize>, out: &mut Vec<(String, Option<usize>)>) {
    for field in fields {
        let name = field["name"].as_str().unwrap_or_default();
        let full = inside.map_or_else(|| name.to_owned(), |i| format!("{}.{name}", out[i].0));
        out.push((full, inside));
        let index = out.len() - 1;
        add_names(field["fields"].as_array().map_or(&[], Vec::as_slice), Some(index), out);
    }
}

/// Whether a reader that knows `seen` knows no column that `known` lacks. Readers often name only the columns that they use.
pub(super) fn is_part(seen: &[Value], known: &[Value]) -> bool {
    let known: std::collections::HashSet<String> = names(known).into_iter().map(|(n, _)| n).collect();
    names(seen).iter().all(|(n, _)| known.contains(n))
}

/// Puts the fields into the body of the dataset.
pub(super) fn set(body: &mut NodeBody, fields: Vec<Value>) {
    let mut bytes = 0;
    let mut kept = Vec::new();
    for field in fields {
        bytes += serde_json::to_string(&field).map_or(0, |t| t.len());
        if bytes > MAX_FIELDS_BYTES {
            break;
        }
        kept.push(field);
    }
    body.attributes.insert(FIELDS.into(), Value::Array(kept));
}

/// The fields in the body of a dataset.
pub(super) fn known(body: &NodeBody) -> &[Value] {
    body.attributes.get(FIELDS).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// That the dataset is composed of these columns.
pub(super) fn columns(voice: &Voice, dataset: &NodeKey, fields: &[Value], at: &At, out: &mut Vec<Fact>) -> Result<()> {
    let names = names(fields);
    let mut keys: Vec<NodeKey> = Vec::with_capacity(names.len());
    for (name, inside) in &names {
        let key = column_at(dataset, name, at)?;
        out.push(voice.composed(inside.map_or(dataset, |i| &keys[i]), &key));
        keys.push(key);
    }
    Ok(())
}

/// Descriptions of all fields, in the order of [`names`].
pub(super) fn descriptions(fields: &[Value]) -> Vec<&str> {
    let mut out = Vec::new();
    add_descriptions(fields, &mut out);
    out
}

fn add_descriptions<'v>(fields: &'v [Value], out: &mut Vec<&'v str>) {
    for field in fields {
        out.push(field["description"].as_str().unwrap_or_default());
        add_descriptions(field["fields"].as_array().map_or(&[], Vec::as_slice), out);
    }
}

/// That columns are not there any more that were there before.
pub(super) fn dropped(dataset: &NodeKey, before: &[Value], now: &[Value], out: &mut Vec<Fact>) -> Result<()> {
    let now: std::collections::HashSet<String> = names(now).into_iter().map(|(n, _)| n).collect();
    let before = names(before);
    for (name, inside) in before.iter().filter(|(n, _)| !now.contains(n)) {
        let key = NodeKey::column(dataset, name)?;
        let whole = match inside {
            Some(i) => NodeKey::column(dataset, &before[*i].0)?,
            None => dataset.clone(),
        };
        out.push(Fact::EdgeGone(EdgeGone { from: whole, to: key.clone(), relation: Relation::Composition }));
        out.push(Fact::NodeGone(NodeGone { node: key }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_columns_have_dotted_names() {
        let facet = json!({"fields": [
            {"name": "id", "type": "BIGINT", "fields": []},
            {"name": "address", "type": "struct", "fields": [{"name": "city", "description": "where", "type": "text", "ordinal_position": 1}]},
        ]});
        let fields = fields(&At::root(&facet)).expect("valid");
        assert_eq!(fields[0], json!({"name": "id", "type": "BIGINT"}));
        assert_eq!(names(&fields), [("id".to_owned(), None), ("address".to_owned(), None), ("address.city".to_owned(), Some(1))]);
        let dataset = NodeKey::parse("dataset:n/t").expect("valid");
        let mut facts = Vec::new();
        columns(&Voice::declared(5), &dataset, &fields, &At::root(&facet), &mut facts).expect("valid");
        let shown: Vec<String> = facts
            .iter()
            .map(|f| match f {
                Fact::Edge(e) => format!("{} has {}", e.from, e.to),
                other => format!("{other:?}"),
            })
            .collect();
        let expected =
            ["dataset:n/t has column:n/t/id", "dataset:n/t has column:n/t/address", "column:n/t/address has column:n/t/address.city"];
        assert_eq!(shown, expected);
        assert_eq!(descriptions(&fields), ["", "", "where"]);
        let mut gone = Vec::new();
        dropped(&dataset, &fields, &fields[..1], &mut gone).expect("valid");
        assert_eq!(gone.len(), 4);
        assert!(is_part(&fields[..1], &fields) && !is_part(&fields, &fields[..1]));
    }

    #[test]
    fn wrong_fields_are_named_and_very_many_are_cut() {
        let facet = json!({"fields": [{"name": "a"}, {"type": "x"}]});
        assert_eq!(fields(&At::root(&facet)).expect_err("no name").to_string(), "fields[1].name: is missing");
        let many: Vec<Value> = (0..50_000).map(|i| json!({"name": format!("{i:0100}")})).collect();
        let mut body = NodeBody::default();
        set(&mut body, many);
        assert!((30_000..45_000).contains(&known(&body).len()));
    }
}
