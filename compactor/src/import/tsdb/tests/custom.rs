//! Histograms with custom bounds and with float counts, which Prometheus 2.42 does not write: chunks encoded here after
//! `tsdb/docs/format/chunks.md`, in the place of a chunk in a block of the real one.

use isobar_block::Histogram;
use isobar_block::histogram::{CUSTOM_BUCKETS_SCHEMA, ResetHint, Span};
use isobar_block::stale_nan;

use super::super::chunk::decode;
use super::super::crc32c::crc32c;
use super::*;
use crate::transfer::Gathered;

/// Length of the header of a file of chunks.
const SEGMENT_HEADER_BYTES: usize = 8;

/// Bits from the most significant one of each byte on.
#[derive(Default)]
struct Bits(Vec<bool>);

/// A float that is written as what changed in its bits.
#[derive(Clone, Copy)]
struct Written {
    value: f64,
    /// Zeros at both ends of the last change that was written with its own.
    zeros: Option<(u32, u32)>,
}

impl Bits {
    fn push(&mut self, value: u64, n: u32) {
        (0..n).rev().for_each(|i| self.0.push(value >> i & 1 == 1));
    }

    /// A prefix of ones, and a zero unless it is the longest, then so many bits.
    fn varbit(&mut self, value: u64, fits: impl Fn(u32) -> bool) {
        let sizes = [3, 6, 9, 12, 18, 25, 56, 64];
        if value == 0 {
            return self.push(0, 1);
        }
        let class = sizes.iter().position(|n| fits(*n)).expect("64 bits hold everything");
        (0..=class).for_each(|_| self.push(1, 1));
        if class < 7 {
            self.push(0, 1);
        }
        self.push(value, sizes[class]);
    }

    fn int(&mut self, value: i64) {
        self.varbit(value as u64, |n| n == 64 || (-((1i64 << (n - 1)) - 1)..=1 << (n - 1)).contains(&value));
    }

    fn uint(&mut self, value: u64) {
        self.varbit(value, |n| n == 64 || value >> n == 0);
    }

    fn float(&mut self, value: f64) -> Written {
        self.push(value.to_bits(), 64);
        Written { value, zeros: None }
    }

    fn xor(&mut self, before: &mut Written, value: f64) {
        let change = value.to_bits() ^ before.value.to_bits();
        before.value = value;
        if change == 0 {
            return self.push(0, 1);
        }
        self.push(1, 1);
        let (leading, trailing) = (change.leading_zeros().min(31), change.trailing_zeros());
        match before.zeros.filter(|(l, t)| leading >= *l && trailing >= *t) {
            Some((leading, trailing)) => {
                self.push(0, 1);
                self.push(change >> trailing, 64 - leading - trailing);
            }
            None => {
                before.zeros = Some((leading, trailing));
                let significant = 64 - leading - trailing;
                self.push(1, 1);
                self.push(u64::from(leading), 5);
                self.push(u64::from(significant) % 64, 6);
                self.push(change >> trailing, significant);
            }
        }
    }

    fn layout(&mut self, histogram: &Histogram) {
        self.push(0, 8);
        match histogram.zero_threshold {
            0.0 => self.push(0, 8),
            // All that is needed here are powers of two.
            threshold => self.push((threshold.log2() + 244.0) as u64, 8),
        }
        self.int(i64::from(histogram.schema));
        for spans in [&histogram.positive_spans, &histogram.negative_spans] {
            self.uint(spans.len() as u64);
            for span in spans {
                self.uint(u64::from(span.length));
                self.int(i64::from(span.offset));
            }
        }
        if histogram.schema == CUSTOM_BUCKETS_SCHEMA {
            self.uint(histogram.custom_bounds.len() as u64);
            for bound in &histogram.custom_bounds {
                let thousandths = bound * 1000.0;
                if (0.0..=33_554_430.0).contains(&thousandths) && thousandths.round() / 1000.0 == *bound {
                    self.uint(thousandths.round() as u64 + 1);
                } else {
                    self.push(0, 1);
                    self.push(bound.to_bits(), 64);
                }
            }
        }
    }

    fn into_bytes(self) -> Vec<u8> {
        self.0.chunks(8).map(|c| c.iter().enumerate().fold(0, |byte, (i, bit)| byte | u8::from(*bit) << (7 - i))).collect()
    }
}

/// Differences of neighbours, as integer histograms have their buckets.
fn deltas(counts: &[u64]) -> Vec<i64> {
    counts.iter().scan(0, |before, c| Some(*c as i64 - std::mem::replace(before, *c as i64))).collect()
}

