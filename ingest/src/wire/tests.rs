//! Both versions of remote write against bodies that `prost` encodes, and against bodies that are not what they say.

use isobar_block::histogram::{CUSTOM_BUCKETS_SCHEMA, Counts, ResetHint, Span};
use isobar_block::{MetricType, is_stale, stale_nan};
use proptest::prelude::*;
use prost::Message;

use super::messages::{BucketSpan, Histogram, v1 as m1, v2 as m2};
use super::*;
use crate::decoded::{DecodedSeries, LabelForm, canonicalize_wire};

const MAX: usize = 1 << 20;

fn decode_plain(version: Version, body: &[u8]) -> Result<DecodedRequest, DecodeError> {
    let mut request = DecodedRequest::default();
    let block = snap::raw::Encoder::new().compress_vec(body).expect("compresses");
    decode(version, &block, MAX, 8 * MAX, &mut request).map(|()| request)
}

fn labels(request: &DecodedRequest, series: &DecodedSeries) -> String {
    request.canonical_labels(series).map_or_else(|r| r.code().to_owned(), |l| l.to_string())
}

fn integer_histogram() -> Histogram {
    Histogram {
        count_int: Some(11),
        sum: 18.4,
        schema: 1,
        zero_threshold: 0.001,
        zero_count_int: Some(2),
        negative_spans: vec![BucketSpan { offset: -3, length: 1 }],
        negative_deltas: vec![1],
        positive_spans: vec![BucketSpan { offset: 0, length: 2 }, BucketSpan { offset: 1, length: 2 }],
        positive_deltas: vec![1, 1, -1, 3],
        reset_hint: 2,
        timestamp: 1000,
        ..Histogram::default()
    }
}

