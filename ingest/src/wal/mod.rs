//! The write-ahead log: one for all tenants of a process, in numbered segments.
//!
//! Requests append records to a queue in memory; one thread writes whatever has gathered there, makes it durable with one
//! `fdatasync`, and then wakes those who wait (group commit). While a sync runs the next batch gathers, so that a lone writer
//! waits for one sync only and many share one.
//!
//! Records that could not be written, because the disk is full, stay in the queue and are tried again: what is in the head is
//! in the log or in this queue, in the same order. New requests are refused meanwhile.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::observe::WalMetrics;
use record::BATCH_MARKER_BYTES;
use segment::{Header, SegmentFile};

pub mod mapped;
pub mod record;
pub mod replay;
pub mod segment;

/// A batch is not delayed to gather more once it has this many bytes.
const GATHER_BYTES: usize = 1 << 20;
/// Longest delay of a batch while requests are on their way into it.
const GATHER_TIME: Duration = Duration::from_millis(1);
/// After this time without a write the end of the log is marked.
const IDLE_TIME: Duration = Duration::from_millis(200);
/// How often a failed write is tried again.
const RETRY_TIME: Duration = Duration::from_millis(500);
/// A buffer that grew beyond this is not kept for reuse.
const KEPT_BUFFER_BYTES: usize = 4 << 20;

/// Where and how big.
#[derive(Clone, Debug)]
pub struct WalConfig {
    /// Directory of the segments.
    pub dir: PathBuf,
    /// A segment is ended when it has this many bytes.
    pub segment_bytes: u64,
    /// Requests are refused when this many bytes wait to be written.
    pub max_queued_bytes: usize,
}

/// Why records are not durable.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// The disk refused them; they are tried again.
    #[error("the write-ahead log cannot be written: {0}")]
    Disk(Arc<str>),
    /// The process stops.
    #[error("the write-ahead log is closed")]
    Closed,
}

/// The log. Dropping it closes it, after what is queued was written.
#[derive(Debug)]
pub struct Wal {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    config: WalConfig,
    queue: Mutex<Queue>,
    work: Condvar,
    arriving: AtomicUsize,
    total_bytes: AtomicU64,
    metrics: WalMetrics,
    /// Lets a test fill the disk.
    #[cfg(test)]
    disk_full: std::sync::atomic::AtomicBool,
}

#[derive(Debug)]
struct Queue {
    batches: VecDeque<Batch>,
    spare: Vec<Vec<u8>>,
    queued_bytes: usize,
    segment: u64,
    segment_bytes: u64,
    epoch: u64,
    enqueued: u64,
    durable: u64,
    waiters: VecDeque<(u64, oneshot::Sender<Result<(), Failure>>)>,
    failure: Option<Failure>,
    closing: bool,
}

/// Records for one segment that are written together.
#[derive(Debug)]
struct Batch {
    segment: u64,
    epoch: u64,
    last: u64,
    bytes: Vec<u8>,
}

