//! Small graphs, calculated by hand.

use std::sync::Arc;

use hashbrown::HashMap;
use isobar_block::time;
use serde_json::json;

use super::chain::Chain;
use super::forecast::{Load, Method, Numbers, forecast};
use super::*;
use crate::mesh::fake::{Fake, row};
use crate::mesh::tests::{bucket, service, tenant};
use crate::snapshot::{EdgeIdx, NodeIdx, Snapshot};
use crate::testing::{edges, key};
use crate::{Event, Outcome};

fn node(snapshot: &Snapshot, name: &str) -> NodeIdx {
    snapshot.get(&key(name)).expect("is there")
}

fn edge(snapshot: &Snapshot, from: &str, to: &str) -> EdgeIdx {
    let to = node(snapshot, to);
    snapshot.providers(node(snapshot, from)).find(|(_, n)| *n == to).expect("an edge").0
}

/// The chain behind `entry`, with rates of nodes and of edges.
fn chain(snapshot: &Snapshot, entry: &str, rates: &[(&str, f64)], calls: &[(&str, &str, f64)]) -> Chain {
    let rates: HashMap<_, _> = rates.iter().map(|(n, r)| (node(snapshot, n), *r)).collect();
    let calls: HashMap<_, _> = calls.iter().map(|(a, b, r)| (edge(snapshot, a, b), *r)).collect();
    Chain::new(snapshot, node(snapshot, entry), &rates, &calls)
}

fn numbers(chain: Chain, loads: &[(NodeIdx, f64)]) -> Numbers {
    let load = |u: f64| Load { query: "q".into(), resource: "cpu".into(), utilisation: u, ..Load::default() };
    let loads = loads.iter().map(|(n, u)| (*n, vec![load(*u)])).collect();
    Numbers { chain, loads, rates: HashMap::new(), unresolved: Vec::new() }
}

fn near(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-9, "{a} is not {b}");
}

/// 100 requests/s: each calls `a`, every second one `b`; the database gets 100 from `a`, 100 from `b` and 100 from elsewhere.
fn shop() -> Snapshot {
    edges(
        r#"entry -> a
           entry -> b {"class": "soft", "share": 0.5}
           a -> db
           b -> db
           other -> db"#,
    )
}

const RATES: &[(&str, f64)] = &[("entry", 100.0), ("a", 100.0), ("b", 50.0), ("db", 300.0)];
const CALLS: &[(&str, &str, f64)] =
    &[("entry", "a", 100.0), ("entry", "b", 50.0), ("a", "db", 100.0), ("b", "db", 100.0), ("other", "db", 100.0)];

#[test]
fn the_first_node_to_saturate_and_what_could_be_shed() {
    let graph = shop();
    let chain = chain(&graph, "entry", RATES, CALLS);
    assert_eq!(chain.nodes.len(), 4, "other is nobody's provider");
    let loads = [(node(&graph, "db"), 0.6), (node(&graph, "a"), 0.3), (node(&graph, "entry"), 0.1)];
    let answer = forecast(&graph, numbers(chain, &loads), 2.0, 1.0);
    let of = |name: &str| answer.result.nodes.iter().find(|n| n.node.id == key(name)).expect("is listed");
    // Two thirds of the database's load are the entry's: doubled, it has 5/3 of its load, which is just all it can do.
    let db = of("db");
    near(db.from_entry, 2.0 / 3.0);
    near(db.load_factor, 5.0 / 3.0);
    near(db.per_request.expect("rates are known"), 2.0);
    near(db.resources[0].predicted, 1.0);
    near(db.resources[0].headroom, 0.4);
    near(db.resources[0].saturates_at.expect("it grows"), 2.0);
    assert_eq!(db.resources[0].method, Method::Proportional);
    near(of("a").resources[0].saturates_at.expect("it grows"), 10.0 / 3.0);
    near(of("b").per_request.expect("rates are known"), 0.5);
    let first = answer.result.first.as_ref().expect("something saturates");
    assert_eq!((first.node.clone(), first.resource.as_str()), (key("db"), "cpu"));
    near(first.factor, 2.0);
    // Without b the database has 1/3 from elsewhere and 1/3 from a; then a is the first.
    let [shed] = answer.result.shed.as_slice() else { panic!("one soft edge") };
    assert_eq!((shed.from.clone(), shed.to.clone()), (key("entry"), key("b")));
    near(shed.requests_per_s.expect("rates are known"), 100.0);
    near(shed.saturates_at.expect("a saturates"), 10.0 / 3.0);
    assert_eq!(shed.frees.len(), 1);
    near(shed.frees[0].before, 1.0);
    near(shed.frees[0].after, 0.6);
    assert_eq!(answer.result.nodes[0].node.id, key("db"), "those first that saturate first");
    // Nobody knows how far b is used.
    assert!(!answer.complete && answer.unresolved.len() == 1 && answer.unresolved[0].subject == "service:b", "{:?}", answer.unresolved);
}

