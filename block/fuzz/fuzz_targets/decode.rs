//! Any bytes given to the decoders of chunks: an error, or exactly as many samples as asked for.

#![no_main]

use isobar_block::codec::{ValueCodec, decode_histograms, decode_timestamps, decode_values};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, &[u8])| {
    let (count, bytes) = (usize::from(input.0), input.1);
    for codec in ValueCodec::ALL {
        let mut values = Vec::new();
        if decode_values(codec, bytes, count, &mut values).is_ok() {
            assert_eq!(values.len(), count);
        }
    }
    let mut millis = Vec::new();
    if decode_timestamps(bytes, count, &mut millis).is_ok() {
        assert_eq!(millis.len(), count);
        assert!(millis.is_sorted_by(|a, b| a < b));
    }
    let mut histograms = Vec::new();
    if decode_histograms(bytes, count, &mut histograms).is_ok() {
        assert_eq!(histograms.len(), count);
    }
});
