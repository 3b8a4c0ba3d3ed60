//! Decides which blocks answer which slice of time at which resolution: a pure function of the list of blocks.
//!
//! A downsampled block stands for all of its span: the multiple of [`BlockMeta::window_ms`] in which it lies. The blocks of one
//! resolution, span and precedence are a *group* (a big result is split by series). Every instant is answered either by raw
//! blocks or by one group: by the coarsest that is asked for at most, else by the finest of the coarser ones. Raw blocks that
//! are newer than a group hold late samples, so that the group does not answer for the time of those; but if the raw
//! samples that the group was made of are gone, it is all there is, and newer raw blocks are read on top of it.

mod clip;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::meta::{BlockId, BlockMeta};
use crate::{TimeRange, Tombstone};

pub use clip::clipped;

/// A block that is to be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// The block.
    pub block: Arc<BlockMeta>,
    /// The only times in which its samples count, ascending, with gaps between them; `None` if all of them do.
    pub clip: Option<Vec<TimeRange>>,
}

/// What is to be read for a query.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Blocks to read, in the order in which they were given.
    pub parts: Vec<Part>,
    /// Blocks that would have to be read, but cannot be.
    pub missing: Vec<Arc<BlockMeta>>,
}

/// Downsampled blocks that were made together.
struct Group<'a> {
    resolution_ms: i64,
    span: TimeRange,
    precedence_ms: i64,
    members: Vec<&'a Arc<BlockMeta>>,
    /// Whether the raw samples that it was made of still exist.
    has_base: bool,
    is_damaged: bool,
    /// Whether no member can be read.
    is_lost: bool,
}

/// Who answers a slice of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Raw,
    Group(usize),
    /// A group should, but cannot: raw blocks answer, and its members are missing.
    Lost(usize),
}

/// A slice of time and who answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slice {
    range: TimeRange,
    choice: Choice,
}

/// Finds what to read of `blocks`, which ascend by precedence, for `range`. `readable` says which are not damaged.
pub fn plan(blocks: &[Arc<BlockMeta>], readable: impl Fn(BlockId) -> bool, range: TimeRange, max_resolution_ms: i64) -> Plan {
    let groups = groups(blocks, &readable, range);
    let slices = slices(blocks, &groups, range, max_resolution_ms);
    let mut plan = Plan::default();
    for block in blocks {
        let counts = |slice: &&Slice| match slice.choice {
            Choice::Raw | Choice::Lost(_) if block.resolution_ms == 0 => true,
            Choice::Raw => false,
            Choice::Group(g) if block.resolution_ms == 0 => !groups[g].has_base && is_news(block, groups[g].members.iter().copied()),
            Choice::Group(g) | Choice::Lost(g) => {
                block.resolution_ms == groups[g].resolution_ms && groups[g].members.iter().any(|m| m.ulid == block.ulid)
            }
        };
        let Ok(held) = block.time_range() else { continue };
        let ranges = joined(slices.iter().filter(counts).map(|s| s.range));
        if !ranges.iter().any(|r| intersection(*r, held).is_some_and(|r| r.overlaps(range))) {
            continue;
        }
        if !readable(block.ulid) {
            plan.missing.push(block.clone());
            continue;
        }
        let is_whole = ranges.iter().any(|r| r.start_ms() <= held.start_ms() && held.end_ms() <= r.end_ms());
        plan.parts.push(Part { block: block.clone(), clip: (!is_whole).then_some(ranges) });
    }
    plan
}

/// The span that a downsampled block stands for; `None` for raw blocks.
pub fn span_of(block: &BlockMeta) -> Option<TimeRange> {
    if block.resolution_ms <= 0 || block.window_ms <= 0 {
        return None;
    }
    let start_ms = block.min_time_ms.div_euclid(block.window_ms).checked_mul(block.window_ms)?;
    TimeRange::new(start_ms, start_ms.checked_add(block.window_ms - 1)?).ok()
}

/// Whether `raw` blocks, those that overlap the span of the downsampled blocks in `made`, still hold what those were made of. A
/// few late samples in the same time are fewer than all. Deletions make raw samples fewer before they reach what was made.
pub fn has_base<'a>(made: &[&Arc<BlockMeta>], raw: impl Iterator<Item = &'a Arc<BlockMeta>>) -> bool {
    let needed: u64 = made.iter().map(|b| b.raw_samples).sum();
    let deletions_ms = made.iter().map(|b| b.deletions_ms).max().unwrap_or(0);
    let (mut found, mut deleted) = (0, false);
    for block in raw {
        found += block.samples + block.histograms;
        deleted |= block.deletions_ms > deletions_ms;
    }
    found > 0 && found >= if deleted { needed / 2 } else { needed }
}

