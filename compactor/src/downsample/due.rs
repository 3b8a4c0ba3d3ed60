//! Decides which spans are downsampled: a pure function of the catalog, the rules and the time.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use isobar_block::resolution::{has_base, is_news, span_of as span_of_block};
use isobar_block::{BlockId, BlockMeta, CatalogState};
use serde::Serialize;

use super::RESOLUTIONS_MS;
use crate::config::{CompactorConfig, TenantRules};
use crate::plan::Span;

/// Spans of the first level that is so long are downsampled, and those of longer ones; of the longest if none is.
pub const MIN_SPAN_MS: i64 = 24 * 60 * 60 * 1000;

/// Downsampled blocks that are to be made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Due {
    /// The time that they will stand for.
    pub span: Span,
    /// Level of the blocks that come out.
    pub level: u32,
    /// Lengths of the buckets.
    pub resolutions_ms: Vec<i64>,
    /// Whether they are made from raw blocks. If not, downsampled blocks of the one resolution are merged.
    pub from_raw: bool,
    /// The blocks that are read, ascending by precedence.
    pub inputs: Vec<BlockId>,
    /// The blocks that are not needed any more then.
    pub replaces: Vec<BlockId>,
    /// Why.
    #[serde(skip)]
    pub reason: String,
}

impl fmt::Display for Due {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.resolutions_ms.iter().map(|r| resolution_name(*r)).collect();
        let (names, number) = (names.join(" and "), self.inputs.len());
        let blocks = if number == 1 { "1 block".to_owned() } else { format!("{number} blocks") };
        match self.from_raw {
            true => write!(f, "downsample {blocks} of {} to {names}", self.span),
            false => write!(f, "merge {blocks} of {} with buckets of {names}", self.span),
        }
    }
}

fn resolution_name(resolution_ms: i64) -> String {
    let minutes = resolution_ms / 60_000;
    if minutes >= 60 && minutes % 60 == 0 { format!("{}h", minutes / 60) } else { format!("{minutes}m") }
}

/// The span that a downsampled block stands for; `None` for raw blocks.
pub fn span_of(block: &BlockMeta) -> Option<Span> {
    span_of_block(block).map(|range| Span { start_ms: range.start_ms(), end_ms: range.end_ms() })
}

/// What of a tenant is to be downsampled, in order of time. Blocks in quarantine are not read; where raw samples are in one,
/// nothing is made until it is repaired or removed.
pub fn due(state: &CatalogState, rules: &TenantRules, config: &CompactorConfig, now_ms: i64) -> Vec<Due> {
    let planner = Planner::new(state, rules, config, now_ms);
    let mut out = planner.of_raw();
    out.extend(planner.merges(&out));
    out.sort_by_key(|due| (due.span.start_ms, due.resolutions_ms.clone()));
    out
}

struct Planner<'a> {
    state: &'a CatalogState,
    rules: &'a TenantRules,
    raw: Vec<&'a Arc<BlockMeta>>,
    /// Downsampled blocks and their spans.
    made: Vec<(&'a Arc<BlockMeta>, Span)>,
    /// Lengths of levels by number, of those that are long enough.
    levels: Vec<(u32, i64)>,
    now_ms: i64,
}

impl<'a> Planner<'a> {
    fn new(state: &'a CatalogState, rules: &'a TenantRules, config: &CompactorConfig, now_ms: i64) -> Self {
        let lengths: Vec<i64> = config.levels.iter().map(|l| millis(*l).max(1)).collect();
        let numbered: Vec<(u32, i64)> = (1..).zip(lengths).collect();
        let first = numbered.iter().position(|(_, length_ms)| *length_ms >= MIN_SPAN_MS);
        let levels = numbered[first.unwrap_or(numbered.len().saturating_sub(1))..].to_vec();
        let made = state.blocks.iter().filter_map(|b| Some((b, span_of(b)?))).collect();
        Self { state, rules, raw: state.blocks.iter().filter(|b| b.resolution_ms == 0).collect(), made, levels, now_ms }
    }

    /// The compacted span that a raw block lies in, and its level.
    fn span_of_raw(&self, block: &BlockMeta) -> Option<(Span, u32)> {
        let spans = self.levels.iter().filter(|(level, _)| *level <= block.level);
        let mut fitting = spans
            .map(|(level, length_ms)| (Span::aligned(block.min_time_ms, *length_ms), *level))
            .filter(|(s, _)| s.contains(block.max_time_ms));
        // A block that was compacted for a longer span than it fills counts as one of that span.
        fitting.next_back()
    }

    fn of_raw(&self) -> Vec<Due> {
        let spans: BTreeMap<Span, u32> = self.raw.iter().filter_map(|b| self.span_of_raw(b)).collect();
        let enclosed = |span: &Span| spans.keys().any(|other| other != span && other.covers(*span));
        spans.iter().filter(|(span, _)| !enclosed(span)).filter_map(|(span, level)| self.consider(*span, *level)).collect()
    }

