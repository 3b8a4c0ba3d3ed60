//! What a cut takes from a head: the samples of the epochs that have ended, series by series in the order of blocks, and when
//! they are in a block, their end here.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::HashMap;
use isobar_block::writer::{BlockWriter, WriterConfig};
use isobar_block::{Exemplar, Result, SampleBuf, TimeRange};
use roaring::RoaringBitmap;

use super::page::{Page, SeriesRef};
use super::pins::Pins;
use super::read::Reader;
use super::{Head, SERIES_BYTES};

/// A head that is being cut.
pub struct HeadCut {
    head: Arc<Head>,
    pages: Arc<Vec<Arc<Page>>>,
    order: Arc<Vec<u32>>,
    at: usize,
    max_epoch: u32,
    exemplars: HashMap<u32, Vec<Exemplar>>,
}

impl HeadCut {
    /// Begins. The epochs up to `max_epoch` must have ended. Takes the time that sorting new series takes.
    pub fn new(head: Arc<Head>, max_epoch: u32) -> Self {
        let order = head.with_index(true, |index| index.order()).sorted;
        let mut exemplars: HashMap<u32, Vec<Exemplar>> = HashMap::new();
        for (series, _, exemplar) in head.exemplars.lock().iter().filter(|(_, epoch, _)| *epoch <= max_epoch) {
            exemplars.entry(series.0).or_default().push(exemplar.clone());
        }
        exemplars.values_mut().for_each(|list| list.sort_by_key(|e| e.timestamp_ms));
        Self { pages: head.pages(), head, order, at: 0, max_epoch, exemplars }
    }

    /// Fills the next block until it has about `block_bytes`. `None` if nothing is left.
    ///
    /// # Errors
    /// As [`BlockWriter::push_series`], and if a chunk cannot be decoded.
    pub fn next_block(&mut self, config: WriterConfig, block_bytes: u64) -> Result<Option<BlockWriter>> {
        let mut writer = BlockWriter::new(config);
        let mut reader = Reader::default();
        let mut samples = SampleBuf::default();
        while self.at < self.order.len() && (writer.encoded_bytes() as u64) < block_bytes {
            let number = SeriesRef(self.order[self.at]);
            self.at += 1;
            reader.collected.clear();
            let page = Head::page_of(&self.pages, number);
            page.series.lock()[number.slot()].collect(TimeRange::ALL, self.max_epoch, &mut reader.collected)?;
            reader.finish(&mut samples)?;
            let exemplars = self.exemplars.get(&number.0).map_or(&[][..], |e| e);
            if samples.is_empty() && exemplars.is_empty() {
                continue;
            }
            let labels = page.labels(number.slot());
            let metadata = self.head.families.lock().of_series(labels.as_ref().metric_name()).cloned();
            writer.push_series(labels, metadata.as_ref(), &samples, exemplars)?;
        }
        Ok((writer.series() > 0).then_some(writer))
    }
}

impl Head {
    /// Ends the epoch: what was added until now waits to be cut. No writer may be under way.
    pub fn end_epoch(&self) {
        self.waiting.fetch_add(self.samples.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether there is something to cut.
    pub fn is_waiting(&self, max_epoch: u32) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0 || self.exemplars.lock().iter().any(|(_, epoch, _)| epoch <= max_epoch)
    }

    /// Queries that read the head.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Drops what belongs to epochs up to `max_epoch`, which blocks hold now. Writers may be under way.
    pub fn drop_through(&self, max_epoch: u32) {
        let mut freed = 0;
        for page in self.pages().iter() {
            freed += page.series.lock().iter_mut().map(|s| s.drop_through(max_epoch)).sum::<i64>();
        }
        self.bytes.fetch_sub(freed, Ordering::Relaxed);
        self.waiting.store(0, Ordering::Relaxed);
        self.exemplars.lock().drop_through(max_epoch);
    }

    /// Takes out the series that have no samples here and got none since `idle_since_s`, Unix seconds. No writer may be under
    /// way.
    pub fn retire_idle(&self, idle_since_s: u32) {
        let mut gone = RoaringBitmap::new();
        let mut freed = 0;
        for (i, page) in self.pages().iter().enumerate() {
            for (slot, series) in page.series.lock().iter_mut().enumerate() {
                if !series.gone && series.active_s < idle_since_s && series.is_empty() {
                    series.retire();
                    page.set_hash(slot, [0, 0]);
                    freed += SERIES_BYTES + page.labels(slot).as_bytes().len() as i64;
                    gone.insert(SeriesRef::new(i, slot).0);
                }
            }
        }
        if !gone.is_empty() {
            self.bytes.fetch_sub(freed, Ordering::Relaxed);
            self.forget(&gone);
        }
    }

    fn forget(&self, gone: &RoaringBitmap) {
        {
            let mut lookup = self.lookup.write();
            lookup.remove_gone(|series| gone.contains(series.0));
            lookup.live -= gone.len() as usize;
        }
        self.exemplars.lock().remove_gone(|series| gone.contains(series.0));
        self.with_index(false, |_| ());
        self.index.write().remove(gone);
        let mut pages = self.pages.write();
        let dead: Vec<usize> = (0..pages.len()).filter(|i| pages[*i].is_dead()).collect();
        if !dead.is_empty() {
            let empty = Arc::new(Page::tombstone());
            let pages = Arc::make_mut(&mut pages);
            dead.into_iter().for_each(|i| pages[i] = Arc::clone(&empty));
        }
    }
}
