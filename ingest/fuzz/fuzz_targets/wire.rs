//! Bodies of remote write and OTLP requests: the first byte chooses the parser, the rest is the body.
#![no_main]

use isobar_ingest::decoded::DecodedRequest;
use isobar_ingest::otlp::{self, OtlpConfig};
use isobar_ingest::wire::{self, Version, v1, v2};
use libfuzzer_sys::fuzz_target;

const MAX_BYTES: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let Some((choice, body)) = data.split_first() else { return };
    let mut request = DecodedRequest::default();
    request.label_bytes.extend_from_slice(body);
    let result = match choice % 5 {
        0 => v1::decode(&mut request, MAX_BYTES),
        1 => v2::decode(&mut request, MAX_BYTES),
        2 => wire::decode(Version::V1, body, MAX_BYTES, MAX_BYTES, &mut request),
        3 => wire::decode(Version::V2, body, MAX_BYTES, MAX_BYTES, &mut request),
        _ => otlp::decode(body, MAX_BYTES, &OtlpConfig::default(), &mut request),
    };
    if result.is_ok() {
        for series in &request.series {
            let _ =
                (request.canonical_labels(series), request.samples_of(series), request.histograms_of(series), request.exemplars_of(series));
        }
        assert!(request.histograms.iter().all(|(_, h)| h.validate().is_ok()));
    }
});
