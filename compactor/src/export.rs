//! Writes raw samples as plain Parquet files, or as OpenMetrics text.
//!
//! What is written is what a query would see: blocks merged, deletions applied, and replicas made one unless that is not wanted.
//! Stale markers are left out: they are NaNs that only Prometheus and Isobar tell from others.

mod files;
mod histograms;
mod table;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use isobar_block::merge::merged;
use isobar_block::replicas::Deduplicated;
use isobar_block::{
    BlockStore, LabelsRef, Matcher, Metadata, SampleBuf, SeriesSet, Source, TenantId, TimeRange, Timestamps, Want, is_stale,
};

use self::files::Files;
use self::table::Table;
use self::text::Text;
use crate::transfer::{OnProgress, Progress};
use crate::{Error, Result};

/// Samples that are read at a time, about.
const BATCH_SAMPLES: u64 = 2_000_000;
/// Series that are read at a time, at most.
const MAX_BATCH_SERIES: u64 = 1024;

/// What is exported, and how.
#[derive(Clone, Debug)]
pub struct ExportConfig {
    /// Whose samples.
    pub tenant: TenantId,
    /// Series that one of these accepts; all if there is none.
    pub selectors: Vec<Vec<Matcher>>,
    /// Samples in this range.
    pub range: TimeRange,
    /// Labels that tell replicas apart: such series become one. None leaves them as they are.
    pub replica_labels: Vec<String>,
    /// How it is written.
    pub format: Format,
    /// Labels that get a column of their own, the most frequent ones; others are in the column `labels`. For Parquet.
    pub label_columns: usize,
}

/// How samples are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Parquet, a row for each sample.
    Parquet,
    /// OpenMetrics text, without exemplars. Native histograms cannot be written so.
    OpenMetrics,
}

/// Where it is written.
#[derive(Clone, Debug)]
pub enum Target {
    /// One file, which must not exist yet.
    File(PathBuf),
    /// Files of about a size in a folder that must be empty or not exist yet.
    Folder {
        /// The folder.
        path: PathBuf,
        /// A new file begins when one has this size.
        file_bytes: u64,
    },
    /// Standard output; for text only.
    Standard,
}

/// What was exported.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exported {
    /// Series that had samples.
    pub series: u64,
    /// Samples that were written, native histograms included.
    pub samples: u64,
    /// Stale markers that were left out.
    pub stale: u64,
    /// Native histograms that were left out, because the format has none.
    pub histograms_left_out: u64,
    /// The files.
    pub files: Vec<PathBuf>,
    /// Their size.
    pub bytes: u64,
    /// What is missing.
    pub warnings: Vec<String>,
}

/// The two formats.
enum Sink {
    Table(Box<Table>),
    Text(Box<Text>),
}

/// Exports. Files have their names when they are complete; dropping the future leaves one with `.tmp` behind its name.
///
/// # Errors
/// [`Error::File`] if a file cannot be written or is there already; [`Error::Block`] if a block cannot be read.
pub async fn export(blocks: &BlockStore, config: &ExportConfig, target: &Target, on_progress: OnProgress<'_>) -> Result<Exported> {
    let state = blocks.catalog(&config.tenant).await?.refresh().await?;
    let raw = state.blocks.iter().filter(|b| b.resolution_ms == 0 && b.overlaps(config.range));
    let (samples, histograms) = raw.fold((0, 0), |(s, h), b| (s + b.samples + b.histograms, h + b.histograms));
    let mut exported = Exported::default();
    let source = source(blocks, config);
    let set = select(&*source, config, &mut exported).await?;
    let files = Files::new(target, if config.format == Format::Parquet { "parquet" } else { "om" })?;
    let mut sink = match config.format {
        Format::Parquet => Sink::Table(Box::new(Table::new(files, &label_columns(&*set, config.label_columns), histograms > 0)?)),
        Format::OpenMetrics => Sink::Text(Box::new(Text::new(files, metadata(&*source).await?)?)),
    };
    let average = samples / (set.len() as u64).max(1);
    let step = (BATCH_SAMPLES / average.max(1)).clamp(1, MAX_BATCH_SERIES) as usize;
    let mut progress = Progress { what: "export".into(), done: 0, total: Some(set.len() as u64), unit: "series" };
    let mut buf = SampleBuf::default();
    for start in (0..set.len()).step_by(step) {
        let rows = start..set.len().min(start + step);
        let mut run = set.load(rows.clone(), config.range).await?;
        for row in rows.clone() {
            run.read(row, &mut buf)?;
            exported.stale += clip(&mut buf, config.range);
            write(&mut sink, set.labels(row), &buf, &mut exported)?;
        }
        progress.done += rows.len() as u64;
        on_progress(&progress);
        tokio::task::yield_now().await;
    }
    (exported.files, exported.bytes) = match sink {
        Sink::Table(table) => table.finish()?,
        Sink::Text(text) => text.finish()?,
    };
    Ok(exported)
}

