//! The files below a folder that can be imported: bounded in depth, number and size, and never outside the folder.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{MAX_FILE_BYTES, MAX_FILES, MAX_IMPORT_BYTES, SourceFile, systemd};
use crate::state::recent::RecentIds;
use crate::{Error, Result};

/// Deepest folder below the one that is imported.
pub const MAX_DEPTH: usize = 16;

/// Most entries of folders that are looked at, whatever they are.
pub const MAX_ENTRIES: usize = 200_000;

/// What is in a folder.
#[derive(Debug, Default)]
pub struct Collected {
    /// Files that can be imported, by path.
    pub files: Vec<SourceFile>,
    /// Files that could not be read, by path.
    pub problems: Vec<(String, Error)>,
}

struct Walk {
    /// The folder's real path; links are followed to files in it.
    root: PathBuf,
    /// Texts are not read; only what tells whether they have changed.
    only_state: bool,
    entries: usize,
    bytes: usize,
    out: Collected,
}

/// The file at `path`, or the files in the folder there and below. Hidden files and folders are left out.
///
/// Links to files in the folder are followed, as Kubernetes mounts ConfigMaps; links to folders and to what is outside are not. Of
/// links between unit files the target is kept, wherever it is.
///
/// # Errors
/// [`Error::Invalid`] if the path cannot be read, or if there are too many files or bytes.
pub fn collect(path: &Path) -> Result<Collected> {
    let mut walk = walk(path, false)?;
    walk.out.files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(walk.out)
}

/// A number that is another one when the names, sizes or times of the files that [`collect`] reads have changed.
///
/// # Errors
/// As [`collect`].
pub fn state(path: &Path) -> Result<u128> {
    let walk = walk(path, true)?;
    let mut paths: Vec<_> = walk.out.files.iter().map(|f| (&f.path, &f.content, &f.link)).collect();
    paths.sort_unstable();
    Ok(RecentIds::hash(&format!("{paths:?} {:?}", walk.out.problems)))
}

fn walk(path: &Path, only_state: bool) -> Result<Walk> {
    let shown = path.display().to_string();
    let unreadable = |e: std::io::Error| Error::invalid(&*shown, e.to_string());
    let root = fs::canonicalize(path).map_err(unreadable)?;
    let mut walk = Walk { root, only_state, entries: 0, bytes: 0, out: Collected::default() };
    if fs::metadata(&walk.root).map_err(unreadable)?.is_dir() {
        let root = walk.root.clone();
        walk.folder(&root, "", 0)?;
    } else {
        let name = path.file_name().map_or(shown.clone(), |n| n.to_string_lossy().into_owned());
        let content = walk.content(&walk.root).map_err(|e| e.within(&shown))?;
        walk.out.files.push(SourceFile { path: name, content, link: None });
    }
    Ok(walk)
}

impl Walk {
    fn folder(&mut self, folder: &Path, prefix: &str, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            let error = Error::invalid("", format!("is more than {MAX_DEPTH} folders deep; import it by itself"));
            self.out.problems.push((prefix.trim_end_matches('/').into(), error));
            return Ok(());
        }
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => {
                self.out.problems.push((prefix.trim_end_matches('/').into(), Error::invalid("", error.to_string())));
                return Ok(());
            }
        };
        for entry in entries.flatten() {
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(Error::invalid("", format!("there are more than {MAX_ENTRIES} files; import a folder of fewer")));
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let (path, shown) = (entry.path(), format!("{prefix}{name}"));
            let Ok(kind) = entry.file_type() else { continue };
            if name.starts_with('.') {
                continue;
            } else if kind.is_dir() {
                self.folder(&path, &format!("{shown}/"), depth + 1)?;
            } else if kind.is_symlink() {
                self.link(&path, shown)?;
            } else if kind.is_file() && may_be_imported(&shown) {
                self.file(&path, shown, None)?;
            }
        }
        Ok(())
    }

    fn link(&mut self, path: &Path, shown: String) -> Result<()> {
        let target = fs::read_link(path).map(|t| t.to_string_lossy().into_owned()).unwrap_or_default();
        let unit = systemd::is_unit_path(&shown);
        let inside = fs::canonicalize(path).is_ok_and(|real| real.starts_with(&self.root) && real.is_file());
        if inside && may_be_imported(&shown) {
            self.file(path, shown, unit.then_some(target))
        } else if unit {
            self.push(SourceFile { path: shown, content: String::new(), link: Some(target) })
        } else {
            Ok(())
        }
    }

    fn file(&mut self, path: &Path, shown: String, link: Option<String>) -> Result<()> {
        match self.content(path) {
            Ok(content) => self.push(SourceFile { path: shown, content, link }),
            Err(error) => {
                self.out.problems.push((shown.clone(), error.within(&shown)));
                Ok(())
            }
        }
    }

    /// The text of a file, or what tells whether it has changed.
    fn content(&self, path: &Path) -> Result<String> {
        if !self.only_state {
            return text(path);
        }
        let unreadable = |e: std::io::Error| Error::invalid("", e.to_string());
        let metadata = fs::metadata(path).map_err(unreadable)?;
        Ok(format!("{} {:?} {}.{}", metadata.len(), metadata.modified().ok(), metadata.ctime(), metadata.ctime_nsec()))
    }

    fn push(&mut self, file: SourceFile) -> Result<()> {
        self.bytes += file.content.len();
        if self.out.files.len() >= MAX_FILES || self.bytes > MAX_IMPORT_BYTES {
            let reason = format!("there are more than {MAX_FILES} files or {MAX_IMPORT_BYTES} bytes; import folders of fewer");
            return Err(Error::invalid("", reason));
        }
        self.out.files.push(file);
        Ok(())
    }
}

