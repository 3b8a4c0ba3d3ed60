//! `isobar blocks`: looks at blocks in the object store, beside a running server or without one. Writes nothing.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use chrono::{DateTime, SecondsFormat};
use clap::{Args, Subcommand};
use isobar_block::{BlockId, BlockMeta, BlockStore, BlockStoreConfig, TenantId};

use super::rounded_size;
use crate::config::objstore;

#[derive(Args)]
pub struct BlocksArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List blocks, oldest data first.
    Ls {
        #[command(flatten)]
        place: Place,
        /// Print JSON, one block a line.
        #[arg(long)]
        json: bool,
    },
    /// Print everything that the catalog knows of a block, as JSON.
    Inspect {
        /// The block.
        #[arg(value_name = "ULID")]
        block: BlockId,
        #[command(flatten)]
        place: Place,
    },
    /// Read blocks in full and check them; exits with 3 if one is damaged.
    Verify {
        /// The blocks; all by default.
        #[arg(value_name = "ULID")]
        blocks: Vec<BlockId>,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Args)]
struct Place {
    /// Folder of the server, as it was given to `serve`.
    #[arg(long, env = "ISOBAR_DATA", default_value = "data", value_name = "DIR")]
    data: PathBuf,
    /// Object store, as it was given to `serve`.
    #[arg(long = "objstore.config-file", env = "ISOBAR_OBJSTORE_CONFIG_FILE", value_name = "FILE")]
    objstore: Option<PathBuf>,
    /// Only blocks of this tenant; of all by default.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
}

/// Looks and prints.
pub fn run(args: BlocksArgs) -> anyhow::Result<ExitCode> {
    super::block_on(async {
        match args.action {
            Action::Ls { place, json } => ls(&place, json).await,
            Action::Inspect { block, place } => inspect(&place, block).await,
            Action::Verify { blocks, place } => verify(&place, &blocks).await,
        }
    })
}

type Listed = (TenantId, Arc<BlockMeta>);

impl Place {
    fn open(&self) -> anyhow::Result<BlockStore> {
        let folder = self.data.join(objstore::DEFAULT_FOLDER);
        if self.objstore.is_none() && !folder.is_dir() {
            bail!(
                "there is no folder {}; name the server's with --data, or its object store with --objstore.config-file",
                folder.display()
            );
        }
        let (store, _) = objstore::open(self.objstore.as_deref(), &self.data)?;
        Ok(BlockStore::new(store, BlockStoreConfig::default()))
    }

    /// All blocks in the catalogs, by tenant and time. A tenant whose catalog cannot be read is an error that names it.
    async fn blocks(&self, store: &BlockStore) -> anyhow::Result<Vec<Listed>> {
        let tenants = match &self.tenant {
            Some(name) => vec![TenantId::new(name)?],
            None => store.tenants().await?,
        };
        let mut blocks = Vec::new();
        for tenant in tenants {
            let catalog = store.catalog(&tenant).await.with_context(|| format!("catalog of tenant {tenant}"))?;
            let mut metas = catalog.blocks().blocks.clone();
            metas.sort_by_key(|m| (m.min_time_ms, m.ulid));
            blocks.extend(metas.into_iter().map(|meta| (tenant.clone(), meta)));
        }
        Ok(blocks)
    }
}

async fn ls(place: &Place, json: bool) -> anyhow::Result<ExitCode> {
    let blocks = place.blocks(&place.open()?).await?;
    if json {
        for (tenant, meta) in &blocks {
            println!("{}", as_json(tenant, meta)?);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = super::plain_table();
    table.set_header(["tenant", "block", "from", "to", "level", "resolution", "series", "samples", "size", "bytes/sample"]);
    for (tenant, meta) in &blocks {
        let samples = meta.samples + meta.histograms;
        table.add_row([
            tenant.to_string(),
            meta.ulid.to_string(),
            time(meta.min_time_ms),
            time(meta.max_time_ms),
            meta.level.to_string(),
            if meta.resolution_ms == 0 { "raw".into() } else { format!("{} s", meta.resolution_ms / 1000) },
            meta.series.to_string(),
            samples.to_string(),
            rounded_size(meta.size_bytes),
            if samples == 0 { "–".into() } else { format!("{:.2}", meta.size_bytes as f64 / samples as f64) },
        ]);
    }
    println!("{table}");
    let size_bytes: u64 = blocks.iter().map(|(_, m)| m.size_bytes).sum();
    println!("{} blocks, {}", blocks.len(), rounded_size(size_bytes));
    Ok(ExitCode::SUCCESS)
}

async fn inspect(place: &Place, id: BlockId) -> anyhow::Result<ExitCode> {
    let blocks = place.blocks(&place.open()?).await?;
    let (tenant, meta) =
        blocks.iter().find(|(_, m)| m.ulid == id).with_context(|| format!("no catalog has block {id}; `isobar blocks ls` lists them"))?;
    println!("{:#}", as_json(tenant, meta)?);
    Ok(ExitCode::SUCCESS)
}

async fn verify(place: &Place, wanted: &[BlockId]) -> anyhow::Result<ExitCode> {
    let store = place.open()?;
    let mut blocks = place.blocks(&store).await?;
    for id in wanted {
        if !blocks.iter().any(|(_, m)| m.ulid == *id) {
            bail!("no catalog has block {id}; `isobar blocks ls` lists them");
        }
    }
    blocks.retain(|(_, m)| wanted.is_empty() || wanted.contains(&m.ulid));
    let mut damaged = 0;
    for (tenant, meta) in &blocks {
        let report = store.verify(tenant, meta).await.with_context(|| format!("block {} of tenant {tenant}", meta.ulid))?;
        if report.is_sound() {
            println!(
                "OK {} of tenant {tenant}: {} series, {} samples, {}",
                meta.ulid,
                report.series,
                report.samples + report.histograms,
                rounded_size(report.bytes)
            );
        } else {
            damaged += 1;
            println!("DAMAGED {} of tenant {tenant}:", meta.ulid);
            for problem in &report.problems {
                println!("  {problem}");
            }
        }
    }
    println!("{} blocks checked, {damaged} damaged", blocks.len());
    Ok(if damaged == 0 { ExitCode::SUCCESS } else { ExitCode::from(super::FOUND) })
}

fn as_json(tenant: &TenantId, meta: &BlockMeta) -> anyhow::Result<serde_json::Value> {
    let mut json = serde_json::to_value(meta)?;
    json["tenant"] = tenant.as_str().into();
    Ok(json)
}

fn time(at_ms: i64) -> String {
    DateTime::from_timestamp_millis(at_ms).map_or_else(|| format!("{at_ms} ms"), |t| t.to_rfc3339_opts(SecondsFormat::Secs, true))
}
