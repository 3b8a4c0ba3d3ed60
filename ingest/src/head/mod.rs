//! The head of a tenant: the newest samples in memory, until they are in a block.
//!
//! A series is found by the hash of its label bytes ([`lookup`]) and lives in a page ([`page`]). Its samples carry the epoch
//! of the write-ahead log that holds them. A cut takes the epochs that have ended, writes a block of them and, when the
//! block is committed, drops them here; writers never wait for it. So there is one head, not a generation for each cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use isobar_block::TenantId;
use parking_lot::{Mutex, RwLock};

use chunk::Interner;
use exemplars::ExemplarRing;
use families::Families;
use lookup::Lookup;
use page::{Page, SeriesRef};
use pending::Pending;
use postings::Index;

use crate::wal::record::MetadataWriter;

pub mod append;
pub mod chunk;
pub mod cut;
pub mod exemplars;
pub mod families;
pub mod lookup;
pub mod order;
pub mod page;
pub mod pending;
pub mod pins;
pub mod postings;
pub mod read;
pub mod replay;
pub mod resolve;
pub mod series;
pub mod source;

/// Memory of a series besides its labels and sealed chunks: its slot, the raw tail, and its entries in tables.
const SERIES_BYTES: i64 = 800;

/// The head of one tenant.
#[derive(Debug, Default)]
pub struct Head {
    pages: RwLock<Arc<Vec<Arc<Page>>>>,
    lookup: RwLock<Lookup>,
    index: RwLock<Index>,
    interner: Mutex<Interner>,
    exemplars: Mutex<ExemplarRing>,
    families: Mutex<Families>,
    pins: pins::Pins,
    /// Samples that a start has left for later.
    pending: RwLock<Option<Arc<Pending>>>,
    /// Whether there are any.
    is_pending: AtomicBool,
    bytes: AtomicI64,
    /// Samples of the present epoch.
    samples: AtomicU64,
    /// Samples of epochs that have ended and that no block holds.
    waiting: AtomicU64,
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

    /// Samples that are not in a block yet.
    pub fn samples(&self) -> u64 {
        self.samples.load(Ordering::Relaxed) + self.waiting.load(Ordering::Relaxed)
    }

    /// Whether it can be forgotten altogether.
    pub fn is_empty(&self) -> bool {
        self.series() == 0 && self.families.lock().is_empty() && self.exemplars.lock().is_empty()
    }

    /// Appends all metadata to `records`, for a log that begins a new epoch.
    pub fn log_metadata(&self, tenant: &TenantId, epoch: u32, records: &mut Vec<u8>) {
        let mut writer = MetadataWriter::default();
        self.families.lock().log_all(epoch, |name, metadata| writer.push(name, metadata));
        writer.finish(tenant, records);
    }

    /// Tells what is known for `status/tsdb`.
    pub fn numbers(&self) -> HeadNumbers {
        self.complete();
        let mut numbers = HeadNumbers { series: self.series() as u64, ..HeadNumbers::default() };
        for page in self.pages().iter() {
            for series in page.series.lock().iter() {
                numbers.chunks += series.chunks() as u64;
                if let Some((min, max)) = series.time_bounds() {
                    numbers.min_time_ms = Some(numbers.min_time_ms.map_or(min, |m| m.min(min)));
                    numbers.max_time_ms = Some(numbers.max_time_ms.map_or(max, |m| m.max(max)));
                }
            }
        }
        self.with_index(false, |index| index.count_labels(|_, _, _| numbers.label_pairs += 1));
        numbers
    }

    /// Calls `each` with name, value and number of series of every label.
    pub fn count_labels(&self, each: impl FnMut(&str, &str, u64)) {
        self.with_index(false, |index| index.count_labels(each));
    }

    /// Whether queries find index and order ready.
    pub fn is_index_ready(&self) -> bool {
        let next = self.lookup.read().next;
        let index = self.index.read();
        index.is_current(next) && index.is_sorted(next)
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

    fn page_of(pages: &[Arc<Page>], series: SeriesRef) -> &Page {
        &pages[series.page()]
    }
}
