//! `isobar lineage import`: sends manifests, unit files and catalogs to a running server, and shows what became of them.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use isobar_lineage::import::{self, MAX_IMPORT_BYTES, Options, Read, SourceFile, folder};
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::client::{ServerArgs, with_params};
use crate::cli::{block_on, plain_table, rounded_size};

/// Warnings of a file that are shown; the JSON has all.
const SHOWN_WARNINGS: usize = 5;

/// What is imported, and how.
#[derive(Args)]
pub struct ImportArgs {
    /// Files, or folders of files: Kubernetes and Knative manifests, systemd and fleet units, Backstage catalogs, dbt manifests, own YAML.
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
    /// Source of the facts, rather than one by format such as kubernetes.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Name of the import, by which the next one replaces it; the path by default.
    #[arg(long, value_name = "NAME")]
    scope: Option<String>,
    /// Namespace of Kubernetes objects that name none.
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Host that unit files are of.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// OpenLineage namespace of dbt's tables, such as postgres://db:5432.
    #[arg(long, value_name = "NAMESPACE")]
    dbt_namespace: Option<String>,
    /// OpenLineage namespace of dbt's jobs; dbt by default.
    #[arg(long, value_name = "NAMESPACE")]
    dbt_job_namespace: Option<String>,
    /// Read the files and show what they say; asks no server.
    #[arg(long)]
    dry_run: bool,
    /// Show what became of the files as JSON.
    #[arg(long)]
    json: bool,
}

/// Imports every path, and shows the outcome.
///
/// # Errors
/// If a path cannot be read or the server does not take it.
pub fn run(args: ImportArgs) -> anyhow::Result<ExitCode> {
    if args.scope.is_some() && args.paths.len() > 1 {
        bail!("--scope names one import, and there are {} paths; import one at a time, or leave it out", args.paths.len());
    }
    let mut reports = Vec::new();
    let mut failed = false;
    for path in &args.paths {
        let options = args.options(path)?;
        let report = if args.dry_run { tried(path, &options) } else { block_on(sent(&args.server, path, &options)) };
        let report = match report {
            Ok(report) => report,
            Err(error) if args.paths.len() == 1 => return Err(error),
            // One path that is wrong does not stop the others.
            Err(error) => {
                eprintln!("error: {error:#}");
                failed = true;
                continue;
            }
        };
        failed |= report["files"].as_array().is_some_and(|files| files.iter().any(|f| !f["error"].is_null()));
        if !args.json {
            show(path, &report, args.dry_run);
        }
        reports.push(report);
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&if reports.len() == 1 { reports.remove(0) } else { Value::Array(reports) })?);
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl ImportArgs {
    fn options(&self, path: &Path) -> anyhow::Result<Options> {
        Ok(Options {
            name: self.scope.clone().map_or_else(|| name_of(path), Ok)?,
            folder: path.is_dir(),
            source: self.source.clone(),
            namespace: self.namespace.clone(),
            host: self.host.clone(),
            dbt_namespace: self.dbt_namespace.clone(),
            dbt_job_namespace: self.dbt_job_namespace.clone(),
        })
    }
}

/// The name of an import: the path as it was given, so that it is the same wherever a repository is checked out.
fn name_of(path: &Path) -> anyhow::Result<String> {
    let parts = path.components().filter(|c| !matches!(c, std::path::Component::CurDir));
    let given = parts.collect::<PathBuf>().to_string_lossy().into_owned();
    if !given.is_empty() {
        return Ok(given);
    }
    let folder = path.canonicalize().with_context(|| path.display().to_string())?;
    Ok(folder.file_name().map_or_else(|| "/".into(), |n| n.to_string_lossy().into_owned()))
}

/// What the files say, without a server.
fn tried(path: &Path, options: &Options) -> anyhow::Result<Value> {
    let at_ms = chrono::Utc::now().timestamp_millis();
    let reads = import::detect_and_read(path, options, at_ms)?;
    let file = |r: &Read| {
        let error = r.error.as_ref().map(ToString::to_string);
        json!({"path": r.path, "format": r.format, "nodes": r.nodes, "edges": r.edges, "warnings": r.warnings, "error": error})
    };
    Ok(json!({"at_ms": at_ms, "dry_run": true, "files": reads.iter().map(file).collect::<Vec<_>>(), "withdrawn": []}))
}

