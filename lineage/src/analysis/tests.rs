//! Rankings, walks, paths, searches, choke points and causes on graphs that one can draw; own algorithms against petgraph.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use petgraph::algo::{dominators, kosaraju_scc};
use petgraph::graph::{DiGraph, NodeIndex};
use serde_json::json;

use super::blast::{BlastRequest, Live};
use super::cause::CauseRequest;
use super::walk::{Filter, WalkRequest};
use super::*;
use crate::testing::{Random, edges, key, snapshot};

const SHOP: &str = r#"
    interface:web -> frontend
    frontend -> checkout {"share": 0.1}
    frontend -> catalog
    checkout -> payment
    checkout -> cart
    checkout -> mail {"class": "soft"}
    cart -> database:redis
    payment -> bank
"#;

fn names(nodes: impl IntoIterator<Item = crate::snapshot::NodeRef>) -> Vec<String> {
    nodes.into_iter().map(|n| n.name).collect()
}

fn walk(graph: &Snapshot, node: &str, direction: Direction, depth: u32) -> Vec<String> {
    let request = WalkRequest { nodes: vec![key(node)], direction, depth, filter: Filter::default(), limit: 100, edges: false };
    let answer = graph.walk(&request, &mut Budget::default()).expect("an answer");
    names(answer.result.nodes.into_iter().map(|v| v.node))
}

#[test]
fn walks_go_one_way_only() {
    let graph = edges(SHOP);
    assert_eq!(walk(&graph, "payment", Direction::Dependents, 9), ["checkout", "frontend", "web"]);
    assert_eq!(walk(&graph, "payment", Direction::Providers, 9), ["bank"]);
    assert_eq!(walk(&graph, "frontend", Direction::Providers, 1), ["checkout", "catalog"]);
    let mut request = WalkRequest {
        nodes: vec![key("frontend"), key("nobody")],
        direction: Direction::Providers,
        depth: 9,
        filter: Filter { kinds: vec!["database".into()], classes: vec![crate::model::Class::Hard], ..Filter::default() },
        limit: 100,
        edges: true,
    };
    let answer = graph.walk(&request, &mut Budget::default()).expect("an answer");
    assert_eq!((answer.complete, answer.unresolved[0].subject.as_str()), (false, "service:nobody"));
    assert_eq!(names(answer.result.nodes.into_iter().map(|v| v.node)), ["redis"]);
    assert!(answer.result.edges.iter().all(|e| e.class == crate::model::Class::Hard) && answer.result.edges.len() == 6);
    request.limit = 0;
    assert!(!graph.walk(&request, &mut Budget::default()).expect("an answer").complete);
}

#[test]
fn the_worst_comes_first_with_its_reason() {
    let graph = snapshot(json!([
        {"edge": {"from": "interface:web", "to": "service:frontend"}},
        {"edge": {"from": "service:frontend", "to": "service:checkout", "body": {"share": 0.1}}},
        {"edge": {"from": "service:checkout", "to": "service:payment"}},
        {"edge": {"from": "service:batch", "to": "service:payment"}},
        {"edge": {"from": "project:shop", "to": "service:frontend", "relation": "composition"}},
        {"node": {"node": "service:checkout", "body": {"criticality": "critical", "owners": [{"name": "team-a"}]}}},
        {"node": {"node": "service:batch", "body": {"criticality": "low", "owners": [{"name": "team-b"}]}}},
    ]));
    let live = Live { rates: [("frontend", 500.0), ("checkout", 50.0), ("batch", 20.0)].into_iter().map(|(n, r)| (key(n), r)).collect() };
    let request = BlastRequest { worlds: 1 << 14, ..BlastRequest::new(vec![key("payment"), key("ghost")]) };
    let answer = graph.blast(&request, &live, &mut Budget::default()).expect("an answer");
    assert_eq!((answer.complete, answer.unresolved.len(), answer.as_of_ms), (false, 1, crate::testing::AT_MS + 1));
    let blast = answer.result;
    assert_eq!(blast.impacts[0].node.name, "checkout");
    assert_eq!(blast.impacts[0].lost_per_s, Some(50.0));
    let frontend = blast.impacts.iter().find(|i| i.node.name == "frontend").expect("touched");
    assert!((frontend.lost_per_s.expect("the rate is known") - 50.0).abs() < 3.0, "{frontend:?}");
    let shop = blast.impacts.iter().find(|i| i.node.kind == "project").expect("touched");
    let way: Vec<String> = shop.path.iter().map(|s| s.dependent.name().into_owned()).collect();
    assert_eq!((way, shop.rate), (vec!["checkout".into(), "frontend".into(), "shop".into()], None));
    assert!((shop.path_probability - 0.1).abs() < 1e-6);
    assert_eq!(blast.by_owner.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["team-a", "team-b"]);
    assert_eq!(blast.by_kind.iter().find(|s| s.name == "service").expect("services").nodes, 3);
    let again = graph.blast(&request, &live, &mut Budget::default()).expect("an answer").result;
    assert_eq!(serde_json::to_value(&again).expect("JSON"), serde_json::to_value(&blast).expect("JSON"), "the same seed");
}

