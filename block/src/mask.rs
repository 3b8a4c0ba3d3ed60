//! Deletions as readers see them: which samples of a block are not there any more although its files still hold them.
//!
//! A [`Mask`] is made of the [`Tombstone`]s that apply to one block, and stands between the block's reader and everybody else.
//! Compaction reads through it too, and that is how deleted samples leave the store. Who makes tombstones, and when they end,
//! is the compactor's.

mod set;
mod source;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::{BlockMeta, Error, Exemplar, LabelsRef, MatchOp, Matcher, Result, SeriesSet, TimeRange, Tombstone, TombstoneMatcher};

pub use source::Masked;

impl From<&Matcher> for TombstoneMatcher {
    fn from(matcher: &Matcher) -> Self {
        let op = match matcher.op() {
            MatchOp::Equal => "=",
            MatchOp::NotEqual => "!=",
            MatchOp::Regex => "=~",
            MatchOp::NotRegex => "!~",
        };
        Self { name: matcher.name().to_owned(), op: op.to_owned(), value: matcher.value().to_owned() }
    }
}

impl TryFrom<&TombstoneMatcher> for Matcher {
    type Error = Error;

    /// # Errors
    /// [`Error::Invalid`] if the operator is not known or the regular expression does not compile.
    fn try_from(stored: &TombstoneMatcher) -> Result<Self> {
        let op = match stored.op.as_str() {
            "=" => MatchOp::Equal,
            "!=" => MatchOp::NotEqual,
            "=~" => MatchOp::Regex,
            "!~" => MatchOp::NotRegex,
            other => return Err(Error::invalid("matcher of a deletion", format!("operator {other:?} is not one of =, !=, =~ and !~"))),
        };
        Self::new(stored.name.as_str(), op, stored.value.as_str())
    }
}

impl Tombstone {
    /// The selectors as a matcher can use them.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if one cannot have been written by this program.
    pub fn matchers(&self) -> Result<Vec<Vec<Matcher>>> {
        let compile = |selector: &Vec<TombstoneMatcher>| selector.iter().map(Matcher::try_from).collect();
        let compiled: Result<_> = self.selectors.iter().map(compile).collect();
        compiled.map_err(|e| Error::corrupt(format!("deletion {}", self.id), e.to_string()))
    }
}

/// The deletions of a tenant with their regular expressions compiled, from which the masks of many blocks are made.
#[derive(Clone, Debug, Default)]
pub struct Masks {
    deletions: Vec<Deletion>,
}

#[derive(Clone, Debug)]
struct Deletion {
    tombstone: Arc<Tombstone>,
    selectors: Vec<Arc<[Matcher]>>,
}

impl Masks {
    /// Compiles the deletions, such as those of one version of the catalog.
    ///
    /// # Errors
    /// As [`Tombstone::matchers`].
    pub fn new(tombstones: &[Arc<Tombstone>]) -> Result<Self> {
        let compile = |tombstone: &Arc<Tombstone>| {
            let selectors = tombstone.matchers()?.into_iter().map(Arc::from).collect();
            Ok(Deletion { tombstone: tombstone.clone(), selectors })
        };
        Ok(Self { deletions: tombstones.iter().map(compile).collect::<Result<_>>()? })
    }

    /// The mask of a block; `None` if no deletion applies to it.
    pub fn of(&self, block: &BlockMeta) -> Option<Mask> {
        let mut rules: Vec<(Arc<[Matcher]>, Vec<TimeRange>)> = Vec::new();
        for deletion in self.deletions.iter().filter(|d| d.tombstone.applies_to(block)) {
            let start_ms = deletion.tombstone.min_time_ms.max(block.min_time_ms);
            let end_ms = deletion.tombstone.max_time_ms.min(block.max_time_ms);
            let Ok(range) = TimeRange::new(start_ms, end_ms) else { continue };
            for selector in &deletion.selectors {
                match rules.iter_mut().find(|(matchers, _)| matchers == selector) {
                    Some((_, ranges)) => ranges.push(range),
                    None => rules.push((selector.clone(), vec![range])),
                }
            }
        }
        let rules: Vec<Rule> = rules.into_iter().map(|(matchers, ranges)| Rule::new(matchers, ranges, block)).collect();
        (!rules.is_empty()).then(|| Mask { rules: rules.into() })
    }
}

