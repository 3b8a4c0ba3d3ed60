//! Lineage of a job or a dataset: what it is made from, and what is made from it, each walked in its own direction.
//!
//! A job that writes several tables does not make each from everything that it reads if somebody has said what each is made from: then
//! the walk goes through the job along what was said.

use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

use serde_json::{Value, json};

use super::{Kind, Missing, NodeId, Reader};
use crate::snapshot::NodeIdx;

/// Nodes of one answer.
pub const MAX_LINEAGE_NODES: usize = 5_000;

/// Jobs that are passed one after the other.
pub const MAX_DEPTH: usize = 100_000;

/// Visits of an edge that one answer may cost.
const MAX_WORK: usize = 20_000_000;

/// A graph that is found step by step.
struct Walk<'a> {
    reader: &'a Reader,
    depth: i64,
    /// In the order in which they were found.
    nodes: Vec<NodeIdx>,
    known: HashSet<NodeIdx>,
    /// By dataset and a job that writes it, what of the job's inputs it was said to be made from.
    said: HashMap<(NodeIdx, NodeIdx), Rc<HashSet<NodeIdx>>>,
    work: usize,
    complete: bool,
}

impl Walk<'_> {
    fn add(&mut self, node: NodeIdx) -> bool {
        if self.known.contains(&node) {
            return true;
        }
        if self.nodes.len() >= MAX_LINEAGE_NODES {
            self.complete = false;
            return false;
        }
        self.known.insert(node);
        self.nodes.push(node);
        true
    }

    /// Neighbours in one direction.
    fn next(&mut self, node: NodeIdx, up: bool) -> Vec<(NodeIdx, Kind)> {
        let found: Vec<_> = if up { self.reader.sources(node).collect() } else { self.reader.targets(node).collect() };
        self.work += found.len() + 1;
        self.complete &= self.work <= MAX_WORK;
        if self.work > MAX_WORK { Vec::new() } else { found }
    }

    /// What of the inputs of `job` its output `dataset` was said to be made from. Nothing if nobody has said.
    fn said(&mut self, dataset: NodeIdx, job: NodeIdx) -> Rc<HashSet<NodeIdx>> {
        if let Some(known) = self.said.get(&(dataset, job)) {
            return Rc::clone(known);
        }
        let direct: HashSet<NodeIdx> = self.next(dataset, true).into_iter().filter(|(_, k)| *k == Kind::Dataset).map(|(n, _)| n).collect();
        let inputs = if direct.is_empty() { Vec::new() } else { self.next(job, true) };
        let joint = Rc::new(inputs.into_iter().map(|(n, _)| n).filter(|n| direct.contains(n)).collect::<HashSet<_>>());
        self.said.insert((dataset, job), Rc::clone(&joint));
        joint
    }

    /// What `dataset` leads to through `job`.
    fn through(&mut self, dataset: NodeIdx, job: NodeIdx, up: bool) -> Vec<(NodeIdx, Kind)> {
        let next = self.next(job, up);
        if up {
            let explicit: HashSet<NodeIdx> = self.reader.explicit_inputs(job).collect();
            let said = self.said(dataset, job);
            let leads = |n: &NodeIdx| if said.is_empty() { !explicit.contains(n) } else { said.contains(n) };
            return next.into_iter().filter(|(n, k)| *k == Kind::Job || leads(n)).collect();
        }
        let explicit = self.reader.explicit_inputs(job).any(|n| n == dataset);
        let mut out = Vec::new();
        for (other, kind) in next {
            let said = if kind == Kind::Job { Rc::default() } else { self.said(other, job) };
            if kind == Kind::Job || (if said.is_empty() { !explicit } else { said.contains(&dataset) }) {
                out.push((other, kind));
            }
        }
        out
    }

    /// Whether a job joins two datasets of which one was said to be made from the other, so that the way through the job is the one to show.
    fn joined(&mut self, from: NodeIdx, to: NodeIdx, up: bool) -> bool {
        let (made, source) = if up { (from, to) } else { (to, from) };
        let writers: Vec<NodeIdx> = self.next(made, true).into_iter().filter(|(_, k)| *k == Kind::Job).map(|(n, _)| n).collect();
        writers.into_iter().any(|job| self.said(made, job).contains(&source))
    }

    /// Adds everything in one direction. A step leads to the next job; datasets beside a job are as near as it.
    fn walk(&mut self, start: NodeIdx, kind: Kind, up: bool) {
        let mut queue = VecDeque::from([(start, kind, if kind == Kind::Job { 0 } else { -1 })]);
        let mut seen = HashSet::from([start]);
        while let Some((node, kind, distance)) = queue.pop_front() {
            let mut found = Vec::new();
            for (other, other_kind) in self.next(node, up) {
                match (kind, other_kind) {
                    (Kind::Job, Kind::Dataset) => found.push((other, other_kind, distance)),
                    (Kind::Dataset, Kind::Job) if distance < self.depth => {
                        self.add(other);
                        let further = self.through(node, other, up);
                        found.extend(further.into_iter().map(|(n, k)| (n, k, distance + 1 + i64::from(k == Kind::Job))));
                    }
                    (Kind::Dataset, Kind::Dataset) if self.joined(node, other, up) => {}
                    (Kind::Dataset, Kind::Dataset) | (Kind::Job, Kind::Job) => found.push((other, other_kind, distance + 1)),
                    (Kind::Dataset, Kind::Job) => {}
                }
            }
            for (other, other_kind, distance) in found {
                if distance <= self.depth && self.add(other) && seen.insert(other) {
                    queue.push_back((other, other_kind, distance));
                }
            }
        }
    }

    /// Edges among the nodes, from where data comes to where it goes.
    fn edges(&mut self) -> Vec<(NodeIdx, NodeIdx)> {
        let mut edges = Vec::new();
        for node in self.nodes.clone() {
            for (source, kind) in self.next(node, true) {
                let both_datasets = kind == Kind::Dataset && matches!(self.reader.known_as(node), Some((Kind::Dataset, _)));
                if self.known.contains(&source) && !(both_datasets && self.joined(node, source, true)) {
                    edges.push((source, node));
                }
            }
        }
        edges.sort_unstable();
        edges.dedup();
        edges
    }
}

