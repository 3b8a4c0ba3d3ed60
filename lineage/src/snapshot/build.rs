//! Makes the graph of one time from the temporal one. Reads all records once.

use std::sync::OnceLock;

use hashbrown::HashMap;

use super::effective::{Effective, effective};
use super::merge::{Merged, merged};
use super::shares::borrow_shares;
use super::{Back, Edge, Graph, GroupInfo, HOSTING, NONE, PROPAGATES, STALE, SourceSummary};
use crate::history::OPEN_MS;
use crate::model::{Class, Criticality, Flow, Relation, Status, TypeTable};
use crate::state::Frozen;

/// An edge before it has its place.
struct Half {
    /// Record of the dependent's name.
    from: u32,
    /// Record of the provider's name; the node later.
    edge: Edge,
    /// Number of the group's name, or [`NONE`].
    group: u32,
    k: u32,
    n: u32,
}

/// What is known of kinds.
struct Kinds {
    hosting: Vec<bool>,
    /// Whether a dependency of the first on the second is a flow of data.
    data: HashMap<(u16, u16), bool>,
}

/// The edges while they are collected.
struct Collected {
    halves: Vec<Half>,
    other_records: HashMap<usize, Vec<u32>>,
    next_change_ms: i64,
}

/// The graph as of `at_ms`.
pub(super) fn build(frozen: Frozen, at_ms: i64) -> Graph {
    let types = types_at(&frozen, at_ms);
    let merged = merged(&frozen, at_ms);
    let mut collected = collect(&frozen, &types, &merged, at_ms);
    let mut node_of = vec![NONE; frozen.nodes.len()];
    let mut records = Vec::new();
    let (criticality, entry) = number_nodes(&frozen, &merged, &mut collected, &mut node_of, &mut records, at_ms);
    let mut names: HashMap<u32, Vec<u32>> = HashMap::new();
    for (alias, canonical) in &merged.canonical {
        let node = node_of[*canonical as usize];
        node_of[*alias as usize] = node;
        if node != NONE {
            names.entry(node).or_default().push(*alias);
        }
    }
    names.values_mut().for_each(|n| n.sort_unstable());
    let sources = sources(&frozen);
    let mut graph = Graph {
        built_ms: at_ms,
        next_change_ms: collected.next_change_ms.min(other_changes_ms(&frozen, at_ms)),
        records,
        node_of,
        names,
        criticality,
        entry,
        types,
        out_start: Vec::new(),
        edges: Vec::new(),
        other_records: HashMap::new(),
        borrowed: HashMap::new(),
        in_start: Vec::new(),
        in_reached: Vec::new(),
        back: Vec::new(),
        groups: Vec::new(),
        sources,
        conflicts: merged.conflicts,
        order: OnceLock::new(),
        dominators: OnceLock::new(),
        frozen,
    };
    place(&mut graph, collected);
    borrow_shares(&mut graph);
    turn(&mut graph);
    graph
}

fn types_at(frozen: &Frozen, at_ms: i64) -> TypeTable {
    let declared = frozen.types.iter().filter_map(|(name, claims)| {
        let (_, version, _) = claims.at(at_ms).max_by_key(|(_, v, _)| v.from_ms)?;
        Some((name.to_string(), version.body.clone()))
    });
    TypeTable::new(declared)
}

/// All edges that are there, by records of names.
fn collect(frozen: &Frozen, types: &TypeTable, merged: &Merged, at_ms: i64) -> Collected {
    let mut kinds = Kinds { hosting: frozen.kinds.iter().map(|k| types.is_hosting(k)).collect(), data: HashMap::new() };
    let canonical = |id: u32| merged.canonical.get(&id).copied().unwrap_or(id);
    let mut groups: HashMap<(u32, String), u32> = HashMap::new();
    let mut parallel: HashMap<(u32, u32, Relation), usize> = HashMap::new();
    let mut out = Collected { halves: Vec::with_capacity(frozen.edges.len()), other_records: HashMap::new(), next_change_ms: OPEN_MS };
    for (id, record) in frozen.edges.iter().enumerate() {
        out.next_change_ms = out.next_change_ms.min(record.claims.next_change_ms(at_ms));
        let Some(said) = effective(std::iter::once(&record.claims), at_ms) else { continue };
        let (from, to) =
            if merged.canonical.is_empty() { (record.from, record.to) } else { (canonical(record.from), canonical(record.to)) };
        if from == to {
            continue;
        }
        if !merged.canonical.is_empty() {
            // Edges of several names of one node are one.
            if let Some(&first) = parallel.get(&(from, to, record.relation)) {
                out.other_records.entry(first).or_default().push(id as u32);
                continue;
            }
            parallel.insert((from, to, record.relation), out.halves.len());
        }
        out.halves.push(half(frozen, types, &mut kinds, &mut groups, (from, to, record.relation, id as u32), &said));
    }
    for (index, others) in &out.other_records {
        let first = &out.halves[*index];
        let records = std::iter::once(first.edge.record).chain(others.iter().copied());
        if let Some(said) = effective(records.map(|r| &frozen.edges[r].claims), at_ms) {
            let place = (first.from, first.edge.to, first.edge.relation, first.edge.record);
            out.halves[*index] = half(frozen, types, &mut kinds, &mut groups, place, &said);
        }
    }
    out
}

