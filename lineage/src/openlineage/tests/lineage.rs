//! What outputs are made of, and what becomes of datasets.

use super::*;

fn with_facet(mut event: Value, pointer: &str, name: &str, facet: Value) -> Value {
    let target = event.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}"));
    if target.get("facets").is_none() {
        target["facets"] = json!({});
    }
    target["facets"][name] = facet;
    event
}

fn columns(from: &str, to: &str) -> Value {
    json!({"fields": {to: {"inputFields": [{"namespace": "n", "name": from, "field": "x", "transformations": []}]}}})
}

#[tokio::test]
async fn without_a_word_about_it_every_output_comes_from_every_input() {
    let bench = Bench::open().await;
    bench.stored(&[run("a", 1, "COMPLETE", 1_000, &["x", "y"], &["u", "v"])]).await;
    let graph = bench.at(2_000).await;
    assert_eq!(needs(&graph, &job("a")), ["dataset:n/x", "dataset:n/y"]);
    assert_eq!((needs(&graph, &data("u")), needs(&graph, &data("v"))), (vec!["job:j/a".to_owned()], vec!["job:j/a".to_owned()]));
    assert_eq!(node(&graph, &job("a")).attributes["lineage"], "inferred");
    assert_eq!(edge(&graph, &job("a"), &data("x")).expect("reads it").probability, 1.0);
}

