//! Remote write 2.0: `io.prometheus.write.v2.Request`, with its symbol table resolved to canonical label sets.
//!
//! Start timestamps are read in both of their places: per sample as the specification has them, and per series
//! (`created_timestamp`) as early senders do.

use hashbrown::HashMap;
use isobar_block::labels::{METRIC_NAME, push_label};
use isobar_block::{Exemplar, Histogram, Labels, Metadata, MetricType};
use smallvec::SmallVec;

use super::pool::with_scratch;
use super::proto::{Reader, bytes, fields, fixed64, varint};
use super::{Budget, DecodeError, histogram};
use crate::decoded::{DecodedRequest, DecodedSeries, LabelForm, RejectReason, Rejection, Sample, shorten};

const MESSAGE: &str = "io.prometheus.write.v2.Request";

/// References of one label set; most series have fewer than this many.
type Refs = SmallVec<[u32; 48]>;

/// Decodes the message in `request.label_bytes`, which afterwards holds canonical label sets.
///
/// # Errors
/// [`DecodeError`] if the bytes are not the message or the decoded form takes more than `max_decoded_bytes`.
pub fn decode(request: &mut DecodedRequest, max_decoded_bytes: usize) -> Result<(), DecodeError> {
    with_scratch(|scratch| {
        std::mem::swap(&mut request.label_bytes, scratch);
        let body = scratch.as_slice();
        let mut budget = Budget::new(max_decoded_bytes);
        let symbols = symbols(body, &mut budget)?;
        Decoder { request, budget, symbols, metadata: HashMap::new() }.decode(body)
    })
}

/// The symbol table; `None` stands for a symbol that is not UTF-8, which spoils only the series that use it.
fn symbols<'a>(body: &'a [u8], budget: &mut Budget) -> Result<Vec<Option<&'a str>>, DecodeError> {
    let mut r = Reader::new(body, MESSAGE);
    let mut symbols = Vec::new();
    while let Some(tag) = r.tag()? {
        match tag {
            t if t == bytes(4) => {
                budget.spend(size_of::<Option<&str>>())?;
                symbols.push(std::str::from_utf8(r.bytes()?).ok());
            }
            t if t == bytes(5) => drop(r.bytes()?),
            t if t == bytes(1) || t == bytes(3) => {
                return Err(r.error("it looks like prometheus.WriteRequest; set proto=prometheus.WriteRequest in the content type"));
            }
            other => r.skip(other, fields(&[4, 5]))?,
        }
    }
    match symbols.first() {
        Some(Some("")) => Ok(symbols),
        None if body.is_empty() => Ok(symbols),
        None => Err(r.error("the symbol table is empty")),
        Some(_) => Err(r.error("the first symbol is not the empty string")),
    }
}

struct Decoder<'r, 'a> {
    request: &'r mut DecodedRequest,
    budget: Budget,
    symbols: Vec<Option<&'a str>>,
    /// Metadata of this request by (metric name, type, help, unit) as references, so that it is kept once per family.
    metadata: HashMap<(u32, u32, u32, u32), u32>,
}

/// Metadata of one series as sent.
#[derive(Clone, Copy)]
struct MetadataRefs {
    type_number: u32,
    help: u32,
    unit: u32,
}

/// Lengths of the vectors of a request, to go back to when a series is refused.
#[derive(Clone, Copy)]
struct Mark {
    samples: usize,
    histograms: usize,
    exemplars: usize,
    rejected: usize,
}

impl Decoder<'_, '_> {
    fn decode(mut self, body: &[u8]) -> Result<(), DecodeError> {
        let mut r = Reader::new(body, MESSAGE);
        while let Some(tag) = r.tag()? {
            match tag {
                t if t == bytes(5) => self.series(r.message()?)?,
                t if t == bytes(4) => drop(r.bytes()?),
                other => r.skip(other, fields(&[4, 5]))?,
            }
        }
        if u32::try_from(self.request.label_bytes.len()).is_err() {
            return Err(r.error("its labels take more than 4 GiB"));
        }
        Ok(())
    }

