//! Reads exemplars of selected series.

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int64Type, UInt32Type};
use parquet::file::statistics::Statistics;

use crate::reader::BlockReader;
use crate::reader::select::select;
use crate::{Exemplar, Labels, Matcher, Result, TimeRange};

impl BlockReader {
    pub(super) async fn read_exemplars(&self, matchers: &[Matcher], range: TimeRange) -> Result<Vec<(Labels, Vec<Exemplar>)>> {
        let mut wanted = Vec::new();
        for group in self.groups_for(matchers) {
            let series = self.series_group(group).await?;
            wanted.extend(select(&series, matchers).iter().map(|row| series.first_row() + row as u32));
        }
        let found = self.exemplars_of(&wanted, range).await?;
        let mut out = Vec::with_capacity(found.len());
        for (row, exemplars) in found {
            out.push((self.labels_of(row).await?, exemplars));
        }
        Ok(out)
    }

    /// Exemplars of series given by their ascending numbers.
    pub(super) async fn exemplars_of(&self, wanted: &[u32], range: TimeRange) -> Result<Vec<(u32, Vec<Exemplar>)>> {
        let mut found: Vec<(u32, Vec<Exemplar>)> = Vec::new();
        let Some(table) = self.exemplars.as_ref().filter(|_| !wanted.is_empty()) else { return Ok(Vec::new()) };
        for group in 0..table.metadata().num_row_groups() {
            let bounds = match table.metadata().row_group(group).column(0).statistics() {
                Some(Statistics::Int32(s)) => s.min_opt().zip(s.max_opt()).map(|(a, b)| (*a as u32, *b as u32)),
                _ => None,
            };
            let first = wanted.partition_point(|row| bounds.is_some_and(|(min, _)| *row < min));
            if wanted.get(first).is_none_or(|row| bounds.is_some_and(|(_, max)| *row > max)) {
                continue;
            }
            let batch = table.read(&*self.store, group, &[0, 1, 2, 3]).await?;
            let wrong = || table.corrupt("a column has another type");
            let series = batch.column(0).as_primitive_opt::<UInt32Type>().ok_or_else(wrong)?;
            let times = batch.column(1).as_primitive_opt::<Int64Type>().ok_or_else(wrong)?;
            let values = batch.column(2).as_primitive_opt::<Float64Type>().ok_or_else(wrong)?;
            let labels = batch.column(3).as_binary_opt::<i32>().ok_or_else(wrong)?;
            for i in 0..batch.num_rows() {
                let row = series.value(i);
                if !range.contains(times.value(i)) || wanted.binary_search(&row).is_err() {
                    continue;
                }
                let labels = Labels::from_bytes(labels.value(i)).map_err(|e| table.corrupt(e.to_string()))?;
                let exemplar = Exemplar { labels, value: values.value(i), timestamp_ms: times.value(i) };
                match found.last_mut() {
                    Some((last, exemplars)) if *last == row => exemplars.push(exemplar),
                    _ => found.push((row, vec![exemplar])),
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(found)
    }

    /// Labels of one series by its number in the block.
    async fn labels_of(&self, row: u32) -> Result<Labels> {
        let group = self.series_groups.partition_point(|g| g.first_row <= row).saturating_sub(1);
        let series = self.series_group(group).await?;
        let in_group = row.wrapping_sub(series.first_row()) as usize;
        if in_group >= series.rows() {
            return Err(self.series.corrupt(format!("series {row} is missing")));
        }
        Ok(series.arena(std::iter::once(in_group)).get(0).to_owned())
    }
}
