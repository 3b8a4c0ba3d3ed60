//! Documents beside the graph, such as runs of jobs: the last one of each name, as many of the newest as there is room for.
//!
//! They are kept as JSON text, which takes a fraction of the memory of parsed values. Which ones go first depends only on the entries of
//! the log, so that every process keeps the same ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;
use smallvec::SmallVec;

/// Documents of one node whose names have the same prefix, which is everything up to the first `/`. The oldest beyond are dropped.
pub const MAX_DOCUMENTS_PER_PREFIX: usize = 100;

/// Bytes of all documents of a tenant with their names. The oldest beyond are dropped.
pub const MAX_DOCUMENTS_BYTES: usize = 64 << 20;

/// About what a document costs besides its text.
const OVERHEAD_BYTES: usize = 200;

/// A document of a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Document {
    /// The time of the event that it was said in, or of a later one that was replaced by a late one.
    pub updated_ms: i64,
    /// Orders documents of the same time as the log does.
    sequence: u64,
    /// JSON.
    pub text: Arc<str>,
}

/// Documents of one prefix by name.
type Group = BTreeMap<Arc<str>, Document>;

/// All documents of a tenant.
#[derive(Debug)]
pub(crate) struct Documents {
    /// By node and prefix.
    nodes: HashMap<u32, BTreeMap<Box<str>, Group>>,
    /// By name, the nodes that have a document of it.
    holders: HashMap<Arc<str>, SmallVec<[u32; 1]>>,
    /// By time, for the eviction.
    order: BTreeMap<(i64, u64), (u32, Arc<str>)>,
    bytes: usize,
    max_bytes: usize,
    next: u64,
}

impl Default for Documents {
    fn default() -> Self {
        Self::with_room(MAX_DOCUMENTS_BYTES)
    }
}

impl Documents {
    fn with_room(max_bytes: usize) -> Self {
        Self { nodes: HashMap::new(), holders: HashMap::new(), order: BTreeMap::new(), bytes: 0, max_bytes, next: 0 }
    }

    /// Keeps a document in place of the one that the node had by this name. Without a text there is none any more.
    pub fn put(&mut self, node: u32, name: &str, at_ms: i64, text: Option<Arc<str>>) {
        let replaced = self.remove(node, name);
        let Some(text) = text else { return };
        let updated_ms = replaced.map_or(at_ms, |old| old.updated_ms.max(at_ms));
        let name: Arc<str> = name.into();
        let document = Document { updated_ms, sequence: self.next, text };
        self.next += 1;
        self.bytes += cost(&name, &document.text);
        self.order.insert((updated_ms, document.sequence), (node, name.clone()));
        self.holders.entry(name.clone()).or_default().push(node);
        let groups = self.nodes.entry(node).or_default();
        let group = match groups.get_mut(prefix(&name)) {
            Some(group) => group,
            None => groups.entry(prefix(&name).into()).or_default(),
        };
        group.insert(name, document);
        if group.len() > MAX_DOCUMENTS_PER_PREFIX {
            let oldest = group.iter().min_by_key(|(_, d)| (d.updated_ms, d.sequence)).map(|(name, _)| name.clone());
            self.remove(node, &oldest.expect("there is more than one"));
        }
        while self.bytes > self.max_bytes {
            let Some((_, (node, name))) = self.order.first_key_value().map(|(k, v)| (*k, v.clone())) else { break };
            self.remove(node, &name);
        }
    }

    fn remove(&mut self, node: u32, name: &str) -> Option<Document> {
        let groups = self.nodes.get_mut(&node)?;
        let group = groups.get_mut(prefix(name))?;
        let document = group.remove(name)?;
        if group.is_empty() {
            groups.remove(prefix(name));
        }
        if groups.is_empty() {
            self.nodes.remove(&node);
        }
        self.bytes -= cost(name, &document.text);
        self.order.remove(&(document.updated_ms, document.sequence));
        if let Some(holders) = self.holders.get_mut(name) {
            holders.retain(|n| *n != node);
            if holders.is_empty() {
                self.holders.remove(name);
            }
        }
        Some(document)
    }

    /// The document of a name.
    pub fn get(&self, node: u32, name: &str) -> Option<&Document> {
        self.nodes.get(&node)?.get(prefix(name))?.get(name)
    }

    /// Documents of a node whose names begin so, the newest first.
    pub fn of(&self, node: u32, start: &str) -> Vec<(&Arc<str>, &Document)> {
        let groups = self.nodes.get(&node).into_iter().flatten();
        // A start with a slash can only be in the group of its prefix.
        let groups =
            groups.filter(|(p, _)| if start.contains('/') { &***p == prefix(start) } else { start.is_empty() || p.starts_with(start) });
        let mut found: Vec<_> = groups.flat_map(|(_, g)| g).filter(|(name, _)| name.starts_with(start)).collect();
        found.sort_unstable_by_key(|(_, d)| std::cmp::Reverse((d.updated_ms, d.sequence)));
        found
    }

