//! Round trips bit for bit, and bytes that nobody wrote.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::Histogram;
use crate::histogram::{Counts, ResetHint, Span};
use crate::sample::stale_nan;

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Runs `check` with the kernels of this processor and with those that every processor can run: the same must come out.
fn on_both<T: PartialEq + std::fmt::Debug>(check: impl Fn() -> T) -> T {
    cpu::BASELINE_ONLY.set(true);
    let baseline = check();
    cpu::BASELINE_ONLY.set(false);
    let here = check();
    assert!(baseline == here, "kernels differ");
    here
}

/// Encodes with the chosen codec and with every other, and compares what comes back.
fn check_values(values: &[f64]) -> (ValueCodec, usize) {
    let encoded = on_both(|| {
        let mut encoded = Vec::new();
        let codec = encode_values(values, &mut encoded);
        (codec, encoded)
    });
    let decoded = on_both(|| {
        let mut decoded = Vec::new();
        decode_values(encoded.0, &encoded.1, values.len(), &mut decoded).expect("just encoded");
        bits(&decoded)
    });
    assert!(decoded == bits(values), "{:?}", encoded.0);
    check_every_codec(values)
}

fn check_every_codec(values: &[f64]) -> (ValueCodec, usize) {
    let mut encoded = vec![7];
    let chosen = encode_values(values, &mut encoded);
    let mut decoded = vec![0.5];
    decode_values(chosen, &encoded[1..], values.len(), &mut decoded).expect("just encoded");
    assert_eq!((encoded[0], decoded[0]), (7, 0.5), "what stood before is kept");
    assert!(bits(&decoded[1..]) == bits(values), "{chosen:?}");
    for codec in ValueCodec::ALL {
        let mut encoded = Vec::new();
        if !encode_values_with(codec, values, &mut encoded) {
            assert!(encoded.is_empty() && (codec != ValueCodec::Bits || values.is_empty()), "{codec:?}");
            continue;
        }
        let mut decoded = Vec::new();
        decode_values(codec, &encoded, values.len(), &mut decoded).expect("just encoded");
        assert!(bits(&decoded) == bits(values), "{codec:?}");
    }
    (chosen, encoded.len() - 1)
}

fn check_timestamps(millis: &[i64]) -> usize {
    let mut encoded = vec![7];
    encode_timestamps(millis, &mut encoded);
    let mut decoded = vec![3];
    decode_timestamps(&encoded[1..], millis.len(), &mut decoded).expect("just encoded");
    assert_eq!(decoded[0], 3);
    assert_eq!(&decoded[1..], millis);
    encoded.len() - 1
}

fn check_histograms(histograms: &[Histogram]) -> usize {
    let mut encoded = Vec::new();
    encode_histograms(&histograms.iter().collect::<Vec<_>>(), &mut encoded);
    let mut decoded = Vec::new();
    decode_histograms(&encoded, histograms.len(), &mut decoded).expect("just encoded");
    // NaN differs from itself, and -0 equals 0: the debug form tells what the bits are well enough together with the sums.
    assert_eq!(format!("{decoded:?}"), format!("{histograms:?}"));
    let sums = |h: &[Histogram]| bits(&h.iter().map(|h| h.sum).collect::<Vec<_>>());
    assert_eq!(sums(&decoded), sums(histograms));
    encoded.len()
}

/// Any bytes: an error or exactly as many as asked for.
fn check_garbage(bytes: &[u8], count: usize) {
    for codec in ValueCodec::ALL {
        let mut out = Vec::new();
        if decode_values(codec, bytes, count, &mut out).is_ok() {
            assert_eq!(out.len(), count);
        }
    }
    let mut out = Vec::new();
    if decode_timestamps(bytes, count, &mut out).is_ok() {
        assert_eq!(out.len(), count);
        assert!(out.is_sorted_by(|a, b| a < b));
    }
    let mut out = Vec::new();
    if decode_histograms(bytes, count, &mut out).is_ok() {
        assert_eq!(out.len(), count);
    }
}

#[test]
fn constants_take_few_bytes() {
    for (value, size) in [(0.0, 0), (1.0, 2), (42.0, 2), (1234.0, 3), (-0.0, 1), (f64::INFINITY, 2), (stale_nan(), 8), (0.1, 8)] {
        for count in [1, 2, 480] {
            assert_eq!(check_values(&vec![value; count]), (ValueCodec::Constant, size), "{value}");
        }
    }
    assert_eq!(check_values(&[]), (ValueCodec::Constant, 0));
}

