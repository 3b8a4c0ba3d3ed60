//! Cuts large events into several, and many into portions, so that no limit of the log is met.

use serde_json::Value;

use crate::event::{Event, Fact};

/// Facts of one event are cut off beyond about so many bytes as JSON.
pub const EVENT_BYTES: usize = 6 << 20;

/// Events are stored together up to about so many bytes.
pub const PORTION_BYTES: usize = 24 << 20;

/// Cuts events with very many facts into several of the same scope and time. The first one keeps what came.
pub(super) fn split(events: &mut Vec<Event>) {
    if events.iter().all(|e| facts_bytes(e) <= EVENT_BYTES) {
        return;
    }
    let mut out = Vec::with_capacity(events.len() + 4);
    for mut event in events.drain(..) {
        let facts = std::mem::take(&mut event.facts);
        let complete = event.complete_since_ms.take();
        let first = out.len();
        let (id, source, scope, at_ms) = (event.id.clone(), event.source.clone(), event.scope.clone(), event.at_ms);
        out.push(event);
        let mut bytes = 0;
        for fact in facts {
            let more = fact_bytes(&fact);
            if bytes > 0 && bytes + more > EVENT_BYTES {
                out.push(Event::new(format!("{id}#{}", out.len() - first), &source, &scope, at_ms));
                bytes = 0;
            }
            bytes += more;
            out.last_mut().expect("one was pushed").facts.push(fact);
        }
        out.last_mut().expect("one was pushed").complete_since_ms = complete;
    }
    *events = out;
}

/// About as many bytes as an event has as JSON.
pub(super) fn event_bytes(event: &Event) -> usize {
    let raw = event.raw.as_ref().map_or(0, |r| r.len() + r.len() / 4);
    200 + event.id.len() + event.scope.len() + raw + facts_bytes(event)
}

fn facts_bytes(event: &Event) -> usize {
    event.facts.iter().map(fact_bytes).sum()
}

fn fact_bytes(fact: &Fact) -> usize {
    const AROUND: usize = 120;
    AROUND
        + match fact {
            Fact::Node(f) => {
                let attributes = f.body.attributes.iter().map(|(n, v)| n.len() + 4 + value_bytes(v));
                let texts = f.body.tags.iter().map(String::len).chain(f.body.owners.iter().map(|o| o.name.len() + o.role.len() + 24));
                f.node.as_str().len() + f.body.description.len() + attributes.chain(texts).sum::<usize>()
            }
            Fact::Edge(f) => {
                let attributes = f.body.attributes.iter().flat_map(|a| a.iter()).map(|(n, v)| n.len() + 4 + value_bytes(v));
                f.from.as_str().len() + f.to.as_str().len() + attributes.sum::<usize>()
            }
            Fact::Alias(f) => f.alias.as_str().len() + f.canonical.as_str().len(),
            Fact::AliasGone(f) | Fact::Separate(f) | Fact::SeparateGone(f) => f.alias.as_str().len() + f.canonical.as_str().len(),
            Fact::EdgeGone(f) => f.from.as_str().len() + f.to.as_str().len(),
            Fact::NodeGone(f) => f.node.as_str().len(),
            Fact::Document(f) => f.node.as_str().len() + f.name.len() + value_bytes(&f.body),
            Fact::Type(f) => f.name.len(),
            Fact::TypeGone(f) => f.name.len(),
        }
}

fn value_bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(s) => s.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|v| value_bytes(v) + 1).sum::<usize>(),
        Value::Object(fields) => 2 + fields.iter().map(|(k, v)| k.len() + 4 + value_bytes(v)).sum::<usize>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{EdgeBody, NodeKey};

    #[test]
    fn large_events_are_cut_and_end_where_they_ended() {
        let node = |i: usize| NodeKey::new("column", "postgres://db:5432", &format!("{i:0200}")).expect("valid");
        let mut large = Event::new("id", "s", "scope", 5);
        large.facts = (0..60_000).map(|i| Fact::depends(node(i), node(i + 1), EdgeBody::default())).collect();
        (large.raw, large.complete_since_ms) = (Some("{}".into()), Some(5));
        let small = Event::new("small", "s", "scope", 5);
        let mut events = vec![large.clone(), small.clone()];
        split(&mut events);
        assert!(events.len() > 4 && events.iter().all(|e| serde_json::to_vec(e).expect("serializes").len() < EVENT_BYTES * 5 / 4));
        let facts: Vec<Fact> = events.iter().flat_map(|e| e.facts.clone()).collect();
        assert_eq!(facts, large.facts);
        let (last, parts) = events.split_last().expect("there are some");
        assert_eq!(*last, small);
        assert_eq!(parts.iter().filter(|e| e.raw.is_some()).count(), 1);
        assert!(parts[0].raw.is_some() && parts.iter().rev().enumerate().all(|(i, e)| e.complete_since_ms.is_some() == (i == 0)));
        let ids: std::collections::HashSet<&str> = events.iter().map(|e| e.id.as_str()).collect();
        assert_eq!(ids.len(), events.len());
    }
}