#[tokio::test]
async fn explicit_lineage_is_all_there_is() {
    let bench = Bench::open().await;
    let source = |name: &str| json!({"type": "DATASET", "namespace": "n", "name": name});
    let mut field = source("y");
    field["field"] = json!("f");
    let facet = json!({"entries": [
        {"type": "DATASET", "namespace": "n", "name": "u", "inputs": [source("x")], "fields": {"k": {"inputs": [field]}}},
        {"type": "DATASET", "namespace": "n", "name": "v", "inputs": [{"type": "JOB"}]},
        {"type": "DATASET", "namespace": "n", "name": "w", "inputs": []},
        {"type": "JOB", "inputs": [source("q")]},
    ]});
    let event = run("a", 1, "COMPLETE", 1_000, &["x", "y", "z"], &["u", "v", "w"]);
    // Column lineage beside it does not count.
    let event = with_facet(with_facet(event, "/job", "lineage", facet), "/outputs/0", "columnLineage", columns("z", "c"));
    bench.stored(std::slice::from_ref(&event)).await;
    let graph = bench.at(2_000).await;
    assert_eq!(needs(&graph, &data("u")), ["dataset:n/x", "dataset:n/y", "job:j/a"]);
    assert_eq!(needs(&graph, &column("u", "k")), ["column:n/y/f"]);
    assert_eq!((needs(&graph, &data("v")), needs(&graph, &data("w"))), (vec!["job:j/a".to_owned()], vec!["job:j/a".to_owned()]));
    assert_eq!(edge(&graph, &job("a"), &data("q")).expect("consumes it").class, Class::Hard);
    for input in ["x", "y", "z"] {
        let read = edge(&graph, &job("a"), &data(input)).expect("stays at the boundary of the job");
        assert_eq!((read.class, read.probability), (Class::Ordering, 0.0), "{input}");
    }
    let reached = |name: &str| {
        let request = serde_json::from_value(json!({"nodes": [data(name)]})).expect("valid");
        let blast = graph.blast(&request, &Default::default(), &mut crate::Budget::default()).expect("an answer");
        let mut ids: Vec<String> = blast.result.impacts.iter().map(|i| i.node.id.to_string()).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!((reached("x"), reached("z")), (vec!["dataset:n/u".to_owned()], vec![]));
    // The next run begins without knowing; the edges stay what they are.
    bench.stored(&[run("a", 2, "START", 3_000, &["x", "y", "z"], &[])]).await;
    let graph = bench.at(4_000).await;
    assert_eq!(edge(&graph, &job("a"), &data("x")).expect("reads it").class, Class::Ordering);
    // A run that ends without it has none.
    bench.stored(&[run("a", 2, "COMPLETE", 5_000, &["x", "y", "z"], &["u"])]).await;
    let graph = bench.at(6_000).await;
    assert_eq!(edge(&graph, &job("a"), &data("x")).expect("reads it").class, Class::Hard);
}

#[tokio::test]
async fn descriptions_replace_the_ones_before() {
    let bench = Bench::open().await;
    let described = |at_ms: i64, inputs: &[&str], outputs: &[&str]| {
        let mut event = run("a", 1, "START", at_ms, inputs, outputs);
        for field in ["run", "eventType"] {
            event.as_object_mut().expect("an object").remove(field);
        }
        event
    };
    let first = with_facet(
        described(1_000, &["x", "y"], &["u", "v"]),
        "/outputs/0",
        "symlinks",
        json!({"identifiers": [
        {"namespace": "hive", "name": "u", "type": "TABLE"}]}),
    );
    let first = with_facet(first, "/outputs/0", "schema", json!({"fields": [{"name": "k"}]}));
    bench.stored(&[first, run("a", 1, "COMPLETE", 1_500, &["r"], &[]), described(2_000, &["x"], &["u"])]).await;
    let before = bench.at(1_900).await;
    assert_eq!(needs(&before, &job("a")), ["dataset:n/r", "dataset:n/x", "dataset:n/y"]);
    assert!(before.find(&key("dataset:hive/u")).is_some() && before.find(&data("v")).is_some());
    let after = bench.at(2_100).await;
    assert_eq!(needs(&after, &job("a")), ["dataset:n/r", "dataset:n/x"], "what runs have shown stays");
    assert_eq!(needs(&after, &data("u")), ["job:j/a"]);
    assert!(after.find(&data("v")).is_none() && after.find(&key("dataset:hive/u")).is_none() && after.find(&column("u", "k")).is_none());
    // Late: the newer one has replaced it already.
    bench.stored(&[described(1_800, &["x", "late"], &["u"])]).await;
    let graph = bench.at(2_100).await;
    assert_eq!(needs(&graph, &job("a")), ["dataset:n/r", "dataset:n/x"]);

    let dataset = |at_ms: i64, from: &str| {
        json!({"eventTime": rfc3339(at_ms), "producer": "p", "schemaURL": "s", "dataset": {"namespace": "n", "name": "view", "facets": {
            "lineage": {"inputs": [{"type": "DATASET", "namespace": "n", "name": from}], "fields": {}}}}})
    };
    bench.stored(&[dataset(3_000, "x"), dataset(4_000, "y")]).await;
    assert_eq!(needs(&*bench.at(3_500).await, &data("view")), ["dataset:n/x"]);
    assert_eq!(needs(&*bench.at(4_500).await, &data("view")), ["dataset:n/y"]);
}

#[tokio::test]
async fn datasets_are_dropped_and_renamed() {
    let bench = Bench::open().await;
    let lifecycle = |change: &str, previous: Option<&str>| {
        let previous = previous.map(|name| json!({"namespace": "n", "name": name}));
        json!({"lifecycleStateChange": change, "previousIdentifier": previous})
    };
    let schema = json!({"fields": [{"name": "k", "type": "int"}]});
    let written = with_facet(run("a", 1, "COMPLETE", 1_000, &["x"], &["u"]), "/outputs/0", "schema", schema.clone());
    bench.stored(&[written, run("b", 2, "COMPLETE", 1_100, &["u"], &["w"])]).await;
    let dropping = with_facet(run("c", 3, "START", 2_000, &[], &["u"]), "/outputs/0", "lifecycleStateChange", lifecycle("DROP", None));
    let mut dropped = dropping.clone();
    (dropped["eventType"], dropped["eventTime"]) = (json!("COMPLETE"), json!(rfc3339(2_500)));
    bench.stored(&[dropping, dropped]).await;
    let before = bench.at(2_400).await;
    assert!(before.find(&data("u")).is_some() && before.find(&column("u", "k")).is_some());
    let after = bench.at(2_600).await;
    assert!(after.find(&data("u")).is_none() && after.find(&column("u", "k")).is_none());
    assert!(after.find(&data("w")).is_some() && after.find(&data("x")).is_some());

    let made = with_facet(run("a", 4, "COMPLETE", 3_000, &["x"], &["u"]), "/outputs/0", "schema", schema);
    let renamed =
        with_facet(run("d", 5, "COMPLETE", 4_000, &[], &["final"]), "/outputs/0", "lifecycleStateChange", lifecycle("RENAME", Some("u")));
    bench.stored(&[made, renamed]).await;
    let graph = bench.at(4_100).await;
    assert_eq!(graph.find(&data("u")), graph.find(&data("final")));
    assert_eq!(needs(&graph, &data("final")), ["column:n/u/k", "job:j/a", "job:j/d"]);
    let created =
        with_facet(run("a", 6, "COMPLETE", 5_000, &["x"], &["u"]), "/outputs/0", "lifecycleStateChange", lifecycle("CREATE", None));
    bench.stored(&[created]).await;
    let graph = bench.at(5_100).await;
    assert_ne!(graph.find(&data("u")), graph.find(&data("final")), "a new table has the old name");
}