/// What of one block is deleted. Clones share it.
#[derive(Clone, Debug)]
pub struct Mask {
    rules: Arc<[Rule]>,
}

/// The times in which samples of the series of one selector are deleted.
#[derive(Clone, Debug)]
struct Rule {
    matchers: Arc<[Matcher]>,
    /// Ascending, with gaps between them.
    ranges: Vec<TimeRange>,
    /// Whether the ranges leave nothing of the block.
    covers_block: bool,
}

impl Rule {
    fn new(matchers: Arc<[Matcher]>, ranges: Vec<TimeRange>, block: &BlockMeta) -> Self {
        let ranges = joined(ranges);
        let covers_block = ranges.iter().any(|r| r.start_ms() <= block.min_time_ms && block.max_time_ms <= r.end_ms());
        Self { matchers, ranges, covers_block }
    }
}

impl Mask {
    /// The mask of a block; `None` if no deletion applies to it. Whoever reads many blocks makes [`Masks`] once instead.
    ///
    /// # Errors
    /// As [`Tombstone::matchers`].
    pub fn new(tombstones: &[Arc<Tombstone>], block: &BlockMeta) -> Result<Option<Self>> {
        let applying: Vec<_> = tombstones.iter().filter(|t| t.applies_to(block)).cloned().collect();
        Ok(Masks::new(&applying)?.of(block))
    }

    /// Whether some deletion covers all of the block's time, so that its series are to be hidden altogether.
    pub fn hides_series(&self) -> bool {
        self.rules.iter().any(|r| r.covers_block)
    }

    /// The series of a set, which is of the mask's block, as they are after the deletions: series that are deleted for all of
    /// the block's time are left out, samples of the others are left out on reading. Samples stay where they were, so that
    /// series that shared timestamps still do where they lose the same.
    ///
    /// This looks at the labels of every series that a deletion of the whole block may match; deletions that name a metric
    /// find theirs by binary search.
    pub fn apply(&self, set: Arc<dyn SeriesSet>) -> Arc<dyn SeriesSet> {
        set::masked(&self.rules, set)
    }

    /// The times in which samples of one series are deleted, in no order.
    pub fn deleted(&self, labels: LabelsRef<'_>) -> Vec<TimeRange> {
        let matching = self.rules.iter().filter(|rule| Matcher::all_match(&rule.matchers, labels));
        matching.flat_map(|rule| rule.ranges.iter().copied()).collect()
    }

    /// Removes the deleted ones from the exemplars of one series.
    pub fn cut_exemplars(&self, labels: LabelsRef<'_>, exemplars: &mut Vec<Exemplar>) {
        for rule in self.rules.iter() {
            if exemplars.iter().any(|e| contains(&rule.ranges, e.timestamp_ms)) && Matcher::all_match(&rule.matchers, labels) {
                exemplars.retain(|e| !contains(&rule.ranges, e.timestamp_ms));
            }
        }
    }
}

/// What [`BlockMeta::deletions_ms`] has to be of a block that is written from blocks read through the masks of these
/// deletions: it says that each of them has been carried out or did not apply.
pub fn carried_out_ms(tombstones: &[Arc<Tombstone>]) -> i64 {
    tombstones.iter().map(|t| t.created_ms).max().unwrap_or(0)
}

/// The same times in ascending ranges with gaps between them.
fn joined(mut ranges: Vec<TimeRange>) -> Vec<TimeRange> {
    ranges.sort_by_key(|r| r.start_ms());
    let mut out: Vec<TimeRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start_ms() <= last.end_ms().saturating_add(1) => {
                let end_ms = last.end_ms().max(range.end_ms());
                *last = TimeRange::new(last.start_ms(), end_ms).expect("the end did not move down");
            }
            _ => out.push(range),
        }
    }
    out
}

fn contains(ranges: &[TimeRange], t_ms: i64) -> bool {
    let next = ranges.partition_point(|r| r.end_ms() < t_ms);
    ranges.get(next).is_some_and(|r| r.contains(t_ms))
}
