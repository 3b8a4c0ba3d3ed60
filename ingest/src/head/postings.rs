//! Which series have which label: sorted lists or roaring bitmaps of series numbers per name and value, and the order of the
//! series.
//!
//! The index is built when it is asked for, so that writers do not pay for it: it first catches up with the series that were
//! added since.

use std::sync::Arc;

use hashbrown::HashMap;
use isobar_block::labels::METRIC_NAME;
use isobar_block::{LabelsRef, Matcher};
use parking_lot::Mutex;
use roaring::RoaringBitmap;

use super::order;
use super::page::{Page, SeriesRef};

/// Lists that are longer become bitmaps.
const LIST_MAX: usize = 64;
/// Threads that sort.
const MAX_THREADS: usize = 8;
/// Another thread is worth it for so many series.
const THREAD_SERIES: usize = 4096;

/// Series numbers, ascending.
#[derive(Debug)]
enum Postings {
    List(Vec<u32>),
    Bitmap(Box<RoaringBitmap>),
}

impl Postings {
    /// Adds numbers, which ascend. They may be below some that are in: runs of one label at different places of the label sets
    /// end at different times.
    fn extend(&mut self, series: &[u32]) {
        match self {
            Self::List(list) if list.len() + series.len() <= LIST_MAX => {
                list.extend_from_slice(series);
                if !list.is_sorted() {
                    list.sort_unstable();
                }
            }
            Self::List(list) => {
                let bitmap = list.iter().chain(series).copied().collect();
                *self = Self::Bitmap(Box::new(bitmap));
            }
            Self::Bitmap(bitmap) => bitmap.extend(series.iter().copied()),
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

    /// The numbers from `first` on.
    fn from(&self, first: u32) -> Vec<u32> {
        match self {
            Self::List(list) => list[list.partition_point(|n| *n < first)..].to_vec(),
            Self::Bitmap(bitmap) => bitmap.range(first..).collect(),
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::List(list) => list.len() as u64,
            Self::Bitmap(bitmap) => bitmap.len(),
        }
    }
}

/// A label that series after series has in the same place.
struct Run<'a> {
    label: (&'a str, &'a str),
    series: Vec<u32>,
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
        let next = next.max(from);
        // The series of a target come one after the other and have most labels in common: each place in the label set collects
        // numbers as long as its label stays the same.
        let mut runs: Vec<Run<'_>> = Vec::new();
        for number in from..next {
            let series = SeriesRef(number);
            let labels = pages[series.page()].labels_ref(series.slot());
            for (at, label) in labels.iter().enumerate() {
                match runs.get_mut(at) {
                    Some(run) if run.label == label => run.series.push(number),
                    Some(run) => {
                        self.add_run(run);
                        run.label = label;
                        run.series.clear();
                        run.series.push(number);
                    }
                    None => runs.push(Run { label, series: vec![number] }),
                }
            }
        }
        runs.iter().for_each(|run| self.add_run(run));
        self.all.insert_range(from..next);
        self.indexed = next;
    }

    fn add_run(&mut self, run: &Run<'_>) {
        let (name, value) = run.label;
        let values = self.names.entry_ref(name).or_default();
        match values.get_mut(value) {
            Some(postings) => postings.extend(&run.series),
            None => {
                let mut postings = Postings::List(Vec::new());
                postings.extend(&run.series);
                values.insert(value.into(), postings);
            }
        }
    }

    /// Finds the place of every series.
    pub fn sort(&mut self, pages: &[Arc<Page>]) {
        let new = self.sorted_new(pages);
        let labels = |number: u32| {
            let series = SeriesRef(number);
            pages[series.page()].labels_ref(series.slot())
        };
        let mut merged = Vec::with_capacity(self.sorted.len() + new.len());
        let mut old = self.sorted.as_slice();
        for number in new {
            let own = labels(number);
            let is_before = |n: &u32| order::compare(labels(*n), own).is_lt();
            // New series often come together: the first steps go up to the place, and double.
            let mut step = 1;
            while step < old.len() && is_before(&old[step]) {
                step *= 2;
            }
            let (before, after) = old.split_at(old[..old.len().min(step + 1)].partition_point(is_before));
            merged.extend_from_slice(before);
            merged.push(number);
            old = after;
        }
        merged.extend_from_slice(old);
        self.set_order(merged);
        self.sorted_until = self.indexed;
    }

    /// The series that have no place in the order yet, in order: sorted by metric name, and then name by name on several threads.
    fn sorted_new(&self, pages: &[Arc<Page>]) -> Vec<u32> {
        let labels = |number: u32| {
            let series = SeriesRef(number);
            pages[series.page()].labels_ref(series.slot())
        };
        let mut rest = self.all.clone();
        rest.remove_range(..self.sorted_until);
        let mut groups: Vec<(&str, Vec<u32>)> = Vec::new();
        for (name, postings) in self.names.get(METRIC_NAME).into_iter().flatten() {
            let new = postings.from(self.sorted_until);
            if !new.is_empty() {
                groups.push((name, new));
            }
        }
        for number in groups.iter().flat_map(|(_, group)| group) {
            rest.remove(*number);
        }
        groups.push(("", rest.into_iter().collect()));
        groups.sort_unstable_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
        let count: usize = groups.iter().map(|(_, g)| g.len()).sum();
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(MAX_THREADS).min(1 + count / THREAD_SERIES);
        let next = Mutex::new(groups.iter_mut());
        let work = || {
            loop {
                let taken = next.lock().next();
                let Some((_, group)) = taken else { break };
                let mut keyed: Vec<(LabelsRef<'_>, u32)> = group.iter().map(|n| (labels(*n), *n)).collect();
                // Stable, as this sort makes use of parts that are in order already.
                keyed.sort_by(|a, b| order::compare(a.0, b.0));
                group.clear();
                group.extend(keyed.into_iter().map(|(_, n)| n));
            }
        };
        std::thread::scope(|scope| {
            (1..threads).for_each(|_| drop(scope.spawn(work)));
            work();
        });
        groups.into_iter().flat_map(|(_, group)| group).collect()
    }

    fn set_order(&mut self, sorted: Vec<u32>) {
        let mut ranks = vec![u32::MAX; self.indexed as usize];
        for (rank, number) in sorted.iter().enumerate() {
            ranks[*number as usize] = rank as u32;
        }
        self.sorted = Arc::new(sorted);
        self.ranks = Arc::new(ranks);
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
            self.set_order(self.sorted.iter().copied().filter(|n| !gone.contains(*n)).collect());
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

    /// Whether any series ever had a label of this name.
    pub fn has_label(&self, name: &str) -> bool {
        self.names.contains_key(name)
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
                // Labels before others come and go, so that the same label stands at different places.
                let sometimes = |every: u32, value: &str| if i % every == 0 { String::new() } else { value.to_owned() };
                let pairs = [
                    ("A", sometimes(11, "x")),
                    ("__name__", format!("m{}", i % 2)),
                    ("a", sometimes(2, "x")),
                    ("i", format!("{:03}", 299 - i)),
                    ("zone", sometimes(3, &format!("z{}", i % 5))),
                ];
                Labels::from_pairs(pairs).expect("valid")
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
