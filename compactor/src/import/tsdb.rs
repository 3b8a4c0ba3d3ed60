//! Imports blocks of Prometheus (index version 2), which are also those of Thanos, Mimir and Cortex.
//!
//! One source block becomes visible by one commit. Its series are read in Isobar's order and written to one block for each
//! aligned span of two hours; a source block that is bigger than the memory is read in several passes, each for some spans.

mod bits;
mod chunk;
mod crc32c;
mod file;
mod index;
mod meta;
mod segments;
#[cfg(test)]
mod tests;
mod tombstones;

use std::collections::BTreeMap;

use futures::TryStreamExt;
use isobar_block::BlockStore;
use isobar_block::labels::push_label;
use object_store::path::Path;

use self::file::File;
use self::index::{ChunkRef, Index, Series};
use self::segments::Segments;
use self::tombstones::Deleted;
pub use meta::{Found, Place, SourceBlock, find};

use crate::import::output::{Output, SPAN_MS};
use crate::import::record::{self, ImportId};
use crate::import::{ImportConfig, Imported};
use crate::transfer::{Gathered, OnProgress, Progress};
use crate::{Error, Result};

/// Series that are read together, at most.
const BATCH_SERIES: usize = 1024;
/// What is read for them, about, unless one series alone is bigger.
const BATCH_BYTES: u64 = 16 << 20;
/// A part of the memory is for what is read; the rest, one in so many, is for what is encoded.
const OUTPUT_SHARE: u64 = 2;

/// The files of a source block, opened.
struct Opened {
    index: Index,
    index_file: File,
    segments: Segments,
    deleted: Deleted,
}

/// Imports one block, unless that was done before.
///
/// # Errors
/// [`Error::File`] with file and place if the block is damaged or of another version; nothing is imported then.
/// [`Error::Block`] if a store fails. Dropping the future leaves files that no catalog knows.
pub async fn import(blocks: &BlockStore, source: &SourceBlock, config: &ImportConfig, on_progress: OnProgress<'_>) -> Result<Imported> {
    let added = added_labels(source, config);
    let mut identity = source.meta.ulid.to_string().into_bytes();
    added.iter().for_each(|(name, value)| push_label(&mut identity, name, value));
    let id = ImportId::of(source.meta.ulid, &identity);
    if record::is_done(blocks, &config.tenant, id).await? {
        return Ok(Imported::Before);
    }
    let opened = open(source, &added).await?;
    let mut output = Output::new(blocks, &config.tenant, config.memory_bytes / OUTPUT_SHARE, vec![source.meta.ulid, id.as_block()]);
    match copy(source, &opened, &mut output, config, on_progress).await {
        Ok(()) => record::commit(output, id, &source.meta.ulid.to_string()).await,
        Err(error) => {
            output.discard().await;
            Err(error)
        }
    }
}

/// The external labels of the source and those that were asked for, which win.
fn added_labels(source: &SourceBlock, config: &ImportConfig) -> Vec<(String, String)> {
    let mut added = source.meta.thanos.clone().unwrap_or_default().labels;
    added.extend(config.labels.iter().cloned());
    added.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

async fn open(source: &SourceBlock, added: &[(String, String)]) -> Result<Opened> {
    let store = &source.place.store;
    let prefix = Some(&source.folder).filter(|f| !f.as_ref().is_empty());
    let listed: Vec<_> = store.list(prefix).try_collect().await.map_err(isobar_block::Error::from)?;
    let files: BTreeMap<String, File> = listed
        .into_iter()
        .filter_map(|o| {
            let path: Path = o.location.prefix_match(&source.folder)?.collect();
            let name = format!("{}{}", source.place.name, o.location);
            Some((path.to_string(), File::new(store.clone(), o.location, name, o.size)))
        })
        .collect();
    let index_file = files.get("index").cloned().ok_or_else(|| Error::File {
        path: format!("{}{}", source.place.name, source.folder),
        reason: "it has no file \"index\"; copy the whole block".into(),
    })?;
    let index = Index::open(index_file.clone(), added).await?;
    let segments = files.iter().filter(|(path, _)| path.strip_prefix("chunks/").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit())));
    let segments = Segments::open(segments.map(|(_, file)| file.clone()).collect()).await?;
    let deleted = match files.get("tombstones") {
        Some(file) => tombstones::read(file).await?,
        None => Deleted::new(),
    };
    Ok(Opened { index, index_file, segments, deleted })
}

