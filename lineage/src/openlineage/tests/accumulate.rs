//! Runs add to each other, and say nothing twice.

use super::*;

#[tokio::test]
async fn events_of_a_run_add_up_in_any_order() {
    let said = |event_type: &str, at_ms: i64| {
        let mut event = run("a", 1, event_type, at_ms, &["x"], if event_type == "COMPLETE" { &["u"] } else { &[] });
        match event_type {
            "START" => event["inputs"][0]["facets"] = json!({"documentation": {"description": "Orders"}, "own": {"v": 1}}),
            _ => event["inputs"][0]["facets"] = json!({"schema": {"fields": [{"name": "k"}]}, "own": {"v": 2}}),
        }
        event
    };
    for order in [[0, 1], [1, 0]] {
        let bench = Bench::open().await;
        let events = [said("START", 1_000), said("COMPLETE", 2_000)];
        for i in order {
            bench.stored(&events[i..=i]).await;
        }
        let graph = bench.at(3_000).await;
        let view = node(&graph, &data("x"));
        assert_eq!((view.description.as_str(), &view.attributes["fields"]), ("Orders", &json!([{"name": "k"}])), "{order:?}");
        assert_eq!(view.attributes["facets"]["own"]["v"], 2, "{order:?}");
        assert_eq!((needs(&graph, &job("a")), needs(&graph, &data("u"))), (vec!["dataset:n/x".to_owned()], vec!["job:j/a".to_owned()]));
        let run = bench.store.document(&job("a"), "run/00000000-0000-4000-8000-000000000001").expect("the run").1;
        assert_eq!(
            (&run["state"], &run["startedAt"], &run["endedAt"]),
            (&json!("COMPLETE"), &json!(rfc3339(1_000)), &json!(rfc3339(2_000)))
        );
    }
}

#[tokio::test]
async fn runs_that_say_the_same_do_not_change_the_graph() {
    let bench = Bench::open().await;
    let hour = 3_600_000;
    let mut versions = Vec::new();
    for i in 0..30 {
        for (event_type, after_ms) in [("START", 0), ("RUNNING", 60_000), ("COMPLETE", 120_000)] {
            let mut event = run("a", i, event_type, i64::from(i) * hour + after_ms, &["x"], &["u"]);
            event["outputs"][0]["facets"] = json!({"schema": {"fields": [{"name": "k"}]}, "version": {"datasetVersion": i.to_string()}});
            event["outputs"][0]["outputFacets"] = json!({"outputStatistics": {"rowCount": i}});
            event["job"]["facets"] = json!({"sql": {"query": format!("select {i}")}});
            bench.stored(&[event]).await;
        }
        versions.push(bench.at(i64::from(i) * hour + 180_000).await.node_count());
    }
    let at_ms = 29 * hour + 180_000;
    let graph = bench.at(at_ms).await;
    let view = node(&graph, &job("a"));
    assert_eq!(view.attributes["run_interval_ms"], hour);
    assert_eq!(bench.store.document(&job("a"), "facet/sql").expect("the query").1["query"], "select 29");
    let rhythm = bench.store.document(&job("a"), "freshness").expect("the rhythm").1;
    assert_eq!((&rhythm["lastSuccessAt"], rhythm["intervalMs"].as_i64()), (&json!(rfc3339(29 * hour + 120_000)), Some(hour)));
    let written = edge(&graph, &data("u"), &job("a")).expect("the job writes it");
    assert_eq!(written.lag_ms, Some(hour));
    assert_eq!(bench.store.documents(&job("a"), "run/").len(), 30);
    // The body has had two versions: one before the rhythm was known, and one since.
    let from: Vec<i64> = view.claims.iter().map(|c| c.from_ms).collect();
    assert_eq!(from, [3 * hour]);
    assert_eq!(node(&graph, &data("u")).claims[0].from_ms, 0);
}

#[tokio::test]
async fn what_runs_do_not_show_any_more_grows_old() {
    let bench = Bench::open().await;
    let day = 24 * 3_600_000;
    let now_ms = 400 * day;
    bench.stored(&[run("a", 1, "COMPLETE", now_ms - 60 * day, &["old"], &["u"]), run("a", 2, "COMPLETE", now_ms, &["x"], &["u"])]).await;
    let graph = bench.at(now_ms + 1).await;
    let status = |name: &str| edge(&graph, &job("a"), &data(name)).map(|e| e.status);
    assert_eq!((status("old"), status("x")), (Some(crate::model::Status::Stale), Some(crate::model::Status::Live)));
    let later = bench.at(now_ms + 60 * day).await;
    assert!(edge(&later, &job("a"), &data("old")).is_none() && edge(&later, &job("a"), &data("x")).is_some());
}

