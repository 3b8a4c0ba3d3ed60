//! Reads the series of a partition in label order, from several sets at once: a series that is in several sets comes out
//! once, with all of its samples. Loads run ahead of reading, on the runtime for IO.

use std::ops::Range;
use std::sync::Arc;

use futures::FutureExt;
use isobar_block::merge::Join;
use isobar_block::{LabelsRef, SampleBuf, SeriesRun, SeriesSet, TimeRange};
use smallvec::SmallVec;
use tokio::task::JoinHandle;

use crate::exec::context::QueryContext;
use crate::plan::Selection;
use crate::result::{Error, Result};

/// Rows that are loaded at a time. Twice as many are in memory in their encoded form.
const LOAD_ROWS: usize = 4096;

/// Splits the series of a selection into at most `count` disjoint ranges of labels of about equal size; each is a range of
/// rows for each set.
pub fn partitions(selection: &Selection, count: usize) -> Vec<Vec<Range<usize>>> {
    let sets = &selection.sets;
    let Some(largest) = sets.iter().max_by_key(|s| s.len()) else {
        return vec![Vec::new()];
    };
    let count = count.clamp(1, largest.len().max(1));
    let mut starts: Vec<usize> = vec![0; sets.len()];
    let mut out = Vec::with_capacity(count);
    for i in 1..=count {
        let ends: Vec<usize> = if i == count {
            sets.iter().map(|s| s.len()).collect()
        } else {
            let border = largest.labels(i * largest.len() / count);
            sets.iter().map(|s| first_not_below(&**s, border)).collect()
        };
        out.push(starts.iter().zip(&ends).map(|(start, end)| *start..*end).collect());
        starts = ends;
    }
    out
}

fn first_not_below(set: &dyn SeriesSet, border: LabelsRef<'_>) -> usize {
    let (mut low, mut high) = (0, set.len());
    while low < high {
        let middle = low + (high - low) / 2;
        if set.labels(middle) < border {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// The series of one partition, one after the other.
pub struct SeriesReader {
    cursors: Vec<Cursor>,
    /// Whether the first loads were begun; they run side by side.
    begun: bool,
    /// The cursors that stand at the current series, ascending.
    current: SmallVec<[usize; 4]>,
    samples: SampleBuf,
    other: SampleBuf,
    join: Join,
    query: Arc<QueryContext>,
}

impl SeriesReader {
    /// A reader of `rows` of each set of the selection.
    pub fn new(selection: &Selection, rows: &[Range<usize>], query: Arc<QueryContext>) -> Self {
        let cursors = selection
            .sets
            .iter()
            .zip(rows)
            .filter(|(_, rows)| !rows.is_empty())
            .map(|(set, rows)| Cursor {
                set: Arc::clone(set),
                range: selection.range,
                next: rows.start,
                end: rows.end,
                run: None,
                loaded: rows.start,
                ahead: None,
            })
            .collect();
        Self {
            cursors,
            begun: false,
            current: SmallVec::new(),
            samples: SampleBuf::default(),
            other: SampleBuf::default(),
            join: Join::default(),
            query,
        }
    }

    /// Goes to the next series, waiting for its data if they are not there yet. False at the end.
    ///
    /// # Errors
    /// Those of loading.
    pub async fn advance(&mut self) -> Result<bool> {
        if !std::mem::replace(&mut self.begun, true) {
            for cursor in &mut self.cursors {
                cursor.ahead = Some(cursor.begin(cursor.next, &self.query));
            }
        }
        for i in self.current.drain(..) {
            self.cursors[i].next += 1;
        }
        if let [only] = self.cursors.as_slice() {
            if only.next < only.end {
                self.current.push(0);
            }
        } else {
            self.find_least();
        }
        for i in &self.current {
            let cursor = &mut self.cursors[*i];
            if cursor.next >= cursor.loaded {
                cursor.load(&self.query).await?;
            }
        }
        Ok(!self.current.is_empty())
    }

    fn find_least(&mut self) {
        let mut least: Option<LabelsRef<'_>> = None;
        for (i, cursor) in self.cursors.iter().enumerate() {
            if cursor.next >= cursor.end {
                continue;
            }
            let labels = cursor.set.labels(cursor.next);
            match least.map(|l| labels.cmp(&l)) {
                Some(std::cmp::Ordering::Greater) => continue,
                Some(std::cmp::Ordering::Equal) => {}
                Some(std::cmp::Ordering::Less) | None => {
                    self.current.clear();
                    least = Some(labels);
                }
            }
            self.current.push(i);
        }
    }

    /// Decodes the current series, and gives its labels with it.
    ///
    /// # Errors
    /// If its data are corrupt.
    ///
    /// # Panics
    /// If there is no current series.
    pub fn read(&mut self) -> Result<(LabelsRef<'_>, &SampleBuf)> {
        for (nth, i) in self.current.iter().enumerate() {
            let target = if nth == 0 { &mut self.samples } else { &mut self.other };
            self.cursors[*i].read(target)?;
            if nth > 0 {
                self.join.join(&mut self.samples, &mut self.other);
            }
        }
        let cursor = &self.cursors[self.current[0]];
        Ok((cursor.set.labels(cursor.next), &self.samples))
    }
}

struct Cursor {
    set: Arc<dyn SeriesSet>,
    range: TimeRange,
    next: usize,
    end: usize,
    run: Option<Box<dyn SeriesRun>>,
    /// One past the last row of `run`.
    loaded: usize,
    ahead: Option<Ahead>,
}

/// A load that was begun.
enum Ahead {
    Done(isobar_block::Result<Box<dyn SeriesRun>>),
    Running(Task),
}

/// A task that ends when nobody waits for it any more.
struct Task(JoinHandle<isobar_block::Result<Box<dyn SeriesRun>>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Cursor {
    /// Makes the run that holds row `next`, and begins to load the one after it.
    async fn load(&mut self, query: &Arc<QueryContext>) -> Result<()> {
        let end = (self.next + LOAD_ROWS).min(self.end);
        let ahead = match self.ahead.take() {
            Some(ahead) => ahead,
            None => self.begin(self.next, query),
        };
        self.run = None;
        let run = match ahead {
            Ahead::Done(run) => run?,
            Ahead::Running(mut task) => match (&mut task.0).await {
                Ok(run) => run?,
                Err(e) if e.is_cancelled() => return Err(Error::Canceled),
                Err(e) => return Err(Error::Internal(format!("loading series: {e}"))),
            },
        };
        self.run = Some(run);
        self.loaded = end;
        if end < self.end {
            self.ahead = Some(self.begin(end, query));
        }
        Ok(())
    }

    /// Begins to load the run that starts at `row`.
    fn begin(&self, row: usize, query: &Arc<QueryContext>) -> Ahead {
        let (set, range, rows) = (Arc::clone(&self.set), self.range, row..(row + LOAD_ROWS).min(self.end));
        let mut loading = Box::pin(async move { set.load(rows, range).await });
        // What is in memory already is there at the first poll, and needs no task on the other runtime.
        let _entered = query.io().enter();
        match loading.as_mut().now_or_never() {
            Some(run) => Ahead::Done(run),
            None => Ahead::Running(Task(query.io().spawn(loading))),
        }
    }

    fn read(&mut self, out: &mut SampleBuf) -> Result<()> {
        let run = self.run.as_mut().ok_or_else(|| Error::Internal("a series was read before it was loaded".into()))?;
        Ok(run.read(self.next, out)?)
    }
}
