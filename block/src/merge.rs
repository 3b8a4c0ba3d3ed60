//! Several sorted sets as one: each logical series once, whatever holds its samples.
//!
//! Samples of one series in several sets are joined by timestamp, where that of the later set counts. If replica labels are
//! named, series that differ in them only are one: the samples of each replica are joined first, then [`crate::dedup`] makes one
//! series of them. Scans read unmerged sets through [`Join`] alone; the rest of the work is for those who need one set.

mod groups;
mod join;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;

use crate::dedup::{Deduplicator, whole_windows, with_border};
use crate::labels::METRIC_NAME;
use crate::{LabelsRef, Result, SampleBuf, SeriesRun, SeriesSet, TimeRange};
use groups::{Groups, Member, Replicas};
pub use join::Join;
pub(crate) use join::append_counts;

/// Rows between two wanted ones that are loaded with them, so that they are one range.
const BRIDGED_ROWS: u32 = 16;

/// Loads of one run that are under way at a time.
const CONCURRENT_LOADS: usize = 32;

/// One sorted set of all series of `sets`, given in ascending precedence. Labels come without the `replica_labels`, and series
/// that differ in those only are deduplicated. All sets should have the same resolution; that of the result is the coarsest.
///
/// Where nothing is to be merged, the result is the set itself.
pub fn merged(sets: Vec<Arc<dyn SeriesSet>>, replica_labels: &[String]) -> Arc<dyn SeriesSet> {
    merged_within(sets, replica_labels, u64::MAX)
}

/// As [`merged`], with `remembered_bytes` at most for joined timestamps in each run that is read.
pub fn merged_within(sets: Vec<Arc<dyn SeriesSet>>, replica_labels: &[String], remembered_bytes: u64) -> Arc<dyn SeriesSet> {
    let present = |name: &&String| *name != METRIC_NAME && sets.iter().any(|set| set.may_have_label(name));
    let mut replica_labels: Vec<String> = replica_labels.iter().filter(present).cloned().collect();
    replica_labels.sort();
    replica_labels.dedup();
    match <[_; 1]>::try_from(sets) {
        Ok([only]) if replica_labels.is_empty() => only,
        Ok([only]) => Arc::new(MergedSet(Arc::new(Merged::new(vec![only], replica_labels, remembered_bytes)))),
        Err(sets) => Arc::new(MergedSet(Arc::new(Merged::new(sets, replica_labels, remembered_bytes)))),
    }
}

struct MergedSet(Arc<Merged>);

struct Merged {
    sets: Vec<Arc<dyn SeriesSet>>,
    groups: Groups,
    replica_labels: Vec<String>,
    /// Labels of the groups, if they differ from those of their members.
    labels: Option<Arena>,
    remembered_bytes: u64,
    /// What earlier runs have remembered.
    idle: Mutex<Vec<Memory>>,
}

/// What is worth keeping from run to run.
#[derive(Default)]
struct Memory {
    join: Join,
    dedup: Deduplicator,
    replicas: Vec<SampleBuf>,
    other: SampleBuf,
}

impl Merged {
    fn new(sets: Vec<Arc<dyn SeriesSet>>, replica_labels: Vec<String>, remembered_bytes: u64) -> Self {
        let groups = Groups::of(&sets, &replica_labels);
        let labels = (!replica_labels.is_empty()).then(|| {
            let mut arena = Arena::default();
            for group in 0..groups.len() {
                let member = groups.group(group)[0];
                sets[member.set as usize].labels(member.row as usize).drop_into(&replica_labels, &mut arena.bytes);
                arena.ends.push(arena.bytes.len());
            }
            arena.bytes.shrink_to_fit();
            arena
        });
        Self { sets, groups, replica_labels, labels, remembered_bytes, idle: Mutex::default() }
    }

    fn labels(&self, group: usize) -> LabelsRef<'_> {
        match &self.labels {
            Some(arena) => arena.get(group),
            None => {
                let member = self.groups.group(group)[0];
                self.sets[member.set as usize].labels(member.row as usize)
            }
        }
    }
}

/// Label sets one after the other.
#[derive(Default)]
struct Arena {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Arena {
    fn get(&self, i: usize) -> LabelsRef<'_> {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        // SAFETY: between two ends stands what `drop_into` has written.
        unsafe { LabelsRef::from_bytes_unchecked(&self.bytes[start..self.ends[i]]) }
    }
}

#[async_trait]
impl SeriesSet for MergedSet {
    fn len(&self) -> usize {
        self.0.groups.len()
    }

