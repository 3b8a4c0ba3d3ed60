//! A set of series without what is deleted of them.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use hashbrown::HashMap;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::mask::{Rule, joined};
use crate::{LabelsRef, Matcher, Result, SampleBuf, SeriesRun, SeriesSet, TimeRange, Timestamps};

/// Deleted series between two that are kept are loaded along with them if they are at most so many: about a page of chunks.
const LOADED_GAP_ROWS: usize = 512;

/// So many stretches of kept series are loaded at the same time.
const CONCURRENT_LOADS: usize = 4;

/// Cut vectors of timestamps that a set remembers; when there are more it begins anew. Targets mostly have one each.
const MAX_CUT_VECTORS: usize = 1 << 14;

/// The set without what `rules` delete; the set itself if they do not concern it.
pub(super) fn masked(rules: &[Rule], set: Arc<dyn SeriesSet>) -> Arc<dyn SeriesSet> {
    let hits: Vec<Hits> = rules.iter().filter_map(|rule| Hits::of(rule, &*set)).collect();
    let (whole, partial): (Vec<Hits>, Vec<Hits>) = hits.into_iter().partition(|h| h.covers_block);
    let kept = kept_rows(&whole, &*set);
    if kept.is_none() && partial.is_empty() {
        return set;
    }
    Arc::new(MaskedSet { inner: set, kept, partial, cuts: Arc::default() })
}

/// Where in a set the series of a rule are.
struct Hits {
    /// Rows with a metric name that the rule accepts, ascending.
    rows: SmallVec<[Range<usize>; 1]>,
    /// What is left to be compared in those rows.
    matchers: Vec<Matcher>,
    ranges: Vec<TimeRange>,
    covers_block: bool,
}

impl Hits {
    /// `None` if it is plain without a look at the labels that there are none.
    fn of(rule: &Rule, set: &dyn SeriesSet) -> Option<Self> {
        let mut rows: SmallVec<[Range<usize>; 1]> = SmallVec::from_elem(0..set.len(), 1);
        let mut matchers = Vec::with_capacity(rule.matchers.len());
        let mut by_name = false;
        for matcher in rule.matchers.iter() {
            if matcher.name() == crate::labels::METRIC_NAME
                && !by_name
                && let Some(names) = matcher.only_values()
            {
                rows = names.iter().map(|name| rows_of_metric(set, name)).filter(|rows| !rows.is_empty()).collect();
                by_name = true;
            } else if set.may_have_label(matcher.name()) {
                matchers.push(matcher.clone());
            } else if !matcher.matches_empty() {
                return None;
            }
        }
        let found = rows.iter().any(|r| !r.is_empty());
        found.then(|| Self { rows, matchers, ranges: rule.ranges.clone(), covers_block: rule.covers_block })
    }

    fn may_hold(&self, row: usize) -> bool {
        let next = self.rows.partition_point(|r| r.end <= row);
        self.rows.get(next).is_some_and(|r| r.contains(&row))
    }
}

/// The rows of one metric: sets are sorted by metric name first.
fn rows_of_metric(set: &dyn SeriesSet, name: &str) -> Range<usize> {
    let name = name.as_bytes();
    let first = partition_point(0..set.len(), |row| set.labels(row).metric_name().as_bytes() < name);
    first..partition_point(first..set.len(), |row| set.labels(row).metric_name().as_bytes() <= name)
}

