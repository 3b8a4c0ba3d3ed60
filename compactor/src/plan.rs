//! Decides what is to be done: a pure function of the catalog, the rules and the time. Reads nothing, writes nothing.
//!
//! A span is complete when everything in it is in the blocks of one compaction of its level. Jobs of one plan share no block, so
//! that they can be carried out in any order, and carrying out plan after plan comes to an end.

mod compact;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use hashbrown::HashSet;
use isobar_block::{BlockId, BlockMeta, CatalogState, TimeRange};
use serde::Serialize;

use crate::config::{CompactorConfig, TenantRules};
use crate::{delete, downsample, retention};

/// A stretch of time, both ends inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Span {
    /// First millisecond.
    pub start_ms: i64,
    /// Last millisecond.
    pub end_ms: i64,
}

impl Span {
    /// The span of that length, aligned to multiples of it, in which `t_ms` lies.
    ///
    /// # Panics
    /// If `len_ms` is not above 0.
    pub fn aligned(t_ms: i64, len_ms: i64) -> Self {
        let number = t_ms.div_euclid(len_ms);
        let next = number.checked_add(1).and_then(|n| n.checked_mul(len_ms));
        Self { start_ms: number.saturating_mul(len_ms), end_ms: next.map_or(i64::MAX, |n| n - 1) }
    }

    /// Whether `t_ms` lies inside.
    pub fn contains(self, t_ms: i64) -> bool {
        self.start_ms <= t_ms && t_ms <= self.end_ms
    }

    /// Whether all of `other` lies inside.
    pub fn covers(self, other: Self) -> bool {
        self.start_ms <= other.start_ms && other.end_ms <= self.end_ms
    }

    /// Whether some millisecond lies in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.start_ms <= other.end_ms && other.start_ms <= self.end_ms
    }

    /// The same as a range to read.
    pub fn range(self) -> TimeRange {
        TimeRange::new(self.start_ms, self.end_ms).expect("a span begins before it ends")
    }

    /// From a block's first to its last sample.
    pub fn of(block: &BlockMeta) -> Self {
        Self { start_ms: block.min_time_ms, end_ms: block.max_time_ms.max(block.min_time_ms) }
    }
}

/// Something to be done.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Job {
    /// What.
    #[serde(flatten)]
    pub kind: JobKind,
    /// Why.
    pub reason: String,
    /// Size of the blocks that are read or removed.
    pub size_bytes: u64,
    /// Samples in them.
    pub samples: u64,
}

/// The kinds of jobs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JobKind {
    /// Merges what blocks hold of a span.
    Compact(Compaction),
    /// Makes, renews or merges downsampled blocks.
    Downsample(downsample::Due),
    /// Carries out deletions in a block.
    Rewrite {
        /// The block.
        block: BlockId,
    },
    /// Removes blocks that are kept no longer.
    Retire {
        /// The blocks.
        blocks: Vec<BlockId>,
    },
}

/// A merge of all raw blocks that overlap a span.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Compaction {
    /// The span.
    pub span: Span,
    /// Level of the blocks that come out.
    pub level: u32,
    /// The blocks, ascending by precedence.
    pub inputs: Vec<BlockId>,
    /// Only some of the blocks of the span, because they are too many for one merge: replicas stay apart and the level 0.
    pub partial: bool,
}

impl Job {
    /// The blocks that the job reads or removes.
    pub fn blocks(&self) -> Vec<BlockId> {
        match &self.kind {
            JobKind::Compact(compaction) => compaction.inputs.clone(),
            JobKind::Downsample(due) => due.inputs.clone(),
            JobKind::Rewrite { block } => vec![*block],
            JobKind::Retire { blocks } => blocks.clone(),
        }
    }

    fn new(kind: JobKind, reason: impl Into<String>, state: &CatalogState) -> Self {
        let mut job = Self { kind, reason: reason.into(), size_bytes: 0, samples: 0 };
        let ids: HashSet<BlockId> = job.blocks().into_iter().collect();
        for block in state.blocks.iter().filter(|b| ids.contains(&b.ulid)) {
            job.size_bytes += block.size_bytes;
            job.samples += block.samples + block.histograms;
        }
        job
    }
}

/// What is to be done for a tenant now. With `settle`, spans wait for late data as configured; without, everything that can be
/// done is due.
pub fn plan(state: &CatalogState, rules: &TenantRules, config: &CompactorConfig, now_ms: i64, settle: bool) -> Vec<Job> {
    let mut taken = HashSet::new();
    let mut jobs = retire(state, rules, now_ms);
    jobs.iter().for_each(|job| taken.extend(job.blocks()));
    let compactions = compact::Planner::new(state, config, now_ms, settle, &taken).plan();
    for (compaction, reason) in compactions {
        taken.extend(compaction.inputs.iter().copied());
        jobs.push(Job::new(JobKind::Compact(compaction), reason, state));
    }
    for block in delete::rewrites(state) {
        if state.quarantine_of(block).is_none() && taken.insert(block) {
            jobs.push(Job::new(JobKind::Rewrite { block }, "it holds deleted samples", state));
        }
    }
    if config.downsampling {
        for due in downsample::due(state, rules, config, now_ms) {
            if due.inputs.iter().chain(&due.replaces).all(|block| !taken.contains(block)) {
                taken.extend(due.inputs.iter().chain(&due.replaces).copied());
                let reason = due.reason.clone();
                jobs.push(Job::new(JobKind::Downsample(due), reason, state));
            }
        }
    }
    jobs
}

/// The jobs that remove what is kept no longer.
pub fn retire(state: &CatalogState, rules: &TenantRules, now_ms: i64) -> Vec<Job> {
    let mut by_reason: BTreeMap<String, Vec<BlockId>> = BTreeMap::new();
    for (block, reason) in retention::expired(state, rules, now_ms) {
        by_reason.entry(reason).or_default().push(block);
    }
    by_reason.into_iter().map(|(reason, blocks)| Job::new(JobKind::Retire { blocks }, reason, state)).collect()
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blocks = |n: usize| if n == 1 { "1 block".to_owned() } else { format!("{n} blocks") };
        match &self.kind {
            JobKind::Compact(c) if c.partial => write!(f, "merge {} of {} among themselves", blocks(c.inputs.len()), c.span)?,
            JobKind::Compact(c) => write!(f, "compact {} of {} to level {}", blocks(c.inputs.len()), c.span, c.level)?,
            JobKind::Downsample(due) => write!(f, "{due}")?,
            JobKind::Rewrite { block } => write!(f, "rewrite block {block}")?,
            JobKind::Retire { blocks: retired } => write!(f, "retire {}", blocks(retired.len()))?,
        }
        write!(f, " ({}, {} samples): {}", Bytes(self.size_bytes), self.samples, self.reason)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", Utc(self.start_ms), Utc(self.end_ms.saturating_add(1)))
    }
}

/// A size as people read it.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut size = self.0 as f64;
        for unit in ["B", "KiB", "MiB", "GiB"] {
            if size < 1024.0 {
                return write!(f, "{size:.*} {unit}", usize::from(unit != "B"));
            }
            size /= 1024.0;
        }
        write!(f, "{size:.1} TiB")
    }
}

/// Unix milliseconds as date and time to the minute.
struct Utc(i64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match chrono::DateTime::from_timestamp_millis(self.0) {
            Some(time) => write!(f, "{}", time.format("%Y-%m-%dT%H:%MZ")),
            None => write!(f, "{} ms", self.0),
        }
    }
}
