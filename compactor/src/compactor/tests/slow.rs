//! An object store that waits a little before each request, and fails now and then.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload,
    PutResult,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[derive(Debug)]
pub struct Slow {
    inner: Arc<dyn ObjectStore>,
    rng: Mutex<StdRng>,
    fail_every: AtomicU64,
    requests: AtomicU64,
    read_bytes: AtomicU64,
}

impl Slow {
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64) -> Self {
        let rng = Mutex::new(StdRng::seed_from_u64(seed));
        Self { inner, rng, fail_every: AtomicU64::new(0), requests: AtomicU64::new(0), read_bytes: AtomicU64::new(0) }
    }

    /// Fails one of so many requests, half of the writes among them after they were done; 0 ends that.
    pub fn fail_every(&self, requests: u64) {
        self.fail_every.store(requests, Ordering::Relaxed);
    }

    /// Size of what was read of parts of objects.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    async fn wait(&self) -> bool {
        let micros = self.rng.lock().random_range(0..1500);
        tokio::time::sleep(Duration::from_micros(micros)).await;
        let every = self.fail_every.load(Ordering::Relaxed);
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        every > 0 && number % every == every - 1
    }
}

fn failure() -> object_store::Error {
    object_store::Error::Generic { store: "Slow", source: "an injected failure".into() }
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slow({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Slow {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        let fails = self.wait().await;
        if fails && self.rng.lock().random_bool(0.5) {
            return Err(failure());
        }
        let done = self.inner.put_opts(location, payload, options).await;
        if fails { Err(failure()) } else { done }
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        if self.wait().await {
            return Err(failure());
        }
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[std::ops::Range<u64>]) -> object_store::Result<Vec<bytes::Bytes>> {
        if self.wait().await {
            return Err(object_store::Error::PermissionDenied { path: location.to_string(), source: "an injected failure".into() });
        }
        self.read_bytes.fetch_add(ranges.iter().map(|r| r.end - r.start).sum(), Ordering::Relaxed);
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, object_store::Result<Path>>) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