#[test]
fn usual_series_stay_small() {
    let check = |name, values: Vec<f64>, codec, most: usize| {
        let (chosen, size) = check_values(&values);
        assert_eq!(chosen, codec, "{name}");
        assert!(size <= most, "{name}: {size} bytes for {} samples", values.len());
    };
    let every = |count, f: &dyn Fn(usize) -> f64| (0..count).map(f).collect::<Vec<_>>();
    check("steady counter", every(480, &|i| (i * 15) as f64), ValueCodec::Decimal, 6);
    check("counter with three steps", every(480, &|i| 1e6 + (i / 121) as f64), ValueCodec::Decimal, 16);
    check("multiples of a page", every(480, &|i| ((i * 7919) % 64 * 4096) as f64), ValueCodec::Decimal, 370);
    check("hundredths", every(480, &|i| ((i * 7919) % 64) as f64 / 100.0), ValueCodec::Decimal, 370);
    check("reset", every(480, &|i| ((i % 300) * 7 + i % 3) as f64), ValueCodec::Decimal, 160);
    check("stale end", every(480, &|i| if i < 479 { i as f64 } else { stale_nan() }), ValueCodec::Decimal, 16);
    check("idle quantile", every(480, &|i| if i < 200 { f64::NAN } else { 0.25 }), ValueCodec::Decimal, 24);
    check("floats of 32 bits", every(480, &|i| f64::from(((i as f32) * 0.37).sin())), ValueCodec::Bits, 480 * 5);
    check("thousandths", every(480, &|i| (777_777 + i * i % 997) as f64 * 0.001), ValueCodec::Near, 800);
    check("microseconds", every(480, &|i| (5e8 + (i * i * 7) as f64) / 1000.0 / 1000.0), ValueCodec::Near, 800);
    check("floats", every(480, &|i| 1.0 + ((i as f64) * 0.37).sin() / 3.0), ValueCodec::Bits, 480 * 7);
}

#[test]
fn extremes_survive() {
    check_values(&[f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, -5e-324, 0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY]);
    check_values(&[9_007_199_254_740_991.0, 9_007_199_254_740_992.0, 9_007_199_254_740_994.0, -9_007_199_254_740_993.0]);
    check_values(&[9.2e18, -9.2e18, 1.8e19, 4.6e18, 2.3e18, -2.3e18, 1.0]);
    check_values(&[0.1 + 0.2, 0.3, 1e22, 1e23, 1e-22, 1e-23, 123_456.789_012_3]);
    check_values(&(0..200).map(|i| f64::from_bits(0x7ff8_0000_0000_0000 + i)).collect::<Vec<_>>());
}

#[test]
fn timestamps_on_a_grid_are_nearly_free() {
    let regular: Vec<i64> = (0..480).map(|i| 1_700_000_000_000 + i * 15_000).collect();
    assert!(check_timestamps(&regular) <= 10);
    let jitter = |i: i64| (i * 7919) % 11 - 5;
    let near: Vec<i64> = regular.iter().enumerate().map(|(i, t)| t + jitter(i as i64)).collect();
    assert!(check_timestamps(&near) <= 480 / 2 + 20);
    let missed: Vec<i64> = near.iter().enumerate().filter(|(i, _)| i % 50 != 7).map(|(_, t)| *t).collect();
    assert!(check_timestamps(&missed) <= 480 / 2 + 50);
    check_timestamps(&[]);
    check_timestamps(&[0]);
    check_timestamps(&[i64::MIN, i64::MAX]);
    check_timestamps(&[i64::MIN, -1, 0, i64::MAX]);
    check_timestamps(&[i64::MAX - 2, i64::MAX - 1, i64::MAX]);
    check_timestamps(&[0, 1, i64::MAX]);
}

#[test]
fn timestamps_that_do_not_ascend_are_refused() {
    let mut encoded = vec![0];
    varint::put_signed(5, &mut encoded);
    varint::put(0, &mut encoded);
    assert!(decode_timestamps(&encoded, 2, &mut Vec::new()).is_err());
    assert!(decode_timestamps(&encoded, 1, &mut Vec::new()).is_ok());
}

