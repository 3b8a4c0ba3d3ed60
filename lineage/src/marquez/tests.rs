//! Ids and times.

use super::*;

#[test]
fn ids_of_versions_depend_on_the_names_only() {
    let one = uuid(&["dataset", "a", "b"]);
    assert_eq!(one, uuid(&["dataset", "a", "b"]));
    assert!(id::is_uuid(&one) && &one[14..15] == "8" && ["8", "9", "a", "b"].contains(&&one[19..20]), "{one}");
    assert!(one != uuid(&["dataset", "ab", ""]) && one != uuid(&["dataset", "a", "c"]) && one != uuid(&["dataset", "a", "b", ""]));
}

#[test]
fn times_are_written_as_marquez_does() {
    assert_eq!((iso(0), iso(1_767_312_000_123)), ("1970-01-01T00:00:00.000Z".into(), "2026-01-02T00:00:00.123Z".into()));
    assert_eq!(iso_or_null(None), Value::Null);
}
