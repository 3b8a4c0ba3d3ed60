//! A scrape target with a native histogram, in the protobuf format that Prometheus 2.42 asks for.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Buckets grow by 2^(2^-3).
const SCHEMA: i32 = 3;
/// After so many scrapes the counter begins anew.
const RESET_AFTER: u64 = 25;

/// `io.prometheus.client.MetricFamily`
#[derive(Clone, PartialEq, Message)]
struct Family {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "3")]
    r#type: i32,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, tag = "1")]
    count: u64,
    #[prost(double, tag = "2")]
    sum: f64,
    #[prost(sint32, tag = "5")]
    schema: i32,
    #[prost(double, tag = "6")]
    zero_threshold: f64,
    #[prost(uint64, tag = "7")]
    zero_count: u64,
    #[prost(message, repeated, tag = "9")]
    negative_spans: Vec<Span>,
    #[prost(sint64, repeated, tag = "10")]
    negative_deltas: Vec<i64>,
    #[prost(message, repeated, tag = "12")]
    positive_spans: Vec<Span>,
    #[prost(sint64, repeated, tag = "13")]
    positive_deltas: Vec<i64>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Span {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

/// Number of the type of a histogram.
const HISTOGRAM: i32 = 4;

/// A running target. Dropping it makes it refuse scrapes.
pub struct HistogramTarget {
    port: u16,
    stopped: Arc<AtomicBool>,
}

impl HistogramTarget {
    /// Starts it on a free port; each scrape sees twenty observations more.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
        let port = listener.local_addr().expect("it has an address").port();
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        std::thread::spawn(move || {
            let mut state = State::default();
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                // A scrape that breaks off is Prometheus's business.
                let _ = stream.and_then(|s| answer(s, &state.next()));
            }
        });
        Self { port, stopped }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for HistogramTarget {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

fn answer(mut stream: TcpStream, body: &[u8]) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        request.extend_from_slice(&buffer[..n]);
    }
    let kind = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(body)
}

struct State {
    rng: StdRng,
    scrapes: u64,
    count: u64,
    sum: f64,
    zero: u64,
    positive: BTreeMap<i32, i64>,
    negative: BTreeMap<i32, i64>,
}

impl Default for State {
    fn default() -> Self {
        let (positive, negative) = (BTreeMap::new(), BTreeMap::new());
        Self { rng: StdRng::seed_from_u64(7), scrapes: 0, count: 0, sum: 0.0, zero: 0, positive, negative }
    }
}

impl State {
    fn next(&mut self) -> Vec<u8> {
        self.scrapes += 1;
        if self.scrapes.is_multiple_of(RESET_AFTER) {
            (self.count, self.sum, self.zero) = (0, 0.0, 0);
            self.positive.clear();
            self.negative.clear();
        }
        for _ in 0..20 {
            let size: f64 = self.rng.random_range(-3.0..5.0f64).exp2();
            let value = if self.rng.random_bool(0.8) { size } else { -size };
            self.count += 1;
            if self.rng.random_bool(0.05) {
                self.zero += 1;
                continue;
            }
            self.sum += value;
            let bucket = (size.log2() * f64::from(1 << SCHEMA)).ceil() as i32;
            *(if value > 0.0 { &mut self.positive } else { &mut self.negative }).entry(bucket).or_default() += 1;
        }
        let ((positive_spans, positive_deltas), (negative_spans, negative_deltas)) = (spans(&self.positive), spans(&self.negative));
        let histogram = Histogram {
            count: self.count,
            sum: self.sum,
            schema: SCHEMA,
            zero_threshold: 0.001,
            zero_count: self.zero,
            negative_spans,
            negative_deltas,
            positive_spans,
            positive_deltas,
        };
        let metric = vec![Metric { histogram: Some(histogram) }];
        Family { name: "latency".into(), r#type: HISTOGRAM, metric }.encode_length_delimited_to_vec()
    }
}

fn spans(buckets: &BTreeMap<i32, i64>) -> (Vec<Span>, Vec<i64>) {
    let (mut spans, mut deltas, mut last_count) = (Vec::<Span>::new(), Vec::new(), 0);
    let mut next = 0;
    for (i, (bucket, count)) in buckets.iter().enumerate() {
        match spans.last_mut() {
            Some(span) if *bucket == next => span.length += 1,
            _ => spans.push(Span { offset: if i == 0 { *bucket } else { bucket - next }, length: 1 }),
        }
        next = bucket + 1;
        deltas.push(count - last_count);
        last_count = *count;
    }
    (spans, deltas)
}