#[test]
fn impossible_counts_and_codecs_are_refused() {
    let many = MAX_CHUNK_SAMPLES + 1;
    assert!(decode_values(ValueCodec::Constant, &[], many, &mut Vec::new()).is_err());
    assert!(decode_timestamps(&[], many, &mut Vec::new()).is_err());
    assert!(decode_histograms(&[], many, &mut Vec::new()).is_err());
    assert!(ValueCodec::from_u8(4).is_err());
    for codec in ValueCodec::ALL {
        assert_eq!(ValueCodec::from_u8(codec as u8).expect("its own number"), codec);
    }
}

#[test]
fn histograms_with_one_layout_share_it() {
    let sample = |i: u64| Histogram {
        reset_hint: ResetHint::No,
        schema: 3,
        zero_threshold: 1e-128,
        sum: i as f64 * 0.25,
        positive_spans: vec![Span { offset: -4, length: 10 }, Span { offset: 3, length: 10 }],
        negative_spans: Vec::new(),
        custom_bounds: Vec::new(),
        counts: Counts::Integer { count: 20 * i + i / 9, zero: i / 9, positive: vec![i; 20], negative: Vec::new() },
    };
    let size = check_histograms(&(0..480).map(sample).collect::<Vec<_>>());
    assert!(size < 480 * 2, "{size} bytes for 480 histograms of 20 buckets");
}

fn any_bits() -> impl Strategy<Value = f64> {
    any::<u64>().prop_map(f64::from_bits)
}

fn special() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(stale_nan()),
        Just(f64::NAN),
        Just(f64::from_bits(0x7ff8_0000_0000_0001)),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(-0.0),
        Just(0.0),
        any_bits(),
    ]
}

fn decimals() -> impl Strategy<Value = Vec<f64>> {
    (0i32..25, 0u32..60, 1..700usize).prop_flat_map(|(exponent, bits, count)| {
        let limit = (1i64 << bits).max(2);
        vec((-limit..limit).prop_map(move |i| format!("{i}e{}", -exponent).parse::<f64>().expect("a number")), count)
    })
}

/// Counters with resets, of any pace.
fn counters() -> impl Strategy<Value = Vec<f64>> {
    (0u64..1 << 50, 0u32..40, 1..1500usize).prop_flat_map(|(start, pace, count)| {
        vec((0u64..1 << pace, 0u8..200), count).prop_map(move |steps| {
            let mut sum = start;
            steps
                .into_iter()
                .map(|(step, reset)| {
                    sum = if reset == 0 { step } else { sum + step };
                    sum as f64
                })
                .collect()
        })
    })
}

fn mixed(values: impl Strategy<Value = Vec<f64>>) -> impl Strategy<Value = Vec<f64>> {
    (values, vec((any::<prop::sample::Index>(), special(), 1..20usize), 0..12)).prop_map(|(mut values, specials)| {
        for (at, value, run) in specials {
            let at = at.index(values.len());
            let end = (at + run).min(values.len());
            values[at..end].fill(value);
        }
        values
    })
}

