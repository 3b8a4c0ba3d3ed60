//! Files that describe a graph, as facts of one source scope: what vanished from a file since its last import is withdrawn.
//!
//! Reading is pure: texts in, events out, so that it is the same from the command line, over HTTP and from a watched folder. Files
//! that are imported together know each other, as a Service in one file and the Deployment that it selects in another; but each
//! file's facts have a scope of their own. A file that cannot be read is reported, and what it said before stays.

mod documents;
mod facts;
pub mod folder;
mod kubernetes;
mod systemd;
mod backstage;
mod dbt;
mod names;
pub mod reconcile;
pub mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::{Event, Fact};
use crate::state::recent::RecentIds;
use crate::{Error, Result};
use documents::Document;
use facts::Facts;

/// Facts of one event; a file with more makes several events.
pub const EVENT_FACTS: usize = 10_000;

/// Largest file.
pub const MAX_FILE_BYTES: usize = 64 << 20;

/// Largest sum of the files of one import.
pub const MAX_IMPORT_BYTES: usize = 128 << 20;

/// Most files of one import.
pub const MAX_FILES: usize = 20_000;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Manifests of Kubernetes or Knative.
    Kubernetes,
    /// Unit files of systemd or fleet, with their drop-ins and links.
    Systemd,
    /// Entities of a Backstage catalog.
    Backstage,
    /// The manifest.json that dbt writes.
    Dbt,
    /// Isobar's own YAML.
    Yaml,
}

impl Format {
    /// The source that its facts have, unless another one is asked for.
    pub fn source(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::Systemd => "systemd",
            Self::Backstage => "backstage",
            Self::Dbt => "dbt",
            Self::Yaml => yaml::SOURCE,
        }
    }

    /// All of them.
    pub const ALL: [Self; 5] = [Self::Kubernetes, Self::Systemd, Self::Backstage, Self::Dbt, Self::Yaml];
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kubernetes => "Kubernetes",
            Self::Systemd => "systemd",
            Self::Backstage => "Backstage",
            Self::Dbt => "dbt",
            Self::Yaml => "YAML",
        })
    }
}

/// A file by its path within the import.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Path with `/`, relative to the folder that is imported; part of the scope.
    pub path: String,
    /// Its text.
    #[serde(default)]
    pub content: String,
    /// Where it points to, if it is a symbolic link. Links are part of what unit files say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

/// How files are read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Name of the import; scopes are `name/path`, or `name` alone for unit files and for a file that is not one of a folder.
    pub name: String,
    /// The files are those of a folder, in which there may be others too that are none of ours.
    pub folder: bool,
    /// The source of all facts, rather than one by format.
    pub source: Option<String>,
    /// Namespace of Kubernetes objects that name none; `default` if it is left out.
    pub namespace: Option<String>,
    /// Host that unit files are of; without it units belong to no host.
    pub host: Option<String>,
    /// OpenLineage namespace of dbt's relations, as in `postgres://db:5432`; the adapter's name if it is left out.
    pub dbt_namespace: Option<String>,
    /// OpenLineage namespace of dbt's jobs; `dbt` if it is left out.
    pub dbt_job_namespace: Option<String>,
}

/// What became of a file.
#[derive(Debug)]
pub struct Read {
    /// Its path.
    pub path: String,
    /// What it is, if it is anything known.
    pub format: Option<Format>,
    /// Nodes that it names.
    pub nodes: usize,
    /// Edges that it states.
    pub edges: usize,
    /// What was left out or looks wrong.
    pub warnings: Vec<String>,
    /// Events that say all of it; the last one withdraws what the scope said before.
    pub events: Vec<Event>,
    /// Why there are none.
    pub error: Option<Error>,
}

impl Read {
    fn new(path: &str, format: Option<Format>) -> Self {
        Self { path: path.into(), format, nodes: 0, edges: 0, warnings: Vec::new(), events: Vec::new(), error: None }
    }
}

/// A file with its documents.
struct Parsed<'a> {
    file: &'a SourceFile,
    documents: Vec<Document>,
}