#[test]
fn a_saturated_node_is_so_below_its_traffic_of_now() {
    let graph = edges("entry -> a");
    let chain = chain(&graph, "entry", &[("entry", 10.0), ("a", 10.0)], &[]);
    let answer = forecast(&graph, numbers(chain, &[(node(&graph, "a"), 0.8), (node(&graph, "entry"), 0.2)]), 1.0, 0.4);
    near(answer.result.first.expect("is saturated").factor, 0.5);
    near(answer.result.nodes[0].resources[0].headroom, -0.4);
    assert!(answer.complete);
}

#[test]
fn a_good_fit_tells_what_a_node_needs_when_idle() {
    let graph = edges("entry -> a\n a -> host:h");
    let chain = chain(&graph, "entry", &[("entry", 100.0), ("a", 100.0)], &[]);
    let (a, host, entry) = (node(&graph, "a"), node(&graph, "host:h"), node(&graph, "entry"));
    let mut numbers = numbers(chain, &[(a, 0.5), (host, 0.5), (entry, 0.5)]);
    // u = 0.1 + 0.004 x, with x from 60 to 138 requests per second.
    let rates: Vec<(i64, f64)> = (0..40).map(|i| (i * 1000, 60.0 + 2.0 * i as f64)).collect();
    let line: Vec<(i64, f64)> = rates.iter().map(|(t, x)| (*t, 0.1 + 0.004 * x)).collect();
    numbers.rates = [(a, rates.clone()), (entry, rates.clone())].into_iter().collect();
    for node in [a, host] {
        numbers.loads.get_mut(&node).expect("is there")[0].history = line.clone();
    }
    // What is used at the entry has nothing to do with its traffic.
    numbers.loads.get_mut(&entry).expect("is there")[0].history =
        (0..40).map(|i| (i * 1000, 0.5 + 0.1 * f64::from((i % 2) as i32))).collect();
    let answer = forecast(&graph, numbers, 2.0, 1.0);
    let of = |name: &str| &answer.result.nodes.iter().find(|n| n.node.id == key(name)).expect("is listed").resources[0];
    for (name, against) in [("a", "a"), ("host:h", "entry")] {
        let resource = of(name);
        let fit = resource.fit.as_ref().expect("a line");
        assert_eq!((fit.against.clone(), fit.points, resource.method), (key(against), 40, Method::Fit));
        near(fit.slope, 0.004);
        near(fit.intercept, 0.1);
        near(fit.r2, 1.0);
        near(resource.predicted, 0.9);
        near(resource.saturates_at.expect("it grows"), 2.25);
    }
    assert_eq!((of("entry").method, of("entry").fit.clone()), (Method::Proportional, None));
    near(of("entry").predicted, 1.0);
}

#[test]
fn members_of_a_group_share_the_load_and_hosts_sum_it_up() {
    let graph = edges(
        r#"entry -> svc {"share": 0.5}
           svc -> workload:w1 {"group": {"id": "g", "k": 1, "n": 2}}
           svc -> workload:w2 {"group": {"id": "g", "k": 1, "n": 2}}
           workload:w1 -> host:h
           noisy -> workload:n
           workload:n -> host:h"#,
    );
    let chain = chain(&graph, "entry", &[("entry", 100.0), ("svc", 50.0), ("noisy", 75.0), ("workload:n", 75.0)], &[]);
    let rate = |name: &str| chain.rates[chain.place(node(&graph, name)).expect("in the chain")].expect("is known");
    near(rate("workload:w1"), 25.0);
    near(rate("host:h"), 100.0);
    let multiples = chain.multiples(None);
    // A quarter of what runs on the host is the entry's.
    near(multiples.at(chain.place(node(&graph, "host:h")).expect("in the chain"), 3.0), 1.5);
    assert!(chain.settled && !chain.cut);
}

#[test]
fn without_rates_all_load_is_taken_to_be_the_entrys() {
    let graph = shop();
    let chain = chain(&graph, "entry", &[], &[]);
    let answer = forecast(&graph, numbers(chain, &[(node(&graph, "db"), 0.25)]), 2.0, 1.0);
    near(answer.result.first.expect("saturates").factor, 4.0);
    assert_eq!(answer.result.rate, None);
    assert!(answer.unresolved.iter().any(|u| u.subject == "service:entry" && u.reason.contains("traffic of the entry")));
}

#[test]
fn cycles_and_long_chains_end() {
    let graph = edges(
        r#"entry -> a
           a -> b {"share": 0.5}
           b -> a
           b -> c"#,
    );
    // a gets 100 and half of what it gets itself: 200; b and c 100.
    let chain = chain(&graph, "entry", &[("entry", 100.0)], &[]);
    let rate = |name: &str| chain.rates[chain.place(node(&graph, name)).expect("in the chain")].expect("is known");
    assert!((rate("a") - 200.0).abs() < 1e-3 && (rate("c") - 100.0).abs() < 1e-3, "{} {}", rate("a"), rate("c"));
    let multiples = chain.multiples(None);
    assert!((multiples.at(chain.place(node(&graph, "c")).expect("in the chain"), 2.0) - 2.0).abs() < 1e-3);
    assert!(chain.settled);
    // Each calls the other for every request: there is no such load.
    let endless = edges("entry -> a\n a -> b\n b -> a");
    let endless_chain = self::chain(&endless, "entry", &[("entry", 1.0)], &[]);
    assert!(!endless_chain.settled);
    let answer = forecast(&endless, numbers(endless_chain, &[]), 2.0, 1.0);
    assert!(answer.unresolved.iter().any(|u| u.subject == "rates"), "{:?}", answer.unresolved);

    let lines: String = (0..12_000).map(|i| format!("n{i} -> n{}\n", i + 1)).collect();
    let long = edges(&lines);
    let long_chain = self::chain(&long, "n0", &[("n0", 5.0)], &[]);
    assert_eq!((long_chain.nodes.len(), long_chain.cut), (chain::MAX_NODES, true));
    near(long_chain.rates[chain::MAX_NODES - 1].expect("is known"), 5.0);
    near(long_chain.multiples(None).at(chain::MAX_NODES - 1, 3.0), 3.0);
}