/// A chunk of histograms with one layout and counts of one kind.
fn chunk(samples: &[(i64, Histogram)]) -> (u8, Vec<u8>) {
    let mut bits = Bits::default();
    bits.push(samples.len() as u64, 16);
    bits.layout(&samples[0].1);
    let is_float = matches!(samples[0].1.counts, Counts::Float { .. });
    let mut t_step = (0, 0);
    // What was written last of each number: as float, or as integer with its last step.
    let (mut floats, mut integers): (Vec<Written>, Vec<(i64, i64)>) = (Vec::new(), Vec::new());
    let mut sum = Written { value: 0.0, zeros: None };
    for (i, (t, histogram)) in samples.iter().enumerate() {
        let step = if i == 0 { 0 } else { t - t_step.0 };
        bits.int(if i == 0 { *t } else { step - t_step.1 });
        t_step = (*t, step);
        match &histogram.counts {
            Counts::Float { count, zero, positive, .. } => {
                let all: Vec<f64> = [*count, *zero, histogram.sum].into_iter().chain(positive.iter().copied()).collect();
                if i == 0 {
                    floats = all.iter().map(|f| bits.float(*f)).collect();
                } else {
                    all.iter().zip(&mut floats).for_each(|(f, before)| bits.xor(before, *f));
                }
            }
            Counts::Integer { count, zero, positive, negative } => {
                let heads = [*count as i64, *zero as i64];
                let buckets = || deltas(positive).into_iter().chain(deltas(negative));
                if i == 0 {
                    heads.iter().for_each(|n| bits.uint(*n as u64));
                    sum = bits.float(histogram.sum);
                    buckets().for_each(|n| bits.int(n));
                    integers = heads.into_iter().chain(buckets()).map(|n| (n, 0)).collect();
                } else {
                    for (place, n) in heads.into_iter().chain(buckets()).enumerate() {
                        if place == 2 {
                            bits.xor(&mut sum, histogram.sum);
                        }
                        let (before, before_step) = integers[place];
                        bits.int(n - before - before_step);
                        integers[place] = (n, n - before);
                    }
                    if buckets().next().is_none() {
                        bits.xor(&mut sum, histogram.sum);
                    }
                }
            }
        }
    }
    (if is_float { 3 } else { 2 }, bits.into_bytes())
}

fn custom(counts: Counts, sum: f64, is_first: bool) -> Histogram {
    let is_stale = is_stale(sum);
    Histogram {
        reset_hint: if is_first { ResetHint::Unknown } else { ResetHint::No },
        schema: CUSTOM_BUCKETS_SCHEMA,
        zero_threshold: 0.0,
        sum,
        positive_spans: if is_stale { Vec::new() } else { vec![Span { offset: 0, length: 3 }, Span { offset: 2, length: 2 }] },
        negative_spans: Vec::new(),
        // In thousandths, the greatest of these, beyond it, and no whole thousandths.
        custom_bounds: vec![0.0, 0.005, 0.123_456_7, 2.5, 33_554.43, 1e9],
        counts,
    }
}

fn integers(times: &[i64]) -> Vec<(i64, Histogram)> {
    let sample = |(i, t): (usize, &i64)| {
        let n = i as u64;
        let positive = vec![n, n * n, 7, 3 * n + 1, 1 << n.min(30)];
        let counts = Counts::Integer { count: positive.iter().sum(), zero: 0, positive, negative: Vec::new() };
        (*t, custom(counts, n as f64 * 0.7, i == 0))
    };
    times.iter().enumerate().map(sample).collect()
}

fn floats(times: &[i64]) -> Vec<(i64, Histogram)> {
    let sample = |(i, t): (usize, &i64)| {
        let n = i as f64;
        let positive = vec![n / 3.0, 0.0, n * 1e6, 0.25, n.sqrt()];
        let counts = Counts::Float { count: positive.iter().sum(), zero: 0.0, positive, negative: Vec::new() };
        (*t, custom(counts, n - 4.5, i == 0))
    };
    times.iter().enumerate().map(sample).collect()
}

/// The last sample ends the series.
fn ended(mut samples: Vec<(i64, Histogram)>) -> Vec<(i64, Histogram)> {
    if let Some((_, last)) = samples.last_mut() {
        let counts = match last.counts {
            Counts::Float { .. } => Counts::Float { count: 0.0, zero: 0.0, positive: Vec::new(), negative: Vec::new() },
            Counts::Integer { .. } => Counts::Integer { count: 0, zero: 0, positive: Vec::new(), negative: Vec::new() },
        };
        *last = custom(counts, stale_nan(), false);
    }
    samples
}

fn same(a: &Histogram, b: &Histogram) -> bool {
    a.sum.to_bits() == b.sum.to_bits() && Histogram { sum: 0.0, ..a.clone() } == Histogram { sum: 0.0, ..b.clone() }
}