fn partition_point(rows: Range<usize>, is_before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (rows.start, rows.end);
    while low < high {
        let middle = low + (high - low) / 2;
        if is_before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// The rows that no rule takes away; `None` if that is all of them.
fn kept_rows(whole: &[Hits], set: &dyn SeriesSet) -> Option<Vec<u32>> {
    let mut is_gone = vec![false; if whole.is_empty() { 0 } else { set.len() }];
    let mut gone = 0;
    for hits in whole {
        for row in hits.rows.iter().cloned().flatten() {
            if !is_gone[row] && (hits.matchers.is_empty() || Matcher::all_match(&hits.matchers, set.labels(row))) {
                is_gone[row] = true;
                gone += 1;
            }
        }
    }
    (gone > 0).then(|| (0..set.len()).filter(|row| !is_gone[*row]).map(|row| row as u32).collect())
}

/// What is left of a set.
struct MaskedSet {
    inner: Arc<dyn SeriesSet>,
    /// Rows of `inner` that are left; `None` if all are.
    kept: Option<Vec<u32>>,
    /// Rules that take away some samples of their series.
    partial: Vec<Hits>,
    cuts: Arc<Cuts>,
}

impl MaskedSet {
    fn inner_row(&self, row: usize) -> usize {
        self.kept.as_ref().map_or(row, |kept| kept[row] as usize)
    }

    /// What is cut out of the samples of a row of `inner`.
    fn cut_of(&self, row: usize) -> Option<Arc<Cut>> {
        let mut rules = SmallVec::<[u32; 4]>::new();
        for (number, hits) in self.partial.iter().enumerate() {
            if hits.may_hold(row) && Matcher::all_match(&hits.matchers, self.inner.labels(row)) {
                rules.push(number as u32);
            }
        }
        (!rules.is_empty()).then(|| self.cuts.cut(rules, &self.partial))
    }

    /// Stretches of rows of `inner` that hold `rows`, without long runs of rows that are left out.
    fn stretches(&self, rows: Range<usize>) -> Vec<Range<usize>> {
        let Some(kept) = &self.kept else { return vec![rows] };
        let mut out: Vec<Range<usize>> = Vec::new();
        for row in kept[rows].iter().map(|row| *row as usize) {
            match out.last_mut() {
                Some(last) if row <= last.end + LOADED_GAP_ROWS => last.end = row + 1,
                _ => out.push(row..row + 1),
            }
        }
        out
    }
}

#[async_trait]
impl SeriesSet for MaskedSet {
    fn len(&self) -> usize {
        self.kept.as_ref().map_or(self.inner.len(), Vec::len)
    }

    fn labels(&self, row: usize) -> LabelsRef<'_> {
        self.inner.labels(self.inner_row(row))
    }

    fn resolution_ms(&self) -> i64 {
        self.inner.resolution_ms()
    }

    fn may_have_label(&self, name: &str) -> bool {
        self.inner.may_have_label(name)
    }

    async fn load(&self, rows: Range<usize>, range: TimeRange) -> Result<Box<dyn SeriesRun>> {
        let first_row = rows.start;
        let inner_rows: Vec<usize> = rows.clone().map(|row| self.inner_row(row)).collect();
        let cuts = if self.partial.is_empty() { Vec::new() } else { inner_rows.iter().map(|row| self.cut_of(*row)).collect() };
        let load = |rows: Range<usize>| async move { Ok::<_, crate::Error>((rows.start, self.inner.load(rows, range).await?)) };
        let loads: Vec<_> = self.stretches(rows).into_iter().map(load).collect();
        let runs: Vec<_> = stream::iter(loads).buffered(CONCURRENT_LOADS).try_collect().await?;
        Ok(Box::new(MaskedRun { first_row, inner_rows, cuts, runs, shared: self.cuts.clone(), known: HashMap::new() }))
    }
}

/// Loaded series of a [`MaskedSet`].
struct MaskedRun {
    first_row: usize,
    inner_rows: Vec<usize>,
    /// One for each row; empty if nothing is cut.
    cuts: Vec<Option<Arc<Cut>>>,
    /// First row and content of each loaded stretch.
    runs: Vec<(usize, Box<dyn SeriesRun>)>,
    shared: Arc<Cuts>,
    /// What this run has seen of `shared`, so that it need not be locked for every series.
    known: HashMap<(u64, u32), Arc<CutVector>>,
}

impl SeriesRun for MaskedRun {
    fn read(&mut self, row: usize, out: &mut SampleBuf) -> Result<()> {
        let i = row.checked_sub(self.first_row).filter(|i| *i < self.inner_rows.len()).expect("the row is one of those that were loaded");
        let inner_row = self.inner_rows[i];
        let run = self.runs.partition_point(|(start, _)| *start <= inner_row) - 1;
        self.runs[run].1.read(inner_row, out)?;
        let Some(cut) = self.cuts.get(i).and_then(Option::clone) else { return Ok(()) };
        if cut.concerns(&out.timestamps) {
            self.vector(&cut, &out.timestamps).apply(out);
        }
        Ok(())
    }
}

impl MaskedRun {
    fn vector(&mut self, cut: &Cut, times: &Timestamps) -> Arc<CutVector> {
        if times.id() == 0 {
            return Arc::new(CutVector::new(cut, times));
        }
        let key = (times.id(), cut.number);
        self.known.entry(key).or_insert_with(|| self.shared.vector(key, cut, times)).clone()
    }
}

/// Times that are taken out of a series.
struct Cut {
    /// Its place among those of the set.
    number: u32,
    ranges: Vec<TimeRange>,
}

impl Cut {
    fn concerns(&self, times: &[i64]) -> bool {
        let (Some(first), Some(last)) = (times.first(), times.last()) else { return false };
        self.ranges.iter().any(|r| r.start_ms() <= *last && *first <= r.end_ms())
    }
}

/// What all runs of a set share.
#[derive(Default)]
struct Cuts {
    /// By the rules that accept a series, ascending: few combinations occur.
    cuts: Mutex<HashMap<SmallVec<[u32; 4]>, Arc<Cut>>>,
    /// By timestamps and number of the cut.
    vectors: Mutex<HashMap<(u64, u32), Arc<CutVector>>>,
}

impl Cuts {
    fn cut(&self, rules: SmallVec<[u32; 4]>, partial: &[Hits]) -> Arc<Cut> {
        let mut cuts = self.cuts.lock();
        if let Some(cut) = cuts.get(&rules) {
            return cut.clone();
        }
        let ranges = joined(rules.iter().flat_map(|r| partial[*r as usize].ranges.iter().copied()).collect());
        let cut = Arc::new(Cut { number: cuts.len() as u32, ranges });
        cuts.insert(rules, cut.clone());
        cut
    }

    fn vector(&self, key: (u64, u32), cut: &Cut, times: &Timestamps) -> Arc<CutVector> {
        let mut vectors = self.vectors.lock();
        if vectors.len() >= MAX_CUT_VECTORS {
            vectors.clear();
        }
        vectors.entry(key).or_insert_with(|| Arc::new(CutVector::new(cut, times))).clone()
    }
}

/// What a cut leaves of a vector of timestamps.
struct CutVector {
    times: Timestamps,
    /// Places that are left, ascending.
    pieces: SmallVec<[Range<usize>; 2]>,
}

impl CutVector {
    fn new(cut: &Cut, times: &Timestamps) -> Self {
        let mut pieces = SmallVec::new();
        let mut from = 0;
        for range in &cut.ranges {
            let gone_from = times.partition_point(|t| *t < range.start_ms());
            if from < gone_from {
                pieces.push(from..gone_from);
            }
            from = times.partition_point(|t| *t <= range.end_ms());
        }
        if from < times.len() {
            pieces.push(from..times.len());
        }
        if pieces.len() == 1 && pieces[0] == (0..times.len()) {
            return Self { times: times.clone(), pieces };
        }
        let left = pieces.iter().flat_map(|p: &Range<usize>| times[p.clone()].iter().copied()).collect();
        let times = if times.id() == 0 { Timestamps::unshared(left) } else { Timestamps::shared(left) };
        Self { times, pieces }
    }

    fn apply(&self, out: &mut SampleBuf) {
        out.timestamps = self.times.clone();
        keep(&mut out.values, &self.pieces);
        if !out.counts.is_empty() {
            keep(&mut out.counts, &self.pieces);
        }
        let (mut piece, mut before) = (0, 0);
        out.histograms.retain_mut(|(place, _)| {
            while self.pieces.get(piece).is_some_and(|p| p.end <= *place as usize) {
                before += self.pieces[piece].len();
                piece += 1;
            }
            let Some(p) = self.pieces.get(piece).filter(|p| p.start <= *place as usize) else { return false };
            *place = (before + *place as usize - p.start) as u32;
            true
        });
    }
}

fn keep<T: Copy>(all: &mut Vec<T>, pieces: &[Range<usize>]) {
    let mut len = 0;
    for piece in pieces {
        all.copy_within(piece.clone(), len);
        len += piece.len();
    }
    all.truncate(len);
}
