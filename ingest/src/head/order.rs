//! Compares canonical label bytes in the order of blocks and results, without parsing what both have in common.

use std::cmp::Ordering;

use isobar_block::LabelsRef;
use isobar_block::labels::METRIC_NAME;

/// As `a.cmp(&b)`.
pub fn compare(a: LabelsRef<'_>, b: LabelsRef<'_>) -> Ordering {
    let (x, y) = (a.as_bytes(), b.as_bytes());
    if !begins_with_name(x) || !begins_with_name(y) {
        return a.cmp(&b);
    }
    let common = common_prefix(x, y);
    let mut at = 0;
    // Labels that end within the common bytes are equal on both sides.
    while let Some(next) = label_end(x, at).filter(|end| *end <= common) {
        at = next;
    }
    match (x.len() == at, y.len() == at) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => {
            let ((name_x, value_x), (name_y, value_y)) = (label(x, at), label(y, at));
            (name_x, value_x).cmp(&(name_y, value_y))
        }
    }
}

fn begins_with_name(bytes: &[u8]) -> bool {
    bytes.first().copied() == Some(METRIC_NAME.len() as u8) && bytes[1..].starts_with(METRIC_NAME.as_bytes())
}

fn common_prefix(x: &[u8], y: &[u8]) -> usize {
    let len = x.len().min(y.len());
    let mut at = 0;
    while at + 8 <= len {
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let difference = word(x) ^ word(y);
        if difference != 0 {
            return at + difference.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + x[at..len].iter().zip(&y[at..len]).take_while(|(a, b)| a == b).count()
}

/// Begin and end of the length-prefixed part that starts at `at`.
fn part(bytes: &[u8], mut at: usize) -> (usize, usize) {
    let mut len = 0usize;
    let mut shift = 0;
    loop {
        let byte = bytes[at];
        at += 1;
        len |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return (at, at + len);
        }
        shift += 7;
    }
}

fn label_end(bytes: &[u8], at: usize) -> Option<usize> {
    if at == bytes.len() {
        return None;
    }
    let (_, name_end) = part(bytes, at);
    Some(part(bytes, name_end).1)
}

fn label(bytes: &[u8], at: usize) -> (&[u8], &[u8]) {
    let (name, name_end) = part(bytes, at);
    let (value, value_end) = part(bytes, name_end);
    (&bytes[name..name_end], &bytes[value..value_end])
}

#[cfg(test)]
mod tests {
    use isobar_block::Labels;
    use proptest::prelude::*;

    use super::*;

    fn labels() -> impl Strategy<Value = Labels> {
        proptest::collection::btree_map("A|__name__|a|ab|z", "a{0,3}|b|x{120,140}", 0..4)
            .prop_map(|m| Labels::from_pairs(m).expect("valid"))
    }

    proptest! {
        #[test]
        fn agrees_with_the_order_of_labels(a in labels(), b in labels()) {
            prop_assert_eq!(compare(a.as_ref(), b.as_ref()), a.cmp(&b));
        }
    }
}