    fn labels(&self, row: usize) -> LabelsRef<'_> {
        self.0.labels(row)
    }

    fn resolution_ms(&self) -> i64 {
        self.0.sets.iter().map(|set| set.resolution_ms()).max().unwrap_or(0)
    }

    fn may_have_label(&self, name: &str) -> bool {
        !self.0.replica_labels.iter().any(|l| l == name) && self.0.sets.iter().any(|set| set.may_have_label(name))
    }

    /// Where a group has several replicas, all windows that `range` touches are loaded whole, because only whole windows are
    /// deduplicated the same way for every range.
    async fn load(&self, rows: Range<usize>, range: TimeRange) -> Result<Box<dyn SeriesRun>> {
        let merged = &self.0;
        assert!(rows.start <= rows.end && rows.end <= merged.groups.len(), "rows {rows:?} of a set of {} series", merged.groups.len());
        let range = match merged.groups.replicas(rows.clone()) {
            Replicas::None => range,
            Replicas::One => with_border(range),
            Replicas::Several => whole_windows(range),
        };
        let mut wanted: Vec<Vec<u32>> = vec![Vec::new(); merged.sets.len()];
        for member in merged.groups.members(rows.clone()) {
            wanted[member.set as usize].push(member.row);
        }
        let mut loads = Vec::new();
        for ((number, set), wanted) in merged.sets.iter().enumerate().zip(wanted) {
            for rows in ranges(wanted) {
                loads.push(async move {
                    let run = set.load(rows.start as usize..rows.end as usize, range).await?;
                    Ok::<_, crate::Error>(Loaded { set: number as u32, rows, run })
                });
            }
        }
        let loaded = stream::iter(loads).buffered(CONCURRENT_LOADS).try_collect().await?;
        let new = || Memory { join: Join::remembering(merged.remembered_bytes), ..Memory::default() };
        let memory = merged.idle.lock().pop().unwrap_or_else(new);
        Ok(Box::new(MergedRun { merged: Arc::clone(merged), rows, loaded, memory }))
    }
}

/// The rows as a few ranges.
fn ranges(mut rows: Vec<u32>) -> Vec<Range<u32>> {
    rows.sort_unstable();
    let mut ranges: Vec<Range<u32>> = Vec::new();
    for row in rows {
        match ranges.last_mut() {
            Some(last) if row <= last.end + BRIDGED_ROWS => last.end = row + 1,
            _ => ranges.push(row..row + 1),
        }
    }
    ranges
}

/// Rows of one set, loaded.
struct Loaded {
    set: u32,
    rows: Range<u32>,
    run: Box<dyn SeriesRun>,
}

struct MergedRun {
    merged: Arc<Merged>,
    rows: Range<usize>,
    /// Ascending by set and row.
    loaded: Vec<Loaded>,
    memory: Memory,
}

impl SeriesRun for MergedRun {
    fn read(&mut self, row: usize, out: &mut SampleBuf) -> Result<()> {
        assert!(self.rows.contains(&row), "the row is one of those that were loaded");
        let Self { merged, loaded, memory, .. } = self;
        let members = merged.groups.group(row);
        if let [only] = members
            && only.replica == 0
        {
            return read(loaded, *only, out);
        }
        let mut replicas = 0;
        for (i, member) in members.iter().enumerate() {
            if i == 0 || members[i - 1].replica != member.replica {
                if memory.replicas.len() == replicas {
                    memory.replicas.push(SampleBuf::default());
                }
                read(loaded, *member, &mut memory.replicas[replicas])?;
                replicas += 1;
            } else {
                read(loaded, *member, &mut memory.other)?;
                memory.join.join(&mut memory.replicas[replicas - 1], &mut memory.other);
            }
        }
        let is_first_plain = members[0].replica == 0;
        memory.dedup.dedup(merged.labels(row).metric_name(), &mut memory.replicas[..replicas], is_first_plain, out);
        Ok(())
    }
}

fn read(loaded: &mut [Loaded], member: Member, out: &mut SampleBuf) -> Result<()> {
    let next = loaded.partition_point(|l| (l.set, l.rows.end) <= (member.set, member.row));
    loaded[next].run.read(member.row as usize, out)
}

impl Drop for MergedRun {
    fn drop(&mut self) {
        self.merged.idle.lock().push(std::mem::take(&mut self.memory));
    }
}

#[cfg(test)]
pub(crate) mod tests;
