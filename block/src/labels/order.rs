//! The order in which blocks and results hold series.

use std::cmp::Ordering;

use super::{LabelsRef, METRIC_NAME};

/// By metric name, then label by label (name, then value; the metric's name has its place among them), a set before those that
/// it begins.
impl Ord for LabelsRef<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.cmp_without(*other, &[])
    }
}

impl PartialOrd for LabelsRef<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl LabelsRef<'_> {
    /// The order of both as if neither had any of the labels in `without`, among which the metric's name must not be.
    pub fn cmp_without(self, other: LabelsRef<'_>, without: &[String]) -> Ordering {
        if self.0 == other.0 {
            return Ordering::Equal;
        }
        // Neighbours in the order have most labels in common, and these need not be looked at one by one.
        let (has_name, a_rest, b_rest) = without_common(self, other);
        let by_name = if has_name { Ordering::Equal } else { self.metric_name().as_bytes().cmp(other.metric_name().as_bytes()) };
        by_name.then_with(|| {
            let counts = |(name, _): &(&str, &str)| !without.iter().any(|w| w == name);
            let (mut a, mut b) = (a_rest.iter().filter(counts), b_rest.iter().filter(counts));
            loop {
                match (a.next(), b.next()) {
                    (None, None) => return Ordering::Equal,
                    (None, Some(_)) => return Ordering::Less,
                    (Some(_), None) => return Ordering::Greater,
                    (Some(x), Some(y)) => match (x.0.as_bytes(), x.1.as_bytes()).cmp(&(y.0.as_bytes(), y.1.as_bytes())) {
                        Ordering::Equal => {}
                        unequal => return unequal,
                    },
                }
            }
        })
    }
}

/// What follows on the labels that both begin with, and whether the metric's name is among those.
fn without_common<'a>(a: LabelsRef<'a>, b: LabelsRef<'a>) -> (bool, LabelsRef<'a>, LabelsRef<'a>) {
    let common = common_bytes(a.0, b.0);
    let mut same = 0;
    let mut has_name = false;
    for (name, value) in a.iter() {
        let end = value.as_ptr() as usize + value.len() - a.0.as_ptr() as usize;
        if end > common {
            break;
        }
        same = end;
        has_name |= name == METRIC_NAME;
    }
    (has_name, LabelsRef(&a.0[same..]), LabelsRef(&b.0[same..]))
}

/// How many bytes both begin with.
fn common_bytes(a: &[u8], b: &[u8]) -> usize {
    let words = a.chunks_exact(8).zip(b.chunks_exact(8)).take_while(|(a, b)| a == b).count() * 8;
    words + a[words..].iter().zip(&b[words..]).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::Labels;

    /// Few names and values, so that much is in common; some names sort before that of the metric.
    fn labels() -> impl Strategy<Value = Labels> {
        let pair = ("(A|__name__|__n|a|b|replica)", "[ab]{0,3}|aaaaaaaaaaaa[ab]");
        prop::collection::btree_map(pair.0, pair.1, 0..6).prop_map(|pairs| Labels::from_pairs(pairs).expect("valid"))
    }

    /// The definition, label by label.
    fn key(labels: &Labels, without: &[String]) -> (String, Vec<(String, String)>) {
        let pairs = labels.iter().filter(|(n, _)| !without.iter().any(|w| w == n));
        (labels.as_ref().metric_name().to_owned(), pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).collect())
    }

    proptest! {
        #[test]
        fn order_is_by_name_then_label_by_label(a in labels(), b in labels(), names in prop::collection::vec("(A|a|replica|other)", 0..3)) {
            prop_assert_eq!(a.cmp(&b), key(&a, &[]).cmp(&key(&b, &[])));
            prop_assert_eq!(a.as_ref().cmp_without(b.as_ref(), &names), key(&a, &names).cmp(&key(&b, &names)));
        }
    }
}
