//! A local directory as an object store in which what was put survives power loss.
//!
//! `object_store`'s own `LocalFileSystem` writes and renames without telling the disk to keep it, so that after power loss an
//! object can be missing or empty although the put had returned. Here the file is synced before it gets its name, and the
//! directories after. Reads, listing and deletion are `LocalFileSystem`'s.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, RenameOptions, UploadPart,
};

use crate::{Error, Result};

const STORE: &str = "DurableLocal";

/// How often the directories of a new file are made while others remove them because they are empty.
const MAX_DIRECTORY_TRIES: usize = 8;

/// Age at which a file that was never finished is removed.
const STAGED_AGE: Duration = Duration::from_secs(3600);

/// Objects in files below a directory.
#[derive(Clone, Debug)]
pub struct DurableLocal {
    files: Arc<LocalFileSystem>,
    root: PathBuf,
}

impl DurableLocal {
    /// The store below `root`, which is created if it is missing.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be made, [`Error::Store`] if it cannot be used.
    pub fn new(root: impl AsRef<FsPath>) -> Result<Self> {
        fs::create_dir_all(&root).map_err(|e| Error::io(&root, e))?;
        let root = fs::canonicalize(&root).map_err(|e| Error::io(&root, e))?;
        let files = LocalFileSystem::new_with_prefix(&root)?.with_automatic_cleanup(true);
        let swept = root.clone();
        // Nobody waits for it, and what it does not get done is done at the next start.
        let _sweeper = thread::Builder::new().name("isobar-sweep".into()).spawn(move || sweep(&swept, STAGED_AGE));
        Ok(Self { files: Arc::new(files), root })
    }
}

/// Removes what processes that died while they wrote have left below `directory`: no listing shows it. A file that is this old
/// and whose writer still lives, perhaps on another machine, costs its writer an error and a second try.
fn sweep(directory: &FsPath, age: Duration) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => sweep(&path, age),
            Ok(_) if is_staged(&path) && is_older(&entry, age) => {
                if let Err(e) = fs::remove_file(&path) {
                    tracing::debug!("unfinished file {} was not removed: {e}", path.display());
                }
                // Fails unless it was the last one.
                let _ = fs::remove_dir(directory);
            }
            _ => {}
        }
    }
}

/// Whether the name ends in `#` and digits, as [`open_staged`] makes it.
fn is_staged(path: &FsPath) -> bool {
    let digits = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.rsplit_once('#'));
    digits.is_some_and(|(_, digits)| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

fn is_older(entry: &fs::DirEntry, age: Duration) -> bool {
    entry.metadata().and_then(|m| m.modified()).is_ok_and(|at| at.elapsed().is_ok_and(|passed| passed >= age))
}

impl std::fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{STORE}({})", self.root.display())
    }
}