    fn series(&mut self, mut r: Reader<'_>) -> Result<(), DecodeError> {
        let mark = self.mark();
        let labels_start = self.request.label_bytes.len();
        let mut label_refs = Refs::new();
        let mut metadata = None;
        let mut created_ms = 0;
        while let Some(tag) = r.tag()? {
            match tag {
                t if t == bytes(1) || t == varint(1) => refs(&mut r, t == bytes(1), &mut label_refs, &mut self.budget)?,
                t if t == bytes(2) => {
                    self.budget.spend(size_of::<Sample>())?;
                    let (sample, start_ms) = sample(r.message()?)?;
                    self.request.samples.push(sample);
                    created_ms = created_ms.max(start_ms);
                }
                t if t == bytes(3) => {
                    let decoded = histogram::decode(r.message()?, &mut self.budget)?;
                    created_ms = created_ms.max(decoded.start_ms);
                    self.keep_histogram(decoded.timestamp_ms, decoded.histogram)?;
                }
                t if t == bytes(4) => self.exemplar(r.message()?)?,
                t if t == bytes(5) => metadata = Some(metadata_refs(r.message()?)?),
                t if t == varint(6) => created_ms = created_ms.max(r.varint()? as i64),
                other => r.skip(other, fields(&[1, 2, 3, 4, 5, 6]))?,
            }
        }
        let name_ref = match self.labels(&label_refs) {
            Ok(name_ref) => name_ref,
            Err(Refused::Decode(e)) => return Err(e),
            Err(Refused::Series(reason)) => return self.refuse(mark, labels_start, &label_refs, reason),
        };
        let has_samples = self.request.samples.len() > mark.samples;
        let has_histograms = self.request.histograms.len() > mark.histograms
            || self.request.rejected[mark.rejected..].iter().any(|r| !r.reason.is_exemplar());
        if has_samples == has_histograms {
            return self.refuse(mark, labels_start, &label_refs, RejectReason::MixedOrNoSamples);
        }
        self.name_rejections(mark, &label_refs)?;
        let metadata = metadata.map(|m| self.metadata(name_ref, m)).transpose()?.flatten();
        self.budget.spend(size_of::<DecodedSeries>())?;
        let request = &mut *self.request;
        request.series.push(DecodedSeries {
            labels: labels_start as u32..request.label_bytes.len() as u32,
            form: LabelForm::Canonical,
            samples: mark.samples as u32..request.samples.len() as u32,
            histograms: mark.histograms as u32..request.histograms.len() as u32,
            exemplars: mark.exemplars as u32..request.exemplars.len() as u32,
            metadata,
            created_ms,
        });
        Ok(())
    }

    fn mark(&self) -> Mark {
        let r = &self.request;
        Mark { samples: r.samples.len(), histograms: r.histograms.len(), exemplars: r.exemplars.len(), rejected: r.rejected.len() }
    }

    /// Appends the canonical labels to `label_bytes` and returns the reference of the metric's name.
    fn labels(&mut self, label_refs: &[u32]) -> Result<u32, Refused> {
        let (pairs, odd) = label_refs.as_chunks::<2>();
        if !odd.is_empty() {
            return Err(Refused::refs(format!("{} references are not pairs", label_refs.len())));
        }
        let labels_start = self.request.label_bytes.len();
        let mut name_ref = None;
        let mut previous = "";
        for &[name_at, value_at] in pairs {
            let (name, value) = (symbol(&self.symbols, name_at)?, symbol(&self.symbols, value_at)?);
            if name <= previous {
                return self.unsorted_labels(pairs, labels_start);
            }
            previous = name;
            if name == METRIC_NAME && !value.is_empty() {
                name_ref = Some(value_at);
            }
            self.budget.spend(name.len() + value.len() + 2).map_err(Refused::Decode)?;
            push_label(&mut self.request.label_bytes, name, value);
        }
        name_ref.ok_or(Refused::Series(RejectReason::MissingMetricName))
    }

    /// Labels that do not ascend. The specification forbids them, but what they mean is clear unless a name repeats.
    #[cold]
    fn unsorted_labels(&mut self, pairs: &[[u32; 2]], labels_start: usize) -> Result<u32, Refused> {
        let mut resolved = Vec::with_capacity(pairs.len());
        let mut name_ref = None;
        for &[name_at, value_at] in pairs {
            let (name, value) = (symbol(&self.symbols, name_at)?, symbol(&self.symbols, value_at)?);
            if name.is_empty() {
                return Err(Refused::Series(RejectReason::EmptyLabelName));
            }
            if name == METRIC_NAME && !value.is_empty() {
                name_ref = Some(value_at);
            }
            self.budget.spend(name.len() + value.len() + 2).map_err(Refused::Decode)?;
            resolved.push((name, value));
        }
        resolved.sort_unstable();
        if let Some(twice) = resolved.windows(2).find(|w| w[0].0 == w[1].0) {
            return Err(Refused::Series(RejectReason::DuplicateLabel { name: shorten(twice[0].0) }));
        }
        self.request.label_bytes.truncate(labels_start);
        resolved.iter().for_each(|(name, value)| push_label(&mut self.request.label_bytes, name, value));
        name_ref.ok_or(Refused::Series(RejectReason::MissingMetricName))
    }

