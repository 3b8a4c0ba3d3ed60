//! Cycles that must be refused, facts that come twice, scopes that say everything.

use serde_json::{Value, json};

use super::check::Pending;
use super::*;
use crate::event::Event;
use crate::model::Status;

fn event(source: &str, at_ms: i64, facts: Value) -> Event {
    let id = format!("{source}-{at_ms}-{}", RecentIds::hash(&facts.to_string()));
    let mut event: Event = serde_json::from_value(json!({"id": id, "source": source, "at_ms": at_ms, "facts": facts})).expect("an event");
    event.check(i64::MAX - MAX_FUTURE).expect("valid");
    event
}

const MAX_FUTURE: i64 = crate::event::MAX_FUTURE_MS;

fn edge(from: &str, to: &str) -> Value {
    json!({"edge": {"from": from, "to": to}})
}

fn part(from: &str, to: &str) -> Value {
    json!({"edge": {"from": from, "to": to, "relation": "composition"}})
}

fn accept(state: &mut State, event: Event) {
    state.check(&event, &mut Pending::default()).expect("is accepted");
    state.fold(event);
}

fn refuse(state: &State, facts: Value) -> String {
    state.check(&event("x", 100, facts), &mut Pending::default()).expect_err("is refused").to_string()
}

fn edge_status(state: &State, from: &str, to: &str, at_ms: i64) -> Vec<Status> {
    let find = |id: &str| state.frozen.find(&NodeKey::parse(id).expect("valid"));
    let (Some(from), Some(to)) = (find(from), find(to)) else { return Vec::new() };
    let id = state.find_edge(from, to, Relation::Dependency);
    id.map(|id| state.frozen.edges[id].claims.at(at_ms).map(|(_, _, s)| s).collect()).unwrap_or_default()
}

#[test]
fn a_cycle_of_compositions_is_named() {
    let mut state = State::default();
    accept(&mut state, event("x", 1, json!([part("cluster:k", "host:a"), part("host:a", "volume:v"), edge("host:a", "cluster:k")])));
    let error = refuse(&state, json!([part("volume:v", "cluster:k")]));
    assert_eq!(error, "composition must not have a cycle: volume:v -> cluster:k -> host:a -> volume:v; leave one of these out");
    let error = refuse(&state, json!([part("volume:v", "host:w"), part("host:w", "cluster:k")]));
    assert!(error.contains("host:w -> cluster:k -> host:a -> volume:v -> host:w"), "within one event: {error}");
    accept(&mut state, event("x", 2, json!([{"edge_gone": {"from": "host:a", "to": "volume:v", "relation": "composition"}}])));
    accept(&mut state, event("x", 3, json!([part("volume:v", "cluster:k")])));
}

#[test]
fn names_of_one_node_cannot_be_parts_of_each_other() {
    let mut state = State::default();
    accept(
        &mut state,
        event("x", 1, json!([part("cluster:k", "host:a"), {"alias": {"alias": "host:b", "canonical": "host:a", "rule": "r"}}])),
    );
    let error = refuse(&state, json!([{"alias": {"alias": "host:b", "canonical": "cluster:k", "rule": "r"}}]));
    assert!(error.contains("cluster:k -> host:a"), "{error}");
    let error = refuse(&state, json!([part("host:b", "cluster:k")]));
    assert!(error.contains("host:b -> cluster:k -> host:a"), "{error}");
    accept(&mut state, event("y", 2, json!([{"separate": {"alias": "host:b", "canonical": "host:a"}}])));
    accept(&mut state, event("x", 3, json!([part("host:b", "cluster:k")])));
}

