//! Which names mean one node as of a time.
//!
//! Merges are made in the order in which they came to be known. One that would join two names that somebody has taken apart, be it by
//! way of others, is not made and reported.

use hashbrown::{HashMap, HashSet};

use crate::analysis::Unresolved;
use crate::state::Frozen;

/// Names by the node that they mean.
#[derive(Debug, Default)]
pub(super) struct Merged {
    /// By record of a name that is not its node's own, the record of the name that the node goes by.
    pub canonical: HashMap<u32, u32>,
    /// Merges that could not be made.
    pub conflicts: Vec<Unresolved>,
}

struct Sets {
    parent: HashMap<u32, u32>,
    /// Names that were taken apart from something.
    apart: HashMap<u32, Vec<u32>>,
}

impl Sets {
    fn root(&mut self, mut id: u32) -> u32 {
        let mut root = id;
        while let Some(parent) = self.parent.get(&root).filter(|p| **p != root) {
            root = *parent;
        }
        while id != root {
            id = self.parent.insert(id, root).unwrap_or(root);
        }
        root
    }

    /// A pair that must stay apart and would be in one set if these two became one.
    fn conflict(&mut self, a: u32, b: u32) -> Option<(u32, u32)> {
        if self.apart.is_empty() {
            return None;
        }
        let apart: Vec<(u32, u32)> = self.apart.iter().flat_map(|(x, ys)| ys.iter().map(|y| (*x, *y))).collect();
        apart.into_iter().find(|(x, y)| self.root(*x) == a && self.root(*y) == b)
    }
}

/// Joins all names that somebody says are one as of a time.
pub(super) fn merged(frozen: &Frozen, at_ms: i64) -> Merged {
    let mut out = Merged::default();
    if frozen.aliases.len() == 0 {
        return out;
    }
    let mut sets = Sets { parent: HashMap::new(), apart: HashMap::new() };
    for record in frozen.aliases.iter().filter(|r| r.apart.at(at_ms).next().is_some()) {
        sets.apart.entry(record.alias).or_default().push(record.canonical);
        sets.apart.entry(record.canonical).or_default().push(record.alias);
    }
    let mut aliases: HashSet<u32> = HashSet::new();
    for record in frozen.aliases.iter().filter(|r| r.same.at(at_ms).next().is_some()) {
        let (a, b) = (sets.root(record.alias), sets.root(record.canonical));
        if a == b {
            aliases.insert(record.alias);
            continue;
        }
        if let Some((x, y)) = sets.conflict(a, b) {
            // That the very pair was taken apart is what somebody wanted, and nothing to report.
            if (x, y) != (record.alias, record.canonical) {
                let name = |id: u32| frozen.nodes[id].key.to_string();
                let reason = format!("is not merged with {}, because {} and {} were taken apart", name(record.canonical), name(x), name(y));
                out.conflicts.push(Unresolved::new(name(record.alias), reason));
            }
            continue;
        }
        aliases.insert(record.alias);
        sets.parent.insert(a, b);
    }
    name(&mut sets, &aliases, &mut out);
    out
}

/// Chooses the name of each set: one that is nobody's alias, else the one that was mentioned first.
fn name(sets: &mut Sets, aliases: &HashSet<u32>, out: &mut Merged) {
    let mut members: Vec<u32> = sets.parent.iter().flat_map(|(a, b)| [*a, *b]).collect();
    members.sort_unstable();
    members.dedup();
    let mut names: HashMap<u32, u32> = HashMap::new();
    for prefer in [true, false] {
        for id in &members {
            if prefer != aliases.contains(id) {
                let root = sets.root(*id);
                names.entry(root).or_insert(*id);
            }
        }
    }
    for id in members {
        let name = names[&sets.root(id)];
        if name != id {
            out.canonical.insert(id, name);
        }
    }
}
