//! Short names of services: what one source calls `service:shop/payment` another one calls `service:payment`, because it knows no
//! namespaces. They are one node as long as there is only one service of that name.

use std::collections::BTreeMap;

use super::{Format, Read};
use crate::event::Fact;
use crate::model::{NodeKey, kind};
use crate::snapshot::Snapshot;

/// The rule of these aliases.
const RULE: &str = "only-service-of-that-name";

/// Where a service of a name was found.
struct Found {
    /// Which read, and the name in full.
    own: Vec<(usize, NodeKey)>,
    /// Some other service has that name too.
    others: bool,
}

/// Adds an alias for every service of the imported Kubernetes objects whose name no other service has, here or in the graph.
pub(super) fn add_short_names(reads: &mut [Read], known: &Snapshot) {
    let mut names: BTreeMap<String, Found> = BTreeMap::new();
    for (i, read) in reads.iter().enumerate().filter(|(_, r)| r.format == Some(Format::Kubernetes)) {
        for fact in read.events.iter().flat_map(|e| &e.facts) {
            // Another name of a workload is as good as a Service's.
            let key = match fact {
                Fact::Node(fact) => &fact.node,
                Fact::Alias(fact) if fact.rule != RULE => &fact.alias,
                _ => continue,
            };
            if is_long(key) {
                let found = names.entry(key.name().into_owned()).or_insert(Found { own: Vec::new(), others: false });
                if !found.own.iter().any(|(_, k)| k == key) {
                    found.own.push((i, key.clone()));
                }
            }
        }
    }
    if names.is_empty() {
        return;
    }
    for record in known.graph.frozen.nodes.iter().filter(|r| is_long(&r.key)) {
        let Some(found) = names.get_mut(&*record.key.name()) else { continue };
        let [(_, own)] = found.own.as_slice() else { continue };
        // The same service under another name is no other service.
        let there = known.find(&record.key);
        found.others |= *own != record.key && there.is_some() && there != known.find(own);
    }
    for (name, found) in names {
        let [(read, own)] = found.own.as_slice() else { continue };
        if found.others {
            continue;
        }
        if let (Ok(short), Some(event)) = (NodeKey::new(kind::SERVICE, "", &name), reads[*read].events.last_mut()) {
            event.facts.push(Fact::alias(short, own.clone(), RULE));
        }
    }
}

/// Whether it is the name of a service with its namespace.
fn is_long(key: &NodeKey) -> bool {
    key.kind() == kind::SERVICE && key.parts().len() == 2
}