async fn sent(server: &ServerArgs, path: &Path, options: &Options) -> anyhow::Result<Value> {
    let progress = std::io::stderr().is_terminal();
    let collected = folder::collect(path)?;
    let complete = options.folder;
    if collected.files.is_empty() && collected.problems.is_empty() && !complete {
        bail!("{} holds nothing", path.display());
    }
    let size: usize = collected.files.iter().map(|f| f.content.len()).sum();
    if size > MAX_IMPORT_BYTES {
        bail!("{} has {} of text, more than a request may hold; import parts of it", path.display(), rounded_size(size as u64));
    }
    if progress {
        eprintln!("{}: sending {} files, {} …", path.display(), collected.files.len(), rounded_size(size as u64));
    }
    let unreadable: Vec<Value> = collected
        .problems
        .iter()
        .map(|(path, error)| json!({"path": path, "nodes": 0, "edges": 0, "warnings": [], "error": error.to_string()}))
        .collect();
    // A file that cannot be read here has not vanished there.
    let complete = complete && unreadable.is_empty();
    let mut report = if collected.files.is_empty() && !complete {
        json!({"files": [], "withdrawn": []})
    } else {
        post(server, &collected.files, options, complete).await?
    };
    if let Some(files) = report["files"].as_array_mut() {
        files.extend(unreadable);
    }
    Ok(report)
}

async fn post(server: &ServerArgs, files: &[SourceFile], options: &Options, complete: bool) -> anyhow::Result<Value> {
    let mut params = vec![("scope", options.name.clone()), ("complete", complete.to_string())];
    let optional = [
        ("source", &options.source),
        ("namespace", &options.namespace),
        ("host", &options.host),
        ("dbt_namespace", &options.dbt_namespace),
        ("dbt_job_namespace", &options.dbt_job_namespace),
    ];
    params.extend(optional.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
    // A file that was named is the body itself; those of a folder keep their paths.
    let alone = files.first().filter(|_| !options.folder);
    params.extend(alone.map(|file| ("path", file.path.clone())));
    let request = server.request(Method::POST, &with_params("lineage/import", &params))?;
    let request = match alone {
        Some(file) => request.header("Content-Type", "text/plain").body(file.content.clone()),
        None => request.json(&json!({"files": files})),
    };
    let (status, text) = server.send(request).await?;
    let mut answer: Value = serde_json::from_str(&text).with_context(|| format!("{} answered {status}: {}", server.server, text.trim()))?;
    // When no file could be imported the report is there all the same.
    if answer["data"]["files"].is_array() {
        return Ok(answer["data"].take());
    }
    bail!("{}: {}", answer["errorType"].as_str().unwrap_or("error"), answer["error"].as_str().unwrap_or(&text));
}

fn show(path: &Path, report: &Value, dry_run: bool) {
    let mut table = plain_table();
    table.set_header(["file", "format", "nodes", "edges", "warnings", "outcome"]);
    let files: Vec<&Value> = report["files"].as_array().into_iter().flatten().collect();
    let text = |v: &Value| v.as_str().unwrap_or("").escape_debug().to_string();
    let warnings = |f: &Value| f["warnings"].as_array().map_or(0, Vec::len);
    for file in &files {
        let outcome = match (file["error"].is_null(), file["format"].is_null(), dry_run) {
            (false, ..) => "failed",
            (_, true, _) => "skipped",
            (_, _, true) => "would be imported",
            _ => "imported",
        };
        let row = [text(&file["path"]), text(&file["format"]), file["nodes"].to_string(), file["edges"].to_string()];
        table.add_row(row.into_iter().chain([warnings(file).to_string(), outcome.to_owned()]));
    }
    println!("{table}");
    for file in &files {
        if let Some(error) = file["error"].as_str() {
            eprintln!("error: {}", error.escape_debug());
        }
        // What is none of ours needs no more words than its row.
        for warning in file["warnings"].as_array().into_iter().flatten().take(SHOWN_WARNINGS).filter(|_| !file["format"].is_null()) {
            eprintln!("warning: {}: {}", text(&file["path"]), text(warning));
        }
    }
    let sum = |field: &str| files.iter().filter(|f| f["error"].is_null()).filter_map(|f| f[field].as_u64()).sum::<u64>();
    let failed = files.iter().filter(|f| !f["error"].is_null()).count();
    let withdrawn = report["withdrawn"].as_array().map_or(0, Vec::len);
    println!(
        "{}: {} files, {failed} failed, {} nodes, {} edges, {withdrawn} withdrawn",
        path.display(),
        files.len(),
        sum("nodes"),
        sum("edges")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_named_by_its_path() {
        for (path, name) in [("deploy/", "deploy"), ("./deploy/x.yaml", "deploy/x.yaml"), ("/etc/systemd/system", "/etc/systemd/system")] {
            assert_eq!(name_of(Path::new(path)).expect("a name"), name);
        }
        let here = std::env::current_dir().expect("a folder");
        assert_eq!(name_of(Path::new(".")).expect("a name"), here.file_name().expect("a name").to_string_lossy());
    }
}