#[test]
fn a_cycle_of_inheritance_is_named() {
    let mut state = State::default();
    let inherits = |name: &str, parent: &str| json!({"type": {"name": name, "body": {"inherits": parent}}});
    accept(&mut state, event("x", 1, json!([inherits("cvm-host", "host"), inherits("gpu-host", "cvm-host")])));
    let error = refuse(&state, json!([inherits("host", "gpu-host")]));
    assert_eq!(error, "inheritance must not have a cycle: host -> gpu-host -> cvm-host -> host; leave one of these out");
    assert!(refuse(&state, json!([inherits("a", "b"), inherits("b", "a")])).contains("b -> a -> b"));
    assert!(refuse(&state, json!([inherits("a", "a")])).contains("a -> a"));
    let of = |name: &str, part: &str| json!({"type": {"name": name, "body": {"composed_of": [part]}}});
    assert!(refuse(&state, json!([of("a", "b"), of("b", "a")])).contains("composition of types"));
}

#[test]
fn attributes_have_the_types_that_their_kind_says() {
    let mut state = State::default();
    let host = json!({"type": {"name": "rack-host", "body": {"inherits": "host", "attributes": {"slot": {"type": "number"}}}}});
    let node = |slot: Value| json!({"node": {"node": "rack-host:a", "body": {"attributes": {"slot": slot}}}});
    let error = refuse(&state, json!([host, node(json!("x"))]));
    assert_eq!(error, "facts[1].node.body.attributes.slot: must be a number, as kind rack-host says; it is \"x\"");
    accept(&mut state, event("x", 1, json!([host, node(json!(4))])));
    assert!(refuse(&state, json!([node(json!(null))])).contains("must be a number"));
}

#[test]
fn kinds_are_bounded() {
    let state = State::default();
    for fact in [
        (|node| json!({"node": {"node": node}})) as fn(String) -> Value,
        |node| json!({"document": {"node": node, "name": "x", "body": 1}}),
        |node| json!({"separate": {"alias": node, "canonical": "service:a"}}),
    ] {
        let facts: Vec<Value> = (0..=MAX_KINDS).map(|i| fact(format!("k{i}:a"))).collect();
        assert!(refuse(&state, json!(facts)).contains("one kind of nodes more than 4096"));
    }
}

#[test]
fn what_a_scope_does_not_repeat_is_withdrawn() {
    let mut state = State::default();
    accept(&mut state, event("k8s", 10, json!([edge("service:a", "service:b"), edge("service:a", "service:c")])));
    accept(&mut state, event("traces", 11, json!([edge("service:a", "service:b")])));
    let mut all = event("k8s", 20, json!([edge("service:a", "service:c")]));
    all.complete_since_ms = Some(20);
    let epoch = state.frozen.epoch;
    state.fold(all.clone());
    assert!(state.frozen.epoch > epoch);
    assert_eq!(edge_status(&state, "service:a", "service:b", 15).len(), 2);
    assert_eq!(edge_status(&state, "service:a", "service:b", 20).len(), 1, "the other source still says so");
    assert_eq!(edge_status(&state, "service:a", "service:c", 25).len(), 1);
    let before = state.frozen.epoch;
    assert_eq!(state.fold(all), Changes { changed: false, prolonged_ms: OPEN_MS });
    assert_eq!(state.frozen.epoch, before, "an event that comes twice changes nothing");
}

#[test]
fn saying_it_again_is_no_change_of_the_graph() {
    let mut state = State::default();
    let lease = json!([{"node": {"node": "service:a", "ttl_ms": 30}}]);
    assert!(state.fold(event("lease", 0, lease.clone())).changed);
    assert_eq!(state.fold(event("lease", 20, lease.clone())), Changes { changed: false, prolonged_ms: 31 });
    assert!(state.fold(event("lease", 60, lease)).changed, "it was stale");
}

#[test]
fn hostile_names_are_nodes_like_others() {
    let mut state = State::default();
    let name = "/:%\u{0}é🚀".repeat(5000);
    let a = NodeKey::new("topic", &name, &name).expect("valid");
    let b = NodeKey::new("topic", &name, "x").expect("valid");
    accept(&mut state, event("x", 1, json!([edge(a.as_str(), b.as_str())])));
    assert_eq!(edge_status(&state, a.as_str(), b.as_str(), 5), [Status::Live]);
}
