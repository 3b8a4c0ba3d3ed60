//! A checkpoint: the whole state as of one entry, so that a start need not read the log from its beginning.
//!
//! JSON lines, compressed: a head with counts, then sources, nodes, edges, aliases, types and the ids of recent events, each in the order
//! of their indices, then documents and the index of raw events, the oldest first. It can be removed at any time: the log has everything.

use std::io::{BufRead, BufReader, Write};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::history::{Claim, Claims, OPEN_MS, SourceId, Version};
use crate::model::edge::is_default;
use crate::model::{EdgeBody, NodeBody, NodeKey, Relation, TypeBody};
use crate::state::documents::Document;
use crate::state::raws::{self, Raws};
use crate::state::{AliasRecord, EdgeRecord, Frozen, NodeRecord, Rule, SourceRecord, State, Subject};

/// Version of the layout. Another one is passed over, and the log is read from its beginning.
const FORMAT: u32 = 1;

/// zstd's level: read at every start, written rarely.
const LEVEL: i32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Outer {
    number: u64,
    lines: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: u32,
    number: u64,
    epoch: u64,
    sources: usize,
    nodes: usize,
    edges: usize,
    aliases: usize,
    types: usize,
    recent: usize,
    #[serde(default)]
    documents: usize,
    #[serde(default)]
    raws: usize,
}

/// What a checkpoint holds besides the graph.
pub(super) struct Beside {
    recent: Vec<u128>,
    documents: Vec<(u32, Arc<str>, i64, Arc<str>)>,
    raws: Raws,
}

impl Beside {
    /// A copy that does not change.
    pub fn of(state: &State) -> Self {
        let document = |(node, name, d): (u32, &Arc<str>, &Document)| (node, name.clone(), d.updated_ms, d.text.clone());
        Self { recent: state.recent.iter().collect(), documents: state.documents.iter().map(document).collect(), raws: state.raws.clone() }
    }
}

/// A version: from, to (-1 if open), seen minus from, TTL, body.
#[derive(Serialize, Deserialize)]
struct Row<B>(i64, i64, i64, i64, B);

/// What a source claims: its number and the versions.
type Rows<B> = Vec<(SourceId, SmallRows<B>)>;
type SmallRows<B> = Vec<Row<B>>;

/// Writes `null` for the body that most have.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Maybe<B>(Option<B>);

fn rows<'a, B, T>(claims: &'a Claims<B>, body: impl Fn(&'a B) -> T) -> Rows<T> {
    let row = |v: &'a Version<B>| {
        let to = if v.to_ms == OPEN_MS { -1 } else { v.to_ms };
        Row(v.from_ms, to, v.seen_ms - v.from_ms, v.ttl_ms, body(&v.body))
    };
    claims.0.iter().map(|c| (c.source, c.versions.iter().map(row).collect())).collect()
}

fn claims<B, T>(rows: Rows<T>, mut body: impl FnMut(T) -> B) -> Claims<B> {
    let mut version = |Row(from_ms, to, seen, ttl_ms, b): Row<T>| {
        let to_ms = if to < 0 { OPEN_MS } else { to };
        Version { from_ms, to_ms, seen_ms: from_ms + seen, ttl_ms, body: body(b) }
    };
    let claim = |(source, rows): (SourceId, SmallRows<T>)| Claim { source, versions: rows.into_iter().map(&mut version).collect() };
    Claims(rows.into_iter().map(claim).collect::<SmallVec<_>>())
}

fn some<B: Default + PartialEq>(body: &B) -> Maybe<&B> {
    Maybe((!is_default(body)).then_some(body))
}

