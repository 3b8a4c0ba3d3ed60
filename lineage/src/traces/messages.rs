//! Spans of databases' and brokers' clients: they have no other half that would be sent, so that what they say of the other side counts.

use std::hash::{BuildHasher, Hash, Hasher};

use super::graph::{Connection, Edge, EdgeId, NO_NODE};
use super::names::{self, IP_CONFIDENCE};
use super::pairing::{Pairs, Resolved, Sender, Terms, client_half, server_half};
use super::sql;
use super::waiting::{Client, Server};
use super::wire::Span;
use crate::model::{Flow, NodeKey, Relation};

impl Pairs {
    pub(super) fn database(&mut self, sender: Sender<'_>, span: &Span<'_>, weight: f64, trace: u64, terms: &Terms<'_>) {
        let a = &span.attributes;
        let mut hasher = self.hasher.build_hasher();
        (sender.node, "db", a.db_system, a.server_address, a.server_port, a.peer_service, a.db_namespace).hash(&mut hasher);
        if a.db_collection.is_empty() {
            sql::tables(a.db_statement).iter().for_each(|t| (t.name, t.written).hash(&mut hasher));
        } else {
            (a.db_collection, names::is_write(a)).hash(&mut hasher);
        }
        let remembered = hasher.finish();
        if !self.remembered.contains_key(&remembered) {
            let Some(found) = names::database(a, terms.renames) else { return };
            self.remember(remembered, terms, |pairs| pairs.resolve_database(sender.node, &found, terms));
        }
        self.count_remembered(remembered, span, Some(weight), trace, terms);
    }

    fn resolve_database(&mut self, service: u32, found: &names::Database, terms: &Terms<'_>) -> Resolved {
        let mut resolved = Resolved::default();
        let node = |pairs: &mut Self, key: &Option<NodeKey>| {
            key.as_ref().map_or(NO_NODE, |k| pairs.graph.node(k, terms.limits.edges, terms.now_ms))
        };
        let (server, database) = (node(self, &found.server), node(self, &found.database));
        let uses = |to| EdgeId { from: service, to, relation: Relation::Dependency };
        let needs = |from, to| EdgeId { from, to, relation: Relation::Dependency };
        let holder = if database == NO_NODE { server } else { database };
        if database != NO_NODE {
            resolved.others.push(needs(database, server));
        }
        for (table, written) in &found.tables {
            let table = self.graph.node(table, terms.limits.edges, terms.now_ms);
            resolved.counted.push(uses(table));
            resolved.others.push(needs(table, holder));
            if *written {
                // Whoever writes a table makes it late when it fails.
                let written_by = needs(table, service);
                self.graph.edge(written_by, terms.limits.edges, terms.now_ms, || Edge::structure(Some(Flow::Data)));
                resolved.others.push(written_by);
            }
        }
        if found.tables.is_empty() {
            resolved.counted.push(uses(holder));
        }
        let confidence = found.by_ip.then_some(IP_CONFIDENCE);
        for id in &resolved.counted {
            let make = || Edge::traffic(Connection::Database, Flow::Call, confidence);
            self.graph.edge(*id, terms.limits.edges, terms.now_ms, make);
        }
        for id in &resolved.others {
            self.graph.edge(*id, terms.limits.edges, terms.now_ms, || Edge::structure(Some(Flow::Call)));
        }
        resolved
    }

    pub(super) fn producer(&mut self, sender: Sender<'_>, span: &Span<'_>, weight: f64, trace: u64, terms: &Terms<'_>) {
        let topic = self.topic(sender, span, true, terms);
        if let Some((remembered, _)) = topic {
            // A message that is created and sent has two spans; it is counted when it is sent.
            let counted = (span.attributes.messaging_operation != "create").then_some(weight);
            self.count_remembered(remembered, span, counted, trace, terms);
        }
        let peer = topic.is_none().then(|| Box::new(names::peer(&span.attributes, terms.renames)));
        let half = Client { peer, ..client_half(sender.node, span, weight, topic.map(|(_, node)| node)) };
        match self.messages.client((span.trace_id, span.span_id), &half, terms.now_ms + terms.limits.wait_ms) {
            None => self.counts.repeated += 1,
            Some(servers) => servers.iter().for_each(|server| self.message(&half, server, terms)),
        }
    }