/// Reads a file, or the files below a folder.
///
/// # Errors
/// [`Error::Invalid`] if the path cannot be read or there is too much; errors of single files are in their places.
pub fn detect_and_read(path: &Path, options: &Options, at_ms: i64) -> Result<Vec<Read>> {
    let collected = folder::collect(path)?;
    let options = Options { folder: path.is_dir(), ..options.clone() };
    let mut reads = read(&collected.files, &options, at_ms);
    reads.extend(collected.problems.into_iter().map(|(path, error)| Read { error: Some(error), ..Read::new(&path, None) }));
    reads.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(reads)
}

/// Reads files that belong together, as of a time. One that cannot be read does not keep the others from being read. Unit files
/// make one graph and so one entry, under the name of the folder that they have in common.
pub fn read(files: &[SourceFile], options: &Options, at_ms: i64) -> Vec<Read> {
    let mut out = Vec::new();
    let mut parsed: BTreeMap<Format, Vec<Parsed>> = BTreeMap::new();
    for file in files {
        match detect(file) {
            Ok((Some(format), documents)) => parsed.entry(format).or_default().push(Parsed { file, documents }),
            Ok((None, _)) => {
                let error = Error::invalid(&*file.path, "is none of Kubernetes, systemd, Backstage, dbt manifest or Isobar's own YAML");
                // In a folder there may be anything; a file that was named is meant.
                let mut read = Read::new(&file.path, None);
                match options.folder {
                    false => read.error = Some(error),
                    true => read.warnings.push(error.to_string()),
                }
                out.push(read);
            }
            Err(error) => out.push(Read { error: Some(within_file(error, &file.path)), ..Read::new(&file.path, None) }),
        }
    }
    let broken = out.iter().any(|r| r.error.is_some());
    for (format, files_of_format) in parsed {
        let scope = |path: &str| scope_of(options, path);
        let of = |file: &SourceFile, facts| finish(&file.path, format, facts, options, &scope(&file.path), at_ms);
        let facts = match format {
            Format::Kubernetes => kubernetes::facts(&files_of_format, options),
            Format::Backstage => backstage::facts(&files_of_format),
            Format::Dbt => files_of_format.iter().map(|f| dbt::facts(f, options)).collect(),
            Format::Systemd => {
                out.push(read_units(&files_of_format, options, broken, at_ms));
                continue;
            }
            Format::Yaml => {
                out.extend(files_of_format.iter().map(|f| read_yaml(f.file, options, &scope(&f.file.path), at_ms)));
                continue;
            }
        };
        out.extend(files_of_format.iter().zip(facts).map(|(f, facts)| of(f.file, facts)));
    }
    out.sort_by(|a, b| a.path.cmp(&b.path));
    out
}

/// What a file is, by its content and for unit files also by its name; with its documents if it has some.
fn detect(file: &SourceFile) -> Result<(Option<Format>, Vec<Document>)> {
    if file.content.len() > MAX_FILE_BYTES {
        let reason = format!("has {} bytes, more than {MAX_FILE_BYTES}; split it", file.content.len());
        return Err(Error::invalid("", reason));
    }
    if systemd::is_unit_path(&file.path) || systemd::is_unit_text(&file.content) {
        return Ok((Some(Format::Systemd), Vec::new()));
    }
    let documents = documents::parse(&file.content)?;
    let format = documents.iter().find_map(|d| format_of(&d.value));
    Ok((format, documents))
}

fn format_of(value: &Value) -> Option<Format> {
    let version = value["apiVersion"].as_str().unwrap_or("");
    if version.starts_with("backstage.io/") {
        return Some(Format::Backstage);
    }
    if !version.is_empty() && value["kind"].is_string() {
        return Some(Format::Kubernetes);
    }
    let object = value.as_object()?;
    if value["metadata"]["dbt_schema_version"].is_string() && object.contains_key("nodes") {
        return Some(Format::Dbt);
    }
    let own = ["types", "nodes", "edges", "aliases", "separate"];
    own.iter().any(|k| object.get(*k).is_some_and(|v| v.is_array() || v.is_object())).then_some(Format::Yaml)
}

