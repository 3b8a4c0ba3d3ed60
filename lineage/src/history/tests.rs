//! Statements in and out of order, repeated, withdrawn and forgotten.

use proptest::prelude::*;

use super::*;

impl Body for u8 {
    fn says_the_same(&self, other: &Self) -> bool {
        self == other
    }
}

type Said = Vec<(i64, i64, i64, u8)>;

fn versions(claims: &Claims<u8>) -> Said {
    claims.0.iter().flat_map(|c| &c.versions).map(|v| (v.from_ms, v.to_ms, v.seen_ms, v.body)).collect()
}

fn said(statements: &[(i64, u8)], ttl_ms: i64) -> Claims<u8> {
    let mut claims = Claims::default();
    for (at_ms, body) in statements {
        claims.assert(0, *at_ms, ttl_ms, *body);
    }
    claims
}

#[test]
fn saying_it_again_keeps_one_version() {
    let mut claims = said(&[(10, 1)], 0);
    assert_eq!(claims.assert(0, 20, 0, 1), Effect::Seen { live_until_ms: OPEN_MS });
    assert_eq!(claims.assert(0, 15, 0, 1), Effect::Nothing);
    assert_eq!(versions(&claims), [(10, OPEN_MS, 20, 1)]);
    assert_eq!(claims.assert(0, 30, 0, 2), Effect::Changed { first: false });
    assert_eq!(versions(&claims), [(10, 30, 20, 1), (30, OPEN_MS, 30, 2)]);
    assert_eq!(claims.assert(0, 20, 0, 1), Effect::Nothing, "an event that comes twice");
    assert_eq!(claims.assert(1, 20, 0, 1), Effect::Changed { first: true }, "another source");
    assert_eq!(claims.at(25).map(|(s, v, _)| (s, v.body)).collect::<Vec<_>>(), [(0, 1), (1, 1)]);
}

#[test]
fn late_facts_fill_gaps_and_do_not_override() {
    assert_eq!(versions(&said(&[(10, 1), (20, 1), (15, 2)], 0)), [(10, OPEN_MS, 20, 1)]);
    assert_eq!(versions(&said(&[(10, 1), (5, 1)], 0)), [(5, OPEN_MS, 10, 1)]);
    assert_eq!(versions(&said(&[(10, 1), (5, 2)], 0)), [(5, 10, 5, 2), (10, OPEN_MS, 10, 1)]);
    assert_eq!(versions(&said(&[(10, 1), (30, 2), (20, 3)], 0)), [(10, 20, 10, 1), (20, 30, 20, 3), (30, OPEN_MS, 30, 2)]);
}

#[test]
fn withdrawn_is_gone_from_then_on_only() {
    let mut claims = said(&[(10, 1), (20, 1)], 0);
    assert_eq!(claims.retract(0, 15), Effect::Nothing, "it was said later");
    assert_eq!(claims.retract(1, 30), Effect::Nothing, "another source cannot withdraw it");
    assert_eq!(claims.retract(0, 30), Effect::Changed { first: false });
    assert_eq!(claims.retract(0, 30), Effect::Nothing);
    assert_eq!((claims.at(29).count(), claims.at(30).count()), (1, 0));
    assert_eq!(claims.assert(0, 40, 0, 1), Effect::Changed { first: false });
    assert_eq!(versions(&claims), [(10, 30, 20, 1), (40, OPEN_MS, 40, 1)]);
}

#[test]
fn what_is_not_repeated_is_withdrawn() {
    let mut claims = said(&[(10, 1)], 0);
    assert_eq!(claims.retract_unseen(0, 10, 20), Effect::Nothing);
    assert_eq!(claims.retract_unseen(0, 11, 20), Effect::Changed { first: false });
    assert_eq!(versions(&claims), [(10, 20, 10, 1)]);
}

#[test]
fn unseen_is_stale_then_expired() {
    let mut claims = said(&[(100, 1)], 10);
    let status = |claims: &Claims<u8>, t| claims.at(t).next().map(|(_, _, s)| s);
    assert_eq!(status(&claims, 99), None);
    assert_eq!(status(&claims, 110), Some(Status::Live));
    assert_eq!(status(&claims, 111), Some(Status::Stale));
    assert_eq!(status(&claims, 130), Some(Status::Stale));
    assert_eq!(status(&claims, 131), None);
    assert_eq!([99, 100, 111, 131].map(|t| claims.next_change_ms(t)), [100, 111, 131, OPEN_MS]);
    assert_eq!(claims.assert(0, 110, 10, 1), Effect::Seen { live_until_ms: 111 });
    assert_eq!(claims.assert(0, 125, 10, 1), Effect::Changed { first: false }, "it was stale");
    assert_eq!(claims.assert(0, 200, 10, 1), Effect::Changed { first: false }, "it was expired");
    assert_eq!(versions(&claims), [(100, 156, 125, 1), (200, OPEN_MS, 200, 1)]);
}

#[test]
fn history_is_bounded() {
    let statements: Vec<(i64, u8)> = (0..1000).map(|i| (i, (i % 2) as u8)).collect();
    let claims = said(&statements, 0);
    let versions = versions(&claims);
    assert_eq!((versions.len(), versions[0].0, versions[MAX_VERSIONS - 1].0), (MAX_VERSIONS, 0, 999));
}

proptest! {
    #[test]
    fn versions_never_overlap_and_repeating_changes_nothing(
        steps in proptest::collection::vec((0..60i64, 0..4u8, 0..3u8, prop::bool::ANY), 1..40)
    ) {
        let mut claims = Claims::default();
        for (at_ms, kind, body, ttl) in steps {
            let ttl_ms = if ttl { 5 } else { 0 };
            match kind {
                0 => claims.retract(0, at_ms),
                1 => claims.retract_unseen(0, at_ms - 3, at_ms),
                _ => claims.assert(0, at_ms, ttl_ms, body),
            };
            if kind > 1 {
                let before = claims.clone();
                claims.assert(0, at_ms, ttl_ms, body);
                prop_assert_eq!(&before, &claims);
            }
            for claim in &claims.0 {
                for v in &claim.versions {
                    prop_assert!(v.from_ms < v.to_ms && v.from_ms <= v.seen_ms);
                }
                for pair in claim.versions.windows(2) {
                    prop_assert!(pair[0].to_ms <= pair[1].from_ms);
                }
            }
        }
    }
}
