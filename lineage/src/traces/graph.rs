//! The nodes and edges that spans have shown lately, with what was counted on them.

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use smallvec::SmallVec;

use super::share::Recent;
use crate::model::{EdgeBody, Flow, Group, NodeBody, NodeKey, Relation};

/// Upper bounds of latency buckets, in seconds; beyond the last one there is +Inf.
pub(crate) const BUCKETS_S: [f64; 11] = [0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8];

/// Memory of the mean lag: this fraction of it is left after each time that it is told.
const LAG_MEMORY: f64 = 0.5;

/// No node, because there is no room.
pub(crate) const NO_NODE: u32 = u32::MAX;

/// Between which nodes, and whether as whole and part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct EdgeId {
    pub from: u32,
    pub to: u32,
    pub relation: Relation,
}

/// What an edge is made of, in the words of Tempo's and the collector's service graphs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Connection {
    /// Follows from another one, as from a table to its database. Carries no traffic of its own.
    Structure,
    /// An interface of a service.
    Interface,
    /// The peer has sent no span.
    Virtual,
    /// A database client's span.
    Database,
    /// A producer's or a consumer's span.
    Messaging,
    /// Spans of both sides.
    Call,
}

impl Connection {
    /// The label `connection_type`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Call | Self::Structure | Self::Interface => "",
            Self::Virtual => "virtual_node",
            Self::Database => "database",
            Self::Messaging => "messaging_system",
        }
    }
}

/// Durations of requests, weighted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    pub sum_s: f64,
    pub count: f64,
    /// Not cumulative.
    pub buckets: [f64; BUCKETS_S.len()],
}

impl Times {
    /// Adds a duration.
    pub fn add(&mut self, duration_ns: u64, weight: f64) {
        let seconds = duration_ns as f64 / 1e9;
        self.sum_s += seconds * weight;
        self.count += weight;
        if let Some(bucket) = BUCKETS_S.iter().position(|bound| seconds <= *bound) {
            self.buckets[bucket] += weight;
        }
    }
}

/// What was counted on an edge since the process began to know it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traffic {
    /// Spans as they came.
    pub spans: u64,
    /// How many they stand for.
    pub requests: f64,
    pub failed: f64,
    /// Calls of which both sides have come.
    pub paired: u64,
    /// Calls of which only the client's side has come.
    pub unpaired: u64,
    pub client: Times,
    pub server: Times,
    pub lag_sum_ms: f64,
    pub lag_count: f64,
    /// The traces that use it.
    pub uses: Recent,
    /// Its series have begun.
    pub begun: bool,
}

impl Traffic {
    /// Mean lag of late, forgetting what is older by half.
    pub fn take_lag_ms(&mut self) -> Option<i64> {
        let lag = (self.lag_count >= 1.0).then(|| (self.lag_sum_ms / self.lag_count).round() as i64);
        self.lag_sum_ms *= LAG_MEMORY;
        self.lag_count *= LAG_MEMORY;
        lag
    }
}

/// What was written of a node or an edge, and when.
pub(crate) type Written<B> = Option<(B, i64)>;

/// An edge.
#[derive(Debug)]
pub(crate) struct Edge {
    pub connection: Connection,
    pub flow: Option<Flow>,
    pub confidence: Option<f32>,
    /// Providers of this group stand in for each other.
    pub group: Option<&'static str>,
    pub touched_ms: i64,
    pub lag_ms: Option<i64>,
    pub traffic: Option<Box<Traffic>>,
    pub written: Written<EdgeBody>,
    /// The share that was said before this process, if that was looked up.
    pub said_before: Option<Option<f32>>,
}

impl Edge {
    /// An edge that carries no traffic.
    pub fn structure(flow: Option<Flow>) -> Self {
        Self {
            connection: Connection::Structure,
            flow,
            confidence: None,
            group: None,
            touched_ms: 0,
            lag_ms: None,
            traffic: None,
            written: None,
            said_before: None,
        }
    }

    /// An edge that carries traffic.
    pub fn traffic(connection: Connection, flow: Flow, confidence: Option<f32>) -> Self {
        Self { connection, confidence, traffic: Some(Box::default()), ..Self::structure(Some(flow)) }
    }

    /// What the lineage is told of it.
    pub fn body(&self, share: Option<f32>) -> EdgeBody {
        EdgeBody {
            evidence: crate::model::Evidence::Observed,
            flow: self.flow,
            confidence: self.confidence,
            group: self.group.map(|id| Box::new(Group { id: id.into(), k: 1, n: None })),
            share,
            lag_ms: self.lag_ms,
            ..EdgeBody::default()
        }
    }
}

