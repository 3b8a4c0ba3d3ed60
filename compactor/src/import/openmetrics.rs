//! Imports OpenMetrics text, and the text format of Prometheus with timestamps.
//!
//! The text is read once, so that it may come from a pipe, and sorted by spans of two hours in memory or, beyond that, in files.
//! Only when all of it was read and found to be right are blocks written. Reading blocks the thread.

mod line;
mod spans;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use hashbrown::HashMap;
use isobar_block::{BlockStore, Labels, Metadata, MetricType};
use md5::{Digest, Md5};

use self::line::Line;
use self::spans::Spans;
use crate::import::output::Output;
use crate::import::record::{self, ImportId};
use crate::import::{ImportConfig, Imported};
use crate::transfer::{OnProgress, Progress};
use crate::{Error, Result};

/// Longest line that is read.
const MAX_LINE_BYTES: usize = 1 << 20;
/// Families whose type, help and unit are remembered.
const MAX_FAMILIES: usize = 1 << 20;
/// Lines between two reports of progress.
const PROGRESS_LINES: u64 = 8192;
/// A part of the memory is for blocks that are written; the rest, one in so many, is for samples.
const SPANS_SHARE: u64 = 2;
/// Endings of series names that are not part of the family's name.
const SUFFIXES: [&str; 7] = ["_bucket", "_count", "_sum", "_total", "_info", "_gcount", "_gsum"];
/// Ending of the series that say when a counter began.
const CREATED: &str = "_created";

/// The two text formats: they count time in different units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// OpenMetrics: timestamps in seconds, `# EOF` at the end.
    OpenMetrics,
    /// Prometheus: timestamps in milliseconds.
    Prometheus,
}

/// A text to import.
pub struct Text<'a> {
    /// Where it is read.
    pub reader: Box<dyn Read + Send + 'a>,
    /// How people call it.
    pub name: String,
    /// Its size, if that is known.
    pub size_bytes: Option<u64>,
    /// How it is written.
    pub flavour: Flavour,
}

/// Imports a text, unless the same text was imported before. What does not fit into the memory goes to files below `scratch`
/// for as long as this runs.
///
/// # Errors
/// [`Error::File`] with the line if the text is wrong, or incomplete; nothing is imported then. [`Error::Block`] if the store
/// or the disk fails.
pub async fn import(
    blocks: &BlockStore,
    text: Text<'_>,
    scratch: &Path,
    config: &ImportConfig,
    on_progress: OnProgress<'_>,
) -> Result<Imported> {
    let mut spans = Spans::new(scratch, config.memory_bytes / SPANS_SHARE);
    let mut progress = Progress { what: text.name.clone(), done: 0, total: text.size_bytes, unit: "bytes" };
    let name = text.name.clone();
    let mut reading = Reading::new(text, &config.labels);
    loop {
        let more = reading.lines(PROGRESS_LINES, &mut spans)?;
        progress.done = reading.bytes;
        on_progress(&progress);
        if !more {
            break;
        }
        tokio::task::yield_now().await;
    }
    let id = ImportId::of_digest(reading.digest);
    if record::is_done(blocks, &config.tenant, id).await? {
        return Ok(Imported::Before);
    }
    let mut output = Output::new(blocks, &config.tenant, config.memory_bytes - config.memory_bytes / SPANS_SHARE, vec![id.as_block()]);
    progress = Progress { what: format!("writing {name}"), done: 0, total: Some(reading.samples), unit: "samples" };
    match write(&mut spans, &mut output, &mut progress, on_progress).await {
        Ok(()) => record::commit(output, id, &name).await,
        Err(error) => {
            output.discard().await;
            Err(error)
        }
    }
}

async fn write(spans: &mut Spans, output: &mut Output, progress: &mut Progress, on_progress: OnProgress<'_>) -> Result<()> {
    for span in spans.numbers() {
        let parts = spans.parts(span);
        for part in 0..parts {
            for (labels, mut series) in spans.read(span, part, parts)? {
                series.exemplars.sort_by_key(|e| e.timestamp_ms);
                let samples = series.samples.take();
                output.push(&labels, series.metadata.as_deref(), &samples, &series.exemplars).await?;
                progress.done += samples.len() as u64;
            }
            output.flush().await?;
            on_progress(progress);
        }
    }
    Ok(())
}

/// A text that is being read.
struct Reading<'a> {
    reader: BufReader<Box<dyn Read + Send + 'a>>,
    name: String,
    flavour: Flavour,
    added: &'a [(String, String)],
    families: HashMap<String, Arc<Metadata>>,
    digest: Md5,
    line: Vec<u8>,
    number: u64,
    bytes: u64,
    samples: u64,
    /// The text of the last series, and what it means: mostly that of the next line, too.
    last_text: String,
    last: Option<Known>,
}

