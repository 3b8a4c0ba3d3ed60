//! The name of a node, and its textual id: reversible for every name that anybody can think of.
//!
//! An id is `kind:part/part/…`. In a part, `%`, `/`, and control characters stand as `%XX` of their UTF-8 bytes; everything else,
//! colons and letters of any script included, stands as it is. So two names are equal exactly if their ids are.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::sync::Arc;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, Result};

/// Longest part of a name, in bytes before escaping.
pub const MAX_PART_BYTES: usize = 64 * 1024;

/// Most parts of a name.
pub const MAX_PARTS: usize = 4;

/// Longest name of a kind, in bytes.
pub const MAX_KIND_BYTES: usize = 64;

/// A node's kind and name. The name has one to [`MAX_PARTS`] parts: usually a namespace and a name, for a column also the field.
/// A name without a namespace has one part.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKey(Arc<str>);

impl NodeKey {
    /// The node `name` in `namespace`, which may be empty.
    ///
    /// # Errors
    /// [`Error::Invalid`] as [`NodeKey::from_parts`].
    pub fn new(kind: &str, namespace: &str, name: &str) -> Result<Self> {
        if namespace.is_empty() { Self::from_parts(kind, &[name]) } else { Self::from_parts(kind, &[namespace, name]) }
    }

    /// The node with these parts; the last one is its name.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the kind has other characters than `a-z 0-9 _ . -` or does not begin with a letter or digit, if there are no or too many
    /// parts, or if a part is too long or the last one empty.
    pub fn from_parts(kind: &str, parts: &[&str]) -> Result<Self> {
        check_kind(kind)?;
        if parts.is_empty() || parts.len() > MAX_PARTS {
            return Err(Error::invalid("", format!("a name has {} parts; give 1 to {MAX_PARTS}", parts.len())));
        }
        if parts.last().is_some_and(|p| p.is_empty()) {
            return Err(Error::invalid("", format!("a node of kind {kind} has an empty name; give it one")));
        }
        if let Some(long) = parts.iter().find(|p| p.len() > MAX_PART_BYTES) {
            let reason = format!("a part of a name has {} bytes, more than {MAX_PART_BYTES}; shorten it", long.len());
            return Err(Error::invalid("", reason));
        }
        let mut id = String::with_capacity(kind.len() + 1 + parts.iter().map(|p| p.len() + 1).sum::<usize>());
        id.push_str(kind);
        for (i, part) in parts.iter().enumerate() {
            id.push(if i == 0 { ':' } else { '/' });
            escape(part, &mut id);
        }
        Ok(Self(id.into()))
    }

    /// The column `field` of a dataset.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the field is empty or too long, or the dataset's name has [`MAX_PARTS`] parts already.
    pub fn column(dataset: &Self, field: &str) -> Result<Self> {
        let parts = dataset.parts();
        let mut all: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        // A dataset without a namespace still has a place for it in its columns' names, so that they cannot be taken for datasets.
        if all.len() == 1 {
            all.insert(0, "");
        }
        all.push(field);
        Self::from_parts(super::kind::COLUMN, &all)
    }

    /// Reads a textual id. Escapes that are not needed are accepted and undone.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no kind, an escape is broken, or a rule of [`NodeKey::from_parts`] is.
    pub fn parse(id: &str) -> Result<Self> {
        let shown = || id.chars().take(100).collect::<String>();
        let Some((kind, rest)) = id.split_once(':') else {
            return Err(Error::invalid("", format!("{:?} is no node id; write kind:namespace/name, as in service:shop/payment", shown())));
        };
        if rest.len() > 3 * MAX_PARTS * (MAX_PART_BYTES + 1) {
            return Err(Error::invalid("", format!("node id {:?}… has {} bytes; shorten it", shown(), id.len())));
        }
        let parts: Option<Vec<Cow<str>>> = rest.split('/').map(unescape).collect();
        let Some(parts) = parts else {
            return Err(Error::invalid("", format!("node id {:?} has a broken escape; write % as %25 and / in a name as %2F", shown())));
        };
        Self::from_parts(kind, &parts.iter().map(AsRef::as_ref).collect::<Vec<_>>())
    }

    /// The textual id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What kind of node it is.
    pub fn kind(&self) -> &str {
        self.0.split_once(':').map_or("", |(kind, _)| kind)
    }

    /// The parts of the name, unescaped.
    pub fn parts(&self) -> Vec<Cow<'_, str>> {
        let name = self.0.split_once(':').map_or("", |(_, name)| name);
        name.split('/').map(|part| unescape(part).expect("a key is made of intact escapes")).collect()
    }

    /// The last part of the name.
    pub fn name(&self) -> Cow<'_, str> {
        let name = self.0.split_once(':').map_or("", |(_, name)| name);
        let last = name.rsplit_once('/').map_or(name, |(_, last)| last);
        unescape(last).expect("a key is made of intact escapes")
    }

    /// The first part of the name if it has more than one, else nothing.
    pub fn namespace(&self) -> Cow<'_, str> {
        let name = self.0.split_once(':').map_or("", |(_, name)| name);
        name.split_once('/').map_or(Cow::Borrowed(""), |(first, _)| unescape(first).expect("a key is made of intact escapes"))
    }
}