/// What was counted at a service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Service {
    pub spans: u64,
    pub weight: f64,
    /// Server spans with a parent elsewhere, and those of them that no client span has come for.
    pub servers: u64,
    pub servers_unpaired: u64,
    /// Client spans that call services, those of them that no server span has come for, and those of these that name nobody.
    pub clients: u64,
    pub clients_unpaired: u64,
    pub clients_nameless: u64,
    pub interfaces: usize,
    /// Traces with requests to it.
    pub inbound: Recent,
    /// Traces that begin at it.
    pub begun: Recent,
    pub has_inbound: bool,
    /// Requests that nobody who is traced has made.
    pub entered: f64,
    /// The series of these has begun.
    pub entered_begun: bool,
}

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    pub key: NodeKey,
    pub touched_ms: i64,
    pub body: NodeBody,
    pub written: Written<NodeBody>,
    pub service: Option<Box<Service>>,
}

/// Edges that were forgotten, with the names of their ends.
pub(crate) type Gone = Vec<(NodeKey, NodeKey, Edge)>;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    nodes: Vec<Option<Node>>,
    free: Vec<u32>,
    ids: HashMap<NodeKey, u32>,
    /// Services by their name without namespace.
    by_name: HashMap<String, SmallVec<[u32; 1]>>,
    pub edges: HashMap<EdgeId, Edge>,
    /// Nodes and edges for which there was no room.
    pub refused: u64,
    /// Something is here that was not here before.
    pub news: bool,
}

impl Graph {
    /// The index of a node, which is made if there is room.
    pub fn node(&mut self, key: &NodeKey, most: usize, now_ms: i64) -> u32 {
        if let Some(id) = self.ids.get(key) {
            return *id;
        }
        if self.ids.len() >= most {
            self.refused += 1;
            return NO_NODE;
        }
        let body = NodeBody { evidence: crate::model::Evidence::Observed, ..NodeBody::default() };
        let service = (key.kind() == crate::model::kind::SERVICE).then(Box::default);
        let node = Node { key: key.clone(), touched_ms: now_ms, body, written: None, service };
        let id = match self.free.pop() {
            Some(id) => {
                self.nodes[id as usize] = Some(node);
                id
            }
            None => {
                self.nodes.push(Some(node));
                self.nodes.len() as u32 - 1
            }
        };
        self.news = true;
        self.ids.insert(key.clone(), id);
        if key.kind() == crate::model::kind::SERVICE {
            self.by_name.entry(key.name().into_owned()).or_default().push(id);
        }
        id
    }

    /// A node by its index.
    pub fn get(&self, id: u32) -> Option<&Node> {
        self.nodes.get(id as usize)?.as_ref()
    }

    /// A node by its index.
    pub fn get_mut(&mut self, id: u32) -> Option<&mut Node> {
        self.nodes.get_mut(id as usize)?.as_mut()
    }

    /// What was counted at a service.
    pub fn service(&mut self, id: u32) -> Option<&mut Service> {
        self.get_mut(id)?.service.as_deref_mut()
    }

    /// All nodes.
    pub fn nodes_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        self.nodes.iter_mut().flatten()
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten()
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// The only service of this name, in whatever namespace.
    pub fn only_service(&self, name: &str) -> Option<u32> {
        match self.by_name.get(name).map(SmallVec::as_slice) {
            Some([only]) => Some(*only),
            _ => None,
        }
    }

    /// The edge, which is made if there is room; it was seen now.
    pub fn edge(&mut self, id: EdgeId, most: usize, now_ms: i64, make: impl FnOnce() -> Edge) -> Option<&mut Edge> {
        if id.from == NO_NODE || id.to == NO_NODE || id.from == id.to {
            return None;
        }
        for node in [id.from, id.to] {
            if let Some(node) = self.get_mut(node) {
                node.touched_ms = now_ms;
            }
        }
        let full = self.edges.len() >= most;
        match self.edges.entry(id) {
            Entry::Occupied(entry) => {
                let edge = entry.into_mut();
                edge.touched_ms = now_ms;
                Some(edge)
            }
            Entry::Vacant(_) if full => {
                self.refused += 1;
                None
            }
            Entry::Vacant(entry) => {
                self.news = true;
                Some(entry.insert(Edge { touched_ms: now_ms, ..make() }))
            }
        }
    }

    /// Forgets what was not seen since a time. Returns the edges, with the names of their ends.
    pub fn sweep(&mut self, since_ms: i64) -> Gone {
        let idle: Vec<EdgeId> = self.edges.iter().filter(|(_, e)| e.touched_ms < since_ms).map(|(id, _)| *id).collect();
        let mut gone = Vec::with_capacity(idle.len());
        for id in idle {
            if let (Some(edge), Some(from), Some(to)) = (self.edges.remove(&id), self.get(id.from), self.get(id.to)) {
                gone.push((from.key.clone(), to.key.clone(), edge));
            }
        }
        // Whoever touches an edge touches its nodes, so that no edge is left without them.
        for (id, slot) in self.nodes.iter_mut().enumerate() {
            if let Some(node) = slot.take_if(|n| n.touched_ms < since_ms) {
                self.ids.remove(&node.key);
                self.free.push(id as u32);
                if let Entry::Occupied(mut same) = self.by_name.entry(node.key.name().into_owned()) {
                    same.get_mut().retain(|other| *other != id as u32);
                    if same.get().is_empty() {
                        same.remove();
                    }
                }
            }
        }
        gone
    }
}
