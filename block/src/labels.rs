//! Label sets in one canonical byte form, so that equal sets are equal bytes.
//!
//! The form: for each label in ascending byte order of its name `varint(len name) name varint(len value) value`, where
//! `varint` is LEB128. Names are not empty and occur once; an empty value means that the label is absent, so it is never
//! encoded. Names and values are UTF-8.

mod order;

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::{Error, Result};

/// The label that holds the metric's name.
pub const METRIC_NAME: &str = "__name__";

/// An owned label set.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Labels(Arc<[u8]>);

/// A borrowed label set. The bytes are canonical; only checked constructors make one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LabelsRef<'a>(&'a [u8]);

impl Labels {
    /// The set without labels.
    pub fn empty() -> Self {
        Self(Arc::from(&[][..]))
    }

    /// Builds a set from pairs in any order. Pairs with an empty value are left out.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a name is empty or occurs twice.
    pub fn from_pairs<N: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (N, V)>) -> Result<Self> {
        let mut pairs: Vec<_> = pairs.into_iter().collect();
        pairs.sort_by(|a, b| a.0.as_ref().as_bytes().cmp(b.0.as_ref().as_bytes()));
        let mut bytes = Vec::with_capacity(pairs.iter().map(|(n, v)| n.as_ref().len() + v.as_ref().len() + 4).sum());
        for (i, (name, value)) in pairs.iter().enumerate() {
            let name = name.as_ref();
            if name.is_empty() {
                return Err(Error::invalid("label", "a label name is empty"));
            }
            if i > 0 && pairs[i - 1].0.as_ref() == name {
                return Err(Error::invalid("label", format!("label name {name:?} occurs twice")));
            }
            push_label(&mut bytes, name, value.as_ref());
        }
        Ok(Self(bytes.into()))
    }

    /// Takes bytes that are canonical already, after checking that they are.
    ///
    /// # Errors
    /// [`Error::Corrupt`] as [`LabelsRef::from_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        LabelsRef::from_bytes(bytes).map(LabelsRef::to_owned)
    }

    /// The set, borrowed.
    pub fn as_ref(&self) -> LabelsRef<'_> {
        LabelsRef(&self.0)
    }

    /// The canonical bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The value of a label, if it is set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.as_ref().get(name)
    }

    /// All labels, ascending by name.
    pub fn iter(&self) -> Iter<'_> {
        self.as_ref().iter()
    }
}

impl<'a> LabelsRef<'a> {
    /// The set without labels.
    pub const EMPTY: LabelsRef<'static> = LabelsRef(&[]);

    /// Checks that `bytes` are canonical.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if they are cut off, not UTF-8, not ascending, or hold an empty name or value.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self> {
        let corrupt = |reason: &str| Error::corrupt("label set", reason);
        let mut rest = bytes;
        let mut previous: Option<&[u8]> = None;
        while !rest.is_empty() {
            let name = take_checked(&mut rest).ok_or_else(|| corrupt("a label name is cut off or empty"))?;
            let value = take_checked(&mut rest).ok_or_else(|| corrupt("a label value is cut off or empty"))?;
            if std::str::from_utf8(name).is_err() || std::str::from_utf8(value).is_err() {
                return Err(corrupt("a label is not UTF-8"));
            }
            if previous.is_some_and(|p| p >= name) {
                return Err(corrupt("label names do not ascend"));
            }
            previous = Some(name);
        }
        Ok(Self(bytes))
    }

    /// Takes bytes whose canonical form was checked before, such as those of [`Labels::as_bytes`] or of a column that was
    /// filled from them.
    ///
    /// # Safety
    /// `bytes` must have passed [`LabelsRef::from_bytes`] or must have been made by this module.
    pub unsafe fn from_bytes_unchecked(bytes: &'a [u8]) -> Self {
        debug_assert!(Self::from_bytes(bytes).is_ok());
        Self(bytes)
    }

    /// The canonical bytes.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Whether no label is set.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// An owned copy.
    pub fn to_owned(self) -> Labels {
        Labels(self.0.into())
    }

    /// All labels, ascending by name.
    pub fn iter(self) -> Iter<'a> {
        Iter(self.0)
    }

    /// The value of a label, if it is set.
    pub fn get(self, name: &str) -> Option<&'a str> {
        for (n, v) in self.iter() {
            match n.as_bytes().cmp(name.as_bytes()) {
                Ordering::Less => {}
                Ordering::Equal => return Some(v),
                Ordering::Greater => return None,
            }
        }
        None
    }

    /// The metric's name, or "" where there is none.
    pub fn metric_name(self) -> &'a str {
        self.get(METRIC_NAME).unwrap_or("")
    }

    /// Appends the labels named in `names` (ascending) to `out`, in canonical form.
    pub fn keep_into(self, names: &[impl AsRef<str>], out: &mut Vec<u8>) {
        self.filter_into(names, true, out);
    }

    /// Appends the labels that are not named in `names` (ascending) to `out`, in canonical form.
    pub fn drop_into(self, names: &[impl AsRef<str>], out: &mut Vec<u8>) {
        self.filter_into(names, false, out);
    }

    fn filter_into(self, names: &[impl AsRef<str>], keep: bool, out: &mut Vec<u8>) {
        let mut wanted = names.iter().map(|n| n.as_ref().as_bytes()).peekable();
        let mut rest = self.0;
        while !rest.is_empty() {
            let whole = rest;
            let name = take(&mut rest);
            take(&mut rest);
            while wanted.next_if(|w| *w < name).is_some() {}
            if wanted.peek().is_some_and(|w| *w == name) == keep {
                out.extend_from_slice(&whole[..whole.len() - rest.len()]);
            }
        }
    }
}