/// Says that a request is on its way to [`Wal::append`]; dropping it says that it has arrived, or never will.
#[derive(Debug)]
pub struct Arriving<'a>(&'a Shared);

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        self.0.arriving.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Wal {
    /// Starts a new segment, which is the first of a new epoch, after those that are in the directory already.
    ///
    /// # Errors
    /// [`Error::Io`] if the segment cannot be created.
    pub fn open(config: WalConfig, first: Header, old_bytes: u64, metrics: WalMetrics) -> Result<Self> {
        let file = SegmentFile::create(&config.dir, first).map_err(|e| Error::io(segment::path(&config.dir, first.number), e))?;
        let queue = Queue {
            batches: VecDeque::new(),
            spare: Vec::new(),
            queued_bytes: 0,
            segment: first.number,
            segment_bytes: 0,
            epoch: first.epoch,
            enqueued: 0,
            durable: 0,
            waiters: VecDeque::new(),
            failure: None,
            closing: false,
        };
        let shared = Arc::new(Shared {
            config,
            queue: Mutex::new(queue),
            work: Condvar::new(),
            arriving: AtomicUsize::new(0),
            total_bytes: AtomicU64::new(old_bytes + segment::HEADER_BYTES),
            metrics,
            #[cfg(test)]
            disk_full: false.into(),
        });
        let writer = Writer { shared: Arc::clone(&shared), file };
        let path = shared.config.dir.clone();
        let thread = std::thread::Builder::new().name("wal".into()).spawn(move || writer.run()).map_err(|e| Error::io(path, e))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Makes writes fail as they do on a full disk.
    #[cfg(test)]
    pub fn set_disk_full(&self, full: bool) {
        self.shared.disk_full.store(full, Ordering::SeqCst);
    }

    /// Announces a request.
    pub fn arrive(&self) -> Arriving<'_> {
        self.shared.arriving.fetch_add(1, Ordering::SeqCst);
        Arriving(&self.shared)
    }

    /// Whether another request is between [`Wal::arrive`] and its end.
    pub fn others_arriving(&self) -> bool {
        self.shared.arriving.load(Ordering::SeqCst) > 1
    }

    /// Whether requests can be taken now.
    ///
    /// # Errors
    /// The [`Failure`] with which they have to be refused.
    pub fn check(&self) -> Result<(), Failure> {
        let queue = self.shared.queue.lock();
        if queue.closing {
            return Err(Failure::Closed);
        }
        if let Some(failure) = &queue.failure {
            return Err(failure.clone());
        }
        if queue.queued_bytes > self.shared.config.max_queued_bytes {
            return Err(Failure::Disk("the disk does not keep up".into()));
        }
        Ok(())
    }

    /// Queues records and returns what to wait for. Without records it returns what is queued last. The request that brings
    /// them has arrived then.
    pub fn append(&self, records: &[u8], arriving: Option<Arriving<'_>>) -> u64 {
        let mut queue = self.shared.queue.lock();
        drop(arriving);
        if records.is_empty() {
            let enqueued = queue.enqueued;
            drop(queue);
            self.shared.work.notify_one();
            return enqueued;
        }
        if queue.segment_bytes > 0 && queue.segment_bytes + records.len() as u64 > self.shared.config.segment_bytes {
            queue.segment += 1;
            queue.segment_bytes = 0;
        }
        queue.enqueued += 1;
        queue.queued_bytes += records.len();
        queue.segment_bytes += records.len() as u64;
        let (segment, epoch, last) = (queue.segment, queue.epoch, queue.enqueued);
        match queue.batches.back_mut() {
            Some(batch) if batch.segment == segment => {
                batch.bytes.extend_from_slice(records);
                batch.last = last;
            }
            _ => {
                let mut bytes = queue.spare.pop().unwrap_or_default();
                bytes.resize(BATCH_MARKER_BYTES, 0);
                bytes.extend_from_slice(records);
                queue.batches.push_back(Batch { segment, epoch, last, bytes });
            }
        }
        drop(queue);
        self.shared.work.notify_one();
        last
    }

    /// Waits until everything up to `number` is durable. Cancel safe.
    ///
    /// # Errors
    /// A [`Failure`]; the records stay queued all the same.
    pub async fn wait(&self, number: u64) -> Result<(), Failure> {
        let receiver = {
            let mut queue = self.shared.queue.lock();
            if queue.durable >= number {
                return Ok(());
            }
            if let Some(failure) = &queue.failure {
                return Err(failure.clone());
            }
            let (sender, receiver) = oneshot::channel();
            queue.waiters.push_back((number, sender));
            receiver
        };
        receiver.await.unwrap_or(Err(Failure::Closed))
    }

    /// Begins a new epoch with a new segment, and returns its number. What is queued before goes into the old segments.
    pub fn rotate(&self) -> u64 {
        let mut queue = self.shared.queue.lock();
        queue.segment += 1;
        queue.segment_bytes = 0;
        queue.epoch = queue.segment;
        queue.segment
    }

    /// The number of the epoch that is written.
    pub fn epoch(&self) -> u64 {
        self.shared.queue.lock().epoch
    }

    /// Bytes of all segments.
    pub fn total_bytes(&self) -> u64 {
        self.shared.total_bytes.load(Ordering::Relaxed)
    }

    /// Deletes the segments before `number`.
    ///
    /// # Errors
    /// [`Error::Io`]; those that remain are deleted by the next call.
    pub fn remove_before(&self, number: u64) -> Result<()> {
        let dir = &self.shared.config.dir;
        for old in segment::list(dir)?.into_iter().take_while(|n| *n < number) {
            let path = segment::path(dir, old);
            let bytes = std::fs::metadata(&path).map(|m| m.len()).unwrap_or(0);
            std::fs::remove_file(&path).map_err(|e| Error::io(&path, e))?;
            let left = |total: u64| Some(total.saturating_sub(bytes));
            let _ = self.shared.total_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
            self.shared.metrics.bytes.set(self.total_bytes() as i64);
        }
        segment::sync_dir(dir).map_err(|e| Error::io(dir, e))
    }

    /// Writes what is queued and ends the thread. Blocks for as long as the disk takes; a failing disk ends it at once.
    pub fn close(&self) {
        self.shared.queue.lock().closing = true;
        self.shared.work.notify_all();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.close();
    }
}

/// The thread that writes.
struct Writer {
    shared: Arc<Shared>,
    file: SegmentFile,
}

