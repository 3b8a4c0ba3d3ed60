//! Nodes and edges as of a time as Arrow record batches, so that an SQL endpoint only has to register them.
//!
//! Both are made batch by batch, of at most [`BATCH_ROWS`] rows and about [`BATCH_BYTES`] of text. Times are UTC with milliseconds.
//! Kinds, classes and the like are the words that the HTTP API uses.

use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, BooleanBuilder, Float32Builder, Int64Builder, ListBuilder, RecordBatch, StringBuilder, TimestampMillisecondBuilder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::Serialize;
use serde_json::Value;

use crate::model::EvidenceSet;
use crate::snapshot::{EdgeView, NodeView, Snapshot};

/// Most rows of a batch.
pub const BATCH_ROWS: usize = 8192;

/// A batch ends when it has about so many bytes of text.
pub const BATCH_BYTES: usize = 16 << 20;

static NODE_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        text("id"),
        text("kind"),
        texts("kinds"),
        optional("namespace", DataType::Utf8),
        text("name"),
        optional("title", DataType::Utf8),
        optional("description", DataType::Utf8),
        texts("owners"),
        text("criticality"),
        texts("tags"),
        Field::new("entry", DataType::Boolean, false),
        text("status"),
        texts("evidence"),
        texts("sources"),
        texts("aliases"),
        optional("attributes", DataType::Utf8),
        optional("first_seen", time_type()),
        optional("last_seen", time_type()),
        Field::new("as_of", time_type(), false),
    ]))
});

static EDGE_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        text("from_id"),
        text("from_kind"),
        text("to_id"),
        text("to_kind"),
        text("relation"),
        text("class"),
        text("flow"),
        Field::new("share", DataType::Float32, false),
        Field::new("coupling", DataType::Float32, false),
        Field::new("confidence", DataType::Float32, false),
        Field::new("probability", DataType::Float32, false),
        optional("lag_ms", DataType::Int64),
        optional("group_id", DataType::Utf8),
        optional("group_k", DataType::Int64),
        optional("group_n", DataType::Int64),
        text("status"),
        texts("evidence"),
        texts("sources"),
        Field::new("first_seen", time_type(), false),
        Field::new("last_seen", time_type(), false),
        Field::new("as_of", time_type(), false),
    ]))
});

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, false)
}

fn optional(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

fn texts(name: &str) -> Field {
    Field::new(name, DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))), false)
}

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

/// Columns of nodes: `id`, the kind and `kinds` with what it inherits from, `namespace` and `name` of the id, `title` if people call it
/// otherwise, `description`, `owners`, `criticality`, `tags`, whether it is an `entry`, `status`, `evidence`, `sources` and `aliases`,
/// `attributes` as JSON, when anybody has said it `first_seen` (of what is in force) and `last_seen` (null if only edges mention it), `as_of`.
pub fn node_schema() -> SchemaRef {
    Arc::clone(&NODE_SCHEMA)
}

/// Columns of edges: the ids and kinds of the dependent (`from_id`) and the provider (`to_id`), `relation`, `class`, `flow`, `share`,
/// `coupling`, `confidence`, `probability` that a failure of the provider reaches a request to the dependent, `lag_ms`, the redundancy
/// group, `status`, `evidence`, `sources`, `first_seen`, `last_seen`, `as_of`.
pub fn edge_schema() -> SchemaRef {
    Arc::clone(&EDGE_SCHEMA)
}

/// The nodes of a snapshot, in the order of their indices.
pub fn nodes(snapshot: &Snapshot) -> impl Iterator<Item = RecordBatch> + '_ {
    batches(
        snapshot.nodes().map(|node| snapshot.node(node)),
        move |rows: &[NodeView]| node_batch(rows, snapshot.at_ms()),
        |node| node.id.as_str().len() * 2 + node.description.len() + node.attributes.values().map(rough_size).sum::<usize>(),
    )
}

/// The edges of a snapshot, in the order of their indices.
pub fn edges(snapshot: &Snapshot) -> impl Iterator<Item = RecordBatch> + '_ {
    let view = |edge| {
        let (from, to) = snapshot.ends(edge);
        EdgeRow { from_kind: snapshot.kind(from).to_owned(), to_kind: snapshot.kind(to).to_owned(), view: snapshot.edge(edge) }
    };
    batches(
        snapshot.edges().map(view),
        move |rows: &[EdgeRow]| edge_batch(rows, snapshot.at_ms()),
        |edge| edge.view.from.as_str().len() + edge.view.to.as_str().len(),
    )
}

struct EdgeRow {
    from_kind: String,
    to_kind: String,
    view: EdgeView,
}

/// Bytes of a value as JSON, about.
fn rough_size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(list) => list.iter().map(rough_size).sum::<usize>() + 2,
        Value::Object(map) => map.iter().map(|(k, v)| k.len() + 4 + rough_size(v)).sum::<usize>() + 2,
        _ => 8,
    }
}

/// Rows in batches that are not too large.
fn batches<T>(
    mut rows: impl Iterator<Item = T>,
    batch: impl Fn(&[T]) -> RecordBatch,
    size: impl Fn(&T) -> usize,
) -> impl Iterator<Item = RecordBatch> {
    std::iter::from_fn(move || {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while taken.len() < BATCH_ROWS && bytes < BATCH_BYTES {
            let Some(row) = rows.next() else { break };
            bytes += size(&row);
            taken.push(row);
        }
        (!taken.is_empty()).then(|| batch(&taken))
    })
}

