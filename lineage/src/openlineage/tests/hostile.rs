//! Names and sizes that nobody should send, and somebody does.

use super::*;

#[tokio::test]
async fn names_survive() {
    let bench = Bench::open().await;
    let long = "ä:/%#\u{1F980}".repeat(65_536 / 10);
    assert!(long.len() > 64_000 && long.len() <= 65_536);
    let names = ["a:b/c", "%2F", "  ", "\u{0}\n\t", "名前", "..", "job:x/y", "'; drop table x; --", "\u{202E}abc", long.as_str()];
    for (i, name) in names.into_iter().enumerate() {
        let (id, at_ms) = (i as u32, 1_000 + i as i64);
        let mut event = run(name, id, "COMPLETE", at_ms, &[name], &["out"]);
        event["job"]["namespace"] = json!(name);
        event["inputs"][0]["namespace"] = json!(name);
        event["inputs"][0]["facets"] = json!({"schema": {"fields": [{"name": name}]}, name: {"v": name}});
        bench.stored(&[event]).await;
    }
    let graph = bench.at(5_000).await;
    for name in names {
        let (job, dataset) = (super::super::job_key(name, name).expect("valid"), super::super::dataset_key(name, name).expect("valid"));
        let column = NodeKey::column(&dataset, name).expect("valid");
        assert!(edge(&graph, &job, &dataset).is_some() && edge(&graph, &dataset, &column).is_some(), "{name:.40}");
        assert_eq!((job.namespace().as_ref(), job.name().as_ref(), column.name().as_ref()), (name, name, name));
        let found = NodeKey::parse(dataset.as_str()).expect("an id");
        assert_eq!(node(&graph, &found).name, name);
    }
    assert_eq!(bench.store.documents(&super::super::job_key(&long, &long).expect("valid"), "run/").len(), 1);
}

/// An event of about so many bytes: one output with very many columns.
fn large(bytes: usize) -> Value {
    let mut event = run("large", 1, "COMPLETE", 1_000, &["x"], &["u"]);
    let producer = "https://example.org/integration/1.0";
    let (mut fields, mut lineage) = (Vec::new(), serde_json::Map::new());
    for i in 0..bytes / 620 {
        let name = format!("a_column_with_a_usual_name_{i:06}");
        fields.push(json!({"name": name, "type": "VARCHAR", "description": "What it means"}));
        let from = |n: usize| {
            json!({"namespace": "postgres://warehouse.example.org:5432", "name": format!("shop.public.source_{}", n % 40), "field": name,
                "transformations": [{"type": "DIRECT", "subtype": "TRANSFORMATION", "description": "coalesce(x, y)", "masking": false}]})
        };
        lineage.insert(name.clone(), json!({"inputFields": [from(i), from(i + 1)]}));
    }
    event["outputs"][0]["facets"] =
        json!({"schema": {"_producer": producer, "fields": fields}, "columnLineage": {"_producer": producer, "fields": lineage}});
    event
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_mebibytes_are_taken_in_time() {
    let bench = Bench::open().await;
    let event = large(20 << 20);
    let text = event.to_string();
    let columns = event["outputs"][0]["facets"]["schema"]["fields"].as_array().map_or(0, Vec::len);
    assert!(text.len() > 20 << 20, "{}", text.len());
    let begun = Instant::now();
    let mut outcome = bench.intake.accept(&bench.store, vec![text.clone()], ()).await.remove(0);
    println!("{} bytes with {columns} columns: {:?}", text.len(), begun.elapsed());
    assert!(begun.elapsed().as_secs_f64() < 5.0, "whoever sent it would not wait any longer: {:?}", begun.elapsed());
    // On a machine that is busy with other things the answer may be that it has to be sent again; the work goes on meanwhile.
    while matches!(outcome, Err(crate::Error::NotWritten { .. })) && begun.elapsed().as_secs() < 120 {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        outcome = bench.intake.accept(&bench.store, vec![text.clone()], ()).await.remove(0);
    }
    outcome.expect("is stored");
    let again = bench.intake.accept(&bench.store, vec![text], ()).await.remove(0);
    assert_eq!(again.map_err(|e| e.to_string()), Ok(Accepted::Repeated));
    let graph = bench.at(2_000).await;
    assert_eq!(graph.dependents(graph.find(&column("u", "a_column_with_a_usual_name_000007")).expect("is there")).count(), 1);
    assert!(graph.node_count() > 3 * columns && graph.edge_count() > 3 * columns, "{} {}", graph.node_count(), graph.edge_count());
    // It survives a restart.
    let (version, nodes) = (bench.store.version(), graph.node_count());
    assert!(version >= 1);
    assert_eq!(bench.now().await.version(), version);
    assert!(nodes > 0);
}