/// The checkpoint's content.
pub(super) fn write(frozen: &Frozen, beside: &Beside) -> std::io::Result<Vec<u8>> {
    let mut out = zstd::stream::write::Encoder::new(Vec::new(), LEVEL)?;
    let head = Head {
        format: FORMAT,
        number: frozen.version,
        epoch: frozen.epoch,
        sources: frozen.sources.len(),
        nodes: frozen.nodes.len(),
        edges: frozen.edges.len(),
        aliases: frozen.aliases.len(),
        types: frozen.types.len(),
        recent: beside.recent.len(),
        documents: beside.documents.len(),
        raws: beside.raws.iter().count(),
    };
    let mut buffer = Vec::with_capacity(1 << 16);
    let mut line = |value: &dyn Fn(&mut Vec<u8>) -> serde_json::Result<()>| -> std::io::Result<()> {
        value(&mut buffer)?;
        buffer.push(b'\n');
        if buffer.len() >= 1 << 16 {
            out.write_all(&buffer)?;
            buffer.clear();
        }
        Ok(())
    };
    line(&|b| serde_json::to_writer(b, &head))?;
    for s in frozen.sources.iter() {
        line(&|b| serde_json::to_writer(b, &(&*s.source, &*s.scope, s.heard_ms)))?;
    }
    for n in frozen.nodes.iter() {
        line(&|b| serde_json::to_writer(b, &(n.key.as_str(), rows(&n.claims, |body| some(&**body)))))?;
    }
    for e in frozen.edges.iter() {
        line(&|b| serde_json::to_writer(b, &(e.from, e.to, e.relation == Relation::Composition, rows(&e.claims, some))))?;
    }
    for a in frozen.aliases.iter() {
        let rule = |r: &Rule| r.0.to_string();
        line(&|b| serde_json::to_writer(b, &(a.alias, a.canonical, rows(&a.same, rule), rows(&a.apart, rule))))?;
    }
    for (name, claims) in frozen.types.iter() {
        line(&|b| serde_json::to_writer(b, &(&**name, rows(claims, |body| some(&**body)))))?;
    }
    for hash in &beside.recent {
        line(&|b| serde_json::to_writer(b, &format!("{hash:032x}")))?;
    }
    for (node, name, updated_ms, text) in &beside.documents {
        line(&|b| serde_json::to_writer(b, &(node, &**name, updated_ms, &**text)))?;
    }
    for r in beside.raws.iter() {
        line(&|b| serde_json::to_writer(b, &(r.first, r.last, r.min_ms, r.max_ms, r.count)))?;
    }
    out.write_all(&buffer)?;
    let lines = STANDARD.encode(out.finish()?);
    Ok(serde_json::to_vec(&Outer { number: frozen.version, lines })?)
}

/// The state that a checkpoint holds.
///
/// # Errors
/// What is wrong with it, for a message that names it.
pub(super) fn read(number: u64, content: &[u8]) -> Result<State, String> {
    let outer: Outer = serde_json::from_slice(content).map_err(|e| e.to_string())?;
    if outer.number != number {
        return Err(format!("it says that it is checkpoint {}", outer.number));
    }
    let packed = STANDARD.decode(outer.lines).map_err(|e| format!("its lines are no base64: {e}"))?;
    let decoder = zstd::stream::read::Decoder::new(&packed[..]).map_err(|e| e.to_string())?;
    let mut lines = Lines { from: BufReader::with_capacity(1 << 18, decoder), line: Vec::new() };
    let head: Head = lines.next()?;
    if head.format != FORMAT || head.number != number {
        return Err(format!("it has format {} and number {}, not {FORMAT} and {number}", head.format, head.number));
    }
    let mut state = State::default();
    state.reserve(head.nodes, head.edges);
    for _ in 0..head.sources {
        let (source, scope, heard_ms): (String, String, i64) = lines.next()?;
        state.add_source(SourceRecord { source: source.into(), scope: scope.into(), heard_ms });
    }
    read_nodes(&head, &mut lines, &mut state)?;
    read_edges(&head, &mut lines, &mut state)?;
    for id in 0..head.aliases as u32 {
        let (alias, canonical, same, apart): (u32, u32, Rows<String>, Rows<String>) = lines.next()?;
        check_node(&state, alias)?;
        check_node(&state, canonical)?;
        let rule = |r: String| Rule(r.into());
        let record = AliasRecord { alias, canonical, same: claims(same, rule), apart: claims(apart, rule) };
        subjects(&mut state, &record.same, Subject::Same(id));
        subjects(&mut state, &record.apart, Subject::Apart(id));
        state.add_alias(record);
    }
    for id in 0..head.types as u32 {
        let (name, said): (String, Rows<Maybe<TypeBody>>) = lines.next()?;
        let said = claims(said, |m| Arc::new(m.0.unwrap_or_default()));
        subjects(&mut state, &said, Subject::Type(id));
        state.add_type(name.into(), said);
    }
    for _ in 0..head.recent {
        let hash: String = lines.next()?;
        state.recent.insert(u128::from_str_radix(&hash, 16).map_err(|e| e.to_string())?);
    }
    for _ in 0..head.documents {
        let (node, name, updated_ms, text): (u32, String, i64, String) = lines.next()?;
        check_node(&state, node)?;
        state.documents.put(node, &name, updated_ms, Some(text.into()));
    }
    for _ in 0..head.raws {
        let (first, last, min_ms, max_ms, count): (u64, u64, i64, i64, u32) = lines.next()?;
        if first > last || last > number {
            return Err(format!("it names entries {first} to {last}, which it cannot have"));
        }
        state.raws.push(raws::Row { first, last, min_ms, max_ms, count });
    }
    state.frozen.version = head.number;
    state.frozen.epoch = head.epoch;
    Ok(state)
}

