//! `isobar blocks repair` and `isobar blocks rewrite`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use isobar_block::{BlockId, BlockMeta, TenantId};
use isobar_compactor::repair::{self, Edit, Repaired, Rewritten};

use super::progress::{Bar, thousands};
use super::{Place, selector};
use crate::cli::FOUND;
use crate::config::relabel;

#[derive(Args)]
pub struct RepairArgs {
    /// The blocks.
    #[arg(value_name = "ULID", required = true)]
    blocks: Vec<BlockId>,
    #[command(flatten)]
    place: Place,
    /// Take blocks away of which nothing can be read, and damaged downsampled blocks, which are made anew.
    #[arg(long)]
    discard: bool,
}

#[derive(Args)]
#[command(group = clap::ArgGroup::new("edit").required(true))]
pub struct RewriteArgs {
    /// The blocks.
    #[arg(value_name = "ULID", required = true)]
    blocks: Vec<BlockId>,
    #[command(flatten)]
    place: Place,
    /// Leave out series that match, such as `{job="x"}`; may be repeated.
    #[arg(long, value_name = "SELECTOR", group = "edit")]
    drop: Vec<String>,
    /// Leave out series that do not match; with several selectors those that match none.
    #[arg(long, value_name = "SELECTOR", group = "edit")]
    keep: Vec<String>,
    /// File with a list of relabelling rules, as in Prometheus's metric_relabel_configs.
    #[arg(long, value_name = "FILE", group = "edit")]
    relabel: Option<PathBuf>,
    /// Say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Repairs.
pub async fn repair(args: &RepairArgs) -> anyhow::Result<ExitCode> {
    let store = args.place.open()?;
    let mut complete = true;
    for (tenant, meta) in args.place.named(&store, &args.blocks).await? {
        let bar = Bar::new();
        let result = repair::repair(&store, &tenant, meta.ulid, args.discard, &|p| bar.show(p)).await;
        bar.clear();
        match result.with_context(|| format!("block {}", meta.ulid))? {
            Repaired::Sound => println!("SOUND {}: nothing is wrong with it", meta.ulid),
            Repaired::Restored(files) => println!("RESTORED {}: {} made anew, nothing was lost", meta.ulid, files.join(", ")),
            Repaired::Removed => {
                complete &= meta.resolution_ms > 0;
                println!("REMOVED {}: it had {} samples", meta.ulid, thousands(meta.samples + meta.histograms));
            }
            Repaired::Saved { blocks, samples, lost_samples, lost_series, lost } => {
                complete &= lost_samples == 0 && lost.is_empty();
                println!("REPAIRED {} as {}: {} samples saved", meta.ulid, names(&blocks), thousands(samples));
                println!("  lost {} samples, and all of {} series", thousands(lost_samples), thousands(lost_series));
                for what in &lost {
                    println!("  could not be read: {what}");
                }
            }
        }
    }
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::from(FOUND) })
}

/// Drops or relabels series, also of the downsampled blocks that stand for the named ones.
pub async fn rewrite(args: &RewriteArgs) -> anyhow::Result<ExitCode> {
    let selectors = |texts: &[String]| texts.iter().map(|s| selector(s)).collect::<anyhow::Result<Vec<_>>>();
    let edit = match &args.relabel {
        Some(file) => Edit::Relabel(relabel::load(file)?),
        None if !args.drop.is_empty() => Edit::Drop(selectors(&args.drop)?),
        None => Edit::Keep(selectors(&args.keep)?),
    };
    let store = args.place.open()?;
    let mut by_tenant: BTreeMap<TenantId, Vec<Arc<BlockMeta>>> = BTreeMap::new();
    for (tenant, meta) in args.place.named(&store, &args.blocks).await? {
        by_tenant.entry(tenant).or_default().push(meta);
    }
    for (tenant, metas) in by_tenant {
        let state = store.catalog(&tenant).await?.blocks();
        for set in repair::sets(&state, metas) {
            let bar = Bar::new();
            let result = repair::rewrite(&store, &tenant, &set, &edit, args.dry_run, &|p| bar.show(p)).await;
            bar.clear();
            for rewritten in result.with_context(|| format!("blocks {}", names(&set)))? {
                show(&rewritten, args.dry_run);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(rewritten: &Rewritten, dry_run: bool) {
    let block = rewritten.block;
    let done = match (dry_run, rewritten.changes(), rewritten.blocks.is_empty()) {
        (_, false, true) => format!("UNCHANGED {block}"),
        (true, ..) => format!("WOULD REWRITE {block}"),
        (false, _, true) => format!("REMOVED {block}"),
        (false, ..) => format!("REWRITTEN {block} as {}", names(&rewritten.blocks)),
    };
    let kind = match rewritten.resolution_ms / 60_000 {
        0 => String::new(),
        minutes => format!("buckets of {minutes} min, "),
    };
    println!(
        "{done}: {kind}{} of {} series dropped, {} relabelled, of which {} joined others",
        thousands(rewritten.dropped),
        thousands(rewritten.series),
        thousands(rewritten.relabelled),
        thousands(rewritten.joined)
    );
    for example in &rewritten.examples {
        println!("  {example}");
    }
}

fn names(blocks: &[BlockId]) -> String {
    blocks.iter().map(BlockId::to_string).collect::<Vec<_>>().join(", ")
}
