//! Which series have which label: sorted lists or roaring bitmaps of series numbers per name and value, and the order of the
//! series.
//!
//! The index is built when it is asked for, so that writers do not pay for it: it first catches up with the series that were
//! added since.

use std::sync::Arc;

use hashbrown::HashMap;
use isobar_block::{LabelsRef, Matcher};
use roaring::RoaringBitmap;

use super::order;
use super::page::{Page, SeriesRef};

/// Lists that are longer become bitmaps.
const LIST_MAX: usize = 64;

/// Series numbers, ascending.
#[derive(Debug)]
enum Postings {
    List(Vec<u32>),
    Bitmap(Box<RoaringBitmap>),
}

impl Postings {
    fn push(&mut self, series: u32) {
        match self {
            Self::List(list) if list.len() < LIST_MAX => list.push(series),
            Self::List(list) => {
                let mut bitmap = RoaringBitmap::new();
                bitmap.extend(list.drain(..));
                bitmap.insert(series);
                *self = Self::Bitmap(Box::new(bitmap));
            }
            Self::Bitmap(bitmap) => {
                bitmap.insert(series);
            }
        }
    }

    fn add_to(&self, out: &mut RoaringBitmap) {
        match self {
            Self::List(list) => out.extend(list.iter().copied()),
            Self::Bitmap(bitmap) => *out |= &**bitmap,
        }
    }

    fn intersects(&self, other: &RoaringBitmap) -> bool {
        match self {
            Self::List(list) => list.iter().any(|s| other.contains(*s)),
            Self::Bitmap(bitmap) => !bitmap.is_disjoint(other),
        }
    }

    fn remove(&mut self, gone: &RoaringBitmap) {
        match self {
            Self::List(list) => list.retain(|s| !gone.contains(*s)),
            Self::Bitmap(bitmap) => **bitmap -= gone,
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::List(list) => list.len() as u64,
            Self::Bitmap(bitmap) => bitmap.len(),
        }
    }
}

/// The index of a head.
#[derive(Debug, Default)]
pub struct Index {
    names: HashMap<Box<str>, HashMap<Box<str>, Postings>>,
    all: RoaringBitmap,
    indexed: u32,
    /// Series in the order of their labels.
    sorted: Arc<Vec<u32>>,
    /// Place in `sorted` by series number.
    ranks: Arc<Vec<u32>>,
    sorted_until: u32,
}

/// The order of series, as far as it was known when it was asked for.
#[derive(Clone, Debug)]
pub struct Order {
    /// Series numbers in the order of their labels.
    pub sorted: Arc<Vec<u32>>,
    /// Place in `sorted` by series number.
    pub ranks: Arc<Vec<u32>>,
}

impl Index {
    /// Whether all series below `next` are in the index.
    pub fn is_current(&self, next: u32) -> bool {
        self.indexed >= next
    }

    /// Whether all series below `next` have their place in the order.
    pub fn is_sorted(&self, next: u32) -> bool {
        self.sorted_until >= next
    }

    /// Adds the series below `next` that are not in yet.
    pub fn catch_up(&mut self, pages: &[Arc<Page>], next: u32) {
        let from = self.indexed;
        for number in from..next {
            let series = SeriesRef(number);
            let labels = pages[series.page()].labels_ref(series.slot());
            for (name, value) in labels.iter() {
                let values = self.names.entry_ref(name).or_default();
                match values.get_mut(value) {
                    Some(postings) => postings.push(number),
                    None => {
                        values.insert(value.into(), Postings::List(vec![number]));
                    }
                }
            }
        }
        self.all.insert_range(from..next.max(from));
        self.indexed = next.max(from);
    }

