//! Takes events in: tells repetitions, translates, stores, and says of each what became of it.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use isobar_block::{TenantId, time};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;

use super::dropped::dropped;
use super::known::{Known, Prior};
use super::names::{SOURCE, hash, runs_scope, static_scope};
use super::parts::{PORTION_BYTES, event_bytes};
use super::translate::{Translated, translate};
use crate::model::NodeKey;
use crate::store::{LineageStore, Outcome};
use crate::{Error, Event, Result};

/// Clients give up after 5 seconds. Whoever was not served in this time is told to come again.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// Events of one run are taken one after the other; runs share so many locks.
pub const RUN_LOCKS: usize = 4_096;

/// Bytes of events from which on they are translated away from the threads that answer requests.
pub const BLOCKING_BYTES: usize = 64 << 10;

/// What became of an event that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is in the graph.
    Stored,
    /// It was stored before.
    Repeated,
}

/// See the module. One serves all tenants.
pub struct Intake {
    runs: Vec<tokio::sync::Mutex<()>>,
    /// What events that are being stored say of nodes, with how many requests say so.
    pins: Mutex<HashMap<(TenantId, NodeKey), (Prior, usize)>>,
}

/// One request: knows what its own events say, and those of others that are being stored.
struct Session {
    intake: Arc<Intake>,
    store: Arc<LineageStore>,
    pinned: HashSet<NodeKey>,
    documents: HashMap<(NodeKey, String), Value>,
    /// What the request holds for as long as it is worked on, even if nobody waits for the answer any more.
    _held: Box<dyn Any + Send + Sync>,
}

/// An event after it was translated.
struct Ready {
    /// Its events of the graph, by their place among all.
    events: std::ops::Range<usize>,
}

#[derive(Deserialize)]
struct Peek {
    run: Option<PeekRun>,
}

#[derive(Deserialize)]
struct PeekRun {
    #[serde(rename = "runId")]
    run_id: Option<String>,
}

impl Default for Intake {
    fn default() -> Self {
        Self { runs: (0..RUN_LOCKS).map(|_| tokio::sync::Mutex::default()).collect(), pins: Mutex::default() }
    }
}

impl Intake {
    /// Takes events as JSON texts, in their order. Returns what became of each; those that are not refused survive power loss.
    ///
    /// The work goes on when it takes longer than the answer may, or when nobody waits for the answer any more: then the events sent again
    /// are repetitions. What is `held` is dropped when the work is over.
    pub async fn accept(
        self: &Arc<Self>,
        store: &Arc<LineageStore>,
        texts: Vec<String>,
        held: impl Send + Sync + 'static,
    ) -> Vec<Result<Accepted>> {
        let count = texts.len();
        let (intake, store) = (self.clone(), store.clone());
        let work = tokio::spawn(async move { intake.store(&store, texts, Box::new(held)).await });
        match tokio::time::timeout(ANSWER_WITHIN, work).await {
            Ok(Ok(outcomes)) => outcomes,
            Ok(Err(error)) => (0..count).map(|_| Err(Error::NotWritten { reason: error.to_string() })).collect(),
            Err(_) => (0..count).map(|_| Err(late())).collect(),
        }
    }

    async fn store(
        self: &Arc<Self>,
        store: &Arc<LineageStore>,
        texts: Vec<String>,
        held: Box<dyn Any + Send + Sync>,
    ) -> Vec<Result<Accepted>> {
        let mut locks: Vec<usize> = texts.iter().filter_map(|t| run_lock(t)).collect();
        locks.sort_unstable();
        locks.dedup();
        let mut locked = Vec::with_capacity(locks.len());
        for lock in locks {
            locked.push(self.runs[lock].lock().await);
        }
        let mut session =
            Session { intake: self.clone(), store: store.clone(), pinned: HashSet::new(), documents: HashMap::new(), _held: held };
        let bytes: usize = texts.iter().map(String::len).sum();
        let (session, translated) = if bytes < BLOCKING_BYTES {
            let translated = session.translate(texts);
            (session, translated)
        } else {
            let work = tokio::task::spawn_blocking(move || {
                let translated = session.translate(texts);
                (session, translated)
            });
            work.await.expect("translating does not panic")
        };
        let outcomes = session.append(translated).await;
        drop(locked);
        outcomes
    }
}

fn run_lock(text: &str) -> Option<usize> {
    let run_id = serde_json::from_str::<Peek>(text).ok()?.run?.run_id?;
    Some((hash(run_id.to_ascii_lowercase().as_bytes()) % RUN_LOCKS as u128) as usize)
}

fn late() -> Error {
    Error::NotWritten { reason: format!("it was not stored within {} seconds", ANSWER_WITHIN.as_secs()) }
}

impl Known for Session {
    fn prior(&self, node: &NodeKey, at_ms: i64) -> Option<Prior> {
        let id = (self.store.tenant().clone(), node.clone());
        let pinned = self.intake.pins.lock().get(&id).map(|(prior, _)| prior.clone());
        pinned.or_else(|| self.stored(node, at_ms))
    }

    fn described_ms(&self, node: &NodeKey, at_ms: i64) -> Option<i64> {
        self.store.said(node, SOURCE, &static_scope(node), at_ms).map(|(seen_ms, _)| seen_ms)
    }

