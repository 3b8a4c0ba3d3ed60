//! Samples sorted by span: in memory, and what does not fit there in a file for each span.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::hash::BuildHasher;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashMap};
use isobar_block::{Exemplar, Labels, Metadata, MetricType};
use tempfile::TempDir;

use crate::import::output::SPAN_MS;
use crate::transfer::Gathered;
use crate::{Error, Result};

/// What a series takes in memory beside its labels and samples.
const SERIES_BYTES: u64 = 256;
/// What a sample takes, in vectors that have grown.
const SAMPLE_BYTES: u64 = 24;
/// What is read of a spilled file takes so many times its size in memory.
const LOADED_FACTOR: u64 = 2;

/// What one series has in one span.
#[derive(Default)]
pub(super) struct Part {
    pub metadata: Option<Arc<Metadata>>,
    pub samples: Gathered,
    pub exemplars: Vec<Exemplar>,
}

type Series = HashMap<Labels, Part>;

/// Samples of all spans.
pub(super) struct Spans {
    scratch: PathBuf,
    memory_bytes: u64,
    bytes: u64,
    spans: BTreeMap<i64, Series>,
    /// Made when it is needed; removes itself.
    folder: Option<TempDir>,
    /// Size of the file of each span that has one.
    files: BTreeMap<i64, u64>,
    hasher: DefaultHashBuilder,
}

impl Spans {
    /// Nothing, with files below `scratch` for what exceeds the memory.
    pub fn new(scratch: &Path, memory_bytes: u64) -> Self {
        let (spans, files) = (BTreeMap::new(), BTreeMap::new());
        Self { scratch: scratch.to_owned(), memory_bytes, bytes: 0, spans, folder: None, files, hasher: DefaultHashBuilder::default() }
    }

    /// Adds a sample.
    pub fn push(
        &mut self,
        labels: &Labels,
        metadata: Option<&Arc<Metadata>>,
        t_ms: i64,
        value: f64,
        exemplar: Option<Exemplar>,
    ) -> Result<()> {
        let span = t_ms.div_euclid(SPAN_MS);
        let series = self.spans.entry(span).or_default();
        let part = match series.get_mut(labels) {
            Some(part) => part,
            None => {
                self.bytes += SERIES_BYTES + labels.as_bytes().len() as u64;
                series.entry(labels.clone()).or_default()
            }
        };
        part.samples.push(t_ms, value);
        part.metadata = metadata.cloned().or(part.metadata.take());
        self.bytes += SAMPLE_BYTES;
        if let Some(exemplar) = exemplar {
            self.bytes += SERIES_BYTES + exemplar.labels.as_bytes().len() as u64;
            part.exemplars.push(exemplar);
        }
        if self.bytes > self.memory_bytes {
            self.spill()?;
        }
        Ok(())
    }

