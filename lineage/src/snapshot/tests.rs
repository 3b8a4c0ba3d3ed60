//! As of a time: what is live, stale and gone; names that are one node, and are not any more; what every source says.

use serde_json::json;

use super::*;
use crate::event::Event;
use crate::history::OPEN_MS;
use crate::model::Status;
use crate::testing::{event, fold, key, snapshot};

fn ids(snapshot: &Snapshot) -> Vec<String> {
    snapshot.nodes().map(|n| snapshot.key(n).to_string()).collect()
}

fn at(events: &[Event], at_ms: i64) -> Snapshot {
    fold(events.to_vec(), at_ms)
}

#[test]
fn a_lease_is_live_then_stale_then_gone() {
    let lease = |id: &str, t| event(id, t, json!([{"node": {"node": "service:a", "ttl_ms": 30_000}}]));
    let events = [lease("1", 100_000), lease("2", 120_000)];
    assert!(ids(&at(&events, 99_999)).is_empty());
    let live = at(&events, 150_000);
    let node = live.get(&key("a")).expect("there");
    assert_eq!((live.node(node).status, live.next_change_ms()), (Status::Live, 150_001));
    let stale = at(&events, 150_001);
    assert_eq!(stale.node(stale.get(&key("a")).expect("there")).status, Status::Stale);
    assert_eq!(stale.next_change_ms(), 210_001);
    assert!(stale.at(210_000).is_some() && stale.at(210_001).is_none());
    let gone = at(&events, 210_001);
    assert!(gone.find(&key("a")).is_none());
    assert!(gone.get(&key("a")).expect_err("gone").to_string().contains("is not in the graph as of 210001"));
}

#[test]
fn names_become_one_node_and_two_again() {
    let events = [
        event(
            "1",
            10,
            json!([
                {"edge": {"from": "service:web", "to": "service:payment", "body": {"share": 0.5, "confidence": 0.5}}},
                {"edge": {"from": "service:web", "to": "workload:pay", "body": {"evidence": "observed", "share": 0.25, "confidence": 0.5}}},
                {"edge": {"from": "workload:pay", "to": "service:payment"}},
                {"edge": {"from": "workload:pay", "to": "host:h"}},
                {"node": {"node": "workload:pay", "body": {"owners": [{"name": "ops"}]}}},
                {"node": {"node": "service:payment", "body": {"owners": [{"name": "pay"}], "criticality": "high"}}},
            ]),
        ),
        event("2", 20, json!([{"alias": {"alias": "workload:pay", "canonical": "service:payment", "rule": "k8s-name"}}])),
        event("3", 30, json!([{"separate": {"alias": "workload:pay", "canonical": "service:payment", "rule": "wrong"}}])),
    ];
    assert_eq!(at(&events, 15).node_count(), 4);
    let one = at(&events, 25);
    assert_eq!((one.node_count(), one.edge_count()), (3, 2));
    let payment = one.get(&key("workload:pay")).expect("by either name");
    assert_eq!(one.key(payment).as_str(), "service:payment");
    let view = one.node(payment);
    assert_eq!(view.owners.iter().map(|o| o.name.as_str()).collect::<Vec<_>>(), ["pay", "ops"]);
    assert_eq!((view.aliases[0].rule.as_str(), view.aliases[0].id.as_str()), ("k8s-name", "workload:pay"));
    let (edge, _) = one.dependents(payment).next().expect("web");
    let edge = one.edge(edge);
    assert_eq!((edge.claims.len(), edge.share, edge.confidence), (2, 0.25, 0.75));
    assert_eq!(at(&events, 35).node_count(), 4, "taken apart again");
}

#[test]
fn a_merge_by_way_of_others_respects_what_was_taken_apart() {
    let graph = snapshot(json!([
        {"node": {"node": "service:a"}}, {"node": {"node": "service:b"}}, {"node": {"node": "service:c"}},
        {"separate": {"alias": "service:a", "canonical": "service:c"}},
        {"alias": {"alias": "service:a", "canonical": "service:b", "rule": "r"}},
        {"alias": {"alias": "service:c", "canonical": "service:b", "rule": "r"}},
    ]));
    assert_eq!(graph.node_count(), 2);
    let answer = graph.cycles(1);
    assert!(answer.unresolved[0].reason.contains("were taken apart"), "{:?}", answer.unresolved);
}

#[test]
fn an_asset_model_of_the_user() {
    let graph = snapshot(json!([
        {"type": {"name": "kafka-cluster", "body": {"inherits": "cluster", "composed_of": ["host"], "attributes": {"version": {"type": "text", "required": true}}}}},
        {"type": {"name": "cvm-host", "body": {"inherits": "host"}}},
        {"node": {"node": "kafka-cluster:main"}},
        {"edge": {"from": "kafka-cluster:main", "to": "cvm-host:1", "relation": "composition", "body": {"group": {"id": "hosts", "k": 2, "n": 3}}}},
        {"edge": {"from": "kafka-cluster:main", "to": "cvm-host:2", "relation": "composition", "body": {"group": {"id": "hosts", "k": 2, "n": 3}}}},
        {"edge": {"from": "application:shop", "to": "kafka-cluster:main"}},
    ]));
    let view = graph.node(graph.get(&key("kafka-cluster:main")).expect("there"));
    assert_eq!((view.kinds, view.missing_attributes), (vec!["kafka-cluster".to_owned(), "cluster".into()], vec!["version".to_owned()]));
    let request = crate::analysis::blast::BlastRequest::new(vec![key("cvm-host:1"), key("cvm-host:2")]);
    let blast = graph.blast(&request, &Default::default(), &mut Default::default()).expect("an answer").result;
    assert_eq!(
        blast.impacts.iter().map(|i| (i.node.kind.as_str(), i.errors)).collect::<Vec<_>>(),
        [("kafka-cluster", 1.0), ("application", 1.0)]
    );
    let one = crate::analysis::blast::BlastRequest::new(vec![key("cvm-host:1")]);
    assert_eq!(
        graph.blast(&one, &Default::default(), &mut Default::default()).expect("an answer").result.touched,
        0,
        "two of three are left"
    );
}

#[test]
fn every_edge_shows_who_says_what() {
    let mut observed = event(
        "2",
        20,
        json!([{"edge": {"from": "service:a", "to": "service:b", "ttl_ms": 100, "body": {"evidence": "observed", "share": 0.3}}}]),
    );
    observed.source = "traces".into();
    let events = [event("1", 10, json!([{"edge": {"from": "service:a", "to": "service:b", "body": {"class": "soft"}}}])), observed];
    let graph = at(&events, 50);
    let view = graph.edge(graph.edges().next().expect("one"));
    assert_eq!(view.claims.iter().map(|c| c.claim.source.as_str()).collect::<Vec<_>>(), ["test", "traces"]);
    assert_eq!((view.first_seen_ms, view.last_seen_ms, view.class, view.share), (10, 20, Class::Soft, 0.3));
    assert_eq!(graph.sources().iter().map(|s| (s.source.as_str(), s.heard_ms)).collect::<Vec<_>>(), [("test", 10), ("traces", 20)]);
    let later = at(&events, 500);
    assert_eq!((later.edge(EdgeIdx(0)).claims.len(), later.next_change_ms()), (1, OPEN_MS), "only the declaration is left");
}
