//! Remote write 1.0: `prometheus.WriteRequest`.
//!
//! Label fields are not read here: a series refers to them as they lie in the body. [`canonicalize`] reads them when the
//! head does not know the bytes yet.

use isobar_block::labels::METRIC_NAME;
use isobar_block::{Exemplar, Labels, Metadata, MetricType};
use smallvec::SmallVec;

use super::proto::{Reader, bytes, fields, fixed64, varint};
use super::{Budget, DecodeError, histogram};
use crate::decoded::{DecodedRequest, DecodedSeries, LabelForm, RejectReason, Rejection, Sample, shorten};

const MESSAGE: &str = "prometheus.WriteRequest";

/// Label pairs of a series; most have fewer than this many.
type Pairs<'a> = SmallVec<[(&'a str, &'a str); 24]>;

/// Decodes the message in `request.label_bytes`, which stays there since the series refer to it.
///
/// # Errors
/// [`DecodeError`] if the bytes are not the message or the decoded form takes more than `max_decoded_bytes`.
pub fn decode(request: &mut DecodedRequest, max_decoded_bytes: usize) -> Result<(), DecodeError> {
    let body = std::mem::take(&mut request.label_bytes);
    let mut decoder = Decoder { budget: Budget::new(max_decoded_bytes), body_len: body.len(), spilled: Vec::new(), request };
    let result = decoder.decode(&body);
    let spilled = decoder.spilled;
    request.label_bytes = body;
    request.label_bytes.extend_from_slice(&spilled);
    result
}

struct Decoder<'r> {
    request: &'r mut DecodedRequest,
    budget: Budget,
    body_len: usize,
    /// Label fields that do not lie side by side in the body, copied together; they go behind it.
    spilled: Vec<u8>,
}