/// Aligned spans, from the first to the last one that are filled in one pass.
type Pass = (i64, i64);

/// Divides the spans of a block into passes that fill about the memory: chunks of Prometheus are no smaller than ours.
fn passes(source: &SourceBlock, chunks_bytes: u64, memory_bytes: u64) -> Vec<Pass> {
    let first = source.meta.min_time.div_euclid(SPAN_MS);
    let last = source.meta.max_time.saturating_sub(1).max(source.meta.min_time).div_euclid(SPAN_MS);
    let spans = last - first + 1;
    let number = i64::try_from(chunks_bytes / memory_bytes.max(1) + 1).unwrap_or(i64::MAX).min(spans);
    let of = |n: i64| first + (i128::from(spans) * i128::from(n) / i128::from(number)) as i64;
    (0..number).map(|n| (of(n) * SPAN_MS, of(n + 1) * SPAN_MS - 1)).collect()
}

async fn copy(
    source: &SourceBlock,
    opened: &Opened,
    output: &mut Output,
    config: &ImportConfig,
    on_progress: OnProgress<'_>,
) -> Result<()> {
    let series = opened.index.series().await?;
    let mut progress =
        Progress { what: source.meta.ulid.to_string(), done: 0, total: Some(source.samples()).filter(|n| *n > 0), unit: "samples" };
    on_progress(&progress);
    let mut passes = passes(source, opened.segments.size(), config.memory_bytes / OUTPUT_SHARE);
    // Samples outside of the times that the block says it has are not lost.
    if let Some(first) = passes.first_mut() {
        first.0 = i64::MIN;
    }
    if let Some(last) = passes.last_mut() {
        last.1 = i64::MAX;
    }
    for pass in passes {
        copy_pass(opened, &series, pass, output, &mut |samples| {
            progress.done += samples;
            on_progress(&progress);
        })
        .await?;
        output.flush().await?;
    }
    Ok(())
}

async fn copy_pass(opened: &Opened, series: &Series, pass: Pass, output: &mut Output, count: &mut (dyn FnMut(u64) + Send)) -> Result<()> {
    let mut start = 0;
    // Several series of the source are one here if an added label took the place of what told them apart.
    let mut pending: Option<(usize, Gathered)> = None;
    while start < series.len() {
        let rows = start..series.len().min(start + BATCH_SERIES);
        let mut refs = opened.index.chunks(series, rows.clone()).await?;
        for refs in &mut refs {
            refs.retain(|c| c.min_ms <= pass.1 && pass.0 <= c.max_ms);
        }
        let mut next = 0;
        while next < refs.len() {
            let end = batch_end(&refs, next);
            let read = opened.segments.read(&refs[next..end], &opened.index_file).await?;
            for (row, mut samples) in (start + next..).zip(read) {
                clip(&mut samples, pass, opened.deleted.get(&series.number(row)));
                match &mut pending {
                    Some((first, gathered)) if series.of(*first) == series.of(row) => gathered.append(&samples.take(), |_| true),
                    _ => {
                        if let Some((first, gathered)) = pending.replace((row, samples)) {
                            write(opened, series, first, gathered, output, count).await?;
                        }
                    }
                }
            }
            next = end;
        }
        start = rows.end;
        tokio::task::yield_now().await;
    }
    match pending {
        Some((first, gathered)) => write(opened, series, first, gathered, output, count).await,
        None => Ok(()),
    }
}

fn batch_end(refs: &[Vec<ChunkRef>], start: usize) -> usize {
    let mut bytes = 0;
    let fit = refs[start..].iter().take_while(|refs| {
        bytes += segments::read_bytes(refs);
        bytes <= BATCH_BYTES
    });
    start + fit.count().max(1)
}

fn clip(samples: &mut Gathered, pass: Pass, deleted: Option<&Vec<(i64, i64)>>) {
    let gone = |t: i64| deleted.is_some_and(|spans| spans.iter().any(|(min, max)| *min <= t && t <= *max));
    samples.retain(|t| pass.0 <= t && t <= pass.1 && !gone(t));
}

async fn write(
    opened: &Opened,
    series: &Series,
    row: usize,
    mut samples: Gathered,
    output: &mut Output,
    count: &mut (dyn FnMut(u64) + Send),
) -> Result<()> {
    if samples.len() == 0 {
        return Ok(());
    }
    let samples = samples.take();
    output.push(&opened.index.labels(series, row)?, None, &samples, &[]).await?;
    count(samples.len() as u64);
    Ok(())
}
