//! Names of OpenLineage as nodes, and the scopes under which its events speak.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use super::read::At;
use crate::model::{NodeKey, kind};
use crate::{Error, Result};

/// The source of every event that is made of OpenLineage.
pub const SOURCE: &str = "openlineage";

/// Longest scope that is written in full.
const SCOPE_BYTES: usize = 1024;

/// Namespaces of topics begin so.
const TOPICS: &str = "kafka://";

/// A dataset, or a topic, by its namespace and name.
///
/// # Errors
/// [`Error::Invalid`] as [`NodeKey::new`].
pub fn dataset(namespace: &str, name: &str) -> Result<NodeKey> {
    NodeKey::new(if namespace.starts_with(TOPICS) { kind::TOPIC } else { kind::DATASET }, namespace, name)
}

/// A job by its namespace and name.
///
/// # Errors
/// [`Error::Invalid`] as [`NodeKey::new`].
pub fn job(namespace: &str, name: &str) -> Result<NodeKey> {
    NodeKey::new(kind::JOB, namespace, name)
}

/// The namespace and name in an object.
pub(super) fn name_at<'v>(at: &At<'_, 'v>) -> Result<(&'v str, &'v str)> {
    Ok((at.text_of("namespace")?, at.text_of("name")?))
}

/// The dataset that an object names.
pub(super) fn dataset_at(at: &At) -> Result<NodeKey> {
    let (namespace, name) = name_at(at)?;
    dataset(namespace, name).map_err(|e| e.within(&at.path()))
}

/// The job that an object names.
pub(super) fn job_at(at: &At) -> Result<NodeKey> {
    let (namespace, name) = name_at(at)?;
    job(namespace, name).map_err(|e| e.within(&at.path()))
}

/// A column of a dataset, named at some place.
pub(super) fn column_at(dataset: &NodeKey, field: &str, at: &At) -> Result<NodeKey> {
    NodeKey::column(dataset, field).map_err(|e| e.within(&at.path()))
}

/// Under which scope the runs of a job speak, and what runs say of a dataset.
pub fn runs_scope(node: &NodeKey) -> String {
    scope("runs", node)
}

/// Under which scope a JobEvent or a DatasetEvent speaks. The next one of the same job or dataset replaces what it has said.
pub fn static_scope(node: &NodeKey) -> String {
    scope("static", node)
}

/// Under which scope a dataset's former name is kept. A name has gone over to at most one other one.
pub fn renamed_scope(node: &NodeKey) -> String {
    scope("renamed", node)
}

fn scope(of: &str, node: &NodeKey) -> String {
    let id = node.as_str();
    if id.len() <= SCOPE_BYTES {
        return format!("{of}/{id}");
    }
    let mut end = SCOPE_BYTES;
    while !id.is_char_boundary(end) {
        end -= 1;
    }
    format!("{of}/{}#{:032x}", &id[..end], hash(id.as_bytes()))
}

/// 128 bits that tell texts apart. The same in all processes of a release; another release may at worst store an event again.
pub(super) fn hash(bytes: &[u8]) -> u128 {
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    (u128::from(hasher.hash_one((0_u8, bytes))) << 64) | u128::from(hasher.hash_one((1_u8, bytes)))
}

/// A UUID in lower case.
pub(super) fn uuid_at(at: &At) -> Result<String> {
    let text = at.text()?;
    let groups: Vec<&str> = text.split('-').collect();
    let right = groups.iter().map(|g| g.len()).eq([8, 4, 4, 4, 12]) && groups.iter().all(|g| g.bytes().all(|b| b.is_ascii_hexdigit()));
    if right { Ok(text.to_ascii_lowercase()) } else { Err(not_a_uuid(at, text)) }
}

fn not_a_uuid(at: &At, text: &str) -> Error {
    let shown: String = text.chars().take(80).collect();
    at.wrong(format!("{shown:?} is no UUID; write it as in 01a200c5-b4cc-774c-bb18-7a9dc329eb5f"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_survive_and_long_scopes_are_shortened() {
        let key = dataset("postgres://db:5432", "shop.public.orders").expect("valid");
        assert_eq!(key.as_str(), "dataset:postgres:%2F%2Fdb:5432/shop.public.orders");
        assert_eq!(dataset("kafka://b:9092", "orders").expect("valid").kind(), "topic");
        let long = "ü/:".repeat(16_000);
        let key = dataset(&long, &long).expect("valid");
        assert_eq!((key.namespace().as_ref(), key.name().as_ref()), (long.as_str(), long.as_str()));
        let other = dataset(&long, &format!("{long}x")).expect("valid");
        assert!(runs_scope(&key).len() < 1200 && runs_scope(&key) != runs_scope(&other) && runs_scope(&key) != static_scope(&key));
    }

    #[test]
    fn run_ids_are_uuids() {
        let good = json!("01A200C5-b4cc-774c-bb18-7a9dc329eb5f");
        assert_eq!(uuid_at(&At::root(&good)).expect("valid"), "01a200c5-b4cc-774c-bb18-7a9dc329eb5f");
        for bad in [json!("1"), json!("01a200c5-b4cc-774c-bb18-7a9dc329eb5g"), json!(7), json!("01a200c5b4cc774cbb187a9dc329eb5f-")] {
            assert!(uuid_at(&At::root(&bad)).is_err(), "{bad}");
        }
    }
}