#[async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        let create = match options.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => {
                return Err(object_store::Error::NotImplemented {
                    operation: "put with PutMode::Update".into(),
                    implementer: self.to_string(),
                });
            }
        };
        let (path, root, object) = (self.files.path_to_filesystem(location)?, self.root.clone(), location.clone());
        blocking(move || put(&root, &path, &payload, create).map_err(|e| store_error(&object, e))).await
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> object_store::Result<Box<dyn MultipartUpload>> {
        let upload = self.files.put_multipart_opts(location, options).await?;
        let (path, root) = (self.files.path_to_filesystem(location)?, self.root.clone());
        Ok(Box::new(DurableUpload { upload, path, root, object: location.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.files.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[std::ops::Range<u64>]) -> object_store::Result<Vec<bytes::Bytes>> {
        self.files.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, object_store::Result<Path>>) -> BoxStream<'static, object_store::Result<Path>> {
        self.files.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.files.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.files.copy_opts(from, to, options).await?;
        self.sync(to).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> object_store::Result<()> {
        self.files.rename_opts(from, to, options).await?;
        self.sync(to).await
    }
}

impl DurableLocal {
    async fn sync(&self, location: &Path) -> object_store::Result<()> {
        let (path, root, object) = (self.files.path_to_filesystem(location)?, self.root.clone(), location.clone());
        blocking(move || sync_existing(&root, &path).map_err(|e| store_error(&object, e))).await
    }
}

#[derive(Debug)]
struct DurableUpload {
    upload: Box<dyn MultipartUpload>,
    path: PathBuf,
    root: PathBuf,
    object: Path,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let result = self.upload.complete().await?;
        let (path, root, object) = (self.path.clone(), self.root.clone(), self.object.clone());
        blocking(move || sync_existing(&root, &path).map_err(|e| store_error(&object, e))).await?;
        Ok(result)
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.upload.abort().await
    }
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> object_store::Result<T> + Send + 'static) -> object_store::Result<T> {
    tokio::task::spawn_blocking(f).await.unwrap_or_else(|e| Err(object_store::Error::Generic { store: STORE, source: e.into() }))
}

fn store_error(object: &Path, source: io::Error) -> object_store::Error {
    match source.kind() {
        io::ErrorKind::AlreadyExists => object_store::Error::AlreadyExists { path: object.to_string(), source: source.into() },
        io::ErrorKind::NotFound => object_store::Error::NotFound { path: object.to_string(), source: source.into() },
        _ => object_store::Error::Generic { store: STORE, source: format!("{object}: {source}").into() },
    }
}

/// Writes a file under a name that listing does not show, syncs it, and gives it its own name.
fn put(root: &FsPath, path: &FsPath, payload: &PutPayload, create: bool) -> io::Result<PutResult> {
    let (staged_path, mut staged) = open_staged(path)?;
    let written = payload.iter().try_for_each(|part| staged.write_all(part)).and_then(|()| staged.sync_all());
    let named = written.and_then(|()| if create { fs::hard_link(&staged_path, path) } else { fs::rename(&staged_path, path) });
    if create || named.is_err() {
        // What cannot be removed is invisible and is overwritten or cleaned up later.
        let _ = fs::remove_file(&staged_path);
    }
    named?;
    sync_directories(root, path)?;
    Ok(PutResult { e_tag: None, version: None })
}

/// `LocalFileSystem` takes names that end in `#` and digits for unfinished uploads and does not list them.
fn open_staged(path: &FsPath) -> io::Result<(PathBuf, File)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // Directories that have become empty are removed, perhaps just now.
    let mut tries = 0;
    loop {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("#{}{:010}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let staged = PathBuf::from(name);
        match OpenOptions::new().write(true).create_new(true).open(&staged) {
            Ok(file) => return Ok((staged, file)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound && tries < MAX_DIRECTORY_TRIES => {
                fs::create_dir_all(path.parent().unwrap_or(path))?;
                tries += 1;
            }
            Err(e) => return Err(e),
        }
    }
}

fn sync_existing(root: &FsPath, path: &FsPath) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    sync_directories(root, path)
}

/// Syncs the directories from the file up to the root, so that new names on the way last too.
fn sync_directories(root: &FsPath, path: &FsPath) -> io::Result<()> {
    for directory in path.ancestors().skip(1) {
        File::open(directory)?.sync_all()?;
        if directory == root {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;

    use super::*;

    #[tokio::test]
    async fn behaves_as_an_object_store() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = DurableLocal::new(dir.path().join("new/root")).expect("opens");
        let key = Path::from("a*b/c/d.json");
        store.put_opts(&key, "1".into(), PutMode::Create.into()).await.expect("creates");
        let again = store.put_opts(&key, "2".into(), PutMode::Create.into()).await;
        assert!(matches!(again, Err(object_store::Error::AlreadyExists { .. })), "{again:?}");
        assert_eq!(store.get(&key).await.expect("reads").bytes().await.expect("reads"), "1");
        store.put(&key, "3".into()).await.expect("overwrites");
        let mut upload = store.put_multipart(&Path::from("a*b/big")).await.expect("begins");
        upload.put_part("xy".into()).await.expect("writes");
        upload.complete().await.expect("ends");
        assert_eq!(store.get_range(&key, 0..1).await.expect("reads"), "3");
        let mut names: Vec<String> = store.list(None).map_ok(|o| o.location.to_string()).try_collect().await.expect("lists");
        names.sort();
        assert_eq!(names, ["a%2Ab/big", "a%2Ab/c/d.json"]);
        assert!(matches!(store.get(&Path::from("none")).await, Err(object_store::Error::NotFound { .. })));
        let left = || fs::read_dir(dir.path().join("new/root")).expect("lists").count();
        assert_eq!(left(), 1);
        store.delete(&key).await.expect("deletes");
        store.delete(&Path::from("a*b/big")).await.expect("deletes");
        assert_eq!(left(), 0, "empty directories are removed");
        store.put(&key, "4".into()).await.expect("makes the directories again");
    }

    #[test]
    fn sweeps_what_was_never_finished() {
        let dir = tempfile::tempdir().expect("a directory");
        let block = dir.path().join("t/blocks/b");
        fs::create_dir_all(&block).expect("makes");
        for name in ["chunks.parquet#120000000001", "chunks.parquet#1x", "meta.json"] {
            fs::write(block.join(name), "x").expect("writes");
        }
        sweep(dir.path(), Duration::from_secs(60));
        assert_eq!(fs::read_dir(&block).expect("lists").count(), 3, "young files stay");
        sweep(dir.path(), Duration::ZERO);
        assert_eq!(fs::read_dir(&block).expect("lists").count(), 2);
        fs::remove_file(block.join("chunks.parquet#1x")).expect("removes");
        fs::rename(block.join("meta.json"), block.join("meta.json#7")).expect("renames");
        sweep(dir.path(), Duration::ZERO);
        assert!(!block.exists(), "a folder that has become empty goes too");
    }
}
