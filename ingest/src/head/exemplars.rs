//! The exemplars of a tenant's head: a ring of bounded length.

use std::collections::VecDeque;

use hashbrown::HashMap;
use isobar_block::Exemplar;

use super::page::SeriesRef;

/// What became of an exemplar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExemplarVerdict {
    /// It is in the ring.
    Stored,
    /// It was there already.
    Repeat,
    /// It is older than the newest one of its series.
    OutOfOrder,
}

/// The ring.
#[derive(Debug, Default)]
pub struct ExemplarRing {
    ring: VecDeque<Entry>,
    newest: HashMap<SeriesRef, Exemplar>,
}

#[derive(Debug)]
struct Entry {
    series: SeriesRef,
    epoch: u32,
    exemplar: Exemplar,
}

impl ExemplarRing {
    /// Adds an exemplar; the oldest one gives way if there would be more than `max`.
    pub fn push(&mut self, series: SeriesRef, epoch: u32, exemplar: &Exemplar, max: usize) -> ExemplarVerdict {
        if let Some(newest) = self.newest.get(&series) {
            let same = newest.timestamp_ms == exemplar.timestamp_ms
                && newest.value.to_bits() == exemplar.value.to_bits()
                && newest.labels == exemplar.labels;
            if same {
                return ExemplarVerdict::Repeat;
            }
            if exemplar.timestamp_ms < newest.timestamp_ms {
                // One that was sent again after later ones is not out of order.
                let known = |e: &Entry| e.series == series && e.exemplar == *exemplar;
                return if self.ring.iter().any(known) { ExemplarVerdict::Repeat } else { ExemplarVerdict::OutOfOrder };
            }
        }
        if max == 0 {
            return ExemplarVerdict::Stored;
        }
        while self.ring.len() >= max {
            if let Some(old) = self.ring.pop_front() {
                self.newest.remove_entry(&old.series).filter(|(_, newest)| *newest != old.exemplar).map(|(s, e)| self.newest.insert(s, e));
            }
        }
        self.newest.insert(series, exemplar.clone());
        self.ring.push_back(Entry { series, epoch, exemplar: exemplar.clone() });
        ExemplarVerdict::Stored
    }

    /// All exemplars with their series and epoch, in the order of their arrival.
    pub fn iter(&self) -> impl Iterator<Item = (SeriesRef, u32, &Exemplar)> {
        self.ring.iter().map(|e| (e.series, e.epoch, &e.exemplar))
    }

    /// Forgets those of epochs up to `max_epoch`.
    pub fn drop_through(&mut self, max_epoch: u32) {
        self.ring.retain(|e| e.epoch > max_epoch);
        self.ring.shrink_to(64);
    }

    /// Forgets what is known of series for which `gone` says so.
    pub fn remove_gone(&mut self, gone: impl Fn(SeriesRef) -> bool) {
        self.newest.retain(|series, _| !gone(*series));
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use isobar_block::Labels;

    use super::*;

    #[test]
    fn keeps_the_newest_and_knows_repeats() {
        let exemplar =
            |t: i64| Exemplar { labels: Labels::from_pairs([("trace_id", t.to_string())]).expect("valid"), value: 1.0, timestamp_ms: t };
        let mut ring = ExemplarRing::default();
        let series = SeriesRef(3);
        for t in 0..5 {
            assert_eq!(ring.push(series, 1, &exemplar(t), 3), ExemplarVerdict::Stored);
            assert_eq!(ring.push(series, 1, &exemplar(t), 3), ExemplarVerdict::Repeat);
        }
        assert_eq!(ring.push(series, 1, &exemplar(3), 3), ExemplarVerdict::Repeat);
        assert_eq!(ring.push(series, 1, &exemplar(1), 3), ExemplarVerdict::OutOfOrder);
        assert_eq!(ring.iter().map(|(_, _, e)| e.timestamp_ms).collect::<Vec<_>>(), [2, 3, 4]);
        ring.drop_through(1);
        assert!(ring.is_empty());
    }
}
