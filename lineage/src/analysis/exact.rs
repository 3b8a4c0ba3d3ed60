//! Probabilities by enumeration of all worlds, written as plainly as possible, to hold the drawn ones against; and small graphs whose
//! answers one can work out by hand.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::Budget;
use super::blast::{BlastRequest, Live, MAX_WORLDS};
use crate::model::edge::SOFT_COUPLING;
use crate::snapshot::Snapshot;
use crate::testing::{Random, edges, key, snapshot};

/// An edge of a random graph.
#[derive(Clone, Debug)]
struct Drawn {
    from: usize,
    to: usize,
    share: f64,
    data: bool,
    /// Number of its group at the dependent.
    group: Option<usize>,
}

/// A random graph: nodes 0 to `nodes`, edges in any direction, so that there are diamonds and cycles.
struct Small {
    nodes: usize,
    edges: Vec<Drawn>,
    /// Group to k.
    k: BTreeMap<(usize, usize), u32>,
}

fn draw(random: &mut Random) -> Small {
    let nodes = 4 + random.below(4) as usize;
    let mut small = Small { nodes, edges: Vec::new(), k: BTreeMap::new() };
    let mut pairs = BTreeSet::new();
    for _ in 0..5 + random.below(8) {
        let (from, to) = (random.below(nodes as u64) as usize, random.below(nodes as u64) as usize);
        if from == to || !pairs.insert((from, to)) {
            continue;
        }
        let share = [1.0, 0.5, 0.3, 0.8, 0.05][random.below(5) as usize];
        let group = (random.below(3) == 0).then_some(random.below(2) as usize);
        // Members of a group carry the same.
        let data = group.is_none() && random.below(4) == 0;
        small.edges.push(Drawn { from, to, share, data, group });
        if let Some(group) = group {
            small.k.insert((from, group), 1 + random.below(2) as u32);
        }
    }
    let sizes = small.edges.iter().filter_map(|e| e.group.map(|g| (e.from, g)));
    let mut count: BTreeMap<(usize, usize), u32> = BTreeMap::new();
    sizes.for_each(|g| *count.entry(g).or_default() += 1);
    small.k.iter_mut().for_each(|(g, k)| *k = (*k).min(count[g]));
    small
}

fn build(small: &Small) -> Snapshot {
    let name = |i: usize| key(&format!("n{i}"));
    let fact = |e: &Drawn| {
        let group = e.group.map(|g| json!({"id": g.to_string(), "k": small.k[&(e.from, g)]}));
        let flow = if e.data { "data" } else { "call" };
        let mut body = json!({"share": e.share, "flow": flow});
        if let Some(group) = group {
            body["group"] = group;
        }
        json!({"edge": {"from": name(e.from), "to": name(e.to), "body": body}})
    };
    snapshot(small.edges.iter().map(fact).collect())
}

/// By node, the exact probabilities of errors and of old data when node 0 is down.
fn enumerate(small: &Small) -> Vec<(f64, f64)> {
    // What is drawn: each edge without a group, and each group, which takes the sum of its members' shares.
    let mut variables: Vec<(Vec<usize>, f64)> = Vec::new();
    let mut groups: BTreeMap<(usize, usize), (Vec<usize>, f64)> = BTreeMap::new();
    for (i, edge) in small.edges.iter().enumerate() {
        match edge.group {
            None => variables.push((vec![i], edge.share)),
            Some(g) => {
                let entry = groups.entry((edge.from, g)).or_default();
                entry.0.push(i);
                entry.1 = (entry.1 + edge.share).min(1.0);
            }
        }
    }
    variables.extend(groups.into_values());
    let mut out = vec![(0.0, 0.0); small.nodes];
    for world in 0_u32..1 << variables.len() {
        let passes = |v: usize| world >> v & 1 == 1;
        let weight: f64 = variables.iter().enumerate().map(|(v, (_, p))| if passes(v) { *p } else { 1.0 - p }).product();
        if weight == 0.0 {
            continue;
        }
        let (errors, stale) = world_of(small, &variables, passes);
        for node in 0..small.nodes {
            out[node].0 += weight * f64::from(u8::from(errors[node]));
            out[node].1 += weight * f64::from(u8::from(stale[node]));
        }
    }
    out
}

fn world_of(small: &Small, variables: &[(Vec<usize>, f64)], passes: impl Fn(usize) -> bool) -> (Vec<bool>, Vec<bool>) {
    let (mut errors, mut stale) = (vec![false; small.nodes], vec![false; small.nodes]);
    errors[0] = true;
    loop {
        let before = (errors.clone(), stale.clone());
        for (_, (members, _)) in variables.iter().enumerate().filter(|(v, _)| passes(*v)) {
            let first = &small.edges[members[0]];
            let needed = first.group.map_or(1, |g| members.len() as u32 - small.k[&(first.from, g)] + 1) as usize;
            let failed = members.iter().filter(|m| errors[small.edges[**m].to]).count() >= needed;
            let touched = members.iter().filter(|m| errors[small.edges[**m].to] || stale[small.edges[**m].to]).count() >= needed;
            let old = touched && members.iter().any(|m| stale[small.edges[*m].to]);
            if failed && first.data {
                stale[first.from] = true;
            } else if failed {
                errors[first.from] = true;
            }
            stale[first.from] |= old;
        }
        if (&before.0, &before.1) == (&errors, &stale) {
            return (errors, stale);
        }
    }
}

