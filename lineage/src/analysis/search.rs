//! Finds nodes by a part of a name, of an alias or of a title. Case does not matter for ASCII letters.

use serde::Serialize;

use super::{Answer, Budget, Unresolved};
use crate::model::key::escape;
use crate::snapshot::{NONE, NodeIdx, NodeRef, Snapshot};
use crate::{Error, Result};

/// Most hits of a search.
pub const MAX_HITS: usize = 10_000;

/// Longest text to search for, in bytes.
pub const MAX_QUERY_BYTES: usize = 64 * 1024;

/// Nodes that were found.
#[derive(Clone, Debug, Serialize)]
pub struct Hits {
    /// The best first.
    pub hits: Vec<Hit>,
    /// How many there are.
    pub total: usize,
}

/// One node that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Hit {
    /// The node.
    pub node: NodeRef,
    /// The name by which it was found.
    pub matched: String,
}

/// How well a name fits; lower is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Whole,
    Start,
    Word,
    Inside,
}

impl Snapshot {
    /// Nodes whose id, alias or title contains `text`; only of `kind` or what inherits from it, if given.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the text is too long, [`Error::Canceled`] if the budget's flag is set.
    pub fn search(&self, text: &str, kind: Option<&str>, limit: usize, budget: &mut Budget) -> Result<Answer<Hits>> {
        if text.len() > MAX_QUERY_BYTES {
            return Err(Error::invalid("q", format!("has {} bytes, more than {MAX_QUERY_BYTES}; shorten it", text.len())));
        }
        let graph = &*self.graph;
        let mut escaped = String::new();
        escape(text, &mut escaped);
        // In an id, a slash may be one between parts or one inside a name.
        let mut needles = vec![text.to_ascii_lowercase(), escaped.to_ascii_lowercase()];
        needles.dedup();
        let kinds: Vec<bool> = graph.frozen.kinds.iter().map(|k| kind.is_none_or(|w| graph.types.is_a(k, w))).collect();
        let mut unresolved = Vec::new();
        let mut found: Vec<(Fit, usize, u32, u32)> = Vec::new();
        let mut lower = String::new();
        for (record, node) in graph.node_of.iter().enumerate().filter(|(_, n)| **n != NONE) {
            if !budget.spend(1)? {
                unresolved.push(Unresolved::new("hits", "the work allowed for the answer was used up; allow more"));
                break;
            }
            let named = &graph.frozen.nodes[record as u32];
            if !kinds[usize::from(graph.frozen.nodes[graph.records[*node as usize]].kind)] {
                continue;
            }
            let id = named.key.as_str();
            let mut fit = best_fit(id, &needles, &mut lower);
            for (_, version, _) in named.claims.at(self.at_ms()).filter(|(_, v, _)| !v.body.title.is_empty()) {
                fit = fit.into_iter().chain(best_fit(&version.body.title, &needles, &mut lower)).min();
            }
            if let Some(fit) = fit {
                found.push((fit, id.len(), *node, record as u32));
            }
        }
        found.sort_unstable();
        let mut seen = hashbrown::HashSet::new();
        found.retain(|(_, _, node, _)| seen.insert(*node));
        let total = found.len();
        let limit = limit.min(MAX_HITS);
        if total > limit {
            unresolved
                .push(Unresolved::new("hits", format!("only {limit} of {total} are listed; raise limit or search for more of the name")));
        }
        let hit = |(_, _, node, record): &(Fit, usize, u32, u32)| Hit {
            node: self.node_ref(NodeIdx(*node)),
            matched: graph.frozen.nodes[*record].key.to_string(),
        };
        Ok(self.answer(Hits { hits: found.iter().take(limit).map(hit).collect(), total }, unresolved))
    }
}

fn best_fit(name: &str, needles: &[String], lower: &mut String) -> Option<Fit> {
    lower.clear();
    lower.push_str(name);
    lower.make_ascii_lowercase();
    needles.iter().filter_map(|n| fit(lower, n)).min()
}

fn fit(name: &str, needle: &str) -> Option<Fit> {
    let at = name.find(needle)?;
    // What stands before the name's last part does not count against it.
    let last = name.rfind(['/', ':']).map_or(0, |i| i + 1);
    if name == needle || &name[last..] == needle {
        return Some(Fit::Whole);
    }
    if at == 0 || name[last..].starts_with(needle) {
        return Some(Fit::Start);
    }
    let before = name[..at].chars().next_back();
    Some(if before.is_some_and(|c| !c.is_alphanumeric()) { Fit::Word } else { Fit::Inside })
}
