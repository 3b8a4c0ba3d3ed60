//! Any values and timestamps come back bit for bit, with every codec that takes them.

#![no_main]

use isobar_block::codec::{ValueCodec, decode_timestamps, decode_values, encode_timestamps, encode_values, encode_values_with};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, Vec<i64>)| {
    // The first byte says what the integers become: bit patterns, integers, or decimals of some places.
    let (places, mut integers) = input;
    let values: Vec<f64> = integers
        .iter()
        .map(|v| match places % 24 {
            23 => f64::from_bits(*v as u64),
            places => *v as f64 / 10f64.powi(places.into()),
        })
        .collect();
    let mut bytes = Vec::new();
    let chosen = encode_values(&values, &mut bytes);
    check(chosen, &bytes, &values);
    for codec in ValueCodec::ALL {
        bytes.clear();
        if encode_values_with(codec, &values, &mut bytes) {
            check(codec, &bytes, &values);
        }
    }
    integers.sort_unstable();
    integers.dedup();
    bytes.clear();
    encode_timestamps(&integers, &mut bytes);
    let mut millis = Vec::new();
    decode_timestamps(&bytes, integers.len(), &mut millis).expect("just encoded");
    assert_eq!(millis, integers);
});

fn check(codec: ValueCodec, bytes: &[u8], values: &[f64]) {
    let mut decoded = Vec::new();
    decode_values(codec, bytes, values.len(), &mut decoded).expect("just encoded");
    assert!(decoded.iter().map(|v| v.to_bits()).eq(values.iter().map(|v| v.to_bits())), "{codec:?}");
}
