//! Events as they came, read back from the log a page at a time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use futures::{StreamExt, TryStreamExt};
use serde::Deserialize;

use super::{LineageStore, entry};
use crate::state::raws::Row;
use crate::{Error, Result, openlineage};

/// Most entries that one question reads.
pub const MAX_RAW_ENTRIES: u64 = 4096;

/// Most bytes of one page.
pub const MAX_RAW_BYTES: usize = 64 << 20;

/// Entries that are read at a time.
const READ_AHEAD: usize = 8;

/// Entries that are read only to count the events in them that lie at the edges of the window.
const MAX_COUNTED_ENTRIES: u64 = 64;

/// Events as they came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawEvents {
    /// Time (Unix milliseconds) and text of each.
    pub events: Vec<(i64, Box<str>)>,
    /// How many there are in the window.
    pub total: u64,
    /// Whether `total` is exact. If not, events at the edges of the window were estimated.
    pub exact: bool,
}

/// Whether an event can be read back: only what clients ask for again, which is OpenLineage.
pub(super) fn is_raw(source: &str, has_text: bool) -> bool {
    has_text && source == openlineage::SOURCE
}

/// What is read of an event.
#[derive(Deserialize)]
struct Light {
    source: String,
    at_ms: i64,
    raw: Option<Box<str>>,
}

/// An event that was found. Ordered as it is wanted.
struct Found {
    /// Time, negative if the newest are wanted first; then the entry's number and the place in it, likewise.
    place: (i64, i64, i64),
    /// Left out while too much would have to be held.
    raw: Option<Box<str>>,
}

impl PartialEq for Found {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place
    }
}

impl Eq for Found {}

impl PartialOrd for Found {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Found {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.place.cmp(&other.place)
    }
}

/// The events that are wanted.
struct Window {
    after_ms: i64,
    before_ms: i64,
    /// 1, or -1 if the newest are wanted first.
    sign: i64,
}

impl Window {
    fn has(&self, at_ms: i64) -> bool {
        (self.after_ms..self.before_ms).contains(&at_ms)
    }

    fn covers(&self, row: &Row) -> bool {
        self.has(row.min_ms) && self.has(row.max_ms)
    }

    /// The place in the order of the first and of the last event of a row.
    fn ends(&self, row: &Row) -> (i64, i64) {
        let (a, b) = (row.min_ms * self.sign, row.max_ms * self.sign);
        (a.min(b), a.max(b))
    }

    /// How many events of a row are inside if they are spread evenly.
    fn estimate(&self, row: &Row) -> u64 {
        let inside = self.before_ms.min(row.max_ms) - self.after_ms.max(row.min_ms);
        let fraction = inside.max(0) as f64 / (row.max_ms - row.min_ms).max(1) as f64;
        (f64::from(row.count) * fraction).round() as u64
    }
}

impl LineageStore {
    /// OpenLineage events as they came, from `after_ms` on and before `before_ms`, by their times. Work is bounded by the page and not by
    /// the length of the log: whole entries before the page are passed over unread.
    ///
    /// # Errors
    /// [`Error::Invalid`] if too much would have to be read or returned, with the remedy; [`Error::Block`] if an entry cannot be read.
    pub async fn raw_events(&self, before_ms: i64, after_ms: i64, newest_first: bool, limit: usize, offset: usize) -> Result<RawEvents> {
        self.refresh_if_old().await?;
        let window = Window { after_ms: after_ms.max(0), before_ms, sign: if newest_first { -1 } else { 1 } };
        let mut rows = self.state.read().raws.within(window.after_ms, window.before_ms);
        rows.sort_unstable_by_key(|r| (window.ends(r).0, r.first as i64 * window.sign));
        let mut search = Search { store: self, window, rows, next: 0, pending: BinaryHeap::new(), held_bytes: 0, read: 0, total: 0 };
        let page = if limit == 0 { Vec::new() } else { search.page(limit, offset).await? };
        let exact = search.count_rest().await?;
        let total = search.total;
        Ok(RawEvents { events: self.texts(page, newest_first).await?, total, exact })
    }

    /// The page with the texts that were not held, in order.
    async fn texts(&self, page: Vec<Found>, newest_first: bool) -> Result<Vec<(i64, Box<str>)>> {
        let sign = if newest_first { -1 } else { 1 };
        let mut bytes = 0;
        let mut events = Vec::with_capacity(page.len());
        for found in page {
            let (time, number, place) = found.place;
            let raw = match found.raw {
                Some(raw) => raw,
                None => {
                    let mut read = self.read_raws((number * sign) as u64).await?;
                    std::mem::take(&mut read[(place * sign) as usize].1)
                }
            };
            bytes += raw.len();
            if bytes > MAX_RAW_BYTES {
                return Err(Error::invalid("limit", format!("the events have more than {MAX_RAW_BYTES} bytes together; ask for fewer")));
            }
            events.push((time * sign, raw));
        }
        Ok(events)
    }