fn scope_of(options: &Options, path: &str) -> String {
    match (options.name.is_empty(), options.folder) {
        (true, _) => path.into(),
        (false, false) => options.name.clone(),
        (false, true) => format!("{}/{path}", options.name),
    }
}

/// The error with the path in front; a place within the file is told from the path by a colon.
fn within_file(error: Error, path: &str) -> Error {
    match error {
        Error::Invalid { path: inner, reason } if inner.is_empty() => Error::Invalid { path: path.into(), reason },
        Error::Invalid { path: inner, reason } => Error::Invalid { path: format!("{path}: {inner}"), reason },
        other => other,
    }
}

fn read_units(files: &[Parsed], options: &Options, broken: bool, at_ms: i64) -> Read {
    let files: Vec<&SourceFile> = files.iter().map(|p| p.file).collect();
    let facts = systemd::facts(&files, options);
    let path = systemd::common_folder(&files);
    let scope = match (options.name.is_empty(), &options.host) {
        (false, _) => options.name.clone(),
        (true, Some(host)) => format!("{host}:{path}"),
        (true, None) => path.clone(),
    };
    let mut read = finish(&path, Format::Systemd, facts, options, &scope, at_ms);
    if broken && let Some(last) = read.events.last_mut() {
        // A unit file that cannot be read has not vanished.
        last.complete_since_ms = None;
    }
    read
}

fn read_yaml(file: &SourceFile, options: &Options, scope: &str, at_ms: i64) -> Read {
    let mut read = Read::new(&file.path, Some(Format::Yaml));
    match yaml::event(&file.content, scope, at_ms) {
        Ok(mut event) => {
            if let Some(source) = &options.source {
                event.source.clone_from(source);
            }
            let mut names = std::collections::BTreeSet::new();
            for fact in &event.facts {
                match fact {
                    Fact::Node(f) => drop(names.insert(f.node.as_str())),
                    Fact::Edge(f) => {
                        names.extend([f.from.as_str(), f.to.as_str()]);
                        read.edges += 1;
                    }
                    _ => {}
                }
            }
            read.nodes = names.len();
            read.events.push(event);
        }
        Err(error) => read.error = Some(error),
    }
    read
}

/// The events of a file's facts, which are checked.
fn finish(path: &str, format: Format, facts: Facts, options: &Options, scope: &str, at_ms: i64) -> Read {
    let mut read = Read::new(path, Some(format));
    (read.nodes, read.edges) = (facts.node_count(), facts.edge_count());
    read.warnings.clone_from(&facts.warnings);
    if facts.more_warnings > 0 {
        read.warnings.push(format!("and {} more", facts.more_warnings));
    }
    let source = options.source.as_deref().unwrap_or(format.source());
    read.events = events(source, scope, facts.into_facts(), at_ms);
    for event in &mut read.events {
        if let Err(error) = event.check(at_ms) {
            read.error = Some(within_file(error, path));
        }
    }
    if read.error.is_some() {
        read.events.clear();
    }
    read
}

/// Events that say that these facts, and no others, are so.
pub(crate) fn events(source: &str, scope: &str, mut facts: Vec<Fact>, at_ms: i64) -> Vec<Event> {
    let mut out = Vec::new();
    loop {
        let rest = facts.split_off(facts.len().min(EVENT_FACTS));
        let json = serde_json::to_string(&facts).expect("facts are JSON");
        let id = format!("{source}-{at_ms}-{:032x}-{}", RecentIds::hash(&format!("{scope}\n{json}")), out.len());
        let mut event = Event::new(id, source, scope, at_ms);
        event.facts = std::mem::replace(&mut facts, rest);
        out.push(event);
        if facts.is_empty() {
            break;
        }
    }
    if let Some(last) = out.last_mut() {
        last.complete_since_ms = Some(at_ms);
    }
    out
}

#[cfg(test)]
mod tests;