    /// Takes back what a series has added and notes why.
    #[cold]
    fn refuse(&mut self, mark: Mark, labels_start: usize, label_refs: &[u32], reason: RejectReason) -> Result<(), DecodeError> {
        let name = self.describe(label_refs);
        self.budget.spend(size_of::<Rejection>() + name.len())?;
        let request = &mut *self.request;
        let broken = request.rejected[mark.rejected..].iter().filter(|r| !r.reason.is_exemplar()).count();
        let lost = request.samples.len() - mark.samples + request.histograms.len() - mark.histograms + broken;
        request.samples.truncate(mark.samples);
        request.histograms.truncate(mark.histograms);
        request.exemplars.truncate(mark.exemplars);
        request.rejected.truncate(mark.rejected);
        request.label_bytes.truncate(labels_start);
        request.rejected.push(Rejection { series: name, reason, count: lost.max(1) as u64 });
        Ok(())
    }

    /// Gives the rejections of parts of a series its name.
    fn name_rejections(&mut self, mark: Mark, label_refs: &[u32]) -> Result<(), DecodeError> {
        if self.request.rejected.len() > mark.rejected {
            let name = self.describe(label_refs);
            for rejection in &mut self.request.rejected[mark.rejected..] {
                self.budget.spend(name.len())?;
                rejection.series.clone_from(&name);
            }
        }
        Ok(())
    }

    /// Labels that may be invalid, for a message: what can be read of them.
    fn describe(&self, label_refs: &[u32]) -> String {
        const MAX_LABELS: usize = 20;
        let text = |at: u32| symbol(&self.symbols, at).map_or_else(|_| format!("<symbol {at}>"), shorten);
        let pairs = label_refs.chunks(2).take(MAX_LABELS).map(|pair| match *pair {
            [name, value] => format!("{}={:?}", text(name), text(value)),
            _ => text(pair[0]),
        });
        shorten(&format!("{{{}}}", pairs.collect::<Vec<_>>().join(", ")))
    }

    fn keep_histogram(&mut self, timestamp_ms: i64, histogram: Result<Histogram, String>) -> Result<(), DecodeError> {
        match histogram {
            Ok(histogram) => self.request.histograms.push((timestamp_ms, histogram)),
            Err(rule) => self.reject_part(RejectReason::InvalidHistogram { timestamp_ms, rule })?,
        }
        Ok(())
    }

    fn reject_part(&mut self, reason: RejectReason) -> Result<(), DecodeError> {
        self.budget.spend(size_of::<Rejection>())?;
        self.request.rejected.push(Rejection { series: String::new(), reason, count: 1 });
        Ok(())
    }

    fn exemplar(&mut self, mut r: Reader<'_>) -> Result<(), DecodeError> {
        let mut label_refs = Refs::new();
        let (mut value, mut timestamp_ms) = (0.0, 0);
        while let Some(tag) = r.tag()? {
            match tag {
                t if t == bytes(1) || t == varint(1) => refs(&mut r, t == bytes(1), &mut label_refs, &mut self.budget)?,
                t if t == fixed64(2) => value = r.double()?,
                t if t == varint(3) => timestamp_ms = r.varint()? as i64,
                other => r.skip(other, fields(&[1, 2, 3]))?,
            }
        }
        match self.exemplar_labels(&label_refs)? {
            Ok(labels) => {
                self.budget.spend(size_of::<Exemplar>() + labels.as_bytes().len())?;
                self.request.exemplars.push(Exemplar { labels, value, timestamp_ms });
                Ok(())
            }
            Err(rule) => self.reject_part(RejectReason::InvalidExemplar { timestamp_ms, rule }),
        }
    }

    fn exemplar_labels(&mut self, label_refs: &[u32]) -> Result<Result<Labels, String>, DecodeError> {
        let (pairs, odd) = label_refs.as_chunks::<2>();
        if !odd.is_empty() {
            return Ok(Err(format!("{} references are not pairs", label_refs.len())));
        }
        let mut resolved: SmallVec<[(&str, &str); 8]> = SmallVec::new();
        for &[name, value] in pairs {
            match (symbol(&self.symbols, name), symbol(&self.symbols, value)) {
                (Ok(name), Ok(value)) => {
                    self.budget.spend(name.len() + value.len())?;
                    resolved.push((name, value));
                }
                (Err(reason), _) | (_, Err(reason)) => return Ok(Err(reason.to_string())),
            }
        }
        Ok(Labels::from_pairs(resolved).map_err(|e| e.to_string()))
    }