fn half(
    frozen: &Frozen,
    types: &TypeTable,
    kinds: &mut Kinds,
    groups: &mut HashMap<(u32, String), u32>,
    (from, to, relation, record): (u32, u32, Relation, u32),
    said: &Effective,
) -> Half {
    let (from_kind, to_kind) = (frozen.nodes[from].kind, frozen.nodes[to].kind);
    let kind = |id: u16| &*frozen.kinds[u32::from(id)];
    let mut data = || *kinds.data.entry((from_kind, to_kind)).or_insert_with(|| types.is_data_flow(kind(from_kind), kind(to_kind)));
    let flow = match said.flow {
        Some(flow) => flow,
        None if relation == Relation::Composition => Flow::Call,
        None if said.lag_ms.is_some() || data() => Flow::Data,
        None => Flow::Call,
    };
    let probability = said.probability();
    let mut marks = if said.status == Status::Stale { STALE } else { 0 };
    if kinds.hosting[usize::from(to_kind)] {
        marks |= HOSTING;
    }
    if said.class != Class::Ordering && probability > 0.0 {
        marks |= PROPAGATES;
    }
    let group = said.group.map_or(NONE, |g| {
        let next = groups.len() as u32;
        *groups.entry((from, g.id.clone())).or_insert(next)
    });
    let (k, n) = said.group.map_or((0, 0), |g| (g.k, g.n.unwrap_or(0)));
    let edge = Edge { to, probability, group: NONE, record, class: said.class, flow, relation, marks };
    Half { from, edge, group, k, n }
}

/// Gives numbers to the nodes that are there: ends of edges, and what somebody says is there.
fn number_nodes(
    frozen: &Frozen,
    merged: &Merged,
    collected: &mut Collected,
    node_of: &mut [u32],
    records: &mut Vec<u32>,
    at_ms: i64,
) -> (Vec<Criticality>, Vec<bool>) {
    // First marks what is there, so that numbers ascend with the time of the first mention.
    const THERE: u32 = 0;
    for half in &collected.halves {
        node_of[half.from as usize] = THERE;
        node_of[half.edge.to as usize] = THERE;
    }
    let canonical = |id: u32| merged.canonical.get(&id).copied().unwrap_or(id);
    let mut said: HashMap<u32, (Option<Criticality>, bool)> = HashMap::new();
    for (id, record) in frozen.nodes.iter().enumerate() {
        if record.claims.0.is_empty() {
            continue;
        }
        collected.next_change_ms = collected.next_change_ms.min(record.claims.next_change_ms(at_ms));
        for (_, version, _) in record.claims.at(at_ms) {
            let name = canonical(id as u32);
            node_of[name as usize] = THERE;
            if version.body.criticality.is_some() || version.body.entry {
                let (criticality, entry) = said.entry(name).or_default();
                *criticality = (*criticality).max(version.body.criticality);
                *entry |= version.body.entry;
            }
        }
    }
    let (mut criticality, mut entry) = (Vec::new(), Vec::new());
    for (id, node) in node_of.iter_mut().enumerate().filter(|(_, n)| **n == THERE) {
        *node = records.len() as u32;
        records.push(id as u32);
        let (c, e) = said.get(&(id as u32)).copied().unwrap_or_default();
        criticality.push(c.unwrap_or_default());
        entry.push(e);
    }
    (criticality, entry)
}

