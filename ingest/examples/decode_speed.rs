//! Measures what it costs to decode remote write requests such as a Prometheus sends: 2000 series with one sample each.
//!
//! `cargo run --release -p isobar-ingest --example decode_speed`

#[path = "../src/wire/messages.rs"]
mod messages;

use std::hint::black_box;
use std::time::Instant;

use isobar_ingest::decoded::DecodedRequest;
use isobar_ingest::wire::{self, Version, snappy};
use messages::{v1 as m1, v2 as m2};
use prost::Message;

const SERIES: usize = 2000;
const ROUNDS: u32 = 500;

fn main() {
    let (v1, v2) = bodies();
    for (name, version, body) in [("1.0", Version::V1, v1), ("2.0", Version::V2, v2)] {
        let block = snap::raw::Encoder::new().compress_vec(&body).expect("compresses");
        let mut request = DecodedRequest::default();
        let mut plain = Vec::new();
        let per_series = |f: &mut dyn FnMut()| {
            (0..5).for_each(|_| f());
            let started = Instant::now();
            (0..ROUNDS).for_each(|_| f());
            started.elapsed().as_nanos() as f64 / f64::from(ROUNDS) / SERIES as f64
        };
        let decompress = per_series(&mut || snappy::decompress(black_box(&block), 32 << 20, &mut plain).expect("valid"));
        let all = per_series(&mut || wire::decode(version, black_box(&block), 32 << 20, 128 << 20, &mut request).expect("valid"));
        assert_eq!((request.series.len(), request.samples.len()), (SERIES, SERIES));
        println!(
            "version {name}: {} bytes, {} compressed; per series: decompress {decompress:.0} ns, decode {:.0} ns",
            body.len(),
            block.len(),
            all - decompress
        );
    }
}

/// The same series in both versions, with the ten labels that a pod has.
fn bodies() -> (Vec<u8>, Vec<u8>) {
    let mut v1 = m1::WriteRequest::default();
    let mut v2 = m2::Request::new();
    for i in 0..SERIES {
        let (instance, pod, name) = (
            format!("10.0.{}.{}:9100", i / 250, i % 250),
            format!("api-server-7f9c{:04x}-x{}", i / 20, i % 20),
            format!("http_requests_{}_total", i % 40),
        );
        let pairs = [
            ("__name__", name.as_str()),
            ("code", "200"),
            ("container", "api"),
            ("handler", "/api/v1/items"),
            ("instance", &instance),
            ("job", "kubernetes-pods"),
            ("method", "GET"),
            ("namespace", "production"),
            ("pod", &pod),
            ("zone", "eu-central-1a"),
        ];
        let (value, timestamp) = (i as f64 * 1.5, 1_760_000_000_000 + i as i64);
        v1.timeseries.push(m1::TimeSeries {
            labels: m1::labels(&pairs),
            samples: vec![m1::Sample { value, timestamp }],
            ..Default::default()
        });
        let labels_refs = v2.labels(&pairs);
        let metadata = Some(m2::Metadata { r#type: 1, help_ref: v2.symbol("Number of requests."), unit_ref: 0 });
        let samples = vec![m2::Sample { value, timestamp, start_timestamp: 0 }];
        v2.timeseries.push(m2::TimeSeries { labels_refs, samples, metadata, ..Default::default() });
    }
    (v1.encode_to_vec(), v2.encode_to_vec())
}
