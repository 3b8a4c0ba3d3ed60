//! How an event changes the state. The same entries in the same order lead to the same state in every process.

use std::sync::Arc;

use super::recent::RecentIds;
use super::{Changes, Rule, State, Subject};
use crate::event::{Event, Fact, Pair};
use crate::history::{Effect, SourceId};
use crate::model::{NodeBody, NodeKey};

impl State {
    /// Applies one event, which was checked before it came into the log.
    pub fn fold(&mut self, event: Event) -> Changes {
        let mut changes = Changes::default();
        self.recent.insert(RecentIds::hash(&event.id));
        let source = self.source_id(&event.source, &event.scope);
        let record = self.frozen.sources.get_mut(source);
        record.heard_ms = record.heard_ms.max(event.at_ms);
        for fact in event.facts {
            let (subject, effect) = self.fold_fact(source, event.at_ms, fact);
            changes.add(effect);
            if effect == (Effect::Changed { first: true })
                && let Some(subject) = subject
            {
                self.add_subject(source, subject);
            }
        }
        if let Some(since_ms) = event.complete_since_ms {
            changes.join(self.withdraw_unseen(source, since_ms, event.at_ms));
        }
        if changes.changed {
            self.frozen.epoch += 1;
        }
        changes
    }

    fn fold_fact(&mut self, source: SourceId, at_ms: i64, fact: Fact) -> (Option<Subject>, Effect) {
        match fact {
            Fact::Node(fact) => {
                let id = self.node_id(&fact.node);
                let body = if fact.body == NodeBody::default() { self.empty_body.clone() } else { Arc::new(fact.body) };
                let effect = self.frozen.nodes.get_mut(id).claims.assert(source, at_ms, fact.ttl_ms, body);
                (Some(Subject::Node(id)), effect)
            }
            Fact::Edge(fact) => {
                let (from, to) = (self.node_id(&fact.from), self.node_id(&fact.to));
                let id = self.edge_id(from, to, fact.relation);
                let effect = self.frozen.edges.get_mut(id).claims.assert(source, at_ms, fact.ttl_ms, fact.body);
                (Some(Subject::Edge(id)), effect)
            }
            Fact::Alias(fact) => {
                let id = self.pair_id(&fact.alias, &fact.canonical);
                let effect = self.frozen.aliases.get_mut(id).same.assert(source, at_ms, fact.ttl_ms, Rule(fact.rule.into()));
                (Some(Subject::Same(id)), effect)
            }
            Fact::Separate(pair) => {
                let id = self.pair_id(&pair.alias, &pair.canonical);
                let effect = self.frozen.aliases.get_mut(id).apart.assert(source, at_ms, 0, Rule(pair.rule.into()));
                (Some(Subject::Apart(id)), effect)
            }
            Fact::Type(fact) => {
                let id = self.type_id(&fact.name);
                let effect = self.frozen.types.get_mut(id).1.assert(source, at_ms, 0, Arc::new(fact.body));
                (Some(Subject::Type(id)), effect)
            }
            Fact::Document(fact) => {
                let id = self.node_id(&fact.node);
                let text = (!fact.body.is_null()).then(|| fact.body.to_string().into());
                self.documents.put(id, &fact.name, at_ms, text);
                // The graph is the same.
                (None, Effect::Nothing)
            }
            gone => (None, self.fold_gone(source, at_ms, &gone)),
        }
    }