fn v1_request() -> m1::WriteRequest {
    let labels = m1::labels;
    m1::WriteRequest {
        timeseries: vec![
            m1::TimeSeries {
                labels: labels(&[("__name__", "up"), ("job", "x")]),
                samples: vec![m1::Sample { value: 1.5, timestamp: 1000 }, m1::Sample { value: stale_nan(), timestamp: -2000 }],
                exemplars: vec![m1::Exemplar { labels: labels(&[("trace_id", "abc")]), value: 0.5, timestamp: 999 }],
                histograms: vec![],
            },
            m1::TimeSeries {
                labels: labels(&[("zone", "é"), ("__name__", "h"), ("gone", "")]),
                histograms: vec![integer_histogram()],
                ..Default::default()
            },
        ],
        metadata: vec![m1::MetricMetadata { r#type: 1, metric_family_name: "up".into(), help: "Is it?".into(), unit: "1".into() }],
    }
}

fn v2_request() -> m2::Request {
    let mut r = m2::Request::new();
    let (up, h, help) =
        (r.labels(&[("__name__", "up"), ("job", "x")]), r.labels(&[("__name__", "h_bucket"), ("zone", "é")]), r.symbol("Is it?"));
    let exemplar = r.labels(&[("trace_id", "abc")]);
    r.timeseries = vec![
        m2::TimeSeries {
            labels_refs: up.clone(),
            samples: vec![
                m2::Sample { value: 1.5, timestamp: 1000, start_timestamp: 900 },
                m2::Sample { value: stale_nan(), timestamp: -2000, start_timestamp: 0 },
            ],
            exemplars: vec![m2::Exemplar { labels_refs: exemplar, value: 0.5, timestamp: 999 }],
            metadata: Some(m2::Metadata { r#type: 1, help_ref: help, unit_ref: 0 }),
            ..Default::default()
        },
        m2::TimeSeries {
            labels_refs: h,
            histograms: vec![integer_histogram()],
            created_timestamp: 77,
            metadata: Some(m2::Metadata { r#type: 3, help_ref: help, unit_ref: 0 }),
            ..Default::default()
        },
        m2::TimeSeries {
            labels_refs: up,
            samples: vec![m2::Sample { value: 2.0, timestamp: 3000, start_timestamp: 0 }],
            metadata: Some(m2::Metadata { r#type: 1, help_ref: help, unit_ref: 0 }),
            ..Default::default()
        },
    ];
    r
}

fn check_common(request: &DecodedRequest) {
    let up = &request.series[0];
    assert_eq!(labels(request, up), "up{job=\"x\"}");
    let samples = request.samples_of(up);
    assert_eq!((samples[0].timestamp_ms, samples[0].value), (1000, 1.5));
    assert_eq!(samples[1].timestamp_ms, -2000);
    assert!(is_stale(samples[1].value));
    let exemplar = &request.exemplars_of(up)[0];
    assert_eq!((exemplar.labels.get("trace_id"), exemplar.value, exemplar.timestamp_ms), (Some("abc"), 0.5, 999));
    let (timestamp_ms, h) = &request.histograms_of(&request.series[1])[0];
    assert_eq!((*timestamp_ms, h.schema, h.sum, h.reset_hint), (1000, 1, 18.4, ResetHint::No));
    assert_eq!(h.positive_spans, [Span { offset: 0, length: 2 }, Span { offset: 1, length: 2 }]);
    assert_eq!(h.counts, Counts::Integer { count: 11, zero: 2, positive: vec![1, 2, 1, 4], negative: vec![1] });
    assert!(request.rejected.is_empty());
}

#[test]
fn v1_is_read_in_full() {
    let request = decode_plain(Version::V1, &v1_request().encode_to_vec()).expect("decodes");
    check_common(&request);
    assert_eq!(labels(&request, &request.series[1]), "h{zone=\"é\"}");
    assert!(request.series.iter().all(|s| s.form == LabelForm::Wire && s.created_ms == 0));
    let (family, metadata) = &request.metadata[0];
    assert_eq!(
        (family.as_str(), metadata.metric_type, metadata.help.as_str(), metadata.unit.as_str()),
        ("up", MetricType::Counter, "Is it?", "1")
    );
}

#[test]
fn v2_is_read_in_full() {
    let request = decode_plain(Version::V2, &v2_request().encode_to_vec()).expect("decodes");
    check_common(&request);
    assert_eq!(labels(&request, &request.series[1]), "h_bucket{zone=\"é\"}");
    assert_eq!(request.series.iter().map(|s| s.created_ms).collect::<Vec<_>>(), [900, 77, 0]);
    assert_eq!(request.series.iter().map(|s| s.metadata).collect::<Vec<_>>(), [Some(0), Some(1), Some(0)]);
    assert_eq!(
        request.metadata.iter().map(|(f, m)| (f.as_str(), m.metric_type)).collect::<Vec<_>>(),
        [("up", MetricType::Counter), ("h", MetricType::Histogram)]
    );
    assert_eq!(request.label_bytes_of(&request.series[0]), request.label_bytes_of(&request.series[2]), "equal sets are equal bytes");
}

#[test]
fn canonicalize_checks_label_sets() {
    let check = |pairs: &[(&[u8], &[u8])], expected: &str| {
        let labels = pairs.iter().map(|(n, v)| m1::Label { name: n.to_vec(), value: v.to_vec() }).collect();
        let body = m1::TimeSeries { labels, ..Default::default() }.encode_to_vec();
        let got = canonicalize_wire(&body).map_or_else(|r| r.code().to_owned(), |l| l.to_string());
        assert_eq!(got, expected);
    };
    check(&[(b"__name__", b"m"), (b"a", b"1"), (b"b", b"2")], "m{a=\"1\", b=\"2\"}");
    check(&[(b"b", b"2"), (b"a", b"1"), (b"__name__", b"m")], "m{a=\"1\", b=\"2\"}");
    check(&[(b"__name__", b"m"), (b"a", b"")], "m{}");
    check(&[(b"a", b"1")], "missing_metric_name");
    check(&[(b"__name__", b"")], "missing_metric_name");
    check(&[], "missing_metric_name");
    check(&[(b"__name__", b"m"), (b"a", b"1"), (b"a", b"2")], "duplicate_label_name");
    check(&[(b"__name__", b"m"), (b"__name__", b"n")], "duplicate_label_name");
    check(&[(b"__name__", b"m"), (b"", b"2")], "empty_label_name");
    check(&[(b"__name__", b"m"), (b"a", b"\xff")], "invalid_utf8");
    check(&[(b"__name__", b"m"), (b"\xc3\x28", b"1")], "invalid_utf8");
    assert_eq!(canonicalize_wire(&[0x0a, 0x05, 1]).expect_err("cut off").code(), "invalid_labels");
    assert_eq!(canonicalize_wire(&[0x12, 0x00]).expect_err("no label").code(), "invalid_labels");
}

#[test]
fn v1_labels_may_be_scattered() {
    let sample = m1::TimeSeries { samples: vec![m1::Sample { value: 1.0, timestamp: 5 }], ..Default::default() }.encode_to_vec();
    let label = |n: &str, v: &str| m1::TimeSeries { labels: m1::labels(&[(n, v)]), ..Default::default() }.encode_to_vec();
    let long = "x".repeat(300);
    let series = |parts: &[&[u8]]| {
        let inner = parts.concat();
        let mut out = vec![0x0a];
        prost::encoding::encode_varint(inner.len() as u64, &mut out);
        [out, inner].concat()
    };
    let first = series(&[&label("__name__", "m"), &sample, &label("a", &long), &sample, &label("b", "2")]);
    let second = series(&[&sample, &label("__name__", "n"), &label("a", "1")]);
    let request = decode_plain(Version::V1, &[first, second].concat()).expect("decodes");
    assert_eq!(labels(&request, &request.series[0]), format!("m{{a=\"{long}\", b=\"2\"}}"));
    assert_eq!(labels(&request, &request.series[1]), "n{a=\"1\"}");
    assert_eq!(request.samples_of(&request.series[0]).len(), 2);
}

#[test]
fn histograms_that_break_rules_are_refused_alone() {
    let with = |change: &dyn Fn(&mut Histogram)| {
        let mut h = integer_histogram();
        change(&mut h);
        h
    };
    let bad = [
        with(&|h| h.schema = 9),
        with(&|h| h.positive_deltas = vec![1, -2, 1, 1]),
        with(&|h| h.positive_deltas = vec![i64::MAX, 1, 1, 1]),
        with(&|h| h.positive_deltas.clear()),
        with(&|h| h.positive_spans[1].length = u32::MAX),
        with(&|h| h.positive_spans[1].offset = -1),
        with(&|h| h.count_int = Some(5)),
        with(&|h| h.custom_values = vec![1.0]),
        with(&|h| {
            h.count_int = None;
            h.count_float = Some(-1.0);
        }),
    ];
    let float = Histogram {
        count_float: Some(3.5),
        zero_count_float: Some(0.5),
        schema: CUSTOM_BUCKETS_SCHEMA,
        positive_spans: vec![BucketSpan { offset: 0, length: 2 }],
        positive_counts: vec![1.0, 2.0],
        custom_values: vec![0.1, 0.2],
        timestamp: 7,
        ..Default::default()
    };
    let count = bad.len();
    let histograms: Vec<_> = bad.into_iter().chain([float]).collect();
    let v1 = m1::WriteRequest {
        timeseries: vec![m1::TimeSeries { labels: m1::labels(&[("__name__", "h")]), histograms: histograms.clone(), ..Default::default() }],
        ..Default::default()
    };
    let mut v2 = m2::Request::new();
    let labels_refs = v2.labels(&[("__name__", "h")]);
    v2.timeseries.push(m2::TimeSeries { labels_refs, histograms, ..Default::default() });
    for (version, body) in [(Version::V1, v1.encode_to_vec()), (Version::V2, v2.encode_to_vec())] {
        let request = decode_plain(version, &body).expect("decodes");
        assert_eq!(request.rejected.len(), count);
        assert!(
            request.rejected.iter().all(|r| r.reason.code() == "invalid_histogram" && r.count == 1 && r.series.contains("__name__")),
            "{:?}",
            request.rejected
        );
        let (timestamp_ms, h) = &request.histograms_of(&request.series[0])[0];
        assert_eq!((*timestamp_ms, h.schema, h.custom_bounds.as_slice()), (7, -53, &[0.1, 0.2][..]));
        assert_eq!(h.counts, Counts::Float { count: 3.5, zero: 0.5, positive: vec![1.0, 2.0], negative: vec![] });
    }
}

#[test]
fn v2_refuses_bad_series_and_keeps_good_ones() {
    let mut r = m2::Request::new();
    let good = r.labels(&[("__name__", "m"), ("b", "1")]);
    let unsorted = r.labels(&[("b", "1"), ("__name__", "m")]);
    let unnamed = r.labels(&[("b", "1")]);
    let twice = r.labels(&[("__name__", "m"), ("b", "1"), ("b", "1")]);
    let empty_name = r.labels(&[("", "1"), ("__name__", "m")]);
    let empty_value = r.labels(&[("__name__", "m"), ("b", "1"), ("c", "")]);
    r.symbols.push(vec![0xff]);
    let invalid = vec![good[0], r.symbols.len() as u32 - 1];
    let sample = m2::Sample { value: 1.0, timestamp: 1, start_timestamp: 0 };
    let of = |labels_refs: &[u32]| m2::TimeSeries {
        labels_refs: labels_refs.to_vec(),
        samples: vec![sample.clone(), sample.clone()],
        ..Default::default()
    };
    r.timeseries = vec![
        of(&unnamed),
        of(&good),
        of(&unsorted),
        of(&twice),
        of(&empty_name),
        of(&empty_value),
        of(&invalid),
        of(&good[..3]),
        of(&[good[0], 999]),
        m2::TimeSeries { samples: vec![], ..of(&good) },
        m2::TimeSeries { histograms: vec![integer_histogram()], ..of(&good) },
    ];
    let request = decode_plain(Version::V2, &r.encode_to_vec()).expect("decodes");
    assert_eq!(request.series.iter().map(|s| labels(&request, s)).collect::<Vec<_>>(), ["m{b=\"1\"}"; 3]);
    assert_eq!(request.samples.len(), 6);
    let codes: Vec<_> = request.rejected.iter().map(|r| (r.reason.code(), r.count)).collect();
    assert_eq!(
        codes,
        [
            ("missing_metric_name", 2),
            ("duplicate_label_name", 2),
            ("empty_label_name", 2),
            ("invalid_utf8", 2),
            ("invalid_symbol_refs", 2),
            ("invalid_symbol_refs", 2),
            ("mixed_or_no_samples", 1),
            ("mixed_or_no_samples", 3),
        ]
    );
    assert_eq!(request.rejected[1].series, "{__name__=\"m\", b=\"1\", b=\"1\"}");
}

#[test]
fn whole_bodies_are_refused() {
    let check = |version, body: &[u8], expected: &str| {
        let error = decode_plain(version, body).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
    };
    let (v1, v2) = (v1_request().encode_to_vec(), v2_request().encode_to_vec());
    check(Version::V1, &v2, "proto=io.prometheus.write.v2.Request");
    check(Version::V2, &v1, "proto=prometheus.WriteRequest");
    let mut no_symbols = v2_request();
    no_symbols.symbols.clear();
    check(Version::V2, &no_symbols.encode_to_vec(), "symbol table is empty");
    let mut first_symbol = v2_request();
    first_symbol.symbols[0] = b"x".to_vec();
    check(Version::V2, &first_symbol.encode_to_vec(), "first symbol");
    check(Version::V1, &[0x08, 1], "wire type");
    assert!(decode_plain(Version::V1, &[]).expect("an empty message").is_empty());
    assert!(decode_plain(Version::V2, &[]).expect("an empty message").is_empty());
}

#[test]
fn small_bodies_cannot_take_much_memory() {
    let too_large = |version, body: &[u8]| assert!(matches!(decode_plain(version, body), Err(DecodeError::TooLarge { .. })));
    // Empty samples, empty histograms, empty spans; then one long symbol that each of many series refers to.
    let series = |fields: &[u8]| {
        let mut out = vec![0x0a];
        prost::encoding::encode_varint(fields.len() as u64, &mut out);
        [out, fields.to_vec()].concat()
    };
    let half = MAX / 2 - 8;
    too_large(Version::V1, &series(&[0x22, 0].repeat(half)));
    assert!(matches!(decode_plain(Version::V1, &series(&[0x12, 0].repeat(half))), Ok(_) | Err(DecodeError::TooLarge { .. })));
    let mut r = m2::Request::new();
    let mut labels_refs = r.labels(&[("__name__", "m"), ("a", &"x".repeat(4096))]);
    labels_refs.extend(r.labels(&[("b", &"x".repeat(4096))]));
    r.timeseries = vec![
        m2::TimeSeries {
            labels_refs,
            samples: vec![m2::Sample { value: 1.0, timestamp: 1, start_timestamp: 0 }],
            ..Default::default()
        };
        5000
    ];
    too_large(Version::V2, &r.encode_to_vec());
}

#[test]
fn every_truncation_is_an_error_or_a_shorter_message() {
    let (v1, v2) = (v1_request(), v2_request());
    let fields = [v1.timeseries.len() + v1.metadata.len(), v2.symbols.len() + v2.timeseries.len()];
    for (version, body, fields) in [(Version::V1, v1.encode_to_vec(), fields[0]), (Version::V2, v2.encode_to_vec(), fields[1])] {
        let whole = decode_plain(version, &body).expect("decodes");
        let mut accepted = 0;
        for end in 0..body.len() {
            if let Ok(part) = decode_plain(version, &body[..end]) {
                accepted += 1;
                assert!(part.series.len() < whole.series.len() || part.metadata.len() < whole.metadata.len());
            }
        }
        assert_eq!(accepted, fields, "a message may end where a field of the outermost message begins, and nowhere else");
        let block = snap::raw::Encoder::new().compress_vec(&body).expect("compresses");
        for end in 0..block.len() {
            assert!(decode(version, &block[..end], MAX, MAX, &mut DecodedRequest::default()).is_err(), "{end}");
        }
    }
}

/// What every decoded request keeps to, whatever its bytes were.
fn assert_consistent(request: &DecodedRequest) {
    for series in &request.series {
        let _ = request.describe(series);
        let labels = request.canonical_labels(series);
        assert!(series.form == LabelForm::Wire || labels.is_ok_and(|l| l.get("__name__").is_some()));
        assert!(series.samples.end as usize <= request.samples.len() && series.exemplars.end as usize <= request.exemplars.len());
        assert!(series.metadata.is_none_or(|m| (m as usize) < request.metadata.len()));
    }
    assert!(request.histograms.iter().all(|(_, h)| h.validate().is_ok()));
    assert!(request.rejected.iter().all(|r| r.count > 0 && r.series.len() <= 500));
}

proptest! {
    #[test]
    fn random_bytes_do_not_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        for version in [Version::V1, Version::V2] {
            if let Ok(request) = decode_plain(version, &body) {
                assert_consistent(&request);
            }
            let _ = decode(version, &body, MAX, MAX, &mut DecodedRequest::default());
        }
    }

    #[test]
    fn changed_bytes_do_not_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        for (version, mut body) in [(Version::V1, v1_request().encode_to_vec()), (Version::V2, v2_request().encode_to_vec())] {
            for (at, byte) in &changes {
                let at = at.index(body.len());
                body[at] = *byte;
            }
            if let Ok(request) = decode_plain(version, &body) {
                assert_consistent(&request);
            }
        }
    }

    #[test]
    fn both_versions_agree(values in proptest::collection::vec((any::<u64>(), any::<i64>()), 1..5), pairs in proptest::collection::btree_map("[a-z]{1,4}", "[a-zé]{0,4}", 0..6)) {
        let mut pairs: Vec<(&str, &str)> = pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        pairs.insert(0, ("__name__", "m"));
        let samples = values.iter().map(|&(bits, timestamp)| m1::Sample { value: f64::from_bits(bits), timestamp }).collect();
        let v1 = m1::WriteRequest { timeseries: vec![m1::TimeSeries { labels: m1::labels(&pairs), samples, ..Default::default() }], ..Default::default() };
        let mut v2 = m2::Request::new();
        let labels_refs = v2.labels(&pairs);
        let samples = values.iter().map(|&(bits, timestamp)| m2::Sample { value: f64::from_bits(bits), timestamp, start_timestamp: 0 }).collect();
        v2.timeseries.push(m2::TimeSeries { labels_refs, samples, ..Default::default() });
        let bits = |r: &DecodedRequest| r.samples.iter().map(|s| (s.value.to_bits(), s.timestamp_ms)).collect::<Vec<_>>();
        let (a, b) = (decode_plain(Version::V1, &v1.encode_to_vec()).expect("v1"), decode_plain(Version::V2, &v2.encode_to_vec()).expect("v2"));
        prop_assert_eq!(bits(&a), values.clone());
        prop_assert_eq!(bits(&b), values);
        prop_assert_eq!(labels(&a, &a.series[0]), labels(&b, &b.series[0]));
    }
}
