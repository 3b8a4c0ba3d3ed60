//! Which labels and values there are, and what metrics are: answered from dictionaries where that is enough.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{UInt8Type, UInt32Type};

use crate::reader::select::{Selection, select};
use crate::reader::series::SeriesGroup;
use crate::reader::{BlockReader, MetadataByName};
use crate::writer::{HELP_COLUMN, METRIC_NAME_COLUMN, TYPE_COLUMN, UNIT_COLUMN};
use crate::{Matcher, Metadata, MetricType, Result};

impl BlockReader {
    /// Names of the labels of matching series.
    pub(super) async fn names(&self, matchers: &[Matcher]) -> Result<Vec<String>> {
        let mut out = BTreeSet::new();
        for group in self.groups_for(matchers) {
            let group = self.series_group(group).await?;
            let rows = select(&group, matchers);
            if rows.is_empty() {
                continue;
            }
            for column in group.columns() {
                if !out.contains(&column.name) && (rows.len() == group.rows() || rows.iter().any(|r| column.codes[r] != 0)) {
                    out.insert(column.name.clone());
                }
            }
            for row in rows.iter() {
                out.extend(group.rest(row).iter().map(|(name, _)| name.to_owned()));
            }
            tokio::task::yield_now().await;
        }
        Ok(out.into_iter().collect())
    }

    /// Values of one label of matching series.
    pub(super) async fn values(&self, name: &str, matchers: &[Matcher]) -> Result<Vec<String>> {
        let mut out = BTreeSet::new();
        for group in self.groups_for(matchers) {
            let group = self.series_group(group).await?;
            let rows = select(&group, matchers);
            values_in(&group, name, &rows, &mut out);
            tokio::task::yield_now().await;
        }
        Ok(out.into_iter().collect())
    }

    /// Metadata of all metrics, by name.
    pub(super) async fn read_metadata(&self) -> Result<Arc<MetadataByName>> {
        let mut out: BTreeMap<String, Vec<Metadata>> = BTreeMap::new();
        let Ok(name) = self.series.column(METRIC_NAME_COLUMN) else { return Ok(Arc::default()) };
        let mut columns = vec![name, self.series.column(TYPE_COLUMN)?, self.series.column(HELP_COLUMN)?, self.series.column(UNIT_COLUMN)?];
        columns.sort_unstable();
        for group in 0..self.series_groups.len() {
            let batch = self.series.read(&*self.store, group, &columns).await?;
            let column = |name: &str| batch.column_by_name(name).ok_or_else(|| self.series.corrupt(format!("column {name:?} is missing")));
            let types = column(TYPE_COLUMN)?.as_primitive_opt::<UInt8Type>().ok_or_else(|| self.series.corrupt("types are not numbers"))?;
            let texts = [METRIC_NAME_COLUMN, HELP_COLUMN, UNIT_COLUMN].map(|n| column(n).and_then(|a| self.text_codes(a.as_ref())));
            let [names, helps, units] = texts;
            let (names, helps, units) = (names?, helps?, units?);
            let mut last = None;
            for row in 0..batch.num_rows() {
                let key = (names.0[row], types.value(row), helps.0[row], units.0[row]);
                if last == Some(key) || key.0.is_none() || (key.1 == 0 && key.2.is_none() && key.3.is_none()) {
                    continue;
                }
                last = Some(key);
                let text =
                    |of: &(Vec<Option<u32>>, Vec<String>), code: Option<u32>| code.map_or(String::new(), |c| of.1[c as usize].clone());
                let metadata = Metadata {
                    metric_type: MetricType::from_number(i32::from(key.1)),
                    help: text(&helps, key.2),
                    unit: text(&units, key.3),
                };
                let known = out.entry(text(&names, key.0)).or_default();
                if !known.contains(&metadata) {
                    known.push(metadata);
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(Arc::new(out.into_iter().collect()))
    }

    /// Codes and values of a dictionary column of text.
    pub(super) fn text_codes(&self, array: &dyn Array) -> Result<(Vec<Option<u32>>, Vec<String>)> {
        let dictionary = array.as_dictionary_opt::<UInt32Type>().ok_or_else(|| self.series.corrupt("a column is not text"))?;
        let values = dictionary.values().as_string_opt::<i32>().ok_or_else(|| self.series.corrupt("a column is not text"))?;
        let values: Vec<String> = values.iter().map(|v| v.unwrap_or("").to_owned()).collect();
        let codes: Vec<Option<u32>> = dictionary.keys().iter().collect();
        if codes.iter().flatten().any(|c| *c as usize >= values.len()) {
            return Err(self.series.corrupt("a number stands for no text"));
        }
        Ok((codes, values))
    }
}

fn values_in(group: &SeriesGroup, name: &str, rows: &Selection, out: &mut BTreeSet<String>) {
    if let Some(column) = group.column(name) {
        let mut wanted = vec![rows.len() == group.rows(); column.len()];
        if rows.len() < group.rows() {
            rows.iter().for_each(|row| wanted[column.codes[row] as usize] = true);
        }
        let codes = (1..column.len()).filter(|c| wanted[*c]).map(|c| column.value(c as u16));
        for value in codes {
            if !out.contains(value) {
                out.insert(value.to_owned());
            }
        }
    } else if group.has_in_rest(name) {
        out.extend(rows.iter().filter_map(|row| group.rest(row).get(name)).map(str::to_owned));
    }
}