#[tokio::test]
async fn numbers_come_from_the_store() {
    let fake = Arc::new(Fake::default());
    let yaml = r#"
capacity:
  queries:
    - {name: lag, resource: queue, node: [{kind: service, name: "{q}"}], throughput: "queue_in", limit: "queue_max"}
"#;
    let service = service(&fake, &bucket(), yaml);
    let tenant = tenant(&service).await;
    let now_ms = time::now_ms();
    let facts = json!([
        {"edge": {"from": "service:front", "to": "service:cart"}},
        {"edge": {"from": "service:cart", "to": "workload:shop/cart"}},
        {"edge": {"from": "service:cart", "to": "host:h1"}},
    ]);
    let event: Event = serde_json::from_value(json!({"id": "1", "source": "test", "at_ms": now_ms, "facts": facts})).expect("an event");
    assert!(matches!(tenant.store.append(vec![event]).await.expect("appends")[0], Outcome::Stored(_)));
    fake.set(
        "traces_service_graph_request_total",
        vec![row("client=user,server=front,connection_type=virtual_node", 50.0), row("client=front,server=cart", 50.0)],
    );
    fake.answer(
        "container_cpu_usage",
        vec![
            ("namespace=shop,pod=cart-6c9f7b4d8x-x2k8z", vec![(now_ms, 0.2)]),
            ("namespace=shop,pod=cart-6c9f7b4d8x-bv9qx", vec![(now_ms, 0.4)]),
            ("namespace=shop,pod=other-6c9f7b4d8x-bv9qx", vec![(now_ms, 0.9)]),
        ],
    );
    fake.answer("node_cpu_seconds_total", vec![("instance=h1:9100", vec![(now_ms, 0.3)])]);
    fake.answer("queue_in", vec![("q=front", vec![(now_ms, 30.0)])]);
    fake.answer("queue_max", vec![("q=front", vec![(now_ms, 120.0)])]);
    let request = Request { node: key("front"), factor: 2.0, as_of: AsOf::Now };
    let answer = capacity(&service, &tenant, &request).await.expect("answers");
    let mut lines: Vec<String> = Vec::new();
    for n in &answer.result.nodes {
        for r in &n.resources {
            lines.push(format!("{} {} {:.2} {:.2} {:?}", n.node.id, r.query, r.utilisation, r.predicted, r.saturates_at));
        }
    }
    assert_eq!(
        lines,
        [
            "workload:shop/cart container-cpu 0.40 0.80 Some(2.5)",
            "host:h1 host-cpu 0.30 0.60 Some(3.3333333333333335)",
            "service:front lag 0.25 0.50 Some(4.0)",
        ]
    );
    assert_eq!((answer.result.rate, answer.result.first.expect("saturates").node), (Some(50.0), key("workload:shop/cart")));
    assert!(answer.complete, "{:?}", answer.unresolved);
    *fake.broken.lock() = Some("node_cpu".into());
    let answer = capacity(&service, &tenant, &request).await.expect("answers");
    assert!(answer.unresolved.iter().any(|u| u.subject == "capacity query host-cpu"), "{:?}", answer.unresolved);
    let unknown = Request { node: key("nobody"), ..request.clone() };
    assert!(matches!(capacity(&service, &tenant, &unknown).await, Err(Error::Unknown { .. })));
    assert!(capacity(&service, &tenant, &Request { factor: -1.0, ..request }).await.is_err());
}

#[test]
fn settings_are_checked() {
    let settings = Settings::default();
    settings.check().expect("is valid");
    for query in settings.active() {
        query.check().unwrap_or_else(|e| panic!("{}: {e}", query.name));
    }
    let error = |yaml: &str| crate::settings::Settings::from_yaml(yaml).expect_err("is wrong").to_string();
    assert!(error("capacity: {saturation: 0}").starts_with("capacity.saturation"));
    assert!(error("capacity: {disabled: [x]}").contains("container-cpu"));
    assert!(
        error("capacity: {queries: [{name: a, resource: b, node: [{name: '{x}'}], throughput: y}]}").contains("queries[0].utilisation")
    );
    assert!(error("capacity: {queries: [{name: a, resource: b, node: [], utilisation: y}]}").contains("queries[0].node"));
}