    /// Withdraws what a source has said. What nobody has ever said is not there to be withdrawn.
    fn fold_gone(&mut self, source: SourceId, at_ms: i64, fact: &Fact) -> Effect {
        let subject = match fact {
            Fact::NodeGone(gone) => self.frozen.find(&gone.node).map(Subject::Node),
            Fact::EdgeGone(gone) => self
                .frozen
                .find(&gone.from)
                .zip(self.frozen.find(&gone.to))
                .and_then(|(from, to)| self.find_edge(from, to, gone.relation))
                .map(Subject::Edge),
            Fact::AliasGone(pair) => self.find_pair(pair).map(Subject::Same),
            Fact::SeparateGone(pair) => self.find_pair(pair).map(Subject::Apart),
            Fact::TypeGone(gone) => self.type_ids.get(gone.name.as_str()).copied().map(Subject::Type),
            Fact::Node(_) | Fact::Edge(_) | Fact::Alias(_) | Fact::Separate(_) | Fact::Type(_) | Fact::Document(_) => None,
        };
        match subject {
            None => Effect::Nothing,
            Some(Subject::Node(id)) => self.frozen.nodes.get_mut(id).claims.retract(source, at_ms),
            Some(Subject::Edge(id)) => self.frozen.edges.get_mut(id).claims.retract(source, at_ms),
            Some(Subject::Same(id)) => self.frozen.aliases.get_mut(id).same.retract(source, at_ms),
            Some(Subject::Apart(id)) => self.frozen.aliases.get_mut(id).apart.retract(source, at_ms),
            Some(Subject::Type(id)) => self.frozen.types.get_mut(id).1.retract(source, at_ms),
        }
    }

    /// Withdraws what a source has not repeated since a time.
    fn withdraw_unseen(&mut self, source: SourceId, since_ms: i64, at_ms: i64) -> Changes {
        let mut changes = Changes::default();
        let subjects = std::mem::take(&mut self.subjects[source as usize]);
        for subject in &subjects {
            changes.add(self.withdraw_one(*subject, source, since_ms, at_ms));
        }
        self.subjects[source as usize] = subjects;
        changes
    }

    fn withdraw_one(&mut self, subject: Subject, source: SourceId, since_ms: i64, at_ms: i64) -> Effect {
        let (id, due) = match subject {
            Subject::Node(id) => (id, self.frozen.nodes[id].claims.is_unseen(source, since_ms, at_ms)),
            Subject::Edge(id) => (id, self.frozen.edges[id].claims.is_unseen(source, since_ms, at_ms)),
            Subject::Same(id) => (id, self.frozen.aliases[id].same.is_unseen(source, since_ms, at_ms)),
            Subject::Apart(id) => (id, self.frozen.aliases[id].apart.is_unseen(source, since_ms, at_ms)),
            Subject::Type(id) => (id, self.frozen.types[id].1.is_unseen(source, since_ms, at_ms)),
        };
        // Asked first, because a chunk that is shared with a snapshot is copied when it is touched.
        if !due {
            return Effect::Nothing;
        }
        match subject {
            Subject::Node(_) => self.frozen.nodes.get_mut(id).claims.retract_unseen(source, since_ms, at_ms),
            Subject::Edge(_) => self.frozen.edges.get_mut(id).claims.retract_unseen(source, since_ms, at_ms),
            Subject::Same(_) => self.frozen.aliases.get_mut(id).same.retract_unseen(source, since_ms, at_ms),
            Subject::Apart(_) => self.frozen.aliases.get_mut(id).apart.retract_unseen(source, since_ms, at_ms),
            Subject::Type(_) => self.frozen.types.get_mut(id).1.retract_unseen(source, since_ms, at_ms),
        }
    }

    fn find_pair(&self, pair: &Pair) -> Option<u32> {
        let (alias, canonical) = (self.frozen.find(&pair.alias)?, self.frozen.find(&pair.canonical)?);
        self.alias_ids.get(&(alias, canonical)).copied()
    }

    fn pair_id(&mut self, alias: &NodeKey, canonical: &NodeKey) -> u32 {
        let (alias, canonical) = (self.node_id(alias), self.node_id(canonical));
        self.alias_id(alias, canonical)
    }
}

impl Changes {
    fn add(&mut self, effect: Effect) {
        match effect {
            Effect::Changed { .. } => self.changed = true,
            Effect::Seen { live_until_ms } => self.prolonged_ms = self.prolonged_ms.min(live_until_ms),
            Effect::Nothing => {}
        }
    }

    /// Adds what another event has changed.
    pub fn join(&mut self, other: Self) {
        self.changed |= other.changed;
        self.prolonged_ms = self.prolonged_ms.min(other.prolonged_ms);
    }
}