fn read_nodes(head: &Head, lines: &mut Lines<impl BufRead>, state: &mut State) -> Result<(), String> {
    let empty: Arc<NodeBody> = Arc::default();
    for id in 0..head.nodes as u32 {
        let (key, said): (NodeKey, Rows<Maybe<NodeBody>>) = lines.next()?;
        let said = claims(said, |m| m.0.map_or_else(|| empty.clone(), Arc::new));
        subjects(state, &said, Subject::Node(id));
        let kind = state.kind_id(key.kind());
        state.add_node(NodeRecord { key, kind, claims: said });
    }
    Ok(())
}

fn read_edges(head: &Head, lines: &mut Lines<impl BufRead>, state: &mut State) -> Result<(), String> {
    for id in 0..head.edges as u32 {
        let (from, to, composition, said): (u32, u32, bool, Rows<Maybe<EdgeBody>>) = lines.next()?;
        check_node(state, from)?;
        check_node(state, to)?;
        let said = claims(said, |m| m.0.unwrap_or_default());
        subjects(state, &said, Subject::Edge(id));
        let relation = if composition { Relation::Composition } else { Relation::Dependency };
        state.add_edge(EdgeRecord { from, to, relation, claims: said });
    }
    Ok(())
}

fn check_node(state: &State, id: u32) -> Result<(), String> {
    if state.frozen.nodes.get(id).is_some() { Ok(()) } else { Err(format!("it names node {id}, which it does not have")) }
}

/// Notes for every source what it claims.
fn subjects<B>(state: &mut State, claims: &Claims<B>, subject: Subject) {
    for claim in &claims.0 {
        state.add_subject(claim.source, subject);
    }
}

/// Lines of JSON.
struct Lines<R> {
    from: R,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    fn next<T: DeserializeOwned>(&mut self) -> Result<T, String> {
        self.line.clear();
        self.from.read_until(b'\n', &mut self.line).map_err(|e| e.to_string())?;
        serde_json::from_slice(&self.line).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{event, key};

    fn state() -> State {
        let mut state = State::default();
        state.fold(event("1", 5, json!([{"edge": {"from": "service:a", "to": "service:b"}}])));
        state.frozen.version = 1;
        state
    }

    fn packed(lines: &str) -> Vec<u8> {
        let lines = STANDARD.encode(zstd::bulk::compress(lines.as_bytes(), LEVEL).expect("compresses"));
        serde_json::to_vec(&Outer { number: 1, lines }).expect("serializes")
    }

    fn unpacked(content: &[u8]) -> String {
        let outer: Outer = serde_json::from_slice(content).expect("parses");
        let packed = STANDARD.decode(outer.lines).expect("is base64");
        String::from_utf8(zstd::stream::decode_all(&packed[..]).expect("decompresses")).expect("is text")
    }

    #[test]
    fn a_checkpoint_from_before_there_were_documents_still_opens() {
        let state = state();
        let content = write(&state.frozen, &Beside::of(&state)).expect("is written");
        let lines = unpacked(&content);
        let old = lines.replacen(",\"documents\":0,\"raws\":0", "", 1);
        assert_ne!(old, lines);
        let read = read(1, &packed(&old)).expect("opens");
        assert!(read.frozen.find(&key("a")).is_some() && read.frozen.edges.len() == 1 && read.documents.size() == (0, 0));
    }

    #[test]
    fn documents_and_rows_that_cannot_be_are_named() {
        let mut state = state();
        state.documents.put(0, "run/1", 5, Some("{\"ü\":\"\\n\"}".into()));
        state.raws.add(1, [5, 9].into_iter());
        let lines = unpacked(&write(&state.frozen, &Beside::of(&state)).expect("is written"));
        let again = read(1, &packed(&lines)).expect("opens");
        assert_eq!(again.documents.get(0, "run/1").map(|d| (d.updated_ms, &*d.text)), Some((5, "{\"ü\":\"\\n\"}")));
        assert_eq!(again.raws.iter().collect::<Vec<_>>(), state.raws.iter().collect::<Vec<_>>());
        let document = lines.replacen("[0,\"run/1\"", "[7,\"run/1\"", 1);
        assert!(read(1, &packed(&document)).expect_err("no such node").contains("node 7"));
        let row = lines.replacen("[1,1,5,9,2]", "[1,3,5,9,2]", 1);
        assert!(read(1, &packed(&row)).expect_err("no such entry").contains("entries 1 to 3"));
    }
}