fn source(blocks: &BlockStore, config: &ExportConfig) -> Arc<dyn Source> {
    let raw = blocks.source(&config.tenant);
    if config.replica_labels.is_empty() { raw } else { Arc::new(Deduplicated::new(raw, config.replica_labels.clone())) }
}

async fn select(source: &dyn Source, config: &ExportConfig, exported: &mut Exported) -> Result<Arc<dyn SeriesSet>> {
    let all = [Vec::new()];
    let selectors = if config.selectors.is_empty() { &all[..] } else { &config.selectors };
    let mut sets = Vec::new();
    for matchers in selectors {
        let selected = source.select(matchers, config.range, Want::default()).await?;
        exported.warnings.extend(selected.warnings);
        sets.extend(selected.sets);
    }
    let found = sets.len();
    sets.retain(|set| set.resolution_ms() == 0);
    if sets.len() < found {
        exported.warnings.push("of a part of the range only downsampled data is left; that is not exported".into());
    }
    exported.warnings.sort();
    exported.warnings.dedup();
    Ok(merged(sets, &[]))
}

async fn metadata(source: &dyn Source) -> Result<BTreeMap<String, Metadata>> {
    let all = source.metadata(None).await?;
    Ok(all.into_iter().filter_map(|(name, known)| Some((name, known.into_iter().next()?))).collect())
}

/// The most frequent labels, ascending. Labels whose names differ only in case cannot both be columns.
fn label_columns(set: &dyn SeriesSet, limit: usize) -> Vec<String> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for row in 0..set.len() {
        for (name, _) in set.labels(row).iter() {
            match counts.get_mut(name) {
                Some(count) => *count += 1,
                None => drop(counts.insert(name.to_owned(), 1)),
            }
        }
    }
    let mut by_count: Vec<(String, u64)> = counts.into_iter().filter(|(name, _)| !table::is_reserved(name)).collect();
    by_count.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let mut columns: Vec<String> = Vec::new();
    for (name, _) in by_count {
        if columns.len() < limit && !columns.iter().any(|c| c.eq_ignore_ascii_case(&name)) {
            columns.push(name);
        }
    }
    columns.sort();
    columns
}

/// Cuts samples to a range and takes stale markers out; says how many these were.
fn clip(samples: &mut SampleBuf, range: TimeRange) -> u64 {
    let wanted = |t: i64, value: f64| range.contains(t) && !is_stale(value);
    if samples.timestamps.iter().zip(&samples.values).all(|(t, v)| wanted(*t, *v)) {
        return 0;
    }
    let (mut times, mut values, mut histograms, mut stale) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let mut next = samples.histograms.iter().peekable();
    for (i, (t, value)) in samples.timestamps.iter().zip(&samples.values).enumerate() {
        let histogram = next.next_if(|(at, _)| *at as usize == i);
        if wanted(*t, *value) {
            histograms.extend(histogram.map(|(_, h)| (values.len() as u32, h.clone())));
            times.push(*t);
            values.push(*value);
        } else if range.contains(*t) {
            stale += 1;
        }
    }
    *samples = SampleBuf { timestamps: Timestamps::unshared(times), values, histograms, counts: Vec::new() };
    stale
}

fn write(sink: &mut Sink, labels: LabelsRef<'_>, samples: &SampleBuf, exported: &mut Exported) -> Result<()> {
    if samples.is_empty() {
        return Ok(());
    }
    exported.series += 1;
    exported.samples += samples.len() as u64;
    match sink {
        Sink::Table(table) => table.push(labels, samples),
        Sink::Text(text) => {
            let left_out = text.push(labels, samples)?;
            exported.histograms_left_out += left_out;
            exported.samples -= left_out;
            Ok(())
        }
    }
}

/// An error of a file.
fn file_error(path: &std::path::Path, error: impl std::fmt::Display) -> Error {
    Error::File { path: path.display().to_string(), reason: error.to_string() }
}