    fn consider(&self, span: Span, level: u32) -> Option<Due> {
        let raw: Vec<&Arc<BlockMeta>> = self.raw.iter().filter(|b| Span::of(b).overlaps(span)).copied().collect();
        let is_damaged = raw.iter().any(|b| self.state.quarantine_of(b.ulid).is_some());
        if self.now_ms <= span.end_ms || is_damaged || is_older(span.end_ms, self.rules.raw_retention, self.now_ms) {
            return None;
        }
        // Late blocks wait for their compaction, and are read along if something is due anyway.
        let compacted = raw.iter().filter(|b| self.span_of_raw(b).is_some_and(|(s, _)| s == span));
        let compacted: Vec<&Arc<BlockMeta>> = compacted.copied().collect();
        if compacted.is_empty() {
            return None;
        }
        let mut reason = String::new();
        let mut resolutions_ms = Vec::new();
        for resolution_ms in RESOLUTIONS_MS {
            let length_ms = span.end_ms.saturating_sub(span.start_ms).saturating_add(1);
            if length_ms % resolution_ms != 0 || is_older(span.end_ms, self.retention(resolution_ms), self.now_ms) {
                continue;
            }
            let of_resolution: Vec<(&Arc<BlockMeta>, Span)> =
                self.made.iter().filter(|(b, s)| b.resolution_ms == resolution_ms && s.overlaps(span)).copied().collect();
            // What was made together is told by its precedence, however many blocks it is.
            let covering: Vec<&Arc<BlockMeta>> = of_resolution.iter().filter(|(_, s)| s.covers(span)).map(|(b, _)| *b).collect();
            let newest_ms = covering.iter().map(|b| b.precedence_ms).max();
            let together = || covering.iter().copied().filter(|b| Some(b.precedence_ms) == newest_ms);
            if newest_ms.is_some() && !compacted.iter().any(|raw| is_news(raw, together())) {
                continue;
            }
            if !of_resolution.is_empty() && !self.may_replace(span, &of_resolution, &raw) {
                continue;
            }
            let why = if of_resolution.is_empty() { "the span is complete" } else { "its raw blocks have changed" };
            reason = why.to_owned();
            resolutions_ms.push(resolution_ms);
        }
        if resolutions_ms.is_empty() {
            return None;
        }
        let replaced = self.made.iter().filter(|(b, s)| resolutions_ms.contains(&b.resolution_ms) && span.covers(*s));
        let replaces = replaced.map(|(b, _)| b.ulid).collect();
        Some(Due { span, level, resolutions_ms, from_raw: true, inputs: raw.iter().map(|b| b.ulid).collect(), replaces, reason })
    }

    /// Whether the raw blocks still hold all that was downsampled before. Otherwise what was made from more is kept.
    fn may_replace(&self, span: Span, made: &[(&Arc<BlockMeta>, Span)], raw: &[&Arc<BlockMeta>]) -> bool {
        let replaced: Vec<&Arc<BlockMeta>> = made.iter().filter(|(_, s)| span.covers(*s)).map(|(b, _)| *b).collect();
        !is_older(span.start_ms, self.rules.raw_retention, self.now_ms) && has_base(&replaced, raw.iter().copied())
    }

    fn retention(&self, resolution_ms: i64) -> Option<Duration> {
        if resolution_ms == RESOLUTIONS_MS[0] { self.rules.five_minutes_retention } else { self.rules.one_hour_retention }
    }

    /// Spans of the longer levels whose raw samples are gone and whose downsampled blocks are in several pieces.
    fn merges(&self, planned: &[Due]) -> Vec<Due> {
        let mut out: Vec<Due> = Vec::new();
        for (level, length_ms) in self.levels.iter().skip(1).rev() {
            for resolution_ms in RESOLUTIONS_MS {
                let mut by_span: BTreeMap<Span, Vec<(&'a Arc<BlockMeta>, Span)>> = BTreeMap::new();
                for (block, span) in self.made.iter().filter(|(b, _)| b.resolution_ms == resolution_ms) {
                    by_span.entry(Span::aligned(span.start_ms, *length_ms)).or_default().push((*block, *span));
                }
                for (span, blocks) in by_span {
                    let taken =
                        planned.iter().chain(&out).any(|due| due.resolutions_ms.contains(&resolution_ms) && due.span.overlaps(span));
                    if length_ms % resolution_ms == 0 && !taken && self.is_mergeable(span, &blocks) {
                        let ids: Vec<BlockId> = blocks.iter().map(|(b, _)| b.ulid).collect();
                        let (level, resolutions_ms, inputs, replaces) = (*level, vec![resolution_ms], ids.clone(), ids);
                        let reason = "their raw samples are gone".to_owned();
                        out.push(Due { span, level, resolutions_ms, from_raw: false, inputs, replaces, reason });
                    }
                }
            }
        }
        out
    }

    fn is_mergeable(&self, span: Span, blocks: &[(&Arc<BlockMeta>, Span)]) -> bool {
        let in_pieces = blocks.iter().any(|(_, s)| *s != blocks[0].1);
        let has_raw = self.raw.iter().any(|b| Span::of(b).overlaps(span));
        let is_sound = blocks.iter().all(|(b, s)| span.covers(*s) && self.state.quarantine_of(b.ulid).is_none());
        in_pieces && !has_raw && is_sound && self.now_ms > span.end_ms
    }
}

/// Whether something from `t_ms` is kept no longer.
fn is_older(t_ms: i64, retention: Option<Duration>, now_ms: i64) -> bool {
    retention.is_some_and(|keep| t_ms.saturating_add(millis(keep)) < now_ms)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
