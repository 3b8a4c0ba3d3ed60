//! Damage in the log, and an object store that fails or hangs.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::AtomicU8;

use futures::stream::BoxStream;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use super::*;
use crate::wal::{record, segment};

const WORKS: u8 = 0;
const FAILS: u8 = 1;
const HANGS: u8 = 2;

/// A store in memory whose writes fail or hang when they are told to.
#[derive(Debug, Default)]
struct Faulty {
    inner: InMemory,
    mode: AtomicU8,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl Faulty {
    async fn meet_fault(&self) -> object_store::Result<()> {
        match self.mode.load(Ordering::SeqCst) {
            WORKS => Ok(()),
            FAILS => Err(object_store::Error::Generic { store: "Faulty", source: "it fails".into() }),
            _ => std::future::pending().await,
        }
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &ObjectPath, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.meet_fault().await?;
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &ObjectPath,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.meet_fault().await?;
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &ObjectPath, ranges: &[Range<u64>]) -> object_store::Result<Vec<bytes::Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<ObjectPath>>,
    ) -> BoxStream<'static, object_store::Result<ObjectPath>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// A few requests in the log, and how many bytes it had after each of them.
async fn logged(store: &Store, requests: i64) -> Vec<u64> {
    let tenant = TenantId::default();
    let mut ends = Vec::new();
    for t in 0..requests {
        let request = Builder::default().series(&up(0), LabelForm::Wire, &[(BASE_MS + t, t as f64)]);
        store.now().write(&tenant, request.series(&up(t as usize + 1), LabelForm::Wire, &[(BASE_MS, 0.1)]).0).await.expect("written");
        ends.push(fs::metadata(last_segment(store)).expect("is there").len());
    }
    ends
}

fn last_segment(store: &Store) -> std::path::PathBuf {
    let numbers = segment::list(&store.config.wal_dir).expect("lists");
    segment::path(&store.config.wal_dir, *numbers.last().expect("a segment"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_loses_nothing_that_was_acknowledged() {
    let mut store = Store::new().await;
    let ends = logged(&store, 6).await;
    store.crash().await;
    let path = last_segment(&store);
    let whole = fs::read(&path).expect("reads");
    for len in ends[0] as usize..=whole.len() {
        fs::write(&path, &whole[..len]).expect("writes");
        store.open().await.unwrap_or_else(|e| panic!("cut at {len}: {e}"));
        let acknowledged = ends.iter().filter(|end| **end as usize <= len).count();
        let content = store.read(&TenantId::default()).await;
        let found = content[&up(0)].len();
        assert!(found >= acknowledged && found <= 6, "cut at {len}: {found} samples, {acknowledged} were durable");
        assert!((0..found).all(|t| content[&up(0)][&(BASE_MS + t as i64)] == model::float(t as f64)), "cut at {len}");
        store.crash().await;
        fs::remove_file(last_segment(&store)).expect("removes what the start has added");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_is_noticed_and_can_be_skipped() {
    let mut store = Store::new().await;
    logged(&store, 5).await;
    let full = store.read(&TenantId::default()).await;
    store.crash().await;
    let path = last_segment(&store);
    let whole = fs::read(&path).expect("reads");
    // The closing marker proves that all before it was durable; damage in itself looks like a write that was not finished.
    let proven = whole.len() - record::BATCH_MARKER_BYTES;
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x40;
        fs::write(&path, &flipped).expect("writes");
        let opened = store.open().await;
        if at < proven {
            let error = opened.expect_err("damage is an error").to_string();
            assert!(error.contains(&path.display().to_string()) && error.contains("--storage.wal-skip-damaged"), "byte {at}: {error}");
            continue;
        }
        opened.unwrap_or_else(|e| panic!("byte {at}: {e}"));
        assert_eq!(store.read(&TenantId::default()).await, full, "byte {at}");
        store.crash().await;
        fs::remove_file(last_segment(&store)).expect("removes what the start has added");
    }
    let mut flipped = whole.clone();
    flipped[segment::HEADER_BYTES as usize + 30] ^= 1;
    fs::write(&path, &flipped).expect("writes");
    store.config.wal_skip_damaged = true;
    store.open().await.expect("skips");
    let rest = store.read(&TenantId::default()).await;
    assert!(rest.len() < full.len() && !rest.is_empty(), "{} of {} series", rest.len(), full.len());
    for (labels, samples) in &rest {
        assert!(samples.iter().all(|(t, v)| full[labels].get(t) == Some(v)), "nothing is wrong");
    }
    assert_eq!(fs::read(path.with_extension("wal.damaged")).expect("it was kept aside"), flipped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_shortened_segment_is_noticed() {
    let mut store = Store::new().await;
    let many: Vec<_> = (0..9000).map(|i| (up(i), [(BASE_MS, 1.0)])).collect();
    for part in many.chunks(100) {
        let request = part.iter().fold(Builder::default(), |b, (labels, samples)| b.series(labels, LabelForm::Wire, samples));
        store.now().write(&TenantId::default(), request.0).await.expect("written");
    }
    store.crash().await;
    let numbers = segment::list(&store.config.wal_dir).expect("lists");
    assert!(numbers.len() >= 3, "{numbers:?}");
    let path = segment::path(&store.config.wal_dir, numbers[1]);
    let whole = fs::read(&path).expect("reads");
    fs::write(&path, &whole[..whole.len() - 1]).expect("writes");
    assert!(matches!(store.open().await, Err(Error::WalDamaged { .. })));
    fs::remove_file(&path).expect("removes");
    assert!(matches!(store.open().await, Err(Error::WalDamaged { .. })));
    // Bytes that a failed write has left behind the end do not count.
    fs::write(&path, [&whole[..], b"left over"].concat()).expect("writes");
    for _ in 0..2 {
        store.open().await.expect("opens");
        assert_eq!(store.read(&TenantId::default()).await.len(), 9000);
        store.crash().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_object_store_stops_nothing_until_a_limit_and_is_caught_up_with() {
    let objects = Arc::new(Faulty::default());
    let mut store = Store::with(Arc::clone(&objects) as Arc<dyn ObjectStore>, |c| {
        (c.wal_cut_bytes, c.wal_max_bytes) = (10 << 10, 60 << 10);
    })
    .await;
    let tenant = TenantId::default();
    objects.mode.store(FAILS, Ordering::SeqCst);
    let mut acknowledged = 0i64;
    let error = loop {
        match store.now().write(&tenant, one(0, &[(BASE_MS + acknowledged, 0.3)])).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        if acknowledged % 100 == 0 {
            store.now().measure();
        }
    };
    assert!(matches!(&error, WriteError::Unavailable { reason, .. } if reason.contains("wal_max_bytes")), "{error}");
    assert_eq!(store.read(&tenant).await[&up(0)].len() as i64, acknowledged);
    assert!(store.now().flush().await.is_err());
    store.crash().await;
    store.open().await.expect("opens without the store's help");
    assert_eq!(store.read(&tenant).await[&up(0)].len() as i64, acknowledged);
    objects.mode.store(WORKS, Ordering::SeqCst);
    for _ in 0..2000 {
        if store.now().write(&tenant, one(0, &[(BASE_MS + acknowledged, 0.3)])).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(store.read(&tenant).await[&up(0)].len() as i64, acknowledged + 1, "it recovers by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_a_hanging_object_store() {
    let objects = Arc::new(Faulty::default());
    let mut store = Store::with(Arc::clone(&objects) as Arc<dyn ObjectStore>, |c| c.shutdown_timeout = Duration::from_millis(200)).await;
    let tenant = TenantId::default();
    store.now().write(&tenant, one(0, &[(BASE_MS, 1.0)])).await.expect("written");
    objects.mode.store(HANGS, Ordering::SeqCst);
    assert!(matches!(store.now().shutdown().await, Err(Error::Stopping)));
    assert!(matches!(store.now().write(&tenant, one(0, &[(BASE_MS + 1, 1.0)])).await, Err(WriteError::Unavailable { .. })));
    store.crash().await;
    objects.mode.store(WORKS, Ordering::SeqCst);
    store.open().await.expect("opens");
    assert_eq!(store.read(&tenant).await[&up(0)].len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_and_loses_nothing() {
    let mut store = Store::new().await;
    let tenant = TenantId::default();
    let write = async |store: &Store, i: usize, t: i64| store.now().write(&tenant, one(i, &[(BASE_MS + t, t as f64)])).await;
    write(&store, 0, 0).await.expect("written");
    store.now().wal.set_disk_full(true);
    // The first request meets the full disk, later ones are refused before they reach the head.
    for t in 1..4 {
        let error = write(&store, 0, t).await.expect_err("the disk is full");
        assert!(matches!(&error, WriteError::Unavailable { reason, .. } if reason.contains("No space left")), "{error}");
        assert_eq!(error.outcome().samples_written, 0);
    }
    assert!(store.now().flush().await.is_err(), "without the log nothing is deleted");
    store.now().wal.set_disk_full(false);
    // A repeat of what is in the head but was never acknowledged must wait for the log like everything else.
    while write(&store, 0, 1).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    write(&store, 0, 2).await.expect("written");
    for _ in 0..2 {
        assert_eq!(store.read(&tenant).await[&up(0)].len(), 3);
        store.crash().await;
        store.open().await.expect("opens");
    }
}
