//! Operators that compute each value from the value at its place and from scalars. Labels stay; the planner removes names.

use std::fmt;
use std::sync::Arc;

use super::annotate;
use super::cells::{Cell, HISTOGRAM, leave_out_histograms};
use super::chunk::{ABSENT, Chunk, present};
use super::context::QueryContext;
use super::histogram_ops::{self, Operand, Outcome, Site, Summary};
use super::operator::{MapWorker, Operator, Worker};
use super::scalar::{at_step, side_params};
use super::scan::Param;
use crate::kernel::binary::{self, ElementOp};
use crate::kernel::calendar::{self, CalendarFn};
use crate::kernel::math::{self, MathFn};
use crate::result::{Grid, Result};

/// Functions of one value and some scalars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapFn {
    /// `abs(v)` and the like.
    Math(MathFn),
    /// `round(v, to)`
    Round,
    /// `clamp(v, min, max)`
    Clamp,
    /// `clamp_min(v, min)`
    ClampMin,
    /// `clamp_max(v, max)`
    ClampMax,
    /// `year(v)` and the like.
    Calendar(CalendarFn),
    /// `timestamp(v)` of what is not a selector.
    Timestamp,
    /// Value on the left, scalar on the right; the flag is `bool`.
    VectorScalar(ElementOp, bool),
    /// Scalar on the left, value on the right.
    ScalarVector(ElementOp, bool),
    /// The larger of value and scalar.
    MaxOf,
    /// The smaller of value and scalar.
    MinOf,
    /// `histogram_count(v)` and its kin: numbers of native histograms, nothing for floats.
    Summary(Summary),
    /// `v </ scalar`, or `>/` if the flag is set: a part of the buckets of native histograms, nothing for floats.
    Trim(bool),
    /// Nothing.
    Nothing,
}

/// Applies a [`MapFn`] to all values.
#[derive(Debug)]
pub struct Map {
    function: MapFn,
    params: Vec<Param>,
    grid: Grid,
    site: Site,
}

impl Map {
    /// A function without scalars.
    pub fn new(function: MapFn, grid: Grid) -> Self {
        Self { function, params: Vec::new(), grid, site: Site::default() }
    }

    /// A function with scalars; those that are [`Param::Input`] are the inputs after the first.
    pub fn with_params(function: MapFn, params: Vec<Param>, grid: Grid) -> Self {
        Self { function, params, grid, site: Site::default() }
    }

    /// The same at a place that annotations can name.
    pub fn at(self, site: Site) -> Self {
        Self { site, ..self }
    }
}

impl Operator for Map {
    fn name(&self) -> &'static str {
        "MapExec"
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fn={:?}", self.function)?;
        for param in &self.params {
            match param {
                Param::Known(values) if values.len() == 1 => write!(f, ", {}", values[0])?,
                Param::Known(_) => f.write_str(", <steps>")?,
                Param::Input => f.write_str(", <input>")?,
            }
        }
        Ok(())
    }

    fn steps(&self) -> usize {
        self.grid.len
    }

    fn parallel(&self) -> bool {
        true
    }

    fn start(&self, sides: Arc<Vec<Chunk>>, query: &Arc<QueryContext>) -> Result<Box<dyn Worker>> {
        let params = side_params(&self.params, &sides);
        let (function, grid, site, query) = (self.function, self.grid, self.site, Arc::clone(query));
        let mut spare: Vec<f64> = Vec::new();
        Ok(Box::new(MapWorker(move |mut chunk: Chunk| {
            if !chunk.cells.is_empty() {
                return Ok(map_histograms(function, &params, &grid, chunk, site, &query));
            }
            if matches!(function, MapFn::Trim(_)) && chunk.values.iter().any(|v| present(*v)) {
                annotate::incompatible_types(&query, site.span, site.symbol, "float", "float");
            }
            apply(function, &params, &grid, &mut chunk.values, &mut spare);
            Ok(chunk)
        })))
    }
}

/// Applies `function` to rows of values in place.
///
/// # Panics
/// If there are fewer scalars than the function has.
pub fn apply(function: MapFn, params: &[Vec<f64>], grid: &Grid, values: &mut Vec<f64>, spare: &mut Vec<f64>) {
    match function {
        MapFn::Math(f) => math::math(f, values),
        MapFn::Round => math::round(values, grid.len, &params[0]),
        MapFn::Clamp => math::clamp(values, grid.len, &params[0], &params[1]),
        MapFn::ClampMin => math::clamp_min(values, grid.len, &params[0]),
        MapFn::ClampMax => math::clamp_max(values, grid.len, &params[0]),
        MapFn::Calendar(f) => calendar::calendar(f, values),
        MapFn::Timestamp => math::timestamp(values, grid),
        MapFn::Summary(_) | MapFn::Trim(_) | MapFn::Nothing => values.fill(ABSENT),
        MapFn::MaxOf | MapFn::MinOf => {
            let combine = if function == MapFn::MaxOf { math::go_max } else { math::go_min };
            for (step, v) in values.iter_mut().enumerate() {
                *v = combine(*v, at_step(&params[0], step));
            }
        }
        MapFn::VectorScalar(op, return_bool) => {
            spare.resize(values.len(), 0.0);
            binary::vector_scalar(op, return_bool, values, &params[0], spare);
            std::mem::swap(values, spare);
        }
        MapFn::ScalarVector(op, return_bool) => {
            spare.resize(values.len(), 0.0);
            binary::scalar_vector(op, return_bool, &params[0], values, spare);
            std::mem::swap(values, spare);
        }
    }
}

/// [`apply`] to rows that have native histograms.
fn map_histograms(function: MapFn, params: &[Vec<f64>], grid: &Grid, mut chunk: Chunk, site: Site, query: &QueryContext) -> Chunk {
    let cells = std::mem::take(&mut chunk.cells);
    if function == MapFn::Timestamp {
        // Only asks whether there is a sample.
        apply(function, params, grid, &mut chunk.values, &mut Vec::new());
        return chunk;
    }
    leave_out_histograms(&mut chunk.values);
    apply(function, params, grid, &mut chunk.values, &mut Vec::new());
    for cell in cells {
        let scalar = params.first().map_or(f64::NAN, |p| at_step(p, cell.step as usize));
        let place = cell.row as usize * grid.len + cell.step as usize;
        match map_histogram(function, scalar, &cell, site, query) {
            Outcome::Nothing => {}
            Outcome::Float(v) => chunk.values[place] = v,
            Outcome::Histogram(histogram) => {
                chunk.values[place] = HISTOGRAM;
                chunk.cells.push(Cell { histogram: Arc::new(histogram), ..cell });
            }
        }
    }
    chunk
}

fn map_histogram(function: MapFn, scalar: f64, cell: &Cell, site: Site, query: &QueryContext) -> Outcome {
    let histogram = &*cell.histogram;
    match function {
        MapFn::Math(MathFn::Neg) => {
            let mut negative = histogram.clone();
            negative.scale(-1.0);
            Outcome::Histogram(negative)
        }
        MapFn::VectorScalar(op, return_bool) => {
            histogram_ops::binary(op, return_bool, Operand::Histogram(histogram), Operand::Float(scalar), site, query)
        }
        MapFn::ScalarVector(op, return_bool) => {
            histogram_ops::binary(op, return_bool, Operand::Float(scalar), Operand::Histogram(histogram), site, query)
        }
        MapFn::Summary(summary) => Outcome::Float(summary.of(histogram)),
        MapFn::Trim(lower) => Outcome::Histogram(histogram.trim(scalar, lower)),
        _ => Outcome::Nothing,
    }
}
