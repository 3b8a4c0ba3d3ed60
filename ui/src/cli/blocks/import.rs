//! `isobar blocks import`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use isobar_block::BlockId;
use isobar_block::labels::METRIC_NAME;
use isobar_compactor::Error;
use isobar_compactor::import::openmetrics::{self, Flavour, Text};
use isobar_compactor::import::{ImportConfig, Imported, tsdb};
use isobar_ingest::units::parse_bytes;
use object_store::local::LocalFileSystem;

use super::Place;
use super::progress::{Bar, thousands};
use crate::cli::{FOUND, rounded_size};
use crate::config::objstore;

/// With less memory nothing is imported in useful pieces.
const MIN_MEMORY_BYTES: u64 = 16 << 20;

#[derive(Args)]
pub struct ImportArgs {
    #[command(subcommand)]
    from: From,
}

#[derive(Subcommand)]
enum From {
    /// Blocks of Prometheus from a folder, or of Thanos from its bucket. Exits with 3 if some are damaged; the others are imported.
    Tsdb {
        /// Folder of a block, or of blocks such as a snapshot.
        #[arg(value_name = "DIR", required_unless_present = "bucket", conflicts_with = "bucket")]
        folder: Option<PathBuf>,
        /// Bucket of Thanos, in the form of --objstore.config-file.
        #[arg(long = "from.config-file", value_name = "FILE")]
        bucket: Option<PathBuf>,
        /// Only these blocks; may be repeated.
        #[arg(long = "block", value_name = "ULID")]
        blocks: Vec<BlockId>,
        #[command(flatten)]
        how: How,
    },
    /// OpenMetrics text, such as Prometheus's `promtool tsdb dump-openmetrics` prints. All of it is imported or nothing.
    Openmetrics {
        /// The file; `-` is standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The text is in Prometheus's own format: timestamps are in milliseconds.
        #[arg(long)]
        prometheus_text: bool,
        /// Folder for what does not fit into the memory; the system's folder for temporary files by default.
        #[arg(long, value_name = "DIR")]
        scratch: Option<PathBuf>,
        #[command(flatten)]
        how: How,
    },
}

#[derive(Args)]
struct How {
    #[command(flatten)]
    place: Place,
    /// Label that each series gets, instead of its own of that name; may be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// Memory for samples that are read and encoded.
    #[arg(long, value_name = "SIZE", default_value = "512MiB")]
    memory: String,
}

impl How {
    fn config(&self) -> anyhow::Result<ImportConfig> {
        let memory_bytes = parse_bytes(&self.memory).map_err(|e| anyhow::anyhow!("--memory: {e}"))?;
        if memory_bytes < MIN_MEMORY_BYTES {
            bail!("--memory: {} is too little; give {} or more", self.memory, rounded_size(MIN_MEMORY_BYTES));
        }
        let label = |text: &String| {
            let (name, value) = text.split_once('=').with_context(|| format!("--label {text:?}: write it as name=value"))?;
            if name.is_empty() || value.is_empty() || name == METRIC_NAME {
                bail!("--label {text:?}: name and value must not be empty, and the name not {METRIC_NAME}");
            }
            Ok((name.to_owned(), value.trim_matches('"').to_owned()))
        };
        let mut labels: Vec<_> = self.labels.iter().map(label).collect::<anyhow::Result<_>>()?;
        labels.sort();
        if let Some(twice) = labels.windows(2).find(|w| w[0].0 == w[1].0) {
            bail!("--label {}: it is given twice", twice[0].0);
        }
        Ok(ImportConfig { tenant: self.place.one_tenant()?, labels, memory_bytes })
    }
}

/// Imports.
pub async fn run(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    match &args.from {
        From::Tsdb { folder, bucket, blocks, how } => from_blocks(source(folder.as_deref(), bucket.as_deref())?, blocks, how).await,
        From::Openmetrics { file, prometheus_text, scratch, how } => {
            let flavour = if *prometheus_text { Flavour::Prometheus } else { Flavour::OpenMetrics };
            let scratch = scratch.clone().unwrap_or_else(std::env::temp_dir);
            from_text(file, flavour, &scratch, how).await
        }
    }
}