/// Whether a raw block may hold samples that the downsampled blocks in `made` do not stand for: it is newer, or it was
/// neither read when they were made nor compacted from blocks that were. An import has a low precedence, and is news all the same.
pub fn is_news<'a>(raw: &BlockMeta, made: impl Iterator<Item = &'a Arc<BlockMeta>> + Clone) -> bool {
    let knows = |id: &BlockId| made.clone().any(|m| m.sources.contains(id));
    let is_known = knows(&raw.ulid) || (!raw.sources.is_empty() && raw.sources.iter().all(knows));
    // A block that does not say what it was made of is told by its age alone.
    let tells = made.clone().any(|m| !m.sources.is_empty());
    made.clone().all(|m| raw.precedence_ms > m.precedence_ms) || (tells && !is_known)
}

/// Downsampled blocks that are affected if raw blocks, those of `of`, lose series or get others, each with whether the raw
/// samples that it was made of still exist. If they do, all that is read of its span is raw as long as it knows none of the raw
/// blocks, and it can be made anew; if not, it is affected only if it stands for one of the blocks.
pub fn affected(blocks: &[Arc<BlockMeta>], readable: impl Fn(BlockId) -> bool, of: &[Arc<BlockMeta>]) -> Vec<(Arc<BlockMeta>, bool)> {
    let mut out = Vec::new();
    for group in groups(blocks, &readable, TimeRange::ALL) {
        let members = || group.members.iter().copied();
        let stands_for = |raw: &&Arc<BlockMeta>| raw.overlaps(group.span) && (group.has_base || !is_news(raw, members()));
        if of.iter().any(|raw| stands_for(&raw)) {
            out.extend(members().filter(|m| readable(m.ulid)).map(|m| (m.clone(), group.has_base)));
        }
    }
    out
}

/// Deletions as blocks of a resolution have to obey them: a bucket of which a part is deleted is gone, because what is left of
/// it is not known.
pub fn widened(tombstones: &[Arc<Tombstone>], resolution_ms: i64) -> Vec<Arc<Tombstone>> {
    if resolution_ms <= 0 {
        return tombstones.to_vec();
    }
    let widen = |tombstone: &Arc<Tombstone>| {
        let start_of = |t_ms: i64| t_ms.div_euclid(resolution_ms).saturating_mul(resolution_ms);
        let mut wide = (**tombstone).clone();
        wide.min_time_ms = start_of(wide.min_time_ms);
        wide.max_time_ms = start_of(wide.max_time_ms).saturating_add(resolution_ms - 1);
        Arc::new(wide)
    };
    tombstones.iter().map(widen).collect()
}

fn groups<'a>(blocks: &'a [Arc<BlockMeta>], readable: &impl Fn(BlockId) -> bool, range: TimeRange) -> Vec<Group<'a>> {
    let mut by_key: BTreeMap<(i64, i64, i64, i64), Vec<&'a Arc<BlockMeta>>> = BTreeMap::new();
    for block in blocks {
        if let Some(span) = span_of(block).filter(|span| span.overlaps(range)) {
            let key = (block.resolution_ms, span.start_ms(), span.end_ms(), block.precedence_ms);
            by_key.entry(key).or_default().push(block);
        }
    }
    let mut groups = Vec::with_capacity(by_key.len());
    for ((resolution_ms, start_ms, end_ms, precedence_ms), members) in by_key {
        let span = TimeRange::new(start_ms, end_ms).expect("it was a range before it was a key");
        let raw = blocks.iter().filter(|b| b.resolution_ms == 0 && b.overlaps(span) && readable(b.ulid));
        let has_base = has_base(&members, raw);
        let is_damaged = members.iter().any(|m| !readable(m.ulid));
        let is_lost = !members.iter().any(|m| readable(m.ulid));
        groups.push(Group { resolution_ms, span, precedence_ms, members, has_base, is_damaged, is_lost });
    }
    groups
}

impl Group<'_> {
    /// The times for which the group can answer.
    fn coverage(&self, blocks: &[Arc<BlockMeta>]) -> Vec<TimeRange> {
        if !self.has_base {
            return vec![self.span];
        }
        if self.is_damaged {
            return Vec::new();
        }
        let is_late = |b: &&Arc<BlockMeta>| b.resolution_ms == 0 && b.overlaps(self.span) && is_news(b, self.members.iter().copied());
        // Buckets with late samples are not right as a whole.
        let holes = blocks.iter().filter(is_late).map(|b| {
            let start_ms = b.min_time_ms.max(self.span.start_ms());
            let end_ms = b.max_time_ms.min(self.span.end_ms());
            let step_ms = self.resolution_ms;
            let bucket_end_ms = (end_ms.div_euclid(step_ms) * step_ms).saturating_add(step_ms - 1);
            TimeRange::new(start_ms.div_euclid(step_ms) * step_ms, bucket_end_ms).expect("it overlaps the span")
        });
        without(self.span, &joined(holes))
    }
}

