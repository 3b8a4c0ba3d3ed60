//! Walks through the series of a block in runs of metric names that fit into memory, as whoever rewrites blocks does.
//!
//! Unlike a query, a walk sees every series once, so that label sets are not cached, and it needs to know beforehand how many
//! series each name has.

use std::ops::RangeInclusive;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use arrow::array::AsArray;
use arrow::datatypes::UInt8Type;

use super::rollup::RollupSet;
use super::run::{BlockSet, EncodedRun, Segment};
use super::select::Selection;
use super::series::SeriesGroup;
use super::{BlockReader, CONCURRENT_READS};
use crate::labels::METRIC_NAME;
use crate::writer::{HELP_COLUMN, METRIC_NAME_COLUMN, TYPE_COLUMN, UNIT_COLUMN};
use crate::{Exemplar, Labels, LabelsRef, Metadata, MetricType, Result, SeriesSet, TimeRange};

/// A run of series of a block that have one metric name and the same metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRun {
    /// The metric name; "" for series without one.
    pub name: String,
    /// How many series follow each other.
    pub series: u64,
    /// What the metric is, if the block knows.
    pub metadata: Option<Metadata>,
}

/// Says of a series of a row group whether it is wanted.
pub type SeriesFilter<'a> = dyn Fn(usize, LabelsRef<'_>) -> bool + Send + Sync + 'a;

/// Which series of a block are wanted.
pub struct Pick<'a> {
    /// First and last metric name.
    pub names: RangeInclusive<&'a str>,
    /// Which row groups of series are looked at, by number.
    pub group: &'a (dyn Fn(usize) -> bool + Send + Sync),
    /// Which of their series are taken; is told the row group too. All, if there is none.
    pub series: Option<&'a SeriesFilter<'a>>,
}

/// The series that a [`Pick`] takes.
#[derive(Clone)]
pub struct Picked {
    reader: Arc<BlockReader>,
    set: Arc<BlockSet>,
}

impl Picked {
    /// Them as a set, for all time.
    pub fn set(&self) -> Arc<dyn SeriesSet> {
        self.set.clone()
    }

    /// Their buckets; `None` if the block holds raw samples.
    pub fn buckets(&self) -> Option<Arc<RollupSet>> {
        RollupSet::new(&self.reader, &self.set)
    }

    /// The chunks of some of them as they are, for all time.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] or [`crate::Error::Store`].
    pub async fn load_encoded(&self, rows: std::ops::Range<usize>) -> Result<EncodedRun> {
        self.set.load_encoded(rows).await
    }

    /// Their exemplars in `range`, by series, in time order.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] or [`crate::Error::Store`].
    pub async fn exemplars(&self, range: TimeRange) -> Result<Vec<(Labels, Vec<Exemplar>)>> {
        if self.reader.meta.exemplars == 0 || !self.reader.meta.overlaps(range) {
            return Ok(Vec::new());
        }
        let rows = self.set.series(0..self.set.len());
        let found = self.reader.exemplars_of(&rows, range).await?;
        let place = |row: &u32| rows.binary_search(row).expect("only exemplars of these rows are returned");
        Ok(found.into_iter().map(|(row, exemplars)| (self.set.labels(place(&row)).to_owned(), exemplars)).collect())
    }
}