    /// Index of the metadata of a series, `None` if it says nothing.
    fn metadata(&mut self, name_ref: u32, m: MetadataRefs) -> Result<Option<u32>, DecodeError> {
        let text = |at: u32| symbol(&self.symbols, at).unwrap_or_default();
        let (name, help, unit) = (text(name_ref), text(m.help), text(m.unit));
        let metric_type = MetricType::from_number(m.type_number as i32);
        if metric_type == MetricType::Unknown && help.is_empty() && unit.is_empty() {
            return Ok(None);
        }
        let key = (name_ref, m.type_number, m.help, m.unit);
        if let Some(index) = self.metadata.get(&key) {
            return Ok(Some(*index));
        }
        let family = family(name, metric_type);
        self.budget.spend(2 * size_of::<(String, Metadata)>() + family.len() + help.len() + unit.len())?;
        let index = self.request.metadata.len() as u32;
        self.request.metadata.push((family.to_owned(), Metadata { metric_type, help: help.to_owned(), unit: unit.to_owned() }));
        self.metadata.insert(key, index);
        Ok(Some(index))
    }
}

/// The metric family of a series: the series of classic histograms and summaries carry suffixes that the family does not.
pub(crate) fn family(name: &str, metric_type: MetricType) -> &str {
    let suffixes: &[&str] = match metric_type {
        MetricType::Histogram | MetricType::GaugeHistogram => &["_bucket", "_count", "_sum"],
        MetricType::Summary => &["_count", "_sum"],
        _ => &[],
    };
    suffixes.iter().find_map(|s| name.strip_suffix(s)).filter(|family| !family.is_empty()).unwrap_or(name)
}

/// Why the labels of a series could not be resolved.
enum Refused {
    Series(RejectReason),
    Decode(DecodeError),
}

impl Refused {
    fn refs(rule: String) -> Self {
        Self::Series(RejectReason::InvalidSymbolRefs { rule })
    }
}

impl From<RejectReason> for Refused {
    fn from(reason: RejectReason) -> Self {
        Self::Series(reason)
    }
}

#[inline]
fn symbol<'a>(symbols: &[Option<&'a str>], at: u32) -> Result<&'a str, RejectReason> {
    match symbols.get(at as usize) {
        Some(Some(symbol)) => Ok(symbol),
        Some(None) => Err(RejectReason::InvalidUtf8),
        None => Err(RejectReason::InvalidSymbolRefs { rule: format!("symbol {at} of {}", symbols.len()) }),
    }
}

fn refs(r: &mut Reader<'_>, packed: bool, out: &mut Refs, budget: &mut Budget) -> Result<(), DecodeError> {
    let number = |r: &mut Reader<'_>| r.varint().and_then(|n| u32::try_from(n).map_err(|_| r.error("a symbol reference is too large")));
    if !packed {
        budget.spend(size_of::<u32>())?;
        out.push(number(r)?);
        return Ok(());
    }
    let mut packed = r.message()?;
    while !packed.is_at_end() {
        out.push(number(&mut packed)?);
    }
    budget.spend(out.len() * size_of::<u32>())
}

#[inline]
fn sample(mut r: Reader<'_>) -> Result<(Sample, i64), DecodeError> {
    let mut sample = Sample { timestamp_ms: 0, value: 0.0 };
    let mut start_ms = 0;
    while let Some(tag) = r.tag()? {
        match tag {
            t if t == fixed64(1) => sample.value = r.double()?,
            t if t == varint(2) => sample.timestamp_ms = r.varint()? as i64,
            t if t == varint(3) => start_ms = r.varint()? as i64,
            other => r.skip(other, fields(&[1, 2, 3]))?,
        }
    }
    Ok((sample, start_ms))
}

fn metadata_refs(mut r: Reader<'_>) -> Result<MetadataRefs, DecodeError> {
    let mut m = MetadataRefs { type_number: 0, help: 0, unit: 0 };
    while let Some(tag) = r.tag()? {
        match tag {
            t if t == varint(1) => m.type_number = r.varint()? as u32,
            t if t == varint(3) => m.help = r.varint()? as u32,
            t if t == varint(4) => m.unit = r.varint()? as u32,
            other => r.skip(other, fields(&[1, 3, 4]))?,
        }
    }
    Ok(m)
}
