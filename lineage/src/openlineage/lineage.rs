//! What an output is made of: the column lineage of an output, and the explicit lineage of a job or a dataset.

use std::collections::BTreeSet;

use super::edges::Edges;
use super::names::{column_at, dataset_at, job_at};
use super::read::At;
use super::voice::transformed;
use crate::Result;
use crate::model::{EdgeBody, NodeKey};

/// Edges of the columns of `output`, of the whole of it, and from it to each dataset that they come from.
pub(super) fn column_lineage(facet: &At, output: &NodeKey, lag_ms: Option<i64>, edges: &mut Edges) -> Result<()> {
    let mut sources: BTreeSet<NodeKey> = BTreeSet::new();
    if let Some(fields) = facet.field("fields") {
        for (name, column) in fields.entries()? {
            let from = column_at(output, name, &column)?;
            let Some(inputs) = column.field("inputFields") else { continue };
            for input in inputs.items()? {
                let dataset = dataset_at(&input)?;
                let field = input.required("field")?;
                edges.add(&from, &column_at(&dataset, field.text()?, &field)?, transformed(&input)?);
                sources.insert(dataset);
            }
        }
    }
    if let Some(whole) = facet.field("dataset") {
        for input in whole.items()? {
            let dataset = dataset_at(&input)?;
            match input.field("field") {
                Some(field) => edges.add(output, &column_at(&dataset, field.text()?, &field)?, transformed(&input)?),
                None => edges.add(output, &dataset, transformed(&input)?),
            }
            sources.insert(dataset);
        }
    }
    for dataset in sources {
        edges.add(output, &dataset, EdgeBody { lag_ms, ..EdgeBody::default() });
    }
    Ok(())
}

/// Edges of the explicit lineage of a job. A source of type JOB without a name is the job itself.
pub(super) fn job_lineage(facet: &At, job: &NodeKey, lag_ms: Option<i64>, edges: &mut Edges) -> Result<()> {
    let Some(entries) = facet.field("entries") else { return Ok(()) };
    for entry in entries.items()? {
        if entry.text_of("type")?.eq_ignore_ascii_case("JOB") {
            let from = if entry.field("name").is_some() { job_at(&entry)? } else { job.clone() };
            add_sources(&entry, &from, Some(job), None, edges)?;
        } else {
            add_entry(&entry, &dataset_at(&entry)?, Some(job), lag_ms, edges)?;
        }
    }
    Ok(())
}

/// Edges of the explicit lineage of a dataset, which `job` writes if the event is one of a job.
pub(super) fn dataset_lineage(facet: &At, dataset: &NodeKey, job: Option<&NodeKey>, edges: &mut Edges) -> Result<()> {
    add_entry(facet, dataset, job, None, edges)
}

/// Edges of a dataset and of its columns.
fn add_entry(entry: &At, dataset: &NodeKey, job: Option<&NodeKey>, lag_ms: Option<i64>, edges: &mut Edges) -> Result<()> {
    add_sources(entry, dataset, job, lag_ms, edges)?;
    let Some(fields) = entry.field("fields") else { return Ok(()) };
    for (name, column) in fields.entries()? {
        let from = column_at(dataset, name, &column)?;
        let Some(inputs) = column.field("inputs") else { continue };
        for input in inputs.items()? {
            let (to, whole) = source(&input, job)?;
            edges.add(&from, &to, transformed(&input)?);
            edges.add(dataset, &whole, EdgeBody { lag_ms, ..EdgeBody::default() });
        }
    }
    Ok(())
}

fn add_sources(entry: &At, from: &NodeKey, job: Option<&NodeKey>, lag_ms: Option<i64>, edges: &mut Edges) -> Result<()> {
    let Some(inputs) = entry.field("inputs") else { return Ok(()) };
    for input in inputs.items()? {
        let (to, whole) = source(&input, job)?;
        let body = EdgeBody { lag_ms, ..transformed(&input)? };
        if to != whole {
            edges.add(from, &whole, EdgeBody { lag_ms, ..EdgeBody::default() });
        }
        edges.add(from, &to, body);
    }
    Ok(())
}

/// The node that a source names, and the dataset or job that it is or is a part of.
fn source(at: &At, job: Option<&NodeKey>) -> Result<(NodeKey, NodeKey)> {
    if at.optional_text("type")?.eq_ignore_ascii_case("JOB") {
        let named = match (at.field("name"), job) {
            (None, Some(own)) => own.clone(),
            _ => job_at(at)?,
        };
        return Ok((named.clone(), named));
    }
    let dataset = dataset_at(at)?;
    Ok(match at.field("field") {
        Some(field) => (column_at(&dataset, field.text()?, &field)?, dataset),
        None => (dataset.clone(), dataset),
    })
}
