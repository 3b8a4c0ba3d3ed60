//! `isobar blocks`: looks at blocks in the object store, brings data in and out, repairs and rewrites; beside a running server or
//! without one.

mod edit;
mod export;
mod import;
mod look;
mod progress;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use isobar_block::{BlockId, BlockMeta, BlockStore, BlockStoreConfig, Matcher, TenantId};

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
    /// Bring data in: blocks of Prometheus or Thanos, or OpenMetrics text. What was imported is not imported again.
    Import(import::ImportArgs),
    /// Write raw samples to Parquet or OpenMetrics files.
    Export(export::ExportArgs),
    /// Save what is readable of damaged blocks; exits with 3 if something was lost.
    Repair(edit::RepairArgs),
    /// Drop or relabel series of blocks.
    Rewrite(edit::RewriteArgs),
}

#[derive(Args)]
struct Place {
    /// Folder of the server, as it was given to `serve`.
    #[arg(long, env = "ISOBAR_DATA", default_value = "data", value_name = "DIR")]
    data: PathBuf,
    /// Object store, as it was given to `serve`.
    #[arg(long = "objstore.config-file", env = "ISOBAR_OBJSTORE_CONFIG_FILE", value_name = "FILE")]
    objstore: Option<PathBuf>,
    /// Only blocks of this tenant; of all by default. Imports and exports are of the tenant `default` by default.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
}

/// Does what is asked for.
pub fn run(args: BlocksArgs) -> anyhow::Result<ExitCode> {
    super::block_on(async {
        match args.action {
            Action::Ls { place, json } => look::ls(&place, json).await,
            Action::Inspect { block, place } => look::inspect(&place, block).await,
            Action::Verify { blocks, place } => look::verify(&place, &blocks).await,
            Action::Import(args) => import::run(&args).await,
            Action::Export(args) => export::run(&args).await,
            Action::Repair(args) => edit::repair(&args).await,
            Action::Rewrite(args) => edit::rewrite(&args).await,
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
        self.open_or_create()
    }

    /// As [`Place::open`], for who brings the first data.
    fn open_or_create(&self) -> anyhow::Result<BlockStore> {
        let (store, _) = objstore::open(self.objstore.as_deref(), &self.data)?;
        Ok(BlockStore::new(store, BlockStoreConfig::default()))
    }

    /// The one tenant that is meant.
    fn one_tenant(&self) -> anyhow::Result<TenantId> {
        Ok(self.tenant.as_deref().map(TenantId::new).transpose()?.unwrap_or_default())
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

    /// Some blocks, in the order of `ids`.
    async fn named(&self, store: &BlockStore, ids: &[BlockId]) -> anyhow::Result<Vec<Listed>> {
        let blocks = self.blocks(store).await?;
        let find = |id: &BlockId| {
            let found = blocks.iter().find(|(_, m)| m.ulid == *id).cloned();
            found.with_context(|| format!("no catalog has block {id}; `isobar blocks ls` lists them"))
        };
        ids.iter().map(find).collect()
    }
}

/// Reads a selector such as `{job="x"}` or `up`.
fn selector(text: &str) -> anyhow::Result<Vec<Matcher>> {
    isobar_query::promql::parse_selector(text).map(|s| s.matchers).map_err(|e| anyhow::anyhow!("selector {text:?}: {e}"))
}
