//! From spans to edges: each span is looked at once, under the lock of its tenant, and only what is counted of it is kept.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashMap};
use serde::Serialize;
use smallvec::SmallVec;

use super::Limits;
use super::attributes::ResourceAttributes;
use super::graph::{Connection, Edge, EdgeId, Graph, NO_NODE, Traffic};
use super::names::{self, ADDRESS_CONFIDENCE, Peer, Renames};
use super::sampling;
use super::waiting::{Client, Left, Server, Waiting};
use super::wire::{KIND_CLIENT, KIND_CONSUMER, KIND_PRODUCER, KIND_SERVER, Malformed, Span, visit_resources};
use crate::model::{Criticality, Flow, NodeKey, Relation, kind};

/// Spans that ended longer ago are refused: edges are of now.
pub(crate) const MAX_AGE_MS: i64 = 3_600_000;

/// Clocks of senders may be ahead by so much.
pub(crate) const MAX_AHEAD_MS: i64 = 600_000;

/// Most interfaces of a service; requests to further ones count for the service alone.
pub(crate) const MAX_INTERFACES: usize = 500;

/// What follows from the same attributes is remembered so many times for every edge that there may be.
const REMEMBERED_PER_EDGE: usize = 4;

/// Edges that a remembered set of attributes leads to are marked as seen at most so often.
const TOUCH_MS: i64 = 1_000;

/// What became of spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    pub received: u64,
    pub servers: u64,
    pub clients: u64,
    pub producers: u64,
    pub consumers: u64,
    pub pairs: u64,
    pub repeated: u64,
    pub unpaired_clients: u64,
    pub unpaired_servers: u64,
    /// Refused: without ids, too old or from the future, from a service without a name.
    pub invalid: u64,
    pub out_of_time: u64,
    pub nameless: u64,
    /// Halves that had to give way to newer ones, and nodes and edges for which there was no room.
    pub crowded_out: u64,
    pub no_room: u64,
    /// Client spans whose peer is an IP address.
    pub ip_peers: u64,
}

impl Counts {
    /// What was added since.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            received: self.received - before.received,
            servers: self.servers - before.servers,
            clients: self.clients - before.clients,
            producers: self.producers - before.producers,
            consumers: self.consumers - before.consumers,
            pairs: self.pairs - before.pairs,
            repeated: self.repeated - before.repeated,
            unpaired_clients: self.unpaired_clients - before.unpaired_clients,
            unpaired_servers: self.unpaired_servers - before.unpaired_servers,
            invalid: self.invalid - before.invalid,
            out_of_time: self.out_of_time - before.out_of_time,
            nameless: self.nameless - before.nameless,
            crowded_out: self.crowded_out - before.crowded_out,
            no_room: self.no_room - before.no_room,
            ip_peers: self.ip_peers - before.ip_peers,
        }
    }

    /// How many spans were refused, which their sender is told.
    pub fn refused(&self) -> u64 {
        self.invalid + self.out_of_time + self.nameless
    }
}

/// Edges that a set of attributes leads to.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    /// With traffic.
    pub counted: SmallVec<[EdgeId; 2]>,
    /// That follow from these.
    pub others: SmallVec<[EdgeId; 4]>,
    touched_ms: i64,
}

/// What a request is taken with.
pub(crate) struct Terms<'a> {
    pub limits: Limits,
    pub renames: &'a Renames,
    pub now_ms: i64,
}

/// The sender of spans.
#[derive(Clone, Copy)]
pub(super) struct Sender<'a> {
    pub node: u32,
    namespace: &'a str,
    name: &'a str,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    pub graph: Graph,
    pub calls: Waiting,
    pub messages: Waiting,
    pub counts: Counts,
    pub(super) remembered: HashMap<u64, Resolved>,
    interfaces: HashMap<u64, u32>,
    pub(super) hasher: DefaultHashBuilder,
}