/// Whether a file of this name can be one that is imported. Others in a folder are none of ours.
fn may_be_imported(path: &str) -> bool {
    let extension = path.rsplit_once('.').map_or("", |(_, e)| e);
    matches!(extension, "yaml" | "yml" | "json") || systemd::is_unit_path(path)
}

fn text(path: &Path) -> Result<String> {
    let unreadable = |e: std::io::Error| Error::invalid("", e.to_string());
    let bytes = fs::metadata(path).map_err(unreadable)?.len();
    if bytes > MAX_FILE_BYTES as u64 {
        return Err(Error::invalid("", format!("has {bytes} bytes, more than {MAX_FILE_BYTES}; split it")));
    }
    String::from_utf8(fs::read(path).map_err(unreadable)?).map_err(|_| Error::invalid("", "is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_outside_the_folder_is_read() {
        let outside = tempfile::tempdir().expect("a folder");
        fs::write(outside.path().join("secret.yaml"), "a: 1").expect("written");
        let inside = tempfile::tempdir().expect("a folder");
        let root = inside.path();
        for folder in ["..2026", "a/b", ".git", "multi-user.target.wants"] {
            fs::create_dir_all(root.join(folder)).expect("made");
        }
        for (path, content) in
            [("..2026/shop.yaml", "a: 2"), ("a/b/c.json", "{}"), (".git/x.yaml", ""), ("README.md", ""), ("web.service", "[Unit]")]
        {
            fs::write(root.join(path), content).expect("written");
        }
        fs::write(root.join("bad.yaml"), [0xff, 0xfe]).expect("written");
        for (target, link) in [
            ("..2026/shop.yaml".into(), "shop.yaml"),
            (outside.path().join("secret.yaml"), "secret.yaml"),
            (outside.path().to_path_buf(), "elsewhere"),
            (root.to_path_buf(), "a/loop"),
            (PathBuf::from("/nowhere/db.service"), "multi-user.target.wants/db.service"),
        ] {
            symlink(target, root.join(link)).expect("linked");
        }
        let found = collect(root).expect("readable");
        let names: Vec<_> = found.files.iter().map(|f| (f.path.as_str(), f.content.as_str(), f.link.as_deref())).collect();
        assert_eq!(
            names,
            [
                ("a/b/c.json", "{}", None),
                ("multi-user.target.wants/db.service", "", Some("/nowhere/db.service")),
                ("shop.yaml", "a: 2", None),
                ("web.service", "[Unit]", None)
            ]
        );
        assert_eq!(found.problems.len(), 1);
        assert_eq!(found.problems[0].1.to_string(), "bad.yaml: is not UTF-8 text");
        assert!(collect(&root.join("none")).expect_err("is not there").to_string().contains("none: "));
        assert_eq!(collect(&root.join("web.service")).expect("is there").files[0].path, "web.service");
    }
}
