//! `isobar blocks export`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use chrono::DateTime;
use clap::{Args, ValueEnum};
use isobar_block::TimeRange;
use isobar_compactor::export::{self, ExportConfig, Target};
use isobar_ingest::units::parse_bytes;

use super::progress::{Bar, thousands};
use super::{Place, selector};
use crate::cli::rounded_size;

#[derive(Args)]
pub struct ExportArgs {
    /// Series to export, such as `{job="x"}`; all by default.
    #[arg(value_name = "SELECTOR")]
    selectors: Vec<String>,
    #[command(flatten)]
    place: Place,
    /// File to write, `-` for standard output (OpenMetrics only), or with --split-size a folder.
    #[arg(long, short, value_name = "PATH")]
    output: PathBuf,
    /// What is written.
    #[arg(long, value_enum, default_value_t = Format::Parquet)]
    format: Format,
    /// First time, RFC 3339 or Unix seconds.
    #[arg(long, value_name = "TIME")]
    start: Option<String>,
    /// Last time, RFC 3339 or Unix seconds.
    #[arg(long, value_name = "TIME")]
    end: Option<String>,
    /// Write a folder of files, each of about this size.
    #[arg(long, value_name = "SIZE")]
    split_size: Option<String>,
    /// Labels that become columns, the most frequent first; others are in the column `labels`.
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    label_columns: usize,
    /// Leave the replicas of a series as they are.
    #[arg(long)]
    no_dedup: bool,
    /// Label that tells replicas apart; may be repeated.
    #[arg(long = "replica-label", value_name = "NAME", default_values = ["prometheus_replica", "__replica__"])]
    replica_labels: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A row for each sample, a column for each label.
    Parquet,
    /// Text, as `isobar blocks import openmetrics` and promtool read it.
    Openmetrics,
}

/// Exports.
pub async fn run(args: &ExportArgs) -> anyhow::Result<ExitCode> {
    let format = match args.format {
        Format::Parquet => export::Format::Parquet,
        Format::Openmetrics => export::Format::OpenMetrics,
    };
    let target = match &args.split_size {
        Some(size) => {
            let file_bytes = parse_bytes(size).map_err(|e| anyhow::anyhow!("--split-size: {e}"))?;
            if format != export::Format::Parquet || file_bytes == 0 {
                bail!("--split-size is for Parquet, and must be above 0");
            }
            Target::Folder { path: args.output.clone(), file_bytes }
        }
        None if args.output == Path::new("-") => Target::Standard,
        None => Target::File(args.output.clone()),
    };
    let start_ms = args.start.as_deref().map_or(Ok(i64::MIN), |t| millis(t).context("--start"))?;
    let end_ms = args.end.as_deref().map_or(Ok(i64::MAX), |t| millis(t).context("--end"))?;
    let config = ExportConfig {
        tenant: args.place.one_tenant()?,
        selectors: args.selectors.iter().map(|s| selector(s)).collect::<anyhow::Result<_>>()?,
        range: TimeRange::new(start_ms, end_ms).context("--start and --end")?,
        replica_labels: if args.no_dedup { Vec::new() } else { args.replica_labels.clone() },
        format,
        label_columns: args.label_columns,
    };
    let store = args.place.open()?;
    let bar = Bar::new();
    let result = export::export(&store, &config, &target, &|p| bar.show(p)).await;
    bar.clear();
    let exported = result?;
    for warning in &exported.warnings {
        eprintln!("WARNING {warning}");
    }
    if exported.histograms_left_out > 0 {
        eprintln!(
            "WARNING {} native histograms were left out: OpenMetrics text has none, Parquet has",
            thousands(exported.histograms_left_out)
        );
    }
    // Standard output may be the export itself.
    eprintln!(
        "EXPORTED {} samples of {} series, {} files, {}; {} stale markers left out",
        thousands(exported.samples),
        thousands(exported.series),
        exported.files.len(),
        rounded_size(exported.bytes),
        thousands(exported.stale)
    );
    Ok(ExitCode::SUCCESS)
}

fn millis(text: &str) -> anyhow::Result<i64> {
    if let Ok(seconds) = text.parse::<f64>()
        && seconds.abs() < 1e12
    {
        return Ok((seconds * 1000.0).round() as i64);
    }
    let time = DateTime::parse_from_rfc3339(text).with_context(|| format!("{text:?} is neither RFC 3339 nor Unix seconds"))?;
    Ok(time.timestamp_millis())
}