impl Pairs {
    /// Takes the spans of a request.
    ///
    /// # Errors
    /// [`Malformed`] if the request is not the message; spans before the broken place are taken.
    pub fn take(&mut self, request: &[u8], terms: &Terms<'_>) -> Result<(), Malformed> {
        let result = visit_resources(request, |resource, spans| {
            let sender = self.sender(resource, terms);
            for span in spans {
                let span = Span::read(span?)?;
                self.counts.received += 1;
                if span.trace_id == 0 || span.span_id == 0 {
                    self.counts.invalid += 1;
                    continue;
                }
                let age_ms = terms.now_ms - (span.end_ns / 1_000_000) as i64;
                if !(-MAX_AHEAD_MS..=MAX_AGE_MS).contains(&age_ms) {
                    self.counts.out_of_time += 1;
                    continue;
                }
                match sender {
                    None => self.counts.nameless += 1,
                    Some(sender) if sender.node == NO_NODE => {}
                    Some(sender) => self.span(sender, &span, terms),
                }
            }
            Ok(())
        });
        self.counts.no_room += std::mem::take(&mut self.graph.refused);
        self.shrink(terms);
        result
    }

    /// The node of whoever sends, and what runs it. `None` if it has no name.
    fn sender<'a>(&mut self, resource: &ResourceAttributes<'a>, terms: &Terms<'_>) -> Option<Sender<'a>> {
        if !names::is_service_name(resource.name) {
            return None;
        }
        let (namespace, name) = (resource.service_namespace(), resource.name);
        let key = names::service(namespace, name)?;
        let node = self.graph.node(&key, terms.limits.edges, terms.now_ms);
        if let Some(state) = self.graph.get_mut(node) {
            state.touched_ms = terms.now_ms;
            if let Some(criticality) = criticality(resource.criticality) {
                state.body.criticality = Some(criticality);
            }
            let environment = state.body.attributes.get("environment").and_then(|v| v.as_str());
            if !resource.environment.is_empty() && environment.is_none() {
                state.body.attributes.insert("environment".into(), resource.environment.into());
            }
        }
        if let Some(workload) = names::workload(resource) {
            let to = self.graph.node(&workload, terms.limits.edges, terms.now_ms);
            let id = EdgeId { from: node, to, relation: Relation::Dependency };
            let make = || Edge { group: Some("workloads"), ..Edge::structure(Some(Flow::Call)) };
            self.graph.edge(id, terms.limits.edges, terms.now_ms, make);
        }
        Some(Sender { node, namespace, name })
    }

    fn span(&mut self, sender: Sender<'_>, span: &Span<'_>, terms: &Terms<'_>) {
        let (weight, trace) = (sampling::weight(span), trace_hash(span.trace_id));
        if let Some(service) = self.graph.service(sender.node) {
            service.spans += 1;
            service.weight += weight;
            if span.parent_id == 0 {
                service.begun.insert(trace);
            }
            if matches!(span.kind, KIND_SERVER | KIND_CONSUMER) {
                service.has_inbound = true;
                service.inbound.insert(trace);
            }
        }
        let attributes = &span.attributes;
        match span.kind {
            KIND_SERVER => {
                self.counts.servers += 1;
                self.server(sender, span, weight, trace, terms);
            }
            KIND_CONSUMER => {
                self.counts.consumers += 1;
                self.consumer(sender, span, weight, trace, terms);
            }
            KIND_PRODUCER => {
                self.counts.producers += 1;
                self.producer(sender, span, weight, trace, terms);
            }
            KIND_CLIENT => {
                self.counts.clients += 1;
                if !attributes.db_system.is_empty() {
                    self.database(sender, span, weight, trace, terms);
                } else if attributes.messaging_destination.is_empty() {
                    self.client(sender, span, weight, terms);
                } else if matches!(attributes.messaging_operation, "receive" | "settle" | "poll" | "ack" | "process") {
                    self.consumes(sender, span, None, trace, terms);
                } else {
                    self.producer(sender, span, weight, trace, terms);
                }
            }
            _ => {}
        }
    }

