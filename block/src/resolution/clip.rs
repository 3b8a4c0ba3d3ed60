//! A set of series of which only some times count.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use hashbrown::HashMap;
use parking_lot::Mutex;

use super::intersection;
use crate::{LabelsRef, Result, SampleBuf, SeriesRun, SeriesSet, TimeRange, Timestamps};

/// Cut timestamp vectors that a set keeps, so that series that shared one still do; beyond it they are not shared.
const MAX_SHARED_CUTS: usize = 4096;

/// The series of `set` with those samples only that lie in `clip`, whose ranges ascend.
pub fn clipped(set: Arc<dyn SeriesSet>, clip: Vec<TimeRange>) -> Arc<dyn SeriesSet> {
    Arc::new(Clipped { set, clip: clip.into(), cuts: Arc::default() })
}

/// By the id of a vector: what is left of it, and which samples those are.
type Cuts = Mutex<HashMap<u64, Cut>>;

#[derive(Clone)]
struct Cut {
    timestamps: Timestamps,
    kept: Arc<[Range<usize>]>,
}

struct Clipped {
    set: Arc<dyn SeriesSet>,
    clip: Arc<[TimeRange]>,
    cuts: Arc<Cuts>,
}

#[async_trait]
impl SeriesSet for Clipped {
    fn len(&self) -> usize {
        self.set.len()
    }

    fn labels(&self, row: usize) -> LabelsRef<'_> {
        self.set.labels(row)
    }

    fn resolution_ms(&self) -> i64 {
        self.set.resolution_ms()
    }

    fn may_have_label(&self, name: &str) -> bool {
        self.set.may_have_label(name)
    }

    async fn load(&self, rows: Range<usize>, range: TimeRange) -> Result<Box<dyn SeriesRun>> {
        let wanted: Vec<TimeRange> = self.clip.iter().filter_map(|c| intersection(*c, range)).collect();
        let hull = wanted.first().zip(wanted.last()).map(|(first, last)| TimeRange::new(first.start_ms(), last.end_ms()));
        let Some(hull) = hull.transpose()? else { return Ok(Box::new(EmptyRun)) };
        let run = self.set.load(rows, hull).await?;
        Ok(Box::new(ClippedRun { run, clip: self.clip.clone(), cuts: self.cuts.clone() }))
    }
}

/// Nothing that was asked for counts.
struct EmptyRun;

impl SeriesRun for EmptyRun {
    fn read(&mut self, _row: usize, out: &mut SampleBuf) -> Result<()> {
        out.clear();
        Ok(())
    }
}

struct ClippedRun {
    run: Box<dyn SeriesRun>,
    clip: Arc<[TimeRange]>,
    cuts: Arc<Cuts>,
}

impl SeriesRun for ClippedRun {
    fn read(&mut self, row: usize, out: &mut SampleBuf) -> Result<()> {
        self.run.read(row, out)?;
        let (Some(first), Some(last)) = (out.timestamps.first(), out.timestamps.last()) else { return Ok(()) };
        if self.clip.iter().any(|c| c.contains(*first) && c.contains(*last)) {
            return Ok(());
        }
        let cut = self.cut(&out.timestamps);
        keep(out, &cut.kept);
        out.timestamps = cut.timestamps;
        Ok(())
    }
}

impl ClippedRun {
    fn cut(&self, timestamps: &Timestamps) -> Cut {
        let id = timestamps.id();
        if id != 0
            && let Some(known) = self.cuts.lock().get(&id)
        {
            return known.clone();
        }
        let inside = |c: &TimeRange| timestamps.partition_point(|t| *t < c.start_ms())..timestamps.partition_point(|t| *t <= c.end_ms());
        let kept: Arc<[Range<usize>]> = self.clip.iter().map(inside).filter(|r| !r.is_empty()).collect();
        let left: Vec<i64> = kept.iter().flat_map(|r| timestamps[r.clone()].iter().copied()).collect();
        if id == 0 {
            return Cut { timestamps: Timestamps::unshared(left), kept };
        }
        let mut cuts = self.cuts.lock();
        let cut = Cut { timestamps: Timestamps::shared(left), kept };
        if cuts.len() < MAX_SHARED_CUTS { cuts.entry(id).or_insert(cut).clone() } else { cut }
    }
}

/// Removes all samples that are not in `kept`, and leaves the timestamps to the caller.
fn keep(out: &mut SampleBuf, kept: &[Range<usize>]) {
    let mut len = 0;
    let mut histograms = Vec::new();
    for range in kept {
        let first = out.histograms.partition_point(|(i, _)| (*i as usize) < range.start);
        let of_range = out.histograms[first..].iter().take_while(|(i, _)| (*i as usize) < range.end);
        histograms.extend(of_range.map(|(i, h)| (*i - range.start as u32 + len as u32, h.clone())));
        out.values.copy_within(range.clone(), len);
        if !out.counts.is_empty() {
            out.counts.copy_within(range.clone(), len);
        }
        len += range.len();
    }
    out.values.truncate(len);
    out.counts.truncate(len);
    out.histograms = histograms;
}
