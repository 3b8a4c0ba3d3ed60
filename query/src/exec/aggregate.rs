//! `sum`, `avg`, `min`, `max`, `count`, `group`, `stddev` and `stdvar` as aggregate functions of DataFusion whose values are
//! whole vectors: state is one or a few columns of vectors, so that partial results travel as record batches. Sums of native
//! histograms are a column of their own ([`histograms`]).

mod histograms;

use std::hash::Hash;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, StructArray};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{ScalarValue, internal_err, not_impl_err};
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility};

use super::annotate::{self, Combining};
use super::cells::{CELLS_TYPE, Cell, HISTOGRAM, cells_array, cells_of, leave_out_histograms};
use super::chunk::{ABSENT, flat_values, present, released_array, result_fields, result_type, values_type};
use super::context::QueryContext;
use super::release::Values;
use crate::kernel::aggregate::{self as kernel, Init};
use crate::promql::ast::Span;

use histograms::HistogramSums;

/// Values of results that are computed between two looks at the cancel flag.
const FINISH_VALUES: usize = 32_768;

/// The aggregations that keep one vector of state, or a few, for each group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VectorAggregate {
    Sum,
    Avg,
    Min,
    Max,
    Count,
    Group,
    Stddev,
    Stdvar,
}

impl VectorAggregate {
    /// The word of PromQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Min => "min",
            Self::Max => "max",
            Self::Count => "count",
            Self::Group => "group",
            Self::Stddev => "stddev",
            Self::Stdvar => "stdvar",
        }
    }

    fn state(self) -> &'static [Init] {
        match self {
            Self::Sum => &kernel::SUM_STATE,
            Self::Avg => &kernel::AVG_STATE,
            Self::Min | Self::Max => &kernel::EXTREME_STATE,
            Self::Count => &kernel::COUNT_STATE,
            Self::Group => &kernel::GROUP_STATE,
            Self::Stddev | Self::Stdvar => &kernel::VARIANCE_STATE,
        }
    }

    /// The function for vectors of `steps` values, of which about `groups` are made. It is called with a value column and a
    /// histogram column.
    pub fn function(self, steps: usize, groups: usize, place: Place) -> Arc<AggregateUDF> {
        Arc::new(AggregateUDF::from(VectorFunction {
            aggregate: self,
            steps,
            groups,
            place,
            signature: Signature::any(2, Volatility::Immutable),
        }))
    }
}

/// Where annotations go, and what they are about.
#[derive(Clone, Debug)]
pub struct Place {
    /// The query.
    pub query: Arc<QueryContext>,
    /// What is aggregated.
    pub span: Span,
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.query, &other.query) && self.span == other.span
    }
}

impl Eq for Place {}

impl Hash for Place {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.span.hash(state);
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct VectorFunction {
    aggregate: VectorAggregate,
    steps: usize,
    groups: usize,
    place: Place,
    signature: Signature,
}

impl AggregateUDFImpl for VectorFunction {
    fn name(&self) -> &str {
        self.aggregate.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(result_type(self.steps))
    }

    fn is_nullable(&self) -> bool {
        false
    }

    fn accumulator(&self, _: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        not_impl_err!("{} of vectors is always grouped", self.aggregate.name())
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let field = |i| Arc::new(Field::new(format!("{}[{i}]", args.name), values_type(self.steps), false));
        let histograms = Arc::new(Field::new(format!("{}[histograms]", args.name), CELLS_TYPE, true));
        Ok((0..self.aggregate.state().len()).map(field).chain([histograms]).collect())
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(&self, _: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(VectorAccumulator {
            aggregate: self.aggregate,
            steps: self.steps,
            expected_groups: self.groups,
            groups: 0,
            columns: self.aggregate.state().iter().map(|_| Values::default()).collect(),
            histograms: HistogramSums::default(),
            place: self.place.clone(),
            masked: Vec::new(),
        }))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        internal_err!("{} has no value without groups ({data_type})", self.aggregate.name())
    }
}

/// State of all groups: for each state column one vector after the other.
struct VectorAccumulator {
    aggregate: VectorAggregate,
    steps: usize,
    expected_groups: usize,
    groups: usize,
    columns: Vec<Values>,
    histograms: HistogramSums,
    place: Place,
    masked: Vec<f64>,
}

impl VectorAccumulator {
    fn grow(&mut self, groups: usize) {
        let room = groups.max(self.expected_groups) * self.steps;
        for (column, init) in self.columns.iter_mut().zip(self.aggregate.state()) {
            if column.capacity() == 0 {
                column.reserve_exact(room);
            }
            column.resize(groups * self.steps, init.value());
        }
        self.groups = groups;
    }