    fn server(&mut self, sender: Sender<'_>, span: &Span<'_>, weight: f64, trace: u64, terms: &Terms<'_>) {
        let interface = self.interface(sender, span, terms);
        if interface != NO_NODE {
            // Down with the service; and of the service, this part of the requests would be missing.
            let needs = EdgeId { from: interface, to: sender.node, relation: Relation::Dependency };
            self.graph.edge(needs, terms.limits.edges, terms.now_ms, || Edge::structure(Some(Flow::Call)));
            let part = EdgeId { from: sender.node, to: interface, relation: Relation::Composition };
            let make = || Edge::traffic(Connection::Interface, Flow::Call, None);
            if let Some(traffic) = self.graph.edge(part, terms.limits.edges, terms.now_ms, make).and_then(|e| e.traffic.as_mut()) {
                count(traffic, weight, span.failed, trace);
                traffic.server.add(span.duration_ns(), weight);
            }
        }
        if span.parent_id == 0 {
            let entry = if interface == NO_NODE { sender.node } else { interface };
            if let Some(node) = self.graph.get_mut(entry) {
                node.body.entry = true;
            }
            if let Some(service) = self.graph.service(sender.node) {
                service.entered += weight;
            }
            return;
        }
        let half = server_half(sender.node, span, weight, None);
        let until_ms = terms.now_ms + terms.limits.wait_ms;
        if let Some(service) = self.graph.service(sender.node) {
            service.servers += 1;
        }
        if let Some(client) = self.calls.server((span.trace_id, span.parent_id), &half, until_ms).cloned() {
            self.call(&client, &half, span.trace_id, terms);
        }
    }

    fn client(&mut self, sender: Sender<'_>, span: &Span<'_>, weight: f64, terms: &Terms<'_>) {
        let peer = names::peer(&span.attributes, terms.renames);
        let half = Client { peer: Some(Box::new(peer)), ..client_half(sender.node, span, weight, None) };
        if let Some(service) = self.graph.service(sender.node) {
            service.clients += 1;
        }
        match self.calls.client((span.trace_id, span.span_id), &half, terms.now_ms + terms.limits.wait_ms) {
            None => self.counts.repeated += 1,
            Some(servers) => servers.iter().for_each(|server| self.call(&half, server, span.trace_id, terms)),
        }
    }

    /// Both sides of a call are there.
    fn call(&mut self, client: &Client, server: &Server, trace_id: u128, terms: &Terms<'_>) {
        self.counts.pairs += 1;
        let id = EdgeId { from: client.node, to: server.node, relation: Relation::Dependency };
        let make = || Edge::traffic(Connection::Call, Flow::Call, None);
        let Some(edge) = self.graph.edge(id, terms.limits.edges, terms.now_ms, make) else { return };
        let traffic = edge.traffic.get_or_insert_default();
        if edge.connection != Connection::Call {
            // It has another name in the series from now on.
            (edge.connection, edge.confidence, traffic.begun) = (Connection::Call, None, false);
        }
        // Each side says how many it stands for; both were kept only where the rarer one was.
        let weight = client.weight.max(server.weight);
        count(traffic, weight, client.failed || server.failed, trace_hash(trace_id));
        traffic.paired += 1;
        traffic.client.add(client.duration_ns, weight);
        traffic.server.add(server.duration_ns, weight);
    }

    pub(super) fn remember(&mut self, hash: u64, terms: &Terms<'_>, resolve: impl FnOnce(&mut Self) -> Resolved) {
        if self.remembered.len() >= terms.limits.edges.saturating_mul(REMEMBERED_PER_EDGE) {
            self.remembered.clear();
        }
        let resolved = Resolved { touched_ms: terms.now_ms, ..resolve(self) };
        self.remembered.insert(hash, resolved);
    }