#[test]
fn an_answer_stops_at_its_budget_or_when_nobody_waits() {
    let graph = edges(&(0..3000).map(|i| format!("n{} -> n{i}\n", i + 1)).collect::<String>());
    let request = BlastRequest::new(vec![key("n0")]);
    let answer = graph.blast(&request, &Live::default(), &mut Budget::new(20_000)).expect("an answer");
    assert!(!answer.complete && answer.unresolved.iter().any(|u| u.subject == "worlds"), "{:?}", answer.unresolved);
    let full = graph.blast(&request, &Live::default(), &mut Budget::default()).expect("an answer");
    assert_eq!((full.complete, full.result.touched, full.result.impacts[0].errors), (true, 3000, 1.0));
    assert!(full.result.impacts.iter().any(|i| i.path.len() == 200), "long chains do not overflow");
    let mut canceled = Budget::default().cancelable(Arc::new(AtomicBool::new(true)));
    let request = BlastRequest { worlds: 1 << 14, ..request };
    assert!(matches!(graph.blast(&request, &Live::default(), &mut canceled), Err(Error::Canceled)));
    let bad = BlastRequest { severity: 0.0, ..BlastRequest::new(vec![key("n0")]) };
    assert!(graph.blast(&bad, &Live::default(), &mut Budget::default()).expect_err("refused").to_string().starts_with("severity"));
}

#[test]
fn paths_come_most_likely_first() {
    let graph = edges(
        r#"a -> b {"share": 0.9}
           b -> d {"share": 0.9}
           a -> c
           c -> d {"share": 0.5}
           a -> d {"share": 0.1}
           b -> c
           c -> b {"share": 0.2}"#,
    );
    let answer = graph.paths(&key("d"), &key("a"), 10, &mut Budget::default()).expect("an answer");
    let got: Vec<(f64, usize)> = answer.result.paths.iter().map(|p| ((p.probability * 1000.0).round() / 1000.0, p.steps.len())).collect();
    assert_eq!(got, [(0.81, 2), (0.5, 2), (0.45, 3), (0.18, 3), (0.1, 1)]);
    assert_eq!(graph.paths(&key("d"), &key("a"), 2, &mut Budget::default()).expect("an answer").result.paths.len(), 2);
    assert!(graph.paths(&key("a"), &key("d"), 2, &mut Budget::default()).expect("an answer").result.paths.is_empty());
}

