//! Stores what was read, and withdraws what vanished: the scopes of a folder's files that are not there any more.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use super::{Format, Options, Read, names};
use crate::event::{Event, Fact};
use crate::history::{Body, Claims, SourceId};
use crate::snapshot::Snapshot;
use crate::store::{AsOf, LineageStore, Outcome};
use crate::{Error, Result};

/// Facts that are stored at a time, about.
const BATCH_FACTS: usize = 20_000;

/// What became of an import.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// As of when the files are so, Unix milliseconds.
    pub at_ms: i64,
    /// Nothing was stored, because only the outcome was asked for.
    pub dry_run: bool,
    /// Files by path.
    pub files: Vec<FileReport>,
    /// Scopes of files that are not there any more, whose facts were withdrawn.
    pub withdrawn: Vec<String>,
}

/// What became of a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FileReport {
    /// Its path.
    pub path: String,
    /// What it is, if it is anything known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Nodes that it names.
    pub nodes: usize,
    /// Edges that it states.
    pub edges: usize,
    /// What was left out or looks wrong.
    pub warnings: Vec<String>,
    /// Why nothing of it was stored; what it said before stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Report {
    /// The files that were not stored.
    pub fn failed(&self) -> impl Iterator<Item = &FileReport> {
        self.files.iter().filter(|f| f.error.is_some())
    }

    fn new(reads: &[Read], at_ms: i64) -> Self {
        let file = |r: &Read| FileReport {
            path: r.path.clone(),
            format: r.format,
            nodes: r.nodes,
            edges: r.edges,
            warnings: r.warnings.clone(),
            error: r.error.as_ref().map(Error::to_string),
        };
        Self { at_ms, files: reads.iter().map(file).collect(), ..Self::default() }
    }
}

/// Stores what was read. If `complete`, it is all that the import of this name has, and what else it had is withdrawn.
///
/// Cancel safe in that it can be done again; some files may be stored then.
///
/// # Errors
/// As [`LineageStore::append`]; refused events are in the report.
pub async fn apply(
    store: &Arc<LineageStore>,
    mut reads: Vec<Read>,
    options: &Options,
    complete: bool,
    dry_run: bool,
    at_ms: i64,
) -> Result<Report> {
    let known = store.snapshot(AsOf::Now).await?;
    let options = options.clone();
    let work = tokio::task::spawn_blocking(move || {
        names::add_short_names(&mut reads, &known);
        let vanished = if complete { withdrawals(&reads, &known, &options, at_ms) } else { Vec::new() };
        (reads, vanished)
    });
    let (reads, vanished) = work.await.map_err(|_| Error::Canceled)?;
    let mut report = Report::new(&reads, at_ms);
    report.dry_run = dry_run;
    report.withdrawn = vanished.iter().map(|e| e.scope.clone()).collect();
    if dry_run {
        return Ok(report);
    }
    let mut batch: Vec<(usize, Event)> = Vec::new();
    for (i, read) in reads.into_iter().enumerate() {
        let mut events = read.events;
        // Of a file of several events the last one says that this was all, so that it must not come if one before was refused.
        let last = events.pop();
        for event in events {
            append(store, vec![(i, event)], &mut report).await?;
        }
        batch.extend(last.filter(|_| report.files[i].error.is_none()).map(|event| (i, event)));
        if batch.iter().map(|(_, e)| e.facts.len() + 1).sum::<usize>() >= BATCH_FACTS {
            append(store, std::mem::take(&mut batch), &mut report).await?;
        }
    }
    append(store, batch, &mut report).await?;
    store.append(vanished).await?;
    Ok(report)
}

async fn append(store: &Arc<LineageStore>, batch: Vec<(usize, Event)>, report: &mut Report) -> Result<()> {
    let (files, events): (Vec<usize>, Vec<Event>) = batch.into_iter().unzip();
    if events.is_empty() {
        return Ok(());
    }
    for (file, outcome) in files.into_iter().zip(store.append(events).await?) {
        if let Outcome::Refused(error) = outcome {
            let file = &mut report.files[file];
            file.error = Some(format!("{}: {error}", file.path));
        }
    }
    Ok(())
}

/// Events that withdraw what this import said of files that are not there any more.
fn withdrawals(reads: &[Read], known: &Snapshot, options: &Options, at_ms: i64) -> Vec<Event> {
    if options.name.is_empty() {
        return Vec::new();
    }
    let said: BTreeSet<(&str, &str)> = reads.iter().flat_map(|r| &r.events).map(|e| (e.source.as_str(), e.scope.as_str())).collect();
    // A file that cannot be read has not vanished. Unit files have the name of the import as their scope.
    let broken = |scope: &str| {
        let path = scope.strip_prefix(&options.name).and_then(|rest| rest.strip_prefix('/'));
        reads.iter().any(|r| r.error.is_some() && path.is_none_or(|p| p == r.path))
    };
    let mut out = Vec::new();
    for (source, scope) in open_scopes(known, options) {
        if said.contains(&(source.as_str(), scope.as_str())) || broken(&scope) {
            continue;
        }
        out.extend(super::events(&source, &scope, Vec::<Fact>::new(), at_ms));
    }
    out
}

/// Sources and scopes of this import that say something which they have not withdrawn.
fn open_scopes(known: &Snapshot, options: &Options) -> BTreeSet<(String, String)> {
    let frozen = &known.graph.frozen;
    let within = |scope: &str| scope.strip_prefix(&options.name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let ours = |source: &str| Format::ALL.iter().any(|f| f.source() == source) || options.source.as_deref() == Some(source);
    let candidates: Vec<bool> = frozen.sources.iter().map(|s| within(&s.scope) && ours(&s.source)).collect();
    let mut open = BTreeSet::new();
    if candidates.contains(&true) {
        frozen.nodes.iter().for_each(|r| note(&r.claims, &candidates, &mut open));
        frozen.edges.iter().for_each(|r| note(&r.claims, &candidates, &mut open));
        frozen.aliases.iter().for_each(|r| {
            note(&r.same, &candidates, &mut open);
            note(&r.apart, &candidates, &mut open);
        });
        frozen.types.iter().for_each(|(_, claims)| note(claims, &candidates, &mut open));
    }
    let name = |id: SourceId| (frozen.sources[id].source.to_string(), frozen.sources[id].scope.to_string());
    open.into_iter().map(name).collect()
}

fn note<B: Body>(claims: &Claims<B>, candidates: &[bool], open: &mut BTreeSet<SourceId>) {
    open.extend(claims.open().map(|(source, _)| source).filter(|s| candidates.get(*s as usize) == Some(&true)));
}

#[cfg(test)]
mod tests;