impl BlockReader {
    /// Hands every run of series of one name to `see`, in order.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] or [`crate::Error::Store`].
    pub async fn walk_names(&self, mut see: impl FnMut(NameRun) + Send) -> Result<()> {
        let Ok(name) = self.series.column(METRIC_NAME_COLUMN) else {
            let series = self.meta.series;
            see(NameRun { name: String::new(), series, metadata: None });
            return Ok(());
        };
        let mut columns = vec![name, self.series.column(TYPE_COLUMN)?, self.series.column(HELP_COLUMN)?, self.series.column(UNIT_COLUMN)?];
        columns.sort_unstable();
        let columns = &columns;
        let groups = stream::iter(0..self.series_groups.len());
        let mut batches =
            groups.map(|group| async move { self.series.read(&*self.store, group, columns).await }).buffered(CONCURRENT_READS);
        while let Some(batch) = batches.try_next().await? {
            let column = |name: &str| batch.column_by_name(name).ok_or_else(|| self.series.corrupt(format!("column {name:?} is missing")));
            let types = column(TYPE_COLUMN)?.as_primitive_opt::<UInt8Type>().ok_or_else(|| self.series.corrupt("types are not numbers"))?;
            let texts = [METRIC_NAME_COLUMN, HELP_COLUMN, UNIT_COLUMN].map(|n| column(n).and_then(|a| self.text_codes(a.as_ref())));
            let [names, helps, units] = texts;
            let (names, helps, units) = (names?, helps?, units?);
            let text = |of: &(Vec<Option<u32>>, Vec<String>), row: usize| of.0[row].map_or(String::new(), |c| of.1[c as usize].clone());
            let key = |row: usize| (names.0[row], types.value(row), helps.0[row], units.0[row]);
            let mut start = 0;
            for end in 1..=batch.num_rows() {
                if end < batch.num_rows() && key(end) == key(start) {
                    continue;
                }
                let metric_type = MetricType::from_number(i32::from(types.value(start)));
                let metadata = Metadata { metric_type, help: text(&helps, start), unit: text(&units, start) };
                let metadata = (metadata != Metadata::default()).then_some(metadata);
                see(NameRun { name: text(&names, start), series: (end - start) as u64, metadata });
                start = end;
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// The wanted series. Takes memory for the labels of what is picked, and for the time of the call for those of a few row
    /// groups.
    ///
    /// # Errors
    /// [`crate::Error::Corrupt`] or [`crate::Error::Store`].
    pub async fn pick(self: &Arc<Self>, pick: &Pick<'_>) -> Result<Picked> {
        let names = (pick.names.start().as_bytes(), pick.names.end().as_bytes());
        let may_match = |group: &usize| {
            let bounds = self.series_groups[*group].names.as_ref();
            bounds.is_none_or(|(min, max)| min.as_slice() <= names.1 && names.0 <= max.as_slice()) && (pick.group)(*group)
        };
        let groups = (0..self.series_groups.len()).filter(may_match).collect::<Vec<_>>();
        let segments = stream::iter(groups).map(|group| self.pick_in_group(group, pick)).buffered(CONCURRENT_READS);
        let segments = segments.try_filter_map(|s| async move { Ok(s) }).try_collect().await?;
        Ok(Picked { reader: self.clone(), set: Arc::new(BlockSet::new(self.clone(), segments)) })
    }

    async fn pick_in_group(&self, group: usize, pick: &Pick<'_>) -> Result<Option<Segment>> {
        let series = self.series_group(group).await?;
        let run = between(&series, &pick.names);
        let arena = series.arena(run.clone());
        let segment = match pick.series {
            None => Segment::new(series, Selection::Run(run), Arc::new(arena), false),
            Some(wanted) => {
                let rows: Vec<u16> = run.clone().filter(|row| wanted(group, arena.get(row - run.start))).map(|row| row as u16).collect();
                let arena = series.arena(rows.iter().map(|row| usize::from(*row)));
                Segment::new(series, Selection::Rows(rows), Arc::new(arena), false)
            }
        };
        tokio::task::yield_now().await;
        Ok((!segment.is_empty()).then_some(segment))
    }
}

/// The rows whose metric name is in `names`.
fn between(group: &SeriesGroup, names: &RangeInclusive<&str>) -> std::ops::Range<usize> {
    let Some(column) = group.column(METRIC_NAME) else {
        return if names.start().is_empty() { 0..group.rows() } else { 0..0 };
    };
    let start = column.codes.partition_point(|c| column.value(*c).as_bytes() < names.start().as_bytes());
    let len = column.codes[start..].partition_point(|c| column.value(*c).as_bytes() <= names.end().as_bytes());
    start..start + len
}