    /// Times and texts of the events of an entry that can be read back.
    async fn read_raws(&self, number: u64) -> Result<Vec<(i64, Box<str>)>> {
        let missing = || isobar_block::Error::corrupt(self.log.entry_key(number), "the entry is missing; restore it from a backup");
        let content = self.log.get(number).await?.ok_or_else(missing)?;
        let read = tokio::task::spawn_blocking(move || entry::read::<Light>(number, &content)).await.expect("reading does not panic");
        let events = read.map_err(|reason| isobar_block::Error::corrupt(self.log.entry_key(number), reason))?;
        let wanted = events.into_iter().filter(|e| is_raw(&e.source, e.raw.is_some()));
        Ok(wanted.filter_map(|e| Some((e.at_ms, e.raw?))).collect())
    }
}

/// One look through the index.
struct Search<'a> {
    store: &'a LineageStore,
    window: Window,
    /// In the order of their first events.
    rows: Vec<Row>,
    /// The next row.
    next: usize,
    /// Events that were read and may come after others that were not.
    pending: BinaryHeap<Reverse<Found>>,
    held_bytes: usize,
    /// Entries that were read.
    read: u64,
    /// Events in the window, of the rows that were passed.
    total: u64,
}

impl Search<'_> {
    async fn page(&mut self, limit: usize, offset: usize) -> Result<Vec<Found>> {
        let mut page = Vec::new();
        let mut skip = offset;
        loop {
            while let Some(found) = self.take_first() {
                if skip > 0 {
                    skip -= 1;
                    continue;
                }
                page.push(found);
                if page.len() == limit {
                    return Ok(page);
                }
            }
            if self.next == self.rows.len() {
                return Ok(page);
            }
            if self.can_pass(skip) {
                let count = self.rows[self.next].count;
                skip -= count as usize;
                self.total += u64::from(count);
                self.next += 1;
                continue;
            }
            self.read_more(skip + limit - page.len()).await?;
        }
    }

    /// The next event, if nothing that is unread can come before it.
    fn take_first(&mut self) -> Option<Found> {
        let first = self.pending.peek()?;
        let unread = self.rows.get(self.next).map(|r| self.window.ends(r).0);
        if unread.is_some_and(|start| first.0.place.0 >= start) {
            return None;
        }
        let Reverse(found) = self.pending.pop()?;
        self.held_bytes -= found.raw.as_ref().map_or(0, |r| r.len());
        Some(found)
    }

    /// Whether all events of the next row come before the page and before everything else.
    fn can_pass(&self, skip: usize) -> bool {
        let row = &self.rows[self.next];
        let alone = self.rows.get(self.next + 1).is_none_or(|next| self.window.ends(row).1 < self.window.ends(next).0);
        self.pending.is_empty() && self.window.covers(row) && alone && row.count as usize <= skip
    }

    /// Reads rows until there are so many events more, or a few at least.
    async fn read_more(&mut self, wanted: usize) -> Result<()> {
        let from = self.next;
        let (mut events, mut entries) = (self.pending.len(), 0);
        while self.next < self.rows.len() && (self.next == from || (events < wanted && entries < READ_AHEAD as u64 * 4)) {
            events += self.rows[self.next].count as usize;
            entries += self.rows[self.next].entries();
            self.next += 1;
        }
        self.read += entries;
        if self.read > MAX_RAW_ENTRIES {
            let reason =
                format!("more than {MAX_RAW_ENTRIES} entries of the log would have to be read; narrow the time or lower the offset");
            return Err(Error::invalid("offset", reason));
        }
        let numbers: Vec<u64> = self.rows[from..self.next].iter().flat_map(|r| r.first..=r.last).collect();
        let store = self.store;
        let mut read = futures::stream::iter(numbers)
            .map(|number| async move { store.read_raws(number).await.map(|events| (number, events)) })
            .buffered(READ_AHEAD);
        while let Some((number, events)) = read.try_next().await? {
            for (i, (at_ms, raw)) in events.into_iter().enumerate().filter(|(_, (at_ms, _))| self.window.has(*at_ms)) {
                self.total += 1;
                let fits = self.held_bytes + raw.len() <= MAX_RAW_BYTES;
                self.held_bytes += if fits { raw.len() } else { 0 };
                let sign = self.window.sign;
                let place = (at_ms * sign, number as i64 * sign, i as i64 * sign);
                self.pending.push(Reverse(Found { place, raw: fits.then_some(raw) }));
            }
        }
        Ok(())
    }

    /// Adds the events of the rows that were not needed to the total. Returns whether it is exact.
    async fn count_rest(&mut self) -> Result<bool> {
        let mut exact = true;
        let mut counted = 0;
        for row in self.rows.split_off(self.next) {
            if self.window.covers(&row) {
                self.total += u64::from(row.count);
                continue;
            }
            counted += row.entries();
            if counted > MAX_COUNTED_ENTRIES {
                exact = false;
                self.total += self.window.estimate(&row);
                continue;
            }
            for number in row.first..=row.last {
                let events = self.store.read_raws(number).await?;
                self.total += events.iter().filter(|(at_ms, _)| self.window.has(*at_ms)).count() as u64;
            }
        }
        Ok(exact)
    }
}

#[cfg(test)]
mod tests;
