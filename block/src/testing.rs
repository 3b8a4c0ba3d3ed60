//! Object stores for tests: in memory, or the S3 server that the environment names, so that the same tests run against both.

use std::sync::Arc;

use object_store::aws::AmazonS3Builder;
use object_store::memory::InMemory;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore};
use ulid::Ulid;

/// Names the S3 server and the bucket for tests: `http://127.0.0.1:5000/bucket`. The credentials are `test` and `test`.
pub const S3_VARIABLE: &str = "ISOBAR_TEST_S3";

/// An empty store: in memory, or a prefix of its own in the bucket that [`S3_VARIABLE`] names.
///
/// # Panics
/// If the variable is no URL with a bucket.
pub fn object_store() -> Arc<dyn ObjectStore> {
    let Ok(url) = std::env::var(S3_VARIABLE) else { return Arc::new(InMemory::new()) };
    let (endpoint, bucket) = url.rsplit_once('/').expect("the S3 URL ends in a bucket");
    let client = AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_bucket_name(bucket)
        .with_region("us-east-1")
        .with_access_key_id("test")
        .with_secret_access_key("test")
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .build()
        .expect("the S3 URL is valid");
    Arc::new(PrefixStore::new(client, Ulid::new().to_string()))
}
