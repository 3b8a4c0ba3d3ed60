//! Texts that become blocks.

use std::sync::Arc;

use isobar_block::{BlockStoreConfig, Matcher, SampleBuf, Source, TenantId, TimeRange, Want};
use object_store::memory::InMemory;

use super::*;

const TEXT: &str = "# HELP http_requests Requests.
# TYPE http_requests counter
# UNIT http_requests requests
http_requests_total{code=\"200\"} 1 1700000000 # {trace_id=\"x\"} 1 1699999999
http_requests_total{code=\"200\"} 2 1700007200
http_requests_created{code=\"200\"} 1600000000 1700000000
http_requests_total{code=\"500\"} 7 1700000000.25
# TYPE temp gauge
temp -3.5 1700000000
# EOF
";

fn store() -> BlockStore {
    BlockStore::new(Arc::new(InMemory::new()), BlockStoreConfig::default())
}

fn config(labels: &[(&str, &str)]) -> ImportConfig {
    let labels = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    ImportConfig { tenant: TenantId::default(), labels, memory_bytes: 64 << 20 }
}

async fn run(blocks: &BlockStore, text: &str, flavour: Flavour, config: &ImportConfig) -> Result<Imported> {
    let text = Text { reader: Box::new(text.as_bytes()), name: "text".into(), size_bytes: None, flavour };
    import(blocks, text, &std::env::temp_dir(), config, &|_| {}).await
}

async fn samples(source: &Arc<dyn Source>, matchers: &[Matcher]) -> Vec<(String, Vec<(i64, f64)>)> {
    let selected = source.select(matchers, TimeRange::ALL, Want::default()).await.expect("selects");
    let mut out = std::collections::BTreeMap::<String, Vec<(i64, f64)>>::new();
    for set in selected.sets {
        let mut run = set.load(0..set.len(), TimeRange::ALL).await.expect("loads");
        let mut buf = SampleBuf::default();
        for row in 0..set.len() {
            run.read(row, &mut buf).expect("reads");
            out.entry(set.labels(row).to_string()).or_default().extend(buf.timestamps.iter().copied().zip(buf.values.iter().copied()));
        }
    }
    out.into_iter().collect()
}

#[tokio::test]
async fn a_text_becomes_blocks_once() {
    let blocks = store();
    let first = run(&blocks, TEXT, Flavour::OpenMetrics, &config(&[("dc", "a")])).await.expect("imports");
    assert!(matches!(first, Imported::Now { blocks: 2, samples: 4, .. }), "{first:?}");
    let version = blocks.catalog(&TenantId::default()).await.expect("catalog").blocks().version;
    assert_eq!(run(&blocks, TEXT, Flavour::OpenMetrics, &config(&[("dc", "a")])).await.expect("imports"), Imported::Before);
    let catalog = blocks.catalog(&TenantId::default()).await.expect("catalog");
    assert_eq!(catalog.blocks().version, version);
    let source = blocks.source(&TenantId::default());
    let all = samples(&source, &[]).await;
    let expected = [
        ("http_requests_total{code=\"200\", dc=\"a\"}", vec![(1_700_000_000_000, 1.0), (1_700_007_200_000, 2.0)]),
        ("http_requests_total{code=\"500\", dc=\"a\"}", vec![(1_700_000_000_250, 7.0)]),
        ("temp{dc=\"a\"}", vec![(1_700_000_000_000, -3.5)]),
    ];
    assert_eq!(all, expected.map(|(l, s)| (l.to_owned(), s)));
    let metadata = source.metadata(Some("http_requests_total")).await.expect("metadata");
    let expected = Metadata { metric_type: MetricType::Counter, help: "Requests.".into(), unit: "requests".into() };
    assert_eq!(metadata, [("http_requests_total".to_owned(), vec![expected])]);
    let exemplars = source.exemplars(&[], TimeRange::ALL).await.expect("exemplars");
    assert_eq!((exemplars.len(), exemplars[0].1[0].timestamp_ms), (1, 1_699_999_999_000));
    for block in &catalog.blocks().blocks {
        assert!(block.precedence_ms < block.min_time_ms, "ingesters win");
        assert!(blocks.verify(&TenantId::default(), block).await.expect("verifies").is_sound());
    }
    // Other labels are another import.
    let other = run(&blocks, TEXT, Flavour::OpenMetrics, &config(&[("dc", "b")])).await.expect("imports");
    assert!(matches!(other, Imported::Now { .. }));
}

#[tokio::test]
async fn a_wrong_line_imports_nothing() {
    let blocks = store();
    for (text, part) in [
        ("a 1 1\nb x 1\n# EOF\n", "text: line 2: \"x\" is not a number"),
        ("a 1 1\n", "ends without \"# EOF\""),
        ("a 1\n# EOF\n", "line 1: there is no timestamp"),
        ("a{b=\"1\",b=\"2\"} 1 1\n# EOF\n", "line 1: label: label name \"b\" occurs twice"),
    ] {
        let error = run(&blocks, text, Flavour::OpenMetrics, &config(&[])).await.expect_err(text).to_string();
        assert!(error.contains(part), "{error}");
    }
    assert!(blocks.catalog(&TenantId::default()).await.expect("catalog").blocks().blocks.is_empty());
    let prometheus = run(&blocks, "# x\na 1 1700000000000\n", Flavour::Prometheus, &config(&[])).await.expect("imports");
    assert!(matches!(prometheus, Imported::Now { samples: 1, .. }));
}