fn blast(snapshot: &Snapshot, node: &str, worlds: u32) -> BTreeMap<String, (f64, f64, f64)> {
    let request = BlastRequest { worlds, min_probability: 0.0, limit: 1000, ..BlastRequest::new(vec![key(node)]) };
    let answer = snapshot.blast(&request, &Live::default(), &mut Budget::default()).expect("an answer");
    assert!(answer.complete, "{:?}", answer.unresolved);
    answer.result.impacts.into_iter().map(|i| (i.node.name, (i.errors, i.staleness, i.starvation))).collect()
}

#[test]
fn drawn_worlds_agree_with_all_worlds() {
    let mut random = Random(42);
    let (mut worst, mut compared) = (0.0_f64, 0);
    for _ in 0..150 {
        let small = draw(&mut random);
        if !small.edges.iter().any(|e| e.to == 0) {
            continue;
        }
        let exact = enumerate(&small);
        let got = blast(&build(&small), "n0", MAX_WORLDS);
        for (node, (errors, stale)) in exact.iter().enumerate().skip(1) {
            let (e, s, _) = got.get(&format!("n{node}")).copied().unwrap_or_default();
            worst = worst.max((e - errors).abs()).max((s - stale).abs());
            compared += 2;
            assert!(
                (e - errors).abs() < 0.011 && (s - stale).abs() < 0.011,
                "node {node}: {e} {s}, exactly {errors} {stale}; {:?}",
                small.edges
            );
        }
    }
    println!("{compared} probabilities from {MAX_WORLDS} worlds against enumeration: largest error {worst:.5}");
    assert!(compared > 500);
}

#[test]
fn shares_and_classes_multiply() {
    let got = blast(
        &edges(
            r#"web -> checkout {"share": 0.5}
               checkout -> payment
               payment -> fraud {"class": "soft"}
               report -> payment {"class": "ordering"}"#,
        ),
        "fraud",
        MAX_WORLDS,
    );
    let near = |name: &str, p: f64| assert!((got[name].0 - p).abs() < 0.006, "{name}: {:?}", got[name]);
    near("payment", f64::from(SOFT_COUPLING));
    near("checkout", f64::from(SOFT_COUPLING));
    near("web", f64::from(SOFT_COUPLING) * 0.5);
    assert!(!got.contains_key("report"), "what is only started later is not touched");
}

#[test]
fn a_diamond_is_not_counted_twice() {
    let got = blast(
        &edges(
            "a -> b\na -> c\nb -> d {\"share\": 0.4}\nc -> d {\"share\": 0.4}\nb2 -> d {\"share\": 0.4}\na2 -> b2\na3 -> b2\nz -> a2\nz -> a3",
        ),
        "d",
        MAX_WORLDS,
    );
    assert!((got["a"].0 - 0.64).abs() < 0.006, "two independent ways: {:?}", got["a"]);
    assert!((got["z"].0 - 0.4).abs() < 0.006, "two ways over one edge: {:?}", got["z"]);
}

#[test]
fn k_of_n_holds_until_too_many_fail() {
    let graph = |k: u32| {
        edges(
            &(0..3)
                .map(|i| format!("lb -> w{i} {{\"group\": {{\"id\": \"w\", \"k\": {k}, \"n\": 3}}}}\nw{i} -> host:h{}\n", i / 2))
                .collect::<String>(),
        )
    };
    assert!(!blast(&graph(2), "w0", 256).contains_key("lb"));
    assert_eq!(blast(&graph(3), "w0", 256)["lb"].0, 1.0);
    assert_eq!(blast(&graph(2), "host:h0", 256)["lb"].0, 1.0, "two members share a host");
    assert!(!blast(&graph(1), "host:h0", 256).contains_key("lb"));
    assert!(!blast(&graph(0), "host:h0", 256).contains_key("lb"), "scaled to zero is healthy");
}

#[test]
fn errors_old_data_and_missing_traffic_are_told_apart() {
    let graph = edges(
        r#"interface:pay -> payment
           payment -> ledger
           shop -> ledger
           payment -> mail
           dataset:revenue -> job:etl
           job:etl -> dataset:payments
           dataset:payments -> payment {"lag_ms": 60000}
           dashboard:cfo -> dataset:revenue {"lag_ms": 5000}
           app -> dashboard:cfo"#,
    );
    let got = blast(&graph, "payment", 256);
    let rounded: BTreeMap<&str, (f64, f64, f64)> = got.iter().map(|(k, v)| (k.as_str(), *v)).collect();
    let expected = BTreeMap::from([
        ("pay", (1.0, 0.0, 0.0)),
        ("mail", (0.0, 0.0, 1.0)),
        ("payments", (0.0, 1.0, 0.0)),
        ("etl", (0.0, 1.0, 0.0)),
        ("revenue", (0.0, 1.0, 0.0)),
        ("cfo", (0.0, 1.0, 0.0)),
        ("app", (0.0, 1.0, 0.0)),
    ]);
    assert_eq!(rounded, expected, "the ledger still has the shop");
    let answer = graph.blast(&BlastRequest::new(vec![key("payment")]), &Live::default(), &mut Budget::default()).expect("an answer");
    let cfo = answer.result.impacts.iter().find(|i| i.node.name == "cfo").expect("listed");
    assert_eq!((cfo.hops, cfo.late_after_ms, cfo.path.len()), (4, Some(65_000), 4));
    assert_eq!((cfo.path[0].provider.as_str(), cfo.path[0].errors), ("service:payment", false));
}

#[test]
fn who_runs_on_a_dead_host_calls_nobody() {
    let got = blast(&edges("web -> a\na -> host:h\na -> b\nb -> c\nweb -> d"), "host:h", 256);
    assert_eq!(got["a"], (1.0, 0.0, 0.0));
    assert_eq!((got["b"], got["c"]), ((0.0, 0.0, 1.0), (0.0, 0.0, 1.0)));
    assert!(!got.contains_key("d"), "web has errors and still calls d");
}
