//! Reads what is readable of a damaged block, in ever smaller pieces: row groups of series, then windows of time, then single
//! series.

use std::ops::Range;
use std::sync::Arc;

use hashbrown::HashMap;
use isobar_block::reader::Pick;
use isobar_block::{
    BlockMeta, BlockReader, BlockStore, Error as BlockError, Exemplar, Labels, Metadata, SampleBuf, SeriesRun, SeriesSet, TenantId,
    TimeRange,
};
use parking_lot::Mutex;

use super::{BATCH_SERIES, CACHES};
use crate::Result;
use crate::rewrite::Output;
use crate::transfer::{Gathered, OnProgress, Progress};

/// Messages of what was lost that are kept; more of the same helps nobody.
const MAX_LOST: usize = 100;
/// Sorts after every metric name.
const LAST_NAME: &str = "\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}";

/// What could not be saved.
#[derive(Default)]
pub(super) struct Saved {
    pub lost: Vec<String>,
}

impl Saved {
    fn lose(&mut self, what: impl std::fmt::Display, error: &BlockError) {
        let text = format!("{what}: {error}");
        if self.lost.len() < MAX_LOST && !self.lost.contains(&text) {
            self.lost.push(text);
        }
    }
}

/// What a bad piece gives: nothing, if it is damaged, and an error if the store does not answer.
fn readable<T>(result: isobar_block::Result<T>, saved: &mut Saved, what: impl std::fmt::Display) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error @ BlockError::Store(object_store::Error::NotFound { .. })) => {
            saved.lose(what, &error);
            Ok(None)
        }
        Err(error @ (BlockError::Store(_) | BlockError::Io { .. })) => Err(error.into()),
        Err(error) => {
            saved.lose(what, &error);
            Ok(None)
        }
    }
}

/// Copies what is readable to `output`.
pub(super) async fn copy(
    blocks: &BlockStore,
    tenant: &TenantId,
    meta: &Arc<BlockMeta>,
    output: &mut Output,
    on_progress: OnProgress<'_>,
) -> Result<Saved> {
    let mut saved = Saved::default();
    let opened = BlockReader::open(blocks.objects().clone(), tenant, meta.clone(), &CACHES).await;
    let Some(reader) = readable(opened, &mut saved, "the whole block")?.map(Arc::new) else { return Ok(saved) };
    let mut metadata: HashMap<String, Metadata> = HashMap::new();
    let walked = reader.walk_names(|run| metadata.extend(run.metadata.map(|m| (run.name, m)))).await;
    readable(walked, &mut saved, "type, help and unit of some metrics")?;
    let mut progress = Progress { what: meta.ulid.to_string(), done: 0, total: Some(meta.series), unit: "series" };
    for group in 0..groups(&reader).await? {
        let pick = Pick { names: ""..=LAST_NAME, group: &|g| g == group, series: None };
        let picked = readable(reader.pick(&pick).await, &mut saved, format_args!("all series of row group {group}"))?;
        let Some(picked) = picked else { continue };
        let exemplars = readable(picked.exemplars(TimeRange::ALL).await, &mut saved, format_args!("exemplars of row group {group}"))?;
        let mut exemplars: HashMap<Labels, Vec<Exemplar>> = exemplars.unwrap_or_default().into_iter().collect();
        let set = picked.set();
        for start in (0..set.len()).step_by(BATCH_SERIES) {
            let rows = start..set.len().min(start + BATCH_SERIES);
            let samples = read(&*set, meta, rows.clone(), &mut saved).await?;
            for (row, mut samples) in rows.clone().zip(samples) {
                let labels = set.labels(row).to_owned();
                let metadata = metadata.get(labels.as_ref().metric_name());
                let exemplars = exemplars.remove(&labels).unwrap_or_default();
                output.push(&labels, metadata, &samples.take(), &exemplars).await?;
            }
            progress.done += rows.len() as u64;
            on_progress(&progress);
        }
    }
    Ok(saved)
}

/// How many row groups of series there are.
async fn groups(reader: &Arc<BlockReader>) -> Result<usize> {
    let seen = Mutex::new(0);
    let note = |group: usize| {
        let mut seen = seen.lock();
        *seen = (*seen).max(group + 1);
        false
    };
    reader.pick(&Pick { names: ""..=LAST_NAME, group: &note, series: None }).await?;
    Ok(*seen.lock())
}

/// Reads some series, window by window if they cannot be read at once.
async fn read(set: &dyn SeriesSet, meta: &BlockMeta, rows: Range<usize>, saved: &mut Saved) -> Result<Vec<Gathered>> {
    let mut out: Vec<Gathered> = rows.clone().map(|_| Gathered::default()).collect();
    let whole = set.load(rows.clone(), TimeRange::ALL).await.and_then(|mut run| read_all(&mut *run, rows.clone(), TimeRange::ALL));
    if let Ok(samples) = whole {
        return Ok(samples);
    }
    let mut start_ms = meta.min_time_ms.div_euclid(meta.window_ms).saturating_mul(meta.window_ms);
    while start_ms <= meta.max_time_ms {
        let window = TimeRange::new(start_ms, start_ms.saturating_add(meta.window_ms - 1))?;
        read_window(set, rows.clone(), window, &mut out, saved).await?;
        match start_ms.checked_add(meta.window_ms) {
            Some(next) => start_ms = next,
            None => break,
        }
    }
    Ok(out)
}

/// Reads some series in one window, in halves if they cannot be read at once.
async fn read_window(set: &dyn SeriesSet, rows: Range<usize>, window: TimeRange, out: &mut [Gathered], saved: &mut Saved) -> Result<()> {
    let mut pending = vec![rows.clone()];
    while let Some(part) = pending.pop() {
        let read = set.load(part.clone(), window).await.and_then(|mut run| read_all(&mut *run, part.clone(), window));
        match read {
            Ok(samples) => {
                for (row, mut samples) in part.zip(samples) {
                    out[row - rows.start].append(&samples.take(), |_| true);
                }
            }
            Err(_) if part.len() > 1 => {
                let middle = part.start + part.len() / 2;
                pending.extend([middle..part.end, part.start..middle]);
            }
            Err(error) => {
                let what = format_args!("{} from {} to {} ms", set.labels(part.start), window.start_ms(), window.end_ms()).to_string();
                readable::<()>(Err(error), saved, what)?;
            }
        }
    }
    Ok(())
}

fn read_all(run: &mut dyn SeriesRun, rows: Range<usize>, range: TimeRange) -> isobar_block::Result<Vec<Gathered>> {
    let mut buf = SampleBuf::default();
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        run.read(row, &mut buf)?;
        let mut samples = Gathered::default();
        samples.append(&buf, |t| range.contains(t));
        out.push(samples);
    }
    Ok(out)
}
