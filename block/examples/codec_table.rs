//! Prints what the chunk codec costs: bytes per sample and nanoseconds to encode and decode a sample, for kinds of data, chunk
//! sizes and codecs, with `pco` and the size of Gorilla's XOR (Pelkonen et al., 2015) for comparison. Every decoded bit is checked.
//!
//! `cargo run --release -p isobar-block --example codec_table [-- exposition.txt…]`; files are scrapes of one target, one after
//! the other, whose series are then a further kind. Nanoseconds are of the wall clock, the best of several rounds.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use isobar_block::codec::{ValueCodec, decode_timestamps, decode_values, encode_timestamps, encode_values, encode_values_with};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const SERIES: usize = 48;
const SAMPLES: usize = 5760;
const ROUNDS: usize = 5;
const CHUNKS: [usize; 4] = [32, 120, 480, 1920];

type Encode<'a> = &'a dyn Fn(&[f64], &mut Vec<u8>) -> Option<ValueCodec>;
type Decode<'a> = &'a dyn Fn(ValueCodec, &[u8], usize, &mut Vec<f64>);

fn main() {
    let mut kinds = synthetic();
    let files: Vec<String> = std::env::args().skip(1).collect();
    if !files.is_empty() {
        kinds.push(("scraped", scraped(&files)));
    }
    println!("{:8} {:>5} {:9} {:>8} {:>8} {:>8}  codecs chosen", "kind", "chunk", "codec", "B/sample", "enc ns", "dec ns");
    let mut means: BTreeMap<(usize, &str), Vec<[f64; 3]>> = BTreeMap::new();
    for size in CHUNKS {
        for (kind, series) in &kinds {
            let chunks: Vec<&[f64]> = series.iter().flat_map(|s| s.chunks(size)).collect();
            for (name, row) in rows(&chunks) {
                println!("{kind:8} {size:5} {name:9} {:8.3} {:8.1} {:8.2}  {}", row.0[0], row.0[1], row.0[2], row.1);
                if !["noisy", "milli", "sumsec", "scraped"].contains(kind) {
                    means.entry((size, name)).or_default().push(row.0);
                }
            }
        }
    }
    for ((size, name), rows) in means {
        let mean = |i: usize| rows.iter().map(|r| r[i]).sum::<f64>() / rows.len() as f64;
        println!("{:8} {size:5} {name:9} {:8.3} {:8.1} {:8.2}  mean of {}", "decimals", mean(0), mean(1), mean(2), rows.len());
    }
    timestamps();
}

fn rows(chunks: &[&[f64]]) -> Vec<(&'static str, ([f64; 3], String))> {
    let with = |codec| move |values: &[f64], out: &mut Vec<u8>| encode_values_with(codec, values, out).then_some(codec);
    let auto = |values: &[f64], out: &mut Vec<u8>| Some(encode_values(values, out));
    let (decimal, bits, near) = (with(ValueCodec::Decimal), with(ValueCodec::Bits), with(ValueCodec::Near));
    let own: Decode<'_> = &|codec, bytes, count, out| decode_values(codec, bytes, count, out).expect("just encoded");
    let codecs: [(&'static str, Encode<'_>, Decode<'_>); 5] =
        [("auto", &auto, own), ("decimal", &decimal, own), ("bits", &bits, own), ("near", &near, own), ("pco", &encode_pco, &decode_pco)];
    let mut rows = Vec::new();
    for (name, encode, decode) in codecs {
        rows.extend(measure(chunks, encode, decode).map(|row| (name, row)));
    }
    let size = chunks.iter().map(|c| xor_bits(c).div_ceil(8)).sum::<usize>() as f64;
    let samples = chunks.iter().map(|c| c.len()).sum::<usize>() as f64;
    rows.push(("xor", ([size / samples, f64::NAN, f64::NAN], "size only".into())));
    rows
}

/// Bytes, encoding and decoding time per sample; none if the codec does not suit some chunk.
fn measure(chunks: &[&[f64]], encode: Encode<'_>, decode: Decode<'_>) -> Option<([f64; 3], String)> {
    let samples: usize = chunks.iter().map(|c| c.len()).sum();
    let mut encoded: Vec<(ValueCodec, usize, usize)> = Vec::new();
    let mut bytes = Vec::new();
    let (mut encode_ns, mut decode_ns) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        encoded.clear();
        bytes.clear();
        let start = Instant::now();
        for chunk in chunks {
            let from = bytes.len();
            let codec = encode(black_box(chunk), &mut bytes)?;
            encoded.push((codec, from, bytes.len()));
        }
        encode_ns = encode_ns.min(start.elapsed().as_nanos() as f64);
    }
    let mut out = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for (chunk, (codec, from, to)) in chunks.iter().zip(&encoded) {
            out.clear();
            decode(*codec, black_box(&bytes[*from..*to]), chunk.len(), &mut out);
            black_box(&out);
        }
        decode_ns = decode_ns.min(start.elapsed().as_nanos() as f64);
    }
    let mut chosen: BTreeMap<u8, usize> = BTreeMap::new();
    for (chunk, (codec, from, to)) in chunks.iter().zip(&encoded) {
        out.clear();
        decode(*codec, &bytes[*from..*to], chunk.len(), &mut out);
        assert!(out.iter().map(|v| v.to_bits()).eq(chunk.iter().map(|v| v.to_bits())), "{codec:?} is not lossless");
        *chosen.entry(*codec as u8).or_default() += 1;
    }
    let per = |total: f64| total / samples as f64;
    Some(([per(bytes.len() as f64), per(encode_ns), per(decode_ns)], format!("{chosen:?}")))
}