#[tokio::test]
async fn columns_follow_the_writer_and_readers_only_add() {
    let bench = Bench::open().await;
    let schema = |names: &[&str]| json!({"schema": {"fields": names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>()}});
    let writes = |id: u32, at_ms: i64, names: &[&str]| {
        let mut event = run("w", id, "COMPLETE", at_ms, &[], &["t"]);
        event["outputs"][0]["facets"] = schema(names);
        event
    };
    let reads = |id: u32, at_ms: i64, names: &[&str]| {
        let mut event = run("r", id, "COMPLETE", at_ms, &["t"], &[]);
        event["inputs"][0]["facets"] = schema(names);
        event
    };
    bench.stored(&[writes(1, 1_000, &["a", "b", "c"]), reads(2, 2_000, &["b"])]).await;
    assert_eq!(needs(&*bench.at(2_500).await, &data("t")), ["column:n/t/a", "column:n/t/b", "column:n/t/c", "job:j/w"]);
    bench.stored(&[writes(3, 3_000, &["a", "d"])]).await;
    assert_eq!(needs(&*bench.at(3_500).await, &data("t")), ["column:n/t/a", "column:n/t/d", "job:j/w"]);
    let mut deleted = run("w", 4, "COMPLETE", 4_000, &[], &["t"]);
    deleted["outputs"][0]["facets"] = json!({"schema": {"_deleted": true}});
    bench.stored(&[deleted]).await;
    assert_eq!(needs(&*bench.at(4_500).await, &data("t")), ["job:j/w"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_at_the_same_time_lose_nothing() {
    let bench = Bench::open().await;
    let mut sent = Vec::new();
    for i in 0..200_u32 {
        let mut event =
            run(&format!("j{}", i % 7), 1_000 + i % 20, ["START", "RUNNING"][(i % 2) as usize], 1_000 + i64::from(i), &["x"], &[]);
        event["inputs"][0]["facets"] = json!({format!("f{}", i % 50): {"v": 1}});
        event["run"]["facets"] = json!({format!("r{i}"): {"v": 1}});
        let (intake, store) = (bench.intake.clone(), bench.store.clone());
        sent.push(tokio::spawn(
            async move { intake.accept(&store, vec![event.to_string()], ()).await.remove(0).map_err(|e| e.to_string()) },
        ));
    }
    for one in sent {
        assert_eq!(one.await.expect("does not panic"), Ok(Accepted::Stored));
    }
    let graph = bench.at(5_000).await;
    assert_eq!(node(&graph, &data("x")).attributes["facets"].as_object().map(serde_json::Map::len), Some(50));
    let runs: usize = (0..7)
        .flat_map(|j| bench.store.documents(&job(&format!("j{j}")), "run/"))
        .map(|(_, _, run)| run["facets"].as_object().map_or(0, serde_json::Map::len))
        .sum();
    assert_eq!(runs, 200, "every event has left its facet in the document of its run");
}

#[tokio::test]
async fn other_names_and_words_of_columns_come_and_go() {
    let bench = Bench::open().await;
    let says = |id: u32, at_ms: i64, names: &[&str], words: Value| {
        let mut event = run("w", id, "COMPLETE", at_ms, &[], &["t"]);
        let names: Vec<Value> = names.iter().map(|n| json!({"namespace": "hive", "name": n, "type": "TABLE"})).collect();
        event["outputs"][0]["facets"] =
            json!({"schema": {"fields": [{"name": "k"}]}, "symlinks": {"identifiers": names}, "tags": {"tags": words}});
        event
    };
    let word = json!([{"key": "pii", "value": "true", "field": "k"}, {"key": "gold", "value": ""}]);
    bench.stored(&[says(1, 1_000, &["a", "b"], word), says(2, 2_000, &["b"], json!([]))]).await;
    let before = bench.at(1_500).await;
    let same = |graph: &Graph, name: &str| {
        let other = key(&format!("dataset:hive/{name}"));
        let columns = graph.find(&key(&format!("column:hive/{name}/k"))) == graph.find(&column("t", "k"));
        (graph.find(&other) == graph.find(&data("t")), columns)
    };
    assert_eq!((same(&before, "a"), same(&before, "b")), ((true, true), (true, true)));
    assert_eq!((node(&before, &column("t", "k")).tags, node(&before, &data("t")).tags), (vec!["pii".to_owned()], vec!["gold".to_owned()]));
    let after = bench.at(2_500).await;
    assert_eq!((same(&after, "a"), same(&after, "b")), ((false, false), (true, true)));
    assert!(node(&after, &data("t")).tags.is_empty() && node(&after, &column("t", "k")).tags.is_empty());
}
