//! Shares of interfaces that nobody has measured: a catalog says that a service consumes an API, traffic says which part of its requests
//! calls the service behind the API. The first is then no more often than the second, and both are one decision of a request.

use super::{BORROWED, Edge, Graph};
use crate::model::kind;

/// Gives every use of an interface without a share the one of the call to the service that serves the interface.
pub(super) fn borrow_shares(graph: &mut Graph) {
    let interface: Vec<bool> = graph.frozen.kinds.iter().map(|k| graph.types.is_a(k, kind::INTERFACE)).collect();
    if !interface.contains(&true) {
        return;
    }
    let kind_of = |node: u32| usize::from(graph.frozen.nodes[graph.records[node as usize]].kind);
    let mut borrowed: Vec<(u32, u32, f32)> = Vec::new();
    for from in 0..graph.records.len() as u32 {
        for id in range(graph, from) {
            let edge = &graph.edges[id as usize];
            if !interface[kind_of(edge.to)] || interface[kind_of(from)] || has_share(graph, id) {
                continue;
            }
            let serves = |to: u32| range(graph, edge.to).any(|e| graph.edges[e as usize].to == to);
            let calls = range(graph, from).filter(|c| *c != id && serves(graph.edges[*c as usize].to) && has_share(graph, *c));
            let likeliest = calls.max_by(|a, b| probability(graph, *a).total_cmp(&probability(graph, *b)));
            if let Some(call) = likeliest.filter(|c| probability(graph, *c) < edge.probability) {
                borrowed.push((id, call, probability(graph, call)));
            }
        }
    }
    for (id, call, probability) in borrowed {
        let edge: &mut Edge = &mut graph.edges[id as usize];
        edge.probability = probability;
        edge.marks |= BORROWED;
        graph.borrowed.insert(id, call);
    }
}

fn range(graph: &Graph, node: u32) -> std::ops::Range<u32> {
    graph.out_start[node as usize]..graph.out_start[node as usize + 1]
}

fn probability(graph: &Graph, edge: u32) -> f32 {
    graph.edges[edge as usize].probability
}

/// Whether somebody has said which part of the requests takes the edge.
fn has_share(graph: &Graph, edge: u32) -> bool {
    let claims = graph.edge_records(edge).flat_map(|r| graph.frozen.edges[r].claims.at(graph.built_ms));
    claims.into_iter().any(|(_, version, _)| version.body.share.is_some())
}

#[cfg(test)]
mod tests {
    use crate::Budget;
    use crate::analysis::blast::{BlastRequest, Live};
    use crate::testing::{edges, key};

    #[test]
    fn a_consumed_api_fails_no_more_often_than_the_calls_to_the_service_behind_it() {
        let snapshot = edges(
            "frontend -> checkout {\"share\": 0.25, \"evidence\": \"observed\"}
             frontend -> interface:checkout-api
             interface:checkout-api -> checkout
             reports -> interface:checkout-api",
        );
        let request = BlastRequest { worlds: 4096, ..BlastRequest::new(vec![key("checkout")]) };
        let blast = snapshot.blast(&request, &Live::default(), &mut Budget::default()).expect("is there").result;
        let errors = |name: &str| blast.impacts.iter().find(|i| i.node.id == key(name)).expect("is touched").errors;
        assert!((errors("frontend") - 0.25).abs() < 0.03, "{}", errors("frontend"));
        assert!(errors("reports") > 0.99 && errors("interface:checkout-api") > 0.99);
    }
}