/// The wrapped form, which has the least bytes around the data; the codec returned has no meaning.
fn encode_pco(values: &[f64], out: &mut Vec<u8>) -> Option<ValueCodec> {
    let config = pco::ChunkConfig::default().with_paging_spec(pco::PagingSpec::Exact(vec![values.len()]));
    let file = pco::wrapped::FileCompressor::default();
    let mut chunk = file.chunk_compressor(values, &config).ok()?;
    file.write_header(&mut *out).ok()?;
    chunk.write_meta(&mut *out).ok()?;
    chunk.write_page(0, &mut *out).ok()?;
    Some(ValueCodec::Bits)
}

fn decode_pco(_: ValueCodec, bytes: &[u8], count: usize, out: &mut Vec<f64>) {
    out.resize(count, 0.0);
    let (file, rest) = pco::wrapped::FileDecompressor::new(bytes).expect("just encoded");
    let (mut chunk, rest) = file.chunk_decompressor::<f64, _>(rest).expect("just encoded");
    chunk.page_decompressor(rest, count).expect("just encoded").read(out).expect("just encoded");
}

/// Bits of a chunk in the XOR encoding of Gorilla and Prometheus.
fn xor_bits(values: &[f64]) -> usize {
    let (mut bits, mut before, mut window) = (64, values[0].to_bits(), None);
    for value in &values[1..] {
        let xor = value.to_bits() ^ before;
        before = value.to_bits();
        let (leading, trailing) = (xor.leading_zeros().min(31), xor.trailing_zeros());
        bits += match window {
            _ if xor == 0 => 1,
            Some((l, t)) if leading >= l && trailing >= t => 2 + 64 - (l + t) as usize,
            _ => {
                window = Some((leading, trailing));
                2 + 5 + 6 + 64 - (leading + trailing) as usize
            }
        };
    }
    bits
}

