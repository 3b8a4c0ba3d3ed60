//! Which spans are compacted: the highest level first, because data that is merged into it at once is written once.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashSet;
use isobar_block::{BlockId, BlockMeta, CatalogState};

use super::{Compaction, Span};
use crate::config::CompactorConfig;

/// Most blocks that are merged at once as long as a lower level can bring their number down.
pub const MAX_INPUTS: usize = 128;
/// Memory that there has to be for each of them: pages of all are held at the same time.
pub const INPUT_BYTES: u64 = 8 << 20;
/// So many are merged at once with however little memory: more than the next lower level can leave.
const MIN_INPUTS: usize = 16;
/// Blocks that came after the compaction of their span wait until they have this share (1/n) of its size …
const LATE_SHARE: u64 = 20;
/// … or until they are so old.
const LATE_MS: i64 = 24 * 60 * 60 * 1000;
/// Blocks are merged among themselves up to this share (1/n) of the compactor's memory, so that few blocks come out.
const PARTIAL_SHARE: u64 = 4;

/// Plans the compactions of one tenant.
pub struct Planner<'a> {
    /// Raw blocks that can be read.
    blocks: Vec<&'a Arc<BlockMeta>>,
    levels_ms: Vec<i64>,
    partial_bytes: u64,
    max_inputs: usize,
    now_ms: i64,
    /// How long after its end a span is due; `None` if nothing waits.
    settle_ms: Option<i64>,
    taken: HashSet<BlockId>,
    /// Spans in which nothing more is planned: they are due at a higher level once other jobs are done.
    reserved: Vec<Span>,
}

/// What is known of a span and a level.
struct Candidate<'a> {
    span: Span,
    level: usize,
    /// The result of the last compaction of the span.
    base: Vec<&'a Arc<BlockMeta>>,
    /// Everything else that overlaps it.
    late: Vec<&'a Arc<BlockMeta>>,
}

impl<'a> Planner<'a> {
    /// A planner that leaves the blocks in `taken` alone.
    pub fn new(state: &'a CatalogState, config: &CompactorConfig, now_ms: i64, settle: bool, taken: &HashSet<BlockId>) -> Self {
        let usable = |b: &&Arc<BlockMeta>| b.resolution_ms == 0 && state.quarantine_of(b.ulid).is_none() && !taken.contains(&b.ulid);
        Self {
            blocks: state.blocks.iter().filter(usable).collect(),
            levels_ms: config.levels.iter().map(|l| i64::try_from(l.as_millis()).unwrap_or(i64::MAX).max(1)).collect(),
            partial_bytes: config.memory_bytes / PARTIAL_SHARE,
            max_inputs: max_inputs(config.memory_bytes),
            now_ms,
            settle_ms: settle.then(|| i64::try_from(config.settle.as_millis()).unwrap_or(i64::MAX)),
            taken: HashSet::new(),
            reserved: Vec::new(),
        }
    }

    /// The compactions that are due, with reasons. No block is in two of them.
    pub fn plan(mut self) -> Vec<(Compaction, String)> {
        let mut out = Vec::new();
        for level in (1..=self.levels_ms.len()).rev() {
            for (span, blocks) in self.spans(level) {
                if let Some((compaction, reason)) = self.consider(span, level, blocks) {
                    self.taken.extend(compaction.inputs.iter().copied());
                    out.push((compaction, reason));
                }
            }
        }
        out
    }

