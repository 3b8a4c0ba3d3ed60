//! `isobar compact`: does all that is due for the blocks of an object store, beside running servers or without any. They need
//! not know of each other: who commits first wins.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::{ArgMatches, Args};
use isobar_block::{BlockStore, TenantId, time};
use isobar_compactor::compactor::{Compactor, Progress, Report};
use isobar_compactor::config::LiveRules;
use isobar_compactor::plan::{self, Job};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::settings;
use crate::config::{Config, objstore};

/// Settings that are flags of this command, too. Those that end in a dot stand for a section.
pub const SETTINGS: &[&str] = &["data", "objstore.config-file", "compactor.", "replicas.", "retention."];

/// Moves to the start of the line and empties it.
const CLEAR_LINE: &str = "\r\x1b[K";

/// Threads that read files and encode. Each holds some memory that it has used.
const MAX_BLOCKING_THREADS: usize = 8;

/// Progress is cut to this many characters, so that it stays on one line.
const TERMINAL_WIDTH: usize = 110;

#[derive(Args)]
pub struct CompactArgs {
    /// Print what is due, and do nothing. Doing it may make more due: higher levels are made of lower ones.
    #[arg(long)]
    dry_run: bool,
    /// Only blocks of this tenant; of all by default.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Print the plan, or the report, as JSON.
    #[arg(long)]
    json: bool,
}

/// Plans or compacts.
pub fn run(args: &CompactArgs, matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    crate::allocator::keep_freed(false);
    let loaded = settings::inputs(matches).load()?;
    for warning in &loaded.warnings {
        eprintln!("WARNING {warning}");
    }
    let tenant = args.tenant.as_deref().map(TenantId::new).transpose()?;
    // Merging computes while others load and write.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let code = runtime.block_on(async {
        let blocks = open(&loaded.config)?;
        if args.dry_run {
            show_plan(args, &loaded.config, &blocks, tenant).await
        } else {
            compact(args, &loaded.config, blocks, tenant).await
        }
    });
    // A merge that was cancelled may compute on for a moment; nobody waits for it.
    runtime.shutdown_background();
    code
}

fn open(config: &Config) -> anyhow::Result<BlockStore> {
    let folder = config.data.join(objstore::DEFAULT_FOLDER);
    if config.objstore_config_file.is_none() && !folder.is_dir() {
        bail!("there is no folder {}; name the server's with --data, or its object store with --objstore.config-file", folder.display());
    }
    let (store, _) = objstore::open(config.objstore_config_file.as_deref(), &config.data)?;
    Ok(BlockStore::new(store, config.sections.blocks.clone()))
}

async fn show_plan(args: &CompactArgs, config: &Config, blocks: &BlockStore, tenant: Option<TenantId>) -> anyhow::Result<ExitCode> {
    let rules = LiveRules::new(config.rules());
    let tenants = match tenant {
        Some(tenant) => vec![tenant],
        None => blocks.tenants().await?,
    };
    let mut planned: Vec<(TenantId, Job)> = Vec::new();
    for tenant in tenants {
        let catalog = blocks.catalog(&tenant).await.with_context(|| format!("catalog of tenant {tenant}"))?;
        let jobs = plan::plan(&catalog.blocks(), &rules.of(&tenant), &config.sections.compactor, time::now_ms(), false);
        planned.extend(jobs.into_iter().map(|job| (tenant.clone(), job)));
    }
    if args.json {
        for (tenant, job) in &planned {
            let mut json = serde_json::to_value(job)?;
            json["tenant"] = tenant.as_str().into();
            println!("{json}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !planned.is_empty() {
        let mut table = super::plain_table();
        table.set_header(["tenant", "job"]);
        for (tenant, job) in &planned {
            table.add_row([tenant.to_string(), job.to_string()]);
        }
        println!("{table}");
    }
    let size_bytes = planned.iter().map(|(_, job)| job.size_bytes).sum();
    println!("{} jobs, {} of blocks", planned.len(), super::rounded_size(size_bytes));
    Ok(ExitCode::SUCCESS)
}

async fn compact(args: &CompactArgs, config: &Config, blocks: BlockStore, tenant: Option<TenantId>) -> anyhow::Result<ExitCode> {
    let rules = LiveRules::new(config.rules());
    let compactor = Compactor::new(config.sections.compactor.clone(), rules, blocks, &mut Registry::default());
    let terminal = std::io::stderr().is_terminal();
    let shown = Shown { terminal, job: Mutex::default() };
    let progress = Arc::new(move |progress: &Progress| shown.show(progress));
    let (stop, stopped) = watch::channel(false);
    let run = compactor.run_to_end_or(tenant.as_ref(), progress, stopped);
    tokio::pin!(run);
    let report = tokio::select! {
        report = &mut run => report?,
        signal = tokio::signal::ctrl_c() => {
            signal?;
            stop.send_replace(true);
            // It removes what it has not committed. How it ends does not matter any more.
            let _ended = run.await;
            bail!("stopped; what was committed stays, and what was not was never visible");
        }
    };
    if terminal {
        eprint!("{CLEAR_LINE}");
    }
    show_report(args, &report)
}

/// One line that changes on a terminal; a line for each job elsewhere.
struct Shown {
    terminal: bool,
    job: Mutex<String>,
}

impl Shown {
    fn show(&self, progress: &Progress) {
        let mut job = self.job.lock();
        if self.terminal {
            let done = progress.jobs_done;
            let text = format!(
                "{:3.0} % of job {} of {}: {}",
                progress.progress.share() * 100.0,
                done + 1,
                done + progress.jobs_left,
                progress.job
            );
            let text: String = text.chars().take(TERMINAL_WIDTH).collect();
            eprint!("{CLEAR_LINE}{text}");
            // Nobody is told if the terminal has gone.
            let _gone = std::io::stderr().flush();
        } else if *job != progress.job {
            eprintln!("tenant {}: {}", progress.tenant, progress.job);
        }
        job.clone_from(&progress.job);
    }
}

fn show_report(args: &CompactArgs, report: &Report) -> anyhow::Result<ExitCode> {
    if args.json {
        println!("{}", serde_json::to_string(report)?);
    } else {
        println!(
            "{} jobs: {} blocks of {} became {} blocks of {}",
            report.jobs,
            report.blocks_in,
            super::rounded_size(report.bytes_in),
            report.blocks_out,
            super::rounded_size(report.bytes_out)
        );
    }
    for block in &report.quarantined {
        eprintln!("DAMAGED {}: {}; see `isobar blocks repair`", block.ulid, block.reason);
    }
    for failure in &report.failures {
        eprintln!("FAILED {}: {}", failure.job, failure.error);
    }
    Ok(match (report.failures.is_empty(), report.quarantined.is_empty()) {
        (false, _) => ExitCode::FAILURE,
        (true, false) => ExitCode::from(super::FOUND),
        (true, true) => ExitCode::SUCCESS,
    })
}
