//! Writes `testdata/v1`: a small block of every kind of data, and what it has to be read as. Run once for each version of the
//! format, before its first release; afterwards the files are frozen.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use isobar_block::histogram::{CUSTOM_BUCKETS_SCHEMA, Counts, ResetHint, Span};
use isobar_block::local::DurableLocal;
use isobar_block::{
    BlockId, BlockStore, BlockStoreConfig, BlockWriter, Change, Exemplar, Histogram, Labels, Metadata, MetricType, SampleBuf, TenantId,
    Timestamps, WriterConfig, WriterMark, stale_nan,
};

const SAMPLES: usize = 130;

fn histogram(i: usize, kind: usize) -> Histogram {
    let (positive, negative) = (vec![i as u64, 2 * i as u64, 3], vec![i as u64 / 2]);
    let floats = |counts: &[u64]| counts.iter().map(|c| *c as f64 + 0.25).collect::<Vec<_>>();
    let counts = if kind == 0 {
        Counts::Integer { count: 4 * i as u64 + 3, zero: 1, positive, negative }
    } else {
        Counts::Float { count: 4.0 * i as f64, zero: 0.5, positive: floats(&positive), negative: Vec::new() }
    };
    let negative_spans = if kind == 0 { vec![Span { offset: 2, length: 1 }] } else { Vec::new() };
    Histogram {
        reset_hint: [ResetHint::Unknown, ResetHint::Yes, ResetHint::No, ResetHint::Gauge][i % 4],
        schema: if kind == 2 { CUSTOM_BUCKETS_SCHEMA } else { (i / 60) as i32 },
        zero_threshold: if kind == 2 { 0.0 } else { 1e-128 },
        sum: if i == 77 { stale_nan() } else { i as f64 * 1.5 },
        positive_spans: vec![Span { offset: if kind == 2 { 0 } else { -1 }, length: 2 }, Span { offset: 1, length: 1 }],
        negative_spans,
        custom_bounds: if kind == 2 { vec![0.1, 1.0, 2.5, 10.0] } else { Vec::new() },
        counts,
    }
}

fn value(kind: usize, i: usize) -> f64 {
    match kind {
        0 => 7.0,
        1 => (i * i) as f64,
        2 => (i as f64 * 37.0) % 11.0 / 100.0,
        3 => (i as f64).sin(),
        4 => [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, stale_nan(), f64::from_bits(1)][i % 6],
        5 => 1.7e9 + i as f64 / 1000.0,
        _ => 4096.0 * ((i * 7919) % 1000) as f64,
    }
}

fn series() -> Result<BTreeMap<Labels, SampleBuf>, Box<dyn Error>> {
    let regular = Timestamps::shared((0..SAMPLES as i64).map(|i| 1_700_000_000_000 + i * 60_000).collect());
    let jittered = Timestamps::unshared((0..SAMPLES as i64).map(|i| 1_700_000_000_000 + i * 60_000 + i * i % 13).collect());
    let mut out = BTreeMap::new();
    for n in 0..14 {
        let labels =
            [("__name__", format!("frozen_{}", n % 4)), ("n", n.to_string()), ("zone", "zürich".into()), ("rare", "x".repeat(n % 2))];
        let values = (0..SAMPLES).map(|i| value(n % 7, i)).collect();
        let timestamps = if n % 3 == 0 { jittered.clone() } else { regular.clone() };
        out.insert(Labels::from_pairs(labels)?, SampleBuf { timestamps, values, histograms: Vec::new(), counts: Vec::new() });
    }
    for kind in 0..3 {
        let mut buf = SampleBuf {
            timestamps: regular.clone(),
            values: (0..SAMPLES).map(|i| value(1, i)).collect(),
            histograms: Vec::new(),
            counts: Vec::new(),
        };
        for i in (0..SAMPLES).filter(|i| kind != 1 || i % 5 != 0) {
            let histogram = histogram(i, kind);
            buf.values[i] = histogram.sum;
            buf.histograms.push((i as u32, Arc::new(histogram)));
        }
        out.insert(Labels::from_pairs([("__name__", format!("frozen_histogram_{kind}"))])?, buf);
    }
    out.insert(
        Labels::empty(),
        SampleBuf { timestamps: Timestamps::unshared(vec![-1]), values: vec![1.0], histograms: Vec::new(), counts: Vec::new() },
    );
    Ok(out)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/v1");
    if root.exists() {
        return Err(format!("{} exists: frozen files are not written again", root.display()).into());
    }
    let (store, tenant) = (BlockStore::new(Arc::new(DurableLocal::new(&root)?), BlockStoreConfig::default()), TenantId::new("frozen")?);
    let mut config = WriterConfig::new(1_700_012_000_000);
    config.id = BlockId::from_parts(config.created_ms, 42);
    config.writers = vec![WriterMark { id: "ingester-0".into(), wal_segment_end: 9 }];
    (config.series_per_group, config.chunks_per_group, config.page_bytes, config.label_columns) = (8, 16, 2048, 3);
    let mut writer = BlockWriter::new(config);
    let metadata = Metadata { metric_type: MetricType::Counter, help: "Frozen.".into(), unit: "seconds".into() };
    let (mut all, mut exemplars, mut described) = (Vec::new(), Vec::new(), BTreeMap::new());
    for (labels, buf) in series()? {
        let name = labels.get("__name__").unwrap_or_default().to_owned();
        let known = (name == "frozen_1").then_some(&metadata);
        let exemplar = Exemplar { labels: Labels::from_pairs([("trace_id", "4bf92f35")])?, value: 0.25, timestamp_ms: 1_700_000_000_500 };
        let of_series = if name == "frozen_2" { vec![exemplar] } else { Vec::new() };
        writer.push_series(&labels, known, &buf, &of_series)?;
        let bits: Vec<String> = buf.values.iter().map(|v| format!("{:016x}", v.to_bits())).collect();
        let histograms: Vec<(u32, String)> = buf.histograms.iter().map(|(i, h)| (*i, format!("{h:?}"))).collect();
        all.push(serde_json::json!({
            "labels": labels.iter().collect::<BTreeMap<_, _>>(), "timestamps_ms": &buf.timestamps[..],
            "value_bits": bits, "histograms": histograms,
        }));
        if !of_series.is_empty() {
            exemplars.push(format!("{:?}", (labels, of_series)));
        }
        if let Some(known) = known {
            described.insert(name, vec![known.clone()]);
        }
    }
    let meta = writer.finish(&**store.objects(), &tenant).await?;
    store.catalog(&tenant).await?.commit(Change { add: vec![meta], ..Change::default() }).await?;
    let metadata: Vec<_> = described.into_iter().collect();
    let expected = serde_json::json!({ "series": all, "exemplars": exemplars, "metadata": metadata });
    std::fs::write(root.join("expected.json"), serde_json::to_vec(&expected)?)?;
    Ok(())
}
