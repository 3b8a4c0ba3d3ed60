//! `isobar blocks ls`, `inspect` and `verify`: look, and write nothing.

use std::process::ExitCode;

use anyhow::{Context, bail};
use chrono::{DateTime, SecondsFormat};
use isobar_block::{BlockId, BlockMeta, TenantId};

use super::Place;
use crate::cli::{FOUND, plain_table, rounded_size};

/// Lists blocks.
pub async fn ls(place: &Place, json: bool) -> anyhow::Result<ExitCode> {
    let blocks = place.blocks(&place.open()?).await?;
    if json {
        for (tenant, meta) in &blocks {
            println!("{}", as_json(tenant, meta)?);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = plain_table();
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

/// Prints what the catalog knows of a block.
pub async fn inspect(place: &Place, id: BlockId) -> anyhow::Result<ExitCode> {
    let blocks = place.blocks(&place.open()?).await?;
    let (tenant, meta) =
        blocks.iter().find(|(_, m)| m.ulid == id).with_context(|| format!("no catalog has block {id}; `isobar blocks ls` lists them"))?;
    println!("{:#}", as_json(tenant, meta)?);
    Ok(ExitCode::SUCCESS)
}

/// Checks blocks in full.
pub async fn verify(place: &Place, wanted: &[BlockId]) -> anyhow::Result<ExitCode> {
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
    Ok(if damaged == 0 { ExitCode::SUCCESS } else { ExitCode::from(FOUND) })
}

fn as_json(tenant: &TenantId, meta: &BlockMeta) -> anyhow::Result<serde_json::Value> {
    let mut json = serde_json::to_value(meta)?;
    json["tenant"] = tenant.as_str().into();
    Ok(json)
}

/// A time for reading.
pub fn time(at_ms: i64) -> String {
    DateTime::from_timestamp_millis(at_ms).map_or_else(|| format!("{at_ms} ms"), |t| t.to_rfc3339_opts(SecondsFormat::Secs, true))
}