impl Reader {
    /// The lineage of a job, a dataset, or a run's job, so many jobs far.
    pub fn lineage(&self, id: &NodeId, text: &str, depth: usize) -> Result<Value, Missing> {
        let start = self.resolve(id, text)?;
        let (kind, _) = self.known_as(start).ok_or_else(|| Missing("Node", text.to_owned()))?;
        let mut walk = Walk {
            reader: self,
            depth: depth.min(MAX_DEPTH) as i64,
            nodes: Vec::new(),
            known: HashSet::new(),
            said: HashMap::new(),
            work: 0,
            complete: true,
        };
        walk.add(start);
        walk.walk(start, kind, true);
        walk.walk(start, kind, false);
        let edges = walk.edges();
        let node = |node: &NodeIdx| {
            let (kind, data) = match self.known_as(*node) {
                Some((Kind::Job, _)) => ("JOB", self.job_data(*node, self.runs(*node).next().as_ref())),
                _ => ("DATASET", self.dataset_data(*node)),
            };
            (self.node_id(*node), kind, data)
        };
        let nodes: Vec<(String, &str, Value)> = walk.nodes.iter().map(node).collect();
        let mut out = graph_json(nodes, &walk.nodes, &edges);
        out["complete"] = walk.complete.into();
        Ok(out)
    }
}

/// The envelope of a graph: every node with the edges that come in and go out.
pub(super) fn graph_json(nodes: Vec<(String, &str, Value)>, indices: &[NodeIdx], edges: &[(NodeIdx, NodeIdx)]) -> Value {
    let place: HashMap<NodeIdx, usize> = indices.iter().enumerate().map(|(i, n)| (*n, i)).collect();
    let mut around: Vec<(Vec<Value>, Vec<Value>)> = vec![Default::default(); nodes.len()];
    for (origin, destination) in edges {
        let (from, to) = (place[origin], place[destination]);
        let edge = json!({"origin": nodes[from].0, "destination": nodes[to].0});
        around[to].0.push(edge.clone());
        around[from].1.push(edge);
    }
    let graph: Vec<Value> = nodes
        .into_iter()
        .zip(around)
        .map(|((id, kind, data), (into, out))| json!({"id": id, "type": kind, "data": data, "inEdges": into, "outEdges": out}))
        .collect();
    json!({"graph": graph})
}