    /// Counts a span on the edges that its attributes lead to; without a weight they are only marked as seen.
    pub(super) fn count_remembered(&mut self, hash: u64, span: &Span<'_>, weight: Option<f64>, trace: u64, terms: &Terms<'_>) {
        let Some(resolved) = self.remembered.get_mut(&hash) else { return };
        let touch = terms.now_ms - resolved.touched_ms >= TOUCH_MS;
        if touch {
            resolved.touched_ms = terms.now_ms;
            for id in resolved.others.iter().chain(&resolved.counted) {
                // They were made when they were resolved; one that is not there had no room.
                if self.graph.edges.contains_key(id) {
                    self.graph.edge(*id, terms.limits.edges, terms.now_ms, || Edge::structure(None));
                }
            }
        }
        let Some(weight) = weight else { return };
        for id in &resolved.counted {
            if let Some(traffic) = self.graph.edges.get_mut(id).and_then(|e| e.traffic.as_mut()) {
                count(traffic, weight, span.failed, trace);
                traffic.client.add(span.duration_ns(), weight);
            }
        }
    }

    /// The node of the interface that a server's span is of.
    fn interface(&mut self, sender: Sender<'_>, span: &Span<'_>, terms: &Terms<'_>) -> u32 {
        let a = &span.attributes;
        if !terms.limits.interfaces || (a.http_route.is_empty() && a.rpc_method.is_empty()) {
            return NO_NODE;
        }
        let hash = self.hasher.hash_one((sender.node, a.http_method, a.http_route, a.rpc_service, a.rpc_method));
        if let Some(node) = self.interfaces.get(&hash) {
            return *node;
        }
        let room = self.graph.service(sender.node).is_some_and(|s| s.interfaces < MAX_INTERFACES);
        let key = if room { names::interface(sender.namespace, sender.name, a) } else { None };
        let node = match key {
            Some(key) => {
                if let Some(service) = self.graph.service(sender.node) {
                    service.interfaces += 1;
                }
                self.graph.node(&key, terms.limits.edges, terms.now_ms)
            }
            None => {
                self.counts.no_room += 1;
                NO_NODE
            }
        };
        if self.interfaces.len() >= terms.limits.edges.saturating_mul(REMEMBERED_PER_EDGE) {
            self.interfaces.clear();
        }
        if node != NO_NODE {
            self.interfaces.insert(hash, node);
        }
        node
    }

    /// Looks at the halves whose time is over.
    pub fn expire(&mut self, terms: &Terms<'_>) {
        let mut left = Vec::new();
        self.calls.expire(terms.now_ms, |key, half| left.push((key, half)));
        for ((trace_id, _), half) in left.drain(..) {
            match half {
                Left::Client(client) => self.lone_client(&client, trace_id, terms),
                Left::Server(server) => {
                    self.counts.unpaired_servers += 1;
                    if let Some(service) = self.graph.service(server.node) {
                        service.servers_unpaired += 1;
                    }
                }
            }
        }
        // Of messages both sides are counted by themselves, if they name the topic.
        self.messages.expire(terms.now_ms, |key, half| left.push((key, half)));
        for (_, half) in left {
            match half {
                Left::Client(client) if client.topic.is_none() => self.counts.unpaired_clients += 1,
                Left::Server(server) if server.topic.is_none() => self.counts.unpaired_servers += 1,
                _ => {}
            }
        }
    }

