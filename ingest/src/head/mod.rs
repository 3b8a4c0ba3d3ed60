//! The head of a tenant: the newest samples in memory, until they are in a block.
//!
//! A series is found by the hash of its label bytes ([`lookup`]) and lives in a page ([`page`]). Its samples carry the epoch
//! of the write-ahead log that holds them. A cut takes the epochs that have ended, writes a block of them and, when the
//! block is committed, drops them here; writers never wait for it. So there is one head, not a generation for each cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use roaring::RoaringBitmap;

use chunk::Interner;
use exemplars::ExemplarRing;
use families::Families;
use lookup::Lookup;
use page::{PAGE_SERIES, Page, SeriesRef};
use postings::Index;

pub mod series;
pub mod chunk;
pub mod page;
pub mod lookup;
pub mod resolve;
pub mod append;
pub mod exemplars;
pub mod families;
pub mod postings;
pub mod order;
pub mod pins;
pub mod read;
pub mod source;

/// Memory of a series besides its labels and sealed chunks: its slot, the raw tail, and its entries in tables.
const SERIES_BYTES: i64 = 800;

/// The head of one tenant.
#[derive(Debug)]
pub struct Head {
    pages: RwLock<Arc<Vec<Arc<Page>>>>,
    lookup: RwLock<Lookup>,
    index: RwLock<Index>,
    interner: Mutex<Interner>,
    exemplars: Mutex<ExemplarRing>,
    families: Mutex<Families>,
    pins: pins::Pins,
    bytes: AtomicI64,
    min_ms: AtomicI64,
    max_ms: AtomicI64,
    samples: AtomicU64,
}

/// Numbers about a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadNumbers {
    /// Series.
    pub series: u64,
    /// Sealed chunks.
    pub chunks: u64,
    /// First timestamp, Unix milliseconds; `None` if there is no sample.
    pub min_time_ms: Option<i64>,
    /// Last timestamp, Unix milliseconds.
    pub max_time_ms: Option<i64>,
    /// Label names and values that are not the same.
    pub label_pairs: u64,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            pages: RwLock::default(),
            lookup: RwLock::default(),
            index: RwLock::default(),
            interner: Mutex::default(),
            exemplars: Mutex::default(),
            families: Mutex::default(),
            pins: pins::Pins::default(),
            bytes: AtomicI64::new(0),
            min_ms: AtomicI64::new(i64::MAX),
            max_ms: AtomicI64::new(i64::MIN),
            samples: AtomicU64::new(0),
        }
    }
}

impl Head {
    fn pages(&self) -> Arc<Vec<Arc<Page>>> {
        Arc::clone(&self.pages.read())
    }

    /// Memory that it takes, estimated.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed).max(0) as u64
    }

    /// Number of series.
    pub fn series(&self) -> usize {
        self.lookup.read().live
    }

    /// Samples that were added since the last cut was committed.
    pub fn samples(&self) -> u64 {
        self.samples.load(Ordering::Relaxed)
    }

    /// Whether there is anything that a block could be cut of.
    pub fn has_data(&self) -> bool {
        self.min_ms.load(Ordering::Relaxed) <= self.max_ms.load(Ordering::Relaxed) || self.exemplars.lock().len() > 0
    }

    /// Calls `each` with every page and the number of its first series.
    fn for_each_page(&self, mut each: impl FnMut(u32, &Arc<Page>)) {
        for (i, page) in self.pages().iter().enumerate() {
            each((i * PAGE_SERIES) as u32, page);
        }
    }

    /// Tells what is known for `status/tsdb`.
    pub fn numbers(&self) -> HeadNumbers {
        let mut numbers = HeadNumbers { series: self.series() as u64, ..HeadNumbers::default() };
        self.for_each_page(|_, page| {
            for series in page.series.lock().iter() {
                numbers.chunks += series.chunks() as u64;
                if let Some((min, max)) = series.time_bounds() {
                    numbers.min_time_ms = Some(numbers.min_time_ms.map_or(min, |m| m.min(min)));
                    numbers.max_time_ms = Some(numbers.max_time_ms.map_or(max, |m| m.max(max)));
                }
            }
        });
        self.with_index(false, |index| index.count_labels(|_, _, _| numbers.label_pairs += 1));
        numbers
    }

    /// Calls `each` with name, value and number of series of every label.
    pub fn count_labels(&self, each: impl FnMut(&str, &str, u64)) {
        self.with_index(false, |index| index.count_labels(each));
    }

    /// Brings index and order up to date, so that queries find them ready.
    pub fn prepare_index(&self) {
        self.with_index(true, |_| ());
    }

    /// Runs `use_it` on an index that knows all series; if `sorted`, also their order.
    fn with_index<R>(&self, sorted: bool, use_it: impl FnOnce(&Index) -> R) -> R {
        let next = self.lookup.read().next;
        {
            let index = self.index.read();
            if index.is_current(next) && (!sorted || index.is_sorted(next)) {
                return use_it(&index);
            }
        }
        let pages = self.pages();
        let mut index = self.index.write();
        if !index.is_current(next) {
            index.catch_up(&pages, next);
        }
        if sorted && !index.is_sorted(next) {
            index.sort(&pages);
        }
        use_it(&index)
    }

    /// Drops what belongs to epochs up to `max_epoch`, which blocks hold now. Series without a sample since `idle_since_s`
    /// (Unix seconds) leave the head. No writer may be under way.
    pub fn drop_through(&self, max_epoch: u32, idle_since_s: u32) {
        let mut gone = RoaringBitmap::new();
        let (mut min_ms, mut max_ms, mut freed) = (i64::MAX, i64::MIN, 0i64);
        self.for_each_page(|first, page| {
            for (slot, series) in page.series.lock().iter_mut().enumerate().filter(|(_, s)| !s.gone) {
                freed += series.drop_through(max_epoch);
                if let Some((min, max)) = series.time_bounds() {
                    (min_ms, max_ms) = (min_ms.min(min), max_ms.max(max));
                } else if series.active_s < idle_since_s {
                    series.retire();
                    page.set_hash(slot, [0, 0]);
                    freed += SERIES_BYTES + page.labels(slot).as_bytes().len() as i64;
                    gone.insert(first + slot as u32);
                }
            }
        });
        self.min_ms.store(min_ms, Ordering::Relaxed);
        self.max_ms.store(max_ms, Ordering::Relaxed);
        self.bytes.fetch_sub(freed, Ordering::Relaxed);
        self.samples.store(0, Ordering::Relaxed);
        self.exemplars.lock().drop_through(max_epoch);
        if !gone.is_empty() {
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

    fn page_of(pages: &[Arc<Page>], series: SeriesRef) -> &Page {
        &pages[series.page()]
    }
}