/// The kinds of data on which the format was chosen, and sums of durations that rounding has made long.
fn synthetic() -> Vec<(&'static str, Vec<Vec<f64>>)> {
    let mut random = StdRng::seed_from_u64(1);
    let mut kind = |make: &dyn Fn(&mut StdRng) -> Vec<f64>| (0..SERIES).map(|_| make(&mut random)).collect::<Vec<_>>();
    let sums = |random: &mut StdRng, unit: f64, steps: &dyn Fn(&mut StdRng) -> i64| {
        let mut sum = random.random_range(0..10_000_000i64);
        (0..SAMPLES)
            .map(|_| {
                sum += steps(random);
                sum as f64 / unit
            })
            .collect::<Vec<_>>()
    };
    let walk = |random: &mut StdRng, unit: f64, step: i64| {
        let mut at = random.random_range(1000..100_000i64);
        (0..SAMPLES)
            .map(|_| {
                at = (at + random.random_range(-step..=step)).max(0);
                at as f64 / unit
            })
            .collect::<Vec<_>>()
    };
    vec![
        (
            "ctr",
            kind(&|r| {
                let pace = r.random_range(50..2000);
                sums(r, 1.0, &move |r| r.random_range(pace * 9 / 10..=pace * 11 / 10))
            }),
        ),
        ("slow", kind(&|r| sums(r, 1.0, &|r| (r.random_range(0..12i64) - 8).max(0)))),
        ("rare", kind(&|r| sums(r, 1.0, &|r| i64::from(r.random_range(0..100) == 0)))),
        ("cpu2d", kind(&|r| sums(r, 100.0, &|r| r.random_range(0..300)))),
        ("g2d", kind(&|r| walk(r, 100.0, 150))),
        ("g3d", kind(&|r| walk(r, 1000.0, 40))),
        ("mem", kind(&|r| walk(r, 1.0, 60).into_iter().map(|v| v * 4096.0).collect())),
        ("gint", kind(&|r| (0..SAMPLES).map(|_| f64::from(r.random_range(3..14))).collect())),
        ("const", kind(&|r| vec![f64::from(r.random_range(0..1000)); SAMPLES])),
        (
            "noisy",
            kind(&|r| {
                let (middle, width) = (r.random_range(1.0..1000.0), r.random_range(0.01..0.3));
                (0..SAMPLES).map(|_| middle * (1.0 + width * r.random_range(-1.0..1.0))).collect()
            }),
        ),
        ("milli", kind(&|r| sums(r, 1.0, &|r| r.random_range(0..300)).into_iter().map(|v| v * 0.001).collect())),
        (
            "sumsec",
            kind(&|r| {
                let mut sum = r.random_range(0.0..1000.0);
                (0..SAMPLES)
                    .map(|_| {
                        for _ in 0..r.random_range(1..9) {
                            sum += f64::from(r.random_range(100_000..90_000_000)) / 1e9;
                        }
                        sum
                    })
                    .collect()
            }),
        ),
    ]
}

/// The series of one target from its scrapes in the text format, without timestamps.
fn scraped(files: &[String]) -> Vec<Vec<f64>> {
    let mut series: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for file in files {
        let text = std::fs::read_to_string(file).expect("a readable file");
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let Some((name, value)) = line.rsplit_once(' ') else { continue };
            series.entry(name.to_owned()).or_default().push(value.parse().expect("a number"));
        }
    }
    series.into_values().collect()
}

fn timestamps() {
    let mut random = StdRng::seed_from_u64(2);
    let regular: Vec<i64> = (0..1920).map(|i| 1_700_000_000_000 + i * 15_000).collect();
    let jitter: Vec<i64> = regular.iter().map(|t| t + random.random_range(-5..=5)).collect();
    let missed: Vec<i64> = jitter.iter().copied().filter(|_| random.random_range(0..100) > 0).collect();
    println!("\ntimestamps, ms of 15 s: {:>9} {:>8} {:>8} {:>8}", "chunk", "B/sample", "enc ns", "dec ns");
    for (name, millis) in [("exact", regular), ("jitter of 5", jitter), ("1 % missed", missed)] {
        for size in CHUNKS {
            let millis = &millis[..size.min(millis.len())];
            let (mut bytes, mut out) = (Vec::new(), Vec::new());
            let (mut encode_ns, mut decode_ns) = (u128::MAX, u128::MAX);
            for _ in 0..200 {
                bytes.clear();
                out.clear();
                let start = Instant::now();
                encode_timestamps(black_box(millis), &mut bytes);
                encode_ns = encode_ns.min(start.elapsed().as_nanos());
                let start = Instant::now();
                decode_timestamps(black_box(&bytes), millis.len(), &mut out).expect("just encoded");
                decode_ns = decode_ns.min(start.elapsed().as_nanos());
            }
            let per = |total: f64| total / millis.len() as f64;
            println!("{name:24} {size:8} {:8.3} {:8.1} {:8.2}", per(bytes.len() as f64), per(encode_ns as f64), per(decode_ns as f64));
        }
    }
}