    /// Starts of all spans that have something, as numbers of spans.
    pub fn numbers(&self) -> Vec<i64> {
        let mut all: Vec<i64> = self.spans.keys().chain(self.files.keys()).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// In how many parts, each with other series, a span is to be read so that one fits into the memory.
    pub fn parts(&self, span: i64) -> u64 {
        self.files.get(&span).map_or(1, |bytes| bytes * LOADED_FACTOR / self.memory_bytes.max(1) + 1)
    }

    /// One of the parts of a span, ascending by labels.
    pub fn read(&mut self, span: i64, part: u64, parts: u64) -> Result<Vec<(Labels, Part)>> {
        let wanted = |hasher: &DefaultHashBuilder, labels: &Labels| hasher.hash_one(labels.as_bytes()) % parts == part;
        let mut series = Series::new();
        if self.files.contains_key(&span) {
            let path = self.path(span)?;
            let mut read = || -> io::Result<()> {
                let mut file = BufReader::with_capacity(1 << 20, File::open(&path)?);
                while let Some((labels, one)) = read_part(&mut file)? {
                    if wanted(&self.hasher, &labels) {
                        add(&mut series, labels, one);
                    }
                }
                Ok(())
            };
            read().map_err(|e| Error::Block(isobar_block::Error::io(&path, e)))?;
        }
        let in_memory = self.spans.get_mut(&span).into_iter().flat_map(|s| s.extract_if(|labels, _| wanted(&self.hasher, labels)));
        for (labels, one) in in_memory {
            add(&mut series, labels, one);
        }
        let mut sorted: Vec<(Labels, Part)> = series.into_iter().collect();
        sorted.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(sorted)
    }

    fn path(&mut self, span: i64) -> Result<PathBuf> {
        if self.folder.is_none() {
            let folder = tempfile::tempdir_in(&self.scratch).map_err(|e| Error::Block(isobar_block::Error::io(&self.scratch, e)))?;
            self.folder = Some(folder);
        }
        let folder = self.folder.as_ref().expect("it was made above");
        Ok(folder.path().join(span.to_string()))
    }

    /// Appends all that is in memory to files.
    fn spill(&mut self) -> Result<()> {
        for (span, series) in std::mem::take(&mut self.spans) {
            let path = self.path(span)?;
            let write = || -> io::Result<u64> {
                let mut file = BufWriter::with_capacity(1 << 18, OpenOptions::new().create(true).append(true).open(&path)?);
                for (labels, mut part) in series {
                    write_part(&mut file, &labels, &mut part)?;
                }
                file.into_inner().map_err(io::IntoInnerError::into_error)?.metadata().map(|m| m.len())
            };
            let size = write().map_err(|e| Error::Block(isobar_block::Error::io(&path, e)))?;
            self.files.insert(span, size);
        }
        self.bytes = 0;
        Ok(())
    }
}

fn add(series: &mut Series, labels: Labels, mut part: Part) {
    let known = series.entry(labels).or_default();
    known.samples.append(&part.samples.take(), |_| true);
    known.metadata = part.metadata.or(known.metadata.take());
    known.exemplars.append(&mut part.exemplars);
}

fn write_part(out: &mut impl Write, labels: &Labels, part: &mut Part) -> io::Result<()> {
    write_bytes(out, labels.as_bytes())?;
    let unknown = Metadata::default();
    let metadata = part.metadata.as_deref().unwrap_or(&unknown);
    out.write_all(&[u8::from(part.metadata.is_some()), metadata.metric_type as u8])?;
    write_bytes(out, metadata.help.as_bytes())?;
    write_bytes(out, metadata.unit.as_bytes())?;
    let samples = part.samples.take();
    out.write_all(&(samples.len() as u32).to_le_bytes())?;
    for (t, value) in samples.timestamps.iter().zip(&samples.values) {
        out.write_all(&t.to_le_bytes())?;
        out.write_all(&value.to_bits().to_le_bytes())?;
    }
    out.write_all(&(part.exemplars.len() as u32).to_le_bytes())?;
    for exemplar in &part.exemplars {
        write_bytes(out, exemplar.labels.as_bytes())?;
        out.write_all(&exemplar.timestamp_ms.to_le_bytes())?;
        out.write_all(&exemplar.value.to_bits().to_le_bytes())?;
    }
    Ok(())
}

fn write_bytes(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(&(bytes.len() as u32).to_le_bytes())?;
    out.write_all(bytes)
}

/// The next part; `None` at the end of the file.
fn read_part(file: &mut impl io::BufRead) -> io::Result<Option<(Labels, Part)>> {
    if file.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let labels = read_labels(file)?;
    let [known, metric_type] = read_array(file)?;
    let metadata = Metadata {
        metric_type: MetricType::from_number(i32::from(metric_type)),
        help: String::from_utf8(read_bytes(file)?).map_err(io::Error::other)?,
        unit: String::from_utf8(read_bytes(file)?).map_err(io::Error::other)?,
    };
    let mut part = Part { metadata: (known == 1).then(|| Arc::new(metadata)), ..Part::default() };
    for _ in 0..u32::from_le_bytes(read_array(file)?) {
        let t_ms = i64::from_le_bytes(read_array(file)?);
        part.samples.push(t_ms, f64::from_bits(u64::from_le_bytes(read_array(file)?)));
    }
    for _ in 0..u32::from_le_bytes(read_array(file)?) {
        let labels = read_labels(file)?;
        let timestamp_ms = i64::from_le_bytes(read_array(file)?);
        let value = f64::from_bits(u64::from_le_bytes(read_array(file)?));
        part.exemplars.push(Exemplar { labels, value, timestamp_ms });
    }
    Ok(Some((labels, part)))
}

fn read_labels(file: &mut impl Read) -> io::Result<Labels> {
    Labels::from_bytes(&read_bytes(file)?).map_err(io::Error::other)
}

fn read_bytes(file: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; u32::from_le_bytes(read_array(file)?) as usize];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_array<const N: usize>(file: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Little memory and much memory give the same.
    #[test]
    fn what_was_spilled_comes_back() {
        let scratch = tempfile::tempdir().expect("a folder");
        let (mut small, mut big) = (Spans::new(scratch.path(), 3000), Spans::new(scratch.path(), 1 << 30));
        let metadata = Arc::new(Metadata { metric_type: MetricType::Gauge, help: "h".into(), unit: String::new() });
        for i in 0..500i64 {
            let labels = Labels::from_pairs([("__name__", "m"), ("n", &(i % 7).to_string())]).expect("valid");
            let exemplar = (i % 50 == 0).then(|| Exemplar { labels: labels.clone(), value: 1.0, timestamp_ms: i });
            for spans in [&mut small, &mut big] {
                spans.push(&labels, Some(&metadata), (i % 3) * SPAN_MS + (499 - i), i as f64, exemplar.clone()).expect("pushed");
            }
        }
        assert_eq!(small.numbers(), [0, 1, 2]);
        assert!(big.files.is_empty());
        for span in 0..3 {
            let parts = small.parts(span);
            assert!(parts > 1);
            let mut got: Vec<_> = (0..parts).flat_map(|p| small.read(span, p, parts).expect("reads")).collect();
            got.sort_by(|a, b| a.0.cmp(&b.0));
            let expected = big.read(span, 0, 1).expect("reads");
            assert_eq!((got.len(), expected.len()), (7, 7));
            for ((l1, mut p1), (l2, mut p2)) in got.into_iter().zip(expected) {
                let (s1, s2) = (p1.samples.take(), p2.samples.take());
                assert_eq!((l1, p1.metadata, p1.exemplars), (l2, p2.metadata, p2.exemplars));
                assert_eq!((&s1.timestamps[..], s1.values), (&s2.timestamps[..], s2.values));
            }
        }
    }
}
