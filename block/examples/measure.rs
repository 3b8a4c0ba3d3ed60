//! Measures size and speed of a block of a modelled fleet (scratch).
#![allow(dead_code, clippy::all)]
#[path = "/work/shared/bench/src/model.rs"]
mod model;

use std::sync::Arc;
use std::time::Instant;

use isobar_block::local::DurableLocal;
use isobar_block::*;

fn cpu_ms() -> f64 {
    let s = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = s.rsplit(')').next().unwrap().split_whitespace().collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) * 10.0
}

fn rss_mb() -> f64 {
    let s = std::fs::read_to_string("/proc/self/statm").unwrap();
    s.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 4096.0 / 1e6
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arg = |i: usize, d: i64| std::env::args().nth(i).map_or(d, |s| s.parse().unwrap());
    let (targets, slots, group, zstd, page, jitter) =
        (arg(1, 200) as usize, arg(2, 480) as usize, arg(3, 8192) as usize, arg(4, 3) as i32, arg(5, 128 << 10) as usize, arg(6, 0));
    let cfg = model::Cfg {
        seed: 7, targets, series_per_target: 500, interval_ms: 15_000, jitter_ms: jitter, churn_per_hour: 0.0, replicas: 1, gap_fraction: 0.0,
        restart_mean_h: 12.0, start_ms: 1_700_006_400_000, from_slot: 0, slots,
    };
    let mut series: Vec<(Labels, SampleBuf)> = Vec::new();
    for t in 0..targets {
        let mut target = model::Target::new(&cfg, t, 0);
        let mut out = vec![0.0; target.n];
        let mut values = vec![Vec::with_capacity(slots); target.n];
        let mut times = Vec::new();
        for k in 0..slots {
            times.push(target.step(&cfg, k, &mut out));
            values.iter_mut().zip(&out).for_each(|(v, x)| v.push(*x));
        }
        let times = Timestamps::unshared(times);
        let mut v = values.into_iter();
        for u in &target.units {
            for i in 0..u.len() {
                let labels = Labels::from_pairs(u.labels(i)).unwrap();
                series.push((labels, SampleBuf { timestamps: times.clone(), values: v.next().unwrap(), histograms: vec![] }));
            }
        }
    }
    series.sort_by(|a, b| a.0.cmp(&b.0));
    let label_bytes: usize = series.iter().map(|s| s.0.as_bytes().len()).sum();
    println!("{} series, {} label bytes per series, rss {:.0} MB", series.len(), label_bytes / series.len(), rss_mb());
    for (name, encoding) in [("delta", parquet::basic::Encoding::DELTA_BYTE_ARRAY), ("plain", parquet::basic::Encoding::PLAIN)] {
        use arrow::array::*;
        let props = parquet::file::properties::WriterProperties::builder().set_writer_version(parquet::file::properties::WriterVersion::PARQUET_2_0).set_compression(parquet::basic::Compression::ZSTD(parquet::basic::ZstdLevel::try_new(9).unwrap())).set_dictionary_enabled(false).set_encoding(encoding).build();
        let schema = Arc::new(arrow::datatypes::Schema::new(vec![arrow::datatypes::Field::new("l", arrow::datatypes::DataType::Binary, false)]));
        let mut w = parquet::arrow::ArrowWriter::try_new(Vec::new(), schema.clone(), Some(props)).unwrap();
        for part in series.chunks(8192) {
            let a: ArrayRef = Arc::new(BinaryArray::from_iter_values(part.iter().map(|s| s.0.as_bytes())));
            w.write(&RecordBatch::try_new(schema.clone(), vec![a]).unwrap()).unwrap();
            w.flush().unwrap();
        }
        println!("canonical {name}: {:.2} B/series", w.into_inner().unwrap().len() as f64 / series.len() as f64);
    }
    let dir = std::env::temp_dir().join(format!("isobar-measure-{}", std::process::id()));
    let objects = Arc::new(DurableLocal::new(&dir).unwrap());
    let tenant = TenantId::default();
    let store = BlockStore::new(objects.clone(), BlockStoreConfig::default());
    let mut config = WriterConfig::new(1_700_000_000_000);
    config.series_per_group = group;
    config.values_zstd_level = zstd;
    config.page_bytes = page;
    let (t, c) = (Instant::now(), cpu_ms());
    let mut writer = BlockWriter::new(config);
    for (labels, samples) in &series {
        writer.push_series(labels, None, samples, &[]).unwrap();
    }
    println!("push {:?} cpu {} ms, estimate {} B", t.elapsed(), cpu_ms() - c, writer.encoded_bytes());
    let (t, c) = (Instant::now(), cpu_ms());
    let meta = writer.finish(&*objects, &tenant).await.unwrap();
    println!("finish {:?} cpu {} ms, rss {:.0} MB", t.elapsed(), cpu_ms() - c, rss_mb());
    let n = meta.samples as f64;
    for f in &meta.files {
        println!("  {:18} {:9} B  {:.2} B/series {:.4} B/sample tail {}", f.name, f.size_bytes, f.size_bytes as f64 / series.len() as f64, f.size_bytes as f64 / n, f.tail_bytes);
    }
    println!("  total {:.4} B/sample", meta.size_bytes as f64 / n);
    store.catalog(&tenant).await.unwrap().commit(Change { add: vec![meta.clone()], ..Default::default() }).await.unwrap();
    drop(store);
    if let Ok(keep) = std::env::var("KEEP") {
        std::process::Command::new("cp").args(["-r", dir.to_str().unwrap(), &keep]).status().unwrap();
    }

    let big = BlockStoreConfig { caches: cache::CacheConfig { series_bytes: 1 << 30, chunks_bytes: 1 << 30, chunk_index_bytes: 1 << 30, blocks_bytes: 1 << 30 }, ..Default::default() };
    let m = |n: &str, op, v: &str| Matcher::new(n, op, v).unwrap();
    let meta = Arc::new(meta);
    for round in 0..3 {
        let store = BlockStore::new(objects.clone(), big.clone());
        let source = store.source(&tenant);
        let t = Instant::now();
        store.catalog(&tenant).await.unwrap();
        println!("-- round {round}: catalog {:?}", t.elapsed());
        let t = Instant::now();
        let reader = store.reader(&tenant, &meta).await.unwrap();
        println!("open block {:?} {:?}", t.elapsed(), reader.meta().ulid);
        let selects: Vec<(&str, Vec<Matcher>)> = vec![
            ("name", vec![m("__name__", MatchOp::Equal, "node_cpu_seconds_total")]),
            ("name+mode", vec![m("__name__", MatchOp::Equal, "node_cpu_seconds_total"), m("mode", MatchOp::Regex, "idle|user")]),
            ("job", vec![m("job", MatchOp::Equal, "node-exporter")]),
            ("job regex", vec![m("job", MatchOp::Regex, "node.*")]),
            ("pod regex", vec![m("pod", MatchOp::Regex, ".*a.*"), m("__name__", MatchOp::Regex, "container_.*")]),
            ("all", vec![]),
        ];
        for (name, matchers) in &selects {
            for kind in ["cold", "warm"] {
                let (t, c) = (Instant::now(), cpu_ms());
                let sets = source.select(matchers, TimeRange::ALL).await.unwrap();
                let len: usize = sets.iter().map(|s| s.len()).sum();
                println!("select {name:10} {kind} {len:6} series {:?} cpu {}", t.elapsed(), cpu_ms() - c);
            }
        }
        let sets = source.select(&[], TimeRange::ALL).await.unwrap();
        for kind in ["cold", "warm", "warm"] {
            let t = Instant::now();
            let mut load = std::time::Duration::ZERO;
            let mut samples = 0usize;
            let mut sum = 0.0;
            let mut buf = SampleBuf::default();
            let mut ids = std::collections::HashSet::new();
            for start in (0..sets[0].len()).step_by(1000) {
                let rows = start..(start + 1000).min(sets[0].len());
                let l = Instant::now();
                let mut run = sets[0].load(rows.clone(), TimeRange::ALL).await.unwrap();
                load += l.elapsed();
                for row in rows {
                    run.read(row, &mut buf).unwrap();
                    samples += buf.len();
                    sum += buf.values[0];
                    ids.insert(buf.timestamps.id());
                }
            }
            let e = t.elapsed();
            println!("scan {kind} {samples} samples {e:?}: load {load:?}, read {:.2} ns/sample, {:.0} ns/series, {} ids {sum}", (e - load).as_nanos() as f64 / samples as f64, (e - load).as_nanos() as f64 / sets[0].len() as f64, ids.len());
        }
        for kind in ["warm"] {
            let t = Instant::now();
            let names = source.label_names(&[], TimeRange::ALL).await.unwrap();
            let t1 = t.elapsed();
            let values = source.label_values("instance", &[], TimeRange::ALL).await.unwrap();
            println!("{kind} label_names {} {t1:?} label_values {} {:?}", names.len(), values.len(), t.elapsed() - t1);
        }
        println!("rss {:.0} MB", rss_mb());
    }
    let t = Instant::now();
    let mut checked = 0;
    let store = BlockStore::new(objects.clone(), big);
    let sets = store.source(&tenant).select(&[], TimeRange::ALL).await.unwrap();
    let mut buf = SampleBuf::default();
    let mut run = sets[0].load(0..sets[0].len(), TimeRange::ALL).await.unwrap();
    for row in 0..sets[0].len() {
        run.read(row, &mut buf).unwrap();
        assert_eq!(sets[0].labels(row), series[row].0.as_ref());
        assert_eq!(*buf.timestamps, *series[row].1.timestamps);
        assert!(buf.values.iter().zip(&series[row].1.values).all(|(a, b)| a.to_bits() == b.to_bits()));
        checked += buf.len();
    }
    println!("checked {checked} samples {:?}", t.elapsed());
    let t = Instant::now();
    let report = store.verify(&tenant, &meta).await.unwrap();
    println!("verify {:?} {report:?}", t.elapsed());
    std::fs::remove_dir_all(dir).unwrap();
}
