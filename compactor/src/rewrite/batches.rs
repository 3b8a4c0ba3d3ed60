//! Cuts the series of several blocks into batches whose labels fit into memory.
//!
//! A batch is a run of metric names. A name with too many series is cut further by labels, at labels without those of replicas,
//! because the replicas of a series have to be in one batch.

use std::collections::BTreeMap;

use isobar_block::reader::NameRun;
use isobar_block::{Labels, LabelsRef, Metadata};

/// What all blocks together have of a metric.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// Series, counted once for each block that has them.
    pub series: u64,
    /// What it is, according to the newest block that knows.
    pub metadata: Option<Metadata>,
}

/// All metrics by name.
pub type Families = BTreeMap<String, Family>;

/// Adds a run of a block, given after those of all blocks that are older.
pub fn add(families: &mut Families, run: NameRun) {
    let family = families.entry(run.name).or_default();
    family.series += run.series;
    if run.metadata.is_some() {
        family.metadata = run.metadata;
    }
}

/// A run of metric names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// First name.
    pub first: String,
    /// Last name.
    pub last: String,
    /// Series, counted once for each block that has them.
    pub series: u64,
}

/// Batches in order, of at most `max_series` unless a single name has more.
pub fn batches(families: &Families, max_series: u64) -> Vec<Batch> {
    let mut out: Vec<Batch> = Vec::new();
    for (name, family) in families {
        match out.last_mut().filter(|b| b.series + family.series <= max_series) {
            Some(batch) => {
                batch.last.clone_from(name);
                batch.series += family.series;
            }
            None => out.push(Batch { first: name.clone(), last: name.clone(), series: family.series }),
        }
    }
    out
}

/// Label sets at which a set of series is cut: part n holds those from cut n - 1 (inside) to cut n (outside).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cuts(Vec<Labels>);

impl Cuts {
    /// Cuts for about `parts` equal parts, from a sample of the label sets.
    pub fn new(mut sample: Vec<Labels>, parts: usize) -> Self {
        sample.sort_unstable();
        sample.dedup();
        let at = |n: usize| sample.get(n * sample.len() / parts.max(1)).cloned();
        let mut cuts: Vec<Labels> = (1..parts).filter_map(at).collect();
        cuts.dedup();
        Self(cuts)
    }

    /// Number of parts.
    pub fn parts(&self) -> usize {
        self.0.len() + 1
    }

    /// The part that a label set belongs to.
    pub fn part_of(&self, labels: LabelsRef<'_>) -> usize {
        self.0.partition_point(|cut| cut.as_ref() <= labels)
    }
}

/// Removes labels that tell replicas apart; `replica_labels` are sorted.
pub fn without(labels: LabelsRef<'_>, replica_labels: &[String]) -> Labels {
    if replica_labels.iter().all(|name| labels.get(name).is_none()) {
        return labels.to_owned();
    }
    let mut bytes = Vec::with_capacity(labels.as_bytes().len());
    labels.drop_into(replica_labels, &mut bytes);
    Labels::from_bytes(&bytes).expect("a part of a canonical set is canonical")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_runs_of_names_below_the_limit() {
        let mut families = Families::new();
        for (name, series) in [("a", 5), ("b", 5), ("c", 1), ("d", 100), ("e", 2), ("f", 9)] {
            add(&mut families, NameRun { name: name.into(), series, metadata: None });
        }
        let found: Vec<_> = batches(&families, 10).into_iter().map(|b| (b.first, b.last, b.series)).collect();
        let expected = [("a", "b", 10), ("c", "c", 1), ("d", "d", 100), ("e", "e", 2), ("f", "f", 9)];
        assert_eq!(found, expected.map(|(a, b, n)| (a.to_owned(), b.to_owned(), n)));
    }

    #[test]
    fn the_newest_metadata_counts() {
        let mut families = Families::new();
        let help = |text: &str| Some(Metadata { help: text.into(), ..Metadata::default() });
        for metadata in [help("old"), help("new"), None] {
            add(&mut families, NameRun { name: "a".into(), series: 2, metadata });
        }
        assert_eq!(families["a"], Family { series: 6, metadata: help("new") });
    }

    #[test]
    fn cuts_keep_replicas_together_and_parts_in_order() {
        let all: Vec<Labels> = (0..1000)
            .map(|i| {
                Labels::from_pairs([("__name__", "m".to_owned()), ("i", format!("{i:04}")), ("a", format!("{}", i % 2))]).expect("valid")
            })
            .collect();
        let replica = ["a".to_owned()];
        let cuts = Cuts::new(all.iter().step_by(10).map(|l| without(l.as_ref(), &replica)).collect(), 4);
        assert_eq!(cuts.parts(), 4);
        let mut sizes = [0; 4];
        let mut last = 0;
        for labels in &all {
            let part = cuts.part_of(without(labels.as_ref(), &replica).as_ref());
            assert!(part >= last);
            last = part;
            sizes[part] += 1;
        }
        assert!(sizes.iter().all(|n| (200..300).contains(n)), "{sizes:?}");
    }
}
