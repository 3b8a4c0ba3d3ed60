//! Halves of calls that wait for each other. In whatever order they come, the same pairs result.
//!
//! A client span waits under its own id, a server span under that of its parent. A client stays for its time also when it has met a
//! server, because there may be more (retries inside of one span, fan-out by a proxy).

use std::collections::VecDeque;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use smallvec::SmallVec;

use super::names::Peer;

/// A span's id: of its trace, and its own.
pub(crate) type SpanKey = (u128, u64);

/// What is kept of the span of whoever calls or sends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Client {
    /// The service's node.
    pub node: u32,
    pub duration_ns: u64,
    pub end_ns: u64,
    pub weight: f64,
    pub failed: bool,
    /// Who it says that it calls.
    pub peer: Option<Box<Peer>>,
    /// The node of the topic that it sends to.
    pub topic: Option<u32>,
}

/// What is kept of the span of whoever answers or receives.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Server {
    pub span_id: u64,
    /// The service's node.
    pub node: u32,
    pub duration_ns: u64,
    pub start_ns: u64,
    pub weight: f64,
    pub failed: bool,
    /// The node of the topic that it receives from.
    pub topic: Option<u32>,
}

/// Servers that were there before their client.
pub(crate) type Servers = SmallVec<[Server; 1]>;

#[derive(Debug)]
enum Half {
    Client { client: Client, matched: bool },
    Servers(Servers),
}

#[derive(Debug)]
struct Slot {
    until_ms: i64,
    half: Half,
}

/// A half that nothing has come for.
#[derive(Debug, PartialEq)]
pub(crate) enum Left {
    Client(Client),
    Server(Server),
}

/// The halves that wait.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    slots: HashMap<SpanKey, Slot>,
    /// By the time at which to look at them.
    order: VecDeque<(i64, SpanKey)>,
}

impl Waiting {
    /// How many ids are waited for.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// A client's span has come. Returns the servers that wait for it; `None` if it has come before.
    pub fn client(&mut self, key: SpanKey, client: &Client, until_ms: i64) -> Option<Servers> {
        let half = |matched| Half::Client { client: client.clone(), matched };
        match self.slots.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(Slot { until_ms, half: half(false) });
                self.order.push_back((until_ms, key));
                Some(Servers::new())
            }
            Entry::Occupied(mut entry) => {
                let slot = entry.get_mut();
                if matches!(slot.half, Half::Client { .. }) {
                    return None;
                }
                slot.until_ms = until_ms;
                match std::mem::replace(&mut slot.half, half(true)) {
                    Half::Servers(servers) => Some(servers),
                    Half::Client { .. } => None,
                }
            }
        }
    }

    /// A server's span has come. Returns the client that waits for it.
    pub fn server(&mut self, key: SpanKey, server: &Server, until_ms: i64) -> Option<&Client> {
        match self.slots.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(Slot { until_ms, half: Half::Servers(SmallVec::from_iter([server.clone()])) });
                self.order.push_back((until_ms, key));
                None
            }
            Entry::Occupied(entry) => match &mut entry.into_mut().half {
                Half::Client { client, matched } => {
                    *matched = true;
                    Some(client)
                }
                Half::Servers(servers) => {
                    if servers.iter().all(|s| s.span_id != server.span_id) {
                        servers.push(server.clone());
                    }
                    None
                }
            },
        }
    }

    /// Takes out the halves whose time is over.
    pub fn expire(&mut self, now_ms: i64, mut left: impl FnMut(SpanKey, Left)) {
        while self.order.front().is_some_and(|(due_ms, _)| *due_ms <= now_ms) {
            let Some((_, key)) = self.order.pop_front() else { return };
            match self.slots.get(&key) {
                Some(slot) if slot.until_ms > now_ms => self.order.push_back((slot.until_ms, key)),
                Some(_) => self.remove(key, &mut left),
                None => {}
            }
        }
    }

    /// Takes out the oldest ones until there are at most `most`.
    pub fn shrink(&mut self, most: usize, mut left: impl FnMut(SpanKey, Left)) {
        while self.slots.len() > most {
            let Some((_, key)) = self.order.pop_front() else { return };
            self.remove(key, &mut left);
        }
    }

    fn remove(&mut self, key: SpanKey, left: &mut impl FnMut(SpanKey, Left)) {
        match self.slots.remove(&key).map(|slot| slot.half) {
            Some(Half::Client { client, matched: false }) => left(key, Left::Client(client)),
            Some(Half::Servers(servers)) => servers.into_iter().for_each(|s| left(key, Left::Server(s))),
            Some(Half::Client { matched: true, .. }) | None => {}
        }
    }
}

#[cfg(test)]
mod tests;