    fn update(&mut self, group: usize, row: &[f64]) {
        let at = group * self.steps..(group + 1) * self.steps;
        match (self.aggregate, self.columns.as_mut_slice()) {
            (VectorAggregate::Sum, [sum, comp]) => kernel::sum_update(&mut sum[at.clone()], &mut comp[at], row),
            (VectorAggregate::Avg, [sum, comp, count]) => {
                kernel::avg_update(&mut sum[at.clone()], &mut comp[at.clone()], &mut count[at], row)
            }
            (VectorAggregate::Min, [best]) => kernel::min_update(&mut best[at], row),
            (VectorAggregate::Max, [best]) => kernel::max_update(&mut best[at], row),
            (VectorAggregate::Count, [count]) => kernel::count_update(&mut count[at], row),
            (VectorAggregate::Group, [group]) => kernel::group_update(&mut group[at], row),
            (VectorAggregate::Stddev | VectorAggregate::Stdvar, [count, mean, m2]) => {
                kernel::variance_update(&mut count[at.clone()], &mut mean[at.clone()], &mut m2[at], row);
            }
            _ => unreachable!("the number of columns is that of the aggregation's state"),
        }
    }

    fn merge(&mut self, group: usize, rows: &[&[f64]]) {
        let at = group * self.steps..(group + 1) * self.steps;
        match (self.aggregate, self.columns.as_mut_slice(), rows) {
            (VectorAggregate::Sum, [sum, comp], [s, c]) => kernel::sum_merge(&mut sum[at.clone()], &mut comp[at], s, c),
            (VectorAggregate::Avg, [sum, comp, count], [s, c, n]) => {
                kernel::avg_merge([&mut sum[at.clone()], &mut comp[at.clone()], &mut count[at]], [s, c, n]);
            }
            (VectorAggregate::Min, [best], [b]) => kernel::min_update(&mut best[at], b),
            (VectorAggregate::Max, [best], [b]) => kernel::max_update(&mut best[at], b),
            (VectorAggregate::Count, [count], [n]) => kernel::count_merge(&mut count[at], n),
            (VectorAggregate::Group, [group], [g]) => kernel::group_update(&mut group[at], g),
            (VectorAggregate::Stddev | VectorAggregate::Stdvar, [count, mean, m2], [n, m, s]) => {
                kernel::variance_merge(&mut count[at.clone()], &mut mean[at.clone()], &mut m2[at], n, m, s);
            }
            _ => unreachable!("the number of columns is that of the aggregation's state"),
        }
    }

    /// Takes the state of the first groups out, column by column.
    fn take(&mut self, emit_to: EmitTo) -> Vec<Values> {
        let groups = self.emitted(emit_to);
        let emit = match emit_to {
            EmitTo::All => EmitTo::All,
            EmitTo::First(n) => EmitTo::First(n * self.steps),
        };
        self.groups -= groups;
        self.columns.iter_mut().map(|column| emit.take_needed(column).into()).collect()
    }

    /// The results, in the place of the first column: a new one would take longer to come by than to fill.
    fn finish(&self, mut columns: Vec<Values>) -> Result<Values> {
        let mut results = vec![ABSENT; FINISH_VALUES.min(columns[0].len())];
        if !matches!(self.aggregate, VectorAggregate::Min | VectorAggregate::Max | VectorAggregate::Group) {
            for from in (0..columns[0].len()).step_by(FINISH_VALUES) {
                self.place.query.check_canceled()?;
                let part = from..columns[0].len().min(from + FINISH_VALUES);
                let out = &mut results[..part.len()];
                self.finish_part(&columns, part.clone(), out);
                columns[0][part].copy_from_slice(out);
            }
        }
        Ok(columns.swap_remove(0))
    }

    fn finish_part(&self, columns: &[Values], part: Range<usize>, out: &mut [f64]) {
        let columns: Vec<&[f64]> = columns.iter().map(|column| &column[part.clone()]).collect();
        match (self.aggregate, columns.as_slice()) {
            (VectorAggregate::Sum, [sum, comp]) => kernel::sum_finish(sum, comp, out),
            (VectorAggregate::Avg, [sum, comp, count]) => kernel::avg_finish(sum, comp, count, out),
            (VectorAggregate::Count, [count]) => kernel::count_finish(count, out),
            (VectorAggregate::Stddev, [count, _, m2]) => kernel::stddev_finish(count, m2, out),
            (VectorAggregate::Stdvar, [count, _, m2]) => kernel::stdvar_finish(count, m2, out),
            _ => unreachable!("the state of the others is their result"),
        }
    }