    fn update<T>(&mut self, node: &NodeKey, at_ms: i64, change: impl FnOnce(Option<Prior>) -> Result<(Prior, T)>) -> Result<T> {
        let id = (self.store.tenant().clone(), node.clone());
        let mut pins = self.intake.pins.lock();
        let pinned = pins.get(&id).map(|(prior, _)| prior.clone());
        let (prior, result) = change(pinned.or_else(|| self.stored(node, at_ms)))?;
        let is_mine = self.pinned.contains(node);
        let (pin, users) = pins.entry(id).or_insert_with(|| (prior.clone(), 0));
        *pin = prior;
        *users += usize::from(!is_mine);
        drop(pins);
        if !is_mine {
            self.pinned.insert(node.clone());
        }
        Ok(result)
    }

    fn document(&self, node: &NodeKey, name: &str) -> Option<Arc<Value>> {
        if let Some(document) = self.documents.get(&(node.clone(), name.to_owned())) {
            return Some(Arc::new(document.clone()));
        }
        self.store.document(node, name).map(|(_, document)| document)
    }

    fn remember(&mut self, node: &NodeKey, name: &str, document: Value) {
        self.documents.insert((node.clone(), name.to_owned()), document);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut pins = self.intake.pins.lock();
        for node in self.pinned.drain() {
            let id = (self.store.tenant().clone(), node);
            if let Some((_, users)) = pins.get_mut(&id) {
                *users -= 1;
                if *users == 0 {
                    pins.remove(&id);
                }
            }
        }
    }
}

impl Session {
    fn stored(&self, node: &NodeKey, at_ms: i64) -> Option<Prior> {
        self.store.said(node, SOURCE, &runs_scope(node), at_ms).map(|(seen_ms, body)| Prior { body, seen_ms })
    }

    fn translate(&mut self, texts: Vec<String>) -> Vec<Result<Translated>> {
        let now_ms = time::now_ms();
        let one = |text: String| {
            let value: Value = serde_json::from_str(&text).map_err(|e| Error::invalid("event", format!("is no JSON: {e}")))?;
            translate(&value, &text, now_ms, self)
        };
        texts.into_iter().map(one).collect()
    }

    /// Stores what was translated, in portions.
    async fn append(&self, translated: Vec<Result<Translated>>) -> Vec<Result<Accepted>> {
        let mut events: Vec<Event> = Vec::new();
        let ready: Vec<Result<Ready>> = translated.into_iter().map(|one| one.map(|one| self.add(one, &mut events))).collect();
        let mut outcomes: Vec<Result<Outcome>> = Vec::with_capacity(events.len());
        let mut rest = events.into_iter().peekable();
        while rest.peek().is_some() {
            let mut portion = Vec::new();
            let mut bytes = 0;
            while let Some(event) = rest.next_if(|e| portion.is_empty() || bytes + event_bytes(e) <= PORTION_BYTES) {
                bytes += event_bytes(&event);
                portion.push(event);
            }
            let count = portion.len();
            match self.store.append(portion).await {
                Ok(stored) => outcomes.extend(stored.into_iter().map(Ok)),
                Err(error) => outcomes.extend((0..count).map(|_| Err(again(&error)))),
            }
        }
        ready.into_iter().map(|one| one.and_then(|one| became(&outcomes[one.events]))).collect()
    }

    fn add(&self, one: Translated, events: &mut Vec<Event>) -> Ready {
        let start = events.len();
        let first = one.events.first().map(|e| (e.id.clone(), e.at_ms));
        events.extend(one.events);
        if let Some((id, at_ms)) = first {
            for (i, dataset) in one.dropped.iter().enumerate() {
                events.extend(dropped(&self.store, dataset, at_ms, &format!("{id}#dropped{i}")));
            }
        }
        Ready { events: start..events.len() }
    }
}

/// What became of an event whose parts had these outcomes. The first part has the event as it came. A containment or a name that would
/// make a circle is left out, and the rest counts.
fn became(outcomes: &[Result<Outcome>]) -> Result<Accepted> {
    let mut accepted = Accepted::Repeated;
    for outcome in outcomes {
        match outcome {
            Ok(Outcome::Stored(_)) => accepted = Accepted::Stored,
            Ok(Outcome::Repeated) => {}
            Ok(Outcome::Refused(error @ Error::Cycle { .. })) => tracing::warn!("a part of an OpenLineage event is left out: {error}"),
            Ok(Outcome::Refused(error)) | Err(error) => return Err(again(error)),
        }
    }
    Ok(accepted)
}

/// The error once more, for another event that it is true of.
fn again(error: &Error) -> Error {
    match error {
        Error::Invalid { path, reason } => Error::Invalid { path: path.clone(), reason: reason.clone() },
        Error::Cycle { relation, path } => Error::Cycle { relation, path: path.clone() },
        Error::Unknown { node, at_ms } => Error::Unknown { node: node.clone(), at_ms: *at_ms },
        Error::Busy { limit, allowed } => Error::Busy { limit, allowed: *allowed },
        Error::NotWritten { reason } => Error::NotWritten { reason: reason.clone() },
        Error::Canceled => Error::Canceled,
        Error::Block(error) => Error::NotWritten { reason: error.to_string() },
    }
}
