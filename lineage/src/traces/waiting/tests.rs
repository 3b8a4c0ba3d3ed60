//! Tests of pairing.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn client(node: u32) -> Client {
    Client { node, duration_ns: 5, end_ns: 6, weight: 1.0, failed: false, peer: None, topic: None }
}

fn server(span_id: u64, node: u32) -> Server {
    Server { span_id, node, duration_ns: 3, start_ns: 2, weight: 1.0, failed: false, topic: None }
}

/// A span of a test: a client's, or a server's with the id of its parent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Span {
    Client(u64),
    Server { parent: u64, id: u64 },
}

/// Pairs as (client's id, server's id), clients left, servers left.
type Outcome = (BTreeSet<(u64, u64)>, BTreeSet<u64>, BTreeSet<u64>);

fn run(spans: &[Span], step_ms: i64) -> Outcome {
    let (mut waiting, mut pairs, mut lone_clients, mut lone_servers) =
        (Waiting::default(), BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut now_ms = 0;
    let mut left = |_: SpanKey, left| match left {
        Left::Client(c) => assert!(lone_clients.insert(u64::from(c.node))),
        Left::Server(s) => assert!(lone_servers.insert(s.span_id)),
    };
    for span in spans {
        now_ms += step_ms;
        waiting.expire(now_ms, &mut left);
        match *span {
            Span::Client(id) => {
                for s in waiting.client((1, id), &client(id as u32), now_ms + 1000).into_iter().flatten() {
                    assert!(pairs.insert((id, s.span_id)), "paired twice");
                }
            }
            Span::Server { parent, id } => {
                if let Some(c) = waiting.server((1, parent), &server(id, 0), now_ms + 1000) {
                    pairs.insert((u64::from(c.node), id));
                }
            }
        }
    }
    waiting.expire(now_ms + 1000, &mut left);
    assert_eq!((waiting.len(), waiting.order.len()), (0, 0));
    (pairs, lone_clients, lone_servers)
}

proptest! {
    #[test]
    fn the_order_does_not_matter(
        clients in proptest::collection::btree_set(1_u64..20, 0..12),
        parents in proptest::collection::vec(1_u64..20, 0..20),
        order in proptest::collection::vec(any::<u64>(), 40),
        repeated in proptest::collection::vec(0_usize..40, 0..4),
    ) {
        let mut spans: Vec<Span> = clients.iter().map(|id| Span::Client(*id)).collect();
        spans.extend(parents.iter().enumerate().map(|(i, parent)| Span::Server { parent: *parent, id: 100 + i as u64 }));
        let expected = run(&spans, 0);
        let pairs = parents.iter().enumerate().filter(|(_, p)| clients.contains(p)).map(|(i, p)| (*p, 100 + i as u64)).collect::<BTreeSet<_>>();
        prop_assert_eq!(&expected.0, &pairs);
        // A batch that is sent again changes nothing.
        let again: Vec<Span> = repeated.iter().filter_map(|i| spans.get(*i).copied()).collect();
        spans.extend(again);
        let mut keyed: Vec<(u64, Span)> = order.iter().copied().chain(0..).zip(spans).collect();
        keyed.sort_by_key(|(k, _)| *k);
        let spans: Vec<Span> = keyed.into_iter().map(|(_, s)| s).collect();
        prop_assert_eq!(run(&spans, 0), expected);
    }

    #[test]
    fn every_half_is_accounted_for_whenever_it_comes(ids in proptest::collection::vec((1_u64..6, any::<bool>()), 0..40), step_ms in 0_i64..700) {
        let mut spans = Vec::new();
        for (i, (id, is_client)) in ids.iter().enumerate() {
            // Each client comes once: what comes again after its time is over counts again.
            let span = if *is_client { Span::Client(*id) } else { Span::Server { parent: *id, id: 100 + i as u64 } };
            if !*is_client || !spans.contains(&span) {
                spans.push(span);
            }
        }
        let (pairs, clients, servers) = run(&spans, step_ms);
        let paired: BTreeSet<u64> = pairs.iter().map(|(_, s)| *s).collect();
        let wanted: BTreeSet<u64> = spans.iter().filter_map(|s| if let Span::Server { id, .. } = s { Some(*id) } else { None }).collect();
        prop_assert!(paired.is_disjoint(&servers));
        prop_assert_eq!(paired.union(&servers).copied().collect::<BTreeSet<_>>(), wanted);
        let called: BTreeSet<u64> = pairs.iter().map(|(c, _)| *c).collect();
        prop_assert!(called.is_disjoint(&clients));
    }
}

#[test]
fn the_oldest_give_way() {
    let mut waiting = Waiting::default();
    for id in 1..=10 {
        waiting.client((1, id), &client(id as u32), 100);
    }
    waiting.server((1, 2), &server(50, 0), 100);
    let mut left = Vec::new();
    waiting.shrink(6, |key, _| left.push(key.1));
    assert_eq!((waiting.len(), left), (6, vec![1, 3, 4]), "2 had been answered");
}
