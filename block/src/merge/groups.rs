//! Which rows of which sets belong to one logical series, in the order of labels.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::{Labels, LabelsRef, SeriesSet};

/// A row of a set.
#[derive(Clone, Copy)]
pub(super) struct Member {
    /// Which set.
    pub set: u32,
    /// Which of its rows.
    pub row: u32,
    /// Which replica of the series: ascending in the order of replicas, 0 where nothing tells them apart.
    pub replica: u32,
}

/// What groups have of replicas.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Replicas {
    /// Series without replica labels.
    None,
    /// Series of one replica.
    One,
    /// Series of several replicas, of which one may have no replica labels.
    Several,
}

/// Rows by logical series.
#[derive(Default)]
pub(super) struct Groups {
    /// One past the last member of each group.
    ends: Vec<u32>,
    members: Vec<Member>,
}

impl Groups {
    /// Finds the logical series of `sets`. Members of a group ascend by replica, then by set.
    pub fn of(sets: &[Arc<dyn SeriesSet>], replica_labels: &[String]) -> Self {
        let mut replicas = Numbers::default();
        let mut lists: Vec<Self> = sets
            .iter()
            .enumerate()
            .map(|(i, set)| {
                if replica_labels.iter().any(|name| set.may_have_label(name)) {
                    Self::of_replicas(i as u32, &**set, replica_labels, &mut replicas)
                } else {
                    Self::of_rows(i as u32, set.len())
                }
            })
            .collect();
        let compare = |a: &Member, b: &Member| {
            let (a_set, b_set) = (&sets[a.set as usize], &sets[b.set as usize]);
            a_set.labels(a.row as usize).cmp_without(b_set.labels(b.row as usize), replica_labels)
        };
        // Neighbours are merged pair by pair: one comparison for each series that both have, as for each that only one has.
        while lists.len() > 1 {
            let mut merged = Vec::with_capacity(lists.len().div_ceil(2));
            let mut rest = lists.into_iter();
            while let Some(a) = rest.next() {
                merged.push(match rest.next() {
                    Some(b) => Self::merge(&a, &b, compare),
                    None => a,
                });
            }
            lists = merged;
        }
        let mut groups = lists.pop().unwrap_or_default();
        if let Some(ranks) = replicas.ranks() {
            groups.order_replicas(&ranks);
        }
        groups
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The members of a run of groups.
    pub fn members(&self, groups: Range<usize>) -> &[Member] {
        let start = if groups.start == 0 { 0 } else { self.ends[groups.start - 1] as usize };
        let end = if groups.end == 0 { 0 } else { self.ends[groups.end - 1] as usize };
        &self.members[start..end.max(start)]
    }

    /// The members of a group; there is at least one.
    pub fn group(&self, group: usize) -> &[Member] {
        self.members(group..group + 1)
    }

    /// The most that one of a run of groups has.
    pub fn replicas(&self, groups: Range<usize>) -> Replicas {
        let of_group = |group| match self.group(group) {
            [first, .., last] if first.replica != last.replica => Replicas::Several,
            [first, ..] if first.replica > 0 => Replicas::One,
            _ => Replicas::None,
        };
        groups.map(of_group).max().unwrap_or(Replicas::None)
    }

    /// A set whose rows are logical series already.
    fn of_rows(set: u32, rows: usize) -> Self {
        let rows = rows as u32;
        Self { ends: (1..=rows).collect(), members: (0..rows).map(|row| Member { set, row, replica: 0 }).collect() }
    }

    /// A set that may hold several replicas of a series.
    fn of_replicas(set: u32, series: &dyn SeriesSet, replica_labels: &[String], replicas: &mut Numbers) -> Self {
        let mut groups = Self::of_rows(set, series.len());
        for member in &mut groups.members {
            member.replica = replicas.number(series.labels(member.row as usize), replica_labels);
        }
        let labels = |member: &Member| series.labels(member.row as usize);
        // Without the replica labels the rows are a few ascending runs, which a stable sort only has to merge.
        groups.members.sort_by(|a, b| labels(a).cmp_without(labels(b), replica_labels));
        groups.ends.clear();
        for (i, member) in groups.members.iter().enumerate() {
            let next = groups.members.get(i + 1);
            if next.is_none_or(|next| labels(member).cmp_without(labels(next), replica_labels) != Ordering::Equal) {
                groups.ends.push(i as u32 + 1);
            }
        }
        groups
    }

    fn merge(a: &Self, b: &Self, compare: impl Fn(&Member, &Member) -> Ordering) -> Self {
        let mut out =
            Self { ends: Vec::with_capacity(a.len().max(b.len())), members: Vec::with_capacity(a.members.len() + b.members.len()) };
        let (mut i, mut j) = (0, 0);
        while i < a.len() || j < b.len() {
            let order = match (i < a.len(), j < b.len()) {
                (true, true) => compare(&a.group(i)[0], &b.group(j)[0]),
                (true, false) => Ordering::Less,
                _ => Ordering::Greater,
            };
            if order.is_le() {
                out.members.extend_from_slice(a.group(i));
                i += 1;
            }
            if order.is_ge() {
                out.members.extend_from_slice(b.group(j));
                j += 1;
            }
            out.ends.push(out.members.len() as u32);
        }
        out
    }

    fn order_replicas(&mut self, ranks: &[u32]) {
        for member in &mut self.members {
            member.replica = ranks[member.replica as usize];
        }
        let mut start = 0;
        for end in &self.ends {
            let group = &mut self.members[start..*end as usize];
            if group.len() > 1 {
                group.sort_by_key(|m| (m.replica, m.set));
            }
            start = *end as usize;
        }
    }
}

/// Numbers for the values of the replica labels. 0 is a series without any.
#[derive(Default)]
struct Numbers {
    numbers: HashMap<Vec<u8>, u32>,
    last: (Vec<u8>, u32),
    bytes: Vec<u8>,
}

impl Numbers {
    fn number(&mut self, labels: LabelsRef<'_>, replica_labels: &[String]) -> u32 {
        self.bytes.clear();
        labels.keep_into(replica_labels, &mut self.bytes);
        if self.bytes.is_empty() {
            return 0;
        }
        if self.last.0 != self.bytes {
            let next = self.numbers.len() as u32 + 1;
            let number = *self.numbers.entry_ref(self.bytes.as_slice()).or_insert(next);
            self.last = (self.bytes.clone(), number);
        }
        self.last.1
    }

    /// The place of each number in the order of values. `None` if no series has a replica label.
    fn ranks(&self) -> Option<Vec<u32>> {
        if self.numbers.is_empty() {
            return None;
        }
        let mut sorted: Vec<(Labels, u32)> = Vec::with_capacity(self.numbers.len());
        for (bytes, number) in &self.numbers {
            // SAFETY: the bytes were taken from canonical labels, in their order.
            sorted.push((unsafe { LabelsRef::from_bytes_unchecked(bytes) }.to_owned(), *number));
        }
        sorted.sort_unstable();
        let mut ranks = vec![0; sorted.len() + 1];
        for (rank, (_, number)) in sorted.iter().enumerate() {
            ranks[*number as usize] = rank as u32 + 1;
        }
        Some(ranks)
    }
}