    /// Nobody has answered a call with a span: whom it went to is known by what the client says.
    fn lone_client(&mut self, client: &Client, trace_id: u128, terms: &Terms<'_>) {
        self.counts.unpaired_clients += 1;
        let peer = client.peer.as_deref().unwrap_or(&Peer::Unknown);
        let found = self.peer(client.node, peer, terms);
        self.counts.ip_peers += u64::from(*peer == Peer::Ip);
        if let Some(service) = self.graph.service(client.node) {
            service.clients_unpaired += 1;
            service.clients_nameless += u64::from(found.is_none());
        }
        let Some((to, confidence)) = found else { return };
        let id = EdgeId { from: client.node, to, relation: Relation::Dependency };
        let make = || Edge::traffic(Connection::Virtual, Flow::Call, confidence);
        let Some(edge) = self.graph.edge(id, terms.limits.edges, terms.now_ms, make) else { return };
        let traffic = edge.traffic.get_or_insert_default();
        count(traffic, client.weight, client.failed, trace_hash(trace_id));
        traffic.unpaired += 1;
        traffic.client.add(client.duration_ns, client.weight);
    }

    /// The node of a peer that has sent no span, and how sure that is.
    fn peer(&mut self, client: u32, peer: &Peer, terms: &Terms<'_>) -> Option<(u32, Option<f32>)> {
        let (namespace, name, confidence) = match peer {
            Peer::Ip | Peer::Unknown => return None,
            Peer::Named { namespace, name } => (namespace.as_str(), name.as_str(), None),
            Peer::Host(host) if host.contains('.') => {
                let key = NodeKey::new(kind::EXTERNAL, "", host).ok()?;
                return Some((self.graph.node(&key, terms.limits.edges, terms.now_ms), Some(ADDRESS_CONFIDENCE)));
            }
            Peer::Host(host) => ("", host.as_str(), Some(ADDRESS_CONFIDENCE)),
        };
        if namespace.is_empty()
            && let Some(known) = self.graph.only_service(name)
        {
            return Some((known, confidence));
        }
        // A name without dots is looked up in one's own namespace.
        let own = self.graph.get(client).map_or(String::new(), |c| c.key.namespace().into_owned());
        let namespace = if namespace.is_empty() { own.as_str() } else { namespace };
        let key = names::service(namespace, name)?;
        Some((self.graph.node(&key, terms.limits.edges, terms.now_ms), confidence))
    }

    /// Keeps the halves within their limit.
    fn shrink(&mut self, terms: &Terms<'_>) {
        let mut crowded_out = 0;
        for waiting in [&mut self.calls, &mut self.messages] {
            waiting.shrink(terms.limits.waiting, |_, _| crowded_out += 1);
        }
        self.counts.crowded_out += crowded_out;
    }

    /// Forgets what follows from attributes, because nodes may be other ones now.
    pub fn forget_remembered(&mut self) {
        self.remembered.clear();
        self.interfaces.clear();
    }
}

fn count(traffic: &mut Traffic, weight: f64, failed: bool, trace: u64) {
    traffic.spans += 1;
    traffic.requests += weight;
    if failed {
        traffic.failed += weight;
    }
    traffic.uses.insert(trace);
}

pub(super) fn client_half(node: u32, span: &Span<'_>, weight: f64, topic: Option<u32>) -> Client {
    Client { node, duration_ns: span.duration_ns(), end_ns: span.end_ns, weight, failed: span.failed, peer: None, topic }
}

pub(super) fn server_half(node: u32, span: &Span<'_>, weight: f64, topic: Option<u32>) -> Server {
    let (span_id, duration_ns) = (span.span_id, span.duration_ns());
    Server { span_id, node, duration_ns, start_ns: span.start_ns, weight, failed: span.failed, topic }
}

fn criticality(text: &str) -> Option<Criticality> {
    match text {
        "critical" => Some(Criticality::Critical),
        "high" => Some(Criticality::High),
        "medium" => Some(Criticality::Medium),
        "low" => Some(Criticality::Low),
        _ => None,
    }
}

/// The same for a trace everywhere and always, spread evenly (the finalizer of SplitMix64).
fn trace_hash(trace_id: u128) -> u64 {
    let mut z = (trace_id as u64) ^ ((trace_id >> 64) as u64).rotate_left(32);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