/// What is known of a series.
#[derive(Clone)]
struct Known {
    labels: Labels,
    metadata: Option<Arc<Metadata>>,
    /// It says when a counter began.
    created: bool,
}

impl<'a> Reading<'a> {
    fn new(text: Text<'a>, added: &'a [(String, String)]) -> Self {
        let mut digest = Md5::new();
        added.iter().flat_map(|(n, v)| [n, v]).for_each(|part| {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        });
        digest.update([text.flavour as u8]);
        Self {
            reader: BufReader::with_capacity(1 << 20, text.reader),
            name: text.name,
            flavour: text.flavour,
            added,
            families: HashMap::new(),
            digest,
            line: Vec::new(),
            number: 0,
            bytes: 0,
            samples: 0,
            last_text: String::new(),
            last: None,
        }
    }

    fn wrong(&self, reason: impl std::fmt::Display) -> Error {
        Error::File { path: format!("{}: line {}", self.name, self.number), reason: reason.to_string() }
    }

    /// Reads some lines; `false` at the end of the text.
    fn lines(&mut self, number: u64, spans: &mut Spans) -> Result<bool> {
        for _ in 0..number {
            self.number += 1;
            let mut line = std::mem::take(&mut self.line);
            line.clear();
            let limit = MAX_LINE_BYTES as u64 + 1;
            let len = self.reader.by_ref().take(limit).read_until(b'\n', &mut line).map_err(|e| self.wrong(e))?;
            if len == 0 {
                if self.flavour == Flavour::OpenMetrics {
                    return Err(self.wrong("the text ends without \"# EOF\": it is not complete, or not OpenMetrics (text of Prometheus has timestamps in milliseconds and is imported with --prometheus-text)"));
                }
                return Ok(false);
            }
            if len > MAX_LINE_BYTES {
                return Err(self.wrong(format!("the line is longer than {MAX_LINE_BYTES} bytes")));
            }
            self.bytes += len as u64;
            self.digest.update(&line);
            let text = std::str::from_utf8(&line).map_err(|_| self.wrong("the line is not UTF-8"))?;
            let more = self.line(text.trim_end_matches('\n'), spans)?;
            self.line = line;
            if !more {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn line(&mut self, text: &str, spans: &mut Spans) -> Result<bool> {
        match line::parse(text, self.flavour).map_err(|reason| self.wrong(reason))? {
            Line::Nothing => {}
            Line::End => return Ok(false),
            Line::Help(family, help) => self.describe(family, |m| m.help = help),
            Line::Type(family, metric_type) => self.describe(family, |m| m.metric_type = metric_type),
            Line::Unit(family, unit) => self.describe(family, |m| m.unit = unit.to_owned()),
            Line::Sample(sample) => {
                if self.last.is_none() || self.last_text != sample.series {
                    self.last = Some(self.known(sample.series)?);
                    self.last_text.clear();
                    self.last_text.push_str(sample.series);
                }
                let known = self.last.as_ref().expect("it was set above");
                if !known.created {
                    spans.push(&known.labels, known.metadata.as_ref(), sample.timestamp_ms, sample.value, sample.exemplar)?;
                    self.samples += 1;
                }
            }
        }
        Ok(true)
    }

    fn describe(&mut self, family: &str, change: impl FnOnce(&mut Metadata)) {
        self.last = None;
        let known = self.families.get(family).cloned();
        if known.is_some() || self.families.len() < MAX_FAMILIES {
            let mut metadata = known.as_deref().cloned().unwrap_or_default();
            change(&mut metadata);
            self.families.insert(family.to_owned(), Arc::new(metadata));
        }
    }

    fn known(&self, series: &str) -> Result<Known> {
        let mut pairs = line::labels(series).map_err(|reason| self.wrong(reason))?;
        pairs.retain(|(name, _)| !self.added.iter().any(|(added, _)| added == name));
        pairs.extend(self.added.iter().cloned());
        let labels = Labels::from_pairs(pairs).map_err(|e| self.wrong(e))?;
        let name = labels.as_ref().metric_name();
        let family = |suffix: &str| self.families.get(name.strip_suffix(suffix)?);
        let metadata = self.families.get(name).or_else(|| SUFFIXES.iter().find_map(|s| family(s)));
        let counts = |m: &Arc<Metadata>| {
            matches!(m.metric_type, MetricType::Counter | MetricType::Histogram | MetricType::GaugeHistogram | MetricType::Summary)
        };
        let created = metadata.is_none() && family(CREATED).is_some_and(counts);
        Ok(Known { metadata: metadata.cloned(), created, labels: labels.clone() })
    }
}

#[cfg(test)]
mod tests;