/// The encoder of this test writes what Prometheus writes: a chunk of its own comes out byte for byte.
#[test]
fn the_encoder_writes_as_prometheus_does() {
    let (mut compared, segment) = (0, files(HISTOGRAMS).remove("chunks/000001").expect("is there"));
    for (at, length) in chunks(&segment) {
        let data = &segment[at + 1..at + 1 + length];
        if segment[at] != 2 {
            continue;
        }
        let mut gathered = Gathered::default();
        decode(2, data, &mut gathered).expect("decodes");
        let samples = gathered.take();
        let histograms: Vec<(i64, Histogram)> =
            samples.timestamps.iter().zip(&samples.histograms).map(|(t, (_, h))| (*t, (**h).clone())).collect();
        if histograms.iter().any(|(_, h)| is_stale(h.sum)) {
            continue;
        }
        compared += 1;
        let encoded = chunk(&histograms).1;
        // The third byte says what is known of a reset.
        assert!(encoded[..2] == data[..2] && encoded[3..] == data[3..]);
    }
    assert!(compared > 0);
}

/// Where chunks begin in a file (at their encoding byte), and how long their data is.
fn chunks(segment: &[u8]) -> Vec<(usize, usize)> {
    let (mut out, mut at) = (Vec::new(), SEGMENT_HEADER_BYTES);
    while at < segment.len() {
        let (mut length, mut shift) = (0usize, 0);
        loop {
            let byte = segment[at];
            at += 1;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                break;
            }
        }
        out.push((at, length));
        at += 1 + length + 4;
    }
    out
}

#[test]
fn chunks_with_custom_bounds_are_read() {
    let times: Vec<i64> = (0..120).map(|i| 1_700_000_000_000 + i * 15_000 + i % 7).collect();
    for samples in [integers(&times), floats(&times), ended(integers(&times)), ended(floats(&times)), ended(floats(&times[..1]))] {
        let (encoding, data) = chunk(&samples);
        let mut gathered = Gathered::default();
        decode(encoding, &data, &mut gathered).expect("decodes");
        let got = gathered.take();
        assert_eq!((got.len(), got.histograms.len()), (samples.len(), samples.len()));
        for ((t, expected), (got_t, (_, h))) in samples.iter().zip(got.timestamps.iter().zip(&got.histograms)) {
            // What a chunk of one stale marker says of resets is not compared.
            let expected = Histogram { reset_hint: h.reset_hint, ..expected.clone() };
            assert!(t == got_t && same(&expected, h), "{encoding}: {expected:?} {h:?}");
        }
        for end in 0..data.len() - 1 {
            assert!(decode(encoding, &data[..end], &mut Gathered::default()).is_err(), "cut off at {end}");
        }
    }
}

/// A whole block of Prometheus with the data of its longest chunk of histograms exchanged.
#[tokio::test]
async fn blocks_with_custom_bounds_are_imported() {
    for make in [integers, floats] {
        let mut files = files(HISTOGRAMS);
        let mut segment = files["chunks/000001"].clone();
        let all = chunks(&segment).into_iter().filter(|(at, _)| segment[*at] == 2);
        let (at, length) = all.max_by_key(|(_, length)| *length).expect("a chunk of histograms");
        let mut before = Gathered::default();
        decode(2, &segment[at + 1..at + 1 + length], &mut before).expect("decodes");
        let before = before.take();
        let times: Vec<i64> = before.timestamps.iter().copied().take(20).collect();
        let samples = make(&times);
        let (encoding, mut data) = chunk(&samples);
        assert!(data.len() <= length && times.len() == 20, "{} bytes have no place in {length}", data.len());
        data.resize(length, 0);
        segment[at] = encoding;
        segment[at + 1..at + 1 + length].copy_from_slice(&data);
        let crc = crc32c(&segment[at..at + 1 + length]).to_be_bytes();
        segment[at + 1 + length..at + 5 + length].copy_from_slice(&crc);
        files.insert("chunks/000001".into(), segment);
        let blocks = store();
        let place = place(&[(ID, &files)]).await;
        let imported = import_all(&blocks, &place, &config(&[])).await.expect("imports");
        assert!(matches!(imported, Imported::Now { .. }), "{imported:?}");
        let read = read(&blocks).await;
        let found = read.values().flat_map(|s| s.histograms.iter().map(|(i, h)| (s.timestamps[*i as usize], h)));
        let found: Vec<_> = found.filter(|(_, h)| h.schema == CUSTOM_BUCKETS_SCHEMA).collect();
        assert_eq!(found.len(), samples.len());
        for ((t, expected), (got_t, got)) in samples.iter().zip(found) {
            let expected = Histogram { reset_hint: got.reset_hint, ..expected.clone() };
            assert!(*t == got_t && same(&expected, got), "{expected:?} {got:?}");
        }
        let catalog = blocks.catalog(&TenantId::default()).await.expect("catalog").blocks();
        assert!(blocks.verify(&TenantId::default(), &catalog.blocks[0]).await.expect("verifies").is_sound());
    }
}