#[test]
fn names_are_found_by_any_part() {
    let graph = snapshot(json!([
        {"node": {"node": "service:shop/payment"}},
        {"node": {"node": "service:shop/payment-db"}},
        {"node": {"node": "dataset:postgres:%2F%2Fwh:5432/shop.orders", "body": {"title": "The Orders"}}},
        {"alias": {"alias": "workload:k8s/zahlung", "canonical": "service:shop/payment", "rule": "manual"}},
    ]));
    let find = |text: &str, kind| {
        let hits = graph.search(text, kind, 10, &mut Budget::default()).expect("an answer").result.hits;
        hits.into_iter().map(|h| h.node.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(find("PAYMENT", None), ["service:shop/payment", "service:shop/payment-db"]);
    assert_eq!(find("zahl", None), ["service:shop/payment"]);
    assert_eq!(find("postgres://wh", None).len(), 1);
    assert_eq!(find("the orders", None).len(), 1);
    assert_eq!(find("shop", Some("dataset")).len(), 1);
    assert!(!graph.search("p", None, 1, &mut Budget::default()).expect("an answer").complete);
}

#[test]
fn cycles_are_shown_with_a_way_around() {
    let graph = edges("a -> b\nb -> c\nc -> a\nc -> d\nd -> e\ne -> d {\"class\": \"ordering\"}");
    let answer = graph.cycles(10).result;
    assert_eq!((answer.total, answer.cycles[0].size), (1, 3));
    let around: Vec<String> = answer.cycles[0].example.iter().map(|k| k.name().into_owned()).collect();
    assert_eq!(around, ["a", "b", "c", "a"]);
}

#[test]
fn single_points_leave_out_what_is_redundant() {
    let graph = edges(
        r#"web -> lb
           lb -> w1 {"group": {"id": "w", "k": 1}}
           lb -> w2 {"group": {"id": "w", "k": 1}}
           w1 -> db
           w2 -> db
           w1 -> host:a
           w2 -> host:b
           web -> ads {"class": "soft"}"#,
    );
    let answer = graph.single_points(&key("web"), &mut Budget::default()).expect("an answer").result;
    assert_eq!(names(answer.points.into_iter().map(|p| p.node)), ["lb", "db"]);
    assert_eq!((answer.tried, answer.redundant), (6, 4));
}

#[test]
fn choke_points_cut_off_what_lies_behind() {
    let graph = edges("web -> gw\nmobile -> gw\ngw -> a\ngw -> b\na -> db\nb -> db\nweb -> cdn\nx -> y\ny -> x");
    let answer = graph.choke_points(10).result;
    let got: Vec<(String, u32)> = answer.choke_points.into_iter().map(|c| (c.node.name, c.cuts_off)).collect();
    assert_eq!(got[0], ("gw".into(), 3));
    let db = graph.get(&key("db")).expect("there");
    assert_eq!(graph.dominators(db).into_iter().map(|n| graph.key(n).name().into_owned()).collect::<Vec<_>>(), ["gw"]);
}

#[test]
fn own_components_and_dominators_agree_with_petgraph() {
    let mut random = Random(7);
    let mut compared = 0;
    for round in 0..100 {
        let n = 5 + random.below(60);
        let pairs: BTreeSet<(u64, u64)> = (0..n * 2).map(|_| (random.below(n), random.below(n))).filter(|(a, b)| a != b).collect();
        let graph = edges(&pairs.iter().map(|(a, b)| format!("n{a} -> n{b}\n")).collect::<String>());
        let mut peer: DiGraph<(), ()> = DiGraph::new();
        let root = peer.add_node(());
        let ids: Vec<NodeIndex> = graph.nodes().map(|_| peer.add_node(())).collect();
        for e in graph.edges() {
            let (from, to) = graph.ends(e);
            peer.add_edge(ids[from.0 as usize], ids[to.0 as usize], ());
        }
        let order = graph.graph.order();
        for component in kosaraju_scc(&peer).iter().filter(|c| !c.contains(&root)) {
            let ours: BTreeSet<u32> = component.iter().map(|i| order.component[i.index() - 1]).collect();
            assert_eq!((ours.len(), order.size[*ours.first().expect("one") as usize] as usize), (1, component.len()), "round {round}");
        }
        for e in graph.edges() {
            let (from, to) = graph.ends(e);
            assert!(order.component[from.0 as usize] >= order.component[to.0 as usize], "providers come first");
        }
        let ours = graph.graph.dominators();
        let depends = |node: u32| graph.dependents(NodeIdx(node)).next().is_some();
        for node in 0..ids.len() as u32 {
            if !depends(node) {
                peer.add_edge(root, ids[node as usize], ());
            }
        }
        let theirs = dominators::simple_fast(&peer, root);
        if ids.iter().any(|id| theirs.immediate_dominator(*id).is_none()) {
            // Cycles that nothing leads to have an entry of their own here.
            continue;
        }
        compared += 1;
        for (node, id) in ids.iter().enumerate() {
            let Some(dominator) = theirs.immediate_dominator(*id) else { continue };
            let expected = if dominator == root { crate::snapshot::NONE } else { dominator.index() as u32 - 1 };
            assert_eq!(ours.parent[node], expected, "round {round}, node {node}");
        }
    }
    assert!(compared >= 20, "{compared} graphs were compared");
}

#[test]
fn the_cause_is_behind_the_alerts_and_not_behind_the_silent() {
    let graph = edges(SHOP);
    let causes = |alerting: &[&str], silent: &[&str]| {
        let request = CauseRequest {
            alerting: alerting.iter().map(|n| key(n)).collect(),
            silent: silent.iter().map(|n| key(n)).collect(),
            ..CauseRequest::default()
        };
        graph.causes(&request, &mut Budget::default()).expect("an answer").result.causes
    };
    let ranked = causes(&["interface:web", "checkout"], &["cart", "catalog", "payment"]);
    assert_eq!(ranked[0].node.name, "checkout");
    let ranked = causes(&["checkout", "cart"], &["payment"]);
    assert_eq!((ranked[0].node.name.as_str(), ranked[0].explains.len()), ("redis", 2), "a silent step in between is no obstacle");
    let bank = ranked.iter().find(|c| c.node.name == "bank").expect("considered");
    assert_eq!((bank.leaves_open.len(), bank.against.len()), (1, 1));
    assert!(ranked[0].probability > 0.4 && ranked.iter().map(|c| c.probability).sum::<f64>() <= 1.0 + 1e-9);
    let request =
        CauseRequest { alerting: vec![key("checkout")], prior: [(key("bank"), 1000.0)].into_iter().collect(), ..CauseRequest::default() };
    assert_eq!(graph.causes(&request, &mut Budget::default()).expect("an answer").result.causes[0].node.name, "bank");
}
