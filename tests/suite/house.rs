//! Rules of the house that a machine can check: arrows between crates, file lengths, module docs, licences, duplicates.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use isobar_tests::process::project;
use serde_json::Value;

/// What each crate may depend on of the others.
const ARROWS: &[(&str, &[&str])] = &[
    ("isobar-block", &[]),
    ("isobar-ingest", &["isobar-block"]),
    ("isobar-compactor", &["isobar-block"]),
    ("isobar-query", &["isobar-block"]),
    ("isobar-lineage", &["isobar-block"]),
    ("isobar", &["isobar-block", "isobar-compactor", "isobar-ingest", "isobar-lineage", "isobar-query"]),
    ("isobar-tests", &["isobar-block", "isobar-compactor", "isobar-ingest", "isobar-query"]),
];

/// Longest source file.
const FILE_LINES: usize = 600;

/// Licences that may be linked into a binary under Apache-2.0.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "0BSD",
    "CC0-1.0",
    "Unicode-3.0",
    "Unlicense",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "bzip2-1.0.6",
];

/// Crates that take long to build or whose types must be one.
const HEAVY: &[&str] = &[
    "arrow",
    "arrow-array",
    "axum",
    "bytes",
    "datafusion",
    "hyper",
    "object_store",
    "parquet",
    "prost",
    "regex",
    "reqwest",
    "rustls",
    "tokio",
    "zstd-sys",
];

fn metadata() -> Value {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--format-version=1", "--locked", "--filter-platform", &platform]).current_dir(project());
    let output = command.output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("metadata is JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("")
}

fn packages(metadata: &Value) -> &Vec<Value> {
    metadata["packages"].as_array().expect("packages")
}

#[test]
fn arrows_between_crates_point_down() {
    let metadata = metadata();
    let ours: Vec<&Value> = packages(&metadata).iter().filter(|p| p["source"].is_null()).collect();
    assert_eq!(ours.len(), ARROWS.len(), "every crate stands in the list of arrows");
    for package in ours {
        let name = text(package, "name");
        let allowed = ARROWS.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("{name} is not in the list of arrows")).1;
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let other = text(dependency, "name");
            assert!(!other.starts_with("isobar") || allowed.contains(&other), "{name} must not depend on {other}");
        }
    }
}

fn licence_allowed(expression: &str) -> bool {
    let alternatives = expression.replace(['(', ')'], " ").replace('/', " OR ");
    alternatives.split(" OR ").any(|all| all.split(" AND ").all(|one| LICENCES.contains(&one.trim())))
}

#[test]
fn licences_of_dependencies_are_allowed() {
    assert!(licence_allowed("MIT OR GPL-3.0") && !licence_allowed("GPL-3.0") && !licence_allowed("MIT AND GPL-3.0"));
    let metadata = metadata();
    let bad: Vec<String> = packages(&metadata)
        .iter()
        .filter(|p| !licence_allowed(text(p, "license")))
        .map(|p| format!("{} {}: {:?}", text(p, "name"), text(p, "version"), text(p, "license")))
        .collect();
    assert!(bad.is_empty(), "licences that are not on the list: {bad:#?}");
}

#[test]
fn heavy_crates_are_there_once() {
    let metadata = metadata();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages(&metadata) {
        versions.entry(text(package, "name")).or_default().insert(text(package, "version"));
    }
    for name in HEAVY {
        assert_eq!(versions.get(name).map_or(0, BTreeSet::len), 1, "{name}: {:?}", versions.get(name));
    }
    for package in packages(&metadata) {
        let registry = package["source"].as_str().is_none_or(|s| s.starts_with("registry+"));
        assert!(registry, "{} does not come from the registry", text(package, "name"));
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("folder is readable") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && name != "fuzz" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn files_say_what_they_are_and_stay_short() {
    let mut files = Vec::new();
    for folder in ["block", "ingest", "compactor", "query", "lineage", "ui", "tests"] {
        sources(&project().join(folder), &mut files);
    }
    assert!(files.len() > 20, "sources were found");
    let mut wrong = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("source is UTF-8");
        if !text.starts_with("//!") {
            wrong.push(format!("{} does not begin with //!", file.display()));
        }
        if text.lines().count() > FILE_LINES {
            wrong.push(format!("{} has {} lines, more than {FILE_LINES}", file.display(), text.lines().count()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_crate_uses_the_lint_table() {
    for folder in ["block", "ingest", "compactor", "query", "lineage", "ui", "tests"] {
        let manifest = std::fs::read_to_string(project().join(folder).join("Cargo.toml")).expect("manifest");
        assert!(manifest.contains("[lints]\nworkspace = true"), "{folder}/Cargo.toml does not opt into the lint table");
    }
}