impl Ord for Labels {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_ref().cmp(&other.as_ref())
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for LabelsRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.metric_name())?;
        f.write_str("{")?;
        for (i, (name, value)) in self.iter().filter(|(n, _)| *n != METRIC_NAME).enumerate() {
            write!(f, "{}{name}={value:?}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str("}")
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

impl fmt::Debug for LabelsRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Labels as (name, value), ascending by name.
#[derive(Clone)]
pub struct Iter<'a>(&'a [u8]);

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let name = take(&mut self.0);
        let value = take(&mut self.0);
        // SAFETY: every constructor of a label set has checked that names and values are UTF-8.
        unsafe { Some((std::str::from_utf8_unchecked(name), std::str::from_utf8_unchecked(value))) }
    }
}

/// Appends one label in canonical form; one with an empty value is left out. The caller appends in ascending order of names.
pub fn push_label(out: &mut Vec<u8>, name: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    for part in [name, value] {
        push_varint(out, part.len());
        out.extend_from_slice(part.as_bytes());
    }
}

fn push_varint(out: &mut Vec<u8>, mut n: usize) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// The next length-prefixed part of bytes that are known to be canonical.
fn take<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let mut len = 0usize;
    let mut shift = 0;
    let mut used = 0;
    loop {
        let byte = rest[used];
        used += 1;
        len |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
        shift += 7;
    }
    let (part, tail) = rest[used..].split_at(len);
    *rest = tail;
    part
}

/// As [`take`] for bytes that may be anything: `None` if they are cut off, empty or not the shortest form.
fn take_checked<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut len = 0usize;
    for used in 0..4 {
        let byte = *rest.get(used)?;
        len |= usize::from(byte & 0x7f) << (7 * used);
        if byte < 0x80 {
            let tail = &rest[used + 1..];
            if len == 0 || len > tail.len() || (used > 0 && byte == 0) {
                return None;
            }
            *rest = &tail[len..];
            return Some(&tail[..len]);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        Labels::from_pairs(pairs.iter().copied()).expect("valid labels")
    }

    #[test]
    fn canonical_form_ignores_order_and_empty_values() {
        let a = labels(&[("job", "x"), ("__name__", "up"), ("gone", "")]);
        assert_eq!(a, labels(&[("__name__", "up"), ("job", "x")]));
        assert_eq!(a.to_string(), "up{job=\"x\"}");
        assert_eq!(Labels::from_bytes(a.as_bytes()).expect("canonical"), a);
        assert_eq!(a.get("job"), Some("x"));
        assert_eq!(a.get("zone"), None);
    }

    #[test]
    fn refuses_what_is_not_canonical() {
        assert!(Labels::from_pairs([("a", "1"), ("a", "2")]).is_err());
        assert!(Labels::from_pairs([("", "1")]).is_err());
        for bytes in [
            &[1u8][..],
            &[1, b'a', 0],
            &[0, 1, b'a'],
            &[1, b'b', 1, b'1', 1, b'a', 1, b'1'],
            &[1, 0xff, 1, b'a'],
            &[0x81, 0x00, b'a', 1, b'x'],
        ] {
            assert!(Labels::from_bytes(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn orders_by_name_first() {
        let sorted = [
            labels(&[("A", "9"), ("__name__", "a")]),
            labels(&[("__name__", "a")]),
            labels(&[("__name__", "a"), ("b", "1")]),
            labels(&[("__name__", "a"), ("b", "1"), ("c", "1")]),
            labels(&[("__name__", "a"), ("b", "10")]),
            labels(&[("__name__", "b"), ("a", "1")]),
        ];
        assert!(sorted.is_sorted(), "{sorted:?}");
    }

    #[test]
    fn keeps_and_drops() {
        let l = labels(&[("__name__", "m"), ("a", "1"), ("b", "2"), ("c", "3")]);
        let mut kept = Vec::new();
        l.as_ref().keep_into(&["a", "c", "d"], &mut kept);
        assert_eq!(Labels::from_bytes(&kept).expect("canonical"), labels(&[("a", "1"), ("c", "3")]));
        let mut rest = Vec::new();
        l.as_ref().drop_into(&["__name__", "b"], &mut rest);
        assert_eq!(rest, kept);
    }
}
