//! Finds series by the hash of their label bytes.
//!
//! Senders of remote write 1.0 send labels as they stand on the wire, and most send the same bytes each time: those are
//! hashed as they are. A series has at most two entries: one for its canonical bytes and one for the wire bytes that any sender
//! with sorted labels makes of them. Other spellings are made canonical each time, so that they cannot fill the table.

use std::sync::OnceLock;

use hashbrown::HashTable;
use highway::{HighwayHash, HighwayHasher, Key};
use isobar_block::LabelsRef;

use super::page::{LabelHash, SeriesRef};
use crate::decoded::LabelForm;

/// Hash with a key that is drawn once per process, so that nobody can make label sets that collide.
#[inline]
pub fn hash(form: LabelForm, bytes: &[u8]) -> LabelHash {
    static KEYS: OnceLock<[Key; 2]> = OnceLock::new();
    let keys = KEYS.get_or_init(|| [Key(rand::random()), Key(rand::random())]);
    // The same bytes may mean different labels in the two forms: they have different keys.
    let key = match form {
        LabelForm::Wire => Key(keys[0].0),
        LabelForm::Canonical => Key(keys[1].0),
    };
    HighwayHasher::new(key).hash128(bytes)
}

/// Whether wire bytes are those that any sender makes of sorted labels.
pub fn is_normal_wire(bytes: &[u8], labels: LabelsRef<'_>, scratch: &mut Vec<u8>) -> bool {
    scratch.clear();
    for (name, value) in labels.iter() {
        let field = |text: &str| 1 + varint_len(text.len()) + text.len();
        scratch.push(0x0a);
        push_varint(scratch, field(name) + field(value));
        for (tag, text) in [(0x0a, name), (0x12, value)] {
            scratch.push(tag);
            push_varint(scratch, text.len());
            scratch.extend_from_slice(text.as_bytes());
        }
    }
    *scratch == bytes
}

fn varint_len(n: usize) -> usize {
    (n.max(1).ilog2() as usize) / 7 + 1
}

fn push_varint(out: &mut Vec<u8>, mut n: usize) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// The table.
#[derive(Debug, Default)]
pub struct Lookup {
    table: HashTable<(LabelHash, SeriesRef)>,
    /// The number of the next new series.
    pub next: u32,
    /// Series that have not left the head.
    pub live: usize,
}

impl Lookup {
    /// The series whose label bytes have that hash.
    #[inline]
    pub fn get(&self, hash: LabelHash) -> Option<SeriesRef> {
        self.table.find(hash[0], |(h, _)| *h == hash).map(|(_, series)| *series)
    }

    /// Adds an entry.
    pub fn insert(&mut self, hash: LabelHash, series: SeriesRef) {
        self.table.insert_unique(hash[0], (hash, series), |(h, _)| h[0]);
    }

    /// Removes the entries of all series for which `gone` says so.
    pub fn remove_gone(&mut self, gone: impl Fn(SeriesRef) -> bool) {
        self.table.retain(|(_, series)| !gone(*series));
    }

    /// Memory of the table.
    pub fn heap_bytes(&self) -> usize {
        self.table.capacity() * (size_of::<(LabelHash, SeriesRef)>() + 1)
    }
}

#[cfg(test)]
mod tests {
    use isobar_block::Labels;

    use super::*;

    #[test]
    fn knows_the_normal_wire_form() {
        let long = "v".repeat(200);
        let labels = Labels::from_pairs([("__name__", "up"), ("job", long.as_str())]).expect("valid");
        let mut wire = vec![0x0a, 14, 0x0a, 8];
        wire.extend_from_slice(b"__name__\x12\x02up");
        wire.extend_from_slice(&[0x0a, 0xd0, 0x01, 0x0a, 3]);
        wire.extend_from_slice(b"job\x12\xc8\x01");
        wire.extend_from_slice(long.as_bytes());
        assert!(is_normal_wire(&wire, labels.as_ref(), &mut Vec::new()));
        wire[2] = 0x12;
        assert!(!is_normal_wire(&wire, labels.as_ref(), &mut Vec::new()));
    }

    #[test]
    fn forms_do_not_collide() {
        assert_ne!(hash(LabelForm::Wire, b"x"), hash(LabelForm::Canonical, b"x"));
        assert_eq!(hash(LabelForm::Wire, b"x"), hash(LabelForm::Wire, b"x"));
    }
}
