//! Ids of the last events, so that one that is sent again is recognised.

use std::collections::VecDeque;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use hashbrown::HashSet;

/// So many ids are remembered. An older event that is sent again is stored again, which changes nothing in the graph.
pub const RECENT_EVENTS: usize = 1 << 17;

/// Hashes of the last ids, oldest first.
#[derive(Debug, Default)]
pub(crate) struct RecentIds {
    order: VecDeque<u128>,
    known: HashSet<u128>,
}

impl RecentIds {
    /// The hash of an id. It is the same in all processes of a release; another release may at worst store an event again.
    pub fn hash(id: &str) -> u128 {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        (u128::from(hasher.hash_one((0_u8, id))) << 64) | u128::from(hasher.hash_one((1_u8, id)))
    }

    /// Whether the event was stored lately.
    pub fn contains(&self, hash: u128) -> bool {
        self.known.contains(&hash)
    }

    /// Remembers an event.
    pub fn insert(&mut self, hash: u128) {
        if !self.known.insert(hash) {
            return;
        }
        self.order.push_back(hash);
        if self.order.len() > RECENT_EVENTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// All, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = u128> {
        self.order.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_ids_are_known() {
        let mut recent = RecentIds::default();
        let hashes: Vec<u128> = (0..=RECENT_EVENTS).map(|i| RecentIds::hash(&i.to_string())).collect();
        for hash in &hashes {
            recent.insert(*hash);
            recent.insert(*hash);
        }
        assert!(!recent.contains(hashes[0]) && recent.contains(hashes[1]) && recent.contains(hashes[RECENT_EVENTS]));
        assert_eq!(recent.iter().count(), RECENT_EVENTS);
    }
}
