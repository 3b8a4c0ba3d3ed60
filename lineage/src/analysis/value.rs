//! What a node is worth to others: who uses it, directly and through others, and what they would lose if it were late or gone.

use std::collections::BTreeMap;

use serde::Serialize;

use super::blast::{BlastRequest, Live};
use super::walk::{Filter, Visited, WalkRequest};
use super::{Answer, Budget, Direction, Unresolved};
use crate::Result;
use crate::model::NodeKey;
use crate::snapshot::{NodeRef, Snapshot};

/// Users that are looked at.
pub const MAX_USERS: usize = 100_000;

/// What a node is worth.
#[derive(Clone, Debug, Serialize)]
pub struct Value {
    /// The node.
    pub node: NodeRef,
    /// How many use it themselves.
    pub direct: usize,
    /// How many use it, themselves or through others.
    pub users: usize,
    /// How many of each kind.
    pub by_kind: BTreeMap<String, usize>,
    /// How many of them each owner answers for.
    pub by_owner: BTreeMap<String, usize>,
    /// Users that matter most, and the nearest among them.
    pub important: Vec<Visited>,
    /// When a user was last seen using it, Unix milliseconds.
    pub last_used_ms: Option<i64>,
    /// Nobody is known to use it.
    pub unused: bool,
    /// Requests per second that would be lost if it were gone, as far as rates are known.
    pub lost_per_s: f64,
    /// Sum of what its users would suffer if it were late, by probability and criticality; to compare nodes with each other.
    pub score: f64,
}

impl Snapshot {
    /// What a node is worth, with at most `limit` of its important users.
    ///
    /// # Errors
    /// [`crate::Error::Unknown`] if it is not in the graph, [`crate::Error::Canceled`] if the budget's flag is set.
    pub fn value(&self, key: &NodeKey, live: &Live, limit: usize, budget: &mut Budget) -> Result<Answer<Value>> {
        let node = self.get(key)?;
        let request = WalkRequest {
            nodes: vec![key.clone()],
            direction: Direction::Dependents,
            depth: u32::MAX,
            filter: Filter::default(),
            limit: MAX_USERS,
            edges: false,
        };
        let walked = self.walk(&request, budget)?;
        let mut unresolved: Vec<Unresolved> = walked.unresolved;
        let users = walked.result.nodes;
        let (mut by_kind, mut by_owner) = (BTreeMap::new(), BTreeMap::new());
        for user in &users {
            *by_kind.entry(user.node.kind.clone()).or_insert(0) += 1;
            for owner in &user.node.owners {
                *by_owner.entry(owner.name.clone()).or_insert(0) += 1;
            }
        }
        let gone = self.blast(&BlastRequest { limit: 0, limit_per_kind: 0, ..BlastRequest::new(vec![key.clone()]) }, live, budget)?;
        let late = BlastRequest { late: true, limit: 0, limit_per_kind: 0, ..BlastRequest::new(vec![key.clone()]) };
        let late = self.blast(&late, live, budget)?;
        unresolved.extend(gone.unresolved.into_iter().chain(late.unresolved));
        // The same merges may be contradictory in each of the three answers.
        unresolved.sort_by(|a, b| (&a.subject, &a.reason).cmp(&(&b.subject, &b.reason)));
        unresolved.dedup();
        let direct = users.iter().filter(|u| u.hops == 1).count();
        let last_used_ms = self.dependents(node).map(|(edge, _)| self.edge(edge).last_seen_ms).max();
        let total = users.len();
        let mut important = users;
        important.sort_by(|a, b| b.node.criticality.cmp(&a.node.criticality).then(a.hops.cmp(&b.hops)).then(a.node.id.cmp(&b.node.id)));
        important.truncate(limit);
        let value = Value {
            node: self.node_ref(node),
            direct,
            users: total,
            by_kind,
            by_owner,
            important,
            last_used_ms,
            unused: total == 0,
            lost_per_s: gone.result.by_kind.iter().map(|s| s.lost_per_s).sum(),
            score: late.result.by_kind.iter().map(|s| s.score).sum(),
        };
        Ok(Answer { complete: unresolved.is_empty(), as_of_ms: walked.as_of_ms, sources: walked.sources, unresolved, result: value })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{key, snapshot};

    #[test]
    fn counts_users_and_what_they_would_suffer() {
        let snapshot = snapshot(json!([
            {"edge": {"from": "job:b/build", "to": "dataset:w/orders"}},
            {"edge": {"from": "dataset:w/revenue", "to": "job:b/build"}},
            {"edge": {"from": "application:report", "to": "dataset:w/revenue"}},
            {"node": {"node": "application:report", "body": {"criticality": "critical", "owners": [{"name": "finance"}]}}},
            {"node": {"node": "dataset:w/old"}},
        ]));
        let ask = |id: &str| snapshot.value(&key(id), &Live::default(), 10, &mut Budget::default()).expect("is there");
        let orders = ask("dataset:w/orders");
        assert!(orders.complete, "{:?}", orders.unresolved);
        let value = orders.result;
        assert_eq!((value.direct, value.users, value.unused), (1, 3, false));
        assert_eq!((value.by_kind["application"], value.by_owner["finance"]), (1, 1));
        assert_eq!(value.important[0].node.id, key("application:report"));
        assert!(value.score > 0.0);
        let old = ask("dataset:w/old").result;
        assert!(old.unused && old.score == 0.0, "{old:?}");
    }
}