/// Puts the edges in the order of their dependents, members of a group beside each other and after those without.
fn place(graph: &mut Graph, mut collected: Collected) {
    let len = graph.records.len();
    for half in &mut collected.halves {
        half.from = graph.node_of[half.from as usize];
        half.edge.to = graph.node_of[half.edge.to as usize];
    }
    let mut start = vec![0_u32; len + 1];
    collected.halves.iter().for_each(|h| start[h.from as usize + 1] += 1);
    (0..len).for_each(|i| start[i + 1] += start[i]);
    let mut next = start.clone();
    let mut order = vec![0_u32; collected.halves.len()];
    for (i, half) in collected.halves.iter().enumerate() {
        let slot = &mut next[half.from as usize];
        order[*slot as usize] = i as u32;
        *slot += 1;
    }
    graph.edges.reserve_exact(order.len());
    for node in 0..len {
        let mine = &mut order[start[node] as usize..start[node + 1] as usize];
        if mine.iter().any(|i| collected.halves[*i as usize].group != NONE) {
            mine.sort_by_key(|i| {
                let group = collected.halves[*i as usize].group;
                (group != NONE, group, *i)
            });
        }
        let mut last = NONE;
        for i in mine {
            let half = &collected.halves[*i as usize];
            if half.group != NONE && half.group != last {
                graph.groups.push(GroupInfo { k: 0, n: 0, probability: 0.0 });
            }
            last = half.group;
            let mut edge = half.edge;
            if half.group != NONE {
                edge.group = graph.groups.len() as u32 - 1;
                join_group(graph.groups.last_mut().expect("it was just made"), half);
            }
            if let Some(others) = collected.other_records.remove(&(*i as usize)) {
                graph.other_records.insert(graph.edges.len() as u32, others);
            }
            graph.edges.push(edge);
        }
    }
    graph.out_start = start;
    close_groups(graph);
}

/// Members of a group share the dependent's requests, so that their probabilities add up.
fn join_group(group: &mut GroupInfo, half: &Half) {
    group.k = group.k.max(half.k);
    group.n = group.n.max(half.n);
    group.probability = (group.probability + half.edge.probability).min(1.0);
}

fn close_groups(graph: &mut Graph) {
    let mut members = vec![0_u32; graph.groups.len()];
    for edge in graph.edges.iter().filter(|e| e.group != NONE) {
        members[edge.group as usize] += 1;
    }
    for (group, members) in graph.groups.iter_mut().zip(members) {
        group.n = group.n.max(members);
        group.k = group.k.min(group.n);
    }
}

/// Makes the list that leads from providers to dependents.
fn turn(graph: &mut Graph) {
    let len = graph.records.len();
    let mut start = vec![0_u32; len + 1];
    graph.edges.iter().for_each(|e| start[e.to as usize + 1] += 1);
    (0..len).for_each(|i| start[i + 1] += start[i]);
    let mut reached = start[..len].to_vec();
    let mut back = vec![Back { from: 0, edge: 0 }; graph.edges.len()];
    let mut next = Vec::new();
    for first in [true, false] {
        for from in 0..len {
            for e in graph.out_start[from] as usize..graph.out_start[from + 1] as usize {
                let edge = &graph.edges[e];
                if (edge.marks & PROPAGATES != 0) == first {
                    let slots: &mut Vec<u32> = if first { &mut reached } else { &mut next };
                    let slot = &mut slots[edge.to as usize];
                    back[*slot as usize] = Back { from: from as u32, edge: e as u32 };
                    *slot += 1;
                }
            }
        }
        if first {
            next = reached.clone();
        }
    }
    graph.in_start = start;
    graph.in_reached = reached;
    graph.back = back;
}

fn other_changes_ms(frozen: &Frozen, at_ms: i64) -> i64 {
    let aliases = frozen.aliases.iter().map(|r| r.same.next_change_ms(at_ms).min(r.apart.next_change_ms(at_ms)));
    let types = frozen.types.iter().map(|(_, claims)| claims.next_change_ms(at_ms));
    aliases.chain(types).min().unwrap_or(OPEN_MS)
}

fn sources(frozen: &Frozen) -> Vec<SourceSummary> {
    let mut by_name: std::collections::BTreeMap<&str, SourceSummary> = std::collections::BTreeMap::new();
    for record in frozen.sources.iter() {
        let summary = by_name.entry(&record.source).or_insert_with(|| SourceSummary {
            source: record.source.to_string(),
            scopes: 0,
            heard_ms: record.heard_ms,
        });
        summary.scopes += 1;
        summary.heard_ms = summary.heard_ms.max(record.heard_ms);
    }
    by_name.into_values().collect()
}