/// Refuses what cannot be the name of a kind.
pub(crate) fn check_kind(kind: &str) -> Result<()> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b);
    let first = kind.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if first && kind.len() <= MAX_KIND_BYTES && kind.bytes().all(inner) {
        return Ok(());
    }
    let shown: String = kind.chars().take(100).collect();
    Err(Error::invalid(
        "",
        format!("{shown:?} is no kind of node; use 1 to {MAX_KIND_BYTES} of a-z 0-9 _ . -, beginning with a letter or digit"),
    ))
}

/// Writes a part of a name as it stands in an id.
pub(crate) fn escape(part: &str, out: &mut String) {
    for c in part.chars() {
        if c == '%' || c == '/' || c.is_control() {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                let _ = write!(out, "%{byte:02X}");
            }
        } else {
            out.push(c);
        }
    }
}

fn unescape(part: &str) -> Option<Cow<'_, str>> {
    if !part.contains('%') {
        return Some(Cow::Borrowed(part));
    }
    let mut out = Vec::with_capacity(part.len());
    let mut bytes = part.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        out.push((high * 16 + low) as u8);
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({})", self.0)
    }
}

impl std::str::FromStr for NodeKey {
    type Err = Error;

    fn from_str(id: &str) -> Result<Self> {
        Self::parse(id)
    }
}

impl Serialize for NodeKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodeKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Id;
        impl Visitor<'_> for Id {
            type Value = NodeKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a node id such as service:shop/payment")
            }

            fn visit_str<E: de::Error>(self, id: &str) -> std::result::Result<NodeKey, E> {
                NodeKey::parse(id).map_err(|e| match e {
                    Error::Invalid { reason, .. } => E::custom(reason),
                    other => E::custom(other),
                })
            }
        }
        deserializer.deserialize_str(Id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(kind: &str, parts: &[&str]) -> String {
        let key = NodeKey::from_parts(kind, parts).expect("valid");
        assert_eq!(key.kind(), kind);
        assert_eq!(key.parts(), parts);
        assert_eq!(key.name(), *parts.last().expect("one part"));
        assert_eq!(key.namespace(), if parts.len() > 1 { parts[0] } else { "" });
        assert_eq!(NodeKey::parse(key.as_str()).expect("parses"), key);
        let json = serde_json::to_string(&key).expect("serializes");
        assert_eq!(serde_json::from_str::<NodeKey>(&json).expect("parses"), key);
        key.as_str().into()
    }

    #[test]
    fn hostile_names_survive() {
        assert_eq!(round_trip("service", &["shop", "payment"]), "service:shop/payment");
        assert_eq!(
            round_trip("dataset", &["postgres://wh:5432", "shop.public.orders"]),
            "dataset:postgres:%2F%2Fwh:5432/shop.public.orders"
        );
        assert_eq!(round_trip("column", &["", "orders", "a/b%2F:c"]), "column:/orders/a%2Fb%252F:c");
        assert_eq!(round_trip("job", &["Ünï-本番 🚀\u{0}\n"]), "job:Ünï-本番 🚀%00%0A");
        assert_eq!(round_trip("job", &["a:b:c"]), "job:a:b:c");
        assert_eq!(round_trip("job", &["\u{85}"]), "job:%C2%85");
        let long = "/".repeat(MAX_PART_BYTES);
        round_trip("topic", &[&long, &long]);
        assert!(NodeKey::new("topic", "", &"x".repeat(MAX_PART_BYTES + 1)).is_err());
    }

    #[test]
    fn what_is_no_id_is_refused_with_a_remedy() {
        for (id, word) in [
            ("payment", "kind:namespace/name"),
            ("Service:a", "no kind"),
            (":a", "no kind"),
            ("service:", "empty name"),
            ("service:a/", "empty name"),
            ("service:a%2", "escape"),
            ("service:a%ff", "escape"),
            ("service:a/b/c/d/e", "parts"),
        ] {
            let error = NodeKey::parse(id).expect_err(id).to_string();
            assert!(error.contains(word), "{id}: {error}");
        }
        assert_eq!(NodeKey::parse("service:%61/b%2f").expect("valid").as_str(), "service:a/b%2F");
    }

    #[test]
    fn a_column_knows_its_table() {
        let table = NodeKey::new("dataset", "s3://b", "k/x").expect("valid");
        assert_eq!(NodeKey::column(&table, "a").expect("valid").parts(), ["s3://b", "k/x", "a"]);
        let bare = NodeKey::new("dataset", "", "t").expect("valid");
        assert_eq!(NodeKey::column(&bare, "a").expect("valid").parts(), ["", "t", "a"]);
    }

    proptest! {
        #[test]
        fn every_name_comes_back(parts in proptest::collection::vec(".*", 1..=MAX_PARTS)) {
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            prop_assume!(!parts.last().expect("one").is_empty());
            round_trip("x", &parts);
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = NodeKey::parse(&text);
        }
    }
}