impl Writer {
    fn run(mut self) {
        while let Some(mut batch) = self.next() {
            while let Err(e) = self.write(&mut batch) {
                if !self.fail(&e) {
                    return;
                }
            }
            self.done(batch);
        }
        self.mark_idle();
    }

    fn mark_idle(&mut self) {
        self.shared.total_bytes.fetch_add(self.file.mark_idle(), Ordering::Relaxed);
    }

    /// The next batch; `None` when the log is closed and nothing is queued.
    fn next(&mut self) -> Option<Batch> {
        let shared = Arc::clone(&self.shared);
        let mut queue = shared.queue.lock();
        let mut marked = false;
        while queue.batches.is_empty() {
            if queue.closing {
                return None;
            }
            if marked {
                shared.work.wait(&mut queue);
            } else if shared.work.wait_for(&mut queue, IDLE_TIME).timed_out() && queue.batches.is_empty() {
                self.mark_idle();
                marked = true;
            }
        }
        let deadline = Instant::now() + GATHER_TIME;
        while shared.arriving.load(Ordering::SeqCst) > 0 && queue.batches.len() == 1 && queue.queued_bytes < GATHER_BYTES && !queue.closing
        {
            if shared.work.wait_until(&mut queue, deadline).timed_out() {
                break;
            }
        }
        let batch = queue.batches.pop_front();
        queue.queued_bytes -= batch.as_ref().map_or(0, |b| b.bytes.len() - BATCH_MARKER_BYTES);
        batch
    }

    fn write(&mut self, batch: &mut Batch) -> std::io::Result<()> {
        #[cfg(test)]
        if self.shared.disk_full.load(Ordering::SeqCst) {
            return Err(std::io::Error::from_raw_os_error(libc::ENOSPC));
        }
        if self.file.header.number != batch.segment {
            let header = Header { number: batch.segment, epoch: batch.epoch, previous_bytes: self.file.durable_bytes };
            self.file = SegmentFile::create(&self.shared.config.dir, header)?;
            self.shared.total_bytes.fetch_add(segment::HEADER_BYTES, Ordering::Relaxed);
        }
        let sync_time = self.file.append(&mut batch.bytes)?;
        let total = self.shared.total_bytes.fetch_add(batch.bytes.len() as u64, Ordering::Relaxed) + batch.bytes.len() as u64;
        let metrics = &self.shared.metrics;
        metrics.fsync_seconds.observe(sync_time.as_secs_f64());
        metrics.written_bytes.inc_by(batch.bytes.len() as u64);
        metrics.bytes.set(total as i64);
        Ok(())
    }

    /// Tells everyone who waits, and rests before the next try. `false` if the log is closed.
    fn fail(&self, error: &std::io::Error) -> bool {
        self.shared.metrics.write_failures.inc();
        let failure = Failure::Disk(format!("{}: {error}", self.shared.config.dir.display()).into());
        let mut queue = self.shared.queue.lock();
        if queue.failure.is_none() {
            tracing::error!(%failure, "writes are refused until the disk takes data again");
        }
        queue.failure = Some(failure.clone());
        for (_, waiter) in queue.waiters.drain(..) {
            let _ = waiter.send(Err(failure.clone()));
        }
        if !queue.closing {
            let deadline = Instant::now() + RETRY_TIME;
            while !queue.closing && !self.shared.work.wait_until(&mut queue, deadline).timed_out() {}
        }
        !queue.closing
    }

    fn done(&self, batch: Batch) {
        let mut queue = self.shared.queue.lock();
        queue.durable = batch.last;
        if queue.failure.take().is_some() {
            tracing::info!("the write-ahead log can be written again");
        }
        while queue.waiters.front().is_some_and(|(number, _)| *number <= batch.last) {
            if let Some((_, waiter)) = queue.waiters.pop_front() {
                let _ = waiter.send(Ok(()));
            }
        }
        let mut bytes = batch.bytes;
        if bytes.capacity() <= KEPT_BUFFER_BYTES && queue.spare.len() < 2 {
            bytes.clear();
            queue.spare.push(bytes);
        }
    }
}

/// The directory's lock file, held as long as the value lives.
#[derive(Debug)]
pub struct DirLock(#[expect(dead_code, reason = "holding it open is its purpose")] std::fs::File);

impl DirLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process has it, [`Error::Io`] if the file cannot be made.
    pub fn take(dir: &Path) -> Result<Self> {
        let path = dir.join("LOCK");
        let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(|e| Error::io(&path, e))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(std::fs::TryLockError::WouldBlock) => Err(Error::Locked { path: dir.to_owned() }),
            Err(std::fs::TryLockError::Error(e)) => Err(Error::io(&path, e)),
        }
    }
}