/// All of time, cut into slices; those outside of `range` are not looked at.
fn slices(blocks: &[Arc<BlockMeta>], groups: &[Group<'_>], range: TimeRange, max_resolution_ms: i64) -> Vec<Slice> {
    let coverage: Vec<Vec<TimeRange>> = groups.iter().map(|g| g.coverage(blocks)).collect();
    let mut borders = vec![i64::MIN];
    for covered in coverage.iter().flatten() {
        borders.push(covered.start_ms());
        borders.extend(covered.end_ms().checked_add(1));
    }
    borders.sort_unstable();
    borders.dedup();
    let mut slices: Vec<Slice> = Vec::with_capacity(borders.len());
    for (i, start_ms) in borders.iter().enumerate() {
        let end_ms = borders.get(i + 1).map_or(i64::MAX, |next| next - 1);
        let slice = TimeRange::new(*start_ms, end_ms).expect("borders ascend");
        if !slice.overlaps(range) {
            continue;
        }
        let covers = |g: &usize| coverage[*g].iter().any(|c| c.contains(*start_ms));
        let candidates: Vec<usize> = (0..groups.len()).filter(covers).collect();
        let choice = choose(groups, &candidates, max_resolution_ms);
        match slices.last_mut().filter(|last| last.choice == choice && last.range.end_ms() + 1 == *start_ms) {
            Some(last) => last.range = TimeRange::new(last.range.start_ms(), end_ms).expect("slices ascend"),
            None => slices.push(Slice { range: slice, choice }),
        }
    }
    slices
}

fn choose(groups: &[Group<'_>], candidates: &[usize], max_resolution_ms: i64) -> Choice {
    let has_raw = candidates.iter().all(|g| groups[*g].has_base);
    let mut options: Vec<(i64, Choice)> = Vec::with_capacity(candidates.len() + 1);
    if has_raw {
        options.push((0, Choice::Raw));
    }
    for is_damaged in [false, true] {
        // Groups with gaps count only where nothing else is left.
        if is_damaged && !options.is_empty() {
            break;
        }
        let of_kind = candidates.iter().filter(|g| groups[**g].is_damaged == is_damaged);
        let choice = |g: usize| if groups[g].is_lost { Choice::Lost(g) } else { Choice::Group(g) };
        options.extend(of_kind.map(|g| (groups[*g].resolution_ms, choice(*g))));
    }
    // The newer of two groups of one resolution comes last.
    options.sort_by_key(|(resolution_ms, choice)| match choice {
        Choice::Raw => (*resolution_ms, i64::MIN),
        Choice::Group(g) | Choice::Lost(g) => (*resolution_ms, groups[*g].precedence_ms),
    });
    let fine_enough = options.iter().rfind(|(resolution_ms, _)| *resolution_ms <= max_resolution_ms);
    let finest_ms = options.first().map(|(resolution_ms, _)| *resolution_ms);
    let chosen = fine_enough.or_else(|| options.iter().rfind(|(resolution_ms, _)| Some(*resolution_ms) == finest_ms));
    chosen.map_or(Choice::Raw, |(_, choice)| *choice)
}

/// Ranges in ascending order as ranges with gaps between them.
fn joined(ranges: impl Iterator<Item = TimeRange>) -> Vec<TimeRange> {
    let mut ranges: Vec<TimeRange> = ranges.collect();
    ranges.sort_by_key(|r| r.start_ms());
    let mut out: Vec<TimeRange> = Vec::new();
    for range in ranges {
        match out.last_mut().filter(|last| range.start_ms() <= last.end_ms().saturating_add(1)) {
            Some(last) => {
                let end_ms = last.end_ms().max(range.end_ms());
                *last = TimeRange::new(last.start_ms(), end_ms).expect("the end did not move down");
            }
            None => out.push(range),
        }
    }
    out
}

fn intersection(a: TimeRange, b: TimeRange) -> Option<TimeRange> {
    TimeRange::new(a.start_ms().max(b.start_ms()), a.end_ms().min(b.end_ms())).ok()
}

/// What is left of `range` without `holes`, which ascend and have gaps between them.
fn without(range: TimeRange, holes: &[TimeRange]) -> Vec<TimeRange> {
    let mut out = Vec::with_capacity(holes.len() + 1);
    let mut next_ms = Some(range.start_ms());
    for hole in holes {
        if let Some(start_ms) = next_ms
            && let Some(before_ms) = hole.start_ms().checked_sub(1)
        {
            out.extend(TimeRange::new(start_ms, before_ms).ok());
        }
        next_ms = hole.end_ms().checked_add(1);
    }
    out.extend(next_ms.and_then(|start_ms| TimeRange::new(start_ms, range.end_ms()).ok()));
    out
}
