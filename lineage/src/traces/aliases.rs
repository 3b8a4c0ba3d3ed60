//! Names that lack a namespace because senders do not know it: clients of Kafka seldom tell the broker, and many services have no
//! `service.namespace`. Where the graph has exactly one node of the same name with a namespace, they are one.

use hashbrown::HashMap;
use isobar_block::time;
use ulid::Ulid;

use super::Settings;
use super::report::SOURCE;
use crate::event::{AliasFact, Pair};
use crate::model::{NodeKey, kind};
use crate::service::Tenant;
use crate::{AsOf, Event, Fact, Snapshot};

/// Time between two comparisons.
pub(crate) const INTERVAL_MS: i64 = 60_000;

/// Longest list of names that are compared at a time.
const MAX_NAMES: usize = 10_000;

/// The rule of aliases that are made here.
const RULE: &str = "only-one-with-a-namespace";

/// What is known of a short name.
#[derive(Clone, Debug, Default, PartialEq)]
enum Match {
    #[default]
    None,
    One(NodeKey),
    Several,
}

/// Compares the names of spans with those of the graph, and says which are one.
pub(crate) async fn join(tenant: &Tenant, settings: &Settings) {
    let short: Vec<NodeKey> =
        tenant.traces.pairs.lock().graph.nodes().map(|n| &n.key).filter(|k| is_short(k)).take(MAX_NAMES).cloned().collect();
    if short.is_empty() {
        return;
    }
    let snapshot = match tenant.store.snapshot(AsOf::Now).await {
        Ok(snapshot) => snapshot,
        Err(error) => {
            tracing::warn!(tenant = %tenant.id, %error, "names of traces were not compared with the graph");
            return;
        }
    };
    let now_ms = time::now_ms();
    let again = {
        let mut report = tenant.traces.report.lock();
        let again = now_ms - report.aliased_ms >= settings.refresh_ms;
        if again {
            report.aliased_ms = now_ms;
        }
        again
    };
    let facts = tokio::task::spawn_blocking(move || facts(&snapshot, &short, again)).await.unwrap_or_default();
    let facts: Vec<Fact> = facts.into_iter().map(|f| f.with_ttl(settings.ttl_ms)).collect();
    if facts.is_empty() {
        return;
    }
    let mut event = Event::new(format!("{SOURCE}/names/{}", Ulid::new()), SOURCE, "names", now_ms);
    event.facts = facts;
    if let Err(error) = tenant.store.append(vec![event]).await {
        tracing::warn!(tenant = %tenant.id, %error, "names of traces were not joined; it is tried again");
    }
}

/// Whether a key is of a kind that has namespaces and has none, or of a topic whose broker is not known.
fn is_short(key: &NodeKey) -> bool {
    match key.kind() {
        kind::SERVICE => key.namespace().is_empty(),
        kind::TOPIC => !key.namespace().contains("://"),
        _ => false,
    }
}

/// Whether a key is the short one with a namespace. Topics have to be of the same system.
fn completes(key: &NodeKey, short: &NodeKey) -> bool {
    !is_short(key)
        && (key.kind() != kind::TOPIC || key.namespace().split_once("://").is_some_and(|(scheme, _)| scheme == short.namespace()))
}

/// Aliases that are not there yet, or all of them so that they stay, and those that cannot be upheld.
fn facts(snapshot: &Snapshot, short: &[NodeKey], again: bool) -> Vec<Fact> {
    let mut by_name: HashMap<(String, String), Vec<(&NodeKey, Match)>> = HashMap::new();
    for key in short {
        by_name.entry((key.kind().to_owned(), key.name().into_owned())).or_default().push((key, Match::None));
    }
    for node in snapshot.nodes() {
        let key = snapshot.key(node);
        if !matches!(key.kind(), kind::SERVICE | kind::TOPIC) {
            continue;
        }
        let Some(short) = by_name.get_mut(&(key.kind().to_owned(), key.name().into_owned())) else { continue };
        for (_, found) in short.iter_mut().filter(|(short, _)| completes(key, short)) {
            *found = match found {
                Match::None => Match::One(key.clone()),
                Match::One(_) | Match::Several => Match::Several,
            };
        }
    }
    let mut facts = Vec::new();
    for (short, found) in by_name.into_values().flatten() {
        let joined = snapshot.find(short).map(|n| snapshot.key(n)).filter(|k| *k != short);
        match (found, joined) {
            (Match::One(long), joined) if again || joined.is_none() => {
                facts.push(Fact::Alias(AliasFact { alias: short.clone(), canonical: long, rule: RULE.into(), ttl_ms: 0 }));
            }
            (Match::Several, Some(long)) => {
                facts.push(Fact::AliasGone(Pair { alias: short.clone(), canonical: long.clone(), rule: RULE.into() }));
            }
            _ => {}
        }
    }
    facts
}