    /// The nodes that have a document of this name.
    pub fn holders(&self, name: &str) -> &[u32] {
        self.holders.get(name).map_or(&[], |h| h.as_slice())
    }

    /// All: node, name and document, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Arc<str>, &Document)> {
        self.order.values().map(|(node, name)| (*node, name, self.get(*node, name).expect("what is in the order is there")))
    }

    /// How many there are, and their bytes.
    pub fn size(&self) -> (usize, usize) {
        (self.order.len(), self.bytes)
    }
}

/// What documents of one kind have in common: everything up to the first slash, or nothing.
fn prefix(name: &str) -> &str {
    name.split_once('/').map_or("", |(prefix, _)| prefix)
}

fn cost(name: &str, text: &str) -> usize {
    name.len() + text.len() + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    fn names(documents: &Documents, node: u32, start: &str) -> Vec<String> {
        documents.of(node, start).iter().map(|(n, _)| n.to_string()).collect()
    }

    fn text(documents: &Documents, node: u32, name: &str) -> Option<String> {
        documents.get(node, name).map(|d| d.text.to_string())
    }

    #[test]
    fn the_last_of_a_name_counts_and_null_removes() {
        let mut documents = Documents::default();
        documents.put(1, "run/a", 10, Some("1".into()));
        documents.put(1, "run/b", 30, Some("2".into()));
        documents.put(1, "note", 20, Some("3".into()));
        documents.put(2, "run/a", 5, Some("4".into()));
        assert_eq!(
            (names(&documents, 1, "run/"), names(&documents, 1, "")),
            (vec!["run/b".into(), "run/a".into()], vec!["run/b".into(), "note".into(), "run/a".into()])
        );
        assert_eq!(
            (names(&documents, 1, "run/b"), names(&documents, 1, "no"), names(&documents, 1, "run/x")),
            (vec!["run/b".to_owned()], vec![], vec![])
        );
        assert_eq!(documents.holders("run/a"), [1, 2]);
        documents.put(1, "run/b", 25, Some("late".into()));
        assert_eq!((text(&documents, 1, "run/b").as_deref(), documents.get(1, "run/b").map(|d| d.updated_ms)), (Some("late"), Some(30)));
        documents.put(1, "run/a", 40, None);
        documents.put(7, "run/none", 40, None);
        assert_eq!((documents.holders("run/a"), documents.size().0, text(&documents, 1, "run/a")), (&[2][..], 3, None));
    }

    #[test]
    fn the_oldest_go_first_within_a_prefix_and_within_the_room() {
        let mut documents = Documents::default();
        documents.put(1, "other/x", 0, Some("1".into()));
        for i in 0..150 {
            documents.put(1, &format!("run/{i:03}"), 1000 - i, Some("1".into()));
        }
        let kept = names(&documents, 1, "run/");
        assert_eq!((kept.len(), kept[0].as_str(), kept[99].as_str()), (100, "run/000", "run/099"), "those said last are older");
        assert_eq!(names(&documents, 1, "other/"), ["other/x"], "another prefix has its own room");

        let mut small = Documents::with_room(10 * (cost("run/0", "12345")));
        for node in 0..20 {
            small.put(node, "run/0", i64::from(node), Some("12345".into()));
        }
        assert_eq!((small.size().0, small.holders("run/0").len(), small.iter().next().map(|(n, _, _)| n)), (10, 10, Some(10)));
        small.put(3, "run/0", 50, Some("x".repeat(1_000_000).into()));
        assert_eq!(small.size(), (0, 0), "one that does not fit leaves nothing behind");
    }

    #[test]
    fn books_are_right_whatever_happens() {
        let mut random = Random(4);
        let mut documents = Documents::with_room(20_000);
        for _ in 0..20_000 {
            let name = format!("{}/{}", ["run", "x"][random.below(2) as usize], random.below(30));
            let text = (random.below(5) > 0).then(|| "y".repeat(random.below(400) as usize).into());
            documents.put(random.below(6) as u32, &name, random.below(1000) as i64, text);
        }
        let all: Vec<_> = documents.iter().collect();
        assert_eq!(documents.size(), (all.len(), all.iter().map(|(_, n, d)| cost(n, &d.text)).sum()));
        assert!(all.windows(2).all(|w| (w[0].2.updated_ms, w[0].2.sequence) < (w[1].2.updated_ms, w[1].2.sequence)));
        assert!(all.iter().all(|(node, name, _)| documents.holders(name).contains(node)));
        assert_eq!(documents.holders.values().map(SmallVec::len).sum::<usize>(), all.len());
    }
}
