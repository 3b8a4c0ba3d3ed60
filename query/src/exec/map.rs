//! Operators that compute each value from the value at its place and from scalars. Labels stay; the planner removes names.

use std::fmt;
use std::sync::Arc;

use super::chunk::{ABSENT, Chunk};
use super::context::QueryContext;
use super::operator::{MapWorker, Operator, Worker};
use super::scalar::side_params;
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
    /// Nothing: functions of native histograms have no result for floats.
    NoFloats,
}

/// Applies a [`MapFn`] to all values.
#[derive(Debug)]
pub struct Map {
    function: MapFn,
    params: Vec<Param>,
    grid: Grid,
}

impl Map {
    /// A function without scalars.
    pub fn new(function: MapFn, grid: Grid) -> Self {
        Self { function, params: Vec::new(), grid }
    }

    /// A function with scalars; those that are [`Param::Input`] are the inputs after the first.
    pub fn with_params(function: MapFn, params: Vec<Param>, grid: Grid) -> Self {
        Self { function, params, grid }
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

    fn start(&self, sides: Arc<Vec<Chunk>>, _: &Arc<QueryContext>) -> Result<Box<dyn Worker>> {
        let params = side_params(&self.params, &sides);
        let (function, grid) = (self.function, self.grid);
        let mut spare: Vec<f64> = Vec::new();
        Ok(Box::new(MapWorker(move |mut chunk: Chunk| {
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
        MapFn::NoFloats => values.fill(ABSENT),
        MapFn::MaxOf | MapFn::MinOf => {
            let combine = if function == MapFn::MaxOf { math::go_max } else { math::go_min };
            for (step, v) in values.iter_mut().enumerate() {
                *v = combine(*v, params[0].get(step).or(params[0].first()).copied().unwrap_or(f64::NAN));
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