impl Decoder<'_> {
    fn decode(&mut self, body: &[u8]) -> Result<(), DecodeError> {
        let mut r = Reader::new(body, MESSAGE);
        if u32::try_from(body.len()).is_err() {
            return Err(r.error("it is longer than 4 GiB"));
        }
        while let Some(tag) = r.tag()? {
            match tag {
                t if t == bytes(1) => self.series(body, r.message()?)?,
                t if t == bytes(3) => self.metadata(r.message()?)?,
                t if t == bytes(4) || t == bytes(5) => {
                    return Err(r.error(
                        "it looks like io.prometheus.write.v2.Request; set proto=io.prometheus.write.v2.Request in the content type",
                    ));
                }
                other => r.skip(other, fields(&[1, 3]))?,
            }
        }
        Ok(())
    }

    #[inline]
    fn series(&mut self, body: &[u8], mut r: Reader<'_>) -> Result<(), DecodeError> {
        let first_sample = self.request.samples.len() as u32;
        let first_histogram = self.request.histograms.len() as u32;
        let first_exemplar = self.request.exemplars.len() as u32;
        let first_rejection = self.request.rejected.len();
        let labels_start = r.position();
        while r.next_is(bytes(1) as u8) {
            r.bytes()?;
        }
        let mut labels = labels_start..r.position();
        while let Some(tag) = r.tag()? {
            match tag {
                t if t == bytes(1) => {
                    let field = r.bytes()?;
                    labels = self.spill(body, labels, field, r.position())?;
                }
                t if t == bytes(2) => {
                    self.budget.spend(size_of::<Sample>())?;
                    self.request.samples.push(sample(r.message()?)?);
                }
                t if t == bytes(3) => self.exemplar(r.message()?)?,
                t if t == bytes(4) => self.histogram(r.message()?)?,
                other => r.skip(other, fields(&[1, 2, 3, 4]))?,
            }
        }
        if self.request.rejected.len() > first_rejection {
            let name = describe_labels(self.label_bytes(body, &labels));
            self.budget.spend(name.len())?;
            self.request.rejected[first_rejection..].iter_mut().for_each(|r| r.series.clone_from(&name));
        }
        let series = DecodedSeries {
            labels: labels.start as u32..labels.end as u32,
            form: LabelForm::Wire,
            samples: first_sample..self.request.samples.len() as u32,
            histograms: first_histogram..self.request.histograms.len() as u32,
            exemplars: first_exemplar..self.request.exemplars.len() as u32,
            metadata: None,
            created_ms: 0,
        };
        if series.samples.is_empty() && series.histograms.is_empty() && series.exemplars.is_empty() {
            return Ok(());
        }
        self.budget.spend(size_of::<DecodedSeries>())?;
        self.request.series.push(series);
        Ok(())
    }

    fn label_bytes<'a>(&'a self, body: &'a [u8], range: &std::ops::Range<usize>) -> &'a [u8] {
        match range.start.checked_sub(self.body_len) {
            Some(start) if !range.is_empty() => &self.spilled[start..range.end - self.body_len],
            _ => &body[range.clone()],
        }
    }

    /// Label fields that other fields lie between, which protobuf allows: copies all of them to one place.
    fn spill(
        &mut self,
        body: &[u8],
        so_far: std::ops::Range<usize>,
        field: &[u8],
        field_end: usize,
    ) -> Result<std::ops::Range<usize>, DecodeError> {
        // The prefix of the field is copied from the body: its tag is one byte, its length at least one.
        let mut prefix = vec![bytes(1) as u8];
        let mut len = field.len();
        while len >= 0x80 {
            prefix.push(len as u8 | 0x80);
            len >>= 7;
        }
        prefix.push(len as u8);
        debug_assert!(field_end <= body.len());
        let is_last_spilled = so_far.end == self.body_len + self.spilled.len() && so_far.start >= self.body_len;
        let start = if is_last_spilled {
            so_far.start
        } else {
            self.budget.spend(so_far.len())?;
            let copy = body[so_far].to_vec();
            self.spilled.extend_from_slice(&copy);
            self.body_len + self.spilled.len() - copy.len()
        };
        self.budget.spend(prefix.len() + field.len())?;
        self.spilled.extend_from_slice(&prefix);
        self.spilled.extend_from_slice(field);
        Ok(start..self.body_len + self.spilled.len())
    }

    fn histogram(&mut self, r: Reader<'_>) -> Result<(), DecodeError> {
        let decoded = histogram::decode(r, &mut self.budget)?;
        match decoded.histogram {
            Ok(histogram) => self.request.histograms.push((decoded.timestamp_ms, histogram)),
            Err(rule) => self.reject(RejectReason::InvalidHistogram { timestamp_ms: decoded.timestamp_ms, rule })?,
        }
        Ok(())
    }

    fn exemplar(&mut self, mut r: Reader<'_>) -> Result<(), DecodeError> {
        let start = r.position();
        let mut pairs = Pairs::new();
        let (mut value, mut timestamp_ms) = (0.0, 0);
        let mut problem = None;
        while let Some(tag) = r.tag()? {
            match tag {
                t if t == bytes(1) => match label(r.message()?)? {
                    Ok(pair) => pairs.push(pair),
                    Err(reason) => problem = Some(reason.to_string()),
                },
                t if t == fixed64(2) => value = r.double()?,
                t if t == varint(3) => timestamp_ms = r.varint()? as i64,
                other => r.skip(other, fields(&[1, 2, 3]))?,
            }
        }
        let labels = match problem {
            None => Labels::from_pairs(pairs).map_err(|e| e.to_string()),
            Some(problem) => Err(problem),
        };
        self.budget.spend(size_of::<Exemplar>() + r.position() - start)?;
        match labels {
            Ok(labels) => self.request.exemplars.push(Exemplar { labels, value, timestamp_ms }),
            Err(rule) => self.reject(RejectReason::InvalidExemplar { timestamp_ms, rule })?,
        }
        Ok(())
    }

    /// Refuses one element; the name of the series is filled in at its end, when all its labels are known.
    fn reject(&mut self, reason: RejectReason) -> Result<(), DecodeError> {
        self.budget.spend(size_of::<Rejection>())?;
        self.request.rejected.push(Rejection { series: String::new(), reason, count: 1 });
        Ok(())
    }

    fn metadata(&mut self, mut r: Reader<'_>) -> Result<(), DecodeError> {
        let start = r.position();
        let (mut name, mut help, mut unit, mut number) = (&[][..], &[][..], &[][..], 0);
        while let Some(tag) = r.tag()? {
            match tag {
                t if t == varint(1) => number = r.varint()?,
                t if t == bytes(2) => name = r.bytes()?,
                t if t == bytes(4) => help = r.bytes()?,
                t if t == bytes(5) => unit = r.bytes()?,
                other => r.skip(other, fields(&[1, 2, 4, 5]))?,
            }
        }
        self.budget.spend(size_of::<(String, Metadata)>() + r.position() - start)?;
        // Metadata says nothing about samples, so that bytes which are not UTF-8 are replaced, not refused.
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let metric_type = MetricType::from_number(i32::try_from(number).unwrap_or_default());
        if !name.is_empty() {
            self.request.metadata.push((text(name), Metadata { metric_type, help: text(help), unit: text(unit) }));
        }
        Ok(())
    }
}