fn strings<'a, T: 'a>(rows: &'a [T], value: impl Fn(&'a T) -> Option<String>) -> ArrayRef {
    let mut builder = StringBuilder::new();
    rows.iter().for_each(|row| builder.append_option(value(row)));
    Arc::new(builder.finish())
}

fn lists<'a, T: 'a>(rows: &'a [T], values: impl Fn(&'a T) -> Vec<String>) -> ArrayRef {
    let mut builder = ListBuilder::new(StringBuilder::new());
    for row in rows {
        values(row).into_iter().for_each(|v| builder.values().append_value(v));
        builder.append(true);
    }
    Arc::new(builder.finish())
}

fn times<T>(rows: &[T], value: impl Fn(&T) -> Option<i64>) -> ArrayRef {
    let mut builder = TimestampMillisecondBuilder::new().with_timezone("UTC");
    rows.iter().for_each(|row| builder.append_option(value(row)));
    Arc::new(builder.finish())
}

fn integers<T>(rows: &[T], value: impl Fn(&T) -> Option<i64>) -> ArrayRef {
    let mut builder = Int64Builder::new();
    rows.iter().for_each(|row| builder.append_option(value(row)));
    Arc::new(builder.finish())
}

fn floats<T>(rows: &[T], value: impl Fn(&T) -> f32) -> ArrayRef {
    let mut builder = Float32Builder::new();
    rows.iter().for_each(|row| builder.append_value(value(row)));
    Arc::new(builder.finish())
}

/// The word for a value that has one.
pub(crate) fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

fn evidence(set: EvidenceSet) -> Vec<String> {
    set.iter().map(word).collect()
}

/// Each source once, in order.
fn distinct<'a>(sources: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut all: Vec<String> = sources.map(str::to_owned).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn node_batch(rows: &[NodeView], at_ms: i64) -> RecordBatch {
    let mut entry = BooleanBuilder::new();
    rows.iter().for_each(|n| entry.append_value(n.entry));
    let attributes = |n: &NodeView| (!n.attributes.is_empty()).then(|| serde_json::to_string(&n.attributes).unwrap_or_default());
    let columns: Vec<ArrayRef> = vec![
        strings(rows, |n| Some(n.id.to_string())),
        strings(rows, |n| Some(n.kinds.first().cloned().unwrap_or_default())),
        lists(rows, |n| n.kinds.clone()),
        strings(rows, |n| non_empty(&n.id.namespace())),
        strings(rows, |n| Some(n.id.name().into_owned())),
        strings(rows, |n| (n.name != n.id.name()).then(|| n.name.clone())),
        strings(rows, |n| non_empty(&n.description)),
        lists(rows, |n| n.owners.iter().map(|o| o.name.clone()).collect()),
        strings(rows, |n| Some(word(n.criticality))),
        lists(rows, |n| n.tags.clone()),
        Arc::new(entry.finish()),
        strings(rows, |n| Some(word(n.status))),
        lists(rows, |n| evidence(n.evidence)),
        lists(rows, |n| distinct(n.claims.iter().map(|c| c.source.as_str()))),
        lists(rows, |n| n.aliases.iter().map(|a| a.id.to_string()).collect()),
        strings(rows, attributes),
        times(rows, |n| n.claims.iter().map(|c| c.from_ms).min()),
        times(rows, |n| n.claims.iter().map(|c| c.seen_ms).max()),
        times(rows, |_| Some(at_ms)),
    ];
    RecordBatch::try_new(node_schema(), columns).expect("columns are made for the schema, all of one length")
}

fn edge_batch(rows: &[EdgeRow], at_ms: i64) -> RecordBatch {
    let group = |r: &EdgeRow| r.view.group.clone();
    let columns: Vec<ArrayRef> = vec![
        strings(rows, |r| Some(r.view.from.to_string())),
        strings(rows, |r| Some(r.from_kind.clone())),
        strings(rows, |r| Some(r.view.to.to_string())),
        strings(rows, |r| Some(r.to_kind.clone())),
        strings(rows, |r| Some(word(r.view.relation))),
        strings(rows, |r| Some(word(r.view.class))),
        strings(rows, |r| Some(word(r.view.flow))),
        floats(rows, |r| r.view.share),
        floats(rows, |r| r.view.coupling),
        floats(rows, |r| r.view.confidence),
        floats(rows, |r| r.view.probability),
        integers(rows, |r| r.view.lag_ms),
        strings(rows, |r| group(r).map(|g| g.id)),
        integers(rows, |r| group(r).map(|g| i64::from(g.k))),
        integers(rows, |r| group(r).and_then(|g| g.n).map(i64::from)),
        strings(rows, |r| Some(word(r.view.status))),
        lists(rows, |r| evidence(r.view.evidence)),
        lists(rows, |r| distinct(r.view.claims.iter().map(|c| c.claim.source.as_str()))),
        times(rows, |r| Some(r.view.first_seen_ms)),
        times(rows, |r| Some(r.view.last_seen_ms)),
        times(rows, |_| Some(at_ms)),
    ];
    RecordBatch::try_new(edge_schema(), columns).expect("columns are made for the schema, all of one length")
}

#[cfg(test)]
mod tests;