    /// Spans of a level in which a block begins or ends, with all blocks that overlap them. A span that lies inside of a block
    /// has its turn when that block has been taken apart from its ends.
    fn spans(&self, level: usize) -> BTreeMap<Span, Vec<&'a Arc<BlockMeta>>> {
        let len_ms = self.levels_ms[level - 1];
        let ends = |b: &BlockMeta| [Span::aligned(b.min_time_ms, len_ms), Span::aligned(b.max_time_ms, len_ms)];
        let mut spans: BTreeMap<Span, Vec<&'a Arc<BlockMeta>>> =
            self.blocks.iter().flat_map(|b| ends(b)).map(|s| (s, Vec::new())).collect();
        for block in &self.blocks {
            let [first, last] = ends(block);
            spans.range_mut(first..=last.max(first)).for_each(|(_, blocks)| blocks.push(block));
        }
        spans
    }

    fn consider(&mut self, span: Span, level: usize, blocks: Vec<&'a Arc<BlockMeta>>) -> Option<(Compaction, String)> {
        let ended = self.now_ms > span.end_ms.saturating_add(self.settle_ms.unwrap_or(0));
        let covered = blocks.iter().any(|b| self.level_of(b) > level);
        if !ended || covered || self.reserved.iter().any(|r| r.covers(span)) {
            return None;
        }
        let taken = blocks.iter().any(|b| self.taken.contains(&b.ulid));
        let candidate = self.candidate(span, level, blocks);
        let reason = self.due(&candidate)?;
        if taken {
            self.reserved.push(span);
            return None;
        }
        self.compaction(candidate, reason)
    }

    /// The level as which a block counts: the highest one up to its own of which it lies in one span. Others are left from a
    /// configuration with other levels.
    fn level_of(&self, block: &BlockMeta) -> usize {
        let top = (block.level as usize).min(self.levels_ms.len());
        let fits = |level: &usize| Span::aligned(block.min_time_ms, self.levels_ms[level - 1]).contains(block.max_time_ms);
        (1..=top).rev().find(fits).unwrap_or(0)
    }

    fn candidate(&self, span: Span, level: usize, blocks: Vec<&'a Arc<BlockMeta>>) -> Candidate<'a> {
        // The blocks of one compaction have one precedence, also after deletions were carried out in them.
        let mut sizes: BTreeMap<i64, u64> = BTreeMap::new();
        for block in blocks.iter().filter(|b| self.level_of(b) == level) {
            *sizes.entry(block.precedence_ms).or_default() += block.size_bytes;
        }
        let base = sizes.into_iter().max_by_key(|(precedence_ms, size)| (*size, *precedence_ms)).map(|(precedence_ms, _)| precedence_ms);
        let is_base = |b: &&Arc<BlockMeta>| self.level_of(b) == level && Some(b.precedence_ms) == base;
        let (base, late) = blocks.into_iter().partition(is_base);
        Candidate { span, level, base, late }
    }

    /// Why a span is compacted, if it is.
    fn due(&self, candidate: &Candidate<'_>) -> Option<String> {
        let Candidate { span, base, late, .. } = candidate;
        if late.is_empty() {
            return None;
        }
        if base.is_empty() {
            return Some("the span is complete".into());
        }
        if self.settle_ms.is_none() {
            return Some("blocks came late".into());
        }
        let base_bytes: u64 = base.iter().map(|b| b.size_bytes).sum();
        let late_bytes: u64 = late.iter().map(|b| bytes_within(b, *span)).sum();
        if late_bytes.saturating_mul(LATE_SHARE) >= base_bytes {
            return Some(format!("late blocks have {} % of its size", late_bytes * 100 / base_bytes.max(1)));
        }
        let oldest_ms = late.iter().map(|b| b.precedence_ms).min().unwrap_or(i64::MAX);
        (self.now_ms.saturating_sub(oldest_ms) >= LATE_MS).then(|| "a late block has waited for a day".into())
    }

    fn compaction(&self, candidate: Candidate<'a>, reason: String) -> Option<(Compaction, String)> {
        let Candidate { span, level, base, late } = candidate;
        if late.len() > self.max_inputs {
            let is_low = |b: &&Arc<BlockMeta>| self.level_of(b) + 1 < level;
            if base.is_empty() && level > 1 && late.iter().any(is_low) {
                // Lower levels make fewer blocks of them first.
                return None;
            }
            let is_split = level > 1 && late.iter().all(|b| self.level_of(b) + 1 == level);
            let some = if is_split { None } else { self.smallest_run(&base, &late) };
            if let Some(run) = some {
                let reason = format!("{} blocks are too many for one merge", late.len());
                let inputs = run.iter().map(|b| b.ulid).collect();
                return Some((Compaction { span, level: 0, inputs, partial: true }, reason));
            }
        }
        let mut inputs: Vec<_> = base.into_iter().chain(late).collect();
        inputs.sort_by_key(|b| b.precedence());
        let inputs = inputs.into_iter().map(|b| b.ulid).collect();
        Some((Compaction { span, level: level as u32, inputs, partial: false }, reason))
    }

    /// Of all runs of `max_inputs` blocks that follow each other in precedence the smallest, if it is small enough. No other
    /// block may lie between them whose samples count more than those of the first.
    fn smallest_run<'b>(&self, base: &[&'a Arc<BlockMeta>], late: &'b [&'a Arc<BlockMeta>]) -> Option<&'b [&'a Arc<BlockMeta>]> {
        let size = |run: &&[&Arc<BlockMeta>]| run.iter().map(|b| b.size_bytes).sum::<u64>();
        let is_whole = |run: &&[&Arc<BlockMeta>]| {
            let (first, last) = (run[0].precedence(), run[self.max_inputs - 1].precedence());
            !base.iter().any(|b| first < b.precedence() && b.precedence() < last)
        };
        late.windows(self.max_inputs).filter(is_whole).min_by_key(size).filter(|run| size(run) <= self.partial_bytes)
    }
}

/// How many blocks are merged at once with this memory.
pub fn max_inputs(memory_bytes: u64) -> usize {
    usize::try_from(memory_bytes / INPUT_BYTES).unwrap_or(MAX_INPUTS).clamp(MIN_INPUTS, MAX_INPUTS)
}

/// About how much of a block lies in a span.
fn bytes_within(block: &BlockMeta, span: Span) -> u64 {
    let all = Span::of(block);
    let len = |s: Span| (i128::from(s.end_ms) - i128::from(s.start_ms) + 1) as f64;
    let common = Span { start_ms: all.start_ms.max(span.start_ms), end_ms: all.end_ms.min(span.end_ms) };
    if common.start_ms > common.end_ms { 0 } else { (block.size_bytes as f64 * len(common) / len(all)) as u64 }
}