    pub(super) fn consumer(&mut self, sender: Sender<'_>, span: &Span<'_>, weight: f64, trace: u64, terms: &Terms<'_>) {
        let topic = self.consumes(sender, span, Some(weight), trace, terms);
        let half = server_half(sender.node, span, weight, topic);
        let until_ms = terms.now_ms + terms.limits.wait_ms;
        // What is processed in batches is linked to its producers; what is processed alone may be their child.
        let parent = (span.links.is_empty() && span.parent_id != 0).then_some((span.trace_id, span.parent_id));
        for producer in span.links.iter().copied().chain(parent) {
            if let Some(client) = self.messages.server(producer, &half, until_ms).cloned() {
                self.message(&client, &half, terms);
            }
        }
    }

    /// Counts what is read from a topic. Returns its node.
    pub(super) fn consumes(
        &mut self,
        sender: Sender<'_>,
        span: &Span<'_>,
        weight: Option<f64>,
        trace: u64,
        terms: &Terms<'_>,
    ) -> Option<u32> {
        let (remembered, topic) = self.topic(sender, span, false, terms)?;
        self.count_remembered(remembered, span, weight, trace, terms);
        Some(topic)
    }

    /// What the topic of a span leads to, as it is remembered, and its node.
    fn topic(&mut self, sender: Sender<'_>, span: &Span<'_>, sends: bool, terms: &Terms<'_>) -> Option<(u64, u32)> {
        let a = &span.attributes;
        if a.messaging_destination.is_empty() || a.messaging_temporary {
            return None;
        }
        let place = (a.messaging_system, a.messaging_destination, a.server_address, a.server_port, a.messaging_servers);
        let remembered = self.hasher.hash_one((sender.node, "topic", sends, place));
        if !self.remembered.contains_key(&remembered) {
            let found = names::topic(a, terms.renames)?;
            self.remember(remembered, terms, |pairs| pairs.resolve_topic(sender.node, &found, sends, terms));
        }
        let node = self.remembered.get(&remembered)?.counted.first()?.to;
        Some((remembered, node))
    }

    fn resolve_topic(&mut self, service: u32, found: &names::Topic, sends: bool, terms: &Terms<'_>) -> Resolved {
        let mut node = |key: &NodeKey| self.graph.node(key, terms.limits.edges, terms.now_ms);
        let (topic, broker) = (node(&found.topic), found.broker.as_ref().map_or(NO_NODE, &mut node));
        let mut resolved = Resolved::default();
        let edge = |from, to| EdgeId { from, to, relation: Relation::Dependency };
        let (most, now_ms) = (terms.limits.edges, terms.now_ms);
        let confidence = found.by_ip.then_some(IP_CONFIDENCE);
        let flow = if sends { Flow::Call } else { Flow::Data };
        if let Some(uses) = self.graph.edge(edge(service, topic), most, now_ms, || Edge::traffic(Connection::Messaging, flow, confidence))
            && sends
        {
            // Of a topic that it reads too, a failure is an error to whoever sends.
            uses.flow = Some(Flow::Call);
        }
        resolved.counted.push(edge(service, topic));
        if sends {
            self.graph.edge(edge(topic, service), most, now_ms, || Edge::structure(Some(Flow::Data)));
            resolved.others.push(edge(topic, service));
        }
        self.graph.edge(edge(topic, broker), most, now_ms, || Edge::structure(Some(Flow::Call)));
        resolved.others.push(edge(topic, broker));
        resolved
    }

    /// Both sides of a message are there: how late it was, or who it is from if nobody names the topic.
    fn message(&mut self, producer: &Client, consumer: &Server, terms: &Terms<'_>) {
        self.counts.pairs += 1;
        let to = consumer.topic.or(producer.topic).unwrap_or(producer.node);
        let id = EdgeId { from: consumer.node, to, relation: Relation::Dependency };
        let make = || Edge::traffic(Connection::Messaging, Flow::Data, None);
        let Some(edge) = self.graph.edge(id, terms.limits.edges, terms.now_ms, make) else { return };
        let traffic = edge.traffic.get_or_insert_default();
        if consumer.topic.is_none() {
            let weight = producer.weight.max(consumer.weight);
            traffic.spans += 1;
            traffic.requests += weight;
            traffic.failed += if consumer.failed { weight } else { 0.0 };
        }
        traffic.paired += 1;
        traffic.lag_sum_ms += consumer.start_ns.saturating_sub(producer.end_ns) as f64 / 1e6;
        traffic.lag_count += 1.0;
    }
}