fn source(folder: Option<&Path>, bucket: Option<&Path>) -> anyhow::Result<tsdb::Place> {
    if let Some(file) = bucket {
        let (store, name) = objstore::open(Some(file), Path::new(""))?;
        return Ok(tsdb::Place { store, name: format!("{name}: ") });
    }
    let folder = folder.expect("clap asks for one of the two");
    let store = LocalFileSystem::new_with_prefix(folder).with_context(|| format!("folder {}", folder.display()))?;
    Ok(tsdb::Place { store: Arc::new(store), name: format!("{}/", folder.display().to_string().trim_end_matches('/')) })
}

async fn from_blocks(place: tsdb::Place, only: &[BlockId], how: &How) -> anyhow::Result<ExitCode> {
    let config = how.config()?;
    let mut found = tsdb::find(&place).await?;
    let wanted = |name: &str| only.is_empty() || only.iter().any(|id| id.to_string() == name);
    found.blocks.retain(|b| wanted(&b.id().to_string()));
    found.skipped.retain(|(name, _)| wanted(name));
    found.damaged.retain(|(name, _)| wanted(name));
    for (name, why) in &found.skipped {
        eprintln!("SKIPPED {name}: {why}");
    }
    for (name, error) in &found.damaged {
        eprintln!("DAMAGED {name}: {error}");
    }
    let store = how.place.open_or_create()?;
    let (bar, mut damaged) = (Bar::new(), found.damaged.len());
    let (mut imported, mut before, mut samples_all) = (0u64, 0u64, 0u64);
    for source in &found.blocks {
        let result = tsdb::import(&store, source, &config, &|p| bar.show(p)).await;
        bar.clear();
        match result {
            Ok(Imported::Now { blocks, samples, bytes }) => {
                (imported, samples_all) = (imported + 1, samples_all + samples);
                println!("IMPORTED {}: {} samples as {blocks} blocks, {}", source.id(), thousands(samples), rounded_size(bytes));
            }
            Ok(Imported::Before) => {
                before += 1;
                println!("BEFORE {}: it was imported already", source.id());
            }
            Err(error @ Error::File { .. }) => {
                damaged += 1;
                eprintln!("DAMAGED {}: nothing of it was imported: {error}", source.id());
            }
            Err(error) => return Err(error).with_context(|| format!("block {}", source.id())),
        }
    }
    println!(
        "{imported} blocks imported with {} samples, {before} imported before, {} skipped, {damaged} damaged",
        thousands(samples_all),
        found.skipped.len()
    );
    Ok(if damaged == 0 { ExitCode::SUCCESS } else { ExitCode::from(FOUND) })
}

async fn from_text(file: &Path, flavour: Flavour, scratch: &Path, how: &How) -> anyhow::Result<ExitCode> {
    let config = how.config()?;
    let (reader, size_bytes, name): (Box<dyn Read + Send>, _, _) = if file == Path::new("-") {
        (Box::new(std::io::stdin()), None, "standard input".to_owned())
    } else {
        let opened = File::open(file).with_context(|| file.display().to_string())?;
        let size_bytes = opened.metadata().ok().filter(std::fs::Metadata::is_file).map(|m| m.len());
        (Box::new(opened), size_bytes, file.display().to_string())
    };
    let store = how.place.open_or_create()?;
    let bar = Bar::new();
    let result = openmetrics::import(&store, Text { reader, name, size_bytes, flavour }, scratch, &config, &|p| bar.show(p)).await;
    bar.clear();
    match result.context("nothing was imported")? {
        Imported::Now { blocks, samples, bytes } => {
            println!("IMPORTED {} samples as {blocks} blocks, {}", thousands(samples), rounded_size(bytes));
        }
        Imported::Before => println!("BEFORE: this text was imported already"),
    }
    Ok(ExitCode::SUCCESS)
}
