//! The buckets of one sign: sorted by index, each at most once.

use isobar_block::histogram::bucket_numbers;
pub(super) use isobar_block::histogram::upper_bound as bound;

use super::{Number, Span};

/// One bucket: values in `(bound(index − 1), bound(index)]`; of a custom histogram, the `index`-th.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bucket {
    pub(super) index: i32,
    pub(super) count: Number,
}

/// Buckets of one sign, ascending by index.
#[derive(Clone, Debug, Default)]
pub(super) struct Side(Vec<Bucket>);

impl Side {
    pub(super) fn from_spans(spans: &[Span], counts: impl Iterator<Item = f64>) -> Self {
        Self(bucket_numbers(spans).zip(counts).map(|(index, count)| Bucket { index, count: Number::new(count) }).collect())
    }

    /// Spans and counts of the buckets that are not empty.
    pub(super) fn to_spans(&self) -> (Vec<Span>, Vec<f64>) {
        let (mut spans, mut counts) = (Vec::<Span>::new(), Vec::new());
        let mut next = 0;
        for bucket in &self.0 {
            let count = bucket.count.get();
            if count == 0.0 {
                continue;
            }
            match spans.last_mut() {
                Some(span) if bucket.index == next => span.length += 1,
                _ => spans.push(Span { offset: bucket.index - next, length: 1 }),
            }
            next = bucket.index + 1;
            counts.push(count);
        }
        (spans, counts)
    }

    pub(super) fn iter(&self) -> std::slice::Iter<'_, Bucket> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> std::slice::IterMut<'_, Bucket> {
        self.0.iter_mut()
    }

    /// Whether there are no observations.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|b| b.count.get() == 0.0)
    }

    /// Adds (or, with `sign` −1, subtracts) buckets of the same layout.
    pub(super) fn add(&mut self, other: &Self, sign: f64) {
        let mut merged = Vec::with_capacity(self.0.len() + other.0.len());
        let mut mine = self.0.iter().copied().peekable();
        for theirs in &other.0 {
            while let Some(bucket) = mine.next_if(|b| b.index < theirs.index) {
                merged.push(bucket);
            }
            let mut bucket = mine.next_if(|b| b.index == theirs.index).unwrap_or(Bucket { index: theirs.index, count: Number::default() });
            bucket.count.add(Number { value: theirs.count.value * sign, comp: theirs.count.comp * sign });
            merged.push(bucket);
        }
        merged.extend(mine);
        self.0 = merged;
    }

    /// The buckets of another layout; `index` must not descend.
    fn regroup(&self, index: impl Fn(i32) -> i32) -> Self {
        let mut out: Vec<Bucket> = Vec::with_capacity(self.0.len());
        for bucket in &self.0 {
            let index = index(bucket.index);
            match out.last_mut() {
                Some(last) if last.index == index => last.count.add(bucket.count),
                _ => out.push(Bucket { index, count: bucket.count }),
            }
        }
        Self(out)
    }

    /// The buckets in a coarser schema.
    pub(super) fn to_schema(&self, from: i32, to: i32) -> Self {
        if to >= from {
            return self.clone();
        }
        self.regroup(|index| ((index - 1) >> (from - to)) + 1)
    }

    /// Custom buckets with bounds `to`, all of which are among `from`.
    pub(super) fn to_bounds(&self, from: &[f64], to: &[f64]) -> Self {
        if from == to {
            return self.clone();
        }
        self.regroup(|index| from.get(index as usize).map_or(to.len(), |upper| to.partition_point(|bound| bound < upper)) as i32)
    }

    /// The buckets that end above a threshold: those that the zero bucket does not cover.
    pub(super) fn above(&self, threshold: f64, schema: i32) -> Self {
        let covered = self.0.partition_point(|bucket| bound(bucket.index, schema) <= threshold);
        Self(self.0[covered..].to_vec())
    }

    /// Whether a bucket has less observations than in `before`.
    pub(super) fn is_less_somewhere(&self, before: &Self) -> bool {
        before.0.iter().any(|before| {
            let now = self.0.binary_search_by_key(&before.index, |b| b.index).map_or(0.0, |i| self.0[i].count.get());
            now < before.count.get()
        })
    }

    /// Replaces counts; `f` gets index and count.
    pub(super) fn retain_counts(&mut self, mut f: impl FnMut(i32, f64) -> f64) {
        for bucket in &mut self.0 {
            bucket.count = Number::new(f(bucket.index, bucket.count.get()));
        }
    }
}