fn histogram() -> impl Strategy<Value = Histogram> {
    let spans =
        vec((-9i32..9, 0u32..4), 0..4).prop_map(|s| s.into_iter().map(|(offset, length)| Span { offset, length }).collect::<Vec<_>>());
    let integers = (any::<u64>(), any::<u64>(), vec(any::<u64>(), 0..6), vec(0u64..9, 0..6))
        .prop_map(|(count, zero, positive, negative)| Counts::Integer { count, zero, positive, negative });
    let floats = (special(), any_bits(), vec(special(), 0..6), vec(0.0..9.0f64, 0..6))
        .prop_map(|(count, zero, positive, negative)| Counts::Float { count, zero, positive, negative });
    let hint = prop_oneof![Just(ResetHint::Unknown), Just(ResetHint::Yes), Just(ResetHint::No), Just(ResetHint::Gauge)];
    (hint, -60i32..9, special(), special(), spans.clone(), spans, vec(special(), 0..5), prop_oneof![integers, floats]).prop_map(
        |(reset_hint, schema, zero_threshold, sum, positive_spans, negative_spans, custom_bounds, counts)| Histogram {
            reset_hint,
            schema,
            zero_threshold,
            sum,
            positive_spans,
            negative_spans,
            custom_bounds,
            counts,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bits_survive(values in vec(any_bits(), 0..400)) {
        check_values(&values);
    }

    #[test]
    fn decimals_survive(values in mixed(decimals())) {
        check_values(&values);
    }

    #[test]
    fn counters_survive(values in mixed(counters())) {
        check_values(&values);
    }

    #[test]
    fn computed_floats_survive(values in mixed(vec(-1e3..1e3f64, 1..500))) {
        check_values(&values);
    }

    #[test]
    fn near_decimals_survive(values in mixed(counters()), places in 0i32..12) {
        let unit = 10f64.powi(-places);
        check_values(&values.iter().map(|v| v * unit).collect::<Vec<_>>());
        let mut sum = 0.0;
        check_values(&values.iter().map(|v| { sum += (v % 1e9) * unit; sum }).collect::<Vec<_>>());
    }

    #[test]
    fn seldom_changes_survive(values in vec((special(), 1..90usize), 1..30)) {
        check_values(&values.into_iter().flat_map(|(v, n)| vec![v; n]).collect::<Vec<_>>());
    }

    #[test]
    fn integers_survive(values in vec(any::<i64>(), 1..300), shift in 0u32..64, odd in any::<i64>(), tag in 0u8..64) {
        let values: Vec<i64> = values.iter().map(|v| (v >> shift).wrapping_mul(odd)).collect();
        let mut encoded = Vec::new();
        integers::encode(tag, &mut values.clone(), &mut encoded);
        let mut reader = varint::Reader::new(&encoded);
        let stream = integers::Stream::read(&mut reader).expect("just encoded");
        let mut decoded = vec![0; values.len()];
        integers::decode_i64(&stream, &mut reader, &mut decoded).expect("just encoded");
        reader.end().expect("nothing follows");
        prop_assert_eq!((decoded, stream.tag), (values, tag));
    }

    #[test]
    fn packed_bits_survive(values in vec(any::<u64>(), 0..=64), width in 0usize..=64) {
        let values: Vec<u64> = values.iter().map(|v| if width == 0 { 0 } else { v >> (64 - width) }).collect();
        let mut packed = Vec::new();
        bitpack::pack(&values, width, &mut packed);
        prop_assert_eq!(packed.len(), bitpack::packed_len(values.len(), width));
        let mut unpacked = [0; 64];
        bitpack::unpack(&packed, values.len(), width, &mut unpacked);
        prop_assert_eq!(&unpacked[..values.len()], &values);
        packed.extend([0xff; 600]);
        bitpack::unpack(&packed, values.len(), width, &mut unpacked);
        prop_assert_eq!(&unpacked[..values.len()], &values);
    }

    #[test]
    fn timestamps_survive(start in any::<i64>(), steps in vec(prop_oneof![9 => 14_990i64..15_010, 1 => 1..100_000i64, 1 => 1..1i64 << 60], 0..300)) {
        let mut at = start;
        let mut millis = vec![start];
        for step in steps {
            let Some(next) = at.checked_add(step) else { break };
            at = next;
            millis.push(at);
        }
        check_timestamps(&millis);
    }

    #[test]
    fn histograms_survive(histograms in vec((histogram(), 1..20usize), 0..6)) {
        check_histograms(&histograms.into_iter().flat_map(|(h, n)| vec![h; n]).collect::<Vec<_>>());
    }

    #[test]
    fn random_bytes_are_no_danger(bytes in vec(any::<u8>(), 0..200), count in 0usize..2000) {
        check_garbage(&bytes, count);
    }

    #[test]
    fn damaged_values_are_no_danger(
        values in prop_oneof![mixed(decimals()), mixed(counters()), vec(-1e3..1e3f64, 1..300)],
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        for codec in ValueCodec::ALL {
            let mut encoded = Vec::new();
            if !encode_values_with(codec, &values, &mut encoded) || encoded.is_empty() {
                continue;
            }
            for (at, byte) in &damage {
                let at = at.index(encoded.len());
                encoded[at] = *byte;
            }
            check_garbage(&encoded, values.len());
            check_garbage(&encoded[..encoded.len() / 2], values.len());
        }
    }

    #[test]
    fn damaged_histograms_and_timestamps_are_no_danger(
        histograms in vec(histogram(), 1..6),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (mut encoded, mut stamps) = (Vec::new(), Vec::new());
        encode_histograms(&histograms.iter().collect::<Vec<_>>(), &mut encoded);
        encode_timestamps(&(0..histograms.len() as i64).map(|i| i * 1000 + i * i % 7).collect::<Vec<_>>(), &mut stamps);
        for bytes in [&mut encoded, &mut stamps] {
            for (at, byte) in &damage {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            check_garbage(bytes, histograms.len());
        }
    }
}