    /// Finds the place of every series.
    pub fn sort(&mut self, pages: &[Arc<Page>]) {
        let labels = |number: u32| {
            let series = SeriesRef(number);
            pages[series.page()].labels_ref(series.slot())
        };
        let mut new: Vec<(LabelsRef<'_>, u32)> = self.all.range(self.sorted_until..).map(|n| (labels(n), n)).collect();
        new.sort_unstable_by(|a, b| order::compare(a.0, b.0));
        let mut merged = Vec::with_capacity(self.sorted.len() + new.len());
        let mut new = new.into_iter().peekable();
        if new.peek().is_some() {
            for old in self.sorted.iter().copied() {
                while let Some((_, number)) = new.next_if(|(l, _)| order::compare(*l, labels(old)).is_lt()) {
                    merged.push(number);
                }
                merged.push(old);
            }
        } else {
            merged.extend_from_slice(&self.sorted);
        }
        merged.extend(new.map(|(_, number)| number));
        let mut ranks = vec![u32::MAX; self.indexed as usize];
        for (rank, number) in merged.iter().enumerate() {
            ranks[*number as usize] = rank as u32;
        }
        self.sorted = Arc::new(merged);
        self.ranks = Arc::new(ranks);
        self.sorted_until = self.indexed;
    }

    /// The order as it is known.
    pub fn order(&self) -> Order {
        Order { sorted: Arc::clone(&self.sorted), ranks: Arc::clone(&self.ranks) }
    }

    /// Takes series out.
    pub fn remove(&mut self, gone: &RoaringBitmap) {
        for values in self.names.values_mut() {
            values.retain(|_, postings| {
                postings.remove(gone);
                postings.len() > 0
            });
        }
        self.names.retain(|_, values| !values.is_empty());
        self.all -= gone;
        if self.sorted.iter().any(|n| gone.contains(*n)) {
            let kept: Vec<u32> = self.sorted.iter().copied().filter(|n| !gone.contains(*n)).collect();
            let mut ranks = vec![u32::MAX; self.ranks.len()];
            for (rank, number) in kept.iter().enumerate() {
                ranks[*number as usize] = rank as u32;
            }
            self.sorted = Arc::new(kept);
            self.ranks = Arc::new(ranks);
        }
    }

    /// The series that all matchers accept.
    pub fn select(&self, matchers: &[Matcher]) -> RoaringBitmap {
        let mut selected: Option<RoaringBitmap> = None;
        for matcher in matchers.iter().filter(|m| !m.matches_empty()) {
            let accepted = self.accepted(matcher);
            selected = Some(match selected {
                Some(s) => s & accepted,
                None => accepted,
            });
            if selected.as_ref().is_some_and(RoaringBitmap::is_empty) {
                return RoaringBitmap::new();
            }
        }
        let mut selected = selected.unwrap_or_else(|| self.all.clone());
        for matcher in matchers.iter().filter(|m| m.matches_empty()) {
            // Those that do not have the label stay: only values that are refused take series away.
            let Some(values) = self.names.get(matcher.name()) else { continue };
            let mut refused = RoaringBitmap::new();
            values.iter().filter(|(value, _)| !matcher.matches(value)).for_each(|(_, postings)| postings.add_to(&mut refused));
            selected -= refused;
        }
        selected
    }

    fn accepted(&self, matcher: &Matcher) -> RoaringBitmap {
        let mut accepted = RoaringBitmap::new();
        let Some(values) = self.names.get(matcher.name()) else { return accepted };
        match matcher.only_values() {
            Some(only) => only.iter().filter_map(|v| values.get(*v)).for_each(|p| p.add_to(&mut accepted)),
            None => values.iter().filter(|(value, _)| matcher.matches(value)).for_each(|(_, p)| p.add_to(&mut accepted)),
        }
        accepted
    }

    /// Names of labels that any of the series has, sorted.
    pub fn label_names(&self, series: &RoaringBitmap) -> Vec<String> {
        let any = |values: &HashMap<Box<str>, Postings>| values.values().any(|p| p.intersects(series));
        let mut names: Vec<String> = self.names.iter().filter(|(_, values)| any(values)).map(|(name, _)| name.to_string()).collect();
        names.sort_unstable();
        names
    }

    /// Values of a label that any of the series has, sorted.
    pub fn label_values(&self, name: &str, series: &RoaringBitmap) -> Vec<String> {
        let values = self.names.get(name).into_iter().flatten();
        let mut values: Vec<String> = values.filter(|(_, p)| p.intersects(series)).map(|(value, _)| value.to_string()).collect();
        values.sort_unstable();
        values
    }

    /// Calls `each` with name, value and number of series of every label.
    pub fn count_labels(&self, mut each: impl FnMut(&str, &str, u64)) {
        for (name, values) in &self.names {
            values.iter().for_each(|(value, postings)| each(name, value, postings.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use isobar_block::{Labels, MatchOp};

    use super::*;

    #[test]
    fn selects_as_the_matchers_do_and_keeps_the_order() {
        let pages = vec![Arc::new(Page::default()), Arc::new(Page::default())];
        let all: Vec<Labels> = (0..300u32)
            .map(|i| {
                let zone = if i % 3 == 0 { String::new() } else { format!("z{}", i % 5) };
                Labels::from_pairs([("__name__", format!("m{}", i % 2)), ("i", format!("{:03}", 299 - i)), ("zone", zone)]).expect("valid")
            })
            .collect();
        for (i, labels) in all.iter().enumerate() {
            pages[i / 256].set_labels(i % 256, labels.clone());
        }
        let mut index = Index::default();
        for next in [10, 200, 300] {
            index.catch_up(&pages, next);
            index.sort(&pages);
        }
        let order = index.order();
        assert!(order.sorted.iter().map(|n| &all[*n as usize]).is_sorted());
        let cases = [
            vec![],
            vec![("__name__", MatchOp::Equal, "m0")],
            vec![("zone", MatchOp::Equal, "")],
            vec![("zone", MatchOp::NotEqual, "z1"), ("__name__", MatchOp::Equal, "m1")],
            vec![("zone", MatchOp::Regex, "z1|z2")],
            vec![("zone", MatchOp::Regex, "z.*|"), ("i", MatchOp::Regex, "1.+")],
            vec![("zone", MatchOp::NotRegex, "z[12]?")],
            vec![("other", MatchOp::Equal, "")],
            vec![("other", MatchOp::NotEqual, "")],
        ];
        let gone: RoaringBitmap = (0..300).step_by(7).collect();
        for removed in [false, true] {
            if removed {
                index.remove(&gone);
                assert!(index.order().sorted.iter().map(|n| &all[*n as usize]).is_sorted());
            }
            for case in &cases {
                let matchers: Vec<Matcher> = case.iter().map(|(n, op, v)| Matcher::new(*n, *op, *v).expect("valid")).collect();
                let expected: Vec<u32> =
                    (0..300).filter(|i| !(removed && i % 7 == 0) && Matcher::all_match(&matchers, all[*i as usize].as_ref())).collect();
                assert_eq!(index.select(&matchers).iter().collect::<Vec<_>>(), expected, "{matchers:?}");
            }
        }
    }
}