#[inline]
fn sample(mut r: Reader<'_>) -> Result<Sample, DecodeError> {
    let mut sample = Sample { timestamp_ms: 0, value: 0.0 };
    while let Some(tag) = r.tag()? {
        match tag {
            t if t == fixed64(1) => sample.value = r.double()?,
            t if t == varint(2) => sample.timestamp_ms = r.varint()? as i64,
            other => r.skip(other, fields(&[1, 2]))?,
        }
    }
    Ok(sample)
}

/// One `Label` message. The inner error is about this label, the outer one about the body.
fn label<'a>(mut r: Reader<'a>) -> Result<Result<(&'a str, &'a str), RejectReason>, DecodeError> {
    let (mut name, mut value) = (&[][..], &[][..]);
    while let Some(tag) = r.tag()? {
        match tag {
            t if t == bytes(1) => name = r.bytes()?,
            t if t == bytes(2) => value = r.bytes()?,
            other => r.skip(other, fields(&[1, 2]))?,
        }
    }
    Ok(match (std::str::from_utf8(name), std::str::from_utf8(value)) {
        (Ok(""), Ok(_)) => Err(RejectReason::EmptyLabelName),
        (Ok(name), Ok(value)) => Ok((name, value)),
        _ => Err(RejectReason::InvalidUtf8),
    })
}

fn pairs(bytes_of_labels: &[u8]) -> Result<Pairs<'_>, RejectReason> {
    let unreadable = |e: DecodeError| RejectReason::InvalidLabels { rule: e.to_string() };
    let mut r = Reader::new(bytes_of_labels, "prometheus.Label");
    let mut pairs = Pairs::new();
    while let Some(tag) = r.tag().map_err(unreadable)? {
        if tag != bytes(1) {
            return Err(RejectReason::InvalidLabels { rule: format!("tag {tag} instead of a label") });
        }
        pairs.push(r.message().and_then(label).map_err(unreadable)??);
    }
    Ok(pairs)
}

/// See [`crate::decoded::canonicalize_wire`].
pub(crate) fn canonicalize(bytes_of_labels: &[u8]) -> Result<Labels, RejectReason> {
    let mut pairs = pairs(bytes_of_labels)?;
    if !pairs.iter().any(|(name, value)| *name == METRIC_NAME && !value.is_empty()) {
        return Err(RejectReason::MissingMetricName);
    }
    if !pairs.is_sorted_by(|a, b| a.0 < b.0) {
        pairs.sort_unstable_by_key(|(name, _)| *name);
        if let Some(twice) = pairs.windows(2).find(|w| w[0].0 == w[1].0) {
            return Err(RejectReason::DuplicateLabel { name: shorten(twice[0].0) });
        }
    }
    Labels::from_pairs(pairs).map_err(|e| RejectReason::InvalidLabels { rule: e.to_string() })
}

/// Labels that may be invalid, for a message: what can be read of them.
pub(crate) fn describe_labels(bytes_of_labels: &[u8]) -> String {
    const MAX_LABELS: usize = 20;
    let mut r = Reader::new(bytes_of_labels, "prometheus.Label");
    let mut text = String::from("{");
    for i in 0..MAX_LABELS {
        let Ok(Some(_)) = r.tag() else { break };
        let Ok(mut field) = r.message() else { break };
        let mut parts = [&[][..], &[]];
        while let Ok(Some(tag)) = field.tag() {
            match field.bytes() {
                Ok(part) if tag == bytes(1) => parts[0] = part,
                Ok(part) if tag == bytes(2) => parts[1] = part,
                _ => break,
            }
        }
        let [name, value] = parts.map(|p| String::from_utf8_lossy(&p[..p.len().min(200)]).into_owned());
        text.push_str(&format!("{}{name}={value:?}", if i == 0 { "" } else { ", " }));
    }
    text.push('}');
    shorten(&text)
}