    /// Takes the histograms of a batch into account; gives its values as the float state should see them.
    fn update_histograms(&mut self, flat: &[f64], cells: &[Cell], group_indices: &[usize]) {
        self.masked.clear();
        self.masked.extend_from_slice(flat);
        match self.aggregate {
            // These only ask whether there is a sample.
            VectorAggregate::Count | VectorAggregate::Group => return,
            VectorAggregate::Sum | VectorAggregate::Avg => {
                for cell in cells {
                    self.histograms.update(group_indices[cell.row as usize], std::slice::from_ref(cell));
                }
            }
            other => annotate::ignored_in_aggregation(&self.place.query, self.place.span, other.name()),
        }
        leave_out_histograms(&mut self.masked);
    }

    /// Puts histograms into the results; a group with both floats and histograms has none.
    fn finish_histograms(&mut self, emit_to: EmitTo, groups: usize, values: &mut [f64]) -> Vec<Cell> {
        let mut cells = Vec::new();
        for (group, step, histogram) in self.histograms.finish(emit_to, groups, self.aggregate == VectorAggregate::Avg) {
            let value = &mut values[group * self.steps + step as usize];
            if present(*value) {
                annotate::mixed_in_aggregation(&self.place.query, self.place.span);
                *value = ABSENT;
            } else if let Some(histogram) = histogram {
                *value = HISTOGRAM;
                cells.push(Cell { row: group as u32, step, histogram });
            }
        }
        let notes = std::mem::take(&mut self.histograms.notes);
        annotate::window_notes(&self.place.query, self.place.span, notes, Combining::Aggregation(""));
        cells
    }

    fn emitted(&self, emit_to: EmitTo) -> usize {
        match emit_to {
            EmitTo::All => self.groups,
            EmitTo::First(n) => n,
        }
    }
}

impl GroupsAccumulator for VectorAccumulator {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.place.query.check_canceled()?;
        self.grow(total_num_groups);
        if filter.is_some() {
            return internal_err!("aggregations of vectors have no filter");
        }
        let flat = flat_values(&values[0])?.values();
        let cells = cells_of(&values[1])?;
        if cells.is_empty() {
            for (row, group) in flat.chunks_exact(self.steps).zip(group_indices) {
                self.update(*group, row);
            }
            return Ok(());
        }
        self.update_histograms(flat, &cells, group_indices);
        let masked = std::mem::take(&mut self.masked);
        for (row, group) in masked.chunks_exact(self.steps).zip(group_indices) {
            self.update(*group, row);
        }
        self.masked = masked;
        Ok(())
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.place.query.check_canceled()?;
        self.grow(total_num_groups);
        let Some((histograms, values)) = values.split_last() else {
            return internal_err!("an aggregation has no state");
        };
        self.histograms.merge(histograms, group_indices)?;
        let columns = values.iter().map(|v| Ok(&flat_values(v)?.values()[..])).collect::<Result<Vec<&[f64]>>>()?;
        let mut rows: Vec<&[f64]> = Vec::with_capacity(columns.len());
        for (i, group) in group_indices.iter().enumerate() {
            rows.clear();
            rows.extend(columns.iter().map(|c| &c[i * self.steps..(i + 1) * self.steps]));
            self.merge(*group, &rows);
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let groups = self.emitted(emit_to);
        let columns = self.take(emit_to);
        let mut values = self.finish(columns)?;
        let cells = self.finish_histograms(emit_to, groups, &mut values);
        let columns: Vec<ArrayRef> = vec![Arc::new(released_array(self.steps, values)?), cells_array(groups, &cells)];
        Ok(Arc::new(StructArray::try_new(result_fields(self.steps), columns, None)?))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let histograms = self.histograms.state(emit_to, self.emitted(emit_to));
        let notes = std::mem::take(&mut self.histograms.notes);
        annotate::window_notes(&self.place.query, self.place.span, notes, Combining::Aggregation(""));
        let columns = self.take(emit_to).into_iter().map(|column| Ok(Arc::new(released_array(self.steps, column)?) as ArrayRef));
        columns.chain([Ok(histograms)]).collect()
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows = values[0].len();
        let mut single = Self {
            aggregate: self.aggregate,
            steps: self.steps,
            expected_groups: rows,
            groups: 0,
            columns: self.columns.iter().map(|_| Values::default()).collect(),
            histograms: HistogramSums::default(),
            place: self.place.clone(),
            masked: Vec::new(),
        };
        let groups: Vec<usize> = (0..rows).collect();
        single.update_batch(values, &groups, filter, rows)?;
        single.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        self.columns.iter().map(|c| c.capacity() * size_of::<f64>()).sum::<usize>() + self.histograms.size_bytes()
    }
}
